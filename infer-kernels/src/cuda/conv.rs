//! `cuda_conv_f16_TILE`, `cuda_conv_f16_TILE_point`, the same of bf16 and tf32, `cuda_conv_f32_64x64`: convolution and matrix product.
//! `cuda_conv_f16_tma_TILE` and the same of bf16 are for architecture 9.0 alone, and for others one of the former.

use bytemuck::{Pod, Zeroable};

use super::boxes::{Boxes, Copies, TensorMap};
use super::{COUNTERS, CudaKernel, Launch, element_bytes, expect_picture, extent};
use super::{positive, product};
use crate::call::Activation;
use crate::{Call, Invalid};

/// The parameters of a convolution.
///
/// `out[n, y, x, o] = act(bias[o] + Σ in[n, y·stride_h − pad_h + i·dilation_h, …, c] · w[o, i, j, c])`
///
/// Operands: input; weights `[out_channels][taps][channels]`; bias f32 `[out_channels]` or absent; residual or absent;
/// partial sums, f32 `[tiles][splits][tile]`, or absent where `splits` is 1; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Conv {
    /// Input rows; taps beyond them are zero.
    pub in_h: i32,
    /// Input columns.
    pub in_w: i32,
    /// Elements from one image to the next.
    pub in_stride_n: i32,
    /// Elements from one row to the next.
    pub in_stride_h: i32,
    /// Elements from one pixel to the next.
    pub in_stride_w: i32,
    /// Input channels.
    pub channels: i32,
    /// Taps: kernel rows × columns.
    pub taps: i32,
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
    /// Elements from one pixel of the residual to the next.
    pub residual_stride: i32,
    /// One of [`residual`](crate::call::residual).
    pub residual_mode: i32,
    /// How many blocks share a tile, each a range of the sum.
    pub splits: i32,
    /// The length of these ranges, a multiple of [`Tile::depth`].
    pub depth_per_split: i32,
    /// Tiles side by side along the output's channels.
    pub column_tiles: i32,
    /// Applied last or before the residual.
    pub activation: Activation,
}

/// What a block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The kernel.
    pub name: &'static str,
    /// The kernel for one tap without padding.
    pub point: &'static str,
    /// Pixels.
    pub rows: u32,
    /// Channels.
    pub columns: u32,
    /// Threads.
    pub threads: u32,
    /// Shared memory of a step's operands.
    stage_bytes: u32,
    /// The most steps whose operands are there at a time.
    stages: u32,
    /// Elements of the sum that are added between two barriers.
    pub depth: u32,
    /// The most blocks that a multiprocessor has registers for.
    pub blocks: u32,
    /// Whether the tensor memory accelerator copies the operands ([`Copies`]): blocks stay for many tiles, but where a
    /// cluster of them shares one.
    pub copied: bool,
    /// Whether a cluster of blocks has all columns of some rows, and normalises these ([`NormalisedConv`](super::NormalisedConv)).
    pub normalises: bool,
    /// Rows of finished sums that are stored at a time, of [`STORED_COLUMNS`] columns, where they are copied, and for how many such
    /// parts each of the two groups of warps that a block has there has shared memory.
    stored: [u32; 2],
}

/// Columns of finished sums that are stored at a time, where they are copied.
const STORED_COLUMNS: u32 = 64;

/// Finished sums lie in shared memory with so many columns between rows beside the tile's own.
const TILE_PADDING: u32 = 8;

/// As many blocks as there are multiprocessors in an H100 or H200 stay for many tiles.
pub(super) const STAYING_BLOCKS: u32 = 132;

/// Blocks that share a tile are a cluster where they are no more than these, which every GPU with clusters takes.
pub const LARGEST_CLUSTER: u32 = 8;

const fn tile(
    name: &'static str,
    point: &'static str,
    [rows, columns, row_bytes]: [u32; 3],
    [threads, stages, blocks]: [u32; 3],
) -> Tile {
    let depth = row_bytes / element_bytes(name) as u32;
    let stage_bytes = (rows + columns) * row_bytes;
    Tile {
        name,
        point,
        rows,
        columns,
        threads,
        stage_bytes,
        stages,
        depth,
        blocks,
        copied: false,
        normalises: false,
        stored: [0; 2],
    }
}

