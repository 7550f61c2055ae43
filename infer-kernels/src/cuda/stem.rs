//! Convolutions of few channels, straight from a row-major tensor of f32.

use bytemuck::{Pod, Zeroable};

use super::conv::STAYING_BLOCKS;
use super::{CudaKernel, Launch, element_bytes, expect_picture, positive, product};
use crate::call::Activation;
use crate::{Call, Invalid};

/// Channels that a thread of `cuda_stem_*` computes: its weights come in rows of a multiple of so many.
pub const STEM_CHANNELS: usize = 16;

/// The most shared memory of a block of `cuda_stem_*`, which any launch may have without asking, and of `cuda_stem_matrix*`.
const MOST_BYTES: u64 = 48 * 1024;
const MOST_MATRIX_BYTES: u64 = 64 * 1024;

/// The most input channels of `cuda_stem_matrix*`.
const MOST_CHANNELS: i32 = 4;

/// Threads of a block of `cuda_stem_matrix*`.
const THREADS: u32 = 256;

/// Rows and columns of the pixels that a block of `cuda_stem_matrix*` computes.
const EXTENT: u64 = 16;

/// Channels whose weights lie together for `cuda_stem_matrix*`.
const GROUP: u64 = 32;

/// `cuda_stem_*`, `cuda_stem3_*` (a kernel of 3×3) on the processors of f32; `cuda_stem_matrix32_*`, `cuda_stem_matrix64_*`,
/// whose blocks compute so many channels, on the matrix units.
///
/// Operands: input f32 `[N, channels, in_h, in_w]`; weights; bias f32 `[out_channels]` or absent; output, a picture. The
/// weights are f32 `[channels][taps][out_channels]`, the latter padded to a multiple of [`STEM_CHANNELS`], or, for the
/// matrix units, [`StemFragments`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Stem {
    /// Input rows; taps beyond them are zero.
    pub in_h: i32,
    /// Input columns.
    pub in_w: i32,
    /// Input channels.
    pub channels: i32,
    /// Kernel rows.
    pub kernel_h: i32,
    /// Kernel columns.
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
    /// Between kernel rows, in input rows.
    pub dilation_h: i32,
    /// Between kernel columns, in input columns.
    pub dilation_w: i32,
    /// Output pixels of all images.
    pub pixels: i32,
    /// Output channels.
    pub out_channels: i32,
    /// Elements from one output pixel to the next.
    pub out_stride: i32,
    /// Applied last.
    pub activation: Activation,
}

impl Stem {
    /// How many channels a block on the matrix units is to compute, where those can compute it and have rows enough.
    pub fn matrix_channels(&self) -> Option<usize> {
        if (self.out_h as u64) < EXTENT / 2 {
            return None;
        }
        let least = if self.out_channels as u64 > GROUP { 2 * GROUP } else { GROUP };
        [least, GROUP]
            .into_iter()
            .find(|&channels| self.fits_matrix(channels))
            .map(|channels| channels as usize)
    }

    /// The products of sixteen that a sum on the matrix units consists of.
    fn steps(&self) -> u64 {
        StemFragments {
            channels: self.channels as usize,
            kernel: [self.kernel_h as usize, self.kernel_w as usize],
        }
        .steps() as u64
    }

    /// Shared memory of a block that computes so many channels on the matrix units: weights, the places of the pairs,
    /// what the pixels meet of the input, twice where rows begin at odd columns too, and the same of the next tile in f32.
    fn matrix_bytes(&self, channels: u64) -> u64 {
        let rows = (EXTENT - 1) * self.stride_h as u64
            + (self.kernel_h as u64).saturating_sub(1) * self.dilation_h as u64
            + 1;
        let odd = self.stride_w as u64 % 2;
        let rows = (self.channels as u64).saturating_mul(rows);
        let picture = rows.saturating_mul(self.input_pairs() * 4 * (1 + odd));
        let columns = self.input_pairs() * 2 + odd;
        let next =
            rows.div_ceil((u64::from(THREADS) / columns).max(1)).saturating_mul(u64::from(THREADS) * 4);
        let step = channels * 32 + 32;
        self.steps().saturating_mul(step).saturating_add(picture).saturating_add(next)
    }

    /// The pairs of columns of the input that a block on the matrix units meets.
    fn input_pairs(&self) -> u64 {
        (EXTENT - 1) * self.stride_w as u64 / 2 + (self.kernel_w as u64).div_ceil(2)
    }

    /// Whether the matrix units can compute it, so many channels a block.
    fn fits_matrix(&self, channels: u64) -> bool {
        let takes = self.dilation_w == 1
            && self.channels <= MOST_CHANNELS
            && self.input_pairs() * 2 < u64::from(THREADS);
        takes && self.matrix_bytes(channels) <= MOST_MATRIX_BYTES
    }

