//! Pooling: every tap of every window, those outside the picture passed over.

use super::Registered;
use crate::call::{Pool, PoolNd, View};
use crate::{Args, RunError, kernels};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Max,
    Average,
    Norm,
}

/// A pooling of one picture, whatever its layout.
struct Picture<'a> {
    params: &'a PoolNd,
    kind: Kind,
}

impl Picture<'_> {
    /// The result of output `index`, whose inputs `at` gives, and the position of the greatest.
    fn output(&self, index: [u64; 3], at: impl Fn([u64; 3]) -> f32) -> (f32, Option<[u64; 3]>) {
        let p = self.params;
        let (mut taps, mut padded, mut sum) = (0u64, 0u64, 0.0f32);
        let mut greatest: Option<(f32, [u64; 3])> = None;
        // Taps beyond the padded extent are passed over from the first on.
        let reach = |axis: usize| {
            let room = p.input[axis] + p.pad_end[axis] + p.pad_begin[axis];
            p.kernel[axis].min(room.saturating_sub(index[axis] * p.stride[axis]).div_ceil(p.dilation[axis]))
        };
        for i in 0..reach(0) {
            for j in 0..reach(1) {
                for k in 0..reach(2) {
                    padded += 1;
                    let tap = [i, j, k];
                    let position: [Option<u64>; 3] = std::array::from_fn(|axis| {
                        (index[axis] * p.stride[axis] + tap[axis] * p.dilation[axis])
                            .checked_sub(p.pad_begin[axis])
                            .filter(|&position| position < p.input[axis])
                    });
                    let [Some(d), Some(h), Some(w)] = position else { continue };
                    let x = at([d, h, w]);
                    taps += 1;
                    sum += match (self.kind, p.p) {
                        (Kind::Norm, 1) => x.abs(),
                        (Kind::Norm, 2) => x * x,
                        (Kind::Norm, order) => libm::powf(x.abs(), order as f32),
                        _ => x,
                    };
                    if greatest.is_none_or(|(best, _)| x > best || x.is_nan() && !best.is_nan()) {
                        greatest = Some((x, [d, h, w]));
                    }
                }
            }
        }
        let value = match self.kind {
            Kind::Max => greatest.map_or(f32::NEG_INFINITY, |(best, _)| best),
            Kind::Average if p.count_include_pad == 1 => sum / padded.max(1) as f32,
            Kind::Average => sum / taps.max(1) as f32,
            Kind::Norm if p.p == 1 => sum,
            Kind::Norm if p.p == 2 => sum.sqrt(),
            Kind::Norm => libm::powf(sum, 1.0 / p.p as f32),
        };
        (value, greatest.map(|(_, position)| position))
    }
}

fn element(view: &View, n: u64, block: u64, h: u64, w: u64, lane: u64) -> usize {
    (view.offset + n * view.stride_n + block * view.stride_c + h * view.stride_h + w * view.stride_w + lane)
        as usize
}

unsafe fn blocked(args: &Args<'_>, kind: Kind) -> Result<(), RunError> {
    let p = args.params::<Pool>();
    let with_one = |pair: [u64; 2]| [1, pair[0], pair[1]];
    let params = PoolNd {
        outer: 1,
        input: [1, p.in_h, p.in_w],
        output: [1, p.out_h, p.out_w],
        kernel: with_one(p.kernel),
        stride: with_one(p.stride),
        dilation: with_one(p.dilation),
        pad_begin: [0, p.pad_begin[0], p.pad_begin[1]],
        pad_end: [0, p.pad_end[0], p.pad_end[1]],
        count_include_pad: p.count_include_pad,
        column_major: 0,
        p: 0,
    };
    let picture = Picture { params: &params, kind };
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    for n in 0..p.n {
        for block in 0..p.blocks {
            for y in 0..p.out_h {
                for x in 0..p.out_w {
                    for lane in 0..16 {
                        // SAFETY: the call was validated.
                        unsafe {
                            let at =
                                |[_, h, w]: [u64; 3]| *input.add(element(&p.input, n, block, h, w, lane));
                            *output.add(element(&p.output, n, block, y, x, lane)) =
                                picture.output([0, y, x], at).0;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

unsafe fn row_major(args: &Args<'_>, kind: Kind) -> Result<(), RunError> {
    let p = args.params::<PoolNd>();
    let picture = Picture { params: p, kind };
    let [d, h, w] = p.input;
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let mut number = 0;
    for outer in 0..p.outer {
        for z in 0..p.output[0] {
            for y in 0..p.output[1] {
                for x in 0..p.output[2] {
                    let flat = |[i, j, k]: [u64; 3]| (((outer * d + i) * h + j) * w + k) as usize;
                    // SAFETY: the call was validated.
                    unsafe {
                        let (value, position) =
                            picture.output([z, y, x], |position| *input.add(flat(position)));
                        *output.add(number) = value;
                        if kind == Kind::Max && args.operands[2].bytes > 0 {
                            *args.operands[2].ptr::<i64>().add(number) = match position {
                                None => -1,
                                Some([i, j, k]) if p.column_major == 1 => {
                                    (outer * d * h * w + i + d * (j + h * k)) as i64
                                }
                                Some(position) => flat(position) as i64,
                            };
                        }
                    }
                    number += 1;
                }
            }
        }
    }
    Ok(())
}

unsafe fn max_pool(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { blocked(args, Kind::Max) }
}

unsafe fn average_pool(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { blocked(args, Kind::Average) }
}

unsafe fn max_pool_nd(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { row_major(args, Kind::Max) }
}

unsafe fn average_pool_nd(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { row_major(args, Kind::Average) }
}

unsafe fn lp_pool_nd(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { row_major(args, Kind::Norm) }
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::MAX_POOL_F32, reference: max_pool },
    Registered { kernel: &kernels::AVERAGE_POOL_F32, reference: average_pool },
    Registered { kernel: &kernels::MAX_POOL_ND_F32, reference: max_pool_nd },
    Registered { kernel: &kernels::AVERAGE_POOL_ND_F32, reference: average_pool_nd },
    Registered { kernel: &kernels::LP_POOL_ND_F32, reference: lp_pool_nd },
];
