//! Convolution and matrix product on packed weights, by definition.

use half::f16;

use super::Registered;
use super::activation::activate;
use crate::call::{BLOCK, Conv, ConvDepthwise, PooledConv, View, residual};
use crate::{Args, Operand, RunError, kernels};

/// The kernels of this family.
pub const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::CONV_F32, reference: conv_f32 },
    Registered { kernel: &kernels::CONV_F16W, reference: conv_f16w },
    Registered { kernel: &kernels::DEPTHWISE_F32, reference: depthwise_f32 },
    Registered { kernel: &kernels::DEPTHWISE_F16W, reference: depthwise_f16w },
    Registered { kernel: &kernels::POOLED_CONV_F32, reference: pooled_conv_f32 },
    Registered { kernel: &kernels::CONV_DEPTHWISE_F32, reference: conv_depthwise_f32 },
    Registered { kernel: &kernels::CONV_DEPTHWISE_F16W, reference: conv_depthwise_f16w },
];

/// `conv_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn conv_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f32.
    unsafe { conv(args, |at| *args.operands[1].ptr::<f32>().add(at)) };
    Ok(())
}

/// `conv_f16w`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn conv_f16w(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f16.
    unsafe { conv(args, |at| (*args.operands[1].ptr::<f16>().add(at)).to_f32()) };
    Ok(())
}

/// `depthwise_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn depthwise_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f32.
    unsafe { depthwise(args, |at| *args.operands[1].ptr::<f32>().add(at)) };
    Ok(())
}

/// `depthwise_f16w`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn depthwise_f16w(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f16.
    unsafe { depthwise(args, |at| (*args.operands[1].ptr::<f16>().add(at)).to_f32()) };
    Ok(())
}

/// `conv_depthwise_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn conv_depthwise_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f32.
    unsafe { conv_depthwise(args, [conv_f32, depthwise_f32]) }
}

/// `conv_depthwise_f16w`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn conv_depthwise_f16w(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f16.
    unsafe { conv_depthwise(args, [conv_f16w, depthwise_f16w]) }
}

type Oracle = unsafe fn(&Args<'_>) -> Result<(), RunError>;

/// One after the other, through a whole picture.
unsafe fn conv_depthwise(args: &Args<'_>, steps: [Oracle; 2]) -> Result<(), RunError> {
    let p: &ConvDepthwise = args.params();
    let (Some(rows), Some(columns)) = (p.rows(p.depthwise.out_h), p.columns()) else { return Ok(()) };
    let (rows, block) = (rows.max(p.pad_top + p.conv.out_h), BLOCK as u64);
    let blocks = p.depthwise.groups.div_ceil(block);
    let stride_h = columns * block;
    let stride_c = rows * stride_h;
    let mut between = vec![0f32; (p.depthwise.n * blocks * stride_c) as usize];
    let view = View { offset: 0, stride_n: blocks * stride_c, stride_c, stride_h, stride_w: block };
    let offset = p.pad_top * stride_h + p.pad_left * block;
    let conv = Conv { output: View { offset, ..view }, output_padded: 1, ..p.conv };
    let depthwise = Conv { input: view, ..p.depthwise };
    let operand = Operand { data: between.as_mut_ptr().cast(), bytes: size_of_val(&*between) };
    let o = args.operands;
    let first = [o[0], o[1], o[2], Operand::ABSENT, operand];
    let second = [operand, o[3], o[4], o[5], o[6]];
    // SAFETY: the call was validated; the picture between has room for all that is written and read.
    unsafe {
        steps[0](&Args { params: bytemuck::bytes_of(&conv), operands: &first })?;
        steps[1](&Args { params: bytemuck::bytes_of(&depthwise), operands: &second })
    }
}

/// `pooled_conv_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn pooled_conv_f32(args: &Args<'_>) -> Result<(), RunError> {
    let p: &PooledConv = args.params();
    let (channels, kernel) = (p.in_channels as usize, p.kernel_h as usize);
    let (input, weights) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let (out_channels, out_h, out_w) = (p.out_channels as usize, p.out_h as usize, p.out_w as usize);
    for pixel in 0..p.n as usize * out_h * out_w {
        let (n, y, x) = (pixel / out_w / out_h, pixel / out_w % out_h, pixel % out_w);
        for lane in 0..out_channels.next_multiple_of(BLOCK) {
            let sum = |row: usize, column: usize| {
                let mut sum = 0.0;
                for tap in 0..channels * kernel * kernel {
                    let (c, i, j) = (tap % channels, tap / channels / kernel, tap / channels % kernel);
                    let packed = (lane / BLOCK * channels * kernel * kernel + tap) * BLOCK + lane % BLOCK;
                    // SAFETY: the call was validated.
                    sum += unsafe {
                        *input.add(element(&p.input, n, 0, row + i, column + j) + c) * *weights.add(packed)
                    };
                }
                sum
            };
            let mut greatest = f32::NEG_INFINITY;
            for value in
                [sum(2 * y, 2 * x), sum(2 * y, 2 * x + 1), sum(2 * y + 1, 2 * x), sum(2 * y + 1, 2 * x + 1)]
            {
                greatest = if value > greatest || value.is_nan() { value } else { greatest };
                if greatest.is_nan() {
                    break;
                }
            }
            let channel = (lane < out_channels).then_some(lane);
            // SAFETY: as above.
            unsafe { finish(args, p, [n, lane / BLOCK, y, x, lane % BLOCK], channel, greatest) };
        }
    }
    Ok(())
}

