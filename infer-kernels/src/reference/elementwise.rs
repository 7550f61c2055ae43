//! Oracles of the elementwise kernels: each operation by its ONNX definition, one element at a time.
//!
//! Floats are computed in f64 and rounded once. For + − · / √ that is the correctly rounded f32 result, for the
//! others as good as `libm`'s f64 functions.

use super::Registered;
use crate::call::Elementwise;
use crate::cpu::elementwise::binary::binary_kernels;
use crate::cpu::elementwise::float::{float_binary_kernels, float_unary_kernels};
use crate::cpu::elementwise::unary::unary_kernels;
use crate::{Args, RunError, kernels};

/// Calls `element` with the element numbers of all `N` operands, for every point of the index space.
pub(super) fn for_each<const N: usize>(
    call: &Elementwise,
    mut element: impl FnMut([usize; N]) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let rank = call.rank as usize;
    let dims = &call.dims[..rank];
    let total = if dims.contains(&0) { 0 } else { dims.iter().product() };
    for flat in 0..total {
        let mut at: [i64; N] = std::array::from_fn(|operand| call.offsets[operand] as i64);
        let mut rest = flat;
        for axis in (0..rank).rev() {
            for (operand, at) in at.iter_mut().enumerate() {
                *at += (rest % dims[axis]) as i64 * call.strides[operand][axis];
            }
            rest /= dims[axis];
        }
        element(at.map(|at| at as usize))?;
    }
    Ok(())
}

/// Reads an element.
///
/// # Safety
///
/// It lies inside the operand.
pub(super) unsafe fn read<T: Copy>(args: &Args<'_>, operand: usize, element: usize) -> T {
    // SAFETY: passed on.
    unsafe { args.operands[operand].ptr::<T>().add(element).read_unaligned() }
}

/// Writes an element.
///
/// # Safety
///
/// It lies inside the operand.
pub(super) unsafe fn write<T: Copy>(args: &Args<'_>, operand: usize, element: usize, value: T) {
    // SAFETY: passed on.
    unsafe { args.operands[operand].ptr::<T>().add(element).write_unaligned(value) }
}

/// A boolean operand: one byte, of which anything but 0 is true.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Truth(u8);

/// The definition of an operation on two elements of type `T`.
trait Binary<T> {
    type Out: Copy;
    fn evaluate(a: T, b: T) -> Result<Self::Out, RunError>;
}

/// The definition of an operation on one element of type `T`, with the two constants of the call.
trait Unary<T> {
    type Out: Copy;
    fn evaluate(x: T, alpha: f64, beta: f64) -> Self::Out;
}

macro_rules! binary {
    ($($op:ident { $($types:tt -> $out:tt: |$a:ident, $b:ident| $value:expr;)* })*) => {$(
        struct $op;
        $(binary!(@types $op $types $out $a $b $value);)*
    )*};
    (@types $op:ident [$($t:ident)*] $out:tt $a:ident $b:ident $value:expr) => {
        $(binary!(@one $op $t $out $a $b $value);)*
    };
    (@one $op:ident f32 same $a:ident $b:ident $value:expr) => {
        impl Binary<f32> for $op {
            type Out = f32;
            fn evaluate(a: f32, b: f32) -> Result<f32, RunError> {
                <$op as Binary<f64>>::evaluate(f64::from(a), f64::from(b)).map(|value| value as f32)
            }
        }
    };
    (@one $op:ident $t:ident same $a:ident $b:ident $value:expr) => {
        impl Binary<$t> for $op {
            type Out = $t;
            fn evaluate($a: $t, $b: $t) -> Result<$t, RunError> {
                $value
            }
        }
    };
    (@one $op:ident $t:ident truth $a:ident $b:ident $value:expr) => {
        impl Binary<$t> for $op {
            type Out = u8;
            fn evaluate($a: $t, $b: $t) -> Result<u8, RunError> {
                Ok(u8::from($value))
            }
        }
    };
}

