//! Pictures read at places between their elements.

use bytemuck::{Pod, Zeroable};

/// `grid_sample_f32`, `grid_sample_f64`: pictures read at the places of a grid, of up to [`GridSample::MOST_AXES`] spatial
/// axes.
///
/// `out[n, c, point] = Σ weight · in[n, c, at]` over what [`GridSample::each_read`] says of the point. Coordinates of a
/// grid of f32 are rounded to f32 after each operation; weights and sums are f64. Operands: input `[n, channels, dims…]`;
/// grid `[n, points, rank]` of f32 or f64 by `grid_bytes`, −1 to 1, innermost axis first; output `[n, channels, points]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GridSample {
    /// Pictures.
    pub n: u64,
    /// Channels.
    pub channels: u64,
    /// Spatial axes.
    pub rank: u64,
    /// Their extents.
    pub dims: [u64; GridSample::MOST_AXES],
    /// Places of a picture.
    pub points: u64,
    /// 0: the nearest element, of two the even one. 1: linear between two along each axis. 2: cubic convolution of four.
    pub mode: u64,
    /// What lies outside. 0: zeros. 1: the outermost elements. 2: the picture, reflected.
    pub padding: u64,
    /// 1 where −1 and 1 are the centres of the outermost elements, not their outer edges.
    pub align_corners: u64,
    /// 4 or 8.
    pub grid_bytes: u64,
}

/// The elements that a place reads along one axis, −1 for none, and their weights.
#[derive(Clone, Copy)]
struct Taps {
    index: [i64; 4],
    weight: [f64; 4],
}

/// One axis of a picture.
struct Axis {
    extent: f64,
    /// Where reflection turns back.
    low: f64,
    high: f64,
    /// Whether coordinates are not rounded to f32.
    is_wide: bool,
}

/// Keys' weights of the four elements around a place that is `x` beyond the second.
#[inline(always)]
fn cubic(x: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    [far(x + 1.0), near(x), near(1.0 - x), far(2.0 - x)]
}

impl Axis {
    #[inline(always)]
    fn round(&self, value: f64) -> f64 {
        if self.is_wide { value } else { f64::from(value as f32) }
    }

    /// `x`, turned back at both ends until it is between them.
    #[inline(always)]
    fn reflect(&self, x: f64, round: impl Fn(f64) -> f64) -> f64 {
        let range = self.high - self.low;
        let beyond = if x < self.low {
            self.low - x
        } else if x > self.high {
            x - self.high
        } else {
            return x;
        };
        if range <= 0.0 || !beyond.is_finite() {
            return 0.0;
        }
        let turns = round(beyond / range).trunc();
        let rest = round(beyond - round(turns * range));
        let from_low = (x < self.low) == (turns % 2.0 == 0.0);
        round(if from_low { self.low + rest } else { self.high - rest })
    }

    /// The element that position `index` reads; −1 for zero.
    #[inline(always)]
    fn element(&self, index: f64, padding: u64) -> i64 {
        let last = self.extent - 1.0;
        let inside = match padding {
            0 if index < 0.0 || index > last => return -1,
            2 => self.reflect(index, |value| value).trunc(),
            _ => index,
        };
        inside.clamp(0.0, last) as i64
    }
}

impl GridSample {
    /// The most spatial axes.
    pub const MOST_AXES: usize = 5;

    /// The most elements that a place reads along an axis.
    pub fn taps(&self) -> usize {
        match self.mode {
            0 => 1,
            1 => 2,
            _ => 4,
        }
    }

    /// What place `n`, counted from −1 to 1, reads along an axis of `extent` elements, of which there is at least one.
    #[inline(always)]
    fn taps_along(&self, extent: u64, n: f64) -> Taps {
        let extent = extent as f64;
        let (low, high) = if self.align_corners == 1 { (0.0, -1.0) } else { (-0.5, -0.5) };
        let axis = Axis { extent, low, high: extent + high, is_wide: self.grid_bytes == 8 };
        let step = |value: f64| axis.round(value);
        let mut x = if self.align_corners == 1 {
            step(step(step(n + 1.0) / 2.0) * (extent - 1.0))
        } else {
            step(step(step(step(n + 1.0) * extent) - 1.0) / 2.0)
        };
        if x.is_nan() {
            // Somewhere outside.
            x = -2.0;
        }
        if self.mode == 0 {
            x = x.round_ties_even();
        }
        if x < axis.low || x > axis.high {
            match self.padding {
                0 => (),
                // Of four elements those outside become the outermost one, but their weights stay, as where these graphs
                // come from.
                1 if self.mode > 1 && x.is_finite() => (),
                1 => x = x.clamp(0.0, (extent - 1.0).max(0.0)),
                _ => x = axis.reflect(x, step),
            }
        }
        let mut taps = Taps { index: [-1; 4], weight: [0.0; 4] };
        let floor = x.floor();
        let element = |index: f64| axis.element(index, self.padding);
        if self.mode == 0 {
            (taps.index[0], taps.weight[0]) = (element(x.trunc()), 1.0);
        } else if !x.is_finite() {
            // What is infinitely far reads nothing, rather than nothing times an infinite weight.
            taps.index[0] = element(x);
        } else if self.mode == 1 {
            taps.index = [element(floor), element(floor + 1.0), -1, -1];
            taps.weight = [1.0 - (x - floor), x - floor, 0.0, 0.0];
        } else {
            taps.index = [-1.0, 0.0, 1.0, 2.0].map(|by| element(floor + by));
            taps.weight = cubic(x - floor);
        }
        taps
    }

    /// Calls `read` with each element of a channel that a place reads, and its weight, the outermost axis first; with none
    /// where that is zero. The place has a number from −1 to 1 for each axis. No more than [`taps`](Self::taps) to the
    /// power of the axes are read, all of them inside of the picture, whatever the place is.
    #[inline(always)]
    pub fn each_read(&self, place: &[f64; GridSample::MOST_AXES], mut read: impl FnMut(usize, f64)) {
        let rank = (self.rank as usize).min(GridSample::MOST_AXES);
        if self.dims[..rank].contains(&0) {
            return;
        }
        let mut taps = [Taps { index: [-1; 4], weight: [0.0; 4] }; GridSample::MOST_AXES];
        for axis in 0..rank {
            taps[axis] = self.taps_along(self.dims[axis], place[axis]);
        }
        // The numbers of the taps along the axes are the digits of `number`.
        let bits = self.taps().trailing_zeros() as usize;
        for number in 0..1usize << (bits * rank) {
            let (mut at, mut weight, mut is_inside) = (0i64, 1.0, true);
            for (axis, (taps, &extent)) in taps.iter().zip(&self.dims).enumerate().take(rank) {
                let tap = number >> (bits * (rank - 1 - axis)) & 3 >> (2 - bits);
                is_inside &= taps.index[tap] >= 0;
                at = at.wrapping_mul(extent as i64).wrapping_add(taps.index[tap]);
                weight *= taps.weight[tap];
            }
            if is_inside {
                read(at as usize, weight);
            }
        }
    }
}
