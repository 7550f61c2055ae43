//! The naive oracle of each kernel, and the registry of all.
//!
//! An oracle is the definition in plain scalar Rust: no blocking, no vectors, no cleverness. It folds constants at
//! compile time (so it must not depend on the build machine: transcendental functions come from `libm`) and every
//! fast kernel is tested against it.

pub mod activation;
mod attention;
mod blocked;
mod cast;
mod col2im;
mod conv;
mod conv_nd;
mod copy;
mod elementwise;
mod grid_sample;
mod matmul;
mod non_max_suppression;
mod norm;
mod pool;
mod recurrent;
mod reduce;
mod region;
mod resize;
mod scan;
mod scatter;
mod strassen;
mod top_k;
pub mod winograd;
pub mod winograd_rows;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::{Args, Kernel, RunError};

/// A kernel with its oracle.
pub struct Registered {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Computes the whole call.
    ///
    /// # Safety
    ///
    /// As for [`crate::ChunkFn`], without the demand on the processor.
    pub reference: unsafe fn(&Args<'_>) -> Result<(), RunError>,
}

/// Every kernel, by family.
pub static REGISTRY: &[&[Registered]] = &[
    attention::REGISTRY,
    blocked::REGISTRY,
    cast::REGISTRY,
    col2im::REGISTRY,
    conv::REGISTRY,
    copy::REGISTRY,
    elementwise::BINARY,
    elementwise::FLOAT_BINARY,
    elementwise::FLOAT_UNARY,
    elementwise::SELECT,
    elementwise::UNARY,
    conv_nd::REGISTRY,
    matmul::REGISTRY,
    grid_sample::REGISTRY,
    non_max_suppression::REGISTRY,
    norm::REGISTRY,
    pool::REGISTRY,
    recurrent::REGISTRY,
    reduce::REGISTRY,
    region::REGISTRY,
    resize::REGISTRY,
    scan::REGISTRY,
    scatter::REGISTRY,
    strassen::REGISTRY,
    top_k::REGISTRY,
    winograd::REGISTRY,
    winograd_rows::REGISTRY,
];

/// The kernel called `name`.
pub fn find(name: &str) -> Option<&'static Registered> {
    static BY_NAME: LazyLock<HashMap<&str, &Registered>> = LazyLock::new(|| {
        REGISTRY.iter().flat_map(|family| family.iter()).map(|entry| (entry.kernel.name, entry)).collect()
    });
    BY_NAME.get(name).copied()
}
