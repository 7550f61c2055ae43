//! `infer run`: a model on data from files or on random data.

use std::io::{self, Write};

use infer_core::constant::Constant;
use infer_core::diagnostic::quote;
use infer_core::value::Value;

use crate::arguments::RunArguments;
use crate::elements::Elements;
use crate::model::File;
use crate::random::Random;
use crate::suite::Runner;
use crate::{Verdict, dims, files};

/// Runs the command.
pub fn run(arguments: &RunArguments) -> anyhow::Result<Verdict> {
    arguments.engine.backend.check()?;
    let file = File::read(&arguments.model.model)?;
    let names: Vec<String> = file.outputs.iter().map(|output| quote(&output.name)).collect();
    let given = dims::given(&arguments.model.dims);
    let mut runner = Runner::new(&arguments.model.model, file);
    runner.compile = Some(arguments.engine.compile.clone());
    runner.threads = arguments.engine.threads;
    runner.backend = arguments.engine.backend;
    let (outputs, seconds) = match &arguments.inputs {
        Some(folder) => {
            let inputs = runner.read_inputs(folder)?;
            runner.run(&inputs, &given, folder)?
        }
        None => {
            let mut random = Random::new(arguments.seed);
            let types: Vec<_> = runner.session(&given)?.inputs().iter().map(|port| port.ty.clone()).collect();
            let inputs = types.iter().map(|ty| random.value(ty)).collect::<anyhow::Result<Vec<Value>>>()?;
            runner.run_with(&inputs, &given)?
        }
    };

    let files = match &arguments.outputs {
        Some(folder) => files::write(folder, "output", &outputs)?,
        None => Vec::new(),
    };
    let mut out = io::stdout().lock();
    for (index, (name, value)) in names.iter().zip(&outputs).enumerate() {
        let file = files.get(index).map_or_else(String::new, |file| format!(" → {file}"));
        writeln!(out, "output {name}: {}{}{file}", value.describe(), summary(value))?;
    }
    if let Some(placement) = runner.placement() {
        writeln!(out, "{placement}")?;
    }
    writeln!(out, "{:.3} ms", seconds * 1e3)?;
    Ok(Verdict::Good)
}

/// The range and the mean of a tensor's numbers, or the first strings.
fn summary(value: &Value) -> String {
    const SHOWN: usize = 3;
    match value {
        Value::Tensor(tensor) if tensor.ty().elements() > 0 => range(tensor),
        Value::Strings(strings) if !strings.data().is_empty() => {
            let first: Vec<String> =
                strings.data().iter().take(SHOWN).map(|text| format!("{text:?}")).collect();
            let more = if strings.data().len() > SHOWN { ", …" } else { "" };
            format!(": {}{more}", first.join(", "))
        }
        _ => String::new(),
    }
}

fn range(tensor: &Constant) -> String {
    let numbers: Vec<f64> = match Elements::of(tensor) {
        Elements::Floats(numbers) => numbers,
        Elements::Integers(numbers) => numbers.into_iter().map(|number| number as f64).collect(),
        Elements::Complex(_) => return String::new(),
    };
    let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    let nan = match numbers.iter().filter(|number| number.is_nan()).count() {
        0 => String::new(),
        count => format!(", {count} NaN"),
    };
    format!(": {least:.6} to {most:.6}, mean {mean:.6}{nan}")
}
