//! AVX-512 F, BW, DQ and VL.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use half::f16;

use super::Vector;
use crate::call::BLOCK;

/// One register of sixteen lanes.
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
    /// The register.
    #[inline(always)]
    pub(crate) fn register(self) -> __m512 {
        self.0
    }

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
    fn mul_add_low(self, a: Self, b: Self) -> Self {
        // SAFETY: the operands exist, so the processor has AVX-512.
        Avx512(unsafe {
            let low = |x: Avx512| _mm512_castps512_ps256(x.0);
            _mm512_zextps256_ps512(_mm256_fmadd_ps(low(self), low(a), low(b)))
        })
    }

    #[inline(always)]
    fn keep_low(self) -> Self {
        // SAFETY: `self` exists.
        Avx512(unsafe { _mm512_zextps256_ps512(_mm512_castps512_ps256(self.0)) })
    }

    #[inline(always)]
    fn join_low(self, high: Self) -> Self {
        // SAFETY: the operands exist, so the processor has AVX-512.
        Avx512(unsafe { _mm512_insertf32x8::<1>(self.0, _mm512_castps512_ps256(high.0)) })
    }

    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32) {
        // SAFETY: the caller's promise; `self` exists.
        unsafe {
            _mm256_storeu_ps(low, _mm512_castps512_ps256(self.0));
            _mm256_storeu_ps(high, _mm512_extractf32x8_ps::<1>(self.0));
        }
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
    fn any(mask: Self::Mask) -> bool {
        mask != 0
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
    fn scale_normal(self, n: Self) -> Self {
        self.scale(n)
    }

    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        let one = self.constant(1.0);
        // SAFETY: `self` exists.
        let fraction = Avx512(unsafe { _mm512_getmant_ps::<_MM_MANT_NORM_P5_1, _MM_MANT_SIGN_SRC>(self.0) });
        (fraction, Avx512(whole!(_mm512_getexp_ps, self)) + one)
    }

    #[inline(always)]
    fn unzip(self, next: Self) -> [Self; 2] {
        // SAFETY: the operands exist, so the processor has AVX-512.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            [even, odd].map(
                #[inline(always)]
                |from| Avx512(_mm512_permutex2var_ps(self.0, from, next.0)),
            )
        }
    }

    #[inline(always)]
    fn interleave(rows: [Self; 3]) -> [Self; 3] {
        // Of the first two rows, then of that (lanes below 16) and the third.
        const FIRST: [[i32; BLOCK]; 3] = lanes_of_triples(true);
        const SECOND: [[i32; BLOCK]; 3] = lanes_of_triples(false);
        let mut woven = rows;
        for (vector, (first, second)) in woven.iter_mut().zip(FIRST.iter().zip(&SECOND)) {
            // SAFETY: the arrays have sixteen elements; `rows` exist.
            *vector = Avx512(unsafe {
                let first = _mm512_loadu_si512(first.as_ptr().cast());
                let second = _mm512_loadu_si512(second.as_ptr().cast());
                let two = _mm512_permutex2var_ps(rows[0].0, first, rows[1].0);
                _mm512_permutex2var_ps(two, second, rows[2].0)
            });
        }
        woven
    }

    #[inline(always)]
    fn keep_first(self, lanes: usize) -> Self {
        // SAFETY: `self` exists.
        Avx512(unsafe { _mm512_maskz_mov_ps(Self::first(lanes), self.0) })
    }

    #[inline(always)]
    fn transpose(rows: [Self; BLOCK]) -> [Self; BLOCK] {
        let (mut pairs, mut quads, mut turned) = (rows, rows, rows);
        // SAFETY: `rows` exist, so the processor has AVX-512.
        unsafe {
            for i in 0..8 {
                pairs[2 * i] = Avx512(_mm512_unpacklo_ps(rows[2 * i].0, rows[2 * i + 1].0));
                pairs[2 * i + 1] = Avx512(_mm512_unpackhi_ps(rows[2 * i].0, rows[2 * i + 1].0));
            }
            // Part l of quads[4·i + j] holds lane 4·l + j of the rows 4·i to 4·i + 3.
            for i in 0..4 {
                for half in 0..2 {
                    let [a, b] =
                        [pairs[4 * i + half], pairs[4 * i + 2 + half]].map(|v| _mm512_castps_pd(v.0));
                    quads[4 * i + 2 * half] = Avx512(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)));
                    quads[4 * i + 2 * half + 1] = Avx512(_mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
                }
            }
            for j in 0..4 {
                let [a, b, c, d] = [quads[j].0, quads[4 + j].0, quads[8 + j].0, quads[12 + j].0];
                let even = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
                let odd = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
                turned[j] = Avx512(_mm512_shuffle_f32x4::<0x88>(even[0], even[1]));
                turned[4 + j] = Avx512(_mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]));
                turned[8 + j] = Avx512(_mm512_shuffle_f32x4::<0xdd>(even[0], even[1]));
                turned[12 + j] = Avx512(_mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]));
            }
        }
        turned
    }
}

/// Where the elements of [`Vector::interleave`] come from, in each of its two steps.
const fn lanes_of_triples(first: bool) -> [[i32; BLOCK]; 3] {
    let mut from = [[0; BLOCK]; 3];
    let mut element = 0;
    while element < 3 * BLOCK {
        let (lane, row, at) = (element / 3, element % 3, element % BLOCK);
        from[element / BLOCK][at] = match (first, row) {
            (true, 0) => lane,
            (true, 1) | (false, 2) => BLOCK + lane,
            _ => at,
        } as i32;
        element += 1;
    }
    from
}
