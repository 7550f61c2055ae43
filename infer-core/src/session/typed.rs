//! Values as Rust types: what generated code hands to a [`Session`] and takes from it.
//!
//! Which type stands for which is in `codegen/types.rs`.

use std::collections::BTreeMap;
use std::vec::IntoIter;

use bytes::Bytes;
use half::{bf16, f16};

use super::Session;
use crate::constant::Constant;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Nested;
use crate::tensor_type::{DataType, TensorType};
use crate::value::{ElementType, Strings, Value, ValuePort, ValueType};

/// What may be an input of a model.
pub trait ToValue {
    /// The value, of type `ty`; `None` where it is of another.
    fn to_value(&self, ty: &ValueType) -> Option<Value>;
}

/// What may be an output of a model.
pub trait FromValue: Sized {
    /// Zero, or without any elements.
    fn zero() -> Self;

    /// The value as this type; `None` where it is of another.
    fn from_value(value: &Value) -> Option<Self>;

    /// Writes the value to memory that is there; `None` where it is of another type.
    fn write(&mut self, value: &Value) -> Option<()> {
        *self = FromValue::from_value(value)?;
        Some(())
    }
}

/// The innermost type of a tensor.
pub trait Item: Clone + Default {
    /// The tensor of these items, row-major; `None` where items of this type or number do not make one.
    fn tensor(items: &[Self], element: ElementType, shape: &[usize]) -> Option<Value>;

    /// The items of a tensor, row-major.
    fn read(value: &Value) -> Option<Vec<Self>>;

    /// Writes the items of a tensor of as many.
    fn write(value: &Value, items: &mut [Self]) -> Option<()>;
}

/// The bytes of a tensor whose elements are stored as `storage`.
fn bytes(value: &Value, storage: DataType) -> Option<&[u8]> {
    value.as_tensor().filter(|tensor| tensor.ty().dtype.storage() == storage).map(|tensor| &**tensor.data())
}

fn tensor(data: Bytes, storage: DataType, element: ElementType, shape: &[usize]) -> Option<Value> {
    match element {
        ElementType::Number(dtype) if dtype.storage() == storage => {
            Constant::new(TensorType::new(dtype, shape), data).map(Value::Tensor)
        }
        _ => None,
    }
}

macro_rules! numbers {
    ($($item:ty => $storage:ident),* $(,)?) => {$(
        impl Item for $item {
            fn tensor(items: &[Self], element: ElementType, shape: &[usize]) -> Option<Value> {
                let data = Bytes::copy_from_slice(bytemuck::cast_slice(items));
                tensor(data, DataType::$storage, element, shape)
            }

            fn read(value: &Value) -> Option<Vec<Self>> {
                let items = bytes(value, DataType::$storage)?.chunks_exact(size_of::<Self>());
                Some(items.map(bytemuck::pod_read_unaligned).collect())
            }

            fn write(value: &Value, items: &mut [Self]) -> Option<()> {
                let from = bytes(value, DataType::$storage)?;
                let to: &mut [u8] = bytemuck::cast_slice_mut(items);
                (from.len() == to.len()).then(|| to.copy_from_slice(from))
            }
        }
    )*};
}

numbers! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => Bf16,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    // Complex numbers, real part first.
    [f32; 2] => F32, [f64; 2] => F64,
}

impl Item for bool {
    fn tensor(items: &[Self], element: ElementType, shape: &[usize]) -> Option<Value> {
        tensor(items.iter().map(|&item| u8::from(item)).collect(), DataType::Bool, element, shape)
    }

    fn read(value: &Value) -> Option<Vec<Self>> {
        Some(bytes(value, DataType::Bool)?.iter().map(|&byte| byte != 0).collect())
    }

    fn write(value: &Value, items: &mut [Self]) -> Option<()> {
        let from = bytes(value, DataType::Bool)?;
        let write = |(to, from): (&mut bool, &u8)| *to = *from != 0;
        (from.len() == items.len()).then(|| items.iter_mut().zip(from).for_each(write))
    }
}

