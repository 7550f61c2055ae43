//! Shape, Size, ConstantOfShape and Range: tensors made from types and constants while compiling.

use bytes::Bytes;

use super::elements::expect_elements;
use super::movement::{element_bits, extent, fill, result_type};
use super::{ImportNode, NodeTypes, Operator, Row, StringUse, expect_dtype};
use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "Shape", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_shape },
    Row { name: "Size", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: |_| Ok(Box::new(Size)) },
    Row {
        name: "ConstantOfShape",
        domain: "",
        since: 9,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_constant_of_shape,
    },
    Row { name: "Range", domain: "", since: 11, inputs: 3..=3, outputs: 1..=1, import: import_range },
];

/// The most bytes that a constant made here may have: a short model must not make the compiler fill the memory.
const MAX_BYTES: usize = 1 << 29;

/// Shape.
#[derive(Debug)]
pub struct Shape {
    /// The first axis; negative ones count from the end.
    pub start: i64,
    /// One past the last axis; all where left out.
    pub end: Option<i64>,
}

/// Size: the number of elements.
#[derive(Debug)]
pub struct Size;

/// ConstantOfShape.
#[derive(Debug)]
pub struct ConstantOfShape {
    /// The type of the elements.
    pub dtype: DataType,
    /// The bytes of one element.
    pub value: u64,
}

/// Range.
#[derive(Debug)]
pub struct Range;

fn import_shape(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Shape {
        start: node.attributes.int("start")?.unwrap_or(0),
        end: node.attributes.int("end")?,
    }))
}

fn import_constant_of_shape(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let Some(value) = node.attributes.tensor("value")? else {
        return Ok(Box::new(ConstantOfShape {
            dtype: DataType::F32,
            value: element_bits(DataType::F32, 0.0),
        }));
    };
    let ty = value.ty();
    let mut bytes = [0; 8];
    match bytes.get_mut(..value.data().len()) {
        Some(slot) if ty.elements() == 1 => slot.copy_from_slice(value.data()),
        _ => return Err(Reason::new(format!("attribute `value` is {ty}, not one element"))),
    }
    Ok(Box::new(ConstantOfShape { dtype: ty.dtype, value: u64::from_le_bytes(bytes) }))
}

fn import_range(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    // It says in what type sums of half floats are formed; here that is f64 for all floats.
    node.attributes.ignore("stash_type");
    Ok(Box::new(Range))
}

/// Refuses a constant that is too large to be made while compiling.
pub(super) fn expect_small(ty: TensorType) -> Result<TensorType, Reason> {
    match ty.elements().checked_mul(ty.dtype.size_bytes()) {
        Some(bytes) if bytes <= MAX_BYTES => Ok(ty),
        _ => Err(Reason::new(format!("the result {ty} has more than {MAX_BYTES} bytes"))),
    }
}

/// Copies what `operator` evaluates to into its output.
pub(super) fn lower_evaluated(operator: &dyn Operator, node: &mut LowerNode<'_>) -> Result<(), Reason> {
    let output = node.output(0)?;
    let values = node.with_types(|types| operator.evaluate(types))?.unwrap_or_default();
    let value = values.first().ok_or_else(|| Reason::new("its value is known only at run time"))?;
    let id = node.calls.add_constant(value.data().clone());
    let mut data = output.clone();
    data.span = node.calls.whole(id);
    node.copy_strided(&data, &output.ty.strides(), 0, &output, &output.ty.shape)
}

impl Operator for Shape {
    fn name(&self) -> &'static str {
        "Shape"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(self.evaluate(node)?.into_iter().flatten().map(|value| value.ty().clone()).collect())
    }

    fn evaluate(&self, node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        let shape = &node.ty(0)?.shape;
        let rank = shape.len() as i64;
        let axis = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
        let (start, end) = (axis(self.start), axis(self.end.unwrap_or(rank)));
        let extents: Vec<i64> = shape[start.min(end)..end].iter().map(|&extent| extent as i64).collect();
        Ok(Some(vec![Constant::of_i64(&extents)]))
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        lower_evaluated(self, node)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Compares
    }
}

