//! Einsum, and Det.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
