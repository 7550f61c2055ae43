//! Regions of pictures, pooled.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::BLOCK;

/// `roi_align_f32`, `roi_align_f64`: regions pooled from samples between elements.
///
/// `out[r, c, y, x]` is the average of the samples of bin `y`, `x` of region `r`, [`RegionAxis`] along both axes, each blended
/// from the four elements around it; or the greatest of their weighted elements. Samples outside of the picture are zero.
/// A region of an image that is not there is [`crate::RunError::IndexOutOfRange`], one of more than
/// [`RoiAlign::MOST_SAMPLES`] along an axis [`crate::RunError::RegionTooLarge`]. Coordinates are rounded to the type of an
/// element after each operation, sums are f64.
///
/// Operands: input `[n, channels, in_h, in_w]`; regions `[regions, 4]`: left, top, right, bottom; the image of each, i32 or
/// i64 by `index_bytes`; output `[regions, channels, out_h, out_w]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct RoiAlign {
    /// Images.
    pub n: u64,
    /// Channels.
    pub channels: u64,
    /// Rows of an image.
    pub in_h: u64,
    /// Columns of an image.
    pub in_w: u64,
    /// Regions.
    pub regions: u64,
    /// Rows of bins.
    pub out_h: u64,
    /// Columns of bins.
    pub out_w: u64,
    /// Samples along each axis of a bin; 0 for one for each element.
    pub sampling_ratio: u64,
    /// 1 where the greatest weighted element counts.
    pub max: u64,
    /// 1 where regions are shifted by half an element.
    pub half_pixel: u64,
    /// 4 or 8.
    pub index_bytes: u64,
    /// What coordinates are multiplied by.
    pub spatial_scale: f32,
    /// Zero.
    pub reserved: u32,
}

/// `max_roi_pool_f32`, `max_roi_pool_f64`: the greatest elements of the parts of regions, 0 of parts without any.
///
/// Operands: input `[n, channels, in_h, in_w]`; regions `[regions, 5]`: image, left, top, right, bottom; output `[regions,
/// channels, out_h, out_w]`. A region of an image that is not there is [`crate::RunError::IndexOutOfRange`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct MaxRoiPool {
    /// Images.
    pub n: u64,
    /// Channels.
    pub channels: u64,
    /// Rows of an image.
    pub in_h: u64,
    /// Columns of an image.
    pub in_w: u64,
    /// Regions.
    pub regions: u64,
    /// Rows of parts.
    pub out_h: u64,
    /// Columns of parts.
    pub out_w: u64,
    /// What coordinates are multiplied by.
    pub spatial_scale: f32,
    /// Zero.
    pub reserved: u32,
}

/// How a region lies along one axis of its image.
#[derive(Clone, Copy, Debug)]
pub struct RegionAxis {
    start: f64,
    bin: f64,
    /// Samples of a bin, some of which may be outside.
    pub each: u64,
    extent: u64,
    is_wide: bool,
}

/// Two elements beside each other, which may be the same, and the weight of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The first.
    pub low: usize,
    /// The second.
    pub high: usize,
    /// The weight of the second.
    pub weight: f64,
}

#[inline(always)]
fn rounded(value: f64, is_wide: bool) -> f64 {
    if is_wide { value } else { f64::from(value as f32) }
}

impl RoiAlign {
    /// The most samples along an axis of a region.
    pub const MOST_SAMPLES: u64 = 1 << 20;

    /// The region from `start` to `end` along an axis of `extent` elements, cut into `bins`; `None` where it takes too many
    /// samples. `is_wide`: of f64.
    #[inline(always)]
    pub fn axis(&self, [start, end]: [f64; 2], extent: u64, bins: u64, is_wide: bool) -> Option<RegionAxis> {
        let round = |value: f64| rounded(value, is_wide);
        let scale = f64::from(self.spatial_scale);
        let offset = if self.half_pixel == 1 { 0.5 } else { 0.0 };
        let [start, end] = [start, end].map(|edge| round(round(edge * scale) - offset));
        let mut length = round(end - start);
        if self.half_pixel != 1 {
            // Regions without extent count as one element.
            length = length.max(1.0);
        }
        let bin = round(length / bins as f64);
        let each = match self.sampling_ratio {
            0 => bin.ceil().max(0.0) as u64,
            ratio => ratio,
        };
        let fits = each.checked_mul(bins).is_some_and(|samples| samples <= RoiAlign::MOST_SAMPLES);
        (bin.is_finite() && fits).then_some(RegionAxis { start, bin, each, extent, is_wide })
    }
}

