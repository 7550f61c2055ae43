//! Drawing what was found, and saving the picture.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageError, Rgb, RgbImage};

use super::load::MAX_SIDE;
use super::{BBox, Detection, Error, ErrorKind, Result};

/// Columns and rows of a character of the font.
const GLYPH: i64 = 8;

/// Draws detections into a picture: a box each, and a label with the name of its class and its score.
///
/// `names` are the classes in the model's order; a class without one is labelled with its number. Each class has
/// its [`class_color`]. Labels are drawn over all boxes, those of the first detections on top; lines and letters
/// grow with the picture. Boxes are in pixels of the picture; what lies outside is clipped.
pub fn draw_detections(picture: &mut RgbImage, detections: &[Detection], names: &[&str]) {
    for detection in detections.iter().rev() {
        draw_box(picture, detection.bbox, class_color(detection.class));
    }
    for Detection { class, score, bbox } in detections.iter().rev() {
        let text = match names.get(*class) {
            Some(name) => format!("{name} {score:.2}"),
            None => format!("{class} {score:.2}"),
        };
        draw_label(picture, *bbox, class_color(*class), &text);
    }
}

/// Draws the outline of a box, inside it and clipped to the picture.
///
/// A box that is not finite is not drawn.
pub fn draw_box(picture: &mut RgbImage, bbox: BBox, color: Rgb<u8>) {
    let Some([x0, y0, x1, y1]) = visible(picture, bbox) else { return };
    let line = per_pixels(picture, 320);
    fill(picture, [x0, y0, x1, (y0 + line).min(y1)], color);
    fill(picture, [x0, (y1 - line).max(y0), x1, y1], color);
    fill(picture, [x0, y0, (x0 + line).min(x1), y1], color);
    fill(picture, [(x1 - line).max(x0), y0, x1, y1], color);
}

/// Writes text on a filled ground at the upper left corner of a box: above it where there is room, else inside.
///
/// The text is black or white, whichever the colour of the ground sets off better. The label is moved into the
/// picture; what still does not fit is clipped. The font holds Latin letters, others appear as `?`. For a box
/// that is not finite or outside the picture, nothing is drawn.
pub fn draw_label(picture: &mut RgbImage, bbox: BBox, color: Rgb<u8>, text: &str) {
    let Some([x0, y0, ..]) = visible(picture, bbox) else { return };
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let scale = per_pixels(picture, 400);
    // What lies beyond the right border need not be looked at, however long the text is.
    let fitting = usize::try_from(width / (GLYPH * scale) + 1).unwrap_or(usize::MAX);
    let letters: Vec<char> = text.chars().take(fitting).collect();
    if letters.is_empty() {
        return;
    }
    let margin = scale;
    let label_width = letters.len() as i64 * GLYPH * scale + 2 * margin;
    let label_height = GLYPH * scale + 2 * margin;
    let left = x0.min(width - label_width).max(0);
    let top = if y0 >= label_height { y0 - label_height } else { y0.min(height - label_height).max(0) };
    fill(picture, [left, top, left + label_width, top + label_height], color);

    let [red, green, blue] = color.0.map(u32::from);
    let ink = if red * 299 + green * 587 + blue * 114 > 128_000 { Rgb([0; 3]) } else { Rgb([255; 3]) };
    for (i, letter) in letters.into_iter().enumerate() {
        let x = left + margin + i as i64 * GLYPH * scale;
        for (row, bits) in (0_i64..).zip(glyph(letter)) {
            for column in (0..GLYPH).filter(|column| bits >> column & 1 == 1) {
                let (x, y) = (x + column * scale, top + margin + row * scale);
                fill(picture, [x, y, x + scale, y + scale], ink);
            }
        }
    }
}

/// The colour of a class: saturated, and far in hue from those of the classes before it.
pub fn class_color(class: usize) -> Rgb<u8> {
    // Steps of the golden ratio around the colour circle never come close to each other early; the modulus keeps
    // the product exact.
    let hue = ((class % 1024) as f32 * 0.618_034 + 0.02).fract() * 6.0;
    let channel = |shift: f32| {
        let distance = ((hue + shift).rem_euclid(6.0) - 3.0).abs() - 1.0;
        (30.0 + 215.0 * distance.clamp(0.0, 1.0)).round() as u8
    };
    Rgb([channel(0.0), channel(4.0), channel(2.0)])
}

/// Writes a picture as a PNG file, whole or not at all.
///
/// The file is written under a temporary name in the same folder, then renamed: whoever opens `path` sees the
/// former file or the complete new one.
///
/// # Errors
///
/// If the picture is empty or has a side of more than [`MAX_SIDE`], or if the file cannot be written. The message
/// names the file; the temporary one is removed.
pub fn save_png(picture: &RgbImage, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    save(picture, path).map_err(|error| error.about(path.display()))
}

