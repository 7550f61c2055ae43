//! CastMap, DictVectorizer and ZipMap: maps from and to tensors.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxml_CastMap.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxml_DictVectorizer.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html>
//! Types: maps from i64 and strings to i64, f32, f64 and strings.
//! History: version 1 of ai.onnx.ml.

use std::collections::HashMap;

use super::elements::checked_elements;
use super::ml_common::{DOMAIN, Labels};
use super::number::{of_f64s, to_f64s};
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::{ImportNode, NodeValues, Operator, Row};
use crate::tensor_type::{DataType, TensorType};
use crate::value::{Strings, Value};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "CastMap", domain: DOMAIN, since: 1, inputs: 1..=1, outputs: 1..=1, import: import_cast },
    Row {
        name: "DictVectorizer",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_vectorizer,
    },
    Row { name: "ZipMap", domain: DOMAIN, since: 1, inputs: 1..=1, outputs: 1..=1, import: import_zip },
];

/// What CastMap makes of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Float,
    Integer,
    String,
}

/// CastMap: the values of a map in the order of its keys, which are integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CastMap {
    target: Target,
    /// How many values there are, keys being their positions; `None` for as many as the map has.
    length: Option<usize>,
}

/// DictVectorizer: for each word of a vocabulary the value that a map has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DictVectorizer {
    vocabulary: Labels,
}

/// ZipMap: for each row a map from labels to its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZipMap {
    labels: Labels,
}

fn import_cast(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let target = match node.attributes.string("cast_to")?.as_deref() {
        None | Some("TO_FLOAT") => Target::Float,
        Some("TO_INT64") => Target::Integer,
        Some("TO_STRING") => Target::String,
        Some(other) => {
            return Err(Reason::new(format!("cast_to {} is not supported", quote(other)))
                .supported("TO_FLOAT, TO_INT64, TO_STRING"));
        }
    };
    let most = node.attributes.int("max_map")?.unwrap_or(1);
    let length = match node.attributes.string("map_form")?.as_deref() {
        None | Some("DENSE") => None,
        Some("SPARSE") => {
            let length = usize::try_from(most).ok().filter(|&length| length > 0);
            Some(length.ok_or_else(|| Reason::new(format!("max_map is {most}, not above zero")))?)
        }
        Some(other) => {
            return Err(
                Reason::new(format!("map_form {} is not supported", quote(other))).supported("DENSE, SPARSE")
            );
        }
    };
    Ok(Box::new(CastMap { target, length }))
}

fn import_vectorizer(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let vocabulary = Labels::import(&mut node.attributes, "int64_vocabulary", "string_vocabulary")?;
    Ok(Box::new(DictVectorizer { vocabulary }))
}

fn import_zip(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let labels = Labels::import(&mut node.attributes, "classlabels_int64s", "classlabels_strings")?;
    Ok(Box::new(ZipMap { labels }))
}

/// The keys and values of input 0, equally many.
fn map<'a>(node: &NodeValues<'a>) -> Result<(&'a Value, &'a Value), Reason> {
    let input = node.value(0)?;
    let Value::Map { keys, values } = input else {
        return Err(Reason::new(format!("input 0 is {}, not a map", input.describe())));
    };
    let length = |value: &Value| value.shape().map(|shape| shape.iter().product::<usize>());
    if length(keys).is_none() || length(keys) != length(values) {
        return Err(Reason::new(format!("input 0 is {}", input.describe())));
    }
    Ok((keys, values))
}

fn integer_keys(keys: &Value) -> Result<Vec<i64>, Reason> {
    keys.as_tensor()
        .and_then(Constant::to_i64s)
        .ok_or_else(|| Reason::new(format!("the keys are {}, not integers", keys.describe())))
}

fn lost() -> Reason {
    Reason::new("an output of another number of elements")
}

/// A row of strings.
fn strings(shape: [usize; 2], values: Vec<String>) -> Result<Value, Reason> {
    Strings::new(shape, values).map(Value::Strings).ok_or_else(lost)
}

