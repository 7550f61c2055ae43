//! What can go wrong with pictures and boxes.

use std::fmt;

/// What went wrong in a vision helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file could not be read or written.
    Io,
    /// The bytes are not an image of a supported format, or use a variant of it that is not supported.
    Unsupported,
    /// The bytes begin as an image of a supported format, but are damaged or cut off.
    Malformed,
    /// The image exceeds a limit on file size, sides or memory.
    TooLarge,
    /// An argument is out of its range, or two arguments do not fit each other.
    InvalidArgument,
}

/// An error of a vision helper: what was wrong, in which file, and what to do.
///
/// The whole message, the cause included, is in its `Display`; what kind it is, for programs, in
/// [`kind`](Error::kind).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of a vision helper.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The same error, with the file or the part of the input that it is about before the message.
    pub(super) fn about(mut self, subject: impl fmt::Display) -> Self {
        self.message = format!("{subject}: {}", self.message);
        self
    }

    /// What went wrong, for programs to match on.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_comes_first() {
        let error = Error::new(ErrorKind::Malformed, "the data end early").about("a.png");
        assert_eq!(error.to_string(), "a.png: the data end early");
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}
