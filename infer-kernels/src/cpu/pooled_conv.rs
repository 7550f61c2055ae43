//! `pooled_conv_f32`: a convolution of a picture of few channels, of which the greatest of every 2×2 outputs are kept.
//!
//! out[n, o, y, x] = act(max over a, b ∈ {0, 1} of bias[o] + Σ in[n, c, 2y + a + i, 2x + b + j] · w[o, c, i, j])
//!
//! A tile is two rows of convolution outputs of one panel, whose sums stay in registers until they are pooled, so that
//! what is pooled is never written. Loop order: channels; rows of the input, each with a row of taps for either row of
//! sums, held in registers; columns, each element going into all the sums that it meets. `pooled_conv_rows` has other
//! tiles for few channels. Chunks share the rows of the output.

use crate::call::{BLOCK, PooledConv, residual};
use crate::cpu::epilogue::{Clamp, chunks_for, load_start, picture_end, validate_epilogue, validate_fields};
use crate::cpu::gemm_tile::MAX_PANELS;
use crate::cpu::pool::greater;
use crate::cpu::pooled_conv_rows::{self, Rows};
use crate::cpu::share;
#[cfg(target_arch = "x86_64")]
use crate::cpu::vector::{Avx2, Avx512};
use crate::cpu::vector::{Portable, Vector};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Convolution and pooling in one; see [`PooledConv`].
pub static POOLED_CONV_F32: Kernel =
    Kernel { name: "pooled_conv_f32", validate, chunks, run: per_isa!(pooled_conv_f32<_>) };

fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &PooledConv = call.params()?;
    call.expect_operands(5)?;
    validate_fields(p)?;
    let steps = [p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.groups];
    if p.kernel_h != p.kernel_w || !matches!(p.kernel_h, 3 | 5) || steps != [1; 5] || p.weights_stride_n != 0
    {
        return Err(Invalid("not a convolution of 3×3 or 5×5 at stride 1 with one set of weights"));
    }
    if p.in_channels == 0 || p.in_channels != p.in_block || p.in_block > BLOCK as u64 {
        return Err(Invalid("input that is not one block of its own width"));
    }
    if p.output_padded != 1 || p.residual_mode != residual::NONE || Clamp::new(p).is_none() {
        return Err(Invalid("output of parts of blocks, a residual, or an activation that is no clamp"));
    }
    let panels = p.out_channels.div_ceil(BLOCK as u64);
    if p.n == 0 || panels == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    let extent = [p.out_h, p.out_w].map(|pooled| 2 * pooled + p.kernel_h - 1);
    call.expect_elements(0, picture_end(&p.input, p.n, 1, extent, [p.in_block; 2]), 4)?;
    let weights = [p.in_channels, p.kernel_h, p.kernel_w, BLOCK as u64];
    call.expect_elements(1, weights.into_iter().try_fold(panels, u64::checked_mul), 4)?;
    validate_epilogue(call, p, panels, p.out_channels - (panels - 1) * BLOCK as u64, p.out_channels)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &PooledConv = args.params();
    let factors = [p.n, p.in_channels, p.out_channels, p.kernel_h, p.kernel_w, p.out_h, p.out_w];
    chunks_for(factors.into_iter().fold(4, u64::saturating_mul), threads)
}

