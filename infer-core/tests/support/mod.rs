//! Small models written as text, computed node by node on the reference kernels and as a whole by the compiled plan;
//! for the tests of passes and of the pipeline.

#[cfg(feature = "cuda")]
#[allow(dead_code, reason = "not every test asks for a GPU")]
pub mod gpu;

use std::collections::HashMap;

use super::infer_core::constant::Constant;
use super::infer_core::decisions::Decisions;
use super::infer_core::graph::Graph;
use super::infer_core::import::import_with;
use super::infer_core::lower::lower;
use super::infer_core::onnx::proto::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use super::infer_core::ops::matmul::MatMul;
use super::infer_core::options::Precision;
use super::infer_core::plan::{AlignedBytes, ModelInfo, PlanParts, PlanView, Port};
use super::infer_core::runtime::{Engine, EngineOptions, Output, registered_kernels};
use super::infer_core::schedule::plan_memory;
use super::infer_core::tensor_type::{DataType, TensorType};
use super::infer_core::{execute, ops, passes, shape_inference};

/// Numbers in [−1, 1) that depend on `seed` alone.
pub fn numbers(seed: &str, count: usize) -> Vec<f32> {
    let mut state =
        seed.bytes().fold(0x9E37_79B9_7F4A_7C15u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn list<T: std::str::FromStr>(text: &str) -> Vec<T> {
    let items = text.trim_matches(['[', ']']).split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().unwrap_or_else(|_| panic!("`{item}` of `{text}` is no number"))).collect()
}

fn floats(name: &str, dims: Vec<i64>, values: Vec<f32>) -> TensorProto {
    assert_eq!(dims.iter().product::<i64>(), values.len() as i64, "{name}");
    TensorProto { name: name.into(), dims, data_type: 1, float_data: values, ..TensorProto::default() }
}

fn value(name: &str, dims: Option<Vec<i64>>) -> ValueInfoProto {
    let typed = |dims: Vec<i64>| {
        let dim =
            dims.into_iter().map(|extent| Dimension { value: Some(dimension::Value::DimValue(extent)) });
        let shape = Some(TensorShapeProto { dim: dim.collect() });
        TypeProto { value: Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: 1, shape })) }
    };
    ValueInfoProto { name: name.into(), r#type: dims.map(typed) }
}

