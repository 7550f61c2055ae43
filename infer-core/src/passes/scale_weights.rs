//! Multiplies the weights of a pointwise convolution by a gate for each channel, instead of its input.
//!
//! Before: `p = Mul(x, g); y = Conv(p, w, b)` with g `[1, C, 1, 1]`, as squeeze-and-excite ends. After:
//! `y = Conv(x, w, b, _, g)`.
//!
//! Precondition: layouts are chosen; only the convolution reads p; its kernel is 1×1, its weights are constant, and
//! there are several times as many pixels as output channels, for else the weights are no less work than the picture.
//! Reassociates the products.

use infer_kernels::call::BLOCK;

use crate::graph::{Graph, Layout, Node, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::conv::{Conv, gate};
use crate::passes::{Uses, remove_nodes};

/// Pixels for each output channel from which on the weights are multiplied.
const WORTHWHILE: usize = 4;

/// Multiplies the weights of pointwise convolutions by the gates of their inputs.
pub fn scale_weights(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut removed = Vec::new();
    for index in 0..graph.nodes.len() {
        let Some((product, x, factors)) = gated(graph, &uses, index) else { continue };
        let inputs = &mut graph.nodes[index].inputs;
        inputs.resize(gate::INPUT + 1, None);
        (inputs[0], inputs[gate::INPUT]) = (Some(x), Some(factors));
        removed.push(product);
    }
    remove_nodes(graph, &removed);
    !removed.is_empty()
}

/// The product that makes the input of the convolution at `index`, the picture in it, and the gate.
fn gated(graph: &Graph, uses: &Uses, index: usize) -> Option<(usize, ValueId, ValueId)> {
    let node = &graph.nodes[index];
    let (input, output) = (node.input(0)?, graph.ty(node.output(0)?));
    if !is_pointwise(graph, node)? || node.input(gate::INPUT).is_some() {
        return None;
    }
    let product = uses.writer(input).filter(|_| uses.sole_reader(input) == Some(index))?;
    let writer = &graph.nodes[product];
    writer.op_as::<Binary>().filter(|binary| binary.kind == BinaryKind::Mul)?;
    let (a, b) = (writer.input(0)?, writer.input(1)?);
    let (&[n, channels, h, w], &[_, out, ..]) = (graph.ty(input).shape.as_slice(), output.shape.as_slice())
    else {
        return None;
    };
    let blocked = |id: ValueId| graph.value(id).layout == Layout::Blocked { block: BLOCK };
    let gate = |id: ValueId| blocked(id) && graph.ty(id).shape == [1, channels, 1, 1];
    let picture = |id: ValueId| blocked(id) && graph.ty(id) == graph.ty(input);
    let (x, factors) = [(a, b), (b, a)].into_iter().find(|&(x, factors)| picture(x) && gate(factors))?;
    let fits = n == 1 && channels.is_multiple_of(BLOCK) && h * w >= WORTHWHILE * out.next_multiple_of(BLOCK);
    fits.then_some((product, x, factors))
}

/// Whether a node is a blocked convolution of single pixels with constant weights; `None` for other nodes.
fn is_pointwise(graph: &Graph, node: &Node) -> Option<bool> {
    let conv = node.op_as::<Conv>()?;
    let weights = graph.constant(node.input(1))?;
    let blocked = graph.value(node.output(0)?).layout != Layout::Plain;
    let halo = graph.with_types(node, |types| crate::ops::Operator::halo(conv, types));
    Some(blocked && conv.group == 1 && weights.ty().shape[2..] == [1, 1] && halo == [0; 4])
}

#[cfg(test)]
mod tests {
    use crate::options::Precision;
    use crate::passes::run;
    use crate::passes::test_support::{assert_close, brief, compiled, inputs, model, reference};

    fn finished(text: &str) -> (String, usize) {
        let graph = model(text);
        let inputs = inputs(&graph);
        let expected = reference(&graph, &inputs);
        let mut finished = model(text);
        run(&mut finished, |_, _| {}).unwrap();
        let text = brief(&finished);
        for (precision, tolerance) in [(Precision::Fp32, 2e-5), (Precision::Fp16, 1e-2)] {
            assert_close(&compiled(&finished, &inputs, precision), &expected, tolerance, &text);
        }
        let products = text.matches("Mul(").count();
        (text, products)
    }

    /// A picture through a depthwise convolution and its gate, then what `rest` says.
    fn gated_model(product: &str, channels: usize, size: usize, rest: &str) -> String {
        format!(
            "input x 1,{channels},{size},{size}
             random k {channels},1,3,3
             random s 4,{channels},1,1
             random e {channels},4,1,1
             random w 20,{channels},1,1
             random b 20
             t = Conv(x, k) group={channels} pads=[1,1,1,1]
             m = GlobalAveragePool(t)
             q = Conv(m, s)
             u = Conv(q, e)
             g = Sigmoid(u)
             p = Mul({product})
             y = Conv(p, w, b)
             {rest}
             output y"
        )
    }

    #[test]
    fn gates_of_large_pictures_go_into_weights() {
        for product in ["t, g", "g, t"] {
            let (text, products) = finished(&gated_model(product, 32, 12, ""));
            assert_eq!(products, 0, "{text}");
        }
        let (text, products) =
            finished(&gated_model("t, g", 48, 13, "random r 1,20,13,13\nz = Add(y, r)\noutput z"));
        assert_eq!(products, 0, "{text}");
    }

    #[test]
    fn other_products_stay() {
        for text in [
            gated_model("t, g", 32, 8, ""),
            gated_model("t, g", 24, 12, ""),
            gated_model("t, t", 32, 12, ""),
            gated_model("t, g", 32, 12, "output p"),
        ] {
            let (text, products) = finished(&text);
            assert_eq!(products, 1, "{text}");
        }
    }
}
