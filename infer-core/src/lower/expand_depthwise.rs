//! 1×1 convolutions to many channels that only a depthwise convolution reads: where the picture between them is more
//! than the caches next to a core hold, both are one call.

use infer_kernels::call::{BLOCK, Conv, ExpandedDepthwise, FillHalo, residual};

use crate::calls::{BufferKind, Calls, KernelCall};

/// The picture from which on they are joined: the second level of caches of current processors.
const LARGE_BYTES: u64 = 1 << 20;

/// What a band of it may take, which is to stay in such a cache beside all else.
const BAND_BYTES: u64 = 256 << 10;

/// Joins the calls. What lies between the two takes no memory then.
pub fn expand_depthwise(calls: &mut Calls) {
    let mut index = 0;
    while index < calls.calls.len() {
        let Some(joined) = joined(calls, index) else {
            index += 1;
            continue;
        };
        let (node, at) = (calls.calls[joined.conv].node.clone(), calls.calls[index].node.clone());
        let memory = calls.add_buffer(BufferKind::Arena, joined.memory_bytes);
        let mut operands = joined.operands;
        operands.push(Some(calls.whole(memory)));
        let kernel = "expanded_depthwise_f32";
        calls.decisions.move_kernel(&node, &["conv_f32", "fill_halo_f32"], &at, ("depthwise_f32", kernel));
        calls.calls[index] = KernelCall {
            kernel: kernel.to_owned(),
            params: bytemuck::bytes_of(&joined.params).to_vec(),
            operands,
            outputs: 2,
            node: at,
        };
        // The later first.
        for removed in joined.halo.into_iter().chain([joined.conv]) {
            calls.calls.remove(removed);
            index -= 1;
        }
    }
}

/// What becomes one call.
struct Joined {
    params: ExpandedDepthwise,
    operands: Vec<Option<crate::calls::Span>>,
    memory_bytes: u64,
    conv: usize,
    halo: Option<usize>,
}

/// The depthwise convolution at `index` with the convolution before it.
fn joined(calls: &Calls, index: usize) -> Option<Joined> {
    let deep_call = calls.calls.get(index).filter(|call| call.kernel == "depthwise_f32")?;
    let &[Some(between), deep_weights, deep_bias, None, output] = deep_call.operands.as_slice() else {
        return None;
    };
    let buffer = calls.buffers.get(between.buffer.0 as usize)?;
    if !matches!(buffer.kind, BufferKind::Arena) || buffer.bytes < LARGE_BYTES {
        return None;
    }
    let touches =
        |call: &KernelCall| call.operands.iter().flatten().any(|span| span.buffer == between.buffer);
    let others: Vec<usize> =
        (0..calls.calls.len()).filter(|&other| other != index && touches(&calls.calls[other])).collect();
    let (conv, halo) = match *others.as_slice() {
        [conv] => (conv, None),
        [conv, halo] => (conv, Some(halo)),
        _ => return None,
    };
    let fills_zeros = |call: &KernelCall| {
        call.kernel == "fill_halo_f32"
            && bytemuck::try_pod_read_unaligned::<FillHalo>(&call.params).is_ok_and(|p| p.value == 0.0)
    };
    if halo.is_some_and(|halo| halo > index || !fills_zeros(&calls.calls[halo])) {
        return None;
    }
    let call = calls.calls.get(conv).filter(|call| conv < index && call.kernel == "conv_f32")?;
    let &[input, weights, bias, None, Some(written)] = call.operands.as_slice() else { return None };
    let expand: Conv = bytemuck::try_pod_read_unaligned(&call.params).ok()?;
    let depthwise: Conv = bytemuck::try_pod_read_unaligned(&deep_call.params).ok()?;
    let point = [
        expand.kernel_h,
        expand.kernel_w,
        expand.stride_h,
        expand.stride_w,
        expand.groups,
        expand.output_padded,
        depthwise.dilation_h,
        depthwise.dilation_w,
    ];
    let modes = [expand.residual_mode, depthwise.residual_mode];
    let window = [depthwise.kernel_h, depthwise.kernel_w, depthwise.stride_h, depthwise.stride_w];
    let fits = written == between
        && point == [1; 8]
        && modes == [residual::NONE; 2]
        && expand.weights_stride_n == 0
        && depthwise.groups == expand.out_channels
        && depthwise.n == expand.n
        && window.iter().all(|&extent| extent <= 8);
    if !fits || depthwise.out_h == 0 || depthwise.out_w == 0 {
        return None;
    }
    // Both views are of the same picture: the window begins in the border.
    let (from, to) = (depthwise.input, expand.output);
    let strides =
        |view: &infer_kernels::call::View| [view.stride_n, view.stride_c, view.stride_h, view.stride_w];
    let pad = to.offset.checked_sub(from.offset)?;
    if strides(&from) != strides(&to) || to.stride_w != BLOCK as u64 || to.stride_h == 0 {
        return None;
    }
    let (pad_top, pad_left) = (pad / to.stride_h, pad % to.stride_h / to.stride_w);
    let mut params = ExpandedDepthwise { expand, depthwise, pad_top, pad_left, rows: 1, reserved: 0 };
    // Columns that the window never reaches are not computed.
    params.expand.out_w = expand.out_w.min(params.columns().checked_sub(pad_left)?);
    let row_bytes = expand.out_channels.next_multiple_of(BLOCK as u64) * params.columns() * 4;
    let in_band = (BAND_BYTES / row_bytes).saturating_sub(depthwise.kernel_h) / depthwise.stride_h + 1;
    // The depthwise kernel takes two rows at a time.
    params.rows = (in_band / 2 * 2).max(1).min(depthwise.out_h);
    let slot = params.slot()? * 4;
    // As many chunks at once as take no more memory than the picture would.
    let slots = (buffer.bytes / slot).clamp(1, depthwise.out_h);
    Some(Joined {
        params,
        operands: vec![input, weights, bias, deep_weights, deep_bias, output],
        memory_bytes: slot * slots,
        conv,
        halo,
    })
}

