//! Where samples of a resized axis lie, and the tables that say which elements make them.

use std::ops::Range;

use super::super::movement::expect_table;
use super::{Coordinates, NearestMode, Resize, ResizeMode};
use crate::diagnostic::Reason;

/// How one axis is resampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisPlan {
    /// The input's extent.
    pub input: usize,
    /// The output's extent.
    pub output: usize,
    /// The scale.
    pub scale: f32,
    /// The output's extent before it is rounded, where a scale gives it.
    pub(super) length: f32,
    /// The part of the axis that is sampled in mode tf_crop_and_resize, as fractions of it.
    pub(super) roi: [f32; 2],
}

impl AxisPlan {
    /// Whether every sample is the element at its own index, whatever the modes.
    pub fn is_identity(&self) -> bool {
        self.scale == 1.0 && self.input == self.output && self.roi == [0.0, 1.0]
    }

    /// The position of the output's element `at` in the input.
    fn position(&self, coordinates: Coordinates, at: usize) -> f32 {
        let (at, n, scale) = (at as f32, self.input as f32, self.scale);
        match coordinates {
            Coordinates::HalfPixel => (at + 0.5) / scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = self.output as f32 / (scale * n);
                n / 2.0 * (1.0 - adjustment) + (at + 0.5) / scale - 0.5
            }
            Coordinates::PytorchHalfPixel if self.output <= 1 => 0.0,
            Coordinates::PytorchHalfPixel => (at + 0.5) / scale - 0.5,
            Coordinates::AlignCorners if self.output <= 1 => 0.0,
            Coordinates::AlignCorners => at * (n - 1.0) / (self.length - 1.0),
            Coordinates::Asymmetric => at / scale,
            Coordinates::TfHalfPixelForNn => (at + 0.5) / scale,
            Coordinates::TfCropAndResize => {
                let [start, end] = self.roi;
                if self.output > 1 {
                    start * (n - 1.0) + at * (end - start) * (n - 1.0) / (self.length - 1.0)
                } else {
                    0.5 * (start + end) * (n - 1.0)
                }
            }
        }
    }
}

/// The taps of one axis: for each element of the output as many indices and weights.
pub(super) struct Taps {
    /// How many.
    pub each: usize,
    /// The indices.
    pub indices: Vec<i64>,
    /// The weights.
    pub weights: Vec<f32>,
    /// The elements of the output that lie in the input: all, except in mode tf_crop_and_resize. Only they have taps.
    pub inside: Range<usize>,
}

impl Resize {
    /// The element nearest to `position`; it may lie outside the axis.
    fn nearest(&self, position: f32, scale: f32) -> i64 {
        let below = position.floor();
        let above = match self.nearest {
            NearestMode::RoundPreferFloor => position - below > 0.5,
            NearestMode::RoundPreferCeil => position - below >= 0.5,
            NearestMode::Floor => false,
            NearestMode::Ceil => position > below,
            NearestMode::Simple => scale < 1.0 && position > below,
        };
        below as i64 + i64::from(above)
    }

    /// Whether an element at `position` takes the extrapolation value.
    fn is_outside(&self, axis: &AxisPlan, position: f32) -> bool {
        self.coordinates == Coordinates::TfCropAndResize
            && !(0.0..=axis.input as f32 - 1.0).contains(&position)
    }

    /// For each element of the output the index of the nearest one in the input, −1 for the extrapolation value.
    pub(super) fn nearest_table(&self, axis: &AxisPlan) -> Result<Vec<i64>, Reason> {
        if axis.is_identity() {
            return Ok((0..axis.input as i64).collect());
        }
        expect_table(Some(axis.output))?;
        let last = axis.input as i64 - 1;
        let index = |at| {
            let position = axis.position(self.coordinates, at);
            let nearest = self.nearest(position, axis.scale).clamp(0, last);
            if self.is_outside(axis, position) { -1 } else { nearest }
        };
        Ok((0..axis.output).map(index).collect())
    }

    /// The weight of an element at `distance` from the position.
    fn weight(&self, distance: f64) -> f64 {
        let (x, a) = (distance.abs(), f64::from(self.cubic_coeff_a));
        match self.mode {
            ResizeMode::Cubic if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            ResizeMode::Cubic if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            ResizeMode::Cubic => 0.0,
            _ => (1.0 - x).max(0.0),
        }
    }

    /// How many taps each element of the output has, their indices and their weights.
    #[cfg(all(feature = "compiler", feature = "cuda"))]
    pub(crate) fn tables(&self, axis: &AxisPlan) -> Result<(usize, Vec<i64>, Vec<f32>), Reason> {
        let taps = self.taps(axis)?;
        if taps.inside != (0..axis.output) || taps.indices.iter().any(|&index| index < 0) {
            return Err(Reason::new("samples outside the input"));
        }
        Ok((taps.each, taps.indices, taps.weights))
    }

    /// The taps of an axis in any mode.
    pub(super) fn taps(&self, axis: &AxisPlan) -> Result<Taps, Reason> {
        if axis.is_identity() || self.mode == ResizeMode::Nearest {
            let indices = self.nearest_table(axis)?;
            return Ok(Taps {
                each: 1,
                weights: vec![1.0; indices.len()],
                inside: 0..indices.len(),
                indices,
            });
        }
        let radius = if self.mode == ResizeMode::Cubic { 2.0 } else { 1.0 };
        let stretch = if self.antialias { f64::from(axis.scale.min(1.0)) } else { 1.0 };
        let reach = radius / stretch;
        let most = (2.0 * reach).ceil().min(axis.input as f64) as usize;
        expect_table(axis.output.checked_mul(most))?;

        let last = axis.input as i64 - 1;
        let mut rows: Vec<Vec<(i64, f64)>> = Vec::with_capacity(axis.output);
        let mut inside = 0..0;
        for at in 0..axis.output {
            let position = axis.position(self.coordinates, at);
            // Positions are linear, so that those inside follow each other.
            if self.is_outside(axis, position) {
                continue;
            }
            if rows.is_empty() {
                inside.start = at;
            }
            inside.end = at + 1;
            let position = f64::from(position);
            let mut row: Vec<(i64, f64)> = Vec::with_capacity(most);
            let mut sum = 0.0;
            for index in (position - reach).floor() as i64 + 1..(position + reach).ceil() as i64 {
                let weight = self.weight((index as f64 - position) * stretch);
                let clamped = index.clamp(0, last);
                if self.exclude_outside && clamped != index {
                    continue;
                }
                sum += weight;
                match row.last_mut() {
                    Some((previous, total)) if *previous == clamped => *total += weight,
                    _ => row.push((clamped, weight)),
                }
            }
            if (self.antialias || self.exclude_outside) && sum != 0.0 {
                row.iter_mut().for_each(|(_, weight)| *weight /= sum);
            }
            rows.push(row);
        }
        let each = rows.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let mut taps = Taps { each, indices: Vec::new(), weights: Vec::new(), inside };
        for row in rows {
            let spare = (row.last().map_or(0, |(index, _)| *index), 0.0);
            for (index, weight) in row.into_iter().chain(std::iter::repeat(spare)).take(each) {
                taps.indices.push(index);
                taps.weights.push(weight as f32);
            }
        }
        Ok(taps)
    }
}
