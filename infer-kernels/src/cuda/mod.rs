//! Kernels for NVIDIA GPUs: what they are called with, how they are launched, and their machine code.
//!
//! Their sources are `cuda/kernels/*.cu`; `cuda/prebuilt/` holds them compiled, machine code for the common architectures
//! and PTX for the rest in one file a source (`build.rs` says how they are made). A [`CudaKernel`] is to a plan what
//! [`Kernel`](crate::Kernel) is: a name, a bounds check, and here the shape of the launch.
//!
//! A picture is NHWC, its channels padded to a multiple of [`LANES`]; `stride` is always the elements from one pixel to
//! the next, so that a picture may be some of the channels of a wider one.

mod attention;
mod boxes;
mod chain;
mod conv;
mod conv_norm;
mod norm;
mod picture;
pub mod plain;
mod retile;
mod rows;
mod stem;

pub use attention::{Attention, HEADS, HeadView, Heads, MOST_SIZE};
pub use boxes::{Boxes, Copies, TensorMap};
pub use chain::{CHAIN_INPUTS, CHAIN_OUTPUTS, CHAIN_SLOTS, CHAIN_STEPS, Chain, Step, step};
pub use conv::{Conv, LARGEST_CLUSTER, TILES, TILES_BF16, TILES_TF32, Tile};
pub use conv_norm::{NORMALISING, NORMALISING_BF16, NormalisedConv};
pub use norm::{GroupNorm, MOST_GROUPED};
pub use picture::{Interleave, Layout, Map, MapKind, PADDED_CHANNELS, Padded, Resize, Window};
pub use retile::{Retile, Stored, round_to_tf32};
pub use rows::{AXES, ElementOp, ElementType, Elementwise, Gather, Norm, Product, Reduction, ReductionKind};
pub use stem::{STEM_CHANNELS, Stem, StemFragments};

use crate::{Call, Invalid};

/// Channels of a picture come in groups of so many.
pub const LANES: usize = 8;

/// Unsigned counters that a launch finds zero and leaves zero. The one behind them is set by a launch that finds a value
/// that it cannot compute with, such as an index out of range.
pub const COUNTERS: usize = 1 << 16;

/// Compiled kernels of one source file, as the driver loads them.
#[derive(Debug)]
pub struct Module {
    /// The file's name without its extension.
    pub name: &'static str,
    /// The compiled file: machine code for several architectures, and PTX.
    pub image: &'static [u8],
}

