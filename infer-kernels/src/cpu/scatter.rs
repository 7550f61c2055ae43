//! Elements put among those of a tensor, at places that indices name.
//!
//! Chunks share the output: of ScatterElements by columns along the axis, of ScatterND by elements. Each copies its part of
//! the data and applies the updates that belong there in their order, so that results do not depend on the split. Indices
//! are data: each is checked before it is used.

use super::bounds::{product, split};
use super::elementwise::{define_kernels, load, store};
use super::reduce_ops::Number;
use super::share;
use crate::call::{MAX_RANK, ScatterElements, ScatterNd};
use crate::{Args, Call, Invalid, PerIsa, RunError};

/// What becomes of an element that is updated.
pub(crate) trait Update<T> {
    /// The element after the update.
    fn combine(old: T, new: T) -> T;
}

/// The update.
pub(crate) struct Replace;
/// The sum.
pub(crate) struct Add;
/// The product.
pub(crate) struct Mul;
/// The greater of both, NaN where there is one.
pub(crate) struct Max;
/// The lesser of both, NaN where there is one.
pub(crate) struct Min;

impl<T> Update<T> for Replace {
    #[inline(always)]
    fn combine(_: T, new: T) -> T {
        new
    }
}

impl<T: Number> Update<T> for Add {
    #[inline(always)]
    fn combine(old: T, new: T) -> T {
        old.plus(new)
    }
}

impl<T: Number> Update<T> for Mul {
    #[inline(always)]
    fn combine(old: T, new: T) -> T {
        old.times(new)
    }
}

impl<T: Number> Update<T> for Max {
    #[inline(always)]
    fn combine(old: T, new: T) -> T {
        if old.undefined() || old >= new { old } else { new }
    }
}

impl<T: Number> Update<T> for Min {
    #[inline(always)]
    fn combine(old: T, new: T) -> T {
        if old.undefined() || old <= new { old } else { new }
    }
}

/// Index `at`, counted from the beginning of an axis of `length`.
///
/// # Safety
///
/// It lies inside the operand.
#[inline(always)]
unsafe fn resolved(indices: *mut u8, bytes: u64, at: usize, length: u64) -> Result<usize, RunError> {
    // SAFETY: passed on.
    let index = unsafe {
        match bytes {
            4 => i64::from(load(indices.cast::<i32>(), at as isize)),
            _ => load(indices.cast::<i64>(), at as isize),
        }
    };
    let selected = if index < 0 { index.wrapping_add(length as i64) } else { index };
    match u64::try_from(selected) {
        Ok(selected) if selected < length => Ok(selected as usize),
        _ => Err(RunError::IndexOutOfRange { index, length }),
    }
}

fn expect_index_bytes(bytes: u64) -> Result<(), Invalid> {
    if matches!(bytes, 4 | 8) { Ok(()) } else { Err(Invalid("indices of other than 4 or 8 bytes")) }
}

fn extents(p: &ScatterElements) -> Option<(&[u64], &[u64])> {
    let rank = usize::try_from(p.rank).ok()?;
    Some((p.dims.get(..rank)?, p.index_dims.get(..rank)?))
}

pub(crate) fn validate_elements(call: &Call<'_>, bytes: u64) -> Result<(), Invalid> {
    let p: &ScatterElements = call.params()?;
    call.expect_operands(4)?;
    expect_index_bytes(p.index_bytes)?;
    let (dims, index_dims) = extents(p).ok_or(Invalid("more than eight axes"))?;
    if p.axis >= p.rank {
        return Err(Invalid("an axis that the data does not have"));
    }
    let mut beside = dims.iter().zip(index_dims).zip(0..).filter(|&(_, axis)| axis != p.axis);
    if beside.any(|((extent, indices), _)| indices > extent) {
        return Err(Invalid("indices beyond the data"));
    }
    call.expect_elements(0, product(dims), bytes)?;
    call.expect_elements(1, product(index_dims), p.index_bytes)?;
    call.expect_elements(2, product(index_dims), bytes)?;
    call.expect_elements(3, product(dims), bytes)
}

fn element_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &ScatterElements = args.params();
    let Some((dims, index_dims)) = extents(p) else { return 1 };
    let (total, updates) = (product(dims).unwrap_or(0), product(index_dims).unwrap_or(0));
    let columns = dims.get(p.axis as usize).and_then(|&length| total.checked_div(length)).unwrap_or(0);
    split(columns, total.saturating_add(updates), threads)
}

