//! A face detector of the form of Ultra-Light-Fast-Generic-Face-Detector's RFB-320: batch normalisations that the
//! exporter left, shapes that the graph computes, boxes decoded in the graph.

use crate::graph::{Conv, Graph, Value, attribute_int, attribute_ints};

const HEIGHT: usize = 240;
const WIDTH: usize = 320;

/// The detector at 320×240.
pub(crate) fn rfb_320(graph: &mut Graph) {
    let input = graph.input("input", &[1, 3, HEIGHT, WIDTH]);
    let mut x = normalized(graph, &input, Conv::new(16, 3).stride(2));
    // Channels of the output, stride.
    for (channels, stride) in [(32, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 1)] {
        x = separable(graph, &x, channels, stride);
    }
    x = receptive_field(graph, &x);
    let mut scores = Vec::new();
    let mut boxes = Vec::new();
    detect(graph, &x, 3, true, &mut scores, &mut boxes);
    for (channels, stride) in [(128, 2), (128, 1), (128, 1)] {
        x = separable(graph, &x, channels, stride);
    }
    detect(graph, &x, 2, true, &mut scores, &mut boxes);
    for (channels, stride) in [(256, 2), (256, 1)] {
        x = separable(graph, &x, channels, stride);
    }
    detect(graph, &x, 2, true, &mut scores, &mut boxes);
    let narrow = graph.conv(&x, Conv::new(64, 1));
    let narrow = graph.relu(&narrow);
    let deep = graph.conv(&narrow, Conv::depthwise(64, 3).stride(2));
    let deep = graph.relu(&deep);
    let wide = graph.conv(&deep, Conv::new(256, 1));
    x = graph.relu(&wide);
    detect(graph, &x, 3, false, &mut scores, &mut boxes);

    let scores = graph.concat(&scores.iter().collect::<Vec<_>>(), 1);
    let boxes = graph.concat(&boxes.iter().collect::<Vec<_>>(), 1);
    let scores = graph.softmax(&scores);
    graph.output(&scores, "scores");
    let corners = decode(graph, &boxes);
    graph.output(&corners, "boxes");
}

fn normalized(graph: &mut Graph, x: &Value, conv: Conv) -> Value {
    let x = graph.conv(x, conv.without_bias());
    let x = graph.batch_normalization(&x);
    graph.relu(&x)
}

fn separable(graph: &mut Graph, x: &Value, channels: usize, stride: usize) -> Value {
    let deep = normalized(graph, x, Conv::depthwise(x.channels(), 3).stride(stride));
    normalized(graph, &deep, Conv::new(channels, 1))
}

/// Three branches of growing dilation, joined and added to the input.
fn receptive_field(graph: &mut Graph, x: &Value) -> Value {
    let plain = |graph: &mut Graph, x: &Value, conv: Conv| {
        let x = graph.conv(x, conv.without_bias());
        graph.batch_normalization(&x)
    };
    let mut branches = Vec::new();
    for (middle, dilation) in [(&[16][..], 2), (&[16], 3), (&[12, 16], 5)] {
        let mut y = plain(graph, x, Conv::new(8, 1));
        for &channels in middle {
            y = normalized(graph, &y, Conv::new(channels, 3));
        }
        branches.push(plain(graph, &y, Conv::new(16, 3).dilation(dilation)));
    }
    let joined = graph.concat(&branches.iter().collect::<Vec<_>>(), 1);
    let joined = plain(graph, &joined, Conv::new(64, 1));
    let shortcut = plain(graph, x, Conv::new(64, 1));
    let sum = graph.add(&joined, &shortcut);
    graph.relu(&sum)
}

