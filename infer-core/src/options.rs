//! What the user asks for beside the model.

use std::path::PathBuf;

/// How weights are stored and arithmetic is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// Everything in f32.
    #[default]
    Fp32,
    /// Weights stored as f16 and widened on load; arithmetic in f32.
    Fp16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 2] = [Precision::Fp32, Precision::Fp16];

    /// The name the attribute takes.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
        }
    }

    /// The precision of that name.
    pub fn from_name(name: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|precision| precision.name() == name)
    }
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
}

impl Options {
    /// The model at `model` with the defaults.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Options {
            model: model.into(),
            precision: Precision::default(),
            dims: Vec::new(),
            tactics: None,
            winograd: true,
        }
    }
}
