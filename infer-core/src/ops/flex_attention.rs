//! FlexAttention: attention whose scores and probabilities pass through graphs.
//!
//! Specification: <https://onnx.ai/onnx/operators/> (domain ai.onnx.preview, version 1)
//! Types: f32 and f64; f16 and bf16 compute in f32. Graphs see the type of `softmax_precision`, by default f32, or f64
//! of f64.
//!
//! Graphs whose nodes have the meaning of the newest opset become nodes in place of the operator; others run as
//! programs between its parts.

use std::sync::Arc;

use super::attention::{FLOATS, compute_type, precision, scale_of};
use super::attention_core::{cast, expect_moderate, extents, reshape, scalar, transpose};
use crate::diagnostic::Reason;
use crate::execute::execute;
use crate::expansion::OPSET;
use crate::ops::{Expansion, ImportNode, NodeTypes, NodeValues, Operator, Wire, expect_dtype, find};
use crate::program::Program;
use crate::record::{Attribute, GraphRecord};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// FlexAttention.
#[derive(Debug)]
pub struct FlexAttention {
    /// The factor of the scores; 1/√size by default.
    pub scale: Option<f32>,
    /// The type of scores and probabilities.
    pub precision: Option<DataType>,
    score_mod: Option<Modifier>,
    prob_mod: Option<Modifier>,
}

/// A graph from one tensor to one of the same type.
#[derive(Debug)]
struct Modifier {
    record: Arc<GraphRecord>,
    program: Program,
}

/// Reads the attributes.
pub(super) fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mut modifier = |name: &str| -> Result<Option<Modifier>, Reason> {
        let Some(record) = node.attributes.graph(name)? else { return Ok(None) };
        if record.inputs.len() != 1 || record.outputs.len() != 1 {
            return Err(Reason::new(format!(
                "{name} has {} inputs and {} outputs, not one of each",
                record.inputs.len(),
                record.outputs.len()
            )));
        }
        let program = Program::new(&record)?;
        Ok(Some(Modifier { record, program }))
    };
    Ok(Box::new(FlexAttention {
        score_mod: modifier("score_mod")?,
        prob_mod: modifier("prob_mod")?,
        scale: node.attributes.float("scale")?,
        precision: precision(node)?,
    }))
}

impl Modifier {
    /// Whether its nodes can stand in an expansion: tensors of numbers, the newest opset, no graphs inside.
    fn is_plain(&self) -> bool {
        let plain = |attribute: &Attribute| !matches!(attribute, Attribute::Graph(_));
        self.record.constants.iter().all(|(_, value)| value.as_tensor().is_some())
            && self.record.nodes.iter().all(|node| {
                let opset = match find(&node.domain, &node.op_type) {
                    Some(_) if node.domain.is_empty() => OPSET,
                    Some(row) => row.since,
                    None => return false,
                };
                node.opset >= opset && node.attributes.iter().all(|(_, attribute)| plain(attribute))
            })
    }

    /// Its nodes, applied to `input`.
    fn build(&self, nodes: &mut Expansion<'_>, input: Wire) -> Result<Wire, Reason> {
        let damaged = || Reason::new("a graph reads a value that nothing writes");
        let record = &self.record;
        let mut wires: Vec<Option<Wire>> = vec![None; record.values as usize];
        let set = |wires: &mut Vec<Option<Wire>>, id: u32, wire: Option<Wire>| {
            wires.get_mut(id as usize).map(|slot| *slot = wire).ok_or_else(damaged)
        };
        for (id, value) in &record.constants {
            let wire = value.as_tensor().map(|tensor| nodes.constant(tensor.clone()));
            set(&mut wires, *id, wire)?;
        }
        for (id, around) in &record.captures {
            set(&mut wires, *id, nodes.optional_input(*around as usize))?;
        }
        for (id, _) in &record.inputs {
            set(&mut wires, *id, Some(input))?;
        }
        let get =
            |wires: &[Option<Wire>], id: u32| wires.get(id as usize).copied().flatten().ok_or_else(damaged);
        for node in &record.nodes {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for id in &node.inputs {
                inputs.push(id.map(|id| get(&wires, id)).transpose()?);
            }
            let attributes: Vec<(&str, Attribute)> =
                node.attributes.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            let outputs =
                nodes.nodes_of(&node.domain, &node.op_type, &inputs, &attributes, node.outputs.len())?;
            for (id, wire) in node.outputs.iter().zip(outputs) {
                if let Some(id) = id {
                    set(&mut wires, *id, Some(wire))?;
                }
            }
        }
        let (id, _) = record.outputs.first().ok_or_else(damaged)?;
        let output = get(&wires, *id)?;
        let (before, after) = (nodes.ty(input)?, nodes.ty(output)?);
        if before != after {
            return Err(Reason::new(format!("a graph makes {after} of {before}, not the same type")));
        }
        Ok(output)
    }
}

