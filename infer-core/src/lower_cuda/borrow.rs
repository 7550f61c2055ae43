//! Weights that the processor's plan of the same model has already: a plan for GPUs borrows them.
//!
//! A constant is borrowed where some constant of the processor's plan, put in order by [`Retile`], is the same bytes: the
//! compiler tries it, so that no packer has to promise anything. The call that puts it in order is one that prepares.

use std::collections::HashMap;

use bytes::Bytes;
use infer_kernels::cuda::{Retile, Stored};
use rayon::prelude::*;

use crate::calls::{BufferId, BufferKind, Calls, KernelCall};
use crate::options::Precision;
use crate::plan::{PlanId, PlanParts};

/// What is smaller stays in both plans: to put it in order takes a copy and a launch of its own when the plan is opened.
const LEAST_BYTES: usize = 1 << 13;

/// Constants are told apart by so many of their first bytes.
const HEAD_BYTES: usize = 64;

/// Elements that are compared at a time.
const RUN: usize = 1 << 16;

/// The constants of a plan for the processor, for others to borrow.
#[derive(Debug)]
pub struct Lender {
    id: PlanId,
    constants: Vec<Lent>,
    by_filters: HashMap<[usize; 3], Vec<usize>>,
    by_head: HashMap<[u8; HEAD_BYTES], Vec<usize>>,
}

#[derive(Debug)]
struct Lent {
    /// Where it lies among the plan's weights.
    offset: u64,
    data: Bytes,
}

/// How a constant is made of one that is lent.
struct Borrowing<'l> {
    lent: &'l Lent,
    stored: &'static Stored,
    retile: Retile,
}

impl Lender {
    /// The constants of `plan`, which is that of `calls`.
    pub fn new(plan: &PlanParts<'_>, calls: &Calls) -> Self {
        let mut lender = Lender {
            id: plan.id(),
            constants: Vec::new(),
            by_filters: HashMap::new(),
            by_head: HashMap::new(),
        };
        for (id, offset, data) in plan.constants().filter(|(.., data)| data.len() >= LEAST_BYTES) {
            let index = lender.constants.len();
            lender.constants.push(Lent { offset, data: data.clone() });
            if let Some(extents) = calls.filters.get(&id) {
                lender.by_filters.entry(*extents).or_default().push(index);
            }
            lender.by_head.entry(head(data)).or_default().push(index);
        }
        lender
    }

    /// How the constant `data`, weights of these extents where there are any, is made of one that is lent.
    fn find(&self, data: &[u8], filters: Option<&[usize; 3]>, precision: Precision) -> Option<Borrowing<'_>> {
        let all = |indices: Option<&Vec<usize>>| -> Vec<&Lent> {
            indices.into_iter().flatten().filter_map(|&index| self.constants.get(index)).collect()
        };
        let borrowing = |lent, stored, retile| Borrowing { lent, stored, retile };
        if let Some(&[outputs, taps, inputs]) = filters {
            let stored = match precision {
                Precision::Fp16 => &Stored::F16,
                Precision::Bf16 => &Stored::BF16,
                Precision::Tf32 => &Stored::TF32,
                Precision::Fp32 => &Stored::F32,
            };
            let [outputs, taps, inputs] = [outputs, taps, inputs].map(i32::try_from);
            let retile = Retile { outputs: outputs.ok()?, taps: taps.ok()?, inputs: inputs.ok()?, panels: 1 };
            let same = |lent: &&Lent| gives(stored, &retile, &lent.data, data);
            if let Some(lent) = all(self.by_filters.get(filters?)).into_iter().find(same) {
                return Some(borrowing(lent, stored, retile));
            }
        }
        let retile = |bytes: u64| Some(Retile::in_order(i32::try_from(data.len() as u64 / bytes).ok()?));
        let whole = all(self.by_head.get(&head(data))).into_iter().find(|lent| lent.data.starts_with(data));
        if let Some(lent) = whole.filter(|_| data.len().is_multiple_of(4)) {
            return Some(borrowing(lent, &Stored::F32, retile(4)?));
        }
        if precision != Precision::Bf16 {
            return None;
        }
        let (retile, bytes) = (retile(2)?, 2 * data.len());
        let narrowed =
            |lent: &&Lent| lent.data.len() == bytes && gives(&Stored::BF16, &retile, &lent.data, data);
        self.constants.iter().find(narrowed).map(|lent| borrowing(lent, &Stored::BF16, retile))
    }
}

fn head(data: &[u8]) -> [u8; HEAD_BYTES] {
    std::array::from_fn(|index| data.get(index).copied().unwrap_or_default())
}

