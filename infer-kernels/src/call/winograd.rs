//! Convolutions by Winograd's algorithms.

use bytemuck::{Pod, Zeroable};

use super::{BLOCK, Conv};

/// `winograd_f32`: a 3×3 convolution of stride 1 with few multiplications, on NCHW16c; input with halo as for [`Conv`].
///
/// Operands: input, prepared weights (see [`WinogradWeights`]), bias and residual as for [`Conv`]; output, and memory
/// to work in: at least [`Winograd::slot`] elements, and as many times that as chunks are to run at once, or less where these
/// share the tiles.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Winograd {
    /// What is computed: kernel 3×3, strides and dilations 1, blocks of 16 input channels, one set of weights.
    pub conv: Conv,
    /// Rows and columns of output that a tile makes: 4 or 2.
    pub tile: u64,
    /// The most tiles that are worked on together, at least 1.
    pub block_tiles: u64,
    /// The most pairs of output blocks that are worked on together, at least 1.
    pub block_pairs: u64,
}

impl Winograd {
    /// The elements that one chunk works in at most; `None` on overflow. Every plane is followed by a cache line, so that
    /// the planes of one tile do not compete for the same lines of a cache.
    pub fn slot(&self) -> Option<u64> {
        let block = BLOCK as u64;
        let planes = winograd_planes(self.tile);
        let lines = self.conv.in_channels.div_ceil(block).checked_add(self.block_pairs.checked_mul(2)?)?;
        lines.checked_mul(self.block_tiles)?.checked_add(2)?.checked_mul(block)?.checked_mul(planes)
    }
}

/// The products that a tile of `tile` × `tile` outputs takes for each pair of channels.
pub fn winograd_planes(tile: u64) -> u64 {
    tile.saturating_add(2).saturating_mul(tile.saturating_add(2))
}

/// `winograd_weights_f32`, `winograd_weights_f16w`: the filters of [`Winograd`] from [`Conv`]'s panels.
///
/// Operands: packed weights of a 3×3 convolution, f32 or f16; output f32
/// `[groups][pairs of output blocks][plane][block of the pair][in_channels][16]`, where the last pair of a group is a
/// single block if their number is odd.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct WinogradWeights {
    /// Groups.
    pub groups: u64,
    /// Input channels of one group.
    pub in_channels: u64,
    /// Output channels of one group.
    pub out_channels: u64,
    /// Rows and columns of output that a tile makes: 4 or 2.
    pub tile: u64,
}

impl WinogradWeights {
    /// The elements of the output; `None` on overflow.
    pub fn elements(&self) -> Option<u64> {
        let block = BLOCK as u64;
        [self.out_channels.div_ceil(block), self.in_channels, block, winograd_planes(self.tile)]
            .into_iter()
            .try_fold(self.groups, u64::checked_mul)
    }
}

/// `winograd_rows_f32`: a convolution of stride 1 with kernels of five columns and few multiplications, on NCHW16c;
/// input with halo as for [`Conv`].
///
/// The parameters are a [`Conv`] of one group, blocks of 16 input channels and one set of weights. Operands: input;
/// weights `[planes][OC/16][K][16]`, those of a plane packed as for a convolution with kernels of one column; bias and
/// residual as for [`Conv`]; output, and memory to work in: at least [`WinogradRows::slot`] elements, and as many times
/// that as chunks are to run at once.
pub const WINOGRAD_ROWS: WinogradRows = WinogradRows { tile: 4, taps: 5, rows: 28 };

/// The extents of [`WINOGRAD_ROWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WinogradRows {
    /// Outputs of a row that are computed together.
    pub tile: u64,
    /// The columns of the kernels.
    pub taps: u64,
    /// The most rows that are worked on together.
    pub rows: u64,
}

impl WinogradRows {
    /// The products that the outputs of a tile take for each row of taps and pair of channels.
    pub const fn planes(&self) -> u64 {
        self.tile + self.taps - 1
    }

    /// The elements that one chunk works in; `None` on overflow.
    pub fn slot(&self, p: &Conv) -> Option<u64> {
        let rows = self.rows.min(p.out_h);
        let lines = p.in_channels.div_ceil(BLOCK as u64).checked_mul(rows.checked_add(p.kernel_h)?)?;
        lines.checked_add(2 * rows)?.checked_mul(self.planes() * BLOCK as u64)
    }

    /// The elements of the weights; `None` on overflow.
    pub fn weights(&self, p: &Conv) -> Option<u64> {
        [p.out_channels.div_ceil(BLOCK as u64), p.in_channels, p.kernel_h, BLOCK as u64]
            .into_iter()
            .try_fold(self.planes(), u64::checked_mul)
    }
}
