//! Import and shape inference together, on models built here and on damaged ones.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::{Model, import, import_with};
use crate::constant::Constant;
use crate::diagnostic::{Diagnostic, Subject};
use crate::onnx::proto::{
    AttributeProto, Dimension, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use crate::onnx::{self, ModelFile};
use crate::ops;
use crate::partition::{Partition, partition};
use crate::shape_inference::infer;

/// A value of type f32; extents that are no numbers are symbols.
fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| Dimension {
        value: Some(match dim.parse() {
            Ok(extent) => dimension::Value::DimValue(extent),
            Err(_) => dimension::Value::DimParam(dim.to_string()),
        }),
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type: 1, shape });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(value) }) }
}

/// A value without a type.
fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: None }
}

fn strings(list: &str) -> Vec<String> {
    list.split(' ').filter(|name| !name.is_empty()).map(|name| name.replace('_', "")).collect()
}

/// `y = Op(a b)`; the name is that of the outputs, `_` stands for a value left out.
fn node(text: &str) -> NodeProto {
    let (outputs, call) = text.split_once(" = ").unwrap();
    let (op, inputs) = call.trim_end_matches(')').split_once('(').unwrap();
    let (domain, op_type) = op.rsplit_once('.').unwrap_or(("", op));
    NodeProto {
        input: strings(inputs),
        output: strings(outputs),
        name: format!("n_{}", outputs.trim()),
        op_type: op_type.into(),
        domain: domain.into(),
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 7, ints: values.to_vec(), ..AttributeProto::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 2, i: Some(value), ..AttributeProto::default() }
}

fn reference(name: &str, to: &str) -> AttributeProto {
    AttributeProto { name: name.into(), ref_attr_name: to.into(), ..AttributeProto::default() }
}

fn initializer(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: 7,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn floats(name: &str, values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: 1,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.into(), version }
}

