//! Winograd's convolution by its definition, Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A, in f64.

use half::f16;

use super::Registered;
use super::conv::{element, finish};
use crate::call::{BLOCK, Winograd, WinogradWeights};
use crate::{Args, RunError, kernels};

/// The kernels of this family.
pub const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::WINOGRAD_F32, reference: winograd_f32 },
    Registered { kernel: &kernels::WINOGRAD_WEIGHTS_F32, reference: winograd_weights_f32 },
    Registered { kernel: &kernels::WINOGRAD_WEIGHTS_F16W, reference: winograd_weights_f16w },
];

pub(super) type Matrix = Vec<Vec<f64>>;

/// Bᵀ, G and Aᵀ for tiles of `tile` outputs.
fn matrices(tile: usize) -> [Matrix; 3] {
    let rows = |rows: &[&[f64]]| rows.iter().map(|row| row.to_vec()).collect();
    if tile == 2 {
        return [
            rows(&[&[1., 0., -1., 0.], &[0., 1., 1., 0.], &[0., -1., 1., 0.], &[0., 1., 0., -1.]]),
            rows(&[&[1., 0., 0.], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0., 0., 1.]]),
            rows(&[&[1., 1., 1., 0.], &[0., 1., -1., -1.]]),
        ];
    }
    of_points(&[0.0, 0.625, -0.625, 1.5, -1.5], 3)
}

/// Bᵀ, G and Aᵀ for `taps` taps on `points` and infinity.
pub(super) fn of_points(points: &[f64], taps: usize) -> [Matrix; 3] {
    let inputs = points.len() + 1;
    let outputs = inputs + 1 - taps;
    let (mut b, mut g) = (Matrix::new(), Matrix::new());
    let mut all = vec![1.0];
    for (index, &p) in points.iter().enumerate() {
        let mut others = vec![1.0];
        let mut scale = 1.0;
        for &q in points.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, q)| q) {
            others = times(&others, q);
            scale *= p - q;
        }
        others.resize(inputs, 0.0);
        b.push(others);
        g.push((0..taps as i32).map(|power| p.powi(power) / scale).collect());
        all = times(&all, p);
    }
    b.push(all);
    g.push((1..=taps).map(|tap| f64::from(u8::from(tap == taps))).collect());
    let last = |power: usize| f64::from(u8::from(power + 1 == outputs));
    let row = |power: usize| points.iter().map(|p| p.powi(power as i32)).chain([last(power)]).collect();
    [b, g, (0..outputs).map(row).collect()]
}

/// The polynomial, coefficients from the constant one on, times (x − q).
fn times(polynomial: &[f64], q: f64) -> Vec<f64> {
    let at = |index: Option<usize>| index.and_then(|i| polynomial.get(i)).copied().unwrap_or(0.0);
    (0..=polynomial.len()).map(|i| at(i.checked_sub(1)) - q * at(Some(i))).collect()
}

/// m x mᵀ
fn both_sides(m: &Matrix, x: &Matrix) -> Matrix {
    let product = |a: &Matrix, b: &Matrix| -> Matrix {
        a.iter()
            .map(|row| {
                (0..b[0].len()).map(|j| row.iter().zip(b).map(|(value, b)| value * b[j]).sum()).collect()
            })
            .collect()
    };
    let transposed: Matrix = (0..m[0].len()).map(|j| m.iter().map(|row| row[j]).collect()).collect();
    product(&product(m, x), &transposed)
}

/// Where plane 0 of an output channel's weights for an input channel lies, and the distance between planes.
fn weights_at(
    [group, lane, channel]: [usize; 3],
    [in_channels, out_channels]: [usize; 2],
    planes: usize,
) -> (usize, usize) {
    let panels = out_channels.div_ceil(BLOCK);
    let (panel, lane) = (lane / BLOCK, lane % BLOCK);
    let in_pair = 2.min(panels - panel / 2 * 2);
    let pair = (group * panels + panel / 2 * 2) * planes * in_channels * BLOCK;
    (pair + (panel % 2 * in_channels + channel) * BLOCK + lane, in_pair * in_channels * BLOCK)
}

