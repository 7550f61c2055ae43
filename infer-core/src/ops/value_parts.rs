//! Tensors of numbers or strings in parts: what sequences and loops cut and put together.

use std::iter;

use bytes::Bytes;

use super::elements::{Elements, MAX_BYTES, around, expect_memory};
use super::resolve_axis;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;
use crate::value::{ElementType, Value, ValueType};

/// How much memory a value has, as if it shared none with others.
pub(super) fn bytes(value: &Value) -> usize {
    let own = match value {
        Value::Tensor(tensor) => tensor.data().len(),
        Value::Strings(strings) => {
            strings.data().iter().map(|string| string_bytes(string)).fold(0, usize::saturating_add)
        }
        Value::Sequence(values) => values.iter().map(bytes).fold(0, usize::saturating_add),
        Value::Optional(None) => 0,
        Value::Optional(Some(value)) => bytes(value),
        Value::Map { keys, values } => bytes(keys).saturating_add(bytes(values)),
    };
    own.saturating_add(size_of::<Value>())
}

fn string_bytes(string: &str) -> usize {
    string.len().saturating_add(size_of::<String>())
}

/// The element type and the extents of `value`, called `what` in messages, which must be a tensor.
pub(super) fn tensor_form<'a>(value: &'a Value, what: &str) -> Result<(ElementType, &'a [usize]), Reason> {
    match value {
        Value::Tensor(tensor) => Ok((ElementType::Number(tensor.ty().dtype), &tensor.ty().shape)),
        Value::Strings(strings) => Ok((ElementType::String, strings.shape())),
        other => Err(Reason::new(format!("{what} is {}, not a tensor", other.describe()))),
    }
}

/// `length` entries from `start` along axis `axis` of a tensor.
pub(super) fn slice(value: &Value, axis: usize, start: usize, length: usize) -> Result<Value, Reason> {
    let (_, shape) = tensor_form(value, "what is cut")?;
    let outside = || Reason::new(format!("entries {start} to {length} more of axis {axis} of {shape:?}"));
    let extent = *shape.get(axis).ok_or_else(outside)?;
    let end = start.checked_add(length).filter(|&end| end <= extent).ok_or_else(outside)?;
    let mut result = shape.to_vec();
    result[axis] = length;
    let (.., inner) = around(shape, axis);
    match value {
        Value::Tensor(tensor) => {
            let inner = inner * tensor.ty().dtype.size_bytes();
            let ty = TensorType::new(tensor.ty().dtype, result);
            let whole = tensor.data();
            let part = if shape[..axis].iter().all(|&extent| extent == 1) {
                whole.slice(start * inner..end * inner)
            } else {
                Bytes::from(cut(whole, extent * inner, start * inner, end * inner))
            };
            Constant::new(ty, part).map(Value::Tensor).ok_or_else(outside)
        }
        Value::Strings(strings) => {
            let part = cut(strings.data(), extent * inner, start * inner, end * inner);
            Elements::Strings(part).into_value(result)
        }
        _ => Err(outside()),
    }
}

/// Elements `start` to `end` of every `block` of `data`.
fn cut<T: Clone>(data: &[T], block: usize, start: usize, end: usize) -> Vec<T> {
    if block == 0 {
        return Vec::new();
    }
    data.chunks_exact(block).flat_map(|block| &block[start..end]).cloned().collect()
}

/// Entry `index` along axis `axis` of a tensor, without that axis.
pub(super) fn entry(value: &Value, axis: usize, index: usize) -> Result<Value, Reason> {
    let cut = slice(value, axis, index, 1)?;
    match &cut {
        Value::Tensor(tensor) => {
            let mut shape = tensor.ty().shape.clone();
            shape.remove(axis);
            let wrong = || Reason::new(format!("{} has no axis {axis} of one entry", tensor.ty()));
            tensor.reshaped(&shape).map(Value::Tensor).ok_or_else(wrong)
        }
        Value::Strings(strings) => {
            let mut shape = strings.shape().to_vec();
            shape.remove(axis);
            Elements::of(&cut)?.into_value(shape)
        }
        _ => Ok(cut),
    }
}

/// Tensors one after the other along axis `axis`, negative ones counted from the end.
pub(super) fn concat(values: &[Value], axis: i64) -> Result<Value, Reason> {
    let first = values.first().ok_or_else(|| Reason::new("an empty sequence has nothing to concatenate"))?;
    let (element, shape) = tensor_form(first, "element 0")?;
    let axis = resolve_axis(axis, shape.len())?;
    expect_memory(values.iter().map(bytes).fold(0, usize::saturating_add), "the concatenated sequence")?;
    let mut result = shape.to_vec();
    for (index, value) in values.iter().enumerate().skip(1) {
        let (other_element, other) = tensor_form(value, "an element")?;
        let same = other_element == element
            && other.len() == shape.len()
            && (0..shape.len()).all(|a| a == axis || other[a] == shape[a]);
        if !same {
            let (value, first) = (value.describe(), first.describe());
            return Err(Reason::new(format!(
                "{value} (element {index}) and {first} differ beside axis {axis}"
            )));
        }
        let sum = result[axis].checked_add(other[axis]);
        result[axis] = sum.ok_or_else(|| Reason::new(format!("axis {axis} is too long")))?;
    }
    let (outer, ..) = around(&result, axis);
    let elements = match element {
        ElementType::Number(dtype) => {
            let parts: Vec<&[u8]> = values.iter().filter_map(|v| Some(&**v.as_tensor()?.data())).collect();
            Elements::Numbers { dtype, data: join(&parts, outer) }
        }
        ElementType::String => {
            let strings = values.iter().filter_map(|value| match value {
                Value::Strings(strings) => Some(strings.data()),
                _ => None,
            });
            Elements::Strings(join(&strings.collect::<Vec<_>>(), outer))
        }
    };
    elements.into_value(result)
}

