//! Queries, keys and values as the tiles of `gemm_tile.rs` read them.
//!
//! Queries become blocks of 16 elements `[size/16][rows][16]`, keys and values panels of 16 columns `[keys/16][size][16]`
//! and `[value_size/16][keys][16]`. Lanes beyond the last column are zero.

use crate::call::{BLOCK, HeadView};
use crate::cpu::softmax::load;
use crate::cpu::vector::Vector;

/// `rows` queries of `size` elements times `scale`; `rows_in_block` is the distance between blocks in rows.
///
/// # Safety
///
/// The processor has `V`'s instruction set; the queries are readable, and `size` rounded up to blocks times
/// `rows_in_block` elements writable.
#[inline(always)]
pub(super) unsafe fn queries<V: Vector>(
    from: *const f32,
    pitch: usize,
    rows: usize,
    size: usize,
    scale: f32,
    to: *mut f32,
    rows_in_block: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let scale = V::splat(scale);
        for row in 0..rows {
            for at in (0..size).step_by(BLOCK) {
                let x = load::<V>(from.add(row * pitch + at), (size - at).min(BLOCK)) * scale;
                x.store(to.add(at * rows_in_block + row * BLOCK));
            }
        }
    }
}

/// `count` keys of `size` elements as panels of 16 keys.
///
/// # Safety
///
/// The processor has `V`'s instruction set; the keys are readable at `from` by the strides of `view`, and `count`
/// rounded up to 16 times `size` elements writable.
#[inline(always)]
pub(super) unsafe fn keys<V: Vector>(
    from: *const f32,
    view: &HeadView,
    count: usize,
    size: usize,
    to: *mut f32,
) {
    let (row, element) = (view.row as usize, view.element as usize);
    for first in (0..count).step_by(BLOCK) {
        let lanes = (count - first).min(BLOCK);
        // SAFETY: the caller's promises.
        unsafe {
            let (from, to) = (from.add(first * row), to.add(first * size));
            if element == 1 {
                for at in (0..size).step_by(BLOCK) {
                    let elements = (size - at).min(BLOCK);
                    let mut square = [V::splat(0.0); BLOCK];
                    for (lane, slot) in square.iter_mut().enumerate().take(lanes) {
                        *slot = load::<V>(from.add(lane * row + at), elements);
                    }
                    for (i, column) in V::transpose(square).into_iter().enumerate().take(elements) {
                        column.store(to.add((at + i) * BLOCK));
                    }
                }
            } else if row == 1 {
                for i in 0..size {
                    load::<V>(from.add(i * element), lanes).store(to.add(i * BLOCK));
                }
            } else {
                for i in 0..size {
                    for lane in 0..BLOCK {
                        let x = if lane < lanes { *from.add(lane * row + i * element) } else { 0.0 };
                        *to.add(i * BLOCK + lane) = x;
                    }
                }
            }
        }
    }
}

/// `count` values of `size` elements as panels of 16 elements.
///
/// # Safety
///
/// The processor has `V`'s instruction set; the values are readable, and `count` times `size` rounded up to 16 elements
/// writable.
#[inline(always)]
pub(super) unsafe fn values<V: Vector>(
    from: *const f32,
    pitch: usize,
    count: usize,
    size: usize,
    to: *mut f32,
) {
    for at in (0..size).step_by(BLOCK) {
        let lanes = (size - at).min(BLOCK);
        for row in 0..count {
            // SAFETY: the caller's promises.
            unsafe { load::<V>(from.add(row * pitch + at), lanes).store(to.add(at * count + row * BLOCK)) };
        }
    }
}
