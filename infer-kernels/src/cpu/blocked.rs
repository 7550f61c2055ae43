//! `to_blocked_f32`, `from_blocked_f32`, `fill_halo_f32`, `pack_b_f32`: layouts.
//!
//! All but the halo are transpositions between `[lane][position]` and `[position][lane]`; each call is cut into
//! strips of at most sixteen lanes, copied by vectors where the lanes are contiguous on both sides, by transposed
//! squares where the positions are contiguous on the plain side, and element by element otherwise.

use crate::call::{BLOCK, FillHalo, PackB, Reorder, View};
use crate::cpu::share;
use crate::cpu::vector::Vector;
use crate::{Args, Call, Invalid, Kernel, RunError};

/// From a plain tensor to a blocked one; see [`Reorder`].
pub static TO_BLOCKED_F32: Kernel = Kernel {
    name: "to_blocked_f32",
    validate: |call| validate_reorder(call, 0, 1),
    chunks: reorder_chunks,
    run: per_isa!(to_blocked<_>),
};

/// From a blocked tensor to a plain one; see [`Reorder`].
pub static FROM_BLOCKED_F32: Kernel = Kernel {
    name: "from_blocked_f32",
    validate: |call| validate_reorder(call, 1, 0),
    chunks: reorder_chunks,
    run: per_isa!(from_blocked<_>),
};

/// The border around a picture; see [`FillHalo`].
pub static FILL_HALO_F32: Kernel = Kernel {
    name: "fill_halo_f32",
    validate: validate_halo,
    chunks: halo_chunks,
    run: per_isa!(fill_halo<_>),
};

/// The right matrix of a product into panels; see [`PackB`].
pub static PACK_B_F32: Kernel =
    Kernel { name: "pack_b_f32", validate: validate_pack, chunks: pack_chunks, run: per_isa!(pack_b<_>) };

/// Elements moved that are worth a chunk: some microseconds.
const CHUNK_ELEMENTS: u64 = 16 * 1024;

fn chunks_for(elements: u64, units: u64, threads: usize) -> usize {
    let worthwhile = usize::try_from((elements / CHUNK_ELEMENTS).min(units)).unwrap_or(usize::MAX);
    worthwhile.clamp(1, threads.max(1))
}

fn product(factors: &[u64]) -> Option<u64> {
    factors.iter().try_fold(1_u64, |product, &factor| product.checked_mul(factor))
}

pub(crate) fn validate_reorder(call: &Call<'_>, plain: usize, blocked: usize) -> Result<(), Invalid> {
    let p: &Reorder = call.params()?;
    call.expect_operands(2)?;
    if p.block == 0 {
        return Err(Invalid("blocks of no channels"));
    }
    let blocks = p.channels.div_ceil(p.block);
    let padded = product(&[blocks, p.block]).ok_or(Invalid("size overflows"))?;
    // Each element of the output is written once; more than the operand has would only waste time.
    let written = if plain == 0 { padded } else { p.channels };
    call.expect_elements(1, product(&[p.n, written, p.h, p.w]), 4)?;
    if p.n == 0 || p.channels == 0 || p.h == 0 || p.w == 0 {
        return Ok(());
    }
    call.expect_elements(plain, p.plain.end(p.n, p.channels, p.h, p.w, 1), 4)?;
    let tail = if plain == 0 { p.block } else { p.channels - (blocks - 1) * p.block };
    let whole = p.blocked.end(p.n, blocks - 1, p.h, p.w, p.block);
    let last = p.blocked.end(p.n, blocks, p.h, p.w, tail);
    call.expect_elements(blocked, whole.zip(last).map(|(whole, last)| whole.max(last)), 4)
}

fn reorder_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &Reorder = args.params();
    let units = [p.n, p.channels.div_ceil(p.block), p.h].into_iter().fold(1, u64::saturating_mul);
    chunks_for(units.saturating_mul(p.block).saturating_mul(p.w), units, threads)
}

/// A strip of lanes by positions: where the plain side and the blocked side lie, in elements.
struct Strip {
    plain: usize,
    plain_lane: usize,
    plain_position: usize,
    blocked: usize,
    blocked_position: usize,
    lanes: usize,
    positions: usize,
}

