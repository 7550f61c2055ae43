//! Sixteen f32 lanes on every instruction set: what the kernels are written in.
//!
//! Sixteen is the width of a channel block and of a weight panel, so one loop serves one zmm, two ymm, four xmm or
//! four NEON registers. Kernels are generic, `#[inline(always)]` functions over [`Vector`] that are instantiated
//! inside functions compiled for the instruction set (`per_isa`).
//!
//! A value of a vector type is the proof that the processor has its instruction set: the functions that make one
//! from nothing are unsafe, arithmetic on one is not.

use std::ops::{Add, Div, Mul, Neg, Sub};

use half::f16;

use crate::call::BLOCK;

/// Sixteen f32.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// One truth value a lane.
    type Mask: Copy;

    /// The value in every lane.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set.
    unsafe fn splat(value: f32) -> Self;

    /// The value in every lane; `self` only proves that the processor has the instruction set.
    #[inline(always)]
    fn constant(self, value: f32) -> Self {
        // SAFETY: `self` exists.
        unsafe { Self::splat(value) }
    }

    /// Sixteen elements, of any alignment.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set; sixteen elements are readable.
    unsafe fn load(from: *const f32) -> Self;

    /// The first `lanes` ≤ 16 elements, zero in the other lanes.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set; so many elements are readable.
    unsafe fn load_first(from: *const f32, lanes: usize) -> Self;

    /// Sixteen f16, widened.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set; sixteen elements are readable.
    unsafe fn load_f16(from: *const f16) -> Self;

    /// Writes sixteen elements.
    ///
    /// # Safety
    ///
    /// Sixteen elements are writable.
    unsafe fn store(self, to: *mut f32);

    /// Writes the first `lanes` ≤ 16 elements and touches nothing beyond.
    ///
    /// # Safety
    ///
    /// So many elements are writable.
    unsafe fn store_first(self, to: *mut f32, lanes: usize);

    /// self · a + b, rounded once where the processor can.
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// self · a + b in the first eight lanes; the others hold nothing of use. Costs half where a register holds eight
    /// lanes, or the processor takes wider ones in two steps.
    #[inline(always)]
    fn mul_add_low(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }

    /// The first eight lanes, zero in the others.
    #[inline(always)]
    fn keep_low(self) -> Self {
        self.keep_first(BLOCK / 2)
    }

    /// The first eight lanes, and after them those of `high`.
    #[inline(always)]
    fn join_low(self, high: Self) -> Self {
        let (mut lanes, high) = (self.lanes(), high.lanes());
        lanes[BLOCK / 2..].copy_from_slice(&high[..BLOCK / 2]);
        // SAFETY: the array has sixteen elements; `self` exists.
        unsafe { Self::load(lanes.as_ptr()) }
    }

    /// Writes the first eight lanes to `low` and the others to `high`.
    ///
    /// # Safety
    ///
    /// Eight elements are writable at both.
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32) {
        let lanes = self.lanes();
        // SAFETY: the caller's promise; each half of the array has eight elements.
        unsafe {
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), low, BLOCK / 2);
            std::ptr::copy_nonoverlapping(lanes.as_ptr().add(BLOCK / 2), high, BLOCK / 2);
        }
    }

    /// The lesser; `other` where either is NaN, and where both are zero.
    fn min(self, other: Self) -> Self;

    /// The greater; `other` where either is NaN, and where both are zero.
    fn max(self, other: Self) -> Self;

    /// The absolute value.
    fn abs(self) -> Self;

    /// The sign of `sign` on the magnitude of `self`.
    fn copy_sign(self, sign: Self) -> Self;

    /// The square root, rounded as IEEE says.
    fn sqrt(self) -> Self;

    /// The nearest integer, ties to even.
    fn round_even(self) -> Self;

    /// The greatest integer that is not greater.
    fn floor(self) -> Self;

    /// The least integer that is not less.
    #[inline(always)]
    fn ceil(self) -> Self {
        -(-self).floor()
    }

    /// self < other; false where either is NaN.
    fn lt(self, other: Self) -> Self::Mask;

    /// self ≤ other; false where either is NaN.
    fn le(self, other: Self) -> Self::Mask;

    /// self = other; false where either is NaN.
    fn eq(self, other: Self) -> Self::Mask;

    /// `yes` where the mask is true, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// Whether the mask is true anywhere.
    fn any(mask: Self::Mask) -> bool;

    /// self · 2ⁿ for integral n in −150 ..= 128, rounded once, with gradual underflow.
    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        // Two steps, since 2⁻¹⁵⁰ and 2¹²⁸ are no normal numbers themselves.
        let half = (n * n.constant(0.5)).round_even();
        (self * half.pow2()) * (n - half).pow2()
    }

    /// 2ⁿ of integral lanes in −126 ..= 127.
    fn pow2(self) -> Self;

    /// self · 2ⁿ for integral n in −126 ..= 127.
    #[inline(always)]
    fn scale_normal(self, n: Self) -> Self {
        self * n.pow2()
    }

    /// A positive normal number as m · 2ⁿ with m in ½ .. 1: (m, n).
    fn split_exponent(self) -> (Self, Self);

    /// The lanes as an array.
    #[inline(always)]
    fn lanes(self) -> [f32; BLOCK] {
        let mut lanes = [0.0; BLOCK];
        // SAFETY: the array has sixteen elements.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes
    }

    /// The sum of all lanes, added pairwise.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.lanes();
        let mut half = BLOCK / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The greatest lane; NaN where any lane is.
    #[inline(always)]
    fn max_lane(self) -> f32 {
        let mut greatest = f32::NEG_INFINITY;
        for lane in self.lanes() {
            greatest = if lane > greatest || lane.is_nan() { lane } else { greatest };
            if greatest.is_nan() {
                break;
            }
        }
        greatest
    }

    /// Lane j of row i becomes lane i of row j.
    #[inline(always)]
    fn transpose(rows: [Self; BLOCK]) -> [Self; BLOCK] {
        let mut square = [[0.0; BLOCK]; BLOCK];
        for (i, row) in rows.into_iter().enumerate() {
            for (j, lane) in row.lanes().into_iter().enumerate() {
                square[j][i] = lane;
            }
        }
        let mut turned = rows;
        for (row, lanes) in turned.iter_mut().zip(&square) {
            // SAFETY: the array has sixteen elements; `rows` exist.
            *row = unsafe { Self::load(lanes.as_ptr()) };
        }
        turned
    }

    /// The lanes of even number of `self` and `next` one after the other, and those of odd number.
    #[inline(always)]
    fn unzip(self, next: Self) -> [Self; 2] {
        let (mut lanes, pairs) = ([[0.0; BLOCK]; 2], [self.lanes(), next.lanes()]);
        for (i, pair) in pairs.as_flattened().chunks_exact(2).enumerate() {
            (lanes[0][i], lanes[1][i]) = (pair[0], pair[1]);
        }
        // SAFETY: the arrays have sixteen elements; `self` exists.
        unsafe { [Self::load(lanes[0].as_ptr()), Self::load(lanes[1].as_ptr())] }
    }

    /// Lane i of row j becomes element 3·i + j of the three results, one after the other.
    #[inline(always)]
    fn interleave(rows: [Self; 3]) -> [Self; 3] {
        let mut triples = [[0.0; 3]; BLOCK];
        for (j, row) in rows.into_iter().enumerate() {
            for (triple, lane) in triples.iter_mut().zip(row.lanes()) {
                triple[j] = lane;
            }
        }
        let mut woven = rows;
        for (vector, lanes) in woven.iter_mut().zip(triples.as_flattened().chunks_exact(BLOCK)) {
            // SAFETY: the slice has sixteen elements; `rows` exist.
            *vector = unsafe { Self::load(lanes.as_ptr()) };
        }
        woven
    }

    /// The first `lanes` ≤ 16 lanes, zero in the others.
    #[inline(always)]
    fn keep_first(self, lanes: usize) -> Self {
        let kept = self.lanes();
        // SAFETY: the array has sixteen elements; `self` exists.
        unsafe { Self::load_first(kept.as_ptr(), lanes) }
    }
}