impl Operator for Size {
    fn name(&self) -> &'static str {
        "Size"
    }

    fn infer(&self, _node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![TensorType::new(DataType::I64, [])])
    }

    fn evaluate(&self, node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        let elements = node.ty(0)?.elements() as i64;
        Ok(Some(vec![Constant::of(TensorType::new(DataType::I64, []), &[elements])]))
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        lower_evaluated(self, node)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Compares
    }
}

impl Operator for ConstantOfShape {
    fn name(&self) -> &'static str {
        "ConstantOfShape"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let shape = node.known_i64s(0, "input")?.ok_or_else(|| Reason::new("input 0 is missing"))?;
        let shape: Vec<usize> = shape.iter().map(|&v| extent(v, "input")).collect::<Result<_, _>>()?;
        expect_elements(&shape, self.dtype.size_bytes())?;
        Ok(vec![result_type(self.dtype, shape)?])
    }

    fn evaluate(&self, node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        let types = self.infer(node)?;
        let make = |ty: TensorType| {
            let element = self.value.to_le_bytes();
            let data = element[..ty.dtype.size_bytes()].repeat(ty.elements());
            Constant::new(ty, data.into())
        };
        Ok(types.into_iter().map(make).collect())
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let output = node.output(0)?;
        fill(node, &output, self.value)
    }
}

/// A scalar that Range counts with.
#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    fn of(node: &NodeTypes<'_>, index: usize, name: &str) -> Result<Number, Reason> {
        let value = node.known(index, name)?.filter(|value| value.ty().elements() == 1);
        let value = value.ok_or_else(|| Reason::new(format!("input `{name}` is no scalar")))?;
        let first = |values: &[i16]| values.first().map(|&v| Number::Integer(v.into()));
        let number = match value.ty().dtype {
            DataType::I16 => first(&value.values::<i16>()),
            DataType::I32 | DataType::I64 => {
                value.to_i64s().and_then(|v| v.first().map(|&v| Number::Integer(v.into())))
            }
            DataType::F64 => value.values::<f64>().first().map(|&v| Number::Float(v)),
            DataType::Bf16 => value.values::<half::bf16>().first().map(|v| Number::Float(v.to_f64())),
            _ => value.to_scalar_f32().map(|v| Number::Float(v.into())),
        };
        number.ok_or_else(|| Reason::new(format!("input `{name}` is {}", value.ty())))
    }
}

impl Range {
    /// The first number, the step and how many there are.
    fn numbers(node: &NodeTypes<'_>) -> Result<(Number, Number, TensorType), Reason> {
        let ty = node.ty(0)?;
        use DataType::{Bf16, F16, F32, F64, I16, I32, I64};
        expect_dtype(ty, &[F32, F64, F16, Bf16, I16, I32, I64])?;
        if node.ty(1)?.dtype != ty.dtype || node.ty(2)?.dtype != ty.dtype {
            return Err(Reason::new(format!("{ty}, {} and {} differ in type", node.ty(1)?, node.ty(2)?)));
        }
        let (start, delta) = (Number::of(node, 0, "start")?, Number::of(node, 2, "delta")?);
        let count = match (start, Number::of(node, 1, "limit")?, delta) {
            (Number::Integer(start), Number::Integer(limit), Number::Integer(delta)) if delta != 0 => {
                let (distance, step) =
                    if delta > 0 { (limit - start, delta) } else { (start - limit, -delta) };
                usize::try_from((distance.max(0) + step - 1) / step).ok()
            }
            (Number::Float(start), Number::Float(limit), Number::Float(delta)) if delta != 0.0 => {
                let count = ((limit - start) / delta).ceil().max(0.0);
                // Above that the conversion would saturate; far fewer are refused below.
                (count < 1e18).then_some(count as usize)
            }
            _ => return Err(Reason::new("input `delta` is 0")),
        };
        let count = count.ok_or_else(|| Reason::new("the range is not finite"))?;
        Ok((start, delta, expect_small(result_type(ty.dtype, vec![count])?)?))
    }
}

