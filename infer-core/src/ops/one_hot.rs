//! OneHot and EyeLike: a value where an index or the diagonal says so, another elsewhere.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__OneHot.html>, <https://onnx.ai/onnx/operators/onnx__EyeLike.html>
//! Types: OneHot takes indices and depth of any number type, which it truncates, and values of any type, strings
//! included; EyeLike gives numbers and bool.
//! History: since opset 9; negative indices of OneHot count from the end since 11 and are outside before.

use super::elements::{Elements, around, expect_elements, shape_of};
use super::movement::{element_bits, expect_table};
use super::number::{NUMBERS, Scalar, scalars};
use super::shape::{expect_small, lower_evaluated};
use super::{Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, Wire, compose, expect_dtype};
use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::movement::result_type;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "EyeLike", domain: "", since: 9, inputs: 1..=1, outputs: 1..=1, import: import_eye_like },
    Row { name: "OneHot", domain: "", since: 9, inputs: 3..=3, outputs: 1..=1, import: import_one_hot },
];

/// OneHot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneHot {
    /// The axis of the result that the indices count along.
    pub axis: i64,
    /// Whether negative indices count from the end.
    pub from_end: bool,
}

/// EyeLike: ones on a diagonal of a matrix as large as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EyeLike {
    /// The type of the elements; `None` for that of the input.
    pub dtype: Option<DataType>,
    /// How far above the main diagonal.
    pub k: i64,
}

fn import_one_hot(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let axis = node.attributes.int("axis")?.unwrap_or(-1);
    Ok(Box::new(OneHot { axis, from_end: node.opset >= 11 }))
}

fn import_eye_like(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let dtype = match node.attributes.int("dtype")? {
        None => None,
        Some(code) => {
            let dtype = i32::try_from(code).ok().and_then(DataType::from_onnx);
            Some(dtype.ok_or_else(|| Reason::new(format!("element type number {code} is not supported")))?)
        }
    };
    Ok(Box::new(EyeLike { dtype, k: node.attributes.int("k")?.unwrap_or(0) }))
}

/// The elements of `tensor` as integers, floats truncated.
fn integers(tensor: &Constant) -> Result<Vec<i64>, Reason> {
    expect_dtype(tensor.ty(), NUMBERS)?;
    let integer = |element| match element {
        Scalar::Integer(x) => i64::try_from(x).unwrap_or(i64::MAX),
        Scalar::Float(x) => x as i64,
    };
    Ok(scalars(tensor)?.map(integer).collect())
}

impl OneHot {
    /// The axis, and the shape of the result.
    fn shape(&self, indices: &[usize], depth: &Constant) -> Result<(usize, Vec<usize>), Reason> {
        let axis = super::resolve_axis(self.axis, indices.len() + 1)?;
        let depth = match integers(depth)?.as_slice() {
            [depth] => super::movement::extent(*depth, "depth")?,
            several => return Err(Reason::new(format!("input `depth` has {} elements", several.len()))),
        };
        let mut shape = indices.to_vec();
        shape.insert(axis, depth);
        expect_elements(&shape, 1)?;
        Ok((axis, shape))
    }
}

/// Whether values of a type are moved on the host: those of 16 bytes, which no kernel selects, and those of an axis
/// longer than tables are.
fn is_moved(dtype: DataType, depth: usize) -> bool {
    dtype.size_bytes() > 8 || expect_table(Some(depth)).is_err()
}

