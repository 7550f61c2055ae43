//! Reductions over axes, and what walks one axis.

use bytemuck::{Pod, Zeroable};

use super::MAX_RANK;

/// `reduce_OP_TYPE`: over any set of axes of a row-major tensor.
///
/// Operands: input, output (row-major over the kept axes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Reduce {
    /// Kept axes.
    pub kept_rank: u64,
    /// Their extents.
    pub kept_dims: [u64; MAX_RANK],
    /// Their strides in the input.
    pub kept_strides: [u64; MAX_RANK],
    /// Reduced axes.
    pub reduced_rank: u64,
    /// Their extents.
    pub reduced_dims: [u64; MAX_RANK],
    /// Their strides in the input.
    pub reduced_strides: [u64; MAX_RANK],
}

/// `softmax_f32`, `log_softmax_f32`, and `arg_max_TYPE`, `arg_min_TYPE` (whose output is i64 `[outer, inner]`):
/// along the middle axis of `[outer, axis, inner]`.
///
/// Operands: input, output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Axis {
    /// Elements before the axis.
    pub outer: u64,
    /// The axis.
    pub axis: u64,
    /// Elements after the axis.
    pub inner: u64,
    /// 1 where the last of equal extremes is selected.
    pub select_last: u64,
}

/// `cum_sum_TYPE`, `cum_prod_TYPE`: the running sum or product along the middle axis of `[outer, axis, inner]`; integers
/// wrap.
///
/// Operands: input, output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Scan {
    /// Elements before the axis.
    pub outer: u64,
    /// The axis.
    pub axis: u64,
    /// Elements after the axis.
    pub inner: u64,
    /// 1 where an element itself does not count.
    pub exclusive: u64,
    /// 1 where it begins at the end.
    pub reverse: u64,
}

/// `top_k_TYPE`: the `k` greatest or smallest elements along the middle axis of `[outer, axis, inner]`, in order. NaN is the
/// greatest; of equal elements the first comes first.
///
/// Operands: input; elements `[outer, k, inner]`; their positions along the axis, i64, likewise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TopK {
    /// Elements before the axis.
    pub outer: u64,
    /// The axis.
    pub axis: u64,
    /// Elements after the axis.
    pub inner: u64,
    /// How many are selected, no more than there are.
    pub k: u64,
    /// 1 where the smallest come first.
    pub smallest: u64,
}
