//! Which 3×3 convolutions run by Winograd's algorithm.
//!
//! F(m,3) takes (m + 2)² products for each tile of m × m outputs and pair of channels, where direct convolution takes
//! 9 m². Its weights are 4 (m = 4) or 1.8 times (m = 2) as large and are made when the plan is opened or, where that makes
//! it little larger ([`GROWTH`]), when it is compiled. Times are those
//! of a core that makes [`PRODUCTS`] multiply-adds in a nanosecond and reads [`BYTES`] of weights, which the layers
//! between two inferences have pushed out of its caches:
//!
//! ```text
//! direct    9 · pixels · C · OC / (0.97 · PRODUCTS)                    + 36 · C · OC / BYTES
//! F(m,3)    ((m + 2)² · tiles · C · OC / 0.93 + transforms) / PRODUCTS + 4 · (m + 2)² · C · OC / BYTES
//! ```
//!
//! Tiles that reach beyond the picture count whole: 14 × 14 outputs are 16 × 16 for m = 4. A transform takes about six
//! operations for each of a tile's (m + 2)² elements and each channel. Winograd's algorithm must be faster by a
//! quarter, since it costs memory and time at the start; for the same reason no layer prepares more than
//! [`LAYER_BYTES`], and all together no more than twice what the plan's own constants take, and
//! [`FREE_BYTES`]. Where that does not suffice, the layers that save most time for each byte come first. The
//! constants lie between those of desktop and server cores; nothing is measured where the model is compiled.

use std::collections::{HashMap, HashSet};

use infer_kernels::call::{BLOCK, winograd_planes};

use super::is_blocked;
use crate::calls::Squares;
use crate::decisions;
use crate::graph::{Graph, Layout, Node};
use crate::ops::conv::Conv;
use crate::ops::conv::winograd::Square;

/// Multiply-adds in a nanosecond.
const PRODUCTS: f64 = 80.0;

/// Bytes in a nanosecond.
const BYTES: f64 = 16.0;

/// The largest share of the time of direct convolution.
const WORTHWHILE: f64 = 0.75;

/// The most that one layer prepares: more would come from memory for longer than the products take.
const LAYER_BYTES: u64 = 32 << 20;

/// What may be prepared however small the model is.
const FREE_BYTES: u64 = 16 << 20;

/// As what share of its constants a plan may grow, as a divisor, by weights that are stored as they are multiplied: to
/// make them anew costs every start several times what it costs to map them. Those come first that gain most for each byte.
const GROWTH: u64 = 6;

/// Plans of fewer constants do not grow: they open fast, and are for where every byte counts.
const LEAST_GROWING: u64 = 8 << 20;

/// A layer with one size of tiles.
#[derive(Clone, Copy)]
struct Candidate {
    node: usize,
    tile: u64,
    /// Nanoseconds saved.
    saved: f64,
    bytes: u64,
}

/// The ways to compute each node, by its position, that can run by Winograd's algorithm, and which is the best.
pub fn choose(graph: &Graph) -> HashMap<usize, Squares> {
    let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
    let weights: u64 = constants.map(|constant| constant.data().len() as u64).sum();
    let squares: Vec<(usize, Square)> = graph
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| Some((index, square(graph, node)?)))
        .collect();
    let candidates = squares.iter().flat_map(|(node, square)| {
        savings(square).into_iter().map(move |candidate| Candidate { node: *node, ..candidate })
    });
    let chosen = within(candidates.collect(), 2 * weights + FREE_BYTES);
    let layers = squares.iter().filter_map(|(node, square)| {
        let tile = *chosen.get(node)?;
        Some((*node, tile, bytes(square, tile) as u64))
    });
    let stored = stored(layers.collect(), weights);
    let ways = |(index, square): (usize, Square)| {
        let tile = chosen.get(&index).copied();
        let default = Squares::TILES.iter().position(|&known| known == tile).unwrap_or(0);
        let stored = tile.filter(|_| stored.contains(&index));
        (index, Squares { ways: estimates(&square), default, stored })
    };
    squares.into_iter().map(ways).collect()
}

