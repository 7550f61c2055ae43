//! `cuda_conv_f16_TILE`, `cuda_conv_f16_TILE_point`, the same of bf16 and tf32, `cuda_conv_f32_64x64`: convolution and matrix product.

use bytemuck::{Pod, Zeroable};

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
    /// Whether blocks are as many as the GPU holds and go from tile to tile, whose sums nobody shares.
    pub wide: bool,
}

/// Finished sums lie in shared memory with so many columns between rows beside the tile's own.
const TILE_PADDING: u32 = 8;

/// Blocks that share a tile are a cluster where they are no more than these, which every GPU with clusters takes.
pub const LARGEST_CLUSTER: u32 = 8;

/// Blocks of a [`wide`](Tile::wide) tile, one a multiprocessor: those of the GPU that plans are made for. Another
/// GPU runs them in turns, or leaves some of its multiprocessors without.
pub const WIDE_BLOCKS: u32 = 132;

/// Threads of a block of a wide tile: a warpgroup that copies, and two that multiply.
const WIDE_THREADS: u32 = 384;

const fn tile(
    name: &'static str,
    point: &'static str,
    [rows, columns]: [u32; 2],
    [threads, stages, blocks]: [u32; 3],
) -> Tile {
    let depth = ROW_BYTES / element_bytes(name) as u32;
    let (stage_bytes, wide) = ((rows + columns) * ROW_BYTES, threads == WIDE_THREADS);
    Tile { name, point, rows, columns, threads, stage_bytes, stages, depth, blocks, wide }
}

/// What a step has of each row of the operands, on matrix units.
const ROW_BYTES: u32 = 128;

/// The tiles of f32 whose products round to tf32.
pub const TILES_TF32: &[Tile] = &[
    tile("cuda_conv_tf32_128x128", "cuda_conv_tf32_128x128_point", [128, 128], [256, 3, 2]),
    tile("cuda_conv_tf32_128x64", "cuda_conv_tf32_128x64_point", [128, 64], [256, 4, 2]),
    tile("cuda_conv_tf32_64x64", "cuda_conv_tf32_64x64_point", [64, 64], [128, 6, 4]),
    tile("cuda_conv_tf32_32x32", "cuda_conv_tf32_32x32_point", [32, 32], [128, 8, 8]),
];

