//! The sequence operators: lists of tensors of one element type.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__SequenceAt.html>, and so on.
//! Types: tensors of every element type, strings included; positions are i64 or i32.
//! History: since opset 11; SplitToSequence takes more element types since 24.
//!
//! A sequence has no element type while it is empty: what is inserted first decides it.

use super::elements::{expect_memory, resolve_index};
use super::value_parts::{Stack, bytes, concat, entry, slice, tensor_form};
use super::{ImportNode, NodeTypes, NodeValues, Operator, Row, resolve_axis};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::{ElementType, Value};

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "SequenceEmpty", domain: "", since: 11, inputs: 0..=0, outputs: 1..=1, import },
    Row { name: "SequenceConstruct", domain: "", since: 11, inputs: 1..=usize::MAX, outputs: 1..=1, import },
    Row { name: "SequenceInsert", domain: "", since: 11, inputs: 2..=3, outputs: 1..=1, import },
    Row { name: "SequenceErase", domain: "", since: 11, inputs: 1..=2, outputs: 1..=1, import },
    Row { name: "SequenceAt", domain: "", since: 11, inputs: 2..=2, outputs: 1..=1, import },
    Row { name: "SequenceLength", domain: "", since: 11, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "SplitToSequence", domain: "", since: 11, inputs: 1..=2, outputs: 1..=1, import },
    Row { name: "ConcatFromSequence", domain: "", since: 11, inputs: 1..=1, outputs: 1..=1, import },
];

/// The most tensors that a split gives: a tensor of no elements may have an axis of any length.
const MAX_PARTS: usize = 1 << 22;

/// An operator on sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// SequenceEmpty.
    Empty,
    /// SequenceConstruct.
    Construct,
    /// SequenceInsert.
    Insert,
    /// SequenceErase.
    Erase,
    /// SequenceAt.
    At,
    /// SequenceLength.
    Length,
    /// SplitToSequence.
    Split {
        /// The axis; negative ones count from the end.
        axis: i64,
        /// Whether parts of one entry keep the axis, where no lengths are given.
        keepdims: bool,
    },
    /// ConcatFromSequence.
    Concat {
        /// The axis; negative ones count from the end.
        axis: i64,
        /// Whether the axis is a new one.
        new_axis: bool,
    },
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    Ok(Box::new(match node.op_type.as_str() {
        "SequenceEmpty" => {
            let code = attributes.int("dtype")?.unwrap_or(DataType::F32 as i64);
            /// Strings, which are no numbers.
            const STRING: i64 = 8;
            if code != STRING && i32::try_from(code).ok().and_then(DataType::from_onnx).is_none() {
                return Err(Reason::new(format!("element type number {code} is not supported")));
            }
            Sequence::Empty
        }
        "SequenceConstruct" => Sequence::Construct,
        "SequenceInsert" => Sequence::Insert,
        "SequenceErase" => Sequence::Erase,
        "SequenceAt" => Sequence::At,
        "SequenceLength" => Sequence::Length,
        "SplitToSequence" => Sequence::Split {
            axis: attributes.int("axis")?.unwrap_or(0),
            keepdims: attributes.flag("keepdims", true)?,
        },
        _ => Sequence::Concat {
            axis: attributes.int("axis")?.ok_or_else(|| Reason::new("attribute `axis` is missing"))?,
            new_axis: attributes.flag("new_axis", false)?,
        },
    }))
}

