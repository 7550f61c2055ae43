//! TreeEnsemble: decision trees that add up, and what the older operators of trees share with it.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html>
//! Types: f32, f64, f16.
//! History: since version 5 of ai.onnx.ml.
//!
//! Sums are rounded to f32 after each tree unless features are f64, as ONNX Runtime rounds them: a class is chosen by
//! what side of a threshold a sum lies on.

use super::elements::checked_elements;
use super::ml_common::{DOMAIN, PostTransform};
use super::number::{of_f64s, to_f64s};
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] =
    &[Row { name: "TreeEnsemble", domain: DOMAIN, since: 5, inputs: 1..=1, outputs: 1..=1, import }];

/// What a node asks of its feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
    Above(f64),
    Equal(f64),
    Unequal(f64),
    Member(Vec<f64>),
}

impl Test {
    fn holds(&self, value: f64) -> bool {
        match self {
            Test::AtMost(threshold) => value <= *threshold,
            Test::Below(threshold) => value < *threshold,
            Test::AtLeast(threshold) => value >= *threshold,
            Test::Above(threshold) => value > *threshold,
            Test::Equal(threshold) => value == *threshold,
            Test::Unequal(threshold) => value != *threshold,
            Test::Member(members) => members.contains(&value),
        }
    }
}

/// Where a branch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Node(usize),
    Leaf(usize),
}

/// A node that asks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Branch {
    pub feature: usize,
    pub test: Test,
    pub on_true: Step,
    pub on_false: Step,
    /// Whether what is not a number takes the branch of truth.
    pub missing_is_true: bool,
}

/// How the trees' values for one target become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregate {
    Average,
    Sum,
    Least,
    Most,
}

/// Trees.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Forest {
    pub branches: Vec<Branch>,
    /// Each leaf's targets and what it gives them.
    pub leaves: Vec<Vec<(usize, f64)>>,
    pub roots: Vec<Step>,
    pub targets: usize,
}

/// The value of a target; `None` where no tree has given it one.
pub(super) type Score = Option<f64>;

impl Forest {
    /// Refuses rows that have too few features.
    pub fn expect_features(&self, columns: usize) -> Result<(), Reason> {
        match self.branches.iter().map(|branch| branch.feature).max() {
            Some(feature) if feature >= columns => {
                Err(Reason::new(format!("feature {feature} of {columns} is asked for")))
            }
            _ => Ok(()),
        }
    }

    /// The leaf that `row` leads to from `root`.
    fn leaf(&self, root: Step, row: &[f64]) -> Result<&[(usize, f64)], Reason> {
        let broken = || Reason::new("a branch of a tree leads to no leaf");
        let mut step = root;
        // In a tree no node is met twice.
        for _ in 0..=self.branches.len() {
            match step {
                Step::Leaf(leaf) => return self.leaves.get(leaf).map(Vec::as_slice).ok_or_else(broken),
                Step::Node(node) => {
                    let branch = self.branches.get(node).ok_or_else(broken)?;
                    let value = row.get(branch.feature).copied().unwrap_or(f64::NAN);
                    let holds = branch.test.holds(value) || (value.is_nan() && branch.missing_is_true);
                    step = if holds { branch.on_true } else { branch.on_false };
                }
            }
        }
        Err(broken())
    }

    /// The value of each target for `row`, in f32 where `single`.
    pub fn scores(&self, row: &[f64], aggregate: Aggregate, single: bool) -> Result<Vec<Score>, Reason> {
        let round = |value: f64| if single { f64::from(value as f32) } else { value };
        let mut scores: Vec<Score> = vec![None; self.targets];
        for &root in &self.roots {
            for &(target, value) in self.leaf(root, row)? {
                let Some(score) = scores.get_mut(target) else { continue };
                *score = Some(match (*score, aggregate) {
                    (None, _) => round(value),
                    (Some(sum), Aggregate::Sum | Aggregate::Average) => round(sum + round(value)),
                    (Some(least), Aggregate::Least) => least.min(round(value)),
                    (Some(most), Aggregate::Most) => most.max(round(value)),
                });
            }
        }
        if aggregate == Aggregate::Average {
            let trees = self.roots.len() as f64;
            scores.iter_mut().flatten().for_each(|score| *score = round(*score / trees));
        }
        Ok(scores)
    }
}

/// A position that a list of `length` has.
pub(super) fn position(index: i64, length: usize, what: &str) -> Result<usize, Reason> {
    usize::try_from(index)
        .ok()
        .filter(|&index| index < length)
        .ok_or_else(|| Reason::new(format!("{what} {index} of {length}")))
}

/// TreeEnsemble.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeEnsemble {
    forest: Forest,
    aggregate: Aggregate,
    transform: PostTransform,
}

