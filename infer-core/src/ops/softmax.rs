//! Softmax and LogSoftmax.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Softmax.html>,
//! <https://onnx.ai/onnx/operators/onnx__LogSoftmax.html>
//! Types: f32; f16 and bf16 compute in f32.
//! History: before opset 13 all axes from `axis` (by default 1) on count as one; since then `axis` (by default the
//! last) alone.

use infer_kernels::call::Axis;

use super::element_type::{converted, expect_kernel, with_output};
use super::reduce::along;
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, Operator, Row, resolve_axis};
use crate::tensor_type::TensorType;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "LogSoftmax", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "Softmax", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
];

/// Softmax or its logarithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// Whether it is the logarithm.
    pub log: bool,
    /// The axis.
    pub axis: i64,
    /// Whether the axes after it belong to it.
    pub flatten: bool,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let flatten = node.opset < 13;
    let axis = node.attributes.int("axis")?.unwrap_or(if flatten { 1 } else { -1 });
    Ok(Box::new(Softmax { log: node.op_type == "LogSoftmax", axis, flatten }))
}

impl Softmax {
    fn family(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "LogSoftmax" } else { "Softmax" }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_kernel(self.family(), input)?;
        resolve_axis(self.axis, input.rank())?;
        Ok(vec![input.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let dtype = expect_kernel(self.family(), &input.ty)?;
        let x = converted(node, &input, dtype)?;
        let mut params = along(&input.ty, resolve_axis(self.axis, input.ty.rank())?);
        if self.flatten {
            params = Axis { axis: params.axis * params.inner, inner: 1, ..params };
        }
        with_output(node, &output, dtype, |node, out| {
            node.call(format!("{}_{dtype}", self.family()), &params, &[Some(x.span), Some(out.span)]);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, infer};
    use crate::tensor_type::DataType;

    #[test]
    fn one_axis_or_all_from_it_on() {
        let (x, third) = (f32s([1, 2, 2], &[0.0, 0.0, 0.0, 1.098_612_3]), 1.0 / 6.0);
        let half_and_quarters = f32s([1, 2, 2], &[0.5, 0.5, 0.25, 0.75]);
        check(("Softmax", 13), &[], &[&x], &half_and_quarters);
        check(("Softmax", 11), &[], &[&x], &f32s([1, 2, 2], &[third, third, third, 0.5]));
        let axis = [("axis", Attribute::Int(1))];
        check(("Softmax", 13), &axis, &[&x], &f32s([1, 2, 2], &[0.5, 0.25, 0.5, 0.75]));
        let logarithms = [0.5f32, 0.5, 0.25, 0.75].map(f32::ln);
        check(("LogSoftmax", 13), &[], &[x], &f32s([1, 2, 2], &logarithms));
        check(("Softmax", 13), &[], &[f32s([2], &[1e4, 1e4])], &f32s([2], &[0.5, 0.5]));
    }

    #[test]
    fn axes_outside_are_refused() {
        let x = [TensorType::new(DataType::F32, [3])];
        assert!(infer(("Softmax", 11), &[], &x).unwrap_err().what.contains("axis 1"));
        assert!(infer(("Softmax", 13), &[], &[TensorType::new(DataType::F32, [])]).is_err());
    }
}
