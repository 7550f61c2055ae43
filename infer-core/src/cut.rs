//! Which parts of a static graph run on a GPU, and which on the processor.
//!
//! Where some nodes have no kernels on GPUs, the graph is cut into parts, each after those whose values it reads, that run
//! by turns on the GPU and on the processor:
//!
//! 1. A node is in the first part of its side after what it reads, so that the turns are as few as they can be. Which side
//!    begins is what gives fewer; the GPU where both give as many.
//! 2. A node moves on to the first part that reads it where what it reads there is no larger than what it writes: a mask
//!    is made where it is used, not copied.
//! 3. A part on the GPU that does little work, no more than [`Options::least_gpu_work`] and as much again for each 512
//!    bytes that it copies, runs on the processor after all, and what lies around it becomes one with it: the copies and the wait
//!    would take longer. Work is counted in floating-point operations and in elements read and written; views do none.
//!    The part of the least work goes first.
//!    That holds for a graph, too, that is itself a part of a model, but not for a whole model that has all its kernels.
//! 4. A part of its own may have other forms of values than it had within the whole: what it cannot be lowered with then
//!    runs on the processor, and all is cut anew.
//!
//! [`Options::least_gpu_work`]: crate::options::Options::least_gpu_work

use std::collections::HashMap;
use std::ops::Range;

use crate::diagnostic::Reason;
use crate::graph::{Graph, Node, ValueId};
use crate::lower_cuda::Lowered;
use crate::options::Precision;
use crate::plan::ModelInfo;
use crate::runtime::cuda::is_worth;
use crate::tensor_type::TensorType;

/// A graph as it runs where there is a GPU.
#[derive(Debug)]
pub struct Cut {
    /// The parts, in order; those on a GPU and those on the processor take turns, but for the last. None where nothing runs
    /// on a GPU.
    pub parts: Vec<Part>,
    /// The value that each output of the graph is: the graph's inputs come first, then what the parts write.
    pub outputs: Vec<usize>,
    /// The nodes on the processor for want of a kernel, by their positions in the graph, and why; in order.
    pub refused: Vec<(usize, Reason)>,
    /// The nodes on the processor that would do too little work on a GPU.
    pub spared: Vec<usize>,
}

/// A part of a [`Cut`].
#[derive(Debug)]
pub struct Part {
    /// Its nodes, by their positions in the graph.
    pub nodes: Vec<usize>,
    /// What runs there.
    pub body: Body,
    /// The values that its inputs are.
    pub inputs: Vec<usize>,
    /// The values that its outputs are.
    pub outputs: Range<usize>,
}

/// What runs in a [`Part`].
#[derive(Debug)]
pub enum Body {
    /// Calls on a GPU.
    Gpu(Box<Lowered>),
    /// A graph for the processor, before the passes that prepare lowering.
    Processor(Graph),
}

impl Cut {
    /// Whether all of the graph runs on a GPU.
    pub fn is_whole(&self) -> bool {
        matches!(self.parts.as_slice(), [Part { body: Body::Gpu(_), .. }])
    }
}

/// Where a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Gpu,
    /// On the processor: there is no kernel for it on GPUs.
    Refused(Reason),
    /// On the processor: it is too little work for a GPU.
    Spared,
}

impl Side {
    fn is_gpu(&self) -> bool {
        *self == Side::Gpu
    }
}

/// What is cut, and how.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What the GPU computes in.
    pub precision: Precision,
    /// What the plans say about the model.
    pub info: ModelInfo,
    /// [`Options::least_gpu_work`](crate::options::Options::least_gpu_work)
    pub least_work: u64,
    /// Whether the graph is the whole model, not a part between what only the run knows.
    pub is_model: bool,
}

/// Cuts a graph that [`passes::simplify`](crate::passes::simplify) has prepared.
pub fn cut(graph: &Graph, request: &Request) -> Cut {
    cut_by(graph, request, |graph| Lowered::or_nodes(graph, request.precision, request.info))
}

