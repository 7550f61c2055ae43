//! Tactics files: which way of computing each layer was measured to be the fastest.
//!
//! ```text
//! # The fastest way to compute each layer, measured by `infer tune`.
//! infer-tactics 1
//! model 0ae5…9c                              SHA-256 of the model file
//! isa avx512
//! threads 1
//! layer "conv_1" convolution "64→64 3x3 @56x56" winograd4
//! gpu "NVIDIA H200" 9.0 fp16                 what follows was measured on such a GPU
//! layer "conv_1" convolution "64→64 3x3 @56x56" 64x64/2
//! ```
//!
//! A plan for GPUs has one way for each layer: it follows the first GPU that the file has in its precision.
//!
//! A line is a word with its values; names stand in quotes, in which `\"`, `\\`, `\n`, `\r`, `\t` and `\u{…}` stand for what
//! they do in Rust. `#` begins a comment. A layer is known by its node's name, what is chosen, and the signature of what
//! it computes, so that a file that is older than the model is noticed: what does not fit is not used, and noted.

#[cfg(test)]
mod tests;
mod text;

use std::collections::HashMap;
use std::fmt;

use crate::decisions::Candidate;
use crate::diagnostic::quote;
use crate::options::{Backends, Precision};

pub use text::Malformed;

/// The longest list of notes: more are counted.
const MOST_NOTES: usize = 20;

/// Where the processor's tactics were measured, and on which model all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// SHA-256 of the model, in hexadecimal; empty where the file does not say.
    pub model_sha256: String,
    /// The instruction set; empty where the file does not say.
    pub isa: String,
    /// The threads; 0 where the file does not say.
    pub threads: usize,
}

/// How one layer is to be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tactic {
    /// The name of the node.
    pub node: String,
    /// What is chosen: `convolution`.
    pub question: String,
    /// What the layer computes.
    pub signature: String,
    /// The name of the candidate.
    pub candidate: String,
}

/// A kind of GPU that tactics were measured on, in a precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name, as the driver says it.
    pub name: String,
    /// Its architecture: compute capability, major and minor.
    pub architecture: (u32, u32),
    /// What was computed in.
    pub precision: Precision,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gpu { name, architecture: (major, minor), precision } = self;
        write!(f, "{name} ({major}.{minor}, {})", precision.name())
    }
}

/// How layers are to be computed; by default nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Tactics {
    origin: Origin,
    /// The processor's.
    layers: Layers,
    /// Those of GPUs, in the order of the file, each once.
    gpus: Vec<(Gpu, Layers)>,
}

/// The tactics for one place to run.
#[derive(Clone, Debug, Default)]
struct Layers {
    tactics: Vec<Tactic>,
    /// The positions of a layer's tactics.
    by_layer: HashMap<(String, String), Vec<usize>>,
    /// What came of each: filled in while models are lowered.
    outcomes: Vec<Outcome>,
}

/// What came of a tactic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Outcome {
    /// No such layer was met.
    #[default]
    Unmet,
    /// It was followed.
    Followed,
    /// The layer has another signature.
    OtherSignature(String),
    /// The layer has no such candidate, but these.
    NoCandidate(String),
}

/// What tactics say about a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The candidate at this position.
    Candidate(usize),
    /// Nothing that fits.
    Unknown,
}

impl Tactics {
    /// These tactics of the processor; of several for the same layer the first counts.
    pub fn new(origin: Origin, tactics: Vec<Tactic>) -> Self {
        Tactics { origin, layers: Layers::new(tactics), gpus: Vec::new() }
    }

    /// With these tactics of a GPU before those of others, instead of what there was of the same.
    #[must_use]
    pub fn with_gpu(mut self, gpu: Gpu, tactics: Vec<Tactic>) -> Self {
        self.gpus.retain(|(known, _)| *known != gpu);
        self.gpus.insert(0, (gpu, Layers::new(tactics)));
        self
    }

    /// With the tactics that `other` has for GPUs, instead of its own.
    #[must_use]
    pub fn with_gpus_of(mut self, other: &Tactics) -> Self {
        self.gpus.clone_from(&other.gpus);
        self
    }

    /// Where they were measured.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The processor's tactics, in the order of the file.
    pub fn tactics(&self) -> &[Tactic] {
        &self.layers.tactics
    }

    /// The GPUs with their tactics, in the order of the file.
    pub fn gpus(&self) -> impl Iterator<Item = (&Gpu, &[Tactic])> {
        self.gpus.iter().map(|(gpu, layers)| (gpu, layers.tactics.as_slice()))
    }

    /// The GPU whose tactics plans of this precision follow.
    pub fn gpu(&self, precision: Precision) -> Option<&Gpu> {
        self.gpus().map(|(gpu, _)| gpu).find(|gpu| gpu.precision == precision)
    }

