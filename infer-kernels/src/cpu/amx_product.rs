//! Products on AMX, by thirds: the loops that convolutions and products of matrices share.
//!
//! Loop order: pieces of rows and columns; parts of the sum whose left tiles stay in the second-level cache; pairs of panels;
//! short parts of the sum; pairs of rows of tiles. While a short part is multiplied, the weights of the next are split into
//! thirds, by `amx_right.rs`, and those of the one after it fetched into the second-level cache.

use std::cell::RefCell;
use std::ops::Range;

use super::amx::{PAUSES, Product, SUMS, THIRDS, Unit};
use super::amx_right::{Group, Lines, PAIR, RIGHT, Right, SHORT};
use super::epilogue::{Clamp, Finish, Finishing};
use super::gemm_tile::{MAX_VECTORS, Weight};
use super::share;
use super::vector::{Avx512, Vector};
use crate::Args;
use crate::call::{BLOCK, Conv, View, residual};

/// Left tiles that stay in the second-level cache beside everything else.
const LEFT: usize = 256 * 1024 / (2 * THIRDS);

/// The most rows of tiles in a piece; weights are split once for each.
pub(super) const MOST_TILES: usize = 16;

/// The most panels of a piece whose sums are kept from part to part.
const MOST_PANELS: usize = 16;

/// The most that a convolution works in: left tiles of a long part, two short parts of weights, and the sums of a piece.
const USUAL_BYTES: usize = ((LEFT + MOST_TILES) * THIRDS + 2 * RIGHT) * size_of::<u16>()
    + (MOST_PANELS * MOST_TILES * SUMS + MAX_VECTORS * BLOCK) * size_of::<f32>();

/// Calls `run` with so many bytes of this thread's memory, which stays for the next call and begins at a cache line.
pub(super) fn with_memory(bytes: usize, run: impl FnOnce(*mut u8)) {
    const ALIGNMENT: usize = 64;
    thread_local! {
        static MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    MEMORY.with_borrow_mut(|memory| {
        if memory.len() < bytes + ALIGNMENT {
            // At once what will usually do, since memory that grows leaves holes; pages are only taken as they are used.
            *memory = Vec::new();
            *memory = vec![0; bytes.max(USUAL_BYTES) + ALIGNMENT];
        }
        let skip = memory.as_ptr().align_offset(ALIGNMENT);
        run(memory[skip..].as_mut_ptr());
    });
}

/// Left tiles of some steps: `[rows of tiles][pitch]`, from the first of these steps on.
pub(super) struct Left {
    pub(super) thirds: *const u16,
    pub(super) pitch: usize,
}

/// The pieces of a product that are computed one after the other, each by a [`Block`]: rows of tiles and panels.
pub(super) fn pieces(
    tiles: Range<usize>,
    panels: Range<usize>,
    steps: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let rows = tiles.len().div_ceil(MOST_TILES);
    let are_kept = long_parts(tiles.len().div_ceil(rows.max(1)), steps) > 1;
    let columns = if are_kept { panels.len().div_ceil(MOST_PANELS) } else { 1 };
    let part = |all: &Range<usize>, index: usize, parts: usize| {
        let part = share(all.len(), index, parts);
        all.start + part.start..all.start + part.end
    };
    (0..rows * columns)
        .map(move |index| (part(&tiles, index / columns, rows), part(&panels, index % columns, columns)))
}

/// The parts of the sum whose left tiles are at hand together, for so many rows of tiles.
pub(super) fn long_parts(tiles: usize, steps: usize) -> usize {
    (tiles * steps).div_ceil(LEFT).clamp(1, steps.max(1))
}

/// A product of left tiles by panels of weights.
pub(super) struct Block<'a, W> {
    pub(super) right: Right<W>,
    /// The panels: number `i` of `panels` is `panel(i)`.
    pub(super) panels: usize,
    pub(super) panel: &'a dyn Fn(usize) -> usize,
    /// Rows of tiles.
    pub(super) tiles: usize,
}

/// A short part of the sums of a pair of panels.
struct Place {
    pair: usize,
    long: usize,
    steps: Range<usize>,
    is_first: bool,
    is_last: bool,
}

