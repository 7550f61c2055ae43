//! Selection by index: gather along one axis, and the map of every axis through a table.
//!
//! Indices are data, so a call is only as safe as the checks made here while it runs.

use std::ops::Range;

use super::Element;
use crate::call::{Gather, IndexMap, MAX_RANK};
use crate::cpu::elementwise::{count, define_kernels, load, part, split, store};
use crate::{Args, Call, Invalid, PerIsa, RunError};

/// Below this many bytes a loop is quicker than a call of memcpy.
const SMALL: usize = 64;

/// Copies a run of elements.
///
/// # Safety
///
/// Both sides hold `count` elements and do not overlap.
#[inline(always)]
unsafe fn copy_run<T: Copy>(from: *const T, to: *mut T, count: usize) {
    // SAFETY: passed on.
    unsafe {
        if count * size_of::<T>() >= SMALL {
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), count * size_of::<T>());
        } else {
            for i in 0..count as isize {
                store(to, i, load(from, i));
            }
        }
    }
}

pub(crate) fn validate_gather<T>(call: &Call<'_>) -> Result<(), Invalid> {
    let params: &Gather = call.params()?;
    call.expect_operands(3)?;
    if params.index_bytes != 4 && params.index_bytes != 8 {
        return Err(Invalid("indices of other than 4 or 8 bytes"));
    }
    let bytes = size_of::<T>() as u64;
    call.expect_elements(0, count(&[params.outer, params.axis, params.inner]), bytes)?;
    call.expect_elements(1, Some(params.indices), params.index_bytes)?;
    call.expect_elements(2, count(&[params.outer, params.indices, params.inner]), bytes)
}

fn gather_total(params: &Gather) -> usize {
    count(&[params.outer, params.indices, params.inner]).unwrap_or(0) as usize
}

fn gather_chunks(args: &Args<'_>, threads: usize) -> usize {
    split(gather_total(args.params()), threads)
}

/// One chunk of a gather.
unsafe fn gather<T: Copy>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params: &Gather = args.params();
    let Range { start, end } = part(gather_total(params), chunk, chunks);
    if start == end {
        return Ok(());
    }
    let (data, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[2].ptr::<T>());
    let (axis, inner, indices) = (params.axis as usize, params.inner as usize, params.indices as usize);
    let mut at = start;
    let (slice, mut skip) = (start / inner, start % inner);
    let (mut outer, mut position) = (slice / indices, slice % indices);
    while at < end {
        // SAFETY: the position is below the number of indices, which the operand was validated to hold.
        let index = unsafe {
            match params.index_bytes {
                4 => i64::from(load(args.operands[1].ptr::<i32>(), position as isize)),
                _ => load(args.operands[1].ptr::<i64>(), position as isize),
            }
        };
        let selected = if index < 0 { index.wrapping_add(axis as i64) } else { index };
        let selected = match usize::try_from(selected) {
            Ok(selected) if selected < axis => selected,
            _ => return Err(RunError::IndexOutOfRange { index, length: params.axis }),
        };
        let run = (inner - skip).min(end - at);
        // SAFETY: the slice lies inside the data since `selected` is below the axis; `at..at + run` inside the
        // output, which does not overlap its inputs.
        unsafe { copy_run(data.add((outer * axis + selected) * inner + skip), output.add(at), run) };
        at += run;
        skip = 0;
        position += 1;
        if position == indices {
            position = 0;
            outer += 1;
        }
    }
    Ok(())
}

fn map_dims(params: &IndexMap) -> Option<(&[u64], &[u64])> {
    let rank = usize::try_from(params.rank).ok()?;
    Some((params.in_dims.get(..rank)?, params.out_dims.get(..rank)?))
}

pub(crate) fn validate_map<T>(call: &Call<'_>) -> Result<(), Invalid> {
    let params: &IndexMap = call.params()?;
    call.expect_operands(3)?;
    let (in_dims, out_dims) = map_dims(params).ok_or(Invalid("more than eight axes"))?;
    let bytes = size_of::<T>() as u64;
    call.expect_elements(0, count(in_dims), bytes)?;
    let entries = out_dims.iter().try_fold(0u64, |sum, &extent| sum.checked_add(extent));
    call.expect_elements(1, entries, size_of::<i64>() as u64)?;
    call.expect_elements(2, count(out_dims), bytes)
}

