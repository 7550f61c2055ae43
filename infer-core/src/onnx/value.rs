//! Values as files of test data hold them: one message each, of the type that the model declares.

use bytes::Bytes;
use prost::Message;

use super::proto::TensorProto;
use super::{STRING, to_value};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::{Strings, Value, ValueType};

/// A sequence of values, of the kind that `elem_type` names.
#[derive(Clone, PartialEq, Message)]
struct SequenceProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    elem_type: i32,
    #[prost(message, repeated, tag = "3")]
    tensor_values: Vec<TensorProto>,
    #[prost(message, repeated, tag = "5")]
    sequence_values: Vec<SequenceProto>,
    #[prost(message, repeated, tag = "6")]
    map_values: Vec<MapProto>,
    #[prost(message, repeated, tag = "7")]
    optional_values: Vec<OptionalProto>,
}

/// A map: keys, and as many values.
#[derive(Clone, PartialEq, Message)]
struct MapProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    key_type: i32,
    #[prost(int64, repeated, tag = "3")]
    keys: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    string_keys: Vec<Bytes>,
    #[prost(message, optional, tag = "5")]
    values: Option<SequenceProto>,
}

/// A value that may be missing.
#[derive(Clone, PartialEq, Message)]
struct OptionalProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    elem_type: i32,
    #[prost(message, optional, tag = "3")]
    tensor_value: Option<TensorProto>,
    #[prost(message, optional, tag = "5")]
    sequence_value: Option<SequenceProto>,
    #[prost(message, optional, boxed, tag = "6")]
    map_value: Option<Box<MapProto>>,
    #[prost(message, optional, boxed, tag = "7")]
    optional_value: Option<Box<OptionalProto>>,
}

/// The kinds of element of sequences and optionals.
mod kind {
    pub const TENSOR: i32 = 1;
    pub const SEQUENCE: i32 = 3;
    pub const MAP: i32 = 4;
    pub const OPTIONAL: i32 = 5;
}

