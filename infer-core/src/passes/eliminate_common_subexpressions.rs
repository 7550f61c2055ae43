//! Computes once what several nodes compute alike.
//!
//! Before: `a = Relu(x); b = Relu(x); y = Add(a, b)`. After: `a = Relu(x); y = Add(a, a)`. Bit-exact.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::graph::{Graph, ValueId};

/// Constants of up to so many bytes are compared by their elements, larger ones by name.
const SMALL_BYTES: usize = 256;

/// What tells nodes apart: the operator with its attributes, the inputs, and which outputs are asked for.
type Computation = (String, Vec<Option<ValueId>>, Vec<bool>);

/// Computes once what several nodes compute alike.
pub fn eliminate_common_subexpressions(graph: &mut Graph) -> bool {
    let mut forward: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
    let mut constants = HashMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        if let Some(constant) =
            value.constant.as_ref().filter(|constant| constant.data().len() <= SMALL_BYTES)
        {
            forward[index] =
                *constants.entry((constant.ty(), constant.data())).or_insert(ValueId(index as u32));
        }
    }
    let mut seen: HashMap<Computation, Vec<Option<ValueId>>> = HashMap::new();
    let before = graph.nodes.len();
    let mut kept = Vec::with_capacity(before);
    for mut node in std::mem::take(&mut graph.nodes) {
        for input in node.inputs.iter_mut().flatten() {
            *input = forward[input.index()];
        }
        if node.op.is_nondeterministic() {
            kept.push(node);
            continue;
        }
        let wanted = node.outputs.iter().map(Option::is_some).collect();
        match seen.entry((format!("{:?}", node.op), node.inputs.clone(), wanted)) {
            Entry::Occupied(first) => {
                for (output, known) in node.outputs.iter().zip(first.get()) {
                    if let (Some(output), Some(known)) = (output, known) {
                        forward[output.index()] = *known;
                    }
                }
            }
            Entry::Vacant(slot) => {
                slot.insert(node.outputs.clone());
                kept.push(node);
            }
        }
    }
    for output in &mut graph.outputs {
        *output = forward[output.index()];
    }
    graph.nodes = kept;
    graph.nodes.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn what_is_computed_twice_is_computed_once() {
        let graph = check_pass(
            eliminate_common_subexpressions,
            "input x 2,3
             floats half [] 0.5
             floats other [] 0.5
             a = Mul(x, half)
             b = Mul(x, other)
             c = LeakyRelu(a) alpha=0.1
             d = LeakyRelu(b) alpha=0.1
             y = Sub(c, d)
             z = Identity(d)
             output y
             output d
             output z",
            "a = Mul(x, half)\nc = LeakyRelu(a)\ny = Sub(c, c)\nz = Identity(c)",
        );
        assert_eq!(graph.outputs[1], graph.nodes[1].output(0).unwrap());
    }

    #[test]
    fn other_attributes_and_other_inputs_are_other_computations() {
        check_pass_does_nothing(
            eliminate_common_subexpressions,
            "input x 2,3
             floats half [] 0.5
             floats wide 1 0.5
             a = LeakyRelu(x) alpha=0.1
             b = LeakyRelu(x) alpha=0.2
             c = Mul(a, half)
             d = Mul(a, wide)
             e = Sub(c, d)
             y = Sub(b, e)
             output y",
        );
    }
}
