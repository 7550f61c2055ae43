//! RoiAlign, MaxRoiPool, GridSample, AffineGrid, MaxUnpool: reading pictures at computed places.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
