//! Reductions and positions of extremes, element by element.

use super::Registered;
use crate::call::{Axis, MAX_RANK, Reduce};
use crate::{Args, RunError, kernels};

/// The offset of position `index`, counted row-major over the first `rank` dimensions.
fn offset(mut index: usize, rank: u64, dims: &[u64; MAX_RANK], strides: &[u64; MAX_RANK]) -> usize {
    let mut offset = 0;
    for axis in (0..rank as usize).rev() {
        offset += index % dims[axis] as usize * strides[axis] as usize;
        index /= dims[axis] as usize;
    }
    offset
}

fn count(rank: u64, dims: &[u64; MAX_RANK]) -> usize {
    let dims = &dims[..rank as usize];
    if dims.contains(&0) { 0 } else { dims.iter().product::<u64>() as usize }
}

/// Writes `result(elements)` for each output, the elements in row-major order of the reduced axes.
unsafe fn reduce<T: Copy>(
    args: &Args<'_>,
    result: impl Fn(&mut dyn Iterator<Item = T>, usize) -> Result<T, RunError>,
) -> Result<(), RunError> {
    let p = args.params::<Reduce>();
    let (input, output) = (args.operands[0].ptr::<T>(), args.operands[1].ptr::<T>());
    let reduced = count(p.reduced_rank, &p.reduced_dims);
    for index in 0..count(p.kept_rank, &p.kept_dims) {
        let base = offset(index, p.kept_rank, &p.kept_dims, &p.kept_strides);
        let mut elements = (0..reduced).map(|position| {
            let offset = base + offset(position, p.reduced_rank, &p.reduced_dims, &p.reduced_strides);
            // SAFETY: the call was validated.
            unsafe { *input.add(offset) }
        });
        let value = result(&mut elements, reduced)?;
        // SAFETY: the call was validated.
        unsafe { *output.add(index) = value };
    }
    Ok(())
}

macro_rules! float_reductions {
    ($t:ident, $sum:ident, $mean:ident, $max:ident, $min:ident, $prod:ident) => {
        unsafe fn $sum(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.fold(0.0, |a, b| a + b))) }
        }
        unsafe fn $mean(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, n| Ok(x.fold(0.0, |a, b| a + b) / n as $t)) }
        }
        unsafe fn $max(args: &Args<'_>) -> Result<(), RunError> {
            let greater = |a: $t, b: $t| if b > a || b.is_nan() { b } else { a };
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.fold($t::NEG_INFINITY, greater))) }
        }
        unsafe fn $min(args: &Args<'_>) -> Result<(), RunError> {
            let smaller = |a: $t, b: $t| if b < a || b.is_nan() { b } else { a };
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.fold($t::INFINITY, smaller))) }
        }
        unsafe fn $prod(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.fold(1.0, |a, b| a * b))) }
        }
    };
}

macro_rules! integer_reductions {
    ($t:ident, $sum:ident, $mean:ident, $max:ident, $min:ident, $prod:ident) => {
        unsafe fn $sum(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.fold(0, $t::wrapping_add))) }
        }
        unsafe fn $mean(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe {
                reduce::<$t>(args, |x, n| {
                    let sum = x.fold(0, $t::wrapping_add);
                    if n == 0 { Err(RunError::DivisionByZero) } else { Ok((sum as i128 / n as i128) as $t) }
                })
            }
        }
        unsafe fn $max(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.max().unwrap_or($t::MIN))) }
        }
        unsafe fn $min(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.min().unwrap_or($t::MAX))) }
        }
        unsafe fn $prod(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { reduce::<$t>(args, |x, _| Ok(x.fold(1, $t::wrapping_mul))) }
        }
    };
}

float_reductions!(f32, sum_f32, mean_f32, max_f32, min_f32, prod_f32);
float_reductions!(f64, sum_f64, mean_f64, max_f64, min_f64, prod_f64);
integer_reductions!(i32, sum_i32, mean_i32, max_i32, min_i32, prod_i32);
integer_reductions!(i64, sum_i64, mean_i64, max_i64, min_i64, prod_i64);

unsafe fn l1_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { reduce::<f32>(args, |x, _| Ok(x.fold(0.0, |a, b| a + b.abs()))) }
}

unsafe fn l2_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { reduce::<f32>(args, |x, _| Ok(x.fold(0.0, |a, b| a + b * b).sqrt())) }
}

unsafe fn sum_square_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { reduce::<f32>(args, |x, _| Ok(x.fold(0.0, |a, b| a + b * b))) }
}

unsafe fn log_sum_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { reduce::<f32>(args, |x, _| Ok(libm::logf(x.fold(0.0, |a, b| a + b)))) }
}

unsafe fn log_sum_exp_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        reduce::<f32>(args, |x, _| {
            let x: Vec<f32> = x.collect();
            let greatest = x.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a });
            let shift = if greatest.is_infinite() { 0.0 } else { greatest };
            Ok(shift + libm::logf(x.iter().fold(0.0, |a, &b| a + libm::expf(b - shift))))
        })
    }
}

