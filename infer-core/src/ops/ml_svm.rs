//! SVMClassifier and SVMRegressor: support vector machines.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxml_SVMClassifier.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxml_SVMRegressor.html>
//! Types: f32, f64, i64, i32; scores are f32, labels i64 or strings.
//! History: version 1 of ai.onnx.ml.

use super::elements::checked_elements;
use super::ml_common::{Class, DOMAIN, Labels, PostTransform, Rows, f32_tensor, largest, row_shape};
use crate::diagnostic::{Reason, quote};
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "SVMClassifier",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=2,
        import: import_classifier,
    },
    Row {
        name: "SVMRegressor",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_regressor,
    },
];

/// How alike two rows of features are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    Linear,
    Polynomial { gamma: f64, offset: f64, degree: f64 },
    RadialBasis { gamma: f64 },
    Sigmoid { gamma: f64, offset: f64 },
}

/// SVMClassifier.
#[derive(Clone, Debug, PartialEq)]
pub struct SvmClassifier {
    labels: Labels,
    kernel: Kernel,
    coefficients: Vec<f32>,
    support_vectors: Vec<f32>,
    /// How many support vectors each class has; empty where there are none and coefficients are of features.
    vectors_per_class: Vec<usize>,
    rho: Vec<f32>,
    prob_a: Vec<f32>,
    prob_b: Vec<f32>,
    transform: PostTransform,
}

/// SVMRegressor.
#[derive(Clone, Debug, PartialEq)]
pub struct SvmRegressor {
    kernel: Kernel,
    coefficients: Vec<f32>,
    support_vectors: Vec<f32>,
    /// How many support vectors there are; none where coefficients are of features.
    supports: usize,
    rho: f32,
    is_one_class: bool,
    transform: PostTransform,
}

fn import_kernel(node: &mut ImportNode, has_vectors: bool) -> Result<Kernel, Reason> {
    let name = node.attributes.string("kernel_type")?.unwrap_or_else(|| "LINEAR".to_owned());
    let parameters = node.attributes.floats("kernel_params")?.unwrap_or_default();
    let parameter = |index: usize| f64::from(parameters.get(index).copied().unwrap_or(0.0));
    let (gamma, offset, degree) = (parameter(0), parameter(1), parameter(2));
    match name.as_str() {
        // Coefficients of features are weights.
        _ if !has_vectors => Ok(Kernel::Linear),
        "LINEAR" => Ok(Kernel::Linear),
        "POLY" => Ok(Kernel::Polynomial { gamma, offset, degree }),
        "RBF" => Ok(Kernel::RadialBasis { gamma }),
        "SIGMOID" => Ok(Kernel::Sigmoid { gamma, offset }),
        other => Err(Reason::new(format!("kernel_type {} is not supported", quote(other)))
            .supported("LINEAR, POLY, RBF, SIGMOID")),
    }
}

fn import_classifier(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    let labels = Labels::import(attributes, "classlabels_ints", "classlabels_strings")?;
    let mut floats = |name| Ok(attributes.floats(name)?.unwrap_or_default());
    let (coefficients, support_vectors) = (floats("coefficients")?, floats("support_vectors")?);
    let (rho, prob_a, prob_b) = (floats("rho")?, floats("prob_a")?, floats("prob_b")?);
    let counts = attributes.ints("vectors_per_class")?.unwrap_or_default();
    let transform = PostTransform::named(attributes)?;
    let counts: Result<Vec<usize>, _> = counts.iter().map(|&count| usize::try_from(count)).collect();
    let mut vectors_per_class = counts.map_err(|_| Reason::new("vectors_per_class has negative numbers"))?;
    let vectors = vectors_per_class.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
    let vectors = vectors.ok_or_else(|| Reason::new("vectors_per_class has too large numbers"))?;
    if vectors == 0 {
        vectors_per_class.clear();
    }
    let classes = labels.len();
    let wrong = |what: &str, count: usize| {
        Err(Reason::new(format!("{count} {what} for {classes} classes and {vectors} support vectors")))
    };
    if classes == 0 {
        return Err(Reason::new("there are no labels"));
    }
    if vectors == 0 {
        if rho.is_empty() {
            return wrong("elements of rho", 0);
        }
        if coefficients.len() % classes != 0 {
            return wrong("coefficients", coefficients.len());
        }
    } else {
        let pairs = classes * (classes - 1) / 2;
        if vectors_per_class.len() != classes || classes < 2 {
            return wrong("elements of vectors_per_class", vectors_per_class.len());
        }
        if Some(coefficients.len()) != vectors.checked_mul(classes - 1) {
            return wrong("coefficients", coefficients.len());
        }
        if support_vectors.len() % vectors != 0 {
            return wrong("elements of support_vectors", support_vectors.len());
        }
        if rho.len() < pairs {
            return wrong("elements of rho", rho.len());
        }
        if prob_a.len() != prob_b.len() || (!prob_a.is_empty() && prob_a.len() < pairs) {
            return wrong("elements of prob_a", prob_a.len());
        }
    }
    let kernel = import_kernel(node, vectors > 0)?;
    Ok(Box::new(SvmClassifier {
        labels,
        kernel,
        coefficients,
        support_vectors,
        vectors_per_class,
        rho,
        prob_a,
        prob_b,
        transform,
    }))
}

