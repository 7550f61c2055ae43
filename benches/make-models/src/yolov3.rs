//! YOLOv3, its batch normalisations folded by the exporter.

use crate::graph::{Conv, Graph, Value};

/// YOLOv3 for 80 classes at 416×416.
pub(crate) fn yolov3_416(graph: &mut Graph) {
    let input = graph.input("input", &[1, 3, 416, 416]);
    let mut x = layer(graph, &input, Conv::new(32, 3));
    let mut stages = Vec::new();
    for (stage, blocks) in [1, 2, 8, 8, 4].into_iter().enumerate() {
        let channels = 64 << stage;
        x = layer(graph, &x, Conv::new(channels, 3).stride(2));
        for _ in 0..blocks {
            let narrow = layer(graph, &x, Conv::new(channels / 2, 1));
            let wide = layer(graph, &narrow, Conv::new(channels, 3));
            x = graph.add(&x, &wide);
        }
        stages.push(x.clone());
    }
    let mut heads = Vec::new();
    for (channels, skip) in [(512, None), (256, Some(&stages[3])), (128, Some(&stages[2]))] {
        if let Some(skip) = skip {
            let narrow = layer(graph, &x, Conv::new(channels, 1));
            let up = graph.upsample(&narrow);
            x = graph.concat(&[&up, skip], 1);
        }
        for _ in 0..2 {
            let narrow = layer(graph, &x, Conv::new(channels, 1));
            x = layer(graph, &narrow, Conv::new(2 * channels, 3));
        }
        x = layer(graph, &x, Conv::new(channels, 1));
        heads.push(x.clone());
    }
    for (head, name) in heads.iter().zip(["head5", "head4", "head3"]) {
        let wide = layer(graph, head, Conv::new(2 * head.channels(), 3));
        let boxes = graph.conv(&wide, Conv::new(255, 1));
        graph.output(&boxes, name);
    }
}

fn layer(graph: &mut Graph, x: &Value, conv: Conv) -> Value {
    let x = graph.conv(x, conv);
    graph.leaky_relu(&x, 0.1)
}
