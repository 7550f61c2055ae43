//! `infer tune --backend cuda`: measures the ways to compute each convolution, product and attention on the GPU that is there.
//!
//! First each way of a layer is launched alone, many times in a row. Then the fastest few take the layer's place in the
//! whole model, all of whose launches are one graph: what counts is the time of that, beside the model as it was, in turns.
//! All layers come round twice, as what is best for one depends on what runs before and after it.

use std::fs;
use std::io::{self, Write};
use std::iter;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use infer_core::ErrorKind;
use infer_core::compile::compile_for_gpus;
use infer_core::lower_cuda::Lowered;
use infer_core::lower_cuda::tactics::{Choice, Way};
use infer_core::options::Backends;
use infer_core::runtime::Output;
use infer_core::runtime::cuda::{CudaEngine, CudaOptions};
use infer_core::tactics::{Gpu, Origin, Tactic, Tactics};
use infer_core::value::{Value, ValuePort};
use infer_kernels::cuda::MODULES;

use super::{output, requested, written};
use crate::Verdict;
use crate::arguments::TuneArguments;
use crate::model;
use crate::progress::{Timer, while_working};
use crate::random::Random;
use crate::table::{shortened, table};

/// Less of a gain for the whole model is noise.
const LEAST_GAIN: f64 = 0.001;

/// The model as it is and with another way of a layer run in so many turns, of which the other way wins so many at least.
const TURNS: usize = 7;
const WINS: usize = 6;

/// A way that loses by more in all of the first turns is given up.
const HOPELESS: f64 = 0.01;
const FIRST_TURNS: usize = 2;

/// So many of the fastest ways of a layer are tried in the model, no slower than the fastest by more than this.
const TRIED: usize = 8;
const SLOWEST_TRIED: f32 = 1.5;

/// How often all layers come round.
const ROUNDS: usize = 2;

/// How often a layer is launched in a row.
const LAUNCHES: usize = 10;

/// What part of `--duration` all runs of a layer's way in the whole model take.
const SHARE: f64 = 1.0 / 60.0;

/// Runs the command.
pub fn tune(arguments: &TuneArguments) -> anyhow::Result<Verdict> {
    let (mut options, inputs) = requested(arguments)?;
    options.backends = Backends::Cuda;

    let (compiled, parts) = while_working("compiling", || compile_for_gpus(&options))
        .map_err(|errors| anyhow!(model::messages(&errors)))?;
    let summary = compiled.summary;
    drop((compiled.plan, compiled.cuda_plan));
    let is_whole = summary.run_time_nodes == 0 && summary.cuda_parts.len() == 1;

    let (mut rows, mut tactics): (Vec<Group>, Vec<Tactic>) = (Vec::new(), Vec::new());
    let (mut gpu, mut before, mut after) = (None, 0.0, 0.0);
    for lowered in parts {
        // The inputs of a part of a model are what others compute.
        let given = inputs.as_deref().filter(|_| is_whole);
        let tuned = Tuned::measure(lowered, given, arguments.duration)?;
        gpu = Some(tuned.gpu);
        before += tuned.before;
        after += tuned.after;
        for tactic in tuned.tactics {
            if !tactics.contains(&tactic) {
                tactics.push(tactic);
            }
        }
        rows.extend(tuned.groups);
    }
    let Some(gpu) = gpu else { bail!("nothing of the model runs on GPUs") };
    let title = gpu.to_string();
    let origin = Origin { model_sha256: summary.model_sha256, ..Origin::default() };
    let output = output(arguments);
    let known = written(&output, &origin.model_sha256);
    let all = known.unwrap_or_else(|| Tactics::new(origin, Vec::new())).with_gpu(gpu, tactics);
    fs::write(&output, all.to_text()).with_context(|| format!("cannot write {}", output.display()))?;

    let mut out = io::stdout().lock();
    if rows.is_empty() {
        writeln!(out, "no layer of this model can be computed in more than one way")?;
    } else {
        writeln!(out, "{}", to_text(&rows))?;
    }
    let gain = (1.0 - after / before) * 100.0;
    writeln!(out, "measured on {title}")?;
    writeln!(
        out,
        "compute     {before:.4} ms by estimate, {after:.4} ms by these tactics, {gain:.1} % less (medians)"
    )?;
    writeln!(out, "written     {}", output.display())?;
    Ok(Verdict::Good)
}

/// Layers that compute the same, so that one way is the best of all.
struct Group {
    choices: Vec<Choice>,
    /// For each way the time of a launch alone, in milliseconds.
    times: Vec<f32>,
    /// The way of the estimate, and the one that was found to be the fastest.
    estimated: usize,
    fastest: usize,
    /// The ways that are not to be tried again.
    hopeless: Vec<usize>,
}

