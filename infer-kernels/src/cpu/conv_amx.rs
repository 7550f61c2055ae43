//! `conv_f32` and `conv_f16w` on AMX, where products by thirds are faster than those of vectors.
//!
//! Loop order: that of `amx_product.rs`, for which the input of tiles of sixteen pixels is split into thirds, tap by tap, once
//! for all panels. Chunks split tiles and pairs of panels in two dimensions.

use std::ops::Range;

use half::f16;

use super::amx::{SIDE, STEP, THIRDS, Unit, split};
use super::amx_product::{Block, Left, MOST_TILES, finish, long_parts, pieces, with_memory};
use super::amx_right::{PAIR, Right};
use super::conv::{CONV_F16W, CONV_F32, grid};
use super::gemm_tile::{Weight, fetch_near};
use super::share;
use super::vector::{Avx512, Vector};
use crate::call::{BLOCK, Conv};
use crate::{Args, RunError};

/// How many steps ahead the input is fetched.
const STEPS_AHEAD: usize = 2;

/// Cycles, as measured: of a step of a row of tiles by a panel, beside other work; of a line that is split, alone and meanwhile;
/// of a vector that is stored by way of a tile; of a multiply-add of sixteen lanes of vectors, in hundredths.
const TILE_CYCLES: u64 = 140;
const LEFT_LINE_CYCLES: u64 = 28;
const RIGHT_LINE_CYCLES: u64 = 4;
const STORE_CYCLES: u64 = 10;
const VECTOR_CENTICYCLES: u64 = 54;

/// Runs one chunk of `conv_f32`.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn conv_f32(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract is passed on.
    unsafe {
        if is_faster(args.params()) {
            conv::<f32>(args, chunk, chunks);
            return Ok(());
        }
        (CONV_F32.run.avx512)(args, chunk, chunks)
    }
}

/// Runs one chunk of `conv_f16w`.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn conv_f16w(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract is passed on.
    unsafe {
        if is_faster(args.params()) {
            conv::<f16>(args, chunk, chunks);
            return Ok(());
        }
        (CONV_F16W.run.avx512)(args, chunk, chunks)
    }
}

