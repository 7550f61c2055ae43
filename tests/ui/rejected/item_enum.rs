use infer_embed::model;

#[model("models/good.onnx")]
pub enum Net {
    One,
}

fn main() {}
