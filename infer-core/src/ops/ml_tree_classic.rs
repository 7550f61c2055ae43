//! TreeEnsembleClassifier and TreeEnsembleRegressor: decision trees in their older form, where leaves are nodes.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html>,
//! <https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html>
//! Types: f32, f64, i64, i32; scores are f32, labels i64 or strings.
//! History: version 1 of ai.onnx.ml; 3 adds thresholds and weights as tensors, of f64; deprecated since 5.

use std::collections::{HashMap, HashSet};

use super::elements::checked_elements;
use super::ml_common::{Class, DOMAIN, Labels, PostTransform, Rows, f32_tensor, row_shape};
use super::ml_tree::{Aggregate, Branch, Forest, Score, Step, Test, number_tensor, position};
use crate::diagnostic::{Reason, quote};
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "TreeEnsembleClassifier",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=2,
        import: import_classifier,
    },
    Row {
        name: "TreeEnsembleRegressor",
        domain: DOMAIN,
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_regressor,
    },
];

/// TreeEnsembleClassifier.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeEnsembleClassifier {
    forest: Forest,
    labels: Labels,
    base_values: Vec<f64>,
    transform: PostTransform,
    /// Whether leaves vote for one of two classes alone.
    is_binary: bool,
    all_positive: bool,
}

/// TreeEnsembleRegressor.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeEnsembleRegressor {
    forest: Forest,
    base_values: Vec<f64>,
    aggregate: Aggregate,
    transform: PostTransform,
}

/// Attribute `name`, floats or as a tensor; empty where both are left out.
fn import_numbers(node: &mut ImportNode, name: &str) -> Result<Vec<f64>, Reason> {
    let floats = node.attributes.floats(name)?.unwrap_or_default();
    let tensor = number_tensor(node, &format!("{name}_as_tensor"))?;
    match (floats.is_empty(), tensor.is_empty()) {
        (false, false) => Err(Reason::new(format!("both {name} and {name}_as_tensor are there"))),
        (false, true) => Ok(floats.into_iter().map(f64::from).collect()),
        (true, _) => Ok(tensor),
    }
}

/// The weight of one leaf for one target.
struct Vote {
    target: usize,
    weight: f64,
}

/// The trees, and all votes of leaves; these are the attributes that begin with `prefix`.
fn import_forest(node: &mut ImportNode, prefix: &str, targets: usize) -> Result<(Forest, Vec<Vote>), Reason> {
    node.attributes.ignore("nodes_hitrates");
    node.attributes.ignore("nodes_hitrates_as_tensor");
    let thresholds = import_numbers(node, "nodes_values")?;
    let weights = import_numbers(node, &format!("{prefix}_weights"))?;
    let modes = node.attributes.strings("nodes_modes")?.unwrap_or_default();
    let mut ints = |name: &str| Ok(node.attributes.ints(name)?.unwrap_or_default());
    let (trees, nodes) = (ints("nodes_treeids")?, ints("nodes_nodeids")?);
    let (features, missing) = (ints("nodes_featureids")?, ints("nodes_missing_value_tracks_true")?);
    let (true_nodes, false_nodes) = (ints("nodes_truenodeids")?, ints("nodes_falsenodeids")?);
    let vote_trees = ints(&format!("{prefix}_treeids"))?;
    let vote_nodes = ints(&format!("{prefix}_nodeids"))?;
    let vote_targets = ints(&format!("{prefix}_ids"))?;
    let count = modes.len();
    let lengths =
        [thresholds.len(), trees.len(), nodes.len(), features.len(), true_nodes.len(), false_nodes.len()];
    if lengths.iter().any(|&length| length != count) || missing.len() > count {
        return Err(Reason::new(format!("attributes nodes_* are not of one length: {lengths:?}, {count}")));
    }
    let lengths = [vote_trees.len(), vote_nodes.len(), vote_targets.len()];
    if lengths.iter().any(|&length| length != weights.len()) {
        let weights = weights.len();
        return Err(Reason::new(format!(
            "attributes {prefix}_* are not of one length: {lengths:?}, {weights}"
        )));
    }

    // Each node by the names it is given: one that asks, or a leaf.
    let mut steps: HashMap<(i64, i64), Step> = HashMap::with_capacity(count);
    let (mut asking, mut leaves) = (0, 0);
    let mut roots = Vec::new();
    let mut seen = HashSet::new();
    for (index, mode) in modes.iter().enumerate() {
        let step = if mode == "LEAF" {
            leaves += 1;
            Step::Leaf(leaves - 1)
        } else {
            asking += 1;
            Step::Node(asking - 1)
        };
        if steps.insert((trees[index], nodes[index]), step).is_some() {
            let (tree, node) = (trees[index], nodes[index]);
            return Err(Reason::new(format!("node {node} of tree {tree} is there twice")));
        }
        // A tree begins with its root.
        if seen.insert(trees[index]) {
            roots.push(step);
        }
    }
    let mut branches = Vec::with_capacity(asking);
    for (index, mode) in modes.iter().enumerate() {
        let threshold = thresholds[index];
        let test = match mode.as_str() {
            "LEAF" => continue,
            "BRANCH_LEQ" => Test::AtMost(threshold),
            "BRANCH_LT" => Test::Below(threshold),
            "BRANCH_GTE" => Test::AtLeast(threshold),
            "BRANCH_GT" => Test::Above(threshold),
            "BRANCH_EQ" => Test::Equal(threshold),
            "BRANCH_NEQ" => Test::Unequal(threshold),
            other => {
                return Err(Reason::new(format!("node mode {} is not supported", quote(other)))
                    .supported("BRANCH_LEQ, BRANCH_LT, BRANCH_GTE, BRANCH_GT, BRANCH_EQ, BRANCH_NEQ, LEAF"));
            }
        };
        let tree = trees[index];
        let find = |node: i64| {
            let lost = || Reason::new(format!("tree {tree} has no node {node}"));
            steps.get(&(tree, node)).copied().ok_or_else(lost)
        };
        branches.push(Branch {
            feature: position(features[index], i32::MAX as usize, "feature")?,
            test,
            on_true: find(true_nodes[index])?,
            on_false: find(false_nodes[index])?,
            missing_is_true: missing.get(index).is_some_and(|&flag| flag == 1),
        });
    }
    let mut leaves: Vec<Vec<(usize, f64)>> = vec![Vec::new(); leaves];
    let mut votes = Vec::with_capacity(weights.len());
    for (index, &weight) in weights.iter().enumerate() {
        let target = position(vote_targets[index], targets, "target")?;
        let (tree, node) = (vote_trees[index], vote_nodes[index]);
        match steps.get(&(tree, node)) {
            Some(Step::Leaf(leaf)) => leaves[*leaf].push((target, weight)),
            // What a node that asks would vote for counts nowhere.
            Some(Step::Node(_)) => {}
            None => return Err(Reason::new(format!("tree {tree} has no node {node}"))),
        }
        votes.push(Vote { target, weight });
    }
    Ok((Forest { branches, leaves, roots, targets }, votes))
}

