//! TfIdfVectorizer: how often n-grams occur in rows of tokens, which may skip some, weighted.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html>
//! Types: i32, i64 and strings to f32.
//! History: since opset 9.

use std::collections::HashMap;
use std::hash::Hash;

use super::elements::checked_elements;
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] =
    &[Row { name: "TfIdfVectorizer", domain: "", since: 9, inputs: 1..=1, outputs: 1..=1, import }];

/// How counts become values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weighting {
    /// The count.
    Tf,
    /// The weight of what occurs.
    Idf,
    /// The count times the weight.
    TfIdf,
}

/// The tokens of the n-grams.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pool {
    Integers(HashMap<i64, usize>),
    Strings(HashMap<String, usize>),
}

/// TfIdfVectorizer.
#[derive(Clone, Debug)]
pub struct TfIdfVectorizer {
    weighting: Weighting,
    least_length: usize,
    most_length: usize,
    skips: usize,
    tokens: Pool,
    grams: Trie,
    weights: Vec<f32>,
    columns: usize,
}

/// N-grams as paths of tokens from node 0.
#[derive(Clone, Debug, Default)]
struct Trie {
    steps: HashMap<(usize, usize), usize>,
    /// For each node the output column of the n-gram that ends there.
    columns: Vec<Option<usize>>,
}

impl Trie {
    fn insert(&mut self, gram: &[usize], column: usize) {
        if self.columns.is_empty() {
            self.columns.push(None);
        }
        let mut node = 0;
        for &token in gram {
            let next = self.columns.len();
            node = *self.steps.entry((node, token)).or_insert(next);
            if node == next {
                self.columns.push(None);
            }
        }
        if let Some(slot) = self.columns.get_mut(node) {
            *slot = Some(column);
        }
    }
}

/// The different elements of `pool`, numbered, and the numbers of all.
fn number<T: Hash + Eq>(pool: Vec<T>) -> (HashMap<T, usize>, Vec<usize>) {
    let mut numbers = HashMap::new();
    let mut tokens = Vec::with_capacity(pool.len());
    for token in pool {
        let next = numbers.len();
        tokens.push(*numbers.entry(token).or_insert(next));
    }
    (numbers, tokens)
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    let missing = |name: &str| Reason::new(format!("attribute `{name}` is missing"));
    let weighting = match attributes.string("mode")?.ok_or_else(|| missing("mode"))?.as_str() {
        "TF" => Weighting::Tf,
        "IDF" => Weighting::Idf,
        "TFIDF" => Weighting::TfIdf,
        other => {
            return Err(
                Reason::new(format!("mode {} is not supported", quote(other))).supported("TF, IDF, TFIDF")
            );
        }
    };
    let mut count = |name: &str, least: usize| {
        let value = attributes.int(name)?.ok_or_else(|| missing(name))?;
        usize::try_from(value)
            .ok()
            .filter(|&value| value >= least)
            .ok_or_else(|| Reason::new(format!("{name} is {value}, not at least {least}")))
    };
    let (least_length, most_length) = (count("min_gram_length", 1)?, count("max_gram_length", 1)?);
    let skips = count("max_skip_count", 0)?;
    let starts = attributes.ints("ngram_counts")?.ok_or_else(|| missing("ngram_counts"))?;
    let indexes = attributes.ints("ngram_indexes")?.ok_or_else(|| missing("ngram_indexes"))?;
    let weights = attributes.floats("weights")?.unwrap_or_default();
    if !weights.is_empty() && weights.len() != indexes.len() {
        return Err(Reason::new(format!(
            "there are {} weights for {} n-grams",
            weights.len(),
            indexes.len()
        )));
    }
    if most_length < least_length || most_length > starts.len() {
        return Err(Reason::new(format!(
            "n-grams of {least_length} to {most_length} tokens, with {} in ngram_counts",
            starts.len()
        )));
    }
    let indexes: Vec<usize> = indexes
        .iter()
        .map(|&index| usize::try_from(index).map_err(|_| Reason::new(format!("ngram_indexes has {index}"))))
        .collect::<Result<_, _>>()?;
    let columns = indexes.iter().max().map_or(0, |last| last.saturating_add(1));
    let (tokens, pool) = match (attributes.strings("pool_strings")?, attributes.ints("pool_int64s")?) {
        (Some(strings), None) => {
            let (numbers, pool) = number(strings);
            (Pool::Strings(numbers), pool)
        }
        (None, Some(integers)) => {
            let (numbers, pool) = number(integers);
            (Pool::Integers(numbers), pool)
        }
        _ => return Err(Reason::new("one of pool_strings and pool_int64s must be there")),
    };

    let mut grams = Trie::default();
    let mut gram = 0;
    for (index, &start) in starts.iter().enumerate() {
        let length = index + 1;
        let end = starts.get(length).copied().unwrap_or(pool.len() as i64);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let tokens = range
            .and_then(|(start, end)| pool.get(start..end))
            .ok_or_else(|| Reason::new(format!("n-grams {start} to {end} of a pool of {}", pool.len())))?;
        let chunks = tokens.chunks_exact(length);
        if !chunks.remainder().is_empty() {
            return Err(Reason::new(format!("{} tokens are no n-grams of {length}", tokens.len())));
        }
        for tokens in chunks {
            let column = indexes.get(gram).ok_or_else(|| {
                Reason::new(format!(
                    "ngram_indexes has {} elements, fewer than there are n-grams",
                    indexes.len()
                ))
            })?;
            if (least_length..=most_length).contains(&length) {
                grams.insert(tokens, *column);
            }
            gram += 1;
        }
    }
    Ok(Box::new(TfIdfVectorizer {
        weighting,
        least_length,
        most_length,
        skips,
        tokens,
        grams,
        weights,
        columns,
    }))
}

