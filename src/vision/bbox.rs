//! Boxes, and the objects found in them.

/// An axis-aligned box, from its upper left corner (`x0`, `y0`) to its lower right corner (`x1`, `y1`).
///
/// # Units
///
/// Pixels of the picture that the box lies in, as continuous coordinates: the first pixel spans 0 to 1, so a
/// box over a whole picture is (0, 0, width, height).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BBox {
    /// Left edge.
    pub x0: f32,
    /// Upper edge.
    pub y0: f32,
    /// Right edge.
    pub x1: f32,
    /// Lower edge.
    pub y1: f32,
}

impl BBox {
    /// The box between two corners.
    pub const fn new(x0: f32, y0: f32, x1: f32, y1: f32) -> Self {
        Self { x0, y0, x1, y1 }
    }

    /// The box of a centre, a width and a height.
    pub const fn from_center(cx: f32, cy: f32, width: f32, height: f32) -> Self {
        let (dx, dy) = (width * 0.5, height * 0.5);
        Self { x0: cx - dx, y0: cy - dy, x1: cx + dx, y1: cy + dy }
    }

    /// The width; negative where the corners are swapped.
    pub const fn width(&self) -> f32 {
        self.x1 - self.x0
    }

    /// The height; negative where the corners are swapped.
    pub const fn height(&self) -> f32 {
        self.y1 - self.y0
    }

    /// Whether no coordinate is NaN or infinite.
    pub const fn is_finite(&self) -> bool {
        self.x0.is_finite() && self.y0.is_finite() && self.x1.is_finite() && self.y1.is_finite()
    }

    /// The part of the box that lies in a picture of this size. A box wholly outside becomes one without area
    /// on the border.
    pub const fn clamp(&self, width: u32, height: u32) -> Self {
        let (w, h) = (width as f32, height as f32);
        Self {
            x0: self.x0.clamp(0.0, w),
            y0: self.y0.clamp(0.0, h),
            x1: self.x1.clamp(0.0, w),
            y1: self.y1.clamp(0.0, h),
        }
    }

    /// Intersection over union: the area that both boxes cover, divided by the area that at least one covers.
    ///
    /// From 0 (no overlap) to 1 (the same box). A box without area, with swapped corners or with a coordinate
    /// that is not finite overlaps nothing.
    pub fn iou(&self, other: &Self) -> f32 {
        if !self.is_finite() || !other.is_finite() {
            return 0.0;
        }
        // f64, since the product of two finite f32 may exceed f32.
        let span = |low: f32, high: f32| (f64::from(high) - f64::from(low)).max(0.0);
        let area = |b: &Self| span(b.x0, b.x1) * span(b.y0, b.y1);
        let shared = span(self.x0.max(other.x0), self.x1.min(other.x1))
            * span(self.y0.max(other.y0), self.y1.min(other.y1));
        let union = area(self) + area(other) - shared;
        if union > 0.0 { (shared / union) as f32 } else { 0.0 }
    }
}

/// One object that a detector found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Index of the class, as the model numbers them.
    pub class: usize,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Where the object lies.
    pub bbox: BBox,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_of_known_boxes() {
        let a = BBox::new(0.0, 0.0, 2.0, 2.0);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&BBox::new(1.0, 0.0, 3.0, 2.0)), 1.0 / 3.0);
        assert_eq!(a.iou(&BBox::new(0.0, 0.0, 1.0, 1.0)), 0.25);
        assert_eq!(a.iou(&BBox::new(2.0, 0.0, 4.0, 2.0)), 0.0, "boxes that touch do not overlap");
        assert_eq!(a.iou(&BBox::new(5.0, 5.0, 6.0, 6.0)), 0.0);
    }

    #[test]
    fn iou_of_degenerate_boxes_is_zero() {
        let a = BBox::new(0.0, 0.0, 2.0, 2.0);
        let swapped = BBox::new(2.0, 2.0, 0.0, 0.0);
        let point = BBox::new(1.0, 1.0, 1.0, 1.0);
        for odd in [
            swapped,
            point,
            BBox::new(f32::NAN, 0.0, 2.0, 2.0),
            BBox::new(f32::NEG_INFINITY, 0.0, f32::INFINITY, 2.0),
        ] {
            assert_eq!(a.iou(&odd), 0.0);
            assert_eq!(odd.iou(&odd), 0.0);
        }
        let huge = BBox::new(-f32::MAX, -f32::MAX, f32::MAX, f32::MAX);
        assert_eq!(huge.iou(&huge), 1.0);
    }

    #[test]
    fn center_and_clamp() {
        let b = BBox::from_center(10.0, 20.0, 8.0, 4.0);
        assert_eq!(b, BBox::new(6.0, 18.0, 14.0, 22.0));
        assert_eq!((b.width(), b.height()), (8.0, 4.0));
        assert_eq!(b.clamp(12, 20), BBox::new(6.0, 18.0, 12.0, 20.0));
        assert_eq!(BBox::new(-9.0, -9.0, -5.0, 99.0).clamp(12, 20), BBox::new(0.0, 0.0, 0.0, 20.0));
    }
}
