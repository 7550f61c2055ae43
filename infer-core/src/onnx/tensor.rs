//! The elements of a [`TensorProto`].

use std::fmt::Display;

use bytemuck::NoUninit;
use bytes::Bytes;

use super::proto::{SparseTensorProto, TensorProto};
use super::{MAX_RANK, quote};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, MAX_ELEMENTS, TensorType};
use crate::value::{Strings, Value};

/// ONNX's number of the element type of strings.
pub const STRING: i32 = 8;

/// ONNX's name of the element type with number `code`.
pub fn data_type_name(code: i32) -> String {
    if let Some(dtype) = DataType::from_onnx(code) {
        return dtype.name().to_owned();
    }
    let name = match code {
        0 => "undefined",
        STRING => "string",
        27 => "float6e2m3",
        28 => "float6e3m2",
        _ => return format!("number {code}"),
    };
    name.to_owned()
}

/// The supported element type with number `code`.
pub(crate) fn data_type(code: i32) -> Result<DataType, Reason> {
    DataType::from_onnx(code).ok_or_else(|| {
        let names: Vec<&str> = DataType::ALL.iter().map(|dtype| dtype.name()).collect();
        Reason::new(format!("element type {} is not supported", data_type_name(code)))
            .supported(names.join(", "))
    })
}

/// The type that a tensor declares, its size checked.
pub fn tensor_type(tensor: &TensorProto) -> Result<TensorType, Reason> {
    let dtype = data_type(tensor.data_type)?;
    if tensor.dims.len() > MAX_RANK {
        return Err(Reason::new(format!("{} dimensions, more than {MAX_RANK}", tensor.dims.len())));
    }
    let mut shape = Vec::with_capacity(tensor.dims.len());
    for &dim in &tensor.dims {
        let extent = usize::try_from(dim).map_err(|_| {
            Reason::new(format!("dimensions {:?} hold the impossible extent {dim}", tensor.dims))
        })?;
        shape.push(extent);
    }
    let ty = TensorType::new(dtype, shape);
    match ty.checked_elements() {
        Some(_) => Ok(ty),
        None => Err(Reason::new(format!("{ty} has more than {MAX_ELEMENTS} elements"))),
    }
}

/// The tensor with its elements, whichever field holds them. Nothing is allocated before the elements that are
/// there have been counted.
pub fn to_constant(tensor: &TensorProto) -> Result<Constant, Reason> {
    let ty = tensor_type(tensor)?;
    if tensor.segment.is_some() {
        return Err(Reason::new("a tensor stored in segments is not supported"));
    }
    if tensor.data_location == 1 {
        return Err(Reason::new("its elements lie in another file, which has not been read"));
    }
    let data = match &tensor.raw_data {
        Some(raw) if !raw.is_empty() || !has_typed_data(tensor) => raw_data(&ty, raw)?,
        _ => typed_data(&ty, tensor)?,
    };
    let bytes = data.len();
    let message = || Reason::new(format!("{ty} needs {} bytes, there are {bytes}", ty.bytes()));
    Constant::new(ty.clone(), data).ok_or_else(message)
}

fn has_typed_data(tensor: &TensorProto) -> bool {
    !(tensor.float_data.is_empty()
        && tensor.int32_data.is_empty()
        && tensor.int64_data.is_empty()
        && tensor.double_data.is_empty()
        && tensor.uint64_data.is_empty())
}

fn raw_data(ty: &TensorType, raw: &Bytes) -> Result<Bytes, Reason> {
    let bits = ty.dtype.packed_bits();
    if bits < 8 {
        let packed = ty.elements().div_ceil(8 / bits);
        if packed != raw.len() {
            return Err(Reason::new(format!("{ty} needs {packed} bytes, there are {}", raw.len())));
        }
        return Ok(unpacked(ty, raw.iter().copied()));
    }
    if ty.bytes() != raw.len() {
        return Err(Reason::new(format!("{ty} needs {} bytes, there are {}", ty.bytes(), raw.len())));
    }
    if ty.dtype == DataType::Bool && raw.iter().any(|&byte| byte > 1) {
        return Ok(raw.iter().map(|&byte| u8::from(byte != 0)).collect());
    }
    Ok(raw.clone())
}

