//! Convolutions with kernels of five columns that may run by Winograd's algorithm along rows, and their calls.
//!
//! Of a tile of four outputs, each row of taps takes eight products instead of twenty for each pair of channels; the
//! transforms take some thirty operations for each row of a tile and each channel, and every product of a plane takes a
//! call of the microkernel. Weights are transformed here, since they are but 1.6 times as large.

use infer_kernels::call::{self, BLOCK, WINOGRAD_ROWS};
use infer_kernels::reference::winograd_rows::filter;

use super::signature;
use crate::calls::{LowerNode, Span};
use crate::decisions::Candidate;
use crate::ops::pack::Dense;

/// Multiply-adds in a nanosecond, as in `lower/winograd.rs`.
const PRODUCTS: f64 = 80.0;

/// Nanoseconds that a call of the microkernel takes beside its products.
const CALL: f64 = 10.0;

/// Whether `conv` runs so.
pub fn is_chosen(node: &mut LowerNode<'_>, conv: &call::Conv, block: usize) -> bool {
    let steps = [conv.stride_h, conv.stride_w, conv.dilation_h, conv.dilation_w];
    let fits = block == BLOCK && conv.kernel_w == WINOGRAD_ROWS.taps && conv.groups == 1 && steps == [1; 4];
    if !fits || node.half_weights || !node.calls.fewer_products {
        return false;
    }
    let ways = [
        Candidate { name: "direct", cost: direct(conv) },
        Candidate { name: "winograd_rows", cost: rows(conv) },
    ];
    node.choose("convolution", || signature("conv_f32", conv), &ways) == 1
}

/// Products of a row of taps at one output, for all pairs of channels.
fn pairs(conv: &call::Conv) -> f64 {
    (conv.in_channels * conv.out_channels.next_multiple_of(BLOCK as u64) * conv.kernel_h) as f64
}

fn direct(conv: &call::Conv) -> f64 {
    let pixels = (conv.n * conv.out_h * conv.out_w) as f64;
    conv.kernel_w as f64 * pixels * pairs(conv) / (0.97 * PRODUCTS)
}

fn rows(conv: &call::Conv) -> f64 {
    let block = BLOCK as u64;
    let tiles = (conv.n * conv.out_w.div_ceil(WINOGRAD_ROWS.tile)) as f64;
    let columns = conv.out_h.div_ceil(WINOGRAD_ROWS.rows) as f64;
    let (out_h, in_h) = (conv.out_h as f64, conv.out_h as f64 + columns * (conv.kernel_h - 1) as f64);
    let padded = |channels: u64| channels.next_multiple_of(block) as f64;
    let transforms = 30.0 * tiles * (in_h * padded(conv.in_channels) + out_h * padded(conv.out_channels));
    let planes = WINOGRAD_ROWS.planes() as f64;
    let calls = planes * tiles * (out_h / 14.0).ceil() * conv.out_channels.div_ceil(2 * block) as f64;
    (planes * tiles * out_h * pairs(conv) / 0.93 + transforms) / PRODUCTS + calls * CALL
}

/// Calls the kernel for a convolution described by `conv` with weights `dense`. `operands` are input, bias, residual
/// and output.
pub fn lower(node: &mut LowerNode<'_>, conv: &call::Conv, dense: &Dense<'_>, operands: [Option<Span>; 4]) {
    let planes = planes(dense);
    let packed = Dense {
        values: &planes,
        offset: 0,
        groups: WINOGRAD_ROWS.planes() as usize,
        kernel: [dense.kernel[0], 1],
        strides: [dense.in_channels * dense.kernel[0], dense.kernel[0], 1, 1].map(|s| s as isize),
        scale: 1.0,
        ..*dense
    };
    let packed = packed.panels();
    let weights = node.data(&packed);
    let conv = call::Conv { in_block: BLOCK as u64, ..*conv };
    let slot = WINOGRAD_ROWS.slot(&conv).unwrap_or(0) * size_of::<f32>() as u64;
    let columns = conv.n * conv.out_h.div_ceil(WINOGRAD_ROWS.rows) * conv.out_w.div_ceil(WINOGRAD_ROWS.tile);
    let scratch = node.scratch_slots(slot, columns);
    let [input, bias, residual, output] = operands;
    let operands = [input, Some(weights), bias, residual, output, Some(scratch)];
    node.call_with_outputs("winograd_rows_f32", &conv, &operands, 2);
}

/// The transformed weights `[plane][out channel][in channel][row]`.
fn planes(dense: &Dense<'_>) -> Vec<f32> {
    let filters = dense.out_channels * dense.in_channels * dense.kernel[0];
    let mut planes = vec![0f32; WINOGRAD_ROWS.planes() as usize * filters];
    for index in 0..filters {
        let row = index % dense.kernel[0];
        let (o, c) =
            (index / dense.kernel[0] / dense.in_channels, index / dense.kernel[0] % dense.in_channels);
        let [stride_o, stride_c, stride_h, stride_w] = dense.strides;
        let first =
            dense.offset as isize + o as isize * stride_o + c as isize * stride_c + row as isize * stride_h;
        let taps =
            std::array::from_fn(|tap| dense.values[(first + tap as isize * stride_w) as usize] * dense.scale);
        for (plane, value) in filter(&taps).into_iter().enumerate() {
            planes[plane * filters + index] = value;
        }
    }
    planes
}

#[cfg(test)]
mod tests {
    use crate::decisions::Decisions;
    use crate::lower::lower;
    use crate::options::Precision;
    use crate::passes;
    use crate::passes::test_support::{assert_close, compiled, inputs, model, reference};

    const NETWORK: &str = "
        input x 1,16,14,14
        random w 24,16,5,5
        random b 24
        random v 24,24,3,5
        a = Conv(x, w, b) pads=[2,2,2,2]
        c = Relu(a)
        d = Conv(c, v) pads=[1,2,1,2]
        y = Add(d, c)
        output y";

    #[test]
    fn a_network_agrees_with_its_reference() {
        let mut graph = model(NETWORK);
        let inputs = inputs(&graph);
        let expected = reference(&graph, &inputs);
        passes::run(&mut graph, |_, _| {}).unwrap();
        for (winograd, count) in [(true, 2), (false, 0)] {
            let calls = lower(&graph, Precision::Fp32, winograd, Decisions::default()).unwrap();
            let found = calls.calls.iter().filter(|call| call.kernel == "winograd_rows_f32").count();
            assert_eq!(found, count);
        }
        assert_close(&compiled(&graph, &inputs, Precision::Fp32), &expected, 1e-4, NETWORK);
        assert_close(&compiled(&graph, &inputs, Precision::Fp16), &expected, 1e-2, NETWORK);
    }
}
