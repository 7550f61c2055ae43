//! What the tensor memory accelerator of architecture 9.0 copies at a time: boxes of an operand, which the driver describes to it.

/// A tensor of 16 bits as a kernel has it copied. The innermost axis comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// The position of the operand.
    pub operand: usize,
    /// Whether elements are bf16, else f16.
    pub bf16: bool,
    /// Elements along each axis. What a box has beyond them is zero.
    pub extents: Vec<u64>,
    /// Bytes from one element to the next along each axis but the first, where they lie side by side.
    pub strides: Vec<u64>,
    /// What is copied at a time.
    pub boxes: Boxes,
}

/// The shape of what is copied at a time, into rows of 128 or 64 bytes whose chunks of 16 bytes are swapped by the row's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boxes {
    /// So many elements along each axis.
    Whole(Vec<u32>),
    /// Of a picture (channels, columns, rows, images) one tap of the windows of pixels that follow one another.
    Windows {
        /// Where the first window of a row and of a column begins: beside the first column, the first row; −128 to 127.
        lower: [i32; 2],
        /// Where the last one begins: beside the last column, the last row.
        upper: [i32; 2],
        /// From one window to the next, columns and rows; 8 at most.
        steps: [u32; 2],
        /// How many channels.
        channels: u32,
        /// Of how many windows.
        pixels: u32,
    },
}

/// What a kernel needs whose operands the accelerator copies: its argument begins with descriptions of tensors.
#[derive(Debug)]
pub struct Copies {
    /// These tensors, for parameters that the kernel has validated.
    pub tensors: fn(&[u8]) -> Vec<TensorMap>,
    /// The kernel that computes the same from the same operands where there is no accelerator, and its parameters.
    pub otherwise: fn(&[u8]) -> (&'static str, Vec<u8>),
    /// How many operands it has before those that the other kernel has too.
    pub own_operands: usize,
    /// Whether it also computes what the call after it does, which is launched behind the other kernel alone.
    pub with_next: bool,
}
