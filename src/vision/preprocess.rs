//! From a picture to the tensor a model takes, and back.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::load::MAX_SIDE;
use super::{BBox, Error, ErrorKind, Result};

/// The grey that detectors of the YOLO family are trained to see around a letterboxed picture.
const PADDING: Rgb<u8> = Rgb([114, 114, 114]);

/// Scales a picture to a size, without regard to its aspect ratio.
///
/// Bilinear; where the picture shrinks, the filter widens with it, so that fine detail is averaged instead of
/// skipped (as Pillow does, and OpenCV does not). A picture of that size already is copied bit for bit.
///
/// # Errors
///
/// If a side of either size is 0 or more than [`MAX_SIDE`].
pub fn resize(picture: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    check_size("picture", picture.width(), picture.height())?;
    check_size("target", width, height)?;
    Ok(if picture.dimensions() == (width, height) {
        picture.clone()
    } else {
        imageops::resize(picture, width, height, FilterType::Triangle)
    })
}

fn check_size(what: &str, width: u32, height: u32) -> Result<()> {
    if (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("the {what} is {width}x{height} pixels; give a size of 1 to {MAX_SIDE} a side"),
    ))
}

/// How a picture is fitted into the input of a model: scaled with its aspect ratio kept, centred, and grey (114)
/// where it does not reach.
///
/// Made once for a size of picture and a size of input; [`apply`](Self::apply) then makes the input, and
/// [`to_picture`](Self::to_picture) maps boxes found in it back.
///
/// ```
/// use infer_embed::vision::{BBox, Letterbox};
///
/// let letterbox = Letterbox::new((640, 480), (416, 416))?;
/// assert_eq!(letterbox.scale(), 0.65);
/// assert_eq!(letterbox.offset(), (0, 52));
/// let whole = letterbox.to_picture(BBox::new(0.0, 52.0, 416.0, 364.0));
/// assert_eq!(whole, BBox::new(0.0, 0.0, 640.0, 480.0));
/// # Ok::<(), infer_embed::vision::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letterbox {
    picture: (u32, u32),
    input: (u32, u32),
    scaled: (u32, u32),
    offset: (u32, u32),
}

impl Letterbox {
    /// The fit of a picture of one size into an input of another, each as (width, height) in pixels.
    ///
    /// # Errors
    ///
    /// If a side of either is 0 or more than [`MAX_SIDE`].
    pub fn new(picture: (u32, u32), input: (u32, u32)) -> Result<Self> {
        check_size("picture", picture.0, picture.1)?;
        check_size("input", input.0, input.1)?;
        // f64 holds the products exactly, so that a picture that fits exactly is not off by one.
        let (pw, ph) = (f64::from(picture.0), f64::from(picture.1));
        let (iw, ih) = (f64::from(input.0), f64::from(input.1));
        let shrink = |side: f64| (side.round() as u32).max(1);
        let scaled = if iw * ph <= ih * pw {
            (input.0, shrink(ph * iw / pw).min(input.1))
        } else {
            (shrink(pw * ih / ph).min(input.0), input.1)
        };
        let offset = ((input.0 - scaled.0) / 2, (input.1 - scaled.1) / 2);
        Ok(Self { picture, input, scaled, offset })
    }

    /// Pixels of the input for each pixel of the picture.
    pub fn scale(&self) -> f64 {
        let along_x = f64::from(self.input.0) / f64::from(self.picture.0);
        let along_y = f64::from(self.input.1) / f64::from(self.picture.1);
        along_x.min(along_y)
    }

    /// Width of the padding on the left and height of the padding above the picture, in pixels of the input.
    pub fn offset(&self) -> (u32, u32) {
        self.offset
    }

