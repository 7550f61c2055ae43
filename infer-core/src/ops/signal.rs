//! DFT, STFT, windows and MelWeightMatrix.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
