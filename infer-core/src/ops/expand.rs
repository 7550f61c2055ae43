//! Expand and Tile: repeat elements, by broadcasting or whole copies.

use super::movement::{extent, result_type};
use super::{NodeTypes, Operator, Row, StringUse, broadcast};
use crate::calls::{LowerNode, broadcast_strides};
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "Expand",
        domain: "",
        since: 8,
        inputs: 2..=2,
        outputs: 1..=1,
        import: |_| Ok(Box::new(Expand)),
    },
    Row { name: "Tile", domain: "", since: 6, inputs: 2..=2, outputs: 1..=1, import: |_| Ok(Box::new(Tile)) },
];

/// Expand: broadcasts to a shape, in both directions.
#[derive(Debug)]
pub struct Expand;

/// Tile: repeats the whole tensor along each axis.
#[derive(Debug)]
pub struct Tile;

impl Operator for Expand {
    fn name(&self) -> &'static str {
        "Expand"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let wanted = node.known_i64s(1, "shape")?.ok_or_else(|| Reason::new("input `shape` is missing"))?;
        let wanted: Vec<usize> = wanted.iter().map(|&v| extent(v, "shape")).collect::<Result<_, _>>()?;
        Ok(vec![result_type(ty.dtype, broadcast(&[&ty.shape, &wanted])?)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let strides = broadcast_strides(&input.ty, &output.ty.shape)?;
        node.copy_strided(&input, &strides, 0, &output, &output.ty.shape)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl Operator for Tile {
    fn name(&self) -> &'static str {
        "Tile"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let repeats =
            node.known_i64s(1, "repeats")?.ok_or_else(|| Reason::new("input `repeats` is missing"))?;
        if repeats.len() != ty.rank() {
            return Err(Reason::new(format!(
                "`repeats` {repeats:?} has not one number for each axis of {ty}"
            )));
        }
        let mut shape = Vec::with_capacity(repeats.len());
        for (&value, &size) in repeats.iter().zip(&ty.shape) {
            let tiled = extent(value, "repeats")?.checked_mul(size);
            shape.push(tiled.ok_or_else(|| Reason::new(format!("{value} repeats of {ty} are too many")))?);
        }
        Ok(vec![result_type(ty.dtype, shape)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        if output.ty.elements() == 0 {
            return Ok(());
        }
        // Each axis is walked as [repeats, extent], the repeats without moving.
        let (mut shape, mut walk) = (Vec::new(), Vec::new());
        for (axis, stride) in input.ty.strides().into_iter().enumerate() {
            shape.extend([output.ty.shape[axis] / input.ty.shape[axis], input.ty.shape[axis]]);
            walk.extend([0, stride]);
        }
        node.copy_strided(&input, &walk, 0, &output, &shape)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{check, f32s, i64s, run};

    #[test]
    fn expand_broadcasts_in_both_directions() {
        let input = f32s([2, 1], &[1.0, 2.0]);
        let expected = f32s([2, 2, 2], &[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
        check(("Expand", 8), &[], &[input.clone(), i64s([3], &[2, 1, 2])], &expected);
        check(("Expand", 13), &[], &[input.clone(), i64s([1], &[1])], &input);
        check(("Expand", 13), &[], &[input.clone(), i64s([2], &[2, 0])], &f32s([2, 0], &[]));
        for wrong in [[3, 2], [-1, 2], [2, i64::MAX]] {
            assert!(run(("Expand", 13), &[], &[input.clone(), i64s([2], &wrong)]).is_err());
        }
    }

    #[test]
    fn tile_repeats_the_whole() {
        let input = i64s([2, 2], &[1, 2, 3, 4]);
        let expected = i64s([4, 4], &[1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4]);
        check(("Tile", 13), &[], &[input.clone(), i64s([2], &[2, 2])], &expected);
        check(("Tile", 6), &[], &[input.clone(), i64s([2], &[1, 0])], &i64s([2, 0], &[]));
        for wrong in [&[2, -1][..], &[2], &[i64::MAX, 2]] {
            let repeats = crate::constant::Constant::of_i64(wrong);
            assert!(run(("Tile", 13), &[], &[input.clone(), repeats]).is_err());
        }
    }
}
