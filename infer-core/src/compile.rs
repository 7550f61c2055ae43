//! The pipeline: a model file in, a plan out.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::decisions::{Decisions, Layer};
use crate::diagnostic::{Diagnostic, Reason};
use crate::graph::{Graph, ValueId};
use crate::import::{Failures, Origin, import};
use crate::lower::lower;
#[cfg(feature = "cuda")]
use crate::lower_cuda::{Lowered as GpuPart, borrow::Lender};
use crate::onnx::{self, ModelFile};
use crate::options::{Backends, Options, Precision};
use crate::partition::{Partition, partition};
use crate::passes;
use crate::plan::{ModelInfo, PlanParts, Port};
use crate::record::{GraphRecord, NodeRecord};
use crate::schedule::plan_memory;
use crate::session::{self, PartPlan, Parts, RunsOn};
use crate::shape_inference::infer;
use crate::tactics::Tactics;
use crate::tensor_type::TensorType;
use crate::value::{ValuePort, ValueType};

/// A part of a model that runs on a GPU, as calls: there is none where nothing is compiled for GPUs.
#[cfg(not(feature = "cuda"))]
type GpuPart = std::convert::Infallible;

/// A plan for the processor whose weights one for GPUs borrows: there is none where nothing is compiled for GPUs.
#[cfg(not(feature = "cuda"))]
type Lender = ();

/// How many nodes of those that the run alone knows are named.
const RUN_TIME_EXAMPLES: usize = 5;

/// What the generated code and the tools need to know of a compiled model, beside the plan itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The inputs, in the model's order.
    pub inputs: Vec<ValuePort>,
    /// The outputs, in the model's order.
    pub outputs: Vec<ValuePort>,
    /// The kernels of the plan, in the order of its table; none where the plan is a program.
    pub kernels: Vec<String>,
    /// How many nodes run with shapes or values that only the run knows, or have no kernels: where there are any, the
    /// plan is a program, for a [`Session`](crate::session::Session) to run.
    pub run_time_nodes: u64,
    /// Some of these nodes with their operators, for messages.
    pub run_time_examples: Vec<String>,
    /// The size of the packed weights in the plans.
    pub weight_bytes: u64,
    /// The size of those that the plan for GPUs has besides, made of weights of the processor's plan when it is opened.
    pub borrowed_weight_bytes: u64,
    /// The size of the arena a context needs.
    pub arena_bytes: u64,
    /// Floating-point operations of one inference, a multiply-add counting as two.
    pub flops: u64,
    /// Elements of the model's initializers.
    pub parameters: u64,
    /// SHA-256 of the model file, in hexadecimal.
    pub model_sha256: String,
    /// The version of ai.onnx that the model imports.
    pub opset: i64,
    /// The modules that hold the kernels of the plan for GPUs; none where there is no such plan.
    pub cuda_modules: Vec<String>,
    /// The processor's kernels in the plan for GPUs.
    pub cuda_kernels: Vec<String>,
    /// The parts of the plan for GPUs, in order; none where there is no such plan.
    pub cuda_parts: Vec<Placed>,
    /// What is worth knowing but no error.
    pub notes: Vec<String>,
}

/// Where nodes run of a model that is compiled for GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a GPU.
    Gpu,
    /// On the processor.
    Processor,
    /// Where the run decides, which alone knows their shapes or values.
    AtRunTime,
}

/// Nodes that run at a time where a model is compiled for GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What runs them.
    pub place: Place,
    /// How many they are, once the model is simplified.
    pub count: u64,
    /// Those that no GPU runs for sure, with their operators, for messages.
    pub nodes: Vec<String>,
}

/// A compiled model.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The bytes of the processor's plan; none where the model is compiled for GPUs alone.
    pub plan: Vec<u8>,
    /// The bytes of the plan for GPUs, whose parts run there and on the processor where not all has kernels there.
    pub cuda_plan: Option<Vec<u8>>,
    /// What they are.
    pub summary: Summary,
    /// Every file that was read: the model first, then external data, then tactics.
    pub sources: Vec<PathBuf>,
    /// How long each stage took, in seconds, for `INFER_LOG=time`.
    pub timings: Vec<(&'static str, f64)>,
    /// What was decided for each layer, and why.
    pub decisions: Decisions,
}

/// Compiles a model.
///
/// # Errors
///
/// One diagnostic for each thing that is wrong with the request; all failing nodes of the model share one.
pub fn compile(options: &Options) -> Result<Compiled, Vec<Diagnostic>> {
    let start = Instant::now();
    let tactics = match &options.tactics {
        Some(path) => read_tactics(path).map_err(|diagnostic| vec![diagnostic])?,
        None => Tactics::default(),
    };
    let file = onnx::read(&options.model).map_err(|diagnostic| vec![diagnostic])?;
    let mut compiled = compile_with(file, options, tactics, start)?;
    if let Some(path) = &options.tactics {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let Compiled { decisions, summary, sources, .. } = &mut compiled;
        let Options { precision, backends, .. } = *options;
        summary.notes.extend(decisions.tactics.notes(&name, &summary.model_sha256, precision, backends));
        sources.push(path.clone());
    }
    Ok(compiled)
}

