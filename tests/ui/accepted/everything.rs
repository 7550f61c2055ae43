//! Models of every visibility, in every place, under strict lints.

#![deny(missing_docs, unreachable_pub, unused, unused_qualifications, warnings)]
#![deny(clippy::all, clippy::pedantic)]

use infer_embed::{Element, Model, Output, model};

/// A model with documentation of its own.
#[model("models/good.onnx")]
#[derive(Debug)]
pub struct Public;

/// The same model once more: its plan is embedded once.
#[model("models/good.onnx", strict = true)]
pub struct Again;

#[model("models/with space.onnx", precision = "fp16", winograd = false, tactics = "models/stale.tactics")]
struct Private;

mod inner {
    use infer_embed::model;

    #[model("models/symbolic.onnx", dims(batch = 2, "seq" = 3), crate = "infer_embed")]
    pub(super) struct Bound;

    #[model("models/names.onnx", crate = "crate::renamed")]
    pub(crate) struct Names;
}

mod renamed {
    pub(crate) use infer_embed::*;
}

fn generic<M: Model>(inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> infer_embed::Result<usize> {
    let net: M = infer_embed::Builder::new().threads(1).build()?;
    net.run(inputs, outputs)?;
    Ok(M::INPUTS.iter().chain(M::OUTPUTS).filter_map(infer_embed::PortInfo::bytes).sum())
}

fn main() -> infer_embed::Result<()> {
    #[model("models/good.onnx")]
    struct Local;

    let net = Public::new()?;
    println!("{net:?}");
    let mut image: Box<[[[[f32; 4]; 4]; 3]; 1]> = infer_embed::zeroed();
    image[0][2][1][1] = 5.0;
    let bias = [[[1.0_f32]], [[2.0]], [[3.0]]];
    let out: PublicOutputs = net.infer(&image, &bias)?;
    assert_eq!((out.sum[0][2][1][1], out.sum[0][0][0][0], out.index[0][1][1]), (8.0, 1.0, 2));

    let mut context: PublicContext<'_> = net.context();
    let mut again = PublicOutputs::zeroed();
    context.infer_into(&image, &bias, &mut again)?;
    assert_eq!(out, again);

    assert_eq!(Again::new()?.infer(&image, &bias)?.sum, out.sum);
    assert_eq!(Private::new()?.infer(&image, &bias)?.sum, out.sum);
    assert_eq!(Local::new()?.infer(&image, &bias)?.sum, out.sum);
    assert_eq!(inner::Bound::new()?.infer(&[[1.0, -1.0, 2.0], [0.0; 3]])?.y[0], [1.0, 0.0, 2.0]);

    let (input_1, input_1_2, self_, outputs_2) = ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]);
    let out = inner::Names::builder().threads(1).build()?.infer(&input_1, &input_1_2, &self_, &outputs_2)?;
    assert_eq!(
        (*out.input_1, *out.type_, *out.output_42, *out.input_1_2),
        ([6.0, 8.0], [7.0, 16.0], [-2.0; 2], [1.0, 2.0])
    );

    assert_eq!((Public::INPUTS.len(), Public::OUTPUTS[1].name, Public::OPSET), (2, "index", 17));
    assert_eq!((Public::MODEL_SHA256.len(), Public::NOTES.len()), (64, 0));
    let mut untyped = PublicOutputs::zeroed();
    let inputs = [image.as_bytes(), bias.as_bytes()];
    let bytes = generic::<Public>(&inputs, &mut [untyped.sum.as_output(), untyped.index.as_output()])?;
    assert_eq!((bytes, untyped), (192 + 12 + 192 + 128, again));
    Ok(())
}
