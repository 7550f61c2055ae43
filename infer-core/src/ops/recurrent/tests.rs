//! LSTM, GRU and RNN: kernels against values, options by hand, and what is refused.

use super::*;
use crate::constant::Constant;
use crate::execute::{Backend, execute};
use crate::ops::number::{of_f64s, to_f64s};
use crate::ops::test_support::{f32s, import as import_node, infer, run_all, tensor};
use crate::ops::{Attribute, InputType};

fn ramp<const N: usize>(shape: [usize; N], scale: f32) -> Constant {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| scale * ((i * 7 % 11) as f32 - 5.0)).collect();
    f32s(shape, &values)
}

/// The inputs X to P of 3 steps, 2 sequences, 5 inputs and 18 states.
fn inputs(kind: Kind, directions: usize, batch_first: bool) -> Vec<Option<Constant>> {
    let (gates, hidden) = (kind.gates(), 18);
    let x = if batch_first { [2, 3, 5] } else { [3, 2, 5] };
    let state = if batch_first { [2, directions, hidden] } else { [directions, 2, hidden] };
    let mut inputs = vec![
        Some(ramp(x, 0.2)),
        Some(ramp([directions, gates * hidden, 5], 0.1)),
        Some(ramp([directions, gates * hidden, hidden], 0.05)),
        Some(ramp([directions, 2 * gates * hidden], 0.1)),
        None,
        Some(ramp(state, 0.1)),
    ];
    if kind == Kind::Lstm {
        inputs.push(Some(ramp(state, 0.2)));
    }
    inputs
}

const KINDS: [(Kind, &str, usize); 3] =
    [(Kind::Lstm, "LSTM", 3), (Kind::Gru, "GRU", 2), (Kind::Rnn, "RNN", 2)];

#[test]
fn kernels_and_values_agree() {
    for (kind, name, outputs) in KINDS {
        for (direction, directions) in [("forward", 1), ("reverse", 1), ("bidirectional", 2)] {
            for layout in [0, 1] {
                for linear in [0, 1] {
                    let mut attributes: Vec<(&str, Attribute)> =
                        vec![("direction", direction.into()), ("layout", layout.into())];
                    if kind == Kind::Gru {
                        attributes.push(("linear_before_reset", linear.into()));
                    }
                    let inputs = inputs(kind, directions, layout == 1);
                    let node = (name, 22);
                    let fast = run_all(node, &attributes, &inputs, outputs).unwrap();
                    // A limit that nothing reaches leaves the results as they are and needs values.
                    attributes.push(("clip", 1000.0.into()));
                    let slow = run_all(node, &attributes, &inputs, outputs).unwrap();
                    for (fast, slow) in fast.iter().zip(&slow) {
                        assert_eq!(fast.ty(), slow.ty());
                        for (a, b) in fast.values::<f32>().iter().zip(&*slow.values::<f32>()) {
                            assert!((a - b).abs() < 1e-5, "{name} {direction} {layout} {linear}: {a} {b}");
                        }
                    }
                    assert_eq!(fast.len(), outputs);
                }
            }
        }
    }
}

#[test]
fn weights_known_at_run_time_are_packed_then() {
    for (kind, name, outputs) in KINDS {
        let inputs = inputs(kind, 2, false);
        let attributes = [("direction", "bidirectional".into())];
        let op = import_node((name, 14), &attributes, inputs.len(), outputs).unwrap();
        let known: Vec<Option<&Constant>> = inputs.iter().map(Option::as_ref).collect();
        let types: Vec<Option<InputType<'_>>> =
            known.iter().map(|c| c.map(|c| InputType { ty: c.ty(), constant: None })).collect();
        let asked = vec![true; outputs];
        let node = NodeTypes { inputs: &types, outputs: &asked };
        assert!(!op.is_host(&node));
        // Lowered without constants, as a plan has it.
        let mut calls = crate::calls::Calls::default();
        let tensor = |calls: &mut crate::calls::Calls, ty: &TensorType| {
            let buffer = calls.add_buffer(crate::calls::BufferKind::Arena, ty.bytes() as u64);
            crate::calls::Tensor { ty: ty.clone(), span: calls.whole(buffer), blocked: None }
        };
        let spans = known.iter().map(|c| c.map(|c| tensor(&mut calls, c.ty()))).collect();
        let results = op.infer(&node).unwrap().iter().map(|ty| Some(tensor(&mut calls, ty))).collect();
        op.lower(&mut LowerNode {
            calls: &mut calls,
            name: "node",
            inputs: spans,
            constants: vec![None; known.len()],
            outputs: results,
            half_weights: false,
            winograd: None,
        })
        .unwrap();
        assert!(calls.calls.iter().filter(|call| call.kernel == "pack_b_f32").count() == 2);
    }
}

