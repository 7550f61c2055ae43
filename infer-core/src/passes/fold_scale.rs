//! Folds a factor into the convolution or product before it.
//!
//! Before: `t = Conv(x, w, b); y = Mul(t, f)`. After: `y = Conv(x, w·f, b·f)`. Likewise for divisors, transposed
//! convolutions, and products of matrices; there a factor of one element becomes the product's own, alpha.
//!
//! Precondition: only the multiplication reads t; f is a finite constant of one element or one for each channel (for
//! each column of a product); weights and bias are constants, and there is neither an activation nor a residual yet.
//! Rounds once more in the weights.

use crate::graph::{Graph, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::passes::{Uses, affine, remove_nodes};

/// Folds factors into the convolutions and products before them.
pub fn fold_scale(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut removed = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(kind) = node.op_as::<Binary>().map(|binary| binary.kind) else { continue };
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            continue;
        };
        let orders: &[(ValueId, ValueId)] = match kind {
            BinaryKind::Mul => &[(a, b), (b, a)],
            BinaryKind::Div => &[(a, b)],
            _ => continue,
        };
        for &(value, factor) in orders {
            let Some(producer) = uses.writer(value).filter(|_| uses.sole_reader(value) == Some(index)) else {
                continue;
            };
            if graph.ty(value) != graph.ty(output) {
                continue;
            }
            let Some(mut factors) = affine::by_channel(graph, &graph.nodes[producer], factor) else {
                continue;
            };
            if kind == BinaryKind::Div {
                factors.iter_mut().for_each(|factor| *factor = factor.recip());
            }
            if affine::apply(graph, producer, &factors, &[]) {
                graph.nodes[producer].outputs[0] = Some(output);
                uses.set_writer(output, producer);
                removed.push(index);
                break;
            }
        }
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn factors_by_channel_and_of_one_element_go_into_the_weights() {
        for op in [
            "Conv(x, w, b) pads=[1,1,1,1]",
            "Conv(x, g, b) group=2",
            "Conv(x, d, b) group=6",
            "ConvTranspose(x, w, b) strides=[2,2]",
            "ConvTranspose(x, v, b) group=2 strides=[2,2]",
            "Conv(x, w)",
        ] {
            for scale in ["Mul(t, f)", "Mul(f, t)", "Div(t, f)", "Mul(t, s)", "Div(t, s)"] {
                let text = format!(
                    "input x 2,6,5,4
                     random w 6,6,3,3
                     random g 6,3,3,3
                     random d 6,1,3,3
                     random v 6,3,2,2
                     random b 6
                     positive f 6,1,1
                     floats s [] 0.5
                     t = {op}
                     y = {scale}
                     output y"
                );
                let graph = check_pass(fold_scale, &text, &expected(op));
                assert_eq!(graph.nodes.len(), 1);
            }
        }
    }

    /// `op` with its weights and bias replaced.
    fn expected(op: &str) -> String {
        let (call, _) = op.split_once(')').unwrap();
        let (name, inputs) = call.split_once('(').unwrap();
        let named = if inputs.contains(", b") { ", t:weights, t:bias" } else { ", t:weights" };
        format!("y = {name}(x{named})")
    }

    #[test]
    fn products_take_factors_by_column_or_in_alpha() {
        let header = "input x 2,4
             input r 4,3
             random w 4,3
             random u 3,4
             random b 3
             random full 2,3
             positive f 3
             floats s 1,1 0.25\n";
        for (op, after) in [
            ("MatMul(x, w)", "MatMul(x, t:weights)"),
            ("Gemm(x, u, b) transB=1 alpha=2.0 beta=0.5", "Gemm(x, t:weights, t:bias)"),
            ("Gemm(x, w, full)", "Gemm(x, t:weights, t:bias)"),
        ] {
            for scale in ["Mul(t, f)", "Div(t, f)"] {
                let text = format!("{header}t = {op}\ny = {scale}\noutput y");
                check_pass(fold_scale, &text, &format!("y = {after}"));
            }
        }
        for (op, after) in [
            ("MatMul(x, r)", "MatMul(x, r)"),
            ("Gemm(x, w, full) alpha=0.5", "Gemm(x, w, t:bias)"),
            ("Gemm(x, r)", "Gemm(x, r)"),
        ] {
            let text = format!("{header}t = {op}\ny = Mul(s, t)\noutput y");
            check_pass(fold_scale, &text, &format!("y = {after}"));
        }
    }

    #[test]
    fn what_is_no_factor_of_one_channel_stays() {
        for (scale, also) in [
            ("Mul(t, row)", ""),
            ("Mul(t, t)", ""),
            ("Div(f, t)", ""),
            ("Mul(t, z)", ""),
            ("Mul(t, f)", "output t"),
            ("Div(t, zero)", ""),
            ("Mul(t, five)", ""),
        ] {
            let text = format!(
                "input x 1,3,5,4
                 input z 1,6,1,1
                 random w 6,3,3,3
                 positive f 6,1,1
                 random row 2
                 random five 1,1,1,1,1
                 floats zero [] 0.0
                 t = Conv(x, w)
                 y = {scale}
                 output y
                 {also}"
            );
            check_pass_does_nothing(fold_scale, &text);
        }
        for (op, scale) in
            [("MatMul(x, r)", "Mul(t, f)"), ("MatMul(x, v)", "Mul(t, f)"), ("Gemm(x, w, z)", "Mul(t, f)")]
        {
            let text = format!(
                "input x 3,4
                 input r 4,3
                 input z 3
                 random w 4,3
                 random v 4
                 positive f 3
                 t = {op}
                 y = {scale}
                 output y"
            );
            check_pass_does_nothing(fold_scale, &text);
        }
    }
}