/// Whether `retile` makes `data` of `lent`.
fn gives(stored: &Stored, retile: &Retile, lent: &[u8], data: &[u8]) -> bool {
    let [from_bytes, to_bytes] = [stored.from_bytes, stored.to_bytes].map(|bytes| bytes as usize);
    let Some((from, to)) = retile.elements() else { return false };
    if from as usize * from_bytes > lent.len() || to as usize * to_bytes != data.len() {
        return false;
    }
    let bits = |bytes: &[u8]| match *bytes {
        [low, high] => u16::from_le_bytes([low, high]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    };
    data.par_chunks(RUN * to_bytes).enumerate().all(|(run, data)| {
        data.chunks_exact(to_bytes).enumerate().all(|(index, element)| {
            let made = retile.source(run * RUN + index).map_or(0, |at| {
                lent.get(at * from_bytes..(at + 1) * from_bytes)
                    .map_or(0, |found| (stored.convert)(bits(found)))
            });
            made == bits(element)
        })
    })
}

/// Makes constants of `calls` that `lender` has borrowed ones; gives how many bytes these are.
pub fn borrow(calls: &mut Calls, precision: Precision, lender: &Lender) -> u64 {
    let mut readers: HashMap<BufferId, String> = HashMap::new();
    for call in &calls.calls {
        for span in call.operands.iter().flatten() {
            readers.entry(span.buffer).or_insert_with(|| call.node.clone());
        }
    }
    let mut borrowed = 0;
    for index in 0..calls.buffers.len() {
        let id = BufferId(index as u32);
        let BufferKind::Constant(data) = &calls.buffers[index].kind else { continue };
        // What no call reads is not in the plan.
        let Some(node) = readers.remove(&id).filter(|_| data.len() >= LEAST_BYTES) else { continue };
        let Some(found) = lender.find(data, calls.filters.get(&id), precision) else { continue };
        let Borrowing { lent, stored, retile } = found;
        let bytes = retile.elements().map_or(0, |(from, _)| from * stored.from_bytes);
        borrowed += data.len() as u64;
        calls.buffers[index].kind = BufferKind::Prepared;
        let from = calls.add_buffer(BufferKind::Borrowed(lent.offset), bytes);
        calls.prepare.push(KernelCall {
            kernel: stored.kernel.to_owned(),
            params: bytemuck::bytes_of(&retile).to_vec(),
            operands: vec![Some(calls.whole(from)), Some(calls.whole(id))],
            outputs: 1,
            node,
        });
    }
    calls.lender = (borrowed > 0).then_some(lender.id);
    borrowed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One constant of the processor: the panels of 17 × 2 × 18 filters of these elements.
    fn lender(panels: &[f32]) -> Lender {
        let data = Bytes::copy_from_slice(bytemuck::cast_slice(panels));
        Lender {
            id: PlanId { checksum: 1, weight_bytes: data.len() as u64 },
            by_head: HashMap::from([(head(&data), vec![0])]),
            by_filters: HashMap::from([([17, 2, 18], vec![0])]),
            constants: vec![Lent { offset: 0, data }],
        }
    }

    #[test]
    fn what_differs_in_one_element_is_not_borrowed() {
        let retile = Retile { outputs: 17, taps: 2, inputs: 18, panels: 1 };
        let (from, to) = retile.elements().unwrap();
        let panels: Vec<f32> = (0..from).map(|index| index as f32 + 0.1).collect();
        let lender = lender(&panels);
        let packed: Vec<f32> =
            (0..to as usize).map(|index| retile.source(index).map_or(0.0, |at| panels[at])).collect();
        let find = |packed: &[f32], precision| {
            let found = lender.find(bytemuck::cast_slice(packed), Some(&[17, 2, 18]), precision)?;
            Some((found.stored.kernel, found.retile))
        };
        assert_eq!(find(&packed, Precision::Fp32), Some(("cuda_retile_f32", retile)));
        // Not rounded, and of another width.
        assert_eq!(find(&packed, Precision::Tf32), None);
        assert_eq!(find(&packed, Precision::Fp16), None);
        for index in [0, packed.len() / 2, packed.len() - 1] {
            let mut other = packed.clone();
            other[index] += 1.0;
            assert_eq!(find(&other, Precision::Fp32), None, "{index}");
        }
        // In the processor's own order, as nodes have it that are lowered as for the processor.
        let count = panels.len() as i32;
        assert_eq!(find(&panels, Precision::Fp32), Some(("cuda_retile_f32", Retile::in_order(count))));
        assert_eq!(find(&panels[..512], Precision::Fp32), Some(("cuda_retile_f32", Retile::in_order(512))));
        assert_eq!(find(&panels[1..], Precision::Fp32), None);
    }
}
