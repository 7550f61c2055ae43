//! Graphs on a GPU against the reference kernels; in modules, whole models, errors and tactics.
//!
//! Without a GPU each test says why it is skipped; `INFER_CUDA_REQUIRED=1` makes that a failure.
#![cfg(all(feature = "compiler", feature = "cuda"))]

extern crate infer_core;

use std::cell::LazyCell;

use infer_core::constant::Constant;
use infer_core::lower_cuda::Lowered;
use infer_core::lower_cuda::tactics::{self, Tactic};
use infer_core::options::Precision;
use infer_core::plan::ModelInfo;
use infer_core::runtime::cuda::cudarc::driver::CudaContext;
use infer_core::runtime::cuda::{CudaEngine, DeviceInput, DeviceOutput};
use infer_core::{ErrorKind, passes};
use infer_kernels::cuda::{TILES, TILES_BF16, TILES_TF32, Tile};
use support::gpu::{PRECISIONS, assert_valid, open, outputs, run};
use support::{assert_close, inputs, model, reference};

#[path = "cuda/errors.rs"]
mod errors;
#[path = "cuda/models.rs"]
mod models;
#[path = "cuda/normalised.rs"]
mod normalised;
#[allow(dead_code, reason = "shared with the tests of the processor")]
mod support;
#[path = "cuda/transposed.rs"]
mod transposed;
#[path = "cuda/tuning.rs"]
mod tuning;

