//! `infer conformance`: every case of a suite, in processes that a case may crash.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, bail};
use clap::ValueEnum;
use infer_core::diagnostic::quote;

use crate::Verdict;
use crate::arguments::{Backend, ConformanceArguments};
use crate::progress::Counter;
use crate::suite::{self, Case, Outcome, RanOn};

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The longest reason that is printed, in characters.
const LONGEST_REASON: usize = 400;

/// Runs the command.
pub fn conformance(arguments: &ConformanceArguments) -> anyhow::Result<Verdict> {
    arguments.backend.check()?;
    let mut cases = suite::cases(&arguments.dir)?;
    let expected = match &arguments.expect {
        Some(path) => expected_failures(path)?,
        None => HashMap::new(),
    };
    let unknown = expected.keys().find(|title| cases.iter().all(|case| case.title() != **title));
    if let (Some(title), Some(path)) = (unknown, &arguments.expect) {
        bail!("{} lists {}, which {} does not have", path.display(), quote(title), arguments.dir.display());
    }
    if let Some(filter) = &arguments.filter {
        cases.retain(|case| case.title().contains(filter.as_str()));
    }
    if cases.is_empty() {
        let filter = arguments
            .filter
            .as_ref()
            .map_or_else(String::new, |filter| format!(" with {} in its name", quote(filter)));
        bail!(
            "{} holds no case{filter}; cases are folders <group>/<case>/model.onnx",
            arguments.dir.display()
        );
    }

    let results = run_all(&cases, arguments)?;
    let mut out = io::stdout().lock();
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut surprises = 0;
    for (case, Outcome { failure, .. }) in cases.iter().zip(&results) {
        let (passed, all) = groups.entry(&case.group).or_default();
        *all += 1;
        *passed += usize::from(failure.is_none());
        let title = case.title();
        let is_expected = expected.contains_key(&title);
        match failure {
            Some(reason) if is_expected => writeln!(out, "fail, as expected: {title}: {reason}")?,
            Some(reason) => {
                surprises += 1;
                writeln!(out, "FAIL: {title}: {reason}")?;
            }
            None if is_expected => {
                surprises += 1;
                writeln!(out, "PASS, though listed as a failure: {title}")?;
            }
            None => {}
        }
    }
    for (group, (passed, all)) in &groups {
        writeln!(out, "{group}: {passed} of {all} passed")?;
    }
    if arguments.expect.is_some() {
        writeln!(out, "{surprises} not as expected")?;
    }
    if arguments.backend != Backend::Cpu {
        write_places(&mut out, &results)?;
    }
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    writeln!(out, "{} passed, {failed} failed", results.len() - failed)?;
    Ok(if surprises > 0 { Verdict::Bad } else { Verdict::Good })
}

/// How many cases ran where, of those of floats and of all.
fn write_places(out: &mut impl Write, results: &[Outcome]) -> io::Result<()> {
    for (of, only_floats) in [("of floats", true), ("in all", false)] {
        for (on, what) in RanOn::ALL {
            let there = results.iter().filter(|result| {
                result.ran.is_some_and(|ran| ran.on == on && (ran.is_of_floats || !only_floats))
            });
            let (all, passed) = there.fold((0, 0), |(all, passed), result| {
                (all + 1, passed + usize::from(result.failure.is_none()))
            });
            writeln!(out, "cases {of} {what}: {all}, of which {passed} passed, {} failed", all - passed)?;
        }
    }
    let nowhere = results.iter().filter(|result| result.ran.is_none()).count();
    writeln!(out, "cases that did not come so far as to run: {nowhere}")
}

/// The cases that are known to fail, with the reasons: `group/name reason…` a line, `#` before comments.
fn expected_failures(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut expected = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = || format!("{}, line {}", path.display(), index + 1);
        let (title, reason) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if !title.contains('/') {
            bail!("{}: {} is no group/case", at(), quote(title));
        }
        if reason.trim().is_empty() {
            bail!("{}: {} is listed without a reason", at(), quote(title));
        }
        if expected.insert(title.to_owned(), reason.trim().to_owned()).is_some() {
            bail!("{}: {} is listed twice", at(), quote(title));
        }
    }
    Ok(expected)
}

