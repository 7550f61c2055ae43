//! Binary operations, comparisons and selections, compiled for the baseline; f32 arithmetic is in `float`.

use super::{Rows, chunks, define_kernels, load, store, validate, validate_binary};
use crate::call::Elementwise;
use crate::{Args, Call, Invalid, PerIsa, RunError};

/// An operation on two elements.
pub(crate) trait Binary<T> {
    /// The result's type; a truth is a byte of 0 or 1.
    type Out: Copy;

    /// op(a, b). What cannot be computed sets `fault`, and any result will do.
    fn apply(a: T, b: T, fault: &mut bool) -> Self::Out;
}

pub(crate) struct Add;
pub(crate) struct Sub;
pub(crate) struct Mul;
pub(crate) struct Div;
pub(crate) struct Min;
pub(crate) struct Max;
pub(crate) struct Pow;
pub(crate) struct Mod;
pub(crate) struct Fmod;
pub(crate) struct Equal;
pub(crate) struct Less;
pub(crate) struct LessOrEqual;
pub(crate) struct Greater;
pub(crate) struct GreaterOrEqual;
pub(crate) struct And;
pub(crate) struct Or;
pub(crate) struct Xor;

/// The remainder with the sign of the divisor.
pub(crate) trait Remainder: Sized {
    /// a − b·⌊a/b⌋; a remainder of zero, too, has the sign of b.
    fn modulo(self, b: Self) -> Self;
}

macro_rules! remainder {
    ($($t:ident)*) => {$(
        impl Remainder for $t {
            #[inline(always)]
            fn modulo(self, b: $t) -> $t {
                // Exact, and on the side of `self`.
                let rest = self % b;
                if rest == 0.0 {
                    rest.copysign(b)
                } else if (rest < 0.0) != (b < 0.0) {
                    rest + b
                } else {
                    rest
                }
            }
        }
    )*};
}

remainder!(f32 f64);

/// Implements operations for element types, each as an expression in `a` and `b`.
macro_rules! binary {
    ($($types:tt { $($op:ident: $out:tt, $a:ident, $b:ident, $fault:ident => $value:expr;)* })*) => {
        $(binary!(@types $types { $($op: $out, $a, $b, $fault => $value;)* });)*
    };
    (@types [$($t:ident)*] $ops:tt) => { $(binary!(@ops $t $ops);)* };
    (@ops $t:ident { $($op:ident: $out:tt, $a:ident, $b:ident, $fault:ident => $value:expr;)* }) => {$(
        impl Binary<$t> for $op {
            type Out = binary!(@out $t $out);
            #[inline(always)]
            fn apply($a: $t, $b: $t, $fault: &mut bool) -> Self::Out {
                let _ = $fault;
                $value
            }
        }
    )*};
    (@out $t:ident same) => { $t };
    (@out $t:ident truth) => { u8 };
}

