//! Makes one product of several of one value with constant weights.
//!
//! Before: `q = MatMul(x, wq, bq); k = MatMul(x, wk, bk); v = MatMul(x, wv, bv); y = FusedAttention(q, k, v)`. After:
//! `a = MatMul(x, wqkv, bqkv); y = FusedAttention(a, a, a)`, the weights side by side, and attention reading its part of
//! each row.
//!
//! Precondition: attention alone reads the products; weights are matrices, biases rows, all constant; there is neither
//! an activation nor a residual. Bit-exact.

use infer_kernels::call::{Attention, HeadView, residual};

use crate::constant::Constant;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::fused_attention::FusedAttention;
use crate::ops::matmul::MatMul;
use crate::passes::pattern::{add_constant, unused_name};
use crate::passes::{op_mut, remove_nodes};
use crate::tensor_type::{DataType, TensorType};

/// Makes one product of several of one value.
pub fn fuse_projections(graph: &mut Graph) -> bool {
    let readers = graph.readers();
    let mut removed = Vec::new();
    for first in 0..graph.nodes.len() {
        if removed.contains(&first) || !is_projection(graph, &readers, first) {
            continue;
        }
        let mut members = vec![first];
        for other in first + 1..graph.nodes.len() {
            let alike = !removed.contains(&other)
                && is_projection(graph, &readers, other)
                && goes_with(graph, &graph.nodes[first], &graph.nodes[other]);
            if alike {
                members.push(other);
            }
        }
        if members.len() > 1 && join(graph, &readers, &members) {
            removed.extend(&members[1..]);
        }
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

/// The columns of a product with constant weights.
fn columns(graph: &Graph, node: &Node) -> Option<usize> {
    graph.ty(node.output(0)?).shape.last().copied()
}

/// Whether the node is a product with a constant matrix and at most a constant row added, which attention alone reads
/// within its rows.
fn is_projection(graph: &Graph, readers: &[Vec<usize>], index: usize) -> bool {
    let node = &graph.nodes[index];
    let Some(op) = node.op_as::<MatMul>() else { return false };
    let (Some(x), Some(weights), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
        return false;
    };
    let Some(columns) = columns(graph, node) else { return false };
    let matrix = graph.constant(Some(weights)).is_some_and(|weights| {
        weights.ty().rank() == 2 && weights.ty().dtype == DataType::F32 && weights.ty().elements() > 0
    });
    let row = node.input(2).is_none_or(|bias| {
        op.beta == 1.0
            && graph.constant(Some(bias)).is_some_and(|bias| bias.ty().elements() == columns)
            && graph.ty(bias).shape.last() == Some(&columns)
    });
    let plain = matrix
        && row
        && graph.value(x).constant.is_none()
        && !op.trans_a
        && op.activation.kind == 0
        && op.residual_mode == residual::NONE
        && !graph.outputs.contains(&output);
    plain
        && !readers[output.index()].is_empty()
        && readers[output.index()].iter().all(|&reader| {
            let attention = &graph.nodes[reader];
            let Some(fused) = attention.op_as::<FusedAttention>() else { return false };
            let inputs = attention.inputs.iter().take(4).enumerate();
            inputs.filter(|(_, input)| **input == Some(output)).all(|(operand, _)| {
                operand < 3 && widened(&fused.call, operand, columns, columns, 0).is_some()
            })
        })
}

/// Whether two products differ in their weights alone.
fn goes_with(graph: &Graph, a: &Node, b: &Node) -> bool {
    let (Some(one), Some(other)) = (a.op_as::<MatMul>(), b.op_as::<MatMul>()) else { return false };
    let rows = |node: &Node| {
        let shape = node.output(0).map(|id| graph.ty(id).shape.clone()).unwrap_or_default();
        shape.split_last().map(|(_, rows)| rows.to_vec())
    };
    a.input(0) == b.input(0) && one.gemm == other.gemm && one.alpha == other.alpha && rows(a) == rows(b)
}

/// Makes the first of `members` compute the results of all, side by side; says whether it could.
fn join(graph: &mut Graph, readers: &[Vec<usize>], members: &[usize]) -> bool {
    let parts: Option<Vec<Part>> =
        members.iter().map(|&member| Part::of(graph, &graph.nodes[member])).collect();
    let Some(parts) = parts else { return false };
    let (k, total) = (parts[0].k, parts.iter().map(|part| part.columns).sum::<usize>());
    let mut weights = vec![0.0; k * total];
    let mut bias = vec![0.0; total];
    let mut start = 0;
    for part in &parts {
        for (row, line) in weights.chunks_mut(total).enumerate() {
            for (column, slot) in line[start..start + part.columns].iter_mut().enumerate() {
                *slot = part.weights[row * part.strides[0] + column * part.strides[1]];
            }
        }
        bias[start..start + part.columns].copy_from_slice(&part.bias);
        start += part.columns;
    }
    let has_bias = members.iter().any(|&member| graph.nodes[member].input(2).is_some());
    let (matrix, row) = (TensorType::new(DataType::F32, [k, total]), TensorType::new(DataType::F32, [total]));
    let (Some(weights), Some(bias)) = (Constant::checked(matrix, &weights), Constant::checked(row, &bias))
    else {
        return false;
    };
    let Some(output) = graph.nodes[members[0]].output(0) else { return false };
    let mut ty = graph.ty(output).clone();
    let Some(last) = ty.shape.last_mut() else { return false };
    *last = total;
    let name = members.iter().map(|&member| graph.nodes[member].name.clone()).collect::<Vec<_>>().join("+");
    let weights = add_constant(graph, &format!("{name}:weights"), weights);
    let bias = has_bias.then(|| add_constant(graph, &format!("{name}:bias"), bias));
    let unused = unused_name(graph, &name);
    let joined = graph.add_value(unused, Some(ty));
    let mut start = 0;
    for (&member, part) in members.iter().zip(&parts) {
        let Some(old) = graph.nodes[member].output(0) else { return false };
        for &reader in &readers[old.index()] {
            redirect(&mut graph.nodes[reader], old, joined, part.columns, total, start);
        }
        start += part.columns;
    }
    let are_alike = parts.iter().all(|part| part.columns == parts[0].columns);
    let node = &mut graph.nodes[members[0]];
    if let Some(op) = op_mut::<MatMul>(node) {
        op.trans_b = false;
        op.beta = 1.0;
        op.products = if are_alike { parts.len() } else { 1 };
    }
    node.name = name;
    node.inputs.truncate(1);
    node.inputs.push(Some(weights));
    node.inputs.extend(bias.map(Some));
    node.outputs = vec![Some(joined)];
    true
}

/// Weights and bias of one product.
struct Part {
    weights: Vec<f32>,
    /// Between rows, and between columns.
    strides: [usize; 2],
    bias: Vec<f32>,
    k: usize,
    columns: usize,
}

impl Part {
    fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let constant = graph.constant(node.input(1))?;
        let &[a, b] = constant.ty().shape.as_slice() else { return None };
        let transposed = node.op_as::<MatMul>()?.trans_b;
        let (k, columns, strides) = if transposed { (b, a, [1, b]) } else { (a, b, [b, 1]) };
        let bias = match node.input(2) {
            Some(bias) => graph.constant(Some(bias))?.to_f32s()?.into_owned(),
            None => vec![0.0; columns],
        };
        Some(Part { weights: constant.to_f32s()?.into_owned(), strides, bias, k, columns })
    }
}

/// Makes attention read columns from `start` on of `joined`, of `total` columns, in place of `old`.
fn redirect(node: &mut Node, old: ValueId, joined: ValueId, columns: usize, total: usize, start: usize) {
    for operand in 0..3 {
        if node.input(operand) != Some(old) {
            continue;
        }
        let Some(fused) = op_mut::<FusedAttention>(node) else { continue };
        if let Some(view) = widened(&fused.call, operand, columns, total, start) {
            *view_of(&mut fused.call, operand) = view;
            node.inputs[operand] = Some(joined);
        }
    }
}

fn view_of(call: &mut Attention, operand: usize) -> &mut HeadView {
    match operand {
        0 => &mut call.query,
        1 => &mut call.key,
        _ => &mut call.value,
    }
}

/// The view of an operand of `columns` columns in one of `total`, where it is the columns from `start` on; `None` where
/// a walk along columns would cross from row to row.
fn widened(call: &Attention, operand: usize, columns: usize, total: usize, start: usize) -> Option<HeadView> {
    let (view, rows, elements) = match operand {
        0 => (call.query, call.rows, call.size),
        1 => (call.key, call.keys, call.size),
        _ => (call.value, call.keys, call.value_size),
    };
    let (columns, total) = (columns as u64, total as u64);
    let moved = |stride: u64| stride / columns * total + stride % columns;
    let axes = call.lead.iter().zip(&view.lead).chain([(&rows, &view.row), (&elements, &view.element)]);
    let mut last = view.offset % columns;
    for (extent, stride) in axes {
        last = last.checked_add(extent.saturating_sub(1).checked_mul(stride % columns)?)?;
    }
    (last < columns).then(|| HeadView {
        offset: moved(view.offset) + start as u64,
        lead: view.lead.map(moved),
        row: moved(view.row),
        element: moved(view.element),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::eliminate_dead_nodes::eliminate_dead_nodes;
    use crate::passes::fuse_attention::fuse_attention;
    use crate::passes::fuse_bias::fuse_bias;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    fn both(graph: &mut Graph) -> bool {
        fuse_bias(graph);
        fuse_attention(graph) && eliminate_dead_nodes(graph) && fuse_projections(graph)
    }

    const ATTENTION: &str = "input x 2,5,8
         input z 2,7,8
         random wq 8,12
         random wk 8,12
         random wv 8,20
         random bk 12
         ints split 2,-1,4,3
         ints wide 2,-1,4,5
         ints merge 2,5,20\n";

    const HEADS: &str = "qr = Reshape(q, split)
         kr = Reshape(k, split)
         vr = Reshape(v, wide)
         qt = Transpose(qr) perm=[0,2,1,3]
         kt = Transpose(kr) perm=[0,2,3,1]
         vt = Transpose(vr) perm=[0,2,1,3]
         s = MatMul(qt, kt)
         p = Softmax(s) axis=-1
         y = MatMul(p, vt)
         t = Transpose(y) perm=[0,2,1,3]
         o = Reshape(t, merge)
         output o\n";

    #[test]
    fn three_projections_of_a_value_are_one_product() {
        let text = format!(
            "{ATTENTION}q = MatMul(x, wq)\nn = MatMul(x, wk)\nk = Add(n, bk)\nv = MatMul(x, wv)\n{HEADS}"
        );
        let graph = check_pass(
            both,
            &text,
            "q+n+v = MatMul(x, q+n+v:weights, q+n+v:bias)\no = FusedAttention(q+n+v, q+n+v, q+n+v, _)",
        );
        let call = &graph.nodes[1].op_as::<FusedAttention>().unwrap().call;
        assert_eq!([call.query.offset, call.key.offset, call.value.offset], [0, 12, 24]);
        assert_eq!([call.query.row, call.key.row, call.value.row], [44; 3]);
        // Of different widths.
        assert_eq!(graph.nodes[0].op_as::<MatMul>().unwrap().products, 1);
    }

    #[test]
    fn projections_of_one_width_are_counted() {
        let text = format!("{ATTENTION}q = MatMul(x, wq)\nk = MatMul(x, wk)\nv = MatMul(x, wv)\n{HEADS}")
            .replace("wv 8,20", "wv 8,12")
            .replace("wide 2,-1,4,5", "wide 2,-1,4,3")
            .replace("merge 2,5,20", "merge 2,5,12");
        let expected = "q+k+v = MatMul(x, q+k+v:weights)\no = FusedAttention(q+k+v, q+k+v, q+k+v, _)";
        let graph = check_pass(both, &text, expected);
        assert_eq!(graph.nodes[0].op_as::<MatMul>().unwrap().products, 3);
    }

    #[test]
    fn keys_and_values_of_another_value_are_one_product() {
        let text = format!("{ATTENTION}q = MatMul(x, wq)\nk = MatMul(z, wk)\nv = MatMul(z, wv)\n{HEADS}");
        let expected = "q = MatMul(x, wq)\nk+v = MatMul(z, k+v:weights)\no = FusedAttention(q, k+v, k+v, _)";
        check_pass(both, &text, expected);
    }

    #[test]
    fn products_that_others_read_stay() {
        let text = format!(
            "{ATTENTION}q = MatMul(x, wq)\nk = MatMul(z, wk)\nv = MatMul(z, wv)\n{HEADS}r = Relu(k)\noutput r"
        );
        check_pass_does_nothing(fuse_projections, &text);
    }
}