fn import_regressor(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let supports = node.attributes.int("n_supports")?.unwrap_or(0);
    let supports = usize::try_from(supports)
        .map_err(|_| Reason::new(format!("n_supports is {supports}, not a number of vectors")))?;
    let mut floats = |name| Ok(node.attributes.floats(name)?.unwrap_or_default());
    let (coefficients, support_vectors, rho) =
        (floats("coefficients")?, floats("support_vectors")?, floats("rho")?);
    if supports > 0 && (coefficients.len() != supports || support_vectors.len() % supports != 0) {
        return Err(Reason::new(format!(
            "{} coefficients and {} elements of support_vectors for {supports} of them",
            coefficients.len(),
            support_vectors.len()
        )));
    }
    Ok(Box::new(SvmRegressor {
        kernel: import_kernel(node, supports > 0)?,
        coefficients,
        support_vectors,
        supports,
        rho: rho.first().copied().unwrap_or(0.0),
        is_one_class: node.attributes.int("one_class")?.unwrap_or(0) != 0,
        transform: PostTransform::named(&mut node.attributes)?,
    }))
}

impl Kernel {
    fn of(self, row: &[f64], vector: &[f32]) -> f64 {
        let product = || row.iter().zip(vector).map(|(x, &v)| x * f64::from(v)).sum::<f64>();
        match self {
            Kernel::Linear => product(),
            Kernel::Polynomial { gamma, offset, degree } => libm::pow(gamma * product() + offset, degree),
            Kernel::Sigmoid { gamma, offset } => libm::tanh(gamma * product() + offset),
            Kernel::RadialBasis { gamma } => {
                let square = |(x, &v): (&f64, &f32)| (x - f64::from(v)) * (x - f64::from(v));
                libm::exp(-gamma * row.iter().zip(vector).map(square).sum::<f64>())
            }
        }
    }
}

/// Refuses rows of another number of features than `values`, of `vectors`, have.
fn expect_features(values: usize, vectors: usize, columns: usize) -> Result<(), Reason> {
    if vectors.checked_mul(columns) == Some(values) {
        return Ok(());
    }
    Err(Reason::new(format!("{columns} features for {vectors} vectors of {values} elements")))
}

impl SvmClassifier {
    fn columns(&self) -> usize {
        let classes = self.labels.len();
        let has_vectors = !self.vectors_per_class.is_empty();
        match (has_vectors, self.prob_a.is_empty(), classes) {
            (false, ..) | (true, false, _) | (true, true, 2) => classes,
            (true, true, _) => classes * (classes - 1) / 2,
        }
    }

    fn expect(&self, columns: usize) -> Result<(), Reason> {
        let vectors = self.vectors_per_class.iter().sum::<usize>();
        match vectors {
            0 => expect_features(self.coefficients.len(), self.labels.len(), columns),
            _ => expect_features(self.support_vectors.len(), vectors, columns),
        }
    }

    /// For each pair of classes a score, above zero for the first, and the votes that these are.
    fn decide(&self, row: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let vectors = self.vectors_per_class.iter().sum::<usize>();
        let kernels: Vec<f64> = match self.support_vectors.len() / vectors.max(1) {
            0 => vec![self.kernel.of(&[], &[]); vectors],
            length => self.support_vectors.chunks(length).map(|vector| self.kernel.of(row, vector)).collect(),
        };
        let classes = self.vectors_per_class.len();
        let mut starts = Vec::with_capacity(classes);
        let mut start = 0;
        for &count in &self.vectors_per_class {
            starts.push(start..start + count);
            start += count;
        }
        let sum = |coefficient_row: usize, range: std::ops::Range<usize>| -> f64 {
            let coefficients = self.coefficients.iter().skip(coefficient_row * vectors + range.start);
            let kernels = kernels.get(range).unwrap_or_default();
            coefficients.zip(kernels).map(|(&c, k)| f64::from(c) * k).sum()
        };
        let mut scores = Vec::with_capacity(classes * (classes - 1) / 2);
        let mut votes = vec![0.0; classes];
        for first in 0..classes {
            for second in first + 1..classes {
                let rho = f64::from(self.rho.get(scores.len()).copied().unwrap_or(0.0));
                let score = sum(second - 1, starts[first].clone()) + sum(first, starts[second].clone()) + rho;
                votes[if score > 0.0 { first } else { second }] += 1.0;
                scores.push(score);
            }
        }
        (scores, votes)
    }

