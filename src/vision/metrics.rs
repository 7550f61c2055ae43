//! How good a detector is: mean average precision against known objects.

use super::{BBox, Detection, Error, ErrorKind, Result};

/// An object that is known to be in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroundTruth {
    /// Index of the class, as the model numbers them.
    pub class: usize,
    /// Where the object lies, in the coordinates that the detections have.
    pub bbox: BBox,
}

/// The outcome of [`mean_average_precision`].
#[derive(Debug, Clone, PartialEq)]
pub struct MeanAveragePrecision {
    /// Mean of the average precisions of all classes that occur in the ground truth, 0 to 1.
    pub mean: f64,
    /// Each class that occurs in the ground truth, in ascending order, with its average precision, 0 to 1.
    pub per_class: Vec<(usize, f64)>,
}

/// Mean average precision (mAP) of detections at one IoU threshold.
///
/// `detections` and `truth` hold one entry for each picture, in the same order. For each class the detections of
/// all pictures are visited by falling score (equal ones in the order given). One is right if its IoU with the
/// object of its class and picture that it overlaps most is at least `iou_threshold` and no detection before it
/// has claimed that object; any other is wrong. The average precision is the area below the curve of precision
/// over recall, with each precision raised to the largest at the same or a higher recall (all-point
/// interpolation). Detections with a NaN score are ignored, and so are classes without any object.
///
/// # Errors
///
/// If the numbers of pictures differ, if no picture holds any object, or if `iou_threshold` is not above 0 and at
/// most 1.
///
/// # Source
///
/// Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", and the evaluation code of
/// VOC 2010 to 2012 (`VOCevaldet`); no object counts as difficult.
pub fn mean_average_precision<D, T>(
    detections: &[D],
    truth: &[T],
    iou_threshold: f32,
) -> Result<MeanAveragePrecision>
where
    D: AsRef<[Detection]>,
    T: AsRef<[GroundTruth]>,
{
    let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
    if detections.len() != truth.len() {
        return invalid(format!(
            "detections are of {} pictures, ground truth of {}; give one entry for each picture in both",
            detections.len(),
            truth.len()
        ));
    }
    if !(iou_threshold > 0.0 && iou_threshold <= 1.0) {
        return invalid(format!("the IoU threshold is {iou_threshold}; give one above 0 and at most 1"));
    }
    let mut classes: Vec<usize> = truth.iter().flat_map(AsRef::as_ref).map(|object| object.class).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.is_empty() {
        return invalid("no picture holds any object; give ground truth to compare with".to_owned());
    }
    let per_class: Vec<(usize, f64)> = classes
        .into_iter()
        .map(|class| (class, average_precision(detections, truth, class, iou_threshold)))
        .collect();
    let mean = per_class.iter().map(|(_, precision)| precision).sum::<f64>() / per_class.len() as f64;
    Ok(MeanAveragePrecision { mean, per_class })
}

