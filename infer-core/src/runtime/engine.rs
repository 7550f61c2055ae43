//! An opened plan.

#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Arc, Mutex};

use infer_kernels::{Call, ChunkFn, Isa, Kernel, threads};

use super::backend::{Backend, expect_cpu};
use super::context::{Context, Output, State};
use super::prepare::prepare;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{AlignedBytes, ModelInfo, Operand, PlanView, Port};

/// A plan's bytes: part of the program, or read by it.
#[derive(Clone, Debug)]
pub enum PlanBytes {
    /// Part of the program, 64-byte aligned.
    Static(&'static [u8]),
    /// Read at run time.
    Owned(Arc<AlignedBytes>),
    /// A part of what was read.
    Part(Arc<AlignedBytes>, Range<usize>),
}

impl PlanBytes {
    /// A part of the bytes, which must begin at a multiple of 64.
    #[cfg(any(feature = "cuda", feature = "dynamic"))]
    pub(crate) fn part(&self, range: Range<usize>) -> Result<PlanBytes> {
        if self.as_slice().get(range.clone()).is_none() {
            return Err(Error::new(ErrorKind::Plan, "the plan is damaged: a part of it lies outside of it"));
        }
        Ok(match self {
            PlanBytes::Static(bytes) => PlanBytes::Static(&bytes[range]),
            PlanBytes::Owned(bytes) => PlanBytes::Part(bytes.clone(), range),
            PlanBytes::Part(bytes, outer) => {
                PlanBytes::Part(bytes.clone(), outer.start + range.start..outer.start + range.end)
            }
        })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            PlanBytes::Static(bytes) => bytes,
            PlanBytes::Owned(bytes) => bytes.as_slice(),
            PlanBytes::Part(bytes, range) => &bytes.as_slice()[range.clone()],
        }
    }
}

impl From<&'static [u8]> for PlanBytes {
    fn from(bytes: &'static [u8]) -> Self {
        PlanBytes::Static(bytes)
    }
}

impl From<AlignedBytes> for PlanBytes {
    fn from(bytes: AlignedBytes) -> Self {
        PlanBytes::Owned(Arc::new(bytes))
    }
}

impl From<Arc<AlignedBytes>> for PlanBytes {
    fn from(bytes: Arc<AlignedBytes>) -> Self {
        PlanBytes::Owned(bytes)
    }
}

/// How an [`Engine`] runs.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// The most threads that take part in an inference, its caller included; `None` for what `INFER_THREADS` says, or
    /// else as many as the system offers.
    pub threads: Option<usize>,
    /// What is to compute; `None` for a GPU where the model is compiled for one and there is one, else the processor.
    pub backend: Option<Backend>,
    /// Which GPU, as the driver counts them.
    pub device: usize,
}

/// A step, ready to run.
#[derive(Debug)]
pub(super) struct ResolvedStep {
    pub kernel: &'static Kernel,
    pub run: ChunkFn,
    /// Where its parameters lie in the plan.
    pub params: Range<usize>,
    /// Its operands among [`Engine::operands`].
    pub operands: Range<usize>,
    /// Where its node's name lies in the plan.
    node: Range<usize>,
}

/// A plan that has been opened: validated, its kernels chosen for this processor. Any number of threads may share it.
#[derive(Debug)]
pub struct Engine {
    pub(super) plan: PlanBytes,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    pub(super) steps: Vec<ResolvedStep>,
    pub(super) operands: Vec<Operand>,
    /// The positions of the operands that lie in the caller's memory.
    pub(super) bindings: Vec<usize>,
    pub(super) arena_bytes: usize,
    /// What was computed from the weights when the plan was opened.
    pub(super) prepared: Option<Arc<AlignedBytes>>,
    pub(super) threads: usize,
    /// What contexts left behind, for the next ones.
    pub(super) pool: Mutex<Vec<State>>,
    weights: Range<usize>,
    model: ModelInfo,
    isa: Isa,
}

