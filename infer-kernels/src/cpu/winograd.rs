//! `winograd_f32`: 3×3 convolution by Winograd's F(4,3) and F(2,3); `winograd_weights_*`: its filters.
//!
//! The picture is cut into tiles of m × m outputs. Of a block of tiles, the inputs are transformed into (m + 2)²
//! planes `[C/16][tile][16]`; each plane is multiplied by its matrix of weights, on the microkernel of
//! `gemm_tile.rs`; and the results, planes `[OC/16][tile][16]`, are transformed back and finished.
//!
//! Loop order: blocks of tiles; blocks of pairs of panels; planes; pairs; microkernel tiles. What lies between two
//! transforms is small enough for the second-level cache or, where there are many channels, is read plane by plane,
//! in long rows. The weights are one stream for each pair, plane after plane, each time fetched one plane ahead.
//! Chunks split tiles and pairs in two dimensions and share nothing: the inputs of a tile are transformed once for
//! each part of the pairs. The more parts the tiles are split into, the less memory a chunk works in.

use half::f16;

use crate::call::{BLOCK, Winograd, WinogradWeights, residual};
use crate::cpu::epilogue::{
    Clamp, Finish, Finishing, MAX_STRIDE, chunks_for, load_start, validate_epilogue, validate_fields,
};
use crate::cpu::gemm_tile::{MAX_PANELS, MAX_VECTORS, Nest, Sum, Tile, Tiles, Weight};
use crate::cpu::share;
use crate::cpu::vector::Vector;
use crate::cpu::winograd_transform::{
    Algorithm, Four, Two, transform_filter, transform_input, transform_output_columns,
};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Winograd convolution; see [`Winograd`].
pub static WINOGRAD_F32: Kernel =
    Kernel { name: "winograd_f32", validate, chunks, run: per_isa!(winograd_f32<_>) };

/// Filters for [`WINOGRAD_F32`] from f32 weights; see [`WinogradWeights`].
pub static WINOGRAD_WEIGHTS_F32: Kernel = Kernel {
    name: "winograd_weights_f32",
    validate: |call| validate_weights(call, 4),
    chunks: weights_chunks,
    run: per_isa!(weights_f32<_>),
};

/// Filters for [`WINOGRAD_F32`] from f16 weights; see [`WinogradWeights`].
pub static WINOGRAD_WEIGHTS_F16W: Kernel = Kernel {
    name: "winograd_weights_f16w",
    validate: |call| validate_weights(call, 2),
    chunks: weights_chunks,
    run: per_isa!(weights_f16w<_>),
};

/// Panels in a pair.
const PAIR: usize = 2;

/// The most tiles or pairs of a block.
const MAX_BLOCK: u64 = 1 << 20;

fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let w: &Winograd = call.params()?;
    let p = &w.conv;
    call.expect_operands(6)?;
    validate_fields(p)?;
    let block = BLOCK as u64;
    if !matches!(w.tile, 2 | 4) || !(1..=MAX_BLOCK).contains(&w.block_tiles.max(w.block_pairs)) {
        return Err(Invalid("tiles or blocks of an unknown size"));
    }
    if w.block_tiles == 0 || w.block_pairs == 0 {
        return Err(Invalid("blocks of nothing"));
    }
    let steps = [p.stride_h, p.stride_w, p.dilation_h, p.dilation_w];
    if [p.kernel_h, p.kernel_w] != [3; 2] || steps != [1; 4] || p.weights_stride_n != 0 {
        return Err(Invalid("not a 3×3 convolution of stride 1 with one set of weights"));
    }
    if p.in_block != block || p.in_channels == 0 {
        return Err(Invalid("input without channels, or not in blocks of 16"));
    }
    if p.groups > 1 && (!p.in_channels.is_multiple_of(block) || !p.out_channels.is_multiple_of(block)) {
        return Err(Invalid("groups that are not whole blocks"));
    }
    let panels = p.out_channels.div_ceil(block) * p.groups;
    if p.n == 0 || panels == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    // Whole blocks: lanes beyond the last channel are transformed and then left alone.
    let in_blocks = p.in_channels.div_ceil(block).checked_mul(p.groups);
    let input = in_blocks.and_then(|blocks| p.input.end(p.n, blocks, p.out_h + 2, p.out_w + 2, block));
    call.expect_elements(0, input, 4)?;
    let weights = WinogradWeights {
        groups: p.groups,
        in_channels: p.in_channels,
        out_channels: p.out_channels,
        tile: w.tile,
    };
    call.expect_elements(1, weights.elements(), 4)?;
    call.expect_elements(5, w.slot(), 4)?;
    let tail = p.out_channels - (p.out_channels.div_ceil(block) - 1) * block;
    validate_epilogue(call, p, panels, tail, p.groups * p.out_channels)
}

