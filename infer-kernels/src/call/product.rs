//! Products of matrices: Strassen's algorithm, and right matrices that only the run knows.

use bytemuck::{Pod, Zeroable};

use super::{BLOCK, Conv, MAX_RANK};

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
    /// How many products of as many columns each, of the same left matrix, are side by side: threads share each of them, since
    /// what follows reads the same columns of all.
    pub products: u64,
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
/// meets zeros. On AMX the output is the matrix itself in thirds of bf16, as tiles of 16 rows by 32 columns.
///
/// Operands: input f32 `[rows, columns]`; output f32, for the same instruction set to read.
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

    /// The elements of all stored matrices; `None` on overflow.
    pub fn sums(&self) -> Option<u64> {
        self.matrix()?.checked_mul(Self::MATRICES)?.checked_mul(self.parts)
    }

    /// The elements of thirds in the place of f32; `None` on overflow.
    fn thirds(&self) -> Option<u64> {
        let elements = self.rows.checked_next_multiple_of(BLOCK as u64)?.checked_mul(self.columns)?;
        Some(elements.checked_mul(3)? / 2)
    }

    /// The elements of the output, for every instruction set; `None` on overflow.
    pub fn elements(&self) -> Option<u64> {
        Some(self.sums()?.max(self.thirds()?))
    }
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

/// `matmul_f64`, `matmul_i32`, `matmul_i64`: products of matrices; integers wrap. (Those of f32 are convolutions.)
///
/// Operands: left matrices, right matrices, output `[dims…, m, n]`, row-major.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MatMul {
    /// Axes of products.
    pub rank: u64,
    /// Their extents, outermost first.
    pub dims: [u64; MAX_RANK],
    /// How far apart the left and the right matrices are along each, 0 where one serves several products.
    pub between: [[u64; MAX_RANK]; 2],
    /// Rows of a left matrix.
    pub m: u64,
    /// Its columns, and the rows of a right matrix.
    pub k: u64,
    /// The columns of a right matrix.
    pub n: u64,
    /// Between rows of the left and the right matrices.
    pub row_strides: [u64; 2],
    /// Between columns.
    pub column_strides: [u64; 2],
}
