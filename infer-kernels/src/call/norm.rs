//! Normalisations.

use bytemuck::{Pod, Zeroable};

use super::{Activation, BLOCK, View};

/// `layer_norm_f32`: each row of `[outer, inner]` to zero mean and unit variance, times scale, plus bias.
///
/// Operands: input, scale `[inner]` or absent, bias `[inner]` or absent, output. Statistics in f32 by two passes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct LayerNorm {
    /// Rows.
    pub outer: u64,
    /// Elements of a row.
    pub inner: u64,
    /// Added to the variance.
    pub epsilon: f32,
    /// 1 to keep the mean and divide by the root of the mean square, 0 to take the mean away first.
    pub keep_mean: u32,
}

/// `group_norm_f32`: each group of channels of `[n, channels, inner]` to zero mean and unit variance, then scale and
/// bias by channel, then an activation. Instance normalisation has as many groups as channels.
///
/// Operands: input, scale `[channels]` or absent, bias `[channels]` or absent, output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct GroupNorm {
    /// Images.
    pub n: u64,
    /// Groups.
    pub groups: u64,
    /// Channels, a multiple of `groups`.
    pub channels: u64,
    /// Elements of a channel.
    pub inner: u64,
    /// Added to the variance.
    pub epsilon: f32,
    /// Zero.
    pub reserved: u32,
    /// Applied last.
    pub activation: Activation,
}

/// `group_norm_blocked_f32`: what [`GroupNorm`] says of NCHW16c pictures, then an activation.
///
/// Operands: input, scale `[channels]` or absent, bias `[channels]` or absent, output. Lanes beyond the last channel are
/// not written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct GroupNormBlocked {
    /// Images.
    pub n: u64,
    /// Groups, of at most [`GroupNormBlocked::MOST_CHANNELS`] channels together with those that share their blocks.
    pub groups: u64,
    /// Channels, a multiple of `groups`.
    pub channels: u64,
    /// Rows.
    pub h: u64,
    /// Columns.
    pub w: u64,
    /// The input.
    pub input: View,
    /// The output.
    pub output: View,
    /// Added to the variance.
    pub epsilon: f32,
    /// Zero.
    pub reserved: u32,
    /// Applied last.
    pub activation: Activation,
}

impl GroupNormBlocked {
    /// The most channels whose statistics are kept at a time.
    pub const MOST_CHANNELS: u64 = 1024;

    /// The least number of blocks that hold whole groups alone; `None` where there are no such groups.
    pub fn cluster(&self) -> Option<u64> {
        let size = self.channels.checked_div(self.groups).filter(|&size| size > 0)?;
        let block = BLOCK as u64;
        // The block is a power of two: what it has in common with the group are the group's own factors of two.
        let common = 1 << size.trailing_zeros().min(block.trailing_zeros());
        Some((size / common).min(self.channels.div_ceil(block)))
    }
}

/// `lrn_f32`: out = in / (bias + alpha/size · Σ in²)^beta, the sum over `size` neighbouring channels.
///
/// Operands: input `[n, channels, inner]`, output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Lrn {
    /// Images.
    pub n: u64,
    /// Channels.
    pub channels: u64,
    /// Elements of a channel.
    pub inner: u64,
    /// Channels in the sum: ⌊(size − 1)/2⌋ before, ⌈(size − 1)/2⌉ after.
    pub size: u64,
    /// The scale of the sum.
    pub alpha: f32,
    /// The exponent.
    pub beta: f32,
    /// The constant.
    pub bias: f32,
    /// Zero.
    pub reserved: u32,
}