fn import_classifier(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let labels = Labels::import(&mut node.attributes, "classlabels_int64s", "classlabels_strings")?;
    let classes = labels.len();
    if classes == 0 {
        return Err(Reason::new("there are no labels"));
    }
    let transform = PostTransform::named(&mut node.attributes)?;
    let base_values = import_numbers(node, "base_values")?;
    let fits = match classes {
        1 | 2 => base_values.len() <= 2,
        _ => base_values.is_empty() || base_values.len() == classes,
    };
    if !fits {
        return Err(Reason::new(format!("{} base_values for {classes} classes", base_values.len())));
    }
    let (forest, votes) = import_forest(node, "class", classes)?;
    let voted: HashSet<usize> = votes.iter().map(|vote| vote.target).collect();
    Ok(Box::new(TreeEnsembleClassifier {
        forest,
        labels,
        base_values,
        transform,
        is_binary: classes == 2 && voted.len() == 1,
        all_positive: votes.iter().all(|vote| vote.weight >= 0.0),
    }))
}

fn import_regressor(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let targets = node.attributes.int("n_targets")?.unwrap_or(1);
    let targets = usize::try_from(targets).ok().filter(|&targets| targets > 0);
    let targets = targets.ok_or_else(|| Reason::new("n_targets is not above zero"))?;
    let aggregate = match node.attributes.string("aggregate_function")?.as_deref() {
        None | Some("SUM") => Aggregate::Sum,
        Some("AVERAGE") => Aggregate::Average,
        Some("MIN") => Aggregate::Least,
        Some("MAX") => Aggregate::Most,
        Some(other) => {
            return Err(Reason::new(format!("aggregate_function {} is not supported", quote(other)))
                .supported("SUM, AVERAGE, MIN, MAX"));
        }
    };
    let transform = PostTransform::named(&mut node.attributes)?;
    let base_values = import_numbers(node, "base_values")?;
    if !base_values.is_empty() && base_values.len() != targets {
        return Err(Reason::new(format!("{} base_values for {targets} targets", base_values.len())));
    }
    let forest = import_forest(node, "target", targets)?.0;
    Ok(Box::new(TreeEnsembleRegressor { forest, base_values, aggregate, transform }))
}

/// Which element type sums are rounded to: f32 but for features of f64.
fn is_single(x: DataType) -> bool {
    x != DataType::F64
}

