//! Small models through the attribute, against ONNX Runtime, in every way there is to run them.

mod data;

use std::fmt::Debug;

use data::{Scalar, elements, load};
use infer_embed::{DataType, Element, Model, Output, f16, model};

/// Convolutions of every kind, pooling, resizing, squeeze and excite, joined and parted channels.
#[model("tests/data/convnet.onnx")]
struct Convnet;

#[model("tests/data/convnet.onnx", precision = "fp16")]
struct ConvnetHalf;

/// One layer of a transformer over 16 tokens.
#[model("tests/data/transformer.onnx", dims(batch = 1, seq = 16))]
struct Transformer;

#[model("tests/data/transformer.onnx", dims(batch = 1, seq = 16), precision = "fp16")]
struct TransformerHalf;

#[model("tests/data/transformer.onnx", dims(batch = 2, seq = 16))]
struct TransformerPair;

/// Element types, moves, comparisons and reductions.
#[model("tests/data/shapes.onnx")]
struct Shapes;

/// Floats within `tolerance` of the largest, everything else equal.
fn compare<T: Element<Scalar: Scalar + Debug + PartialEq>>(what: &str, ours: &T, theirs: &T, tolerance: f64) {
    let (Some(a), Some(b)) = (floats(ours), floats(theirs)) else {
        assert_eq!(ours.as_elements(), theirs.as_elements(), "{what}");
        return;
    };
    let largest = b.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    assert!(largest.is_finite() && largest > 0.0, "{what}: the largest recorded value is {largest}");
    for (index, (a, b)) in a.iter().zip(&b).enumerate() {
        // Not the other way round: a NaN must fail.
        let close = (a - b).abs() <= tolerance * largest;
        assert!(close, "{what}: element {index} is {a} and should be {b}; the largest is {largest}");
    }
}

/// The elements of an array of floats.
fn floats<T: Element>(array: &T) -> Option<Vec<f64>> {
    let bytes = array.as_bytes();
    match T::DTYPE {
        DataType::F16 => Some(elements::<f16>(bytes).into_iter().map(f64::from).collect()),
        DataType::F32 => Some(elements::<f32>(bytes).into_iter().map(f64::from).collect()),
        DataType::F64 => Some(elements(bytes)),
        _ => None,
    }
}

/// The outputs of [`Model::run`] on bytes.
fn untyped<M: Model>(net: &M, inputs: &[&[u8]]) -> Vec<Vec<u8>> {
    // Bytes that begin at a multiple of 8, and are not what any output is.
    let mut memory: Vec<Vec<u8>> =
        M::OUTPUTS.iter().map(|port| vec![0xa5; port.bytes().unwrap() + 8]).collect();
    let mut outputs: Vec<&mut [u8]> = memory
        .iter_mut()
        .map(|bytes| {
            let (start, length) = (bytes.as_ptr().align_offset(8), bytes.len() - 8);
            &mut bytes[start..start + length]
        })
        .collect();
    let mut places: Vec<Output<'_>> = outputs.iter_mut().map(|bytes| Output::from(&mut **bytes)).collect();
    net.run(inputs, &mut places).unwrap();
    outputs.into_iter().map(|bytes| bytes.to_vec()).collect()
}

/// Runs a model on a recorded case with one thread and with two: typed, into given outputs, and on bytes.
macro_rules! agrees {
    ($net:ty, $case:literal, $tolerance:literal, ($($input:ident),*), ($($output:ident),*)) => {{
        let mut position = 0..;
        $(let $input = load($case, "input", position.next().unwrap());)*
        for threads in [1, 2] {
            let net = <$net>::builder().threads(threads).build().unwrap();
            let outputs = net.infer($(&*$input),*).unwrap();
            let mut position = 0..;
            $({
                let index = position.next().unwrap();
                let what = format!("{}, output `{}`, {threads} threads", stringify!($net), stringify!($output));
                compare(&what, &*outputs.$output, &*load($case, "output", index), $tolerance);
            })*

            let mut context = net.context();
            for _ in 0..2 {
                let mut again = <<$net as Model>::Outputs>::zeroed();
                context.infer_into($(&*$input,)* &mut again).unwrap();
                assert_eq!(again, outputs, "the same memory again");
            }
            let raw = untyped(&net, &[$(Element::as_bytes(&*$input)),*]);
            assert_eq!(raw, [$(Element::as_bytes(&*outputs.$output)),*], "on bytes");
        }
    }};
}

