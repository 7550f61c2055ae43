//! `strassen_f32`, `strassen_f16w`: products of matrices by Strassen's algorithm.
//!
//! Rows, columns and the channels of a sum are cut into halves. In Winograd's form of the algorithm, with the sums S of
//! quarters of the left matrix from `strassen_left_f32`, `strassen_left.rs`:
//!
//! ```text
//! T₁ = B₁₂ − B₁₁   T₂ = B₂₂ − T₁   T₃ = B₂₂ − B₁₂   T₄ = B₂₁ − T₂
//! P = A₁₁·B₁₁           C₁₁ = P + A₁₂·B₂₁
//! U₂ = P + S₂·T₂        U₃ = U₂ + S₃·T₃        C₂₁ = U₃ + A₂₂·T₄
//! Q = S₁·T₁             C₂₂ = U₃ + Q           C₁₂ = U₂ + Q + S₄·B₂₂
//! ```
//!
//! Which columns are a half is free: of four panels the first two and the last two, so that what a step makes is the
//! result for those four. Rounding is relative to the largest elements of both halves, not to each row's own.
//!
//! Loop order: groups of four panels; parts of the sum; blocks of rows; panels; the seven products; tiles of rows, of
//! `gemm_tile.rs`. The first tile of a product makes the sum T of the weights while it reads them, and leaves it in the
//! nearest cache for those that follow. Meanwhile the next quarters of the weights are fetched into the second-level cache,
//! where what lies between the products stays too. Chunks split rows and groups, of products side by side those of each.

use std::ops::Range;

use half::f16;

use crate::call::{BLOCK, Conv, Strassen, StrassenLeft, residual};
use crate::cpu::epilogue::{
    Clamp, Finish, Finishing, chunks_for, load_start, validate_epilogue, validate_fields,
};
use crate::cpu::gemm_tile::{
    A_AHEAD_BLOCKS, MAX_PANELS, MAX_VECTORS, Nest, Sum, Tile, Tiles, Weight, fetch_near,
};
use crate::cpu::share;
use crate::cpu::strassen_left::validate_shape;
use crate::cpu::strassen_steps::{Fetch, QUARTERS, STEPS, Step};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// A product with f32 weights; see [`Strassen`].
pub static STRASSEN_F32: Kernel = Kernel {
    name: "strassen_f32",
    validate: |call| validate(call, 4),
    chunks,
    run: per_isa!(strassen_f32<_>, amx super::strassen_amx::strassen_f32),
};

/// A product with f16 weights; see [`Strassen`].
pub static STRASSEN_F16W: Kernel = Kernel {
    name: "strassen_f16w",
    validate: |call| validate(call, 2),
    chunks,
    run: per_isa!(strassen_f16w<_>, amx super::strassen_amx::strassen_f16w),
};

/// Panels of a group, and of one half of it.
pub(super) const GROUP: usize = 4;
const HALF: usize = 2;

/// Elements of the largest tile.
const TILE: usize = MAX_VECTORS * BLOCK;

/// Rows of each half that go through the seven products together.
const ROWS: usize = Strassen::BLOCK_ROWS as usize;

/// Elements of the left side that stay in the second-level cache, beside weights and results. Where there are more, or other
/// threads have made them just before, they are fetched from further away before they are needed.
const LEFT_NEAR: usize = 128 * 1024;

