//! Unique, Compress, NonZero and CenterCropPad: parts of a tensor, those that differ, are asked for, are not zero or lie
//! in the middle.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: elements of any type but the 8-bit and 4-bit floats and complex numbers where they are compared; strings too.
//! Unique takes NaN for different from itself, and puts it last.
//! History: Compress and NonZero since opset 9, Unique since 11, CenterCropPad since 18.

use std::cmp::Ordering;

use infer_kernels::call;

use super::elements::{around, expect_elements, select, shape_of};
use super::movement::{extent, kernel_width, result_type};
use super::number::{Number, no_numbers, tensor_of, widened, with_number};
use super::{
    Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, StringUse, Wire, expect_dtype, resolve_axes,
    resolve_axis,
};
use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "CenterCropPad",
        domain: "",
        since: 18,
        inputs: 2..=2,
        outputs: 1..=1,
        import: import_center_crop_pad,
    },
    Row { name: "Compress", domain: "", since: 9, inputs: 2..=2, outputs: 1..=1, import: import_compress },
    Row {
        name: "NonZero",
        domain: "",
        since: 9,
        inputs: 1..=1,
        outputs: 1..=1,
        import: |_| Ok(Box::new(NonZero)),
    },
    Row { name: "Unique", domain: "", since: 11, inputs: 1..=1, outputs: 1..=4, import: import_unique },
];

/// Compress: the slices for which a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compress {
    /// The axis; all elements in a row where left out.
    pub axis: Option<i64>,
}

/// NonZero: the indices of the elements that are not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonZero;

/// Unique: the different elements or slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unique {
    /// The axis of the slices; elements where left out.
    pub axis: Option<i64>,
    /// Whether they are in order, not in that of their first occurrence.
    pub sorted: bool,
}

/// CenterCropPad: the middle of a tensor, or the tensor in the middle of zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CenterCropPad {
    /// Which axes the extents are of; all where left out.
    pub axes: Option<Vec<i64>>,
}

fn import_compress(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Compress { axis: node.attributes.int("axis")? }))
}

fn import_unique(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Unique { axis: node.attributes.int("axis")?, sorted: node.attributes.flag("sorted", true)? }))
}

fn import_center_crop_pad(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(CenterCropPad { axes: node.attributes.ints("axes")? }))
}

/// The slices of `value` at `rows` of axis `axis`, or the elements at `rows` where that is `None`.
fn take(value: &Value, shape: &[usize], axis: Option<usize>, rows: &[usize]) -> Result<Value, Reason> {
    let Some(axis) = axis else { return select(value, &[rows.len()], rows) };
    let (outer, length, inner) = around(shape, axis);
    let mut result = shape.to_vec();
    result[axis] = rows.len();
    let mut positions = Vec::with_capacity(expect_elements(&result, size_of::<usize>())?);
    for outer in 0..outer {
        for row in rows {
            let first = (outer * length + row) * inner;
            positions.extend(first..first + inner);
        }
    }
    select(value, &result, &positions)
}

impl Compress {
    /// The axis, and which rows of it the condition asks for.
    fn rows(&self, shape: &[usize], condition: &Constant) -> Result<(Option<usize>, Vec<usize>), Reason> {
        let axis = self.axis.map(|axis| resolve_axis(axis, shape.len())).transpose()?;
        let length = axis.map_or_else(|| shape.iter().product(), |axis| shape[axis]);
        let ty = condition.ty();
        if ty.dtype != DataType::Bool || ty.rank() != 1 || ty.elements() > length {
            return Err(Reason::new(format!("condition {ty} is not one of at most {length} elements")));
        }
        expect_elements(&ty.shape, 2 * size_of::<usize>())?;
        let rows = condition.data().iter().enumerate().filter(|&(_, &holds)| holds != 0);
        Ok((axis, rows.map(|(row, _)| row).collect()))
    }
}