impl RegionAxis {
    /// Sample `index` of bin `number`; `None` outside of the image.
    #[inline(always)]
    pub fn sample(&self, number: u64, index: u64) -> Option<Sample> {
        let round = |value: f64| rounded(value, self.is_wide);
        let within = round(round((index as f64 + 0.5) * self.bin) / self.each as f64);
        let x = round(round(self.start + round(number as f64 * self.bin)) + within);
        if x < -1.0 || x > self.extent as f64 || self.extent == 0 {
            return None;
        }
        let (x, last) = (x.max(0.0), self.extent as usize - 1);
        let low = x as usize;
        Some(if low >= last {
            Sample { low: last, high: last, weight: 0.0 }
        } else {
            Sample { low, high: low + 1, weight: x - low as f64 }
        })
    }
}

impl MaxRoiPool {
    /// The elements of part `number` of `parts` of the region from `start` to `end`, along an axis of `extent`.
    #[inline(always)]
    pub fn part(&self, ends: [f64; 2], extent: u64, number: u64, parts: u64, is_wide: bool) -> Range<usize> {
        let round = |value: f64| rounded(value, is_wide);
        let [start, end] = ends.map(|edge| round(edge * f64::from(self.spatial_scale)).round());
        let part = round((end - start + 1.0).max(1.0) / parts as f64);
        let bound = |position: f64| (position + start).clamp(0.0, extent as f64) as usize;
        bound(round(number as f64 * part).floor())..bound(round((number + 1) as f64 * part).ceil())
    }
}

/// `non_max_suppression_f32`: of the boxes of each class those with the highest scores that do not overlap others of them.
///
/// Boxes whose score is above the threshold are looked at from the highest score on, of equal ones the first, NaN the
/// highest; each is selected that overlaps none before it by more than its threshold, up to `most`. Operands: boxes
/// `[batches, boxes, 4]`; scores `[batches, classes, boxes]`; and as outputs, all i64: how many are selected `[batches,
/// classes]`; they, the first ones of `[batches, classes, most]`; memory to work in, of as many elements as scores, and for each
/// class the corners of those selected, in blocks of [`BLOCK`]: `[batches, classes, most / 16 rounded up, 32]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct NonMaxSuppression {
    /// Images.
    pub batches: u64,
    /// Classes.
    pub classes: u64,
    /// Boxes of an image.
    pub boxes: u64,
    /// The most that are selected of a class.
    pub most: u64,
    /// 1 where a box is its centre and its extents, not two corners.
    pub center_point_box: u64,
    /// 1 where there is a least score.
    pub has_score_threshold: u64,
    /// What scores must be above.
    pub score_threshold: f32,
    /// The share of what two boxes cover together that they may have in common.
    pub iou_threshold: f32,
}

/// A box by its least and greatest coordinates.
#[derive(Clone, Copy, Debug)]
pub struct Corners {
    pub(crate) x: [f32; 2],
    pub(crate) y: [f32; 2],
}

impl Corners {
    pub(crate) fn area(&self) -> f32 {
        (self.x[1] - self.x[0]) * (self.y[1] - self.y[0])
    }

    /// Whether the boxes share more than `threshold` of what they cover together.
    pub fn overlaps(&self, other: &Corners, threshold: f32) -> bool {
        let common = |a: [f32; 2], b: [f32; 2]| a[1].min(b[1]) - a[0].max(b[0]);
        let (width, height) = (common(self.x, other.x), common(self.y, other.y));
        if width <= 0.0 || height <= 0.0 {
            return false;
        }
        let intersection = width * height;
        let union = self.area() + other.area() - intersection;
        self.area() > 0.0 && other.area() > 0.0 && union > 0.0 && intersection / union > threshold
    }
}

impl NonMaxSuppression {
    /// The elements of the memory to work in; `None` on overflow.
    pub fn work(&self) -> Option<u64> {
        let corners = self.most.div_ceil(BLOCK as u64).checked_mul(4 * BLOCK as u64 / 2)?;
        self.batches.checked_mul(self.classes)?.checked_mul(self.boxes.checked_add(corners)?)
    }

    /// A box as it is given.
    pub fn corners(&self, given: [f32; 4]) -> Corners {
        let ordered = |a: f32, b: f32| [a.min(b), a.max(b)];
        if self.center_point_box == 1 {
            let around = |centre: f32, extent: f32| [centre - extent / 2.0, centre + extent / 2.0];
            Corners { x: around(given[0], given[2]), y: around(given[1], given[3]) }
        } else {
            Corners { y: ordered(given[0], given[2]), x: ordered(given[1], given[3]) }
        }
    }

    /// Whether a box of this score is looked at.
    pub fn passes(&self, score: f32) -> bool {
        self.has_score_threshold == 0 || score > self.score_threshold
    }
}
