//! The fused operators that ONNX Runtime leaves in files.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
