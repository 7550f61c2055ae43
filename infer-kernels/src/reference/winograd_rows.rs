//! Winograd's convolution along rows by its definition, Aᵀ [Σ (G g) ∘ (Bᵀ d)], in f64.

use super::Registered;
use super::conv::{element, finish};
use super::winograd::{Matrix, of_points};
use crate::call::{BLOCK, Conv, WINOGRAD_ROWS};
use crate::{Args, RunError, kernels};

/// The kernels of this family.
pub const REGISTRY: &[Registered] =
    &[Registered { kernel: &kernels::WINOGRAD_ROWS_F32, reference: winograd_rows_f32 }];

/// Bᵀ, G and Aᵀ.
fn matrices() -> [Matrix; 3] {
    of_points(&[0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0], WINOGRAD_ROWS.taps as usize)
}

/// G g: what the five taps of a row become for the eight planes.
pub fn filter(taps: &[f32; WINOGRAD_ROWS.taps as usize]) -> [f32; WINOGRAD_ROWS.planes() as usize] {
    let [_, g, _] = matrices();
    std::array::from_fn(|plane| {
        g[plane].iter().zip(taps).map(|(g, &tap)| g * f64::from(tap)).sum::<f64>() as f32
    })
}

/// `winograd_rows_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn winograd_rows_f32(args: &Args<'_>) -> Result<(), RunError> {
    let p: &Conv = args.params();
    let [b, _, a] = matrices();
    let (planes, tile) = (b.len(), a.len());
    let (channels, taps) = (p.in_channels as usize, p.kernel_h as usize);
    let (out_channels, out_w) = (p.out_channels as usize, p.out_w as usize);
    let panels = out_channels.div_ceil(BLOCK);
    let (input, weights) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    for n in 0..p.n as usize {
        for (y, left) in
            (0..p.out_h as usize).flat_map(|y| (0..out_w).step_by(tile).map(move |left| (y, left)))
        {
            for lane in 0..panels * BLOCK {
                let mut sums = vec![0.0; planes];
                for (c, tap) in (0..channels).flat_map(|c| (0..taps).map(move |tap| (c, tap))) {
                    let read = |x: usize| {
                        if x < out_w + planes - tile {
                            // SAFETY: the call was validated.
                            f64::from(unsafe {
                                *input.add(element(&p.input, n, c / BLOCK, y + tap, x) + c % BLOCK)
                            })
                        } else {
                            0.0
                        }
                    };
                    let in_this_block = BLOCK.min(channels - c / BLOCK * BLOCK);
                    let k = c / BLOCK * BLOCK * taps + tap * in_this_block + c % BLOCK;
                    for (plane, sum) in sums.iter_mut().enumerate() {
                        let d: f64 = b[plane].iter().enumerate().map(|(j, b)| b * read(left + j)).sum();
                        let row = (plane * panels + lane / BLOCK) * channels * taps + k;
                        // SAFETY: the call was validated.
                        *sum += d * f64::from(unsafe { *weights.add(row * BLOCK + lane % BLOCK) });
                    }
                }
                let channel = (lane < out_channels).then_some(lane);
                for (j, a) in a.iter().enumerate().take(out_w - left) {
                    let value: f64 = a.iter().zip(&sums).map(|(a, sum)| a * sum).sum();
                    let at = [n, lane / BLOCK, y, left + j, lane % BLOCK];
                    // SAFETY: the call was validated.
                    unsafe { finish(args, p, at, channel, value as f32) };
                }
            }
        }
    }
    Ok(())
}
