//! Oracles of the casts.

use half::{bf16, f16};

use super::Registered;
use super::elementwise::{for_each, read, write};
use crate::cpu::cast::cast_kernels;
use crate::{Args, RunError, kernels};

/// Any element, exactly.
#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    /// The nearest value whose mantissa has `digits` bits and whose last place is no less than 2 to the `least`;
    /// even of two.
    fn rounded(self, digits: i32, least: i32) -> f64 {
        match self {
            Number::Integer(x) => {
                let lost = (128 - x.unsigned_abs().leading_zeros() as i32 - digits).max(0);
                let (place, magnitude) = (1u128 << lost, x.unsigned_abs());
                let (quotient, rest) = (magnitude / place, magnitude % place);
                let up = 2 * rest > place || (2 * rest == place && quotient % 2 == 1);
                // Exact: few bits times a power of two.
                let value = ((quotient + u128::from(up)) * place) as f64;
                if x < 0 { -value } else { value }
            }
            Number::Float(x) if x == 0.0 || !x.is_finite() => x,
            Number::Float(x) => {
                let place = libm::exp2(f64::from((libm::ilogb(x) - (digits - 1)).max(least)));
                libm::rint(x / place) * place
            }
        }
    }
}

/// An element type.
trait Value: Copy {
    fn number(self) -> Number;
    fn from_number(number: Number) -> Self;
}

macro_rules! integers {
    ($($t:ident)*) => {$(
        impl Value for $t {
            fn number(self) -> Number {
                Number::Integer(self.into())
            }
            fn from_number(number: Number) -> Self {
                match number {
                    Number::Integer(x) => x as $t,
                    Number::Float(x) => x as $t,
                }
            }
        }
    )*};
}

integers!(i8 i16 i32 i64 u8 u16 u32 u64);

macro_rules! floats {
    ($($t:ident)*) => {$(
        impl Value for $t {
            fn number(self) -> Number {
                Number::Float(self.into())
            }
            fn from_number(number: Number) -> Self {
                match number {
                    Number::Integer(x) => x as $t,
                    Number::Float(x) => x as $t,
                }
            }
        }
    )*};
}

floats!(f32 f64);

impl Value for f16 {
    fn number(self) -> Number {
        Number::Float(self.to_f64())
    }
    fn from_number(number: Number) -> Self {
        f16::from_f64(number.rounded(11, -24))
    }
}

impl Value for bf16 {
    fn number(self) -> Number {
        Number::Float(self.to_f64())
    }
    fn from_number(number: Number) -> Self {
        bf16::from_f64(number.rounded(8, -133))
    }
}

/// A boolean: one byte, of which anything but 0 is true.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Truth(u8);

impl Value for Truth {
    fn number(self) -> Number {
        Number::Integer((self.0 != 0).into())
    }
    fn from_number(number: Number) -> Self {
        Truth(match number {
            Number::Integer(x) => (x != 0).into(),
            Number::Float(x) => (x != 0.0).into(),
        })
    }
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn cast<From: Value, To: Value>(args: &Args<'_>) -> Result<(), RunError> {
    for_each(args.params(), |[input, output]| {
        // SAFETY: the call was validated.
        unsafe {
            let value: From = read(args, 0, input);
            write(args, 1, output, To::from_number(value.number()));
        }
        Ok(())
    })
}

/// The table calls halves by the name of their type there.
type Half = f16;

macro_rules! register {
    ($($from:ident: $(($item:ident $to:ident $how:ident))*;)*) => {
        &[$($(Registered { kernel: &kernels::$item, reference: cast::<$from, $to> },)*)*]
    };
}

/// The casts.
pub(super) const REGISTRY: &[Registered] = cast_kernels!(register);
