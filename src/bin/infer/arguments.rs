//! The command line: subcommands, options, and their help.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Parser, Subcommand, ValueEnum};
use infer_core::options::{Backends, Options, Precision};
use infer_core::runtime;

use crate::compare::Tolerance;
use crate::dims::Dims;

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  the model is not supported, its data does not fit, or what it computes is not what it should be
  2  the command line is wrong";

/// Look at ONNX models, run them, and compare what they compute with what others computed.
#[derive(Debug, Parser)]
#[command(name = "infer", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what a model is: its interface, its operators, and what the compiler makes of it
    Inspect(InspectArguments),
    /// Run a model on data from files, or on random data
    Run(RunArguments),
    /// Measure how long an inference takes, and which layers take it
    Bench(BenchArguments),
    /// Measure the ways to compute each layer, and write down the fastest
    Tune(TuneArguments),
    /// Run a model on recorded inputs and compare its outputs with those recorded
    Check(CheckArguments),
    /// Run every case of a conformance suite, in processes that may crash
    Conformance(ConformanceArguments),
    /// Run the cases that standard input names: what `conformance` starts
    #[command(hide = true)]
    Cases(CasesArguments),
}

/// What all commands that compile a model take.
#[derive(Args, Clone, Debug)]
pub struct ModelArguments {
    /// The ONNX file
    pub model: PathBuf,
    /// Symbolic dimensions: NAME=SIZE, separated by commas; an axis without a name is called INPUT[AXIS]
    #[arg(long, value_name = "NAME=SIZE,…")]
    pub dims: Vec<Dims>,
}

/// How a model is compiled.
#[derive(Args, Clone, Debug)]
pub struct CompileArguments {
    /// How weights are stored: fp32 or fp16; tf32 and bf16 are fp32 but on GPUs
    #[arg(long, default_value = "fp32", value_parser = parse_precision)]
    pub precision: Precision,
    /// How each layer is computed: a file that `infer tune` wrote [default: by estimate]
    #[arg(long, value_name = "FILE")]
    pub tactics: Option<PathBuf>,
    /// Compute every convolution and product directly, none by Winograd's or Strassen's algorithm
    #[arg(long)]
    pub no_winograd: bool,
    /// Take notes for errors
    #[arg(long)]
    pub strict: bool,
}

impl CompileArguments {
    /// What the compiler is asked for, with these symbolic dimensions.
    pub fn options(&self, model: &Path, dims: Vec<(String, u64)>) -> Options {
        let mut options = Options::new(model);
        options.precision = self.precision;
        options.tactics.clone_from(&self.tactics);
        options.winograd = !self.no_winograd;
        options.dims = dims;
        options
    }
}

/// How a model runs.
#[derive(Args, Clone, Debug)]
pub struct EngineArguments {
    /// How it is compiled.
    #[command(flatten)]
    pub compile: CompileArguments,
    /// The most threads that take part [default: what INFER_THREADS says, or as many as there are processors]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// What to run on: cpu, cuda, or auto, which is a GPU where there is one
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub backend: Backend,
}

/// What to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The processor
    #[default]
    Cpu,
    /// An NVIDIA GPU, and the processor for what has no kernels there
    Cuda,
    /// An NVIDIA GPU where there is one that runs any of the model, else the processor
    Auto,
}

impl Backend {
    /// Refuses what this build cannot run on.
    pub fn check(self) -> anyhow::Result<()> {
        if self == Backend::Cuda && !cfg!(feature = "cuda") {
            bail!("this build of infer has no CUDA; --backend cpu is what it has");
        }
        Ok(())
    }

    /// What a model is compiled for.
    pub fn compiled_for(self) -> Backends {
        match self {
            Backend::Cpu => Backends::Cpu,
            Backend::Cuda => Backends::Cuda,
            Backend::Auto => Backends::BUILT,
        }
    }

    /// What a compiled model is opened on.
    pub fn opened_on(self) -> Option<runtime::Backend> {
        match self {
            Backend::Cpu => Some(runtime::Backend::Cpu),
            Backend::Cuda => Some(runtime::Backend::Cuda),
            Backend::Auto => None,
        }
    }
}

/// `infer inspect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  infer inspect model.onnx
  infer inspect bert.onnx --dims batch=1,seq=128
  infer inspect model.onnx --explain
  infer inspect model.onnx --json | jq .flops

