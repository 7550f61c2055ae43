//! ImageDecoder: the pixels of an encoded picture.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__ImageDecoder.html>
//! Types: u8. Pixels of 16 bits are rounded to 8, transparency is left out.
//! History: since opset 20.
//! Formats: BMP, JPEG, JPEG 2000, PNG, PNM, TIFF and WebP. What cannot be decoded gives an empty tensor, as the
//! specification asks for; a picture of more than 1 GiB is an error. The specification leaves the arithmetic of JPEG to the
//! decoder: pixels differ from libjpeg's by one or two at most.

use std::io::Cursor;

use image::{DynamicImage, ImageError, ImageReader, Limits};

use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::{ImportNode, NodeValues, Operator, Row};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] =
    &[Row { name: "ImageDecoder", domain: "", since: 20, inputs: 1..=1, outputs: 1..=1, import }];

/// The most bytes that a picture may take while it is decoded.
const MAX_BYTES: u64 = 1 << 30;

/// What the channels of a pixel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Brightness alone.
    Grayscale,
}

/// ImageDecoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageDecoder {
    /// The channels given.
    pub pixel_format: PixelFormat,
}

/// A decoded picture: rows of pixels, each of one channel (brightness) or three (red, green, blue).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picture {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    pub pixels: Vec<u8>,
}

/// Why there is no picture.
enum Failure {
    TooLarge,
    /// It is damaged, or of no known format.
    Undecodable,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let pixel_format = match node.attributes.string("pixel_format")?.as_deref() {
        None | Some("RGB") => PixelFormat::Rgb,
        Some("BGR") => PixelFormat::Bgr,
        Some("Grayscale") => PixelFormat::Grayscale,
        Some(other) => {
            return Err(Reason::new(format!("pixel_format {} is not supported", quote(other)))
                .supported("RGB, BGR, Grayscale"));
        }
    };
    Ok(Box::new(ImageDecoder { pixel_format }))
}

fn decode(data: &[u8]) -> Result<Picture, Failure> {
    let is_jpeg_2000 = data.starts_with(b"\0\0\0\x0cjP  ") || data.starts_with(b"\xff\x4f\xff\x51");
    if is_jpeg_2000 {
        return decode_jpeg_2000(data);
    }
    let format = image::guess_format(data).map_err(|_| Failure::Undecodable)?;
    let mut reader = ImageReader::with_format(Cursor::new(data), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| match error {
        ImageError::Limits(_) => Failure::TooLarge,
        _ => Failure::Undecodable,
    })?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let is_gray = matches!(
        image,
        DynamicImage::ImageLuma8(_)
            | DynamicImage::ImageLumaA8(_)
            | DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
    );
    Ok(if is_gray {
        Picture { width, height, channels: 1, pixels: image.into_luma8().into_raw() }
    } else {
        Picture { width, height, channels: 3, pixels: image.into_rgb8().into_raw() }
    })
}

fn decode_jpeg_2000(data: &[u8]) -> Result<Picture, Failure> {
    let settings = hayro_jpeg2000::DecodeSettings::default();
    let image = hayro_jpeg2000::Image::new(data, &settings).map_err(|_| Failure::Undecodable)?;
    let channels = match image.color_space().num_channels() {
        1 => 1,
        3 => 3,
        _ => return Err(Failure::Undecodable),
    };
    let (width, height) = (image.width(), image.height());
    // Samples are computed as f32, in more than one buffer.
    let needed = u64::from(width).saturating_mul(height.into()).saturating_mul(4 * 8);
    if needed > MAX_BYTES {
        return Err(Failure::TooLarge);
    }
    let mut context = hayro_jpeg2000::DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(|_| Failure::Undecodable)?;
    let (width, height) = (width as usize, height as usize);
    let mut pixels = vec![0u8; width * height * channels];
    let components = decoded.components();
    if components.len() < channels {
        return Err(Failure::Undecodable);
    }
    for (channel, component) in components.iter().take(channels).enumerate() {
        if component.samples().len() != width * height {
            return Err(Failure::Undecodable);
        }
        let largest = (1u64 << component.bit_depth().clamp(1, 38)) - 1;
        let scale = 255.0 / largest as f32;
        for (pixel, sample) in pixels.chunks_exact_mut(channels).zip(component.samples()) {
            // Conversion saturates: below 0 and above 255 too.
            pixel[channel] = libm::roundf(sample * scale) as u8;
        }
    }
    Ok(Picture { width, height, channels, pixels })
}

