//! ViT-B/16, as the newer exporter writes it at opset 20.

use crate::graph::{Conv, Graph, Value, attribute_int};

const WIDTH: usize = 768;
const HEADS: usize = 12;
const PATCHES: usize = 196;
const TOKENS: usize = PATCHES + 1;
const EPSILON: f64 = 1e-6;

/// ViT-B/16 at 224×224.
pub(crate) fn vit_b_16(graph: &mut Graph) {
    let input = graph.input("input", &[1, 3, 224, 224]);
    let patches = graph.conv(&input, Conv::new(WIDTH, 16).stride(16).padding(0));
    let patches = graph.reshape(&patches, &[1, WIDTH as i64, PATCHES as i64]);
    let patches = graph.transpose(&patches, &[0, 2, 1]);
    let class = graph.bias(&[1, 1, WIDTH]);
    let class = Value::new(class, &[1, 1, WIDTH], 0.01);
    let tokens = graph.concat(&[&class, &patches], 1);
    let places = graph.bias(&[1, TOKENS, WIDTH]);
    let mut x = graph.add_constant(&tokens, &places);
    for _ in 0..12 {
        let normal = graph.layer_normalization(&x, EPSILON);
        let attended = attention(graph, &normal);
        x = graph.add(&attended, &x);
        let normal = graph.layer_normalization(&x, EPSILON);
        let wide = graph.linear(&normal, 4 * WIDTH);
        let wide = graph.gelu(&wide);
        let narrow = graph.linear(&wide, WIDTH);
        x = graph.add(&x, &narrow);
    }
    let x = graph.layer_normalization(&x, EPSILON);
    let zero = graph.integers(&[], &[0]);
    let class = graph.node("Gather", &[&x.name, &zero], vec![attribute_int("axis", 1)]);
    let logits = graph.gemm(&Value::new(class, &[1, WIDTH], 1.0), 1000);
    graph.output(&logits, "logits");
}

/// Attention of PyTorch's multi-head module, which has the tokens outermost.
fn attention(graph: &mut Graph, x: &Value) -> Value {
    let (tokens, heads, size) = (TOKENS as i64, HEADS as i64, (WIDTH / HEADS) as i64);
    let x = graph.transpose(x, &[1, 0, 2]);
    let joined = graph.linear(&x, 3 * WIDTH);
    let joined = graph.reshape(&joined, &[tokens, 1, 3, WIDTH as i64]);
    let axes = graph.integers(&[1], &[0]);
    let joined = graph.node("Unsqueeze", &[&joined.name, &axes], vec![]);
    let joined = Value::new(joined, &[1, TOKENS, 1, 3, WIDTH], 1.0);
    let joined = graph.transpose(&joined, &[3, 1, 2, 0, 4]);
    let axes = graph.integers(&[1], &[-2]);
    let joined = graph.node("Squeeze", &[&joined.name, &axes], vec![]);
    let part = |graph: &mut Graph, index: i64| {
        let index = graph.integers(&[], &[index]);
        let part = graph.node("Gather", &[&joined, &index], vec![attribute_int("axis", 0)]);
        let part = graph.reshape(&Value::new(part, &[TOKENS, 1, WIDTH], 1.0), &[tokens, heads, size]);
        graph.transpose(&part, &[1, 0, 2])
    };
    let (query, key, value) = (part(graph, 0), part(graph, 1), part(graph, 2));
    let query = graph.reshape(&query, &[1, heads, tokens, size]);
    let value = graph.reshape(&value, &[1, heads, tokens, size]);
    let key = graph.transpose(&key, &[0, 2, 1]);
    let key = graph.reshape(&key, &[1, heads, size, tokens]);
    // The root of 1/√size on either side.
    let factor = 1.0 / (size as f64).sqrt().sqrt();
    let query = graph.scale(&query, factor);
    let key = graph.scale(&key, factor);
    let scores = graph.matmul(&query, &key);
    let weights = graph.softmax(&scores);
    let mixed = graph.matmul(&weights, &value);
    let mixed = graph.transpose(&mixed, &[2, 0, 1, 3]);
    let mixed = graph.reshape(&mixed, &[tokens, WIDTH as i64]);
    let out = graph.gemm(&mixed, WIDTH);
    let out = graph.reshape(&out, &[tokens, 1, WIDTH as i64]);
    graph.transpose(&out, &[1, 0, 2])
}