impl<W: Weight> Block<'_, W> {
    /// The bytes that [`Block::run`] works in.
    pub(super) fn bytes(&self) -> usize {
        let pairs = if self.long_parts() == 1 { 1 } else { self.panels.div_ceil(PAIR) };
        // Sums are finished as many at a time as a tile of vectors has.
        2 * RIGHT * size_of::<u16>() + (pairs * self.pair_sums() + MAX_VECTORS * BLOCK) * size_of::<f32>()
    }

    /// The panels of a pair.
    fn pair(&self, pair: usize) -> Range<usize> {
        pair * PAIR..self.panels.min((pair + 1) * PAIR)
    }

    fn long_parts(&self) -> usize {
        long_parts(self.tiles, self.right.steps())
    }

    /// Elements of the sums of a pair, `[panels][tiles]`.
    fn pair_sums(&self) -> usize {
        PAIR * self.tiles * SUMS
    }

    /// Computes it. `left` gives the left tiles of a range of steps, and `finish` takes a panel and its sums,
    /// `[tiles][16 rows][16]`.
    ///
    /// # Safety
    ///
    /// `memory` has [`Block::bytes`]; all weights of the panels are readable, and the left tiles for which `left` was called.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn run(
        &self,
        unit: &Unit,
        memory: *mut u8,
        mut left: impl FnMut(Range<usize>) -> Left,
        mut finish: impl FnMut(usize, *mut f32),
    ) {
        let (pairs, longs) = (self.panels.div_ceil(PAIR), self.long_parts());
        let rights = memory.cast::<u16>();
        let all_sums = rights.wrapping_add(2 * RIGHT).cast::<f32>();
        // The largest of the long parts says how many short ones each has.
        let shorts = self.right.steps().div_ceil(longs).div_ceil(SHORT);
        let place = |index: usize| {
            let (rest, short) = (index / shorts, index % shorts);
            let (long, pair) = (rest / pairs, rest % pairs);
            let part = share(self.right.steps(), long, longs);
            let steps = share(part.len(), short, shorts);
            Place {
                pair,
                long,
                steps: part.start + steps.start..part.start + steps.end,
                is_first: long == 0 && short == 0,
                is_last: long + 1 == longs && short + 1 == shorts,
            }
        };
        let places = longs * pairs * shorts;
        // Beyond the last place nothing is split, nor fetched after it.
        let lines = |index: usize| {
            if index >= places {
                return Lines::none();
            }
            let (place, next) = (place(index), place((index + 1).min(places - 1)));
            let [next, _] = self.right.lines((self.panel)(next.pair * PAIR), next.steps.start);
            let to = rights.wrapping_add(index % 2 * RIGHT);
            Lines::new(self.right, self.pair(place.pair).map(self.panel), place.steps, next, to)
        };
        // SAFETY: the caller's promise.
        unsafe { lines(0).split_rest() };
        let mut at_hand: Option<(usize, Left)> = None;
        for index in 0..places {
            let place = place(index);
            let in_memory = if longs == 1 { 0 } else { place.pair };
            let sums = all_sums.wrapping_add(in_memory * self.pair_sums());
            let panels = self.pair(place.pair);
            let part = share(self.right.steps(), place.long, longs);
            let from = match &at_hand {
                Some((long, left)) if *long == place.long => left,
                _ => &at_hand.insert((place.long, left(part.clone()))).1,
            };
            let thirds = from.thirds.wrapping_add((place.steps.start - part.start) * THIRDS);
            let from = Left { thirds, ..*from };
            let right = rights.wrapping_add(index % 2 * RIGHT).cast_const();
            // An absent second panel is the first once more, whose sums nobody reads.
            let second = if panels.len() == PAIR { SHORT * THIRDS } else { 0 };
            let right = [right, right.wrapping_add(second)];
            // SAFETY: the caller's promise.
            unsafe { self.multiply(unit, &from, right, &place, sums, lines(index + 1)) };
            if place.is_last {
                for (number, panel) in panels.enumerate() {
                    finish((self.panel)(panel), sums.wrapping_add(number * self.tiles * SUMS));
                }
            }
        }
    }

    /// Adds the products of all rows by a short part, and splits the next one's lines meanwhile.
    ///
    /// # Safety
    ///
    /// As for [`Block::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn multiply(
        &self,
        unit: &Unit,
        left: &Left,
        right: [*const u16; PAIR],
        place: &Place,
        sums: *mut f32,
        mut lines: Lines<W>,
    ) {
        let product = |tile: usize| {
            let second = (tile + 1).min(self.tiles - 1);
            let at =
                |tile: usize| [sums.wrapping_add(tile * SUMS), sums.wrapping_add((self.tiles + tile) * SUMS)];
            Product {
                a: [tile, second].map(|tile| left.thirds.wrapping_add(tile * left.pitch * THIRDS)),
                b: right,
                c: [at(tile), at(second)],
                steps: place.steps.len(),
                adds: !place.is_first,
            }
        };
        let rows = self.tiles.div_ceil(2);
        for row in 0..rows {
            // What is left is split in even parts, as far as that takes no longer than the products.
            let due = lines.left().div_ceil(((rows - row) * place.steps.len()).max(1));
            // SAFETY: the caller's promise.
            unsafe {
                let product = product(2 * row);
                let is_single = 2 * row + 1 == self.tiles;
                match due {
                    0 => multiply_beside::<W, 0>(unit, &product, is_single, &mut lines),
                    1..=4 => multiply_beside::<W, 4>(unit, &product, is_single, &mut lines),
                    5..=8 => multiply_beside::<W, 8>(unit, &product, is_single, &mut lines),
                    _ => multiply_beside::<W, 16>(unit, &product, is_single, &mut lines),
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { lines.split_rest() };
    }
}

/// [`Unit::multiply`] or [`Unit::multiply_row`], with `COUNT` lines split in each step.
///
/// # Safety
///
/// As for these; the weights of the lines are readable, and their thirds writable.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn multiply_beside<W: Weight, const COUNT: usize>(
    unit: &Unit,
    product: &Product,
    is_single: bool,
    lines: &mut Lines<W>,
) {
    // The number of lines between two pauses is known where this is compiled: branches that nobody can predict would keep the
    // unit waiting.
    let mut group = Group::default();
    let between = |pause: usize| {
        if COUNT == 0 {
            return;
        }
        if pause == 0 {
            group = lines.take(COUNT);
        }
        for line in COUNT * pause / PAUSES..COUNT * (pause + 1) / PAUSES {
            // SAFETY: the caller's promise.
            unsafe { group.split(line) };
        }
    };
    // SAFETY: the caller's promise.
    unsafe {
        match is_single {
            true => unit.multiply_row(product, between),
            false => unit.multiply(product, between),
        }
    }
}

/// Writes the finished sums of a panel, `[pixels][16]`, to the output, operand 4: with the bias, operand 2, what is added to
/// them, operand 3, and the activation. Pixels are numbered through rows and images.
///
/// # Safety
///
/// The call was validated; a tile of vectors is readable and writable from every pixel's sums on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn finish(args: &Args<'_>, p: &Conv, panel: usize, pixels: Range<usize>, sums: *mut f32) {
    let (added, output) = (args.operands[3].ptr::<f32>().cast_const(), args.operands[4].ptr::<f32>());
    let (h, w) = (p.out_h as usize, p.out_w as usize);
    let lanes = (p.out_channels as usize - panel * BLOCK).min(BLOCK);
    let clamp = Clamp::new(p).filter(|_| lanes == BLOCK);
    let has_residual = p.residual_mode != residual::NONE;
    // SAFETY: the caller's promise; a bias has all channels.
    let bias = unsafe {
        match args.operands[2].bytes {
            0 => Avx512::splat(0.0),
            _ => Avx512::load_first(args.operands[2].ptr::<f32>().add(panel * BLOCK), lanes),
        }
    };
    let mut pixel = pixels.start;
    while pixel < pixels.end {
        let (row, x) = (pixel / w, pixel % w);
        let count = (w - x).min(pixels.end - pixel);
        let at = |view: &View| {
            let [n, c, y, x] = [row / h, panel, row % h, x];
            let strides = [view.stride_n, view.stride_c, view.stride_h, view.stride_w];
            let place = [n, c, y, x].into_iter().zip(strides);
            place.fold(view.offset as usize, |at, (index, stride)| {
                at.wrapping_add(index.wrapping_mul(stride as usize))
            })
        };
        let mut out = output.wrapping_add(at(&p.output));
        let mut added = if has_residual { added.wrapping_add(at(&p.residual)) } else { added };
        let (out_step, added_step) = (p.output.stride_w as usize, p.residual.stride_w as usize);
        let sums = sums.wrapping_add((pixel - pixels.start) * BLOCK);
        // SAFETY: the caller's promise.
        unsafe {
            if let Some((low, high)) = clamp.map(Clamp::bounds) {
                let (low, high) = (Avx512::splat(low), Avx512::splat(high));
                for x in 0..count {
                    let mut value = Avx512::load(sums.add(x * BLOCK)) + bias;
                    if has_residual {
                        value = value + Avx512::load(added);
                        added = added.wrapping_add(added_step);
                    }
                    high.min(low.max(value)).store(out);
                    out = out.wrapping_add(out_step);
                }
            } else {
                for x in 0..count {
                    let at = sums.add(x * BLOCK);
                    (Avx512::load(at) + bias).store(at);
                }
                for first in (0..count).step_by(MAX_VECTORS) {
                    let finish = Finish {
                        shape: [1, 1, MAX_VECTORS.min(count - first)],
                        lanes,
                        padded: p.output_padded == 1,
                        residual_mode: p.residual_mode,
                        activation: p.activation,
                        residual: added.wrapping_add(first * added_step),
                        residual_steps: [0, 0, added_step],
                        out: out.wrapping_add(first * out_step),
                        out_steps: [0, 0, out_step],
                    };
                    Avx512::finish(
                        &finish,
                        &mut *sums.add(first * BLOCK).cast::<[f32; MAX_VECTORS * BLOCK]>(),
                    );
                }
            }
        }
        pixel += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_and_within_bounds() {
        for (tiles, panels, steps) in
            [(0..1, 0..1, 1), (3..20, 2..9, 4), (0..256, 10..400, 1000), (5..40, 0..7, 22)]
        {
            let mut seen = vec![0; tiles.len() * panels.len()];
            for (rows, columns) in pieces(tiles.clone(), panels.clone(), steps) {
                assert!(rows.len() <= MOST_TILES && !rows.is_empty() && !columns.is_empty());
                assert!(columns.len() <= MOST_PANELS || long_parts(rows.len(), steps) == 1);
                for row in rows {
                    for column in columns.clone() {
                        seen[(row - tiles.start) * panels.len() + column - panels.start] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&times| times == 1), "{tiles:?} {panels:?} {steps}");
        }
    }
}
