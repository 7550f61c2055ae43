//! Moving elements without looking at them: strided copies, fills, and (in `index`) selection by index.
//!
//! A copy walks the output's axes with the smallest output stride innermost. Where the input is contiguous along
//! another axis, as in a transpose, the plane of the two is copied in square tiles, so that each cache line of
//! either side is fetched once; else it goes run by run, contiguous runs by memmove.

use crate::call::{Elementwise, MAX_RANK};
use crate::{Args, Call, Invalid, PerIsa, RunError};

use super::elementwise::{Rows, chunks, define_kernels, load, store, total, validate, validate_unary};

pub(crate) mod index;

pub use index::*;

/// An element moved as it is.
pub(crate) trait Element: Copy {
    /// The element whose bytes are the low ones of `value`.
    fn low(value: u64) -> Self;
}

macro_rules! elements {
    ($($t:ident)*) => {$(
        impl Element for $t {
            fn low(value: u64) -> $t {
                value as $t
            }
        }
    )*};
}

elements!(u8 u16 u32 u64);

/// The side of a tile of elements of type `T`: at least a cache line.
const fn tile_side<T>() -> usize {
    if size_of::<T>() < 4 { 64 / size_of::<T>() } else { 16 }
}

/// Short runs that are copied element by element across.
const NEAR: isize = 128;

/// How a copy is walked.
struct Plan {
    /// The call with its axes in the order of the walk, none of extent 1.
    call: Elementwise,
    /// Whether the last two axes are copied by tiles.
    tiled: bool,
}

impl Plan {
    #[inline(never)]
    fn new(params: &Elementwise) -> Plan {
        let mut order = [0usize; MAX_RANK];
        let mut rank = 0;
        for axis in (0..params.rank as usize).filter(|&axis| params.dims[axis] != 1) {
            order[rank] = axis;
            rank += 1;
        }
        let order = &mut order[..rank];
        let [input, output, ..] = &params.strides;
        order.sort_unstable_by_key(|&axis| std::cmp::Reverse(output[axis].unsigned_abs()));
        let mut tiled = false;
        if let Some((&inner, outer)) = order.split_last()
            && input[inner].unsigned_abs() > 1
            && let Some(near) = outer.iter().position(|&axis| input[axis].unsigned_abs() == 1)
        {
            tiled = true;
            order[near..rank - 1].rotate_left(1);
        }
        let mut call = Elementwise { rank: rank as u64, offsets: params.offsets, ..Elementwise::default() };
        for (to, &from) in order.iter().enumerate() {
            call.dims[to] = params.dims[from];
            call.strides[0][to] = input[from];
            call.strides[1][to] = output[from];
        }
        Plan { call, tiled }
    }
}

/// One chunk of a copy.
unsafe fn copy<T: Copy>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let plan = Plan::new(args.params());
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[1].ptr::<T>());
    // SAFETY: the call was validated, and the plan touches the same elements.
    unsafe {
        if plan.tiled {
            copy_tiled(&plan.call, input, output, chunk, chunks);
        } else {
            copy_rows(&plan.call, input, output, chunk, chunks);
        }
    }
    Ok(())
}

/// # Safety
///
/// The call is valid for the operands.
unsafe fn copy_rows<T: Copy>(
    call: &Elementwise,
    input: *const T,
    output: *mut T,
    chunk: usize,
    chunks: usize,
) {
    let mut rows = Rows::<2>::of_chunk(call, chunk, chunks);
    let [between_from, between_to] = rows.between();
    while let Some(([from, to], count, runs)) = rows.next_several() {
        // SAFETY: runs lie inside the operands; memmove also serves a copy onto itself.
        unsafe {
            let (mut input, mut output) = (input.offset(from), output.offset(to));
            let [step_from, step_to] = rows.inner;
            if count < 8 && runs > count {
                // Along the longer side, as far as the cache surely keeps what one pass leaves for the next.
                let mut first = 0;
                while first < runs as isize {
                    let last = (first + NEAR).min(runs as isize);
                    for i in 0..count as isize {
                        let (input, output) = (input.offset(i * step_from), output.offset(i * step_to));
                        for run in first..last {
                            store(output, run * between_to, load(input, run * between_from));
                        }
                    }
                    first = last;
                }
                continue;
            }
            for _ in 0..runs {
                match rows.inner {
                    [1, 1] if count * size_of::<T>() >= 32 => {
                        std::ptr::copy(input.cast::<u8>(), output.cast::<u8>(), count * size_of::<T>());
                    }
                    [0, 1] => {
                        let value = load(input, 0);
                        for i in 0..count as isize {
                            store(output, i, value);
                        }
                    }
                    _ => {
                        for i in 0..count as isize {
                            store(output, i * step_to, load(input, i * step_from));
                        }
                    }
                }
                input = input.wrapping_offset(between_from);
                output = output.wrapping_offset(between_to);
            }
        }
    }
}

