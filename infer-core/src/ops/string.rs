//! StringConcat, StringSplit, StringNormalizer and RegexFullMatch: tensors of strings.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__StringConcat.html>,
//! <https://onnx.ai/onnx/operators/onnx__StringSplit.html>,
//! <https://onnx.ai/onnx/operators/onnx__StringNormalizer.html>,
//! <https://onnx.ai/onnx/operators/onnx__RegexFullMatch.html>
//! Types: strings.
//! History: StringNormalizer since opset 10, the others since 20.

use std::collections::HashSet;

use super::elements::{Elements, broadcast_indices, expect_elements, expect_memory};
use super::regex_syntax;
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::{ImportNode, NodeValues, Operator, Row, broadcast};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "StringConcat", domain: "", since: 20, inputs: 2..=2, outputs: 1..=1, import: import_concat },
    Row { name: "StringSplit", domain: "", since: 20, inputs: 1..=1, outputs: 1..=2, import: import_split },
    Row {
        name: "StringNormalizer",
        domain: "",
        since: 10,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_normalizer,
    },
    Row {
        name: "RegexFullMatch",
        domain: "",
        since: 20,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_full_match,
    },
];

/// What may take no more than a tensor.
const STRINGS: &str = "the strings of the output";

/// StringConcat: each string of one tensor followed by one of another; both broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringConcat;

/// StringSplit: the pieces of each string, padded with empty strings, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringSplit {
    /// What lies between the pieces; any amount of white space where it is empty.
    pub delimiter: String,
    /// The most splits of one string, from its start.
    pub most: Option<usize>,
}

/// What StringNormalizer does with letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseChange {
    /// Nothing.
    None,
    /// Makes them lower case.
    Lower,
    /// Makes them upper case.
    Upper,
}

/// StringNormalizer: strings without those that are stop words, in upper or lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringNormalizer {
    /// What is done with letters.
    pub case: CaseChange,
    /// Whether stop words are compared as they are.
    pub is_case_sensitive: bool,
    /// The stop words.
    pub stop_words: Vec<String>,
}

/// RegexFullMatch: whether a regular expression matches the whole of each string.
#[derive(Clone, Debug)]
pub struct RegexFullMatch {
    regex: regex::Regex,
}

fn import_concat(_: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(StringConcat))
}

fn import_split(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let delimiter = node.attributes.string("delimiter")?.unwrap_or_default();
    // A negative number is no limit, as in Python's `split`.
    let most = node.attributes.int("maxsplit")?.and_then(|most| usize::try_from(most).ok());
    Ok(Box::new(StringSplit { delimiter, most }))
}

fn import_normalizer(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let case = match node.attributes.string("case_change_action")?.as_deref() {
        None | Some("NONE") => CaseChange::None,
        Some("LOWER") => CaseChange::Lower,
        Some("UPPER") => CaseChange::Upper,
        Some(other) => {
            return Err(Reason::new(format!("case_change_action {} is not supported", quote(other)))
                .supported("NONE, LOWER, UPPER"));
        }
    };
    // Unicode's own rules serve every locale but a few; results do not depend on the machine.
    node.attributes.ignore("locale");
    Ok(Box::new(StringNormalizer {
        case,
        is_case_sensitive: node.attributes.flag("is_case_sensitive", false)?,
        stop_words: node.attributes.strings("stopwords")?.unwrap_or_default(),
    }))
}

fn import_full_match(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let pattern =
        node.attributes.string("pattern")?.ok_or_else(|| Reason::new("attribute `pattern` is missing"))?;
    Ok(Box::new(RegexFullMatch { regex: regex_syntax::full_match(&pattern)? }))
}

impl Operator for StringConcat {
    fn name(&self) -> &'static str {
        "StringConcat"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (x, y) = (node.strings(0)?, node.strings(1)?);
        let shape = broadcast(&[x.shape(), y.shape()])?;
        expect_elements(&shape, size_of::<String>())?;
        let pairs =
            broadcast_indices(x.shape(), &shape)?.into_iter().zip(broadcast_indices(y.shape(), &shape)?);
        let mut strings = Vec::with_capacity(pairs.len());
        let mut bytes = 0usize;
        for (first, second) in pairs {
            let (Some(first), Some(second)) = (x.data().get(first), y.data().get(second)) else {
                return Err(Reason::new("a string outside of its tensor"));
            };
            bytes += first.len() + second.len();
            expect_memory(bytes, STRINGS)?;
            strings.push(format!("{first}{second}"));
        }
        Ok(Some(vec![Elements::Strings(strings).into_value(shape)?]))
    }
}

impl StringSplit {
    fn pieces<'a>(&self, string: &'a str) -> Vec<&'a str> {
        let most = self.most.unwrap_or(usize::MAX);
        if !self.delimiter.is_empty() {
            return string.splitn(most.saturating_add(1), &self.delimiter).collect();
        }
        let mut pieces = Vec::new();
        let mut rest = string.trim_start();
        while !rest.is_empty() {
            if pieces.len() == most {
                pieces.push(rest);
                break;
            }
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(end);
            pieces.push(piece);
            rest = after.trim_start();
        }
        pieces
    }
}

impl Operator for StringSplit {
    fn name(&self) -> &'static str {
        "StringSplit"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.strings(0)?;
        let mut bytes = 0usize;
        let mut pieces = Vec::with_capacity(x.data().len());
        for string in x.data() {
            let split = self.pieces(string);
            bytes = bytes.saturating_add(split.len().saturating_mul(size_of::<&str>()));
            expect_memory(bytes, STRINGS)?;
            pieces.push(split);
        }
        let columns = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let elements = expect_elements(&[pieces.len(), columns], size_of::<String>())?;
        let mut strings = Vec::with_capacity(elements);
        for split in &pieces {
            strings.extend(split.iter().map(|&piece| piece.to_owned()));
            strings.resize(strings.len() + columns - split.len(), String::new());
        }
        let mut shape = x.shape().to_vec();
        shape.push(columns);
        let counts: Vec<i64> = pieces.iter().map(|split| split.len() as i64).collect();
        let counts = Constant::checked(TensorType::new(DataType::I64, x.shape()), &counts)
            .ok_or_else(|| Reason::new("a tensor of too many strings"))?;
        Ok(Some(vec![Elements::Strings(strings).into_value(shape)?, Value::Tensor(counts)]))
    }
}

