//! Models of one layer each: a class of operators at a size where it matters.

use crate::Model;
use crate::graph::{Conv, Graph};

/// The models, which are made when they are named.
pub const LAYERS: &[Model] = &[
    Model { name: "conv1x1_64_256_56", opset: 17, build: |graph| conv(graph, 64, 56, Conv::new(256, 1)) },
    Model { name: "conv1x1_256_64_56", opset: 17, build: |graph| conv(graph, 256, 56, Conv::new(64, 1)) },
    Model { name: "conv1x1_1024_256_14", opset: 17, build: |graph| conv(graph, 1024, 14, Conv::new(256, 1)) },
    Model { name: "conv3x3_64_56", opset: 17, build: |graph| conv(graph, 64, 56, Conv::new(64, 3)) },
    Model { name: "conv3x3_128_256_52", opset: 17, build: |graph| conv(graph, 128, 52, Conv::new(256, 3)) },
    Model { name: "conv3x3_256_512_26", opset: 17, build: |graph| conv(graph, 256, 26, Conv::new(512, 3)) },
    Model { name: "conv3x3_512_7", opset: 17, build: |graph| conv(graph, 512, 7, Conv::new(512, 3)) },
    Model {
        name: "conv3x3_stride2_128_56",
        opset: 17,
        build: |graph| conv(graph, 128, 56, Conv::new(128, 3).stride(2)),
    },
    Model {
        name: "conv7x7_stride2_3_224",
        opset: 17,
        build: |graph| conv(graph, 3, 224, Conv::new(64, 7).stride(2)),
    },
    Model {
        name: "depthwise3x3_32_112",
        opset: 17,
        build: |graph| conv(graph, 32, 112, Conv::depthwise(32, 3)),
    },
    Model {
        name: "depthwise3x3_576_14",
        opset: 17,
        build: |graph| conv(graph, 576, 14, Conv::depthwise(576, 3)),
    },
    Model {
        name: "depthwise3x3_stride2_96_112",
        opset: 17,
        build: |graph| conv(graph, 96, 112, Conv::depthwise(96, 3).stride(2)),
    },
    Model { name: "product_128_768_3072", opset: 17, build: |graph| product(graph, 128, 768, 3072) },
    Model { name: "product_128_3072_768", opset: 17, build: |graph| product(graph, 128, 3072, 768) },
    Model { name: "product_1_4096_4096", opset: 17, build: |graph| product(graph, 1, 4096, 4096) },
];

/// A convolution of `channels` at `size` squared, and ReLU.
fn conv(graph: &mut Graph, channels: usize, size: usize, conv: Conv) {
    let x = graph.input("input", &[1, channels, size, size]);
    let x = graph.conv(&x, conv);
    let x = graph.relu(&x);
    graph.output(&x, "output");
}

/// A product with weights, and a bias.
fn product(graph: &mut Graph, rows: usize, inputs: usize, outputs: usize) {
    let x = graph.input("input", &[1, rows, inputs]);
    let x = graph.linear(&x, outputs);
    graph.output(&x, "output");
}
