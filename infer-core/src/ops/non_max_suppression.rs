//! NonMaxSuppression: of boxes that overlap only the one with the highest score.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html>
//! Types: f32. Of boxes with equal scores the first counts as the higher.
//! History: since opset 10.

use infer_kernels::call;

use super::{ImportNode, NodeTypes, NodeValues, Operator, Row};
use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::execute::execute;
use crate::ops::number::tensor_of;
use crate::tensor_type::{DataType, TensorType};
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

/// The boxes that are selected of each class: how many, and they, followed by anything up to the most that there may be.
/// The shapes of these follow from those of the inputs, so that kernels compute them; how many rows the node's own output
/// has does not.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Selection(call::NonMaxSuppression);

impl Operator for Selection {
    fn name(&self) -> &'static str {
        "NonMaxSuppression"
    }

    fn infer(&self, _node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let [batches, classes, most] =
            [self.0.batches, self.0.classes, self.0.most].map(|extent| extent as usize);
        let of = |shape: &[usize]| TensorType::new(DataType::I64, shape);
        Ok(vec![of(&[batches, classes]), of(&[batches, classes, most])])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (boxes, scores) = (node.input(0)?, node.input(1)?);
        let (counts, selected) = (node.output(0)?, node.output(1)?);
        let work = self.0.work().ok_or_else(|| Reason::new(format!("too many scores: {}", scores.ty)))?;
        let work = node.scratch_tensor(TensorType::new(DataType::I64, [work as usize]));
        let operands = [boxes, scores, counts, selected, work].map(|tensor| Some(tensor.span));
        node.call_with_outputs("non_max_suppression_f32", &self.0, &operands, 3);
        Ok(())
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

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
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
        let most = usize::try_from(most).unwrap_or(0).min(count);
        let iou_threshold = scalar(node, 3)?.unwrap_or(0.0);
        let score_threshold = scalar(node, 4)?;
        let mut found: Vec<i64> = Vec::new();
        // Without boxes there may be any number of classes, and nothing to select.
        if most > 0 && scores.ty().elements() > 0 {
            let selection = Selection(call::NonMaxSuppression {
                batches: batches as u64,
                classes: classes as u64,
                boxes: count as u64,
                most: most as u64,
                center_point_box: self.center_point_box.into(),
                has_score_threshold: score_threshold.is_some().into(),
                score_threshold: score_threshold.unwrap_or(0.0),
                iou_threshold,
            });
            let inputs = [Some(boxes.clone().into()), Some(scores.clone().into())];
            let results = execute(&selection, &inputs, &[true, true], node.backend)?;
            let [Value::Tensor(counts), Value::Tensor(selected)] = results.as_slice() else {
                return Err(Reason::new("the selection of boxes is lost"));
            };
            let (counts, selected) = (counts.values::<i64>(), selected.values::<i64>());
            for ((number, &count), selected) in counts.iter().enumerate().zip(selected.chunks(most)) {
                let (batch, class) = (number / classes, number % classes);
                let selected = selected.iter().take(usize::try_from(count).unwrap_or(0));
                found.extend(selected.flat_map(|&index| [batch as i64, class as i64, index]));
            }
        }
        Ok(Some(vec![tensor_of(DataType::I64, &[found.len() / 3, 3], &found)?.into()]))
    }

    fn hands_on(&self) -> bool {
        true
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