impl Operator for Compress {
    fn name(&self) -> &'static str {
        "Compress"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        expect_dtype(node.ty(1)?, &[DataType::Bool])?;
        let condition =
            node.known(1, "condition")?.ok_or_else(|| Reason::new("input `condition` is missing"))?;
        let (axis, rows) = self.rows(&ty.shape, condition)?;
        let mut shape = ty.shape.clone();
        match axis {
            Some(axis) => shape[axis] = rows.len(),
            None => shape = vec![rows.len()],
        }
        Ok(vec![TensorType::new(ty.dtype, shape)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (data, output) = (node.input(0)?, node.output(0)?);
        if output.ty.elements() == 0 {
            return Ok(());
        }
        let condition = node.constant(1).ok_or_else(|| Reason::new("input `condition` is not known"))?;
        let (axis, rows) = self.rows(&data.ty.shape, condition)?;
        let (outer, length, inner) = match axis {
            Some(axis) => around(&data.ty.shape, axis),
            None => (1, data.ty.elements(), 1),
        };
        let (width, parts) = kernel_width(data.ty.dtype);
        let params = call::Gather {
            outer: outer as u64,
            axis: length as u64,
            inner: (inner * parts) as u64,
            indices: rows.len() as u64,
            index_bytes: size_of::<i64>() as u64,
        };
        let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
        let rows = node.data(&rows);
        node.call(format!("gather_b{width}"), &params, &[Some(data.span), Some(rows), Some(output.span)]);
        Ok(())
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl Operator for NonZero {
    fn name(&self) -> &'static str {
        "NonZero"
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (value, shape) = (node.value(0)?, shape_of(node, 0)?);
        expect_elements(shape, 2 * size_of::<usize>())?;
        let found: Vec<usize> = match value {
            Value::Strings(strings) => positions(strings.data().iter().map(|string| !string.is_empty())),
            _ => {
                let tensor = widened(node.tensor(0)?);
                with_number!(
                    tensor.ty().dtype,
                    T => positions(tensor.values::<T>().iter().map(|value| !value.compare(&T::ZERO).is_eq())),
                    {
                        // Of the others zero is the one whose bits are, a sign aside.
                        let width = tensor.ty().dtype.size_bytes();
                        positions(tensor.data().chunks_exact(width).map(|bytes| bytes.iter().any(|&b| b != 0)))
                    }
                )
            }
        };
        let strides = super::elements::strides(shape);
        let mut coordinates = Vec::with_capacity(expect_elements(&[shape.len(), found.len()], 8)?);
        for (stride, extent) in strides.iter().zip(shape) {
            coordinates.extend(found.iter().map(|at| (at / stride % extent) as i64));
        }
        Ok(Some(vec![tensor_of(DataType::I64, &[shape.len(), found.len()], &coordinates)?.into()]))
    }
}

fn positions(holds: impl Iterator<Item = bool>) -> Vec<usize> {
    holds.enumerate().filter(|(_, holds)| *holds).map(|(at, _)| at).collect()
}

impl Operator for Unique {
    fn name(&self) -> &'static str {
        "Unique"
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (value, shape) = (node.value(0)?, shape_of(node, 0)?);
        let axis = self.axis.map(|axis| resolve_axis(axis, shape.len())).transpose()?;
        let (outer, length, inner) = match axis {
            Some(axis) => around(shape, axis),
            None => (1, expect_elements(shape, 1)?, 1),
        };
        expect_elements(&[length], 2 * size_of::<Vec<usize>>())?;
        let rows = Rows { outer, length, inner };
        let groups = match value {
            Value::Strings(strings) => rows.groups(|a, b| strings.data()[a].cmp(&strings.data()[b])),
            _ => {
                let tensor = widened(node.tensor(0)?);
                with_number!(
                    tensor.ty().dtype,
                    T => {
                        let values = tensor.values::<T>();
                        rows.groups(|a, b| values[a].compare(&values[b]))
                    },
                    return Err(no_numbers(tensor.ty().dtype))
                )
            }
        };
        let mut order: Vec<usize> = (0..groups.len()).collect();
        if !self.sorted {
            order.sort_unstable_by_key(|&group| groups[group][0]);
        }
        let firsts: Vec<usize> = order.iter().map(|&group| groups[group][0]).collect();
        let indices: Vec<i64> = firsts.iter().map(|&row| row as i64).collect();
        let counts: Vec<i64> = order.iter().map(|&group| groups[group].len() as i64).collect();
        let mut inverse = vec![0i64; length];
        for (number, &group) in order.iter().enumerate() {
            for &row in &groups[group] {
                inverse[row] = number as i64;
            }
        }
        let mut results = vec![
            take(value, shape, axis, &firsts)?,
            Constant::of_i64(&indices).into(),
            Constant::of_i64(&inverse).into(),
            Constant::of_i64(&counts).into(),
        ];
        results.truncate(node.outputs.len().max(1));
        Ok(Some(results))
    }
}

/// The slices of a tensor along an axis.
struct Rows {
    outer: usize,
    length: usize,
    inner: usize,
}

impl Rows {
    /// The slices in order, in groups of equal ones, each in the order of the tensor; `compare` compares two elements.
    fn groups(&self, compare: impl Fn(usize, usize) -> Ordering) -> Vec<Vec<usize>> {
        let elements = |row: usize| {
            (0..self.outer).flat_map(move |outer| {
                let first = (outer * self.length + row) * self.inner;
                first..first + self.inner
            })
        };
        let order = |&a: &usize, &b: &usize| {
            let differences = elements(a).zip(elements(b)).map(|(a, b)| compare(a, b));
            differences.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        };
        let mut rows: Vec<usize> = (0..self.length).collect();
        rows.sort_by(order);
        rows.chunk_by(|a, b| order(a, b).is_eq()).map(<[usize]>::to_vec).collect()
    }
}

impl Operator for CenterCropPad {
    fn name(&self) -> &'static str {
        "CenterCropPad"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let input = nodes.input(0)?;
        let ty = nodes.ty(input)?.clone();
        let wanted =
            nodes.types.known_i64s(1, "shape")?.ok_or_else(|| Reason::new("input `shape` is missing"))?;
        let axes = match &self.axes {
            Some(axes) => resolve_axes(axes, ty.rank())?,
            None => (0..ty.rank()).collect(),
        };
        if wanted.len() != axes.len() {
            return Err(Reason::new(format!("`shape` {wanted:?} for {} axes of {ty}", axes.len())));
        }
        let mut shape = ty.shape.clone();
        for (&axis, &wanted) in axes.iter().zip(&wanted) {
            shape[axis] = extent(wanted, "shape")?;
        }
        result_type(ty.dtype, shape.clone())?;
        // The middle is rounded down both where it is cut out and where it is put.
        let rank = ty.rank();
        let (mut starts, mut ends, mut pads) = (vec![0; rank], vec![0; rank], vec![0; 2 * rank]);
        for axis in 0..rank {
            let (from, to) = (ty.shape[axis], shape[axis]);
            let (less, more) = (from.saturating_sub(to), to.saturating_sub(from));
            starts[axis] = (less / 2) as i64;
            ends[axis] = (less / 2 + from.min(to)) as i64;
            pads[axis] = (more / 2) as i64;
            pads[rank + axis] = (more - more / 2) as i64;
        }
        let (starts, ends, pads) = (nodes.i64s(&starts), nodes.i64s(&ends), nodes.i64s(&pads));
        let cropped = nodes.node("Slice", &[input, starts, ends], &[])?;
        Ok(Some(vec![nodes.node("Pad", &[cropped, pads], &[])?]))
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, i64s, infer, run, run_all, run_values, tensor};
    use crate::value::Strings;

