//! Products of matrices of the types that models seldom multiply.
//!
//! out[i, j] = Σ over k, in order, of a[i, k] · b[k, j]. A chunk computes rows of the output; of a few rows it sums a tile
//! of columns at once, so that an element of either matrix serves several sums.

use super::bounds::{product, split};
use super::elementwise::define_kernels;
use super::reduce_ops::Number;
use super::share;
use crate::call::{MAX_RANK, MatMul};
use crate::{Args, Call, Invalid, PerIsa, RunError};

/// Rows and columns that are summed at once.
const ROWS: usize = 4;
const COLUMNS: usize = 16;

/// The sums of `rows` ≤ `ROWS` rows by `columns` ≤ `COLUMNS` columns, from `a`, `b` and `out` on.
///
/// # Safety
///
/// The rows of `a`, the columns of `b` and the elements of `out` lie inside their operands.
#[inline(always)]
unsafe fn tile<T: Number>(p: &MatMul, a: *const T, b: *const T, out: *mut T, rows: usize, columns: usize) {
    let [a_row, b_row] = p.row_strides.map(|stride| stride as usize);
    let [a_column, b_column] = p.column_strides.map(|stride| stride as usize);
    let mut sums = [[T::ZERO; COLUMNS]; ROWS];
    for k in 0..p.k as usize {
        // SAFETY: the caller's promises; positions outside of the tile are not read.
        unsafe {
            let mut right = [T::ZERO; COLUMNS];
            for (column, right) in right[..columns].iter_mut().enumerate() {
                *right = *b.add(k * b_row + column * b_column);
            }
            for (row, sums) in sums[..rows].iter_mut().enumerate() {
                let left = *a.add(row * a_row + k * a_column);
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = sum.plus(left.times(right));
                }
            }
        }
    }
    for (row, sums) in sums[..rows].iter().enumerate() {
        for (column, &sum) in sums[..columns].iter().enumerate() {
            // SAFETY: the caller's promises.
            unsafe { *out.add(row * p.n as usize + column) = sum };
        }
    }
}

#[inline(always)]
unsafe fn matmul<T: Number>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p = args.params::<MatMul>();
    let (left, right) = (args.operands[0].ptr::<T>().cast_const(), args.operands[1].ptr::<T>().cast_const());
    let output = args.operands[2].ptr::<T>();
    let (m, n) = (p.m as usize, p.n as usize);
    let range = share(rows(p) as usize, chunk, chunks);
    let mut done = range.start;
    while done < range.end && n > 0 {
        let row = done % m;
        // Where there is nothing to read, positions may be anything.
        let (mut rest, mut at) = (done / m, [row.wrapping_mul(p.row_strides[0] as usize), 0]);
        for axis in (0..p.rank as usize).rev() {
            let extent = p.dims[axis] as usize;
            for (at, between) in at.iter_mut().zip(&p.between) {
                *at = at.wrapping_add((rest % extent).wrapping_mul(between[axis] as usize));
            }
            rest /= extent;
        }
        let height = (m - row).min(range.end - done).min(ROWS);
        for column in (0..n).step_by(COLUMNS) {
            let width = (n - column).min(COLUMNS);
            // SAFETY: every row and column lies inside its operand (`validate`); the rows of the output are this chunk's.
            unsafe {
                let a = left.wrapping_add(at[0]);
                let first = at[1].wrapping_add(column.wrapping_mul(p.column_strides[1] as usize));
                let b = right.wrapping_add(first);
                let out = output.add(done * n + column);
                // Numbers that are known are loops less.
                match (height, width, p.column_strides[1]) {
                    (ROWS, COLUMNS, 1) => {
                        tile(
                            &MatMul { column_strides: [p.column_strides[0], 1], ..*p },
                            a,
                            b,
                            out,
                            ROWS,
                            COLUMNS,
                        );
                    }
                    _ => tile(p, a, b, out, height, width),
                }
            }
        }
        done += height;
    }
    Ok(())
}

/// The rows of all products.
fn rows(p: &MatMul) -> u64 {
    let dims = p.dims.get(..p.rank as usize).and_then(product);
    dims.and_then(|products| product(&[products, p.m])).unwrap_or(0)
}