fn model(nodes: Vec<NodeProto>, inputs: Vec<ValueInfoProto>, outputs: Vec<ValueInfoProto>) -> ModelProto {
    let graph = GraphProto { node: nodes, input: inputs, output: outputs, ..GraphProto::default() };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn graph_of(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn compile(model: &ModelProto, dims: &[(&str, u64)]) -> Result<Model, Vec<Diagnostic>> {
    let dims: Vec<(String, u64)> = dims.iter().map(|&(symbol, extent)| (symbol.to_owned(), extent)).collect();
    let model = infer(import_with("m.onnx", model, &dims, &ops::find)?)?;
    assert_eq!(model.graph.verify(), Ok(()));
    Ok(model)
}

fn refused(model: &ModelProto) -> String {
    let errors = compile(model, &[]).unwrap_err();
    errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_model_becomes_a_typed_graph() {
    let mut proto = model(
        vec![node("h = Add(x w)"), node("y = Relu(h)")],
        vec![value("x", &["n", "3"]), value("w", &["3"])],
        vec![value("y", &["n", "3"])],
    );
    graph_of(&mut proto).initializer = vec![floats("w", &[1.0, 2.0, 3.0]), floats("unused", &[1.0])];
    let model = compile(&proto, &[("n", 2)]).unwrap();
    let text = model.graph.to_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["input x: f32[2,3]", "const w: f32[3] = [1.0, 2.0, 3.0]"]);
    assert!(lines[2].starts_with("h: f32[2,3] = Add(x, w)"), "{text}");
    assert!(lines[3].starts_with("y: f32[2,3] = Relu(h)"), "{text}");
    assert_eq!(lines[4..], ["output y"]);
    assert_eq!(model.info.inputs, ["x"]);
    assert_eq!(model.info.unused, ["unused"]);
    assert_eq!((model.info.opset(), model.info.parameters), (17, 3));
}

#[test]
fn shape_arithmetic_is_folded() {
    let constant = with(node("two = Constant()"), ints("value_ints", &[-1, 2]));
    let mut proto = model(
        vec![
            node("s = Shape(x)"),
            constant,
            with(node("first = Gather(s zero)"), int("axis", 0)),
            with(node("target = Concat(first two)"), int("axis", 0)),
            node("y = Reshape(x target)"),
        ],
        vec![value("x", &["n", "4", "6"])],
        vec![value("y", &["n", "anything", "2"])],
    );
    graph_of(&mut proto).initializer = vec![initializer("zero", &[0])];
    let model = compile(&proto, &[("n", 5)]).unwrap();
    let output = model.graph.outputs[0];
    assert_eq!(model.graph.ty(output).shape, [5, 12, 2]);
    let known = model.graph.values.iter().find(|value| value.name == "target").unwrap();
    assert_eq!(known.constant.as_ref().and_then(Constant::to_i64s), Some(vec![5, -1, 2]));
}

#[test]
fn nodes_may_stand_in_any_order() {
    let proto = model(
        vec![node("y = Relu(b)"), node("b = Relu(a)"), node("a = Relu(x)")],
        vec![value("x", &["3"])],
        vec![untyped("y")],
    );
    let model = compile(&proto, &[]).unwrap();
    let names: Vec<&str> = model.graph.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n_a", "n_b", "n_y"]);
}

#[test]
fn a_cycle_names_its_nodes_alone() {
    let proto = model(
        vec![node("y = Relu(b)"), node("a = Add(x c)"), node("b = Relu(a)"), node("c = Relu(b)")],
        vec![value("x", &["3"])],
        vec![untyped("y")],
    );
    let message = refused(&proto);
    assert!(message.starts_with("m.onnx: the graph has a cycle"), "{message}");
    for name in ["n_a", "n_b", "n_c"] {
        assert!(message.contains(name), "{message}");
    }
    assert!(!message.contains("n_y"), "{message}");
}

#[test]
fn every_failing_node_is_named() {
    let mut nodes: Vec<NodeProto> = (0..22).map(|i| node(&format!("q{i} = Quux(x)"))).collect();
    nodes.push(node("far = com.example.Thing(x)"));
    nodes.push(node("after = Relu(far)"));
    nodes.push(node("sum = Add(x w)"));
    nodes.push(with(node("soft = Softmax(x)"), int("strange", 1)));
    let outputs = ["q0", "after", "sum", "soft"].map(untyped).to_vec();
    let mut proto = model(nodes, vec![value("x", &["4"])], outputs);
    graph_of(&mut proto).initializer = vec![floats("w", &[1.0, 2.0, 3.0])];
    let message = refused(&proto);
    assert!(
        message.contains("`n_q19` and 2 more (Quux, opset 17): this operator is not supported"),
        "{message}"
    );
    assert!(
        message.contains("node `n_far` (com.example.Thing): this operator is not supported"),
        "{message}"
    );
    assert!(
        message.contains("node `n_soft` (Softmax, opset 17): attribute `strange` is not supported"),
        "{message}"
    );
    assert!(message.contains("node `n_sum` (Add, opset 17)"), "{message}");
    assert!(message.contains("input `x` is f32[4], input `w` is f32[3]"), "{message}");
    assert!(!message.contains("n_after"), "{message}");
}

#[test]
fn arity_and_opset_are_checked() {
    let proto = model(
        vec![node("a = Relu(x x)"), node("b = Relu()"), node("c = LayerNormalization(x x)")],
        vec![value("x", &["4"])],
        vec![untyped("a"), untyped("b"), untyped("c")],
    );
    let message = refused(&proto);
    assert!(message.contains("node `n_a` (Relu, opset 17): it has 2 inputs, not 1"), "{message}");
    assert!(message.contains("node `n_b` (Relu, opset 17): it has 0 inputs, not 1"), "{message}");
    let old = ModelProto { opset_import: vec![opset("ai.onnx", 16)], ..proto.clone() };
    assert!(refused(&old).contains("LayerNormalization exists since version 17, the model imports 16"));
    let none = ModelProto { opset_import: vec![opset("com.example", 1)], ..proto };
    assert!(refused(&none).contains("the model imports no version of domain `ai.onnx`"));
}

#[test]
fn broken_graphs_are_refused() {
    let x = || vec![value("x", &["4"])];
    let twice = model(vec![node("y = Relu(x)"), node("y = Abs(x)")], x(), vec![untyped("y")]);
    assert_eq!(
        refused(&twice),
        "m.onnx: node `n_y` (Abs, opset 17): its output `y` is an output of node `n_y` already"
    );
    let shadow = model(vec![node("x = Relu(x)")], x(), vec![untyped("x")]);
    assert!(refused(&shadow).ends_with("its output `x` is a graph input already"));
    let missing = model(vec![node("y = Add(x z)")], x(), vec![untyped("y"), untyped("q"), untyped("y")]);
    let message = refused(&missing);
    assert!(message.contains("node `n_y` (Add, opset 17): its input `z` is not there"), "{message}");
    assert!(message.contains("no node writes graph output `q`"), "{message}");
    assert!(message.contains("graph output `y` is listed twice"), "{message}");
    assert!(refused(&model(vec![], x(), vec![])).contains("the graph has no outputs"));
    let mut doubled = model(vec![node("y = Relu(x)")], [x(), x()].concat(), vec![untyped("y")]);
    graph_of(&mut doubled).initializer = vec![floats("w", &[]), floats("w", &[])];
    let message = refused(&doubled);
    assert!(message.contains("graph input `x` is listed twice"), "{message}");
    assert!(message.contains("initializer `w` is defined twice"), "{message}");
}

#[test]
fn declared_outputs_must_agree_and_values_between_need_not() {
    let mut proto = model(
        vec![node("h = Relu(x)"), node("y = Relu(h)")],
        vec![value("x", &["4"])],
        vec![value("y", &["5"])],
    );
    assert_eq!(refused(&proto), "m.onnx: graph output `y` is declared as f32[5], it is f32[4]");
    graph_of(&mut proto).output = vec![value("y", &["4"])];
    graph_of(&mut proto).value_info = vec![value("h", &["9"])];
    let model = compile(&proto, &[]).unwrap();
    assert_eq!(model.info.notes, ["value `h` is declared as f32[9], it is f32[4]"]);
}

#[test]
fn symbols_without_sizes_are_reported_beside_unsupported_nodes() {
    let proto = model(vec![node("y = Quux(x)")], vec![value("x", &["batch", "4"])], vec![untyped("y")]);
    let errors = compile(&proto, &[("bacth", 1)]).unwrap_err();
    assert_eq!(errors.len(), 3);
    assert_eq!(errors[0].subject, Subject::Argument("dims"));
    assert!(errors[1].message.ends_with("help: dims(batch = 1)"), "{}", errors[1]);
    assert!(errors[2].message.contains("Quux"));
}

fn function(name: &str, inputs: &str, outputs: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: strings(inputs),
        output: strings(outputs),
        node: nodes,
        opset_import: vec![opset("", 17), opset("local", 1)],
        ..FunctionProto::default()
    }
}

#[test]
fn functions_are_inlined() {
    let mut inner = function(
        "Inner",
        "a",
        "b",
        vec![node("t = Relu(a)"), with(node("b = Concat(t t)"), reference("axis", "along"))],
    );
    inner.attribute = vec!["along".into()];
    let mut outer = function(
        "Outer",
        "a unused",
        "b again same",
        vec![with(node("b = local.Inner(a)"), reference("along", "axis")), node("again = Relu(b)")],
    );
    outer.output[2] = "a".into();
    outer.attribute_proto = vec![int("axis", 0)];
    let mut proto = model(
        vec![with(node("y n_y/again/t z = local.Outer(x)"), int("axis", 1)), node("d _ e = local.Outer(x)")],
        vec![value("x", &["2", "3"])],
        ["y", "z", "d", "e"].map(untyped).to_vec(),
    );
    proto.opset_import.push(opset("local", 1));
    proto.functions = vec![outer, inner];
    let model = compile(&proto, &[]).unwrap();
    let types: Vec<String> = model.graph.outputs.iter().map(|&id| model.graph.ty(id).to_string()).collect();
    assert_eq!(types, ["f32[2,6]", "f32[2,3]", "f32[4,3]", "f32[2,3]"]);
    let names: Vec<&str> = model.graph.values.iter().map(|value| value.name.as_str()).collect();
    assert!(names.contains(&"z") && names.contains(&"e"), "{names:?}");
}

#[test]
fn functions_that_cannot_be_inlined_are_refused() {
    let mut proto = model(vec![node("y = local.F(x)")], vec![value("x", &["2"])], vec![untyped("y")]);
    proto.opset_import.push(opset("local", 1));
    proto.functions = vec![
        function("F", "a", "b", vec![node("b = local.G(a)")]),
        function("G", "a", "b", vec![node("b = local.F(a)")]),
    ];
    assert!(refused(&proto).contains("(local.F, opset 1): function `F` calls itself"), "{}", refused(&proto));
    proto.functions.truncate(1);
    proto.functions[0].node = vec![node("b = Relu(c)")];
    assert!(refused(&proto).contains("its input `n_y/c` is not there"), "{}", refused(&proto));
    graph_of(&mut proto).node = vec![node("y = local.F(x x)")];
    assert!(refused(&proto).contains("2 inputs for function `F`, which has 1"));
    graph_of(&mut proto).node = vec![with(node("y = local.F(x)"), int("q", 1))];
    assert!(refused(&proto).contains("function `F` has no attribute `q`"));
    proto.functions.push(proto.functions[0].clone());
    assert_eq!(refused(&proto), "m.onnx: function `F` is defined twice");
}

#[test]
fn functions_that_multiply_are_bounded() {
    let mut proto = model(vec![node("y = local.F0(x)")], vec![value("x", &["2"])], vec![untyped("y")]);
    proto.opset_import.push(opset("local", 1));
    let level = |level: usize| {
        let calls = (0..10).map(|i| node(&format!("b{i} = local.F{}(a)", level + 1)));
        function(&format!("F{level}"), "a", "b0", calls.collect())
    };
    proto.functions = (0..30).map(level).collect();
    let message = refused(&proto);
    assert!(message.contains("inlining the model's functions gives more than"), "{message}");
    // A chain that is too long is refused before the stack is.
    let link = |level: usize| {
        function(&format!("F{level}"), "a", "b", vec![node(&format!("b = local.F{}(a)", level + 1))])
    };
    proto.functions = (0..5000).map(link).collect();
    assert!(refused(&proto).contains("functions call functions more than 64 deep"));
}

#[test]
fn huge_constants_are_not_computed() {
    let mut proto = model(
        vec![node("y = Expand(one s)"), node("z = Relu(y)")],
        vec![value("x", &["2"])],
        vec![untyped("z")],
    );
    graph_of(&mut proto).initializer = vec![initializer("s", &[1 << 31]), floats("one", &[1.0])];
    let model = compile(&proto, &[]).unwrap();
    assert!(
        model.graph.values.iter().all(|value| value.constant.as_ref().is_none_or(|c| c.data().len() < 100))
    );
    graph_of(&mut proto).initializer[0] = initializer("s", &[1 << 31, 1 << 31]);
    let message = refused(&proto);
    assert!(message.contains("more than 8589934592 elements"), "{message}");
}

/// Everything that happens to a file before lowering.
fn everything(bytes: &[u8]) {
    if let Ok(proto) = onnx::decode("fuzz", Bytes::copy_from_slice(bytes)) {
        let file = ModelFile { name: "fuzz".into(), bytes: Bytes::new(), proto, sources: Vec::new() };
        if let Ok(imported) = import(&file, &[])
            && let Ok(model) = infer(imported)
        {
            let graphs = match partition(model).0 {
                Partition::Static(graph) => vec![graph],
                Partition::Program(_, graphs) => graphs,
            };
            for graph in graphs {
                assert_eq!(graph.verify(), Ok(()));
            }
        }
    }
}

fn small_model() -> Vec<u8> {
    let mut proto = model(
        vec![
            node("s = Shape(x)"),
            with(node("p = Concat(s two)"), int("axis", 0)),
            node("e = Expand(x p)"),
            with(node("t = Transpose(e)"), ints("perm", &[1, 0, 2])),
            with(node("y = local.F(t)"), int("axis", -1)),
            with(node("c = ConstantOfShape(two)"), int("unknown", 3)),
        ],
        vec![value("x", &["2", "3"])],
        vec![untyped("y")],
    );
    graph_of(&mut proto).initializer = vec![initializer("two", &[3])];
    graph_of(&mut proto).node.pop();
    proto.opset_import.push(opset("local", 1));
    let mut function = function("F", "a", "b", vec![with(node("b = Softmax(a)"), reference("axis", "axis"))]);
    function.attribute = vec!["axis".into()];
    proto.functions = vec![function];
    proto.encode_to_vec()
}

fn mutated(mut bytes: Vec<u8>, changes: &[(usize, u8)], keep: usize) -> Vec<u8> {
    for &(position, byte) in changes {
        let length = bytes.len();
        bytes[position % length] = byte;
    }
    bytes.truncate(bytes.len().max(keep + 1) - keep);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_model_is_an_error_at_most(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cut in prop_oneof![4 => Just(0usize), 1 => 0usize..300],
    ) {
        everything(&mutated(small_model(), &changes, cut));
    }

    #[test]
    fn any_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        everything(&bytes);
    }
}

