//! What else pictures go through: depthwise convolution, pooling, elementwise functions, resampling, layouts.

use bytemuck::{Pod, Zeroable};

use super::{CudaKernel, Launch, element_bytes, expect_picture, extent, positive, product};
use crate::call::Activation;
use crate::{Call, Invalid};

/// `cuda_depthwise_*`, `cuda_depthwise3_*` (a window of 3×3), `cuda_max_pool_*`, `cuda_average_pool_*`, and
/// `cuda_max_pool_all_*`, `cuda_average_pool_all_*`, whose one window is the whole picture.
///
/// Operands: input; weights `[taps][channels]`, bias f32 `[channels]` or absent and residual or absent, all absent for
/// pooling; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Window {
    /// Input rows; taps beyond them are zero, or left out by pooling.
    pub in_h: i32,
    /// Input columns.
    pub in_w: i32,
    /// Elements from one input pixel to the next.
    pub in_stride: i32,
    /// Window rows.
    pub kernel_h: i32,
    /// Window columns.
    pub kernel_w: i32,
    /// Output rows.
    pub out_h: i32,
    /// Output columns.
    pub out_w: i32,
    /// Between output rows, in input rows.
    pub stride_h: i32,
    /// Between output columns, in input columns.
    pub stride_w: i32,
    /// Padding above.
    pub pad_h: i32,
    /// Padding to the left.
    pub pad_w: i32,
    /// Between window rows, in input rows.
    pub dilation_h: i32,
    /// Between window columns, in input columns.
    pub dilation_w: i32,
    /// Output pixels of all images.
    pub pixels: i32,
    /// Channels.
    pub channels: i32,
    /// Elements from one output pixel to the next.
    pub out_stride: i32,
    /// Elements from one pixel of the residual to the next.
    pub residual_stride: i32,
    /// One of [`residual`](crate::call::residual).
    pub residual_mode: i32,
    /// Whether means count padding.
    pub count_padding: i32,
    /// Padding below that means count.
    pub pad_end_h: i32,
    /// Padding to the right that means count.
    pub pad_end_w: i32,
    /// Zero.
    pub reserved: i32,
    /// Applied last or before the residual.
    pub activation: Activation,
}

/// What [`Map`] computes before its activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum MapKind {
    /// The left picture.
    Left = 0,
    /// The sum.
    Sum = 1,
    /// The product.
    Product = 2,
    /// The difference.
    Difference = 3,
}

/// `cuda_map_*`: elementwise functions of one or two pictures.
///
/// Operands: left; right, or absent; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Map {
    /// Pixels of all images.
    pub pixels: i32,
    /// Channels.
    pub channels: i32,
    /// Elements from one pixel of the left to the next.
    pub left_stride: i32,
    /// Elements from one pixel of the right to the next.
    pub right_stride: i32,
    /// Elements from one output pixel to the next.
    pub out_stride: i32,
    /// How many pixels of the left share one of the right.
    pub share: i32,
    /// A [`MapKind`].
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
    /// Applied last.
    pub activation: Activation,
}

/// `cuda_resize_*`: each output pixel is a sum of `taps_h` × `taps_w` input pixels.
///
/// Operands: input; the rows of the taps of each output row, then the columns of those of each output column, i32;
/// their weights, f32; output. Whoever makes the tables sees to it that they name pixels of the input.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Resize {
    /// Input rows.
    pub in_h: i32,
    /// Input columns.
    pub in_w: i32,
    /// Elements from one input pixel to the next.
    pub in_stride: i32,
    /// Output rows.
    pub out_h: i32,
    /// Output columns.
    pub out_w: i32,
    /// Elements from one output pixel to the next.
    pub out_stride: i32,
    /// Taps of a row.
    pub taps_h: i32,
    /// Taps of a column.
    pub taps_w: i32,
    /// Output pixels of all images.
    pub pixels: i32,
    /// Channels.
    pub channels: i32,
}

/// `cuda_interleave_*`: pixels whose channels lie in phases, each phase a pixel of the output.
///
/// `out[n, y, x, c] = in[n, (y + crop_h) / phases_h, (x + crop_w) / phases_w, phase, c]`, phases counted by the remainders,
/// those of rows outermost.
///
/// Operands: input; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Interleave {
    /// Input rows.
    pub in_h: i32,
    /// Input columns.
    pub in_w: i32,
    /// Elements from one input pixel to the next.
    pub in_stride: i32,
    /// Output rows of an input row.
    pub phases_h: i32,
    /// Output columns of an input column.
    pub phases_w: i32,
    /// Rows before the first of the output.
    pub crop_h: i32,
    /// Columns before the first of the output.
    pub crop_w: i32,
    /// Output rows.
    pub out_h: i32,
    /// Output columns.
    pub out_w: i32,
    /// Elements from one output pixel to the next.
    pub out_stride: i32,
    /// Output pixels of all images.
    pub pixels: i32,
    /// Channels of a phase.
    pub channels: i32,
}

