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

    /// self · 2ⁿ for integral n in −150 ..= 128, rounded once, with gradual underflow.
    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        // Two steps, since 2⁻¹⁵⁰ and 2¹²⁸ are no normal numbers themselves.
        let half = (n * n.constant(0.5)).round_even();
        (self * half.pow2()) * (n - half).pow2()
    }

    /// 2ⁿ of integral lanes in −126 ..= 127.
    fn pow2(self) -> Self;

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

/// Plain code, from which the compiler makes what the target's baseline has.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; BLOCK]);

/// Applies `$body` lane by lane.
macro_rules! lanewise {
    ($lane:ident => $body:expr) => {{
        let mut out = [0.0; BLOCK];
        for $lane in 0..BLOCK {
            out[$lane] = $body;
        }
        Portable(out)
    }};
}

/// As [`lanewise`], for masks.
macro_rules! compare {
    ($lane:ident => $body:expr) => {{
        let mut out = [0u32; BLOCK];
        for $lane in 0..BLOCK {
            out[$lane] = if $body { u32::MAX } else { 0 };
        }
        out
    }};
}

impl Portable {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        lanewise!(i => self.0[i] + other.0[i])
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        lanewise!(i => self.0[i] - other.0[i])
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        lanewise!(i => self.0[i] * other.0[i])
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        lanewise!(i => self.0[i] / other.0[i])
    }
}

operators!(Portable, Add add plus, Sub sub minus, Mul mul times, Div div over);

impl Neg for Portable {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        lanewise!(i => -self.0[i])
    }
}

