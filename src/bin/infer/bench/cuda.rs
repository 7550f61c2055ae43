//! `infer bench --backend cuda`: trtexec's quantities by the GPU's clock.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;
use std::{fs, iter};

use anyhow::{Context, bail};
use infer_core::compile::{Compiled, Place};
use infer_core::options::Options;
use infer_core::plan::AlignedBytes;
use infer_core::runtime::cuda::{CudaContext, CudaEngine, CudaOptions, CudaQuery, probe};
use infer_core::runtime::{Output, PlanBytes};
use infer_core::value::{Value, ValuePort};
use infer_kernels::cuda::MODULES;
use serde_json::json;

use super::LEAST_QUERIES;
use super::statistics::Statistics;
use crate::arguments::{Backend, BenchArguments};
use crate::inspect::bytes;
use crate::model::File;
use crate::random::Random;
use crate::{Verdict, dims};

/// More variation, in per cent, and the numbers are not to be trusted.
const MOST_VARIATION: f64 = 2.5;

/// How often each call is launched in a row for `--layers`.
const LAUNCHES: usize = 20;

/// A compiled model, all of which runs on a GPU.
pub struct Model {
    /// Its file.
    pub file: File,
    /// How it was compiled.
    pub options: Options,
    /// Its inputs, where they were given.
    pub inputs: Option<Vec<Value>>,
    /// What it is.
    pub compiled: Compiled,
    /// How long compiling took.
    pub compile_seconds: f64,
}

/// Whether a model runs on a GPU as a whole, so that its clock can measure it.
pub fn is_whole(compiled: &Compiled, backend: Backend) -> bool {
    let summary = &compiled.summary;
    let is_one =
        summary.run_time_nodes == 0 && summary.cuda_parts.iter().all(|part| part.place == Place::Gpu);
    let is_there = match backend {
        Backend::Cpu => false,
        Backend::Cuda => true,
        Backend::Auto => probe().is_ok(),
    };
    compiled.cuda_plan.is_some() && is_one && is_there
}