/// The operands of a tile, distances in elements.
pub(super) struct Tile {
    /// The first tap of the first output.
    pub(super) input: *const f32,
    /// Between pixels, which is the number of channels, and between rows.
    pub(super) steps: [usize; 2],
    pub(super) weights: *const f32,
    pub(super) start: *const f32,
    /// Channels of the panel that exist.
    pub(super) lanes: usize,
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) out: *mut f32,
    pub(super) out_step: usize,
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn pooled_conv_f32<V: Sums>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &PooledConv = args.params();
    let (out_h, out_w) = (p.out_h as usize, p.out_w as usize);
    let panels = (p.out_channels as usize).div_ceil(BLOCK);
    if out_w == 0 {
        return Ok(());
    }
    let [input, weights, bias, _, output] = [0, 1, 2, 3, 4].map(|index| args.operands[index]);
    let (low, high) = Clamp::new(p).unwrap_or(Clamp::NONE).bounds();
    let panel_weights = p.in_channels as usize * (p.kernel_h * p.kernel_w) as usize * BLOCK;
    let mut start = [0.0_f32; MAX_PANELS * BLOCK];
    for unit in share(p.n as usize * panels * out_h, chunk, chunks) {
        let (picture, y) = (unit / out_h, unit % out_h);
        let (image, panel) = (picture / panels, picture % panels);
        let lanes = (p.out_channels as usize - panel * BLOCK).min(BLOCK);
        // SAFETY: the bias, where there is one, has all channels.
        unsafe { load_start(&mut start, bias.ptr(), bias.bytes > 0, panel * BLOCK, lanes) };
        let in_row =
            p.input.offset as usize + image * p.input.stride_n as usize + 2 * y * p.input.stride_h as usize;
        let out_row = p.output.offset as usize
            + image * p.output.stride_n as usize
            + panel * p.output.stride_c as usize
            + y * p.output.stride_h as usize;
        let tile_from = |x: usize| Tile {
            input: input.ptr::<f32>().cast_const().wrapping_add(in_row + 2 * x * p.input.stride_w as usize),
            steps: [p.input.stride_w as usize, p.input.stride_h as usize],
            weights: weights.ptr::<f32>().cast_const().wrapping_add(panel * panel_weights),
            start: start.as_ptr(),
            lanes,
            low,
            high,
            out: output.ptr::<f32>().wrapping_add(out_row + x * p.output.stride_w as usize),
            out_step: p.output.stride_w as usize,
        };
        let is_row = lanes <= pooled_conv_rows::CHANNELS && p.in_channels == 1 && p.input.stride_w == 1;
        if V::IS_FASTER && is_row {
            for x in (0..out_w).step_by(pooled_conv_rows::WIDEST) {
                let (tile, width) = (tile_from(x), (out_w - x).min(pooled_conv_rows::WIDEST));
                // SAFETY: as below; no column is read that no output needs.
                unsafe {
                    match p.kernel_h {
                        3 => V::row::<3>(&tile, width),
                        _ => V::row::<5>(&tile, width),
                    }
                }
            }
            continue;
        }
        let is_half = lanes <= BLOCK / 2;
        let tiles = out_w.div_ceil(if is_half { V::WIDEST_HALF } else { V::WIDEST });
        for tile in 0..tiles {
            let part = share(out_w, tile, tiles);
            let tile = tile_from(part.start);
            let channels = p.in_channels as usize;
            // SAFETY: validation bounded what the tile reads and writes, a whole block for every output; `V` is the
            // instruction set of the caller.
            unsafe {
                match (p.kernel_h, is_half) {
                    (3, true) => run::<V, 3, true>(&tile, channels, part.len()),
                    (3, false) => run::<V, 3, false>(&tile, channels, part.len()),
                    (_, true) => run::<V, 5, true>(&tile, channels, part.len()),
                    (_, false) => run::<V, 5, false>(&tile, channels, part.len()),
                }
            }
        }
    }
    Ok(())
}

/// Chooses the instance for `width` outputs.
#[inline(always)]
unsafe fn run<V: Sums, const K: usize, const HALF: bool>(tile: &Tile, channels: usize, width: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match width {
            1 => V::tile::<K, 2, HALF>(tile, channels),
            2 => V::tile::<K, 4, HALF>(tile, channels),
            3 => V::tile::<K, 6, HALF>(tile, channels),
            4 => V::tile::<K, 8, HALF>(tile, channels),
            5 => V::tile::<K, 10, HALF>(tile, channels),
            _ => unreachable!("no tile of {width} outputs"),
        }
    }
}

/// The instances of an instruction set.
trait Sums: Rows {
    /// The most outputs in a tile: as many as leave registers for two rows of taps.
    const WIDEST: usize;
    /// The same of at most eight channels.
    const WIDEST_HALF: usize;

    /// [`sum`] as a function of its own, for the frames of unoptimised programs.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set; every element that the tile describes is readable, and writable for the
    /// output.
    unsafe fn tile<const K: usize, const M: usize, const HALF: bool>(t: &Tile, channels: usize);
}

