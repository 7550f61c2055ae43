//! Tactics as text.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use super::{Gpu, Layers, Origin, Tactic, Tactics};
use crate::diagnostic::quote;
use crate::options::Precision;

/// The version of the format.
const VERSION: &str = "1";

/// The word that a file begins with.
const MAGIC: &str = "infer-tactics";

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
}

impl Layers {
    fn write_to(&self, text: &mut String) {
        for Tactic { node, question, signature, candidate } in &self.tactics {
            let (node, signature) = (in_quotes(node), in_quotes(signature));
            let _ = writeln!(text, "layer {node} {question} {signature} {candidate}");
        }
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