/// A tile that is copied.
const fn copied_tile(
    name: &'static str,
    point: &'static str,
    shape: [u32; 3],
    stages: u32,
    stored: [u32; 2],
) -> Tile {
    Tile { copied: true, stored, ..tile(name, point, shape, [384, stages, 1]) }
}

/// A tile that is copied and normalises: what is added, and what is finished, lies where operands of steps did.
pub(super) const fn normalising_tile(name: &'static str, shape: [u32; 3], stages: u32) -> Tile {
    Tile { normalises: true, ..copied_tile(name, name, shape, stages, [shape[0] / 2, 0]) }
}

/// The tiles of f32 whose products round to tf32.
pub const TILES_TF32: &[Tile] = &[
    tile("cuda_conv_tf32_128x128", "cuda_conv_tf32_128x128_point", [128, 128, 128], [256, 3, 2]),
    tile("cuda_conv_tf32_128x64", "cuda_conv_tf32_128x64_point", [128, 64, 128], [256, 4, 2]),
    tile("cuda_conv_tf32_64x64", "cuda_conv_tf32_64x64_point", [64, 64, 128], [128, 6, 4]),
    tile("cuda_conv_tf32_32x32", "cuda_conv_tf32_32x32_point", [32, 32, 128], [128, 8, 8]),
];

/// The tiles of a type of 16 bits: rows, columns, and bytes that a step has of each row of the operands; threads, steps that are there
/// at a time, and blocks.
macro_rules! tiles {
    ($ty:literal: $($size:literal $shape:expr, $counts:expr;)* copied $($copied:literal $copied_shape:expr, $stages:expr, $stored:expr;)*) => {
        &[
            $(tile(
                concat!("cuda_conv_", $ty, "_", $size),
                concat!("cuda_conv_", $ty, "_", $size, "_point"),
                $shape,
                $counts,
            ),)*
            $(copied_tile(
                concat!("cuda_conv_", $ty, "_tma_", $copied),
                concat!("cuda_conv_", $ty, "_tma_", $copied, "_point"),
                $copied_shape,
                $stages,
                $stored,
            ),)*
        ]
    };
    ($ty:literal) => {
        tiles! { $ty:
            "128x128" [128, 128, 128], [256, 3, 2];
            "128x64" [128, 64, 128], [256, 4, 3];
            "64x128" [64, 128, 128], [128, 4, 4];
            "64x64" [64, 64, 128], [128, 6, 6];
            "128x32" [128, 32, 128], [256, 4, 3];
            "64x32" [64, 32, 128], [128, 8, 7];
            "32x64" [32, 64, 128], [256, 8, 4];
            "32x32" [32, 32, 128], [128, 8, 7];
            copied
            "128x64" [128, 64, 128], 6, [128, 2];
            "128x128" [128, 128, 128], 5, [128, 2];
            "128x256" [128, 256, 128], 4, [64, 2];
            "256x128" [256, 128, 128], 4, [128, 1];
            "128x64x32" [128, 64, 64], 12, [128, 2];
        }
    };
}

/// The tiles of f16.
pub const TILES: &[Tile] = tiles!("f16");

/// The tiles of bf16.
pub const TILES_BF16: &[Tile] = tiles!("bf16");

impl Tile {
    /// The tile of f32.
    pub const F32: Tile = Tile {
        name: "cuda_conv_f32_64x64",
        point: "cuda_conv_f32_64x64",
        rows: 64,
        columns: 64,
        threads: 256,
        stage_bytes: (64 + 4) * 2 * 16 * 4,
        stages: 2,
        depth: 16,
        blocks: 8,
        copied: false,
        normalises: false,
        stored: [0; 2],
    };