/// The tiles of a type of 16 bits: rows and columns; threads, steps that are there at a time, and blocks.
macro_rules! tiles {
    ($ty:literal: $($size:literal $shape:expr, $counts:expr;)*) => {
        &[$(tile(
            concat!("cuda_conv_", $ty, "_", $size),
            concat!("cuda_conv_", $ty, "_", $size, "_point"),
            $shape,
            $counts,
        )),*]
    };
    ($ty:literal) => {
        tiles! { $ty:
            "128x128" [128, 128], [256, 3, 2];
            "128x64" [128, 64], [256, 4, 3];
            "64x128" [64, 128], [128, 4, 4];
            "64x64" [64, 64], [128, 6, 6];
            "128x32" [128, 32], [256, 4, 3];
            "64x32" [64, 32], [128, 8, 7];
            "32x64" [32, 64], [256, 8, 4];
            "32x32" [32, 32], [128, 8, 7];
            "128x256" [128, 256], [384, 4, 1];
            "128x192" [128, 192], [384, 5, 1];
            "256x128" [256, 128], [384, 4, 1];
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
        wide: false,
    };

    /// The dynamic shared memory of a block that adds so many steps: their operands, as far as they are there at a
    /// time, and then, in their place, finished sums that others share.
    pub const fn shared_bytes(&self, steps: u32, splits: u32) -> u32 {
        let is_f32 = self.depth == Tile::F32.depth;
        let stages = if steps < self.stages && !is_f32 && !self.wide { steps } else { self.stages };
        let shares_sums = splits > 1 || is_f32;
        let sums = if shares_sums { self.rows * (self.columns + TILE_PADDING) * 4 } else { 0 };
        let pipeline = stages * self.stage_bytes;
        if pipeline > sums { pipeline } else { sums }
    }

    /// The most that [`Tile::shared_bytes`] gives.
    const fn most_shared_bytes(&self) -> u32 {
        self.shared_bytes(u32::MAX, if self.wide { 1 } else { u32::MAX })
    }

    /// How many tiles a call has.
    pub fn count(&self, pixels: u64, out_channels: u64) -> u64 {
        pixels.div_ceil(self.rows.into()) * out_channels.div_ceil(self.columns.into())
    }

    /// The size of the partial sums of so many tiles in bytes.
    pub fn partial_bytes(&self, tiles: u64, splits: u64) -> u64 {
        if splits > 1 { tiles * splits * u64::from(self.rows) * u64::from(self.columns) * 4 } else { 0 }
    }

    const fn launch(&self, params: &Conv) -> Launch {
        let tiles = (params.pixels as u32).div_ceil(self.rows) * params.column_tiles as u32;
        let splits = params.splits as u32;
        Launch {
            grid: [if self.wide && tiles > WIDE_BLOCKS { WIDE_BLOCKS } else { tiles }, splits],
            cluster: if splits <= LARGEST_CLUSTER { splits } else { 1 },
            threads: self.threads,
            shared_bytes: self.shared_bytes(params.depth_per_split as u32 / self.depth, splits),
        }
    }

    fn validate(&self, call: &Call<'_>, point: bool, element_bytes: u64) -> Result<(), Invalid> {
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
        let depth = product(&[taps, channels])?;
        call.expect_elements(1, out_channels.checked_mul(depth), element_bytes)?;
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
        if !share.is_multiple_of(self.depth.into()) || splits > 1 << 15 || product(&[splits, share])? < depth
        {
            return Err(Invalid("splits that do not cover the sum"));
        }
        if self.wide && splits > 1 {
            return Err(Invalid("splits of a tile that takes none"));
        }
        let tiles = self.count(pixels, out_channels);
        product(&[tiles, self.threads.into()])?;
        if splits > 1 {
            if tiles > COUNTERS as u64 {
                return Err(Invalid("more tiles to split than counters"));
            }
            call.expect_elements(4, Some(self.partial_bytes(tiles, splits)), 1)?;
        }
        if point
            && (p.taps != 1 || p.pad_h != 0 || p.pad_w != 0 || last.0 as u64 >= in_h || last.1 as u64 >= in_w)
        {
            return Err(Invalid("taps in a kernel for one"));
        }
        Ok(())
    }
}

/// How blocks of a wide tile are launched where its machine code is not that of architecture 9.0: threads and dynamic
/// shared memory of a tile of 128×64, which they go through it by.
pub(super) fn portable(name: &str) -> Option<(u32, u32)> {
    let tile = TILES.iter().chain(TILES_BF16).find(|tile| [tile.name, tile.point].contains(&name))?;
    tile.wide.then_some((TILES[1].threads, TILES[1].shared_bytes(u32::MAX, 1)))
}

/// Both kernels of each tile on matrix units.
macro_rules! kernels {
    ($($module:literal [$($tile:expr),*])*) => {
        &[
            kernel!(Tile::F32.name, "conv_f32", Tile::F32, false),
            $($(
                kernel!($tile.name, $module, $tile, false),
                kernel!($tile.point, $module, $tile, true),
            )*)*
        ]
    };
}

macro_rules! kernel {
    ($name:expr, $module:expr, $tile:expr, $point:expr) => {
        CudaKernel {
            name: $name,
            module: $module,
            validate: |call| $tile.validate(call, $point, const { element_bytes($name) }),
            launch: |params| $tile.launch(bytemuck::from_bytes(params)),
            most_shared_bytes: $tile.most_shared_bytes(),
        }
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! {
    "conv_f16" [
        TILES[0], TILES[1], TILES[2], TILES[3], TILES[4], TILES[5], TILES[6], TILES[7], TILES[8], TILES[9], TILES[10]
    ]
    "conv_bf16" [
        TILES_BF16[0], TILES_BF16[1], TILES_BF16[2], TILES_BF16[3], TILES_BF16[4], TILES_BF16[5], TILES_BF16[6],
        TILES_BF16[7], TILES_BF16[8], TILES_BF16[9], TILES_BF16[10]
    ]
    "conv_tf32" [TILES_TF32[0], TILES_TF32[1], TILES_TF32[2], TILES_TF32[3]]
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A product of so many pixels by 64×256 weights, whole.
    fn product_by(tile: &Tile, pixels: i32) -> Conv {
        Conv {
            in_h: 1,
            in_w: 1,
            in_stride_n: 64,
            in_stride_h: 64,
            in_stride_w: 64,
            channels: 64,
            taps: 1,
            kernel_w: 1,
            out_h: 1,
            out_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pixels,
            out_channels: 256,
            out_stride: 256,
            splits: 1,
            depth_per_split: 64,
            column_tiles: 256 / tile.columns as i32 + i32::from(256 % tile.columns > 0),
            ..Conv::default()
        }
    }

    fn validate(tile: &Tile, params: &Conv) -> Result<(), Invalid> {
        let pixels = params.pixels as u64;
        let partials = tile.partial_bytes(tile.count(pixels, 256), params.splits as u64);
        let operand_bytes = [pixels * 64 * 2, 256 * 64 * 2, 0, 0, partials, pixels * 256 * 2];
        tile.validate(&Call { params: bytemuck::bytes_of(params), operand_bytes: &operand_bytes }, true, 2)
    }

    #[test]
    fn sums_of_wide_tiles_are_not_shared() {
        for tile in TILES {
            let whole = product_by(tile, 300);
            assert_eq!(validate(tile, &whole), Ok(()), "{}", tile.name);
            let shared = Conv { splits: 2, ..whole };
            assert_eq!(validate(tile, &shared).is_ok(), !tile.wide, "{}", tile.name);
        }
    }

    #[test]
    fn blocks_of_wide_tiles_are_no_more_than_multiprocessors() {
        for tile in TILES {
            let launch = tile.launch(&product_by(tile, 1 << 16));
            assert_eq!(launch.grid[0] <= WIDE_BLOCKS, tile.wide, "{}", tile.name);
            assert!(tile.launch(&product_by(tile, 300)).grid[0] < WIDE_BLOCKS);
        }
    }

    #[test]
    fn shared_memory_is_what_gpus_have() {
        // A block of architecture 9.0 has 227 KB, of 8.6 and 8.9 99 KB, barriers and the like included.
        const STATIC: u32 = 5 << 10;
        for tile in TILES.iter().chain(TILES_BF16).chain(TILES_TF32) {
            let bytes = tile.most_shared_bytes();
            let elsewhere = portable(tile.name).map_or(bytes, |(_, bytes)| bytes);
            assert!(bytes + STATIC <= 227 << 10, "{}", tile.name);
            assert!(elsewhere + 1024 <= 99 << 10, "{}", tile.name);
            assert_eq!(portable(tile.point).is_some(), tile.wide);
        }
    }
}
