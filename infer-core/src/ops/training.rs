//! Adagrad, Adam and Momentum: one step of an optimiser for any number of tensors; and a sum that Gradient becomes.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adagrad.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adam.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Momentum.html>
//! Types: f32, f64; the learning rate may be of the other one.
//! History: version 1 of ai.onnx.preview.training.

use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::record::INTERNAL_DOMAIN;
use crate::tensor_type::{DataType, TensorType};

/// The domain of these operators.
const DOMAIN: &str = "ai.onnx.preview.training";

const MOST: usize = usize::MAX;

/// The name of [`SumLike`], which is no operator of ONNX.
pub const SUM_LIKE: &str = "SumLike";

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "Adagrad",
        domain: DOMAIN,
        since: 1,
        inputs: 5..=MOST,
        outputs: 2..=MOST,
        import: import_adagrad,
    },
    Row { name: "Adam", domain: DOMAIN, since: 1, inputs: 6..=MOST, outputs: 3..=MOST, import: import_adam },
    Row {
        name: "Momentum",
        domain: DOMAIN,
        since: 1,
        inputs: 5..=MOST,
        outputs: 2..=MOST,
        import: import_momentum,
    },
    Row {
        name: SUM_LIKE,
        domain: INTERNAL_DOMAIN,
        since: 1,
        inputs: 2..=2,
        outputs: 1..=1,
        import: |_| Ok(Box::new(SumLike)),
    },
];

/// Input 0 summed over the axes along which input 1 broadcasts to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumLike;

impl Operator for SumLike {
    fn name(&self) -> &'static str {
        SUM_LIKE
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (x, like) = (nodes.input(0)?, nodes.input(1)?);
        let (from, to) = (nodes.shape(x)?.to_vec(), nodes.shape(like)?.to_vec());
        if super::broadcast(&[&to, &from])? != from {
            return Err(Reason::new(format!("{to:?} does not broadcast to {from:?}")));
        }
        let added = from.len() - to.len();
        let is_summed = |axis: usize| axis < added || to.get(axis - added) != from.get(axis);
        let axes: Vec<i64> =
            (0..from.len()).filter(|&axis| is_summed(axis)).map(|axis| axis as i64).collect();
        let mut sum = x;
        if !axes.is_empty() {
            let axes = nodes.i64s(&axes);
            sum = nodes.node("ReduceSum", &[x, axes], &[])?;
        }
        let extents: Vec<i64> = to.iter().map(|&extent| extent as i64).collect();
        let extents = nodes.i64s(&extents);
        Ok(Some(vec![nodes.node("Reshape", &[sum, extents], &[("allowzero", 1.into())])?]))
    }
}

/// Adagrad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    norm_coefficient: f32,
    decay_factor: f32,
    epsilon: f32,
}

/// Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    alpha: f32,
    beta: f32,
    norm_coefficient: f32,
    norm_coefficient_post: f32,
    epsilon: f32,
}

/// Momentum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    alpha: f32,
    beta: f32,
    norm_coefficient: f32,
    is_nesterov: bool,
}

fn import_adagrad(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mut number = |name, default| Ok(node.attributes.float(name)?.unwrap_or(default));
    Ok(Box::new(Adagrad {
        norm_coefficient: number("norm_coefficient", 0.0)?,
        decay_factor: number("decay_factor", 0.0)?,
        epsilon: number("epsilon", 1e-6)?,
    }))
}

fn import_adam(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mut number = |name, default| Ok(node.attributes.float(name)?.unwrap_or(default));
    Ok(Box::new(Adam {
        alpha: number("alpha", 0.9)?,
        beta: number("beta", 0.999)?,
        norm_coefficient: number("norm_coefficient", 0.0)?,
        norm_coefficient_post: number("norm_coefficient_post", 0.0)?,
        epsilon: number("epsilon", 1e-6)?,
    }))
}

