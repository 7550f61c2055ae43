//! Whole graphs through every pass, lowering, memory planning and the run time, against the reference kernels that
//! compute them node by node on row-major tensors.
#![cfg(feature = "compiler")]

extern crate infer_core;

use infer_core::options::Precision;
use infer_core::passes;
use infer_kernels::Isa;
use proptest::prelude::*;
use support::{assert_close, check, compiled, inputs, model, reference};

mod support;

#[test]
fn convolutions_of_all_kinds() {
    for n in [1, 2] {
        for (c, m) in [(3, 16), (8, 20), (16, 24), (20, 32), (24, 8), (32, 3)] {
            for (kernel, attributes) in [
                ("1,1", ""),
                ("1,1", "strides=[2,2]"),
                ("3,3", "pads=[1,1,1,1]"),
                ("3,3", "pads=[0,1,2,0] strides=[2,2]"),
                ("3,3", "pads=[2,2,2,2] dilations=[2,2]"),
                ("2,5", "auto_pad=SAME_UPPER strides=[1,2]"),
                ("4,1", ""),
            ] {
                check(&format!(
                    "input x {n},{c},9,7
                     random w {m},{c},{kernel}
                     random b {m}
                     y = Conv(x, w, b) {attributes}
                     output y"
                ));
            }
        }
    }
}

#[test]
fn grouped_and_depthwise_convolutions() {
    for n in [1, 2] {
        for (c, m, group) in [
            (16, 16, 16),
            (20, 20, 20),
            (3, 3, 3),
            (32, 32, 2),
            (32, 64, 2),
            (16, 16, 4),
            (32, 32, 4),
            (8, 8, 2),
            (24, 24, 3),
            (20, 40, 20),
        ] {
            for attributes in
                ["pads=[1,1,1,1]", "pads=[1,0,1,0] strides=[2,2]", "pads=[2,2,2,2] dilations=[2,2]"]
            {
                check(&format!(
                    "input x {n},{c},7,8
                     random w {m},{},3,3
                     random b {m}
                     t = Conv(x, w, b) group={group} {attributes}
                     y = Relu(t)
                     output y",
                    c / group
                ));
            }
        }
    }
}

#[test]
fn chains_keep_their_layout() {
    for n in [1, 2] {
        let text = check(&format!(
            "input x {n},3,16,15
             random w0 8,3,3,3
             random w1 20,8,3,3
             random w2 20,1,5,5
             random w3 32,20,1,1
             random w4 24,32,3,3
             a = Conv(x, w0) strides=[2,2] pads=[1,1,1,1]
             b = LeakyRelu(a) alpha=0.1
             c = Conv(b, w1) pads=[1,1,1,1]
             d = Sigmoid(c)
             e = Mul(c, d)
             f = Conv(e, w2) group=20 pads=[2,2,2,2]
             g = Conv(f, w3)
             h = MaxPool(g) kernel_shape=[2,2] strides=[2,2]
             i = Conv(h, w4) pads=[3,3,3,3] dilations=[3,3]
             j = Elu(i)
             y = Abs(j)
             output y"
        ));
        assert_eq!(text.matches("Reorder(").count(), 2, "{text}");
    }
}

#[test]
fn residuals_are_added_where_they_belong() {
    for n in [1, 2] {
        for c in [3, 8, 16, 20, 32] {
            let header = format!(
                "input x {n},{c},6,7
                 random w {c},{c},3,3
                 random v {c},{c},1,1
                 random b {c}\n"
            );
            for body in [
                "t = Conv(x, w, b) pads=[1,1,1,1]
                 y = Add(t, x)",
                "t = Conv(x, w, b) pads=[1,1,1,1]
                 s = Add(x, t)
                 y = Relu(s)",
                "t = Conv(x, w, b) pads=[1,1,1,1]
                 r = Relu(t)
                 y = Add(r, x)",
                "t = Conv(x, w) pads=[1,1,1,1]
                 s = Conv(x, v)
                 u = Add(t, s)
                 y = Conv(u, w) pads=[1,1,1,1]",
                "s = Conv(x, v, b)
                 t = Conv(s, w) pads=[1,1,1,1]
                 u = Add(t, s)
                 r = Relu(u)
                 p = Conv(r, w) pads=[1,1,1,1]
                 q = Tanh(p)
                 y = Add(q, u)",
                "t = Conv(x, w) pads=[1,1,1,1]
                 u = Add(t, t)
                 s = Conv(u, v)
                 y = Add(s, t)
                 output s",
            ] {
                check(&format!("{header}{body}\noutput y"));
            }
        }
    }
}

