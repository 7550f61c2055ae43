//! An order in which every node comes after those whose outputs it reads.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::flatten::FlatNode;

/// The positions of `nodes` in topological order, in the order of the file wherever that is one; or the positions of
/// nodes that form a cycle. `writers` holds the node that writes each value.
pub(super) fn sort(nodes: &[FlatNode<'_>], writers: &[Option<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let writer = |value: &usize| writers.get(*value).copied().flatten();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut waiting = vec![0usize; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for source in node.inputs.iter().flatten().filter_map(writer) {
            if let (Some(readers), Some(waiting)) = (readers.get_mut(source), waiting.get_mut(index)) {
                readers.push(index);
                *waiting += 1;
            }
        }
    }
    let is_ready = |(index, &waiting): (usize, &usize)| (waiting == 0).then_some(Reverse(index));
    let mut ready: BinaryHeap<Reverse<usize>> = waiting.iter().enumerate().filter_map(is_ready).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &reader in readers.get(index).into_iter().flatten() {
            if let Some(waiting) = waiting.get_mut(reader) {
                *waiting -= 1;
                if *waiting == 0 {
                    ready.push(Reverse(reader));
                }
            }
        }
    }
    if order.len() == nodes.len() {
        return Ok(order);
    }
    // Every node left waits for one left: going back along these ends in a cycle.
    let is_left = |index: &usize| waiting.get(*index).is_some_and(|&waiting| waiting > 0);
    let mut path = Vec::new();
    let mut place = vec![None; nodes.len()];
    let mut next = (0..nodes.len()).find(is_left);
    while let Some(index) = next {
        if let Some(Some(start)) = place.get(index) {
            path.drain(..start);
            break;
        }
        if let Some(place) = place.get_mut(index) {
            *place = Some(path.len());
        }
        path.push(index);
        let inputs = nodes.get(index).into_iter().flat_map(|node| node.inputs.iter().flatten());
        next = inputs.filter_map(writer).find(is_left);
    }
    path.reverse();
    Err(path)
}
