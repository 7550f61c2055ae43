//! The vocabulary of kernel calls: the parameters of every kernel, shared by all backends.
//!
//! Sizes and strides are in elements unless a name says bytes. Every structure is plain data with a fixed layout,
//! because plans hold them as bytes. Optional operands are always listed, empty where absent.

use bytemuck::{Pod, Zeroable};

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

/// The function applied to a finished value; see [`Activation`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActivationKind {
    /// x
    #[default]
    None = 0,
    /// max(x, 0)
    Relu = 1,
    /// x if x ≥ 0 else alpha·x
    LeakyRelu = 2,
    /// min(max(x, alpha), beta)
    Clip = 3,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid = 4,
    /// max(0, min(1, alpha·x + beta))
    HardSigmoid = 5,
    /// x · max(0, min(1, x/6 + 1/2))
    HardSwish = 6,
    /// x · sigmoid(x)
    Silu = 7,
    /// x/2 · (1 + erf(x/√2))
    Gelu = 8,
    /// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))
    GeluTanh = 9,
    /// tanh x
    Tanh = 10,
    /// ln(1 + eˣ)
    Softplus = 11,
    /// x · tanh(ln(1 + eˣ))
    Mish = 12,
}

impl ActivationKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [ActivationKind; 13] = [
        ActivationKind::None,
        ActivationKind::Relu,
        ActivationKind::LeakyRelu,
        ActivationKind::Clip,
        ActivationKind::Sigmoid,
        ActivationKind::HardSigmoid,
        ActivationKind::HardSwish,
        ActivationKind::Silu,
        ActivationKind::Gelu,
        ActivationKind::GeluTanh,
        ActivationKind::Tanh,
        ActivationKind::Softplus,
        ActivationKind::Mish,
    ];
}

/// An activation with its constants, as stored in a plan. NaN stays NaN.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Activation {
    /// An [`ActivationKind`] as a number.
    pub kind: u32,
    /// The first constant.
    pub alpha: f32,
    /// The second constant.
    pub beta: f32,
    /// Zero.
    pub reserved: u32,
}

impl Activation {
    /// No activation.
    pub const NONE: Activation = Activation { kind: 0, alpha: 0.0, beta: 0.0, reserved: 0 };

    /// The activation `kind` with its constants.
    pub fn new(kind: ActivationKind, alpha: f32, beta: f32) -> Self {
        Activation { kind: kind as u32, alpha, beta, reserved: 0 }
    }

    /// The kind, or `None` for a number that stands for none.
    pub fn kind(&self) -> Option<ActivationKind> {
        ActivationKind::ALL.get(self.kind as usize).copied()
    }
}

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

/// `winograd_f32`: a 3×3 convolution of stride 1 with few multiplications, on NCHW16c; input with halo as for [`Conv`].
///
/// Operands: input, prepared weights (see [`WinogradWeights`]), bias and residual as for [`Conv`]; output, and memory
/// to work in: at least [`Winograd::slot`] elements, and as many times that as chunks are to run at once.
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
    /// The elements that one chunk works in; `None` on overflow. Every plane is followed by a cache line, so that
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

/// `strassen_f32`, `strassen_f16w`: a product of matrices by Strassen's algorithm: seven products of halves of both
/// matrices' rows and columns, where the definition takes eight.
///
/// Operands: sums of quarters of the left matrix (see [`StrassenLeft`]); weights, bias and residual as for [`Conv`];
/// output, and memory to work in: at least [`Strassen::slot`] elements, and as many times that as chunks are to run at
/// once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Strassen {
    /// What is computed: the product of one left matrix by one right one, whose columns are whole panel groups of
    /// [`Strassen::COLUMNS`]. Its `input` is not used.
    pub conv: Conv,
    /// Into how many equal parts the sums are cut; each is two halves of whole blocks of channels.
    pub parts: u64,
}

impl Strassen {
    /// The columns that are worked on together: two halves of two panels each.
    pub const COLUMNS: u64 = 4 * BLOCK as u64;

    /// Rows of each half that a chunk takes through the seven products together.
    pub const BLOCK_ROWS: u64 = 112;

    /// Elements of what lies between the steps of such rows.
    pub const STEP_ELEMENTS: u64 = 8 * Strassen::BLOCK_ROWS * Strassen::COLUMNS / 2;

