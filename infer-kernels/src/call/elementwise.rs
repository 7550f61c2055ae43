//! Functions of single elements, copies and fills.

use bytemuck::{Pod, Zeroable};

use super::MAX_RANK;

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
    /// The first constant of a unary operation (see [`Activation`](super::Activation)).
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