/// The candidates that fit into `budget` bytes, the most rewarding first, one for each node.
fn within(mut candidates: Vec<Candidate>, budget: u64) -> HashMap<usize, u64> {
    let reward = |c: &Candidate| c.saved / c.bytes as f64;
    candidates.sort_by(|a, b| reward(b).total_cmp(&reward(a)).then((a.node, a.tile).cmp(&(b.node, b.tile))));
    let mut chosen: HashMap<usize, Candidate> = HashMap::new();
    let mut total = 0;
    for candidate in candidates {
        // A later candidate of the same node saves less for each byte, but may save more.
        let before = chosen.get(&candidate.node).filter(|before| before.saved < candidate.saved);
        if before.is_none() && chosen.contains_key(&candidate.node) {
            continue;
        }
        let next = total - before.map_or(0, |before| before.bytes) + candidate.bytes;
        if next <= budget {
            total = next;
            chosen.insert(candidate.node, candidate);
        }
    }
    chosen.into_iter().map(|(node, candidate)| (node, candidate.tile)).collect()
}

/// The layers, each a node with its tiles and the bytes of their weights, of which the weights are stored as they are
/// multiplied, in a plan of so many bytes of `constants`.
fn stored(mut layers: Vec<(usize, u64, u64)>, constants: u64) -> HashSet<usize> {
    let mut budget = if constants < LEAST_GROWING { 0 } else { constants / GROWTH };
    layers.sort_by_key(|&(node, tile, bytes)| (tile, bytes, node));
    let fits = |&(_, tile, bytes): &(usize, u64, u64)| {
        let planes = winograd_planes(tile);
        let growth = bytes / planes * (planes - 9);
        budget.checked_sub(growth).map(|rest| budget = rest).is_some()
    };
    layers.into_iter().filter(fits).map(|(node, ..)| node).collect()
}

/// The convolution that a node is, where Winograd's algorithm can compute it.
fn square(graph: &Graph, node: &Node) -> Option<Square> {
    let conv = node.op_as::<Conv>().filter(|_| is_blocked(graph, node))?;
    let layout = graph.value(node.input(0)?).layout;
    if layout != (Layout::Blocked { block: BLOCK }) {
        return None;
    }
    graph.with_types(node, |types| Square::of(conv, types))
}

/// What is worthwhile for a convolution.
fn savings(square: &Square) -> Vec<Candidate> {
    let [direct, times @ ..] = estimates(square).map(|way| way.cost);
    let tiles = Squares::TILES.iter().flatten();
    let of_tile = |(&tile, time): (&u64, f64)| {
        let bytes = bytes(square, tile);
        (time <= WORTHWHILE * direct && bytes <= LAYER_BYTES as f64).then_some(Candidate {
            node: 0,
            tile,
            saved: direct - time,
            bytes: bytes as u64,
        })
    };
    tiles.zip(times).filter_map(of_tile).collect()
}

/// The bytes of the weights that tiles of `tile` multiply.
fn bytes(square: &Square, tile: u64) -> f64 {
    4.0 * winograd_planes(tile) as f64 * pairs(square)
}

/// Pairs of channels, those that pad blocks included.
fn pairs(square: &Square) -> f64 {
    (square.in_channels * square.out_channels.next_multiple_of(BLOCK) * square.groups) as f64
}

/// Nanoseconds of each way, in the order of [`Squares::TILES`].
fn estimates(square: &Square) -> [decisions::Candidate; 3] {
    let names = ["direct", "winograd4", "winograd2"];
    std::array::from_fn(|way| {
        let cost = Squares::TILES[way].map_or_else(|| direct(square), |tile| winograd(square, tile));
        decisions::Candidate { name: names[way], cost }
    })
}

fn direct(square: &Square) -> f64 {
    let pixels = (square.images * square.out_h * square.out_w) as f64;
    let pairs = pairs(square);
    9.0 * pixels * pairs / (0.97 * PRODUCTS) + 36.0 * pairs / BYTES
}

