//! `infer case`: one case of a suite, in a process of its own. The reason of a failure is the last line of its output.

use std::io::{self, Write};

use crate::arguments::CaseArguments;
use crate::{Verdict, chain, suite};

/// Runs the command.
pub fn case(arguments: &CaseArguments) -> anyhow::Result<Verdict> {
    let Err(error) = suite::run_case(&arguments.dir, arguments.threads, arguments.backend) else {
        return Ok(Verdict::Good);
    };
    let lines = chain(&error);
    let line = lines.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    writeln!(io::stdout(), "{line}")?;
    Ok(Verdict::Bad)
}