    /// The probability of each class, from the scores of pairs.
    fn probabilities(&self, scores: &[f64]) -> Vec<f64> {
        let classes = self.labels.len();
        let mut pairs = vec![0.0; classes * classes];
        let mut parameters = scores.iter().zip(self.prob_a.iter().zip(&self.prob_b));
        for first in 0..classes {
            for second in first + 1..classes {
                let Some((score, (&a, &b))) = parameters.next() else { break };
                let probability = 1.0 / (1.0 + libm::exp(score * f64::from(a) + f64::from(b)));
                let probability = probability.clamp(1e-7, 1.0 - 1e-7);
                pairs[first * classes + second] = probability;
                pairs[second * classes + first] = 1.0 - probability;
            }
        }
        couple(classes, &pairs)
    }
}

/// Probabilities of classes from those of pairs: the second method of Wu, Lin and Weng, "Probability estimates for
/// multi-class classification by pairwise coupling", as LIBSVM has it.
fn couple(classes: usize, pairs: &[f64]) -> Vec<f64> {
    let at = |row: usize, column: usize| pairs[row * classes + column];
    let mut q = vec![0.0; classes * classes];
    for t in 0..classes {
        for j in (0..classes).filter(|&j| j != t) {
            q[t * classes + t] += at(j, t) * at(j, t);
            q[t * classes + j] = -at(j, t) * at(t, j);
        }
    }
    let mut p = vec![1.0 / classes as f64; classes];
    let tolerance = 0.005 / classes as f64;
    for _ in 0..classes.max(100) {
        let mut products: Vec<f64> =
            q.chunks(classes).map(|row| row.iter().zip(&p).map(|(q, p)| q * p).sum()).collect();
        let mut total: f64 = p.iter().zip(&products).map(|(p, product)| p * product).sum();
        if products.iter().all(|product| (product - total).abs() < tolerance) {
            break;
        }
        for t in 0..classes {
            let diagonal = q[t * classes + t];
            let change = (total - products[t]) / diagonal;
            p[t] += change;
            total =
                (total + change * (change * diagonal + 2.0 * products[t])) / (1.0 + change) / (1.0 + change);
            for j in 0..classes {
                products[j] = (products[j] + change * q[t * classes + j]) / (1.0 + change);
                p[j] /= 1.0 + change;
            }
        }
    }
    p
}

