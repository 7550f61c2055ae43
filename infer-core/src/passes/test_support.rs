//! Checks one pass on small models, for the tests beside it.

use crate as infer_core;
use crate::graph::{Graph, Layout};
use crate::options::Precision;
use crate::passes::eliminate_dead_nodes::eliminate_dead_nodes;
use crate::passes::{FINISH, run_one};

#[path = "../../tests/support/mod.rs"]
mod support;

pub use support::{assert_close, check, compiled, inputs, model, reference};

/// The nodes of a graph, one line each, without types and attributes.
pub fn brief(graph: &Graph) -> String {
    let name = |id: &Option<_>| id.map_or("_", |id| &graph.value(id).name).to_owned();
    let names = |ids: &[Option<_>]| ids.iter().map(name).collect::<Vec<_>>().join(", ");
    let line = |node: &crate::graph::Node| {
        format!("{} = {}({})", names(&node.outputs), node.op.name(), names(&node.inputs))
    };
    graph.nodes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Runs `pass` on the model `text`: once dead nodes are gone its nodes must be `expected`, and the outputs of the
/// compiled graph those of the model as it was. Gives back the graph after the pass.
pub fn check_pass(pass: fn(&mut Graph) -> bool, text: &str, expected: &str) -> Graph {
    let mut graph = model(text);
    let inputs = inputs(&graph);
    let outputs = reference(&graph, &inputs);
    eliminate_dead_nodes(&mut graph);
    let before = graph.to_text();
    assert!(pass(&mut graph), "nothing changed in\n{before}");
    graph.verify().unwrap_or_else(|broken| panic!("{broken}\n{before}"));
    eliminate_dead_nodes(&mut graph);
    assert_eq!(brief(&graph), expected, "from\n{before}");
    let mut lowered = model(text);
    eliminate_dead_nodes(&mut lowered);
    pass(&mut lowered);
    let converted = lowered.values.iter().any(|value| value.layout != Layout::Plain);
    for finish in FINISH.iter().filter(|finish| !converted || finish.name != "convert_layout") {
        run_one(&mut lowered, finish, &mut |_, _| {}).unwrap_or_else(|error| panic!("{}\n{before}", error.0));
    }
    let what = format!("{before}\n{}", lowered.to_text());
    assert_close(&compiled(&lowered, &inputs, Precision::Fp32), &outputs, 2e-5, &what);
    graph
}

/// Asserts that `pass` finds nothing to do in the model `text`.
pub fn check_pass_does_nothing(pass: fn(&mut Graph) -> bool, text: &str) {
    let mut graph = model(text);
    eliminate_dead_nodes(&mut graph);
    let before = graph.to_text();
    assert!(!pass(&mut graph), "something changed in\n{before}");
    assert_eq!(graph.to_text(), before);
}