    /// The dynamic shared memory of a block that adds so many steps: their operands, as far as they are there at a
    /// time, and then, in their place, finished sums that others share.
    pub const fn shared_bytes(&self, steps: u32, splits: u32) -> u32 {
        let is_f32 = self.depth == Tile::F32.depth;
        let stages = if steps < self.stages && !is_f32 && !self.copied { steps } else { self.stages };
        let shares_sums = splits > 1 || is_f32;
        let sums = if shares_sums { self.rows * (self.columns + TILE_PADDING) * 4 } else { 0 };
        let pipeline = stages * self.stage_bytes + 2 * self.stored[0] * self.stored[1] * STORED_COLUMNS * 2;
        if pipeline > sums { pipeline } else { sums }
    }

    /// How many tiles a call has.
    pub fn count(&self, pixels: u64, out_channels: u64) -> u64 {
        pixels.div_ceil(self.rows.into()) * out_channels.div_ceil(self.columns.into())
    }

    /// The steps of a call's sums: where they are copied, each tap has steps of its own.
    pub fn steps(&self, params: &Conv) -> u64 {
        let [taps, channels, depth] = [params.taps as u64, params.channels as u64, u64::from(self.depth)];
        if self.copied { taps * channels.div_ceil(depth) } else { (taps * channels).div_ceil(depth) }
    }

    /// The size of the partial sums of so many tiles in bytes. Of a tile that is copied they are never in memory.
    pub fn partial_bytes(&self, tiles: u64, splits: u64) -> u64 {
        if splits > 1 && !self.copied {
            tiles * splits * u64::from(self.rows) * u64::from(self.columns) * 4
        } else {
            0
        }
    }

    /// Whether a block's two groups of warps compute a tile each, in turns, where it is copied; else they share one.
    pub fn alternates(&self) -> bool {
        self.copied && self.stored[0] == self.rows
    }

    /// Whether so many blocks can share a tile. Where it is copied, each of them finishes some of its products of 64×64, and
    /// has steps of its own.
    pub fn takes_splits(&self, splits: u64, params: &Conv) -> bool {
        let products = u64::from(self.rows / 64 * self.columns / 64);
        let each = self.steps(params).div_ceil(splits.max(1));
        splits == 1
            || !self.copied
            || self.alternates()
                && products.is_multiple_of(splits)
                && (splits - 1) * each < self.steps(params)
    }

    /// Whether the tile can compute such a call. A copied one has limits to its windows, which are those of [`Boxes::Windows`]; those
    /// that normalise have whole rows of what is not activated, in clusters of at least two blocks.
    pub fn takes(&self, params: &Conv) -> bool {
        if self.normalises {
            let columns = params.out_channels as u32;
            return self.is_point(params)
                && params.activation == Activation::NONE
                && columns.is_multiple_of(self.columns)
                && (2..=LARGEST_CLUSTER).contains(&(columns / self.columns));
        }
        !self.copied || self.is_point(params) || {
            let [lower, upper] = params.corners();
            let within = |corner: &i64| (-128..128).contains(corner);
            let kernel_h = (params.taps - 1) / params.kernel_w.max(1);
            let reach = [(kernel_h, params.dilation_h), (params.kernel_w - 1, params.dilation_w)];
            lower.iter().chain(&upper).all(within)
                && reach.iter().all(|&(taps, by)| i64::from(taps) * i64::from(by) < 256)
                && [params.stride_h, params.stride_w].iter().all(|&stride| stride <= 8)
        }
    }

