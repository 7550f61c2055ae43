//! The text form of a graph: one line a node, for tests and for people.

use std::fmt;

use super::{Graph, Layout, Node, Value, ValueId};
use crate::constant::Constant;
use crate::tensor_type::DataType;

impl Graph {
    /// The graph as text: inputs, the constants that are read, nodes, outputs.
    ///
    /// ```text
    /// input x: f32[1,3]
    /// const w: f32[3] = [1.0, 2.0, 3.0]
    /// y: f32[1,3] = Add(x, w)
    /// output y
    /// ```
    pub fn to_text(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in &self.inputs {
            writeln!(f, "input {}", Typed(self.value(*id)))?;
        }
        let mut shown = vec![false; self.values.len()];
        let read = self.nodes.iter().flat_map(|node| node.inputs.iter().flatten());
        for id in read.chain(&self.outputs) {
            if let Some(constant) = self.constant(Some(*id))
                && !std::mem::replace(&mut shown[id.index()], true)
            {
                write!(f, "const {}", Typed(self.value(*id)))?;
                write_elements(f, constant)?;
                writeln!(f)?;
            }
        }
        for node in &self.nodes {
            self.write_node(f, node)?;
        }
        for id in &self.outputs {
            writeln!(f, "output {}", self.value(*id).name)?;
        }
        Ok(())
    }
}

impl Graph {
    fn write_node(&self, f: &mut fmt::Formatter<'_>, node: &Node) -> fmt::Result {
        for (index, output) in node.outputs.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match output {
                Some(id) => write!(f, "{separator}{}", Typed(self.value(*id)))?,
                None => write!(f, "{separator}_")?,
            }
        }
        let name = |id: &Option<ValueId>| id.map_or("_", |id| &self.value(id).name);
        let inputs: Vec<&str> = node.inputs.iter().map(name).collect();
        write!(f, " = {}({})", node.op.name(), inputs.join(", "))?;
        // What the derived form adds to the structure's own name: the attributes.
        let debug = format!("{:?}", node.op);
        let attributes = debug.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start();
        let separator = if attributes.is_empty() { "" } else { " " };
        writeln!(f, "{separator}{attributes}")
    }
}

/// A value's name, type and layout.
struct Typed<'a>(&'a Value);

impl fmt::Display for Typed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)?;
        if let Some(ty) = &self.0.ty {
            write!(f, ": {ty}")?;
        }
        match self.0.layout {
            Layout::Plain => Ok(()),
            Layout::Blocked { block } => write!(f, " in blocks of {block}"),
        }
    }
}

/// The elements of a small constant of a common type.
fn write_elements(f: &mut fmt::Formatter<'_>, constant: &Constant) -> fmt::Result {
    const MOST: usize = 8;
    if constant.ty().elements() > MOST {
        return Ok(());
    }
    match constant.ty().dtype {
        DataType::F32 => write!(f, " = {:?}", constant.values::<f32>()),
        DataType::I64 => write!(f, " = {:?}", constant.values::<i64>()),
        DataType::I32 => write!(f, " = {:?}", constant.values::<i32>()),
        DataType::Bool | DataType::U8 => write!(f, " = {:?}", constant.values::<u8>()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::calls::LowerNode;
    use crate::constant::Constant;
    use crate::diagnostic::Reason;
    use crate::graph::{Graph, Layout, Node};
    use crate::ops::{NodeTypes, Operator};
    use crate::tensor_type::{DataType, TensorType};

    #[derive(Debug)]
    struct Scaled {
        #[expect(dead_code, reason = "read by the derived Debug alone")]
        by: i64,
    }

    impl Operator for Scaled {
        fn name(&self) -> &'static str {
            "Scale"
        }
        fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
            Ok(vec![node.ty(0)?.clone()])
        }
        fn lower(&self, _: &mut LowerNode<'_>) -> Result<(), Reason> {
            Ok(())
        }
    }

    #[test]
    fn a_graph_prints_one_line_a_node() {
        let mut graph = Graph::default();
        let ty = TensorType::new(DataType::F32, [1, 2]);
        let x = graph.add_value("x", Some(ty.clone()));
        let w = graph.add_constant("w", Constant::of(TensorType::new(DataType::F32, [2]), &[1.0f32, 2.5]));
        let large = graph.add_constant("large", Constant::of_i64(&[0; 9]));
        let y = graph.add_value("y", Some(ty));
        graph.value_mut(y).layout = Layout::Blocked { block: 16 };
        graph.inputs.push(x);
        graph.outputs.push(y);
        graph.nodes.push(Node {
            name: "n".into(),
            op: Arc::new(Scaled { by: 3 }),
            inputs: vec![Some(x), None, Some(w), Some(w), Some(large)],
            outputs: vec![Some(y), None],
        });
        assert_eq!(
            graph.to_text(),
            "input x: f32[1,2]\n\
             const w: f32[2] = [1.0, 2.5]\n\
             const large: i64[9]\n\
             y: f32[1,2] in blocks of 16, _ = Scale(x, _, w, w, large) { by: 3 }\n\
             output y\n"
        );
    }
}
