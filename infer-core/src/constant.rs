//! Tensors whose values are known while compiling.

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytemuck::{AnyBitPattern, NoUninit};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::tensor_type::{DataType, TensorType};

/// A tensor known at compile time: row-major, little-endian, `bool` as one byte. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(TensorType, Bytes)", into = "(TensorType, Bytes)")]
pub struct Constant {
    ty: TensorType,
    data: Bytes,
}

impl Constant {
    /// A constant of type `ty` with these bytes, or `None` where their number is wrong.
    pub fn new(ty: TensorType, data: Bytes) -> Option<Self> {
        (ty.checked_elements()?.checked_mul(ty.dtype.size_bytes())? == data.len())
            .then_some(Constant { ty, data })
    }

    /// A constant of these values.
    ///
    /// # Panics
    ///
    /// If their number or width is not that of `ty`: for values made by the compiler itself.
    pub fn of<T: NoUninit>(ty: TensorType, values: &[T]) -> Self {
        assert_eq!(ty.bytes(), size_of_val(values), "a constant {ty} from {} values", values.len());
        Constant { ty, data: Bytes::copy_from_slice(bytemuck::cast_slice(values)) }
    }

    /// A one-dimensional i64 constant, as ONNX uses for shapes and axes.
    pub fn of_i64(values: &[i64]) -> Self {
        Constant::of(TensorType::new(DataType::I64, [values.len()]), values)
    }

    /// A constant of type `ty` from the values in a row, which may be of another number than the type says.
    pub fn checked<T: NoUninit>(ty: TensorType, values: &[T]) -> Option<Self> {
        Constant::new(ty, Bytes::copy_from_slice(bytemuck::cast_slice(values)))
    }

    /// A scalar f32.
    pub fn scalar_f32(value: f32) -> Self {
        Constant::of(TensorType::new(DataType::F32, []), &[value])
    }

    /// The type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same elements under another shape of as many, or `None`.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        Constant::new(TensorType::new(self.ty.dtype, shape), self.data.clone())
    }

    /// The elements as `T`, copied only where the bytes are not aligned for it. The caller chooses a `T` of the
    /// element type's width; of another width this is empty.
    pub fn values<T: AnyBitPattern + NoUninit>(&self) -> Cow<'_, [T]> {
        if size_of::<T>() != self.ty.dtype.size_bytes() {
            return Cow::Borrowed(&[]);
        }
        match bytemuck::try_cast_slice(&self.data) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => {
                Cow::Owned(self.data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
            }
        }
    }

    /// The values of an i64 or i32 tensor, as shapes, axes and indices are given; `None` for other types.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        match self.ty.dtype {
            DataType::I64 => Some(self.values::<i64>().into_owned()),
            DataType::I32 => Some(self.values::<i32>().iter().map(|&v| v.into()).collect()),
            _ => None,
        }
    }

    /// The values of an f32 tensor (f64 and f16 are converted); `None` for other types.
    pub fn to_f32s(&self) -> Option<Cow<'_, [f32]>> {
        match self.ty.dtype {
            DataType::F32 => Some(self.values::<f32>()),
            DataType::F64 => Some(self.values::<f64>().iter().map(|&v| v as f32).collect()),
            DataType::F16 => Some(self.values::<half::f16>().iter().map(|v| v.to_f32()).collect()),
            _ => None,
        }
    }

    /// The value of a float tensor of one element; `None` for others.
    pub fn to_scalar_f32(&self) -> Option<f32> {
        if self.ty.elements() != 1 {
            return None;
        }
        self.to_f32s()?.first().copied()
    }
}

impl TryFrom<(TensorType, Bytes)> for Constant {
    type Error = &'static str;

    fn try_from((ty, data): (TensorType, Bytes)) -> Result<Self, &'static str> {
        Constant::new(ty, data).ok_or("a tensor with another number of bytes")
    }
}

impl From<Constant> for (TensorType, Bytes) {
    fn from(constant: Constant) -> Self {
        (constant.ty, constant.data)
    }
}

/// The type and a hash of the elements, so that operators that differ in a constant print differently.
impl std::fmt::Debug for Constant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut hasher = DefaultHasher::new();
        self.data.hash(&mut hasher);
        write!(f, "Constant({}, {:016x})", self.ty, hasher.finish())
    }
}
