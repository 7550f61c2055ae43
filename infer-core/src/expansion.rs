//! Nodes that stand for one: an operator written as others.

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::execute;
use crate::node_types::{InputType, NodeTypes};
use crate::ops::{self, Attribute, Attributes, ImportNode, Operator};
use crate::record::NodeRecord;
use crate::tensor_type::TensorType;

/// The opset whose meaning the nodes of an expansion have.
pub const OPSET: i64 = 26;

/// The most elements that a node of an expansion computes while it is expanded: shape arithmetic, small tables.
const FOLDED_ELEMENTS: usize = 4096;

/// Names a value of an [`Expansion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wire(usize);

impl Wire {
    /// Its position among the wires: the inputs of the expanded node first.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A node of an [`Expansion`].
#[derive(Debug)]
pub struct ExpandedNode {
    /// The operator.
    pub op: Box<dyn Operator>,
    /// What it was imported from.
    pub record: NodeRecord,
    /// The inputs; `None` for one left out.
    pub inputs: Vec<Option<Wire>>,
    /// The outputs.
    pub outputs: Vec<Wire>,
}

/// A value of an [`Expansion`].
#[derive(Clone, Debug)]
pub struct ExpandedValue {
    /// The type; `None` for an input left out.
    pub ty: Option<TensorType>,
    /// The elements, where they are known.
    pub constant: Option<Constant>,
}

/// The nodes that an operator puts in its place, while they are built.
pub struct Expansion<'a> {
    /// The types of the node that is expanded.
    pub types: NodeTypes<'a>,
    values: Vec<ExpandedValue>,
    nodes: Vec<ExpandedNode>,
}

/// The nodes that an operator puts in its place.
#[derive(Debug)]
pub struct Expanded {
    /// The values: first the inputs of the node, then others.
    pub values: Vec<ExpandedValue>,
    /// The nodes, each after those whose outputs it reads.
    pub nodes: Vec<ExpandedNode>,
    /// For each output of the node the value that it is.
    pub outputs: Vec<Wire>,
}

/// The nodes that stand for one of operator `op`, if it is expanded.
///
/// # Errors
///
/// Those of the operators.
pub fn expand(op: &dyn Operator, types: &NodeTypes<'_>) -> Result<Option<Expanded>, Reason> {
    let values = types.inputs.iter().map(|input| ExpandedValue {
        ty: input.map(|input| input.ty.clone()),
        constant: input.and_then(|input| input.constant.cloned()),
    });
    let mut expansion = Expansion { types: *types, values: values.collect(), nodes: Vec::new() };
    let Some(outputs) = op.expand(&mut expansion)? else { return Ok(None) };
    Ok(Some(Expanded { values: expansion.values, nodes: expansion.nodes, outputs }))
}

