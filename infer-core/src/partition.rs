//! Which nodes a plan runs, and which run alone.
//!
//! A model whose types are all known is one graph. In others the nodes whose types are known form static parts, each a
//! graph of its own that goes through passes, lowering and memory planning like a whole model; what only the run knows
//! runs node by node between them. A static node belongs to the first part after whatever it reads.

use std::collections::{BTreeMap, HashMap};

use crate::graph::{Graph, Node, ValueId};
use crate::import::{Model, Original};
use crate::record::{Attribute, GraphRecord, INTERNAL_DOMAIN, NodeRecord};
use crate::session::REGION;
use crate::value::{Value, ValueType};

/// A model in the form in which it runs.
#[derive(Clone, Debug)]
pub enum Partition {
    /// One plan.
    Static(Graph),
    /// A program, and the static parts that its nodes name.
    Program(GraphRecord, Vec<Graph>),
}

/// Parts a model: its graph, and the types of its inputs and outputs.
pub fn partition(model: Model) -> (Partition, Vec<ValueType>, Vec<ValueType>) {
    let Model { mut graph, originals, runs_alone, strings, inputs, outputs, .. } = model;
    let live = live_nodes(&graph);
    let is_plan = graph.inputs.iter().chain(&graph.outputs).all(|id| graph.value(*id).ty.is_some())
        && live.iter().zip(&runs_alone).all(|(live, alone)| !live || !alone);
    if is_plan {
        let mut live = live.into_iter();
        graph.nodes.retain(|_| live.next().unwrap_or(true));
        return (Partition::Static(graph), inputs, outputs);
    }

    let nodes: Vec<(Node, Original, bool)> = std::mem::take(&mut graph.nodes)
        .into_iter()
        .zip(originals)
        .zip(runs_alone)
        .zip(live)
        .filter(|(_, live)| *live)
        .map(|(((node, original), alone), _)| (node, original, alone))
        .collect();
    let mut parting = Parting { phases: phases(&graph, &nodes), graph, record: GraphRecord::default() };
    parting.interface(&inputs, &outputs, &strings);
    let regions = parting.nodes(nodes);
    (Partition::Program(parting.record, regions), inputs, outputs)
}

/// For each node whether an output needs it.
fn live_nodes(graph: &Graph) -> Vec<bool> {
    let writers = graph.writers();
    let mut live = vec![false; graph.nodes.len()];
    let mut waiting: Vec<ValueId> = graph.outputs.clone();
    while let Some(id) = waiting.pop() {
        if graph.value(id).constant.is_some() {
            continue;
        }
        if let Some(writer) = writers[id.index()]
            && !live[writer]
        {
            live[writer] = true;
            waiting.extend(graph.nodes[writer].inputs.iter().flatten());
        }
    }
    live
}

/// The part that each value is written in; a node that runs alone comes after the part of its number.
fn phases(graph: &Graph, nodes: &[(Node, Original, bool)]) -> Vec<usize> {
    let mut ready = vec![0; graph.values.len()];
    for (node, _, alone) in nodes {
        let phase = node.inputs.iter().flatten().map(|id| ready[id.index()]).max().unwrap_or(0);
        for output in node.outputs.iter().flatten() {
            ready[output.index()] = if *alone { phase + 1 } else { phase };
        }
    }
    ready
}

struct Parting {
    graph: Graph,
    /// For each value the part after which it is there: see [`phases`].
    phases: Vec<usize>,
    record: GraphRecord,
}

impl Parting {
    fn interface(&mut self, inputs: &[ValueType], outputs: &[ValueType], strings: &[(ValueId, Value)]) {
        let port = |(id, ty): (&ValueId, &ValueType)| (id.0, Some(ty.clone()));
        self.record.values = self.graph.values.len() as u32;
        self.record.inputs = self.graph.inputs.iter().zip(inputs).map(port).collect();
        self.record.outputs = self.graph.outputs.iter().zip(outputs).map(port).collect();
        self.record.constants = strings.iter().map(|(id, value)| (id.0, value.clone())).collect();
    }

