//! The operators of ai.onnx.ml but the trees.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