    /// The kernel that computes such a call.
    pub fn kernel(&self, params: &Conv) -> &'static str {
        if self.is_point(params) { self.point } else { self.name }
    }

    /// Whether there is one tap without padding and, where it is copied, pixels follow one another.
    fn is_point(&self, params: &Conv) -> bool {
        let is_point = params.taps == 1 && params.pad_h == 0 && params.pad_w == 0;
        is_point && (!self.copied || params.pixels_in_a_row().is_some())
    }

    pub(super) const fn launch(&self, params: &Conv) -> Launch {
        let row_tiles = (params.pixels as u32).div_ceil(self.rows);
        let tiles = row_tiles * params.column_tiles as u32;
        if self.normalises {
            let columns = params.column_tiles as u32;
            let shared_bytes = self.shared_bytes(self.stages, 1);
            return Launch {
                grid: [row_tiles, columns],
                cluster: columns,
                threads: self.threads,
                shared_bytes,
            };
        }
        let splits = params.splits as u32;
        let tiles = if self.copied && splits == 1 && tiles > STAYING_BLOCKS { STAYING_BLOCKS } else { tiles };
        Launch {
            grid: [tiles, splits],
            cluster: if splits <= LARGEST_CLUSTER { splits } else { 1 },
            threads: self.threads,
            shared_bytes: self.shared_bytes(params.depth_per_split as u32 / self.depth, splits),
        }
    }

    pub(super) fn validate(&self, call: &Call<'_>, point: bool, element_bytes: u64) -> Result<(), Invalid> {
        let p: &Conv = call.params()?;
        call.expect_operands(6)?;
        let [channels, taps, out_channels] =
            [positive(p.channels)?, positive(p.taps)?, positive(p.out_channels)?];
        let [out_h, out_w, pixels] = [positive(p.out_h)?, positive(p.out_w)?, positive(p.pixels)?];
        let [in_h, in_w] = [positive(p.in_h)?, positive(p.in_w)?];
        let strides = [extent(p.in_stride_n)?, positive(p.in_stride_h)?, positive(p.in_stride_w)?];
        if [p.channels, p.in_stride_n, p.in_stride_h, p.in_stride_w].iter().any(|extent| extent % 8 != 0) {
            return Err(Invalid("channels that do not come in groups"));
        }
        positive(p.kernel_w)?;
        // Rows and columns are counted in 16 bits; sums of such numbers stay inside 32.
        for small in [p.in_h, p.in_w, p.out_h, p.out_w, p.kernel_w, p.taps] {
            if small >= 1 << 15 {
                return Err(Invalid("extents beyond 2^15"));
            }
        }
        for (least, window) in [
            (1, p.stride_h),
            (1, p.stride_w),
            (0, p.pad_h),
            (0, p.pad_w),
            (1, p.dilation_h),
            (1, p.dilation_w),
        ] {
            if !(least..1 << 15).contains(&window) {
                return Err(Invalid("a window out of range"));
            }
        }
        // Rows beyond the last pixel count as 2^15 above the picture: no tap may reach it from there.
        let kernel_h = taps.div_ceil(p.kernel_w as u64);
        for (extent, dilation) in [(kernel_h, p.dilation_h), (p.kernel_w as u64, p.dilation_w)] {
            if product(&[extent, dilation as u64])? >= 1 << 15 {
                return Err(Invalid("a window out of range"));
            }
        }
        let last = (p.out_h - 1)
            .checked_mul(p.stride_h)
            .zip((p.out_w - 1).checked_mul(p.stride_w))
            .ok_or(Invalid("a window out of range"))?;
        if last.0 >= 1 << 15 || last.1 >= 1 << 15 {
            return Err(Invalid("a window out of range"));
        }
        // Every tap inside the picture is at an offset of 32 bits.
        let images = pixels.div_ceil(out_h * out_w);
        let reach = [(images - 1, strides[0]), (in_h - 1, strides[1]), (in_w - 1, strides[2])];
        let reach =
            reach.iter().try_fold(0u64, |sum, &(count, stride)| Ok(sum + product(&[count, stride])?))?;
        let elements = product(&[1, reach + channels])?;
        call.expect_elements(0, Some(elements), element_bytes)?;
        call.expect_elements(1, out_channels.checked_mul(product(&[taps, channels])?), element_bytes)?;
        if call.operand_bytes.get(2).is_some_and(|&bytes| bytes > 0) {
            call.expect_elements(2, Some(out_channels), 4)?;
        }
        match p.residual_mode {
            0 => {}
            1 | 2 => expect_picture(call, 3, pixels, p.residual_stride, out_channels, element_bytes)?,
            _ => return Err(Invalid("an unknown residual")),
        }
        expect_picture(call, 5, pixels, p.out_stride, out_channels, element_bytes)?;

        let columns = out_channels.div_ceil(self.columns.into());
        if u64::try_from(p.column_tiles) != Ok(columns) {
            return Err(Invalid("tiles that do not cover the channels"));
        }
        let [splits, share] = [positive(p.splits)?, positive(p.depth_per_split)?];
        let each = share / u64::from(self.depth);
        if !share.is_multiple_of(self.depth.into()) || splits > 1 << 15 || splits * each < self.steps(p) {
            return Err(Invalid("splits that do not cover the sum"));
        }
        let exact = !self.copied || each == self.steps(p).div_ceil(splits);
        if !self.takes(p) || !self.takes_splits(splits, p) || !exact {
            return Err(Invalid("a window or splits which a tile that is copied does not take"));
        }
        let tiles = self.count(pixels, out_channels);
        product(&[tiles, self.threads.into()])?;
        if splits > 1 && !self.copied {
            if tiles > COUNTERS as u64 {
                return Err(Invalid("more tiles to split than counters"));
            }
            call.expect_elements(4, Some(self.partial_bytes(tiles, splits)), 1)?;
        }
        if point && (!self.is_point(p) || last.0 as u64 >= in_h || last.1 as u64 >= in_w) {
            return Err(Invalid("taps in a kernel for one"));
        }
        Ok(())
    }
}