/// What becomes of each case.
fn run_all(cases: &[Case], arguments: &ConformanceArguments) -> anyhow::Result<Vec<Outcome>> {
    let program = env::current_exe().context("cannot find the program to start for the cases")?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let (jobs, backend) = (arguments.jobs, arguments.backend);
    let jobs = jobs.unwrap_or(processors).clamp(1, cases.len());
    // Cases share the processors, unless the user says how many threads each may have.
    let threads = env::var_os("INFER_THREADS").is_none().then(|| (processors / jobs).max(1));
    let mut outcomes = vec![Outcome::default(); cases.len()];
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (done, results) = mpsc::channel();
        for _ in 0..jobs {
            let (done, next, program) = (done.clone(), &next, &program);
            scope.spawn(move || {
                let mut worker = None;
                while let Some((index, case)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).map(|case| (index, case))
                } {
                    let ready = match worker.take() {
                        Some(worker) => Ok(worker),
                        None => Worker::start(program, threads, backend),
                    };
                    let outcome = match ready {
                        Ok(ready) => {
                            let (outcome, left) = ready.run(&case.path);
                            worker = left;
                            outcome
                        }
                        Err(error) => Outcome::failed(format!("the process does not start: {error}")),
                    };
                    if done.send((index, outcome)).is_err() {
                        break;
                    }
                }
                if let Some(worker) = worker {
                    worker.end();
                }
            });
        }
        drop(done);
        let mut counter = Counter::new(cases.len());
        let mut failed = 0;
        for (index, outcome) in results {
            failed += usize::from(outcome.failure.is_some());
            outcomes[index] = outcome;
            counter.advance(failed);
        }
        counter.finish();
    });
    Ok(outcomes)
}

/// A process that runs cases one after the other, `infer cases`. It ends with its standard input.
struct Worker {
    child: Child,
    folders: ChildStdin,
    /// A line for each case.
    answers: Receiver<String>,
    errors: JoinHandle<String>,
}

impl Worker {
    fn start(program: &Path, threads: Option<usize>, backend: Backend) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("cases").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("RUST_BACKTRACE", "0");
        if let Some(threads) = threads {
            command.arg("--threads").arg(threads.to_string());
        }
        if let Some(value) = backend.to_possible_value() {
            command.arg("--backend").arg(value.get_name());
        }
        let mut child = command.spawn()?;
        let (Some(folders), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("it has no pipes"));
        };
        let (answer, answers) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.take_while(|line| answer.send(line.clone()).is_ok()).for_each(drop);
        });
        // Read while it runs: a full pipe would stop it.
        let errors = thread::spawn(move || text_of(errors));
        Ok(Worker { child, folders, answers, errors })
    }

    /// What becomes of the case in `folder`, and the process, if the case has left it alive.
    fn run(mut self, folder: &Path) -> (Outcome, Option<Worker>) {
        // Where it does not read, it does not answer either.
        let _ = writeln!(self.folders, "{}", folder.display());
        match self.answers.recv_timeout(LIMIT) {
            Ok(line) => match Outcome::read(&line) {
                Some(mut outcome) => {
                    outcome.failure = outcome.failure.map(|reason| shortened(&reason));
                    (outcome, Some(self))
                }
                None => (self.stop(&format!("it answers {}", quote(&line))), None),
            },
            Err(RecvTimeoutError::Timeout) => {
                (self.stop(&format!("it takes longer than {} s", LIMIT.as_secs())), None)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait();
                let errors = self.errors.join().unwrap_or_default();
                let reason = match status {
                    Ok(status) => reason(status, &errors),
                    Err(error) => format!("waiting for the process failed: {error}"),
                };
                (Outcome::failed(shortened(&reason)), None)
            }
        }
    }

    /// Stops the process, for a case that fails so.
    fn stop(mut self, why: &str) -> Outcome {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Outcome::failed(shortened(why))
    }

    /// There are no more cases.
    fn end(mut self) {
        drop(self.folders);
        let _ = self.child.wait();
    }
}

fn text_of(mut pipe: impl Read) -> String {
    const MOST: u64 = 1 << 20;
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(MOST).read_to_end(&mut bytes);
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a process says that ended before it answered.
fn reason(status: ExitStatus, errors: &str) -> String {
    // `thread 'main' panicked at FILE:LINE:COLUMN:` and the message on the next line.
    let mut lines = errors.lines().skip_while(|line| !line.contains("panicked at "));
    if let Some((_, place)) = lines.next().and_then(|line| line.split_once("panicked at ")) {
        return format!("panic at {} {}", place.trim(), lines.next().unwrap_or_default().trim());
    }
    let last = errors.lines().map(str::trim).rfind(|line| !line.is_empty());
    let what = last.map_or_else(String::new, |line| format!(": {line}"));
    format!("crash, {status}{what}")
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}
