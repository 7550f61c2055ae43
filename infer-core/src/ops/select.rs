//! TopK, Unique, Compress, NonZero, OneHot, EyeLike, Hardmax, CenterCropPad.

use super::Row;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[];
