//! Recognises the layer normalisation spelled out.
//!
//! Before: `m = ReduceMean(x); d = Sub(x, m); q = Pow(d, 2); v = ReduceMean(q); a = Add(v, ε); s = Sqrt(a); n = Div(d, s);
//! g = Mul(n, scale); y = Add(g, bias)`, the means over the last axis. After: `y = LayerNormalization(x, scale, bias)`.
//! Scale and bias may be absent; the square may be d·d, the division a product with Reciprocal(s) or a power of −1/2. Where d
//! is any x itself, and a scale follows: `y = RMSNormalization(x, scale)`.
//!
//! Precondition: scale and bias are constants with one element for each of the last axis; n and g are read by the
//! pattern alone. Reassociates.

use crate::graph::{Graph, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::normalization::LayerNormalization;
use crate::ops::normalization_expanded::RmsNormalization;
use crate::ops::reduce::{Reduce, ReduceKind};
use crate::ops::unary::UnaryKind;
use crate::passes::Uses;
use crate::passes::pattern::{Pattern, replace};

/// Recognises the layer normalisation spelled out.
pub fn fuse_layer_norm(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let quotient = |binary: &Binary| matches!(binary.kind, BinaryKind::Div | BinaryKind::Mul);
        let Some(output) = node.output(0).filter(|_| node.op_as().is_some_and(quotient)) else { continue };
        let pattern = Pattern { graph, uses: &uses };
        let Some(Normalized { x, epsilon, keeps_mean }) = normalized(pattern, output) else { continue };
        if keeps_mean {
            if let Some((last, scale)) = followed_by(pattern, output, BinaryKind::Mul) {
                let op = RmsNormalization { simplified: false, axis: -1, epsilon };
                changed |= replace(graph, last, op, vec![Some(x), Some(scale)]);
            }
            continue;
        }
        let (mut last, mut scale, mut bias) = (index, None, None);
        if let Some((next, constant)) = followed_by(pattern, output, BinaryKind::Mul) {
            (last, scale) = (next, Some(constant));
        }
        let scaled = graph.nodes[last].output(0);
        if let Some((next, constant)) = scaled.and_then(|id| followed_by(pattern, id, BinaryKind::Add)) {
            (last, bias) = (next, Some(constant));
        }
        changed |= replace(graph, last, LayerNormalization { axis: -1, epsilon }, vec![Some(x), scale, bias]);
    }
    changed
}

/// What is normalised along the last axis.
struct Normalized {
    x: ValueId,
    epsilon: f32,
    /// Whether x is divided by the root of its mean square, and not of its variance.
    keeps_mean: bool,
}

/// What `y` is the normalised form of.
fn normalized(pattern: Pattern<'_>, y: ValueId) -> Option<Normalized> {
    let (d, sum) = if let Some([d, root]) = pattern.binary(y, BinaryKind::Div) {
        (d, root_of(pattern, root)?)
    } else {
        let [a, b] = pattern.binary(y, BinaryKind::Mul)?;
        [(a, b), (b, a)].into_iter().find_map(|(d, inverse)| {
            let sum = match pattern.unary(inverse, UnaryKind::Reciprocal) {
                Some(root) => root_of(pattern, root)?,
                None => power_of(pattern, inverse, -0.5)?,
            };
            Some((d, sum))
        })?
    };
    let (variance, epsilon) = pattern.plus_scalar(sum)?;
    let square = last_mean(pattern, variance)?;
    let squared = match pattern.binary(square, BinaryKind::Mul) {
        Some([a, b]) if a == b => a,
        _ => power_of(pattern, square, 2.0)?,
    };
    if squared != d {
        return None;
    }
    Some(match pattern.binary(d, BinaryKind::Sub) {
        Some([x, mean]) if last_mean(pattern, mean) == Some(x) => {
            Normalized { x, epsilon, keeps_mean: false }
        }
        _ => Normalized { x: d, epsilon, keeps_mean: true },
    })
}

/// The value whose square root `id` is.
fn root_of(pattern: Pattern<'_>, id: ValueId) -> Option<ValueId> {
    pattern.unary(id, UnaryKind::Sqrt).or_else(|| power_of(pattern, id, 0.5))
}

/// The value that `id` is the power `exponent` of.
fn power_of(pattern: Pattern<'_>, id: ValueId, exponent: f32) -> Option<ValueId> {
    let [base, power] = pattern.binary(id, BinaryKind::Pow)?;
    (pattern.scalar(power)? == exponent).then_some(base)
}