/// The row-major strides of extents of which none is zero.
fn strides(dims: &[u64]) -> [usize; MAX_RANK] {
    let mut strides = [1; MAX_RANK];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis] as usize;
    }
    strides
}

/// Copies `count` elements.
///
/// # Safety
///
/// Both sides hold them and do not overlap.
#[inline(always)]
unsafe fn copy<T: Copy>(from: *const T, to: *mut T, count: usize) {
    // SAFETY: passed on.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), count * size_of::<T>()) }
}

/// One chunk of a scatter of elements.
unsafe fn scatter_elements<T: Copy, U: Update<T>>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p: &ScatterElements = args.params();
    let Some((dims, index_dims)) = extents(p) else { return Ok(()) };
    if dims.contains(&0) {
        return Ok(());
    }
    let (axis, last) = (p.axis as usize, dims.len() - 1);
    let (data, updates) =
        (args.operands[0].ptr::<T>().cast_const(), args.operands[2].ptr::<T>().cast_const());
    let (indices, output) = (args.operands[1].data, args.operands[3].ptr::<T>());
    let to = strides(dims);
    let (length, inner) = (dims[axis] as usize, to[axis]);
    let columns = share(dims.iter().product::<u64>() as usize / length, chunk, chunks);

    let mut column = columns.start;
    while column < columns.end {
        let (outer, first) = (column / inner, column % inner);
        let run = (inner - first).min(columns.end - column);
        let base = outer * length * inner + first;
        let (pieces, piece) = if run == inner { (1, length * inner) } else { (length, run) };
        for number in 0..pieces {
            let at = base + number * inner;
            // SAFETY: the columns lie inside data and output, which do not overlap; other chunks have other columns.
            unsafe { copy(data.add(at), output.add(at), piece) };
        }
        column += run;
    }
    if index_dims.contains(&0) {
        return Ok(());
    }

    let from = strides(index_dims);
    // Columns that lie side by side take their updates side by side.
    let (width, index_width) =
        if axis == last { (1, 1) } else { (dims[last] as usize, index_dims[last] as usize) };
    let mut column = columns.start;
    while column < columns.end {
        let first = column % width;
        let run = (width - first).min(columns.end - column);
        let (mut rest, mut is_inside) = (column / width, true);
        let (mut target, mut source) = (first, first);
        for other in (0..=last).rev().filter(|&other| other != axis && (other != last || axis == last)) {
            let (extent, at) = (dims[other] as usize, rest % dims[other] as usize);
            rest /= extent;
            is_inside &= at < index_dims[other] as usize;
            target += at * to[other];
            source += at * from[other];
        }
        let count = if is_inside { run.min(index_width.saturating_sub(first)) } else { 0 };
        let each = if count > 0 { index_dims[axis] as usize } else { 0 };
        for number in 0..each {
            for i in 0..count {
                let at = source + number * from[axis] + i;
                // SAFETY: `at` counts coordinates below the extents of the indices; the slot is one of a column of
                // this chunk, whose place along the axis is checked.
                unsafe {
                    let place = resolved(indices, p.index_bytes, at, p.dims[axis])?;
                    let slot = (target + place * inner + i) as isize;
                    store(output, slot, U::combine(load(output, slot), load(updates, at as isize)));
                }
            }
        }
        column += run;
    }
    Ok(())
}

fn indexed(p: &ScatterNd) -> Option<&[u64]> {
    p.dims.get(..usize::try_from(p.depth).ok()?)
}

fn slots(p: &ScatterNd) -> Option<u64> {
    product(&[product(indexed(p)?)?, p.slice])
}

pub(crate) fn validate_nd(call: &Call<'_>, bytes: u64) -> Result<(), Invalid> {
    let p: &ScatterNd = call.params()?;
    call.expect_operands(4)?;
    expect_index_bytes(p.index_bytes)?;
    let dims = indexed(p).ok_or(Invalid("more than eight axes"))?;
    // Products of some of them do not overflow either.
    let all: Option<u64> = dims.iter().try_fold(1u64, |count, &extent| count.checked_mul(extent.max(1)));
    if all.and_then(|all| all.checked_mul(p.slice.max(1))).is_none() {
        return Err(Invalid("size overflows"));
    }
    call.expect_elements(0, slots(p), bytes)?;
    call.expect_elements(1, product(&[p.rows, p.depth]), p.index_bytes)?;
    call.expect_elements(2, product(&[p.rows, p.slice]), bytes)?;
    call.expect_elements(3, slots(p), bytes)
}

