//! What an application sees of a compiled model: types, constants, threads, contexts, errors.

mod data;

use std::thread;

use data::load;
use infer_embed::{DataType, Element, ErrorKind, Model, Output, PortInfo, model};

/// A picture network.
#[model("tests/data/convnet.onnx")]
#[derive(Debug)]
pub struct Convnet;

#[model("tests/data/convnet.onnx", precision = "fp16")]
struct ConvnetHalf;

/// Its plan is that of [`Convnet`], which the program holds once.
#[model("tests/data/convnet.onnx", embed = "incbin")]
struct ConvnetTwin;

#[model("tests/data/transformer.onnx", dims(batch = 2, seq = 16), crate = "infer_embed")]
struct TransformerPair;

mod language {
    pub mod small {
        use infer_embed::model;

        #[model("tests/data/transformer.onnx", dims(batch = 1, "seq" = 16), embed = "bytes", strict = true)]
        pub(crate) struct Transformer;

        #[model("tests/data/shapes.onnx")]
        pub(in crate::language) struct Shapes;
    }

    /// The model is for this module alone; what it computes is for others.
    pub fn total(x: &[[[f32; 5]; 4]; 3], scale: f32) -> infer_embed::Result<f32> {
        let zeros = infer_embed::zeroed();
        let outputs = small::Shapes::new()?.infer(
            x,
            &[[[true; 5]; 1]; 3],
            &zeros,
            &[[1.0; 3]; 2],
            &Default::default(),
            &scale,
        )?;
        Ok(*outputs.total)
    }
}

use language::small::Transformer;

type Picture = [[[[f32; 36]; 40]; 3]; 1];

fn picture() -> Box<Picture> {
    load("convnet", "input", 0)
}

/// Pictures that differ.
fn pictures(count: usize) -> Vec<Box<Picture>> {
    let recorded = picture();
    let shifted = |by: usize| {
        let mut picture = recorded.clone();
        picture.as_mut_elements().rotate_right(by * 97);
        picture
    };
    (0..count).map(shifted).collect()
}

#[test]
fn constants_describe_the_model() {
    let input = PortInfo::array("input.1", DataType::F32, &[1, 3, 40, 36]);
    let outputs = [
        PortInfo::array("match", DataType::F32, &[1, 2, 40, 36]),
        PortInfo::array("features/out", DataType::F32, &[1, 16, 20, 18]),
    ];
    assert_eq!((Convnet::INPUTS, Convnet::OUTPUTS), (&[input][..], &outputs[..]));
    assert_eq!(<Convnet as Model>::OUTPUTS, Convnet::OUTPUTS);
    assert_eq!((Convnet::OPSET, Transformer::OPSET), (17, 13));
    assert_eq!(outputs.map(|output| output.elements().unwrap()), [2 * 40 * 36, 16 * 20 * 18]);

    let tokens = |name| PortInfo::array(name, DataType::I64, &[2, 16]);
    assert_eq!(TransformerPair::INPUTS, [tokens("input_ids"), tokens("attention_mask")]);
    assert_eq!(Transformer::INPUTS[0].shape(), Some(&[1, 16][..]));

    assert_eq!(Convnet::MODEL_SHA256.len(), 64);
    assert_eq!(Convnet::MODEL_SHA256, ConvnetHalf::MODEL_SHA256);
    assert_ne!(Convnet::MODEL_SHA256, Transformer::MODEL_SHA256);

    assert_eq!(Convnet::PARAMETERS, ConvnetHalf::PARAMETERS);
    assert!(Convnet::PARAMETERS * 4 < include_bytes!("data/convnet.onnx").len() as u64);
    let weights = [ConvnetHalf::WEIGHT_BYTES, Convnet::WEIGHT_BYTES];
    assert!(weights[0] > Convnet::PARAMETERS * 2 && weights[0] < weights[1], "{weights:?}");
    assert_ne!(Convnet::ARENA_BYTES, 0);
    assert_eq!(TransformerPair::FLOPS, 2 * Transformer::FLOPS);
    // Queries, keys, values, output: four 32×32; two 32×64; scores and sums 16×32 each; the head 32×10.
    let multiply_adds = 16 * (4 * 32 * 32 + 2 * 32 * 64 + 2 * 16 * 32) + 32 * 10;
    assert_eq!(Transformer::FLOPS, 2 * multiply_adds);
    assert_eq!(Transformer::NOTES, [""; 0]);
}

