//! The `model` attribute of infer-embed: arguments, spans, and what is emitted after an error.
//!
//! What the attribute compiles is `infer_core::compile`'s business, what it emits `infer_core::codegen`'s.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;

mod args;
mod expand;
mod fallback;

/// Compiles an ONNX model into the program: `#[model("models/yolov3.onnx")] pub struct Yolov3;`.
///
/// The path is relative to the folder of the crate's `Cargo.toml`. The struct, of any visibility, gets `new`,
/// `builder`, `infer` with one parameter for each input of the model, `context` for inference without allocation,
/// and constants that describe the model; beside it appear `Yolov3Outputs`, with a field for each output, and
/// `Yolov3Context`. Their documentation states shapes, element types and sizes.
///
/// Models with shapes or values that only the run knows need the feature `dynamic` of infer-embed: there tensors of
/// unknown shape are `Tensor<f32>`, strings `String`, sequences `Vec`, optionals `Option`, maps `BTreeMap`.
///
/// # Arguments
///
/// After the path, in any order:
///
/// - `precision = "fp32"` (the default) or `"fp16"`: how weights are stored, and what GPUs compute in; `"tf32"` is as
///   `"fp32"`, but for products on GPUs, which read ten bits of each mantissa; `"bf16"` is, but for GPUs, which store and
///   multiply bf16.
/// - `dims(batch = 1, "past + seq" = 8, "input[0]" = 1)`: the extents of symbolic dimensions; an axis without a name
///   is called by its input and position.
/// - `embed = "incbin"` (the default) or `"bytes"`: how the compiled model gets into the binary. `"bytes"` works in
///   crates that forbid unsafe code; large models build more slowly with it.
/// - `tactics = "model.tactics"`: how each layer is computed, as `infer tune` measured it; the path is relative as the
///   model's is.
/// - `strict = true`: what would be a note in `NOTES` is a compile error.
/// - `backend = "cpu"`, `"cuda"` or `"auto"`: what the model is compiled for; `"auto"`, the default with the feature
///   `cuda`, is both, and the processor alone where a node has no kernel on GPUs, which `NOTES` then says.
/// - `crate = "renamed"`: the path of the crate infer-embed, where it is not `infer_embed`.
///
/// # Errors
///
/// Whatever is wrong with the arguments or the model is a compile error at the literal at fault.
#[proc_macro_attribute]
pub fn model(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::model(arguments.into(), item.into()).into()
}
