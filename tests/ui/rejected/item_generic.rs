use infer_embed::model;

#[model("models/good.onnx")]
pub struct Net<T>;

fn main() {}
