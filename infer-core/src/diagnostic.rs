//! What can go wrong while a model is compiled, and what the message points at.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// What part of the user's request an error is about; the attribute points at the literal that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The model: its path.
    Model,
    /// The value of the named argument, such as `precision`.
    Argument(&'static str),
}

/// Why a model cannot be compiled: every failing node, not only the first.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// What the error is about.
    pub subject: Subject,
    /// The message: lower case, further lines indented, `help:` lines last.
    pub message: String,
}

impl Diagnostic {
    /// An error about the model.
    pub fn model(message: impl Into<String>) -> Self {
        Diagnostic { subject: Subject::Model, message: message.into() }
    }

    /// An error about the argument `name`.
    pub fn argument(name: &'static str, message: impl Into<String>) -> Self {
        Diagnostic { subject: Subject::Argument(name), message: message.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// Why an operator refuses a node. The import driver adds the node, its operator and its shapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// What is wrong: `mode "cubic" with antialias is not supported`.
    pub what: String,
    /// What is supported instead, for a `supported:` line.
    pub supported: Option<String>,
    /// What to do, for a `help:` line.
    pub help: Option<String>,
    /// Whether what is missing is there once the values are: such a node runs with the shapes it then has.
    pub at_run_time: bool,
    /// What kind of error it is where the run, not the node, is at fault.
    pub kind: Option<ErrorKind>,
}

impl Reason {
    /// A reason without further lines.
    pub fn new(what: impl Into<String>) -> Self {
        Reason { what: what.into(), supported: None, help: None, at_run_time: false, kind: None }
    }

    /// Nothing is wrong, but `what` is known only at run time.
    pub fn at_run_time(what: impl Into<String>) -> Self {
        Reason { at_run_time: true, ..Reason::new(what) }
    }

    /// What went wrong in a run.
    pub fn of(error: &Error) -> Self {
        Reason { kind: Some(error.kind()), ..Reason::new(error.to_string()) }
    }

    /// Adds what is supported.
    pub fn supported(mut self, supported: impl Into<String>) -> Self {
        self.supported = Some(supported.into());
        self
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// `name` in backticks for a message, as [`printable`].
pub fn quote(name: &str) -> String {
    format!("`{}`", printable(name))
}

/// `name` for a message: control characters escaped, and cut where it is very long.
pub fn printable(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut printable = String::with_capacity(name.len().min(LONGEST));
    for (index, character) in name.chars().enumerate() {
        if index == LONGEST {
            printable.push('…');
            break;
        }
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}
