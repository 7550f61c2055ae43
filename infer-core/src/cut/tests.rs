//! Graphs cut into parts, and what the parts compute together.

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
        let engine =
            PartsEngine::open(&bytes.into(), None, &[], &registered_kernels, EngineOptions::default());
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
