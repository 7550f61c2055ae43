//! `conv_depthwise_f32`, `conv_depthwise_f16w`: a convolution and the depthwise one that alone reads it, in bands of rows.
//!
//! mid[n, c, y, x] as in `conv.rs`, zero around the picture; out[n, c, y, x] as in `depthwise.rs`, of mid.
//!
//! Loop order: images and pairs of channel blocks; bands of output rows. The rows that a band reads are computed into
//! memory of the chunk, after those that the band before has left there, and read from the first or second level. Chunks
//! split rows of the output and pairs of blocks; where they split rows, both compute those that both read.
//!
//! What is computed is done by the kernels of the two convolutions, on a piece of theirs at a time.

use crate::call::{BLOCK, Conv, ConvDepthwise, View, residual};
use crate::cpu::conv::{self, CONV_F16W, CONV_F32};
use crate::cpu::depthwise::{self, DEPTHWISE_F16W, DEPTHWISE_F32};
use crate::cpu::epilogue::{MAX_STRIDE, chunks_for};
use crate::cpu::share;
use crate::{Args, Call, ChunkFn, Invalid, Kernel, Operand, PerIsa, RunError};

/// A kernel that runs these two, whose weights have so many bytes.
macro_rules! kernel {
    ($name:literal, $convolve:ident, $filter:ident, $weight_bytes:literal) => {
        Kernel {
            name: $name,
            validate: |call| validate(call, $weight_bytes),
            chunks,
            run: PerIsa {
                portable: kernel!(portable: $convolve, $filter, $weight_bytes),
                #[cfg(target_arch = "x86_64")]
                avx2: kernel!(avx2: $convolve, $filter, $weight_bytes),
                #[cfg(target_arch = "x86_64")]
                avx512: kernel!(avx512: $convolve, $filter, $weight_bytes),
                #[cfg(target_arch = "x86_64")]
                amx: kernel!(amx: $convolve, $filter, $weight_bytes),
            },
        }
    };
    ($isa:ident: $convolve:ident, $filter:ident, $weight_bytes:literal) => {
        // SAFETY: the contract of `ChunkFn` is passed on.
        |args, chunk, chunks| unsafe {
            conv_depthwise([$convolve.run.$isa, $filter.run.$isa], $weight_bytes, args, chunk, chunks)
        }
    };
}

/// Both convolutions with f32 weights; see [`ConvDepthwise`].
pub static CONV_DEPTHWISE_F32: Kernel = kernel!("conv_depthwise_f32", CONV_F32, DEPTHWISE_F32, 4);

/// Both convolutions with f16 weights; see [`ConvDepthwise`].
pub static CONV_DEPTHWISE_F16W: Kernel = kernel!("conv_depthwise_f16w", CONV_F16W, DEPTHWISE_F16W, 2);

/// Channels that are worked on together.
const CHANNELS: usize = ConvDepthwise::BLOCKS as usize * BLOCK;

fn validate(call: &Call<'_>, weight_bytes: u64) -> Result<(), Invalid> {
    let p: &ConvDepthwise = call.params()?;
    call.expect_operands(8)?;
    let bytes = call.operand_bytes;
    // What lies between is memory of the chunk, whose extents are checked below.
    let conv = Conv { output: View::default(), output_padded: 1, ..p.conv };
    let operand_bytes = &[bytes[0], bytes[1], bytes[2], 0, u64::MAX];
    conv::validate(&Call { params: bytemuck::bytes_of(&conv), operand_bytes }, weight_bytes)?;
    let depthwise = Conv { input: View::default(), ..p.depthwise };
    let operand_bytes = &[u64::MAX, bytes[3], bytes[4], bytes[5], bytes[6]];
    depthwise::validate(&Call { params: bytemuck::bytes_of(&depthwise), operand_bytes }, weight_bytes)?;
    if p.conv.groups != 1 || p.conv.residual_mode != residual::NONE || p.conv.weights_stride_n != 0 {
        return Err(Invalid("a first convolution of groups, with a residual, or of several sets of weights"));
    }
    if p.conv.n != p.depthwise.n || p.conv.out_channels != p.depthwise.groups {
        return Err(Invalid("convolutions of different images or channels"));
    }
    let d = &p.depthwise;
    if p.band == 0 || d.kernel_h == 0 || d.kernel_w == 0 || d.stride_h == 0 || d.stride_h > p.reach() {
        return Err(Invalid("bands or windows of no rows, or rows that nothing reads"));
    }
    if p.pad_top > MAX_STRIDE || p.pad_left > MAX_STRIDE {
        return Err(Invalid("padding too large"));
    }
    call.expect_elements(7, p.slot(1), 4)
}

