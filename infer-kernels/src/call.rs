//! The vocabulary of kernel calls: the parameters of every kernel, shared by all backends.
//!
//! Sizes and strides are in elements unless a name says bytes. Every structure is plain data with a fixed layout,
//! because plans hold them as bytes. Optional operands are always listed, empty where absent.

mod activation;
mod attention;
mod conv;
mod elementwise;
mod movement;
mod norm;
mod pool;
mod product;
mod recurrent;
mod reduce;
mod region;
mod sample;
mod scatter;
mod winograd;

use bytemuck::{Pod, Zeroable};

pub use activation::{Activation, ActivationKind};
pub use attention::{Attention, HeadView, LEAD};
pub use conv::{Conv, ConvDepthwise, ConvNd, Depthwise, PooledConv, residual};
pub use elementwise::Elementwise;
pub use movement::{FillHalo, Gather, IndexMap, Reorder, Resize};
pub use norm::{GroupNorm, GroupNormBlocked, LayerNorm, Lrn};
pub use pool::{Col2Im, Pool, PoolNd};
pub use product::{MatMul, PackB, Strassen, StrassenLeft};
pub use recurrent::Recurrent;
pub use reduce::{Axis, Reduce, Scan, TopK};
pub use region::{Corners, MaxRoiPool, NonMaxSuppression, RegionAxis, RoiAlign, Sample};
pub use sample::GridSample;
pub use scatter::{ScatterElements, ScatterNd};
pub use winograd::{WINOGRAD_ROWS, Winograd, WinogradRows, WinogradWeights, winograd_planes};

/// The most dimensions a call iterates over, after collapsing.
pub const MAX_RANK: usize = 8;

/// Channels in a block of the blocked layout NCHW16c, and output channels in a panel of packed weights.
pub const BLOCK: usize = 16;

/// How a four-dimensional tensor lies in an operand: the strides between images, channel blocks, rows and pixels.
///
/// The channels of one block are contiguous. NCHW16c has a pixel stride of 16; a row-major `[M, K]` matrix is a
/// picture of one row with M pixels, a pixel stride of K and a block stride of 16; a small channel count may be
/// one block of its own width (NHWC).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct View {
    /// The element at image 0, channel 0, row 0, column 0.
    pub offset: u64,
    /// Between images.
    pub stride_n: u64,
    /// Between channel blocks (between channels where the block is one channel wide).
    pub stride_c: u64,
    /// Between rows.
    pub stride_h: u64,
    /// Between pixels of a row.
    pub stride_w: u64,
}

impl View {
    /// The number of elements an operand needs so that `n` images of `blocks` blocks, `h` rows and `w` pixels of
    /// `lanes` contiguous elements each lie inside it; `None` on overflow. Zero where any extent is zero.
    pub fn end(&self, n: u64, blocks: u64, h: u64, w: u64, lanes: u64) -> Option<u64> {
        if n == 0 || blocks == 0 || h == 0 || w == 0 || lanes == 0 {
            return Some(0);
        }
        let mut last = self.offset;
        for (extent, stride) in
            [(n, self.stride_n), (blocks, self.stride_c), (h, self.stride_h), (w, self.stride_w), (lanes, 1)]
        {
            last = last.checked_add((extent - 1).checked_mul(stride)?)?;
        }
        last.checked_add(1)
    }
}
