//! Transpose: permutes the axes.

use super::{ImportNode, NodeTypes, Operator, Row, StringUse, resolve_axes};
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Transpose", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import }];

/// Transpose.
#[derive(Debug)]
pub struct Transpose {
    /// For each axis of the output the axis of the input; `None` reverses them.
    pub perm: Option<Vec<i64>>,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Transpose { perm: node.attributes.ints("perm")? }))
}

impl Transpose {
    /// For each axis of the output the axis of an input of `rank` dimensions.
    pub fn permutation(&self, rank: usize) -> Result<Vec<usize>, Reason> {
        match &self.perm {
            None => Ok((0..rank).rev().collect()),
            Some(perm) if perm.len() == rank => resolve_axes(perm, rank),
            Some(perm) => Err(Reason::new(format!("perm {perm:?} does not permute {rank} axes"))),
        }
    }
}

impl Operator for Transpose {
    fn name(&self) -> &'static str {
        "Transpose"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let shape: Vec<usize> = self.permutation(ty.rank())?.into_iter().map(|axis| ty.shape[axis]).collect();
        Ok(vec![TensorType::new(ty.dtype, shape)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let strides = input.ty.strides();
        let walk: Vec<i64> =
            self.permutation(input.ty.rank())?.into_iter().map(|axis| strides[axis]).collect();
        let shape = output.ty.shape.clone();
        node.copy_strided(&input, &walk, 0, &output, &shape)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, run, tensor};
    use crate::tensor_type::DataType;

    #[test]
    fn axes_are_permuted() {
        let input = f32s([2, 1, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let swapped = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
        check(("Transpose", 13), &[], std::slice::from_ref(&input), &f32s([3, 1, 2], &swapped));
        let perm = |perm: &[i64]| [("perm", Attribute::Ints(perm.to_vec()))];
        check(("Transpose", 7), &perm(&[1, 2, 0]), std::slice::from_ref(&input), &f32s([1, 3, 2], &swapped));
        let bytes = tensor(DataType::U8, [2, 2], &[1u8, 2, 3, 4]);
        check(("Transpose", 21), &[], &[bytes], &tensor(DataType::U8, [2, 2], &[1u8, 3, 2, 4]));
        for wrong in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3]] {
            assert!(run(("Transpose", 13), &perm(wrong), std::slice::from_ref(&input)).is_err());
        }
    }
}
