//! LabelEncoder and CategoryMapper: another value for each element, by a table.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxml_CategoryMapper.html>
//! Types: strings, i64, i32, i16, f32, f64.
//! History: LabelEncoder maps between strings and their positions in version 1 of ai.onnx.ml, between any two lists since
//! version 2, tensors among them since version 4.

use std::collections::HashMap;

use super::ml_common::DOMAIN;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::{Strings, Value};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "LabelEncoder",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_encoder,
    },
    Row {
        name: "CategoryMapper",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_mapper,
    },
];

/// One row of strings or numbers, as attributes give it.
#[derive(Clone, Debug, PartialEq)]
enum List {
    Numbers(Constant),
    Strings(Vec<String>),
}

/// What elements are looked up by: numbers by their bits, all that are not a number alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Bits(u64),
    String(String),
}

/// A table of keys of one type and values of another.
#[derive(Clone, Debug)]
struct Table {
    keys: HashMap<Key, usize>,
    /// `None` for strings.
    key_type: Option<DataType>,
    values: List,
    /// Of one element.
    default: List,
}

/// LabelEncoder, or CategoryMapper.
#[derive(Clone, Debug)]
pub struct LabelEncoder {
    name: &'static str,
    /// One table, or one for strings and one for integers, of which the input decides.
    tables: Vec<Table>,
}

impl List {
    fn integers(values: &[i64]) -> List {
        List::Numbers(Constant::of_i64(values))
    }

    fn floats(values: &[f32]) -> List {
        List::Numbers(Constant::of(TensorType::new(DataType::F32, [values.len()]), values))
    }

    fn string(value: &str) -> List {
        List::Strings(vec![value.to_owned()])
    }

    fn dtype(&self) -> Option<DataType> {
        match self {
            List::Numbers(numbers) => Some(numbers.ty().dtype),
            List::Strings(_) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            List::Numbers(numbers) => numbers.ty().elements(),
            List::Strings(strings) => strings.len(),
        }
    }

    fn keys(&self) -> Result<Vec<Key>, Reason> {
        match self {
            List::Numbers(numbers) => Ok(keys_of(numbers)?),
            List::Strings(strings) => Ok(strings.iter().cloned().map(Key::String).collect()),
        }
    }
}

fn keys_of(numbers: &Constant) -> Result<Vec<Key>, Reason> {
    // Zero has two spellings.
    let float = |value: f64| Key::Bits(if value.is_nan() { f64::NAN } else { value + 0.0 }.to_bits());
    Ok(match numbers.ty().dtype {
        DataType::F32 => numbers.values::<f32>().iter().map(|&value| float(value.into())).collect(),
        DataType::F64 => numbers.values::<f64>().iter().map(|&value| float(value)).collect(),
        DataType::I64 => numbers.values::<i64>().iter().map(|&value| Key::Bits(value as u64)).collect(),
        DataType::I32 => numbers.values::<i32>().iter().map(|&value| Key::Bits(value as u64)).collect(),
        DataType::I16 => numbers.values::<i16>().iter().map(|&value| Key::Bits(value as u64)).collect(),
        other => return Err(Reason::new(format!("keys of type {other} are not supported"))),
    })
}

impl Table {
    fn new(keys: &List, values: List, default: List, last_counts: bool) -> Result<Self, Reason> {
        if keys.len() != values.len() {
            return Err(Reason::new(format!("{} keys for {} values", keys.len(), values.len())));
        }
        if default.dtype() != values.dtype() || default.len() != 1 {
            return Err(Reason::new("the default is not one value of the type of the values"));
        }
        let mut positions = HashMap::with_capacity(keys.len());
        for (position, key) in keys.keys()?.into_iter().enumerate() {
            if last_counts {
                positions.insert(key, position);
            } else {
                positions.entry(key).or_insert(position);
            }
        }
        Ok(Table { keys: positions, key_type: keys.dtype(), values, default })
    }

