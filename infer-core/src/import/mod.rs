//! A model file's graph → [`Graph`], through the operator table.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod attributes;
mod body;
mod dims;
mod flatten;
mod gradient;
mod order;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use dims::Binder;
pub(crate) use dims::Declared;
use flatten::{Flat, FlatNode};
pub use report::{Failures, Origin};

use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::{Diagnostic, Reason};
use crate::graph::{Graph, Node, ValueId};
use crate::onnx::proto::{GraphProto, ModelProto, SparseTensorProto, TensorProto};
use crate::onnx::{ModelFile, printable, quote, to_dense, to_value};
use crate::ops::{self, Attribute, Attributes, ImportNode, NodeTypes, Operator, Row};
use crate::record::NodeRecord;
use crate::tensor_type::{DataType, TensorType};
use crate::value::{Strings, Value, ValueType};

/// A model as a typed graph, with what is known of it beside.
#[derive(Debug)]
pub struct Model {
    /// The graph.
    pub graph: Graph,
    /// What is known of it beside.
    pub info: ModelInfo,
    /// For each node of the graph what it was in the model.
    pub(crate) originals: Vec<Original>,
    /// For each node of the graph whether it is a step of its own at run time, beside the plans of kernel calls.
    pub(crate) runs_alone: Vec<bool>,
    /// Known values that are no tensors of numbers.
    pub(crate) strings: Vec<(ValueId, Value)>,
    /// The types of the inputs.
    pub inputs: Vec<ValueType>,
    /// The types of the outputs: declared ones, where only the run knows them.
    pub outputs: Vec<ValueType>,
}

/// What is known of a model beside its graph.
#[derive(Clone, Debug, Default)]
pub struct ModelInfo {
    /// The name of the file.
    pub file: String,
    /// The tool that wrote it, with its version; empty where it does not say.
    pub producer: String,
    /// The version of the file format.
    pub ir_version: i64,
    /// The domains in use with their versions; ai.onnx has the empty name.
    pub opsets: Vec<(String, i64)>,
    /// The names of the graph's inputs.
    pub inputs: Vec<String>,
    /// The names of the graph's outputs.
    pub outputs: Vec<String>,
    /// Elements of the initializers in use.
    pub parameters: u64,
    /// Inputs and initializers that nothing reads.
    pub unused: Vec<String>,
    /// What is worth knowing but no error, such as stale types of values between.
    pub notes: Vec<String>,
}

impl ModelInfo {
    /// The version of ai.onnx; 0 where it is not imported.
    pub fn opset(&self) -> i64 {
        self.opsets.iter().find(|(domain, _)| domain.is_empty()).map_or(0, |(_, version)| *version)
    }
}

/// A node as it stands in the model.
#[derive(Clone, Debug)]
pub(crate) struct Original {
    /// What it applies, for messages.
    pub(crate) origin: Origin,
    /// The node as data, its values left out.
    pub(crate) record: Arc<NodeRecord>,
}

/// A graph whose types are still to be inferred, by [`crate::shape_inference::infer`]. Nodes that could not be
/// imported are in it as such, so that one message can name them and those whose types do not fit.
#[derive(Debug)]
pub struct Imported {
    pub(crate) graph: Graph,
    /// For each node of the graph what it was in the model.
    pub(crate) originals: Vec<Original>,
    /// Known values that are no tensors of numbers.
    pub(crate) strings: Vec<(ValueId, Value)>,
    /// The types of the inputs.
    pub(crate) inputs: Vec<ValueType>,
    /// What is declared of the outputs.
    pub(crate) outputs: Vec<Declared>,
    /// What is declared of values between.
    pub(crate) value_info: Vec<(ValueId, Declared)>,
    pub(crate) info: ModelInfo,
}

/// A node that could not be imported.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Reason);

impl Operator for Refused {
    fn name(&self) -> &'static str {
        "Refused"
    }
    fn infer(&self, _: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Err(self.0.clone())
    }
    fn lower(&self, _: &mut LowerNode<'_>) -> Result<(), Reason> {
        Err(self.0.clone())
    }
}

