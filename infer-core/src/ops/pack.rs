//! Weights into the panels that the convolution kernels read; see [`infer_kernels::call::Conv`].

use half::f16;
use infer_kernels::call::BLOCK;
use rayon::prelude::*;

use crate::calls::{LowerNode, Span};

/// Dense weights `[groups·out, in, kernel_h, kernel_w]`, read through strides so that transposed ones need no copy.
#[derive(Clone, Copy)]
pub struct Dense<'a> {
    /// The elements.
    pub values: &'a [f32],
    /// The first element.
    pub offset: usize,
    /// Groups; the output channels of one follow those of the one before.
    pub groups: usize,
    /// Output channels of one group.
    pub out_channels: usize,
    /// Input channels of one group.
    pub in_channels: usize,
    /// Rows and columns.
    pub kernel: [usize; 2],
    /// Between output channels, input channels, rows and columns.
    pub strides: [isize; 4],
    /// What every element is multiplied by.
    pub scale: f32,
}

impl Dense<'_> {
    /// The panels `[groups·OC/16][K][16]`.
    pub fn panels(&self) -> Vec<f32> {
        let [kernel_h, kernel_w] = self.kernel;
        let k = self.in_channels * kernel_h * kernel_w;
        let panels_per_group = self.out_channels.div_ceil(BLOCK);
        let mut packed = vec![0f32; self.groups * panels_per_group * k * BLOCK];
        if packed.is_empty() {
            return packed;
        }
        let [stride_o, stride_c, stride_h, stride_w] = self.strides;
        packed.par_chunks_mut(k * BLOCK).enumerate().for_each(|(panel, out)| {
            let first = panel % panels_per_group * BLOCK;
            let lanes = (self.out_channels - first).min(BLOCK);
            let origin = (panel / panels_per_group * self.out_channels + first) as isize * stride_o;
            let mut rows = out.chunks_exact_mut(BLOCK);
            for block in (0..self.in_channels).step_by(BLOCK) {
                let channels = (self.in_channels - block).min(BLOCK);
                for tap in 0..kernel_h * kernel_w {
                    let at = origin
                        + (tap / kernel_w) as isize * stride_h
                        + (tap % kernel_w) as isize * stride_w
                        + block as isize * stride_c
                        + self.offset as isize;
                    for (c, row) in (0..channels).zip(&mut rows) {
                        let mut source = at + c as isize * stride_c;
                        for slot in &mut row[..lanes] {
                            *slot = self.values[source as usize] * self.scale;
                            source += stride_o;
                        }
                    }
                }
            }
        });
        packed
    }

    /// Adds the packed weights to the plan: the memory and the kernel suffix that reads it, `f32` or `f16w`.
    pub fn pack(&self, node: &mut LowerNode<'_>) -> (Span, &'static str) {
        let (span, suffix) = store(node, self.panels());
        if self.groups == 1 {
            let taps = self.kernel[0] * self.kernel[1];
            node.are_filters(span, [self.out_channels, taps, self.in_channels]);
        }
        (span, suffix)
    }
}

/// The filters `[channels, kernel_h·kernel_w]` of a depthwise convolution as `[C/16][taps][16]`.
pub fn pack_depthwise(
    node: &mut LowerNode<'_>,
    values: &[f32],
    channels: usize,
    taps: usize,
) -> (Span, &'static str) {
    let mut packed = vec![0f32; channels.next_multiple_of(BLOCK) * taps];
    for (channel, filter) in values.chunks_exact(taps.max(1)).take(channels).enumerate() {
        for (tap, &value) in filter.iter().enumerate() {
            packed[(channel / BLOCK * taps + tap) * BLOCK + channel % BLOCK] = value;
        }
    }
    store(node, packed)
}

/// Adds packed weights to the plan, as halves where the model asks for it.
pub fn store(node: &mut LowerNode<'_>, packed: Vec<f32>) -> (Span, &'static str) {
    if node.half_weights {
        let halves: Vec<f16> = packed.par_iter().map(|&v| f16::from_f32(v)).collect();
        (node.data(&halves), "f16w")
    } else {
        (node.data(&packed), "f32")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_order_k_by_channel_block_then_tap_then_channel() {
        let (out, channels, taps) = (17usize, 18usize, 2usize);
        let values: Vec<f32> = (0..out * channels * taps).map(|v| v as f32).collect();
        let dense = Dense {
            values: &values,
            offset: 0,
            groups: 1,
            out_channels: out,
            in_channels: channels,
            kernel: [1, 2],
            strides: [36, 2, 2, 1],
            scale: 1.0,
        };
        let packed = dense.panels();
        let at = |o: usize, c: usize, tap: usize| {
            let k = c / 16 * 32 + tap * (channels - c / 16 * 16).min(16) + c % 16;
            packed[(o / 16 * channels * taps + k) * 16 + o % 16]
        };
        for (o, c, tap) in [(0, 0, 0), (3, 15, 1), (16, 17, 0), (16, 16, 1), (15, 7, 1)] {
            assert_eq!(at(o, c, tap), values[(o * channels + c) * taps + tap], "o {o} c {c} tap {tap}");
        }
        assert_eq!(packed.len(), 2 * 16 * channels * taps);
        assert!(packed[(channels * taps + 5) * 16 + 1..][..15].iter().all(|&v| v == 0.0));
    }
}
