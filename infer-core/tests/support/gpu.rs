//! Plans on a GPU; where there is none, why a test is skipped.

use super::super::infer_core::constant::Constant;
use super::super::infer_core::plan::{AlignedBytes, Port};
use super::super::infer_core::runtime::Output;
use super::super::infer_core::runtime::cuda::{CudaEngine, CudaOptions};
use super::super::infer_core::{ErrorKind, Result};
use infer_kernels::cuda::MODULES;

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
