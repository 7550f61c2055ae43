//! A model opened on the processor or on a GPU, whichever its caller asks for or the machine has.

use infer_kernels::Kernel;
#[cfg(feature = "cuda")]
use infer_kernels::cuda::Module;

#[cfg(feature = "cuda")]
use super::cuda::{CudaContext, CudaEngine, CudaOptions, probe};
use super::{Context, Engine, EngineOptions, Output, PlanBytes};
use crate::error::{Error, ErrorKind, Result};

/// What computes a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The plans of a model.
#[derive(Clone, Debug, Default)]
pub struct Plans<'k> {
    /// The processor's, and the kernels that it names.
    pub cpu: Option<(PlanBytes, &'k [&'static Kernel])>,
    /// That for GPUs, and the modules that hold its kernels.
    #[cfg(feature = "cuda")]
    pub cuda: Option<(PlanBytes, &'k [&'static Module])>,
}

/// A model's engine, on either backend.
#[derive(Debug)]
pub enum AnyEngine {
    /// The processor's.
    Cpu(Engine),
    /// A GPU's.
    #[cfg(feature = "cuda")]
    Cuda(CudaEngine),
}

/// Refuses a backend that a model was not compiled for.
pub(crate) fn expect_cpu(options: &EngineOptions) -> Result<()> {
    match options.backend {
        None | Some(Backend::Cpu) => Ok(()),
        Some(Backend::Cuda) => {
            let what = "the model was not compiled for GPUs; the notes of its type (`NOTES`) say why";
            Err(Error::new(ErrorKind::Configuration, what))
        }
    }
}

impl AnyEngine {
    /// Opens the plan of the backend that the options name; where they name none, that for GPUs, or the processor's
    /// where there is no driver or it reports no GPU. Any other failure of a GPU is an error.
    ///
    /// # Errors
    ///
    /// If there is no plan for the backend; those of [`Engine::open`] and of
    #[cfg_attr(feature = "cuda", doc = "[`CudaEngine::open`].")]
    #[cfg_attr(not(feature = "cuda"), doc = "engines on GPUs.")]
    pub fn open(plans: Plans<'_>, options: EngineOptions) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some((plan, modules)) = plans.cuda
            && options.backend != Some(Backend::Cpu)
        {
            let may_fall_back = options.backend.is_none() && plans.cpu.is_some();
            match probe() {
                Ok(()) => {
                    let options = CudaOptions { device: options.device };
                    return CudaEngine::open(plan, modules, options).map(AnyEngine::Cuda);
                }
                Err(error) if may_fall_back && is_absence(&error) => {}
                Err(error) => return Err(error),
            }
            let (plan, kernels) = plans.cpu.ok_or_else(no_plan)?;
            return Engine::open(plan, kernels, EngineOptions { backend: Some(Backend::Cpu), ..options })
                .map(AnyEngine::Cpu);
        }
        let (plan, kernels) = plans.cpu.ok_or_else(no_plan)?;
        Engine::open(plan, kernels, options).map(AnyEngine::Cpu)
    }

    /// What computes.
    pub fn backend(&self) -> Backend {
        match self {
            AnyEngine::Cpu(_) => Backend::Cpu,
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(_) => Backend::Cuda,
        }
    }

    /// Computes the outputs from the inputs; see [`Engine::run`].
    ///
    /// # Errors
    ///
    /// Those of [`Context::run`]; if the GPU fails.
    pub fn run(&self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        match self {
            AnyEngine::Cpu(engine) => engine.run(inputs, outputs),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => engine.run(inputs, outputs),
        }
    }

    /// The memory for a series of inferences.
    pub fn context(&self) -> AnyContext<'_> {
        match self {
            AnyEngine::Cpu(engine) => AnyContext::Cpu(engine.context()),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => AnyContext::Cuda(engine.context()),
        }
    }
}

/// Whether the machine has no GPU, rather than one that fails.
#[cfg(feature = "cuda")]
fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NoDriver | ErrorKind::NoDevice)
}

fn no_plan() -> Error {
    Error::new(ErrorKind::Configuration, "the model was compiled for GPUs alone, by `backend = \"cuda\"`")
}

/// The memory of one inference at a time, on either backend.
#[derive(Debug)]
pub enum AnyContext<'e> {
    /// The processor's.
    Cpu(Context<'e>),
    /// A GPU's.
    #[cfg(feature = "cuda")]
    Cuda(CudaContext<'e>),
}

impl AnyContext<'_> {
    /// Computes the outputs from the inputs; see [`Context::run`].
    ///
    /// # Errors
    ///
    /// Those of [`Context::run`]; if the GPU fails.
    pub fn run(&mut self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        match self {
            AnyContext::Cpu(context) => context.run(inputs, outputs),
            #[cfg(feature = "cuda")]
            AnyContext::Cuda(context) => context.run(inputs, outputs),
        }
    }
}
