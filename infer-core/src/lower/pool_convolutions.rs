//! Convolutions of pictures of few channels that only a pooling of 2×2 reads: both are one call.

use infer_kernels::call::{ActivationKind, BLOCK, Conv, Pool, PooledConv, residual};

use crate::calls::{BufferKind, Calls, KernelCall};

/// Joins the calls. What lies between the two is written by nobody then, and takes no memory.
pub fn pool_convolutions(calls: &mut Calls) {
    let mut index = 0;
    while index < calls.calls.len() {
        if let Some((conv, joined)) = joined(calls, index) {
            let node = calls.calls[conv].node.clone();
            calls.decisions.move_kernel(&node, &["conv_f32"], &joined.node, ("max_pool_f32", &joined.kernel));
            calls.calls[index] = joined;
            calls.calls.remove(conv);
        } else {
            index += 1;
        }
    }
}

/// The convolution that the call at `index` pools, and the call that does both.
fn joined(calls: &Calls, index: usize) -> Option<(usize, KernelCall)> {
    let pooling = calls.calls.get(index).filter(|call| call.kernel == "max_pool_f32")?;
    let between = (*pooling.operands.first()?)?;
    if !matches!(calls.buffers.get(between.buffer.0 as usize)?.kind, BufferKind::Arena) {
        return None;
    }
    let touches =
        |call: &KernelCall| call.operands.iter().flatten().any(|span| span.buffer == between.buffer);
    let mut others = (0..calls.calls.len()).filter(|&other| other != index && touches(&calls.calls[other]));
    let (conv, None) = (others.next()?, others.next()) else { return None };
    let call = calls.calls.get(conv).filter(|call| conv < index && call.kernel == "conv_f32")?;
    let &[input, weights, bias, None, Some(output)] = call.operands.as_slice() else { return None };
    let p: Conv = bytemuck::try_pod_read_unaligned(&call.params).ok()?;
    let pool: Pool = bytemuck::try_pod_read_unaligned(&pooling.params).ok()?;
    let steps = [p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.groups, p.output_padded];
    let clamps = matches!(
        p.activation.kind(),
        Some(ActivationKind::None | ActivationKind::Relu | ActivationKind::Clip)
    );
    let fits = steps == [1; 6]
        && clamps
        && p.residual_mode == residual::NONE
        && p.weights_stride_n == 0
        && p.kernel_h == p.kernel_w
        && matches!(p.kernel_h, 3 | 5)
        && p.in_channels == p.in_block
        && p.in_block < BLOCK as u64;
    let pools = (pool.kernel, pool.stride, pool.dilation) == ([2; 2], [2; 2], [1; 2])
        && (pool.pad_begin, pool.pad_end) == ([0; 2], [0; 2])
        && 2 * pool.out_h <= p.out_h
        && 2 * pool.out_w <= p.out_w;
    let whole =
        output == between && (p.output, p.n, p.out_h, p.out_w) == (pool.input, pool.n, pool.in_h, pool.in_w);
    if !(fits && pools && whole && pool.blocks == p.out_channels.div_ceil(BLOCK as u64)) {
        return None;
    }
    let params = PooledConv { out_h: pool.out_h, out_w: pool.out_w, output: pool.output, ..p };
    let joined = KernelCall {
        kernel: "pooled_conv_f32".to_owned(),
        params: bytemuck::bytes_of(&params).to_vec(),
        operands: vec![input, weights, bias, None, *pooling.operands.get(1)?],
        outputs: 1,
        node: pooling.node.clone(),
    };
    Some((conv, joined))
}

#[cfg(test)]
mod tests {
    use crate::decisions::Decisions;
    use crate::lower::lower;
    use crate::options::Precision;
    use crate::passes;
    use crate::passes::test_support::{assert_close, compiled, inputs, model, reference};

    /// Whether a network of these nodes on a picture of `channels` is computed so; it agrees with its reference.
    fn check(channels: usize, nodes: &str) -> bool {
        let text = format!(
            "input x 1,{channels},13,16
             random w 8,{channels},3,3
             random v 24,8,3,3
             random b 8
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
        let is_joined = kernels.contains(&"pooled_conv_f32");
        assert_eq!(is_joined, !kernels.contains(&"max_pool_f32"), "{kernels:?}");
        is_joined
    }

    #[test]
    fn pooled_convolutions_of_few_channels_are_one_call() {
        let conv = "c = Conv(x, w, b) pads=[1,1,1,1]";
        let pool = "y = MaxPool(a) kernel_shape=[2,2] strides=[2,2]";
        assert!(check(1, &format!("{conv}\na = Relu(c)\n{pool}")));
        assert!(check(3, &format!("{conv}\na = Relu(c)\n{pool}")));
        let deeper = "p = MaxPool(c) kernel_shape=[2,2] strides=[2,2]\ny = Conv(p, v) pads=[1,1,1,1]";
        assert!(check(3, &format!("{conv}\n{deeper}")));
        assert!(!check(3, &format!("{conv}\na = Tanh(c)\n{pool}")));
        assert!(!check(1, &format!("{conv}\na = Relu(c)\n{pool}\noutput a")));
        assert!(!check(1, &format!("{conv}\na = Relu(c)\ny = MaxPool(a) kernel_shape=[3,3] strides=[2,2]")));
        assert!(!check(1, &format!("{conv}\na = Relu(c)\n{pool} pads=[1,1,1,1]")));
        assert!(!check(17, &format!("{conv}\na = Relu(c)\n{pool}")));
    }
}