/// Calls `body` for each strip of a chunk, with the number of lanes that only pad it; without `padding`, there are
/// none of those.
#[inline(always)]
fn strips(p: &Reorder, padding: bool, chunk: usize, chunks: usize, mut body: impl FnMut(Strip, usize)) {
    let (n, channels, h, block) = (p.n as usize, p.channels as usize, p.h as usize, p.block as usize);
    let blocks = channels.div_ceil(block);
    let at = |view: &View, n: usize, c: usize, y: usize| {
        view.offset as usize
            + n * view.stride_n as usize
            + c * view.stride_c as usize
            + y * view.stride_h as usize
    };
    for unit in share(n * blocks * h, chunk, chunks) {
        let (picture, y) = (unit / h, unit % h);
        let (image, index) = (picture / blocks, picture % blocks);
        // A block that is written from may claim any number of lanes that no channel has.
        let end = if padding { block } else { block.min(channels - index * block) };
        let mut lane = 0;
        while lane < end {
            let width = BLOCK.min(end - lane);
            let channel = index * block + lane;
            let lanes = width.min(channels.saturating_sub(channel));
            let plain = if lanes > 0 { at(&p.plain, image, channel, y) } else { 0 };
            body(
                Strip {
                    plain,
                    plain_lane: p.plain.stride_c as usize,
                    plain_position: p.plain.stride_w as usize,
                    blocked: at(&p.blocked, image, index, y) + lane,
                    blocked_position: p.blocked.stride_w as usize,
                    lanes,
                    positions: p.w as usize,
                },
                width - lanes,
            );
            lane += width;
        }
    }
}

#[inline(always)]
unsafe fn to_blocked<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &Reorder = args.params();
    let (from, to) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    if p.n == 0 || p.channels == 0 || p.h == 0 || p.w == 0 {
        return Ok(());
    }
    strips(
        p,
        true,
        chunk,
        chunks,
        #[inline(always)]
        |strip, padding| {
            // SAFETY: validation bounded both sides.
            unsafe { gather::<V>(from, to, &strip, padding) }
        },
    );
    Ok(())
}

#[inline(always)]
unsafe fn from_blocked<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &Reorder = args.params();
    let (from, to) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    if p.n == 0 || p.channels == 0 || p.h == 0 || p.w == 0 {
        return Ok(());
    }
    strips(
        p,
        false,
        chunk,
        chunks,
        #[inline(always)]
        |strip, _| {
            // SAFETY: validation bounded both sides.
            unsafe { scatter::<V>(from, to, &strip) }
        },
    );
    Ok(())
}

/// blocked[position][lane] = plain[lane][position], and zero in `padding` more lanes.
#[inline(always)]
unsafe fn gather<V: Vector>(plain: *const f32, blocked: *mut f32, s: &Strip, padding: usize) {
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        let (from, to) = (plain.wrapping_add(s.plain), blocked.add(s.blocked));
        let all = s.lanes + padding;
        let mut position = 0;
        if s.plain_lane == 1 {
            for position in 0..s.positions {
                let value = V::load_first(from.wrapping_add(position * s.plain_position), s.lanes);
                value.store_first(to.add(position * s.blocked_position), all);
            }
            return;
        }
        if s.plain_position == 1 && s.blocked_position == all && padding == 0 {
            match all {
                1 => return interleave::<1>(from, to, s),
                2 => return interleave::<2>(from, to, s),
                3 => return interleave_three::<V>(from, to, s),
                4 => return interleave::<4>(from, to, s),
                _ => {}
            }
        }
        if s.plain_position == 1 {
            while position + BLOCK <= s.positions {
                let mut square = [V::splat(0.0); BLOCK];
                for (lane, row) in square.iter_mut().enumerate().take(s.lanes) {
                    *row = V::load(from.wrapping_add(lane * s.plain_lane + position));
                }
                let square = V::transpose(square);
                for (x, row) in square.into_iter().enumerate() {
                    row.store_first(to.add((position + x) * s.blocked_position), all);
                }
                position += BLOCK;
            }
        }
        for position in position..s.positions {
            let to = to.add(position * s.blocked_position);
            for lane in 0..s.lanes {
                *to.add(lane) = *from.add(lane * s.plain_lane + position * s.plain_position);
            }
            for lane in s.lanes..all {
                *to.add(lane) = 0.0;
            }
        }
    }
}