impl Operator for SvmClassifier {
    fn name(&self) -> &'static str {
        "SVMClassifier"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (rows, columns) = row_shape(node.ty(0)?)?;
        self.expect(columns)?;
        Ok(vec![self.labels.ty(&[rows])?, TensorType::new(DataType::F32, [rows, self.columns()])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = Rows::new(node.tensor(0)?)?;
        self.expect(x.columns)?;
        let columns = self.columns();
        let size = checked_elements(&TensorType::new(DataType::F32, [x.rows, columns]))?;
        let mut scores = Vec::with_capacity(size);
        let mut classes = Vec::with_capacity(x.rows);
        let all_positive = self.coefficients.iter().all(|&coefficient| coefficient >= 0.0);
        for row in x.iter() {
            let mut row_scores;
            if self.vectors_per_class.is_empty() {
                let rho = f64::from(self.rho.first().copied().unwrap_or(0.0));
                row_scores = match x.columns {
                    0 => vec![rho; columns],
                    length => {
                        let weights = self.coefficients.chunks(length);
                        weights.map(|weights| self.kernel.of(row, weights) + rho).collect::<Vec<_>>()
                    }
                };
                let best = largest(&row_scores);
                let threshold_passed =
                    row_scores.get(best).is_some_and(|&s| if all_positive { s >= 0.5 } else { s > 0.0 });
                // Of two classes the second one wins wherever a score is above the threshold.
                let is_second = row_scores.len() == 2 && threshold_passed;
                classes.push(Class::At(if is_second { 1 } else { best }));
            } else {
                let (decided, votes) = self.decide(row);
                classes.push(Class::At(largest(&votes)));
                row_scores = decided;
                if !self.prob_a.is_empty() {
                    row_scores = self.probabilities(&row_scores);
                } else if let [score] = row_scores[..] {
                    let signed = self.transform == PostTransform::None;
                    scores.extend(self.transform.of_two(score, signed));
                    continue;
                }
            }
            self.transform.apply(&mut row_scores);
            scores.extend(row_scores);
        }
        Ok(Some(vec![self.labels.select(&classes)?, f32_tensor(&[x.rows, columns], &scores)?]))
    }
}

impl SvmRegressor {
    fn expect(&self, columns: usize) -> Result<(), Reason> {
        match self.supports {
            0 => expect_features(self.coefficients.len(), 1, columns),
            supports => expect_features(self.support_vectors.len(), supports, columns),
        }
    }
}

impl Operator for SvmRegressor {
    fn name(&self) -> &'static str {
        "SVMRegressor"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (rows, columns) = row_shape(node.ty(0)?)?;
        self.expect(columns)?;
        Ok(vec![TensorType::new(DataType::F32, [rows, 1])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = Rows::new(node.tensor(0)?)?;
        self.expect(x.columns)?;
        let mut scores = Vec::with_capacity(x.rows);
        for row in x.iter() {
            let sum = match (self.supports, x.columns) {
                (0, _) => self.kernel.of(row, &self.coefficients),
                (_, 0) => self.coefficients.iter().map(|&c| f64::from(c) * self.kernel.of(&[], &[])).sum(),
                (_, length) => {
                    let vectors = self.support_vectors.chunks(length).zip(&self.coefficients);
                    vectors.map(|(vector, &c)| f64::from(c) * self.kernel.of(row, vector)).sum()
                }
            };
            let mut score = [sum + f64::from(self.rho)];
            if self.is_one_class {
                score = [if score[0] > 0.0 { 1.0 } else { -1.0 }];
            } else {
                self.transform.apply(&mut score);
            }
            scores.extend(score);
        }
        Ok(Some(vec![f32_tensor(&[x.rows, 1], &scores)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, import, run_values};

    fn floats(values: &[f32]) -> Attribute {
        Attribute::Floats(values.to_vec())
    }

    #[test]
    fn kernels_weigh_support_vectors() {
        let mut attributes = vec![
            ("coefficients", floats(&[2.0, -1.0])),
            ("support_vectors", floats(&[1.0, 0.0, 0.0, 1.0])),
            ("n_supports", 2.into()),
            ("rho", floats(&[0.5])),
            ("kernel_type", "POLY".into()),
            ("kernel_params", floats(&[1.0, 1.0, 2.0])),
        ];
        let x = [f32s([1, 2], &[2.0, 1.0])];
        // 2 · (2 + 1)² - (1 + 1)² + 0.5
        check(("ai.onnx.ml::SVMRegressor", 1), &attributes, &x, &f32s([1, 1], &[14.5]));
        attributes.push(("one_class", 1.into()));
        check(("ai.onnx.ml::SVMRegressor", 1), &attributes, &x, &f32s([1, 1], &[1.0]));
        attributes[2].1 = 3.into();
        assert!(import(("ai.onnx.ml::SVMRegressor", 1), &attributes, 1, 1).is_err());
    }

    #[test]
    fn pairs_of_classes_vote() {
        let attributes = [
            ("classlabels_ints", vec![4i64, 5, 6].into()),
            ("vectors_per_class", vec![1i64, 1, 1].into()),
            ("support_vectors", floats(&[1.0, 2.0, 3.0])),
            ("coefficients", floats(&[1.0, -1.0, -2.0, 1.0, 1.0, -1.0])),
            ("rho", floats(&[0.0, 0.0, 0.25])),
        ];
        let outputs = run_values(
            ("ai.onnx.ml::SVMClassifier", 1),
            &attributes,
            &[Some(f32s([1, 1], &[1.0]).into())],
            2,
        );
        // 0 against 1: 1 - 2; 0 against 2: 1 - 2·3; 1 against 2: 2 - 3 + 0.25.
        assert_eq!(outputs.unwrap(), [i64s([1], &[6]).into(), f32s([1, 3], &[-1.0, -5.0, -0.75]).into()]);
        assert!(import(("ai.onnx.ml::SVMClassifier", 1), &attributes[..4], 1, 2).is_err());
    }

    #[test]
    fn coupled_probabilities_sum_to_one() {
        // What is consistent is found again.
        let known = [0.5, 0.3, 0.2];
        let pair = |index: usize| match (index / 3, index % 3) {
            (row, column) if row == column => 0.0,
            (row, column) => known[row] / (known[row] + known[column]),
        };
        let found = couple(3, &std::array::from_fn::<f64, 9, _>(pair));
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(found.iter().zip(known).all(|(p, k)| (p - k).abs() < 0.01), "{found:?}");
    }
}