/// Looks an operator up by domain and name.
pub type Find<'a> = &'a dyn Fn(&str, &str) -> Option<&'static Row>;

/// Imports a model with its symbolic dimensions bound by `dims`: by name, or as `input[axis]` where an axis has none.
///
/// # Errors
///
/// Where the graph is not well formed, its inputs are not tensors of supported types, or symbols and bindings do
/// not match. Nodes whose operators refuse them are reported by [`crate::shape_inference::infer`].
pub fn import(file: &ModelFile, dims: &[(String, u64)]) -> Result<Imported, Vec<Diagnostic>> {
    import_with(&file.name, &file.proto, dims, &ops::find)
}

/// [`import`] of a model called `name` in messages, its operators looked up by `find`.
///
/// # Errors
///
/// As for [`import`].
pub fn import_with(
    name: &str,
    proto: &ModelProto,
    dims: &[(String, u64)],
    find: Find<'_>,
) -> Result<Imported, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let graph = proto
        .graph
        .as_ref()
        .ok_or_else(|| one(Diagnostic::model(format!("{name}: the file holds no graph"))))?;
    let mut flat = flatten::flatten(name, proto, graph).map_err(one)?;
    gradient::expand(&mut flat);
    let sources = Sources::of(name, graph, &flat).map_err(one)?;
    let order = order::sort(&flat.nodes, &sources.writers())
        .map_err(|cycle| one(describe_cycle(name, &flat, &cycle)))?;
    let mut importer = Importer {
        name,
        sources,
        ids: vec![None; flat.values.len()],
        graph: Graph::default(),
        originals: Vec::new(),
        strings: Vec::new(),
        inputs: Vec::new(),
        info: info(name, proto, graph),
        errors: Vec::new(),
        flat,
    };
    let declared = importer.interface(graph, dims);
    for index in order {
        importer.node(index, find);
    }
    importer.finish(graph, declared)
}

/// Where a value comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Nothing,
    Input,
    Initializer(&'a TensorProto),
    Sparse(&'a SparseTensorProto),
    Node(usize),
}

struct Sources<'a> {
    of: Vec<Source<'a>>,
}