/// Elements that share bytes, the first in the lowest bits, as a byte each.
fn unpacked(ty: &TensorType, packed: impl Iterator<Item = u8>) -> Bytes {
    let bits = ty.dtype.packed_bits();
    let is_signed = matches!(ty.dtype, DataType::I4 | DataType::I2);
    let elements = packed.flat_map(|byte| (0..8 / bits).map(move |index| byte >> (index * bits)));
    let element = |element: u8| {
        let high = element << (8 - bits);
        // Shifted back with its sign, or without.
        if is_signed { (high.cast_signed() >> (8 - bits)).cast_unsigned() } else { high >> (8 - bits) }
    };
    elements.take(ty.elements()).map(element).collect()
}

fn typed_data(ty: &TensorType, tensor: &TensorProto) -> Result<Bytes, Reason> {
    let small = &tensor.int32_data;
    match ty.dtype {
        DataType::F32 => exact(ty, "float_data", &tensor.float_data),
        DataType::F64 => exact(ty, "double_data", &tensor.double_data),
        DataType::I32 => exact(ty, "int32_data", small),
        DataType::I64 => exact(ty, "int64_data", &tensor.int64_data),
        DataType::U64 => exact(ty, "uint64_data", &tensor.uint64_data),
        DataType::C64 => pairs(ty, "float_data", &tensor.float_data),
        DataType::C128 => pairs(ty, "double_data", &tensor.double_data),
        DataType::U32 => narrowed::<u32, _>(ty, "uint64_data", &tensor.uint64_data),
        DataType::U8 => narrowed::<u8, _>(ty, "int32_data", small),
        DataType::I8 => narrowed::<i8, _>(ty, "int32_data", small),
        DataType::I16 => narrowed::<i16, _>(ty, "int32_data", small),
        DataType::U16 | DataType::F16 | DataType::Bf16 => narrowed::<u16, _>(ty, "int32_data", small),
        DataType::F8E4M3FN
        | DataType::F8E4M3FNUZ
        | DataType::F8E5M2
        | DataType::F8E5M2FNUZ
        | DataType::F8E8M0 => narrowed::<u8, _>(ty, "int32_data", small),
        DataType::Bool => {
            expect_count(ty, "int32_data", small.len())?;
            Ok(small.iter().map(|&value| u8::from(value != 0)).collect())
        }
        DataType::U4 | DataType::I4 | DataType::F4E2M1 | DataType::U2 | DataType::I2 => {
            let packed = ty.elements().div_ceil(8 / ty.dtype.packed_bits());
            if packed != small.len() {
                return Err(Reason::new(format!(
                    "{ty} needs {packed} bytes, `int32_data` holds {}",
                    small.len()
                )));
            }
            Ok(unpacked(ty, small.iter().map(|&byte| byte as u8)))
        }
    }
}

/// The tensor, of numbers or strings, with its elements.
pub fn to_value(tensor: &TensorProto) -> Result<Value, Reason> {
    if tensor.data_type != STRING {
        return to_constant(tensor).map(Value::Tensor);
    }
    let text = |bytes: &Bytes| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Reason::new("a string is no UTF-8 text")),
    };
    let strings: Vec<String> = tensor.string_data.iter().map(text).collect::<Result<_, _>>()?;
    let extent = |&dim: &i64| usize::try_from(dim).ok();
    let shape: Option<Vec<usize>> = tensor.dims.iter().map(extent).collect();
    let wrong = || {
        let count = tensor.string_data.len();
        Reason::new(format!("a tensor of strings with dimensions {:?} holds {count}", tensor.dims))
    };
    shape.and_then(|shape| Strings::new(shape, strings)).map(Value::Strings).ok_or_else(wrong)
}