impl Conv {
    /// The images of a call that the kernel has validated.
    fn images(&self) -> u64 {
        (self.pixels as u64).div_ceil((i64::from(self.out_h) * i64::from(self.out_w)).max(1) as u64)
    }

    /// The elements from one pixel to the next, where output pixels read them one after the other.
    fn pixels_in_a_row(&self) -> Option<u64> {
        let same = (self.in_h, self.in_w) == (self.out_h, self.out_w);
        let step = if self.in_h == 1 && self.in_w == 1 { self.in_stride_n } else { self.in_stride_w };
        let (row, image) =
            (i64::from(self.in_w) * i64::from(step), i64::from(self.in_h) * i64::from(self.in_stride_h));
        let rows = self.in_h == 1 || i64::from(self.in_stride_h) == row;
        let images = self.in_h * self.in_w == 1 || self.images() == 1 || i64::from(self.in_stride_n) == image;
        (same && self.stride_h == 1 && self.stride_w == 1 && rows && images).then_some(step.max(8) as u64)
    }

    /// How far the first and the last window begin from the first and the last column and row.
    fn corners(&self) -> [[i64; 2]; 2] {
        let [lower_w, lower_h] = [-i64::from(self.pad_w), -i64::from(self.pad_h)];
        let upper = |lower: i64, out: i32, stride: i32, extent: i32| {
            lower + (i64::from(out) - 1) * i64::from(stride) + 1 - i64::from(extent)
        };
        let upper_w = upper(lower_w, self.out_w, self.stride_w, self.in_w);
        [[lower_w, lower_h], [upper_w, upper(lower_h, self.out_h, self.stride_h, self.in_h)]]
    }
}

impl Tile {
    /// Input, weights, residual and output as the kernel has them copied, for parameters that it has validated.
    pub(super) fn tensors(&self, params: &Conv, bf16: bool) -> Vec<TensorMap> {
        let bytes = |elements: i32| elements.max(8) as u64 * 2;
        let (channels, depth) = (params.channels as u64, self.depth);
        let map = |operand, extents: &[u64], strides: &[u64], boxes| TensorMap {
            operand,
            bf16,
            extents: extents.to_vec(),
            strides: strides.to_vec(),
            boxes,
        };
        let input = match params.pixels_in_a_row() {
            Some(step) if self.is_point(params) => {
                let boxes = Boxes::Whole(vec![depth, self.rows]);
                map(0, &[channels, params.pixels as u64], &[step * 2], boxes)
            }
            _ => {
                let [lower, upper] = params.corners().map(|corner| corner.map(|at| at as i32));
                let steps = [params.stride_w as u32, params.stride_h as u32];
                map(
                    0,
                    &[channels, params.in_w as u64, params.in_h as u64, params.images()],
                    &[params.in_stride_w, params.in_stride_h, params.in_stride_n].map(bytes),
                    Boxes::Windows { lower, upper, steps, channels: depth, pixels: self.rows },
                )
            }
        };
        let weights = map(
            1,
            &[channels, params.taps as u64, params.out_channels as u64],
            &[bytes(params.channels), bytes(params.channels) * params.taps as u64],
            Boxes::Whole(vec![depth, 1, self.columns]),
        );
        let rows = |operand, stride| {
            let boxes = Boxes::Whole(vec![STORED_COLUMNS, self.stored[0]]);
            map(operand, &[params.out_channels as u64, params.pixels as u64], &[bytes(stride)], boxes)
        };
        let output = rows(5, params.out_stride);
        let residual = match params.residual_mode {
            0 => output.clone(),
            _ => rows(3, params.residual_stride),
        };
        vec![input, weights, residual, output]
    }