macro_rules! sums {
    ($vector:ident $([$features:literal])?, $widest:literal, half $half:literal) => {
        impl Sums for $vector {
            const WIDEST: usize = $widest;
            const WIDEST_HALF: usize = $half;

            $(#[target_feature(enable = $features)])?
            unsafe fn tile<const K: usize, const M: usize, const HALF: bool>(t: &Tile, channels: usize) {
                if M / 2 <= if HALF { $half } else { $widest } {
                    // SAFETY: the contract is passed on.
                    unsafe { sum::<$vector, K, M, HALF>(t, channels) }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
sums!(Avx512["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"], 5, half 5);
#[cfg(target_arch = "x86_64")]
sums!(Avx2["avx2,fma,f16c"], 1, half 2);
sums!(Portable, 1, half 1);

/// Writes a statement once for each number.
macro_rules! unrolled {
    ($name:ident in [$($number:literal)*] $body:block) => {
        $({
            const $name: usize = $number;
            $body
        })*
    };
}
pub(super) use unrolled;

/// A tile of 2 × `M` outputs of a convolution with `K` × `K` taps; with `HALF`, of eight channels.
///
/// # Safety
///
/// As for [`Sums::tile`].
#[inline(always)]
unsafe fn sum<V: Vector, const K: usize, const M: usize, const HALF: bool>(t: &Tile, channels: usize) {
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        let mut sums = [[V::load(t.start); M]; 2];
        let row_of_taps = K * channels * BLOCK;
        for channel in 0..channels {
            let input = t.input.add(channel);
            let weights = t.weights.add(channel * BLOCK);
            add_row::<V, K, M, HALF, true, false>(t, input, [weights; 2], channels, &mut sums);
            for i in 1..K {
                let taps = [weights.add(i * row_of_taps), weights.add((i - 1) * row_of_taps)];
                let input = input.add(i * t.steps[1]);
                add_row::<V, K, M, HALF, true, true>(t, input, taps, channels, &mut sums);
            }
            let taps = [weights.add((K - 1) * row_of_taps); 2];
            let input = input.add(K * t.steps[1]);
            add_row::<V, K, M, HALF, false, true>(t, input, taps, channels, &mut sums);
        }
        let (low, high) = (V::splat(t.low), V::splat(t.high));
        for m in 0..M / 2 {
            let above = greater(sums[0][2 * m], sums[0][2 * m + 1]);
            let below = greater(sums[1][2 * m], sums[1][2 * m + 1]);
            let value = high.min(low.max(greater(above, below)));
            let out = t.out.add(m * t.out_step);
            if HALF && t.lanes == BLOCK / 2 {
                value.keep_low().store(out);
            } else if t.lanes == BLOCK {
                value.store(out);
            } else {
                value.keep_first(t.lanes).store(out);
            }
        }
    }
}

/// A row of the input times a row of taps for the first row of sums (`FIRST`), and another for the `SECOND`.
///
/// # Safety
///
/// As for [`Sums::tile`].
#[allow(unused_assignments, reason = "after the last column, nobody asks for the next")]
#[inline(always)]
unsafe fn add_row<
    V: Vector,
    const K: usize,
    const M: usize,
    const HALF: bool,
    const FIRST: bool,
    const SECOND: bool,
>(
    t: &Tile,
    input: *const f32,
    taps: [*const f32; 2],
    channels: usize,
    sums: &mut [[V; M]; 2],
) {
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        let mut weights = [[V::splat(0.0); K]; 2];
        for (row, weights) in weights.iter_mut().enumerate() {
            if [FIRST, SECOND][row] {
                for (j, weight) in weights.iter_mut().enumerate() {
                    *weight = V::load(taps[row].add(j * channels * BLOCK));
                }
            }
        }
        let mut from = input;
        // Written out, since the sums must not be addressed by a variable.
        unrolled!(COLUMN in [0 1 2 3 4 5 6 7 8 9 10 11 12 13] {
            if COLUMN < M - 1 + K {
                let x = V::splat(*from);
                from = from.wrapping_add(t.steps[0]);
                unrolled!(TAP in [0 1 2 3 4] {
                    if TAP < K && (TAP..TAP + M).contains(&COLUMN) {
                        let m = usize::wrapping_sub(COLUMN, TAP);
                        if FIRST {
                            sums[0][m] = product::<V, HALF>(x, weights[0][TAP], sums[0][m]);
                        }
                        if SECOND {
                            sums[1][m] = product::<V, HALF>(x, weights[1][TAP], sums[1][m]);
                        }
                    }
                });
            }
        });
    }
}

#[inline(always)]
fn product<V: Vector, const HALF: bool>(x: V, weight: V, sum: V) -> V {
    if HALF { x.mul_add_low(weight, sum) } else { x.mul_add(weight, sum) }
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::{Activation, ActivationKind, Conv, PooledConv, View};
    use crate::cpu::testing::{Random, attack, bytes, check_f32, run_everywhere};

    struct Case {
        p: PooledConv,
        input: Vec<f32>,
        weights: Vec<f32>,
        bias: Vec<f32>,
        output: usize,
    }

    /// Channels in and out, kernel, extents of the output.
    fn case([input, output]: [u64; 2], kernel: u64, [h, w]: [u64; 2]) -> Case {
        let (rows, columns) = (2 * h + kernel - 1, 2 * w + kernel + 1);
        let panels = output.div_ceil(16);
        let view = |channels: u64, blocks: u64, h: u64, w: u64, offset: u64| View {
            offset,
            stride_n: blocks * h * w * channels,
            stride_c: h * w * channels,
            stride_h: w * channels,
            stride_w: channels,
        };
        let p = Conv {
            n: 2,
            groups: 1,
            in_channels: input,
            in_block: input,
            out_channels: output,
            output_padded: 1,
            out_h: h,
            out_w: w,
            kernel_h: kernel,
            kernel_w: kernel,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            input: view(input, 1, rows, columns, 0),
            output: view(16, panels, h + 1, w + 2, 16),
            activation: Activation::new(ActivationKind::Relu, 0.0, 0.0),
            ..Conv::default()
        };
        let mut random = Random::new(input * 7 + output + w);
        Case {
            p,
            input: random.whole((2 * p.input.stride_n) as usize, 9),
            weights: random.whole((panels * input * kernel * kernel * 16) as usize, 9),
            bias: random.whole(output as usize, 9),
            output: (16 + 2 * p.output.stride_n) as usize * 4,
        }
    }

    impl Case {
        fn check(&self) {
            let inputs = [bytes(&self.input), bytes(&self.weights), bytes(&self.bias), &[]];
            // Whole numbers: sums are exact in any order.
            check_f32("pooled_conv_f32", &self.p, &inputs, &[self.output], |_| 0.0);
        }
    }

    #[test]
    fn sizes_around_every_tile_edge() {
        for kernel in [3, 5] {
            for width in 1..=16 {
                case([1, if width % 2 == 0 { 8 } else { 16 }], kernel, [1 + width % 3, width]).check();
            }
        }
    }

    #[test]
    fn widths_around_every_vector_edge() {
        for kernel in [3, 5] {
            for width in 1..=40 {
                case([1, 1 + width % 8], kernel, [1 + width % 3, width]).check();
                case([1, 8], kernel, [1, width]).check();
            }
        }
    }

    #[test]
    fn inputs_that_are_not_contiguous() {
        for width in [7, 20] {
            let mut case = case([1, 8], 5, [2, width]);
            case.p.input.stride_w = 2;
            case.p.input.stride_h *= 2;
            case.p.input.stride_n *= 2;
            case.input = Random::new(width).whole((2 * case.p.input.stride_n) as usize, 9);
            case.check();
        }
    }

    #[test]
    fn channels_and_activations() {
        for channels in [[1, 1], [1, 5], [1, 8], [2, 7], [3, 8], [3, 9], [4, 16], [16, 24], [1, 24], [1, 33]]
        {
            let mut case = case(channels, if channels[0] == 3 { 3 } else { 5 }, [3, 7]);
            case.check();
            case.p.activation = Activation::new(ActivationKind::Clip, -20.0, 90.0);
            case.check();
            (case.p.activation, case.bias) = (Activation::NONE, Vec::new());
            case.check();
        }
    }

    #[test]
    fn nan_and_infinities_are_kept() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 5, 31, 70] {
                for channels in [6, 8, 12] {
                    for width in [6, 14, 20] {
                        let mut case = case([1, channels], 3, [4, width]);
                        case.input[at] = special;
                        case.p.activation = Activation::NONE;
                        case.check();
                    }
                }
            }
        }
    }

    #[test]
    fn empty_calls_write_nothing() {
        let p = case([1, 8], 5, [2, 2]).p;
        for p in [
            Conv { n: 0, ..p },
            Conv { out_h: 0, ..p },
            Conv { out_w: 0, ..p },
            Conv { out_channels: 0, ..p },
        ] {
            run_everywhere("pooled_conv_f32", &p, &[&[], &[], &[], &[]], &[64], |_, outputs| {
                assert!(outputs.iter().flatten().all(|&byte| byte == 0xFF));
            });
        }
    }

    #[test]
    fn hostile_calls() {
        for (channels, [h, w]) in [([3, 24], [3, 5]), ([1, 8], [3, 5]), ([1, 7], [2, 14]), ([1, 8], [2, 19])]
        {
            let mut case = case(channels, 3, [h, w]);
            case.p.output.offset = 0;
            let panels = channels[1].div_ceil(16);
            let end = case.p.output.end(2, panels, h, w, 16).unwrap() as usize * 4;
            let inputs = [bytes(&case.input), bytes(&case.weights), bytes(&case.bias), &[]];
            attack("pooled_conv_f32", &case.p, &inputs, &[end]);
        }
    }
}
