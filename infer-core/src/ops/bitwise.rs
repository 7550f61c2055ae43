//! BitShift, BitwiseAnd, BitwiseOr, BitwiseXor, BitwiseNot, BitCast.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
