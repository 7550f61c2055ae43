//! Element types and tensor types.

use std::fmt;

/// The type of a tensor's elements, as ONNX numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "dynamic", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
#[repr(u32)]
pub enum DataType {
    /// 32-bit float
    F32 = 1,
    /// unsigned 8-bit integer
    U8 = 2,
    /// signed 8-bit integer
    I8 = 3,
    /// unsigned 16-bit integer
    U16 = 4,
    /// signed 16-bit integer
    I16 = 5,
    /// signed 32-bit integer
    I32 = 6,
    /// signed 64-bit integer
    I64 = 7,
    /// one byte, 0 or 1
    Bool = 9,
    /// 16-bit IEEE float
    F16 = 10,
    /// 64-bit float
    F64 = 11,
    /// unsigned 32-bit integer
    U32 = 12,
    /// unsigned 64-bit integer
    U64 = 13,
    /// complex number of two f32, real part first
    C64 = 14,
    /// complex number of two f64, real part first
    C128 = 15,
    /// bfloat16
    Bf16 = 16,
    /// 8-bit float, 4 bits of exponent, 3 of mantissa, no infinities
    F8E4M3FN = 17,
    /// 8-bit float, 4 bits of exponent, 3 of mantissa, no infinities, no negative zero
    F8E4M3FNUZ = 18,
    /// 8-bit float, 5 bits of exponent, 2 of mantissa
    F8E5M2 = 19,
    /// 8-bit float, 5 bits of exponent, 2 of mantissa, no infinities, no negative zero
    F8E5M2FNUZ = 20,
    /// unsigned 4-bit integer, each in a byte of its own
    U4 = 21,
    /// signed 4-bit integer, each in a byte of its own
    I4 = 22,
    /// 4-bit float, 2 bits of exponent, 1 of mantissa, each in the low half of a byte of its own
    F4E2M1 = 23,
    /// 8-bit power of two without sign or mantissa, as scales have it
    F8E8M0 = 24,
    /// unsigned 2-bit integer, each in a byte of its own
    U2 = 25,
    /// signed 2-bit integer, each in a byte of its own
    I2 = 26,
}

impl DataType {
    /// Every type.
    pub const ALL: [DataType; 25] = [
        DataType::F32,
        DataType::U8,
        DataType::I8,
        DataType::U16,
        DataType::I16,
        DataType::I32,
        DataType::I64,
        DataType::Bool,
        DataType::F16,
        DataType::F64,
        DataType::U32,
        DataType::U64,
        DataType::Bf16,
        DataType::C64,
        DataType::C128,
        DataType::F8E4M3FN,
        DataType::F8E4M3FNUZ,
        DataType::F8E5M2,
        DataType::F8E5M2FNUZ,
        DataType::U4,
        DataType::I4,
        DataType::F4E2M1,
        DataType::F8E8M0,
        DataType::U2,
        DataType::I2,
    ];

    /// The type that ONNX's `TensorProto.DataType` calls `code`, if it is supported.
    pub fn from_onnx(code: i32) -> Option<DataType> {
        DataType::ALL.into_iter().find(|ty| *ty as i32 == code)
    }

