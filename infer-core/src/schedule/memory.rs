//! Places buffers in the arena: the largest first, each into the tightest gap that is free throughout its life.
//!
//! What a call works in comes behind what outlives calls: it has room for as many chunks as may ever run at once, of which
//! few do, so that most of it need never become memory where nothing else lies there.

use super::liveness::Lifetime;
use super::{ALIGNMENT, Conflict, MemoryPlan};

/// A placed buffer; `end` is rounded up, so that what follows is aligned.
struct Placed {
    start: u64,
    end: u64,
    lifetime: Lifetime,
}

/// Of how much of the arena that is smallest another may be larger, as a divisor, to have less of it touched.
const ALLOWANCE: u64 = 16;

/// The offsets of buffers with these lifetimes, out of `buffers` in all.
pub(super) fn place(lifetimes: &[Lifetime], buffers: usize) -> Result<MemoryPlan, Conflict> {
    let mut order = lifetimes.to_vec();
    // Ties are broken by age, so that the result depends on the calls alone.
    order.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.first, life.buffer));
    let by_size = place_in_order(&order, buffers)?;
    order.sort_by_key(|life| life.first == life.last);
    let by_life = place_in_order(&order, buffers)?;
    let most = by_size.arena_bytes.saturating_add(by_size.arena_bytes / ALLOWANCE);
    Ok(if by_life.arena_bytes <= most { by_life } else { by_size })
}

/// The offsets of buffers that are placed one after the other.
fn place_in_order(order: &[Lifetime], buffers: usize) -> Result<MemoryPlan, Conflict> {
    let mut placed: Vec<Placed> = Vec::with_capacity(order.len());
    let mut offsets = vec![None; buffers];
    let mut arena_bytes = 0;
    for &lifetime in order {
        let too_large =
            || Conflict(format!("the arena's {} buffers are larger than 2^64 bytes", order.len()));
        let bytes = lifetime.bytes.checked_next_multiple_of(ALIGNMENT).ok_or_else(too_large)?;
        let start = if bytes == 0 { 0 } else { tightest_gap(&placed, &lifetime, bytes) };
        let end = start.checked_add(bytes).ok_or_else(too_large)?;
        if let Some(offset) = offsets.get_mut(lifetime.buffer) {
            *offset = Some(start);
        }
        if bytes > 0 {
            let position = placed.partition_point(|other| other.start < start);
            placed.insert(position, Placed { start, end, lifetime });
            arena_bytes = arena_bytes.max(end);
        }
    }
    Ok(MemoryPlan { offsets, arena_bytes })
}

/// Where `bytes` fit best between the placed buffers that meet `lifetime`; behind them all where no gap is wide
/// enough. `placed` is sorted by start.
fn tightest_gap(placed: &[Placed], lifetime: &Lifetime, bytes: u64) -> u64 {
    let mut best: Option<(u64, u64)> = None;
    let mut free_from = 0;
    for other in placed.iter().filter(|other| other.lifetime.meets(lifetime)) {
        let gap = other.start.saturating_sub(free_from);
        if gap >= bytes && best.is_none_or(|(smallest, _)| gap < smallest) {
            best = Some((gap, free_from));
        }
        free_from = free_from.max(other.end);
    }
    best.map_or(free_from, |(_, start)| start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(buffer: usize, bytes: u64, first: usize, last: usize) -> Lifetime {
        Lifetime { buffer, bytes, first, last }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Lifetime> = (0..10).map(|i| life(i, 1000, i, i + 1)).collect();
        let memory = place(&chain, 10).unwrap();
        assert_eq!(memory.arena_bytes, 2048);
        assert!(memory.offsets.iter().all(|offset| matches!(offset, Some(0 | 1024))));
    }

    #[test]
    fn the_tightest_gap_is_taken() {
        // While the last buffer lives, those of 512 and of 256 bytes do not.
        let lives = [
            life(0, 1024, 0, 9),
            life(1, 512, 0, 1),
            life(2, 320, 0, 9),
            life(3, 256, 0, 1),
            life(4, 192, 0, 9),
            life(5, 100, 5, 6),
        ];
        let memory = place(&lives, 6).unwrap();
        assert_eq!(memory.arena_bytes, 1024 + 512 + 320 + 256 + 192);
        assert_eq!(memory.offsets[5], memory.offsets[3]);
    }

    #[test]
    fn what_one_call_works_in_lies_behind_what_outlives_it() {
        let lives = [life(0, 512, 0, 1), life(1, 8192, 1, 1), life(2, 512, 1, 2), life(3, 1024, 2, 3)];
        let memory = place(&lives, 4).unwrap();
        assert_eq!(memory.offsets, [Some(0), Some(1536), Some(1024), Some(0)]);
        assert_eq!(memory.arena_bytes, 9728);
    }

    #[test]
    fn empty_buffers_take_no_room() {
        let memory = place(&[life(0, 0, 0, 3), life(1, 1, 0, 3)], 3).unwrap();
        assert_eq!(memory, MemoryPlan { offsets: vec![Some(0), Some(0), None], arena_bytes: 64 });
    }

    #[test]
    fn impossible_sizes_are_an_error() {
        assert!(place(&[life(0, u64::MAX, 0, 0)], 1).is_err());
        assert!(place(&[life(0, u64::MAX - 200, 0, 0), life(1, 256, 0, 0)], 2).is_err());
    }
}
