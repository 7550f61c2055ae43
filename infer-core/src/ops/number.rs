//! Arithmetic on the elements of numeric tensors: one type of elements at a time ([`Number`]), single elements of any
//! type ([`Scalar`]), and whole tensors as f64.
//!
//! Where elements are computed with in their own type, f16 and bf16 are so as f32: [`widened`] before, [`narrowed`]
//! afterwards.

use std::cmp::Ordering;

use bytemuck::{NoUninit, Pod, Zeroable};
use half::{bf16, f16};

use super::elements::{checked_elements, expect_elements};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

mod scalar;
pub(super) use scalar::{Rules, Scalar, of_scalars, scalars};

/// An element that can be computed with. Integers wrap around.
pub(super) trait Number: Pod {
    /// 0
    const ZERO: Self;
    /// The sum.
    fn plus(self, other: Self) -> Self;
    /// The order; NaN comes last.
    fn compare(&self, other: &Self) -> Ordering;
    /// Whether it is no number.
    fn is_nan(&self) -> bool {
        false
    }
    /// The nearest f64.
    fn to_f64(self) -> f64;
    /// The nearest value; for integers what is left without the fraction, and the nearest bound beyond those.
    fn of_f64(value: f64) -> Self;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            const ZERO: Self = 0;
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn compare(&self, other: &Self) -> Ordering {
                self.cmp(other)
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn of_f64(value: f64) -> Self {
                value as $ty
            }
        }
    )*};
}

macro_rules! floats {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            const ZERO: Self = 0.0;
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn compare(&self, other: &Self) -> Ordering {
                self.partial_cmp(other).unwrap_or_else(|| self.is_nan().cmp(&other.is_nan()))
            }
            fn is_nan(&self) -> bool {
                <$ty>::is_nan(*self)
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn of_f64(value: f64) -> Self {
                value as $ty
            }
        }
    )*};
}

integers!(u8, i8, u16, i16, u32, i32, u64, i64);
floats!(f32, f64);

/// A bool: the sum is "or".
#[repr(transparent)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Truth(u8);