impl Item for String {
    fn tensor(items: &[Self], element: ElementType, shape: &[usize]) -> Option<Value> {
        let strings = (element == ElementType::String).then(|| items.to_vec())?;
        Strings::new(shape, strings).map(Value::Strings)
    }

    fn read(value: &Value) -> Option<Vec<Self>> {
        match value {
            Value::Strings(strings) => Some(strings.data().to_vec()),
            _ => None,
        }
    }

    fn write(value: &Value, items: &mut [Self]) -> Option<()> {
        match value {
            Value::Strings(strings) if strings.data().len() == items.len() => {
                items.clone_from_slice(strings.data());
                Some(())
            }
            _ => None,
        }
    }
}

/// An array, or a single element, as the tensor of known shape that `ty` is.
fn array_to_value<T: Nested<Item: Item>>(array: &T, ty: &ValueType) -> Option<Value> {
    let ValueType::Tensor { element, shape: Some(shape) } = ty else { return None };
    let shape: Vec<usize> = shape.iter().copied().collect::<Option<_>>()?;
    T::Item::tensor(array.items(), *element, &shape)
}

macro_rules! scalars {
    ($($scalar:ty)*) => {$(
        impl ToValue for $scalar {
            fn to_value(&self, ty: &ValueType) -> Option<Value> {
                array_to_value(self, ty)
            }
        }

        impl FromValue for $scalar {
            fn zero() -> Self {
                Self::default()
            }

            fn from_value(value: &Value) -> Option<Self> {
                match <[_; 1]>::try_from(Item::read(value)?) {
                    Ok([scalar]) => Some(scalar),
                    Err(_) => None,
                }
            }
        }
    )*};
}

scalars! { f32 f64 f16 bf16 bool i8 i16 i32 i64 u8 u16 u32 u64 String }

impl ToValue for str {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        self.to_owned().to_value(ty)
    }
}

impl<T: Nested<Item: Item>, const N: usize> ToValue for [T; N] {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        array_to_value(self, ty)
    }
}

impl<T: Nested<Item: Item>> ToValue for Box<T> {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        array_to_value(&**self, ty)
    }
}

impl<T: Nested<Item: Item>> FromValue for Box<T> {
    fn zero() -> Self {
        T::filled(T::Item::default())
    }

    fn from_value(value: &Value) -> Option<Self> {
        T::from_items(T::Item::read(value)?)
    }

    fn write(&mut self, value: &Value) -> Option<()> {
        T::Item::write(value, self.items_mut())
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        T::to_value(self, ty)
    }
}

impl<T: ToValue> ToValue for [T] {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        let ValueType::Sequence(inner) = ty else { return None };
        self.iter().map(|value| value.to_value(inner)).collect::<Option<_>>().map(Value::Sequence)
    }
}

impl<T: ToValue> ToValue for Vec<T> {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        self.as_slice().to_value(ty)
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn zero() -> Self {
        Vec::new()
    }

    fn from_value(value: &Value) -> Option<Self> {
        let Value::Sequence(values) = value else { return None };
        values.iter().map(T::from_value).collect()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        let ValueType::Optional(inner) = ty else { return None };
        let value = match self {
            None => None,
            Some(value) => Some(Box::new(value.to_value(inner)?)),
        };
        Some(Value::Optional(value))
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn zero() -> Self {
        None
    }

    fn from_value(value: &Value) -> Option<Self> {
        let Value::Optional(value) = value else { return None };
        match value {
            None => Some(None),
            Some(value) => T::from_value(value).map(Some),
        }
    }
}

impl<K: Item + Ord, V: Item> ToValue for BTreeMap<K, V> {
    fn to_value(&self, ty: &ValueType) -> Option<Value> {
        let ValueType::Map { key, value } = ty else { return None };
        let ValueType::Tensor { element, .. } = &**value else { return None };
        let keys: Vec<K> = self.keys().cloned().collect();
        let values: Vec<V> = self.values().cloned().collect();
        Some(Value::Map {
            keys: Box::new(K::tensor(&keys, *key, &[keys.len()])?),
            values: Box::new(V::tensor(&values, *element, &[values.len()])?),
        })
    }
}

impl<K: Item + Ord, V: Item> FromValue for BTreeMap<K, V> {
    fn zero() -> Self {
        BTreeMap::new()
    }

