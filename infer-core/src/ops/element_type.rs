//! In which element type a node computes: its own where there is a kernel for it, else a wider one that holds every
//! value of it exactly, cast on the way in and out.

use infer_kernels::reference;

use crate::calls::{LowerNode, Tensor, sized_kernel};
use crate::diagnostic::Reason;
use crate::node_types::NodeTypes;
use crate::ops::expect_dtype;
use crate::tensor_type::{DataType, TensorType};

/// The type in which the kernels `family_TYPE` compute on elements of `dtype`, if they can.
pub fn compute_type(family: &str, dtype: DataType) -> Option<DataType> {
    let wider = match dtype {
        DataType::F16 | DataType::Bf16 => Some(DataType::F32),
        DataType::I8 | DataType::U8 | DataType::I16 | DataType::U16 => Some(DataType::I32),
        DataType::U32 => Some(DataType::I64),
        _ => None,
    };
    [Some(dtype), wider]
        .into_iter()
        .flatten()
        .find(|dtype| reference::find(&format!("{family}_{dtype}")).is_some())
}

/// [`compute_type`] for the elements of `ty`, refusing those that have none.
pub fn expect_kernel(family: &str, ty: &TensorType) -> Result<DataType, Reason> {
    if let Some(dtype) = compute_type(family, ty.dtype) {
        return Ok(dtype);
    }
    let supported: Vec<_> =
        DataType::ALL.into_iter().filter(|&dtype| compute_type(family, dtype).is_some()).collect();
    expect_dtype(ty, &supported)?;
    Ok(ty.dtype)
}

/// The type of the elements that inputs `indices` have in common, where they are there, among the floating-point ones.
pub(super) fn common_float(node: &NodeTypes<'_>, indices: &[usize]) -> Result<DataType, Reason> {
    let mut common = None;
    for &index in indices {
        let Some(ty) = node.optional(index) else { continue };
        if !ty.dtype.is_float() {
            return Err(Reason::new(format!("input {index} is {ty}")).supported("f32, f64, f16, bf16"));
        }
        match common {
            None => common = Some(ty.dtype),
            Some(dtype) if dtype == ty.dtype => (),
            Some(dtype) => return Err(Reason::new(format!("input {index} is {ty} beside {dtype}"))),
        }
    }
    common.ok_or_else(|| Reason::new("input 0 is missing"))
}

/// The kernel that makes elements of type `to` of those of type `from`, if there is one. Integers below 8 bits have a
/// byte each, so that they are read as the 8-bit type that has their sign.
pub fn cast_kernel(from: DataType, to: DataType) -> Option<String> {
    let stored = match from {
        DataType::U2 | DataType::U4 => DataType::U8,
        DataType::I2 | DataType::I4 => DataType::I8,
        other => other,
    };
    if from == to || stored == to {
        return Some(sized_kernel("copy", to));
    }
    Some(format!("cast_{stored}_{to}")).filter(|kernel| reference::find(kernel).is_some())
}

/// Writes the elements of `input` into `output`, which has the same shape, as elements of its type.
pub fn cast(node: &mut LowerNode<'_>, input: &Tensor, output: &Tensor) -> Result<(), Reason> {
    let (from, to) = (input.ty.dtype, output.ty.dtype);
    let kernel =
        cast_kernel(from, to).ok_or_else(|| Reason::new(format!("no kernel casts {from} to {to}")))?;
    node.elementwise(kernel, &[input], output, |_| ())
}

/// `input` with elements of type `dtype`: itself, or a copy in scratch memory.
pub fn converted(node: &mut LowerNode<'_>, input: &Tensor, dtype: DataType) -> Result<Tensor, Reason> {
    if input.ty.dtype == dtype {
        return Ok(input.clone());
    }
    let copy = node.scratch_tensor(TensorType::new(dtype, input.ty.shape.clone()));
    cast(node, input, &copy)?;
    Ok(copy)
}

/// A tensor of integers without signs as one of those with signs, for operations that wrap around: the bits are the same.
pub fn wrapping(mut tensor: Tensor) -> Tensor {
    tensor.ty.dtype = match tensor.ty.dtype {
        DataType::U32 => DataType::I32,
        DataType::U64 => DataType::I64,
        other => other,
    };
    tensor
}

/// Lets `compute` write `output` as elements of type `dtype`, in scratch memory where that is not its own type.
pub fn with_output(
    node: &mut LowerNode<'_>,
    output: &Tensor,
    dtype: DataType,
    compute: impl FnOnce(&mut LowerNode<'_>, &Tensor) -> Result<(), Reason>,
) -> Result<(), Reason> {
    if output.ty.dtype == dtype {
        return compute(node, output);
    }
    let wide = node.scratch_tensor(TensorType::new(dtype, output.ty.shape.clone()));
    compute(node, &wide)?;
    cast(node, &wide, output)
}

/// A scalar of type `dtype`, f32 or f64.
pub fn scalar(node: &mut LowerNode<'_>, dtype: DataType, value: f32) -> Tensor {
    let span = if dtype == DataType::F64 { node.data(&[f64::from(value)]) } else { node.data(&[value]) };
    Tensor { ty: TensorType::new(dtype, []), span, blocked: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_types_widen_and_exact_ones_never_narrow() {
        assert_eq!(compute_type("exp", DataType::F32), Some(DataType::F32));
        assert_eq!(compute_type("exp", DataType::Bf16), Some(DataType::F32));
        assert_eq!(compute_type("reduce_sum", DataType::U8), Some(DataType::I32));
        assert_eq!(compute_type("exp", DataType::I64), None);
        let refused = expect_kernel("softmax", &TensorType::new(DataType::I32, [2])).unwrap_err();
        assert_eq!(refused.supported.as_deref(), Some("f32, f16, bf16"));
    }
}
