//! The tiles of `pooled_conv_f32` for a picture of one channel and at most eight channels of output, with neighbouring
//! columns in the lanes, half of which channels would leave empty.
//!
//! A tile is a row of pooled outputs in all channels. Loop order: channels of output, as many at a time as have their
//! sums in registers; rows of the input, each with a row of taps for either row of sums; taps, each with the vectors
//! of the input that begin at its column, which go into the sums of all those channels. At the end the pooled columns
//! are turned, since the output has channels in the lanes.

use crate::call::BLOCK;
use crate::cpu::pool::greater;
use crate::cpu::pooled_conv::{Tile, unrolled};
#[cfg(target_arch = "x86_64")]
use crate::cpu::vector::{Avx2, Avx512};
use crate::cpu::vector::{Portable, Vector};

/// The most channels of output.
pub(super) const CHANNELS: usize = BLOCK / 2;

/// The most outputs in a tile: the columns of two vectors.
pub(super) const WIDEST: usize = BLOCK;

/// The instances of an instruction set.
pub(super) trait Rows: Vector {
    /// Whether these tiles are faster than those with channels in the lanes.
    const IS_FASTER: bool;

    /// [`pool`] as a function of its own, for the frames of unoptimised programs.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set; every element that the tile describes is readable, and writable for the
    /// output; `width` is at most the widest.
    unsafe fn row<const K: usize>(t: &Tile, width: usize);
}

macro_rules! rows {
    ($vector:ident $([$features:literal])?, faster $is_faster:literal) => {
        impl Rows for $vector {
            const IS_FASTER: bool = $is_faster;

            $(#[target_feature(enable = $features)])?
            unsafe fn row<const K: usize>(t: &Tile, width: usize) {
                // SAFETY: the contract is passed on.
                unsafe {
                    if width > WIDEST / 2 {
                        pool::<$vector, K, 2, 4>(t, width);
                    } else {
                        pool::<$vector, K, 1, CHANNELS>(t, width);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
rows!(Avx512["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"], faster true);
// Half vectors are whole registers where a register holds eight lanes.
#[cfg(target_arch = "x86_64")]
rows!(Avx2["avx2,fma,f16c"], faster false);
rows!(Portable, faster false);

/// A tile of `width` outputs from the columns of `X` vectors, `C` channels at a time.
///
/// # Safety
///
/// As for [`Rows::row`].
#[inline(always)]
unsafe fn pool<V: Vector, const K: usize, const X: usize, const C: usize>(t: &Tile, width: usize) {
    // SAFETY: the caller's promise, for every pointer below; weights have lanes of channels that do not exist.
    unsafe {
        let zero = V::splat(0.0);
        let (low, high) = (V::splat(t.low), V::splat(t.high));
        let columns = 2 * width;
        let mut pooled = [zero; CHANNELS];
        for (group, pooled) in pooled.chunks_exact_mut(C).enumerate() {
            let first = group * C;
            if first >= t.lanes {
                break;
            }
            let mut sums = [[[zero; X]; 2]; C];
            for (c, sums) in sums.iter_mut().enumerate() {
                *sums = [[V::splat(*t.start.add(first + c)); X]; 2];
            }
            let weights = t.weights.add(first);
            add_row::<V, K, X, C, true, false>(t.input, columns, [weights; 2], &mut sums);
            for i in 1..K {
                let taps = [weights.add(i * K * BLOCK), weights.add((i - 1) * K * BLOCK)];
                add_row::<V, K, X, C, true, true>(t.input.add(i * t.steps[1]), columns, taps, &mut sums);
            }
            let taps = [weights.add((K - 1) * K * BLOCK); 2];
            add_row::<V, K, X, C, false, true>(t.input.add(K * t.steps[1]), columns, taps, &mut sums);
            for (pooled, [above, below]) in pooled.iter_mut().zip(sums) {
                let left = greater(above[0], below[0]);
                let right = greater(above[X - 1], below[X - 1]);
                let [even, odd] = left.unzip(right);
                *pooled = high.min(low.max(greater(even, odd)));
            }
        }
        let mut square = [zero; BLOCK];
        for (c, pooled) in pooled.into_iter().enumerate() {
            if c < t.lanes {
                square[c] = pooled;
            }
        }
        for (m, pixel) in V::transpose(square).into_iter().take(X * BLOCK / 2).enumerate() {
            if m < width {
                pixel.store(t.out.wrapping_add(m * t.out_step));
            }
        }
    }
}

/// A row of the input times a row of taps for the first row of sums (`FIRST`), and another for the `SECOND`.
///
/// # Safety
///
/// As for [`Rows::row`].
#[inline(always)]
unsafe fn add_row<
    V: Vector,
    const K: usize,
    const X: usize,
    const C: usize,
    const FIRST: bool,
    const SECOND: bool,
>(
    input: *const f32,
    columns: usize,
    taps: [*const f32; 2],
    sums: &mut [[[V; X]; 2]; C],
) {
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        unrolled!(TAP in [0 1 2 3 4] {
            if TAP < K {
                let mut inputs = [V::splat(0.0); X];
                for (x, vector) in inputs.iter_mut().enumerate() {
                    *vector = V::load_first(input.add(x * BLOCK + TAP), (columns - x * BLOCK).min(BLOCK));
                }
                for (c, sums) in sums.iter_mut().enumerate() {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        if [FIRST, SECOND][row] {
                            let weight = V::splat(*taps[row].add(TAP * BLOCK + c));
                            for (sum, input) in sums.iter_mut().zip(inputs) {
                                *sum = input.mul_add(weight, *sum);
                            }
                        }
                    }
                }
            }
        });
    }
}