fn round(value: f64, single: bool) -> f64 {
    if single { f64::from(value as f32) } else { value }
}

impl TreeEnsembleClassifier {
    /// How many scores a row has: two for a single class too.
    fn columns(&self) -> usize {
        self.labels.len()
    }

    /// The class of a row and its scores.
    fn classify(&self, mut scores: Vec<Score>, single: bool) -> (Class, Vec<f64>) {
        let classes = self.labels.len();
        let add = |score: f64, base: f64| round(score + round(base, single), single);
        if classes > 1 && !(self.is_binary && self.base_values.len() < 2) {
            for (score, &base) in scores.iter_mut().zip(&self.base_values) {
                *score = Some(add(score.unwrap_or(0.0), base));
            }
            let mut best: Option<(usize, f64)> = None;
            for (index, score) in scores.iter().enumerate() {
                if let Some(score) = *score
                    && best.is_none_or(|(_, most)| score > most)
                {
                    best = Some((index, score));
                }
            }
            let mut scores: Vec<f64> = scores.into_iter().map(Option::unwrap_or_default).collect();
            self.transform.apply(&mut scores);
            return (Class::At(best.map_or(0, |(index, _)| index)), scores);
        }
        let base = self.base_values.last().copied().unwrap_or(0.0);
        let (first, second) = (scores.first().copied().flatten(), scores.get(1).copied().flatten());
        // Where leaves vote for the second class its score decides, without a base.
        let margin = second.unwrap_or_else(|| add(first.unwrap_or(0.0), base));
        if classes == 1 {
            let mut scores = vec![margin];
            self.transform.apply(&mut scores);
            return (Class::Binary(margin > 0.0), scores);
        }
        // Votes that are all positive are probabilities, others margins.
        let threshold = if self.all_positive { 0.5 } else { 0.0 };
        let mut scores = vec![0.0, margin];
        if second.is_some() {
            self.transform.apply(&mut scores);
        } else {
            scores = self.transform.of_two(margin, !self.all_positive).to_vec();
        }
        (Class::At(usize::from(margin > threshold)), scores)
    }
}