    /// Where the left matrix's sums lie.
    pub fn left(&self) -> StrassenLeft {
        StrassenLeft { rows: self.conv.out_w, columns: self.conv.in_channels, parts: self.parts, stride: 0 }
    }

    /// The elements that one chunk works in; `None` on overflow: the results of a group of panels; what lies between
    /// the steps; and a sum of weights, two panels a cache line apart.
    pub fn slot(&self) -> Option<u64> {
        let left = self.left();
        let results = left.half_rows().checked_mul(2 * Strassen::COLUMNS)?;
        let sum = left.half_columns().checked_add(1)?.checked_mul(2 * BLOCK as u64)?;
        results.checked_add(Strassen::STEP_ELEMENTS)?.checked_add(sum)
    }
}

/// `strassen_left_f32`: quarters and sums of quarters of a left matrix, for [`Strassen`].
///
/// With A₁₁, A₁₂ the upper quarters of a part of the columns and A₂₁, A₂₂ the lower ones, the output is, for each part,
/// A₁₁, A₁₂, A₂₂, S₁ = A₂₁ + A₂₂, S₂ = S₁ − A₁₁, S₃ = A₁₁ − A₂₁, S₄ = A₁₂ − S₂, each `[columns/16][pitch][16]`. An odd last row
/// meets zeros.
///
/// Operands: input f32 `[rows, columns]`; output f32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct StrassenLeft {
    /// Rows.
    pub rows: u64,
    /// Columns: a multiple of 32 times `parts`.
    pub columns: u64,
    /// Parts that the columns are cut into.
    pub parts: u64,
    /// Between rows of the input.
    pub stride: u64,
}

impl StrassenLeft {
    /// Matrices that are stored for each part.
    pub const MATRICES: u64 = 7;

    /// Rows of a quarter.
    pub fn half_rows(&self) -> u64 {
        self.rows.div_ceil(2)
    }

    /// Columns of a quarter.
    pub fn half_columns(&self) -> u64 {
        self.columns / self.parts.max(1) / 2
    }

    /// Rows between blocks of columns of a stored matrix: odd, so that the blocks fall on different lines of a cache.
    pub fn pitch(&self) -> u64 {
        self.half_rows() | 1
    }

    /// The elements of a stored matrix; `None` on overflow.
    pub fn matrix(&self) -> Option<u64> {
        self.half_columns().checked_mul(self.pitch())
    }

    /// The elements of the output; `None` on overflow.
    pub fn elements(&self) -> Option<u64> {
        self.matrix()?.checked_mul(Self::MATRICES)?.checked_mul(self.parts)
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

/// `pack_b_f32`: the right matrix of a product, known only at run time, into [`Conv`]'s panels `[batch][N/16][K][16]`.
///
/// Operands: input f32, output f32 (lanes beyond `n` are zero).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct PackB {
    /// Matrices.
    pub batch: u64,
    /// Rows.
    pub k: u64,
    /// Columns.
    pub n: u64,
    /// Between matrices of the input.
    pub stride_batch: u64,
    /// Between rows of the input.
    pub stride_k: u64,
    /// Between columns of the input.
    pub stride_n: u64,
}

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

/// Elementwise calls with up to three inputs: `OP_TYPE`, such as `add_f32`, `relu_f32`, `where_b4`, `copy_b2`.
///
/// `out[i] = op(in0[i], in1[i], …)` over a common index space; a stride of zero broadcasts, a negative one reverses.
/// Copies (`copy_b1`, `b2`, `b4`, `b8`: by element width) move slices, transposes and expansions alike;
/// `fill_b1` … `b8` have no input and write the low bytes of `value`.
///
/// Operands: inputs, then the output; strides and offsets in the same order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Elementwise {
    /// Dimensions in use, at most [`MAX_RANK`]; 0 for one element.
    pub rank: u64,
    /// Extents, outermost first.
    pub dims: [u64; MAX_RANK],
    /// The strides of each operand.
    pub strides: [[i64; MAX_RANK]; 4],
    /// The first element of each operand.
    pub offsets: [u64; 4],
    /// The value of a fill, as the bytes of one element.
    pub value: u64,
    /// The first constant of a unary operation (see [`Activation`]).
    pub alpha: f32,
    /// The second constant.
    pub beta: f32,
}

