//! Casts between element types: `cast_FROM_TO`.
//!
//! To an integer: floats truncate towards zero and saturate, NaN becomes 0, integers wrap. To bool: x ≠ 0. To a
//! float: rounded once, to nearest, ties to even.

use half::bf16;

use super::elementwise::binary::Truth;
use super::elementwise::{Rows, chunks, define_kernels, load, store, validate_unary};
use crate::call::Elementwise;
use crate::{Args, PerIsa, RunError};

/// The bits of an IEEE 754 half, converted without branches so that the loops become vector code;
/// `half`'s own conversions ask for the processor's features element by element.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Half(u16);

impl Half {
    /// The bits of `x`, rounded to nearest even; NaN stays NaN.
    #[inline(always)]
    pub(crate) fn from_f32(x: f32) -> Half {
        let sign = (x.to_bits() >> 16) as u16 & 0x8000;
        let bits = x.to_bits() & 0x7fff_ffff;
        // Adding 2⁻¹ aligns the last place of a subnormal half with that of the sum, and the addition rounds.
        const ALIGN: f32 = 0.5;
        let subnormal = (f32::from_bits(bits) + ALIGN).to_bits().wrapping_sub(ALIGN.to_bits());
        // Rebias the exponent, add just under half a place, and one more where the place is odd.
        let odd = (bits >> 13) & 1;
        let normal = bits.wrapping_sub(112 << 23).wrapping_add(0xfff).wrapping_add(odd) >> 13;
        let special = if bits > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        // 2⁻¹⁴ is the least normal half; from 65520 on, halves round to infinity.
        let magnitude = if bits < 113 << 23 { subnormal } else { normal };
        let magnitude = if bits >= 0x477f_f000 { special } else { magnitude };
        Half(magnitude as u16 | sign)
    }

    /// As [`Half::from_f32`], rounded once: through the f32 that is exact or odd in its last place.
    #[inline(always)]
    pub(crate) fn from_f64(x: f64) -> Half {
        Half::from_f32(round_to_odd(x))
    }

    /// The value, exactly.
    #[inline(always)]
    pub(crate) fn to_f32(self) -> f32 {
        let bits = u32::from(self.0 & 0x7fff) << 13;
        let exponent = bits & (0x1f << 23);
        let normal = f32::from_bits(bits + (112 << 23));
        // An implicit one is put in front of the subnormal's mantissa and taken away again.
        const ONE: u32 = 113 << 23;
        let subnormal = f32::from_bits(bits + ONE) - f32::from_bits(ONE);
        let special = f32::from_bits(bits + (224 << 23));
        let magnitude = if exponent == 0 { subnormal } else { normal };
        let magnitude = if exponent == 0x1f << 23 { special } else { magnitude };
        f32::from_bits(magnitude.to_bits() | u32::from(self.0 & 0x8000) << 16)
    }
}

/// `x` as f32, truncated, with the last place set where it is inexact: enough for one later rounding to a format
/// of fewer bits to come out as if it were made from `x`.
#[inline(always)]
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let wide = f64::from(nearest);
    let truncated = nearest.to_bits() - u32::from(wide.abs() > x.abs());
    f32::from_bits(truncated | u32::from(wide != x))
}

/// `x` as f64 with eleven bits fewer, the last of them set where it is inexact; see [`round_to_odd`].
#[inline(always)]
fn sticky(x: u64) -> f64 {
    const LOST: u64 = 0x7ff;
    let x = if x >> 53 == 0 { x } else { (x & !LOST) | if x & LOST == 0 { 0 } else { LOST + 1 } };
    x as f64
}

/// A conversion of one element.
pub(crate) trait Convert<To> {
    /// The value as `To`.
    fn convert(self) -> To;
}

/// Implements the conversions from each of the types to every type, given how the value is seen as a float.
macro_rules! conversions {
    ($($from:ident as $wide:ident through [$($to:ident)*];)*) => {$(
        $(conversions!(@number $from $to);)*
        impl Convert<Half> for $from {
            #[inline(always)]
            fn convert(self) -> Half {
                conversions!(@half $wide self)
            }
        }
        impl Convert<bf16> for $from {
            #[inline(always)]
            fn convert(self) -> bf16 {
                bf16::from_f32(conversions!(@odd $wide self))
            }
        }
        impl Convert<$from> for Half {
            #[inline(always)]
            fn convert(self) -> $from {
                self.to_f32() as $from
            }
        }
        impl Convert<$from> for bf16 {
            #[inline(always)]
            fn convert(self) -> $from {
                self.to_f32() as $from
            }
        }
        impl Convert<Truth> for $from {
            #[inline(always)]
            fn convert(self) -> Truth {
                Truth::new(self != 0 as $from)
            }
        }
        impl Convert<$from> for Truth {
            #[inline(always)]
            fn convert(self) -> $from {
                u8::from(self.get()) as $from
            }
        }
    )*};
    (@number $from:ident $to:ident) => {
        impl Convert<$to> for $from {
            #[inline(always)]
            fn convert(self) -> $to {
                self as $to
            }
        }
    };
    (@half f32 $x:ident) => { Half::from_f32($x as f32) };
    (@half f64 $x:ident) => { Half::from_f64($x as f64) };
    (@odd f32 $x:ident) => { $x as f32 };
    (@half i64 $x:ident) => { Half::from_f64($x as f64) };
    (@odd f64 $x:ident) => { round_to_odd($x as f64) };
    (@odd i64 $x:ident) => { round_to_odd(sticky($x.unsigned_abs()).copysign(if $x < 0 { -1.0 } else { 1.0 })) };
    (@half u64 $x:ident) => { Half::from_f64($x as f64) };
    (@odd u64 $x:ident) => { round_to_odd(sticky($x)) };
}

