//! Arithmetic and order of elements, for operators that compute values from values.
//!
//! f16 and bf16 are computed with as f32: [`widened`] before, [`narrowed`] afterwards.

use std::cmp::Ordering;

use bytemuck::{NoUninit, Pod, Zeroable};
use half::{bf16, f16};

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// An element that can be computed with. Integers wrap around.
pub(super) trait Number: Pod {
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// The sum.
    fn plus(self, other: Self) -> Self;
    /// The product.
    fn times(self, other: Self) -> Self;
    /// The order; NaN comes last.
    fn compare(&self, other: &Self) -> Ordering;
    /// Whether it is no number.
    fn is_nan(&self) -> bool {
        false
    }
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn compare(&self, other: &Self) -> Ordering {
                self.cmp(other)
            }
        }
    )*};
}

macro_rules! floats {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn times(self, other: Self) -> Self {
                self * other
            }
            fn compare(&self, other: &Self) -> Ordering {
                self.partial_cmp(other).unwrap_or_else(|| self.is_nan().cmp(&other.is_nan()))
            }
            fn is_nan(&self) -> bool {
                <$ty>::is_nan(*self)
            }
        }
    )*};
}

integers!(u8, i8, u16, i16, u32, i32, u64, i64);
floats!(f32, f64);

/// A bool: the sum is "or", the product "and".
#[repr(transparent)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Truth(u8);

impl Number for Truth {
    const ZERO: Self = Truth(0);
    const ONE: Self = Truth(1);
    fn plus(self, other: Self) -> Self {
        Truth(self.0 | other.0)
    }
    fn times(self, other: Self) -> Self {
        Truth(self.0 & other.0)
    }
    fn compare(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
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

/// The tensor of these elements.
pub(super) fn tensor_of<T: NoUninit>(
    dtype: DataType,
    shape: &[usize],
    values: &[T],
) -> Result<Constant, Reason> {
    let ty = TensorType::new(dtype, shape);
    Constant::checked(ty, values).ok_or_else(|| Reason::new("a tensor with another number of elements"))
}

/// Refusal of elements that cannot be computed with.
pub(super) fn no_numbers(dtype: DataType) -> Reason {
    Reason::new(format!("element type {dtype} is not supported"))
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
}