#[cfg(test)]
mod tests {
    use crate::decisions::Decisions;
    use crate::lower::lower;
    use crate::options::Precision;
    use crate::passes;
    use crate::passes::test_support::{assert_close, compiled, inputs, model, reference};

    /// Whether a network of these nodes is computed so; it agrees with its reference.
    fn check(nodes: &str) -> bool {
        let text = format!(
            "input x 1,16,66,65
             random w 80,16,1,1
             random v 80,1,3,3
             random u 80
             {nodes}
             output y"
        );
        let mut graph = model(&text);
        let inputs = inputs(&graph);
        let expected = reference(&graph, &inputs);
        passes::run(&mut graph, |_, _| {}).unwrap();
        let calls = lower(&graph, Precision::Fp32, true, Decisions::default()).unwrap();
        assert_close(&compiled(&graph, &inputs, Precision::Fp32), &expected, 1e-4, &text);
        let kernels: Vec<&str> = calls.calls.iter().map(|call| call.kernel.as_str()).collect();
        let is_joined = kernels.contains(&"expanded_depthwise_f32");
        assert_eq!(is_joined, !kernels.contains(&"depthwise_f32"), "{kernels:?}");
        is_joined
    }

    #[test]
    fn wide_pictures_are_never_whole() {
        let expand = "c = Conv(x, w, u)\na = Relu(c)";
        assert!(check(&format!("{expand}\ny = Conv(a, v, u) group=80 pads=[1,1,1,1]")));
        assert!(check(&format!("{expand}\ny = Conv(a, v) group=80 pads=[1,1,1,1] strides=[2,2]")));
        assert!(check(&format!("{expand}\ny = Conv(a, v) group=80 pads=[0,0,1,1] strides=[2,2]")));
        assert!(check(&format!("{expand}\nd = Conv(a, v) group=80\ny = HardSwish(d)")));
        assert!(!check(&format!("{expand}\ny = Conv(a, v) group=80 pads=[2,2,2,2] dilations=[2,2]")));
        assert!(!check(&format!("{expand}\nd = Conv(a, v) group=80 pads=[1,1,1,1]\ny = Add(d, a)")));
    }
}