// A type is seen as f32 where that is exact, else as f64 where that is.
conversions! {
    f32 as f32 through [f64 i8 i16 i32 i64 u8 u16 u32 u64];
    f64 as f64 through [f32 i8 i16 i32 i64 u8 u16 u32 u64];
    i8 as f32 through [f32 f64 i16 i32 i64 u8 u16 u32 u64];
    i16 as f32 through [f32 f64 i8 i32 i64 u8 u16 u32 u64];
    i32 as f64 through [f32 f64 i8 i16 i64 u8 u16 u32 u64];
    i64 as i64 through [f32 f64 i8 i16 i32 u8 u16 u32 u64];
    u8 as f32 through [f32 f64 i8 i16 i32 i64 u16 u32 u64];
    u16 as f32 through [f32 f64 i8 i16 i32 i64 u8 u32 u64];
    u32 as f64 through [f32 f64 i8 i16 i32 i64 u8 u16 u64];
    u64 as u64 through [f32 f64 i8 i16 i32 i64 u8 u16 u32];
}

impl Convert<bf16> for Half {
    #[inline(always)]
    fn convert(self) -> bf16 {
        bf16::from_f32(self.to_f32())
    }
}

impl Convert<Half> for bf16 {
    #[inline(always)]
    fn convert(self) -> Half {
        Half::from_f32(self.to_f32())
    }
}

impl Convert<Truth> for Half {
    #[inline(always)]
    fn convert(self) -> Truth {
        Truth::new(self.0 & 0x7fff != 0)
    }
}

impl Convert<Truth> for bf16 {
    #[inline(always)]
    fn convert(self) -> Truth {
        Truth::new(self.to_bits() & 0x7fff != 0)
    }
}

impl Convert<Half> for Truth {
    #[inline(always)]
    fn convert(self) -> Half {
        Half(if self.get() { 0x3c00 } else { 0 })
    }
}

impl Convert<bf16> for Truth {
    #[inline(always)]
    fn convert(self) -> bf16 {
        if self.get() { bf16::ONE } else { bf16::ZERO }
    }
}

/// One chunk of a cast.
#[inline(always)]
unsafe fn run<From: Convert<To> + Copy, To: Copy>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let params: &Elementwise = args.params();
    let (input, out) = (args.operands[0].ptr::<From>().cast_const(), args.operands[1].ptr::<To>());
    let mut rows = Rows::<2>::of_chunk(params, chunk, chunks);
    while let Some(([at_input, at_out], count)) = rows.next() {
        let [step_input, step_out] = rows.inner;
        // SAFETY: the call was validated, so that every element of the index space lies inside its operand.
        unsafe {
            let (input, out) = (input.offset(at_input), out.offset(at_out));
            if (step_input, step_out) == (1, 1) {
                for i in 0..count as isize {
                    store(out, i, load(input, i).convert());
                }
            } else {
                for i in 0..count as isize {
                    store(out, i * step_out, load(input, i * step_input).convert());
                }
            }
        }
    }
    Ok(())
}