/// Scores and boxes of `anchors` at each place.
fn detect(
    graph: &mut Graph,
    x: &Value,
    anchors: usize,
    is_separable: bool,
    scores: &mut Vec<Value>,
    boxes: &mut Vec<Value>,
) {
    for (size, found) in [(2, scores), (4, boxes)] {
        let head = if is_separable {
            let deep = graph.conv(x, Conv::depthwise(x.channels(), 3));
            let deep = graph.relu(&deep);
            graph.conv(&deep, Conv::new(size * anchors, 1))
        } else {
            graph.conv(x, Conv::new(size * anchors, 3))
        };
        let head = graph.transpose(&head, &[0, 2, 3, 1]);
        found.push(in_rows(graph, &head, size));
    }
}

/// Reshape to [batch, -1, size], the batch read from the value as exporters of the time wrote it.
fn in_rows(graph: &mut Graph, x: &Value, size: usize) -> Value {
    let first = graph.constant(&[], &[0]);
    let shape = graph.node("Shape", &[&x.name], vec![]);
    let batch = graph.node("Gather", &[&shape, &first], vec![attribute_int("axis", 0)]);
    let parts = [batch, graph.constant(&[], &[-1]), graph.constant(&[], &[size as i64])];
    let parts = parts.map(|part| graph.node("Unsqueeze", &[&part], vec![attribute_ints("axes", [0])]));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let shape = graph.node("Concat", &parts, vec![attribute_int("axis", 0)]);
    graph.reshape_by(x, &shape, &[1, -1, size as i64])
}

/// The anchors: centre, then size, as shares of the picture.
fn anchors() -> (Vec<f64>, Vec<f64>) {
    const MAPS: [(usize, &[f64]); 4] =
        [(8, &[10.0, 16.0, 24.0]), (16, &[32.0, 48.0]), (32, &[64.0, 96.0]), (64, &[128.0, 192.0, 256.0])];
    let (mut centres, mut sizes) = (Vec::new(), Vec::new());
    for (stride, lengths) in MAPS {
        let (columns, rows) = (WIDTH.div_ceil(stride), HEIGHT.div_ceil(stride));
        for place in 0..rows * columns {
            for length in lengths {
                centres.push((((place % columns) as f64 + 0.5) / columns as f64).min(1.0));
                centres.push((((place / columns) as f64 + 0.5) / rows as f64).min(1.0));
                sizes.push((length / WIDTH as f64).min(1.0));
                sizes.push((length / HEIGHT as f64).min(1.0));
            }
        }
    }
    (centres, sizes)
}

/// Corners of boxes from what the heads say of their anchors.
fn decode(graph: &mut Graph, boxes: &Value) -> Value {
    let rows = boxes.shape[1];
    let half = |graph: &mut Graph, x: &Value, index: i64| {
        let attributes = vec![
            attribute_ints("axes", [2]),
            attribute_ints("ends", [2 * (index as usize + 1)]),
            attribute_ints("starts", [2 * index as usize]),
        ];
        let name = graph.node("Slice", &[&x.name], attributes);
        Value::new(name, &[1, rows, 2], 1.0)
    };
    let (centres, sizes) = anchors();
    let centres = graph.floats(&[1, rows, 2], centres);
    let sizes = graph.floats(&[1, rows, 2], sizes);
    let offset = half(graph, boxes, 0);
    let offset = graph.scale(&offset, 0.1);
    let offset = graph.mul_constant(&offset, &sizes);
    let centre = graph.add_constant(&offset, &centres);
    let growth = half(graph, boxes, 1);
    let growth = graph.scale(&growth, 0.2);
    let growth = graph.node("Exp", &[&growth.name], vec![]);
    let size = graph.mul_constant(&Value::new(growth, &[1, rows, 2], 1.0), &sizes);
    let joined = graph.concat(&[&centre, &size], 2);
    let corner = |graph: &mut Graph, op: &str| {
        let centre = half(graph, &joined, 0);
        let size = half(graph, &joined, 1);
        let two = graph.scalar(2.0);
        let extent = graph.node("Div", &[&size.name, &two], vec![]);
        Value::new(graph.node(op, &[&centre.name, &extent], vec![]), &[1, rows, 2], 1.0)
    };
    let (low, high) = (corner(graph, "Sub"), corner(graph, "Add"));
    graph.concat(&[&low, &high], 2)
}
