//! The floating-point types of 8 and 4 bits: their values, and the nearest code for a number.
//!
//! Specification: <https://onnx.ai/onnx/technical/float8.html>, <https://onnx.ai/onnx/technical/float4.html>,
//! <https://onnx.ai/onnx/operators/onnx__Cast.html> for what rounds how.

use crate::tensor_type::DataType;

/// How a value between two powers of two becomes an f8e8m0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundMode {
    /// The greater.
    #[default]
    Up,
    /// The lesser.
    Down,
    /// The nearer, the greater where both are as near.
    Nearest,
}

/// What a type has beyond the largest finite value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    /// Nothing.
    None,
    /// NaN alone, all bits but the sign set.
    Nan,
    /// Infinity, then NaN.
    Infinite,
    /// NaN alone, in the place of negative zero.
    NegativeZero,
}

/// A format of sign, exponent and mantissa.
struct Format {
    /// Bits of the exponent and the mantissa.
    bits: u32,
    mantissa: i32,
    bias: i32,
    /// The code of the largest finite value.
    max: u8,
    special: Special,
}

fn format(dtype: DataType) -> Option<Format> {
    let (bits, mantissa, bias, max, special) = match dtype {
        DataType::F8E4M3FN => (7, 3, 7, 0x7e, Special::Nan),
        DataType::F8E4M3FNUZ => (7, 3, 8, 0x7f, Special::NegativeZero),
        DataType::F8E5M2 => (7, 2, 15, 0x7b, Special::Infinite),
        DataType::F8E5M2FNUZ => (7, 2, 16, 0x7f, Special::NegativeZero),
        DataType::F4E2M1 => (3, 1, 1, 0x7, Special::None),
        _ => return None,
    };
    Some(Format { bits, mantissa, bias, max, special })
}

/// 2 to the `exponent`.
fn power(exponent: i32) -> f64 {
    libm::ldexp(1.0, exponent)
}

/// The value of a code; `None` for a type that is none of these.
pub fn decode(dtype: DataType, code: u8) -> Option<f32> {
    if dtype == DataType::F8E8M0 {
        return Some(if code == 0xff { f32::NAN } else { power(i32::from(code) - 127) as f32 });
    }
    let format = format(dtype)?;
    let (sign, magnitude) = (code >> format.bits & 1 == 1, code & ((1 << format.bits) - 1));
    let value = if format.special == Special::NegativeZero && sign && magnitude == 0 {
        f64::NAN
    } else if magnitude > format.max {
        let infinite = format.special == Special::Infinite && magnitude == format.max + 1;
        if infinite { f64::INFINITY } else { f64::NAN }
    } else {
        let exponent = i32::from(magnitude) >> format.mantissa;
        let one = 1 << format.mantissa;
        let fraction = i32::from(magnitude) % one;
        let (digits, exponent) = if exponent == 0 { (fraction, 1) } else { (one + fraction, exponent) };
        f64::from(digits) * power(exponent - format.bias - format.mantissa)
    };
    Some(if sign { -value } else { value } as f32)
}

/// The code of the value nearest to `x`, the even one of two; `None` for a type that is none of these. `saturate` makes
/// what is too large the largest finite value, which it is in any case where the type has nothing beyond.
pub fn encode(dtype: DataType, x: f64, saturate: bool, round: RoundMode) -> Option<u8> {
    if dtype == DataType::F8E8M0 {
        return Some(encode_power(x, saturate, round));
    }
    let format = format(dtype)?;
    let sign = u8::from(x.is_sign_negative()) << format.bits;
    // Every bit but the sign.
    let all = ((1u16 << format.bits) - 1) as u8;
    if x.is_nan() {
        return Some(match format.special {
            Special::NegativeZero => 0x80,
            Special::Infinite => sign | 0x7e,
            Special::Nan => sign | all,
            // There is no NaN: zero of the other sign, as the reference implementation has it.
            Special::None => sign ^ 1 << format.bits,
        });
    }
    let magnitude = x.abs();
    let code = if magnitude.is_infinite() {
        u64::from(all)
    } else if magnitude == 0.0 {
        0
    } else {
        let exponent = libm::ilogb(magnitude).max(1 - format.bias);
        // Exact: a multiple of the last place, or half of one more bit, is far from f64's limits.
        let digits = libm::rint(magnitude * power(format.mantissa - exponent)) as u64;
        // The implicit one of a normal value adds one to the exponent; a subnormal has none.
        (((exponent + format.bias - 1) as u64) << format.mantissa) + digits
    };
    if code > u64::from(format.max) || magnitude.is_infinite() {
        return Some(match format.special {
            _ if saturate => sign | format.max,
            Special::None => sign | format.max,
            Special::NegativeZero => 0x80,
            Special::Infinite => sign | (format.max + 1),
            Special::Nan => sign | all,
        });
    }
    let no_sign = format.special == Special::NegativeZero && code == 0;
    Some(code as u8 | if no_sign { 0 } else { sign })
}

