use infer_embed::model;

#[model("models/good.onnx")]
fn net() {}

fn main() {}