/// What the three inputs come to.
struct Shapes {
    /// Batch, query heads, rows, size.
    query: [usize; 4],
    /// Batch, key heads, keys, size of a value.
    value: [usize; 4],
    /// In which the products are computed.
    compute: DataType,
    /// Of scores and probabilities.
    precision: DataType,
}

impl FlexAttention {
    fn is_plain(&self) -> bool {
        [&self.score_mod, &self.prob_mod].into_iter().flatten().all(Modifier::is_plain)
    }

    fn shapes(&self, node: &NodeTypes<'_>) -> Result<Shapes, Reason> {
        let (query, key, value) = (node.ty(0)?, node.ty(1)?, node.ty(2)?);
        for ty in [query, key, value] {
            expect_dtype(ty, FLOATS)?;
            expect_moderate(ty)?;
        }
        let mismatch = || Reason::new(format!("Q {query} does not fit K {key} and V {value}"));
        let of = |ty: &TensorType| <[usize; 4]>::try_from(ty.shape.as_slice()).map_err(|_| mismatch());
        let (q, k, v) = (of(query)?, of(key)?, of(value)?);
        let fits = q[0] == k[0] && q[3] == k[3] && k[..3] == v[..3] && k[1] > 0 && q[1] % k[1] == 0;
        if !fits || query.dtype != key.dtype || key.dtype != value.dtype {
            return Err(mismatch());
        }
        expect_moderate(&TensorType::new(query.dtype, [q[0], q[1], q[2], v[2]]))?;
        expect_moderate(&TensorType::new(query.dtype, [q[0], q[1], q[2], v[3]]))?;
        let compute = compute_type(&[query.dtype]);
        Ok(Shapes { query: q, value: v, compute, precision: self.precision.unwrap_or(compute) })
    }

    fn scores(&self, nodes: &mut Expansion<'_>) -> Result<Wire, Reason> {
        let Shapes { query: [batch, heads, rows, size], value, compute, precision } =
            self.shapes(&nodes.types)?;
        let (query, key) = (nodes.input(0)?, nodes.input(1)?);
        let query = cast(nodes, query, compute)?;
        let key = cast(nodes, key, compute)?;
        let query = reshape(nodes, query, &[batch, value[1], heads / value[1] * rows, size])?;
        let factor = scalar(nodes, compute, scale_of(self.scale, size))?;
        let query = nodes.node("Mul", &[query, factor], &[])?;
        let key = transpose(nodes, key, &[0, 1, 3, 2])?;
        let scores = nodes.node("MatMul", &[query, key], &[])?;
        let scores = reshape(nodes, scores, &[batch, heads, rows, value[2]])?;
        cast(nodes, scores, precision)
    }

    fn output(&self, nodes: &mut Expansion<'_>, probabilities: Wire) -> Result<Wire, Reason> {
        let Shapes { query: [batch, heads, rows, _], value: shape, compute, .. } =
            self.shapes(&nodes.types)?;
        let value = nodes.input(2)?;
        let dtype = nodes.ty(value)?.dtype;
        let value = cast(nodes, value, compute)?;
        let weights = cast(nodes, probabilities, compute)?;
        let weights = reshape(nodes, weights, &[batch, shape[1], heads / shape[1] * rows, shape[2]])?;
        let output = nodes.node("MatMul", &[weights, value], &[])?;
        let output = reshape(nodes, output, &[batch, heads, rows, shape[3]])?;
        cast(nodes, output, dtype)
    }
}

fn softmax(nodes: &mut Expansion<'_>, scores: Wire) -> Result<Wire, Reason> {
    nodes.node("Softmax", &[scores], &[("axis", (-1).into())])
}