/// [`cut`] of a graph that `lower` lowers, or says which of its nodes it cannot lower, by their positions, and why.
pub fn cut_by(
    graph: &Graph,
    request: &Request,
    lower: impl Fn(&Graph) -> Result<Lowered, Vec<(usize, Reason)>>,
) -> Cut {
    let mut cutting = Cutting::new(graph);
    match lower(graph) {
        Ok(lowered) if request.is_model => return whole(graph, lowered),
        Ok(lowered) => {
            let all: Vec<usize> = (0..graph.nodes.len()).collect();
            if cutting.is_worth(&all, request.least_work) {
                return whole(graph, lowered);
            }
            return Cut { parts: Vec::new(), outputs: Vec::new(), refused: Vec::new(), spared: all };
        }
        Err(refused) => cutting.refuse(refused),
    }
    // What a part becomes, by its nodes and the values that it gives; most parts are as they were when all is cut anew.
    let mut known: HashMap<(Vec<usize>, Vec<ValueId>), Lowered> = HashMap::new();
    loop {
        let turns = cutting.turns(request.least_work);
        let needed = cutting.needed(&turns);
        let mut again = false;
        for turn in turns.iter().filter(|turn| turn.is_gpu) {
            let subgraph = subgraph(graph, &turn.nodes, &needed);
            let key = (turn.nodes.clone(), subgraph.outputs.clone());
            if known.contains_key(&key) {
                continue;
            }
            match lower(&subgraph.graph) {
                Ok(lowered) => drop(known.insert(key, lowered)),
                Err(refused) => {
                    again = true;
                    let none =
                        refused.is_empty().then(|| Reason::new("the GPU cannot give what is asked for"));
                    let all = none.iter().flat_map(|why| turn.nodes.iter().map(|&node| (node, why.clone())));
                    let named = refused.into_iter().map(|(node, why)| (turn.nodes[node], why));
                    cutting.refuse(all.chain(named).collect());
                }
            }
        }
        if !again {
            return cutting.finish(turns, &needed, known);
        }
    }
}

/// A graph that has all its kernels.
fn whole(graph: &Graph, lowered: Lowered) -> Cut {
    let (inputs, outputs) = (graph.inputs.len(), graph.outputs.len());
    let part = Part {
        nodes: (0..graph.nodes.len()).collect(),
        body: Body::Gpu(Box::new(lowered)),
        inputs: (0..inputs).collect(),
        outputs: inputs..inputs + outputs,
    };
    Cut {
        outputs: part.outputs.clone().collect(),
        parts: vec![part],
        refused: Vec::new(),
        spared: Vec::new(),
    }
}

/// The nodes that run at a time on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Turn {
    is_gpu: bool,
    nodes: Vec<usize>,
}

struct Cutting<'a> {
    graph: &'a Graph,
    sides: Vec<Side>,
    readers: Vec<Vec<usize>>,
    writers: Vec<Option<usize>>,
}

impl<'a> Cutting<'a> {
    fn new(graph: &'a Graph) -> Self {
        Cutting {
            graph,
            sides: vec![Side::Gpu; graph.nodes.len()],
            readers: graph.readers(),
            writers: graph.writers(),
        }
    }

    /// These nodes have no kernels.
    fn refuse(&mut self, nodes: Vec<(usize, Reason)>) {
        for (node, why) in nodes {
            if self.sides[node].is_gpu() {
                self.sides[node] = Side::Refused(why);
            }
        }
    }

    /// The values that are no constants among those of a list, each once.
    fn flowing(&self, ids: &[Option<ValueId>]) -> Vec<ValueId> {
        let mut flowing = Vec::new();
        for &id in ids.iter().flatten() {
            if self.graph.value(id).constant.is_none() && !flowing.contains(&id) {
                flowing.push(id);
            }
        }
        flowing
    }

    /// The turns, in order, once those of too little work on the GPU are on the processor.
    fn turns(&mut self, least_work: u64) -> Vec<Turn> {
        loop {
            let mut levels = self.levels();
            self.move_on(&mut levels);
            let mut turns: Vec<Turn> = Vec::new();
            for (node, &level) in levels.iter().enumerate() {
                if turns.len() <= level {
                    turns.resize(level + 1, Turn { is_gpu: false, nodes: Vec::new() });
                }
                turns[level].is_gpu = self.sides[node].is_gpu();
                turns[level].nodes.push(node);
            }
            turns.retain(|turn| !turn.nodes.is_empty());
            // Where a whole turn has moved on, those around it are one.
            turns.dedup_by(|next, turn| {
                let is_one = next.is_gpu == turn.is_gpu;
                if is_one {
                    turn.nodes.append(&mut next.nodes);
                    turn.nodes.sort_unstable();
                }
                is_one
            });
            let little = turns.iter().filter(|turn| turn.is_gpu && !self.is_worth(&turn.nodes, least_work));
            match little.min_by_key(|turn| self.work(&turn.nodes)) {
                Some(turn) => turn.nodes.iter().for_each(|&node| self.sides[node] = Side::Spared),
                None => return turns,
            }
        }
    }