impl Elementwise {
    /// The call over `shape`, given each operand's strides (of the shape's rank) and first element; adjacent axes
    /// that every operand walks without a gap are merged and axes of extent 1 dropped.
    /// `None` where more than [`MAX_RANK`] axes or 4 operands remain, or the numbers of strides disagree.
    pub fn new(shape: &[usize], operands: &[(&[i64], u64)]) -> Option<Self> {
        if operands.len() > 4 || operands.iter().any(|(strides, _)| strides.len() != shape.len()) {
            return None;
        }
        let mut axes: Vec<(u64, [i64; 4])> = Vec::new();
        for (axis, &extent) in shape.iter().enumerate() {
            if extent == 1 {
                continue;
            }
            let mut strides = [0; 4];
            for (slot, (operand, _)) in strides.iter_mut().zip(operands) {
                *slot = operand[axis];
            }
            match axes.last_mut() {
                Some((outer, previous))
                    if (0..operands.len()).all(|o| previous[o] == strides[o] * extent as i64) =>
                {
                    *outer *= extent as u64;
                    *previous = strides;
                }
                _ => axes.push((extent as u64, strides)),
            }
        }
        if axes.len() > MAX_RANK {
            return None;
        }
        let mut call = Elementwise { rank: axes.len() as u64, ..Elementwise::zeroed() };
        for (axis, (extent, strides)) in axes.into_iter().enumerate() {
            call.dims[axis] = extent;
            for (operand, stride) in strides.into_iter().enumerate() {
                call.strides[operand][axis] = stride;
            }
        }
        for (slot, (_, offset)) in call.offsets.iter_mut().zip(operands) {
            *slot = *offset;
        }
        Some(call)
    }

    /// The lowest and one past the highest element that operand `index` touches; `None` where that leaves the
    /// range of element numbers. `(0, 0)` for an empty call.
    pub fn extent(&self, index: usize) -> Option<(u64, u64)> {
        let rank = usize::try_from(self.rank).ok().filter(|&rank| rank <= MAX_RANK)?;
        if self.dims[..rank].contains(&0) {
            return Some((0, 0));
        }
        let offset = i64::try_from(*self.offsets.get(index)?).ok()?;
        let (mut low, mut high) = (offset, offset);
        for axis in 0..rank {
            let steps = i64::try_from(self.dims[axis] - 1).ok()?;
            let reach = self.strides[index][axis].checked_mul(steps)?;
            if reach < 0 { low = low.checked_add(reach)? } else { high = high.checked_add(reach)? }
        }
        Some((u64::try_from(low).ok()?, u64::try_from(high).ok()?.checked_add(1)?))
    }
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

/// The leading axes of [`Attention`].
pub const LEAD: usize = 4;

/// How the rows of one operand of [`Attention`] lie in it; a stride of zero shares rows along that axis.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct HeadView {
    /// The first element.
    pub offset: u64,
    /// Between positions of the leading axes.
    pub lead: [u64; LEAD],
    /// Between rows.
    pub row: u64,
    /// Between the elements of a row.
    pub element: u64,
}

impl HeadView {
    /// The number of elements an operand needs so that all rows lie inside it; `None` on overflow. Zero where any
    /// extent is zero.
    pub fn end(&self, lead: &[u64; LEAD], rows: u64, elements: u64) -> Option<u64> {
        if lead.contains(&0) || rows == 0 || elements == 0 {
            return Some(0);
        }
        let axes = lead.iter().zip(&self.lead).chain([(&rows, &self.row), (&elements, &self.element)]);
        let mut last = self.offset;
        for (extent, stride) in axes {
            last = last.checked_add((extent - 1).checked_mul(*stride)?)?;
        }
        last.checked_add(1)
    }
}

/// `attention_f32`: out = softmax(scale · Q · Kᵀ + mask) · V for every position of the leading axes.
///
/// Rows of queries, keys, values and results lie where strides say, so that heads are read out of the projections
/// that hold them side by side; the elements of a row are contiguous but for keys and masks. Heads that share keys and
/// values are a leading axis along which those have a stride of zero.
///
/// Operands: queries, keys, values, mask or absent, all f32; output; memory to work in, any number of times
/// [`scratch`](Attention::scratch) elements: so many chunks run side by side.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Attention {
    /// The extents of the leading axes: batches, windows, heads, groups of heads.
    pub lead: [u64; LEAD],
    /// Queries.
    pub rows: u64,
    /// Keys, and rows of values.
    pub keys: u64,
    /// Elements of a query and of a key.
    pub size: u64,
    /// Elements of a value.
    pub value_size: u64,
    /// `[lead, rows, size]`
    pub query: HeadView,
    /// `[lead, keys, size]`
    pub key: HeadView,
    /// `[lead, keys, value_size]`
    pub value: HeadView,
    /// `[lead, rows, keys]`; `element` is 0 or 1.
    pub mask: HeadView,
    /// `[lead, rows, value_size]`
    pub output: HeadView,
    /// 1 where row i sees the keys up to number i + `causal_offset` alone.
    pub causal: u64,
    /// See `causal`.
    pub causal_offset: u64,
    /// The factor of the scores, before the mask is added.
    pub scale: f32,
    /// Zero.
    pub reserved: u32,
}

