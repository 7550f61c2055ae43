//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html>,
//! <https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html>
//! Types: f32 and f64; f16 and bf16 compute in f32.
//! History: since opset 12; 13 and 22 add types.
//!
//! The loss of an element is `−weight[target] · x[target]`, x having a class along axis 1; elements whose target is
//! `ignore_index` weigh nothing. The mean divides by the sum of the weights.

use super::attention::{FLOATS, compute_type};
use super::attention_core::{cast, expand, expect_shape, reshape, scalar};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "NegativeLogLikelihoodLoss", domain: "", since: 12, inputs: 2..=3, outputs: 1..=1, import },
    Row { name: "SoftmaxCrossEntropyLoss", domain: "", since: 12, inputs: 2..=3, outputs: 1..=2, import },
];

/// What becomes of the losses of the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// They are the output.
    None,
    /// Their sum divided by that of the weights.
    Mean,
    /// Their sum.
    Sum,
}

/// A loss by the probability of the right class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Whether the logarithm of the softmax is taken first.
    pub softmax: bool,
    /// What becomes of the losses of the elements.
    pub reduction: Reduction,
    /// The target of elements that do not count.
    pub ignore_index: Option<i64>,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let reduction = match node.attributes.string("reduction")?.as_deref() {
        Some("none") => Reduction::None,
        None | Some("mean") => Reduction::Mean,
        Some("sum") => Reduction::Sum,
        Some(other) => {
            return Err(Reason::new(format!("reduction {other:?} is not supported"))
                .supported("\"none\", \"mean\", \"sum\""));
        }
    };
    Ok(Box::new(Loss {
        softmax: node.op_type == "SoftmaxCrossEntropyLoss",
        reduction,
        ignore_index: node.attributes.int("ignore_index")?,
    }))
}

impl Loss {
    /// The weight of each element, of the target's shape; `None` where all weigh 1.
    fn weights(
        &self,
        nodes: &mut Expansion<'_>,
        target: Wire,
        ignored: Option<Wire>,
        dtype: DataType,
    ) -> Result<Option<Wire>, Reason> {
        let given = match nodes.optional_input(2) {
            Some(weight) => {
                let weight = cast(nodes, weight, dtype)?;
                Some(nodes.node("Gather", &[weight, target], &[("axis", 0.into())])?)
            }
            None => None,
        };
        let Some(ignored) = ignored else { return Ok(given) };
        let zero = scalar(nodes, dtype, 0.0)?;
        let given = match given {
            Some(given) => given,
            None => scalar(nodes, dtype, 1.0)?,
        };
        nodes.node("Where", &[ignored, zero, given], &[]).map(Some)
    }
}

impl Operator for Loss {
    fn name(&self) -> &'static str {
        if self.softmax { "SoftmaxCrossEntropyLoss" } else { "NegativeLogLikelihoodLoss" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (x, target) = (nodes.input(0)?, nodes.input(1)?);
        let (ty, target_ty) = (nodes.ty(x)?.clone(), nodes.ty(target)?.clone());
        expect_dtype(&ty, FLOATS)?;
        expect_dtype(&target_ty, &[DataType::I64, DataType::I32])?;
        let &[batch, classes, ref rest @ ..] = ty.shape.as_slice() else {
            return Err(Reason::new(format!("{ty} has no dimension for classes")));
        };
        let shape = [&[batch], rest].concat();
        expect_shape("target", &target_ty, &shape)?;
        if let Some(weight) = nodes.types.optional(2) {
            expect_shape("weight", weight, &[classes])?;
        }
        let dtype = compute_type(&[ty.dtype]);
        let mut x = cast(nodes, x, dtype)?;
        if self.softmax {
            x = nodes.node("LogSoftmax", &[x], &[("axis", 1.into())])?;
        }
        let logarithms = x;

        let mut target = cast(nodes, target, DataType::I64)?;
        let mut ignored = None;
        if let Some(index) = self.ignore_index {
            let constant = |nodes: &mut Expansion<'_>, value: i64| {
                nodes.constant(Constant::of(TensorType::new(DataType::I64, []), &[value]))
            };
            let (index, zero) = (constant(nodes, index), constant(nodes, 0));
            let is_ignored = nodes.node("Equal", &[target, index], &[])?;
            // The ignored index need be no class.
            target = nodes.node("Where", &[is_ignored, zero, target], &[])?;
            ignored = Some(is_ignored);
        }
        let column = reshape(nodes, target, &[&[batch, 1], rest].concat())?;
        let chosen = nodes.node("GatherElements", &[x, column], &[("axis", 1.into())])?;
        let chosen = reshape(nodes, chosen, &shape)?;
        let mut losses = nodes.node("Neg", &[chosen], &[])?;
        let weights = self.weights(nodes, target, ignored, dtype)?;
        if let Some(weights) = weights {
            losses = nodes.node("Mul", &[losses, weights], &[])?;
        }
        let whole = |nodes: &mut Expansion<'_>, op: &str, wire: Wire| {
            nodes.node(op, &[wire], &[("keepdims", 0.into())])
        };
        let loss = match (self.reduction, weights) {
            (Reduction::None, _) => losses,
            (Reduction::Sum, _) => whole(nodes, "ReduceSum", losses)?,
            (Reduction::Mean, None) => whole(nodes, "ReduceMean", losses)?,
            (Reduction::Mean, Some(weights)) => {
                let weights = expand(nodes, weights, &shape)?;
                let sum = whole(nodes, "ReduceSum", losses)?;
                let weight = whole(nodes, "ReduceSum", weights)?;
                nodes.node("Div", &[sum, weight], &[])?
            }
        };
        let loss = cast(nodes, loss, ty.dtype)?;
        Ok(Some(vec![loss, cast(nodes, logarithms, ty.dtype)?]))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, import, run};

    #[test]
    fn the_chosen_class_is_weighed_and_reduced() {
        let x = f32s([2, 2], &[-1.0, -2.0, -3.0, -4.0]);
        let target = i64s([2], &[1, 0]);
        let weight = f32s([2], &[0.5, 2.0]);
        let op = ("NegativeLogLikelihoodLoss", 13);
        let reduction = |name: &str| [("reduction", Attribute::from(name))];
        check(op, &reduction("none"), &[&x, &target], &f32s([2], &[2.0, 3.0]));
        check(op, &reduction("sum"), &[&x, &target, &weight], &f32s([], &[5.5]));
        check(op, &[], &[&x, &target, &weight], &f32s([], &[5.5 / 2.5]));
        let ignore = [("ignore_index", Attribute::Int(-7))];
        check(op, &ignore, &[&x, &i64s([2], &[1, -7])], &f32s([], &[2.0]));
    }

    #[test]
    fn softmax_comes_first() {
        let x = f32s([1, 2, 1], &[0.0, 3f32.ln()]);
        let op = ("SoftmaxCrossEntropyLoss", 13);
        check(op, &[], &[x, i64s([1, 1], &[1])], &f32s([], &[-(0.75f32.ln())]));
    }

    #[test]
    fn targets_of_another_shape_are_refused() {
        let x = f32s([2, 2], &[0.0; 4]);
        assert!(run(("NegativeLogLikelihoodLoss", 13), &[], &[&x, &i64s([2, 2], &[0; 4])]).is_err());
        assert!(run(("NegativeLogLikelihoodLoss", 13), &[], &[&x, &i64s([2], &[0, 5])]).is_err());
        assert!(import(("NegativeLogLikelihoodLoss", 13), &[("reduction", "max".into())], 2, 1).is_err());
    }
}
