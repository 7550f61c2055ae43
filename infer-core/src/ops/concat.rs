//! Concat: tensors one after the other along an axis.

use infer_kernels::call::BLOCK;

use super::movement::{Direction, copy_part, result_type};
use super::{Blocking, ImportNode, NodeTypes, Operator, Row, StringUse, resolve_axis};
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Concat", domain: "", since: 4, inputs: 1..=usize::MAX, outputs: 1..=1, import }];

/// Concat.
#[derive(Debug)]
pub struct Concat {
    /// The axis; negative ones count from the end.
    pub axis: i64,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let axis = node.attributes.int("axis")?.ok_or_else(|| Reason::new("attribute `axis` is missing"))?;
    Ok(Box::new(Concat { axis }))
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "Concat"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let first = node.ty(0)?;
        let axis = resolve_axis(self.axis, first.rank())?;
        let mut shape = first.shape.clone();
        for index in 1..node.inputs.len() {
            let ty = node.ty(index)?;
            let fits = ty.dtype == first.dtype
                && ty.rank() == first.rank()
                && (0..ty.rank()).all(|other| other == axis || ty.shape[other] == first.shape[other]);
            if !fits {
                return Err(Reason::new(format!(
                    "{ty} (input {index}) and {first} differ beside axis {axis}"
                )));
            }
            let sum = shape[axis].checked_add(ty.shape[axis]);
            shape[axis] = sum.ok_or_else(|| Reason::new(format!("axis {axis} is too long")))?;
        }
        Ok(vec![result_type(first.dtype, shape)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let output = node.output(0)?;
        let axis = resolve_axis(self.axis, output.ty.rank())?;
        let mut start = 0;
        for index in 0..node.inputs.len() {
            let input = node.input(index)?;
            copy_part(node, &input, &output, axis, start, Direction::IntoWhole)?;
            start += input.ty.shape[axis];
        }
        Ok(())
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        let parts: Option<Vec<&TensorType>> = (0..node.inputs.len())
            .map(|index| node.optional(index).filter(|_| node.constant(index).is_none()))
            .collect();
        match parts {
            Some(parts) if channels_in_blocks(self.axis, &parts) => Blocking::Follows,
            _ => Blocking::Never,
        }
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

/// Whether `parts`, one after the other along `axis`, are pictures of whole blocks of channels, the last aside.
pub(super) fn channels_in_blocks(axis: i64, parts: &[&TensorType]) -> bool {
    let pictures = parts.iter().all(|ty| ty.rank() == 4 && ty.dtype == DataType::F32);
    let Some((_, whole)) = parts.split_last() else { return false };
    pictures && resolve_axis(axis, 4) == Ok(1) && whole.iter().all(|ty| ty.shape[1] % BLOCK == 0)
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, i64s, run};
    use super::*;
    use crate::calls::{Blocked, BufferKind, Calls, Span, Tensor};
    use infer_kernels::call::{Elementwise, View};

    #[test]
    fn parts_follow_each_other() {
        let parts = [f32s([2, 1], &[1.0, 2.0]), f32s([2, 0], &[]), f32s([2, 2], &[3.0, 4.0, 5.0, 6.0])];
        let axis = |axis| [("axis", Attribute::Int(axis))];
        check(("Concat", 13), &axis(-1), &parts, &f32s([2, 3], &[1.0, 3.0, 4.0, 2.0, 5.0, 6.0]));
        check(("Concat", 6), &axis(0), &[i64s([1], &[7]), i64s([2], &[8, 9])], &i64s([3], &[7, 8, 9]));
        assert!(run(("Concat", 13), &axis(0), &parts).is_err());
        assert!(run(("Concat", 13), &axis(2), &parts).is_err());
        assert!(run(("Concat", 13), &axis(0), &[i64s([1], &[7]), f32s([1], &[1.0])]).is_err());
        assert!(run(("Concat", 13), &[], &parts).is_err());
    }

    /// A picture of `channels` channels, 2 by 3, that begins at element `offset` of `span`.
    fn blocked(span: Span, channels: usize, offset: u64) -> Tensor {
        let view = View { offset, stride_n: 288, stride_c: 96, stride_h: 48, stride_w: 16 };
        let ty = TensorType::new(DataType::F32, [1, channels, 2, 3]);
        Tensor { ty, span, blocked: Some(Blocked { block: 16, view, halo: [0; 4] }) }
    }

    #[test]
    fn blocked_parts_that_lie_in_place_are_not_copied() {
        let mut calls = Calls::default();
        let whole = calls.add_buffer(BufferKind::Arena, 288 * 4);
        let whole = calls.whole(whole);
        let other = calls.add_buffer(BufferKind::Arena, 96 * 4);
        let other = calls.whole(other);
        // The second part is placed by its span, the first by its view.
        let placed = Span { offset_bytes: 96 * 4, bytes: 96 * 4, ..whole };
        let inputs = [blocked(whole, 16, 0), blocked(placed, 16, 0), blocked(other, 5, 0)];
        let mut node = LowerNode {
            calls: &mut calls,
            name: "concat",
            inputs: inputs.map(Some).to_vec(),
            constants: vec![None; 3],
            outputs: vec![Some(blocked(whole, 37, 0))],
            half_weights: false,
            winograd: None,
        };
        Concat { axis: 1 }.lower(&mut node).unwrap();
        let [call] = calls.calls.as_slice() else { panic!("{:?}", calls.calls) };
        let params: Elementwise = bytemuck::pod_read_unaligned(&call.params);
        assert_eq!((call.kernel.as_str(), params.rank, params.dims[0]), ("copy_b4", 1, 96));
        assert_eq!((params.offsets[0], params.offsets[1]), (0, 192));
        assert_eq!(call.operands, [Some(other), Some(whole)]);
    }

    #[test]
    fn only_whole_blocks_of_channels_stay_blocked() {
        let ty = |channels| TensorType::new(DataType::F32, [1, channels, 2, 3]);
        assert!(channels_in_blocks(-3, &[&ty(16), &ty(32), &ty(5)]));
        assert!(!channels_in_blocks(1, &[&ty(5), &ty(16)]));
        assert!(!channels_in_blocks(2, &[&ty(16), &ty(16)]));
        assert!(!channels_in_blocks(1, &[]));
    }
}
