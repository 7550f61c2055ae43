//! `infer bench`: how long an inference takes, and which layers take it.
//!
//! The quantities are those of NVIDIA's trtexec by the same definitions; on the processor there is nothing to copy or to
//! queue, so that the latency is the inference itself; on GPUs see `cuda`.

#[cfg(feature = "cuda")]
mod cuda;
mod layers;
mod report;
mod statistics;
mod target;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use infer_core::onnx::proto::ModelProto;
use infer_core::session::Session;
use infer_core::value::Value;

use self::layers::Layers;
use self::report::Report;
use self::statistics::Statistics;
pub use self::target::Target;
use crate::arguments::BenchArguments;
use crate::model::File;
use crate::progress::Timer;
use crate::random::Random;
use crate::{Verdict, dims, files, model};

/// An inference is measured at least so often, however long it takes.
const LEAST_QUERIES: usize = 10;

/// Runs the command.
pub fn bench(arguments: &BenchArguments) -> anyhow::Result<Verdict> {
    arguments.engine.backend.check()?;
    let path = &arguments.model.model;
    let mut file = File::read(path)?;
    // The compiler reads it again; weights need not be there twice.
    file.proto = ModelProto::default();
    let given = dims::given(&arguments.model.dims);
    let (inputs, dims) = inputs(&file, arguments.inputs.as_deref(), given)?;

    let mut options = arguments.engine.compile.options(path, dims);
    options.backends = arguments.engine.backend.compiled_for();
    let start = Instant::now();
    let compiled = model::compiled(&options, arguments.engine.compile.strict)?;
    let compile_seconds = start.elapsed().as_secs_f64();
    #[cfg(feature = "cuda")]
    if cuda::is_whole(&compiled, arguments.engine.backend) {
        return cuda::bench(arguments, cuda::Model { file, options, inputs, compiled, compile_seconds });
    }

    forget_peak_memory();
    let start = Instant::now();
    let session = model::open(&compiled, arguments.engine.threads, arguments.engine.backend.opened_on())?;
    let load_seconds = start.elapsed().as_secs_f64();
    let inputs = match inputs {
        Some(inputs) => inputs,
        None => random_inputs(&session, arguments.seed)?,
    };

    let mut target = Target::new(&session, &inputs)?;
    let first = target.run()?;
    let measured = measure(&mut target, arguments.warmup, arguments.duration)?;
    let peak_memory_bytes = peak_memory();
    let layers = match arguments.layers {
        true => Some(Layers::measure(&session, &mut target, arguments.duration)?),
        false => None,
    };
    let report = Report {
        model: file.name,
        dims: options.dims,
        precision: options.precision,
        summary: compiled.summary,
        backend: session.backend(),
        isa: session.isa(),
        threads: session.threads(),
        compile_seconds,
        load_seconds,
        first_seconds: first.as_secs_f64(),
        wall_seconds: measured.wall.as_secs_f64(),
        latency: Statistics::of(measured.queries),
        prepared_bytes: session.engine().map_or(0, |engine| engine.info().prepared_bytes),
        peak_memory_bytes,
        layers,
    };

    match &arguments.json {
        Some(path) if path == Path::new("-") => {
            writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report.to_json())?)?;
        }
        Some(path) => {
            let json = serde_json::to_string_pretty(&report.to_json())? + "\n";
            fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
            write!(io::stdout(), "{}", report.to_text())?;
        }
        None => write!(io::stdout(), "{}", report.to_text())?,
    }
    Ok(Verdict::Good)
}

/// The inputs in `folder`, and the dimensions: what is not `given` is that of the inputs.
#[allow(clippy::type_complexity)]
pub fn inputs(
    file: &File,
    folder: Option<&Path>,
    given: Vec<(String, u64)>,
) -> anyhow::Result<(Option<Vec<Value>>, Vec<(String, u64)>)> {
    let Some(folder) = folder else { return Ok((None, given)) };
    let inputs = files::read(folder, "input", &file.inputs)?;
    files::expect_types(&file.inputs, &inputs, folder)?;
    let dims = dims::bind(&file.inputs, &inputs, &given)?;
    Ok((Some(inputs), dims))
}

/// Inputs where nobody gives any.
pub fn random_inputs(session: &Session, seed: u64) -> anyhow::Result<Vec<Value>> {
    let mut random = Random::new(seed);
    session.inputs().iter().map(|port| random.value(&port.ty)).collect()
}

/// What was measured.
struct Measured {
    /// How long each inference took, in seconds.
    queries: Vec<f64>,
    /// From the begin of the first to the end of the last.
    wall: Duration,
}

/// Runs for `warmup`, then measures for `duration`, and at least [`LEAST_QUERIES`] inferences.
fn measure(target: &mut Target<'_>, warmup: Duration, duration: Duration) -> anyhow::Result<Measured> {
    let start = Instant::now();
    while start.elapsed() < warmup {
        target.run()?;
    }
    let mut timer = Timer::new("measuring", duration);
    let mut queries = Vec::new();
    let start = Instant::now();
    loop {
        queries.push(target.run()?.as_secs_f64());
        let wall = start.elapsed();
        if wall >= duration && queries.len() >= LEAST_QUERIES {
            timer.finish();
            return Ok(Measured { queries, wall });
        }
        timer.show(wall);
    }
}

/// Lets the largest size of the process count from here on: what compiling took is no matter of inferences.
fn forget_peak_memory() {
    // Where the system has no such file, there is no such number either.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The largest size that the process has had in memory, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
