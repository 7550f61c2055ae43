//! 3×3 convolutions that may run by Winograd's algorithm, and their calls.

use infer_kernels::call::{self, BLOCK, Winograd, WinogradWeights, winograd_planes};
use infer_kernels::reference;
use rayon::prelude::*;

use super::Conv;
use crate::calls::{LowerNode, Span};
use crate::node_types::NodeTypes;
use crate::ops::pack::Dense;

/// What stays in a second-level cache of 1 MiB beside other things: the transformed inputs of a block, or its products.
const NEAR_BYTES: u64 = 528 << 10;

/// The weights of a plane that may lie ready in that cache for their use.
const AHEAD_BYTES: u64 = 256 << 10;

/// The tiles that the widest microkernel takes, and the most that are worked on together.
const TILE_STEP: u64 = 14;
const MOST_TILES: u64 = 56;

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

/// How many of `tiles`, and how many pairs of output blocks, are worked on together: those of which least comes from
/// beyond the second-level cache. Weights come for each block of tiles; transformed inputs that do not stay there, for each block of
/// pairs; and products, once.
fn blocks(weights: &WinogradWeights, tiles: u64) -> [u64; 2] {
    let planes = winograd_planes(weights.tile);
    let plane_bytes = |channels: u64| planes * channels * size_of::<f32>() as u64;
    let in_channels = weights.in_channels.next_multiple_of(BLOCK as u64);
    let pair = 2 * BLOCK as u64;
    let pairs = weights.out_channels.div_ceil(pair).max(1);
    let traffic = |block_tiles: u64, block_pairs: u64| {
        let mut bytes = tiles.div_ceil(block_tiles) * plane_bytes(in_channels) * pairs * pair;
        if block_tiles * plane_bytes(in_channels) > NEAR_BYTES {
            bytes += tiles * plane_bytes(in_channels) * (1 + pairs.div_ceil(block_pairs));
        }
        if block_tiles * plane_bytes(block_pairs * pair) > NEAR_BYTES {
            bytes += tiles * plane_bytes(pairs * pair) * 2;
        }
        bytes
    };
    let least = tiles.div_ceil(MOST_TILES).max(1);
    let tile_blocks = (least..=tiles.div_ceil(TILE_STEP).max(1)).map(|count| tiles.div_ceil(count).max(1));
    let fits = |count: &u64| *count == 1 || *count <= pairs && count * in_channels * pair * 4 <= AHEAD_BYTES;
    let pair_blocks = [1, 2, 4, 8].into_iter().filter(fits);
    let all = tile_blocks.flat_map(|tiles| pair_blocks.clone().map(move |pairs| [tiles, pairs]));
    all.min_by_key(|&[tiles, pairs]| traffic(tiles, pairs)).unwrap_or([1; 2])
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
    let [block_tiles, block_pairs] = blocks(&weights, tiles);
    let params = Winograd { conv: *conv, tile, block_tiles, block_pairs };
    let slot = params.slot().unwrap_or(0) * size_of::<f32>() as u64;
    let pairs = conv.groups * conv.out_channels.div_ceil(2 * BLOCK as u64);
    let scratch = node.scratch_slots(slot, tiles * pairs);
    let [input, bias, residual, output] = operands;
    let operands = [input, Some(planes), bias, residual, output, Some(scratch)];
    node.call_with_outputs("winograd_f32", &params, &operands, 2);
}
