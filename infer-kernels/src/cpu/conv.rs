//! `conv_f32`, `conv_f16w`: direct convolution and matrix product on the microkernel of `gemm_tile.rs`.
//!
//! out[n, o, y, x] = act(bias[o] + Σ in[n, c, y·sh + i·dh, x·sw + j·dw] · w[o, c, i, j])
//!
//! Loop order: blocks of pixels whose input fits the second-level cache; panels of weights; tiles of pixels, each
//! with the whole sum over (channel, row tap, column tap). A tile of weights thus is read from the first or second
//! level by all tiles of a block, while the next one is prefetched. Chunks split pixels and panels in two
//! dimensions.

use half::f16;

use crate::call::{BLOCK, Conv, View, residual};
use crate::cpu::epilogue::{
    Clamp, Finish, Finishing, InPlace, MAX_STRIDE, chunks_for, input_extent, load_start, picture_end,
    validate_epilogue, validate_fields,
};
use crate::cpu::gemm_tile::{
    A_AHEAD_BLOCKS, MAX_PANELS, MAX_VECTORS, Nest, Sum, Tile, TileFn, Tiles, Weight,
};
use crate::cpu::share;
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Convolution with f32 weights; see [`Conv`].
pub static CONV_F32: Kernel = Kernel {
    name: "conv_f32",
    validate: |call| validate(call, 4),
    chunks,
    run: per_isa!(conv_f32<_>, amx super::conv_amx::conv_f32),
};

/// Convolution with f16 weights; see [`Conv`].
pub static CONV_F16W: Kernel = Kernel {
    name: "conv_f16w",
    validate: |call| validate(call, 2),
    chunks,
    run: per_isa!(conv_f16w<_>, amx super::conv_amx::conv_f16w),
};

/// Input that all pixels may span before a product is cut into parts of its sum.
const PART_BYTES: usize = 512 * 1024;

/// The fewest channels of such a part: sums that leave the registers must be worth it.
const PART_CHANNELS: usize = 512;

/// Input that one block of pixels may span, so that it stays in the second-level cache beside the weights.
const BLOCK_BYTES: usize = 256 * 1024;

pub(crate) fn validate(call: &Call<'_>, weight_bytes: u64) -> Result<(), Invalid> {
    let p: &Conv = call.params()?;
    call.expect_operands(5)?;
    validate_fields(p)?;
    let block = BLOCK as u64;
    if p.in_block == 0 || p.in_block > block {
        return Err(Invalid("input blocks of no channels or too many"));
    }
    if p.groups > 1 && (!p.in_channels.is_multiple_of(p.in_block) || !p.out_channels.is_multiple_of(block)) {
        return Err(Invalid("groups that are not whole blocks"));
    }
    let steps = [p.in_channels, p.kernel_h, p.kernel_w].into_iter().try_fold(1_u64, u64::checked_mul);
    let steps = steps.filter(|&k| k <= MAX_STRIDE).ok_or(Invalid("size overflows"))?;
    let panels = p.out_channels.div_ceil(block) * p.groups;
    if p.n == 0 || panels == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    let (in_h, in_w) = input_extent(p);
    let in_blocks = p.in_channels.div_ceil(p.in_block);
    let in_tail = p.in_channels - in_blocks.saturating_sub(1) * p.in_block;
    let input = in_blocks
        .checked_mul(p.groups)
        .and_then(|blocks| picture_end(&p.input, p.n, blocks, [in_h, in_w], [p.in_block, in_tail]));
    call.expect_elements(0, input, 4)?;
    let weights = panels.checked_mul(steps).and_then(|n| n.checked_mul(block)).and_then(|one| {
        p.weights_stride_n.checked_mul(if steps == 0 { 0 } else { p.n - 1 })?.checked_add(one)
    });
    call.expect_elements(1, weights, weight_bytes)?;
    let tail = p.out_channels - (p.out_channels.div_ceil(block) - 1) * block;
    validate_epilogue(call, p, panels, tail, p.groups * p.out_channels)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &Conv = args.params();
    let work = [p.groups, p.out_channels, p.in_channels, p.kernel_h, p.kernel_w, p.out_h, p.out_w];
    chunks_for(work.into_iter().fold(p.n, u64::saturating_mul), threads)
}

