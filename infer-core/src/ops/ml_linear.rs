//! LinearClassifier and LinearRegressor: a weighted sum of the features for each class or target.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxml_LinearClassifier.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxml_LinearRegressor.html>
//! Types: f32, f64, i64, i32; scores are f32, labels i64 or strings.
//! History: version 1 of ai.onnx.ml.

use super::elements::checked_elements;
use super::ml_common::{Class, DOMAIN, Labels, PostTransform, Rows, f32_tensor, largest, row_shape};
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "LinearClassifier",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=2,
        import: import_classifier,
    },
    Row {
        name: "LinearRegressor",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_regressor,
    },
];

/// Weights of features, target by target.
#[derive(Clone, Debug, PartialEq)]
struct Linear {
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    /// How many targets there are, where it is said.
    targets: Option<usize>,
    transform: PostTransform,
}

/// LinearClassifier.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearClassifier {
    linear: Linear,
    labels: Labels,
}

/// LinearRegressor.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearRegressor {
    linear: Linear,
}

fn import_linear(node: &mut ImportNode, targets: Option<usize>) -> Result<Linear, Reason> {
    let coefficients = node.attributes.floats("coefficients")?.unwrap_or_default();
    if coefficients.is_empty() {
        return Err(Reason::new("attribute `coefficients` is missing"));
    }
    let intercepts = node.attributes.floats("intercepts")?.unwrap_or_default();
    let targets = targets.or(Some(intercepts.len()).filter(|&count| count > 0));
    let intercepts = if targets == Some(intercepts.len()) { intercepts } else { Vec::new() };
    Ok(Linear { coefficients, intercepts, targets, transform: PostTransform::named(&mut node.attributes)? })
}

fn import_classifier(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    // One against the rest or multinomial: the scores are the same.
    node.attributes.ignore("multi_class");
    let labels = Labels::import(&mut node.attributes, "classlabels_ints", "classlabels_strings")?;
    Ok(Box::new(LinearClassifier { linear: import_linear(node, None)?, labels }))
}

fn import_regressor(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let targets = node.attributes.int("targets")?.unwrap_or(1);
    let targets = usize::try_from(targets).ok().filter(|&count| count > 0);
    let targets = targets.ok_or_else(|| Reason::new("targets is not above zero"))?;
    Ok(Box::new(LinearRegressor { linear: import_linear(node, Some(targets))? }))
}

impl Linear {
    /// How many targets `columns` features have.
    fn targets(&self, columns: usize) -> Result<usize, Reason> {
        let count = self.coefficients.len();
        let targets = match self.targets {
            Some(targets) => targets,
            None => count / columns.max(1),
        };
        if targets == 0 || targets.checked_mul(columns) != Some(count) {
            return Err(Reason::new(format!("{count} coefficients for {columns} features")));
        }
        Ok(targets)
    }

    fn scores(&self, row: &[f64], scores: &mut [f64]) {
        let weights = self.coefficients.chunks(row.len().max(1));
        for (target, (score, weights)) in scores.iter_mut().zip(weights).enumerate() {
            let sum: f64 = row.iter().zip(weights).map(|(x, &weight)| x * f64::from(weight)).sum();
            *score = sum + f64::from(self.intercepts.get(target).copied().unwrap_or(0.0));
        }
    }
}

impl LinearClassifier {
    /// How many scores are given, and how many of them are computed.
    fn scores(&self, columns: usize) -> Result<(usize, usize), Reason> {
        let targets = self.linear.targets(columns)?;
        let labels = self.labels.len();
        if targets == 1 {
            return Ok((if labels == 2 { 2 } else { 1 }, 1));
        }
        if labels != targets {
            return Err(Reason::new(format!("{labels} labels for {targets} classes")));
        }
        Ok((targets, targets))
    }
}

