//! Gradient of ai.onnx.preview.training: nodes that compute derivatives, in its place.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Gradient.html>
//!
//! The node names values of the graph around it, so that no operator by itself can say what it computes: what leads
//! to `y` is computed again from the inputs, then followed backwards. Equal nodes become one later.
//! Through: Add, Sub, Mul, Div, Neg, Identity, Exp, Log, Sqrt, Sigmoid and Tanh.

use std::collections::HashMap;

use super::flatten::{Flat, FlatNode};
use crate::diagnostic::{Reason, quote};
use crate::expansion::OPSET;
use crate::onnx::proto::AttributeProto;
use crate::ops::training::SUM_LIKE;
use crate::record::INTERNAL_DOMAIN;

/// The domain of Gradient.
const DOMAIN: &str = "ai.onnx.preview.training";

/// The most nodes that one Gradient may lead back through.
const MAX_NODES: usize = 1 << 12;

/// Puts nodes that compute derivatives in the place of each Gradient; those that cannot be replaced refuse.
pub(super) fn expand(flat: &mut Flat<'_>) {
    let is_gradient = |node: &FlatNode<'_>| node.domain == DOMAIN && node.op_type == "Gradient";
    while let Some(index) = flat.nodes.iter().position(|node| is_gradient(node) && node.refused.is_none()) {
        let (nodes, values) = (flat.nodes.len(), flat.values.len());
        match Tape::replace(flat, index) {
            // Its outputs are written by others now; it stays as a node that nothing needs.
            Ok(()) => {
                flat.nodes.remove(index);
            }
            Err(reason) => {
                flat.nodes.truncate(nodes);
                flat.values.truncate(values);
                if let Some(node) = flat.nodes.get_mut(index) {
                    node.refused = Some(reason);
                }
            }
        }
    }
}