/// A picture's distances between images, rows and pixels of the output.
#[derive(Clone, Copy)]
struct Steps {
    n: usize,
    h: usize,
    w: usize,
}

impl Steps {
    fn new(view: &View, stride_h: u64, stride_w: u64) -> Self {
        // Wrapping, because a distance along an extent of 1 may be anything.
        Steps {
            n: view.stride_n as usize,
            h: view.stride_h.wrapping_mul(stride_h) as usize,
            w: view.stride_w.wrapping_mul(stride_w) as usize,
        }
    }

    fn at(&self, n: usize, y: usize, x: usize) -> usize {
        n * self.n + y * self.h + x * self.w
    }
}

/// The output's pixels with their axes merged as far as all pictures allow, cut into tiles.
struct Pixels {
    n: usize,
    h: usize,
    w: usize,
    /// Input, output, residual.
    steps: [Steps; 3],
    /// Rows of a tile.
    rows: usize,
    row_groups: usize,
    tiles_w: usize,
    /// The least width of a tile, and how many of the first have one column more.
    widths: (usize, usize),
}

impl Pixels {
    fn new<V: Tiles>(p: &Conv) -> Self {
        let mut pixels = Pixels {
            n: p.n as usize,
            h: p.out_h as usize,
            w: p.out_w as usize,
            steps: [
                Steps::new(&p.input, p.stride_h, p.stride_w),
                Steps::new(&p.output, 1, 1),
                Steps::new(if p.residual_mode == residual::NONE { &p.output } else { &p.residual }, 1, 1),
            ],
            rows: 1,
            row_groups: 0,
            tiles_w: 0,
            widths: (0, 0),
        };
        pixels.merge(p.weights_stride_n == 0 || p.n == 1);
        pixels.cut::<V>();
        pixels
    }

    /// Makes one long row of rows, and of images, that follow each other at the distance of pixels.
    fn merge(&mut self, images: bool) {
        if self.w == 1 || self.h == 1 || self.steps.iter().all(|s| s.h == self.w.wrapping_mul(s.w)) {
            if self.w == 1 && self.h > 1 {
                self.steps.iter_mut().for_each(|s| s.w = s.h);
            }
            self.w *= self.h;
            self.h = 1;
        }
        if images
            && self.h == 1
            && (self.w == 1 || self.steps.iter().all(|s| s.n == self.w.wrapping_mul(s.w)))
        {
            if self.w == 1 && self.n > 1 {
                self.steps.iter_mut().for_each(|s| s.w = s.n);
            }
            self.w *= self.n;
            self.n = 1;
        }
    }

    fn cut<V: Tiles>(&mut self) {
        self.rows = if self.h > 1 && V::has_two_rows(self.w) { 2 } else { 1 };
        self.row_groups = self.h.div_ceil(self.rows);
        self.tiles_w = self.w.div_ceil(V::PIXELS);
        self.widths = (self.w / self.tiles_w, self.w % self.tiles_w);
    }

    /// Few pixels leave registers for more panels.
    fn panels<V: Tiles>(&self, panels: usize) -> usize {
        if self.n * self.h * self.w <= V::FEW_PIXELS && panels >= MAX_PANELS { MAX_PANELS } else { V::PANELS }
    }

    fn tiles(&self) -> usize {
        self.n * self.row_groups * self.tiles_w
    }

    fn tiles_per_image(&self) -> usize {
        self.row_groups * self.tiles_w
    }
}

