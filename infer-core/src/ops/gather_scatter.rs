//! GatherElements and GatherND: elements or slices selected by an index of their own each.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__GatherElements.html>,
//! <https://onnx.ai/onnx/operators/onnx__GatherND.html>
//! Types: elements of any type, strings included; indices i64 or i32, negative ones counted from the end.
//! History: since opset 11; GatherND has `batch_dims` since 12.
//!
//! Both gather from the flattened data at positions that are known while compiling where the indices are, else summed up
//! from what a gather from a table of multiples of the stride gives for each index: it checks the index against the
//! axis, and counts negative ones from the end.

use infer_kernels::call;

use super::elements::{offsets, resolve_index, strides};
use super::movement::{expect_table, kernel_width, result_type};
use super::{ImportNode, NodeTypes, Operator, Row, StringUse, expect_dtype, resolve_axis};
use crate::calls::{LowerNode, Tensor};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// The most offsets of a tensor's axes that are stored as one table, not one for each axis.
const MAX_OFFSETS: usize = 1 << 16;

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

/// `positions` as a tensor of the plan.
fn known_positions(node: &mut LowerNode<'_>, positions: &[usize]) -> Tensor {
    let positions: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
    let ty = TensorType::new(DataType::I64, [positions.len()]);
    Tensor { ty, span: node.data(&positions), blocked: None }
}

/// Calls the kernel that gathers slices of `inner` elements of `data` at `positions` of an axis of `axis`.
fn gather(
    node: &mut LowerNode<'_>,
    data: &Tensor,
    positions: &Tensor,
    output: &Tensor,
    axis: usize,
    inner: usize,
) {
    let (width, parts) = kernel_width(data.ty.dtype);
    let params = call::Gather {
        outer: 1,
        axis: axis as u64,
        inner: (inner * parts) as u64,
        indices: positions.ty.elements() as u64,
        index_bytes: positions.ty.dtype.size_bytes() as u64,
    };
    let operands = [Some(data.span), Some(positions.span), Some(output.span)];
    node.call(format!("gather_b{width}"), &params, &operands);
}

/// Writes `stride` times the index, counted from the beginning of an axis of `extent`, of each of `indices` into
/// `positions`.
fn along(node: &mut LowerNode<'_>, indices: &Tensor, positions: &Tensor, extent: usize, stride: usize) {
    let table: Vec<usize> = (0..extent).map(|index| index * stride).collect();
    let table = known_positions(node, &table);
    gather(node, &table, indices, positions, extent, 1);
}

/// Adds to `positions` what their coordinates along `axes` say, by these strides.
fn add_offsets(
    node: &mut LowerNode<'_>,
    positions: &Tensor,
    axes: &[usize],
    walk: &[usize],
) -> Result<(), Reason> {
    let shape = &positions.ty.shape;
    let axes: Vec<usize> = axes.iter().copied().filter(|&axis| shape[axis] > 1).collect();
    let together: usize = axes.iter().map(|&axis| shape[axis]).product();
    let groups: Vec<&[usize]> = if together <= MAX_OFFSETS { vec![&axes] } else { axes.chunks(1).collect() };
    for axes in groups.into_iter().filter(|axes| !axes.is_empty()) {
        let extents: Vec<usize> =
            (0..shape.len()).map(|axis| if axes.contains(&axis) { shape[axis] } else { 1 }).collect();
        let offsets: Vec<usize> = offsets(&extents, walk).collect();
        let mut offsets = known_positions(node, &offsets);
        offsets.ty.shape = extents;
        node.elementwise("add_i64", &[positions, &offsets], positions, |_| ())?;
    }
    Ok(())
}

/// Refuses indices of axes that are empty or too long for a table of their offsets.
fn expect_axes(extents: &[usize], indices: &TensorType) -> Result<(), Reason> {
    for &extent in extents {
        if extent == 0 && indices.elements() > 0 {
            return Err(Reason::new(format!("indices {indices} of an empty axis")));
        }
        expect_table(Some(extent))?;
    }
    Ok(())
}

