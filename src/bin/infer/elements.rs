//! The elements of tensors as numbers.

use half::{bf16, f16};
use infer_core::constant::Constant;
use infer_core::tensor_type::DataType;

/// The elements of a tensor, to be compared and summed up.
pub enum Elements {
    /// Floating-point numbers of any width.
    Floats(Vec<f64>),
    /// Integers and flags.
    Integers(Vec<i128>),
    /// Complex numbers, as real and imaginary part.
    Complex(Vec<(f64, f64)>),
}

impl Elements {
    /// The elements of `tensor`.
    pub fn of(tensor: &Constant) -> Self {
        macro_rules! floats {
            ($ty:ty, $to:expr) => {
                Elements::Floats(tensor.values::<$ty>().iter().copied().map($to).collect())
            };
        }
        macro_rules! integers {
            ($ty:ty) => {
                Elements::Integers(tensor.values::<$ty>().iter().map(|&value| value.into()).collect())
            };
        }
        let dtype = tensor.ty().dtype;
        match dtype {
            DataType::F64 => floats!(f64, f64::from),
            DataType::F32 => floats!(f32, f64::from),
            DataType::F16 => floats!(f16, f64::from),
            DataType::Bf16 => floats!(bf16, f64::from),
            DataType::I64 => integers!(i64),
            DataType::U64 => integers!(u64),
            DataType::I32 => integers!(i32),
            DataType::U32 => integers!(u32),
            DataType::I16 => integers!(i16),
            DataType::U16 => integers!(u16),
            DataType::I8 | DataType::I4 | DataType::I2 => integers!(i8),
            DataType::U8 | DataType::U4 | DataType::U2 | DataType::Bool => integers!(u8),
            DataType::C64 => Elements::Complex(
                tensor.values::<[f32; 2]>().iter().map(|&[re, im]| (re.into(), im.into())).collect(),
            ),
            DataType::C128 => {
                Elements::Complex(tensor.values::<[f64; 2]>().iter().map(|&[re, im]| (re, im)).collect())
            }
            _ => floats!(u8, |bits| small_float(dtype, bits)),
        }
    }
}

/// The number that `bits` stand for in one of the 8-bit and 4-bit floating-point types.
fn small_float(dtype: DataType, bits: u8) -> f64 {
    if dtype == DataType::F8E8M0 {
        return if bits == 0xff { f64::NAN } else { (f64::from(bits) - 127.0).exp2() };
    }
    let (exponent_bits, mantissa_bits, bias) = match dtype {
        DataType::F8E4M3FN => (4, 3, 7),
        DataType::F8E4M3FNUZ => (4, 3, 8),
        DataType::F8E5M2 => (5, 2, 15),
        DataType::F8E5M2FNUZ => (5, 2, 16),
        _ => (2, 1, 1),
    };
    let sign = bits >> (exponent_bits + mantissa_bits) & 1;
    let exponent = i32::from(bits >> mantissa_bits & ((1 << exponent_bits) - 1));
    let mantissa = bits & ((1 << mantissa_bits) - 1);
    let special = match dtype {
        DataType::F8E4M3FN if bits & 0x7f == 0x7f => Some(f64::NAN),
        DataType::F8E4M3FNUZ | DataType::F8E5M2FNUZ if bits == 0x80 => Some(f64::NAN),
        DataType::F8E5M2 if exponent == 31 && mantissa == 0 => Some(f64::INFINITY),
        DataType::F8E5M2 if exponent == 31 => Some(f64::NAN),
        _ => None,
    };
    let fraction = f64::from(mantissa) / f64::from(1 << mantissa_bits);
    let magnitude = special.unwrap_or_else(|| match exponent {
        0 => fraction * f64::from(1 - bias).exp2(),
        _ => (1.0 + fraction) * f64::from(exponent - bias).exp2(),
    });
    if sign == 1 { -magnitude } else { magnitude }
}

/// Adds to `data` an element for `unit` from 0 up to 1: that number as a float, else 0 or 1.
pub fn push(dtype: DataType, unit: f64, data: &mut Vec<u8>) {
    let bit = u8::from(unit >= 0.5);
    match dtype {
        DataType::F64 => data.extend(unit.to_le_bytes()),
        DataType::F32 => data.extend((unit as f32).to_le_bytes()),
        DataType::F16 => data.extend(f16::from_f64(unit).to_le_bytes()),
        DataType::Bf16 => data.extend(bf16::from_f64(unit).to_le_bytes()),
        DataType::C64 => data.extend([unit as f32, 0.0].iter().flat_map(|part| part.to_le_bytes())),
        DataType::C128 => data.extend([unit, 0.0].iter().flat_map(|part| part.to_le_bytes())),
        // One.
        DataType::F8E4M3FN => data.push(bit * 0x38),
        DataType::F8E4M3FNUZ | DataType::F8E5M2FNUZ => data.push(bit * 0x40),
        DataType::F8E5M2 => data.push(bit * 0x3c),
        DataType::F4E2M1 => data.push(bit * 2),
        // Half of one, or one: it has no zero.
        DataType::F8E8M0 => data.push(126 + bit),
        _ => {
            data.push(bit);
            data.extend(std::iter::repeat_n(0, dtype.size_bytes() - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_are_decoded() {
        let cases = [
            (DataType::F8E4M3FN, 0x38, 1.0),
            (DataType::F8E4M3FN, 0x7e, 448.0),
            (DataType::F8E4M3FN, 0x81, -1.0 / 512.0),
            (DataType::F8E4M3FNUZ, 0x40, 1.0),
            (DataType::F8E4M3FNUZ, 0x7f, 240.0),
            (DataType::F8E5M2, 0x3c, 1.0),
            (DataType::F8E5M2, 0xfc, f64::NEG_INFINITY),
            (DataType::F8E5M2FNUZ, 0x40, 1.0),
            (DataType::F8E5M2FNUZ, 0x7f, 57344.0),
            (DataType::F4E2M1, 0x7, 6.0),
            (DataType::F4E2M1, 0x9, -0.5),
            (DataType::F8E8M0, 127, 1.0),
            (DataType::F8E8M0, 0, 127f64.exp2().recip()),
        ];
        for (dtype, bits, number) in cases {
            assert_eq!(small_float(dtype, bits), number, "{dtype} {bits:#x}");
        }
        for (dtype, bits) in
            [(DataType::F8E4M3FN, 0xff), (DataType::F8E5M2FNUZ, 0x80), (DataType::F8E5M2, 0x7d)]
        {
            assert!(small_float(dtype, bits).is_nan());
        }
    }

    #[test]
    fn elements_are_of_the_size_of_their_type() {
        for dtype in DataType::ALL {
            for unit in [0.0, 0.75] {
                let mut data = Vec::new();
                push(dtype, unit, &mut data);
                assert_eq!(data.len(), dtype.size_bytes(), "{dtype}");
            }
        }
    }
}
