//! What moves elements and computes them one by one.

use infer_core::lower_cuda::Lowered;
use infer_core::options::Precision;
use infer_core::plan::ModelInfo;
use infer_core::{ErrorKind, passes};

use super::Checks;
use super::support::gpu::{open, run};
use super::support::model;

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
