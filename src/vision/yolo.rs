//! Decoding the output of YOLO detectors into boxes.
//!
//! Every function takes one head of the network as the generated struct returns it, for one picture
//! (`std::array::from_ref(&output[i])` picks one of a batch), and returns its detections with a score of at least
//! `threshold` (0 to 1), in pixels of the network's input. Boxes overlap until [`nms`](super::nms) has gone over
//! those of all heads together; [`Letterbox::to_picture`](super::Letterbox::to_picture) maps them to the picture.
//!
//! Values that are not numbers do no harm: a NaN score never passes, and a box that is not finite is dropped.

use super::{BBox, Detection};

/// Decodes a head without anchors, with objectness, that gives raw values (YOLOX).
///
/// In the cell at column `gx` and row `gy`, with the channels `tx`, `ty`, `tw`, `th`, `objectness` and one for
/// each class:
///
/// ```text
/// centre = ((tx + gx) · stride, (ty + gy) · stride)
/// size   = (exp(tw) · stride, exp(th) · stride)
/// score  = sigmoid(objectness) · sigmoid(class)
/// ```
///
/// The class is the best of the cell; of equal ones the first.
///
/// # Shapes
///
/// `[1, 4 + 1 + K, H, W]` for `K` classes; fewer than 6 channels do not compile.
///
/// # Units
///
/// `stride`: pixels of the input for each cell.
///
/// # Source
///
/// Ge et al., "YOLOX: Exceeding YOLO Series in 2021", and `YOLOXHead` of its code.
pub fn decode_anchor_free<const C: usize, const H: usize, const W: usize>(
    head: &[[[[f32; W]; H]; C]; 1],
    stride: f32,
    threshold: f32,
) -> Vec<Detection> {
    const { assert!(C > 5, "the head must have 4 channels for the box, 1 for objectness and 1 for each class") };
    let mut found = Vec::new();
    decode_grid(
        head[0].as_flattened().as_flattened(),
        W,
        H,
        threshold,
        &mut found,
        |gx, gy, [tx, ty, tw, th]| {
            BBox::from_center((tx + gx) * stride, (ty + gy) * stride, tw.exp() * stride, th.exp() * stride)
        },
    );
    found
}

/// How an anchor-based head encodes its boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnchorForm {
    /// YOLOv2, v3 and v4: `centre = (sigmoid(t) + grid) · stride`, `size = exp(t) · anchor`.
    V3,
    /// YOLOv5 and v7: `centre = (2 · sigmoid(t) - 0.5 + grid) · stride`, `size = (2 · sigmoid(t))² · anchor`.
    V5,
}

/// Decodes a head with anchors that gives raw values (YOLOv3, v4, v5, v7).
///
/// The channels are those of the first anchor (`tx`, `ty`, `tw`, `th`, `objectness`, one for each class), then
/// those of the next. `form` says how the box is encoded; the score is `sigmoid(objectness) · sigmoid(class)` for
/// the best class; of equal ones the first.
///
/// # Shapes
///
/// `[1, A · (4 + 1 + K), H, W]` for `A` anchors and `K` classes; a number of channels that `A` does not divide,
/// and no class at all, do not compile.
///
/// # Units
///
/// `anchors`: width and height in pixels of the input; `stride`: pixels of the input for each cell.
///
/// # Source
///
/// Redmon and Farhadi, "YOLOv3: An Incremental Improvement"; `Detect` in the code of YOLOv5.
pub fn decode_anchors<const A: usize, const C: usize, const H: usize, const W: usize>(
    head: &[[[[f32; W]; H]; C]; 1],
    anchors: &[[f32; 2]; A],
    stride: f32,
    form: AnchorForm,
    threshold: f32,
) -> Vec<Detection> {
    const {
        assert!(
            A > 0 && C.is_multiple_of(A) && C / A > 5,
            "the head must have 4 + 1 + classes channels for each anchor; give as many anchors as it has"
        );
    };
    let mut found = Vec::new();
    for (planes, &[width, height]) in head[0].chunks_exact(C / A).zip(anchors) {
        let planes = planes.as_flattened().as_flattened();
        decode_grid(planes, W, H, threshold, &mut found, |gx, gy, [tx, ty, tw, th]| match form {
            AnchorForm::V3 => BBox::from_center(
                (sigmoid(tx) + gx) * stride,
                (sigmoid(ty) + gy) * stride,
                tw.exp() * width,
                th.exp() * height,
            ),
            AnchorForm::V5 => BBox::from_center(
                (2.0 * sigmoid(tx) - 0.5 + gx) * stride,
                (2.0 * sigmoid(ty) - 0.5 + gy) * stride,
                (2.0 * sigmoid(tw)).powi(2) * width,
                (2.0 * sigmoid(th)).powi(2) * height,
            ),
        });
    }
    found
}

