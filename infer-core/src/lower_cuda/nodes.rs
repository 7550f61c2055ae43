//! What each operator is on the GPU.

use infer_kernels::call::{Activation, residual};
use infer_kernels::cuda::{Conv as ConvCall, MapKind, Resize as ResizeCall};
use infer_kernels::cuda::{GroupNorm as GroupNormCall, MOST_GROUPED, Window as WindowCall};

use super::pack::{self, Weights, padded};
use super::stem::Stem;
use super::{
    Form, Home, Lowering, Picture, channel_parts, extents, int, is_same_picture, tactics, transposed,
};
use crate::calls::{BufferKind, Span};
use crate::diagnostic::Reason;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::clip::Clip;
use crate::ops::concat::Concat;
use crate::ops::conv::{Conv, ConvTranspose};
use crate::ops::matmul::MatMul;
use crate::ops::normalization::GroupNormalization;
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::resize::Resize;
use crate::ops::unary::Unary;
use crate::ops::window::Windows;

/// Whether a node computes on pictures whatever its inputs are.
pub(super) fn wants_pictures(graph: &Graph, node: &Node) -> bool {
    let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { return false };
    if [input, output].iter().any(|&id| extents(graph.ty(id)).is_err()) {
        return false;
    }
    if node.op_as::<Conv>().is_some() {
        let is_known = |index: usize| graph.constant(node.input(index)).is_some();
        return is_known(1) && (node.input(2).is_none() || is_known(2));
    }
    if let Some(conv) = node.op_as::<ConvTranspose>() {
        return transposed::windows(graph, node, conv).is_some();
    }
    if let Some(pool) = node.op_as::<Pool>() {
        return pool.kind != PoolKind::Lp && node.output(1).is_none();
    }
    let axes = node.op_as::<Resize>().map(|resize| graph.with_types(node, |types| resize.plan(types)));
    match axes {
        Some(Ok(axes)) => axes.len() == 4 && axes[0].is_identity() && axes[1].is_identity(),
        _ => false,
    }
}

/// Whether a node's output is a picture, where `forms` says which of its inputs are.
pub(super) fn is_on_pictures(graph: &Graph, node: &Node, forms: &[Form]) -> bool {
    if wants_pictures(graph, node) {
        return true;
    }
    let is_picture = |index: usize| node.input(index).is_some_and(|id| forms[id.index()] == Form::Picture);
    let Some(output) = node.output(0) else { return false };
    if node.op.is_view() {
        return is_picture(0) && node.input(0).is_some_and(|input| is_same_picture(graph, input, output));
    }
    if extents(graph.ty(output)).is_err() {
        return false;
    }
    if let Some(product) = node.op_as::<MatMul>() {
        let ranks = [0, 1].map(|index| node.input(index).map(|id| graph.ty(id).rank()));
        return is_picture(0)
            && ranks == [Some(2), Some(2)]
            && graph.constant(node.input(1)).is_some()
            && !product.trans_a;
    }
    if let Some(binary) = node.op_as::<Binary>() {
        return is_picture(0) && is_picture(1) && map_of(graph, binary, node).is_some();
    }
    if let Some(unary) = node.op_as::<Unary>() {
        return is_picture(0) && unary.activation().is_some();
    }
    if let Some(clip) = node.op_as::<Clip>() {
        return is_picture(0) && graph.with_types(node, |types| clip.activation(types)).is_some();
    }
    if node.op_as::<GroupNormalization>().is_some() {
        let channels = extents(graph.ty(output)).map_or(0, |[_, c, ..]| c);
        let is_known = |index: usize| graph.constant(node.input(index)).is_some();
        return is_picture(0) && is_known(1) && is_known(2) && padded(channels) <= MOST_GROUPED;
    }
    if node.op_as::<Concat>().is_some() {
        let parts = channel_parts(graph, node);
        return (0..node.inputs.len()).all(is_picture)
            && parts.is_some_and(|parts| parts.iter().all(|(_, start)| start.is_multiple_of(padded(1))));
    }
    false
}

