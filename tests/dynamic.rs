//! Models with shapes and types that only the run knows, through the attribute.

use std::collections::BTreeMap;

use infer_embed::{DataType, Element, ErrorKind, Model, PortInfo, PortType, Tensor, model};

#[model("tests/data/nonzero.onnx")]
#[derive(Debug)]
pub struct NonZero;

#[model("tests/data/reshape.onnx", embed = "bytes")]
struct Reshape;

#[model("tests/data/strings.onnx")]
struct Texts;

#[model("tests/data/sequences.onnx")]
struct Sequences;

#[model("tests/data/optionals.onnx")]
struct Optionals;

#[model("tests/data/branches.onnx")]
struct Branches;

#[model("tests/data/maps.onnx")]
struct Maps;

/// All of it is known while compiling.
#[model("tests/data/small_types.onnx")]
struct SmallTypes;

fn strings<const N: usize>(words: [&str; N]) -> [String; N] {
    words.map(str::to_owned)
}

#[test]
fn shapes_of_the_run_are_tensors() {
    let x = [[1.0, -1.0, 0.0, 2.0], [0.0; 4], [-3.0, 0.0, 4.0, -5.0]];
    for threads in [1, 2] {
        let net = NonZero::builder().threads(threads).build().unwrap();
        let outputs = net.infer(&x).unwrap();
        assert_eq!(*outputs.y, [[1.0, 0.0, 0.0, 2.0], [0.0; 4], [0.0, 0.0, 4.0, 0.0]]);
        let positions: &Tensor<i64> = &outputs.positions;
        assert_eq!((positions.shape(), positions.data()), (&[2, 3][..], &[0, 0, 2, 0, 3, 2][..]));

        let mut context = net.context();
        let mut again = NonZeroOutputs::zeroed();
        assert_eq!(again.positions.shape(), [0]);
        for (input, expected) in
            [(&x, &outputs), (&[[0.0; 4]; 3], &net.infer(&[[0.0; 4]; 3]).unwrap()), (&x, &outputs)]
        {
            context.infer_into(input, &mut again).unwrap();
            assert_eq!(again, *expected);
        }
    }
    assert_eq!(NonZero::new().unwrap().infer(&[[-1.0; 4]; 3]).unwrap().positions.shape(), [2, 0]);
    assert!(format!("{:?}", NonZero::new().unwrap()).starts_with("NonZero"));
}

#[test]
fn ports_say_what_only_the_run_knows() {
    let positions = PortType::Tensor { dtype: DataType::I64, shape: Some(&[Some(2), None]) };
    let y = PortInfo::array("y", DataType::F32, &[3, 4]);
    assert_eq!(<NonZero as Model>::OUTPUTS, [y, PortInfo { name: "positions", ty: positions }]);
    assert_eq!((NonZero::OUTPUTS[0].bytes(), NonZero::OUTPUTS[1].bytes()), (Some(48), None));
    assert_eq!(Texts::INPUTS[1].ty, PortType::Strings { shape: Some(&[]) });
    let PortType::Sequence(PortType::Map { key, value }) = Maps::OUTPUTS[0].ty else {
        panic!("{:?}", Maps::OUTPUTS)
    };
    assert_eq!(
        (*key, *value),
        (
            &PortType::Array { dtype: DataType::I64, shape: &[] },
            &PortType::Array { dtype: DataType::F32, shape: &[] },
        )
    );
    assert!(matches!(Optionals::INPUTS[0].ty, PortType::Optional(PortType::Array { .. })));
}

