//! Tensors whose shape only the run knows.

#[cfg(feature = "dynamic")]
use infer_core::session::{FromValue, Item, ToValue};
#[cfg(feature = "dynamic")]
use infer_core::value::{Value, ValueType};
use infer_core::{Error, ErrorKind, Result};

/// A tensor whose shape only the run knows: what a model takes or gives where an array's type cannot say it.
///
/// # Examples
///
/// ```
/// let mut tensor = infer_embed::Tensor::new([2, 3], vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(tensor.shape(), [2, 3]);
/// assert_eq!(tensor.get(&[1, 0]), Some(&4.0));
/// assert_eq!(tensor.get(&[0, 3]), None);
/// tensor.data_mut()[5] = 0.0;
/// assert_eq!(tensor.into_data(), [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]);
/// # Ok::<(), infer_embed::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tensor<T> {
    shape: Vec<usize>,
    data: Vec<T>,
}

impl<T> Tensor<T> {
    /// The tensor with these extents, outermost first, of these elements, row-major.
    ///
    /// # Errors
    ///
    /// If there are more or fewer elements than the extents say.
    pub fn new(shape: impl Into<Vec<usize>>, data: impl Into<Vec<T>>) -> Result<Self> {
        let (shape, data) = (shape.into(), data.into());
        // A zero decides, however large the others are.
        let elements = match shape.contains(&0) {
            true => Some(0),
            false => shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent)),
        };
        if elements == Some(data.len()) {
            return Ok(Tensor { shape, data });
        }
        let given = data.len();
        Err(Error::new(ErrorKind::Shape, format!("{given} elements do not make a tensor of shape {shape:?}")))
    }

    /// The extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The elements, row-major.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// The elements, row-major, as they lie in memory.
    pub fn into_data(self) -> Vec<T> {
        self.data
    }

    /// The element at a position, one index for each axis; `None` where there is none.
    pub fn get(&self, position: &[usize]) -> Option<&T> {
        if position.len() != self.shape.len() {
            return None;
        }
        let mut index = 0;
        for (&at, &extent) in position.iter().zip(&self.shape) {
            if at >= extent {
                return None;
            }
            index = index * extent + at;
        }
        self.data.get(index)
    }
}

/// A tensor without elements.
impl<T> Default for Tensor<T> {
    fn default() -> Self {
        Tensor { shape: vec![0], data: Vec::new() }
    }
}

/// A tensor of one dimension.
impl<T> From<Vec<T>> for Tensor<T> {
    fn from(data: Vec<T>) -> Self {
        Tensor { shape: vec![data.len()], data }
    }
}

#[cfg(feature = "dynamic")]
impl<T: Item> ToValue for Tensor<T> {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        let ValueType::Tensor { element, .. } = ty else { return None };
        T::tensor(&self.data, *element, &self.shape)
    }
}

#[cfg(feature = "dynamic")]
impl<T: Item> FromValue for Tensor<T> {
    fn zero() -> Self {
        Tensor::default()
    }

    fn from_value(value: &Value) -> Option<Self> {
        Tensor::new(value.shape()?, T::read(value)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_and_number_of_elements_agree() {
        assert_eq!(Tensor::new([], [7]).unwrap().get(&[]), Some(&7));
        assert_eq!(Tensor::<f32>::new([0, usize::MAX, usize::MAX], []).unwrap().data(), []);
        for shape in [vec![2, 2], vec![3, 1, 2], vec![], vec![0], vec![usize::MAX, 3], vec![1 << 63, 2]] {
            let error = Tensor::new(shape, [0_u8; 3]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Shape);
            assert!(error.to_string().starts_with("3 elements do not make a tensor of shape ["), "{error}");
        }
    }

    #[test]
    fn positions_are_row_major() {
        let tensor = Tensor::new([2, 3, 4], (0..24).collect::<Vec<i32>>()).unwrap();
        assert_eq!(tensor.get(&[1, 2, 3]), Some(&23));
        assert_eq!(tensor.get(&[1, 0, 2]), Some(&14));
        for outside in [&[2, 0, 0][..], &[0, 3, 0], &[0, 0, 4], &[0, 0], &[0, 0, 0, 0], &[]] {
            assert_eq!(tensor.get(outside), None, "{outside:?}");
        }
        assert_eq!(Tensor::from(vec![1, 2]).shape(), [2]);
        assert_eq!(Tensor::<String>::default().shape(), [0]);
    }
}
