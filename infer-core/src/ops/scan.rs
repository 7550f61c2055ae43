//! Scan: a graph for each entry along an axis, which carries a state from one to the next.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Scan.html>
//! Types: tensors of every element type.
//! History: opset 8 has a batch as axis 0, scans axis 1, and may be told the length of each sequence; since 9 there is
//! no batch, and each input and output has an axis and a direction of its own.

use std::sync::Arc;

use super::control_flow::{body, own};
use super::elements::expect_memory;
use super::value_parts::{Stack, entry, tensor_form};
use super::{ImportNode, NodeTypes, NodeValues, Operator, resolve_axis};
use crate::diagnostic::Reason;
use crate::program::Program;
use crate::value::Value;

/// Scan.
#[derive(Debug)]
pub struct Scan {
    /// The graph: the states and an entry of each scanned input, to the states and an entry of each collected output.
    pub body: Arc<Program>,
    /// How many inputs are the operator's own.
    pub inputs: usize,
    /// How many states there are.
    pub states: usize,
    /// Whether the inputs are a batch, after input 0 with the length of each of its sequences.
    pub batched: bool,
    /// For each scanned input its axis and whether it is scanned from the end.
    pub scanned: Vec<(i64, bool)>,
    /// For each collected output its axis and whether it is collected from the end.
    pub collected: Vec<(i64, bool)>,
}

/// Reads the attributes of a Scan.
pub(super) fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let batched = node.opset < 9;
    let inputs = node.inputs.len();
    let given = if batched { inputs.saturating_sub(1) } else { inputs };
    let missing = || Reason::new("attribute `num_scan_inputs` is missing");
    let count = node.attributes.int("num_scan_inputs")?.ok_or_else(missing)?;
    let scanned = usize::try_from(count).ok().filter(|&count| count > 0 && count <= given);
    let scanned = scanned
        .ok_or_else(|| Reason::new(format!("num_scan_inputs is {count}, there are {given} such inputs")))?;
    let states = given - scanned;
    let body = body(node, "body", given, node.outputs.len().max(states))?;
    let collected = body.output_types().len() - states;
    let (scanned, collected) = if batched {
        let directions = directions(node, "directions", scanned)?;
        let scanned = directions.into_iter().map(|reversed| (0, reversed)).collect();
        (scanned, vec![(0, false); collected])
    } else {
        let mut both = |axes: &str, reversed: &str, count| -> Result<Vec<(i64, bool)>, Reason> {
            let axes = list(node, axes, count)?;
            Ok(axes.into_iter().zip(directions(node, reversed, count)?).collect())
        };
        (
            both("scan_input_axes", "scan_input_directions", scanned)?,
            both("scan_output_axes", "scan_output_directions", collected)?,
        )
    };
    Ok(Box::new(Scan { body, inputs, states, batched, scanned, collected }))
}

/// The INTS attribute `name` of `count` entries, zeros where it is left out.
fn list(node: &mut ImportNode, name: &str, count: usize) -> Result<Vec<i64>, Reason> {
    match node.attributes.ints(name)? {
        None => Ok(vec![0; count]),
        Some(values) if values.len() == count => Ok(values),
        Some(values) => {
            let found = values.len();
            Err(Reason::new(format!("attribute `{name}` has {found} entries, not {count}")))
        }
    }
}

/// The directions of attribute `name`, true for those from the end.
fn directions(node: &mut ImportNode, name: &str, count: usize) -> Result<Vec<bool>, Reason> {
    let wrong = |value| Reason::new(format!("attribute `{name}` holds {value}, not 0 or 1"));
    let flag = |value| match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(wrong(other)),
    };
    list(node, name, count)?.into_iter().map(flag).collect()
}

impl Operator for Scan {
    fn name(&self) -> &'static str {
        "Scan"
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn is_foldable(&self) -> bool {
        false
    }

