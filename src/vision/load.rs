//! Loading pictures, within limits.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};

use super::{Error, ErrorKind, Result};

/// The longest side of an image that [`load`] and [`decode`] accept, in pixels.
pub const MAX_SIDE: u32 = 16_384;

/// The most memory that the decoded pixels of one image may take, in bytes: 178 million pixels of RGB.
///
/// While it decodes, a progressive JPEG needs twice as much again for its coefficients.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;

/// The largest image file that [`load`] and [`decode`] accept, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// Reads a JPEG or PNG file as RGB, eight bits a channel.
///
/// The format is taken from the content, not from the name. Grey images become RGB with equal channels, 16-bit
/// channels are rounded to 8 bits, transparency is dropped, and the orientation that a camera recorded (Exif)
/// is applied, so that the picture is upright. A JPEG whose data end early is completed with grey, as most viewers
/// do; a PNG whose data end early is an error.
///
/// # Errors
///
/// If the file cannot be read, is neither JPEG nor PNG, is damaged, or exceeds [`MAX_SIDE`],
/// [`MAX_DECODED_BYTES`] or [`MAX_FILE_BYTES`]. The message names the file.
pub fn load(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    read_file(path).and_then(|bytes| decode(&bytes)).map_err(|error| error.about(path.display()))
}

/// Decodes the bytes of a JPEG or PNG file, as [`load`] does.
///
/// # Errors
///
/// As [`load`]. Any byte string gives a picture or an error, within the limits on memory.
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, "the file is empty; give a JPEG or PNG image"));
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(file_too_large());
    }
    let format = match image::guess_format(bytes) {
        Ok(format @ (image::ImageFormat::Jpeg | image::ImageFormat::Png)) => format,
        _ => {
            let start: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "neither a JPEG nor a PNG image (it starts with {}); convert it to one of them",
                    start.join(" ")
                ),
            ));
        }
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| decoding_error(&error))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::new(
            ErrorKind::Malformed,
            format!("the image is {width}x{height} pixels; give one that is not empty"),
        ));
    }
    // The decoder checks the sides itself, but reserves the pixels without asking the limit.
    if decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(too_many_bytes(width, height, decoder.total_bytes()));
    }
    // Broken metadata does not make the pixels unusable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| decoding_error(&error))?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |error: std::io::Error| {
        Error::new(
            ErrorKind::Io,
            format!("cannot read the image: {error}; check the path and its permissions"),
        )
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long, whatever its metadata say: it may be a device.
    let mut file = File::open(path).map_err(unreadable)?.take(MAX_FILE_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(file_too_large()) } else { Ok(bytes) }
}

fn file_too_large() -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("the file is longer than {MAX_FILE_BYTES} bytes; scale or compress the image"),
    )
}

fn too_many_bytes(width: u32, height: u32, bytes: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "{width}x{height} pixels take {bytes} bytes, more than the limit of {MAX_DECODED_BYTES}; scale the \
             image down"
        ),
    )
}