impl Group {
    fn of(choices: Vec<Choice>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for choice in choices.into_iter().filter(|choice| choice.ways.len() > 1) {
            let same = |group: &&mut Group| {
                let known = &group.choices[0];
                (known.question, &known.signature, &known.ways)
                    == (choice.question, &choice.signature, &choice.ways)
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.choices.push(choice),
                None => {
                    let times = vec![f32::INFINITY; choice.ways.len()];
                    let (estimated, fastest) = (choice.chosen, choice.chosen);
                    let hopeless = Vec::new();
                    groups.push(Group { choices: vec![choice], times, estimated, fastest, hopeless });
                }
            }
        }
        groups
    }

    fn ways(&self) -> &[Way] {
        &self.choices[0].ways
    }

    fn set(&self, lowered: &mut Lowered, way: usize) {
        for choice in &self.choices {
            lowered.set(choice, self.ways()[way]);
        }
    }

    /// The ways that may be faster than the one in use, the fastest alone first.
    fn worth_trying(&self) -> Vec<usize> {
        let mut ways: Vec<usize> = (0..self.times.len()).collect();
        ways.sort_by(|&a, &b| self.times[a].total_cmp(&self.times[b]));
        let most = ways.first().map_or(f32::INFINITY, |&way| self.times[way] * SLOWEST_TRIED);
        ways.retain(|&way| way != self.fastest && self.times[way] <= most);
        ways.truncate(TRIED);
        ways.retain(|way| !self.hopeless.contains(way));
        ways
    }

    /// The time of all its layers in the model, about.
    fn weight(&self) -> f32 {
        self.times[self.estimated] * self.choices.len() as f32
    }
}

/// A model, or a part of it, that was tuned.
struct Tuned {
    gpu: Gpu,
    groups: Vec<Group>,
    tactics: Vec<Tactic>,
    /// The time of all launches by the estimate, and by the tactics, in milliseconds.
    before: f64,
    after: f64,
}

impl Tuned {
    fn measure(mut lowered: Lowered, inputs: Option<&[Value]>, duration: Duration) -> anyhow::Result<Tuned> {
        let estimated = CudaEngine::open(planned(lowered.plan())?, MODULES, CudaOptions::default())?;
        let info = estimated.info();
        let (major, minor) = info.architecture;
        let gpu = Gpu {
            name: info.device.to_owned(),
            architecture: (major.unsigned_abs(), minor.unsigned_abs()),
            precision: lowered.precision,
        };
        let inputs: Vec<Vec<u8>> = match inputs {
            Some(inputs) => {
                inputs.iter().filter_map(Value::as_tensor).map(|tensor| tensor.data().to_vec()).collect()
            }
            None => {
                let mut random = Random::new(0);
                let values = info.inputs.iter().map(|port| random.value(&ValuePort::from(port.clone()).ty));
                let values: Vec<Value> = values.collect::<anyhow::Result<_>>()?;
                values.iter().filter_map(Value::as_tensor).map(|tensor| tensor.data().to_vec()).collect()
            }
        };
        run(&estimated, &inputs)?;

        let mut groups = Group::of(lowered.choices());
        alone(&estimated, &lowered, &inputs, &mut groups)?;
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by(|&a, &b| groups[b].weight().total_cmp(&groups[a].weight()));

        let slice = duration.mul_f64(SHARE);
        let trials: usize = groups.iter().map(|group| group.worth_trying().len()).sum();
        let trials = u32::try_from(trials * ROUNDS).unwrap_or(u32::MAX);
        let mut timer = Timer::new("measuring", slice * trials);
        let mut done = Duration::ZERO;
        let mut current = None;
        for index in iter::repeat_n(order, ROUNDS).flatten() {
            for way in groups[index].worth_trying() {
                let mut trial = lowered.clone();
                groups[index].set(&mut trial, way);
                let engine = retuned(&estimated, &trial)?;
                run(&engine, &inputs)?;
                let base = current.as_ref().unwrap_or(&estimated);
                match gain(base, &engine, slice)? {
                    Gain::Much => {
                        groups[index].fastest = way;
                        (lowered, current) = (trial, Some(engine));
                    }
                    Gain::Noise => {}
                    Gain::Hopeless => groups[index].hopeless.push(way),
                }
                done += slice;
                timer.show(done);
            }
        }
        timer.finish();

        let tuned = current.as_ref().unwrap_or(&estimated);
        let ratios = turns(&estimated, tuned, slice * 4, false)?;
        let tactic = |group: &Group, choice: &Choice| Tactic {
            node: choice.node.clone(),
            question: choice.question.to_owned(),
            signature: choice.signature.clone(),
            candidate: group.ways()[group.fastest].name(),
        };
        let mut tactics: Vec<(usize, Tactic)> = groups
            .iter()
            .flat_map(|group| group.choices.iter().map(move |choice| (choice.call, tactic(group, choice))))
            .collect();
        tactics.sort_by_key(|(call, _)| *call);
        let tactics = tactics.into_iter().map(|(_, tactic)| tactic).collect();
        let [before, after] = [0, 1].map(|side| median(ratios.iter().map(|times| times[side]).collect()));
        Ok(Tuned { gpu, groups, tactics, before, after })
    }
}

