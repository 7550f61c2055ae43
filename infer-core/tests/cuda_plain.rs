//! What the fast paths of the GPU refuse and runs there all the same, by families, against the reference kernels; and the
//! cases of ONNX's suite.
//!
//! Without a GPU each test says why it is skipped; `INFER_CUDA_REQUIRED=1` makes that a failure. The cases are those of the
//! folder `INFER_CUDA_CASES`, as ONNX's suite has them: `CASE/model.onnx`, `CASE/test_data_set_N/`.
#![cfg(all(feature = "compiler", feature = "cuda"))]

extern crate infer_core;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use infer_core::constant::Constant;
use infer_core::lower_cuda::{self, Lowered};
use infer_core::onnx::read_value;
use infer_core::options::{Options, Precision};
use infer_core::plan::{ModelInfo, Port};
use infer_core::tensor_type::DataType;
use infer_core::value::{Value, ValueType};
use infer_core::{ErrorKind, passes};
use support::gpu::{open, outputs, run};
use support::{assert_close, inputs, model, reference};

#[allow(dead_code, reason = "shared with the tests of the processor")]
mod support;

/// Whether every call of a plan passes its kernel's validation and has something to launch.
fn assert_valid(lowered: &Lowered, what: &str) {
    for call in &lowered.calls.calls {
        let kernel = infer_kernels::cuda::find(&call.kernel).unwrap();
        let operand_bytes: Vec<u64> =
            call.operands.iter().map(|span| span.map_or(0, |span| span.bytes)).collect();
        let mut words = vec![0u64; call.params.len().div_ceil(8)];
        let params = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..call.params.len()];
        params.copy_from_slice(&call.params);
        let call = infer_kernels::Call { params, operand_bytes: &operand_bytes };
        (kernel.validate)(&call).unwrap_or_else(|invalid| panic!("{}: {invalid} in\n{what}", kernel.name));
        let launch = (kernel.launch)(call.params);
        assert!(!launch.grid.contains(&0) && launch.threads > 0, "{}: {launch:?} in\n{what}", kernel.name);
    }
}

/// Compares a graph in every precision with the reference. `plain`: a kernel that must be among its calls.
fn check_by(plain: &str, text: &str) {
    let mut graph = model(text);
    let inputs = inputs(&graph);
    let expected = reference(&graph, &inputs);
    passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
    for (precision, tolerance) in [(Precision::Fp32, 2e-5), (Precision::Fp16, 1e-2), (Precision::Bf16, 8e-2)]
    {
        let lowered = Lowered::of(&graph, precision, ModelInfo::default())
            .unwrap_or_else(|failures| panic!("{}\n{text}", failures.into_diagnostic("test")));
        let kernels: Vec<&str> = lowered.calls.calls.iter().map(|call| call.kernel.as_str()).collect();
        let named = |kernel: &&str| kernel.strip_prefix("cuda_plain_") == Some(plain);
        assert!(plain.is_empty() || kernels.iter().any(named), "{kernels:?} in\n{text}");
        let what = format!("{precision:?}\n{text}\n{}", graph.to_text());
        assert_valid(&lowered, &what);
        let Some(engine) = open(lowered.plan().unwrap()) else { continue };
        let found = outputs(&engine, &inputs).unwrap_or_else(|error| panic!("{error} in\n{what}"));
        assert_close(&found, &expected, tolerance, &what);
    }
}

/// The failures of a test's checks, told when all have run.
#[derive(Default)]
struct Checks(Vec<String>);

