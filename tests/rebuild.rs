//! What cargo rebuilds, and when: an application is built over and over in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use infer_core::compile::compile;
use infer_core::onnx::proto::{
    Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use infer_core::options::Options;
use prost::Message;

const MANIFEST: &str = r#"
[package]
name = "application"
version = "0.1.0"
edition = "2024"

[workspace]

[dependencies]
infer-embed = { path = "REPOSITORY" }

[build-dependencies]
infer-embed = { path = "REPOSITORY", features = ["build"] }
"#;

const BUILD: &str = r#"
fn main() -> Result<(), infer_embed::build::Error> {
    infer_embed::build::Config::new("Built", "models/built.onnx").precision("fp32").compile()?;
    Ok(())
}
"#;

const MAIN: &str = r#"
#[infer_embed::model("models/inside.onnx")]
struct Inside;

#[infer_embed::model("models/external.onnx", embed = "bytes")]
struct External;

include!(concat!(env!("OUT_DIR"), "/built.rs"));

fn main() -> infer_embed::Result<()> {
    let inside = Inside::new()?.infer(&[1.0, 10.0])?;
    let external = External::new()?.infer(&[1.0, 10.0])?;
    let built = Built::new()?.infer(&[1.0, 10.0])?;
    println!("{:?} {:?} {:?} revision REVISION", inside.y, external.y, built.y);
    Ok(())
}
"#;

#[test]
fn rebuilds_what_changed_and_nothing_else() {
    let app = Application::new();
    app.write("models/inside.onnx", &model(Weights::Inside(2.0)));
    app.write("models/built.onnx", &model(Weights::Inside(3.0)));
    app.write("models/external.onnx", &model(Weights::External));
    app.write("models/weights.bin", &4.0_f32.to_le_bytes());
    let built = app.edit_and_build(1, &[]);
    assert_eq!(built.how("inside.onnx"), "compiled", "{}", built.log);
    assert_eq!(app.run(), "[2.0, 20.0] [4.0, 40.0] [3.0, 30.0] revision 1");
    let plans = app.plans();
    assert_eq!(plans.len(), 3);

    // Nothing changed.
    let built = app.build(&[]);
    assert!(!built.log.contains("Compiling"), "{}", built.log);

    // Other code changed.
    let built = app.edit_and_build(2, &[]);
    assert_eq!((built.how("inside.onnx"), built.how("external.onnx")), ("cached", "cached"), "{}", built.log);
    assert_eq!(app.run(), "[2.0, 20.0] [4.0, 40.0] [3.0, 30.0] revision 2");

    // A model changed, of the same size.
    app.write("models/inside.onnx", &model(Weights::Inside(5.0)));
    let built = app.build(&[]);
    assert_eq!(
        (built.how("inside.onnx"), built.how("external.onnx")),
        ("compiled", "cached"),
        "{}",
        built.log
    );
    assert_eq!(app.run(), "[5.0, 50.0] [4.0, 40.0] [3.0, 30.0] revision 2");

    // External data changed.
    app.write("models/weights.bin", &6.0_f32.to_le_bytes());
    let built = app.build(&[]);
    assert_eq!(
        (built.how("inside.onnx"), built.how("external.onnx")),
        ("cached", "compiled"),
        "{}",
        built.log
    );
    assert_eq!(app.run(), "[5.0, 50.0] [6.0, 60.0] [3.0, 30.0] revision 2");

    // What a build script compiles changed.
    app.write("models/built.onnx", &model(Weights::Inside(7.0)));
    app.build(&[]);
    assert_eq!(app.run(), "[5.0, 50.0] [6.0, 60.0] [7.0, 70.0] revision 2");

    // And back: the plan of that time is still there.
    app.write("models/inside.onnx", &model(Weights::Inside(2.0)));
    let built = app.build(&[]);
    assert_eq!(built.how("inside.onnx"), "cached", "{}", built.log);
    assert_eq!(app.run(), "[2.0, 20.0] [6.0, 60.0] [7.0, 70.0] revision 2");

    // The cache is gone, and the machine is another one. What the test was built with is one more compiler, in another
    // target directory.
    let here = compile(&Options::new(app.folder.join("models/inside.onnx"))).expect("the model compiles");
    let settings = [
        [("INFER_ISA", "scalar"), ("INFER_THREADS", "1"), ("RAYON_NUM_THREADS", "1")],
        [("INFER_ISA", "avx512"), ("INFER_THREADS", "7"), ("RAYON_NUM_THREADS", "5")],
    ];
    for (setting, revision) in settings.iter().zip(3..) {
        fs::remove_dir_all(app.cache()).expect("the cache can be removed");
        let built = app.edit_and_build(revision, setting);
        assert_eq!(built.how("inside.onnx"), "compiled", "{}", built.log);
        assert!(app.plans().contains(&here.plan), "{setting:?} gives another plan");
    }
}

#[test]
fn applications_depend_on_no_compiler() {
    let arguments = ["tree", "-e", "normal,no-proc-macro", "-p", "digits", "--prefix", "none", "--offline"];
    let tree = cargo(&arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    let log = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{log}");
    let tree = String::from_utf8_lossy(&tree.stdout);
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"infer-core") && names.contains(&"infer-kernels"), "{tree}");
    for name in ["prost", "protobuf", "onnx-protobuf", "syn", "quote", "proc-macro2", "clap", "rayon", "sha2"]
    {
        assert!(!names.contains(&name), "{name} is among the dependencies:\n{tree}");
    }
}

