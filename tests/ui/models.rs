//! The models of the cases.

use std::fs;
use std::path::Path;

use infer_core::onnx::proto::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_type, dimension, type_proto,
};
use prost::Message;

const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// Writes every model below `package/models`, and one file outside of that folder.
pub fn write(package: &Path) {
    let folder = package.join("models");
    fs::create_dir_all(&folder).expect("the folder can be made");
    let save =
        |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("the model can be written");
    for (name, model) in models() {
        save(&format!("{name}.onnx"), &model.encode_to_vec());
    }
    let whole = good().encode_to_vec();
    save("with space.onnx", &whole);
    save("malformed.tactics", b"infer-tactics 1\nthreads many\n");
    save("stale.tactics", b"infer-tactics 1\nlayer \"gone\" convolution \"16 3x3 @4x4\" depthwise\n");
    save("empty.onnx", &[]);
    save("truncated.onnx", &whole[..whole.len() / 2]);
    save("picture.onnx", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\x01\0\x08\x02\0\0\0");
    fs::write(package.join("outside.bin"), [0; 64]).expect("the file can be written");
}

fn models() -> Vec<(&'static str, ModelProto)> {
    vec![
        ("good", good()),
        ("names", names()),
        (
            "symbolic",
            model(
                [node("Relu", "relu", ["x"], "y")],
                [symbolic("x", &["batch", "seq"])],
                [symbolic("y", &["batch", "seq"])],
            ),
        ),
        (
            "run_time_shape",
            model(
                [node("NonZero", "find", ["x"], "positions")],
                [value("x", FLOAT, &[2])],
                [typed(
                    "positions",
                    INT64,
                    vec![dimension::Value::DimValue(1), dimension::Value::DimParam("count".to_owned())],
                )],
            ),
        ),
        ("external_missing", external("weights.bin")),
        ("external_outside", external("../outside.bin")),
        ("unsupported_operators", unsupported_operators()),
        ("unsupported_attribute", unsupported_attribute()),
        (
            "cycle",
            model(
                [node("Add", "first", ["x", "b"], "a"), node("Relu", "second", ["a"], "b")],
                [picture("x")],
                [picture("a")],
            ),
        ),
        (
            "duplicate_name",
            model(
                [node("Relu", "first", ["x"], "y"), node("Abs", "second", ["x"], "y")],
                [picture("x")],
                [picture("y")],
            ),
        ),
        ("missing_input", model([node("Add", "sum", ["x", "nowhere"], "y")], [picture("x")], [picture("y")])),
        ("wrong_arity", model([node("Relu", "relu", ["x", "x"], "y")], [picture("x")], [picture("y")])),
        (
            "declared_output",
            model([node("Relu", "relu", ["x"], "y")], [picture("x")], [value("y", FLOAT, &[1, 3, 5, 4])]),
        ),
    ]
}

/// Two inputs, two outputs: `sum` f32[1,3,4,4] of `image` f32[1,3,4,4] and `bias` f32[3,1,1], and the i64 `index`.
fn good() -> ModelProto {
    let mut largest = node("ArgMax", "largest", ["sum"], "index");
    largest.attribute = vec![int("axis", 1), int("keepdims", 0)];
    model(
        [node("Add", "add", ["image", "bias"], "sum"), largest],
        [picture("image"), value("bias", FLOAT, &[3, 1, 1])],
        [picture("sum"), value("index", INT64, &[1, 4, 4])],
    )
}

/// Names that are no identifiers, or agree as identifiers.
fn names() -> ModelProto {
    model(
        [
            node("Add", "", ["input.1", "self"], "input_1"),
            node("Mul", "", ["input.1", "outputs"], "type"),
            node("Sub", "", ["input.1", "input/1"], "42"),
            node("Relu", "", ["input.1"], "input/1/"),
        ],
        ["input.1", "input/1", "self", "outputs"].map(|name| value(name, FLOAT, &[2])),
        ["input_1", "type", "42", "input/1/"].map(|name| value(name, FLOAT, &[2])),
    )
}

/// A model whose initializer lies in the file `location`.
fn external(location: &str) -> ModelProto {
    let mut model = model([node("Add", "sum", ["x", "w"], "y")], [picture("x")], [picture("y")]);
    let weights = TensorProto {
        name: "w".to_owned(),
        dims: vec![3, 1, 1],
        data_type: FLOAT,
        data_location: 1,
        external_data: vec![StringStringEntryProto {
            key: "location".to_owned(),
            value: location.to_owned(),
        }],
        ..TensorProto::default()
    };
    graph(&mut model).initializer.push(weights);
    model
}

/// Three operators that do not exist, one of them twice.
fn unsupported_operators() -> ModelProto {
    let mut foreign = node("FancyAttention", "attention_0", ["b"], "c");
    foreign.domain = "com.example".to_owned();
    let mut model = model(
        [
            node("Wobble", "wobble_0", ["x"], "a"),
            node("Wobble", "wobble_1", ["a"], "b"),
            foreign,
            node("Jiggle", "jiggle_0", ["c"], "y"),
        ],
        [picture("x")],
        [picture("y")],
    );
    model.opset_import.push(OperatorSetIdProto { domain: "com.example".to_owned(), version: 1 });
    model
}

fn unsupported_attribute() -> ModelProto {
    let mut space = node("DepthToSpace", "upscale", ["x"], "y");
    space.attribute = vec![int("blocksize", 2), string("mode", "ABC")];
    model([space], [value("x", FLOAT, &[1, 4, 2, 2])], [value("y", FLOAT, &[1, 1, 4, 4])])
}

fn model<const N: usize, const I: usize, const O: usize>(
    nodes: [NodeProto; N],
    inputs: [ValueInfoProto; I],
    outputs: [ValueInfoProto; O],
) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        producer_name: "infer-embed tests".to_owned(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(GraphProto {
            name: "graph".to_owned(),
            node: nodes.into(),
            input: inputs.into(),
            output: outputs.into(),
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().expect("`model` sets it")
}

fn node<const N: usize>(op_type: &str, name: &str, inputs: [&str; N], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        name: name.to_owned(),
        input: inputs.map(str::to_owned).into(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: attribute_type::INT,
        ..AttributeProto::default()
    }
}

fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: Some(value.as_bytes().to_vec().into()),
        r#type: attribute_type::STRING,
        ..AttributeProto::default()
    }
}

fn picture(name: &str) -> ValueInfoProto {
    value(name, FLOAT, &[1, 3, 4, 4])
}

fn value(name: &str, elem_type: i32, shape: &[i64]) -> ValueInfoProto {
    typed(name, elem_type, shape.iter().map(|&extent| dimension::Value::DimValue(extent)).collect())
}

fn symbolic(name: &str, shape: &[&str]) -> ValueInfoProto {
    typed(name, FLOAT, shape.iter().map(|&symbol| dimension::Value::DimParam(symbol.to_owned())).collect())
}

fn typed(name: &str, elem_type: i32, shape: Vec<dimension::Value>) -> ValueInfoProto {
    let dim = shape.into_iter().map(|value| Dimension { value: Some(value) }).collect();
    let tensor = type_proto::Tensor { elem_type, shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(ty) }
}
