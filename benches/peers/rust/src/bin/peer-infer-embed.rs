//! infer-embed: runs a plan, which `--compile MODEL PLAN` makes beforehand as the attribute does in an application.
//!
//! The plan is mapped into memory, as it is where it is a part of the program.

use std::fs::{self, File};

use infer_core::compile::compile;
use infer_core::onnx;
use infer_core::onnx::proto::{ValueInfoProto, dimension, type_proto};
use infer_core::options::Options;
use infer_core::plan::PlanView;
use infer_core::runtime::{Context, EngineOptions, Output, registered_kernels};
use infer_core::tensor_type::DataType;
use infer_core::value::{ElementType, ValuePort, ValueType};
use infer_core::{runtime, session};
use peers::{Caller, Data, Engine, Result, Task, Tensor};
use serde_json::{Value, json};

/// A plan that is known as a whole runs on an engine alone, as in an application; others need a session.
enum InferEmbed {
    Engine(runtime::Engine),
    Session(session::Session),
}

impl Engine for InferEmbed {
    fn version() -> Result<String> {
        Ok(format!("plan format {}", infer_core::plan::VERSION))
    }

    fn load(task: &Task) -> Result<Self> {
        let file = File::open(&task.model)?;
        // SAFETY: nobody changes the file while this program runs: run.py writes plans under other names first.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        let bytes: &'static [u8] = &**Box::leak(Box::new(map));
        let mut options = EngineOptions::default();
        options.threads = Some(task.threads);
        match PlanView::read(bytes) {
            Ok(view) => {
                let kernels = registered_kernels(&view)?;
                Ok(InferEmbed::Engine(runtime::Engine::open(bytes, &kernels, options)?))
            }
            Err(_) => Ok(InferEmbed::Session(session::Session::open(bytes, options)?)),
        }
    }

    fn memory(&self) -> Option<Value> {
        let InferEmbed::Engine(engine) = self else { return None };
        let info = engine.info();
        Some(json!({
            "weight_bytes": info.weight_bytes,
            "arena_bytes": info.arena_bytes,
            "prepared_bytes": info.prepared_bytes,
            "port_bytes": info.inputs.iter().chain(info.outputs).map(|port| port.ty.bytes()).sum::<usize>(),
        }))
    }

    fn caller<'e>(&'e self, inputs: &'e [Tensor]) -> Result<impl Caller + 'e> {
        let shapes: Vec<Vec<usize>> = match self {
            InferEmbed::Engine(engine) => {
                engine.info().outputs.iter().map(|port| port.ty.shape.clone()).collect()
            }
            InferEmbed::Session(session) => session.outputs().iter().map(shape).collect::<Result<_>>()?,
        };
        let outputs = shapes
            .into_iter()
            .map(|shape| Tensor { data: Data::F32(vec![0.0; shape.iter().product()]), shape })
            .collect();
        let context = match self {
            InferEmbed::Engine(engine) => Some(engine.context()),
            InferEmbed::Session(_) => None,
        };
        Ok(Call { net: self, context, inputs: inputs.iter().map(bytes).collect(), outputs })
    }
}

/// The shape of an output of f32s.
fn shape(port: &ValuePort) -> Result<Vec<usize>> {
    match &port.ty {
        ValueType::Tensor { element: ElementType::Number(DataType::F32), shape: Some(shape) } => shape
            .iter()
            .copied()
            .collect::<Option<_>>()
            .ok_or_else(|| "an output has an unknown extent".into()),
        _ => Err("an output is no array of f32".into()),
    }
}

fn bytes(tensor: &Tensor) -> &[u8] {
    let (data, size) = match &tensor.data {
        Data::F32(data) => (data.as_ptr().cast(), size_of_val(&**data)),
        Data::I64(data) => (data.as_ptr().cast(), size_of_val(&**data)),
    };
    // SAFETY: the bytes of the elements, borrowed as long as these are.
    unsafe { std::slice::from_raw_parts(data, size) }
}

struct Call<'e> {
    net: &'e InferEmbed,
    context: Option<Context<'e>>,
    inputs: Vec<&'e [u8]>,
    outputs: Vec<Tensor>,
}

impl Caller for Call<'_> {
    fn call(&mut self) -> Result<()> {
        let output = |tensor: &mut Tensor| -> &mut [u8] {
            let Data::F32(data) = &mut tensor.data else { return &mut [] };
            // SAFETY: the bytes of the elements, of which every pattern is an f32, borrowed as long as these are.
            unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), size_of_val(&**data)) }
        };
        let mut outputs: Vec<Output<'_>> =
            self.outputs.iter_mut().map(|tensor| Output::from(output(tensor))).collect();
        match (&mut self.context, self.net) {
            (Some(context), _) => context.run(&self.inputs, &mut outputs)?,
            (None, InferEmbed::Session(session)) => session.run_bytes(&self.inputs, &mut outputs)?,
            (None, InferEmbed::Engine(engine)) => engine.run(&self.inputs, &mut outputs)?,
        }
        Ok(())
    }

    fn outputs(&self) -> Result<Vec<Tensor>> {
        Ok(self.outputs.clone())
    }
}

/// Binds every extent that the file leaves open to 1.
fn open_extents(input: &ValueInfoProto) -> Vec<(String, u64)> {
    let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|ty| ty.value.as_ref())
    else {
        return Vec::new();
    };
    let axes = tensor.shape.iter().flat_map(|shape| &shape.dim).enumerate();
    axes.filter_map(|(axis, dim)| match &dim.value {
        Some(dimension::Value::DimValue(_)) => None,
        Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => Some((symbol.clone(), 1)),
        _ => Some((format!("{}[{axis}]", input.name), 1)),
    })
    .collect()
}

fn compile_to(model: &str, plan: &str) -> Result<()> {
    let file = onnx::read(model.as_ref()).map_err(|error| error.message)?;
    let graph = file.proto.graph.ok_or("the file holds no graph")?;
    let is_input = |input: &&ValueInfoProto| graph.initializer.iter().all(|tensor| tensor.name != input.name);
    let mut options = Options::new(model);
    options.dims = graph.input.iter().filter(is_input).flat_map(open_extents).collect();
    options.dims.sort();
    options.dims.dedup();
    let compiled = compile(&options)
        .map_err(|errors| errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("\n"))?;
    Ok(fs::write(plan, compiled.plan)?)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [first, model, plan] if first == "--compile" => compile_to(model, plan),
        _ => peers::run::<InferEmbed>(),
    }
}