    /// For each node the number of its turn: as early as can be.
    fn levels(&self) -> Vec<usize> {
        let beginning = |gpu_begins: bool| {
            let mut levels = vec![0; self.sides.len()];
            for (index, node) in self.graph.nodes.iter().enumerate() {
                let is_gpu = self.sides[index].is_gpu();
                let own = usize::from(is_gpu != gpu_begins);
                let after = node.inputs.iter().flatten().filter_map(|id| self.writers[id.index()]);
                let after =
                    after.map(|writer| levels[writer] + usize::from(self.sides[writer].is_gpu() != is_gpu));
                levels[index] = after.fold(own, usize::max);
            }
            levels
        };
        let (gpu, processor) = (beginning(true), beginning(false));
        if gpu.iter().max() <= processor.iter().max() { gpu } else { processor }
    }

    /// Moves nodes on to the first turn that reads them, where that copies no more.
    fn move_on(&self, levels: &mut [usize]) {
        let bytes = |ids: &[ValueId]| ids.iter().map(|&id| self.graph.ty(id).bytes()).sum::<usize>();
        for (index, node) in self.graph.nodes.iter().enumerate().rev() {
            let written = self.flowing(&node.outputs);
            let is_gpu = self.sides[index].is_gpu();
            // The last turn of the node's side that comes no later than a reader.
            let before =
                |&reader: &usize| levels[reader] - usize::from(self.sides[reader].is_gpu() != is_gpu);
            let readers = written.iter().flat_map(|id| &self.readers[id.index()]);
            let Some(target) = readers.map(before).min().filter(|&target| target > levels[index]) else {
                continue;
            };
            let mut read = self.flowing(&node.inputs);
            // What others read there is copied in any case.
            read.retain(|id| {
                let mut others = self.readers[id.index()].iter().filter(|&&reader| reader != index);
                !others.any(|&reader| levels[reader] == target)
            });
            if bytes(&read) <= bytes(&written) {
                levels[index] = target;
            }
        }
    }

    /// Whether nodes do enough work for a GPU to copy what they read and write.
    fn is_worth(&self, nodes: &[usize], least_work: u64) -> bool {
        is_worth(self.work(nodes), self.copied_bytes(nodes), least_work)
    }

    /// The size of what nodes read of others or of the graph's inputs, and of what they write for others or as outputs.
    fn copied_bytes(&self, nodes: &[usize]) -> u64 {
        let mut is_inside = vec![false; self.sides.len()];
        nodes.iter().for_each(|&node| is_inside[node] = true);
        let mut seen = vec![false; self.graph.values.len()];
        let mut bytes = 0;
        for &index in nodes {
            let node = &self.graph.nodes[index];
            let read = self.flowing(&node.inputs);
            let from_outside =
                |id: &ValueId| !self.writers[id.index()].is_some_and(|writer| is_inside[writer]);
            let written = self.flowing(&node.outputs);
            let to_outside = |id: &ValueId| {
                self.graph.outputs.contains(id)
                    || self.readers[id.index()].iter().any(|&reader| !is_inside[reader])
            };
            for id in read.into_iter().filter(from_outside).chain(written.into_iter().filter(to_outside)) {
                if !std::mem::replace(&mut seen[id.index()], true) {
                    bytes += self.graph.ty(id).bytes() as u64;
                }
            }
        }
        bytes
    }

    fn work(&self, nodes: &[usize]) -> u64 {
        let of = |&index: &usize| {
            let node = &self.graph.nodes[index];
            if node.op.is_view() {
                return 0;
            }
            let outputs: Vec<&TensorType> =
                node.outputs.iter().flatten().map(|&id| self.graph.ty(id)).collect();
            let flops = self.graph.with_types(node, |types| node.op.flops(types, &outputs));
            let values = [self.flowing(&node.inputs), self.flowing(&node.outputs)].concat();
            values.iter().map(|&id| self.graph.ty(id).elements() as u64).fold(flops, u64::saturating_add)
        };
        nodes.iter().map(of).fold(0, u64::saturating_add)
    }

    /// The values that are written in one turn and read in another, or are outputs of the graph.
    fn needed(&self, turns: &[Turn]) -> Vec<bool> {
        let mut turn_of = vec![0; self.sides.len()];
        for (number, turn) in turns.iter().enumerate() {
            turn.nodes.iter().for_each(|&node| turn_of[node] = number);
        }
        let mut needed = vec![false; self.graph.values.len()];
        for &id in &self.graph.outputs {
            needed[id.index()] = true;
        }
        for (index, node) in self.graph.nodes.iter().enumerate() {
            for id in node.inputs.iter().flatten() {
                let writer = self.writers[id.index()];
                needed[id.index()] |= writer.is_some_and(|writer| turn_of[writer] != turn_of[index]);
            }
        }
        needed
    }