impl<'a> Sources<'a> {
    /// The sources of all values, each of which must have exactly one.
    fn of(name: &str, graph: &'a GraphProto, flat: &Flat<'a>) -> Result<Self, Diagnostic> {
        let mut sources = Sources { of: vec![Source::Nothing; flat.values.len()] };
        let mut errors: Vec<String> = Vec::new();
        let mut error = |message: String| errors.push(format!("{name}: {message}"));
        let id = |value: &str| flat.names.get(value).copied().flatten();
        for tensor in &graph.initializer {
            match id(&tensor.name).and_then(|id| sources.of.get_mut(id)) {
                // Without a name it cannot be read.
                None => {}
                Some(source @ Source::Nothing) => *source = Source::Initializer(tensor),
                Some(_) => error(format!("initializer {} is defined twice", quote(&tensor.name))),
            }
        }
        for tensor in &graph.sparse_initializer {
            let Some(values) = &tensor.values else { continue };
            match id(&values.name).and_then(|id| sources.of.get_mut(id)) {
                None => {}
                Some(source @ Source::Nothing) => *source = Source::Sparse(tensor),
                Some(_) => error(format!("initializer {} is defined twice", quote(&values.name))),
            }
        }
        for input in &graph.input {
            match id(&input.name).and_then(|id| sources.of.get_mut(id)) {
                None => error("a graph input has no name".to_owned()),
                Some(source @ Source::Nothing) => *source = Source::Input,
                // In old files initializers are listed as inputs as well.
                Some(Source::Initializer(_) | Source::Sparse(_)) => {}
                Some(_) => error(format!("graph input {} is listed twice", quote(&input.name))),
            }
        }
        let mut failures = Failures::default();
        for (index, node) in flat.nodes.iter().enumerate() {
            for &output in node.outputs.iter().flatten() {
                let written_by = match sources.of.get_mut(output) {
                    None => continue,
                    Some(source @ Source::Nothing) => {
                        *source = Source::Node(index);
                        continue;
                    }
                    Some(Source::Input) => "a graph input".to_owned(),
                    Some(Source::Initializer(_) | Source::Sparse(_)) => "an initializer".to_owned(),
                    Some(Source::Node(other)) => {
                        let other = flat.nodes.get(*other).map_or("", |other| other.name.as_str());
                        format!("an output of node {}", quote(other))
                    }
                };
                let reason = format!("its output {} is {written_by} already", quote(flat.name(output)));
                failures.add(&node.name, &node.origin(), Reason::new(reason), Vec::new());
            }
        }
        for node in &flat.nodes {
            for &input in node.inputs.iter().flatten() {
                if matches!(sources.of.get(input), Some(Source::Nothing)) {
                    let input = flat.name(input);
                    let reason = format!(
                        "its input {} is not there: no node writes it, and it is neither a graph input nor an \
                         initializer",
                        quote(input)
                    );
                    failures.add(&node.name, &node.origin(), Reason::new(reason), Vec::new());
                }
            }
        }
        let mut listed = HashSet::new();
        for output in &graph.output {
            match id(&output.name).and_then(|id| sources.of.get(id)) {
                None => error("a graph output has no name".to_owned()),
                Some(Source::Nothing) => {
                    error(format!("no node writes graph output {}", quote(&output.name)))
                }
                Some(_) if !listed.insert(&output.name) => {
                    error(format!("graph output {} is listed twice", quote(&output.name)));
                }
                Some(_) => {}
            }
        }
        if graph.output.is_empty() {
            error("the graph has no outputs".to_owned());
        }
        if !failures.is_empty() {
            errors.push(failures.into_diagnostic(name).message);
        }
        if errors.is_empty() { Ok(sources) } else { Err(Diagnostic::model(shortened(errors))) }
    }

    fn writers(&self) -> Vec<Option<usize>> {
        let writer = |source: &Source<'_>| if let Source::Node(index) = source { Some(*index) } else { None };
        self.of.iter().map(writer).collect()
    }
}

/// The first messages, and how many more there are.
fn shortened(mut messages: Vec<String>) -> String {
    const SHOWN: usize = 50;
    if let Some(more @ 1..) = messages.len().checked_sub(SHOWN) {
        messages.truncate(SHOWN);
        messages.push(format!("and {more} more errors"));
    }
    messages.join("\n")
}

fn describe_cycle(name: &str, flat: &Flat<'_>, cycle: &[usize]) -> Diagnostic {
    const NAMED: usize = 20;
    let nodes =
        cycle.iter().take(NAMED).filter_map(|&index| flat.nodes.get(index)).map(|node| quote(&node.name));
    let named = nodes.collect::<Vec<_>>().join(" → ");
    let more = match cycle.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!(" and {more} more"),
        _ => String::new(),
    };
    Diagnostic::model(format!(
        "{name}: the graph has a cycle, each of these nodes reads what the one before writes: {named}{more}"
    ))
}

fn info(name: &str, proto: &ModelProto, graph: &GraphProto) -> ModelInfo {
    let opsets = proto.opset_import.iter();
    ModelInfo {
        file: name.to_owned(),
        producer: format!("{} {}", printable(&proto.producer_name), printable(&proto.producer_version))
            .trim()
            .to_owned(),
        ir_version: proto.ir_version.unwrap_or_default(),
        opsets: opsets.map(|i| (crate::onnx::normalize_domain(&i.domain).to_owned(), i.version)).collect(),
        outputs: graph.output.iter().map(|output| output.name.clone()).collect(),
        ..ModelInfo::default()
    }
}

impl Flat<'_> {
    fn name(&self, value: usize) -> &str {
        self.values.get(value).map_or("", String::as_str)
    }
}

