//! Convolution and its transpose of any rank to 3, with any groups, on row-major tensors: general rather than fast.
//!
//! out[n, o, y] = act(bias[o] + Σ_c Σ_k in[n, c, y·stride + k·dilation − pad] · w[o, c, k]), and transposed
//! out[n, o, y] = act(bias[o] + Σ_c Σ_k in[n, c, x] · w[c, o, k]) over the x with x·stride + k·dilation − pad = y.
//!
//! Each output row is computed by itself, so chunks share the rows: it starts as the bias, and each tap of the kernel
//! adds a scaled piece of one input row to it, clipped beforehand to what both rows have.

use super::bounds::{WindowAxis, product, split};
use super::math::activate;
use super::share;
use super::softmax::{load, store};
use super::vector::Vector;
use crate::call::{BLOCK, ConvNd};
use crate::{Args, Call, Invalid, Kernel, RunError};

impl ConvNd {
    /// The spatial axes as windows of the larger side over the smaller: for the transpose, the windows of the
    /// convolution it transposes.
    fn axes(&self, transposed: bool) -> [WindowAxis; 3] {
        let (input, output) = if transposed { (self.output, self.input) } else { (self.input, self.output) };
        std::array::from_fn(|i| WindowAxis {
            input: input[i],
            output: output[i],
            kernel: self.kernel[i],
            stride: self.stride[i],
            dilation: self.dilation[i],
            pad_begin: self.pad_begin[i],
        })
    }
}

/// out[i·out_step] += w · in[i·in_step] for `count` i.
///
/// # Safety
///
/// The processor has the instruction set of `V`; so many elements are readable and writable.
#[inline(always)]
unsafe fn add_scaled<V: Vector>(
    from: *const f32,
    in_step: usize,
    to: *mut f32,
    out_step: usize,
    count: usize,
    w: f32,
) {
    // SAFETY: the caller's promises.
    unsafe {
        if in_step == 1 && out_step == 1 {
            let w = V::splat(w);
            for at in (0..count).step_by(BLOCK) {
                let lanes = (count - at).min(BLOCK);
                let sum =
                    load::<V>(from.add(at), lanes).mul_add(w, load::<V>(to.add(at).cast_const(), lanes));
                store(sum, to.add(at), lanes);
            }
        } else {
            for i in 0..count {
                *to.add(i * out_step) += w * *from.add(i * in_step);
            }
        }
    }
}

#[inline(always)]
unsafe fn run<V: Vector, const TRANSPOSED: bool>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p = args.params::<ConvNd>();
    let channels_out = p.groups * p.out_channels;
    if p.n == 0 || channels_out == 0 || p.output.contains(&0) {
        return Ok(());
    }
    let axes = p.axes(TRANSPOSED);
    let (groups, in_channels, out_channels) =
        (p.groups as usize, p.in_channels as usize, p.out_channels as usize);
    let [in_d, in_h, in_w] = p.input.map(|extent| extent as usize);
    let [out_d, out_h, out_w] = p.output.map(|extent| extent as usize);
    let [kernel_d, kernel_h, kernel_w] = p.kernel.map(|extent| extent as usize);
    let stride = p.stride[2] as usize;
    let [input, weights, bias] = [0, 1, 2].map(|i: usize| args.operands[i].ptr::<f32>().cast_const());
    let output = args.operands[3].ptr::<f32>();
    // With an empty input or none of its channels, nothing but the bias is left.
    let in_channels = if p.input.contains(&0) { 0 } else { in_channels };

    for item in share(p.n as usize * groups * out_channels * out_d * out_h, chunk, chunks) {
        let (y, z) = (item % out_h, item / out_h % out_d);
        let (o, g) = (item / out_h / out_d % out_channels, item / out_h / out_d / out_channels % groups);
        let n = item / out_h / out_d / out_channels / groups;
        // SAFETY: `validate` checked every operand for the product of its extents; rows, taps and columns below are
        // clipped to them. No other chunk has this row.
        unsafe {
            let row = output.add(item * out_w);
            let start = if args.operands[2].bytes > 0 { *bias.add(g * out_channels + o) } else { 0.0 };
            std::slice::from_raw_parts_mut(row, out_w).fill(start);
            for c in 0..in_channels {
                let picture = input.add(((n * groups + g) * in_channels + c) * in_d * in_h * in_w);
                let filter = if TRANSPOSED {
                    (g * in_channels + c) * out_channels + o
                } else {
                    (g * out_channels + o) * in_channels + c
                };
                let filter = weights.add(filter * kernel_d * kernel_h * kernel_w);
                for kd in 0..kernel_d {
                    let Some(d) = source::<TRANSPOSED>(&axes[0], z, kd) else { continue };
                    for kh in 0..kernel_h {
                        let Some(h) = source::<TRANSPOSED>(&axes[1], y, kh) else { continue };
                        let line = picture.add((d * in_h + h) * in_w);
                        let taps = filter.add((kd * kernel_h + kh) * kernel_w);
                        for kw in 0..kernel_w {
                            // Of the convolution, or the one transposed: positions on its small side whose tap
                            // `kw` lies on its large side, and where it lies for the first.
                            let range = axes[2].outputs(kw);
                            if range.is_empty() {
                                continue;
                            }
                            let large = axes[2].position(range.start, kw) as usize;
                            let w = *taps.add(kw);
                            let count = range.len();
                            if TRANSPOSED {
                                add_scaled::<V>(line.add(range.start), 1, row.add(large), stride, count, w);
                            } else {
                                add_scaled::<V>(line.add(large), stride, row.add(range.start), 1, count, w);
                            }
                        }
                    }
                }
            }
            for at in (0..out_w).step_by(BLOCK) {
                let count = (out_w - at).min(BLOCK);
                let x = load::<V>(row.add(at).cast_const(), count);
                store(activate(&p.activation, x), row.add(at), count);
            }
        }
    }
    Ok(())
}

