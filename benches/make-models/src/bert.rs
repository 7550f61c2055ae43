//! BERT's encoder over 128 tokens, as exporters write it at opset 17.

use infer_core::tensor_type::DataType;

use crate::graph::{Graph, Value, attribute_int};

const TOKENS: usize = 128;
const WORDS: usize = 30522;
const EPSILON: f64 = 1e-12;

/// BERT base: 12 layers of 12 heads.
pub(crate) fn bert_base(graph: &mut Graph) {
    encoder(graph, 12, 768, 12);
}

/// MiniLM: 6 layers of 12 heads.
pub(crate) fn minilm(graph: &mut Graph) {
    encoder(graph, 6, 384, 12);
}

fn encoder(graph: &mut Graph, layers: usize, width: usize, heads: usize) {
    let ids = graph.input_i64("input_ids", &[1, TOKENS]);
    let mask = graph.input_i64("attention_mask", &[1, TOKENS]);
    let mut x = embeddings(graph, &ids, width);
    let mask = additive_mask(graph, &mask);
    for _ in 0..layers {
        let attended = attention(graph, &x, &mask, heads);
        let attended = graph.linear(&attended, width);
        let sum = graph.add(&attended, &x);
        x = graph.layer_normalization(&sum, EPSILON);
        let wide = graph.linear(&x, 4 * width);
        let wide = graph.gelu_by_erf(&wide);
        let narrow = graph.linear(&wide, width);
        let sum = graph.add(&narrow, &x);
        x = graph.layer_normalization(&sum, EPSILON);
    }
    graph.output(&x, "last_hidden_state");
}

/// The sum of the embeddings of words, of the one token type and of positions.
fn embeddings(graph: &mut Graph, ids: &Value, width: usize) -> Value {
    let shape = [1, TOKENS, width];
    let table = graph.normal(&[WORDS, width], 0.25);
    let words = graph.node("Gather", &[&table, &ids.name], vec![]);
    let words = Value::new(words, &shape, 0.25);
    let types = graph.constant(&[1, TOKENS], &[0; TOKENS]);
    let table = graph.normal(&[2, width], 0.25);
    let types = graph.node("Gather", &[&table, &types], vec![]);
    let sum = graph.add(&words, &Value::new(types, &shape, 0.25));
    let places: Vec<i64> = (0..TOKENS as i64).collect();
    let places = graph.constant(&[1, TOKENS], &places);
    let table = graph.normal(&[512, width], 0.25);
    let places = graph.node("Gather", &[&table, &places], vec![]);
    let sum = graph.add(&sum, &Value::new(places, &shape, 0.25));
    graph.layer_normalization(&sum, EPSILON)
}

/// 0 where a token counts and the least number where not, for every pair of tokens.
fn additive_mask(graph: &mut Graph, mask: &Value) -> Value {
    let to_bool = || vec![attribute_int("to", DataType::Bool as usize)];
    let kept = graph.node("Cast", &[&mask.name], to_bool());
    let kept = Value::new(kept, &mask.shape, 1.0);
    let shape = [1, 1, 1, TOKENS as i64];
    let kept = graph.reshape(&kept, &shape);
    let pairs = graph.constant(&[4], &[1, 1, TOKENS as i64, TOKENS as i64]);
    let kept = graph.node("Expand", &[&kept.name, &pairs], vec![]);
    let (zero, least) = (graph.scalar(0.0), graph.scalar(f64::from(f32::MIN)));
    let name = graph.node("Where", &[&kept, &zero, &least], vec![]);
    Value::new(name, &[1, 1, TOKENS, TOKENS], 0.0)
}

fn attention(graph: &mut Graph, x: &Value, mask: &Value, heads: usize) -> Value {
    let width = x.shape[2];
    let size = width / heads;
    let part = |graph: &mut Graph, order: [usize; 4]| {
        let part = graph.linear(x, width);
        let part = graph.reshape(&part, &[1, TOKENS as i64, -1, size as i64]);
        graph.transpose(&part, &order)
    };
    let query = part(graph, [0, 2, 1, 3]);
    let key = part(graph, [0, 2, 3, 1]);
    let value = part(graph, [0, 2, 1, 3]);
    let scores = graph.matmul(&query, &key);
    let scores = graph.scale(&scores, 1.0 / (size as f64).sqrt());
    let scores = graph.add(&scores, mask);
    let weights = graph.softmax(&scores);
    let mixed = graph.matmul(&weights, &value);
    let mixed = graph.transpose(&mixed, &[0, 2, 1, 3]);
    graph.reshape(&mixed, &[1, TOKENS as i64, -1])
}