#[test]
fn every_float_computes() {
    for (kind, name, outputs) in KINDS {
        let inputs = inputs(kind, 1, false);
        let expected = run_all((name, 22), &[], &inputs, outputs).unwrap();
        for (dtype, error) in [(DataType::F64, 1e-5), (DataType::F16, 1e-2), (DataType::Bf16, 5e-2)] {
            let to = |c: &Constant| {
                let ty = TensorType::new(dtype, c.ty().shape.clone());
                of_f64s(ty, to_f64s(c).unwrap()).unwrap()
            };
            let other: Vec<Option<Constant>> = inputs.iter().map(|input| input.as_ref().map(to)).collect();
            let actual = run_all((name, 22), &[], &other, outputs).unwrap();
            for (a, e) in actual.iter().zip(&expected) {
                assert_eq!(a.ty(), &TensorType::new(dtype, e.ty().shape.clone()));
                let (a, e) = (to_f64s(a).unwrap(), to_f64s(e).unwrap());
                assert!(a.iter().zip(&e).all(|(a, e)| (a - e).abs() < error), "{name} {dtype}");
            }
        }
    }
}

#[test]
fn one_state_by_hand() {
    // Adds its input to its state and takes the positive part.
    let inputs = [
        Some(f32s([3, 1, 1], &[1.0, -3.0, 2.0])),
        Some(f32s([1, 1, 1], &[1.0])),
        Some(f32s([1, 1, 1], &[1.0])),
    ];
    let relu = [("activations", Attribute::Strings(vec!["Relu".into()]))];
    let outputs = run_all(("RNN", 7), &relu, &inputs, 2).unwrap();
    assert_eq!(*outputs[0].values::<f32>(), [1.0, 0.0, 2.0]);
    assert_eq!(outputs[0].ty().shape, [3, 1, 1, 1]);
    let affine = [
        ("activations", Attribute::Strings(vec!["affine".into()])),
        ("activation_alpha", Attribute::Floats(vec![2.0])),
        ("activation_beta", Attribute::Floats(vec![1.0])),
        ("direction", "reverse".into()),
    ];
    let outputs = run_all(("RNN", 7), &affine, &inputs, 2).unwrap();
    assert_eq!(*outputs[0].values::<f32>(), [13.0, 5.0, 5.0]);
}

#[test]
fn sequences_end_where_they_say() {
    let mut inputs = inputs(Kind::Gru, 2, false);
    inputs[LENGTHS] = Some(tensor(DataType::I32, [2], &[1, 3]));
    let attributes = [("direction", Attribute::from("bidirectional"))];
    let outputs = run_all(("GRU", 14), &attributes, &inputs, 2).unwrap();
    let (every, last) = (outputs[0].values::<f32>(), outputs[1].values::<f32>());
    // Sequence 0 has one step, after which its states are zero; its last one is that of step 0 both ways.
    let state = |step: usize, direction: usize| &every[((step * 2 + direction) * 2) * 18..][..18];
    for direction in 0..2 {
        assert!(state(0, direction).iter().any(|&h| h != 0.0));
        assert!((1..3).all(|step| state(step, direction).iter().all(|&h| h == 0.0)));
        assert_eq!(state(0, direction), &last[direction * 2 * 18..][..18]);
    }
    inputs[LENGTHS] = Some(tensor(DataType::I32, [2], &[1, 4]));
    assert!(run_all(("GRU", 14), &attributes, &inputs, 2).is_err());
}

#[test]
fn wrong_shapes_and_options_are_refused() {
    let ty = |shape: &[usize]| TensorType::new(DataType::F32, shape);
    let good = [ty(&[3, 2, 5]), ty(&[1, 24, 5]), ty(&[1, 24, 6])];
    let outputs = infer(("LSTM", 14), &[], &good).unwrap();
    assert_eq!(outputs, [ty(&[3, 1, 2, 6]), ty(&[1, 2, 6]), ty(&[1, 2, 6])]);
    let reason = infer(("GRU", 14), &[], &good).unwrap_err();
    assert_eq!(reason.what, "input `W` is f32[1,24,5], not of the extents [1, 18, 5]");
    assert!(infer(("LSTM", 14), &[("direction", "bidirectional".into())], &good).is_err());
    assert!(infer(("LSTM", 14), &[("hidden_size", 7.into())], &good).is_err());
    assert!(import_node(("LSTM", 14), &[("direction", "sideways".into())], 3, 1).is_err());
    let unknown = [("activations", Attribute::Strings(vec!["Gelu".into()]))];
    assert!(import_node(("RNN", 14), &unknown, 3, 1).is_err());
    assert!(import_node(("GRU", 14), &unknown, 3, 1).is_err());
}

#[test]
fn the_processor_agrees() {
    for (kind, name, outputs) in KINDS {
        let inputs = inputs(kind, 1, false);
        let op = import_node((name, 14), &[], inputs.len(), outputs).unwrap();
        let values: Vec<Option<Value>> = inputs.into_iter().map(|input| input.map(Value::Tensor)).collect();
        let asked = vec![true; outputs];
        let isa = infer_kernels::Isa::Scalar;
        let fast = execute(&*op, &values, &asked, &Backend::Processor { isa, threads: 2 }).unwrap();
        let slow = execute(&*op, &values, &asked, &Backend::Reference).unwrap();
        for (fast, slow) in fast.iter().zip(&slow) {
            let (fast, slow) = (fast.as_tensor().unwrap(), slow.as_tensor().unwrap());
            let pairs = fast.values::<f32>().into_owned().into_iter().zip(slow.values::<f32>().into_owned());
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
        }
    }
}
