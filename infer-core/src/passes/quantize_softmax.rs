//! Quantises probabilities in whole steps, as ONNX Runtime does.
//!
//! Before: `d = DequantizeLinear(x, …); p = Softmax(d); y = QuantizeLinear(p, s, z)`. After: the same with the scale 1/⌊1/s⌋.
//! ONNX Runtime computes these three nodes as one, QLinearSoftmax of com.microsoft, whose probability 1 is ⌊1/s⌋ steps:
//! 254 for the usual scale 1/255, whose inverse lies just below 255. What a quantised model was measured with is what it
//! computes here.
//!
//! Precondition: s is one constant; between the three stand views alone. Changes results by one step of the output at
//! most.

use crate::constant::Constant;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::quantize::{Dequantize, Quantize};
use crate::ops::softmax::Softmax;
use crate::passes::Uses;
use crate::passes::pattern::{Pattern, add_constant};
use crate::tensor_type::DataType;

/// Quantises probabilities in whole steps, as ONNX Runtime does.
pub fn quantize_softmax(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let pattern = Pattern { graph, uses: &uses };
        let Some(scale) = matched(pattern, &graph.nodes[index]) else { continue };
        let name = format!("{}:scale", graph.nodes[index].name);
        let scale = add_constant(graph, &name, Constant::scalar_f32(scale));
        graph.nodes[index].inputs[1] = Some(scale);
        changed = true;
    }
    changed
}

/// The scale of `node` in whole steps, where it quantises probabilities of quantised scores by another.
fn matched(pattern: Pattern<'_>, node: &Node) -> Option<f32> {
    node.op_as::<Quantize>()?;
    let scale = pattern.graph.constant(node.input(1))?;
    if scale.ty().dtype != DataType::F32 {
        return None;
    }
    let scale = whole_steps(scale.to_scalar_f32()?)?;
    let softmax = behind_views(pattern, node.input(0)?)?;
    softmax.op_as::<Softmax>().filter(|softmax| !softmax.log)?;
    behind_views(pattern, softmax.input(0)?)?.op_as::<Dequantize>()?;
    Some(scale)
}

/// The node that computes `id`, or the value that `id` is a view of.
fn behind_views<'g>(pattern: Pattern<'g>, mut id: ValueId) -> Option<&'g Node> {
    loop {
        let node = pattern.writer(id)?;
        if !node.op.is_view() {
            return Some(node);
        }
        id = node.input(0)?;
    }
}

/// The scale that has ⌊1/scale⌋ steps to 1; `None` where `scale` is it already.
fn whole_steps(scale: f32) -> Option<f32> {
    let steps = (1.0 / scale).floor();
    if !(1.0..=65_535.0).contains(&steps) || 1.0 / scale - steps < 1e-3 {
        return None;
    }
    // Rounded so that its own inverse is not below the steps.
    let whole = 1.0 / steps;
    Some(if 1.0 / whole < steps { whole.next_down() } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass_does_nothing, model};

    const SCORES: &str = "input q 2,3
         floats in [] 0.1
         floats levels [] 0.003921569
         floats exact [] 0.00390625
         a = QuantizeLinear(q, in)
         d = DequantizeLinear(a, in)\n";

    #[test]
    fn probabilities_have_whole_steps() {
        let text = format!("{SCORES}p = Softmax(d) axis=1\ny = QuantizeLinear(p, levels)\noutput y");
        let mut graph = model(&text);
        assert!(quantize_softmax(&mut graph));
        graph.verify().unwrap();
        let last = graph.nodes.last().unwrap();
        assert_eq!(graph.constant(last.input(1)).unwrap().to_scalar_f32(), whole_steps(0.003921569));
        assert_eq!(whole_steps(0.003921569).map(|scale| (1.0 / scale).floor()), Some(254.0));
        assert!(!quantize_softmax(&mut graph), "it does not come to rest");
    }

    #[test]
    fn other_values_and_scales_stay() {
        for body in [
            "p = Softmax(d) axis=1\ny = QuantizeLinear(p, exact)",
            "p = LogSoftmax(d) axis=1\ny = QuantizeLinear(p, levels)",
            "p = Softmax(q) axis=1\ny = QuantizeLinear(p, levels)",
            "p = Relu(d)\ny = QuantizeLinear(p, levels)",
        ] {
            check_pass_does_nothing(quantize_softmax, &format!("{SCORES}{body}\noutput y"));
        }
    }
}
