//! The graph compiler and the run time of infer-embed.
//!
//! With the feature `compiler`: ONNX files in, plan bytes out, one module a stage (see `compile`). With `dynamic`: the
//! operators themselves, for nodes whose shapes only the run knows. Always: [`plan`], the only contract between the two
//! halves, and [`runtime`], which executes plans.

#![deny(unsafe_code)]

pub mod error;
pub mod plan;
pub mod runtime;
pub mod tensor_type;

#[cfg(feature = "dynamic")]
pub mod calls;
#[cfg(feature = "dynamic")]
pub mod constant;
#[cfg(feature = "dynamic")]
pub mod decisions;
#[cfg(feature = "dynamic")]
pub mod diagnostic;
#[cfg(feature = "dynamic")]
#[allow(unsafe_code, reason = "kernels read raw memory")]
pub mod execute;
#[cfg(feature = "dynamic")]
pub mod expansion;
#[cfg(feature = "dynamic")]
pub mod node_types;
#[cfg(feature = "dynamic")]
pub mod node_values;
#[cfg(feature = "dynamic")]
pub mod ops;
#[cfg(feature = "dynamic")]
pub mod options;
#[cfg(feature = "dynamic")]
pub mod program;
#[cfg(feature = "dynamic")]
pub mod record;
#[cfg(feature = "dynamic")]
pub mod session;
#[cfg(feature = "dynamic")]
pub mod small_float;
#[cfg(feature = "dynamic")]
pub mod tactics;
#[cfg(feature = "dynamic")]
pub mod value;

#[cfg(feature = "compiler")]
pub mod cache;
#[cfg(feature = "compiler")]
pub mod codegen;
#[cfg(feature = "compiler")]
pub mod compile;
#[cfg(all(feature = "compiler", feature = "cuda"))]
pub mod cut;
#[cfg(feature = "compiler")]
pub mod graph;
#[cfg(feature = "compiler")]
pub mod import;
#[cfg(feature = "compiler")]
pub mod lower;
#[cfg(all(feature = "compiler", feature = "cuda"))]
pub mod lower_cuda;
#[cfg(feature = "compiler")]
pub mod onnx;
#[cfg(feature = "compiler")]
pub mod partition;
#[cfg(feature = "compiler")]
pub mod passes;
#[cfg(feature = "compiler")]
pub mod schedule;
#[cfg(feature = "compiler")]
pub mod shape_inference;

pub use error::{Error, ErrorKind, Result};