impl Operator for FlexAttention {
    fn name(&self) -> &'static str {
        "FlexAttention"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        if !self.is_plain() {
            return Ok(None);
        }
        let mut scores = self.scores(nodes)?;
        if let Some(modifier) = &self.score_mod {
            scores = modifier.build(nodes, scores)?;
        }
        let mut probabilities = softmax(nodes, scores)?;
        if let Some(modifier) = &self.prob_mod {
            probabilities = modifier.build(nodes, probabilities)?;
        }
        Ok(Some(vec![self.output(nodes, probabilities)?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let shapes = self.shapes(node)?;
        let [batch, heads, rows, _] = shapes.query;
        Ok(vec![TensorType::new(node.ty(0)?.dtype, [batch, heads, rows, shapes.value[3]])])
    }

    fn is_host(&self, _: &NodeTypes<'_>) -> bool {
        !self.is_plain()
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        if self.is_plain() {
            return Ok(None);
        }
        let apply = |modifier: &Option<Modifier>, input: Value| match modifier {
            None => Ok(input),
            Some(modifier) => {
                let before = input.describe();
                let mut outputs = modifier.program.run(&[input], node.inputs, node.backend)?;
                match outputs.pop() {
                    Some(output) if output.describe() == before => Ok(output),
                    Some(output) => Err(Reason::new(format!(
                        "a graph makes {} of {before}, not the same type",
                        output.describe()
                    ))),
                    None => Err(Reason::new("a graph without outputs")),
                }
            }
        };
        let part = |stage: Stage, mut inputs: Vec<Option<Value>>, further: Option<Value>| {
            inputs.push(further);
            let part = Part { stage, scale: self.scale, precision: self.precision };
            execute(&part, &inputs, &[true], node.backend)?
                .pop()
                .ok_or_else(|| Reason::new("a part of the operator gives nothing"))
        };
        let inputs: Vec<Option<Value>> = node.inputs.iter().take(3).cloned().collect();
        let scores = apply(&self.score_mod, part(Stage::Scores, inputs.clone(), None)?)?;
        let probabilities = part(Stage::Softmax, inputs.clone(), Some(scores))?;
        let probabilities = apply(&self.prob_mod, probabilities)?;
        Ok(Some(vec![part(Stage::Output, inputs, Some(probabilities))?]))
    }
}

/// Which part of the operator.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Scores,
    Softmax,
    Output,
}

/// The operator between its graphs: inputs 0 to 2 are its own, input 3 is what a graph gave.
#[derive(Debug)]
struct Part {
    stage: Stage,
    scale: Option<f32>,
    precision: Option<DataType>,
}

impl Operator for Part {
    fn name(&self) -> &'static str {
        "FlexAttention"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let whole =
            FlexAttention { scale: self.scale, precision: self.precision, score_mod: None, prob_mod: None };
        let output = match self.stage {
            Stage::Scores => whole.scores(nodes)?,
            Stage::Softmax => {
                let scores = nodes.input(3)?;
                extents(nodes, scores)?;
                softmax(nodes, scores)?
            }
            Stage::Output => {
                let probabilities = nodes.input(3)?;
                whole.output(nodes, probabilities)?
            }
        };
        Ok(Some(vec![output]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::test_support::{f32s, run};
    use crate::record::NodeRecord;

    const NAME: (&str, i64) = ("ai.onnx.preview::FlexAttention", 1);

    /// A graph that applies `op_type` with a constant, its nodes of opset `opset`.
    fn graph(op_type: &str, constant: Constant, opset: i64) -> Attribute {
        let node = NodeRecord {
            op_type: op_type.to_owned(),
            opset,
            inputs: vec![Some(0), Some(1)],
            own_inputs: 2,
            outputs: vec![Some(2)],
            ..NodeRecord::default()
        };
        Attribute::Graph(Arc::new(GraphRecord {
            values: 3,
            inputs: vec![(0, None)],
            outputs: vec![(2, None)],
            constants: vec![(1, Value::Tensor(constant))],
            captures: Vec::new(),
            nodes: vec![node],
        }))
    }

    fn inputs() -> [Constant; 3] {
        let zeros = f32s([1, 2, 1, 1], &[0.0; 2]);
        [zeros, f32s([1, 1, 2, 1], &[1.0, 2.0]), f32s([1, 1, 2, 1], &[1.0, 3.0])]
    }

    #[test]
    fn graphs_change_scores_and_probabilities_as_nodes_and_as_programs() {
        for opset in [OPSET, 13] {
            let bias = graph("Add", f32s([2], &[0.0, 3f32.ln()]), opset);
            let output = run(NAME, &[("score_mod", bias)], &inputs()).unwrap();
            assert_eq!(output.ty().shape, [1, 2, 1, 1]);
            assert!(output.values::<f32>().iter().all(|value| (value - 2.5).abs() < 1e-6));
            let double = graph("Mul", f32s([], &[2.0]), opset);
            let output = run(NAME, &[("prob_mod", double)], &inputs()).unwrap();
            assert!(output.values::<f32>().iter().all(|value| (value - 4.0).abs() < 1e-6));
        }
    }

    #[test]
    fn graphs_that_change_the_type_are_refused() {
        for opset in [OPSET, 13] {
            let wrong = graph("Greater", f32s([], &[2.0]), opset);
            let reason = run(NAME, &[("score_mod", wrong)], &inputs()).unwrap_err();
            assert!(reason.what.contains("not the same type"), "{reason:?}");
        }
        let [query, key, value] = inputs();
        assert!(run(NAME, &[], &[query, key.reshaped(&[2, 1, 1, 1]).unwrap(), value]).is_err());
    }
}
