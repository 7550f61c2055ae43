//! Split: a tensor cut along an axis.
//!
//! The lengths are an attribute before opset 13, an input since; without them the parts are equal, the last one
//! shorter where the axis does not divide.

use super::concat::channels_in_blocks;
use super::movement::{Direction, copy_part, extent};
use super::{Blocking, ImportNode, NodeTypes, Operator, Row, StringUse, resolve_axis};
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Split", domain: "", since: 2, inputs: 1..=2, outputs: 1..=usize::MAX, import }];

/// Split.
#[derive(Debug)]
pub struct Split {
    /// The axis; negative ones count from the end.
    pub axis: i64,
    /// The lengths, where they are an attribute.
    pub split: Option<Vec<i64>>,
    /// The number of parts, where the lengths do not say it.
    pub parts: usize,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let axis = node.attributes.int("axis")?.unwrap_or(0);
    let split = node.attributes.ints("split")?;
    let parts = match node.attributes.int("num_outputs")? {
        None => node.outputs.len(),
        Some(count) => match usize::try_from(count) {
            Ok(parts) if parts >= node.outputs.len() => parts,
            _ => return Err(Reason::new(format!("num_outputs {count}, but {} outputs", node.outputs.len()))),
        },
    };
    Ok(Box::new(Split { axis, split, parts }))
}

impl Split {
    /// The lengths of the parts along the axis, as many as there are outputs or more.
    pub fn lengths(&self, node: &NodeTypes<'_>) -> Result<Vec<usize>, Reason> {
        let ty = node.ty(0)?;
        let axis = resolve_axis(self.axis, ty.rank())?;
        let given = match &self.split {
            Some(split) => Some(split.clone()),
            None => node.known_i64s(1, "split")?,
        };
        let length = ty.shape[axis];
        let refuse = |parts: &dyn std::fmt::Debug| {
            Reason::new(format!(
                "axis {axis} of {ty} does not split into {} outputs by {parts:?}",
                node.outputs.len()
            ))
        };
        let Some(given) = given else {
            let each = length.div_ceil(self.parts.max(1));
            let before_last = each.checked_mul(self.parts.saturating_sub(1)).filter(|&sum| sum <= length);
            let last = length - before_last.ok_or_else(|| refuse(&self.parts))?;
            // An output that nobody names may be left off the list; of those that are named, only the last is short.
            let part = |index| if index + 1 == self.parts { last } else { each };
            return Ok((0..node.outputs.len()).map(part).collect());
        };
        let lengths: Vec<usize> = given.iter().map(|&v| extent(v, "split")).collect::<Result<_, _>>()?;
        let sum = lengths.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
        if sum != Some(length) || lengths.len() < node.outputs.len() {
            return Err(refuse(&given));
        }
        Ok(lengths)
    }

    fn types(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let axis = resolve_axis(self.axis, ty.rank())?;
        let part = |length| {
            let mut part = ty.clone();
            part.shape[axis] = length;
            part
        };
        Ok(self.lengths(node)?.into_iter().take(node.outputs.len()).map(part).collect())
    }
}

impl Operator for Split {
    fn name(&self) -> &'static str {
        "Split"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        self.types(node)
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let input = node.input(0)?;
        let axis = resolve_axis(self.axis, input.ty.rank())?;
        let lengths = node.with_types(|types| self.lengths(types))?;
        let mut start = 0;
        for (index, length) in lengths.into_iter().enumerate() {
            if let Ok(output) = node.output(index) {
                copy_part(node, &output, &input, axis, start, Direction::OutOfWhole)?;
            }
            start += length;
        }
        Ok(())
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        match self.types(node) {
            Ok(parts) if channels_in_blocks(self.axis, &parts.iter().collect::<Vec<_>>()) => {
                Blocking::Follows
            }
            _ => Blocking::Never,
        }
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{f32s, i64s, run_all};

    #[test]
    fn lengths_come_from_anywhere() {
        let data = f32s([1, 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        let axis = ("axis", Attribute::Int(-1));
        let run = |opset, attributes: &[(&str, Attribute)], split: Option<&[i64]>, outputs| {
            let split = split.map(crate::constant::Constant::of_i64);
            run_all(("Split", opset), attributes, &[Some(data.clone()), split], outputs)
        };
        let two = [f32s([1, 2], &[1.0, 2.0]), f32s([1, 3], &[3.0, 4.0, 5.0])];
        assert_eq!(run(13, std::slice::from_ref(&axis), Some(&[2, 3]), 2).unwrap(), two);
        let attribute = [axis.clone(), ("split", Attribute::Ints(vec![2, 3]))];
        assert_eq!(run(11, &attribute, None, 2).unwrap(), two);
        let uneven = [axis.clone(), ("num_outputs", Attribute::Int(3))];
        let three = [f32s([1, 2], &[1.0, 2.0]), f32s([1, 2], &[3.0, 4.0]), f32s([1, 1], &[5.0])];
        assert_eq!(run(18, &uneven, None, 3).unwrap(), three);

        let even = run_all(("Split", 13), &[], &[Some(i64s([4], &[1, 2, 3, 4]))], 2).unwrap();
        assert_eq!(even, [i64s([2], &[1, 2]), i64s([2], &[3, 4])]);
        for wrong in [&[2, 2][..], &[2], &[6, -1], &[i64::MAX, i64::MAX]] {
            assert!(run(13, std::slice::from_ref(&axis), Some(wrong), 2).is_err());
        }
        assert!(run(18, &uneven, None, 4).is_err());
        assert!(run(18, std::slice::from_ref(&axis), None, 4).is_err());
        let huge = [axis, ("num_outputs", Attribute::Int(i64::MAX))];
        assert!(run(18, &huge, None, 2).is_err());
    }
}
