//! The compiler and the run time as the commands use them.

use std::collections::HashSet;
use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, anyhow, bail};
use infer_core::compile::{Compiled, Place, Placed, compile};
use infer_core::diagnostic::Diagnostic;
use infer_core::onnx::proto::{
    Dimension, GraphProto, ModelProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use infer_core::onnx::{self, STRING};
use infer_core::options::Options;
use infer_core::plan::AlignedBytes;
use infer_core::runtime::{Backend, EngineOptions, Plans};
use infer_core::session::Session;
use infer_core::tensor_type::DataType;
use infer_core::value::{ElementType, ValueType};

use crate::progress;

/// An extent of an input or output as the file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A number.
    Known(usize),
    /// A symbol; `input[axis]` for an axis without a name.
    Symbol(String),
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Known(extent) => extent.fmt(f),
            Extent::Symbol(symbol) => f.write_str(symbol),
        }
    }
}

/// An input or output as the file declares it.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Its type, symbols left open; `None` where the file does not say.
    pub ty: Option<ValueType>,
    /// Its extents, where it is a tensor that has them.
    pub extents: Option<Vec<Extent>>,
}

impl Declared {
    fn new(info: &ValueInfoProto) -> Self {
        let extents = match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => tensor.shape.as_ref().map(|shape| {
                let extent = |(axis, dim): (usize, &_)| extent(dim, &info.name, axis);
                shape.dim.iter().enumerate().map(extent).collect()
            }),
            _ => None,
        };
        Declared { name: info.name.clone(), ty: info.r#type.as_ref().and_then(value_type), extents }
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.ty, &self.extents) {
            (None, _) => f.write_str("of an undeclared type"),
            (Some(ValueType::Tensor { element, .. }), Some(extents)) => {
                let extents: Vec<String> = extents.iter().map(Extent::to_string).collect();
                write!(f, "{element}[{}]", extents.join(","))
            }
            (Some(ty), _) => ty.fmt(f),
        }
    }
}

fn extent(dim: &Dimension, name: &str, axis: usize) -> Extent {
    match &dim.value {
        Some(dimension::Value::DimValue(extent)) if *extent >= 0 => Extent::Known(*extent as usize),
        Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => Extent::Symbol(symbol.clone()),
        _ => Extent::Symbol(format!("{name}[{axis}]")),
    }
}

fn element_type(code: i32) -> Option<ElementType> {
    match code {
        STRING => Some(ElementType::String),
        code => DataType::from_onnx(code).map(ElementType::Number),
    }
}

fn value_type(ty: &TypeProto) -> Option<ValueType> {
    let inner = |ty: &Option<Box<TypeProto>>| Some(Box::new(value_type(ty.as_deref()?)?));
    Some(match ty.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => {
            let known = |dim: &Dimension| match extent(dim, "", 0) {
                Extent::Known(extent) => Some(extent),
                Extent::Symbol(_) => None,
            };
            let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(known).collect());
            ValueType::Tensor { element: element_type(tensor.elem_type)?, shape }
        }
        type_proto::Value::SequenceType(sequence) => ValueType::Sequence(inner(&sequence.elem_type)?),
        type_proto::Value::OptionalType(optional) => ValueType::Optional(inner(&optional.elem_type)?),
        type_proto::Value::MapType(map) => {
            ValueType::Map { key: element_type(map.key_type)?, value: inner(&map.value_type)? }
        }
        type_proto::Value::SparseTensorType(_) | type_proto::Value::OpaqueType(_) => return None,
    })
}

/// A model file, not yet compiled.
pub struct File {
    /// Its name, as messages give it.
    pub name: String,
    /// What it holds.
    pub proto: ModelProto,
    /// The inputs, those with initializers left out.
    pub inputs: Vec<Declared>,
    /// The outputs.
    pub outputs: Vec<Declared>,
}

impl File {
    /// Reads the file at `path`, but for data in other files: the compiler reads that.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let proto = match fs::read(path) {
            Ok(bytes) => onnx::decode(&name, bytes.into())?,
            // It says what is wrong with the file.
            Err(_) => onnx::read(path)?.proto,
        };
        let graph: &GraphProto = proto.graph.as_ref().context("the file holds no graph")?;
        let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
        let initialized: HashSet<&str> =
            graph.initializer.iter().chain(sparse).map(|tensor| tensor.name.as_str()).collect();
        let inputs = graph.input.iter().filter(|input| !initialized.contains(input.name.as_str()));
        Ok(File {
            name,
            inputs: inputs.map(Declared::new).collect(),
            outputs: graph.output.iter().map(Declared::new).collect(),
            proto,
        })
    }
}

/// A compiled model, opened on the backend, or where none is named on a GPU if there is one.
pub fn open(
    compiled: &Compiled,
    threads: Option<usize>,
    backend: Option<Backend>,
) -> anyhow::Result<Session> {
    let mut engine = EngineOptions::default();
    engine.threads = threads;
    engine.backend = backend;
    let mut plans = Plans::default();
    if !compiled.plan.is_empty() {
        plans.cpu = Some((AlignedBytes::copy_of(&compiled.plan)?.into(), &[]));
    }
    #[cfg(feature = "cuda")]
    if let Some(plan) = &compiled.cuda_plan {
        plans.cuda = Some(infer_core::runtime::CudaPlan {
            plan: AlignedBytes::copy_of(plan)?.into(),
            modules: infer_kernels::cuda::MODULES,
            kernels: &[],
        });
    }
    Ok(Session::open_any(plans, engine)?)
}

/// How many nodes run on a GPU, and how many on the processor beside it; where the others run only the run knows.
pub fn placed(parts: &[Placed]) -> (u64, u64) {
    let count = |place: Place| parts.iter().filter(|part| part.place == place).map(|part| part.count).sum();
    (count(Place::Gpu), count(Place::Processor))
}

/// A plan, opened.
pub fn open_plan(plan: &[u8], threads: Option<usize>) -> anyhow::Result<Session> {
    let mut engine = EngineOptions::default();
    engine.threads = threads;
    Ok(Session::open(AlignedBytes::copy_of(plan)?, engine)?)
}

/// Compiles a model; where that is `strict`, notes are errors.
pub fn compiled(options: &Options, strict: bool) -> anyhow::Result<Compiled> {
    let compiled = progress::while_working("compiling", || compile(options));
    let compiled = compiled.map_err(|errors| anyhow!(messages(&errors)))?;
    if strict && !compiled.summary.notes.is_empty() {
        bail!("the model has notes, and --strict is given:\n- {}", compiled.summary.notes.join("\n- "));
    }
    Ok(compiled)
}

/// What is wrong, as one writes it for the command line.
pub fn messages(diagnostics: &[Diagnostic]) -> String {
    let messages: Vec<String> =
        diagnostics.iter().map(|diagnostic| for_command_line(&diagnostic.message)).collect();
    messages.join("\n")
}

/// The attribute's `dims(…)` in a message as `--dims`.
fn for_command_line(message: &str) -> String {
    const HELP: &str = "       help: dims(";
    let line = |line: &str| match line.strip_prefix(HELP).and_then(|rest| rest.strip_suffix(')')) {
        Some(dims) => {
            let dims = dims.replace(" = ", "=").replace(", ", ",");
            let plain = !dims.contains(|c: char| c.is_whitespace() || "\"'[]*?$&|;<>()".contains(c));
            if plain {
                format!("       help: --dims {dims}")
            } else {
                format!("       help: --dims '{dims}'")
            }
        }
        None => line.to_owned(),
    };
    message.lines().map(line).collect::<Vec<_>>().join("\n")
}