impl Expansion<'_> {
    /// Input `index` of the node, which must be there.
    pub fn input(&self, index: usize) -> Result<Wire, Reason> {
        self.optional_input(index).ok_or_else(|| Reason::new(format!("input {index} is missing")))
    }

    /// Input `index` of the node, or `None` where it is left out.
    pub fn optional_input(&self, index: usize) -> Option<Wire> {
        self.types.optional(index).map(|_| Wire(index))
    }

    /// The type of a value.
    pub fn ty(&self, wire: Wire) -> Result<&TensorType, Reason> {
        let ty = self.values.get(wire.0).and_then(|value| value.ty.as_ref());
        ty.ok_or_else(|| Reason::new("a value without a type"))
    }

    /// The extents of a value.
    pub fn shape(&self, wire: Wire) -> Result<&[usize], Reason> {
        Ok(&self.ty(wire)?.shape)
    }

    /// The elements of a value, where they are known.
    pub fn known(&self, wire: Wire) -> Option<&Constant> {
        self.values.get(wire.0)?.constant.as_ref()
    }

    /// A constant.
    pub fn constant(&mut self, constant: Constant) -> Wire {
        let ty = Some(constant.ty().clone());
        self.values.push(ExpandedValue { ty, constant: Some(constant) });
        Wire(self.values.len() - 1)
    }

    /// A one-dimensional constant of i64, as shapes and axes are given.
    pub fn i64s(&mut self, values: &[i64]) -> Wire {
        self.constant(Constant::of_i64(values))
    }

    /// A node of ai.onnx with one output.
    pub fn node(
        &mut self,
        op_type: &str,
        inputs: &[Wire],
        attributes: &[(&str, Attribute)],
    ) -> Result<Wire, Reason> {
        let inputs: Vec<Option<Wire>> = inputs.iter().map(|&wire| Some(wire)).collect();
        let outputs = self.nodes_of("", op_type, &inputs, attributes, 1)?;
        outputs.first().copied().ok_or_else(|| Reason::new(format!("{op_type} gives no output")))
    }

    /// A node of domain `domain` with `outputs` outputs; `None` stands for an input left out.
    pub fn nodes_of(
        &mut self,
        domain: &str,
        op_type: &str,
        inputs: &[Option<Wire>],
        attributes: &[(&str, Attribute)],
        outputs: usize,
    ) -> Result<Vec<Wire>, Reason> {
        let missing = || Reason::new(format!("operator {op_type} is not supported"));
        let row = ops::find(domain, op_type).ok_or_else(missing)?;
        let entries: Vec<(String, Attribute)> =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let record = NodeRecord {
            domain: domain.to_owned(),
            op_type: op_type.to_owned(),
            opset: if domain.is_empty() { OPSET } else { row.since },
            attributes: entries.clone(),
            ..NodeRecord::default()
        };
        let op = ops::import(
            row,
            ImportNode {
                op_type: op_type.to_owned(),
                opset: record.opset,
                attributes: Attributes::new(entries),
                inputs: inputs.iter().map(Option::is_some).collect(),
                outputs: vec![true; outputs],
            },
        )?;
        let asked = vec![true; outputs];
        let values: Vec<ExpandedValue> = inputs
            .iter()
            .map(|wire| match wire.and_then(|wire| self.values.get(wire.0)) {
                Some(value) => value.clone(),
                None => ExpandedValue { ty: None, constant: None },
            })
            .collect();
        let types: Vec<Option<InputType<'_>>> = values
            .iter()
            .map(|value| Some(InputType { ty: value.ty.as_ref()?, constant: value.constant.as_ref() }))
            .collect();
        let types = NodeTypes { inputs: &types, outputs: &asked };
        if let Some(inner) = expand(&*op, &types)? {
            return Ok(self.splice(inner, inputs));
        }
        let inferred = op.infer(&types)?;
        let known: Vec<Option<&Constant>> = values.iter().map(|value| value.constant.as_ref()).collect();
        let computable = inputs.iter().zip(&known).all(|(input, known)| input.is_none() || known.is_some());
        let small = inferred.iter().all(|ty| ty.elements() <= FOLDED_ELEMENTS);
        let constants = match op.evaluate(&types)? {
            Some(constants) => constants,
            None if computable && small && op.is_foldable() => execute::fold(&*op, &known, &asked)?,
            None => Vec::new(),
        };
        let mut constants = constants.into_iter();
        let outputs: Vec<Wire> = inferred
            .into_iter()
            .map(|ty| {
                self.values.push(ExpandedValue { ty: Some(ty), constant: constants.next() });
                Wire(self.values.len() - 1)
            })
            .collect();
        self.nodes.push(ExpandedNode { op, record, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Puts the nodes of another expansion, whose inputs are `inputs`, among these.
    fn splice(&mut self, inner: Expanded, inputs: &[Option<Wire>]) -> Vec<Wire> {
        let first = self.values.len();
        let map = |wire: Wire| match wire.0.checked_sub(inputs.len()) {
            Some(own) => Wire(first + own),
            // An input that is left out is read by nobody.
            None => inputs[wire.0].unwrap_or(wire),
        };
        self.values.extend(inner.values.into_iter().skip(inputs.len()));
        for node in inner.nodes {
            self.nodes.push(ExpandedNode {
                inputs: node.inputs.into_iter().map(|wire| wire.map(map)).collect(),
                outputs: node.outputs.into_iter().map(map).collect(),
                ..node
            });
        }
        inner.outputs.into_iter().map(map).collect()
    }
}
