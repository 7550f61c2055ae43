//! The optimisers of ai.onnx.preview.training.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