/// The average precision of a class that occurs in the ground truth.
fn average_precision<D, T>(detections: &[D], truth: &[T], class: usize, iou_threshold: f32) -> f64
where
    D: AsRef<[Detection]>,
    T: AsRef<[GroundTruth]>,
{
    let objects: Vec<Vec<BBox>> = truth
        .iter()
        .map(|picture| {
            picture.as_ref().iter().filter(|object| object.class == class).map(|o| o.bbox).collect()
        })
        .collect();
    let mut claimed: Vec<Vec<bool>> = objects.iter().map(|boxes| vec![false; boxes.len()]).collect();
    let total: usize = objects.iter().map(Vec::len).sum();

    let mut ranked: Vec<(usize, Detection)> = Vec::new();
    for (picture, found) in detections.iter().enumerate() {
        let of_class = found.as_ref().iter().filter(|d| d.class == class && !d.score.is_nan());
        ranked.extend(of_class.map(|d| (picture, *d)));
    }
    ranked.sort_by(|(_, a), (_, b)| (b.score + 0.0).total_cmp(&(a.score + 0.0)));

    // Precision after each detection that is right: recall rises by 1 / total there and nowhere else.
    let mut precisions: Vec<f64> = Vec::new();
    for (visited, (picture, detection)) in ranked.iter().enumerate() {
        let overlaps = objects[*picture].iter().map(|object| object.iou(&detection.bbox)).enumerate();
        let best = overlaps.fold(None, |best: Option<(usize, f32)>, (index, overlap)| match best {
            Some((_, largest)) if overlap <= largest => best,
            _ => Some((index, overlap)),
        });
        if let Some((index, overlap)) = best
            && overlap >= iou_threshold
            && !std::mem::replace(&mut claimed[*picture][index], true)
        {
            precisions.push((precisions.len() + 1) as f64 / (visited + 1) as f64);
        }
    }
    let mut area = 0.0;
    let mut largest: f64 = 0.0;
    for precision in precisions.into_iter().rev() {
        largest = largest.max(precision);
        area += largest;
    }
    area / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32) -> BBox {
        BBox::new(x, 0.0, x + 10.0, 10.0)
    }

    fn object(class: usize, x: f32) -> GroundTruth {
        GroundTruth { class, bbox: at(x) }
    }

    fn found(class: usize, score: f32, x: f32) -> Detection {
        Detection { class, score, bbox: at(x) }
    }

    #[test]
    fn perfect_and_nothing() {
        let truth = [vec![object(0, 0.0), object(3, 50.0)], vec![object(0, 20.0)], vec![]];
        let all = [vec![found(0, 0.9, 0.0), found(3, 0.2, 50.0)], vec![found(0, 0.4, 20.0)], vec![]];
        let result = mean_average_precision(&all, &truth, 0.5).unwrap();
        assert_eq!(result, MeanAveragePrecision { mean: 1.0, per_class: vec![(0, 1.0), (3, 1.0)] });
        let none: [Vec<Detection>; 3] = Default::default();
        assert_eq!(mean_average_precision(&none, &truth, 0.5).unwrap().mean, 0.0);
    }

    #[test]
    fn all_point_interpolation() {
        // Right, wrong, right, right of four objects: precision 1, 1/2, 2/3, 3/4, of which the last covers the
        // two points before it: (1 + 3/4 + 3/4) / 4.
        let truth = [[object(0, 0.0), object(0, 20.0), object(0, 40.0), object(0, 60.0)]];
        let all = [[found(0, 0.9, 0.0), found(0, 0.6, 40.0), found(0, 0.7, 20.0), found(0, 0.8, 500.0)]];
        let result = mean_average_precision(&all, &truth, 0.5).unwrap();
        assert_eq!(result.mean, 0.625);
    }

    #[test]
    fn an_object_counts_once() {
        let truth = [[object(0, 0.0), object(0, 100.0)]];
        let all = [[found(0, 0.9, 0.0), found(0, 0.8, 1.0), found(0, 0.7, 100.0)]];
        let result = mean_average_precision(&all, &truth, 0.5).unwrap();
        assert!((result.mean - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn class_picture_and_threshold_matter() {
        let truth = [vec![object(0, 0.0)], vec![]];
        let map = |first: Vec<Detection>, second: Vec<Detection>, iou| {
            mean_average_precision(&[first, second], &truth, iou).unwrap().mean
        };
        assert_eq!(map(vec![found(1, 0.9, 0.0)], vec![], 0.5), 0.0, "another class");
        assert_eq!(map(vec![], vec![found(0, 0.9, 0.0)], 0.5), 0.0, "another picture");
        // Shifted by 2 of 10: IoU 2/3.
        assert_eq!(map(vec![found(0, 0.9, 2.0)], vec![], 0.5), 1.0);
        assert_eq!(map(vec![found(0, 0.9, 2.0)], vec![], 0.7), 0.0);
        assert_eq!(map(vec![found(0, f32::NAN, 0.0)], vec![], 0.5), 0.0);
        assert_eq!(
            map(vec![found(0, 0.9, 0.0)], vec![found(0, 0.95, 0.0)], 0.5),
            0.5,
            "a better one is wrong"
        );
    }

    #[test]
    fn bad_arguments() {
        let truth = [vec![object(0, 0.0)]];
        let none: [Vec<Detection>; 1] = Default::default();
        assert!(mean_average_precision(&none[..0], &truth, 0.5).is_err());
        let nothing: [Vec<GroundTruth>; 1] = Default::default();
        assert!(mean_average_precision(&none, &nothing, 0.5).is_err());
        for threshold in [0.0, -1.0, 1.5, f32::NAN] {
            let error = mean_average_precision(&none, &truth, threshold).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
