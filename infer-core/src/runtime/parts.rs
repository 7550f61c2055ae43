//! A model in parts: some run on a GPU, the others on the processor, one after the other.
//!
//! What one part writes and another reads lies in memory of the context, on the processor's side: a part on the GPU
//! copies it there and back.

use std::sync::{Mutex, PoisonError};

use infer_kernels::Kernel;
use infer_kernels::cuda::Module;

use super::backend::Backend;
use super::context::{Context, Output, check_count, check_size};
use super::cuda::{CudaContext, CudaEngine, CudaOptions};
use super::{Engine, EngineOptions, PlanBytes};
use crate::error::Result;
use crate::plan::parts::{Parts, Side};
use crate::plan::{AlignedBytes, PlanView, Port};

/// An opened part.
#[derive(Debug)]
pub(crate) enum PartEngine {
    /// On the processor.
    Cpu(Engine),
    /// On the GPU.
    Cuda(CudaEngine),
}

#[derive(Debug)]
struct Part {
    engine: PartEngine,
    /// The values that its inputs are.
    inputs: Vec<usize>,
    /// The first of the values that it writes, and how many.
    outputs: (usize, usize),
}

/// A model in parts that has been opened. Any number of threads may share it.
#[derive(Debug)]
pub struct PartsEngine {
    inputs: Vec<Port>,
    outputs: Vec<(Port, usize)>,
    parts: Vec<Part>,
    /// The sizes of the values that parts write, which follow the inputs.
    sizes: Vec<usize>,
    /// What contexts left behind, for the next ones.
    pool: Mutex<Vec<Vec<Value>>>,
}

/// The memory of a value that a part writes; away while the part runs.
type Value = Option<AlignedBytes>;

