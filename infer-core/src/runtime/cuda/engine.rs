//! An opened plan on a GPU.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use infer_kernels::Call;
use infer_kernels::cuda::{self, CudaKernel, Launch, Module};

use super::driver::{Device, DeviceMemory, Function, LoadedModule, device_count};
use super::{CudaContext, State};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "compiler")]
use crate::plan::AlignedBytes;
use crate::plan::{Location, Operand, PlanView, Port};
use crate::runtime::{Output, PlanBytes};

/// How a plan is opened.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CudaOptions {
    /// Which GPU, as the driver counts them.
    pub device: usize,
}

/// A step, ready to be launched.
#[derive(Debug)]
pub(super) struct ResolvedStep {
    pub kernel: &'static CudaKernel,
    pub function: Function,
    pub launch: Launch,
    /// Its parameters, as the end of the kernel's argument.
    pub params: Vec<u64>,
    /// Its operands among [`CudaEngine::operands`].
    pub operands: Range<usize>,
    pub node: String,
}

/// A step that its kernel has validated.
struct Step<'p> {
    kernel: &'static CudaKernel,
    launch: Launch,
    params: Vec<u64>,
    operands: Range<usize>,
    node: &'p str,
}

/// All steps of a plan, validated.
struct Calls<'p> {
    steps: Vec<Step<'p>>,
    operands: Vec<Operand>,
}

impl<'p> Calls<'p> {
    fn of(view: &PlanView<'p>) -> Result<Self> {
        let table: Vec<&'static CudaKernel> = view
            .kernels()
            .iter()
            .map(|name| {
                cuda::find(name).ok_or_else(|| {
                    let what = format!("the plan names the kernel `{name}`, which the GPU does not have");
                    Error::new(ErrorKind::Plan, what)
                })
            })
            .collect::<Result<_>>()?;

        let mut operands: Vec<Operand> = Vec::new();
        let mut steps = Vec::with_capacity(view.steps().len());
        for step in view.steps() {
            // Reading found the position to be in the plan's table, which has been resolved whole.
            let kernel = table[step.kernel];
            let first = operands.len();
            operands.extend(step.operands());
            if step.operands().any(|operand| operand.location == Location::Prepared) {
                let what = format!(
                    "node `{}` reads prepared memory, which plans for the GPU do not have",
                    step.node
                );
                return Err(Error::new(ErrorKind::Plan, what));
            }
            let sizes: Vec<u64> = step.operands().map(|operand| operand.bytes as u64).collect();
            let call = Call { params: step.params, operand_bytes: &sizes };
            (kernel.validate)(&call).map_err(|invalid| {
                let what = format!(
                    "node `{}` calls {} with {invalid}; compile the model again",
                    step.node, kernel.name
                );
                Error::new(ErrorKind::Plan, format!("the plan is damaged or made for other kernels: {what}"))
            })?;
            let mut params = vec![0u64; step.params.len().div_ceil(size_of::<u64>())];
            bytemuck::cast_slice_mut::<u64, u8>(&mut params)[..step.params.len()]
                .copy_from_slice(step.params);
            let launch = (kernel.launch)(step.params);
            steps.push(Step { kernel, launch, params, operands: first..operands.len(), node: step.node });
        }
        Ok(Calls { steps, operands })
    }

