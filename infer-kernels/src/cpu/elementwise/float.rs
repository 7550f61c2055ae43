//! Operations on f32, on vectors of sixteen, compiled for every instruction set.
//!
//! A run is taken in blocks of sixteen: fetch (sixteen contiguous elements at once, one element into every lane,
//! or lane by lane), compute, put. One loop serves every stride and the tail, so that the code of an operation
//! exists once.

use super::binary::{Add, Div, Fmod, Max, Min, Mod, Mul, Pow, Remainder, Sub};
use super::unary::{
    Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, Ceil, Cos, Cosh, Elu, Erf, Exp, Floor, HardSigmoid,
    LeakyRelu, Log, Neg, Reciprocal, Relu, Round, Selu, Sigmoid, Sign, Sin, Sinh, Softplus, Softsign, Sqrt,
    Tan, Tanh,
};
use super::{Rows, chunks, define_kernels, load, store, validate_binary, validate_unary};
use crate::call::{BLOCK, Elementwise};
use crate::cpu::math;
use crate::cpu::vector::Vector;
use crate::{Args, RunError};

/// An operation on one vector, with two constants.
trait FloatUnary {
    fn apply<V: Vector>(x: V, alpha: V, beta: V) -> V;
}

/// An operation on two vectors.
trait FloatBinary {
    /// Whether the whole run has the one operand `b`, and a quicker form for it was found and run.
    ///
    /// # Safety
    ///
    /// As for `binary_row`.
    #[inline(always)]
    unsafe fn shortcut<V: Vector>(_a: Strided, _b: f32, _out: Strided, _count: usize) -> bool {
        false
    }

    fn apply<V: Vector>(a: V, b: V) -> V;
}

/// One side of a run: its first element, and how far apart its elements are.
#[derive(Clone, Copy)]
struct Strided {
    first: *mut f32,
    step: isize,
}

impl Strided {
    /// The elements `at..at + lanes` of the run, `lanes` at most sixteen.
    ///
    /// # Safety
    ///
    /// They are readable, and the processor has the instruction set.
    #[inline(always)]
    unsafe fn fetch<V: Vector>(self, at: usize, lanes: usize) -> V {
        // SAFETY: passed on.
        unsafe {
            let first = self.first.offset(at as isize * self.step);
            if self.step == 1 && lanes == BLOCK {
                V::load(first)
            } else if self.step == 0 {
                V::splat(load(first, 0))
            } else {
                let mut buffer = [0.0; BLOCK];
                for (lane, element) in buffer.iter_mut().enumerate().take(lanes) {
                    *element = load(first, lane as isize * self.step);
                }
                V::load(buffer.as_ptr())
            }
        }
    }

    /// Writes the elements `at..at + lanes` of the run, `lanes` at most sixteen.
    ///
    /// # Safety
    ///
    /// They are writable.
    #[inline(always)]
    unsafe fn put<V: Vector>(self, at: usize, lanes: usize, value: V) {
        // SAFETY: passed on.
        unsafe {
            let first = self.first.offset(at as isize * self.step);
            if self.step == 1 && lanes == BLOCK {
                value.store(first);
            } else {
                for (lane, &element) in value.lanes().iter().enumerate().take(lanes) {
                    store(first, lane as isize * self.step, element);
                }
            }
        }
    }
}

/// The function of each lane, for functions that have no vector form.
#[inline(always)]
fn by_lane<V: Vector>(x: V, function: fn(f32) -> f32) -> V {
    let lanes = x.lanes().map(function);
    // SAFETY: the array has sixteen elements; `x` exists.
    unsafe { V::load(lanes.as_ptr()) }
}

/// The function of each pair of lanes, likewise.
#[inline(always)]
fn by_pair<V: Vector>(a: V, b: V, function: fn(f32, f32) -> f32) -> V {
    let (a, b) = (a.lanes(), b.lanes());
    let lanes: [f32; BLOCK] = std::array::from_fn(|lane| function(a[lane], b[lane]));
    // SAFETY: the array has sixteen elements; the operands exist.
    unsafe { V::load(lanes.as_ptr()) }
}

/// eˣ − 1 for x ≤ 0.
#[inline(always)]
fn exp_m1<V: Vector>(x: V) -> V {
    // 2t / (1 − t) with t = tanh x/2, which keeps its digits near zero; t ≤ 0 cannot cancel.
    let t = math::tanh(x * x.constant(0.5));
    (t + t) / (x.constant(1.0) - t)
}

