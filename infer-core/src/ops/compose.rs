//! What expansions into other operators share.

use super::number::{Rules, Scalar, of_scalars};
use crate::diagnostic::Reason;
use crate::ops::{Expansion, Wire};
use crate::tensor_type::{DataType, TensorType};

/// A scalar of type `dtype`.
pub fn scalar(nodes: &mut Expansion<'_>, dtype: DataType, value: f64) -> Result<Wire, Reason> {
    let value = std::iter::once(Scalar::Float(value));
    let constant = of_scalars(TensorType::new(dtype, []), value, Rules::default())?;
    Ok(nodes.constant(constant))
}

/// `wire` with elements of type `dtype`.
pub fn cast(nodes: &mut Expansion<'_>, wire: Wire, dtype: DataType) -> Result<Wire, Reason> {
    if nodes.ty(wire)?.dtype == dtype {
        return Ok(wire);
    }
    nodes.node("Cast", &[wire], &[("to", (dtype as i64).into())])
}

/// The type that expansions compute in for elements of type `dtype`: f32 for shorter floats, so that what lies between
/// two nodes is not rounded to them.
pub fn wide(dtype: DataType) -> DataType {
    match dtype {
        DataType::F16 | DataType::Bf16 => DataType::F32,
        short if short.is_small_float() => DataType::F32,
        other => other,
    }
}

/// Input `index` in the type of [`wide`].
pub fn wide_input(nodes: &mut Expansion<'_>, index: usize) -> Result<Wire, Reason> {
    let input = nodes.input(index)?;
    let dtype = wide(nodes.ty(input)?.dtype);
    cast(nodes, input, dtype)
}

/// `wire` under another shape of as many elements.
pub fn reshape(nodes: &mut Expansion<'_>, wire: Wire, shape: &[usize]) -> Result<Wire, Reason> {
    if nodes.shape(wire)? == shape {
        return Ok(wire);
    }
    let extents: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    let extents = nodes.i64s(&extents);
    nodes.node("Reshape", &[wire, extents], &[("allowzero", 1.into())])
}
