//! Elements that are moved without being looked at, of tensors of any type, strings included: where they lie, and how
//! many there may be.

use bytemuck::Pod;

use crate::calls::broadcast_strides;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{InputType, NodeTypes, NodeValues};
use crate::tensor_type::{DataType, TensorType};
use crate::value::{Strings, Value};

/// The most bytes that a tensor computed on the host, a sequence, or all that a loop collects may have.
pub(super) const MAX_BYTES: usize = 1 << 30;

/// The elements of a tensor while they are put together.
pub(super) enum Elements {
    /// Numbers.
    Numbers {
        /// Their type.
        dtype: DataType,
        /// Their bytes.
        data: Vec<u8>,
    },
    /// Strings.
    Strings(Vec<String>),
}

impl Elements {
    /// As many zeros, or empty strings, as `shape` has elements, of the type of `value`.
    pub(super) fn zeroed(value: &Value, shape: &[usize]) -> Result<Self, Reason> {
        let width = match value {
            Value::Tensor(tensor) => tensor.ty().dtype.size_bytes(),
            _ => size_of::<String>(),
        };
        let count = expect_elements(shape, width)?;
        match value {
            Value::Tensor(tensor) => {
                Ok(Elements::Numbers { dtype: tensor.ty().dtype, data: vec![0; count * width] })
            }
            Value::Strings(_) => Ok(Elements::Strings(vec![String::new(); count])),
            other => Err(no_tensor(other)),
        }
    }

    /// Those of `value`.
    pub(super) fn of(value: &Value) -> Result<Self, Reason> {
        match value {
            Value::Tensor(tensor) => {
                Ok(Elements::Numbers { dtype: tensor.ty().dtype, data: tensor.data().to_vec() })
            }
            Value::Strings(strings) => Ok(Elements::Strings(strings.data().to_vec())),
            other => Err(no_tensor(other)),
        }
    }

    /// Copies `count` elements of `source`, from `from` on, to `at`.
    pub(super) fn copy(
        &mut self,
        at: usize,
        source: &Value,
        from: usize,
        count: usize,
    ) -> Result<(), Reason> {
        let outside = || Reason::new(format!("elements {from} to {from}+{count} do not fit at {at}"));
        let ends = |width: usize| {
            let scaled = |at: usize| at.checked_mul(width);
            let (at, from, bytes) = (scaled(at)?, scaled(from)?, scaled(count)?);
            Some((at..at.checked_add(bytes)?, from..from.checked_add(bytes)?))
        };
        match (self, source) {
            (Elements::Numbers { dtype, data }, Value::Tensor(tensor)) if *dtype == tensor.ty().dtype => {
                let (to, from) = ends(dtype.size_bytes()).ok_or_else(outside)?;
                let source = tensor.data().get(from).ok_or_else(outside)?;
                data.get_mut(to).ok_or_else(outside)?.copy_from_slice(source);
            }
            (Elements::Strings(data), Value::Strings(strings)) => {
                let (to, from) = ends(1).ok_or_else(outside)?;
                let source = strings.data().get(from).ok_or_else(outside)?;
                data.get_mut(to).ok_or_else(outside)?.clone_from_slice(source);
            }
            (_, other) => {
                return Err(Reason::new(format!("{} has elements of another type", other.describe())));
            }
        }
        Ok(())
    }

    /// The tensor that they make.
    pub(super) fn into_value(self, shape: Vec<usize>) -> Result<Value, Reason> {
        let wrong = || Reason::new("a tensor with another number of elements");
        match self {
            Elements::Numbers { dtype, data } => {
                let tensor = Constant::new(TensorType::new(dtype, shape), data.into());
                tensor.map(Value::Tensor).ok_or_else(wrong)
            }
            Elements::Strings(data) => Strings::new(shape, data).map(Value::Strings).ok_or_else(wrong),
        }
    }
}

/// The tensor of `shape` whose elements are those of `value` at `indices`.
pub(super) fn select(value: &Value, shape: &[usize], indices: &[usize]) -> Result<Value, Reason> {
    fn pick<T: Pod>(tensor: &Constant, shape: &[usize], indices: &[usize]) -> Option<Constant> {
        let values = tensor.values::<T>();
        let picked: Option<Vec<T>> = indices.iter().map(|&index| values.get(index).copied()).collect();
        Constant::checked(TensorType::new(tensor.ty().dtype, shape), &picked?)
    }
    let result = match value {
        Value::Tensor(tensor) => match tensor.ty().dtype.size_bytes() {
            1 => pick::<u8>(tensor, shape, indices),
            2 => pick::<u16>(tensor, shape, indices),
            4 => pick::<u32>(tensor, shape, indices),
            8 => pick::<u64>(tensor, shape, indices),
            _ => pick::<u128>(tensor, shape, indices),
        }
        .map(Value::Tensor),
        Value::Strings(strings) => {
            let data: Option<Vec<String>> =
                indices.iter().map(|&index| strings.data().get(index).cloned()).collect();
            data.and_then(|data| Strings::new(shape, data)).map(Value::Strings)
        }
        other => return Err(no_tensor(other)),
    };
    result.ok_or_else(|| Reason::new("an element outside of the tensor"))
}

/// The extents of input `index`, which must be a tensor of numbers or strings.
pub(super) fn shape_of<'a>(node: &NodeValues<'a>, index: usize) -> Result<&'a [usize], Reason> {
    let value = node.value(index)?;
    value.shape().ok_or_else(|| no_tensor(value))
}