impl Operator for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (data, indices) = (node.ty(0)?, node.ty(1)?);
        expect_dtype(indices, &[DataType::I64, DataType::I32])?;
        let axis = resolve_axis(self.axis, data.rank())?;
        expect_indices(&data.shape, &indices.shape, axis)?;
        expect_axes(&data.shape[axis..=axis], indices)?;
        Ok(vec![TensorType::new(data.dtype, indices.shape.clone())])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (data, indices, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        if output.ty.elements() == 0 {
            return Ok(());
        }
        let (from, shape) = (data.ty.shape.clone(), indices.ty.shape.clone());
        let axis = resolve_axis(self.axis, from.len())?;
        let flat = data.ty.elements();
        if let Some(known) = node.constant(1).and_then(Constant::to_i64s) {
            let positions = element_positions(&from, &shape, &known, axis)?;
            let positions = known_positions(node, &positions);
            gather(node, &data, &positions, &output, flat, 1);
            return Ok(());
        }
        let walk = strides(&from);
        let positions = node.scratch_tensor(TensorType::new(DataType::I64, shape.clone()));
        along(node, &indices, &positions, from[axis], walk[axis]);
        let others: Vec<usize> = (0..shape.len()).filter(|&other| other != axis).collect();
        add_offsets(node, &positions, &others, &walk)?;
        gather(node, &data, &positions, &output, flat, 1);
        Ok(())
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
        let (depth, shape) = self.shape(&data.shape, &indices.shape)?;
        let batch = self.batch_dims;
        expect_axes(&data.shape[batch..batch + depth], indices)?;
        Ok(vec![result_type(data.dtype, shape)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (data, indices, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        if output.ty.elements() == 0 {
            return Ok(());
        }
        let (depth, _) = self.shape(&data.ty.shape, &indices.ty.shape)?;
        let (batch, inner) = data.ty.shape.split_at(self.batch_dims);
        let (inner, slice) = inner.split_at(depth);
        let product = |extents: &[usize]| extents.iter().product::<usize>();
        let (batches, slices, slice) = (product(batch), product(inner), product(slice));
        // One number a row, of as many rows in each batch.
        let rows = product(&indices.ty.shape) / depth / batches;
        if let Some(known) = node.constant(1).and_then(Constant::to_i64s) {
            let starts = slice_starts(inner, depth, &known)?;
            let starts = starts.into_iter().enumerate();
            let positions: Vec<usize> = starts.map(|(row, start)| row / rows * slices + start).collect();
            let positions = known_positions(node, &positions);
            gather(node, &data, &positions, &output, batches * slices, slice);
            return Ok(());
        }
        let walk = strides(inner);
        let column = TensorType::new(indices.ty.dtype, [batches, rows]);
        let positions = node.scratch_tensor(TensorType::new(DataType::I64, [batches, rows]));
        for (at, (&extent, &stride)) in inner.iter().zip(&walk).enumerate() {
            let indices = if depth == 1 {
                indices.clone()
            } else {
                let copy = node.scratch_tensor(column.clone());
                let strides = [rows * depth, depth].map(|stride| stride as i64);
                node.copy_strided(&indices, &strides, at as u64, &copy, &[batches, rows])?;
                copy
            };
            if at == 0 {
                along(node, &indices, &positions, extent, stride);
            } else {
                let more = node.scratch_tensor(positions.ty.clone());
                along(node, &indices, &more, extent, stride);
                node.elementwise("add_i64", &[&positions, &more], &positions, |_| ())?;
            }
        }
        add_offsets(node, &positions, &[0], &[slices, 0])?;
        gather(node, &data, &positions, &output, batches * slices, slice);
        Ok(())
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
    use crate::value::{Strings, Value};

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
