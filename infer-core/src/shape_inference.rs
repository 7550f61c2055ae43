//! The type of every value, and the elements of those that follow from types and constants.
//!
//! Shape arithmetic (`Shape`, `Gather`, `Concat` into a `Reshape`) is thereby known by the time the operator that
//! needs it is reached. Nodes whose outputs became constants stay; dead-node elimination removes them.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use crate::constant::Constant;
use crate::diagnostic::{Diagnostic, Reason};
use crate::execute::{Backend, evaluate};
use crate::graph::{Graph, Node, ValueId};
use crate::import::{Failures, Imported, Model, Refused};
use crate::onnx::{MAX_RANK, quote};
use crate::tensor_type::{MAX_ELEMENTS, TensorType};

/// Outputs of a node up to this size are computed while compiling, larger ones where its inputs are half as large.
const FOLDED_BYTES: usize = 64 << 20;

/// The most that all nodes together may compute while compiling: bytes beyond those of the model's constants, and
/// floating-point operations. It bounds what a hostile file can make the compiler do.
const TOTAL_BYTES: usize = 2 << 30;
const TOTAL_FLOPS: u64 = 1 << 33;

/// Infers all types and known elements.
///
/// # Errors
///
/// One message with every node that its operator refuses, or the outputs whose types are not what the file declares.
pub fn infer(imported: Imported) -> Result<Model, Vec<Diagnostic>> {
    let Imported { mut graph, origins, outputs, value_info, mut info } = imported;
    let mut failures = Failures::default();
    let known = graph.values.iter().filter_map(|value| value.constant.as_ref());
    let known_bytes = known.fold(0usize, |sum, constant| sum.saturating_add(constant.data().len()));
    let mut budget = Budget { bytes: known_bytes.saturating_add(TOTAL_BYTES), flops: TOTAL_FLOPS };
    let nodes = std::mem::take(&mut graph.nodes);
    for (node, origin) in nodes.iter().zip(&origins) {
        match infer_node(&graph, node, &mut budget) {
            Outcome::Waiting => {}
            Outcome::Failed(reason) => failures.add(&node.name, origin, reason, known_inputs(&graph, node)),
            Outcome::Inferred(outputs) => {
                for (id, ty, constant) in outputs {
                    let value = graph.value_mut(id);
                    value.ty = Some(ty);
                    value.constant = constant;
                }
            }
        }
    }
    graph.nodes = nodes;
    if !failures.is_empty() {
        return Err(vec![failures.into_diagnostic(&info.file)]);
    }

    let mut wrong = Vec::new();
    for (id, declared) in graph.outputs.iter().zip(&outputs) {
        let value = graph.value(*id);
        match &value.ty {
            Some(ty) if declared.admits(ty) => {}
            Some(ty) => {
                let name = quote(&value.name);
                wrong.push(format!(
                    "{}: graph output {name} is declared as {declared}, it is {ty}",
                    info.file
                ));
            }
            None => wrong.push(format!("{}: graph output {} has no type", info.file, quote(&value.name))),
        }
    }
    if !wrong.is_empty() {
        return Err(vec![Diagnostic::model(wrong.join("\n"))]);
    }
    for (id, declared) in value_info {
        let value = graph.value(id);
        if let Some(ty) = value.ty.as_ref().filter(|ty| !declared.admits(ty)) {
            let name = quote(&value.name);
            info.notes.push(format!("value {name} is declared as {declared}, it is {ty}"));
        }
    }
    Ok(Model { graph, info })
}

/// What may still be computed while compiling.
struct Budget {
    bytes: usize,
    flops: u64,
}

enum Outcome {
    /// An input has no type because the node that writes it failed.
    Waiting,
    Failed(Reason),
    Inferred(Vec<(ValueId, TensorType, Option<Constant>)>),
}

fn known_inputs(graph: &Graph, node: &Node) -> Vec<(String, TensorType)> {
    const SHOWN: usize = 8;
    let values = node.inputs.iter().flatten().map(|id| graph.value(*id));
    values.filter_map(|value| Some((value.name.clone(), value.ty.clone()?))).take(SHOWN).collect()
}

