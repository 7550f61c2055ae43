//! Plans on a GPU; where there is none, why a test is skipped.

use std::time::Instant;

use super::super::infer_core::compile::{Compiled, compile_with};
use super::super::infer_core::constant::Constant;
use super::super::infer_core::diagnostic::Diagnostic;
use super::super::infer_core::lower_cuda::Lowered;
use super::super::infer_core::onnx::ModelFile;
use super::super::infer_core::onnx::proto::{Dimension, TensorShapeProto, TypeProto, type_proto};
use super::super::infer_core::options::{Backends, Options, Precision};
use super::super::infer_core::plan::{AlignedBytes, Port};
use super::super::infer_core::runtime::cuda::{CudaEngine, CudaOptions};
use super::super::infer_core::runtime::{Backend, CudaPlan, EngineOptions, Output, Plans};
use super::super::infer_core::session::Session;
use super::super::infer_core::tactics::Tactics;
use super::super::infer_core::{ErrorKind, Result};
use super::proto;
use infer_kernels::cuda::MODULES;
use prost::Message;

/// Every precision, and how far results may be from the reference, as a fraction of the largest.
pub const PRECISIONS: [(Precision, f32); 4] =
    [(Precision::Fp32, 2e-5), (Precision::Tf32, 1e-2), (Precision::Fp16, 1e-2), (Precision::Bf16, 8e-2)];

/// Asserts that every call of a plan passes its kernel's validation and has something to launch.
pub fn assert_valid(lowered: &Lowered, what: &str) {
    for call in &lowered.calls.calls {
        let kernel = infer_kernels::cuda::find(&call.kernel).unwrap();
        let operand_bytes: Vec<u64> =
            call.operands.iter().map(|span| span.map_or(0, |span| span.bytes)).collect();
        let mut words = vec![0u64; call.params.len().div_ceil(8)];
        let params = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..call.params.len()];
        params.copy_from_slice(&call.params);
        let call = infer_kernels::Call { params, operand_bytes: &operand_bytes };
        (kernel.validate)(&call).unwrap_or_else(|invalid| panic!("{}: {invalid} in\n{what}", kernel.name));
        let launch = (kernel.launch)(call.params);
        assert!(!launch.grid.contains(&0) && launch.threads > 0, "{}: {launch:?} in\n{what}", kernel.name);
    }
}

/// What needs a GPU, or `None` where there is none, which is printed; `INFER_CUDA_REQUIRED=1` makes that a failure.
pub fn on_gpu<T>(opened: Result<T>) -> Option<T> {
    match opened {
        Ok(opened) => Some(opened),
        Err(error) if matches!(error.kind(), ErrorKind::NoDriver | ErrorKind::NoDevice) => {
            let required = std::env::var_os("INFER_CUDA_REQUIRED").is_some_and(|value| value == "1");
            assert!(!required, "{error}");
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Opens a plan.
pub fn open(plan: AlignedBytes) -> Option<CudaEngine> {
    on_gpu(CudaEngine::open(plan, MODULES, CudaOptions::default()))
}

/// One inference, whose outputs hold something else before.
pub fn run(engine: &CudaEngine, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
    let ports = engine.info().outputs;
    let mut outputs: Vec<Vec<u8>> = ports.iter().map(|port| vec![0xAA; port.ty.bytes()]).collect();
    let mut slots: Vec<Output<'_>> =
        outputs.iter_mut().map(|bytes| Output::from(bytes.as_mut_slice())).collect();
    engine.run(inputs, &mut slots)?;
    Ok(outputs)
}

/// The outputs after an inference of NaN, which leaves NaN all over the arena and the outputs.
pub fn outputs(engine: &CudaEngine, inputs: &[Constant]) -> Result<Vec<Constant>> {
    let poison: Vec<Vec<u8>> = inputs.iter().map(|input| vec![0xFF; input.data().len()]).collect();
    // What is no number is no index either: that inference may fail.
    let _ = run(engine, &poison.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let outputs = run(engine, &inputs.iter().map(|input| &input.data()[..]).collect::<Vec<_>>())?;
    let typed = |(port, bytes): (&Port, Vec<u8>)| Constant::new(port.ty.clone(), bytes.into()).unwrap();
    Ok(engine.info().outputs.iter().zip(outputs).map(typed).collect())
}

/// What the compiler makes of a model for both backends, or as `change` has it.
pub fn compiled_with(
    text: &str,
    tactics: Tactics,
    change: impl Fn(&mut Options),
) -> std::result::Result<Compiled, Vec<Diagnostic>> {
    let mut proto = proto(text);
    // Of positions one has to say what they are.
    let outputs = proto.graph.as_mut().into_iter().flat_map(|graph| &mut graph.output);
    for output in outputs.filter(|output| output.name == "positions") {
        let dim = vec![Dimension { value: None }; 2];
        let tensor = type_proto::Tensor { elem_type: 7, shape: Some(TensorShapeProto { dim }) };
        output.r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) });
    }
    let bytes = proto.encode_to_vec().into();
    let file = ModelFile { name: "test.onnx".to_owned(), bytes, proto, sources: Vec::new() };
    let mut options = Options::new("test.onnx");
    options.backends = Backends::Auto;
    // These models are small.
    options.least_gpu_work = 1000;
    change(&mut options);
    compile_with(file, &options, tactics, Instant::now())
}

/// Opens it.
#[allow(clippy::field_reassign_with_default, reason = "outside of the crate there is no other way")]
pub fn session(compiled: &Compiled, backend: Option<Backend>) -> Result<Session> {
    let mut plans = Plans::default();
    if !compiled.plan.is_empty() {
        plans.cpu = Some((AlignedBytes::copy_of(&compiled.plan)?.into(), &[]));
    }
    if let Some(plan) = &compiled.cuda_plan {
        let plan = AlignedBytes::copy_of(plan)?.into();
        plans.cuda = Some(CudaPlan { plan, modules: MODULES, kernels: &[] });
    }
    let mut options = EngineOptions::default();
    options.backend = backend;
    Session::open_any(plans, options)
}
