//! Transposed convolutions as ordinary ones.

use infer_core::lower_cuda::Lowered;
use infer_core::options::Precision;
use infer_core::passes;
use infer_core::plan::ModelInfo;
use infer_kernels::cuda::{TILES, TILES_TF32, Tile};

use super::check_tactics;
use super::support::gpu::assert_valid;
use super::support::model;

/// Checks a graph, with some splits too, whose transposed convolutions run as ordinary ones.
fn check(text: &str) {
    let mut graph = model(text);
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let lowered = Lowered::of(&graph, Precision::Fp16, ModelInfo::default()).unwrap();
    let kernels: Vec<&str> = lowered.calls.calls.iter().map(|call| call.kernel.as_str()).collect();
    let transposed = text.matches("ConvTranspose").count();
    assert_eq!(kernels.iter().filter(|name| **name == "cuda_interleave_f16").count(), transposed, "{text}");
    assert_valid(&lowered, text);
    check_tactics(text, &[(&TILES[3], 1), (&TILES[7], 3), (&TILES_TF32[3], 2), (&Tile::F32, 3)]);
}

#[test]
fn windows_strides_and_padding() {
    for (n, c, m, input, kernel, attributes) in [
        (1, 16, 8, "9,7", "2,2", "strides=[2,2]"),
        (2, 20, 13, "6,9", "4,4", "strides=[2,2] pads=[1,1,1,1]"),
        (1, 9, 33, "7,5", "3,3", "strides=[2,2] pads=[1,1,1,1] output_padding=[1,1]"),
        (3, 24, 7, "5,4", "3,3", "pads=[0,1,2,1]"),
        (1, 8, 10, "6,5", "5,2", "strides=[3,2] pads=[2,0,1,1]"),
        // Some phases have no taps at all.
        (2, 11, 9, "4,6", "1,2", "strides=[2,3] output_padding=[1,2]"),
        // The padding takes away more than the first phases.
        (1, 8, 8, "9,8", "3,5", "strides=[2,2] pads=[4,3,1,0]"),
        (1, 8, 8, "9,8", "2,2", "strides=[2,2] pads=[3,2,2,3]"),
        (2, 12, 16, "7,6", "3,3", "strides=[2,2] auto_pad=SAME_UPPER"),
        (1, 12, 16, "7,6", "4,3", "strides=[2,3] auto_pad=SAME_LOWER"),
        (1, 16, 5, "7,6", "3,3", "strides=[2,2] output_shape=[14,11]"),
        (1, 16, 16, "5,6", "1,3", "strides=[1,2] dilations=[4,1]"),
        (2, 16, 12, "23", "4", "strides=[2] pads=[1,1]"),
        (1, 10, 6, "17", "16", "strides=[8] pads=[4,4]"),
    ] {
        check(&format!(
            "input x {n},{c},{input}
             random w {c},{m},{kernel}
             random b {m}
             y = ConvTranspose(x, w, b) {attributes}
             output y"
        ));
    }
}

#[test]
fn beside_other_operators() {
    // An activation, and the part of a concatenation that a convolution reads.
    check(
        "input x 2,24,5,7
         random w 24,16,2,2
         random v 16,12,3,3
         random u 9,28,3,3
         p = LeakyRelu(x) alpha=0.5
         a = ConvTranspose(p, w) strides=[2,2]
         b = Relu(a)
         c = ConvTranspose(b, v) pads=[1,1,1,1]
         d = Concat(b, c) axis=1
         y = Conv(d, u)
         output y
         output c",
    );
}

#[test]
fn what_has_groups_or_gaps_runs_all_the_same() {
    for attributes in ["group=2 strides=[2,2]", "dilations=[2,1] strides=[2,2]"] {
        let outputs = if attributes.starts_with("group") { 4 } else { 8 };
        super::check(&format!(
            "input x 1,16,6,5
             random w 16,{outputs},3,3
             random v 11,8,3,3
             a = ConvTranspose(x, w) {attributes}
             y = Conv(a, v)
             output y"
        ));
    }
}