/// What a node computes of two pictures, and whether with its inputs swapped; `None` where their shapes do not fit.
fn map_of(graph: &Graph, binary: &Binary, node: &Node) -> Option<(MapKind, bool)> {
    let kind = match binary.kind {
        BinaryKind::Add => MapKind::Sum,
        BinaryKind::Mul => MapKind::Product,
        BinaryKind::Sub => MapKind::Difference,
        _ => return None,
    };
    let types = [graph.ty(node.input(0)?), graph.ty(node.input(1)?)];
    let (mut left, mut right) = (extents(types[0]).ok()?, extents(types[1]).ok()?);
    let swapped = kind != MapKind::Difference && left[2] * left[3] < right[2] * right[3];
    if swapped {
        std::mem::swap(&mut left, &mut right);
    }
    let same = left == extents(graph.ty(node.output(0)?)).ok()?;
    let shared = right[2] * right[3] == 1 || right[2..] == left[2..];
    (same && shared && right[..2] == left[..2] && types[0].rank() == types[1].rank())
        .then_some((kind, swapped))
}

impl Lowering<'_> {
    pub(super) fn lower_node(&mut self, node: &Node) -> Result<(), Reason> {
        // Views have their input's memory, or are converted where they are read.
        if node.op.is_view() {
            return Ok(());
        }
        let mark = self.mark();
        let Err(refusal) = self.lower_fast(node) else { return Ok(()) };
        self.back_to(mark);
        let Err(missing) = self.lower_plain(node) else { return Ok(()) };
        self.back_to(mark);
        Err(if refusal == unsupported() { missing } else { refusal })
    }

    /// Lowers a node by kernels made for the GPU.
    fn lower_fast(&mut self, node: &Node) -> Result<(), Reason> {
        let output = node.output(0).ok_or_else(unsupported)?;
        let mut types = node.inputs.iter().chain(&node.outputs).flatten().map(|&id| self.graph.ty(id));
        if types.any(|ty| ty.elements() == 0) {
            return Err(unsupported());
        }
        if self.forms[output.index()] == Form::Rows {
            return self.lower_rows(node, output);
        }
        if let Some(conv) = node.op_as::<Conv>() {
            self.conv(conv, node, output)
        } else if let Some(conv) = node.op_as::<ConvTranspose>() {
            self.conv_transpose(conv, node, output)
        } else if let Some(product) = node.op_as::<MatMul>() {
            self.product(product, node, output)
        } else if let Some(pool) = node.op_as::<Pool>() {
            self.pool(pool, node, output)
        } else if let Some(binary) = node.op_as::<Binary>() {
            self.binary(binary, node, output)
        } else if let Some(unary) = node.op_as::<Unary>() {
            let activation = unary.activation().ok_or_else(unsupported)?;
            self.activation(activation, node, output)
        } else if let Some(clip) = node.op_as::<Clip>() {
            let activation = self.graph.with_types(node, |types| clip.activation(types));
            self.activation(activation.ok_or_else(unsupported)?, node, output)
        } else if let Some(resize) = node.op_as::<Resize>() {
            self.resize(resize, node, output)
        } else if let Some(norm) = node.op_as::<GroupNormalization>() {
            self.group_norm(norm, node, output)
        } else if node.op_as::<Concat>().is_some() {
            self.concat(node, output)
        } else {
            Err(unsupported())
        }
    }

    pub(super) fn operand(&mut self, node: &Node, index: usize) -> Result<Picture, Reason> {
        let id = node.input(index).ok_or_else(|| Reason::new(format!("input {index} is missing")))?;
        self.picture(id)
    }

    pub(super) fn constant(&self, node: &Node, index: usize) -> Result<Vec<f32>, Reason> {
        let constant = self.graph.constant(node.input(index));
        let values = constant.filter(|constant| constant.ty().dtype == crate::tensor_type::DataType::F32);
        match values {
            Some(constant) => Ok(constant.values::<f32>().into_owned()),
            None => Err(Reason::new(format!("input {index} is no constant of f32"))),
        }
    }

    pub(super) fn data(&mut self, bytes: bytes::Bytes) -> Span {
        let buffer = self.calls.add_constant(bytes);
        self.calls.whole(buffer)
    }

    /// Weights of a convolution or product, packed.
    fn filters(&mut self, weights: &Weights<'_>) -> Span {
        let span = self.data(weights.pack(self.precision));
        self.calls.filters.insert(span.buffer, weights.extents);
        span
    }

    /// The residual of a convolution or product: its place and its mode.
    fn residual(&mut self, node: &Node, mode: u64) -> Result<(Option<Picture>, i32), Reason> {
        let picture = if mode == residual::NONE { None } else { Some(self.operand(node, 3)?) };
        Ok((picture, mode as i32))
    }

    fn conv(&mut self, conv: &Conv, node: &Node, output: ValueId) -> Result<(), Reason> {
        let weights = self.constant(node, 1)?;
        let bias = node.input(2).map(|_| self.constant(node, 2)).transpose()?;
        let shapes = self.graph.with_types(node, |types| Ok((types.ty(0)?.clone(), types.ty(1)?.clone())))?;
        let windows = conv.window.over(&shapes.0.shape[2..], Some(&shapes.1.shape[2..]))?;
        if windows.kernel[0] != 1 {
            return Err(unsupported());
        }
        let taps = windows.kernel[1] * windows.kernel[2];
        let bias = bias.map(|bias| self.data(pack::bias(&bias, 1.0)));
        if let Some(stem) = Stem::of(self.graph, node, self.precision) {
            let y = self.picture(output)?;
            return self.stem(&stem, &weights, bias, &y);
        }
        let (x, y) = (self.operand(node, 0)?, self.picture(output)?);
        let (added, residual_mode) = self.residual(node, conv.residual_mode)?;
        if conv.group != x.c || x.c != y.c {
            // Groups that are no single channels become one, zeros between channels of different groups.
            let each = [y.c / conv.group.max(1), x.c / conv.group.max(1)];
            let weights = match conv.group {
                1 => weights,
                _ => spread_groups(&weights, [y.c, x.c, taps], each),
            };
            let weights = Weights {
                values: &weights,
                extents: [y.c, taps, x.c],
                strides: [x.c * taps, 1, taps],
                scale: 1.0,
            };
            let weights = self.filters(&weights);
            let params = conv_call(&windows, &x, &y, conv.activation)?;
            return self.dense(params, x.span, weights, bias, (added, residual_mode), &y);
        }
        let weights =
            Weights { values: &weights, extents: [y.c, taps, 1], strides: [taps, 1, 0], scale: 1.0 };
        let weights = self.data(weights.pack_depthwise(self.float));
        let params = WindowCall {
            residual_stride: added.map_or(Ok(0), |picture| int(picture.stride))?,
            residual_mode,
            activation: conv.activation,
            ..window_call(&windows, &x, &y)?
        };
        let family = if windows.kernel[1..] == [3, 3] { "depthwise3" } else { "depthwise" };
        let operands = [Some(x.span), Some(weights), bias, added.map(|added| added.span), Some(y.span)];
        self.call(family, &params, &operands, 1);
        Ok(())
    }

    fn product(&mut self, product: &MatMul, node: &Node, output: ValueId) -> Result<(), Reason> {
        let (x, y) = (self.operand(node, 0)?, self.picture(output)?);
        let (weights, bias, _) = product_weights(self, product, node, x.c)?;
        let residual = self.residual(node, product.residual_mode)?;
        self.dense_product(&x, weights, bias, residual, product.activation, &y)
    }

    /// A product of a picture of one pixel an image with packed weights.
    pub(super) fn dense_product(
        &mut self,
        x: &Picture,
        weights: Span,
        bias: Option<Span>,
        residual: (Option<Picture>, i32),
        activation: Activation,
        y: &Picture,
    ) -> Result<(), Reason> {
        let windows = Windows {
            input: [1; 3],
            output: [1; 3],
            kernel: [1; 3],
            stride: [1; 3],
            dilation: [1; 3],
            pad_begin: [0; 3],
            pad_end: [0; 3],
        };
        let params = conv_call(&windows, x, y, activation)?;
        self.dense(params, x.span, weights, bias, residual, y)
    }

    /// A convolution or product on packed weights. Its tactic is chosen later.
    pub(super) fn dense(
        &mut self,
        params: ConvCall,
        x: Span,
        weights: Span,
        bias: Option<Span>,
        (added, residual_mode): (Option<Picture>, i32),
        y: &Picture,
    ) -> Result<(), Reason> {
        let params = ConvCall {
            residual_stride: added.map_or(Ok(0), |picture| int(picture.stride))?,
            residual_mode,
            ..params
        };
        let operands = [Some(x), Some(weights), bias, added.map(|added| added.span), None, Some(y.span)];
        self.call("conv", &params, &operands, 2);
        Ok(())
    }

    fn pool(&mut self, pool: &Pool, node: &Node, output: ValueId) -> Result<(), Reason> {
        if pool.kind == PoolKind::Lp || node.output(1).is_some() {
            return Err(unsupported());
        }
        let (x, y) = (self.operand(node, 0)?, self.picture(output)?);
        let family = if pool.kind == PoolKind::Max { "max_pool" } else { "average_pool" };
        let (windows, family) = match &pool.window {
            Some(window) => {
                let id = node.input(0).ok_or_else(unsupported)?;
                (window.over(&self.graph.ty(id).shape[2..], None)?, family.to_owned())
            }
            None => {
                let whole = crate::ops::window::Window::whole(&[x.h, x.w]);
                (whole.over(&[x.h, x.w], None)?, format!("{family}_all"))
            }
        };
        let params =
            WindowCall { count_padding: pool.count_include_pad.into(), ..window_call(&windows, &x, &y)? };
        self.call(&family, &params, &[Some(x.span), None, None, None, Some(y.span)], 1);
        Ok(())
    }

    fn binary(&mut self, binary: &Binary, node: &Node, output: ValueId) -> Result<(), Reason> {
        let (kind, swapped) = map_of(self.graph, binary, node).ok_or_else(unsupported)?;
        let (mut left, mut right) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let y = self.picture(output)?;
        if swapped {
            std::mem::swap(&mut left, &mut right);
        }
        self.map(kind, [&left, &right], &y, Activation::NONE)
    }

    fn activation(&mut self, activation: Activation, node: &Node, output: ValueId) -> Result<(), Reason> {
        let (x, y) = (self.operand(node, 0)?, self.picture(output)?);
        self.map(MapKind::Left, [&x, &x], &y, activation)
    }

    fn resize(&mut self, resize: &Resize, node: &Node, output: ValueId) -> Result<(), Reason> {
        let (x, y) = (self.operand(node, 0)?, self.picture(output)?);
        let axes = self.graph.with_types(node, |types| resize.plan(types))?;
        let [images, channels, rows, columns] = axes.as_slice() else { return Err(unsupported()) };
        if !images.is_identity() || !channels.is_identity() {
            return Err(Reason::new("a resized axis of images or channels on the GPU"));
        }
        let (taps_h, mut indices, mut weights) = resize.tables(rows)?;
        let (taps_w, more_indices, more_weights) = resize.tables(columns)?;
        indices.extend(more_indices);
        weights.extend(more_weights);
        let narrow: Vec<i32> =
            indices.into_iter().map(|index| int(index as usize)).collect::<Result<_, _>>()?;
        let indices = self.data(bytes::Bytes::copy_from_slice(bytemuck::cast_slice(&narrow)));
        let weights = self.data(bytes::Bytes::copy_from_slice(bytemuck::cast_slice(&weights)));
        let params = ResizeCall {
            in_h: int(x.h)?,
            in_w: int(x.w)?,
            in_stride: int(x.stride)?,
            out_h: int(y.h)?,
            out_w: int(y.w)?,
            out_stride: int(y.stride)?,
            taps_h: int(taps_h)?,
            taps_w: int(taps_w)?,
            pixels: int(y.pixels())?,
            channels: int(padded(y.c))?,
        };
        self.call("resize", &params, &[Some(x.span), Some(indices), Some(weights), Some(y.span)], 1);
        Ok(())
    }

    fn group_norm(&mut self, norm: &GroupNormalization, node: &Node, output: ValueId) -> Result<(), Reason> {
        let (x, y) = (self.operand(node, 0)?, self.picture(output)?);
        let groups = norm.num_groups.unwrap_or(x.c);
        if groups == 0 || !x.c.is_multiple_of(groups) {
            return Err(unsupported());
        }
        let mut by_channel = [None; 2];
        for (slot, index) in by_channel.iter_mut().zip([1, 2]) {
            let given = self.constant(node, index)?;
            let size = if given.len() == x.c { 1 } else { x.c / groups };
            let values: Vec<f32> = given.iter().flat_map(|&value| std::iter::repeat_n(value, size)).collect();
            if values.len() != x.c {
                return Err(unsupported());
            }
            *slot = Some(self.data(pack::bias(&values, 1.0)));
        }
        // Two blocks for each multiprocessor, where there are some pixels for every thread.
        let blocks = tactics::MULTIPROCESSORS as usize * 2;
        let part = (x.pixels() * padded(x.c)).div_ceil(blocks).max(1 << 13);
        let part_pixels = (part / padded(x.c)).clamp(1, x.image_pixels());
        let parts = x.image_pixels().div_ceil(part_pixels);
        let params = GroupNormCall {
            image_pixels: int(x.image_pixels())?,
            channels: int(padded(x.c))?,
            plain_channels: int(x.c)?,
            groups: int(groups)?,
            parts: int(parts)?,
            part_pixels: int(part_pixels)?,
            in_stride: int(x.stride)?,
            out_stride: int(y.stride)?,
            epsilon: norm.epsilon,
            images: int(x.n)?,
            activation: norm.activation,
        };
        let bytes = (x.n * parts * groups * 2 * size_of::<f32>()) as u64;
        let buffer = self.calls.add_buffer(BufferKind::Arena, bytes);
        let sums = Some(self.calls.whole(buffer));
        let [scale, bias] = by_channel;
        self.call("group_sums", &params, &[Some(x.span), sums], 1);
        self.call("group_norm", &params, &[Some(x.span), sums, scale, bias, Some(y.span)], 1);
        Ok(())
    }

    /// Copies the parts that do not lie in the whole already.
    fn concat(&mut self, node: &Node, output: ValueId) -> Result<(), Reason> {
        let parts = channel_parts(self.graph, node)
            .ok_or_else(|| Reason::new("a concatenation of other than channels on the GPU"))?;
        extents(self.graph.ty(output))?;
        for (part, start) in parts {
            if !start.is_multiple_of(padded(1)) {
                return Err(Reason::new(
                    "a concatenation of channels that do not come in groups of 8 on the GPU",
                ));
            }
            let (x, mut y) = (self.picture(part)?, self.picture(output)?);
            if self.homes[part.index()] == Home::Inside(output, start) {
                continue;
            }
            let skip = (start * self.element_bytes()) as u64;
            y.span.offset_bytes += skip;
            y.span.bytes -= skip;
            self.map(MapKind::Left, [&x, &x], &y, Activation::NONE)?;
        }
        Ok(())
    }
}

