//! Products of matrices, by their definition.

use super::Registered;
use crate::call::MatMul;
use crate::{Args, RunError, kernels};

unsafe fn matmul<T: Copy>(
    args: &Args<'_>,
    zero: T,
    plus_product: impl Fn(T, T, T) -> T,
) -> Result<(), RunError> {
    let p = args.params::<MatMul>();
    let dims = &p.dims[..p.rank as usize];
    let (left, right, output) =
        (args.operands[0].ptr::<T>(), args.operands[1].ptr::<T>(), args.operands[2].ptr::<T>());
    let products = if dims.contains(&0) { 0 } else { dims.iter().product::<u64>() };
    let outputs = if p.m == 0 || p.n == 0 { 0 } else { products * p.m * p.n };
    for at in 0..outputs {
        let (mut product, row, column) = (at / p.n / p.m, at / p.n % p.m, at % p.n);
        let (mut a, mut b) = (row * p.row_strides[0], column * p.column_strides[1]);
        for (axis, &extent) in dims.iter().enumerate().rev() {
            a += product % extent * p.between[0][axis];
            b += product % extent * p.between[1][axis];
            product /= extent;
        }
        let mut sum = zero;
        for k in 0..p.k {
            // SAFETY: the call was validated.
            unsafe {
                let a = *left.add((a + k * p.column_strides[0]) as usize);
                sum = plus_product(sum, a, *right.add((b + k * p.row_strides[1]) as usize));
            }
        }
        // SAFETY: the call was validated.
        unsafe { *output.add(at as usize) = sum };
    }
    Ok(())
}

unsafe fn of_f64(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { matmul::<f64>(args, 0.0, |sum, a, b| sum + a * b) }
}

unsafe fn of_i32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { matmul::<i32>(args, 0, |sum, a, b| sum.wrapping_add(a.wrapping_mul(b))) }
}

unsafe fn of_i64(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe { matmul::<i64>(args, 0, |sum, a, b| sum.wrapping_add(a.wrapping_mul(b))) }
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::MATMUL_F64, reference: of_f64 },
    Registered { kernel: &kernels::MATMUL_I32, reference: of_i32 },
    Registered { kernel: &kernels::MATMUL_I64, reference: of_i64 },
];
