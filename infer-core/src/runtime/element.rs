//! Typed arrays as bytes.

#![allow(unsafe_code)]

use half::{bf16, f16};

use super::Output;
use crate::tensor_type::DataType;

mod sealed {
    pub trait Sealed {}
}

/// An element of a tensor, or an array of elements, nested to any depth: `f32`, `[[f32; 608]; 608]`.
///
/// Nothing here puts an array on the stack.
///
/// # Safety
///
/// Values have no padding, any alignment below 64, and all-zero bytes are one; a nested array is `LENGTH` values of
/// `Scalar` in a row, and has its alignment. Implemented by this crate alone.
pub unsafe trait Element: sealed::Sealed + Copy + Send + Sync + Sized + 'static {
    /// The innermost type.
    type Scalar: Element;

    /// The innermost type, as plans name it: of element types without a type in Rust their
    /// [storage](DataType::storage).
    const DTYPE: DataType;

    /// How many values of [`Element::Scalar`] there are.
    const LENGTH: usize;

    /// The bytes.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: a value has no padding, so all its bytes are initialised; the result borrows `self`.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }

    /// The array as the place for an output of a model, which then holds valid values: the run time sees to it that
    /// every `bool` is 0 or 1.
    fn as_output(&mut self) -> Output<'_> {
        let length = size_of::<Self>();
        // SAFETY: as in `as_bytes`, and borrowed exclusively. The bytes are reached by `Output` alone, which lets
        // nothing but an output whose elements are stored as this type be written to them, and makes every `bool` 0 or
        // 1 afterwards; of all other types every bit pattern is a value.
        let bytes = unsafe { std::slice::from_raw_parts_mut((&raw mut *self).cast(), length) };
        Output::typed(bytes, Self::DTYPE)
    }

    /// All zeros, on the heap.
    fn zeroed() -> Box<Self> {
        // SAFETY: all-zero bytes are a value.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    /// The elements in a row.
    fn as_elements(&self) -> &[Self::Scalar] {
        // SAFETY: `self` is `LENGTH` values of `Scalar` in a row, aligned for them; the result borrows `self`.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), Self::LENGTH) }
    }

    /// The elements in a row.
    fn as_mut_elements(&mut self) -> &mut [Self::Scalar] {
        // SAFETY: as in `as_elements`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut((&raw mut *self).cast(), Self::LENGTH) }
    }

    /// A flat slice as the array; `None` where its length is another.
    fn from_slice(slice: &[Self::Scalar]) -> Option<&Self> {
        // SAFETY: `LENGTH` values of `Scalar` in a row are a value, of the same alignment; the result borrows `slice`.
        (slice.len() == Self::LENGTH).then(|| unsafe { &*slice.as_ptr().cast() })
    }

    /// A flat slice as the array; `None` where its length is another.
    fn from_mut_slice(slice: &mut [Self::Scalar]) -> Option<&mut Self> {
        // SAFETY: as in `from_slice`, and borrowed exclusively.
        (slice.len() == Self::LENGTH).then(|| unsafe { &mut *slice.as_mut_ptr().cast() })
    }
}

macro_rules! elements {
    ($($scalar:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $scalar {}

        // SAFETY: a primitive or `half`'s transparent wrapper of `u16`: no padding, zero is a value, one in a row.
        unsafe impl Element for $scalar {
            type Scalar = $scalar;
            const DTYPE: DataType = DataType::$dtype;
            const LENGTH: usize = 1;
        }
    )*};
}

elements! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => Bf16, bool => Bool,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
}

impl<T: Element, const N: usize> sealed::Sealed for [T; N] {}

// SAFETY: an array is its elements in a row, without padding between them and aligned as they are.
unsafe impl<T: Element, const N: usize> Element for [T; N] {
    type Scalar = T::Scalar;
    const DTYPE: DataType = T::DTYPE;
    const LENGTH: usize = T::LENGTH * N;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_arrays_are_flat_bytes() {
        let mut array = [[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]];
        assert_eq!(array.as_bytes(), [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(f32::to_le_bytes).as_flattened());
        assert_eq!(array.as_elements(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        array.as_mut_elements()[3] = 7.0;
        assert_eq!(array[1][1], 7.0);
        assert_eq!((<[[f32; 2]; 3]>::LENGTH, <[[f32; 2]; 3]>::DTYPE), (6, DataType::F32));
        assert_eq!([true, false].as_bytes(), [1, 0]);
    }

    #[test]
    fn flat_slices_are_viewed_in_place() {
        let mut flat: Vec<i64> = (0..6).collect();
        assert!(<[[i64; 2]; 4]>::from_slice(&flat).is_none());
        let view = <[[i64; 2]; 3]>::from_slice(&flat).unwrap();
        assert_eq!((view, view.as_ptr().addr()), (&[[0, 1], [2, 3], [4, 5]], flat.as_ptr().addr()));
        <[[i64; 3]; 2]>::from_mut_slice(&mut flat).unwrap()[1][0] = 9;
        assert_eq!(flat[3], 9);
    }

    #[test]
    fn empty_arrays_are_arrays() {
        let empty = <[[f32; 0]; 4]>::zeroed();
        assert!(empty.as_bytes().is_empty() && empty.as_elements().is_empty());
        assert!(<[f32; 0]>::from_slice(&[]).is_some());
    }

    #[test]
    #[cfg_attr(miri, ignore = "64 MB are too many for an interpreter")]
    fn large_arrays_do_not_touch_the_stack() {
        let run = || {
            let mut array = <[[[f32; 1024]; 1024]; 16]>::zeroed();
            assert!(array.as_bytes().iter().all(|&byte| byte == 0));
            array[15][1023][1023] = 1.0;
            let _ = array.as_output();
            <[[[f32; 1024]; 1024]; 16]>::from_slice(array.as_elements()).unwrap()[15][1023][1023]
        };
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(run).unwrap();
        assert_eq!(thread.join().unwrap(), 1.0);
    }
}