#[test]
fn declared_shapes_are_checked() {
    let net = Reshape::new().unwrap();
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(*net.infer(&x, &[2, 3]).unwrap().y, [[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]);
    let error = net.infer(&x, &[3, 2]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
    assert_eq!(error.to_string(), "output `y` is declared as f32[2,3]; with these inputs it is f32[3,2]");
    let error = net.infer(&x, &[4, 2]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("Reshape"), "{error}");
}

#[test]
fn programs_of_arrays_run_on_bytes() {
    let net = Reshape::new().unwrap();
    let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let mut y = [[0_f32; 3]; 2];
    let shape = [2_i64, 3];
    net.run(&[x.as_bytes(), shape.as_bytes()], &mut [y.as_output()]).unwrap();
    assert_eq!(y, [[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]);

    let mut wrong = [[0_i32; 3]; 2];
    let error = net.run(&[x.as_bytes(), shape.as_bytes()], &mut [wrong.as_output()]).unwrap_err();
    assert!(error.to_string().contains("output `y` is f32[2,3]; an array of i32"), "{error}");
    let error = net.run(&[x.as_bytes(), &shape.as_bytes()[8..]], &mut [y.as_output()]).unwrap_err();
    assert!(error.to_string().contains("`shape` is i64[2], which takes 16 bytes; 8 were given"), "{error}");

    let error = NonZero::new().unwrap().run(&[], &mut []).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotArrays);
    assert!(error.to_string().starts_with("`positions` is i64[2,?]"), "{error}");
}

#[test]
fn strings_are_strings() {
    let names = strings(["a", "bc", "a"]);
    let outputs = Texts::new().unwrap().infer(&names, "-x", &1).unwrap();
    assert_eq!(*outputs.joined, ["a", "bc", "a", "-x"]);
    assert_eq!(outputs.chosen, "bc");
    assert_eq!(*outputs.same, [false, true, false]);
    assert_eq!(outputs.kept, Tensor::from(strings(["a", "a"]).to_vec()));
    let net = Texts::new().unwrap();
    let mut again = TextsOutputs::zeroed();
    assert_eq!((again.chosen.as_str(), &*again.joined), ("", &strings([""; 4])));
    net.context().infer_into(&names, "-x", &1, &mut again).unwrap();
    assert_eq!(again, outputs);
}

#[test]
fn sequences_are_vectors() {
    let net = Sequences::new().unwrap();
    let parts = [Tensor::from(vec![1.0_f32]), Tensor::from(vec![2.0, 3.0])];
    let outputs = net.infer(&[1.0, 2.0, 3.0, 4.0, 5.0], &parts).unwrap();
    let lengths: Vec<&[usize]> = outputs.pieces.iter().map(Tensor::shape).collect();
    assert_eq!(lengths, [[2], [2], [1]]);
    assert_eq!(outputs.pieces[2].data(), [5.0]);
    assert_eq!(outputs.joined, Tensor::from(vec![1.0, 2.0, 3.0]));

    let square = [Tensor::new([1, 1], [1.0_f32]).unwrap()];
    let error = net.infer(&[0.0; 5], &square).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape, "{error}");
}

#[test]
fn optionals_are_options() {
    let net = Optionals::new().unwrap();
    let outputs = net.infer(Some(&[1.0, 2.0])).unwrap();
    assert_eq!((*outputs.y, *outputs.given, outputs.same), ([1.0, 2.0], true, Some(Box::new([1.0, 2.0]))));
    let outputs = net.infer(None).unwrap();
    assert_eq!((*outputs.y, *outputs.given, outputs.same), ([0.0; 2], false, None));
}

#[test]
fn branches_follow_the_input() {
    let net = Branches::new().unwrap();
    assert_eq!(net.infer(&true, &[1.0, 2.0, 3.0]).unwrap().y, Tensor::from(vec![-1.0, -2.0, -3.0]));
    assert_eq!(net.infer(&false, &[1.0, 2.0, 3.0]).unwrap().y, Tensor::from(vec![1.0]));
}

#[test]
fn maps_are_maps() {
    let scores = [0.5_f32, 0.25].map(|score| BTreeMap::from([(10_i64, score), (-20, 1.0 - score)]));
    let outputs = Maps::new().unwrap().infer(&scores, &[1.0, 2.0]).unwrap();
    assert_eq!((outputs.scores, *outputs.y), (scores.to_vec(), [-1.0, -2.0]));
}

#[test]
fn small_types_are_bytes() {
    let (floats, nibbles) = ([[1_u8, 2, 3], [4, 5, 6]], [[-8_i8, -1, 0], [1, 2, 7]]);
    let net = SmallTypes::new().unwrap();
    let outputs = net.infer(&floats, &nibbles).unwrap();
    assert_eq!(*outputs.turned, [[1, 4], [2, 5], [3, 6]]);
    assert_eq!(*outputs.nibbles_turned, [[-8, 1], [-1, 2], [0, 7]]);
    assert_eq!(SmallTypes::INPUTS[0], PortInfo::array("floats", DataType::F8E4M3FN, &[2, 3]));
    let mut wrong = [[0_u8; 2]; 3];
    let mut turned = [[0_u8; 2]; 3];
    let inputs = [floats.as_bytes(), nibbles.as_bytes()];
    let error = net.run(&inputs, &mut [turned.as_output(), wrong.as_output()]).unwrap_err();
    assert!(error.to_string().contains("`nibbles_turned` is i4[3,2]; an array of u8"), "{error}");
}

#[test]
fn threads_share_a_program() {
    let net = NonZero::new().unwrap();
    std::thread::scope(|scope| {
        for count in 0..4_usize {
            let net = &net;
            scope.spawn(move || {
                let mut x = [[0.0; 4]; 3];
                x.as_flattened_mut()[..count].fill(1.0);
                for _ in 0..10 {
                    assert_eq!(net.infer(&x).unwrap().positions.shape(), [2, count]);
                }
            });
        }
    });
    for threads in [0, 1025] {
        let error = NonZero::builder().threads(threads).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}