#[test]
fn concatenations_alias_their_parts() {
    for n in [1, 2] {
        for (c, d, e) in [(16, 32, 20), (16, 16, 16), (8, 16, 16), (3, 5, 7)] {
            check(&format!(
                "input x {n},8,5,6
                 random wc {c},8,3,3
                 random wd {d},8,1,1
                 random we {e},8,3,3
                 random w 24,{},3,3
                 random v 8,{d},3,3
                 c = Conv(x, wc) pads=[1,1,1,1]
                 d = Conv(x, wd)
                 e = Conv(x, we) pads=[1,1,1,1]
                 r = Relu(e)
                 s = Concat(c, d, r) axis=1
                 y = Conv(s, w) pads=[1,1,1,1]
                 z = Conv(d, v) pads=[2,2,2,2] dilations=[2,2]
                 k = Concat(y, s, y) axis=1
                 output z
                 output k",
                c + d + e
            ));
        }
        check(&format!(
            "input x {n},4,3,3
             input z {n},2,3,3
             a = Relu(x)
             b = Neg(x)
             c = Concat(a, z, b, a) axis=1
             d = Concat(c, x) axis=1
             e = Concat(a, b) axis=3
             output c
             output d
             output e
             output a"
        ));
    }
}

#[test]
fn splits_alias_their_whole() {
    for n in [1, 2] {
        for (c, split) in [(48, "16,16,16"), (52, "32,16,4"), (24, "8,8,8"), (9, "2,3,4")] {
            let parts: Vec<usize> = split.split(',').map(|part| part.parse().unwrap()).collect();
            check(&format!(
                "input x {n},3,6,5
                 random w {c},3,3,3
                 random v 16,{},3,3
                 random u 16,{},1,1
                 ints split {split}
                 t = Conv(x, w) pads=[1,1,1,1]
                 p, q, r = Split(t, split) axis=1
                 a = Conv(p, v) pads=[1,1,1,1]
                 b = Conv(r, u)
                 s = Add(a, b)
                 z = Concat(r, q, p, s) axis=1
                 output s
                 output z
                 output q",
                parts[0], parts[2]
            ));
        }
        check(&format!(
            "input x {n},6,4
             p, q, r = Split(x) axis=1
             s = Add(p, r)
             output s
             output q"
        ));
    }
}

#[test]
fn pools_and_resizes_stay_blocked() {
    for n in [1, 2] {
        for c in [3, 16, 20] {
            for op in [
                "MaxPool(t) kernel_shape=[3,3] pads=[1,1,1,1] strides=[2,2]",
                "MaxPool(t) kernel_shape=[2,2] strides=[2,2] ceil_mode=1",
                "MaxPool(t) kernel_shape=[5,5] pads=[2,2,2,2]",
                "AveragePool(t) kernel_shape=[3,3] pads=[1,1,1,1]",
                "AveragePool(t) kernel_shape=[3,2] pads=[1,0,1,1] strides=[2,2] count_include_pad=1",
                "GlobalAveragePool(t)",
                "GlobalMaxPool(t)",
                "ReduceMean(t) axes=[2,3] keepdims=1",
                "ReduceMean(t) axes=[2,3] keepdims=0",
                "Resize(t, , scales) mode=nearest coordinate_transformation_mode=asymmetric nearest_mode=floor",
                "Resize(t, , scales) mode=linear",
                "Resize(t, , scales) mode=cubic",
                "Upsample(t, scales)",
                "Transpose(t) perm=[0,2,3,1]",
                "Flatten(t)",
                "Softmax(t) axis=1",
                "InstanceNormalization(t, scale, bias)",
                "BatchNormalization(t, scale, bias, mean, scale)",
                "DepthToSpace(p) blocksize=2",
                "LRN(t) size=3",
            ] {
                check(&format!(
                    "opset {}
                     input x {n},4,7,8
                     random w {c},4,3,3
                     random v {},4,3,3
                     positive scale {c}
                     random bias {c}
                     random mean {c}
                     floats scales 4 1,1,2,2
                     t = Conv(x, w) pads=[1,1,1,1]
                     p = Conv(x, v) pads=[1,1,1,1]
                     y = {op}
                     output y",
                    if op.starts_with("Upsample") { 9 } else { 17 },
                    4 * c
                ));
            }
        }
    }
}

