//! Plans built by hand, executed: results, errors, concurrent callers.

#![allow(unsafe_code)]

use infer_kernels::{Args, Call, Invalid, Kernel, PerIsa, RunError};

use super::*;
use crate::error::ErrorKind;
use crate::plan::testing::{port, sample, sample_calls, written};
use crate::plan::{AlignedBytes, PlanView, Port};
use crate::tensor_type::DataType;

/// How many f32 each chunk of the test kernels works on at least, so that small tensors are split too.
const GRAIN: usize = 2;

fn pieces(args: &Args<'_>, threads: usize) -> usize {
    let elements = args.operands.last().map_or(0, |output| output.bytes / 4);
    elements.div_ceil(GRAIN).clamp(1, threads.max(1))
}

fn one_chunk(_: &Args<'_>, _: usize) -> usize {
    1
}

/// Calls `each` with every element number of the chunk.
fn each_element(args: &Args<'_>, chunk: usize, chunks: usize, mut each: impl FnMut(usize)) {
    let elements = args.operands.last().map_or(0, |output| output.bytes / 4);
    (elements * chunk / chunks..elements * (chunk + 1) / chunks).for_each(&mut each);
}

/// out = in0 + in1
unsafe fn add(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let [a, b, out] = [0, 1, 2].map(|operand| args.operands[operand].ptr::<f32>());
    each_element(args, chunk, chunks, |i| {
        // SAFETY: validation made all three operands as long as the output.
        unsafe { *out.add(i) = *a.add(i) + *b.add(i) }
    });
    Ok(())
}

fn validate_add(call: &Call<'_>) -> Result<(), Invalid> {
    call.expect_operands(3)?;
    (0..3).try_for_each(|operand| call.expect_elements(operand, Some(call.operand_bytes[2] / 4), 4))
}

/// out = in · in1[0]; in2 is optional and unused.
unsafe fn scale(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    assert!(args.operands[2].bytes == 0 && args.params.as_ptr().addr().is_multiple_of(8));
    let [a, factor, out] = [0, 1, 3].map(|operand| args.operands[operand].ptr::<f32>());
    each_element(args, chunk, chunks, |i| {
        // SAFETY: validation made the first operand as long as the output and the second at least one element.
        unsafe { *out.add(i) = *a.add(i) * *factor }
    });
    Ok(())
}

fn validate_scale(call: &Call<'_>) -> Result<(), Invalid> {
    call.expect_operands(4)?;
    call.expect_elements(1, Some(1), 4)?;
    call.expect_elements(0, Some(call.operand_bytes[3] / 4), 4)
}

/// Bytes inverted: of a `bool` that makes 0xFF or 0xFE.
unsafe fn not(args: &Args<'_>, _: usize, _: usize) -> Result<(), RunError> {
    let [input, output] = [0, 1].map(|operand| args.operands[operand]);
    for i in 0..output.bytes {
        // SAFETY: validation made both operands equally long.
        unsafe { *output.data.add(i) = !*input.data.add(i) }
    }
    Ok(())
}

fn validate_not(call: &Call<'_>) -> Result<(), Invalid> {
    call.expect_operands(2)?;
    if call.operand_bytes[0] == call.operand_bytes[1] { Ok(()) } else { Err(Invalid("other sizes")) }
}

/// Fails in every chunk, with the chunk's number as the index.
unsafe fn fail(_: &Args<'_>, chunk: usize, _: usize) -> Result<(), RunError> {
    Err(RunError::IndexOutOfRange { index: chunk as i64, length: 0 })
}

static ADD: Kernel =
    Kernel { name: "test_add", validate: validate_add, chunks: pieces, run: PerIsa::portable(add) };
static SCALE: Kernel =
    Kernel { name: "test_scale", validate: validate_scale, chunks: pieces, run: PerIsa::portable(scale) };
static NOT: Kernel =
    Kernel { name: "test_not", validate: validate_not, chunks: one_chunk, run: PerIsa::portable(not) };
static FAIL: Kernel =
    Kernel { name: "test_add", validate: validate_add, chunks: pieces, run: PerIsa::portable(fail) };

