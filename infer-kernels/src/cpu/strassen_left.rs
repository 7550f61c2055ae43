//! `strassen_left_f32`: the left side of products by Strassen's algorithm, `strassen.rs`.

use crate::call::{BLOCK, StrassenLeft};
use crate::cpu::share;
use crate::cpu::vector::Vector;
use crate::{Args, Call, Invalid, Kernel, RunError};

/// The left side of [`super::strassen::STRASSEN_F32`]; see [`StrassenLeft`].
pub static STRASSEN_LEFT_F32: Kernel = Kernel {
    name: "strassen_left_f32",
    validate: validate_left,
    chunks: left_chunks,
    run: per_isa!(left<_>, amx super::strassen_amx::left),
};

/// Elements of the left matrix that are worth a chunk.
const LEFT_CHUNK: u64 = 16 * 1024;

/// Blocks of columns of the left matrix that are gone through together: whole lines follow each other.
const STRIP: usize = 4;

/// The stored matrices of the left side, in their order.
pub(super) const A11: usize = 0;
pub(super) const A12: usize = 1;
pub(super) const A22: usize = 2;
pub(super) const S1: usize = 3;
pub(super) const S2: usize = 4;
pub(super) const S3: usize = 5;
pub(super) const S4: usize = 6;

/// Whether the extents are those of halves.
pub(super) fn validate_shape(left: &StrassenLeft) -> Result<(), Invalid> {
    let fields = [left.rows, left.columns, left.parts];
    if fields.into_iter().any(|field| field > 1 << 31) || left.stride > 1 << 40 {
        return Err(Invalid("extent or stride too large"));
    }
    if left.parts == 0 || !left.columns.is_multiple_of(2 * BLOCK as u64 * left.parts) {
        return Err(Invalid("parts that are not halves of whole blocks"));
    }
    Ok(())
}

fn validate_left(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &StrassenLeft = call.params()?;
    call.expect_operands(2)?;
    validate_shape(p)?;
    if p.rows == 0 || p.columns == 0 {
        return Ok(());
    }
    let last = (p.rows - 1).checked_mul(p.stride);
    call.expect_elements(0, last.and_then(|last| last.checked_add(p.columns)), 4)?;
    call.expect_elements(1, p.elements(), 4)
}

fn left_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &StrassenLeft = args.params();
    let worthwhile = p.rows.saturating_mul(p.columns) / LEFT_CHUNK;
    usize::try_from(worthwhile).unwrap_or(usize::MAX).clamp(1, threads.max(1))
}

/// Runs one chunk of `strassen_left_f32`: blocks of columns.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn left<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &StrassenLeft = args.params();
    let (rows, stride) = (p.rows as usize, p.stride as usize);
    let (half_rows, half, pitch) = (p.half_rows() as usize, p.half_columns() as usize, p.pitch() as usize);
    let matrix = p.matrix().unwrap_or(0) as usize;
    let (from, to) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let strips = (half / BLOCK).div_ceil(STRIP);
    for unit in share(p.parts as usize * strips, chunk, chunks) {
        let (part, first) = (unit / strips, unit % strips * STRIP);
        let blocks = STRIP.min(half / BLOCK - first);
        let column = part * 2 * half + first * BLOCK;
        let to = to.wrapping_add(part * StrassenLeft::MATRICES as usize * matrix + first * pitch * BLOCK);
        for row in 0..half_rows {
            let has_lower = half_rows + row < rows;
            for block in 0..blocks {
                // SAFETY: validation bounded both sides; a row of the lower half is read only if there is one.
                unsafe {
                    let upper = from.add(row * stride + column + block * BLOCK);
                    let (a11, a12) = (V::load(upper), V::load(upper.add(half)));
                    let (mut a21, mut a22) = (V::splat(0.0), V::splat(0.0));
                    if has_lower {
                        let lower = upper.add(half_rows * stride);
                        (a21, a22) = (V::load(lower), V::load(lower.add(half)));
                    }
                    let s1 = a21 + a22;
                    let s2 = s1 - a11;
                    let to = to.add((block * pitch + row) * BLOCK);
                    a11.store(to.add(A11 * matrix));
                    a12.store(to.add(A12 * matrix));
                    a22.store(to.add(A22 * matrix));
                    s1.store(to.add(S1 * matrix));
                    s2.store(to.add(S2 * matrix));
                    (a11 - a21).store(to.add(S3 * matrix));
                    (a12 - s2).store(to.add(S4 * matrix));
                }
            }
        }
    }
    Ok(())
}