#[test]
fn models_are_generic_and_printable() {
    fn elements<M: Model>() -> usize {
        M::INPUTS.iter().chain(M::OUTPUTS).filter_map(PortInfo::elements).sum()
    }
    assert_eq!(elements::<Transformer>(), 16 + 16 + 10 + 16 * 32);
    let net = Convnet::new().unwrap();
    assert!(format!("{net:?}").starts_with("Convnet"));
    assert!(format!("{:?}", Convnet::builder().threads(3)).contains('3'));
    let outputs = net.infer(&picture()).unwrap();
    assert!(outputs.clone() == outputs && format!("{outputs:?}").contains("features_out"));
}

#[test]
fn private_models_compute_in_their_module() {
    let x: Box<[[[f32; 5]; 4]; 3]> = load("shapes", "input", 0);
    let total = language::total(&x, 2.0).unwrap();
    let expected = 2.0 * x.as_elements().iter().sum::<f32>();
    assert!((total - expected).abs() < 1e-4, "{total} is not {expected}");
}

#[test]
fn models_can_be_local_to_a_function() {
    #[model("tests/data/convnet.onnx")]
    struct Local;
    let (ours, theirs) = (Local::new().unwrap(), ConvnetTwin::new().unwrap());
    let (a, b) = (ours.infer(&picture()).unwrap(), theirs.infer(&picture()).unwrap());
    assert_eq!((a.match_, a.features_out), (b.match_, b.features_out));
}

#[test]
fn eight_threads_share_one_model() {
    let pictures = pictures(8);
    let alone = Convnet::builder().threads(1).build().unwrap();
    let expected: Vec<ConvnetOutputs> =
        pictures.iter().map(|picture| alone.infer(picture).unwrap()).collect();
    assert!(expected.windows(2).all(|pair| pair[0] != pair[1]));

    for threads in [1, 4] {
        let net = Convnet::builder().threads(threads).build().unwrap();
        thread::scope(|scope| {
            for (picture, expected) in pictures.iter().zip(&expected) {
                let net = &net;
                scope.spawn(move || {
                    let mut context = net.context();
                    let mut outputs = ConvnetOutputs::zeroed();
                    for _ in 0..2 {
                        assert!(net.infer(picture).unwrap() == *expected, "{threads} threads, infer");
                        context.infer_into(picture, &mut outputs).unwrap();
                        assert!(outputs == *expected, "{threads} threads, infer_into");
                    }
                });
            }
        });
    }
}

#[test]
fn contexts_do_not_disturb_each_other() {
    let pictures = pictures(2);
    let net = Convnet::new().unwrap();
    let expected = [&pictures[0], &pictures[1]].map(|picture| net.infer(picture).unwrap());
    let (mut one, mut other) = (net.context(), net.context());
    let mut outputs = [ConvnetOutputs::zeroed(), ConvnetOutputs::zeroed()];
    for _ in 0..2 {
        one.infer_into(&pictures[0], &mut outputs[0]).unwrap();
        other.infer_into(&pictures[1], &mut outputs[1]).unwrap();
    }
    assert!(outputs == expected);
    // A context may go to another thread, and what it had is for the next one.
    thread::scope(|scope| {
        let moved = scope.spawn(|| {
            other.infer_into(&pictures[0], &mut outputs[1]).unwrap();
            drop(other);
        });
        moved.join().unwrap();
    });
    assert!(outputs[1] == expected[0]);
    net.context().infer_into(&pictures[1], &mut outputs[1]).unwrap();
    assert!(outputs == expected);
}

#[test]
fn numbers_of_threads_are_checked() {
    for threads in [1, 3, 1024] {
        assert!(Transformer::builder().threads(threads).build().is_ok(), "{threads}");
    }
    for threads in [0, 1025, usize::MAX] {
        let error = Transformer::builder().threads(threads).build().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let message = error.to_string();
        assert!(message.contains(&threads.to_string()) && message.contains("1 to 1024"), "{message}");
    }
}

