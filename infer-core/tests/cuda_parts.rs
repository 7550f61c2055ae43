//! Models of which a GPU runs some parts and the processor the others: what is compiled, what it says, and, where there is
//! a GPU, what it computes.
//!
//! Without a GPU what needs one says why it is skipped; `INFER_CUDA_REQUIRED=1` makes that a failure.
#![cfg(all(feature = "compiler", feature = "cuda"))]

extern crate infer_core;

use std::time::Duration;

use infer_core::ErrorKind;
use infer_core::compile::{Compiled, Place, read_tactics};
use infer_core::constant::Constant;
use infer_core::diagnostic::Diagnostic;
use infer_core::options::{Backends, LEAST_GPU_WORK, Options, Precision};
use infer_core::runtime::Backend;
use infer_core::runtime::cuda::probe;
use infer_core::session::Session;
use infer_core::tactics::Tactics;
use infer_core::value::Value;
use support::gpu::{compiled_with, on_gpu, session};
use support::{assert_close, inputs, model, reference};

#[allow(dead_code, reason = "shared with the tests of the processor")]
mod support;

/// Floats of 8 bits have no kernels on GPUs.
const MIDDLE: &str = "input x 1,3,20,20
     random w 16,3,3,3
     random v 8,16,3,3
     floats scale [] 0.015625
     a = Conv(x, w) pads=[1,1,1,1]
     b = Relu(a)
     levels = QuantizeLinear(b, scale) output_dtype=17
     c = DequantizeLinear(levels, scale)
     y = Conv(c, v) pads=[1,1,1,1]
     output y";

/// Two branches, of which one has such a node, and outputs between the parts.
const BRANCHES: &str = "input x 2,4,12,12
     input m 2,4,12,1
     random w 6,4,3,3
     random v 6,4,3,3
     floats scale [] 0.015625
     a = Conv(x, w) pads=[1,1,1,1]
     b = Sigmoid(a)
     g = Mul(x, m)
     q = QuantizeLinear(g, scale) output_dtype=17
     h = DequantizeLinear(q, scale)
     i = Conv(h, v) pads=[1,1,1,1]
     y = Add(b, i)
     output y
     output h
     output b";

/// Positions, of which only the run knows how many there are, between what is static.
const POSITIONS: &str = "input x 1,3,32,32
     random w 4,3,3,3
     a = Conv(x, w) pads=[1,1,1,1]
     b = Relu(a)
     places = NonZero(b)
     positions = Transpose(places) perm=[1,0]
     output b
     output positions";

fn compiled(text: &str, change: impl Fn(&mut Options)) -> Result<Compiled, Vec<Diagnostic>> {
    compiled_with(text, Tactics::default(), change)
}

fn gpu_session(compiled: &Compiled) -> Option<Session> {
    on_gpu(session(compiled, Some(Backend::Cuda)))
}

fn values(constants: &[Constant]) -> Vec<Value> {
    constants.iter().cloned().map(Value::Tensor).collect()
}

fn tensors(values: Vec<Value>) -> Vec<Constant> {
    values.into_iter().map(|value| value.as_tensor().unwrap().clone()).collect()
}