/// An application in a folder of its own, with a target directory of its own, which later test runs find again.
struct Application {
    folder: PathBuf,
    target: PathBuf,
}

impl Application {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rebuild");
        let app = Application { folder: root.join("an application"), target: root.join("target") };
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        app.write("Cargo.toml", MANIFEST.replace("REPOSITORY", &repository.display().to_string()).as_bytes());
        app.write("build.rs", BUILD.as_bytes());
        // The same versions as here, which have been downloaded.
        app.write("Cargo.lock", &fs::read(repository.join("Cargo.lock")).expect("the lock file can be read"));
        if app.cache().exists() {
            fs::remove_dir_all(app.cache()).expect("the cache can be removed");
        }
        app
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder can be made");
        fs::write(path, content).expect("the file can be written");
    }

    fn cache(&self) -> PathBuf {
        self.target.join("infer-embed")
    }

    /// The contents of the plans in the cache.
    fn plans(&self) -> Vec<Vec<u8>> {
        let files =
            fs::read_dir(self.cache()).expect("the cache is there").map(|file| file.expect("a file").path());
        let plans = files.filter(|path| path.extension().is_some_and(|extension| extension == "plan"));
        plans.map(|path| fs::read(path).expect("the plan can be read")).collect()
    }

    fn edit_and_build(&self, revision: u32, settings: &[(&str, &str)]) -> Built {
        self.write("src/main.rs", MAIN.replace("REVISION", &revision.to_string()).as_bytes());
        self.build(settings)
    }

    fn build(&self, settings: &[(&str, &str)]) -> Built {
        let mut build = cargo(&["build", "--offline", "--target-dir"]);
        build
            .arg(&self.target)
            .current_dir(&self.folder)
            .env("INFER_LOG", "time")
            .envs(settings.iter().copied());
        let output = build.output().expect("cargo runs");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        Built { log }
    }

    fn run(&self) -> String {
        let program = self.target.join("debug/application");
        let output = Command::new(program).output().expect("the application runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

/// What a build said.
struct Built {
    log: String,
}

impl Built {
    /// `compiled` or `cached`, as the attribute says of `model`.
    fn how(&self, model: &str) -> &str {
        let line = self.log.lines().find(|line| line.starts_with(&format!("infer-embed: {model}: ")));
        let mut words = line.into_iter().flat_map(|line| line.split([',', ' ']));
        words.find(|word| ["compiled", "cached"].contains(word)).unwrap_or("not expanded")
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET");
    cargo
}

enum Weights {
    Inside(f32),
    External,
}

/// `y = x · w`, both of two elements but `w` of one.
fn model(weights: Weights) -> Vec<u8> {
    let value = |name: &str| {
        let dim = vec![Dimension { value: Some(dimension::Value::DimValue(2)) }];
        let tensor = type_proto::Tensor { elem_type: 1, shape: Some(TensorShapeProto { dim }) };
        let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
        ValueInfoProto { name: name.to_owned(), r#type: Some(ty) }
    };
    let mut w = TensorProto { name: "w".to_owned(), dims: vec![1], data_type: 1, ..TensorProto::default() };
    match weights {
        Weights::Inside(factor) => w.float_data = vec![factor],
        Weights::External => {
            let location =
                StringStringEntryProto { key: "location".to_owned(), value: "weights.bin".to_owned() };
            (w.data_location, w.external_data) = (1, vec![location]);
        }
    }
    let multiply = NodeProto {
        op_type: "Mul".to_owned(),
        input: vec!["x".to_owned(), "w".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: "graph".to_owned(),
        node: vec![multiply],
        initializer: vec![w],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: 17 };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}
