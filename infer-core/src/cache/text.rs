//! The text files of the cache: one `key value` a line, the last a checksum of the others.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::hex;
use crate::compile::{Place, Placed, Summary};
use crate::value::ValuePort;

/// The content of an `.entry` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The model's path, by which plans are counted.
    pub model: PathBuf,
    /// The size and the hash of the processor's plan.
    pub plan: (u64, String),
    /// Those of the plan for GPUs, where there is one.
    pub cuda_plan: Option<(u64, String)>,
    pub summary: Summary,
}

/// The content of a `.seen` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The entry's name.
    pub entry: String,
    pub sources: Vec<Source>,
}

/// How a file looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: SystemTime,
}

impl Source {
    pub fn look(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Source { path: path.to_owned(), bytes: metadata.len(), modified: metadata.modified()? })
    }

    pub fn is_unchanged(&self) -> bool {
        Source::look(&self.path).is_ok_and(|now| now == *self)
    }
}

impl Entry {
    /// The size and the hash of each plan.
    pub fn plans(&self) -> impl Iterator<Item = &(u64, String)> {
        [Some(&self.plan), self.cuda_plan.as_ref()].into_iter().flatten()
    }

    pub fn text(&self) -> String {
        let Entry { model, plan, cuda_plan, summary } = self;
        let mut lines = Lines::default();
        lines.push("model", model.display());
        lines.push("plan", format_args!("{} {}", plan.0, plan.1));
        if let Some(plan) = cuda_plan {
            lines.push("cuda_plan", format_args!("{} {}", plan.0, plan.1));
        }
        for (key, ports) in [("input", &summary.inputs), ("output", &summary.outputs)] {
            for ValuePort { name, ty } in ports {
                // A type that cannot be written makes an entry that cannot be read, which counts as absent.
                let ty = hex(&postcard::to_allocvec(ty).unwrap_or_default());
                lines.push(key, format_args!("{ty} {name}"));
            }
        }
        for kernel in &summary.kernels {
            lines.push("kernel", kernel);
        }
        lines.push("run_time_nodes", summary.run_time_nodes);
        for node in &summary.run_time_examples {
            lines.push("run_time_example", node);
        }
        lines.push("weight_bytes", summary.weight_bytes);
        lines.push("borrowed_weight_bytes", summary.borrowed_weight_bytes);
        lines.push("arena_bytes", summary.arena_bytes);
        lines.push("flops", summary.flops);
        lines.push("parameters", summary.parameters);
        lines.push("model_sha256", &summary.model_sha256);
        lines.push("opset", summary.opset);
        for module in &summary.cuda_modules {
            lines.push("cuda_module", module);
        }
        for kernel in &summary.cuda_kernels {
            lines.push("cuda_kernel", kernel);
        }
        for Placed { place, count, nodes } in &summary.cuda_parts {
            let place = PLACES.iter().find(|(known, _)| known == place).map_or("", |(_, name)| name);
            lines.push("cuda_part", [&[format!("{place} {count}")], nodes.as_slice()].concat().join("\n"));
        }
        for note in &summary.notes {
            lines.push("note", note);
        }
        lines.finish()
    }

    /// `None` for a damaged text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = checked_lines(text)?;
        let model = PathBuf::from(lines.one("model")?);
        let plan = parse_plan(&lines.one("plan")?)?;
        let cuda_plan = match lines.one("cuda_plan") {
            Some(text) => Some(parse_plan(&text)?),
            None => None,
        };
        let summary = Summary {
            inputs: lines.all("input").iter().map(|port| parse_port(port)).collect::<Option<_>>()?,
            outputs: lines.all("output").iter().map(|port| parse_port(port)).collect::<Option<_>>()?,
            kernels: lines.all("kernel"),
            run_time_nodes: lines.one("run_time_nodes")?.parse().ok()?,
            run_time_examples: lines.all("run_time_example"),
            weight_bytes: lines.one("weight_bytes")?.parse().ok()?,
            borrowed_weight_bytes: lines.one("borrowed_weight_bytes")?.parse().ok()?,
            arena_bytes: lines.one("arena_bytes")?.parse().ok()?,
            flops: lines.one("flops")?.parse().ok()?,
            parameters: lines.one("parameters")?.parse().ok()?,
            model_sha256: lines.one("model_sha256")?,
            opset: lines.one("opset")?.parse().ok()?,
            cuda_modules: lines.all("cuda_module"),
            cuda_kernels: lines.all("cuda_kernel"),
            cuda_parts: lines.all("cuda_part").iter().map(|part| parse_part(part)).collect::<Option<_>>()?,
            notes: lines.all("note"),
        };
        lines.0.is_empty().then_some(Entry { model, plan, cuda_plan, summary })
    }
}

fn parse_plan(text: &str) -> Option<(u64, String)> {
    let (bytes, sha256) = text.split_once(' ')?;
    Some((bytes.parse().ok()?, sha256.to_owned()))
}

const PLACES: [(Place, &str); 3] =
    [(Place::Gpu, "gpu"), (Place::Processor, "cpu"), (Place::AtRunTime, "run")];

fn parse_part(text: &str) -> Option<Placed> {
    let mut lines = text.split('\n');
    let (place, count) = lines.next()?.split_once(' ')?;
    Some(Placed {
        place: PLACES.iter().find(|(_, name)| *name == place)?.0,
        count: count.parse().ok()?,
        nodes: lines.map(str::to_owned).collect(),
    })
}