impl PartsEngine {
    /// Opens a model in parts: those for GPUs on one, whose kernels are in `modules`, and which may borrow the weights of
    /// `lender`; those for the processor with the kernels that `kernels` gives for a plan.
    ///
    /// # Errors
    ///
    /// If the plan is damaged; those of [`Engine::open`] and [`CudaEngine::open_borrowing`].
    pub(crate) fn open(
        plan: &PlanBytes,
        lender: Option<&PlanBytes>,
        modules: &[&'static Module],
        kernels: &dyn Fn(&PlanView<'_>) -> Result<Vec<&'static Kernel>>,
        options: EngineOptions,
    ) -> Result<Self> {
        let read = Parts::read(plan.as_slice())?;
        let plans: Vec<PlanBytes> =
            read.parts.iter().map(|part| plan.part(part.plan.clone())).collect::<Result<_>>()?;
        let views: Vec<PlanView<'_>> =
            plans.iter().map(|plan| PlanView::read(plan.as_slice())).collect::<Result<_>>()?;
        let types = read.types(&views)?;
        let mut parts = Vec::with_capacity(read.parts.len());
        for ((part, plan), view) in read.parts.into_iter().zip(&plans).zip(&views) {
            let engine = match part.side {
                Side::Gpu => {
                    let options = CudaOptions { device: options.device };
                    PartEngine::Cuda(CudaEngine::open_borrowing(plan.clone(), lender, modules, options)?)
                }
                Side::Processor => {
                    let options = EngineOptions { backend: Some(Backend::Cpu), ..options };
                    PartEngine::Cpu(Engine::open(plan.clone(), &kernels(view)?, options)?)
                }
            };
            let outputs = (part.outputs.start, part.outputs.len());
            parts.push(Part { engine, inputs: part.inputs, outputs });
        }
        let sizes = types[read.inputs.len()..].iter().map(|ty| ty.bytes()).collect();
        let pool = Mutex::new(Vec::new());
        Ok(PartsEngine { inputs: read.inputs, outputs: read.outputs, parts, sizes, pool })
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = &Port> {
        self.outputs.iter().map(|(port, _)| port)
    }

    /// The parts, in order.
    #[cfg(feature = "dynamic")]
    pub(crate) fn parts(&self) -> impl Iterator<Item = &PartEngine> {
        self.parts.iter().map(|part| &part.engine)
    }

    /// The memory for a series of inferences.
    pub fn context(&self) -> PartsContext<'_> {
        let values = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let contexts = self.parts.iter().map(|part| match &part.engine {
            PartEngine::Cpu(engine) => PartContext::Cpu(engine.context()),
            PartEngine::Cuda(engine) => PartContext::Cuda(engine.context()),
        });
        PartsContext { engine: self, values, contexts: contexts.collect() }
    }
}

#[derive(Debug)]
enum PartContext<'e> {
    Cpu(Context<'e>),
    Cuda(CudaContext<'e>),
}

/// The memory of one inference at a time, taken from the engine's pool and given back when dropped.
#[derive(Debug)]
pub struct PartsContext<'e> {
    engine: &'e PartsEngine,
    values: Vec<Value>,
    contexts: Vec<PartContext<'e>>,
}

impl PartsContext<'_> {
    /// Computes the outputs from the inputs, both in the model's order, row-major and little-endian.
    ///
    /// # Errors
    ///
    /// If there are more or fewer inputs or outputs than the model has, or one has another size or element type; if the
    /// model cannot compute with the values; if there is no memory; if the GPU fails.
    pub fn run(&mut self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        self.run_with(inputs, outputs, |context, inputs, outputs, _| match context {
            PartContext::Cpu(context) => context.run(inputs, outputs),
            PartContext::Cuda(context) => context.run(inputs, outputs),
        })
    }

    /// [`PartsContext::run`], of which `each` learns how long each step of parts on the processor, and each part on the
    /// GPU as a whole, took.
    #[cfg(feature = "dynamic")]
    pub(crate) fn run_timed(
        &mut self,
        inputs: &[&[u8]],
        outputs: &mut [Output<'_>],
        each: &mut dyn FnMut(usize, std::time::Duration),
    ) -> Result<()> {
        let mut first = 0;
        self.run_with(inputs, outputs, |context, inputs, outputs, engine| match (context, engine) {
            (PartContext::Cpu(context), PartEngine::Cpu(engine)) => {
                let begin = first;
                first += engine.step_count();
                context.run_timed(inputs, outputs, &mut |index, time| each(begin + index, time))
            }
            (PartContext::Cuda(context), _) => {
                let start = std::time::Instant::now();
                context.run(inputs, outputs)?;
                each(first, start.elapsed());
                first += 1;
                Ok(())
            }
            (PartContext::Cpu(context), _) => context.run(inputs, outputs),
        })
    }

    /// The inference, whose parts `run` runs.
    fn run_with(
        &mut self,
        inputs: &[&[u8]],
        outputs: &mut [Output<'_>],
        mut run: impl FnMut(&mut PartContext<'_>, &[&[u8]], &mut [Output<'_>], &PartEngine) -> Result<()>,
    ) -> Result<()> {
        let PartsEngine { inputs: ports, outputs: output_ports, parts, sizes, .. } = self.engine;
        check_count("input", inputs.len(), ports.len())?;
        for (port, bytes) in ports.iter().zip(inputs) {
            check_size("input", port, bytes)?;
        }
        check_count("output", outputs.len(), output_ports.len())?;
        for ((port, _), output) in output_ports.iter().zip(&*outputs) {
            output.check(port)?;
        }
        self.values.resize_with(sizes.len(), || None);
        for (value, &size) in self.values.iter_mut().zip(sizes) {
            if value.is_none() {
                *value = Some(AlignedBytes::zeroed(size)?);
            }
        }
        for (part, context) in parts.iter().zip(&mut self.contexts) {
            let (first, count) = (part.outputs.0 - ports.len(), part.outputs.1);
            let mut written: Vec<Value> =
                self.values[first..first + count].iter_mut().map(Option::take).collect();
            let read: Vec<&[u8]> =
                part.inputs.iter().map(|&value| bytes_of(inputs, &self.values, value)).collect();
            let mut slots: Vec<Output<'_>> =
                written.iter_mut().flatten().map(|bytes| bytes.as_mut_slice().into()).collect();
            let done = run(context, &read, &mut slots, &part.engine);
            drop(slots);
            for (value, bytes) in self.values[first..].iter_mut().zip(written) {
                *value = bytes;
            }
            done?;
        }
        for ((port, value), output) in output_ports.iter().zip(outputs) {
            output.write(port, bytes_of(inputs, &self.values, *value))?;
        }
        Ok(())
    }
}

/// A value: one of the inputs, or of what parts have written.
fn bytes_of<'v>(inputs: &[&'v [u8]], values: &'v [Value], value: usize) -> &'v [u8] {
    match inputs.get(value) {
        Some(input) => input,
        None => values[value - inputs.len()].as_ref().map_or(&[], AlignedBytes::as_slice),
    }
}

impl Drop for PartsContext<'_> {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if !values.is_empty() {
            self.engine.pool.lock().unwrap_or_else(PoisonError::into_inner).push(values);
        }
    }
}