/// Into how many parts the sum of every pixel is cut, so that the input of a part stays in the second-level cache
/// while all panels of weights pass by: long sums without taps, whose results are whole vectors.
fn sum_parts(p: &Conv, tiles: usize, tile_bytes: usize, units: usize) -> usize {
    let whole = p.in_block == BLOCK as u64 && p.out_channels.is_multiple_of(BLOCK as u64);
    let cut = whole && p.kernel_h == 1 && p.kernel_w == 1 && units > 1;
    let wanted = tiles.saturating_mul(tile_bytes).div_ceil(PART_BYTES);
    if cut { wanted.min(p.in_channels as usize / PART_CHANNELS).max(1) } else { 1 }
}

/// The channels of part `part` of `parts`: whole blocks, and such as one segment takes.
fn channels_of_part(p: &Conv, part: usize, parts: usize) -> std::ops::Range<usize> {
    let channels = p.in_channels as usize;
    if parts == 1 {
        return 0..channels;
    }
    let each = channels.div_ceil(parts).next_multiple_of(LONG);
    (part * each).min(channels)..((part + 1) * each).min(channels)
}

/// Elements of a segment where channels are contiguous.
const LONG: usize = 64;

/// The segments of k: channel block, row tap, column tap, channel; taps or blocks merged where they are contiguous.
/// Of a product, those of the channels `range` alone.
fn nests(p: &Conv, range: std::ops::Range<usize>) -> ([Nest; 2], usize) {
    let (kernel_h, kernel_w) = (p.kernel_h as usize, p.kernel_w as usize);
    let (channels, block) = (range.len(), p.in_block as usize);
    let between_blocks = p.input.stride_c as usize;
    if channels == 0 || kernel_h == 0 || kernel_w == 0 {
        return ([Nest::default(); 2], 0);
    }
    let strides = [
        between_blocks,
        p.dilation_h.wrapping_mul(p.input.stride_h) as usize,
        p.dilation_w.wrapping_mul(p.input.stride_w) as usize,
    ];
    let (full, tail) = (channels / block, channels % block);
    let (mut whole, mut rest) = (Nest::default(), Nest::default());
    if kernel_h * kernel_w == 1 && between_blocks == block {
        // Not one segment of all channels, since weights are prefetched from segment to segment.
        whole = Nest { offset: 0, counts: [channels / LONG, 1, 1], strides: [LONG, 0, 0], length: LONG };
        let done = channels / LONG * LONG;
        rest = Nest { offset: done, counts: [1; 3], strides: [0; 3], length: channels - done };
    } else {
        let merged = kernel_w == 1 || strides[2] == block;
        if full > 0 {
            let (count, length) = if merged { (1, kernel_w * block) } else { (kernel_w, block) };
            whole = Nest { offset: 0, counts: [full, kernel_h, count], strides, length };
        }
        if tail > 0 {
            let offset = full.wrapping_mul(between_blocks);
            rest = Nest { offset, counts: [1, kernel_h, kernel_w], strides, length: tail };
        }
    }
    let before = (range.start / block).wrapping_mul(between_blocks);
    whole.offset = whole.offset.wrapping_add(before);
    rest.offset = rest.offset.wrapping_add(before);
    match (whole.counts[0] > 0, rest.length > 0) {
        (true, true) => ([whole, rest], 2),
        (true, false) => ([whole, rest], 1),
        (false, true) => ([rest, rest], 1),
        (false, false) => ([rest, rest], 0),
    }
}

/// Chunks as a grid of pixel parts × panel parts: the least work in the largest chunk, then the least traffic.
pub(super) fn grid(
    chunks: usize,
    tiles: usize,
    units: usize,
    tile_cost: usize,
    unit_bytes: usize,
    tile_bytes: usize,
) -> (usize, usize) {
    let mut best = (usize::MAX, 1);
    for parts in (1..=chunks).filter(|parts| chunks.is_multiple_of(*parts)) {
        let (tiles, units) = (tiles.div_ceil(parts), units.div_ceil(chunks / parts));
        // Bytes from beyond the first levels come at some sixteen a cycle.
        let traffic =
            (units.saturating_mul(unit_bytes)).saturating_add(tiles.saturating_mul(tile_bytes)) / 16;
        let cost = tiles.saturating_mul(units).saturating_mul(tile_cost).saturating_add(traffic);
        if cost < best.0 {
            best = (cost, parts);
        }
    }
    (best.1, chunks / best.1)
}