/// `cuda_from_plain_*`, `cuda_to_plain_*`: between a row-major tensor of f32 and a picture.
///
/// Operands: input; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Layout {
    /// Images.
    pub images: i32,
    /// Pixels of one image.
    pub image_pixels: i32,
    /// Channels of the row-major tensor.
    pub plain_channels: i32,
    /// Channels of the picture: those beyond the tensor's are written as zero.
    pub channels: i32,
    /// Elements from one pixel of the picture to the next.
    pub stride: i32,
    /// Zero.
    pub reserved: i32,
}

/// Channels of a [`Padded`] picture.
pub const PADDED_CHANNELS: usize = 4;

/// `cuda_from_plain_padded_*`: a row-major tensor of f32 as a picture of [`PADDED_CHANNELS`] channels, with the padding of a
/// convolution around it, so that the pixels of a row that a window has are neighbours in memory, and all there.
///
/// Operands: input f32 `[images, plain_channels, in_h, in_w]`; output `[images, rows, columns, 4]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Padded {
    /// Images.
    pub images: i32,
    /// Channels of the row-major tensor: those beyond them are written as zero.
    pub plain_channels: i32,
    /// Its rows.
    pub in_h: i32,
    /// Its columns.
    pub in_w: i32,
    /// Rows of the picture.
    pub rows: i32,
    /// Columns of the picture, an even number.
    pub columns: i32,
    /// Rows above the tensor's.
    pub pad_h: i32,
    /// Columns to the left of the tensor's.
    pub pad_w: i32,
}

/// Eight channels of a pixel a thread.
fn by_chunks(pixels: i32, channels: i32) -> Launch {
    Launch::flat(pixels as u64 * (channels as u64 / 8))
}

/// Checks what windows have in common; gives images and channels.
fn validate_window(call: &Call<'_>, element_bytes: u64) -> Result<[u64; 2], Invalid> {
    let p: &Window = call.params()?;
    call.expect_operands(5)?;
    let [channels, pixels] = [positive(p.channels)?, positive(p.pixels)?];
    let image = product(&[positive(p.out_h)?, positive(p.out_w)?])?;
    if !pixels.is_multiple_of(image) {
        return Err(Invalid("a part of an image"));
    }
    let images = pixels / image;
    let in_pixels = product(&[images, positive(p.in_h)?, positive(p.in_w)?])?;
    for (least, value) in [
        (1, p.kernel_h),
        (1, p.kernel_w),
        (1, p.stride_h),
        (1, p.stride_w),
        (0, p.pad_h),
        (0, p.pad_w),
        (1, p.dilation_h),
        (1, p.dilation_w),
        (0, p.pad_end_h),
        (0, p.pad_end_w),
    ] {
        if !(least..1 << 15).contains(&value) {
            return Err(Invalid("a window out of range"));
        }
    }
    for (extent, stride) in
        [(p.out_h, p.stride_h), (p.out_w, p.stride_w), (p.kernel_h, p.dilation_h), (p.kernel_w, p.dilation_w)]
    {
        if product(&[extent as u64, stride as u64])? >= 1 << 30 {
            return Err(Invalid("a window out of range"));
        }
    }
    expect_picture(call, 0, in_pixels, p.in_stride, channels, element_bytes)?;
    expect_picture(call, 4, pixels, p.out_stride, channels, element_bytes)?;
    Ok([images, channels])
}

fn validate_depthwise(call: &Call<'_>, extent: i32, element_bytes: u64) -> Result<(), Invalid> {
    let [_, channels] = validate_window(call, element_bytes)?;
    let p: &Window = call.params()?;
    if extent > 0 && (p.kernel_h != extent || p.kernel_w != extent) {
        return Err(Invalid("a window of another extent"));
    }
    let taps = product(&[p.kernel_h as u64, p.kernel_w as u64, channels])?;
    call.expect_elements(1, Some(taps), element_bytes)?;
    if call.operand_bytes.get(2).is_some_and(|&bytes| bytes > 0) {
        call.expect_elements(2, Some(channels), 4)?;
    }
    match p.residual_mode {
        0 => Ok(()),
        1 | 2 => expect_picture(call, 3, p.pixels as u64, p.residual_stride, channels, element_bytes),
        _ => Err(Invalid("an unknown residual")),
    }
}