    /// The steps with their functions, from these modules; the GPU's context is that of the thread.
    fn resolved(&self, modules: &[(&'static str, LoadedModule)]) -> Result<Vec<ResolvedStep>> {
        let steps = self.steps.iter().map(|step| {
            let Step { kernel, launch, ref params, ref operands, node } = *step;
            let found = modules.iter().find(|(name, _)| *name == kernel.module);
            let (_, module) = found.ok_or_else(|| {
                let what = format!("the kernels `{}` are not on the GPU", kernel.module);
                Error::new(ErrorKind::Plan, what)
            })?;
            let function = module.function(kernel)?;
            let (params, operands, node) = (params.clone(), operands.clone(), node.to_owned());
            Ok(ResolvedStep { kernel, function, launch, params, operands, node })
        });
        steps.collect()
    }
}

/// A plan that has been opened on a GPU: validated, its weights and kernels there. Any number of threads may share it.
#[derive(Debug)]
pub struct CudaEngine {
    /// What contexts left behind, for the next ones; before what their work uses, so that it is dropped first.
    pub(super) pool: Mutex<Vec<State>>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    pub(super) steps: Vec<ResolvedStep>,
    pub(super) operands: Vec<Operand>,
    pub(super) arena_bytes: usize,
    pub(super) weights: Arc<DeviceMemory>,
    /// See [`Stream::launch`](super::Stream::launch).
    pub(super) hopper: bool,
    /// The modules by their names, for as long as their kernels are used.
    #[cfg_attr(not(feature = "compiler"), expect(dead_code, reason = "only tuning asks for them again"))]
    modules: Arc<Vec<(&'static str, LoadedModule)>>,
    pub(super) device: Arc<Device>,
}

/// What a [`CudaEngine`] is, for tools.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CudaInfo<'e> {
    /// The inputs, in the model's order.
    pub inputs: &'e [Port],
    /// The outputs, in the model's order.
    pub outputs: &'e [Port],
    /// The size of the memory that each context has on the GPU beside inputs and outputs.
    pub arena_bytes: usize,
    /// The size of the weights.
    pub weight_bytes: usize,
    /// The GPU's name.
    pub device: &'e str,
    /// The GPU's architecture: compute capability, major and minor.
    pub architecture: (i32, i32),
    /// The GPU's multiprocessors.
    pub multiprocessors: i32,
    /// The kernel calls, in order: kernel and node.
    pub steps: Vec<(&'e str, &'e str)>,
}

/// Whether there is a GPU to ask for at all: an error of kind [`ErrorKind::NoDriver`] without a driver,
/// [`ErrorKind::NoDevice`] where that reports none.
///
/// # Errors
///
/// These, and whatever else the driver fails with when it is started.
pub fn probe() -> Result<()> {
    match device_count()? {
        0 => Err(Error::new(ErrorKind::NoDevice, "there is no GPU")),
        _ => Ok(()),
    }
}

impl CudaEngine {
    /// Opens a plan of [`lower_cuda`](crate::lower_cuda) on a GPU, whose kernels are in the modules `linked`.
    ///
    /// # Errors
    ///
    /// If the plan is damaged, of another version, or made for other kernels; if there is no driver, too old a driver,
    /// no such GPU, one of too old an architecture, or too little memory on it, each an [`ErrorKind`] of its own.
    pub fn open(
        plan: impl Into<PlanBytes>,
        linked: &[&'static Module],
        options: CudaOptions,
    ) -> Result<Self> {
        let plan = plan.into();
        let view = PlanView::read(plan.as_slice())?;
        let calls = Calls::of(&view)?;
        let device = Device::open(options.device)?;
        let mut modules: Vec<(&'static str, LoadedModule)> = Vec::new();
        for Step { kernel, .. } in &calls.steps {
            if modules.iter().any(|(name, _)| *name == kernel.module) {
                continue;
            }
            let module = linked.iter().find(|module| module.name == kernel.module).ok_or_else(|| {
                let (kernel, module) = (kernel.name, kernel.module);
                let what = format!("the plan names `{kernel}`, whose module `{module}` the program lacks");
                Error::new(ErrorKind::Plan, what)
            })?;
            modules.push((kernel.module, LoadedModule::load(&device, module)?));
        }
        let steps = calls.resolved(&modules)?;
        let weights = Arc::new(DeviceMemory::copy_of(&device, view.weights())?);
        Ok(CudaEngine::new(&view, steps, calls.operands, weights, Arc::new(modules), device))
    }

    /// The same model with other calls: a plan that differs from the engine's in how calls are computed alone, without its
    /// weights ([`Lowered::tables`](crate::lower_cuda::Lowered::tables)). Weights and kernels on the GPU are shared.
    ///
    /// # Errors
    ///
    /// If the tables are damaged, need other modules than the engine has, or other weights, as far as their size tells.
    #[cfg(feature = "compiler")]
    pub fn retuned(&self, tables: &AlignedBytes) -> Result<Self> {
        let tables = tables.as_slice();
        let view = PlanView::read_tables(tables, (tables.len() + self.weights.bytes()) as u64)?;
        let calls = Calls::of(&view)?;
        self.device.bind()?;
        let steps = calls.resolved(&self.modules)?;
        let (weights, modules) = (self.weights.clone(), self.modules.clone());
        Ok(CudaEngine::new(&view, steps, calls.operands, weights, modules, self.device.clone()))
    }

    fn new(
        view: &PlanView<'_>,
        steps: Vec<ResolvedStep>,
        operands: Vec<Operand>,
        weights: Arc<DeviceMemory>,
        modules: Arc<Vec<(&'static str, LoadedModule)>>,
        device: Arc<Device>,
    ) -> Self {
        CudaEngine {
            pool: Mutex::new(Vec::new()),
            inputs: view.inputs().to_vec(),
            outputs: view.outputs().to_vec(),
            arena_bytes: view.arena_bytes(),
            weights,
            hopper: steps.iter().all(|step| step.function.hopper),
            steps,
            operands,
            modules,
            device,
        }
    }

    /// Computes the outputs from the inputs, in memory of the engine's pool; see [`CudaContext::run`].
    ///
    /// # Errors
    ///
    /// Those of [`CudaContext::run`].
    pub fn run(&self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        self.context().run(inputs, outputs)
    }

    /// The memory for a series of inferences.
    pub fn context(&self) -> CudaContext<'_> {
        CudaContext::new(self)
    }

    /// The node of the first kernel call.
    #[cfg(feature = "dynamic")]
    pub(crate) fn first_node(&self) -> &str {
        self.steps.first().map_or("", |step| &step.node)
    }

    /// What the engine is.
    pub fn info(&self) -> CudaInfo<'_> {
        CudaInfo {
            inputs: &self.inputs,
            outputs: &self.outputs,
            arena_bytes: self.arena_bytes,
            weight_bytes: self.weights.bytes(),
            device: &self.device.name,
            architecture: self.device.architecture,
            multiprocessors: self.device.multiprocessors,
            steps: self.steps.iter().map(|step| (step.kernel.name, step.node.as_str())).collect(),
        }
    }
}