impl FlatNode<'_> {
    fn origin(&self) -> Origin {
        let op_type = if self.domain.is_empty() {
            printable(self.op_type)
        } else {
            format!("{}.{}", printable(self.domain), printable(self.op_type))
        };
        Origin { op_type, opset: self.opset.unwrap_or(0) }
    }
}

struct Importer<'a> {
    name: &'a str,
    flat: Flat<'a>,
    sources: Sources<'a>,
    /// The values of the graph so far.
    ids: Vec<Option<ValueId>>,
    graph: Graph,
    originals: Vec<Original>,
    strings: Vec<(ValueId, Value)>,
    inputs: Vec<ValueType>,
    info: ModelInfo,
    errors: Vec<Diagnostic>,
}

/// What the file declares of outputs, and of values between by name.
struct Interface<'a> {
    outputs: Vec<Declared>,
    value_info: Vec<(&'a str, Declared)>,
}

impl<'a> Importer<'a> {
    fn error(&mut self, message: String) {
        self.errors.push(Diagnostic::model(format!("{}: {message}", self.name)));
    }

    /// Adds the inputs, and reads what is declared of other values.
    fn interface(&mut self, graph: &'a GraphProto, dims: &[(String, u64)]) -> Interface<'a> {
        let mut binder = Binder::new(dims);
        for input in &graph.input {
            let Some(id) = self.flat.names.get(input.name.as_str()).copied().flatten() else { continue };
            if !matches!(self.sources.of.get(id), Some(Source::Input)) {
                continue;
            }
            let ty = binder.input(input).unwrap_or_else(|e| {
                self.error(format!("graph input {}: {e}", quote(&input.name)));
                None
            });
            let value = self.graph.add_value(input.name.clone(), ty.as_ref().and_then(ValueType::as_static));
            self.inputs.extend(ty);
            self.graph.inputs.push(value);
            self.info.inputs.push(input.name.clone());
            if let Some(slot) = self.ids.get_mut(id) {
                *slot = Some(value);
            }
        }
        let mut outputs = Vec::with_capacity(graph.output.len());
        for output in &graph.output {
            match binder.output(output) {
                Ok(declared) => outputs.push(declared),
                Err(e) => self.error(format!("graph output {}: {e}", quote(&output.name))),
            }
        }
        let known = |info: &'a crate::onnx::proto::ValueInfoProto| {
            // What is no tensor is no value of this graph.
            Some((info.name.as_str(), binder.value_info(info).ok()?))
        };
        let value_info = graph.value_info.iter().filter_map(known).collect();
        self.errors.extend(binder.finish(self.name));
        Interface { outputs, value_info }
    }

    /// The value of the graph that stands for value `id` of the file.
    fn value(&mut self, id: usize) -> ValueId {
        if let Some(Some(known)) = self.ids.get(id) {
            return *known;
        }
        let name = self.flat.name(id).to_owned();
        let value = match self.sources.of.get(id) {
            Some(Source::Initializer(tensor)) => self.initializer(name, to_value(tensor)),
            Some(Source::Sparse(tensor)) => self.initializer(name, to_dense(tensor).map(Value::Tensor)),
            _ => self.graph.add_value(name, None),
        };
        if let Some(slot) = self.ids.get_mut(id) {
            *slot = Some(value);
        }
        value
    }

    fn initializer(&mut self, name: String, value: Result<Value, Reason>) -> ValueId {
        match value {
            Ok(value) => {
                self.info.parameters +=
                    value.shape().map_or(0, |shape| shape.iter().fold(1u64, |n, &extent| n * extent as u64));
                self.known(name, value)
            }
            Err(reason) => {
                self.error(format!("initializer {}: {}", quote(&name), reason.what));
                self.graph.add_value(name, None)
            }
        }
    }

    /// Adds a value that is known.
    fn known(&mut self, name: String, value: Value) -> ValueId {
        match value {
            Value::Tensor(constant) => self.graph.add_constant(name, constant),
            other => {
                let id = self.graph.add_value(name, None);
                self.strings.push((id, other));
                id
            }
        }
    }

