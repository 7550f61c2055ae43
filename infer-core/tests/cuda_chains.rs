//! Chains of elementwise functions on a GPU: which calls become one, and that one computes what they did.
//!
//! Programs are also run here as they are written, element by element, so that what the compiler makes of a graph is
//! checked without a GPU too.
#![cfg(all(feature = "compiler", feature = "cuda"))]

extern crate infer_core;

use std::collections::HashMap;

use half::{bf16, f16};
use infer_core::calls::{BufferId, BufferKind, KernelCall, Span};
use infer_core::constant::Constant;
use infer_core::lower_cuda::Lowered;
use infer_core::options::Precision;
use infer_core::passes;
use infer_core::plan::ModelInfo;
use infer_kernels::call::{Activation, ActivationKind};
use infer_kernels::cuda::{AXES, CHAIN_INPUTS, Chain, ElementOp, ElementType, Elementwise, find, step};
use support::gpu::{PRECISIONS, assert_valid, open, outputs};
use support::{assert_close, inputs, model, numbers, reference};

#[allow(dead_code, reason = "shared with the tests of the processor")]
mod support;

fn lowered(text: &str, precision: Precision) -> Lowered {
    let mut graph = model(text);
    passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
    Lowered::of(&graph, precision, ModelInfo::default())
        .unwrap_or_else(|failures| panic!("{}\n{text}", failures.into_diagnostic("test")))
}

/// The names of the kernels, without `cuda_`.
fn kernels(text: &str, precision: Precision) -> Vec<String> {
    let lowered = lowered(text, precision);
    assert_valid(&lowered, text);
    lowered.calls.calls.iter().map(|call| call.kernel.replacen("cuda_", "", 1)).collect()
}

/// Compares a graph in every precision with the reference: on the GPU, and program by program.
fn check(text: &str) {
    let graph = model(text);
    let inputs = inputs(&graph);
    let expected = reference(&graph, &inputs);
    for (precision, tolerance) in PRECISIONS {
        let lowered = lowered(text, precision);
        assert_valid(&lowered, text);
        let what = format!("{precision:?}\n{text}");
        if let Some(found) = Processor::run(&lowered, &inputs) {
            let types = expected.iter().map(|constant| constant.ty().clone());
            let found: Vec<Constant> = found
                .into_iter()
                .zip(types)
                .map(|(bytes, ty)| Constant::new(ty, bytes.into()).unwrap())
                .collect();
            assert_close(&found, &expected, tolerance, &format!("as written, {what}"));
        }
        let Some(engine) = open(lowered.plan().unwrap()) else { continue };
        assert_close(&outputs(&engine, &inputs).unwrap(), &expected, tolerance, &what);
    }
}

/// Memory that elementwise calls work on.
struct Processor {
    buffers: HashMap<BufferId, Vec<u8>>,
}

impl Processor {
    /// The outputs, or `None` where a call is no elementwise one.
    fn run(lowered: &Lowered, inputs: &[Constant]) -> Option<Vec<Vec<u8>>> {
        let calls = &lowered.calls;
        let mut buffers = HashMap::new();
        let mut ports = Vec::new();
        for (index, buffer) in calls.buffers.iter().enumerate() {
            let id = BufferId(index as u32);
            let bytes = match &buffer.kind {
                BufferKind::Input(port) => inputs[*port].data().to_vec(),
                BufferKind::Constant(data) => data.to_vec(),
                // What was not written shows.
                _ => vec![0xFF; buffer.bytes as usize],
            };
            if let BufferKind::Output(port) = buffer.kind {
                ports.push((port, id));
            }
            buffers.insert(id, bytes);
        }
        let mut processor = Processor { buffers };
        for call in &calls.calls {
            if call.kernel.starts_with("cuda_chain") {
                processor.chain(call);
            } else if call.kernel.starts_with("cuda_elementwise") {
                processor.elementwise(call);
            } else {
                return None;
            }
        }
        ports.sort();
        Some(ports.into_iter().map(|(_, id)| processor.buffers[&id].clone()).collect())
    }

