//! `attention_f32`: attention without its matrix of scores; see [`Attention`].
//!
//! out = softmax(scale · Q · Kᵀ + mask) · V. For every head, blocks of keys are packed into panels, and for each of
//! them blocks of rows compute their scores, exponentials relative to the greatest score so far, and the sums of values
//! weighted by these; what was summed before is scaled when a greater score turns up:
//!
//! ```text
//! for block of keys: pack K, V
//!     for block of rows: S = Q · Kᵀ;  m' = max(m, S);  P = e^(S − m');  f = e^(m − m')
//!         l = f · l + Σ P;  out = f · out + P · V;  m = m'
//! out = out / l
//! ```
//!
//! Both products are tiles of `gemm_tile.rs`. Up to [`Attention::KEY_BLOCK`] keys are one block, so that nothing is
//! scaled. Chunks share the heads, or where those are fewer their blocks of rows; a chunk that begins amid a head packs its
//! keys again.

use crate::call::{Attention, BLOCK, HeadView, LEAD};
use crate::cpu::attention_pack as pack;
use crate::cpu::attention_softmax::Scores;
use crate::cpu::bounds::product;
use crate::cpu::gemm_tile::{MAX_PANELS, Nest, Sum, Tile, Tiles};
use crate::cpu::share;
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Attention; see [`Attention`].
pub static ATTENTION_F32: Kernel =
    Kernel { name: "attention_f32", validate, chunks, run: per_isa!(attention<_>) };

const ROW_BLOCK: usize = Attention::ROW_BLOCK as usize;

/// Multiplications that are worth a chunk.
const CHUNK_WORK: u64 = 100_000;

/// Checks that no two positions of the output are the same element, so that chunks may write at the same time.
fn expect_apart(p: &Attention) -> Result<(), Invalid> {
    let mut axes = [(0, 1); LEAD + 2];
    for (slot, axis) in axes.iter_mut().zip(p.output.lead.into_iter().zip(p.lead)) {
        *slot = axis;
    }
    axes[LEAD] = (p.output.row, p.rows);
    axes[LEAD + 1] = (p.output.element, p.value_size);
    axes.sort_unstable();
    let mut reach = 0_u64;
    for (stride, extent) in axes.into_iter().filter(|&(_, extent)| extent > 1) {
        if stride <= reach {
            return Err(Invalid("output overlaps itself"));
        }
        let more = stride.checked_mul(extent - 1).and_then(|more| reach.checked_add(more));
        reach = more.ok_or(Invalid("size overflows"))?;
    }
    Ok(())
}

pub(crate) fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &Attention = call.params()?;
    call.expect_operands(6)?;
    if p.causal > 1 || p.mask.element > 1 {
        return Err(Invalid("unknown mode"));
    }
    let results = product(&[p.lead.iter().try_fold(1_u64, |n, &e| n.checked_mul(e)).unwrap_or(0), p.rows]);
    if p.lead.contains(&0) || p.rows == 0 || p.value_size == 0 {
        return Ok(());
    }
    if results.is_none_or(|results| results == 0) || p.keys == 0 || p.size == 0 {
        return Err(Invalid("attention to nothing, or sizes that overflow"));
    }
    // Every key and value is another one, so that there are no more than memory holds.
    if p.keys > 1 && (p.key.row == 0 || p.value.row == 0) || p.size > 1 && p.key.element == 0 {
        return Err(Invalid("keys without distance"));
    }
    if [p.query, p.value, p.output].iter().any(|view| view.element != 1) {
        return Err(Invalid("rows with gaps"));
    }
    call.expect_elements(0, p.query.end(&p.lead, p.rows, p.size), 4)?;
    call.expect_elements(1, p.key.end(&p.lead, p.keys, p.size), 4)?;
    call.expect_elements(2, p.value.end(&p.lead, p.keys, p.value_size), 4)?;
    if call.operand_bytes[3] > 0 {
        call.expect_elements(3, p.mask.end(&p.lead, p.rows, p.keys), 4)?;
    }
    call.expect_elements(4, p.output.end(&p.lead, p.rows, p.value_size), 4)?;
    expect_apart(p)?;
    call.expect_elements(5, p.scratch(), 4)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &Attention = args.params();
    let items = p.lead.iter().fold(p.rows.div_ceil(Attention::ROW_BLOCK), |n, &e| n.saturating_mul(e));
    let each = p.rows.saturating_mul(p.keys).saturating_mul(p.size.saturating_add(p.value_size));
    let work = p.lead.iter().fold(each, |n, &e| n.saturating_mul(e));
    let slots = p.scratch().map_or(1, |one| args.operands[5].bytes as u64 / (4 * one.max(1)));
    // Two chunks a thread even out disturbances; more would each find their memory far away.
    let wanted = if threads > 1 { 2 * threads as u64 } else { 1 };
    usize::try_from(wanted.min(slots).min(items).min(work / CHUNK_WORK).max(1)).unwrap_or(1)
}