/// The pairs of channel blocks of all images.
fn pictures(p: &ConvDepthwise) -> usize {
    p.depthwise.n as usize * (p.depthwise.groups as usize).div_ceil(CHANNELS)
}

/// How many chunks have memory for a row at least.
fn slots(args: &Args<'_>, p: &ConvDepthwise) -> usize {
    (args.operands[7].bytes / size_of::<f32>() / (p.slot(1).unwrap_or(0) as usize).max(1)).max(1)
}

/// The output rows of a band that finds room in so many elements.
fn band(p: &ConvDepthwise, elements: usize) -> u64 {
    let line = ConvDepthwise::BLOCKS * BLOCK as u64 * p.columns().unwrap_or(0);
    let rows = elements as u64 / line.max(1);
    let band = (rows.saturating_sub(p.reach()) / p.depthwise.stride_h + 1).min(p.band);
    // Depthwise tiles have two rows.
    if band < p.depthwise.out_h { (band & !1).max(1) } else { p.depthwise.out_h }
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &ConvDepthwise = args.params();
    let (c, d) = (&p.conv, &p.depthwise);
    let products = [c.out_channels, c.in_channels, c.kernel_h, c.kernel_w, c.out_h, c.out_w];
    let taps = [d.groups, d.kernel_h, d.kernel_w, d.out_h, d.out_w, 2];
    let [products, taps] = [products, taps].map(|all| all.into_iter().fold(c.n, u64::saturating_mul));
    // Not several a thread, since they compute rows twice.
    let worthwhile = chunks_for(products.saturating_add(taps), threads).min(threads).min(slots(args, p));
    worthwhile.min(pictures(p).saturating_mul(d.out_h as usize)).max(1)
}

/// Chunks as a grid of parts of the rows × parts of the pictures: the fewest rows to compute in the largest chunk.
fn grid(p: &ConvDepthwise, chunks: usize) -> (usize, usize) {
    let (h, stride) = (p.depthwise.out_h as usize, p.depthwise.stride_h as usize);
    let again = (p.reach() as usize).saturating_sub(stride);
    let cost = |parts: usize| {
        let rows = h.div_ceil(parts).saturating_mul(stride).saturating_add(again);
        rows.saturating_mul(pictures(p).div_ceil(chunks / parts))
    };
    // Of equals the one that splits rows more: who computed a row of the input is likely to have it near.
    let parts =
        (1..=chunks).rev().filter(|parts| chunks.is_multiple_of(*parts)).min_by_key(|&parts| cost(parts));
    let parts = parts.unwrap_or(1);
    (parts, chunks / parts)
}

/// An operand from element `elements` of `bytes` each on; an absent one stays so.
fn from(operand: Operand, elements: usize, bytes: usize) -> Operand {
    match operand.bytes {
        0 => operand,
        all => Operand {
            data: operand.data.wrapping_add(elements * bytes),
            bytes: all.saturating_sub(elements * bytes),
        },
    }
}

/// `view` from image `n`, block `c` and row `h` on.
fn at(view: &View, [n, c, h]: [usize; 3]) -> View {
    // Wrapping, because a distance along an extent of 1 may be anything.
    let step = |index: usize, stride: u64| (index as u64).wrapping_mul(stride);
    let offset = step(n, view.stride_n) + step(c, view.stride_c) + step(h, view.stride_h);
    View { offset: view.offset + offset, ..*view }
}

