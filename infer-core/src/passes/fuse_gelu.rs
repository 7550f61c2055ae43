//! Recognises the GELU spelled out.
//!
//! Before: `s = Div(x, √2); e = Erf(s); p = Add(e, 1); m = Mul(x, p); y = Mul(m, 0.5)`, the factors in any order.
//! After: `y = Gelu(x)`. Likewise x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))), and its spelling
//! √(2/π)·x·(1 + 0.044715·x²), become the GELU by tanh.
//!
//! Precondition: the constants are the function's to 10⁻⁴; products are read by the pattern alone. Exact but for the
//! rounding of the function's own code.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use crate::graph::{Graph, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::unary::{Unary, UnaryKind};
use crate::passes::Uses;
use crate::passes::pattern::{Pattern, is_about, replace};

/// The coefficient of the cubic term of the GELU by tanh.
const CUBIC: f32 = 0.044_715;

/// Recognises the GELU spelled out.
pub fn fuse_gelu(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let products = |binary: &Binary| matches!(binary.kind, BinaryKind::Mul | BinaryKind::Div);
        let Some(output) = node.output(0).filter(|_| node.op_as().is_some_and(products)) else { continue };
        if let Some((x, kind)) = matched(Pattern { graph, uses: &uses }, output) {
            changed |= replace(graph, index, Unary::plain(kind), vec![Some(x)]);
        }
    }
    changed
}

/// x and the function of it that `y` is.
fn matched(pattern: Pattern<'_>, y: ValueId) -> Option<(ValueId, UnaryKind)> {
    let product = pattern.product(y)?;
    let [a, b] = product.factors[..] else { return None };
    if !is_about(product.coefficient, 0.5) {
        return None;
    }
    [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
        let (inner, one) = pattern.plus_scalar(gate)?;
        if one != 1.0 {
            return None;
        }
        if let Some(argument) = pattern.unary(inner, UnaryKind::Erf) {
            let scaled = pattern.product(argument)?;
            let matches = scaled.factors == [x] && is_about(scaled.coefficient, FRAC_1_SQRT_2);
            return matches.then_some((x, UnaryKind::Gelu));
        }
        let argument = pattern.unary(inner, UnaryKind::Tanh)?;
        is_tanh_argument(pattern, argument, x).then_some((x, UnaryKind::GeluTanh))
    })
}

/// Whether `argument` is √(2/π)·(x + 0.044715·x³).
fn is_tanh_argument(pattern: Pattern<'_>, argument: ValueId, x: ValueId) -> bool {
    let Some(outer) = pattern.product(argument) else { return false };
    if !is_about(outer.coefficient, FRAC_2_PI.sqrt()) {
        return false;
    }
    let is_power = |id: ValueId, power: usize| {
        pattern.product(id).is_some_and(|term| {
            is_about(term.coefficient, CUBIC)
                && term.factors.len() == power
                && term.factors.iter().all(|&f| f == x)
        })
    };
    match outer.factors[..] {
        [sum] => pattern
            .binary(sum, BinaryKind::Add)
            .is_some_and(|[a, b]| a == x && is_power(b, 3) || b == x && is_power(a, 3)),
        [a, b] => [(a, b), (b, a)].into_iter().any(|(factor, sum)| {
            factor == x && pattern.plus_scalar(sum).is_some_and(|(term, one)| one == 1.0 && is_power(term, 2))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    const CONSTANTS: &str = "input x 2,3,4
         floats half [] 0.5
         floats one [] 1.0
         floats root [] 1.4142135
         floats inverse 1 0.70710678
         floats k [] 0.7978845608
         floats cubic [] 0.044715
         floats two [] 2.0
         floats three [] 3.0\n";

    #[test]
    fn erf_in_every_order_is_the_gelu() {
        for body in [
            "s = Div(x, root)
             e = Erf(s)
             p = Add(e, one)
             m = Mul(x, p)
             y = Mul(m, half)",
            "s = Mul(inverse, x)
             e = Erf(s)
             p = Add(one, e)
             h = Mul(half, x)
             y = Mul(p, h)",
            "s = Mul(x, inverse)
             e = Erf(s)
             p = Add(e, one)
             h = Mul(p, half)
             y = Mul(x, h)",
            "s = Div(x, root)
             e = Erf(s)
             p = Add(e, one)
             m = Mul(p, x)
             y = Div(m, two)",
        ] {
            let text = format!("{CONSTANTS}{body}\noutput y");
            check_pass(fuse_gelu, &text, "y = Gelu(x)");
        }
    }

    #[test]
    fn tanh_spelled_with_powers_or_products_is_the_gelu_by_tanh() {
        for cube in [
            "c = Pow(x, three)
             a = Mul(c, cubic)",
            "q = Mul(x, x)
             c = Mul(x, q)
             a = Mul(cubic, c)",
            "q = Mul(cubic, x)
             c = Mul(q, x)
             a = Mul(c, x)",
        ] {
            let text = format!(
                "{CONSTANTS}{cube}
                 i = Add(x, a)
                 v = Mul(i, k)
                 t = Tanh(v)
                 p = Add(t, one)
                 h = Mul(x, half)
                 y = Mul(h, p)
                 output y"
            );
            check_pass(fuse_gelu, &text, "y = Gelu(x)");
        }
        let factored = format!(
            "{CONSTANTS}q = Pow(x, two)
             a = Mul(q, cubic)
             i = Add(one, a)
             j = Mul(x, i)
             v = Mul(k, j)
             t = Tanh(v)
             p = Add(t, one)
             h = Mul(x, p)
             y = Mul(half, h)
             output y"
        );
        check_pass(fuse_gelu, &factored, "y = Gelu(x)");
    }

    #[test]
    fn an_input_that_is_itself_a_product_is_not_taken_apart() {
        let text = format!(
            "{CONSTANTS}input g 2,3,4
             z = Mul(x, g)
             s = Div(z, root)
             e = Erf(s)
             p = Add(e, one)
             m = Mul(z, p)
             y = Mul(m, half)
             output y"
        );
        check_pass(fuse_gelu, &text, "z = Mul(x, g)\ny = Gelu(z)");
    }

    #[test]
    fn other_constants_and_other_inputs_are_left_alone() {
        for (s, p, m) in [
            ("Div(x, two)", "Add(e, one)", "Mul(x, p)"),
            ("Div(x, root)", "Add(e, two)", "Mul(x, p)"),
            ("Div(x, root)", "Add(e, one)", "Mul(s, p)"),
        ] {
            let text = format!(
                "{CONSTANTS}s = {s}
                 e = Erf(s)
                 p = {p}
                 m = {m}
                 y = Mul(m, half)
                 output y"
            );
            check_pass_does_nothing(fuse_gelu, &text);
        }
    }
}
