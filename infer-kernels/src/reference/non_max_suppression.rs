//! Oracle of the suppression of overlapping boxes: again and again the best of those that are left.

use super::Registered;
use crate::call::{Corners, NonMaxSuppression};
use crate::{Args, RunError, kernels};

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn select(args: &Args<'_>) -> Result<(), RunError> {
    let p: &NonMaxSuppression = args.params();
    let count = p.boxes as usize;
    for class in 0..p.batches as usize * p.classes as usize {
        // SAFETY: the call was validated.
        let score = |index: usize| unsafe { *args.operands[1].ptr::<f32>().add(class * count + index) };
        let corners = |index: usize| -> Corners {
            let first = (class / p.classes as usize * count + index) * 4;
            // SAFETY: the call was validated.
            p.corners(std::array::from_fn(|at| unsafe { *args.operands[0].ptr::<f32>().add(first + at) }))
        };
        let mut left: Vec<usize> = (0..count).filter(|&index| p.passes(score(index))).collect();
        let mut selected: Vec<usize> = Vec::new();
        while selected.len() < p.most as usize && !left.is_empty() {
            let mut best = 0;
            for at in 1..left.len() {
                let (x, y) = (score(left[at]), score(left[best]));
                if x > y || x.is_nan() && !y.is_nan() {
                    best = at;
                }
            }
            let candidate = left.remove(best);
            let is_free = |&other: &usize| !corners(candidate).overlaps(&corners(other), p.iou_threshold);
            if selected.iter().all(is_free) {
                selected.push(candidate);
            }
        }
        // SAFETY: the call was validated.
        unsafe {
            *args.operands[2].ptr::<i64>().add(class) = selected.len() as i64;
            for (number, &index) in selected.iter().enumerate() {
                *args.operands[3].ptr::<i64>().add(class * p.most as usize + number) = index as i64;
            }
        }
    }
    Ok(())
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] =
    &[Registered { kernel: &kernels::NON_MAX_SUPPRESSION_F32, reference: select }];
