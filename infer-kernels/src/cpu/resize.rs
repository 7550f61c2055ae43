//! Interpolation by tables of taps.
//!
//! out[y, x] = Σₐ Σᵦ wh[y, a] · ww[x, b] · in[ih[y, a], iw[x, b]]
//!
//! Chunks share the output rows. Blocked pictures sum sixteen channels at a time, tap by tap. In plain ones, the rows
//! that an output row blends are blended first, for all columns at once, into a line in scratch memory (as far as
//! it fits), and the columns are picked from that. Indices are data: each is checked before it is used.

use super::bounds::{expect_view, product, split};
use super::pool::at;
use super::share;
use super::softmax::{load, store};
use super::vector::Vector;
use crate::call::{BLOCK, Resize};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// The widest input row that is blended as a whole: 16 KiB.
const LINE: usize = 4096;

/// The tables of taps of one axis.
#[derive(Clone, Copy)]
struct Taps<'a> {
    indices: &'a [i64],
    weights: &'a [f32],
    each: usize,
}

impl<'a> Taps<'a> {
    /// The taps of output `position`.
    #[inline(always)]
    fn of(&self, position: usize) -> impl Iterator<Item = (usize, f32)> + 'a {
        let range = position * self.each..(position + 1) * self.each;
        self.indices[range.clone()]
            .iter()
            .zip(&self.weights[range])
            .map(|(&index, &weight)| (index as usize, weight))
    }

    /// Checks the indices of `positions` against the axis.
    fn check(&self, positions: std::ops::Range<usize>, length: u64) -> Result<(), RunError> {
        let indices = &self.indices[positions.start * self.each..positions.end * self.each];
        match indices.iter().find(|&&index| u64::try_from(index).map_or(true, |index| index >= length)) {
            Some(&index) => Err(RunError::IndexOutOfRange { index, length }),
            None => Ok(()),
        }
    }
}

#[inline(always)]
unsafe fn resize<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p = args.params::<Resize>();
    if p.n == 0 || p.blocks == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    let (blocks, lanes, in_w) = (p.blocks as usize, p.lanes as usize, p.in_w as usize);
    let (out_h, out_w) = (p.out_h as usize, p.out_w as usize);
    let (taps_h, taps_w) = (p.taps_h as usize, p.taps_w as usize);
    let (input, output) = (args.operands[0].ptr::<f32>().cast_const(), args.operands[3].ptr::<f32>());
    // SAFETY: `validate` checked the tables for the taps of all rows and columns.
    let (rows, columns) = unsafe {
        let indices =
            std::slice::from_raw_parts(args.operands[1].ptr::<i64>(), out_h * taps_h + out_w * taps_w);
        let weights = std::slice::from_raw_parts(args.operands[2].ptr::<f32>(), indices.len());
        let (indices_h, indices_w) = indices.split_at(out_h * taps_h);
        let (weights_h, weights_w) = weights.split_at(out_h * taps_h);
        (
            Taps { indices: indices_h, weights: weights_h, each: taps_h },
            Taps { indices: indices_w, weights: weights_w, each: taps_w },
        )
    };
    columns.check(0..out_w, p.in_w)?;
    let mut line = [0.0f32; LINE];
    for item in share(p.n as usize * blocks * out_h, chunk, chunks) {
        let (y, block, n) = (item % out_h, item / out_h % blocks, item / out_h / blocks);
        rows.check(y..y + 1, p.in_h)?;
        let to = at(&p.output, n, block, y, 0);
        let (from_step, to_step) = (p.input.stride_w as usize, p.output.stride_w as usize);
        // SAFETY: rows and columns of the taps were checked against the extents, whose view lies inside the input,
        // as the output's lies inside the output (`validate`); views do not overlap themselves, so no other chunk
        // has this row.
        unsafe {
            if lanes == 1 && from_step == 1 && in_w <= LINE {
                blend::<V>(
                    input,
                    &mut line[..in_w],
                    rows.of(y).map(|(row, weight)| (at(&p.input, n, block, row, 0), weight)),
                );
                for x in 0..out_w {
                    let sum = columns.of(x).fold(0.0, |sum, (column, weight)| sum + weight * line[column]);
                    *output.add(to + x * to_step) = sum;
                }
                continue;
            }
            for x in 0..out_w {
                for lane in (0..lanes).step_by(BLOCK) {
                    let count = (lanes - lane).min(BLOCK);
                    let mut sum = V::splat(0.0);
                    for (row, weight_h) in rows.of(y) {
                        let from = at(&p.input, n, block, row, 0) + lane;
                        for (column, weight_w) in columns.of(x) {
                            let value = load::<V>(input.add(from + column * from_step), count);
                            sum = value.mul_add(V::splat(weight_h * weight_w), sum);
                        }
                    }
                    store(sum, output.add(to + x * to_step + lane), count);
                }
            }
        }
    }
    Ok(())
}