binary! {
    Add {
        [f32 f64] -> same: |a, b| Ok(a + b);
        [i8 i16 i32 i64 u8 u16 u32 u64] -> same: |a, b| Ok(a.wrapping_add(b));
    }
    Sub {
        [f32 f64] -> same: |a, b| Ok(a - b);
        [i8 i16 i32 i64 u8 u16 u32 u64] -> same: |a, b| Ok(a.wrapping_sub(b));
    }
    Mul {
        [f32 f64] -> same: |a, b| Ok(a * b);
        [i8 i16 i32 i64 u8 u16 u32 u64] -> same: |a, b| Ok(a.wrapping_mul(b));
    }
    Div {
        [f32 f64] -> same: |a, b| Ok(a / b);
        [i8 i16 i32 i64 u8 u16 u32 u64] -> same:
            |a, b| if b == 0 { Err(RunError::DivisionByZero) } else { Ok(a.wrapping_div(b)) };
    }
    Min {
        [f32 f64] -> same: |a, b| Ok(if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) });
        [i8 i16 i32 i64 u8 u16 u32 u64] -> same: |a, b| Ok(a.min(b));
    }
    Max {
        [f32 f64] -> same: |a, b| Ok(if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
        [i8 i16 i32 i64 u8 u16 u32 u64] -> same: |a, b| Ok(a.max(b));
    }
    Pow {
        [f32 f64] -> same: |a, b| Ok(libm::pow(a, b));
        // aᵇ modulo 2ⁿ; of 1/aⁿ only the integer part remains.
        [i32 i64] -> same: |a, b| match (a, b) {
            (0, ..0) => Err(RunError::DivisionByZero),
            (1, _) => Ok(1),
            (-1, _) => Ok(if b % 2 == 0 { 1 } else { -1 }),
            (_, ..0) => Ok(0),
            (_, _) => {
                // Once the power is 0 it stays 0, and an even base gets there within as many steps as bits;
                // the powers of an odd base repeat after a power of two of steps.
                let exponent = if a % 2 == 0 { (b as u64).min(64) } else { b as u64 };
                let mut square = a;
                let mut power = 1;
                for bit in 0..64 {
                    if exponent >> bit & 1 == 1 {
                        power = square.wrapping_mul(power);
                    }
                    square = square.wrapping_mul(square);
                }
                Ok(power)
            }
        };
    }
    Mod {
        [f32 f64] -> same: |a, b| {
            let rest = libm::fmod(a, b);
            let crosses = (rest < 0.0) != (b < 0.0);
            Ok(if rest == 0.0 { libm::copysign(rest, b) } else if crosses { rest + b } else { rest })
        };
    }
    Fmod { [f32 f64] -> same: |a, b| Ok(libm::fmod(a, b)); }
    PRelu { [f32 f64] -> same: |x, slope| Ok(if x < 0.0 { slope * x } else { x }); }
    Equal {
        [f32 f64 i8 i16 i32 i64 u8 u16 u32 u64] -> truth: |a, b| a == b;
        [Truth] -> truth: |a, b| (a.0 != 0) == (b.0 != 0);
    }
    Less { [f32 f64 i8 i16 i32 i64 u8 u16 u32 u64] -> truth: |a, b| a < b; }
    LessOrEqual { [f32 f64 i8 i16 i32 i64 u8 u16 u32 u64] -> truth: |a, b| a <= b; }
    Greater { [f32 f64 i8 i16 i32 i64 u8 u16 u32 u64] -> truth: |a, b| a > b; }
    GreaterOrEqual { [f32 f64 i8 i16 i32 i64 u8 u16 u32 u64] -> truth: |a, b| a >= b; }
    And { [Truth] -> truth: |a, b| a.0 != 0 && b.0 != 0; }
    Or { [Truth] -> truth: |a, b| a.0 != 0 || b.0 != 0; }
    Xor { [Truth] -> truth: |a, b| (a.0 != 0) != (b.0 != 0); }
}

macro_rules! unary {
    ($($op:ident: |$x:ident, $alpha:ident, $beta:ident| $value:expr;)*) => {$(
        struct $op;
        impl Unary<f64> for $op {
            type Out = f64;
            fn evaluate($x: f64, $alpha: f64, $beta: f64) -> f64 {
                let _ = ($alpha, $beta);
                $value
            }
        }
        impl Unary<f32> for $op {
            type Out = f32;
            fn evaluate(x: f32, alpha: f64, beta: f64) -> f32 {
                <$op as Unary<f64>>::evaluate(f64::from(x), alpha, beta) as f32
            }
        }
    )*};
}