fn import_momentum(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let missing = |name: &str| Reason::new(format!("attribute `{name}` is missing"));
    let is_nesterov = match node.attributes.string("mode")?.ok_or_else(|| missing("mode"))?.as_str() {
        "standard" => false,
        "nesterov" => true,
        other => {
            return Err(Reason::new(format!("mode {} is not supported", quote(other)))
                .supported("standard, nesterov"));
        }
    };
    let mut number = |name| node.attributes.float(name)?.ok_or_else(|| missing(name));
    Ok(Box::new(Momentum {
        alpha: number("alpha")?,
        beta: number("beta")?,
        norm_coefficient: number("norm_coefficient")?,
        is_nesterov,
    }))
}

/// Arithmetic of one optimised tensor, in its element type.
struct Step<'e, 'a> {
    nodes: &'e mut Expansion<'a>,
    dtype: DataType,
}

impl Step<'_, '_> {
    fn scalar(&mut self, value: f64) -> Wire {
        let ty = TensorType::new(self.dtype, []);
        let constant = if self.dtype == DataType::F64 {
            Constant::of(ty, &[value])
        } else {
            Constant::of(ty, &[value as f32])
        };
        self.nodes.constant(constant)
    }

    fn converted(&mut self, wire: Wire) -> Result<Wire, Reason> {
        self.nodes.node("Cast", &[wire], &[("to", (self.dtype as i64).into())])
    }

    fn add(&mut self, a: Wire, b: Wire) -> Result<Wire, Reason> {
        self.nodes.node("Add", &[a, b], &[])
    }

    fn subtract(&mut self, a: Wire, b: Wire) -> Result<Wire, Reason> {
        self.nodes.node("Sub", &[a, b], &[])
    }

    fn multiply(&mut self, a: Wire, b: Wire) -> Result<Wire, Reason> {
        self.nodes.node("Mul", &[a, b], &[])
    }

    fn divide(&mut self, a: Wire, b: Wire) -> Result<Wire, Reason> {
        self.nodes.node("Div", &[a, b], &[])
    }

    fn root(&mut self, a: Wire) -> Result<Wire, Reason> {
        self.nodes.node("Sqrt", &[a], &[])
    }

    fn scale(&mut self, factor: f64, a: Wire) -> Result<Wire, Reason> {
        let factor = self.scalar(factor);
        self.multiply(factor, a)
    }

    /// `first` where the update count is above zero, else `second`.
    fn after_first(&mut self, count: Wire, first: Wire, second: Wire) -> Result<Wire, Reason> {
        let zero = self.scalar(0.0);
        let positive = self.nodes.node("Greater", &[count, zero], &[])?;
        self.nodes.node("Where", &[positive, first, second], &[])
    }

    /// The gradient with that of the regularisation.
    fn regularized(&mut self, coefficient: f32, x: Wire, gradient: Wire) -> Result<Wire, Reason> {
        let decay = self.scale(coefficient.into(), x)?;
        self.add(decay, gradient)
    }
}

/// Expands an optimiser with `states` tensors beside each optimised one and its gradient. `step` is given the learning
/// rate, the update count and these tensors, and gives the new ones of the optimised tensor and of its state.
fn expand(
    nodes: &mut Expansion<'_>,
    states: usize,
    step: impl Fn(&mut Step<'_, '_>, Wire, Wire, &[Wire]) -> Result<Vec<Wire>, Reason>,
) -> Result<Option<Vec<Wire>>, Reason> {
    let total = nodes.types.inputs.len();
    let tensors = total.saturating_sub(2);
    let count = tensors / (states + 2);
    if !tensors.is_multiple_of(states + 2) {
        return Err(Reason::new(format!("{tensors} tensors are not {} for each optimised one", states + 2)));
    }
    let (rate, updates) = (nodes.input(0)?, nodes.input(1)?);
    expect_dtype(nodes.ty(rate)?, &[DataType::F32, DataType::F64])?;
    expect_dtype(nodes.ty(updates)?, &[DataType::I64])?;
    let mut outputs = vec![Vec::with_capacity(count); states + 1];
    for index in 0..count {
        let mut group = Vec::with_capacity(states + 2);
        for part in 0..states + 2 {
            group.push(nodes.input(2 + part * count + index)?);
        }
        let ty = nodes.ty(group[0])?.clone();
        expect_dtype(&ty, &[DataType::F32, DataType::F64])?;
        for &wire in &group {
            if *nodes.ty(wire)? != ty {
                return Err(Reason::new(format!("{} and {ty} are optimised together", nodes.ty(wire)?)));
            }
        }
        let mut scope = Step { nodes: &mut *nodes, dtype: ty.dtype };
        let (rate, updates) = (scope.converted(rate)?, scope.converted(updates)?);
        let results = step(&mut scope, rate, updates, &group)?;
        for (output, result) in outputs.iter_mut().zip(results) {
            // A learning rate of one element but more dimensions would broadcast into them.
            if *nodes.ty(result)? != ty {
                return Err(Reason::new(format!("{ty} would become {}", nodes.ty(result)?)));
            }
            output.push(result);
        }
    }
    Ok(Some(outputs.concat()))
}