pub(super) fn element(view: &View, n: usize, block: usize, y: usize, x: usize) -> usize {
    view.offset as usize
        + n * view.stride_n as usize
        + block * view.stride_c as usize
        + y * view.stride_h as usize
        + x * view.stride_w as usize
}

unsafe fn conv(args: &Args<'_>, weight: impl Fn(usize) -> f32) {
    let p: &Conv = args.params();
    let (in_channels, in_block) = (p.in_channels as usize, p.in_block as usize);
    let out_channels = p.out_channels as usize;
    let (in_blocks, out_blocks) = (in_channels.div_ceil(in_block), out_channels.div_ceil(BLOCK));
    let (kernel_h, kernel_w) = (p.kernel_h as usize, p.kernel_w as usize);
    let k = in_channels * kernel_h * kernel_w;
    let input = args.operands[0].ptr::<f32>();
    for n in 0..p.n as usize {
        for group in 0..p.groups as usize {
            for lane in 0..out_blocks * BLOCK {
                let panel = group * out_blocks + lane / BLOCK;
                for y in 0..p.out_h as usize {
                    for x in 0..p.out_w as usize {
                        let mut sum = 0.0;
                        for c in 0..in_channels {
                            let (block, c) = (c / in_block, c % in_block);
                            let in_this_block = in_block.min(in_channels - block * in_block);
                            for i in 0..kernel_h {
                                for j in 0..kernel_w {
                                    let (row, column) = (
                                        y * p.stride_h as usize + i * p.dilation_h as usize,
                                        x * p.stride_w as usize + j * p.dilation_w as usize,
                                    );
                                    let at = element(&p.input, n, group * in_blocks + block, row, column) + c;
                                    let step = block * in_block * kernel_h * kernel_w
                                        + (i * kernel_w + j) * in_this_block
                                        + c;
                                    let packed = n * p.weights_stride_n as usize
                                        + (panel * k + step) * BLOCK
                                        + lane % BLOCK;
                                    // SAFETY: the call was validated.
                                    sum += unsafe { *input.add(at) } * weight(packed);
                                }
                            }
                        }
                        let channel = (lane < out_channels).then_some(group * out_channels + lane);
                        // SAFETY: as above.
                        unsafe { finish(args, p, [n, panel, y, x, lane % BLOCK], channel, sum) };
                    }
                }
            }
        }
    }
}

unsafe fn depthwise(args: &Args<'_>, weight: impl Fn(usize) -> f32) {
    let p: &Conv = args.params();
    let channels = p.groups as usize;
    let (kernel_h, kernel_w) = (p.kernel_h as usize, p.kernel_w as usize);
    let input = args.operands[0].ptr::<f32>();
    for n in 0..p.n as usize {
        for lane in 0..channels.div_ceil(BLOCK) * BLOCK {
            let (block, c) = (lane / BLOCK, lane % BLOCK);
            for y in 0..p.out_h as usize {
                for x in 0..p.out_w as usize {
                    let mut sum = 0.0;
                    for i in 0..kernel_h {
                        for j in 0..kernel_w {
                            let (row, column) = (
                                y * p.stride_h as usize + i * p.dilation_h as usize,
                                x * p.stride_w as usize + j * p.dilation_w as usize,
                            );
                            let packed = ((block * kernel_h + i) * kernel_w + j) * BLOCK + c;
                            if lane < channels {
                                // SAFETY: the call was validated.
                                let x = unsafe { *input.add(element(&p.input, n, block, row, column) + c) };
                                sum += x * weight(packed);
                            }
                        }
                    }
                    let channel = (lane < channels).then_some(lane);
                    // SAFETY: as above.
                    unsafe { finish(args, p, [n, block, y, x, c], channel, sum) };
                }
            }
        }
    }
}

/// Bias, residual, activation and the store of one element; no `channel` means a lane that only pads its block.
pub(super) unsafe fn finish(
    args: &Args<'_>,
    p: &Conv,
    [n, block, y, x, lane]: [usize; 5],
    channel: Option<usize>,
    mut value: f32,
) {
    let (bias, added, output) =
        (args.operands[2], args.operands[3].ptr::<f32>(), args.operands[4].ptr::<f32>());
    // SAFETY: the call was validated.
    unsafe {
        let output = output.add(element(&p.output, n, block, y, x) + lane);
        let Some(channel) = channel else {
            if p.output_padded == 1 {
                *output = 0.0;
            }
            return;
        };
        if bias.bytes > 0 {
            value += *bias.ptr::<f32>().add(channel);
        }
        let at = element(&p.residual, n, block, y, x) + lane;
        if p.residual_mode == residual::BEFORE_ACTIVATION {
            value += *added.add(at);
        }
        value = activate(&p.activation, value);
        if p.residual_mode == residual::AFTER_ACTIVATION {
            value += *added.add(at);
        }
        *output = value;
    }
}