/// # Safety
///
/// The call is valid for the operands and has at least two axes.
unsafe fn copy_tiled<T: Copy>(
    call: &Elementwise,
    input: *const T,
    output: *mut T,
    chunk: usize,
    chunks: usize,
) {
    let side = tile_side::<T>();
    let rank = call.rank as usize;
    let (height, width) = (call.dims[rank - 2] as usize, call.dims[rank - 1] as usize);
    let [from_y, to_y] = [0, 1].map(|operand| call.strides[operand][rank - 2] as isize);
    let [from_x, to_x] = [0, 1].map(|operand| call.strides[operand][rank - 1] as isize);
    let (tiles_y, tiles_x) = (height.div_ceil(side), width.div_ceil(side));
    // The outer axes, each plane cut into bands of tiles: (plane, tile row, tile column), flat.
    let outer = Elementwise { rank: call.rank - 2, ..*call };
    let tiles = super::share(total(&outer) * tiles_y * tiles_x, chunk, chunks);
    if tiles.is_empty() {
        return;
    }
    let planes = tiles.start / (tiles_y * tiles_x)..tiles.end.div_ceil(tiles_y * tiles_x);
    let mut tile = tiles.start;
    let mut rows = Rows::<2>::new(&outer, planes.clone());
    let mut plane = planes.start;
    while let Some((at, count)) = rows.next() {
        for i in 0..count as isize {
            let [from, to] = [0, 1].map(|operand| at[operand] + i * rows.inner[operand]);
            plane += 1;
            let end = tiles.end.min(plane * tiles_y * tiles_x);
            for tile in tile..end {
                let y = tile / tiles_x % tiles_y * side;
                let x = tile % tiles_x * side;
                let (y_end, x_end) = ((y + side).min(height) as isize, (x + side).min(width) as isize);
                for y in y as isize..y_end {
                    // SAFETY: the tile is cut from the plane, which lies inside the operands.
                    unsafe {
                        let (input, output) = (input.offset(from + y * from_y), output.offset(to + y * to_y));
                        for x in x as isize..x_end {
                            store(output, x * to_x, load(input, x * from_x));
                        }
                    }
                }
            }
            tile = end;
        }
    }
}

/// One chunk of a fill.
unsafe fn fill<T: Element>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params: &Elementwise = args.params();
    let value = T::low(params.value);
    let output = args.operands[0].ptr::<T>();
    let mut rows = Rows::<1>::of_chunk(params, chunk, chunks);
    while let Some(([at], count)) = rows.next() {
        let [step] = rows.inner;
        // SAFETY: the call was validated, so that every element of the index space lies inside its operand.
        unsafe {
            let output = output.offset(at);
            if step == 1 {
                for i in 0..count as isize {
                    store(output, i, value);
                }
            } else {
                for i in 0..count as isize {
                    store(output, i * step, value);
                }
            }
        }
    }
    Ok(())
}

fn validate_fill<T>(call: &Call<'_>) -> Result<(), Invalid> {
    validate(call, &[size_of::<T>() as u64])
}

