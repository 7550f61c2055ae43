//! Folds a batch normalisation into the convolution before it.
//!
//! Before: `t = Conv(x, w, b); y = BatchNormalization(t, scale, bias, mean, var)`. After: `y = Conv(x, w', b')` with
//! w' = w·f, b' = b·f + bias − mean·f, f = scale / √(var + ε), by output channel. Products of matrices likewise, by
//! column.
//!
//! Precondition: only the normalisation reads t; weights and statistics are constants; there is neither an activation
//! nor a residual yet. Rounds once more in the weights.

use crate::graph::Graph;
use crate::ops::matmul::MatMul;
use crate::ops::normalization::BatchNormalization;
use crate::passes::{Uses, affine, remove_nodes};

/// Folds batch normalisations into the convolutions before them.
pub fn fold_batch_norm(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut removed = Vec::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(norm) = node.op_as::<BatchNormalization>() else { continue };
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
        let Some(producer) = uses.writer(input).filter(|_| uses.sole_reader(input) == Some(index)) else {
            continue;
        };
        // A normalisation's channels are axis 1, a product's columns the last.
        if graph.nodes[producer].op_as::<MatMul>().is_some() && graph.ty(input).rank() != 2 {
            continue;
        }
        let Some((factors, shifts)) = graph.with_types(node, |types| norm.factor_and_shift(types)) else {
            continue;
        };
        if affine::apply(graph, producer, &factors, &shifts) {
            graph.nodes[producer].outputs[0] = Some(output);
            uses.set_writer(output, producer);
            removed.push(index);
        }
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    const CONSTANTS: &str = "input x 2,6,5,4
         random w 6,6,3,3
         random v 6,3,2,2
         random b 6
         positive scale 6
         random bias 6
         random mean 6
         positive var 6\n";

    #[test]
    fn normalisations_go_into_the_weights() {
        for (op, after) in [
            ("Conv(x, w, b)", "Conv(x, t:weights, t:bias)"),
            ("Conv(x, w) pads=[1,1,1,1]", "Conv(x, t:weights, t:bias)"),
            ("ConvTranspose(x, v, b) group=2", "ConvTranspose(x, t:weights, t:bias)"),
        ] {
            let text = format!(
                "{CONSTANTS}t = {op}
                 y = BatchNormalization(t, scale, bias, mean, var) epsilon=0.01
                 output y"
            );
            check_pass(fold_batch_norm, &text, &format!("y = {after}"));
        }
        check_pass(
            fold_batch_norm,
            &format!(
                "{CONSTANTS}input z 2,4
                 random m 6,4
                 t = Gemm(z, m, b) transB=1
                 y = BatchNormalization(t, scale, bias, mean, var)
                 output y"
            ),
            "y = Gemm(z, t:weights, t:bias)",
        );
    }

    #[test]
    fn normalisations_beside_other_readers_or_of_other_axes_stay() {
        check_pass_does_nothing(
            fold_batch_norm,
            &format!(
                "{CONSTANTS}t = Conv(x, w)
                 y = BatchNormalization(t, scale, bias, mean, var)
                 z = Relu(t)
                 output y
                 output z"
            ),
        );
        check_pass_does_nothing(
            fold_batch_norm,
            &format!(
                "{CONSTANTS}input z 2,6,4
                 random m 4,6
                 t = MatMul(z, m)
                 y = BatchNormalization(t, scale, bias, mean, var)
                 output y"
            ),
        );
    }
}