    #[test]
    fn conditions_choose_slices_or_elements() {
        let data = f32s([2, 3], &[1., 2., 3., 4., 5., 6.]);
        let condition = bools([3], &[true, false, true]);
        check(("Compress", 11), &[], &[&data, &condition], &f32s([2], &[1., 3.]));
        let axis = [("axis", Attribute::Int(-1))];
        check(("Compress", 11), &axis, &[&data, &condition], &f32s([2, 2], &[1., 3., 4., 6.]));
        check(
            ("Compress", 9),
            &[("axis", 0.into())],
            &[&data, &bools([1], &[true])],
            &f32s([1, 3], &[1., 2., 3.]),
        );
        assert!(run(("Compress", 11), &[("axis", 0.into())], &[&data, &condition]).is_err());
        let types = [data.ty().clone(), condition.ty().clone()];
        assert!(infer(("Compress", 11), &[], &types).unwrap_err().at_run_time);
    }

    #[test]
    fn coordinates_of_what_is_not_zero() {
        let data = tensor(DataType::F16, [2, 2], &[0.0, -0.0, 2.0, f32::NAN].map(half::f16::from_f32));
        check(("NonZero", 13), &[], &[data], &i64s([2, 2], &[1, 1, 0, 1]));
        check(("NonZero", 9), &[], &[bools([2], &[false, true])], &i64s([1, 1], &[1]));
        check(("NonZero", 9), &[], &[i64s([], &[3])], &i64s([0, 1], &[]));
        check(("NonZero", 9), &[], &[i64s([2, 0], &[])], &i64s([2, 0], &[]));
    }

