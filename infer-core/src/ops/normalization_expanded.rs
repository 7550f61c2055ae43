//! Normalisations that are expanded to other operators.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