/// A sparse tensor with its zeros.
pub fn to_dense(sparse: &SparseTensorProto) -> Result<Constant, Reason> {
    let missing = || Reason::new("a sparse tensor without values or indices");
    let values = to_constant(sparse.values.as_ref().ok_or_else(missing)?)?;
    let indices = to_constant(sparse.indices.as_ref().ok_or_else(missing)?)?;
    let dense = TensorProto {
        dims: sparse.dims.clone(),
        data_type: values.ty().dtype as i32,
        ..TensorProto::default()
    };
    let ty = tensor_type(&dense)?;
    const MAX_BYTES: usize = 1 << 30;
    if ty.bytes() > MAX_BYTES {
        return Err(Reason::new(format!("{ty} has more than {MAX_BYTES} bytes")));
    }
    let width = ty.dtype.size_bytes();
    let mut data = vec![0; ty.bytes()];
    let count = values.ty().elements();
    let all =
        indices.to_i64s().ok_or_else(|| Reason::new("indices of a sparse tensor that are no integers"))?;
    let strides = ty.strides();
    let per_value = if indices.ty().rank() == 2 { ty.rank() } else { 1 };
    if all.len() != count * per_value {
        return Err(Reason::new(format!("{count} values and {} indices of a sparse tensor", all.len())));
    }
    for (position, value) in values.data().chunks(width).enumerate() {
        let index = all.get(position * per_value..(position + 1) * per_value).unwrap_or_default();
        let flat = match index {
            [flat] if indices.ty().rank() < 2 => Some(*flat),
            axes => {
                axes.iter().zip(&strides).zip(&ty.shape).try_fold(0i64, |sum, ((&at, &stride), &extent)| {
                    ((0..extent as i64).contains(&at)).then(|| sum + at * stride)
                })
            }
        };
        let start = flat.and_then(|flat| usize::try_from(flat).ok()).and_then(|flat| flat.checked_mul(width));
        let slot = start.and_then(|start| data.get_mut(start..start.checked_add(width)?));
        slot.ok_or_else(|| Reason::new(format!("index {index:?} lies outside of {ty}")))?
            .copy_from_slice(value);
    }
    Constant::new(ty.clone(), data.into()).ok_or_else(|| Reason::new(format!("{ty} is too large")))
}

fn pairs<T: NoUninit>(ty: &TensorType, field: &str, values: &[T]) -> Result<Bytes, Reason> {
    let wanted = 2 * ty.elements();
    if wanted != values.len() {
        let count = values.len();
        return Err(Reason::new(format!("{ty} needs {wanted} numbers, {} holds {count}", quote(field))));
    }
    Ok(Bytes::copy_from_slice(bytemuck::cast_slice(values)))
}

fn expect_count(ty: &TensorType, field: &str, count: usize) -> Result<(), Reason> {
    if ty.elements() == count {
        return Ok(());
    }
    Err(Reason::new(format!("{ty} needs {} elements, {} holds {count}", ty.elements(), quote(field))))
}

fn exact<T: NoUninit>(ty: &TensorType, field: &str, values: &[T]) -> Result<Bytes, Reason> {
    expect_count(ty, field, values.len())?;
    Ok(Bytes::copy_from_slice(bytemuck::cast_slice(values)))
}