/// The memory of one chunk, cut into its parts.
struct Slot {
    queries: *mut f32,
    keys: *mut f32,
    values: *mut f32,
    scores: *mut f32,
    sums: *mut f32,
    /// The greatest score of each row, then the sum of exponentials of each.
    state: *mut f32,
}

/// The call's extents as the loops use them.
struct Extents {
    rows: usize,
    row_blocks: usize,
    keys: usize,
    key_block: usize,
    size: usize,
    value_size: usize,
    /// Rows between blocks of packed queries and of sums.
    pitch: usize,
}

impl Slot {
    /// # Safety
    ///
    /// The scratch operand holds a slot of this number.
    unsafe fn new(args: &Args<'_>, p: &Attention, e: &Extents, number: usize) -> Self {
        let (size, value_size) = (e.size.next_multiple_of(BLOCK), e.value_size.next_multiple_of(BLOCK));
        let one = p.scratch().unwrap_or(0) as usize;
        let mut next = number * one;
        let mut take = |elements: usize| {
            // SAFETY: the parts add up to a slot, which the operand holds.
            let part = unsafe { args.operands[5].ptr::<f32>().add(next) };
            next += elements;
            part
        };
        Slot {
            queries: take(e.pitch * size),
            keys: take(e.key_block * size),
            values: take(e.key_block * value_size),
            scores: take(e.key_block * (e.pitch + 1)),
            sums: take(e.pitch * value_size),
            state: take(2 * e.rows.next_multiple_of(BLOCK)),
        }
    }
}

/// The first element of `view` at position `index` of the leading axes.
fn base(view: &HeadView, lead: &[u64; LEAD], index: usize) -> usize {
    let (mut rest, mut at) = (index, view.offset as usize);
    for (&extent, &stride) in lead.iter().zip(&view.lead).rev() {
        at += rest % extent as usize * stride as usize;
        rest /= extent as usize;
    }
    at
}

