//! Recognises the group normalisation that exporters write as an instance normalisation of reshaped pictures.
//!
//! Before: `r = Reshape(x, [N, G, …]); i = InstanceNormalization(r, s, b); t = Reshape(i); y = Add(Mul(t, scale), bias)`.
//! After: `y = GroupNormalization(x, scale, bias)` of G groups. Factors and summands by channel go into the scale and
//! bias of group and instance normalisations of any origin.
//!
//! Precondition: s and b, scale and bias are constants; what lies between is read by the pattern alone; no activation
//! follows yet. Rounds scale and bias once more.

use crate::constant::Constant;
use crate::graph::{Graph, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::normalization::GroupNormalization;
use crate::passes::pattern::{Pattern, add_constant, replace};
use crate::passes::{Uses, affine};
use crate::tensor_type::{DataType, TensorType};
use infer_kernels::call::Activation;

/// Recognises the group normalisation of exporters.
pub fn fuse_group_norm(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let pattern = Pattern { graph, uses: &uses };
        let Some(output) = graph.nodes[index].output(0) else { continue };
        let Some(norm) = reshaped(pattern, output).or_else(|| scaled(pattern, output)) else { continue };
        let name = graph.nodes[index].name.clone();
        let mut constant = |suffix: &str, values: &[f32]| {
            let ty = TensorType::new(DataType::F32, [values.len()]);
            add_constant(graph, &format!("{name}:{suffix}"), Constant::of(ty, values))
        };
        let (scale, bias) = (constant("scale", &norm.scale), constant("bias", &norm.bias));
        changed |= replace(graph, index, norm.op, vec![Some(norm.x), Some(scale), Some(bias)]);
        uses = Uses::of(graph);
    }
    changed
}

/// A normalisation with an element of scale and bias for each channel.
struct Norm {
    op: GroupNormalization,
    x: ValueId,
    scale: Vec<f32>,
    bias: Vec<f32>,
}

/// The normalisation that computes `id` for this reader alone.
fn norm_of(pattern: Pattern<'_>, id: ValueId) -> Option<Norm> {
    pattern.uses.sole_reader(id)?;
    let node = pattern.writer(id)?;
    let op = *node.op_as::<GroupNormalization>().filter(|norm| norm.activation == Activation::NONE)?;
    let x = node.input(0)?;
    let channels = *pattern.graph.ty(x).shape.get(1)?;
    let values = |index: usize| {
        let constant = pattern.graph.constant(node.input(index))?;
        (constant.ty().dtype == DataType::F32).then_some(())?;
        let values = constant.values::<f32>();
        let each = channels.checked_div(values.len())?;
        Some(values.iter().flat_map(|&value| std::iter::repeat_n(value, each)).collect::<Vec<f32>>())
    };
    let (scale, bias) = (values(1)?, values(2)?);
    Some(Norm { op: GroupNormalization { scale_by_group: false, ..op }, x, scale, bias })
}

/// `y` as the normalisation of groups, where it is that of instances between two changes of shape.
fn reshaped(pattern: Pattern<'_>, y: ValueId) -> Option<Norm> {
    let graph = pattern.graph;
    let back = pattern.writer(y).filter(|node| node.op.is_view())?;
    let norm = norm_of(pattern, back.input(0)?).filter(|norm| norm.op.num_groups.is_none())?;
    let x = pattern.writer(norm.x).filter(|node| node.op.is_view())?.input(0)?;
    let (&[n, channels, ..], &[images, groups, ..]) = (&*graph.ty(x).shape, &*graph.ty(norm.x).shape) else {
        return None;
    };
    if graph.ty(x) != graph.ty(y) || n != images || groups == 0 || !channels.is_multiple_of(groups) {
        return None;
    }
    let wide = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().flat_map(|value| std::iter::repeat_n(value, channels / groups)).collect()
    };
    let op = GroupNormalization { num_groups: Some(groups), ..norm.op };
    Some(Norm { op, x, scale: wide(norm.scale), bias: wide(norm.bias) })
}

/// `y` as a normalisation, where it is one times or plus a constant for each channel.
fn scaled(pattern: Pattern<'_>, y: ValueId) -> Option<Norm> {
    let node = pattern.writer(y)?;
    let kind = node.op_as::<Binary>()?.kind;
    let (a, b) = (node.input(0)?, node.input(1)?);
    [(a, b), (b, a)].into_iter().find_map(|(value, constant)| {
        let mut norm = norm_of(pattern, value).filter(|_| pattern.graph.ty(value) == pattern.graph.ty(y))?;
        let terms = affine::by_channel(pattern.graph, node, constant)?;
        let term = |channel: usize| terms[channel % terms.len()];
        if terms.is_empty() || !(terms.len() == 1 || terms.len() == norm.scale.len()) {
            return None;
        }
        let factors = norm.scale.iter_mut().zip(&mut norm.bias).enumerate();
        match kind {
            BinaryKind::Mul => factors.for_each(|(channel, (scale, bias))| {
                (*scale, *bias) = (*scale * term(channel), *bias * term(channel));
            }),
            BinaryKind::Add => factors.for_each(|(channel, (_, bias))| *bias += term(channel)),
            _ => return None,
        }
        Some(norm)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn instances_of_reshaped_pictures_are_groups() {
        check_pass(
            fuse_group_norm,
            "input x 2,6,4,5
             positive s 3
             random b 3
             positive scale 6,1,1
             random bias 1,6,1,1
             ints groups 0,3,-1
             ints back 2,6,4,5
             r = Reshape(x, groups)
             i = InstanceNormalization(r, s, b)
             t = Reshape(i, back)
             m = Mul(t, scale)
             y = Add(m, bias)
             output y",
            "y = GroupNormalization(x, y:scale, y:bias)",
        );
        check_pass(
            fuse_group_norm,
            "input x 2,6,4,5
             positive s 6
             random b 6
             floats half [] 0.5
             i = InstanceNormalization(x, s, b)
             y = Mul(half, i)
             output y",
            "y = InstanceNormalization(x, y:scale, y:bias)",
        );
    }

    #[test]
    fn what_others_read_and_other_shapes_stay() {
        for (last, also) in [("Reshape(i, back)", "output i"), ("Reshape(i, other)", ""), ("Relu(i)", "")] {
            check_pass_does_nothing(
                fuse_group_norm,
                &format!(
                    "input x 2,6,4,5
                     positive s 3
                     random b 3
                     ints groups 0,3,-1
                     ints back 2,6,4,5
                     ints other 2,3,8,5
                     r = Reshape(x, groups)
                     i = InstanceNormalization(r, s, b)
                     y = {last}
                     output y
                     {also}"
                ),
            );
        }
    }
}