    fn values(&mut self, ids: &[Option<usize>]) -> Vec<Option<ValueId>> {
        let used = ids.len() - ids.iter().rev().take_while(|id| id.is_none()).count();
        ids.iter().take(used).map(|id| id.map(|id| self.value(id))).collect()
    }

    /// Adds node `index` of the file.
    fn node(&mut self, index: usize, find: Find<'_>) {
        let Some(node) = self.flat.nodes.get(index) else { return };
        let origin = node.origin();
        let name = node.name.clone();
        let (input_ids, output_ids) = (node.inputs.clone(), node.outputs.clone());
        let imported = if is_constant(node) {
            constant_node(node).map(Imports::Known)
        } else {
            import_node(node, find).map(|(op, record)| Imports::Operator(op, record))
        };
        let outputs = self.values(&output_ids);
        let (op, record): (Box<dyn Operator>, _) = match imported {
            Ok(Imports::Known(value)) => {
                if let [Some(output)] = outputs.as_slice() {
                    match value {
                        Value::Tensor(constant) => {
                            let value = self.graph.value_mut(*output);
                            value.ty = Some(constant.ty().clone());
                            value.constant = Some(constant);
                        }
                        other => self.strings.push((*output, other)),
                    }
                }
                return;
            }
            Ok(Imports::Operator(op, record)) => (op, record),
            Err(reason) => (Box::new(Refused(reason)), NodeRecord::default()),
        };
        let inputs = self.values(&input_ids);
        self.graph.nodes.push(Node { name, op: op.into(), inputs, outputs });
        self.originals.push(Original { origin, record: Arc::new(record) });
    }

    fn finish(mut self, graph: &'a GraphProto, declared: Interface<'a>) -> Result<Imported, Vec<Diagnostic>> {
        for output in &graph.output {
            if let Some(id) = self.flat.names.get(output.name.as_str()).copied().flatten() {
                let value = self.value(id);
                self.graph.outputs.push(value);
            }
        }
        if !self.errors.is_empty() {
            // Without types of the inputs inference says nothing more; what import found is said now.
            let mut failures = Failures::default();
            for (node, original) in self.graph.nodes.iter().zip(&self.originals) {
                if let Some(Refused(reason)) = node.op_as() {
                    failures.add(&node.name, &original.origin, reason.clone(), Vec::new());
                }
            }
            if !failures.is_empty() {
                self.errors.push(failures.into_diagnostic(self.name));
            }
            return Err(self.errors);
        }
        let id_of = |name: &str| {
            let id = self.flat.names.get(name).copied().flatten()?;
            self.ids.get(id).copied().flatten()
        };
        let known = |(name, declared): (&str, Declared)| Some((id_of(name)?, declared));
        let value_info = declared.value_info.into_iter().filter_map(known).collect();
        let read: HashSet<ValueId> = self
            .graph
            .nodes
            .iter()
            .flat_map(|node| node.inputs.iter().flatten())
            .chain(&self.graph.outputs)
            .copied()
            .collect();
        let is_read = |id: &&ValueId| read.contains(*id);
        let inputs =
            self.graph.inputs.iter().filter(|id| !is_read(id)).map(|&id| self.graph.value(id).name.clone());
        let unread = |tensor: &&TensorProto| !tensor.name.is_empty() && id_of(&tensor.name).is_none();
        let initializers = graph.initializer.iter().filter(unread).map(|tensor| tensor.name.clone());
        self.info.unused = inputs.chain(initializers).collect();
        Ok(Imported {
            graph: self.graph,
            originals: self.originals,
            strings: self.strings,
            inputs: self.inputs,
            outputs: declared.outputs,
            value_info,
            info: self.info,
        })
    }
}

/// What a node of the file becomes.
enum Imports {
    Known(Value),
    Operator(Box<dyn Operator>, NodeRecord),
}

fn is_constant(node: &FlatNode<'_>) -> bool {
    node.op_type == "Constant" && node.domain.is_empty() && node.refused.is_none()
}

