//! Pooling on NCHW16c and, for any rank to 3, on row-major tensors.
//!
//! out[y, x] = ⊕ᵢⱼ in[y·stride + i·dilation − pad, x·stride + j·dilation − pad] over the taps inside the picture.
//!
//! Windows are clipped to the picture before their taps are walked, so no tap is tested. A window with no tap inside has
//! the greatest element −∞ and the average and norm 0. NaN in a window makes the result NaN. Chunks share the rows of
//! the output.

use super::bounds::{WindowAxis, expect_view, product, split};
use super::share;
use super::vector::Vector;
use crate::call::{BLOCK, Pool, PoolNd, View};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Partial results of one output pixel, so that a tap need not wait for the one before.
const CHAINS: usize = 4;

impl Pool {
    /// Rows and columns as window axes.
    fn axes(&self) -> [WindowAxis; 2] {
        let axis = |i: usize, input, output| WindowAxis {
            input,
            output,
            kernel: self.kernel[i],
            stride: self.stride[i],
            dilation: self.dilation[i],
            pad_begin: self.pad_begin[i],
        };
        [axis(0, self.in_h, self.out_h), axis(1, self.in_w, self.out_w)]
    }
}

impl PoolNd {
    /// The spatial axes as window axes.
    fn axes(&self) -> [WindowAxis; 3] {
        std::array::from_fn(|i| WindowAxis {
            input: self.input[i],
            output: self.output[i],
            kernel: self.kernel[i],
            stride: self.stride[i],
            dilation: self.dilation[i],
            pad_begin: self.pad_begin[i],
        })
    }
}

/// The number of the first element of a pixel.
#[inline(always)]
pub(super) fn at(view: &View, n: usize, block: usize, row: usize, column: usize) -> usize {
    view.offset as usize
        + n * view.stride_n as usize
        + block * view.stride_c as usize
        + row * view.stride_h as usize
        + column * view.stride_w as usize
}

/// The greater lanes of two, NaN where either is.
#[inline(always)]
pub(super) fn greater<V: Vector>(a: V, b: V) -> V {
    // `max` gives its argument where there is a NaN, so that of `a` stays; that of `b` is selected.
    V::select(b.eq(b), b.max(a), b)
}

/// Pools sixteen channels over the taps `rows` × `columns`, from `from` on.
///
/// # Safety
///
/// The processor has the instruction set of `V`; all taps are readable.
#[inline(always)]
unsafe fn window<V: Vector, const MAX: bool>(
    from: *const f32,
    rows: usize,
    columns: usize,
    step_h: usize,
    step_w: usize,
) -> V {
    let join = |a: V, b: V| if MAX { greater(a, b) } else { a + b };
    // SAFETY: the caller's promises; taps are at `i` < `rows` and `j` < `columns` alone.
    unsafe {
        let mut chains = [V::splat(if MAX { f32::NEG_INFINITY } else { 0.0 }); CHAINS];
        for i in 0..rows {
            let row = from.add(i * step_h);
            let whole = columns / CHAINS * CHAINS;
            for j in (0..whole).step_by(CHAINS) {
                for (chain, value) in chains.iter_mut().enumerate() {
                    *value = join(*value, V::load(row.add((j + chain) * step_w)));
                }
            }
            for j in whole..columns {
                chains[0] = join(chains[0], V::load(row.add(j * step_w)));
            }
        }
        if columns < CHAINS {
            chains[0]
        } else {
            join(join(chains[0], chains[1]), join(chains[2], chains[3]))
        }
    }
}