/// `winograd_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn winograd_f32(args: &Args<'_>) -> Result<(), RunError> {
    let w: &Winograd = args.params();
    let p = &w.conv;
    let (tile, width) = (w.tile as usize, w.tile as usize + 2);
    let [b, _, a] = matrices(tile);
    let (in_channels, out_channels) = (p.in_channels as usize, p.out_channels as usize);
    let in_blocks = in_channels.div_ceil(BLOCK);
    let out_blocks = out_channels.div_ceil(BLOCK);
    let (out_h, out_w) = (p.out_h as usize, p.out_w as usize);
    let (input, weights) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    for n in 0..p.n as usize {
        for group in 0..p.groups as usize {
            for (top, left) in
                (0..out_h).step_by(tile).flat_map(|y| (0..out_w).step_by(tile).map(move |x| (y, x)))
            {
                let transformed: Vec<Matrix> = (0..in_channels)
                    .map(|c| {
                        let block = group * in_blocks + c / BLOCK;
                        let read = |y: usize, x: usize| {
                            if y < out_h + 2 && x < out_w + 2 {
                                // SAFETY: the call was validated.
                                f64::from(unsafe {
                                    *input.add(element(&p.input, n, block, y, x) + c % BLOCK)
                                })
                            } else {
                                0.0
                            }
                        };
                        let d = (0..width)
                            .map(|i| (0..width).map(|j| read(top + i, left + j)).collect())
                            .collect();
                        both_sides(&b, &d)
                    })
                    .collect();
                for lane in 0..out_blocks * BLOCK {
                    let mut sums = vec![vec![0.0; width]; width];
                    for (c, d) in transformed.iter().enumerate() {
                        let (first, step) =
                            weights_at([group, lane, c], [in_channels, out_channels], width * width);
                        for (i, row) in sums.iter_mut().enumerate() {
                            for (j, sum) in row.iter_mut().enumerate() {
                                // SAFETY: the call was validated.
                                let weight = unsafe { *weights.add(first + (i * width + j) * step) };
                                *sum += d[i][j] * f64::from(weight);
                            }
                        }
                    }
                    let y = both_sides(&a, &sums);
                    let panel = group * out_blocks + lane / BLOCK;
                    let channel = (lane < out_channels).then_some(group * out_channels + lane);
                    for (i, row) in y.iter().enumerate().take(out_h - top) {
                        for (j, &y) in row.iter().enumerate().take(out_w - left) {
                            let at = [n, panel, top + i, left + j, lane % BLOCK];
                            // SAFETY: the call was validated.
                            unsafe { finish(args, p, at, channel, y as f32) };
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// `winograd_weights_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn winograd_weights_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f32.
    unsafe { filters(args, |at| *args.operands[0].ptr::<f32>().add(at)) };
    Ok(())
}

/// `winograd_weights_f16w`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn winograd_weights_f16w(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f16.
    unsafe { filters(args, |at| (*args.operands[0].ptr::<f16>().add(at)).to_f32()) };
    Ok(())
}

unsafe fn filters(args: &Args<'_>, weight: impl Fn(usize) -> f32) {
    let output = args.operands[1].ptr::<f32>();
    // SAFETY: the call was validated.
    each_filter(args.params(), weight, |at, value| unsafe { *output.add(at) = value });
}

/// What `winograd_weights_f32` makes of the weights `panels`, into `planes`: see [`WinogradWeights`].
///
/// # Panics
///
/// If either has another size than `params` says.
pub fn weights(params: &WinogradWeights, panels: &[f32], planes: &mut [f32]) {
    each_filter(params, |at| panels[at], |at, value| planes[at] = value);
}

/// G g Gᵀ of every filter: `weight` reads elements of the panels, `write` gets those of the planes.
fn each_filter(p: &WinogradWeights, weight: impl Fn(usize) -> f32, mut write: impl FnMut(usize, f32)) {
    let tile = p.tile as usize;
    let planes = (tile + 2) * (tile + 2);
    let [_, g, _] = matrices(tile);
    let (in_channels, out_channels) = (p.in_channels as usize, p.out_channels as usize);
    let panels = out_channels.div_ceil(BLOCK);
    for group in 0..p.groups as usize {
        for lane in 0..panels * BLOCK {
            for c in 0..in_channels {
                let (block, in_this_block) = (c / BLOCK, BLOCK.min(in_channels - c / BLOCK * BLOCK));
                let panel = (group * panels + lane / BLOCK) * in_channels * 9;
                let tap = |i: usize, j: usize| {
                    let k = block * BLOCK * 9 + (i * 3 + j) * in_this_block + c % BLOCK;
                    f64::from(weight((panel + k) * BLOCK + lane % BLOCK))
                };
                let filter: [[f64; 3]; 3] = std::array::from_fn(|i| std::array::from_fn(|j| tap(i, j)));
                let (first, step) = weights_at([group, lane, c], [in_channels, out_channels], planes);
                for (i, left) in g.iter().enumerate() {
                    let row: [f64; 3] =
                        std::array::from_fn(|j| left.iter().zip(&filter).map(|(g, row)| g * row[j]).sum());
                    for (j, right) in g.iter().enumerate() {
                        let value: f64 = row.iter().zip(right).map(|(value, g)| value * g).sum();
                        write(first + (i * g.len() + j) * step, value as f32);
                    }
                }
            }
        }
    }
}