impl Operator for CastMap {
    fn name(&self) -> &'static str {
        "CastMap"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (keys, values) = map(node)?;
        let keys = integer_keys(keys)?;
        let mut order: Vec<(i64, usize)> = keys.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let length = self.length.unwrap_or(order.len());
        let shape = [1, length];
        checked_elements(&TensorType::new(DataType::C128, shape))?;
        // For each output the position of its value.
        let mut places = vec![None; length];
        for (place, &(key, position)) in order.iter().enumerate() {
            let place = if self.length.is_some() { usize::try_from(key).ok() } else { Some(place) };
            let Some(slot) = place.and_then(|place| places.get_mut(place)) else {
                return Err(Reason::new(format!("key {key} is not below max_map {length}")));
            };
            *slot = Some(position);
        }
        let output = match (self.target, values) {
            (Target::String, values) => {
                let texts: Vec<String> = match values {
                    Value::Strings(texts) => texts.data().to_vec(),
                    Value::Tensor(numbers) => {
                        to_f64s(numbers)?.iter().map(|value| format!("{value:.6}")).collect()
                    }
                    other => return Err(Reason::new(format!("the values are {}", other.describe()))),
                };
                // What no key is for is written so by ONNX Runtime.
                let text = |place: &Option<usize>| match place {
                    Some(position) => texts.get(*position).cloned().ok_or_else(lost),
                    None => Ok("0.f".to_owned()),
                };
                strings(shape, places.iter().map(text).collect::<Result<_, _>>()?)?
            }
            (target, values) => {
                let (dtype, texts, numbers);
                match values {
                    Value::Strings(strings) => (texts, numbers) = (strings.data(), Vec::new()),
                    Value::Tensor(tensor) => (texts, numbers) = (&[][..], to_f64s(tensor)?),
                    other => return Err(Reason::new(format!("the values are {}", other.describe()))),
                }
                let mut output = Vec::with_capacity(length);
                for place in &places {
                    output.push(match *place {
                        None => 0.0,
                        Some(position) => match numbers.get(position) {
                            Some(number) => *number,
                            None => {
                                let text = texts.get(position).ok_or_else(lost)?.trim();
                                let wrong = |_| Reason::new(format!("{} is not a number", quote(text)));
                                text.parse::<f64>().map_err(wrong)?
                            }
                        },
                    });
                }
                dtype = if target == Target::Float { DataType::F32 } else { DataType::I64 };
                Value::Tensor(of_f64s(TensorType::new(dtype, shape), output)?)
            }
        };
        Ok(Some(vec![output]))
    }
}

impl Operator for DictVectorizer {
    fn name(&self) -> &'static str {
        "DictVectorizer"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (keys, values) = map(node)?;
        let places: Vec<Option<usize>> = match (&self.vocabulary, keys) {
            (Labels::Integers(words), keys @ Value::Tensor(_)) => {
                let positions: HashMap<i64, usize> = integer_keys(keys)?.into_iter().zip(0..).collect();
                words.iter().map(|word| positions.get(word).copied()).collect()
            }
            (Labels::Strings(words), Value::Strings(keys)) => {
                let positions: HashMap<&str, usize> =
                    keys.data().iter().map(String::as_str).zip(0..).collect();
                words.iter().map(|word| positions.get(word.as_str()).copied()).collect()
            }
            (_, keys) => {
                return Err(Reason::new(format!("the keys are {}, the vocabulary is not", keys.describe())));
            }
        };
        let shape = [1, places.len()];
        let output = match values {
            Value::Strings(texts) => {
                let text = |place: &Option<usize>| match place {
                    Some(position) => texts.data().get(*position).cloned().ok_or_else(lost),
                    None => Ok(String::new()),
                };
                strings(shape, places.iter().map(text).collect::<Result<_, _>>()?)?
            }
            Value::Tensor(tensor) => {
                let width = tensor.ty().dtype.size_bytes();
                let mut bytes = vec![0u8; places.len() * width];
                for (slot, place) in bytes.chunks_mut(width).zip(&places) {
                    if let Some(position) = place {
                        let value = tensor.data().get(position * width..(position + 1) * width);
                        slot.copy_from_slice(value.ok_or_else(lost)?);
                    }
                }
                let ty = TensorType::new(tensor.ty().dtype, shape);
                Value::Tensor(Constant::new(ty, bytes.into()).ok_or_else(lost)?)
            }
            other => return Err(Reason::new(format!("the values are {}", other.describe()))),
        };
        Ok(Some(vec![output]))
    }
}

