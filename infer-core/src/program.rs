//! Nodes run one after the other with the shapes that their values have: what no plan can hold.
//!
//! A [`GraphRecord`] with its operators, ready to run. Bodies of control flow are programs too: what they read of the graph around them are further inputs of their node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::diagnostic::{Reason, quote};
use crate::error::{Error, ErrorKind};
use crate::execute::{Backend, execute};
use crate::node_values::NodeValues;
use crate::ops::{self, Attributes, ImportNode, Operator, Row};
use crate::record::{Attribute, GraphRecord, NodeRecord};
use crate::runtime::StepInfo;
use crate::session::{Region, region_of};
use crate::value::{Value, ValueType};

/// How deep graphs may lie in nodes of graphs.
const MAX_DEPTH: usize = 32;

/// The most values of a graph: each takes memory in every run.
const MAX_VALUES: usize = 1 << 22;

/// Why a node cannot be computed, and of what kind an error that is.
#[derive(Debug)]
pub(crate) struct Failure {
    pub kind: ErrorKind,
    pub reason: Reason,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Failure { kind: reason.kind.unwrap_or(ErrorKind::Input), reason }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Reason::of(&error).into()
    }
}

/// A node of a [`Program`].
#[derive(Debug)]
struct Node {
    name: String,
    op: Box<dyn Operator>,
    /// The static part it runs.
    region: Option<Arc<Region>>,
    inputs: Vec<Option<usize>>,
    outputs: Vec<Option<usize>>,
    /// Which of the outputs are asked for.
    asked: Vec<bool>,
    /// The values that nobody reads afterwards.
    last: Vec<usize>,
}

/// A graph that runs node by node.
#[derive(Debug)]
pub struct Program {
    values: usize,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    output_types: Vec<Option<ValueType>>,
    constants: Vec<(usize, Value)>,
    captures: Vec<(usize, usize)>,
    nodes: Vec<Node>,
}

impl Program {
    /// The program of `record`, its operators from the table.
    ///
    /// # Errors
    ///
    /// If an operator does not exist or refuses its attributes, or the record is damaged.
    pub fn new(record: &GraphRecord) -> Result<Self, Reason> {
        Program::with(record, &[])
    }

    /// [`Program::new`] with static parts, which nodes name by their position.
    ///
    /// # Errors
    ///
    /// Those of [`Program::new`].
    pub(crate) fn with(record: &GraphRecord, regions: &[Arc<Region>]) -> Result<Self, Reason> {
        let values = record.values as usize;
        if values > MAX_VALUES {
            return Err(Reason::new(format!("{values} values, more than {MAX_VALUES}")));
        }
        let at = |id: u32| match id as usize {
            id if id < values => Ok(id),
            id => Err(Reason::new(format!("value {id} of {values}"))),
        };
        let all = |ids: &[Option<u32>]| -> Result<Vec<Option<usize>>, Reason> {
            ids.iter().map(|id| id.map(at).transpose()).collect()
        };
        let mut nodes = Vec::with_capacity(record.nodes.len());
        for node in &record.nodes {
            let (inputs, outputs) = (all(&node.inputs)?, all(&node.outputs)?);
            let asked: Vec<bool> = outputs.iter().map(Option::is_some).collect();
            let region = region(node, regions);
            let op: Result<Box<dyn Operator>, Reason> = match &region {
                Some(region) => Ok(Box::new(region.clone())),
                None => import_record(node, &ops::find),
            };
            let op = op.map_err(|mut reason| {
                reason.what = format!("node {} ({}): {}", quote(&node.name), node.op_type, reason.what);
                reason
            })?;
            nodes.push(Node {
                name: node.name.clone(),
                op,
                region,
                inputs,
                outputs,
                asked,
                last: Vec::new(),
            });
        }
        let mut program = Program {
            values,
            inputs: record.inputs.iter().map(|(id, _)| at(*id)).collect::<Result<_, _>>()?,
            outputs: record.outputs.iter().map(|(id, _)| at(*id)).collect::<Result<_, _>>()?,
            output_types: record.outputs.iter().map(|(_, ty)| ty.clone()).collect(),
            constants: record
                .constants
                .iter()
                .map(|(id, value)| Ok((at(*id)?, value.clone())))
                .collect::<Result<_, Reason>>()?,
            captures: record
                .captures
                .iter()
                .map(|(id, input)| Ok((at(*id)?, *input as usize)))
                .collect::<Result<_, Reason>>()?,
            nodes,
        };
        program.find_last_readers();
        Ok(program)
    }

    /// How many inputs it has, what it reads of the graph around not counted.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// The declared types of its outputs.
    pub fn output_types(&self) -> &[Option<ValueType>] {
        &self.output_types
    }

    /// Whether two runs alike give different results, as random operators do.
    pub fn is_nondeterministic(&self) -> bool {
        self.nodes.iter().any(|node| node.op.is_nondeterministic())
    }

    fn find_last_readers(&mut self) {
        let mut is_read = vec![false; self.values];
        for &output in &self.outputs {
            is_read[output] = true;
        }
        for node in self.nodes.iter_mut().rev() {
            for &value in node.inputs.iter().chain(&node.outputs).flatten() {
                if !is_read[value] {
                    is_read[value] = true;
                    node.last.push(value);
                }
            }
        }
    }