impl Operator for Adagrad {
    fn name(&self) -> &'static str {
        "Adagrad"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        expand(nodes, 1, |step, rate, updates, tensors| {
            let &[x, gradient, squares] = tensors else { return Ok(Vec::new()) };
            let one = step.scalar(1.0);
            let decay = step.scale(self.decay_factor.into(), updates)?;
            let decay = step.add(one, decay)?;
            let rate = step.divide(rate, decay)?;
            let gradient = step.regularized(self.norm_coefficient, x, gradient)?;
            let square = step.multiply(gradient, gradient)?;
            let squares = step.add(squares, square)?;
            let (root, epsilon) = (step.root(squares)?, step.scalar(self.epsilon.into()));
            let adaptive = step.add(root, epsilon)?;
            let change = step.multiply(rate, gradient)?;
            let change = step.divide(change, adaptive)?;
            Ok(vec![step.subtract(x, change)?, squares])
        })
    }
}

impl Operator for Adam {
    fn name(&self) -> &'static str {
        "Adam"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (alpha, beta) = (f64::from(self.alpha), f64::from(self.beta));
        expand(nodes, 2, |step, rate, updates, tensors| {
            let &[x, gradient, mean, squares] = tensors else { return Ok(Vec::new()) };
            let gradient = step.regularized(self.norm_coefficient, x, gradient)?;
            let (kept, added) = (step.scale(alpha, mean)?, step.scale(1.0 - alpha, gradient)?);
            let mean = step.add(kept, added)?;
            let square = step.multiply(gradient, gradient)?;
            let (kept, added) = (step.scale(beta, squares)?, step.scale(1.0 - beta, square)?);
            let squares = step.add(kept, added)?;
            let (root, epsilon) = (step.root(squares)?, step.scalar(self.epsilon.into()));
            let divisor = step.add(root, epsilon)?;

            let one = step.scalar(1.0);
            let remainder = |step: &mut Step<'_, '_>, base: f64| -> Result<Wire, Reason> {
                let base = step.scalar(base);
                let power = step.nodes.node("Pow", &[base, updates], &[])?;
                step.subtract(one, power)
            };
            let (of_beta, of_alpha) = (remainder(step, beta)?, remainder(step, alpha)?);
            let of_beta = step.root(of_beta)?;
            let adjusted = step.multiply(rate, of_beta)?;
            let adjusted = step.divide(adjusted, of_alpha)?;
            let rate = step.after_first(updates, adjusted, rate)?;

            let change = step.multiply(rate, mean)?;
            let change = step.divide(change, divisor)?;
            let x = step.subtract(x, change)?;
            let x = step.scale(1.0 - f64::from(self.norm_coefficient_post), x)?;
            Ok(vec![x, mean, squares])
        })
    }
}

