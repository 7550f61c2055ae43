//! ArrayFeatureExtractor, Binarizer, FeatureVectorizer, Imputer, Normalizer, OneHotEncoder and Scaler: features before
//! a model.
//!
//! Specification: <https://onnx.ai/onnx/operators/index.html#ai-onnx-ml>
//! Types: f32, f64, i64, i32; ArrayFeatureExtractor and OneHotEncoder take strings too.
//! History: version 1 of ai.onnx.ml.

use std::collections::HashMap;

use super::elements::checked_elements;
use super::ml_common::{DOMAIN, FEATURES, Labels, Rows, f32_tensor};
use super::number::{of_f64s, to_f64s};
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::{Strings, Value};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    row("ArrayFeatureExtractor", 2, |_| Ok(Box::new(ArrayFeatureExtractor))),
    row("Binarizer", 1, import_binarizer),
    row("FeatureVectorizer", usize::MAX, import_feature_vectorizer),
    row("Imputer", 1, import_imputer),
    row("Normalizer", 1, import_normalizer),
    row("OneHotEncoder", 1, import_one_hot_encoder),
    row("Scaler", 1, import_scaler),
];

const fn row(
    name: &'static str,
    inputs: usize,
    import: fn(&mut ImportNode) -> Result<Box<dyn Operator>, Reason>,
) -> Row {
    let least = if inputs == usize::MAX { 1 } else { inputs };
    Row { name, domain: DOMAIN, since: 1, inputs: least..=inputs, outputs: 1..=1, import }
}

/// ArrayFeatureExtractor: elements along the last axis, by their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayFeatureExtractor;

/// Binarizer: 1 for what is above a threshold, else 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Binarizer {
    threshold: f32,
}

/// FeatureVectorizer: rows of several tensors side by side, each cut or filled with zeros to a width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureVectorizer {
    widths: Vec<usize>,
}

/// What Imputer replaces, and by what.
#[derive(Clone, Debug, PartialEq)]
enum Imputed {
    Floats { replaced: f32, values: Vec<f32> },
    Integers { replaced: i64, values: Vec<i64> },
}

/// Imputer: another value in place of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Imputer {
    imputed: Imputed,
}

/// What rows are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// The largest element.
    Max,
    /// The sum of absolute values.
    L1,
    /// The root of the sum of squares.
    L2,
}

/// Normalizer: rows divided by a norm, unless that is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalizer {
    /// The norm.
    pub norm: Norm,
}

/// OneHotEncoder: for each element a row of zeros with a one at its category.
#[derive(Clone, Debug)]
pub struct OneHotEncoder {
    categories: Labels,
    /// Whether elements of no category become zeros; they are an error otherwise.
    zeros: bool,
}

/// Scaler: elements less an offset, times a scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    offset: Vec<f32>,
    scale: Vec<f32>,
}

fn import_binarizer(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Binarizer { threshold: node.attributes.float("threshold")?.unwrap_or(0.0) }))
}

fn import_feature_vectorizer(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let widths = node.attributes.ints("inputdimensions")?.unwrap_or_default();
    if widths.len() != node.inputs.len() {
        let (inputs, widths) = (node.inputs.len(), widths.len());
        return Err(Reason::new(format!("inputdimensions has {widths} elements for {inputs} inputs")));
    }
    let widths: Result<Vec<usize>, _> = widths.iter().map(|&width| usize::try_from(width)).collect();
    let widths = widths.map_err(|_| Reason::new("inputdimensions has negative elements"))?;
    Ok(Box::new(FeatureVectorizer { widths }))
}

fn import_imputer(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    let floats = attributes.floats("imputed_value_floats")?.unwrap_or_default();
    let integers = attributes.ints("imputed_value_int64s")?.unwrap_or_default();
    let replaced_float = attributes.float("replaced_value_float")?.unwrap_or(0.0);
    let replaced_integer = attributes.int("replaced_value_int64")?.unwrap_or(0);
    let imputed = match (floats.is_empty(), integers.is_empty()) {
        (false, true) => Imputed::Floats { replaced: replaced_float, values: floats },
        (true, false) => Imputed::Integers { replaced: replaced_integer, values: integers },
        _ => return Err(Reason::new("one of imputed_value_floats and imputed_value_int64s must be there")),
    };
    Ok(Box::new(Imputer { imputed }))
}