    /// The weights that the taps of a block of `cuda_stem_*` have, in bytes.
    fn tap_bytes(&self) -> u64 {
        let depth =
            (self.channels as u64).saturating_mul(self.kernel_h as u64).saturating_mul(self.kernel_w as u64);
        depth.saturating_mul(STEM_CHANNELS as u64 * 4)
    }
}

/// The order of a kernel's weights for the matrix units: `[group of 32 channels][step][half][lane][4]` pairs of elements,
/// which are neighbours along a row of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct StemFragments {
    /// Input channels.
    pub channels: usize,
    /// Rows and columns.
    pub kernel: [usize; 2],
}

impl StemFragments {
    fn row_pairs(&self) -> usize {
        self.kernel[1].div_ceil(2)
    }

    fn steps(&self) -> usize {
        self.channels.saturating_mul(self.kernel[0]).saturating_mul(self.row_pairs()).div_ceil(8)
    }

    /// How many elements the weights of so many output channels are, of which a block computes `block`.
    pub fn elements(&self, outputs: usize, block: usize) -> usize {
        outputs.next_multiple_of(block) * self.steps() * 16
    }

    /// Where the weight of an output channel, an input channel, a row and a column stands.
    ///
    /// A lane of `mma.m16n8k16` holds two pairs of a column of the weights. Which channel is which column is up to us: so that
    /// the sums of a lane, of two columns of each of four products, are of eight neighbours.
    pub fn place(&self, output: usize, channel: usize, [row, column]: [usize; 2]) -> usize {
        let pair = (channel * self.kernel[0] + row) * self.row_pairs() + column / 2;
        let (step, second, quarter) = (pair / 8, pair % 8 / 4, pair % 4);
        let (group, eight, product, odd) = (output / 32, output % 32 / 8, output % 8 / 2, output % 2);
        let lane = (2 * eight + odd) * 4 + quarter;
        let fragment = ((group * self.steps() + step) * 2 + product / 2) * 32 + lane;
        ((fragment * 2 + product % 2) * 2 + second) * 2 + column % 2
    }
}

/// Checks everything but the weights; gives the output channels.
fn validate(call: &Call<'_>, element_bytes: u64) -> Result<u64, Invalid> {
    let p: &Stem = call.params()?;
    call.expect_operands(4)?;
    let [pixels, out_channels] = [positive(p.pixels)?, positive(p.out_channels)?];
    let image = product(&[positive(p.out_h)?, positive(p.out_w)?])?;
    if !pixels.is_multiple_of(image) {
        return Err(Invalid("a part of an image"));
    }
    let in_image = product(&[positive(p.channels)?, positive(p.in_h)?, positive(p.in_w)?])?;
    call.expect_elements(0, Some(product(&[pixels / image, in_image])?), 4)?;
    for (least, value) in [
        (1, p.kernel_h),
        (1, p.kernel_w),
        (1, p.stride_h),
        (1, p.stride_w),
        (0, p.pad_h),
        (0, p.pad_w),
        (1, p.dilation_h),
        (1, p.dilation_w),
    ] {
        if !(least..1 << 14).contains(&value) {
            return Err(Invalid("a window out of range"));
        }
    }
    for (extent, stride) in
        [(p.out_h, p.stride_h), (p.out_w, p.stride_w), (p.kernel_h, p.dilation_h), (p.kernel_w, p.dilation_w)]
    {
        if product(&[extent as u64, stride as u64])? >= 1 << 28 {
            return Err(Invalid("a window out of range"));
        }
    }
    if call.operand_bytes.get(2).is_some_and(|&bytes| bytes > 0) {
        call.expect_elements(2, Some(out_channels), 4)?;
    }
    expect_picture(call, 3, pixels, p.out_stride, out_channels, element_bytes)?;
    Ok(out_channels)
}

fn validate_taps(call: &Call<'_>, extent: i32, element_bytes: u64) -> Result<(), Invalid> {
    let out_channels = validate(call, element_bytes)?;
    let p: &Stem = call.params()?;
    if extent > 0 && (p.kernel_h != extent || p.kernel_w != extent) {
        return Err(Invalid("a window of another extent"));
    }
    if p.tap_bytes() > MOST_BYTES {
        return Err(Invalid("more weights than shared memory"));
    }
    let depth = product(&[p.channels as u64, p.kernel_h as u64, p.kernel_w as u64])?;
    let width = out_channels.next_multiple_of(STEM_CHANNELS as u64);
    call.expect_elements(1, Some(product(&[depth, width])?), 4)
}