impl CaseChange {
    fn apply(self, string: &str) -> String {
        match self {
            CaseChange::None => string.to_owned(),
            CaseChange::Lower => string.to_lowercase(),
            CaseChange::Upper => string.to_uppercase(),
        }
    }
}

impl Operator for StringNormalizer {
    fn name(&self) -> &'static str {
        "StringNormalizer"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.strings(0)?;
        if !matches!(x.shape(), [_] | [1, _]) {
            return Err(Reason::new(format!("input 0 is {x}, not of shape [C] or [1, C]")));
        }
        let compared = match (self.is_case_sensitive, self.case) {
            (true, _) => CaseChange::None,
            (false, CaseChange::Upper) => CaseChange::Upper,
            (false, _) => CaseChange::Lower,
        };
        let stop_words: HashSet<String> = self.stop_words.iter().map(|word| compared.apply(word)).collect();
        let kept = x.data().iter().filter(|string| !stop_words.contains(&compared.apply(string)));
        let mut strings: Vec<String> = kept.map(|string| self.case.apply(string)).collect();
        if strings.is_empty() {
            strings.push(String::new());
        }
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = strings.len();
        }
        Ok(Some(vec![Elements::Strings(strings).into_value(shape)?]))
    }
}

impl Operator for RegexFullMatch {
    fn name(&self) -> &'static str {
        "RegexFullMatch"
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.strings(0)?;
        let matches: Vec<bool> = x.data().iter().map(|string| self.regex.is_match(string)).collect();
        let matches = Constant::checked(TensorType::new(DataType::Bool, x.shape()), &matches)
            .ok_or_else(|| Reason::new("a tensor of too many strings"))?;
        Ok(Some(vec![Value::Tensor(matches)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, i64s, import, run_values};
    use crate::value::Strings;

    fn strings(shape: &[usize], values: &[&str]) -> Value {
        Value::Strings(Strings::new(shape, values.iter().map(|&v| v.to_owned()).collect()).unwrap())
    }

    #[test]
    fn concatenation_broadcasts() {
        let inputs = [Some(strings(&[2, 1], &["a", "ü"])), Some(strings(&[2], &["", "z"]))];
        let outputs = run_values(("StringConcat", 20), &[], &inputs, 1).unwrap();
        assert_eq!(outputs, [strings(&[2, 2], &["a", "az", "ü", "üz"])]);
        let wrong = [Some(strings(&[2], &["a", "b"])), Some(strings(&[3], &["", "z", ""]))];
        assert!(run_values(("StringConcat", 20), &[], &wrong, 1).is_err());
        assert!(run_values(("StringConcat", 20), &[], &[Some(i64s([1], &[1]).into()), None], 1).is_err());
    }

    #[test]
    fn splitting_keeps_what_is_left() {
        let split = |attributes: &[(&str, Attribute)], values: &[&str]| {
            let input = [Some(strings(&[values.len()], values))];
            run_values(("StringSplit", 20), attributes, &input, 2).unwrap()
        };
        let words = split(&[("maxsplit", 1.into())], &[" a  b c ", ""]);
        assert_eq!(words, [strings(&[2, 2], &["a", "b c ", "", ""]), i64s([2], &[2, 0]).into()]);
        let fields = split(&[("delimiter", ",".into())], &["a,,b", ""]);
        assert_eq!(fields, [strings(&[2, 3], &["a", "", "b", "", "", ""]), i64s([2], &[3, 1]).into()]);
        assert_eq!(split(&[], &[]), [strings(&[0, 0], &[]), i64s([0], &[]).into()]);
    }

    #[test]
    fn stop_words_are_dropped() {
        let normalize = |case: &str, sensitive: i64, values: &[&str]| {
            let stop_words = Attribute::Strings(vec!["Monday".to_owned()]);
            let attributes = [
                ("case_change_action", case.into()),
                ("is_case_sensitive", sensitive.into()),
                ("stopwords", stop_words),
            ];
            let input = [Some(strings(&[1, values.len()], values))];
            run_values(("StringNormalizer", 10), &attributes, &input, 1).unwrap().swap_remove(0)
        };
        assert_eq!(normalize("UPPER", 0, &["monday", "Maß"]), strings(&[1, 1], &["MASS"]));
        assert_eq!(normalize("NONE", 1, &["monday", "Monday"]), strings(&[1, 1], &["monday"]));
        assert_eq!(normalize("LOWER", 1, &["Monday"]), strings(&[1, 1], &[""]));
    }

    #[test]
    fn the_whole_string_must_match() {
        let matches = |pattern: &str, values: &[&str]| {
            let input = [Some(strings(&[values.len()], values))];
            let outputs = run_values(("RegexFullMatch", 20), &[("pattern", pattern.into())], &input, 1);
            outputs.unwrap().swap_remove(0)
        };
        let expected = bools([3], &[true, false, false]);
        assert_eq!(matches("a|ab", &["ab", "abc", "xa"]), expected.into());
        let broken = import(("RegexFullMatch", 20), &[("pattern", "(a".into())], 1, 1).unwrap_err();
        assert_eq!(broken.what, "pattern `(a` is not a regular expression: unclosed group");
    }
}
