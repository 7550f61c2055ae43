//! What validations and work splits have in common: checked sizes, views that may be written by several chunks at
//! once, and walks over strided axes.

use crate::call::{MAX_RANK, View};
use crate::{Call, Invalid};

/// Element-operations below which a call is not worth waking another thread for.
const WORTH_A_CHUNK: u64 = 8 * 1024;

/// The bound on window arithmetic: sums of a few such terms stay inside `i64`.
const WINDOW_LIMIT: u64 = 1 << 60;

/// The number of elements of a tensor with these extents: zero where any is zero, `None` on overflow.
pub(crate) fn product(extents: &[u64]) -> Option<u64> {
    if extents.contains(&0) {
        return Some(0);
    }
    extents.iter().try_fold(1u64, |count, &extent| count.checked_mul(extent))
}

/// The chunks for `items` independent items of `work` element-operations in all.
pub(crate) fn split(items: u64, work: u64, threads: usize) -> usize {
    if work < 2 * WORTH_A_CHUNK {
        return 1;
    }
    (threads as u64).min(items).min(work / WORTH_A_CHUNK).max(1) as usize
}

/// Checks that `view` with these extents (images, blocks, rows, pixels, lanes) lies inside operand `index`, and that
/// no two of its positions are the same element.
///
/// The second condition lets chunks write their shares at the same time, and bounds every extent by the memory that
/// is really there.
pub(crate) fn expect_view(
    call: &Call<'_>,
    index: usize,
    view: &View,
    extents: [u64; 5],
    element_bytes: u64,
) -> Result<(), Invalid> {
    let [n, blocks, h, w, lanes] = extents;
    call.expect_elements(index, view.end(n, blocks, h, w, lanes), element_bytes)?;
    if extents.contains(&0) {
        return Ok(());
    }
    let mut axes =
        [(view.stride_n, n), (view.stride_c, blocks), (view.stride_h, h), (view.stride_w, w), (1, lanes)];
    axes.sort_unstable();
    let mut reach = 0;
    for (stride, extent) in axes.into_iter().filter(|&(_, extent)| extent > 1) {
        if stride <= reach {
            return Err(Invalid("view overlaps itself"));
        }
        // `View::end` found the sum of these products to fit.
        reach += stride * (extent - 1);
    }
    Ok(())
}

/// One axis of a sliding window: where its taps lie in the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowAxis {
    pub input: u64,
    pub output: u64,
    pub kernel: u64,
    pub stride: u64,
    pub dilation: u64,
    pub pad_begin: u64,
}

impl WindowAxis {
    /// Checks that no position overflows, with `pad_end` elements after the input.
    pub(crate) fn validate(&self, pad_end: u64) -> Result<(), Invalid> {
        if self.kernel == 0 || self.stride == 0 || self.dilation == 0 {
            return Err(Invalid("window without extent, stride or dilation"));
        }
        let small = |product: Option<u64>| product.is_some_and(|value| value <= WINDOW_LIMIT);
        if small(self.output.checked_mul(self.stride))
            && small(self.kernel.checked_mul(self.dilation))
            && small(Some(self.stride))
            && small(Some(self.input))
            && small(Some(self.pad_begin))
            && small(Some(pad_end))
        {
            Ok(())
        } else {
            Err(Invalid("window too large"))
        }
    }

    /// The input position of tap `tap` of output `index`; outside the input where it falls into the padding.
    #[inline(always)]
    pub(crate) fn position(&self, index: usize, tap: usize) -> i64 {
        index as i64 * self.stride as i64 + tap as i64 * self.dilation as i64 - self.pad_begin as i64
    }

    /// The taps of output `index` that lie inside the input; an empty range starts at 0.
    #[inline(always)]
    pub(crate) fn taps(&self, index: usize) -> std::ops::Range<usize> {
        let (start, dilation) = (self.position(index, 0), self.dilation as i64);
        let below = |bound: i64| if start >= bound { 0 } else { (bound - start + dilation - 1) / dilation };
        let (first, end) = (below(0), below(self.input as i64).min(self.kernel as i64));
        if first < end { first as usize..end as usize } else { 0..0 }
    }

    /// The taps of output `index` that lie inside the input with its padding, `pad_end` elements after it.
    #[inline(always)]
    pub(crate) fn padded_taps(&self, index: usize, pad_end: u64) -> u64 {
        let (start, dilation) = (self.position(index, 0), self.dilation as i64);
        let bound = self.input as i64 + pad_end as i64;
        if start >= bound { 0 } else { self.kernel.min(((bound - start + dilation - 1) / dilation) as u64) }
    }

    /// The outputs whose tap `tap` lies inside the input.
    #[inline(always)]
    pub(crate) fn outputs(&self, tap: usize) -> std::ops::Range<usize> {
        let (first, stride) = (self.position(0, tap), self.stride as i64);
        let below = |bound: i64| if first >= bound { 0 } else { (bound - first + stride - 1) / stride };
        let (start, end) = (below(0), below(self.input as i64).min(self.output as i64));
        if start < end { start as usize..end as usize } else { 0..0 }
    }

    /// The outputs whose window starts at or after the input's first element and ends inside it.
    pub(crate) fn interior(&self) -> std::ops::Range<usize> {
        let start = self.pad_begin.div_ceil(self.stride).min(self.output);
        let reach = (self.kernel - 1) * self.dilation;
        let room = (self.input + self.pad_begin).checked_sub(reach + 1);
        let end = room.map_or(0, |room| room / self.stride + 1).min(self.output);
        start as usize..end.max(start) as usize
    }
}