/// The casts, as `with! { from: (KERNEL to how) …; … }`. Those that models spend time in, from and to f32, are
/// compiled for every instruction set.
macro_rules! cast_kernels {
    ($with:ident) => {
        $with! {
            f32: (CAST_F32_F64 f64 per_isa) (CAST_F32_I8 i8 per_isa) (CAST_F32_I16 i16 per_isa) (CAST_F32_I32 i32 per_isa) (CAST_F32_I64 i64 per_isa) (CAST_F32_U8 u8 per_isa) (CAST_F32_U16 u16 per_isa) (CAST_F32_U32 u32 per_isa) (CAST_F32_U64 u64 per_isa) (CAST_F32_F16 Half per_isa) (CAST_F32_BF16 bf16 per_isa) (CAST_F32_BOOL Truth per_isa);
            f64: (CAST_F64_F32 f32 per_isa) (CAST_F64_I8 i8 baseline) (CAST_F64_I16 i16 baseline) (CAST_F64_I32 i32 baseline) (CAST_F64_I64 i64 baseline) (CAST_F64_U8 u8 baseline) (CAST_F64_U16 u16 baseline) (CAST_F64_U32 u32 baseline) (CAST_F64_U64 u64 baseline) (CAST_F64_F16 Half baseline) (CAST_F64_BF16 bf16 baseline) (CAST_F64_BOOL Truth baseline);
            i8: (CAST_I8_F32 f32 per_isa) (CAST_I8_F64 f64 baseline) (CAST_I8_I16 i16 baseline) (CAST_I8_I32 i32 baseline) (CAST_I8_I64 i64 baseline) (CAST_I8_U8 u8 baseline) (CAST_I8_U16 u16 baseline) (CAST_I8_U32 u32 baseline) (CAST_I8_U64 u64 baseline) (CAST_I8_F16 Half baseline) (CAST_I8_BF16 bf16 baseline) (CAST_I8_BOOL Truth baseline);
            i16: (CAST_I16_F32 f32 per_isa) (CAST_I16_F64 f64 baseline) (CAST_I16_I8 i8 baseline) (CAST_I16_I32 i32 baseline) (CAST_I16_I64 i64 baseline) (CAST_I16_U8 u8 baseline) (CAST_I16_U16 u16 baseline) (CAST_I16_U32 u32 baseline) (CAST_I16_U64 u64 baseline) (CAST_I16_F16 Half baseline) (CAST_I16_BF16 bf16 baseline) (CAST_I16_BOOL Truth baseline);
            i32: (CAST_I32_F32 f32 per_isa) (CAST_I32_F64 f64 baseline) (CAST_I32_I8 i8 baseline) (CAST_I32_I16 i16 baseline) (CAST_I32_I64 i64 baseline) (CAST_I32_U8 u8 baseline) (CAST_I32_U16 u16 baseline) (CAST_I32_U32 u32 baseline) (CAST_I32_U64 u64 baseline) (CAST_I32_F16 Half baseline) (CAST_I32_BF16 bf16 baseline) (CAST_I32_BOOL Truth baseline);
            i64: (CAST_I64_F32 f32 per_isa) (CAST_I64_F64 f64 baseline) (CAST_I64_I8 i8 baseline) (CAST_I64_I16 i16 baseline) (CAST_I64_I32 i32 baseline) (CAST_I64_U8 u8 baseline) (CAST_I64_U16 u16 baseline) (CAST_I64_U32 u32 baseline) (CAST_I64_U64 u64 baseline) (CAST_I64_F16 Half baseline) (CAST_I64_BF16 bf16 baseline) (CAST_I64_BOOL Truth baseline);
            u8: (CAST_U8_F32 f32 per_isa) (CAST_U8_F64 f64 baseline) (CAST_U8_I8 i8 baseline) (CAST_U8_I16 i16 baseline) (CAST_U8_I32 i32 baseline) (CAST_U8_I64 i64 baseline) (CAST_U8_U16 u16 baseline) (CAST_U8_U32 u32 baseline) (CAST_U8_U64 u64 baseline) (CAST_U8_F16 Half baseline) (CAST_U8_BF16 bf16 baseline) (CAST_U8_BOOL Truth baseline);
            u16: (CAST_U16_F32 f32 per_isa) (CAST_U16_F64 f64 baseline) (CAST_U16_I8 i8 baseline) (CAST_U16_I16 i16 baseline) (CAST_U16_I32 i32 baseline) (CAST_U16_I64 i64 baseline) (CAST_U16_U8 u8 baseline) (CAST_U16_U32 u32 baseline) (CAST_U16_U64 u64 baseline) (CAST_U16_F16 Half baseline) (CAST_U16_BF16 bf16 baseline) (CAST_U16_BOOL Truth baseline);
            u32: (CAST_U32_F32 f32 per_isa) (CAST_U32_F64 f64 baseline) (CAST_U32_I8 i8 baseline) (CAST_U32_I16 i16 baseline) (CAST_U32_I32 i32 baseline) (CAST_U32_I64 i64 baseline) (CAST_U32_U8 u8 baseline) (CAST_U32_U16 u16 baseline) (CAST_U32_U64 u64 baseline) (CAST_U32_F16 Half baseline) (CAST_U32_BF16 bf16 baseline) (CAST_U32_BOOL Truth baseline);
            u64: (CAST_U64_F32 f32 per_isa) (CAST_U64_F64 f64 baseline) (CAST_U64_I8 i8 baseline) (CAST_U64_I16 i16 baseline) (CAST_U64_I32 i32 baseline) (CAST_U64_I64 i64 baseline) (CAST_U64_U8 u8 baseline) (CAST_U64_U16 u16 baseline) (CAST_U64_U32 u32 baseline) (CAST_U64_F16 Half baseline) (CAST_U64_BF16 bf16 baseline) (CAST_U64_BOOL Truth baseline);
            Half: (CAST_F16_F32 f32 per_isa) (CAST_F16_F64 f64 baseline) (CAST_F16_I8 i8 baseline) (CAST_F16_I16 i16 baseline) (CAST_F16_I32 i32 baseline) (CAST_F16_I64 i64 baseline) (CAST_F16_U8 u8 baseline) (CAST_F16_U16 u16 baseline) (CAST_F16_U32 u32 baseline) (CAST_F16_U64 u64 baseline) (CAST_F16_BF16 bf16 baseline) (CAST_F16_BOOL Truth baseline);
            bf16: (CAST_BF16_F32 f32 per_isa) (CAST_BF16_F64 f64 baseline) (CAST_BF16_I8 i8 baseline) (CAST_BF16_I16 i16 baseline) (CAST_BF16_I32 i32 baseline) (CAST_BF16_I64 i64 baseline) (CAST_BF16_U8 u8 baseline) (CAST_BF16_U16 u16 baseline) (CAST_BF16_U32 u32 baseline) (CAST_BF16_U64 u64 baseline) (CAST_BF16_F16 Half baseline) (CAST_BF16_BOOL Truth baseline);
            Truth: (CAST_BOOL_F32 f32 per_isa) (CAST_BOOL_F64 f64 baseline) (CAST_BOOL_I8 i8 baseline) (CAST_BOOL_I16 i16 baseline) (CAST_BOOL_I32 i32 baseline) (CAST_BOOL_I64 i64 baseline) (CAST_BOOL_U8 u8 baseline) (CAST_BOOL_U16 u16 baseline) (CAST_BOOL_U32 u32 baseline) (CAST_BOOL_U64 u64 baseline) (CAST_BOOL_F16 Half baseline) (CAST_BOOL_BF16 bf16 baseline);
        }
    };
}
#[cfg(feature = "reference")]
pub(crate) use cast_kernels;

