//! `infer tune`: measures the ways to compute each layer on this machine, and writes down the fastest.
//!
//! The model is compiled once for each way that any layer offers, every layer by its first way, every layer by its second,
//! and so on. The compiled models run in turns, so that a disturbance meets all of them, and the least time of each layer
//! counts.

#[cfg(feature = "cuda")]
mod cuda;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use infer_core::compile::{Compiled, compile_with};
use infer_core::decisions::Choice;
use infer_core::onnx;
use infer_core::onnx::proto::ModelProto;
use infer_core::options::Options;
use infer_core::session::Session;
use infer_core::tactics::{Origin, Tactic, Tactics};
use infer_core::value::Value;

#[cfg(feature = "cuda")]
use crate::arguments::Backend;
use crate::arguments::TuneArguments;
use crate::bench::{self, Target};
use crate::model::{self, File};
use crate::progress::{Timer, while_working};
use crate::table::{shortened, table};
use crate::{Verdict, dims};

/// Less of a gain over the way that the estimate chooses is noise.
const LEAST_GAIN: f64 = 0.02;

/// Each compiled model runs at least so often.
const LEAST_RUNS: usize = 10;

/// Runs the command.
pub fn tune(arguments: &TuneArguments) -> anyhow::Result<Verdict> {
    arguments.backend.check()?;
    #[cfg(feature = "cuda")]
    if matches!(arguments.backend, Backend::Cuda)
        || matches!(arguments.backend, Backend::Auto) && infer_core::runtime::cuda::probe().is_ok()
    {
        return cuda::tune(arguments);
    }
    let (options, inputs) = requested(arguments)?;
    let estimated = compiled(&options, Tactics::default())?;
    let sha256 = estimated.summary.model_sha256.clone();
    let layers = Tuned::of(&estimated.decisions.choices);
    let estimated = model::open_plan(&estimated.plan, arguments.threads)?;
    let origin =
        Origin { model_sha256: sha256, isa: estimated.isa().name().to_owned(), threads: estimated.threads() };
    let inputs = match inputs {
        Some(inputs) => inputs,
        None => bench::random_inputs(&estimated, 0)?,
    };

    let ways = layers.iter().map(|layer| layer.choice.candidates.len()).max().unwrap_or(0);
    let mut sessions = Vec::with_capacity(ways);
    for way in 0..ways {
        let tactics = layers.iter().map(|layer| layer.tactic(way)).collect();
        let compiled = compiled(&options, Tactics::new(origin.clone(), tactics))?;
        sessions.push(model::open_plan(&compiled.plan, arguments.threads)?);
    }
    let layers = measure(&sessions, &inputs, layers, arguments.duration)?;
    drop(sessions);

    let tactics: Vec<Tactic> = layers.iter().map(|layer| layer.tactic(layer.fastest())).collect();
    let output = output(arguments);
    let known = written(&output, &origin.model_sha256).unwrap_or_default();
    let tactics = Tactics::new(origin, tactics).with_gpus_of(&known);
    fs::write(&output, tactics.to_text()).with_context(|| format!("cannot write {}", output.display()))?;

    let mut out = io::stdout().lock();
    if layers.is_empty() {
        writeln!(out, "no layer of this model can be computed in more than one way")?;
    } else {
        write!(out, "{}", to_text(&layers))?;
        let tuned = compiled(&options, tactics)?;
        let tuned = model::open_plan(&tuned.plan, arguments.threads)?;
        let [before, after] = compare([&estimated, &tuned], &inputs, arguments.duration)?;
        let (before, after) = (before * 1e3, after * 1e3);
        writeln!(
            out,
            "\nlatency     {before:.3} ms by estimate, {after:.3} ms by these tactics (the least of many)"
        )?;
    }
    writeln!(out, "written     {}", output.display())?;
    Ok(Verdict::Good)
}

/// What to compile, and the inputs that were given for it.
fn requested(arguments: &TuneArguments) -> anyhow::Result<(Options, Option<Vec<Value>>)> {
    let path = &arguments.model.model;
    let mut file = File::read(path)?;
    // The compiler reads it again; weights need not be there twice.
    file.proto = ModelProto::default();
    let given = dims::given(&arguments.model.dims);
    let (inputs, dims) = bench::inputs(&file, arguments.inputs.as_deref(), given)?;
    let mut options = Options::new(path);
    options.precision = arguments.precision;
    options.dims = dims;
    Ok((options, inputs))
}

/// The file to write.
fn output(arguments: &TuneArguments) -> PathBuf {
    arguments.output.clone().unwrap_or_else(|| arguments.model.model.with_extension("tactics"))
}

/// What was measured for the same model before: other places to run keep theirs.
fn written(output: &Path, model_sha256: &str) -> Option<Tactics> {
    let known = Tactics::parse(&fs::read_to_string(output).ok()?).ok()?;
    (known.origin().model_sha256 == model_sha256).then_some(known)
}

fn compiled(options: &Options, tactics: Tactics) -> anyhow::Result<Compiled> {
    let start = Instant::now();
    while_working("compiling", || {
        let file = onnx::read(&options.model).map_err(|diagnostic| vec![diagnostic])?;
        compile_with(file, options, tactics, start)
    })
    .map_err(|errors| anyhow!(model::messages(&errors)))
}

/// A layer that can be computed in several ways.
struct Tuned {
    choice: Choice,
    /// The least time of each way, in seconds.
    times: Vec<f64>,
}

