//! Oracle of pictures read at the places of a grid: element by element.

use super::Registered;
use crate::call::GridSample;
use crate::cpu::grid_sample::{Sampled, place};
use crate::{Args, RunError, kernels};

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn sample<T: Sampled>(args: &Args<'_>) -> Result<(), RunError> {
    let p: &GridSample = args.params();
    let (input, output) = (args.operands[0].ptr::<T>(), args.operands[2].ptr::<T>());
    let dims = &p.dims[..p.rank as usize];
    let elements = if dims.contains(&0) { 0 } else { dims.iter().product() };
    for plane in 0..if p.points == 0 || p.n == 0 { 0 } else { p.n * p.channels } {
        for point in 0..p.points {
            // SAFETY: the call was validated: the grid has `points` places for each image.
            let place =
                unsafe { place(p, args.operands[1].data, (plane / p.channels * p.points + point) as usize) };
            let mut sum: Option<f64> = None;
            p.each_read(&place, |at, weight| {
                // SAFETY: what a place reads is inside of its picture.
                let value = unsafe { (*input.add(plane as usize * elements as usize + at)).wide() };
                sum = Some(sum.map_or(value * weight, |sum| sum + value * weight));
            });
            // SAFETY: the output has `points` elements in each plane.
            unsafe { *output.add((plane * p.points + point) as usize) = T::of(sum.unwrap_or(0.0)) };
        }
    }
    Ok(())
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::GRID_SAMPLE_F32, reference: sample::<f32> },
    Registered { kernel: &kernels::GRID_SAMPLE_F64, reference: sample::<f64> },
];