fn winograd(square: &Square, tile: u64) -> f64 {
    let &Square { images, groups, in_channels, out_channels, out_h, out_w } = square;
    let padded = |channels: usize| channels.next_multiple_of(BLOCK) as f64;
    let planes = winograd_planes(tile) as f64;
    let tiles = (images * out_h.div_ceil(tile as usize) * out_w.div_ceil(tile as usize)) as f64;
    let transforms = 6.0 * planes * tiles * (padded(in_channels) + padded(out_channels)) * groups as f64;
    (planes * tiles * pairs(square) / 0.93 + transforms) / PRODUCTS + bytes(square, tile) / BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::Decisions;
    use crate::lower::lower;
    use crate::options::Precision;
    use crate::passes;
    use crate::passes::test_support::{assert_close, compiled, inputs, model, reference};
    use crate::tactics::Tactics;

    /// The size of tiles that saves most time for a convolution between `channels` on a picture of `size` squared.
    fn best(channels: [usize; 2], size: usize) -> Option<u64> {
        let text = format!(
            "input x 1,{0},{2},{2}\nrandom w {1},{0},3,3\ny = Conv(x, w) pads=[1,1,1,1]\noutput y",
            channels[0], channels[1], size
        );
        let mut graph = model(&text);
        passes::run(&mut graph, |_, _| {}).unwrap();
        let found = graph.nodes.iter().filter_map(|node| square(&graph, node)).flat_map(|s| savings(&s));
        found.max_by(|a, b| a.saved.total_cmp(&b.saved)).map(|candidate| candidate.tile)
    }

    #[test]
    fn large_pictures_take_large_tiles_and_small_ones_none() {
        assert_eq!(best([64, 64], 56), Some(4));
        assert_eq!(best([128, 256], 52), Some(4));
        assert_eq!(best([256, 512], 26), Some(4));
        assert_eq!(best([64, 64], 14), Some(2));
        assert_eq!(best([256, 256], 14), Some(2));
        assert_eq!(best([64, 64], 7), None);
        assert_eq!(best([512, 512], 7), None);
        assert_eq!(best([512, 1024], 13), Some(2));
        assert_eq!(best([1024, 1024], 13), None);
        assert_eq!(best([8, 64], 56), None);
    }

    #[test]
    fn what_saves_most_for_each_byte_comes_first() {
        let of = |node, tile, saved, bytes| Candidate { node, tile, saved, bytes };
        let all = || vec![of(0, 4, 100.0, 100), of(0, 2, 80.0, 40), of(1, 4, 90.0, 60), of(1, 2, 10.0, 30)];
        let chosen = |budget| {
            let mut chosen: Vec<_> = within(all(), budget).into_iter().collect();
            chosen.sort_unstable();
            chosen
        };
        assert_eq!(chosen(1000), [(0, 4), (1, 4)]);
        assert_eq!(chosen(100), [(0, 2), (1, 4)]);
        assert_eq!(chosen(50), [(0, 2)]);
        assert_eq!(chosen(10), []);
    }

    const NETWORK: &str = "
        input x 1,16,30,25
        random w 48,16,3,3
        random b 48
        random v 48,48,3,3
        random u 16,96,3,3
        a = Conv(x, w, b) pads=[1,1,1,1]
        c = Relu(a)
        d = Conv(c, v) pads=[1,1,1,1]
        e = Add(d, c)
        f = Relu(e)
        g = Concat(f, c) axis=1
        y = Conv(g, u) pads=[0,1,2,1]
        output y";

    fn finished() -> Graph {
        let mut graph = model(NETWORK);
        passes::run(&mut graph, |_, _| {}).unwrap();
        graph
    }

    #[test]
    fn a_network_agrees_with_its_reference() {
        let graph = model(NETWORK);
        let inputs = inputs(&graph);
        let expected = reference(&graph, &inputs);
        let finished = finished();
        for precision in [Precision::Fp32, Precision::Fp16] {
            let calls = lower(&finished, precision, true, Decisions::default()).unwrap();
            assert_eq!(calls.prepare.len(), 3);
            assert_eq!(calls.calls.iter().filter(|call| call.kernel == "winograd_f32").count(), 3);
            let tolerance = if precision == Precision::Fp32 { 1e-4 } else { 1e-2 };
            assert_close(&compiled(&finished, &inputs, precision), &expected, tolerance, NETWORK);
        }
    }

    #[test]
    fn plans_grow_by_what_gains_most_for_each_byte() {
        const MB: u64 = 1 << 20;
        let layers = || vec![(0, 4, 36 * MB), (1, 2, 16 * MB), (2, 4, 4 * MB), (3, 2, 32 * MB)];
        let stored = |constants| {
            let mut stored: Vec<_> = stored(layers(), constants).into_iter().collect();
            stored.sort_unstable();
            stored
        };
        assert_eq!(stored(6 * 51 * MB), [0, 1, 2, 3]);
        assert_eq!(stored(6 * 24 * MB), [1, 2, 3]);
        assert_eq!(stored(6 * 8 * MB), [1]);
        assert_eq!(stored(6 * 5 * MB), [2]);
        assert_eq!(stored(LEAST_GROWING - 1), []);
    }

    #[test]
    fn weights_of_large_models_are_stored_as_they_are_multiplied() {
        let text = "
            input x 1,64,14,14
            input z 1,2048
            random w 160,32,3,3
            random v 40,160,3,3
            random big 2048,1100
            a = Conv(x, w) pads=[1,1,1,1] group=2
            y = Conv(a, v) pads=[1,1,1,1]
            g = MatMul(z, big)
            output y
            output g";
        let mut graph = model(text);
        let inputs = inputs(&graph);
        let expected = reference(&graph, &inputs);
        passes::run(&mut graph, |_, _| {}).unwrap();
        let ways = choose(&graph);
        assert!(ways.len() == 2 && ways.values().all(|squares| squares.stored == Some(2)), "{ways:?}");
        for (precision, prepared) in [(Precision::Fp32, 0), (Precision::Fp16, 2)] {
            let calls = lower(&graph, precision, true, Decisions::default()).unwrap();
            assert_eq!(calls.calls.iter().filter(|call| call.kernel == "winograd_f32").count(), 2);
            assert_eq!(calls.prepare.len(), prepared);
            let tolerance = if precision == Precision::Fp32 { 1e-4 } else { 1e-2 };
            assert_close(&compiled(&graph, &inputs, precision), &expected, tolerance, text);
        }
    }

    #[test]
    fn tactics_choose_among_all_ways() {
        let graph = finished();
        let inputs = inputs(&graph);
        let expected = reference(&model(NETWORK), &inputs);
        assert_close(&compiled(&graph, &inputs, Precision::Fp32), &expected, 1e-4, NETWORK);
        let kept = lower(&graph, Precision::Fp32, true, Decisions::kept(Tactics::default())).unwrap();
        assert_eq!(kept.decisions.choices.len(), 3);
        let mut text = "infer-tactics 1\n".to_owned();
        for (choice, way) in kept.decisions.choices.iter().zip(["direct", "winograd4", "winograd2"]) {
            assert_eq!(choice.candidates.len(), 3);
            let line =
                format!("layer \"{}\" {} \"{}\" {way}\n", choice.node, choice.question, choice.signature);
            text.push_str(&line);
        }
        let tactics = Tactics::parse(&text).unwrap();
        let calls = lower(&graph, Precision::Fp32, true, Decisions::kept(tactics)).unwrap();
        assert!(calls.decisions.choices.iter().all(|choice| choice.by_tactics));
        let kernels: Vec<_> = calls.calls.iter().map(|call| call.kernel.as_str()).collect();
        assert_eq!(kernels.iter().filter(|kernel| **kernel == "winograd_f32").count(), 2, "{kernels:?}");
    }

    #[test]
    fn the_switch_turns_it_off() {
        let calls = lower(&finished(), Precision::Fp32, false, Decisions::default()).unwrap();
        assert!(calls.prepare.is_empty());
        assert!(calls.calls.iter().all(|call| !call.kernel.starts_with("winograd")));
    }

    #[test]
    fn convolutions_with_the_same_weights_share_what_is_prepared() {
        let mut graph = model(
            "input x 1,32,40,40
             random w 32,32,3,3
             a = Conv(x, w) pads=[1,1,1,1]
             y = Conv(a, w) pads=[1,1,1,1]
             output y",
        );
        passes::run(&mut graph, |_, _| {}).unwrap();
        let calls = lower(&graph, Precision::Fp32, true, Decisions::default()).unwrap();
        assert_eq!(calls.prepare.len(), 1);
        assert_eq!(calls.calls.iter().filter(|call| call.kernel == "winograd_f32").count(), 2);
    }
}
