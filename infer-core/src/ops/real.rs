//! Elements as f64, for operators that compute on values rather than by kernels.

use bytemuck::{AnyBitPattern, NoUninit};
use half::{bf16, f16};

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::node_types::{InputType, NodeTypes};
use crate::node_values::NodeValues;
use crate::tensor_type::{DataType, TensorType};

/// The most bytes that a computed output may have.
const MAX_BYTES: usize = 1 << 30;

/// Refuses types of more than 1 GiB, before anything is allocated for them.
pub(crate) fn expect_small(ty: &TensorType) -> Result<(), Reason> {
    let bytes = ty.checked_elements().and_then(|count| count.checked_mul(ty.dtype.size_bytes()));
    match bytes {
        Some(bytes) if bytes <= MAX_BYTES => Ok(()),
        _ => Err(Reason::new(format!("an output would be {ty}, which is too large"))),
    }
}

/// A type of element with values among the real numbers.
pub(crate) trait Real: Copy + Send + Sync + AnyBitPattern + NoUninit {
    /// The value, rounded where f64 does not have it.
    fn get(self) -> f64;

    /// The nearest value; for integers what is left without the fraction, and the nearest bound beyond those.
    fn of(value: f64) -> Self;
}

macro_rules! primitive {
    ($($ty:ty),*) => {$(
        impl Real for $ty {
            fn get(self) -> f64 {
                self as f64
            }

            fn of(value: f64) -> Self {
                value as $ty
            }
        }
    )*};
}

primitive!(f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! half_float {
    ($($ty:ty),*) => {$(
        impl Real for $ty {
            fn get(self) -> f64 {
                self.to_f64()
            }

            fn of(value: f64) -> Self {
                <$ty>::from_f64(value)
            }
        }
    )*};
}

half_float!(f16, bf16);

/// `$body` with `$T` standing for the type of elements of `$dtype`, one of [`Real`]; `$other` where it is none.
macro_rules! with_real {
    ($dtype:expr, $T:ident => $body:expr, else $other:expr) => {
        match $dtype {
            $crate::tensor_type::DataType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor_type::DataType::F64 => {
                type $T = f64;
                $body
            }
            $crate::tensor_type::DataType::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::tensor_type::DataType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::tensor_type::DataType::I8 => {
                type $T = i8;
                $body
            }
            $crate::tensor_type::DataType::I16 => {
                type $T = i16;
                $body
            }
            $crate::tensor_type::DataType::I32 => {
                type $T = i32;
                $body
            }
            $crate::tensor_type::DataType::I64 => {
                type $T = i64;
                $body
            }
            $crate::tensor_type::DataType::U8 => {
                type $T = u8;
                $body
            }
            $crate::tensor_type::DataType::U16 => {
                type $T = u16;
                $body
            }
            $crate::tensor_type::DataType::U32 => {
                type $T = u32;
                $body
            }
            $crate::tensor_type::DataType::U64 => {
                type $T = u64;
                $body
            }
            _ => $other,
        }
    };
}

pub(crate) use with_real;

/// The elements of a tensor of real numbers.
pub(crate) fn to_reals(tensor: &Constant) -> Result<Vec<f64>, Reason> {
    let ty = tensor.ty();
    with_real!(ty.dtype, T => Ok(tensor.values::<T>().iter().map(|&value| value.get()).collect()),
        else Err(Reason::new(format!("element type {} is not supported", ty.dtype))))
}

/// The tensor of type `ty` with these elements, as near as the type has them.
pub(crate) fn from_reals(ty: TensorType, values: &[f64]) -> Result<Constant, Reason> {
    let wrong = || Reason::new(format!("{} elements are not those of {ty}", values.len()));
    if ty.checked_elements() != Some(values.len()) {
        return Err(wrong());
    }
    with_real!(ty.dtype, T => {
        let values: Vec<T> = values.iter().map(|&value| T::of(value)).collect();
        Constant::checked(ty.clone(), &values).ok_or_else(wrong)
    }, else Err(Reason::new(format!("element type {} is not supported", ty.dtype))))
}

/// How f64 numbers become those that arithmetic on elements of a type has: f64 itself, or f32 for all smaller types. As
/// f64 has more than twice the digits of f32, rounding after each operation gives what arithmetic in f32 gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rounding {
    wide: bool,
}

impl Rounding {
    /// That of arithmetic on elements of type `dtype`.
    pub(crate) fn of(dtype: DataType) -> Self {
        Rounding { wide: dtype == DataType::F64 }
    }

    /// The nearest number that it has.
    #[inline]
    pub(crate) fn round(self, value: f64) -> f64 {
        if self.wide { value } else { f64::from(value as f32) }
    }
}

/// What `look` finds in the types of a node's inputs, all of them known. Inputs that are no tensors of numbers count as
/// left out.
pub(crate) fn with_types<R>(node: &NodeValues<'_>, look: impl FnOnce(&NodeTypes<'_>) -> R) -> R {
    let types: Vec<Option<InputType<'_>>> = node
        .inputs
        .iter()
        .map(|value| {
            let tensor = value.as_ref()?.as_tensor()?;
            Some(InputType { ty: tensor.ty(), constant: Some(tensor) })
        })
        .collect();
    look(&NodeTypes { inputs: &types, outputs: node.outputs })
}

/// The type of the elements that inputs `indices` have in common, where they are there, among the floating-point ones.
pub(crate) fn common_float(node: &NodeTypes<'_>, indices: &[usize]) -> Result<DataType, Reason> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::tensor;

    #[test]
    fn elements_become_reals_and_back() {
        for dtype in [DataType::F16, DataType::Bf16, DataType::F64, DataType::U8, DataType::I64] {
            let there = from_reals(TensorType::new(dtype, [3]), &[0.0, 2.0, 100.0]).unwrap();
            assert_eq!(to_reals(&there).unwrap(), [0.0, 2.0, 100.0], "{dtype}");
        }
        let small = from_reals(TensorType::new(DataType::U8, [3]), &[-1.0, 2.75, 1e9]).unwrap();
        assert!(small == tensor(DataType::U8, [3], &[0_u8, 2, 255]));
        assert!(from_reals(TensorType::new(DataType::Bool, [1]), &[1.0]).is_err());
        assert!(from_reals(TensorType::new(DataType::F32, [2]), &[1.0]).is_err());
        assert!(expect_small(&TensorType::new(DataType::F32, [1 << 20, 1 << 20])).is_err());
    }
}