/// The value whose mean along the last axis `id` is.
fn last_mean(pattern: Pattern<'_>, id: ValueId) -> Option<ValueId> {
    let node = pattern.writer(id)?;
    let reduce =
        node.op_as::<Reduce>().filter(|reduce| reduce.kind == ReduceKind::Mean && reduce.keepdims)?;
    let reduced = pattern.graph.with_types(node, |types| reduce.reduced(types)).ok()?;
    let (last, others) = reduced.split_last()?;
    node.input(0).filter(|_| *last && !others.contains(&true))
}

/// The only reader of `id`, where that is the operation `kind` with a constant of one element for each of the last
/// axis; and that constant.
fn followed_by(pattern: Pattern<'_>, id: ValueId, kind: BinaryKind) -> Option<(usize, ValueId)> {
    let reader = pattern.uses.sole_reader(id)?;
    let output = pattern.graph.nodes[reader].output(0)?;
    let [a, b] = pattern.binary(output, kind)?;
    let constant = if a == id { b } else { a };
    let (ty, whole) = (pattern.graph.constant(Some(constant))?.ty(), pattern.graph.ty(id));
    let fits = ty.shape.last() == whole.shape.last() && whole.shape.last() == Some(&ty.elements());
    (fits && whole == pattern.graph.ty(output)).then_some((reader, constant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    const CONSTANTS: &str = "opset 13
         input x 2,5,6
         positive scale 6
         random bias 1,6
         floats eps [] 0.00001
         floats two [] 2.0
         floats half [] 0.5
         floats inverse [] -0.5
         m = ReduceMean(x) axes=[-1]
         d = Sub(x, m)\n";

    #[test]
    fn every_spelling_is_a_layer_normalisation() {
        for square in ["q = Pow(d, two)", "q = Mul(d, d)"] {
            for divide in [
                "s = Sqrt(a)\nn = Div(d, s)",
                "s = Sqrt(a)\nr = Reciprocal(s)\nn = Mul(r, d)",
                "s = Pow(a, half)\nn = Div(d, s)",
                "s = Pow(a, inverse)\nn = Mul(d, s)",
            ] {
                let body =
                    format!("{CONSTANTS}{square}\nv = ReduceMean(q) axes=[2]\na = Add(v, eps)\n{divide}\n");
                let both = format!("{body}g = Mul(scale, n)\ny = Add(g, bias)\noutput y");
                check_pass(fuse_layer_norm, &both, "y = LayerNormalization(x, scale, bias)");
                let scaled = format!("{body}y = Mul(n, scale)\noutput y");
                check_pass(fuse_layer_norm, &scaled, "y = LayerNormalization(x, scale, _)");
                let shifted = format!("{body}y = Add(bias, n)\noutput y");
                check_pass(fuse_layer_norm, &shifted, "y = LayerNormalization(x, _, bias)");
                check_pass(fuse_layer_norm, &format!("{body}output n"), "n = LayerNormalization(x, _, _)");
            }
        }
    }

    #[test]
    fn the_root_of_the_mean_square_is_one_node() {
        for divide in ["s = Sqrt(a)\nn = Div(x, s)", "s = Sqrt(a)\nr = Reciprocal(s)\nn = Mul(r, x)"] {
            let text = format!(
                "{CONSTANTS}q = Pow(x, two)\nv = ReduceMean(q) axes=[-1]\na = Add(v, eps)\n{divide}\n
                 y = Mul(scale, n)\noutput y"
            );
            check_pass(fuse_layer_norm, &text, "y = RMSNormalization(x, scale)");
        }
    }

    #[test]
    fn a_scale_beside_other_readers_stays() {
        let text = format!(
            "{CONSTANTS}q = Mul(d, d)
             v = ReduceMean(q) axes=[-1]
             a = Add(eps, v)
             s = Sqrt(a)
             n = Div(d, s)
             y = Mul(n, scale)
             output y
             output n"
        );
        check_pass(fuse_layer_norm, &text, "n = LayerNormalization(x, _, _)\ny = Mul(n, scale)");
    }

    #[test]
    fn other_axes_and_other_values_are_left_alone() {
        for (q, v) in [("Mul(x, x)", "ReduceMean(q) axes=[-1]"), ("Mul(d, d)", "ReduceMean(q) axes=[1]")] {
            let text = format!(
                "{CONSTANTS}q = {q}
                 v = {v}
                 a = Add(v, eps)
                 s = Sqrt(a)
                 y = Div(d, s)
                 output y"
            );
            check_pass_does_nothing(fuse_layer_norm, &text);
        }
    }
}
