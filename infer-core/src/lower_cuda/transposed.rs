//! Transposed convolution as an ordinary one.
//!
//! With stride s the row y of the output is row g of phase φ, where y + pad = s·g + φ, and
//!
//! ```text
//! out[s·g + φ − pad, o] = Σ_u Σ_c in[g − u, c] · w[c, o, φ + s·u]
//! ```
//!
//! likewise along the columns. That is one convolution over g whose output channels are (φ of rows, φ of columns, o); where a
//! phase has fewer taps than others, its weights are zero. A copy then puts the phases where they belong.

use infer_kernels::call::residual;
use infer_kernels::cuda::Interleave;

use super::nodes::{conv_call, unsupported};
use super::pack::{self, Weights, padded};
use super::{Lowering, extents, int};
use crate::diagnostic::Reason;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::conv::ConvTranspose;
use crate::ops::window::Windows;
use crate::tensor_type::{DataType, TensorType};

/// The convolution counts rows and columns in 16 bits.
const MOST_EXTENT: usize = 1 << 15;

/// One axis.
struct Axis {
    stride: usize,
    /// Taps of a phase.
    taps: usize,
    /// The padding before, of the convolution.
    pad: usize,
    /// How many g there are.
    count: usize,
    /// What lies before the first element of the output.
    crop: usize,
}

impl Axis {
    fn of(w: &Windows, axis: usize) -> Axis {
        let (stride, pad, output) = (w.stride[axis], w.pad_begin[axis], w.output[axis]);
        // A convolution of one tap reads no padding: where g goes beyond the input, there is a tap more, of zeros.
        let taps = match w.kernel[axis].div_ceil(stride) {
            1 if (pad + output).div_ceil(stride) > w.input[axis] => 2,
            taps => taps,
        };
        // The first g that is computed: that of the first element, or an earlier one where its taps would all be inside.
        let first = (pad / stride).min(taps - 1);
        let crop = pad - first * stride;
        Axis { stride, taps, pad: taps - 1 - first, count: (crop + output).div_ceil(stride), crop }
    }

    /// The element of the kernel that tap `tap` of a phase multiplies with, where there is one.
    fn element(&self, phase: usize, tap: usize, kernel: usize) -> Option<usize> {
        Some(phase + self.stride * (self.taps - 1 - tap)).filter(|&element| element < kernel)
    }
}

/// The windows of a transposed convolution that runs as an ordinary one.
pub(super) fn windows(graph: &Graph, node: &Node, conv: &ConvTranspose) -> Option<Windows> {
    let is_known = |index: usize| graph.constant(node.input(index)).is_some();
    let known = is_known(1) && (node.input(2).is_none() || is_known(2));
    let w = graph.with_types(node, |types| conv.windows(types)).ok()?;
    let fits = |axis: usize| {
        let Axis { count, .. } = Axis::of(&w, axis);
        (w.dilation[axis] == 1 || w.kernel[axis] == 1) && count.max(w.input[axis]) < MOST_EXTENT
    };
    (known && conv.group == 1 && (1..3).all(fits)).then_some(w)
}

impl Lowering<'_> {
    pub(super) fn conv_transpose(
        &mut self,
        conv: &ConvTranspose,
        node: &Node,
        output: ValueId,
    ) -> Result<(), Reason> {
        let w = windows(self.graph, node, conv).ok_or_else(unsupported)?;
        let (x, y) = (self.operand(node, 0)?, self.picture(output)?);
        let [rows, columns] = [1, 2].map(|axis| Axis::of(&w, axis));
        let (phases, width) = (rows.stride * columns.stride, padded(y.c));
        let bias = node.input(2).map(|_| self.constant(node, 2)).transpose()?;
        let bias = bias.map(|mut bias| {
            bias.resize(width, 0.0);
            self.data(pack::bias(&bias.repeat(phases), 1.0))
        });
        let values = phase_weights(&self.constant(node, 1)?, [x.c, y.c], &w, [&rows, &columns]);
        let taps = rows.taps * columns.taps;
        let weights = Weights {
            values: &values,
            extents: [phases * width, taps, x.c],
            strides: [taps * x.c, x.c, 1],
            scale: 1.0,
        };
        let weights = self.data(weights.pack(self.precision));
        let grid = [x.n, phases * width, rows.count, columns.count];
        extents(&TensorType::new(DataType::F32, grid))?;
        let sums = self.scratch_picture(grid);
        let windows = Windows {
            input: [1, x.h, x.w],
            output: [1, rows.count, columns.count],
            kernel: [1, rows.taps, columns.taps],
            stride: [1; 3],
            dilation: [1; 3],
            pad_begin: [0, rows.pad, columns.pad],
            pad_end: [0; 3],
        };
        let params = conv_call(&windows, &x, &sums, conv.activation)?;
        self.dense(params, x.span, weights, bias, (None, residual::NONE as i32), &sums)?;
        let params = Interleave {
            in_h: int(rows.count)?,
            in_w: int(columns.count)?,
            in_stride: int(sums.stride)?,
            phases_h: int(rows.stride)?,
            phases_w: int(columns.stride)?,
            crop_h: int(rows.crop)?,
            crop_w: int(columns.crop)?,
            out_h: int(y.h)?,
            out_w: int(y.w)?,
            out_stride: int(y.stride)?,
            pixels: int(y.pixels())?,
            channels: int(width)?,
        };
        self.call("interleave", &params, &[Some(sums.span), Some(y.span)], 1);
        Ok(())
    }
}

/// `[phase of rows, phase of columns, output channel, padded][tap][input channel]` of weights
/// `[input channel][output channel][tap]`.
fn phase_weights(
    weights: &[f32],
    [inputs, outputs]: [usize; 2],
    w: &Windows,
    [rows, columns]: [&Axis; 2],
) -> Vec<f32> {
    let (width, kernel) = (padded(outputs), [w.kernel[1], w.kernel[2]]);
    let taps = rows.taps * columns.taps;
    let mut packed = vec![0.0; rows.stride * columns.stride * width * taps * inputs];
    for (index, target) in packed.chunks_exact_mut(inputs).enumerate() {
        let (tap, o, phase) = (index % taps, index / taps % width, index / taps / width);
        let row = rows.element(phase / columns.stride, tap / columns.taps, kernel[0]);
        let column = columns.element(phase % columns.stride, tap % columns.taps, kernel[1]);
        if let (Some(row), Some(column), true) = (row, column, o < outputs) {
            for (c, target) in target.iter_mut().enumerate() {
                *target = weights[((c * outputs + o) * kernel[0] + row) * kernel[1] + column];
            }
        }
    }
    packed
}
