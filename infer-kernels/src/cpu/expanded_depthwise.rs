//! `expanded_depthwise_f32`: a 1×1 convolution, and the depthwise one that reads its output, band by band.
//!
//! Mobile networks widen a picture, convolve each channel by itself and make it narrow again; the wide picture is more
//! than the caches next to a core hold. A band of rows of it stays there: it is computed by `conv_f32` into memory of
//! this chunk, then read by `depthwise_f32`; rows that the next band reads too are copied to its beginning. Chunks share
//! the rows of the output; those at the edges are computed by both sides.

use crate::call::{BLOCK, Conv, ExpandedDepthwise, View, residual};
use crate::cpu::conv::CONV_F32;
use crate::cpu::depthwise::DEPTHWISE_F32;
use crate::cpu::epilogue::{MAX_STRIDE, chunks_for};
use crate::cpu::share;
use crate::{Args, Call, ChunkFn, Invalid, Kernel, Operand, PerIsa, RunError};

/// Both convolutions in one; see [`ExpandedDepthwise`].
pub static EXPANDED_DEPTHWISE_F32: Kernel = Kernel {
    name: "expanded_depthwise_f32",
    validate,
    chunks,
    run: PerIsa {
        portable: |args, chunk, chunks| {
            // SAFETY: the contract of `ChunkFn` is passed on, with kernels of the same instruction set.
            unsafe { run(args, chunk, chunks, CONV_F32.run.portable, DEPTHWISE_F32.run.portable) }
        },
        #[cfg(target_arch = "x86_64")]
        avx2: |args, chunk, chunks| {
            // SAFETY: as above.
            unsafe { run(args, chunk, chunks, CONV_F32.run.avx2, DEPTHWISE_F32.run.avx2) }
        },
        #[cfg(target_arch = "x86_64")]
        avx512: |args, chunk, chunks| {
            // SAFETY: as above.
            unsafe { run(args, chunk, chunks, CONV_F32.run.avx512, DEPTHWISE_F32.run.avx512) }
        },
    },
};

/// A size that every check of memory passes whose views are made here.
const PLENTY: u64 = u64::MAX;

/// Where a wide picture of so many rows and columns would lie by itself.
fn dense(p: &Conv, rows: u64, columns: u64) -> View {
    let stride_h = columns * BLOCK as u64;
    let stride_c = rows * stride_h;
    let blocks = p.out_channels.div_ceil(BLOCK as u64);
    View { offset: 0, stride_n: stride_c.saturating_mul(blocks), stride_c, stride_h, stride_w: BLOCK as u64 }
}

fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &ExpandedDepthwise = call.params()?;
    call.expect_operands(7)?;
    let (wide, deep) = (&p.expand, &p.depthwise);
    let extents = [wide.n, wide.out_channels, wide.out_h, wide.out_w, deep.out_h, deep.out_w, p.rows];
    if extents.iter().any(|&extent| extent > 1 << 20) || p.rows == 0 {
        return Err(Invalid("extent too large, or bands of no rows"));
    }
    let point = [wide.kernel_h, wide.kernel_w, wide.stride_h, wide.stride_w, wide.groups, wide.output_padded];
    let plain = |p: &Conv| p.residual_mode == residual::NONE && p.weights_stride_n == 0;
    if point != [1; 6] || !plain(wide) || !plain(deep) {
        return Err(Invalid("not a convolution of single pixels, or a residual"));
    }
    let window = [deep.kernel_h, deep.kernel_w, deep.stride_h, deep.stride_w];
    if window.iter().any(|&extent| !(1..=8).contains(&extent)) || (deep.dilation_h, deep.dilation_w) != (1, 1)
    {
        return Err(Invalid("window without extent, too large or dilated"));
    }
    if deep.groups != wide.out_channels || deep.n != wide.n || p.pad_top > 8 {
        return Err(Invalid("convolutions that do not follow each other"));
    }
    if wide.n == 0 || wide.out_channels == 0 || deep.out_h == 0 || deep.out_w == 0 {
        return Ok(());
    }
    let columns = p.columns();
    if p.pad_left.checked_add(wide.out_w).is_none_or(|end| end > columns) {
        return Err(Invalid("columns that nobody reads"));
    }
    // Both convolutions of all rows, the wide picture being anywhere; bands are parts of them.
    let rows = (deep.out_h - 1) * deep.stride_h + deep.kernel_h;
    let view = dense(wide, rows.max(wide.out_h), columns);
    if view.stride_n > MAX_STRIDE {
        return Err(Invalid("picture too large"));
    }
    let sizes = call.operand_bytes;
    let params = Conv { output: view, ..*wide };
    let operand_bytes = &[sizes[0], sizes[1], sizes[2], 0, PLENTY];
    (CONV_F32.validate)(&Call { params: bytemuck::bytes_of(&params), operand_bytes })?;
    let params = Conv { input: view, ..*deep };
    let operand_bytes = &[PLENTY, sizes[3], sizes[4], 0, sizes[5]];
    (DEPTHWISE_F32.validate)(&Call { params: bytemuck::bytes_of(&params), operand_bytes })?;
    call.expect_elements(6, p.slot(), 4)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &ExpandedDepthwise = args.params();
    let (wide, deep) = (&p.expand, &p.depthwise);
    let work = |factors: [u64; 6]| factors.into_iter().fold(1, u64::saturating_mul);
    let both = work([wide.n, wide.in_channels, wide.out_channels, wide.out_h, wide.out_w, 1]).saturating_add(
        work([deep.n, deep.groups, deep.kernel_h * deep.kernel_w, deep.out_h, deep.out_w, 2]),
    );
    chunks_for(both, threads).min(deep.out_h as usize).min(slots(p, args)).max(1)
}