/// The tactics in a file.
///
/// # Errors
///
/// If there is no such file, or it is malformed.
pub fn read_tactics(path: &Path) -> Result<Tactics, Diagnostic> {
    let refused = |what: String| Diagnostic::argument("tactics", what);
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            refused(format!("{}: this is no text: byte {valid} is no UTF-8", path.display()))
        })?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let help = "`infer tune` writes one";
            return Err(refused(format!("{}: there is no such file\n       help: {help}", path.display())));
        }
        Err(error) => return Err(refused(format!("{}: {error}", path.display()))),
    };
    Tactics::parse(&text).map_err(|error| {
        let (path, line, what) = (path.display(), error.line, error.what);
        refused(format!("{path}:{line}: {what}\n       help: `infer tune` writes the file anew"))
    })
}

/// [`compile`] of a file that has been read, since the time `start`; the path in `options` is not looked at.
///
/// # Errors
///
/// Those of [`compile`].
pub fn compile_file(file: ModelFile, options: &Options, start: Instant) -> Result<Compiled, Vec<Diagnostic>> {
    compile_with(file, options, Tactics::default(), start)
}

/// [`compile_file`] by these tactics, instead of those of the path in `options`.
///
/// # Errors
///
/// Those of [`compile`].
pub fn compile_with(
    file: ModelFile,
    options: &Options,
    tactics: Tactics,
    start: Instant,
) -> Result<Compiled, Vec<Diagnostic>> {
    make(file, options, tactics, start, false).map(|(compiled, _)| compiled)
}

/// [`compile`] without tactics, and beside the plan the parts that run on a GPU, in order: for tools that try other ways.
///
/// # Errors
///
/// Those of [`compile`].
#[cfg(feature = "cuda")]
pub fn compile_for_gpus(options: &Options) -> Result<(Compiled, Vec<GpuPart>), Vec<Diagnostic>> {
    let start = Instant::now();
    let file = onnx::read(&options.model).map_err(|diagnostic| vec![diagnostic])?;
    let options = Options { backends: Backends::Cuda, ..options.clone() };
    make(file, &options, Tactics::default(), start, true)
}

/// Compiles, and keeps the parts that run on a GPU where they are wanted.
fn make(
    file: ModelFile,
    options: &Options,
    tactics: Tactics,
    start: Instant,
    wants_parts: bool,
) -> Result<(Compiled, Vec<GpuPart>), Vec<Diagnostic>> {
    let mut clock = Clock { last: start, timings: Vec::new() };
    let sha256: [u8; 32] = Sha256::digest(&file.bytes).into();
    clock.stage("read");
    let imported = import(&file, &options.dims)?;
    clock.stage("import");
    let model = infer(imported)?;
    clock.stage("shape inference");

    let info = model.info.clone();
    let (partition, inputs, outputs) = partition(model);
    let summary = Summary {
        inputs: ports(&info.inputs, inputs),
        outputs: ports(&info.outputs, outputs),
        kernels: Vec::new(),
        run_time_nodes: 0,
        run_time_examples: Vec::new(),
        weight_bytes: 0,
        borrowed_weight_bytes: 0,
        arena_bytes: 0,
        flops: 0,
        parameters: info.parameters,
        model_sha256: sha256.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        opset: info.opset(),
        cuda_modules: Vec::new(),
        cuda_kernels: Vec::new(),
        cuda_parts: Vec::new(),
        notes: info.notes,
    };
    let mut partition = partition;
    let graphs = match &mut partition {
        Partition::Static(graph) => std::slice::from_mut(graph),
        Partition::Program(_, regions) => regions,
    };
    // Before anything copies them.
    for graph in graphs {
        passes::simplify(graph, |_, _| {}).map_err(|error| mistake(&file.name, error.0))?;
    }
    clock.stage("passes");
    let mut plan = |partition: Partition, least_gpu_work: u64| {
        let mut summary = summary.clone();
        let mut planner = Planner {
            file: &file.name,
            sha256,
            precision: options.precision,
            backends: options.backends,
            winograd: options.winograd,
            least_gpu_work,
            on_processor: Failures::default(),
            summary: &mut summary,
            clock: &mut clock,
            decisions: Decisions::kept(tactics.clone()),
            gpu_parts: wants_parts.then(Vec::new),
        };
        let (plan, cuda_plan) = match partition {
            Partition::Static(graph) => planner.whole(graph)?,
            Partition::Program(record, regions) => planner.program(record, regions)?,
        };
        let (decisions, gpu_parts) = (planner.decisions, planner.gpu_parts.unwrap_or_default());
        Ok((plan, cuda_plan, summary, decisions, gpu_parts))
    };
    // Who asks for GPUs alone gets them, for however little work.
    let insists = options.backends == Backends::Cuda && options.least_gpu_work > 0;
    let made = match insists.then(|| partition.clone()) {
        Some(same) => plan(partition, options.least_gpu_work).or_else(|_: Vec<Diagnostic>| plan(same, 0)),
        None => plan(partition, options.least_gpu_work),
    };
    let (plan, cuda_plan, summary, decisions, gpu_parts) = made?;
    let (sources, timings) = (file.sources, clock.timings);
    Ok((Compiled { plan, cuda_plan, summary, sources, timings, decisions }, gpu_parts))
}