fn import_normalizer(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let norm = match node.attributes.string("norm")?.as_deref() {
        None | Some("MAX") => Norm::Max,
        Some("L1") => Norm::L1,
        Some("L2") => Norm::L2,
        Some(other) => {
            return Err(
                Reason::new(format!("norm {} is not supported", quote(other))).supported("MAX, L1, L2")
            );
        }
    };
    Ok(Box::new(Normalizer { norm }))
}

fn import_one_hot_encoder(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let categories = Labels::import(&mut node.attributes, "cats_int64s", "cats_strings")?;
    if categories.len() == 0 {
        return Err(Reason::new("there are no categories"));
    }
    let zeros = node.attributes.int("zeros")?.unwrap_or(1) != 0;
    Ok(Box::new(OneHotEncoder { categories, zeros }))
}

fn import_scaler(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Scaler {
        offset: node.attributes.floats("offset")?.unwrap_or_default(),
        scale: node.attributes.floats("scale")?.unwrap_or_default(),
    }))
}

impl ArrayFeatureExtractor {
    fn shape(self, x: &[usize], indices: usize) -> Result<Vec<usize>, Reason> {
        match x.split_last() {
            None => Err(Reason::new("input 0 has no dimensions")),
            Some((_, [])) => Ok(vec![1, indices]),
            Some((_, outer)) => Ok([outer, &[indices]].concat()),
        }
    }
}

/// The bytes, or whatever else the elements are, of `x` at `indices` of every row; `length` to an element.
fn extract<T: Clone>(x: &[T], row: usize, length: usize, indices: &[usize]) -> Vec<T> {
    let mut output = Vec::new();
    for row in x.chunks((row * length).max(1)) {
        for index in indices {
            output.extend_from_slice(row.get(index * length..(index + 1) * length).unwrap_or_default());
        }
    }
    output
}

impl Operator for ArrayFeatureExtractor {
    fn name(&self) -> &'static str {
        "ArrayFeatureExtractor"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (x, y) = (node.ty(0)?, node.ty(1)?);
        expect_dtype(x, &FEATURES)?;
        expect_dtype(y, &[DataType::I64])?;
        Ok(vec![TensorType::new(x.dtype, self.shape(&x.shape, y.elements())?)])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.value(0)?;
        let x_shape = x.shape().ok_or_else(|| Reason::new(format!("input 0 is {}", x.describe())))?;
        let row = x_shape.last().copied().unwrap_or(0);
        let indices = node.i64s(1)?;
        let outside = |index: i64| Reason::new(format!("index {index} is outside of {row} elements"));
        let indices = indices
            .iter()
            .map(|&index| usize::try_from(index).ok().filter(|&i| i < row).ok_or_else(|| outside(index)))
            .collect::<Result<Vec<usize>, _>>()?;
        let shape = self.shape(x_shape, indices.len())?;
        checked_elements(&TensorType::new(DataType::C128, shape.clone()))?;
        let output = match x {
            Value::Tensor(x) => {
                let bytes = extract(x.data(), row, x.ty().dtype.size_bytes(), &indices);
                Constant::new(TensorType::new(x.ty().dtype, shape), bytes.into()).map(Value::Tensor)
            }
            Value::Strings(x) => Strings::new(shape, extract(x.data(), row, 1, &indices)).map(Value::Strings),
            _ => None,
        };
        Ok(Some(vec![output.ok_or_else(|| Reason::new("an output of another number of elements"))?]))
    }
}

/// The output's type where it is the input's.
fn same_type(node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
    let ty = node.ty(0)?;
    expect_dtype(ty, &FEATURES)?;
    Ok(vec![ty.clone()])
}

/// The output's type where it is f32 in the input's shape.
fn float_type(node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
    let ty = node.ty(0)?;
    expect_dtype(ty, &FEATURES)?;
    Ok(vec![TensorType::new(DataType::F32, ty.shape.clone())])
}