impl Operator for Sequence {
    fn name(&self) -> &'static str {
        match self {
            Sequence::Empty => "SequenceEmpty",
            Sequence::Construct => "SequenceConstruct",
            Sequence::Insert => "SequenceInsert",
            Sequence::Erase => "SequenceErase",
            Sequence::At => "SequenceAt",
            Sequence::Length => "SequenceLength",
            Sequence::Split { .. } => "SplitToSequence",
            Sequence::Concat { .. } => "ConcatFromSequence",
        }
    }

    fn infer(&self, _node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        match self {
            Sequence::Length => Ok(vec![TensorType::new(DataType::I64, [])]),
            _ => Err(Reason::at_run_time("the types of its outputs")),
        }
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn is_foldable(&self) -> bool {
        false
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let output = match self {
            Sequence::Empty => Value::Sequence(Vec::new()),
            Sequence::Construct => {
                let values = (0..node.inputs.len()).map(|index| node.value(index).cloned());
                checked(values.collect::<Result<Vec<_>, _>>()?)?
            }
            Sequence::Insert => {
                let (values, value) = (node.sequence(0)?, node.value(1)?);
                let index = match position(node, 2, values.len(), values.len() + 1)? {
                    Some(index) => index,
                    None => values.len(),
                };
                let mut longer = Vec::with_capacity(values.len() + 1);
                longer.extend_from_slice(&values[..index]);
                longer.push(value.clone());
                longer.extend_from_slice(&values[index..]);
                checked(longer)?
            }
            Sequence::Erase => {
                let values = node.sequence(0)?;
                let last = || values.len().checked_sub(1);
                let index = position(node, 1, values.len(), values.len())?.or_else(last);
                let index = index.ok_or_else(|| Reason::new("an empty sequence has nothing to erase"))?;
                let mut shorter = values.to_vec();
                shorter.remove(index);
                Value::Sequence(shorter)
            }
            Sequence::At => {
                let values = node.sequence(0)?;
                let index = position(node, 1, values.len(), values.len())?;
                let value = index.and_then(|index| values.get(index));
                value.ok_or_else(|| Reason::new("input 1 is missing"))?.clone()
            }
            Sequence::Length => {
                let length = node.sequence(0)?.len() as i64;
                Constant::of(TensorType::new(DataType::I64, []), &[length]).into()
            }
            Sequence::Split { axis, keepdims } => split(node, *axis, *keepdims)?,
            Sequence::Concat { axis, new_axis: false } => concat(node.sequence(0)?, *axis)?,
            Sequence::Concat { axis, new_axis: true } => {
                let mut stack = Stack::default();
                for value in node.sequence(0)? {
                    stack.push(value)?;
                }
                if stack.len() == 0 {
                    return Err(Reason::new("an empty sequence has nothing to concatenate"));
                }
                stack.finish(*axis, false)?
            }
        };
        Ok(Some(vec![output]))
    }
}

/// A sequence of these tensors, refused where their element types differ or they are too large together.
pub(super) fn checked(values: Vec<Value>) -> Result<Value, Reason> {
    let mut first: Option<ElementType> = None;
    let mut sum = 0usize;
    for value in &values {
        let (element, _) = tensor_form(value, "an element of a sequence")?;
        match first {
            Some(first) if first != element => {
                let value = value.describe();
                return Err(Reason::new(format!("{value} cannot be in a sequence of {first} tensors")));
            }
            _ => first = Some(element),
        }
        sum = sum.saturating_add(bytes(value));
    }
    expect_memory(sum, "the sequence")?;
    Ok(Value::Sequence(values))
}

/// The position that input `index` gives in a sequence of `length`, below `end`; negative ones count from the back.
fn position(node: &NodeValues<'_>, index: usize, length: usize, end: usize) -> Result<Option<usize>, Reason> {
    if node.optional(index).is_none() {
        return Ok(None);
    }
    let given = node.i64(index)?;
    if length < end && usize::try_from(given) == Ok(length) {
        return Ok(Some(length));
    }
    resolve_index(given, length).map(Some)
}