/// Makes plans of graphs, and sums up what they are.
struct Planner<'a> {
    file: &'a str,
    sha256: [u8; 32],
    precision: Precision,
    backends: Backends,
    winograd: bool,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "nothing is compiled for GPUs"))]
    least_gpu_work: u64,
    /// The nodes that run on the processor where the model runs on a GPU, and why.
    on_processor: Failures,
    summary: &'a mut Summary,
    clock: &'a mut Clock,
    decisions: Decisions,
    /// The parts that run on a GPU, where they are wanted.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "nothing is compiled for GPUs"))]
    gpu_parts: Option<Vec<GpuPart>>,
}

/// The processor's plan, which may be empty, and that for GPUs.
type BothPlans = (Vec<u8>, Option<Vec<u8>>);

/// A plan, and where it runs.
type PlanOn = (RunsOn, Vec<u8>);

/// A plan of the processor with what is known of it.
struct Made {
    plan: Vec<u8>,
    kernels: Vec<String>,
    weight_bytes: u64,
    arena_bytes: u64,
    flops: u64,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "nothing is compiled for GPUs"))]
    lender: Option<Lender>,
}

impl Planner<'_> {
    /// The plans of a model that is known as a whole, and simplified: the processor's, which may be empty, and that for GPUs.
    fn whole(&mut self, graph: Graph) -> Result<BothPlans, Vec<Diagnostic>> {
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
    fn program(&mut self, record: GraphRecord, regions: Vec<Graph>) -> Result<BothPlans, Vec<Diagnostic>> {
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
            insert(&mut self.summary.cuda_modules, modules);
        }
        Ok((plan, Some(cuda_plan)))
    }

    /// The processor's plan of a graph that [`passes::simplify`] has prepared.
    fn plan_for_processor(&mut self, mut graph: Graph) -> Result<Made, Vec<Diagnostic>> {
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
    fn count(&mut self, made: &Made) {
        self.summary.weight_bytes += made.weight_bytes;
        self.summary.arena_bytes += made.arena_bytes;
        self.summary.flops += made.flops;
    }

    fn info(&self, flops: u64) -> ModelInfo {
        ModelInfo { sha256: self.sha256, opset: self.summary.opset as u32, flops }
    }
}