/// What an [`Engine`] is, for tools.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineInfo<'e> {
    /// The model it was compiled from.
    pub model: ModelInfo,
    /// The inputs, in the model's order.
    pub inputs: &'e [Port],
    /// The outputs, in the model's order.
    pub outputs: &'e [Port],
    /// The size of the memory that each context has.
    pub arena_bytes: usize,
    /// The size of the weights.
    pub weight_bytes: usize,
    /// The size of what was prepared from them when the plan was opened, and is shared by all contexts.
    pub prepared_bytes: usize,
    /// The instruction set its kernels use.
    pub isa: Isa,
    /// The most threads that take part in an inference.
    pub threads: usize,
    /// The kernel calls, in order.
    pub steps: Vec<StepInfo<'e>>,
}

/// A kernel call of an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepInfo<'e> {
    /// The kernel's name; the operator's, where a node runs without a plan.
    pub kernel: &'e str,
    /// The name of the node it came from.
    pub node: &'e str,
    /// The bytes of the kernel's parameters.
    pub params: &'e [u8],
    /// How many bytes its operands have, read and written.
    pub operand_bytes: u64,
}

#[cfg(feature = "dynamic")]
impl<'e> StepInfo<'e> {
    /// A node that runs without a plan.
    pub(crate) fn of_node(node: &'e str, operator: &'e str) -> Self {
        StepInfo { kernel: operator, node, params: &[], operand_bytes: 0 }
    }
}

impl Engine {
    /// Opens a plan. `kernels` are those that the plan names, in its order.
    ///
    /// # Errors
    ///
    /// If the plan is damaged, of another version, or made for other kernels; if `INFER_ISA`, `INFER_THREADS` or the
    /// options ask for what is not there.
    pub fn open(
        plan: impl Into<PlanBytes>,
        kernels: &[&'static Kernel],
        options: EngineOptions,
    ) -> Result<Self> {
        expect_cpu(&options)?;
        let plan = plan.into();
        let isa = Isa::selected().map_err(|error| Error::new(ErrorKind::Configuration, error.to_string()))?;
        let threads = thread_count(options.threads)?;

        let bytes = plan.as_slice();
        let view = PlanView::read(bytes)?;
        if view.lender().is_some() {
            let what = "the plan borrows weights, which plans for the processor do not";
            return Err(Error::new(ErrorKind::Plan, what));
        }
        check_kernels(&view, kernels)?;
        let mut steps = Vec::with_capacity(view.steps().len());
        let mut operands: Vec<Operand> = Vec::new();
        let mut operand_bytes = Vec::new();
        let prepare_steps = view.prepare_steps().len();
        for (index, step) in view.prepare_steps().chain(view.steps()).enumerate() {
            // Reading found the position to be in the plan's table, whose length `kernels` has.
            let kernel = kernels[step.kernel];
            operand_bytes.clear();
            operand_bytes.extend(step.operands().map(|operand| operand.bytes as u64));
            (kernel.validate)(&Call { params: step.params, operand_bytes: &operand_bytes }).map_err(|invalid| {
                Error::new(
                    ErrorKind::Plan,
                    format!(
                        "the plan is damaged or made for other kernels: node `{}` calls {} with {invalid}; compile the \
                         model again",
                        step.node, kernel.name
                    ),
                )
            })?;
            if index < prepare_steps {
                continue;
            }
            let first = operands.len();
            operands.extend(step.operands());
            steps.push(ResolvedStep {
                kernel,
                run: kernel.run.get(isa),
                params: position(bytes, step.params),
                operands: first..operands.len(),
                node: position(bytes, step.node.as_bytes()),
            });
        }
        let bindings = operands
            .iter()
            .enumerate()
            .filter(|(_, operand)| operand.is_bound())
            .map(|(index, _)| index)
            .collect();
        // SAFETY: the kernels have just accepted their calls, and `Isa::selected` found the instruction set.
        let prepared = unsafe { prepare(&plan, &view, kernels, isa, threads)? };
        Ok(Engine {
            prepared,
            inputs: view.inputs().to_vec(),
            outputs: view.outputs().to_vec(),
            arena_bytes: view.arena_bytes(),
            weights: position(bytes, view.weights()),
            model: view.info(),
            pool: Mutex::new(Vec::new()),
            plan,
            steps,
            operands,
            bindings,
            threads,
            isa,
        })
    }

    /// Computes the outputs from the inputs, in memory of the engine's pool; see [`Context::run`].
    ///
    /// # Errors
    ///
    /// Those of [`Context::run`].
    pub fn run(&self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        self.context().run(inputs, outputs)
    }

    /// The memory for a series of inferences.
    pub fn context(&self) -> Context<'_> {
        Context::new(self)
    }

