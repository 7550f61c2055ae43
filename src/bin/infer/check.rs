//! `infer check`: a model on recorded inputs, its outputs compared with those recorded.

use std::io::{self, Write};

use infer_core::diagnostic::quote;

use crate::arguments::CheckArguments;
use crate::compare::{Tolerance, compare};
use crate::model::File;
use crate::suite::{Runner, has_quantized_nodes};
use crate::{Verdict, dims, files};

/// What is tolerated where nothing says so.
const DEFAULT: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-5, of_largest: 0.0, integers: false };

/// Runs the command.
pub fn check(arguments: &CheckArguments) -> anyhow::Result<Verdict> {
    arguments.engine.backend.check()?;
    let file = File::read(&arguments.model.model)?;
    let recorded = files::read(&arguments.case, "output", &file.outputs)?;
    let stated = match arguments.of_largest {
        Some(of_largest) => Tolerance { rtol: 0.0, atol: 0.0, of_largest, integers: false },
        None => Tolerance::read(&arguments.model.model.with_file_name("tolerance.json"))?.unwrap_or(DEFAULT),
    };
    let tolerance = Tolerance {
        rtol: arguments.rtol.unwrap_or(stated.rtol),
        atol: arguments.atol.unwrap_or(stated.atol),
        of_largest: stated.of_largest,
        integers: has_quantized_nodes(&file.proto),
    };
    let names: Vec<String> = file.outputs.iter().map(|output| quote(&output.name)).collect();

    let mut runner = Runner::new(&arguments.model.model, file);
    runner.compile = Some(arguments.engine.compile.clone());
    runner.threads = arguments.engine.threads;
    runner.backend = arguments.engine.backend;
    let inputs = runner.read_inputs(&arguments.case)?;
    let (outputs, _) = runner.run(&inputs, &dims::given(&arguments.model.dims), &arguments.case)?;

    let mut out = io::stdout().lock();
    let mut verdict = Verdict::Good;
    for ((name, ours), recorded) in names.iter().zip(&outputs).zip(&recorded) {
        let line = match compare(ours, recorded, tolerance) {
            Ok(difference) => {
                let wrong = difference.describe();
                if wrong.is_some() {
                    verdict = Verdict::Bad;
                }
                format!(
                    "output {name}: {}, largest absolute difference {:.3e}, largest relative difference {:.3e}: {}",
                    ours.describe(),
                    difference.absolute,
                    difference.relative,
                    wrong.map_or_else(|| "agrees".to_owned(), |wrong| format!("DIFFERS, {wrong}"))
                )
            }
            Err(wrong) => {
                verdict = Verdict::Bad;
                format!("output {name}: DIFFERS, it is {wrong}")
            }
        };
        writeln!(out, "{line}")?;
    }
    if let Some(placement) = runner.placement() {
        writeln!(out, "{placement}")?;
    }
    if verdict == Verdict::Bad {
        writeln!(
            out,
            "the outputs differ by more than rtol {:e}, atol {:e} and {:e} of the largest",
            tolerance.rtol, tolerance.atol, tolerance.of_largest
        )?;
    }
    Ok(verdict)
}
