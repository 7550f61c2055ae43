//! Operators on quantised tensors.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