/// line = Σ weight · the row that starts at the tap's element.
///
/// # Safety
///
/// The processor has the instruction set of `V`; as many elements as `line` has are readable at each tap.
#[inline(always)]
unsafe fn blend<V: Vector>(input: *const f32, line: &mut [f32], taps: impl Iterator<Item = (usize, f32)>) {
    for (number, (from, weight)) in taps.enumerate() {
        for column in (0..line.len()).step_by(BLOCK) {
            let count = (line.len() - column).min(BLOCK);
            // SAFETY: the caller's promises; `count` elements are left of the line.
            unsafe {
                let x = load::<V>(input.add(from + column), count) * V::splat(weight);
                let slot = line.as_mut_ptr().add(column);
                let sum = if number == 0 { x } else { load::<V>(slot.cast_const(), count) + x };
                store(sum, slot, count);
            }
        }
    }
}

pub(crate) fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p = call.params::<Resize>()?;
    call.expect_operands(4)?;
    if p.lanes == 0 || p.taps_h == 0 || p.taps_w == 0 {
        return Err(Invalid("no lanes or no taps"));
    }
    let taps = p
        .out_h
        .checked_mul(p.taps_h)
        .zip(p.out_w.checked_mul(p.taps_w))
        .and_then(|(rows, columns)| rows.checked_add(columns));
    call.expect_elements(1, taps, 8)?;
    call.expect_elements(2, taps, 4)?;
    expect_view(call, 0, &p.input, [p.n, p.blocks, p.in_h, p.in_w, p.lanes], 4)?;
    expect_view(call, 3, &p.output, [p.n, p.blocks, p.out_h, p.out_w, p.lanes], 4)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<Resize>();
    let rows = product(&[p.n, p.blocks, p.out_h]).unwrap_or(0);
    let each = p.out_w.saturating_mul(p.lanes).saturating_mul(p.taps_h.saturating_mul(p.taps_w));
    split(rows, rows.saturating_mul(each), threads)
}

