//! Tensors as plain numbers and back, for operators that compute values.

use half::{bf16, f16};

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// The most bytes that one tensor may take.
const MAX_BYTES: usize = 1 << 30;

/// How many elements `ty` has, refused where they take too much memory.
pub(super) fn expect_size(ty: &TensorType) -> Result<usize, Reason> {
    // What is computed in 64 bits takes as many while it is computed.
    let width = ty.dtype.size_bytes().max(8);
    let elements = ty.checked_elements();
    elements
        .filter(|&elements| elements.saturating_mul(width) <= MAX_BYTES)
        .ok_or_else(|| Reason::new(format!("an output would be {ty}, which is too large")))
}

/// The elements of a tensor of numbers, those of 64-bit integers rounded.
pub(super) fn to_f64s(tensor: &Constant) -> Result<Vec<f64>, Reason> {
    expect_size(&TensorType::new(DataType::F64, tensor.ty().shape.clone()))?;
    Ok(match tensor.ty().dtype {
        DataType::F64 => tensor.values::<f64>().into_owned(),
        DataType::F32 => tensor.values::<f32>().iter().map(|&v| v.into()).collect(),
        DataType::F16 => tensor.values::<f16>().iter().map(|&v| v.into()).collect(),
        DataType::Bf16 => tensor.values::<bf16>().iter().map(|&v| v.into()).collect(),
        DataType::I64 => tensor.values::<i64>().iter().map(|&v| v as f64).collect(),
        DataType::I32 => tensor.values::<i32>().iter().map(|&v| v.into()).collect(),
        other => return Err(Reason::new(format!("element type {other} is not supported"))),
    })
}

/// The tensor of type `ty` with these elements, rounded to it.
pub(super) fn from_f64s(ty: TensorType, values: &[f64]) -> Result<Constant, Reason> {
    let tensor = match ty.dtype {
        DataType::F64 => Constant::checked(ty, values),
        DataType::F32 => Constant::checked(ty, &map(values, |v| v as f32)),
        DataType::F16 => Constant::checked(ty, &map(values, f16::from_f64)),
        DataType::Bf16 => Constant::checked(ty, &map(values, bf16::from_f64)),
        DataType::I64 => Constant::checked(ty, &map(values, |v| v as i64)),
        DataType::I32 => Constant::checked(ty, &map(values, |v| v as i32)),
        DataType::I16 => Constant::checked(ty, &map(values, |v| v as i16)),
        DataType::I8 => Constant::checked(ty, &map(values, |v| v as i8)),
        DataType::U64 => Constant::checked(ty, &map(values, |v| v as u64)),
        DataType::U32 => Constant::checked(ty, &map(values, |v| v as u32)),
        DataType::U16 => Constant::checked(ty, &map(values, |v| v as u16)),
        DataType::U8 => Constant::checked(ty, &map(values, |v| v as u8)),
        DataType::Bool => Constant::checked(ty, &map(values, |v| u8::from(v != 0.0))),
        other => return Err(Reason::new(format!("element type {other} is not supported"))),
    };
    tensor.ok_or_else(|| Reason::new(format!("{} values for a tensor of another size", values.len())))
}

fn map<T>(values: &[f64], convert: impl Fn(f64) -> T) -> Vec<T> {
    values.iter().map(|&value| convert(value)).collect()
}