impl Vector for Portable {
    type Mask = [u32; BLOCK];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; BLOCK])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 may be read unaligned.
        Portable(unsafe { from.cast::<[f32; BLOCK]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, lanes: usize) -> Self {
        let mut out = [0.0; BLOCK];
        for (lane, slot) in out.iter_mut().enumerate().take(lanes) {
            // SAFETY: the caller promises `lanes` elements.
            *slot = unsafe { from.add(lane).read_unaligned() };
        }
        Portable(out)
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller promises sixteen elements.
        let bits = unsafe { from.cast::<[u16; BLOCK]>().read_unaligned() };
        lanewise!(i => widen(bits[i]))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises sixteen elements.
        unsafe { to.cast::<[f32; BLOCK]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, lanes: usize) {
        for (lane, value) in self.0.iter().enumerate().take(lanes) {
            // SAFETY: the caller promises `lanes` elements.
            unsafe { to.add(lane).write_unaligned(*value) };
        }
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        // Without the instruction, a fused operation is a call into libm for every lane.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            lanewise!(i => self.0[i].mul_add(a.0[i], b.0[i]))
        } else {
            lanewise!(i => self.0[i] * a.0[i] + b.0[i])
        }
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        lanewise!(i => if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        lanewise!(i => if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        lanewise!(i => self.0[i].abs())
    }

    #[inline(always)]
    fn copy_sign(self, sign: Self) -> Self {
        lanewise!(i => self.0[i].copysign(sign.0[i]))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        lanewise!(i => self.0[i].sqrt())
    }

    #[inline(always)]
    fn round_even(self) -> Self {
        // From 2²³ on every number is integral; below, adding 2²³ leaves no room for a fraction.
        const INTEGRAL: f32 = 8_388_608.0;
        lanewise!(i => {
            let magnitude = self.0[i].abs();
            let rounded = ((magnitude + INTEGRAL) - INTEGRAL).copysign(self.0[i]);
            if magnitude < INTEGRAL { rounded } else { self.0[i] }
        })
    }

    #[inline(always)]
    fn floor(self) -> Self {
        let rounded = self.round_even();
        lanewise!(i => if rounded.0[i] > self.0[i] { rounded.0[i] - 1.0 } else { rounded.0[i] })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        compare!(i => self.0[i] < other.0[i])
    }

    #[inline(always)]
    fn le(self, other: Self) -> Self::Mask {
        compare!(i => self.0[i] <= other.0[i])
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        compare!(i => self.0[i] == other.0[i])
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        lanewise!(i => f32::from_bits((yes.0[i].to_bits() & mask[i]) | (no.0[i].to_bits() & !mask[i])))
    }

    #[inline(always)]
    fn pow2(self) -> Self {
        // 1.5·2²³ + n has n in its low bits, and unlike a conversion this cannot saturate.
        const SHIFT: f32 = 12_582_912.0;
        lanewise!(i => f32::from_bits(
            ((self.0[i] + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127)) << 23
        ))
    }

    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        let fraction = lanewise!(i => f32::from_bits((self.0[i].to_bits() & 0x807f_ffff) | 0x3f00_0000));
        let exponent = lanewise!(i => ((self.0[i].to_bits() >> 23) & 0xff) as i32 as f32 - 126.0);
        (fraction, exponent)
    }
}

/// An f16's bits as f32, without branches.
#[inline(always)]
fn widen(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // The exponent is rebiased by a multiplication, which gets subnormal numbers right as well.
    let value = f32::from_bits(magnitude) * f32::from_bits((127 + 127 - 15) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 | magnitude } else { value.to_bits() };
    f32::from_bits(special | (u32::from(bits & 0x8000) << 16))
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::ops::{Add, Div, Mul, Neg, Sub};

    use half::f16;

    use super::Vector;

    /// AVX2 with FMA and F16C: two halves of eight lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2([__m256; 2]);

    /// Applies an intrinsic to both halves of each operand.
    macro_rules! both {
        ($intrinsic:ident $(::<$constant:ident>)?, $($operand:expr),*) => {
            // SAFETY: the operands exist, so the processor has AVX2, FMA and F16C.
            Avx2(unsafe {
                [
                    $intrinsic $(::<$constant>)? ($($operand.0[0]),*),
                    $intrinsic $(::<$constant>)? ($($operand.0[1]),*),
                ]
            })
        };
    }

    impl Avx2 {
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            both!(_mm256_add_ps, self, other)
        }

        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            both!(_mm256_sub_ps, self, other)
        }

        #[inline(always)]
        fn times(self, other: Self) -> Self {
            both!(_mm256_mul_ps, self, other)
        }

        #[inline(always)]
        fn over(self, other: Self) -> Self {
            both!(_mm256_div_ps, self, other)
        }

        /// All bits of the first `lanes` lanes.
        #[inline(always)]
        unsafe fn first(lanes: usize) -> [__m256i; 2] {
            let lanes = lanes as i32;
            // SAFETY: the caller's processor has AVX2.
            unsafe {
                let count = _mm256_set1_epi32(lanes);
                [
                    _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                    _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)),
                ]
            }
        }
    }

    operators!(Avx2, Add add plus, Sub sub minus, Mul mul times, Div div over);

    impl Neg for Avx2 {
        type Output = Self;

        #[inline(always)]
        fn neg(self) -> Self {
            let sign = self.constant(-0.0);
            both!(_mm256_xor_ps, self, sign)
        }
    }

    impl Vector for Avx2 {
        type Mask = Avx2;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller's promise.
            let half = unsafe { _mm256_set1_ps(value) };
            Avx2([half, half])
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            Avx2(unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] })
        }

        #[inline(always)]
        unsafe fn load_first(from: *const f32, lanes: usize) -> Self {
            // SAFETY: the caller's promise; masked lanes are not read.
            unsafe {
                let mask = Self::first(lanes);
                Avx2([_mm256_maskload_ps(from, mask[0]), _mm256_maskload_ps(from.wrapping_add(8), mask[1])])
            }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            let from = from.cast::<__m128i>();
            // SAFETY: the caller's promise.
            Avx2(unsafe {
                [_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))]
            })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe {
                _mm256_storeu_ps(to, self.0[0]);
                _mm256_storeu_ps(to.add(8), self.0[1]);
            }
        }

        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, lanes: usize) {
            // SAFETY: the caller's promise; masked lanes are not written.
            unsafe {
                let mask = Self::first(lanes);
                _mm256_maskstore_ps(to, mask[0], self.0[0]);
                _mm256_maskstore_ps(to.wrapping_add(8), mask[1], self.0[1]);
            }
        }

        #[inline(always)]
        fn mul_add(self, a: Self, b: Self) -> Self {
            both!(_mm256_fmadd_ps, self, a, b)
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            both!(_mm256_min_ps, self, other)
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            both!(_mm256_max_ps, self, other)
        }

        #[inline(always)]
        fn abs(self) -> Self {
            let sign = self.constant(-0.0);
            both!(_mm256_andnot_ps, sign, self)
        }

        #[inline(always)]
        fn copy_sign(self, sign: Self) -> Self {
            let bit = self.constant(-0.0);
            let sign = both!(_mm256_and_ps, bit, sign);
            let magnitude = self.abs();
            both!(_mm256_or_ps, sign, magnitude)
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            both!(_mm256_sqrt_ps, self)
        }

        #[inline(always)]
        fn round_even(self) -> Self {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            both!(_mm256_round_ps::<NEAREST>, self)
        }

        #[inline(always)]
        fn floor(self) -> Self {
            const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
            both!(_mm256_round_ps::<DOWN>, self)
        }

        #[inline(always)]
        fn lt(self, other: Self) -> Self::Mask {
            both!(_mm256_cmp_ps::<_CMP_LT_OQ>, self, other)
        }

        #[inline(always)]
        fn le(self, other: Self) -> Self::Mask {
            both!(_mm256_cmp_ps::<_CMP_LE_OQ>, self, other)
        }

        #[inline(always)]
        fn eq(self, other: Self) -> Self::Mask {
            both!(_mm256_cmp_ps::<_CMP_EQ_OQ>, self, other)
        }

        #[inline(always)]
        fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
            both!(_mm256_blendv_ps, no, yes, mask)
        }

        #[inline(always)]
        fn pow2(self) -> Self {
            let mut out = self;
            for half in &mut out.0 {
                // SAFETY: `self` exists.
                unsafe {
                    let n = _mm256_add_epi32(_mm256_cvtps_epi32(*half), _mm256_set1_epi32(127));
                    *half = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n));
                }
            }
            out
        }

        #[inline(always)]
        fn split_exponent(self) -> (Self, Self) {
            let (mut fraction, mut exponent) = (self, self);
            for half in 0..2 {
                // SAFETY: `self` exists.
                unsafe {
                    let bits = _mm256_castps_si256(self.0[half]);
                    let kept = _mm256_and_si256(bits, _mm256_set1_epi32(0x807f_ffff_u32 as i32));
                    fraction.0[half] =
                        _mm256_castsi256_ps(_mm256_or_si256(kept, _mm256_set1_epi32(0x3f00_0000)));
                    let biased = _mm256_and_si256(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(0xff));
                    exponent.0[half] = _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(126)));
                }
            }
            (fraction, exponent)
        }

        #[inline(always)]
        fn keep_first(self, lanes: usize) -> Self {
            // SAFETY: `self` exists.
            let mask = unsafe { Self::first(lanes) };
            // SAFETY: as above.
            let mask = Avx2(unsafe { [_mm256_castsi256_ps(mask[0]), _mm256_castsi256_ps(mask[1])] });
            both!(_mm256_and_ps, self, mask)
        }
    }

    /// AVX-512 F, BW, DQ and VL.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    /// Applies an intrinsic.
    macro_rules! whole {
        ($intrinsic:ident $(::<$constant:ident>)?, $($operand:expr),*) => {
            // SAFETY: the operands exist, so the processor has AVX-512.
            unsafe { $intrinsic $(::<$constant>)? ($($operand.0),*) }
        };
    }

    impl Avx512 {
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            Avx512(whole!(_mm512_add_ps, self, other))
        }

        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            Avx512(whole!(_mm512_sub_ps, self, other))
        }

        #[inline(always)]
        fn times(self, other: Self) -> Self {
            Avx512(whole!(_mm512_mul_ps, self, other))
        }

        #[inline(always)]
        fn over(self, other: Self) -> Self {
            Avx512(whole!(_mm512_div_ps, self, other))
        }

        #[inline(always)]
        fn first(lanes: usize) -> __mmask16 {
            ((1_u32 << lanes) - 1) as __mmask16
        }
    }

    operators!(Avx512, Add add plus, Sub sub minus, Mul mul times, Div div over);

    impl Neg for Avx512 {
        type Output = Self;

        #[inline(always)]
        fn neg(self) -> Self {
            let sign = self.constant(-0.0);
            Avx512(whole!(_mm512_xor_ps, self, sign))
        }
    }

    impl Vector for Avx512 {
        type Mask = __mmask16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller's promise.
            Avx512(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            Avx512(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn load_first(from: *const f32, lanes: usize) -> Self {
            // SAFETY: the caller's promise; masked lanes are not read.
            Avx512(unsafe { _mm512_maskz_loadu_ps(Self::first(lanes), from) })
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: the caller's promise.
            Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to, self.0) };
        }

        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, lanes: usize) {
            // SAFETY: the caller's promise; masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(to, Self::first(lanes), self.0) };
        }

        #[inline(always)]
        fn mul_add(self, a: Self, b: Self) -> Self {
            Avx512(whole!(_mm512_fmadd_ps, self, a, b))
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Avx512(whole!(_mm512_min_ps, self, other))
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Avx512(whole!(_mm512_max_ps, self, other))
        }

        #[inline(always)]
        fn abs(self) -> Self {
            Avx512(whole!(_mm512_abs_ps, self))
        }

        #[inline(always)]
        fn copy_sign(self, sign: Self) -> Self {
            let bit = self.constant(-0.0);
            let sign = Avx512(whole!(_mm512_and_ps, bit, sign));
            let magnitude = self.abs();
            Avx512(whole!(_mm512_or_ps, sign, magnitude))
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            Avx512(whole!(_mm512_sqrt_ps, self))
        }

        #[inline(always)]
        fn round_even(self) -> Self {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            Avx512(whole!(_mm512_roundscale_ps::<NEAREST>, self))
        }

        #[inline(always)]
        fn floor(self) -> Self {
            const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
            Avx512(whole!(_mm512_roundscale_ps::<DOWN>, self))
        }

        #[inline(always)]
        fn lt(self, other: Self) -> Self::Mask {
            whole!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>, self, other)
        }

        #[inline(always)]
        fn le(self, other: Self) -> Self::Mask {
            whole!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>, self, other)
        }

        #[inline(always)]
        fn eq(self, other: Self) -> Self::Mask {
            whole!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>, self, other)
        }

        #[inline(always)]
        fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
            // SAFETY: `yes` exists.
            Avx512(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
        }

        #[inline(always)]
        fn scale(self, n: Self) -> Self {
            Avx512(whole!(_mm512_scalef_ps, self, n))
        }

        #[inline(always)]
        fn pow2(self) -> Self {
            self.constant(1.0).scale(self)
        }

        #[inline(always)]
        fn split_exponent(self) -> (Self, Self) {
            let one = self.constant(1.0);
            // SAFETY: `self` exists.
            let fraction =
                Avx512(unsafe { _mm512_getmant_ps::<_MM_MANT_NORM_P5_1, _MM_MANT_SIGN_SRC>(self.0) });
            (fraction, Avx512(whole!(_mm512_getexp_ps, self)) + one)
        }

        #[inline(always)]
        fn keep_first(self, lanes: usize) -> Self {
            // SAFETY: `self` exists.
            Avx512(unsafe { _mm512_maskz_mov_ps(Self::first(lanes), self.0) })
        }
    }
}

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
        }
        let integers: [f32; BLOCK] = std::array::from_fn(|i| i as f32 * 16.0 - 120.0);
        // SAFETY: as above.
        let n = unsafe { V::load(integers.as_ptr()) };
        same(n.pow2().lanes(), |i| 2.0_f32.powi(integers[i] as i32), "power of two");
        let wide: [f32; BLOCK] = std::array::from_fn(|i| i as f32 * 18.0 - 148.0);
        // SAFETY: as above.
        let n = unsafe { V::load(wide.as_ptr()) };
        same(y.scale(n).lanes(), |i| (1.5 * 2.0_f64.powi(wide[i] as i32)) as f32, "scaling");
        let (fraction, exponent) = y.scale(V::select(n.lt(n.constant(-100.0)), n.constant(0.0), n)).split_exponent();
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
                let mut out = [-1.0; BLOCK];
                full.store_first(out.as_mut_ptr(), count);
                assert_eq!(out, std::array::from_fn(|i| if i < count { source[i] } else { -1.0 }));
            }
        }
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
