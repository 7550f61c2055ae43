//! Weights that a plan for GPUs borrows from the processor's: what is stored, what is made of it when the plan is opened,
//! and, where there is a GPU, that it computes the same as one with weights of its own.
//!
//! Without a GPU what needs one says why it is skipped; `INFER_CUDA_REQUIRED=1` makes that a failure.
#![cfg(all(feature = "compiler", feature = "cuda"))]

extern crate infer_core;

use infer_core::calls::{BufferKind, KernelCall};
use infer_core::compile::Compiled;
use infer_core::constant::Constant;
use infer_core::lower_cuda::Lowered;
use infer_core::options::{Backends, Options, Precision};
use infer_core::plan::{AlignedBytes, Location, ModelInfo, PlanView};
use infer_core::runtime::cuda::{CudaEngine, CudaOptions};
use infer_core::runtime::{Backend, Engine, EngineOptions, PlanBytes};
use infer_core::tactics::Tactics;
use infer_core::value::Value;
use infer_core::{ErrorKind, passes};
use infer_kernels::cuda::{MODULES, Retile, Stored};
use support::gpu::{PRECISIONS, compiled_with, on_gpu, session};
use support::{inputs, model};

#[allow(dead_code, reason = "shared with the tests of the processor")]
mod support;

/// Filters at odd sizes, of few channels and of one tap, a product, and a table that both sides read in its order.
const WEIGHTS: &str = "input p 2,3,19,13
     random w0 33,3,7,7
     random b0 33
     random w1 70,33,3,3
     random w2 136,70,1,1
     random w3 1001,136
     random table 68,1001
     floats big [] 68.0
     a = Conv(p, w0, b0) strides=[2,2] pads=[3,3,3,3]
     b = Relu(a)
     c = Conv(b, w1) pads=[0,1,2,0] strides=[2,1]
     d = Conv(c, w2)
     e = GlobalAveragePool(d)
     f = Flatten(e)
     g = Gemm(f, w3) transB=1 alpha=0.75
     h = Mul(g, big)
     i = Clip(h, low, high)
     floats low [] 0.0
     floats high [] 67.0
     j = Cast(i) to=7
     k = Gather(table, j)
     y = ReduceMax(k) axes=[1] keepdims=0
     output y";

/// A part in the middle has no kernels on GPUs.
const PARTS: &str = "input x 1,24,20,20
     random w 72,24,3,3
     random v 40,72,3,3
     floats scale [] 0.015625
     a = Conv(x, w) pads=[1,1,1,1]
     levels = QuantizeLinear(a, scale) output_dtype=17
     c = DequantizeLinear(levels, scale)
     y = Conv(c, v) pads=[1,1,1,1]
     output y";

/// Positions, of which only the run knows how many there are, after what is static.
const PROGRAM: &str = "input x 1,24,32,32
     random w 72,24,3,3
     a = Conv(x, w) pads=[1,1,1,1]
     b = Relu(a)
     places = NonZero(b)
     positions = Transpose(places) perm=[1,0]
     output b
     output positions";

fn compiled(text: &str, backends: Backends, precision: Precision) -> Compiled {
    let change = |options: &mut Options| (options.backends, options.precision) = (backends, precision);
    compiled_with(text, Tactics::default(), change).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
}

fn aligned(bytes: &[u8]) -> AlignedBytes {
    AlignedBytes::copy_of(bytes).unwrap()
}

/// What the step that prepares makes of the processor's weights.
fn made(stored: &Stored, retile: &Retile, lent: &[u8]) -> Vec<u8> {
    let [from, to] = [stored.from_bytes, stored.to_bytes].map(|bytes| bytes as usize);
    let (_, count) = retile.elements().unwrap();
    let element = |index| {
        let mut bits = [0; 4];
        if let Some(at) = retile.source(index) {
            bits[..from].copy_from_slice(&lent[at * from..][..from]);
            bits = (stored.convert)(u32::from_le_bytes(bits)).to_le_bytes();
        }
        bits.into_iter().take(to)
    };
    (0..count as usize).flat_map(element).collect()
}

#[test]
fn borrowed_weights_are_those_that_the_plan_would_have() {
    for (precision, _) in PRECISIONS {
        let own = compiled(WEIGHTS, Backends::Cuda, precision);
        let both = compiled(WEIGHTS, Backends::Auto, precision);
        assert_eq!(both.plan, compiled(WEIGHTS, Backends::Cpu, precision).plan);
        let (own_plan, borrowing) = (own.cuda_plan.unwrap(), both.cuda_plan.unwrap());
        let plans = [own_plan, borrowing, both.plan].map(|plan| aligned(&plan));
        let [own_view, view, lender] = plans.each_ref().map(|plan| PlanView::read(plan.as_slice()).unwrap());
        assert_eq!(view.lender(), Some(lender.id()));
        assert_eq!(own_view.lender(), None);

        let mut prepared = vec![0; view.prepared_bytes()];
        for step in view.prepare_steps() {
            let kernel = view.kernels()[step.kernel];
            let stored = [&Stored::F16, &Stored::F32, &Stored::TF32, &Stored::BF16];
            let stored = stored.into_iter().find(|stored| stored.kernel == kernel).unwrap();
            let [from, to] = step.operands().collect::<Vec<_>>()[..] else { panic!("two operands") };
            assert_eq!((from.location, to.location), (Location::Borrowed, Location::Prepared));
            let lent = &lender.weights()[from.offset_bytes..][..from.bytes];
            let made = made(stored, &bytemuck::pod_read_unaligned(step.params), lent);
            prepared[to.offset_bytes..][..to.bytes].copy_from_slice(&made);
        }
        let mut borrowed = 0;
        assert_eq!(view.steps().len(), own_view.steps().len());
        for (step, own) in view.steps().zip(own_view.steps()) {
            for (operand, own) in step.operands().zip(own.operands()) {
                let range = operand.offset_bytes..operand.offset_bytes + operand.bytes;
                let found = match operand.location {
                    Location::Weights => &view.weights()[range],
                    Location::Prepared => &prepared[range],
                    location => {
                        assert_eq!(location, own.location);
                        continue;
                    }
                };
                if operand.location == Location::Prepared {
                    borrowed += operand.bytes as u64;
                }
                assert_eq!(own.location, Location::Weights);
                let expected = &own_view.weights()[own.offset_bytes..][..own.bytes];
                assert!(
                    found == expected,
                    "{precision:?} {} in {}",
                    step.node,
                    own_view.kernels()[step.kernel]
                );
            }
        }
        // All but the biases and the first convolution's rows of taps and, in the binary, nothing twice.
        assert_eq!(both.summary.borrowed_weight_bytes, borrowed);
        assert_eq!(view.prepare_steps().len(), 4, "{precision:?}");
        assert!(both.summary.cuda_modules.iter().any(|module| module == "retile"));
        assert!(!own.summary.cuda_modules.iter().any(|module| module == "retile"));
        assert!(view.weights().len() < 48 << 10 && borrowed > 300 << 10, "{precision:?}: {borrowed}");
        let all = (lender.weights().len() + view.weights().len()) as u64;
        assert_eq!(both.summary.weight_bytes, all);
    }
}

