//! `cuda_conv_f16_norm_TILE` and the same of bf16, for architecture 9.0 alone: a product whose rows are normalised where it ends.

use bytemuck::{Pod, Zeroable};

use super::boxes::{Copies, TensorMap};
use super::conv::{Conv, TILES, TILES_BF16, Tile, normalising_tile};
use super::{CudaKernel, positive, product};
use crate::{Call, Invalid};

/// The parameters of a product, and of the normalisation of its rows that the call after it is. Where the GPU has this kernel, that
/// is not launched.
///
/// `normalised[m, o] = (out[m, o] − mean[m]) / √(variance[m] + epsilon) · scale[o] + shift[o]`
///
/// Operands: scale and shift, f32 `[out_channels]` or absent; those of [`Conv`], the normalised rows in place of its partial sums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct NormalisedConv {
    /// The product, of one split.
    pub conv: Conv,
    /// Added to the variance.
    pub epsilon: f32,
    /// 1: others read the product too.
    pub stores_output: i32,
}

/// Where its operands begin that [`Conv`] has too.
const CONV_OPERANDS: usize = 2;
/// The operand that the normalised rows are.
const NORMALISED: usize = CONV_OPERANDS + 4;

/// Rows, columns, and bytes that a step has of each; steps that are there at a time.
macro_rules! tiles {
    ($ty:literal) => {
        &[
            normalising_tile(concat!("cuda_conv_", $ty, "_norm_128x128"), [128, 128, 128], 5),
            normalising_tile(concat!("cuda_conv_", $ty, "_norm_128x256"), [128, 256, 128], 4),
        ]
    };
}

/// The tiles of f16 that normalise rows.
pub const NORMALISING: &[Tile] = tiles!("f16");

/// The tiles of bf16 that normalise rows.
pub const NORMALISING_BF16: &[Tile] = tiles!("bf16");

fn validate(tile: &Tile, call: &Call<'_>) -> Result<(), Invalid> {
    let p: &NormalisedConv = call.params()?;
    call.expect_operands(CONV_OPERANDS + 6)?;
    let params = bytemuck::bytes_of(&p.conv);
    tile.validate(&Call { params, operand_bytes: &call.operand_bytes[CONV_OPERANDS..] }, true, 2)?;
    let [rows, columns] = [positive(p.conv.pixels)?, positive(p.conv.out_channels)?];
    for operand in 0..CONV_OPERANDS {
        if call.operand_bytes[operand] > 0 {
            call.expect_elements(operand, Some(columns), 4)?;
        }
    }
    call.expect_elements(NORMALISED, Some(product(&[rows, columns])?), 2)
}

/// The tensors of the product, and the normalised rows.
fn tensors(tile: &Tile, params: &[u8], bf16: bool) -> Vec<TensorMap> {
    let p: NormalisedConv = bytemuck::pod_read_unaligned(params);
    let mut tensors = tile.tensors(&p.conv, bf16);
    tensors.iter_mut().for_each(|tensor| tensor.operand += CONV_OPERANDS);
    if let Some(output) = tensors.last().cloned() {
        let strides = vec![output.extents[0] * 2];
        tensors.push(TensorMap { operand: NORMALISED, strides, ..output });
    }
    tensors
}

