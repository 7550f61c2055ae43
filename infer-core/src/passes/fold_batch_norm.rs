//! Folds a batch normalisation into the convolution before it.
//!
//! Before: `t = Conv(x, w, b); y = BatchNormalization(t, scale, bias, mean, var)`. After: `y = Conv(x, w', b')` with
//! w' = w·f, b' = (b − mean)·f + bias, f = scale / √(var + ε), by output channel.
//!
//! Precondition: only the normalisation reads t; weights and statistics are constants; the convolution has no
//! activation yet. Rounds once more in the weights.

use std::borrow::Cow;

use infer_kernels::call::{Activation, residual};

use crate::constant::Constant;
use crate::graph::{Graph, Node};
use crate::ops::conv::{Conv, ConvTranspose};
use crate::ops::normalization::BatchNormalization;
use crate::passes::{Uses, remove_nodes};
use crate::tensor_type::{DataType, TensorType};

/// Folds batch normalisations into the convolutions before them.
pub fn fold_batch_norm(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut removed = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(epsilon) = node.op_as::<BatchNormalization>().map(|norm| norm.epsilon) else { continue };
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
        let Some(producer) = uses.writer(input).filter(|_| uses.sole_reader(input) == Some(index)) else { continue };
        let Some((weights, bias)) = folded(graph, &graph.nodes[producer], node, epsilon) else { continue };
        let name = graph.nodes[producer].name.clone();
        let weights = graph.add_constant(format!("{name}:weights{index}"), weights);
        let bias = graph.add_constant(format!("{name}:bias{index}"), bias);
        let conv = &mut graph.nodes[producer];
        conv.inputs.truncate(1);
        conv.inputs.extend([Some(weights), Some(bias)]);
        conv.outputs[0] = Some(output);
        uses.set_writer(output, producer);
        removed.push(index);
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

/// The convolution's weights and bias with the normalisation in them.
fn folded(graph: &Graph, conv: &Node, norm: &Node, epsilon: f32) -> Option<(Constant, Constant)> {
    let (transposed, group) = match (conv.op_as::<Conv>(), conv.op_as::<ConvTranspose>()) {
        (Some(op), _) if op.activation == Activation::NONE && op.residual_mode == residual::NONE => (false, op.group),
        (_, Some(op)) if op.activation == Activation::NONE => (true, op.group),
        _ => return None,
    };
    let floats = |node: &Node, index: usize| -> Option<Vec<f32>> {
        graph.constant(node.input(index))?.to_f32s().map(Cow::into_owned)
    };
    let [scale, shift, mean, variance] = [floats(norm, 1)?, floats(norm, 2)?, floats(norm, 3)?, floats(norm, 4)?];
    let weights = graph.constant(conv.input(1))?;
    let channels = scale.len();
    let bias = if conv.input(2).is_some() { floats(conv, 2)? } else { vec![0.0; channels] };
    // Inference has checked that all of these have one element for each output channel.
    let factor: Vec<f32> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
    let folded_bias: Vec<f32> =
        (0..channels).map(|c| (bias[c] - mean[c]) * factor[c] + shift[c]).collect();

    let ty = weights.ty().clone();
    let taps: usize = ty.shape[2..].iter().product();
    let mut values = weights.to_f32s()?.into_owned();
    let per_group = channels / group;
    for (index, filter) in values.chunks_exact_mut(taps.max(1)).enumerate() {
        let (first, second) = (index / ty.shape[1], index % ty.shape[1]);
        // `[M, C/group, …]`, or `[C, M/group, …]` transposed.
        let channel = if transposed { first / (ty.shape[0] / group) * per_group + second } else { first };
        filter.iter_mut().for_each(|value| *value *= factor[channel]);
    }
    let bias_ty = TensorType::new(DataType::F32, [channels]);
    Some((Constant::of(ty, &values), Constant::of(bias_ty, &folded_bias)))
}