/// Whether thirds take less time than vectors: whole blocks of channels, and enough of everything.
pub(super) fn is_faster(p: &Conv) -> bool {
    let block = BLOCK as u64;
    if p.groups != 1
        || p.in_block != block
        || p.in_channels == 0
        || !p.in_channels.is_multiple_of(block)
        || p.weights_stride_n != 0 && p.n > 1
    {
        return false;
    }
    let product =
        |factors: &[u64]| factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor));
    let (taps, panels) = (product(&[p.kernel_h, p.kernel_w]), p.out_channels.div_ceil(block));
    let pixels = product(&[p.n, p.out_h, p.out_w]);
    let (tiles, steps) =
        (pixels.div_ceil(SIDE as u64), product(&[p.in_channels.div_ceil(STEP as u64), taps]));
    let pieces = tiles.div_ceil(MOST_TILES as u64);
    let thirds = [
        product(&[tiles, panels.next_multiple_of(PAIR as u64), steps, TILE_CYCLES]),
        product(&[pixels, steps, LEFT_LINE_CYCLES]),
        product(&[pieces, panels, steps, SIDE as u64, RIGHT_LINE_CYCLES]),
        product(&[pixels, panels, STORE_CYCLES]),
    ];
    let vectors = product(&[pixels, panels, p.in_channels, taps, VECTOR_CENTICYCLES]) / 100;
    let thirds = thirds.into_iter().fold(0, u64::saturating_add);
    // A tenth, for what is not counted.
    thirds.saturating_add(thirds / 10) < vectors
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`]; the input has whole blocks of channels, one group and one set of weights.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn conv<W: Weight>(args: &Args<'_>, chunk: usize, chunks: usize) {
    let p: &Conv = args.params();
    let pixels = (p.n * p.out_h * p.out_w) as usize;
    let panels = (p.out_channels as usize).div_ceil(BLOCK);
    if pixels == 0 || panels == 0 {
        return;
    }
    let right = Right {
        weights: args.operands[1].ptr::<W>().cast_const(),
        blocks: p.in_channels as usize / BLOCK,
        taps: (p.kernel_h * p.kernel_w) as usize,
    };
    let (tiles, steps) = (pixels.div_ceil(SIDE), right.steps());
    let (parts_m, parts_n) = grid(
        chunks,
        tiles,
        panels.div_ceil(PAIR),
        PAIR * steps * TILE_CYCLES as usize,
        PAIR * steps * STEP * BLOCK * size_of::<f32>(),
        SIDE * steps * STEP * size_of::<f32>(),
    );
    let my_tiles = share(tiles, chunk / parts_n, parts_m);
    let my_pairs = share(panels.div_ceil(PAIR), chunk % parts_n, parts_n);
    let my_panels = my_pairs.start * PAIR..panels.min(my_pairs.end * PAIR);
    if my_tiles.is_empty() || my_panels.is_empty() {
        return;
    }
    // SAFETY: the processor has AMX, whose tiles no other kernel uses.
    let unit = unsafe { Unit::new() };
    for (tiles, panels) in pieces(my_tiles, my_panels, steps) {
        let block =
            Block { right, panels: panels.len(), panel: &|index| panels.start + index, tiles: tiles.len() };
        let pixels = tiles.start * SIDE..pixels.min(tiles.end * SIDE);
        let part_steps = steps.div_ceil(long_parts(tiles.len(), steps));
        let left_bytes = tiles.len() * part_steps * THIRDS * size_of::<u16>();
        with_memory(left_bytes + block.bytes(), |memory| {
            let thirds = memory.cast::<u16>();
            // SAFETY: the memory holds the left side and what the block works in; validation bounded all operands.
            unsafe {
                block.run(
                    &unit,
                    memory.add(left_bytes),
                    |part| {
                        let pitch = part.len();
                        split_input(args, &right, pixels.clone(), part, thirds);
                        Left { thirds, pitch }
                    },
                    |panel, sums| finish(args, p, panel, pixels.clone(), sums),
                );
            }
        });
    }
}

/// Writes the thirds of what `pixels` read in some steps to `to`, tile after tile; lines beyond the last pixel are zero.
///
/// # Safety
///
/// The call was validated; there is memory for so many tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn split_input<W>(
    args: &Args<'_>,
    right: &Right<W>,
    pixels: Range<usize>,
    steps: Range<usize>,
    to: *mut u16,
) {
    let p: &Conv = args.params();
    let input = args.operands[0].ptr::<f32>().wrapping_add(p.input.offset as usize).cast_const();
    // SAFETY: the processor has AVX-512.
    let zero = unsafe { Avx512::splat(0.0) };
    let (h, w, taps_w) = (p.out_h as usize, p.out_w as usize, p.kernel_w as usize);
    // Wrapping, because a distance along an extent of 1 may be anything.
    let along =
        |index: usize, stride: u64, between: u64| index.wrapping_mul(stride.wrapping_mul(between) as usize);
    for tile in 0..pixels.len().div_ceil(SIDE) {
        let mut lines: [*const f32; SIDE] = [std::ptr::null(); SIDE];
        for (line, from) in lines.iter_mut().enumerate() {
            let pixel = pixels.start + tile * SIDE + line;
            if pixel < pixels.end {
                let (row, x) = (pixel / w, pixel % w);
                *from = input
                    .wrapping_add(along(row / h, 1, p.input.stride_n))
                    .wrapping_add(along(row % h, p.stride_h, p.input.stride_h))
                    .wrapping_add(along(x, p.stride_w, p.input.stride_w));
            }
        }
        // From the first channel of a pixel's first tap on: a step's first block, and its other one.
        let offsets = |step: usize| {
            let (block, tap) = (2 * (step / right.taps), step % right.taps);
            let offset = along(tap / taps_w, p.dilation_h, p.input.stride_h)
                .wrapping_add(along(tap % taps_w, p.dilation_w, p.input.stride_w))
                .wrapping_add(along(block, 1, p.input.stride_c));
            (offset, (block + 1 < right.blocks).then(|| offset.wrapping_add(p.input.stride_c as usize)))
        };
        for (at, step) in steps.clone().enumerate() {
            let (offset, other) = offsets(step);
            let (ahead, other_ahead) = offsets(step + STEPS_AHEAD);
            let to = to.wrapping_add((tile * steps.len() + at) * THIRDS);
            for (line, &from) in lines.iter().enumerate() {
                let (mut first, mut second) = (zero, zero);
                // SAFETY: validation bounded what the pixels read.
                unsafe {
                    if !from.is_null() {
                        first = Avx512::load(from.wrapping_add(offset));
                        if let Some(other) = other {
                            second = Avx512::load(from.wrapping_add(other));
                        }
                    }
                    split(first.register(), second.register(), to.add(line * STEP));
                }
                fetch_near(from.wrapping_add(ahead).cast());
                fetch_near(from.wrapping_add(other_ahead.unwrap_or(ahead)).cast());
            }
        }
    }
}