fn validate_matrix(call: &Call<'_>, channels: u64, element_bytes: u64) -> Result<(), Invalid> {
    let out_channels = validate(call, element_bytes)?;
    let p: &Stem = call.params()?;
    if !p.fits_matrix(channels) {
        return Err(Invalid("a window that matrix units do not take"));
    }
    let weights = product(&[out_channels.next_multiple_of(channels), p.steps(), 16])?;
    call.expect_elements(1, Some(weights), element_bytes)
}

/// 256 pixels a block of 128 threads.
fn launch_taps(params: &[u8]) -> Launch {
    let p: &Stem = bytemuck::from_bytes(params);
    Launch {
        grid: [(p.pixels as u32).div_ceil(256), (p.out_channels as u32).div_ceil(STEM_CHANNELS as u32)],
        cluster: 1,
        threads: 128,
        shared_bytes: p.tap_bytes() as u32,
    }
}

fn launch_matrix(params: &[u8], channels: u32) -> Launch {
    let p: &Stem = bytemuck::from_bytes(params);
    let [height, width, extent] = [p.out_h as u32, p.out_w as u32, EXTENT as u32];
    let tiles = p.pixels as u32 / (height * width) * height.div_ceil(extent) * width.div_ceil(extent);
    let staying = if channels == 32 { 3 * STAYING_BLOCKS } else { 2 * STAYING_BLOCKS };
    Launch {
        grid: [tiles.min(staying), (p.out_channels as u32).div_ceil(channels)],
        cluster: 1,
        threads: THREADS,
        shared_bytes: p.matrix_bytes(channels.into()) as u32,
    }
}

macro_rules! kernels {
    ($($name:literal $most_bytes:expr, $validate:expr, $launch:expr;)*) => {
        &[$(CudaKernel {
            name: $name,
            module: "stem",
            validate: |call| $validate(call, const { element_bytes($name) }),
            launch: $launch,
            most_shared_bytes: $most_bytes as u32,
            copies: None,
        }),*]
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! {
    "cuda_stem_f32" MOST_BYTES, |call: &_, bytes| validate_taps(call, 0, bytes), launch_taps;
    "cuda_stem_tf32" MOST_BYTES, |call: &_, bytes| validate_taps(call, 0, bytes), launch_taps;
    "cuda_stem3_f32" MOST_BYTES, |call: &_, bytes| validate_taps(call, 3, bytes), launch_taps;
    "cuda_stem3_tf32" MOST_BYTES, |call: &_, bytes| validate_taps(call, 3, bytes), launch_taps;
    "cuda_stem_matrix32_f16" MOST_MATRIX_BYTES, |call: &_, bytes| validate_matrix(call, 32, bytes),
        |params| launch_matrix(params, 32);
    "cuda_stem_matrix32_bf16" MOST_MATRIX_BYTES, |call: &_, bytes| validate_matrix(call, 32, bytes),
        |params| launch_matrix(params, 32);
    "cuda_stem_matrix64_f16" MOST_MATRIX_BYTES, |call: &_, bytes| validate_matrix(call, 64, bytes),
        |params| launch_matrix(params, 64);
    "cuda_stem_matrix64_bf16" MOST_MATRIX_BYTES, |call: &_, bytes| validate_matrix(call, 64, bytes),
        |params| launch_matrix(params, 64);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_has_a_place_of_its_own() {
        let order = StemFragments { channels: 3, kernel: [5, 3] };
        let mut taken = vec![false; order.elements(40, 64)];
        for output in 0..40 {
            for channel in 0..3 {
                for tap in 0..15 {
                    let place = order.place(output, channel, [tap / 3, tap % 3]);
                    assert!(!std::mem::replace(&mut taken[place], true), "{output} {channel} {tap}");
                }
            }
        }
        // The first lane's first pair, and the one that stands beside it in the same product.
        assert_eq!(order.place(0, 0, [0, 1]), 1);
        assert_eq!(order.place(0, 0, [2, 0]), 2);
    }

    #[test]
    fn matrix_units_take_what_shared_memory_holds() {
        let stem = |channels, out_channels, extent, stride| Stem {
            channels,
            out_channels,
            kernel_h: extent,
            kernel_w: extent,
            stride_h: stride,
            stride_w: stride,
            dilation_h: 1,
            dilation_w: 1,
            out_h: 30,
            ..Stem::default()
        };
        assert_eq!(stem(3, 32, 3, 1).matrix_channels(), Some(32));
        assert_eq!(stem(3, 64, 7, 2).matrix_channels(), Some(64));
        assert_eq!(stem(3, 768, 16, 16).matrix_channels(), None);
        assert_eq!(stem(5, 32, 3, 1).matrix_channels(), None);
        assert_eq!(Stem { out_h: 1, ..stem(3, 32, 3, 1) }.matrix_channels(), None);
        assert_eq!(Stem { dilation_w: 2, ..stem(3, 32, 3, 1) }.matrix_channels(), None);
    }
}
