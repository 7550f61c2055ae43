//! EfficientNet-B0, its batch normalisations folded by the exporter.

use crate::graph::{Conv, Graph, Value};

/// EfficientNet-B0 at 224×224.
pub(crate) fn efficientnet_b0(graph: &mut Graph) {
    // How much wider the middle is, kernel, channels, blocks, stride of the first.
    const STAGES: [(usize, usize, usize, usize, usize); 7] = [
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    ];
    let input = graph.input("input", &[1, 3, 224, 224]);
    let stem = graph.conv(&input, Conv::new(32, 3).stride(2));
    let mut x = graph.silu(&stem);
    for (expansion, kernel, channels, blocks, first_stride) in STAGES {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let mut y = x.clone();
            if expansion > 1 {
                let wide = graph.conv(&y, Conv::new(expansion * x.channels(), 1));
                y = graph.silu(&wide);
            }
            let deep = graph.conv(&y, Conv::depthwise(y.channels(), kernel).stride(stride));
            let deep = graph.silu(&deep);
            let gated = squeeze_and_excite(graph, &deep, x.channels() / 4);
            let narrow = graph.conv(&gated, Conv::new(channels, 1));
            x = if block > 0 { graph.add(&narrow, &x) } else { narrow };
        }
    }
    let head = graph.conv(&x, Conv::new(1280, 1));
    let head = graph.silu(&head);
    let pooled = graph.global_average_pool(&head);
    let flat = graph.flatten(&pooled);
    let logits = graph.gemm(&flat, 1000);
    graph.output(&logits, "logits");
}

fn squeeze_and_excite(graph: &mut Graph, x: &Value, channels: usize) -> Value {
    let pooled = graph.global_average_pool(x);
    let squeezed = graph.conv(&pooled, Conv::new(channels, 1));
    let squeezed = graph.silu(&squeezed);
    let excited = graph.conv(&squeezed, Conv::new(x.channels(), 1));
    let gate = graph.sigmoid(&excited);
    graph.gate(&gate, x)
}
