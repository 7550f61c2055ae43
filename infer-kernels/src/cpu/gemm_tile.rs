//! The microkernel of every convolution and matrix product.
//!
//! out[m, p·16 + l] = clamp(start[p·16 + l] + Σₖ a[m, k] · b[p, k, l] + residual[m, p·16 + l])
//!
//! A tile is up to 14 pixels × 2 panels of 16 output channels, whose sums stay in registers while k runs. The k-th
//! elements of the pixels lie at one distance from each other (`a_pitch`), so one register addresses them all; b is
//! one stream per panel. k runs through [`Nest`]s of segments in which a is contiguous: with several taps merged
//! into one segment where the layout allows.
//!
//! Everything dear is outside: edges, other activations and tails of channels go through a scratch tile
//! (`conv.rs`), so that an instance is little more than its loop.

use half::f16;

#[cfg(target_arch = "x86_64")]
use crate::cpu::vector::{Avx2, Avx512};
use crate::cpu::vector::{Portable, Vector};

/// The most sums in a tile of any instruction set, in vectors.
pub(crate) const MAX_VECTORS: usize = 28;

/// The most panels in a tile of any instruction set.
pub(crate) const MAX_PANELS: usize = 4;

/// The most terms of a sum that is made of b while it is read.
pub(crate) const MAX_TERMS: usize = 4;

/// How many steps of k ahead of its use a panel is fetched into the nearest cache: long panels come from the second level, at
/// whose latency the products would wait.
const B_AHEAD: usize = 8;

/// A number of segments, three deep, each of `length` elements; strides in elements of a.
#[derive(Clone, Copy, Default)]
pub(crate) struct Nest {
    pub(crate) offset: usize,
    pub(crate) counts: [usize; 3],
    pub(crate) strides: [usize; 3],
    pub(crate) length: usize,
}

/// A right side b − b₁ + b₂ − b₃, of so many terms as the instance has: where those after b begin, from b on, and where the sum
/// is kept for other tiles, in panels at a distance of `panel`.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    pub(crate) terms: [isize; MAX_TERMS - 1],
    pub(crate) kept: *mut f32,
    pub(crate) panel: usize,
}

impl Sum {
    /// Of instances whose right side is b alone.
    pub(crate) const NONE: Sum = Sum { terms: [0; MAX_TERMS - 1], kept: std::ptr::null_mut(), panel: 0 };
}

/// How many blocks of channels ahead a left matrix that lies far away is fetched; see [`Tile::a_ahead`].
pub(crate) const A_AHEAD_BLOCKS: usize = 2;

/// The operands of one tile; pitches, rows and panels are distances in elements.
pub(crate) struct Tile<'a, W> {
    /// The first tap of the first pixel.
    pub(crate) a: *const f32,
    pub(crate) a_pitch: usize,
    pub(crate) a_row: usize,
    pub(crate) nests: &'a [Nest],
    pub(crate) b: *const W,
    pub(crate) b_panel: usize,
    /// How far ahead of what is being read the left matrix is fetched into the nearest cache, block by block; 0 for not at all.
    pub(crate) a_ahead: usize,
    /// Of instances whose right side is a sum.
    pub(crate) sum: Sum,
    /// What the sums start from: the bias.
    pub(crate) start: &'a [f32; MAX_PANELS * 16],
    pub(crate) out: *mut f32,
    pub(crate) out_pitch: usize,
    pub(crate) out_row: usize,
    pub(crate) out_panel: usize,
    /// Added before the clamp; null where there is none.
    pub(crate) residual: *const f32,
    pub(crate) residual_pitch: usize,
    pub(crate) residual_row: usize,
    pub(crate) residual_panel: usize,
    pub(crate) low: f32,
    pub(crate) high: f32,
    /// Weights that come next, to be fetched into the second-level cache; null for none.
    pub(crate) ahead: *const u8,
    /// Cache lines of them for every sixteen steps of k.
    pub(crate) ahead_rate: usize,
}

