//! Normalisations of what a product makes, which some tiles compute where the product ends.
//!
//! Both calls stay in the plan: of the kernels that do so the next call is not launched, and where the GPU has none of them both
//! are, one after the other.

use infer_kernels::cuda::Norm;

use super::tactics::convolution;
use crate::calls::{BufferKind, Calls, Span};

/// The normalisation of the rows that a product makes, by the call after it.
pub(super) struct Normalisation {
    pub scale: Option<Span>,
    pub shift: Option<Span>,
    /// The normalised rows.
    pub output: Span,
    pub epsilon: f32,
    /// Whether the product is an output or others read it too.
    pub stores_input: bool,
}

impl Normalisation {
    /// That of the product at `index`.
    pub fn after(calls: &Calls, index: usize) -> Option<Normalisation> {
        let [product, norm] = calls.calls.get(index..index + 2)? else { return None };
        if !norm.kernel.starts_with("cuda_layer_norm_") {
            return None;
        }
        let (conv, params) =
            (convolution(product)?, bytemuck::try_pod_read_unaligned::<Norm>(&norm.params).ok()?);
        let &[Some(read), scale, shift, Some(output)] = norm.operands.as_slice() else { return None };
        let whole = params.kind == 0
            && conv.out_stride == conv.out_channels
            && [params.outer, params.inner] == [conv.pixels, conv.out_channels];
        if product.operands.last() != Some(&Some(read)) || !whole {
            return None;
        }
        let is_output = matches!(calls.buffers[read.buffer.0 as usize].kind, BufferKind::Output(_));
        let mut others = calls.calls[..index].iter().chain(&calls.calls[index + 2..]);
        let named = others.any(|call| call.operands.iter().flatten().any(|span| span.buffer == read.buffer));
        let epsilon = params.epsilon;
        Some(Normalisation { scale, shift, output, epsilon, stores_input: is_output || named })
    }
}