    /// The outputs for these inputs, `around` being the inputs of the node around it.
    ///
    /// # Errors
    ///
    /// If a node cannot compute with the values it gets.
    pub fn run(
        &self,
        inputs: &[Value],
        around: &[Option<Value>],
        backend: &Backend,
    ) -> Result<Vec<Value>, Reason> {
        self.run_with(inputs, around, |node, inputs| {
            execute(&*node.op, inputs, &node.asked, backend).map_err(Failure::from)
        })
        .map_err(|failure| failure.reason)
    }

    /// [`Program::run`] of a whole model; `each` learns how long each of [`Program::steps`] took.
    ///
    /// # Errors
    ///
    /// Those of [`Program::run`], and those of the engines of static parts, each of its kind.
    pub(crate) fn run_parts(
        &self,
        inputs: &[Value],
        backend: &Backend,
        mut each: Option<&mut dyn FnMut(usize, Duration)>,
    ) -> Result<Vec<Value>, Failure> {
        let mut first = 0;
        self.run_with(inputs, &[], |node, inputs| match (&node.region, &mut each) {
            (Some(region), None) => {
                region.compute_with(&NodeValues { inputs, outputs: &node.asked, backend }, None)
            }
            (Some(region), Some(each)) => {
                let begin = first;
                first += region.steps().len();
                let values = NodeValues { inputs, outputs: &node.asked, backend };
                region.compute_with(&values, Some(&mut |index, time| each(begin + index, time)))
            }
            (None, each) => {
                let start = Instant::now();
                let results = execute(&*node.op, inputs, &node.asked, backend)?;
                if let Some(each) = each {
                    each(first, start.elapsed());
                    first += 1;
                }
                Ok(results)
            }
        })
    }

    /// What runs, in order: for a static part its kernel calls, else the node's operator.
    pub(crate) fn steps(&self) -> Vec<StepInfo<'_>> {
        let mut steps = Vec::new();
        for node in &self.nodes {
            match &node.region {
                Some(region) => steps.extend(region.steps()),
                None => steps.push(StepInfo::of_node(&node.name, node.op.name())),
            }
        }
        steps
    }

    /// The run, whose nodes `each` runs.
    fn run_with(
        &self,
        inputs: &[Value],
        around: &[Option<Value>],
        mut each: impl FnMut(&Node, &[Option<Value>]) -> Result<Vec<Value>, Failure>,
    ) -> Result<Vec<Value>, Failure> {
        if inputs.len() != self.inputs.len() {
            let (given, wanted) = (inputs.len(), self.inputs.len());
            return Err(Reason::new(format!("{given} inputs for a graph of {wanted}")).into());
        }
        let mut values: Vec<Option<Value>> = vec![None; self.values];
        for (id, value) in &self.constants {
            values[*id] = Some(value.clone());
        }
        for (id, input) in &self.captures {
            values[*id] = around.get(*input).cloned().flatten();
        }
        for (id, value) in self.inputs.iter().zip(inputs) {
            values[*id] = Some(value.clone());
        }
        for node in &self.nodes {
            let inputs: Vec<Option<Value>> =
                node.inputs.iter().map(|id| id.and_then(|id| values[id].clone())).collect();
            let missing = node.inputs.iter().zip(&inputs).any(|(id, value)| id.is_some() && value.is_none());
            let results =
                if missing { Err(Reason::new("an input has no value").into()) } else { each(node, &inputs) };
            let results = results.map_err(|mut failure| {
                let what = &failure.reason.what;
                failure.reason.what = format!("node {} ({}): {what}", quote(&node.name), node.op.name());
                failure
            })?;
            drop(inputs);
            for (id, value) in node.outputs.iter().zip(results) {
                if let Some(id) = id {
                    values[*id] = Some(value);
                }
            }
            for &id in &node.last {
                values[id] = None;
            }
        }
        let missing = || Reason::new("an output has no value");
        self.outputs.iter().map(|&id| values[id].clone().ok_or_else(|| missing().into())).collect()
    }
}

/// The static part that `node` runs, if it is such a node.
fn region(node: &NodeRecord, regions: &[Arc<Region>]) -> Option<Arc<Region>> {
    regions.get(region_of(node)?).cloned()
}

/// The operator of a record.
pub(crate) fn import_record(
    node: &NodeRecord,
    find: &dyn Fn(&str, &str) -> Option<&'static Row>,
) -> Result<Box<dyn Operator>, Reason> {
    if depth(node, 0) > MAX_DEPTH {
        return Err(Reason::new(format!("graphs lie more than {MAX_DEPTH} deep in nodes")));
    }
    let row =
        find(&node.domain, &node.op_type).ok_or_else(|| Reason::new("this operator is not supported"))?;
    let own = (node.own_inputs as usize).min(node.inputs.len());
    let import = ImportNode {
        op_type: node.op_type.clone(),
        opset: node.opset,
        attributes: Attributes::new(node.attributes.clone()),
        inputs: node.inputs[..own].iter().map(Option::is_some).collect(),
        outputs: node.outputs.iter().map(Option::is_some).collect(),
    };
    ops::import(row, import)
}

/// How deep graphs lie in `node`, at most one more than is allowed.
fn depth(node: &NodeRecord, above: usize) -> usize {
    if above > MAX_DEPTH {
        return above;
    }
    let graphs = node.attributes.iter().filter_map(|(_, value)| match value {
        Attribute::Graph(graph) => Some(graph),
        _ => None,
    });
    graphs.flat_map(|graph| &graph.nodes).map(|inner| depth(inner, above + 1)).max().unwrap_or(above)
}
