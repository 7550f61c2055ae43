//! `depthwise_f32`, `depthwise_f16w`: one filter a channel, on NCHW16c.
//!
//! out[n, c, y, x] = act(bias[c] + Σ in[n, c, y·sh + i·dh, x·sw + j·dw] · w[c, i, j])
//!
//! A tile is two rows of up to seven pixels of one channel block, its sums in registers; a row of tiles is one call.
//! The usual kernels (3×3 and 5×5 at stride 1 and 2) are unrolled: a row of weights is held in registers, and each
//! input vector is loaded once for all the taps of the row that meet it, so that multiplications wait for no load.
//! Other kernels walk their taps one by one, each input vector going straight from memory into a multiplication.

use half::f16;

use crate::call::{BLOCK, Depthwise, residual};
use crate::cpu::epilogue::{
    Clamp, Finish, Finishing, InPlace, chunks_for, input_extent, load_start, picture_end, validate_epilogue,
    validate_fields,
};
use crate::cpu::gemm_tile::{MAX_PANELS, MAX_VECTORS, Tiles, Weight};
use crate::cpu::share;
#[cfg(target_arch = "x86_64")]
use crate::cpu::vector::{Avx2, Avx512};
use crate::cpu::vector::{Portable, Vector};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Depthwise convolution with f32 weights; see [`Depthwise`].
pub static DEPTHWISE_F32: Kernel = Kernel {
    name: "depthwise_f32",
    validate: |call| validate(call, 4),
    chunks,
    run: per_isa!(depthwise_f32<_>),
};

/// Depthwise convolution with f16 weights; see [`Depthwise`].
pub static DEPTHWISE_F16W: Kernel = Kernel {
    name: "depthwise_f16w",
    validate: |call| validate(call, 2),
    chunks,
    run: per_isa!(depthwise_f16w<_>),
};

/// The most pixels in a row of a tile.
const PIXELS: usize = 7;

/// The fewest pixels in a row of a tile of two rows.
const TWO_ROWS: usize = 4;

pub(crate) fn validate(call: &Call<'_>, weight_bytes: u64) -> Result<(), Invalid> {
    let p: &Depthwise = call.params()?;
    call.expect_operands(5)?;
    validate_fields(p)?;
    if p.in_channels != 1 || p.out_channels != 1 {
        return Err(Invalid("depthwise with more than one channel a group"));
    }
    let block = BLOCK as u64;
    let blocks = p.groups.div_ceil(block);
    if p.n == 0 || blocks == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    let taps = p.kernel_h * p.kernel_w;
    let (in_h, in_w) = input_extent(p);
    call.expect_elements(0, picture_end(&p.input, p.n, blocks, [in_h, in_w], [block, block]), 4)?;
    call.expect_elements(1, blocks.checked_mul(taps).and_then(|n| n.checked_mul(block)), weight_bytes)?;
    validate_epilogue(call, p, blocks, p.groups - (blocks - 1) * block, p.groups)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &Depthwise = args.params();
    let work =
        [p.groups, p.kernel_h, p.kernel_w, p.out_h, p.out_w].into_iter().fold(p.n, u64::saturating_mul);
    // A multiplication takes about twice what it takes in a convolution.
    chunks_for(work.saturating_mul(2), threads)
}

#[inline(always)]
unsafe fn depthwise_f32<V: Sums>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { depthwise::<V, f32>(args, chunk, chunks) };
    Ok(())
}

#[inline(always)]
unsafe fn depthwise_f16w<V: Sums>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { depthwise::<V, f16>(args, chunk, chunks) };
    Ok(())
}

/// The operands of a row of tiles, distances in elements.
struct Tile<'a, W> {
    /// The first tap of the first pixel.
    input: *const f32,
    /// Between pixels and rows of the output, in the input.
    steps: [usize; 2],
    /// Between taps.
    taps: [usize; 2],
    kernel: [usize; 2],
    weights: *const W,
    start: &'a [f32; MAX_PANELS * BLOCK],
    residual: *const f32,
    residual_steps: [usize; 2],
    out: *mut f32,
    out_steps: [usize; 2],
    low: f32,
    high: f32,
}

impl<W> Tile<'_, W> {
    /// Moves on by `pixels`.
    #[inline(always)]
    fn advance(&mut self, pixels: usize) {
        self.input = self.input.wrapping_add(pixels * self.steps[0]);
        self.out = self.out.wrapping_add(pixels * self.out_steps[0]);
        self.residual = match self.residual.is_null() {
            true => self.residual,
            false => self.residual.wrapping_add(pixels * self.residual_steps[0]),
        };
    }
}

/// The kernels that have code of their own, on pictures whose pixels follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Three1,
    Three2,
    Five1,
    Five2,
    Any,
}