    fn from_value(value: &Value) -> Option<Self> {
        let Value::Map { keys, values } = value else { return None };
        let (keys, values) = (K::read(keys)?, V::read(values)?);
        (keys.len() == values.len()).then(|| keys.into_iter().zip(values).collect())
    }
}

/// The outputs of one run, to be taken one by one in the model's order.
#[derive(Debug)]
pub struct Outputs<'s> {
    ports: std::slice::Iter<'s, ValuePort>,
    values: IntoIter<Value>,
}

impl Outputs<'_> {
    /// The next output.
    ///
    /// # Errors
    ///
    /// If there is none, or it is of another type.
    pub fn take<T: FromValue>(&mut self) -> Result<T> {
        self.next(|value| T::from_value(value))
    }

    /// Writes the next output to memory that is there.
    ///
    /// # Errors
    ///
    /// Those of [`Outputs::take`].
    pub fn write<T: FromValue>(&mut self, output: &mut T) -> Result<()> {
        self.next(|value| output.write(value))
    }

    fn next<R>(&mut self, convert: impl FnOnce(&Value) -> Option<R>) -> Result<R> {
        let (Some(port), Some(value)) = (self.ports.next(), self.values.next()) else {
            return Err(Error::new(ErrorKind::Shape, "the model has fewer outputs"));
        };
        convert(&value).ok_or_else(|| {
            let (name, ty, found) = (&port.name, &port.ty, value.describe());
            let message =
                format!("output `{name}`, declared as {ty}, is {found}, which its type in Rust cannot hold");
            Error::new(ErrorKind::Shape, message)
        })
    }
}

/// A session as generated code holds it for a series of inferences.
#[derive(Debug)]
pub struct SessionContext<'s>(&'s Session);

impl<'s> SessionContext<'s> {
    /// [`Session::infer`].
    ///
    /// # Errors
    ///
    /// Those of [`Session::run`].
    pub fn infer(&mut self, inputs: &[&dyn ToValue]) -> Result<Outputs<'s>> {
        self.0.infer(inputs)
    }
}