/// Compares a graph in every precision with the reference, with the tactics of the cost model and with each of `more`.
fn check_tactics(text: &str, more: &[(&'static Tile, u32)]) {
    let mut graph = model(text);
    let inputs = inputs(&graph);
    // What takes long is not computed where there is no GPU to compare it with.
    let expected = LazyCell::new(|| reference(&model(text), &inputs));
    passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
    for (precision, tolerance) in PRECISIONS {
        let lowered = Lowered::of(&graph, precision, ModelInfo::default())
            .unwrap_or_else(|failures| panic!("{}\n{text}", failures.into_diagnostic("test")));
        let first = open(lowered.plan().unwrap());
        let check = |engine: &CudaEngine, what: &str| {
            let what = format!("{precision:?} {what}\n{text}\n{}", graph.to_text());
            assert_close(&outputs(engine, &inputs).unwrap(), &expected, tolerance, &what);
        };
        if let Some(first) = &first {
            check(first, "");
        }
        for &(tile, splits) in more {
            if tactics::tiles(precision).contains(tile) {
                let tuned = lowered.with_tactics(|call, precision| match tile.takes(call) {
                    true => Tactic::fitted(tile, splits, call),
                    false => tactics::choose(call, precision),
                });
                assert_valid(&tuned, text);
                if let Some(first) = &first {
                    let engine = first.retuned(&tuned.tables().unwrap()).unwrap();
                    check(&engine, &format!("{} in {splits}", tile.name));
                }
            }
        }
    }
}

fn check(text: &str) {
    check_tactics(text, &[]);
}

/// Every tile, alone and shared.
fn every_tactic() -> Vec<(&'static Tile, u32)> {
    let tiles = TILES.iter().chain(TILES_BF16).chain(TILES_TF32).chain([&Tile::F32]);
    tiles.flat_map(|tile| [1, 2, 3, 4, 7].map(move |splits| (tile, splits))).collect()
}

#[test]
fn convolutions_by_every_tile() {
    let every = every_tactic();
    for (n, c, m, extent, attributes) in [
        (1, 3, 16, "7,7", "pads=[3,3,3,3] strides=[2,2]"),
        (2, 20, 70, "3,3", "pads=[1,1,1,1]"),
        (1, 130, 33, "1,1", ""),
        (3, 72, 136, "1,1", "strides=[2,2]"),
        (1, 64, 200, "3,3", "pads=[0,1,2,0] strides=[2,1]"),
        (1, 40, 24, "2,5", "auto_pad=SAME_UPPER dilations=[2,1]"),
        (1, 9, 8, "1,1", "pads=[1,1,1,1]"),
    ] {
        check_tactics(
            &format!(
                "input p {n},{c},19,13
                 x = LeakyRelu(p) alpha=0.5
                 random w {m},{c},{extent}
                 random b {m}
                 y = Conv(x, w, b) {attributes}
                 output y"
            ),
            &every,
        );
    }
}

#[test]
fn blocks_that_stay_compute_many_tiles() {
    let copied = every_tactic().into_iter().filter(|(tile, splits)| tile.copied && *splits == 1);
    let copied: Vec<_> = copied.collect();
    for (extent, attributes, activation) in
        [("1,1", "", "Relu(s)"), ("3,3", "pads=[1,1,1,1]", "Relu(s)"), ("1,1", "", "Tanh(s)")]
    {
        check_tactics(
            &format!(
                "input x 2,72,130,100
                 input r 2,264,130,100
                 random w 264,72,{extent}
                 random b 264
                 c = Conv(x, w, b) {attributes}
                 s = Add(c, r)
                 y = {activation}
                 output y"
            ),
            &copied,
        );
    }
}

#[test]
fn convolutions_of_few_channels() {
    for (n, c, m, extent, attributes) in [
        (1, 3, 16, "3,3", "pads=[1,1,1,1]"),
        (2, 3, 33, "3,3", "pads=[1,0,1,1] strides=[2,2]"),
        (1, 1, 8, "4,2", "dilations=[2,1]"),
        (2, 4, 70, "2,3", "pads=[1,1,1,1] strides=[2,2]"),
        (1, 3, 16, "7,7", "pads=[3,3,3,3] strides=[2,2]"),
        (2, 1, 33, "5,4", "pads=[0,4,1,3] strides=[1,2] dilations=[2,3]"),
        (2, 4, 24, "3,5", "pads=[2,0,0,1] strides=[3,4]"),
        (1, 2, 8, "5,3", "pads=[1,1,1,1]"),
        (1, 3, 100, "4,2", "pads=[1,2,0,1] strides=[1,3]"),
    ] {
        check(&format!(
            "input x {n},{c},29,17
             random w {m},{c},{extent}
             random b {m}
             t = Conv(x, w, b) {attributes}
             y = Relu(t)
             output y"
        ));
    }
    // More tiles than blocks; an activation that is computed in parts.
    for m in [24, 40] {
        check(&format!(
            "input x 2,3,250,230
             random w {m},3,3,3
             random b {m}
             t = Conv(x, w, b) pads=[1,1,1,1]
             y = HardSwish(t)
             output y"
        ));
    }
}

#[test]
fn residuals_and_activations() {
    for (after, activation) in [
        ("", "Relu(s)"),
        ("", "LeakyRelu(s) alpha=0.1"),
        ("", "Clip(s, low, high)"),
        ("", "Sigmoid(s)"),
        ("", "HardSigmoid(s) alpha=0.3"),
        ("", "HardSwish(s)"),
        ("", "Tanh(s)"),
        ("", "Softplus(s)"),
        ("a = Relu(c)", "Identity(s)"),
    ] {
        let convolution = if after.is_empty() { "a" } else { "c" };
        check_tactics(
            &format!(
                "input x 2,24,9,7
                 input r 2,40,9,7
                 random w 40,24,3,3
                 floats low [] -0.5
                 floats high [] 0.75
                 {convolution} = Conv(x, w) pads=[1,1,1,1]
                 {after}
                 p = Relu(r)
                 s = Add(a, p)
                 y = {activation}
                 output y"
            ),
            &[
                (&TILES[3], 1),
                (&TILES[3], 3),
                (&TILES[0], 1),
                (&TILES[7], 1),
                (&TILES_BF16[1], 1),
                (&TILES_TF32[1], 3),
                (&TILES_TF32[3], 1),
                (&Tile::F32, 3),
            ],
        );
    }
}

#[test]
fn convolutions_in_groups() {
    for (c, m, group) in [(16, 16, 4), (24, 40, 2), (6, 12, 6), (9, 3, 3)] {
        check(&format!(
            "input x 2,{c},11,9
             random w {m},{},3,3
             random b {m}
             y = Conv(x, w, b) group={group} pads=[1,1,1,1]
             output y",
            c / group
        ));
    }
}

#[test]
fn depthwise_convolutions() {
    for (n, c) in [(1, 8), (2, 20), (1, 96)] {
        for (kernel, attributes) in [
            ("3,3", "pads=[1,1,1,1]"),
            ("3,3", "pads=[0,1,1,0] strides=[2,2]"),
            ("5,5", "pads=[2,2,2,2]"),
            ("1,3", "dilations=[1,2]"),
        ] {
            check(&format!(
                "input x {n},{c},11,9
                 random w {c},1,{kernel}
                 random b {c}
                 t = Conv(x, w, b) group={c} {attributes}
                 y = Relu(t)
                 output y"
            ));
        }
    }
}

#[test]
fn pools() {
    for pool in [
        "MaxPool(x) kernel_shape=[3,3] strides=[2,2] pads=[1,1,1,1]",
        "MaxPool(x) kernel_shape=[2,3] strides=[2,1] ceil_mode=1",
        "MaxPool(x) kernel_shape=[2,2] dilations=[2,3]",
        "AveragePool(x) kernel_shape=[3,3] pads=[1,1,1,1]",
        "AveragePool(x) kernel_shape=[3,3] strides=[2,2] pads=[1,0,1,1] count_include_pad=1 ceil_mode=1",
        "GlobalAveragePool(x)",
        "GlobalMaxPool(x)",
    ] {
        for channels in [3, 72] {
            check(&format!(
                "input x 2,{channels},13,10
                 y = {pool}
                 output y"
            ));
        }
    }
}

#[test]
fn products_of_matrices() {
    let every = every_tactic();
    for (rows, depth, columns, gemm) in [
        (1, 200, 10, "Gemm(f, w, b) transB=1"),
        (3, 72, 1000, "Gemm(f, w, b) transB=1 alpha=0.5 beta=2.0"),
        (130, 33, 65, "Gemm(f, w, b) transB=1"),
    ] {
        check_tactics(
            &format!(
                "input x {rows},{depth},3,2
                 random w {columns},{depth}
                 random b {columns}
                 g = GlobalAveragePool(x)
                 f = Flatten(g)
                 p = {gemm}
                 y = Relu(p)
                 output y"
            ),
            &every,
        );
    }
    check(
        "input x 5,24
         random w 24,17
         y = MatMul(x, w)
         output y",
    );
}

#[test]
fn pictures_together() {
    check(
        "input x 2,24,5,7
         input y 2,24,5,7
         input s 2,24,1,1
         a = Add(x, y)
         b = Mul(s, a)
         c = Sub(b, y)
         d = Mul(c, c)
         z = Sigmoid(d)
         output z
         output a",
    );
}

#[test]
fn concatenations_and_resizing() {
    // Parts in place, a part that is used twice, one that is an output too, and one whose channels are padded.
    check(
        "input x 2,16,5,7
         random w 24,16,3,3
         random v 11,16,1,1
         floats scales 4 1.0,1.0,2.0,2.0
         a = Conv(x, w) pads=[1,1,1,1]
         b = Conv(x, v)
         c = Concat(a, x, x, b) axis=1
         u = Resize(c, _, scales) mode=nearest coordinate_transformation_mode=asymmetric nearest_mode=floor
         random k 8,67,3,3
         y = Conv(u, k)
         output y
         output a",
    );
    check(
        "input x 1,12,5,7
         floats scales 4 1.0,1.0,1.7,2.5
         y = Resize(x, _, scales) mode=linear coordinate_transformation_mode=half_pixel
         output y",
    );
}

#[test]
fn elementwise_functions_broadcast() {
    check(
        "input x 2,3,5,7
         input y 3,1,7
         input z 5,1
         random c 2,1,1,7
         floats two [] 2.0
         floats half [] 0.5
         floats zero [] 0.0
         a = Add(x, y)
         b = Mul(a, z)
         d = Sub(b, c)
         e = Div(d, two)
         f = Less(e, half)
         g = Where(f, e, y)
         h = Exp(g)
         k = Sqrt(h)
         l = Pow(k, two)
         m = Erf(l)
         n = Greater(m, zero)
         o = And(n, f)
         p = Cast(o) to=1
         q = Neg(p)
         r = Add(q, m)
         s = Tanh(r)
         output s",
    );
    check(
        "input x 3,4,9
         floats counts 9 1,2,3,4,5,6,7,8,9
         s = Sign(x)
         t = Mul(s, counts)
         i = Cast(t) to=7
         j = Add(i, i)
         k = Mul(j, i)
         y = Cast(k) to=1
         output y",
    );
}

#[test]
fn elements_move() {
    check(
        "input x 2,6,5,8
         ints starts 1,2
         ints ends 3,7
         ints axes 2,3
         ints wide 3,2,6,2,5
         ints split 2,4
         a = Transpose(x) perm=[0,2,1,3]
         b = Transpose(a) perm=[3,0,1,2]
         s = Slice(x, starts, ends, axes)
         e = Expand(s, wide)
         p, q = Split(x, split) axis=1
         c = Concat(q, p, x) axis=1
         d = Concat(x, q, p) axis=1
         z = Concat(c, d) axis=3
         n = Neg(z)
         output b
         output e
         output n",
    );
}

#[test]
fn rows_are_selected() {
    for (shape, axis) in [("11,24", 0), ("3,11,5", 1), ("2,3,11", 2)] {
        check(&format!(
            "input x 4,3
             input d {shape}
             floats ten [] 10.0
             a = Mul(x, ten)
             i = Cast(a) to=7
             y = Gather(d, i) axis={axis}
             output y"
        ));
    }
    let mut graph = model(
        "input x 5
         random d 11,24
         i = Cast(x) to=7
         y = Gather(d, i)
         output y",
    );
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let plan = Lowered::of(&graph, Precision::Fp16, ModelInfo::default()).unwrap().plan().unwrap();
    let Some(engine) = open(plan) else { return };
    let row = |last: f32| {
        [0.0, -11.0, 10.0, 3.0, last].iter().flat_map(|v: &f32| v.to_le_bytes()).collect::<Vec<_>>()
    };
    assert!(run(&engine, &[&row(10.0)]).is_ok());
    assert_eq!(run(&engine, &[&row(11.0)]).unwrap_err().kind(), ErrorKind::Input);
    assert!(run(&engine, &[&row(-11.0)]).is_ok());
}

#[test]
fn normalisations_and_reductions() {
    for (rows, inner) in [("1,7", 768), ("3,1", 1056), ("2,3", 33), ("5,1", 8), ("1,2", 9000)] {
        check(&format!(
            "input x {rows},{inner}
             input r {rows},{inner}
             positive s {inner}
             random b {inner}
             floats four [] 4.0
             t = Add(x, r)
             n = LayerNormalization(t, s, b) axis=-1
             m = Mul(n, four)
             p = Softmax(m) axis=-1
             l = LogSoftmax(m) axis=-1
             output n
             output p
             output l"
        ));
    }
    for (axes, keep) in [("1", 0), ("0,2", 1), ("2,3", 0), ("0,1,2,3", 1)] {
        for reduction in ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"] {
            check(&format!(
                "input x 2,5,7,40
                 y = {reduction}(x) axes=[{axes}] keepdims={keep}
                 output y"
            ));
        }
    }
}

#[test]
fn products_of_rows() {
    for (rows, depth, columns) in [("1,9", 64, 96), ("2,13", 33, 70), ("3,2,5", 8, 17)] {
        check(&format!(
            "input x {rows},{depth}
             input r {rows},{columns}
             random w {depth},{columns}
             random b {columns}
             random v {columns},{depth}
             m = MatMul(x, w)
             a = Add(m, b)
             floats two [] 1.4142135
             floats one [] 1.0
             floats half [] 0.5
             d = Div(a, two)
             e = Erf(d)
             f = Add(e, one)
             h = Mul(a, f)
             g = Mul(h, half)
             n = Add(g, r)
             y = MatMul(n, v)
             z = Add(y, x)
             output z
             output n"
        ));
    }
    check(
        "input a 2,1,17,33
         input b 3,33,70
         y = MatMul(a, b)
         output y",
    );
}

#[test]
fn attentions() {
    for (heads, size, rows, keys) in [
        (2, 64, 128, 128),
        (3, 32, 21, 21),
        (1, 128, 5, 300),
        (2, 64, 200, 77),
        (2, 24, 9, 40),
        (2, 64, 1, 3),
    ] {
        let width = heads * size;
        for mask in ["", "s = Add(c, mask)"] {
            let scores = if mask.is_empty() { "c" } else { "s" };
            check(&format!(
                "input x 2,{rows},{width}
                 input m 2,{keys},{width}
                 input mask 2,1,1,{keys}
                 random wq {width},{width}
                 random wk {width},{width}
                 random wv {width},{width}
                 random wo {width},{width}
                 ints hq 2,{rows},{heads},{size}
                 ints hk 2,{keys},{heads},{size}
                 ints merged 2,{rows},{width}
                 floats scale [] 0.125
                 floats small [] 0.2
                 q0 = MatMul(x, wq)
                 q = Mul(q0, small)
                 k0 = MatMul(m, wk)
                 k = Mul(k0, small)
                 v0 = MatMul(m, wv)
                 v = Mul(v0, small)
                 qr = Reshape(q, hq)
                 kr = Reshape(k, hk)
                 vr = Reshape(v, hk)
                 qt = Transpose(qr) perm=[0,2,1,3]
                 kt = Transpose(kr) perm=[0,2,3,1]
                 vt = Transpose(vr) perm=[0,2,1,3]
                 c0 = MatMul(qt, kt)
                 c = Mul(c0, scale)
                 {mask}
                 p = Softmax({scores}) axis=-1
                 o = MatMul(p, vt)
                 ot = Transpose(o) perm=[0,2,1,3]
                 f = Reshape(ot, merged)
                 y = MatMul(f, wo)
                 output y"
            ));
        }
    }
}

#[test]
fn inputs_and_outputs_may_lie_on_the_gpu() {
    let text = "input x 1,16,9,9
         ints shape 1,1296
         random w 8,16,3,3
         y = Conv(x, w) pads=[1,1,1,1]
         z = Reshape(x, shape)
         output y
         output z";
    let mut graph = model(text);
    let inputs = inputs(&graph);
    let expected = reference(&graph, &inputs);
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let lowered = Lowered::of(&graph, Precision::Fp32, ModelInfo::default()).unwrap();
    let Some(engine) = open(lowered.plan().unwrap()) else { return };
    let x: Vec<f32> = bytemuck::pod_collect_to_vec(inputs[0].data());
    let gpu = CudaContext::new(0).unwrap();
    let (stream, other) = (gpu.new_stream().unwrap(), gpu.new_stream().unwrap());
    let mut context = engine.context();
    let (lengths, nan) = ([8 * 81, 16 * 81], |length: usize| vec![f32::NAN; length]);
    for _ in 0..3 {
        let d_x = stream.clone_htod(&x).unwrap();
        let mut d_y = other.clone_htod(&nan(lengths[0])).unwrap();
        let mut d_z = stream.clone_htod(&nan(lengths[1])).unwrap();
        for _ in 0..2 {
            let given = [DeviceInput::new(&d_x)];
            let mut places = [DeviceOutput::new(&mut d_y, &other), DeviceOutput::new(&mut d_z, &stream)];
            context.run_device(&given, &mut places).unwrap();
        }
        let found = [other.clone_dtoh(&d_y).unwrap(), stream.clone_dtoh(&d_z).unwrap()];
        let found: Vec<Constant> = engine
            .info()
            .outputs
            .iter()
            .zip(found)
            .map(|(port, values)| {
                Constant::new(port.ty.clone(), bytemuck::pod_collect_to_vec::<f32, u8>(&values).into())
                    .unwrap()
            })
            .collect();
        assert_close(&found, &expected, 2e-5, text);
    }

    let d_x = stream.clone_htod(&x).unwrap();
    let whole = stream.clone_htod(&[0i32; 16 * 81 + 1]).unwrap();
    let floats = stream.clone_htod(&[0f32; 16 * 81 + 1]).unwrap();
    let mut d_y = stream.alloc_zeros::<f32>(lengths[0]).unwrap();
    let mut d_z = stream.alloc_zeros::<f32>(lengths[1]).unwrap();
    let mut fails = |input: DeviceInput<'_>, what: &str| {
        let mut places = [DeviceOutput::new(&mut d_y, &stream), DeviceOutput::new(&mut d_z, &stream)];
        let error = context.run_device(&[input], &mut places).unwrap_err();
        assert!(error.kind() == ErrorKind::Configuration && error.to_string().contains(what), "{error}");
    };
    fails(DeviceInput::new(&whole.slice(..16 * 81)), "elements of i32, the model has f32");
    fails(DeviceInput::new(&floats), "5188 bytes, the model has 5184 of f32[1,16,9,9]");
    fails(DeviceInput::new(&floats.slice(1..)), "begins at no multiple of 64 bytes");
    let missing = context.run_device(&[DeviceInput::new(&d_x)], &mut []).unwrap_err();
    assert!(missing.to_string().contains("output"), "{missing}");
}
