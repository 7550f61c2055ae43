//! The type of every value, and the elements of those that follow from types and constants.
//!
//! Shape arithmetic (`Shape`, `Gather`, `Concat` into a `Reshape`) is thereby known by the time the operator that
//! needs it is reached. Nodes whose outputs became constants stay; dead-node elimination removes them.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use std::collections::{HashSet, VecDeque};

use crate::constant::Constant;
use crate::diagnostic::{Diagnostic, Reason};
use crate::execute;
use crate::expansion::{self, Expanded};
use crate::graph::{Graph, Node, ValueId};
use crate::import::{Failures, Imported, Model, Origin, Original, Refused};
use crate::onnx::{MAX_RANK, quote};
use crate::program::import_record;
use crate::record::{Attribute, GraphRecord, NodeRecord};
use crate::tensor_type::{MAX_ELEMENTS, TensorType};
use crate::value::Value;

/// Outputs of a node up to this size are computed while compiling, larger ones where its inputs are half as large.
const FOLDED_BYTES: usize = 64 << 20;

/// The most that all nodes together may compute while compiling: bytes beyond those of the model's constants, and
/// floating-point operations. It bounds what a hostile file can make the compiler do.
const TOTAL_BYTES: usize = 2 << 30;
const TOTAL_FLOPS: u64 = 1 << 33;

/// The most elements a node whose result only its elements decide may read while compiling.
const DECIDED_ELEMENTS: usize = 1 << 20;

/// The most nodes that expanding nodes and inlining branches may give.
const MAX_NODES: usize = 1 << 20;

