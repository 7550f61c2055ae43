//! Reading patterns of nodes backwards from a value, and writing what they stand for.

use std::sync::Arc;

use crate::constant::Constant;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::Operator;
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::unary::{Unary, UnaryKind};
use crate::passes::Uses;

/// How far a constant of a pattern may be from its exact value, relatively: files have 0.7071 for 1/√2, and halves.
const TOLERANCE: f32 = 1e-4;

/// The most factors of a product that a pattern looks at.
const MAX_FACTORS: usize = 4;

/// Whether `actual` is the constant `exact` of a pattern.
pub fn is_about(actual: f32, exact: f32) -> bool {
    (actual - exact).abs() <= TOLERANCE * exact.abs()
}

/// A product of values and a number.
#[derive(Clone, Debug)]
pub struct Product {
    /// The number.
    pub coefficient: f32,
    /// The values.
    pub factors: Vec<ValueId>,
}

/// Reads what values are made of.
#[derive(Clone, Copy)]
pub struct Pattern<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// Its uses.
    pub uses: &'g Uses,
}

impl<'g> Pattern<'g> {
    /// The node that computes `id`, if it is no constant.
    pub fn writer(&self, id: ValueId) -> Option<&'g Node> {
        let writer = self.uses.writer(id).filter(|_| self.graph.value(id).constant.is_none())?;
        self.graph.nodes.get(writer)
    }

    /// The inputs of the operation `kind` that computes `id`.
    pub fn binary(&self, id: ValueId, kind: BinaryKind) -> Option<[ValueId; 2]> {
        let node = self.writer(id)?;
        let matches = node.op_as::<Binary>().is_some_and(|binary| binary.kind == kind);
        Some([node.input(0)?, node.input(1)?]).filter(|_| matches)
    }

    /// The input of the function `kind` that computes `id`.
    pub fn unary(&self, id: ValueId, kind: UnaryKind) -> Option<ValueId> {
        let node = self.writer(id)?;
        node.input(0).filter(|_| node.op_as::<Unary>().is_some_and(|unary| unary.kind == kind))
    }

    /// The value of a constant of one element.
    pub fn scalar(&self, id: ValueId) -> Option<f32> {
        self.graph.constant(Some(id))?.to_scalar_f32()
    }

    /// x and c where `id` is x + c, c a constant of one element.
    pub fn plus_scalar(&self, id: ValueId) -> Option<(ValueId, f32)> {
        let [a, b] = self.binary(id, BinaryKind::Add)?;
        self.scalar(b).map(|c| (a, c)).or_else(|| Some((b, self.scalar(a)?)))
    }

    /// `id` as a product: multiplications, divisions by constants and small powers are taken apart as long as nobody
    /// else reads their results.
    pub fn product(&self, id: ValueId) -> Option<Product> {
        let mut product = Product { coefficient: 1.0, factors: Vec::new() };
        self.multiply(&mut product, id, true, MAX_FACTORS).then_some(product)
    }

    fn multiply(&self, product: &mut Product, id: ValueId, root: bool, depth: usize) -> bool {
        if let Some(c) = self.scalar(id) {
            product.coefficient *= c;
            return true;
        }
        let apart = (root || self.uses.sole_reader(id).is_some()) && depth > 0;
        if apart && let Some([a, b]) = self.binary(id, BinaryKind::Mul) {
            return self.multiply(product, a, false, depth - 1)
                && self.multiply(product, b, false, depth - 1);
        }
        if apart
            && let Some([a, b]) = self.binary(id, BinaryKind::Div)
            && let Some(c) = self.scalar(b)
        {
            product.coefficient /= c;
            return self.multiply(product, a, false, depth - 1);
        }
        if apart
            && let Some([a, b]) = self.binary(id, BinaryKind::Pow)
            && let Some(times) = self.scalar(b).filter(|c| *c == 2.0 || *c == 3.0)
        {
            product.factors.extend(std::iter::repeat_n(a, times as usize));
        } else {
            product.factors.push(id);
        }
        product.factors.len() <= MAX_FACTORS
    }
}

/// Makes the node at `index` compute its output by `op` of `inputs`, if that gives its type.
pub fn replace(graph: &mut Graph, index: usize, op: impl Operator, inputs: Vec<Option<ValueId>>) -> bool {
    let old = &graph.nodes[index];
    let Some(output) = old.output(0) else { return false };
    let node = Node { name: old.name.clone(), op: Arc::new(op), inputs, outputs: vec![Some(output)] };
    let types = graph.try_with_types(&node, |types| node.op.infer(types));
    let fits = matches!(types, Some(Ok(types)) if types.first() == Some(graph.ty(output)));
    if fits {
        graph.nodes[index] = node;
    }
    fits
}

/// Adds a constant under a name that nothing else has.
pub fn add_constant(graph: &mut Graph, name: &str, constant: Constant) -> ValueId {
    let name = unused_name(graph, name);
    graph.add_constant(name, constant)
}

/// `name`, with a number where something is called so.
pub fn unused_name(graph: &Graph, name: &str) -> String {
    let taken = |name: &str| graph.values.iter().any(|value| value.name == name);
    if !taken(name) {
        return name.to_owned();
    }
    let numbered = (graph.values.len()..).map(|number| format!("{name}:{number}"));
    numbered.into_iter().find(|name| !taken(name)).unwrap_or_default()
}
