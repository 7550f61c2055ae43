//! Pad: adds elements before and after each axis, or removes them where the number is negative.
//!
//! Pads and value are attributes before opset 11, inputs since; axes since opset 18, `wrap` since 19.

use super::movement::{choice, element_bits, expect_table, fill, index_map, result_type};
use super::{ImportNode, NodeTypes, Operator, Row, StringUse, resolve_axes};
use crate::calls::{LowerNode, Tensor};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Pad", domain: "", since: 2, inputs: 1..=4, outputs: 1..=1, import }];

/// What the added elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadMode {
    /// A constant.
    Constant,
    /// The axis mirrored at its first and last element.
    Reflect,
    /// The first or last element.
    Edge,
    /// The axis from its other end on.
    Wrap,
}

/// Pad.
#[derive(Debug)]
pub struct Pad {
    /// What the added elements are.
    pub mode: PadMode,
    /// The pads, where they are an attribute: before each axis, then after each.
    pub pads: Option<Vec<i64>>,
    /// The constant, where no input gives it.
    pub value: f32,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let modes = [
        ("constant", PadMode::Constant),
        ("reflect", PadMode::Reflect),
        ("edge", PadMode::Edge),
        ("wrap", PadMode::Wrap),
    ];
    Ok(Box::new(Pad {
        mode: choice(node, "mode", &modes)?,
        pads: node.attributes.ints("pads")?,
        value: node.attributes.float("value")?.unwrap_or(0.0),
    }))
}

impl Pad {
    /// For each axis of input 0 how many elements are added before and after it.
    pub fn amounts(&self, node: &NodeTypes<'_>) -> Result<Vec<[i64; 2]>, Reason> {
        let ty = node.ty(0)?;
        let pads = match &self.pads {
            Some(pads) => pads.clone(),
            None => node.known_i64s(1, "pads")?.ok_or_else(|| Reason::new("`pads` is missing"))?,
        };
        let axes = match node.known_i64s(3, "axes")? {
            Some(axes) => resolve_axes(&axes, ty.rank())?,
            None => (0..ty.rank()).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(Reason::new(format!("{} pads for {} axes of {ty}", pads.len(), axes.len())));
        }
        let mut amounts = vec![[0; 2]; ty.rank()];
        let (before, after) = pads.split_at(axes.len());
        for ((axis, &before), &after) in axes.into_iter().zip(before).zip(after) {
            amounts[axis] = [before, after];
        }
        Ok(amounts)
    }

    /// The bytes of one added element in mode constant, where they are known.
    pub fn value_bits(&self, ty: &TensorType, value: Option<&Constant>) -> Option<u64> {
        let Some(value) = value else { return Some(element_bits(ty.dtype, self.value)) };
        let mut bytes = [0; 8];
        bytes.get_mut(..value.data().len())?.copy_from_slice(value.data());
        Some(u64::from_le_bytes(bytes))
    }

    fn lower_constant(
        &self,
        node: &mut LowerNode<'_>,
        input: &Tensor,
        output: &Tensor,
        amounts: &[[i64; 2]],
    ) -> Result<(), Reason> {
        if amounts.iter().flatten().any(|&amount| amount > 0) {
            let value = node.optional_input(2);
            match (value, node.constant(2)) {
                (Some(value), None) => {
                    let still = vec![0; output.ty.rank()];
                    node.copy_strided(&value, &still, 0, output, &output.ty.shape)?;
                }
                (_, constant) => {
                    let bits = self.value_bits(&output.ty, constant);
                    let bits = bits.ok_or_else(|| Reason::new("input `constant_value` is no scalar"))?;
                    fill(node, output, bits)?;
                }
            }
        }
        // What remains of the input after negative pads, and where it begins in both.
        let kept = |axis: usize, [before, after]: [i64; 2]| {
            input.ty.shape[axis] as i64 + before.min(0) + after.min(0)
        };
        let shape: Vec<i64> = amounts.iter().enumerate().map(|(axis, &pads)| kept(axis, pads)).collect();
        if shape.iter().any(|&extent| extent <= 0) {
            return Ok(());
        }
        let shape: Vec<usize> = shape.into_iter().map(|extent| extent as usize).collect();
        let (from, to) = (input.ty.strides(), output.ty.strides());
        let origin = |strides: &[i64], sign: i64| -> u64 {
            let starts = amounts.iter().map(|[before, _]| (before * sign).max(0));
            starts.zip(strides).map(|(start, stride)| (start * stride) as u64).sum()
        };
        node.copy_between(input, (&from, origin(&from, -1)), output, (&to, origin(&to, 1)), &shape)
    }

    /// The elements of an axis of `extent` elements that the output's are copies of.
    fn table(&self, [before, after]: [i64; 2], extent: usize, output: usize) -> Vec<i64> {
        // Negative pads cut the axis first; what is left is continued.
        let first = -before.min(0);
        let n = extent as i64 - first + after.min(0);
        let source = |at: usize| {
            let at = at as i64 - before.max(0);
            first
                + match self.mode {
                    PadMode::Wrap => at.rem_euclid(n),
                    PadMode::Reflect if n > 1 => {
                        let period = 2 * (n - 1);
                        let phase = at.rem_euclid(period);
                        phase.min(period - phase)
                    }
                    _ => at.clamp(0, n - 1),
                }
        };
        (0..output).map(source).collect()
    }
}

