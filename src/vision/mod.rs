//! What stands around a vision model: pictures in, boxes out (feature `vision`).
//!
//! [`load`] reads a picture, [`Letterbox`] or [`resize`] brings it to the size of the model's input, and
//! [`Normalization`] makes the tensor, `[1, C, H, W]` on the heap. [`yolo`] turns the outputs of a detector into
//! [`Detection`]s, [`nms`](nms()) leaves one for each object, [`Letterbox::to_picture`] maps them back, and
//! [`draw_detections`] and [`save_png`] show them. [`metrics`] measures a detector against known objects.
//!
//! Pictures are [`RgbImage`]s of the `image` crate, which is re-exported, so that both are of one version.
//!
//! # Example
//!
//! A detector for 416x416 pixels with one head (YOLOX form, 80 classes, stride 32), over any picture:
//!
//! ```no_run
//! use infer_embed::vision::{self, Letterbox, Normalization, yolo};
//!
//! type Input = [[[[f32; 416]; 416]; 3]; 1];
//! type Head = [[[[f32; 13]; 13]; 85]; 1];
//!
//! fn find(detector: impl Fn(&Input) -> Box<Head>, names: &[&str]) -> vision::Result<()> {
//!     let mut picture = vision::load("street.jpg")?;
//!     let letterbox = Letterbox::new(picture.dimensions(), (416, 416))?;
//!     let input: Box<Input> = Normalization::NONE.tensor(&letterbox.apply(&picture)?)?;
//!
//!     let head = detector(&input);
//!
//!     let mut found = vision::nms(yolo::decode_anchor_free(&head, 32.0, 0.5), 0.45);
//!     for detection in &mut found {
//!         detection.bbox = letterbox.to_picture(detection.bbox);
//!         println!("{} {:.2} {:?}", names[detection.class], detection.score, detection.bbox);
//!     }
//!     vision::draw_detections(&mut picture, &found, names);
//!     vision::save_png(&picture, "street-found.png")
//! }
//! ```
//!
//! With several heads, decode each and chain the results before suppressing: boxes of different heads may show
//! the same object.

mod bbox;
mod draw;
mod error;
mod load;
pub mod metrics;
mod nms;
mod preprocess;
pub mod yolo;

pub use bbox::{BBox, Detection};
pub use draw::{class_color, draw_box, draw_detections, draw_label, save_png};
pub use error::{Error, ErrorKind, Result};
pub use image::{self, Rgb, RgbImage};
pub use load::{MAX_DECODED_BYTES, MAX_FILE_BYTES, MAX_SIDE, decode, load};
pub use nms::nms;
pub use preprocess::{ImageTensor, Letterbox, Normalization, resize, swap_red_blue};
