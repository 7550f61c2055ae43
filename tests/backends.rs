//! What an application sees of the processor and of GPUs: which of them computes, and what is an error.

use infer_embed::{Backend, Element, ErrorKind, Model, model, zeroed};

#[model("examples/digits/digits.onnx")]
struct Both;

#[model("examples/digits/digits.onnx", backend = "cpu")]
struct Processor;

#[model("examples/digits/digits.onnx", backend = "cuda", precision = "fp16")]
struct Gpu;

/// Nothing of it has a kernel on GPUs.
#[model("tests/data/small_types.onnx", backend = "auto")]
struct Neither;

type Picture = [[[[f32; 256]; 256]; 3]; 1];

/// Whether a GPU answers; why not is printed.
fn has_gpu() -> bool {
    match Gpu::new() {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::NoDriver | ErrorKind::NoDevice) => {
            assert!(std::env::var_os("INFER_CUDA_REQUIRED").is_none_or(|value| value != "1"), "{error}");
            println!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn new_takes_the_gpu_where_there_is_one() {
    let there = has_gpu();
    let both = Both::new().unwrap();
    assert_eq!(both.backend(), if there { Backend::Cuda } else { Backend::Cpu });
    assert_eq!(Model::backend(&both), both.backend());
    assert_eq!(Processor::new().unwrap().backend(), Backend::Cpu);
    assert_eq!(Both::builder().backend(Backend::Cpu).build().unwrap().backend(), Backend::Cpu);
    let asked = Both::builder().backend(Backend::Cuda).build();
    match asked {
        Ok(model) => assert_eq!(model.backend(), Backend::Cuda),
        Err(error) => {
            assert!(!there);
            assert!(matches!(error.kind(), ErrorKind::NoDriver | ErrorKind::NoDevice), "{error}");
        }
    }
}

#[test]
fn all_backends_compute_the_same() {
    let mut picture: Box<Picture> = zeroed();
    for (index, value) in picture.as_mut_elements().iter_mut().enumerate() {
        *value = (index * 2_654_435_761 % 1000) as f32 / 1000.0;
    }
    let expected = Processor::new().unwrap().infer(&picture).unwrap();
    let both = Both::new().unwrap();
    let mut outputs = BothOutputs::zeroed();
    let mut context = both.context();
    for _ in 0..2 {
        context.infer_into(&picture, &mut outputs).unwrap();
    }
    for (found, expected) in outputs.head.as_elements().iter().zip(expected.head.as_elements()) {
        assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found} {expected}");
    }
}

#[test]
fn what_a_model_was_not_compiled_for_is_an_error() {
    let error = Processor::builder().backend(Backend::Cuda).build().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let error = Gpu::builder().backend(Backend::Cpu).build().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(Both::NOTES.is_empty());
    if has_gpu() {
        let error = Both::builder().device(4096).build().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoDevice);
    }
}

#[test]
fn notes_say_why_there_is_no_plan_for_gpus() {
    let names_it = |note: &&str| note.contains("not compiled for GPUs") && note.contains("Transpose");
    assert!(Neither::NOTES.iter().any(names_it), "{:?}", Neither::NOTES);
    assert_eq!(Neither::new().unwrap().backend(), Backend::Cpu);
}
