//! 3×3 convolutions that may run by Winograd's algorithm, and their calls.

use infer_kernels::call::{self, BLOCK, Winograd, WinogradWeights, winograd_planes};
use infer_kernels::reference;
use rayon::prelude::*;

use super::Conv;
use crate::calls::{LowerNode, Span};
use crate::node_types::NodeTypes;
use crate::ops::pack::Dense;

/// Transformed inputs of a block of tiles: half of a second-level cache of 1 MiB.
const BLOCK_BYTES: u64 = 528 << 10;

/// Tiles come in multiples of what the widest microkernel takes.
const TILE_STEP: u64 = 14;

/// A 3×3 convolution that the kernel can compute: stride and dilation 1, whole blocks of input channels or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Square {
    /// Images.
    pub images: usize,
    /// Groups.
    pub groups: usize,
    /// Input channels of one group.
    pub in_channels: usize,
    /// Output channels of one group.
    pub out_channels: usize,
    /// Output rows.
    pub out_h: usize,
    /// Output columns.
    pub out_w: usize,
}

impl Square {
    /// What `conv` is, or `None` where it is another convolution.
    pub fn of(conv: &Conv, types: &NodeTypes<'_>) -> Option<Self> {
        let geometry = conv.geometry(types).ok()?;
        let w = &geometry.windows;
        let is_square = w.kernel == [1, 3, 3] && w.stride[1..] == [1, 1] && w.dilation[1..] == [1, 1];
        let (groups, in_channels, out_channels) = geometry.packed_groups()?;
        if !is_square || geometry.is_depthwise() || in_channels < BLOCK || groups != geometry.groups {
            return None;
        }
        let [_, out_h, out_w] = w.output;
        Some(Square { images: geometry.n, groups, in_channels, out_channels, out_h, out_w })
    }
}

/// How many tiles are worked on together.
fn block_tiles(planes: u64, in_channels: u64, tiles: u64) -> u64 {
    let tile_bytes = planes * in_channels.next_multiple_of(BLOCK as u64) * size_of::<f32>() as u64;
    let fit = BLOCK_BYTES / tile_bytes.max(1) / TILE_STEP * TILE_STEP;
    fit.max(TILE_STEP).min(tiles.max(1))
}

/// The weights that the kernel multiplies, of `panels`: pair of panels by pair.
fn transform(weights: &WinogradWeights, panels: &[f32]) -> Vec<f32> {
    let mut planes = vec![0f32; weights.elements().unwrap_or(0) as usize];
    let panel = weights.in_channels as usize * BLOCK;
    let panels_per_group = weights.out_channels.div_ceil(BLOCK as u64) as usize;
    let [of_panel, to_panel] = [9, winograd_planes(weights.tile) as usize].map(|count| panel * count);
    if panel == 0 || panels_per_group == 0 {
        return planes;
    }
    let groups =
        panels.chunks(panels_per_group * of_panel).zip(planes.chunks_mut(panels_per_group * to_panel));
    for (panels, planes) in groups {
        panels.par_chunks(2 * of_panel).zip(planes.par_chunks_mut(2 * to_panel)).for_each(
            |(panels, planes)| {
                let out_channels = (panels.len() / of_panel * BLOCK) as u64;
                let pair = WinogradWeights { groups: 1, out_channels, ..*weights };
                reference::winograd::weights(&pair, panels, planes);
            },
        );
    }
    planes
}

/// Calls the kernel, on tiles of `tile`, for a convolution described by `conv` with weights `dense`. `operands` are
/// input, bias, residual and output.
pub fn lower(
    node: &mut LowerNode<'_>,
    tile: u64,
    conv: &call::Conv,
    dense: &Dense<'_>,
    operands: [Option<Span>; 4],
) {
    let weights = WinogradWeights {
        groups: conv.groups,
        in_channels: conv.in_channels,
        out_channels: conv.out_channels,
        tile,
    };
    // Weights stored as f16 stay as small as was asked for.
    let is_stored = node.winograd.is_some_and(|squares| squares.stored == Some(tile)) && !node.half_weights;
    let planes = if is_stored {
        node.data(&transform(&weights, &dense.panels()))
    } else {
        let (packed, suffix) = dense.pack(node);
        let bytes = weights.elements().unwrap_or(0) * size_of::<f32>() as u64;
        node.prepare(format!("winograd_weights_{suffix}"), &weights, &[Some(packed)], bytes)
    };

    let tiles = conv.n * conv.out_h.div_ceil(tile) * conv.out_w.div_ceil(tile);
    let block_tiles = block_tiles(winograd_planes(tile), conv.in_channels, tiles);
    let params = Winograd { conv: *conv, tile, block_tiles, block_pairs: 1 };
    let slot = params.slot().unwrap_or(0) * size_of::<f32>() as u64;
    let pairs = conv.groups * conv.out_channels.div_ceil(2 * BLOCK as u64);
    let scratch = node.scratch_slots(slot, tiles * pairs);
    let [input, bias, residual, output] = operands;
    let operands = [input, Some(planes), bias, residual, output, Some(scratch)];
    node.call_with_outputs("winograd_f32", &params, &operands, 2);
}
