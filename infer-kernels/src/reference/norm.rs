//! Softmax and the normalisations, in the order of their definitions.

use super::Registered;
use super::activation::activate;
use crate::call::{Activation, Axis, BLOCK, GroupNorm, GroupNormBlocked, LayerNorm, Lrn, View};
use crate::{Args, Operand, RunError, kernels};

unsafe fn soft(args: &Args<'_>, log: bool) -> Result<(), RunError> {
    let p = args.params::<Axis>();
    if p.outer == 0 || p.axis == 0 || p.inner == 0 {
        return Ok(());
    }
    let (axis, inner) = (p.axis as usize, p.inner as usize);
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    for row in 0..p.outer as usize * inner {
        let at = |k: usize| row / inner * axis * inner + k * inner + row % inner;
        // SAFETY: the call was validated.
        let x = |k: usize| unsafe { *input.add(at(k)) };
        let greatest = (0..axis).map(x).fold(f32::NEG_INFINITY, f32::max);
        let sum = (0..axis).fold(0.0, |sum, k| sum + libm::expf(x(k) - greatest));
        for k in 0..axis {
            let d = x(k) - greatest;
            // SAFETY: the call was validated.
            unsafe { *output.add(at(k)) = if log { d - libm::logf(sum) } else { libm::expf(d) / sum } };
        }
    }
    Ok(())
}

unsafe fn softmax(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { soft(args, false) }
}

unsafe fn log_softmax(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { soft(args, true) }
}

/// Element `index` of an optional operand.
unsafe fn optional(operand: &Operand, index: usize, absent: f32) -> f32 {
    // SAFETY: the caller's call was validated.
    if operand.bytes == 0 { absent } else { unsafe { *operand.ptr::<f32>().add(index) } }
}

/// Normalises `count` elements from `base` on, to zero mean or keeping the mean, scale and bias of element i being those numbered `channel(i)`.
unsafe fn normalise(
    args: &Args<'_>,
    base: usize,
    count: usize,
    (keep_mean, epsilon): (bool, f32),
    activation: &Activation,
    channel: impl Fn(usize) -> usize,
) {
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[3].ptr::<f32>());
    // SAFETY: the caller's call was validated.
    let x = |i: usize| unsafe { *input.add(base + i) };
    let mean = if keep_mean { 0.0 } else { (0..count).fold(0.0, |sum, i| sum + x(i)) / count as f32 };
    let variance = (0..count).fold(0.0, |sum, i| sum + (x(i) - mean) * (x(i) - mean)) / count as f32;
    for i in 0..count {
        // SAFETY: the caller's call was validated.
        unsafe {
            let (scale, bias) =
                (optional(&args.operands[1], channel(i), 1.0), optional(&args.operands[2], channel(i), 0.0));
            let y = (x(i) - mean) / (variance + epsilon).sqrt() * scale + bias;
            *output.add(base + i) = activate(activation, y);
        }
    }
}

unsafe fn layer_norm(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<LayerNorm>();
    let inner = p.inner as usize;
    for row in 0..if inner == 0 { 0 } else { p.outer as usize } {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            normalise(args, row * inner, inner, (p.keep_mean == 1, p.epsilon), &Activation::NONE, |i| i)
        };
    }
    Ok(())
}

unsafe fn group_norm(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<GroupNorm>();
    if p.n == 0 || p.channels == 0 || p.inner == 0 {
        return Ok(());
    }
    let (groups, inner) = (p.groups as usize, p.inner as usize);
    let channels = p.channels as usize / groups;
    for group in 0..p.n as usize * groups {
        let channel = |i| group % groups * channels + i / inner;
        // SAFETY: the caller's promises are passed on.
        unsafe {
            normalise(
                args,
                group * channels * inner,
                channels * inner,
                (false, p.epsilon),
                &p.activation,
                channel,
            )
        };
    }
    Ok(())
}

unsafe fn group_norm_blocked(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<GroupNormBlocked>();
    let size = (p.channels / p.groups) as usize;
    let [input, output] = [0, 3].map(|index| args.operands[index].ptr::<f32>());
    let element = |view: &View, n: usize, channel: usize, pixel: usize| {
        let (y, x) = (pixel / p.w as usize, pixel % p.w as usize);
        view.offset as usize
            + n * view.stride_n as usize
            + channel / BLOCK * view.stride_c as usize
            + y * view.stride_h as usize
            + x * view.stride_w as usize
            + channel % BLOCK
    };
    let pixels = (p.h * p.w) as usize;
    for (n, group) in (0..p.n as usize).flat_map(|n| (0..p.groups as usize).map(move |group| (n, group))) {
        let members = || {
            (group * size..(group + 1) * size)
                .flat_map(|channel| (0..pixels).map(move |pixel| (channel, pixel)))
        };
        // SAFETY: the call was validated.
        let x = |(channel, pixel)| unsafe { *input.add(element(&p.input, n, channel, pixel)) };
        let count = (size * pixels) as f32;
        let mean = members().map(x).sum::<f32>() / count;
        let variance = members().map(|at| (x(at) - mean) * (x(at) - mean)).sum::<f32>() / count;
        for (channel, pixel) in members() {
            // SAFETY: the call was validated.
            unsafe {
                let (scale, bias) =
                    (optional(&args.operands[1], channel, 1.0), optional(&args.operands[2], channel, 0.0));
                let y = (x((channel, pixel)) - mean) / (variance + p.epsilon).sqrt() * scale + bias;
                *output.add(element(&p.output, n, channel, pixel)) = activate(&p.activation, y);
            }
        }
    }
    Ok(())
}

unsafe fn lrn(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<Lrn>();
    if p.n == 0 || p.channels == 0 || p.inner == 0 {
        return Ok(());
    }
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let (channels, inner) = (p.channels as usize, p.inner as usize);
    for i in 0..p.n as usize * channels * inner {
        let channel = i / inner % channels;
        let mut sum = 0.0;
        for c in 0..channels {
            let distance = c as i64 - channel as i64;
            if -distance <= ((p.size - 1) / 2) as i64 && distance <= (p.size / 2) as i64 {
                // SAFETY: the call was validated.
                let x =
                    unsafe { *input.add(i / inner / channels * channels * inner + c * inner + i % inner) };
                sum += x * x;
            }
        }
        // SAFETY: the call was validated.
        unsafe {
            *output.add(i) = *input.add(i) / libm::powf(p.bias + p.alpha / p.size as f32 * sum, p.beta)
        };
    }
    Ok(())
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::SOFTMAX_F32, reference: softmax },
    Registered { kernel: &kernels::LOG_SOFTMAX_F32, reference: log_softmax },
    Registered { kernel: &kernels::LAYER_NORM_F32, reference: layer_norm },
    Registered { kernel: &kernels::GROUP_NORM_F32, reference: group_norm },
    Registered { kernel: &kernels::GROUP_NORM_BLOCKED_F32, reference: group_norm_blocked },
    Registered { kernel: &kernels::LRN_F32, reference: lrn },
];
