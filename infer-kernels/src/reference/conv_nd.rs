//! Convolution and its transpose, every tap of every output.

use super::Registered;
use super::activation::activate;
use crate::call::ConvNd;
use crate::{Args, RunError, kernels};

/// Sums, for each output, over all input positions that `source(axis, output, tap)` gives.
unsafe fn run(
    args: &Args<'_>,
    filter: impl Fn(u64, u64, u64) -> u64,
    source: impl Fn(usize, u64, u64) -> Option<u64>,
) -> Result<(), RunError> {
    let p = args.params::<ConvNd>();
    if p.n == 0 || p.output.contains(&0) {
        return Ok(());
    }
    let [input, weights, bias, output] = [0, 1, 2, 3].map(|i: usize| args.operands[i].ptr::<f32>());
    let mut number = 0;
    for n in 0..p.n {
        for g in 0..p.groups {
            for o in 0..p.out_channels {
                for z in 0..p.output[0] {
                    for y in 0..p.output[1] {
                        for x in 0..p.output[2] {
                            // SAFETY: the call was validated, and `source` gives positions inside the input.
                            unsafe {
                                let mut sum = 0.0;
                                if args.operands[2].bytes > 0 {
                                    sum = *bias.add((g * p.out_channels + o) as usize);
                                }
                                for c in 0..p.in_channels {
                                    for i in 0..p.kernel[0] {
                                        for j in 0..p.kernel[1] {
                                            for k in 0..p.kernel[2] {
                                                let at = (source(0, z, i), source(1, y, j), source(2, x, k));
                                                let (Some(d), Some(h), Some(w)) = at else { continue };
                                                let picture = (n * p.groups + g) * p.in_channels + c;
                                                let from = ((picture * p.input[0] + d) * p.input[1] + h)
                                                    * p.input[2]
                                                    + w;
                                                let tap = (i * p.kernel[1] + j) * p.kernel[2] + k;
                                                let size = p.kernel.iter().product::<u64>();
                                                let weight =
                                                    *weights.add((filter(g, o, c) * size + tap) as usize);
                                                sum += *input.add(from as usize) * weight;
                                            }
                                        }
                                    }
                                }
                                *output.add(number) = activate(&p.activation, sum);
                            }
                            number += 1;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

unsafe fn conv_nd(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<ConvNd>();
    let filter = |g, o, c| (g * p.out_channels + o) * p.in_channels + c;
    let source = |axis: usize, index: u64, tap: u64| {
        let padded = index * p.stride[axis] + tap * p.dilation[axis];
        padded.checked_sub(p.pad_begin[axis]).filter(|&at| at < p.input[axis])
    };
    // SAFETY: the caller's promises are passed on.
    unsafe { run(args, filter, source) }
}

unsafe fn conv_transpose_nd(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<ConvNd>();
    let filter = |g, o, c| (g * p.in_channels + c) * p.out_channels + o;
    let source = |axis: usize, index: u64, tap: u64| {
        let spread = (index + p.pad_begin[axis]).checked_sub(tap * p.dilation[axis])?;
        let at = spread / p.stride[axis];
        (spread % p.stride[axis] == 0 && at < p.input[axis]).then_some(at)
    };
    // SAFETY: the caller's promises are passed on.
    unsafe { run(args, filter, source) }
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::CONV_ND_F32, reference: conv_nd },
    Registered { kernel: &kernels::CONV_TRANSPOSE_ND_F32, reference: conv_transpose_nd },
];