#[test]
fn wrong_bytes_are_refused() {
    let net = Transformer::new().unwrap();
    let ids = [[1_i64; 16]; 1];
    let (mut logits, mut state) = ([[0_f32; 10]; 1], [[[0_f32; 32]; 16]; 1]);
    let mut run = |inputs: &[&[u8]]| net.run(inputs, &mut [logits.as_output(), state.as_output()]);
    run(&[ids.as_bytes(), ids.as_bytes()]).unwrap();

    let long = [0_u64; 17];
    let cases: [(&[&[u8]], &str); 4] = [
        (&[ids.as_bytes()], "2 inputs; 1 were given"),
        (&[ids.as_bytes(); 3], "2 inputs; 3 were given"),
        (
            &[ids.as_bytes(), &ids.as_bytes()[8..]],
            "`attention_mask` is i64[1,16], which takes 128 bytes; 120 were given",
        ),
        (
            &[&long.as_bytes()[1..129], ids.as_bytes()],
            "`input_ids` is i64[1,16], which must begin at a multiple of 8",
        ),
    ];
    for (inputs, expected) in cases {
        let error = run(inputs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains(expected), "{error}");
    }

    let mut halves = [[infer_embed::f16::ZERO; 20]; 1];
    let mut wrong = [[0_i32; 10]; 1];
    for first in [halves.as_output(), wrong.as_output()] {
        let mut state = [[[0_f32; 32]; 16]; 1];
        let error = net.run(&[ids.as_bytes(), ids.as_bytes()], &mut [first, state.as_output()]).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Input && error.to_string().contains("`logits` is f32[1,10]"),
            "{error}"
        );
    }
    let mut bytes = [0_u8; 4];
    let error = net.run(&[ids.as_bytes(), ids.as_bytes()], &mut [Output::from(&mut bytes[..])]).unwrap_err();
    assert!(error.to_string().contains("2 outputs; 1 were given"), "{error}");
}

#[test]
fn an_index_out_of_range_is_an_error_and_no_harm() {
    let net = Transformer::new().unwrap();
    let ids: Box<[[i64; 16]; 1]> = load("transformer_1", "input", 0);
    let mask: Box<[[i64; 16]; 1]> = load("transformer_1", "input", 1);
    let expected = net.infer(&ids, &mask).unwrap();
    let mut context = net.context();
    let mut outputs = language::small::TransformerOutputs::zeroed();
    for wrong in [40, -41, i64::MAX, i64::MIN] {
        let mut bad = ids.clone();
        bad[0][7] = wrong;
        let error = context.infer_into(&bad, &mask, &mut outputs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(
            error.to_string().contains("Gather") && error.to_string().contains(&wrong.to_string()),
            "{error}"
        );
        context.infer_into(&ids, &mask, &mut outputs).unwrap();
        assert!(outputs == expected);
    }
}

#[test]
fn what_is_no_number_passes_through() {
    let net = Convnet::new().unwrap();
    let clean = net.infer(&picture()).unwrap();
    let mut context = net.context();
    let mut outputs = ConvnetOutputs::zeroed();
    for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE / 2.0] {
        let mut spotted = picture();
        spotted[0][1][20][18] = odd;
        context.infer_into(&spotted, &mut outputs).unwrap();
        if odd.is_nan() {
            assert!(outputs.features_out.as_elements().iter().any(|value| value.is_nan()));
            assert!(outputs.match_.as_elements().iter().any(|value| value.is_nan()));
        }
        context.infer_into(&picture(), &mut outputs).unwrap();
        assert!(outputs == clean, "nothing of {odd} stays in the memory");
    }
}

/// 40 MB.
type Large = [[[[f32; 608]; 608]; 3]; 9];

fn on_a_small_stack<T: Send>(bytes: usize, task: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        thread::Builder::new().stack_size(bytes).spawn_scoped(scope, task).unwrap().join().unwrap()
    })
}

#[test]
fn large_arrays_stay_off_the_stack() {
    let flat: Vec<f32> = (0..Large::LENGTH).map(|index| index as f32).collect();
    let sum = on_a_small_stack(64 * 1024, || {
        let mut zeros: Box<Large> = infer_embed::zeroed();
        assert!(zeros.as_elements().iter().all(|&value| value == 0.0));
        zeros[8][2][607][607] = 1.0;
        let view: &Large = infer_embed::view(&flat).unwrap();
        assert_eq!(view[1][0][0][5], (3 * 608 * 608 + 5) as f32);
        let error = infer_embed::view::<Large>(&flat[1..]).unwrap_err();
        assert!(error.to_string().contains(&Large::LENGTH.to_string()), "{error}");
        let copy = zeros.clone();
        copy.as_elements().iter().sum::<f32>()
    });
    assert_eq!(sum, 1.0);
}

#[test]
fn inference_needs_little_stack() {
    let expected = Convnet::new().unwrap().infer(&picture()).unwrap();
    let picture = picture();
    let outputs = on_a_small_stack(256 * 1024, || {
        let net = Convnet::builder().threads(1).build().unwrap();
        net.infer(&picture).unwrap()
    });
    assert!(outputs == expected);
}

/// Starts this program again, since a process chooses its instruction set once.
#[test]
fn every_instruction_set_does_all_this() {
    for isa in infer_kernels::Isa::ALL.iter().filter(|isa| isa.is_available()) {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--skip", "every_instruction_set"])
            .env("INFER_ISA", isa.name())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{isa:?}: {}\n{printed}\n{errors}", output.status);
        assert!(printed.contains("test inference_needs_little_stack ... ok"), "{isa:?}:\n{printed}");
    }
}
