use infer_embed::model;

#[model("models/good.onnx", precison = "fp16", target = "cuda")]
pub struct Net;

fn main() -> infer_embed::Result<()> {
    let net = Net::new()?;
    let out = net.infer(&infer_embed::zeroed())?;
    println!("{}", out.y[0][0]);
    Ok(())
}