/// out[r, c] = Σₖ a[k/16][r][k % 16] · b[c/16][k][c % 16] for `rows` rows and `panels` panels of 16 columns.
///
/// # Safety
///
/// The processor has `V`'s instruction set; `a_step` elements lie between blocks of a, `b_panel` between panels of b,
/// `out_panel` between those of the result, and all of it is readable or writable.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two matrices and their strides")]
unsafe fn multiply<V: Tiles>(
    a: *const f32,
    a_step: usize,
    b: *const f32,
    b_panel: usize,
    out: *mut f32,
    out_panel: usize,
    rows: usize,
    k: usize,
    panels: usize,
) {
    let (whole, tail) = (k / BLOCK, k % BLOCK);
    let nests = [
        Nest { offset: 0, counts: [whole, 1, 1], strides: [a_step, 0, 0], length: BLOCK },
        Nest { offset: whole * a_step, counts: [1; 3], strides: [0; 3], length: tail },
    ];
    let nests = &nests[usize::from(whole == 0)..if tail == 0 { 1 } else { 2 }];
    let wide = if rows <= V::FEW_PIXELS && panels >= MAX_PANELS { MAX_PANELS } else { V::PANELS };
    let tiles = rows.div_ceil(V::PIXELS);
    let start = [0.0; MAX_PANELS * BLOCK];
    let mut panel = 0;
    while panel < panels {
        let left = panels - panel;
        let count = if left >= wide { wide } else { 1 << left.ilog2() };
        for tile in 0..tiles {
            let range = share(rows, tile, tiles);
            let function = V::tile::<f32>(1, range.len(), count, BLOCK);
            // SAFETY: the caller's promises; `V` is the instruction set of the caller.
            unsafe {
                function(&Tile {
                    a: a.add(range.start * BLOCK),
                    a_pitch: BLOCK,
                    a_row: 0,
                    nests,
                    b: b.add(panel * b_panel),
                    b_panel,
                    a_ahead: 0,
                    sum: Sum::NONE,
                    start: &start,
                    out: out.add(panel * out_panel + range.start * BLOCK),
                    out_pitch: BLOCK,
                    out_row: 0,
                    out_panel,
                    residual: std::ptr::null(),
                    residual_pitch: 0,
                    residual_row: 0,
                    residual_panel: 0,
                    low: f32::NEG_INFINITY,
                    high: f32::INFINITY,
                    ahead: std::ptr::null(),
                    ahead_rate: 0,
                });
            }
        }
        panel += count;
    }
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn attention<V: Tiles>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &Attention = args.params();
    if p.lead.contains(&0) || p.rows == 0 || p.value_size == 0 {
        return Ok(());
    }
    let slots = args.operands[5].bytes / (4 * p.scratch().unwrap_or(1) as usize);
    // More chunks than there is memory for share that of the last: the first so many do all the work.
    let chunks = chunks.min(slots);
    if chunk >= chunks {
        return Ok(());
    }
    let rows = p.rows as usize;
    let e = Extents {
        rows,
        row_blocks: rows.div_ceil(ROW_BLOCK),
        keys: p.keys as usize,
        key_block: p.key_block() as usize,
        size: p.size as usize,
        value_size: p.value_size as usize,
        pitch: ROW_BLOCK.min(rows.next_multiple_of(BLOCK)),
    };
    // SAFETY: validation found at least one slot, and no other chunk has this one.
    let slot = unsafe { Slot::new(args, p, &e, chunk) };
    let heads: usize = p.lead.iter().product::<u64>() as usize;
    // Whole heads where there are enough, so that none is packed twice.
    let mine = if heads >= chunks {
        let heads = share(heads, chunk, chunks);
        heads.start * e.row_blocks..heads.end * e.row_blocks
    } else {
        share(heads * e.row_blocks, chunk, chunks)
    };
    let mut packed = None;
    let mut unit = mine.start;
    while unit < mine.end {
        let (head, first) = (unit / e.row_blocks, unit % e.row_blocks);
        let last = (first + mine.end - unit).min(e.row_blocks);
        // SAFETY: the contract of this function; the blocks of rows of a chunk are its own.
        unsafe { one_head::<V>(args, p, &e, &slot, head, first..last, &mut packed) };
        unit += last - first;
    }
    Ok(())
}

