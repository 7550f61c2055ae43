//! Products on AMX, by thirds: the loops that convolutions and products of matrices share.
//!
//! Loop order: pieces of rows and columns; parts of the sum whose left tiles stay in the second-level cache; pairs of panels;
//! short parts of the sum, whose right tiles stay in the first-level cache; pairs of rows of tiles. While a short part is
//! multiplied, the weights of the next are split into thirds, and those of the one after it fetched into the second-level cache.

use std::cell::RefCell;
use std::ops::Range;

use super::amx::{PAUSES, Product, SIDE, STEP, SUMS, THIRDS, Unit, split};
use super::epilogue::{Clamp, Finish, Finishing};
use super::gemm_tile::{MAX_VECTORS, Weight, fetch};
use super::share;
use super::vector::{Avx512, Vector};
use crate::Args;
use crate::call::{BLOCK, Conv, View, residual};

/// Panels that are multiplied together.
pub(super) const PAIR: usize = 2;

/// Steps of a short part of the sum, at most.
const SHORT: usize = 4;

/// Left tiles that stay in the second-level cache beside everything else.
const LEFT: usize = 512 * 1024 / (2 * THIRDS);

/// The most rows of tiles in a piece; weights are split once for each.
pub(super) const MOST_TILES: usize = 16;

/// The most panels of a piece whose sums are kept from part to part.
const MOST_PANELS: usize = 32;

/// Numbers of bf16 in the thirds of a pair's short part.
const RIGHT: usize = PAIR * SHORT * THIRDS;