impl Operator for ZipMap {
    fn name(&self) -> &'static str {
        "ZipMap"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        let (rows, columns) = match x.ty().shape[..] {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => return Err(Reason::new(format!("input 0 is {}, not of one or two dimensions", x.ty()))),
        };
        let labels = self.labels.len();
        if columns != labels || columns == 0 {
            return Err(Reason::new(format!("{labels} labels for {columns} columns")));
        }
        let keys = match &self.labels {
            Labels::Integers(labels) => Value::Tensor(Constant::of_i64(labels)),
            Labels::Strings(labels) => {
                Value::Strings(Strings::new([labels.len()], labels.clone()).ok_or_else(lost)?)
            }
        };
        let width = columns * x.ty().dtype.size_bytes();
        let mut maps = Vec::with_capacity(rows);
        for row in 0..rows {
            let values = Constant::new(
                TensorType::new(x.ty().dtype, [columns]),
                x.data().slice(row * width..(row + 1) * width),
            );
            let values = Box::new(Value::Tensor(values.ok_or_else(lost)?));
            maps.push(Value::Map { keys: Box::new(keys.clone()), values });
        }
        Ok(Some(vec![Value::Sequence(maps)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, run_values};

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    fn text(shape: &[usize], values: &[&str]) -> Value {
        Strings::new(shape, words(values)).unwrap().into()
    }

    fn pairs(keys: Value, values: Value) -> Value {
        Value::Map { keys: Box::new(keys), values: Box::new(values) }
    }

    fn run(name: &str, attributes: &[(&str, Attribute)], input: Value) -> Result<Value, Reason> {
        let name = format!("ai.onnx.ml::{name}");
        Ok(run_values((&name, 1), attributes, &[Some(input)], 1)?.swap_remove(0))
    }

    #[test]
    fn maps_become_rows_in_the_order_of_keys() {
        let input = pairs(i64s([2], &[3, 1]).into(), text(&[2], &["1.5", "-2"]));
        assert_eq!(run("CastMap", &[], input.clone()).unwrap(), f32s([1, 2], &[-2.0, 1.5]).into());
        let sparse = [("map_form", "SPARSE".into()), ("max_map", 5.into()), ("cast_to", "TO_INT64".into())];
        assert_eq!(run("CastMap", &sparse, input.clone()).unwrap(), i64s([1, 5], &[0, -2, 0, 1, 0]).into());
        let short = [("map_form", "SPARSE".into()), ("max_map", 3.into())];
        assert!(run("CastMap", &short, input).is_err());
        let words = pairs(i64s([1], &[0]).into(), text(&[1], &["x"]));
        assert!(run("CastMap", &[], words).is_err());
        assert!(run("CastMap", &[], f32s([1], &[1.0]).into()).is_err());
    }

    #[test]
    fn vocabularies_choose_values() {
        let vocabulary = [("string_vocabulary", Attribute::Strings(words(&["a", "c", "b"])))];
        let input = pairs(text(&[2], &["b", "a"]), f32s([2], &[8.0, 4.0]).into());
        let expected = f32s([1, 3], &[4.0, 0.0, 8.0]);
        assert_eq!(run("DictVectorizer", &vocabulary, input).unwrap(), expected.into());
        let wrong = pairs(i64s([1], &[1]).into(), f32s([1], &[1.0]).into());
        assert!(run("DictVectorizer", &vocabulary, wrong).is_err());
    }

    #[test]
    fn rows_become_maps() {
        let labels = [("classlabels_int64s", vec![7i64, 8].into())];
        let output = run("ZipMap", &labels, f32s([2, 2], &[1.0, 2.0, 3.0, 4.0]).into()).unwrap();
        let map = |values: &[f32]| pairs(i64s([2], &[7, 8]).into(), f32s([2], values).into());
        assert_eq!(output, Value::Sequence(vec![map(&[1.0, 2.0]), map(&[3.0, 4.0])]));
        assert!(run("ZipMap", &labels, f32s([1, 3], &[0.0; 3]).into()).is_err());
    }
}