/// The nodes of a function and of its derivatives, while they are added.
struct Tape<'f, 'a> {
    flat: &'f mut Flat<'a>,
    name: String,
    /// For each value of the graph what stands for it here.
    copies: HashMap<usize, usize>,
    /// What leads to `y`: operator, inputs, output; each after those it needs.
    steps: Vec<(&'a str, Vec<usize>, usize)>,
}

impl<'a> Tape<'_, 'a> {
    fn replace(flat: &mut Flat<'a>, index: usize) -> Result<(), Reason> {
        let missing = || Reason::new("a node that is not there");
        let node = flat.nodes.get(index).ok_or_else(missing)?;
        let attribute =
            |name: &str| node.attributes.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
        let named = |bytes: &[u8]| -> Result<usize, Reason> {
            let name = String::from_utf8_lossy(bytes);
            let known = flat.names.get(&*name).copied().flatten();
            known.ok_or_else(|| Reason::new(format!("the graph has no value {}", quote(&name))))
        };
        let list = |attribute: Option<&AttributeProto>| -> Result<Vec<usize>, Reason> {
            attribute.map_or(Ok(Vec::new()), |list| list.strings.iter().map(|name| named(name)).collect())
        };
        let (xs, zs) = (list(attribute("xs"))?, list(attribute("zs"))?);
        let y = attribute("y").and_then(|y| y.s.as_ref());
        let y = named(y.ok_or_else(|| Reason::new("attribute `y` is missing"))?)?;
        let inputs: Vec<usize> = node.inputs.iter().copied().flatten().collect();
        if inputs.len() != xs.len() + zs.len() || node.inputs.len() != inputs.len() {
            let (given, named) = (node.inputs.len(), xs.len() + zs.len());
            return Err(Reason::new(format!("{given} inputs for {named} names in xs and zs")));
        }
        let outputs = node.outputs.clone();
        let name = node.name.clone();
        let copies = xs.iter().chain(&zs).copied().zip(inputs.iter().copied()).collect();
        let mut tape = Tape { flat, name, copies, steps: Vec::new() };
        let y = tape.copy(y)?;
        let gradients = tape.backwards(y)?;
        for (input, output) in inputs.iter().zip(&outputs) {
            let Some(output) = *output else { continue };
            match gradients.get(input) {
                Some(&gradient) => tape.node("", "Identity", &[gradient], output),
                // What `y` does not depend on.
                None => {
                    let zero = tape.add("", "Sub", &[*input, *input]);
                    tape.node("", "Identity", &[zero], output);
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, domain: &'static str, op_type: &'a str, inputs: &[usize], output: usize) {
        self.flat.nodes.push(FlatNode {
            name: format!("{}/{op_type}_{output}", self.name),
            op_type,
            domain,
            opset: Some(if domain.is_empty() { OPSET } else { 1 }),
            attributes: Vec::new(),
            graphs: Vec::new(),
            inputs: inputs.iter().map(|&input| Some(input)).collect(),
            own_inputs: inputs.len(),
            outputs: vec![Some(output)],
            refused: None,
        });
    }

    /// A node with a new value.
    fn add(&mut self, domain: &'static str, op_type: &'a str, inputs: &[usize]) -> usize {
        let output = self.flat.values.len();
        self.flat.values.push(format!("{}/{op_type}_{output}", self.name));
        self.node(domain, op_type, inputs, output);
        output
    }

    /// What stands for `value`: an input of the node, or computed from them again.
    fn copy(&mut self, value: usize) -> Result<usize, Reason> {
        let writers: HashMap<usize, usize> = self
            .flat
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(index, node)| node.outputs.iter().flatten().map(move |&output| (output, index)))
            .collect();
        // Values still to be copied; each again once its inputs are.
        let mut waiting = vec![value];
        while let Some(&value) = waiting.last() {
            let writer = writers.get(&value).and_then(|&index| self.flat.nodes.get(index));
            let Some(writer) = writer.filter(|_| !self.copies.contains_key(&value)) else {
                // An input or an initializer stands for itself.
                self.copies.entry(value).or_insert(value);
                waiting.pop();
                continue;
            };
            let differentiable =
                ["Add", "Sub", "Mul", "Div", "Neg", "Identity", "Exp", "Log", "Sqrt", "Sigmoid", "Tanh"];
            if !writer.domain.is_empty() || !differentiable.contains(&writer.op_type) {
                return Err(Reason::new(format!(
                    "the derivative of {} is not supported",
                    quote(writer.op_type)
                ))
                .supported(differentiable.join(", ")));
            }
            let inputs: Vec<usize> = writer.inputs.iter().copied().flatten().collect();
            let arity = if matches!(writer.op_type, "Add" | "Sub" | "Mul" | "Div") { 2 } else { 1 };
            if inputs.len() != arity {
                return Err(Reason::new(format!("{} has {} inputs", writer.op_type, inputs.len())));
            }
            let open: Vec<usize> =
                inputs.iter().copied().filter(|input| !self.copies.contains_key(input)).collect();
            if !open.is_empty() {
                waiting.extend(open);
                if waiting.len() > MAX_NODES {
                    return Err(Reason::new(format!("it leads back through more than {MAX_NODES} nodes")));
                }
                continue;
            }
            let op_type = writer.op_type;
            let inputs: Vec<usize> =
                inputs.iter().map(|input| self.copies.get(input).copied().unwrap_or(*input)).collect();
            let output = self.add("", op_type, &inputs);
            self.steps.push((op_type, inputs, output));
            self.copies.insert(value, output);
            waiting.pop();
        }
        Ok(self.copies.get(&value).copied().unwrap_or(value))
    }

    /// The gradient of the sum of `y`'s elements by each value that leads to it.
    fn backwards(&mut self, y: usize) -> Result<HashMap<usize, usize>, Reason> {
        let shape = self.add("", "Shape", &[y]);
        let zeros = self.add("", "ConstantOfShape", &[shape]);
        let ones = self.add("", "Exp", &[zeros]);
        let ones = self.add("", "CastLike", &[ones, y]);
        let mut gradients = HashMap::from([(y, ones)]);
        let steps = std::mem::take(&mut self.steps);
        for (op_type, inputs, output) in steps.iter().rev() {
            let Some(&gradient) = gradients.get(output) else { continue };
            let (first, second) = (inputs.first().copied(), inputs.get(1).copied());
            let Some(first) = first else { continue };
            let mut parts: Vec<(usize, usize)> = Vec::new();
            match (*op_type, second) {
                ("Add", Some(second)) => parts.extend([(first, gradient), (second, gradient)]),
                ("Sub", Some(second)) => {
                    parts.extend([(first, gradient), (second, self.add("", "Neg", &[gradient]))]);
                }
                ("Mul", Some(second)) => {
                    parts.push((first, self.add("", "Mul", &[gradient, second])));
                    parts.push((second, self.add("", "Mul", &[gradient, first])));
                }
                ("Div", Some(second)) => {
                    let by_first = self.add("", "Div", &[gradient, second]);
                    let ratio = self.add("", "Mul", &[by_first, *output]);
                    parts.extend([(first, by_first), (second, self.add("", "Neg", &[ratio]))]);
                }
                ("Neg", _) => parts.push((first, self.add("", "Neg", &[gradient]))),
                ("Identity", _) => parts.push((first, gradient)),
                ("Exp", _) => parts.push((first, self.add("", "Mul", &[gradient, *output]))),
                ("Log", _) => parts.push((first, self.add("", "Div", &[gradient, first]))),
                ("Sqrt", _) => {
                    let twice = self.add("", "Add", &[*output, *output]);
                    parts.push((first, self.add("", "Div", &[gradient, twice])));
                }
                ("Sigmoid", _) | ("Tanh", _) => {
                    // s - s², and 1 - t².
                    let square = self.add("", "Mul", &[*output, *output]);
                    let from = if *op_type == "Sigmoid" {
                        *output
                    } else {
                        let zero = self.add("", "Sub", &[square, square]);
                        self.add("", "Exp", &[zero])
                    };
                    let slope = self.add("", "Sub", &[from, square]);
                    parts.push((first, self.add("", "Mul", &[gradient, slope])));
                }
                _ => {
                    return Err(Reason::new(format!(
                        "the derivative of {} is not supported",
                        quote(op_type)
                    )));
                }
            }
            for (input, part) in parts {
                // What was broadcast is summed.
                let part = self.add(INTERNAL_DOMAIN, SUM_LIKE, &[part, input]);
                let sum = match gradients.get(&input) {
                    Some(&other) => self.add("", "Add", &[other, part]),
                    None => part,
                };
                gradients.insert(input, sum);
            }
        }
        Ok(gradients)
    }
}