    /// Adds the nodes to the program, and gives the static parts.
    fn nodes(&mut self, nodes: Vec<(Node, Original, bool)>) -> Vec<Graph> {
        let mut needed = vec![false; self.graph.values.len()];
        for id in &self.graph.outputs {
            needed[id.index()] = true;
        }
        let mut parts: BTreeMap<usize, (Vec<Node>, Vec<NodeRecord>)> = BTreeMap::new();
        let mut writers: HashMap<ValueId, usize> = HashMap::new();
        for (node, original, alone) in nodes {
            let phase = node.inputs.iter().flatten().map(|id| self.phases[id.index()]).max().unwrap_or(0);
            for id in node.inputs.iter().flatten() {
                // A value that a plan writes is an output of it where others read it.
                needed[id.index()] |= alone || writers.get(id).is_some_and(|part| *part != phase);
            }
            let (in_plan, others) = parts.entry(phase).or_default();
            if alone {
                let numbers = |ids: &[Option<ValueId>]| ids.iter().map(|id| id.map(|id| id.0)).collect();
                others.push(NodeRecord {
                    name: node.name.clone(),
                    inputs: numbers(&node.inputs),
                    outputs: numbers(&node.outputs),
                    ..NodeRecord::clone(&original.record)
                });
            } else {
                writers.extend(node.outputs.iter().flatten().map(|id| (*id, phase)));
                in_plan.push(node);
            }
        }
        let mut regions = Vec::new();
        for (in_plan, others) in parts.into_values() {
            if !in_plan.is_empty() {
                let region = self.region(in_plan, &needed);
                let numbers = |ids: &[ValueId]| ids.iter().map(|id| Some(id.0)).collect();
                self.record.nodes.push(NodeRecord {
                    name: format!("part {}", regions.len()),
                    domain: INTERNAL_DOMAIN.to_owned(),
                    op_type: REGION.to_owned(),
                    opset: 1,
                    attributes: vec![("index".to_owned(), Attribute::Int(regions.len() as i64))],
                    inputs: numbers(&region.1),
                    own_inputs: region.1.len() as u32,
                    outputs: numbers(&region.2),
                });
                regions.push(region.0);
            }
            self.record.nodes.extend(others);
        }
        self.constants(&needed);
        regions
    }

    /// The known values that the program's own nodes and outputs read.
    fn constants(&mut self, needed: &[bool]) {
        for (index, value) in self.graph.values.iter().enumerate() {
            if let (true, Some(constant)) = (needed[index], &value.constant) {
                self.record.constants.push((index as u32, Value::Tensor(constant.clone())));
            }
        }
    }

    /// A graph of these nodes, and the values of the model that are its inputs and outputs.
    fn region(&self, mut nodes: Vec<Node>, needed: &[bool]) -> (Graph, Vec<ValueId>, Vec<ValueId>) {
        let mut region = Graph::default();
        let mut ids: HashMap<ValueId, ValueId> = HashMap::new();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for node in &mut nodes {
            for id in node.inputs.iter_mut().flatten() {
                let known = *ids.entry(*id).or_insert_with(|| {
                    let inner = self.copy(&mut region, *id);
                    if self.graph.value(*id).constant.is_none() {
                        region.inputs.push(inner);
                        inputs.push(*id);
                    }
                    inner
                });
                *id = known;
            }
            for id in node.outputs.iter_mut().flatten() {
                let inner = self.copy(&mut region, *id);
                ids.insert(*id, inner);
                if needed[id.index()] && self.graph.value(*id).constant.is_none() {
                    region.outputs.push(inner);
                    outputs.push(*id);
                }
                *id = inner;
            }
        }
        region.nodes = nodes;
        (region, inputs, outputs)
    }

    fn copy(&self, region: &mut Graph, id: ValueId) -> ValueId {
        let value = self.graph.value(id);
        let copy = region.add_value(value.name.clone(), value.ty.clone());
        region.value_mut(copy).constant.clone_from(&value.constant);
        copy
    }
}
