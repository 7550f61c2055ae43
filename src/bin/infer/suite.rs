//! Cases: a model, its data, and what it should compute.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use infer_core::compile::Placed;
use infer_core::diagnostic::quote;
use infer_core::onnx::proto::{GraphProto, ModelProto, NodeProto};
use infer_core::options::{Backends, Options};
use infer_core::runtime;
use infer_core::session::Session;
use infer_core::tensor_type::DataType;
use infer_core::value::{ElementType, Value, ValueType};
use serde_json::{Value as Json, json};

use crate::arguments::{Backend, CompileArguments};
use crate::compare::{Tolerance, compare};
use crate::model::{Declared, File};
use crate::{dims, files, model};

/// What is tolerated in a case without tolerance.json: what ONNX's own runner tolerates.
const DEFAULT: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-7, of_largest: 0.0, integers: false };

/// A model, compiled for the sizes of its data.
pub struct Runner {
    path: PathBuf,
    file: File,
    /// How it is compiled; nothing is said by default.
    pub compile: Option<CompileArguments>,
    /// The most threads that take part.
    pub threads: Option<usize>,
    /// What to run on.
    pub backend: Backend,
    /// Whether all that has kernels on GPUs runs there, however little work it is, and what has none does not matter.
    pub wherever: bool,
    /// The last one, with its dimensions.
    session: Option<Opened>,
}

/// A model that has been opened.
struct Opened {
    dims: Vec<(String, u64)>,
    session: Session,
    /// Where its nodes run, where a GPU runs any.
    parts: Vec<Placed>,
}

impl Runner {
    /// The model that has been read from `path`.
    pub fn new(path: &Path, mut file: File) -> Self {
        // The compiler reads it again; weights need not be there twice.
        file.proto = ModelProto::default();
        Runner {
            path: path.to_owned(),
            file,
            compile: None,
            threads: None,
            backend: Backend::Cpu,
            wherever: false,
            session: None,
        }
    }

    /// The inputs in `folder`.
    pub fn read_inputs(&self, folder: &Path) -> anyhow::Result<Vec<Value>> {
        files::read(folder, "input", &self.file.inputs)
    }

    /// The outputs for `inputs`, which lie in `folder`, and how long that took in seconds. Dimensions that are not
    /// `given` are those of the inputs.
    pub fn run(
        &mut self,
        inputs: &[Value],
        given: &[(String, u64)],
        folder: &Path,
    ) -> anyhow::Result<(Vec<Value>, f64)> {
        files::expect_types(&self.file.inputs, inputs, folder)?;
        let dims = dims::bind(&self.file.inputs, inputs, given)?;
        self.run_with(inputs, &dims)
    }

    /// Compiles the model for `inputs`, which lie in `folder`.
    pub fn compile_for(&mut self, inputs: &[Value], folder: &Path) -> anyhow::Result<()> {
        files::expect_types(&self.file.inputs, inputs, folder)?;
        let dims = dims::bind(&self.file.inputs, inputs, &[])?;
        self.session(&dims).map(drop)
    }

    /// The outputs for `inputs` with all dimensions given, and how long that took in seconds.
    pub fn run_with(
        &mut self,
        inputs: &[Value],
        dims: &[(String, u64)],
    ) -> anyhow::Result<(Vec<Value>, f64)> {
        let session = self.session(dims)?;
        let start = Instant::now();
        let outputs = crate::progress::while_working("running", || session.run(inputs))?;
        Ok((outputs, start.elapsed().as_secs_f64()))
    }

    /// The model, compiled for `dims`.
    pub fn session(&mut self, dims: &[(String, u64)]) -> anyhow::Result<&Session> {
        if self.session.as_ref().is_none_or(|opened| opened.dims != dims) {
            let mut options = match &self.compile {
                Some(compile) => compile.options(&self.path, dims.to_vec()),
                None => Options { dims: dims.to_vec(), ..Options::new(&self.path) },
            };
            options.backends = self.backend.compiled_for();
            let mut backend = self.backend.opened_on();
            if self.wherever && self.backend == Backend::Cuda {
                (options.backends, options.least_gpu_work) = (Backends::Auto, 0);
            }
            let strict = self.compile.as_ref().is_some_and(|compile| compile.strict);
            let compiled = model::compiled(&options, strict)?;
            if self.wherever && compiled.cuda_plan.is_none() {
                backend = Some(runtime::Backend::Cpu);
            }
            let session = model::open(&compiled, self.threads, backend)?;
            let on_gpu = session.backend() == runtime::Backend::Cuda;
            let parts = if on_gpu { compiled.summary.cuda_parts } else { Vec::new() };
            self.session = Some(Opened { dims: dims.to_vec(), session, parts });
        }
        self.session.as_ref().map(|opened| &opened.session).context("the model has not been compiled")
    }

