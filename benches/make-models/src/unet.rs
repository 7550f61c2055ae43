//! A U-Net with group and instance normalisation and three kinds of transposed convolution.

use crate::graph::{Conv, Graph, Value};

/// A U-Net at 256×256.
pub(crate) fn unet(graph: &mut Graph) {
    let mut x = graph.input("input", &[1, 3, 256, 256]);
    let mut skips = Vec::new();
    for channels in [32, 64, 128] {
        let level = block(graph, &x, channels);
        x = graph.max_pool(&level, 2, 2, 0);
        skips.push(level);
    }
    x = block(graph, &x, 256);
    for ((channels, kernel), skip) in [(128, 2), (64, 4), (32, 3)].into_iter().zip(skips.iter().rev()) {
        let up = graph.conv_transpose(&x, channels, kernel);
        let joined = graph.concat(&[&up, skip], 1);
        x = block(graph, &joined, channels);
    }
    let mask = graph.conv(&x, Conv::new(2, 1));
    let mask = graph.sigmoid(&mask);
    graph.output(&mask, "mask");
}

/// Two convolutions, the first with group normalisation and SiLU, the second with instance normalisation and PReLU.
fn block(graph: &mut Graph, x: &Value, channels: usize) -> Value {
    let first = graph.conv(x, Conv::new(channels, 3));
    let first = group_normalization(graph, &first);
    let first = graph.silu(&first);
    let second = graph.conv(&first, Conv::new(channels, 3));
    let scale = graph.uniform(&[channels], 0.8, 1.2);
    let bias = graph.bias(&[channels]);
    let second = graph.instance_normalization(&second, &scale, &bias);
    graph.prelu(&second)
}

/// GroupNormalization of 8 groups, as exporters write it before opset 18.
fn group_normalization(graph: &mut Graph, x: &Value) -> Value {
    let groups = graph.reshape(x, &[1, 8, -1]);
    let (ones, zeros) = (graph.floats(&[8], [1.0; 8]), graph.floats(&[8], [0.0; 8]));
    let normal = graph.instance_normalization(&groups, &ones, &zeros);
    let shape = graph.node("Shape", &[&x.name], vec![]);
    let extents: Vec<i64> = x.shape.iter().map(|&extent| extent as i64).collect();
    let back = graph.reshape_by(&normal, &shape, &extents);
    let scale = graph.uniform(&[x.channels(), 1, 1], 0.8, 1.2);
    let bias = graph.bias(&[x.channels(), 1, 1]);
    let scaled = graph.mul_constant(&back, &scale);
    graph.add_constant(&scaled, &bias)
}
