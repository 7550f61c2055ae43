//! `infer cases`: the cases of a suite that standard input names, one folder a line, each answered with a line.

use std::io::{self, BufRead, Write};
use std::path::Path;

#[cfg(feature = "cuda")]
use infer_core::runtime::cuda::{cudarc::driver::CudaContext, probe};

#[cfg(feature = "cuda")]
use crate::arguments::Backend;
use crate::arguments::CasesArguments;
use crate::suite::{self, Outcome};
use crate::{Verdict, chain};

/// Runs the command.
pub fn cases(arguments: &CasesArguments) -> anyhow::Result<Verdict> {
    // Each case would open the GPU anew, which takes longer than most cases do.
    #[cfg(feature = "cuda")]
    let _context = (arguments.backend != Backend::Cpu && probe().is_ok()).then(|| CudaContext::new(0));
    for folder in io::stdin().lock().lines() {
        let mut ran = None;
        let result = suite::run_case(Path::new(&folder?), arguments.threads, arguments.backend, &mut ran);
        let failure = result.err().map(|error| {
            let lines = chain(&error);
            lines.lines().map(str::trim).collect::<Vec<_>>().join("; ")
        });
        let mut out = io::stdout().lock();
        writeln!(out, "{}", Outcome { failure, ran }.to_line())?;
        out.flush()?;
    }
    Ok(Verdict::Good)
}
