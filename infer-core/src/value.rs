//! Values at run time: tensors, strings, sequences, optionals and maps.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::constant::Constant;
use crate::plan::Port;
use crate::tensor_type::{DataType, TensorType};

/// A value of any type that ONNX has. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A tensor of numbers.
    Tensor(Constant),
    /// A tensor of strings.
    Strings(Strings),
    /// A sequence of values of one type.
    Sequence(#[serde(deserialize_with = "nested")] Vec<Value>),
    /// A value that may be missing.
    Optional(#[serde(deserialize_with = "nested")] Option<Box<Value>>),
    /// A map from keys to values of one type: a one-dimensional tensor of each, equally long.
    Map {
        /// The keys: integers or strings.
        #[serde(deserialize_with = "nested")]
        keys: Box<Value>,
        /// The values.
        #[serde(deserialize_with = "nested")]
        values: Box<Value>,
    },
}

impl Value {
    /// What it is, for messages: `f32[2,3]`, `a sequence of 3`.
    pub fn describe(&self) -> String {
        match self {
            Value::Tensor(tensor) => tensor.ty().to_string(),
            Value::Strings(strings) => strings.to_string(),
            Value::Sequence(values) => format!("a sequence of {}", values.len()),
            Value::Optional(None) => "an empty optional".to_owned(),
            Value::Optional(Some(value)) => format!("an optional {}", value.describe()),
            Value::Map { keys, values } => format!("a map from {} to {}", keys.describe(), values.describe()),
        }
    }

    /// The tensor of numbers, if it is one.
    pub fn as_tensor(&self) -> Option<&Constant> {
        if let Value::Tensor(tensor) = self { Some(tensor) } else { None }
    }

    /// The extents, if it is a tensor of numbers or strings.
    pub fn shape(&self) -> Option<&[usize]> {
        match self {
            Value::Tensor(tensor) => Some(&tensor.ty().shape),
            Value::Strings(strings) => Some(strings.shape()),
            _ => None,
        }
    }
}

impl From<Constant> for Value {
    fn from(tensor: Constant) -> Self {
        Value::Tensor(tensor)
    }
}

impl From<Strings> for Value {
    fn from(strings: Strings) -> Self {
        Value::Strings(strings)
    }
}

/// A tensor of strings. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(Vec<usize>, Vec<String>)", into = "(Vec<usize>, Vec<String>)")]
pub struct Strings {
    shape: Vec<usize>,
    data: Arc<[String]>,
}

impl Strings {
    /// The tensor with these extents, or `None` where the number of strings is not theirs.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<String>) -> Option<Self> {
        let shape = shape.into();
        let elements = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        (elements == Some(data.len())).then(|| Strings { shape, data: data.into() })
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The strings, row-major.
    pub fn data(&self) -> &[String] {
        &self.data
    }
}

impl TryFrom<(Vec<usize>, Vec<String>)> for Strings {
    type Error = &'static str;

    fn try_from((shape, data): (Vec<usize>, Vec<String>)) -> Result<Self, &'static str> {
        Strings::new(shape, data).ok_or("a tensor of strings with another number of them")
    }
}

impl From<Strings> for (Vec<usize>, Vec<String>) {
    fn from(strings: Strings) -> Self {
        (strings.shape, strings.data.to_vec())
    }
}

impl fmt::Display for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_tensor(f, "string", self.shape.iter().map(|&extent| Some(extent)))
    }
}

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ElementType {
    /// Numbers.
    Number(DataType),
    /// Strings.
    String,
}

impl From<DataType> for ElementType {
    fn from(dtype: DataType) -> Self {
        ElementType::Number(dtype)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElementType::Number(dtype) => dtype.fmt(f),
            ElementType::String => f.write_str("string"),
        }
    }
}