define_kernels! {
    /// Copies elements of one byte.
    COPY_B1: validate_unary::<u8, u8>, chunks, PerIsa::portable(copy::<u8>);
    /// Copies elements of two bytes.
    COPY_B2: validate_unary::<u16, u16>, chunks, PerIsa::portable(copy::<u16>);
    /// Copies elements of four bytes.
    COPY_B4: validate_unary::<u32, u32>, chunks, PerIsa::portable(copy::<u32>);
    /// Copies elements of eight bytes.
    COPY_B8: validate_unary::<u64, u64>, chunks, PerIsa::portable(copy::<u64>);
    /// Copies elements of sixteen bytes.
    COPY_B16: validate_unary::<[u64; 2], [u64; 2]>, chunks, PerIsa::portable(copy::<[u64; 2]>);
    /// Writes one value everywhere: elements of one byte.
    FILL_B1: validate_fill::<u8>, chunks, PerIsa::portable(fill::<u8>);
    /// Writes one value everywhere: elements of two bytes.
    FILL_B2: validate_fill::<u16>, chunks, PerIsa::portable(fill::<u16>);
    /// Writes one value everywhere: elements of four bytes.
    FILL_B4: validate_fill::<u32>, chunks, PerIsa::portable(fill::<u32>);
    /// Writes one value everywhere: elements of eight bytes.
    FILL_B8: validate_fill::<u64>, chunks, PerIsa::portable(fill::<u64>);
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::cpu::testing::{attack, check};

    /// A copy of a row-major tensor into a row-major one with its axes in another order.
    fn transpose(shape: &[usize], order: &[usize]) -> Elementwise {
        let mut input = vec![1i64; shape.len()];
        for axis in (1..shape.len()).rev() {
            input[axis - 1] = input[axis] * shape[axis] as i64;
        }
        let to: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let from: Vec<i64> = order.iter().map(|&axis| input[axis]).collect();
        let mut output = vec![1i64; to.len()];
        for axis in (1..to.len()).rev() {
            output[axis - 1] = output[axis] * to[axis] as i64;
        }
        Elementwise::new(&to, &[(&from, 0), (&output, 0)]).unwrap()
    }

    #[test]
    fn transposes_agree_with_the_oracle() {
        let shapes: [(&[usize], &[usize]); 5] = [
            (&[67, 35], &[1, 0]),
            (&[2, 19, 33, 3], &[0, 3, 1, 2]),
            (&[3, 5, 66], &[2, 1, 0]),
            (&[4, 2, 3, 16], &[0, 2, 1, 3]),
            (&[2, 3, 4, 5, 6], &[4, 0, 3, 1, 2]),
        ];
        for (shape, order) in shapes {
            let call = transpose(shape, order);
            let count = shape.iter().product::<usize>();
            let data: Vec<u8> = (0..count * 16).map(|i| (i * 7 % 251) as u8).collect();
            for width in [1, 2, 4, 8, 16] {
                let name = format!("copy_b{width}");
                check(&name, &call, &[&data[..count * width]], &[count * width], |_, _, _: u8, _: u8| false);
            }
        }
        // Short runs with gaps between them, on either side.
        for (shape, input, output) in
            [([300usize, 3], [7i64, 1], [3i64, 1]), ([300, 3], [3, 1], [5, 1]), ([9, 7], [7, -1], [8, 1])]
        {
            let call = Elementwise::new(&shape, &[(&input, 6), (&output, 0)]).unwrap();
            let data: Vec<u8> = (0..2200 * 8).map(|i| (i * 7 % 251) as u8).collect();
            for width in [1, 4, 8] {
                let (from, to) = (&data[..2200 * width], 1600 * width);
                check(&format!("copy_b{width}"), &call, &[from], &[to], |_, _, _: u8, _: u8| false);
            }
        }
        let data = vec![7u8; 60];
        attack("copy_b2", &transpose(&[5, 6], &[1, 0]), &[&data], &[60]);
    }

    #[test]
    fn fills_agree_with_the_oracle() {
        let contiguous = Elementwise::new(&[77], &[(&[1], 0)]).unwrap();
        let frame = Elementwise::new(&[3, 5], &[(&[20, -2], 9)]).unwrap();
        for mut call in [contiguous, frame] {
            call.value = 0x0123_4567_89ab_cdef;
            for width in [1, 2, 4, 8] {
                check(&format!("fill_b{width}"), &call, &[], &[77 * width], |_, _, _: u8, _: u8| false);
            }
        }
        let small = Elementwise::new(&[3, 5], &[(&[5, 1], 0)]).unwrap();
        assert!(
            (FILL_B4.validate)(&Call { params: bytemuck::bytes_of(&small), operand_bytes: &[59] }).is_err()
        );
        attack("fill_b4", &small, &[], &[60]);
    }
}