/// Writes the position of the element that goes `before` all others of its row.
unsafe fn select<T: Copy + PartialOrd>(
    args: &Args<'_>,
    before: impl Fn(T, T) -> bool,
) -> Result<(), RunError> {
    let p = args.params::<Axis>();
    if p.outer == 0 || p.inner == 0 {
        return Ok(());
    }
    let (input, output) = (args.operands[0].ptr::<T>(), args.operands[1].ptr::<i64>());
    let (axis, inner) = (p.axis as usize, p.inner as usize);
    // Only NaN does not compare with itself.
    let undefined = |x: T| x.partial_cmp(&x).is_none();
    for row in 0..p.outer as usize * inner {
        // SAFETY: the call was validated.
        let at = |k: usize| unsafe { *input.add(row / inner * axis * inner + k * inner + row % inner) };
        let mut best = 0;
        for k in 1..axis {
            let (x, y) = (at(k), at(best));
            let better = !undefined(y) && (undefined(x) || before(x, y));
            let equal = x == y || undefined(x) && undefined(y);
            if better || equal && p.select_last == 1 {
                best = k;
            }
        }
        // SAFETY: the call was validated.
        unsafe { *output.add(row) = best as i64 };
    }
    Ok(())
}

unsafe fn arg_max<T: Copy + PartialOrd>(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { select::<T>(args, |a, b| a > b) }
}

unsafe fn arg_min<T: Copy + PartialOrd>(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { select::<T>(args, |a, b| a < b) }
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::REDUCE_SUM_F32, reference: sum_f32 },
    Registered { kernel: &kernels::REDUCE_SUM_F64, reference: sum_f64 },
    Registered { kernel: &kernels::REDUCE_SUM_I32, reference: sum_i32 },
    Registered { kernel: &kernels::REDUCE_SUM_I64, reference: sum_i64 },
    Registered { kernel: &kernels::REDUCE_MEAN_F32, reference: mean_f32 },
    Registered { kernel: &kernels::REDUCE_MEAN_F64, reference: mean_f64 },
    Registered { kernel: &kernels::REDUCE_MEAN_I32, reference: mean_i32 },
    Registered { kernel: &kernels::REDUCE_MEAN_I64, reference: mean_i64 },
    Registered { kernel: &kernels::REDUCE_MAX_F32, reference: max_f32 },
    Registered { kernel: &kernels::REDUCE_MAX_F64, reference: max_f64 },
    Registered { kernel: &kernels::REDUCE_MAX_I32, reference: max_i32 },
    Registered { kernel: &kernels::REDUCE_MAX_I64, reference: max_i64 },
    Registered { kernel: &kernels::REDUCE_MIN_F32, reference: min_f32 },
    Registered { kernel: &kernels::REDUCE_MIN_F64, reference: min_f64 },
    Registered { kernel: &kernels::REDUCE_MIN_I32, reference: min_i32 },
    Registered { kernel: &kernels::REDUCE_MIN_I64, reference: min_i64 },
    Registered { kernel: &kernels::REDUCE_PROD_F32, reference: prod_f32 },
    Registered { kernel: &kernels::REDUCE_PROD_F64, reference: prod_f64 },
    Registered { kernel: &kernels::REDUCE_PROD_I32, reference: prod_i32 },
    Registered { kernel: &kernels::REDUCE_PROD_I64, reference: prod_i64 },
    Registered { kernel: &kernels::REDUCE_L1_F32, reference: l1_f32 },
    Registered { kernel: &kernels::REDUCE_L2_F32, reference: l2_f32 },
    Registered { kernel: &kernels::REDUCE_SUM_SQUARE_F32, reference: sum_square_f32 },
    Registered { kernel: &kernels::REDUCE_LOG_SUM_F32, reference: log_sum_f32 },
    Registered { kernel: &kernels::REDUCE_LOG_SUM_EXP_F32, reference: log_sum_exp_f32 },
    Registered { kernel: &kernels::ARG_MAX_F32, reference: arg_max::<f32> },
    Registered { kernel: &kernels::ARG_MAX_F64, reference: arg_max::<f64> },
    Registered { kernel: &kernels::ARG_MAX_I32, reference: arg_max::<i32> },
    Registered { kernel: &kernels::ARG_MAX_I64, reference: arg_max::<i64> },
    Registered { kernel: &kernels::ARG_MIN_F32, reference: arg_min::<f32> },
    Registered { kernel: &kernels::ARG_MIN_F64, reference: arg_min::<f64> },
    Registered { kernel: &kernels::ARG_MIN_I32, reference: arg_min::<i32> },
    Registered { kernel: &kernels::ARG_MIN_I64, reference: arg_min::<i64> },
];