/// blocked[position][lane] = plain[lane][position] for blocks of few lanes that follow each other.
///
/// # Safety
///
/// `s.positions` elements are readable in each lane, and writable for all lanes.
#[inline(always)]
unsafe fn interleave<const LANES: usize>(from: *const f32, to: *mut f32, s: &Strip) {
    // The inner loop has a fixed length, so that it becomes vector loads and stores.
    const STEP: usize = 16;
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        let plain: [*const f32; LANES] = std::array::from_fn(
            #[inline(always)]
            |lane| from.wrapping_add(lane * s.plain_lane),
        );
        let mut position = 0;
        while s.positions >= STEP && position < s.positions {
            // The last step may begin inside the one before.
            position = position.min(s.positions - STEP);
            let mut square = [[0.0_f32; LANES]; STEP];
            for (lane, plain) in plain.iter().enumerate() {
                let values: [f32; STEP] = plain.add(position).cast::<[f32; STEP]>().read_unaligned();
                for (row, value) in square.iter_mut().zip(values) {
                    row[lane] = value;
                }
            }
            to.add(position * LANES).cast::<[[f32; LANES]; STEP]>().write_unaligned(square);
            position += STEP;
        }
        for position in position..s.positions {
            for (lane, plain) in plain.iter().enumerate() {
                *to.add(position * LANES + lane) = *plain.add(position);
            }
        }
    }
}

/// [`interleave`] for the three channels of an image.
///
/// # Safety
///
/// As for [`interleave`].
#[inline(always)]
unsafe fn interleave_three<V: Vector>(from: *const f32, to: *mut f32, s: &Strip) {
    let mut position = 0;
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        let plain = [0, 1, 2].map(
            #[inline(always)]
            |lane: usize| from.wrapping_add(lane * s.plain_lane),
        );
        while position + BLOCK <= s.positions {
            let rows = [
                V::load(plain[0].add(position)),
                V::load(plain[1].add(position)),
                V::load(plain[2].add(position)),
            ];
            for (i, woven) in V::interleave(rows).into_iter().enumerate() {
                woven.store(to.add(position * 3 + i * BLOCK));
            }
            position += BLOCK;
        }
        for position in position..s.positions {
            for (lane, plain) in plain.iter().enumerate() {
                *to.add(position * 3 + lane) = *plain.add(position);
            }
        }
    }
}

/// plain[lane][position] = blocked[position][lane].
#[inline(always)]
unsafe fn scatter<V: Vector>(blocked: *const f32, plain: *mut f32, s: &Strip) {
    // SAFETY: the caller's promise, for every pointer below.
    unsafe {
        let (from, to) = (blocked.wrapping_add(s.blocked), plain.wrapping_add(s.plain));
        let mut position = 0;
        if s.plain_lane == 1 {
            for position in 0..s.positions {
                let value = V::load_first(from.wrapping_add(position * s.blocked_position), s.lanes);
                value.store_first(to.wrapping_add(position * s.plain_position), s.lanes);
            }
            return;
        }
        if s.plain_position == 1 {
            while position + BLOCK <= s.positions {
                let mut square = [V::splat(0.0); BLOCK];
                for (x, row) in square.iter_mut().enumerate() {
                    *row = V::load_first(from.add((position + x) * s.blocked_position), s.lanes);
                }
                let square = V::transpose(square);
                for (lane, row) in square.into_iter().enumerate().take(s.lanes) {
                    row.store(to.add(lane * s.plain_lane + position));
                }
                position += BLOCK;
            }
        }
        for position in position..s.positions {
            for lane in 0..s.lanes {
                *to.add(lane * s.plain_lane + position * s.plain_position) =
                    *from.add(position * s.blocked_position + lane);
            }
        }
    }
}

/// The picture with its border, as a view, and its rows and columns.
fn framed(p: &FillHalo) -> Option<(View, u64, u64)> {
    let [top, left, bottom, right] = p.halo;
    let before = top.checked_mul(p.view.stride_h)?.checked_add(left.checked_mul(p.view.stride_w)?)?;
    let view = View { offset: p.view.offset.checked_sub(before)?, ..p.view };
    Some((view, p.h.checked_add(top)?.checked_add(bottom)?, p.w.checked_add(left)?.checked_add(right)?))
}

fn validate_halo(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &FillHalo = call.params()?;
    call.expect_operands(1)?;
    let (view, h, w) = framed(p).ok_or(Invalid("halo outside of its operand"))?;
    call.expect_elements(0, product(&[p.n, p.blocks, h, w, p.block]), 4)?;
    call.expect_elements(0, view.end(p.n, p.blocks, h, w, p.block), 4)
}