impl<'a, W> Tile<'a, W> {
    /// The same by the sum that another tile has kept.
    pub(crate) fn by_sum(&self) -> Tile<'a, f32> {
        Tile {
            a: self.a,
            a_pitch: self.a_pitch,
            a_row: self.a_row,
            nests: self.nests,
            b: self.sum.kept.cast_const(),
            b_panel: self.sum.panel,
            a_ahead: self.a_ahead,
            sum: Sum::NONE,
            start: self.start,
            out: self.out,
            out_pitch: self.out_pitch,
            out_row: self.out_row,
            out_panel: self.out_panel,
            residual: self.residual,
            residual_pitch: self.residual_pitch,
            residual_row: self.residual_row,
            residual_panel: self.residual_panel,
            low: self.low,
            high: self.high,
            ahead: self.ahead,
            ahead_rate: self.ahead_rate,
        }
    }
}

/// A microkernel.
///
/// # Safety
///
/// The processor has the instruction set that it was compiled for; every element that the tile describes is
/// readable, and writable for the output.
pub(crate) type TileFn<W> = unsafe fn(tile: &Tile<'_, W>);

/// An element of packed weights.
pub(crate) trait Weight: Copy + 'static {
    /// Sixteen elements as f32.
    ///
    /// # Safety
    ///
    /// As for [`Vector::load`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

impl Weight for f16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(from) }
    }
}

/// The instances of an instruction set.
pub(crate) trait Tiles: Vector {
    /// The most pixels of a tile in one row.
    const PIXELS: usize;
    /// The panels of a full tile.
    const PANELS: usize;
    /// Up to this many pixels, a tile may take [`MAX_PANELS`] panels, so that enough sums run side by side.
    const FEW_PIXELS: usize;

    /// Whether there are tiles of two rows of `pixels` pixels.
    fn has_two_rows(pixels: usize) -> bool;

    /// The instance for `rows` × `pixels` pixels at distance `pitch`, `panels` panels.
    fn tile<W: Weight>(rows: usize, pixels: usize, panels: usize, pitch: usize) -> TileFn<W>;

    /// The instance for a row of `pixels` pixels at distance `pitch` and `panels` panels, the last of which has eight
    /// channels and zeros in their place beyond; `None` where there is none.
    fn half_tile<W: Weight>(pixels: usize, panels: usize, pitch: usize) -> Option<TileFn<W>>;

    /// The instance for a row of `pixels` pixels of a blocked picture and as many panels as a full tile has, whose
    /// right side is the sum of so many `terms`, two at least.
    fn sum_tile<W: Weight>(pixels: usize, terms: usize) -> TileFn<W>;
}

/// The microkernel. `PITCH` is the distance between pixels, 0 where it is known at run time only. With `HALF`, the
/// last panel has eight channels. b is a sum of `TERMS` terms.
///
/// # Safety
///
/// As for [`TileFn`].
#[inline(always)]
unsafe fn tile<
    V: Vector,
    W: Weight,
    const ROWS: usize,
    const M: usize,
    const P: usize,
    const PITCH: usize,
    const HALF: bool,
    const TERMS: usize,
