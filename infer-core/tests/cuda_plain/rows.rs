//! What computes along axes.

use super::Checks;

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