fn halo_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &FillHalo = args.params();
    let [top, left, bottom, right] = p.halo;
    let (across, down) =
        ((top + bottom).saturating_mul(left + p.w + right), (left + right).saturating_mul(p.h));
    let pictures = p.n.saturating_mul(p.blocks);
    let elements = across.saturating_add(down).saturating_mul(p.block).saturating_mul(pictures);
    // Scattered lines, each in the cache of the thread that wrote beside it: four times as dear as what is in a row.
    chunks_for(elements.saturating_mul(4), pictures, threads)
}

#[inline(always)]
unsafe fn fill_halo<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &FillHalo = args.params();
    let Some((view, h, w)) = framed(p) else { return Ok(()) };
    if p.n == 0 || p.blocks == 0 || h == 0 || w == 0 || p.block == 0 {
        return Ok(());
    }
    let (h, w, blocks, block) = (h as usize, w as usize, p.blocks as usize, p.block as usize);
    let [top, left] = [p.halo[0] as usize, p.halo[1] as usize];
    let (inner_h, inner_w) = (p.h as usize, p.w as usize);
    for picture in share(p.n as usize * blocks, chunk, chunks) {
        let origin = view.offset as usize
            + picture / blocks * view.stride_n as usize
            + picture % blocks * view.stride_c as usize;
        let pixels = view.stride_w as usize == block && view.stride_h as usize == w * block;
        if pixels && inner_h > 0 {
            // What is right of a row and left of the next is one piece.
            let piece = |from: usize, to: usize| {
                let at = args.operands[0].ptr::<f32>().wrapping_add(origin + from * block);
                // SAFETY: validation bounded the picture with its border.
                unsafe { fill::<V>(at, (to - from) * block, p.value) };
            };
            let first = top * w + left;
            piece(0, first);
            for y in 1..inner_h {
                piece(first + (y - 1) * w + inner_w, first + y * w);
            }
            piece(first + (inner_h - 1) * w + inner_w, h * w);
            continue;
        }
        for y in 0..h {
            let row = origin + y * view.stride_h as usize;
            let inside = (top..top + inner_h).contains(&y);
            let parts = if inside { [0..left, left + inner_w..w] } else { [0..w, 0..0] };
            for part in parts {
                let at =
                    |x: usize| args.operands[0].ptr::<f32>().wrapping_add(row + x * view.stride_w as usize);
                // SAFETY: validation bounded the picture with its border.
                unsafe {
                    if view.stride_w as usize == block {
                        fill::<V>(at(part.start), part.len() * block, p.value);
                    } else {
                        for x in part {
                            fill::<V>(at(x), block, p.value);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Writes `value` to `count` elements.
#[inline(always)]
unsafe fn fill<V: Vector>(to: *mut f32, count: usize, value: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let value = V::splat(value);
        let mut done = 0;
        while done + BLOCK <= count {
            value.store(to.add(done));
            done += BLOCK;
        }
        if done < count {
            value.store_first(to.add(done), count - done);
        }
    }
}

pub(crate) fn validate_pack(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &PackB = call.params()?;
    call.expect_operands(2)?;
    let view =
        View { offset: 0, stride_n: p.stride_batch, stride_c: 0, stride_h: p.stride_k, stride_w: p.stride_n };
    call.expect_elements(0, view.end(p.batch, 1, p.k, p.n, 1), 4)?;
    let block = BLOCK as u64;
    call.expect_elements(1, product(&[p.batch, p.n.div_ceil(block), p.k, block]), 4)
}

fn pack_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &PackB = args.params();
    let units = p.batch.saturating_mul(p.n.div_ceil(BLOCK as u64));
    chunks_for(units.saturating_mul(p.k).saturating_mul(BLOCK as u64), units, threads)
}

#[inline(always)]
unsafe fn pack_b<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &PackB = args.params();
    let (from, to) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let (batch, k, n) = (p.batch as usize, p.k as usize, p.n as usize);
    if batch == 0 || k == 0 || n == 0 {
        return Ok(());
    }
    let panels = n.div_ceil(BLOCK);
    for unit in share(batch * panels, chunk, chunks) {
        let (matrix, panel) = (unit / panels, unit % panels);
        let lanes = BLOCK.min(n - panel * BLOCK);
        let strip = Strip {
            plain: matrix * p.stride_batch as usize + panel * BLOCK * p.stride_n as usize,
            plain_lane: p.stride_n as usize,
            plain_position: p.stride_k as usize,
            blocked: unit * k * BLOCK,
            blocked_position: BLOCK,
            lanes,
            positions: k,
        };
        // SAFETY: validation bounded both sides.
        unsafe { gather::<V>(from, to, &strip, BLOCK - lanes) };
    }
    Ok(())
}
