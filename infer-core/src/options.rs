//! What the user asks for beside the model.

use std::path::PathBuf;

/// How weights are stored and arithmetic is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// Everything in f32.
    #[default]
    Fp32,
    /// On GPUs products of f32 on matrix units, which read ten bits of each mantissa; elsewhere as `Fp32`.
    Tf32,
    /// Weights stored as f16 and widened on load; arithmetic in f32 on processors, of f16 with sums in f32 on GPUs.
    Fp16,
    /// On GPUs weights and arithmetic of bf16 with sums in f32; elsewhere as `Fp32`.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 4] = [Precision::Fp32, Precision::Tf32, Precision::Fp16, Precision::Bf16];

    /// The name the attribute takes.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
        }
    }

    /// The precision of that name.
    pub fn from_name(name: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|precision| precision.name() == name)
    }
}

/// Which backends a model is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backends {
    /// The processor alone.
    #[default]
    Cpu,
    /// NVIDIA GPUs: what has no kernel there runs on the processor, and is a note. A model of which nothing runs on
    /// GPUs is an error.
    Cuda,
    /// The processor alone, and NVIDIA GPUs with the processor's help.
    Auto,
}

impl Backends {
    /// Every choice.
    pub const ALL: [Backends; 3] = [Backends::Cpu, Backends::Cuda, Backends::Auto];

    /// The name the attribute takes.
    pub fn name(self) -> &'static str {
        match self {
            Backends::Cpu => "cpu",
            Backends::Cuda => "cuda",
            Backends::Auto => "auto",
        }
    }

    /// The choice of that name.
    pub fn from_name(name: &str) -> Option<Backends> {
        Backends::ALL.into_iter().find(|backends| backends.name() == name)
    }

    /// What a build compiles for where nobody says: all that its features have.
    pub const BUILT: Backends = if cfg!(feature = "cuda") { Backends::Auto } else { Backends::Cpu };
}

/// What to compile, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// The model file.
    pub model: PathBuf,
    /// How weights are stored.
    pub precision: Precision,
    /// Symbolic dimensions and their extents; an axis without a name is called `input[axis]`.
    pub dims: Vec<(String, u64)>,
    /// The file that says how layers are to be computed.
    pub tactics: Option<PathBuf>,
    /// Whether Winograd's algorithm is used for the convolutions that it makes faster, and Strassen's for such products.
    pub winograd: bool,
    /// What to compile for.
    pub backends: Backends,
    /// Where not all of a model has kernels on GPUs, the most work, in floating-point operations and elements read and
    /// written, of a part of it that is not worth asking a GPU for, and runs on the processor with the rest. For each
    /// 512 bytes that such a part copies it must do as much again: with 0 all that has kernels runs on the GPU, as it does in
    /// a model for GPUs alone of which otherwise nothing would run there. So it is with each node of which only the run
    /// knows the shapes or values.
    pub least_gpu_work: u64,
}

/// [`Options::least_gpu_work`] where nobody says: what a processor does in about the time that copying to a GPU and back,
/// and waiting for it, take.
pub const LEAST_GPU_WORK: u64 = 1 << 16;

impl Options {
    /// The model at `model` with the defaults.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Options {
            model: model.into(),
            precision: Precision::default(),
            dims: Vec::new(),
            tactics: None,
            winograd: true,
            backends: Backends::default(),
            least_gpu_work: LEAST_GPU_WORK,
        }
    }
}