impl Tuned {
    /// The layers that offer a choice, each once.
    fn of(choices: &[Choice]) -> Vec<Tuned> {
        let mut tuned: Vec<Tuned> = Vec::new();
        for choice in choices.iter().filter(|choice| choice.candidates.len() > 1) {
            let key = |choice: &Choice| (choice.node.clone(), choice.question, choice.signature.clone());
            if !tuned.iter().any(|known| key(&known.choice) == key(choice)) {
                let times = vec![f64::INFINITY; choice.candidates.len()];
                tuned.push(Tuned { choice: choice.clone(), times });
            }
        }
        tuned
    }

    /// The candidate that is used in the model compiled as number `way`.
    fn candidate(&self, way: usize) -> usize {
        way % self.choice.candidates.len()
    }

    fn tactic(&self, way: usize) -> Tactic {
        let Choice { node, question, signature, candidates, .. } = &self.choice;
        Tactic {
            node: node.clone(),
            question: (*question).to_owned(),
            signature: signature.clone(),
            candidate: candidates[self.candidate(way)].name.to_owned(),
        }
    }

    /// The fastest candidate; that of the estimate where no other is faster by much.
    fn fastest(&self) -> usize {
        let times = self.times.iter().copied().enumerate();
        let fastest = times.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index);
        let estimated = self.choice.chosen;
        match self.times[fastest] < self.times[estimated] * (1.0 - LEAST_GAIN) {
            true => fastest,
            false => estimated,
        }
    }
}

/// Runs the models in turns, for `duration` each, and takes the least time of each layer in each.
fn measure(
    sessions: &[Session],
    inputs: &[Value],
    mut layers: Vec<Tuned>,
    duration: Duration,
) -> anyhow::Result<Vec<Tuned>> {
    let by_node: HashMap<String, usize> =
        layers.iter().enumerate().map(|(index, layer)| (layer.choice.node.clone(), index)).collect();
    let mut runners = Vec::with_capacity(sessions.len());
    for session in sessions {
        let layer_of: Vec<Option<usize>> =
            session.steps().iter().map(|step| by_node.get(step.node).copied()).collect();
        let mut target = Target::new(session, inputs)?;
        target.run()?;
        runners.push((target, layer_of));
    }
    let total = duration * u32::try_from(sessions.len()).unwrap_or(u32::MAX);
    let mut timer = Timer::new("measuring", total);
    let start = Instant::now();
    let mut sums = vec![0.0; layers.len()];
    for run in 1.. {
        if sessions.is_empty() || run > LEAST_RUNS && start.elapsed() >= total {
            break;
        }
        for (way, (target, layer_of)) in runners.iter_mut().enumerate() {
            sums.fill(0.0);
            target.run_steps(&mut |step, time| {
                if let Some(layer) = layer_of.get(step).copied().flatten() {
                    sums[layer] += time.as_secs_f64();
                }
            })?;
            for (layer, &sum) in layers.iter_mut().zip(&sums) {
                let candidate = layer.candidate(way);
                layer.times[candidate] = layer.times[candidate].min(sum);
            }
        }
        timer.show(start.elapsed());
    }
    timer.finish();
    Ok(layers)
}

/// The least latencies of two models that run in turns for `duration` each, in seconds.
fn compare(sessions: [&Session; 2], inputs: &[Value], duration: Duration) -> anyhow::Result<[f64; 2]> {
    let mut targets = [Target::new(sessions[0], inputs)?, Target::new(sessions[1], inputs)?];
    let mut least = [f64::INFINITY; 2];
    let start = Instant::now();
    for run in 0.. {
        for (target, least) in targets.iter_mut().zip(&mut least) {
            *least = target.run()?.as_secs_f64().min(*least);
        }
        if run >= LEAST_RUNS && start.elapsed() >= duration * 2 {
            break;
        }
    }
    Ok(least)
}

/// A table of the layers with the time that each way takes.
fn to_text(layers: &[Tuned]) -> String {
    let mut rows = vec![["layer", "what", "fastest", "by estimate", "all"].map(str::to_owned)];
    for layer in layers {
        let Choice { node, signature, candidates, chosen, .. } = &layer.choice;
        let times = candidates.iter().zip(&layer.times);
        let times: Vec<String> =
            times.map(|(candidate, time)| format!("{} {:.1} µs", candidate.name, time * 1e6)).collect();
        let fastest = layer.fastest();
        let estimated = if fastest == *chosen { "the same" } else { candidates[*chosen].name };
        rows.push([
            shortened(node),
            signature.clone(),
            candidates[fastest].name.to_owned(),
            estimated.to_owned(),
            times.join(", "),
        ]);
    }
    table(&rows, 5)
}

#[cfg(test)]
mod tests {
    use infer_core::decisions::Candidate;

    use super::*;

    fn choice(node: &str, signature: &str) -> Choice {
        Choice {
            node: node.to_owned(),
            question: "sum",
            signature: signature.to_owned(),
            candidates: ["a", "b"].map(|name| Candidate { name, cost: 1.0 }).to_vec(),
            chosen: 0,
            by_tactics: false,
        }
    }

    #[test]
    fn only_what_gains_replaces_the_estimate() {
        let mut layer = Tuned { choice: choice("x", "4"), times: vec![1.0, 0.99] };
        assert_eq!(layer.fastest(), 0);
        layer.times[1] = 0.9;
        assert_eq!((layer.fastest(), layer.tactic(3).candidate), (1, "b".to_owned()));
    }

    #[test]
    fn layers_are_tuned_once() {
        let single = Choice { candidates: vec![Candidate { name: "a", cost: 1.0 }], ..choice("y", "4") };
        let choices = [choice("x", "4"), choice("x", "4"), single, choice("x", "5")];
        let layers = Tuned::of(&choices);
        let signatures: Vec<&str> = layers.iter().map(|layer| layer.choice.signature.as_str()).collect();
        assert_eq!(signatures, ["4", "5"]);
    }
}