/// Takes the boxes of an output that the network has decoded itself, without objectness (YOLOv8, v9, v11).
///
/// The channels are the centre `cx`, `cy`, the size `w`, `h` in pixels of the input, and a score between 0 and 1
/// for each class. The class is the best; of equal ones the first.
///
/// # Shapes
///
/// `[1, 4 + K, A]` for `K` classes and `A` boxes; fewer than 5 channels do not compile.
///
/// # Source
///
/// The ONNX export of Ultralytics YOLOv8.
pub fn decode_boxes<const C: usize, const A: usize>(
    head: &[[[f32; A]; C]; 1],
    threshold: f32,
) -> Vec<Detection> {
    const { assert!(C > 4, "the output must have 4 channels for the box and 1 for each class") };
    let [cx, cy, w, h] = [0, 1, 2, 3].map(|channel| &head[0][channel]);
    let scores = head[0][4..].as_flattened();
    let mut found = Vec::new();
    for i in 0..A {
        if let Some((class, score)) = best_class(scores, A, i)
            && score >= threshold
        {
            push_finite(
                &mut found,
                Detection { class, score, bbox: BBox::from_center(cx[i], cy[i], w[i], h[i]) },
            );
        }
    }
    found
}

/// Decodes planes of `width` x `height` cells: four of the box, one of objectness, one of each class.
fn decode_grid(
    planes: &[f32],
    width: usize,
    height: usize,
    threshold: f32,
    found: &mut Vec<Detection>,
    to_box: impl Fn(f32, f32, [f32; 4]) -> BBox,
) {
    let cells = width * height;
    let (boxes, scores) = planes.split_at(4 * cells);
    let (objectness, classes) = scores.split_at(cells);
    for (cell, &raw) in objectness.iter().enumerate() {
        let objectness = sigmoid(raw);
        // No class can raise the score above this, so that most cells end here.
        let possible = objectness >= threshold;
        if !possible {
            continue;
        }
        let Some((class, best)) = best_class(classes, cells, cell) else { continue };
        let score = objectness * sigmoid(best);
        if score >= threshold {
            let raw = [0, 1, 2, 3].map(|channel| boxes[channel * cells + cell]);
            let bbox = to_box((cell % width) as f32, (cell / width) as f32, raw);
            push_finite(found, Detection { class, score, bbox });
        }
    }
}

/// The class with the largest value at `index` among planes of `stride` values, unless all are NaN.
fn best_class(planes: &[f32], stride: usize, index: usize) -> Option<(usize, f32)> {
    let mut best: Option<(usize, f32)> = None;
    for (class, plane) in planes.chunks_exact(stride).enumerate() {
        let value = plane[index];
        if !value.is_nan() && best.is_none_or(|(_, largest)| value > largest) {
            best = Some((class, value));
        }
    }
    best
}