fn validate_pool(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    validate_window(call, element_bytes).map(|_| ())
}

fn validate_pool_all(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let [images, _] = validate_window(call, element_bytes)?;
    let p: &Window = call.params()?;
    match (p.out_h, p.out_w) {
        // Images are counted along the second axis of the grid.
        (1, 1) if images < 1 << 16 => Ok(()),
        _ => Err(Invalid("more than one window an image")),
    }
}

fn launch_window(params: &[u8]) -> Launch {
    let p: &Window = bytemuck::from_bytes(params);
    by_chunks(p.pixels, p.channels)
}

/// 64 channels of an image a block.
fn launch_pool_all(params: &[u8]) -> Launch {
    let p: &Window = bytemuck::from_bytes(params);
    Launch {
        grid: [(p.channels as u32).div_ceil(64), p.pixels as u32],
        cluster: 1,
        threads: 256,
        shared_bytes: 0,
    }
}

fn validate_map(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Map = call.params()?;
    call.expect_operands(3)?;
    let [pixels, channels, share] = [positive(p.pixels)?, positive(p.channels)?, positive(p.share)?];
    product(&[pixels, channels])?;
    expect_picture(call, 0, pixels, p.left_stride, channels, element_bytes)?;
    match p.kind {
        0 => {}
        1..=3 => {
            let shared = (pixels - 1) / share + 1;
            expect_picture(call, 1, shared, p.right_stride, channels, element_bytes)?;
        }
        _ => return Err(Invalid("an unknown operation")),
    }
    expect_picture(call, 2, pixels, p.out_stride, channels, element_bytes)
}

fn launch_map(params: &[u8]) -> Launch {
    let p: &Map = bytemuck::from_bytes(params);
    by_chunks(p.pixels, p.channels)
}

fn validate_resize(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Resize = call.params()?;
    call.expect_operands(4)?;
    let [out_h, out_w, pixels] = [positive(p.out_h)?, positive(p.out_w)?, positive(p.pixels)?];
    let image = product(&[out_h, out_w])?;
    if !pixels.is_multiple_of(image) {
        return Err(Invalid("a part of an image"));
    }
    let channels = positive(p.channels)?;
    let in_pixels = product(&[pixels / image, positive(p.in_h)?, positive(p.in_w)?])?;
    let rows = product(&[out_h, positive(p.taps_h)?])?;
    let columns = product(&[out_w, positive(p.taps_w)?])?;
    expect_picture(call, 0, in_pixels, p.in_stride, channels, element_bytes)?;
    call.expect_elements(1, Some(rows + columns), 4)?;
    call.expect_elements(2, Some(rows + columns), 4)?;
    expect_picture(call, 3, pixels, p.out_stride, channels, element_bytes)
}

fn launch_resize(params: &[u8]) -> Launch {
    let p: &Resize = bytemuck::from_bytes(params);
    by_chunks(p.pixels, p.channels)
}

fn validate_interleave(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Interleave = call.params()?;
    call.expect_operands(2)?;
    let [out_h, out_w, pixels] = [positive(p.out_h)?, positive(p.out_w)?, positive(p.pixels)?];
    let image = product(&[out_h, out_w])?;
    if !pixels.is_multiple_of(image) {
        return Err(Invalid("a part of an image"));
    }
    let (channels, [in_h, in_w]) = (positive(p.channels)?, [positive(p.in_h)?, positive(p.in_w)?]);
    let phases = [positive(p.phases_h)?, positive(p.phases_w)?];
    let axes = [(in_h, phases[0], p.crop_h, out_h), (in_w, phases[1], p.crop_w, out_w)];
    for (input, phases, crop, output) in axes {
        if extent(crop)? + output > product(&[input, phases])? {
            return Err(Invalid("more output than there are phases"));
        }
    }
    let (in_pixels, width) =
        (product(&[pixels / image, in_h, in_w])?, product(&[phases[0], phases[1], channels])?);
    product(&[pixels, channels])?;
    expect_picture(call, 0, in_pixels, p.in_stride, width, element_bytes)?;
    expect_picture(call, 1, pixels, p.out_stride, channels, element_bytes)
}

fn launch_interleave(params: &[u8]) -> Launch {
    let p: &Interleave = bytemuck::from_bytes(params);
    by_chunks(p.pixels, p.channels)
}

/// `plain` and `picture`: the positions of the operands.
fn validate_layout(call: &Call<'_>, plain: usize, picture: usize, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Layout = call.params()?;
    call.expect_operands(2)?;
    let pixels = product(&[positive(p.images)?, positive(p.image_pixels)?])?;
    let [plain_channels, channels] = [positive(p.plain_channels)?, positive(p.channels)?];
    product(&[pixels, channels])?;
    call.expect_elements(plain, Some(product(&[pixels, plain_channels])?), 4)?;
    expect_picture(call, picture, pixels, p.stride, channels, element_bytes)
}

