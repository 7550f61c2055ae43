//! What an application sees of the processor and of GPUs: which of them computes, and what is an error.

mod data;

use data::load;
use infer_embed::{Backend, Element, ErrorKind, Model, model};

#[model("tests/data/convnet.onnx")]
struct Both;

#[model("tests/data/convnet.onnx", backend = "cpu")]
struct Processor;

#[model("tests/data/convnet.onnx", backend = "cuda")]
struct Gpu;

/// Shapes that only the run knows are not for GPUs yet.
#[model("tests/data/nonzero.onnx", backend = "auto")]
#[cfg(feature = "dynamic")]
struct Neither;

type Picture = [[[[f32; 36]; 40]; 3]; 1];

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
    let picture: Box<Picture> = load("convnet", "input", 0);
    let expected = Processor::new().unwrap().infer(&picture).unwrap();
    let both = Both::new().unwrap();
    let mut outputs = BothOutputs::zeroed();
    let mut context = both.context();
    for _ in 0..2 {
        context.infer_into(&picture, &mut outputs).unwrap();
    }
    for (found, expected) in outputs.match_.as_elements().iter().zip(expected.match_.as_elements()) {
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
#[cfg(feature = "dynamic")]
fn notes_say_why_there_is_no_plan_for_gpus() {
    assert!(Neither::NOTES.iter().any(|note| note.contains("not compiled for GPUs")), "{:?}", Neither::NOTES);
    assert_eq!(Neither::new().unwrap().backend(), Backend::Cpu);
}
