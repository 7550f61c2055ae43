//! Chooses a layout for every value and makes the changes between them explicit.
//!
//! Before: `y = Conv(x, w)` over row-major values. After: `x' = Reorder(x); y' = Conv(x', w); y = Reorder(y')`, x' and y'
//! blocked; a chain of nodes that can run blocked has changes at its ends only.
//!
//! Precondition: every other pass has run. Bit-exact.

use std::collections::HashMap;

use crate::calls::picture;
use crate::graph::{Graph, Layout, Node, ValueId};
use crate::lower::node_types;
use crate::ops::Blocking;
use crate::ops::reorder::Reorder;

/// Chooses a layout for every value.
pub fn convert_layout(graph: &mut Graph) -> bool {
    let mut converter = Converter { forms: HashMap::new(), nodes: Vec::new() };
    for mut node in std::mem::take(&mut graph.nodes) {
        let blocking = node_types(graph, &node, |types| node.op.blocking(types));
        let wide = Layout::Blocked { block: infer_kernels::call::BLOCK };
        let layouts = match blocking {
            Blocking::Never => None,
            Blocking::Follows => largest_is_blocked(graph, &node).then_some((wide, wide)),
            Blocking::Preferred { input_block } => Some((Layout::Blocked { block: input_block }, wide)),
        };
        for index in 0..node.inputs.len() {
            let Some(id) = node.inputs[index] else { continue };
            if graph.value(id).constant.is_some() {
                continue;
            }
            let wanted = match layouts {
                None => Layout::Plain,
                // What is blocked already is taken as it is: only plain pictures are converted to narrow blocks.
                Some((first, _)) if index == 0 && graph.value(id).layout == Layout::Plain => first,
                Some(_) => wide,
            };
            node.inputs[index] = Some(converter.form(graph, id, wanted));
        }
        for id in node.outputs.iter().flatten() {
            graph.value_mut(*id).layout = layouts.map_or(Layout::Plain, |(_, output)| output);
        }
        converter.nodes.push(node);
    }
    for index in 0..graph.outputs.len() {
        graph.outputs[index] = converter.form(graph, graph.outputs[index], Layout::Plain);
    }
    graph.nodes = converter.nodes;
    converter.forms.values().next().is_some()
}

/// Whether the input with the most elements is blocked.
fn largest_is_blocked(graph: &Graph, node: &Node) -> bool {
    let inputs = node.inputs.iter().flatten().filter(|id| graph.value(**id).constant.is_none());
    let largest = inputs.max_by_key(|id| graph.ty(**id).elements());
    largest.is_some_and(|id| graph.value(*id).layout != Layout::Plain)
}

struct Converter {
    /// The other forms of values that have been converted.
    forms: HashMap<(ValueId, Layout), ValueId>,
    nodes: Vec<Node>,
}

impl Converter {
    /// Value `id` in layout `wanted`, converted where it has another.
    fn form(&mut self, graph: &mut Graph, id: ValueId, wanted: Layout) -> ValueId {
        let has = graph.value(id).layout;
        if has == wanted {
            return id;
        }
        if let Some(&form) = self.forms.get(&(id, wanted)) {
            return form;
        }
        debug_assert_eq!(picture(graph.ty(id)).len(), 4);
        let (value, ty) = (graph.value(id), graph.ty(id).clone());
        let suffix = match wanted {
            Layout::Plain => "plain".to_owned(),
            Layout::Blocked { block } => format!("blocked{block}"),
        };
        let name = format!("{}:{suffix}", value.name);
        let form = graph.add_value(name.clone(), Some(ty));
        graph.value_mut(form).layout = wanted;
        self.nodes.push(Node {
            name,
            op: Box::new(Reorder),
            inputs: vec![Some(id)],
            outputs: vec![Some(form)],
        });
        self.forms.insert((id, wanted), form);
        form
    }
}