    /// The picture as the input shows it.
    ///
    /// A picture that needs no scaling keeps its pixels bit for bit.
    ///
    /// # Errors
    ///
    /// If the picture has another size than this letterbox was made for.
    pub fn apply(&self, picture: &RgbImage) -> Result<RgbImage> {
        if picture.dimensions() != self.picture {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the picture is {}x{} pixels, the letterbox is for {}x{}; make one for this picture",
                    picture.width(),
                    picture.height(),
                    self.picture.0,
                    self.picture.1
                ),
            ));
        }
        if self.scaled == self.input {
            return resize(picture, self.input.0, self.input.1);
        }
        let mut input = RgbImage::from_pixel(self.input.0, self.input.1, PADDING);
        let (x, y) = (i64::from(self.offset.0), i64::from(self.offset.1));
        if self.scaled == self.picture {
            imageops::replace(&mut input, picture, x, y);
        } else {
            imageops::replace(&mut input, &resize(picture, self.scaled.0, self.scaled.1)?, x, y);
        }
        Ok(input)
    }

    /// A box of the input (in its pixels) as a box of the picture (in its pixels), clamped to the picture.
    pub fn to_picture(&self, bbox: BBox) -> BBox {
        // The sides were rounded to whole pixels, so that each axis has a scale of its own.
        let along_x = self.picture.0 as f32 / self.scaled.0 as f32;
        let along_y = self.picture.1 as f32 / self.scaled.1 as f32;
        let (left, above) = (self.offset.0 as f32, self.offset.1 as f32);
        BBox {
            x0: (bbox.x0 - left) * along_x,
            y0: (bbox.y0 - above) * along_y,
            x1: (bbox.x1 - left) * along_x,
            y1: (bbox.y1 - above) * along_y,
        }
        .clamp(self.picture.0, self.picture.1)
    }
}

/// Exchanges the red and the blue channel, for a model that expects BGR (one trained on OpenCV's images).
pub fn swap_red_blue(picture: &mut RgbImage) {
    for pixel in picture.pixels_mut() {
        pixel.0.swap(0, 2);
    }
}

/// The input of a vision model for one picture: `[1, C, H, W]`, rows of each channel from the top.
///
/// A name for the plain array, which either spelling may stand for.
pub type ImageTensor<const C: usize, const H: usize, const W: usize> = [[[[f32; W]; H]; C]; 1];

/// How pixel values become tensor elements: `(value - mean) / std` for each channel.
///
/// # Units
///
/// Pixel values, 0 to 255, for both `mean` and `std`, in the order red, green, blue (in the order of the
/// picture's channels, if [`swap_red_blue`] exchanged them). [`from_unit`](Self::from_unit) takes the figures of
/// training code that divides by 255 first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Subtracted from each channel.
    pub mean: [f32; 3],
    /// Each channel is divided by this, after the subtraction.
    pub std: [f32; 3],
}

impl Normalization {
    /// 0 to 255 becomes 0 to 1: YOLOv3, v5, v8 and most exports.
    pub const UNIT: Self = Self { mean: [0.0; 3], std: [255.0; 3] };

    /// 0 to 255 as it is: YOLOX.
    pub const NONE: Self = Self { mean: [0.0; 3], std: [1.0; 3] };

    /// 0 to 255 becomes -1 to 1.
    pub const SIGNED: Self = Self { mean: [127.5; 3], std: [127.5; 3] };

    /// Mean and standard deviation of ImageNet, as torchvision's classifiers expect.
    pub const IMAGENET: Self = Self::from_unit([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

    /// From mean and standard deviation of values between 0 and 1.
    pub const fn from_unit(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            mean: [mean[0] * 255.0, mean[1] * 255.0, mean[2] * 255.0],
            std: [std[0] * 255.0, std[1] * 255.0, std[2] * 255.0],
        }
    }

    /// Writes a picture into a tensor.
    ///
    /// With `C` = 3 the channels are those of the picture in their order. With `C` = 1 the channel is the
    /// luminance, (19595 R + 38470 G + 7471 B) / 65536 rounded, normalised by the first `mean` and `std`; a grey
    /// pixel keeps its value. Another `C` does not compile.
    ///
    /// # Shapes
    ///
    /// The tensor is `[1, C, H, W]`; the picture must be `W` wide and `H` high.
    ///
    /// # Errors
    ///
    /// If the picture has another size.
    ///
    /// # Source
    ///
    /// The luminance is that of ITU-R BT.601, in the arithmetic of Pillow's `convert("L")`.
    pub fn write<const C: usize, const H: usize, const W: usize>(
        &self,
        picture: &RgbImage,
        tensor: &mut ImageTensor<C, H, W>,
    ) -> Result<()> {
        const { assert!(C == 1 || C == 3, "the tensor must have 1 channel (grey) or 3 (colour)") };
        let (width, height) = picture.dimensions();
        if (width as usize, height as usize) != (W, H) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the picture is {width}x{height} pixels, the tensor takes {W}x{H}; letterbox or resize it first"
                ),
            ));
        }
        let pixels = picture.as_raw().as_chunks::<3>().0;
        for (channel, plane) in tensor[0].iter_mut().enumerate() {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let table: [f32; 256] = std::array::from_fn(|value| (value as f32 - mean) / std);
            for (pixel, element) in pixels.iter().zip(plane.as_flattened_mut()) {
                let value = if C == 1 { luminance(*pixel) } else { pixel[channel] };
                *element = table[usize::from(value)];
            }
        }
        Ok(())
    }

    /// A picture as a new tensor on the heap; as [`write`](Self::write) otherwise.
    ///
    /// ```
    /// use infer_embed::vision::{Normalization, RgbImage};
    ///
    /// let picture = RgbImage::new(320, 240);
    /// let tensor: Box<[[[[f32; 320]; 240]; 3]; 1]> = Normalization::UNIT.tensor(&picture)?;
    /// # Ok::<(), infer_embed::vision::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the picture is not `W` wide and `H` high.
    pub fn tensor<const C: usize, const H: usize, const W: usize>(
        &self,
        picture: &RgbImage,
    ) -> Result<Box<ImageTensor<C, H, W>>> {
        let mut tensor = bytemuck::zeroed_box();
        self.write(picture, &mut tensor)?;
        Ok(tensor)
    }
}

