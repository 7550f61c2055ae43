//! Makes weights that are no normal numbers zero: processors take a hundred times as long to multiply by them.
//!
//! Before: `y = Conv(x, w, b)`, `y = MatMul(x, w)` and the like, with elements below 1.2e-38 in w or b, as training leaves them
//! where weights decay. After: the same with zeros there.
//!
//! Precondition: w is a constant of f32.

use std::collections::HashMap;

use crate::constant::Constant;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::conv::{Conv, ConvTranspose};
use crate::ops::deform_conv::DeformConv;
use crate::ops::matmul::MatMul;
use crate::ops::recurrent::Recurrent;
use crate::tensor_type::DataType;

/// Makes weights that are no normal numbers zero.
pub fn flush_weights(graph: &mut Graph) -> bool {
    let mut flushed: HashMap<ValueId, Option<ValueId>> = HashMap::new();
    for index in 0..graph.nodes.len() {
        if !multiplies(&graph.nodes[index]) {
            continue;
        }
        for slot in 0..graph.nodes[index].inputs.len() {
            let Some(id) = graph.nodes[index].inputs[slot] else { continue };
            let to = *flushed.entry(id).or_insert_with(|| {
                let constant = graph.constant(Some(id)).and_then(without_subnormals)?;
                let name = format!("{}:flushed", graph.value(id).name);
                Some(graph.add_constant(name, constant))
            });
            if to.is_some() {
                graph.nodes[index].inputs[slot] = to;
            }
        }
    }
    flushed.values().any(Option::is_some)
}

fn multiplies(node: &Node) -> bool {
    node.op_as::<Conv>().is_some()
        || node.op_as::<ConvTranspose>().is_some()
        || node.op_as::<DeformConv>().is_some()
        || node.op_as::<MatMul>().is_some()
        || node.op_as::<Recurrent>().is_some()
}

/// The constant with zeros in place of subnormal numbers, where there are any.
fn without_subnormals(constant: &Constant) -> Option<Constant> {
    if constant.ty().dtype != DataType::F32 {
        return None;
    }
    let mut values = constant.values::<f32>();
    if !values.iter().any(|value| value.is_subnormal()) {
        return None;
    }
    for value in values.to_mut().iter_mut().filter(|value| value.is_subnormal()) {
        *value = 0.0;
    }
    Some(Constant::of(constant.ty().clone(), &values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn subnormal_weights_are_zero_and_others_stay() {
        let graph = check_pass(
            flush_weights,
            "input x 1,1,3,3
             floats w 1,1,2,2 1e-40,0.5,-1e-39,2e-38
             floats b [1] 1e-45
             y = Conv(x, w, b)
             z = Conv(y, w)
             output z",
            "y = Conv(x, w:flushed, b:flushed)\nz = Conv(y, w:flushed)",
        );
        let weights = graph.constant(graph.nodes[0].input(1)).unwrap();
        assert_eq!(weights.values::<f32>()[..], [0.0, 0.5, 0.0, 2e-38]);
    }

    #[test]
    fn products_and_recurrent_weights_are_flushed_too() {
        let zeros = ["1e-40"; 12].join(",");
        for (inputs, shape, op, expected) in [
            ("input x 2,3", "3,4", "MatMul(x, w)", "MatMul(x, w:flushed)"),
            ("input x 2,3", "4,3", "Gemm(x, w) transB=1", "Gemm(x, w:flushed)"),
            ("input x 2,1,3\nrandom r 1,4,4", "1,4,3", "RNN(x, w, r) hidden_size=4", "RNN(x, w:flushed, r)"),
        ] {
            let text = format!("{inputs}\nfloats w {shape} {zeros}\ny = {op}\noutput y");
            check_pass(flush_weights, &text, &format!("y = {expected}"));
        }
    }

    #[test]
    fn what_is_no_weight_stays() {
        for text in [
            "input x 2,3\nfloats w [3] 1e-40,1.0,2.0\ny = Mul(x, w)\noutput y",
            "input x 2,3\nrandom w 3,4\ny = MatMul(x, w)\noutput y",
        ] {
            check_pass_does_nothing(flush_weights, text);
        }
    }
}