impl Session {
    /// Computes the outputs from the inputs, both in the model's order.
    ///
    /// # Errors
    ///
    /// Those of [`Session::run`].
    pub fn infer(&self, inputs: &[&dyn ToValue]) -> Result<Outputs<'_>> {
        let values = self.inputs.iter().zip(inputs).map(|(port, input)| {
            input.to_value(&port.ty).ok_or_else(|| {
                let message = format!(
                    "input `{}` is {}; the value given for it is of another type",
                    port.name, port.ty
                );
                Error::new(ErrorKind::Input, message)
            })
        });
        let outputs = self.run(&values.collect::<Result<Vec<Value>>>()?)?;
        Ok(Outputs { ports: self.outputs.iter(), values: outputs.into_iter() })
    }

    /// The session for a series of inferences.
    pub fn context(&self) -> SessionContext<'_> {
        SessionContext(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ty(element: ElementType, shape: Option<&[usize]>) -> ValueType {
        let shape = shape.map(|shape| shape.iter().map(|&extent| Some(extent)).collect());
        ValueType::Tensor { element, shape }
    }

    fn number(dtype: DataType, shape: &[usize]) -> ValueType {
        ty(ElementType::Number(dtype), Some(shape))
    }

    /// There and back.
    #[track_caller]
    fn survives<T: FromValue + ToValue + PartialEq + std::fmt::Debug>(from: &T, ty: &ValueType) {
        let value = from.to_value(ty).unwrap();
        assert!(ty.admits(&value), "{} is not {ty}", value.describe());
        assert_eq!(T::from_value(&value).as_ref(), Some(from));
        let mut memory = T::zero();
        memory.write(&value).unwrap();
        assert_eq!(memory, *from);
    }

    #[test]
    fn values_survive() {
        survives(&Box::new([[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]), &number(DataType::F32, &[2, 3]));
        survives(&Box::new(-7_i64), &number(DataType::I64, &[]));
        survives(&Box::new([true, false]), &number(DataType::Bool, &[2]));
        survives(&Box::new([1_u8, 255]), &number(DataType::F8E5M2, &[2]));
        survives(&Box::new([-8_i8, 7]), &number(DataType::I4, &[2]));
        survives(&Box::new([[1.0_f64, -1.0]; 3]), &number(DataType::C128, &[3]));
        survives(&Box::new(["a", "b"].map(str::to_owned)), &ty(ElementType::String, Some(&[2])));
        survives(&"word".to_owned(), &ty(ElementType::String, Some(&[])));
        survives(&vec![1.5_f32, 2.5], &ValueType::Sequence(Box::new(number(DataType::F32, &[]))));
        let optional = ValueType::Optional(Box::new(number(DataType::I32, &[2])));
        survives(&Some(Box::new([3_i32, 4])), &optional);
        survives(&None::<Box<[i32; 2]>>, &optional);
        let map = |key| ValueType::Map { key, value: Box::new(ty(ElementType::Number(DataType::F32), None)) };
        survives(&BTreeMap::from([(-1_i64, 0.5_f32), (9, 1.5)]), &map(ElementType::Number(DataType::I64)));
        let named = BTreeMap::from([("cat".to_owned(), 0.25_f32)]);
        survives(&named, &map(ElementType::String));
        survives(&vec![named], &ValueType::Sequence(Box::new(map(ElementType::String))));
    }

    #[test]
    fn borrowed_values_are_values() {
        let optional = ValueType::Optional(Box::new(number(DataType::F32, &[2])));
        let array = [1.0_f32, 2.0];
        assert_eq!(Some(&array).to_value(&optional), Some(Box::new(array)).to_value(&optional));
        assert_eq!("a".to_value(&ty(ElementType::String, Some(&[]))).unwrap().describe(), "string[]");
        let sequence = ValueType::Sequence(Box::new(number(DataType::F32, &[])));
        assert_eq!(array[..].to_value(&sequence).unwrap().describe(), "a sequence of 2");
    }

    #[test]
    fn other_types_are_refused() {
        assert!([1.0_f32; 3].to_value(&number(DataType::F32, &[2])).is_none());
        assert!([1.0_f32; 3].to_value(&number(DataType::F64, &[3])).is_none());
        assert!([1_u8; 3].to_value(&number(DataType::Bool, &[3])).is_none());
        let value = [1.0_f32; 3].to_value(&number(DataType::F32, &[3])).unwrap();
        assert!(
            <Box<[f32; 2]>>::from_value(&value).is_none() && <Box<[i32; 3]>>::from_value(&value).is_none()
        );
        assert!(f32::from_value(&value).is_none() && <Vec<f32>>::from_value(&value).is_none());
        assert!(<Box<[f32; 2]>>::zero().write(&value).is_none());
    }

    #[test]
    fn bytes_other_than_0_and_1_are_true() {
        let data = Bytes::from_static(&[0, 1, 2]);
        let value = Constant::new(TensorType::new(DataType::Bool, [3]), data).unwrap().into();
        assert_eq!(<Box<[bool; 3]>>::from_value(&value).as_deref(), Some(&[false, true, true]));
    }
}
