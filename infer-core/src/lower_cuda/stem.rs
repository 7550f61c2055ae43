//! Convolutions of few channels that read an input of the graph as the caller has it.
//!
//! As a picture such an input would be padding for the most part. In 16 bits the matrix units take it as it is, as far as
//! what a block meets of it fits into shared memory. In 32 bits, where taps are few, the processors of f32 multiply.
//! Else the input becomes a picture of four channels that has the convolution's padding around it: the pixels that a row of
//! the window meets are neighbours then, so that the row is one tap of all their channels.

use infer_kernels::call::{Activation, residual};
use infer_kernels::cuda::{Conv as ConvCall, PADDED_CHANNELS, Padded, Stem as StemCall};

use super::pack::{Weights, padded};
use super::{Lowering, Picture, extents, int};
use crate::calls::{BufferKind, Span};
use crate::diagnostic::Reason;
use crate::graph::{Graph, Node};
use crate::ops::conv::Conv;
use crate::ops::window::Windows;
use crate::options::Precision;

/// The most taps that are left to the processors of f32.
const STEM_TAPS: usize = 9;

/// A convolution of an input of the graph.
pub(super) struct Stem {
    /// The input.
    pub port: usize,
    way: Way,
    windows: Windows,
    /// Images, channels, rows and columns of the input.
    input: [usize; 4],
    /// Its call, but for what only the output's place says.
    call: StemCall,
}

/// How it is computed.
enum Way {
    /// By the matrix units, so many channels a block.
    Matrix(usize),
    /// By the processors of f32.
    Taps,
    /// As a convolution of a padded picture.
    Runs,
}

impl Stem {
    /// A node, where it is one.
    pub fn of(graph: &Graph, node: &Node, precision: Precision) -> Option<Stem> {
        let conv = node.op_as::<Conv>()?;
        let (id, weights) = (node.input(0)?, graph.constant(node.input(1))?);
        let port = graph.inputs.iter().position(|&input| input == id)?;
        let (ty, kernel) = (graph.ty(id), &weights.ty().shape);
        let input = extents(ty).ok()?;
        let windows = conv.window.over(ty.shape.get(2..)?, Some(kernel.get(2..)?)).ok()?;
        if windows.kernel[0] != 1
            || input[1] > PADDED_CHANNELS
            || conv.group != 1
            || conv.residual_mode != residual::NONE
        {
            return None;
        }
        let call = stem_call(&windows, input, *kernel.first()?, conv.activation).ok()?;
        let matrix = match precision {
            Precision::Fp16 | Precision::Bf16 => call.matrix_channels().map(Way::Matrix),
            _ => (windows.kernel[1] * windows.kernel[2] <= STEM_TAPS).then_some(Way::Taps),
        };
        let way = matrix.or_else(|| has_runs(&windows, input[0]).then_some(Way::Runs))?;
        Some(Stem { port, way, windows, input, call })
    }
}

/// The call of a convolution of an input with so many output channels.
fn stem_call(
    windows: &Windows,
    [n, c, h, w]: [usize; 4],
    outputs: usize,
    activation: Activation,
) -> Result<StemCall, Reason> {
    let [_, out_h, out_w] = windows.output;
    Ok(StemCall {
        in_h: int(h)?,
        in_w: int(w)?,
        channels: int(c)?,
        kernel_h: int(windows.kernel[1])?,
        kernel_w: int(windows.kernel[2])?,
        out_h: int(out_h)?,
        out_w: int(out_w)?,
        stride_h: int(windows.stride[1])?,
        stride_w: int(windows.stride[2])?,
        pad_h: int(windows.pad_begin[1])?,
        pad_w: int(windows.pad_begin[2])?,
        dilation_h: int(windows.dilation[1])?,
        dilation_w: int(windows.dilation[2])?,
        pixels: int(n * out_h * out_w)?,
        out_channels: int(padded(outputs))?,
        out_stride: 0,
        activation,
    })
}

/// Whether the windows' rows begin at whole vectors of eight, in a picture that is not too large.
fn has_runs(windows: &Windows, images: usize) -> bool {
    let [rows, columns] = padded_extents(windows);
    let mut extents = [images, rows, columns, PADDED_CHANNELS].into_iter();
    let elements = extents.try_fold(1usize, |count, extent| count.checked_mul(extent));
    windows.stride[2].is_multiple_of(2) && elements.is_some_and(|elements| elements < 1 << 30)
}

/// The pixels of the windows' rows, an even number.
fn run(windows: &Windows) -> usize {
    (windows.kernel[2].saturating_sub(1) * windows.dilation[2] + 1).next_multiple_of(2)
}

/// The rows and columns that all windows meet, padding included.
fn padded_extents(windows: &Windows) -> [usize; 2] {
    let last = [1, 2].map(|axis| windows.output[axis].saturating_sub(1) * windows.stride[axis]);
    let rows = last[0] + windows.kernel[1].saturating_sub(1) * windows.dilation[1] + 1;
    [rows, (last[1] + run(windows)).next_multiple_of(2)]
}

