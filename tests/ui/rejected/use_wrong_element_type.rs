use infer_embed::model;

#[model("models/good.onnx")]
pub struct Net;

fn main() -> infer_embed::Result<()> {
    let net = Net::new()?;
    let image: Box<[[[[f64; 4]; 4]; 3]; 1]> = infer_embed::zeroed();
    net.infer(&image, &infer_embed::zeroed())?;
    Ok(())
}
