//! How much the calls have to do, which says how many threads they are launched with.

use crate::call::{
    Attention, Axis, BLOCK, Col2Im, Conv, ConvNd, Elementwise, Gather, GridSample, GroupNorm, IndexMap,
    LayerNorm, Lrn, MatMul, MaxRoiPool, NonMaxSuppression, PackB, PoolNd, Reduce, Reorder, Resize, RoiAlign,
    Scan, ScatterElements, ScatterNd, TopK,
};
use crate::cpu::bounds::product;

/// How much there is to do: items, and the work of each, which threads count in 32 bits with sign; and how many items lie
/// side by side, while what is folded into each lies apart.
pub(super) type Work = Option<(u64, u64, u64)>;

pub(super) fn elements(p: &Elementwise) -> Work {
    Some((product(p.dims.get(..usize::try_from(p.rank).ok()?)?)?, 1, 1))
}

pub(super) fn gather(p: &Gather) -> Work {
    Some((product(&[p.outer, p.indices, p.inner])?, 1, 1))
}

pub(super) fn map(p: &IndexMap) -> Work {
    Some((product(p.out_dims.get(..usize::try_from(p.rank).ok()?)?)?, 1, 1))
}

/// Threads that are enough to hide that each walks all updates.
const WALKS: u64 = 1 << 16;

/// The threads that share `places` places in each of `lanes` lanes, whose updates all of the lane's threads look at.
fn walks(lanes: u64, places: u64) -> Option<u64> {
    match lanes.checked_mul(places)? {
        0 => Some(0),
        _ => lanes.checked_mul((WALKS / lanes).clamp(1, places)),
    }
}

pub(super) fn scatter_elements(p: &ScatterElements) -> Work {
    let rank = usize::try_from(p.rank).ok()?;
    let (total, updates) = (product(p.dims.get(..rank)?)?, product(p.index_dims.get(..rank)?)?);
    let length = *p.dims.get(usize::try_from(p.axis).ok()?)?;
    Some((walks(total.checked_div(length).unwrap_or(0), length)?, total.max(updates), 1))
}

pub(super) fn scatter_nd(p: &ScatterNd) -> Work {
    let slices = product(p.dims.get(..usize::try_from(p.depth).ok()?)?)?;
    let most = product(&[slices, p.slice])?.max(product(&[p.rows, p.slice.max(p.depth)])?);
    Some((walks(p.slice, slices)?, most, 1))
}

/// Channels that share what is found of a place.
const SAMPLED_TOGETHER: u64 = 8;

pub(super) fn grid_sample(p: &GridSample) -> Work {
    let dims = p.dims.get(..usize::try_from(p.rank).ok()?)?;
    let items = product(&[p.n, p.channels.div_ceil(SAMPLED_TOGETHER), p.points])?;
    let (input, output) =
        (product(&[p.n, p.channels, product(dims)?])?, product(&[p.n, p.channels, p.points])?);
    Some((items, input.max(output).max(product(&[p.n, p.points, p.rank])?), 1))
}

pub(super) fn reduction(p: &Reduce) -> Work {
    let kept = p.kept_dims.get(..usize::try_from(p.kept_rank).ok()?)?;
    let reduced = p.reduced_dims.get(..usize::try_from(p.reduced_rank).ok()?)?;
    let innermost = |dims: &[u64], strides: &[u64]| Some((*dims.last()?, strides[dims.len() - 1]));
    let apart = innermost(reduced, &p.reduced_strides).is_some_and(|(_, stride)| stride > 1);
    let neighbours = match innermost(kept, &p.kept_strides) {
        Some((extent, 1)) if apart => extent,
        _ => 1,
    };
    Some((product(kept)?, product(reduced)?, neighbours))
}

pub(super) fn axis(p: &Axis) -> Work {
    let rows = if p.axis == 0 { 0 } else { product(&[p.outer, p.inner])? };
    Some((rows, p.axis, p.inner))
}

pub(super) fn scan(p: &Scan) -> Work {
    let rows = if p.axis == 0 { 0 } else { product(&[p.outer, p.inner])? };
    Some((rows, p.axis, p.inner))
}

