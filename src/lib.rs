#![forbid(unsafe_code)]
//! Compile ONNX models into Rust programs: annotate a struct, get typed inference.
//!
//! ```ignore
//! use infer_embed::model;
//!
//! /// YOLOv3, 608×608, compiled into this binary.
//! #[model("models/yolov3.onnx", precision = "fp16")]
//! pub struct Yolov3;
//!
//! fn main() -> infer_embed::Result<()> {
//!     let net = Yolov3::new()?;
//!     let mut frame: Box<[[[[f32; 608]; 608]; 3]; 1]> = infer_embed::zeroed();
//!     frame[0][0][300][300] = 1.0;
//!     let out = net.infer(&frame)?;
//!     println!("{}", out.head5[0][4][9][9]);
//!     Ok(())
//! }
//! ```
//!
//! The model is parsed, checked, optimised and packed while the program compiles, and lies in its read-only data.
//! Wrong shapes, wrong numbers of inputs and unknown outputs are compile errors, as is a model that cannot be compiled.
//!
//! - [`macro@model`] is the attribute; `build` does the same from a build script (feature `build`).
//! - [`Model`] is what all compiled models have in common, for generic code.
//! - [`Tensor`] is what a model takes or gives where only the run knows the shape; such models need the feature `dynamic`.
//! - [`zeroed`], [`view`] and [`Element`] handle arrays too large for the stack.
//! - With the feature `cuda` models run on NVIDIA GPUs too: [`Model::backend`] says where, [`Builder::backend`] and
//!   [`Builder::device`] choose.
//! - `vision` loads and scales pictures, decodes boxes and draws them (feature `vision`).

mod array;
/// Inputs and outputs in an application's own memory on a GPU: `infer_device` of a context takes them.
///
/// `new` of both takes cudarc's slices and views, which come from its `CudaContext` of the same GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    pub use infer_core::runtime::cuda::{DeviceInput, DeviceOutput, cudarc};
}
#[cfg(feature = "build")]
pub mod build;
mod model;
mod tensor;
#[cfg(feature = "vision")]
pub mod vision;

pub use array::{view, view_mut, zeroed};
pub use infer_core::runtime::{Backend, Element, EngineOptions, Output};
pub use infer_core::tensor_type::DataType;
pub use infer_core::{Error, ErrorKind, Result};
pub use infer_macros::model;
pub use model::{Builder, Model, PortInfo, PortType};
pub use tensor::Tensor;

pub use half::{bf16, f16};

/// What generated code is made of. Not part of the interface: it changes with any version.
#[doc(hidden)]
pub mod __private {
    pub use infer_core::plan::VERSION as PLAN_VERSION;
    #[cfg(feature = "cuda")]
    pub use infer_core::runtime::CudaPlan;
    pub use infer_core::runtime::{AnyContext, AnyEngine, Backend, Context, Engine, Plans};
    #[cfg(feature = "dynamic")]
    pub use infer_core::session::{FromValue, Session, SessionContext};
    #[cfg(feature = "cuda")]
    pub use infer_kernels::cuda;
    pub use infer_kernels::{Kernel, kernels};

    pub use crate::{__if_cuda as if_cuda, __if_dynamic as if_dynamic};
}

/// The code for models that are compiled for GPUs, or else what stands in its place without the feature `cuda`.
#[cfg(feature = "cuda")]
#[doc(hidden)]
#[macro_export]
macro_rules! __if_cuda {
    ({ $($code:tt)* } else { $($error:tt)* }) => { $($code)* };
}

/// The code for models that are compiled for GPUs, or else what stands in its place without the feature `cuda`.
#[cfg(not(feature = "cuda"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __if_cuda {
    ({ $($code:tt)* } else { $($error:tt)* }) => { $($error)* };
}

/// The code for models that need the feature `dynamic`, or else what stands in its place without it.
#[cfg(feature = "dynamic")]
#[doc(hidden)]
#[macro_export]
macro_rules! __if_dynamic {
    ({ $($code:tt)* } else { $($error:tt)* }) => { $($code)* };
}

/// The code for models that need the feature `dynamic`, or else what stands in its place without it.
#[cfg(not(feature = "dynamic"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __if_dynamic {
    ({ $($code:tt)* } else { $($error:tt)* }) => { $($error)* };
}
