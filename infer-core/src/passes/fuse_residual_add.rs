//! Moves the addition of a residual into the convolution or product that it follows.
//!
//! Before: `t = Conv(x, w, b); y = Add(t, r)`. After: `y = Conv(x, w, b, r)`, r added before a later activation where
//! the convolution has none yet, after its activation otherwise.
//!
//! Precondition: only the addition reads t; r has the shape of t and is computed before the convolution could run
//! (the convolution moves to the place of the addition). Reassociates: bias, sum and residual in another order.

use infer_kernels::call::{Activation, residual};

use crate::graph::Graph;
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::conv::Conv;
use crate::ops::matmul::MatMul;
use crate::ops::{Blocking, Operator};
use crate::passes::{Uses, op_mut, remove_nodes};
use crate::tensor_type::DataType;

/// Moves additions of residuals into the convolutions and products before them.
pub fn fuse_residual_add(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut removed: Vec<usize> = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if node.op_as::<Binary>().is_none_or(|binary| binary.kind != BinaryKind::Add) {
            continue;
        }
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            continue;
        };
        for (sum, residual_value) in [(a, b), (b, a)] {
            if graph.ty(a) != graph.ty(b) || graph.value(residual_value).constant.is_some() {
                continue;
            }
            let Some(producer) = uses.writer(sum).filter(|_| uses.sole_reader(sum) == Some(index)) else {
                continue;
            };
            // A producer that moved in this round writes elsewhere now.
            if removed.contains(&producer) || !accepts_residual(graph, producer) {
                continue;
            }
            let name = graph.nodes[index].name.clone();
            graph.nodes.swap(producer, index);
            let node = &mut graph.nodes[index];
            node.inputs.resize(3, None);
            node.inputs.push(Some(residual_value));
            node.outputs[0] = Some(output);
            node.name = format!("{}+{name}", node.name);
            let mode = |activation: Activation| match activation == Activation::NONE {
                true => residual::BEFORE_ACTIVATION,
                false => residual::AFTER_ACTIVATION,
            };
            if let Some(conv) = op_mut::<Conv>(node) {
                conv.residual_mode = mode(conv.activation);
            } else if let Some(product) = op_mut::<MatMul>(node) {
                product.residual_mode = mode(product.activation);
            }
            removed.push(producer);
            break;
        }
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

/// Whether the node at `index` can add a tensor of its output's shape.
fn accepts_residual(graph: &Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    if let Some(conv) = node.op_as::<Conv>() {
        let blocked =
            graph.with_types(node, |types| matches!(conv.blocking(types), Blocking::Preferred { .. }));
        return conv.residual_mode == residual::NONE && blocked;
    }
    // Of other types there are no products that add anything.
    let is_f32 = node.output(0).is_some_and(|id| graph.ty(id).dtype == DataType::F32);
    let Some(product) = node.op_as::<MatMul>().filter(|_| is_f32) else { return false };
    // A product adds one full tensor: input 2 may only be a row, and a product with a vector has no rows to add to.
    let columns = node.output(0).and_then(|id| graph.ty(id).shape.last().copied());
    let matrices = node.input(1).is_some_and(|id| graph.ty(id).rank() > 1);
    let is_row = |c| {
        let ty = graph.ty(c);
        graph.constant(Some(c)).is_some()
            && ty.shape.last().copied() == columns
            && Some(ty.elements()) == columns
    };
    product.residual_mode == residual::NONE && matrices && node.input(2).is_none_or(is_row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::fuse_activation::fuse_activation;
    use crate::passes::test_support::{brief, check_pass, check_pass_does_nothing, model};

    #[test]
    fn a_convolution_moves_to_the_addition() {
        let graph = check_pass(
            fuse_residual_add,
            "input x 1,8,5,5
             random w 8,8,3,3
             random b 8
             t = Conv(x, w, b) pads=[1,1,1,1]
             r = Relu(x)
             y = Add(r, t)
             output y",
            "r = Relu(x)\ny = Conv(x, w, b, r)",
        );
        assert_eq!(graph.nodes[1].op_as::<Conv>().unwrap().residual_mode, residual::BEFORE_ACTIVATION);
        let graph = check_pass(
            fuse_residual_add,
            "input x 1,8,5,5
             random w 8,8,1,1
             t = Conv(x, w)
             s = Conv(t, w)
             y = Add(s, t)
             output y",
            "t = Conv(x, w)\ny = Conv(t, w, _, t)",
        );
        assert_eq!(graph.nodes.len(), 2);
    }

    #[test]
    fn a_residual_after_the_activation_is_added_after_it() {
        let mut graph = model(
            "input x 3,4
             random w 4,4
             random b 4
             t = Gemm(x, w, b)
             r = Tanh(t)
             y = Add(r, x)
             output y",
        );
        assert!(
            fuse_activation(&mut graph) && fuse_residual_add(&mut graph) && !fuse_residual_add(&mut graph)
        );
        graph.verify().unwrap();
        assert_eq!(brief(&graph), "y = Gemm(x, w, b, x)");
        assert_eq!(graph.nodes[0].op_as::<MatMul>().unwrap().residual_mode, residual::AFTER_ACTIVATION);
    }

    #[test]
    fn what_broadcasts_or_is_read_elsewhere_stays() {
        for (op, sum, also) in [
            ("Gemm(x, w, column)", "Add(t, x)", ""),
            ("MatMul(x, w)", "Add(t, row)", ""),
            ("MatMul(x, w)", "Add(t, x)", "output t"),
            ("MatMul(x, w)", "Add(t, t)", ""),
            ("MatMul(x, v)", "Add(t, row)", ""),
        ] {
            let text = format!(
                "input x 4,4
                 input row 4
                 random w 4,4
                 random v 4
                 random column 4,1
                 t = {op}
                 y = {sum}
                 output y
                 {also}"
            );
            check_pass_does_nothing(fuse_residual_add, &text);
        }
        let doubles = "input x 4,4
             random w 4,4
             a = Cast(x) to=11
             b = Cast(w) to=11
             t = MatMul(a, b)
             y = Add(t, a)
             output y";
        check_pass_does_nothing(fuse_residual_add, doubles);
    }
}
