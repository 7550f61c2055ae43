//! The command `infer`: looks at models, runs them, and compares what they compute with what others computed.
//!
//! `docs/command-line.md` describes it. The compiler and the kernels are those of the attribute.

mod arguments;
mod bench;
mod cases;
mod check;
mod compare;
mod conformance;
mod dims;
mod elements;
mod explain;
mod files;
mod fusions;
mod inspect;
mod model;
mod npy;
mod progress;
mod random;
mod run;
mod suite;
mod table;
mod tune;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// What a command found, for its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// All is well: 0.
    Good,
    /// The model is not supported, or outputs are not what they should be: 1.
    Bad,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let verdict = match arguments.command {
        Command::Inspect(arguments) => inspect::inspect(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Tune(arguments) => tune::tune(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Conformance(arguments) => conformance::conformance(&arguments),
        Command::Cases(arguments) => cases::cases(&arguments),
    };
    match verdict {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        // Whoever reads the output has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The message of an error with those of its causes, outermost first.
fn chain(error: &anyhow::Error) -> String {
    let messages: Vec<String> = error.chain().map(ToString::to_string).collect();
    messages.join(": ")
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
