//! Removes nodes that give back their input.
//!
//! Before: `y = Identity(x); z = Relu(y)`. After: `z = Relu(x)`. Likewise for reshapes, expansions and casts to what the
//! input is already, transposes that move nothing, concatenations of one tensor. Bit-exact.

use crate::graph::{Graph, Node};
use crate::ops::cast::Cast;
use crate::ops::concat::Concat;
use crate::ops::expand::{Expand, Tile};
use crate::ops::transpose::Transpose;

/// Removes nodes that give back their input.
pub fn eliminate_identities(graph: &mut Graph) -> bool {
    let mut forward: Vec<usize> = (0..graph.values.len()).collect();
    let before = graph.nodes.len();
    let mut kept = Vec::with_capacity(before);
    for mut node in std::mem::take(&mut graph.nodes) {
        for input in node.inputs.iter_mut().flatten() {
            input.0 = forward[input.index()] as u32;
        }
        match (node.input(0), node.output(0)) {
            (Some(input), Some(output)) if is_identity(graph, &node) => forward[output.index()] = input.index(),
            _ => kept.push(node),
        }
    }
    for output in &mut graph.outputs {
        output.0 = forward[output.index()] as u32;
    }
    graph.nodes = kept;
    graph.nodes.len() != before
}

fn is_identity(graph: &Graph, node: &Node) -> bool {
    let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { return false };
    if node.outputs.len() > 1 && node.outputs[1..].iter().any(Option::is_some) || graph.ty(input) != graph.ty(output) {
        return false;
    }
    let moves_nothing = |transpose: &Transpose| {
        let rank = graph.ty(input).rank();
        match &transpose.perm {
            Some(perm) => perm.iter().enumerate().all(|(to, &from)| from == to as i64),
            None => rank < 2,
        }
    };
    node.op.is_view()
        || node.op_as::<Cast>().is_some()
        || node.op_as::<Expand>().is_some()
        || node.op_as::<Tile>().is_some()
        || node.op_as::<Concat>().is_some() && node.inputs.len() == 1
        || node.op_as::<Transpose>().is_some_and(moves_nothing)
}