    /// The kernel of `other` that computes the same call, which this tile computes, and its parameters.
    pub(super) fn otherwise(&self, mut params: Conv, other: &'static Tile) -> (&'static str, Vec<u8>) {
        params.column_tiles = (params.out_channels as u32).div_ceil(other.columns) as i32;
        params.splits = 1;
        params.depth_per_split = other.steps(&params) as i32 * other.depth as i32;
        (other.kernel(&params), bytemuck::bytes_of(&params).to_vec())
    }
}

/// Both kernels of each tile on matrix units.
macro_rules! kernels {
    ($($module:literal [$($tile:expr),*])* copied $($copied:literal $bf16:literal $tiles:ident[$($index:literal),*])*) => {
        &[
            kernel!(Tile::F32.name, "conv_f32", Tile::F32, false, None),
            $($(
                kernel!($tile.name, $module, $tile, false, None),
                kernel!($tile.point, $module, $tile, true, None),
            )*)*
            $($(
                kernel!($tiles[$index].name, $copied, $tiles[$index], false, copies!($tiles[$index], $bf16, $tiles)),
                kernel!($tiles[$index].point, $copied, $tiles[$index], true, copies!($tiles[$index], $bf16, $tiles)),
            )*)*
        ]
    };
}

/// What a copied tile of a list needs. Where there is no accelerator, the list's first takes its place.
macro_rules! copies {
    ($tile:expr, $bf16:literal, $tiles:ident) => {
        Some(Copies {
            tensors: |params| $tile.tensors(&bytemuck::pod_read_unaligned(params), $bf16),
            otherwise: |params| $tile.otherwise(bytemuck::pod_read_unaligned(params), &$tiles[0]),
            own_operands: 0,
            with_next: false,
        })
    };
}