#[test]
fn convnet() {
    agrees!(Convnet, "convnet", 1e-4, (input_1), (match_, features_out));
}

#[test]
fn convnet_with_half_weights() {
    agrees!(ConvnetHalf, "convnet", 1e-2, (input_1), (match_, features_out));
}

#[test]
fn transformer() {
    agrees!(Transformer, "transformer_1", 1e-4, (input_ids, attention_mask), (logits, last_hidden_state));
}

#[test]
fn transformer_with_half_weights() {
    agrees!(TransformerHalf, "transformer_1", 1e-2, (input_ids, attention_mask), (logits, last_hidden_state));
}

#[test]
fn transformer_on_two_sequences() {
    agrees!(TransformerPair, "transformer_2", 1e-4, (input_ids, attention_mask), (logits, last_hidden_state));
}

#[test]
fn shapes() {
    agrees!(
        Shapes,
        "shapes",
        1e-6,
        (x, flags, ids, doubles, halves, scale),
        (
            both, differ, chosen, best, worst, backwards, reflected, extended, framed, tiled, expanded,
            gathered, tenths, eighths, nonzero, turned, quotients, sums, means, peaks, norms, total
        )
    );
}

/// Tests that start this program again, since a process reads its environment once.
mod processes {
    use std::env;
    use std::process::Command;

    use infer_embed::ErrorKind;
    use infer_kernels::Isa;

    use super::Shapes;

    /// This program with other arguments; what it printed, after it succeeded.
    fn again(variables: &[(&str, &str)], arguments: &[&str]) -> String {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env_remove("INFER_ISA").env_remove("INFER_THREADS").envs(variables.iter().copied());
        let output = command.args(arguments).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{variables:?}: {}\n{printed}\n{errors}", output.status);
        printed
    }

    #[test]
    fn every_instruction_set_agrees() {
        for isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            let printed = again(&[("INFER_ISA", isa.name())], &["--skip", "processes::"]);
            for test in ["convnet", "transformer", "shapes"] {
                assert!(printed.contains(&format!("test {test} ... ok")), "{isa:?}:\n{printed}");
            }
        }
    }

    /// Not a test by itself: tells [`opening`] how opening a model went.
    #[test]
    #[ignore = "started by other tests"]
    fn open() {
        match Shapes::new() {
            Ok(_) => println!("<opened>"),
            Err(error) if error.kind() == ErrorKind::Configuration => println!("<configuration: {error}>"),
            Err(error) => println!("<{error:?}>"),
        }
    }

    fn opening(variable: &str, value: &str) -> String {
        let printed =
            again(&[(variable, value)], &["--exact", "processes::open", "--ignored", "--nocapture"]);
        let (_, message) = printed.split_once('<').unwrap_or_else(|| panic!("{printed}"));
        message.split_once('>').unwrap().0.to_owned()
    }

    #[test]
    fn what_the_environment_asks_for_must_be_there() {
        assert_eq!(opening("INFER_THREADS", "2"), "opened");
        assert_eq!(opening("INFER_ISA", "scalar"), "opened");

        let message = opening("INFER_ISA", "sse9");
        assert!(
            message.starts_with("configuration: ") && message.contains("INFER_ISA is \"sse9\""),
            "{message}"
        );
        for isa in Isa::ALL {
            assert!(message.contains(isa.name()), "{message}");
        }
        for missing in Isa::ALL.iter().filter(|isa| !isa.is_available()) {
            let message = opening("INFER_ISA", missing.name());
            assert!(message.starts_with("configuration: ") && message.contains("lacks"), "{message}");
        }
        for threads in ["0", "x", "", "-1", "1025"] {
            let message = opening("INFER_THREADS", threads);
            let expected = format!("configuration: INFER_THREADS is {threads:?}");
            assert!(message.starts_with(&expected) && message.contains("from 1 to 1024"), "{message}");
        }
    }
}
