//! CumSum, CumProd, ReverseSequence, Trilu: what runs along one axis.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
