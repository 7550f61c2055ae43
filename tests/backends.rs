//! What an application sees of the processor and of GPUs: which of them computes, and what is an error.

use data::load;
use infer_embed::cuda::cudarc::driver::CudaContext;
use infer_embed::cuda::{DeviceInput, DeviceOutput};
use infer_embed::{Backend, Element, ErrorKind, Model, model, zeroed};

mod data;

#[model("examples/digits/digits.onnx")]
struct Both;

#[model("examples/digits/digits.onnx", backend = "cpu")]
struct Processor;

#[model("examples/digits/digits.onnx", backend = "cuda", precision = "fp16")]
struct Gpu;

/// Floats of 8 bits, between its convolutions, have no kernels on GPUs.
#[model("tests/data/parts.onnx")]
struct InParts;

#[model("tests/data/parts.onnx", backend = "cuda")]
struct GpuInParts;

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
fn inputs_and_outputs_may_lie_on_the_gpu() {
    let mut picture: Box<Picture> = zeroed();
    for (index, value) in picture.as_mut_elements().iter_mut().enumerate() {
        *value = (index * 2_654_435_761 % 1000) as f32 / 1000.0;
    }
    let there = has_gpu();
    let both = Both::new().unwrap();
    let mut context = both.context();
    if !there {
        let error = context.infer_device(&[], &mut []).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        return;
    }
    let expected = both.infer(&picture).unwrap();
    let gpu = CudaContext::new(0).unwrap();
    let stream = gpu.new_stream().unwrap();
    let input = stream.clone_htod(picture.as_elements()).unwrap();
    let mut output = stream.alloc_zeros::<f32>(expected.head.as_elements().len()).unwrap();
    for _ in 0..2 {
        let mut places = [DeviceOutput::new(&mut output, &stream)];
        context.infer_device(&[DeviceInput::new(&input)], &mut places).unwrap();
    }
    assert_eq!(stream.clone_dtoh(&output).unwrap(), expected.head.as_elements());
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

#[test]
fn what_has_no_kernel_on_gpus_runs_on_the_processor() {
    for notes in [InParts::NOTES, GpuInParts::NOTES] {
        let [note] = notes else { panic!("{notes:?}") };
        assert!(note.contains("on the processor") && note.contains("(QuantizeLinear)"), "{note}");
    }
    let there = has_gpu();
    let input: Box<[[[[f32; 16]; 16]; 3]; 1]> = load("parts", "input", 0);
    let expected: Box<[[[[f32; 16]; 16]; 8]; 1]> = load("parts", "output", 0);
    // One level of quantisation more or less, where a value lies between two, times the weights that read it.
    let check = |found: &[f32]| {
        for (found, expected) in found.iter().zip(expected.as_elements()) {
            assert!((found - expected).abs() <= 1e-1, "{found} {expected}");
        }
    };
    let model = InParts::new().unwrap();
    assert_eq!(model.backend(), if there { Backend::Cuda } else { Backend::Cpu });
    check(model.infer(&input).unwrap().y.as_elements());
    let (mut context, mut outputs) = (model.context(), InPartsOutputs::zeroed());
    for _ in 0..3 {
        context.infer_into(&input, &mut outputs).unwrap();
        check(outputs.y.as_elements());
    }
    let mut y: Box<[[[[f32; 16]; 16]; 8]; 1]> = zeroed();
    Model::run(&model, &[input.as_bytes()], &mut [y.as_output()]).unwrap();
    check(y.as_elements());
    let processor = InParts::builder().backend(Backend::Cpu).build().unwrap();
    check(processor.infer(&input).unwrap().y.as_elements());

    match GpuInParts::new() {
        Ok(model) => check(model.infer(&input).unwrap().y.as_elements()),
        Err(error) => {
            assert!(!there);
            assert!(matches!(error.kind(), ErrorKind::NoDriver | ErrorKind::NoDevice), "{error}");
        }
    }
}

#[cfg(feature = "dynamic")]
mod dynamic {
    use super::*;

    /// Its convolution is known while compiling; how many positions there are is not.
    #[model("tests/data/found.onnx")]
    struct Found;

    #[model("tests/data/found.onnx", backend = "cuda")]
    struct GpuFound;

    #[test]
    fn static_parts_of_what_only_the_run_knows_run_on_gpus() {
        let there = has_gpu();
        for notes in [Found::NOTES, GpuFound::NOTES] {
            let [note] = notes else { panic!("{notes:?}") };
            assert!(note.contains("only the run knows") && note.contains("(NonZero)"), "{note}");
        }
        let input: Box<[[[[f32; 16]; 16]; 3]; 1]> = load("parts", "input", 0);
        let processor = Found::builder().backend(Backend::Cpu).build().unwrap();
        assert_eq!(processor.backend(), Backend::Cpu);
        let expected = processor.infer(&input).unwrap();
        let any = Found::new().unwrap();
        assert_eq!(any.backend(), if there { Backend::Cuda } else { Backend::Cpu });
        let found = any.infer(&input).unwrap();
        for (found, expected) in found.y.as_elements().iter().zip(expected.y.as_elements()) {
            assert!((found - expected).abs() <= 1e-4, "{found} {expected}");
        }
        // A value next to zero may be on either side.
        let (found, expected) = (found.positions.shape()[1], expected.positions.shape()[1]);
        assert!(found.abs_diff(expected) <= 2, "{found} {expected}");
        match GpuFound::new() {
            Ok(model) => assert_eq!(model.infer(&input).unwrap().positions.shape()[0], 4),
            Err(error) => {
                assert!(!there);
                assert!(matches!(error.kind(), ErrorKind::NoDriver | ErrorKind::NoDevice), "{error}");
            }
        }
    }
}
