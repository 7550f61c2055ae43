//! The passes, in the order they run.

pub mod affine;
pub mod convert_layout;
pub mod eliminate_common_subexpressions;
pub mod eliminate_dead_nodes;
pub mod eliminate_identities;
pub mod flush_weights;
pub mod fold_batch_norm;
pub mod fold_constants;
pub mod fold_pad;
pub mod fold_scale;
pub mod fuse_activation;
pub mod fuse_attention;
pub mod fuse_bias;
pub mod fuse_gate;
pub mod fuse_gelu;
pub mod fuse_group_norm;
pub mod fuse_hard_swish;
pub mod fuse_layer_norm;
pub mod fuse_projections;
pub mod fuse_residual_add;
pub mod move_reshape;
pub mod pattern;
pub mod quantize_softmax;
pub mod scale_weights;
pub mod simplify_movement;
pub mod strided;

#[cfg(test)]
pub(crate) mod test_support;

use std::sync::Arc;

use crate::graph::{Graph, Node, ValueId};

/// A pass: changes the graph, or says that there was nothing to do.
pub struct Pass {
    /// Its name, as logs and the reports of broken graphs give it.
    pub name: &'static str,
    /// Whether it changed anything.
    pub run: fn(&mut Graph) -> bool,
}

macro_rules! passes {
    ($($name:ident),* $(,)?) => {
        &[$(Pass { name: stringify!($name), run: $name::$name }),*]
    };
}

/// What simplifies and fuses, repeated until nothing changes.
pub const SIMPLIFY: &[Pass] = passes![
    fold_constants,
    eliminate_dead_nodes,
    eliminate_identities,
    eliminate_common_subexpressions,
    simplify_movement,
    // After simplify_movement has made one view of several.
    move_reshape,
    // Before factors go into products, where this would not look for them.
    fuse_attention,
    fold_pad,
    quantize_softmax,
    // Spelled-out functions are recognised before their factors and summands go into convolutions.
    fuse_layer_norm,
    fuse_group_norm,
    fuse_gelu,
    fuse_hard_swish,
    // Before activations are fused into convolutions: a gate reads the convolution's own output too.
    fuse_gate,
    // Before activations are fused: what changes a convolution's weights stands between it and its activation.
    fold_batch_norm,
    fold_scale,
    fuse_bias,
    fuse_activation,
    // After activations: a residual is added before an activation or after one, and the convolution must know.
    fuse_residual_add,
    // After biases and factors went into the products, which must be alike.
    fuse_projections,
];

/// What follows, once: still before plans part, since those for GPUs borrow the processor's weights.
pub const SETTLE: &[Pass] = passes![flush_weights];

/// What prepares lowering, once.
pub const FINISH: &[Pass] = passes![eliminate_dead_nodes, convert_layout, scale_weights];

/// Rounds of [`SIMPLIFY`] after which passes that still change the graph are taken to undo each other.
const MAX_ROUNDS: usize = 32;

/// A pass that broke the graph, or passes that never come to rest: a mistake in the compiler.
#[derive(Debug)]
pub struct PassError(pub String);

/// Runs all passes, checking the graph after each. `log` is told the name of each pass that changed
/// something, and sees the graph after it.
pub fn run(graph: &mut Graph, mut log: impl FnMut(&str, &Graph)) -> Result<(), PassError> {
    simplify(graph, &mut log)?;
    finish(graph, log)
}

/// Runs the passes of [`FINISH`], after [`simplify`]; otherwise as [`run`].
pub fn finish(graph: &mut Graph, mut log: impl FnMut(&str, &Graph)) -> Result<(), PassError> {
    for pass in FINISH {
        run_one(graph, pass, &mut log)?;
    }
    Ok(())
}

/// Runs the passes of [`SIMPLIFY`] and [`SETTLE`] alone; otherwise as [`run`].
pub fn simplify(graph: &mut Graph, mut log: impl FnMut(&str, &Graph)) -> Result<(), PassError> {
    for round in 0.. {
        if round == MAX_ROUNDS {
            return Err(PassError(format!("passes still change the graph after {MAX_ROUNDS} rounds")));
        }
        let mut changed = false;
        for pass in SIMPLIFY {
            changed |= run_one(graph, pass, &mut log)?;
        }
        if !changed {
            break;
        }
    }
    for pass in SETTLE {
        run_one(graph, pass, &mut log)?;
    }
    Ok(())
}

fn run_one(graph: &mut Graph, pass: &Pass, log: &mut impl FnMut(&str, &Graph)) -> Result<bool, PassError> {
    let changed = (pass.run)(graph);
    if changed {
        graph.verify().map_err(|broken| PassError(format!("after {}: {broken}", pass.name)))?;
        log(pass.name, graph);
    }
    Ok(changed)
}

/// Who reads and writes each value, as of when it was made.
pub struct Uses {
    readers: Vec<Vec<usize>>,
    writers: Vec<Option<usize>>,
    outputs: Vec<ValueId>,
}

impl Uses {
    /// The uses of `graph`.
    pub fn of(graph: &Graph) -> Self {
        Uses { readers: graph.readers(), writers: graph.writers(), outputs: graph.outputs.clone() }
    }

    /// The node that writes `id`, as long as nodes keep their places.
    pub fn writer(&self, id: ValueId) -> Option<usize> {
        self.writers.get(id.index()).copied().flatten()
    }

    /// The only reader of `id`, if it has one and is no graph output.
    pub fn sole_reader(&self, id: ValueId) -> Option<usize> {
        match self.readers.get(id.index())?.as_slice() {
            [reader] if !self.outputs.contains(&id) => Some(*reader),
            _ => None,
        }
    }

    /// Takes over that `writer` writes `id` now.
    pub fn set_writer(&mut self, id: ValueId, writer: usize) {
        self.writers[id.index()] = Some(writer);
    }
}

/// Removes the nodes at `removed`.
pub fn remove_nodes(graph: &mut Graph, removed: &[usize]) {
    let mut gone = vec![false; graph.nodes.len()];
    removed.iter().for_each(|&index| gone[index] = true);
    let mut gone = gone.into_iter();
    graph.nodes.retain(|_| gone.next() != Some(true));
}

/// A node's operator as `O`, to change.
///
/// # Panics
///
/// If a copy of the graph shares it: graphs are copied once [`simplify`], whose passes change operators, is done.
pub fn op_mut<O: crate::ops::Operator>(node: &mut Node) -> Option<&mut O> {
    let op = Arc::get_mut(&mut node.op);
    assert!(op.is_some(), "node `{}` is to be changed, though a copy of the graph shares it", node.name);
    (op? as &mut dyn std::any::Any).downcast_mut()
}

#[cfg(test)]
mod tests {
    use super::test_support::check;

    #[test]
    fn passes_work_together() {
        // A convolution, its decomposed normalisation, and a hard swish spelled out are one node.
        let text = check(
            "input x 1,3,9,9
             ints pads 0,0,1,1,0,0,1,1
             random w 8,3,3,3
             random mean 8,1,1
             positive deviation 8,1,1
             random bias 8,1,1
             floats zero [] 0.0
             floats three [] 3.0
             floats six [] 6.0
             p = Pad(x, pads)
             t = Conv(p, w) strides=[2,2]
             s = Sub(t, mean)
             d = Div(s, deviation)
             n = Add(d, bias)
             a = Add(n, three)
             c = Clip(a, zero, six)
             e = Div(c, six)
             y = Mul(n, e)
             output y",
        );
        assert_eq!(text.matches(") {").count() + text.matches("Reorder(").count(), 3, "{text}");
    }
}