/// Infers all types and known elements. What the elements decide at run time, and what has no kernels, is marked as
/// such.
///
/// # Errors
///
/// One message with every node that its operator refuses, or the outputs whose types are not what the file declares.
pub fn infer(imported: Imported) -> Result<Model, Vec<Diagnostic>> {
    let Imported { mut graph, originals, strings, inputs, outputs: declared, value_info, mut info } =
        imported;
    let known = graph.values.iter().filter_map(|value| value.constant.as_ref());
    let known_bytes = known.fold(0usize, |sum, constant| sum.saturating_add(constant.data().len()));
    let nodes = std::mem::take(&mut graph.nodes);
    let mut at_run_time: HashSet<ValueId> = strings.iter().map(|(id, _)| *id).collect();
    at_run_time.extend(graph.inputs.iter().filter(|id| graph.value(**id).ty.is_none()));
    let mut inference = Inference {
        names: graph.values.iter().map(|value| value.name.clone()).collect(),
        graph,
        waiting: nodes.into_iter().zip(originals).collect(),
        originals: Vec::new(),
        runs_alone: Vec::new(),
        at_run_time,
        strings,
        budget: Budget { bytes: known_bytes.saturating_add(TOTAL_BYTES), flops: TOTAL_FLOPS },
        failures: Failures::default(),
    };
    inference.run();
    let Inference { graph, originals, runs_alone, at_run_time, strings, failures, .. } = inference;
    if !failures.is_empty() {
        return Err(vec![failures.into_diagnostic(&info.file)]);
    }

    let mut wrong = Vec::new();
    let mut outputs = Vec::new();
    for (id, declared) in graph.outputs.iter().zip(&declared) {
        let value = graph.value(*id);
        let name = quote(&value.name);
        match (&value.ty, &declared.ty) {
            (Some(ty), _) if declared.admits(ty) => outputs.push(ty.clone().into()),
            (Some(ty), _) => wrong
                .push(format!("{}: graph output {name} is declared as {declared}, it is {ty}", info.file)),
            (None, Some(ty)) if at_run_time.contains(id) => outputs.push(ty.clone()),
            (None, None) if at_run_time.contains(id) => {
                wrong.push(format!(
                    "{}: graph output {name} has a type that only the run knows, and declares none",
                    info.file
                ));
            }
            (None, _) => wrong.push(format!("{}: graph output {name} has no type", info.file)),
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
    Ok(Model { graph, info, originals, runs_alone, strings, inputs, outputs })
}

/// What may still be computed while compiling.
struct Budget {
    bytes: usize,
    flops: u64,
}

/// What is known of a node.
enum Outcome {
    /// An input has no type because the node that writes it failed.
    Waiting,
    Failed(Reason),
    /// Only the run knows the types of its outputs.
    AtRunTime,
    Inferred(Vec<(ValueId, TensorType, Option<Constant>)>, RunsAlone),
    /// Other nodes compute the same.
    Expanded(Box<Expanded>),
}

/// Whether a node is a step of its own at run time, beside the plans of kernel calls.
type RunsAlone = bool;

struct Inference {
    /// The values, and the nodes done.
    graph: Graph,
    /// The nodes to come.
    waiting: VecDeque<(Node, Original)>,
    /// For each node done what it was in the model, and whether it runs alone.
    originals: Vec<Original>,
    runs_alone: Vec<RunsAlone>,
    /// Values whose types only the run knows.
    at_run_time: HashSet<ValueId>,
    strings: Vec<(ValueId, Value)>,
    names: HashSet<String>,
    budget: Budget,
    failures: Failures,
}

impl Inference {
    fn run(&mut self) {
        while let Some((node, original)) = self.waiting.pop_front() {
            if self.graph.nodes.len() + self.waiting.len() > MAX_NODES {
                let reason = Reason::new(format!("the model expands to more than {MAX_NODES} nodes"));
                self.failures.add(&node.name, &original.origin, reason, Vec::new());
                return;
            }
            if let Some(branch) = self.known_branch(&node, &original.record) {
                if let Err(reason) = self.inline(&branch, &node, &original.origin) {
                    self.fail(&node, &original, reason);
                }
                continue;
            }
            match self.outcome(&node) {
                Outcome::Waiting => {}
                Outcome::Failed(reason) => self.fail(&node, &original, reason),
                Outcome::AtRunTime => {
                    self.at_run_time.extend(node.outputs.iter().flatten());
                    self.done(node, original, true);
                }
                Outcome::Expanded(expanded) => self.expand(*expanded, &node, &original.origin),
                Outcome::Inferred(outputs, runs_alone) => {
                    for (id, ty, constant) in outputs {
                        let value = self.graph.value_mut(id);
                        value.ty = Some(ty);
                        value.constant = constant;
                    }
                    self.done(node, original, runs_alone);
                }
            }
        }
    }

    fn done(&mut self, node: Node, original: Original, runs_alone: RunsAlone) {
        self.graph.nodes.push(node);
        self.originals.push(original);
        self.runs_alone.push(runs_alone);
    }

    fn fail(&mut self, node: &Node, original: &Original, reason: Reason) {
        self.failures.add(&node.name, &original.origin, reason, known_inputs(&self.graph, node));
    }

    fn outcome(&mut self, node: &Node) -> Outcome {
        if let Some(Refused(reason)) = node.op_as() {
            return Outcome::Failed(reason.clone());
        }
        if node.inputs.iter().flatten().any(|id| self.at_run_time.contains(id)) {
            let failed = |id: &ValueId| self.graph.value(*id).ty.is_none() && !self.at_run_time.contains(id);
            return if node.inputs.iter().flatten().any(failed) {
                Outcome::Waiting
            } else {
                Outcome::AtRunTime
            };
        }
        match self.graph.try_with_types(node, |types| expansion::expand(&*node.op, types)) {
            None => return Outcome::Waiting,
            Some(Ok(Some(expanded))) => return Outcome::Expanded(Box::new(expanded)),
            Some(Ok(None)) => {}
            Some(Err(reason)) if reason.at_run_time => return Outcome::AtRunTime,
            Some(Err(reason)) => return Outcome::Failed(reason),
        }
        let types = match self.graph.with_types(node, |types| node.op.infer(types)) {
            Ok(types) => types,
            Err(reason) if reason.at_run_time => return self.decided(node),
            Err(reason) => return Outcome::Failed(reason),
        };
        let runs_alone = self.graph.with_types(node, |types| node.op.is_host(types));
        let outputs = asked_for(node, types).and_then(|types| {
            let constants = fold(&self.graph, node, &types, &mut self.budget)?;
            Ok((types, constants))
        });
        match outputs {
            Err(reason) => Outcome::Failed(reason),
            Ok((types, constants)) => {
                let mut constants = constants.unwrap_or_default().into_iter();
                let outputs = node.outputs.iter().zip(types).filter_map(|(id, ty)| {
                    let constant = constants.next().flatten();
                    Some(((*id)?, ty?, constant))
                });
                Outcome::Inferred(outputs.collect(), runs_alone)
            }
        }
    }

    /// A node whose elements decide the types of its outputs: computed, where they are known.
    fn decided(&mut self, node: &Node) -> Outcome {
        let constants: Vec<Option<&Constant>> =
            node.inputs.iter().map(|id| self.graph.constant(*id)).collect();
        let all_known = node.inputs.iter().zip(&constants).all(|(id, known)| id.is_none() || known.is_some());
        let elements = constants.iter().flatten().map(|known| known.ty().elements());
        if !all_known || !node.op.is_foldable() || elements.fold(0, usize::saturating_add) > DECIDED_ELEMENTS
        {
            return Outcome::AtRunTime;
        }
        let asked: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
        match execute::fold(&*node.op, &constants, &asked) {
            Ok(outputs) => {
                let known = node.outputs.iter().zip(outputs);
                let known = known.filter_map(|(id, value)| Some(((*id)?, value.ty().clone(), Some(value))));
                Outcome::Inferred(known.collect(), false)
            }
            Err(reason) if reason.at_run_time => Outcome::AtRunTime,
            Err(reason) => Outcome::Failed(reason),
        }
    }

    /// A new name that begins with `prefix`.
    fn name(&mut self, prefix: &str) -> String {
        let mut name = prefix.to_owned();
        let mut count = 0;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{prefix}/{count}");
        }
        name
    }

    /// Puts nodes that compute the same in the place of `node`.
    fn expand(&mut self, expanded: Expanded, node: &Node, origin: &Origin) {
        let own = node.inputs.len();
        let mut ids: Vec<Option<ValueId>> = node.inputs.clone();
        ids.resize(expanded.values.len(), None);
        // Outputs that are one of the inputs, or one another, are copies.
        let mut copies = Vec::new();
        for (wire, output) in expanded.outputs.iter().zip(&node.outputs) {
            match (ids.get_mut(wire.index()), output) {
                (Some(slot @ None), Some(output)) if wire.index() >= own => *slot = Some(*output),
                (Some(Some(known)), Some(output)) => copies.push((*known, *output)),
                _ => {}
            }
        }
        for (index, value) in expanded.values.into_iter().enumerate().skip(own) {
            let id = match ids.get(index) {
                Some(Some(id)) => *id,
                _ => {
                    let name = self.name(&node.name);
                    self.graph.add_value(name, None)
                }
            };
            if let Some(constant) = value.constant {
                let slot = self.graph.value_mut(id);
                slot.ty = Some(constant.ty().clone());
                slot.constant = Some(constant);
            }
            if let Some(slot) = ids.get_mut(index) {
                *slot = Some(id);
            }
        }
        let id = |wire: expansion::Wire| ids.get(wire.index()).copied().flatten();
        let mut nodes = Vec::with_capacity(expanded.nodes.len());
        for inner in expanded.nodes {
            let outputs: Vec<Option<ValueId>> = inner.outputs.iter().map(|wire| id(*wire)).collect();
            if outputs.iter().flatten().all(|id| self.graph.value(*id).constant.is_some()) {
                continue;
            }
            let inputs: Vec<Option<ValueId>> = inner.inputs.iter().map(|wire| wire.and_then(id)).collect();
            nodes.push((inner.op, inner.record, inputs, outputs));
        }
        let mut entries = Vec::with_capacity(nodes.len() + copies.len());
        for (op, mut record, inputs, outputs) in nodes {
            let name = self.name(&node.name);
            record.own_inputs = inputs.len() as u32;
            record.name.clone_from(&name);
            let original = Original { origin: origin.clone(), record: record.into() };
            entries.push((Node { name, op: op.into(), inputs, outputs }, original));
        }
        for (from, to) in copies {
            entries.extend(self.identity(from, to, origin));
        }
        self.wait_for(entries);
    }

    fn wait_for(&mut self, entries: Vec<(Node, Original)>) {
        for entry in entries.into_iter().rev() {
            self.waiting.push_front(entry);
        }
    }

    /// A node that copies a value.
    fn identity(&mut self, from: ValueId, to: ValueId, origin: &Origin) -> Option<(Node, Original)> {
        let name = self.name(&self.graph.value(to).name.clone());
        let record = NodeRecord {
            name: name.clone(),
            op_type: "Identity".to_owned(),
            opset: expansion::OPSET,
            own_inputs: 1,
            inputs: vec![Some(0)],
            outputs: vec![Some(0)],
            ..NodeRecord::default()
        };
        let op = import_record(&record, &crate::ops::find).ok()?;
        let node = Node { name, op: op.into(), inputs: vec![Some(from)], outputs: vec![Some(to)] };
        Some((node, Original { origin: origin.clone(), record: record.into() }))
    }

    /// The branch that an If whose condition is known takes.
    fn known_branch(&self, node: &Node, record: &NodeRecord) -> Option<std::sync::Arc<GraphRecord>> {
        if record.op_type != "If" || !record.domain.is_empty() {
            return None;
        }
        let condition = self.graph.constant(node.input(0))?;
        let taken = if condition.data().first() == Some(&0) { "else_branch" } else { "then_branch" };
        record.attributes.iter().find_map(|(name, value)| match value {
            Attribute::Graph(graph) if name == taken => Some(graph.clone()),
            _ => None,
        })
    }

    /// Puts the nodes of `body`, a graph of `node` without inputs, in its place.
    fn inline(&mut self, body: &GraphRecord, node: &Node, origin: &Origin) -> Result<(), Reason> {
        let mut ids: Vec<Option<ValueId>> = vec![None; body.values as usize];
        for (inner, input) in &body.captures {
            if let Some(slot) = ids.get_mut(*inner as usize) {
                *slot = node.input(*input as usize);
            }
        }
        for (inner, value) in &body.constants {
            let name = self.name(&node.name);
            let id = match value {
                Value::Tensor(constant) => self.graph.add_constant(name, constant.clone()),
                other => {
                    let id = self.graph.add_value(name, None);
                    self.strings.push((id, other.clone()));
                    self.at_run_time.insert(id);
                    id
                }
            };
            if let Some(slot) = ids.get_mut(*inner as usize) {
                *slot = Some(id);
            }
        }
        let mut entries = Vec::with_capacity(body.nodes.len());
        for inner in &body.nodes {
            let name = self.name(&format!("{}/{}", node.name, inner.name));
            for output in inner.outputs.iter().flatten() {
                let value = self.name(&name);
                let id = self.graph.add_value(value, None);
                if let Some(slot) = ids.get_mut(*output as usize) {
                    *slot = Some(id);
                }
            }
            let value = |id: &Option<u32>| id.and_then(|id| ids.get(id as usize).copied().flatten());
            let op = import_record(inner, &crate::ops::find)?;
            let original = Original {
                origin: Origin { op_type: inner.op_type.clone(), opset: inner.opset },
                record: inner.clone().into(),
            };
            let inputs = inner.inputs.iter().map(value).collect();
            let outputs = inner.outputs.iter().map(value).collect();
            entries.push((Node { name, op: op.into(), inputs, outputs }, original));
        }
        for ((inner, _), output) in body.outputs.iter().zip(&node.outputs) {
            let from = ids.get(*inner as usize).copied().flatten();
            if let (Some(from), Some(to)) = (from, output) {
                entries.extend(self.identity(from, *to, origin));
            }
        }
        self.wait_for(entries);
        Ok(())
    }
}

fn known_inputs(graph: &Graph, node: &Node) -> Vec<(String, TensorType)> {
    const SHOWN: usize = 8;
    let values = node.inputs.iter().flatten().map(|id| graph.value(*id));
    values.filter_map(|value| Some((value.name.clone(), value.ty.clone()?))).take(SHOWN).collect()
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
    let constants: Vec<Option<Constant>> = match known {
        Some(constants) => constants.into_iter().map(Some).collect(),
        None => {
            let is_known = |id: &ValueId| graph.value(*id).constant.is_some();
            if !node.inputs.iter().flatten().all(is_known) {
                return Ok(None);
            }
            if !node.op.is_foldable() {
                return Ok(None);
            }
            let outputs: Vec<&TensorType> = types.iter().flatten().collect();
            let flops = graph.try_with_types(node, |types| node.op.flops(types, &outputs)).unwrap_or(0);
            let Some(left) = budget.flops.checked_sub(flops) else { return Ok(None) };
            budget.flops = left;
            let inputs: Vec<Option<&Constant>> = node.inputs.iter().map(|id| graph.constant(*id)).collect();
            let asked: Vec<bool> = types.iter().map(Option::is_some).collect();
            let constants = execute::fold(&*node.op, &inputs, &asked)?;
            types.iter().zip(constants).map(|(ty, constant)| ty.is_some().then_some(constant)).collect()
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
