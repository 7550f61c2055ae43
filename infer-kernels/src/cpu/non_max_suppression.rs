//! Of boxes that overlap only the one with the highest score.
//!
//! Chunks share the classes. The boxes of a class that pass are put in order, each is compared with those selected so far.

use std::cmp::Ordering;

use super::bounds::{product, split};
use super::share;
use crate::call::{Corners, NonMaxSuppression};
use crate::{Args, Call, Invalid, Kernel, PerIsa, RunError};

/// Which of two scores goes first: the higher, NaN before all.
fn order(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

unsafe fn select(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &NonMaxSuppression = args.params();
    if p.batches == 0 || p.classes == 0 {
        return Ok(());
    }
    let (classes, count, most) = (p.classes as usize, p.boxes as usize, p.most as usize);
    for class in share(p.batches as usize * classes, chunk, chunks) {
        if count == 0 || most == 0 {
            // SAFETY: there is a number for each class (`validate`).
            unsafe { *args.operands[2].ptr::<i64>().add(class) = 0 };
            continue;
        }
        let boxes = args.operands[0].ptr::<[f32; 4]>().wrapping_add(class / classes * count);
        let corners = |index: i64| -> Corners {
            // SAFETY: indices count the boxes of the image, which the operand holds.
            p.corners(unsafe { *boxes.add(index as usize) })
        };
        // SAFETY: operands hold as much for each class (`validate`), and the outputs of one class are its chunk's own.
        let (scores, found, selected, work) = unsafe {
            (
                std::slice::from_raw_parts(args.operands[1].ptr::<f32>().add(class * count), count),
                args.operands[2].ptr::<i64>().add(class),
                std::slice::from_raw_parts_mut(args.operands[3].ptr::<i64>().add(class * most), most),
                std::slice::from_raw_parts_mut(args.operands[4].ptr::<i64>().add(class * count), count),
            )
        };
        let mut candidates = 0;
        for (index, &score) in scores.iter().enumerate() {
            if p.passes(score) {
                work[candidates] = index as i64;
                candidates += 1;
            }
        }
        let candidates = &mut work[..candidates];
        candidates.sort_unstable_by(|&a, &b| order(scores[a as usize], scores[b as usize]).then(a.cmp(&b)));
        let mut kept = 0;
        for &candidate in candidates.iter() {
            if kept == most {
                break;
            }
            let own = corners(candidate);
            if !selected[..kept].iter().any(|&other| own.overlaps(&corners(other), p.iou_threshold)) {
                selected[kept] = candidate;
                kept += 1;
            }
        }
        // SAFETY: as above.
        unsafe { *found = kept as i64 };
    }
    Ok(())
}

pub(crate) fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &NonMaxSuppression = call.params()?;
    call.expect_operands(5)?;
    if p.center_point_box > 1 || p.has_score_threshold > 1 {
        return Err(Invalid("an unknown kind of boxes"));
    }
    let scores = product(&[p.batches, p.classes, p.boxes]);
    call.expect_elements(0, product(&[p.batches, p.boxes, 4]), 4)?;
    call.expect_elements(1, scores, 4)?;
    call.expect_elements(2, product(&[p.batches, p.classes]), 8)?;
    call.expect_elements(3, product(&[p.batches, p.classes, p.most]), 8)?;
    call.expect_elements(4, scores, 8)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &NonMaxSuppression = args.params();
    let classes = p.batches.saturating_mul(p.classes);
    split(classes, classes.saturating_mul(p.boxes).saturating_mul(16), threads)
}

/// The boxes of each class with the highest scores that do not overlap.
pub static NON_MAX_SUPPRESSION_F32: Kernel =
    Kernel { name: "non_max_suppression_f32", validate, chunks, run: PerIsa::portable(select) };

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, attack, bytes, check_beside_scratch};

    #[test]
    fn selections_agree_with_the_oracle() {
        let mut random = Random::new(71);
        for (batches, classes, boxes, most) in [(1, 1, 1, 1), (2, 3, 40, 7), (1, 2, 100, 100), (1, 4, 0, 2)] {
            let places = random.units((batches * boxes * 4) as usize);
            // A narrow range makes equals frequent.
            let mut scores = random.whole((batches * classes * boxes) as usize, 9);
            scores.iter_mut().step_by(17).for_each(|score| *score = f32::NAN);
            let outputs =
                [batches * classes * 8, batches * classes * most * 8, batches * classes * boxes * 8]
                    .map(|bytes| bytes as usize);
            for number in 0..8 {
                let p = NonMaxSuppression {
                    batches,
                    classes,
                    boxes,
                    most,
                    center_point_box: number % 2,
                    has_score_threshold: number / 2 % 2,
                    score_threshold: -2.0,
                    iou_threshold: (number / 4) as f32 * 0.4,
                };
                let name = "non_max_suppression_f32";
                let inputs = [bytes(&places), bytes(&scores)];
                check_beside_scratch(name, &p, &inputs, &outputs, 2, |_, _, a: i64, b: i64| a == b);
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let mut random = Random::new(72);
        let (places, scores) = (random.units(2 * 5 * 4), random.units(2 * 3 * 5));
        let p =
            NonMaxSuppression { batches: 2, classes: 3, boxes: 5, most: 4, ..NonMaxSuppression::default() };
        attack("non_max_suppression_f32", &p, &[bytes(&places), bytes(&scores)], &[48, 192, 240]);
    }
}
