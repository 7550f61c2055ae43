//! How recurrent networks are spread over blocks.

use super::work::Work;
use super::{MOST_THREADS, SHARED_BYTES, STATES};
use crate::call::Recurrent;
use crate::cpu::bounds::product;
use crate::cuda::{LARGEST_CLUSTER, Launch};

/// As many clusters as an H200 has room for at a time. Where there are more sequences, clusters walk [`TOGETHER`] at once.
const CLUSTERS: u64 = 16;
const TOGETHER: u64 = 4;

/// The longest state that a cluster walks, and what states in shared memory are padded to a multiple of.
const MOST_SPREAD: u64 = 1024;
const PADDING: u64 = 128;

/// Places for states in shared memory.
const PLACES: u64 = 3;

/// Elements of a state that a block of a cluster has, and the lanes that share each: `None` where a block walks alone.
fn spread(hidden: u64) -> Option<[u64; 2]> {
    let lanes = match hidden {
        0..=256 => 16,
        257..=512 => 8,
        _ => 4,
    };
    let units = hidden.div_ceil(LARGEST_CLUSTER.into()).next_multiple_of(8);
    (hidden <= MOST_SPREAD).then_some([units, lanes])
}

/// Sequences that are walked together.
fn rows(p: &Recurrent) -> u64 {
    if p.directions.saturating_mul(p.batch) > CLUSTERS { TOGETHER } else { 1 }
}

/// Groups of sequences, and the threads that a block of one has use for, on GPUs with clusters and on others.
pub(super) fn work(p: &Recurrent, gates: u64) -> Work {
    if p.hidden > u64::from(SHARED_BYTES) / 4 / STATES || p.steps > i32::MAX as u64 {
        return None;
    }
    product(&[p.directions, p.batch]).filter(|&sequences| sequences <= i32::MAX as u64)?;
    let groups = if p.hidden == 0 { 0 } else { p.directions * p.batch.div_ceil(rows(p)) };
    let alone = (p.hidden * gates).min(MOST_THREADS);
    let threads = spread(p.hidden).map_or(alone, |[units, lanes]| alone.max(units * lanes));
    Some((groups, threads, 1))
}

/// Blocks along the second axis walk a group's sequences: together as a cluster, or else each some of them.
pub(super) fn launch(p: &Recurrent, groups: u32, threads: u32) -> Launch {
    let blocks = spread(p.hidden).map_or(1, |[units, _]| p.hidden.div_ceil(units)) as u32;
    let places = match spread(p.hidden) {
        Some(_) => PLACES * rows(p) * p.hidden.next_multiple_of(PADDING),
        None => 0,
    };
    let shared_bytes = places.max(p.hidden * STATES) as u32 * 4;
    Launch { grid: [groups, blocks], cluster: blocks, threads, shared_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_a_block_with_room_for_it() {
        for hidden in 1..=4915 {
            for (batch, gates) in [(1, 1), (3, 4), (40, 3)] {
                let p = Recurrent { steps: 2, directions: 2, batch, hidden, ..Recurrent::default() };
                let (groups, threads, _) = work(&p, gates).unwrap();
                let launch = launch(&p, groups as u32, threads as u32);
                let [_, blocks] = launch.grid.map(u64::from);
                assert!(launch.cluster <= LARGEST_CLUSTER && threads <= MOST_THREADS, "{launch:?}");
                assert!(launch.shared_bytes <= SHARED_BYTES, "{launch:?}");
                assert!(groups * rows(&p) >= 2 * batch, "{launch:?}");
                // As the kernel counts the elements of a block.
                let units = hidden.div_ceil(blocks).next_multiple_of(8);
                match spread(hidden) {
                    None => assert_eq!(blocks, 1),
                    Some([given, lanes]) => {
                        assert_eq!(units, given, "{hidden}");
                        assert!(units * lanes <= threads && (blocks - 1) * units < hidden, "{launch:?}");
                    }
                }
            }
        }
        let longer = Recurrent { steps: 1, directions: 1, batch: 1, hidden: 4916, ..Recurrent::default() };
        assert_eq!(work(&longer, 4), None);
        assert_eq!(work(&Recurrent { hidden: u64::MAX, ..longer }, 4), None);
    }
}