static KERNELS: [&Kernel; 3] = [&ADD, &NOT, &SCALE];

const THREE: EngineOptions = EngineOptions { threads: Some(3), backend: None, device: 0 };

/// y = 2 · (x + weights), flags = mask != 254, with the sample's weights as f32.
fn sample_plan() -> (AlignedBytes, Vec<Port>, Vec<Port>) {
    let (mut calls, inputs, outputs) = sample_calls();
    let weights: Vec<u8> = [0.5f32; 6].iter().flat_map(|v| v.to_le_bytes()).collect();
    let factor: Vec<u8> = [2.0f32; 25].iter().flat_map(|v| v.to_le_bytes()).collect();
    calls.buffers[2].kind = crate::calls::BufferKind::Constant(weights.into());
    calls.buffers[3].kind = crate::calls::BufferKind::Constant(factor.into());
    (written(&calls, &inputs, &outputs), inputs, outputs)
}

fn sample_engine() -> Engine {
    Engine::open(sample_plan().0, &KERNELS, THREE).unwrap()
}

fn expected(x: &[[f32; 3]; 2]) -> [[f32; 2]; 3] {
    *<[[f32; 2]; 3]>::from_slice(&x.as_flattened().iter().map(|v| 2.0 * (v + 0.5)).collect::<Vec<_>>())
        .unwrap()
}

#[test]
fn a_plan_is_computed_with_typed_arrays() {
    let engine = sample_engine();
    let x = [[1.0f32, 2.0, 3.0], [4.0, 5.0, f32::INFINITY]];
    let mask = [true, false, true, false, false];
    let (mut y, mut flags) = (<[[f32; 2]; 3]>::zeroed(), <[bool; 5]>::zeroed());
    let mut context = engine.context();
    for _ in 0..3 {
        context.run(&[x.as_bytes(), mask.as_bytes()], &mut [y.as_output(), flags.as_output()]).unwrap();
        assert_eq!(*y, expected(&x));
        // The kernel writes 0xFE and 0xFF; as `bool` both must be 1.
        assert_eq!(flags.as_bytes(), [1; 5]);
        y.as_mut_elements().fill(0.0);
    }
}

#[test]
fn an_embedded_plan_runs_as_well() {
    let plan: &'static AlignedBytes = Box::leak(Box::new(sample_plan().0));
    let engine = Engine::open(plan.as_slice(), &KERNELS, EngineOptions::default()).unwrap();
    let x = [[1.0f32; 3]; 2];
    let (mut y, mut flags) = ([[0.0f32; 2]; 3], [false; 5]);
    engine.run(&[x.as_bytes(), &[0; 5]], &mut [y.as_output(), flags.as_output()]).unwrap();
    assert_eq!(y, expected(&x));
}

#[test]
fn threads_share_an_engine() {
    let engine = &sample_engine();
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            scope.spawn(move || {
                for round in 0..if cfg!(miri) { 2 } else { 200 } {
                    let x = [[f32::from(thread), round as f32, 1.0], [2.0, 3.0, 4.0]];
                    let (mut y, mut flags) = ([[0.0f32; 2]; 3], [0u8; 5]);
                    engine
                        .run(&[x.as_bytes(), &[0; 5]], &mut [y.as_output(), (&mut flags[..]).into()])
                        .unwrap();
                    assert_eq!(y, expected(&x));
                }
            });
        }
    });
    let contexts = engine.pool.lock().unwrap().len();
    assert!((1..=8).contains(&contexts), "{contexts}");
}

#[test]
fn a_context_keeps_its_memory_and_gives_it_back() {
    let engine = sample_engine();
    let (x, mut y, mut flags) = ([[1.0f32; 3]; 2], [[0.0f32; 2]; 3], [false; 5]);
    let mut context = engine.context();
    context.run(&[x.as_bytes(), &[0; 5]], &mut [y.as_output(), flags.as_output()]).unwrap();
    let mut other = engine.context();
    other.run(&[x.as_bytes(), &[0; 5]], &mut [y.as_output(), flags.as_output()]).unwrap();
    assert!(engine.pool.lock().unwrap().is_empty());
    drop(context);
    assert_eq!(engine.pool.lock().unwrap().len(), 1);
    let _again = engine.context();
    assert!(engine.pool.lock().unwrap().is_empty());
}

