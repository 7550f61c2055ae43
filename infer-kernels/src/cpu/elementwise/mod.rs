//! Elementwise kernels: out[i] = op(in0[i], in1[i], …) over a common, strided index space.
//!
//! The index space is flat, outermost axis first, and split evenly into chunks; within a chunk, [`Rows`] walks the
//! flat range as runs along the innermost axis, and each family's row function works on one run. An output may
//! be an input in place, so operands are read and written through raw pointers, never borrowed as slices, and a
//! row reads an element (or a block of them) before it writes that element. Strides are never assumed to keep
//! elements aligned: on the processors served, an unaligned access to aligned memory costs nothing.
//!
//! The f32 operations that models spend time in are written on vectors and compiled for every instruction set
//! (`float`); other element types (`binary`, `unary`) are compiled once, for the baseline: they serve shape
//! arithmetic and the edges of a model, and a binary should not carry them three times.

use std::ops::Range;

use crate::call::{Elementwise, MAX_RANK};
use crate::{Args, Call, Invalid};

pub(crate) mod binary;
pub(crate) mod float;
pub(crate) mod unary;

#[cfg(all(test, feature = "reference"))]
mod tests;

pub use binary::*;
pub use float::*;
pub use unary::*;

/// The text of `item` in small letters.
pub(crate) const fn lower_case<const N: usize>(item: &str) -> [u8; N] {
    let mut lower = [0; N];
    let mut i = 0;
    while i < N {
        lower[i] = item.as_bytes()[i].to_ascii_lowercase();
        i += 1;
    }
    lower
}

/// Defines kernels as statics. A kernel's name is that of its item in small letters, by construction.
macro_rules! define_kernels {
    ($($(#[$attribute:meta])* $item:ident: $validate:expr, $chunks:expr, $run:expr;)*) => {$(
        $(#[$attribute])*
        pub static $item: $crate::Kernel = $crate::Kernel {
            name: {
                const ITEM: &str = stringify!($item);
                const NAME: &[u8] = &$crate::cpu::elementwise::lower_case::<{ ITEM.len() }>(ITEM);
                match std::str::from_utf8(NAME) {
                    Ok(name) => name,
                    Err(_) => unreachable!(),
                }
            },
            validate: $validate,
            chunks: $chunks,
            run: $run,
        };
    )*};
}
pub(crate) use define_kernels;

/// Elements that are worth a second thread.
const PARALLEL: usize = 16 << 10;

/// The fewest elements given to one chunk of several.
const LEAST: usize = 8 << 10;

/// Chunks begin at multiples of this many elements, so that two threads seldom write the same cache line.
const GRAIN: usize = 64;

/// The number of chunks for `total` elements.
pub(crate) fn split(total: usize, threads: usize) -> usize {
    if total < PARALLEL { 1 } else { threads.clamp(1, total / LEAST) }
}

/// The flat range of `0..total` that chunk `chunk` of `chunks` works on.
pub(crate) fn part(total: usize, chunk: usize, chunks: usize) -> Range<usize> {
    let grains = super::share(total.div_ceil(GRAIN), chunk, chunks);
    (grains.start * GRAIN).min(total)..(grains.end * GRAIN).min(total)
}

/// The number of elements of `dims`, 0 if any extent is 0; `None` on overflow.
pub(crate) fn count(dims: &[u64]) -> Option<u64> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1u64, |total, &extent| total.checked_mul(extent))
}

/// The number of elements of a validated call.
pub(crate) fn total(call: &Elementwise) -> usize {
    let dims = &call.dims[..call.rank as usize];
    if dims.contains(&0) { 0 } else { dims.iter().map(|&extent| extent as usize).product() }
}

/// [`crate::Kernel::chunks`] of every elementwise kernel.
pub(crate) fn chunks(args: &Args<'_>, threads: usize) -> usize {
    split(total(args.params()), threads)
}

/// Checks an elementwise call whose operands, the output last, have elements of `element_bytes`.
///
/// Output elements must not share a place: chunks write theirs at the same time.
pub(crate) fn validate(call: &Call<'_>, element_bytes: &[u64]) -> Result<(), Invalid> {
    let params: &Elementwise = call.params()?;
    call.expect_operands(element_bytes.len())?;
    let rank = usize::try_from(params.rank).unwrap_or(usize::MAX);
    let dims = params.dims.get(..rank).ok_or(Invalid("more than eight axes"))?;
    count(dims).and_then(|total| isize::try_from(total).ok()).ok_or(Invalid("size overflows"))?;
    for (operand, &bytes) in element_bytes.iter().enumerate() {
        let (_, end) = params.extent(operand).ok_or(Invalid("operand out of bounds"))?;
        call.expect_elements(operand, Some(end), bytes)?;
    }
    let mut axes = [(0u64, 0u64); MAX_RANK];
    for axis in 0..rank {
        axes[axis] = (params.strides[element_bytes.len() - 1][axis].unsigned_abs(), dims[axis]);
    }
    axes[..rank].sort_unstable();
    let mut reach = 0u64;
    for &(stride, extent) in axes[..rank].iter().filter(|_| !dims.contains(&0)) {
        if extent > 1 {
            if stride <= reach {
                return Err(Invalid("output elements overlap"));
            }
            // Cannot overflow: `extent` above found the whole reach to be a valid element number.
            reach += stride * (extent - 1);
        }
    }
    Ok(())
}

/// [`validate`] for a unary operation.
pub(crate) fn validate_unary<In, Out>(call: &Call<'_>) -> Result<(), Invalid> {
    validate(call, &[size_of::<In>() as u64, size_of::<Out>() as u64])
}

