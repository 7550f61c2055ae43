//! If, Loop, Scan and SequenceMap: nodes with graphs inside.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__If.html>, <https://onnx.ai/onnx/operators/onnx__Loop.html>,
//! <https://onnx.ai/onnx/operators/onnx__Scan.html>, <https://onnx.ai/onnx/operators/onnx__SequenceMap.html>
//! Types: what is carried from one iteration to the next is anything, what is collected over them is tensors.
//! History: If and Loop since opset 1 (sequences since 13, optionals since 16), Scan since 8 (with a batch) and 9
//! (without), SequenceMap since 17.
//!
//! What a graph reads of the graph around its node are further inputs of the node, after the operator's own.

use std::sync::Arc;

use super::elements::expect_memory;
use super::value_parts::{Stack, bytes};
use super::{ImportNode, NodeTypes, NodeValues, Operator, Row, scan, sequence};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::program::Program;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "If", domain: "", since: 1, inputs: 1..=1, outputs: 1..=usize::MAX, import: import_if },
    Row {
        name: "Loop",
        domain: "",
        since: 1,
        inputs: 0..=usize::MAX,
        outputs: 1..=usize::MAX,
        import: import_loop,
    },
    Row {
        name: "Scan",
        domain: "",
        since: 8,
        inputs: 1..=usize::MAX,
        outputs: 1..=usize::MAX,
        import: scan::import,
    },
    Row {
        name: "SequenceMap",
        domain: "",
        since: 17,
        inputs: 1..=usize::MAX,
        outputs: 1..=usize::MAX,
        import: import_map,
    },
];

/// The program of the graph that is attribute `name`, which must have this many inputs and at least as many outputs.
pub(super) fn body(
    node: &mut ImportNode,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<Arc<Program>, Reason> {
    let missing = || Reason::new(format!("attribute `{name}` is missing"));
    let record = node.attributes.graph(name)?.ok_or_else(missing)?;
    let program = Program::new(&record)?;
    if program.inputs() != inputs {
        let found = program.inputs();
        return Err(Reason::new(format!("graph `{name}` has {found} inputs, not {inputs}")));
    }
    if program.output_types().len() < outputs {
        let found = program.output_types().len();
        return Err(Reason::new(format!("graph `{name}` has {found} outputs, not {outputs}")));
    }
    Ok(Arc::new(program))
}

/// The operator's own inputs, `count` of them, without what its graphs read of the graph around.
pub(super) fn own<'a>(node: &NodeValues<'a>, count: usize) -> NodeValues<'a> {
    NodeValues { inputs: &node.inputs[..count.min(node.inputs.len())], ..*node }
}

/// The value of a tensor of one bool, called `name` in messages.
fn truth(value: &Value, name: &str) -> Result<bool, Reason> {
    let tensor = value.as_tensor().filter(|tensor| tensor.ty().dtype == DataType::Bool);
    match tensor.map(|tensor| tensor.data().as_ref()) {
        Some([byte]) => Ok(*byte != 0),
        _ => Err(Reason::new(format!("{name} is {}, not one bool", value.describe()))),
    }
}

/// If: one graph or the other.
#[derive(Debug)]
pub struct If {
    /// The graph that runs where the condition is true.
    pub then_branch: Arc<Program>,
    /// The graph that runs where it is false.
    pub else_branch: Arc<Program>,
}

fn import_if(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let outputs = node.outputs.len();
    Ok(Box::new(If {
        then_branch: body(node, "then_branch", 0, outputs)?,
        else_branch: body(node, "else_branch", 0, outputs)?,
    }))
}

impl Operator for If {
    fn name(&self) -> &'static str {
        "If"
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn is_foldable(&self) -> bool {
        false
    }

    fn is_nondeterministic(&self) -> bool {
        self.then_branch.is_nondeterministic() || self.else_branch.is_nondeterministic()
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let branch =
            if truth(node.value(0)?, "the condition")? { &self.then_branch } else { &self.else_branch };
        branch.run(&[], node.inputs, node.backend).map(Some)
    }
}

/// Loop: a graph again and again.
#[derive(Debug)]
pub struct Loop {
    /// The graph: the iteration, the condition and what is carried, to the condition, what is carried and what is
    /// collected.
    pub body: Arc<Program>,
    /// How many inputs are the operator's own.
    pub inputs: usize,
    /// How many values are carried from one iteration to the next.
    pub carried: usize,
}