fn map_total(params: &IndexMap) -> usize {
    map_dims(params).and_then(|(_, out_dims)| count(out_dims)).unwrap_or(0) as usize
}

fn map_chunks(args: &Args<'_>, threads: usize) -> usize {
    split(map_total(args.params()), threads)
}

/// The tables of a map, every entry checked.
struct Tables {
    rank: usize,
    table: [*const i64; MAX_RANK],
    in_strides: [usize; MAX_RANK],
    /// The longest stretch of the innermost table that counts up by one from a valid index.
    run: Range<usize>,
}

impl Tables {
    /// # Safety
    ///
    /// The call is valid, and the tables do not change while this value is used.
    #[inline(never)]
    unsafe fn new(params: &IndexMap, mut table: *const i64) -> Result<Self, RunError> {
        let rank = params.rank as usize;
        let mut tables = Tables { rank, table: [table; MAX_RANK], in_strides: [1; MAX_RANK], run: 0..0 };
        for axis in (1..rank).rev() {
            // Where an extent is 0 a product may overflow: no index is valid then and no stride is used.
            tables.in_strides[axis - 1] = tables.in_strides[axis].wrapping_mul(params.in_dims[axis] as usize);
        }
        for axis in 0..rank {
            tables.table[axis] = table;
            let length = params.out_dims[axis] as usize;
            let mut run = 0..0;
            let mut previous = -1;
            for position in 0..length {
                // SAFETY: the tables hold as many entries as the output has extents, as validated.
                let index = unsafe { load(table, position as isize) };
                if index != -1 && !u64::try_from(index).is_ok_and(|index| index < params.in_dims[axis]) {
                    return Err(RunError::IndexOutOfRange { index, length: params.in_dims[axis] });
                }
                if index == -1 {
                    run = position + 1..position + 1;
                } else if !run.is_empty() && index == previous + 1 {
                    run.end += 1;
                } else {
                    run = position..position + 1;
                }
                if axis == rank - 1 && run.len() > tables.run.len() {
                    tables.run = run.clone();
                }
                previous = index;
            }
            // SAFETY: as above.
            table = unsafe { table.add(length) };
        }
        Ok(tables)
    }

    /// The input element of index `position` along `axis`, relative to those of the other axes.
    ///
    /// # Safety
    ///
    /// `position` is below the output's extent.
    #[inline(always)]
    unsafe fn offset(&self, axis: usize, position: usize) -> Option<usize> {
        // SAFETY: passed on.
        let index = unsafe { load(self.table[axis], position as isize) };
        if index < 0 { None } else { Some((index as usize).wrapping_mul(self.in_strides[axis])) }
    }
}

/// One chunk of an index map.
unsafe fn index_map<T: Element>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params: &IndexMap = args.params();
    let Range { start, end } = part(map_total(params), chunk, chunks);
    if start == end {
        return Ok(());
    }
    // SAFETY: the call is valid and its operands stay as they are, by the contract of `ChunkFn`.
    let tables = unsafe { Tables::new(params, args.operands[1].ptr())? };
    let value = T::low(params.value);
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[2].ptr::<T>());
    let Some(last) = tables.rank.checked_sub(1) else {
        // SAFETY: without axes there is one element on either side.
        unsafe { store(output, 0, load(input, 0)) };
        return Ok(());
    };
    let width = params.out_dims[last] as usize;
    let mut at = start;
    while at < end {
        let (mut row, first) = (at / width, at % width);
        let range = first..width.min(first + (end - at));
        let mut base = Some(0);
        for axis in (0..last).rev() {
            let extent = params.out_dims[axis] as usize;
            // SAFETY: a remainder is below the extent.
            let offset = unsafe { tables.offset(axis, row % extent) };
            base = base.zip(offset).map(|(base, offset): (usize, usize)| base.wrapping_add(offset));
            row /= extent;
        }
        // SAFETY: the row's elements at `range` lie inside the output; `base` and the entries of the innermost
        // table, all checked, name elements of the input.
        unsafe {
            let output = output.add(at - first);
            match base {
                None => range.clone().for_each(|x| store(output, x as isize, value)),
                Some(base) => map_row(&tables, last, input.wrapping_add(base), output, range.clone(), value),
            }
        }
        at += range.len();
    }
    Ok(())
}