/// The weights of a convolution in groups of so many output and input channels, as one of all channels.
fn spread_groups(weights: &[f32], [outputs, inputs, taps]: [usize; 3], each: [usize; 2]) -> Vec<f32> {
    let mut dense = vec![0.0; outputs * inputs * taps];
    let width = each[1] * taps;
    for (o, filter) in weights.chunks_exact(width.max(1)).enumerate().take(outputs) {
        let start = o * inputs * taps + o / each[0].max(1) * width;
        dense[start..start + width].copy_from_slice(filter);
    }
    dense
}

/// The packed weights and the bias of a product with a constant matrix, and how many columns it has.
pub(super) fn product_weights(
    lowering: &mut Lowering<'_>,
    product: &MatMul,
    node: &Node,
    depth: usize,
) -> Result<(Span, Option<Span>, usize), Reason> {
    let w_type = lowering.graph.ty(node.input(1).ok_or_else(unsupported)?);
    let &[rows, columns] = w_type.shape.as_slice() else {
        return Err(Reason::new("a product of other than matrices on the GPU"));
    };
    let outputs = if product.trans_b { rows } else { columns };
    let values = lowering.constant(node, 1)?;
    let strides = if product.trans_b { [depth, 0, 1] } else { [1, 0, columns] };
    let weights = Weights { values: &values, extents: [outputs, 1, depth], strides, scale: product.alpha };
    let weights = lowering.filters(&weights);
    let bias = match node.input(2).map(|_| lowering.constant(node, 2)).transpose()? {
        None => None,
        Some(bias) if bias.len() == outputs => Some(lowering.data(pack::bias(&bias, product.beta))),
        Some(bias) if bias.len() == 1 => {
            Some(lowering.data(pack::bias(&vec![bias[0]; outputs], product.beta)))
        }
        Some(_) => return Err(Reason::new("a summand that is no row on the GPU")),
    };
    Ok((weights, bias, outputs))
}

