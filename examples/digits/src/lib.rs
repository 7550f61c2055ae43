//! A handwritten-digit detector: the model is compiled into whatever links this crate.

use infer_embed::model;
use infer_embed::vision::{self, Detection, Letterbox, Normalization, RgbImage, yolo};

/// Finds handwritten digits on a page of 256×256 pixels; `train.py` made it.
#[model("digits.onnx")]
pub struct Digits;

/// Pixels between the cells of the detector's grid.
const STRIDE: f32 = 8.0;

/// Boxes of one digit that overlap more than this are one box.
const IOU_THRESHOLD: f32 = 0.45;

/// The names of the classes, by number.
pub const NAMES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// A page as the detector takes it: the tensor, and the way back to the page's own pixels.
pub struct Page {
    letterbox: Letterbox,
    tensor: Box<vision::ImageTensor<3, 256, 256>>,
}

impl Page {
    /// Scales a picture of any size into the detector's input.
    ///
    /// # Errors
    ///
    /// If the picture is empty or too large.
    pub fn new(picture: &RgbImage) -> vision::Result<Page> {
        let letterbox = Letterbox::new(picture.dimensions(), (256, 256))?;
        let tensor = Normalization::UNIT.tensor(&letterbox.apply(picture)?)?;
        Ok(Page { letterbox, tensor })
    }
}

impl Digits {
    /// The digits on a page, the most certain first, in the pixels of the picture it was made from.
    ///
    /// # Errors
    ///
    /// As [`Digits::infer`].
    pub fn detect(&self, page: &Page, threshold: f32) -> infer_embed::Result<Vec<Detection>> {
        let outputs = self.infer(&page.tensor)?;
        let mut found =
            vision::nms(yolo::decode_anchor_free(&outputs.head, STRIDE, threshold), IOU_THRESHOLD);
        for detection in &mut found {
            detection.bbox = page.letterbox.to_picture(detection.bbox);
        }
        Ok(found)
    }
}
