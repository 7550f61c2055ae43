//! Recognises HardSigmoid and HardSwish spelled by clipping.
//!
//! Before: `a = Add(x, 3); c = Clip(a, 0, 6); m = Mul(x, c); y = Div(m, 6)`, the factors in any order. After:
//! `y = HardSwish(x)`. Without the factor x, and for Clip(alpha·x + beta, 0, 1): HardSigmoid, of which `fuse_gate` makes
//! HardSwish.
//!
//! Precondition: the constants are the functions' to 10⁻⁴; products are read by the pattern alone. Exact but for the
//! rounding of the function's own code.

use infer_kernels::call::Activation;

use crate::graph::{Graph, Node, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::clip::Clip;
use crate::ops::unary::{Unary, UnaryKind};
use crate::passes::Uses;
use crate::passes::pattern::{Pattern, is_about, replace};

/// Recognises HardSigmoid and HardSwish spelled by clipping.
pub fn fuse_hard_swish(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(output) = node.output(0) else { continue };
        let pattern = Pattern { graph, uses: &uses };
        let found = match node.op_as::<Binary>() {
            Some(binary) if matches!(binary.kind, BinaryKind::Mul | BinaryKind::Div) => {
                matched(pattern, output)
            }
            _ => unit_clip(pattern, node),
        };
        if let Some((x, unary)) = found {
            changed |= replace(graph, index, unary, vec![Some(x)]);
        }
    }
    changed
}

/// x and the function of it that the product `y` is.
fn matched(pattern: Pattern<'_>, y: ValueId) -> Option<(ValueId, Unary)> {
    let product = pattern.product(y)?;
    if !is_about(product.coefficient, 1.0 / 6.0) {
        return None;
    }
    match product.factors[..] {
        [gate] => {
            let hard_sigmoid = Unary { kind: UnaryKind::HardSigmoid, alpha: 1.0 / 6.0, beta: 0.5 };
            Some((relu6_of_sum(pattern, gate)?, hard_sigmoid))
        }
        [a, b] => [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
            (relu6_of_sum(pattern, gate)? == x).then_some((x, Unary::plain(UnaryKind::HardSwish)))
        }),
        _ => None,
    }
}

/// x where `gate` is min(max(x + 3, 0), 6).
fn relu6_of_sum(pattern: Pattern<'_>, gate: ValueId) -> Option<ValueId> {
    let node = pattern.writer(gate)?;
    let (x, three) = pattern.plus_scalar(node.input(0)?)?;
    (bounds(pattern.graph, node)? == [0.0, 6.0] && three == 3.0).then_some(x)
}

/// x and the HardSigmoid of it that `node`, a Clip to [0, 1], computes.
fn unit_clip(pattern: Pattern<'_>, node: &Node) -> Option<(ValueId, Unary)> {
    let (term, beta) = pattern.plus_scalar(node.input(0)?)?;
    let product = pattern.product(term)?;
    let [x] = product.factors[..] else { return None };
    let hard_sigmoid = Unary { kind: UnaryKind::HardSigmoid, alpha: product.coefficient, beta };
    (bounds(pattern.graph, node)? == [0.0, 1.0]).then_some((x, hard_sigmoid))
}

/// The bounds of a Clip that are known.
fn bounds(graph: &Graph, node: &Node) -> Option<[f32; 2]> {
    let clip = node.op_as::<Clip>()?;
    let Activation { alpha, beta, .. } = graph.with_types(node, |types| clip.activation(types))?;
    Some([alpha, beta])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    const CONSTANTS: &str = "input x 1,3,4,5
         floats zero [] 0.0
         floats half [] 0.5
         floats one [] 1.0
         floats three [] 3.0
         floats six [] 6.0
         floats sixth 1 0.16666667
         floats eight [] 8.0
         big = Mul(x, eight)\n";

    #[test]
    fn clips_in_every_order_are_the_hard_swish() {
        for body in [
            "m = Mul(big, c)
             y = Div(m, six)",
            "m = Mul(c, big)
             y = Mul(sixth, m)",
            "m = Mul(big, sixth)
             y = Mul(m, c)",
        ] {
            let text = format!("{CONSTANTS}a = Add(three, big)\nc = Clip(a, zero, six)\n{body}\noutput y");
            check_pass(fuse_hard_swish, &text, "big = Mul(x, eight)\ny = HardSwish(big)");
        }
    }

    #[test]
    fn clips_alone_are_the_hard_sigmoid() {
        let text = format!(
            "{CONSTANTS}a = Add(big, three)
             c = Clip(a, zero, six)
             d = Div(c, six)
             y = Mul(d, big)
             output y"
        );
        check_pass(fuse_hard_swish, &text, "big = Mul(x, eight)\nd = HardSigmoid(big)\ny = Mul(d, big)");
        let text = format!(
            "{CONSTANTS}t = Mul(big, sixth)
             a = Add(t, half)
             y = Clip(a, zero, one)
             z = Neg(big)
             output y
             output z"
        );
        check_pass(fuse_hard_swish, &text, "big = Mul(x, eight)\ny = HardSigmoid(big)\nz = Neg(big)");
    }

    #[test]
    fn other_constants_are_left_alone() {
        for (sum, clip) in
            [("Add(big, one)", "Clip(a, zero, six)"), ("Add(big, three)", "Clip(a, zero, three)")]
        {
            let text = format!(
                "{CONSTANTS}a = {sum}
                 c = {clip}
                 m = Mul(big, c)
                 y = Div(m, six)
                 output y"
            );
            check_pass_does_nothing(fuse_hard_swish, &text);
        }
    }
}