impl Operator for Momentum {
    fn name(&self) -> &'static str {
        "Momentum"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        expand(nodes, 1, |step, rate, updates, tensors| {
            let &[x, gradient, momentum] = tensors else { return Ok(Vec::new()) };
            let gradient = step.regularized(self.norm_coefficient, x, gradient)?;
            let (beta, one) = (step.scalar(self.beta.into()), step.scalar(1.0));
            let beta = step.after_first(updates, beta, one)?;
            let (kept, added) = (step.scale(self.alpha.into(), momentum)?, step.multiply(beta, gradient)?);
            let momentum = step.add(kept, added)?;
            let direction = if self.is_nesterov {
                let ahead = step.scale(self.alpha.into(), momentum)?;
                step.add(gradient, ahead)?
            } else {
                momentum
            };
            let change = step.multiply(rate, direction)?;
            Ok(vec![step.subtract(x, change)?, momentum])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, run_all};

    const PREFIX: &str = "ai.onnx.preview.training::";

    fn step(
        name: &str,
        attributes: &[(&str, Attribute)],
        count: i64,
        tensors: &[f32],
    ) -> Result<Vec<f32>, Reason> {
        let mut inputs = vec![Some(f32s([], &[0.1])), Some(i64s([], &[count]))];
        inputs.extend(tensors.iter().map(|&value| Some(f32s([1], &[value]))));
        let outputs = tensors.len() - tensors.len() / if name == "Adam" { 4 } else { 3 };
        let results = run_all((&format!("{PREFIX}{name}"), 1), attributes, &inputs, outputs)?;
        Ok(results.iter().map(|result| result.values::<f32>()[0]).collect())
    }

    fn close(actual: &[f32], expected: &[f32]) {
        assert_eq!(actual.len(), expected.len());
        let all = actual.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-5);
        assert!(all, "{actual:?} is not {expected:?}");
    }

    #[test]
    fn each_tensor_takes_its_step() {
        let adagrad = [("decay_factor", 1.0.into()), ("epsilon", 0.0.into())];
        // Gradients 3 and 0; 0.1 / (1 + 1) · 3 / 5.
        let actual = step("Adagrad", &adagrad, 1, &[1.0, 2.0, 3.0, 0.0, 16.0, 4.0]).unwrap();
        close(&actual, &[0.97, 2.0, 25.0, 4.0]);

        let momentum = |mode: &str| {
            [
                ("mode", mode.into()),
                ("alpha", 0.5.into()),
                ("beta", 2.0.into()),
                ("norm_coefficient", 1.0.into()),
            ]
        };
        close(&step("Momentum", &momentum("standard"), 0, &[1.0, 1.0, 4.0]).unwrap(), &[0.6, 4.0]);
        close(&step("Momentum", &momentum("standard"), 1, &[1.0, 1.0, 4.0]).unwrap(), &[0.4, 6.0]);
        close(&step("Momentum", &momentum("nesterov"), 1, &[1.0, 1.0, 4.0]).unwrap(), &[0.5, 6.0]);

        let adam = [
            ("alpha", 0.5.into()),
            ("beta", 0.75.into()),
            ("epsilon", 0.0.into()),
            ("norm_coefficient_post", 0.5.into()),
        ];
        // At count 1: 0.1 · 0.5 / 0.5 · 1 / 1.
        close(&step("Adam", &adam, 1, &[1.0, 2.0, 0.0, 0.0]).unwrap(), &[0.45, 1.0, 1.0]);
        close(&step("Adam", &adam, 0, &[1.0, 2.0, 0.0, 0.0]).unwrap(), &[0.45, 1.0, 1.0]);
    }

    #[test]
    fn what_was_broadcast_is_summed() {
        let x = f32s([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let sum = |like: Constant| {
            run_all((&format!("{INTERNAL_DOMAIN}::{SUM_LIKE}"), 1), &[], &[Some(x.clone()), Some(like)], 1)
        };
        assert_eq!(sum(f32s([3], &[0.0; 3])).unwrap(), [f32s([3], &[5.0, 7.0, 9.0])]);
        assert_eq!(sum(f32s([2, 1], &[0.0; 2])).unwrap(), [f32s([2, 1], &[6.0, 15.0])]);
        assert_eq!(sum(f32s([], &[0.0])).unwrap(), [f32s([], &[21.0])]);
        assert!(sum(f32s([2], &[0.0; 2])).is_err());
    }

    #[test]
    fn uneven_groups_are_refused() {
        assert!(step("Adagrad", &[], 1, &[1.0; 4]).is_err());
        assert!(step("Momentum", &[("mode", "fast".into())], 1, &[1.0; 3]).is_err());
    }
}
