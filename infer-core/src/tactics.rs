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

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};

use crate::decisions::Candidate;
use crate::diagnostic::quote;
use crate::options::{Backends, Precision};

/// The version of the format.
const VERSION: &str = "1";

/// The word that a file begins with.
const MAGIC: &str = "infer-tactics";

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

/// Why a text is no tactics file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Malformed {}

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

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The first line that is not as it should be, and what was expected.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut origin = Origin::default();
        let mut tactics: Vec<Tactic> = Vec::new();
        let mut gpus: Vec<(Gpu, Vec<Tactic>)> = Vec::new();
        let mut layers = HashSet::new();
        let mut lines = text.lines().enumerate().map(|(index, text)| Line { number: index + 1, rest: text });
        let mut seen: Vec<&str> = Vec::new();
        let mut has_magic = false;
        for line in &mut lines {
            let mut line = line;
            let Some(word) = line.word_or_end()? else { continue };
            if !has_magic {
                if word != MAGIC {
                    return Err(line.wrong(format!("expected `{MAGIC} {VERSION}`, found {}", quote(word))));
                }
                let version = line.word("the version of the format")?;
                if version != VERSION {
                    let found = quote(version);
                    return Err(
                        line.wrong(format!("format {found}; this version of infer-embed reads {VERSION}"))
                    );
                }
                has_magic = true;
                line.end()?;
                continue;
            }
            if !matches!(word, "layer" | "gpu") {
                if seen.contains(&word) {
                    return Err(line.wrong(format!("{} is there twice", quote(word))));
                }
                seen.push(word);
            }
            match word {
                "model" => {
                    let hash = line.word("the SHA-256 of the model")?;
                    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                        return Err(line.wrong(format!(
                            "expected the SHA-256 of the model, 64 hexadecimal digits, found {}",
                            quote(hash)
                        )));
                    }
                    origin.model_sha256 = hash.to_ascii_lowercase();
                }
                "isa" => line.word("the instruction set")?.clone_into(&mut origin.isa),
                "threads" => {
                    let count = line.word("the number of threads")?;
                    let parsed = count.parse().ok().filter(|count| *count > 0);
                    origin.threads = parsed.ok_or_else(|| {
                        line.wrong(format!("expected the number of threads, found {}", quote(count)))
                    })?;
                }
                "layer" => {
                    let tactic = Tactic {
                        node: line.quoted("the layer's name in quotes")?,
                        question: line.word("what is chosen, such as convolution")?.to_owned(),
                        signature: line.quoted("what the layer computes in quotes")?,
                        candidate: line.word("the way to compute the layer")?.to_owned(),
                    };
                    let Tactic { node, question, signature, .. } = tactic.clone();
                    if !layers.insert((node, question, signature)) {
                        return Err(line.wrong(format!("layer {} is there twice", quote(&tactic.node))));
                    }
                    gpus.last_mut().map_or(&mut tactics, |(_, tactics)| tactics).push(tactic);
                }
                "gpu" => {
                    let gpu = line.gpu()?;
                    if gpus.iter().any(|(known, _)| *known == gpu) {
                        return Err(line.wrong(format!("{gpu} is there twice")));
                    }
                    gpus.push((gpu, Vec::new()));
                    layers.clear();
                }
                word => {
                    return Err(line.wrong(format!(
                        "expected `model`, `isa`, `threads`, `gpu` or `layer`, found {}",
                        quote(word)
                    )));
                }
            }
            line.end()?;
        }
        if !has_magic {
            let what = format!("expected `{MAGIC} {VERSION}`, found the end of the file");
            return Err(Malformed { line: text.lines().count().max(1), what });
        }
        let gpus = gpus.into_iter().map(|(gpu, tactics)| (gpu, Layers::new(tactics))).collect();
        Ok(Tactics { gpus, ..Tactics::new(origin, tactics) })
    }

    /// The file.
    pub fn to_text(&self) -> String {
        let mut text = "# The fastest way to compute each layer, measured by `infer tune`.\n".to_owned();
        let _ = writeln!(text, "{MAGIC} {VERSION}");
        let Origin { model_sha256, isa, threads } = &self.origin;
        if !model_sha256.is_empty() {
            let _ = writeln!(text, "model {model_sha256}");
        }
        if !isa.is_empty() {
            let _ = writeln!(text, "isa {isa}");
        }
        if *threads > 0 {
            let _ = writeln!(text, "threads {threads}");
        }
        self.layers.write_to(&mut text);
        for (gpu, layers) in &self.gpus {
            let Gpu { name, architecture: (major, minor), precision } = gpu;
            let _ = writeln!(text, "gpu {} {major}.{minor} {}", in_quotes(name), precision.name());
            layers.write_to(&mut text);
        }
        text
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
    #[cfg(feature = "cuda")]
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

    fn write_to(&self, text: &mut String) {
        for Tactic { node, question, signature, candidate } in &self.tactics {
            let (node, signature) = (in_quotes(node), in_quotes(signature));
            let _ = writeln!(text, "layer {node} {question} {signature} {candidate}");
        }
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

/// A line that is being read.
struct Line<'a> {
    number: usize,
    rest: &'a str,
}

impl<'a> Line<'a> {
    fn wrong(&self, what: String) -> Malformed {
        Malformed { line: self.number, what }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('#') {
            self.rest = "";
        }
    }

    /// The next word, or `None` at the end of the line.
    fn word_or_end(&mut self) -> Result<Option<&'a str>, Malformed> {
        self.skip_space();
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.wrong(format!("expected a word, found {}", quote(self.rest))));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Some(word))
    }

    fn word(&mut self, what: &str) -> Result<&'a str, Malformed> {
        self.skip_space();
        if self.rest.starts_with('"') {
            return Err(self.wrong(format!("expected {what}, found {}", quote(self.rest))));
        }
        let found = self.word_or_end()?;
        found.ok_or_else(|| self.wrong(format!("expected {what}, found the end of the line")))
    }

    /// A GPU: its name in quotes, its architecture, and the precision.
    fn gpu(&mut self) -> Result<Gpu, Malformed> {
        let name = self.quoted("the GPU's name in quotes")?;
        let text = self.word("the GPU's architecture, such as 9.0")?;
        let parts =
            text.split_once('.').and_then(|(major, minor)| major.parse().ok().zip(minor.parse().ok()));
        let architecture = parts.ok_or_else(|| {
            self.wrong(format!("expected the GPU's architecture, such as 9.0, found {}", quote(text)))
        })?;
        let names = Precision::ALL.map(Precision::name).join(", ");
        let text = self.word(&format!("the precision, one of {names}"))?;
        let precision = Precision::from_name(text).ok_or_else(|| {
            self.wrong(format!("expected the precision, one of {names}, found {}", quote(text)))
        })?;
        Ok(Gpu { name, architecture, precision })
    }

    fn quoted(&mut self, what: &str) -> Result<String, Malformed> {
        self.skip_space();
        let found = if self.rest.is_empty() { "the end of the line".to_owned() } else { quote(self.rest) };
        let Some(inside) = self.rest.strip_prefix('"') else {
            return Err(self.wrong(format!("expected {what}, found {found}")));
        };
        let mut text = String::new();
        let mut characters = inside.char_indices();
        while let Some((position, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &inside[position + 1..];
                    return Ok(text);
                }
                '\\' => {
                    let escaped = unescape(&mut characters).ok_or_else(|| {
                        self.wrong(format!("expected an escape that Rust knows after `\\` in {found}"))
                    })?;
                    text.push(escaped);
                }
                other => text.push(other),
            }
        }
        Err(self.wrong(format!("expected a closing quote after {found}")))
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.wrong(format!("expected the end of the line, found {}", quote(self.rest))))
    }
}

