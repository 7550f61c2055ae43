//! The kernels of infer-embed.
//!
//! A [`Kernel`] is one entry of the vocabulary that plans are made of: a name, a bounds check over its
//! parameters and operands, a work split, and one implementation per instruction set. This crate knows nothing
//! of ONNX, graphs or plans.
//!
//! [`call`] holds the parameters of every kernel, shared by all backends; [`kernels`] the kernels themselves,
//! each an item of its own so that a binary links only those it names; `reference` (feature `reference`) the
//! naive oracle of each, and the registry of all.

#[cfg(target_endian = "big")]
compile_error!("infer-embed supports little-endian targets only");

pub mod call;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod isa;
mod kernel;
#[cfg(feature = "reference")]
pub mod reference;
pub mod threads;
#[cfg(feature = "reference")]
pub mod work;

pub use cpu::{kernels, peak};
pub use isa::Isa;
pub use kernel::{Args, Call, ChunkFn, Invalid, Kernel, Operand, PerIsa, RunError};