/// Chunks of a call.
struct Grid {
    /// Parts of the tiles, and of the pairs.
    parts: (usize, usize),
    /// The work of the largest, in vector operations.
    cost: usize,
}

/// The extents of a call.
struct Geometry {
    groups: usize,
    /// Of one group.
    in_channels: usize,
    in_blocks: usize,
    panels: usize,
    pairs: usize,
    tiles_h: usize,
    tiles_w: usize,
    /// Of all images.
    tiles: usize,
    planes: usize,
    block_tiles: usize,
    block_pairs: usize,
}

impl Geometry {
    fn new(w: &Winograd) -> Self {
        let p = &w.conv;
        let panels = (p.out_channels as usize).div_ceil(BLOCK);
        let (tiles_h, tiles_w) = (p.out_h.div_ceil(w.tile) as usize, p.out_w.div_ceil(w.tile) as usize);
        Geometry {
            groups: p.groups as usize,
            in_channels: p.in_channels as usize,
            in_blocks: (p.in_channels as usize).div_ceil(BLOCK),
            panels,
            pairs: panels.div_ceil(PAIR),
            tiles_h,
            tiles_w,
            tiles: p.n as usize * tiles_h * tiles_w,
            planes: crate::call::winograd_planes(w.tile) as usize,
            block_tiles: w.block_tiles as usize,
            block_pairs: w.block_pairs as usize,
        }
    }

    /// Elements that a chunk works in, one of so many parts of the tiles: at most [`Winograd::slot`].
    fn slot(&self, parts: usize) -> usize {
        let tiles = self.block_tiles.min(self.tiles.div_ceil(parts));
        let lines = (self.in_blocks + PAIR * self.block_pairs) * tiles + 2;
        lines * BLOCK * self.planes
    }

    /// Multiplications in all.
    fn work(&self) -> usize {
        [self.tiles, self.groups, self.panels * BLOCK, self.in_channels]
            .into_iter()
            .fold(self.planes, usize::saturating_mul)
    }

    /// As many of the chunks as `room` elements hold, as a grid of parts of the tiles × parts of the pairs.
    fn split(&self, mut chunks: usize, room: usize) -> (usize, usize) {
        loop {
            match self.grid(chunks, room) {
                Some(grid) => return grid.parts,
                None if chunks <= 1 => return (1, 1),
                None => chunks /= 2,
            }
        }
    }

    /// Chunks as a grid of parts of the tiles × parts of the pairs: the least work in the largest chunk, with what
    /// is transformed several times and the weights that are read for each block of tiles. `None` where no such grid
    /// works in `room` elements.
    fn grid(&self, chunks: usize, room: usize) -> Option<Grid> {
        let fits = |parts: usize| self.slot(parts).checked_mul(chunks).is_some_and(|needed| needed <= room);
        let parts = (1..=chunks).filter(|&parts| chunks.is_multiple_of(parts) && fits(parts));
        let grids = parts.map(|parts| {
            let tiles = self.tiles.div_ceil(parts);
            let pairs = (self.groups * self.pairs).div_ceil(chunks / parts);
            let blocks = tiles.div_ceil(self.block_tiles);
            // In vector operations; a transform takes some six for each plane, and of the weights some eight bytes
            // come in the time of one.
            let products = tiles * pairs * PAIR * self.in_channels * self.planes;
            let transforms = tiles * self.planes * 6 * (self.in_blocks + pairs * PAIR);
            let weights = blocks * pairs * PAIR * self.in_channels * self.planes * BLOCK * 4 / 8;
            let cost = products.saturating_add(transforms).saturating_add(weights);
            Grid { parts: (parts, chunks / parts), cost }
        });
        grids.min_by_key(|grid| grid.cost)
    }

