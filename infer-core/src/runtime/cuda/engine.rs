//! An opened plan on a GPU.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use infer_kernels::Call;
use infer_kernels::cuda::{self, CudaKernel, Launch, Module, TensorMap};

use super::driver::{Device, DeviceMemory, Function, LoadedModule, Stream, device_count};
use super::{CudaContext, State};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "compiler")]
use crate::plan::AlignedBytes;
use crate::plan::{self, ALIGNMENT, Location, Operand, PlanId, PlanView, Port};
use crate::runtime::{Output, PlanBytes};

/// How a plan is opened.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CudaOptions {
    /// Which GPU, as the driver counts them.
    pub device: usize,
}

/// The module whose kernels may prepare. Those of others may use counters, which inferences alone have.
const PREPARING: &str = "retile";

/// A step, ready to be launched.
#[derive(Debug)]
pub(super) struct ResolvedStep {
    pub kernel: &'static CudaKernel,
    /// Whether it is to be launched: the step before may compute what it does.
    pub is_launched: bool,
    pub function: Function,
    pub launch: Launch,
    /// Its operands as they are copied, the beginning of the kernel's argument.
    pub tensors: Vec<TensorMap>,
    /// Its parameters, as the end of the kernel's argument.
    pub params: Vec<u64>,
    /// Its operands among [`CudaEngine::operands`].
    pub operands: Range<usize>,
    pub node: String,
}

/// A step that its kernel has validated.
struct Step<'p> {
    kernel: &'static CudaKernel,
    params: &'p [u8],
    operands: Range<usize>,
    node: &'p str,
}

/// All steps of a plan, validated.
struct Calls<'p> {
    steps: Vec<Step<'p>>,
    operands: Vec<Operand>,
}

impl<'p> Calls<'p> {
    /// Those of a plan that are `steps`.
    fn of(view: &PlanView<'p>, steps: impl ExactSizeIterator<Item = plan::Step<'p>>) -> Result<Self> {
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
        let mut validated = Vec::with_capacity(steps.len());
        for step in steps {
            // Reading found the position to be in the plan's table, which has been resolved whole.
            let kernel = table[step.kernel];
            let first = operands.len();
            operands.extend(step.operands());
            let sizes: Vec<u64> = step.operands().map(|operand| operand.bytes as u64).collect();
            let call = Call { params: step.params, operand_bytes: &sizes };
            (kernel.validate)(&call).map_err(|invalid| {
                let what = format!(
                    "node `{}` calls {} with {invalid}; compile the model again",
                    step.node, kernel.name
                );
                Error::new(ErrorKind::Plan, format!("the plan is damaged or made for other kernels: {what}"))
            })?;
            let operands = first..operands.len();
            validated.push(Step { kernel, params: step.params, operands, node: step.node });
        }
        Ok(Calls { steps: validated, operands })
    }

    /// The steps with their functions, from these modules.
    fn resolved(&self, modules: &mut Modules) -> Result<Vec<ResolvedStep>> {
        let mut steps = self.steps.iter().map(|step| modules.resolve(step)).collect::<Result<Vec<_>>>()?;
        for index in 1..steps.len() {
            let before = steps[index - 1].kernel.copies.as_ref();
            steps[index].is_launched = !before.is_some_and(|copies| copies.with_next);
        }
        Ok(steps)
    }

    /// Runs steps that prepare, one after the other: what they borrow is copied to the GPU for each.
    fn prepare(
        &self,
        modules: &mut Modules,
        borrowed: &[u8],
        weights: &DeviceMemory,
        prepared: &DeviceMemory,
    ) -> Result<()> {
        let steps = self.resolved(modules)?;
        let device = &modules.device;
        let size = |operand: &Operand| match operand.location {
            Location::Borrowed => operand.bytes.next_multiple_of(ALIGNMENT),
            _ => 0,
        };
        let sizes =
            steps.iter().map(|step| self.operands[step.operands.clone()].iter().map(size).sum::<usize>());
        let Some(most) = sizes.max() else { return Ok(()) };
        let (staging, stream) = (DeviceMemory::filled(device, most, 0)?, Stream::new(device)?);
        let run = |step: &ResolvedStep| -> Result<()> {
            let operands = &self.operands[step.operands.clone()];
            let (mut argument, mut staged) = (Vec::with_capacity(operands.len() + 1 + step.params.len()), 0);
            for operand in operands {
                argument.push(match operand.location {
                    Location::Borrowed => {
                        let start = operand.offset_bytes;
                        // SAFETY: the plan's bytes and the memory live until the wait below. Where it is written again
                        // the kernel before has read it: the stream runs in order.
                        unsafe { stream.upload_to(&borrowed[start..][..operand.bytes], &staging, staged)? };
                        staged += size(operand);
                        staging.address() + (staged - size(operand)) as u64
                    }
                    Location::Weights => weights.address() + operand.offset_bytes as u64,
                    Location::Prepared => prepared.address() + operand.offset_bytes as u64,
                    // Reading the plan found no step that prepares from anything else.
                    _ => 0,
                });
            }
            // In place of counters.
            argument.push(0);
            argument.extend(&step.params);
            // SAFETY: `Calls::of` had the kernel validate the call; the argument is made of its parameters and of memory
            // of the checked sizes, which lives until the wait below.
            unsafe { stream.launch(step.function, &step.launch, &argument, false) }
        };
        let done = steps.iter().try_for_each(run);
        done.and(stream.wait())
    }
}