    /// The values for `keys`, as a tensor of extents `shape`.
    fn look_up(&self, shape: &[usize], keys: &[Key]) -> Result<Value, Reason> {
        let positions = keys.iter().map(|key| self.keys.get(key).copied());
        let wrong = || Reason::new("an output of another number of elements");
        match (&self.values, &self.default) {
            (List::Numbers(values), List::Numbers(default)) => {
                let dtype = values.ty().dtype;
                let mut bytes = Vec::with_capacity(keys.len().saturating_mul(dtype.size_bytes()));
                let width = dtype.size_bytes();
                for position in positions {
                    let value = match position {
                        Some(position) => values.data().get(position * width..(position + 1) * width),
                        None => Some(&default.data()[..]),
                    };
                    bytes.extend_from_slice(value.ok_or_else(wrong)?);
                }
                Constant::new(TensorType::new(dtype, shape), bytes.into())
                    .map(Value::Tensor)
                    .ok_or_else(wrong)
            }
            (List::Strings(values), List::Strings(default)) => {
                let default = default.first().ok_or_else(wrong)?;
                let strings = positions.map(|position| {
                    position.map_or(Ok(default), |position| values.get(position).ok_or_else(wrong)).cloned()
                });
                let strings = strings.collect::<Result<Vec<String>, Reason>>()?;
                Strings::new(shape, strings).map(Value::Strings).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

/// The list that one of four attributes is, `None` without any.
fn import_list(node: &mut ImportNode, name: &str) -> Result<Option<List>, Reason> {
    let attributes = &mut node.attributes;
    let mut lists = Vec::new();
    if let Some(values) = attributes.ints(&format!("{name}_int64s"))? {
        lists.push(List::integers(&values));
    }
    if let Some(values) = attributes.floats(&format!("{name}_floats"))? {
        lists.push(List::floats(&values));
    }
    if let Some(values) = attributes.strings(&format!("{name}_strings"))? {
        lists.push(List::Strings(values));
    }
    lists.extend(import_tensor(node, &format!("{name}_tensor"))?);
    // Converters leave empty lists where there is none.
    if lists.len() > 1 {
        lists.retain(|list| list.len() > 0);
    }
    if lists.len() > 1 {
        return Err(Reason::new(format!("{name} are given more than once")));
    }
    Ok(lists.pop())
}

fn import_tensor(node: &mut ImportNode, name: &str) -> Result<Option<List>, Reason> {
    // Numbers and strings are attributes of different kinds; asking for the wrong one is an error.
    match node.attributes.clone().string_tensor(name) {
        Ok(Some(strings)) => {
            node.attributes.ignore(name);
            Ok(Some(List::Strings(strings.data().to_vec())))
        }
        Ok(None) => Ok(None),
        Err(_) => Ok(node.attributes.tensor(name)?.map(List::Numbers)),
    }
}

fn import_encoder(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let default_integer = node.attributes.int("default_int64")?.unwrap_or(-1);
    let default_string = node.attributes.string("default_string")?.unwrap_or_else(|| "_Unused".to_owned());
    if node.opset < 2 {
        let classes = node.attributes.strings("classes_strings")?.unwrap_or_default();
        let positions: Vec<i64> = (0..classes.len() as i64).collect();
        let classes = (List::Strings(classes), List::integers(&positions));
        return two_way("LabelEncoder", classes, default_integer, &default_string);
    }
    let default_float = node.attributes.float("default_float")?.unwrap_or(-0.0);
    let default_tensor = import_tensor(node, "default_tensor")?;
    let missing = |name: &str| Reason::new(format!("attribute `{name}` is missing"));
    let keys = import_list(node, "keys")?.ok_or_else(|| missing("keys_*"))?;
    let values = import_list(node, "values")?.ok_or_else(|| missing("values_*"))?;
    let default = match (default_tensor, values.dtype()) {
        (Some(tensor), _) => tensor,
        (None, None) => List::string(&default_string),
        (None, Some(DataType::I64)) => List::integers(&[default_integer]),
        (None, Some(DataType::F32)) => List::floats(&[default_float]),
        (None, Some(DataType::F64)) => number(DataType::F64, &[-0.0f64]),
        (None, Some(DataType::I32)) => number(DataType::I32, &[-1i32]),
        (None, Some(DataType::I16)) => number(DataType::I16, &[-1i16]),
        (None, Some(other)) => return Err(Reason::new(format!("values of type {other} are not supported"))),
    };
    let table = Table::new(&keys, values, default, node.opset >= 4)?;
    Ok(Box::new(LabelEncoder { name: "LabelEncoder", tables: vec![table] }))
}

fn number<T: bytemuck::NoUninit>(dtype: DataType, values: &[T]) -> List {
    List::Numbers(Constant::of(TensorType::new(dtype, [values.len()]), values))
}

fn import_mapper(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let default_integer = node.attributes.int("default_int64")?.unwrap_or(-1);
    let default_string = node.attributes.string("default_string")?.unwrap_or_else(|| "_Unused".to_owned());
    let strings = node.attributes.strings("cats_strings")?.unwrap_or_default();
    let integers = node.attributes.ints("cats_int64s")?.unwrap_or_default();
    let categories = (List::Strings(strings), List::integers(&integers));
    two_way("CategoryMapper", categories, default_integer, &default_string)
}

/// Strings to integers, integers to strings.
fn two_way(
    name: &'static str,
    (strings, integers): (List, List),
    default_integer: i64,
    default_string: &str,
) -> Result<Box<dyn Operator>, Reason> {
    let tables = vec![
        Table::new(&strings, integers.clone(), List::integers(&[default_integer]), true)?,
        Table::new(&integers, strings, List::string(default_string), true)?,
    ];
    Ok(Box::new(LabelEncoder { name, tables }))
}

impl LabelEncoder {
    fn table(&self, key_type: Option<DataType>) -> Result<&Table, Reason> {
        let name = |dtype: Option<DataType>| dtype.map_or("string", DataType::name);
        self.tables.iter().find(|table| table.key_type == key_type).ok_or_else(|| {
            let keys: Vec<&str> = self.tables.iter().map(|table| name(table.key_type)).collect();
            Reason::new(format!("element type {} is not that of the keys", name(key_type)))
                .supported(keys.join(", "))
        })
    }
}

impl Operator for LabelEncoder {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let x = node.ty(0)?;
        expect_dtype(x, &[DataType::I64, DataType::I32, DataType::I16, DataType::F32, DataType::F64])?;
        match self.table(Some(x.dtype))?.values.dtype() {
            Some(dtype) => Ok(vec![TensorType::new(dtype, x.shape.clone())]),
            None => Err(Reason::at_run_time("the output of strings")),
        }
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let output = match node.value(0)? {
            Value::Tensor(x) => self.table(Some(x.ty().dtype))?.look_up(&x.ty().shape, &keys_of(x)?)?,
            Value::Strings(x) => {
                let keys: Vec<Key> = x.data().iter().cloned().map(Key::String).collect();
                self.table(None)?.look_up(x.shape(), &keys)?
            }
            other => return Err(Reason::new(format!("input 0 is {}, not a tensor", other.describe()))),
        };
        Ok(Some(vec![output]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, import, infer, run_values, tensor};

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    fn strings(values: &[&str]) -> Value {
        Strings::new([values.len()], words(values)).unwrap().into()
    }

    fn encode(version: i64, attributes: &[(&str, Attribute)], x: Value) -> Result<Value, Reason> {
        let outputs = run_values(("ai.onnx.ml::LabelEncoder", version), attributes, &[Some(x)], 1)?;
        Ok(outputs.into_iter().next().unwrap())
    }

    #[test]
    fn every_version_has_its_attributes() {
        let first =
            [("classes_strings", Attribute::Strings(words(&["a", "b"]))), ("default_int64", 9.into())];
        assert_eq!(encode(1, &first, strings(&["b", "c"])).unwrap(), i64s([2], &[1, 9]).into());
        assert_eq!(encode(1, &first, i64s([2], &[0, 5]).into()).unwrap(), strings(&["a", "_Unused"]));

        let second = [
            ("keys_floats", Attribute::Floats(vec![f32::NAN, 0.0])),
            ("values_int64s", vec![5i64, 6].into()),
        ];
        let x = f32s([3], &[-0.0, -f32::NAN, 1.0]);
        assert_eq!(encode(2, &second, x.into()).unwrap(), i64s([3], &[6, 5, -1]).into());

        let fourth = [
            ("keys_strings", Attribute::Strings(words(&["a", "a"]))),
            ("values_tensor", Attribute::Tensor(tensor(DataType::I16, [2], &[1i16, 2]))),
            ("default_tensor", Attribute::Tensor(tensor(DataType::I16, [1], &[7i16]))),
        ];
        let expected = tensor(DataType::I16, [2], &[2i16, 7]);
        assert_eq!(encode(4, &fourth, strings(&["a", "z"])).unwrap(), expected.into());
    }

    #[test]
    fn wrong_tables_are_refused() {
        let uneven = [("keys_int64s", vec![1i64].into()), ("values_int64s", vec![5i64, 6].into())];
        assert!(import(("ai.onnx.ml::LabelEncoder", 2), &uneven, 1, 1).is_err());
        let even = [("keys_int64s", vec![1i64].into()), ("values_int64s", vec![5i64].into())];
        assert!(encode(2, &even, strings(&["a"])).is_err());
        assert!(
            infer(("ai.onnx.ml::LabelEncoder", 2), &even, &[TensorType::new(DataType::F32, [1])]).is_err()
        );
    }

    #[test]
    fn categories_go_both_ways() {
        let attributes =
            [("cats_strings", Attribute::Strings(words(&["a", "b"]))), ("cats_int64s", vec![4i64, 5].into())];
        let map =
            |x: Value| run_values(("ai.onnx.ml::CategoryMapper", 1), &attributes, &[Some(x)], 1).unwrap();
        assert_eq!(map(strings(&["b", "x"])), [i64s([2], &[5, -1]).into()]);
        assert_eq!(map(i64s([2], &[4, 0]).into()), [strings(&["a", "_Unused"])]);
    }
}