#[test]
fn squeeze_and_excite_scales_by_channel() {
    for n in [1, 2] {
        for c in [8, 16, 20, 32] {
            for pool in ["GlobalAveragePool(t)", "ReduceMean(t) axes=[2,3] keepdims=1"] {
                check(&format!(
                    "input x {n},8,6,6
                     random w {c},8,3,3
                     random d 4,{c},1,1
                     random e 4
                     random u {c},4,1,1
                     random v 8,{c},3,3
                     t = Conv(x, w) pads=[1,1,1,1]
                     p = {pool}
                     q = Conv(p, d, e)
                     r = Relu(q)
                     s = Conv(r, u)
                     g = HardSigmoid(s)
                     m = Mul(g, t)
                     y = Conv(m, v) pads=[1,1,1,1]
                     output y"
                ));
            }
            check(&format!(
                "input x {n},8,6,6
                 random w {c},8,3,3
                 random d {c},5
                 random u 5,{c}
                 ints flat -1,{c}
                 ints back -1,{c},1,1
                 t = Conv(x, w) pads=[1,1,1,1]
                 p = GlobalAveragePool(t)
                 f = Reshape(p, flat)
                 q = MatMul(f, d)
                 r = Relu(q)
                 s = MatMul(r, u)
                 g = Sigmoid(s)
                 h = Reshape(g, back)
                 y = Mul(t, h)
                 output y
                 output p"
            ));
        }
    }
}

#[test]
fn elementwise_nodes_broadcast_over_blocks() {
    for n in [1, 2] {
        for c in [1, 5, 16, 20] {
            check(&format!(
                "input x {n},4,5,6
                 input z {n},1,5,6
                 input r 6
                 input k {n},{c},1,1
                 random w {c},4,3,3
                 random a {c},1,1
                 positive slope {c},1,1
                 random row 5,1
                 floats half [] 0.5
                 t = Conv(x, w) pads=[1,1,1,1]
                 u = PRelu(t, slope)
                 b = Mul(u, a)
                 d = Sub(half, b)
                 e = Add(d, z)
                 f = Max(e, k, u)
                 g = Add(f, r)
                 h = Mul(g, row)
                 i = Clip(u, , half)
                 y = Div(h, slope)
                 output y
                 output i
                 output f"
            ));
        }
    }
}

#[test]
fn transposed_convolutions_run_by_phases() {
    for n in [1, 2] {
        for (c, m) in [(3, 16), (16, 8), (20, 20)] {
            for (kernel, attributes) in [
                ("2,2", "strides=[2,2]"),
                ("4,4", "strides=[2,2] pads=[1,1,1,1]"),
                ("3,3", "strides=[2,2] pads=[1,1,1,1] output_padding=[1,1]"),
                ("3,3", "strides=[1,1] pads=[1,1,1,1]"),
                ("5,3", "strides=[3,2] pads=[0,1,1,0]"),
                ("3,3", "strides=[2,2] auto_pad=SAME_UPPER"),
                ("1,2", "strides=[2,2]"),
                ("3,3", "dilations=[2,2]"),
            ] {
                check(&format!(
                    "input x {n},{c},4,5
                     random w {c},{m},{kernel}
                     random b {m}
                     random v 8,{m},3,3
                     t = ConvTranspose(x, w, b) {attributes}
                     r = Relu(t)
                     y = Conv(r, v) pads=[1,1,1,1]
                     output y
                     output t"
                ));
            }
        }
        check(&format!(
            "input x {n},4,4,5
             random w 4,3,3,3
             y = ConvTranspose(x, w) group=2 strides=[2,2]
             output y"
        ));
    }
}

