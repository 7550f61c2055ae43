use infer_embed::model;

#[model("models/good.onnx")]
pub struct Net {
    field: u8,
}

fn main() {}