impl Operator for Pad {
    fn name(&self) -> &'static str {
        "Pad"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        if let Some(value) = node.optional(2)
            && (value.dtype != ty.dtype || value.checked_elements() != Some(1))
        {
            return Err(Reason::new(format!(
                "input `constant_value` is {value}, not a scalar of {}",
                ty.dtype
            )));
        }
        let mut shape = Vec::with_capacity(ty.rank());
        for (&extent, [before, after]) in ty.shape.iter().zip(self.amounts(node)?) {
            let refuse = || Reason::new(format!("pads {before} and {after} do not fit an axis of {extent}"));
            let kept = (extent as i64).checked_add(before.min(0)).and_then(|n| n.checked_add(after.min(0)));
            let kept = kept.ok_or_else(refuse)?;
            let total = kept.checked_add(before.max(0)).and_then(|n| n.checked_add(after.max(0)));
            let total = total.and_then(|n| usize::try_from(n).ok()).ok_or_else(refuse)?;
            if self.mode != PadMode::Constant && kept <= 0 && total > 0 {
                return Err(refuse());
            }
            if self.mode != PadMode::Constant {
                expect_table(Some(total))?;
            }
            shape.push(total);
        }
        Ok(vec![result_type(ty.dtype, shape)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        if output.ty.elements() == 0 {
            return Ok(());
        }
        let amounts = node.with_types(|types| self.amounts(types))?;
        if self.mode == PadMode::Constant {
            return self.lower_constant(node, &input, &output, &amounts);
        }
        let extents = input.ty.shape.iter().zip(&output.ty.shape);
        let tables: Vec<Vec<i64>> =
            extents.zip(&amounts).map(|((&from, &to), &pads)| self.table(pads, from, to)).collect();
        index_map(node, &input, &output, &tables, 0)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, i64s, infer, run, tensor};
    use super::*;
    use crate::tensor_type::DataType;

    fn mode(mode: &str) -> [(&'static str, Attribute); 1] {
        [("mode", Attribute::String(mode.into()))]
    }

    #[test]
    fn constants_surround_and_negative_pads_cut() {
        let data = f32s([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let inputs = [data.clone(), i64s([2], &[-1, 2]), f32s([], &[9.0]), i64s([1], &[-1])];
        let expected = f32s([2, 4], &[2.0, 3.0, 9.0, 9.0, 5.0, 6.0, 9.0, 9.0]);
        check(("Pad", 18), &mode("constant"), &inputs, &expected);
        let attributes = [("pads", Attribute::Ints(vec![1, 0, 0, 1])), ("value", Attribute::Float(0.5))];
        let expected = f32s([3, 4], &[0.5, 0.5, 0.5, 0.5, 1.0, 2.0, 3.0, 0.5, 4.0, 5.0, 6.0, 0.5]);
        check(("Pad", 7), &attributes, std::slice::from_ref(&data), &expected);
        // Nothing of the input is left.
        let nothing = f32s([2, 2], &[0.0; 4]);
        check(("Pad", 13), &[], &[data.clone(), i64s([4], &[0, 3, 0, -4])], &nothing);
        let bytes =
            [tensor(DataType::U8, [1], &[7u8]), i64s([2], &[1, 1]), tensor(DataType::U8, [1], &[255u8])];
        check(("Pad", 13), &[], &bytes, &tensor(DataType::U8, [3], &[255u8, 7, 255]));
    }

    #[test]
    fn other_modes_continue_the_axis() {
        let row = f32s([3], &[1.0, 2.0, 3.0]);
        let cases: [(&str, [i64; 2], &[f32]); 6] = [
            ("reflect", [2, 4], &[3., 2., 1., 2., 3., 2., 1., 2., 3.]),
            ("reflect", [2, -1], &[1., 2., 1., 2.]),
            ("wrap", [2, 4], &[2., 3., 1., 2., 3., 1., 2., 3., 1.]),
            ("edge", [2, 1], &[1., 1., 1., 2., 3., 3.]),
            ("edge", [-2, 2], &[3., 3., 3.]),
            ("reflect", [-2, 2], &[3., 3., 3.]),
        ];
        for (name, pads, expected) in cases {
            let expected = tensor(DataType::F32, [expected.len()], expected);
            check(("Pad", 19), &mode(name), &[row.clone(), i64s([2], &pads)], &expected);
        }
        let data = f32s([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let expected = f32s([3, 4], &[5., 4., 5., 6., 2., 1., 2., 3., 5., 4., 5., 6.]);
        check(("Pad", 19), &mode("reflect"), &[data, i64s([4], &[1, 1, 0, 0])], &expected);
    }

    #[test]
    fn a_run_time_constant_is_broadcast_and_wrong_pads_are_refused() {
        let ty = |dtype, shape: &[usize]| TensorType::new(dtype, shape);
        let pads = [("pads", Attribute::Ints(vec![1, 1]))];
        let inputs = |value| [ty(DataType::F32, &[3]), ty(DataType::I64, &[2]), value];
        assert!(infer(("Pad", 13), &pads, &inputs(ty(DataType::F32, &[]))).is_ok());
        assert!(infer(("Pad", 13), &pads, &inputs(ty(DataType::I64, &[]))).is_err());
        let row = f32s([3], &[1.0, 2.0, 3.0]);
        for wrong in [[-2, -2], [i64::MAX, 1], [i64::MIN, i64::MIN], [1 << 40, 0]] {
            assert!(run(("Pad", 13), &[], &[row.clone(), i64s([2], &wrong)]).is_err());
        }
        assert!(run(("Pad", 13), &mode("edge"), &[f32s([0], &[]), i64s([2], &[1, 0])]).is_err());
        assert!(run(("Pad", 13), &mode("mirror"), &[row, i64s([2], &[1, 0])]).is_err());
    }
}