#[test]
fn rows_and_volumes() {
    for n in [1, 2] {
        for c in [3, 16, 20] {
            check(&format!(
                "input x {n},{c},11
                 random w 20,{c},3
                 random u 20,1,5
                 random b 20,1
                 random v 16,20,1
                 a = Conv(x, w) pads=[1,1]
                 d = Add(a, b)
                 r = Relu(d)
                 e = Conv(r, u) group=20 pads=[2,2] strides=[2]
                 m = MaxPool(e) kernel_shape=[2]
                 f = Conv(m, v)
                 p = GlobalAveragePool(f)
                 output f
                 output p"
            ));
            check(&format!(
                "input x {n},{c},4,5,3
                 random w 4,{c},2,3,3
                 y = Conv(x, w) pads=[0,1,1,0,1,1]
                 z = Relu(y)
                 output z"
            ));
        }
    }
}

#[test]
fn products_of_matrices() {
    for (a, b) in [
        ("4,5", "5,6"),
        ("33,40", "40,70"),
        ("1,17", "17,100"),
        ("5", "5,6"),
        ("4,5", "5"),
        ("5", "5"),
        ("2,4,5", "5,6"),
        ("2,4,5", "2,5,6"),
        ("2,1,4,5", "3,5,6"),
        ("4,5", "3,5,6"),
        ("3,5", "2,3,5,6"),
        ("2,3,4,5", "5"),
        ("5", "2,5,6"),
        ("2,20,33", "2,33,70"),
        ("3,16,16", "1,16,16"),
    ] {
        for right in ["input", "random"] {
            let text = check(&format!(
                "input a {a}
                 {right} b {b}
                 y = MatMul(a, b)
                 output y"
            ));
            assert!(text.contains("MatMul"), "{text}");
            check(&format!(
                "random a {a}
                 input b {b}
                 y = MatMul(a, b)
                 output y"
            ));
        }
    }
}

#[test]
fn gemms_with_every_attribute() {
    for (m, k, n) in [(4, 5, 6), (20, 33, 70), (1, 40, 10), (7, 7, 7)] {
        for (trans_a, trans_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for c in [
                format!("{n}"),
                format!("{m},{n}"),
                format!("{m},1"),
                "1,1".into(),
                "[]".into(),
                format!("1,{n}"),
            ] {
                for (alpha, beta, right, addend) in [
                    ("1.0", "1.0", "random", "random"),
                    ("1.0", "1.0", "input", "input"),
                    ("0.5", "2.0", "random", "input"),
                    ("0.5", "2.0", "input", "random"),
                    ("2.0", "0.0", "random", "random"),
                ] {
                    let a = if trans_a == 1 { format!("{k},{m}") } else { format!("{m},{k}") };
                    let b = if trans_b == 1 { format!("{n},{k}") } else { format!("{k},{n}") };
                    check(&format!(
                        "input a {a}
                         {right} b {b}
                         {addend} c {c}
                         input r {m},{n}
                         t = Gemm(a, b, c) transA={trans_a} transB={trans_b} alpha={alpha} beta={beta}
                         s = Add(t, r)
                         y = Relu(s)
                         output y"
                    ));
                }
            }
        }
    }
}