/// Each of the `outer` equal blocks of the first part, then of the second, and so on, block by block.
fn join<T: Clone>(parts: &[&[T]], outer: usize) -> Vec<T> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for index in 0..outer {
        for part in parts {
            let block = part.len() / outer;
            joined.extend_from_slice(&part[index * block..(index + 1) * block]);
        }
    }
    joined
}

/// Tensors of one type put one after the other along a new axis.
#[derive(Debug, Default)]
pub(super) struct Stack {
    /// The element type and the extents of each; `None` while there is none.
    form: Option<(ElementType, Vec<usize>)>,
    numbers: Vec<u8>,
    strings: Vec<String>,
    string_bytes: usize,
    count: usize,
}

impl Stack {
    /// No tensors, which would have these elements and extents.
    pub(super) fn of(element: ElementType, shape: Vec<usize>) -> Self {
        Stack { form: Some((element, shape)), ..Stack::default() }
    }

    /// No tensors, which are declared as of type `ty`: extents that are not known count as 0.
    pub(super) fn declared(ty: &ValueType) -> Option<Self> {
        let ValueType::Tensor { element, shape } = ty else { return None };
        let shape = shape.iter().flatten().map(|extent| extent.unwrap_or(0)).collect();
        Some(Stack::of(*element, shape))
    }

    /// No tensors, which would be like `value`.
    pub(super) fn like(value: &Value) -> Result<Self, Reason> {
        let (element, shape) = tensor_form(value, "an output that is collected")?;
        Ok(Stack::of(element, shape.to_vec()))
    }

    /// Whether it knows what tensors it has.
    pub(super) fn is_typed(&self) -> bool {
        self.form.is_some()
    }

    /// How many tensors there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// How much memory they have.
    pub(super) fn bytes(&self) -> usize {
        self.numbers.len().saturating_add(self.string_bytes)
    }

    /// Adds a tensor.
    pub(super) fn push(&mut self, value: &Value) -> Result<(), Reason> {
        let (element, shape) = tensor_form(value, "an output that is collected")?;
        match &self.form {
            None => self.form = Some((element, shape.to_vec())),
            Some((first, extents)) if *first == element && extents == shape => {}
            Some((first, extents)) => {
                let value = value.describe();
                return Err(Reason::new(format!("{value} is collected after {first}{extents:?}")));
            }
        }
        expect_memory(self.bytes().saturating_add(bytes(value)), "what is collected")?;
        match value {
            Value::Tensor(tensor) => {
                reserve(&mut self.numbers, tensor.data().len());
                self.numbers.extend_from_slice(tensor.data());
            }
            Value::Strings(strings) => {
                self.string_bytes += strings.data().iter().map(|string| string_bytes(string)).sum::<usize>();
                reserve(&mut self.strings, strings.data().len());
                self.strings.extend_from_slice(strings.data());
            }
            _ => {}
        }
        self.count += 1;
        Ok(())
    }

    /// Adds zeros and empty strings until there are `count` tensors.
    pub(super) fn pad(&mut self, count: usize) -> Result<(), Reason> {
        let Some(missing) = count.checked_sub(self.count).filter(|&missing| missing > 0) else {
            return Ok(());
        };
        let Some((element, shape)) = &self.form else {
            return Err(Reason::new("an output that is collected has no known type"));
        };
        let product = shape.iter().try_fold(missing, |n, &extent| n.checked_mul(extent));
        let elements = if shape.contains(&0) { 0 } else { product.unwrap_or(usize::MAX) };
        let size = match element {
            ElementType::Number(dtype) => dtype.size_bytes(),
            ElementType::String => size_of::<String>(),
        };
        let more = elements.saturating_mul(size);
        expect_memory(self.bytes().saturating_add(more), "what is collected")?;
        match element {
            ElementType::Number(_) => {
                reserve(&mut self.numbers, more);
                self.numbers.extend(iter::repeat_n(0, more));
            }
            ElementType::String => {
                self.string_bytes += more;
                reserve(&mut self.strings, elements);
                self.strings.extend(iter::repeat_n(String::new(), elements));
            }
        }
        self.count = count;
        Ok(())
    }

