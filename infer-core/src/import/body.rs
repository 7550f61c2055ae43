//! Graphs inside nodes, as data: nobody infers their types, so they run node by node.

use std::collections::HashMap;

use super::dims::Binder;
use super::flatten::FlatGraph;
use super::{Find, Imports, constant_node, import_node, is_constant, order};
use crate::diagnostic::{Reason, quote};
use crate::onnx::proto::ValueInfoProto;
use crate::onnx::{to_dense, to_value};
use crate::record::{GraphRecord, NodeRecord};
use crate::value::{Value, ValueType};

/// The graph as data, each of its nodes imported once to find what is wrong.
pub(super) fn convert(graph: &FlatGraph<'_>, find: Find<'_>) -> Result<GraphRecord, Reason> {
    let flat = &graph.flat;
    let id = |name: &str| flat.names.get(name).copied().flatten();
    let mut record = GraphRecord { values: count(flat.values.len()), ..GraphRecord::default() };

    let mut initialised: HashMap<usize, Value> = HashMap::new();
    for tensor in &graph.proto.initializer {
        if let Some(id) = id(&tensor.name) {
            initialised.insert(id, to_value(tensor).map_err(|reason| within(&tensor.name, reason))?);
        }
    }
    for tensor in &graph.proto.sparse_initializer {
        if let Some(id) = tensor.values.as_ref().and_then(|values| id(&values.name)) {
            initialised.insert(id, Value::Tensor(to_dense(tensor)?));
        }
    }
    for input in &graph.proto.input {
        match id(&input.name) {
            None => return Err(Reason::new("an input of its graph has no name")),
            Some(id) if initialised.contains_key(&id) => {}
            Some(id) => record.inputs.push((count(id), declared(input)?)),
        }
    }
    for output in &graph.proto.output {
        let id = id(&output.name).ok_or_else(|| Reason::new("an output of its graph has no name"))?;
        record.outputs.push((count(id), declared(output)?));
    }
    let mut initialised: Vec<(usize, Value)> = initialised.into_iter().collect();
    initialised.sort_by_key(|(id, _)| *id);
    record.constants.extend(initialised.into_iter().map(|(id, value)| (count(id), value)));
    record.captures.extend(graph.captures.iter().map(|&(inner, input)| (count(inner), count(input))));

    let mut writers = vec![None; flat.values.len()];
    for (index, node) in flat.nodes.iter().enumerate() {
        for &output in node.outputs.iter().flatten() {
            if let Some(writer @ None) = writers.get_mut(output) {
                *writer = Some(index);
            } else {
                return Err(Reason::new(format!(
                    "two nodes of its graph write the output of {}",
                    quote(&node.name)
                )));
            }
        }
    }
    let order = order::sort(&flat.nodes, &writers).map_err(|_| Reason::new("its graph has a cycle"))?;
    for node in order.into_iter().filter_map(|index| flat.nodes.get(index)) {
        let imported = if is_constant(node) {
            constant_node(node).map(Imports::Known)
        } else {
            import_node(node, find).map(|(op, record)| Imports::Operator(op, record))
        };
        match imported.map_err(|reason| within(&format!("{} ({})", node.name, node.op_type), reason))? {
            Imports::Known(value) => {
                if let Some(&Some(output)) = node.outputs.first() {
                    record.constants.push((count(output), value));
                }
            }
            Imports::Operator(_, imported) => record.nodes.push(NodeRecord {
                inputs: node.inputs.iter().map(|id| id.map(count)).collect(),
                outputs: node.outputs.iter().map(|id| id.map(count)).collect(),
                ..imported
            }),
        }
    }
    Ok(record)
}

/// The file format numbers values with 32 bits; more are not in any file that can be read.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn declared(info: &ValueInfoProto) -> Result<Option<ValueType>, Reason> {
    Binder::new(&[]).value_type(info, None).map_err(|what| within(&info.name, Reason::new(what)))
}

fn within(name: &str, mut reason: Reason) -> Reason {
    reason.what = format!("in its graph, {}: {}", quote(name), reason.what);
    reason
}
