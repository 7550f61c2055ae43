//! Pools.

use bytemuck::{Pod, Zeroable};

use super::View;

/// `max_pool_f32`, `average_pool_f32`: pooling on NCHW16c; windows are clipped to the picture, so no halo is read.
///
/// Operands: input, output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Pool {
    /// Images.
    pub n: u64,
    /// Channel blocks of 16.
    pub blocks: u64,
    /// Input rows.
    pub in_h: u64,
    /// Input columns.
    pub in_w: u64,
    /// Output rows.
    pub out_h: u64,
    /// Output columns.
    pub out_w: u64,
    /// Kernel rows and columns.
    pub kernel: [u64; 2],
    /// Strides.
    pub stride: [u64; 2],
    /// Dilations.
    pub dilation: [u64; 2],
    /// Padding above and left.
    pub pad_begin: [u64; 2],
    /// Padding below and right.
    pub pad_end: [u64; 2],
    /// 1 where the average divides by the window's elements including padding.
    pub count_include_pad: u64,
    /// The input.
    pub input: View,
    /// The output.
    pub output: View,
}

/// `max_pool_nd_f32`, `average_pool_nd_f32`, `lp_pool_nd_f32`: pooling of any rank to 3 on row-major tensors.
///
/// Operands: input `[outer, spatial]`, output, and for `max_pool_nd_f32` the indices i64 or absent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PoolNd {
    /// Images times channels.
    pub outer: u64,
    /// Input extents; unused leading axes are 1.
    pub input: [u64; 3],
    /// Output extents.
    pub output: [u64; 3],
    /// Kernel extents.
    pub kernel: [u64; 3],
    /// Strides.
    pub stride: [u64; 3],
    /// Dilations.
    pub dilation: [u64; 3],
    /// Padding before.
    pub pad_begin: [u64; 3],
    /// Padding after.
    pub pad_end: [u64; 3],
    /// 1 where the average divides by the window's elements including padding.
    pub count_include_pad: u64,
    /// 1 where indices count column-major within the spatial extents.
    pub column_major: u64,
    /// The p of the norm.
    pub p: u64,
}

/// `col2im_TYPE`: blocks put back into pictures of any rank to 3, added where they overlap; integers wrap.
///
/// Operands: input `[outer, block elements, blocks]`, output `[outer, spatial]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Col2Im {
    /// Images times channels.
    pub outer: u64,
    /// Extents of a picture; unused leading axes are 1.
    pub image: [u64; 3],
    /// Extents of a block.
    pub block: [u64; 3],
    /// How many blocks lie along each axis.
    pub blocks: [u64; 3],
    /// Between blocks.
    pub stride: [u64; 3],
    /// Between the elements of a block.
    pub dilation: [u64; 3],
    /// Padding before.
    pub pad_begin: [u64; 3],
}