    /// Where the nodes of the last model run, and ran whose shapes or values only the run knows: how many on a GPU, and how
    /// many on the processor; `None` for a model that was opened on the processor.
    fn placed(&self) -> Option<(u64, u64)> {
        let opened = self.session.as_ref()?;
        let (on_gpu, on_processor) = model::placed(&opened.parts);
        let (ran_on_gpu, ran_on_processor) = opened.session.run_time_nodes().unwrap_or_default();
        let is_on_gpu = opened.session.backend() == runtime::Backend::Cuda;
        is_on_gpu.then_some((on_gpu + ran_on_gpu, on_processor + ran_on_processor))
    }

    /// Where the nodes of the last model run, as a line; nothing is said of the processor alone, where nobody asked for
    /// more.
    pub fn placement(&self) -> Option<String> {
        match self.placed().filter(|&(gpu, _)| gpu > 0) {
            Some((gpu, cpu)) => Some(format!("runs on a GPU: {gpu} nodes there, {cpu} on the processor")),
            None if self.backend == Backend::Auto => Some("runs on the processor alone".to_owned()),
            None => None,
        }
    }
}

/// Runs the case in `folder` on all its data, and says in `ran` where, once it has run on any.
///
/// # Errors
///
/// If it fails, why.
pub fn run_case(
    folder: &Path,
    threads: Option<usize>,
    backend: Backend,
    ran: &mut Option<Ran>,
) -> anyhow::Result<()> {
    let path = folder.join("model.onnx");
    let file = File::read(&path)?;
    let is_of_floats = is_of_floats(&file);
    let mut tolerance = Tolerance::read(&folder.join("tolerance.json"))?.unwrap_or(DEFAULT);
    tolerance.integers = has_quantized_nodes(&file.proto);
    let outputs = file.outputs.clone();
    let mut runner = Runner::new(&path, file);
    runner.threads = threads;
    (runner.backend, runner.wherever) = (backend, true);
    let sets = data_sets(folder)?;
    for data in &sets {
        let mut run = || {
            let inputs = runner.read_inputs(data)?;
            runner.compile_for(&inputs, data)?;
            let ours = runner.run(&inputs, &[], data);
            *ran = Some(Ran { on: RanOn::of(runner.placed()), is_of_floats });
            let ours = ours?.0;
            let recorded = files::read(data, "output", &outputs)?;
            for ((port, ours), recorded) in outputs.iter().zip(&ours).zip(&recorded) {
                let wrong = match compare(ours, recorded, tolerance) {
                    Ok(difference) => difference.describe(),
                    Err(wrong) => Some(wrong),
                };
                if let Some(wrong) = wrong {
                    bail!("output {}: {wrong}", quote(&port.name));
                }
            }
            Ok(())
        };
        let result: anyhow::Result<()> = run();
        // With one set there is nothing to tell apart.
        match data.file_name().filter(|_| sets.len() > 1) {
            Some(name) => result.with_context(|| name.display().to_string())?,
            None => result?,
        }
    }
    Ok(())
}

/// Where the nodes of a case ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RanOn {
    /// On a GPU, and none on the processor.
    Gpu,
    /// On both.
    Both,
    /// On the processor.
    Processor,
}

impl RanOn {
    /// Every place, with what one says of it.
    pub const ALL: [(RanOn, &'static str); 3] = [
        (RanOn::Gpu, "on a GPU"),
        (RanOn::Both, "on a GPU with the processor's help"),
        (RanOn::Processor, "on the processor alone"),
    ];

    fn of(placed: Option<(u64, u64)>) -> Self {
        match placed {
            // Of what a GPU opens, what computes nothing, such as constants and views, needs no help.
            Some((_, 0)) => RanOn::Gpu,
            Some((1.., _)) => RanOn::Both,
            Some((0, _)) | None => RanOn::Processor,
        }
    }
}

/// How a case ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Where.
    pub on: RanOn,
    /// Whether its inputs and outputs are of floats.
    pub is_of_floats: bool,
}

/// What became of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Why it fails, if it does.
    pub failure: Option<String>,
    /// How it ran, if it came so far.
    pub ran: Option<Ran>,
}