/// min(max(x, low), high); NaN stays NaN.
fn clip(x: f64, low: f64, high: f64) -> f64 {
    if x.is_nan() { x } else { x.max(low).min(high) }
}

/// ln(1 + eˣ), without overflow.
fn softplus(x: f64) -> f64 {
    if x > 0.0 { x + libm::log1p(libm::exp(-x)) } else { libm::log1p(libm::exp(x)) }
}

unary! {
    Abs: |x, alpha, beta| x.abs();
    Acos: |x, alpha, beta| libm::acos(x);
    Acosh: |x, alpha, beta| libm::acosh(x);
    Asin: |x, alpha, beta| libm::asin(x);
    Asinh: |x, alpha, beta| libm::asinh(x);
    Atan: |x, alpha, beta| libm::atan(x);
    Atanh: |x, alpha, beta| libm::atanh(x);
    Ceil: |x, alpha, beta| libm::ceil(x);
    Clip: |x, alpha, beta| clip(x, alpha, beta);
    Cos: |x, alpha, beta| libm::cos(x);
    Cosh: |x, alpha, beta| libm::cosh(x);
    Elu: |x, alpha, beta| if x < 0.0 { alpha * libm::expm1(x) } else { x };
    Erf: |x, alpha, beta| libm::erf(x);
    Exp: |x, alpha, beta| libm::exp(x);
    Floor: |x, alpha, beta| libm::floor(x);
    // 1 + erf y = erfc −y, which keeps its digits where erf y nears −1.
    Gelu: |x, alpha, beta| x / 2.0 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    GeluTanh: |x, alpha, beta| {
        // (1 + tanh y) / 2 = 1 / (1 + e⁻²ʸ), for the same reason.
        let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        x / (1.0 + libm::exp(-2.0 * y))
    };
    HardSigmoid: |x, alpha, beta| clip(alpha * x + beta, 0.0, 1.0);
    HardSwish: |x, alpha, beta| x * clip(x / 6.0 + 0.5, 0.0, 1.0);
    LeakyRelu: |x, alpha, beta| if x < 0.0 { alpha * x } else { x };
    Log: |x, alpha, beta| libm::log(x);
    Mish: |x, alpha, beta| x * libm::tanh(softplus(x));
    Neg: |x, alpha, beta| -x;
    Reciprocal: |x, alpha, beta| 1.0 / x;
    Relu: |x, alpha, beta| if x < 0.0 { 0.0 } else { x };
    Round: |x, alpha, beta| libm::rint(x);
    Selu: |x, alpha, beta| beta * if x < 0.0 { alpha * libm::expm1(x) } else { x };
    Sigmoid: |x, alpha, beta| 1.0 / (1.0 + libm::exp(-x));
    Sign: |x, alpha, beta| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x };
    Silu: |x, alpha, beta| x / (1.0 + libm::exp(-x));
    Sin: |x, alpha, beta| libm::sin(x);
    Sinh: |x, alpha, beta| libm::sinh(x);
    Softplus: |x, alpha, beta| softplus(x);
    Softsign: |x, alpha, beta| x / (1.0 + x.abs());
    Sqrt: |x, alpha, beta| libm::sqrt(x);
    Tan: |x, alpha, beta| libm::tan(x);
    Tanh: |x, alpha, beta| libm::tanh(x);
}

struct IsNan;
struct Not;

macro_rules! other_unary {
    ($($op:ident $t:ident -> $out:ident: |$x:ident| $value:expr;)*) => {$(
        impl Unary<$t> for $op {
            type Out = $out;
            fn evaluate($x: $t, _: f64, _: f64) -> $out {
                $value
            }
        }
    )*};
}