/// Runs one chunk by the functions of the two kernels, whose weights have so many bytes.
///
/// # Safety
///
/// That of [`ChunkFn`].
unsafe fn conv_depthwise(
    [convolve, filter]: [ChunkFn; 2],
    weight_bytes: usize,
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p: &ConvDepthwise = args.params();
    let (c, d) = (&p.conv, &p.depthwise);
    if pictures(p) == 0 || d.out_h == 0 || d.out_w == 0 {
        return Ok(());
    }
    let channels = d.groups as usize;
    let pairs = channels.div_ceil(CHANNELS);
    // Every chunk needs a slot of its own; where there are fewer, some chunks have nothing to do.
    let chunks = chunks.min(slots(args, p));
    if chunk >= chunks {
        return Ok(());
    }
    let (row_parts, picture_parts) = grid(p, chunks);
    let my_pictures = share(pictures(p), chunk % picture_parts, picture_parts);
    let my_rows = share(d.out_h as usize, chunk / picture_parts, row_parts);
    let share_of_memory = args.operands[7].bytes / size_of::<f32>() / chunks;
    let band = band(p, share_of_memory);
    let [rows, columns, slot] =
        [p.rows(band), p.columns(), p.slot(band)].map(|extent| extent.unwrap_or(0) as usize);
    let (line, plane) = (columns * BLOCK, rows * columns * BLOCK);
    let [input, weights, bias, taps, tap_bias, added, output, scratch] =
        [0, 1, 2, 3, 4, 5, 6, 7].map(|index| args.operands[index]);
    let slot_bytes = slot * size_of::<f32>();
    let between = Operand { data: scratch.data.wrapping_add(chunk * slot_bytes), bytes: slot_bytes };
    let lines: *mut f32 = between.ptr();
    let between_view = View {
        offset: 0,
        stride_n: 0,
        stride_c: plane as u64,
        stride_h: line as u64,
        stride_w: BLOCK as u64,
    };
    let panel = (c.in_channels * c.kernel_h * c.kernel_w) as usize * BLOCK;
    let block_taps = (d.kernel_h * d.kernel_w) as usize * BLOCK;
    let (top, left) = (p.pad_top as usize, p.pad_left as usize);
    let (conv_h, conv_w) = (c.out_h as usize, c.out_w as usize);
    let (stride, reach, band) = (d.stride_h as usize, p.reach() as usize, band as usize);
    if my_rows.is_empty() {
        return Ok(());
    }
    // SAFETY: a slot has `BLOCKS` planes of `rows` lines, and `left + conv_w` is at most `columns`.
    unsafe {
        for row in 0..ConvDepthwise::BLOCKS as usize * rows {
            let line_start = lines.add(row * line);
            line_start.write_bytes(0, left * BLOCK);
            line_start.add((left + conv_w) * BLOCK).write_bytes(0, line - (left + conv_w) * BLOCK);
        }
    }
    for picture in my_pictures {
        let (image, first) = (picture / pairs, picture % pairs * ConvDepthwise::BLOCKS as usize);
        let lanes = (channels - first * BLOCK).min(CHANNELS);
        let blocks = lanes.div_ceil(BLOCK);
        let piece_of = |operand: Operand, panel: usize, bytes: usize| from(operand, first * panel, bytes);
        let first_operands = [
            input,
            piece_of(weights, panel, weight_bytes),
            piece_of(bias, BLOCK, size_of::<f32>()),
            Operand::ABSENT,
            between,
        ];
        let second_operands = [
            between,
            piece_of(taps, block_taps, weight_bytes),
            piece_of(tap_bias, BLOCK, size_of::<f32>()),
            added,
            output,
        ];
        // The rows in memory, counted with those of zeros above.
        let mut have = 0..0_usize;
        for y in my_rows.clone().step_by(band) {
            let count = band.min(my_rows.end - y);
            let wanted = y * stride..(y + count - 1) * stride + reach;
            let kept = have.end.saturating_sub(wanted.start);
            let computed = wanted.start + kept;
            let from_row = computed.max(top).min(wanted.end);
            let to_row = wanted.end.min(top + conv_h).max(from_row);
            // SAFETY: a band has at most `rows` rows, whether they are kept, zero or computed.
            unsafe {
                for block in 0..blocks {
                    let lines = lines.add(block * plane);
                    if kept > 0 {
                        std::ptr::copy(lines.add((wanted.start - have.start) * line), lines, kept * line);
                    }
                    lines.add(kept * line).write_bytes(0, (from_row - computed) * line);
                    let below = lines.add((to_row - wanted.start) * line);
                    below.write_bytes(0, (wanted.end - to_row) * line);
                }
            }
            if from_row < to_row {
                let offset = ((from_row - wanted.start) * line + left * BLOCK) as u64;
                let piece = Conv {
                    n: 1,
                    out_channels: lanes as u64,
                    output_padded: 1,
                    out_h: (to_row - from_row) as u64,
                    input: at(&c.input, [image, 0, (from_row - top) * c.stride_h as usize]),
                    output: View { offset, ..between_view },
                    ..*c
                };
                // SAFETY: validation bounded what the whole convolution reads, and the slot holds what is written.
                unsafe {
                    convolve(&Args { params: bytemuck::bytes_of(&piece), operands: &first_operands }, 0, 1)?;
                }
            }
            let added = if d.residual_mode == residual::NONE { [0; 3] } else { [image, first, y] };
            let piece = Conv {
                n: 1,
                groups: lanes as u64,
                out_h: count as u64,
                input: between_view,
                output: at(&d.output, [image, first, y]),
                residual: at(&d.residual, added),
                ..*d
            };
            // SAFETY: validation bounded what the whole convolution reads and writes; the slot has all rows of the
            // band, and all columns.
            unsafe {
                filter(&Args { params: bytemuck::bytes_of(&piece), operands: &second_operands }, 0, 1)?;
            }
            have = wanted;
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use half::f16;

    use super::*;
    use crate::call::{Activation, ActivationKind};
    use crate::cpu::testing::{Random, attack, bytes, check_beside_scratch};

    /// The chunks that there is memory for: fewer than tests run at most, and enough for wider bands of one.
    const MEMORY: u64 = 20;

    struct Case {
        p: ConvDepthwise,
        inputs: [Vec<f32>; 6],
        output: usize,
    }

    /// Blocked pictures, with `gap` elements before each row.
    fn view(blocks: u64, h: u64, w: u64, block: u64, gap: u64) -> View {
        let stride_h = w * block + gap;
        View {
            offset: gap,
            stride_n: blocks * h * stride_h,
            stride_c: h * stride_h,
            stride_h,
            stride_w: block,
        }
    }

    /// `channels` in and out; extents of the picture between; kernel, stride and padding of the second convolution.
    fn case(
        [input, channels]: [u64; 2],
        [h, w]: [u64; 2],
        [kernel, stride, pad]: [u64; 3],
        band: u64,
        change: impl Fn(&mut ConvDepthwise),
    ) -> Case {
        let unit = Conv {
            n: 2,
            groups: 1,
            in_channels: 1,
            in_block: 1,
            out_channels: 1,
            output_padded: 1,
            kernel_h: 1,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            ..Conv::default()
        };
        let conv = Conv {
            in_channels: input,
            in_block: input.min(16),
            out_channels: channels,
            out_h: h,
            out_w: w,
            ..unit
        };
        let [out_h, out_w] = [h, w].map(|extent| (extent + 2 * pad - kernel) / stride + 1);
        let depthwise = Conv {
            groups: channels,
            kernel_h: kernel,
            kernel_w: kernel,
            stride_h: stride,
            stride_w: stride,
            out_h,
            out_w,
            ..unit
        };
        let mut p = ConvDepthwise { conv, depthwise, pad_top: pad, pad_left: pad, band };
        change(&mut p);
        let (c, d) = (&mut p.conv, &mut p.depthwise);
        let [rows, columns] = [(c.out_h, c.kernel_h, c.stride_h), (c.out_w, c.kernel_w, c.stride_w)]
            .map(|(extent, kernel, stride)| (extent - 1) * stride + kernel);
        let (in_blocks, blocks) = (input.div_ceil(c.in_block), channels.div_ceil(16));
        c.input = view(in_blocks, rows, columns, c.in_block, 16);
        d.output = view(blocks, out_h, out_w, 16, 32);
        d.residual = view(blocks, out_h, out_w, 16, 0);
        let mut random = Random::new(h * 31 + w * 7 + channels);
        let mut whole = |count: u64, bound: u64| random.whole(count as usize, bound);
        let added = if d.residual_mode == residual::NONE { 0 } else { d.n * d.residual.stride_n };
        let inputs = [
            whole(c.n * c.input.stride_n + 16, 3),
            whole(blocks * 16 * input * c.kernel_h * c.kernel_w, 2),
            whole(channels, 3),
            whole(blocks * 16 * d.kernel_h * d.kernel_w, 2),
            whole(blocks * 16, 3),
            whole(added, 3),
        ];
        let output = d.output.end(d.n, blocks, out_h, out_w, 16).unwrap() as usize * 4;
        Case { p, inputs, output }
    }

    impl Case {
        /// Whole numbers are exact in any order; others differ by `tolerance`.
        fn check(&self, tolerance: f32) {
            let slots = (self.p.slot(1).unwrap() * 4 * MEMORY) as usize;
            let halves = [1, 3].map(|index: usize| {
                self.inputs[index].iter().map(|&weight| f16::from_f32(weight)).collect::<Vec<_>>()
            });
            let full: [&[u8]; 6] = std::array::from_fn(|index| bytes(&self.inputs[index]));
            let mut short = full;
            (short[1], short[3]) = (bytes(&halves[0]), bytes(&halves[1]));
            for (name, inputs) in [("conv_depthwise_f32", full), ("conv_depthwise_f16w", short)] {
                let close = |_, _, x: f32, y: f32| (x - y).abs() <= tolerance;
                check_beside_scratch(name, &self.p, &inputs, &[self.output, slots], 1, close);
            }
        }
    }

    #[test]
    fn sizes_windows_and_bands() {
        for (kernel, stride, pad) in
            [(3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (3, 1, 0), (2, 2, 1), (1, 1, 0)]
        {
            for (extents, band) in [([7, 9], 1), ([8, 15], 2), ([13, 30], 3), ([6, 5], 100)] {
                case([16, 48], extents, [kernel, stride, pad], band, |_| {}).check(0.0);
            }
        }
    }

    #[test]
    fn channels_that_fill_no_blocks() {
        for channels in [[3, 32], [24, 40], [16, 8], [5, 17], [20, 100]] {
            case(channels, [9, 11], [3, 1, 1], 2, |_| {}).check(0.0);
            case(channels, [9, 11], [3, 2, 1], 3, |_| {}).check(0.0);
        }
    }

    #[test]
    fn other_first_convolutions() {
        let change = |p: &mut ConvDepthwise| {
            (p.conv.kernel_h, p.conv.kernel_w, p.conv.stride_h, p.conv.stride_w) = (3, 3, 2, 2);
        };
        case([3, 32], [12, 13], [3, 1, 1], 4, change).check(0.0);
        case([16, 16], [5, 7], [3, 2, 1], 2, change).check(0.0);
    }

    #[test]
    fn padding_on_one_side_residuals_and_dilations() {
        for mode in [residual::BEFORE_ACTIVATION, residual::AFTER_ACTIVATION] {
            let change = |p: &mut ConvDepthwise| {
                p.depthwise.residual_mode = mode;
                p.depthwise.activation = Activation::new(ActivationKind::Clip, -6.0, 6.0);
                p.conv.activation = Activation::new(ActivationKind::Relu, 0.0, 0.0);
            };
            case([16, 40], [10, 9], [3, 1, 1], 4, change).check(0.0);
        }
        case([16, 32], [10, 9], [3, 2, 1], 2, |p| (p.pad_top, p.pad_left) = (0, 0)).check(0.0);
        case([16, 32], [10, 9], [3, 1, 1], 2, |p| (p.pad_top, p.pad_left) = (2, 0)).check(0.0);
        case([16, 32], [10, 9], [5, 1, 2], 3, |p| {
            (p.depthwise.kernel_h, p.depthwise.dilation_h) = (3, 2);
            (p.depthwise.kernel_w, p.depthwise.dilation_w) = (3, 2);
        })
        .check(0.0);
    }

    #[test]
    fn activations_that_are_no_clamps() {
        let change = |p: &mut ConvDepthwise| {
            p.conv.activation = Activation::new(ActivationKind::Silu, 0.0, 0.0);
            p.depthwise.activation = p.conv.activation;
        };
        // Sums of nine times two times at most 16 · 3 · 2 + 3, whose terms differ by 1e-6 of them.
        case([16, 40], [10, 9], [3, 2, 1], 2, change).check(9.0 * 2.0 * 99.0 * 2e-6);
    }

    #[test]
    fn an_empty_batch_is_nothing() {
        let mut case = case([16, 32], [6, 6], [3, 1, 1], 2, |_| {});
        (case.p.conv.n, case.p.depthwise.n) = (0, 0);
        case.check(0.0);
    }

    #[test]
    fn damaged_parameters_stay_in_bounds() {
        let change = |p: &mut ConvDepthwise| p.depthwise.residual_mode = residual::BEFORE_ACTIVATION;
        let case = case([16, 40], [7, 6], [3, 2, 1], 2, change);
        let inputs: [&[u8]; 6] = std::array::from_fn(|index| bytes(&case.inputs[index]));
        let slot = case.p.slot(1).unwrap() as usize * 4;
        attack("conv_depthwise_f32", &case.p, &inputs, &[case.output, slot]);
    }
}
