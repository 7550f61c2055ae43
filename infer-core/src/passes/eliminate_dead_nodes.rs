//! Removes nodes whose outputs nobody reads.
//!
//! Before: `y = Relu(x); z = Neg(x)`, output y. After: `y = Relu(x)`. Bit-exact.

use crate::graph::{Graph, ValueId};

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
        let needed = |id: &ValueId| live[id.index()] && graph.value(*id).constant.is_none();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{brief, model};

    #[test]
    fn what_nobody_reads_goes() {
        let mut graph = model(
            "input x 4,2
             a = Relu(x)
             b = Neg(a)
             c = Exp(b)
             p, q, r, s = Split(x) axis=0
             y = Add(p, r)
             output y",
        );
        assert!(eliminate_dead_nodes(&mut graph));
        graph.verify().unwrap();
        assert_eq!(brief(&graph), "p, _, r, _ = Split(x)\ny = Add(p, r)");
        assert!(!eliminate_dead_nodes(&mut graph));
    }

    #[test]
    fn what_computes_a_constant_goes() {
        let mut graph = model(
            "input x 3
             random a 3
             b = Exp(a)
             y = Add(x, b)
             output y",
        );
        assert!(eliminate_dead_nodes(&mut graph));
        graph.verify().unwrap();
        assert_eq!(brief(&graph), "y = Add(x, b)");
    }
}
