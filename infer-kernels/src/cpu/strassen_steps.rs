//! The seven products of Strassen's algorithm in `strassen.rs`, and which weights are fetched meanwhile.

use super::strassen::GROUP;
use super::strassen_left::{A11, A12, A22, S1, S2, S3, S4};

/// What the steps of a block make: the quarters of the result, and what lies between.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    C11,
    C12,
    C21,
    C22,
    P,
    U2,
    U3,
    Q,
}

/// How many of them are quarters of the result.
pub(super) const QUARTERS: usize = 4;

/// A product: a matrix of the left side by a sum of quarters of the weights.
pub(super) struct Product {
    pub(super) left: usize,
    /// The quarters, in alternating sign: the first is positive.
    pub(super) terms: &'static [usize],
    /// The half of the columns whose bias the sum starts from; 2 for none.
    pub(super) start: usize,
    pub(super) added: Option<Step>,
    pub(super) out: Step,
    /// The quarter of the result that it is the last for.
    pub(super) finishes: Option<Step>,
}

/// The quarters of the weights.
const B11: usize = 0;
const B12: usize = 1;
const B21: usize = 2;
const B22: usize = 3;

/// The seven products, in order.
pub(super) const STEPS: [Product; 7] = [
    Product { left: A11, terms: &[B11], start: 2, added: None, out: Step::P, finishes: None },
    Product {
        left: A12,
        terms: &[B21],
        start: 0,
        added: Some(Step::P),
        out: Step::C11,
        finishes: Some(Step::C11),
    },
    Product {
        left: S2,
        terms: &[B22, B12, B11],
        start: 2,
        added: Some(Step::P),
        out: Step::U2,
        finishes: None,
    },
    Product { left: S3, terms: &[B22, B12], start: 2, added: Some(Step::U2), out: Step::U3, finishes: None },
    Product {
        left: A22,
        terms: &[B21, B22, B12, B11],
        start: 0,
        added: Some(Step::U3),
        out: Step::C21,
        finishes: Some(Step::C21),
    },
    Product { left: S1, terms: &[B12, B11], start: 2, added: None, out: Step::Q, finishes: Some(Step::C22) },
    Product {
        left: S4,
        terms: &[B22],
        start: 1,
        added: Some(Step::U2),
        out: Step::C12,
        finishes: Some(Step::C12),
    },
];

/// Weights that are asked for while tiles are computed.
pub(super) struct Fetch {
    /// The panels of the part at hand, where nobody has asked for them before: as soon as can be.
    pub(super) first: Option<[*const u8; GROUP]>,
    /// Those of the part that comes next: evenly over the tiles.
    pub(super) next: Option<[*const u8; GROUP]>,
    /// Bytes of a quarter of a panel, and the lines that are asked for with every sixteen channels to get it in a tile.
    pub(super) quarter: usize,
    pub(super) rate: usize,
    /// The same of a piece of what comes next; a panel has `pieces` of them, the last of which may reach beyond it.
    pub(super) piece: usize,
    pub(super) next_rate: usize,
    pub(super) pieces: usize,
    /// The panel and the piece of it that are next, and how many have been asked for.
    pub(super) panel: usize,
    pub(super) in_panel: usize,
    pub(super) asked: usize,
    /// The tiles that there are, and those done.
    pub(super) tiles: usize,
    pub(super) done: usize,
}

/// Which half of which panel is read when, after the first product.
const NEEDED: [(usize, usize); 6] = [(0, 1), (1, 1), (2, 1), (3, 1), (2, 0), (3, 0)];

impl Fetch {
    /// What is to be asked for while the next tile is computed, and at which rate.
    #[inline(always)]
    pub(super) fn next_lines(&mut self) -> (*const u8, usize) {
        let done = self.done;
        self.done += 1;
        if let (Some(panels), Some(&(panel, half))) = (self.first, NEEDED.get(done)) {
            return (panels[panel].wrapping_add(half * self.quarter), self.rate);
        }
        match self.next {
            Some(panels)
                if self.panel < GROUP && self.asked * self.tiles < GROUP * self.pieces * self.done =>
            {
                let from = panels[self.panel].wrapping_add(self.in_panel * self.piece);
                self.asked += 1;
                self.in_panel += 1;
                if self.in_panel == self.pieces {
                    (self.panel, self.in_panel) = (self.panel + 1, 0);
                }
                (from, self.next_rate)
            }
            _ => (std::ptr::null(), 0),
        }
    }
}
