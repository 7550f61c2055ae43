//! Slice: every so many elements of a range, for each axis; backwards where the step is negative.
//!
//! Starts, ends and axes are attributes before opset 10, inputs since.

use super::{ImportNode, NodeTypes, Operator, Row, StringUse, resolve_axes};
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Slice", domain: "", since: 1, inputs: 1..=5, outputs: 1..=1, import }];

/// Slice.
#[derive(Debug)]
pub struct Slice {
    /// Starts, ends and axes, where the model gives them as attributes.
    pub attributes: Option<SliceAttributes>,
}

/// The attributes of a Slice before opset 10.
#[derive(Debug)]
pub struct SliceAttributes {
    /// The first element of each axis.
    pub starts: Vec<i64>,
    /// One past the last element of each axis.
    pub ends: Vec<i64>,
    /// Which axes; the first ones where left out.
    pub axes: Option<Vec<i64>>,
}

/// What is taken of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisRange {
    /// The first element.
    pub start: usize,
    /// From one element to the next; 1 where there are fewer than two.
    pub step: i64,
    /// The number of elements.
    pub len: usize,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let starts = node.attributes.ints("starts")?;
    let ends = node.attributes.ints("ends")?;
    let axes = node.attributes.ints("axes")?;
    let attributes = match (starts, ends) {
        (Some(starts), Some(ends)) => Some(SliceAttributes { starts, ends, axes }),
        (None, None) if node.inputs.len() >= 3 => None,
        _ => return Err(Reason::new("`starts` or `ends` is missing")),
    };
    Ok(Box::new(Slice { attributes }))
}

impl Slice {
    /// What is taken of each axis of input 0.
    pub fn ranges(&self, node: &NodeTypes<'_>) -> Result<Vec<AxisRange>, Reason> {
        let ty = node.ty(0)?;
        let missing = |name: &str| Reason::new(format!("input `{name}` is missing"));
        let (starts, ends, axes, steps) = match &self.attributes {
            Some(given) => (given.starts.clone(), given.ends.clone(), given.axes.clone(), None),
            None => (
                node.known_i64s(1, "starts")?.ok_or_else(|| missing("starts"))?,
                node.known_i64s(2, "ends")?.ok_or_else(|| missing("ends"))?,
                node.known_i64s(3, "axes")?,
                node.known_i64s(4, "steps")?,
            ),
        };
        let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err(Reason::new(format!(
                "starts {starts:?}, ends {ends:?}, axes {axes:?} and steps {steps:?} are not equally many"
            )));
        }
        let whole = ty.shape.iter().map(|&len| AxisRange { start: 0, step: 1, len });
        let mut ranges: Vec<AxisRange> = whole.collect();
        for (slot, axis) in resolve_axes(&axes, ty.rank())?.into_iter().enumerate() {
            ranges[axis] = AxisRange::new(starts[slot], ends[slot], steps[slot], ty.shape[axis])?;
        }
        Ok(ranges)
    }
}

impl AxisRange {
    /// The range from `start` to before `end` of an axis of `extent` elements, negative numbers counted from its end.
    fn new(start: i64, end: i64, step: i64, extent: usize) -> Result<Self, Reason> {
        if step == 0 {
            return Err(Reason::new("a step of 0 is not allowed"));
        }
        if extent == 0 {
            return Ok(AxisRange { start: 0, step: 1, len: 0 });
        }
        let n = extent as i128;
        let from_end = |at: i64| if at < 0 { i128::from(at) + n } else { i128::from(at) };
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let first = from_end(start).clamp(low.max(0), high);
        let last = from_end(end).clamp(low, high);
        let distance = if step > 0 { last - first } else { first - last };
        let size = i128::from(step).abs();
        let len = if distance <= 0 { 0 } else { (distance + size - 1) / size };
        Ok(AxisRange {
            start: if len == 0 { 0 } else { first as usize },
            step: if len < 2 { 1 } else { step },
            len: len as usize,
        })
    }
}

impl Operator for Slice {
    fn name(&self) -> &'static str {
        "Slice"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let shape: Vec<usize> = self.ranges(node)?.iter().map(|range| range.len).collect();
        Ok(vec![TensorType::new(node.ty(0)?.dtype, shape)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        if output.ty.elements() == 0 {
            return Ok(());
        }
        let ranges = node.with_types(|types| self.ranges(types))?;
        let strides = input.ty.strides();
        let offset =
            ranges.iter().zip(&strides).map(|(range, stride)| range.start as u64 * *stride as u64).sum();
        let walk: Vec<i64> = ranges.iter().zip(&strides).map(|(range, stride)| range.step * stride).collect();
        node.copy_strided(&input, &walk, offset, &output, &output.ty.shape)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, i64s, run, tensor};
    use super::*;
    use crate::tensor_type::DataType;

    #[test]
    fn ranges_clamp_as_onnx_says() {
        let range = |start, end, step| AxisRange::new(start, end, step, 5).unwrap();
        assert_eq!(range(1, 4, 1), AxisRange { start: 1, step: 1, len: 3 });
        assert_eq!(range(-2, i64::MAX, 1), AxisRange { start: 3, step: 1, len: 2 });
        assert_eq!(range(0, 5, 2), AxisRange { start: 0, step: 2, len: 3 });
        assert_eq!(range(i64::MAX, i64::MIN, -2), AxisRange { start: 4, step: -2, len: 3 });
        assert_eq!(range(-1, 0, -1), AxisRange { start: 4, step: -1, len: 4 });
        assert_eq!(range(-9, -10, -1), AxisRange { start: 0, step: 1, len: 1 });
        assert_eq!(range(4, 1, 1).len, 0);
        assert_eq!(range(1, 4, i64::MAX).len, 1);
        assert_eq!(range(4, 0, i64::MIN).len, 1);
        assert!(AxisRange::new(0, 1, 0, 5).is_err());
        assert_eq!(AxisRange::new(0, -1, -1, 0).unwrap().len, 0);
    }

    #[test]
    fn slices_come_from_inputs_or_attributes() {
        let data = f32s([2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let inputs = [
            data.clone(),
            i64s([2], &[3, 0]),
            i64s([2], &[-5, 2]),
            tensor(DataType::I64, [2], &[-1i64, 0]),
            i64s([2], &[-2, 1]),
        ];
        check(("Slice", 13), &[], &inputs, &f32s([2, 2], &[4.0, 2.0, 8.0, 6.0]));
        let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
        let attributes = [("starts", ints(&[0, 1])), ("ends", ints(&[1, 1000]))];
        check(("Slice", 7), &attributes, std::slice::from_ref(&data), &f32s([1, 3], &[2.0, 3.0, 4.0]));
        assert!(run(("Slice", 13), &[], &[data.clone(), i64s([1], &[0]), i64s([2], &[1, 1])]).is_err());
        assert!(run(("Slice", 13), &[], &[data, i64s([3], &[0; 3]), i64s([3], &[1; 3])]).is_err());
    }
}
