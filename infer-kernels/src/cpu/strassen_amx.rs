//! `strassen_left_f32`, `strassen_f32` and `strassen_f16w` on AMX: there the eight products of the definition, by thirds, are
//! faster than seven of vectors.
//!
//! The left side is kept as tiles of thirds, `[rows/16][columns/32]`, made once for all columns of the product.

use half::f16;

use super::amx::{SIDE, STEP, THIRDS, Unit, split};
use super::amx_product::{Block, Left, finish, pieces, with_memory};
use super::amx_right::Right;
use super::gemm_tile::Weight;
use super::share;
use super::strassen::{GROUP, Portion};
use super::vector::{Avx512, Vector};
use crate::call::{BLOCK, Strassen, StrassenLeft};
use crate::{Args, RunError};

/// Steps of the left side whose lines follow each other.
const STRIP: usize = 4;

/// Runs one chunk of `strassen_left_f32`: strips of tiles.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn left(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &StrassenLeft = args.params();
    let (rows, steps) = (p.rows as usize, p.columns as usize / STEP);
    let (from, to) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<u16>());
    let strips = steps.div_ceil(STRIP);
    for unit in share(rows.div_ceil(SIDE) * strips, chunk, chunks) {
        let (tile, first) = (unit / strips, unit % strips * STRIP);
        for line in 0..SIDE {
            let row = tile * SIDE + line;
            for step in first..steps.min(first + STRIP) {
                // SAFETY: validation bounded both sides; a row is read only if there is one.
                unsafe {
                    let (mut low, mut high) = (Avx512::splat(0.0), Avx512::splat(0.0));
                    if row < rows {
                        let at = from.add(row * p.stride as usize + step * STEP);
                        (low, high) = (Avx512::load(at), Avx512::load(at.add(BLOCK)));
                    }
                    let line = to.add((tile * steps + step) * THIRDS + line * STEP);
                    split(low.register(), high.register(), line);
                }
            }
        }
    }
    Ok(())
}

/// Runs one chunk of `strassen_f32`.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn strassen_f32(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract is passed on.
    unsafe { strassen::<f32>(args, chunk, chunks) }
}

/// Runs one chunk of `strassen_f16w`.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn strassen_f16w(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract is passed on.
    unsafe { strassen::<f16>(args, chunk, chunks) }
}

/// Runs one chunk of a product.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn strassen<W: Weight>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let s: &Strassen = args.params();
    let p = &s.conv;
    let rows = (p.out_w as usize).div_ceil(SIDE);
    let Some(mine) = Portion::new(args, rows, chunk, chunks) else { return Ok(()) };
    let right = Right {
        weights: args.operands[1].ptr::<W>().cast_const(),
        blocks: p.in_channels as usize / BLOCK,
        taps: 1,
    };
    let steps = right.steps();
    // SAFETY: the processor has AMX, whose tiles no other kernel uses.
    let unit = unsafe { Unit::new() };
    for (tiles, panels) in pieces(mine.rows.clone(), 0..mine.groups() * GROUP, steps) {
        let panel = |index: usize| {
            let index = panels.start + index;
            mine.group(index / GROUP) * GROUP + index % GROUP
        };
        let block = Block { right, panels: panels.len(), panel: &panel, tiles: tiles.len() };
        let thirds = args.operands[0].ptr::<u16>().wrapping_add(tiles.start * steps * THIRDS).cast_const();
        let rows = tiles.start * SIDE..(tiles.end * SIDE).min(p.out_w as usize);
        with_memory(block.bytes(), |memory| {
            // SAFETY: the memory is what the block works in; validation bounded all operands.
            unsafe {
                block.run(
                    &unit,
                    memory,
                    |part| Left { thirds: thirds.wrapping_add(part.start * THIRDS), pitch: steps },
                    |panel, sums| finish(args, p, panel, rows.clone(), sums),
                );
            }
        });
    }
    Ok(())
}