fn validate(call: &Call<'_>, weight_bytes: u64) -> Result<(), Invalid> {
    let s: &Strassen = call.params()?;
    let p = &s.conv;
    call.expect_operands(6)?;
    validate_fields(p)?;
    validate_shape(&s.left())?;
    let ones =
        [p.n, p.groups, p.out_h, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w];
    if ones.into_iter().any(|field| field != 1) || p.weights_stride_n != 0 {
        return Err(Invalid("not a product of two matrices"));
    }
    if p.in_block != BLOCK as u64 || p.in_channels == 0 || !p.out_channels.is_multiple_of(Strassen::COLUMNS) {
        return Err(Invalid("columns that are not whole groups of panels"));
    }
    if s.products == 0 || !(p.out_channels / Strassen::COLUMNS).is_multiple_of(s.products) {
        return Err(Invalid("products that are not whole groups of panels"));
    }
    if p.out_w == 0 || p.out_channels == 0 {
        return Ok(());
    }
    call.expect_elements(0, s.left().elements(), 4)?;
    call.expect_elements(1, p.in_channels.checked_mul(p.out_channels), weight_bytes)?;
    call.expect_elements(5, s.slot(), 4)?;
    validate_epilogue(call, p, p.out_channels / BLOCK as u64, BLOCK as u64, p.out_channels)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let s: &Strassen = args.params();
    let p = &s.conv;
    let slots = args.operands[5].bytes / 4 / (s.slot().unwrap_or(0) as usize).max(1);
    let work = p.out_w.saturating_mul(p.in_channels).saturating_mul(p.out_channels);
    // Two of a thread at most, since the first weights of a chunk are not fetched ahead; fewer where that makes them even.
    let most = if threads > 1 { 2 * threads } else { 1 };
    let wanted = chunks_for(work, threads).min(most).min(slots).max(1);
    let groups = (p.out_channels / Strassen::COLUMNS) as usize;
    let is_even = |count: &usize| count.is_multiple_of(threads.max(1)) && groups.is_multiple_of(*count);
    (1..=wanted).rev().find(is_even).unwrap_or(wanted)
}

#[inline(always)]
unsafe fn strassen_f32<V: Tiles + Finishing>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { strassen::<V, f32>(args, chunk, chunks) };
    Ok(())
}

#[inline(always)]
unsafe fn strassen_f16w<V: Tiles + Finishing>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { strassen::<V, f16>(args, chunk, chunks) };
    Ok(())
}

/// Chunks as a grid of parts of the rows × parts of the groups: the least work in the largest chunk, in vector
/// operations.
fn grid(chunks: usize, half_rows: usize, groups: usize) -> (usize, usize) {
    let cost = |parts: &usize| {
        let (rows, groups) = (half_rows.div_ceil(*parts), groups.div_ceil(chunks / parts));
        groups.saturating_mul(rows)
    };
    let parts = (1..=chunks).filter(|parts| chunks.is_multiple_of(*parts)).min_by_key(cost).unwrap_or(1);
    (parts, chunks / parts)
}

/// What a chunk computes, and where it works.
pub(super) struct Portion {
    /// Of the rows, in the units that were asked for.
    pub(super) rows: Range<usize>,
    /// Of the groups of each of so many products, each of `each` groups.
    in_product: Range<usize>,
    products: usize,
    each: usize,
    /// Its own memory.
    pub(super) slot: *mut f32,
}

impl Portion {
    /// That of a chunk of `rows` units of rows; `None` where it has nothing to do.
    pub(super) fn new(args: &Args<'_>, rows: usize, chunk: usize, chunks: usize) -> Option<Self> {
        let s: &Strassen = args.params();
        let slot = s.slot().unwrap_or(0) as usize;
        // Every chunk needs a slot of its own; where there are fewer, some chunks have nothing to do.
        let chunks = chunks.min(args.operands[5].bytes / 4 / slot.max(1));
        let groups = (s.conv.out_channels / Strassen::COLUMNS) as usize;
        if chunk >= chunks || rows == 0 || groups == 0 {
            return None;
        }
        let (parts_m, parts_n) = grid(chunks, rows, groups);
        // Of each of the products an equal share, if there is one; else of all of them together.
        let products = s.products as usize;
        let products = if (groups / products).is_multiple_of(parts_n) { products } else { 1 };
        let each = groups / products;
        let portion = Portion {
            rows: share(rows, chunk / parts_n, parts_m),
            in_product: share(each, chunk % parts_n, parts_n),
            products,
            each,
            slot: args.operands[5].ptr::<f32>().wrapping_add(chunk * slot),
        };
        (!portion.rows.is_empty() && !portion.in_product.is_empty()).then_some(portion)
    }