#[test]
fn plans_in_parts_and_of_programs_borrow_too() {
    for text in [PARTS, PROGRAM] {
        for (precision, _) in PRECISIONS {
            let own = compiled(text, Backends::Cuda, precision).cuda_plan.unwrap().len() as u64;
            let made = compiled(text, Backends::Auto, precision);
            let (len, borrowed) = (made.cuda_plan.unwrap().len() as u64, made.summary.borrowed_weight_bytes);
            assert!(borrowed > 30 << 10 && len + borrowed < own + 1024, "{len} + {borrowed}, {own}\n{text}");
        }
    }
}

#[test]
fn a_plan_borrows_from_its_own_lender_alone() {
    let made = compiled(WEIGHTS, Backends::Auto, Precision::Fp16);
    let other = compiled(&WEIGHTS.replace("alpha=0.75", "alpha=0.5"), Backends::Auto, Precision::Fp32);
    let plan = made.cuda_plan.unwrap();
    let error = |lender: Option<&[u8]>| {
        let lender = lender.map(|lender| PlanBytes::from(aligned(lender)));
        let opened =
            CudaEngine::open_borrowing(aligned(&plan), lender.as_ref(), MODULES, CudaOptions::default());
        opened.map(|_| ()).unwrap_err()
    };
    for (lender, what) in [
        (None, "the processor's plan, which is not there"),
        (Some(&other.plan[..]), "another plan than that of the processor"),
        (Some(&made.plan[..made.plan.len() - 64]), "damaged"),
        (Some(&b"INFRPART"[..]), "this is no plan"),
    ] {
        let error = error(lender);
        assert!(error.kind() == ErrorKind::Plan && error.to_string().contains(what), "{error}");
    }
    let error = Engine::open(aligned(&plan), &[], EngineOptions::default()).unwrap_err();
    assert!(error.to_string().contains("borrows weights, which plans for the processor do not"), "{error}");
}

#[test]
fn kernels_of_inferences_do_not_prepare() {
    let mut graph = model("input x 8,5,7\ny = Softmax(x)\noutput y");
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let mut lowered = Lowered::of(&graph, Precision::Fp32, ModelInfo::default()).unwrap();
    let calls = &mut lowered.calls;
    let call = calls.calls[0].clone();
    // What it reads is stored and what it writes, behind that, prepared.
    let given = call.operands.iter().flatten().count();
    let mut operands = call.operands.clone();
    for (index, span) in operands.iter_mut().flatten().enumerate() {
        let buffer = match index + 1 == given {
            false => calls.add_constant(vec![0; span.bytes as usize].into()),
            true => calls.add_buffer(BufferKind::Prepared, span.bytes),
        };
        *span = calls.whole(buffer);
    }
    calls.prepare.push(KernelCall { operands, ..call });
    let error = CudaEngine::open(lowered.plan().unwrap(), MODULES, CudaOptions::default()).unwrap_err();
    assert!(error.to_string().contains("while the plan is opened, which it cannot"), "{error}");
}

#[test]
fn borrowed_weights_compute_the_same_bit_for_bit() {
    for text in [WEIGHTS, PARTS, PROGRAM] {
        let graph = (text != PROGRAM).then(|| model(text));
        let given = match &graph {
            Some(graph) => inputs(graph),
            None => inputs(&model("input x 1,24,32,32\ny = Relu(x)\noutput y")),
        };
        let given: Vec<Value> = given.into_iter().map(Value::Tensor).collect();
        for (precision, _) in PRECISIONS {
            let run = |backends| -> Option<Vec<Value>> {
                let made = compiled(text, backends, precision);
                let opened = on_gpu(session(&made, Some(Backend::Cuda)))?;
                Some(opened.run(&given).unwrap())
            };
            let (Some(own), Some(both)) = (run(Backends::Cuda), run(Backends::Auto)) else { return };
            let bytes = |values: &[Value]| -> Vec<Vec<u8>> {
                let tensors = values.iter().filter_map(Value::as_tensor);
                tensors.map(|tensor: &Constant| tensor.data().to_vec()).collect()
            };
            assert!(bytes(&own) == bytes(&both), "{precision:?}\n{text}");
        }
    }
}