pub(crate) fn validate<T: Number>(call: &Call<'_>) -> Result<(), Invalid> {
    let p = call.params::<MatMul>()?;
    call.expect_operands(3)?;
    let rank = usize::try_from(p.rank)
        .ok()
        .filter(|&rank| rank <= MAX_RANK)
        .ok_or(Invalid("more than eight axes"))?;
    let dims = &p.dims[..rank];
    let bytes = size_of::<T>() as u64;
    let products = product(dims).ok_or(Invalid("size overflows"))?;
    call.expect_elements(2, product(&[products, p.m, p.n]), bytes)?;
    // Bounded by itself, for matrices without columns make any number of rows fit.
    product(&[products, p.m]).and_then(|rows| usize::try_from(rows).ok()).ok_or(Invalid("size overflows"))?;
    let is_empty = products == 0 || p.m == 0 || p.n == 0 || p.k == 0;
    // So that the operands bound k.
    if !is_empty && p.k > 1 && (p.column_strides[0] == 0 || p.row_strides[1] == 0) {
        return Err(Invalid("a sum over one element"));
    }
    for (side, extents) in [[p.m, p.k], [p.k, p.n]].into_iter().enumerate() {
        let strides = [p.row_strides[side], p.column_strides[side]];
        let axes = dims.iter().zip(&p.between[side]).chain(extents.iter().zip(&strides));
        let end = axes
            .filter(|_| !is_empty)
            .try_fold(0u64, |last, (&extent, &stride)| last.checked_add((extent - 1).checked_mul(stride)?));
        call.expect_elements(side, end.and_then(|last| last.checked_add(u64::from(!is_empty))), bytes)?;
    }
    Ok(())
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<MatMul>();
    split(rows(p), rows(p).saturating_mul(p.k).saturating_mul(p.n), threads)
}

#[inline(always)]
unsafe fn of_f64(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { matmul::<f64>(args, chunk, chunks) }
}

define_kernels! {
    /// Products of matrices.
    MATMUL_F64: validate::<f64>, chunks, per_isa!(of_f64);
    /// Products of matrices.
    MATMUL_I32: validate::<i32>, chunks, PerIsa::portable(matmul::<i32>);
    /// Products of matrices.
    MATMUL_I64: validate::<i64>, chunks, PerIsa::portable(matmul::<i64>);
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::MatMul;
    use crate::cpu::testing::{Random, attack, bytes, check};

    /// Products of row-major matrices, of which the right one serves all of the first axis; `turned`, transposed ones.
    fn call(dims: [u64; 2], [m, k, n]: [u64; 3], turned: bool) -> (MatMul, [usize; 3]) {
        let mut p = MatMul { rank: 2, m, k, n, ..MatMul::default() };
        p.dims[..2].copy_from_slice(&dims);
        p.between[0][..2].copy_from_slice(&[dims[1] * m * k, m * k]);
        p.between[1][..2].copy_from_slice(&[0, k * n]);
        (p.row_strides, p.column_strides) = if turned { ([1, 1], [m, k]) } else { ([k, n], [1, 1]) };
        let sizes = [dims[0] * dims[1] * m * k, dims[1] * k * n, dims[0] * dims[1] * m * n];
        (p, sizes.map(|size| size as usize))
    }

    #[test]
    fn every_type_agrees_with_the_reference() {
        let mut random = Random::new(50);
        for dims in [[1, 1], [2, 3], [0, 2]] {
            for extents in [[1, 1, 1], [3, 5, 2], [4, 7, 16], [9, 33, 37], [5, 0, 3], [0, 3, 4], [3, 2, 0]] {
                for turned in [false, true] {
                    let (p, [a, b, out]) = call(dims, extents, turned);
                    let [left, right] = [a, b].map(|count| random.whole(count, 50));
                    let doubles = |x: &[f32]| x.iter().map(|&x| f64::from(x) / 7.0).collect::<Vec<f64>>();
                    let (x, y) = (doubles(&left), doubles(&right));
                    check("matmul_f64", &p, &[bytes(&x), bytes(&y)], &[out * 8], |_, _, _: f64, _: f64| {
                        false
                    });
                    let wide = |x: &[f32]| x.iter().map(|&x| (x as i64) << 58 | 3).collect::<Vec<i64>>();
                    let (x, y) = (wide(&left), wide(&right));
                    check("matmul_i64", &p, &[bytes(&x), bytes(&y)], &[out * 8], |_, _, _: i64, _: i64| {
                        false
                    });
                    let short = |x: &[i64]| x.iter().map(|&x| (x >> 32) as i32).collect::<Vec<i32>>();
                    let (x, y) = (short(&x), short(&y));
                    check("matmul_i32", &p, &[bytes(&x), bytes(&y)], &[out * 4], |_, _, _: i32, _: i32| {
                        false
                    });
                }
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let (p, [a, b, out]) = call([2, 3], [5, 7, 18], false);
        let (x, y) = (vec![1i64; a], vec![2i64; b]);
        attack("matmul_f64", &p, &[bytes(&x), bytes(&y)], &[out * 8]);
        attack("matmul_i64", &p, &[bytes(&x), bytes(&y)], &[out * 8]);
    }
}