impl Operator for OneHot {
    fn name(&self) -> &'static str {
        "OneHot"
    }

    /// Where an index is the position along the axis, counted from either end, the one value, elsewhere the other.
    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let output = self.infer(&nodes.types)?.swap_remove(0);
        let axis = super::resolve_axis(self.axis, output.rank())?;
        let depth = output.shape[axis];
        if is_moved(output.dtype, depth) {
            return Ok(None);
        }
        let i64s = |nodes: &mut Expansion<'_>, shape: &[usize], first: i64| {
            let numbers: Vec<i64> = (0..shape.iter().product::<usize>() as i64).map(|n| n + first).collect();
            nodes.constant(Constant::of(TensorType::new(DataType::I64, shape), &numbers))
        };
        let mut index = nodes.input(0)?;
        if nodes.ty(index)?.dtype == DataType::U64 {
            // Those beyond i64 are none of the positions either.
            let most = compose::scalar(nodes, DataType::U64, depth as f64)?;
            index = nodes.node("Min", &[index, most], &[])?;
        }
        let index = compose::cast(nodes, index, DataType::I64)?;
        let mut shape = output.shape.clone();
        shape[axis] = 1;
        let index = compose::reshape(nodes, index, &shape)?;
        shape.fill(1);
        shape[axis] = depth;
        let positions = i64s(nodes, &shape, 0);
        let mut found = nodes.node("Equal", &[index, positions], &[])?;
        if self.from_end {
            let positions = i64s(nodes, &shape, -(depth as i64));
            let from_end = nodes.node("Equal", &[index, positions], &[])?;
            found = nodes.node("Or", &[found, from_end], &[])?;
        }
        let values = nodes.input(2)?;
        let [off, on] = [0, 1].map(|which| {
            let which = i64s(nodes, &[], which);
            nodes.node("Gather", &[values, which], &[])
        });
        Ok(Some(vec![nodes.node("Where", &[found, on?, off?], &[])?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (indices, values) = (node.ty(0)?, node.ty(2)?);
        expect_dtype(indices, NUMBERS)?;
        expect_dtype(node.ty(1)?, NUMBERS)?;
        if values.shape != [2] {
            return Err(Reason::new(format!("input `values` is {values}, not two elements")));
        }
        let depth = node.known(1, "depth")?.ok_or_else(|| Reason::new("input `depth` is missing"))?;
        Ok(vec![result_type(values.dtype, self.shape(&indices.shape, depth)?.1)?])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (indices, values) = (node.tensor(0)?, node.value(2)?);
        if shape_of(node, 2)? != [2] {
            return Err(Reason::new(format!("input `values` is {}, not two elements", values.describe())));
        }
        let (axis, shape) = self.shape(&indices.ty().shape, node.tensor(1)?)?;
        if values.as_tensor().is_some_and(|values| !is_moved(values.ty().dtype, shape[axis])) {
            return Ok(None);
        }
        expect_elements(&indices.ty().shape, size_of::<i64>())?;
        let (_, depth, inner) = around(&shape, axis);
        let mut result = Elements::zeroed(values, &shape)?;
        for at in 0..shape.iter().product() {
            result.copy(at, values, 0, 1)?;
        }
        for (position, index) in integers(indices)?.into_iter().enumerate() {
            let from_end = self.from_end && index < 0;
            let index = if from_end { index.saturating_add(depth as i64) } else { index };
            if let Some(index) = usize::try_from(index).ok().filter(|&index| index < depth) {
                let at = (position / inner * depth + index) * inner + position % inner;
                result.copy(at, values, 1, 1)?;
            }
        }
        Ok(Some(vec![result.into_value(shape)?]))
    }
}

impl Operator for EyeLike {
    fn name(&self) -> &'static str {
        "EyeLike"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        if ty.rank() != 2 {
            return Err(Reason::new(format!("{ty} is no matrix")));
        }
        let result = TensorType::new(self.dtype.unwrap_or(ty.dtype), ty.shape.clone());
        expect_dtype(&result, &[NUMBERS, &[DataType::Bool]].concat())?;
        Ok(vec![expect_small(result)?])
    }

    fn evaluate(&self, node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        let ty = self.infer(node)?.swap_remove(0);
        let width = ty.dtype.size_bytes();
        let one = element_bits(ty.dtype, 1.0).to_le_bytes();
        let mut data = vec![0; ty.bytes()];
        let (rows, columns) = (ty.shape[0], ty.shape[1]);
        for row in 0..rows {
            let column = usize::try_from(self.k.saturating_add(row as i64)).unwrap_or(usize::MAX);
            if column < columns {
                let at = (row * columns + column) * width;
                data[at..at + width].copy_from_slice(&one[..width]);
            }
        }
        Ok(Constant::new(ty, data.into()).map(|eye| vec![eye]))
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        lower_evaluated(self, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, i64s, infer, run, tensor};

    #[test]
    fn indices_turn_elements_on() {
        let indices = i64s([3], &[1, -1, 7]);
        let values = f32s([2], &[2.0, 5.0]);
        let expected = f32s([3, 3], &[2., 5., 2., 2., 2., 5., 2., 2., 2.]);
        let inputs = [indices.clone(), i64s([], &[3]), values.clone()];
        check(("OneHot", 11), &[], &inputs, &expected);
        let first = [("axis", Attribute::Int(0))];
        let expected = f32s([3, 3], &[2., 2., 2., 5., 2., 2., 2., 5., 2.]);
        check(("OneHot", 11), &first, &inputs, &expected);
        let floats = [f32s([1], &[1.9]), tensor(DataType::U8, [1], &[2u8]), bools([2], &[false, true])];
        check(("OneHot", 9), &[], &floats, &bools([1, 2], &[false, true]));
        check(("OneHot", 9), &[], &[i64s([1], &[-1]), i64s([], &[1]), values.clone()], &f32s([1, 1], &[2.]));
        let far = tensor(DataType::U64, [2], &[u64::MAX, 1]);
        let complex = tensor(DataType::C128, [2], &[1.0f64, 2.0, 3.0, 4.0].map(f64::to_bits));
        let expected = f32s([2, 2], &[2., 2., 2., 5.]);
        check(("OneHot", 11), &[], &[&far, &i64s([], &[2]), &values], &expected);
        let expected = tensor(DataType::C128, [1, 1], &[3.0f64, 4.0].map(f64::to_bits));
        check(("OneHot", 11), &[], &[&i64s([1], &[0]), &i64s([], &[1]), &complex], &expected);
        for depth in [-1, 1 << 40, i64::MAX] {
            assert!(run(("OneHot", 11), &[], &[&indices, &i64s([], &[depth]), &values]).is_err());
        }
        let types = [indices.ty().clone(), TensorType::new(DataType::I64, []), values.ty().clone()];
        assert!(infer(("OneHot", 11), &[], &types).unwrap_err().at_run_time);
    }

    #[test]
    fn diagonals_are_ones() {
        let input = i64s([2, 3], &[7; 6]);
        check(("EyeLike", 9), &[], std::slice::from_ref(&input), &i64s([2, 3], &[1, 0, 0, 0, 1, 0]));
        let attributes = [("k", Attribute::Int(-1)), ("dtype", Attribute::Int(1))];
        check(
            ("EyeLike", 22),
            &attributes,
            std::slice::from_ref(&input),
            &f32s([2, 3], &[0., 0., 0., 1., 0., 0.]),
        );
        let far = [("k", Attribute::Int(i64::MAX))];
        check(("EyeLike", 22), &far, std::slice::from_ref(&input), &i64s([2, 3], &[0; 6]));
        assert!(infer(("EyeLike", 9), &[], &[TensorType::new(DataType::F32, [3])]).is_err());
        assert!(infer(("EyeLike", 9), &[], &[TensorType::new(DataType::F32, [1 << 20, 1 << 20])]).is_err());
    }
}