fn planned<T>(plan: Result<T, infer_core::diagnostic::Diagnostic>) -> anyhow::Result<T> {
    plan.map_err(|error| anyhow!(error.message))
}

fn retuned(engine: &CudaEngine, lowered: &Lowered) -> anyhow::Result<CudaEngine> {
    Ok(engine.retuned(&planned(lowered.tables())?)?)
}

/// Runs once, which puts the inputs on the GPU.
fn run(engine: &CudaEngine, inputs: &[Vec<u8>]) -> anyhow::Result<()> {
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let ports = engine.info().outputs;
    let mut outputs: Vec<Vec<u8>> =
        ports.iter().map(|port| iter::repeat_n(0, port.ty.bytes()).collect()).collect();
    let mut slots: Vec<Output<'_>> =
        outputs.iter_mut().map(|bytes| Output::from(bytes.as_mut_slice())).collect();
    match engine.run(&inputs, &mut slots) {
        // An index out of range among what was made up takes no less time.
        Err(error) if error.kind() == ErrorKind::Input => Ok(()),
        done => Ok(done?),
    }
}

/// Times every way of every group alone.
fn alone(
    estimated: &CudaEngine,
    lowered: &Lowered,
    inputs: &[Vec<u8>],
    groups: &mut [Group],
) -> anyhow::Result<()> {
    let most = groups.iter().map(|group| group.ways().len()).max().unwrap_or(0);
    for way in 0..most {
        let mut changed = lowered.clone();
        let measured: Vec<usize> =
            (0..groups.len()).filter(|&index| way < groups[index].ways().len()).collect();
        for &index in &measured {
            groups[index].set(&mut changed, way);
        }
        let engine = retuned(estimated, &changed)?;
        run(&engine, inputs)?;
        for index in measured {
            let calls: Vec<usize> = groups[index].choices[0].calls().collect();
            groups[index].times[way] = engine.context().time_some_steps(&calls, LAUNCHES)?.iter().sum();
        }
    }
    Ok(())
}

/// What another way of a layer gains for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gain {
    Much,
    Noise,
    Hopeless,
}

impl Gain {
    /// By the times of the model as it is and with the other way, in each turn.
    fn of(times: &[[f64; 2]]) -> Gain {
        let ratios: Vec<f64> = times.iter().map(|[base, other]| other / base).collect();
        let wins = ratios.iter().filter(|&&ratio| ratio < 1.0).count();
        let ratio = median(ratios);
        if wins >= WINS && ratio < 1.0 - LEAST_GAIN {
            Gain::Much
        } else if ratio > 1.0 + HOPELESS {
            Gain::Hopeless
        } else {
            Gain::Noise
        }
    }
}

/// What the second model gains beside the first.
fn gain(base: &CudaEngine, other: &CudaEngine, duration: Duration) -> anyhow::Result<Gain> {
    Ok(Gain::of(&turns(base, other, duration, true)?))
}