fn import_loop(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let inputs = node.inputs.len();
    let carried = inputs.saturating_sub(2);
    // Output 0 of the graph is the condition.
    let outputs = node.outputs.len().max(carried).saturating_add(1);
    Ok(Box::new(Loop { body: body(node, "body", 2 + carried, outputs)?, inputs, carried }))
}

impl Loop {
    /// One iteration: the condition, what is carried and what is collected.
    fn iterate(
        &self,
        node: &NodeValues<'_>,
        iteration: i64,
        carried: Vec<Value>,
    ) -> Result<Vec<Value>, Reason> {
        let scalar = |dtype| TensorType::new(dtype, []);
        let mut inputs = Vec::with_capacity(2 + carried.len());
        inputs.push(Constant::of(scalar(DataType::I64), &[iteration]).into());
        inputs.push(Constant::of(scalar(DataType::Bool), &[1u8]).into());
        inputs.extend(carried);
        self.body.run(&inputs, node.inputs, node.backend)
    }
}

impl Operator for Loop {
    fn name(&self) -> &'static str {
        "Loop"
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
        let trips = if own.optional(0).is_some() { Some(own.i64(0)?) } else { None };
        let condition = own.optional(1).map(|value| truth(value, "the condition")).transpose()?;
        // With a trip count alone the graph's condition ends nothing; without either it is all that can.
        let heeds_condition = condition.is_some() || trips.is_none();
        let mut goes_on = condition.unwrap_or(true);
        let mut carried = Vec::with_capacity(self.carried);
        for index in 2..self.inputs {
            carried.push(own.value(index)?.clone());
        }
        let mut stacks: Vec<Stack> = Vec::new();
        stacks.resize_with(self.body.output_types().len() - 1 - self.carried, Stack::default);

        let mut iteration = 0i64;
        while goes_on && trips.is_none_or(|trips| iteration < trips) {
            let mut outputs = self.iterate(node, iteration, carried)?.into_iter();
            if let Some(condition) = outputs.next().filter(|_| heeds_condition) {
                goes_on = truth(&condition, "the condition that the graph gives")?;
            }
            carried = outputs.by_ref().take(self.carried).collect();
            // What has a limit of its own in every node is not counted.
            let grows = carried.iter().filter(|value| value.as_tensor().is_none());
            let mut sum = grows.map(bytes).fold(0, usize::saturating_add);
            for (index, (stack, value)) in stacks.iter_mut().zip(outputs).enumerate() {
                if node.wants(self.carried + index) {
                    stack.push(&value)?;
                    sum = sum.saturating_add(stack.bytes());
                }
            }
            expect_memory(sum, "what the loop carries and collects")?;
            iteration = iteration.checked_add(1).ok_or_else(|| Reason::new("too many iterations"))?;
        }

        if iteration == 0 {
            self.declare(node, &mut stacks, &carried)?;
        }
        let mut outputs = carried;
        for (index, stack) in stacks.into_iter().enumerate() {
            if node.wants(self.carried + index) {
                outputs.push(stack.finish(0, false)?);
            } else {
                outputs.push(Value::Sequence(Vec::new()));
            }
        }
        Ok(Some(outputs))
    }
}

impl Loop {
    /// Finds the types of what no iteration has collected.
    fn declare(&self, node: &NodeValues<'_>, stacks: &mut [Stack], carried: &[Value]) -> Result<(), Reason> {
        let types = self.body.output_types().iter().skip(1 + self.carried);
        for (stack, ty) in stacks.iter_mut().zip(types) {
            if let Some(declared) = ty.as_ref().and_then(Stack::declared) {
                *stack = declared;
            }
        }
        let unknown = |(index, stack): (usize, &Stack)| !stack.is_typed() && node.wants(self.carried + index);
        if !stacks.iter().enumerate().any(unknown) {
            return Ok(());
        }
        // The graph does not say: an iteration whose values nobody gets does.
        let outputs = self.iterate(node, 0, carried.to_vec()).map_err(|mut reason| {
            reason.what = format!("no iteration runs, and the graph declares no types: {}", reason.what);
            reason
        })?;
        for (stack, value) in stacks.iter_mut().zip(outputs.iter().skip(1 + self.carried)) {
            if !stack.is_typed() {
                *stack = Stack::like(value)?;
            }
        }
        Ok(())
    }
}