macro_rules! kernel {
    ($name:expr, $module:expr, $tile:expr, $point:expr, $copies:expr) => {
        CudaKernel {
            name: $name,
            module: $module,
            validate: |call| $tile.validate(call, $point, const { element_bytes($name) }),
            launch: |params| $tile.launch(bytemuck::from_bytes(params)),
            most_shared_bytes: $tile.shared_bytes(u32::MAX, if $tile.copied { 1 } else { u32::MAX }),
            copies: $copies,
        }
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! {
    "conv_f16" [TILES[0], TILES[1], TILES[2], TILES[3], TILES[4], TILES[5], TILES[6], TILES[7]]
    "conv_bf16" [
        TILES_BF16[0], TILES_BF16[1], TILES_BF16[2], TILES_BF16[3], TILES_BF16[4], TILES_BF16[5], TILES_BF16[6],
        TILES_BF16[7]
    ]
    "conv_tf32" [TILES_TF32[0], TILES_TF32[1], TILES_TF32[2], TILES_TF32[3]]
    copied
    "conv_f16_tma" false TILES[8, 9, 10, 11, 12]
    "conv_bf16_tma" true TILES_BF16[8, 9, 10, 11, 12]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_what_gpus_have() {
        // A block of architectures 8.6 and 8.9 has 99 KB, a part of which is not the kernel's.
        for tile in TILES.iter().chain(TILES_BF16).chain(TILES_TF32).filter(|tile| !tile.copied) {
            assert!(tile.shared_bytes(u32::MAX, u32::MAX) + 1024 <= 99 << 10, "{}", tile.name);
        }
    }

    /// 3×3 of 24 channels at stride 2, padded by 1, of two pictures of 19×13.
    const STRIDED: Conv = Conv {
        in_h: 19,
        in_w: 13,
        in_stride_n: 19 * 13 * 24,
        in_stride_h: 13 * 24,
        in_stride_w: 24,
        channels: 24,
        taps: 9,
        kernel_w: 3,
        out_h: 10,
        out_w: 7,
        stride_h: 2,
        stride_w: 2,
        pad_h: 1,
        pad_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pixels: 2 * 10 * 7,
        out_channels: 200,
        out_stride: 200,
        residual_stride: 0,
        residual_mode: 0,
        splits: 1,
        depth_per_split: 256,
        column_tiles: 1,
        activation: Activation::NONE,
    };

    fn copied() -> impl Iterator<Item = &'static Tile> {
        TILES.iter().chain(TILES_BF16).filter(|tile| tile.copied)
    }

    #[test]
    fn windows_are_copied_as_padding_and_steps_have_them() {
        for tile in copied() {
            let [input, weights, _, output] = &tile.tensors(&STRIDED, false)[..] else { panic!() };
            assert_eq!(input.extents, [24, 13, 19, 2]);
            assert_eq!(input.strides, [48, 13 * 48, 19 * 13 * 48]);
            // The last windows begin at column 11 of 13 and row 17 of 19.
            let (lower, upper, steps) = ([-1, -1], [-1, -1], [2, 2]);
            let boxes = Boxes::Windows { lower, upper, steps, channels: tile.depth, pixels: tile.rows };
            assert_eq!(input.boxes, boxes);
            assert_eq!((&weights.extents[..], &weights.strides[..]), (&[24, 9, 200][..], &[48, 9 * 48][..]));
            assert_eq!(
                (output.operand, &output.extents[..], &output.strides[..]),
                (5, &[200, 140][..], &[400][..])
            );
        }
    }

    #[test]
    fn what_is_no_window_of_boxes_is_not_taken() {
        let far = Conv { pad_h: 129, ..STRIDED };
        let wide = Conv { dilation_w: 128, ..STRIDED };
        let fast = Conv { stride_h: 9, ..STRIDED };
        for tile in copied() {
            assert!(tile.takes(&STRIDED));
            assert!([far, wide, fast].iter().all(|call| !tile.takes(call)), "{}", tile.name);
        }
        assert!(TILES[0].takes(&far));
    }

    #[test]
    fn every_copied_call_runs_otherwise_too() {
        let operand_bytes = [2 * 19 * 13 * 24 * 2, 200 * 9 * 24 * 2, 0, 0, 0, 140 * 200 * 2];
        for (tile, splits) in copied().flat_map(|tile| [(tile, 1), (tile, 2)]) {
            if !tile.takes_splits(splits, &STRIDED) {
                continue;
            }
            let column_tiles = 200u32.div_ceil(tile.columns) as i32;
            let depth_per_split = tile.steps(&STRIDED).div_ceil(splits) as i32 * tile.depth as i32;
            let params = Conv { column_tiles, splits: splits as i32, depth_per_split, ..STRIDED };
            let loose = Conv { depth_per_split: depth_per_split + tile.depth as i32, ..params };
            let call = Call { params: bytemuck::bytes_of(&loose), operand_bytes: &operand_bytes };
            assert!((crate::cuda::find(tile.name).unwrap().validate)(&call).is_err());
            let params = bytemuck::bytes_of(&params);
            let kernel = crate::cuda::find(tile.name).unwrap();
            (kernel.validate)(&Call { params, operand_bytes: &operand_bytes }).unwrap();
            let (name, other) = (kernel.copies.as_ref().unwrap().otherwise)(params);
            let other: Conv = bytemuck::pod_read_unaligned(&other);
            let call = Call { params: bytemuck::bytes_of(&other), operand_bytes: &operand_bytes };
            let found = crate::cuda::find(name).unwrap();
            assert!(found.copies.is_none());
            (found.validate)(&call).unwrap();
        }
    }
}
