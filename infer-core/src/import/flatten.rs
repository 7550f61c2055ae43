//! The nodes of a model with its local functions inlined, and the values between them by number.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use prost::Message;

use crate::diagnostic::{Diagnostic, Reason};
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
};
use crate::onnx::{normalize_domain, quote};

/// How deep functions may call functions.
const MAX_DEPTH: usize = 64;

/// What inlining may add: a node counts as many bytes as its names and attributes have. Functions that call functions
/// multiply, so that a small file can ask for more than any memory holds.
const MAX_INLINED_BYTES: usize = 1 << 26;

/// A model's nodes.
pub(super) struct Flat<'a> {
    /// The names of the values, all different.
    pub(super) values: Vec<String>,
    /// The nodes, in the order of the file.
    pub(super) nodes: Vec<FlatNode<'a>>,
    /// The numbers of the values of the main graph.
    pub(super) names: HashMap<&'a str, Option<usize>>,
}

/// A node that applies an operator.
pub(super) struct FlatNode<'a> {
    pub(super) name: String,
    pub(super) op_type: &'a str,
    pub(super) domain: &'a str,
    /// The version of the domain; `None` where it is not imported.
    pub(super) opset: Option<i64>,
    pub(super) attributes: AttributeList<'a>,
    /// The attributes that are graphs.
    pub(super) graphs: Vec<(&'a str, FlatGraph<'a>)>,
    /// First the operator's own inputs, then what its graphs read of the graph around.
    pub(super) inputs: Vec<Option<usize>>,
    /// How many of the inputs are the operator's own.
    pub(super) own_inputs: usize,
    pub(super) outputs: Vec<Option<usize>>,
    /// Why it is no such node: a call of a function that cannot be inlined.
    pub(super) refused: Option<Reason>,
}

/// A graph inside a node.
pub(super) struct FlatGraph<'a> {
    pub(super) proto: &'a GraphProto,
    pub(super) flat: Flat<'a>,
    /// Values of the graph around: the number here, and the input of the node that it is.
    pub(super) captures: Vec<(usize, usize)>,
}

/// Attributes under the names that they have at their node: one that refers to an attribute of the function around
/// it has the value of another name.
type AttributeList<'a> = Vec<(&'a str, &'a AttributeProto)>;

type Opsets<'a> = HashMap<&'a str, i64>;

/// Inlines the functions of `model`, called `name` in messages.
pub(super) fn flatten<'a>(
    name: &str,
    model: &'a ModelProto,
    graph: &'a GraphProto,
) -> Result<Flat<'a>, Diagnostic> {
    let mut functions = HashMap::new();
    for function in &model.functions {
        let key = (normalize_domain(&function.domain), function.name.as_str(), function.overload.as_str());
        if functions.insert(key, function).is_some() {
            let message = format!("{name}: function {} is defined twice", quote(&function.name));
            return Err(Diagnostic::model(message));
        }
    }
    let mut flattener = Flattener {
        functions,
        values: Vec::new(),
        taken: HashSet::new(),
        suffixes: HashMap::new(),
        nodes: Vec::new(),
        calls: Vec::new(),
        depth: 0,
        budget: MAX_INLINED_BYTES,
    };
    let opsets =
        opsets(&model.opset_import).map_err(|message| Diagnostic::model(format!("{name}: {message}")))?;
    let mut scope =
        Scope { prefix: String::new(), names: HashMap::new(), opsets: Rc::new(opsets), attributes: None };
    flattener.graph(graph, &mut scope).map_err(|message| Diagnostic::model(format!("{name}: {message}")))?;
    Ok(Flat { values: flattener.values, nodes: flattener.nodes, names: scope.names })
}

/// The versions of the domains.
pub(super) fn opsets(imports: &[OperatorSetIdProto]) -> Result<Opsets<'_>, String> {
    let mut opsets = HashMap::new();
    for import in imports {
        let domain = normalize_domain(&import.domain);
        match opsets.insert(domain, import.version) {
            Some(other) if other != import.version => {
                let domain = quote(if domain.is_empty() { "ai.onnx" } else { domain });
                return Err(format!("opset {other} and {} of {domain} are both imported", import.version));
            }
            _ => {}
        }
    }
    Ok(opsets)
}

/// A graph or a function's body while it is walked.
struct Scope<'a> {
    /// What the names of its values and nodes get before them.
    prefix: String,
    /// Its values; `None` for an input of a function that the call leaves out.
    names: HashMap<&'a str, Option<usize>>,
    opsets: Rc<Opsets<'a>>,
    /// The attributes of the call, in a function's body.
    attributes: Option<HashMap<&'a str, &'a AttributeProto>>,
}

struct Flattener<'a> {
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    values: Vec<String>,
    taken: HashSet<String>,
    suffixes: HashMap<String, u32>,
    nodes: Vec<FlatNode<'a>>,
    /// The functions around the current node.
    calls: Vec<&'a FunctionProto>,
    /// How many nodes are around the current graph.
    depth: usize,
    budget: usize,
}

