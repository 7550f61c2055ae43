//! Removes nodes that give back their input.
//!
//! Before: `y = Identity(x); z = Relu(y)`. After: `z = Relu(x)`. Likewise for reshapes, expansions and casts to what the
//! input is already, transposes that move nothing, padding by nothing, concatenations of one tensor, products with 1.
//! Bit-exact.

use crate::graph::{Graph, Node};
use crate::ops::Operator;
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::cast::Cast;
use crate::ops::concat::Concat;
use crate::ops::dropout::Dropout;
use crate::ops::expand::{Expand, Tile};
use crate::ops::pad::Pad;
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
            (Some(input), Some(output)) if is_identity(graph, &node) => {
                forward[output.index()] = input.index()
            }
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
    if node.outputs.len() > 1 && node.outputs[1..].iter().any(Option::is_some)
        || graph.ty(input) != graph.ty(output)
    {
        return false;
    }
    let moves_nothing = |transpose: &Transpose| {
        transpose.permutation(graph.ty(input).rank()).is_ok_and(|perm| perm.is_sorted())
    };
    let adds_nothing = |pad: &Pad| {
        let amounts = graph.with_types(node, |types| pad.amounts(types));
        amounts.is_ok_and(|amounts| amounts.iter().all(|&amount| amount == [0, 0]))
    };
    let drops_nothing = |dropout: &Dropout| !graph.with_types(node, |types| dropout.is_host(types));
    let by_one = |binary: &Binary| {
        let one = graph.constant(node.input(1)).and_then(|constant| constant.to_scalar_f32()) == Some(1.0);
        one && matches!(binary.kind, BinaryKind::Mul | BinaryKind::Div)
    };
    node.op.is_view()
        || node.op_as::<Dropout>().is_some_and(drops_nothing)
        || node.op_as::<Cast>().is_some()
        || node.op_as::<Expand>().is_some()
        || node.op_as::<Tile>().is_some()
        || node.op_as::<Concat>().is_some() && node.inputs.len() == 1
        || node.op_as::<Transpose>().is_some_and(moves_nothing)
        || node.op_as::<Pad>().is_some_and(adds_nothing)
        || node.op_as::<Binary>().is_some_and(by_one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn what_gives_back_its_input_goes() {
        for node in [
            "Identity(x)",
            "Dropout(x)",
            "Reshape(x, same)",
            "Expand(x, same)",
            "Tile(x, ones)",
            "Cast(x) to=1",
            "Concat(x) axis=0",
            "Transpose(x) perm=[0,1]",
            "Pad(x, none)",
            "Mul(x, one)",
            "Div(x, one)",
        ] {
            let text = format!(
                "input x 2,3
                 ints same 2,3
                 ints ones 1,1
                 ints none 0,0,0,0
                 floats one [] 1.0
                 a = {node}
                 b = Identity(a)
                 y = Relu(b)
                 output y
                 output b"
            );
            let graph = check_pass(eliminate_identities, &text, "y = Relu(x)");
            assert_eq!(graph.outputs[1], graph.inputs[0]);
        }
    }

    #[test]
    fn what_changes_its_input_stays() {
        for node in
            ["Transpose(x)", "Pad(x, shift)", "Mul(x, one)", "Div(one, x)", "Flatten(x) axis=2", "Neg(x)"]
        {
            let text = format!(
                "input x 3,3
                 ints shift 1,0,-1,0
                 floats one 1,1,1 1.0
                 y = {node}
                 output y"
            );
            check_pass_does_nothing(eliminate_identities, &text);
        }
    }
}
