//! Runs one operator on constants, for the tests of operators.

use std::borrow::Borrow;

use bytemuck::NoUninit;

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::execute;
use crate::ops::{self, Attribute, Attributes, ImportNode, InputType, NodeTypes, Operator, find};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// A tensor of f32.
pub fn f32s<const R: usize>(shape: [usize; R], values: &[f32]) -> Constant {
    tensor(DataType::F32, shape, values)
}

/// A tensor of i64.
pub fn i64s<const R: usize>(shape: [usize; R], values: &[i64]) -> Constant {
    tensor(DataType::I64, shape, values)
}

/// A tensor of bool.
pub fn bools<const R: usize>(shape: [usize; R], values: &[bool]) -> Constant {
    tensor(DataType::Bool, shape, values)
}

/// A tensor of any type.
pub fn tensor<T: NoUninit, const R: usize>(dtype: DataType, shape: [usize; R], values: &[T]) -> Constant {
    Constant::of(TensorType::new(dtype, shape), values)
}

/// An operator as it is imported from a node of opset `opset`, every attribute being read. One of another domain than
/// ai.onnx is `domain::Name`.
pub fn import(
    (op_type, opset): (&str, i64),
    attributes: &[(&str, Attribute)],
    inputs: usize,
    outputs: usize,
) -> Result<Box<dyn Operator>, Reason> {
    let (domain, op_type) = op_type.split_once("::").unwrap_or(("", op_type));
    let row = find(domain, op_type).unwrap_or_else(|| panic!("no row for {op_type}"));
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let op = ops::import(
        row,
        ImportNode {
            op_type: op_type.to_owned(),
            opset,
            attributes: Attributes::new(attributes),
            inputs: vec![true; inputs],
            outputs: vec![true; outputs],
        },
    )?;
    assert_eq!(op.name(), op_type);
    Ok(op)
}

/// The output types of an operator with inputs known only at run time.
pub fn infer(
    op: (&str, i64),
    attributes: &[(&str, Attribute)],
    inputs: &[TensorType],
) -> Result<Vec<TensorType>, Reason> {
    let operator = import(op, attributes, inputs.len(), 1)?;
    let inputs: Vec<_> = inputs.iter().map(|ty| Some(InputType { ty, constant: None })).collect();
    operator.infer(&NodeTypes { inputs: &inputs, outputs: &[true] })
}

/// All of `outputs` outputs of an operator on constants; `None` stands for an input left out.
pub fn run_all(
    op: (&str, i64),
    attributes: &[(&str, Attribute)],
    inputs: &[Option<Constant>],
    outputs: usize,
) -> Result<Vec<Constant>, Reason> {
    let operator = import(op, attributes, inputs.len(), outputs)?;
    let inputs: Vec<Option<&Constant>> = inputs.iter().map(Option::as_ref).collect();
    execute::fold(&*operator, &inputs, &vec![true; outputs])
}

/// All of `outputs` outputs of an operator on values of any type; `None` stands for an input left out.
pub fn run_values(
    op: (&str, i64),
    attributes: &[(&str, Attribute)],
    inputs: &[Option<Value>],
    outputs: usize,
) -> Result<Vec<Value>, Reason> {
    let operator = import(op, attributes, inputs.len(), outputs)?;
    execute::execute(&*operator, inputs, &vec![true; outputs], &execute::Backend::Reference)
}

/// Output 0 of an operator without optional inputs on constants.
pub fn run<C: Borrow<Constant>>(
    op: (&str, i64),
    attributes: &[(&str, Attribute)],
    inputs: &[C],
) -> Result<Constant, Reason> {
    let inputs: Vec<_> = inputs.iter().map(|input| Some(input.borrow().clone())).collect();
    Ok(run_all(op, attributes, &inputs, 1)?.swap_remove(0))
}

/// Asserts that an operator's output 0 is `expected`: exactly, or within 10⁻⁶ (relative above 1) where that is f32.
pub fn check<C: Borrow<Constant>>(
    op: (&str, i64),
    attributes: &[(&str, Attribute)],
    inputs: &[C],
    expected: &Constant,
) {
    let actual = run(op, attributes, inputs).unwrap_or_else(|reason| panic!("{op:?}: {reason:?}"));
    assert_eq!(actual.ty(), expected.ty(), "{op:?}");
    if expected.ty().dtype != DataType::F32 {
        assert!(actual == *expected, "{op:?} gives {:?}, not {:?}", actual.data(), expected.data());
        return;
    }
    for (index, (&a, &e)) in actual.values::<f32>().iter().zip(&*expected.values::<f32>()).enumerate() {
        let close = a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= 1e-6 * e.abs().max(1.0);
        assert!(close, "{op:?} gives {a} at {index}, not {e}");
    }
}