impl Outcome {
    /// A case that fails before it runs.
    pub fn failed(why: String) -> Self {
        Outcome { failure: Some(why), ran: None }
    }

    /// One line.
    pub fn to_line(&self) -> String {
        let place = self.ran.and_then(|ran| RanOn::ALL.iter().position(|(on, _)| *on == ran.on));
        let is_of_floats = self.ran.map(|ran| ran.is_of_floats);
        json!({ "failure": self.failure, "place": place, "is_of_floats": is_of_floats }).to_string()
    }

    /// What [`Outcome::to_line`] made a line of.
    pub fn read(line: &str) -> Option<Self> {
        let json: Json = serde_json::from_str(line).ok()?;
        let place = json["place"].as_u64().and_then(|index| RanOn::ALL.get(usize::try_from(index).ok()?));
        let ran = place.zip(json["is_of_floats"].as_bool());
        let ran = ran.map(|(&(on, _), is_of_floats)| Ran { on, is_of_floats });
        Some(Outcome { failure: json.get("failure")?.as_str().map(str::to_owned), ran })
    }
}

/// Whether inputs and outputs are tensors of floats of 16, 32 and 64 bits, at least one, and else of integers and flags.
fn is_of_floats(file: &File) -> bool {
    let dtype = |port: &Declared| match &port.ty {
        Some(ValueType::Tensor { element: ElementType::Number(dtype), .. }) => Some(*dtype),
        _ => None,
    };
    let floats = [DataType::F16, DataType::Bf16, DataType::F32, DataType::F64];
    let others = |dtype: DataType| {
        let small = dtype.is_small_float() || matches!(dtype, DataType::C64 | DataType::C128);
        !small && dtype.packed_bits() == 8 * dtype.size_bytes()
    };
    let ports: Vec<Option<DataType>> = file.inputs.iter().chain(&file.outputs).map(dtype).collect();
    ports.iter().flatten().any(|dtype| floats.contains(dtype))
        && ports.iter().all(|dtype| dtype.is_some_and(|dtype| floats.contains(&dtype) || others(dtype)))
}

/// The folders `test_data_set_<i>`, by number.
fn data_sets(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut sets: Vec<(usize, PathBuf)> = Vec::new();
    for path in folders(folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix("test_data_set_")?.parse().ok());
        sets.extend(number.map(|number| (number, path)));
    }
    if sets.is_empty() {
        bail!("the case has no data: there is no folder test_data_set_0");
    }
    sets.sort();
    Ok(sets.into_iter().map(|(_, path)| path).collect())
}

/// A case of a suite.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// The folder it lies in.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Case {
    /// `group/name`.
    pub fn title(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// The cases in `folder`, sorted: `<group>/<case>`. Every such folder is a case, with a model in it or not.
pub fn cases(folder: &Path) -> anyhow::Result<Vec<Case>> {
    let name =
        |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut cases = Vec::new();
    for group in folders(folder)? {
        if group.join("model.onnx").is_file() {
            bail!(
                "{} is a case; the folder of the suite holds groups, and those the cases\n       help: \
                 infer conformance {}",
                group.display(),
                folder
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty())
                    .unwrap_or(Path::new(".."))
                    .display()
            );
        }
        for path in folders(&group)? {
            cases.push(Case { group: name(&group), name: name(&path), path });
        }
    }
    cases.sort();
    Ok(cases)
}

fn folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

/// Whether a node computes with quantised integers: then numpy's tolerance holds for integers too.
pub fn has_quantized_nodes(model: &ModelProto) -> bool {
    fn any(nodes: &[NodeProto]) -> bool {
        nodes.iter().any(|node| {
            let graphs = node.attribute.iter().flat_map(|a| a.g.iter().map(|g| &**g).chain(&a.graphs));
            is_quantized(&node.op_type)
                || graphs.map(|graph: &GraphProto| &graph.node).any(|nodes| any(nodes))
        })
    }
    fn is_quantized(op_type: &str) -> bool {
        op_type.starts_with("QLinear")
            || matches!(
                op_type,
                "QuantizeLinear"
                    | "DynamicQuantizeLinear"
                    | "ConvInteger"
                    | "MatMulInteger"
                    | "QGemm"
                    | "DynamicQuantizeMatMul"
                    | "MatMulIntegerToFloat"
            )
    }
    model.graph.as_ref().is_some_and(|graph| any(&graph.node))
        || model.functions.iter().any(|function| any(&function.node))
}
