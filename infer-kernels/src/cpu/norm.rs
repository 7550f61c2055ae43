//! Normalisations: of rows, of groups of channels, and across neighbouring channels.
//!
//! out = (x − mean) / √(variance + ε) · scale + bias. Mean and variance are two passes with [`CHAINS`] vectors of
//! partial sums each; the variance sums (x − mean)², which does not cancel as Σ x² − n·mean² does. Chunks share the
//! rows, groups or columns. Rows and groups may be computed in place.

use super::bounds::{product, split};
use super::softmax::{load, store};
use super::vector::Vector;
use super::{math, share};
use crate::call::{BLOCK, GroupNorm, LayerNorm, Lrn};
use crate::{Args, Call, Invalid, Kernel, Operand, RunError};

/// Vectors of partial sums.
const CHAINS: usize = 4;
/// Element-operations of one element: three passes.
const WORK: u64 = 4;

/// Mean and variance of `length` ≥ 1 contiguous elements.
///
/// # Safety
///
/// The processor has the instruction set of `V`; the elements are readable.
#[inline(always)]
unsafe fn statistics<V: Vector>(from: *const f32, length: usize) -> (f32, f32) {
    // SAFETY: the caller's promises; no load reaches beyond `length`.
    unsafe {
        let whole = length / (CHAINS * BLOCK) * (CHAINS * BLOCK);
        let zero = V::splat(0.0);
        let mut sums = [zero; CHAINS];
        for at in (0..whole).step_by(CHAINS * BLOCK) {
            for (chain, sum) in sums.iter_mut().enumerate() {
                *sum = *sum + V::load(from.add(at + chain * BLOCK));
            }
        }
        for at in (whole..length).step_by(BLOCK) {
            sums[0] = sums[0] + load::<V>(from.add(at), (length - at).min(BLOCK));
        }
        let mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum() / length as f32;
        let centre = V::splat(mean);
        let mut sums = [zero; CHAINS];
        for at in (0..whole).step_by(CHAINS * BLOCK) {
            for (chain, sum) in sums.iter_mut().enumerate() {
                let d = V::load(from.add(at + chain * BLOCK)) - centre;
                *sum = d.mul_add(d, *sum);
            }
        }
        for at in (whole..length).step_by(BLOCK) {
            let count = (length - at).min(BLOCK);
            let d = (load::<V>(from.add(at), count) - centre).keep_first(count);
            sums[0] = d.mul_add(d, sums[0]);
        }
        (mean, ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum() / length as f32)
    }
}

/// An optional operand of f32.
fn optional(operand: &Operand) -> Option<*const f32> {
    (operand.bytes > 0).then(|| operand.ptr::<f32>().cast_const())
}

/// Checks an optional operand of so many f32.
fn expect_optional(call: &Call<'_>, index: usize, elements: u64) -> Result<(), Invalid> {
    match call.operand_bytes.get(index) {
        Some(0) => Ok(()),
        _ => call.expect_elements(index, Some(elements), 4),
    }
}

#[inline(always)]
unsafe fn layer_norm<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params = args.params::<LayerNorm>();
    if params.outer == 0 || params.inner == 0 {
        return Ok(());
    }
    let (outer, inner) = (params.outer as usize, params.inner as usize);
    let (input, output) = (args.operands[0].ptr::<f32>().cast_const(), args.operands[3].ptr::<f32>());
    let (scale, bias) = (optional(&args.operands[1]), optional(&args.operands[2]));
    for row in share(outer, chunk, chunks) {
        // SAFETY: `validate` checked all operands for `inner` elements a row; the rows of a chunk are its own.
        unsafe {
            let (from, to) = (input.add(row * inner), output.add(row * inner));
            let (mean, variance) = statistics::<V>(from, inner);
            // The mean square is the variance and the square of the mean.
            let (mean, spread) =
                if params.keep_mean == 1 { (0.0, variance + mean * mean) } else { (mean, variance) };
            let (centre, inverse) = (V::splat(mean), V::splat(1.0 / (spread + params.epsilon).sqrt()));
            for at in (0..inner).step_by(BLOCK) {
                let count = (inner - at).min(BLOCK);
                let mut out = (load::<V>(from.add(at), count) - centre) * inverse;
                if let Some(scale) = scale {
                    out = out * load::<V>(scale.add(at), count);
                }
                if let Some(bias) = bias {
                    out = out + load::<V>(bias.add(at), count);
                }
                store(out, to.add(at), count);
            }
        }
    }
    Ok(())
}

