//! Softmax of a block of scores that lies as `[keys/16][rows][16]`, for `attention.rs`.
//!
//! Sixteen rows at a time: the greatest of each lane, a transposition that makes one vector of the rows' greatest
//! scores, exponentials and their sums, and a transposition of those. Several rows are walked side by side, so that
//! nothing waits for itself. What keys do not count is −∞ in the scores and so 0 in the exponentials.

use crate::call::BLOCK;
use crate::cpu::math::fast_exp_or_zero;
use crate::cpu::softmax::load;
use crate::cpu::vector::Vector;

/// A block of scores, and what is done to it.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// Row 0, key 0.
    pub(super) at: *mut f32,
    /// Between blocks of 16 keys, in elements.
    pub(super) step: usize,
    /// Keys that any row may see.
    pub(super) keys: usize,
    /// Keys that row 0 sees; none where this is negative, all where there are not so many.
    pub(super) seen: isize,
    /// Whether each row sees one more than the one before it.
    pub(super) causal: bool,
    /// The mask of row 0 and key 0, or null.
    pub(super) mask: *const f32,
    /// Between the masks of rows.
    pub(super) mask_row: usize,
    /// Whether the mask has one value a key, and not one a row.
    pub(super) mask_by_key: bool,
}

impl Scores {
    /// Exponentials of `rows` ≤ 16 rows from `first` on in place of their scores, relative to the greatest score so far.
    /// `greatest` and `sums` are those of earlier keys (−∞ and 0 at first) and become those with these; returned are the
    /// factors of what was summed before.
    ///
    /// # Safety
    ///
    /// The processor has `V`'s instruction set; the scores are readable and writable, the mask readable.
    #[inline(always)]
    pub(super) unsafe fn exponentials<V: Vector, const SIDE: usize>(
        &self,
        first: usize,
        rows: usize,
        greatest: &mut V,
        sums: &mut V,
    ) -> V {
        // SAFETY: the caller's promises.
        unsafe {
            let (least, zero) = (V::splat(f32::NEG_INFINITY), V::splat(0.0));
            let mut lanes = [least; BLOCK];
            let mut row = 0;
            while row + SIDE <= rows {
                self.greatest::<V, SIDE>(first + row, &mut lanes[row..]);
                row += SIDE;
            }
            while row < rows {
                self.greatest::<V, 1>(first + row, &mut lanes[row..]);
                row += 1;
            }
            let mut now = *greatest;
            for column in V::transpose(lanes) {
                now = column.max(now);
            }
            // Where nothing is seen yet, any finite number will do: −∞ less itself would be NaN.
            let pivot = V::select(now.eq(least), zero, now);
            let factors = fast_exp_or_zero(*greatest - pivot);
            let pivots = pivot.lanes();
            lanes = [zero; BLOCK];
            row = 0;
            while row + SIDE <= rows {
                self.replace::<V, SIDE>(first + row, &pivots[row..], &mut lanes[row..]);
                row += SIDE;
            }
            while row < rows {
                self.replace::<V, 1>(first + row, &pivots[row..], &mut lanes[row..]);
                row += 1;
            }
            let mut sum = zero;
            for column in V::transpose(lanes) {
                sum = sum + column;
            }
            *greatest = now;
            *sums = sums.mul_add(factors, sum);
            factors
        }
    }

    /// Adds the mask to `SIDE` rows, hides what they do not see, and writes the greatest of each lane.
    ///
    /// # Safety
    ///
    /// As for [`exponentials`](Scores::exponentials).
    #[inline(always)]
    unsafe fn greatest<V: Vector, const SIDE: usize>(&self, row: usize, out: &mut [V]) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut greatest = [V::splat(f32::NEG_INFINITY); SIDE];
            let seen = |i: usize| {
                let more = if self.causal { row + i } else { 0 };
                self.keys.min(self.seen.saturating_add_unsigned(more).max(0) as usize)
            };
            // Blocks that every row sees whole.
            let whole = seen(0) / BLOCK;
            let from = self.at.add(row * BLOCK);
            if self.mask.is_null() {
                for block in 0..whole {
                    for (i, greatest) in greatest.iter_mut().enumerate() {
                        let x = V::load(from.add(block * self.step + i * BLOCK));
                        *greatest = x.max(*greatest);
                    }
                }
            } else {
                for block in 0..whole {
                    for (i, greatest) in greatest.iter_mut().enumerate() {
                        let at = from.add(block * self.step + i * BLOCK);
                        let x = V::load(at) + self.mask_at::<V>(row + i, block, BLOCK);
                        x.store(at);
                        *greatest = x.max(*greatest);
                    }
                }
            }
            const NUMBERS: [f32; BLOCK] =
                [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
            let numbers = V::load(NUMBERS.as_ptr());
            for block in whole..self.keys.div_ceil(BLOCK) {
                for (i, greatest) in greatest.iter_mut().enumerate() {
                    let at = from.add(block * self.step + i * BLOCK);
                    let count = seen(i).saturating_sub(block * BLOCK).min(BLOCK);
                    let mut x = V::load(at);
                    if !self.mask.is_null() {
                        x = x + self.mask_at::<V>(row + i, block, count);
                    }
                    let shown = numbers.lt(V::splat(count as f32));
                    let x = V::select(shown, x, V::splat(f32::NEG_INFINITY));
                    x.store(at);
                    *greatest = x.max(*greatest);
                }
            }
            out[..SIDE].copy_from_slice(&greatest);
        }
    }

    /// The mask of `count` keys of a block.
    ///
    /// # Safety
    ///
    /// As for [`exponentials`](Scores::exponentials).
    #[inline(always)]
    unsafe fn mask_at<V: Vector>(&self, row: usize, block: usize, count: usize) -> V {
        // SAFETY: the caller's promises.
        unsafe {
            let from = self.mask.add(row * self.mask_row);
            if self.mask_by_key { load::<V>(from.add(block * BLOCK), count) } else { V::splat(*from) }
        }
    }

    /// Writes the exponentials of `SIDE` rows, and their sums by lane.
    ///
    /// # Safety
    ///
    /// As for [`exponentials`](Scores::exponentials).
    #[inline(always)]
    unsafe fn replace<V: Vector, const SIDE: usize>(&self, row: usize, pivots: &[f32], out: &mut [V]) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut sums = [V::splat(0.0); SIDE];
            let mut pivot = sums;
            for (slot, &value) in pivot.iter_mut().zip(pivots) {
                *slot = V::splat(value);
            }
            for block in 0..self.keys.div_ceil(BLOCK) {
                let from = self.at.add(row * BLOCK + block * self.step);
                for i in 0..SIDE {
                    let at = from.add(i * BLOCK);
                    let x = fast_exp_or_zero(V::load(at) - pivot[i]);
                    x.store(at);
                    sums[i] = sums[i] + x;
                }
            }
            out[..SIDE].copy_from_slice(&sums);
        }
    }
}
