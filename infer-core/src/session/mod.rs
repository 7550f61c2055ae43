//! Models on values of any type: a plan alone, or a program whose static parts are plans.

mod format;
mod typed;

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "compiler")]
pub(crate) use format::PartPlan;
pub(crate) use format::{Parts, REGION, RunsOn};
use infer_kernels::Isa;
pub use typed::{FromValue, Item, Outputs, SessionContext, ToValue};

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::error::{Error, ErrorKind, Result};
use crate::execute::Backend;
use crate::node_values::NodeValues;
use crate::ops::Operator;
#[cfg(feature = "cuda")]
use crate::plan::parts::is_parts;
use crate::plan::{AlignedBytes, PlanView, Port};
use crate::program::{Failure, Program};
use crate::record::{Attribute, INTERNAL_DOMAIN, NodeRecord};
use crate::runtime::{
    self, AnyContext, AnyEngine, Chosen, Engine, EngineOptions, Output, PlanBytes, Plans, StepInfo,
    check_count, check_size, registered_kernels, thread_count,
};
#[cfg(feature = "cuda")]
use crate::runtime::{CudaPlan, PartEngine, cuda::CudaCalls};
use crate::value::{Value, ValuePort};

/// A compiled model, ready to run. Any number of threads may share it.
#[derive(Debug)]
pub struct Session {
    backend: runtime::Backend,
    inputs: Vec<ValuePort>,
    outputs: Vec<ValuePort>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// All of it is known while compiling.
    Plan(Region),
    /// Some of it only the run knows.
    Program(Program, Backend),
}

impl Session {
    /// Opens what [`compile`](crate::compile::compile) makes for the processor.
    ///
    /// # Errors
    ///
    /// If the plan is damaged or of another version; if `INFER_ISA`, `INFER_THREADS` or the options ask for what is not
    /// there.
    pub fn open(plan: impl Into<PlanBytes>, options: EngineOptions) -> Result<Self> {
        let plans = Plans {
            cpu: Some((plan.into(), &[])),
            #[cfg(feature = "cuda")]
            cuda: None,
        };
        Session::open_any(plans, options)
    }

