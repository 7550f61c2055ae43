//! Computes what other passes have made computable.
//!
//! Before: `a = Mul(c, d); y = Add(x, a)`, c and d constants. After: `y = Add(x, a)`, a a constant. Shape inference folds
//! what is constant in the file; this folds what became so since.
//!
//! Precondition: all inputs are constants, and the outputs are not much larger. As exact as the reference kernels.

use crate::constant::Constant;
use crate::execute::{Backend, evaluate};
use crate::graph::{Graph, Node};
use crate::tensor_type::TensorType;

/// The most that one run of the pass computes: bytes of outputs, and floating-point operations. What inference refused
/// to fold is constant here too, and each round of the passes tries again.
const MAX_BYTES: usize = 64 << 20;
const MAX_FLOPS: u64 = 1 << 26;

/// Computes what other passes have made computable.
pub fn fold_constants(graph: &mut Graph) -> bool {
    let (mut bytes, mut flops) = (MAX_BYTES, MAX_FLOPS);
    let nodes = std::mem::take(&mut graph.nodes);
    let mut changed = false;
    for node in &nodes {
        let Some(constants) = computed(graph, node, &mut bytes, &mut flops) else { continue };
        for (id, constant) in node.outputs.iter().zip(constants) {
            if let Some(id) = id {
                graph.value_mut(*id).constant = constant;
                changed = true;
            }
        }
    }
    graph.nodes = nodes;
    changed
}

/// The outputs of `node`, if they can be computed and have not been.
fn computed(graph: &Graph, node: &Node, bytes: &mut usize, flops: &mut u64) -> Option<Vec<Option<Constant>>> {
    let known = |id: &_| graph.value(*id).constant.is_some();
    if node.op.is_nondeterministic()
        || !node.inputs.iter().flatten().all(known)
        || node.outputs.iter().flatten().all(known)
    {
        return None;
    }
    let types: Vec<Option<TensorType>> =
        node.outputs.iter().map(|id| id.map(|id| graph.ty(id).clone())).collect();
    let wanted: Vec<&TensorType> = types.iter().flatten().collect();
    let cost = graph.try_with_types(node, |types| node.op.flops(types, &wanted))?;
    let size = wanted.iter().fold(0usize, |sum, ty| sum.saturating_add(ty.bytes()));
    // What is too large stays a node, and is computed at run time.
    let (bytes_left, flops_left) = (bytes.checked_sub(size)?, flops.checked_sub(cost)?);
    let inputs: Vec<Option<&Constant>> = node.inputs.iter().map(|id| graph.constant(*id)).collect();
    let constants = evaluate(&*node.op, &inputs, &types, &Backend::Reference).ok()?;
    let fits =
        types.iter().zip(&constants).all(|(ty, constant)| ty.as_ref() == constant.as_ref().map(Constant::ty));
    (*bytes, *flops) = (bytes_left, flops_left);
    fits.then_some(constants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{brief, model};

    #[test]
    fn a_chain_of_constants_is_one_constant() {
        let mut graph = model(
            "input x 3
             input a 3
             random b 3
             c = Mul(a, b)
             d = Exp(c)
             y = Add(x, d)
             output y",
        );
        assert!(!fold_constants(&mut graph));
        // As if a pass had found the input `a` to be known.
        let a = graph.inputs.pop().unwrap();
        graph.value_mut(a).constant = Some(Constant::of(graph.ty(a).clone(), &[1.0f32, 2.0, 3.0]));
        assert!(fold_constants(&mut graph));
        graph.verify().unwrap();
        crate::passes::eliminate_dead_nodes::eliminate_dead_nodes(&mut graph);
        assert_eq!(brief(&graph), "y = Add(x, d)");
        let d = graph.constant(graph.nodes[0].input(1)).unwrap().values::<f32>().into_owned();
        let b = graph.values.iter().find(|value| value.name == "b").unwrap().constant.clone().unwrap();
        for (index, (&d, &b)) in d.iter().zip(&*b.values::<f32>()).enumerate() {
            assert!((d - ((index + 1) as f32 * b).exp()).abs() < 1e-5);
        }
        assert!(!fold_constants(&mut graph));
    }
}
