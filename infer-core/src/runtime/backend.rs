//! A model opened on the processor or on a GPU, whichever its caller asks for or the machine has.

use infer_kernels::Kernel;
#[cfg(feature = "cuda")]
use infer_kernels::cuda::Module;

#[cfg(feature = "cuda")]
use super::cuda::{CudaContext, CudaEngine, CudaOptions, DeviceInput, DeviceOutput, probe};
#[cfg(feature = "cuda")]
use super::parts::{PartsContext, PartsEngine};
use super::{Context, Engine, EngineOptions, Output, PlanBytes};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "cuda")]
use crate::plan::{PlanView, parts::is_parts};

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
    /// That for GPUs.
    #[cfg(feature = "cuda")]
    pub cuda: Option<CudaPlan<'k>>,
}

/// A model's plan for GPUs, or, where not all of it has kernels there, that of its parts on either.
#[cfg(feature = "cuda")]
#[derive(Clone, Debug)]
pub struct CudaPlan<'k> {
    /// The bytes.
    pub plan: PlanBytes,
    /// The modules that hold its kernels.
    pub modules: &'k [&'static Module],
    /// The kernels of its parts on the processor.
    pub kernels: &'k [&'static Kernel],
}

/// A model's engine, on either backend.
#[derive(Debug)]
pub enum AnyEngine {
    /// The processor's.
    Cpu(Engine),
    /// A GPU's.
    #[cfg(feature = "cuda")]
    Cuda(CudaEngine),
    /// A GPU's for some parts, the processor's for the others.
    #[cfg(feature = "cuda")]
    Parts(PartsEngine),
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

/// The plan that is to run.
pub(crate) enum Chosen<'k> {
    /// The processor's, and the kernels that it names.
    Cpu(PlanBytes, &'k [&'static Kernel]),
    /// That for GPUs, and the processor's, whose weights it may borrow.
    #[cfg(feature = "cuda")]
    Cuda(CudaPlan<'k>, Option<PlanBytes>),
}

impl<'k> Plans<'k> {
    /// The plan of the backend that the options name; where they name none, that for GPUs, or the processor's where
    /// there is no driver or it reports no GPU. Any other failure of a GPU is an error.
    pub(crate) fn choose(self, options: &EngineOptions) -> Result<Chosen<'k>> {
        #[cfg(feature = "cuda")]
        if let Some(plan) = self.cuda
            && options.backend != Some(Backend::Cpu)
        {
            let may_fall_back = options.backend.is_none() && self.cpu.is_some();
            match probe() {
                Ok(()) => return Ok(Chosen::Cuda(plan, self.cpu.map(|(plan, _)| plan))),
                Err(error) if may_fall_back && is_absence(&error) => {}
                Err(error) => return Err(error),
            }
            let (plan, kernels) = self.cpu.ok_or_else(no_plan)?;
            return Ok(Chosen::Cpu(plan, kernels));
        }
        expect_cpu(options)?;
        let (plan, kernels) = self.cpu.ok_or_else(no_plan)?;
        Ok(Chosen::Cpu(plan, kernels))
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
        match plans.choose(&options)? {
            Chosen::Cpu(plan, kernels) => Self::open_cpu(plan, kernels, options),
            #[cfg(feature = "cuda")]
            Chosen::Cuda(CudaPlan { plan, modules, kernels }, lender) => {
                let kernels = |view: &PlanView<'_>| linked_kernels(view, kernels);
                Self::open_cuda(plan, lender.as_ref(), modules, &kernels, options)
            }
        }
    }

    /// Opens a plan for the processor.
    pub(crate) fn open_cpu(
        plan: PlanBytes,
        kernels: &[&'static Kernel],
        options: EngineOptions,
    ) -> Result<Self> {
        let options = EngineOptions { backend: Some(Backend::Cpu), ..options };
        Engine::open(plan, kernels, options).map(AnyEngine::Cpu)
    }

    /// Opens a plan for GPUs, or one in parts, which may borrow the weights of `lender`; `kernels` gives those that a plan
    /// for the processor names.
    #[cfg(feature = "cuda")]
    pub(crate) fn open_cuda(
        plan: PlanBytes,
        lender: Option<&PlanBytes>,
        modules: &[&'static Module],
        kernels: &dyn Fn(&PlanView<'_>) -> Result<Vec<&'static Kernel>>,
        options: EngineOptions,
    ) -> Result<Self> {
        if is_parts(plan.as_slice()) {
            return PartsEngine::open(&plan, lender, modules, kernels, options).map(AnyEngine::Parts);
        }
        let options = CudaOptions { device: options.device };
        CudaEngine::open_borrowing(plan, lender, modules, options).map(AnyEngine::Cuda)
    }

    /// What computes.
    pub fn backend(&self) -> Backend {
        match self {
            AnyEngine::Cpu(_) => Backend::Cpu,
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(_) | AnyEngine::Parts(_) => Backend::Cuda,
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
            #[cfg(feature = "cuda")]
            AnyEngine::Parts(engine) => engine.context().run(inputs, outputs),
        }
    }

    /// The memory for a series of inferences.
    pub fn context(&self) -> AnyContext<'_> {
        match self {
            AnyEngine::Cpu(engine) => AnyContext::Cpu(engine.context()),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => AnyContext::Cuda(engine.context()),
            #[cfg(feature = "cuda")]
            AnyEngine::Parts(engine) => AnyContext::Parts(engine.context()),
        }
    }
}

/// The kernels that a plan names, among those that the program is linked with.
#[cfg(feature = "cuda")]
fn linked_kernels(view: &PlanView<'_>, linked: &[&'static Kernel]) -> Result<Vec<&'static Kernel>> {
    let find = |name: &&str| {
        linked.iter().copied().find(|kernel| kernel.name == *name).ok_or_else(|| {
            let what = format!("the plan names the kernel `{name}`, which the program lacks");
            Error::new(ErrorKind::Plan, what)
        })
    };
    view.kernels().iter().map(find).collect()
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
    /// A GPU's for some parts, the processor's for the others.
    #[cfg(feature = "cuda")]
    Parts(PartsContext<'e>),
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
            #[cfg(feature = "cuda")]
            AnyContext::Parts(context) => context.run(inputs, outputs),
        }
    }

    /// Computes the outputs from the inputs where both lie on the GPU; see [`CudaContext::run_device`].
    ///
    /// # Errors
    ///
    /// Those of [`CudaContext::run_device`]; if the processor runs the model, or parts of it.
    #[cfg(feature = "cuda")]
    pub fn run_device(&mut self, inputs: &[DeviceInput<'_>], outputs: &mut [DeviceOutput<'_>]) -> Result<()> {
        let where_it_runs = match self {
            AnyContext::Cuda(context) => return context.run_device(inputs, outputs),
            AnyContext::Cpu(_) => "on the processor",
            AnyContext::Parts(_) => "on the processor in parts",
        };
        let what = format!("inputs and outputs are on a GPU, the model runs {where_it_runs}");
        Err(Error::new(ErrorKind::Configuration, what))
    }
}