/// The character that an escape stands for, its backslash read.
fn unescape(characters: &mut std::str::CharIndices<'_>) -> Option<char> {
    Some(match characters.next()?.1 {
        '"' => '"',
        '\\' => '\\',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            (characters.next()?.1 == '{').then_some(())?;
            let mut code: u32 = 0;
            for _ in 0..=6 {
                match characters.next()?.1 {
                    '}' => return char::from_u32(code),
                    digit => code = code * 16 + digit.to_digit(16)?,
                }
            }
            return None;
        }
        _ => return None,
    })
}

/// `text` as [`Line::quoted`] reads it.
fn in_quotes(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // What a text editor would not show, or take for the end of a line.
            _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
                let _ = write!(quoted, "\\u{{{:x}}}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAYS: [Candidate; 2] =
        [Candidate { name: "direct", cost: 1.0 }, Candidate { name: "fast", cost: 2.0 }];

    fn tactic(node: &str, signature: &str, candidate: &str) -> Tactic {
        Tactic {
            node: node.to_owned(),
            question: "sum".to_owned(),
            signature: signature.to_owned(),
            candidate: candidate.to_owned(),
        }
    }

    fn origin() -> Origin {
        Origin { model_sha256: "ab".repeat(32), isa: "avx2".to_owned(), threads: 2 }
    }

    fn notes(tactics: &Tactics, backends: Backends) -> Vec<String> {
        tactics.notes("m", "", Precision::Fp16, backends)
    }

    fn gpu(name: &str, precision: Precision) -> Gpu {
        Gpu { name: name.to_owned(), architecture: (9, 0), precision }
    }

    #[test]
    fn files_survive() {
        let layers = vec![tactic("größe \"1\"\n\u{1}\\", "3→4 @5x6", "fast"), tactic("", "", "direct")];
        let tactics = Tactics::new(origin(), layers.clone());
        let text = tactics.to_text();
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "infer-tactics 1",
                &format!("model {}", "ab".repeat(32)),
                "isa avx2",
                "threads 2",
                "layer \"größe \\\"1\\\"\\n\\u{1}\\\\\" sum \"3→4 @5x6\" fast",
                "layer \"\" sum \"\" direct",
            ]
        );
        let read = Tactics::parse(&text).unwrap();
        assert_eq!((read.origin(), read.tactics()), (&origin(), layers.as_slice()));
        let read = Tactics::parse("  # nothing\r\n\r\ninfer-tactics 1 # yet\r\n").unwrap();
        assert_eq!((read.origin(), read.tactics().len()), (&Origin::default(), 0));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let header = "infer-tactics 1\n";
        for (text, line, what) in [
            ("", 1, "expected `infer-tactics 1`, found the end of the file"),
            ("# only\n# words", 2, "expected `infer-tactics 1`, found the end of the file"),
            ("\ntactics", 2, "expected `infer-tactics 1`, found `tactics`"),
            ("infer-tactics", 1, "expected the version of the format, found the end of the line"),
            ("infer-tactics 2", 1, "format `2`; this version of infer-embed reads 1"),
            ("infer-tactics 1 2", 1, "expected the end of the line, found `2`"),
            ("?model abc", 2, "expected the SHA-256 of the model, 64 hexadecimal digits, found `abc`"),
            ("?threads 0", 2, "expected the number of threads, found `0`"),
            ("?threads x", 2, "expected the number of threads, found `x`"),
            ("?isa", 2, "expected the instruction set, found the end of the line"),
            ("?isa a\nisa b", 3, "`isa` is there twice"),
            ("?color red", 2, "expected `model`, `isa`, `threads`, `gpu` or `layer`, found `color`"),
            ("?gpu H200", 2, "expected the GPU's name in quotes, found `H200`"),
            ("?gpu \"H200\" 9", 2, "expected the GPU's architecture, such as 9.0, found `9`"),
            ("?gpu \"H200\" 9.x", 2, "expected the GPU's architecture, such as 9.0, found `9.x`"),
            (
                "?gpu \"H200\" 9.0",
                2,
                "expected the precision, one of fp32, tf32, fp16, found the end of the line",
            ),
            ("?gpu \"\" 9.0 int8", 2, "expected the precision, one of fp32, tf32, fp16, found `int8`"),
            ("?gpu \"a\" 9.0 fp16\ngpu \"a\" 9.0 fp16", 3, "a (9.0, fp16) is there twice"),
            ("?\"a\"", 2, "expected a word, found `\"a\"`"),
            ("?layer a", 2, "expected the layer's name in quotes, found `a`"),
            ("?layer", 2, "expected the layer's name in quotes, found the end of the line"),
            ("?layer \"a", 2, "expected a closing quote after `\"a`"),
            ("?layer \"a\\", 2, "expected an escape that Rust knows after `\\` in `\"a\\`"),
            ("?layer \"a\\q\"", 2, "expected an escape that Rust knows after `\\` in `\"a\\q\"`"),
            ("?layer \"\\u{d800}\"", 2, "expected an escape that Rust knows after `\\` in `\"\\u{d800}\"`"),
            ("?layer \"a\"", 2, "expected what is chosen, such as convolution, found the end of the line"),
            ("?layer \"a\" \"b\"", 2, "expected what is chosen, such as convolution, found `\"b\"`"),
            ("?layer \"a\" sum x", 2, "expected what the layer computes in quotes, found `x`"),
            ("?layer \"a\" sum \"x\"", 2, "expected the way to compute the layer, found the end of the line"),
            ("?layer \"a\" sum \"x\" y z", 2, "expected the end of the line, found `z`"),
            ("?layer \"a\" s \"x\" y\nlayer \"a\" s \"x\" z", 3, "layer `a` is there twice"),
        ] {
            let text = text.replacen('?', header, 1);
            let error = Tactics::parse(&text).unwrap_err();
            assert_eq!((error.line, error.what.as_str()), (line, what), "{text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_noted() {
        let layers = vec![
            tactic("fits", "4", "fast"),
            tactic("gone", "4", "fast"),
            tactic("grown", "4", "fast"),
            tactic("clever", "4", "magic"),
        ];
        let mut tactics = Tactics::new(origin(), layers);
        assert_eq!(tactics.fit("fits", "sum", "4", &WAYS), Fit::Candidate(1));
        assert_eq!(tactics.fit("grown", "sum", "5", &WAYS), Fit::Unknown);
        assert_eq!(tactics.fit("clever", "sum", "4", &WAYS), Fit::Unknown);
        assert_eq!(tactics.fit("new", "sum", "4", &WAYS), Fit::Unknown);
        assert_eq!(tactics.fit("gone", "product", "4", &WAYS), Fit::Unknown);
        assert_eq!(
            tactics.notes("m.tactics", &"cd".repeat(32), Precision::Fp32, Backends::Cpu),
            [
                "m.tactics was measured for another model (SHA-256 abababababab…, this one is cdcdcdcdcdcd…): only what \
                 fits is used; `infer tune` measures again",
                "m.tactics: the model has no layer `gone` with a choice of sum",
                "m.tactics: layer `grown` computes 5, not 4: its tactic is not used",
                "m.tactics: layer `clever` cannot be computed by `magic`, but by `direct`, `fast`",
            ]
        );
        let many = (0..25).map(|index| tactic(&index.to_string(), "", "fast")).collect();
        let notes = notes(&Tactics::new(Origin::default(), many), Backends::Cpu);
        assert_eq!((notes.len(), notes[20].as_str()), (21, "m: 5 more tactics do not fit the model"));
    }

    #[test]
    fn layers_of_one_name_are_told_apart() {
        let mut tactics =
            Tactics::new(Origin::default(), vec![tactic("a", "4", "direct"), tactic("a", "5", "fast")]);
        assert_eq!(tactics.fit("a", "sum", "5", &WAYS), Fit::Candidate(1));
        assert_eq!(tactics.fit("a", "sum", "4", &WAYS), Fit::Candidate(0));
        assert!(notes(&tactics, Backends::Cpu).is_empty());
    }

    #[test]
    fn gpus_have_sections_of_their_own() {
        let processors = Tactics::new(origin(), vec![tactic("a", "4", "fast")]);
        let tactics = processors
            .with_gpu(gpu("L4", Precision::Fp16), vec![tactic("a", "4", "slow")])
            .with_gpu(gpu("H200", Precision::Fp32), Vec::new())
            .with_gpu(gpu("H200", Precision::Fp16), vec![tactic("a", "4", "x")])
            .with_gpu(gpu("L4", Precision::Fp16), vec![tactic("a", "4", "direct")])
            .with_gpu(gpu("H200", Precision::Fp16), vec![tactic("a", "4", "fast"), tactic("b", "4", "x")]);
        let text = tactics.to_text();
        assert_eq!(
            text.lines().skip(5).collect::<Vec<_>>(),
            [
                "layer \"a\" sum \"4\" fast",
                "gpu \"H200\" 9.0 fp16",
                "layer \"a\" sum \"4\" fast",
                "layer \"b\" sum \"4\" x",
                "gpu \"L4\" 9.0 fp16",
                "layer \"a\" sum \"4\" direct",
                "gpu \"H200\" 9.0 fp32",
            ]
        );
        let read = Tactics::parse(&text).unwrap();
        assert_eq!(read.gpus().collect::<Vec<_>>(), tactics.gpus().collect::<Vec<_>>());
        assert_eq!((read.origin(), read.tactics()), (tactics.origin(), tactics.tactics()));
        assert_eq!(read.gpu(Precision::Fp16), Some(&gpu("H200", Precision::Fp16)));
        assert_eq!(read.gpu(Precision::Tf32), None);
        let kept = Tactics::new(Origin::default(), Vec::new()).with_gpus_of(&read);
        assert_eq!(kept.gpus().count(), 3);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn what_does_not_fit_gpus_is_noted() {
        let file = Tactics::new(Origin::default(), vec![tactic("only on the processor", "4", "fast")])
            .with_gpu(
                gpu("H200", Precision::Fp16),
                vec![tactic("fits", "4", "fast"), tactic("stale", "4", "fast"), tactic("gone", "4", "fast")],
            );
        let mut tactics = file.clone();
        let find = |name: &str| if name == "fast" { Ok(1) } else { Err("`fast`".to_owned()) };
        assert_eq!(tactics.fit_gpu(Precision::Fp16, ["fits", "sum", "4"], find), Some(1));
        assert_eq!(tactics.fit_gpu(Precision::Fp16, ["stale", "sum", "5"], find), None);
        assert_eq!(tactics.fit_gpu(Precision::Fp32, ["gone", "sum", "4"], find), None);
        assert_eq!(
            notes(&tactics, Backends::Cuda),
            [
                "m, H200 (9.0, fp16): layer `stale` computes 5, not 4: its tactic is not used",
                "m, H200 (9.0, fp16): the model has no layer `gone` with a choice of sum",
            ]
        );
        // The processor does not ask what GPUs do, nor the other way round.
        let processors = "m: the model has no layer `only on the processor` with a choice of sum";
        assert_eq!(notes(&file, Backends::Cpu), [processors]);
        assert_eq!(notes(&tactics, Backends::Auto)[0], processors);
        assert_eq!(notes(&tactics, Backends::Auto).len(), 3);
        assert_eq!(
            file.notes("m", "", Precision::Tf32, Backends::Cuda),
            ["m has tactics of H200 (9.0, fp16), none of a GPU in tf32: there an estimate decides"]
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(infer-tactics 1\n)?(layer |gpu |\"|\\\\|u\\{|[ -~→\n]){0,60}") {
            let _ = Tactics::parse(&text);
        }

        #[test]
        fn every_name_survives(node in any::<String>(), signature in any::<String>()) {
            let tactics = Tactics::new(Origin::default(), vec![tactic(&node, &signature, "x")]);
            let read = Tactics::parse(&tactics.to_text()).unwrap();
            prop_assert_eq!(read.tactics(), tactics.tactics());
        }
    }
}