    #[test]
    fn different_elements_and_slices() {
        let unique = |attributes: &[(&str, Attribute)], data: Constant| {
            run_all(("Unique", 11), attributes, &[Some(data)], 4).unwrap()
        };
        let data = i64s([6], &[2, 1, 1, 3, 4, 3]);
        let first = [i64s([4], &[2, 1, 3, 4]), i64s([4], &[0, 1, 3, 4]), i64s([6], &[0, 1, 1, 2, 3, 2])];
        let unsorted = unique(&[("sorted", 0.into())], data);
        assert_eq!(unsorted[..3], first);
        assert_eq!(unsorted[3], i64s([4], &[1, 2, 2, 1]));
        let pairs = f32s([2, 4, 2], &[1., 1., 0., 1., 2., 1., 0., 1., 1., 1., 0., 1., 2., 1., 0., 1.]);
        let expected = [
            f32s([2, 3, 2], &[0., 1., 1., 1., 2., 1., 0., 1., 1., 1., 2., 1.]),
            i64s([3], &[1, 0, 2]),
            i64s([4], &[1, 0, 2, 0]),
            i64s([3], &[2, 1, 1]),
        ];
        assert_eq!(unique(&[("axis", 1.into())], pairs), expected);
        let strings = |values: &[&str]| {
            Strings::new([values.len()], values.iter().map(|&v| v.to_owned()).collect()).unwrap()
        };
        let inputs = [Some(strings(&["b", "a", "b"]).into())];
        let outputs = run_values(("Unique", 11), &[], &inputs, 1).unwrap();
        assert_eq!(outputs, [Value::Strings(strings(&["a", "b"]))]);
        assert_eq!(unique(&[("axis", 0.into())], f32s([0, 2], &[]))[0], f32s([0, 2], &[]));
    }

    #[test]
    fn the_middle_is_cut_or_padded() {
        let data = f32s([1, 4], &[1., 2., 3., 4.]);
        let crop = |shape: [i64; 2]| run(("CenterCropPad", 18), &[], &[data.clone(), i64s([2], &shape)]);
        assert_eq!(crop([2, 1]).unwrap(), f32s([2, 1], &[2., 0.]));
        assert_eq!(crop([1, 7]).unwrap(), f32s([1, 7], &[0., 1., 2., 3., 4., 0., 0.]));
        let axes = [("axes", Attribute::Ints(vec![-1]))];
        check(("CenterCropPad", 18), &axes, &[data.clone(), i64s([1], &[2])], &f32s([1, 2], &[2., 3.]));
        assert!(crop([-1, 2]).is_err() && crop([1 << 40, 2]).is_err());
    }
}
