//! The internal operator that moves a picture between the row-major and a blocked layout; `convert_layout` inserts it.

use infer_kernels::call::{self, View};

use crate::calls::{LowerNode, picture};
use crate::diagnostic::Reason;
use crate::ops::{NodeTypes, Operator};
use crate::tensor_type::TensorType;

/// A change of layout: output 0 is input 0 as its value's layout says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reorder;

impl Reorder {
    /// Whether the blocked bytes begin with the row-major ones, so that going plain moves nothing: pictures of one
    /// pixel whose blocks are full, or of which there is one.
    pub fn is_prefix(ty: &TensorType, block: usize) -> bool {
        let [n, c, h, w] = picture(ty);
        h * w == 1 && (n == 1 || c.is_multiple_of(block))
    }
}

impl Operator for Reorder {
    fn name(&self) -> &'static str {
        "Reorder"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![node.ty(0)?.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let [n, channels, h, w] = picture(&x.ty).map(|v| v as u64);
        let plain = View { offset: 0, stride_n: channels * h * w, stride_c: h * w, stride_h: w, stride_w: 1 };
        let (kernel, blocked) = match (x.blocked, y.blocked) {
            (None, Some(blocked)) => ("to_blocked_f32", blocked),
            (Some(blocked), None) => ("from_blocked_f32", blocked),
            _ => return Err(Reason::new("a change of layout between two of a kind")),
        };
        let params =
            call::Reorder { n, channels, h, w, block: blocked.block as u64, plain, blocked: blocked.view };
        node.call(kernel, &params, &[Some(x.span), Some(y.span)]);
        Ok(())
    }
}