fn decoding_error(error: &ImageError) -> Error {
    match error {
        ImageError::Limits(_) => Error::new(
            ErrorKind::TooLarge,
            format!("the image exceeds {MAX_SIDE} pixels a side or {MAX_DECODED_BYTES} bytes; scale it down"),
        ),
        ImageError::Unsupported(reason) => Error::new(
            ErrorKind::Unsupported,
            format!("this kind of image is not supported: {reason}; save it as 8-bit RGB"),
        ),
        _ => Error::new(
            ErrorKind::Malformed,
            format!("the image is damaged or cut off: {error}; save it again from its source"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, ImageFormat};

    fn sample(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 7, y as u8 * 5, (x * y) as u8]))
    }

    fn encode(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// A PNG file that consists of its header alone.
    fn png_header(width: u32, height: u32) -> Vec<u8> {
        let mut chunk = b"IHDR".to_vec();
        chunk.extend(width.to_be_bytes());
        chunk.extend(height.to_be_bytes());
        chunk.extend([8, 2, 0, 0, 0]);
        let mut crc = u32::MAX;
        for byte in &chunk {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        bytes.extend(chunk);
        bytes.extend((!crc).to_be_bytes());
        bytes.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xae\x42\x60\x82");
        bytes
    }

    #[test]
    fn png_round_trip_is_exact() {
        let picture = sample(13, 9);
        assert_eq!(decode(&encode(&picture, ImageFormat::Png)).unwrap(), picture);
    }

    #[test]
    fn jpeg_is_close() {
        let grey = RgbImage::from_pixel(16, 24, image::Rgb([90, 90, 90]));
        let decoded = decode(&encode(&grey, ImageFormat::Jpeg)).unwrap();
        assert_eq!(decoded.dimensions(), (16, 24));
        assert!(decoded.iter().all(|value| value.abs_diff(90) <= 2));
    }

    #[test]
    fn grey_and_alpha_become_rgb() {
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes)
            .write_image(&[10, 200, 20, 0], 2, 1, ExtendedColorType::La8)
            .unwrap();
        assert_eq!(decode(&bytes).unwrap().into_raw(), [10, 10, 10, 20, 20, 20]);
    }

    #[test]
    fn exif_orientation_is_applied() {
        let jpeg = encode(&sample(16, 8), ImageFormat::Jpeg);
        // An APP1 segment whose one entry says orientation 6: turn by 90 degrees.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut turned = jpeg[..2].to_vec();
        turned.extend([0xff, 0xe1]);
        turned.extend((exif.len() as u16 + 2).to_be_bytes());
        turned.extend(exif);
        turned.extend(&jpeg[2..]);
        assert_eq!(decode(&jpeg).unwrap().dimensions(), (16, 8));
        assert_eq!(decode(&turned).unwrap().dimensions(), (8, 16));
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        for bytes in [&b""[..], b"x", b"GIF89a\x01\0\x01\0", b"\x7fELF", b"\x89PNG", b"\xff\xd8"] {
            assert_eq!(decode(bytes).unwrap_err().kind(), ErrorKind::Unsupported, "{bytes:?}");
        }
        let message = decode(b"BM12").unwrap_err().to_string();
        assert!(message.contains("starts with 42 4d 31 32)"), "{message}");
    }

    #[test]
    fn huge_declared_sizes_are_errors() {
        for (width, height) in [(u32::MAX >> 1, u32::MAX >> 1), (MAX_SIDE + 1, 1), (MAX_SIDE, MAX_SIDE)] {
            let error = decode(&png_header(width, height)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        }
        // The header itself is sound: at a small size only the pixels are missing.
        assert_eq!(decode(&png_header(4, 4)).unwrap_err().kind(), ErrorKind::Malformed);
        assert!(decode(&png_header(0, 4)).is_err());

        let mut jpeg = encode(&sample(8, 8), ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 9].fill(0xff);
        assert_eq!(decode(&jpeg).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn damaged_files_never_panic() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let whole = encode(&sample(12, 10), format);
            for length in 0..whole.len() {
                let result = decode(&whole[..length]);
                // The end marker of a JPEG and the end chunk of a PNG may be missed without loss.
                assert!(
                    length + 20 > whole.len() || format == ImageFormat::Jpeg || result.is_err(),
                    "{length}"
                );
            }
            for _ in 0..1500 {
                let mut bytes = whole.clone();
                for _ in 0..1 + random() % 4 {
                    let at = random() % bytes.len();
                    bytes[at] = random() as u8;
                }
                // Large sizes are not what this test is about, and slow.
                if let Ok((width, height)) =
                    ImageReader::with_format(Cursor::new(&bytes), format).into_dimensions()
                    && u64::from(width) * u64::from(height) < 1 << 16
                {
                    drop(decode(&bytes));
                }
            }
            for _ in 0..300 {
                let keep = 2 + random() % 20;
                let mut bytes = whole[..keep].to_vec();
                bytes.extend((0..random() % 200).map(|_| random() as u8));
                drop(decode(&bytes));
            }
        }
    }

    #[test]
    fn load_names_the_file() {
        let missing = load("no/such/picture.png").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Io);
        assert!(missing.to_string().starts_with("no/such/picture.png: cannot read the image: "), "{missing}");
        // A folder can be opened on some systems, but not read.
        assert_eq!(load(env!("CARGO_MANIFEST_DIR")).unwrap_err().kind(), ErrorKind::Io);
    }
}
