//! Moves an activation into the convolution, product or normalisation before it.
//!
//! Before: `t = Conv(x, w, b); y = Relu(t)`. After: `y = Conv(x, w, b) {relu}`.
//!
//! Precondition: only the activation reads t. Exact but for the rounding of the activation's own vector code.

use infer_kernels::call::{Activation, residual};

use crate::graph::{Graph, Node};
use crate::ops::clip::Clip;
use crate::ops::conv::{Conv, ConvTranspose};
use crate::ops::matmul::MatMul;
use crate::ops::normalization::GroupNormalization;
use crate::ops::unary::Unary;
use crate::passes::{Uses, op_mut, remove_nodes};
use crate::tensor_type::DataType;

/// Moves activations into the convolutions, products and normalisations before them.
pub fn fuse_activation(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut removed = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let activation = match (node.op_as::<Unary>(), node.op_as::<Clip>()) {
            (Some(unary), _) => unary.activation(),
            (_, Some(clip)) => graph.with_types(node, |types| clip.activation(types)),
            _ => None,
        };
        let (Some(activation), Some(input), Some(output)) = (activation, node.input(0), node.output(0))
        else {
            continue;
        };
        if graph.ty(output).dtype != DataType::F32 {
            continue;
        }
        let Some(producer) = uses.writer(input).filter(|_| uses.sole_reader(input) == Some(index)) else {
            continue;
        };
        let node = &mut graph.nodes[producer];
        let Some(slot) = activation_slot(node).filter(|slot| **slot == Activation::NONE) else { continue };
        *slot = activation;
        node.outputs[0] = Some(output);
        uses.set_writer(output, producer);
        removed.push(index);
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

/// Where a node keeps its activation, if it can have one as its last step.
fn activation_slot(node: &mut Node) -> Option<&mut Activation> {
    if let Some(conv) = node.op_as::<Conv>() {
        let last = conv.residual_mode != residual::AFTER_ACTIVATION;
        return op_mut::<Conv>(node).filter(|_| last).map(|conv| &mut conv.activation);
    }
    if node.op_as::<MatMul>().is_some_and(|product| product.residual_mode != residual::AFTER_ACTIVATION) {
        return op_mut::<MatMul>(node).map(|product| &mut product.activation);
    }
    if node.op_as::<GroupNormalization>().is_some() {
        return op_mut::<GroupNormalization>(node).map(|norm| &mut norm.activation);
    }
    op_mut::<ConvTranspose>(node).map(|conv| &mut conv.activation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn activations_move_into_what_they_follow() {
        for (op, inputs) in [("Conv(x, w)", "x, w"), ("ConvTranspose(x, w)", "x, w")] {
            for (activation, rest) in [
                ("Relu(t)", ""),
                ("LeakyRelu(t) alpha=0.2", ""),
                ("Sigmoid(t)", ""),
                ("HardSigmoid(t) alpha=0.3", ""),
                ("HardSwish(t)", ""),
                ("Tanh(t)", ""),
                ("Softplus(t)", ""),
                ("Clip(t, low)", "floats low [] -0.25"),
            ] {
                let name = op.split_once('(').unwrap().0;
                let text = format!(
                    "input x 1,4,5,5
                     random w 4,4,3,3
                     {rest}
                     t = {op}
                     y = {activation}
                     output y"
                );
                check_pass(fuse_activation, &text, &format!("y = {name}({inputs})"));
            }
        }
    }

    #[test]
    fn normalisations_take_activations() {
        check_pass(
            fuse_activation,
            "opset 21
             input x 1,4,5,5
             random s 4
             random b 4
             t = GroupNormalization(x, s, b) num_groups=2
             y = Sigmoid(t)
             output y",
            "y = GroupNormalization(x, s, b)",
        );
    }

    #[test]
    fn one_activation_is_fused_and_the_next_stays() {
        check_pass(
            fuse_activation,
            "input x 3,4
             random w 4,5
             t = MatMul(x, w)
             r = Relu(t)
             y = Tanh(r)
             output y",
            "r = MatMul(x, w)\ny = Tanh(r)",
        );
    }

    #[test]
    fn other_functions_and_other_readers_stay() {
        for (activation, also) in [("Exp(t)", ""), ("Relu(t)", "output t"), ("Clip(t, low)", "")] {
            let text = format!(
                "input x 3,4
                 input low []
                 random w 4,5
                 t = MatMul(x, w)
                 y = {activation}
                 output y
                 {also}"
            );
            check_pass_does_nothing(fuse_activation, &text);
        }
    }

    #[test]
    fn products_of_doubles_have_none() {
        let text = "input x 3,4
             random w 4,5
             a = Cast(x) to=11
             b = Cast(w) to=11
             t = MatMul(a, b)
             y = Relu(t)
             output y";
        check_pass_does_nothing(fuse_activation, text);
    }
}
