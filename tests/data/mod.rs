//! Models, inputs for them, and what ONNX Runtime computes: see make.py.

use std::fs;
use std::path::Path;

use infer_embed::{Element, f16};

/// An element as the files of a case hold it.
pub trait Scalar: Element<Scalar = Self> {
    /// The element from its little-endian bytes.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! scalars {
    ($($scalar:ty)*) => {$(
        impl Scalar for $scalar {
            fn read(bytes: &[u8]) -> Self {
                <$scalar>::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}

scalars! { f32 f64 f16 i32 i64 }

impl Scalar for bool {
    fn read(bytes: &[u8]) -> Self {
        assert!(matches!(bytes, [0 | 1]), "{bytes:?} is no bool");
        bytes == [1]
    }
}

/// Elements from little-endian bytes.
pub fn elements<T: Scalar>(bytes: &[u8]) -> Vec<T> {
    assert!(bytes.len().is_multiple_of(size_of::<T>()));
    bytes.chunks_exact(size_of::<T>()).map(T::read).collect()
}

/// The file `kind_index.bin` of a case, as an array.
pub fn load<T: Element<Scalar: Scalar>>(case: &str, kind: &str, index: usize) -> Box<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(case)
        .join(format!("{kind}_{index}.bin"));
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let elements = elements(&bytes);
    assert_eq!(elements.len(), T::LENGTH, "{}", path.display());
    let mut array = T::zeroed();
    array.as_mut_elements().copy_from_slice(&elements);
    array
}
