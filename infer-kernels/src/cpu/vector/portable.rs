//! Sixteen lanes in plain Rust.

use std::ops::{Add, Div, Mul, Neg, Sub};

use half::f16;

use super::Vector;
use crate::call::BLOCK;

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
    fn any(mask: Self::Mask) -> bool {
        mask.into_iter().fold(0, |any, lane| any | lane) != 0
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