>(
    t: &Tile<'_, W>,
) {
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        let pitch = if PITCH == 0 { t.a_pitch } else { PITCH };
        let mut start = [V::splat(0.0); P];
        let mut b = [t.b; P];
        for p in 0..P {
            start[p] = V::load(t.start.as_ptr().add(16 * p));
            b[p] = t.b.add(p * t.b_panel);
        }
        let mut sums = [[start; M]; ROWS];
        let (mut ahead, mut kept) = (t.ahead, t.sum.kept);
        for nest in t.nests {
            for outer in 0..nest.counts[0] {
                for middle in 0..nest.counts[1] {
                    for inner in 0..nest.counts[2] {
                        let mut a = t.a.add(
                            nest.offset
                                + outer * nest.strides[0]
                                + middle * nest.strides[1]
                                + inner * nest.strides[2],
                        );
                        if !ahead.is_null() {
                            for _ in 0..nest.length * t.ahead_rate / 16 {
                                fetch(ahead);
                                ahead = ahead.wrapping_add(64);
                            }
                        }
                        if PITCH == 16 && t.a_ahead != 0 {
                            for m in 0..ROWS * M {
                                fetch_near(a.wrapping_add(t.a_ahead + m * pitch).cast());
                            }
                        }
                        for _ in 0..nest.length {
                            let mut weights = start;
                            for p in 0..P {
                                weights[p] = W::load::<V>(b[p]);
                                if TERMS == 1 {
                                    fetch_near(b[p].wrapping_add(16 * B_AHEAD).cast());
                                }
                                for (term, &at) in t.sum.terms[..TERMS - 1].iter().enumerate() {
                                    let other = W::load::<V>(b[p].offset(at));
                                    weights[p] =
                                        if term % 2 == 0 { weights[p] - other } else { weights[p] + other };
                                }
                                if TERMS > 1 {
                                    weights[p].store(kept.add(p * t.sum.panel));
                                }
                                b[p] = b[p].add(16);
                            }
                            for (row, sums) in sums.iter_mut().enumerate() {
                                for (m, sums) in sums.iter_mut().enumerate() {
                                    let x = V::splat(*a.add(row * t.a_row + m * pitch));
                                    for p in 0..P {
                                        sums[p] = match HALF && p + 1 == P {
                                            true => x.mul_add_low(weights[p], sums[p]),
                                            false => x.mul_add(weights[p], sums[p]),
                                        };
                                    }
                                }
                            }
                            a = a.add(1);
                            if TERMS > 1 {
                                kept = kept.add(16);
                            }
                        }
                    }
                }
            }
        }
        if !t.residual.is_null() {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (m, sums) in sums.iter_mut().enumerate() {
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let at = row * t.residual_row + m * t.residual_pitch + p * t.residual_panel;
                        *sum = *sum + V::load(t.residual.add(at));
                    }
                }
            }
        }
        let (low, high) = (V::splat(t.low), V::splat(t.high));
        for (row, sums) in sums.into_iter().enumerate() {
            for (m, sums) in sums.into_iter().enumerate() {
                for (p, sum) in sums.into_iter().enumerate() {
                    let at = row * t.out_row + m * t.out_pitch + p * t.out_panel;
                    let value = high.min(low.max(sum));
                    match HALF && p + 1 == P {
                        true => value.keep_low().store(t.out.add(at)),
                        false => value.store(t.out.add(at)),
                    }
                }
            }
        }
    }
}