/// The input position that tap `tap` brings to output `index`, if there is one.
#[inline(always)]
fn source<const TRANSPOSED: bool>(axis: &WindowAxis, index: usize, tap: usize) -> Option<usize> {
    if !TRANSPOSED {
        return u64::try_from(axis.position(index, tap))
            .ok()
            .filter(|&at| at < axis.input)
            .map(|at| at as usize);
    }
    let ahead = u64::try_from(index as i64 - axis.position(0, tap)).ok()?;
    let at = ahead / axis.stride;
    (ahead % axis.stride == 0 && at < axis.output).then_some(at as usize)
}

#[inline(always)]
unsafe fn conv_nd<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { run::<V, false>(args, chunk, chunks) }
}

#[inline(always)]
unsafe fn conv_transpose_nd<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { run::<V, true>(args, chunk, chunks) }
}

fn validate_either(call: &Call<'_>, transposed: bool) -> Result<(), Invalid> {
    let p = call.params::<ConvNd>()?;
    call.expect_operands(4)?;
    if p.groups == 0 {
        return Err(Invalid("no groups"));
    }
    if p.activation.kind().is_none() {
        return Err(Invalid("unknown activation"));
    }
    for axis in p.axes(transposed) {
        axis.validate(0)?;
    }
    let ([i0, i1, i2], [o0, o1, o2], [k0, k1, k2]) = (p.input, p.output, p.kernel);
    let outputs = p.groups.checked_mul(p.out_channels);
    call.expect_elements(0, product(&[p.n, p.groups, p.in_channels, i0, i1, i2]), 4)?;
    call.expect_elements(1, product(&[p.groups, p.out_channels, p.in_channels, k0, k1, k2]), 4)?;
    if call.operand_bytes[2] > 0 {
        call.expect_elements(2, outputs, 4)?;
    }
    let outputs = outputs.and_then(|outputs| product(&[p.n, outputs, o0, o1, o2]));
    call.expect_elements(3, outputs, 4)
}

pub(crate) fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    validate_either(call, false)
}

pub(crate) fn validate_transposed(call: &Call<'_>) -> Result<(), Invalid> {
    validate_either(call, true)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<ConvNd>();
    let rows = product(&[p.n, p.groups, p.out_channels, p.output[0], p.output[1]]).unwrap_or(0);
    let each = p.kernel.iter().fold(p.in_channels, |work, &kernel| work.saturating_mul(kernel));
    split(rows, rows.saturating_mul(p.output[2]).saturating_mul(each), threads)
}

/// Convolution of any rank to 3.
pub static CONV_ND_F32: Kernel = Kernel { name: "conv_nd_f32", validate, chunks, run: per_isa!(conv_nd<_>) };

