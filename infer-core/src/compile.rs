//! The pipeline: a model file in, a plan out.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, ValueId};
use crate::import::import;
use crate::lower::lower;
use crate::onnx;
use crate::options::Options;
use crate::passes;
pub use crate::plan::Port;
use crate::plan::{ModelInfo, PlanParts};
use crate::schedule::plan_memory;
use crate::shape_inference::infer;
use crate::tensor_type::TensorType;

/// What the generated code and the tools need to know of a compiled model, beside the plan itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The inputs, in the model's order.
    pub inputs: Vec<Port>,
    /// The outputs, in the model's order.
    pub outputs: Vec<Port>,
    /// The kernels of the plan, in the order of its table.
    pub kernels: Vec<String>,
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
    /// What is worth knowing but no error.
    pub notes: Vec<String>,
}

/// A compiled model.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The plan's bytes.
    pub plan: Vec<u8>,
    /// What it is.
    pub summary: Summary,
    /// Every file that was read: the model first, then external data.
    pub sources: Vec<PathBuf>,
    /// How long each stage took, in seconds, for `INFER_LOG=time`.
    pub timings: Vec<(&'static str, f64)>,
}

/// Compiles a model.
///
/// # Errors
///
/// One diagnostic for each thing that is wrong with the request; all failing nodes of the model share one.
pub fn compile(options: &Options) -> Result<Compiled, Vec<Diagnostic>> {
    let mut clock = Clock::default();
    let file = onnx::read(&options.model).map_err(|diagnostic| vec![diagnostic])?;
    let sha256: [u8; 32] = Sha256::digest(&file.bytes).into();
    clock.stage("read");
    let imported = import(&file, &options.dims)?;
    clock.stage("import");
    let mut model = infer(imported)?;
    clock.stage("shape inference");

    let graph = &mut model.graph;
    let (inputs, outputs) =
        (ports(graph, &model.info.inputs, &graph.inputs), ports(graph, &model.info.outputs, &graph.outputs));
    passes::run(graph, |_| {}).map_err(|error| mistake(&file.name, error.0))?;
    let flops = flops(graph);
    clock.stage("passes");
    let calls = lower(graph, options.precision).map_err(|(node, reason)| {
        mistake(&file.name, format!("node {} is not lowered: {}", onnx::quote(&node), reason.what))
    })?;
    clock.stage("lower");
    let memory = plan_memory(&calls).map_err(|conflict| mistake(&file.name, conflict.to_string()))?;
    clock.stage("schedule");
    let opset = model.info.opset();
    let info = ModelInfo { sha256, opset: opset as u32, flops };
    let parts = PlanParts::new(&calls, &memory, &inputs, &outputs, info)
        .map_err(|error| mistake(&file.name, error.to_string()))?;
    let mut plan = Vec::with_capacity(parts.total_bytes() as usize);
    parts.write_to(&mut plan).map_err(|error| mistake(&file.name, error.to_string()))?;
    clock.stage("write");

    let summary = Summary {
        inputs,
        outputs,
        kernels: parts.kernels().iter().map(|&kernel| kernel.to_owned()).collect(),
        weight_bytes: parts.weight_bytes(),
        arena_bytes: memory.arena_bytes,
        flops,
        parameters: model.info.parameters,
        model_sha256: sha256.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        opset,
        notes: model.info.notes,
    };
    Ok(Compiled { plan, summary, sources: file.sources, timings: clock.timings })
}

/// Takes the time of each stage.
struct Clock {
    last: Instant,
    timings: Vec<(&'static str, f64)>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { last: Instant::now(), timings: Vec::new() }
    }
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
fn ports(graph: &Graph, names: &[String], ids: &[ValueId]) -> Vec<Port> {
    names.iter().zip(ids).map(|(name, &id)| Port { name: name.clone(), ty: graph.ty(id).clone() }).collect()
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
