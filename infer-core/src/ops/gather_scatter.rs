//! GatherElements and GatherND: elements or slices selected by an index of their own each.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__GatherElements.html>,
//! <https://onnx.ai/onnx/operators/onnx__GatherND.html>
//! Types: elements of any type, strings included; indices i64 or i32, negative ones counted from the end.
//! History: since opset 11; GatherND has `batch_dims` since 12.

use super::elements::{Elements, expect_elements, offsets, resolve_index, select, shape_of, strides};
use super::movement::result_type;
use super::{ImportNode, NodeTypes, NodeValues, Operator, Row, StringUse, expect_dtype, resolve_axis};
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "GatherElements",
        domain: "",
        since: 11,
        inputs: 2..=2,
        outputs: 1..=1,
        import: import_elements,
    },
    Row { name: "GatherND", domain: "", since: 11, inputs: 2..=2, outputs: 1..=1, import: import_nd },
];

/// GatherElements: `out[i, j, …] = data[indices[i, j, …], j, …]`, for axis 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherElements {
    /// The axis that the indices count along.
    pub axis: i64,
}

/// GatherND: the slices at the coordinates that the last axis of the indices holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherNd {
    /// How many leading axes data and indices share.
    pub batch_dims: usize,
}

fn import_elements(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(GatherElements { axis: node.attributes.int("axis")?.unwrap_or(0) }))
}

fn import_nd(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let batch_dims = node.attributes.int("batch_dims")?.unwrap_or(0);
    let wrong = |_| Reason::new(format!("attribute `batch_dims` is {batch_dims}"));
    Ok(Box::new(GatherNd { batch_dims: usize::try_from(batch_dims).map_err(wrong)? }))
}

/// Refuses indices that do not lie within `data` beside `axis`.
pub(super) fn expect_indices(data: &[usize], indices: &[usize], axis: usize) -> Result<(), Reason> {
    let fits = data.len() == indices.len()
        && (0..data.len()).all(|other| other == axis || indices[other] <= data[other]);
    if fits {
        return Ok(());
    }
    Err(Reason::new(format!("indices {indices:?} do not lie within data {data:?} beside axis {axis}")))
}

/// For each of `indices`, of shape `shape`, the element of a tensor of shape `data` that it names along `axis`.
pub(super) fn element_positions(
    data: &[usize],
    shape: &[usize],
    indices: &[i64],
    axis: usize,
) -> Result<Vec<usize>, Reason> {
    let mut walk = strides(data);
    let stride = std::mem::replace(&mut walk[axis], 0);
    let position = |(offset, &index): (usize, &i64)| Ok(offset + resolve_index(index, data[axis])? * stride);
    offsets(shape, &walk).zip(indices).map(position).collect()
}

/// Where the slices begin, in a tensor of shape `data`, that rows of `depth` coordinates name.
pub(super) fn slice_starts(data: &[usize], depth: usize, indices: &[i64]) -> Result<Vec<usize>, Reason> {
    let strides = strides(data);
    let start = |row: &[i64]| {
        row.iter().zip(data).zip(&strides).try_fold(0usize, |start, ((&index, &extent), &stride)| {
            Ok(start + resolve_index(index, extent)? * stride)
        })
    };
    indices.chunks_exact(depth).map(start).collect()
}

impl Operator for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (data, indices) = (node.ty(0)?, node.ty(1)?);
        expect_dtype(indices, &[DataType::I64, DataType::I32])?;
        expect_indices(&data.shape, &indices.shape, resolve_axis(self.axis, data.rank())?)?;
        Ok(vec![TensorType::new(data.dtype, indices.shape.clone())])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (data, shape) = (shape_of(node, 0)?, shape_of(node, 1)?);
        let axis = resolve_axis(self.axis, data.len())?;
        expect_indices(data, shape, axis)?;
        let positions = element_positions(data, shape, &node.i64s(1)?, axis)?;
        Ok(Some(vec![select(node.value(0)?, shape, &positions)?]))
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl GatherNd {
    /// The number of coordinates in each row of the indices, and the shape of the result.
    fn shape(&self, data: &[usize], indices: &[usize]) -> Result<(usize, Vec<usize>), Reason> {
        let batch = self.batch_dims;
        let refuse =
            || Reason::new(format!("indices {indices:?} do not index data {data:?} with {batch} batch axes"));
        let (&depth, rows) = indices.split_last().ok_or_else(refuse)?;
        if rows.len() < batch || data.len() < batch || rows[..batch] != data[..batch] {
            return Err(refuse());
        }
        if depth == 0 || depth > data.len() - batch {
            return Err(refuse());
        }
        Ok((depth, [rows, &data[batch + depth..]].concat()))
    }
}

