//! Merges nodes that only move data or only rename axes.
//!
//! Before: `a = Transpose(x) {1, 2, 0}; y = Transpose(a) {1, 2, 0}`. After: `y = Transpose(x) {2, 0, 1}`. Likewise a view
//! (Reshape, Flatten, Squeeze, Unsqueeze) of a view becomes one Reshape, and so does a transpose that moves axes of
//! extent 1 alone. Bit-exact.

use crate::constant::Constant;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::reshape::Reshape;
use crate::ops::transpose::Transpose;
use crate::passes::Uses;
use crate::passes::pattern::{add_constant, replace};

/// Merges nodes that only move data or only rename axes.
pub fn simplify_movement(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(input) = node.input(0).filter(|id| graph.value(*id).constant.is_none()) else { continue };
        let before = uses.writer(input).and_then(|writer| graph.nodes.get(writer));
        let source = before.and_then(|before| before.input(0));
        if let Some(perm) = permutation(graph, node) {
            if keeps_order(&graph.ty(input).shape, &perm) {
                changed |= reshape(graph, index, input);
            } else if let Some(first) = before.and_then(|before| permutation(graph, before)) {
                let perm = perm.into_iter().map(|axis| first[axis] as i64).collect();
                changed |= replace(graph, index, Transpose { perm: Some(perm) }, vec![source]);
            }
        } else if is_pure_view(node)
            && before.is_some_and(is_pure_view)
            && let Some(source) = source.filter(|id| graph.value(*id).constant.is_none())
        {
            changed |= reshape(graph, index, source);
        }
    }
    changed
}

/// For each axis of the output the axis of the input, where `node` is a Transpose.
fn permutation(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    node.op_as::<Transpose>()?.permutation(graph.ty(node.input(0)?).rank()).ok()
}

/// Whether the axes of more than one element keep their order.
fn keeps_order(shape: &[usize], perm: &[usize]) -> bool {
    let moved: Vec<usize> = perm.iter().copied().filter(|&axis| shape[axis] != 1).collect();
    moved.is_sorted()
}

/// Whether the node's one output is a view of its first input.
fn is_pure_view(node: &Node) -> bool {
    node.op.is_view() && node.outputs.len() == 1
}

/// Makes the node at `index` a Reshape of `source`.
fn reshape(graph: &mut Graph, index: usize, source: ValueId) -> bool {
    let Some(output) = graph.nodes[index].output(0) else { return false };
    let extents: Vec<i64> = graph.ty(output).shape.iter().map(|&extent| extent as i64).collect();
    let name = format!("{}:shape", graph.value(output).name);
    let shape = add_constant(graph, &name, Constant::of_i64(&extents));
    replace(graph, index, Reshape { allow_zero: true }, vec![Some(source), Some(shape)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn transposes_merge() {
        check_pass(
            simplify_movement,
            "input x 2,3,4
             a = Transpose(x) perm=[1,2,0]
             b = Transpose(a) perm=[1,0,2]
             y = Transpose(b)
             output y
             output a",
            "a = Transpose(x)\ny = Transpose(x)",
        );
    }

    #[test]
    fn views_merge() {
        check_pass(
            simplify_movement,
            "input x 2,3,1,4
             ints shape 6,4
             a = Squeeze(x)
             b = Flatten(a) axis=2
             c = Reshape(b, shape)
             r = Relu(c)
             y = Transpose(r)
             output y",
            "c = Reshape(x, c:shape)\nr = Relu(c)\ny = Transpose(r)",
        );
    }

    #[test]
    fn a_transpose_of_axes_of_one_element_is_a_view() {
        check_pass(
            simplify_movement,
            "input x 2,1,3,1
             a = Transpose(x) perm=[1,0,3,2]
             y = Relu(a)
             output y",
            "a = Reshape(x, a:shape)\ny = Relu(a)",
        );
    }

    #[test]
    fn what_moves_data_alone_stays() {
        check_pass_does_nothing(
            simplify_movement,
            "input x 2,3,4
             ints shape 2,12
             a = Transpose(x) perm=[0,2,1]
             y = Reshape(a, shape)
             output y",
        );
    }
}
