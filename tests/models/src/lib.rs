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

/// all-MiniLM-L6's architecture, 128 tokens.
#[model("data/minilm_l6.onnx")]
pub struct Minilm;

/// U-Net, 256×256, with group and instance normalisation and three kinds of transposed convolution.
#[model("data/unet.onnx")]
pub struct Unet;

/// Two bidirectional LSTMs, 100 steps.
#[model("data/lstm_ctc.onnx")]
pub struct LstmCtc;

/// SSDLite with MobileNetV3, 320×320: as many boxes as it finds.
#[model("data/ssdlite320.onnx")]
pub struct Ssdlite;

/// A classifier of digits of opset 8.
#[model("data/mnist_8.onnx")]
pub struct Mnist;

/// A quantised classifier of digits.
#[model("data/lenet5_quantized.onnx")]
pub struct Lenet5;

/// Keyword spotting.
#[model("data/micro_kws_m_fp32.onnx")]
pub struct MicroKws;

/// Keyword spotting, quantised.
#[model("data/micro_kws_m_qdq.onnx", dims(unk__68 = 1))]
pub struct MicroKwsQuantized;

/// Voice activity, an LSTM whose state goes in and out.
#[model("data/silero_vad_16k.onnx")]
pub struct SileroVad;