macro_rules! kernels {
    ($($module:literal $bf16:literal $tiles:ident[$($index:literal),*] $others:ident)*) => {
        &[$($(CudaKernel {
            name: $tiles[$index].name,
            module: $module,
            validate: |call| validate(&$tiles[$index], call),
            launch: |params| $tiles[$index].launch(&bytemuck::from_bytes::<NormalisedConv>(params).conv),
            most_shared_bytes: $tiles[$index].shared_bytes(u32::MAX, 1),
            copies: Some(Copies {
                tensors: |params| tensors(&$tiles[$index], params, $bf16),
                otherwise: |params| {
                    let p: NormalisedConv = bytemuck::pod_read_unaligned(params);
                    $tiles[$index].otherwise(p.conv, &$others[0])
                },
                own_operands: CONV_OPERANDS,
                with_next: true,
            }),
        },)*)*]
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! {
    "conv_f16_tma" false NORMALISING[0, 1] TILES
    "conv_bf16_tma" true NORMALISING_BF16[0, 1] TILES_BF16
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Activation;
    use crate::cuda::find;

    /// 200 rows of 768 made of 64, to which as many are added.
    fn params(tile: &Tile) -> NormalisedConv {
        let conv = Conv {
            in_h: 1,
            in_w: 1,
            in_stride_n: 64,
            in_stride_h: 64,
            in_stride_w: 64,
            channels: 64,
            taps: 1,
            kernel_w: 1,
            out_h: 1,
            out_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pixels: 200,
            out_channels: 768,
            out_stride: 768,
            residual_stride: 768,
            residual_mode: 1,
            splits: 1,
            depth_per_split: 64,
            column_tiles: 768 / tile.columns as i32,
            ..Conv::default()
        };
        NormalisedConv { conv, epsilon: 1e-5, stores_output: 0 }
    }

    const ROWS: u64 = 200 * 768 * 2;
    const OPERANDS: [u64; 8] = [768 * 4, 768 * 4, 200 * 64 * 2, 768 * 64 * 2, 768 * 4, ROWS, ROWS, ROWS];

    fn all() -> impl Iterator<Item = &'static Tile> {
        NORMALISING.iter().chain(NORMALISING_BF16)
    }

    #[test]
    fn a_cluster_has_whole_rows() {
        for tile in all() {
            let p = params(tile);
            let kernel = find(tile.name).unwrap();
            (kernel.validate)(&Call { params: bytemuck::bytes_of(&p), operand_bytes: &OPERANDS }).unwrap();
            let launch = (kernel.launch)(bytemuck::bytes_of(&p));
            let blocks = 768 / tile.columns;
            assert_eq!((launch.grid, launch.cluster), ([2, blocks], blocks));
            let tensors = (kernel.copies.as_ref().unwrap().tensors)(bytemuck::bytes_of(&p));
            let operands: Vec<usize> = tensors.iter().map(|tensor| tensor.operand).collect();
            assert_eq!(operands, [2, 3, 5, 7, 6]);
            // What a block has beside: barriers, and what the others of its cluster send.
            assert!(kernel.most_shared_bytes + 12_288 <= 227 << 10, "{}", tile.name);
        }
    }

    #[test]
    fn every_call_runs_otherwise_too() {
        for tile in all() {
            let p = params(tile);
            let copies = find(tile.name).unwrap().copies.as_ref().unwrap();
            let (name, params) = (copies.otherwise)(bytemuck::bytes_of(&p));
            let call = Call { params: &params, operand_bytes: &OPERANDS[copies.own_operands..] };
            (find(name).unwrap().validate)(&call).unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for tile in all() {
            let p = params(tile);
            let refused = |conv: Conv, operand_bytes: &[u64]| {
                let params = NormalisedConv { conv, ..p };
                let call = Call { params: bytemuck::bytes_of(&params), operand_bytes };
                assert!((find(tile.name).unwrap().validate)(&call).is_err(), "{}: {conv:?}", tile.name);
            };
            for operand in [0, 1, 4, 5, 6, 7] {
                let mut short = OPERANDS;
                short[operand] -= 4;
                refused(p.conv, &short);
            }
            refused(Conv { activation: Activation { kind: 1, ..Activation::NONE }, ..p.conv }, &OPERANDS);
            refused(Conv { out_channels: 760, ..p.conv }, &OPERANDS);
            refused(Conv { splits: 2, ..p.conv }, &OPERANDS);
            let wide = 9 * tile.columns as i32;
            let wide =
                Conv { out_channels: wide, out_stride: wide, residual_mode: 0, column_tiles: 9, ..p.conv };
            refused(wide, &[0, 0, 200 * 64 * 2, 1 << 20, 0, 0, 1 << 24, 1 << 24]);
        }
    }
}