impl PixelFormat {
    fn channels(self) -> usize {
        if self == PixelFormat::Grayscale { 1 } else { 3 }
    }

    fn pixels(self, picture: Picture) -> Vec<u8> {
        let Picture { channels, mut pixels, .. } = picture;
        match (channels, self) {
            (1, PixelFormat::Grayscale) | (3, PixelFormat::Rgb) => pixels,
            (1, _) => pixels.into_iter().flat_map(|brightness| [brightness; 3]).collect(),
            (_, PixelFormat::Grayscale) => {
                // ITU-R 601-2, in fixed point with 16 bits.
                let brightness = |pixel: &[u8]| {
                    let weighted =
                        pixel.iter().zip([19595u32, 38470, 7471]).map(|(&v, weight)| u32::from(v) * weight);
                    ((weighted.sum::<u32>() + 0x8000) >> 16) as u8
                };
                pixels.chunks_exact(3).map(brightness).collect()
            }
            (_, _) => {
                for pixel in pixels.chunks_exact_mut(3) {
                    pixel.swap(0, 2);
                }
                pixels
            }
        }
    }
}

impl Operator for ImageDecoder {
    fn name(&self) -> &'static str {
        "ImageDecoder"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let encoded = node.tensor(0)?;
        if encoded.ty().dtype != DataType::U8 || encoded.ty().rank() != 1 {
            return Err(Reason::new(format!("input 0 is {}, not a row of u8", encoded.ty())));
        }
        let picture = match decode(encoded.data()) {
            Ok(picture) => picture,
            Err(Failure::Undecodable) => {
                Picture { channels: self.pixel_format.channels(), ..Picture::default() }
            }
            Err(Failure::TooLarge) => {
                return Err(Reason::new(format!("the picture takes more than {MAX_BYTES} bytes")));
            }
        };
        let shape = [picture.height, picture.width, self.pixel_format.channels()];
        let pixels = self.pixel_format.pixels(picture);
        let image = Constant::checked(TensorType::new(DataType::U8, shape), &pixels)
            .ok_or_else(|| Reason::new("a picture with another number of pixels than it says"))?;
        Ok(Some(vec![Value::Tensor(image)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{import, run, tensor};

    fn bytes(data: &[u8]) -> Constant {
        Constant::of(TensorType::new(DataType::U8, [data.len()]), data)
    }

    #[test]
    fn channels_are_as_asked_for() {
        let encoded = bytes(b"P6\n2 1\n255\n\xff\x00\x00\x0a\x14\x1e");
        let decode = |format: &str| {
            run(("ImageDecoder", 20), &[("pixel_format", format.into())], &[&encoded]).unwrap()
        };
        assert_eq!(decode("RGB"), tensor(DataType::U8, [1, 2, 3], &[255u8, 0, 0, 10, 20, 30]));
        assert_eq!(decode("BGR"), tensor(DataType::U8, [1, 2, 3], &[0u8, 0, 255, 30, 20, 10]));
        assert_eq!(decode("Grayscale"), tensor(DataType::U8, [1, 2, 1], &[76u8, 18]));
        assert!(import(("ImageDecoder", 20), &[("pixel_format", "CMYK".into())], 1, 1).is_err());
    }

    #[test]
    fn what_cannot_be_decoded_is_empty() {
        let damaged: [&[u8]; 5] = [
            b"",
            b"not a picture",
            b"P6\n2 1\n255\n\xff",
            b"\xff\xd8\xff\xc0\x00\x04",
            b"\0\0\0\x0cjP  \r\n\x87\n",
        ];
        for data in damaged {
            let decoded = run(("ImageDecoder", 20), &[], &[bytes(data)]).unwrap();
            assert_eq!(decoded.ty().shape, [0, 0, 3], "{data:?}");
        }
        assert!(run(("ImageDecoder", 20), &[], &[tensor(DataType::I8, [1], &[0i8])]).is_err());
    }
}
