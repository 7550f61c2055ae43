//! The detector on the validation pages: mean average precision against the true boxes, and the same detections as
//! ONNX Runtime's outputs give, which `train.py` recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use digits::{Digits, Page};
use infer_embed::vision::metrics::{GroundTruth, mean_average_precision};
use infer_embed::vision::{self, BBox, Detection};

/// One line of a table: the page, the digit, then numbers.
struct Row {
    page: String,
    class: usize,
    numbers: Vec<f32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn table(path: &Path) -> Vec<Row> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows = text.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        Row {
            page: fields[0].to_owned(),
            class: fields[1].parse().unwrap(),
            numbers: fields[2..].iter().map(|field| field.parse().unwrap()).collect(),
        }
    });
    rows.collect()
}

fn bbox(numbers: &[f32]) -> BBox {
    BBox::new(numbers[0], numbers[1], numbers[2], numbers[3])
}

/// The detections on each page of `set`, by the page's name.
fn detect_all(set: &str, threshold: f32) -> BTreeMap<String, Vec<Detection>> {
    let detector = Digits::new().unwrap();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder(set)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "png") {
            let page = Page::new(&vision::load(&path).unwrap()).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            found.insert(name, detector.detect(&page, threshold).unwrap());
        }
    }
    assert_eq!(found.len(), 64, "pages in {set}");
    found
}

fn check_precision(set: &str) {
    let found = detect_all(set, 0.01);
    let boxes = table(&folder(set).join("boxes.csv"));
    let truth: Vec<Vec<GroundTruth>> = found
        .keys()
        .map(|page| {
            let rows = boxes.iter().filter(|row| row.page == *page);
            rows.map(|row| GroundTruth { class: row.class, bbox: bbox(&row.numbers) }).collect()
        })
        .collect();
    assert!(truth.iter().all(|page| page.len() >= 8), "every page has at least 8 digits");
    let found: Vec<Vec<Detection>> = found.into_values().collect();
    let precision = mean_average_precision(&found, &truth, 0.5).unwrap();
    println!("{set}: mAP@0.5 {:.4}", precision.mean);
    assert!(precision.mean >= 0.95, "{set}: mAP@0.5 {:.4}", precision.mean);
}

#[test]
fn precision_on_validation_pages() {
    check_precision("pages");
}

#[test]
fn precision_on_pages_of_another_seed() {
    check_precision("pages_seed2");
}

/// Each recorded detection has one of ours beside it, and none is left over. Scores within `1e-3` of the threshold
/// may fall on either side of it.
fn check_against_onnx_runtime(set: &str) {
    const THRESHOLD: f32 = 0.25;
    let mut found = detect_all(set, THRESHOLD - 1e-3);
    for row in table(&folder(set).join("onnxruntime.csv")) {
        let (score, expected) = (row.numbers[0], bbox(&row.numbers[1..]).clamp(256, 256));
        let ours = found.get_mut(&row.page).unwrap();
        let best = ours.iter().position(|d| {
            d.class == row.class && (d.score - score).abs() <= 1e-3 && d.bbox.iou(&expected) >= 0.99
        });
        let best = best.unwrap_or_else(|| {
            panic!(
                "{set} page {}: nothing like digit {} {score} {expected:?} in {ours:?}",
                row.page, row.class
            )
        });
        ours.remove(best);
    }
    for (page, left) in found {
        let extra: Vec<_> = left.iter().filter(|d| d.score > THRESHOLD + 1e-3).collect();
        assert!(extra.is_empty(), "{set} page {page}: ONNX Runtime has nothing like {extra:?}");
    }
}

#[test]
fn same_detections_as_onnx_runtime() {
    check_against_onnx_runtime("pages");
    check_against_onnx_runtime("pages_seed2");
}