/// What `look` finds in the types of a node's inputs, all of them known. Inputs that are no tensors of numbers count as
/// left out.
pub(super) fn with_types<R>(node: &NodeValues<'_>, look: impl FnOnce(&NodeTypes<'_>) -> R) -> R {
    let types: Vec<Option<InputType<'_>>> = node
        .inputs
        .iter()
        .map(|value| {
            let tensor = value.as_ref()?.as_tensor()?;
            Some(InputType { ty: tensor.ty(), constant: Some(tensor) })
        })
        .collect();
    look(&NodeTypes { inputs: &types, outputs: node.outputs })
}

fn no_tensor(value: &Value) -> Reason {
    Reason::new(format!("{} is no tensor", value.describe()))
}

/// The number of elements of `shape`, refused where they are too many to be computed with, `width` bytes each.
pub(super) fn expect_elements(shape: &[usize], width: usize) -> Result<usize, Reason> {
    // An empty tensor's extents are also bounded, so that products of some of them never overflow.
    let product = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent.max(1)));
    match product.and_then(|n| n.checked_mul(width)) {
        Some(bytes) if bytes <= MAX_BYTES => Ok(shape.iter().product()),
        _ => Err(Reason::new(format!("the result {shape:?} has more than {MAX_BYTES} bytes"))),
    }
}

/// [`expect_elements`] for a tensor of type `ty`.
pub(super) fn checked_elements(ty: &TensorType) -> Result<usize, Reason> {
    expect_elements(&ty.shape, ty.dtype.size_bytes())
}

/// Refuses `bytes` bytes of `what` where they are more than [`MAX_BYTES`].
pub(super) fn expect_memory(bytes: usize, what: &str) -> Result<(), Reason> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(Reason::new(format!("{what} would have {bytes} bytes, at most {MAX_BYTES} are supported")))
}

/// Index `index` of `extent` entries, negative ones counted from the end.
pub(super) fn resolve_index(index: i64, extent: usize) -> Result<usize, Reason> {
    let resolved = if index < 0 { index.checked_add(extent as i64) } else { Some(index) };
    match resolved.and_then(|at| usize::try_from(at).ok()) {
        Some(at) if at < extent => Ok(at),
        _ => Err(Reason::new(format!("index {index} is outside of {extent} entries"))),
    }
}

/// The row-major strides of `shape`.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    unsigned(TensorType::new(DataType::U8, shape).strides())
}

fn unsigned(strides: Vec<i64>) -> Vec<usize> {
    strides.into_iter().map(|stride| stride as usize).collect()
}

/// The offsets at which `strides` walk over `shape`, row-major.
pub(super) fn offsets(shape: &[usize], strides: &[usize]) -> impl Iterator<Item = usize> {
    let count: usize = if shape.contains(&0) { 0 } else { shape.iter().product() };
    let (shape, strides) = (shape.to_vec(), strides.to_vec());
    let mut position = vec![0usize; shape.len()];
    let mut offset = 0usize;
    (0..count).map(move |_| {
        let current = offset;
        for axis in (0..shape.len()).rev() {
            position[axis] += 1;
            offset += strides[axis];
            if position[axis] < shape[axis] {
                break;
            }
            offset -= position[axis] * strides[axis];
            position[axis] = 0;
        }
        current
    })
}

/// For each element of a tensor of shape `to`, row-major, the element of one of shape `from` that broadcasts to it.
pub(super) fn broadcast_indices(from: &[usize], to: &[usize]) -> Result<Vec<usize>, Reason> {
    expect_elements(to, size_of::<usize>())?;
    let strides = broadcast_strides(&TensorType::new(DataType::U8, from), to)?;
    Ok(offsets(to, &unsigned(strides)).collect())
}

/// What `axis` splits `shape` into: the elements before it, its own, and those after it. Without elements nothing lies
/// before or after, so that nobody walks over long axes of nothing.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    if shape.contains(&0) {
        return (0, shape[axis], 0);
    }
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::i64s;

    #[test]
    fn walks_and_copies_stay_inside() {
        assert_eq!(offsets(&[2, 3], &[0, 2]).collect::<Vec<_>>(), [0, 2, 4, 0, 2, 4]);
        assert_eq!(offsets(&[], &[]).collect::<Vec<_>>(), [0]);
        assert_eq!(offsets(&[2, 0], &[1, 1]).count(), 0);
        let value = Value::Tensor(i64s([3], &[1, 2, 3]));
        assert!(select(&value, &[1], &[3]).is_err());
        let mut elements = Elements::of(&value).unwrap();
        assert!(elements.copy(2, &value, 0, 2).is_err());
        assert!(elements.copy(0, &value, usize::MAX, 2).is_err());
        elements.copy(1, &value, 0, 2).unwrap();
        assert_eq!(elements.into_value(vec![3]).unwrap(), Value::Tensor(i64s([3], &[1, 1, 2])));
        assert!(expect_elements(&[1 << 20, 1 << 20, 0], 1).is_err());
        assert_eq!(resolve_index(-1, 3).ok(), Some(2));
        assert!(resolve_index(i64::MIN, 3).is_err() && resolve_index(3, 3).is_err());
    }
    #[test]
    fn indices_broadcast() {
        assert_eq!(broadcast_indices(&[2, 1], &[2, 3]).unwrap(), [0, 0, 0, 1, 1, 1]);
        assert_eq!(broadcast_indices(&[3], &[2, 3]).unwrap(), [0, 1, 2, 0, 1, 2]);
        assert_eq!(broadcast_indices(&[], &[]).unwrap(), [0]);
        assert_eq!(broadcast_indices(&[1], &[0]).unwrap(), [0usize; 0]);
        assert!(broadcast_indices(&[2], &[3]).is_err());
        assert!(checked_elements(&TensorType::new(DataType::F64, [1 << 28])).is_err());
    }
}