macro_rules! modules {
    ($($(#[$doc:meta])* $item:ident = $name:literal;)*) => {
        $($(#[$doc])*
        pub static $item: Module = Module {
            name: $name,
            image: include_bytes!(concat!(env!("INFER_CUDA_MODULES"), "/", $name, ".fatbin")),
        };)*
        /// Every module.
        pub static MODULES: &[&Module] = &[$(&$item),*];
    };
}

modules! {
    /// Attention.
    ATTENTION = "attention";
    /// Chains of elementwise functions.
    CHAIN = "chain";
    /// Convolution of bf16.
    CONV_BF16 = "conv_bf16";
    /// Convolution of bf16 whose operands the tensor memory accelerator copies.
    CONV_BF16_TMA = "conv_bf16_tma";
    /// Convolution of f16.
    CONV_F16 = "conv_f16";
    /// Convolution of f16 whose operands the tensor memory accelerator copies.
    CONV_F16_TMA = "conv_f16_tma";
    /// Convolution of f32.
    CONV_F32 = "conv_f32";
    /// Convolution of f32 whose products round to tf32.
    CONV_TF32 = "conv_tf32";
    /// Normalisation of pictures.
    NORM = "norm";
    /// What else pictures go through.
    PICTURE = "picture";
    /// Row-major calls element by element.
    PLAIN_ELEMENTS = "plain_elements";
    /// Row-major calls whose elements are placed by others.
    PLAIN_INDEX = "plain_index";
    /// Row-major recurrent networks.
    PLAIN_RECURRENT = "plain_recurrent";
    /// Row-major calls along axes.
    PLAIN_ROWS = "plain_rows";
    /// Row-major convolutions and pools.
    PLAIN_WINDOWS = "plain_windows";
    /// Weights of the processor's plan in another order.
    RETILE = "retile";
    /// What row-major tensors go through.
    ROWS = "rows";
    /// Convolutions of few channels.
    STEM = "stem";
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along two axes.
    pub grid: [u32; 2],
    /// How many of them along the second axis are a cluster, on GPUs that have clusters.
    pub cluster: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Launch {
    /// A thread for each of `items`, in blocks of 256.
    fn flat(items: u64) -> Launch {
        Launch { grid: [items.div_ceil(256) as u32, 1], cluster: 1, threads: 256, shared_bytes: 0 }
    }
}

/// A kernel of a GPU. Its argument is one structure: an address for each operand, the address of [`COUNTERS`]
/// counters, and the parameters.
#[derive(Debug)]
pub struct CudaKernel {
    /// The name plans know it by: `cuda_` and the function's name in its module.
    pub name: &'static str,
    /// The name of the [`Module`] that has its machine code. A name, so that programs link the modules that they use.
    pub module: &'static str,
    /// Checks that every range the kernel will touch lies inside its operands. Never panics.
    pub validate: fn(&Call<'_>) -> Result<(), Invalid>,
    /// The shape of the launch, for parameters that `validate` has accepted.
    pub launch: fn(&[u8]) -> Launch,
    /// The most dynamic shared memory that a launch asks for.
    pub most_shared_bytes: u32,
    /// What it needs where the tensor memory accelerator copies its operands.
    pub copies: Option<Copies>,
}

impl CudaKernel {
    /// The name of the function in its module.
    pub fn symbol(&self) -> &'static str {
        self.name.strip_prefix("cuda_").unwrap_or(self.name)
    }

    /// Whether it may find a value that it cannot compute with, and set the counter behind [`COUNTERS`].
    pub fn may_fail(&self) -> bool {
        self.name.starts_with("cuda_gather") || plain::may_fail(self.name)
    }
}

/// Every kernel.
pub fn kernels() -> impl Iterator<Item = &'static CudaKernel> {
    let pictures = conv::KERNELS.iter().chain(norm::KERNELS).chain(picture::KERNELS);
    let others = [chain::KERNELS, conv_norm::KERNELS, retile::KERNELS, rows::KERNELS, stem::KERNELS];
    let others = others.into_iter().flatten();
    attention::KERNELS.iter().chain(pictures).chain(others).chain(plain::kernels())
}

/// The kernel of that name.
pub fn find(name: &str) -> Option<&'static CudaKernel> {
    kernels().find(|kernel| kernel.name == name)
}

/// The size of the elements a kernel computes on, from its name.
const fn element_bytes(name: &str) -> u64 {
    let name = name.as_bytes();
    let mut at = 0;
    while at + 2 < name.len() {
        if name[at] == b'f' && name[at + 1] == b'1' && name[at + 2] == b'6' {
            return 2;
        }
        at += 1;
    }
    4
}

/// A non-negative extent.
fn extent(value: i32) -> Result<u64, Invalid> {
    u64::try_from(value).map_err(|_| Invalid("negative extent"))
}

/// A positive extent.
fn positive(value: i32) -> Result<u64, Invalid> {
    match extent(value)? {
        0 => Err(Invalid("an extent of zero")),
        value => Ok(value),
    }
}

/// The product of extents, which threads and elements are counted by in 32 bits with sign.
fn product(extents: &[u64]) -> Result<u64, Invalid> {
    extents
        .iter()
        .try_fold(1u64, |count, &extent| count.checked_mul(extent))
        .filter(|&count| i32::try_from(count).is_ok())
        .ok_or(Invalid("more than 2^31 elements"))
}

/// Checks a picture of so many pixels and channels against an operand.
fn expect_picture(
    call: &Call<'_>,
    operand: usize,
    pixels: u64,
    stride: i32,
    channels: u64,
    element_bytes: u64,
) -> Result<(), Invalid> {
    let stride = positive(stride)?;
    if channels > stride || !channels.is_multiple_of(LANES as u64) || !stride.is_multiple_of(LANES as u64) {
        return Err(Invalid("channels that do not come in groups, or that reach into the next pixel"));
    }
    let elements = match pixels {
        0 => 0,
        _ => product(&[pixels - 1, stride])? + channels,
    };
    call.expect_elements(operand, Some(elements), element_bytes)
}