/// Runs two models in turns; gives the medians of both in each turn, in milliseconds. Where `gives_up`, there are only a few
/// where the second is hopeless.
fn turns(
    base: &CudaEngine,
    other: &CudaEngine,
    duration: Duration,
    gives_up: bool,
) -> anyhow::Result<Vec<[f64; 2]>> {
    let time = |engine: &CudaEngine, runs: usize| -> anyhow::Result<f64> {
        let times = engine.context().time(runs)?;
        Ok(median(times.into_iter().map(f64::from).collect()))
    };
    // What is run first finds nothing in the caches.
    let start = Instant::now();
    time(other, 2)?;
    time(base, 2)?;
    let each = duration.as_secs_f64() / (2 * TURNS) as f64;
    let runs = (each / (start.elapsed().as_secs_f64() / 4.0)).clamp(2.0, 100.0) as usize;
    let mut times = Vec::with_capacity(TURNS);
    for turn in 0..TURNS {
        // Neither is always the one that follows the other.
        let [first, second] = if turn % 2 == 0 { [base, other] } else { [other, base] };
        let mut pair = [time(first, runs)?, time(second, runs)?];
        if turn % 2 == 1 {
            pair.reverse();
        }
        times.push(pair);
        let is_hopeless = |pair: &[f64; 2]| pair[1] > pair[0] * (1.0 + HOPELESS);
        if gives_up && turn + 1 == FIRST_TURNS && times.iter().all(is_hopeless) {
            break;
        }
    }
    Ok(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A table of the layers, those that take longest first, with what each of the fastest ways takes alone.
fn to_text(groups: &[Group]) -> String {
    let header = ["layer", "and more", "what", "fastest", "by estimate", "alone"];
    let mut rows = vec![header.map(str::to_owned)];
    let mut sorted: Vec<&Group> = groups.iter().collect();
    sorted.sort_by(|a, b| b.weight().total_cmp(&a.weight()));
    for group in sorted {
        let Group { choices, times, estimated, fastest, .. } = group;
        let name = |way: usize| group.ways()[way].name();
        let mut shown: Vec<usize> = (0..times.len()).collect();
        shown.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
        shown.retain(|way| way != fastest && way != estimated);
        shown.truncate(2);
        shown.insert(0, *fastest);
        if estimated != fastest {
            shown.insert(1, *estimated);
        }
        let shown: Vec<String> =
            shown.into_iter().map(|way| format!("{} {:.2} µs", name(way), times[way] * 1e3)).collect();
        rows.push([
            shortened(&choices[0].node),
            if choices.len() > 1 { format!("+{}", choices.len() - 1) } else { String::new() },
            choices[0].signature.clone(),
            name(*fastest),
            if fastest == estimated { "the same".to_owned() } else { name(*estimated) },
            shown.join(", "),
        ]);
    }
    table(&rows, 6)
}

#[cfg(test)]
mod tests {
    use infer_core::lower_cuda::tactics::{self, Tactic};
    use infer_core::options::Precision;

    use super::*;

    fn choice(call: usize, signature: &str) -> Choice {
        let ways =
            tactics::tiles(Precision::Fp16)[..6].iter().map(|tile| Way::Conv(Tactic { tile, splits: 1 }));
        Choice {
            call,
            with_next: false,
            node: format!("node {call}"),
            question: "convolution",
            signature: signature.to_owned(),
            ways: ways.collect(),
            chosen: 1,
        }
    }

    #[test]
    fn layers_that_compute_the_same_are_one_group() {
        let mut alone = choice(7, "z");
        alone.ways.truncate(1);
        let groups = Group::of(vec![choice(0, "x"), choice(1, "y"), choice(4, "x"), alone]);
        let calls: Vec<Vec<usize>> =
            groups.iter().map(|group| group.choices.iter().map(|choice| choice.call).collect()).collect();
        assert_eq!(calls, [vec![0, 4], vec![1]]);
    }

    #[test]
    fn a_gain_shows_in_nearly_all_turns() {
        let turns = |others: [f64; TURNS]| others.map(|other| [10.0, other]);
        assert_eq!(Gain::of(&turns([9.9, 9.9, 9.9, 10.2, 9.9, 9.9, 9.9])), Gain::Much);
        assert_eq!(Gain::of(&turns([9.9, 9.9, 9.9, 10.2, 10.2, 9.9, 9.9])), Gain::Noise);
        assert_eq!(Gain::of(&turns([9.999; TURNS])), Gain::Noise);
        assert_eq!(Gain::of(&turns([10.2; TURNS])[..FIRST_TURNS]), Gain::Hopeless);
    }

    #[test]
    fn the_fastest_alone_are_tried() {
        let mut group = Group::of(vec![choice(0, "x"), choice(1, "x")]).remove(0);
        group.times = vec![3.0, 2.0, 1.0, 9.0, 1.3, 1.2];
        assert_eq!(group.worth_trying(), [2, 5, 4]);
        assert_eq!(group.weight(), 4.0);
        group.fastest = 5;
        assert_eq!(group.worth_trying(), [2, 4]);
        group.hopeless.push(4);
        assert_eq!(group.worth_trying(), [2]);
        let text = to_text(&[group]);
        let row = text.lines().nth(1).unwrap();
        let end = "64x32/1  128x64/1     64x32/1 1200.00 µs, 128x64/1 2000.00 µs, 64x128/1 1000.00 µs, \
                   128x32/1 1300.00 µs";
        assert!(row.starts_with("node 0  +1        x     ") && row.ends_with(end), "{row}");
    }
}
