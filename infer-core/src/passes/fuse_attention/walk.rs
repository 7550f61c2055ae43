//! The axes that queries, keys, values, output and masks walk together.

use infer_kernels::call::LEAD;

use crate::passes::strided::{Axis, Run, merged};

/// One axis that all operands walk at a distance each.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) extent: usize,
    pub(super) strides: Vec<usize>,
}

/// The leading axes and the rows, cut so finely that every operand has one distance along each, and no finer. The last
/// axis is that of the rows.
pub(super) struct Walk {
    pub(super) axes: Vec<Step>,
}

impl Walk {
    /// Over the extents `over`, of operands with axes each.
    pub(super) fn new(over: &[usize], operands: &[Vec<Axis>]) -> Option<Self> {
        let mut axes: Vec<Step> = Vec::new();
        for (axis, &whole) in over.iter().enumerate() {
            let is_row = axis + 1 == over.len();
            let runs: Vec<Axis> =
                operands.iter().map(|axes| Some(merged([axes.get(axis)?]))).collect::<Option<_>>()?;
            // How many positions lie inside of each cut, from any operand.
            let mut cuts = vec![1, whole];
            for runs in &runs {
                let mut inside = whole;
                for run in runs {
                    inside /= run.extent;
                    cuts.push(inside);
                }
            }
            cuts.sort_unstable_by(|a, b| b.cmp(a));
            cuts.dedup();
            for pair in cuts.windows(2) {
                let [outside, inside] = [pair[0], pair[1]];
                if outside % inside != 0 {
                    return None;
                }
                let strides =
                    runs.iter().map(|runs| stride_at(runs, whole, inside)).collect::<Option<_>>()?;
                let step = Step { extent: outside / inside, strides };
                let follows = |outer: &Step| {
                    outer.strides.iter().zip(&step.strides).all(|(o, i)| *o == step.extent * i)
                };
                match axes.last_mut() {
                    // The rows stay an axis of their own.
                    Some(outer) if follows(outer) && !is_row => {
                        outer.extent *= step.extent;
                        outer.strides = step.strides;
                    }
                    _ => axes.push(step),
                }
            }
            if is_row && whole == 1 {
                axes.push(Step { extent: 1, strides: vec![0; operands.len()] });
            }
        }
        Some(Walk { axes })
    }

    /// Where there is but one row, takes an axis for that of the rows along which keys and values stay the same.
    pub(super) fn choose_rows(&mut self) {
        if self.rows() != 1 {
            return;
        }
        let shared = |step: &Step| step.extent > 1 && step.strides[1] == 0 && step.strides[2] == 0;
        if let Some(index) = self.axes.iter().rposition(shared) {
            let step = self.axes.remove(index);
            self.axes.pop();
            self.axes.push(step);
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.axes.last().map_or(1, |step| step.extent)
    }

    pub(super) fn row_stride(&self, operand: usize) -> usize {
        self.axes.last().map_or(0, |step| step.strides[operand])
    }

    pub(super) fn outer(&self) -> &[Step] {
        self.axes.split_last().map_or(&[], |(_, outer)| outer)
    }

    /// The extents of the leading axes; `None` where there are more than a kernel walks.
    pub(super) fn lead(&self) -> Option<[u64; LEAD]> {
        let outer = self.outer();
        let mut lead = [1; LEAD];
        let first = LEAD.checked_sub(outer.len())?;
        for (slot, step) in lead[first..].iter_mut().zip(outer) {
            *slot = step.extent as u64;
        }
        Some(lead)
    }

    pub(super) fn lead_strides(&self, operand: usize) -> [u64; LEAD] {
        let outer = self.outer();
        let mut lead = [0; LEAD];
        for (slot, step) in lead[LEAD - outer.len()..].iter_mut().zip(outer) {
            *slot = step.strides[operand] as u64;
        }
        lead
    }
}

/// The distance between positions that have `inside` others each inside of them.
fn stride_at(runs: &[Run], whole: usize, inside: usize) -> Option<usize> {
    let mut before = whole;
    for run in runs {
        let after = before / run.extent;
        if inside >= after && inside < before {
            return inside.is_multiple_of(after).then(|| run.stride * (inside / after));
        }
        before = after;
    }
    (whole == 1).then_some(0)
}
