//! `strassen_f32`, `strassen_f16w`: products of matrices by Strassen's algorithm; `strassen_left_f32`: its left side.
//!
//! Rows, columns and the channels of a sum are cut into halves. In Winograd's form of the algorithm, with the sums S of
//! quarters of the left matrix from `strassen_left_f32`:
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
//! Loop order: groups of four panels; parts of the sum, whose sums T are made once and stay in the second-level cache
//! while the next quarters of the weights are fetched; tiles of rows; the seven products, each a tile of `gemm_tile.rs`.
//! What lies between the products of a tile stays in the first level. Chunks split rows and groups.

use half::f16;

use crate::call::{BLOCK, Conv, Strassen, StrassenLeft, residual};
use crate::cpu::epilogue::{
    Clamp, Finish, Finishing, chunks_for, load_start, validate_epilogue, validate_fields,
};
use crate::cpu::gemm_tile::{MAX_PANELS, MAX_VECTORS, Nest, Tile, TileFn, Tiles, Weight, fetch_near};
use crate::cpu::share;
use crate::cpu::vector::Vector;
use crate::{Args, Call, Invalid, Kernel, RunError};

/// A product with f32 weights; see [`Strassen`].
pub static STRASSEN_F32: Kernel = Kernel {
    name: "strassen_f32",
    validate: |call| validate(call, 4),
    chunks,
    run: per_isa!(strassen_f32<_>),
};

/// A product with f16 weights; see [`Strassen`].
pub static STRASSEN_F16W: Kernel = Kernel {
    name: "strassen_f16w",
    validate: |call| validate(call, 2),
    chunks,
    run: per_isa!(strassen_f16w<_>),
};

/// The left side of [`STRASSEN_F32`]; see [`StrassenLeft`].
pub static STRASSEN_LEFT_F32: Kernel = Kernel {
    name: "strassen_left_f32",
    validate: validate_left,
    chunks: left_chunks,
    run: per_isa!(left<_>),
};

/// Panels of a group, and of one half of it.
const GROUP: usize = 4;
const HALF: usize = 2;

/// Elements of the largest tile.
const TILE: usize = MAX_VECTORS * BLOCK;

/// How far ahead of their sums weights are asked for, in elements.
const WEIGHTS_AHEAD: usize = 16 * BLOCK;

/// Elements of the left matrix that are worth a chunk.
const LEFT_CHUNK: u64 = 16 * 1024;

/// Blocks of columns of the left matrix that are gone through together: whole lines follow each other.
const STRIP: usize = 4;

/// The stored matrices of the left side, in their order.
const A11: usize = 0;
const A12: usize = 1;
const A22: usize = 2;
const S1: usize = 3;
const S2: usize = 4;
const S3: usize = 5;
const S4: usize = 6;

