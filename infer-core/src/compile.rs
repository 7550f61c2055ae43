//! The pipeline: a model file in, a plan out.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use self::planner::Planner;
pub use self::summary::{Place, Placed, Summary};
use crate::decisions::Decisions;
use crate::diagnostic::Diagnostic;
use crate::import::{Failures, import};
#[cfg(feature = "cuda")]
use crate::lower_cuda::Lowered as GpuPart;
use crate::onnx::{self, ModelFile};
use crate::options::{Backends, Options};
use crate::partition::{Partition, partition};
use crate::passes;
use crate::shape_inference::infer;
use crate::tactics::Tactics;
use crate::value::{ValuePort, ValueType};

#[cfg(feature = "cuda")]
mod gpus;
mod planner;
mod summary;

/// A part of a model that runs on a GPU, as calls: there is none where nothing is compiled for GPUs.
#[cfg(not(feature = "cuda"))]
type GpuPart = std::convert::Infallible;

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

/// A model that inference accepted and a later stage did not: not the user's mistake.
fn mistake(model: &str, what: String) -> Vec<Diagnostic> {
    vec![Diagnostic::model(format!(
        "{model}: the compiler cannot handle this model: {what}\n       help: this is a mistake of infer-embed; please report it with the model"
    ))]
}