    /// The short name used in messages and in kernel names: `f32`, `i64`, `bool`.
    pub fn name(self) -> &'static str {
        match self {
            DataType::F32 => "f32",
            DataType::U8 => "u8",
            DataType::I8 => "i8",
            DataType::U16 => "u16",
            DataType::I16 => "i16",
            DataType::I32 => "i32",
            DataType::I64 => "i64",
            DataType::Bool => "bool",
            DataType::F16 => "f16",
            DataType::F64 => "f64",
            DataType::U32 => "u32",
            DataType::U64 => "u64",
            DataType::Bf16 => "bf16",
            DataType::C64 => "c64",
            DataType::C128 => "c128",
            DataType::F8E4M3FN => "f8e4m3fn",
            DataType::F8E4M3FNUZ => "f8e4m3fnuz",
            DataType::F8E5M2 => "f8e5m2",
            DataType::F8E5M2FNUZ => "f8e5m2fnuz",
            DataType::U4 => "u4",
            DataType::I4 => "i4",
            DataType::F4E2M1 => "f4e2m1",
            DataType::F8E8M0 => "f8e8m0",
            DataType::U2 => "u2",
            DataType::I2 => "i2",
        }
    }

    /// The size of one element in bytes. Types below 8 bits have one byte each here, whatever files do.
    pub fn size_bytes(self) -> usize {
        match self {
            DataType::U8 | DataType::I8 | DataType::Bool => 1,
            DataType::F8E4M3FN | DataType::F8E4M3FNUZ | DataType::F8E5M2 | DataType::F8E5M2FNUZ => 1,
            DataType::U4
            | DataType::I4
            | DataType::F4E2M1
            | DataType::F8E8M0
            | DataType::U2
            | DataType::I2 => 1,
            DataType::U16 | DataType::I16 | DataType::F16 | DataType::Bf16 => 2,
            DataType::F32 | DataType::I32 | DataType::U32 => 4,
            DataType::F64 | DataType::I64 | DataType::U64 | DataType::C64 => 8,
            DataType::C128 => 16,
        }
    }

    /// The type whose values stand for one element, or its parts, in Rust: of integers below 8 bits those of 8, of 8-bit
    /// and 4-bit floats the bytes, of complex numbers their two parts, of others the type itself.
    pub fn storage(self) -> DataType {
        match self {
            DataType::F8E4M3FN
            | DataType::F8E4M3FNUZ
            | DataType::F8E5M2
            | DataType::F8E5M2FNUZ
            | DataType::F4E2M1
            | DataType::F8E8M0
            | DataType::U4
            | DataType::U2 => DataType::U8,
            DataType::I4 | DataType::I2 => DataType::I8,
            DataType::C64 => DataType::F32,
            DataType::C128 => DataType::F64,
            other => other,
        }
    }

    /// How many bits one element has in files, where several share a byte.
    pub fn packed_bits(self) -> usize {
        match self {
            DataType::U2 | DataType::I2 => 2,
            DataType::U4 | DataType::I4 | DataType::F4E2M1 => 4,
            _ => 8 * self.size_bytes(),
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, DataType::F32 | DataType::F64 | DataType::F16 | DataType::Bf16)
    }

    /// Whether it is one of the 8-bit and 4-bit floating-point types.
    pub fn is_small_float(self) -> bool {
        matches!(
            self,
            DataType::F8E4M3FN
                | DataType::F8E4M3FNUZ
                | DataType::F8E5M2
                | DataType::F8E5M2FNUZ
                | DataType::F4E2M1
                | DataType::F8E8M0
        )
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An element type and a static shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "dynamic", derive(serde::Serialize, serde::Deserialize))]
pub struct TensorType {
    /// The type of the elements.
    pub dtype: DataType,
    /// The extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

/// The most elements a tensor may have: larger ones are refused before anything is allocated for them.
pub const MAX_ELEMENTS: usize = 1 << 33;

/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 64;

impl TensorType {
    /// The type of a tensor of `dtype` elements with these extents.
    pub fn new(dtype: DataType, shape: impl Into<Vec<usize>>) -> Self {
        TensorType { dtype, shape: shape.into() }
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements. Shape inference has checked it against [`MAX_ELEMENTS`].
    pub fn elements(&self) -> usize {
        // The other extents of an empty tensor may be of any size.
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// The number of elements, or `None` above [`MAX_ELEMENTS`].
    pub fn checked_elements(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_ELEMENTS)
    }

    /// The size in bytes, row-major without gaps.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size_bytes()
    }

    /// The row-major strides in elements.
    pub fn strides(&self) -> Vec<i64> {
        let mut strides = vec![1i64; self.rank()];
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(self.shape[axis].max(1) as i64);
        }
        strides
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (axis, extent) in self.shape.iter().enumerate() {
            write!(f, "{}{extent}", if axis == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}
