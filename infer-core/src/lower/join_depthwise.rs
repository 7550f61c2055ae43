//! Convolutions of one tap whose large result only a depthwise one reads: both are one call, in bands of rows.
//!
//! Written and read whole, such a picture passes through the third-level cache twice, which takes as long as its products
//! where these are of few channels.

use infer_kernels::call::{BLOCK, Conv, ConvDepthwise, FillHalo, residual};

use crate::calls::{BufferKind, Calls, KernelCall, Span};

/// The least size of what lies between: less stays in the second-level cache of a core, beside what is read and written.
const LARGE: u64 = 512 << 10;

/// The most input channels: sums of more take so long that memory keeps up.
const FEW: u64 = 64;

/// What a band may take, so that it stays in the second level beside the input.
const BAND_BYTES: u64 = 384 << 10;

/// The most chunks that run at once: as many as are worth waking threads for.
const SLOTS: u64 = 32;

/// Joins the calls. What lies between the two is written by nobody then, and takes no memory but that of the bands.
pub fn join_depthwise(calls: &mut Calls) {
    let mut index = 0;
    while index < calls.calls.len() {
        if let Some((first, params)) = joined(calls, index) {
            let (conv, depthwise) = (calls.calls[first].clone(), calls.calls[index].clone());
            let between = conv.operands[4].map_or(0, |span| span.bytes);
            let [least, most] = [1, params.band].map(|band| bytes(&params, band));
            let memory = between.min(SLOTS.saturating_mul(most)).max(least);
            let scratch = calls.add_buffer(BufferKind::Arena, memory);
            let scratch = calls.whole(scratch);
            let kernel = format!("conv_{}", depthwise.kernel);
            let moved = [conv.kernel.as_str(), "fill_halo_f32"];
            let kernels = (depthwise.kernel.as_str(), kernel.as_str());
            calls.decisions.move_kernel(&conv.node, &moved, &depthwise.node, kernels);
            let operands = conv.operands[..3].iter().chain(&depthwise.operands[1..]).copied();
            calls.calls[index] = KernelCall {
                params: bytemuck::bytes_of(&params).to_vec(),
                operands: operands.chain([Some(scratch)]).collect(),
                outputs: 2,
                node: depthwise.node,
                kernel,
            };
            // With the borders of what lay between.
            calls.calls.drain(first..index);
            index = first;
        }
        index += 1;
    }
}

/// The convolution whose result the call at `index` filters, and what does both.
fn joined(calls: &Calls, index: usize) -> Option<(usize, ConvDepthwise)> {
    let filtering = calls.calls.get(index)?;
    let suffix = filtering.kernel.strip_prefix("depthwise_")?;
    let between = (*filtering.operands.first()?)?;
    if !matches!(calls.buffers.get(between.buffer.0 as usize)?.kind, BufferKind::Arena) {
        return None;
    }
    let uses =
        |operands: &[Option<Span>]| operands.iter().flatten().any(|span| span.buffer == between.buffer);
    let touches = |call: &KernelCall| uses(&call.operands);
    let first = calls.calls.iter().position(touches).filter(|&first| first < index)?;
    let mut inside = calls.calls.get(first + 1..index)?.iter();
    let is_read_elsewhere =
        uses(filtering.operands.get(1..)?) || calls.calls.get(index + 1..)?.iter().any(touches);
    if is_read_elsewhere || !inside.all(|call| touches(call) && fills_zeros(call)) {
        return None;
    }
    let call = calls.calls.get(first).filter(|call| call.kernel.strip_prefix("conv_") == Some(suffix))?;
    let &[input, weights, bias, None, Some(written)] = call.operands.as_slice() else { return None };
    if uses(&[input, weights, bias]) {
        return None;
    }
    let conv: Conv = bytemuck::try_pod_read_unaligned(&call.params).ok()?;
    let depthwise: Conv = bytemuck::try_pod_read_unaligned(&filtering.params).ok()?;
    let (to, from, block) = (conv.output, depthwise.input, BLOCK as u64);
    let padding = to.offset.checked_sub(from.offset)?;
    let pad_top = padding.checked_div(to.stride_h)?;
    let pad_left = (padding - pad_top * to.stride_h) / block;
    let params = ConvDepthwise { conv, depthwise, pad_top, pad_left, band: 1 };
    let fits = (conv.groups, conv.weights_stride_n, conv.residual_mode) == (1, 0, residual::NONE)
        && (conv.kernel_h, conv.kernel_w) == (1, 1)
        && conv.in_channels <= FEW
        && (conv.n, conv.out_channels) == (depthwise.n, depthwise.groups)
        && depthwise.stride_h <= params.reach();
    let whole = written == between
        && [to.stride_n, to.stride_c, to.stride_h] == [from.stride_n, from.stride_c, from.stride_h]
        && [to.stride_w, from.stride_w] == [block; 2];
    if !(fits && whole && between.bytes >= LARGE) {
        return None;
    }
    let band = (2..=depthwise.out_h).take_while(|&band| bytes(&params, band) <= BAND_BYTES).last();
    Some((first, ConvDepthwise { band: band.unwrap_or(1), ..params }))
}

