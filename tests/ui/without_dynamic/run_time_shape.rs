use infer_embed::model;

#[model("models/run_time_shape.onnx")]
struct Net;

fn main() -> infer_embed::Result<()> {
    let net = Net::new()?;
    let out: NetOutputs = net.infer(&[1.0, 2.0])?;
    println!("{:?} {}", out.positions.shape(), Net::PARAMETERS);
    Ok(())
}