impl Operator for LinearClassifier {
    fn name(&self) -> &'static str {
        "LinearClassifier"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (rows, columns) = row_shape(node.ty(0)?)?;
        let scores = self.scores(columns)?.0;
        Ok(vec![self.labels.ty(&[rows])?, TensorType::new(DataType::F32, [rows, scores])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = Rows::new(node.tensor(0)?)?;
        let (given, computed) = self.scores(x.columns)?;
        let size = checked_elements(&TensorType::new(DataType::F32, [x.rows, given]))?;
        let mut scores = Vec::with_capacity(size);
        let mut classes = Vec::with_capacity(x.rows);
        let mut row_scores = vec![0.0; computed];
        for row in x.iter() {
            self.linear.scores(row, &mut row_scores);
            match (row_scores.as_slice(), given) {
                (&[score], 2) => {
                    classes.push(Class::At(usize::from(score > 0.0)));
                    scores.extend(self.linear.transform.of_two(score, false));
                    continue;
                }
                (&[score], _) => classes.push(Class::Binary(score > 0.0)),
                (several, _) => classes.push(Class::At(largest(several))),
            }
            self.linear.transform.apply(&mut row_scores);
            scores.extend_from_slice(&row_scores);
        }
        Ok(Some(vec![self.labels.select(&classes)?, f32_tensor(&[x.rows, given], &scores)?]))
    }
}

impl Operator for LinearRegressor {
    fn name(&self) -> &'static str {
        "LinearRegressor"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (rows, columns) = row_shape(node.ty(0)?)?;
        Ok(vec![TensorType::new(DataType::F32, [rows, self.linear.targets(columns)?])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = Rows::new(node.tensor(0)?)?;
        let targets = self.linear.targets(x.columns)?;
        let mut scores = vec![0.0; checked_elements(&TensorType::new(DataType::F32, [x.rows, targets]))?];
        for (row, scores) in x.iter().zip(scores.chunks_mut(targets)) {
            self.linear.scores(row, scores);
            self.linear.transform.apply(scores);
        }
        Ok(Some(vec![f32_tensor(&[x.rows, targets], &scores)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, infer, run, run_values};

    #[test]
    fn classes_are_those_of_the_largest_score() {
        let attributes = [
            ("coefficients", Attribute::Floats(vec![1.0, 0.0, 0.0, 1.0, -1.0, -1.0])),
            ("intercepts", Attribute::Floats(vec![0.0, 0.5, 0.0])),
            ("classlabels_ints", vec![7i64, 8, 9].into()),
        ];
        let x = f32s([2, 2], &[1.0, 0.0, -1.0, -2.0]);
        let outputs = run_values(("ai.onnx.ml::LinearClassifier", 1), &attributes, &[Some(x.into())], 2);
        let scores = f32s([2, 3], &[1.0, 0.5, -1.0, -1.0, -1.5, 3.0]);
        assert_eq!(outputs.unwrap(), [i64s([2], &[7, 9]).into(), scores.into()]);
        let three = TensorType::new(DataType::F32, [2, 3]);
        assert!(infer(("ai.onnx.ml::LinearClassifier", 1), &attributes, &[three]).is_err());
    }

    #[test]
    fn one_score_serves_two_classes() {
        let attributes = [
            ("coefficients", Attribute::Floats(vec![1.0, 1.0])),
            ("intercepts", Attribute::Floats(vec![0.25])),
            ("classlabels_ints", vec![7i64, 8].into()),
        ];
        let x = f32s([2], &[0.25, 0.25]);
        let outputs = run_values(("ai.onnx.ml::LinearClassifier", 1), &attributes, &[Some(x.into())], 2);
        assert_eq!(outputs.unwrap(), [i64s([1], &[8]).into(), f32s([1, 2], &[0.25, 0.75]).into()]);
    }

    #[test]
    fn targets_are_weighted_sums() {
        let attributes =
            [("coefficients", Attribute::Floats(vec![1.0, 2.0, 3.0, 4.0])), ("targets", 2.into())];
        let y = run(("ai.onnx.ml::LinearRegressor", 1), &attributes, &[i64s([1, 2], &[1, 10])]).unwrap();
        assert_eq!(y, f32s([1, 2], &[21.0, 43.0]));
    }
}
