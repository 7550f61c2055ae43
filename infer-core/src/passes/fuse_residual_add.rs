//! Moves the addition of a residual into the convolution or product that it follows.
//!
//! Before: `t = Conv(x, w, b); y = Add(t, r)`. After: `y = Conv(x, w, b, r)`, r added before a later activation where
//! the convolution has none yet, after its activation otherwise.
//!
//! Precondition: only the addition reads t; r has the shape of t and is computed before the convolution could run
//! (the convolution moves to the place of the addition). Reassociates: bias, sum and residual in another order.

use infer_kernels::call::{Activation, residual};

use crate::graph::Graph;
use crate::lower::node_types;
use crate::ops::Blocking;
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::conv::Conv;
use crate::ops::matmul::MatMul;
use crate::passes::{Uses, op_mut, remove_nodes};

/// Moves additions of residuals into the convolutions and products before them.
pub fn fuse_residual_add(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut removed: Vec<usize> = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if node.op_as::<Binary>().is_none_or(|binary| binary.kind != BinaryKind::Add) {
            continue;
        }
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else { continue };
        for (sum, residual_value) in [(a, b), (b, a)] {
            if graph.ty(a) != graph.ty(b) || graph.value(residual_value).constant.is_some() {
                continue;
            }
            let Some(producer) = uses.writer(sum).filter(|_| uses.sole_reader(sum) == Some(index)) else { continue };
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
        let blocked = node_types(graph, node, |types| matches!(conv_blocking(conv, types), Blocking::Preferred { .. }));
        return conv.residual_mode == residual::NONE && blocked;
    }
    let Some(product) = node.op_as::<MatMul>() else { return false };
    // A product adds one full tensor: input 2 may only be a row.
    let columns = node.output(0).and_then(|id| graph.ty(id).shape.last().copied());
    let row = node.input(2).is_none_or(|c| graph.constant(Some(c)).is_some() && columns == Some(graph.ty(c).elements()));
    product.residual_mode == residual::NONE && row
}

fn conv_blocking(conv: &Conv, types: &crate::ops::NodeTypes<'_>) -> Blocking {
    crate::ops::Operator::blocking(conv, types)
}