/// The operator of a node, and the node as data.
fn import_node(node: &FlatNode<'_>, find: Find<'_>) -> Result<(Box<dyn Operator>, NodeRecord), Reason> {
    if let Some(reason) = &node.refused {
        return Err(reason.clone());
    }
    let row = find(node.domain, node.op_type).ok_or_else(|| {
        Reason::new("this operator is not supported")
            .help("export the model again without it, or simplify the model")
    })?;
    let opset = node.opset.ok_or_else(|| {
        let domain = if node.domain.is_empty() { "ai.onnx" } else { node.domain };
        Reason::new(format!("the model imports no version of domain {}", quote(domain)))
    })?;
    let present = |ids: &[Option<usize>]| {
        let mut present: Vec<bool> = ids.iter().map(Option::is_some).collect();
        while present.last() == Some(&false) {
            present.pop();
        }
        present
    };
    let own = node.inputs.get(..node.own_inputs).unwrap_or(&node.inputs);
    let (inputs, outputs) = (present(own), present(&node.outputs));
    let mut entries = attributes::convert(&node.attributes)?;
    for (name, graph) in &node.graphs {
        entries.push(((*name).to_owned(), Attribute::Graph(Arc::new(body::convert(graph, find)?))));
    }
    let record = NodeRecord {
        name: node.name.clone(),
        domain: node.domain.to_owned(),
        op_type: node.op_type.to_owned(),
        opset,
        attributes: entries.clone(),
        own_inputs: node.own_inputs as u32,
        ..NodeRecord::default()
    };
    let attributes = Attributes::new(entries);
    let op = ops::import(
        row,
        ImportNode { op_type: node.op_type.to_owned(), opset, attributes, inputs, outputs },
    )?;
    Ok((op, record))
}

/// The value of a Constant node.
fn constant_node(node: &FlatNode<'_>) -> Result<Value, Reason> {
    let one_output = matches!(node.outputs.as_slice(), [Some(_)]);
    if !one_output || node.inputs.iter().any(Option::is_some) {
        return Err(Reason::new("a constant has no inputs and one output"));
    }
    let [(name, attribute)] = node.attributes.as_slice() else {
        return Err(Reason::new(format!("a constant has one attribute, not {}", node.attributes.len())));
    };
    if let ("sparse_value", Some(sparse)) = (*name, &attribute.sparse_tensor) {
        return to_dense(sparse).map(Value::Tensor);
    }
    let mut entries = attributes::convert(&node.attributes)?;
    let scalar = |dtype| TensorType::new(dtype, []);
    let strings = |shape: &[usize], strings: Vec<String>| Strings::new(shape, strings).map(Value::Strings);
    let value = match (*name, entries.pop().map(|(_, value)| value)) {
        ("value", Some(Attribute::Tensor(value))) => Some(Value::Tensor(value)),
        ("value", Some(Attribute::StringTensor(value))) => Some(Value::Strings(value)),
        ("value_int", Some(Attribute::Int(value))) => {
            Some(Value::Tensor(Constant::of(scalar(DataType::I64), &[value])))
        }
        ("value_ints", Some(Attribute::Ints(values))) => Some(Value::Tensor(Constant::of_i64(&values))),
        ("value_float", Some(Attribute::Float(value))) => Some(Value::Tensor(Constant::scalar_f32(value))),
        ("value_floats", Some(Attribute::Floats(values))) => {
            Some(Value::Tensor(Constant::of(TensorType::new(DataType::F32, [values.len()]), &values)))
        }
        ("value_string", Some(Attribute::String(value))) => strings(&[], vec![value]),
        ("value_strings", Some(Attribute::Strings(values))) => strings(&[values.len()], values),
        _ => None,
    };
    value.ok_or_else(|| {
        Reason::new(format!("attribute {} is not supported", quote(name))).supported(
            "value, sparse_value, value_int, value_ints, value_float, value_floats, value_string, value_strings",
        )
    })
}