impl Operator for Binarizer {
    fn name(&self) -> &'static str {
        "Binarizer"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        same_type(node)
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        expect_dtype(x.ty(), &FEATURES)?;
        let mut values = to_f64s(x)?;
        for value in &mut values {
            *value = if *value > self.threshold.into() { 1.0 } else { 0.0 };
        }
        Ok(Some(vec![Value::Tensor(of_f64s(x.ty().clone(), values)?)]))
    }
}

impl FeatureVectorizer {
    fn shape(&self, rows: &[usize]) -> Result<Vec<usize>, Reason> {
        let first = rows.first().copied().unwrap_or(1);
        if rows.iter().any(|&count| count != first) {
            return Err(Reason::new(format!("inputs of {rows:?} rows")));
        }
        let width = self.widths.iter().try_fold(0usize, |sum, &width| sum.checked_add(width));
        let width = width.ok_or_else(|| Reason::new("inputdimensions has too large elements"))?;
        checked_elements(&TensorType::new(DataType::F32, [first, width]))?;
        Ok(vec![first, width])
    }
}

impl Operator for FeatureVectorizer {
    fn name(&self) -> &'static str {
        "FeatureVectorizer"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let mut rows = Vec::with_capacity(node.inputs.len());
        for index in 0..node.inputs.len() {
            rows.push(super::ml_common::row_shape(node.ty(index)?)?.0);
        }
        Ok(vec![TensorType::new(DataType::F32, self.shape(&rows)?)])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let inputs = (0..node.inputs.len()).map(|index| Rows::new(node.tensor(index)?));
        let inputs = inputs.collect::<Result<Vec<Rows>, Reason>>()?;
        let shape = self.shape(&inputs.iter().map(|input| input.rows).collect::<Vec<_>>())?;
        let width = shape.last().copied().unwrap_or(0);
        let mut values = vec![0.0; shape.iter().product()];
        let mut start = 0;
        for (input, &own) in inputs.iter().zip(&self.widths) {
            for (row, output) in input.iter().zip(values.chunks_mut(width.max(1))) {
                for (value, slot) in row.iter().take(own).zip(output.iter_mut().skip(start)) {
                    *slot = *value;
                }
            }
            start += own;
        }
        Ok(Some(vec![f32_tensor(&shape, &values)?]))
    }
}

impl Operator for Imputer {
    fn name(&self) -> &'static str {
        "Imputer"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        same_type(node)
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        expect_dtype(x.ty(), &FEATURES)?;
        let columns = x.ty().shape.last().copied().unwrap_or(1);
        let given = match &self.imputed {
            Imputed::Floats { values, .. } => values.len(),
            Imputed::Integers { values, .. } => values.len(),
        };
        if given != 1 && given != columns {
            return Err(Reason::new(format!("{given} imputed values for {columns} features")));
        }
        let integers = matches!(x.ty().dtype, DataType::I64 | DataType::I32);
        let output = match &self.imputed {
            Imputed::Floats { replaced, values } if !integers => {
                let mut elements = to_f64s(x)?;
                for (element, &value) in elements.iter_mut().zip(values.iter().cycle()) {
                    let both_missing = element.is_nan() && replaced.is_nan();
                    if *element == f64::from(*replaced) || both_missing {
                        *element = value.into();
                    }
                }
                of_f64s(x.ty().clone(), elements)?
            }
            Imputed::Integers { replaced, values } if integers => {
                let mut elements = x.to_i64s().unwrap_or_default();
                for (element, &value) in elements.iter_mut().zip(values.iter().cycle()) {
                    if element == replaced {
                        *element = value;
                    }
                }
                let constant = if x.ty().dtype == DataType::I64 {
                    Constant::checked(x.ty().clone(), &elements)
                } else {
                    let narrow: Vec<i32> = elements.iter().map(|&element| element as i32).collect();
                    Constant::checked(x.ty().clone(), &narrow)
                };
                constant.ok_or_else(|| Reason::new("an output of another number of elements"))?
            }
            _ => return Err(Reason::new(format!("input 0 is {}, the imputed values are not", x.ty()))),
        };
        Ok(Some(vec![Value::Tensor(output)]))
    }
}