binary! {
    [i8 i16 i32 i64 u8 u16 u32 u64] {
        Add: same, a, b, fault => a.wrapping_add(b);
        Sub: same, a, b, fault => a.wrapping_sub(b);
        Mul: same, a, b, fault => a.wrapping_mul(b);
        Div: same, a, b, fault => {
            *fault |= b == 0;
            a.wrapping_div(if b == 0 { 1 } else { b })
        };
        Min: same, a, b, fault => if b < a { b } else { a };
        Max: same, a, b, fault => if b > a { b } else { a };
    }
    [f64] {
        Add: same, a, b, fault => a + b;
        Sub: same, a, b, fault => a - b;
        Mul: same, a, b, fault => a * b;
        Div: same, a, b, fault => a / b;
        // The comparison fails where b is NaN and holds nothing of a: NaN on either side wins.
        Min: same, a, b, fault => if a < b || a.is_nan() { a } else { b };
        Max: same, a, b, fault => if a > b || a.is_nan() { a } else { b };
        Pow: same, a, b, fault => a.powf(b);
        Mod: same, a, b, fault => a.modulo(b);
        Fmod: same, a, b, fault => a % b;
    }
    [i32 i64] {
        Pow: same, a, b, fault => match u64::try_from(b) {
            Ok(exponent) => {
                let (mut power, mut base, mut rest) = (1 as Self::Out, a, exponent);
                while rest > 0 {
                    if rest & 1 == 1 {
                        power = power.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    rest >>= 1;
                }
                power
            }
            // 1 / aⁿ, truncated.
            Err(_) => {
                *fault |= a == 0;
                match a {
                    1 => 1,
                    -1 if b % 2 == 0 => 1,
                    -1 => -1,
                    _ => 0,
                }
            }
        };
    }
    [f32 f64 i8 i16 i32 i64 u8 u16 u32 u64] {
        Equal: truth, a, b, fault => u8::from(a == b);
        Less: truth, a, b, fault => u8::from(a < b);
        LessOrEqual: truth, a, b, fault => u8::from(a <= b);
        Greater: truth, a, b, fault => u8::from(a > b);
        GreaterOrEqual: truth, a, b, fault => u8::from(a >= b);
    }
}

/// A boolean operand: one byte, of which anything but 0 is true.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Truth(u8);

impl Truth {
    /// The byte that stands for `truth`.
    #[inline(always)]
    pub(crate) fn new(truth: bool) -> Truth {
        Truth(u8::from(truth))
    }

    /// What it stands for.
    #[inline(always)]
    pub(crate) fn get(self) -> bool {
        self.0 != 0
    }
}

macro_rules! logic {
    ($($op:ident: $a:ident, $b:ident => $value:expr;)*) => {$(
        impl Binary<Truth> for $op {
            type Out = u8;
            #[inline(always)]
            fn apply(a: Truth, b: Truth, _: &mut bool) -> u8 {
                let ($a, $b) = (a.get(), b.get());
                u8::from($value)
            }
        }
    )*};
}

logic! {
    Equal: a, b => a == b;
    And: a, b => a & b;
    Or: a, b => a | b;
    Xor: a, b => a ^ b;
}

/// One chunk of a binary operation.
unsafe fn run<Op: Binary<T>, T: Copy>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params: &Elementwise = args.params();
    let (a, b, out) = (
        args.operands[0].ptr::<T>().cast_const(),
        args.operands[1].ptr::<T>().cast_const(),
        args.operands[2].ptr::<Op::Out>(),
    );
    let mut fault = false;
    let mut rows = Rows::<3>::of_chunk(params, chunk, chunks);
    while let Some(([at_a, at_b, at_out], count)) = rows.next() {
        // SAFETY: the call was validated, so that every element of the index space lies inside its operand.
        unsafe {
            let (a, b, out) = (a.offset(at_a), b.offset(at_b), out.offset(at_out));
            let count = count as isize;
            match rows.inner {
                [1, 1, 1] => {
                    for i in 0..count {
                        store(out, i, Op::apply(load(a, i), load(b, i), &mut fault));
                    }
                }
                [1, 0, 1] => {
                    let b = load(b, 0);
                    for i in 0..count {
                        store(out, i, Op::apply(load(a, i), b, &mut fault));
                    }
                }
                [step_a, step_b, step_out] => {
                    for i in 0..count {
                        let value = Op::apply(load(a, i * step_a), load(b, i * step_b), &mut fault);
                        store(out, i * step_out, value);
                    }
                }
            }
        }
    }
    if fault { Err(RunError::DivisionByZero) } else { Ok(()) }
}

