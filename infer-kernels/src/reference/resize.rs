//! Interpolation by tables of taps, tap by tap.

use super::Registered;
use crate::call::Resize;
use crate::{Args, RunError, kernels};

/// Table entry `index` as a position on an axis of `length` elements.
fn position(index: i64, length: u64) -> Result<u64, RunError> {
    match u64::try_from(index) {
        Ok(position) if position < length => Ok(position),
        _ => Err(RunError::IndexOutOfRange { index, length }),
    }
}

unsafe fn resize(args: &Args<'_>) -> Result<(), RunError> {
    let p = args.params::<Resize>();
    if p.n == 0 || p.blocks == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    let (indices, weights) = (args.operands[1].ptr::<i64>(), args.operands[2].ptr::<f32>());
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[3].ptr::<f32>());
    for n in 0..p.n {
        for block in 0..p.blocks {
            for y in 0..p.out_h {
                for x in 0..p.out_w {
                    for lane in 0..p.lanes {
                        let mut sum = 0.0;
                        for a in 0..p.taps_h {
                            for b in 0..p.taps_w {
                                let (row, column) = (
                                    (y * p.taps_h + a) as usize,
                                    (p.out_h * p.taps_h + x * p.taps_w + b) as usize,
                                );
                                // SAFETY: the call was validated, and both positions are inside the input.
                                unsafe {
                                    let h = position(*indices.add(row), p.in_h)?;
                                    let w = position(*indices.add(column), p.in_w)?;
                                    let v = &p.input;
                                    let from = v.offset
                                        + n * v.stride_n
                                        + block * v.stride_c
                                        + h * v.stride_h
                                        + w * v.stride_w;
                                    sum += *weights.add(row)
                                        * *weights.add(column)
                                        * *input.add((from + lane) as usize);
                                }
                            }
                        }
                        let v = &p.output;
                        let to =
                            v.offset + n * v.stride_n + block * v.stride_c + y * v.stride_h + x * v.stride_w;
                        // SAFETY: the call was validated.
                        unsafe { *output.add((to + lane) as usize) = sum };
                    }
                }
            }
        }
    }
    Ok(())
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[Registered { kernel: &kernels::RESIZE_F32, reference: resize }];