impl Operator for Normalizer {
    fn name(&self) -> &'static str {
        "Normalizer"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        float_type(node)
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        let mut rows = Rows::new(x)?;
        for row in rows.values.chunks_mut(rows.columns.max(1)) {
            let norm = match self.norm {
                Norm::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                Norm::L1 => row.iter().map(|value| value.abs()).sum(),
                Norm::L2 => libm::sqrt(row.iter().map(|value| value * value).sum()),
            };
            if norm != 0.0 {
                row.iter_mut().for_each(|value| *value /= norm);
            }
        }
        Ok(Some(vec![f32_tensor(&x.ty().shape, &rows.values)?]))
    }
}

impl OneHotEncoder {
    fn shape(&self, x: &[usize]) -> Result<Vec<usize>, Reason> {
        let shape = [x, &[self.categories.len()]].concat();
        checked_elements(&TensorType::new(DataType::F32, shape.clone()))?;
        Ok(shape)
    }
}

impl Operator for OneHotEncoder {
    fn name(&self) -> &'static str {
        "OneHotEncoder"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let x = node.ty(0)?;
        expect_dtype(x, &FEATURES)?;
        if matches!(self.categories, Labels::Strings(_)) {
            return Err(Reason::new(format!("input 0 is {x}, the categories are strings")));
        }
        Ok(vec![TensorType::new(DataType::F32, self.shape(&x.shape)?)])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.value(0)?;
        // Of equal categories the last one counts.
        let found: Vec<Option<usize>> = match (&self.categories, x) {
            (Labels::Integers(categories), Value::Tensor(x)) => {
                expect_dtype(x.ty(), &FEATURES)?;
                let positions: HashMap<i64, usize> = categories.iter().copied().zip(0..).collect();
                let values = match x.to_i64s() {
                    Some(values) => values,
                    None => to_f64s(x)?.iter().map(|&value| value as i64).collect(),
                };
                values.iter().map(|value| positions.get(value).copied()).collect()
            }
            (Labels::Strings(categories), Value::Strings(x)) => {
                let positions: HashMap<&str, usize> =
                    categories.iter().map(String::as_str).zip(0..).collect();
                x.data().iter().map(|value| positions.get(value.as_str()).copied()).collect()
            }
            (_, other) => {
                return Err(Reason::new(format!("input 0 is {}, the categories are not", other.describe())));
            }
        };
        let shape = self.shape(x.shape().unwrap_or_default())?;
        let mut values = vec![0f32; shape.iter().product()];
        for (row, position) in values.chunks_mut(self.categories.len()).zip(found) {
            match position.and_then(|position| row.get_mut(position)) {
                Some(slot) => *slot = 1.0,
                None if self.zeros => {}
                None => return Err(Reason::new("an element is of no category")),
            }
        }
        let output = Constant::checked(TensorType::new(DataType::F32, shape), &values);
        let wrong = || Reason::new("an output of another number of elements");
        Ok(Some(vec![Value::Tensor(output.ok_or_else(wrong)?)]))
    }
}

