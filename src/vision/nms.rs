//! Non-maximum suppression.

use super::Detection;

/// Non-maximum suppression: of boxes of one class that overlap, only the most confident stays.
///
/// Detections are visited by falling score, those of equal score in the order given. One is kept unless its
/// [`iou`](super::BBox::iou) with a kept one of its own class exceeds `iou_threshold` (0 to 1; detectors
/// commonly use 0.45). The result is in the order visited. A detection whose score is NaN or whose box is not
/// finite is dropped.
///
/// The time grows with the number of detections times the number kept, so decode with a score threshold first.
pub fn nms(mut detections: Vec<Detection>, iou_threshold: f32) -> Vec<Detection> {
    detections.retain(|d| !d.score.is_nan() && d.bbox.is_finite());
    // The sort is stable, which keeps equal scores in their order; adding zero makes -0 and 0 equal.
    detections.sort_by(|a, b| (b.score + 0.0).total_cmp(&(a.score + 0.0)));
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in detections {
        let suppressed =
            kept.iter().any(|k| k.class == candidate.class && k.bbox.iou(&candidate.bbox) > iou_threshold);
        if !suppressed {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::BBox;

    fn detection(class: usize, score: f32, x0: f32) -> Detection {
        Detection { class, score, bbox: BBox::new(x0, 0.0, x0 + 10.0, 10.0) }
    }

    #[test]
    fn keeps_the_best_of_each_class() {
        let found = vec![
            detection(0, 0.6, 1.0),
            detection(0, 0.9, 0.0),
            detection(1, 0.7, 0.0),
            detection(0, 0.5, 30.0),
        ];
        let kept = nms(found.clone(), 0.45);
        assert_eq!(kept, [found[1], found[2], found[3]]);
    }

    #[test]
    fn suppressed_boxes_do_not_suppress() {
        // The middle box overlaps both others, which do not overlap each other enough.
        let found = vec![detection(0, 0.9, 0.0), detection(0, 0.8, 3.0), detection(0, 0.7, 6.0)];
        assert_eq!(nms(found.clone(), 0.5), [found[0], found[2]]);
    }

    #[test]
    fn threshold_itself_is_kept() {
        let found = vec![detection(0, 0.9, 0.0), detection(0, 0.8, 5.0)];
        let overlap = found[0].bbox.iou(&found[1].bbox);
        assert_eq!(nms(found.clone(), overlap).len(), 2);
        assert_eq!(nms(found, overlap - 1e-3).len(), 1);
    }

    #[test]
    fn equal_scores_keep_their_order() {
        let found: Vec<_> = (0..40).map(|i| detection(i % 3, 0.5, i as f32 * 20.0)).collect();
        assert_eq!(nms(found.clone(), 0.5), found);
        let zeros = vec![detection(0, -0.0, 0.0), detection(0, 0.0, 50.0)];
        assert_eq!(nms(zeros.clone(), 0.5), zeros);
    }

    #[test]
    fn drops_what_is_not_a_number() {
        let mut odd = detection(0, 0.9, 0.0);
        odd.bbox.x1 = f32::INFINITY;
        let found = vec![detection(0, f32::NAN, 0.0), odd, detection(0, 0.1, 0.0)];
        assert_eq!(nms(found.clone(), 0.5), [found[2]]);
        assert_eq!(nms(Vec::new(), 0.5), []);
        assert_eq!(nms(vec![detection(0, 0.9, 0.0); 2], f32::NAN).len(), 2);
    }
}
