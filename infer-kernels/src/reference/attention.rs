//! Attention, in the order of its definition.

use super::Registered;
use crate::call::{Attention, HeadView, LEAD};
use crate::{Args, RunError, kernels};

/// The element of `view` at a position of the leading axes, a row, and an element of the row.
fn at(view: &HeadView, lead: [u64; LEAD], row: u64, element: u64) -> usize {
    let lead: u64 = lead.iter().zip(&view.lead).map(|(index, stride)| index * stride).sum();
    (view.offset + lead + row * view.row + element * view.element) as usize
}

unsafe fn attention(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<Attention>();
    let [query, key, value, mask, output] = [0, 1, 2, 3, 4].map(|index| args.operands[index].ptr::<f32>());
    let masked = args.operands[3].bytes > 0;
    if p.lead.contains(&0) || p.rows == 0 || p.value_size == 0 {
        return Ok(());
    }
    let [a, b, c, d] = p.lead;
    for index in 0..a * b * c * d {
        let lead = [index / (b * c * d), index / (c * d) % b, index / d % c, index % d];
        for row in 0..p.rows {
            let mut weights: Vec<f32> = Vec::new();
            for k in 0..p.keys {
                // SAFETY: the call was validated.
                let score = unsafe {
                    let dot = (0..p.size).fold(0.0, |sum, i| {
                        sum + *query.add(at(&p.query, lead, row, i)) * *key.add(at(&p.key, lead, k, i))
                    });
                    p.scale * dot + if masked { *mask.add(at(&p.mask, lead, row, k)) } else { 0.0 }
                };
                let hidden = p.causal == 1 && k > row.saturating_add(p.causal_offset);
                weights.push(if hidden { f32::NEG_INFINITY } else { score });
            }
            let greatest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights.iter_mut().for_each(|weight| *weight = libm::expf(*weight - greatest));
            let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
            for i in 0..p.value_size {
                let mut result = 0.0;
                for (k, weight) in (0..).zip(&weights) {
                    // SAFETY: the call was validated.
                    result += weight / sum * unsafe { *value.add(at(&p.value, lead, k, i)) };
                }
                // SAFETY: the call was validated.
                unsafe { *output.add(at(&p.output, lead, row, i)) = result };
            }
        }
    }
    Ok(())
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] =
    &[Registered { kernel: &kernels::ATTENTION_F32, reference: attention }];