    /// All of them in one tensor, whose axis `axis` counts them; the last first where they are reversed.
    pub(super) fn finish(self, axis: i64, reversed: bool) -> Result<Value, Reason> {
        let Some((element, mut shape)) = self.form else {
            return Err(Reason::new("an output that is collected has no known type"));
        };
        let axis = resolve_axis(axis, shape.len() + 1)?;
        shape.insert(axis, self.count);
        let (outer, ..) = around(&shape, axis);
        let elements = match element {
            ElementType::Number(dtype) => {
                Elements::Numbers { dtype, data: arrange(self.numbers, self.count, outer, reversed) }
            }
            ElementType::String => Elements::Strings(arrange(self.strings, self.count, outer, reversed)),
        };
        elements.into_value(shape)
    }
}

/// Makes room for `more` elements: twice as many as before, but never more than [`MAX_BYTES`] without need.
fn reserve<T>(data: &mut Vec<T>, more: usize) {
    let needed = data.len().saturating_add(more);
    if needed > data.capacity() {
        let roomy = data.capacity().saturating_mul(2).min(MAX_BYTES / size_of::<T>().max(1));
        data.reserve_exact(needed.max(roomy) - data.len());
    }
}

/// `data`, `count` tensors of `outer` blocks each, as `outer` times the blocks of all tensors.
fn arrange<T: Clone>(mut data: Vec<T>, count: usize, outer: usize, reversed: bool) -> Vec<T> {
    if data.is_empty() || count == 0 || outer == 0 {
        return data;
    }
    let whole = data.len() / count;
    if reversed {
        data.reverse();
        data.chunks_exact_mut(whole).for_each(<[T]>::reverse);
    }
    if outer == 1 {
        return data;
    }
    let parts: Vec<&[T]> = data.chunks_exact(whole).collect();
    join(&parts, outer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{f32s, i64s};
    use crate::tensor_type::DataType;
    use crate::value::Strings;

    fn strings<const R: usize>(shape: [usize; R], values: &[&str]) -> Value {
        Strings::new(shape, values.iter().map(|&s| s.to_owned()).collect()).unwrap().into()
    }

    #[test]
    fn parts_are_cut_along_any_axis() {
        let x: Value = i64s([2, 3], &[1, 2, 3, 4, 5, 6]).into();
        assert_eq!(slice(&x, 1, 1, 2).unwrap(), i64s([2, 2], &[2, 3, 5, 6]).into());
        assert_eq!(entry(&x, 0, 1).unwrap(), i64s([3], &[4, 5, 6]).into());
        assert_eq!(entry(&x, 1, 0).unwrap(), i64s([2], &[1, 4]).into());
        assert!(slice(&x, 1, 2, 2).is_err() && slice(&x, 2, 0, 1).is_err());
        assert!(slice(&x, 0, usize::MAX, 2).is_err());
        let s = strings([2, 2], &["a", "b", "c", "d"]);
        assert_eq!(entry(&s, 1, 1).unwrap(), strings([2], &["b", "d"]));
        let ty = TensorType::new(DataType::F32, [1 << 40, 0, 1 << 40]);
        let empty: Value = Constant::new(ty, Bytes::new()).unwrap().into();
        assert!(slice(&empty, 0, 5, 6).is_ok());
    }

    #[test]
    fn stacks_count_along_any_axis() {
        let parts = [f32s([2], &[1.0, 2.0]), f32s([2], &[3.0, 4.0]), f32s([2], &[5.0, 6.0])];
        let stack = || {
            let mut stack = Stack::default();
            parts.iter().for_each(|part| stack.push(&part.clone().into()).unwrap());
            stack
        };
        let rows = f32s([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(stack().finish(0, false).unwrap(), rows.into());
        let columns = f32s([2, 3], &[5.0, 3.0, 1.0, 6.0, 4.0, 2.0]);
        assert_eq!(stack().finish(-1, true).unwrap(), columns.into());
        assert!(stack().finish(2, false).is_err());
        assert!(stack().push(&f32s([1], &[1.0]).into()).is_err());
        assert!(stack().push(&i64s([2], &[1, 2]).into()).is_err());
        let mut padded = stack();
        padded.pad(4).unwrap();
        let rows = f32s([4, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0]);
        assert_eq!(padded.finish(0, false).unwrap(), rows.into());
        assert!(stack().pad(1 << 28).is_err());
    }

    #[test]
    fn sequences_are_concatenated() {
        let parts = [strings([2, 1], &["a", "b"]), strings([2, 2], &["c", "d", "e", "f"])];
        let whole = strings([2, 3], &["a", "c", "d", "b", "e", "f"]);
        assert_eq!(concat(&parts, -1).unwrap(), whole);
        assert!(concat(&parts, 0).is_err() && concat(&[], 0).is_err());
        let empty = [i64s([0, 2], &[]).into(), i64s([1, 2], &[1, 2]).into()];
        assert_eq!(concat(&empty, 0).unwrap(), i64s([1, 2], &[1, 2]).into());
    }
}
