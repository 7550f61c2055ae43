//! Nodes and graphs as data: what the compiler writes for the run time to import again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::constant::Constant;
use crate::value::{Strings, Value, ValueType, nested};

/// The domain of operators that compilers put into graphs and no model may name.
pub const INTERNAL_DOMAIN: &str = "infer_embed";

/// The value of an attribute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Attribute {
    /// INT
    Int(i64),
    /// FLOAT
    Float(f32),
    /// STRING
    String(String),
    /// TENSOR
    Tensor(Constant),
    /// TENSOR of strings
    StringTensor(Strings),
    /// GRAPH
    Graph(#[serde(deserialize_with = "nested")] Arc<GraphRecord>),
    /// TYPE_PROTO
    Type(ValueType),
    /// INTS
    Ints(Vec<i64>),
    /// FLOATS
    Floats(Vec<f32>),
    /// STRINGS
    Strings(Vec<String>),
}

impl From<i64> for Attribute {
    fn from(value: i64) -> Self {
        Attribute::Int(value)
    }
}

impl From<f32> for Attribute {
    fn from(value: f32) -> Self {
        Attribute::Float(value)
    }
}

impl From<&str> for Attribute {
    fn from(value: &str) -> Self {
        Attribute::String(value.to_owned())
    }
}

impl From<Vec<i64>> for Attribute {
    fn from(values: Vec<i64>) -> Self {
        Attribute::Ints(values)
    }
}

impl Attribute {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Attribute::Int(_) => "an integer",
            Attribute::Float(_) => "a float",
            Attribute::String(_) => "a string",
            Attribute::Tensor(_) => "a tensor",
            Attribute::StringTensor(_) => "a tensor of strings",
            Attribute::Graph(_) => "a graph",
            Attribute::Type(_) => "a type",
            Attribute::Ints(_) => "a list of integers",
            Attribute::Floats(_) => "a list of floats",
            Attribute::Strings(_) => "a list of strings",
        }
    }
}

/// A node as data. Values are numbered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The name in the model.
    pub name: String,
    /// The operator's domain; empty for ai.onnx.
    pub domain: String,
    /// The operator's name.
    pub op_type: String,
    /// The version of the domain that the model imports.
    pub opset: i64,
    /// The attributes.
    pub attributes: Vec<(String, Attribute)>,
    /// The inputs; `None` for one left out.
    pub inputs: Vec<Option<u32>>,
    /// How many of the inputs are the operator's own; the others are what its graphs read of the graph around them.
    pub own_inputs: u32,
    /// The outputs; `None` for one nobody asked for.
    pub outputs: Vec<Option<u32>>,
}

/// A graph as data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GraphRecord {
    /// How many values there are.
    pub values: u32,
    /// The inputs with their declared types.
    pub inputs: Vec<(u32, Option<ValueType>)>,
    /// The outputs with their declared types.
    pub outputs: Vec<(u32, Option<ValueType>)>,
    /// Values that are known.
    pub constants: Vec<(u32, Value)>,
    /// Values of the graph around: each with the input of the node around that it is.
    pub captures: Vec<(u32, u32)>,
    /// The nodes, each after those whose outputs it reads.
    pub nodes: Vec<NodeRecord>,
}
