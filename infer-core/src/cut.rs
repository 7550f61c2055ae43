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
use crate::tensor_type::TensorType;

/// A part has to do as much work again as the least for each so many bytes that it copies.
const COPIED_BYTES: u64 = 512;

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
        let most = u128::from(least_work) * u128::from(COPIED_BYTES + self.copied_bytes(nodes));
        u128::from(self.work(nodes)) > most / u128::from(COPIED_BYTES)
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
mod tests {
    use super::*;
    use crate::passes;
    use crate::passes::test_support::{assert_close, compiled, inputs, model, reference};
    use crate::plan::parts::{self, Parts};
    use crate::plan::{AlignedBytes, PlanParts, Port};
    use crate::runtime::{EngineOptions, Output, PartsEngine, registered_kernels};

    /// The turns of a graph whose nodes write values named `c…` where they have no kernels: `gpu a b, cpu c`.
    #[track_caller]
    fn turns(text: &str, least_work: u64) -> String {
        let graph = model(text);
        let mut cutting = Cutting::new(&graph);
        let name = |index: usize| graph.nodes[index].output(0).map_or("", |id| graph.value(id).name.as_str());
        let refused = (0..graph.nodes.len()).filter(|&index| name(index).starts_with('c'));
        cutting.refuse(refused.map(|index| (index, Reason::new("no kernel"))).collect());
        let turn = |turn: &Turn| {
            let side = if turn.is_gpu { "gpu" } else { "cpu" };
            let names: Vec<&str> = turn.nodes.iter().map(|&node| name(node)).collect();
            format!("{side} {}", names.join(" "))
        };
        cutting.turns(least_work).iter().map(turn).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn nodes_without_kernels_stand_between_two_parts() {
        let text = "input x 4,8
             a = Relu(x)
             b = Sigmoid(a)
             c = Tanh(b)
             d = Abs(c)
             e = Neg(d)
             output e";
        assert_eq!(turns(text, 0), "gpu a b, cpu c, gpu d e");
        assert_eq!(turns(text, 1000), "cpu a b c d e");
    }

    #[test]
    fn nodes_without_kernels_stand_at_both_ends() {
        let text = "input x 4,8
             c1 = Relu(x)
             a = Sigmoid(c1)
             c2 = Tanh(a)
             output c2";
        assert_eq!(turns(text, 0), "cpu c1, gpu a, cpu c2");
        assert_eq!(turns("input x 4,8\nc1 = Relu(x)\nc2 = Tanh(c1)\noutput c2", 0), "cpu c1 c2");
    }

    #[test]
    fn branches_share_turns() {
        // Two branches that take turns one after the other take them together.
        let text = "input x 4,8
             a1 = Relu(x)
             c1 = Sigmoid(a1)
             b1 = Tanh(c1)
             a2 = Abs(x)
             c2 = Neg(a2)
             b2 = Exp(c2)
             y = Add(b1, b2)
             output y";
        assert_eq!(turns(text, 0), "gpu a1 a2, cpu c1 c2, gpu b1 b2 y");
        // One that begins on the processor waits for the turn of the other.
        let text = "input x 4,8
             c1 = Relu(x)
             b1 = Sigmoid(c1)
             a2 = Abs(x)
             c2 = Neg(a2)
             output b1
             output c2";
        assert_eq!(turns(text, 0), "gpu a2, cpu c1 c2, gpu b1");
    }

    #[test]
    fn nodes_move_on_to_what_reads_them() {
        // The wide value is made where it is read; what reads a wide value and makes a narrow one stays.
        let text = "input x 4,1
             input v 4,64
             ints wide 4,64
             a = Expand(x, wide)
             s = ReduceSum(v) keepdims=1
             b = Relu(v)
             c = Tanh(b)
             d = Add(c, a)
             e = Mul(d, s)
             output e";
        assert_eq!(turns(text, 0), "gpu s b, cpu c, gpu a d e");
    }

    #[test]
    fn the_least_work_goes_to_the_processor_first() {
        // What is around the small part is one part then, and large enough to stay.
        let text = "input x 64,64
             a = Relu(x)
             c1 = ReduceMax(a) keepdims=0
             b = Neg(c1)
             c2 = Abs(b)
             d = Add(a, c2)
             output d";
        assert_eq!(turns(text, 0), "gpu a, cpu c1, gpu b, cpu c2, gpu d");
        assert_eq!(turns(text, 2), "gpu a, cpu c1 b c2, gpu d");
        assert_eq!(turns(text, 8200), "cpu a c1 b c2 d");
    }

    fn cut_of(text: &str, least_work: u64) -> (Graph, Cut) {
        let mut graph = model(text);
        passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
        // As if there were no kernels for `Tanh`.
        let (precision, info) = (Precision::Fp32, ModelInfo::default());
        let request = Request { precision, info, least_work, is_model: true };
        let cut = cut_by(&graph, &request, |graph| {
            let lowered = Lowered::or_nodes(graph, precision, info);
            let named = |index: &usize| graph.nodes[*index].op.name() == "Tanh";
            let refused: Vec<usize> = (0..graph.nodes.len()).filter(named).collect();
            if refused.is_empty() {
                return lowered;
            }
            Err(refused.into_iter().map(|index| (index, Reason::new("no kernel"))).collect())
        });
        (graph, cut)
    }

    /// A model with nodes that no GPU has kernels for, at both ends and between, and outputs of all kinds.
    const TEXT: &str = "input x 2,4,4
         input m 3,4
         random w 4,4
         floats known [2] 3.0,4.0
         p = MatMul(x, w)
         d = Tanh(p)
         e = Relu(d)
         f = Sigmoid(m)
         s = Add(f, w1)
         random w1 3,4
         q = MatMul(p, w)
         r = Mul(q, q)
         g = Tanh(r)
         h = Add(g, e)
         output h
         output s
         output d
         output known
         output m";

    #[test]
    fn what_has_all_kernels_is_not_cut() {
        let (_, cut) = cut_of("input x 1,8,5,7\ny = Relu(x)\noutput y", 1 << 40);
        assert!(cut.is_whole() && cut.refused.is_empty() && cut.spared.is_empty());
        assert_eq!(cut.outputs, [1]);
    }

    #[test]
    fn where_nothing_runs_on_a_gpu_there_are_no_parts() {
        let (graph, cut) = cut_of("input x 4,4\nd = Tanh(x)\ny = Neg(d)\noutput y", 1000);
        assert!(cut.parts.is_empty());
        assert_eq!((cut.refused.len(), cut.spared.len()), (1, 1));
        assert_eq!(graph.nodes[cut.refused[0].0].op.name(), "Tanh");
    }

    #[test]
    fn parts_compute_what_the_whole_computes() {
        for least_work in [0, 70, 200] {
            let (graph, cut) = cut_of(TEXT, least_work);
            assert!(!cut.is_whole() && !cut.parts.is_empty());
            let placed: Vec<usize> = cut.parts.iter().flat_map(|part| part.nodes.iter().copied()).collect();
            let mut sorted = placed.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..graph.nodes.len()).collect::<Vec<_>>(), "each node runs once");

            // Every part on the processor, through the bytes of the format.
            let cutting = Cutting::new(&graph);
            let all: Vec<Turn> = cut
                .parts
                .iter()
                .map(|part| Turn { is_gpu: matches!(part.body, Body::Gpu(_)), nodes: part.nodes.clone() })
                .collect();
            let needed = cutting.needed(&all);
            let mut plans = Vec::new();
            let mut table = Parts {
                inputs: ports(&graph, &graph.inputs),
                outputs: ports(&graph, &graph.outputs).into_iter().zip(cut.outputs.clone()).collect(),
                parts: Vec::new(),
            };
            for part in cut.parts {
                let body = match part.body {
                    Body::Gpu(_) => subgraph(&graph, &part.nodes, &needed).graph,
                    Body::Processor(graph) => graph,
                };
                plans.push(plan(body));
                table.parts.push(parts::Part {
                    side: parts::Side::Processor,
                    plan: 0..0,
                    inputs: part.inputs,
                    outputs: part.outputs,
                });
            }
            let bytes = AlignedBytes::copy_of(&table.write(&plans)).unwrap();
            let engine = PartsEngine::open(&bytes.into(), &[], &registered_kernels, EngineOptions::default());
            let engine = engine.unwrap();
            let original = model(TEXT);
            let given = inputs(&original);
            let expected = reference(&original, &given);
            let mut context = engine.context();
            for _ in 0..2 {
                let inputs: Vec<&[u8]> = given.iter().map(|input| &input.data()[..]).collect();
                let mut found: Vec<AlignedBytes> =
                    engine.outputs().map(|port| AlignedBytes::zeroed(port.ty.bytes()).unwrap()).collect();
                let mut slots: Vec<Output<'_>> =
                    found.iter_mut().map(|bytes| bytes.as_mut_slice().into()).collect();
                context.run(&inputs, &mut slots).unwrap();
                let found: Vec<_> = engine
                    .outputs()
                    .zip(&found)
                    .map(|(port, bytes)| {
                        let data = bytes.as_slice().to_vec().into();
                        crate::constant::Constant::new(port.ty.clone(), data).unwrap()
                    })
                    .collect();
                assert_close(&found, &expected, 2e-5, TEXT);
            }
        }
        // The reference of the whole is what the whole compiled computes, too.
        let graph = model(TEXT);
        let given = inputs(&graph);
        assert_close(&compiled(&graph, &given, Precision::Fp32), &reference(&graph, &given), 2e-5, TEXT);
    }

    fn ports(graph: &Graph, ids: &[ValueId]) -> Vec<Port> {
        let port = |&id: &ValueId| Port { name: graph.value(id).name.clone(), ty: graph.ty(id).clone() };
        ids.iter().map(port).collect()
    }

    fn plan(mut graph: Graph) -> Vec<u8> {
        let (inputs, outputs) = (ports(&graph, &graph.inputs), ports(&graph, &graph.outputs));
        passes::finish(&mut graph, |_, _| {}).unwrap();
        let calls = crate::lower::lower(&graph, Precision::Fp32, true, Default::default()).unwrap();
        let memory = crate::schedule::plan_memory(&calls).unwrap();
        let parts = PlanParts::new(&calls, &memory, &inputs, &outputs, ModelInfo::default()).unwrap();
        let mut bytes = Vec::new();
        parts.write_to(&mut bytes).unwrap();
        bytes
    }
}