/// What a chunk works in for bands of so many rows.
fn bytes(params: &ConvDepthwise, band: u64) -> u64 {
    params.slot(band).and_then(|slot| slot.checked_mul(size_of::<f32>() as u64)).unwrap_or(u64::MAX)
}

fn fills_zeros(call: &KernelCall) -> bool {
    let params: Option<FillHalo> = bytemuck::try_pod_read_unaligned(&call.params).ok();
    call.kernel == "fill_halo_f32" && params.is_some_and(|params| params.value == 0.0)
}

#[cfg(test)]
mod tests {
    use crate::decisions::Decisions;
    use crate::lower::lower;
    use crate::options::Precision;
    use crate::passes;
    use crate::passes::test_support::{assert_close, compiled, inputs, model, reference};

    /// How many pairs of convolutions of a network of these nodes are computed so; it agrees with its reference.
    fn check(nodes: &str, output: &str) -> usize {
        let text = format!(
            "input x 1,16,112,112
             random w 96,16,1,1
             random b 96
             random d 96,1,3,3
             random p 8,96,1,1
             {nodes}
             {output}"
        );
        let mut graph = model(&text);
        let inputs = inputs(&graph);
        let expected = reference(&graph, &inputs);
        passes::run(&mut graph, |_, _| {}).unwrap();
        let calls = lower(&graph, Precision::Fp32, true, Decisions::default()).unwrap();
        assert_close(&compiled(&graph, &inputs, Precision::Fp32), &expected, 1e-4, &text);
        assert_close(&compiled(&graph, &inputs, Precision::Fp16), &expected, 1e-2, &text);
        let kernels: Vec<&str> = calls.calls.iter().map(|call| call.kernel.as_str()).collect();
        let count = |name: &str| kernels.iter().filter(|kernel| **kernel == name).count();
        assert_eq!(count("depthwise_f32") + count("conv_depthwise_f32"), 1, "{kernels:?}");
        count("conv_depthwise_f32")
    }

    #[test]
    fn large_pictures_between_are_never_whole() {
        let expand = "e = Conv(x, w, b)\nr = Relu(e)";
        let filter = "f = Conv(r, d, b) group=96 pads=[1,1,1,1] strides=[2,2]";
        assert_eq!(check(&format!("{expand}\n{filter}\ny = Conv(f, p)"), "output y"), 1);
        let uneven = "f = Conv(r, d, b) group=96 pads=[0,0,1,1] strides=[2,2]\ng = Relu(f)";
        assert_eq!(check(&format!("{expand}\n{uneven}\ny = Conv(g, p)"), "output y"), 1);
    }

    #[test]
    fn others_are_apart() {
        let expand = "e = Conv(x, w, b)\nr = Relu(e)";
        let filter = "f = Conv(r, d, b) group=96 pads=[1,1,1,1] strides=[2,2]";
        // Somebody else reads it.
        let other = "q = Conv(r, p)";
        assert_eq!(check(&format!("{expand}\n{other}\n{filter}\ny = Conv(f, p)"), "output y\noutput q"), 0);
        let same = "f = Conv(r, d, b) group=96 pads=[1,1,1,1]\ng = Add(f, r)";
        assert_eq!(check(&format!("{expand}\n{same}\ny = Conv(g, p)"), "output y"), 0);
        // A small one stays near.
        let small = "s = MaxPool(x) kernel_shape=[8,8] strides=[8,8]\ne = Conv(s, w, b)\nr = Relu(e)";
        assert_eq!(check(&format!("{small}\n{filter}\ny = Conv(f, p)"), "output y"), 0);
    }
}