/// `gpu 2, run 1`: how many nodes each part has.
fn parts(compiled: &Compiled) -> String {
    let part = |part: &infer_core::compile::Placed| {
        assert!(part.place == Place::Gpu || part.nodes.len() as u64 == part.count);
        let place = match part.place {
            Place::Gpu => "gpu",
            Place::Processor => "cpu",
            Place::AtRunTime => "run",
        };
        format!("{place} {}", part.count)
    };
    compiled.summary.cuda_parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// [`check_against`] what the processor alone computes in f32.
fn check(text: &str, precision: Precision, tolerance: f32) {
    let alone = compiled(text, |options| options.backends = Backends::Cpu).unwrap();
    let given = values(&inputs(&model(text)));
    let expected = tensors(session(&alone, None).unwrap().run(&given).unwrap());
    check_against(&expected, text, precision, tolerance);
}

/// The model on the processor, and, where there is one, on a GPU, against `expected`. Levels of quantisation that are off by
/// one show in what follows.
fn check_against(expected: &[Constant], text: &str, precision: Precision, tolerance: f32) {
    let compiled = compiled(text, |options| options.precision = precision).unwrap();
    assert!(compiled.cuda_plan.is_some(), "{text}");
    let given = inputs(&model(text));
    let processor = session(&compiled, Some(Backend::Cpu)).unwrap();
    assert_eq!(processor.backend(), Backend::Cpu);
    assert_close(&tensors(processor.run(&values(&given)).unwrap()), expected, tolerance, text);
    let Some(gpu) = gpu_session(&compiled) else { return };
    assert_eq!(gpu.backend(), Backend::Cuda);
    for _ in 0..3 {
        assert_close(&tensors(gpu.run(&values(&given)).unwrap()), expected, tolerance, text);
    }
    // The steps are as many as are timed.
    let mut times = vec![Duration::ZERO; gpu.steps().len()];
    gpu.run_timed(&values(&given), &mut |step, time| times[step] += time).unwrap();
    assert!(times.iter().all(|time| !time.is_zero()), "{times:?}");
}

#[test]
fn what_has_no_kernel_runs_on_the_processor() {
    let made = compiled(MIDDLE, |_| {}).unwrap();
    assert_eq!(parts(&made), "gpu 1, run 2, gpu 1");
    let [note] = made.summary.notes.as_slice() else { panic!("{:?}", made.summary.notes) };
    for part in [
        "these nodes run, or may run, on the processor",
        "`levels` (QuantizeLinear)",
        "`c` (DequantizeLinear)",
    ] {
        assert!(note.contains(part), "`{part}` is not in {note}");
    }
    assert_eq!(made.summary.cuda_parts[1].nodes, ["`levels` (QuantizeLinear)", "`c` (DequantizeLinear)"]);
    check(MIDDLE, Precision::Fp32, 5e-2);
    check(MIDDLE, Precision::Fp16, 1e-1);
}

/// The processor's part is a plan too: floats of 8 bits are copied there.
#[test]
fn what_has_no_kernel_may_be_a_plan() {
    let text = "opset 26
         input x 1,3,20,20
         random w 16,3,3,3
         random v 8,16,3,3
         floats scale [] 32
         floats back [] 0.03125
         a = Conv(x, w) pads=[1,1,1,1]
         b = Relu(a)
         m = Mul(b, scale)
         u = Cast(m) to=2
         e = BitCast(u) to=17
         t = Transpose(e) perm=[0,1,3,2]
         l = BitCast(t) to=2
         f = Cast(l) to=1
         c = Mul(f, back)
         y = Conv(c, v) pads=[1,1,1,1]
         output y";
    let made = compiled(text, |_| {}).unwrap();
    assert_eq!(
        made.summary.cuda_parts.iter().filter(|part| part.place == Place::Gpu).count(),
        2,
        "{}",
        parts(&made)
    );
    assert_eq!((made.summary.run_time_nodes, made.summary.cuda_kernels.is_empty()), (0, false));
    let graph = model(text);
    let expected = reference(&graph, &inputs(&graph));
    check_against(&expected, text, Precision::Fp32, 5e-2);
    check_against(&expected, text, Precision::Fp16, 1e-1);
}

#[test]
fn branches_meet_again() {
    let made = compiled(BRANCHES, |options| options.least_gpu_work = 0).unwrap();
    assert_eq!(
        made.summary.cuda_parts.iter().filter(|part| part.place == Place::Gpu).count(),
        2,
        "{}",
        parts(&made)
    );
    check(BRANCHES, Precision::Fp32, 5e-2);
}

#[test]
fn small_parts_stay_on_the_processor() {
    let made = compiled(MIDDLE, |options| options.least_gpu_work = 8_000).unwrap();
    assert_eq!(parts(&made), "cpu 1, run 2, gpu 1");
    assert!(made.summary.notes[0].contains("too little work for a GPU"), "{:?}", made.summary.notes);
    let made = compiled(MIDDLE, |options| options.least_gpu_work = u64::MAX).unwrap();
    assert!(made.cuda_plan.is_none() && made.summary.cuda_parts.is_empty());
    assert!(made.summary.notes[0].starts_with("not compiled for GPUs"), "{:?}", made.summary.notes);
    const { assert!(LEAST_GPU_WORK > 0) };
}

#[test]
fn a_model_for_gpus_alone_has_the_processors_help() {
    let made = compiled(MIDDLE, |options| options.backends = Backends::Cuda).unwrap();
    assert!(made.plan.is_empty() && made.cuda_plan.is_some());
    assert_eq!(made.summary.notes.len(), 1);
    for text in [
        MIDDLE,
        BRANCHES,
        POSITIONS,
        "input x 1,3,8,8\nrandom w 4,3,3,3\nc = Conv(x, w)\ny = Relu(c)\noutput y",
    ] {
        let alone = compiled(text, |options| options.backends = Backends::Cuda).unwrap();
        assert!(alone.cuda_plan == compiled(text, |_| {}).unwrap().cuda_plan, "{text}");
    }
    assert!(!made.summary.cuda_modules.is_empty() && made.summary.weight_bytes > 0);
    // However little work it is.
    let made = compiled(MIDDLE, |options| {
        (options.backends, options.least_gpu_work) = (Backends::Cuda, u64::MAX);
    });
    assert_eq!(parts(&made.unwrap()), "gpu 1, run 2, gpu 1");
    // What only the run knows may run there.
    let text = "input x 8\nfloats s [] 0.5\nq = QuantizeLinear(x, s) output_dtype=17\noutput q";
    let made = compiled(text, |options| options.backends = Backends::Cuda).unwrap();
    assert_eq!(parts(&made), "run 1");
    assert!(made.summary.notes[0].contains("`q` (QuantizeLinear)"), "{:?}", made.summary.notes);
    // Nothing of it for a GPU is an error where it was asked for: this is too large.
    let text = "input x 70000,70000\ny = Relu(x)\noutput y";
    let errors = compiled(text, |options| options.backends = Backends::Cuda).unwrap_err();
    assert!(errors[0].message.contains("nothing of the model runs on GPUs"), "{}", errors[0].message);
}

#[test]
fn the_processor_alone_knows_of_no_parts() {
    let made = compiled(MIDDLE, |options| options.backends = Backends::Cpu).unwrap();
    assert!(made.cuda_plan.is_none() && made.summary.cuda_parts.is_empty() && made.summary.notes.is_empty());
    // The plan is the same whatever else is compiled.
    assert_eq!(made.plan, compiled(MIDDLE, |_| {}).unwrap().plan);
}

#[test]
fn tactics_for_gpus_are_followed_in_parts_and_noted_where_they_do_not_fit() {
    let file = std::env::temp_dir().join(format!("infer-{}.tactics", std::process::id()));
    let compiled_by = |text: &str, backends: Backends| {
        std::fs::write(&file, format!("infer-tactics 1\ngpu \"NVIDIA H200\" 9.0 fp32\n{text}")).unwrap();
        let tactics = read_tactics(&file).unwrap();
        compiled(MIDDLE, |options| options.backends = backends).map(|before| {
            let after = compiled_with(MIDDLE, tactics, |options| options.backends = backends).unwrap();
            let notes = after.decisions.tactics.notes("m", "", Precision::Fp32, backends);
            (before.cuda_plan == after.cuda_plan, notes)
        })
    };
    let layer = "layer \"y\" convolution \"16→8 3x3 @20x20 n1 p1x1\"";
    for backends in [Backends::Cuda, Backends::Auto] {
        assert_eq!(compiled_by(&format!("{layer} 64x64/2"), backends).unwrap(), (false, vec![]));
        let (same, notes) = compiled_by(&format!("{layer} 1x1/1"), backends).unwrap();
        let gpu = "m, NVIDIA H200 (9.0, fp32)";
        assert!(
            same && notes[0].starts_with(&format!("{gpu}: layer `y` cannot be computed by `1x1/1`, but by"))
        );
    }
    // The processor has no use for them.
    assert_eq!(compiled_by(&format!("{layer} 64x64/2"), Backends::Cpu).unwrap(), (true, vec![]));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn equal_models_give_equal_plans() {
    for text in [MIDDLE, BRANCHES, POSITIONS] {
        let made = || compiled(text, |_| {}).unwrap().cuda_plan.unwrap();
        assert!(made() == made(), "{text}");
    }
}

#[test]
fn static_parts_of_what_only_the_run_knows_run_on_the_gpu() {
    let made = compiled(POSITIONS, |_| {}).unwrap();
    assert_eq!(made.summary.run_time_nodes, 2);
    assert_eq!(parts(&made), "gpu 1, run 2");
    assert!(made.summary.notes[0].contains("only the run knows"), "{:?}", made.summary.notes);
    let given = inputs(&model("input x 1,3,32,32\noutput x"));
    let processor = session(&made, Some(Backend::Cpu)).unwrap();
    let expected = tensors(processor.run(&values(&given)).unwrap());
    let Some(gpu) = gpu_session(&made) else { return };
    let found = tensors(gpu.run(&values(&given)).unwrap());
    assert_close(&found[..1], &expected[..1], 2e-5, POSITIONS);
    // A value next to zero may be on either side.
    let (found, expected) = (found[1].ty().shape[0], expected[1].ty().shape[0]);
    assert!(found.abs_diff(expected) <= 2, "{found} {expected}");
    let alone = compiled(POSITIONS, |options| options.backends = Backends::Cuda).unwrap();
    assert!(alone.plan.is_empty());
    assert_eq!(gpu_session(&alone).unwrap().run(&values(&given)).unwrap().len(), 2);
}

#[test]
fn without_a_gpu_the_processor_runs_all() {
    let is_there = probe().is_ok();
    for text in [MIDDLE, POSITIONS] {
        let made = compiled(text, |_| {}).unwrap();
        let any = session(&made, None).unwrap();
        assert_eq!(any.backend() == Backend::Cuda, is_there);
        let alone = compiled(text, |options| options.backends = Backends::Cuda).unwrap();
        for result in [session(&made, Some(Backend::Cuda)), session(&alone, None)] {
            match result {
                Ok(_) => assert!(is_there),
                Err(error) => assert_eq!(error.kind(), probe().unwrap_err().kind(), "{error}"),
            }
        }
        let error = session(&alone, Some(Backend::Cpu)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}

#[test]
fn damaged_plans_are_errors() {
    for text in [MIDDLE, POSITIONS] {
        let mut made = compiled(text, |_| {}).unwrap();
        let plan = made.cuda_plan.clone().unwrap();
        if probe().is_err() {
            // What is read before the driver is asked for is all that can be seen here.
            println!("skipped: there is no GPU to open plans on");
            return;
        }
        for length in [0, 7, 31, 64, plan.len() / 2, plan.len() - 1] {
            made.cuda_plan = Some(plan[..length].to_vec());
            let error = session(&made, Some(Backend::Cuda)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Plan, "{length}: {error}");
        }
        for byte in (0..512).step_by(5) {
            let mut wrong = plan.clone();
            wrong[byte] ^= 0x55;
            made.cuda_plan = Some(wrong);
            // Padding may be anything.
            if let Err(error) = session(&made, Some(Backend::Cuda)) {
                assert_eq!(error.kind(), ErrorKind::Plan, "{byte}: {error}");
            }
        }
    }
}

#[test]
fn errors_keep_their_kinds() {
    // The index is out of range in the part on the GPU.
    let text = "input x 64,1024
         random table 50,1024
         floats scale [] 0.015625
         q = QuantizeLinear(x, scale) output_dtype=17
         d = DequantizeLinear(q, scale)
         m = ReduceMax(d) keepdims=0
         i = Cast(m) to=7
         g = Gather(table, i)
         y = Add(g, d)
         output y";
    let made = compiled(text, |options| options.least_gpu_work = 0).unwrap();
    let high = Constant::of(model(text).ty(model(text).inputs[0]).clone(), &vec![77.0_f32; 64 * 1024]);
    let error = session(&made, Some(Backend::Cpu)).unwrap().run(&values(std::slice::from_ref(&high)));
    // 77 saturates at 448 levels of 1/64: within the table.
    assert!(error.is_ok(), "{error:?}");
    let text = text.replace("0.015625", "1.0");
    let made = compiled(&text, |options| options.least_gpu_work = 0).unwrap();
    assert!(made.cuda_plan.is_some());
    let backends = [Some(Backend::Cpu), made.cuda_plan.as_ref().and(Some(Backend::Cuda))];
    for backend in backends.into_iter().flatten() {
        if backend == Backend::Cuda && gpu_session(&made).is_none() {
            continue;
        }
        let opened = session(&made, Some(backend)).unwrap();
        let error = opened.run(&values(std::slice::from_ref(&high))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
        // It is of use afterwards.
        let low = Constant::of(high.ty().clone(), &vec![7.0_f32; 64 * 1024]);
        opened.run(&values(&[low])).unwrap();
    }
}

#[test]
fn what_only_the_run_knows_runs_on_a_gpu_where_it_has_kernels() {
    let made = compiled(POSITIONS, |options| options.least_gpu_work = 0).unwrap();
    assert_eq!(made.summary.run_time_nodes, 2);
    for module in infer_kernels::cuda::plain::MODULES {
        assert!(made.summary.cuda_modules.iter().any(|linked| linked == module), "{module}");
    }
    let given = values(&inputs(&model("input x 1,3,32,32\noutput x")));
    let processor = session(&made, Some(Backend::Cpu)).unwrap();
    processor.run(&given).unwrap();
    assert_eq!(processor.run_time_nodes(), None);
    let Some(gpu) = gpu_session(&made) else { return };
    for run in 1..=3 {
        let found = tensors(gpu.run(&given).unwrap());
        let picture = found[0].values::<f32>();
        let lit = picture.iter().enumerate().filter(|(_, value)| **value != 0.0);
        let places =
            lit.flat_map(|(index, _)| [0, index / 1024, index / 32 % 32, index % 32].map(|i| i as i64));
        assert_eq!(found[1].values::<i64>(), places.collect::<Vec<_>>());
        // NonZero runs on the host, Transpose on the GPU.
        assert_eq!(gpu.run_time_nodes(), Some((run, run)));
    }
    // Where a GPU has to be worth it, the processor runs both.
    let gpu = gpu_session(&compiled(POSITIONS, |_| ()).unwrap()).unwrap();
    gpu.run(&given).unwrap();
    assert_eq!(gpu.run_time_nodes(), Some((0, 2)));
}

#[test]
fn boxes_are_selected_on_a_gpu_as_on_the_processor() {
    // Few boxes, and several turns of as many as a block has threads; rounded scores are often equal.
    for (boxes, most, iou) in
        [(1, 1, 0.5), (255, 255, 0.0), (257, 40, 0.3), (3000, 1, 0.5), (3000, 2500, 0.6)]
    {
        for (of_centres, least) in [(0, -1e9), (1, 2.0)] {
            let text = format!(
                "input b 2,{boxes},4
                 input s 2,3,{boxes}
                 floats levels [] 20
                 ints most {most}
                 floats iou [] {iou}
                 floats least [] {least}
                 l = Mul(s, levels)
                 r = Round(l)
                 positions = NonMaxSuppression(b, r, most, iou, least) center_point_box={of_centres}
                 output positions"
            );
            let made = compiled(&text, |options| options.least_gpu_work = 0).unwrap();
            let given =
                values(&inputs(&model(&format!("input b 2,{boxes},4\ninput s 2,3,{boxes}\noutput b"))));
            let expected = tensors(session(&made, Some(Backend::Cpu)).unwrap().run(&given).unwrap());
            assert!(least > 0.0 || expected[0].ty().shape[0] >= 6, "{text}");
            let Some(gpu) = gpu_session(&made) else { continue };
            assert_eq!(tensors(gpu.run(&given).unwrap()), expected, "{text}");
            assert!(gpu.run_time_nodes().is_some_and(|(on_gpu, _)| on_gpu > 0), "{text}");
        }
    }
}