/// SequenceMap: a graph for each element of a sequence.
#[derive(Debug)]
pub struct SequenceMap {
    /// The graph, with as many inputs as the operator.
    pub body: Arc<Program>,
    /// How many inputs are the operator's own.
    pub inputs: usize,
}

fn import_map(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let (inputs, outputs) = (node.inputs.len(), node.outputs.len());
    Ok(Box::new(SequenceMap { body: body(node, "body", inputs, outputs)?, inputs }))
}

impl Operator for SequenceMap {
    fn name(&self) -> &'static str {
        "SequenceMap"
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
        let length = own.sequence(0)?.len();
        for index in 1..self.inputs {
            if let Value::Sequence(values) = own.value(index)?
                && values.len() != length
            {
                let other = values.len();
                return Err(Reason::new(format!("input {index} has {other} elements, input 0 has {length}")));
            }
        }
        let mut results: Vec<Vec<Value>> = vec![Vec::new(); self.body.output_types().len()];
        let mut sum = 0usize;
        for position in 0..length {
            let mut inputs = Vec::with_capacity(self.inputs);
            for index in 0..self.inputs {
                inputs.push(match own.value(index)? {
                    Value::Sequence(values) => {
                        let missing = || Reason::new(format!("input {index} has no element {position}"));
                        values.get(position).ok_or_else(missing)?.clone()
                    }
                    value => value.clone(),
                });
            }
            let outputs = self.body.run(&inputs, node.inputs, node.backend)?;
            for (index, (result, value)) in results.iter_mut().zip(outputs).enumerate() {
                if node.wants(index) {
                    sum = sum.saturating_add(bytes(&value));
                    result.push(value);
                }
            }
            expect_memory(sum, "the resulting sequences")?;
        }
        results.into_iter().map(sequence::checked).collect::<Result<_, _>>().map(Some)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, f32s, i64s, run_values};
    use crate::record::{GraphRecord, NodeRecord};
    use crate::value::{Strings, ValueType};

    /// A node whose inputs are all its own.
    pub(in crate::ops) fn node(
        op_type: &str,
        attributes: &[(&str, Attribute)],
        inputs: &[u32],
        outputs: &[u32],
    ) -> NodeRecord {
        NodeRecord {
            op_type: op_type.to_owned(),
            opset: 21,
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            inputs: inputs.iter().copied().map(Some).collect(),
            own_inputs: inputs.len() as u32,
            outputs: outputs.iter().copied().map(Some).collect(),
            ..NodeRecord::default()
        }
    }

    /// A graph of `values` values.
    pub(in crate::ops) fn graph(
        values: u32,
        inputs: &[u32],
        outputs: &[u32],
        nodes: Vec<NodeRecord>,
    ) -> GraphRecord {
        GraphRecord {
            values,
            inputs: inputs.iter().map(|&id| (id, None)).collect(),
            outputs: outputs.iter().map(|&id| (id, None)).collect(),
            nodes,
            ..GraphRecord::default()
        }
    }

    fn body(graph: GraphRecord) -> Attribute {
        Attribute::Graph(Arc::new(graph))
    }

    /// A graph that gives one constant.
    fn gives(value: impl Into<Value>) -> Attribute {
        body(GraphRecord { constants: vec![(0, value.into())], ..graph(1, &[], &[0], Vec::new()) })
    }

    fn run(
        name: &str,
        attributes: &[(&str, Attribute)],
        inputs: &[Option<Value>],
        outputs: usize,
    ) -> Vec<Value> {
        run_values((name, 21), attributes, inputs, outputs).unwrap()
    }

    fn refused(name: &str, attributes: &[(&str, Attribute)], inputs: &[Option<Value>]) -> String {
        run_values((name, 21), attributes, inputs, 1).unwrap_err().what
    }

    fn number(value: i64) -> Option<Value> {
        Some(i64s([], &[value]).into())
    }

    fn flag(value: bool) -> Option<Value> {
        Some(bools([], &[value]).into())
    }

    #[test]
    fn one_branch_runs() {
        let branches = [("then_branch", gives(i64s([], &[1]))), ("else_branch", gives(f32s([1], &[2.0])))];
        assert_eq!(run("If", &branches, &[flag(true)], 1), [i64s([], &[1]).into()]);
        assert_eq!(run("If", &branches, &[flag(false)], 1), [f32s([1], &[2.0]).into()]);
        assert_eq!(refused("If", &branches, &[number(1)]), "the condition is i64[], not one bool");
        assert_eq!(refused("If", &branches[..1], &[flag(true)]), "attribute `else_branch` is missing");
        let two = run_values(("If", 21), &branches, &[flag(true)], 2);
        assert_eq!(two.unwrap_err().what, "graph `then_branch` has 1 outputs, not 2");
    }

    /// Counts while the count is below value 1 around: the count and, collected, its square.
    fn count() -> GraphRecord {
        // 0: iteration, 1: condition, 2: count, 3: limit, 4: one, 5: count + 1, 6: condition, 7: square
        let nodes = vec![
            node("Add", &[], &[2, 4], &[5]),
            node("Less", &[], &[5, 3], &[6]),
            node("Mul", &[], &[5, 5], &[7]),
        ];
        GraphRecord {
            constants: vec![(4, i64s([], &[1]).into())],
            captures: vec![(3, 3)],
            ..graph(8, &[0, 1, 2], &[6, 5, 7], nodes)
        }
    }

    /// Runs a Loop with three inputs of its own and one of the graph around.
    fn run_loop(
        record: GraphRecord,
        [trips, condition, initial, limit]: [Option<Value>; 4],
    ) -> Result<Vec<Value>, Reason> {
        let record = GraphRecord {
            constants: [trips.clone(), condition.clone(), initial, limit]
                .into_iter()
                .enumerate()
                .filter_map(|(index, value)| Some((index as u32, value?)))
                .collect(),
            ..graph(
                6,
                &[],
                &[4, 5],
                vec![NodeRecord {
                    inputs: vec![trips.map(|_| 0), condition.map(|_| 1), Some(2), Some(3)],
                    own_inputs: 3,
                    ..node("Loop", &[("body", body(record))], &[], &[4, 5])
                }],
            )
        };
        Program::new(&record)?.run(&[], &[], &crate::execute::Backend::Reference)
    }

    #[test]
    fn loops_end_by_count_or_condition() {
        let squares = |values: &[i64]| -> [Value; 2] {
            let squares: Vec<i64> = values.iter().map(|value| value * value).collect();
            let ty = TensorType::new(DataType::I64, [values.len()]);
            let last = values.last().copied().unwrap_or(0);
            [i64s([], &[last]).into(), Constant::of(ty, &squares).into()]
        };
        let of = |trips: Option<i64>, condition: Option<bool>, limit: i64| {
            let (trips, condition) = (trips.and_then(number), condition.and_then(flag));
            run_loop(count(), [trips, condition, number(0), number(limit)]).unwrap()
        };
        assert_eq!(of(Some(3), Some(true), 9), squares(&[1, 2, 3]));
        assert_eq!(of(Some(9), Some(true), 2), squares(&[1, 2]));
        assert_eq!(of(None, Some(true), 4), squares(&[1, 2, 3, 4]));
        assert_eq!(of(None, None, 4), squares(&[1, 2, 3, 4]));
        assert_eq!(of(Some(3), None, 2), squares(&[1, 2, 3]));
        // Nothing is declared: an iteration tells the type.
        assert_eq!(of(Some(0), Some(true), 9), squares(&[]));
        assert_eq!(of(Some(-5), None, 9), squares(&[]));
        assert_eq!(of(Some(3), Some(false), 9), squares(&[]));
    }

    #[test]
    fn what_is_collected_has_the_declared_type_without_iterations() {
        let mut record = count();
        let shape = Some(vec![Some(3), None]);
        let element = crate::value::ElementType::Number(DataType::F32);
        record.outputs[2].1 = Some(ValueType::Tensor { element, shape });
        let outputs = run_loop(record, [number(0), None, number(7), number(9)]).unwrap();
        assert_eq!(outputs[0], i64s([], &[7]).into());
        assert_eq!(outputs[1].describe(), "f32[0,3,0]");
    }

    #[test]
    fn loops_cannot_exceed_memory() {
        // 0: iteration, 1: condition, 2: carried, 3: a tensor of the graph around
        let collects = GraphRecord { captures: vec![(3, 3)], ..graph(4, &[0, 1, 2], &[1, 2, 3], Vec::new()) };
        let large = Constant::of(TensorType::new(DataType::U8, [300 << 20]), &vec![0u8; 300 << 20]);
        let reason =
            run_loop(collects, [None, flag(true), number(0), Some(large.clone().into())]).unwrap_err();
        assert!(reason.what.contains("what is collected would have"), "{}", reason.what);
        let grows = GraphRecord {
            captures: vec![(3, 3)],
            ..graph(5, &[0, 1, 2], &[1, 4, 0], vec![node("SequenceInsert", &[], &[2, 3], &[4])])
        };
        let empty = Some(Value::Sequence(Vec::new()));
        let reason = run_loop(grows, [None, flag(true), empty, Some(large.into())]).unwrap_err();
        assert!(reason.what.contains("the sequence would have"), "{}", reason.what);
    }

    #[test]
    fn graphs_in_graphs_read_the_graphs_around() {
        // The If in the Loop reads the count of the Loop's graph and a constant of the outermost graph.
        let branch = |op: &str| {
            let captures = vec![(0, 1), (1, 2)];
            body(GraphRecord { captures, ..graph(3, &[], &[2], vec![node(op, &[], &[0, 1], &[2])]) })
        };
        // 0: iteration, 1: condition, 2: carried, 3: of the graph around, 4: two, 5: below two, 6: next
        let inner = NodeRecord {
            own_inputs: 1,
            ..node("If", &[("then_branch", branch("Add")), ("else_branch", branch("Mul"))], &[5, 2, 3], &[6])
        };
        let record = GraphRecord {
            constants: vec![(4, i64s([], &[2]).into())],
            captures: vec![(3, 3)],
            ..graph(7, &[0, 1, 2], &[1, 6, 6], vec![node("Less", &[], &[0, 4], &[5]), inner])
        };
        let outputs = run_loop(record, [number(4), None, number(1), number(10)]).unwrap();
        assert_eq!(outputs, [i64s([], &[2100]).into(), i64s([4], &[11, 21, 210, 2100]).into()]);
    }

    #[test]
    fn optionals_and_strings_are_carried() {
        // The empty optional becomes the string that is collected.
        let words: Value = Strings::new([1], vec!["word".to_owned()]).unwrap().into();
        let nodes = vec![node("Optional", &[], &[3], &[4]), node("OptionalGetElement", &[], &[4], &[5])];
        let record = GraphRecord { captures: vec![(3, 3)], ..graph(6, &[0, 1, 2], &[1, 4, 5], nodes) };
        let empty = Some(Value::Optional(None));
        let outputs = run_loop(record, [number(2), None, empty, Some(words.clone())]).unwrap();
        assert_eq!(outputs[0], Value::Optional(Some(Box::new(words))));
        assert_eq!(outputs[1], Strings::new([2, 1], vec!["word".to_owned(); 2]).unwrap().into());
    }

    #[test]
    fn sequences_are_mapped() {
        let add = [("body", body(graph(3, &[0, 1], &[2, 0], vec![node("Add", &[], &[0, 1], &[2])])))];
        let numbers = |values: &[i64]| Value::Sequence(values.iter().filter_map(|&v| number(v)).collect());
        let (x, y) = (numbers(&[1, 2]), numbers(&[10, 20]));
        let outputs = run("SequenceMap", &add, &[Some(x.clone()), Some(y)], 2);
        assert_eq!(outputs, [numbers(&[11, 22]), x.clone()]);
        assert_eq!(run("SequenceMap", &add, &[Some(x.clone()), number(5)], 1)[0], numbers(&[6, 7]));
        let reason = refused("SequenceMap", &add, &[Some(x.clone()), Some(numbers(&[1]))]);
        assert_eq!(reason, "input 1 has 1 elements, input 0 has 2");
        assert!(refused("SequenceMap", &add, &[number(5), Some(x.clone())]).contains("not a sequence"));
        assert_eq!(refused("SequenceMap", &add, &[Some(x)]), "graph `body` has 2 inputs, not 1");
    }

    #[test]
    fn graphs_lie_only_so_deep() {
        assert_eq!(run("If", &nested(30), &[flag(true)], 1), [i64s([], &[1]).into()]);
        assert!(refused("If", &nested(40), &[flag(true)]).contains("graphs lie more than 32 deep"));
    }

    /// The branches of an If around `depth` others.
    fn nested(depth: usize) -> [(&'static str, Attribute); 2] {
        let mut attribute = gives(i64s([], &[1]));
        for _ in 0..depth {
            let inner = [("then_branch", attribute.clone()), ("else_branch", gives(i64s([], &[2])))];
            attribute = body(GraphRecord {
                captures: vec![(0, 0)],
                ..graph(2, &[], &[1], vec![node("If", &inner, &[0], &[1])])
            });
        }
        [("then_branch", attribute.clone()), ("else_branch", attribute)]
    }
}
