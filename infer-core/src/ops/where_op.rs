//! Where: elements of one tensor where a condition holds, else of another; all three broadcast.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Where.html>
//! Types: elements of any type but c128.
//! History: since opset 9; 16 adds bf16.

use crate::calls::{LowerNode, sized_kernel};
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, Operator, Row, StringUse, broadcast, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] =
    &[Row { name: "Where", domain: "", since: 9, inputs: 3..=3, outputs: 1..=1, import }];

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where;

fn import(_: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Where))
}

impl Operator for Where {
    fn name(&self) -> &'static str {
        "Where"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (condition, x, y) = (node.ty(0)?, node.ty(1)?, node.ty(2)?);
        expect_dtype(condition, &[DataType::Bool])?;
        if x.dtype != y.dtype {
            return Err(Reason::new(format!("`X` and `Y` are {} and {}, not of one type", x.dtype, y.dtype)));
        }
        if x.dtype == DataType::C128 {
            return Err(Reason::new(format!("element type {} is not supported", x.dtype)));
        }
        Ok(vec![TensorType::new(x.dtype, broadcast(&[&condition.shape, &x.shape, &y.shape])?)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (condition, x, y, output) = (node.input(0)?, node.input(1)?, node.input(2)?, node.output(0)?);
        node.elementwise(sized_kernel("where", output.ty.dtype), &[&condition, &x, &y], &output, |_| ())
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{bools, check, f32s, i64s, infer};

    #[test]
    fn all_three_broadcast() {
        let condition = bools([2, 1], &[true, false]);
        let expected = f32s([2, 2], &[1.0, 1.0, 5.0, 6.0]);
        check(("Where", 16), &[], &[condition.clone(), f32s([], &[1.0]), f32s([2], &[5.0, 6.0])], &expected);
        check(("Where", 9), &[], &[condition, i64s([], &[-1]), i64s([1], &[2])], &i64s([2, 1], &[-1, 2]));
    }

    #[test]
    fn wrong_types_are_refused() {
        let ty = |dtype| TensorType::new(dtype, [2]);
        assert!(
            infer(("Where", 16), &[], &[ty(DataType::I64), ty(DataType::F32), ty(DataType::F32)]).is_err()
        );
        assert!(
            infer(("Where", 16), &[], &[ty(DataType::Bool), ty(DataType::F32), ty(DataType::F16)]).is_err()
        );
    }
}