/// Measures a model.
pub fn bench(arguments: &BenchArguments, model: Model) -> anyhow::Result<Verdict> {
    let Model { file, options, inputs, compiled, compile_seconds } = model;
    let Some(plan) = compiled.cuda_plan else { bail!("the model has no plan for GPUs") };
    let plan = AlignedBytes::copy_of(&plan)?;
    let lender = match compiled.plan.as_slice() {
        [] => None,
        lender => Some(PlanBytes::from(AlignedBytes::copy_of(lender)?)),
    };
    let start = Instant::now();
    let engine = CudaEngine::open_borrowing(plan, lender.as_ref(), MODULES, CudaOptions::default())?;
    let load_seconds = start.elapsed().as_secs_f64();
    let inputs = match inputs {
        Some(inputs) => inputs,
        None => {
            let mut random = Random::new(arguments.seed);
            let ports = engine.info().inputs.iter().cloned().map(ValuePort::from);
            ports.map(|port| random.value(&port.ty)).collect::<Result<_, _>>()?
        }
    };
    let mut context = engine.context();
    let start = Instant::now();
    run(&engine, &mut context, &inputs)?;
    let first_seconds = start.elapsed().as_secs_f64();

    let start = Instant::now();
    while start.elapsed() < arguments.warmup {
        context.time_query()?;
    }
    let mut queries: Vec<CudaQuery> = Vec::new();
    let start = Instant::now();
    while start.elapsed() < arguments.duration || queries.len() < LEAST_QUERIES {
        queries.push(context.time_query()?);
    }
    let wall_seconds = start.elapsed().as_secs_f64();
    let of = |part: fn(&CudaQuery) -> f64| Statistics::of(queries.iter().map(part).collect());
    let latency = of(|query| query.upload + query.compute + query.download);
    let (compute, enqueue) = (of(|query| query.compute), of(|query| query.enqueue));
    let (upload, download) = (of(|query| query.upload), of(|query| query.download));

    let mut warnings = Vec::new();
    if enqueue.median() > 0.8 * compute.median() {
        warnings
            .push("queueing an inference takes most of its time: the host is what is measured".to_owned());
    }
    if upload.median() >= compute.median() || download.median() >= compute.median() {
        warnings.push("copying takes as long as computing".to_owned());
    }
    if compute.variation > MOST_VARIATION {
        warnings.push(format!("the computing time varies by {:.1} %", compute.variation));
    }

    let info = engine.info();
    let layers = if arguments.layers { context.time_steps(LAUNCHES)? } else { Vec::new() };
    let (major, minor) = info.architecture;
    let device =
        format!("{} (architecture {major}.{minor}, {} multiprocessors)", info.device, info.multiprocessors);
    let throughput = queries.len() as f64 / wall_seconds;

    let mut text = String::new();
    for ((kernel, node), time) in info.steps.iter().zip(&layers) {
        writeln!(text, "{:>9.2} µs  {kernel:<32} {node}", time * 1e3)?;
    }
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(text, "{name:<12}{what}");
    };
    line("model", &file.name);
    if !options.dims.is_empty() {
        line("dims", &dims::display(&options.dims));
    }
    line("runs on", &format!("{device}, {}, {} launches", options.precision.name(), info.launches));
    line("compiling", &format!("{compile_seconds:.3} s"));
    line("loading", &format!("{:.3} ms", load_seconds * 1e3));
    line("first", &format!("{:.3} ms", first_seconds * 1e3));
    line("latency", &latency.to_text());
    line("compute", &compute.to_text());
    line("upload", &upload.to_text());
    line("download", &download.to_text());
    line("enqueue", &enqueue.to_text());
    line("throughput", &format!("{throughput:.3} queries/s: {} in {wall_seconds:.3} s", queries.len()));
    line(
        "memory",
        &format!("weights {}, arena {}", bytes(info.weight_bytes as u64), bytes(info.arena_bytes as u64)),
    );
    for warning in &warnings {
        line("warning", warning);
    }

    let rows = info.steps.iter().zip(&layers);
    let rows = rows.map(|((kernel, node), time)| json!({ "kernel": kernel, "node": node, "ms": time }));
    let json = json!({
        "model": file.name,
        "sha256": compiled.summary.model_sha256,
        "dims": options.dims.iter().map(|(name, size)| (name.clone(), json!(size))).collect::<serde_json::Map<_, _>>(),
        "precision": options.precision.name(),
        "backend": "cuda",
        "device": device,
        "latency_ms": latency.to_json(),
        "compute_ms": compute.to_json(),
        "upload_ms": upload.to_json(),
        "download_ms": download.to_json(),
        "enqueue_ms": enqueue.to_json(),
        "throughput_qps": throughput,
        "queries": queries.len(),
        "walltime_s": wall_seconds,
        "compile_ms": compile_seconds * 1e3,
        "load_ms": load_seconds * 1e3,
        "first_ms": first_seconds * 1e3,
        "weight_bytes": info.weight_bytes,
        "arena_bytes": info.arena_bytes,
        "warnings": warnings,
        "layers": rows.collect::<Vec<_>>(),
    });
    match &arguments.json {
        Some(path) if path == Path::new("-") => {
            writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&json)?)?
        }
        Some(path) => {
            let json = serde_json::to_string_pretty(&json)? + "\n";
            fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
            write!(io::stdout(), "{text}")?;
        }
        None => write!(io::stdout(), "{text}")?,
    }
    Ok(Verdict::Good)
}

/// Runs once, which puts the inputs on the GPU.
fn run(engine: &CudaEngine, context: &mut CudaContext<'_>, inputs: &[Value]) -> anyhow::Result<()> {
    let tensors: Vec<&[u8]> =
        inputs.iter().filter_map(Value::as_tensor).map(|tensor| &tensor.data()[..]).collect();
    let ports = engine.info().outputs;
    let mut outputs: Vec<Vec<u8>> =
        ports.iter().map(|port| iter::repeat_n(0, port.ty.bytes()).collect()).collect();
    let mut slots: Vec<Output<'_>> =
        outputs.iter_mut().map(|bytes| Output::from(bytes.as_mut_slice())).collect();
    Ok(context.run(&tensors, &mut slots)?)
}