/// The blocks `blocks` of rows of one head. `packed` says which keys and values lie in the slot.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn one_head<V: Tiles>(
    args: &Args<'_>,
    p: &Attention,
    e: &Extents,
    slot: &Slot,
    head: usize,
    blocks: std::ops::Range<usize>,
    packed: &mut Option<[usize; 3]>,
) {
    let [query, key, value, mask, output] =
        [p.query, p.key, p.value, p.mask, p.output].map(|view| base(&view, &p.lead, head));
    let masked = args.operands[3].bytes > 0;
    let causal = p.causal == 1;
    // Beyond the last key an offset hides nothing.
    let offset = p.causal_offset.min(p.keys) as usize;
    // The keys before this number are all that rows to before `row` see.
    let sees = |row: usize| if causal { (offset + row).min(e.keys) } else { e.keys };
    let step = BLOCK * (e.pitch + 1);
    let padded = e.rows.next_multiple_of(BLOCK);
    let end = sees(share(e.rows, blocks.end - 1, e.row_blocks).end);
    // SAFETY: validation bounded every operand; the slot's parts hold what is written to them.
    unsafe {
        for key_first in (0..end).step_by(e.key_block) {
            let keys = (e.keys - key_first).min(e.key_block);
            if *packed != Some([key, value, key_first]) {
                let from: *const f32 = args.operands[1].ptr();
                let from = from.add(key + key_first * p.key.row as usize);
                pack::keys::<V>(from, &p.key, keys, e.size, slot.keys);
                let from: *const f32 = args.operands[2].ptr();
                let from = from.add(value + key_first * p.value.row as usize);
                pack::values::<V>(from, p.value.row as usize, keys, e.value_size, slot.values);
                *packed = Some([key, value, key_first]);
            }
            for block in blocks.clone() {
                let rows = share(e.rows, block, e.row_blocks);
                let seen = sees(rows.end);
                if seen <= key_first {
                    continue;
                }
                let count = (seen - key_first).min(keys);
                let from: *const f32 = args.operands[0].ptr();
                let from = from.add(query + rows.start * p.query.row as usize);
                let pitch = p.query.row as usize;
                pack::queries::<V>(from, pitch, rows.len(), e.size, p.scale, slot.queries, e.pitch);
                multiply::<V>(
                    slot.queries,
                    e.pitch * BLOCK,
                    slot.keys,
                    e.size * BLOCK,
                    slot.scores,
                    step,
                    rows.len(),
                    e.size,
                    count.div_ceil(BLOCK),
                );
                let scores = Scores {
                    at: slot.scores,
                    step,
                    keys: count,
                    seen: match causal {
                        true => (offset + rows.start + 1) as isize - key_first as isize,
                        false => count as isize,
                    },
                    causal,
                    mask: match masked {
                        true => {
                            let from: *const f32 = args.operands[3].ptr();
                            let key = key_first * p.mask.element as usize;
                            from.add(mask + rows.start * p.mask.row as usize + key)
                        }
                        false => std::ptr::null(),
                    },
                    mask_row: p.mask.row as usize,
                    mask_by_key: p.mask.element == 1,
                };
                let state = slot.state.add(rows.start);
                let mut factors = [0.0; ROW_BLOCK];
                for strip in (0..rows.len()).step_by(BLOCK) {
                    let many = (rows.len() - strip).min(BLOCK);
                    let at = state.add(strip);
                    let (mut greatest, mut sums) = match key_first {
                        0 => (V::splat(f32::NEG_INFINITY), V::splat(0.0)),
                        _ => (V::load_first(at, many), V::load_first(at.add(padded), many)),
                    };
                    let factor = if V::PIXELS > 6 {
                        scores.exponentials::<V, 4>(strip, many, &mut greatest, &mut sums)
                    } else {
                        scores.exponentials::<V, 2>(strip, many, &mut greatest, &mut sums)
                    };
                    factor.store(factors.as_mut_ptr().add(strip));
                    greatest.store_first(at, many);
                    sums.store_first(at.add(padded), many);
                }
                multiply::<V>(
                    slot.scores,
                    step,
                    slot.values,
                    keys * BLOCK,
                    slot.sums,
                    e.pitch * BLOCK,
                    rows.len(),
                    count,
                    e.value_size.div_ceil(BLOCK),
                );
                let finished = key_first + e.key_block >= seen;
                let to: *mut f32 = args.operands[4].ptr();
                for (row, &factor) in factors.iter().enumerate().take(rows.len()) {
                    let share = if finished { 1.0 / *state.add(padded + row) } else { 1.0 };
                    let (factor, share) = (V::splat(factor), V::splat(share));
                    let to = to.add(output + (rows.start + row) * p.output.row as usize);
                    for at in (0..e.value_size).step_by(BLOCK) {
                        let lanes = (e.value_size - at).min(BLOCK);
                        let mut sum = V::load(slot.sums.add(at * e.pitch + row * BLOCK));
                        if key_first > 0 {
                            sum = V::load_first(to.add(at), lanes).mul_add(factor, sum);
                        }
                        (sum * share).store_first(to.add(at), lanes);
                    }
                }
            }
        }
    }
}