    fn is_nondeterministic(&self) -> bool {
        self.body.is_nondeterministic()
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let own = own(node, self.inputs);
        let values = (usize::from(self.batched)..self.inputs).map(|index| own.value(index).cloned());
        let mut states = values.collect::<Result<Vec<_>, _>>()?;
        let scanned = states.split_off(self.states.min(states.len()));
        if self.batched {
            return self.compute_batch(node, &own, &states, &scanned).map(Some);
        }
        let axes: Vec<i64> = self.scanned.iter().map(|(axis, _)| *axis).collect();
        let (axes, length) = common_extent(&scanned, &axes)?;
        let (mut outputs, stacks) = self.iterate(node, states, &scanned, &axes, length)?;
        for (index, (stack, &(axis, reversed))) in stacks.into_iter().zip(&self.collected).enumerate() {
            outputs.push(match node.wants(self.states + index) {
                true => stack.finish(axis, reversed)?,
                false => Value::Sequence(Vec::new()),
            });
        }
        Ok(Some(outputs))
    }
}

/// The most iterations: a tensor of no elements may have an axis of any length.
const MAX_LENGTH: usize = 1 << 24;

/// The axes of the tensors, and their extent there, which must be one.
fn common_extent(values: &[Value], axes: &[i64]) -> Result<(Vec<usize>, usize), Reason> {
    let mut resolved = Vec::with_capacity(axes.len());
    let mut common: Option<usize> = None;
    for (value, &axis) in values.iter().zip(axes) {
        let (_, shape) = tensor_form(value, "a scanned input")?;
        let axis = resolve_axis(axis, shape.len())?;
        let extent = shape[axis];
        match common {
            Some(common) if common != extent => {
                return Err(Reason::new(format!("scanned inputs have {common} and {extent} entries")));
            }
            _ => common = Some(extent),
        }
        resolved.push(axis);
    }
    let common = common.ok_or_else(|| Reason::new("there is no scanned input"))?;
    if common > MAX_LENGTH {
        return Err(Reason::new(format!("{common} entries to scan, at most {MAX_LENGTH} are supported")));
    }
    Ok((resolved, common))
}

impl Scan {
    /// The states after `length` iterations, and what they have collected.
    fn iterate(
        &self,
        node: &NodeValues<'_>,
        mut states: Vec<Value>,
        scanned: &[Value],
        axes: &[usize],
        length: usize,
    ) -> Result<(Vec<Value>, Vec<Stack>), Reason> {
        let declared = |ty: &Option<_>| ty.as_ref().and_then(Stack::declared).unwrap_or_default();
        let mut stacks: Vec<Stack> = match length {
            0 => self.body.output_types().iter().skip(self.states).map(declared).collect(),
            _ => self.collected.iter().map(|_| Stack::default()).collect(),
        };
        for iteration in 0..length {
            let mut inputs = states;
            for ((value, &axis), &(_, reversed)) in scanned.iter().zip(axes).zip(&self.scanned) {
                let index = if reversed { length - 1 - iteration } else { iteration };
                inputs.push(entry(value, axis, index)?);
            }
            let mut outputs = self.body.run(&inputs, node.inputs, node.backend)?.into_iter();
            states = outputs.by_ref().take(self.states).collect();
            let mut sum = 0usize;
            for (index, (stack, value)) in stacks.iter_mut().zip(outputs).enumerate() {
                if node.wants(self.states + index) {
                    stack.push(&value)?;
                    sum = sum.saturating_add(stack.bytes());
                }
            }
            expect_memory(sum, "what the scan collects")?;
        }
        Ok((states, stacks))
    }

