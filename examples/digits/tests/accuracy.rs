//! The detector on the validation pages: mean average precision against the true boxes, and the same detections as
//! ONNX Runtime's outputs give, which `train.py` recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

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

/// Validation pages with what the detector finds on each, by the page's name. Detections that score higher do not
/// depend on those that score lower, so that one run at a low threshold serves every test.
struct Set {
    name: &'static str,
    found: BTreeMap<String, Vec<Detection>>,
}

impl Set {
    fn detect(name: &'static str) -> Set {
        let detector = Digits::new().unwrap();
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "png") {
                let page = Page::new(&vision::load(&path).unwrap()).unwrap();
                let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
                found.insert(stem, detector.detect(&page, 0.01).unwrap());
            }
        }
        assert_eq!(found.len(), 64, "pages in {name}");
        Set { name, found }
    }

    fn pages() -> &'static Set {
        static SET: LazyLock<Set> = LazyLock::new(|| Set::detect("pages"));
        &SET
    }

    fn pages_of_another_seed() -> &'static Set {
        static SET: LazyLock<Set> = LazyLock::new(|| Set::detect("pages_seed2"));
        &SET
    }
}

fn check_precision(set: &Set) {
    let boxes = table(&folder(set.name).join("boxes.csv"));
    let truth: Vec<Vec<GroundTruth>> = set
        .found
        .keys()
        .map(|page| {
            let rows = boxes.iter().filter(|row| row.page == *page);
            rows.map(|row| GroundTruth { class: row.class, bbox: bbox(&row.numbers) }).collect()
        })
        .collect();
    assert!(truth.iter().all(|page| page.len() >= 8), "every page has at least 8 digits");
    let found: Vec<&Vec<Detection>> = set.found.values().collect();
    let precision = mean_average_precision(&found, &truth, 0.5).unwrap();
    println!("{}: mAP@0.5 {:.4}", set.name, precision.mean);
    assert!(precision.mean >= 0.95, "{}: mAP@0.5 {:.4}", set.name, precision.mean);
}

#[test]
fn precision_on_validation_pages() {
    check_precision(Set::pages());
}

#[test]
fn precision_on_pages_of_another_seed() {
    check_precision(Set::pages_of_another_seed());
}

/// Each recorded detection has one of ours beside it, and none is left over. Scores within `1e-3` of the threshold
/// may fall on either side of it.
fn check_against_onnx_runtime(set: &Set) {
    const THRESHOLD: f32 = 0.25;
    let mut found = set.found.clone();
    for row in table(&folder(set.name).join("onnxruntime.csv")) {
        let (score, expected) = (row.numbers[0], bbox(&row.numbers[1..]).clamp(256, 256));
        let ours = found.get_mut(&row.page).unwrap();
        let same = |d: &Detection| {
            d.class == row.class && (d.score - score).abs() <= 1e-3 && d.bbox.iou(&expected) >= 0.99
        };
        let Some(best) = ours.iter().position(same) else {
            panic!("{} page {}: nothing like digit {} {score} {expected:?}", set.name, row.page, row.class)
        };
        ours.remove(best);
    }
    for (page, left) in found {
        let extra: Vec<_> = left.iter().filter(|d| d.score > THRESHOLD + 1e-3).collect();
        assert!(extra.is_empty(), "{} page {page}: ONNX Runtime has nothing like {extra:?}", set.name);
    }
}

#[test]
fn same_detections_as_onnx_runtime() {
    check_against_onnx_runtime(Set::pages());
    check_against_onnx_runtime(Set::pages_of_another_seed());
}
