//! Products whose rows are normalised where they end, by every tile that does so.

use std::cell::LazyCell;

use infer_core::lower_cuda::Lowered;
use infer_core::options::Precision;
use infer_core::passes;
use infer_core::plan::ModelInfo;

use crate::support::gpu::{PRECISIONS, assert_valid, open, outputs};
use crate::support::{assert_close, inputs, model, reference};

/// Compares a graph with the reference, `count` of its products by each of these ways.
fn check(text: &str, count: usize, ways: &[&str]) {
    let mut graph = model(text);
    let inputs = inputs(&graph);
    // Not computed where there is no GPU to compare it with.
    let expected = LazyCell::new(|| reference(&model(text), &inputs));
    passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
    for (precision, tolerance) in PRECISIONS {
        if !matches!(precision, Precision::Fp16 | Precision::Bf16) {
            continue;
        }
        let mut lowered = Lowered::of(&graph, precision, ModelInfo::default())
            .unwrap_or_else(|failures| panic!("{}\n{text}", failures.into_diagnostic("test")));
        let first = open(lowered.plan().unwrap());
        // The last is the same as before: what was changed is changed back.
        for name in ways.iter().chain(&["64x64/1"]) {
            let mut changed = 0;
            for choice in lowered.choices() {
                if let Some(&way) = choice.ways.iter().find(|way| way.name() == *name) {
                    lowered.set(&choice, way);
                    changed += 1;
                }
            }
            assert!(changed >= count, "{changed} of {count} by {name}\n{text}\n{}", graph.to_text());
            assert_valid(&lowered, text);
            let Some(first) = &first else { continue };
            let engine = first.retuned(&lowered.tables().unwrap()).unwrap();
            let what = format!("{precision:?} {name}\n{text}");
            assert_close(&outputs(&engine, &inputs).unwrap(), &expected, tolerance, &what);
            let info = engine.info();
            if info.architecture == (9, 0) && name.starts_with("norm-") {
                assert_eq!(info.steps.len() - info.launches, count, "{what}");
            }
        }
    }
}

#[test]
fn rows_with_all_that_is_added() {
    for (columns, ways) in [(256, &["norm-128x128/1"][..]), (512, &["norm-128x128/1", "norm-128x256/1"])] {
        check(
            &format!(
                "input x 2,100,72
                 input r 2,100,{columns}
                 random w 72,{columns}
                 random b {columns}
                 random scale {columns}
                 random shift {columns}
                 p = MatMul(x, w)
                 c = Add(p, b)
                 s = Add(c, r)
                 y = LayerNormalization(s, scale, shift) axis=-1 epsilon=0.01
                 output y"
            ),
            1,
            ways,
        );
    }
}

#[test]
fn rows_that_others_read_too() {
    check(
        "input x 130,200
         random w 200,768
         random v 768,768
         random scale 768
         p = MatMul(x, w)
         n = LayerNormalization(p, scale) axis=-1
         q = MatMul(n, v)
         s = Add(q, p)
         y = LayerNormalization(s, scale) axis=-1
         output y
         output s",
        2,
        &["norm-128x128/1", "norm-128x256/1"],
    );
}

#[test]
fn rows_far_from_zero() {
    check(
        "input x 70,64
         random w 64,512
         random scale 512
         random shift 512
         floats b 1 30.0
         p = MatMul(x, w)
         s = Add(p, b)
         y = LayerNormalization(s, scale, shift) axis=-1
         output y",
        1,
        &["norm-128x128/1", "norm-128x256/1"],
    );
}

#[test]
fn more_rows_than_clusters_at_a_time() {
    check(
        "input x 4000,64
         input r 4000,1024
         random w 64,1024
         random scale 1024
         random shift 1024
         p = MatMul(x, w)
         s = Add(p, r)
         y = LayerNormalization(s, scale, shift) axis=-1
         output y",
        1,
        &["norm-128x128/1", "norm-128x256/1"],
    );
}

#[test]
fn what_is_no_whole_row_is_normalised_by_a_call() {
    for (columns, after) in [(200, "Identity(p)"), (256, "Relu(p)")] {
        let text = format!(
            "input x 70,64
             random w 64,{columns}
             random scale {columns}
             p = MatMul(x, w)
             a = {after}
             y = LayerNormalization(a, scale) axis=-1
             output y"
        );
        let mut graph = model(&text);
        passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
        let lowered = Lowered::of(&graph, Precision::Fp16, ModelInfo::default());
        let lowered = lowered.unwrap_or_else(|failures| panic!("{}", failures.into_diagnostic("test")));
        for choice in lowered.choices() {
            assert!(choice.ways.iter().all(|way| !way.name().starts_with("norm-")), "{text}");
        }
    }
}

#[test]
fn short_sums_of_many_rows_are_normalised_by_estimate() {
    for (rows, depth, normalises) in
        [(4096, 768, true), (4096, 3072, false), (2048, 768, true), (8192, 768, true), (128, 768, false)]
    {
        let text = format!(
            "input x {rows},{depth}
             input r {rows},768
             random w {depth},768
             random scale 768
             p = MatMul(x, w)
             s = Add(p, r)
             y = LayerNormalization(s, scale) axis=-1
             output y"
        );
        let mut graph = model(&text);
        passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
        let lowered = Lowered::of(&graph, Precision::Fp16, ModelInfo::default());
        let lowered = lowered.unwrap_or_else(|failures| panic!("{}", failures.into_diagnostic("test")));
        let [choice] = lowered.choices().try_into().unwrap();
        let name = choice.ways[choice.chosen].name();
        assert_eq!(name.starts_with("norm-"), normalises, "{name} for {depth}→768 of {rows}");
    }
}