#[test]
fn products_take_biases_activations_and_residuals() {
    for (shape, columns) in [("3,4", 4), ("2,3,20", 20), ("4", 4), ("5,1", 1)] {
        check(&format!(
            "input x {shape}
             random w {columns},{columns}
             random b {columns}
             t = MatMul(x, w)
             s = Add(b, t)
             r = Relu(s)
             y = Add(r, x)
             output y"
        ));
        check(&format!(
            "input x {shape}
             random w {columns},{columns}
             random b {columns}
             t = MatMul(x, w)
             s = Add(t, x)
             r = Add(s, b)
             y = Relu(r)
             output y"
        ));
    }
    // A product with a vector has one column, whatever the extent of its last axis.
    check(
        "input x 4,4
         input r 4
         random w 4
         random b 4
         t = MatMul(x, w)
         s = Add(t, b)
         u = Add(s, r)
         y = Relu(u)
         output y",
    );
}

#[test]
fn outputs_are_views_inputs_constants_and_twice_the_same() {
    check(
        "input x 2,3,4
         ints flat 6,4
         ints other 3,8
         random c 5
         a = Reshape(x, flat)
         r = Relu(x)
         s = Reshape(r, other)
         i = Identity(x)
         j = Identity(r)
         k = Identity(c)
         output a
         output s
         output r
         output i
         output j
         output k",
    );
    check(
        "input x 1,4,3,3
         random w 16,4,3,3
         t = Conv(x, w)
         f = Flatten(t)
         g = Flatten(t) axis=3
         r = Relu(t)
         q = Relu(t)
         output t
         output f
         output g
         output r
         output q",
    );
    check(
        "input x 1,3,4,4
         input y 1,3,4,4
         output x
         output y",
    );
}

#[test]
fn attention_runs() {
    for n in [1, 2] {
        check(&format!(
            "input x {n},6,16
             random wq 16,16
             random wk 16,16
             random wv 16,16
             random wo 16,16
             random bq 16
             positive gain 16
             random shift 16
             ints heads 0,6,2,8
             ints flat 0,6,16
             floats scale [] 0.35355339
             m = LayerNormalization(x, gain, shift)
             q = MatMul(m, wq)
             qb = Add(q, bq)
             k = MatMul(m, wk)
             v = MatMul(m, wv)
             qr = Reshape(qb, heads)
             kr = Reshape(k, heads)
             vr = Reshape(v, heads)
             qt = Transpose(qr) perm=[0,2,1,3]
             kt = Transpose(kr) perm=[0,2,3,1]
             vt = Transpose(vr) perm=[0,2,1,3]
             s = MatMul(qt, kt)
             c = Mul(s, scale)
             p = Softmax(c) axis=-1
             o = MatMul(p, vt)
             t = Transpose(o) perm=[0,2,1,3]
             f = Reshape(t, flat)
             z = MatMul(f, wo)
             y = Add(z, x)
             output y"
        ));
    }
}

#[test]
fn half_weights_are_rounded_once() {
    let mut graph = model(
        "input x 1,8,6,6
         random w 20,8,3,3
         random u 20,1,3,3
         random m 16,12
         t = Conv(x, w) pads=[1,1,1,1]
         d = Conv(t, u) group=20
         f = Transpose(d) perm=[0,2,3,1]
         ints shape 20,16
         r = Reshape(f, shape)
         y = MatMul(r, m)
         output y",
    );
    let inputs = inputs(&graph);
    let expected = reference(&graph, &inputs);
    passes::run(&mut graph, |_, _| {}).unwrap();
    let halves = compiled(&graph, &inputs, Precision::Fp16);
    // Three layers, each with weights off by at most 2⁻¹¹ of their value.
    assert_close(&halves, &expected, 3.0 / 2048.0, "halves");
    let singles = compiled(&graph, &inputs, Precision::Fp32);
    assert!(singles[0] != halves[0], "the weights are not stored as halves");
}

/// Every other test of this file once more on each instruction set that the processor has, in processes of their own:
/// a process chooses its instruction set once.
#[test]
fn every_instruction_set() {
    let selected = Isa::selected().unwrap();
    for isa in Isa::ALL.iter().filter(|isa| isa.is_available() && **isa != selected) {
        if std::env::var_os("INFER_ISA").is_some() {
            return;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--skip", "every_instruction_set"])
            .env("INFER_ISA", isa.name())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}:\n{}", isa.name(), String::from_utf8_lossy(&output.stdout));
    }
}

