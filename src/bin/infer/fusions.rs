//! What the compiler makes of a model's nodes: which remain, and what each pass takes away and puts in.

use std::collections::BTreeMap;

use anyhow::anyhow;
use infer_core::graph::{Graph, ValueId};
use infer_core::import::import;
use infer_core::onnx::{self, normalize_domain, printable};
use infer_core::options::Options;
use infer_core::partition::{Partition, partition};
use infer_core::passes;
use infer_core::record::{Attribute, GraphRecord};
use infer_core::shape_inference::infer;

use crate::model::messages;

/// How many nodes there are of each operator.
pub type Histogram = BTreeMap<String, usize>;

/// What a pass did, all its runs together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The pass.
    pub pass: String,
    /// The nodes that are gone.
    pub removed: Histogram,
    /// The nodes that are there instead.
    pub added: Histogram,
}

/// What becomes of a model's nodes.
#[derive(Debug, Default)]
pub struct Fusions {
    /// The nodes that remain.
    pub nodes: Histogram,
    /// What was done, in the order in which passes first did something.
    pub changes: Vec<Change>,
}

/// What the compiler makes of the model, whose file has these nodes.
///
/// # Errors
///
/// What [`compile`](infer_core::compile::compile) refuses.
pub fn analyze(options: &Options, in_file: &Histogram) -> anyhow::Result<Fusions> {
    let refused = |diagnostics: Vec<_>| anyhow!(messages(&diagnostics));
    let file = onnx::read(&options.model)?;
    let model = infer(import(&file, &options.dims).map_err(refused)?).map_err(refused)?;
    let mut fusions = Fusions::default();
    let graphs = match partition(model).0 {
        Partition::Static(graph) => vec![graph],
        Partition::Program(record, regions) => {
            count(&record, &mut fusions.nodes);
            regions
        }
    };
    // Shapes and constants are known by now, functions are inlined, and some nodes are spelled out in others.
    let mut inferred = fusions.nodes.clone();
    for (name, count) in graphs.iter().flat_map(live) {
        *inferred.entry(name).or_default() += count;
    }
    fusions.add("shape_inference", in_file, &inferred);
    for mut graph in graphs {
        let mut before = live(&graph);
        passes::run(&mut graph, |pass, graph| {
            let after = live(graph);
            fusions.add(pass, &before, &after);
            before = after;
        })
        .map_err(|error| anyhow!("{}: {}", file.name, error.0))?;
        for (name, count) in before {
            *fusions.nodes.entry(name).or_default() += count;
        }
    }
    Ok(fusions)
}

impl Fusions {
    fn add(&mut self, pass: &str, before: &Histogram, after: &Histogram) {
        let less = |from: &Histogram, what: &Histogram| -> Vec<(String, usize)> {
            let count = |name: &String| what.get(name).copied().unwrap_or(0);
            from.iter()
                .filter(|(name, many)| **many > count(name))
                .map(|(name, many)| (name.clone(), many - count(name)))
                .collect()
        };
        let (removed, added) = (less(before, after), less(after, before));
        if removed.is_empty() && added.is_empty() {
            return;
        }
        let index = self.changes.iter().position(|change| change.pass == pass).unwrap_or_else(|| {
            self.changes.push(Change { pass: pass.to_owned(), ..Change::default() });
            self.changes.len() - 1
        });
        let change = &mut self.changes[index];
        for (name, count) in removed {
            *change.removed.entry(name).or_default() += count;
        }
        for (name, count) in added {
            *change.added.entry(name).or_default() += count;
        }
    }
}

/// Counts the nodes of a program and of those in its nodes, but for those that stand for its static parts.
fn count(record: &GraphRecord, nodes: &mut Histogram) {
    for node in &record.nodes {
        // Parts are of another domain than any operator.
        if infer_core::ops::find(&node.domain, &node.op_type).is_some() {
            *nodes.entry(name(&node.domain, &node.op_type)).or_default() += 1;
        }
        for (_, attribute) in &node.attributes {
            if let Attribute::Graph(body) = attribute {
                count(body, nodes);
            }
        }
    }
}

/// The name of an operator, with its domain where that is not ai.onnx.
pub fn name(domain: &str, op_type: &str) -> String {
    match normalize_domain(domain) {
        "" => printable(op_type),
        domain => format!("{}.{}", printable(domain), printable(op_type)),
    }
}

/// The nodes that an output needs: a pass leaves others behind for another to remove.
fn live(graph: &Graph) -> Histogram {
    let writers = graph.writers();
    let mut is_live = vec![false; graph.nodes.len()];
    let mut waiting: Vec<ValueId> = graph.outputs.clone();
    while let Some(id) = waiting.pop() {
        if graph.constant(Some(id)).is_some() {
            continue;
        }
        if let Some(writer) = writers[id.index()]
            && !std::mem::replace(&mut is_live[writer], true)
        {
            waiting.extend(graph.nodes[writer].inputs.iter().flatten());
        }
    }
    let mut nodes = Histogram::new();
    for (node, _) in graph.nodes.iter().zip(&is_live).filter(|(_, live)| **live) {
        *nodes.entry(node.op.name().to_owned()).or_default() += 1;
    }
    nodes
}