    /// The cut into these turns, of which those on the GPU are `known`.
    fn finish(
        &self,
        turns: Vec<Turn>,
        needed: &[bool],
        mut known: HashMap<(Vec<usize>, Vec<ValueId>), Lowered>,
    ) -> Cut {
        let mut cut = Cut { parts: Vec::new(), outputs: Vec::new(), refused: Vec::new(), spared: Vec::new() };
        for (index, side) in self.sides.iter().enumerate() {
            match side {
                Side::Gpu => {}
                Side::Refused(why) => cut.refused.push((index, why.clone())),
                Side::Spared => cut.spared.push(index),
            }
        }
        if !turns.iter().any(|turn| turn.is_gpu) {
            return cut;
        }
        let graph = self.graph;
        let mut values: HashMap<ValueId, usize> =
            graph.inputs.iter().enumerate().map(|(position, &id)| (id, position)).collect();
        let mut count = graph.inputs.len();
        // Outputs that are known while compiling are given by the first part on the processor, or one without nodes.
        let mut constants: Vec<ValueId> = Vec::new();
        for &id in &graph.outputs {
            if graph.value(id).constant.is_some() && !constants.contains(&id) {
                constants.push(id);
            }
        }
        let nowhere = !constants.is_empty() && turns.iter().all(|turn| turn.is_gpu);
        let none = nowhere.then_some(Turn { is_gpu: false, nodes: Vec::new() });
        for Turn { is_gpu, nodes } in turns.into_iter().chain(none) {
            let Subgraph { graph: mut part, inputs, outputs } = subgraph(graph, &nodes, needed);
            let mut given = outputs.clone();
            if !is_gpu {
                for id in constants.drain(..) {
                    let copy = copy(graph, &mut part, id);
                    part.outputs.push(copy);
                    given.push(id);
                }
            }
            let body = match is_gpu.then(|| known.remove(&(nodes.clone(), outputs))).flatten() {
                Some(lowered) => Body::Gpu(Box::new(lowered)),
                None => Body::Processor(part),
            };
            let inputs = inputs.iter().filter_map(|id| values.get(id).copied()).collect();
            let first = count;
            for id in given {
                values.insert(id, count);
                count += 1;
            }
            cut.parts.push(Part { nodes, body, inputs, outputs: first..count });
        }
        cut.outputs = graph.outputs.iter().filter_map(|id| values.get(id).copied()).collect();
        cut
    }
}

/// Some nodes of a graph as a graph of their own.
struct Subgraph {
    graph: Graph,
    /// The values of the whole that are its inputs.
    inputs: Vec<ValueId>,
    /// Those that are its outputs.
    outputs: Vec<ValueId>,
}

/// The graph of these nodes, which gives those of its values that are `needed`.
fn subgraph(graph: &Graph, nodes: &[usize], needed: &[bool]) -> Subgraph {
    let mut part = Subgraph { graph: Graph::default(), inputs: Vec::new(), outputs: Vec::new() };
    let mut ids: HashMap<ValueId, ValueId> = HashMap::new();
    for &index in nodes {
        let mut node: Node = graph.nodes[index].clone();
        for id in node.inputs.iter_mut().flatten() {
            *id = *ids.entry(*id).or_insert_with(|| {
                let inner = copy(graph, &mut part.graph, *id);
                if graph.value(*id).constant.is_none() {
                    part.graph.inputs.push(inner);
                    part.inputs.push(*id);
                }
                inner
            });
        }
        for id in node.outputs.iter_mut().flatten() {
            let inner = copy(graph, &mut part.graph, *id);
            ids.insert(*id, inner);
            if needed[id.index()] && graph.value(*id).constant.is_none() {
                part.graph.outputs.push(inner);
                part.outputs.push(*id);
            }
            *id = inner;
        }
        part.graph.nodes.push(node);
    }
    part
}

fn copy(from: &Graph, to: &mut Graph, id: ValueId) -> ValueId {
    let value = from.value(id);
    let copy = to.add_value(value.name.clone(), value.ty.clone());
    to.value_mut(copy).constant.clone_from(&value.constant);
    copy
}

#[cfg(test)]
mod tests;
