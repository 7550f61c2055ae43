//! What the operators of ai.onnx.ml share: rows of features, class labels, transformations of scores.
//!
//! Where the specification is silent (one score for two classes, a transformation of a single score), results are
//! those of ONNX Runtime, which the models of this domain are made for.

use super::number::{of_f64s, to_f64s};
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::{Attributes, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::{Strings, Value};

/// The domain of these operators.
pub(super) const DOMAIN: &str = "ai.onnx.ml";

/// The element types of features.
pub(super) const FEATURES: [DataType; 4] = [DataType::F32, DataType::F64, DataType::I64, DataType::I32];

/// Rows and columns of a tensor of features, one of one dimension being a row.
pub(super) fn row_shape(ty: &TensorType) -> Result<(usize, usize), Reason> {
    expect_dtype(ty, &FEATURES)?;
    match ty.shape[..] {
        [columns] => Ok((1, columns)),
        [rows, columns] => Ok((rows, columns)),
        _ => Err(Reason::new(format!("input 0 is {ty}, not of one or two dimensions"))),
    }
}

/// Features, row by row.
pub(super) struct Rows {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Rows {
    pub fn new(tensor: &Constant) -> Result<Self, Reason> {
        let (rows, columns) = row_shape(tensor.ty())?;
        Ok(Rows { rows, columns, values: to_f64s(tensor)? })
    }

    /// Each row; of no columns, empty ones.
    pub fn iter(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.rows).map(|row| self.values.get(row * self.columns..(row + 1) * self.columns).unwrap_or(&[]))
    }
}

/// A tensor of f32, rounded.
pub(super) fn f32_tensor(shape: &[usize], values: &[f64]) -> Result<Value, Reason> {
    Ok(Value::Tensor(of_f64s(TensorType::new(DataType::F32, shape), values.iter().copied())?))
}

/// What becomes of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostTransform {
    /// Nothing.
    None,
    /// Softmax.
    Softmax,
    /// The logistic function.
    Logistic,
    /// Softmax of those that are not zero.
    SoftmaxZero,
    /// The inverse of the normal distribution.
    Probit,
}

impl PostTransform {
    /// Attribute `post_transform` as a name.
    pub fn named(attributes: &mut Attributes) -> Result<Self, Reason> {
        match attributes.string("post_transform")?.as_deref() {
            None | Some("NONE") => Ok(PostTransform::None),
            Some("SOFTMAX") => Ok(PostTransform::Softmax),
            Some("LOGISTIC") => Ok(PostTransform::Logistic),
            Some("SOFTMAX_ZERO") => Ok(PostTransform::SoftmaxZero),
            Some("PROBIT") => Ok(PostTransform::Probit),
            Some(other) => Err(Reason::new(format!("post_transform {} is not supported", quote(other)))
                .supported("NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO, PROBIT")),
        }
    }

    /// Attribute `post_transform` as a number.
    pub fn numbered(attributes: &mut Attributes) -> Result<Self, Reason> {
        match attributes.int("post_transform")? {
            None | Some(0) => Ok(PostTransform::None),
            Some(1) => Ok(PostTransform::Softmax),
            Some(2) => Ok(PostTransform::Logistic),
            Some(3) => Ok(PostTransform::SoftmaxZero),
            Some(4) => Ok(PostTransform::Probit),
            Some(other) => {
                Err(Reason::new(format!("post_transform {other} is not supported")).supported("0 to 4"))
            }
        }
    }

    /// Transforms the scores of one row, of which there are several; a single one keeps its value but for Probit.
    pub fn apply(self, scores: &mut [f64]) {
        if scores.len() == 1 && self != PostTransform::Probit {
            return;
        }
        match self {
            PostTransform::None => {}
            PostTransform::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            PostTransform::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            PostTransform::Softmax => softmax(scores, |_| true),
            PostTransform::SoftmaxZero => softmax(scores, |score| score.abs() > 1e-7),
        }
    }

    /// The scores of two classes, given that of the second; where they are `signed` one is the other's negative, else
    /// both sum to one.
    pub fn of_two(self, score: f64, signed: bool) -> [f64; 2] {
        match self {
            PostTransform::Logistic => [logistic(-score), logistic(score)],
            PostTransform::Probit => [1.0 - probit(score), probit(score)],
            _ if signed => [-score, score],
            _ => [1.0 - score, score],
        }
    }
}

fn logistic(value: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-value))
}