/// How many chunks find memory to work in.
fn slots(p: &ExpandedDepthwise, args: &Args<'_>) -> usize {
    args.operands[6].bytes / 4 / p.slot().unwrap_or(0).max(1) as usize
}

/// An operand from element `from` on.
fn after(operand: Operand, from: usize) -> Operand {
    Operand { data: operand.ptr::<f32>().wrapping_add(from).cast(), ..operand }
}

/// Runs one chunk by the two kernels.
///
/// # Safety
///
/// That of [`ChunkFn`]; the kernels are those of the processor.
unsafe fn run(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
    conv: ChunkFn,
    depthwise: ChunkFn,
) -> Result<(), RunError> {
    let p: &ExpandedDepthwise = args.params();
    let (wide, deep) = (&p.expand, &p.depthwise);
    let chunks = chunks.min(slots(p, args));
    if chunk >= chunks || wide.n == 0 || wide.out_channels == 0 || deep.out_w == 0 || deep.out_h == 0 {
        return Ok(());
    }
    let slot = p.slot().unwrap_or(0) as usize;
    let [input, weights, bias, deep_weights, deep_bias, output, memory] =
        [0, 1, 2, 3, 4, 5, 6].map(|index| args.operands[index]);
    let memory = after(memory, chunk * slot);
    let band = dense(wide, p.band_rows(), p.columns());
    let blocks = wide.out_channels.div_ceil(BLOCK as u64) as usize;
    let (stride_c, stride_h) = (band.stride_c as usize, band.stride_h as usize);
    // What lies left and right of the picture, in all rows of the band, is never written again.
    let (left, right) = (p.pad_left as usize * BLOCK, (p.pad_left + wide.out_w) as usize * BLOCK);
    for row in 0..slot / stride_h {
        // SAFETY: the slot is this chunk's alone; the row lies in it.
        unsafe {
            let row = memory.ptr::<f32>().add(row * stride_h);
            row.write_bytes(0, left);
            row.add(right).write_bytes(0, stride_h - right);
        }
    }
    let rows_of_chunk = share(deep.out_h as usize, chunk, chunks);
    let (stride, kernel) = (deep.stride_h as usize, deep.kernel_h as usize);
    let (above, height) = (p.pad_top as usize, wide.out_h as usize);
    for n in 0..wide.n as usize {
        let mut y = rows_of_chunk.start;
        while y < rows_of_chunk.end {
            let rows = (p.rows as usize).min(rows_of_chunk.end - y);
            // Rows of the wide picture, counted from the padding above it.
            let (first, end) = (y * stride, (y + rows - 1) * stride + kernel);
            let mut fresh = first;
            if y > rows_of_chunk.start && kernel > stride {
                let (kept, from) = (kernel - stride, p.rows as usize * stride);
                fresh += kept;
                for block in 0..blocks {
                    // SAFETY: both ranges of rows lie in the band.
                    unsafe {
                        let block = memory.ptr::<f32>().add(block * stride_c);
                        std::ptr::copy(block.add(from * stride_h), block, kept * stride_h);
                    }
                }
            }
            let inside = |row: usize| row.clamp(above, above + height);
            // Rows above and below the picture.
            for row in (fresh..inside(fresh).min(end)).chain(inside(end).max(fresh)..end) {
                for block in 0..blocks {
                    let at = block * stride_c + (row - first) * stride_h;
                    // SAFETY: the row lies in the band.
                    unsafe { memory.ptr::<f32>().add(at).write_bytes(0, stride_h) };
                }
            }
            let (from, to) = (inside(fresh), inside(end));
            if from < to {
                let mut view = wide.input;
                view.offset += n as u64 * view.stride_n + (from - above) as u64 * view.stride_h;
                let offset = ((from - first) * stride_h) as u64 + p.pad_left * BLOCK as u64;
                let part = Conv {
                    n: 1,
                    out_h: (to - from) as u64,
                    input: view,
                    output: View { offset, ..band },
                    ..*wide
                };
                let operands = [input, weights, bias, Operand::ABSENT, memory];
                // SAFETY: the caller's promise: rows of the picture that validation found in the operands, and the
                // band lies in the slot.
                unsafe { conv(&Args { params: bytemuck::bytes_of(&part), operands: &operands }, 0, 1)? };
            }
            let mut view = deep.output;
            view.offset += n as u64 * view.stride_n + y as u64 * view.stride_h;
            let part = Conv { n: 1, out_h: rows as u64, input: band, output: view, ..*deep };
            let operands = [memory, deep_weights, deep_bias, Operand::ABSENT, output];
            // SAFETY: as above; the rows of the output are this chunk's alone.
            unsafe { depthwise(&Args { params: bytemuck::bytes_of(&part), operands: &operands }, 0, 1)? };
            y += rows;
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::call::{Activation, ActivationKind};
    use crate::cpu::testing::{Random, attack, bytes, run_everywhere};

    struct Case {
        p: ExpandedDepthwise,
        inputs: [Vec<f32>; 5],
        output: usize,
    }

    /// Channels before and after, the extents of the wide picture, the window, its stride, the rows of a band.
    fn case([narrow, wide]: [u64; 2], [h, w]: [u64; 2], kernel: u64, stride: u64, rows: u64) -> Case {
        let (pad, blocks) = (kernel / 2, wide.div_ceil(16));
        let [out_h, out_w] = [h, w].map(|extent| (extent + 2 * pad - kernel) / stride + 1);
        let view = |blocks: u64, h: u64, w: u64| View {
            offset: 32,
            stride_n: blocks * (h + 1) * (w + 2) * 16,
            stride_c: (h + 1) * (w + 2) * 16,
            stride_h: (w + 2) * 16,
            stride_w: 16,
        };
        let common = Conv {
            n: 2,
            output_padded: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            activation: Activation::new(ActivationKind::Clip, 0.0, 6.0),
            ..Conv::default()
        };
        let expand = Conv {
            groups: 1,
            in_channels: narrow,
            in_block: 16,
            out_channels: wide,
            out_h: h,
            out_w: w,
            kernel_h: 1,
            kernel_w: 1,
            input: view(narrow.div_ceil(16), h, w),
            ..common
        };
        let depthwise = Conv {
            groups: wide,
            in_channels: 1,
            in_block: 1,
            out_channels: 1,
            out_h,
            out_w,
            kernel_h: kernel,
            kernel_w: kernel,
            stride_h: stride,
            stride_w: stride,
            output: view(blocks, out_h, out_w),
            ..common
        };
        let mut p = ExpandedDepthwise { expand, depthwise, pad_top: pad, pad_left: pad, rows, reserved: 0 };
        // Columns that nobody reads are not computed.
        p.expand.out_w = w.min(p.columns() - pad);
        let mut random = Random::new(h * 31 + w + kernel);
        let sizes = [
            2 * expand.input.stride_n + 32,
            blocks * narrow * 16,
            blocks * 16,
            blocks * kernel * kernel * 16,
            blocks * 16,
        ];
        let output = (2 * p.depthwise.output.stride_n + 32) as usize * 4;
        Case { p, inputs: sizes.map(|size| random.units(size as usize)), output }
    }

    impl Case {
        fn check(&self) {
            let inputs = self.inputs.each_ref().map(|values| bytes(values));
            for slots in [1, 3] {
                let memory = (slots * self.p.slot().unwrap() * 4) as usize;
                let mut expected = Vec::new();
                run_everywhere(
                    "expanded_depthwise_f32",
                    &self.p,
                    &inputs,
                    &[self.output, memory],
                    |who, outputs| {
                        let got: Vec<f32> = outputs[0].chunks(4).map(bytemuck::pod_read_unaligned).collect();
                        if who == "the oracle" {
                            expected.clone_from(&got);
                        }
                        for (at, (a, b)) in expected.iter().zip(&got).enumerate() {
                            let near = (a - b).abs() <= 1e-4 || a.is_nan() && b.is_nan();
                            assert!(near, "{who}: output[{at}] is {b}, not {a} ({:?})", self.p);
                        }
                    },
                );
            }
        }
    }

    #[test]
    fn sizes_windows_and_bands() {
        for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1), (2, 2), (1, 2)] {
            for (h, w, rows) in [(9, 12, 2), (8, 15, 3), (1, 3, 4), (14, 6, 1), (7, 7, 64)] {
                case([16, 32], [h, w], kernel, stride, rows).check();
            }
        }
    }

    #[test]
    fn channels_and_activations() {
        for channels in [[16, 96], [24, 40], [8, 7], [33, 144]] {
            let mut case = case(channels, [10, 11], 3, 2, 2);
            case.check();
            case.p.expand.activation = Activation::new(ActivationKind::Silu, 0.0, 0.0);
            case.p.depthwise.activation = Activation::new(ActivationKind::HardSwish, 0.0, 0.0);
            case.check();
            (case.inputs[2], case.inputs[4]) = (Vec::new(), Vec::new());
            case.check();
        }
    }

    #[test]
    fn hostile_calls() {
        let mut case = case([16, 24], [6, 9], 3, 1, 2);
        case.p.depthwise.output.offset = 0;
        let p = &case.p.depthwise;
        let end = p.output.end(2, 2, p.out_h, p.out_w, 16).unwrap() as usize * 4;
        let inputs = case.inputs.each_ref().map(|values| bytes(values));
        attack("expanded_depthwise_f32", &case.p, &inputs, &[end, case.p.slot().unwrap() as usize * 4]);
    }
}