#[inline(always)]
unsafe fn pool<V: Vector, const MAX: bool>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p = args.params::<Pool>();
    if p.n == 0 || p.blocks == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    let [axis_h, axis_w] = p.axes();
    let (blocks, out_h, out_w) = (p.blocks as usize, p.out_h as usize, p.out_w as usize);
    let input = args.operands[0].ptr::<f32>().cast_const();
    let output = args.operands[1].ptr::<f32>();
    // A step of one window is used between taps that are both inside the picture, so it fits.
    let step_h = (p.dilation[0] as usize).wrapping_mul(p.input.stride_h as usize);
    let step_w = (p.dilation[1] as usize).wrapping_mul(p.input.stride_w as usize);
    let interior = axis_w.interior();
    for item in share(p.n as usize * blocks * out_h, chunk, chunks) {
        let (y, block, n) = (item % out_h, item / out_h % blocks, item / out_h / blocks);
        let rows = axis_h.taps(y);
        let to = at(&p.output, n, block, y, 0);
        let padded_h = axis_h.padded_taps(y, p.pad_end[0]);
        for x in 0..out_w {
            let columns = if interior.contains(&x) { 0..p.kernel[1] as usize } else { axis_w.taps(x) };
            let taps = rows.len() * columns.len();
            // SAFETY: the taps lie inside the picture, which lies inside the input, and the output pixel inside the
            // output (`validate`); views do not overlap themselves, so no other chunk has this row.
            unsafe {
                let mut out = V::splat(if MAX { f32::NEG_INFINITY } else { 0.0 });
                if taps > 0 {
                    let row = axis_h.position(y, rows.start) as usize;
                    let column = axis_w.position(x, columns.start) as usize;
                    let from = at(&p.input, n, block, row, column);
                    out = window::<V, MAX>(input.add(from), rows.len(), columns.len(), step_h, step_w);
                }
                if !MAX {
                    let divisor = if p.count_include_pad == 1 {
                        padded_h as f32 * axis_w.padded_taps(x, p.pad_end[1]) as f32
                    } else {
                        taps as f32
                    };
                    out = out / V::splat(divisor.max(1.0));
                }
                out.store(output.add(to + x * p.output.stride_w as usize));
            }
        }
    }
    Ok(())
}

#[inline(always)]
unsafe fn max_pool<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { pool::<V, true>(args, chunk, chunks) }
}

#[inline(always)]
unsafe fn average_pool<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { pool::<V, false>(args, chunk, chunks) }
}

fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p = call.params::<Pool>()?;
    call.expect_operands(2)?;
    for (axis, &pad_end) in p.axes().iter().zip(&p.pad_end) {
        axis.validate(pad_end)?;
    }
    if p.count_include_pad > 1 {
        return Err(Invalid("count_include_pad is neither 0 nor 1"));
    }
    expect_view(call, 0, &p.input, [p.n, p.blocks, p.in_h, p.in_w, BLOCK as u64], 4)?;
    expect_view(call, 1, &p.output, [p.n, p.blocks, p.out_h, p.out_w, BLOCK as u64], 4)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<Pool>();
    let rows = product(&[p.n, p.blocks, p.out_h]).unwrap_or(0);
    let pixel = p.kernel[0].saturating_mul(p.kernel[1]).saturating_mul(BLOCK as u64);
    split(rows, rows.saturating_mul(p.out_w).saturating_mul(pixel), threads)
}

/// The greatest element of each window, NCHW16c.
pub static MAX_POOL_F32: Kernel =
    Kernel { name: "max_pool_f32", validate, chunks, run: per_isa!(max_pool<_>) };

/// The average of each window, NCHW16c.
pub static AVERAGE_POOL_F32: Kernel =
    Kernel { name: "average_pool_f32", validate, chunks, run: per_isa!(average_pool<_>) };

/// The window of one output of a row-major pooling.
struct Window<'a> {
    picture: &'a [f32],
    /// The taps inside the picture.
    taps: [std::ops::Range<usize>; 3],
    axes: &'a [WindowAxis; 3],
    index: [usize; 3],
    /// The number of taps inside the picture with its padding.
    padded: f32,
}

impl Window<'_> {
    /// Calls `visit` with the position in the picture and the value of every tap, in row-major order.
    #[inline(always)]
    fn for_each(&self, mut visit: impl FnMut([usize; 3], f32)) {
        let at = |axis: usize, tap: usize| self.axes[axis].position(self.index[axis], tap) as usize;
        let (h, w) = (self.axes[1].input as usize, self.axes[2].input as usize);
        for i in self.taps[0].clone() {
            for j in self.taps[1].clone() {
                for k in self.taps[2].clone() {
                    let position = [at(0, i), at(1, j), at(2, k)];
                    visit(position, self.picture[(position[0] * h + position[1]) * w + position[2]]);
                }
            }
        }
    }

    fn taps(&self) -> usize {
        self.taps.iter().map(ExactSizeIterator::len).product()
    }
}