/// Chains of nodes over pictures, each node reading values that came before it.
fn graph_text(n: usize, channels: usize, steps: &[(u8, u8, u8)]) -> String {
    use std::fmt::Write;
    let mut text = format!("input v0 {n},{channels},6,6\n");
    // Every value is [n, channels, 6, 6] for a number of channels of its own, so that any two of as many can meet.
    let mut widths = vec![channels];
    for (step, &(op, pick, other)) in steps.iter().enumerate() {
        let at = |pick: u8, widths: &[usize]| widths.len() - 1 - usize::from(pick) % widths.len().min(4);
        let (a, b) = (at(pick, &widths), at(other, &widths));
        let (c, to) = (widths[a], [3, 8, 16, 20, 32][usize::from(other) % 5]);
        let y = format!("v{}", step + 1);
        let width = match op % 14 {
            0 | 1 => {
                let _ =
                    writeln!(text, "random w{step} {to},{c},3,3\n{y} = Conv(v{a}, w{step}) pads=[1,1,1,1]");
                to
            }
            2 => {
                let _ = writeln!(text, "random w{step} {to},{c},1,1\nrandom b{step} {to}");
                let _ = writeln!(text, "{y} = Conv(v{a}, w{step}, b{step})");
                to
            }
            3 if c > 1 => {
                let _ = writeln!(text, "random w{step} {c},1,5,5");
                let _ = writeln!(text, "{y} = Conv(v{a}, w{step}) group={c} pads=[2,2,2,2]");
                c
            }
            4 if widths[b] == c => {
                let _ = writeln!(text, "{y} = Add(v{a}, v{b})");
                c
            }
            5 if c + widths[b] <= 64 => {
                let _ = writeln!(text, "{y} = Concat(v{a}, v{b}) axis=1");
                c + widths[b]
            }
            6 if c % 2 == 0 => {
                let _ = writeln!(text, "{y}, u{step} = Split(v{a}) axis=1");
                c / 2
            }
            7 => {
                let _ = writeln!(text, "g{step} = GlobalAveragePool(v{a})\nh{step} = Sigmoid(g{step})");
                let _ = writeln!(text, "{y} = Mul(v{a}, h{step})");
                c
            }
            8 => {
                let _ = writeln!(text, "{y} = MaxPool(v{a}) kernel_shape=[3,3] pads=[1,1,1,1]");
                c
            }
            9 => {
                let _ = writeln!(text, "positive f{step} {c},1,1\n{y} = Mul(v{a}, f{step})");
                c
            }
            10 => {
                let _ = writeln!(text, "t{step} = Transpose(v{a}) perm=[0,1,3,2]\n{y} = Tanh(t{step})");
                c
            }
            11 => {
                let _ = writeln!(text, "s{step} = Sigmoid(v{a})\n{y} = Mul(s{step}, v{a})");
                c
            }
            12 => {
                let _ = writeln!(text, "positive s{step} {c}\nrandom b{step} {c}");
                let _ = writeln!(text, "{y} = BatchNormalization(v{a}, s{step}, b{step}, b{step}, s{step})");
                c
            }
            _ => {
                let _ = writeln!(text, "{y} = Relu(v{a})");
                c
            }
        };
        widths.push(width);
    }
    for (index, _) in
        widths.iter().enumerate().skip(1).filter(|(index, _)| *index == steps.len() || index % 5 == 0)
    {
        let _ = writeln!(text, "output v{index}");
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chains_of_any_nodes(
        n in 1usize..3,
        channels in prop::sample::select(vec![3usize, 8, 16, 20, 32]),
        steps in prop::collection::vec(any::<(u8, u8, u8)>(), 1..12),
    ) {
        check(&graph_text(n, channels, &steps));
    }
}
