//! GatherElements, GatherND, ScatterElements, ScatterND, Scatter, TensorScatter.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