fn launch_layout(params: &[u8]) -> Launch {
    let p: &Layout = bytemuck::from_bytes(params);
    by_chunks(p.images * p.image_pixels, p.channels)
}

fn validate_padded(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Padded = call.params()?;
    call.expect_operands(2)?;
    let [images, channels] = [positive(p.images)?, positive(p.plain_channels)?];
    let [in_h, in_w, rows, columns] =
        [positive(p.in_h)?, positive(p.in_w)?, positive(p.rows)?, positive(p.columns)?];
    if channels > PADDED_CHANNELS as u64 || !columns.is_multiple_of(2) {
        return Err(Invalid("more channels than four, or an odd number of columns"));
    }
    for padding in [p.pad_h, p.pad_w] {
        if !(0..1 << 15).contains(&padding) {
            return Err(Invalid("a window out of range"));
        }
    }
    call.expect_elements(0, Some(product(&[images, channels, in_h, in_w])?), 4)?;
    let picture = product(&[images, rows, columns, PADDED_CHANNELS as u64])?;
    call.expect_elements(1, Some(picture), element_bytes)
}

fn launch_padded(params: &[u8]) -> Launch {
    let p: &Padded = bytemuck::from_bytes(params);
    Launch::flat(p.images as u64 * p.rows as u64 * (p.columns as u64 / 2))
}

/// The kernels of a family for all types of elements, and some for f32 that is rounded to tf32 where it is written.
macro_rules! kernels {
    ($($family:literal $validate:expr, $launch:expr $(, and $rounded:literal)?;)*) => {
        &[$(
            $(kernels!(@one concat!("cuda_", $family, "_", $rounded), $validate, $launch),)?
            kernels!(@one concat!("cuda_", $family, "_f16"), $validate, $launch),
            kernels!(@one concat!("cuda_", $family, "_bf16"), $validate, $launch),
            kernels!(@one concat!("cuda_", $family, "_f32"), $validate, $launch),
        )*]
    };
    (@one $name:expr, $validate:expr, $launch:expr) => {
        CudaKernel {
            name: $name,
            module: "picture",
            validate: |call| $validate(call, const { element_bytes($name) }),
            launch: $launch,
            // No more than any launch may have without asking.
            most_shared_bytes: 0,
            copies: None,
        }
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! {
    "depthwise" |call: &_, bytes| validate_depthwise(call, 0, bytes), launch_window, and "tf32";
    "depthwise3" |call: &_, bytes| validate_depthwise(call, 3, bytes), launch_window, and "tf32";
    "max_pool" validate_pool, launch_window;
    "average_pool" validate_pool, launch_window, and "tf32";
    "max_pool_all" validate_pool_all, launch_pool_all;
    "average_pool_all" validate_pool_all, launch_pool_all, and "tf32";
    "map" validate_map, launch_map, and "tf32";
    "resize" validate_resize, launch_resize, and "tf32";
    "interleave" validate_interleave, launch_interleave;
    "from_plain" |call: &_, bytes| validate_layout(call, 0, 1, bytes), launch_layout, and "tf32";
    "from_plain_padded" validate_padded, launch_padded, and "tf32";
    "to_plain" |call: &_, bytes| validate_layout(call, 1, 0, bytes), launch_layout;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_pictures_are_bounded_by_their_operands() {
        let whole = Padded {
            images: 2,
            plain_channels: 3,
            in_h: 5,
            in_w: 7,
            rows: 9,
            columns: 12,
            pad_h: 2,
            pad_w: 2,
        };
        let valid = |params: Padded, sizes: [u64; 2]| {
            let call = Call { params: bytemuck::bytes_of(&params), operand_bytes: &sizes };
            validate_padded(&call, 2).is_ok()
        };
        let sizes = [2 * 3 * 5 * 7 * 4, 2 * 9 * 12 * 4 * 2];
        assert!(valid(whole, sizes));
        assert!(!valid(whole, [sizes[0] - 4, sizes[1]]));
        assert!(!valid(whole, [sizes[0], sizes[1] - 2]));
        assert!(!valid(Padded { columns: 11, ..whole }, sizes));
        assert!(!valid(Padded { plain_channels: 5, ..whole }, [1 << 20; 2]));
        assert!(!valid(Padded { pad_h: -1, ..whole }, sizes));
        assert!(!valid(Padded { rows: 1 << 30, ..whole }, [u64::MAX; 2]));
    }
}