    /// Image, row and column of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> [usize; 3] {
        let row = tile / self.tiles_w;
        [row / self.tiles_h, row % self.tiles_h, tile % self.tiles_w]
    }
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let geometry = Geometry::new(args.params());
    let room = args.operands[5].bytes / 4;
    // Of a thread's share two parts at most, since each has memory of its own to work in; and one, where two are more work.
    let worthwhile = chunks_for(geometry.work() as u64, threads).min(2 * threads);
    let work = |chunks: usize| {
        let grid = geometry.grid(chunks, room)?;
        Some(grid.cost.saturating_mul(chunks.div_ceil(threads)))
    };
    let few = worthwhile.min(threads);
    let (parts_t, parts_p) = match (work(few), work(worthwhile)) {
        (Some(one), Some(two)) if one < two => geometry.split(few, room),
        _ => geometry.split(worthwhile, room),
    };
    parts_t * parts_p
}

#[inline(always)]
unsafe fn winograd_f32<V: Tiles + Finishing>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let w: &Winograd = args.params();
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe {
        match w.tile {
            4 => winograd::<V, Four, 6, 4>(args, chunk, chunks),
            _ => winograd::<V, Two, 4, 2>(args, chunk, chunks),
        }
    }
    Ok(())
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn winograd<V: Tiles + Finishing, T: Algorithm<IN, OUT>, const IN: usize, const OUT: usize>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) {
    let w: &Winograd = args.params();
    let g = Geometry::new(w);
    let work_in = args.operands[5];
    if g.tiles == 0 || g.pairs == 0 || g.groups == 0 {
        return;
    }
    let (parts_t, parts_p) = g.split(chunks, work_in.bytes / 4);
    // Every chunk has memory of its own; where there is less, some chunks have nothing to do.
    if chunk >= parts_t * parts_p {
        return;
    }
    let my_tiles = share(g.tiles, chunk / parts_p, parts_t);
    let my_pairs = share(g.groups * g.pairs, chunk % parts_p, parts_p);
    let slot = work_in.ptr::<f32>().wrapping_add(chunk * g.slot(parts_t));
    let blocks = my_tiles.len().div_ceil(g.block_tiles);
    for block in 0..blocks {
        let part = share(my_tiles.len(), block, blocks);
        let tiles = my_tiles.start + part.start..my_tiles.start + part.end;
        let mut pair = my_pairs.start;
        while pair < my_pairs.end {
            let group = pair / g.pairs;
            let end = my_pairs.end.min((group + 1) * g.pairs);
            let part = Part { w, g: &g, tiles: tiles.clone(), group, slot };
            // SAFETY: the caller's promise; the slot is this chunk's alone.
            unsafe { part.inputs::<V, T, IN, OUT>(args) };
            while pair < end {
                let last = end.min(pair + g.block_pairs);
                let more = last < my_pairs.end || block + 1 < blocks;
                // SAFETY: as above.
                unsafe {
                    part.products::<V>(args, pair..last, more);
                    part.outputs::<V, T, IN, OUT>(args, pair..last);
                }
                pair = last;
            }
        }
    }
}

/// A block of tiles of one group.
struct Part<'a> {
    w: &'a Winograd,
    g: &'a Geometry,
    tiles: std::ops::Range<usize>,
    group: usize,
    slot: *mut f32,
}

