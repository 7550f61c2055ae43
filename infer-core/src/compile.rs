//! The pipeline: a model file in, a plan out.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::decisions::{Decisions, Layer};
use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, ValueId};
use crate::import::import;
use crate::lower::lower;
use crate::onnx::{self, ModelFile};
use crate::options::{Backends, Options, Precision};
use crate::partition::{Partition, partition};
use crate::passes;
use crate::plan::{ModelInfo, PlanParts, Port};
use crate::record::NodeRecord;
use crate::schedule::plan_memory;
use crate::session::{self, Parts};
use crate::shape_inference::infer;
use crate::tactics::Tactics;
use crate::tensor_type::TensorType;
use crate::value::{ValuePort, ValueType};

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
    /// The size of the packed weights in the plan.
    pub weight_bytes: u64,
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
    /// What is worth knowing but no error.
    pub notes: Vec<String>,
}

/// A compiled model.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The bytes of the processor's plan; none where the model is compiled for GPUs alone.
    pub plan: Vec<u8>,
    /// The bytes of the plan for GPUs.
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
        summary.notes.extend(decisions.tactics.notes(&name, &summary.model_sha256));
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
    let mut clock = Clock { last: start, timings: Vec::new() };
    let sha256: [u8; 32] = Sha256::digest(&file.bytes).into();
    clock.stage("read");
    let imported = import(&file, &options.dims)?;
    clock.stage("import");
    let model = infer(imported)?;
    clock.stage("shape inference");

    let info = model.info.clone();
    let (partition, inputs, outputs) = partition(model);
    let mut summary = Summary {
        inputs: ports(&info.inputs, inputs),
        outputs: ports(&info.outputs, outputs),
        kernels: Vec::new(),
        run_time_nodes: 0,
        run_time_examples: Vec::new(),
        weight_bytes: 0,
        arena_bytes: 0,
        flops: 0,
        parameters: info.parameters,
        model_sha256: sha256.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        opset: info.opset(),
        cuda_modules: Vec::new(),
        notes: info.notes,
    };
    let mut planner = Planner {
        file: &file.name,
        sha256,
        precision: options.precision,
        backends: options.backends,
        cuda_plan: None,
        winograd: options.winograd,
        summary: &mut summary,
        clock: &mut clock,
        decisions: Decisions::kept(tactics),
    };
    let plan = match partition {
        Partition::Static(graph) => planner.plan(graph, true)?,
        Partition::Program(record, regions) => {
            let count = regions.len();
            let nodes = record.nodes.len() - count;
            planner.without_cuda(&format!(
                "only the run knows shapes or values of {nodes} nodes, which the GPU does not run"
            ))?;
            let (mut plans, mut layers) = (Vec::with_capacity(count), Vec::with_capacity(count));
            for graph in regions {
                plans.push(planner.plan(graph, false)?);
                layers.push(std::mem::take(&mut planner.decisions.layers));
            }
            planner.decisions.layers =
                record.nodes.iter().flat_map(|node| layers_of(node, &mut layers)).collect();
            planner.summary.kernels.clear();
            planner.summary.run_time_nodes = (record.nodes.len() - count) as u64;
            let alone = record.nodes.iter().filter(|node| !session::is_region(node));
            let named = alone.map(|node| format!("{} ({})", onnx::quote(&node.name), node.op_type));
            planner.summary.run_time_examples = named.take(RUN_TIME_EXAMPLES).collect();
            let parts = Parts {
                inputs: planner.summary.inputs.clone(),
                outputs: planner.summary.outputs.clone(),
                graph: record,
                plans: plans.iter().map(|plan| plan.len() as u64).collect(),
            };
            parts.write(&plans).map_err(|error| mistake(&file.name, error.to_string()))?
        }
    };
    let (decisions, cuda_plan) = (planner.decisions, planner.cuda_plan);
    Ok(Compiled { plan, cuda_plan, summary, sources: file.sources, timings: clock.timings, decisions })
}

