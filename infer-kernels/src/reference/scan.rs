//! Running sums and products, element by element.

use super::Registered;
use crate::call::Scan;
use crate::{Args, RunError, kernels};

unsafe fn scan<T: Copy>(args: &Args<'_>, first: T, fold: impl Fn(T, T) -> T) -> Result<(), RunError> {
    let p = args.params::<Scan>();
    if p.outer == 0 || p.inner == 0 {
        return Ok(());
    }
    let (input, output) = (args.operands[0].ptr::<T>(), args.operands[1].ptr::<T>());
    let (axis, inner) = (p.axis as usize, p.inner as usize);
    for row in 0..p.outer as usize * inner {
        let mut running = first;
        for step in 0..axis {
            let k = if p.reverse == 1 { axis - 1 - step } else { step };
            let at = row / inner * axis * inner + k * inner + row % inner;
            // SAFETY: the call was validated.
            unsafe {
                let next = fold(running, *input.add(at));
                *output.add(at) = if p.exclusive == 1 { running } else { next };
                running = next;
            }
        }
    }
    Ok(())
}

macro_rules! scans {
    ($($name:ident $t:ident $first:literal $fold:expr;)*) => {$(
        unsafe fn $name(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { scan::<$t>(args, $first, $fold) }
        }
    )*};
}

scans! {
    sum_f32 f32 0.0 |a, b| a + b;
    sum_f64 f64 0.0 |a, b| a + b;
    sum_i32 i32 0 i32::wrapping_add;
    sum_i64 i64 0 i64::wrapping_add;
    prod_f32 f32 1.0 |a, b| a * b;
    prod_f64 f64 1.0 |a, b| a * b;
    prod_i32 i32 1 i32::wrapping_mul;
    prod_i64 i64 1 i64::wrapping_mul;
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::CUM_SUM_F32, reference: sum_f32 },
    Registered { kernel: &kernels::CUM_SUM_F64, reference: sum_f64 },
    Registered { kernel: &kernels::CUM_SUM_I32, reference: sum_i32 },
    Registered { kernel: &kernels::CUM_SUM_I64, reference: sum_i64 },
    Registered { kernel: &kernels::CUM_PROD_F32, reference: prod_f32 },
    Registered { kernel: &kernels::CUM_PROD_F64, reference: prod_f64 },
    Registered { kernel: &kernels::CUM_PROD_I32, reference: prod_i32 },
    Registered { kernel: &kernels::CUM_PROD_I64, reference: prod_i64 },
];