/// Interpolation in two dimensions.
pub static RESIZE_F32: Kernel = Kernel { name: "resize_f32", validate, chunks, run: per_isa!(resize<_>) };

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::RunError;
    use crate::call::{Resize, View};
    use crate::cpu::testing::{Random, attack, bytes, check_error, check_f32};

    fn call(lanes: u64, input: [u64; 2], output: [u64; 2], taps: [u64; 2]) -> Resize {
        // Borders around the pictures, and of plain ones a pixel stride of 2 where the width is odd.
        let view = |[h, w]: [u64; 2], border: u64| {
            let stride_w = lanes * if lanes == 1 && w % 2 == 1 { 2 } else { 1 };
            let stride_h = (w + border) * stride_w;
            let stride_c = (h + border) * stride_h;
            View { offset: border * stride_w, stride_n: 2 * stride_c, stride_c, stride_h, stride_w }
        };
        Resize {
            n: 2,
            blocks: 2,
            lanes,
            in_h: input[0],
            in_w: input[1],
            out_h: output[0],
            out_w: output[1],
            taps_h: taps[0],
            taps_w: taps[1],
            input: view(input, 1),
            output: view(output, 2),
        }
    }

    fn tables(p: &Resize, random: &mut Random) -> (Vec<i64>, Vec<f32>) {
        let mut indices = Vec::new();
        for (count, length) in [(p.out_h * p.taps_h, p.in_h), (p.out_w * p.taps_w, p.in_w)] {
            indices.extend((0..count).map(|_| (random.next() % length) as i64));
        }
        let weights = random.whole(indices.len(), 4);
        (indices, weights)
    }

    fn size(p: &Resize, view: &View) -> usize {
        (p.n * view.stride_n + view.offset) as usize
    }

    #[test]
    fn agrees_with_the_reference() {
        let mut random = Random::new(16);
        for lanes in [1, 16, 3, 20] {
            for (input, output, taps) in [
                ([1, 1], [1, 1], [1, 1]),
                ([4, 6], [8, 12], [2, 2]),
                ([5, 7], [3, 17], [4, 4]),
                ([9, 34], [4, 5], [3, 9]),
                ([2, 16], [0, 3], [2, 2]),
                ([2, 4100], [2, 3], [2, 2]),
            ] {
                if input[1] > 4096 && lanes > 1 {
                    continue;
                }
                let p = call(lanes, input, output, taps);
                let (indices, weights) = tables(&p, &mut random);
                // Sums of whole numbers are exact in any order.
                let x = random.whole(size(&p, &p.input), 8);
                let inputs = [bytes(&x), bytes(&indices), bytes(&weights)];
                check_f32("resize_f32", &p, &inputs, &[size(&p, &p.output) * 4], |_| 0.0);
            }
        }
    }

    #[test]
    fn fractional_weights_agree_within_the_rounding_of_their_sums() {
        let mut random = Random::new(17);
        for lanes in [1, 16] {
            let p = call(lanes, [6, 10], [9, 20], [4, 4]);
            let (indices, _) = tables(&p, &mut random);
            let weights = random.units(indices.len());
            let x = random.units(size(&p, &p.input));
            let inputs = [bytes(&x), bytes(&indices), bytes(&weights)];
            // Sixteen terms of at most 1, each with two products and a sum rounded, on either side.
            let bound = 2.0 * 16.0 * 18.0 * f32::EPSILON / 2.0;
            check_f32("resize_f32", &p, &inputs, &[size(&p, &p.output) * 4], |_| bound);
        }
    }

    #[test]
    fn indices_outside_the_axis_are_errors() {
        let mut random = Random::new(18);
        for lanes in [1, 16] {
            let p = call(lanes, [4, 6], [3, 5], [2, 2]);
            let (indices, weights) = tables(&p, &mut random);
            let x = random.whole(size(&p, &p.input), 8);
            for at in 0..indices.len() {
                for bad in [-1, i64::MIN, i64::MAX, if at < 6 { 4 } else { 6 }] {
                    let mut indices = indices.clone();
                    indices[at] = bad;
                    let inputs = [bytes(&x), bytes(&indices), bytes(&weights)];
                    let error = RunError::IndexOutOfRange { index: bad, length: if at < 6 { 4 } else { 6 } };
                    check_error("resize_f32", &p, &inputs, &[size(&p, &p.output) * 4], error);
                }
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let mut random = Random::new(19);
        for lanes in [1, 16] {
            let p = call(lanes, [4, 6], [3, 5], [2, 2]);
            let (indices, weights) = tables(&p, &mut random);
            let x = random.whole(size(&p, &p.input), 8);
            let end = p.output.end(2, 2, 3, 5, lanes).unwrap() as usize;
            attack("resize_f32", &p, &[bytes(&x), bytes(&indices), bytes(&weights)], &[end * 4]);
        }
    }
}
