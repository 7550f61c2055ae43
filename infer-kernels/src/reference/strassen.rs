//! Strassen's product by its definition, in f64.

use half::f16;

use super::Registered;
use super::conv::finish;
use crate::call::{BLOCK, Strassen, StrassenLeft};
use crate::{Args, RunError, kernels};

/// The kernels of this family.
pub const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::STRASSEN_F32, reference: strassen_f32 },
    Registered { kernel: &kernels::STRASSEN_F16W, reference: strassen_f16w },
    Registered { kernel: &kernels::STRASSEN_LEFT_F32, reference: strassen_left_f32 },
];

/// `strassen_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn strassen_f32(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f32.
    unsafe { strassen(args, |at| *args.operands[1].ptr::<f32>().add(at)) };
    Ok(())
}

/// `strassen_f16w`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn strassen_f16w(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promise; the weights are f16.
    unsafe { strassen(args, |at| (*args.operands[1].ptr::<f16>().add(at)).to_f32()) };
    Ok(())
}

/// Where an element of a stored matrix of the left side lies.
fn left_at(p: &StrassenLeft, part: usize, matrix: usize, row: usize, column: usize) -> usize {
    let half = p.half_columns() as usize;
    let pitch = p.pitch() as usize;
    let matrices = StrassenLeft::MATRICES as usize;
    (part * matrices + matrix) * half * pitch + (column / BLOCK * pitch + row) * BLOCK + column % BLOCK
}

unsafe fn strassen(args: &Args<'_>, weight: impl Fn(usize) -> f32) {
    let s: &Strassen = args.params();
    let (p, left) = (&s.conv, s.left());
    let (k, rows, columns) = (p.in_channels as usize, p.out_w as usize, p.out_channels as usize);
    let (half, half_rows) = (left.half_columns() as usize, left.half_rows() as usize);
    let input = args.operands[0].ptr::<f32>();
    for row in 0..half_rows {
        for group in 0..columns / (4 * BLOCK) {
            for lane in 0..2 * BLOCK {
                let mut c = [0.0_f64; 4];
                for part in 0..s.parts as usize {
                    for column in 0..half {
                        let a = |matrix| {
                            let at = left_at(&left, part, matrix, row, column);
                            // SAFETY: the call was validated.
                            f64::from(unsafe { *input.add(at) })
                        };
                        let b = |right: usize, lower: usize| {
                            let panel = group * 4 + right * 2 + lane / BLOCK;
                            let channel = (part * 2 + lower) * half + column;
                            f64::from(weight((panel * k + channel) * BLOCK + lane % BLOCK))
                        };
                        let (b11, b12, b21, b22) = (b(0, 0), b(1, 0), b(0, 1), b(1, 1));
                        let t1 = b12 - b11;
                        let t2 = b22 - t1;
                        let p1 = a(0) * b11;
                        let u2 = p1 + a(4) * t2;
                        let u3 = u2 + a(5) * (b22 - b12);
                        let p5 = a(3) * t1;
                        let results =
                            [p1 + a(1) * b21, u2 + p5 + a(6) * b22, u3 + a(2) * (b21 - t2), u3 + p5];
                        c.iter_mut().zip(results).for_each(|(c, result)| *c += result);
                    }
                }
                for (quarter, value) in c.into_iter().enumerate() {
                    let (x, panel) =
                        (row + quarter / 2 * half_rows, group * 4 + quarter % 2 * 2 + lane / BLOCK);
                    if x < rows {
                        let channel = panel * BLOCK + lane % BLOCK;
                        // SAFETY: the call was validated.
                        unsafe {
                            finish(args, p, [0, panel, 0, x, lane % BLOCK], Some(channel), value as f32);
                        }
                    }
                }
            }
        }
    }
}

/// `strassen_left_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn strassen_left_f32(args: &Args<'_>) -> Result<(), RunError> {
    let p: &StrassenLeft = args.params();
    let (rows, half_rows, half) = (p.rows as usize, p.half_rows() as usize, p.half_columns() as usize);
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    for part in 0..p.parts as usize {
        for row in 0..half_rows {
            for column in 0..half {
                let read = |lower: usize, right: usize| {
                    let row = row + lower * half_rows;
                    let at = row * p.stride as usize + (part * 2 + right) * half + column;
                    // SAFETY: the call was validated.
                    if row < rows { unsafe { *input.add(at) } } else { 0.0 }
                };
                let (a11, a12, a21, a22) = (read(0, 0), read(0, 1), read(1, 0), read(1, 1));
                let s1 = a21 + a22;
                let s2 = s1 - a11;
                for (matrix, value) in [a11, a12, a22, s1, s2, a11 - a21, a12 - s2].into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { *output.add(left_at(p, part, matrix, row, column)) = value };
                }
            }
        }
    }
    Ok(())
}