/// Asks for a cache line in the second level; any address will do.
#[inline(always)]
pub(crate) fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: prefetching reads nothing that the program can see and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Asks for a cache line in the nearest level; any address will do.
#[inline(always)]
pub(crate) fn fetch_near(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// The instance for the pixel pitch at hand: that of blocked pictures at stride 1 and 2, or any.
macro_rules! by_pitch {
    ($compiled:ident, $weight:ident, $pitch:expr, $rows:literal, $m:literal, $p:literal) => {
        match $pitch {
            16 => $compiled::<$weight, $rows, $m, $p, 16>,
            32 => $compiled::<$weight, $rows, $m, $p, 32>,
            _ => $compiled::<$weight, $rows, $m, $p, 0>,
        }
    };
}

/// Implements [`Tiles`] with the instances listed as `rows × panels: pixels …`.
macro_rules! tiles {
    (
        $vector:ident $([$features:literal])?, pixels $pixels:expr, panels $panels:literal, few $few:literal,
        two_rows $two:pat, $($r:literal x $p:literal: $($m:literal)*;)*
        $(half $half_p:literal: $($half_m:literal)*;)*
        sums: $($sum_m:literal)*;
    ) => {
        impl Tiles for $vector {
            const PIXELS: usize = $pixels;
            const PANELS: usize = $panels;
            const FEW_PIXELS: usize = $few;

            fn has_two_rows(pixels: usize) -> bool {
                matches!(pixels, $two)
            }

            fn tile<W: Weight>(rows: usize, pixels: usize, panels: usize, pitch: usize) -> TileFn<W> {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled<
                    W: Weight,
                    const ROWS: usize,
                    const M: usize,
                    const P: usize,
                    const PITCH: usize,
                >(
                    t: &Tile<'_, W>,
                ) {
                    // SAFETY: the contract of `TileFn` is passed on.
                    unsafe { tile::<$vector, W, ROWS, M, P, PITCH, false, 1>(t) }
                }
                match (rows, panels, pixels) {
                    $($(($r, $p, $m) => by_pitch!(compiled, W, pitch, $r, $m, $p),)*)*
                    _ => unreachable!("no tile of {rows} × {pixels} pixels and {panels} panels"),
                }
            }

            fn half_tile<W: Weight>(pixels: usize, panels: usize, pitch: usize) -> Option<TileFn<W>> {
                $(#[target_feature(enable = $features)])?
                #[allow(dead_code, reason = "not every instruction set has such tiles")]
                unsafe fn compiled<W: Weight, const M: usize, const P: usize, const PITCH: usize>(
                    t: &Tile<'_, W>,
                ) {
                    // SAFETY: the contract of `TileFn` is passed on.
                    unsafe { tile::<$vector, W, 1, M, P, PITCH, true, 1>(t) }
                }
                // Blocked pictures, and those of one channel.
                #[allow(clippy::match_single_binding, reason = "as above")]
                match (panels, pixels, pitch) {
                    $($(($half_p, $half_m, 16) => Some(compiled::<W, $half_m, $half_p, 16>),)*)*
                    $($(($half_p, $half_m, 1) => Some(compiled::<W, $half_m, $half_p, 1>),)*)*
                    _ => None,
                }
            }

            fn sum_tile<W: Weight>(pixels: usize, terms: usize) -> TileFn<W> {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled<W: Weight, const M: usize, const TERMS: usize>(t: &Tile<'_, W>) {
                    // SAFETY: the contract of `TileFn` is passed on.
                    unsafe { tile::<$vector, W, 1, M, { $panels }, 16, false, TERMS>(t) }
                }
                match (pixels, terms) {
                    $(($sum_m, 2) => compiled::<W, $sum_m, 2>,
                    ($sum_m, 3) => compiled::<W, $sum_m, 3>,
                    ($sum_m, 4) => compiled::<W, $sum_m, 4>,)*
                    _ => unreachable!("no tile of {pixels} pixels and {terms} terms"),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
tiles! {
    Avx512 ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"], pixels 14, panels 2, few 4, two_rows 3..=7,
    1 x 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
    1 x 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
    2 x 1: 3 4 5 6 7;
    2 x 2: 3 4 5 6 7;
    1 x 4: 1 2 3 4;
    half 1: 5 6 7 8 9 10 11 12 13 14;
    half 2: 5 6 7 8 9 10 11 12 13 14;
    sums: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
}

#[cfg(target_arch = "x86_64")]
tiles! {
    Avx2 ["avx2,fma,f16c"], pixels 6, panels 1, few 1, two_rows 2 | 3,
    1 x 1: 1 2 3 4 5 6;
    2 x 1: 2 3;
    1 x 2: 1;
    1 x 4: 1;
    half 1: 4 5 6;
    sums: 1 2 3 4 5 6;
}

// SSE2 has sixteen registers of four lanes, NEON thirty-two.
tiles! {
    Portable, pixels if cfg!(target_arch = "aarch64") { 6 } else { 2 }, panels 1, few 1, two_rows 0,
    1 x 1: 1 2 3 4 5 6;
    1 x 2: 1;
    1 x 4: 1;
    sums: 1 2 3 4 5 6;
}
