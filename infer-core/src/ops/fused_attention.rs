//! The internal operator that computes a whole attention; the pass `fuse_attention` makes it.
//!
//! Inputs: what queries, keys and values are read from, and the mask or nothing, each by the strides of
//! [`call::Attention`].

use infer_kernels::call;

use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{NodeTypes, Operator, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The most memory to work in, where more than the fewest chunks are possible.
const MAX_SCRATCH_BYTES: u64 = 4 << 20;

/// How many chunks have memory to work in at least, and at most.
const CHUNKS: [u64; 2] = [4, 32];

/// Attention over rows that lie in other values.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedAttention {
    /// Extents and strides.
    pub call: call::Attention,
    /// The output, which the strides fill.
    pub output: TensorType,
}

impl Operator for FusedAttention {
    fn name(&self) -> &'static str {
        "FusedAttention"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let p = &self.call;
        let views = [
            (&p.query, p.rows, p.size),
            (&p.key, p.keys, p.size),
            (&p.value, p.keys, p.value_size),
            (&p.mask, p.rows, p.keys),
        ];
        for (index, (view, rows, elements)) in views.into_iter().enumerate() {
            let Some(ty) = node.optional(index) else { continue };
            expect_dtype(ty, &[DataType::F32])?;
            if view.end(&p.lead, rows, elements).is_none_or(|end| end > ty.elements() as u64) {
                return Err(Reason::new(format!("{ty} has not the rows that attention reads")));
            }
        }
        Ok(vec![self.output.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let p = &self.call;
        let scratch = p.scratch().and_then(|one| one.checked_mul(size_of::<f32>() as u64));
        let scratch = scratch.ok_or_else(|| Reason::new("attention over too much"))?;
        let items =
            p.lead.iter().fold(p.rows.div_ceil(call::Attention::ROW_BLOCK), |n, &e| n.saturating_mul(e));
        let chunks = (MAX_SCRATCH_BYTES / scratch.max(1)).clamp(CHUNKS[0], CHUNKS[1]).min(items.max(1));
        let operands = [
            Some(node.input(0)?.span),
            Some(node.input(1)?.span),
            Some(node.input(2)?.span),
            node.optional_input(3).map(|mask| mask.span),
            Some(node.output(0)?.span),
            Some(node.scratch(scratch * chunks)),
        ];
        node.call_with_outputs("attention_f32", p, &operands, 2);
        Ok(())
    }

    fn flops(&self, _: &NodeTypes<'_>, _: &[&TensorType]) -> u64 {
        let p = &self.call;
        let each = 2 * p.rows.saturating_mul(p.keys).saturating_mul(p.size.saturating_add(p.value_size));
        p.lead.iter().fold(each, |n, &e| n.saturating_mul(e))
    }
}
