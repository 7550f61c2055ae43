//! What must hold of every graph, checked after import and after each pass.

use std::collections::HashSet;
use std::fmt;

use super::{Graph, Node};

/// Why a graph is not well formed: a mistake of the compiler, not of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    message: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Broken {}

impl Graph {
    /// Checks that names are unique, that each value has one writer and is written before it is read, that outputs
    /// exist, and that types are there and are those that the operators infer.
    ///
    /// # Errors
    ///
    /// Where any of it does not hold.
    pub fn verify(&self) -> Result<(), Broken> {
        let broken = |message: String| Err(Broken { message });
        let count = self.values.len();
        let ids = self.nodes.iter().flat_map(|node| node.inputs.iter().chain(&node.outputs).flatten());
        if let Some(id) = ids.chain(&self.inputs).chain(&self.outputs).find(|id| id.index() >= count) {
            return broken(format!("value {} of {count} does not exist", id.index()));
        }
        let mut names = HashSet::with_capacity(count);
        for value in &self.values {
            if !names.insert(value.name.as_str()) {
                return broken(format!("two values are called `{}`", value.name));
            }
            match (&value.constant, &value.ty) {
                (Some(constant), Some(ty)) if constant.ty() != ty => {
                    return broken(format!("constant `{}` is {}, its value {ty}", value.name, constant.ty()));
                }
                (Some(_), None) => return broken(format!("constant `{}` has no type", value.name)),
                _ => {}
            }
        }
        let mut written = vec![false; count];
        for id in &self.inputs {
            if std::mem::replace(&mut written[id.index()], true) {
                return broken(format!("input `{}` is listed twice", self.value(*id).name));
            }
        }
        let mut has_writer = written.clone();
        for (value, written) in self.values.iter().zip(&mut written) {
            *written |= value.constant.is_some();
        }
        for node in &self.nodes {
            for id in node.inputs.iter().flatten() {
                if !written[id.index()] {
                    return broken(format!(
                        "node `{}` reads `{}` before it is written",
                        node.name,
                        self.value(*id).name
                    ));
                }
            }
            for id in node.outputs.iter().flatten() {
                if std::mem::replace(&mut has_writer[id.index()], true) {
                    return broken(format!(
                        "node `{}` writes `{}` once more",
                        node.name,
                        self.value(*id).name
                    ));
                }
                written[id.index()] = true;
            }
            self.verify_types(node)?;
        }
        match self.outputs.iter().find(|id| !written[id.index()]) {
            Some(id) => broken(format!("output `{}` is never written", self.value(*id).name)),
            None => Ok(()),
        }
    }

    fn verify_types(&self, node: &Node) -> Result<(), Broken> {
        let broken = |message: String| Err(Broken { message: format!("node `{}`: {message}", node.name) });
        let types = match self.try_with_types(node, |types| node.op.infer(types)) {
            // Shapes are not inferred yet.
            None => return Ok(()),
            Some(Err(reason)) => return broken(reason.what),
            Some(Ok(types)) => types,
        };
        for (index, id) in node.outputs.iter().enumerate() {
            let Some(id) = id else { continue };
            let value = self.value(*id);
            match (types.get(index), &value.ty) {
                (None, _) => return broken(format!("{} infers no type for output {index}", node.op.name())),
                (Some(inferred), Some(ty)) if inferred != ty => {
                    return broken(format!("`{}` is {ty}, {} infers {inferred}", value.name, node.op.name()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::calls::LowerNode;
    use crate::constant::Constant;
    use crate::diagnostic::Reason;
    use crate::graph::{Graph, Node, ValueId};
    use crate::ops::{NodeTypes, Operator};
    use crate::tensor_type::{DataType, TensorType};

    #[derive(Debug)]
    struct Same;

    impl Operator for Same {
        fn name(&self) -> &'static str {
            "Same"
        }
        fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
            Ok(vec![node.ty(0)?.clone()])
        }
        fn lower(&self, _: &mut LowerNode<'_>) -> Result<(), Reason> {
            Ok(())
        }
    }

    fn node(input: ValueId, output: ValueId) -> Node {
        Node { name: "n".into(), op: Arc::new(Same), inputs: vec![Some(input)], outputs: vec![Some(output)] }
    }

    fn chain() -> (Graph, [ValueId; 3]) {
        let mut graph = Graph::default();
        let ty = TensorType::new(DataType::F32, [2]);
        let ids = ["a", "b", "c"].map(|name| graph.add_value(name, Some(ty.clone())));
        graph.inputs.push(ids[0]);
        graph.outputs.push(ids[2]);
        graph.nodes = vec![node(ids[0], ids[1]), node(ids[1], ids[2])];
        (graph, ids)
    }

    fn broken(change: impl FnOnce(&mut Graph, [ValueId; 3])) -> String {
        let (mut graph, ids) = chain();
        assert_eq!(graph.verify(), Ok(()));
        change(&mut graph, ids);
        graph.verify().unwrap_err().to_string()
    }

    #[test]
    fn each_invariant_is_checked() {
        assert_eq!(broken(|g, _| g.nodes.swap(0, 1)), "node `n` reads `b` before it is written");
        assert_eq!(broken(|g, _| g.values[1].name = "a".into()), "two values are called `a`");
        assert_eq!(broken(|g, ids| g.nodes[1].outputs[0] = Some(ids[1])), "node `n` writes `b` once more");
        assert_eq!(broken(|g, ids| g.nodes[0].outputs[0] = Some(ids[0])), "node `n` writes `a` once more");
        assert_eq!(broken(|g, _| drop(g.nodes.pop())), "output `c` is never written");
        assert_eq!(broken(|g, ids| g.inputs.push(ids[0])), "input `a` is listed twice");
        assert_eq!(broken(|g, _| g.outputs.push(ValueId(9))), "value 9 of 3 does not exist");
        let other = TensorType::new(DataType::F32, [3]);
        assert_eq!(
            broken(|g, _| g.values[2].ty = Some(other)),
            "node `n`: `c` is f32[3], Same infers f32[2]"
        );
        assert_eq!(
            broken(|g, _| g.values[0].constant = Some(Constant::scalar_f32(0.0))),
            "constant `a` is f32[], its value f32[2]"
        );
        assert_eq!(broken(|g, _| g.nodes[0].inputs[0] = None), "node `n`: input 0 is missing");
    }

    #[test]
    fn a_graph_without_types_is_checked_for_order_alone() {
        let (mut graph, _) = chain();
        graph.values.iter_mut().for_each(|value| value.ty = None);
        assert_eq!(graph.verify(), Ok(()));
    }
}