fn push_finite(found: &mut Vec<Detection>, detection: Detection) {
    if detection.bbox.is_finite() {
        found.push(detection);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inverse of the sigmoid.
    fn logit(p: f32) -> f32 {
        (p / (1.0 - p)).ln()
    }

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() <= 1e-4 * b.abs().max(1.0)
    }

    fn assert_box(found: BBox, expected: BBox) {
        let same = close(found.x0, expected.x0)
            && close(found.y0, expected.y0)
            && close(found.x1, expected.x1)
            && close(found.y1, expected.y1);
        assert!(same, "{found:?} is not {expected:?}");
    }

    /// A head in which no cell holds anything.
    fn empty<const C: usize, const H: usize, const W: usize>() -> [[[[f32; W]; H]; C]; 1] {
        [[[[-30.0; W]; H]; C]]
    }

    #[test]
    fn anchor_free() {
        let mut head = empty::<8, 3, 4>();
        let cell = [0.25, 0.5, 2f32.ln(), 3f32.ln(), logit(0.8), logit(0.1), logit(0.5), logit(0.4)];
        for (channel, value) in cell.into_iter().enumerate() {
            head[0][channel][1][2] = value;
        }
        let found = decode_anchor_free(&head, 8.0, 0.3);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, 1);
        assert!(close(found[0].score, 0.4));
        // Centre (2.25, 1.5) and size (2, 3) in cells of 8 pixels.
        assert_box(found[0].bbox, BBox::new(10.0, 0.0, 26.0, 24.0));
        assert!(decode_anchor_free(&head, 8.0, 0.41).is_empty());
    }

    #[test]
    fn anchors_v3() {
        let mut head = empty::<14, 2, 2>();
        // The second anchor, column 1, row 0.
        let cell = [0.0, logit(0.25), 2f32.ln(), 0.0, logit(0.9), logit(0.2), logit(0.5)];
        for (channel, value) in cell.into_iter().enumerate() {
            head[0][7 + channel][0][1] = value;
        }
        let found = decode_anchors(&head, &[[10.0, 13.0], [16.0, 30.0]], 32.0, AnchorForm::V3, 0.4);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, 1);
        assert!(close(found[0].score, 0.45));
        assert_box(found[0].bbox, BBox::from_center(48.0, 8.0, 32.0, 30.0));
    }

    #[test]
    fn anchors_v5() {
        let mut head = empty::<6, 2, 2>();
        let cell = [0.0, logit(0.75), logit(0.75), 0.0, logit(0.9), logit(0.9)];
        for (channel, value) in cell.into_iter().enumerate() {
            head[0][channel][1][0] = value;
        }
        let found = decode_anchors(&head, &[[10.0, 20.0]], 16.0, AnchorForm::V5, 0.5);
        assert_eq!(found.len(), 1);
        assert!(close(found[0].score, 0.81));
        // (2 · 0.5 - 0.5, 2 · 0.75 - 0.5 + 1) cells; the anchor times 1.5² and 1².
        assert_box(found[0].bbox, BBox::from_center(8.0, 32.0, 22.5, 20.0));
    }

    #[test]
    fn decoded_boxes() {
        let head = [[
            [50.0, 10.0, 1.0],
            [60.0, 20.0, 1.0],
            [20.0, 4.0, 1.0],
            [10.0, 8.0, 1.0],
            [0.1, 0.7, 0.2],
            [0.9, 0.7, 0.3],
        ]];
        let found = decode_boxes(&head, 0.5);
        let expected = [
            Detection { class: 1, score: 0.9, bbox: BBox::new(40.0, 55.0, 60.0, 65.0) },
            Detection { class: 0, score: 0.7, bbox: BBox::new(8.0, 16.0, 12.0, 24.0) },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_cell_of_a_certain_head() {
        let head = [[[[40.0; 5]; 3]; 12]];
        // exp(40) is finite; both anchors, 15 cells each.
        assert_eq!(decode_anchors(&head, &[[1.0, 1.0]; 2], 8.0, AnchorForm::V3, 0.5).len(), 30);
        assert_eq!(decode_anchor_free(&head, 8.0, 0.5).len(), 15);
    }

    #[test]
    fn nan_and_infinity_do_no_harm() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            for channel in 0..7 {
                let mut head = [[[[0.0; 2]; 2]; 7]];
                head[0][channel][1][1] = odd;
                for found in [
                    decode_anchor_free(&head, 8.0, 0.0),
                    decode_anchors(&head, &[[9.0, 9.0]], 8.0, AnchorForm::V3, 0.0),
                    decode_anchors(&head, &[[9.0, 9.0]], 8.0, AnchorForm::V5, 0.0),
                ] {
                    assert!(found.len() == 3 || found.len() == 4);
                    assert!(found.iter().all(|d| d.bbox.is_finite() && (0.0..=1.0).contains(&d.score)));
                }
            }
        }
        let mut head = [[[[0.0; 2]; 2]; 7]];
        head[0][4][0][0] = f32::NAN;
        assert_eq!(decode_anchor_free(&head, 8.0, 0.0).len(), 3, "NaN objectness");
        head[0][5][0][1] = f32::NAN;
        assert_eq!(decode_anchor_free(&head, 8.0, 0.0)[0].class, 1, "the class that is a number wins");
        head[0][6][0][1] = f32::NAN;
        assert_eq!(decode_anchor_free(&head, 8.0, 0.0).len(), 2, "NaN in every class");
        head[0][2][1][0] = 1e3;
        assert_eq!(decode_anchor_free(&head, 8.0, 0.0).len(), 1, "exp overflows");
        assert!(decode_anchor_free(&head, 8.0, f32::NAN).is_empty());

        let boxes = [[[f32::NAN, 1.0, 1.0], [1.0; 3], [1.0; 3], [1.0; 3], [0.9, f32::NAN, 0.9]]];
        assert_eq!(decode_boxes(&boxes, 0.0).len(), 1);
    }
}