impl Planner<'_> {
    /// The plan for GPUs of a graph that [`passes::simplify`] has prepared, where any of it runs there; what does not is
    /// [`Planner::on_processor`]. It borrows the weights that `whole` has, the processor's plan of the graph.
    #[cfg(feature = "cuda")]
    fn plan_for_gpus(
        &mut self,
        graph: &Graph,
        is_model: bool,
        whole: Option<&Made>,
    ) -> Result<Option<PlanOn>, Vec<Diagnostic>> {
        use crate::cut::{self, Body};
        use crate::plan::parts::{self, Side};

        if self.backends == Backends::Cpu {
            return Ok(None);
        }
        let (precision, info) = (self.precision, self.info(flops(graph)));
        let request = cut::Request { precision, info, least_work: self.least_gpu_work, is_model };
        let cut = cut::cut(graph, &request);
        self.clock.stage("lower for GPUs");
        let spared = cut.spared.iter().map(|&node| (node, Reason::new(SPARED)));
        for (index, why) in cut.refused.iter().cloned().chain(spared) {
            let node = &graph.nodes[index];
            let known = node.inputs.iter().flatten();
            let types = known.map(|&id| (graph.value(id).name.clone(), graph.ty(id).clone())).collect();
            let origin = Origin { op_type: node.op.name().to_owned(), opset: 0 };
            self.on_processor.add(&node.name, &origin, why, types);
        }
        let placed = |place: Place, nodes: &[usize]| Placed {
            place,
            count: nodes.len() as u64,
            nodes: nodes
                .iter()
                .filter(|_| place != Place::Gpu)
                .map(|&index| {
                    let node = &graph.nodes[index];
                    format!("{} ({})", onnx::quote(&node.name), node.op.name())
                })
                .collect(),
        };
        if cut.parts.is_empty() {
            let all: Vec<usize> = (0..graph.nodes.len()).collect();
            self.summary.cuda_parts.push(placed(Place::Processor, &all));
            return Ok(None);
        }

        let is_whole = cut.is_whole();
        let mut plans = Vec::with_capacity(cut.parts.len());
        let mut parts = Vec::with_capacity(cut.parts.len());
        for part in cut.parts {
            let on_gpu = matches!(part.body, Body::Gpu(_));
            if !part.nodes.is_empty() {
                self.summary
                    .cuda_parts
                    .push(placed(if on_gpu { Place::Gpu } else { Place::Processor }, &part.nodes));
            }
            let made = match part.body {
                Body::Gpu(mut lowered) => {
                    lowered.follow(&mut self.decisions.tactics);
                    if let Some(lender) = whole.and_then(|whole| whole.lender.as_ref()) {
                        self.summary.borrowed_weight_bytes += lowered.borrow(lender);
                        self.clock.stage("borrow");
                    }
                    let (plan, weight_bytes, arena_bytes) =
                        lowered.write().map_err(|error| mistake(self.file, error.message))?;
                    insert(&mut self.summary.cuda_modules, lowered.modules().into_iter().map(str::to_owned));
                    if let Some(parts) = &mut self.gpu_parts {
                        parts.push(*lowered);
                    }
                    Made { plan, kernels: Vec::new(), weight_bytes, arena_bytes, flops: 0, lender: None }
                }
                Body::Processor(graph) => {
                    let (layers, choices) = (self.decisions.layers.len(), self.decisions.choices.len());
                    let made = self.plan_for_processor(graph)?;
                    if self.backends != Backends::Cuda {
                        // What is reported is how the processor computes the model alone.
                        self.decisions.layers.truncate(layers);
                        self.decisions.choices.truncate(choices);
                    }
                    Made { flops: 0, ..made }
                }
            };
            match self.backends {
                Backends::Cuda => self.count(&made),
                // The memory of an inference is that of the processor.
                _ => self.summary.weight_bytes += made.weight_bytes,
            }
            insert(&mut self.summary.cuda_kernels, made.kernels);
            parts.push(parts::Part {
                side: if on_gpu { Side::Gpu } else { Side::Processor },
                plan: 0..made.plan.len(),
                inputs: part.inputs,
                outputs: part.outputs,
            });
            plans.push(made.plan);
        }
        if self.backends == Backends::Cuda {
            self.summary.flops += flops(graph);
        }
        if is_whole {
            return Ok(plans.pop().map(|plan| (RunsOn::Gpu, plan)));
        }
        let inputs = graph_ports(graph, &graph.inputs);
        let outputs = graph_ports(graph, &graph.outputs).into_iter().zip(cut.outputs).collect();
        let plan = parts::Parts { inputs, outputs, parts }.write(&plans);
        self.clock.stage("write");
        Ok(Some((RunsOn::Both, plan)))
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

/// Why nodes run on the processor that have kernels on GPUs.
#[cfg(feature = "cuda")]
const SPARED: &str = "it is too little work for a GPU beside what the processor does before and after it";

/// Adds what is new to a sorted list.
#[cfg(feature = "cuda")]
fn insert(sorted: &mut Vec<String>, names: impl IntoIterator<Item = String>) {
    sorted.extend(names);
    sorted.sort_unstable();
    sorted.dedup();
}

/// Inputs or outputs of a graph.
fn graph_ports(graph: &Graph, ids: &[ValueId]) -> Vec<Port> {
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

/// Takes the time of each stage.
struct Clock {
    last: Instant,
    timings: Vec<(&'static str, f64)>,
}

impl Clock {
    /// Stage `name` ends here.
    fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        self.timings.push((name, now.duration_since(self.last).as_secs_f64()));
        self.last = now;
    }
}

/// The interface, under the names that the model gives.
fn ports(names: &[String], types: Vec<ValueType>) -> Vec<ValuePort> {
    names.iter().zip(types).map(|(name, ty)| ValuePort { name: name.clone(), ty }).collect()
}

/// Floating-point operations of one inference.
fn flops(graph: &Graph) -> u64 {
    let of = |node: &crate::graph::Node| {
        let outputs: Vec<&TensorType> = node.outputs.iter().flatten().map(|&id| graph.ty(id)).collect();
        graph.with_types(node, |types| node.op.flops(types, &outputs))
    };
    graph.nodes.iter().map(of).sum()
}

/// A model that inference accepted and a later stage did not: not the user's mistake.
fn mistake(model: &str, what: String) -> Vec<Diagnostic> {
    vec![Diagnostic::model(format!(
        "{model}: the compiler cannot handle this model: {what}\n       help: this is a mistake of infer-embed; please report it with the model"
    ))]
}