/// The modules of a GPU, loaded when a kernel is asked for.
#[derive(Clone, Debug)]
struct Modules {
    device: Arc<Device>,
    /// Those that the program has.
    linked: Vec<&'static Module>,
    /// Those that were asked for, by their names; nothing where a module has no code for the GPU.
    loaded: Vec<(&'static str, Option<Arc<LoadedModule>>)>,
}

impl Modules {
    /// The function of a kernel, unless it is one of [`Copies`](infer_kernels::cuda::Copies) and the GPU is not made for these. The
    /// GPU's context is that of the thread.
    fn function(&mut self, kernel: &CudaKernel) -> Result<Option<Function>> {
        let loaded = match self.loaded.iter().find(|(name, _)| *name == kernel.module) {
            Some((_, loaded)) => loaded.clone(),
            None => {
                let linked = self.linked.iter().find(|module| module.name == kernel.module);
                let module = linked.ok_or_else(|| {
                    let (kernel, module) = (kernel.name, kernel.module);
                    let what =
                        format!("the plan names `{kernel}`, whose module `{module}` the program lacks");
                    Error::new(ErrorKind::Plan, what)
                })?;
                let loaded = match LoadedModule::load(&self.device, module) {
                    Ok(module) => Some(Arc::new(module)),
                    Err(error) if error.kind() == ErrorKind::Architecture && kernel.copies.is_some() => None,
                    Err(error) => return Err(error),
                };
                self.loaded.push((kernel.module, loaded.clone()));
                loaded
            }
        };
        loaded.map(|module| module.function(kernel)).transpose()
    }

    /// A step with its function, or what computes the same on this GPU.
    fn resolve(&mut self, step: &Step<'_>) -> Result<ResolvedStep> {
        let (mut kernel, mut params, mut operands) =
            (step.kernel, Cow::from(step.params), step.operands.clone());
        let mut function = self.function(kernel)?;
        if let (None, Some(copies)) = (function, &kernel.copies) {
            let (name, others) = (copies.otherwise)(&params);
            (kernel, params) = (cuda::find(name).unwrap_or(kernel), others.into());
            operands.start += copies.own_operands;
            function = self.function(kernel)?;
        }
        let function = function.ok_or_else(|| {
            let what = format!("{} has no code for {}", kernel.module, self.device.name);
            Error::new(ErrorKind::Architecture, what)
        })?;
        let mut words = vec![0u64; params.len().div_ceil(size_of::<u64>())];
        let aligned = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..params.len()];
        aligned.copy_from_slice(&params);
        let launch = (kernel.launch)(aligned);
        let tensors = kernel.copies.as_ref().map(|copies| (copies.tensors)(aligned)).unwrap_or_default();
        let (is_launched, node) = (true, step.node.to_owned());
        Ok(ResolvedStep { kernel, is_launched, function, launch, tensors, params: words, operands, node })
    }
}