    fn place(&self, span: Span, ty: i32, at: usize) -> (BufferId, usize, ElementType) {
        let ty = ElementType::ALL[ty as usize].0;
        (span.buffer, span.offset_bytes as usize + at * ty.bytes() as usize, ty)
    }

    fn load(&self, span: Span, ty: i32, at: usize) -> f32 {
        let (buffer, start, ty) = self.place(span, ty, at);
        let bytes = &self.buffers[&buffer][start..start + ty.bytes() as usize];
        match ty {
            ElementType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
            ElementType::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
            ElementType::Bf16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
            ElementType::I64 => i64::from_le_bytes(bytes.try_into().unwrap()) as f32,
            ElementType::I32 => i32::from_le_bytes(bytes.try_into().unwrap()) as f32,
            ElementType::Bool => f32::from(u8::from(bytes[0] != 0)),
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, span: Span, ty: i32, at: usize, value: f32) {
        let (buffer, start, ty) = self.place(span, ty, at);
        let bytes = match ty {
            ElementType::F32 => value.to_le_bytes().to_vec(),
            ElementType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            ElementType::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            ElementType::I64 => (value as i64).to_le_bytes().to_vec(),
            ElementType::I32 => (value as i32).to_le_bytes().to_vec(),
            ElementType::Bool => vec![u8::from(value != 0.0)],
            other => panic!("{other:?}"),
        };
        self.buffers.get_mut(&buffer).unwrap()[start..start + bytes.len()].copy_from_slice(&bytes);
    }

    fn elementwise(&mut self, call: &KernelCall) {
        let p: Elementwise = bytemuck::pod_read_unaligned(&call.params);
        for element in 0..p.elements {
            let mut operands = [0.0; 3];
            for (k, operand) in operands.iter_mut().enumerate().take(p.operands as usize) {
                let at = walk(element, &p.extents, &p.strides[k], p.offsets[k]);
                *operand = self.load(call.operands[k].unwrap(), p.types[k], at);
            }
            let value = activate(p.activation, apply(p.operation as u8, operands, [p.alpha, p.beta]));
            let at = walk(element, &p.extents, &p.out_strides, p.out_offset);
            self.store(call.operands[3].unwrap(), p.out_type, at, value);
        }
    }

    fn chain(&mut self, call: &KernelCall) {
        let p: Chain = bytemuck::pod_read_unaligned(&call.params);
        for element in 0..p.elements {
            let mut slots = vec![f32::NAN; p.slots as usize];
            for (k, slot) in slots.iter_mut().enumerate().take(p.input_count as usize) {
                let at = walk(element, &p.extents, &p.strides[k], p.offsets[k]);
                *slot = self.load(call.operands[k].unwrap(), p.types[k], at);
            }
            let mut last = f32::NAN;
            for s in &p.steps[..p.step_count as usize] {
                let [a, b, c] = s.operands.map(|operand| match operand {
                    step::LAST => last,
                    step::ALPHA => s.alpha,
                    step::BETA => s.beta,
                    slot => slots[slot as usize],
                });
                last = match s.operation {
                    step::TRUTH => f32::from(u8::from(a != 0.0)),
                    step::ROUND_TF32 => f32::from_bits((a.to_bits() + (1 << 12)) & !((1 << 13) - 1)),
                    step::STORE => {
                        let k = s.result as usize;
                        let at = walk(element, &p.extents, &p.out_strides[k], p.out_offsets[k]);
                        self.store(call.operands[CHAIN_INPUTS + k].unwrap(), p.out_types[k], at, a);
                        a
                    }
                    kind @ step::ACTIVATIONS.. => {
                        let kind = u32::from(kind - step::ACTIVATIONS);
                        activate(Activation { kind, alpha: s.alpha, beta: s.beta, reserved: 0 }, a)
                    }
                    operation => apply(operation, [a, b, c], [s.alpha, s.beta]),
                };
                if s.operation != step::STORE && s.result != step::NOWHERE {
                    slots[s.result as usize] = last;
                }
            }
        }
    }
}

/// The element of an operand at the position `element` of the space.
fn walk(element: i32, extents: &[i32; AXES], strides: &[i32; AXES], offset: i32) -> usize {
    let (mut rest, mut at) = (element, offset);
    for (extent, stride) in extents.iter().zip(strides).rev() {
        at += rest % extent * stride;
        rest /= extent;
    }
    at as usize
}

/// The functions that the graphs of these tests have.
fn apply(operation: u8, [a, b, c]: [f32; 3], [alpha, _]: [f32; 2]) -> f32 {
    let truth = |is: bool| f32::from(u8::from(is));
    let is = |op: ElementOp| operation == op as u8;
    match operation {
        _ if is(ElementOp::First) => a,
        _ if is(ElementOp::Add) => a + b,
        _ if is(ElementOp::Sub) => a - b,
        _ if is(ElementOp::Mul) => a * b,
        _ if is(ElementOp::Div) => a / b,
        _ if is(ElementOp::And) => truth(a != 0.0 && b != 0.0),
        _ if is(ElementOp::Or) => truth(a != 0.0 || b != 0.0),
        _ if is(ElementOp::Equal) => truth(a == b),
        _ if is(ElementOp::Greater) => truth(a > b),
        _ if is(ElementOp::Less) => truth(a < b),
        _ if is(ElementOp::Where) => [c, b][usize::from(a != 0.0)],
        _ if is(ElementOp::Not) => truth(a == 0.0),
        _ if is(ElementOp::Abs) => a.abs(),
        _ if is(ElementOp::Neg) => -a,
        _ if is(ElementOp::Elu) => {
            if a >= 0.0 {
                a
            } else {
                alpha * a.exp_m1()
            }
        }
        _ if is(ElementOp::Exp) => a.exp(),
        _ if is(ElementOp::Softsign) => a / (1.0 + a.abs()),
        _ => panic!("operation {operation}"),
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    let Activation { kind, alpha, beta, .. } = activation;
    match kind {
        0 => x,
        _ if kind == ActivationKind::Relu as u32 => x.max(0.0),
        _ if kind == ActivationKind::LeakyRelu as u32 => {
            if x >= 0.0 {
                x
            } else {
                alpha * x
            }
        }
        _ if kind == ActivationKind::Clip as u32 => x.max(alpha).min(beta),
        _ if kind == ActivationKind::Sigmoid as u32 => 1.0 / (1.0 + (-x).exp()),
        _ if kind == ActivationKind::Silu as u32 => x / (1.0 + (-x).exp()),
        _ if kind == ActivationKind::Tanh as u32 => x.tanh(),
        _ => panic!("activation {kind}"),
    }
}

#[test]
fn functions_that_follow_from_each_other_are_one_launch() {
    let text = "input x 3,40
         input y 40
         floats two [] 2.0
         a = Mul(x, y)
         b = Exp(a)
         c = Add(b, two)
         d = Div(x, c)
         output d";
    assert_eq!(kernels(text, Precision::Fp32), ["chain8"]);
    // y is narrowed alone, since it has fewer elements; x and what is given away in f32 within the chain.
    assert_eq!(kernels(text, Precision::Fp16), ["chain8", "chain8"]);
    check(text);
}

#[test]
fn what_others_read_is_stored_and_what_waits_for_others_is_not_joined() {
    // b is an output, and softmax reads it; d needs both.
    let text = "input x 5,7
         a = Exp(x)
         b = Neg(a)
         p = Softmax(b) axis=-1
         d = Sub(p, b)
         e = Tanh(d)
         output b
         output e";
    assert_eq!(kernels(text, Precision::Fp32), ["chain", "softmax_f32", "chain"]);
    check(text);
}

#[test]
fn elements_that_move_are_read_where_they_lie() {
    let text = "input x 6,5,8
         input y 5,6,8
         t = Transpose(x) perm=[1,0,2]
         a = Add(t, y)
         b = Exp(a)
         c = Concat(b, y) axis=2
         output c";
    // Each half of the concatenation is written where it belongs.
    assert_eq!(kernels(text, Precision::Fp32).len(), 3);
    check(text);
}

#[test]
fn a_transposed_value_of_a_chain_ends_it() {
    let text = "input x 6,6
         a = Exp(x)
         t = Transpose(a) perm=[1,0]
         b = Add(a, t)
         output b";
    assert_eq!(kernels(text, Precision::Fp32), ["elementwise", "chain"]);
    check(text);
}

#[test]
fn masks_and_casts() {
    let text = "input x 4,9
         input y 9
         floats zero [] 0.0
         floats half [] 0.5
         floats least [] -3.0
         f = Greater(x, zero)
         g = Cast(y) to=9
         n = Not(f)
         m = And(f, g)
         o = Or(m, n)
         w = Where(m, x, least)
         v = Where(o, half, zero)
         s = Add(w, v)
         i = Cast(s) to=7
         output o
         output s
         output i";
    let mut known = kernels(text, Precision::Fp32);
    known.retain(|kernel| kernel.starts_with("chain"));
    assert_eq!(known.len(), 1);
    check(text);
}

#[test]
fn chains_of_pictures() {
    for channels in [24, 19] {
        let text = format!(
            "input x 2,{channels},5,7
             random w {channels},{channels},1,1
             random v {channels},{channels},1,1
             c = Conv(x, w)
             g = GlobalAveragePool(c)
             h = Mul(c, g)
             i = Tanh(h)
             j = Mul(i, h)
             y = Conv(j, v)
             output y"
        );
        for (precision, conv) in [(Precision::Fp16, "conv_f16"), (Precision::Tf32, "conv_tf32")] {
            let found = kernels(&text, precision);
            assert_eq!(found.len(), 6, "{found:?}");
            assert!(found[3].starts_with("chain8") && found[4].starts_with(conv), "{found:?}");
        }
        check(&text);
    }
}

#[test]
fn chains_that_reach_beyond_what_is_there_are_refused() {
    let lowered = lowered(
        "input x 3,16
         input y 16
         a = Mul(x, y)
         b = Tanh(a)
         output b",
        Precision::Fp32,
    );
    let [call] = &lowered.calls.calls[..] else { panic!("{:?}", lowered.calls.calls) };
    let good: Chain = bytemuck::pod_read_unaligned(&call.params);
    let is_valid = |change: &dyn Fn(&mut Chain)| {
        let mut chain = good;
        change(&mut chain);
        let operand_bytes: Vec<u64> =
            call.operands.iter().map(|span| span.map_or(0, |span| span.bytes)).collect();
        let params = bytemuck::bytes_of(&chain);
        let call = infer_kernels::Call { params, operand_bytes: &operand_bytes };
        ["cuda_chain", "cuda_chain8"].map(|name| (find(name).unwrap().validate)(&call).is_ok())
    };
    let last = AXES - 1;
    assert_eq!(is_valid(&|_| ()), [true, true]);
    // What the kernel of eights cannot read, the other can.
    assert_eq!(is_valid(&|chain| chain.strides[1][last] = 0), [true, true]);
    assert_eq!(is_valid(&|chain| chain.types[1] = ElementType::Bool as i32), [true, true]);
    assert_eq!(is_valid(&|chain| (chain.extents[last], chain.elements) = (12, 36)), [true, false]);
    let bad: [&dyn Fn(&mut Chain); 15] = [
        &|chain| chain.elements += 1,
        &|chain| chain.extents[0] = 2,
        &|chain| chain.strides[0][last] = 2,
        &|chain| chain.strides[0][last] = -1,
        &|chain| chain.offsets[1] = 8,
        &|chain| chain.out_offsets[0] = 8,
        &|chain| chain.out_strides[0][last - 1] = 24,
        &|chain| chain.types[0] = ElementType::I64 as i32,
        &|chain| chain.out_types[0] = 99,
        &|chain| chain.input_count = 3,
        &|chain| chain.output_count = 2,
        &|chain| chain.step_count = 33,
        &|chain| chain.slots = 13,
        &|chain| chain.steps[0].operands[0] = chain.slots as u8,
        &|chain| chain.steps[1].operation = 25,
    ];
    for (index, change) in bad.iter().enumerate() {
        assert_eq!(is_valid(change), [false, false], "change {index}");
    }
}

#[test]
fn long_chains_are_cut() {
    let mut text = "input x 3,16\n".to_owned();
    let mut last = "x".to_owned();
    for index in 0..70 {
        text += &format!("a{index} = Tanh({last})\nb{index} = Add(a{index}, x)\n");
        last = format!("b{index}");
    }
    text += &format!("output {last}");
    let found = kernels(&text, Precision::Fp32);
    assert!(found.len() > 2 && found.iter().all(|kernel| kernel == "chain8"), "{found:?}");
    check(&text);
}

/// Graphs of elementwise functions, whose shapes broadcast, and some of whose values are outputs.
fn random(seed: usize) -> String {
    let mut dice = numbers(&format!("chain {seed}"), 4096).into_iter().map(|v| ((v + 1.0) * 5000.0) as usize);
    let mut roll = move |count: usize| dice.next().unwrap() % count;
    let extents: Vec<usize> = (0..1 + roll(4)).map(|_| [1, 2, 3, 5, 8, 16][roll(6)]).collect();
    let shape = |extents: &[usize]| extents.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut text = String::new();
    let mut values: Vec<String> = Vec::new();
    for input in 0..1 + roll(5) {
        let own: Vec<usize> =
            extents.iter().map(|&extent| if input > 0 && roll(3) == 0 { 1 } else { extent }).collect();
        let dropped = if input > 0 { roll(extents.len()) } else { 0 };
        let kind = ["input", "random", "positive"][if input == 0 { 0 } else { roll(3) }];
        text += &format!("{kind} v{input} {}\n", shape(&own[dropped..]));
        values.push(format!("v{input}"));
    }
    text += "floats third [] 0.3\nfloats low [] -0.6\nfloats high [] 0.7\n";
    let first = values.len();
    for index in first..first + 3 + roll(12) {
        let y = format!("v{index}");
        let [a, b] = [0, 1].map(|_| values[values.len().saturating_sub(1 + roll(4))].clone());
        text += &match roll(12) {
            0 => format!("s{index} = Add({a}, {b})\n{y} = Tanh(s{index})\n"),
            1 => format!("s{index} = Sub({a}, {b})\n{y} = Clip(s{index}, low, high)\n"),
            2 => format!("{y} = Mul({a}, {b})\n"),
            3 => format!("{y} = Mul({a}, third)\n"),
            4 => format!("s{index} = Exp({a})\n{y} = Div({b}, s{index})\n"),
            5 => format!("{y} = Sigmoid({a})\n"),
            6 => format!("s{index} = Abs({a})\n{y} = Neg(s{index})\n"),
            // The smaller of two: it does not jump where rounding turns the comparison.
            7 => format!("s{index} = Less({a}, {b})\n{y} = Where(s{index}, {a}, {b})\n"),
            8 => format!("s{index} = Greater({a}, low)\n{y} = Where(s{index}, {a}, low)\n"),
            9 => format!("{y} = Softsign({a})\n"),
            10 => format!("s{index} = Elu({a}) alpha=0.5\n{y} = Sub(third, s{index})\n"),
            _ => format!("{y} = LeakyRelu({a}) alpha=0.2\n"),
        };
        if roll(6) == 0 {
            text += &format!("output {y}\n");
        }
        values.push(y);
    }
    let last = values.last().unwrap();
    if !text.ends_with(&format!("output {last}\n")) {
        text += &format!("output {last}\n");
    }
    text
}

#[test]
fn random_chains() {
    for seed in 0..60 {
        check(&random(seed));
    }
}