fn parse_port(text: &str) -> Option<ValuePort> {
    let (ty, name) = text.split_once(' ')?;
    let digits = (0..ty.len() / 2).map(|index| ty.get(2 * index..2 * index + 2));
    let bytes = digits.map(|digits| u8::from_str_radix(digits?, 16).ok()).collect::<Option<Vec<u8>>>()?;
    Some(ValuePort { name: name.to_owned(), ty: postcard::from_bytes(&bytes).ok()? })
}

impl Seen {
    pub fn paths(&self) -> Vec<PathBuf> {
        self.sources.iter().map(|source| source.path.clone()).collect()
    }

    pub fn text(&self) -> String {
        let mut lines = Lines::default();
        lines.push("entry", &self.entry);
        for Source { path, bytes, modified } in &self.sources {
            lines.push("source", format_args!("{bytes} {} {}", nanoseconds(*modified), path.display()));
        }
        lines.finish()
    }

    /// `None` for a damaged text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = checked_lines(text)?;
        let entry = lines.one("entry")?;
        let sources = lines.all("source").iter().map(|source| parse_source(source)).collect::<Option<_>>()?;
        lines.0.is_empty().then_some(Seen { entry, sources })
    }
}

fn parse_source(text: &str) -> Option<Source> {
    let mut parts = text.splitn(3, ' ');
    let bytes = parts.next()?.parse().ok()?;
    let modified = time(parts.next()?)?;
    Some(Source { bytes, modified, path: PathBuf::from(parts.next()?) })
}

/// Since 1970; earlier times, which no file of a build has, count as 0.
fn nanoseconds(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn time(text: &str) -> Option<SystemTime> {
    let nanoseconds: u128 = text.parse().ok()?;
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, (nanoseconds % 1_000_000_000) as u32))
}

/// Lines being written.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn push(&mut self, key: &str, value: impl std::fmt::Display) {
        let value = value.to_string().replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{key} {value}");
    }

    fn finish(mut self) -> String {
        let checksum = hex(&Sha256::digest(&self.0));
        self.push("sha256", checksum);
        self.0
    }
}

/// Lines being read, first to last.
struct Read(std::collections::VecDeque<(String, String)>);

/// The lines but for the checksum, if it is right.
fn checked_lines(text: &str) -> Option<Read> {
    let end = text.rfind("sha256 ").filter(|&end| end == 0 || text[..end].ends_with('\n'))?;
    let (content, checksum) = text.split_at(end);
    if checksum != format!("sha256 {}\n", hex(&Sha256::digest(content))) {
        return None;
    }
    let line = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), unescape(value)))
    };
    Some(Read(content.lines().map(line).collect::<Option<_>>()?))
}

impl Read {
    /// The value of the next line, whose key must be `key`.
    fn one(&mut self, key: &str) -> Option<String> {
        self.0.pop_front_if(|(found, _)| found == key).map(|(_, value)| value)
    }

    /// The values of the next lines, while their key is `key`.
    fn all(&mut self, key: &str) -> Vec<String> {
        std::iter::from_fn(|| self.one(key)).collect()
    }
}

fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                other => other.unwrap_or('\\'),
            },
            c => c,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_type::{DataType, TensorType};

    fn entry() -> Entry {
        let port = |name: &str, dtype, shape: &[usize]| ValuePort {
            name: name.to_owned(),
            ty: TensorType::new(dtype, shape).into(),
        };
        Entry {
            model: PathBuf::from("/a folder/x.onnx"),
            plan: (1234, "ab".repeat(32)),
            cuda_plan: Some((56, "01".repeat(32))),
            summary: Summary {
                inputs: vec![port("in put\\\n1", DataType::F32, &[1, 3, 8, 8]), port("", DataType::I64, &[])],
                outputs: vec![port("y", DataType::Bool, &[0])],
                run_time_nodes: 3,
                run_time_examples: vec!["`find` (NonZero)".to_owned()],
                kernels: vec!["conv_f32".to_owned(), "copy_b4".to_owned()],
                weight_bytes: 1,
                borrowed_weight_bytes: 9,
                arena_bytes: 2,
                flops: u64::MAX,
                parameters: 4,
                model_sha256: "cd".repeat(32),
                opset: 13,
                cuda_modules: vec!["picture".to_owned()],
                cuda_kernels: vec!["lstm_f32".to_owned()],
                cuda_parts: vec![
                    Placed { place: Place::Gpu, count: 12, nodes: Vec::new() },
                    Placed { place: Place::AtRunTime, count: 1, nodes: vec!["`c` (NonZero)".to_owned()] },
                    Placed {
                        place: Place::Processor,
                        count: 2,
                        nodes: vec!["`a b` (LSTM)".to_owned(), String::new()],
                    },
                ],
                notes: vec!["a note\nof two lines".to_owned(), String::new()],
            },
        }
    }

    #[test]
    fn entries_survive_text() {
        assert_eq!(Entry::parse(&entry().text()), Some(entry()));
    }

    #[test]
    fn seen_survives_text() {
        let source = |path: &str| Source {
            path: PathBuf::from(path),
            bytes: 7,
            modified: UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
        };
        let seen = Seen {
            entry: "0f".repeat(16),
            sources: vec![source("/m/x.onnx"), source("/m/x with spaces.data")],
        };
        assert_eq!(Seen::parse(&seen.text()), Some(seen));
    }

    #[test]
    fn damage_is_seen() {
        let text = entry().text();
        for cut in 0..text.len() {
            assert_eq!(Entry::parse(&text[..cut]), None, "cut at {cut}");
        }
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 1;
            assert!(
                String::from_utf8(bytes).ok().is_none_or(|text| Entry::parse(&text).is_none()),
                "at {position}"
            );
        }
    }
}
