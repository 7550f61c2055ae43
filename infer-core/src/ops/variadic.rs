//! Min, Max, Sum and Mean of any number of tensors that broadcast.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: as their kernels have; f16 and bf16 compute in f32. NaN in any input gives NaN.
//! History: broadcasting since opset 8; Min and Max of integers since 12.

use super::element_type::{cast, converted, expect_kernel, scalar, with_output};
use super::elementwise_layout;
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{Blocking, ImportNode, NodeTypes, Operator, Row, broadcast};
use crate::tensor_type::TensorType;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[row("Max"), row("Mean"), row("Min"), row("Sum")];

const fn row(name: &'static str) -> Row {
    Row { name, domain: "", since: 1, inputs: 1..=usize::MAX, outputs: 1..=1, import }
}

/// Which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VariadicKind {
    /// The greatest
    Max,
    /// The sum divided by the number of inputs
    Mean,
    /// The least
    Min,
    /// The sum
    Sum,
}

/// An operation on any number of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variadic {
    /// Which.
    pub kind: VariadicKind,
}

impl Variadic {
    fn family(&self) -> &'static str {
        match self.kind {
            VariadicKind::Max => "max",
            VariadicKind::Min => "min",
            VariadicKind::Mean | VariadicKind::Sum => "add",
        }
    }
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let kind = match node.op_type.as_str() {
        "Max" => VariadicKind::Max,
        "Mean" => VariadicKind::Mean,
        "Min" => VariadicKind::Min,
        _ => VariadicKind::Sum,
    };
    Ok(Box::new(Variadic { kind }))
}

impl Operator for Variadic {
    fn name(&self) -> &'static str {
        match self.kind {
            VariadicKind::Max => "Max",
            VariadicKind::Mean => "Mean",
            VariadicKind::Min => "Min",
            VariadicKind::Sum => "Sum",
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let first = node.ty(0)?;
        expect_kernel(self.family(), first)?;
        if self.kind == VariadicKind::Mean && !first.dtype.is_float() {
            return Err(Reason::new(format!("element type {} is not supported", first.dtype))
                .supported("f32, f16, f64, bf16"));
        }
        let mut shapes = Vec::new();
        for index in 0..node.inputs.len() {
            let ty = node.ty(index)?;
            if ty.dtype != first.dtype {
                return Err(Reason::new(format!(
                    "inputs 0 and {index} are {} and {}, not of one type",
                    first.dtype, ty.dtype
                )));
            }
            shapes.push(ty.shape.as_slice());
        }
        Ok(vec![TensorType::new(first.dtype, broadcast(&shapes)?)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (first, output) = (node.input(0)?, node.output(0)?);
        let dtype = expect_kernel(self.family(), &first.ty)?;
        let count = node.inputs.len();
        let mut inputs = Vec::with_capacity(count);
        for index in 0..count {
            let input = node.input(index)?;
            inputs.push(converted(node, &input, dtype)?);
        }
        let kernel = format!("{}_{dtype}", self.family());
        with_output(node, &output, dtype, |node, out| {
            match inputs.as_slice() {
                [only] => cast(node, only, out)?,
                [first, second, rest @ ..] => {
                    node.elementwise(&kernel, &[first, second], out, |_| ())?;
                    for input in rest {
                        node.elementwise(&kernel, &[out, input], out, |_| ())?;
                    }
                }
                [] => {}
            }
            if self.kind == VariadicKind::Mean {
                let count = scalar(node, dtype, count as f32);
                node.elementwise(format!("div_{dtype}"), &[out, &count], out, |_| ())?;
            }
            Ok(())
        })
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        elementwise_layout::blocking(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{check, f32s, i64s, infer, tensor};
    use crate::tensor_type::DataType;

    #[test]
    fn any_number_of_inputs_broadcasts() {
        let inputs = [f32s([2, 1], &[1.0, -4.0]), f32s([2], &[0.0, 3.0]), f32s([], &[2.0])];
        let cases: &[(&str, [f32; 4])] = &[
            ("Max", [2.0, 3.0, 2.0, 3.0]),
            ("Min", [0.0, 1.0, -4.0, -4.0]),
            ("Sum", [3.0, 6.0, -2.0, 1.0]),
            ("Mean", [1.0, 2.0, -0.666_666_7, 0.333_333_34]),
        ];
        for (name, expected) in cases {
            check((name, 13), &[], &inputs, &f32s([2, 2], expected));
            check((name, 13), &[], &inputs[..1], &inputs[0]);
        }
        let halves = |values: [f32; 2]| tensor(DataType::F16, [2], &values.map(half::f16::from_f32));
        check(("Mean", 13), &[], &[halves([1.0, 2.0]), halves([4.0, 2.0])], &halves([2.5, 2.0]));
        check(
            ("Max", 13),
            &[],
            &[i64s([1], &[1 << 60]), i64s([1], &[(1 << 60) + 1])],
            &i64s([1], &[(1 << 60) + 1]),
        );
        let nan = [f32s([1], &[1.0]), f32s([1], &[f32::NAN]), f32s([1], &[0.0])];
        check(("Min", 13), &[], &nan, &f32s([1], &[f32::NAN]));
    }

    #[test]
    fn wrong_types_are_refused() {
        let ty = |dtype| TensorType::new(dtype, [2]);
        assert!(infer(("Mean", 13), &[], &[ty(DataType::I64)]).is_err());
        let mixed = infer(("Sum", 13), &[], &[ty(DataType::F32), ty(DataType::F32), ty(DataType::F64)]);
        assert_eq!(mixed.unwrap_err().what, "inputs 0 and 2 are f32 and f64, not of one type");
    }
}