fn validate_shape(left: &StrassenLeft) -> Result<(), Invalid> {
    let fields = [left.rows, left.columns, left.parts];
    if fields.into_iter().any(|field| field > 1 << 31) || left.stride > 1 << 40 {
        return Err(Invalid("extent or stride too large"));
    }
    if left.parts == 0 || !left.columns.is_multiple_of(2 * BLOCK as u64 * left.parts) {
        return Err(Invalid("parts that are not halves of whole blocks"));
    }
    Ok(())
}

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
/// operations for each channel of a half; the sums of weights are made for each part of the rows.
fn grid(chunks: usize, half_rows: usize, groups: usize) -> (usize, usize) {
    let cost = |parts: &usize| {
        let (rows, groups) = (half_rows.div_ceil(*parts), groups.div_ceil(chunks / parts));
        groups.saturating_mul(rows.saturating_mul(7 * HALF) + 24)
    };
    let parts = (1..=chunks).filter(|parts| chunks.is_multiple_of(*parts)).min_by_key(cost).unwrap_or(1);
    (parts, chunks / parts)
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
    let slot = s.slot().unwrap_or(0) as usize;
    // Every chunk needs a slot of its own; where there are fewer, some chunks have nothing to do.
    let chunks = chunks.min(args.operands[5].bytes / 4 / slot.max(1));
    let (half_rows, groups) = (left.half_rows() as usize, (p.out_channels / Strassen::COLUMNS) as usize);
    if chunk >= chunks || half_rows == 0 || groups == 0 {
        return;
    }
    let (parts_m, parts_n) = grid(chunks, half_rows, groups);
    let rows = share(half_rows, chunk % parts_m, parts_m);
    let my_groups = share(groups, chunk / parts_m, parts_n);
    if rows.is_empty() {
        return;
    }
    let half = left.half_columns() as usize;
    let weights_pitch = (2 * half + 1) * BLOCK;
    let sums = args.operands[5].ptr::<f32>().wrapping_add(chunk * slot);
    let results = sums.wrapping_add(4 * weights_pitch);
    let run = Run {
        args,
        p,
        parts: s.parts as usize,
        k: p.in_channels as usize,
        half,
        half_rows,
        pitch: left.pitch() as usize,
        matrix: left.matrix().unwrap_or(0) as usize,
        sums,
        weights_pitch,
        results,
        steps: results.wrapping_add(half_rows * 2 * GROUP * BLOCK),
    };
    for group in my_groups.clone() {
        for part in 0..run.parts {
            let next = match part + 1 < run.parts {
                true => Some((group, part + 1)),
                false => (group + 1 < my_groups.end).then_some((group + 1, 0)),
            };
            // SAFETY: the caller's promise; the slot is this chunk's alone.
            unsafe {
                run.weight_sums::<V, W>(group, part);
                run.rows::<V, W>(rows.clone(), group, part, next);
            }
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
    /// T₁ to T₄, `[T][panel][half][16]`, at this distance.
    sums: *mut f32,
    weights_pitch: usize,
    /// The results of a group so far, tile after tile.
    results: *mut f32,
    /// What lies between the steps of a tile.
    steps: *mut f32,
}

impl Run<'_> {
    /// The weights of a panel from the beginning of a part on.
    fn weights<W>(&self, panel: usize, part: usize) -> *const W {
        self.args.operands[1].ptr::<W>().wrapping_add((panel * self.k + part * 2 * self.half) * BLOCK)
    }

    /// T₁ to T₄ of a part of a group.
    ///
    /// # Safety
    ///
    /// That of [`crate::ChunkFn`]; the slot is the caller's alone.
    #[inline(always)]
    unsafe fn weight_sums<V: Vector, W: Weight>(&self, group: usize, part: usize) {
        let elements = self.half * BLOCK;
        for panel in 0..HALF {
            let first = self.weights::<W>(group * GROUP + panel, part);
            let second = self.weights::<W>(group * GROUP + HALF + panel, part);
            let to = self.sums.wrapping_add(panel * elements);
            for at in (0..elements).step_by(BLOCK) {
                for (from, row) in [(first, 0), (first, 1), (second, 0), (second, 1)] {
                    fetch_near(from.wrapping_add(row * elements + at + WEIGHTS_AHEAD).cast());
                }
                // SAFETY: validation found all panels in the weights, and the sums in the slot.
                unsafe {
                    let (b11, b21) = (W::load::<V>(first.add(at)), W::load::<V>(first.add(elements + at)));
                    let (b12, b22) = (W::load::<V>(second.add(at)), W::load::<V>(second.add(elements + at)));
                    let t1 = b12 - b11;
                    let t2 = b22 - t1;
                    t1.store(to.add(at));
                    t2.store(to.add(self.weights_pitch + at));
                    (b22 - b12).store(to.add(2 * self.weights_pitch + at));
                    (b21 - t2).store(to.add(3 * self.weights_pitch + at));
                }
            }
        }
    }

    /// The tiles of `rows`, of the upper half and of the lower, in a part of a group; `next` is what comes after it.
    ///
    /// # Safety
    ///
    /// As for [`Run::weight_sums`], which ran before for this part.
    #[inline(always)]
    unsafe fn rows<V: Tiles + Finishing, W: Weight>(
        &self,
        rows: std::ops::Range<usize>,
        group: usize,
        part: usize,
        next: Option<(usize, usize)>,
    ) {
        let tiles = rows.len().div_ceil(V::PIXELS);
        let products = tiles * (HALF / V::PANELS) * StrassenLeft::MATRICES as usize;
        // Lines of the next part's weights, and how many to ask for with every four channels.
        let bytes = 2 * self.half * BLOCK * size_of::<W>();
        let rate = (GROUP * bytes / 64).div_ceil((products * self.half / 4).max(1)).clamp(1, 4);
        let panels = [0, 1, 2, 3].map(|panel| match next {
            Some((group, part)) => self.weights::<W>(group * GROUP + panel, part).cast(),
            None => std::ptr::null(),
        });
        let mut fetch = Fetch { panels, bytes, done: 0, each: self.half / 4 * rate * 64, rate };
        let nest = Nest {
            offset: 0,
            counts: [self.half / BLOCK, 1, 1],
            strides: [self.pitch * BLOCK, 0, 0],
            length: BLOCK,
        };
        for tile in 0..tiles {
            let range = share(rows.len(), tile, tiles);
            let range = rows.start + range.start..rows.start + range.end;
            for panel in (0..HALF).step_by(V::PANELS) {
                let at = Place { group, part, panel, rows: range.clone() };
                // SAFETY: the caller's promise.
                unsafe { self.tile::<V, W>(&at, &nest, &mut fetch) };
            }
        }
    }

    /// The seven products of a tile, and what becomes of their results.
    ///
    /// # Safety
    ///
    /// As for [`Run::rows`].
    #[inline(always)]
    unsafe fn tile<V: Tiles + Finishing, W: Weight>(&self, at: &Place, nest: &Nest, fetch: &mut Fetch) {
        let width = at.rows.len();
        let elements = V::PANELS * width * BLOCK;
        let (first_part, last_part) = (at.part == 0, at.part + 1 == self.parts);
        let panel = at.group * GROUP + at.panel;
        let mut start = [[0.0; MAX_PANELS * BLOCK]; 2];
        let none = [0.0; MAX_PANELS * BLOCK];
        let bias = self.args.operands[2];
        for (half, start) in start.iter_mut().enumerate() {
            let channel = (panel + half * HALF) * BLOCK;
            // SAFETY: the bias, where there is one, has all channels.
            unsafe {
                load_start(start, bias.ptr(), bias.bytes > 0 && first_part, channel, V::PANELS * BLOCK)
            };
        }
        let result = self
            .results
            .wrapping_add(at.rows.start * 2 * GROUP * BLOCK + at.panel * 2 * HALF * width * BLOCK);
        // Where a part of the results goes: to its place, or first beside the sum of the parts before it.
        let to = if first_part { result } else { self.steps.wrapping_add(4 * TILE) };
        let [c11, c12, c21, c22] = [0, 1, 2, 3].map(|quarter| to.wrapping_add(quarter * elements));
        let [product, u2, u3, q] = [0, 1, 2, 3].map(|step| self.steps.wrapping_add(step * TILE));
        let raw: TileFn<W> = V::tile::<W>(1, width, V::PANELS, BLOCK);
        let summed: TileFn<f32> = V::tile::<f32>(1, width, V::PANELS, BLOCK);
        let nests = std::slice::from_ref(nest);
        let left = self.args.operands[0]
            .ptr::<f32>()
            .wrapping_add(at.part * StrassenLeft::MATRICES as usize * self.matrix + at.rows.start * BLOCK);
        let a = |matrix: usize| left.wrapping_add(matrix * self.matrix);
        let half = self.half * BLOCK;
        let b = |column: usize, row: usize| {
            self.weights::<W>(panel + column * HALF, at.part).wrapping_add(row * half)
        };
        let t = |number: usize| {
            self.sums.wrapping_add((number - 1) * self.weights_pitch + at.panel * half).cast_const()
        };
        let (null, whole) = (std::ptr::null(), self.k * BLOCK);
        // SAFETY: validation bounded the left side, the weights and the slot; `V` is the instruction set of the caller.
        unsafe {
            let plain = |a, b, start, added, out| describe(nests, a, b, whole, start, added, out, width);
            let sums = |a, b, start, added, out| describe(nests, a, b, half, start, added, out, width);
            raw(&fetch.with(plain(a(A11), b(0, 0), &none, null, product)));
            raw(&fetch.with(plain(a(A12), b(0, 1), &start[0], product, c11)));
            summed(&fetch.with(sums(a(S2), t(2), &none, product, u2)));
            summed(&fetch.with(sums(a(S3), t(3), &none, u2, u3)));
            summed(&fetch.with(sums(a(A22), t(4), &start[0], u3, c21)));
            summed(&fetch.with(sums(a(S1), t(1), &none, null, q)));
            for vector in 0..V::PANELS * width {
                let at = vector * BLOCK;
                let lane = V::load(start[1].as_ptr().add(vector / width * BLOCK));
                let q = V::load(q.add(at));
                (V::load(u3.add(at)) + q + lane).store(c22.add(at));
                (V::load(u2.add(at)) + q).store(u2.add(at));
            }
            raw(&fetch.with(plain(a(S4), b(1, 1), &start[1], u2, c12)));
            if !first_part {
                for at in (0..4 * elements).step_by(BLOCK) {
                    (V::load(result.add(at)) + V::load(to.add(at))).store(result.add(at));
                }
            }
            if last_part {
                self.finish::<V>(at, result);
            }
        }
    }

    /// Writes the four quarters of a finished tile to the output.
    ///
    /// # Safety
    ///
    /// As for [`Run::rows`]; the quarters lie at `result`.
    #[inline(always)]
    unsafe fn finish<V: Finishing + Tiles>(&self, at: &Place, result: *mut f32) {
        let p = self.p;
        let width = at.rows.len();
        let (added, output) = (self.args.operands[3].ptr::<f32>(), self.args.operands[4].ptr::<f32>());
        let mut from = result;
        for quarter in 0..4 {
            let (lower, right) = (quarter / 2, quarter % 2);
            let row = at.rows.start + lower * self.half_rows;
            // The lower half may lack a row.
            let count = width.min((p.out_w as usize).saturating_sub(row));
            for index in 0..V::PANELS {
                let panel = at.group * GROUP + right * HALF + at.panel + index;
                let place = |view: &crate::call::View| {
                    view.offset as usize + panel * view.stride_c as usize + row * view.stride_w as usize
                };
                let residual_at = if p.residual_mode == residual::NONE { 0 } else { place(&p.residual) };
                let finish = Finish {
                    shape: [1, 1, count],
                    lanes: BLOCK,
                    padded: false,
                    residual_mode: p.residual_mode,
                    activation: p.activation,
                    residual: added.wrapping_add(residual_at),
                    residual_steps: [0, 0, p.residual.stride_w as usize],
                    out: output.wrapping_add(place(&p.output)),
                    out_steps: [0, 0, p.output.stride_w as usize],
                };
                // SAFETY: the caller's promise; at least a tile of the slot lies behind every result.
                unsafe { V::finish(&finish, &mut *from.cast::<[f32; TILE]>()) };
                from = from.wrapping_add(width * BLOCK);
            }
        }
    }
}

/// Where a tile lies.
struct Place {
    group: usize,
    part: usize,
    /// The first of its panels in each half of the group.
    panel: usize,
    /// In the upper half; those of the lower are as many below.
    rows: std::ops::Range<usize>,
}

/// A product of a matrix of the left side, from its first row on, with panels at `b`, into a step's memory.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the parts of a tile that differ between the seven products")]
fn describe<'a, W>(
    nests: &'a [Nest],
    a: *const f32,
    b: *const W,
    b_panel: usize,
    start: &'a [f32; MAX_PANELS * BLOCK],
    added: *const f32,
    out: *mut f32,
    width: usize,
) -> Tile<'a, W> {
    let (low, high) = Clamp::NONE.bounds();
    Tile {
        a,
        a_pitch: BLOCK,
        a_row: 0,
        nests,
        b,
        b_panel,
        start,
        out,
        out_pitch: BLOCK,
        out_row: 0,
        out_panel: width * BLOCK,
        residual: added,
        residual_pitch: BLOCK,
        residual_row: 0,
        residual_panel: width * BLOCK,
        low,
        high,
        ahead: std::ptr::null(),
        ahead_rate: 0,
    }
}

/// The weights of the four panels that come next, asked for a piece with every product.
struct Fetch {
    /// The panels; null where nothing comes next.
    panels: [*const u8; GROUP],
    /// Of a panel.
    bytes: usize,
    /// Bytes asked for so far, and with every product.
    done: usize,
    each: usize,
    rate: usize,
}

impl Fetch {
    /// The tile with its piece.
    #[inline(always)]
    fn with<'t, X>(&mut self, mut tile: Tile<'t, X>) -> Tile<'t, X> {
        if let Some(panel) = self.panels.get(self.done / self.bytes.max(1))
            && !panel.is_null()
        {
            tile.ahead = panel.wrapping_add(self.done % self.bytes);
            tile.ahead_rate = self.rate;
        }
        self.done += self.each;
        tile
    }
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
