//! What the cases of the ONNX suite have in common: comparison as the suite does it, and arrays that are stored in files.
#![forbid(unsafe_code)]

use std::fmt::Debug;

use infer_embed::{Element, Tensor, bf16, f16, zeroed};

/// The tolerance that the suite allows where a case does not state one: relative and absolute.
const TOLERANCE: (f64, f64) = (1e-3, 1e-7);

/// Values that may differ by a tolerance where they are floats, and in nothing else. NaN equals NaN.
pub trait Close {
    /// Whether `self` is `expected` up to the tolerance, relative and absolute.
    fn is_close(&self, expected: &Self, tolerance: (f64, f64)) -> bool;
}

macro_rules! floats {
    ($($float:ty)*) => {$(
        impl Close for $float {
            fn is_close(&self, expected: &Self, (relative, absolute): (f64, f64)) -> bool {
                let (is, expected) = (f64::from(*self), f64::from(*expected));
                is == expected
                    || is.is_nan() && expected.is_nan()
                    || (is - expected).abs() <= absolute + relative * expected.abs()
                        && expected.is_finite()
            }
        }
    )*};
}

macro_rules! exact {
    ($($exact:ty)*) => {$(
        impl Close for $exact {
            fn is_close(&self, expected: &Self, _: (f64, f64)) -> bool {
                self == expected
            }
        }
    )*};
}

floats! { f16 bf16 f32 f64 }
exact! { bool i8 i16 i32 i64 u8 u16 u32 u64 String }

impl<T: Close> Close for [T] {
    fn is_close(&self, expected: &Self, tolerance: (f64, f64)) -> bool {
        self.len() == expected.len()
            && self.iter().zip(expected).all(|(is, expected)| is.is_close(expected, tolerance))
    }
}

impl<T: Close, const N: usize> Close for [T; N] {
    fn is_close(&self, expected: &Self, tolerance: (f64, f64)) -> bool {
        self.as_slice().is_close(expected, tolerance)
    }
}

impl<T: Close> Close for Vec<T> {
    fn is_close(&self, expected: &Self, tolerance: (f64, f64)) -> bool {
        self.as_slice().is_close(expected, tolerance)
    }
}

impl<T: Close> Close for Box<T> {
    fn is_close(&self, expected: &Self, tolerance: (f64, f64)) -> bool {
        (**self).is_close(expected, tolerance)
    }
}

impl<T: Close> Close for Option<T> {
    fn is_close(&self, expected: &Self, tolerance: (f64, f64)) -> bool {
        match (self, expected) {
            (Some(is), Some(expected)) => is.is_close(expected, tolerance),
            (None, None) => true,
            _ => false,
        }
    }
}

impl<T: Close> Close for Tensor<T> {
    fn is_close(&self, expected: &Self, tolerance: (f64, f64)) -> bool {
        self.shape() == expected.shape() && self.data().is_close(expected.data(), tolerance)
    }
}

/// Asserts that an output is what the suite expects.
///
/// # Panics
///
/// If it is not.
#[track_caller]
pub fn check<T: Close + Debug>(output: &str, is: &T, expected: &T) {
    check_within(TOLERANCE, output, is, expected);
}

/// As [`check`], of a case that states its tolerance: relative and absolute.
///
/// # Panics
///
/// If the output is not what is expected.
#[track_caller]
pub fn check_within<T: Close + Debug>(tolerance: (f64, f64), output: &str, is: &T, expected: &T) {
    assert!(is.is_close(expected, tolerance), "`{output}` is\n{is:?}\nand not\n{expected:?}");
}

/// An element of a stored array.
pub trait Stored: Element<Scalar = Self> {
    /// The element, from the bytes of as many as it has.
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! stored {
    ($($number:ty)*) => {$(
        impl Stored for $number {
            fn from_bytes(bytes: &[u8]) -> Self {
                <$number>::from_le_bytes(bytes.try_into().expect("as many bytes as the element has"))
            }
        }
    )*};
}

impl Stored for bool {
    fn from_bytes(bytes: &[u8]) -> Self {
        bytes != [0]
    }
}

stored! { f16 bf16 f32 f64 i8 i16 i32 i64 u8 u16 u32 u64 }

/// The array in a `TensorProto`, which stores it as raw data.
///
/// # Panics
///
/// If there is none of that size.
pub fn stored<T: Element<Scalar: Stored>>(proto: &[u8]) -> Box<T> {
    let raw = raw_data(proto).expect("a tensor stores raw data");
    let size = size_of::<T::Scalar>();
    assert_eq!(raw.len(), T::LENGTH * size, "the bytes of the stored array");
    let mut array: Box<T> = zeroed();
    for (element, bytes) in array.as_mut_elements().iter_mut().zip(raw.chunks_exact(size)) {
        *element = Stored::from_bytes(bytes);
    }
    array
}

/// The bytes of the field `raw_data` of a `TensorProto`.
fn raw_data(mut proto: &[u8]) -> Option<&[u8]> {
    const RAW_DATA: usize = 9;
    while !proto.is_empty() {
        let key = varint(&mut proto)?;
        let value = varint(&mut proto)?;
        // Fields of a `TensorProto` beside floats that are not packed: a number, or a length and as many bytes.
        match key & 7 {
            0 => {}
            2 => {
                let (bytes, rest) = proto.split_at_checked(value)?;
                if key >> 3 == RAW_DATA {
                    return Some(bytes);
                }
                proto = rest;
            }
            _ => return None,
        }
    }
    None
}

fn varint(proto: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, rest) = proto.split_first()?;
        *proto = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_alone_have_a_tolerance() {
        let tolerance = (0.1, 0.01);
        assert!([1.0_f32, f32::NAN, f32::INFINITY].is_close(&[1.1, f32::NAN, f32::INFINITY], tolerance));
        assert!(!1.0_f32.is_close(&1.2, tolerance) && !f32::NAN.is_close(&0.0, tolerance));
        assert!(
            !f32::INFINITY.is_close(&f32::NEG_INFINITY, tolerance)
                && !0.0.is_close(&f64::INFINITY, tolerance)
        );
        assert!(!100_u8.is_close(&101, tolerance) && 7_i64.is_close(&7, tolerance));
        let row = Tensor::from(vec![1.0]);
        assert!(
            row.is_close(&row, tolerance) && !row.is_close(&Tensor::new([1, 1], [1.0]).unwrap(), tolerance)
        );
        assert!(!Some(1).is_close(&None, tolerance) && !vec![1].is_close(&vec![1, 1], tolerance));
    }

    #[test]
    fn arrays_are_stored_as_protobuf() {
        // Dimensions 1 and 2, type int16, the name `x`, and two elements.
        let proto = [0x08, 1, 0x08, 2, 0x10, 5, 0x42, 1, b'x', 0x4a, 4, 1, 0, 0xff, 0xff];
        assert_eq!(*stored::<[[i16; 2]; 1]>(&proto), [[1, -1]]);
        assert_eq!(raw_data(&proto[..9]), None);
        assert_eq!(raw_data(&proto[..14]), None);
    }
}
