//! Of boxes that overlap only the one with the highest score.
//!
//! Chunks share the classes. The boxes of a class that pass are put in order, each is compared with those selected so far,
//! sixteen at a time: most boxes of a class lie apart, which the extents of what they have in common tell.

use std::cmp::Ordering;

use super::bounds::{product, split};
use super::share;
use super::vector::Vector;
use crate::call::{BLOCK, Corners, NonMaxSuppression};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Which of two scores goes first: the higher, NaN before all.
fn order(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// Sixteen boxes: their least x, their greatest, and y likewise.
type Boxes = [[f32; BLOCK]; 4];

/// Boxes that overlap none.
const NOWHERE: Boxes =
    [[f32::INFINITY; BLOCK], [f32::NEG_INFINITY; BLOCK], [f32::INFINITY; BLOCK], [f32::NEG_INFINITY; BLOCK]];

/// Whether `own` overlaps any of `others`, as [`Corners::overlaps`] has it.
///
/// # Safety
///
/// The processor has the instruction set.
#[inline(always)]
unsafe fn overlaps_any<V: Vector>(own: &Corners, others: &[Boxes], threshold: f32) -> bool {
    if own.area().is_nan() || own.area() <= 0.0 {
        return false;
    }
    // SAFETY: the caller's promise, also for the loads of sixteen below.
    let splat = |value: f32| unsafe { V::splat(value) };
    let (x, y, area) = (own.x.map(splat), own.y.map(splat), splat(own.area()));
    let (zero, none, threshold) = (splat(0.0), splat(f32::NAN), splat(threshold));
    for others in others {
        // SAFETY: as above.
        let [x0, x1, y0, y1] = others.each_ref().map(|lanes| unsafe { V::load(lanes.as_ptr()) });
        let (width, height) = (x[1].min(x1) - x[0].max(x0), y[1].min(y1) - y[0].max(y0));
        let meets = zero.lt(width.min(height));
        if V::any(meets) {
            let (other, common) = ((x1 - x0) * (y1 - y0), width * height);
            let together = area + other - common;
            let share = V::select(meets, common / together, none);
            let share = V::select(zero.lt(other), V::select(zero.lt(together), share, none), none);
            if V::any(threshold.lt(share)) {
                return true;
            }
        }
    }
    false
}

#[inline(always)]
unsafe fn select<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &NonMaxSuppression = args.params();
    if p.batches == 0 || p.classes == 0 {
        return Ok(());
    }
    let (classes, count, most) = (p.classes as usize, p.boxes as usize, p.most as usize);
    let (all, blocks) = (p.batches as usize * classes, most.div_ceil(BLOCK));
    for class in share(all, chunk, chunks) {
        if count == 0 || most == 0 {
            // SAFETY: there is a number for each class (`validate`).
            unsafe { *args.operands[2].ptr::<i64>().add(class) = 0 };
            continue;
        }
        let boxes = args.operands[0].ptr::<[f32; 4]>().wrapping_add(class / classes * count);
        let work = args.operands[4].ptr::<i64>();
        // SAFETY: operands hold as much for each class (`validate`), and the outputs of one class are its chunk's own.
        let (scores, found, selected, candidates, corners) = unsafe {
            (
                std::slice::from_raw_parts(args.operands[1].ptr::<f32>().add(class * count), count),
                args.operands[2].ptr::<i64>().add(class),
                std::slice::from_raw_parts_mut(args.operands[3].ptr::<i64>().add(class * most), most),
                std::slice::from_raw_parts_mut(work.add(class * count), count),
                std::slice::from_raw_parts_mut(
                    work.add(all * count).cast::<Boxes>().add(class * blocks),
                    blocks,
                ),
            )
        };
        let mut passing = 0;
        for (index, &score) in scores.iter().enumerate() {
            if p.passes(score) {
                candidates[passing] = index as i64;
                passing += 1;
            }
        }
        let candidates = &mut candidates[..passing];
        candidates.sort_unstable_by(|&a, &b| order(scores[a as usize], scores[b as usize]).then(a.cmp(&b)));
        let mut kept = 0;
        for &candidate in candidates.iter() {
            if kept == most {
                break;
            }
            // SAFETY: indices count the boxes of the image, which the operand holds.
            let own = p.corners(unsafe { *boxes.add(candidate as usize) });
            // SAFETY: the caller's promise: `V` is of its instruction set.
            if unsafe { overlaps_any::<V>(&own, &corners[..kept.div_ceil(BLOCK)], p.iou_threshold) } {
                continue;
            }
            let (block, lane) = (&mut corners[kept / BLOCK], kept % BLOCK);
            if lane == 0 {
                *block = NOWHERE;
            }
            for (to, from) in block.iter_mut().zip([own.x, own.y].as_flattened()) {
                to[lane] = *from;
            }
            selected[kept] = candidate;
            kept += 1;
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
    call.expect_elements(4, p.work(), 8)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &NonMaxSuppression = args.params();
    let classes = p.batches.saturating_mul(p.classes);
    split(classes, classes.saturating_mul(p.boxes).saturating_mul(16), threads)
}

/// The boxes of each class with the highest scores that do not overlap.
pub static NON_MAX_SUPPRESSION_F32: Kernel =
    Kernel { name: "non_max_suppression_f32", validate, chunks, run: per_isa!(select<_>) };

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, attack, bytes, check_beside_scratch};

    #[test]
    fn selections_agree_with_the_oracle() {
        let mut random = Random::new(71);
        for (batches, classes, boxes, most) in
            [(1, 1, 1, 1), (2, 3, 40, 7), (1, 2, 100, 100), (1, 1, 90, 17), (1, 2, 33, 16), (1, 4, 0, 2)]
        {
            let places = random.units((batches * boxes * 4) as usize);
            // A narrow range makes equals frequent.
            let mut scores = random.whole((batches * classes * boxes) as usize, 9);
            scores.iter_mut().step_by(17).for_each(|score| *score = f32::NAN);
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
                let classes = batches * classes;
                let outputs =
                    [classes, classes * most, p.work().unwrap()].map(|elements| elements as usize * 8);
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
        let work = p.work().unwrap() as usize * 8;
        attack("non_max_suppression_f32", &p, &[bytes(&places), bytes(&scores)], &[48, 192, work]);
    }
}