impl Operator for Range {
    fn name(&self) -> &'static str {
        "Range"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![Range::numbers(node)?.2])
    }

    fn evaluate(&self, node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        let (start, delta, ty) = Range::numbers(node)?;
        let mut data = Vec::with_capacity(ty.bytes());
        for index in 0..ty.elements() {
            match (start, delta) {
                (Number::Integer(start), Number::Integer(delta)) => {
                    // Before the limit, so inside the type's range: cutting the high bytes loses nothing.
                    let value = (start + index as i128 * delta).to_le_bytes();
                    data.extend_from_slice(&value[..ty.dtype.size_bytes()]);
                }
                (Number::Float(start), Number::Float(delta)) => {
                    let value = start + index as f64 * delta;
                    match ty.dtype {
                        DataType::F64 => data.extend(value.to_le_bytes()),
                        DataType::F16 => data.extend(half::f16::from_f64(value).to_le_bytes()),
                        DataType::Bf16 => data.extend(half::bf16::from_f64(value).to_le_bytes()),
                        _ => data.extend((value as f32).to_le_bytes()),
                    }
                }
                _ => return Err(Reason::new("integers and floats are mixed")),
            }
        }
        Ok(Constant::new(ty, Bytes::from(data)).map(|value| vec![value]))
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        lower_evaluated(self, node)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, i64s, run, tensor};
    use super::*;

    #[test]
    fn shapes_and_sizes_are_known() {
        let data = f32s([2, 1, 3], &[0.0; 6]);
        let cases = [
            (None, None, vec![2, 1, 3]),
            (Some(1), None, vec![1, 3]),
            (Some(-1), None, vec![3]),
            (None, Some(-1), vec![2, 1]),
            (Some(i64::MIN), Some(1), vec![2]),
            (Some(2), Some(1), vec![]),
        ];
        for (start, end, expected) in cases {
            let given = [("start", start), ("end", end)].into_iter();
            let attributes: Vec<_> =
                given.filter_map(|(name, at)| Some((name, Attribute::Int(at?)))).collect();
            check(("Shape", 15), &attributes, std::slice::from_ref(&data), &Constant::of_i64(&expected));
        }
        check(("Size", 13), &[], &[data], &i64s([], &[6]));
    }

    #[test]
    fn constants_fill_any_shape() {
        let value = [("value", Attribute::Tensor(tensor(DataType::I32, [1], &[-7i32])))];
        let expected = tensor(DataType::I32, [2, 2], &[-7i32; 4]);
        check(("ConstantOfShape", 9), &value, &[i64s([2], &[2, 2])], &expected);
        check(("ConstantOfShape", 9), &[], &[i64s([0], &[])], &f32s([], &[0.0]));
        check(("ConstantOfShape", 9), &[], &[i64s([2], &[3, 0])], &f32s([3, 0], &[]));
        for wrong in [[-1, 2], [1 << 30, 2], [i64::MAX, i64::MAX]] {
            assert!(run(("ConstantOfShape", 9), &[], &[i64s([2], &wrong)]).is_err());
        }
    }

    #[test]
    fn ranges_stop_before_the_limit() {
        let range = |values: [i64; 3]| run(("Range", 11), &[], &values.map(|v| i64s([], &[v])));
        assert_eq!(range([3, 10, 3]).unwrap(), i64s([3], &[3, 6, 9]));
        assert_eq!(range([10, 4, -2]).unwrap(), i64s([3], &[10, 8, 6]));
        assert_eq!(range([4, 4, 1]).unwrap(), i64s([0], &[]));
        assert_eq!(range([i64::MIN, i64::MAX, i64::MAX]).unwrap(), i64s([3], &[i64::MIN, -1, i64::MAX - 1]));
        assert!(range([0, i64::MAX, 1]).is_err());
        assert!(range([0, 1, 0]).is_err());
        let floats = |values: [f32; 3]| run(("Range", 11), &[], &values.map(|v| f32s([], &[v])));
        assert_eq!(floats([1.0, 2.0, 0.25]).unwrap(), f32s([4], &[1.0, 1.25, 1.5, 1.75]));
        assert!(floats([0.0, f32::INFINITY, 1.0]).is_err());
        let halves = [1.0, 0.0, -0.5].map(|v| tensor(DataType::F16, [], &[half::f16::from_f32(v)]));
        let expected = tensor(DataType::F16, [2], &[1.0, 0.5].map(half::f16::from_f32));
        check(("Range", 27), &[("stash_type", Attribute::Int(1))], &halves, &expected);
    }
}