/// Calls `run` with so many bytes of this thread's memory, which stays for the next call.
pub(super) fn with_memory(bytes: usize, run: impl FnOnce(*mut u8)) {
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line(#[expect(dead_code, reason = "memory to work in")] [u8; 64]);
    thread_local! {
        static MEMORY: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    MEMORY.with_borrow_mut(|memory| {
        let lines = bytes.div_ceil(size_of::<Line>());
        if memory.len() < lines {
            // What there was goes first, so that both are never held.
            *memory = Vec::new();
            *memory = vec![Line([0; 64]); lines];
        }
        run(memory.as_mut_ptr().cast());
    });
}

/// Packed weights.
#[derive(Clone, Copy)]
pub(super) struct Right<W> {
    pub(super) weights: *const W,
    /// Blocks of sixteen channels, and taps of each. Step `s` is tap `s mod taps` of blocks `2·(s / taps)` and the next.
    pub(super) blocks: usize,
    pub(super) taps: usize,
}

impl<W> Right<W> {
    /// Steps of the whole sum.
    pub(super) fn steps(&self) -> usize {
        self.blocks.div_ceil(2) * self.taps
    }

    /// The first line of a step in a panel, and its other block's, if there is one.
    fn line(&self, panel: usize, step: usize) -> (*const W, Option<usize>) {
        let block = 2 * (step / self.taps);
        let line = (panel * self.blocks + block) * self.taps + step % self.taps;
        let other = (block + 1 < self.blocks).then_some(self.taps * BLOCK * BLOCK);
        (self.weights.wrapping_add(line * BLOCK * BLOCK), other)
    }
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

    fn long_parts(&self) -> usize {
        long_parts(self.tiles, self.right.steps())
    }

    /// Elements of the sums of a pair, `[panels][tiles]`.
    fn pair_sums(&self) -> usize {
        PAIR * self.tiles * SUMS
    }

    /// Computes it. `left` gives the left tiles of a range of steps, `bias` what the sums of a panel start from, and `finish`
    /// takes a panel and its sums, `[tiles][16 rows][16]`.
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
        bias: impl Fn(usize) -> Avx512,
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
            Lines::new(
                self,
                place(index.min(places - 1)),
                place((index + 1).min(places - 1)),
                rights.wrapping_add(index % 2 * RIGHT),
            )
        };
        if places == 0 {
            return;
        }
        let mut first = lines(0);
        for _ in 0..first.count {
            // SAFETY: the caller's promise.
            unsafe { first.split() };
        }
        let mut at_hand: Option<(usize, Left)> = None;
        for index in 0..places {
            let place = place(index);
            let in_memory = if longs == 1 { 0 } else { place.pair };
            let sums = all_sums.wrapping_add(in_memory * self.pair_sums());
            let panels = place.pair * PAIR..self.panels.min((place.pair + 1) * PAIR);
            if place.is_first {
                for (number, panel) in panels.clone().enumerate() {
                    let bias = bias((self.panel)(panel));
                    for row in 0..self.tiles * SIDE {
                        // SAFETY: the sums are in the memory.
                        unsafe { bias.store(sums.add((number * self.tiles * SIDE + row) * BLOCK)) };
                    }
                }
            }
            let part = share(self.right.steps(), place.long, longs);
            let from = match &at_hand {
                Some((long, left)) if *long == place.long => left,
                _ => &at_hand.insert((place.long, left(part.clone()))).1,
            };
            let mut next = lines(index + 1);
            next.count *= usize::from(index + 1 < places);
            let thirds = from.thirds.wrapping_add((place.steps.start - part.start) * THIRDS);
            let from = Left { thirds, ..*from };
            let right = rights.wrapping_add(index % 2 * RIGHT).cast_const();
            // An absent second panel is the first once more, whose sums nobody reads.
            let second = if panels.len() == PAIR { SHORT * THIRDS } else { 0 };
            let right = [right, right.wrapping_add(second)];
            // SAFETY: the caller's promise.
            unsafe { self.multiply(unit, &from, right, place.steps.len(), sums, next) };
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
        steps: usize,
        sums: *mut f32,
        mut lines: Lines<W>,
    ) {
        // Lines are due evenly.
        let pauses = self.tiles.div_ceil(2) * steps * PAUSES;
        let mut due = 0;
        let mut between = || {
            due += lines.count;
            while due >= pauses {
                due -= pauses;
                // SAFETY: the caller's promise; `count` lines are due after all pauses.
                unsafe { lines.split() };
            }
        };
        for tile in (0..self.tiles).step_by(2) {
            let second = (tile + 1).min(self.tiles - 1);
            let at =
                |tile: usize| [sums.wrapping_add(tile * SUMS), sums.wrapping_add((self.tiles + tile) * SUMS)];
            let product = Product {
                a: [tile, second].map(|tile| left.thirds.wrapping_add(tile * left.pitch * THIRDS)),
                b: right,
                c: [at(tile), at(second)],
                steps,
            };
            // SAFETY: the caller's promise.
            unsafe {
                match second == tile {
                    true => unit.multiply_row(&product, &mut between),
                    false => unit.multiply(&product, &mut between),
                }
            }
        }
    }
}

/// The weights of a short part on their way to thirds, line by line of its tiles.
struct Lines<W> {
    right: Right<W>,
    panels: [usize; PAIR],
    steps: Range<usize>,
    to: *mut u16,
    /// Where the place after it lies from it on, in elements.
    next: isize,
    /// The lines of a tile that come next.
    from: *const W,
    other: Option<usize>,
    count: usize,
    done: usize,
}

impl<W: Weight> Lines<W> {
    /// Those of `place`, to be written to `to`; `after` it comes another.
    fn new(block: &Block<'_, W>, place: Place, after: Place, to: *mut u16) -> Self {
        let first = |place: &Place| {
            let panel = (block.panel)(place.pair * PAIR);
            block.right.line(panel, place.steps.start).0 as isize
        };
        let numbers = place.pair * PAIR..block.panels.min((place.pair + 1) * PAIR);
        let mut panels = [0; PAIR];
        for (panel, number) in panels.iter_mut().zip(numbers.clone()) {
            *panel = (block.panel)(number);
        }
        Lines {
            right: block.right,
            panels,
            next: (first(&after) - first(&place)) / size_of::<W>() as isize,
            count: numbers.len() * place.steps.len() * SIDE,
            steps: place.steps,
            to,
            from: std::ptr::null(),
            other: None,
            done: 0,
        }
    }

    /// Splits the next line.
    ///
    /// # Safety
    ///
    /// There is one, its weights are readable, and its thirds writable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn split(&mut self) {
        let (tile, row) = (self.done / SIDE, self.done % SIDE);
        let panel = usize::from(tile >= self.steps.len());
        let step = tile - panel * self.steps.len();
        if row == 0 {
            (self.from, self.other) = self.right.line(self.panels[panel], self.steps.start + step);
        }
        let from = self.from.wrapping_add(row * BLOCK);
        // SAFETY: the caller's promise; any address may be fetched.
        unsafe {
            let first = W::load::<Avx512>(from);
            let second = match self.other {
                Some(other) => W::load::<Avx512>(from.add(other)),
                None => Avx512::splat(0.0),
            };
            let to = self.to.add((panel * SHORT + step) * THIRDS + row * STEP);
            split(first.register(), second.register(), to);
        }
        fetch(from.wrapping_offset(self.next).cast());
        fetch(from.wrapping_add(self.other.unwrap_or(0)).wrapping_offset(self.next).cast());
        self.done += 1;
    }
}

/// What the sums of a panel start from.
///
/// # Safety
///
/// The bias, operand 2, has all channels, where there is one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn bias(args: &Args<'_>, p: &Conv, panel: usize) -> Avx512 {
    let (bias, channel) = (args.operands[2], panel * BLOCK);
    // SAFETY: the caller's promise.
    unsafe {
        match bias.bytes > 0 {
            true => Avx512::load_first(
                bias.ptr::<f32>().add(channel),
                (p.out_channels as usize - channel).min(BLOCK),
            ),
            false => Avx512::splat(0.0),
        }
    }
}

/// Writes the finished sums of a panel, `[pixels][16]`, to the output, operand 4: with what is added to them, operand 3, and
/// the activation. Pixels are numbered through rows and images.
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
                    let mut value = Avx512::load(sums.add(x * BLOCK));
                    if has_residual {
                        value = value + Avx512::load(added);
                        added = added.wrapping_add(added_step);
                    }
                    high.min(low.max(value)).store(out);
                    out = out.wrapping_add(out_step);
                }
            } else {
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
