//! LSTM, GRU and RNN.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