/// Computes every output of a chunk by `result(window, number of the picture, number of the output)`.
///
/// # Safety
///
/// As for [`crate::ChunkFn`].
#[inline(always)]
unsafe fn for_windows(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
    mut result: impl FnMut(&Window<'_>, usize, usize) -> f32,
) {
    let p = args.params::<PoolNd>();
    if p.outer == 0 || p.output.contains(&0) {
        return;
    }
    let axes = p.axes();
    let [out_d, out_h, out_w] = p.output.map(|extent| extent as usize);
    let size = product(&p.input).unwrap_or(0) as usize;
    for row in share(p.outer as usize * out_d * out_h, chunk, chunks) {
        let (y, z, outer) = (row % out_h, row / out_h % out_d, row / out_h / out_d);
        // SAFETY: `validate` checked the input for `outer` pictures.
        let picture = unsafe {
            std::slice::from_raw_parts(args.operands[0].ptr::<f32>().cast_const().add(outer * size), size)
        };
        let mut window = Window {
            picture,
            taps: [axes[0].taps(z), axes[1].taps(y), 0..0],
            axes: &axes,
            index: [z, y, 0],
            padded: 0.0,
        };
        let padded =
            axes[0].padded_taps(z, p.pad_end[0]) as f32 * axes[1].padded_taps(y, p.pad_end[1]) as f32;
        for x in 0..out_w {
            window.taps[2] = axes[2].taps(x);
            window.index[2] = x;
            window.padded = padded * axes[2].padded_taps(x, p.pad_end[2]) as f32;
            let value = result(&window, outer, row * out_w + x);
            // SAFETY: `validate` checked the output; no other chunk has this row.
            unsafe { *args.operands[1].ptr::<f32>().add(row * out_w + x) = value };
        }
    }
}

#[inline(always)]
unsafe fn max_pool_nd(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p = args.params::<PoolNd>();
    let [d, h, w] = p.input.map(|extent| extent as usize);
    let indices = (args.operands[2].bytes > 0).then(|| args.operands[2].ptr::<i64>());
    // SAFETY: the contract of `ChunkFn` is passed on; `validate` checked the indices, where there are any, for as
    // many elements as the output has.
    unsafe {
        for_windows(args, chunk, chunks, |window, outer, number| {
            let (mut greatest, mut at) = (f32::NEG_INFINITY, None);
            window.for_each(|position, x| {
                if at.is_none() || x > greatest || x.is_nan() && !greatest.is_nan() {
                    (greatest, at) = (x, Some(position));
                }
            });
            if let Some(indices) = indices {
                *indices.add(number) = at.map_or(-1, |[i, j, k]| {
                    let flat = if p.column_major == 1 { i + d * (j + h * k) } else { (i * h + j) * w + k };
                    (outer * d * h * w + flat) as i64
                });
            }
            greatest
        });
    }
    Ok(())
}

#[inline(always)]
unsafe fn average_pool_nd(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let include_pad = args.params::<PoolNd>().count_include_pad == 1;
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe {
        for_windows(args, chunk, chunks, |window, _, _| {
            let mut sum = 0.0;
            window.for_each(|_, x| sum += x);
            let divisor = if include_pad { window.padded } else { window.taps() as f32 };
            sum / divisor.max(1.0)
        });
    }
    Ok(())
}

#[inline(always)]
unsafe fn lp_pool_nd(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p = args.params::<PoolNd>().p;
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe {
        for_windows(args, chunk, chunks, |window, _, _| {
            let mut sum = 0.0;
            match p {
                1 => window.for_each(|_, x| sum += x.abs()),
                2 => window.for_each(|_, x| sum += x * x),
                _ => window.for_each(|_, x| sum += libm::powf(x.abs(), p as f32)),
            }
            match p {
                1 => sum,
                2 => sum.sqrt(),
                _ => libm::powf(sum, 1.0 / p as f32),
            }
        });
    }
    Ok(())
}

fn validate_nd(call: &Call<'_>, indices: bool) -> Result<(), Invalid> {
    let p = call.params::<PoolNd>()?;
    call.expect_operands(if indices { 3 } else { 2 })?;
    for (axis, &pad_end) in p.axes().iter().zip(&p.pad_end) {
        axis.validate(pad_end)?;
    }
    if p.count_include_pad > 1 || p.column_major > 1 {
        return Err(Invalid("flag is neither 0 nor 1"));
    }
    let [out_d, out_h, out_w] = p.output;
    let outputs = product(&[p.outer, out_d, out_h, out_w]);
    let [d, h, w] = p.input;
    call.expect_elements(0, product(&[p.outer, d, h, w]), 4)?;
    call.expect_elements(1, outputs, 4)?;
    if indices && call.operand_bytes[2] > 0 {
        call.expect_elements(2, outputs, 8)?;
    }
    Ok(())
}

pub(crate) fn validate_two(call: &Call<'_>) -> Result<(), Invalid> {
    validate_nd(call, false)
}

pub(crate) fn validate_lp(call: &Call<'_>) -> Result<(), Invalid> {
    if call.params::<PoolNd>()?.p == 0 {
        return Err(Invalid("norm of order 0"));
    }
    validate_nd(call, false)
}

pub(crate) fn validate_three(call: &Call<'_>) -> Result<(), Invalid> {
    validate_nd(call, true)
}

fn chunks_nd(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<PoolNd>();
    let rows = product(&[p.outer, p.output[0], p.output[1]]).unwrap_or(0);
    let taps = p.kernel.iter().fold(1u64, |taps, &kernel| taps.saturating_mul(kernel));
    split(rows, rows.saturating_mul(p.output[2]).saturating_mul(taps), threads)
}

/// The greatest element of each window, row-major, and where it was.
pub static MAX_POOL_ND_F32: Kernel = Kernel {
    name: "max_pool_nd_f32",
    validate: validate_three,
    chunks: chunks_nd,
    run: per_isa!(max_pool_nd),
};

/// The average of each window, row-major.
pub static AVERAGE_POOL_ND_F32: Kernel = Kernel {
    name: "average_pool_nd_f32",
    validate: validate_two,
    chunks: chunks_nd,
    run: per_isa!(average_pool_nd),
};

/// The norm of each window, row-major.
pub static LP_POOL_ND_F32: Kernel =
    Kernel { name: "lp_pool_nd_f32", validate: validate_lp, chunks: chunks_nd, run: per_isa!(lp_pool_nd) };

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::{Pool, PoolNd, View};
    use crate::cpu::testing::{Random, attack, bytes, check, check_f32};

    /// Input extent, output extent, kernel, stride, dilation, padding before and after.
    type Side = [u64; 7];

    /// Without padding, with it, hanging over the end as ceil_mode does, dilated, wider than the picture, in the padding
    /// alone, whole picture, single.
    const SIDES: [Side; 9] = [
        [7, 3, 3, 2, 1, 0, 0],
        [6, 6, 3, 1, 1, 1, 1],
        [6, 4, 3, 2, 1, 0, 1],
        [9, 5, 3, 1, 2, 0, 0],
        [4, 3, 6, 2, 1, 2, 3],
        [2, 5, 1, 1, 1, 2, 1],
        [21, 1, 21, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [0, 2, 2, 1, 1, 1, 1],
    ];

    fn blocked(h: Side, w: Side, count_include_pad: u64) -> (Pool, usize, usize) {
        let view = |h: u64, w: u64, border: u64| View {
            offset: border * 16,
            stride_n: 2 * (h + 1) * (w + border) * 16,
            stride_c: (h + 1) * (w + border) * 16,
            stride_h: (w + border) * 16,
            stride_w: 16,
        };
        let params = Pool {
            n: 2,
            blocks: 2,
            in_h: h[0],
            in_w: w[0],
            out_h: h[1],
            out_w: w[1],
            kernel: [h[2], w[2]],
            stride: [h[3], w[3]],
            dilation: [h[4], w[4]],
            pad_begin: [h[5], w[5]],
            pad_end: [h[6], w[6]],
            count_include_pad,
            input: view(h[0], w[0], 1),
            output: view(h[1], w[1], 2),
        };
        let size = |view: &View| (2 * view.stride_n + view.offset) as usize;
        (params, size(&params.input), size(&params.output))
    }

    fn row_major(
        sides: [Side; 3],
        count_include_pad: u64,
        column_major: u64,
        p: u64,
    ) -> (PoolNd, usize, usize) {
        let field = |i: usize| [sides[0][i], sides[1][i], sides[2][i]];
        let params = PoolNd {
            outer: 3,
            input: field(0),
            output: field(1),
            kernel: field(2),
            stride: field(3),
            dilation: field(4),
            pad_begin: field(5),
            pad_end: field(6),
            count_include_pad,
            column_major,
            p,
        };
        let size = |extents: [u64; 3]| 3 * extents.iter().product::<u64>() as usize;
        (params, size(params.input), size(params.output))
    }

    /// Sums of `count` whole numbers are exact; the quotient or root rounds once or twice more.
    fn few_units(y: f32) -> f32 {
        4.0 * f32::EPSILON * y.abs()
    }

    #[test]
    fn blocked_pools_agree_with_the_reference() {
        let mut random = Random::new(8);
        for (number, h) in SIDES.into_iter().enumerate() {
            // Each kind of side in both directions, with two others.
            for w in [SIDES[(number + 1) % SIDES.len()], SIDES[(number * 2 + 3) % SIDES.len()]] {
                for include in [0, 1] {
                    let (params, input, output) = blocked(h, w, include);
                    let x = random.whole(input, 50);
                    if include == 0 {
                        check_f32("max_pool_f32", &params, &[bytes(&x)], &[output * 4], |_| 0.0);
                    }
                    check_f32("average_pool_f32", &params, &[bytes(&x)], &[output * 4], few_units);
                }
            }
        }
    }

    #[test]
    fn nan_and_infinities_reach_every_window_they_are_in() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for every in [1, 3, 17, 50] {
                let (params, input, output) = blocked(SIDES[1], SIDES[4], 0);
                let mut x = Random::new(9).whole(input, 9);
                x.iter_mut().step_by(every).for_each(|x| *x = special);
                check_f32("max_pool_f32", &params, &[bytes(&x)], &[output * 4], |_| 0.0);
                check_f32("average_pool_f32", &params, &[bytes(&x)], &[output * 4], few_units);
                let (params, input, output) = row_major([SIDES[0], SIDES[1], SIDES[2]], 0, 0, 2);
                let sizes = [output * 4, output * 8];
                check("max_pool_nd_f32", &params, &[bytes(&x[..input])], &sizes, |_, _, a: u8, b: u8| a == b);
            }
        }
    }

    #[test]
    fn row_major_pools_agree_with_the_reference() {
        let mut random = Random::new(10);
        let one = SIDES[7];
        let mut cases: Vec<[Side; 3]> = SIDES.iter().map(|&side| [one, one, side]).collect();
        cases.extend(SIDES.iter().zip(SIDES.iter().rev()).map(|(&h, &w)| [one, h, w]));
        cases.extend([[SIDES[1], SIDES[0], SIDES[2]], [SIDES[3], SIDES[4], SIDES[5]]]);
        for sides in cases {
            for (flag, p) in [(0, 1), (1, 2), (0, 3)] {
                let (params, input, output) = row_major(sides, flag, flag, p);
                let x = random.whole(input, 9);
                let inputs = [bytes(&x)];
                // Bytes are compared: the greatest elements and their positions are exact.
                let sizes = [output * 4, output * 8];
                check("max_pool_nd_f32", &params, &inputs, &sizes, |_, _, a: u8, b: u8| a == b);
                check("max_pool_nd_f32", &params, &inputs, &[output * 4, 0], |_, _, a: u8, b: u8| a == b);
                check_f32("average_pool_nd_f32", &params, &inputs, &[output * 4], few_units);
                check_f32("lp_pool_nd_f32", &params, &inputs, &[output * 4], few_units);
            }
        }
    }

    #[test]
    fn averages_count_the_padding_that_exists() {
        // Extent 3, padding 1 before and none after, windows of 2 at −1, 1 and 3: the last hangs over the end.
        let (params, ..) = row_major([SIDES[7], SIDES[7], [4, 3, 2, 2, 1, 1, 0]], 1, 0, 0);
        let params = PoolNd { outer: 1, ..params };
        let x = [2.0f32, 4.0, 6.0, 8.0];
        check("average_pool_nd_f32", &params, &[bytes(&x)], &[12], |_, i, a: f32, b: f32| {
            a == b && b == [1.0, 5.0, 8.0][i]
        });
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let (params, input, output) = blocked(SIDES[2], SIDES[3], 1);
        let x = Random::new(11).units(input);
        // An output of a byte less must be refused, so it ends with its last pixel.
        let end = params.output.end(2, 2, params.out_h, params.out_w, 16).unwrap() as usize;
        assert!(end <= output);
        for name in ["max_pool_f32", "average_pool_f32"] {
            attack(name, &params, &[bytes(&x)], &[end * 4]);
        }
        let (params, input, output) = row_major([SIDES[0], SIDES[2], SIDES[4]], 1, 1, 2);
        let x = Random::new(12).units(input);
        attack("max_pool_nd_f32", &params, &[bytes(&x)], &[output * 4, output * 8]);
        attack("average_pool_nd_f32", &params, &[bytes(&x)], &[output * 4]);
        attack("lp_pool_nd_f32", &params, &[bytes(&x)], &[output * 4]);
    }
}
