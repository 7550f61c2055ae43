//! Makes plans of graphs.

use super::summary::{Place, Placed, Summary};
use super::{Clock, GpuPart, mistake};
use crate::decisions::{Decisions, Layer};
use crate::diagnostic::{Diagnostic, Reason};
use crate::graph::{Graph, ValueId};
use crate::import::{Failures, Origin};
use crate::lower::lower;
#[cfg(feature = "cuda")]
use crate::lower_cuda::borrow::Lender;
use crate::onnx;
use crate::options::{Backends, Precision};
use crate::passes;
use crate::plan::{ModelInfo, PlanParts, Port};
use crate::record::{GraphRecord, NodeRecord};
use crate::schedule::plan_memory;
use crate::session::{self, PartPlan, Parts, RunsOn};
use crate::tensor_type::TensorType;

/// A plan for the processor whose weights one for GPUs borrows: there is none where nothing is compiled for GPUs.
#[cfg(not(feature = "cuda"))]
type Lender = ();

/// How many nodes of those that the run alone knows are named.
const RUN_TIME_EXAMPLES: usize = 5;

/// Makes plans of graphs, and sums up what they are.
pub(super) struct Planner<'a> {
    pub file: &'a str,
    pub sha256: [u8; 32],
    pub precision: Precision,
    pub backends: Backends,
    pub winograd: bool,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "nothing is compiled for GPUs"))]
    pub least_gpu_work: u64,
    /// The nodes that run on the processor where the model runs on a GPU, and why.
    pub on_processor: Failures,
    pub summary: &'a mut Summary,
    pub clock: &'a mut Clock,
    pub decisions: Decisions,
    /// The parts that run on a GPU, where they are wanted.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "nothing is compiled for GPUs"))]
    pub gpu_parts: Option<Vec<GpuPart>>,
}

/// The processor's plan, which may be empty, and that for GPUs.
type BothPlans = (Vec<u8>, Option<Vec<u8>>);

/// A plan, and where it runs.
pub(super) type PlanOn = (RunsOn, Vec<u8>);

/// A plan of the processor with what is known of it.
pub(super) struct Made {
    pub plan: Vec<u8>,
    pub kernels: Vec<String>,
    pub weight_bytes: u64,
    pub arena_bytes: u64,
    pub flops: u64,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "nothing is compiled for GPUs"))]
    pub lender: Option<Lender>,
}

