//! Attention.

use bytemuck::{Pod, Zeroable};

use super::BLOCK;

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
