//! Unary operations, compiled for the baseline; those of f32 are in `float`.

use super::binary::Truth;
use super::{Rows, chunks, define_kernels, load, store, validate_unary};
use crate::call::Elementwise;
use crate::{Args, PerIsa, RunError};

/// An operation on one element, with two constants.
pub(crate) trait Unary<T> {
    /// The result's type; a truth is a byte of 0 or 1.
    type Out: Copy;

    /// op(x).
    fn apply(x: T, alpha: f64, beta: f64) -> Self::Out;
}

/// Implements operations for element types, each as an expression in `x`, `alpha` and `beta`.
macro_rules! unary {
    ($($types:tt { $($op:ident: $out:tt, $x:ident, $alpha:ident, $beta:ident => $value:expr;)* })*) => {
        $(unary!(@types $types { $($op: $out, $x, $alpha, $beta => $value;)* });)*
    };
    (@types [$($t:ident)*] $ops:tt) => { $(unary!(@ops $t $ops);)* };
    (@ops $t:ident { $($op:ident: $out:tt, $x:ident, $alpha:ident, $beta:ident => $value:expr;)* }) => {$(
        impl Unary<$t> for $op {
            type Out = unary!(@out $t $out);
            #[inline(always)]
            fn apply($x: $t, $alpha: f64, $beta: f64) -> Self::Out {
                let _ = ($alpha, $beta);
                $value
            }
        }
    )*};
    (@out $t:ident same) => { $t };
    (@out $t:ident truth) => { u8 };
}

pub(crate) struct Abs;
pub(crate) struct Acos;
pub(crate) struct Acosh;
pub(crate) struct Asin;
pub(crate) struct Asinh;
pub(crate) struct Atan;
pub(crate) struct Atanh;
pub(crate) struct Ceil;
pub(crate) struct Cos;
pub(crate) struct Cosh;
pub(crate) struct Elu;
pub(crate) struct Erf;
pub(crate) struct Exp;
pub(crate) struct Floor;
pub(crate) struct HardSigmoid;
pub(crate) struct IsNan;
pub(crate) struct LeakyRelu;
pub(crate) struct Log;
pub(crate) struct Neg;
pub(crate) struct Not;
pub(crate) struct Reciprocal;
pub(crate) struct Relu;
pub(crate) struct Round;
pub(crate) struct Selu;
pub(crate) struct Sigmoid;
pub(crate) struct Sign;
pub(crate) struct Sin;
pub(crate) struct Sinh;
pub(crate) struct Softplus;
pub(crate) struct Softsign;
pub(crate) struct Sqrt;
pub(crate) struct Tan;
pub(crate) struct Tanh;

unary! {
    [f64] {
        Abs: same, x, alpha, beta => x.abs();
        Acos: same, x, alpha, beta => libm::acos(x);
        Acosh: same, x, alpha, beta => libm::acosh(x);
        Asin: same, x, alpha, beta => libm::asin(x);
        Asinh: same, x, alpha, beta => libm::asinh(x);
        Atan: same, x, alpha, beta => libm::atan(x);
        Atanh: same, x, alpha, beta => libm::atanh(x);
        Ceil: same, x, alpha, beta => x.ceil();
        Cos: same, x, alpha, beta => x.cos();
        Cosh: same, x, alpha, beta => libm::cosh(x);
        Elu: same, x, alpha, beta => if x < 0.0 { alpha * x.exp_m1() } else { x };
        Erf: same, x, alpha, beta => libm::erf(x);
        Exp: same, x, alpha, beta => x.exp();
        Floor: same, x, alpha, beta => x.floor();
        HardSigmoid: same, x, alpha, beta => (alpha * x + beta).clamp(0.0, 1.0);
        LeakyRelu: same, x, alpha, beta => if x < 0.0 { alpha * x } else { x };
        Log: same, x, alpha, beta => x.ln();
        Neg: same, x, alpha, beta => -x;
        Reciprocal: same, x, alpha, beta => 1.0 / x;
        Relu: same, x, alpha, beta => if x < 0.0 { 0.0 } else { x };
        Round: same, x, alpha, beta => x.round_ties_even();
        Selu: same, x, alpha, beta => beta * if x < 0.0 { alpha * x.exp_m1() } else { x };
        Sigmoid: same, x, alpha, beta => 1.0 / (1.0 + (-x).exp());
        Sign: same, x, alpha, beta => if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x };
        Sin: same, x, alpha, beta => x.sin();
        Sinh: same, x, alpha, beta => libm::sinh(x);
        // max(x, 0) drops NaN, the logarithm's argument keeps it.
        Softplus: same, x, alpha, beta => x.max(0.0) + (-x.abs()).exp().ln_1p();
        Softsign: same, x, alpha, beta => x / (1.0 + x.abs());
        Sqrt: same, x, alpha, beta => x.sqrt();
        Tan: same, x, alpha, beta => libm::tan(x);
        Tanh: same, x, alpha, beta => x.tanh();
    }
    [i8 i16 i32 i64] {
        Abs: same, x, alpha, beta => x.wrapping_abs();
        Neg: same, x, alpha, beta => x.wrapping_neg();
        Sign: same, x, alpha, beta => x.signum();
    }
    [u8 u16 u32 u64] {
        Sign: same, x, alpha, beta => x.min(1);
    }
    [f32 f64] {
        IsNan: truth, x, alpha, beta => u8::from(x.is_nan());
    }
    [Truth] {
        Not: truth, x, alpha, beta => u8::from(!x.get());
    }
}