fn split(node: &NodeValues<'_>, axis: i64, keepdims: bool) -> Result<Value, Reason> {
    let value = node.value(0)?;
    let (_, shape) = tensor_form(value, "input 0")?;
    let axis = resolve_axis(axis, shape.len())?;
    let extent = shape[axis];
    let lengths = match node.optional_tensor(1)? {
        Some(split) if split.ty().rank() > 0 => {
            let wrong = || Reason::new(format!("lengths {} of axis {axis}", split.ty()));
            let given = split.to_i64s().ok_or_else(wrong)?;
            let lengths: Option<Vec<usize>> = given.iter().map(|&n| usize::try_from(n).ok()).collect();
            let sum = |lengths: &[usize]| lengths.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
            lengths.filter(|lengths| sum(lengths) == Some(extent)).ok_or_else(|| {
                let shown = &given[..given.len().min(16)];
                Reason::new(format!("lengths {shown:?} do not add up to the extent {extent} of axis {axis}"))
            })?
        }
        split => {
            let given = if split.is_some() { node.i64(1)? } else { 1 };
            let length = usize::try_from(given).ok().filter(|&length| length > 0);
            let length =
                length.ok_or_else(|| Reason::new(format!("parts of {given} entries are not possible")))?;
            if extent.div_ceil(length) > MAX_PARTS {
                return Err(Reason::new(format!(
                    "{extent} entries in parts of {length}, at most {MAX_PARTS} parts are supported"
                )));
            }
            let starts = (0..extent).step_by(length);
            starts.map(|start| length.min(extent - start)).collect()
        }
    };
    let squeezed = !keepdims && node.optional(1).is_none();
    let mut start = 0;
    let mut parts = Vec::with_capacity(lengths.len());
    for length in lengths {
        parts.push(if squeezed { entry(value, axis, start)? } else { slice(value, axis, start, length)? });
        start += length;
    }
    Ok(Value::Sequence(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, run_values};

    fn run(name: &str, attributes: &[(&str, Attribute)], inputs: &[Value]) -> Result<Value, Reason> {
        let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
        Ok(run_values((name, 24), attributes, &inputs, 1)?.swap_remove(0))
    }

    fn one(name: &str, attributes: &[(&str, Attribute)], input: &Value) -> Result<Value, Reason> {
        run(name, attributes, std::slice::from_ref(input))
    }

    fn number(value: i64) -> Value {
        i64s([], &[value]).into()
    }

    fn numbers(values: &[i64]) -> Value {
        Value::Sequence(values.iter().map(|&value| number(value)).collect())
    }

    #[test]
    fn elements_come_and_go_at_positions_from_either_end() {
        let x = numbers(&[1, 2, 3]);
        let insert = |at: i64| run("SequenceInsert", &[], &[x.clone(), number(9), number(at)]);
        assert_eq!(insert(0).unwrap(), numbers(&[9, 1, 2, 3]));
        assert_eq!(insert(3).unwrap(), numbers(&[1, 2, 3, 9]));
        assert_eq!(insert(-1).unwrap(), numbers(&[1, 2, 9, 3]));
        assert!(insert(4).is_err() && insert(-4).is_err() && insert(i64::MIN).is_err());
        assert_eq!(run("SequenceInsert", &[], &[x.clone(), number(9)]).unwrap(), numbers(&[1, 2, 3, 9]));
        let erase = |at: i64| run("SequenceErase", &[], &[x.clone(), number(at)]);
        assert_eq!(erase(-3).unwrap(), numbers(&[2, 3]));
        assert!(erase(3).is_err());
        assert_eq!(one("SequenceErase", &[], &x).unwrap(), numbers(&[1, 2]));
        assert!(run("SequenceErase", &[], &[numbers(&[])]).is_err());
        assert_eq!(run("SequenceAt", &[], &[x.clone(), number(-1)]).unwrap(), number(3));
        assert!(run("SequenceAt", &[], &[x.clone(), number(3)]).is_err());
        assert_eq!(one("SequenceLength", &[], &x).unwrap(), number(3));
        assert_eq!(run("SequenceEmpty", &[("dtype", 8.into())], &[]).unwrap(), numbers(&[]));
        assert!(run("SequenceEmpty", &[("dtype", 99.into())], &[]).is_err());
        assert_eq!(run("SequenceConstruct", &[], &[number(1), number(2)]).unwrap(), numbers(&[1, 2]));
        assert!(run("SequenceConstruct", &[], &[number(1), f32s([], &[1.0]).into()]).is_err());
        assert!(run("SequenceInsert", &[], &[x.clone(), x]).is_err());
        assert!(run("SequenceLength", &[], &[number(1)]).is_err());
    }

    #[test]
    fn tensors_are_split_and_joined() {
        let x: Value = i64s([3, 2], &[1, 2, 3, 4, 5, 6]).into();
        let parts = Value::Sequence(vec![
            i64s([2, 2], &[1, 2, 3, 4]).into(),
            i64s([1, 2], &[5, 6]).into(), //
        ]);
        assert_eq!(run("SplitToSequence", &[], &[x.clone(), number(2)]).unwrap(), parts);
        assert_eq!(run("SplitToSequence", &[], &[x.clone(), i64s([2], &[2, 1]).into()]).unwrap(), parts);
        assert!(run("SplitToSequence", &[], &[x.clone(), i64s([2], &[2, 2]).into()]).is_err());
        assert!(run("SplitToSequence", &[], &[x.clone(), i64s([2], &[4, -1]).into()]).is_err());
        assert!(run("SplitToSequence", &[], &[x.clone(), number(0)]).is_err());
        assert_eq!(run("ConcatFromSequence", &[("axis", 0.into())], &[parts]).unwrap(), x);
        let columns = [("axis", Attribute::Int(-1)), ("keepdims", Attribute::Int(0))];
        let columns = one("SplitToSequence", &columns, &x).unwrap();
        let wanted = [i64s([3], &[1, 3, 5]), i64s([3], &[2, 4, 6])];
        assert_eq!(columns, Value::Sequence(wanted.map(Value::Tensor).to_vec()));
        let stacked = [("axis", Attribute::Int(-1)), ("new_axis", Attribute::Int(1))];
        assert_eq!(run("ConcatFromSequence", &stacked, &[columns]).unwrap(), x);
        assert!(run("ConcatFromSequence", &stacked, &[numbers(&[])]).is_err());
    }
}