#[track_caller]
fn assert_run_error(inputs: &[&[u8]], outputs: &mut [Output<'_>], what: &str) {
    let error = sample_engine().run(inputs, outputs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains(what), "{error}");
}

#[test]
fn what_does_not_fit_the_ports_is_an_error() {
    let (x, mask) = ([[0.0f32; 3]; 2], [false; 5]);
    let (mut y, mut flags) = ([[0.0f32; 2]; 3], [false; 5]);
    assert_run_error(&[x.as_bytes()], &mut [], "the model has 2 inputs; 1 were given");
    assert_run_error(
        &[x.as_bytes(), mask.as_bytes()],
        &mut [y.as_output()],
        "the model has 2 outputs; 1 were given",
    );
    assert_run_error(
        &[&x.as_bytes()[1..], mask.as_bytes()],
        &mut [y.as_output(), flags.as_output()],
        "input `x` is f32[2,3], which takes 24 bytes; 23 were given",
    );
    assert_run_error(
        &[x.as_bytes(), mask.as_bytes()],
        &mut [y.as_output(), (&mut [0; 6][..]).into()],
        "output `flags` is bool[5], which takes 5 bytes; 6 were given",
    );
    assert_run_error(
        &[x.as_bytes(), mask.as_bytes()],
        &mut [y.as_output(), [0u8; 5].as_output()],
        "output `flags` is bool[5]; an array of u8 was given for it",
    );
    let room = [[0.0f32; 3]; 3];
    assert_run_error(
        &[&room.as_bytes()[1..25], mask.as_bytes()],
        &mut [y.as_output(), flags.as_output()],
        "input `x` is f32[2,3], which must begin at a multiple of 4 bytes",
    );
}

#[test]
fn a_kernel_s_error_names_the_node_and_the_first_chunk() {
    let engine = Engine::open(sample_plan().0, &[&FAIL, &NOT, &SCALE], THREE).unwrap();
    let (x, mut y, mut flags) = ([[0.0f32; 3]; 2], [[0.0f32; 2]; 3], [7u8; 5]);
    let outputs = &mut [y.as_output(), (&mut flags[..]).into()];
    let error = engine.run(&[x.as_bytes(), &[0; 5]], outputs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert_eq!(
        error.to_string(),
        "node `größe` (kernel test_add): index 0 is out of range for an axis of length 0"
    );
    assert_eq!(flags, [1; 5]);
}

#[test]
fn other_kernels_than_the_plan_s_are_refused() {
    for kernels in [&[&ADD, &NOT][..], &[&ADD, &SCALE, &NOT], &[]] {
        let error = Engine::open(sample_plan().0, kernels, THREE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plan);
        assert!(error.to_string().contains("names the kernels [test_add, test_not, test_scale]"), "{error}");
    }
    let plan = sample();
    let error = registered_kernels(&PlanView::read(plan.as_slice()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("`test_add`, which this version does not have"), "{error}");
}

#[test]
fn calls_that_leave_their_operands_are_refused() {
    let (mut calls, inputs, outputs) = sample_calls();
    if let Some(mask) = &mut calls.calls[2].operands[0] {
        mask.bytes = 4;
    }
    let error = Engine::open(written(&calls, &inputs, &outputs), &KERNELS, THREE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Plan);
    assert!(error.to_string().contains("node `scale` calls test_not with other sizes"), "{error}");
}

#[test]
fn impossible_thread_counts_are_refused() {
    for threads in [0, usize::MAX] {
        let error = Engine::open(
            sample_plan().0,
            &KERNELS,
            EngineOptions { threads: Some(threads), ..EngineOptions::default() },
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}

#[test]
fn the_info_says_what_the_plan_holds() {
    let (plan, inputs, outputs) = sample_plan();
    let engine = Engine::open(plan, &KERNELS, THREE).unwrap();
    let info = engine.info();
    assert_eq!((info.inputs, info.outputs), (&*inputs, &*outputs));
    assert_eq!((info.arena_bytes, info.weight_bytes, info.threads), (64, 192, 3));
    assert_eq!((info.model.opset, info.model.flops), (17, 1234));
    let steps: Vec<(&str, &str)> = info.steps.iter().map(|step| (step.kernel, step.node)).collect();
    assert_eq!(steps, [("test_add", "größe"), ("test_scale", "scale"), ("test_not", "scale")]);
}

/// y = x + 2 · weights, the product being prepared.
fn prepared_plan() -> AlignedBytes {
    let floats = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let mut calls = crate::calls::Calls::default();
    let weights = calls.add_constant(floats(&[1.0, 2.0, 3.0]).into());
    let two = calls.add_constant(floats(&[2.0]).into());
    let x = calls.add_buffer(crate::calls::BufferKind::Input(0), 12);
    let y = calls.add_buffer(crate::calls::BufferKind::Output(0), 12);
    let call = |kernel: &str, operands, outputs| crate::calls::KernelCall {
        kernel: kernel.into(),
        params: Vec::new(),
        operands,
        outputs,
        node: "sum".into(),
    };
    let inputs = vec![Some(calls.whole(weights)), Some(calls.whole(two)), None];
    let prepared = calls.add_prepared(call("test_scale", inputs, 0), 12);
    let operands = vec![Some(calls.whole(x)), Some(prepared), Some(calls.whole(y))];
    calls.calls.push(call("test_add", operands, 1));
    let port = |name| vec![port(name, DataType::F32, &[3])];
    written(&calls, &port("x"), &port("y"))
}

#[test]
fn what_is_prepared_is_read_by_every_inference() {
    let engine = Engine::open(prepared_plan(), &[&ADD, &SCALE], THREE).unwrap();
    assert_eq!((engine.info().prepared_bytes, engine.info().steps.len()), (64, 1));
    for x in [[1.0f32, 10.0, 100.0], [0.0; 3]] {
        let mut y = [0.0f32; 3];
        engine.run(&[x.as_bytes()], &mut [y.as_output()]).unwrap();
        assert_eq!(y, [x[0] + 2.0, x[1] + 4.0, x[2] + 6.0]);
    }
}

#[test]
fn an_embedded_plan_is_prepared_once_while_it_is_open() {
    let plan: &'static AlignedBytes = Box::leak(Box::new(prepared_plan()));
    let open = || Engine::open(plan.as_slice(), &[&ADD, &SCALE], THREE).unwrap();
    let (first, second) = (open(), open());
    let address = |engine: &Engine| engine.prepared.as_ref().map(|bytes| bytes.as_slice().as_ptr().addr());
    assert!(address(&first).is_some());
    assert_eq!(address(&first), address(&second));
    drop((first, second));
    let mut y = [0.0f32; 3];
    open().run(&[[1.0f32; 3].as_bytes()], &mut [y.as_output()]).unwrap();
    assert_eq!(y, [3.0, 5.0, 7.0]);
}

#[test]
fn a_step_that_cannot_prepare_is_an_error() {
    static FAILS: Kernel =
        Kernel { name: "test_scale", validate: validate_scale, chunks: pieces, run: PerIsa::portable(fail) };
    let error = Engine::open(prepared_plan(), &[&ADD, &FAILS], THREE).unwrap_err();
    assert!(error.to_string().contains("node `sum` (kernel test_scale): index 0"), "{error}");
}

#[test]
fn a_model_without_steps_runs() {
    let empty = |name| vec![port(name, DataType::F32, &[0, 3])];
    let plan = written(&crate::calls::Calls::default(), &empty("x"), &empty("y"));
    let engine = Engine::open(plan, &[], THREE).unwrap();
    engine.run(&[&[]], &mut [(&mut [][..]).into()]).unwrap();
    assert_eq!(engine.info().arena_bytes, 0);
}
