//! The graph: typed operators over values, in topological order.

mod text;
mod verify;

use std::sync::Arc;

pub use verify::Broken;

use crate::constant::Constant;
use crate::node_types::{InputType, NodeTypes};
use crate::ops::Operator;
use crate::tensor_type::TensorType;

/// Names a value of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// The position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a value lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row-major.
    #[default]
    Plain,
    /// A `[N, C, H, W]` picture in blocks of 16 channels (NCHW16c), or, where C is below 16 and a convolution alone
    /// reads it, in one block of C channels.
    Blocked {
        /// Channels in a block.
        block: usize,
    },
}

/// A tensor that flows between nodes.
#[derive(Clone, Debug)]
pub struct Value {
    /// The name in the model; unique.
    pub name: String,
    /// The type; present for every value once shapes are inferred.
    pub ty: Option<TensorType>,
    /// The elements, where they are known while compiling.
    pub constant: Option<Constant>,
    /// How it lies in memory; set by `convert_layout`.
    pub layout: Layout,
}

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    /// The name in the model, or one made from its outputs.
    pub name: String,
    /// The operator with its attributes; copies of a graph share it.
    pub op: Arc<dyn Operator>,
    /// The inputs; `None` for an optional one left out.
    pub inputs: Vec<Option<ValueId>>,
    /// The outputs; `None` for one nobody asked for.
    pub outputs: Vec<Option<ValueId>>,
}

impl Node {
    /// The operator as `O`, if it is one.
    pub fn op_as<O: Operator>(&self) -> Option<&O> {
        (&*self.op as &dyn std::any::Any).downcast_ref()
    }

    /// The first input; `None` where the node has none.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// An output; `None` where nobody asked for it.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }
}

/// A model as a graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The values, named by [`ValueId`].
    pub values: Vec<Value>,
    /// The nodes, each after those whose outputs it reads.
    pub nodes: Vec<Node>,
    /// The inputs, in the model's order, initializers left out.
    pub inputs: Vec<ValueId>,
    /// The outputs, in the model's order.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// Adds a value; the caller sees to it that the name is unique.
    pub fn add_value(&mut self, name: impl Into<String>, ty: Option<TensorType>) -> ValueId {
        self.values.push(Value { name: name.into(), ty, constant: None, layout: Layout::Plain });
        ValueId((self.values.len() - 1) as u32)
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, constant: Constant) -> ValueId {
        let id = self.add_value(name, Some(constant.ty().clone()));
        self.value_mut(id).constant = Some(constant);
        id
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The value `id`.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }

    /// The type of value `id`.
    ///
    /// # Panics
    ///
    /// Before shape inference.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        match &self.value(id).ty {
            Some(ty) => ty,
            None => panic!("value `{}` has no type: shape inference has not run", self.value(id).name),
        }
    }

    /// The elements of value `id`, where they are known.
    pub fn constant(&self, id: Option<ValueId>) -> Option<&Constant> {
        self.value(id?).constant.as_ref()
    }

    /// Calls `see` with the types of `node`'s inputs as its operator sees them, or gives `None` where an input has
    /// no type.
    pub fn try_with_types<R>(&self, node: &Node, see: impl FnOnce(&NodeTypes<'_>) -> R) -> Option<R> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(match input {
                None => None,
                Some(id) => {
                    let value = self.value(*id);
                    Some(InputType { ty: value.ty.as_ref()?, constant: value.constant.as_ref() })
                }
            });
        }
        let outputs: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
        Some(see(&NodeTypes { inputs: &inputs, outputs: &outputs }))
    }

    /// Calls `see` with the types of `node`'s inputs as its operator sees them.
    ///
    /// # Panics
    ///
    /// Before shape inference.
    pub fn with_types<R>(&self, node: &Node, see: impl FnOnce(&NodeTypes<'_>) -> R) -> R {
        match self.try_with_types(node, see) {
            Some(result) => result,
            None => panic!("node `{}` reads a value without a type: shape inference has not run", node.name),
        }
    }

    /// For each value the nodes that read it (once for each input it stands at).
    pub fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for input in node.inputs.iter().flatten() {
                readers[input.index()].push(index);
            }
        }
        readers
    }

    /// For each value the node that writes it.
    pub fn writers(&self) -> Vec<Option<usize>> {
        let mut writers = vec![None; self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().flatten() {
                writers[output.index()] = Some(index);
            }
        }
        writers
    }
}
