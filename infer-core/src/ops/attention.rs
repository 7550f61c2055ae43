//! Attention and FlexAttention, expanded to matrix products and softmax.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
