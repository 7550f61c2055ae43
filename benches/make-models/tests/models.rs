//! Small models are made, always of the same bytes, and compiled.

use std::collections::HashSet;
use std::time::Instant;

use infer_core::compile::compile_file;
use infer_core::onnx::{self, ModelFile};
use infer_core::options::Options;
use make_models::{LAYERS, MODELS};

#[test]
fn small_models_compile() {
    for name in ["mnist_8", "lstm_ctc", "ultraface_rfb_320"] {
        let model = MODELS.iter().find(|model| model.name == name).unwrap();
        let bytes = model.bytes();
        assert_eq!(bytes, model.bytes(), "{name} is the same every time");
        let proto = onnx::decode(name, bytes.clone().into()).unwrap();
        let file = ModelFile { name: name.to_owned(), proto, bytes: bytes.into(), sources: Vec::new() };
        let compiled = compile_file(file, &Options::new(name), Instant::now()).unwrap();
        assert_eq!(compiled.summary.run_time_nodes, 0, "{name} is known as a whole");
        assert!(compiled.summary.flops > 0);
    }
}

#[test]
fn layers_are_layers() {
    for model in
        LAYERS.iter().filter(|model| model.name.contains("depthwise") || model.name.contains("_64_56"))
    {
        let bytes = model.bytes();
        let proto = onnx::decode(model.name, bytes.clone().into()).unwrap();
        let file = ModelFile { name: model.name.to_owned(), proto, bytes: bytes.into(), sources: Vec::new() };
        let compiled = compile_file(file, &Options::new(model.name), Instant::now()).unwrap();
        assert!(compiled.summary.flops > 1_000_000, "{}", model.name);
    }
}

#[test]
fn names_are_distinct() {
    let names: HashSet<&str> = MODELS.iter().chain(LAYERS).map(|model| model.name).collect();
    assert_eq!(names.len(), MODELS.len() + LAYERS.len());
}
