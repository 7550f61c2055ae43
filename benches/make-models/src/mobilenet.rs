//! MobileNetV2, its batch normalisations folded by the exporter.

use crate::graph::{Conv, Graph};

/// MobileNetV2 at 224×224.
pub(crate) fn mobilenet_v2(graph: &mut Graph) {
    // How much wider the middle is, channels, blocks, stride of the first.
    const STAGES: [(usize, usize, usize, usize); 7] = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    let input = graph.input("input", &[1, 3, 224, 224]);
    let stem = graph.conv(&input, Conv::new(32, 3).stride(2));
    let mut x = graph.relu6(&stem);
    for (expansion, channels, blocks, first_stride) in STAGES {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let mut y = x.clone();
            if expansion > 1 {
                let wide = graph.conv(&y, Conv::new(expansion * x.channels(), 1));
                y = graph.relu6(&wide);
            }
            let deep = graph.conv(&y, Conv::depthwise(y.channels(), 3).stride(stride));
            let deep = graph.relu6(&deep);
            let narrow = graph.conv(&deep, Conv::new(channels, 1));
            x = if block > 0 { graph.add(&x, &narrow) } else { narrow };
        }
    }
    let head = graph.conv(&x, Conv::new(1280, 1));
    let head = graph.relu6(&head);
    let pooled = graph.global_average_pool(&head);
    let flat = graph.flatten(&pooled);
    let logits = graph.gemm(&flat, 1000);
    graph.output(&logits, "logits");
}