/// [`validate`] for a binary operation.
pub(crate) fn validate_binary<In, Out>(call: &Call<'_>) -> Result<(), Invalid> {
    validate(call, &[size_of::<In>() as u64, size_of::<In>() as u64, size_of::<Out>() as u64])
}

/// Reads an element.
///
/// # Safety
///
/// Element `index` from `base` is readable.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const T, index: isize) -> T {
    // SAFETY: passed on; the type is plain data, read without regard to alignment.
    unsafe { base.offset(index).read_unaligned() }
}

/// Writes an element.
///
/// # Safety
///
/// Element `index` from `base` is writable.
#[inline(always)]
pub(crate) unsafe fn store<T: Copy>(base: *mut T, index: isize, value: T) {
    // SAFETY: passed on.
    unsafe { base.offset(index).write_unaligned(value) }
}

/// Walks a flat range of an elementwise call of `N` operands as runs along the innermost axis.
///
/// An iterator in all but name: `next` must be inlined into code of every instruction set, which closures and
/// adapters do not promise.
pub(crate) struct Rows<const N: usize> {
    dims: [usize; MAX_RANK],
    strides: [[isize; MAX_RANK]; N],
    /// Axes outside the innermost.
    outer: usize,
    /// Where the next run begins on each outer axis.
    index: [usize; MAX_RANK],
    /// Where it begins on the innermost axis.
    start: usize,
    /// The extent of the innermost axis.
    length: usize,
    /// The first element of the next run, for each operand.
    at: [isize; N],
    /// Elements still to come.
    left: usize,
    /// The strides of the innermost axis.
    pub inner: [isize; N],
}

impl<const N: usize> Rows<N> {
    /// The runs of chunk `chunk` of `chunks` of the validated call `call`.
    // Out of line, like what else happens once a chunk or a run: it need not exist for every kernel and every
    // instruction set.
    #[inline(never)]
    pub(crate) fn of_chunk(call: &Elementwise, chunk: usize, chunks: usize) -> Self {
        Self::new(call, part(total(call), chunk, chunks))
    }

    /// The runs of `range` of the validated call `call`.
    pub(crate) fn new(call: &Elementwise, range: Range<usize>) -> Self {
        let mut rows = Rows {
            dims: [1; MAX_RANK],
            strides: [[0; MAX_RANK]; N],
            outer: 0,
            index: [0; MAX_RANK],
            start: 0,
            length: 1,
            at: [0; N],
            left: range.len(),
            inner: [0; N],
        };
        if range.is_empty() {
            return rows;
        }
        for operand in 0..N {
            rows.at[operand] = call.offsets[operand] as isize;
        }
        let mut flat = range.start;
        for axis in (0..call.rank as usize).rev() {
            let extent = call.dims[axis] as usize;
            let position = flat % extent;
            flat /= extent;
            rows.dims[axis] = extent;
            rows.index[axis] = position;
            for operand in 0..N {
                rows.strides[operand][axis] = call.strides[operand][axis] as isize;
                rows.at[operand] += position as isize * rows.strides[operand][axis];
            }
        }
        if call.rank > 0 {
            rows.outer = call.rank as usize - 1;
            rows.length = rows.dims[rows.outer];
            rows.start = rows.index[rows.outer];
            for operand in 0..N {
                rows.inner[operand] = rows.strides[operand][rows.outer];
            }
        }
        rows
    }

    /// The next run: the first element of each operand, and its length, which is not zero.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<([isize; N], usize)> {
        if self.left == 0 {
            return None;
        }
        let at = self.at;
        let count = self.left.min(self.length - self.start);
        self.left -= count;
        if self.left != 0 {
            self.advance();
        }
        Some((at, count))
    }

    /// The next runs at once, where they repeat along the axis outside the innermost: the first element of each operand,
    /// the length of a run, and how many there are, [`Rows::between`] apart.
    #[inline(always)]
    pub(crate) fn next_several(&mut self) -> Option<([isize; N], usize, usize)> {
        if self.outer == 0 || self.start != 0 || self.left < 2 * self.length {
            return self.next().map(|(at, count)| (at, count, 1));
        }
        let (at, axis) = (self.at, self.outer - 1);
        let count = (self.left / self.length).min(self.dims[axis] - self.index[axis]);
        self.left -= count * self.length;
        self.index[axis] += count - 1;
        for operand in 0..N {
            self.at[operand] += (count - 1) as isize * self.strides[operand][axis];
        }
        if self.left != 0 {
            self.advance();
        }
        Some((at, self.length, count))
    }

    /// The strides of the axis outside the innermost.
    #[inline(always)]
    pub(crate) fn between(&self) -> [isize; N] {
        std::array::from_fn(
            #[inline(always)]
            |operand| if self.outer == 0 { 0 } else { self.strides[operand][self.outer - 1] },
        )
    }

    /// Moves to the beginning of the next run, which exists.
    #[inline(never)]
    fn advance(&mut self) {
        for operand in 0..N {
            self.at[operand] -= self.start as isize * self.inner[operand];
        }
        self.start = 0;
        for axis in (0..self.outer).rev() {
            self.index[axis] += 1;
            let wrapped = self.index[axis] == self.dims[axis];
            let steps = if wrapped { -(self.dims[axis] as isize - 1) } else { 1 };
            for operand in 0..N {
                self.at[operand] += steps * self.strides[operand][axis];
            }
            if !wrapped {
                return;
            }
            self.index[axis] = 0;
        }
    }
}