impl Part<'_> {
    /// Between the planes of transformed inputs.
    fn in_plane(&self) -> usize {
        (self.g.in_blocks * self.tiles.len() + 1) * BLOCK
    }

    /// Between the planes of products.
    fn out_plane(&self) -> usize {
        (self.g.block_pairs * PAIR * self.tiles.len() + 1) * BLOCK
    }

    /// The first plane of products.
    fn products_at(&self) -> *mut f32 {
        self.slot.wrapping_add(self.g.planes * self.in_plane())
    }

    /// Transforms the inputs.
    ///
    /// # Safety
    ///
    /// That of [`crate::ChunkFn`]; the slot is this chunk's alone.
    #[inline(always)]
    unsafe fn inputs<V: Vector, T: Algorithm<IN, OUT>, const IN: usize, const OUT: usize>(
        &self,
        args: &Args<'_>,
    ) {
        let (p, g) = (&self.w.conv, self.g);
        let view = &p.input;
        let steps = [view.stride_h as usize, view.stride_w as usize];
        let extents = [p.out_h as usize + 2, p.out_w as usize + 2];
        let plane = self.in_plane();
        let input = args.operands[0].ptr::<f32>();
        for block in 0..g.in_blocks {
            let base = view.offset as usize + (self.group * g.in_blocks + block) * view.stride_c as usize;
            let mut to = self.slot.wrapping_add(block * self.tiles.len() * BLOCK);
            let [mut n, mut y, mut x] = g.place(self.tiles.start);
            for _ in self.tiles.clone() {
                let (row, column) = (y * OUT, x * OUT);
                let extent = [IN.min(extents[0] - row), IN.min(extents[1] - column)];
                let at = base + n * view.stride_n as usize + row * steps[0] + column * steps[1];
                // SAFETY: validation found so many rows and columns of whole blocks in the input, and the slot to
                // hold all planes.
                unsafe {
                    transform_input::<V, T, IN, OUT>(input.wrapping_add(at), steps, extent, to, plane);
                }
                to = to.wrapping_add(BLOCK);
                x += 1;
                if x == g.tiles_w {
                    (x, y) = (0, y + 1);
                    if y == g.tiles_h {
                        (y, n) = (0, n + 1);
                    }
                }
            }
        }
    }

    /// Multiplies each plane by the weights of `pairs`; `more`: after them come others.
    ///
    /// # Safety
    ///
    /// As for [`Part::inputs`], which ran before.
    #[inline(always)]
    unsafe fn products<V: Tiles + Finishing>(
        &self,
        args: &Args<'_>,
        pairs: std::ops::Range<usize>,
        more: bool,
    ) {
        let g = self.g;
        let (count, k) = (self.tiles.len(), g.in_channels);
        let (full, tail) = (k / BLOCK, k % BLOCK);
        let strides = [count * BLOCK, 0, 0];
        let whole = Nest { offset: 0, counts: [full, 1, 1], strides, length: BLOCK };
        let rest = Nest { offset: full * count * BLOCK, counts: [1; 3], strides: [0; 3], length: tail };
        let nests = match (full, tail) {
            (0, _) => &[rest][..],
            (_, 0) => &[whole],
            _ => &[whole, rest],
        };
        let widths = count.div_ceil(V::PIXELS);
        let start = [0.0_f32; MAX_PANELS * BLOCK];
        let (low, high) = Clamp::NONE.bounds();
        let weights = args.operands[1].ptr::<f32>();
        // Cache lines of the next plane's weights for every four steps of k, over the first tiles.
        let rate = 8_usize.div_ceil(widths);
        for plane in 0..g.planes {
            let from = self.slot.wrapping_add(plane * self.in_plane());
            let to = self.products_at().wrapping_add(plane * self.out_plane());
            for (index, pair) in pairs.clone().enumerate() {
                let panel = pair % g.pairs * PAIR;
                let in_pair = PAIR.min(g.panels - panel);
                let first = (self.group * g.panels + panel) * g.planes * k * BLOCK;
                let b = weights.wrapping_add(first + plane * in_pair * k * BLOCK);
                let ahead = if plane + 1 < g.planes || more { in_pair * k * BLOCK } else { 0 };
                let mut done = 0;
                while done < in_pair {
                    let panels = V::PANELS.min(in_pair - done);
                    for width in 0..widths {
                        let part = share(count, width, widths);
                        let at = width * (k / 4 * rate * 64);
                        let next = if ahead > 0 && at < ahead * 4 && done == 0 {
                            b.wrapping_add(ahead).cast::<u8>().wrapping_add(at)
                        } else {
                            std::ptr::null_mut()
                        };
                        let call = Tile {
                            a: from.wrapping_add(part.start * BLOCK),
                            a_pitch: BLOCK,
                            a_row: 0,
                            nests,
                            b: b.wrapping_add(done * k * BLOCK),
                            b_panel: k * BLOCK,
                            a_ahead: 0,
                            sum: Sum::NONE,
                            start: &start,
                            out: to.wrapping_add(((index * PAIR + done) * count + part.start) * BLOCK),
                            out_pitch: BLOCK,
                            out_row: 0,
                            out_panel: count * BLOCK,
                            residual: std::ptr::null(),
                            residual_pitch: 0,
                            residual_row: 0,
                            residual_panel: 0,
                            low,
                            high,
                            ahead: next,
                            ahead_rate: 4 * rate,
                        };
                        // SAFETY: the slot holds both kinds of planes, the operand the weights of all pairs; `V` is
                        // the instruction set of the caller.
                        unsafe { V::tile::<f32>(1, part.len(), panels, BLOCK)(&call) };
                    }
                    done += panels;
                }
            }
        }
    }

    /// Transforms the products of `pairs` back, and finishes the outputs.
    ///
    /// # Safety
    ///
    /// As for [`Part::inputs`]; [`Part::products`] ran before.
    #[inline(always)]
    unsafe fn outputs<V: Finishing, T: Algorithm<IN, OUT>, const IN: usize, const OUT: usize>(
        &self,
        args: &Args<'_>,
        pairs: std::ops::Range<usize>,
    ) {
        let (p, g) = (&self.w.conv, self.g);
        let (out_h, out_w, out_channels) = (p.out_h as usize, p.out_w as usize, p.out_channels as usize);
        let [bias, added, output] = [2, 3, 4].map(|index| args.operands[index]);
        let (added, output) = (added.ptr::<f32>(), output.ptr::<f32>());
        let clamp = Clamp::new(p);
        let (low, high) = clamp.unwrap_or(Clamp::NONE).bounds();
        let plane = self.out_plane();
        let count = self.tiles.len();
        let out_steps = [p.output.stride_h as usize, p.output.stride_w as usize];
        let res_steps = [p.residual.stride_h as usize, p.residual.stride_w as usize];
        let mut start = [0.0_f32; MAX_PANELS * BLOCK];
        let mut scratch = [0.0_f32; MAX_VECTORS * BLOCK];
        let first = pairs.start % g.pairs * PAIR;
        let last = g.panels.min(first + pairs.len() * PAIR);
        for panel in first..last {
            let lanes = (out_channels - panel * BLOCK).min(BLOCK);
            let channel = self.group * out_channels + panel * BLOCK;
            // SAFETY: the bias, where there is one, has all channels of all groups.
            unsafe { load_start(&mut start, bias.ptr(), bias.bytes > 0, channel, lanes) };
            let block = self.group * g.panels + panel;
            let out_base = p.output.offset as usize + block * p.output.stride_c as usize;
            let res_base = p.residual.offset as usize + block * p.residual.stride_c as usize;
            let mut from = self.products_at().wrapping_add((panel - first) * count * BLOCK).cast_const();
            let [mut n, mut y, mut x] = g.place(self.tiles.start);
            for _ in 0..count {
                let (row, column) = (y * OUT, x * OUT);
                let extent = [OUT.min(out_h - row), OUT.min(out_w - column)];
                let out = output.wrapping_add(
                    out_base + n * p.output.stride_n as usize + row * out_steps[0] + column * out_steps[1],
                );
                let residual = added.wrapping_add(
                    res_base + n * p.residual.stride_n as usize + row * res_steps[0] + column * res_steps[1],
                );
                let store = Store {
                    start: &start,
                    extent,
                    residual: if p.residual_mode == residual::BEFORE_ACTIVATION {
                        residual
                    } else {
                        std::ptr::null()
                    },
                    residual_steps: res_steps,
                    low,
                    high,
                    out,
                    out_steps,
                };
                // SAFETY: validation bounded what the tile reads and writes, all lanes of whole blocks; `V` is the
                // instruction set of the caller, and the scratch holds the largest tile.
                unsafe {
                    if clamp.is_some() && lanes == BLOCK {
                        store.run::<V, T, IN, OUT>(from, plane);
                    } else {
                        let store = Store {
                            residual: std::ptr::null(),
                            low: f32::NEG_INFINITY,
                            high: f32::INFINITY,
                            out: scratch.as_mut_ptr(),
                            out_steps: [extent[1] * BLOCK, BLOCK],
                            ..store
                        };
                        store.run::<V, T, IN, OUT>(from, plane);
                        let finish = Finish {
                            shape: [1, extent[0], extent[1]],
                            lanes,
                            padded: p.output_padded == 1,
                            residual_mode: p.residual_mode,
                            activation: p.activation,
                            residual,
                            residual_steps: [0, res_steps[0], res_steps[1]],
                            out,
                            out_steps: [0, out_steps[0], out_steps[1]],
                        };
                        V::finish(&finish, &mut scratch);
                    }
                }
                from = from.wrapping_add(BLOCK);
                x += 1;
                if x == g.tiles_w {
                    (x, y) = (0, y + 1);
                    if y == g.tiles_h {
                        (y, n) = (0, n + 1);
                    }
                }
            }
        }
    }
}