fn luminance([red, green, blue]: [u8; 3]) -> u8 {
    // The weights add up to 65536, so the result is at most 255.
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 3) as u8, (y * 5) as u8, (x ^ y) as u8]))
    }

    #[test]
    fn equal_size_passes_bit_exact() {
        let picture = sample(40, 30);
        assert_eq!(resize(&picture, 40, 30).unwrap(), picture);
        let letterbox = Letterbox::new((40, 30), (40, 30)).unwrap();
        assert_eq!(letterbox.apply(&picture).unwrap(), picture);
        assert_eq!((letterbox.scale(), letterbox.offset()), (1.0, (0, 0)));
    }

    #[test]
    fn padding_alone_keeps_the_pixels() {
        let picture = sample(40, 30);
        let letterbox = Letterbox::new((40, 30), (40, 41)).unwrap();
        assert_eq!(letterbox.offset(), (0, 5));
        let input = letterbox.apply(&picture).unwrap();
        assert_eq!(imageops::crop_imm(&input, 0, 5, 40, 30).to_image(), picture);
        for y in (0..5).chain(35..41) {
            assert!((0..40).all(|x| *input.get_pixel(x, y) == PADDING), "row {y}");
        }
    }

    #[test]
    fn aspect_ratio_is_kept() {
        for (picture, input, scaled) in [
            ((640, 480), (416, 416), (416, 312)),
            ((480, 640), (416, 416), (312, 416)),
            ((100, 100), (64, 32), (32, 32)),
            ((10, 20), (300, 300), (150, 300)),
            ((MAX_SIDE, 1), (64, 64), (64, 1)),
            ((1920, 1080), (640, 360), (640, 360)),
        ] {
            let letterbox = Letterbox::new(picture, input).unwrap();
            assert_eq!(letterbox.scaled, scaled, "{picture:?} into {input:?}");
            let applied =
                letterbox.apply(&RgbImage::from_pixel(picture.0, picture.1, Rgb([9, 8, 7]))).unwrap();
            assert_eq!(applied.dimensions(), input);
            let content = applied.pixels().filter(|p| **p == Rgb([9, 8, 7])).count();
            assert_eq!(content, (scaled.0 * scaled.1) as usize, "{picture:?} into {input:?}");
        }
    }

    #[test]
    fn boxes_map_back() {
        let letterbox = Letterbox::new((333, 777), (256, 256)).unwrap();
        let (ox, oy) = letterbox.offset();
        let (sw, sh) = letterbox.scaled;
        let content = BBox::new(ox as f32, oy as f32, (ox + sw) as f32, (oy + sh) as f32);
        assert_eq!(letterbox.to_picture(content), BBox::new(0.0, 0.0, 333.0, 777.0));
        // The padding and what lies beyond is clamped to the picture.
        let beyond = letterbox.to_picture(BBox::new(-50.0, 0.0, 400.0, 300.0));
        assert_eq!(beyond, BBox::new(0.0, 0.0, 333.0, 777.0));

        let letterbox = Letterbox::new((200, 100), (100, 100)).unwrap();
        let mapped = letterbox.to_picture(BBox::new(10.0, 35.0, 20.0, 45.0));
        assert_eq!(mapped, BBox::new(20.0, 20.0, 40.0, 40.0));

        // Three rows became one, which they would not by the common scale.
        let letterbox = Letterbox::new((640, 3), (64, 64)).unwrap();
        assert_eq!(letterbox.offset(), (0, 31));
        let mapped = letterbox.to_picture(BBox::new(16.0, 31.0, 48.0, 31.5));
        assert_eq!(mapped, BBox::new(160.0, 0.0, 480.0, 1.5));
    }

    #[test]
    fn resize_is_bilinear() {
        let mut edge = RgbImage::new(2, 1);
        edge.put_pixel(1, 0, Rgb([200, 100, 40]));
        let wide = resize(&edge, 4, 1).unwrap();
        let red: Vec<u8> = wide.pixels().map(|p| p.0[0]).collect();
        assert_eq!(red, [0, 50, 150, 200]);
        assert_eq!(resize(&edge, 1, 1).unwrap().get_pixel(0, 0).0, [100, 50, 20]);
    }

    #[test]
    fn bad_sizes_are_errors() {
        for (picture, input) in [((0, 5), (4, 4)), ((5, 5), (4, 0)), ((5, 5), (u32::MAX, 4))] {
            let error = Letterbox::new(picture, input).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let error = Letterbox::new((5, 5), (4, 4)).unwrap().apply(&sample(6, 5)).unwrap_err();
        let expected = "the picture is 6x5 pixels, the letterbox is for 5x5; make one for this picture";
        assert_eq!(error.to_string(), expected);
        assert!(resize(&RgbImage::new(0, 3), 4, 4).is_err());
        assert!(resize(&sample(3, 3), 0, 4).is_err());
    }

    #[test]
    fn normalizes_to_planes() {
        let picture = sample(5, 4);
        let unit: Box<[[[[f32; 5]; 4]; 3]; 1]> = Normalization::UNIT.tensor(&picture).unwrap();
        let imagenet: Box<[[[[f32; 5]; 4]; 3]; 1]> = Normalization::IMAGENET.tensor(&picture).unwrap();
        let raw: Box<[[[[f32; 5]; 4]; 3]; 1]> = Normalization::NONE.tensor(&picture).unwrap();
        for (x, y, pixel) in picture.enumerate_pixels() {
            for c in 0..3 {
                let at = |t: &[[[[f32; 5]; 4]; 3]; 1]| t[0][c][y as usize][x as usize];
                let value = f32::from(pixel.0[c]);
                assert_eq!(at(&unit), value / 255.0);
                assert_eq!(at(&raw), value);
                let expected = (value / 255.0 - [0.485, 0.456, 0.406][c]) / [0.229, 0.224, 0.225][c];
                assert!((at(&imagenet) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn grey_is_luminance() {
        let mut picture = RgbImage::from_fn(256, 1, |x, _| Rgb([x as u8; 3]));
        let mut tensor = [[[[0.0; 256]; 1]; 1]; 1];
        Normalization::NONE.write(&picture, &mut tensor).unwrap();
        assert!((0..256).all(|x| tensor[0][0][0][x] == x as f32), "grey pixels keep their value");
        picture.put_pixel(0, 0, Rgb([255, 0, 0]));
        picture.put_pixel(1, 0, Rgb([0, 255, 0]));
        Normalization::SIGNED.write(&picture, &mut tensor).unwrap();
        assert_eq!(tensor[0][0][0][..2], [(76.0 - 127.5) / 127.5, (150.0 - 127.5) / 127.5]);
    }

    #[test]
    fn wrong_size_is_an_error() {
        let result: Result<Box<ImageTensor<3, 5, 4>>> = Normalization::UNIT.tensor(&sample(5, 4));
        let expected = "the picture is 5x4 pixels, the tensor takes 4x5; letterbox or resize it first";
        assert_eq!(result.unwrap_err().to_string(), expected);
    }

    #[test]
    fn large_tensors_stay_off_the_stack() {
        // 12 MB on a stack of 128 KiB; the picture is made on the heap as well.
        let made = std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(|| {
                let tensor: Box<[[[[f32; 1000]; 1000]; 3]; 1]> =
                    Normalization::UNIT.tensor(&RgbImage::new(1000, 1000)).unwrap();
                tensor[0][2][999][999]
            })
            .unwrap();
        assert_eq!(made.join().unwrap(), 0.0);
    }

    #[test]
    fn swaps_channels() {
        let mut picture = RgbImage::from_pixel(2, 1, Rgb([1, 2, 3]));
        swap_red_blue(&mut picture);
        assert_eq!(picture.into_raw(), [3, 2, 1, 3, 2, 1]);
    }
}