macro_rules! compile {
    (per_isa $from:ident $to:ident) => {{
        #[inline(always)]
        unsafe fn body(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { run::<$from, $to>(args, chunk, chunks) }
        }
        per_isa!(body)
    }};
    (baseline $from:ident $to:ident) => {
        PerIsa::portable(run::<$from, $to>)
    };
}

macro_rules! define {
    ($($from:ident: $(($item:ident $to:ident $how:ident))*;)*) => {
        define_kernels! {$($(
            #[doc = "The cast that its name says."]
            $item: validate_unary::<$from, $to>, chunks, compile!($how $from $to);
        )*)*}
    };
}

cast_kernels!(define);

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, right) = (Half(bits).to_f32(), f16::from_bits(bits).to_f32());
            assert!(ours == right || ours.is_nan() && right.is_nan(), "{bits:#x}: {ours}, not {right}");
        }
    }

    #[test]
    fn halves_are_rounded_to_nearest_even() {
        let hold = |x: f32| {
            let (ours, right) = (Half::from_f32(x).0, f16::from_f32_const(x));
            assert!(ours == right.to_bits() || x.is_nan() && right.is_nan(), "{x}: {ours:#x}, not {right:?}");
        };
        (0..u32::MAX / 65_537).for_each(|i| hold(f32::from_bits(i * 65_537)));
        // The middle between two halves, and its neighbours.
        for bits in 0..0x7c00 {
            let middle = (f64::from(Half(bits).to_f32()) + f64::from(Half(bits + 1).to_f32())) / 2.0;
            let middle = if bits == 0x7bff { 65_520.0 } else { middle as f32 };
            [middle, -middle, middle.next_up(), middle.next_down()].into_iter().for_each(hold);
        }
    }

    #[test]
    fn doubles_and_large_integers_are_rounded_once() {
        // Through f32, both would become the middle between two halves, and then the lower one.
        assert_eq!(Half::from_f64(1.0 + f64::powi(2.0, -11) + f64::powi(2.0, -40)).0, 0x3c01);
        assert_eq!(Half::from_f64(1.0 + f64::powi(2.0, -11)).0, 0x3c00);
        let above_the_middle: bf16 = ((1i64 << 62) + (1 << 54) + 1).convert();
        assert_eq!(above_the_middle.to_f64(), f64::powi(2.0, 62) + f64::powi(2.0, 55));
        let below_the_middle: bf16 = (-(1i64 << 62) - (1 << 54) + 1).convert();
        assert_eq!(below_the_middle.to_f64(), -f64::powi(2.0, 62));
    }
}
