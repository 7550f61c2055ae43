//! Softmax, LogSoftmax and Hardmax.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Softmax.html>,
//! <https://onnx.ai/onnx/operators/onnx__LogSoftmax.html>, <https://onnx.ai/onnx/operators/onnx__Hardmax.html>
//! Types: f32; f16 and bf16 compute in f32; f64, and Hardmax, are written as other operators.
//! History: before opset 13 all axes from `axis` (by default 1) on count as one; since then `axis` (by default the
//! last) alone.

use infer_kernels::call::Axis;

use super::compose::{cast, reshape};
use super::element_type::{converted, expect_kernel, with_output};
use super::movement::expect_table;
use super::reduce::along;
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, NodeTypes, Operator, Row, Wire, expect_dtype, resolve_axis};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "Hardmax", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_hardmax },
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

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        if nodes.types.ty(0)?.dtype != DataType::F64 {
            return Ok(None);
        }
        along_axis(nodes, self.axis, self.flatten, |nodes, x, axis| {
            let axes = nodes.i64s(&[axis]);
            let greatest = nodes.node("ReduceMax", &[x, axes], &[])?;
            let difference = nodes.node("Sub", &[x, greatest], &[])?;
            let power = nodes.node("Exp", &[difference], &[])?;
            let sum = nodes.node("ReduceSum", &[power, axes], &[])?;
            if self.log {
                let log = nodes.node("Log", &[sum], &[])?;
                nodes.node("Sub", &[difference, log], &[])
            } else {
                nodes.node("Div", &[power, sum], &[])
            }
        })
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

/// What `compute` makes of input 0 along an axis: `axis`, or all from it on as one.
fn along_axis(
    nodes: &mut Expansion<'_>,
    axis: i64,
    flatten: bool,
    compute: impl FnOnce(&mut Expansion<'_>, Wire, i64) -> Result<Wire, Reason>,
) -> Result<Option<Vec<Wire>>, Reason> {
    let x = nodes.input(0)?;
    let shape = nodes.shape(x)?.to_vec();
    let axis = resolve_axis(axis, shape.len())?;
    if !flatten {
        return Ok(Some(vec![compute(nodes, x, axis as i64)?]));
    }
    let (outer, inner) = shape.split_at(axis);
    let rows = reshape(nodes, x, &[outer.iter().product(), inner.iter().product()])?;
    let rows = compute(nodes, rows, 1)?;
    Ok(Some(vec![reshape(nodes, rows, &shape)?]))
}

/// Hardmax: 1 at the first of the greatest elements along the axis, 0 elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardmax {
    /// The axis.
    pub axis: i64,
    /// Whether the axes after it belong to it.
    pub flatten: bool,
}

fn import_hardmax(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let flatten = node.opset < 13;
    let axis = node.attributes.int("axis")?.unwrap_or(if flatten { 1 } else { -1 });
    Ok(Box::new(Hardmax { axis, flatten }))
}

impl Operator for Hardmax {
    fn name(&self) -> &'static str {
        "Hardmax"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let input = nodes.types.ty(0)?.clone();
        expect_dtype(&input, &[DataType::F32, DataType::F64, DataType::F16, DataType::Bf16])?;
        if input.elements() == 0 {
            return Ok(Some(vec![nodes.input(0)?]));
        }
        along_axis(nodes, self.axis, self.flatten, |nodes, x, axis| {
            let greatest = nodes.node("ArgMax", &[x], &[("axis", axis.into())])?;
            let shape = nodes.shape(x)?;
            let mut extents = vec![1; shape.len()];
            let extent = shape.get(axis as usize).copied().unwrap_or(1);
            if let Some(slot) = extents.get_mut(axis as usize) {
                *slot = extent;
            }
            expect_table(Some(extent))?;
            let positions: Vec<i64> = (0..extent as i64).collect();
            let positions = nodes.i64s(&positions);
            let positions = reshape(nodes, positions, &extents)?;
            let is_greatest = nodes.node("Equal", &[greatest, positions], &[])?;
            cast(nodes, is_greatest, input.dtype)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, infer, run, tensor};

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
    fn the_first_greatest_is_one() {
        let x = f32s([2, 1, 3], &[3.0, 0.0, 3.0, 1.0, 2.0, 0.0]);
        check(("Hardmax", 13), &[], &[&x], &f32s([2, 1, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        let axis = [("axis", Attribute::Int(0))];
        check(("Hardmax", 13), &axis, &[&x], &f32s([2, 1, 3], &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]));
        check(("Hardmax", 11), &axis, &[&x], &f32s([2, 1, 3], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    }

    #[test]
    fn doubles_are_composed() {
        let x = tensor(DataType::F64, [1, 2, 1], &[0.0, 3f64.ln()]);
        let y = run(("Softmax", 11), &[], &[&x]).unwrap().values::<f64>().into_owned();
        assert!((y[0] - 0.25).abs() < 1e-15 && (y[1] - 0.75).abs() < 1e-15);
        let axis = [("axis", Attribute::Int(1))];
        let y = run(("LogSoftmax", 13), &axis, &[&x]).unwrap().values::<f64>().into_owned();
        assert!((y[0] - 0.25f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn axes_outside_are_refused() {
        let x = [TensorType::new(DataType::F32, [3])];
        assert!(infer(("Softmax", 11), &[], &x).unwrap_err().what.contains("axis 1"));
        assert!(infer(("Softmax", 13), &[], &[TensorType::new(DataType::F32, [])]).is_err());
    }
}