macro_rules! operators {
    ($vector:ident, $($operator:ident $method:ident $function:ident),*) => {$(
        impl $operator for $vector {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.$function(other)
            }
        }
    )*};
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Runs `$test::<V>()` for every vector type that the processor has.
#[cfg(test)]
macro_rules! for_each_vector {
    ($test:ident) => {
        $test::<$crate::cpu::vector::Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2() {
                $test::<$crate::cpu::vector::Avx2>();
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512() {
                $test::<$crate::cpu::vector::Avx512>();
            }
            if $crate::Isa::Avx2.is_available() {
                // SAFETY: the processor has it.
                unsafe { avx2() };
            }
            if $crate::Isa::Avx512.is_available() {
                // SAFETY: the processor has it.
                unsafe { avx512() };
            }
        }
    };
}

#[cfg(test)]
pub(crate) use for_each_vector;

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: [f32; BLOCK] = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        0.3,
        -0.3,
        8_388_607.5,
        -8_388_609.0,
        3.0e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1.0e-40,
    ];

    fn same(ours: [f32; BLOCK], theirs: impl Fn(usize) -> f32, what: &str) {
        for (lane, ours) in ours.into_iter().enumerate() {
            let theirs = theirs(lane);
            let equal = ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan());
            assert!(equal, "{what} of {}: {ours} instead of {theirs}", EDGES[lane]);
        }
    }

    #[inline(always)]
    fn lanes<V: Vector>() {
        // SAFETY: `for_each_vector` calls this where the processor has the instruction set; arrays of sixteen.
        let (x, y) = unsafe { (V::load(EDGES.as_ptr()), V::splat(1.5)) };
        same((x + y).lanes(), |i| EDGES[i] + 1.5, "sum");
        same((x - y).lanes(), |i| EDGES[i] - 1.5, "difference");
        same((x * y).lanes(), |i| EDGES[i] * 1.5, "product");
        same((y / x).lanes(), |i| 1.5 / EDGES[i], "quotient");
        same((-x).lanes(), |i| -EDGES[i], "negation");
        same(x.abs().lanes(), |i| EDGES[i].abs(), "magnitude");
        same(y.copy_sign(x).lanes(), |i| 1.5_f32.copysign(EDGES[i]), "sign");
        same(x.sqrt().lanes(), |i| EDGES[i].sqrt(), "root");
        same(x.round_even().lanes(), |i| EDGES[i].round_ties_even(), "nearest");
        same(x.floor().lanes(), |i| EDGES[i].floor(), "floor");
        same(x.ceil().lanes(), |i| EDGES[i].ceil(), "ceiling");
        same(x.max(y).lanes(), |i| if EDGES[i] > 1.5 { EDGES[i] } else { 1.5 }, "maximum");
        same(y.max(x).lanes(), |i| if 1.5 > EDGES[i] { 1.5 } else { EDGES[i] }, "maximum, swapped");
        same(x.min(y).lanes(), |i| if EDGES[i] < 1.5 { EDGES[i] } else { 1.5 }, "minimum");
        for (mask, truth) in [
            (x.lt(y), EDGES.map(|x| x < 1.5)),
            (x.le(y), EDGES.map(|x| x <= 1.5)),
            (x.eq(y), EDGES.map(|x| x == 1.5)),
        ] {
            same(V::select(mask, y, x).lanes(), |i| if truth[i] { 1.5 } else { EDGES[i] }, "selection");
            assert!(V::any(mask));
        }
        assert!(!V::any(x.eq(x.constant(f32::NAN))));
        for lane in 0..BLOCK {
            let numbers: [f32; BLOCK] = std::array::from_fn(|i| i as f32);
            // SAFETY: as above.
            let numbers = unsafe { V::load(numbers.as_ptr()) };
            assert!(V::any(numbers.eq(numbers.constant(lane as f32))), "lane {lane}");
        }
        let integers: [f32; BLOCK] = std::array::from_fn(|i| i as f32 * 16.0 - 120.0);
        // SAFETY: as above.
        let n = unsafe { V::load(integers.as_ptr()) };
        same(n.pow2().lanes(), |i| 2.0_f32.powi(integers[i] as i32), "power of two");
        same(y.scale_normal(n).lanes(), |i| 1.5 * 2.0_f32.powi(integers[i] as i32), "scaling, normal");
        let wide: [f32; BLOCK] = std::array::from_fn(|i| i as f32 * 18.0 - 148.0);
        // SAFETY: as above.
        let n = unsafe { V::load(wide.as_ptr()) };
        same(y.scale(n).lanes(), |i| (1.5 * 2.0_f64.powi(wide[i] as i32)) as f32, "scaling");
        let (fraction, exponent) =
            y.scale(V::select(n.lt(n.constant(-100.0)), n.constant(0.0), n)).split_exponent();
        assert!(fraction.lanes().iter().all(|&m| m == 0.75));
        assert_eq!(exponent.lanes()[10], wide[10] + 1.0);
        assert_eq!(y.sum(), 24.0);
        assert!(x.max_lane().is_nan());
        assert_eq!((-y).max_lane(), -1.5);
    }

    #[test]
    fn every_operation_agrees_with_the_scalar_one() {
        for_each_vector!(lanes);
    }

    #[inline(always)]
    fn partial<V: Vector>() {
        let source: [f32; BLOCK] = std::array::from_fn(|i| i as f32 + 1.0);
        for count in 0..=BLOCK {
            // Placed at the very end of an allocation, so that a tool for memory errors sees reads beyond.
            let tail: Box<[f32]> = source[..count].into();
            // SAFETY: `count` elements each; `for_each_vector` checked the processor.
            unsafe {
                let x = V::load_first(tail.as_ptr(), count);
                assert_eq!(x.lanes(), std::array::from_fn(|i| if i < count { source[i] } else { 0.0 }));
                let full = V::load(source.as_ptr());
                assert_eq!(full.keep_first(count).lanes(), x.lanes());
                if count == BLOCK / 2 {
                    assert_eq!(full.keep_low().lanes(), x.lanes());
                    let sum = full.mul_add_low(full, full).keep_low();
                    assert_eq!(sum.lanes(), full.mul_add(full, full).keep_first(count).lanes());
                }
                let mut out = [-1.0; BLOCK];
                full.store_first(out.as_mut_ptr(), count);
                assert_eq!(out, std::array::from_fn(|i| if i < count { source[i] } else { -1.0 }));
            }
        }
    }

    #[inline(always)]
    fn square<V: Vector>() {
        let entries: [[f32; BLOCK]; BLOCK] =
            std::array::from_fn(|i| std::array::from_fn(|j| (i * BLOCK + j) as f32));
        // SAFETY: `for_each_vector` calls this where the processor has the instruction set; arrays of sixteen.
        let rows = entries.map(|row| unsafe { V::load(row.as_ptr()) });
        for (i, row) in V::transpose(rows).into_iter().enumerate() {
            assert_eq!(row.lanes(), std::array::from_fn(|j| entries[j][i]), "row {i}");
        }
        for (i, woven) in V::interleave([rows[0], rows[1], rows[2]]).into_iter().enumerate() {
            let right = |j: usize| entries[(i * BLOCK + j) % 3][(i * BLOCK + j) / 3];
            assert_eq!(woven.lanes(), std::array::from_fn(right), "vector {i}");
        }
        for (i, lanes) in rows[0].unzip(rows[1]).into_iter().enumerate() {
            let right = |j: usize| entries[(2 * j + i) / BLOCK][(2 * j + i) % BLOCK];
            assert_eq!(lanes.lanes(), std::array::from_fn(right), "lanes of number {i}");
        }
    }

    #[test]
    fn rows_become_columns() {
        for_each_vector!(square);
    }

    #[test]
    fn partial_loads_and_stores_touch_only_their_lanes() {
        for_each_vector!(partial);
    }

    #[inline(always)]
    fn halves<V: Vector>() {
        for base in (0..=u16::MAX - 15).step_by(16) {
            let bits: [f16; BLOCK] = std::array::from_fn(|i| f16::from_bits(base + i as u16));
            // SAFETY: sixteen elements; `for_each_vector` checked the processor.
            let wide = unsafe { V::load_f16(bits.as_ptr()) }.lanes();
            for (half, wide) in bits.iter().zip(wide) {
                let right = half.to_f32();
                assert!(wide.to_bits() == right.to_bits() || (wide.is_nan() && right.is_nan()), "{half:?}");
            }
        }
    }

    #[test]
    fn every_half_widens_exactly() {
        for_each_vector!(halves);
    }
}
