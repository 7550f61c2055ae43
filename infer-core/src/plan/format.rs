//! The layout of a plan's bytes. `docs/plan-format.md` is the prose.
//!
//! Every number is little-endian, as on every target that is supported, so that tables are read where they lie.

use bytemuck::{Pod, Zeroable};

/// The first bytes of every plan.
pub(super) const MAGIC: [u8; 8] = *b"INFRPLAN";

/// The version of the format that this crate writes, and the only one it reads.
pub const VERSION: u32 = 3;

/// What a plan's first byte, its weights, every constant in them and the arena are aligned to, in bytes.
pub const ALIGNMENT: usize = 64;

/// Where tables and the parameters of each step begin: at multiples of this.
pub(super) const TABLE_ALIGNMENT: u64 = 8;

/// The largest arena that a plan may ask for, and the most that it may prepare: above what any model needs, below
/// where sums overflow.
pub(super) const MAX_ARENA_BYTES: u64 = 1 << 40;

/// The most dimensions of a port.
pub(super) const MAX_PORT_RANK: u32 = 64;

/// Where a section lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct Section {
    pub offset: u64,
    pub bytes: u64,
}

/// The sections, in the order in which they lie behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionId {
    Info,
    Ports,
    Dims,
    Kernels,
    Steps,
    Operands,
    Params,
    Strings,
}

impl SectionId {
    pub const ALL: [SectionId; 8] = [
        SectionId::Info,
        SectionId::Ports,
        SectionId::Dims,
        SectionId::Kernels,
        SectionId::Steps,
        SectionId::Operands,
        SectionId::Params,
        SectionId::Strings,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SectionId::Info => "info",
            SectionId::Ports => "ports",
            SectionId::Dims => "dims",
            SectionId::Kernels => "kernels",
            SectionId::Steps => "steps",
            SectionId::Operands => "operands",
            SectionId::Params => "params",
            SectionId::Strings => "strings",
        }
    }
}

/// The beginning of a plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Header {
    /// [`MAGIC`]
    pub magic: [u8; 8],
    /// [`VERSION`]
    pub version: u32,
    /// The size of this structure.
    pub header_bytes: u32,
    /// The size of the plan.
    pub total_bytes: u64,
    /// The size of everything before the weights, a multiple of [`ALIGNMENT`].
    pub tables_bytes: u64,
    /// [`checksum`] of the first `tables_bytes` bytes, this field counted as zero.
    pub checksum: u64,
    /// The size of the arena, a multiple of [`ALIGNMENT`].
    pub arena_bytes: u64,
    /// How many of the ports are inputs; they come first.
    pub inputs: u32,
    /// How many are outputs.
    pub outputs: u32,
    /// In the order of [`SectionId::ALL`].
    pub sections: [Section; 8],
    /// The size of what is prepared, a multiple of [`ALIGNMENT`].
    pub prepared_bytes: u64,
    /// [`Header::checksum`] of the plan whose weights this one borrows; zero where it borrows none.
    pub lender_checksum: u64,
    /// The size of that plan's weights; zero where it borrows none.
    pub lender_weight_bytes: u64,
}

/// Where [`Header::checksum`] lies.
pub(super) const CHECKSUM_OFFSET: usize = std::mem::offset_of!(Header, checksum);

/// The one record of the section `info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct InfoRecord {
    pub sha256: [u8; 32],
    pub flops: u64,
    pub opset: u32,
    /// Zero.
    pub reserved: u32,
}

/// A range of the section `strings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct Text {
    pub offset: u32,
    pub bytes: u32,
}

/// An input or output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct PortRecord {
    pub name: Text,
    /// ONNX's number of the element type.
    pub dtype: u32,
    pub rank: u32,
    /// Its first extent in the section `dims`.
    pub dims: u64,
}

/// A kernel that steps name by position.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct KernelRecord {
    pub name: Text,
}

/// [`StepRecord::kind`] of a call whose operands and parameters are all known while compiling. Other numbers are
/// kept for steps with shapes of the run time.
pub(super) const STEP_STATIC: u32 = 0;

/// [`StepRecord::kind`] of a call that runs once, when the plan is opened, from weights, its own plan's or borrowed ones,
/// into prepared memory. They come before all others.
pub(super) const STEP_PREPARE: u32 = 1;

/// A kernel call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct StepRecord {
    /// [`STEP_STATIC`] or [`STEP_PREPARE`]
    pub kind: u32,
    /// The position of its kernel.
    pub kernel: u32,
    /// The name of the node it came from.
    pub node: Text,
    /// Where its parameters begin in the section `params`.
    pub params: u64,
    pub params_bytes: u32,
    /// How many of its operands, at the end, it writes.
    pub outputs: u32,
    /// The position of its first operand.
    pub operands: u64,
    pub operand_count: u32,
    /// Zero.
    pub reserved: u32,
}

/// What [`OperandRecord::location`] may be.
pub(super) mod location {
    pub const ABSENT: u32 = 0;
    pub const ARENA: u32 = 1;
    pub const WEIGHTS: u32 = 2;
    pub const INPUT: u32 = 3;
    pub const OUTPUT: u32 = 4;
    pub const PREPARED: u32 = 5;
    pub const BORROWED: u32 = 6;
}

/// An operand of a step.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct OperandRecord {
    /// One of [`location`].
    pub location: u32,
    /// Which input or output; 0 elsewhere.
    pub port: u32,
    pub offset: u64,
    pub bytes: u64,
}

/// The checksum of `words`: for each word, rotate the sum left by 5, xor the word, multiply by an odd constant.
/// Every step can be undone, so that a change in one word always changes the sum.
pub(crate) fn checksum(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0, |sum: u64, word| (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95))
}
