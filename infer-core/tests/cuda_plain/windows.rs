//! What walks over pictures.

use super::Checks;

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
        // Weights that the run computes.
        checks.by(
            "conv_transpose_nd",
            &format!(
                "input x {shape}
                 input w {channels},5,{kernel}
                 random b 5
                 y = ConvTranspose(x, w, b) {attributes}
                 z = Relu(y)
                 output z"
            ),
        );
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
         random v 24,6,2,2
         random u 19,12,3,3
         a = Conv(x, w) pads=[1,1,1,1]
         b = ConvTranspose(a, v) group=2 strides=[2,2]
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