impl Shape {
    fn new(p: &Depthwise) -> Self {
        let dense = p.input.stride_w == BLOCK as u64 && (p.dilation_h, p.dilation_w) == (1, 1);
        match (p.kernel_h, p.kernel_w, p.stride_w) {
            (3, 3, 1) if dense => Shape::Three1,
            (3, 3, 2) if dense => Shape::Three2,
            (5, 5, 1) if dense => Shape::Five1,
            (5, 5, 2) if dense => Shape::Five2,
            _ => Shape::Any,
        }
    }
}

/// The groups of rows of a chunk, each with its picture: of every picture the same, where `by_rows` says so and there are
/// enough, since convolutions of large pictures are mostly split like that and leave them near; else of some pictures all.
#[inline(always)]
fn row_groups_of(
    chunk: usize,
    chunks: usize,
    pictures: usize,
    row_groups: usize,
    by_rows: bool,
) -> impl Iterator<Item = (usize, usize)> {
    let by_rows = by_rows && row_groups >= 4 * chunks;
    let units = share(pictures * row_groups, chunk, chunks);
    let some = units.start / row_groups..units.end.div_ceil(row_groups);
    let pictures = if by_rows { 0..pictures } else { some };
    pictures.flat_map(move |picture| {
        let before = picture * row_groups;
        let groups = match by_rows {
            true => share(row_groups, chunk, chunks),
            false => units.start.max(before) - before..units.end.min(before + row_groups) - before,
        };
        groups.map(move |group| (picture, group))
    })
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn depthwise<V: Sums, W: Weight>(args: &Args<'_>, chunk: usize, chunks: usize) {
    let p: &Depthwise = args.params();
    let channels = p.groups as usize;
    let (n, h, w) = (p.n as usize, p.out_h as usize, p.out_w as usize);
    if n == 0 || channels == 0 || h == 0 || w == 0 {
        return;
    }
    let blocks = channels.div_ceil(BLOCK);
    let shape = Shape::new(p);
    // The first `wider` tiles of a row have one pixel more than the others.
    let tiles_w = w.div_ceil(V::widest(shape));
    let (width, wider) = (w / tiles_w, w % tiles_w);
    let rows = if V::PIXELS >= 2 * PIXELS && width >= TWO_ROWS { 2 } else { 1 };
    let row_groups = h.div_ceil(rows);
    let taps = p.kernel_h as usize * p.kernel_w as usize;
    let [input, weights, bias, added, output] = [0, 1, 2, 3, 4].map(|index| args.operands[index]);
    let clamp = Clamp::new(p);
    let (low, high) = clamp.unwrap_or(Clamp::NONE).bounds();
    // Wrapping, because a distance along an extent of 1 may be anything.
    let step = |stride: u64, view: u64| stride.wrapping_mul(view) as usize;
    let steps = [step(p.stride_w, p.input.stride_w), step(p.stride_h, p.input.stride_h)];
    let tap_steps = [step(p.dilation_w, p.input.stride_w), step(p.dilation_h, p.input.stride_h)];
    let out_steps = [p.output.stride_w as usize, p.output.stride_h as usize];
    let residual_steps = [p.residual.stride_w as usize, p.residual.stride_h as usize];
    let mut scratch = [0.0_f32; MAX_VECTORS * BLOCK];
    let mut start = [0.0_f32; MAX_PANELS * BLOCK];
    let mut loaded = None;
    for (picture, group) in row_groups_of(chunk, chunks, n * blocks, row_groups, h * w > channels) {
        let (image, block) = (picture / blocks, picture % blocks);
        let y = group * rows;
        let rows = rows.min(h - y);
        let lanes = (channels - block * BLOCK).min(BLOCK);
        if loaded != Some(block) {
            // SAFETY: the bias, where there is one, has all channels.
            unsafe { load_start(&mut start, bias.ptr(), bias.bytes > 0, block * BLOCK, lanes) };
            loaded = Some(block);
        }
        let origin = |view: &crate::call::View, steps: [usize; 2]| {
            view.offset as usize
                + image * view.stride_n as usize
                + block * view.stride_c as usize
                + y * steps[1]
        };
        let (in_row, out_row, residual_row) = (
            origin(&p.input, steps),
            origin(&p.output, out_steps),
            if p.residual_mode == residual::NONE { 0 } else { origin(&p.residual, residual_steps) },
        );
        let mut residual = added.ptr::<f32>().cast_const().wrapping_add(residual_row);
        let mut call = Tile {
            input: input.ptr::<f32>().cast_const().wrapping_add(in_row),
            steps,
            taps: tap_steps,
            kernel: [p.kernel_w as usize, p.kernel_h as usize],
            weights: weights.ptr::<W>().cast_const().wrapping_add(block * taps * BLOCK),
            start: &start,
            residual: std::ptr::null(),
            residual_steps,
            out: output.ptr::<f32>().wrapping_add(out_row),
            out_steps,
            low,
            high,
        };
        // Without a residual, other activations find the sums in the output, which is still in the first-level cache.
        let activated = clamp.is_none() && p.residual_mode == residual::NONE;
        if (clamp.is_some() || activated) && lanes == BLOCK {
            if p.residual_mode == residual::BEFORE_ACTIVATION {
                call.residual = residual;
            }
            // SAFETY: validation bounded what the tiles read and writes; `V` is the instruction set of the caller.
            unsafe {
                if wider > 0 {
                    run::<V, W>(&call, shape, rows, width + 1, wider);
                    call.advance(wider * (width + 1));
                }
                run::<V, W>(&call, shape, rows, width, tiles_w - wider);
                if activated {
                    let out = output.ptr::<f32>().wrapping_add(out_row);
                    let activation = &p.activation;
                    V::activate(&InPlace { activation, rows, width: w, out, steps: out_steps });
                }
            }
            continue;
        }
        // The clamp may come after a residual.
        (call.low, call.high) = Clamp::NONE.bounds();
        let mut out = call.out;
        for tile in 0..tiles_w {
            let width = width + usize::from(tile < wider);
            call.out = scratch.as_mut_ptr();
            call.out_steps = [BLOCK, width * BLOCK];
            let finish = Finish {
                shape: [1, rows, width],
                lanes,
                padded: p.output_padded == 1,
                residual_mode: p.residual_mode,
                activation: p.activation,
                residual,
                residual_steps: [0, residual_steps[1], residual_steps[0]],
                out,
                out_steps: [0, out_steps[1], out_steps[0]],
            };
            // SAFETY: as above; the scratch holds the largest tile.
            unsafe {
                run::<V, W>(&call, shape, rows, width, 1);
                V::finish(&finish, &mut scratch);
            }
            call.input = call.input.wrapping_add(width * steps[0]);
            residual = residual.wrapping_add(width * residual_steps[0]);
            out = out.wrapping_add(width * out_steps[0]);
        }
    }
}

/// The instances of an instruction set.
trait Sums: Tiles + Finishing {
    /// The most pixels in a row of a tile: as many as leave registers for a row of weights.
    fn widest(shape: Shape) -> usize;

    /// [`sum`] as a function of its own: the variables of all instances, in one frame of an unoptimised program, take
    /// more than a thread's stack.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set; every element that the tiles describe is readable, and writable for
    /// the output.
    unsafe fn tile_sum<W: Weight, const K: usize, const S: usize, const ROWS: usize, const M: usize>(
        t: &Tile<'_, W>,
        count: usize,
    );
}

macro_rules! sums {
    ($vector:ident $([$features:literal])?, $shape:ident => $widest:expr) => {
        impl Sums for $vector {
            fn widest($shape: Shape) -> usize {
                let _ = $shape;
                $widest
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn tile_sum<
                W: Weight,
                const K: usize,
                const S: usize,
                const ROWS: usize,
                const M: usize,
            >(
                t: &Tile<'_, W>,
                count: usize,
            ) {
                // SAFETY: the contract is passed on.
                unsafe { sum::<$vector, W, K, S, ROWS, M>(t, count) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
sums!(Avx512["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"], shape => PIXELS);

#[cfg(target_arch = "x86_64")]
sums!(Avx2["avx2,fma,f16c"], shape => match shape {
    Shape::Five2 => 3,
    Shape::Any => Avx2::PIXELS,
    _ => 4,
});

sums!(Portable, shape => Portable::PIXELS.min(PIXELS));

/// Chooses the instance for `count` tiles of `rows` × `width`.
#[inline(always)]
unsafe fn run<V: Sums, W: Weight>(t: &Tile<'_, W>, shape: Shape, rows: usize, width: usize, count: usize) {
    macro_rules! by_shape {
        ($rows:literal, $m:literal) => {
            // SAFETY: the caller's promise.
            unsafe {
                match shape {
                    Shape::Three1 => V::tile_sum::<W, 3, 1, $rows, $m>(t, count),
                    Shape::Three2 => V::tile_sum::<W, 3, 2, $rows, $m>(t, count),
                    Shape::Five1 => V::tile_sum::<W, 5, 1, $rows, $m>(t, count),
                    Shape::Five2 => V::tile_sum::<W, 5, 2, $rows, $m>(t, count),
                    Shape::Any => V::tile_sum::<W, 0, 0, $rows, $m>(t, count),
                }
            }
        };
    }
    match (rows, width) {
        (1, 1) => by_shape!(1, 1),
        (1, 2) => by_shape!(1, 2),
        (1, 3) => by_shape!(1, 3),
        (1, 4) => by_shape!(1, 4),
        (1, 5) => by_shape!(1, 5),
        (1, 6) => by_shape!(1, 6),
        (1, 7) => by_shape!(1, 7),
        (2, 4) => by_shape!(2, 4),
        (2, 5) => by_shape!(2, 5),
        (2, 6) => by_shape!(2, 6),
        (2, 7) => by_shape!(2, 7),
        _ => unreachable!("no tile of {rows} × {width}"),
    }
}

/// `count` tiles beside each other; `K` × `K` taps at stride `S`, or any where they are 0.
#[inline(always)]
unsafe fn sum<
    V: Tiles + Finishing,
    W: Weight,
    const K: usize,
    const S: usize,
    const ROWS: usize,
    const M: usize,
>(
    t: &Tile<'_, W>,
    count: usize,
) {
    if ROWS * M > V::PIXELS {
        // Never chosen; leaves out instances that do not fit the registers.
        return;
    }
    let mut t = Tile { ..*t };
    for _ in 0..count {
        // SAFETY: the caller's promise, for every pointer below.
        unsafe {
            let mut sums = [[V::load(t.start.as_ptr()); M]; ROWS];
            if K == 0 {
                any_taps(&t, &mut sums);
            } else {
                square_taps::<V, W, K, S, ROWS, M>(&t, &mut sums);
            }
            let (low, high) = (V::splat(t.low), V::splat(t.high));
            for (row, sums) in sums.into_iter().enumerate() {
                for (m, mut value) in sums.into_iter().enumerate() {
                    if !t.residual.is_null() {
                        let at = row * t.residual_steps[1] + m * t.residual_steps[0];
                        value = value + V::load(t.residual.add(at));
                    }
                    let at = row * t.out_steps[1] + m * t.out_steps[0];
                    high.min(low.max(value)).store(t.out.add(at));
                }
            }
        }
        t.advance(M);
    }
}

/// The taps of any kernel, one by one.
///
/// # Safety
///
/// As for [`Sums::tile_sum`].
#[inline(always)]
unsafe fn any_taps<V: Vector, W: Weight, const ROWS: usize, const M: usize>(
    t: &Tile<'_, W>,
    sums: &mut [[V; M]; ROWS],
) {
    let mut weights = t.weights;
    for i in 0..t.kernel[1] {
        let mut from = t.input.wrapping_add(i * t.taps[1]);
        for _ in 0..t.kernel[0] {
            // SAFETY: the caller's promise.
            unsafe {
                let weight = W::load::<V>(weights);
                weights = weights.add(BLOCK);
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (m, sum) in sums.iter_mut().enumerate() {
                        let x = V::load(from.add(row * t.steps[1] + m * t.steps[0]));
                        *sum = x.mul_add(weight, *sum);
                    }
                }
            }
            from = from.wrapping_add(t.taps[0]);
        }
    }
}

/// Writes a statement once for each number.
macro_rules! unrolled {
    ($name:ident in [$($number:literal)*] $body:block) => {
        $({
            const $name: usize = $number;
            $body
        })*
    };
}

/// The taps of a kernel of `K` × `K` ≤ 5 × 5 at stride `S` ≤ 2, row by row.
///
/// # Safety
///
/// As for [`Sums::tile_sum`].
#[inline(always)]
unsafe fn square_taps<
    V: Vector,
    W: Weight,
    const K: usize,
    const S: usize,
    const ROWS: usize,
    const M: usize,
>(
    t: &Tile<'_, W>,
    sums: &mut [[V; M]; ROWS],
) {
    for i in 0..K {
        // SAFETY: the caller's promise, for every pointer below.
        unsafe {
            let weights: [V; K] = std::array::from_fn(
                #[inline(always)]
                |j| W::load::<V>(t.weights.add((i * K + j) * BLOCK)),
            );
            for (row, sums) in sums.iter_mut().enumerate() {
                let from = t.input.add(i * t.taps[1] + row * t.steps[1]);
                // Written out, since the sums must not be addressed by a variable.
                unrolled!(COLUMN in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16] {
                    if COLUMN < S * (M - 1) + K {
                        let x = V::load(from.add(COLUMN * BLOCK));
                        unrolled!(TAP in [0 1 2 3 4] {
                            if TAP < K && COLUMN + 1 > TAP && (COLUMN - TAP).is_multiple_of(S) {
                                let m = (COLUMN - TAP) / S;
                                if m < M {
                                    sums[m] = x.mul_add(weights[TAP], sums[m]);
                                }
                            }
                        });
                    }
                });
            }
        }
    }
}