impl TfIdfVectorizer {
    /// The output's extents for an input's.
    fn shape(&self, input: &[usize]) -> Result<Vec<usize>, Reason> {
        match input {
            [] | [_] => Ok(vec![self.columns]),
            [rows, _] if *rows > 0 => Ok(vec![*rows, self.columns]),
            other => Err(Reason::new(format!("the input has shape {other:?}, not [C] or [B, C]"))),
        }
    }

    fn count(&self, row: &[Option<usize>], counts: &mut [f32]) {
        let mut least = self.least_length;
        for step in 1..=self.skips.saturating_add(1) {
            for start in 0..row.len() {
                // No n-gram that is long enough begins here, nor does one further on.
                if (least - 1).saturating_mul(step) >= row.len() - start {
                    break;
                }
                let mut node = 0;
                let tokens = row[start..].iter().step_by(step).take(self.most_length);
                for (index, token) in tokens.enumerate() {
                    let Some(next) = token.and_then(|token| self.grams.steps.get(&(node, token))) else {
                        break;
                    };
                    node = *next;
                    let column = self.grams.columns.get(node).copied().flatten();
                    if index + 1 >= least
                        && let Some(count) = column.and_then(|column| counts.get_mut(column))
                    {
                        *count += 1.0;
                    }
                }
            }
            // Single tokens skip nothing: they are counted once.
            least = least.max(2);
            if least > self.most_length || step >= row.len() {
                break;
            }
        }
    }
}

