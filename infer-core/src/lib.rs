//! The graph compiler and the run time of infer-embed.
//!
//! With the feature `compiler`: ONNX files in, plan bytes out, one module a stage (see `compile`). Always: [`plan`],
//! the only contract between the two halves, and [`runtime`], which executes plans.

#![deny(unsafe_code)]

pub mod error;
pub mod plan;
pub mod runtime;
pub mod tensor_type;

#[cfg(feature = "compiler")]
pub mod cache;
#[cfg(feature = "compiler")]
pub mod calls;
#[cfg(feature = "compiler")]
pub mod codegen;
#[cfg(feature = "compiler")]
pub mod compile;
#[cfg(feature = "compiler")]
pub mod constant;
#[cfg(feature = "compiler")]
pub mod diagnostic;
#[cfg(feature = "compiler")]
#[allow(unsafe_code, reason = "folding runs reference kernels, which read raw memory")]
pub mod evaluate;
#[cfg(feature = "compiler")]
pub mod graph;
#[cfg(feature = "compiler")]
pub mod import;
#[cfg(feature = "compiler")]
pub mod lower;
#[cfg(feature = "compiler")]
pub mod node_types;
#[cfg(feature = "compiler")]
pub mod onnx;
#[cfg(feature = "compiler")]
pub mod ops;
#[cfg(feature = "compiler")]
pub mod options;
#[cfg(feature = "compiler")]
pub mod passes;
#[cfg(feature = "compiler")]
pub mod schedule;
#[cfg(feature = "compiler")]
pub mod shape_inference;

pub use error::{Error, ErrorKind, Result};