pub(super) fn col2im(p: &Col2Im) -> Work {
    let items = product(&[p.outer, product(&p.image)?])?;
    // Positions along an axis are counted in as many bits.
    let reach = |axis: usize| {
        let along = p.blocks[axis].checked_mul(p.stride[axis])?;
        along.checked_add(p.block[axis].checked_mul(p.dilation[axis])?)?.checked_add(p.pad_begin[axis])
    };
    Some((items, product(&p.block)?.max(reach(0)?).max(reach(1)?).max(reach(2)?), 1))
}

pub(super) fn matmul(p: &MatMul) -> Work {
    let products = product(p.dims.get(..usize::try_from(p.rank).ok()?)?)?;
    Some((product(&[products, p.m, p.n])?, p.k, 1))
}

pub(super) fn roi_align(p: &RoiAlign) -> Work {
    let most = product(&[p.n, p.channels, p.in_h, p.in_w])?.max(p.in_h).max(p.in_w).max(p.n);
    Some((product(&[p.regions, p.channels, p.out_h, p.out_w])?, most.max(p.sampling_ratio), 1))
}

pub(super) fn max_roi_pool(p: &MaxRoiPool) -> Work {
    let most = product(&[p.n, p.channels, p.in_h, p.in_w])?.max(p.in_h).max(p.in_w).max(p.n);
    Some((product(&[p.regions, p.channels, p.out_h, p.out_w])?, most, 1))
}

pub(super) fn non_max_suppression(p: &NonMaxSuppression) -> Work {
    let classes = product(&[p.batches, p.classes])?;
    Some((classes, p.work()?.max(product(&[p.batches, p.boxes, 4])?), 1))
}

pub(super) fn top_k(p: &TopK) -> Work {
    let items = if p.k == 0 { 0 } else { product(&[p.outer, p.axis, p.inner])? };
    Some((items, p.axis, 1))
}

pub(super) fn layer_norm(p: &LayerNorm) -> Work {
    Some((if p.inner == 0 { 0 } else { p.outer }, p.inner, 1))
}

pub(super) fn group_norm(p: &GroupNorm) -> Work {
    let inner = product(&[p.channels.checked_div(p.groups)?, p.inner])?;
    Some((if inner == 0 { 0 } else { product(&[p.n, p.groups])? }, inner, 1))
}

pub(super) fn lrn(p: &Lrn) -> Work {
    Some((product(&[p.n, p.channels, p.inner])?, p.size, 1))
}

pub(super) fn attention(p: &Attention) -> Work {
    let rows = product(&[product(&p.lead)?, p.rows])?;
    Some((if p.value_size == 0 { 0 } else { rows }, p.keys.max(p.size).max(p.value_size), 1))
}

pub(super) fn conv(p: &Conv) -> Work {
    let block = BLOCK as u64;
    let pixels = product(&[p.out_h, p.out_w])?;
    let items = product(&[p.n, p.groups, p.out_channels.div_ceil(block), pixels, block])?;
    let reach = |count: u64, stride: u64, taps: u64, dilation: u64| {
        count.checked_mul(stride)?.checked_add(taps.checked_mul(dilation)?)
    };
    let rows = reach(p.out_h, p.stride_h, p.kernel_h, p.dilation_h)?;
    let columns = reach(p.out_w, p.stride_w, p.kernel_w, p.dilation_w)?;
    Some((items, product(&[p.in_channels, p.kernel_h, p.kernel_w])?.max(rows).max(columns), 1))
}

pub(super) fn pack(p: &PackB) -> Work {
    let block = BLOCK as u64;
    Some((product(&[p.batch, p.n.div_ceil(block), p.k, block])?, 1, 1))
}

pub(super) fn reorder(p: &Reorder) -> Work {
    let blocks = if p.block == 0 { 0 } else { p.channels.div_ceil(p.block) };
    Some((product(&[p.n, blocks, p.h, p.w, p.block])?, 1, 1))
}

pub(super) fn conv_nd(p: &ConvNd) -> Work {
    let items = product(&[p.n, p.groups, p.out_channels, product(&p.output)?])?;
    Some((items, product(&[p.in_channels, product(&p.kernel)?])?, 1))
}

pub(super) fn pool(p: &PoolNd) -> Work {
    Some((product(&[p.outer, product(&p.output)?])?, product(&p.kernel)?, 1))
}

pub(super) fn resize(p: &Resize) -> Work {
    let items = product(&[p.n, p.blocks, p.out_h, p.out_w, p.lanes])?;
    Some((items, product(&[p.taps_h, p.taps_w])?.max(p.in_h).max(p.in_w), 1))
}