pub(super) fn unsupported() -> Reason {
    Reason::new("the GPU has no kernel for it")
}

/// A convolution without its residual and its tactic.
pub(super) fn conv_call(
    w: &Windows,
    x: &Picture,
    y: &Picture,
    activation: Activation,
) -> Result<ConvCall, Reason> {
    Ok(ConvCall {
        in_h: int(x.h)?,
        in_w: int(x.w)?,
        in_stride_n: int(x.image_pixels() * x.stride)?,
        in_stride_h: int(x.w * x.stride)?,
        in_stride_w: int(x.stride)?,
        channels: int(padded(x.c))?,
        taps: int(w.kernel[1] * w.kernel[2])?,
        kernel_w: int(w.kernel[2])?,
        out_h: int(y.h)?,
        out_w: int(y.w)?,
        stride_h: int(w.stride[1])?,
        stride_w: int(w.stride[2])?,
        pad_h: int(w.pad_begin[1])?,
        pad_w: int(w.pad_begin[2])?,
        dilation_h: int(w.dilation[1])?,
        dilation_w: int(w.dilation[2])?,
        pixels: int(y.pixels())?,
        out_channels: int(padded(y.c))?,
        out_stride: int(y.stride)?,
        activation,
        ..ConvCall::default()
    })
}

/// A depthwise convolution or a pool, without residual and activation.
fn window_call(w: &Windows, x: &Picture, y: &Picture) -> Result<WindowCall, Reason> {
    Ok(WindowCall {
        in_h: int(x.h)?,
        in_w: int(x.w)?,
        in_stride: int(x.stride)?,
        kernel_h: int(w.kernel[1])?,
        kernel_w: int(w.kernel[2])?,
        out_h: int(y.h)?,
        out_w: int(y.w)?,
        stride_h: int(w.stride[1])?,
        stride_w: int(w.stride[2])?,
        pad_h: int(w.pad_begin[1])?,
        pad_w: int(w.pad_begin[2])?,
        dilation_h: int(w.dilation[1])?,
        dilation_w: int(w.dilation[2])?,
        pixels: int(y.pixels())?,
        channels: int(padded(x.c))?,
        out_stride: int(y.stride)?,
        pad_end_h: int(w.pad_end[1])?,
        pad_end_w: int(w.pad_end[2])?,
        ..WindowCall::default()
    })
}