impl Planner<'_> {
    /// The plans of a model that is known as a whole, and simplified: the processor's, which may be empty, and that for GPUs.
    pub fn whole(&mut self, graph: Graph) -> Result<BothPlans, Vec<Diagnostic>> {
        let made = match self.backends {
            Backends::Cuda => None,
            _ => Some(self.plan_for_processor(graph.clone())?),
        };
        let gpu = self.plan_for_gpus(&graph, true, made.as_ref())?;
        self.tell(gpu.is_some())?;
        let mut plan = Vec::new();
        if let Some(made) = made {
            self.count(&made);
            self.summary.kernels = made.kernels;
            plan = made.plan;
        }
        Ok((plan, gpu.map(|(_, plan)| plan)))
    }

    /// The programs of a model of which only the run knows some shapes or values, and whose static parts are `regions`,
    /// simplified.
    pub fn program(
        &mut self,
        record: GraphRecord,
        regions: Vec<Graph>,
    ) -> Result<BothPlans, Vec<Diagnostic>> {
        let count = regions.len();
        let alone = || record.nodes.iter().filter(|node| !session::is_region(node));
        self.summary.run_time_nodes = (record.nodes.len() - count) as u64;
        let named = |node: &NodeRecord| format!("{} ({})", onnx::quote(&node.name), node.op_type);
        self.summary.run_time_examples = alone().take(RUN_TIME_EXAMPLES).map(named).collect();
        for node in alone() {
            let origin = Origin { op_type: node.op_type.clone(), opset: 0 };
            let why = Reason::new(
                "only the run knows its shapes or values, and whether a GPU can and should run it",
            );
            self.on_processor.add(&node.name, &origin, why, Vec::new());
        }

        let (mut plans, mut gpu_plans) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut layers, mut placed) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for graph in regions {
            let made = match self.backends {
                Backends::Cuda => None,
                _ => Some(self.plan_for_processor(graph.clone())?),
            };
            let gpu = self.plan_for_gpus(&graph, false, made.as_ref())?;
            placed.push(std::mem::take(&mut self.summary.cuda_parts));
            let made = match made {
                None if gpu.is_none() => Some(self.plan_for_processor(graph)?),
                made => made,
            };
            if let Some(made) = made {
                self.count(&made);
                plans.push((RunsOn::Processor, made.plan));
            }
            gpu_plans.push(gpu);
            layers.push(std::mem::take(&mut self.decisions.layers));
        }
        self.decisions.layers = record.nodes.iter().flat_map(|node| layers_of(node, &mut layers)).collect();
        // Nodes that only the run knows go where its static parts are, or where somebody insists.
        let is_for_gpus = cfg!(feature = "cuda") && self.backends != Backends::Cpu;
        let on_gpu = gpu_plans.iter().any(Option::is_some)
            || (is_for_gpus && self.least_gpu_work == 0 && self.summary.run_time_nodes > 0);
        self.tell(on_gpu)?;

        let mut parts = Parts {
            inputs: self.summary.inputs.clone(),
            outputs: self.summary.outputs.clone(),
            graph: record,
            least_gpu_work: self.least_gpu_work,
            plans: Vec::new(),
        };
        let failed = |error: crate::Error| mistake(self.file, error.to_string());
        let mut plan = Vec::new();
        if self.backends != Backends::Cuda {
            parts.plans = plans.iter().map(part_plan).collect();
            plan = parts.write(plans.iter().map(|(_, plan)| plan.as_slice())).map_err(failed)?;
        }
        if !on_gpu {
            return Ok((plan, None));
        }
        // Where there is no processor's program, its plans are of the parts that have no other.
        let mut plans = plans.iter();
        let mut chosen: Vec<&PlanOn> = Vec::with_capacity(count);
        for gpu in &gpu_plans {
            let own = if self.backends != Backends::Cuda || gpu.is_none() { plans.next() } else { None };
            chosen.extend(gpu.as_ref().or(own));
        }
        parts.plans = chosen.iter().copied().map(part_plan).collect();
        let cuda_plan = parts.write(chosen.iter().map(|(_, plan)| plan.as_slice())).map_err(failed)?;
        self.summary.cuda_parts =
            parts.graph.nodes.iter().flat_map(|node| placed_of(node, &mut placed)).fold(Vec::new(), joined);
        #[cfg(feature = "cuda")]
        if self.summary.run_time_nodes > 0 {
            let modules = infer_kernels::cuda::plain::MODULES.iter().map(|&module| module.to_owned());
            super::gpus::insert(&mut self.summary.cuda_modules, modules);
        }
        Ok((plan, Some(cuda_plan)))
    }

    /// The processor's plan of a graph that [`passes::simplify`] has prepared.
    pub fn plan_for_processor(&mut self, mut graph: Graph) -> Result<Made, Vec<Diagnostic>> {
        let file = self.file;
        let (inputs, outputs) = (graph_ports(&graph, &graph.inputs), graph_ports(&graph, &graph.outputs));
        passes::finish(&mut graph, |_, _| {}).map_err(|error| mistake(file, error.0))?;
        let flops = flops(&graph);
        self.clock.stage("passes");
        let decisions = std::mem::take(&mut self.decisions);
        let mut calls =
            lower(&graph, self.precision, self.winograd, decisions).map_err(|(node, reason)| {
                mistake(file, format!("node {} is not lowered: {}", onnx::quote(&node), reason.what))
            })?;
        self.decisions = std::mem::take(&mut calls.decisions);
        self.clock.stage("lower");
        let memory = plan_memory(&calls).map_err(|conflict| mistake(file, conflict.to_string()))?;
        self.clock.stage("schedule");
        let parts = PlanParts::new(&calls, &memory, &inputs, &outputs, self.info(flops))
            .map_err(|error| mistake(file, error.to_string()))?;
        let mut plan = Vec::with_capacity(parts.total_bytes() as usize);
        parts.write_to(&mut plan).map_err(|error| mistake(file, error.to_string()))?;
        self.clock.stage("write");
        #[cfg(feature = "cuda")]
        let lender = (self.backends == Backends::Auto).then(|| Lender::new(&parts, &calls));
        #[cfg(not(feature = "cuda"))]
        let lender = None;
        Ok(Made {
            plan,
            kernels: parts.kernels().iter().map(|&kernel| kernel.to_owned()).collect(),
            weight_bytes: parts.weight_bytes(),
            arena_bytes: memory.arena_bytes,
            flops,
            lender,
        })
    }

    /// Counts a plan for the summary.
    pub fn count(&mut self, made: &Made) {
        self.summary.weight_bytes += made.weight_bytes;
        self.summary.arena_bytes += made.arena_bytes;
        self.summary.flops += made.flops;
    }

    pub fn info(&self, flops: u64) -> ModelInfo {
        ModelInfo { sha256: self.sha256, opset: self.summary.opset as u32, flops }
    }

    /// What asks for GPUs was built without them.
    #[cfg(not(feature = "cuda"))]
    fn plan_for_gpus(
        &mut self,
        _: &Graph,
        _: bool,
        _: Option<&Made>,
    ) -> Result<Option<PlanOn>, Vec<Diagnostic>> {
        Ok(None)
    }

    /// Notes what runs on the processor where the model is compiled for GPUs. That nothing is for GPUs is an error where
    /// it was asked for them alone.
    fn tell(&mut self, on_gpu: bool) -> Result<(), Vec<Diagnostic>> {
        if self.backends == Backends::Cpu {
            return Ok(());
        }
        let failures = std::mem::take(&mut self.on_processor);
        let why = match (cfg!(feature = "cuda"), failures.is_empty()) {
            (false, _) => "the compiler was built without the feature `cuda`".to_owned(),
            (true, true) if on_gpu => return Ok(()),
            (true, true) => "it has no nodes".to_owned(),
            (true, false) => failures.into_diagnostic(self.file).message,
        };
        if on_gpu {
            let what = "these nodes run, or may run, on the processor where the model runs on a GPU";
            self.summary.notes.push(format!("{what}: {why}"));
            return Ok(());
        }
        self.summary.cuda_parts.clear();
        if self.backends == Backends::Cuda {
            let what = format!("{}: nothing of the model runs on GPUs: {why}", self.file);
            return Err(vec![Diagnostic::argument("backend", what)]);
        }
        self.summary.notes.push(format!("not compiled for GPUs, it runs on the processor: {why}"));
        Ok(())
    }
}

