//! Small models: a convolutional digit classifier, and a recurrent network of two layers.

use crate::graph::{Graph, Value, attribute_int, attribute_ints, attribute_signed, attribute_string};

/// The digit classifier of the ONNX model zoo, 28×28: biases by Add, padding by auto_pad.
pub(crate) fn mnist_8(graph: &mut Graph) {
    let input = graph.input("Input3", &[1, 1, 28, 28]);
    let x = same_conv(graph, &input, 8);
    let x = graph.max_pool(&x, 2, 2, 0);
    let x = same_conv(graph, &x, 16);
    let x = graph.max_pool(&x, 3, 3, 0);
    let shape = graph.integers(&[2], &[1, 256]);
    let x = graph.reshape_by(&x, &shape, &[1, 256]);
    let weights = graph.normal(&[16, 4, 4, 10], 1.0 / 256.0);
    let shape = graph.integers(&[2], &[256, 10]);
    let weights = graph.reshape_by(&Value::new(weights, &[16, 4, 4, 10], 1.0), &shape, &[256, 10]);
    let x = graph.matmul(&x, &weights);
    let bias = graph.bias(&[1, 10]);
    let x = graph.add_constant(&x, &bias);
    graph.output(&x, "Plus214_Output_0");
}

fn same_conv(graph: &mut Graph, x: &Value, channels: usize) -> Value {
    let weights = graph.normal(&[channels, x.channels(), 5, 5], 2.0 / (25 * x.channels()) as f64);
    let attributes = vec![
        attribute_string("auto_pad", "SAME_UPPER"),
        attribute_ints("dilations", [1; 2]),
        attribute_int("group", 1),
        attribute_ints("kernel_shape", [5; 2]),
        attribute_ints("strides", [1; 2]),
    ];
    let name = graph.node("Conv", &[&x.name, &weights], attributes);
    let x = Value::new(name, &[x.shape[0], channels, x.shape[2], x.shape[3]], 1.0);
    let bias = graph.bias(&[channels, 1, 1]);
    let x = graph.add_constant(&x, &bias);
    graph.relu(&x)
}

/// Two bidirectional LSTMs of 128 over 100 steps of 40, then 30 classes a step, as a recogniser of speech has them.
pub(crate) fn lstm_ctc(graph: &mut Graph) {
    let input = graph.input("input", &[1, 100, 40]);
    let mut x = graph.transpose(&input, &[1, 0, 2]);
    for _ in 0..2 {
        x = bidirectional_lstm(graph, &x, 128);
    }
    let x = graph.transpose(&x, &[1, 0, 2]);
    let x = graph.linear(&x, 30);
    let name = graph.node("LogSoftmax", &[&x.name], vec![attribute_signed("axis", -1)]);
    graph.output(&Value::new(name, &x.shape, 1.0), "output");
}

fn bidirectional_lstm(graph: &mut Graph, x: &Value, hidden: usize) -> Value {
    let (steps, features) = (x.shape[0], x.shape[2]);
    // PyTorch's weights are uniform within 1/√hidden.
    let bound = 1.0 / (hidden as f64).sqrt();
    let weights = graph.uniform(&[2, 4 * hidden, features], -bound, bound);
    let recurrent = graph.uniform(&[2, 4 * hidden, hidden], -bound, bound);
    let biases = graph.uniform(&[2, 8 * hidden], -bound, bound);
    let state = |graph: &mut Graph| {
        let zeros = graph.floats(&[2, 1, hidden], vec![0.0; 2 * hidden]);
        // The batch is read from the input.
        let shape = graph.node("Shape", &[&x.name], vec![]);
        let index = graph.constant(&[], &[1]);
        let batch = graph.node("Gather", &[&shape, &index], vec![]);
        let axes = graph.constant(&[1], &[0]);
        let batch = graph.node("Unsqueeze", &[&batch, &axes], vec![]);
        let (directions, width) = (graph.constant(&[1], &[2]), graph.constant(&[1], &[hidden as i64]));
        let shape = graph.node("Concat", &[&directions, &batch, &width], vec![attribute_int("axis", 0)]);
        graph.node("Expand", &[&zeros, &shape], vec![])
    };
    let (h, c) = (state(graph), state(graph));
    let attributes =
        vec![attribute_string("direction", "bidirectional"), attribute_int("hidden_size", hidden)];
    let outputs = graph.nodes("LSTM", &[&x.name, &weights, &recurrent, &biases, "", &h, &c], 3, attributes);
    let y = Value::new(outputs[0].clone(), &[steps, 2, 1, hidden], 0.1);
    let y = graph.transpose(&y, &[0, 2, 1, 3]);
    graph.reshape(&y, &[steps as i64, 1, -1])
}
