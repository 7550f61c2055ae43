use infer_embed::model;

#[model("models/good.onnx")]
pub struct Net;

fn main() -> infer_embed::Result<()> {
    let net = Net::new()?;
    let bias = [[[0.0]]; 3];
    net.infer(&infer_embed::zeroed(), &bias, &bias)?;
    Ok(())
}
