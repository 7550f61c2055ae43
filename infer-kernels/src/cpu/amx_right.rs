//! The right side of products on AMX: packed weights, which are split into thirds while others are multiplied.

use std::ops::Range;

use super::amx::{SIDE, STEP, THIRDS, split};
use super::gemm_tile::{Weight, fetch};
use super::vector::Avx512;
use crate::call::BLOCK;

/// Panels that are multiplied together.
pub(super) const PAIR: usize = 2;

/// Steps of a short part of the sum, at most.
pub(super) const SHORT: usize = 8;

/// Numbers of bf16 in the thirds of a pair's short part, `[panels][SHORT]`.
pub(super) const RIGHT: usize = PAIR * SHORT * THIRDS;

/// Packed weights.
#[derive(Clone, Copy)]
pub(super) struct Right<W> {
    pub(super) weights: *const W,
    /// Blocks of sixteen channels, and taps of each. Step `s` is tap `s mod taps` of blocks `2·(s / taps)` and the next.
    pub(super) blocks: usize,
    pub(super) taps: usize,
}

impl<W> Right<W> {
    /// Steps of the whole sum.
    pub(super) fn steps(&self) -> usize {
        self.blocks.div_ceil(2) * self.taps
    }

    /// The first lines of a step's blocks in a panel. Those of an absent one are zero.
    pub(super) fn lines(&self, panel: usize, step: usize) -> [*const W; 2] {
        const ZERO: &[f32; BLOCK * BLOCK] = &[0.0; BLOCK * BLOCK];
        let block = 2 * (step / self.taps);
        let line = (panel * self.blocks + block) * self.taps + step % self.taps;
        let first = self.weights.wrapping_add(line * BLOCK * BLOCK);
        let second = match block + 1 < self.blocks {
            true => first.wrapping_add(self.taps * BLOCK * BLOCK),
            false => ZERO.as_ptr().cast(),
        };
        [first, second]
    }
}

/// The lines of a pair's short part on their way to thirds, tile by tile.
pub(super) struct Lines<W> {
    /// Of each tile the first lines of its blocks, and where its thirds go.
    tiles: [Group<W>; PAIR * SHORT],
    count: usize,
    done: usize,
}

impl<W: Weight> Lines<W> {
    /// Of some panels and steps, to be written to `to`. What comes after it begins at `next`, and is fetched meanwhile.
    pub(super) fn new(
        right: Right<W>,
        panels: impl Iterator<Item = usize>,
        steps: Range<usize>,
        next: *const W,
        to: *mut u16,
    ) -> Self {
        let mut lines = Lines::none();
        let mut distance = 0;
        for (index, panel) in panels.enumerate() {
            for (at, step) in steps.clone().enumerate() {
                let from = right.lines(panel, step);
                if lines.count == 0 {
                    distance = next as isize - from[0] as isize;
                }
                let to = to.wrapping_add((index * SHORT + at) * THIRDS);
                lines.tiles[lines.count / SIDE] = Group { from, to, next: distance };
                lines.count += SIDE;
            }
        }
        lines
    }

    /// No lines.
    pub(super) fn none() -> Self {
        Lines { tiles: [Group::default(); PAIR * SHORT], count: 0, done: 0 }
    }

    /// How many are left.
    pub(super) fn left(&self) -> usize {
        self.count - self.done.min(self.count)
    }

    /// The next `count` lines, which divides the lines of a tile; the last ones once more where none are left.
    #[inline(always)]
    pub(super) fn take(&mut self, count: usize) -> Group<W> {
        let first = self.done.min(self.count - count);
        self.done += count;
        let (tile, line) = (first / SIDE, first % SIDE);
        self.tiles[tile % (PAIR * SHORT)].after(line)
    }

    /// Splits those that are left.
    ///
    /// # Safety
    ///
    /// As for [`Group::split`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn split_rest(&mut self) {
        while self.left() > 0 {
            // SAFETY: the caller's promise.
            unsafe { self.take(1).split(0) };
        }
    }
}

/// Some lines of a tile, from the first of them on.
pub(super) struct Group<W> {
    from: [*const W; 2],
    to: *mut u16,
    /// How many bytes on the next lines are.
    next: isize,
}

impl<W> Clone for Group<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Group<W> {}

impl<W> Default for Group<W> {
    fn default() -> Self {
        Group { from: [std::ptr::null(); 2], to: std::ptr::null_mut(), next: 0 }
    }
}

impl<W: Weight> Group<W> {
    /// What follows after some lines.
    #[inline(always)]
    fn after(self, lines: usize) -> Self {
        Group {
            from: self.from.map(
                #[inline(always)]
                |from| from.wrapping_add(lines * BLOCK),
            ),
            to: self.to.wrapping_add(lines * STEP),
            next: self.next,
        }
    }

    /// Splits a line.
    ///
    /// # Safety
    ///
    /// Its weights are readable, and its thirds writable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn split(&self, line: usize) {
        let Group { from: [first, second], to, next } = self.after(line);
        // SAFETY: the caller's promise.
        unsafe {
            split(W::load::<Avx512>(first).register(), W::load::<Avx512>(second).register(), to);
        }
        for from in [first, second] {
            fetch(from.wrapping_byte_offset(next).cast());
        }
    }
}