/// By the approximation of the inverse error function that ONNX Runtime and the specification's reference use
/// (Winitzki, with 0.147).
fn probit(value: f64) -> f64 {
    const A: f64 = 0.147;
    let x = 2.0 * value - 1.0;
    let log = libm::log((1.0 - x) * (1.0 + x));
    let v = 2.0 / (std::f64::consts::PI * A) + 0.5 * log;
    let root = libm::sqrt(libm::sqrt(v * v - log / A) - v);
    std::f64::consts::SQRT_2 * if x < 0.0 { -root } else { root }
}

/// Softmax of the scores that are `counted`; others become what is next to nothing, zero included.
fn softmax(scores: &mut [f64], counted: impl Fn(f64) -> bool) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if counted(*score) {
            *score = libm::exp(*score - largest);
            sum += *score;
        } else {
            *score *= libm::exp(-largest);
        }
    }
    // Where nothing is counted all are zero or next to it, and stay so.
    if sum != 0.0 {
        scores.iter_mut().for_each(|score| *score /= sum);
    }
}

/// The names of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Integers.
    Integers(Vec<i64>),
    /// Strings.
    Strings(Vec<String>),
}

/// A class that is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The label at this position.
    At(usize),
    /// 1 or 0, where there are no labels for two classes.
    Binary(bool),
}

impl Labels {
    /// The attributes `integers` and `strings`, of which one may be there.
    pub fn import(attributes: &mut Attributes, integers: &str, strings: &str) -> Result<Self, Reason> {
        let (numbers, names) = (attributes.ints(integers)?, attributes.strings(strings)?);
        match (numbers.unwrap_or_default(), names.unwrap_or_default()) {
            (numbers, names) if names.is_empty() => Ok(Labels::Integers(numbers)),
            (numbers, names) if numbers.is_empty() => Ok(Labels::Strings(names)),
            _ => Err(Reason::new(format!("both {integers} and {strings} are there"))),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Labels::Integers(labels) => labels.len(),
            Labels::Strings(labels) => labels.len(),
        }
    }

    /// The type of a tensor of labels; known at run time alone where they are strings.
    pub fn ty(&self, shape: &[usize]) -> Result<TensorType, Reason> {
        match self {
            Labels::Integers(_) => Ok(TensorType::new(DataType::I64, shape)),
            Labels::Strings(_) => Err(Reason::at_run_time("the output of strings")),
        }
    }

    /// The labels of classes, in a row.
    pub fn select(&self, classes: &[Class]) -> Result<Value, Reason> {
        let missing = || Reason::new(format!("a class beyond the {} labels", self.len()));
        match self {
            Labels::Integers(labels) => {
                let label = |class: &Class| match *class {
                    Class::At(index) => labels.get(index).copied().ok_or_else(missing),
                    Class::Binary(positive) => Ok(positive.into()),
                };
                let labels = classes.iter().map(label).collect::<Result<Vec<i64>, _>>()?;
                Ok(Value::Tensor(Constant::of_i64(&labels)))
            }
            Labels::Strings(labels) => {
                let label = |class: &Class| match *class {
                    Class::At(index) => labels.get(index).cloned().ok_or_else(missing),
                    Class::Binary(positive) => Ok(if positive { "1" } else { "0" }.to_owned()),
                };
                let labels = classes.iter().map(label).collect::<Result<Vec<String>, _>>()?;
                let strings = Strings::new([labels.len()], labels);
                strings.map(Value::Strings).ok_or_else(|| Reason::new("labels of another number"))
            }
        }
    }
}

/// The position of the largest score, the first of equal ones.
pub(super) fn largest(scores: &[f64]) -> usize {
    let mut best = 0;
    for (index, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transformations_are_those_of_the_specification() {
        let apply = |transform: PostTransform, scores: &[f64]| {
            let mut scores = scores.to_vec();
            transform.apply(&mut scores);
            scores
        };
        let sum: f64 = apply(PostTransform::Softmax, &[1e3, 1e3 + 1.0, -1e3]).iter().sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(apply(PostTransform::SoftmaxZero, &[0.0, 3.0, 3.0]), [0.0, 0.5, 0.5]);
        assert_eq!(apply(PostTransform::SoftmaxZero, &[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(apply(PostTransform::Logistic, &[0.0, f64::NEG_INFINITY]), [0.5, 0.0]);
        // The quantile of 97.5 %.
        assert!((apply(PostTransform::Probit, &[0.975])[0] - 1.96).abs() < 0.01);
        assert_eq!(PostTransform::Logistic.of_two(0.0, false), [0.5, 0.5]);
    }
}