/// The code of an f8e8m0: the exponent of a power of two.
fn encode_power(x: f64, saturate: bool, round: RoundMode) -> u8 {
    const NAN: u8 = 0xff;
    if x.is_nan() {
        return NAN;
    }
    let (least, most) = (-127, 127);
    // The sign has no place; the specification leaves negative values open.
    let x = x.abs();
    let exponent = if x == 0.0 {
        least - 1
    } else if x.is_infinite() {
        most + 1
    } else {
        let floor = libm::ilogb(x);
        let ratio = x * power(-floor);
        let up = match round {
            RoundMode::Up => ratio > 1.0,
            RoundMode::Down => false,
            RoundMode::Nearest => ratio >= 1.5,
        };
        floor + i32::from(up)
    };
    if (least..=most).contains(&exponent) || saturate {
        (exponent.clamp(least, most) + 127) as u8
    } else {
        NAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: [DataType; 5] =
        [DataType::F8E4M3FN, DataType::F8E4M3FNUZ, DataType::F8E5M2, DataType::F8E5M2FNUZ, DataType::F4E2M1];

    fn codes(dtype: DataType) -> std::ops::RangeInclusive<u8> {
        0..=if dtype == DataType::F4E2M1 { 15 } else { 255 }
    }

    #[test]
    fn every_code_comes_back() {
        for dtype in SIGNED.into_iter().chain([DataType::F8E8M0]) {
            for code in codes(dtype) {
                let value = decode(dtype, code).unwrap();
                let back = encode(dtype, value.into(), false, RoundMode::Up).unwrap();
                match value.is_nan() {
                    true => assert!(decode(dtype, back).unwrap().is_nan(), "{dtype} {code:#x}"),
                    false => assert_eq!(back, code, "{dtype} {code:#x} is {value}"),
                }
            }
        }
    }

    #[test]
    fn everything_rounds_to_the_nearest_and_to_even() {
        for dtype in SIGNED {
            let mut values: Vec<(f64, u8)> = codes(dtype)
                .map(|code| (f64::from(decode(dtype, code).unwrap()), code))
                .filter(|(value, code)| value.is_finite() && (*value > 0.0 || *code == 0))
                .collect();
            values.sort_by(|a, b| a.0.total_cmp(&b.0));
            for pair in values.windows(2) {
                let ((low, below), (high, above)) = (pair[0], pair[1]);
                let middle = (low + high) / 2.0;
                let even = if below % 2 == 0 { below } else { above };
                let of = |x| encode(dtype, x, true, RoundMode::Up).unwrap();
                assert_eq!(of(middle), even, "{dtype} {middle}");
                assert_eq!(of(middle * (1.0 - 1e-12)), below);
                assert_eq!(of(middle * (1.0 + 1e-12)), above);
            }
        }
    }

    #[test]
    fn known_values_and_limits() {
        let limits: [(DataType, f32, u8); 5] = [
            (DataType::F8E4M3FN, 448.0, 0x7f),
            (DataType::F8E4M3FNUZ, 240.0, 0x80),
            (DataType::F8E5M2, 57344.0, 0x7c),
            (DataType::F8E5M2FNUZ, 57344.0, 0x80),
            (DataType::F4E2M1, 6.0, 0x7),
        ];
        for (dtype, max, beyond) in limits {
            for large in [1e9, f64::INFINITY] {
                let code = |saturate| encode(dtype, large, saturate, RoundMode::Up).unwrap();
                assert_eq!(decode(dtype, code(true)), Some(max), "{dtype}");
                assert_eq!(code(false), beyond, "{dtype}");
            }
        }
        assert_eq!(decode(DataType::F8E4M3FN, 0x01), Some(0.001_953_125));
        assert_eq!(encode(DataType::F8E4M3FNUZ, -0.0, true, RoundMode::Up), Some(0));
        assert_eq!(encode(DataType::F8E4M3FN, -0.0, true, RoundMode::Up), Some(0x80));
        // Half way to the value that NaN has taken: the even neighbour is still finite.
        assert_eq!(encode(DataType::F8E4M3FN, 464.0, false, RoundMode::Up), Some(0x7e));
        assert_eq!(encode(DataType::F32, 1.0, true, RoundMode::Up), None);
    }

    #[test]
    fn powers_of_two_round_as_asked() {
        let code = |x, round| encode(DataType::F8E8M0, x, true, round).unwrap();
        assert_eq!([1.0, 1.1, 2.0, 0.124].map(|x| code(x, RoundMode::Up)), [127, 128, 128, 124]);
        assert_eq!([1.0, 1.9].map(|x| code(x, RoundMode::Down)), [127, 127]);
        assert_eq!([1.49, 1.5].map(|x| code(x, RoundMode::Nearest)), [127, 128]);
        assert_eq!([0.0, f64::INFINITY, 1e300].map(|x| code(x, RoundMode::Up)), [0, 254, 254]);
        assert_eq!(encode(DataType::F8E8M0, 0.0, false, RoundMode::Nearest), Some(255));
        assert_eq!(decode(DataType::F8E8M0, 127), Some(1.0));
    }
}
