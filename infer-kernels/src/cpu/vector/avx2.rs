//! AVX2 with FMA and F16C.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use half::f16;

use super::Vector;
use crate::call::BLOCK;

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
    fn mul_add_low(self, a: Self, b: Self) -> Self {
        // SAFETY: the operands exist, so the processor has AVX2 and FMA.
        Avx2([unsafe { _mm256_fmadd_ps(self.0[0], a.0[0], b.0[0]) }, b.0[1]])
    }

    #[inline(always)]
    fn keep_low(self) -> Self {
        // SAFETY: `self` exists.
        Avx2([self.0[0], unsafe { _mm256_setzero_ps() }])
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
    fn any(mask: Self::Mask) -> bool {
        // SAFETY: the mask exists.
        unsafe { _mm256_movemask_ps(_mm256_or_ps(mask.0[0], mask.0[1])) != 0 }
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
                fraction.0[half] = _mm256_castsi256_ps(_mm256_or_si256(kept, _mm256_set1_epi32(0x3f00_0000)));
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

    #[inline(always)]
    fn transpose(rows: [Self; BLOCK]) -> [Self; BLOCK] {
        let mut turned = rows;
        for (down, across) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            // No closures here and below: nothing makes them part of a function with the instruction set.
            let mut square = [rows[0].0[0]; 8];
            for (i, row) in square.iter_mut().enumerate() {
                *row = rows[8 * down + i].0[across];
            }
            // SAFETY: `rows` exist, so the processor has AVX2.
            let square = unsafe { transpose_eight(square) };
            for (j, row) in square.into_iter().enumerate() {
                turned[8 * across + j].0[down] = row;
            }
        }
        turned
    }
}

/// Lane j of row i becomes lane i of row j.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn transpose_eight(rows: [__m256; 8]) -> [__m256; 8] {
    let mut turned = rows;
    // SAFETY: the caller's promise.
    unsafe {
        // Part l of quads[i][j] holds lane 4·l + j of the rows 4·i to 4·i + 3.
        let mut quads = [[rows[0]; 4]; 2];
        for (i, quads) in quads.iter_mut().enumerate() {
            let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
            let low = [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)];
            let high = [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)];
            *quads = [
                _mm256_shuffle_ps::<0x44>(low[0], low[1]),
                _mm256_shuffle_ps::<0xee>(low[0], low[1]),
                _mm256_shuffle_ps::<0x44>(high[0], high[1]),
                _mm256_shuffle_ps::<0xee>(high[0], high[1]),
            ];
        }
        for j in 0..4 {
            turned[j] = _mm256_permute2f128_ps::<0x20>(quads[0][j], quads[1][j]);
            turned[4 + j] = _mm256_permute2f128_ps::<0x31>(quads[0][j], quads[1][j]);
        }
    }
    turned
}