/// Inputs or outputs of a graph.
pub(super) fn graph_ports(graph: &Graph, ids: &[ValueId]) -> Vec<Port> {
    ids.iter().map(|&id| Port { name: graph.value(id).name.clone(), ty: graph.ty(id).clone() }).collect()
}

fn part_plan((runs_on, plan): &PlanOn) -> PartPlan {
    PartPlan { runs_on: *runs_on, bytes: plan.len() as u64 }
}

/// The parts of a program's node: those of the static part that it stands for, else itself.
fn placed_of(node: &NodeRecord, regions: &mut [Vec<Placed>]) -> Vec<Placed> {
    if let Some(placed) = session::region_of(node).and_then(|index| regions.get_mut(index)) {
        return std::mem::take(placed);
    }
    let name = format!("{} ({})", onnx::quote(&node.name), node.op_type);
    vec![Placed { place: Place::AtRunTime, count: 1, nodes: vec![name] }]
}

/// Adds a part to a list, in which those that follow each other in the same place are one, but for those on a GPU.
fn joined(mut parts: Vec<Placed>, part: Placed) -> Vec<Placed> {
    match parts.last_mut() {
        Some(last) if last.place == part.place && part.place != Place::Gpu => {
            last.count += part.count;
            last.nodes.extend(part.nodes);
        }
        _ => parts.push(part),
    }
    parts
}

/// The layers of a program's node: those of the static part that it stands for, else itself.
fn layers_of(node: &NodeRecord, regions: &mut [Vec<Layer>]) -> Vec<Layer> {
    if let Some(layers) = session::region_of(node).and_then(|index| regions.get_mut(index)) {
        return std::mem::take(layers);
    }
    let operator = crate::ops::find(&node.domain, &node.op_type).map_or("", |row| row.name);
    vec![Layer {
        node: node.name.clone(),
        operator,
        kernels: Vec::new(),
        layout: "row-major".to_owned(),
        reasons: vec![
            "runs by itself: only the run knows a shape or a value, or no kernel computes it".to_owned(),
        ],
    }]
}

/// Floating-point operations of one inference.
pub(super) fn flops(graph: &Graph) -> u64 {
    let of = |node: &crate::graph::Node| {
        let outputs: Vec<&TensorType> = node.outputs.iter().flatten().map(|&id| graph.ty(id)).collect();
        graph.with_types(node, |types| node.op.flops(types, &outputs))
    };
    graph.nodes.iter().map(of).sum()
}