/// Writes the elements `range` of one row of the output.
///
/// # Safety
///
/// `input` and `output` are the first elements of rows that the tables were checked for.
#[inline(always)]
unsafe fn map_row<T: Copy>(
    tables: &Tables,
    last: usize,
    input: *const T,
    output: *mut T,
    range: Range<usize>,
    value: T,
) {
    let run = tables.run.start.clamp(range.start, range.end)..tables.run.end.clamp(range.start, range.end);
    // SAFETY: passed on; the entries of a run count up by one, each of them valid.
    unsafe {
        for x in (range.start..run.start).chain(run.end..range.end) {
            let element = tables.offset(last, x).map_or(value, |offset| load(input, offset as isize));
            store(output, x as isize, element);
        }
        if !run.is_empty() {
            let from = load(tables.table[last], run.start as isize) as usize;
            copy_run(input.add(from), output.add(run.start), run.len());
        }
    }
}

define_kernels! {
    /// Slices selected by index: elements of one byte.
    GATHER_B1: validate_gather::<u8>, gather_chunks, PerIsa::portable(gather::<u8>);
    /// Slices selected by index: elements of two bytes.
    GATHER_B2: validate_gather::<u16>, gather_chunks, PerIsa::portable(gather::<u16>);
    /// Slices selected by index: elements of four bytes.
    GATHER_B4: validate_gather::<u32>, gather_chunks, PerIsa::portable(gather::<u32>);
    /// Slices selected by index: elements of eight bytes.
    GATHER_B8: validate_gather::<u64>, gather_chunks, PerIsa::portable(gather::<u64>);
    /// Every axis through a table: elements of one byte.
    INDEX_MAP_B1: validate_map::<u8>, map_chunks, PerIsa::portable(index_map::<u8>);
    /// Every axis through a table: elements of two bytes.
    INDEX_MAP_B2: validate_map::<u16>, map_chunks, PerIsa::portable(index_map::<u16>);
    /// Every axis through a table: elements of four bytes.
    INDEX_MAP_B4: validate_map::<u32>, map_chunks, PerIsa::portable(index_map::<u32>);
    /// Every axis through a table: elements of eight bytes.
    INDEX_MAP_B8: validate_map::<u64>, map_chunks, PerIsa::portable(index_map::<u64>);
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::cpu::testing::{attack, bytes, check};
    use crate::{Isa, Operand, RunError};

    fn data(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i * 7 % 251) as u8).collect()
    }

    #[test]
    fn gathers_agree_with_the_oracle() {
        let wide: Vec<i64> = vec![0, -1, 4, -5, 2, 2, 3];
        let narrow: Vec<i32> = wide.iter().map(|&index| index as i32).collect();
        for (outer, inner, indices) in
            [(1, 1, 7), (3, 1, 7), (2, 5, 7), (1, 70, 7), (2, 0, 7), (3, 4, 0), (0, 4, 7)]
        {
            for (index_bytes, table) in [(8, bytes(&wide)), (4, bytes(&narrow))] {
                let call = Gather { outer, axis: 5, inner, indices, index_bytes };
                for width in [1, 2, 4, 8] {
                    let input = data((outer * 5 * inner) as usize * width);
                    let output = (outer * indices * inner) as usize * width;
                    let name = format!("gather_b{width}");
                    check(&name, &call, &[&input, table], &[output], |_, _, _: u8, _: u8| false);
                }
            }
        }
        let call = Gather { outer: 2, axis: 5, inner: 3, indices: 7, index_bytes: 8 };
        attack("gather_b4", &call, &[&data(120), bytes(&wide)], &[168]);
    }

    /// What one chunk of `kernel` says to these inputs, its output being of `output_bytes`.
    fn outcome<P: bytemuck::Pod>(
        kernel: &crate::Kernel,
        params: &P,
        inputs: [&[u8]; 2],
        output_bytes: usize,
    ) -> Result<(), RunError> {
        let mut output = vec![0u64; output_bytes.div_ceil(8)];
        let operands = [
            Operand { data: inputs[0].as_ptr().cast_mut(), bytes: inputs[0].len() },
            Operand { data: inputs[1].as_ptr().cast_mut(), bytes: inputs[1].len() },
            Operand { data: output.as_mut_ptr().cast(), bytes: output_bytes },
        ];
        let sizes = operands.map(|operand| operand.bytes as u64);
        let params = bytemuck::bytes_of(params);
        (kernel.validate)(&Call { params, operand_bytes: &sizes }).unwrap();
        // SAFETY: the call is valid for these operands, and portable code runs on every processor.
        unsafe { kernel.run.get(Isa::Scalar)(&Args { params, operands: &operands }, 0, 1) }
    }

    #[test]
    fn indices_outside_the_axis_are_errors() {
        for index in [5, -6, i64::MAX, i64::MIN] {
            let call = Gather { outer: 1, axis: 5, inner: 2, indices: 2, index_bytes: 8 };
            let result = outcome(&GATHER_B4, &call, [&data(40), bytes(&[0, index])], 16);
            assert_eq!(result, Err(RunError::IndexOutOfRange { index, length: 5 }));
        }
        for index in [5, -2, i64::MAX, i64::MIN] {
            for table in [[0, index, 1], [index, 0, 1]] {
                let call = map(&[5, 5], &[1, 2]);
                let result = outcome(&INDEX_MAP_B4, &call, [&data(100), bytes(&table)], 8);
                assert_eq!(result, Err(RunError::IndexOutOfRange { index, length: 5 }));
            }
        }
    }

    fn map(in_dims: &[u64], out_dims: &[u64]) -> IndexMap {
        let mut call =
            IndexMap { rank: in_dims.len() as u64, value: 0x0102_0304_0506_0708, ..IndexMap::default() };
        call.in_dims[..in_dims.len()].copy_from_slice(in_dims);
        call.out_dims[..out_dims.len()].copy_from_slice(out_dims);
        call
    }

    #[test]
    fn index_maps_agree_with_the_oracle() {
        let cases: [(&[u64], &[&[i64]]); 7] = [
            (&[], &[]),
            (&[4], &[&[-1, -1, 0, 1, 2, 3, -1]]),
            (&[3, 4], &[&[-1, 0, 1, 2, -1], &[2, 1, 0, 1, 2, 3, 2, 1]]),
            (&[2, 2, 3], &[&[0, 1], &[0, 0, 1, 1], &[0, 0, 1, 1, 2, 2]]),
            (&[2, 3, 2, 3], &[&[1], &[-1, 2], &[1, 0], &[-1, -1, -1]]),
            (&[0, 3], &[&[-1, -1], &[0, 1, 2]]),
            (&[3, 3], &[&[], &[0, 1]]),
        ];
        for (in_dims, tables) in cases {
            let out_dims: Vec<u64> = tables.iter().map(|table| table.len() as u64).collect();
            let call = map(in_dims, &out_dims);
            let tables = tables.concat();
            for width in [1, 2, 4, 8] {
                let input = data(in_dims.iter().product::<u64>() as usize * width);
                let output = out_dims.iter().product::<u64>() as usize * width;
                let name = format!("index_map_b{width}");
                check(&name, &call, &[&input, bytes(&tables)], &[output], |_, _, _: u8, _: u8| false);
            }
        }
        attack("index_map_b2", &map(&[3, 4], &[2, 3]), &[&data(24), bytes(&[0i64, 2, 1, 2, 3])], &[12]);
        // A long run is moved as one.
        let long: Vec<i64> = [-1, 5].into_iter().chain(0..200).chain([7, -1]).collect();
        let call = map(&[200], &[204]);
        check("index_map_b4", &call, &[&data(800), bytes(&long)], &[816], |_, _, _: u32, _: u32| false);
    }
}