fn nd_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &ScatterNd = args.params();
    let total = slots(p).unwrap_or(0);
    split(total, total.saturating_add(p.rows.saturating_mul(p.slice)), threads)
}

/// One chunk of a scatter of slices.
unsafe fn scatter_nd<T: Copy, U: Update<T>>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p: &ScatterNd = args.params();
    let (Some(dims), Some(total)) = (indexed(p), slots(p)) else { return Ok(()) };
    if total == 0 {
        return Ok(());
    }
    let (data, updates) =
        (args.operands[0].ptr::<T>().cast_const(), args.operands[2].ptr::<T>().cast_const());
    let (indices, output) = (args.operands[1].data, args.operands[3].ptr::<T>());
    let own = share(total as usize, chunk, chunks);
    // SAFETY: both hold `total` elements and do not overlap; other chunks have other elements.
    unsafe { copy(data.add(own.start), output.add(own.start), own.len()) };
    let slice = p.slice as usize;
    for row in 0..p.rows as usize {
        let mut start = 0;
        for (number, &extent) in dims.iter().enumerate() {
            // SAFETY: there are `rows` rows of `depth` indices.
            let index = unsafe { resolved(indices, p.index_bytes, row * dims.len() + number, extent)? };
            start = start * extent as usize + index;
        }
        let start = start * slice;
        for slot in start.max(own.start)..(start + slice).min(own.end) {
            // SAFETY: the slot is one of this chunk; the update is one of the row's slice.
            unsafe {
                let update = load(updates, (row * slice + slot - start) as isize);
                store(output, slot as isize, U::combine(load(output, slot as isize), update));
            }
        }
    }
    Ok(())
}

/// Passes every scatter to a macro: for each the items of both kernels, the type of an element, and what an update does.
macro_rules! scatter_kernels {
    ($then:ident) => {
        $then! {
            SCATTER_ELEMENTS_B1 SCATTER_ND_B1 { u8 } Replace;
            SCATTER_ELEMENTS_B2 SCATTER_ND_B2 { u16 } Replace;
            SCATTER_ELEMENTS_B4 SCATTER_ND_B4 { u32 } Replace;
            SCATTER_ELEMENTS_B8 SCATTER_ND_B8 { u64 } Replace;
            SCATTER_ELEMENTS_B16 SCATTER_ND_B16 { [u64; 2] } Replace;
            SCATTER_ELEMENTS_ADD_F32 SCATTER_ND_ADD_F32 { f32 } Add;
            SCATTER_ELEMENTS_ADD_F64 SCATTER_ND_ADD_F64 { f64 } Add;
            SCATTER_ELEMENTS_ADD_I32 SCATTER_ND_ADD_I32 { i32 } Add;
            SCATTER_ELEMENTS_ADD_I64 SCATTER_ND_ADD_I64 { i64 } Add;
            SCATTER_ELEMENTS_ADD_U64 SCATTER_ND_ADD_U64 { u64 } Add;
            SCATTER_ELEMENTS_MUL_F32 SCATTER_ND_MUL_F32 { f32 } Mul;
            SCATTER_ELEMENTS_MUL_F64 SCATTER_ND_MUL_F64 { f64 } Mul;
            SCATTER_ELEMENTS_MUL_I32 SCATTER_ND_MUL_I32 { i32 } Mul;
            SCATTER_ELEMENTS_MUL_I64 SCATTER_ND_MUL_I64 { i64 } Mul;
            SCATTER_ELEMENTS_MUL_U64 SCATTER_ND_MUL_U64 { u64 } Mul;
            SCATTER_ELEMENTS_MAX_F32 SCATTER_ND_MAX_F32 { f32 } Max;
            SCATTER_ELEMENTS_MAX_F64 SCATTER_ND_MAX_F64 { f64 } Max;
            SCATTER_ELEMENTS_MAX_I32 SCATTER_ND_MAX_I32 { i32 } Max;
            SCATTER_ELEMENTS_MAX_I64 SCATTER_ND_MAX_I64 { i64 } Max;
            SCATTER_ELEMENTS_MAX_U64 SCATTER_ND_MAX_U64 { u64 } Max;
            SCATTER_ELEMENTS_MIN_F32 SCATTER_ND_MIN_F32 { f32 } Min;
            SCATTER_ELEMENTS_MIN_F64 SCATTER_ND_MIN_F64 { f64 } Min;
            SCATTER_ELEMENTS_MIN_I32 SCATTER_ND_MIN_I32 { i32 } Min;
            SCATTER_ELEMENTS_MIN_I64 SCATTER_ND_MIN_I64 { i64 } Min;
            SCATTER_ELEMENTS_MIN_U64 SCATTER_ND_MIN_U64 { u64 } Min;
        }
    };
}
#[cfg(feature = "reference")]
pub(crate) use scatter_kernels;