macro_rules! unary {
    ($($op:ident: |$x:ident, $alpha:ident, $beta:ident| $value:expr;)*) => {$(
        impl FloatUnary for $op {
            #[inline(always)]
            fn apply<V: Vector>($x: V, $alpha: V, $beta: V) -> V {
                let _ = ($alpha, $beta);
                $value
            }
        }
    )*};
}

struct Clip;
struct Gelu;
struct GeluTanh;
struct HardSwish;
struct Mish;
struct Silu;

unary! {
    Abs: |x, alpha, beta| x.abs();
    Acos: |x, alpha, beta| by_lane(x, |x| libm::acos(x.into()) as f32);
    Acosh: |x, alpha, beta| by_lane(x, |x| libm::acosh(x.into()) as f32);
    Asin: |x, alpha, beta| by_lane(x, |x| libm::asin(x.into()) as f32);
    Asinh: |x, alpha, beta| by_lane(x, |x| libm::asinh(x.into()) as f32);
    Atan: |x, alpha, beta| by_lane(x, |x| libm::atan(x.into()) as f32);
    Atanh: |x, alpha, beta| by_lane(x, |x| libm::atanh(x.into()) as f32);
    Ceil: |x, alpha, beta| x.ceil();
    Clip: |x, alpha, beta| math::clip(x, alpha, beta);
    Cos: |x, alpha, beta| by_lane(x, f32::cos);
    Cosh: |x, alpha, beta| by_lane(x, |x| libm::cosh(x.into()) as f32);
    Elu: |x, alpha, beta| V::select(x.constant(0.0).le(x), x, alpha * exp_m1(x));
    Erf: |x, alpha, beta| math::erf(x);
    Exp: |x, alpha, beta| math::exp(x);
    Floor: |x, alpha, beta| x.floor();
    Gelu: |x, alpha, beta| math::gelu(x);
    GeluTanh: |x, alpha, beta| math::gelu_tanh(x);
    HardSigmoid: |x, alpha, beta| math::hard_sigmoid(x, alpha, beta);
    HardSwish: |x, alpha, beta| math::hard_swish(x);
    LeakyRelu: |x, alpha, beta| math::leaky_relu(x, alpha);
    Log: |x, alpha, beta| math::log(x);
    Mish: |x, alpha, beta| math::mish(x);
    Neg: |x, alpha, beta| -x;
    Reciprocal: |x, alpha, beta| x.constant(1.0) / x;
    Relu: |x, alpha, beta| math::relu(x);
    Round: |x, alpha, beta| x.round_even();
    Selu: |x, alpha, beta| beta * V::select(x.constant(0.0).le(x), x, alpha * exp_m1(x));
    Sigmoid: |x, alpha, beta| math::sigmoid(x);
    Sign: |x, alpha, beta| {
        let one = x.constant(1.0).copy_sign(x);
        V::select(x.constant(0.0).lt(x.abs()), one, x)
    };
    Silu: |x, alpha, beta| math::silu(x);
    Sin: |x, alpha, beta| by_lane(x, f32::sin);
    Sinh: |x, alpha, beta| by_lane(x, |x| libm::sinh(x.into()) as f32);
    Softplus: |x, alpha, beta| math::softplus(x);
    Softsign: |x, alpha, beta| x / (x.constant(1.0) + x.abs());
    Sqrt: |x, alpha, beta| x.sqrt();
    Tan: |x, alpha, beta| by_lane(x, |x| libm::tan(x.into()) as f32);
    Tanh: |x, alpha, beta| math::tanh(x);
}

macro_rules! binary {
    ($($op:ident: |$a:ident, $b:ident| $value:expr;)*) => {$(
        impl FloatBinary for $op {
            #[inline(always)]
            fn apply<V: Vector>($a: V, $b: V) -> V {
                $value
            }
        }
    )*};
}

struct PRelu;

binary! {
    Add: |a, b| a + b;
    Sub: |a, b| a - b;
    Mul: |a, b| a * b;
    Div: |a, b| a / b;
    // The vector operations give b where either is NaN.
    Min: |a, b| V::select(a.eq(a), a.min(b), a);
    Max: |a, b| V::select(a.eq(a), a.max(b), a);
    Mod: |a, b| by_pair(a, b, f32::modulo);
    Fmod: |a, b| by_pair(a, b, |a, b| a % b);
    PRelu: |x, slope| V::select(x.constant(0.0).le(x), x, slope * x);
}

