//! Moves the addition of a constant row into the product before it, and of a constant by channel into a convolution.
//!
//! Before: `t = MatMul(x, w); y = Add(t, b)`. After: `y = MatMul(x, w, b)`.
//!
//! Precondition: only the addition reads t; b is constant, with one element for each column (or channel); there is
//! neither a bias nor an activation yet. Reassociates.

use infer_kernels::call::{Activation, residual};

use crate::calls::by_channel;
use crate::graph::{Graph, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::conv::{Conv, ConvTranspose};
use crate::ops::matmul::MatMul;
use crate::passes::{Uses, remove_nodes};

/// Moves constant additions into the products and convolutions before them.
pub fn fuse_bias(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut removed = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if node.op_as::<Binary>().is_none_or(|binary| binary.kind != BinaryKind::Add) {
            continue;
        }
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else { continue };
        for (sum, bias) in [(a, b), (b, a)] {
            let Some(producer) = uses.writer(sum).filter(|_| uses.sole_reader(sum) == Some(index)) else { continue };
            if graph.ty(sum) != graph.ty(output) {
                continue;
            }
            let Some(bias) = bias_for(graph, producer, sum, bias) else { continue };
            let node = &mut graph.nodes[producer];
            node.inputs.resize(2, None);
            node.inputs.push(Some(bias));
            node.outputs[0] = Some(output);
            uses.set_writer(output, producer);
            removed.push(index);
            break;
        }
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

/// `bias` as input 2 of the node at `producer`, if it can be that.
fn bias_for(graph: &mut Graph, producer: usize, sum: ValueId, bias: ValueId) -> Option<ValueId> {
    let node = &graph.nodes[producer];
    let (constant, shape) = (graph.constant(Some(bias))?.clone(), &graph.ty(sum).shape);
    if node.input(2).is_some() {
        return None;
    }
    if let Some(product) = node.op_as::<MatMul>() {
        let columns = *shape.last()?;
        let row = constant.ty().elements() == columns && constant.ty().shape.last() == Some(&columns);
        let plain = product.activation == Activation::NONE && product.residual_mode == residual::NONE;
        return (row && plain && product.beta == 1.0).then_some(bias);
    }
    let plain = match (node.op_as::<Conv>(), node.op_as::<ConvTranspose>()) {
        (Some(conv), _) => conv.activation == Activation::NONE && conv.residual_mode == residual::NONE,
        (_, Some(conv)) => conv.activation == Activation::NONE,
        _ => false,
    };
    let channels = *shape.get(1)?;
    let fits = shape.len() == 4 && by_channel(constant.ty(), channels);
    let vector = constant.reshaped(&[channels]).filter(|_| plain && fits)?;
    let name = format!("{}:bias{producer}", graph.value(bias).name);
    Some(graph.add_constant(name, vector))
}
