//! `infer inspect`: what a model is, and what the compiler makes of it.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::anyhow;
use infer_core::compile::{Compiled, Place, Placed, Summary};
use infer_core::diagnostic::printable;
use infer_core::onnx::normalize_domain;
use infer_core::onnx::proto::{AttributeProto, GraphProto, ModelProto};
use infer_core::options::Backends;
use serde_json::{Map, Value as Json, json};

use crate::arguments::InspectArguments;
use crate::fusions::{self, Fusions, Histogram};
use crate::model::{self, Declared, File};
use crate::{Verdict, chain, dims, explain};

/// How many nodes of a part on the processor are named; JSON has all.
const NAMED: usize = 20;

/// Runs the command.
pub fn inspect(arguments: &InspectArguments) -> anyhow::Result<Verdict> {
    let file = File::read(&arguments.model.model)?;
    let mut facts = Facts::of(&file);
    let mut options = arguments.compile.options(&arguments.model.model, dims::given(&arguments.model.dims));
    options.backends = Backends::BUILT;
    facts.assumed = dims::unbound(&file.inputs, &options.dims);
    options.dims.extend(facts.assumed.iter().map(|symbol| (symbol.clone(), 1)));
    facts.dims = options.dims.clone();
    drop(file);

    let compiled = model::compiled(&options, arguments.compile.strict).and_then(|compiled| {
        let fusions =
            crate::progress::while_working("analysing", || fusions::analyze(&options, &facts.nodes))?;
        let Compiled { summary, decisions, .. } = compiled;
        let tuned = decisions.tactics.gpu(options.precision).filter(|_| !summary.cuda_parts.is_empty());
        let tuned = tuned.map(ToString::to_string);
        let layers = arguments.explain.then_some(decisions.layers);
        Ok((summary, fusions, layers, tuned))
    });
    let mut out = io::stdout().lock();
    if arguments.json {
        let mut json =
            facts.to_json(compiled.as_ref().map(|(summary, fusions, ..)| (summary, fusions)).map_err(chain));
        if let (Some(json), Ok((_, _, layers, tuned))) = (json.as_object_mut(), &compiled) {
            if let Some(layers) = layers {
                json.insert("layers".to_owned(), explain::to_json(layers));
            }
            json.insert("cuda_tactics".to_owned(), json!(tuned));
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        write!(out, "{}", facts.to_text())?;
        if let Ok((summary, fusions, layers, tuned)) = &compiled {
            write!(out, "{}", text_of_compiled(summary, fusions, tuned.as_deref()))?;
            if let Some(layers) = layers {
                write!(out, "\n{}", explain::to_text(layers))?;
            }
        }
    }
    out.flush()?;
    match compiled {
        Ok(_) => Ok(Verdict::Good),
        Err(error) if facts.assumed.is_empty() => Err(error),
        Err(error) => {
            let sizes: Vec<(String, u64)> = facts.assumed.iter().map(|symbol| (symbol.clone(), 1)).collect();
            let sizes = dims::display(&sizes);
            Err(anyhow!(
                "{}\n       help: {sizes} was assumed; other sizes may fit, give them with --dims",
                chain(&error)
            ))
        }
    }
}

/// What the file says.
struct Facts {
    file: String,
    producer: String,
    ir_version: i64,
    opsets: Vec<(String, i64)>,
    inputs: Vec<Declared>,
    outputs: Vec<Declared>,
    nodes: Histogram,
    functions: usize,
    parameters: u64,
    /// The sizes of the symbolic dimensions.
    dims: Vec<(String, u64)>,
    /// The symbols that nobody has given a size.
    assumed: Vec<String>,
}

impl Facts {
    fn of(file: &File) -> Self {
        let model = &file.proto;
        let mut nodes = Histogram::new();
        let mut parameters = 0;
        if let Some(graph) = &model.graph {
            count(graph, &mut nodes, &mut parameters);
        }
        let domain = |domain: &str| match normalize_domain(domain) {
            "" => "ai.onnx".to_owned(),
            domain => printable(domain),
        };
        Facts {
            file: file.name.clone(),
            producer: producer(model),
            ir_version: model.ir_version.unwrap_or_default(),
            opsets: model
                .opset_import
                .iter()
                .map(|import| (domain(&import.domain), import.version))
                .collect(),
            inputs: file.inputs.clone(),
            outputs: file.outputs.clone(),
            nodes,
            functions: model.functions.len(),
            parameters,
            dims: Vec::new(),
            assumed: Vec::new(),
        }
    }

    /// The symbolic dimensions of inputs and outputs, in their order.
    fn symbols(&self) -> Vec<String> {
        let mut symbols = dims::unbound(&self.inputs, &[]);
        for symbol in dims::unbound(&self.outputs, &[]) {
            // An output's axis without a name is no symbol that one could give a size.
            let is_axis = self
                .outputs
                .iter()
                .any(|output| symbol.strip_prefix(&output.name).is_some_and(|rest| rest.starts_with('[')));
            if !symbols.contains(&symbol) && !is_axis {
                symbols.push(symbol);
            }
        }
        symbols
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, what: &str| {
            let _ = writeln!(text, "{name:<12}{what}");
        };
        line("model", &self.file);
        line("producer", if self.producer.is_empty() { "unknown" } else { &self.producer });
        let opsets: Vec<String> =
            self.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        line("opsets", &format!("{} (IR version {})", opsets.join(", "), self.ir_version));
        for (kind, ports) in [("input", &self.inputs), ("output", &self.outputs)] {
            for port in ports {
                line(kind, &format!("{}: {port}", printable(&port.name)));
            }
        }
        let symbols = self.symbols();
        if !symbols.is_empty() {
            line("symbols", &symbols.iter().map(|symbol| printable(symbol)).collect::<Vec<_>>().join(", "));
        }
        line("nodes", &describe(&self.nodes));
        if self.functions > 0 {
            line("functions", &self.functions.to_string());
        }
        line("parameters", &grouped(self.parameters));
        if !self.dims.is_empty() {
            let assumed = match self.assumed.as_slice() {
                [] => String::new(),
                assumed => {
                    let assumed: Vec<String> = assumed.iter().map(|symbol| printable(symbol)).collect();
                    format!(" (nobody says what {} is: taken to be 1)", assumed.join(", "))
                }
            };
            line("analysed for", &format!(" {}{assumed}", dims::display(&self.dims)));
        }
        text
    }

    fn to_json(&self, compiled: Result<(&Summary, &Fusions), String>) -> Json {
        let port = |port: &Declared| {
            json!({
                "name": port.name,
                "type": port.to_string(),
                "shape": port.extents.as_ref().map(|extents| extents.iter().map(|extent| match extent {
                    model::Extent::Known(extent) => json!(extent),
                    model::Extent::Symbol(symbol) => json!(symbol),
                }).collect::<Vec<_>>()),
            })
        };
        let dims: Map<String, Json> =
            self.dims.iter().map(|(name, size)| (name.clone(), json!(size))).collect();
        let opsets: Map<String, Json> =
            self.opsets.iter().map(|(domain, version)| (domain.clone(), json!(version))).collect();
        let mut json = json!({
            "model": self.file,
            "producer": self.producer,
            "ir_version": self.ir_version,
            "opsets": opsets,
            "inputs": self.inputs.iter().map(port).collect::<Vec<_>>(),
            "outputs": self.outputs.iter().map(port).collect::<Vec<_>>(),
            "symbolic_dimensions": self.symbols(),
            "nodes": self.nodes,
            "functions": self.functions,
            "parameters": self.parameters,
            "dims": dims,
            "assumed_dims": self.assumed,
        });
        let more = match compiled {
            Ok((summary, fusions)) => json!({
                "supported": true,
                "flops": summary.flops,
                "weight_bytes": summary.weight_bytes,
                "borrowed_weight_bytes": summary.borrowed_weight_bytes,
                "arena_bytes": summary.arena_bytes,
                "optimized_nodes": fusions.nodes,
                "run_time_nodes": summary.run_time_nodes,
                "fusions": fusions.changes.iter().map(|change| json!({
                    "pass": change.pass,
                    "removed": change.removed,
                    "added": change.added,
                })).collect::<Vec<_>>(),
                "kernels": summary.kernels,
                "cuda_modules": summary.cuda_modules,
                "cuda_parts": summary.cuda_parts.iter().map(|part| json!({
                    "backend": place_name(part.place).replace(' ', "_"),
                    "count": part.count,
                    "nodes": part.nodes,
                })).collect::<Vec<_>>(),
                "sha256": summary.model_sha256,
                "notes": summary.notes,
            }),
            Err(error) => json!({ "supported": false, "error": error }),
        };
        if let (Some(json), Json::Object(more)) = (json.as_object_mut(), more) {
            json.extend(more);
        }
        json
    }
}

fn producer(model: &ModelProto) -> String {
    let text = format!("{} {}", printable(&model.producer_name), printable(&model.producer_version));
    text.trim().to_owned()
}

/// Counts the nodes of a graph and of those in its nodes, and the elements of initializers.
fn count(graph: &GraphProto, nodes: &mut Histogram, parameters: &mut u64) {
    for node in &graph.node {
        *nodes.entry(fusions::name(&node.domain, &node.op_type)).or_default() += 1;
        for attribute in &node.attribute {
            let AttributeProto { g, graphs, .. } = attribute;
            for graph in g.iter().map(|graph| &**graph).chain(graphs) {
                count(graph, nodes, parameters);
            }
        }
    }
    for tensor in &graph.initializer {
        let extents = tensor.dims.iter().map(|&extent| extent.max(0) as u64);
        *parameters = parameters.saturating_add(extents.fold(1, u64::saturating_mul));
    }
}

fn text_of_compiled(summary: &Summary, fusions: &Fusions, tuned: Option<&str>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(text, "{name:<12}{what}");
    };
    line("optimised", &describe(&fusions.nodes));
    if summary.run_time_nodes > 0 {
        line("run time", &format!("{} nodes run with what only the run knows", summary.run_time_nodes));
    }
    for change in &fusions.changes {
        let list = |sign: char, nodes: &Histogram| -> Vec<String> {
            sorted(nodes).into_iter().map(|(name, count)| format!("{sign}{count} {name}")).collect()
        };
        let changes: Vec<String> = [list('−', &change.removed), list('+', &change.added)].concat();
        line("  pass", &format!("{}: {}", change.pass, changes.join(", ")));
    }
    line("flops", &grouped(summary.flops));
    line("weights", &bytes(summary.weight_bytes));
    line("arena", &bytes(summary.arena_bytes));
    if !summary.cuda_parts.is_empty() {
        let (gpu, cpu) = model::placed(&summary.cuda_parts);
        let open = summary.cuda_parts.iter().filter(|part| part.place == Place::AtRunTime);
        let open: u64 = open.map(|part| part.count).sum();
        let beside = [(cpu, "on the processor"), (open, "where the run decides")];
        let beside: String = beside
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, place)| format!(", {count} {place}"))
            .collect();
        let modules = summary.cuda_modules.join(", ");
        let tuned = tuned.map_or_else(String::new, |gpu| format!(", by tactics of {gpu}"));
        line(
            "GPUs",
            &format!("compiled for NVIDIA GPUs: {gpu} nodes{beside}, with the kernels of {modules}{tuned}"),
        );
    }
    if summary.borrowed_weight_bytes > 0 {
        let borrowed = bytes(summary.borrowed_weight_bytes);
        line("  weights", &format!("{borrowed} on the GPU are made of those of the processor's plan"));
    }
    if summary.cuda_parts.len() > 1 {
        for part in &summary.cuda_parts {
            line("  part", &part_text(part));
        }
    }
    for note in &summary.notes {
        line("note", note);
    }
    text
}

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Gpu => "cuda",
        Place::Processor => "cpu",
        Place::AtRunTime => "run time",
    }
}

