//! If, Loop, Scan and SequenceMap: nodes with graphs inside.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
