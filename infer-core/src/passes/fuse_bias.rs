//! Moves the addition or subtraction of a constant into the convolution or product before it.
//!
//! Before: `t = MatMul(x, w); y = Add(t, b)`. After: `y = MatMul(x, w, b)`. A bias that is there already takes the
//! constant in; for `y = Sub(b, t)` the weights change their sign.
//!
//! Precondition: only the addition reads t; b is a finite constant of one element or one for each channel (for each
//! column of a product); the bias is constant, and there is neither an activation nor a residual yet. Reassociates.

use crate::graph::Graph;
use crate::ops::binary::{Binary, BinaryKind};
use crate::passes::{Uses, affine, remove_nodes};

/// Moves constant additions into the products and convolutions before them.
pub fn fuse_bias(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut removed = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(kind) = node.op_as::<Binary>().map(|binary| binary.kind) else { continue };
        if !matches!(kind, BinaryKind::Add | BinaryKind::Sub) {
            continue;
        }
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            continue;
        };
        for (sum, bias) in [(a, b), (b, a)] {
            let Some(producer) = uses.writer(sum).filter(|_| uses.sole_reader(sum) == Some(index)) else {
                continue;
            };
            if graph.ty(sum) != graph.ty(output) {
                continue;
            }
            let Some(shifts) = affine::by_channel(graph, &graph.nodes[producer], bias) else { continue };
            if add(graph, producer, kind, sum == a, shifts) {
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

/// Moves `shifts` into the node at `producer`, whose result is the first operand of `kind` or the second.
fn add(graph: &mut Graph, producer: usize, kind: BinaryKind, first: bool, mut shifts: Vec<f32>) -> bool {
    let mut factors: &[f32] = &[];
    if kind == BinaryKind::Sub {
        match first {
            true => shifts.iter_mut().for_each(|shift| *shift = -*shift),
            false => factors = &[-1.0],
        }
    }
    affine::apply(graph, producer, factors, &shifts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn constants_by_channel_become_the_bias() {
        for (op, after) in [
            ("Conv(x, w)", "Conv(x, w, t:bias)"),
            ("Conv(x, w, b)", "Conv(x, w, t:bias)"),
            ("Conv(x, z)", "Conv(x, z, t:bias)"),
            ("ConvTranspose(x, v, b)", "ConvTranspose(x, v, t:bias)"),
        ] {
            for sum in ["Add(t, c)", "Add(c, t)", "Sub(t, c)", "Add(t, s)"] {
                let text = format!(
                    "input x 1,3,5,4
                     input z 6,3,3,3
                     random w 6,3,3,3
                     random v 3,6,2,2
                     random b 6
                     random c 1,6,1,1
                     floats s [] 0.5
                     t = {op}
                     y = {sum}
                     output y"
                );
                check_pass(fuse_bias, &text, &format!("y = {after}"));
            }
        }
        check_pass(
            fuse_bias,
            "input x 1,3,5
             random w 6,3,3
             random b 6
             random c 6,1
             t = Conv(x, w, b)
             y = Sub(c, t)
             output y",
            "y = Conv(x, t:weights, t:bias)",
        );
    }

    #[test]
    fn rows_become_a_product_s_addend() {
        let header = "input x 2,5,4
             input m 5,4
             random w 4,3
             random b 3
             random c 1,3
             random full 5,3
             floats s [] 0.5\n";
        for (op, after) in [
            ("MatMul(x, w)", "MatMul(x, w, t:bias)"),
            ("Gemm(m, w) beta=0.5", "Gemm(m, w, t:bias)"),
            ("Gemm(m, w, b) alpha=0.5", "Gemm(m, w, t:bias)"),
            ("Gemm(m, w, full)", "Gemm(m, w, t:bias)"),
        ] {
            for sum in ["Add(t, b)", "Add(c, t)", "Sub(t, s)", "Sub(s, t)"] {
                check_pass(
                    fuse_bias,
                    &format!("{header}t = {op}\ny = {sum}\noutput y"),
                    &format!("y = {after}"),
                );
            }
        }
    }

    #[test]
    fn what_is_no_row_stays() {
        for (op, sum) in [
            ("MatMul(x, w)", "Add(t, column)"),
            ("MatMul(x, w)", "Add(t, z)"),
            ("MatMul(x, v)", "Add(t, r)"),
            ("MatMul(x, w)", "Add(t, wide)"),
            ("Gemm(x, w, b) beta=0.5", "Add(t, b)"),
            ("Gemm(x, w, column)", "Add(t, b)"),
        ] {
            let text = format!(
                "input x 5,4
                 input z 3
                 random w 4,3
                 random v 4
                 random b 3
                 random r 5
                 random wide 1,1,3
                 random column 5,1
                 t = {op}
                 y = {sum}
                 output y"
            );
            check_pass_does_nothing(fuse_bias, &text);
        }
    }
}