impl Operator for TreeEnsembleClassifier {
    fn name(&self) -> &'static str {
        "TreeEnsembleClassifier"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (rows, columns) = row_shape(node.ty(0)?)?;
        self.forest.expect_features(columns)?;
        Ok(vec![self.labels.ty(&[rows])?, TensorType::new(DataType::F32, [rows, self.columns()])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let tensor = node.tensor(0)?;
        let x = Rows::new(tensor)?;
        self.forest.expect_features(x.columns)?;
        let columns = self.columns();
        let size = checked_elements(&TensorType::new(DataType::F32, [x.rows, columns]))?;
        let single = is_single(tensor.ty().dtype);
        let (mut classes, mut scores) = (Vec::with_capacity(x.rows), Vec::with_capacity(size));
        for row in x.iter() {
            let summed = self.forest.scores(row, Aggregate::Sum, single)?;
            let (class, row_scores) = self.classify(summed, single);
            classes.push(class);
            scores.extend(row_scores);
        }
        Ok(Some(vec![self.labels.select(&classes)?, f32_tensor(&[x.rows, columns], &scores)?]))
    }
}

impl Operator for TreeEnsembleRegressor {
    fn name(&self) -> &'static str {
        "TreeEnsembleRegressor"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (rows, columns) = row_shape(node.ty(0)?)?;
        self.forest.expect_features(columns)?;
        Ok(vec![TensorType::new(DataType::F32, [rows, self.forest.targets])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let tensor = node.tensor(0)?;
        let x = Rows::new(tensor)?;
        self.forest.expect_features(x.columns)?;
        let targets = self.forest.targets;
        let size = checked_elements(&TensorType::new(DataType::F32, [x.rows, targets]))?;
        let single = is_single(tensor.ty().dtype);
        let mut output = Vec::with_capacity(size);
        for row in x.iter() {
            let summed = self.forest.scores(row, self.aggregate, single)?;
            let bases = self.base_values.iter().copied().chain(std::iter::repeat(0.0));
            let added = summed.iter().zip(bases).map(|(score, base)| score.unwrap_or(0.0) + base);
            let mut scores: Vec<f64> = added.collect();
            self.transform.apply(&mut scores);
            output.extend(scores);
        }
        Ok(Some(vec![f32_tensor(&[x.rows, targets], &output)?]))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, import, run, run_values};

    fn strings(values: &[&str]) -> Attribute {
        Attribute::Strings(values.iter().map(|&value| value.to_owned()).collect())
    }

    /// Two trees that ask whether feature 0 is at most 1, and below 2; leaves 1 and 2.
    fn trees() -> Vec<(&'static str, Attribute)> {
        vec![
            ("nodes_treeids", vec![0i64, 0, 0, 1, 1, 1].into()),
            ("nodes_nodeids", vec![0i64, 1, 2, 0, 1, 2].into()),
            ("nodes_modes", strings(&["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"])),
            ("nodes_values", Attribute::Floats(vec![1.0, 0.0, 0.0, 2.0, 0.0, 0.0])),
            ("nodes_featureids", vec![0i64; 6].into()),
            ("nodes_truenodeids", vec![1i64, 0, 0, 1, 0, 0].into()),
            ("nodes_falsenodeids", vec![2i64, 0, 0, 2, 0, 0].into()),
        ]
    }

    fn regressor(targets: &[i64]) -> Vec<(&'static str, Attribute)> {
        let mut attributes = trees();
        attributes.extend([
            ("target_treeids", vec![0i64, 0, 1, 1].into()),
            ("target_nodeids", vec![1i64, 2, 1, 2].into()),
            ("target_ids", targets.to_vec().into()),
            ("target_weights", Attribute::Floats(vec![1.0, 2.0, 30.0, 40.0])),
            ("n_targets", 2.into()),
        ]);
        attributes
    }

    const REGRESSOR: (&str, i64) = ("ai.onnx.ml::TreeEnsembleRegressor", 3);

    #[test]
    fn leaves_add_to_their_targets() {
        let x = f32s([3, 1], &[1.0, 1.5, 2.0]);
        let mut attributes = regressor(&[0, 1, 0, 1]);
        let sums = f32s([3, 2], &[31.0, 0.0, 30.0, 2.0, 0.0, 42.0]);
        assert_eq!(run(REGRESSOR, &attributes, &[&x]).unwrap(), sums);
        attributes.push(("aggregate_function", "MAX".into()));
        attributes.push(("base_values", Attribute::Floats(vec![0.5, 0.25])));
        let most = f32s([3, 2], &[30.5, 0.25, 30.5, 2.25, 0.5, 40.25]);
        assert_eq!(run(REGRESSOR, &attributes, &[&x]).unwrap(), most);
    }

    #[test]
    fn broken_trees_are_refused() {
        assert!(import(REGRESSOR, &regressor(&[0, 1, 0, 2]), 1, 1).is_err());
        let mut attributes = regressor(&[0, 1, 0, 1]);
        attributes[5].1 = vec![9i64, 0, 0, 1, 0, 0].into();
        assert!(import(REGRESSOR, &attributes, 1, 1).is_err());
        // Node 0 leads to itself.
        attributes[5].1 = vec![0i64, 0, 0, 1, 0, 0].into();
        assert!(run(REGRESSOR, &attributes, &[f32s([1, 1], &[0.0])]).is_err());
        let no_features = run(REGRESSOR, &regressor(&[0, 1, 0, 1]), &[f32s([1, 0], &[])]);
        assert!(no_features.is_err());
    }

    #[test]
    fn votes_choose_a_class() {
        let op = ("ai.onnx.ml::TreeEnsembleClassifier", 1);
        let classifier = |classes: &[i64], labels: &[i64], weights: &[f32]| {
            let mut attributes = trees();
            attributes.extend([
                ("class_treeids", vec![0i64, 0, 1, 1].into()),
                ("class_nodeids", vec![1i64, 2, 1, 2].into()),
                ("class_ids", classes.to_vec().into()),
                ("class_weights", Attribute::Floats(weights.to_vec())),
                ("classlabels_int64s", labels.to_vec().into()),
            ]);
            attributes
        };
        let x = || [Some(f32s([2, 1], &[1.0, 2.0]).into())];
        let three = classifier(&[0, 1, 0, 2], &[7, 8, 9], &[1.0, 2.0, 1.0, 3.0]);
        let outputs = run_values(op, &three, &x(), 2).unwrap();
        assert_eq!(
            outputs,
            [i64s([2], &[7, 9]).into(), f32s([2, 3], &[2.0, 0.0, 0.0, 0.0, 2.0, 3.0]).into()]
        );
        // Of two classes one has all votes, probabilities.
        let two = classifier(&[0, 0, 0, 0], &[7, 8], &[0.25, 0.5, 0.125, 0.5]);
        let outputs = run_values(op, &two, &x(), 2).unwrap();
        assert_eq!(outputs, [i64s([2], &[7, 8]).into(), f32s([2, 2], &[0.625, 0.375, 0.0, 1.0]).into()]);
        assert!(import(op, &classifier(&[0, 0, 0, 2], &[7, 8], &[0.0; 4]), 1, 2).is_err());
    }
}
