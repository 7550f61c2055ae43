//! The command `infer`: every subcommand on small models, and what bad input gets.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use infer_core::onnx::proto::{
    Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, dimension, type_proto,
};
use prost::Message;

const FLOAT: i32 = 1;
const STRING: i32 = 8;

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A file of tests/data.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn infer(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infer"));
    command.args(arguments.iter().map(|argument| argument.as_ref()));
    command.env_remove("INFER_ISA").env_remove("INFER_THREADS").output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The output of a command that succeeds.
fn good(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = infer(arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    stdout(&output)
}

/// The error of a command that fails with `code`.
fn bad(code: i32, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = infer(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A numpy file.
fn npy(code: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{code}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(elements);
    bytes
}

fn bytes_of<const N: usize, T>(values: &[T], to_bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(to_bytes).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    bytes_of(values, |value| value.to_le_bytes())
}

/// The recorded case of the transformer, as numpy files.
fn transformer_case(folder: &Path) {
    let convert = |name: &str, code: &str, shape: &str| {
        let elements = fs::read(data(&format!("transformer_1/{name}.bin"))).unwrap();
        fs::write(folder.join(format!("{name}.npy")), npy(code, shape, &elements)).unwrap();
    };
    convert("input_0", "<i8", "1, 16");
    convert("input_1", "<i8", "1, 16");
    convert("output_0", "<f4", "1, 10");
    convert("output_1", "<f4", "1, 16, 32");
}

fn value(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |dim: &&str| Dimension {
        value: Some(match dim.parse() {
            Ok(extent) => dimension::Value::DimValue(extent),
            Err(_) => dimension::Value::DimParam((*dim).to_owned()),
        }),
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type, shape };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: name.into(), r#type: Some(ty) }
}

fn node(op_type: &str, domain: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: format!("{op_type}_{output}").to_lowercase(),
        op_type: op_type.into(),
        domain: domain.into(),
        input: inputs.iter().map(|&input| input.into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn write_model(
    path: &Path,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
) {
    let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let model = ModelProto {
        ir_version: Some(8),
        producer_name: "by hand".into(),
        opset_import: vec![opset("", 17), opset("com.example", 1)],
        graph: Some(GraphProto { node: nodes, input: inputs, output: outputs, ..GraphProto::default() }),
        ..ModelProto::default()
    };
    fs::write(path, model.encode_to_vec()).unwrap();
}

/// `y = x + x` for a vector of any length.
fn write_double(path: &Path) {
    let add = node("Add", "", &["x", "x"], "y");
    write_model(path, vec![add], vec![value("x", FLOAT, &["n"])], vec![value("y", FLOAT, &["n"])]);
}

fn write_tensor(path: &Path, values: &[f32]) {
    let tensor = TensorProto {
        dims: vec![values.len() as i64],
        data_type: FLOAT,
        float_data: values.to_vec(),
        ..TensorProto::default()
    };
    fs::write(path, tensor.encode_to_vec()).unwrap();
}

#[test]
fn inspect_says_what_a_model_is() {
    let text = good(&[&"inspect", &data("transformer.onnx"), &"--dims", &"batch=2,seq=16"]);
    for part in [
        "input_ids: i64[batch,seq]",
        "logits: f32[batch,10]",
        "symbols     batch, seq",
        "ai.onnx 13 (IR version 9)",
        "82: 16 Add, 9 Unsqueeze",
        "parameters  11 015",
        "analysed for batch=2,seq=16\n",
        "+3 LayerNormalization",
        "+1 Gelu",
        "shape_inference: ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // Without sizes it says what it takes them for.
    let text = good(&[&"inspect", &data("transformer.onnx"), &"--dims", &"batch=2"]);
    assert!(text.contains("analysed for batch=2,seq=1 (nobody says what seq is: taken to be 1)"), "{text}");
}

#[test]
fn inspect_prints_json() {
    let text = good(&[&"inspect", &data("convnet.onnx"), &"--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["supported"], true);
    assert_eq!(json["inputs"][0]["type"], "f32[1,3,40,36]");
    assert_eq!(json["opsets"]["ai.onnx"], 17);
    assert_eq!(json["nodes"]["Conv"], 12);
    assert_eq!(json["optimized_nodes"]["BatchNormalization"], serde_json::Value::Null);
    assert!(json["flops"].as_u64().unwrap() > 5_000_000);
    assert!(json["arena_bytes"].as_u64().unwrap() > 0);
    let fold = json["fusions"].as_array().unwrap().iter().find(|change| change["pass"] == "fold_batch_norm");
    assert_eq!(fold.unwrap()["removed"]["BatchNormalization"], 2);
}

#[test]
fn every_unsupported_node_is_named() {
    let model = folder("unsupported").join("custom.onnx");
    let nodes = vec![
        node("Wobble", "com.example", &["x"], "a"),
        node("Relu", "", &["a"], "b"),
        node("Jiggle", "com.example", &["b"], "c"),
        node("Wiggle", "com.example", &["c"], "y"),
    ];
    write_model(&model, nodes, vec![value("x", FLOAT, &["2"])], vec![value("y", FLOAT, &["2"])]);
    for command in ["inspect", "run"] {
        let error = bad(1, &[&command, &model]);
        for node in ["wobble_a", "jiggle_c", "wiggle_y"] {
            assert!(error.contains(&format!("`{node}`")), "{error}");
        }
        assert_eq!(error.matches("error: ").count(), 1, "{error}");
        assert!(!error.contains("relu_b"), "{error}");
    }
    let output = infer(&[&"inspect", &model, &"--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["supported"], false);
    assert_eq!(json["producer"], "by hand");
    assert_eq!(json["nodes"]["com.example.Wobble"], 1);
    assert!(json["error"].as_str().unwrap().contains("wiggle_y"));
}

#[test]
fn a_model_runs_on_files() {
    let (case, results) = (folder("run_case"), folder("run_results"));
    transformer_case(&case);
    let text = good(&[&"run", &data("transformer.onnx"), &"--inputs", &case, &"--outputs", &results]);
    assert!(text.contains("output `logits`: f32[1,10]: ") && text.contains("→ output_0.npy"), "{text}");
    // What was written is what was recorded, almost.
    let (ours, recorded) = (fs::read(results.join("output_1.npy")), fs::read(case.join("output_1.npy")));
    let elements = |bytes: Vec<u8>| -> Vec<f32> {
        let tail = &bytes[bytes.len() - 4 * 16 * 32..];
        tail.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    for (ours, recorded) in elements(ours.unwrap()).iter().zip(elements(recorded.unwrap())) {
        assert!((ours - recorded).abs() < 1e-4, "{ours} {recorded}");
    }
}

#[test]
fn random_inputs_are_seeded() {
    let run = |seed: &str| {
        let results = folder(&format!("random_{seed}"));
        let model = data("transformer.onnx");
        good(&[&"run", &model, &"--dims", &"batch=1,seq=8", &"--seed", &seed, &"--outputs", &results]);
        fs::read(results.join("output_1.npy")).unwrap()
    };
    let first = run("1");
    assert_eq!(first, run("1"));
    assert_ne!(first, run("2"));
}

#[test]
fn strings_go_through_protobuf_files() {
    let folder = folder("strings");
    let model = folder.join("same.onnx");
    let same = node("Identity", "", &["x"], "y");
    write_model(&model, vec![same], vec![value("x", STRING, &["2"])], vec![value("y", STRING, &["2"])]);
    let tensor = TensorProto {
        dims: vec![2],
        data_type: STRING,
        string_data: vec!["größer".as_bytes().into(), "".as_bytes().into()],
        ..TensorProto::default()
    };
    fs::write(folder.join("input_0.pb"), tensor.encode_to_vec()).unwrap();
    let text = good(&[&"run", &model, &"--inputs", &folder, &"--outputs", &folder]);
    assert!(text.contains("string[2]: \"größer\", \"\" → output_0.pb"), "{text}");
    assert!(good(&[&"check", &model, &"--case", &folder]).contains("agrees"));
}

#[test]
fn check_compares_with_what_was_recorded() {
    let case = folder("check");
    transformer_case(&case);
    let model = data("transformer.onnx");
    let text = good(&[&"check", &model, &"--case", &case]);
    assert_eq!(text.matches("agrees").count(), 2, "{text}");
    let output = infer(&[&"check", &model, &"--case", &case, &"--rtol", &"0", &"--atol", &"0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("DIFFERS") && text.contains("elements differ: element "), "{text}");
    // A recorded output of another shape.
    fs::write(case.join("output_0.npy"), npy("<f4", "10,", &[0; 40])).unwrap();
    let output = infer(&[&"check", &model, &"--case", &case]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("it is f32[1,10] instead of f32[10]"), "{output:?}");
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let case = folder("misfits");
    let model = data("convnet.onnx");
    let refused = |bytes: &[u8]| {
        fs::write(case.join("input_0.npy"), bytes).unwrap();
        bad(1, &[&"run", &model, &"--inputs", &case])
    };
    let error = refused(&npy("<f4", "1, 3, 40, 37", &[0; 4 * 3 * 40 * 37]));
    assert!(
        error.contains("input `input.1` is f32[1,3,40,36]; ") && error.contains("is f32[1,3,40,37]"),
        "{error}"
    );
    let error = refused(&npy("<f8", "1, 3, 40, 36", &[0; 8 * 3 * 40 * 36]));
    assert!(error.contains("f32[1,3,40,36]") && error.contains("f64[1,3,40,36]"), "{error}");
    for damaged in
        [&b"\x93NUMPY"[..], b"", b"PK\x03\x04", &npy("<f4", "1, 3", &[0; 11]), &npy("<f4", "(", &[])]
    {
        let error = refused(damaged);
        assert!(
            error.contains("input_0.npy for input `input.1`: ") && error.contains("npy file")
                || error.contains("npy header")
                || error.contains("there are 11"),
            "{error}"
        );
    }
    fs::write(case.join("input_0.pb"), [0xff; 9]).unwrap();
    assert!(refused(&[]).contains("both as .npy and as .pb"));
    fs::remove_file(case.join("input_0.npy")).unwrap();
    assert!(bad(1, &[&"run", &model, &"--inputs", &case]).contains("input_0.pb for input `input.1`: "));
    fs::remove_file(case.join("input_0.pb")).unwrap();
    let error = bad(1, &[&"run", &model, &"--inputs", &case]);
    assert!(error.contains("has no input_0.npy and no input_0.pb for input `input.1`"), "{error}");
    let error = bad(1, &[&"run", &model, &"--inputs", &case.join("missing")]);
    assert!(error.contains("cannot read the folder"), "{error}");

    // One symbol, two sizes.
    fs::write(case.join("input_0.npy"), npy("<i8", "1, 16", &[0; 128])).unwrap();
    fs::write(case.join("input_1.npy"), npy("<i8", "1, 15", &[0; 120])).unwrap();
    let error = bad(1, &[&"run", &data("transformer.onnx"), &"--inputs", &case]);
    assert!(
        error.contains("dimension `seq` is 16 in input `input_ids` and 15 in input `attention_mask`"),
        "{error}"
    );
    // One file too many.
    fs::write(case.join("input_1.npy"), npy("<i8", "1, 16", &[0; 128])).unwrap();
    fs::write(case.join("input_2.npy"), npy("<i8", "1, 16", &[0; 128])).unwrap();
    let error = bad(1, &[&"run", &data("transformer.onnx"), &"--inputs", &case]);
    assert!(error.contains("input_2.npy is one too many: the model has 2 inputs"), "{error}");
    fs::remove_file(case.join("input_2.npy")).unwrap();
    // What --dims says goes before what the data says.
    let model = data("transformer.onnx");
    let error = bad(1, &[&"run", &model, &"--inputs", &case, &"--dims", &"seq=8"]);
    assert!(error.contains("input `input_ids` is i64[1,8]; i64[1,16] was given for it"), "{error}");
}

#[test]
fn models_and_dimensions_that_are_not_there_are_said() {
    let model = data("transformer.onnx");
    let error = bad(1, &[&"inspect", &data("missing.onnx")]);
    assert!(error.starts_with("error: ") && error.contains("there is no such file"), "{error}");
    let error = bad(1, &[&"inspect", &data("make.py")]);
    assert!(error.contains("this is not an ONNX file"), "{error}");
    let error = bad(1, &[&"inspect", &model, &"--dims", &"bacth=1"]);
    assert!(
        error.contains("has no symbolic dimension `bacth`; its symbolic dimensions are `batch`, `seq`"),
        "{error}"
    );
    let error = bad(1, &[&"run", &model]);
    assert!(
        error.contains("symbolic dimensions without a size") && error.contains("help: --dims batch=1,seq=1"),
        "{error}"
    );
    for (dims, message) in [("batch", "`batch` has no size"), ("batch=x", "`x` is no size for `batch`")] {
        let error = bad(2, &[&"run", &model, &"--dims", &dims]);
        assert!(error.contains(message), "{error}");
    }
    if !cfg!(feature = "cuda") {
        let error = bad(1, &[&"run", &model, &"--backend", &"cuda"]);
        assert!(error.contains("this build of infer has no CUDA"), "{error}");
    }
    let error = bad(2, &[&"run", &model, &"--precision", &"fp8"]);
    assert!(error.contains("fp32 or tf32 or fp16"), "{error}");
    let error = bad(1, &[&"run", &data("convnet.onnx"), &"--threads", &"0"]);
    assert!(error.contains("0 threads are asked for"), "{error}");
}

/// Of the model, the two nodes between its convolutions have no kernels on GPUs.
#[cfg(feature = "cuda")]
#[test]
fn commands_say_what_runs_on_a_gpu() {
    let model = data("parts.onnx");
    let text = good(&[&"inspect", &model]);
    for part in [
        "compiled for NVIDIA GPUs: 4 nodes, 2 where the run decides",
        "\n  part      cuda: 2 nodes\n  part      run time: 2 nodes: `QuantizeLinear_4` (QuantizeLinear), ",
        "note        these nodes run, or may run, on the processor where the model runs on a GPU: ",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let json = good(&[&"inspect", &model, &"--json"]);
    assert!(json.contains("\"cuda_parts\"") && json.contains("\"backend\": \"run_time\""), "{json}");
    for command in [&["inspect"][..], &["run", "--backend", "cuda"]] {
        let mut words: Vec<&dyn AsRef<std::ffi::OsStr>> =
            command.iter().map(|word| word as &dyn AsRef<_>).collect();
        words.extend([&model as &dyn AsRef<_>, &"--strict"]);
        let error = bad(1, &words);
        assert!(error.contains("QuantizeLinear"), "{error}");
    }

    let text = good(&[&"run", &model, &"--backend", &"auto"]);
    let there = text.contains("runs on a GPU: 4 nodes there, 2 on the processor");
    assert!(there || text.contains("runs on the processor alone"), "{text}");
    assert!(!good(&[&"run", &model]).contains("runs on"));
    let suite = folder("conformance_on_gpus");
    let case = suite.join("group/parts");
    fs::create_dir_all(case.join("test_data_set_0")).unwrap();
    write_double(&case.join("model.onnx"));
    write_tensor(&case.join("test_data_set_0/input_0.pb"), &[1.0, 2.0]);
    write_tensor(&case.join("test_data_set_0/output_0.pb"), &[2.0, 4.0]);
    let text = good(&[&"conformance", &suite, &"--backend", &"auto"]);
    let places = ["on a GPU", "on the processor alone"];
    let place = places.map(|place| format!("cases of floats {place}: 1, of which 1 passed, 0 failed"));
    assert!(place.iter().any(|place| text.contains(place)), "{text}");
}

#[test]
fn bench_measures_inferences_and_layers() {
    let folder = folder("bench");
    let file = folder.join("bench.json");
    let model = data("convnet.onnx");
    let short: [&dyn AsRef<std::ffi::OsStr>; 4] = [&"--duration", &"0.02", &"--warmup", &"0"];
    let text = good(&[&[&"bench" as &dyn AsRef<_>, &model, &"--json", &file], &short[..]].concat());
    for part in
        ["model       convnet.onnx\n", "\nlatency     min ", "\nthroughput  ", "\nmemory      at most "]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let latency = |name: &str| json["latency_ms"][name].as_f64().unwrap();
    assert!(json["queries"].as_u64().unwrap() >= 10);
    assert!(0.0 < latency("min") && latency("min") <= latency("median") && latency("p99") <= latency("max"));
    assert!(json["load_ms"].as_f64().unwrap() > 0.0 && json["first_ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&json["backend"], &json["layers"]), (&"cpu".into(), &serde_json::Value::Null));

    // A plan, and a program of plans and of nodes that only the run knows.
    let layers = |model: &Path, more: &[&dyn AsRef<std::ffi::OsStr>]| -> serde_json::Value {
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 6] =
            [&"bench", &model, &"--layers", &"--json", &"-", &"--threads=2"];
        let text = good(&[&arguments[..], &short[..], more].concat());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["threads"], 2);
        assert!(json["layers"]["peak_gflops"].as_f64().unwrap() > 0.1);
        json["layers"]["layers"].clone()
    };
    let rows = layers(&model, &[]);
    let conv = rows.as_array().unwrap().iter().find(|row| row["kernel"] == "conv_f32").unwrap();
    assert!(conv["flops"].as_u64().unwrap() > 0 && conv["median_us"].as_f64().unwrap() > 0.0, "{conv}");
    assert!(conv["shape"].as_str().unwrap().contains('→') && conv["peak_share"].as_f64().is_some(), "{conv}");
    let rows = layers(&data("nonzero.onnx"), &[]);
    assert!(rows.as_array().unwrap().iter().any(|row| row["kernel"] == "NonZero"), "{rows}");

    let error = bad(2, &[&"bench", &model, &"--duration=-1"]);
    assert!(error.contains("a number from 0 is wanted"), "{error}");
    let error = bad(1, &[&"bench", &model, &"--inputs", &folder]);
    assert!(error.contains("has no input_0.npy"), "{error}");
    let error = bad(1, &[&"bench", &model, &"--duration=0", &"--json", &folder]);
    assert!(error.contains("cannot write"), "{error}");
}

#[test]
fn inspect_explains_every_layer() {
    let text = good(&[&"inspect", &data("convnet.onnx"), &"--explain"]);
    for part in [
        "\nlayer ",
        "depthwise by the cost model; estimates beside it: dense ×",
        "a border for the windows that read it: 1 above, 1 left, 1 below, 1 right",
        "  NCHW3c to NCHW16c  ",
        "its inputs and outputs share memory: nothing is to do",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let text = good(&[&"inspect", &data("nonzero.onnx"), &"--explain", &"--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layers = json["layers"].as_array().unwrap();
    let names: Vec<&str> = layers.iter().map(|layer| layer["operator"].as_str().unwrap()).collect();
    assert_eq!(names, ["Relu", "NonZero"], "{text}");
    assert_eq!((&layers[0]["kernels"][0], &layers[1]["kernels"][0]), (&"relu_f32".into(), &().into()));
    assert!(layers[1]["reasons"][0].as_str().unwrap().starts_with("runs by itself: "), "{text}");
    assert!(!good(&[&"inspect", &data("nonzero.onnx")]).contains("relu_f32"));
}

#[test]
fn tuning_writes_tactics_that_commands_follow() {
    let folder = folder("tactics");
    let (file, model) = (folder.join("c.tactics"), data("convnet.onnx"));
    let text = good(&[&"tune", &model, &"-o", &file, &"--threads", &"1", &"--duration", &"0.02"]);
    for part in ["16 3x3 @20x18", "depthwise ", " µs, dense ", "\nlatency  ", "\nwritten     "] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let tactics = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = tactics.lines().collect();
    assert_eq!((lines[1], lines[4]), ("infer-tactics 1", "threads 1"));
    assert!(lines[2].starts_with("model ") && lines[3].starts_with("isa "), "{tactics}");
    assert!(lines[5].starts_with("layer \"Conv_2\" convolution \"16 3x3 @20x18\" "), "{tactics}");
    let strict: [&dyn AsRef<std::ffi::OsStr>; 3] = [&"--strict", &"--tactics", &file];
    let with = |command: &'static str, model: &Path, more: &[&dyn AsRef<std::ffi::OsStr>]| {
        infer(&[&[&command as &dyn AsRef<_>, &model], &strict[..], more].concat())
    };
    assert_eq!(with("inspect", &model, &[]).status.code(), Some(0));

    // Every way computes the same.
    let results = ["depthwise", "dense"].map(|way| {
        let text =
            tactics.replace(" depthwise\n", " WAY\n").replace(" dense\n", " WAY\n").replace("WAY", way);
        fs::write(&file, text).unwrap();
        let out = folder.join(way);
        let output = with("run", &model, &[&"--outputs", &out]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let explained = stdout(&with("inspect", &model, &[&"--explain"]));
        assert!(explained.contains(&format!("{way} by the tactics; estimates beside it: ")), "{explained}");
        let bytes = fs::read(out.join("output_0.npy")).unwrap();
        let elements = bytes[bytes.len() - 4 * 2 * 40 * 36..].chunks_exact(4);
        elements.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect::<Vec<f32>>()
    });
    for (a, b) in results[0].iter().zip(&results[1]) {
        assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{a} {b}");
    }

    // What does not fit is noted, and an error where that is asked for.
    fs::write(&file, tactics.replace("@20x18", "@20x19").replace("Conv_29", "Conv_99")).unwrap();
    let text = good(&[&"inspect", &model, &"--tactics", &file]);
    for part in [
        "note        c.tactics: layer `Conv_2` computes 16 3x3 @20x18, not 16 3x3 @20x19: its tactic is not used\n",
        "note        c.tactics: the model has no layer `Conv_99+Add_30` with a choice of convolution\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    for command in ["inspect", "run", "bench"] {
        let output = with(command, &model, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("the model has notes, and --strict is given:\n- c.tactics: layer"), "{error}");
    }
    // Another model.
    fs::write(&file, &tactics).unwrap();
    let text = good(&[&"inspect", &data("reshape.onnx"), &"--tactics", &file]);
    assert!(text.contains("note        c.tactics was measured for another model (SHA-256 "), "{text}");

    // No tactics at all.
    fs::write(&file, tactics.replace("layer \"Conv_2\"", "layer Conv_2")).unwrap();
    let error = bad(1, &[&"run", &model, &"--tactics", &file]);
    assert!(error.contains("c.tactics:6: expected the layer's name in quotes, found `Conv_2 "), "{error}");
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(bad(1, &[&"run", &model, &"--tactics", &file]).contains("this is no text: byte 0 is no UTF-8"));
    let error = bad(1, &[&"run", &model, &"--tactics", &folder.join("missing")]);
    assert!(error.contains("there is no such file\n       help: `infer tune` writes one"), "{error}");

    // A model without any choice.
    let text = good(&[&"tune", &data("nonzero.onnx"), &"-o", &file]);
    assert!(text.starts_with("no layer of this model can be computed in more than one way\n"), "{text}");
    assert!(!fs::read_to_string(&file).unwrap().contains("layer \""));
    assert!(bad(1, &[&"tune", &model, &"--duration=0", &"-o", &folder]).contains("cannot write"));
}

/// A suite: a case that passes on two sets of data, and three that fail.
fn suite(name: &str) -> PathBuf {
    let suite = folder(name);
    let case = |title: &str, recorded: &[f32]| {
        let case = suite.join(title);
        fs::create_dir_all(case.join("test_data_set_0")).unwrap();
        write_double(&case.join("model.onnx"));
        fs::write(case.join("tolerance.json"), "{\"rtol\": 0.01, \"atol\": 0}").unwrap();
        write_tensor(&case.join("test_data_set_0/input_0.pb"), &[1.0, 2.0]);
        write_tensor(&case.join("test_data_set_0/output_0.pb"), recorded);
        case
    };
    let passes = case("b/test_passes", &[2.0, 4.01]);
    fs::create_dir_all(passes.join("test_data_set_1")).unwrap();
    write_tensor(&passes.join("test_data_set_1/input_0.pb"), &[1.0, 2.0, 3.0]);
    fs::write(passes.join("test_data_set_1/output_0.npy"), npy("<f4", "3,", &floats(&[2.0, 4.0, 6.0])))
        .unwrap();
    case("b/test_wrong", &[2.0, 5.0]);
    let damaged = case("a/test_damaged", &[]);
    fs::write(damaged.join("model.onnx"), [8, 8, 0xff]).unwrap();
    fs::create_dir_all(suite.join("a/test_empty")).unwrap();
    suite
}

#[test]
fn conformance_counts_and_names() {
    let suite = suite("suite");
    let run = |jobs: &str| {
        let output = infer(&[&"conformance", &suite, &"--jobs", &jobs]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stdout(&output)
    };
    let text = run("1");
    assert_eq!(text, run("4"));
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("FAIL: a/test_damaged: model.onnx: the file (3 bytes) is damaged"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("FAIL: a/test_empty: ") && lines[1].contains("there is no such file"),
        "{text}"
    );
    assert_eq!(
        lines[2..],
        [
            "FAIL: b/test_wrong: output `y`: 1 of 2 elements differ: element 1 is 4, not 5; at most by 1.000e0, \
             relative 2.000e-1",
            "a: 0 of 2 passed",
            "b: 1 of 2 passed",
            "1 passed, 3 failed",
        ]
    );
    assert!(good(&[&"conformance", &suite, &"--filter", &"passes"]).ends_with("\n1 passed, 0 failed\n"));
    assert!(bad(1, &[&"conformance", &suite, &"--filter", &"nothing"]).contains("holds no case"));
    assert!(bad(1, &[&"conformance", &suite.join("b")]).contains("the folder of the suite holds groups"));
}

#[test]
fn failures_may_be_expected() {
    let suite = suite("expected");
    let list = suite.join("expect.txt");
    let run = |text: &str| {
        fs::write(&list, text).unwrap();
        infer(&[&"conformance", &suite, &"--expect", &list])
    };
    let known =
        "# Known.\na/test_damaged it is damaged\n\na/test_empty it is empty\nb/test_wrong sums are hard\n";
    let output = run(known);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).ends_with("0 not as expected\n1 passed, 3 failed\n"), "{output:?}");
    let output = run("a/test_damaged it is damaged\na/test_empty it is empty\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("\nFAIL: b/test_wrong: "), "{output:?}");
    let output = run(&format!("{known}b/test_passes it does not\n"));
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("PASS, though listed as a failure: b/test_passes\n"), "{output:?}");
    for (text, message) in [
        ("b/test_gone it was there", "lists `b/test_gone`, which "),
        ("b/test_wrong", "line 1: `b/test_wrong` is listed without a reason"),
        ("b/test_wrong no\nb/test_wrong no", "line 2: `b/test_wrong` is listed twice"),
        ("test_wrong no", "line 1: `test_wrong` is no group/case"),
    ] {
        let output = run(text);
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn help_has_examples() {
    for command in ["inspect", "run", "bench", "tune", "check", "conformance"] {
        let help = good(&[&command, &"--help"]);
        assert!(help.contains(&format!("Examples:\n  infer {command} ")), "{help}");
    }
    let help = good(&[&"--help"]);
    assert!(help.contains("Exit codes:") && !help.contains("  case "), "{help}");
}
