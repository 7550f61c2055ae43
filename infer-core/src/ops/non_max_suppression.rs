//! NonMaxSuppression: of boxes that overlap only the one with the highest score.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html>
//! Types: f32. Of boxes with equal scores the first counts as the higher.
//! History: since opset 10.

use super::{ImportNode, NodeValues, Operator, Row};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::number::{Number, tensor_of};
use crate::tensor_type::DataType;
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "NonMaxSuppression", domain: "", since: 10, inputs: 2..=5, outputs: 1..=1, import }];

/// NonMaxSuppression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonMaxSuppression {
    /// Whether a box is its centre and extents, not two corners.
    pub center_point_box: bool,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(NonMaxSuppression { center_point_box: node.attributes.flag("center_point_box", false)? }))
}

/// A box by its least and greatest coordinates.
#[derive(Clone, Copy)]
struct Corners {
    x: [f32; 2],
    y: [f32; 2],
}

impl Corners {
    fn area(&self) -> f32 {
        (self.x[1] - self.x[0]) * (self.y[1] - self.y[0])
    }

    /// Whether the boxes share more than `threshold` of what they cover together.
    fn overlaps(&self, other: &Corners, threshold: f32) -> bool {
        let common = |a: [f32; 2], b: [f32; 2]| a[1].min(b[1]) - a[0].max(b[0]);
        let (width, height) = (common(self.x, other.x), common(self.y, other.y));
        if width <= 0.0 || height <= 0.0 {
            return false;
        }
        let intersection = width * height;
        let union = self.area() + other.area() - intersection;
        self.area() > 0.0 && other.area() > 0.0 && union > 0.0 && intersection / union > threshold
    }
}

impl NonMaxSuppression {
    fn corners(&self, given: &[f32]) -> Corners {
        let at = |index: usize| given.get(index).copied().unwrap_or(0.0);
        let ordered = |a: f32, b: f32| [a.min(b), a.max(b)];
        if self.center_point_box {
            let around = |centre: f32, extent: f32| [centre - extent / 2.0, centre + extent / 2.0];
            Corners { x: around(at(0), at(2)), y: around(at(1), at(3)) }
        } else {
            Corners { y: ordered(at(0), at(2)), x: ordered(at(1), at(3)) }
        }
    }
}

fn scalar(node: &NodeValues<'_>, index: usize) -> Result<Option<f32>, Reason> {
    let Some(tensor) = node.optional_tensor(index)? else { return Ok(None) };
    let wrong = || Reason::new(format!("input {index} is {}, not one f32", tensor.ty()));
    tensor.to_scalar_f32().map(Some).ok_or_else(wrong)
}

fn floats<'a>(node: &NodeValues<'a>, index: usize) -> Result<&'a Constant, Reason> {
    let tensor = node.tensor(index)?;
    if tensor.ty().dtype == DataType::F32 && tensor.ty().rank() == 3 {
        return Ok(tensor);
    }
    Err(Reason::new(format!("input {index} is {}, not three-dimensional f32", tensor.ty())))
}

impl Operator for NonMaxSuppression {
    fn name(&self) -> &'static str {
        "NonMaxSuppression"
    }

    fn is_host(&self, _node: &super::NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (boxes, scores) = (floats(node, 0)?, floats(node, 1)?);
        let (batches, classes, count) = match (&*boxes.ty().shape, &*scores.ty().shape) {
            (&[batches, count, 4], &[score_batches, classes, score_count])
                if (batches, count) == (score_batches, score_count) =>
            {
                (batches, classes, count)
            }
            _ => {
                return Err(Reason::new(format!("boxes {} and scores {} differ", boxes.ty(), scores.ty())));
            }
        };
        let most = if node.optional(2).is_some() { node.i64(2)? } else { 0 };
        let most = usize::try_from(most).unwrap_or(0);
        let iou_threshold = scalar(node, 3)?.unwrap_or(0.0);
        let score_threshold = scalar(node, 4)?;
        let (boxes, scores) = (boxes.values::<f32>(), scores.values::<f32>());
        let mut selected: Vec<i64> = Vec::new();
        let corners: Vec<Corners> = boxes.chunks_exact(4).map(|given| self.corners(given)).collect();
        // Without boxes there may be any number of classes, and nothing to select.
        let classes = if count == 0 || most == 0 { 0 } else { classes };
        for (batch, class) in (0..batches).flat_map(|batch| (0..classes).map(move |class| (batch, class))) {
            let first = (batch * classes + class) * count;
            let scores = &scores[first..first + count];
            let corners = &corners[batch * count..(batch + 1) * count];
            let passes = |&index: &usize| score_threshold.is_none_or(|least| scores[index] > least);
            let mut candidates: Vec<usize> = (0..count).filter(passes).collect();
            // Stable, so that of equal scores the first box comes first.
            candidates.sort_by(|&a, &b| scores[b].compare(&scores[a]));
            let mut kept: Vec<usize> = Vec::new();
            for candidate in candidates {
                if kept.len() == most {
                    break;
                }
                let suppressed = |&other: &usize| corners[candidate].overlaps(&corners[other], iou_threshold);
                if !kept.iter().any(suppressed) {
                    kept.push(candidate);
                    selected.extend([batch as i64, class as i64, candidate as i64]);
                }
            }
        }
        let shape = [selected.len() / 3, 3];
        Ok(Some(vec![tensor_of(DataType::I64, &shape, &selected)?.into()]))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::test_support::{f32s, i64s, run, run_all};

    #[test]
    fn overlapping_boxes_give_way() {
        let boxes = f32s(
            [1, 4, 4],
            &[
                0., 0., 1., 1., // the same, other corners, and half of it
                1., 1., 0., 0., //
                0., 0., 1., 0.5, //
                0., 9., 1., 10.,
            ],
        );
        let scores = f32s([1, 1, 4], &[0.5, 0.5, 0.9, 0.1]);
        let run = |most: i64, iou: f32, score: f32| {
            let inputs = [&boxes, &scores, &i64s([1], &[most]), &f32s([1], &[iou]), &f32s([1], &[score])];
            run(("NonMaxSuppression", 11), &[], &inputs.map(Clone::clone)).unwrap()
        };
        // An overlap of just the threshold suppresses nothing.
        assert_eq!(run(9, 0.5, 0.0), i64s([3, 3], &[0, 0, 2, 0, 0, 0, 0, 0, 3]));
        assert_eq!(run(9, 0.4, 0.1), i64s([1, 3], &[0, 0, 2]));
        assert_eq!(run(1, 0.5, 0.0), i64s([1, 3], &[0, 0, 2]));
        let inputs = [Some(boxes.clone()), Some(scores)];
        let none = run_all(("NonMaxSuppression", 10), &[], &inputs, 1).unwrap();
        assert_eq!(none, [i64s([0, 3], &[])]);
        let wrong = [Some(boxes), Some(f32s([1, 1, 3], &[0.; 3]))];
        assert!(run_all(("NonMaxSuppression", 10), &[], &wrong, 1).is_err());
    }
}