fn infer_node(graph: &Graph, node: &Node, budget: &mut Budget) -> Outcome {
    if let Some(Refused(reason)) = node.op_as() {
        return Outcome::Failed(reason.clone());
    }
    let types = match graph.try_with_types(node, |types| node.op.infer(types)) {
        None => return Outcome::Waiting,
        Some(Err(reason)) => return Outcome::Failed(reason),
        Some(Ok(types)) => types,
    };
    match asked_for(node, types).and_then(|types| {
        let constants = fold(graph, node, &types, budget)?;
        Ok((types, constants))
    }) {
        Err(reason) => Outcome::Failed(reason),
        Ok((types, constants)) => {
            let mut constants = constants.unwrap_or_default().into_iter();
            let outputs = node.outputs.iter().zip(types).filter_map(|(id, ty)| {
                let constant = constants.next().flatten();
                Some(((*id)?, ty?, constant))
            });
            Outcome::Inferred(outputs.collect())
        }
    }
}

/// For each output that the node has its type, checked.
fn asked_for(node: &Node, types: Vec<TensorType>) -> Result<Vec<Option<TensorType>>, Reason> {
    let mut types = types.into_iter();
    let mut asked = Vec::with_capacity(node.outputs.len());
    for (index, output) in node.outputs.iter().enumerate() {
        let ty = types.next();
        if output.is_none() {
            asked.push(None);
            continue;
        }
        let ty = ty.ok_or_else(|| Reason::new(format!("{} has no output {index}", node.op.name())))?;
        if ty.rank() > MAX_RANK {
            return Err(Reason::new(format!(
                "output {index} has {} dimensions, more than {MAX_RANK}",
                ty.rank()
            )));
        }
        if ty.checked_elements().is_none() {
            return Err(Reason::new(format!(
                "output {index} would be {ty}, more than {MAX_ELEMENTS} elements"
            )));
        }
        asked.push(Some(ty));
    }
    Ok(asked)
}

/// The elements of the outputs, if they can be known and are not too large.
fn fold(
    graph: &Graph,
    node: &Node,
    types: &[Option<TensorType>],
    budget: &mut Budget,
) -> Result<Option<Vec<Option<Constant>>>, Reason> {
    if node.op.is_nondeterministic() || types.iter().all(Option::is_none) {
        return Ok(None);
    }
    let sum = |bytes: &mut dyn Iterator<Item = usize>| bytes.fold(0usize, usize::saturating_add);
    let inputs = node.inputs.iter().flatten().filter_map(|id| graph.value(*id).ty.as_ref());
    let input_bytes = sum(&mut inputs.map(TensorType::bytes));
    let output_bytes = sum(&mut types.iter().flatten().map(TensorType::bytes));
    if output_bytes > FOLDED_BYTES.max(input_bytes.saturating_mul(2)) || output_bytes > budget.bytes {
        return Ok(None);
    }
    let known = graph.try_with_types(node, |types| node.op.evaluate(types)).transpose()?.flatten();
    let constants = match known {
        Some(constants) => constants.into_iter().map(Some).collect(),
        None => {
            let is_known = |id: &ValueId| graph.value(*id).constant.is_some();
            if !node.inputs.iter().flatten().all(is_known) {
                return Ok(None);
            }
            let outputs: Vec<&TensorType> = types.iter().flatten().collect();
            let flops = graph.try_with_types(node, |types| node.op.flops(types, &outputs)).unwrap_or(0);
            let Some(left) = budget.flops.checked_sub(flops) else { return Ok(None) };
            budget.flops = left;
            let inputs: Vec<Option<&Constant>> = node.inputs.iter().map(|id| graph.constant(*id)).collect();
            evaluate(&*node.op, &inputs, types, &Backend::Reference)?
        }
    };
    for (ty, constant) in types.iter().zip(&constants) {
        if let (Some(ty), Some(constant)) = (ty, constant)
            && constant.ty() != ty
        {
            return Err(Reason::new(format!(
                "{} computes {}, it infers {ty}",
                node.op.name(),
                constant.ty()
            )));
        }
    }
    // An output that is the input's own memory under another shape costs nothing.
    if !node.op.is_view() {
        budget.bytes -= output_bytes;
    }
    Ok(Some(constants))
}
