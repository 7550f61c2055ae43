//! What all engines' programs have in common: one model, one engine, measured on request.
//!
//! A program loads the model, runs it once, and then takes commands from its standard input, one a line, answering
//! each with a line of JSON:
//!
//! - `time SECONDS`: single inferences, one after another, for so long; answers with their latencies.
//! - `calls THREADS SECONDS`: so many threads that call the one model at once; answers with inferences a second.
//! - end of input: writes the last call's outputs, where it was told to, and ends. It answers with the most memory that
//!   the process held until then, without what writing takes.

mod npy;

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Any error: these programs report it and end.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// How long the machine and the engine's threads are warmed up before times are taken.
const WARM_UP: Duration = Duration::from_millis(100);

/// The fewest inferences that are timed.
const FEWEST: usize = 3;

/// A tensor as it goes in or comes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The extents, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Data,
}

/// The elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// f32
    F32(Vec<f32>),
    /// i64
    I64(Vec<i64>),
}

/// What a program is asked to do.
pub struct Task {
    /// The model, in the engine's own form.
    pub model: PathBuf,
    /// The inputs, in the model's order.
    pub inputs: Vec<Tensor>,
    /// How many threads take part in an inference.
    pub threads: usize,
}

/// An engine with a model loaded.
pub trait Engine: Sized + Sync {
    /// The engine's version.
    fn version() -> Result<String>;

    /// Loads the model, ready to run.
    fn load(task: &Task) -> Result<Self>;

    /// The memory that it knows to need, in bytes.
    fn memory(&self) -> Option<Value> {
        None
    }

    /// What one thread needs to run the model: inputs in the engine's form, memory for outputs.
    fn caller<'e>(&'e self, inputs: &'e [Tensor]) -> Result<impl Caller + 'e>;
}

/// One thread's way to run a model.
pub trait Caller {
    /// Runs the model once.
    fn call(&mut self) -> Result<()>;

    /// The outputs of the last call.
    fn outputs(&self) -> Result<Vec<Tensor>>;
}

const USAGE: &str = "MODEL --threads N [--input FILE.npy]… [--outputs FOLDER] [--once]";

/// The program: loads a model, runs it, and takes commands.
///
/// # Errors
///
/// If the arguments are wrong or the engine refuses the model.
pub fn run<E: Engine>() -> Result<()> {
    let begin = Instant::now();
    let (mut model, mut inputs, mut outputs, mut threads, mut once) = (None, Vec::new(), None, 1, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match argument.as_str() {
            "--threads" => threads = value()?.parse()?,
            "--input" => inputs.push(npy::read(Path::new(&value()?))?),
            "--outputs" => outputs = Some(PathBuf::from(value()?)),
            "--once" => once = true,
            _ if model.is_none() && !argument.starts_with('-') => model = Some(PathBuf::from(argument)),
            _ => return Err(USAGE.into()),
        }
    }
    let task = Task { model: model.ok_or(USAGE)?, inputs, threads };
    let read = begin.elapsed();

    let begin = Instant::now();
    let engine = E::load(&task)?;
    let load = begin.elapsed();
    let mut caller = engine.caller(&task.inputs)?;
    let begin = Instant::now();
    caller.call()?;
    let first = begin.elapsed();
    answer(json!({
        "version": E::version()?,
        "memory": engine.memory(),
        "read_ms": milliseconds(read),
        "load_ms": milliseconds(load),
        "first_ms": milliseconds(first),
    }))?;
    if once {
        return Ok(());
    }
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["time", seconds] => answer(latencies(&mut caller, span(seconds)?)?)?,
            ["calls", threads, seconds] => {
                answer(throughput(&engine, &task.inputs, threads.parse()?, span(seconds)?)?)?;
            }
            _ => return Err(format!("unknown command {line:?}").into()),
        }
    }
    let peak = peak_kib();
    if let Some(folder) = outputs {
        std::fs::create_dir_all(&folder)?;
        for (index, output) in caller.outputs()?.iter().enumerate() {
            npy::write(&folder.join(format!("output_{index}.npy")), output)?;
        }
    }
    answer(json!({ "peak_kib": peak }))
}

fn answer(value: Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn span(seconds: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(seconds.parse()?)?)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The latencies of single inferences.
fn latencies(caller: &mut impl Caller, span: Duration) -> Result<Value> {
    let begin = Instant::now();
    while begin.elapsed() < WARM_UP {
        caller.call()?;
    }
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < span || times.len() < FEWEST {
        let start = Instant::now();
        caller.call()?;
        times.push(milliseconds(start.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
    Ok(json!({ "count": times.len(), "median_ms": at(0.5), "least_ms": times[0], "p90_ms": at(0.9) }))
}

/// Inferences a second with `threads` callers at once.
fn throughput<E: Engine>(engine: &E, inputs: &[Tensor], threads: usize, span: Duration) -> Result<Value> {
    let barrier = Barrier::new(threads);
    let work = || -> Result<(usize, Duration)> {
        let warm = || {
            let mut caller = engine.caller(inputs)?;
            let begin = Instant::now();
            while begin.elapsed() < WARM_UP {
                caller.call()?;
            }
            Ok(caller)
        };
        let caller: Result<_> = warm();
        // Before anything is returned: the others wait for this thread.
        barrier.wait();
        let mut caller = caller?;
        let begin = Instant::now();
        let mut count = 0;
        while begin.elapsed() < span {
            caller.call()?;
            count += 1;
        }
        Ok((count, begin.elapsed()))
    };
    let counts: Vec<Result<(usize, Duration)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a calling thread panicked".into())))
            .collect()
    });
    let mut rate = 0.0;
    for result in counts {
        let (count, time) = result?;
        rate += count as f64 / time.as_secs_f64();
    }
    Ok(json!({ "calls_per_second": rate }))
}

/// The most memory that this process held, where the system says.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
