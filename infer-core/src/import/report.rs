//! Every failing node in one message, grouped by operator and reason.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Reason};
use crate::onnx::quote;
use crate::tensor_type::TensorType;

/// How many nodes of a group are named.
const NAMED: usize = 20;

/// How many groups are shown.
const SHOWN: usize = 50;

/// The operator that a node applies, as the model states it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The operator, with its domain where that is not ai.onnx.
    pub op_type: String,
    /// The version of the domain that the model imports; 0 where it imports none.
    pub opset: i64,
}

/// Failing nodes, in the order of the model.
#[derive(Debug, Default)]
pub struct Failures {
    groups: Vec<Group>,
    index: HashMap<(Origin, Reason), usize>,
}

#[derive(Debug)]
struct Group {
    origin: Origin,
    reason: Reason,
    nodes: Vec<String>,
    count: usize,
    inputs: Vec<(String, TensorType)>,
}

impl Failures {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Adds a node: what it applies, why it fails, and those inputs whose types are known.
    pub fn add(&mut self, node: &str, origin: &Origin, reason: Reason, inputs: Vec<(String, TensorType)>) {
        let key = (origin.clone(), reason);
        let index = match self.index.get(&key) {
            Some(&index) => index,
            None => {
                let (origin, reason) = key.clone();
                self.groups.push(Group { origin, reason, nodes: Vec::new(), count: 0, inputs });
                self.index.insert(key, self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
        if let Some(group) = self.groups.get_mut(index) {
            group.count += 1;
            if group.nodes.len() < NAMED {
                group.nodes.push(quote(node));
            }
        }
    }

    /// The message; `model` is the name of the file.
    pub fn into_diagnostic(self, model: &str) -> Diagnostic {
        let mut lines = Vec::new();
        for group in self.groups.iter().take(SHOWN) {
            group.describe(model, &mut lines);
        }
        if let Some(more @ 1..) = self.groups.len().checked_sub(SHOWN) {
            lines.push(format!("{model}: {more} more reasons are not shown"));
        }
        Diagnostic::model(lines.join("\n"))
    }
}

impl Group {
    fn describe(&self, model: &str, lines: &mut Vec<String>) {
        let node = if self.count == 1 { "node" } else { "nodes" };
        let more = match self.count - self.nodes.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let Origin { op_type, opset } = &self.origin;
        let opset = if *opset == 0 { String::new() } else { format!(", opset {opset}") };
        let nodes = self.nodes.join(", ");
        lines.push(format!("{model}: {node} {nodes}{more} ({op_type}{opset}): {}", self.reason.what));
        let types: Vec<String> =
            self.inputs.iter().map(|(name, ty)| format!("input {} is {ty}", quote(name))).collect();
        let supported = self.reason.supported.as_ref().map(|supported| format!("supported: {supported}"));
        let known: Vec<String> =
            supported.into_iter().chain((!types.is_empty()).then(|| types.join(", "))).collect();
        if !known.is_empty() {
            lines.push(format!("       {}", known.join("; ")));
        }
        lines.extend(self.reason.help.iter().map(|help| format!("       help: {help}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_type::DataType;

    #[test]
    fn a_node_is_described_with_what_is_known_of_it() {
        let mut failures = Failures::default();
        let origin = Origin { op_type: "Resize".into(), opset: 13 };
        let reason = Reason::new("mode \"cubic\" with antialias is not supported")
            .supported("\"nearest\", \"linear\", \"cubic\"")
            .help("re-export with antialias=0");
        let inputs = vec![("x".to_owned(), TensorType::new(DataType::F32, [1, 256, 13, 13]))];
        failures.add("resize_12", &origin, reason, inputs);
        assert_eq!(
            failures.into_diagnostic("yolov3.onnx").message,
            "yolov3.onnx: node `resize_12` (Resize, opset 13): mode \"cubic\" with antialias is not supported\n       \
             supported: \"nearest\", \"linear\", \"cubic\"; input `x` is f32[1,256,13,13]\n       \
             help: re-export with antialias=0"
        );
    }

    #[test]
    fn nodes_with_one_reason_share_a_group_of_twenty_names() {
        let mut failures = Failures::default();
        let origin = Origin { op_type: "NonZero".into(), opset: 0 };
        for index in 0..23 {
            failures.add(&index.to_string(), &origin, Reason::new("no"), Vec::new());
        }
        failures.add("other", &origin, Reason::new("neither"), Vec::new());
        let message = failures.into_diagnostic("m").message;
        assert!(message.starts_with("m: nodes `0`, `1`, "), "{message}");
        assert!(
            message.ends_with("`19` and 3 more (NonZero): no\nm: node `other` (NonZero): neither"),
            "{message}"
        );
    }

    #[test]
    fn groups_beyond_fifty_are_counted() {
        let mut failures = Failures::default();
        let origin = Origin { op_type: "A".into(), opset: 1 };
        for index in 0..52 {
            failures.add("n", &origin, Reason::new(index.to_string()), Vec::new());
        }
        assert!(failures.into_diagnostic("m").message.ends_with("m: 2 more reasons are not shown"));
    }
}
