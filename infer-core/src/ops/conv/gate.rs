//! The gate of a pointwise convolution: a factor for each channel of its input, known at run time, as
//! `passes/scale_weights.rs` finds it.
//!
//! `Σ w[o, c]·(g[c]·x[c]) = Σ (w[o, c]·g[c])·x[c]`, so the weights are multiplied, which are fewer than the pixels. Where they
//! are stored as halves, the picture is.

use infer_kernels::call::{BLOCK, Elementwise, View};

use crate::calls::{Blocked, LowerNode, Span, Tensor, picture};
use crate::diagnostic::Reason;

/// The input of a convolution that is its gate, a blocked `[1, C, 1, 1]`.
pub const INPUT: usize = 4;

/// Panels `[OC/16][C][16]` times the gate of their channels, in the arena.
pub fn scaled_weights(
    node: &mut LowerNode<'_>,
    packed: Span,
    gate: &Tensor,
    channels: usize,
) -> Result<Span, Reason> {
    let blocked = gate.blocked.ok_or_else(|| Reason::new("a gate in rows"))?;
    let panel = channels * BLOCK;
    let panels = packed.bytes as usize / (panel * size_of::<f32>());
    let weights = [panel as i64, (BLOCK * BLOCK) as i64, BLOCK as i64, 1];
    let factors = [0, blocked.view.stride_c as i64, 1, 0];
    let walks = [(&weights[..], 0), (&factors[..], blocked.view.offset), (&weights[..], 0)];
    let call = Elementwise::new(&[panels, channels / BLOCK, BLOCK, BLOCK], &walks)
        .ok_or_else(|| Reason::new("a gate of too many dimensions"))?;
    let scaled = node.scratch(packed.bytes);
    node.call("mul_f32", &call, &[Some(packed), Some(gate.span), Some(scaled)]);
    node.explain(|| "the gate multiplies the weights".to_owned());
    Ok(scaled)
}

/// The picture times its gate, in the arena.
pub fn scaled_input(node: &mut LowerNode<'_>, x: &Tensor, gate: &Tensor) -> Result<(Span, View), Reason> {
    let [n, c, h, w] = picture(&x.ty);
    let plane = (h * w * BLOCK) as u64;
    let blocks = c.div_ceil(BLOCK) as u64;
    let view = View {
        offset: 0,
        stride_n: blocks * plane,
        stride_c: plane,
        stride_h: (w * BLOCK) as u64,
        stride_w: BLOCK as u64,
    };
    let span = node.scratch(n as u64 * blocks * plane * size_of::<f32>() as u64);
    let blocked = Some(Blocked { block: BLOCK, view, halo: [0; 4] });
    node.elementwise("mul_f32", &[x, gate], &Tensor { ty: x.ty.clone(), span, blocked }, |_| ())?;
    node.explain(|| "the gate multiplies the picture".to_owned());
    Ok((span, view))
}