macro_rules! kernels {
    ($($elements:ident $nd:ident { $ty:ty } $update:ident;)*) => {
        define_kernels! {$(
            #[doc = concat!("Elements among those of type `", stringify!($ty), "`: ", stringify!($update), ".")]
            $elements: |call| validate_elements(call, size_of::<$ty>() as u64), element_chunks,
                PerIsa::portable(scatter_elements::<$ty, $update>);
            #[doc = concat!("Slices among those of type `", stringify!($ty), "`: ", stringify!($update), ".")]
            $nd: |call| validate_nd(call, size_of::<$ty>() as u64), nd_chunks,
                PerIsa::portable(scatter_nd::<$ty, $update>);
        )*}
    };
}

scatter_kernels!(kernels);

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, attack, bytes, check, check_error};

    const OPERATIONS: [&str; 4] = ["add", "mul", "max", "min"];

    fn elements(dims: &[u64], index_dims: &[u64], axis: u64, index_bytes: u64) -> ScatterElements {
        let mut p =
            ScatterElements { rank: dims.len() as u64, axis, index_bytes, ..ScatterElements::default() };
        p.dims[..dims.len()].copy_from_slice(dims);
        p.index_dims[..dims.len()].copy_from_slice(index_dims);
        p
    }

    fn nd(dims: &[u64], slice: u64, rows: u64, index_bytes: u64) -> ScatterNd {
        let mut p = ScatterNd { depth: dims.len() as u64, slice, rows, index_bytes, ..ScatterNd::default() };
        p.dims[..dims.len()].copy_from_slice(dims);
        p
    }

    /// Indices into axes of these lengths, in turns, some of them from the end.
    fn indices(random: &mut Random, count: u64, lengths: &[u64]) -> Vec<i64> {
        let index = |at: usize| {
            let length = lengths[at % lengths.len()].max(1);
            (random.next() % (2 * length)) as i64 - length as i64
        };
        (0..count as usize).map(index).collect()
    }

    /// Every kernel of one call, on bytes and numbers among which are NaN and infinities.
    fn every_way<P: bytemuck::Pod>(family: &str, p: [&P; 2], index: &[i64], total: usize, updates: usize) {
        let narrow: Vec<i32> = index.iter().map(|&index| index as i32).collect();
        for (p, index) in [(p[0], bytes(index)), (p[1], bytes(&narrow))] {
            for width in [1, 2, 4, 8, 16] {
                let (data, new): (Vec<u8>, Vec<u8>) = (
                    (0..total * width).map(|i| (i * 7 % 251) as u8).collect(),
                    (0..updates * width).map(|i| (i * 11 % 241) as u8).collect(),
                );
                let name = format!("{family}_b{width}");
                check(&name, p, &[&data, index, &new], &[total * width], |_, _, _: u8, _: u8| false);
            }
            let mut random = Random::new(31);
            let (mut data, mut new) = (random.whole(total, 9), random.whole(updates, 9));
            for operation in OPERATIONS {
                let same = |_: usize, _: usize, a: f32, b: f32| a.is_nan() && b.is_nan();
                let name = format!("{family}_{operation}_f32");
                check(&name, p, &[bytes(&data), index, bytes(&new)], &[total * 4], same);
                data.iter_mut().step_by(5).for_each(|x| *x = f32::NAN);
                new.iter_mut().step_by(7).for_each(|x| *x = f32::NAN);
                let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                let whole = |x: &[f32]| x.iter().map(|&x| x as i64).collect::<Vec<_>>();
                let half = |x: &[f32]| x.iter().map(|&x| x as i32).collect::<Vec<_>>();
                let same = |_: usize, _: usize, a: f64, b: f64| a.is_nan() && b.is_nan();
                let name = |ty: &str| format!("{family}_{operation}_{ty}");
                check(&name("f64"), p, &[bytes(&wide(&data)), index, bytes(&wide(&new))], &[total * 8], same);
                let never = |_: usize, _: usize, _: u8, _: u8| false;
                for ty in ["i64", "u64"] {
                    let (data, new) = (whole(&data), whole(&new));
                    check(&name(ty), p, &[bytes(&data), index, bytes(&new)], &[total * 8], never);
                }
                check(
                    &name("i32"),
                    p,
                    &[bytes(&half(&data)), index, bytes(&half(&new))],
                    &[total * 4],
                    never,
                );
            }
        }
    }

    #[test]
    fn elements_agree_with_the_oracle() {
        let cases: [(&[u64], &[u64], u64); 8] = [
            (&[7], &[12], 0),
            (&[5, 9], &[3, 4], 0),
            (&[5, 9], &[3, 40], 1),
            (&[3, 4, 5], &[2, 6, 5], 1),
            (&[3, 4, 5], &[3, 2, 0], 1),
            (&[2, 70, 3, 2], &[1, 90, 2, 2], 1),
            (&[0, 4], &[0, 3], 1),
            (&[130, 67], &[2, 67], 0),
        ];
        for (dims, index_dims, axis) in cases {
            let mut random = Random::new(30);
            let count = index_dims.iter().product();
            let index = indices(&mut random, count, &dims[axis as usize..][..1]);
            let p = [8, 4].map(|bytes| elements(dims, index_dims, axis, bytes));
            let total = dims.iter().product::<u64>() as usize;
            every_way("scatter_elements", [&p[0], &p[1]], &index, total, count as usize);
        }
    }

    #[test]
    fn slices_agree_with_the_oracle() {
        let cases: [(&[u64], u64, u64); 7] = [
            (&[7], 1, 12),
            (&[7], 33, 5),
            (&[3, 5], 4, 6),
            (&[3, 5, 2], 1, 40),
            (&[4], 0, 3),
            (&[4, 2], 3, 0),
            (&[3, 400], 7, 5),
        ];
        for (dims, slice, rows) in cases {
            let mut random = Random::new(32);
            let index = indices(&mut random, rows * dims.len() as u64, dims);
            let p = [8, 4].map(|bytes| nd(dims, slice, rows, bytes));
            let total = (dims.iter().product::<u64>() * slice) as usize;
            every_way("scatter_nd", [&p[0], &p[1]], &index, total, (rows * slice) as usize);
        }
    }

    #[test]
    fn indices_outside_the_axis_are_errors() {
        let data = [0u8; 60];
        for index in [5, -6, i64::MAX, i64::MIN] {
            let error = RunError::IndexOutOfRange { index, length: 5 };
            let wrong = [0, 1, 1, index];
            let p = elements(&[5, 2], &[2, 2], 0, 8);
            let inputs = [&data[..40], bytes(&wrong), &data[..16]];
            check_error("scatter_elements_b4", &p, &inputs, &[40], error);
            let inputs = [&data[..40], bytes(&wrong), &data[..8]];
            check_error("scatter_nd_add_i32", &nd(&[2, 5], 1, 2, 8), &inputs, &[40], error);
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let (data, index) = ([1u8; 240], indices(&mut Random::new(33), 24, &[3]));
        let p = elements(&[5, 3, 4], &[2, 4, 3], 1, 8);
        attack("scatter_elements_b4", &p, &[&data, bytes(&index), &data[..96]], &[240]);
        attack("scatter_elements_add_f32", &p, &[&data, bytes(&index), &data[..96]], &[240]);
        let p = nd(&[5, 3], 4, 6, 8);
        attack("scatter_nd_b4", &p, &[&data, bytes(&index[..12]), &data[..96]], &[240]);
    }
}
