//! Transcendental functions and activations on vectors.
//!
//! Errors are stated against the exact value, in units of the last place of f32, for code that fuses
//! multiplications; the portable code without fused operations is at most one unit worse.

use crate::call::{Activation, ActivationKind};
use crate::cpu::vector::Vector;

/// c₀ + x·(c₁ + x·(…)), given highest first.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut sum = x.constant(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = sum.mul_add(x, x.constant(*coefficient));
    }
    sum
}

/// eˣ within 2 units; inf and 0 beyond the range, with gradual underflow.
#[inline(always)]
pub(crate) fn exp<V: Vector>(x: V) -> V {
    // x = n·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts, so that n times the first is exact.
    let x = x.constant(-104.0).max(x.constant(89.0).min(x));
    let n = (x * x.constant(std::f32::consts::LOG2_E)).round_even();
    let r = n.mul_add(x.constant(-355.0 / 512.0), x);
    let r = n.mul_add(x.constant(2.121_944_4e-4), r);
    let series = polynomial(
        r,
        // Minimax of degree 6: its own error is a hundredth of a unit.
        [1.383_679_3e-3, 8.374_857e-3, 4.166_823e-2, 1.666_642e-1, 0.499_999_9, 1.0, 1.0],
    );
    series.scale(n)
}

/// Below this eˣ is no normal number, which takes processors a hundred times as long as one that is.
const LEAST_EXPONENT: f32 = -87.0;

/// eˣ within 2 units; 0 below e⁻⁸⁷, inf beyond the range.
#[inline(always)]
pub(crate) fn exp_or_zero<V: Vector>(x: V) -> V {
    let least = x.constant(LEAST_EXPONENT);
    V::select(x.lt(least), x.constant(0.0), exp(least.max(x)))
}

/// eˣ of x ≤ 0 in fewer operations, within a few units near 0 and 40 near −87, where it counts for little; 0 below e⁻⁸⁷.
#[inline(always)]
#[expect(clippy::approx_constant, reason = "the coefficient is that of the minimax series, and not ln 2")]
pub(crate) fn fast_exp_or_zero<V: Vector>(x: V) -> V {
    let (least, log2_e) = (x.constant(LEAST_EXPONENT), x.constant(std::f32::consts::LOG2_E));
    let vanishes = x.lt(least);
    let x = least.max(x);
    let n = (x * log2_e).round_even();
    let r = x.mul_add(log2_e, -n);
    // Minimax of relative error for 2ʳ, |r| ≤ ½, that is exact at 0.
    let series = polynomial(r, [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 0.240_222_42, 0.693_147, 1.0]);
    V::select(vanishes, x.constant(0.0), series.scale_normal(n))
}

