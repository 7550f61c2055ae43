//! Oracle of the greatest or smallest elements along an axis: each counts those that go before it.

use super::Registered;
use crate::call::TopK;
use crate::{Args, RunError, kernels};

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn select<T: Copy + PartialOrd>(args: &Args<'_>) -> Result<(), RunError> {
    let p: &TopK = args.params();
    let (axis, inner, k) = (p.axis as usize, p.inner as usize, p.k as usize);
    if k == 0 || inner == 0 {
        return Ok(());
    }
    let input = args.operands[0].ptr::<T>();
    for row in 0..p.outer as usize * inner {
        let (outer, column) = (row / inner, row % inner);
        // SAFETY: the call was validated.
        let at = |index: usize| unsafe { *input.add((outer * axis + index) * inner + column) };
        for index in 0..axis {
            let x = at(index);
            let precedes = |other: usize| {
                let y = at(other);
                let (no_x, no_y) = (x.partial_cmp(&x).is_none(), y.partial_cmp(&y).is_none());
                let (greater, smaller) = (y > x || no_y && !no_x, y < x || no_x && !no_y);
                match (greater, smaller) {
                    (false, false) => other < index,
                    (greater, _) => greater == (p.smallest == 0),
                }
            };
            let rank = (0..axis).filter(|&other| precedes(other)).count();
            if rank < k {
                let to = (outer * k + rank) * inner + column;
                // SAFETY: the call was validated.
                unsafe {
                    *args.operands[1].ptr::<T>().add(to) = x;
                    *args.operands[2].ptr::<i64>().add(to) = index as i64;
                }
            }
        }
    }
    Ok(())
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::TOP_K_F32, reference: select::<f32> },
    Registered { kernel: &kernels::TOP_K_F64, reference: select::<f64> },
    Registered { kernel: &kernels::TOP_K_I32, reference: select::<i32> },
    Registered { kernel: &kernels::TOP_K_I64, reference: select::<i64> },
    Registered { kernel: &kernels::TOP_K_U64, reference: select::<u64> },
];