    /// How many groups of panels it has.
    pub(super) fn groups(&self) -> usize {
        self.products * self.in_product.len()
    }

    /// Its groups, in order.
    pub(super) fn group(&self, index: usize) -> usize {
        let count = self.in_product.len();
        index / count * self.each + self.in_product.start + index % count
    }
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn strassen<V: Tiles + Finishing, W: Weight>(args: &Args<'_>, chunk: usize, chunks: usize) {
    let s: &Strassen = args.params();
    let p = &s.conv;
    let left = s.left();
    let half_rows = left.half_rows() as usize;
    let Some(mine) = Portion::new(args, half_rows, chunk, chunks) else { return };
    let results = mine.slot;
    let steps = results.wrapping_add(half_rows * 2 * GROUP * BLOCK);
    let pitch = left.pitch() as usize;
    let is_near = left.sums().unwrap_or(0) as usize <= LEFT_NEAR;
    let mut run = Run {
        args,
        p,
        parts: s.parts as usize,
        k: p.in_channels as usize,
        half: left.half_columns() as usize,
        half_rows,
        pitch,
        matrix: left.matrix().unwrap_or(0) as usize,
        left_ahead: if is_near && chunks == 1 { 0 } else { A_AHEAD_BLOCKS * pitch * BLOCK },
        results,
        steps,
        sums: steps.wrapping_add(Strassen::STEP_ELEMENTS as usize),
    };
    let mut steps = (0..mine.groups())
        .map(|index| mine.group(index))
        .flat_map(|group| (0..s.parts as usize).map(move |part| (group, part)))
        .peekable();
    let mut is_first = true;
    while let Some((group, part)) = steps.next() {
        // SAFETY: the caller's promise; the slot is this chunk's alone.
        unsafe { run.part::<V, W>(mine.rows.clone(), group, part, is_first, steps.peek().copied()) };
        is_first = false;
        if is_near && part + 1 == run.parts {
            // The whole left side was read.
            run.left_ahead = 0;
        }
    }
}

/// What the steps of a chunk share.
struct Run<'a> {
    args: &'a Args<'a>,
    p: &'a Conv,
    parts: usize,
    /// Channels of the whole sum, and of a half of a part.
    k: usize,
    half: usize,
    half_rows: usize,
    /// Rows between blocks, and elements of a matrix, of the left side.
    pitch: usize,
    matrix: usize,
    /// How far ahead the left side is fetched, in elements.
    left_ahead: usize,
    /// The results of a group so far, tile after tile.
    results: *mut f32,
    /// What lies between the steps of a block of rows.
    steps: *mut f32,
    /// The sum of weights that a product is of.
    sums: *mut f32,
}

