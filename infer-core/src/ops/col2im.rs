//! Col2Im.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