/// Where the outputs of a tile go, and what happens to them on the way.
struct Store<'a> {
    start: &'a [f32; MAX_PANELS * BLOCK],
    /// Rows and columns that exist.
    extent: [usize; 2],
    /// Added before the clamp; null where there is none.
    residual: *const f32,
    residual_steps: [usize; 2],
    low: f32,
    high: f32,
    out: *mut f32,
    out_steps: [usize; 2],
}

impl Store<'_> {
    /// # Safety
    ///
    /// The processor has `V`'s instruction set; the planes are readable, and so is the residual, and the output
    /// writable, for all lanes of the tile.
    #[inline(always)]
    unsafe fn run<V: Vector, T: Algorithm<IN, OUT>, const IN: usize, const OUT: usize>(
        &self,
        from: *const f32,
        plane: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = V::load(self.start.as_ptr());
            let (low, high) = (V::splat(self.low), V::splat(self.high));
            let half = transform_output_columns::<V, T, IN, OUT>(from, plane);
            for (row, half) in half.into_iter().enumerate().take(self.extent[0]) {
                let out = self.out.add(row * self.out_steps[0]);
                let residual = self.residual.wrapping_add(row * self.residual_steps[0]);
                for (column, sum) in T::output(half).into_iter().enumerate() {
                    if column < self.extent[1] {
                        let mut sum = sum + start;
                        if !self.residual.is_null() {
                            sum = sum + V::load(residual.add(column * self.residual_steps[1]));
                        }
                        high.min(low.max(sum)).store(out.add(column * self.out_steps[1]));
                    }
                }
            }
        }
    }
}

