#![forbid(unsafe_code)]
//! Compile ONNX models into Rust programs: annotate a struct, get typed inference.

#[cfg(feature = "vision")]
pub mod vision;