impl FloatBinary for Pow {
    #[inline(always)]
    unsafe fn shortcut<V: Vector>(a: Strided, b: f32, out: Strided, count: usize) -> bool {
        if ![2.0, 3.0, 0.5, -1.0].contains(&b) {
            return false;
        }
        let mut at = 0;
        while at < count {
            let lanes = BLOCK.min(count - at);
            // SAFETY: passed on.
            unsafe {
                let x: V = a.fetch(at, lanes);
                let value = if b == 2.0 {
                    x * x
                } else if b == 3.0 {
                    x * x * x
                } else if b == -1.0 {
                    x.constant(1.0) / x
                } else {
                    // Unlike the root, the power ½ of −0 is 0 and that of −∞ is ∞.
                    let root = x.sqrt() + x.constant(0.0);
                    V::select(x.eq(x.constant(f32::NEG_INFINITY)), -x, root)
                };
                out.put(at, lanes, value);
            }
            at += lanes;
        }
        true
    }

    #[inline(always)]
    fn apply<V: Vector>(a: V, b: V) -> V {
        by_pair(a, b, f32::powf)
    }
}

/// One chunk of a unary operation.
#[inline(always)]
unsafe fn unary<Op: FloatUnary, V: Vector>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let params: &Elementwise = args.params();
    // SAFETY: the caller promises the instruction set.
    let (alpha, beta) = unsafe { (V::splat(params.alpha), V::splat(params.beta)) };
    let (input, out) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let mut rows = Rows::<2>::of_chunk(params, chunk, chunks);
    while let Some(([at_input, at_out], count)) = rows.next() {
        // SAFETY: the call was validated, so that every element of the index space lies inside its operand.
        unsafe {
            let input = Strided { first: input.offset(at_input), step: rows.inner[0] };
            let out = Strided { first: out.offset(at_out), step: rows.inner[1] };
            let mut at = 0;
            while at < count {
                let lanes = BLOCK.min(count - at);
                out.put(at, lanes, Op::apply::<V>(input.fetch(at, lanes), alpha, beta));
                at += lanes;
            }
        }
    }
    Ok(())
}

/// One chunk of a binary operation.
#[inline(always)]
unsafe fn binary<Op: FloatBinary, V: Vector>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let params: &Elementwise = args.params();
    let (a, b) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let out = args.operands[2].ptr::<f32>();
    let mut rows = Rows::<3>::of_chunk(params, chunk, chunks);
    let between = rows.between();
    while let Some((at, count, runs)) = rows.next_several() {
        // SAFETY: the call was validated, so that every element of the index space lies inside its operand.
        unsafe {
            let (mut a, mut b, mut out) = (a.offset(at[0]), b.offset(at[1]), out.offset(at[2]));
            // A factor for each channel of a blocked picture: runs of one vector.
            let short = runs > 1 && count == BLOCK && rows.inner == [1, 1, 1];
            for _ in 0..runs {
                if short {
                    Op::apply::<V>(V::load(a), V::load(b)).store(out);
                } else {
                    let side = |first: *mut f32, operand: usize| Strided { first, step: rows.inner[operand] };
                    run_binary::<Op, V>(side(a, 0), side(b, 1), side(out, 2), count);
                }
                a = a.wrapping_offset(between[0]);
                b = b.wrapping_offset(between[1]);
                out = out.wrapping_offset(between[2]);
            }
        }
    }
    Ok(())
}

/// One run of a binary operation.
///
/// # Safety
///
/// The processor has the instruction set; `count` elements are readable, and writable for the output.
#[inline(always)]
unsafe fn run_binary<Op: FloatBinary, V: Vector>(a: Strided, b: Strided, out: Strided, count: usize) {
    // SAFETY: passed on.
    unsafe {
        if b.step == 0 && Op::shortcut::<V>(a, load(b.first, 0), out, count) {
            return;
        }
        let mut at = 0;
        while at < count {
            let lanes = BLOCK.min(count - at);
            out.put(at, lanes, Op::apply::<V>(a.fetch(at, lanes), b.fetch(at, lanes)));
            at += lanes;
        }
    }
}