/// The binary kernels but for f32 arithmetic, as `with! { Op: KERNEL type out, …; … }`.
macro_rules! binary_kernels {
    ($with:ident) => {
        $with! {
            Add "a + b": ADD_F64 f64 f64, ADD_I8 i8 i8, ADD_I16 i16 i16, ADD_I32 i32 i32, ADD_I64 i64 i64,
                ADD_U8 u8 u8, ADD_U16 u16 u16, ADD_U32 u32 u32, ADD_U64 u64 u64;
            Sub "a − b": SUB_F64 f64 f64, SUB_I8 i8 i8, SUB_I16 i16 i16, SUB_I32 i32 i32, SUB_I64 i64 i64,
                SUB_U8 u8 u8, SUB_U16 u16 u16, SUB_U32 u32 u32, SUB_U64 u64 u64;
            Mul "a · b": MUL_F64 f64 f64, MUL_I8 i8 i8, MUL_I16 i16 i16, MUL_I32 i32 i32, MUL_I64 i64 i64,
                MUL_U8 u8 u8, MUL_U16 u16 u16, MUL_U32 u32 u32, MUL_U64 u64 u64;
            Div "a / b, integers truncated": DIV_F64 f64 f64, DIV_I8 i8 i8, DIV_I16 i16 i16, DIV_I32 i32 i32,
                DIV_I64 i64 i64, DIV_U8 u8 u8, DIV_U16 u16 u16, DIV_U32 u32 u32, DIV_U64 u64 u64;
            Min "the lesser of a and b, or NaN": MIN_F64 f64 f64, MIN_I8 i8 i8, MIN_I16 i16 i16,
                MIN_I32 i32 i32, MIN_I64 i64 i64, MIN_U8 u8 u8, MIN_U16 u16 u16, MIN_U32 u32 u32, MIN_U64 u64 u64;
            Max "the greater of a and b, or NaN": MAX_F64 f64 f64, MAX_I8 i8 i8, MAX_I16 i16 i16,
                MAX_I32 i32 i32, MAX_I64 i64 i64, MAX_U8 u8 u8, MAX_U16 u16 u16, MAX_U32 u32 u32, MAX_U64 u64 u64;
            Pow "aᵇ; integers wrap, and 1/aⁿ is truncated": POW_F64 f64 f64, POW_I32 i32 i32, POW_I64 i64 i64;
            Mod "the remainder of a / b, on the side of b": MOD_F64 f64 f64;
            Fmod "the remainder of a / b, on the side of a": FMOD_F64 f64 f64;
            Equal "a = b": EQUAL_F32 f32 u8, EQUAL_F64 f64 u8, EQUAL_I8 i8 u8, EQUAL_I16 i16 u8, EQUAL_I32 i32 u8,
                EQUAL_I64 i64 u8, EQUAL_U8 u8 u8, EQUAL_U16 u16 u8, EQUAL_U32 u32 u8, EQUAL_U64 u64 u8,
                EQUAL_BOOL Truth u8;
            Less "a < b": LESS_F32 f32 u8, LESS_F64 f64 u8, LESS_I8 i8 u8, LESS_I16 i16 u8, LESS_I32 i32 u8,
                LESS_I64 i64 u8, LESS_U8 u8 u8, LESS_U16 u16 u8, LESS_U32 u32 u8, LESS_U64 u64 u8;
            LessOrEqual "a ≤ b": LESS_OR_EQUAL_F32 f32 u8, LESS_OR_EQUAL_F64 f64 u8, LESS_OR_EQUAL_I8 i8 u8,
                LESS_OR_EQUAL_I16 i16 u8, LESS_OR_EQUAL_I32 i32 u8, LESS_OR_EQUAL_I64 i64 u8,
                LESS_OR_EQUAL_U8 u8 u8, LESS_OR_EQUAL_U16 u16 u8, LESS_OR_EQUAL_U32 u32 u8,
                LESS_OR_EQUAL_U64 u64 u8;
            Greater "a > b": GREATER_F32 f32 u8, GREATER_F64 f64 u8, GREATER_I8 i8 u8, GREATER_I16 i16 u8,
                GREATER_I32 i32 u8, GREATER_I64 i64 u8, GREATER_U8 u8 u8, GREATER_U16 u16 u8,
                GREATER_U32 u32 u8, GREATER_U64 u64 u8;
            GreaterOrEqual "a ≥ b": GREATER_OR_EQUAL_F32 f32 u8, GREATER_OR_EQUAL_F64 f64 u8,
                GREATER_OR_EQUAL_I8 i8 u8, GREATER_OR_EQUAL_I16 i16 u8, GREATER_OR_EQUAL_I32 i32 u8,
                GREATER_OR_EQUAL_I64 i64 u8, GREATER_OR_EQUAL_U8 u8 u8, GREATER_OR_EQUAL_U16 u16 u8,
                GREATER_OR_EQUAL_U32 u32 u8, GREATER_OR_EQUAL_U64 u64 u8;
            And "a and b": AND_BOOL Truth u8;
            Or "a or b": OR_BOOL Truth u8;
            Xor "either a or b": XOR_BOOL Truth u8;
        }
    };
}
#[cfg(feature = "reference")]
pub(crate) use binary_kernels;

macro_rules! define {
    ($($op:ident $doc:literal: $($item:ident $in:ident $out:ident),*;)*) => {
        define_kernels! {$($(
            #[doc = $doc]
            $item: validate_binary::<$in, $out>, chunks, PerIsa::portable(run::<$op, $in>);
        )*)*}
    };
}

binary_kernels!(define);

/// One chunk of a selection: condition, a, b.
unsafe fn select<T: Copy>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params: &Elementwise = args.params();
    let condition = args.operands[0].ptr::<Truth>().cast_const();
    let (a, b) = (args.operands[1].ptr::<T>().cast_const(), args.operands[2].ptr::<T>().cast_const());
    let out = args.operands[3].ptr::<T>();
    let mut rows = Rows::<4>::of_chunk(params, chunk, chunks);
    while let Some(([at_condition, at_a, at_b, at_out], count)) = rows.next() {
        let [step_condition, step_a, step_b, step_out] = rows.inner;
        // SAFETY: the call was validated, so that every element of the index space lies inside its operand.
        unsafe {
            let condition = condition.offset(at_condition);
            let (a, b, out) = (a.offset(at_a), b.offset(at_b), out.offset(at_out));
            for i in 0..count as isize {
                let (x, y) = (load(a, i * step_a), load(b, i * step_b));
                store(out, i * step_out, if load(condition, i * step_condition).get() { x } else { y });
            }
        }
    }
    Ok(())
}

fn validate_select<T>(call: &Call<'_>) -> Result<(), Invalid> {
    let bytes = size_of::<T>() as u64;
    validate(call, &[1, bytes, bytes, bytes])
}

define_kernels! {
    /// a where the condition holds, else b: elements of one byte.
    WHERE_B1: validate_select::<u8>, chunks, PerIsa::portable(select::<u8>);
    /// a where the condition holds, else b: elements of two bytes.
    WHERE_B2: validate_select::<u16>, chunks, PerIsa::portable(select::<u16>);
    /// a where the condition holds, else b: elements of four bytes.
    WHERE_B4: validate_select::<u32>, chunks, PerIsa::portable(select::<u32>);
    /// a where the condition holds, else b: elements of eight bytes.
    WHERE_B8: validate_select::<u64>, chunks, PerIsa::portable(select::<u64>);
}