/// The weights of the plan `lender`, which is to be that with this name.
fn lent(id: PlanId, lender: Option<&PlanBytes>) -> Result<&[u8]> {
    let wrong = |what: &str| Err(Error::new(ErrorKind::Plan, format!("the plan borrows weights {what}")));
    let Some(lender) = lender else { return wrong("of the processor's plan, which is not there") };
    let view = PlanView::read(lender.as_slice())?;
    if view.id() != id {
        return wrong("of another plan than that of the processor that is there; compile the model again");
    }
    Ok(view.weights())
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
    /// What was made of weights, borrowed ones for the most part, when the plan was opened.
    pub(super) prepared: Arc<DeviceMemory>,
    /// See [`Stream::launch`](super::Stream::launch).
    pub(super) hopper: bool,
    /// For as long as their kernels are used.
    #[cfg_attr(not(feature = "compiler"), expect(dead_code, reason = "only tuning asks for them again"))]
    modules: Modules,
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
    /// The size of the weights on the GPU, its own and those made of borrowed ones.
    pub weight_bytes: usize,
    /// The GPU's name.
    pub device: &'e str,
    /// The GPU's architecture: compute capability, major and minor.
    pub architecture: (i32, i32),
    /// The GPU's multiprocessors.
    pub multiprocessors: i32,
    /// The kernel calls, in order: kernel and node.
    pub steps: Vec<(&'e str, &'e str)>,
    /// How many of them are launched: some do what the next one would.
    pub launches: usize,
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
        CudaEngine::open_borrowing(plan, None, linked, options)
    }

    /// [`CudaEngine::open`] of a plan that may borrow the weights of another, `lender`, which need not be kept.
    ///
    /// # Errors
    ///
    /// If the plan borrows, and there is no lender or it is another plan; those of [`CudaEngine::open`].
    pub fn open_borrowing(
        plan: impl Into<PlanBytes>,
        lender: Option<&PlanBytes>,
        linked: &[&'static Module],
        options: CudaOptions,
    ) -> Result<Self> {
        let plan = plan.into();
        let view = PlanView::read(plan.as_slice())?;
        let borrowed = match view.lender() {
            Some(id) => lent(id, lender)?,
            None => &[],
        };
        let calls = Calls::of(&view, view.steps())?;
        let preparation = Calls::of(&view, view.prepare_steps())?;
        if let Some(Step { kernel, node, .. }) =
            preparation.steps.iter().find(|step| step.kernel.module != PREPARING)
        {
            let what =
                format!("node `{node}` calls {} while the plan is opened, which it cannot", kernel.name);
            return Err(Error::new(ErrorKind::Plan, what));
        }
        let device = Device::open(options.device)?;
        let mut modules = Modules { device: device.clone(), linked: linked.to_vec(), loaded: Vec::new() };
        let steps = calls.resolved(&mut modules)?;
        let weights = DeviceMemory::copy_of(&device, view.weights())?;
        let prepared = DeviceMemory::filled(&device, view.prepared_bytes(), 0)?;
        preparation.prepare(&mut modules, borrowed, &weights, &prepared)?;
        let memory = [weights, prepared].map(Arc::new);
        Ok(CudaEngine::new(&view, steps, calls.operands, memory, modules))
    }

    /// The same model with other calls: a plan that differs from the engine's in how calls are computed alone, without its
    /// weights ([`Lowered::tables`](crate::lower_cuda::Lowered::tables)). Weights and kernels on the GPU are shared.
    ///
    /// # Errors
    ///
    /// If the tables are damaged, need modules that the program lacks, or other weights, as far as their size tells.
    #[cfg(feature = "compiler")]
    pub fn retuned(&self, tables: &AlignedBytes) -> Result<Self> {
        let tables = tables.as_slice();
        let view = PlanView::read_tables(tables, (tables.len() + self.weights.bytes()) as u64)?;
        let calls = Calls::of(&view, view.steps())?;
        self.device.bind()?;
        let mut modules = self.modules.clone();
        let steps = calls.resolved(&mut modules)?;
        let memory = [self.weights.clone(), self.prepared.clone()];
        Ok(CudaEngine::new(&view, steps, calls.operands, memory, modules))
    }

    fn new(
        view: &PlanView<'_>,
        steps: Vec<ResolvedStep>,
        operands: Vec<Operand>,
        [weights, prepared]: [Arc<DeviceMemory>; 2],
        modules: Modules,
    ) -> Self {
        CudaEngine {
            pool: Mutex::new(Vec::new()),
            inputs: view.inputs().to_vec(),
            outputs: view.outputs().to_vec(),
            arena_bytes: view.arena_bytes(),
            weights,
            prepared,
            hopper: steps.iter().all(|step| step.function.hopper),
            steps,
            operands,
            device: modules.device.clone(),
            modules,
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
            weight_bytes: self.weights.bytes() + self.prepared.bytes(),
            device: &self.device.name,
            architecture: self.device.architecture,
            multiprocessors: self.device.multiprocessors,
            steps: self.steps.iter().map(|step| (step.kernel.name, step.node.as_str())).collect(),
            launches: self.steps.iter().filter(|step| step.is_launched).count(),
        }
    }
}
