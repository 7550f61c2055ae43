//! Single elements of any type but the complex ones, exactly, and tensors of them.

use half::{bf16, f16};

use super::no_numbers;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::elements::checked_elements;
use crate::small_float::{self, RoundMode};
use crate::tensor_type::{DataType, TensorType};

/// One element of any type but the complex ones, exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// Of an integer type or bool.
    Integer(i128),
    /// Of a floating-point type.
    Float(f64),
}

/// How numbers become elements of types that cannot hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether 8-bit floats have their largest value for what is larger.
    pub saturate: bool,
    /// How f8e8m0 rounds.
    pub round: RoundMode,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { saturate: true, round: RoundMode::Up }
    }
}

impl Scalar {
    /// The element of type `dtype` whose bytes these are; `None` for complex types.
    pub fn read(dtype: DataType, bytes: &[u8]) -> Option<Scalar> {
        use Scalar::{Float, Integer};
        macro_rules! of {
            ($t:ty) => {
                <$t>::from_le_bytes(bytes.try_into().ok()?)
            };
        }
        Some(match dtype {
            DataType::Bool => Integer((of!(u8) != 0).into()),
            DataType::U8 | DataType::U4 | DataType::U2 => Integer(of!(u8).into()),
            DataType::I8 | DataType::I4 | DataType::I2 => Integer(of!(i8).into()),
            DataType::U16 => Integer(of!(u16).into()),
            DataType::I16 => Integer(of!(i16).into()),
            DataType::U32 => Integer(of!(u32).into()),
            DataType::I32 => Integer(of!(i32).into()),
            DataType::U64 => Integer(of!(u64).into()),
            DataType::I64 => Integer(of!(i64).into()),
            DataType::F64 => Float(of!(f64)),
            DataType::F32 => Float(of!(f32).into()),
            DataType::F16 => Float(f16::from_bits(of!(u16)).to_f64()),
            DataType::Bf16 => Float(bf16::from_bits(of!(u16)).to_f64()),
            small => Float(small_float::decode(small, of!(u8))?.into()),
        })
    }

    /// Appends the bytes of the element of type `dtype` that it becomes: floats are truncated to integers and kept in
    /// the range of i64 or u64, integers wrap, floats round to the nearest. `None` for complex types.
    pub fn write(self, dtype: DataType, rules: Rules, out: &mut Vec<u8>) -> Option<()> {
        macro_rules! put {
            ($value:expr) => {
                out.extend_from_slice(&($value).to_le_bytes())
            };
        }
        // Wide enough for either 64-bit type; the casts below wrap.
        let integer = match self {
            Scalar::Integer(x) => x,
            Scalar::Float(x) if dtype == DataType::U64 && x > 0.0 => (x as u64).into(),
            Scalar::Float(x) => (x as i64).into(),
        };
        let float = self.to_f64();
        match dtype {
            DataType::Bool => put!(u8::from(self.is_true())),
            DataType::U8 => put!(integer as u8),
            DataType::I8 => put!(integer as i8),
            DataType::U4 => put!(integer as u8 & 0xf),
            DataType::U2 => put!(integer as u8 & 0x3),
            DataType::I4 => put!((integer as i8) << 4 >> 4),
            DataType::I2 => put!((integer as i8) << 6 >> 6),
            DataType::U16 => put!(integer as u16),
            DataType::I16 => put!(integer as i16),
            DataType::U32 => put!(integer as u32),
            DataType::I32 => put!(integer as i32),
            DataType::U64 => put!(integer as u64),
            DataType::I64 => put!(integer as i64),
            DataType::F64 => put!(float),
            DataType::F32 => put!(float as f32),
            DataType::F16 => put!(f16::from_f32(float as f32).to_bits()),
            DataType::Bf16 => put!(bf16::from_f32(float as f32).to_bits()),
            small => put!(small_float::encode(small, float, rules.saturate, rules.round)?),
        }
        Some(())
    }

    /// The nearest f64.
    pub fn to_f64(self) -> f64 {
        match self {
            Scalar::Integer(x) => x as f64,
            Scalar::Float(x) => x,
        }
    }

    fn is_true(self) -> bool {
        match self {
            Scalar::Integer(x) => x != 0,
            Scalar::Float(x) => x != 0.0,
        }
    }
}

/// The elements of a tensor.
pub fn scalars(tensor: &Constant) -> Result<impl Iterator<Item = Scalar> + '_, Reason> {
    let dtype = tensor.ty().dtype;
    if matches!(dtype, DataType::C64 | DataType::C128) {
        return Err(no_numbers(dtype));
    }
    let elements = tensor.data().chunks_exact(dtype.size_bytes());
    Ok(elements.filter_map(move |bytes| Scalar::read(dtype, bytes)))
}

/// A tensor of these elements.
pub fn of_scalars(
    ty: TensorType,
    values: impl Iterator<Item = Scalar>,
    rules: Rules,
) -> Result<Constant, Reason> {
    let mut bytes = Vec::with_capacity(checked_elements(&ty)? * ty.dtype.size_bytes());
    for value in values {
        value.write(ty.dtype, rules, &mut bytes).ok_or_else(|| no_numbers(ty.dtype))?;
    }
    let wrong = Reason::new(format!("{ty} of {} bytes", bytes.len()));
    Constant::new(ty, bytes.into()).ok_or(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back() {
        for dtype in DataType::ALL {
            let mut bytes = Vec::new();
            match Scalar::Float(1.0).write(dtype, Rules::default(), &mut bytes) {
                None => assert!(matches!(dtype, DataType::C64 | DataType::C128)),
                Some(()) => {
                    assert_eq!(bytes.len(), dtype.size_bytes());
                    assert_eq!(Scalar::read(dtype, &bytes).unwrap().to_f64(), 1.0, "{dtype}");
                }
            }
        }
    }

    #[test]
    fn integers_wrap_and_small_ones_keep_their_sign() {
        let byte = |dtype, value| {
            let mut bytes = Vec::new();
            Scalar::Integer(value).write(dtype, Rules::default(), &mut bytes).unwrap();
            bytes[0] as i8
        };
        assert_eq!([8, -9, 7].map(|v| byte(DataType::I4, v)), [-8, 7, 7]);
        assert_eq!([4, -1, 2].map(|v| byte(DataType::U2, v)), [0, 3, 2]);
        assert_eq!([2, -3, 1].map(|v| byte(DataType::I2, v)), [-2, 1, 1]);
        assert_eq!(byte(DataType::I8, 200), -56);
    }
}
