//! Arrays on the heap, and views of flat data as arrays.

use infer_core::runtime::Element;
use infer_core::{Error, ErrorKind, Result};

/// An array of zeros on the heap: `let mut frame: Box<[[[[f32; 608]; 608]; 3]; 1]> = infer_embed::zeroed();`.
///
/// The array never is on the stack, in unoptimised programs neither, as it would be in `Box::new([…])`.
pub fn zeroed<T: Element>() -> Box<T> {
    T::zeroed()
}

/// A flat slice, row-major, as the nested array that a model takes, without a copy.
///
/// # Errors
///
/// If the slice is longer or shorter than the array.
///
/// # Examples
///
/// ```
/// let pixels = vec![0.5_f32; 6];
/// let image: &[[f32; 3]; 2] = infer_embed::view(&pixels)?;
/// assert_eq!(image[1][2], 0.5);
/// assert!(infer_embed::view::<[[f32; 3]; 3]>(&pixels).is_err());
/// # Ok::<(), infer_embed::Error>(())
/// ```
pub fn view<T: Element>(elements: &[T::Scalar]) -> Result<&T> {
    T::from_slice(elements).ok_or_else(|| wrong_length::<T>(elements.len()))
}

/// As [`view`], to be written to.
///
/// # Errors
///
/// If the slice is longer or shorter than the array.
pub fn view_mut<T: Element>(elements: &mut [T::Scalar]) -> Result<&mut T> {
    let length = elements.len();
    T::from_mut_slice(elements).ok_or_else(|| wrong_length::<T>(length))
}

fn wrong_length<T: Element>(length: usize) -> Error {
    let wanted = T::LENGTH;
    Error::new(
        ErrorKind::Input,
        format!("the array has {wanted} elements, the slice {length}; give one of that length"),
    )
}
