//! A crate that forbids unsafe code embeds by `include_bytes!`.

#![forbid(unsafe_code)]
#![deny(missing_docs, warnings)]

/// The model.
#[infer_embed::model("models/good.onnx", embed = "bytes")]
pub struct Net;

fn main() -> infer_embed::Result<()> {
    let out = Net::new()?.infer(&infer_embed::zeroed(), &[[[0.5]], [[0.0]], [[0.0]]])?;
    assert_eq!((out.sum[0][0][3][3], out.index[0][3][3]), (0.5, 0));
    Ok(())
}
