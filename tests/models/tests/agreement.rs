//! Every model against ONNX Runtime's outputs for the same input.

use std::path::{Path, PathBuf};

use infer_embed::vision::{self, BBox, Detection};
use infer_embed::{DataType, Element, Model, Output, PortInfo};
use model_tests::*;
use ndarray::ArrayD;
use ndarray_npy::ReadableElement;

fn elements<T: ReadableElement + Copy>(model: &str, file: &str) -> Vec<T> {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(format!("{model}.case0")).join(file);
    let array: ArrayD<T> = ndarray_npy::read_npy(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    array.as_standard_layout().iter().copied().collect()
}

fn tensor(model: &str, file: &str) -> Vec<f32> {
    elements(model, file)
}

/// A recorded tensor of one of the types that the models take.
enum Recorded {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Recorded {
    fn input(model: &str, index: usize, dtype: Option<DataType>) -> Self {
        let file = format!("input_{index}.npy");
        match dtype {
            Some(DataType::I64) => Recorded::I64(elements(model, &file)),
            _ => Recorded::F32(elements(model, &file)),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Recorded::F32(values) => bytemuck::cast_slice(values),
            Recorded::I64(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Runs a model on its recorded inputs, untyped, and gives its outputs.
fn outputs<M: Model>(model: &str) -> Vec<Vec<f32>> {
    let net = M::open(Default::default()).unwrap();
    let inputs = M::INPUTS.iter().enumerate();
    let inputs: Vec<Recorded> =
        inputs.map(|(index, port)| Recorded::input(model, index, port.dtype())).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Recorded::bytes).collect();
    let count = |port: &PortInfo| port.elements().expect("an array");
    let mut results: Vec<Vec<f32>> = M::OUTPUTS.iter().map(|port| vec![f32::NAN; count(port)]).collect();
    let mut raw: Vec<Output<'_>> =
        results.iter_mut().map(|values| Output::from(bytemuck::cast_slice_mut(values))).collect();
    net.run(&inputs, &mut raw).unwrap();
    results
}

/// max |a − b| ≤ tolerance · max |b| for every output.
fn agrees<M: Model>(model: &str, tolerance: f32) {
    for (index, ours) in outputs::<M>(model).iter().enumerate() {
        assert_close(model, index, ours, tolerance);
    }
}

/// max |a − b| ≤ tolerance · max |b| for one output.
fn assert_close(model: &str, index: usize, ours: &[f32], tolerance: f32) {
    let theirs = tensor(model, &format!("output_{index}.npy"));
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0f32, |most, v| most.max(v.abs()));
    let apart = ours.iter().zip(&theirs).fold(0f32, |most, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { most.max(difference) }
    });
    println!("{model} output {index}: largest difference {apart:.2e} of {largest:.2e}");
    assert!(apart <= tolerance * largest, "{model} output {index}: {apart} of {largest}");
}

#[test]
fn resnet50() {
    agrees::<Resnet50>("resnet50", 1e-3);
}

#[test]
fn resnet50_with_half_weights() {
    agrees::<Resnet50Half>("resnet50", 1e-2);
    assert!(Resnet50Half::WEIGHT_BYTES * 100 < Resnet50::WEIGHT_BYTES * 51, "half the binary");
}

#[test]
fn mobilenet_v2() {
    agrees::<MobilenetV2>("mobilenet_v2", 1e-3);
}

#[test]
fn yolov3_608() {
    agrees::<Yolov3>("yolov3_608", 1e-3);
}

#[test]
fn yolov3_416() {
    agrees::<Yolov3Small>("yolov3_416_dyn", 1e-3);
}

#[test]
fn minilm() {
    agrees::<Minilm>("minilm_l6", 1e-3);
}

#[test]
fn unet() {
    agrees::<Unet>("unet", 1e-3);
}

#[test]
fn lstm_ctc() {
    agrees::<LstmCtc>("lstm_ctc", 1e-3);
}

#[test]
fn small_trained_models() {
    agrees::<Mnist>("mnist_8", 1e-3);
    agrees::<Lenet5>("lenet5_quantized", 1e-3);
    agrees::<MicroKws>("micro_kws_m_fp32", 1e-3);
    agrees::<MicroKwsQuantized>("micro_kws_m_qdq", 1e-3);
    agrees::<SileroVad>("silero_vad_16k", 1e-3);
}

/// As many boxes, in the same order, with the same labels.
#[test]
fn ssdlite_finds_the_same_boxes() {
    const MODEL: &str = "ssdlite320";
    let image = tensor(MODEL, "input_0.npy");
    let out = Ssdlite::new().unwrap().infer(Element::from_slice(&image).unwrap()).unwrap();
    assert_eq!(out.boxes.shape(), [out.labels_or_scores_1.data().len(), 4]);
    assert_close(MODEL, 0, out.boxes.data(), 1e-3);
    assert_close(MODEL, 1, out.labels_or_scores_1.data(), 1e-3);
    assert_eq!(out.labels_or_scores_2.data(), elements::<i64>(MODEL, "output_2.npy"));
}

/// The faces among the boxes: scores `[4420, 2]` (background, face), corners `[4420, 4]` as fractions of 320×240.
fn faces(scores: &[f32], corners: &[f32]) -> Vec<Detection> {
    let found = scores.chunks_exact(2).zip(corners.chunks_exact(4)).filter(|(score, _)| score[1] > 0.7);
    let boxes = found.map(|(score, at)| Detection {
        class: 0,
        score: score[1],
        bbox: BBox::new(at[0] * 320.0, at[1] * 240.0, at[2] * 320.0, at[3] * 240.0),
    });
    vision::nms(boxes.collect(), 0.3)
}

/// Corners from the offsets that the simplified model gives, relative to its grid of boxes (four scales, each with boxes
/// of several sizes in every cell).
fn decode(offsets: &[f32]) -> Vec<f32> {
    let scales: [(f32, &[f32]); 4] = [
        (8.0, &[10.0, 16.0, 24.0]),
        (16.0, &[32.0, 48.0]),
        (32.0, &[64.0, 96.0]),
        (64.0, &[128.0, 192.0, 256.0]),
    ];
    let mut grid = Vec::new();
    for (stride, sizes) in scales {
        for y in 0..(240.0 / stride).ceil() as usize {
            for x in 0..(320.0 / stride).ceil() as usize {
                let center = [(x as f32 + 0.5) * stride / 320.0, (y as f32 + 0.5) * stride / 240.0];
                grid.extend(sizes.iter().map(|size| (center, [size / 320.0, size / 240.0])));
            }
        }
    }
    assert_eq!(grid.len() * 4, offsets.len());
    let corners = grid.iter().zip(offsets.chunks_exact(4)).flat_map(|((center, size), offset)| {
        let middle = [0, 1].map(|axis| center[axis] + 0.1 * offset[axis] * size[axis]);
        let half = [0, 1].map(|axis| size[axis] * (0.2 * offset[axis + 2]).exp() / 2.0);
        [middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]]
    });
    corners.collect()
}

fn assert_same_faces(ours: &[Detection], theirs: &[Detection]) {
    assert!(!theirs.is_empty(), "the photograph has faces");
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        let edges =
            [(a.bbox.x0, b.bbox.x0), (a.bbox.y0, b.bbox.y0), (a.bbox.x1, b.bbox.x1), (a.bbox.y1, b.bbox.y1)];
        assert!(edges.iter().all(|(a, b)| (a - b).abs() <= 1.0), "{a:?} {b:?}");
    }
}

#[test]
fn ultraface_finds_the_same_faces() {
    const WHOLE: &str = "ultraface_rfb_320";
    const SIMPLIFIED: &str = "ultraface_rfb_320_simplified";
    agrees::<Ultraface>(WHOLE, 1e-3);
    agrees::<UltrafaceSimplified>(SIMPLIFIED, 1e-3);
    let theirs = faces(&tensor(WHOLE, "output_0.npy"), &tensor(WHOLE, "output_1.npy"));
    println!("{} faces", theirs.len());
    let ours = outputs::<Ultraface>(WHOLE);
    assert_same_faces(&faces(&ours[0], &ours[1]), &theirs);
    let ours = outputs::<UltrafaceSimplified>(SIMPLIFIED);
    assert_same_faces(&faces(&ours[0], &decode(&ours[1])), &theirs);
}

/// The typed interface on a thread with 256 KiB of stack, for the largest model.
#[test]
fn yolov3_on_a_small_stack() {
    let run = || {
        let net = Yolov3::new().unwrap();
        let image = infer_embed::zeroed();
        let outputs = net.infer(&image).unwrap();
        assert!(<Yolov3 as Model>::OUTPUTS.len() == 3);
        drop(outputs);
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}
