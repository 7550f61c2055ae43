//! Which way each call is computed: by estimate, and as a file of tactics says.

use infer_core::options::Backends;
use infer_core::tactics::Tactics;

use super::*;

#[test]
fn the_cost_model_gives_tactics_that_kernels_take() {
    // Without a GPU: every call of a plan passes its kernel's validation.
    for (n, c, m, extent) in [(1, 3, 64, 7), (1, 512, 512, 3), (128, 64, 256, 1), (1, 2048, 1001, 1)] {
        let mut graph = model(&format!(
            "input x {n},{c},14,14
             random w {m},{c},{extent},{extent}
             y = Conv(x, w)
             output y"
        ));
        passes::simplify(&mut graph, |_, _| {}).unwrap();
        for precision in Precision::ALL {
            let lowered = Lowered::of(&graph, precision, ModelInfo::default()).unwrap();
            assert_valid(&lowered, "");
            let _ = lowered.with_tactics(tactics::choose);
        }
    }
}

/// Convolutions, one of them twice, and attention.
const TUNABLE: &str = "input x 1,64,14,14
     random w 64,64,3,3
     a = Conv(x, w) pads=[1,1,1,1]
     b = Conv(a, w) pads=[1,1,1,1]
     random m 80,64,1,1
     t = Conv(b, m) strides=[2,2]
     y = Relu(t)
     input q 2,4,40,64
     input k 2,4,40,64
     input v 2,4,40,64
     kt = Transpose(k) perm=[0,1,3,2]
     s = MatMul(q, kt)
     p = Softmax(s) axis=-1
     z = MatMul(p, v)
     output y
     output z";

fn tunable(precision: Precision) -> Lowered {
    let mut graph = model(TUNABLE);
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    Lowered::of(&graph, precision, ModelInfo::default()).unwrap()
}

#[test]
fn every_way_of_a_layer_is_valid_and_right() {
    let mut graph = model(TUNABLE);
    let inputs = inputs(&graph);
    let expected = reference(&graph, &inputs);
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    for (precision, tolerance) in PRECISIONS {
        let lowered = tunable(precision);
        let first = open(lowered.plan().unwrap());
        let choices = lowered.choices();
        let ways = choices.iter().map(|choice| choice.ways.len()).max().unwrap();
        for way in 0..ways {
            let mut changed = lowered.clone();
            for choice in &choices {
                changed.set(choice, choice.ways[way % choice.ways.len()]);
            }
            assert_valid(&changed, "");
            let kept = changed.choices();
            assert!(
                kept.iter().zip(&choices).all(|(kept, choice)| kept.chosen == way % choice.ways.len()),
                "{precision:?} {way}"
            );
            if let Some(first) = &first {
                let engine = first.retuned(&changed.tables().unwrap()).unwrap();
                let what = format!("{precision:?}, way {way}");
                assert_close(&outputs(&engine, &inputs).unwrap(), &expected, tolerance, &what);
            }
        }
    }
}

#[test]
fn choices_say_what_layers_compute() {
    let choices = tunable(Precision::Fp16).choices();
    let signatures: Vec<String> = choices
        .iter()
        .map(|choice| format!("{} {} {}", choice.node, choice.question, choice.signature))
        .collect();
    assert_eq!(
        signatures,
        [
            "a convolution 64→64 3x3 @14x14 n1 p1x1",
            "b convolution 64→64 3x3 @14x14 n1 p1x1",
            "t convolution 64→80 1x1 @7x7 n1 s2x2",
            "z attention 8 heads of 40x40x64",
        ]
    );
    let names: Vec<String> = choices[3].ways.iter().map(|way| way.name()).collect();
    assert_eq!(names, ["16-rows", "64-rows"]);
    for choice in choices {
        let mut names: Vec<String> = choice.ways.iter().map(|way| way.name()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }
}

#[test]
fn tactics_of_a_gpu_are_followed_in_their_precision() {
    let text = "infer-tactics 1
        layer \"a\" convolution \"64→64 3x3 @14x14 n1 p1x1\" direct
        gpu \"NVIDIA H200\" 9.0 fp16
        layer \"a\" convolution \"64→64 3x3 @14x14 n1 p1x1\" 32x64/3
        layer \"b\" convolution \"64→64 3x3 @14x14 n1\" 32x64/3
        layer \"t\" convolution \"64→80 1x1 @7x7 n1 s2x2\" 96x96/1
        layer \"z\" attention \"8 heads of 40x40x64\" 64-rows
        layer \"gone\" convolution \"\" 32x64/1
        gpu \"NVIDIA L4\" 8.9 fp16
        layer \"b\" convolution \"64→64 3x3 @14x14 n1 p1x1\" 32x64/3";
    let mut tactics = Tactics::parse(text).unwrap();
    let names = |lowered: &Lowered| -> Vec<String> {
        lowered.choices().iter().map(|choice| choice.ways[choice.chosen].name()).collect()
    };
    let estimated = tunable(Precision::Fp16);
    let mut lowered = estimated.clone();
    lowered.follow(&mut tactics);
    assert_valid(&lowered, "");
    let (estimated, followed) = (names(&estimated), names(&lowered));
    assert_eq!(followed[0], "32x64/3");
    assert_eq!(followed[1..3], estimated[1..3]);
    assert_eq!((followed[3].as_str(), estimated[3].as_str()), ("64-rows", "16-rows"));
    let gpu = "m, NVIDIA H200 (9.0, fp16)";
    let notes = tactics.notes("m", "", Precision::Fp16, Backends::Cuda);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert_eq!(
        notes[0],
        format!(
            "{gpu}: layer `b` computes 64→64 3x3 @14x14 n1 p1x1, not 64→64 3x3 @14x14 n1: its tactic is not used"
        )
    );
    assert!(
        notes[1]
            .starts_with(&format!("{gpu}: layer `t` cannot be computed by `96x96/1`, but by `128x128/1`"))
    );
    assert_eq!(notes[2], format!("{gpu}: the model has no layer `gone` with a choice of convolution"));

    let before = tunable(Precision::Fp32);
    let mut after = before.clone();
    after.follow(&mut Tactics::parse(text).unwrap());
    assert_eq!(names(&before), names(&after));
}