fn narrowed<T: NoUninit + TryFrom<V>, V: Copy + Display>(
    ty: &TensorType,
    field: &str,
    values: &[V],
) -> Result<Bytes, Reason> {
    expect_count(ty, field, values.len())?;
    let mut narrow: Vec<T> = Vec::with_capacity(values.len());
    for &value in values {
        let fits = T::try_from(value);
        narrow.push(
            fits.map_err(|_| {
                Reason::new(format!("{} holds {value}, which is no {}", quote(field), ty.dtype))
            })?,
        );
    }
    Ok(Bytes::copy_from_slice(bytemuck::cast_slice(&narrow)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DataType, dims: &[i64]) -> TensorProto {
        TensorProto { dims: dims.to_vec(), data_type: dtype as i32, ..TensorProto::default() }
    }

    #[test]
    fn every_encoding_gives_the_same_elements() {
        let values = [1.5f32, -2.0];
        let raw = TensorProto {
            raw_data: Some(Bytes::copy_from_slice(bytemuck::cast_slice(&values))),
            ..tensor(DataType::F32, &[2])
        };
        let typed = TensorProto { float_data: values.to_vec(), ..tensor(DataType::F32, &[2]) };
        assert!(to_constant(&raw).unwrap() == to_constant(&typed).unwrap());

        let f16 = TensorProto { int32_data: vec![0x3c00, 0xc000], ..tensor(DataType::F16, &[2]) };
        assert_eq!(to_constant(&f16).unwrap().to_f32s().unwrap().into_owned(), [1.0, -2.0]);
        let flags = TensorProto { int32_data: vec![0, 7], ..tensor(DataType::Bool, &[2]) };
        assert_eq!(to_constant(&flags).unwrap().data().as_ref(), [0, 1]);
        let raw_flags =
            TensorProto { raw_data: Some(Bytes::from_static(&[0, 7])), ..tensor(DataType::Bool, &[2]) };
        assert_eq!(to_constant(&raw_flags).unwrap().data().as_ref(), [0, 1]);
        let bytes = TensorProto { int32_data: vec![-128, 127], ..tensor(DataType::I8, &[2]) };
        assert_eq!(to_constant(&bytes).unwrap().values::<i8>().into_owned(), [-128, 127]);
        let unsigned = TensorProto { uint64_data: vec![u32::MAX.into()], ..tensor(DataType::U32, &[]) };
        assert_eq!(to_constant(&unsigned).unwrap().values::<u32>().into_owned(), [u32::MAX]);
        let doubles = TensorProto { double_data: vec![0.1], ..tensor(DataType::F64, &[1]) };
        assert_eq!(to_constant(&doubles).unwrap().values::<f64>().into_owned(), [0.1]);
        let longs = TensorProto { int64_data: vec![-7, i64::MAX], ..tensor(DataType::I64, &[1, 2]) };
        assert_eq!(to_constant(&longs).unwrap().to_i64s().unwrap(), [-7, i64::MAX]);
    }

    #[test]
    fn an_empty_tensor_needs_no_data() {
        assert_eq!(to_constant(&tensor(DataType::F32, &[0, 3])).unwrap().ty().shape, [0, 3]);
    }

    #[test]
    fn wrong_tensors_are_refused() {
        let refused = |tensor: &TensorProto| to_constant(tensor).unwrap_err().what;
        let huge =
            TensorProto { raw_data: Some(Bytes::from_static(&[0; 8])), ..tensor(DataType::F32, &[1 << 60]) };
        assert_eq!(refused(&huge), "f32[1152921504606846976] has more than 8589934592 elements");
        assert!(refused(&tensor(DataType::F32, &[1 << 40, 1 << 40])).ends_with("elements"));
        assert_eq!(
            refused(&tensor(DataType::F32, &[1 << 32])),
            "f32[4294967296] needs 4294967296 elements, \
             `float_data` holds 0"
        );
        assert_eq!(
            refused(&tensor(DataType::F32, &[2, -1])),
            "dimensions [2, -1] hold the impossible extent -1"
        );
        let string = TensorProto { data_type: 8, ..TensorProto::default() };
        assert_eq!(refused(&string), "element type string is not supported");
        let unknown = TensorProto { data_type: 99, ..TensorProto::default() };
        assert_eq!(refused(&unknown), "element type number 99 is not supported");
        let short =
            TensorProto { raw_data: Some(Bytes::from_static(&[0; 7])), ..tensor(DataType::F32, &[2]) };
        assert_eq!(refused(&short), "f32[2] needs 8 bytes, there are 7");
        let wide = TensorProto { int32_data: vec![256], ..tensor(DataType::U8, &[1]) };
        assert_eq!(refused(&wide), "`int32_data` holds 256, which is no u8");
        assert_eq!(refused(&tensor(DataType::F32, &[1; 65])), "65 dimensions, more than 64");
    }
}