/// `a, b = Op(x, _, y) ints=[1,2] int=1 float=0.5 string=S`; `_` stands for a value left out.
fn node(text: &str) -> NodeProto {
    let (outputs, call) = text.split_once(" = ").unwrap_or_else(|| panic!("`{text}` is no node"));
    let (op, rest) = call.split_once('(').unwrap();
    let (inputs, attributes) = rest.split_once(')').unwrap();
    let names =
        |text: &str| -> Vec<String> { text.split(',').map(|name| name.trim().replace('_', "")).collect() };
    let attribute = |text: &str| {
        let (name, value) = text.split_once('=').unwrap();
        let mut attribute = AttributeProto { name: name.into(), ..AttributeProto::default() };
        if value.starts_with('[') {
            (attribute.r#type, attribute.ints) = (7, list(value));
        } else if let Ok(value) = value.parse() {
            (attribute.r#type, attribute.i) = (2, Some(value));
        } else if let Ok(value) = value.parse() {
            (attribute.r#type, attribute.f) = (1, Some(value));
        } else {
            (attribute.r#type, attribute.s) = (3, Some(value.to_owned().into()));
        }
        attribute
    };
    NodeProto {
        input: names(inputs),
        output: names(outputs),
        op_type: op.trim().into(),
        attribute: attributes.split_whitespace().map(attribute).collect(),
        ..NodeProto::default()
    }
}

/// A model of opset 17 (or as a line `opset 13` says), imported and its types inferred. One line each:
///
/// ```text
/// input x 1,3,8,8
/// random w 16,3,3,3        constant, in [−1, 1) or, where there are more than two axes, as small as filters are
/// positive v 16            constant, in [0.5, 1.5)
/// floats half [] 0.5       constant
/// ints shape 1,-1          constant
/// y = Conv(x, w) pads=[1,1,1,1]
/// output y
/// ```
pub fn model(text: &str) -> Graph {
    let proto = proto(text);
    let imported =
        import_with("test.onnx", &proto, &[], &ops::find).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    let graph = shape_inference::infer(imported).unwrap_or_else(|e| panic!("{e:?}\n{text}")).graph;
    graph.verify().unwrap();
    graph
}

/// What [`model`] imports.
pub fn proto(text: &str) -> ModelProto {
    let mut graph = GraphProto::default();
    let mut version = 17;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let random = |dims: &str| {
            let dims: Vec<i64> = list(dims);
            let values = numbers(words[1], dims.iter().product::<i64>() as usize);
            (dims, values)
        };
        match words.as_slice() {
            ["opset", number] => version = number.parse().unwrap(),
            ["input", name, dims] => graph.input.push(value(name, Some(list(dims)))),
            ["output", name] => graph.output.push(value(name, None)),
            ["random", name, dims] => {
                let (dims, mut values) = random(dims);
                // Filters keep the size of what they are applied to, so that errors of long chains stay small too.
                if dims.len() > 2 {
                    let scale = (3.0 / dims[1..].iter().product::<i64>() as f32).sqrt();
                    values.iter_mut().for_each(|value| *value *= scale);
                }
                graph.initializer.push(floats(name, dims, values));
            }
            ["positive", name, dims] => {
                let (dims, values) = random(dims);
                graph.initializer.push(floats(name, dims, values.iter().map(|v| v / 2.0 + 1.0).collect()));
            }
            ["floats", name, dims, values] => graph.initializer.push(floats(name, list(dims), list(values))),
            ["ints", name, values] => {
                let int64_data: Vec<i64> = list(values);
                let dims = vec![int64_data.len() as i64];
                let name = (*name).to_owned();
                graph.initializer.push(TensorProto {
                    name,
                    dims,
                    data_type: 7,
                    int64_data,
                    ..TensorProto::default()
                });
            }
            _ => graph.node.push(node(line)),
        }
    }
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// Values for the inputs of a graph.
pub fn inputs(graph: &Graph) -> Vec<Constant> {
    let fill = |id: &_| {
        let value = graph.value(*id);
        let ty = graph.ty(*id).clone();
        let numbers = numbers(&value.name, ty.elements());
        Constant::of(ty, &numbers)
    };
    graph.inputs.iter().map(fill).collect()
}

/// The outputs, each node computed by itself on row-major tensors with the reference kernels; products of matrices by
/// their definition, since those kernels know packed ones only.
pub fn reference(graph: &Graph, inputs: &[Constant]) -> Vec<Constant> {
    let mut values: HashMap<usize, Constant> =
        graph.inputs.iter().map(|id| id.index()).zip(inputs.iter().cloned()).collect();
    for (index, value) in graph.values.iter().enumerate() {
        values.extend(value.constant.clone().map(|constant| (index, constant)));
    }
    for node in &graph.nodes {
        let types: Vec<Option<TensorType>> =
            node.outputs.iter().map(|id| id.map(|id| graph.ty(id).clone())).collect();
        let inputs: Vec<Option<&Constant>> =
            node.inputs.iter().map(|id| id.map(|id| &values[&id.index()])).collect();
        let outputs = match (node.op_as::<MatMul>(), &types[..]) {
            (Some(product), [Some(ty)]) if ty.dtype == DataType::F32 => {
                vec![Some(multiply(product, &inputs, ty))]
            }
            _ => execute::evaluate(&*node.op, &inputs, &types, &execute::Backend::Reference)
                .unwrap_or_else(|reason| panic!("{}: {}", node.name, reason.what)),
        };
        for (id, output) in node.outputs.iter().zip(outputs) {
            values.extend(id.map(|id| id.index()).zip(output));
        }
    }
    graph.outputs.iter().map(|id| values[&id.index()].clone()).collect()
}

/// alpha·A·B + beta·C by the definition.
fn multiply(product: &MatMul, inputs: &[Option<&Constant>], ty: &TensorType) -> Constant {
    let (a, b) = (inputs[0].unwrap(), inputs[1].unwrap());
    let (mut a_shape, mut b_shape) = (a.ty().shape.clone(), b.ty().shape.clone());
    let mut shape = ty.shape.clone();
    if a_shape.len() == 1 {
        a_shape.insert(0, 1);
        shape.insert(shape.len() - usize::from(b_shape.len() > 1), 1);
    }
    if b_shape.len() == 1 {
        b_shape.push(1);
        shape.push(1);
    }
    let depth = a_shape[a_shape.len() - if product.trans_a { 2 } else { 1 }];
    let (a, b) = (a.values::<f32>(), b.values::<f32>());
    // The element at a position of the output's shape, the operand's axes aligned at the end and broadcast.
    let at = |shape: &[usize], position: &[usize]| {
        let aligned = &position[position.len() - shape.len()..];
        shape.iter().zip(aligned).fold(0, |at, (&extent, &i)| at * extent + if extent == 1 { 0 } else { i })
    };
    let elements: usize = shape.iter().product();
    let values: Vec<f32> = (0..elements)
        .map(|flat| {
            let mut position = vec![0; shape.len()];
            let mut rest = flat;
            for (slot, extent) in position.iter_mut().zip(&shape).rev() {
                (*slot, rest) = (rest % extent, rest / extent);
            }
            let (row, column) = (shape.len() - 2, shape.len() - 1);
            let mut sum = 0f64;
            for k in 0..depth {
                let (mut left, mut right) = (position.clone(), position.clone());
                (left[column], right[row]) = (k, k);
                if product.trans_a {
                    left.swap(row, column);
                }
                if product.trans_b {
                    right.swap(row, column);
                }
                sum += f64::from(a[at(&a_shape, &left)]) * f64::from(b[at(&b_shape, &right)]);
            }
            let c = inputs.get(2).copied().flatten();
            let c = c.map_or(0.0, |c| c.values::<f32>()[at(&c.ty().shape, &position)]);
            (f64::from(product.alpha) * sum + f64::from(product.beta) * f64::from(c)) as f32
        })
        .collect();
    Constant::of(ty.clone(), &values)
}

/// The outputs of the compiled plan, whose graph the passes of [`passes::FINISH`] have prepared.
pub fn compiled(graph: &Graph, inputs: &[Constant], precision: Precision) -> Vec<Constant> {
    let text = || graph.to_text();
    let calls = lower(graph, precision, true, Decisions::default())
        .unwrap_or_else(|(node, reason)| panic!("{node}: {}\n{}", reason.what, text()));
    let memory = plan_memory(&calls).unwrap_or_else(|conflict| panic!("{conflict}\n{}", text()));
    let ports = |ids: &[_]| -> Vec<Port> {
        ids.iter().map(|&id| Port { name: graph.value(id).name.clone(), ty: graph.ty(id).clone() }).collect()
    };
    let (from, to) = (ports(&graph.inputs), ports(&graph.outputs));
    let parts = PlanParts::new(&calls, &memory, &from, &to, ModelInfo::default()).unwrap();
    let mut bytes = Vec::new();
    parts.write_to(&mut bytes).unwrap();
    let plan = AlignedBytes::copy_of(&bytes).unwrap();
    let kernels = registered_kernels(&PlanView::read(plan.as_slice()).unwrap()).unwrap();
    let engine = Engine::open(plan, &kernels, EngineOptions::default())
        .unwrap_or_else(|error| panic!("{error}\n{}", text()));

    let mut context = engine.context();
    let mut run = |inputs: &[&[u8]]| -> Vec<Vec<u8>> {
        let mut outputs: Vec<Vec<u8>> = to.iter().map(|port| vec![0xAA; port.ty.bytes()]).collect();
        let mut slots: Vec<Output<'_>> =
            outputs.iter_mut().map(|bytes| Output::from(bytes.as_mut_slice())).collect();
        context.run(inputs, &mut slots).unwrap_or_else(|error| panic!("{error}\n{}", text()));
        outputs
    };
    // A first inference of NaN leaves NaN all over the arena: whatever reads what was not written shows it.
    let poison: Vec<Vec<u8>> = inputs.iter().map(|input| vec![0xFF; input.data().len()]).collect();
    run(&poison.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let outputs = run(&inputs.iter().map(|input| &input.data()[..]).collect::<Vec<_>>());
    let typed = |(port, bytes): (&Port, Vec<u8>)| Constant::new(port.ty.clone(), bytes.into()).unwrap();
    to.iter().zip(outputs).map(typed).collect()
}

/// Asserts that f32 tensors differ by at most `tolerance` times the largest element, and that others are equal.
pub fn assert_close(actual: &[Constant], expected: &[Constant], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (number, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(actual.ty(), expected.ty(), "output {number} of\n{what}");
        if actual.ty().dtype != DataType::F32 {
            assert!(actual.data() == expected.data(), "output {number} differs in\n{what}");
            continue;
        }
        let (actual, expected) = (actual.values::<f32>(), expected.values::<f32>());
        let scale = expected.iter().fold(1e-3f32, |most, v| most.max(v.abs()));
        assert!(scale.is_finite(), "output {number} is not finite in\n{what}");
        for (index, (&a, &e)) in actual.iter().zip(&*expected).enumerate() {
            let close = (a - e).abs() <= tolerance * scale;
            assert!(close, "output {number} is {a} at {index}, not {e} (of at most {scale}), in\n{what}");
        }
    }
}

/// Compiles `text` with every pass and compares with the reference. Gives back the graph that was lowered, as text.
pub fn check(text: &str) -> String {
    let mut graph = model(text);
    let inputs = inputs(&graph);
    let expected = reference(&graph, &inputs);
    passes::run(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
    let lowered = graph.to_text();
    let outputs = compiled(&graph, &inputs, Precision::Fp32);
    assert_close(&outputs, &expected, 2e-5, &format!("{text}\n{lowered}"));
    lowered
}