impl Lowering<'_> {
    /// Its calls; `values` are the weights as they stand in the model.
    pub(super) fn stem(
        &mut self,
        stem: &Stem,
        values: &[f32],
        bias: Option<Span>,
        y: &Picture,
    ) -> Result<(), Reason> {
        let (input, channels, windows) = (self.input(stem.port), stem.input[1], &stem.windows);
        let taps = windows.kernel[1] * windows.kernel[2];
        let weights = Weights {
            values,
            extents: [y.c, taps, channels],
            strides: [channels * taps, 1, taps],
            scale: 1.0,
        };
        let (family, weights) = match stem.way {
            Way::Matrix(block) => (
                format!("stem_matrix{block}"),
                weights.pack_stem_fragments([windows.kernel[1], windows.kernel[2]], block, self.float),
            ),
            Way::Taps if windows.kernel[1..] == [3, 3] => ("stem3".into(), weights.pack_stem()),
            Way::Taps => ("stem".into(), weights.pack_stem()),
            Way::Runs => return self.stem_by_runs(stem, values, bias, y),
        };
        let params = StemCall { out_stride: int(y.stride)?, ..stem.call };
        let weights = self.data(weights);
        self.call(&family, &params, &[Some(input), Some(weights), bias, Some(y.span)], 1);
        Ok(())
    }

    fn stem_by_runs(
        &mut self,
        stem: &Stem,
        values: &[f32],
        bias: Option<Span>,
        y: &Picture,
    ) -> Result<(), Reason> {
        let (input, [n, c, h, w], windows) = (self.input(stem.port), stem.input, &stem.windows);
        let [rows, columns] = padded_extents(windows);
        let params = Padded {
            images: int(n)?,
            plain_channels: int(c)?,
            in_h: int(h)?,
            in_w: int(w)?,
            rows: int(rows)?,
            columns: int(columns)?,
            pad_h: int(windows.pad_begin[1])?,
            pad_w: int(windows.pad_begin[2])?,
        };
        let row = columns * PADDED_CHANNELS;
        let bytes = n * rows * row * self.element_bytes();
        let buffer = self.calls.add_buffer(BufferKind::Arena, bytes as u64);
        let span = self.calls.whole(buffer);
        self.call("from_plain_padded", &params, &[Some(input), Some(span)], 1);

        let (kernel, channels) = (windows.kernel, run(windows) * PADDED_CHANNELS);
        let weights = spread_rows(values, [y.c, c, kernel[1], kernel[2]], windows.dilation[2], channels);
        let weights = Weights {
            values: &weights,
            extents: [y.c, kernel[1], channels],
            strides: [kernel[1] * channels, channels, 1],
            scale: 1.0,
        };
        let weights = self.data(weights.pack(self.precision));
        let params = ConvCall {
            in_h: int(rows)?,
            in_w: int(y.w)?,
            in_stride_n: int(rows * row)?,
            in_stride_h: int(row)?,
            in_stride_w: int(windows.stride[2] * PADDED_CHANNELS)?,
            channels: int(channels)?,
            taps: int(kernel[1])?,
            kernel_w: 1,
            out_h: int(y.h)?,
            out_w: int(y.w)?,
            stride_h: int(windows.stride[1])?,
            stride_w: 1,
            dilation_h: int(windows.dilation[1])?,
            dilation_w: 1,
            pixels: int(y.pixels())?,
            out_channels: int(padded(y.c))?,
            out_stride: int(y.stride)?,
            activation: stem.call.activation,
            ..ConvCall::default()
        };
        self.dense(params, span, weights, bias, (None, residual::NONE as i32), y)
    }
}

/// Weights `[outputs][channels][rows][columns]` as `[outputs][rows][width]`, where four channels of a column follow those of
/// the column before, and columns are so far apart.
fn spread_rows(
    weights: &[f32],
    [outputs, channels, rows, columns]: [usize; 4],
    dilation: usize,
    width: usize,
) -> Vec<f32> {
    let mut spread = vec![0.0; outputs * rows * width];
    for (index, &weight) in weights.iter().enumerate() {
        let (column, rest) = (index % columns, index / columns);
        let (row, rest) = (rest % rows, rest / rows);
        let (channel, output) = (rest % channels, rest / channels);
        let place = (column * dilation) * PADDED_CHANNELS + channel;
        spread[(output * rows + row) * width + place] = weight;
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_window_are_one_tap() {
        let weights: Vec<f32> = (1..=12).map(|v| v as f32).collect();
        let spread = spread_rows(&weights, [1, 2, 2, 3], 1, 16);
        assert_eq!(spread[..12], [1., 7., 0., 0., 2., 8., 0., 0., 3., 9., 0., 0.]);
        assert_eq!(spread[12..20], [0., 0., 0., 0., 4., 10., 0., 0.]);
        let spread = spread_rows(&weights, [1, 2, 2, 3], 2, 24);
        assert_eq!(spread[..10], [1., 7., 0., 0., 0., 0., 0., 0., 2., 8.]);
    }
}