/// Attribute `name`, a tensor of numbers; empty where it is left out.
pub(super) fn number_tensor(node: &mut ImportNode, name: &str) -> Result<Vec<f64>, Reason> {
    match node.attributes.tensor(name)? {
        Some(tensor) => to_f64s(&tensor),
        None => Ok(Vec::new()),
    }
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    node.attributes.ignore("nodes_hitrates");
    let aggregate = match node.attributes.int("aggregate_function")? {
        Some(0) => Aggregate::Average,
        None | Some(1) => Aggregate::Sum,
        Some(2) => Aggregate::Least,
        Some(3) => Aggregate::Most,
        Some(other) => {
            return Err(
                Reason::new(format!("aggregate_function {other} is not supported")).supported("0 to 3")
            );
        }
    };
    let transform = PostTransform::numbered(&mut node.attributes)?;
    let modes: Vec<u8> = match node.attributes.tensor("nodes_modes")? {
        Some(modes) if modes.ty().dtype == DataType::U8 => modes.data().to_vec(),
        _ => return Err(Reason::new("nodes_modes is not a tensor of u8")),
    };
    let splits = number_tensor(node, "nodes_splits")?;
    let members = number_tensor(node, "membership_values")?;
    let weights = number_tensor(node, "leaf_weights")?;
    let mut ints = |name| Ok(node.attributes.ints(name)?.unwrap_or_default());
    let (features, missing) = (ints("nodes_featureids")?, ints("nodes_missing_value_tracks_true")?);
    let (true_steps, true_leaves) = (ints("nodes_truenodeids")?, ints("nodes_trueleafs")?);
    let (false_steps, false_leaves) = (ints("nodes_falsenodeids")?, ints("nodes_falseleafs")?);
    let (target_ids, roots) = (ints("leaf_targetids")?, ints("tree_roots")?);
    let count = modes.len();
    let lengths = [
        splits.len(),
        features.len(),
        true_steps.len(),
        true_leaves.len(),
        false_steps.len(),
        false_leaves.len(),
    ];
    if lengths.iter().any(|&length| length != count) || (!missing.is_empty() && missing.len() != count) {
        return Err(Reason::new(format!("attributes nodes_* are not of one length: {lengths:?}, {count}")));
    }
    if weights.len() != target_ids.len() {
        let (weights, targets) = (weights.len(), target_ids.len());
        return Err(Reason::new(format!("{weights} leaf_weights for {targets} leaf_targetids")));
    }
    let targets = match node.attributes.int("n_targets")? {
        Some(targets) => usize::try_from(targets).ok().filter(|&targets| targets > 0),
        None => Some(1 + target_ids.iter().copied().max().unwrap_or(0).max(0) as usize),
    };
    let targets = targets.ok_or_else(|| Reason::new("n_targets is not above zero"))?;

    let mut leaves = Vec::with_capacity(weights.len());
    for (&weight, &target) in weights.iter().zip(&target_ids) {
        leaves.push(vec![(position(target, targets, "target")?, weight)]);
    }
    // The members of each node that asks for them, in the order of nodes, each closed by what is not a number.
    let mut sets = members.split(|member| member.is_nan());
    let step = |index: i64, is_leaf: i64| -> Result<Step, Reason> {
        match is_leaf {
            0 => Ok(Step::Node(position(index, count, "node")?)),
            _ => Ok(Step::Leaf(position(index, leaves.len(), "leaf")?)),
        }
    };
    let mut branches = Vec::with_capacity(count);
    for index in 0..count {
        let split = splits[index];
        let test = match modes[index] {
            0 => Test::AtMost(split),
            1 => Test::Below(split),
            2 => Test::AtLeast(split),
            3 => Test::Above(split),
            4 => Test::Equal(split),
            5 => Test::Unequal(split),
            6 => {
                let members = sets.next().ok_or_else(|| Reason::new("membership_values has too few sets"))?;
                Test::Member(members.to_vec())
            }
            other => {
                return Err(Reason::new(format!("node mode {other} is not supported")).supported("0 to 6"));
            }
        };
        branches.push(Branch {
            feature: position(features[index], i32::MAX as usize, "feature")?,
            test,
            on_true: step(true_steps[index], true_leaves[index])?,
            on_false: step(false_steps[index], false_leaves[index])?,
            missing_is_true: missing.get(index).is_some_and(|&flag| flag != 0),
        });
    }
    let roots = roots.iter().map(|&root| Ok(Step::Node(position(root, count, "root")?)));
    let forest = Forest { roots: roots.collect::<Result<_, Reason>>()?, branches, leaves, targets };
    Ok(Box::new(TreeEnsemble { forest, aggregate, transform }))
}