    /// Each entry of the batch on its own; what its shorter sequences collect is filled up with zeros.
    fn compute_batch(
        &self,
        node: &NodeValues<'_>,
        own: &NodeValues<'_>,
        states: &[Value],
        scanned: &[Value],
    ) -> Result<Vec<Value>, Reason> {
        let (_, batch) = common_extent(scanned, &vec![0; scanned.len()])?;
        let (_, longest) = common_extent(scanned, &vec![1; scanned.len()])?;
        for state in states {
            let (_, shape) = tensor_form(state, "a state")?;
            if shape.first() != Some(&batch) {
                let state = state.describe();
                return Err(Reason::new(format!("state {state} is not of a batch of {batch}")));
            }
        }
        let lengths = match own.optional_i64s(0)? {
            None => None,
            Some(lengths) => {
                let wrong = || Reason::new(format!("sequence_lens are not {batch} lengths up to {longest}"));
                let length = |length| usize::try_from(length).ok().filter(|&length| length <= longest);
                let lengths: Option<Vec<usize>> = lengths.into_iter().map(length).collect();
                Some(lengths.filter(|lengths| lengths.len() == batch).ok_or_else(wrong)?)
            }
        };
        let mut outputs: Vec<Stack> = Vec::new();
        outputs.resize_with(self.body.output_types().len(), Stack::default);
        if batch == 0 {
            // As many entries of nothing as an empty batch has.
            self.declare(&mut outputs, states, longest)?;
        }
        for index in 0..batch {
            let length = lengths.as_ref().and_then(|lengths| lengths.get(index)).map_or(longest, |&n| n);
            let of = |values: &[Value]| -> Result<Vec<Value>, Reason> {
                values.iter().map(|value| entry(value, 0, index)).collect()
            };
            let axes = vec![0; scanned.len()];
            let (states, stacks) = self.iterate(node, of(states)?, &of(scanned)?, &axes, length)?;
            let mut sum = 0usize;
            for (position, output) in outputs.iter_mut().enumerate() {
                sum = sum.saturating_add(output.bytes());
                if let Some(state) = states.get(position) {
                    output.push(state)?;
                }
            }
            for (position, mut stack) in stacks.into_iter().enumerate() {
                let position = self.states + position;
                if let Some(output) = outputs.get_mut(position).filter(|_| node.wants(position)) {
                    stack.pad(longest)?;
                    output.push(&stack.finish(0, false)?)?;
                }
            }
            expect_memory(sum, "what the scan collects")?;
        }
        let finish = |(index, stack): (usize, Stack)| match node.wants(index) {
            true => stack.finish(0, false),
            false => Ok(Value::Sequence(Vec::new())),
        };
        outputs.into_iter().enumerate().map(finish).collect()
    }