/// Makes plans of graphs, and sums up what they are.
struct Planner<'a> {
    file: &'a str,
    sha256: [u8; 32],
    precision: Precision,
    backends: Backends,
    cuda_plan: Option<Vec<u8>>,
    winograd: bool,
    summary: &'a mut Summary,
    clock: &'a mut Clock,
    decisions: Decisions,
}

impl Planner<'_> {
    /// The processor's plan of a graph, which is the whole model or a part of it. Of a whole one the plan for GPUs is
    /// made too, or it alone, as the options ask.
    fn plan(&mut self, mut graph: Graph, is_whole: bool) -> Result<Vec<u8>, Vec<Diagnostic>> {
        let file = self.file;
        let ports = |ids: &[ValueId]| -> Vec<Port> {
            ids.iter()
                .map(|&id| Port { name: graph.value(id).name.clone(), ty: graph.ty(id).clone() })
                .collect()
        };
        let (inputs, outputs) = (ports(&graph.inputs), ports(&graph.outputs));
        passes::simplify(&mut graph, |_, _| {}).map_err(|error| mistake(file, error.0))?;
        if is_whole && self.backends != Backends::Cpu {
            self.clock.stage("passes");
            self.plan_for_cuda(&graph)?;
            self.clock.stage("lower for GPUs");
            if self.backends == Backends::Cuda {
                return Ok(Vec::new());
            }
        }
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
        let info = ModelInfo { sha256: self.sha256, opset: self.summary.opset as u32, flops };
        let parts = PlanParts::new(&calls, &memory, &inputs, &outputs, info)
            .map_err(|error| mistake(file, error.to_string()))?;
        let mut plan = Vec::with_capacity(parts.total_bytes() as usize);
        parts.write_to(&mut plan).map_err(|error| mistake(file, error.to_string()))?;
        self.clock.stage("write");
        self.summary.kernels = parts.kernels().iter().map(|&kernel| kernel.to_owned()).collect();
        self.summary.weight_bytes += parts.weight_bytes();
        self.summary.arena_bytes += memory.arena_bytes;
        self.summary.flops += flops;
        Ok(plan)
    }
}

impl Planner<'_> {
    /// Makes the plan for GPUs of a graph that [`passes::simplify`] has prepared.
    #[cfg(feature = "cuda")]
    fn plan_for_cuda(&mut self, graph: &Graph) -> Result<(), Vec<Diagnostic>> {
        use crate::lower_cuda::Lowered;
        let flops = flops(graph);
        let info = ModelInfo { sha256: self.sha256, opset: self.summary.opset as u32, flops };
        let lowered = match Lowered::of(graph, self.precision, info) {
            Ok(lowered) => lowered,
            Err(failures) => {
                let what = failures.into_diagnostic(self.file);
                return match self.backends {
                    Backends::Cuda => Err(vec![what]),
                    _ => self.without_cuda(&what.message),
                };
            }
        };
        let (plan, weight_bytes, arena_bytes) =
            lowered.write().map_err(|error| mistake(self.file, error.message))?;
        self.summary.cuda_modules = lowered.modules().into_iter().map(str::to_owned).collect();
        if self.backends == Backends::Cuda {
            self.summary.weight_bytes += weight_bytes;
            self.summary.arena_bytes += arena_bytes;
            self.summary.flops += flops;
        }
        self.cuda_plan = Some(plan);
        Ok(())
    }

    /// What asks for GPUs was built without them.
    #[cfg(not(feature = "cuda"))]
    fn plan_for_cuda(&mut self, _: &Graph) -> Result<(), Vec<Diagnostic>> {
        self.without_cuda("the compiler was built without the feature `cuda`")
    }

    /// There is no plan for GPUs, and this is why.
    fn without_cuda(&mut self, why: &str) -> Result<(), Vec<Diagnostic>> {
        match self.backends {
            Backends::Cpu => {}
            Backends::Cuda => {
                return Err(vec![Diagnostic::argument("backend", format!("{}: {why}", self.file))]);
            }
            Backends::Auto => {
                self.summary.notes.push(format!("not compiled for GPUs, it runs on the processor: {why}"))
            }
        }
        Ok(())
    }
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