/// Transposed convolution of any rank to 3.
pub static CONV_TRANSPOSE_ND_F32: Kernel = Kernel {
    name: "conv_transpose_nd_f32",
    validate: validate_transposed,
    chunks,
    run: per_isa!(conv_transpose_nd<_>),
};

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::{Activation, ActivationKind, ConvNd};
    use crate::cpu::testing::{Random, attack, bytes, check_f32};

    /// Input extent, output extent, kernel, stride, dilation, padding before.
    type Side = [u64; 6];

    const ONE: Side = [1, 1, 1, 1, 1, 0];

    fn call(sides: [Side; 3], groups: u64, in_channels: u64, out_channels: u64) -> (ConvNd, [usize; 4]) {
        let field = |i: usize| [sides[0][i], sides[1][i], sides[2][i]];
        let params = ConvNd {
            n: 2,
            groups,
            in_channels,
            out_channels,
            input: field(0),
            output: field(1),
            kernel: field(2),
            stride: field(3),
            dilation: field(4),
            pad_begin: field(5),
            activation: Activation::NONE,
        };
        let size = |extents: [u64; 3]| extents.iter().product::<u64>();
        let sizes = [
            2 * groups * in_channels * size(params.input),
            groups * in_channels * out_channels * size(params.kernel),
            groups * out_channels,
            2 * groups * out_channels * size(params.output),
        ];
        (params, sizes.map(|size| size as usize))
    }

    fn cases() -> Vec<(ConvNd, [usize; 4])> {
        let sides: [Side; 8] = [
            [9, 7, 3, 1, 1, 0],
            [40, 40, 5, 1, 1, 2],
            [8, 5, 3, 2, 1, 1],
            [7, 12, 4, 2, 1, 1],
            [6, 9, 3, 3, 2, 4],
            [1, 5, 3, 1, 1, 2],
            [3, 4, 1, 1, 1, 6],
            [0, 3, 2, 1, 1, 1],
        ];
        let mut cases: Vec<_> = sides.iter().map(|&side| call([ONE, ONE, side], 1, 3, 2)).collect();
        cases.extend(sides.iter().zip(sides.iter().rev()).map(|(&h, &w)| call([ONE, h, w], 2, 2, 3)));
        cases.push(call([sides[2], sides[3], sides[0]], 1, 2, 2));
        cases.push(call([sides[5], sides[4], sides[2]], 3, 1, 1));
        cases.push(call([ONE, sides[0], sides[2]], 2, 0, 2));
        cases
    }

    #[test]
    fn both_directions_agree_with_the_reference() {
        let mut random = Random::new(13);
        for (params, sizes) in cases() {
            // Sums of whole numbers are exact in any order.
            let [x, w, b] = [sizes[0], sizes[1], sizes[2]].map(|size| random.whole(size, 8));
            for name in ["conv_nd_f32", "conv_transpose_nd_f32"] {
                for bias in [&b[..], &[]] {
                    let inputs = [bytes(&x), bytes(&w), bytes(bias)];
                    check_f32(name, &params, &inputs, &[sizes[3] * 4], |_| 0.0);
                }
                let activation = Activation::new(ActivationKind::Sigmoid, 0.0, 0.0);
                let inputs = [bytes(&x), bytes(&w), bytes(&b)];
                // The sigmoid of either side is within a few units of the last place, and below e⁻⁸⁷ may be 0.
                let close = |y: f32| 16.0 * f32::EPSILON * y + f32::MIN_POSITIVE;
                check_f32(name, &ConvNd { activation, ..params }, &inputs, &[sizes[3] * 4], close);
            }
        }
    }

    #[test]
    fn nan_and_infinities_reach_what_sees_them() {
        let (params, sizes) = call([ONE, [8, 5, 3, 2, 1, 1], [9, 7, 3, 1, 1, 0]], 1, 2, 2);
        let mut random = Random::new(14);
        for special in [f32::NAN, f32::INFINITY] {
            let [mut x, w, b] = [sizes[0], sizes[1], sizes[2]].map(|size| random.whole(size, 8));
            x[30] = special;
            for name in ["conv_nd_f32", "conv_transpose_nd_f32"] {
                check_f32(name, &params, &[bytes(&x), bytes(&w), bytes(&b)], &[sizes[3] * 4], |_| 0.0);
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let (params, sizes) = call([[3, 2, 2, 1, 1, 0], [4, 3, 2, 1, 1, 0], [5, 3, 3, 2, 1, 1]], 2, 2, 3);
        let mut random = Random::new(15);
        let [x, w, b] = [sizes[0], sizes[1], sizes[2]].map(|size| random.units(size));
        for name in ["conv_nd_f32", "conv_transpose_nd_f32"] {
            attack(name, &params, &[bytes(&x), bytes(&w), bytes(&b)], &[sizes[3] * 4]);
        }
    }
}