#[test]
fn a_damaged_real_model_is_an_error_at_most() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/real/mnist_8.onnx");
    let Ok(bytes) = std::fs::read(&path) else {
        println!("skipped: {} is not there", path.display());
        return;
    };
    everything(&bytes);
    // The graph's structure lies around the weights: most changes go into the parts below the largest tensors.
    let changes = prop::collection::vec((any::<usize>(), any::<u8>()), 1..4);
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&changes, |changes| {
        everything(&mutated(bytes.clone(), &changes, 0));
        Ok(())
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn gradients_are_computed_backwards() {
    let text = |name: &str, values: &[&str]| AttributeProto {
        name: name.into(),
        r#type: 8,
        strings: values.iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect(),
        ..AttributeProto::default()
    };
    let y = |name: &'static str| AttributeProto {
        name: "y".into(),
        r#type: 3,
        s: Some(Bytes::from_static(name.as_bytes())),
        ..AttributeProto::default()
    };
    let gradient = |of: &'static str| {
        let node = node("da db = ai.onnx.preview.training.Gradient(a b)");
        with(with(node, text("xs", &["a", "b"])), y(of))
    };
    let nodes = vec![node("h = Mul(a b)"), node("y = Add(h a)"), node("r = Relu(y)"), gradient("y")];
    let mut proto = model(nodes, vec![], vec![untyped("da"), untyped("db")]);
    proto.opset_import.push(opset("ai.onnx.preview.training", 1));
    graph_of(&mut proto).initializer = vec![floats("a", &[2.0, 3.0]), floats("b", &[5.0])];
    let model = compile(&proto, &[]).unwrap();
    let known =
        |index: usize| model.graph.constant(Some(model.graph.outputs[index])).unwrap().to_f32s().unwrap();
    assert_eq!(*known(0), [6.0, 6.0]);
    assert_eq!(*known(1), [5.0]);
    for (of, reason) in
        [("r", "the derivative of `Relu` is not supported"), ("z", "the graph has no value `z`")]
    {
        graph_of(&mut proto).node[3] = gradient(of);
        assert!(refused(&proto).contains(reason), "{}", refused(&proto));
    }
}