/// The type of a value as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ValueType {
    /// A tensor.
    Tensor {
        /// What its elements are.
        element: ElementType,
        /// The extents, `None` where only the run knows; `None` where it alone knows how many there are.
        shape: Option<Vec<Option<usize>>>,
    },
    /// A sequence.
    Sequence(#[serde(deserialize_with = "nested")] Box<ValueType>),
    /// A value that may be missing.
    Optional(#[serde(deserialize_with = "nested")] Box<ValueType>),
    /// A map.
    Map {
        /// What its keys are.
        key: ElementType,
        /// What its values are.
        #[serde(deserialize_with = "nested")]
        value: Box<ValueType>,
    },
}

impl ValueType {
    /// The type of a tensor of numbers whose extents are all known.
    pub fn as_static(&self) -> Option<TensorType> {
        match self {
            ValueType::Tensor { element: ElementType::Number(dtype), shape: Some(shape) } => {
                Some(TensorType::new(*dtype, shape.iter().copied().collect::<Option<Vec<usize>>>()?))
            }
            _ => None,
        }
    }

    /// The type of tensors of any shape where this is one of tensors.
    pub fn without_shapes(&self) -> ValueType {
        match self {
            ValueType::Tensor { element, .. } => ValueType::Tensor { element: *element, shape: None },
            ValueType::Sequence(ty) => ValueType::Sequence(Box::new(ty.without_shapes())),
            ValueType::Optional(ty) => ValueType::Optional(Box::new(ty.without_shapes())),
            ValueType::Map { .. } => self.clone(),
        }
    }

    /// Whether `value` is of this type.
    pub fn admits(&self, value: &Value) -> bool {
        match (self, value) {
            (ValueType::Tensor { element: ElementType::Number(dtype), shape }, Value::Tensor(tensor)) => {
                *dtype == tensor.ty().dtype && admits_shape(shape.as_deref(), &tensor.ty().shape)
            }
            (ValueType::Tensor { element: ElementType::String, shape }, Value::Strings(strings)) => {
                admits_shape(shape.as_deref(), strings.shape())
            }
            (ValueType::Sequence(ty), Value::Sequence(values)) => values.iter().all(|value| ty.admits(value)),
            (ValueType::Optional(_), Value::Optional(None)) => true,
            (ValueType::Optional(ty), Value::Optional(Some(value))) => ty.admits(value),
            (ValueType::Map { .. }, Value::Map { .. }) => true,
            _ => false,
        }
    }
}

impl From<TensorType> for ValueType {
    fn from(ty: TensorType) -> Self {
        let shape = ty.shape.into_iter().map(Some).collect();
        ValueType::Tensor { element: ElementType::Number(ty.dtype), shape: Some(shape) }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::Tensor { element, shape: Some(shape) } => {
                write_tensor(f, element, shape.iter().copied())
            }
            ValueType::Tensor { element, shape: None } => write!(f, "{element}[…]"),
            ValueType::Sequence(ty) => write!(f, "sequence of {ty}"),
            ValueType::Optional(ty) => write!(f, "optional {ty}"),
            ValueType::Map { key, value } => write!(f, "map from {key} to {value}"),
        }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValuePort {
    /// The name in the model.
    pub name: String,
    /// The type.
    pub ty: ValueType,
}

impl From<Port> for ValuePort {
    fn from(port: Port) -> Self {
        ValuePort { name: port.name, ty: port.ty.into() }
    }
}

/// How deeply values, types and graphs may lie in each other in what is read: more than any file that import accepts,
/// and little enough for every stack.
const MAX_NESTING: u32 = 64;

thread_local! {
    static NESTING: Cell<u32> = const { Cell::new(0) };
}

/// Reads what may hold others of its kind.
pub(crate) fn nested<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let depth = NESTING.get();
    if depth == MAX_NESTING {
        return Err(D::Error::custom(format!("more than {MAX_NESTING} levels of nesting")));
    }
    NESTING.set(depth + 1);
    let value = T::deserialize(deserializer);
    NESTING.set(depth);
    value
}

fn admits_shape(declared: Option<&[Option<usize>]>, shape: &[usize]) -> bool {
    declared.is_none_or(|declared| {
        declared.len() == shape.len()
            && declared.iter().zip(shape).all(|(declared, extent)| declared.is_none_or(|d| d == *extent))
    })
}

fn write_tensor(
    f: &mut fmt::Formatter<'_>,
    element: impl fmt::Display,
    shape: impl Iterator<Item = Option<usize>>,
) -> fmt::Result {
    write!(f, "{element}[")?;
    for (axis, extent) in shape.enumerate() {
        if axis > 0 {
            f.write_str(",")?;
        }
        match extent {
            Some(extent) => write!(f, "{extent}")?,
            None => f.write_str("?")?,
        }
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_nesting_is_refused() {
        let mut ty = ValueType::Tensor { element: ElementType::String, shape: None };
        for level in 0..=MAX_NESTING {
            let bytes = postcard::to_allocvec(&ty).unwrap();
            assert_eq!(postcard::from_bytes::<ValueType>(&bytes).ok(), Some(ty.clone()), "level {level}");
            ty = ValueType::Sequence(Box::new(ty));
        }
        let bytes = postcard::to_allocvec(&ty).unwrap();
        assert!(postcard::from_bytes::<ValueType>(&bytes).is_err());
        // A sequence of sequences without end: what would overflow the stack.
        assert!(postcard::from_bytes::<ValueType>(&vec![bytes[0]; 1 << 20]).is_err());
    }
}