impl Operator for GatherNd {
    fn name(&self) -> &'static str {
        "GatherND"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (data, indices) = (node.ty(0)?, node.ty(1)?);
        expect_dtype(indices, &[DataType::I64, DataType::I32])?;
        Ok(vec![result_type(data.dtype, self.shape(&data.shape, &indices.shape)?.1)?])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (data, indices) = (shape_of(node, 0)?, shape_of(node, 1)?);
        let (depth, shape) = self.shape(data, indices)?;
        expect_elements(&shape, 1)?;
        let (batch, inner) = data.split_at(self.batch_dims);
        let slice: usize = inner[depth..].iter().product();
        let starts = slice_starts(inner, depth, &node.i64s(1)?)?;
        let batches: usize = batch.iter().product();
        let rows = starts.len().checked_div(batches).unwrap_or(0).max(1);
        let batch_elements: usize = inner.iter().product();
        let mut result = Elements::zeroed(node.value(0)?, &shape)?;
        for (row, start) in starts.into_iter().enumerate() {
            let from = row / rows * batch_elements + start;
            result.copy(row * slice, node.value(0)?, from, slice)?;
        }
        Ok(Some(vec![result.into_value(shape)?]))
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, infer, run, run_values, tensor};
    use crate::value::Strings;

    #[test]
    fn elements_follow_their_indices() {
        let data = f32s([3, 2], &[1., 2., 3., 4., 5., 6.]);
        let indices = i64s([2, 2], &[-1, 0, 1, 2]);
        check(("GatherElements", 13), &[], &[data.clone(), indices], &f32s([2, 2], &[5., 2., 3., 6.]));
        let axis = [("axis", Attribute::Int(-1))];
        let indices = tensor(DataType::I32, [2, 1], &[1i32, -2]);
        check(("GatherElements", 11), &axis, &[data.clone(), indices], &f32s([2, 1], &[2., 3.]));
        let run = |indices| run(("GatherElements", 13), &axis, &[data.clone(), indices]);
        for wrong in [i64s([1, 1], &[2]), i64s([1, 1], &[-3]), i64s([4, 1], &[0; 4]), i64s([1], &[0])] {
            assert!(run(wrong).is_err());
        }
        let strings = Strings::new([2], vec!["a".into(), "b".into()]).unwrap();
        let inputs = [Some(strings.into()), Some(Value::Tensor(i64s([2], &[1, 1])))];
        let expected = Strings::new([2], vec!["b".into(), "b".into()]).unwrap();
        let outputs = run_values(("GatherElements", 13), &[], &inputs, 1);
        assert_eq!(outputs.unwrap(), [Value::Strings(expected)]);
    }

    #[test]
    fn slices_follow_their_coordinates() {
        let data = tensor(DataType::U8, [2, 2, 2], &[0u8, 1, 2, 3, 4, 5, 6, 7]);
        let bytes = |shape: [usize; 2], values: &[u8]| tensor(DataType::U8, shape, values);
        let indices = i64s([2, 2], &[0, 1, 1, -2]);
        check(("GatherND", 11), &[], &[data.clone(), indices], &bytes([2, 2], &[2, 3, 4, 5]));
        let batch = [("batch_dims", Attribute::Int(1))];
        check(
            ("GatherND", 12),
            &batch,
            &[data.clone(), i64s([2, 1], &[1, 0])],
            &bytes([2, 2], &[2, 3, 4, 5]),
        );
        let batch = |n| [("batch_dims", Attribute::Int(n))];
        let wrong = [(0, i64s([1, 4], &[0; 4])), (1, i64s([3, 1], &[0; 3])), (0, i64s([1, 1], &[2]))];
        for (dims, indices) in wrong {
            assert!(run(("GatherND", 13), &batch(dims), &[data.clone(), indices]).is_err());
        }
        let types = [data.ty().clone(), TensorType::new(DataType::I64, [5, 2, 3])];
        assert_eq!(infer(("GatherND", 13), &[], &types).unwrap(), [TensorType::new(DataType::U8, [5, 2])]);
    }
}