/// Axes of a tensor, with those merged that are walked without a gap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axes {
    rank: usize,
    dims: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
}

impl Axes {
    /// Of the first `rank` dimensions, none of extent 0.
    pub(crate) fn collapse(rank: u64, dims: &[u64; MAX_RANK], strides: &[u64; MAX_RANK]) -> Self {
        let mut axes = Axes { rank: 0, dims: [1; MAX_RANK], strides: [0; MAX_RANK] };
        for (&dim, &stride) in dims.iter().zip(strides).take(rank as usize) {
            let (dim, stride) = (dim as usize, stride as usize);
            if dim == 1 {
                continue;
            }
            if axes.rank > 0 && axes.strides[axes.rank - 1] == stride * dim {
                axes.dims[axes.rank - 1] *= dim;
                axes.strides[axes.rank - 1] = stride;
            } else {
                axes.dims[axes.rank] = dim;
                axes.strides[axes.rank] = stride;
                axes.rank += 1;
            }
        }
        axes
    }

    /// Splits the innermost axis off: the others, its extent and its stride.
    pub(crate) fn split_innermost(mut self) -> (Axes, usize, usize) {
        if self.rank == 0 {
            return (self, 1, 1);
        }
        self.rank -= 1;
        (self, self.dims[self.rank], self.strides[self.rank])
    }

    /// The number of positions.
    pub(crate) fn count(&self) -> usize {
        self.dims[..self.rank].iter().product()
    }

    /// A walk that starts at position `start`, counted row-major.
    pub(crate) fn walk(&self, start: usize) -> Walk {
        let mut walk = Walk { axes: *self, index: [0; MAX_RANK], offset: 0 };
        let mut rest = start;
        for axis in (0..self.rank).rev() {
            walk.index[axis] = rest % self.dims[axis];
            rest /= self.dims[axis];
            walk.offset += walk.index[axis] * self.strides[axis];
        }
        walk
    }
}

/// A row-major walk over [`Axes`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    axes: Axes,
    index: [usize; MAX_RANK],
    /// The element it stands on.
    pub offset: usize,
}

impl Walk {
    /// Moves to the next position; from the last one, back to the first.
    #[inline]
    pub(crate) fn step(&mut self) {
        for axis in (0..self.axes.rank).rev() {
            self.index[axis] += 1;
            self.offset += self.axes.strides[axis];
            if self.index[axis] < self.axes.dims[axis] {
                return;
            }
            self.offset -= self.axes.strides[axis] * self.axes.dims[axis];
            self.index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_ranges_agree_with_counting() {
        for (input, kernel, stride, dilation, pad_begin, pad_end) in [
            (7, 3, 2, 1, 1, 1),
            (5, 2, 3, 4, 2, 1),
            (1, 3, 1, 1, 1, 1),
            (0, 2, 1, 1, 1, 1),
            (9, 1, 4, 2, 0, 0),
        ] {
            let axis = WindowAxis { input, output: 6, kernel, stride, dilation, pad_begin };
            axis.validate(pad_end).unwrap();
            for tap in 0..kernel as usize {
                let inside: Vec<usize> =
                    (0..6).filter(|&out| (0..input as i64).contains(&axis.position(out, tap))).collect();
                assert_eq!(axis.outputs(tap).collect::<Vec<_>>(), inside, "{axis:?} tap {tap}");
            }
            for out in 0..6usize {
                let inside: Vec<usize> = (0..kernel as usize)
                    .filter(|&tap| (0..input as i64).contains(&axis.position(out, tap)))
                    .collect();
                assert_eq!(axis.taps(out).collect::<Vec<_>>(), inside, "{axis:?} output {out}");
                let padded = (0..kernel as usize)
                    .filter(|&tap| axis.position(out, tap) < (input + pad_end) as i64)
                    .count();
                assert_eq!(axis.padded_taps(out, pad_end), padded as u64, "{axis:?} output {out}");
                let interior = inside.len() == kernel as usize;
                assert_eq!(axis.interior().contains(&out), interior, "{axis:?} output {out}");
            }
        }
    }

    #[test]
    fn views_that_overlap_themselves_or_leave_the_operand_are_refused() {
        let call = Call { params: &[], operand_bytes: &[4 * 2 * 3 * 5 * 16] };
        let view = View { offset: 0, stride_n: 0, stride_c: 240, stride_h: 80, stride_w: 16 };
        assert_eq!(expect_view(&call, 0, &view, [1, 2, 3, 5, 16], 4), Ok(()));
        assert!(expect_view(&call, 0, &view, [2, 1, 3, 5, 16], 4).is_err());
        assert!(expect_view(&call, 0, &View { stride_h: 64, ..view }, [1, 2, 3, 5, 16], 4).is_err());
        assert!(expect_view(&call, 0, &View { offset: 1, ..view }, [1, 2, 3, 5, 16], 4).is_err());
        assert_eq!(expect_view(&call, 0, &View { stride_n: u64::MAX, ..view }, [0, 2, 3, 5, 16], 4), Ok(()));
    }

    #[test]
    fn a_walk_visits_every_position_in_order() {
        let axes = Axes::collapse(4, &[2, 3, 1, 4, 0, 0, 0, 0], &[100, 8, 7, 1, 0, 0, 0, 0]);
        assert_eq!(axes.count(), 24);
        let mut walk = axes.walk(0);
        for position in 0..24 {
            let expected = position / 12 * 100 + position / 4 % 3 * 8 + position % 4;
            assert_eq!((walk.offset, axes.walk(position).offset), (expected, expected));
            walk.step();
        }
        assert_eq!(walk.offset, 0);
    }
}