    /// What the engine is.
    pub fn info(&self) -> EngineInfo<'_> {
        EngineInfo {
            model: self.model,
            inputs: &self.inputs,
            outputs: &self.outputs,
            arena_bytes: self.arena_bytes,
            weight_bytes: self.weights.len(),
            prepared_bytes: self.prepared.as_ref().map_or(0, |prepared| prepared.as_slice().len()),
            isa: self.isa,
            threads: self.threads,
            steps: self
                .steps
                .iter()
                .map(|step| StepInfo {
                    kernel: step.kernel.name,
                    node: self.node(step),
                    params: &self.plan.as_slice()[step.params.clone()],
                    operand_bytes: self.operands[step.operands.clone()]
                        .iter()
                        .map(|operand| operand.bytes as u64)
                        .sum(),
                })
                .collect(),
        }
    }

    /// How many kernel calls an inference is.
    #[cfg(all(feature = "cuda", feature = "dynamic"))]
    pub(crate) fn step_count(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn weights(&self) -> &[u8] {
        &self.plan.as_slice()[self.weights.clone()]
    }

    /// The name of the node that `step` came from.
    pub(super) fn node(&self, step: &ResolvedStep) -> &str {
        // Reading the plan found the name to be UTF-8.
        str::from_utf8(&self.plan.as_slice()[step.node.clone()]).unwrap_or_default()
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn position(whole: &[u8], part: &[u8]) -> Range<usize> {
    // An empty part may be any empty slice.
    let start = if part.is_empty() { 0 } else { part.as_ptr().addr() - whole.as_ptr().addr() };
    start..start + part.len()
}

/// How many threads take part at most.
pub(crate) fn thread_count(wanted: Option<usize>) -> Result<usize> {
    match wanted {
        None => threads::available().map_err(|error| Error::new(ErrorKind::Configuration, error.to_string())),
        Some(count) if (1..=threads::MAX_THREADS).contains(&count) => Ok(count),
        Some(count) => Err(Error::new(
            ErrorKind::Configuration,
            format!("{count} threads are asked for; ask for 1 to {}", threads::MAX_THREADS),
        )),
    }
}

/// The kernels a program was linked with must be those that its plan names.
fn check_kernels(view: &PlanView<'_>, kernels: &[&'static Kernel]) -> Result<()> {
    let named = view.kernels();
    if kernels.len() == named.len() && kernels.iter().zip(named).all(|(kernel, name)| kernel.name == *name) {
        return Ok(());
    }
    let linked: Vec<&str> = kernels.iter().map(|kernel| kernel.name).collect();
    Err(Error::new(
        ErrorKind::Plan,
        format!(
            "the plan names the kernels [{}], the program has [{}]; compile the model again",
            named.join(", "),
            linked.join(", ")
        ),
    ))
}

/// The kernels that a plan names, from the registry of all.
///
/// # Errors
///
/// If there is none of a name.
#[cfg(feature = "dynamic")]
pub fn registered_kernels(view: &PlanView<'_>) -> Result<Vec<&'static Kernel>> {
    let find = |name: &&str| {
        infer_kernels::reference::find(name).map(|entry| entry.kernel).ok_or_else(|| {
            Error::new(
                ErrorKind::Plan,
                format!("the plan names the kernel `{name}`, which this version does not have"),
            )
        })
    };
    view.kernels().iter().map(find).collect()
}
