//! Models for benchmarks: the operators, layer sizes and interfaces that exporters write for well-known architectures,
//! with seeded weights.
//!
//! Speed depends on none of the weights' values but for one thing: numbers so small or so large that a processor treats
//! them apart. Weights are therefore drawn so that values keep about unit size from layer to layer (see [`Graph`]). The
//! same names give the same bytes on every machine.

mod bert;
mod efficientnet;
mod graph;
mod layers;
mod mobilenet;
mod random;
mod resnet;
mod small;
mod ultraface;
mod unet;
mod vit;
mod yolov3;

pub use graph::{Conv, Graph, Value};
pub use layers::LAYERS;

use prost::Message;

/// A model that can be made.
#[derive(Clone, Copy)]
pub struct Model {
    /// Its name, which seeds its weights.
    pub name: &'static str,
    /// The version of ai.onnx that it uses.
    opset: i64,
    /// Builds it.
    build: fn(&mut Graph),
}

/// The models that engines are compared on.
pub const MODELS: [Model; 11] = [
    Model { name: "resnet50", opset: 17, build: resnet::resnet50 },
    Model { name: "yolov3_416", opset: 17, build: yolov3::yolov3_416 },
    Model { name: "mobilenet_v2", opset: 17, build: mobilenet::mobilenet_v2 },
    Model { name: "efficientnet_b0", opset: 17, build: efficientnet::efficientnet_b0 },
    Model { name: "unet", opset: 17, build: unet::unet },
    Model { name: "bert_base", opset: 17, build: bert::bert_base },
    Model { name: "minilm", opset: 17, build: bert::minilm },
    Model { name: "vit_b_16", opset: 20, build: vit::vit_b_16 },
    Model { name: "ultraface_rfb_320", opset: 9, build: ultraface::rfb_320 },
    Model { name: "mnist_8", opset: 8, build: small::mnist_8 },
    Model { name: "lstm_ctc", opset: 17, build: small::lstm_ctc },
];

impl Model {
    /// The bytes of its file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut graph = Graph::new(self.name, self.opset);
        (self.build)(&mut graph);
        graph.finish().encode_to_vec()
    }
}