/// ln x within 2 units; −inf of zero, NaN of negative numbers.
#[inline(always)]
pub(crate) fn log<V: Vector>(x: V) -> V {
    let (zero, one) = (x.constant(0.0), x.constant(1.0));
    // Subnormal numbers are made normal first.
    let tiny = x.lt(x.constant(f32::MIN_POSITIVE));
    let normal = V::select(tiny, x * x.constant(16_777_216.0), x);
    let (m, n) = normal.split_exponent();
    let n = V::select(tiny, n - x.constant(24.0), n);
    // Into √½ .. √2, where the series around 1 converges fastest.
    let low = m.lt(x.constant(std::f32::consts::FRAC_1_SQRT_2));
    let n = V::select(low, n - one, n);
    let f = V::select(low, m + m, m) - one;
    let square = f * f;
    let series = polynomial(
        f,
        [
            7.037_683_6e-2,
            -1.151_461_e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_7e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    );
    let tail = series * f * square;
    let tail = n.mul_add(x.constant(-2.121_944_4e-4), tail);
    let tail = square.mul_add(x.constant(-0.5), tail);
    let result = n.mul_add(x.constant(355.0 / 512.0), f + tail);
    let result = V::select(x.eq(x.constant(f32::INFINITY)), x, result);
    let result = V::select(x.eq(zero), x.constant(f32::NEG_INFINITY), result);
    // x ≥ 0 is false of NaN and of negative numbers.
    V::select(zero.le(x), result, x.constant(f32::NAN))
}

/// ln(1 + x) within 4 units for x > −1.
#[inline(always)]
pub(crate) fn log1p<V: Vector>(x: V) -> V {
    // The rounding of 1 + x is undone by the factor x / ((1 + x) − 1).
    let one = x.constant(1.0);
    let sum = one + x;
    let rounded = sum - one;
    let corrected = log(sum) * (x / rounded);
    let result = V::select(rounded.eq(x.constant(0.0)), x, corrected);
    V::select(x.eq(x.constant(f32::INFINITY)), x, result)
}

/// tanh x within 2 units.
#[inline(always)]
pub(crate) fn tanh<V: Vector>(x: V) -> V {
    let one = x.constant(1.0);
    let magnitude = x.abs();
    let square = x * x;
    let series =
        polynomial(square, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
    let near = (series * square).mul_add(x, x);
    let far = one - x.constant(2.0) / (exp(magnitude + magnitude) + one);
    V::select(magnitude.lt(x.constant(0.625)), near, far.copy_sign(x))
}

/// The error function within 2 units.
#[inline(always)]
pub(crate) fn erf<V: Vector>(x: V) -> V {
    // Minimax approximations of erf(x)/x − 1 near zero and of ln(1 − erf |x|) elsewhere.
    let magnitude = x.abs();
    let square = x * x;
    let near = polynomial(
        square,
        [-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1],
    );
    let near = near.mul_add(x, x);
    // Beyond 4 the result is 1 whatever the polynomial says, which must not leave its range.
    let t = x.constant(4.0).min(magnitude);
    let far = polynomial(
        t,
        [
            -1.728_534_7e-5,
            3.831_971_3e-4,
            -3.883_964_4e-3,
            2.425_462_2e-2,
            -1.067_778_8e-1,
            -6.348_467e-1,
            -1.287_175_1e-1,
        ],
    );
    let far = x.constant(1.0) - exp(far.mul_add(t, -t));
    V::select(magnitude.lt(x.constant(0.927_734_4)), near, far.copy_sign(x))
}

/// 1 / (1 + e⁻ˣ) within 3 units.
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(x: V) -> V {
    let one = x.constant(1.0);
    // Beyond 87 the exponential does not count beside 1.
    one / (one + exp(-x.constant(-LEAST_EXPONENT).min(x)))
}

/// max(x, 0); NaN stays.
#[inline(always)]
pub(crate) fn relu<V: Vector>(x: V) -> V {
    x.constant(0.0).max(x)
}

/// x if x ≥ 0 else alpha·x.
#[inline(always)]
pub(crate) fn leaky_relu<V: Vector>(x: V, alpha: V) -> V {
    V::select(x.constant(0.0).le(x), x, alpha * x)
}

/// min(max(x, low), high); NaN stays.
#[inline(always)]
pub(crate) fn clip<V: Vector>(x: V, low: V, high: V) -> V {
    high.min(low.max(x))
}

/// max(0, min(1, alpha·x + beta)).
#[inline(always)]
pub(crate) fn hard_sigmoid<V: Vector>(x: V, alpha: V, beta: V) -> V {
    clip(alpha.mul_add(x, beta), x.constant(0.0), x.constant(1.0))
}

/// x · max(0, min(1, x/6 + 1/2)).
#[inline(always)]
pub(crate) fn hard_swish<V: Vector>(x: V) -> V {
    x * hard_sigmoid(x, x.constant(1.0 / 6.0), x.constant(0.5))
}

/// x · sigmoid x within 2 units of the last place of x, and 8 of the result down to x = −40.
#[inline(always)]
pub(crate) fn silu<V: Vector>(x: V) -> V {
    // e⁻ˣ = 2ⁿ · 2⁻ʳ with n − r = −x·log₂ e and |r| ≤ ½. One constant for log₂ e suffices, and a series of degree 5:
    // errors count beside the 1 that is added.
    let t = x.constant(-89.0).max(x.constant(-LEAST_EXPONENT).min(x));
    let n = (t * x.constant(-std::f32::consts::LOG2_E)).round_even();
    let r = t.mul_add(x.constant(std::f32::consts::LOG2_E), n);
    let series = polynomial(
        r,
        // Minimax: its own error is 0.7 units.
        [-1.327_647_2e-3, 9.675_542e-3, -5.550_713e-2, 2.402_212e-1, -6.931_469_4e-1, 1.000_000_1],
    );
    x / (x.constant(1.0) + series.scale(n))
}

/// x/2 · (1 + erf(x/√2)).
#[inline(always)]
pub(crate) fn gelu<V: Vector>(x: V) -> V {
    let half = x * x.constant(0.5);
    half * (x.constant(1.0) + erf(x * x.constant(std::f32::consts::FRAC_1_SQRT_2)))
}

/// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))).
#[inline(always)]
pub(crate) fn gelu_tanh<V: Vector>(x: V) -> V {
    // (1 + tanh u) / 2 is sigmoid 2u, which keeps its digits where tanh nears −1.
    let cube = x * x * x;
    let inner = x.constant(0.044_715).mul_add(cube, x);
    let twice = inner * x.constant(1.595_769);
    x * sigmoid(twice)
}

/// ln(1 + eˣ) within 4 units.
#[inline(always)]
pub(crate) fn softplus<V: Vector>(x: V) -> V {
    relu(x) + log1p(exp(-x.abs()))
}

/// x · tanh(ln(1 + eˣ)).
#[inline(always)]
pub(crate) fn mish<V: Vector>(x: V) -> V {
    // tanh(ln(1 + e)) = (e² + 2e) / (e² + 2e + 2), which is 1 in f32 well before e² overflows.
    let e = exp(x.constant(20.0).min(x));
    let numerator = e.mul_add(e, e + e);
    x * (numerator / (numerator + x.constant(2.0)))
}

/// The activation `activation` of `x`; unknown kinds, which validation refuses, leave it as it is.
#[inline(always)]
pub(crate) fn activate<V: Vector>(activation: &Activation, x: V) -> V {
    let (alpha, beta) = (x.constant(activation.alpha), x.constant(activation.beta));
    match activation.kind() {
        None | Some(ActivationKind::None) => x,
        Some(ActivationKind::Relu) => relu(x),
        Some(ActivationKind::LeakyRelu) => leaky_relu(x, alpha),
        Some(ActivationKind::Clip) => clip(x, alpha, beta),
        Some(ActivationKind::Sigmoid) => sigmoid(x),
        Some(ActivationKind::HardSigmoid) => hard_sigmoid(x, alpha, beta),
        Some(ActivationKind::HardSwish) => hard_swish(x),
        Some(ActivationKind::Silu) => silu(x),
        Some(ActivationKind::Gelu) => gelu(x),
        Some(ActivationKind::GeluTanh) => gelu_tanh(x),
        Some(ActivationKind::Tanh) => tanh(x),
        Some(ActivationKind::Softplus) => softplus(x),
        Some(ActivationKind::Mish) => mish(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::BLOCK;
    use crate::cpu::vector::for_each_vector;

    /// Every 40,961st bit pattern: both signs, all exponents, subnormal numbers, infinities and NaN.
    fn samples() -> impl Iterator<Item = [f32; BLOCK]> {
        (0..u32::MAX / 40_961 / 16).map(|block| {
            std::array::from_fn(|lane| match block * 16 + lane as u32 {
                0 => f32::INFINITY,
                1 => f32::NEG_INFINITY,
                n => f32::from_bits(n * 40_961),
            })
        })
    }

    /// Holds `function` to `limit` units of the last place of `exact`, which is the function in f64.
    #[inline(always)]
    fn hold<V: Vector>(
        function: impl Fn(V) -> V,
        exact: fn(f64) -> f64,
        within: std::ops::RangeInclusive<f32>,
        limit: f64,
    ) {
        let name = std::any::type_name::<V>();
        for block in samples() {
            // SAFETY: `for_each_vector` calls this where the processor has the instruction set.
            let ours = function(unsafe { V::load(block.as_ptr()) }).lanes();
            for (x, ours) in block.into_iter().zip(ours) {
                if !within.contains(&x) && !x.is_nan() {
                    continue;
                }
                let exact = exact(f64::from(x));
                if exact.is_nan() || (exact as f32).is_infinite() {
                    assert!(
                        ours == exact as f32 || (ours.is_nan() && exact.is_nan()),
                        "{name}: f({x}) = {ours}"
                    );
                    continue;
                }
                let unit = f64::from((exact as f32).abs().max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
                let error = (f64::from(ours) - exact).abs() / unit;
                assert!(error <= limit, "{name}: f({x}) = {ours}, not {exact}: {error} units");
            }
        }
    }

    #[inline(always)]
    fn accuracy<V: Vector>() {
        let all = f32::NEG_INFINITY..=f32::INFINITY;
        hold::<V>(exp, libm::exp, all.clone(), 3.0);
        let flushed = |x| if x < f64::from(LEAST_EXPONENT) { 0.0 } else { libm::exp(x) };
        hold::<V>(exp_or_zero, flushed, f32::NEG_INFINITY..=0.0, 3.0);
        hold::<V>(fast_exp_or_zero, flushed, f32::NEG_INFINITY..=0.0, 100.0);
        hold::<V>(log, libm::log, all.clone(), 3.0);
        hold::<V>(log1p, libm::log1p, 0.0..=f32::INFINITY, 5.0);
        hold::<V>(tanh, libm::tanh, all.clone(), 3.0);
        hold::<V>(erf, libm::erf, all.clone(), 3.0);
        // Below −87 the reciprocal of an overflowing exponential is 0 rather than subnormal.
        hold::<V>(sigmoid, |x| 1.0 / (1.0 + libm::exp(-x)), -87.0..=f32::INFINITY, 4.0);
        hold::<V>(softplus, |x| x.max(0.0) + libm::log1p(libm::exp(-x.abs())), -87.0..=f32::INFINITY, 5.0);
    }

    #[test]
    fn functions_are_within_their_stated_errors() {
        for_each_vector!(accuracy);
    }

    #[cfg(feature = "reference")]
    #[inline(always)]
    fn activations<V: Vector>() {
        for kind in ActivationKind::ALL {
            let activation = Activation::new(kind, 0.25, 0.5);
            for block in samples() {
                // SAFETY: `for_each_vector` calls this where the processor has the instruction set.
                let ours = activate(&activation, unsafe { V::load(block.as_ptr()) }).lanes();
                for (x, ours) in block.into_iter().zip(ours) {
                    let right = crate::reference::activation::activate(&activation, x);
                    // 1 + tanh loses in the reference what the other forms keep, at most a unit of x.
                    let bound =
                        16.0 * f32::EPSILON * right.abs().max(x.abs().min(8.0)).max(f32::MIN_POSITIVE);
                    assert!(
                        ours == right || (ours.is_nan() && right.is_nan()) || (ours - right).abs() <= bound,
                        "{kind:?}({x}) = {ours}, not {right}"
                    );
                }
            }
        }
    }

    #[cfg(feature = "reference")]
    #[test]
    fn activations_agree_with_the_reference() {
        for_each_vector!(activations);
    }
}