impl Operator for Scaler {
    fn name(&self) -> &'static str {
        "Scaler"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        float_type(node)
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        expect_dtype(x.ty(), &FEATURES)?;
        // Features lie along axis 1.
        let features = match x.ty().shape[..] {
            [] => 1,
            [features] | [_, features, ..] => features,
        };
        for (name, given) in [("offset", &self.offset), ("scale", &self.scale)] {
            if given.len() > 1 && given.len() != features {
                return Err(Reason::new(format!(
                    "{name} has {} elements for {features} features",
                    given.len()
                )));
            }
        }
        let at = |given: &[f32], index: usize, default: f32| match given {
            [] => f64::from(default),
            [one] => f64::from(*one),
            several => f64::from(several[index % several.len()]),
        };
        let mut values = to_f64s(x)?;
        for (index, value) in values.iter_mut().enumerate() {
            *value = (*value - at(&self.offset, index, 0.0)) * at(&self.scale, index, 1.0);
        }
        Ok(Some(vec![f32_tensor(&x.ty().shape, &values)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, import, infer, run, run_values, tensor};

    fn floats(values: &[f32]) -> Attribute {
        Attribute::Floats(values.to_vec())
    }

    #[test]
    fn features_are_extracted_along_the_last_axis() {
        let op = ("ai.onnx.ml::ArrayFeatureExtractor", 1);
        let x = i64s([2, 3], &[1, 2, 3, 4, 5, 6]);
        check(op, &[], &[x.clone(), i64s([2], &[2, 0])], &i64s([2, 2], &[3, 1, 6, 4]));
        check(op, &[], &[i64s([2], &[7, 8]), i64s([1, 1], &[1])], &i64s([1, 1], &[8]));
        assert!(run(op, &[], &[&x, &i64s([1], &[3])]).is_err());
        assert!(run(op, &[], &[&x, &i64s([1], &[-1])]).is_err());
        assert!(run(op, &[], &[&i64s([], &[1]), &i64s([1], &[0])]).is_err());
    }

    #[test]
    fn elements_are_mapped() {
        let x = tensor(DataType::F64, [1, 3], &[-1.0f64, 0.5, 2.0]);
        let ones = tensor(DataType::F64, [1, 3], &[0.0f64, 0.0, 1.0]);
        check(("ai.onnx.ml::Binarizer", 1), &[("threshold", 0.5.into())], &[&x], &ones);
        let scaled = [("offset", floats(&[1.0, 0.5, 0.0])), ("scale", floats(&[2.0]))];
        check(("ai.onnx.ml::Scaler", 1), &scaled, &[&x], &f32s([1, 3], &[-4.0, 0.0, 4.0]));
        let wrong = [("offset", floats(&[1.0, 0.5]))];
        assert!(run(("ai.onnx.ml::Scaler", 1), &wrong, &[&x]).is_err());
        let l1 = f32s([1, 3], &[-1.0 / 3.5, 0.5 / 3.5, 2.0 / 3.5]);
        check(("ai.onnx.ml::Normalizer", 1), &[("norm", "L1".into())], &[&x], &l1);
        let zeros = f32s([2], &[0.0, 0.0]);
        check(("ai.onnx.ml::Normalizer", 1), &[("norm", "L2".into())], &[&zeros], &zeros);
        assert!(infer(("ai.onnx.ml::Normalizer", 1), &[], &[TensorType::new(DataType::F16, [2])]).is_err());
    }

    #[test]
    fn missing_values_are_imputed() {
        let attributes =
            [("imputed_value_floats", floats(&[7.0, 8.0])), ("replaced_value_float", f32::NAN.into())];
        let x = f32s([2, 2], &[f32::NAN, 1.0, 2.0, f32::NAN]);
        let op = ("ai.onnx.ml::Imputer", 1);
        check(op, &attributes, &[&x], &f32s([2, 2], &[7.0, 1.0, 2.0, 8.0]));
        let integers = [("imputed_value_int64s", vec![5i64].into())];
        let x = tensor(DataType::I32, [3], &[0i32, 1, 0]);
        check(op, &integers, &[&x], &tensor(DataType::I32, [3], &[5i32, 1, 5]));
        assert!(run(op, &attributes, &[&x]).is_err());
        assert!(import(op, &[], 1, 1).is_err());
    }

    #[test]
    fn features_are_put_together() {
        let op = ("ai.onnx.ml::FeatureVectorizer", 1);
        let attributes = [("inputdimensions", vec![1i64, 2].into())];
        let inputs = [i64s([2, 2], &[1, 2, 3, 4]), i64s([2, 1], &[5, 6])];
        check(op, &attributes, &inputs, &f32s([2, 3], &[1.0, 5.0, 0.0, 3.0, 6.0, 0.0]));
        assert!(run(op, &attributes, &[i64s([2, 1], &[1, 2]), i64s([1, 1], &[1])]).is_err());
        assert!(import(op, &attributes, 1, 1).is_err());
    }

    #[test]
    fn categories_are_one_hot() {
        let op = ("ai.onnx.ml::OneHotEncoder", 1);
        let mut attributes = vec![("cats_int64s", vec![3i64, -1].into())];
        let x = f32s([3], &[-1.5, 3.0, 9.0]);
        check(op, &attributes, &[&x], &f32s([3, 2], &[0.0, 1.0, 1.0, 0.0, 0.0, 0.0]));
        attributes.push(("zeros", 0.into()));
        assert!(run(op, &attributes, &[&x]).is_err());
        let strings = Strings::new([1], vec!["a".to_owned()]).unwrap();
        assert!(run_values(op, &attributes, &[Some(strings.into())], 1).is_err());
    }
}