#[inline(always)]
unsafe fn conv_f32<V: Tiles + Finishing>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { conv::<V, f32>(args, chunk, chunks) };
    Ok(())
}

#[inline(always)]
unsafe fn conv_f16w<V: Tiles + Finishing>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { conv::<V, f16>(args, chunk, chunks) };
    Ok(())
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn conv<V: Tiles + Finishing, W: Weight>(args: &Args<'_>, chunk: usize, chunks: usize) {
    let p: &Conv = args.params();
    let (groups, out_channels) = (p.groups as usize, p.out_channels as usize);
    let panels = out_channels.div_ceil(BLOCK);
    if p.n == 0 || p.out_h == 0 || p.out_w == 0 || panels == 0 || groups == 0 {
        return;
    }
    let [input, weights, bias, added, output] = [0, 1, 2, 3, 4].map(|index| args.operands[index]);
    let pixels = Pixels::new::<V>(p);
    let wide = pixels.panels::<V>(panels);
    let units_per_group = panels.div_ceil(wide);
    let units = groups * units_per_group;
    let taps = p.kernel_h as usize * p.kernel_w as usize;
    let k = p.in_channels as usize * taps;
    let unit_weights = k * BLOCK * wide;
    let tile_pixels = pixels.rows * pixels.w.div_ceil(pixels.tiles_w);
    let spread = (p.stride_h as usize * p.stride_w as usize).clamp(1, taps.max(1));
    let tile_bytes = (p.in_channels as usize * tile_pixels * spread * 4).max(1);
    let (parts_m, parts_n) = grid(
        chunks,
        pixels.tiles(),
        units,
        k * tile_pixels * wide / 2,
        unit_weights * size_of::<W>(),
        tile_bytes,
    );
    let my_tiles = share(pixels.tiles(), chunk / parts_n, parts_m);
    let my_units = share(units, chunk % parts_n, parts_n);

    let clamp = Clamp::new(p);
    let (low, high) = clamp.unwrap_or(Clamp::NONE).bounds();
    let [in_steps, out_steps, res_steps] = pixels.steps;
    let in_blocks = (p.in_channels as usize).div_ceil(p.in_block as usize);
    let sum_parts = sum_parts(p, my_tiles.len(), tile_bytes, my_units.len());
    let block_tiles = match sum_parts {
        1 => (BLOCK_BYTES / tile_bytes).max(8),
        parts => (PART_BYTES * parts / tile_bytes).max(8),
    };
    // As even as tiles allow.
    let block_tiles = my_tiles.len().div_ceil(my_tiles.len().div_ceil(block_tiles).max(1)).max(1);
    let mut scratch = [0.0_f32; MAX_VECTORS * BLOCK];
    let mut start = [0.0_f32; MAX_PANELS * BLOCK];
    // Other threads have made a part of the input just before: a pixel's next channels are fetched while it is first read.
    let is_fetched = chunks > 1 && taps == 1 && p.in_block == BLOCK as u64 && in_blocks > 1;
    let input_ahead = if is_fetched { A_AHEAD_BLOCKS * p.input.stride_c as usize } else { 0 };
    let mut first = my_tiles.start;
    while first < my_tiles.end {
        let image = first / pixels.tiles_per_image();
        let mut last = my_tiles.end;
        if my_units.len() > 1 {
            last = last.min(first + block_tiles);
        }
        if p.weights_stride_n != 0 && pixels.n > 1 {
            last = last.min((image + 1) * pixels.tiles_per_image());
        }
        // The weights' batch; where images were merged or share their weights, the first.
        let batch = if pixels.n > 1 { image * p.weights_stride_n as usize } else { 0 };
        for (part, unit) in (0..sum_parts).flat_map(|part| my_units.clone().map(move |unit| (part, unit))) {
            let range = channels_of_part(p, part, sum_parts);
            let k_before = if sum_parts == 1 { 0 } else { range.start * BLOCK };
            let part_k = range.len() * taps;
            let (first_part, last_part) = (part == 0, part + 1 == sum_parts);
            let (nests, nest_count) = nests(p, range);
            let nests = &nests[..nest_count];
            let (group, panel_of_group) = (unit / units_per_group, unit % units_per_group * wide);
            let mut done = 0;
            let in_unit = wide.min(panels - panel_of_group);
            while done < in_unit {
                // Four, two or one.
                let left = in_unit - done;
                let count = if left >= wide { wide } else { 1 << left.ilog2() };
                let panel = panel_of_group + done;
                let lanes = (out_channels - panel * BLOCK).min(count * BLOCK);
                let block = group * panels + panel;
                // SAFETY: the bias, where there is one, has all channels of all groups.
                unsafe {
                    load_start(
                        &mut start,
                        bias.ptr(),
                        bias.bytes > 0 && first_part,
                        group * out_channels + panel * BLOCK,
                        lanes,
                    )
                };
                // Eight channels in the last panel are half of its work.
                let half = lanes + BLOCK / 2 == count * BLOCK
                    && pixels.rows == 1
                    && [pixels.widths.0, pixels.w.div_ceil(pixels.tiles_w)]
                        .iter()
                        .all(|&width| V::half_tile::<W>(width, count, in_steps.w).is_some());
                let direct = clamp.is_some() && (lanes == count * BLOCK || half && p.output_padded == 1);
                // Other activations find whole vectors in the output, which is still in the first-level cache.
                let activated = clamp.is_none()
                    && p.residual_mode != residual::AFTER_ACTIVATION
                    && lanes == count * BLOCK;
                // Parts of a sum wait in the output for the next.
                let stored = direct || activated || !last_part;
                let tiles = last - first;
                let next = batch + (block + count) * k * BLOCK + k_before;
                let rate = 8_usize.div_ceil(tiles);
                // The weights of the tile after this in k steps of the first tiles.
                let ahead_bytes = part_k / 4 * rate * 64;
                // Of a few pixels, every weight is read once: the processor's own prefetching suffices then.
                let more = pixels.n * pixels.h * pixels.w > V::FEW_PIXELS
                    && block + count < groups * panels
                    && (unit + 1 < my_units.end || done + count < in_unit);
                let mut instance: Option<(usize, usize, TileFn<W>)> = None;
                let mut place = Place::new(&pixels, first);
                let residual_base = p.residual.offset as usize + block * p.residual.stride_c as usize;
                let out_base = p.output.offset as usize + block * p.output.stride_c as usize;
                let in_base = p.input.offset as usize + group * in_blocks * p.input.stride_c as usize;
                let (input, output) = (input.ptr::<f32>(), output.ptr::<f32>());
                let added: *const f32 = added.ptr();
                let with_residual = (direct || activated) && p.residual_mode == residual::BEFORE_ACTIVATION;
                let mut call = Tile {
                    a: input,
                    a_pitch: in_steps.w,
                    a_row: in_steps.h,
                    nests,
                    b: weights.ptr::<W>().wrapping_add(batch + block * k * BLOCK + k_before),
                    b_panel: k * BLOCK,
                    a_ahead: if unit == my_units.start && done == 0 { input_ahead } else { 0 },
                    sum: Sum::NONE,
                    start: &start,
                    out: output,
                    out_pitch: out_steps.w,
                    out_row: out_steps.h,
                    out_panel: p.output.stride_c as usize,
                    residual: std::ptr::null(),
                    residual_pitch: res_steps.w,
                    residual_row: res_steps.h,
                    residual_panel: p.residual.stride_c as usize,
                    low,
                    high,
                    ahead: std::ptr::null(),
                    ahead_rate: 4 * rate,
                };
                if !first_part {
                    (call.residual_pitch, call.residual_row) = (out_steps.w, out_steps.h);
                    call.residual_panel = p.output.stride_c as usize;
                }
                if !direct || !last_part {
                    // The clamp may come after a residual, and comes after all parts.
                    (call.low, call.high) = Clamp::NONE.bounds();
                }
                for tile in first..last {
                    let (rows, x, width) = place.rows_and_columns(&pixels);
                    let function = match instance {
                        Some((r, w, function)) if (r, w) == (rows, width) => function,
                        _ if half => V::half_tile::<W>(width, count, in_steps.w)
                            .unwrap_or_else(|| V::tile::<W>(rows, width, count, in_steps.w)),
                        _ => V::tile::<W>(rows, width, count, in_steps.w),
                    };
                    instance = Some((rows, width, function));
                    let out = output.wrapping_add(out_base + out_steps.at(place.n, place.y, x));
                    call.a = input.wrapping_add(in_base + in_steps.at(place.n, place.y, x));
                    call.ahead = if more && tile - first < 8 {
                        weights
                            .ptr::<W>()
                            .wrapping_add(next)
                            .cast::<u8>()
                            .wrapping_add((tile - first) * ahead_bytes)
                    } else {
                        std::ptr::null()
                    };
                    let added = added.wrapping_add(residual_base + res_steps.at(place.n, place.y, x));
                    if !first_part {
                        call.residual = out;
                    } else if with_residual {
                        call.residual = added;
                    }
                    if stored {
                        call.out = out;
                        // SAFETY: validation bounded what the tile reads and writes, all lanes of whole blocks;
                        // `V` is the instruction set of the caller.
                        unsafe {
                            function(&call);
                            if activated && last_part {
                                for panel in 0..count {
                                    let out = out.wrapping_add(panel * call.out_panel);
                                    let (activation, steps) = (&p.activation, [out_steps.w, out_steps.h]);
                                    V::activate(&InPlace { activation, rows, width, out, steps });
                                }
                            }
                        }
                    } else {
                        call.out = scratch.as_mut_ptr();
                        (call.out_pitch, call.out_row, call.out_panel) =
                            (BLOCK, width * BLOCK, rows * width * BLOCK);
                        let finish = Finish {
                            shape: [count, rows, width],
                            lanes,
                            padded: p.output_padded == 1,
                            residual_mode: p.residual_mode,
                            activation: p.activation,
                            residual: added,
                            residual_steps: [p.residual.stride_c as usize, res_steps.h, res_steps.w],
                            out,
                            out_steps: [p.output.stride_c as usize, out_steps.h, out_steps.w],
                        };
                        // SAFETY: as above; the scratch holds the largest tile.
                        unsafe {
                            function(&call);
                            V::finish(&finish, &mut scratch);
                        }
                    }
                    place.advance(&pixels);
                }
                done += count;
            }
        }
        first = last;
    }
}

/// Where a tile lies.
struct Place {
    n: usize,
    y: usize,
    tile_w: usize,
}

impl Place {
    fn new(pixels: &Pixels, tile: usize) -> Self {
        let (row, tile_w) = (tile / pixels.tiles_w, tile % pixels.tiles_w);
        Place { n: row / pixels.row_groups, y: row % pixels.row_groups * pixels.rows, tile_w }
    }

    /// The rows of the tile, its first column, and its columns.
    #[inline(always)]
    fn rows_and_columns(&self, pixels: &Pixels) -> (usize, usize, usize) {
        let (each, rest) = pixels.widths;
        let x = self.tile_w * each + self.tile_w.min(rest);
        (pixels.rows.min(pixels.h - self.y), x, each + usize::from(self.tile_w < rest))
    }

    #[inline(always)]
    fn advance(&mut self, pixels: &Pixels) {
        self.tile_w += 1;
        if self.tile_w == pixels.tiles_w {
            (self.tile_w, self.y) = (0, self.y + pixels.rows);
            if self.y >= pixels.h {
                (self.y, self.n) = (0, self.n + 1);
            }
        }
    }
}
