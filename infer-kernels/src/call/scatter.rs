//! Elements put among those of a tensor, at places that indices name.

use bytemuck::{Pod, Zeroable};

use super::MAX_RANK;

/// `scatter_elements_b1` … `b16`, and `scatter_elements_OP_TYPE` where `OP` is add, mul, max or min: the data, in which each
/// update replaces, or is combined with, the element that its index names along one axis, the other coordinates being its
/// own: `out[indices[i, j, …], j, …] = updates[i, j, …]`, for axis 0.
///
/// Updates of one element follow each other in row-major order. Negative indices count from the end; others outside the
/// axis are [`crate::RunError::IndexOutOfRange`]. Operands: data; indices i32 or i64 by `index_bytes`; updates, as many as
/// indices; output, as large as the data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ScatterElements {
    /// Dimensions in use.
    pub rank: u64,
    /// Extents of the data.
    pub dims: [u64; MAX_RANK],
    /// Extents of the indices, no larger than the data's beside the axis.
    pub index_dims: [u64; MAX_RANK],
    /// The axis that the indices count along.
    pub axis: u64,
    /// 4 or 8.
    pub index_bytes: u64,
}

/// `scatter_nd_b1` … `b16`, and `scatter_nd_OP_TYPE` where `OP` is add, mul, max or min: the data, in which slices are
/// replaced by, or combined with, updates, one after the other: `out[indices[row]] = updates[row]`.
///
/// Indices as for [`ScatterElements`]. Operands: data `[dims…, slice]`; indices `[rows, depth]`; updates `[rows, slice]`;
/// output like the data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ScatterNd {
    /// Indices of a row.
    pub depth: u64,
    /// Extents of the axes that they count along.
    pub dims: [u64; MAX_RANK],
    /// Elements of a slice.
    pub slice: u64,
    /// Rows of indices.
    pub rows: u64,
    /// 4 or 8.
    pub index_bytes: u64,
}