/// One chunk of a unary operation.
unsafe fn run<Op: Unary<T>, T: Copy>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params: &Elementwise = args.params();
    let (alpha, beta) = (f64::from(params.alpha), f64::from(params.beta));
    let (input, out) = (args.operands[0].ptr::<T>().cast_const(), args.operands[1].ptr::<Op::Out>());
    let mut rows = Rows::<2>::of_chunk(params, chunk, chunks);
    while let Some(([at_input, at_out], count)) = rows.next() {
        let [step_input, step_out] = rows.inner;
        // SAFETY: the call was validated, so that every element of the index space lies inside its operand.
        unsafe {
            let (input, out) = (input.offset(at_input), out.offset(at_out));
            if (step_input, step_out) == (1, 1) {
                for i in 0..count as isize {
                    store(out, i, Op::apply(load(input, i), alpha, beta));
                }
            } else {
                for i in 0..count as isize {
                    store(out, i * step_out, Op::apply(load(input, i * step_input), alpha, beta));
                }
            }
        }
    }
    Ok(())
}

/// The unary kernels but for those on f32, as `with! { Op: KERNEL type out, …; … }`.
macro_rules! unary_kernels {
    ($with:ident) => {
        $with! {
            Abs "|x|": ABS_F64 f64 f64, ABS_I8 i8 i8, ABS_I16 i16 i16, ABS_I32 i32 i32, ABS_I64 i64 i64;
            Acos "arccos x": ACOS_F64 f64 f64;
            Acosh "arcosh x": ACOSH_F64 f64 f64;
            Asin "arcsin x": ASIN_F64 f64 f64;
            Asinh "arsinh x": ASINH_F64 f64 f64;
            Atan "arctan x": ATAN_F64 f64 f64;
            Atanh "artanh x": ATANH_F64 f64 f64;
            Ceil "⌈x⌉": CEIL_F64 f64 f64;
            Cos "cos x": COS_F64 f64 f64;
            Cosh "cosh x": COSH_F64 f64 f64;
            Elu "x if x ≥ 0 else alpha·(eˣ − 1)": ELU_F64 f64 f64;
            Erf "erf x": ERF_F64 f64 f64;
            Exp "eˣ": EXP_F64 f64 f64;
            Floor "⌊x⌋": FLOOR_F64 f64 f64;
            HardSigmoid "max(0, min(1, alpha·x + beta))": HARD_SIGMOID_F64 f64 f64;
            IsNan "whether x is NaN": IS_NAN_F32 f32 u8, IS_NAN_F64 f64 u8;
            LeakyRelu "x if x ≥ 0 else alpha·x": LEAKY_RELU_F64 f64 f64;
            Log "ln x": LOG_F64 f64 f64;
            Neg "−x": NEG_F64 f64 f64, NEG_I8 i8 i8, NEG_I16 i16 i16, NEG_I32 i32 i32, NEG_I64 i64 i64;
            Not "not x": NOT_BOOL Truth u8;
            Reciprocal "1 / x": RECIPROCAL_F64 f64 f64;
            Relu "max(x, 0)": RELU_F64 f64 f64;
            Round "the integer nearest to x, the even one of two": ROUND_F64 f64 f64;
            Selu "beta·(x if x ≥ 0 else alpha·(eˣ − 1))": SELU_F64 f64 f64;
            Sigmoid "1 / (1 + e⁻ˣ)": SIGMOID_F64 f64 f64;
            Sign "−1, 0 or 1 by the sign of x": SIGN_F64 f64 f64, SIGN_I8 i8 i8, SIGN_I16 i16 i16,
                SIGN_I32 i32 i32, SIGN_I64 i64 i64, SIGN_U8 u8 u8, SIGN_U16 u16 u16, SIGN_U32 u32 u32,
                SIGN_U64 u64 u64;
            Sin "sin x": SIN_F64 f64 f64;
            Sinh "sinh x": SINH_F64 f64 f64;
            Softplus "ln(1 + eˣ)": SOFTPLUS_F64 f64 f64;
            Softsign "x / (1 + |x|)": SOFTSIGN_F64 f64 f64;
            Sqrt "√x": SQRT_F64 f64 f64;
            Tan "tan x": TAN_F64 f64 f64;
            Tanh "tanh x": TANH_F64 f64 f64;
        }
    };
}
#[cfg(feature = "reference")]
pub(crate) use unary_kernels;

macro_rules! define {
    ($($op:ident $doc:literal: $($item:ident $in:ident $out:ident),*;)*) => {
        define_kernels! {$($(
            #[doc = $doc]
            $item: validate_unary::<$in, $out>, chunks, PerIsa::portable(run::<$op, $in>);
        )*)*}
    };
}

unary_kernels!(define);