/// The binary kernels on f32, as `with! { Op: KERNEL; … }`.
macro_rules! float_binary_kernels {
    ($with:ident) => {
        $with! {
            Add "a + b": ADD_F32;
            Sub "a − b": SUB_F32;
            Mul "a · b": MUL_F32;
            Div "a / b": DIV_F32;
            Min "the lesser of a and b, or NaN": MIN_F32;
            Max "the greater of a and b, or NaN": MAX_F32;
            Pow "aᵇ": POW_F32;
            PRelu "a if a ≥ 0 else a·b": PRELU_F32;
            Mod "the remainder of a / b, on the side of b": MOD_F32;
            Fmod "the remainder of a / b, on the side of a": FMOD_F32;
        }
    };
}
#[cfg(feature = "reference")]
pub(crate) use float_binary_kernels;

/// The unary kernels on f32, as `with! { Op: KERNEL; … }`.
macro_rules! float_unary_kernels {
    ($with:ident) => {
        $with! {
            Abs "|x|": ABS_F32;
            Acos "arccos x": ACOS_F32;
            Acosh "arcosh x": ACOSH_F32;
            Asin "arcsin x": ASIN_F32;
            Asinh "arsinh x": ASINH_F32;
            Atan "arctan x": ATAN_F32;
            Atanh "artanh x": ATANH_F32;
            Ceil "⌈x⌉": CEIL_F32;
            Clip "min(max(x, alpha), beta)": CLIP_F32;
            Cos "cos x": COS_F32;
            Cosh "cosh x": COSH_F32;
            Elu "x if x ≥ 0 else alpha·(eˣ − 1)": ELU_F32;
            Erf "erf x": ERF_F32;
            Exp "eˣ": EXP_F32;
            Floor "⌊x⌋": FLOOR_F32;
            Gelu "x/2 · (1 + erf(x/√2))": GELU_F32;
            GeluTanh "x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))": GELU_TANH_F32;
            HardSigmoid "max(0, min(1, alpha·x + beta))": HARD_SIGMOID_F32;
            HardSwish "x · max(0, min(1, x/6 + 1/2))": HARD_SWISH_F32;
            LeakyRelu "x if x ≥ 0 else alpha·x": LEAKY_RELU_F32;
            Log "ln x": LOG_F32;
            Mish "x · tanh(ln(1 + eˣ))": MISH_F32;
            Neg "−x": NEG_F32;
            Reciprocal "1 / x": RECIPROCAL_F32;
            Relu "max(x, 0)": RELU_F32;
            Round "the integer nearest to x, the even one of two": ROUND_F32;
            Selu "beta·(x if x ≥ 0 else alpha·(eˣ − 1))": SELU_F32;
            Sigmoid "1 / (1 + e⁻ˣ)": SIGMOID_F32;
            Sign "−1, 0 or 1 by the sign of x": SIGN_F32;
            Silu "x / (1 + e⁻ˣ)": SILU_F32;
            Sin "sin x": SIN_F32;
            Sinh "sinh x": SINH_F32;
            Softplus "ln(1 + eˣ)": SOFTPLUS_F32;
            Softsign "x / (1 + |x|)": SOFTSIGN_F32;
            Sqrt "√x": SQRT_F32;
            Tan "tan x": TAN_F32;
            Tanh "tanh x": TANH_F32;
        }
    };
}
#[cfg(feature = "reference")]
pub(crate) use float_unary_kernels;

macro_rules! compile {
    ($run:ident $op:ident) => {{
        #[inline(always)]
        unsafe fn body<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { $run::<$op, V>(args, chunk, chunks) }
        }
        per_isa!(body<_>)
    }};
}

macro_rules! define_binary {
    ($($op:ident $doc:literal: $item:ident;)*) => {
        define_kernels! {$(
            #[doc = $doc]
            $item: validate_binary::<f32, f32>, chunks, compile!(binary $op);
        )*}
    };
}

macro_rules! define_unary {
    ($($op:ident $doc:literal: $item:ident;)*) => {
        define_kernels! {$(
            #[doc = $doc]
            $item: validate_unary::<f32, f32>, chunks, compile!(unary $op);
        )*}
    };
}

float_binary_kernels!(define_binary);
float_unary_kernels!(define_unary);