impl Attention {
    /// The most rows that are worked on at a time.
    pub const ROW_BLOCK: u64 = 64;
    /// The most keys that are worked on at a time.
    pub const KEY_BLOCK: u64 = 384;

    /// Keys in a block: as even as multiples of 16 allow.
    pub fn key_block(&self) -> u64 {
        let blocks = self.keys.div_ceil(Self::KEY_BLOCK).max(1);
        self.keys.div_ceil(blocks).next_multiple_of(BLOCK as u64)
    }

    /// Elements of the memory that one chunk works in: packed queries, keys and values, scores, sums, and for each row
    /// its greatest score and its sum of exponentials. `None` on overflow.
    pub fn scratch(&self) -> Option<u64> {
        const LIMIT: u64 = 1 << 40;
        let extents = [self.rows, self.keys, self.size, self.value_size];
        if extents.iter().any(|&extent| extent > LIMIT) {
            return None;
        }
        let block = BLOCK as u64;
        let rows = Self::ROW_BLOCK.min(self.rows.next_multiple_of(block));
        let (keys, size) = (self.key_block(), self.size.next_multiple_of(block));
        let value_size = self.value_size.next_multiple_of(block);
        let parts = [
            rows.checked_mul(size)?,
            keys.checked_mul(size)?,
            keys.checked_mul(value_size)?,
            keys.checked_mul(rows + 1)?,
            rows.checked_mul(value_size)?,
            2 * self.rows.next_multiple_of(block),
        ];
        parts.into_iter().try_fold(0_u64, u64::checked_add)
    }
}

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

/// `lstm_f32`, `gru_f32`, `rnn_f32`: a recurrent network over all its steps, from products that hold what the inputs
/// contribute.
///
/// With s the recurrent sums hₜ₋₁·Rᵀ of each gate and x what `gates` holds, all in ONNX's order of gates:
/// - `rnn_f32`: h = activation(x + s)
/// - `gru_f32` (z, r, h): z = σ(x + s), r = σ(x + s), n = tanh(x + r·(s + b)) where `linear_before_reset` is 1, else
///   tanh(x + s' + b) with s' the sums of r·hₜ₋₁; h = (1 − z)·n + z·hₜ₋₁
/// - `lstm_f32` (i, o, f, c): c = σ(f)·cₜ₋₁ + σ(i)·tanh(c), h = σ(o)·tanh(c), each gate being x + s
///
/// Operands: gates; weights `[directions][gates][H/16][H][16]`, rows of one gate of R as columns, padded with zeros to
/// whole panels; the first h or absent (zero); for `lstm_f32` the first c or absent, for `gru_f32` b `[directions, H]`
/// or absent; then the outputs: every h or absent; the last h; for `lstm_f32` the last c; and memory to work in,
/// `[directions, batch, 2·H]`, for `gru_f32` `[directions, batch, 4·H]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Recurrent {
    /// Steps in time.
    pub steps: u64,
    /// 1, or 2 of which the second walks from the last step to the first.
    pub directions: u64,
    /// Sequences side by side.
    pub batch: u64,
    /// Elements of a state, H.
    pub hidden: u64,
    /// 1 where the first direction, too, walks from the last step to the first.
    pub reverse: u64,
    /// 1 where the reset gate of a GRU applies after the product.
    pub linear_before_reset: u64,
    /// What the inputs contribute: `stride_n` is between steps, `stride_c` between directions, `stride_h` between
    /// sequences; the gates of one state, H elements each, are contiguous.
    pub gates: View,
    /// Every h, with strides likewise.
    pub output: View,
    /// The first and the last states, with strides likewise.
    pub state: View,
    /// Of `rnn_f32`.
    pub activation: Activation,
}
