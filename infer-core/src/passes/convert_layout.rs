//! Chooses a layout for every value and makes the changes between them explicit.
//!
//! Before: `y = Conv(x, w)` over row-major values. After: `x' = Reorder(x); y' = Conv(x', w); y = Reorder(y')`, x' and y'
//! blocked; a chain of nodes that can run blocked has changes at its ends only.
//!
//! Precondition: every other pass has run. Bit-exact.

use std::collections::HashMap;
use std::sync::Arc;

use crate::graph::{Graph, Layout, Node, ValueId};
use crate::ops::Blocking;
use crate::ops::reorder::Reorder;
use crate::passes::pattern::unused_name;

/// Chooses a layout for every value.
pub fn convert_layout(graph: &mut Graph) -> bool {
    let mut converter = Converter { forms: HashMap::new(), nodes: Vec::new() };
    for mut node in std::mem::take(&mut graph.nodes) {
        let blocking = graph.with_types(&node, |types| node.op.blocking(types));
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
    !converter.forms.is_empty()
}

/// Whether the input with the most elements is blocked, or one of several as large.
fn largest_is_blocked(graph: &Graph, node: &Node) -> bool {
    let inputs = node.inputs.iter().flatten().filter(|id| graph.value(**id).constant.is_none());
    let sizes = inputs.map(|id| (graph.ty(*id).elements(), graph.value(*id).layout != Layout::Plain));
    sizes.max().is_some_and(|(_, blocked)| blocked)
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
        let (value, ty) = (graph.value(id), graph.ty(id).clone());
        let suffix = match wanted {
            Layout::Plain => "plain".to_owned(),
            Layout::Blocked { block } => format!("blocked{block}"),
        };
        let name = unused_name(graph, &format!("{}:{suffix}", value.name));
        let form = graph.add_value(name.clone(), Some(ty));
        graph.value_mut(form).layout = wanted;
        self.nodes.push(Node {
            name,
            op: Arc::new(Reorder),
            inputs: vec![Some(id)],
            outputs: vec![Some(form)],
        });
        self.forms.insert((id, wanted), form);
        form
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{brief, check_pass, check_pass_does_nothing, model};

    #[test]
    fn layouts_change_at_the_ends_of_a_chain() {
        let graph = check_pass(
            convert_layout,
            "input x 1,3,8,8
             random w 20,3,3,3
             random v 16,20,3,3
             t = Conv(x, w)
             r = Exp(t)
             u = Conv(r, v)
             y = Flatten(u)
             output y
             output r",
            "x:blocked3 = Reorder(x)
t = Conv(x:blocked3, w)
r = Exp(t)
u = Conv(r, v)
u:plain = Reorder(u)
y = Flatten(u:plain)
r:plain = Reorder(r)",
        );
        let layout = |name: &str| graph.values.iter().find(|value| value.name == name).unwrap().layout;
        assert_eq!(layout("x:blocked3"), Layout::Blocked { block: 3 });
        assert_eq!(layout("r"), Layout::Blocked { block: 16 });
        assert_eq!(layout("u:plain"), Layout::Plain);
    }

    #[test]
    fn a_value_is_converted_once_for_all_its_readers() {
        check_pass(
            convert_layout,
            "input x 1,16,5,5
             random w 16,16,3,3
             random v 16,16,1,1
             s = Conv(x, w) pads=[1,1,1,1]
             t = Conv(x, v)
             a = Add(s, x)
             b = Add(a, t)
             y = Transpose(b)
             z = Softmax(b)
             output y
             output z",
            "x:blocked16 = Reorder(x)
s = Conv(x:blocked16, w)
t = Conv(x:blocked16, v)
a = Add(s, x:blocked16)
b = Add(a, t)
b:plain = Reorder(b)
y = Transpose(b:plain)
z = Softmax(b:plain)",
        );
    }

    #[test]
    fn the_largest_input_decides_for_nodes_that_take_either() {
        check_pass(
            convert_layout,
            "input x 1,16,5,5
             input g 1,16,1,1
             random w 16,16,1,1
             t = Conv(x, w)
             s = Mul(g, t)
             p = GlobalAveragePool(s)
             y = Mul(x, p)
             output y",
            "x:blocked16 = Reorder(x)
t = Conv(x:blocked16, w)
g:blocked16 = Reorder(g)
s = Mul(g:blocked16, t)
p = GlobalAveragePool(s)
p:plain = Reorder(p)
y = Mul(x, p:plain)",
        );
    }

    #[test]
    fn graphs_without_pictures_stay_plain_and_names_stay_unique() {
        check_pass_does_nothing(
            convert_layout,
            "input x 2,3
             random w 3,4
             t = MatMul(x, w)
             y = Relu(t)
             output y",
        );
        let mut graph = model(
            "input x 1,16,5,5
             input x:blocked16 2
             random w 16,16,1,1
             y = Conv(x, w)
             z = Relu(x:blocked16)
             output y
             output z",
        );
        assert!(convert_layout(&mut graph));
        graph.verify().unwrap();
        assert!(brief(&graph).starts_with("x:blocked16:"), "{}", brief(&graph));
    }
}
