//! Moves a view behind a product in front of it.
//!
//! Before: `t = Gemm(x, w, b); y = Reshape(t) {1, 64, 768}`. After: `r = Reshape(x) {1, 64, K}; y = MatMul(r, w, b)`. Exporters
//! flatten what they multiply and undo it afterwards: the two views then meet and are one, or none, and what follows
//! the product can be fused into it.
//!
//! Precondition: only the view reads t, and it keeps the last axis; w is a matrix, b a row or not there. Bit-exact.

use std::sync::Arc;

use infer_kernels::call::residual;

use crate::constant::Constant;
use crate::graph::{Graph, Node};
use crate::ops::matmul::MatMul;
use crate::ops::reshape::Reshape;
use crate::passes::Uses;
use crate::passes::pattern::{add_constant, unused_name};
use crate::tensor_type::TensorType;

/// Moves views behind products in front of them.
pub fn move_reshape(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let (Some(x), Some(weights), Some(t)) = (node.input(0), node.input(1), node.output(0)) else {
            continue;
        };
        let Some(op) = node.op_as::<MatMul>().filter(|op| !op.trans_a && op.residual_mode == residual::NONE)
        else {
            continue;
        };
        let Some(view) = uses.sole_reader(t) else { continue };
        let reader = &graph.nodes[view];
        let Some(y) = reader.output(0).filter(|_| reader.op.is_view() && reader.outputs.len() == 1) else {
            continue;
        };
        let shape = &graph.ty(y).shape;
        let ([.., before], [lead @ .., after]) = (graph.ty(t).shape.as_slice(), shape.as_slice()) else {
            continue;
        };
        let row = node.input(2).is_none_or(|b| graph.ty(b).elements() == *after);
        if before != after || lead.is_empty() || graph.ty(weights).rank() != 2 || !row {
            continue;
        }
        let Some(&k) = graph.ty(x).shape.last() else { continue };
        let op = MatMul { gemm: false, ..op.clone() };
        let (mut inputs, name) = (node.inputs.clone(), node.name.clone());
        let wanted: Vec<usize> = lead.iter().copied().chain([k]).collect();
        if graph.ty(x).elements() != wanted.iter().product::<usize>() {
            continue;
        }
        let ty = TensorType::new(graph.ty(x).dtype, wanted.clone());
        let extents: Vec<i64> = wanted.iter().map(|&extent| extent as i64).collect();
        let unused = unused_name(graph, &format!("{name}:input"));
        let moved = graph.add_value(unused.clone(), Some(ty));
        let extents = add_constant(graph, &format!("{unused}:shape"), Constant::of_i64(&extents));
        inputs[0] = Some(moved);
        // A row of one dimension broadcasts to any number of them.
        if let Some(row) = inputs.get(2).copied().flatten().filter(|&row| graph.ty(row).rank() > 1) {
            let Some(flat) = graph.constant(Some(row)).and_then(|row| row.reshaped(&[row.ty().elements()]))
            else {
                continue;
            };
            inputs[2] = Some(add_constant(graph, &format!("{name}:bias"), flat));
        }
        graph.nodes[index] = Node {
            name: unused,
            op: Arc::new(Reshape { allow_zero: true }),
            inputs: vec![Some(x), Some(extents)],
            outputs: vec![Some(moved)],
        };
        graph.nodes[view] = Node { name, op: Arc::new(op), inputs, outputs: vec![Some(y)] };
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    const INPUTS: &str = "input x 6,4
         random w 4,5
         random u 5,4
         random b 5
         random column 6,1
         ints three 2,3,5
         ints flat 30\n";

    #[test]
    fn a_view_that_keeps_rows_goes_before_the_product() {
        for product in ["Gemm(x, w, b)", "Gemm(x, u, b) transB=1", "Gemm(x, w)", "MatMul(x, w)"] {
            let inputs = if product.contains('b') { ", b" } else { "" };
            let weights = if product.contains("u,") { "u" } else { "w" };
            check_pass(
                move_reshape,
                &format!("{INPUTS}t = {product}\ny = Reshape(t, three)\noutput y"),
                &format!("t:input = Reshape(x, t:input:shape)\ny = MatMul(t:input, {weights}{inputs})"),
            );
        }
    }

    #[test]
    fn other_views_and_other_addends_stay() {
        for (product, view) in [
            ("Gemm(x, w, b)", "Reshape(t, flat)"),
            ("Gemm(x, w, column)", "Reshape(t, three)"),
            ("Gemm(x, w, b)", "Transpose(t)"),
        ] {
            let text = format!("{INPUTS}t = {product}\ny = {view}\noutput y");
            check_pass_does_nothing(move_reshape, &text);
        }
    }
}
