//! Gather: slices selected by index along one axis.
//!
//! Where weights are stored as f16, so are large tables, and what is selected is widened.

use half::f16;
use infer_kernels::call;

use super::movement::{kernel_width, result_type};
use super::reduce::along;
use super::{ImportNode, NodeTypes, Operator, Row, StringUse, expect_dtype, resolve_axis};
use crate::calls::{LowerNode, sized_kernel};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Gather", domain: "", since: 1, inputs: 2..=2, outputs: 1..=1, import }];

/// Tables of at least so many bytes are weights that precision applies to.
const LARGE_BYTES: usize = 4096;

/// Gather.
#[derive(Debug)]
pub struct Gather {
    /// The axis that is selected from.
    pub axis: i64,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Gather { axis: node.attributes.int("axis")?.unwrap_or(0) }))
}

impl Operator for Gather {
    fn name(&self) -> &'static str {
        "Gather"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (data, indices) = (node.ty(0)?, node.ty(1)?);
        expect_dtype(indices, &[DataType::I64, DataType::I32])?;
        let axis = resolve_axis(self.axis, data.rank())?;
        let length = data.shape[axis] as i64;
        let known = node.constant(1).and_then(|constant| constant.to_i64s()).unwrap_or_default();
        if let Some(index) = known.iter().find(|&&index| index < -length || index >= length) {
            return Err(Reason::new(format!("index {index} is outside of axis {axis} of {data}")));
        }
        let mut shape = data.shape.clone();
        shape.splice(axis..=axis, indices.shape.iter().copied());
        Ok(vec![result_type(data.dtype, shape)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (data, indices, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let axis = resolve_axis(self.axis, data.ty.rank())?;
        let (width, parts) = kernel_width(data.ty.dtype);
        let call::Axis { outer, axis, inner, .. } = along(&data.ty, axis);
        let params = call::Gather {
            outer,
            axis,
            inner: inner * parts as u64,
            indices: indices.ty.elements() as u64,
            index_bytes: indices.ty.dtype.size_bytes() as u64,
        };
        let table = node.constant(0).filter(|_| node.half_weights && data.ty.dtype == DataType::F32);
        let Some(values) =
            table.filter(|table| table.data().len() >= LARGE_BYTES).and_then(Constant::to_f32s)
        else {
            let operands = [Some(data.span), Some(indices.span), Some(output.span)];
            node.call(format!("gather_b{width}"), &params, &operands);
            return Ok(());
        };
        let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        let table = node.data(&halves);
        let selected = node.scratch_tensor(TensorType::new(DataType::F16, output.ty.shape.clone()));
        let operands = [Some(table), Some(indices.span), Some(selected.span)];
        node.call(sized_kernel("gather", DataType::F16), &params, &operands);
        node.elementwise("cast_f16_f32", &[&selected], &output, |_| {})
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, i64s, run, tensor};
    use crate::tensor_type::DataType;

    #[test]
    fn indices_select_slices() {
        let data = f32s([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let rows = f32s([2, 1, 2], &[5.0, 6.0, 1.0, 2.0]);
        check(("Gather", 13), &[], &[data.clone(), i64s([2, 1], &[-1, 0])], &rows);
        let axis = [("axis", Attribute::Int(-1))];
        let index = tensor(DataType::I32, [], &[1i32]);
        check(("Gather", 7), &axis, &[data.clone(), index], &f32s([3], &[2.0, 4.0, 6.0]));
        for wrong in [3, -4, i64::MIN] {
            assert!(run(("Gather", 13), &[], &[data.clone(), i64s([1], &[wrong])]).is_err());
        }
    }
}
