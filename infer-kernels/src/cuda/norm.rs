//! Normalisation of groups of channels of pictures.

use bytemuck::{Pod, Zeroable};

use super::{CudaKernel, LANES, Launch, element_bytes, expect_picture, positive, product};
use crate::call::Activation;
use crate::{Call, Invalid};

/// The most channels, padded, of a picture that is normalised.
pub const MOST_GROUPED: usize = 2048;

/// `cuda_group_sums_*`, `cuda_group_norm_*`: each group of channels of an image to zero mean and unit variance, then
/// scale and bias by channel, then an activation.
///
/// Operands of the first: input; sums, f32 `[images, parts, groups, 2]`, of the differences from the first element of the
/// group and of their squares. Of the second: input; these sums; scale and bias, f32 `[channels]`, zeros in the padding;
/// output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct GroupNorm {
    /// Pixels of an image.
    pub image_pixels: i32,
    /// Channels, padded.
    pub channels: i32,
    /// Channels, a multiple of the groups.
    pub plain_channels: i32,
    /// Groups.
    pub groups: i32,
    /// Parts of an image, for each of which there is a block.
    pub parts: i32,
    /// Pixels of a part; the last one may have fewer.
    pub part_pixels: i32,
    /// Between pixels of the input.
    pub in_stride: i32,
    /// Between pixels of the output.
    pub out_stride: i32,
    /// Added to the variance.
    pub epsilon: f32,
    /// Images.
    pub images: i32,
    /// Applied last.
    pub activation: Activation,
}

/// Checks the parameters; gives all pixels and the elements of the sums.
fn validate(p: &GroupNorm) -> Result<(u64, u64), Invalid> {
    let [images, pixels, parts, groups] =
        [positive(p.images)?, positive(p.image_pixels)?, positive(p.parts)?, positive(p.groups)?];
    let (channels, plain) = (positive(p.channels)?, positive(p.plain_channels)?);
    let lanes = LANES as u64;
    if channels > MOST_GROUPED as u64 || !channels.is_multiple_of(lanes) || plain > channels {
        return Err(Invalid("channels that do not come in groups, or too many"));
    }
    if !plain.is_multiple_of(groups) {
        return Err(Invalid("channels are no multiple of the groups"));
    }
    let covered = product(&[parts, positive(p.part_pixels)?])?;
    if covered < pixels {
        return Err(Invalid("parts that are less than an image"));
    }
    Ok((product(&[images, pixels])?, product(&[images, parts, groups, 2])?))
}

fn validate_sums(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &GroupNorm = call.params()?;
    call.expect_operands(2)?;
    let (pixels, sums) = validate(p)?;
    expect_picture(call, 0, pixels, p.in_stride, p.channels as u64, element_bytes)?;
    call.expect_elements(1, Some(sums), 4)
}

fn validate_norm(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &GroupNorm = call.params()?;
    call.expect_operands(5)?;
    let (pixels, sums) = validate(p)?;
    expect_picture(call, 0, pixels, p.in_stride, p.channels as u64, element_bytes)?;
    call.expect_elements(1, Some(sums), 4)?;
    for operand in [2, 3] {
        call.expect_elements(operand, Some(p.channels as u64), 4)?;
    }
    expect_picture(call, 4, pixels, p.out_stride, p.channels as u64, element_bytes)
}

fn launch(params: &[u8]) -> Launch {
    let p: &GroupNorm = bytemuck::from_bytes(params);
    Launch { grid: [(p.images * p.parts) as u32, 1], cluster: 1, threads: 256, shared_bytes: 0 }
}

macro_rules! kernels {
    ($($name:literal $validate:expr;)*) => {
        &[$(CudaKernel {
            name: $name,
            module: "norm",
            validate: |call| $validate(call, const { element_bytes($name) }),
            launch,
            // No more than any launch may have without asking.
            most_shared_bytes: 0,
            copies: None,
        }),*]
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! {
    "cuda_group_sums_f16" validate_sums;
    "cuda_group_sums_bf16" validate_sums;
    "cuda_group_sums_f32" validate_sums;
    "cuda_group_norm_f16" validate_norm;
    "cuda_group_norm_bf16" validate_norm;
    "cuda_group_norm_f32" validate_norm;
    "cuda_group_norm_tf32" validate_norm;
};
