//! Removes nodes whose outputs nobody reads.
//!
//! Before: `y = Relu(x); z = Neg(x)`, output y. After: `y = Relu(x)`. Bit-exact.

use crate::graph::Graph;

/// Removes nodes whose outputs nobody reads, and outputs nobody reads of those that stay.
pub fn eliminate_dead_nodes(graph: &mut Graph) -> bool {
    let mut live = vec![false; graph.values.len()];
    for id in &graph.outputs {
        live[id.index()] = true;
    }
    let before = graph.nodes.len();
    let mut kept = Vec::with_capacity(before);
    for mut node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        // A value folded to a constant needs no node.
        let needed = |id: &crate::graph::ValueId| live[id.index()] && graph.value(*id).constant.is_none();
        if node.outputs.iter().flatten().any(needed) {
            for input in node.inputs.iter().flatten() {
                live[input.index()] = true;
            }
            for (index, output) in node.outputs.iter_mut().enumerate() {
                if index > 0 && output.is_some_and(|id| !live[id.index()]) {
                    *output = None;
                }
            }
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
    graph.nodes.len() != before
}