Exit code 1 where the model is not supported: every node at fault is named.")]
pub struct InspectArguments {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// How it is compiled.
    #[command(flatten)]
    pub compile: CompileArguments,
    /// Say for each layer which kernels compute it, and why
    #[arg(long)]
    pub explain: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `infer run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  infer run model.onnx                              random inputs, a summary of the outputs
  infer run model.onnx --inputs data --outputs out  data/input_0.npy … to out/output_0.npy …
  infer run bert.onnx --dims batch=1,seq=128 --threads 2

Inputs are input_0.npy or input_0.pb and so on, in the order of the graph's inputs; dimensions that --dims does not \
give are taken from them. What npy cannot hold (strings, sequences, bfloat16 …) is read from and written to .pb.

Exit code 1 where the model is not supported or the inputs do not fit it.")]
pub struct RunArguments {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// The folder of input_<j>.npy or input_<j>.pb [default: random values]
    #[arg(long, value_name = "DIR")]
    pub inputs: Option<PathBuf>,
    /// The folder for output_<j>.npy or output_<j>.pb, made where it is not there
    #[arg(long, value_name = "DIR")]
    pub outputs: Option<PathBuf>,
    /// The seed of random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How it runs.
    #[command(flatten)]
    pub engine: EngineArguments,
}

/// `infer bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  infer bench model.onnx --threads 1
  infer bench model.onnx --layers
  infer bench bert.onnx --dims batch=1,seq=128 --json bert.json
  infer bench model.onnx --json - | jq .latency_ms.median

Latency is that of the inference alone, after the warm-up, one at a time; at least ten are measured. --layers then \
measures every kernel call for as long again, beside the multiply-adds that the processor reaches in the same moments.")]
pub struct BenchArguments {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// The folder of input_<j>.npy or input_<j>.pb [default: random values]
    #[arg(long, value_name = "DIR")]
    pub inputs: Option<PathBuf>,
    /// The seed of random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = parse_seconds)]
    pub duration: Duration,
    /// How long to run before that
    #[arg(long, value_name = "MILLISECONDS", default_value = "200", value_parser = parse_milliseconds)]
    pub warmup: Duration,
    /// Measure each layer too
    #[arg(long)]
    pub layers: bool,
    /// Write all numbers to FILE, or instead of the text where it is `-`
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How it runs.
    #[command(flatten)]
    pub engine: EngineArguments,
}

/// `infer tune`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  infer tune model.onnx                    writes model.tactics
  infer tune bert.onnx --dims batch=1,seq=128 --threads 4 -o server.tactics
  infer tune model.onnx --precision fp16 --backend cuda

The file is for `tactics = \"model.tactics\"` of the attribute and for --tactics of other commands: commit it beside the \
model. Without it an estimate decides. Builds never measure.")]
pub struct TuneArguments {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// The file to write [default: the model's name with the extension .tactics]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How weights are stored: fp32 or fp16; tf32 and bf16 are fp32 but on GPUs
    #[arg(long, default_value = "fp32", value_parser = parse_precision)]
    pub precision: Precision,
    /// The most threads that take part [default: what INFER_THREADS says, or as many as there are processors]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// The folder of input_<j>.npy or input_<j>.pb [default: random values]
    #[arg(long, value_name = "DIR")]
    pub inputs: Option<PathBuf>,
    /// What to measure on: cpu, cuda, or auto, which is a GPU where there is one. The file keeps what it has of the others
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub backend: Backend,
    /// How long to measure each way; on a GPU a sixtieth of it
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = parse_seconds)]
    pub duration: Duration,
}

/// `infer check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  infer check model.onnx --case test_data_set_0
  infer check model.onnx --case test_data_set_0 --rtol 1e-3 --atol 1e-5
  infer check model.onnx --case test_data_set_0 --precision fp16 --of-largest 1e-2

An element agrees where |ours - recorded| <= atol + rtol * |recorded|. Without --rtol and --atol, tolerance.json \
beside the model says how much is tolerated, or else rtol is 1e-3 and atol 1e-5; with --of-largest both are 0. Integers, flags and strings are equal; \
for integers of models with quantised operators the tolerance holds too.

Exit code 1 where an output does not agree.")]
pub struct CheckArguments {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// The folder of input_<j> and output_<j>, .npy or .pb
    #[arg(long, value_name = "DIR")]
    pub case: PathBuf,
    /// The relative difference that is tolerated
    #[arg(long, value_name = "R", value_parser = Tolerance::parse)]
    pub rtol: Option<f64>,
    /// The absolute difference that is tolerated
    #[arg(long, value_name = "A", value_parser = Tolerance::parse)]
    pub atol: Option<f64>,
    /// The difference that is tolerated in proportion to an output's largest element
    #[arg(long, value_name = "R", value_parser = Tolerance::parse)]
    pub of_largest: Option<f64>,
    /// How it runs.
    #[command(flatten)]
    pub engine: EngineArguments,
}

/// `infer conformance`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  infer conformance suite
  infer conformance suite --filter softmax --jobs 4
  infer conformance suite --expect tests/conformance.txt

The suite lies in DIR/<group>/<case>/model.onnx with tolerance.json and test_data_set_<i> beside. Cases run in \
processes of their own, each for 30 seconds at most; an error, a crash and a hang are that case's failure. A file for --expect \
has one `group/case reason` a line for each case that is known to fail. With --backend cuda each case runs on a GPU as \
far as there are kernels, however little work that is, and the end says how many did so as a whole.

Exit code 1 where a case fails, or, with --expect, where a case fails that is not listed or passes though it is.")]
pub struct ConformanceArguments {
    /// The folder of the suite
    pub dir: PathBuf,
    /// Only cases whose group/name holds this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// How many cases run at a time [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// The file of cases that are known to fail
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// What to run on: cpu, cuda, or auto, which is a GPU where there is one
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub backend: Backend,
}

/// `infer cases`.
#[derive(Args, Debug)]
pub struct CasesArguments {
    /// The most threads that take part
    #[arg(long)]
    pub threads: Option<usize>,
    /// What to run on
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    parse_time(text, 1.0)
}

fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    parse_time(text, 1e-3)
}

/// A time in units of so many seconds.
fn parse_time(text: &str, unit: f64) -> Result<Duration, String> {
    let number: Option<f64> = text.parse().ok();
    let time = number.and_then(|number| Duration::try_from_secs_f64(number * unit).ok());
    // More than a year is a mistake, and would overflow sums.
    time.filter(|time| time.as_secs() < 1 << 25).ok_or_else(|| "a number from 0 is wanted".to_owned())
}

fn parse_precision(text: &str) -> Result<Precision, String> {
    let names = Precision::ALL.map(Precision::name).join(" or ");
    Precision::from_name(text).ok_or_else(|| format!("there is {names}"))
}