impl TreeEnsemble {
    fn ty(&self, x: &TensorType) -> Result<TensorType, Reason> {
        expect_dtype(x, &[DataType::F32, DataType::F64, DataType::F16])?;
        let [rows, columns] = x.shape[..] else {
            return Err(Reason::new(format!("input 0 is {x}, not of two dimensions")));
        };
        self.forest.expect_features(columns)?;
        let ty = TensorType::new(x.dtype, [rows, self.forest.targets]);
        checked_elements(&ty)?;
        Ok(ty)
    }
}

impl Operator for TreeEnsemble {
    fn name(&self) -> &'static str {
        "TreeEnsemble"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![self.ty(node.ty(0)?)?])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        let ty = self.ty(x.ty())?;
        let single = ty.dtype != DataType::F64;
        let values = to_f64s(x)?;
        let columns = x.ty().shape.last().copied().unwrap_or(0);
        let mut output = Vec::with_capacity(ty.elements());
        for row in 0..ty.shape.first().copied().unwrap_or(0) {
            let row = values.get(row * columns..(row + 1) * columns).unwrap_or_default();
            let scores = self.forest.scores(row, self.aggregate, single)?;
            let mut scores: Vec<f64> = scores.into_iter().map(Option::unwrap_or_default).collect();
            self.transform.apply(&mut scores);
            output.extend(scores);
        }
        Ok(Some(vec![Value::Tensor(of_f64s(ty, output)?)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, import, infer, run, tensor};

    /// Node 0 asks whether feature 0 is at most 1, and if so node 1 whether feature 1 is 3 or 4.
    fn attributes() -> Vec<(&'static str, Attribute)> {
        let f64s = |values: &[f64]| {
            Attribute::Tensor(Constant::of(TensorType::new(DataType::F64, [values.len()]), values))
        };
        vec![
            ("nodes_modes", Attribute::Tensor(tensor(DataType::U8, [2], &[0u8, 6]))),
            ("nodes_splits", f64s(&[1.0, 0.0])),
            ("membership_values", f64s(&[3.0, 4.0, f64::NAN])),
            ("leaf_weights", f64s(&[10.0, 20.0, 0.5])),
            ("nodes_featureids", vec![0i64, 1].into()),
            ("nodes_truenodeids", vec![1i64, 0].into()),
            ("nodes_trueleafs", vec![0i64, 1].into()),
            ("nodes_falsenodeids", vec![2i64, 1].into()),
            ("nodes_falseleafs", vec![1i64, 1].into()),
            ("nodes_missing_value_tracks_true", vec![1i64, 0].into()),
            ("leaf_targetids", vec![0i64, 1, 1].into()),
            ("tree_roots", vec![0i64, 0].into()),
            ("n_targets", 2.into()),
        ]
    }

    const OP: (&str, i64) = ("ai.onnx.ml::TreeEnsemble", 5);

    #[test]
    fn rows_find_their_leaves() {
        let x = f32s([4, 2], &[1.0, 4.0, 0.0, 5.0, 2.0, 3.0, f32::NAN, f32::NAN]);
        let sum = run(OP, &attributes(), &[&x]).unwrap();
        assert_eq!(sum, f32s([4, 2], &[20.0, 0.0, 0.0, 40.0, 0.0, 1.0, 0.0, 40.0]));
        let mut average = attributes();
        average.push(("aggregate_function", 0.into()));
        let halves = tensor(DataType::F16, [1, 2], &[2.0, 3.0].map(half::f16::from_f32));
        let expected = tensor(DataType::F16, [1, 2], &[0.0, 0.5].map(half::f16::from_f32));
        assert_eq!(run(OP, &average, &[halves]).unwrap(), expected);
    }

    #[test]
    fn broken_trees_are_refused() {
        let changed = |name: &str, value: Attribute| {
            let mut attributes = attributes();
            attributes.iter_mut().filter(|(own, _)| *own == name).for_each(|(_, own)| *own = value.clone());
            attributes
        };
        assert!(import(OP, &changed("nodes_truenodeids", vec![9i64, 0].into()), 1, 1).is_err());
        assert!(import(OP, &changed("leaf_targetids", vec![0i64, 1, 2].into()), 1, 1).is_err());
        assert!(import(OP, &changed("nodes_featureids", vec![0i64].into()), 1, 1).is_err());
        let circle = changed("nodes_truenodeids", vec![0i64, 0].into());
        assert!(run(OP, &circle, &[f32s([1, 2], &[0.0, 0.0])]).is_err());
        assert!(infer(OP, &attributes(), &[TensorType::new(DataType::F32, [3, 1])]).is_err());
    }
}