fn save(picture: &RgbImage, path: &Path) -> Result<()> {
    let (width, height) = picture.dimensions();
    if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the picture is {width}x{height} pixels; save one of 1 to {MAX_SIDE} a side"),
        ));
    }
    let unwritable = |error: io::Error| {
        let advice = "give a file name in a folder that exists and may be written";
        Error::new(ErrorKind::Io, format!("cannot write the image: {error}; {advice}"))
    };
    let (file, temporary) = create_beside(path).map_err(unwritable)?;
    write_png(picture, file).and_then(|()| fs::rename(&temporary, path)).map_err(|error| {
        // The first error is the one to report; should this fail too, nothing more can be done.
        drop(fs::remove_file(&temporary));
        unwritable(error)
    })
}

/// A new file in the folder of `path`, with a name that no other process or thread takes.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"));
    };
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.{count}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            // Left by a process of the same number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_png(picture: &RgbImage, file: File) -> io::Result<()> {
    let mut writer = BufWriter::new(file);
    let (width, height) = picture.dimensions();
    PngEncoder::new(&mut writer).write_image(picture, width, height, ExtendedColorType::Rgb8).map_err(
        |error| match error {
            ImageError::IoError(error) => error,
            other => io::Error::other(other),
        },
    )?;
    writer.flush()?;
    // Before the rename, so that a crash cannot leave the name without the content.
    writer.get_ref().sync_all()
}

/// One for each `pixels` of the picture's shorter side, at least one.
fn per_pixels(picture: &RgbImage, pixels: u32) -> i64 {
    let shorter = picture.width().min(picture.height());
    i64::from((shorter.saturating_add(pixels / 2) / pixels).max(1))
}

/// The pixels that a box touches, as [left, top, right, bottom] with the last two excluded; the part in the
/// picture, if there is one.
fn visible(picture: &RgbImage, bbox: BBox) -> Option<[i64; 4]> {
    if !bbox.is_finite() || picture.width() == 0 || picture.height() == 0 {
        return None;
    }
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    // Casts from float saturate.
    let (x0, y0) = (bbox.x0.floor() as i64, bbox.y0.floor() as i64);
    let (x1, y1) = (bbox.x1.ceil() as i64, bbox.y1.ceil() as i64);
    let outside = x0 >= width || y0 >= height || x1 < 0 || y1 < 0 || x1 < x0 || y1 < y0;
    let (left, top) = (x0.clamp(0, width - 1), y0.clamp(0, height - 1));
    // A box without area still shows.
    (!outside).then(|| [left, top, x1.clamp(left + 1, width), y1.clamp(top + 1, height)])
}

/// Fills the part of [left, top, right, bottom] (the last two excluded) that lies in the picture.
fn fill(picture: &mut RgbImage, [x0, y0, x1, y1]: [i64; 4], color: Rgb<u8>) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    for y in y0.max(0)..y1.min(height) {
        for x in x0.max(0)..x1.min(width) {
            picture.put_pixel(x as u32, y as u32, color);
        }
    }
}

