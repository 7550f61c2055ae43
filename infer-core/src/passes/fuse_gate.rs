//! Recognises x · g(x) as one activation.
//!
//! Before: `s = Sigmoid(x); y = Mul(x, s)`. After: `y = Swish(x)`. Likewise HardSigmoid with alpha 1/6 and beta 1/2
//! becomes HardSwish, and Tanh(Softplus(x)) becomes Mish.
//!
//! Precondition: only the product reads g(x). Exact but for the rounding of the activation's own code.

use crate::graph::{Graph, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::unary::{Unary, UnaryKind};
use crate::passes::Uses;
use crate::passes::pattern::replace;

/// Recognises x · g(x) as one activation.
pub fn fuse_gate(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if node.op_as::<Binary>().is_none_or(|binary| binary.kind != BinaryKind::Mul) {
            continue;
        }
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { continue };
        for (x, gate) in [(a, b), (b, a)] {
            if let Some(fused) = gated(graph, &uses, index, x, gate) {
                changed |= replace(graph, index, fused, vec![Some(x)]);
                break;
            }
        }
    }
    changed
}

/// The activation that x · gate is, if it is one.
fn gated(graph: &Graph, uses: &Uses, product: usize, x: ValueId, gate: ValueId) -> Option<Unary> {
    let writer = uses.writer(gate).filter(|_| uses.sole_reader(gate) == Some(product))?;
    let (node, unary) = (&graph.nodes[writer], graph.nodes[writer].op_as::<Unary>()?);
    let input = node.input(0)?;
    match unary.kind {
        UnaryKind::Sigmoid if input == x => Some(Unary::SILU),
        UnaryKind::HardSigmoid
            if input == x && (unary.alpha - 1.0 / 6.0).abs() < 1e-6 && unary.beta == 0.5 =>
        {
            Some(Unary::plain(UnaryKind::HardSwish))
        }
        UnaryKind::Tanh => {
            let softplus = uses.writer(input).filter(|_| uses.sole_reader(input) == Some(writer))?;
            let inner = &graph.nodes[softplus];
            let matches = inner.op_as::<Unary>().is_some_and(|u| u.kind == UnaryKind::Softplus);
            (matches && inner.input(0) == Some(x)).then(|| Unary::plain(UnaryKind::Mish))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn gates_in_both_orders_are_activations() {
        for (gate, fused) in [
            ("g = Sigmoid(x)", "Swish"),
            ("g = HardSigmoid(x) alpha=0.16666667 beta=0.5", "HardSwish"),
            ("s = Softplus(x)\ng = Tanh(s)", "Mish"),
        ] {
            for product in ["Mul(x, g)", "Mul(g, x)"] {
                let text = format!("input x 2,3\n{gate}\ny = {product}\noutput y");
                check_pass(fuse_gate, &text, &format!("y = {fused}(x)"));
            }
        }
    }

    #[test]
    fn other_gates_stay() {
        for (gate, product, also) in [
            ("Sigmoid(z)", "Mul(x, g)", ""),
            ("HardSigmoid(x) alpha=0.2 beta=0.5", "Mul(x, g)", ""),
            ("Sigmoid(x)", "Mul(x, g)", "output g"),
            ("Sigmoid(x)", "Mul(g, g)", ""),
            ("Sigmoid(x)", "Add(x, g)", ""),
        ] {
            let text = format!("input x 2,3\ninput z 2,3\ng = {gate}\ny = {product}\noutput y\n{also}");
            check_pass_does_nothing(fuse_gate, &text);
        }
    }
}
