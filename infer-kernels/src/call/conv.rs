//! Convolutions, and the products of matrices that are convolutions of one tap.

use bytemuck::{Pod, Zeroable};

use super::{Activation, BLOCK, View};

/// Where [`Conv`] adds its residual operand.
pub mod residual {
    /// There is none.
    pub const NONE: u64 = 0;
    /// activation(sum + bias + residual)
    pub const BEFORE_ACTIVATION: u64 = 1;
    /// activation(sum + bias) + residual
    pub const AFTER_ACTIVATION: u64 = 2;
}

/// `conv_f32`, `conv_f16w`: convolution and matrix product on packed weights.
///
/// `out[n, o, y, x] = act(bias[o] + Σ in[n, c, y·stride_h + i·dilation_h, x·stride_w + j·dilation_w] · w[o, c, i, j])`
///
/// There is no padding: `input` points at the first tap of the first pixel, in a halo that the producer wrote.
/// A matrix product is the case of one row, with a pixel for each row of the left matrix.
///
/// Operands: input f32; weights f32 (`conv_f32`) or f16 (`conv_f16w`), `[batch of weights][OC/16][K][16]`, output
/// channels padded with zeros to whole panels, K ordered (channel block, row tap, column tap, channel of the block)
/// and exact (the last block has `in_channels − 16·(blocks − 1)` channels); bias f32 `[out_channels]` or absent;
/// residual f32 or absent; output f32. With groups, panels of group 0 come first; each group has whole panels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Conv {
    /// Images.
    pub n: u64,
    /// Groups; where more than one, `in_channels` and `out_channels` are multiples of 16 within each group.
    pub groups: u64,
    /// Input channels of one group.
    pub in_channels: u64,
    /// Channels in a block of the input: 16, or `in_channels` where that is smaller.
    pub in_block: u64,
    /// Output channels of one group. Lanes of the last block beyond it are written as zero where
    /// `output_padded` is 1, else not at all.
    pub out_channels: u64,
    /// 1 where the output (and the residual) has whole blocks of 16, as NCHW16c has.
    pub output_padded: u64,
    /// Output rows.
    pub out_h: u64,
    /// Output columns.
    pub out_w: u64,
    /// Kernel rows.
    pub kernel_h: u64,
    /// Kernel columns.
    pub kernel_w: u64,
    /// Between output rows, in input rows.
    pub stride_h: u64,
    /// Between output columns, in input columns.
    pub stride_w: u64,
    /// Between kernel rows, in input rows.
    pub dilation_h: u64,
    /// Between kernel columns, in input columns.
    pub dilation_w: u64,
    /// Elements between the weights of consecutive images; 0 where all images share one set.
    pub weights_stride_n: u64,
    /// The input; `stride_c` is between blocks of `in_block` channels.
    pub input: View,
    /// The output; blocks of 16 channels.
    pub output: View,
    /// The residual; blocks of 16 channels.
    pub residual: View,
    /// One of [`residual`].
    pub residual_mode: u64,
    /// Applied last or before the residual.
    pub activation: Activation,
}

/// `depthwise_f32`, `depthwise_f16w`: one filter a channel, on NCHW16c, input with halo as for [`Conv`].
///
/// Operands: input, weights `[C/16][kernel_h·kernel_w][16]`, bias `[C]` padded to whole blocks or absent, residual
/// or absent, output. Same fields as [`Conv`], `groups` being the channels and `in_channels` = `out_channels` = 1.
pub type Depthwise = Conv;

/// `pooled_conv_f32`: the greatest of every 2×2 outputs of a convolution of a picture of few channels.
///
/// Operands and fields as for [`Conv`], where `out_h` and `out_w`, the output and its view are what is left after
/// pooling; the input has `2·out_h + kernel_h − 1` rows and as many columns likewise. Kernels of 3×3 or 5×5 at stride 1,
/// one group, one input block of its own width, no residual, no activation but those that clamp.
pub type PooledConv = Conv;

/// `conv_depthwise_f32`, `conv_depthwise_f16w`: a convolution and the depthwise one that alone reads it, in bands of rows
/// of two blocks of channels, so that what lies between them stays in a core's caches.
///
/// Operands: input, weights and bias of the convolution; weights, bias and residual of the depthwise one; output, and
/// memory to work in: at least [`ConvDepthwise::slot`] elements for one row. Chunks share it evenly, and take bands of as
/// many rows as their shares hold.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ConvDepthwise {
    /// The convolution: one group, one set of weights, no residual; its output view is not looked at.
    pub conv: Conv,
    /// The depthwise convolution of the other's result; its input view is not looked at.
    pub depthwise: Depthwise,
    /// Rows of zeros that it reads above that result.
    pub pad_top: u64,
    /// Columns of zeros that it reads left of it; what it reads below and on the right is zero too.
    pub pad_left: u64,
    /// Its output rows in a band, at most.
    pub band: u64,
}

impl ConvDepthwise {
    /// Blocks of channels that are worked on together.
    pub const BLOCKS: u64 = 2;

    /// The rows that an output row of the depthwise convolution reads; the fields are within their bounds.
    pub const fn reach(&self) -> u64 {
        (self.depthwise.kernel_h.saturating_sub(1)) * self.depthwise.dilation_h + 1
    }

    /// The rows of what lies between that so many output rows read; `None` on overflow.
    pub fn rows(&self, band: u64) -> Option<u64> {
        band.saturating_sub(1).checked_mul(self.depthwise.stride_h)?.checked_add(self.reach())
    }

    /// The columns of what lies between, with those of zeros; `None` on overflow.
    pub fn columns(&self) -> Option<u64> {
        let p = &self.depthwise;
        let taps = p.kernel_w.saturating_sub(1).checked_mul(p.dilation_w)?.checked_add(1)?;
        let read = p.out_w.saturating_sub(1).checked_mul(p.stride_w)?.checked_add(taps)?;
        Some(read.max(self.pad_left.checked_add(self.conv.out_w)?))
    }

    /// The elements that one chunk works in for bands of so many rows; `None` on overflow.
    pub fn slot(&self, band: u64) -> Option<u64> {
        (Self::BLOCKS * BLOCK as u64).checked_mul(self.rows(band)?)?.checked_mul(self.columns()?)
    }
}

/// `conv_nd_f32`, `conv_transpose_nd_f32`: any rank to 3, any groups, on row-major tensors; slow and general.
///
/// Operands: input `[N, G·C, spatial]`; weights `[G·O, C, kernel]` (transposed: `[G·C, O, kernel]`); bias `[G·O]`
/// or absent; output `[N, G·O, spatial]`. Unused leading spatial axes have extent 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct ConvNd {
    /// Images.
    pub n: u64,
    /// Groups.
    pub groups: u64,
    /// Input channels of one group.
    pub in_channels: u64,
    /// Output channels of one group.
    pub out_channels: u64,
    /// Input extents.
    pub input: [u64; 3],
    /// Output extents.
    pub output: [u64; 3],
    /// Kernel extents.
    pub kernel: [u64; 3],
    /// Strides.
    pub stride: [u64; 3],
    /// Dilations.
    pub dilation: [u64; 3],
    /// Padding before the first element.
    pub pad_begin: [u64; 3],
    /// Applied last.
    pub activation: Activation,
}
