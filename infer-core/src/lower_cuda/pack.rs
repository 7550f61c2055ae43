//! Weights in the order in which the GPU's kernels read them.

use bytes::Bytes;
use half::{bf16, f16};
use infer_kernels::cuda::{ElementType, LANES, STEM_CHANNELS, StemFragments, round_to_tf32};

use super::stored_float;
use crate::options::Precision;

/// Weights as they stand in the model: `values[o·strides[0] + tap·strides[1] + c·strides[2]] · scale`.
pub struct Weights<'a> {
    /// The elements.
    pub values: &'a [f32],
    /// Output channels, taps, input channels.
    pub extents: [usize; 3],
    /// The distances between them.
    pub strides: [usize; 3],
    /// A factor.
    pub scale: f32,
}

/// The channels of a picture, padded.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

impl Weights<'_> {
    /// `[output channels, padded][taps][input channels, padded]`, zeros in the padding.
    pub fn pack(&self, precision: Precision) -> Bytes {
        let [outputs, taps, inputs] = self.extents;
        let width = padded(inputs);
        let mut packed = vec![0f32; padded(outputs) * taps * width];
        for (row, target) in packed.chunks_exact_mut(width).take(outputs * taps).enumerate() {
            let (o, tap) = (row / taps, row % taps);
            let start = o * self.strides[0] + tap * self.strides[1];
            for (c, target) in target.iter_mut().take(inputs).enumerate() {
                *target = self.values[start + c * self.strides[2]] * self.scale;
            }
        }
        if precision == Precision::Tf32 {
            packed.iter_mut().for_each(|value| *value = round_to_tf32(*value));
        }
        elements(packed, stored_float(precision))
    }

    /// `[input channels][taps][output channels]` in f32, the latter padded to a multiple of [`STEM_CHANNELS`].
    pub fn pack_stem(&self) -> Bytes {
        let [outputs, taps, inputs] = self.extents;
        let width = outputs.next_multiple_of(STEM_CHANNELS);
        let mut packed = vec![0f32; inputs * taps * width];
        for (row, target) in packed.chunks_exact_mut(width).enumerate() {
            let start = row % taps * self.strides[1] + row / taps * self.strides[2];
            for (o, target) in target.iter_mut().take(outputs).enumerate() {
                *target = self.values[start + o * self.strides[0]] * self.scale;
            }
        }
        elements(packed, ElementType::F32)
    }

    /// In the order of [`StemFragments`] for a kernel of so many rows and columns, for blocks of so many output channels.
    pub fn pack_stem_fragments(&self, kernel: [usize; 2], block: usize, float: ElementType) -> Bytes {
        let [outputs, taps, inputs] = self.extents;
        let order = StemFragments { channels: inputs, kernel };
        let mut packed = vec![0f32; order.elements(outputs, block)];
        for index in 0..outputs * taps * inputs {
            let (c, tap, o) = (index % inputs, index / inputs % taps, index / inputs / taps);
            let value = self.values[o * self.strides[0] + tap * self.strides[1] + c * self.strides[2]];
            packed[order.place(o, c, [tap / kernel[1], tap % kernel[1]])] = value * self.scale;
        }
        elements(packed, float)
    }

    /// `[taps][output channels, padded]`, for one input channel each.
    pub fn pack_depthwise(&self, float: ElementType) -> Bytes {
        let [outputs, taps, _] = self.extents;
        let width = padded(outputs);
        let mut packed = vec![0f32; taps * width];
        for (tap, target) in packed.chunks_exact_mut(width).enumerate() {
            for (o, target) in target.iter_mut().take(outputs).enumerate() {
                *target = self.values[o * self.strides[0] + tap * self.strides[1]] * self.scale;
            }
        }
        elements(packed, float)
    }
}

/// Numbers stored as f16, bf16, or else as they are.
pub fn elements(values: Vec<f32>, float: ElementType) -> Bytes {
    match float {
        ElementType::F16 => narrowed(&values, f16::from_f32),
        ElementType::Bf16 => narrowed(&values, bf16::from_f32),
        _ => Bytes::copy_from_slice(bytemuck::cast_slice(&values)),
    }
}

fn narrowed<T: bytemuck::NoUninit>(values: &[f32], narrow: fn(f32) -> T) -> Bytes {
    let narrow: Vec<T> = values.iter().map(|&value| narrow(value)).collect();
    Bytes::copy_from_slice(bytemuck::cast_slice(&narrow))
}

/// A bias, in f32 whatever the precision, padded with zeros.
pub fn bias(values: &[f32], scale: f32) -> Bytes {
    let mut packed: Vec<f32> = values.iter().map(|v| v * scale).collect();
    packed.resize(padded(values.len()), 0.0);
    Bytes::copy_from_slice(bytemuck::cast_slice(&packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_padded_with_zeros() {
        let values: Vec<f32> = (1..=12).map(|v| v as f32).collect();
        let weights = Weights { values: &values, extents: [2, 2, 3], strides: [6, 1, 2], scale: 2.0 };
        let packed: Vec<f32> = bytemuck::pod_collect_to_vec(&weights.pack(Precision::Fp32));
        assert_eq!(packed.len(), 8 * 2 * 8);
        assert_eq!(packed[..16], [2., 6., 10., 0., 0., 0., 0., 0., 4., 8., 12., 0., 0., 0., 0., 0.]);
        assert_eq!(packed[16..19], [14., 18., 22.]);
        assert!(packed[32..].iter().all(|&v| v == 0.0));
        let weights = Weights { extents: [3, 4, 1], strides: [4, 1, 0], ..weights };
        let packed: Vec<f16> = bytemuck::pod_collect_to_vec(&weights.pack_depthwise(ElementType::F16));
        assert_eq!(packed[8..12], [4.0, 12.0, 20.0, 0.0].map(f16::from_f32));
    }
}