impl Number for Truth {
    const ZERO: Self = Truth(0);
    fn plus(self, other: Self) -> Self {
        Truth(self.0 | other.0)
    }
    fn compare(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
    fn to_f64(self) -> f64 {
        f64::from(u8::from(self.0 != 0))
    }
    fn of_f64(value: f64) -> Self {
        Truth(u8::from(value != 0.0))
    }
}

/// Evaluates an expression with a type that stands for elements of a [`DataType`] (f16 and bf16 as they are
/// [`widened`]), the last one where there is none.
macro_rules! with_number {
    ($dtype:expr, $ty:ident => $body:expr, $otherwise:expr) => {{
        use crate::ops::number::Truth;
        use crate::tensor_type::DataType;
        macro_rules! arm {
            ($own:ty) => {{
                type $ty = $own;
                $body
            }};
        }
        match $dtype {
            DataType::F32 => arm!(f32),
            DataType::F64 => arm!(f64),
            DataType::U8 => arm!(u8),
            DataType::I8 => arm!(i8),
            DataType::U16 => arm!(u16),
            DataType::I16 => arm!(i16),
            DataType::U32 => arm!(u32),
            DataType::I32 => arm!(i32),
            DataType::U64 => arm!(u64),
            DataType::I64 => arm!(i64),
            DataType::Bool => arm!(Truth),
            _ => $otherwise,
        }
    }};
}
pub(super) use with_number;

/// The types that [`with_number`] knows once they are widened, but for bool.
pub(super) const NUMBERS: &[DataType] = &[
    DataType::F32,
    DataType::F64,
    DataType::F16,
    DataType::Bf16,
    DataType::U8,
    DataType::I8,
    DataType::U16,
    DataType::I16,
    DataType::U32,
    DataType::I32,
    DataType::U64,
    DataType::I64,
];

/// `tensor`, elements of f16 and bf16 as f32.
pub(super) fn widened(tensor: &Constant) -> Constant {
    let floats: Vec<f32> = match tensor.ty().dtype {
        DataType::F16 => tensor.values::<f16>().iter().map(|value| value.to_f32()).collect(),
        DataType::Bf16 => tensor.values::<bf16>().iter().map(|value| value.to_f32()).collect(),
        _ => return tensor.clone(),
    };
    let ty = TensorType::new(DataType::F32, tensor.ty().shape.clone());
    Constant::checked(ty, &floats).unwrap_or_else(|| tensor.clone())
}

/// `tensor`, elements of f32 as the f16 or bf16 that `dtype` is.
pub(super) fn narrowed(tensor: Constant, dtype: DataType) -> Constant {
    let ty = TensorType::new(dtype, tensor.ty().shape.clone());
    let narrow = match dtype {
        DataType::F16 if tensor.ty().dtype == DataType::F32 => {
            let values: Vec<f16> = tensor.values::<f32>().iter().map(|&value| f16::from_f32(value)).collect();
            Constant::checked(ty, &values)
        }
        DataType::Bf16 if tensor.ty().dtype == DataType::F32 => {
            let values: Vec<bf16> =
                tensor.values::<f32>().iter().map(|&value| bf16::from_f32(value)).collect();
            Constant::checked(ty, &values)
        }
        _ => None,
    };
    narrow.unwrap_or(tensor)
}

/// The tensor of these elements, which are as wide as the type says.
pub(super) fn tensor_of<T: NoUninit>(
    dtype: DataType,
    shape: &[usize],
    values: &[T],
) -> Result<Constant, Reason> {
    let ty = TensorType::new(dtype, shape);
    let wrong = Reason::new(format!("{ty} of {} elements", values.len()));
    Constant::checked(ty, values).ok_or(wrong)
}

/// Refusal of elements that cannot be computed with.
pub(super) fn no_numbers(dtype: DataType) -> Reason {
    Reason::new(format!("element type {dtype} is not supported"))
}

/// The elements of a tensor as f64, the nearest ones.
pub(super) fn to_f64s(tensor: &Constant) -> Result<Vec<f64>, Reason> {
    let TensorType { dtype, shape } = tensor.ty();
    expect_elements(shape, size_of::<f64>())?;
    Ok(with_number!(
        *dtype,
        T => tensor.values::<T>().iter().map(|&value| value.to_f64()).collect(),
        scalars(tensor)?.map(Scalar::to_f64).collect()
    ))
}

/// A tensor of these numbers, rounded as Cast rounds.
pub(super) fn of_f64s(ty: TensorType, values: impl IntoIterator<Item = f64>) -> Result<Constant, Reason> {
    checked_elements(&ty)?;
    let values = values.into_iter();
    if ty.dtype == DataType::F32 {
        let values: Vec<f32> = values.map(|value| value as f32).collect();
        return tensor_of(ty.dtype, &ty.shape, &values);
    }
    of_scalars(ty, values.map(Scalar::Float), Rules::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::tensor;

    #[test]
    fn numbers_order_and_convert() {
        assert_eq!(f32::NAN.compare(&f32::INFINITY), Ordering::Greater);
        assert_eq!(1.0f32.compare(&f32::NAN), Ordering::Less);
        assert_eq!(f64::NAN.compare(&f64::NAN), Ordering::Equal);
        assert_eq!(255u8.plus(2), 1);
        let halves = tensor(DataType::F16, [2], &[1.5, -2.0].map(f16::from_f32));
        let wide = widened(&halves);
        assert_eq!(&*wide.values::<f32>(), [1.5, -2.0]);
        assert_eq!(narrowed(wide, DataType::F16), halves);
    }

    #[test]
    fn tensors_become_f64s_and_back() {
        for dtype in [DataType::F16, DataType::Bf16, DataType::F64, DataType::U8, DataType::I64] {
            let there = of_f64s(TensorType::new(dtype, [3]), [0.0, 2.0, 100.0]).unwrap();
            assert_eq!(to_f64s(&there).unwrap(), [0.0, 2.0, 100.0], "{dtype}");
        }
        assert_eq!([-1.0, 2.75, 1e9].map(u8::of_f64), [0, 2, 255]);
        assert!(of_f64s(TensorType::new(DataType::C64, [1]), [1.0]).is_err());
        assert!(of_f64s(TensorType::new(DataType::F32, [2]), [1.0]).is_err());
    }
}