    /// Gives the outputs of an empty batch their types: the states' own, and those that the graph declares.
    fn declare(&self, outputs: &mut [Stack], states: &[Value], longest: usize) -> Result<(), Reason> {
        for (index, (output, ty)) in outputs.iter_mut().zip(self.body.output_types()).enumerate() {
            if let Some(state) = states.get(index) {
                let (element, shape) = tensor_form(state, "a state")?;
                *output = Stack::of(element, shape.iter().skip(1).copied().collect());
            } else if let Some(mut declared) = ty.as_ref().and_then(Stack::declared) {
                declared.pad(longest)?;
                *output = Stack::like(&declared.finish(0, false)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::control_flow::tests::{graph, node};
    use crate::ops::test_support::{f32s, i64s, run_values};
    use crate::record::GraphRecord;
    use crate::tensor_type::{DataType, TensorType};

    /// The sum of what was scanned, which is also collected.
    fn sum() -> Attribute {
        let add = node("Add", &[], &[0, 1], &[2]);
        let mut record = graph(4, &[0, 1], &[2, 3], vec![add, node("Identity", &[], &[2], &[3])]);
        record.outputs[1].1 = Some(TensorType::new(DataType::F32, [2]).into());
        Attribute::Graph(Arc::new(record))
    }

    fn scan(opset: i64, attributes: &[(&str, Attribute)], inputs: &[Option<Constant>]) -> Vec<Value> {
        let mut all = vec![("body", sum()), ("num_scan_inputs", Attribute::Int(1))];
        all.extend_from_slice(attributes);
        let inputs: Vec<_> = inputs.iter().map(|input| input.clone().map(Value::Tensor)).collect();
        run_values(("Scan", opset), &all, &inputs, 2).unwrap()
    }

    #[test]
    fn states_go_along_any_axis_in_either_direction() {
        let start = f32s([2], &[0.0, 0.0]);
        let zero = Some(start.clone());
        let x = Some(f32s([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let sums: Value = f32s([2], &[9.0, 12.0]).into();
        let collected = scan(9, &[], &[zero.clone(), x.clone()]);
        let rows = f32s([3, 2], &[1.0, 2.0, 4.0, 6.0, 9.0, 12.0]);
        assert_eq!(collected, [sums.clone(), rows.into()]);
        let ints = |value: i64| Attribute::Ints(vec![value]);
        let reversed = [
            ("scan_input_directions", ints(1)),
            ("scan_output_directions", ints(1)),
            ("scan_output_axes", ints(-1)),
        ];
        let columns = f32s([2, 3], &[9.0, 8.0, 5.0, 12.0, 10.0, 6.0]);
        assert_eq!(scan(11, &reversed, &[zero.clone(), x]), [sums.clone(), columns.into()]);
        let columns = Some(f32s([2, 3], &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
        assert_eq!(scan(9, &[("scan_input_axes", ints(1))], &[zero.clone(), columns])[0], sums);
        let nothing = scan(9, &[], &[zero, Some(f32s([0, 2], &[]))]);
        assert_eq!(nothing, [start.into(), f32s([0, 2], &[]).into()]);
    }

    #[test]
    fn batches_have_sequences_of_different_lengths() {
        let zero = Some(f32s([2, 2], &[0.0, 0.0, 10.0, 10.0]));
        let x = Some(f32s([2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]));
        let lengths = Some(i64s([2], &[2, 1]));
        let rows = f32s([2, 2, 2], &[1.0, 2.0, 4.0, 6.0, 15.0, 16.0, 0.0, 0.0]);
        let sums = f32s([2, 2], &[4.0, 6.0, 15.0, 16.0]);
        assert_eq!(scan(8, &[], &[lengths, zero.clone(), x.clone()]), [sums.into(), rows.into()]);
        let all = scan(8, &[("directions", vec![1].into())], &[None, zero, x]);
        assert_eq!(all[0], f32s([2, 2], &[4.0, 6.0, 22.0, 24.0]).into());
        let empty = |shape: &[usize]| Constant::checked::<f32>(TensorType::new(DataType::F32, shape), &[]);
        let nothing = scan(8, &[], &[None, empty(&[0, 2]), empty(&[0, 3, 2])]);
        assert_eq!(nothing[1], empty(&[0, 3, 2]).unwrap().into());
    }

    #[test]
    fn wrong_inputs_are_refused() {
        let attributes = [("body", sum()), ("num_scan_inputs", Attribute::Int(1))];
        let run = |attributes: &[(&str, Attribute)], opset, inputs: &[Constant]| {
            let inputs: Vec<_> = inputs.iter().map(|input| Some(Value::Tensor(input.clone()))).collect();
            run_values(("Scan", opset), attributes, &inputs, 2)
        };
        let (state, x) = (f32s([2], &[0.0; 2]), f32s([3, 2], &[0.0; 6]));
        assert!(run(&attributes, 9, &[state.clone(), x.clone()]).is_ok());
        assert!(run(&attributes, 9, &[state.clone(), f32s([], &[1.0])]).is_err());
        assert!(run(&attributes[..1], 9, &[state.clone(), x.clone()]).is_err());
        assert!(run(&attributes, 9, std::slice::from_ref(&x)).is_err());
        let many = [("body", sum()), ("num_scan_inputs", Attribute::Int(3))];
        assert!(run(&many, 9, &[state.clone(), x.clone()]).is_err());
        let (batch, lengths) = (f32s([1, 3, 2], &[0.0; 6]), i64s([1], &[4]));
        assert!(run(&attributes, 8, &[lengths, f32s([1, 2], &[0.0; 2]), batch.clone()]).is_err());
        assert!(run(&attributes, 8, &[i64s([1], &[3]), f32s([2, 2], &[0.0; 4]), batch]).is_err());
        let no_outputs = GraphRecord { values: 2, inputs: vec![(0, None), (1, None)], ..Default::default() };
        let body = ("body", Attribute::Graph(Arc::new(no_outputs)));
        assert!(run(&[body, attributes[1].clone()], 9, &[state, x]).is_err());
    }
}
