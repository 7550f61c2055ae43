//! TopK: the greatest or least elements along an axis.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__TopK.html>
//! Types: numbers; NaN counts as the greatest, of equal elements the first comes first.
//! History: `k` is an attribute before opset 10, an input since; `largest` and `sorted` since 11.

use infer_kernels::call;

use super::element_type::{converted, expect_kernel, with_output};
use super::elements::around;
use super::number::NUMBERS;
use super::{ImportNode, NodeTypes, Operator, Row, expect_dtype, resolve_axis};
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "TopK", domain: "", since: 1, inputs: 1..=2, outputs: 1..=2, import: import_top_k }];

/// TopK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK {
    /// The axis.
    pub axis: i64,
    /// How many, where an attribute says so.
    pub k: Option<i64>,
    /// Whether the greatest come first.
    pub largest: bool,
}

fn import_top_k(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    // What is not to be sorted may be.
    node.attributes.flag("sorted", true)?;
    let k = node.attributes.int("k")?;
    if k.is_none() && !node.inputs.get(1).copied().unwrap_or(false) {
        return Err(Reason::new("`k` is missing"));
    }
    Ok(Box::new(TopK {
        axis: node.attributes.int("axis")?.unwrap_or(-1),
        k,
        largest: node.attributes.flag("largest", true)?,
    }))
}

impl TopK {
    /// The axis, and the shape of the results.
    fn shape(&self, shape: &[usize], k: Option<&[i64]>) -> Result<(usize, Vec<usize>), Reason> {
        let axis = resolve_axis(self.axis, shape.len())?;
        let k = match (self.k, k) {
            (Some(k), _) | (None, Some(&[k])) => k,
            (None, Some(several)) => {
                return Err(Reason::new(format!("input `K` has {} elements, not one", several.len())));
            }
            (None, None) => return Err(Reason::new("input `K` is missing")),
        };
        let mut result = shape.to_vec();
        result[axis] = usize::try_from(k)
            .ok()
            .filter(|&k| k <= shape[axis])
            .ok_or_else(|| Reason::new(format!("the top {k} of axis {axis} of {shape:?} are asked for")))?;
        Ok((axis, result))
    }
}

impl Operator for TopK {
    fn name(&self) -> &'static str {
        "TopK"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        expect_dtype(ty, NUMBERS)?;
        let k = node.known_i64s(1, "K")?;
        let (_, shape) = self.shape(&ty.shape, k.as_deref())?;
        let mut types = vec![TensorType::new(ty.dtype, shape.clone()), TensorType::new(DataType::I64, shape)];
        types.truncate(node.outputs.len().max(1));
        Ok(types)
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let input = node.input(0)?;
        let k = node.with_types(|types| types.known_i64s(1, "K"))?;
        let (axis, shape) = self.shape(&input.ty.shape, k.as_deref())?;
        let (outer, length, inner) = around(&input.ty.shape, axis);
        let params = call::TopK {
            outer: outer as u64,
            axis: length as u64,
            inner: inner as u64,
            k: shape[axis] as u64,
            smallest: (!self.largest).into(),
        };
        let dtype = expect_kernel("top_k", &input.ty)?;
        // The kernel works in both outputs, whichever is asked for.
        let output = |node: &mut LowerNode<'_>, index: usize, dtype: DataType| {
            let asked = node.outputs.get(index).cloned().flatten();
            asked.unwrap_or_else(|| node.scratch_tensor(TensorType::new(dtype, shape.clone())))
        };
        let values = output(node, 0, input.ty.dtype);
        let indices = output(node, 1, DataType::I64);
        let input = converted(node, &input, dtype)?;
        with_output(node, &values, dtype, |node, values| {
            let operands = [&input, values, &indices].map(|tensor| Some(tensor.span));
            node.call_with_outputs(format!("top_k_{dtype}"), &params, &operands, 2);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, infer, run_all, tensor};

    #[test]
    fn the_greatest_and_least_come_in_order() {
        let input = f32s([2, 4], &[1., 4., f32::NAN, 4., -1., -2., 0., -2.]);
        let top = |attributes: &[(&str, Attribute)], k: i64| {
            run_all(("TopK", 11), attributes, &[Some(input.clone()), Some(i64s([1], &[k]))], 2)
        };
        let [values, indices] = top(&[], 3).unwrap().try_into().unwrap();
        assert_eq!(indices, i64s([2, 3], &[2, 1, 3, 2, 0, 1]));
        assert_eq!(values.values::<f32>()[1..], [4., 4., 0., -1., -2.]);
        let least = top(&[("largest", 0.into()), ("axis", 0.into())], 1).unwrap();
        assert_eq!(least, [f32s([1, 4], &[-1., -2., 0., -2.]), i64s([1, 4], &[1, 1, 1, 1])]);
        assert_eq!(top(&[], 0).unwrap()[1], i64s([2, 0], &[]));
        for wrong in [5, -1, i64::MIN] {
            assert!(top(&[], wrong).is_err());
        }
        let attribute = [("k", Attribute::Int(1))];
        check(("TopK", 7), &attribute, &[f32s([3], &[1., 3., 2.])], &f32s([1], &[3.]));
        let large = tensor(DataType::U64, [2], &[u64::MAX, 1]);
        check(("TopK", 11), &[], &[large, i64s([1], &[1])], &tensor(DataType::U64, [1], &[u64::MAX]));
        let nothing = f32s([1 << 20, 0], &[]);
        check(("TopK", 11), &[], &[nothing.clone(), i64s([1], &[0])], &nothing);
        let types = [input.ty().clone(), TensorType::new(DataType::I64, [1])];
        assert!(infer(("TopK", 11), &[], &types).unwrap_err().at_run_time);
    }
}