    /// Opens the plan of the backend that the options name; where they name none, that for GPUs, or the processor's
    /// where there is no driver or it reports no GPU. Any other failure of a GPU is an error. The kernels of the
    /// processor are found by their names: those in `plans` do not count.
    ///
    /// # Errors
    ///
    /// If there is no plan for the backend; those of [`Session::open`]; on a GPU one of a kind of its own for no driver,
    /// too old a driver, no such GPU, too old an architecture and too little memory.
    pub fn open_any(plans: Plans<'_>, options: EngineOptions) -> Result<Self> {
        let (plan, lender, modules, backend): (_, Option<PlanBytes>, Modules<'_>, _) =
            match plans.choose(&options)? {
                Chosen::Cpu(plan, _) => (plan, None, &[], runtime::Backend::Cpu),
                #[cfg(feature = "cuda")]
                Chosen::Cuda(CudaPlan { plan, modules, .. }, lender) => {
                    (plan, lender, modules, runtime::Backend::Cuda)
                }
            };
        if !format::is_program(plan.as_slice()) {
            let runs_on = match backend {
                #[cfg(feature = "cuda")]
                runtime::Backend::Cuda if is_parts(plan.as_slice()) => RunsOn::Both,
                runtime::Backend::Cuda => RunsOn::Gpu,
                runtime::Backend::Cpu => RunsOn::Processor,
            };
            let region = Region::open(plan, lender.as_ref(), runs_on, modules, options)?;
            let ports = |ports: &[Port]| ports.iter().cloned().map(ValuePort::from).collect();
            let (inputs, outputs) = (ports(&region.inputs), ports(&region.outputs));
            return Ok(Session { backend, inputs, outputs, body: Body::Plan(region) });
        }
        let (parts, plans) = Parts::read(plan.as_slice())?;
        // A static part borrows from its own plan for the processor.
        let mut lenders = Vec::new();
        if let Some(lender) = &lender {
            for (_, range) in Parts::read(lender.as_slice())?.1 {
                lenders.push(lender.part(range)?);
            }
        }
        let isa = Isa::selected().map_err(|error| Error::new(ErrorKind::Configuration, error.to_string()))?;
        let threads = thread_count(options.threads)?;
        let mut regions = Vec::with_capacity(plans.len());
        for (index, (runs_on, range)) in plans.into_iter().enumerate() {
            let (plan, lender) = (plan.part(range)?, lenders.get(index));
            regions.push(Arc::new(Region::open(plan, lender, runs_on, modules, options)?));
        }
        let program = Program::with(&parts.graph, &regions).map_err(|reason| {
            Error::new(ErrorKind::Plan, format!("the plan cannot be used: {}", reason.what))
        })?;
        let nodes = match backend {
            #[cfg(feature = "cuda")]
            runtime::Backend::Cuda => Backend::Gpu {
                gpu: Arc::new(CudaCalls::open(options.device, modules, parts.least_gpu_work)?),
                isa,
                threads,
                on_processor: Arc::default(),
            },
            _ => Backend::Processor { isa, threads },
        };
        let body = Body::Program(program, nodes);
        Ok(Session { backend, inputs: parts.inputs, outputs: parts.outputs, body })
    }

    /// What computes: a GPU where any part of the model runs there.
    pub fn backend(&self) -> runtime::Backend {
        self.backend
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[ValuePort] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[ValuePort] {
        &self.outputs
    }

    /// The engine, where all of the model is known while compiling, and runs on the processor.
    pub fn engine(&self) -> Option<&Engine> {
        match &self.body {
            Body::Plan(region) => region.cpu(),
            Body::Program(..) => None,
        }
    }

    /// What runs, in order: kernel calls of the processor, what runs on a GPU at a time, and nodes whose shapes or values
    /// only the run knows.
    pub fn steps(&self) -> Vec<StepInfo<'_>> {
        match &self.body {
            Body::Plan(region) => region.steps(),
            Body::Program(program, _) => program.steps(),
        }
    }

    /// The instruction set that its kernels on the processor use.
    pub fn isa(&self) -> Isa {
        match &self.body {
            Body::Plan(region) => region.any_cpu().map_or(Isa::Scalar, |engine| engine.info().isa),
            Body::Program(_, nodes) => nodes.processor().0,
        }
    }

    /// The most threads that take part in an inference.
    pub fn threads(&self) -> usize {
        match &self.body {
            Body::Plan(region) => region.any_cpu().map_or(1, |engine| engine.info().threads),
            Body::Program(_, nodes) => nodes.processor().1,
        }
    }

    /// How many of the nodes whose shapes or values only the run knows were computed on a GPU so far, and how many on the
    /// processor; neither counts what merely hands values on. `None` where there are no such nodes, or there is no GPU.
    pub fn run_time_nodes(&self) -> Option<(u64, u64)> {
        match &self.body {
            #[cfg(feature = "cuda")]
            Body::Program(_, Backend::Gpu { gpu, on_processor, .. }) => {
                Some((gpu.nodes(), on_processor.load(Ordering::Relaxed)))
            }
            _ => None,
        }
    }

    /// Computes the outputs from the inputs, both in the model's order.
    ///
    /// # Errors
    ///
    /// If there are more or fewer inputs than the model has, or one is not of its type; if the model cannot compute
    /// with the values; if an output turns out to be of another type than the model declares; if there is no memory.
    /// Where a tensor merely has another shape than is declared, the kind is [`ErrorKind::Shape`].
    pub fn run(&self, inputs: &[Value]) -> Result<Vec<Value>> {
        self.run_with(inputs, None)
    }

    /// [`Session::run`], of which `each` learns how long each of [`Session::steps`] took: its position there, and the
    /// time.
    ///
    /// # Errors
    ///
    /// Those of [`Session::run`].
    pub fn run_timed(&self, inputs: &[Value], each: &mut dyn FnMut(usize, Duration)) -> Result<Vec<Value>> {
        self.run_with(inputs, Some(each))
    }

    fn run_with(
        &self,
        inputs: &[Value],
        each: Option<&mut dyn FnMut(usize, Duration)>,
    ) -> Result<Vec<Value>> {
        check_count("input", inputs.len(), self.inputs.len())?;
        for (port, value) in self.inputs.iter().zip(inputs) {
            if !port.ty.admits(value) {
                let (name, ty, given) = (&port.name, &port.ty, value.describe());
                let is_like = port.ty.without_shapes().admits(value);
                return Err(Error::new(
                    if is_like { ErrorKind::Shape } else { ErrorKind::Input },
                    format!("input `{name}` is {ty}; {given} was given for it"),
                ));
            }
        }
        match &self.body {
            Body::Plan(region) => {
                let inputs: Vec<&Constant> = inputs.iter().filter_map(Value::as_tensor).collect();
                Ok(region.run(&inputs, each)?.into_iter().map(Value::Tensor).collect())
            }
            Body::Program(program, backend) => {
                let outputs = program.run_parts(inputs, backend, each);
                let outputs = outputs.map_err(|failure| Error::new(failure.kind, failure.reason.what))?;
                for (port, value) in self.outputs.iter().zip(&outputs) {
                    if !port.ty.admits(value) {
                        let (name, ty, found) = (&port.name, &port.ty, value.describe());
                        return Err(Error::new(
                            ErrorKind::Shape,
                            format!("output `{name}` is declared as {ty}; with these inputs it is {found}"),
                        ));
                    }
                }
                Ok(outputs)
            }
        }
    }

    /// [`Session::run`] on bytes, row-major and little-endian, where every input and output is a tensor of numbers whose
    /// shape is known.
    ///
    /// # Errors
    ///
    /// Of kind [`ErrorKind::NotArrays`] where one is not; if the number of inputs or outputs, or the size of one, is not
    /// the model's; those of [`Session::run`].
    pub fn run_bytes(&self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        let (input_ports, output_ports) = (arrays(&self.inputs)?, arrays(&self.outputs)?);
        check_count("input", inputs.len(), input_ports.len())?;
        check_count("output", outputs.len(), output_ports.len())?;
        output_ports.iter().zip(outputs.iter()).try_for_each(|(port, output)| output.check(port))?;
        let mut values = Vec::with_capacity(inputs.len());
        for (port, bytes) in input_ports.iter().zip(inputs) {
            check_size("input", port, bytes)?;
            values.extend(Constant::new(port.ty.clone(), Bytes::copy_from_slice(bytes)).map(Value::Tensor));
        }
        let results = self.run(&values)?;
        for ((port, output), value) in output_ports.iter().zip(outputs).zip(&results) {
            output.write(port, value.as_tensor().map_or(&[], |tensor| tensor.data()))?;
        }
        Ok(())
    }
}

/// The ports as arrays.
fn arrays(ports: &[ValuePort]) -> Result<Vec<Port>> {
    let port = |port: &ValuePort| match port.ty.as_static() {
        Some(ty) => Ok(Port { name: port.name.clone(), ty }),
        None => Err(Error::new(
            ErrorKind::NotArrays,
            format!("`{}` is {}, which no bytes stand for; call `infer`", port.name, port.ty),
        )),
    };
    ports.iter().map(port).collect()
}

/// Whether the node runs a static part.
#[cfg(feature = "compiler")]
pub(crate) fn is_region(node: &NodeRecord) -> bool {
    node.domain == INTERNAL_DOMAIN && node.op_type == REGION
}

/// The position of the static part that the node runs.
pub(crate) fn region_of(node: &NodeRecord) -> Option<usize> {
    match node.attributes.as_slice() {
        [(_, Attribute::Int(index))] if node.domain == INTERNAL_DOMAIN => usize::try_from(*index).ok(),
        _ => None,
    }
}

/// The kernels for GPUs that a program is linked with.
#[cfg(feature = "cuda")]
type Modules<'k> = &'k [&'static infer_kernels::cuda::Module];
/// The kernels for GPUs that a program is linked with: none.
#[cfg(not(feature = "cuda"))]
type Modules<'k> = &'k [()];

/// A static part of a model.
#[derive(Debug)]
pub(crate) struct Region {
    engine: AnyEngine,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Region {
    /// Opens its plan; one for GPUs may borrow the weights of `lender`.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "there are no modules"))]
    fn open(
        plan: PlanBytes,
        lender: Option<&PlanBytes>,
        runs_on: RunsOn,
        modules: Modules<'_>,
        options: EngineOptions,
    ) -> Result<Self> {
        let engine = match runs_on {
            RunsOn::Processor => {
                let kernels = registered_kernels(&PlanView::read(plan.as_slice())?)?;
                AnyEngine::open_cpu(plan, &kernels, options)?
            }
            #[cfg(feature = "cuda")]
            RunsOn::Gpu | RunsOn::Both => {
                if is_parts(plan.as_slice()) != (runs_on == RunsOn::Both) {
                    let what =
                        "the plan is damaged: a part of it is of another kind; compile the model again";
                    return Err(Error::new(ErrorKind::Plan, what));
                }
                AnyEngine::open_cuda(plan, lender, modules, &registered_kernels, options)?
            }
            #[cfg(not(feature = "cuda"))]
            RunsOn::Gpu | RunsOn::Both => {
                let what = "the plan is for GPUs, for which the program lacks the feature `cuda`";
                return Err(Error::new(ErrorKind::Configuration, what));
            }
        };
        let (inputs, outputs) = match &engine {
            AnyEngine::Cpu(engine) => (engine.info().inputs.to_vec(), engine.info().outputs.to_vec()),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => (engine.info().inputs.to_vec(), engine.info().outputs.to_vec()),
            #[cfg(feature = "cuda")]
            AnyEngine::Parts(engine) => (engine.inputs().to_vec(), engine.outputs().cloned().collect()),
        };
        Ok(Region { engine, inputs, outputs })
    }

    /// The engine of a part that runs on the processor.
    fn cpu(&self) -> Option<&Engine> {
        match &self.engine {
            AnyEngine::Cpu(engine) => Some(engine),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(_) | AnyEngine::Parts(_) => None,
        }
    }

    /// An engine of the processor, where any of the part runs there.
    fn any_cpu(&self) -> Option<&Engine> {
        match &self.engine {
            AnyEngine::Cpu(engine) => Some(engine),
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(_) => None,
            #[cfg(feature = "cuda")]
            AnyEngine::Parts(engine) => engine.parts().find_map(|part| match part {
                PartEngine::Cpu(engine) => Some(engine),
                PartEngine::Cuda(_) => None,
            }),
        }
    }

    /// What runs, in order: see [`Session::steps`].
    pub(crate) fn steps(&self) -> Vec<StepInfo<'_>> {
        match &self.engine {
            AnyEngine::Cpu(engine) => engine.info().steps,
            #[cfg(feature = "cuda")]
            AnyEngine::Cuda(engine) => vec![on_gpu(engine)],
            #[cfg(feature = "cuda")]
            AnyEngine::Parts(engine) => {
                let each = engine.parts().map(|part| match part {
                    PartEngine::Cpu(engine) => engine.info().steps,
                    PartEngine::Cuda(engine) => vec![on_gpu(engine)],
                });
                each.flatten().collect()
            }
        }
    }

    fn run(
        &self,
        inputs: &[&Constant],
        each: Option<&mut dyn FnMut(usize, Duration)>,
    ) -> Result<Vec<Constant>> {
        let mut aligned = Vec::new();
        for (input, port) in inputs.iter().zip(&self.inputs) {
            // The element types' own alignment is at most this.
            let is_aligned = input.data().as_ptr().addr().is_multiple_of(16) || port.ty.bytes() == 0;
            aligned.push(if is_aligned { None } else { Some(AlignedBytes::copy_of(input.data())?) });
        }
        let inputs: Vec<&[u8]> = inputs
            .iter()
            .zip(&aligned)
            .map(|(input, copy)| copy.as_ref().map_or(&**input.data(), AlignedBytes::as_slice))
            .collect();
        let mut memory = Vec::with_capacity(self.outputs.len());
        for port in &self.outputs {
            memory.push(AlignedBytes::zeroed(port.ty.bytes())?);
        }
        let mut outputs: Vec<Output<'_>> =
            memory.iter_mut().map(|bytes| bytes.as_mut_slice().into()).collect();
        let mut context = self.engine.context();
        match each {
            None => context.run(&inputs, &mut outputs)?,
            Some(each) => match &mut context {
                AnyContext::Cpu(context) => context.run_timed(&inputs, &mut outputs, each)?,
                #[cfg(feature = "cuda")]
                AnyContext::Parts(context) => context.run_timed(&inputs, &mut outputs, each)?,
                #[cfg(feature = "cuda")]
                AnyContext::Cuda(context) => {
                    let start = std::time::Instant::now();
                    context.run(&inputs, &mut outputs)?;
                    each(0, start.elapsed());
                }
            },
        }
        drop(outputs);
        let lost = || Error::new(ErrorKind::Plan, "an output has another size than its type");
        let tensors = self.outputs.iter().zip(memory);
        tensors
            .map(|(port, bytes)| Constant::new(port.ty.clone(), Bytes::from_owner(bytes)).ok_or_else(lost))
            .collect()
    }
}

/// All that a GPU runs at a time as one step, named by its first node.
#[cfg(feature = "cuda")]
fn on_gpu(engine: &runtime::cuda::CudaEngine) -> StepInfo<'_> {
    StepInfo::of_node(engine.first_node(), "GPU")
}

impl Region {
    /// The outputs for the inputs of its node; `each` learns how long each of [`Region::steps`] took.
    pub(crate) fn compute_with(
        &self,
        node: &NodeValues<'_>,
        each: Option<&mut dyn FnMut(usize, Duration)>,
    ) -> Result<Vec<Value>, Failure> {
        let wanted = self.inputs.len();
        if node.inputs.len() != wanted {
            return Err(Reason::new(format!("{} inputs for a part of {wanted}", node.inputs.len())).into());
        }
        let mut tensors = Vec::with_capacity(wanted);
        for (index, port) in self.inputs.iter().enumerate() {
            let tensor = node.tensor(index)?;
            if *tensor.ty() != port.ty {
                let (name, ty, found) = (&port.name, &port.ty, tensor.ty());
                let what = format!("value `{name}` is {found} where the model declares {ty}");
                return Err(Reason::new(what).into());
            }
            tensors.push(tensor);
        }
        let outputs = self.run(&tensors, each)?;
        Ok(outputs.into_iter().map(Value::Tensor).collect())
    }
}

impl Operator for Arc<Region> {
    fn name(&self) -> &'static str {
        REGION
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        self.compute_with(node, None).map(Some).map_err(|failure| failure.reason)
    }
}