fn validate_weights(call: &Call<'_>, weight_bytes: u64) -> Result<(), Invalid> {
    let p: &WinogradWeights = call.params()?;
    call.expect_operands(2)?;
    if !matches!(p.tile, 2 | 4) {
        return Err(Invalid("tiles of an unknown size"));
    }
    let elements = p.elements().filter(|&elements| elements <= MAX_STRIDE);
    let elements = elements.ok_or(Invalid("size overflows"))?;
    call.expect_elements(0, Some(elements / crate::call::winograd_planes(p.tile) * 9), weight_bytes)?;
    call.expect_elements(1, Some(elements), 4)
}

fn weights_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &WinogradWeights = args.params();
    chunks_for(p.elements().unwrap_or(0), threads)
}

#[inline(always)]
unsafe fn weights_f32<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { weights::<V, f32>(args, chunk, chunks) };
    Ok(())
}

#[inline(always)]
unsafe fn weights_f16w<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { weights::<V, f16>(args, chunk, chunks) };
    Ok(())
}

/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn weights<V: Vector, W: Weight>(args: &Args<'_>, chunk: usize, chunks: usize) {
    let p: &WinogradWeights = args.params();
    // SAFETY: the caller's promise.
    unsafe {
        match p.tile {
            4 => filters::<V, W, Four, 6, 4>(args, chunk, chunks),
            _ => filters::<V, W, Two, 4, 2>(args, chunk, chunks),
        }
    }
}

/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn filters<V: Vector, W: Weight, T: Algorithm<IN, OUT>, const IN: usize, const OUT: usize>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) {
    let p: &WinogradWeights = args.params();
    let channels = p.in_channels as usize;
    let (blocks, panels) = (channels.div_ceil(BLOCK), (p.out_channels as usize).div_ceil(BLOCK));
    let (from, to) = (args.operands[0].ptr::<W>(), args.operands[1].ptr::<f32>());
    for item in share(p.groups as usize * panels * blocks, chunk, chunks) {
        let (panel, block) = (item / blocks, item % blocks);
        let in_block = BLOCK.min(channels - block * BLOCK);
        let panel_of_group = panel % panels;
        let in_pair = PAIR.min(panels - panel_of_group / PAIR * PAIR);
        let first = (panel - panel_of_group % PAIR) * IN * IN * channels * BLOCK;
        for c in 0..in_block {
            // SAFETY: validation found both operands to hold all panels.
            unsafe {
                let mut filter = [[V::splat(0.0); 3]; 3];
                for (tap, value) in filter.as_flattened_mut().iter_mut().enumerate() {
                    let k = block * BLOCK * 9 + tap * in_block + c;
                    *value = W::load(from.add((panel * channels * 9 + k) * BLOCK));
                }
                let planes = transform_filter::<V, T, IN, OUT>(filter);
                for (plane, value) in planes.as_flattened().iter().enumerate() {
                    let row = (plane * in_pair + panel_of_group % PAIR) * channels + block * BLOCK + c;
                    value.store(to.add(first + row * BLOCK));
                }
            }
        }
    }
}
