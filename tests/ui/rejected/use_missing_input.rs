use infer_embed::model;

#[model("models/good.onnx")]
pub struct Net;

fn main() -> infer_embed::Result<()> {
    let net = Net::new()?;
    let image: Box<[[[[f32; 4]; 4]; 3]; 1]> = infer_embed::zeroed();
    net.infer(&image)?;
    Ok(())
}