other_unary! {
    Abs i8 -> i8: |x| x.wrapping_abs();
    Abs i16 -> i16: |x| x.wrapping_abs();
    Abs i32 -> i32: |x| x.wrapping_abs();
    Abs i64 -> i64: |x| x.wrapping_abs();
    Neg i8 -> i8: |x| x.wrapping_neg();
    Neg i16 -> i16: |x| x.wrapping_neg();
    Neg i32 -> i32: |x| x.wrapping_neg();
    Neg i64 -> i64: |x| x.wrapping_neg();
    Sign i8 -> i8: |x| x.signum();
    Sign i16 -> i16: |x| x.signum();
    Sign i32 -> i32: |x| x.signum();
    Sign i64 -> i64: |x| x.signum();
    Sign u8 -> u8: |x| u8::from(x > 0);
    Sign u16 -> u16: |x| u16::from(x > 0);
    Sign u32 -> u32: |x| u32::from(x > 0);
    Sign u64 -> u64: |x| u64::from(x > 0);
    IsNan f32 -> u8: |x| u8::from(x.is_nan());
    IsNan f64 -> u8: |x| u8::from(x.is_nan());
    Not Truth -> u8: |x| u8::from(x.0 == 0);
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn binary<Op: Binary<T>, T: Copy>(args: &Args<'_>) -> Result<(), RunError> {
    for_each(args.params(), |[a, b, out]| {
        // SAFETY: the call was validated.
        unsafe { write(args, 2, out, Op::evaluate(read(args, 0, a), read(args, 1, b))?) };
        Ok(())
    })
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn unary<Op: Unary<T>, T: Copy>(args: &Args<'_>) -> Result<(), RunError> {
    let call: &Elementwise = args.params();
    for_each(call, |[x, out]| {
        // SAFETY: the call was validated.
        unsafe {
            let value = Op::evaluate(read(args, 0, x), f64::from(call.alpha), f64::from(call.beta));
            write(args, 1, out, value);
        }
        Ok(())
    })
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn select<T: Copy>(args: &Args<'_>) -> Result<(), RunError> {
    for_each(args.params(), |[condition, a, b, out]| {
        // SAFETY: the call was validated.
        unsafe {
            let truth: u8 = read(args, 0, condition);
            let value: T = if truth != 0 { read(args, 1, a) } else { read(args, 2, b) };
            write(args, 3, out, value);
        }
        Ok(())
    })
}

macro_rules! register_binary {
    ($($op:ident $doc:literal: $($item:ident $in:ident $out:ident),*;)*) => {
        &[$($(Registered { kernel: &kernels::$item, reference: binary::<$op, $in> },)*)*]
    };
}

macro_rules! register_unary {
    ($($op:ident $doc:literal: $($item:ident $in:ident $out:ident),*;)*) => {
        &[$($(Registered { kernel: &kernels::$item, reference: unary::<$op, $in> },)*)*]
    };
}

macro_rules! register_float_binary {
    ($($op:ident $doc:literal: $item:ident;)*) => {
        &[$(Registered { kernel: &kernels::$item, reference: binary::<$op, f32> },)*]
    };
}

macro_rules! register_float_unary {
    ($($op:ident $doc:literal: $item:ident;)*) => {
        &[$(Registered { kernel: &kernels::$item, reference: unary::<$op, f32> },)*]
    };
}

/// Binary operations but for f32 arithmetic.
pub(super) const BINARY: &[Registered] = binary_kernels!(register_binary);
/// Binary operations on f32.
pub(super) const FLOAT_BINARY: &[Registered] = float_binary_kernels!(register_float_binary);
/// Unary operations but for those on f32.
pub(super) const UNARY: &[Registered] = unary_kernels!(register_unary);
/// Unary operations on f32.
pub(super) const FLOAT_UNARY: &[Registered] = float_unary_kernels!(register_float_unary);
/// Selections.
pub(super) const SELECT: &[Registered] = &[
    Registered { kernel: &kernels::WHERE_B1, reference: select::<u8> },
    Registered { kernel: &kernels::WHERE_B2, reference: select::<u16> },
    Registered { kernel: &kernels::WHERE_B4, reference: select::<u32> },
    Registered { kernel: &kernels::WHERE_B8, reference: select::<u64> },
];