impl<'a> Flattener<'a> {
    /// The number of the value `name`; `None` for the empty name, which stands for no value.
    fn value(&mut self, scope: &mut Scope<'a>, name: &'a str) -> Option<usize> {
        if name.is_empty() {
            return None;
        }
        if let Some(&known) = scope.names.get(name) {
            return known;
        }
        let id = self.new_value(format!("{}{name}", scope.prefix));
        scope.names.insert(name, Some(id));
        Some(id)
    }

    fn new_value(&mut self, name: String) -> usize {
        let mut unique = name.clone();
        while !self.taken.insert(unique.clone()) {
            let suffix = self.suffixes.entry(name.clone()).or_insert(0);
            *suffix += 1;
            unique = format!("{name}_{suffix}");
        }
        self.values.push(unique);
        self.values.len() - 1
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        if self.calls.is_empty() {
            return Ok(());
        }
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| {
            format!("inlining the model's functions gives more than {MAX_INLINED_BYTES} bytes of nodes")
        })?;
        Ok(())
    }

    /// Adds the nodes of a graph.
    fn graph(&mut self, graph: &'a GraphProto, scope: &mut Scope<'a>) -> Result<(), String> {
        // Before any name is made for a value of a function, so that the model's own names stay as they are.
        let interface = graph.input.iter().chain(&graph.output).map(|info| info.name.as_str());
        let named = interface.chain(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
        let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
        let named = named.chain(sparse.map(|values| values.name.as_str()));
        let used = graph.node.iter().flat_map(|node| node.input.iter().chain(&node.output));
        for value in named.chain(used.map(String::as_str)) {
            self.value(scope, value);
        }
        self.inline(&graph.node, scope)
    }

    /// A graph inside a node whose inputs are `inputs`; what it reads of the graph around it is added to them.
    fn nested(
        &mut self,
        graph: &'a GraphProto,
        around: &mut Scope<'a>,
        inputs: &mut Vec<Option<usize>>,
    ) -> Result<FlatGraph<'a>, String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("graphs lie more than {MAX_DEPTH} deep in nodes"));
        }
        let mut scope = Scope {
            prefix: around.prefix.clone(),
            names: HashMap::new(),
            opsets: around.opsets.clone(),
            attributes: around.attributes.clone(),
        };
        let outer = (
            std::mem::take(&mut self.values),
            std::mem::take(&mut self.taken),
            std::mem::take(&mut self.suffixes),
            std::mem::take(&mut self.nodes),
        );
        self.depth += 1;
        let result = self.graph(graph, &mut scope);
        self.depth -= 1;
        let flat = Flat {
            values: std::mem::replace(&mut self.values, outer.0),
            nodes: std::mem::replace(&mut self.nodes, outer.3),
            names: scope.names,
        };
        (self.taken, self.suffixes) = (outer.1, outer.2);
        result?;
        let own = graph.input.iter().map(|info| info.name.as_str());
        let own = own.chain(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
        let mut defined: HashSet<usize> =
            own.filter_map(|name| flat.names.get(name).copied().flatten()).collect();
        defined.extend(flat.nodes.iter().flat_map(|node| node.outputs.iter().flatten()));
        let mut captured: Vec<(usize, &'a str)> = flat
            .names
            .iter()
            .filter_map(|(name, id)| Some(((*id)?, *name)))
            .filter(|(id, _)| !defined.contains(id))
            .collect();
        captured.sort_unstable();
        let mut captures = Vec::with_capacity(captured.len());
        for (inner, name) in captured {
            let outer = self.value(around, name);
            let position = match inputs.iter().position(|input| outer.is_some() && *input == outer) {
                Some(known) => known,
                None => {
                    inputs.push(outer);
                    inputs.len() - 1
                }
            };
            captures.push((inner, position));
        }
        Ok(FlatGraph { proto: graph, flat, captures })
    }

    fn inline(&mut self, nodes: &'a [NodeProto], scope: &mut Scope<'a>) -> Result<(), String> {
        for (index, node) in nodes.iter().enumerate() {
            let names =
                node.input.iter().chain(&node.output).map(|name| name.len() + scope.prefix.len() + 64);
            self.spend(64 + scope.prefix.len() + names.sum::<usize>())?;
            let mut inputs: Vec<Option<usize>> =
                node.input.iter().map(|name| self.value(scope, name)).collect();
            let own_inputs = inputs.len();
            let mut attributes = AttributeList::with_capacity(node.attribute.len());
            let mut graphs = Vec::new();
            for attribute in &node.attribute {
                if let Some(value) = resolve(attribute, scope) {
                    if !self.calls.is_empty() {
                        let raw = value.t.as_ref().and_then(|tensor| tensor.raw_data.as_ref());
                        self.spend(value.encoded_len() - raw.map_or(0, |raw| raw.len()))?;
                    }
                    match &value.g {
                        Some(graph) if !self.is_function(node) => {
                            graphs.push((attribute.name.as_str(), self.nested(graph, scope, &mut inputs)?));
                        }
                        _ => attributes.push((attribute.name.as_str(), value)),
                    }
                }
            }
            let name = match node.output.iter().find(|output| !output.is_empty()) {
                _ if !node.name.is_empty() => format!("{}{}", scope.prefix, node.name),
                Some(output) => format!("{}{output}", scope.prefix),
                None => format!("{}{}_{index}", scope.prefix, node.op_type),
            };
            let domain = normalize_domain(&node.domain);
            let flat = FlatNode {
                name,
                op_type: &node.op_type,
                domain,
                opset: scope.opsets.get(domain).copied(),
                attributes,
                graphs,
                inputs,
                own_inputs,
                outputs: node.output.iter().map(|name| self.value(scope, name)).collect(),
                refused: None,
            };
            match self.functions.get(&(domain, node.op_type.as_str(), node.overload.as_str())).copied() {
                None => self.nodes.push(flat),
                Some(function) => self.call(function, flat, scope)?,
            }
        }
        Ok(())
    }

    /// Whether `node` calls a function of the model.
    fn is_function(&self, node: &NodeProto) -> bool {
        let domain = normalize_domain(&node.domain);
        self.functions.contains_key(&(domain, node.op_type.as_str(), node.overload.as_str()))
    }

    /// Puts the body of `function` in place of its call `node`.
    fn call(
        &mut self,
        function: &'a FunctionProto,
        mut node: FlatNode<'a>,
        around: &Scope<'a>,
    ) -> Result<(), String> {
        let mut scope = match self.enter(function, &node, around) {
            Ok(scope) => scope,
            Err(reason) => {
                node.refused = Some(reason);
                self.nodes.push(node);
                return Ok(());
            }
        };
        let mut copies = Vec::new();
        let given = |values: &[Option<usize>], index: usize| values.get(index).copied().flatten();
        for (index, name) in function.input.iter().enumerate() {
            scope.names.insert(name, given(&node.inputs, index));
        }
        for (index, name) in function.output.iter().enumerate() {
            let Some(output) = given(&node.outputs, index) else { continue };
            match scope.names.get(name.as_str()) {
                // An input, or a value that is given out twice, cannot be written as the output.
                Some(&source) => copies.push((source, output)),
                None => {
                    scope.names.insert(name, Some(output));
                }
            }
        }
        self.calls.push(function);
        let entries =
            scope.names.len() + scope.opsets.len() + scope.attributes.as_ref().map_or(0, HashMap::len);
        let result = self.spend(64 * entries).and_then(|()| self.inline(&function.node, &mut scope));
        self.calls.pop();
        result?;
        for (source, output) in copies {
            self.nodes.push(FlatNode {
                name: self.values.get(output).cloned().unwrap_or_default(),
                op_type: "Identity",
                domain: "",
                opset: scope.opsets.get("").or_else(|| around.opsets.get("")).copied(),
                attributes: Vec::new(),
                graphs: Vec::new(),
                inputs: vec![source],
                own_inputs: 1,
                outputs: vec![Some(output)],
                refused: None,
            });
        }
        Ok(())
    }

    /// The scope of a call, if it is one that can be inlined.
    fn enter(
        &self,
        function: &'a FunctionProto,
        node: &FlatNode<'a>,
        around: &Scope<'a>,
    ) -> Result<Scope<'a>, Reason> {
        let called = quote(&function.name);
        if self.calls.iter().any(|outer| std::ptr::eq(*outer, function)) {
            return Err(Reason::new(format!("function {called} calls itself")));
        }
        if self.calls.len() >= MAX_DEPTH {
            return Err(Reason::new(format!("functions call functions more than {MAX_DEPTH} deep")));
        }
        for (what, given, taken) in [
            ("inputs", node.inputs.len(), function.input.len()),
            ("outputs", node.outputs.len(), function.output.len()),
        ] {
            if given > taken {
                return Err(Reason::new(format!("{given} {what} for function {called}, which has {taken}")));
            }
        }
        let mut opsets = (*around.opsets).clone();
        opsets.extend(
            self::opsets(&function.opset_import)
                .map_err(|e| Reason::new(format!("function {called}: {e}")))?,
        );
        let defaults = function.attribute_proto.iter().map(|default| (default.name.as_str(), default));
        let mut attributes: HashMap<_, _> = defaults.collect();
        let required: HashSet<&str> = function.attribute.iter().map(String::as_str).collect();
        for (name, value) in &node.attributes {
            if attributes.insert(*name, *value).is_none() && !required.contains(name) {
                return Err(Reason::new(format!("function {called} has no attribute {}", quote(name))));
            }
        }
        let prefix = format!("{}/", node.name);
        Ok(Scope { prefix, names: HashMap::new(), opsets: Rc::new(opsets), attributes: Some(attributes) })
    }
}

/// The attribute itself, or, in a function's body, the one of the call that it refers to, if that is given.
fn resolve<'a>(attribute: &'a AttributeProto, scope: &Scope<'a>) -> Option<&'a AttributeProto> {
    match &scope.attributes {
        Some(given) if !attribute.ref_attr_name.is_empty() => {
            given.get(attribute.ref_attr_name.as_str()).copied()
        }
        _ => Some(attribute),
    }
}