pub(crate) fn validate_layer_norm(call: &Call<'_>) -> Result<(), Invalid> {
    let params = call.params::<LayerNorm>()?;
    call.expect_operands(4)?;
    let elements = product(&[params.outer, params.inner]);
    call.expect_elements(0, elements, 4)?;
    expect_optional(call, 1, params.inner)?;
    expect_optional(call, 2, params.inner)?;
    call.expect_elements(3, elements, 4)
}

fn chunks_layer_norm(args: &Args<'_>, threads: usize) -> usize {
    let params = args.params::<LayerNorm>();
    split(params.outer, params.outer.saturating_mul(params.inner).saturating_mul(WORK), threads)
}

/// Layer normalisation.
pub static LAYER_NORM_F32: Kernel = Kernel {
    name: "layer_norm_f32",
    validate: validate_layer_norm,
    chunks: chunks_layer_norm,
    run: per_isa!(layer_norm<_>),
};

#[inline(always)]
unsafe fn group_norm<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params = args.params::<GroupNorm>();
    if params.n == 0 || params.channels == 0 || params.inner == 0 {
        return Ok(());
    }
    let (groups, inner) = (params.groups as usize, params.inner as usize);
    let channels = params.channels as usize / groups;
    let (input, output) = (args.operands[0].ptr::<f32>().cast_const(), args.operands[3].ptr::<f32>());
    let (scale, bias) = (optional(&args.operands[1]), optional(&args.operands[2]));
    for item in share(params.n as usize * groups, chunk, chunks) {
        let base = item * channels * inner;
        // SAFETY: `validate` checked input and output for the product of the extents, scale and bias for all
        // channels; the groups of a chunk are its own.
        unsafe {
            let (mean, variance) = statistics::<V>(input.add(base), channels * inner);
            let (centre, inverse) = (V::splat(mean), 1.0 / (variance + params.epsilon).sqrt());
            for c in 0..channels {
                let channel = item % groups * channels + c;
                let factor = V::splat(scale.map_or(1.0, |scale| *scale.add(channel)) * inverse);
                let bias = V::splat(bias.map_or(0.0, |bias| *bias.add(channel)));
                let (from, to) = (input.add(base + c * inner), output.add(base + c * inner));
                for at in (0..inner).step_by(BLOCK) {
                    let count = (inner - at).min(BLOCK);
                    let x = load::<V>(from.add(at), count) - centre;
                    store(math::activate(&params.activation, x.mul_add(factor, bias)), to.add(at), count);
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn validate_group_norm(call: &Call<'_>) -> Result<(), Invalid> {
    let params = call.params::<GroupNorm>()?;
    call.expect_operands(4)?;
    if params.groups == 0 || !params.channels.is_multiple_of(params.groups) {
        return Err(Invalid("channels are no multiple of the groups"));
    }
    if params.activation.kind().is_none() {
        return Err(Invalid("an unknown activation"));
    }
    let elements = product(&[params.n, params.channels, params.inner]);
    call.expect_elements(0, elements, 4)?;
    expect_optional(call, 1, params.channels)?;
    expect_optional(call, 2, params.channels)?;
    call.expect_elements(3, elements, 4)
}

fn chunks_group_norm(args: &Args<'_>, threads: usize) -> usize {
    let params = args.params::<GroupNorm>();
    let elements = product(&[params.n, params.channels, params.inner]).unwrap_or(0);
    split(params.n.saturating_mul(params.groups), elements.saturating_mul(WORK), threads)
}

/// Group and instance normalisation.
pub static GROUP_NORM_F32: Kernel = Kernel {
    name: "group_norm_f32",
    validate: validate_group_norm,
    chunks: chunks_group_norm,
    run: per_isa!(group_norm<_>),
};

/// x / s^beta. The exponent of nearly every model, ¾, is two square roots.
#[inline(always)]
fn over_power<V: Vector>(x: V, s: V, beta: f32) -> V {
    if beta == 0.75 {
        let root = s.sqrt();
        return x / (root * root.sqrt());
    }
    let mut powers = s.lanes();
    for power in &mut powers {
        *power = libm::powf(*power, beta);
    }
    // SAFETY: the array has sixteen elements; `x` proves the instruction set.
    x / unsafe { V::load(powers.as_ptr()) }
}

#[inline(always)]
unsafe fn lrn<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params = args.params::<Lrn>();
    if params.n == 0 || params.channels == 0 || params.inner == 0 {
        return Ok(());
    }
    let (channels, inner) = (params.channels as usize, params.inner as usize);
    let (input, output) = (args.operands[0].ptr::<f32>().cast_const(), args.operands[1].ptr::<f32>());
    // Windows wider than the tensor reach as far as its edges.
    let before = ((params.size - 1) / 2).min(params.channels) as usize;
    let after = (params.size / 2).min(params.channels) as usize;
    let alpha = params.alpha / params.size as f32;
    let tiles = inner.div_ceil(BLOCK);
    for item in share(params.n as usize * channels * tiles, chunk, chunks) {
        let (tile, channel, image) = (item % tiles, item / tiles % channels, item / tiles / channels);
        let count = (inner - tile * BLOCK).min(BLOCK);
        let base = image * channels * inner + tile * BLOCK;
        // SAFETY: `validate` checked both operands for the product of the extents; the tiles of a chunk are its own.
        unsafe {
            let mut sum = V::splat(0.0);
            for c in channel.saturating_sub(before)..(channel + after + 1).min(channels) {
                let x = load::<V>(input.add(base + c * inner), count);
                sum = x.mul_add(x, sum);
            }
            let x = load::<V>(input.add(base + channel * inner), count);
            let s = sum.mul_add(V::splat(alpha), V::splat(params.bias));
            store(over_power(x, s, params.beta), output.add(base + channel * inner), count);
        }
    }
    Ok(())
}

pub(crate) fn validate_lrn(call: &Call<'_>) -> Result<(), Invalid> {
    let params = call.params::<Lrn>()?;
    call.expect_operands(2)?;
    if params.size == 0 {
        return Err(Invalid("no channels in the sum"));
    }
    let elements = product(&[params.n, params.channels, params.inner]);
    call.expect_elements(0, elements, 4)?;
    call.expect_elements(1, elements, 4)
}

fn chunks_lrn(args: &Args<'_>, threads: usize) -> usize {
    let params = args.params::<Lrn>();
    let items = product(&[params.n, params.channels, params.inner.div_ceil(BLOCK as u64)]).unwrap_or(0);
    split(items, items.saturating_mul(BLOCK as u64).saturating_mul(params.size.saturating_add(4)), threads)
}

/// Local response normalisation.
pub static LRN_F32: Kernel =
    Kernel { name: "lrn_f32", validate: validate_lrn, chunks: chunks_lrn, run: per_isa!(lrn<_>) };

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::{Activation, ActivationKind, GroupNorm, LayerNorm, Lrn};
    use crate::cpu::testing::{Random, attack, bytes, check_f32};

    /// For inputs of −1 ..= 1 that spread over it: the mean of `count` is wrong by a rounding each, the variance
    /// likewise, and the deviation is at least a quarter, which magnifies the error four times.
    fn tolerance(count: usize) -> impl Fn(f32) -> f32 {
        let units = 4.0 * (count + 8) as f32 * f32::EPSILON;
        move |y| units * (1.0 + y.abs())
    }

    #[test]
    fn layer_norm_agrees_with_the_reference() {
        let mut random = Random::new(3);
        for (outer, inner) in [(1, 1), (3, 15), (2, 16), (1, 17), (4, 64), (3, 100), (2, 200), (0, 5), (5, 0)]
        {
            let (x, scale, bias) = (random.units(outer * inner), random.units(inner), random.units(inner));
            for keep_mean in [0, 1] {
                let params = LayerNorm { outer: outer as u64, inner: inner as u64, epsilon: 1e-5, keep_mean };
                for (scale, bias) in [(&scale[..], &bias[..]), (&[], &bias), (&scale, &[]), (&[], &[])] {
                    let inputs = [bytes(&x), bytes(scale), bytes(bias)];
                    check_f32("layer_norm_f32", &params, &inputs, &[x.len() * 4], tolerance(inner));
                }
            }
        }
    }

    #[test]
    fn group_norm_agrees_with_the_reference() {
        let mut random = Random::new(4);
        for (n, groups, channels, inner) in [
            (1, 1, 1, 1),
            (2, 3, 6, 5),
            (1, 4, 4, 16),
            (2, 1, 5, 33),
            (1, 2, 2, 70),
            (0, 1, 3, 4),
            (1, 2, 4, 0),
        ] {
            let (x, scale, bias) =
                (random.units(n * channels * inner), random.units(channels), random.units(channels));
            let params = GroupNorm {
                n: n as u64,
                groups: groups as u64,
                channels: channels as u64,
                inner: inner as u64,
                epsilon: 1e-3,
                reserved: 0,
                activation: Activation::new(ActivationKind::Relu, 0.0, 0.0),
            };
            let count = channels / groups * inner;
            for (scale, bias) in [(&scale[..], &bias[..]), (&[], &[])] {
                let inputs = [bytes(&x), bytes(scale), bytes(bias)];
                check_f32("group_norm_f32", &params, &inputs, &[x.len() * 4], tolerance(count));
            }
        }
    }

    #[test]
    fn lrn_agrees_with_the_reference() {
        let mut random = Random::new(5);
        for (n, channels, inner, size, beta) in [
            (1, 1, 1, 1, 0.75),
            (2, 7, 17, 5, 0.75),
            (1, 6, 16, 4, 0.5),
            (1, 3, 40, 99, 1.25),
            (2, 4, 5, 2, -0.5),
            (0, 3, 4, 3, 0.75),
        ] {
            let x = random.units(n * channels * inner);
            let params = Lrn {
                n: n as u64,
                channels: channels as u64,
                inner: inner as u64,
                size,
                alpha: 0.5,
                beta,
                bias: 2.0,
                reserved: 0,
            };
            // The sum is wrong by a rounding a term, all positive; the power and the quotient by a few.
            let units = (channels + 8) as f32 * f32::EPSILON;
            check_f32("lrn_f32", &params, &[bytes(&x)], &[x.len() * 4], |y| units * y.abs());
        }
    }

    #[test]
    fn nan_and_infinities_reach_their_row_alone() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = Random::new(6).units(3 * 20);
            x[25] = special;
            let layer = LayerNorm { outer: 3, inner: 20, epsilon: 1e-5, keep_mean: 0 };
            check_f32("layer_norm_f32", &layer, &[bytes(&x), &[], &[]], &[240], tolerance(20));
            let group =
                GroupNorm { n: 1, groups: 3, channels: 6, inner: 10, epsilon: 1e-5, ..GroupNorm::default() };
            check_f32("group_norm_f32", &group, &[bytes(&x), &[], &[]], &[240], tolerance(20));
            let lrn =
                Lrn { n: 1, channels: 6, inner: 10, size: 3, alpha: 1.0, beta: 0.75, bias: 1.0, reserved: 0 };
            check_f32("lrn_f32", &lrn, &[bytes(&x)], &[240], |y| 16.0 * f32::EPSILON * y.abs());
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let x = Random::new(7).units(2 * 6 * 5);
        let inputs = [bytes(&x), bytes(&x[..30]), bytes(&x[..30])];
        attack(
            "layer_norm_f32",
            &LayerNorm { outer: 2, inner: 30, epsilon: 0.1, keep_mean: 0 },
            &inputs,
            &[240],
        );
        let group =
            GroupNorm { n: 2, groups: 3, channels: 6, inner: 5, epsilon: 0.1, ..GroupNorm::default() };
        attack("group_norm_f32", &group, &inputs, &[240]);
        let lrn =
            Lrn { n: 2, channels: 6, inner: 5, size: 3, alpha: 1.0, beta: 0.75, bias: 1.0, reserved: 0 };
        attack("lrn_f32", &lrn, &inputs[..1], &[240]);
    }
}