impl Run<'_> {
    /// The weights of a panel from the beginning of a part on.
    fn weights<W>(&self, panel: usize, part: usize) -> *const W {
        self.args.operands[1].ptr::<W>().wrapping_add((panel * self.k + part * 2 * self.half) * BLOCK)
    }

    /// All of `rows`, of the upper half and of the lower, in a part of a group; `next` is what comes after it, and before the
    /// first part nobody has fetched its weights.
    ///
    /// # Safety
    ///
    /// That of [`crate::ChunkFn`]; the slot is the caller's alone.
    #[inline(always)]
    unsafe fn part<V: Tiles + Finishing, W: Weight>(
        &self,
        rows: Range<usize>,
        group: usize,
        part: usize,
        is_first: bool,
        next: Option<(usize, usize)>,
    ) {
        let blocks = rows.len().div_ceil(ROWS);
        let tiles =
            rows.len().div_ceil(blocks).div_ceil(V::PIXELS) * blocks * (HALF / V::PANELS) * STEPS.len();
        let panels =
            |(group, part)| [0, 1, 2, 3].map(|panel| self.weights::<W>(group * GROUP + panel, part).cast());
        let (rate, quarter) = (4 * size_of::<W>(), self.half * BLOCK * size_of::<W>());
        // No more lines at a time than must be: many at once keep the core waiting.
        let next_rate = (2 * GROUP * rate).div_ceil(tiles);
        let mut fetch = Fetch {
            first: is_first.then(|| panels((group, part))),
            next: next.map(panels),
            quarter,
            rate,
            piece: quarter / rate * next_rate,
            next_rate,
            pieces: (2 * rate).div_ceil(next_rate),
            panel: 0,
            in_panel: 0,
            asked: 0,
            tiles,
            done: 0,
        };
        for block in 0..blocks {
            let range = share(rows.len(), block, blocks);
            let rows = rows.start + range.start..rows.start + range.end;
            for panel in (0..HALF).step_by(V::PANELS) {
                let place = Place { group, part, panel, rows: rows.clone() };
                // SAFETY: the caller's promise.
                unsafe { self.block::<V, W>(&place, &mut fetch) };
            }
        }
    }

    /// The seven products of a block of rows, each of all its tiles, and what becomes of their results.
    ///
    /// # Safety
    ///
    /// As for [`Run::part`].
    #[inline(always)]
    unsafe fn block<V: Tiles + Finishing, W: Weight>(&self, place: &Place, fetch: &mut Fetch) {
        let panel = place.group * GROUP + place.panel;
        let mut start = [[0.0; MAX_PANELS * BLOCK]; 3];
        let bias = self.args.operands[2];
        for (half, start) in start[..2].iter_mut().enumerate() {
            let channel = (panel + half * HALF) * BLOCK;
            // SAFETY: the bias, where there is one, has all channels.
            unsafe {
                load_start(start, bias.ptr(), bias.bytes > 0 && place.part == 0, channel, V::PANELS * BLOCK)
            };
        }
        let nest = Nest {
            offset: 0,
            counts: [self.half / BLOCK, 1, 1],
            strides: [self.pitch * BLOCK, 0, 0],
            length: BLOCK,
        };
        let left = self.args.operands[0]
            .ptr::<f32>()
            .wrapping_add(place.part * StrassenLeft::MATRICES as usize * self.matrix);
        let b = self.weights::<W>(panel, place.part);
        // B₁₁, B₁₂, B₂₁, B₂₂ from B₁₁ on.
        let b_at = [0, HALF * self.k * BLOCK, self.half * BLOCK, (HALF * self.k + self.half) * BLOCK];
        let (low, high) = Clamp::NONE.bounds();
        for step in &STEPS {
            let first = b_at[step.terms[0]];
            let mut sum = Sum { kept: self.sums, panel: (self.half + 1) * BLOCK, ..Sum::NONE };
            for (to, &term) in sum.terms.iter_mut().zip(&step.terms[1..]) {
                *to = b_at[term] as isize - first as isize;
            }
            let a = left.wrapping_add(step.left * self.matrix);
            // What differs between tiles is filled in below.
            let mut by_weights = Tile {
                a,
                a_pitch: BLOCK,
                a_row: 0,
                nests: std::slice::from_ref(&nest),
                b: b.wrapping_add(first),
                b_panel: self.k * BLOCK,
                a_ahead: self.left_ahead,
                sum,
                start: &start[step.start],
                out: std::ptr::null_mut(),
                out_pitch: BLOCK,
                out_row: 0,
                out_panel: 0,
                residual: std::ptr::null(),
                residual_pitch: BLOCK,
                residual_row: 0,
                residual_panel: 0,
                low,
                high,
                ahead: std::ptr::null(),
                ahead_rate: 0,
            };
            let mut by_sum = by_weights.by_sum();
            for tile in self.tiles::<V>(place) {
                let width = tile.rows.len();
                let out = self.at::<V>(place, &tile, step.out);
                let at = TilePlace {
                    a: a.wrapping_add(tile.rows.start * BLOCK),
                    out,
                    residual: step.added.map_or(std::ptr::null(), |added| self.at::<V>(place, &tile, added)),
                    panel: width * BLOCK,
                    ahead: fetch.next_lines(),
                };
                if let Some(quarter) = step.finishes
                    && place.part + 1 == self.parts
                {
                    self.fetch_output::<V>(place, &tile, quarter);
                }
                // The first tile makes the sum of the weights; those after it find it in the nearest cache.
                // SAFETY: validation bounded the left side, the weights and the slot; `V` is the instruction set of the
                // caller.
                unsafe {
                    match (step.terms.len(), tile.offset) {
                        (1, _) => V::tile::<W>(1, width, V::PANELS, BLOCK)(at.fill(&mut by_weights)),
                        (terms, 0) => V::sum_tile::<W>(width, terms)(at.fill(&mut by_weights)),
                        _ => V::tile::<f32>(1, width, V::PANELS, BLOCK)(at.fill(&mut by_sum)),
                    }
                }
                if step.out == Step::Q {
                    let [u2, u3, c22] =
                        [Step::U2, Step::U3, Step::C22].map(|step| self.at::<V>(place, &tile, step));
                    for vector in 0..V::PANELS * width {
                        let at = vector * BLOCK;
                        // SAFETY: as above.
                        unsafe {
                            let lane = V::load(start[1].as_ptr().add(vector / width * BLOCK));
                            let q = V::load(out.add(at));
                            (V::load(u3.add(at)) + q + lane).store(c22.add(at));
                            (V::load(u2.add(at)) + q).store(u2.add(at));
                        }
                    }
                }
                // At once: its stores to lines far away go on while the next tile is computed.
                if let Some(quarter) = step.finishes {
                    // SAFETY: as above.
                    unsafe { self.add_or_finish::<V>(place, &tile, quarter) };
                }
            }
        }
    }

    /// What becomes of a quarter of a tile: it is added to the parts before it, and written to the output after the last.
    ///
    /// # Safety
    ///
    /// As for [`Run::part`].
    #[inline(always)]
    unsafe fn add_or_finish<V: Finishing + Tiles>(&self, place: &Place, tile: &TileRows, quarter: Step) {
        let result = self.result::<V>(place, tile, quarter);
        if place.part > 0 {
            let added = self.at::<V>(place, tile, quarter);
            for at in (0..V::PANELS * tile.rows.len() * BLOCK).step_by(BLOCK) {
                // SAFETY: both lie in the slot.
                unsafe { (V::load(result.add(at)) + V::load(added.add(at))).store(result.add(at)) };
            }
        }
        if place.part + 1 == self.parts {
            // SAFETY: the caller's promise.
            unsafe { self.finish::<V>(place, tile, quarter as usize, result) };
        }
    }

    /// The tiles of a block.
    fn tiles<V: Tiles>(&self, place: &Place) -> impl Iterator<Item = TileRows> + use<V> {
        let (first, rows) = (place.rows.start, place.rows.len());
        let count = rows.div_ceil(V::PIXELS);
        // Without divisions for every tile.
        let (each, rest) = (rows / count.max(1), rows % count.max(1));
        (0..count).map(move |tile| {
            let offset = tile * each + tile.min(rest);
            let end = offset + each + usize::from(tile < rest);
            TileRows { offset, rows: first + offset..first + end }
        })
    }

    /// A quarter of a tile among the results.
    #[inline(always)]
    fn result<V: Tiles>(&self, place: &Place, tile: &TileRows, quarter: Step) -> *mut f32 {
        let in_tile = place.panel * QUARTERS + quarter as usize * V::PANELS;
        self.results.wrapping_add((tile.rows.start * 2 * GROUP + in_tile * tile.rows.len()) * BLOCK)
    }

    /// Where what a step makes of a tile lies.
    #[inline(always)]
    fn at<V: Tiles>(&self, place: &Place, tile: &TileRows, step: Step) -> *mut f32 {
        let number = step as usize;
        let step_elements = ROWS * HALF * BLOCK;
        // A quarter of the first part goes to its place, one of another beside the sum of the parts before it.
        if number < QUARTERS && place.part == 0 {
            return self.result::<V>(place, tile, step);
        }
        self.steps.wrapping_add(number * step_elements + tile.offset * HALF * BLOCK)
    }

    /// Asks for the lines of the output, and of what is added to it, where a quarter of a tile will go.
    #[inline(always)]
    fn fetch_output<V: Tiles>(&self, place: &Place, tile: &TileRows, quarter: Step) {
        let p = self.p;
        let (lower, right) = (quarter as usize / 2, quarter as usize % 2);
        let panel = place.group * GROUP + right * HALF + place.panel;
        let row = tile.rows.start + lower * self.half_rows;
        let at = |view: &crate::call::View, operand: usize| {
            let first = view.offset as usize + panel * view.stride_c as usize + row * view.stride_w as usize;
            self.args.operands[operand].ptr::<f32>().wrapping_add(first)
        };
        let (output, added) = (at(&p.output, 4), at(&p.residual, 3));
        for index in 0..V::PANELS {
            for row in 0..tile.rows.len() {
                let of =
                    |view: &crate::call::View| index * view.stride_c as usize + row * view.stride_w as usize;
                fetch_near(output.wrapping_add(of(&p.output)).cast());
                if p.residual_mode != residual::NONE {
                    fetch_near(added.wrapping_add(of(&p.residual)).cast());
                }
            }
        }
    }

    /// Writes a finished quarter of a tile to the output.
    ///
    /// # Safety
    ///
    /// As for [`Run::part`]; it lies at `result`.
    #[inline(always)]
    unsafe fn finish<V: Finishing + Tiles>(
        &self,
        place: &Place,
        tile: &TileRows,
        quarter: usize,
        result: *mut f32,
    ) {
        let p = self.p;
        let width = tile.rows.len();
        let (added, output) = (self.args.operands[3].ptr::<f32>(), self.args.operands[4].ptr::<f32>());
        let (lower, right) = (quarter / 2, quarter % 2);
        let row = tile.rows.start + lower * self.half_rows;
        // The lower half may lack a row.
        let count = width.min((p.out_w as usize).saturating_sub(row));
        for index in 0..V::PANELS {
            let panel = place.group * GROUP + right * HALF + place.panel + index;
            let offset = |view: &crate::call::View| {
                view.offset as usize + panel * view.stride_c as usize + row * view.stride_w as usize
            };
            let residual_at = if p.residual_mode == residual::NONE { 0 } else { offset(&p.residual) };
            let finish = Finish {
                shape: [1, 1, count],
                lanes: BLOCK,
                padded: false,
                residual_mode: p.residual_mode,
                activation: p.activation,
                residual: added.wrapping_add(residual_at),
                residual_steps: [0, 0, p.residual.stride_w as usize],
                out: output.wrapping_add(offset(&p.output)),
                out_steps: [0, 0, p.output.stride_w as usize],
            };
            let from = result.wrapping_add(index * width * BLOCK);
            // SAFETY: the caller's promise; at least a tile of the slot lies behind every result.
            unsafe { V::finish(&finish, &mut *from.cast::<[f32; TILE]>()) };
        }
    }
}

/// Where a block of rows lies.
struct Place {
    group: usize,
    part: usize,
    /// The first of its panels in each half of the group.
    panel: usize,
    /// In the upper half; those of the lower are as many below.
    rows: Range<usize>,
}

/// The rows of a tile, and how many of its block come before it.
struct TileRows {
    offset: usize,
    rows: Range<usize>,
}

/// What differs between the tiles of a product.
struct TilePlace {
    a: *const f32,
    out: *mut f32,
    residual: *const f32,
    /// Between panels of the result and of the residual.
    panel: usize,
    /// Weights to be asked for, and their rate.
    ahead: (*const u8, usize),
}

impl TilePlace {
    /// The tile, there.
    #[inline(always)]
    fn fill<'t, 'a, X>(&self, tile: &'t mut Tile<'a, X>) -> &'t Tile<'a, X> {
        tile.a = self.a;
        tile.out = self.out;
        tile.out_panel = self.panel;
        tile.residual = self.residual;
        tile.residual_panel = self.panel;
        (tile.ahead, tile.ahead_rate) = self.ahead;
        tile
    }
}