impl Operator for TfIdfVectorizer {
    fn name(&self) -> &'static str {
        "TfIdfVectorizer"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let x = node.ty(0)?;
        expect_dtype(x, &[DataType::I32, DataType::I64])?;
        if matches!(self.tokens, Pool::Strings(_)) {
            return Err(Reason::new(format!("input 0 is {x}, the n-grams are strings")));
        }
        Ok(vec![TensorType::new(DataType::F32, self.shape(&x.shape)?)])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (tokens, input): (Vec<Option<usize>>, &[usize]) = match (&self.tokens, node.value(0)?) {
            (Pool::Integers(pool), Value::Tensor(x)) => {
                let values = x
                    .to_i64s()
                    .ok_or_else(|| Reason::new(format!("element type {} is not supported", x.ty().dtype)))?;
                (values.iter().map(|token| pool.get(token).copied()).collect(), &x.ty().shape)
            }
            (Pool::Strings(pool), Value::Strings(x)) => {
                (x.data().iter().map(|token| pool.get(token).copied()).collect(), x.shape())
            }
            (Pool::Integers(_), other) => {
                return Err(Reason::new(format!(
                    "input 0 is {}, the n-grams are integers",
                    other.describe()
                )));
            }
            (Pool::Strings(_), other) => {
                return Err(Reason::new(format!("input 0 is {}, the n-grams are strings", other.describe())));
            }
        };
        let ty = TensorType::new(DataType::F32, self.shape(input)?);
        let mut counts = vec![0f32; checked_elements(&ty)?];
        let length = input.last().copied().unwrap_or(1);
        if length > 0 && self.columns > 0 {
            for (row, counts) in tokens.chunks(length).zip(counts.chunks_mut(self.columns)) {
                self.count(row, counts);
            }
        }
        if self.columns > 0 && self.weighting != Weighting::Tf {
            for counts in counts.chunks_mut(self.columns) {
                for (column, count) in counts.iter_mut().enumerate() {
                    let weight = if self.weights.is_empty() {
                        1.0
                    } else {
                        self.weights.get(column).copied().unwrap_or(0.0)
                    };
                    *count = match self.weighting {
                        Weighting::Idf if *count > 0.0 => weight,
                        Weighting::Idf => 0.0,
                        _ => *count * weight,
                    };
                }
            }
        }
        let counts = Constant::checked(ty, &counts).ok_or_else(|| Reason::new("an output lost its type"))?;
        Ok(Some(vec![Value::Tensor(counts)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, import, run_values, tensor};
    use crate::value::Strings;

    fn attributes(mode: &str, lengths: (i64, i64), skips: i64) -> Vec<(&'static str, Attribute)> {
        vec![
            ("mode", mode.into()),
            ("min_gram_length", lengths.0.into()),
            ("max_gram_length", lengths.1.into()),
            ("max_skip_count", skips.into()),
            ("ngram_counts", vec![0i64, 2].into()),
            ("ngram_indexes", vec![2i64, 0, 1].into()),
        ]
    }

    #[test]
    fn unigrams_count_once_and_bigrams_skip() {
        let mut with = attributes("TF", (1, 2), 1);
        with.push(("pool_int64s", vec![5i64, 6, 5, 6].into()));
        let x = tensor(DataType::I32, [2, 4], &[5i32, 5, 6, 6, 6, 5, 7, 5]);
        let outputs = run_values(("TfIdfVectorizer", 9), &with, &[Some(x.into())], 1).unwrap();
        // 5 6 lies side by side once, and twice with one between.
        assert_eq!(outputs, [f32s([2, 3], &[2.0, 3.0, 2.0, 1.0, 0.0, 2.0]).into()]);
        let wrong = run_values(("TfIdfVectorizer", 9), &with, &[Some(i64s([0, 2], &[]).into())], 1);
        assert!(wrong.is_err());
    }

    #[test]
    fn weights_are_those_of_columns() {
        let mut with = attributes("TFIDF", (2, 2), 0);
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        with.push(("pool_strings", Attribute::Strings(words(&["a", "b", "a", "b"]))));
        with.push(("weights", Attribute::Floats(vec![1.0, 0.5, 2.0])));
        let x = Strings::new([5], words(&["a", "b", "a", "b", "a"])).unwrap();
        let outputs = run_values(("TfIdfVectorizer", 9), &with, &[Some(x.into())], 1).unwrap();
        assert_eq!(outputs, [f32s([3], &[0.0, 1.0, 0.0]).into()]);
        with.pop();
        with.push(("weights", Attribute::Floats(vec![1.0])));
        assert!(import(("TfIdfVectorizer", 9), &with, 1, 1).is_err());
    }

    #[test]
    fn broken_pools_are_refused() {
        let mut with = attributes("TF", (1, 2), 0);
        with.push(("pool_int64s", vec![5i64, 6, 5].into()));
        assert!(import(("TfIdfVectorizer", 9), &with, 1, 1).is_err());
        with.pop();
        with.push(("pool_int64s", vec![5i64].into()));
        assert!(import(("TfIdfVectorizer", 9), &with, 1, 1).is_err());
    }
}
