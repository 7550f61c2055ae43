//! The run time: executes plans.
//!
//! An [`Engine`] is an opened plan, shared by any number of threads; a [`Context`] is the memory of one inference at a
//! time. Typed arrays go in and out through [`Element`].

mod backend;
mod context;
#[cfg(feature = "cuda")]
pub mod cuda;
mod element;
mod engine;
#[cfg(feature = "dynamic")]
mod nested;
#[cfg(feature = "cuda")]
mod parts;
mod prepare;

#[cfg(feature = "dynamic")]
pub(crate) use backend::Chosen;
#[cfg(feature = "cuda")]
pub use backend::CudaPlan;
pub use backend::{AnyContext, AnyEngine, Backend, Plans};
pub use context::{Context, Output};
pub use element::Element;
pub use engine::{Engine, EngineInfo, EngineOptions, PlanBytes, StepInfo};

#[cfg(feature = "dynamic")]
pub(crate) use context::{check_count, check_size};
#[cfg(feature = "dynamic")]
pub use engine::registered_kernels;
#[cfg(feature = "dynamic")]
pub(crate) use engine::thread_count;
#[cfg(feature = "dynamic")]
pub use nested::Nested;
#[cfg(all(feature = "cuda", feature = "dynamic"))]
pub(crate) use parts::PartEngine;
#[cfg(feature = "cuda")]
pub use parts::{PartsContext, PartsEngine};

#[cfg(all(test, feature = "compiler"))]
mod tests;
