//! Oracles of pooled regions: bin by bin, sample by sample.

use super::Registered;
use crate::call::{MaxRoiPool, RoiAlign};
use crate::cpu::grid_sample::Sampled;
use crate::cpu::region::{image, named_image};
use crate::{Args, RunError, kernels};

/// Calls `pool` with region, channel, row and column of every bin, and with the element of the output.
fn each_bin(
    [regions, channels, out_h, out_w]: [u64; 4],
    mut pool: impl FnMut([u64; 4], usize) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let extents = [regions, channels, out_h, out_w];
    for number in 0..if extents.contains(&0) { 0 } else { extents.iter().product() } {
        let (bin, plane) = (number % (out_h * out_w), number / (out_h * out_w));
        pool([plane / channels, plane % channels, bin / out_w, bin % out_w], number as usize)?;
    }
    Ok(())
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn align<T: Sampled>(args: &Args<'_>) -> Result<(), RunError> {
    let p: &RoiAlign = args.params();
    let is_wide = size_of::<T>() == 8;
    each_bin([p.regions, p.channels, p.out_h, p.out_w], |[region, channel, y, x], at| {
        // SAFETY: there are four edges and an image for each region.
        let (image, edge) = unsafe {
            let edges = args.operands[1].ptr::<T>().add(region as usize * 4);
            (image(p, args.operands[2].data, region as usize)?, move |edge: usize| (*edges.add(edge)).wide())
        };
        let rows = p.axis([edge(1), edge(3)], p.in_h, p.out_h, is_wide).ok_or(RunError::RegionTooLarge)?;
        let columns = p.axis([edge(0), edge(2)], p.in_w, p.out_w, is_wide).ok_or(RunError::RegionTooLarge)?;
        let plane = image as u64 * p.channels + channel;
        let value = |row: usize, column: usize| {
            let at = (plane * p.in_h + row as u64) * p.in_w + column as u64;
            // SAFETY: samples lie inside of the image, which is one of those that there are.
            unsafe { *args.operands[0].ptr::<T>().add(at as usize) }.wide()
        };
        let (mut sum, mut greatest) = (0.0, f64::NEG_INFINITY);
        for i in 0..rows.each {
            for j in 0..columns.each {
                let (Some(row), Some(column)) = (rows.sample(y, i), columns.sample(x, j)) else {
                    greatest = f64::max(greatest, 0.0);
                    continue;
                };
                let corners = [
                    (1.0 - row.weight) * (1.0 - column.weight) * value(row.low, column.low),
                    (1.0 - row.weight) * column.weight * value(row.low, column.high),
                    row.weight * (1.0 - column.weight) * value(row.high, column.low),
                    row.weight * column.weight * value(row.high, column.high),
                ];
                sum += corners.iter().sum::<f64>();
                greatest = corners.into_iter().fold(greatest, f64::max);
            }
        }
        let count = rows.each * columns.each;
        let pooled = if p.max == 1 { greatest } else { sum / count as f64 };
        // SAFETY: the call was validated.
        unsafe { *args.operands[3].ptr::<T>().add(at) = T::of(if count == 0 { 0.0 } else { pooled }) };
        Ok(())
    })
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn pool<T: Sampled>(args: &Args<'_>) -> Result<(), RunError> {
    let p: &MaxRoiPool = args.params();
    let is_wide = size_of::<T>() == 8;
    each_bin([p.regions, p.channels, p.out_h, p.out_w], |[region, channel, y, x], at| {
        // SAFETY: there are five numbers for each region.
        let number = |number: usize| unsafe {
            (*args.operands[1].ptr::<T>().add(region as usize * 5 + number)).wide()
        };
        let plane = named_image(p, number(0))? as u64 * p.channels + channel;
        let mut greatest: Option<f64> = None;
        for row in p.part([number(2), number(4)], p.in_h, y, p.out_h, is_wide) {
            for column in p.part([number(1), number(3)], p.in_w, x, p.out_w, is_wide) {
                let at = (plane * p.in_h + row as u64) * p.in_w + column as u64;
                // SAFETY: parts lie inside of the image, which is one of those that there are.
                let value = unsafe { *args.operands[0].ptr::<T>().add(at as usize) }.wide();
                greatest = Some(greatest.map_or(value, |greatest| greatest.max(value)));
            }
        }
        // SAFETY: the call was validated.
        unsafe { *args.operands[2].ptr::<T>().add(at) = T::of(greatest.unwrap_or(0.0)) };
        Ok(())
    })
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::ROI_ALIGN_F32, reference: align::<f32> },
    Registered { kernel: &kernels::ROI_ALIGN_F64, reference: align::<f64> },
    Registered { kernel: &kernels::MAX_ROI_POOL_F32, reference: pool::<f32> },
    Registered { kernel: &kernels::MAX_ROI_POOL_F64, reference: pool::<f64> },
];
