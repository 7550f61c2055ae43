//! Elements on their way: layouts, halos, gathers, maps, and pictures of another size.

use bytemuck::{Pod, Zeroable};

use super::{MAX_RANK, View};

/// `to_blocked_f32`, `from_blocked_f32`: between a plain tensor and a blocked one.
///
/// Operands: input, output. Lanes beyond `channels` are written as zero going in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Reorder {
    /// Images.
    pub n: u64,
    /// Channels.
    pub channels: u64,
    /// Rows.
    pub h: u64,
    /// Columns.
    pub w: u64,
    /// Channels in a block of the blocked side.
    pub block: u64,
    /// The plain side; `stride_c` is between channels.
    pub plain: View,
    /// The blocked side; `stride_c` is between blocks.
    pub blocked: View,
}

/// `fill_halo_f32`: writes `value` into the border around a picture.
///
/// Operands: output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct FillHalo {
    /// Images.
    pub n: u64,
    /// Channel blocks.
    pub blocks: u64,
    /// Rows of the interior.
    pub h: u64,
    /// Columns of the interior.
    pub w: u64,
    /// Channels in a block.
    pub block: u64,
    /// Rows above, columns left, rows below, columns right.
    pub halo: [u64; 4],
    /// The interior; the halo lies before its offset.
    pub view: View,
    /// The value.
    pub value: f32,
    /// Zero.
    pub reserved: u32,
}

/// `gather_b1` … `gather_b8`: slices of `inner` elements selected by index along one axis.
///
/// Operands: data `[outer, axis, inner]`, indices i64 or i32 `[indices]`, output `[outer, indices, inner]`.
/// Negative indices count from the end; others outside the axis are [`crate::RunError::IndexOutOfRange`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Gather {
    /// Elements before the axis.
    pub outer: u64,
    /// The axis.
    pub axis: u64,
    /// Elements after the axis.
    pub inner: u64,
    /// Number of indices.
    pub indices: u64,
    /// 4 or 8.
    pub index_bytes: u64,
}

/// `index_map_b1` … `b8`: `out[i, j, …] = in[table0[i], table1[j], …]`, or `value` where an entry is −1.
///
/// Serves padding in every mode and nearest-neighbour resizing. Operands: input; tables i64, one after the other,
/// with as many entries as the output's axes have; output, row-major.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct IndexMap {
    /// Dimensions in use.
    pub rank: u64,
    /// Extents of the input, which every table entry is checked against when the map runs.
    pub in_dims: [u64; MAX_RANK],
    /// Extents of the output.
    pub out_dims: [u64; MAX_RANK],
    /// The bytes of one element, for entries of −1.
    pub value: u64,
}

/// `resize_f32`: interpolation along rows and columns as tables of taps; every mode but nearest comes to this.
///
/// `out[y, x] = Σₐ Σᵦ wh[y, a] · ww[x, b] · in[ih[y, a], iw[x, b]]`
///
/// Operands: input; indices i64: `[out_h, taps_h]` then `[out_w, taps_w]`; weights f32 likewise; output. Indices are
/// checked against the input's extents when the kernel runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Resize {
    /// Images.
    pub n: u64,
    /// Channel blocks.
    pub blocks: u64,
    /// Contiguous elements of a pixel: 16 blocked, 1 plain.
    pub lanes: u64,
    /// Input rows.
    pub in_h: u64,
    /// Input columns.
    pub in_w: u64,
    /// Output rows.
    pub out_h: u64,
    /// Output columns.
    pub out_w: u64,
    /// Taps a row.
    pub taps_h: u64,
    /// Taps a column.
    pub taps_w: u64,
    /// The input.
    pub input: View,
    /// The output.
    pub output: View,
}