/// The value in `bytes`: a message of the kind that `ty` asks for.
///
/// # Errors
///
/// If the bytes are no such message, or its parts are damaged.
pub fn read_value(bytes: &[u8], ty: &ValueType) -> Result<Value, Reason> {
    match ty {
        ValueType::Tensor { .. } => to_value(&decode::<TensorProto>(bytes)?),
        ValueType::Sequence(_) => sequence(&decode::<SequenceProto>(bytes)?),
        ValueType::Map { .. } => map(&decode::<MapProto>(bytes)?),
        ValueType::Optional(inner) => match decode::<OptionalProto>(bytes).and_then(|proto| optional(&proto))
        {
            Ok(value) => Ok(value),
            // The value itself stands for an optional that holds it.
            Err(reason) => match read_value(bytes, inner) {
                Ok(value) => Ok(Value::Optional(Some(Box::new(value)))),
                Err(_) => Err(reason),
            },
        },
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Reason> {
    M::decode(bytes).map_err(|error| Reason::new(format!("it is no value of a test: {error}")))
}

fn sequence(proto: &SequenceProto) -> Result<Value, Reason> {
    let values: Result<Vec<Value>, Reason> = match proto.elem_type {
        kind::TENSOR => proto.tensor_values.iter().map(to_value).collect(),
        kind::SEQUENCE => proto.sequence_values.iter().map(sequence).collect(),
        kind::MAP => proto.map_values.iter().map(map).collect(),
        kind::OPTIONAL => proto.optional_values.iter().map(optional).collect(),
        0 => Ok(Vec::new()),
        other => Err(Reason::new(format!("a sequence of kind {other} is not supported"))),
    };
    values.map(Value::Sequence)
}

fn map(proto: &MapProto) -> Result<Value, Reason> {
    let keys = if proto.key_type == STRING {
        let keys = proto.string_keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        Strings::new([proto.string_keys.len()], keys).map(Value::Strings)
    } else {
        Some(Value::Tensor(Constant::of_i64(&proto.keys)))
    };
    let keys = keys.ok_or_else(|| Reason::new("a map without keys"))?;
    let Some(values) = &proto.values else { return Err(Reason::new("a map without values")) };
    let Value::Sequence(values) = sequence(values)? else { return Err(Reason::new("a map without values")) };
    Ok(Value::Map { keys: Box::new(keys), values: Box::new(stacked(&values)?) })
}

/// The values of a map, scalars or tensors of one element each, as one tensor.
fn stacked(values: &[Value]) -> Result<Value, Reason> {
    let wrong = || Reason::new("the values of a map are not single elements of one type");
    if values.iter().all(|value| matches!(value, Value::Strings(_))) && !values.is_empty() {
        let strings = values.iter().flat_map(|value| match value {
            Value::Strings(strings) => strings.data().to_vec(),
            _ => Vec::new(),
        });
        return Strings::new([values.len()], strings.collect()).map(Value::Strings).ok_or_else(wrong);
    }
    let dtype = values.first().and_then(Value::as_tensor).map_or(DataType::F32, |tensor| tensor.ty().dtype);
    let mut data = Vec::new();
    for value in values {
        let tensor = value.as_tensor().filter(|tensor| tensor.ty().dtype == dtype).ok_or_else(wrong)?;
        data.extend_from_slice(tensor.data());
    }
    Constant::new(TensorType::new(dtype, [values.len()]), data.into()).map(Value::Tensor).ok_or_else(wrong)
}

fn optional(proto: &OptionalProto) -> Result<Value, Reason> {
    let missing = || Reason::new("an optional does not hold what it says");
    let value = match proto.elem_type {
        0 => return Ok(Value::Optional(None)),
        kind::TENSOR => to_value(proto.tensor_value.as_ref().ok_or_else(missing)?)?,
        kind::SEQUENCE => sequence(proto.sequence_value.as_ref().ok_or_else(missing)?)?,
        kind::MAP => map(proto.map_value.as_ref().ok_or_else(missing)?)?,
        kind::OPTIONAL => optional(proto.optional_value.as_ref().ok_or_else(missing)?)?,
        other => return Err(Reason::new(format!("an optional of kind {other} is not supported"))),
    };
    Ok(Value::Optional(Some(Box::new(value))))
}

/// The message for `value`: as [`read_value`] reads it.
pub fn write_value(value: &Value) -> Vec<u8> {
    match value {
        Value::Tensor(tensor) => tensor_proto(tensor).encode_to_vec(),
        Value::Strings(strings) => strings_proto(strings).encode_to_vec(),
        Value::Sequence(values) => sequence_proto(values).encode_to_vec(),
        Value::Optional(value) => optional_proto(value.as_deref()).encode_to_vec(),
        Value::Map { keys, values } => map_proto(keys, values).encode_to_vec(),
    }
}

fn tensor_proto(tensor: &Constant) -> TensorProto {
    let ty = tensor.ty();
    let bits = ty.dtype.packed_bits();
    let data = if bits < 8 {
        let mask = (1 << bits) - 1;
        let packed = tensor.data().chunks(8 / bits).map(|group| {
            group
                .iter()
                .enumerate()
                .fold(0, |byte, (index, element)| byte | (element & mask) << (index * bits))
        });
        packed.collect()
    } else {
        tensor.data().clone()
    };
    TensorProto {
        dims: dims(&ty.shape),
        data_type: ty.dtype as i32,
        raw_data: Some(data),
        ..TensorProto::default()
    }
}

fn strings_proto(strings: &Strings) -> TensorProto {
    TensorProto {
        dims: dims(strings.shape()),
        data_type: STRING,
        string_data: strings.data().iter().map(|string| Bytes::copy_from_slice(string.as_bytes())).collect(),
        ..TensorProto::default()
    }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&extent| extent as i64).collect()
}

fn sequence_proto(values: &[Value]) -> SequenceProto {
    let mut proto = SequenceProto { elem_type: kind::TENSOR, ..SequenceProto::default() };
    for value in values {
        match value {
            Value::Tensor(tensor) => proto.tensor_values.push(tensor_proto(tensor)),
            Value::Strings(strings) => proto.tensor_values.push(strings_proto(strings)),
            Value::Sequence(values) => {
                proto.elem_type = kind::SEQUENCE;
                proto.sequence_values.push(sequence_proto(values));
            }
            Value::Optional(value) => {
                proto.elem_type = kind::OPTIONAL;
                proto.optional_values.push(optional_proto(value.as_deref()));
            }
            Value::Map { keys, values } => {
                proto.elem_type = kind::MAP;
                proto.map_values.push(map_proto(keys, values));
            }
        }
    }
    proto
}

fn optional_proto(value: Option<&Value>) -> OptionalProto {
    let mut proto = OptionalProto::default();
    match value {
        None => {}
        Some(Value::Tensor(tensor)) => {
            (proto.elem_type, proto.tensor_value) = (kind::TENSOR, Some(tensor_proto(tensor)));
        }
        Some(Value::Strings(strings)) => {
            (proto.elem_type, proto.tensor_value) = (kind::TENSOR, Some(strings_proto(strings)));
        }
        Some(Value::Sequence(values)) => {
            (proto.elem_type, proto.sequence_value) = (kind::SEQUENCE, Some(sequence_proto(values)));
        }
        Some(Value::Optional(value)) => {
            let inner = Some(Box::new(optional_proto(value.as_deref())));
            (proto.elem_type, proto.optional_value) = (kind::OPTIONAL, inner);
        }
        Some(Value::Map { keys, values }) => {
            (proto.elem_type, proto.map_value) = (kind::MAP, Some(Box::new(map_proto(keys, values))));
        }
    }
    proto
}

fn map_proto(keys: &Value, values: &Value) -> MapProto {
    let mut proto = MapProto::default();
    match keys {
        Value::Strings(strings) => {
            proto.key_type = STRING;
            let bytes = strings.data().iter().map(|key| Bytes::copy_from_slice(key.as_bytes()));
            proto.string_keys = bytes.collect();
        }
        Value::Tensor(tensor) => {
            proto.key_type = tensor.ty().dtype as i32;
            proto.keys = tensor.to_i64s().unwrap_or_default();
        }
        _ => {}
    }
    let single = match values {
        Value::Strings(strings) => {
            let one = |string: &String| Strings::new([], vec![string.clone()]).map(Value::Strings);
            strings.data().iter().filter_map(one).collect()
        }
        Value::Tensor(tensor) => {
            let width = tensor.ty().dtype.size_bytes();
            let elements = (0..tensor.ty().elements()).filter_map(|index| {
                let data = tensor.data().slice(index * width..(index + 1) * width);
                Constant::new(TensorType::new(tensor.ty().dtype, []), data).map(Value::Tensor)
            });
            elements.collect()
        }
        _ => Vec::new(),
    };
    proto.values = Some(sequence_proto(&single));
    proto
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::ElementType;

    fn returns(value: Value, ty: &ValueType) {
        assert_eq!(read_value(&write_value(&value), ty).unwrap(), value);
    }

    fn tensor_of(element: ElementType) -> ValueType {
        ValueType::Tensor { element, shape: None }
    }

    #[test]
    fn what_is_written_is_read() {
        let floats = Value::Tensor(Constant::of(TensorType::new(DataType::F32, [2]), &[1.5f32, -2.0]));
        let nibbles = Value::Tensor(Constant::of(TensorType::new(DataType::I4, [3]), &[-8i8, 7, -1]));
        let strings = Value::Strings(Strings::new([1, 2], vec!["a".into(), "größe".into()]).unwrap());
        let number = tensor_of(ElementType::Number(DataType::F32));
        let string = tensor_of(ElementType::String);
        returns(floats.clone(), &number);
        returns(nibbles, &tensor_of(ElementType::Number(DataType::I4)));
        returns(strings.clone(), &string);
        returns(
            Value::Sequence(vec![floats.clone(), floats.clone()]),
            &ValueType::Sequence(Box::new(number.clone())),
        );
        let optional = ValueType::Optional(Box::new(number.clone()));
        returns(Value::Optional(None), &optional);
        returns(Value::Optional(Some(Box::new(floats.clone()))), &optional);
        let keys = Value::Strings(Strings::new([2], vec!["x".into(), "y".into()]).unwrap());
        let map = Value::Map { keys: Box::new(keys), values: Box::new(floats) };
        returns(map, &ValueType::Map { key: ElementType::String, value: Box::new(number) });
    }

    #[test]
    fn damage_is_an_error() {
        let ty = tensor_of(ElementType::Number(DataType::F32));
        assert!(read_value(&[0xFF; 9], &ty).is_err());
        assert!(read_value(&[0x10, 0x63], &ty).is_err());
    }
}
