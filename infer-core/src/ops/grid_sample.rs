//! GridSample.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
