//! ResNet-50, its batch normalisations folded by the exporter.

use crate::graph::{Conv, Graph, Value};

/// ResNet-50 at 224×224.
pub(crate) fn resnet50(graph: &mut Graph) {
    let input = graph.input("input", &[1, 3, 224, 224]);
    let stem = graph.conv(&input, Conv::new(64, 7).stride(2));
    let stem = graph.relu(&stem);
    let mut x = graph.max_pool(&stem, 3, 2, 1);
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        for block in 0..blocks {
            x = bottleneck(graph, &x, 64 << stage, block == 0, if block == 0 && stage > 0 { 2 } else { 1 });
        }
    }
    let pooled = graph.global_average_pool(&x);
    let flat = graph.flatten(&pooled);
    let logits = graph.gemm(&flat, 1000);
    graph.output(&logits, "logits");
}

fn bottleneck(graph: &mut Graph, x: &Value, width: usize, is_first: bool, stride: usize) -> Value {
    let a = graph.conv(x, Conv::new(width, 1));
    let a = graph.relu(&a);
    let b = graph.conv(&a, Conv::new(width, 3).stride(stride));
    let b = graph.relu(&b);
    let c = graph.conv(&b, Conv::new(4 * width, 1));
    let shortcut = if is_first { graph.conv(x, Conv::new(4 * width, 1).stride(stride)) } else { x.clone() };
    let sum = graph.add(&c, &shortcut);
    graph.relu(&sum)
}
