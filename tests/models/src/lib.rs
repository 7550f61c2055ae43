//! Large models through the attribute.

use infer_embed::model;

/// ResNet-50, 224×224.
#[model("data/resnet50.onnx")]
pub struct Resnet50;

/// ResNet-50 with weights stored as halves.
#[model("data/resnet50.onnx", precision = "fp16")]
pub struct Resnet50Half;

/// MobileNetV2, 224×224.
#[model("data/mobilenet_v2.onnx")]
pub struct MobilenetV2;

/// YOLOv3, 608×608.
#[model("data/yolov3_608.onnx")]
pub struct Yolov3;

/// YOLOv3, 416×416, exported with a symbolic batch.
#[model("data/yolov3_416_dyn.onnx", dims(batch = 1))]
pub struct Yolov3Small;

/// UltraFace RFB-320, as exported.
#[model("data/ultraface_rfb_320.onnx")]
pub struct Ultraface;

/// UltraFace RFB-320, simplified.
#[model("data/ultraface_rfb_320_simplified.onnx")]
pub struct UltrafaceSimplified;
