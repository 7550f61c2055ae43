//! x
use super::Row;
/// The rows.
pub const OPERATORS: &[Row] = &[];