    /// What to do for the layer on the processor, which remembers that it was asked for.
    pub(crate) fn fit(
        &mut self,
        node: &str,
        question: &str,
        signature: &str,
        candidates: &[Candidate],
    ) -> Fit {
        let found = self.layers.fit(node, question, signature, |name| {
            candidates.iter().position(|candidate| candidate.name == name).ok_or_else(|| {
                let names: Vec<String> = candidates.iter().map(|known| quote(known.name)).collect();
                names.join(", ")
            })
        });
        found.map_or(Fit::Unknown, Fit::Candidate)
    }

    /// What to do for the layer on GPUs, which remembers that it was asked for: what `find` makes of the candidate's name. It
    /// fails with the names that it knows.
    #[cfg(all(feature = "compiler", feature = "cuda"))]
    pub(crate) fn fit_gpu<T>(
        &mut self,
        precision: Precision,
        [node, question, signature]: [&str; 3],
        find: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (_, layers) = self.gpus.iter_mut().find(|(gpu, _)| gpu.precision == precision)?;
        layers.fit(node, question, signature, find)
    }

    /// What of the tactics does not fit the model of this hash, once it is lowered; `file` is their name.
    pub fn notes(
        &self,
        file: &str,
        model_sha256: &str,
        precision: Precision,
        backends: Backends,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        let measured = &self.origin.model_sha256;
        if !measured.is_empty() && measured != model_sha256 {
            notes.push(format!(
                "{file} was measured for another model (SHA-256 {}…, this one is {}…): only what fits is used; `infer \
                 tune` measures again",
                measured.get(..12).unwrap_or(measured),
                model_sha256.get(..12).unwrap_or(model_sha256)
            ));
        }
        let mut unused = Vec::new();
        // Where the model is not compiled for the processor, it runs what GPUs do not: most of its layers are not met.
        let is_whole = backends != Backends::Cuda;
        unused.extend(self.layers.unused(is_whole).map(|what| format!("{file}: {what}")));
        if cfg!(feature = "cuda") && backends != Backends::Cpu && !self.gpus.is_empty() {
            match self.gpus.iter().find(|(gpu, _)| gpu.precision == precision) {
                Some((gpu, layers)) => {
                    unused.extend(layers.unused(true).map(|what| format!("{file}, {gpu}: {what}")));
                }
                None => {
                    let known: Vec<String> = self.gpus.iter().map(|(gpu, _)| gpu.to_string()).collect();
                    notes.push(format!(
                        "{file} has tactics of {}, none of a GPU in {}: there an estimate decides",
                        known.join(", "),
                        precision.name()
                    ));
                }
            }
        }
        let more = unused.len().saturating_sub(MOST_NOTES);
        unused.truncate(MOST_NOTES);
        notes.extend(unused);
        if more > 0 {
            notes.push(format!("{file}: {more} more tactics do not fit the model"));
        }
        notes
    }
}

impl Layers {
    fn new(tactics: Vec<Tactic>) -> Self {
        let mut by_layer: HashMap<(String, String), Vec<usize>> = HashMap::new();
        for (index, tactic) in tactics.iter().enumerate() {
            by_layer.entry((tactic.node.clone(), tactic.question.clone())).or_default().push(index);
        }
        let outcomes = vec![Outcome::default(); tactics.len()];
        Layers { tactics, by_layer, outcomes }
    }

    /// What `find` makes of the candidate for a layer, if one is named; it fails with the names that it knows.
    fn fit<T>(
        &mut self,
        node: &str,
        question: &str,
        signature: &str,
        find: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.tactics.is_empty() {
            return None;
        }
        let positions = self.by_layer.get(&(node.to_owned(), question.to_owned()));
        for &index in positions.into_iter().flatten() {
            let tactic = &self.tactics[index];
            if tactic.signature != signature {
                if self.outcomes[index] == Outcome::Unmet {
                    self.outcomes[index] = Outcome::OtherSignature(signature.to_owned());
                }
                continue;
            }
            let found = find(&tactic.candidate);
            self.outcomes[index] = match &found {
                Ok(_) => Outcome::Followed,
                Err(names) => Outcome::NoCandidate(names.clone()),
            };
            return found.ok();
        }
        None
    }

    /// What is said of each tactic that was not followed; whether those count whose layer was not met.
    fn unused(&self, with_unmet: bool) -> impl Iterator<Item = String> {
        self.tactics.iter().zip(&self.outcomes).filter_map(move |(tactic, outcome)| {
            let Tactic { node, question, signature, candidate } = tactic;
            let (node, candidate) = (quote(node), quote(candidate));
            Some(match outcome {
                Outcome::Followed => return None,
                Outcome::Unmet if !with_unmet => return None,
                Outcome::Unmet => format!("the model has no layer {node} with a choice of {question}"),
                Outcome::OtherSignature(found) => {
                    format!("layer {node} computes {found}, not {signature}: its tactic is not used")
                }
                Outcome::NoCandidate(names) => {
                    format!("layer {node} cannot be computed by {candidate}, but by {names}")
                }
            })
        })
    }
}