/// Where a part runs, and which nodes it is of where that is no GPU for sure.
fn part_text(part: &Placed) -> String {
    let (count, s) = (part.count, if part.count == 1 { "" } else { "s" });
    let place = place_name(part.place);
    if part.nodes.is_empty() {
        return format!("{place}: {count} node{s}");
    }
    let named: Vec<&str> = part.nodes.iter().take(NAMED).map(String::as_str).collect();
    let more = match part.nodes.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{place}: {count} node{s}: {}{more}", named.join(", "))
}

/// The operators with the most nodes first.
fn sorted(nodes: &Histogram) -> Vec<(&String, usize)> {
    let mut sorted: Vec<(&String, usize)> = nodes.iter().map(|(name, &count)| (name, count)).collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    sorted
}

fn describe(nodes: &Histogram) -> String {
    let total: usize = nodes.values().sum();
    let each: Vec<String> =
        sorted(nodes).into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    if each.is_empty() { "0".to_owned() } else { format!("{total}: {}", each.join(", ")) }
}

/// `1234567` as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes, in units that one can picture.
pub fn bytes(count: u64) -> String {
    let mib = count as f64 / f64::from(1 << 20);
    if mib >= 0.1 {
        format!("{} bytes ({mib:.1} MiB)", grouped(count))
    } else {
        format!("{} bytes", grouped(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let groups: Vec<String> = [0, 12, 999, 1000, 1234567].into_iter().map(grouped).collect();
        assert_eq!(groups, ["0", "12", "999", "1 000", "1 234 567"]);
        assert_eq!(bytes(3 << 20), "3 145 728 bytes (3.0 MiB)");
    }
}