/// Eight rows of eight pixels, the lowest bit on the left.
fn glyph(letter: char) -> [u8; 8] {
    let known = |letter| BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter));
    known(letter).or_else(|| known('?')).unwrap_or([0xff; 8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const WHITE: Rgb<u8> = Rgb([255; 3]);

    fn page(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, WHITE)
    }

    fn count(picture: &RgbImage, color: Rgb<u8>) -> usize {
        picture.pixels().filter(|pixel| **pixel == color).count()
    }

    #[test]
    fn outline_of_a_box() {
        let red = Rgb([200, 0, 0]);
        let mut picture = page(20, 20);
        draw_box(&mut picture, BBox::new(5.0, 6.0, 15.0, 12.0), red);
        for (x, y, pixel) in picture.enumerate_pixels() {
            let inside = (5..15).contains(&x) && (6..12).contains(&y);
            let interior = (6..14).contains(&x) && (7..11).contains(&y);
            assert_eq!(*pixel == red, inside && !interior, "{x} {y}");
        }
    }

    #[test]
    fn lines_grow_with_the_picture() {
        let ink = Rgb([1, 2, 3]);
        for (side, line) in [(256, 1), (640, 2), (1080, 3)] {
            let mut picture = page(side, side);
            draw_box(&mut picture, BBox::new(50.0, 50.0, 150.0, 150.0), ink);
            let across = (0..side).filter(|x| *picture.get_pixel(*x, 100) == ink).count();
            assert_eq!(across, 2 * line, "{side}");
        }
    }

    #[test]
    fn any_box_is_clipped() {
        let odd =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::MAX, -3.0, 0.0, 4.5, 9.0, 30.0];
        for (width, height) in [(9, 7), (1, 1), (0, 0), (40, 3)] {
            let mut picture = page(width, height);
            for x0 in odd {
                for y0 in odd {
                    for x1 in odd {
                        let bbox = BBox::new(x0, y0, x1, 5.0);
                        let detection = Detection { class: 7, score: 0.5, bbox };
                        draw_detections(&mut picture, &[detection], &[]);
                    }
                }
            }
        }
        let mut picture = page(9, 7);
        draw_box(&mut picture, BBox::new(20.0, 0.0, 30.0, 5.0), Rgb([0; 3]));
        draw_label(&mut picture, BBox::new(-20.0, 0.0, -10.0, 5.0), Rgb([0; 3]), "far");
        assert_eq!(count(&picture, WHITE), 63, "what is outside is not drawn");
    }

    #[test]
    fn label_lies_above_or_inside() {
        let ground = Rgb([10, 10, 120]);
        let mut picture = page(100, 60);
        draw_label(&mut picture, BBox::new(20.0, 30.0, 60.0, 50.0), ground, "ab");
        assert_eq!(*picture.get_pixel(20, 20), ground);
        assert_eq!(*picture.get_pixel(37, 29), ground);
        assert_eq!(*picture.get_pixel(20, 30), WHITE);
        // White letters, by the bits of the font.
        for (i, letter) in ['a', 'b'].into_iter().enumerate() {
            for (row, bits) in glyph(letter).into_iter().enumerate() {
                for column in 0..8 {
                    let pixel = picture.get_pixel(21 + 8 * i as u32 + column, 21 + row as u32);
                    assert_eq!(*pixel == WHITE, bits >> column & 1 == 1, "{letter} {row} {column}");
                }
            }
        }

        let mut picture = page(100, 60);
        draw_label(&mut picture, BBox::new(90.0, 4.0, 99.0, 50.0), ground, "ab");
        assert_eq!(*picture.get_pixel(82, 4), ground, "moved left and inside");
        assert_eq!(*picture.get_pixel(99, 13), ground);
        assert_eq!(*picture.get_pixel(99, 3), WHITE);
    }

    #[test]
    fn letters() {
        assert_eq!(glyph('水'), glyph('?'));
        assert_ne!(glyph('ä'), glyph('?'));
        assert_eq!(glyph(' '), [0; 8]);
        let mut picture = page(50, 20);
        draw_label(&mut picture, BBox::new(0.0, 0.0, 9.0, 9.0), Rgb([0; 3]), &"long ".repeat(100_000));
        draw_label(&mut picture, BBox::new(0.0, 0.0, 9.0, 9.0), Rgb([0; 3]), "");
    }

    #[test]
    fn names_and_scores() {
        let bbox = BBox::new(2.0, 15.0, 60.0, 50.0);
        let detections = [Detection { class: 1, score: 0.876, bbox }];
        let expected = |text: &str| {
            let mut picture = page(120, 60);
            draw_box(&mut picture, bbox, class_color(1));
            draw_label(&mut picture, bbox, class_color(1), text);
            picture
        };
        let mut named = page(120, 60);
        draw_detections(&mut named, &detections, &["zero", "one"]);
        assert_eq!(named, expected("one 0.88"));
        let mut numbered = page(120, 60);
        draw_detections(&mut numbered, &detections, &["zero"]);
        assert_eq!(numbered, expected("1 0.88"));
    }

    #[test]
    fn colors_are_distinct() {
        let colors: HashSet<_> = (0..80).map(|class| class_color(class).0).collect();
        assert_eq!(colors.len(), 80);
        class_color(usize::MAX);
        for class in 0..8 {
            for other in 0..class {
                let (a, b) = (class_color(class).0, class_color(other).0);
                let apart: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(b))).sum();
                assert!(apart >= 100, "classes {other} and {class}: {b:?} {a:?}");
            }
        }
    }

    #[test]
    fn saves_whole_files() {
        let folder = std::env::temp_dir().join(format!("infer-embed-draw-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("out.png");
        for side in [5, 3] {
            let picture = RgbImage::from_fn(side, 4, |x, y| Rgb([x as u8, y as u8, 77]));
            save_png(&picture, &path).unwrap();
            assert_eq!(crate::vision::load(&path).unwrap(), picture);
        }
        assert_eq!(save_png(&RgbImage::new(0, 4), &path).unwrap_err().kind(), ErrorKind::InvalidArgument);
        fs::create_dir(folder.join("sub")).unwrap();
        for bad in [folder.join("missing/out.png"), folder.join("sub"), folder.join("..")] {
            let error = save_png(&page(2, 2), &bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().starts_with(&bad.display().to_string()), "{error}");
        }
        fs::remove_dir(folder.join("sub")).unwrap();
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["out.png"], "no temporary file stays");
        fs::remove_dir_all(&folder).unwrap();
    }
}
