//! What can go wrong at run time.

use std::fmt;

/// The result of run-time calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of error an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The plan is damaged, or was made by another version.
    Plan,
    /// `INFER_ISA`, `INFER_THREADS` or an option of a builder asks for what is not there.
    Configuration,
    /// An input's values cannot be computed with, such as an index out of range.
    Input,
    /// A value has another shape or type than the model declares for it: an input that was given, or an output that
    /// came out.
    Shape,
    /// The model does not run on bytes, as not all its inputs and outputs are arrays.
    NotArrays,
    /// The system, or the GPU, does not grant the memory that an inference needs.
    Memory,
    /// There is no CUDA driver.
    NoDriver,
    /// The CUDA driver is too old.
    Driver,
    /// There is no such GPU.
    NoDevice,
    /// The GPU is of an architecture that the kernels do not run on.
    Architecture,
    /// The GPU failed.
    Device,
}

/// An error at run time. Its display says what was wrong, where, and what to do.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into() }
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