impl Checks {
    fn by(&mut self, plain: &str, text: &str) {
        if let Err(panic) = std::panic::catch_unwind(|| check_by(plain, text)) {
            let message = panic.downcast_ref::<String>().cloned();
            self.0.push(message.unwrap_or_else(|| format!("a panic in\n{text}")));
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        let failures = std::mem::take(&mut self.0);
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    }
}

#[test]
fn numbers_of_every_type() {
    let mut checks = Checks::default();
    // Through f64, which every precision keeps, so that what is truncated is the same.
    for ty in [2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 16] {
        checks.by(
            "cast",
            &format!(
                "input x 3,7,5
                 input z 7,1
                 floats hundred [] 100.0
                 h = Cast(hundred) to=11
                 d = Cast(x) to=11
                 e = Cast(z) to=11
                 f = Mul(d, h)
                 g = Mul(e, h)
                 a = Cast(f) to={ty}
                 b = Cast(g) to={ty}
                 t = Transpose(a) perm=[2,1,0]
                 c = Concat(t, t) axis=0
                 y = Cast(a) to=11
                 w = Cast(c) to=1
                 v = Cast(b) to=9
                 output y
                 output w
                 output v"
            ),
        );
        checks.by(
            "binary",
            &format!(
                "input x 3,7,5
                 input z 7,1
                 floats hundred [] 100.0
                 h = Cast(hundred) to=11
                 d = Cast(x) to=11
                 e = Cast(z) to=11
                 f = Mul(d, h)
                 g = Mul(e, h)
                 a = Cast(f) to={ty}
                 b = Cast(g) to={ty}
                 c = Add(a, b)
                 m = Mul(c, b)
                 s = Sub(m, a)
                 l = Less(a, b)
                 q = Equal(a, b)
                 o = Or(l, q)
                 w = Where(o, s, a)
                 n = Max(w, b)
                 k = Min(n, c)
                 y = Cast(k) to=1
                 output y
                 output l"
            ),
        );
    }
}

#[test]
fn functions_of_one_number() {
    let mut checks = Checks::default();
    for function in [
        "Abs",
        "Ceil",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Neg",
        "Reciprocal",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Softsign",
        "Tanh",
        "HardSigmoid",
        "Relu",
    ] {
        // f64, which the fast path does not know.
        checks.by(
            "",
            &format!(
                "input x 4,33
                 d = Cast(x) to=11
                 three = Constant() value_float=3.0
                 t = Cast(three) to=11
                 e = Mul(d, t)
                 f = {function}(e)
                 y = Cast(f) to=1
                 output y"
            ),
        );
    }
    for function in ["Celu", "Mish", "HardSwish", "ThresholdedRelu"] {
        checks.by("", &format!("opset 22\ninput x 4,33\ny = {function}(x)\noutput y"));
    }
    checks.by(
        "unary",
        "input x 5,9
         floats ten [] 10.0
         t = Cast(ten) to=11
         d = Cast(x) to=11
         e = Mul(d, t)
         i = Cast(e) to=3
         a = Abs(i)
         n = Neg(a)
         s = Sign(i)
         m = Mul(n, s)
         y = Cast(m) to=1
         output y",
    );
    checks.by(
        "binary",
        "input x 5,9
         input lower 1
         input upper 1
         m = Max(x, lower, upper)
         n = Mean(x, lower, m)
         c = Clip(n, lower, upper)
         p = Pow(m, x)
         y = Sum(c, n, m)
         output y",
    );
    // Where the functions are defined, and far from poles.
    for (function, argument) in [
        ("Acos", "Tanh(x)"),
        ("Acosh", "Exp(two)"),
        ("Asin", "Tanh(x)"),
        ("Asinh", "Identity(x)"),
        ("Atan", "Identity(x)"),
        ("Atanh", "Sigmoid(x)"),
        ("Cosh", "Identity(x)"),
        ("Sinh", "Identity(x)"),
        ("Tan", "Tanh(x)"),
    ] {
        checks.by(
            "unary",
            &format!(
                "input x 4,33
                 one = Constant() value_float=1.5
                 square = Mul(x, x)
                 two = Add(square, one)
                 a = {argument}
                 y = {function}(a)
                 d = Cast(a) to=11
                 e = {function}(d)
                 z = Cast(e) to=1
                 output y
                 output z"
            ),
        );
    }
    // f64, which every precision keeps: a remainder jumps.
    for flag in [0, 1] {
        checks.by(
            "binary",
            &format!(
                "input x 5,9
                 input z 9
                 floats few 3,1,1 0.37,-0.23,1.7
                 d = Cast(x) to=11
                 e = Cast(few) to=11
                 w = Cast(z) to=11
                 f = Mod(d, e) fmod={flag}
                 g = Mod(w, e) fmod={flag}
                 y = Cast(f) to=1
                 v = Cast(g) to=1
                 output y
                 output v"
            ),
        );
        checks
            .by("binary", &format!("input x 2,3\nfloats two [] 2.0\ny = Mod(x, two) fmod={flag}\noutput y"));
    }
}

#[test]
fn pictures_between_elements() {
    let mut checks = Checks::default();
    for mode in ["nearest", "linear", "cubic"] {
        for padding in ["zeros", "border", "reflection"] {
            for (x, grid) in [("2,11,9", "2,13,1"), ("2,11,9,7", "2,3,5,2"), ("2,3,4,5,6", "2,3,2,5,3")] {
                for corners in [0, 1] {
                    checks.by(
                        "grid_sample",
                        &format!(
                            "opset 22
                             input x {x}
                             input grid {grid}
                             floats more [] 1.7
                             m = Cast(more) to=11
                             c = Cast(grid) to=11
                             h = Mul(c, m)
                             g = Cast(h) to=1
                             y = GridSample(x, g) mode={mode} padding_mode={padding} align_corners={corners}
                             d = Cast(x) to=11
                             w = GridSample(d, h) mode={mode} padding_mode={padding} align_corners={corners}
                             z = Cast(w) to=1
                             output y
                             output z"
                        ),
                    );
                }
            }
        }
    }
    checks.by(
        "",
        "opset 22
         input x 2,3,6,7
         input theta 2,2,3
         ints size 2,3,4,5
         g = AffineGrid(theta, size)
         y = GridSample(x, g)
         output g
         output y",
    );
    for (mode, ratio) in [("avg", 0), ("max", 0), ("avg", 2), ("max", 3)] {
        checks.by(
            "roi_align",
            &format!(
                "opset 22
                 input x 2,5,9,8
                 floats rois 3,4 1.0,2.0,7.5,8.0,-3.0,0.5,2.0,4.0,6.0,6.0,5.0,9.0
                 ints images 1,0,1
                 y = RoiAlign(x, rois, images) mode={mode} sampling_ratio={ratio} output_height=3 output_width=2
                 d = Cast(x) to=11
                 wide = Cast(rois) to=11
                 e = RoiAlign(d, wide, images) mode={mode} sampling_ratio={ratio} output_height=2 spatial_scale=0.5
                 z = Cast(e) to=1
                 output y
                 output z"
            ),
        );
    }
    checks.by(
        "max_roi_pool",
        "opset 22
         input x 2,5,9,8
         floats rois 3,5 1.0,1.0,2.0,7.5,8.0,0.0,-3.0,0.5,2.0,4.0,1.0,6.0,6.0,5.0,9.0
         y = MaxRoiPool(x, rois) pooled_shape=[3,2] spatial_scale=0.9
         output y",
    );
    checks.by(
        "scatter_elements",
        "opset 22
         input x 1,2,4,4
         p, i = MaxPool(x) kernel_shape=[2,2] strides=[2,2]
         y = MaxUnpool(p, i) kernel_shape=[2,2] strides=[2,2]
         ints larger 1,2,5,6
         z = MaxUnpool(p, i, larger) kernel_shape=[2,2] strides=[2,2]
         output y
         output z",
    );
}

#[test]
fn elements_in_order() {
    let mut checks = Checks::default();
    for (axis, k, largest) in [(0, 1, 1), (1, 7, 1), (1, 40, 0), (2, 3, 0), (-1, 6, 1)] {
        for ty in [1, 11, 6, 7, 10, 13] {
            checks.by(
                "top_k",
                &format!(
                    "opset 24
                     input x 3,40,6
                     floats ten [] 10.0
                     t = Cast(ten) to=11
                     d = Cast(x) to=11
                     e = Mul(d, t)
                     a = Abs(e)
                     i = Cast(a) to={ty}
                     ints k {k}
                     v, y = TopK(i, k) axis={axis} largest={largest}
                     z = Cast(v) to=1
                     output y
                     output z"
                ),
            );
        }
    }
}

#[test]
fn reductions_of_every_kind() {
    let mut checks = Checks::default();
    for (axes, keep) in [("1", 0), ("0,2", 1), ("2,3", 0), ("0,1,2,3", 1)] {
        for reduction in ["ReduceLogSum", "ReduceLogSumExp", "ReduceL1", "ReduceSumSquare"] {
            checks.by(
                "",
                &format!(
                    "input x 2,5,7,41
                     floats two [] 2.0
                     p = Add(x, two)
                     y = {reduction}(p) axes=[{axes}] keepdims={keep}
                     output y"
                ),
            );
        }
        for (reduction, ty) in [("ReduceMax", 7), ("ReduceMin", 6), ("ReduceMean", 11)] {
            checks.by(
                "",
                &format!(
                    "input x 2,5,7,41
                     floats ten [] 10.0
                     t = Cast(ten) to=11
                     d = Cast(x) to=11
                     e = Mul(d, t)
                     i = Cast(e) to={ty}
                     r = {reduction}(i) axes=[{axes}] keepdims={keep}
                     y = Cast(r) to=1
                     output y"
                ),
            );
        }
    }
    for ty in [11, 6, 7] {
        checks.by(
            "",
            &format!(
                "input x 2,5,7,41
                 floats four [] 4.0
                 t = Cast(four) to=11
                 d = Cast(x) to=11
                 e = Mul(d, t)
                 i = Cast(e) to={ty}
                 r = ReduceProd(i) axes=[1]
                 y = Cast(r) to=1
                 output y"
            ),
        );
    }
    for (axis, last) in [(0, 0), (1, 1), (2, 0), (-1, 1)] {
        for ty in [1, 11, 6, 7] {
            checks.by(
                "",
                &format!(
                    "input x 3,70,9
                     floats ten [] 10.0
                     t = Cast(ten) to=11
                     d = Cast(x) to=11
                     e = Mul(d, t)
                     i = Cast(e) to={ty}
                     y = ArgMax(i) axis={axis} select_last_index={last}
                     z = ArgMin(i) axis={axis} keepdims=0 select_last_index={last}
                     output y
                     output z"
                ),
            );
        }
    }
}

#[test]
fn sums_and_products_that_run() {
    let mut checks = Checks::default();
    for (ty, family) in
        [(1, "scan_f32"), (11, "scan_f64"), (6, "scan_i32"), (13, "scan_i64"), (2, "scan_i32")]
    {
        for (axis, exclusive, reverse) in [(0, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1), (2, 0, 0)] {
            checks.by(
                family,
                &format!(
                    "input x 3,5,70
                     floats three [] 3.0
                     ints axis {axis}
                     t = Cast(three) to=11
                     d = Cast(x) to=11
                     e = Mul(d, t)
                     i = Cast(e) to={ty}
                     r = CumSum(i, axis) exclusive={exclusive} reverse={reverse}
                     y = Cast(r) to=1
                     output y"
                ),
            );
        }
        checks.by(
            family,
            &format!(
                "opset 26
                 input x 5,40
                 ints axis 1
                 floats one [] 1.0
                 p = Add(x, one)
                 i = Cast(p) to={ty}
                 r = CumProd(i, axis)
                 y = Cast(r) to=1
                 output y"
            ),
        );
    }
}

#[test]
fn sequences_spectra_and_chosen_elements() {
    let mut checks = Checks::default();
    for (batch, time) in [(0, 1), (1, 0), (2, 1)] {
        checks.by(
            "",
            &format!(
                "input x 5,5,5
                 input n 5
                 floats five [] 2.4
                 d = Cast(n) to=11
                 f = Cast(five) to=11
                 a = Abs(d)
                 m = Mul(a, f)
                 lengths = Cast(m) to=7
                 y = ReverseSequence(x, lengths) batch_axis={batch} time_axis={time}
                 output y"
            ),
        );
    }
    checks.by(
        "",
        "input x 4,3
         ints depth 3
         floats values 2 0.5,2.0
         floats three [] 3.0
         d = Cast(x) to=11
         t = Cast(three) to=11
         e = Mul(d, t)
         i = Cast(e) to=7
         y = OneHot(i, depth, values) axis=1
         output y",
    );
    for (shape, attributes, family) in [
        ("ints image 5,5\nints block 2,3\ninput x 2,12,6", "strides=[2,1]", "col2im_f32"),
        ("ints image 4,7\nints block 2,3\ninput x 1,6,28", "pads=[1,0,1,2] dilations=[2,1]", "col2im_f32"),
        ("ints image 9\nints block 3\ninput x 3,3,4", "strides=[2]", "col2im_f32"),
    ] {
        let text = format!("opset 18\n{shape}\ny = Col2Im(x, image, block) {attributes}\noutput y");
        checks.by(family, &text);
    }
    checks.by("", "opset 20\ninput x 2,12,1\ny = DFT(x)\noutput y");
    checks.by("", "opset 20\ninput x 2,7,3,2\nints n 10\nints a 1\ny = DFT(x, n, a)\noutput y");
    checks.by("", "opset 20\ninput x 2,7,2\ny = DFT(x) inverse=1 onesided=1\noutput y");
    checks.by("", "opset 17\ninput x 2,50,1\ninput w 8\nints step 4\ny = STFT(x, step, w)\noutput y");
}

#[test]
fn elements_by_index() {
    let mut checks = Checks::default();
    checks.by(
        "gather",
        "input x 5,7,3
         ints flat 0,2,1,-1,4,3,2,2,0
         ints three 3,1,3
         i = Reshape(flat, three)
         g = GatherElements(x, i) axis=0
         ints pairs 1,6,0,0,4,3,2,2
         ints two 4,2
         p = Reshape(pairs, two)
         n = GatherND(x, p)
         output g
         output n",
    );
    checks.by(
        "scatter_elements",
        "opset 24
         input x 5,7,3
         input u 3,1,3
         ints flat 0,2,1,-1,4,3,2,2,1
         ints three 3,1,3
         i = Reshape(flat, three)
         a = ScatterElements(x, i, u) axis=0
         b = ScatterElements(x, i, u) axis=1
         c = ScatterElements(x, i, u) axis=0 reduction=add
         d = ScatterElements(x, i, u) axis=0 reduction=min
         e = Cast(x) to=11
         f = Cast(u) to=11
         g = ScatterElements(e, i, f) axis=0 reduction=mul
         h = ScatterElements(e, i, f) axis=0 reduction=max
         s = Sign(x)
         t = Sign(u)
         k = Cast(s) to=7
         l = Cast(t) to=7
         m = ScatterElements(k, i, l) axis=0 reduction=add
         n = Cast(m) to=1
         output a
         output b
         output c
         output d
         output g
         output h
         output n",
    );
    checks.by(
        "scatter_nd",
        "opset 24
         input x 5,7,30
         input u 4,30
         ints pairs 1,6,0,0,4,3,1,-1
         ints two 4,2
         i = Reshape(pairs, two)
         a = ScatterND(x, i, u)
         b = ScatterND(x, i, u) reduction=add
         c = ScatterND(x, i, u) reduction=max
         e = Cast(x) to=11
         f = Cast(u) to=11
         g = ScatterND(e, i, f) reduction=mul
         ints first 3,0,6,2,5
         input v 5,2,30
         t = TensorScatter(x, v, first) mode=circular
         output a
         output b
         output c
         output g
         output t",
    );
    checks.by(
        "",
        "input x 4,6,5
         ints pads 1,0,2,0,3,1
         floats v [] 0.25
         a = Pad(x, pads, v)
         b = Pad(x, pads) mode=reflect
         c = Pad(x, pads) mode=edge
         d = Trilu(x)
         e = Trilu(x) upper=0
         ints repeats 2,1,3
         t = Tile(x, repeats)
         output a
         output b
         output c
         output d
         output e
         output t",
    );
    checks.by(
        "",
        "input x 2,12,5,3
         a = DepthToSpace(x) blocksize=2
         b = DepthToSpace(x) blocksize=2 mode=CRD
         c = SpaceToDepth(a) blocksize=2
         ints starts -1,4
         ints ends -13,0
         ints axes 1,2
         ints steps -2,-1
         d = Slice(x, starts, ends, axes, steps)
         output a
         output b
         output c
         output d",
    );
}

#[test]
fn windows_of_any_rank() {
    let mut checks = Checks::default();
    for (shape, kernel, attributes) in [
        ("2,3,19", "3", "strides=[2] pads=[1,0]"),
        ("2,4,7,9", "2,3", "strides=[2,1] pads=[1,0,1,1]"),
        ("1,2,5,7,6", "3,2,3", "strides=[1,2,2] pads=[1,0,1,1,1,0]"),
    ] {
        let channels: usize = shape.split(',').nth(1).unwrap().parse().unwrap();
        for pool in ["AveragePool", "MaxPool", "LpPool"] {
            checks.by(
                "",
                &format!("input x {shape}\ny = {pool}(x) kernel_shape=[{kernel}] {attributes}\noutput y"),
            );
        }
        checks.by(
            "max_pool_nd",
            &format!(
                "input x {shape}\ny, i = MaxPool(x) kernel_shape=[{kernel}] {attributes}\noutput y\noutput i"
            ),
        );
        checks.by("", &format!("input x {shape}\ny = GlobalLpPool(x) p=3\noutput y"));
        checks.by(
            "conv_transpose_nd",
            &format!(
                "input x {shape}
                 random w {channels},5,{kernel}
                 random b 5
                 y = ConvTranspose(x, w, b) {attributes}
                 z = Relu(y)
                 output z"
            ),
        );
        // Weights that the run computes.
        checks.by(
            "conv_nd",
            &format!(
                "input x {shape}
                 input v 6,{channels},{kernel}
                 input b 6
                 floats third [] 0.3
                 w = Mul(v, third)
                 y = Conv(x, w, b) {attributes}
                 z = Sigmoid(y)
                 output z"
            ),
        );
        checks.by(
            "",
            &format!(
                "input x {shape}
                 random w 6,{channels},{kernel}
                 y = Conv(x, w) {attributes}
                 output y"
            ),
        );
    }
    checks.by(
        "conv_transpose_nd",
        "input x 1,6,5,7
         random w 6,2,3,3
         y = ConvTranspose(x, w) group=3 strides=[2,2] dilations=[1,2] output_padding=[1,1]
         output y",
    );
    // Between convolutions, whose pictures become rows and pictures again.
    checks.by(
        "conv_transpose_nd",
        "input x 2,11,13,9
         random w 24,11,3,3
         random v 24,12,2,2
         random u 19,12,3,3
         a = Conv(x, w) pads=[1,1,1,1]
         b = ConvTranspose(a, v) strides=[2,2]
         c = LRN(b) size=5 alpha=0.1
         y = Conv(c, u)
         output y
         output a",
    );
    for (scales, mode) in [("1.0,1.0,1.7", "linear"), ("1.0,1.5,0.6", "nearest"), ("1.0,1.0,2.0", "cubic")] {
        checks.by(
            "",
            &format!("input x 2,5,11\nfloats s 3 {scales}\ny = Resize(x, _, s) mode={mode}\noutput y"),
        );
    }
    checks.by(
        "",
        "input x 1,2,4,5,6
         floats s 5 1.0,1.0,2.0,1.5,0.7
         y = Resize(x, _, s) mode=linear
         output y",
    );
}

#[test]
fn normalisations_of_every_kind() {
    let mut checks = Checks::default();
    for shape in ["2,6,37", "1,6,5,7", "2,6,3,4,5"] {
        checks.by(
            "group_norm",
            &format!(
                "input x {shape}
                 positive s 6
                 random b 6
                 y = InstanceNormalization(x, s, b)
                 output y"
            ),
        );
        checks.by(
            "",
            &format!(
                "opset 21
                 input x {shape}
                 positive s 6
                 random b 6
                 y = GroupNormalization(x, s, b) num_groups=3
                 z = LpNormalization(x) axis=1 p=2
                 output y
                 output z"
            ),
        );
        checks
            .by("lrn", &format!("input x {shape}\ny = LRN(x) size=4 alpha=0.5 beta=0.6 bias=1.5\noutput y"));
        checks.by(
            "softmax",
            &format!("input x {shape}\ny = Softmax(x) axis=1\nz = LogSoftmax(x) axis=0\noutput y\noutput z"),
        );
    }
    // On pictures, which convolutions make.
    for (shape, channels, groups) in
        [("2,3,9,11", 36, 6), ("1,3,70,65", 24, 24), ("3,3,5", 10, 1), ("1,3,40,40", 64, 8)]
    {
        let kernel = if shape.matches(',').count() == 3 { "3,3" } else { "3" };
        checks.by(
            "",
            &format!(
                "opset 21
                 input x {shape}
                 random w {channels},3,{kernel}
                 random v 16,{channels},{kernel}
                 positive s {channels}
                 random b {channels}
                 floats five [] 5.0
                 c = Conv(x, w)
                 d = Add(c, five)
                 n = GroupNormalization(d, s, b) num_groups={groups}
                 r = Relu(n)
                 m = InstanceNormalization(r, s, b)
                 y = Conv(m, v)
                 output y
                 output n"
            ),
        );
    }
    for inner in [33, 1500] {
        checks.by(
            "layer_norm",
            &format!(
                "opset 23
                 input x 3,5,{inner}
                 input s {inner}
                 input b {inner}
                 y = LayerNormalization(x, s, b) axis=-1
                 z = RMSNormalization(x, s) axis=-1
                 output y
                 output z"
            ),
        );
        checks.by("softmax", &format!("input x {inner},3\ny = Softmax(x) axis=0\noutput y"));
    }
    checks.by(
        "",
        "input x 4,7,11
         input s 7
         input b 7
         input m 7
         input v 7
         floats two [] 2.0
         w = Add(v, two)
         y = BatchNormalization(x, s, b, m, w)
         z = MeanVarianceNormalization(x) axes=[0,2]
         output y
         output z",
    );
}

#[test]
fn products_of_what_is_computed() {
    let mut checks = Checks::default();
    checks.by(
        "",
        "input a 9,33
         input b 33,21
         input c 21
         input d 33,9
         input e 9,1
         x = Gemm(a, b, c) alpha=0.5 beta=2.0
         y = Gemm(d, b, e) transA=1
         z = Gemm(b, a) transA=1 transB=1
         output x
         output y
         output z",
    );
    checks.by(
        "",
        "input a 2,3,9,17
         input b 3,17,40
         input c 3,1,40
         input v 17
         m = MatMul(a, b)
         x = Add(m, c)
         y = MatMul(a, v)
         output x
         output y",
    );
    for (ty, family) in [(11, "matmul_f64"), (6, "matmul_i32"), (7, "matmul_i64")] {
        for (left, right) in [("2,3,5,7", "3,7,9"), ("5,7", "7"), ("7", "2,7,4"), ("1,1", "1,1")] {
            checks.by(
                family,
                &format!(
                    "input x {left}
                     input w {right}
                     floats four [] 4.0
                     f = Cast(four) to=11
                     a = Cast(x) to=11
                     b = Cast(w) to=11
                     c = Mul(a, f)
                     d = Mul(b, f)
                     l = Cast(c) to={ty}
                     r = Cast(d) to={ty}
                     p = MatMul(l, r)
                     s = Add(p, p)
                     y = Cast(s) to=1
                     output y"
                ),
            );
        }
    }
    checks.by(
        "matmul_f64",
        "input x 5,7
         random w 7,4
         random r 5,4
         a = Cast(x) to=11
         b = Cast(w) to=11
         c = Cast(r) to=11
         p = MatMul(a, b)
         s = Add(p, c)
         t = Tanh(s)
         y = Cast(t) to=1
         output y",
    );
}

#[test]
fn networks_that_walk_through_time() {
    let mut checks = Checks::default();
    for (hidden, batch, steps, direction, directions) in [
        (5, 3, 4, "forward", 1),
        (33, 2, 7, "reverse", 1),
        (16, 1, 5, "bidirectional", 2),
        (300, 2, 3, "forward", 1),
    ] {
        for (cell, gates, extra) in
            [("LSTM", 4, ""), ("GRU", 3, "linear_before_reset=1"), ("GRU", 3, ""), ("RNN", 1, "")]
        {
            let (rows, both) = (gates * hidden, 2 * gates * hidden);
            let (c, outputs) = if cell == "LSTM" { (", c", "y, h, l") } else { ("", "y, h") };
            let last = if cell == "LSTM" { "output l" } else { "" };
            checks.by(
                &cell.to_lowercase(),
                &format!(
                    "input x {steps},{batch},11
                     random wl {directions},{rows},11
                     random rl {directions},{rows},{hidden}
                     random b {directions},{both}
                     input h0 {directions},{batch},{hidden}
                     input c {directions},{batch},{hidden}
                     {outputs} = {cell}(x, wl, rl, b, _, h0{c}) hidden_size={hidden} direction={direction} {extra}
                     output y
                     output h
                     {last}"
                ),
            );
        }
    }
}

#[test]
fn attention_of_large_heads() {
    let mut checks = Checks::default();
    for (size, keys, causal) in [(300, 21, 0), (600, 290, 1)] {
        checks.by(
            "attention",
            &format!(
                "opset 23
                 input q 1,2,19,{size}
                 input k 1,2,{keys},{size}
                 input v 1,2,{keys},{size}
                 y = Attention(q, k, v) is_causal={causal}
                 output y"
            ),
        );
    }
}

#[test]
fn tensors_without_elements() {
    let mut checks = Checks::default();
    checks.by(
        "",
        "opset 13
         input x 4,7
         ints zero 0
         ints one 1
         ints axes 0
         e = Slice(x, zero, zero, axes)
         n = Neg(e)
         c = Concat(n, x) axis=0
         s = ReduceSum(e, axes) keepdims=0
         y = Add(c, s)
         output y
         output n",
    );
}

#[test]
fn an_integer_divided_by_zero_is_an_error() {
    let mut graph = model(
        "input x 5
         input z 5
         a = Cast(x) to=5
         b = Cast(z) to=5
         c = Div(a, b)
         y = Cast(c) to=1
         output y",
    );
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let lowered = Lowered::of(&graph, Precision::Fp32, ModelInfo::default()).unwrap();
    let Some(engine) = open(lowered.plan().unwrap()) else { return };
    let row = |last: f32| {
        [6.0, -7.0, 9.0, 3.0, last].iter().flat_map(|v: &f32| v.to_le_bytes()).collect::<Vec<_>>()
    };
    let found = run(&engine, &[&row(8.0), &row(2.0)]).unwrap();
    assert_eq!(
        found[0],
        [1.0f32, 1.0, 1.0, 1.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()
    );
    assert_eq!(run(&engine, &[&row(8.0), &row(0.0)]).unwrap_err().kind(), ErrorKind::Input);
    assert!(run(&engine, &[&row(8.0), &row(2.0)]).is_ok());
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// The tensors `KIND_N.pb` of a folder.
fn tensors(folder: &Path, kind: &str, ports: &[Port]) -> Result<Vec<Constant>, String> {
    let read = |(index, port): (usize, &Port)| {
        let bytes =
            std::fs::read(folder.join(format!("{kind}_{index}.pb"))).map_err(|error| error.to_string())?;
        match read_value(&bytes, &ValueType::from(port.ty.clone())).map_err(|reason| reason.what)? {
            Value::Tensor(tensor) => Ok(tensor),
            other => Err(format!("a recorded {}", other.describe())),
        }
    };
    ports.iter().enumerate().map(read).collect()
}

fn compare(found: &Constant, expected: &Constant, rtol: f64, atol: f64) -> Result<(), String> {
    if found.ty() != expected.ty() {
        return Err(format!("{} instead of {}", found.ty(), expected.ty()));
    }
    let numbers = |tensor: &Constant| -> Option<Vec<f64>> {
        Some(match tensor.ty().dtype {
            DataType::F32 => tensor.values::<f32>().iter().map(|&v| v.into()).collect(),
            DataType::F64 => tensor.values::<f64>().into_owned(),
            DataType::F16 => tensor.values::<half::f16>().iter().map(|v| v.to_f64()).collect(),
            DataType::Bf16 => tensor.values::<half::bf16>().iter().map(|v| v.to_f64()).collect(),
            _ => return None,
        })
    };
    let (Some(found), Some(expected)) = (numbers(found), numbers(expected)) else {
        return if found == expected { Ok(()) } else { Err("other elements".to_owned()) };
    };
    for (index, (a, e)) in found.iter().zip(&expected).enumerate() {
        let close = a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= atol + rtol * e.abs();
        if !close {
            return Err(format!("{a} instead of {e} at {index}"));
        }
    }
    Ok(())
}

/// Runs a case; `false` where it does not run on the GPU as a whole. Without a GPU its calls are validated all the same.
fn run_case(case: &Path, is_gpu: bool) -> Result<bool, String> {
    let tolerance = std::fs::read_to_string(case.join("tolerance.json")).unwrap_or_default();
    let number = |key: &str, default: f64| -> f64 {
        let rest = tolerance.split(&format!("\"{key}\":")).nth(1);
        rest.and_then(|rest| rest.split([',', '}']).next()?.trim().parse().ok()).unwrap_or(default)
    };
    let Ok(lowered) = lower_cuda::compile(&Options::new(case.join("model.onnx"))) else { return Ok(false) };
    assert_valid(&lowered, &case.display().to_string());
    if !is_gpu {
        return Ok(false);
    }
    let Some(engine) = open(lowered.plan().map_err(|diagnostic| diagnostic.message)?) else {
        return Ok(false);
    };
    let info = engine.info();
    for data in folders(case) {
        let (inputs, expected) =
            (tensors(&data, "input", info.inputs)?, tensors(&data, "output", info.outputs)?);
        let found = outputs(&engine, &inputs).map_err(|error| error.to_string())?;
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            compare(found, expected, number("rtol", 1e-3), number("atol", 1e-7))
                .map_err(|what| format!("output {index}: {what}"))?;
        }
    }
    Ok(true)
}

#[test]
fn cases_of_the_suite() {
    let Some(folder) = std::env::var_os("INFER_CUDA_CASES") else {
        println!("skipped: INFER_CUDA_CASES names no folder of cases");
        return;
    };
    // One engine stays open, so that the GPU is not started again for each case.
    let mut graph = model("input x 3\ny = Neg(x)\noutput y");
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let lowered = Lowered::of(&graph, Precision::Fp32, ModelInfo::default()).unwrap();
    let kept = open(lowered.plan().unwrap());
    // What fails on the processor too, and why, is known.
    let known = include_str!("../../tests/suite/expected_failures.txt");
    let is_known = |case: &Path| {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        known
            .lines()
            .filter_map(|line| line.split_once(' '))
            .any(|(case, _)| case.ends_with(&format!("/{name}")))
    };
    let mut cases = folders(Path::new(&folder));
    cases.retain(|case| !is_known(case));
    let (next, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = std::panic::catch_unwind(|| run_case(case, kept.is_some()));
                    match result.unwrap_or_else(|_| Err("a panic".to_owned())) {
                        Ok(true) => _ = passed.fetch_add(1, Ordering::Relaxed),
                        Ok(false) => {}
                        Err(what) => {
                            let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
                            failures.lock().unwrap().push(format!("{name}: {what}"));
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    println!("{} of {} cases run on the GPU and agree", passed.into_inner(), cases.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
