//! Conv, ConvTranspose.
//!
//! <https://onnx.ai/onnx/operators/onnx__Conv.html>, since opset 1, unchanged but for types (11, 22).
//! <https://onnx.ai/onnx/operators/onnx__ConvTranspose.html>, since opset 1 (11, 22).
//!
//! Types: f32; f16 and bf16 compute in f32, f64 on the host.
//!
//! Blocked pictures run on the packed kernels; what those cannot do (odd groups, three spatial axes, weights known
//! only at run time) runs on the general ones. A transposed convolution of stride s is s² convolutions, one for each
//! phase of the output, that write interleaved pixels. 3×3 convolutions of larger pictures run by Winograd's algorithm
//! (`conv/winograd.rs`; which ones, `lower/winograd.rs` decides).

pub mod gate;
pub mod winograd;
mod winograd_rows;

use infer_kernels::call::{self, Activation, BLOCK, View, residual};
use infer_kernels::work::Work;

use crate::calls::{LowerNode, Span, Squares, Tensor};
use crate::constant::Constant;
use crate::decisions::Candidate;
use crate::diagnostic::Reason;
use crate::ops::compose;
use crate::ops::elements::with_types;
use crate::ops::host_kernels;
use crate::ops::pack::{Dense, pack_depthwise};
use crate::ops::window::{AutoPad, Window, Windows};
use crate::ops::{
    Attribute, Blocking, Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, Wire, expect_dtype,
};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row { name: "Conv", domain: "", since: 1, inputs: 2..=3, outputs: 1..=1, import: import_conv },
    Row {
        name: "ConvTranspose",
        domain: "",
        since: 1,
        inputs: 2..=3,
        outputs: 1..=1,
        import: import_transpose,
    },
];

/// A convolution, with what later passes fused into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// The window.
    pub window: Window,
    /// Groups.
    pub group: usize,
    /// Applied to the result.
    pub activation: Activation,
    /// Where input 3 is added, one of [`residual`].
    pub residual_mode: u64,
}

/// A transposed convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvTranspose {
    /// The window; its pads are taken from the output.
    pub window: Window,
    /// Groups.
    pub group: usize,
    /// Added to the output's extents.
    pub output_padding: Vec<i64>,
    /// The output's extents, where given: they decide the padding.
    pub output_shape: Vec<i64>,
    /// Applied to the result.
    pub activation: Activation,
}

fn import_group(node: &mut ImportNode) -> Result<usize, Reason> {
    let group = node.attributes.int("group")?.unwrap_or(1);
    usize::try_from(group)
        .ok()
        .filter(|&g| g > 0)
        .ok_or_else(|| Reason::new(format!("group is {group}, which is no number of groups")))
}

fn import_conv(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let (window, group) = (Window::import(node)?, import_group(node)?);
    Ok(Box::new(Conv { window, group, activation: Activation::NONE, residual_mode: residual::NONE }))
}

fn import_transpose(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(ConvTranspose {
        window: Window::import(node)?,
        group: import_group(node)?,
        output_padding: node.attributes.ints("output_padding")?.unwrap_or_default(),
        output_shape: node.attributes.ints("output_shape")?.unwrap_or_default(),
        activation: Activation::NONE,
    }))
}

/// The channels and windows of a convolution whose types have been checked.
struct Geometry {
    n: usize,
    groups: usize,
    /// Input channels of one group.
    in_channels: usize,
    /// Output channels of one group.
    out_channels: usize,
    windows: Windows,
}

impl Geometry {
    fn multiply_adds(&self) -> u64 {
        let taps: usize = self.windows.kernel.iter().product();
        (self.n * self.groups * self.out_channels * self.in_channels) as u64 * taps as u64
    }

    /// How the packed kernels divide the channels: (groups, input, output channels of one), or `None` where they
    /// cannot. Several groups that share a block of 16 channels run as one, with zeros where they do not touch.
    fn packed_groups(&self) -> Option<(usize, usize, usize)> {
        let (groups, input, output) = (self.groups, self.in_channels, self.out_channels);
        if groups == 1 || (input.is_multiple_of(BLOCK) && output.is_multiple_of(BLOCK)) {
            Some((groups, input, output))
        } else if input == output && BLOCK.is_multiple_of(input) && (groups * input).is_multiple_of(BLOCK) {
            Some((groups * input / BLOCK, BLOCK, BLOCK))
        } else {
            None
        }
    }

    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.in_channels == 1 && self.out_channels == 1
    }

    fn general(&self, activation: Activation) -> call::ConvNd {
        let w = &self.windows;
        call::ConvNd {
            n: self.n as u64,
            groups: self.groups as u64,
            in_channels: self.in_channels as u64,
            out_channels: self.out_channels as u64,
            input: w.input.map(|v| v as u64),
            output: w.output.map(|v| v as u64),
            kernel: w.kernel.map(|v| v as u64),
            stride: w.stride.map(|v| v as u64),
            dilation: w.dilation.map(|v| v as u64),
            pad_begin: w.pad_begin.map(|v| v as u64),
            activation,
        }
    }
}

/// Checks the types of a convolution, whose weights are `[M, C/group, …]`, or `[C, M/group, …]` transposed.
fn channels(node: &NodeTypes<'_>, group: usize, transposed: bool) -> Result<(usize, usize, usize), Reason> {
    let (x, w) = (node.ty(0)?, node.ty(1)?);
    expect_dtype(x, &[DataType::F32, DataType::F64, DataType::F16, DataType::Bf16])?;
    if w.dtype != x.dtype {
        return Err(Reason::new(format!("weights are {}, the input {}", w.dtype, x.dtype)));
    }
    let (&[n, c, ..], &[w0, w1, ..]) = (x.shape.as_slice(), w.shape.as_slice()) else {
        return Err(Reason::new(format!("input {x} with weights {w}: both need at least 3 dimensions")));
    };
    if x.rank() != w.rank() {
        return Err(Reason::new(format!("input {x} and weights {w} differ in rank")));
    }
    let (in_total, in_channels, out_channels) =
        if transposed { (w0, w0 / group, w1) } else { (w1.saturating_mul(group), w1, w0 / group) };
    if c != in_total || !w0.is_multiple_of(group) || group > w0.max(1) {
        return Err(Reason::new(format!(
            "input {x} has {c} channels, weights {w} with group {group} take {in_total}"
        )));
    }
    if let Some(bias) = node.optional(2)
        && (bias.shape != [out_channels * group] || bias.dtype != x.dtype)
    {
        return Err(Reason::new(format!("bias {bias} is not {}[{}]", x.dtype, out_channels * group)));
    }
    Ok((n, in_channels, out_channels))
}

fn output_type(node: &NodeTypes<'_>, geometry: &Geometry) -> Result<TensorType, Reason> {
    let x = node.ty(0)?;
    let mut shape = vec![geometry.n, geometry.groups * geometry.out_channels];
    shape.extend(geometry.windows.output_shape(x.rank() - 2));
    Ok(TensorType::new(x.dtype, shape))
}

/// Whether a convolution with constant weights over one or two axes can run blocked, and with which input block.
fn blocking(node: &NodeTypes<'_>, geometry: &Geometry) -> Blocking {
    let picture = node.ty(0).is_ok_and(|x| matches!(x.rank(), 3 | 4) && x.dtype == DataType::F32);
    let constant = node.constant(1).is_some() && (node.optional(2).is_none() || node.constant(2).is_some());
    let supported = geometry.packed_groups().is_some() || geometry.is_depthwise();
    if !(picture && constant && supported) {
        return Blocking::Never;
    }
    let dense = geometry.groups == 1;
    Blocking::Preferred { input_block: if dense { geometry.in_channels.clamp(1, BLOCK) } else { BLOCK } }
}

/// Computes in f32 where the elements are shorter floats.
fn widened(
    nodes: &mut Expansion<'_>,
    name: &str,
    attributes: &[(&str, Attribute)],
) -> Result<Option<Vec<Wire>>, Reason> {
    let dtype = nodes.types.ty(0)?.dtype;
    if !matches!(dtype, DataType::F16 | DataType::Bf16) {
        return Ok(None);
    }
    let mut inputs = Vec::new();
    for index in 0..nodes.types.inputs.len() {
        if let Some(ty) = nodes.types.optional(index) {
            if ty.dtype != dtype {
                return Err(Reason::new(format!("input {index} is {ty}, the first of {dtype}")));
            }
            inputs.push(compose::wide_input(nodes, index)?);
        }
    }
    let result = nodes.node(name, &inputs, attributes)?;
    Ok(Some(vec![compose::cast(nodes, result, dtype)?]))
}

/// A convolution of f64; `None` for other types.
fn compute(
    node: &NodeValues<'_>,
    transposed: bool,
    geometry: impl Fn(&NodeTypes<'_>) -> Result<Geometry, Reason>,
) -> Result<Option<Vec<Value>>, Reason> {
    let (x, w) = (node.tensor(0)?, node.tensor(1)?);
    if x.ty().dtype != DataType::F64 {
        return Ok(None);
    }
    let (params, output) = with_types(node, |types| {
        let geometry = geometry(types)?;
        Ok::<_, Reason>((geometry.general(Activation::NONE), output_type(types, &geometry)?))
    })?;
    let bias: Option<&Constant> = node.optional_tensor(2)?;
    Ok(Some(vec![host_kernels::conv([x, w], bias, &params, transposed, output)?.into()]))
}

fn is_f64(node: &NodeTypes<'_>) -> bool {
    node.optional(0).is_some_and(|x| x.dtype == DataType::F64)
}

impl Conv {
    fn geometry(&self, node: &NodeTypes<'_>) -> Result<Geometry, Reason> {
        let (n, in_channels, out_channels) = channels(node, self.group, false)?;
        let (x, w) = (node.ty(0)?, node.ty(1)?);
        let windows = self.window.over(&x.shape[2..], Some(&w.shape[2..]))?;
        Ok(Geometry { n, groups: self.group, in_channels, out_channels, windows })
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        "Conv"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let mut attributes = self.window.attributes();
        attributes.push(("group", (self.group as i64).into()));
        widened(nodes, "Conv", &attributes)
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        is_f64(node)
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        compute(node, false, |types| self.geometry(types))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![output_type(node, &self.geometry(node)?)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let geometry = node.with_types(|types| self.geometry(types))?;
        let (x, y) = (node.input(0)?, node.output(0)?);
        let (Some(input), Some(_)) = (x.blocked, y.blocked) else {
            return self.lower_general(node, &geometry, &x, &y);
        };
        let weights = float_constant(node, 1)?;
        let bias = bias(node, geometry.groups * geometry.out_channels)?;
        let mut view = input.view;
        let w = &geometry.windows;
        view.offset -= w.pad_begin[1] as u64 * view.stride_h + w.pad_begin[2] as u64 * view.stride_w;
        let residual = node.optional_input(3);
        let mut params = call::Conv {
            input: view,
            residual: residual.as_ref().and_then(|r| r.blocked).map_or_else(View::default, |b| b.view),
            residual_mode: self.residual_mode,
            activation: self.activation,
            ..blocked_call(&geometry, &y)
        };
        let mut source = x.span;
        let (kernel, packed) = if self.is_depthwise(node, &geometry, &params) {
            let taps = w.kernel[1] * w.kernel[2];
            let (packed, suffix) = pack_depthwise(node, &weights, geometry.groups, taps);
            (format!("depthwise_{suffix}"), packed)
        } else {
            let merged = merged_groups(&weights, &geometry);
            let values = merged.as_deref().unwrap_or(&weights);
            let (groups, in_channels, out_channels) = geometry.packed_groups().unwrap_or((1, 0, 0));
            params.groups = groups as u64;
            params.in_channels = in_channels as u64;
            params.in_block = input.block.min(in_channels) as u64;
            params.out_channels = out_channels as u64;
            let taps = w.kernel[1] * w.kernel[2];
            let dense = Dense {
                values,
                offset: 0,
                groups,
                out_channels,
                in_channels,
                kernel: [w.kernel[1], w.kernel[2]],
                strides: [in_channels * taps, taps, w.kernel[2], 1].map(|s| s as isize),
                scale: 1.0,
            };
            let tile = node.winograd.and_then(|squares| {
                let shape = || signature("conv_f32", &params);
                Squares::TILES[node.choose_or("convolution", shape, &squares.ways, squares.default)]
            });
            if let Some(tile) = tile {
                let operands = [Some(x.span), bias, residual.map(|r| r.span), Some(y.span)];
                winograd::lower(node, tile, &params, &dense, operands);
                return Ok(());
            }
            if winograd_rows::is_chosen(node, &params, input.block) {
                let operands = [Some(x.span), bias, residual.map(|r| r.span), Some(y.span)];
                winograd_rows::lower(node, &params, &dense, operands);
                return Ok(());
            }
            let (mut packed, suffix) = dense.pack(node);
            match node.optional_input(gate::INPUT) {
                Some(gate) if suffix == "f32" => {
                    packed = gate::scaled_weights(node, packed, &gate, in_channels)?;
                }
                Some(gate) => (source, params.input) = gate::scaled_input(node, &x, &gate)?,
                None => {}
            }
            (format!("conv_{suffix}"), packed)
        };
        node.call(
            kernel,
            &params,
            &[Some(source), Some(packed), bias, residual.map(|r| r.span), Some(y.span)],
        );
        Ok(())
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        self.geometry(node).map_or(Blocking::Never, |geometry| blocking(node, &geometry))
    }

    fn halo(&self, node: &NodeTypes<'_>) -> [usize; 4] {
        self.geometry(node).map_or([0; 4], |geometry| geometry.windows.halo())
    }

    fn flops(&self, node: &NodeTypes<'_>, _outputs: &[&TensorType]) -> u64 {
        self.geometry(node)
            .map_or(0, |g| 2 * g.multiply_adds() * g.windows.output.iter().product::<usize>() as u64)
    }
}

impl Conv {
    /// Whether a convolution of each channel by itself runs on the kernel for that. The other way is to take sixteen
    /// channels for a dense group, most of whose weights are zero.
    fn is_depthwise(&self, node: &mut LowerNode<'_>, geometry: &Geometry, params: &call::Conv) -> bool {
        if !geometry.is_depthwise() {
            return false;
        }
        if geometry.packed_groups().is_none() {
            node.explain(|| "depthwise: the channels do not divide into blocks of 16".to_owned());
            return true;
        }
        let block = BLOCK as f64;
        let work = geometry.multiply_adds() as f64;
        // A dense tile reaches most of the peak; the other kernel waits for memory, the longer the more it strides.
        let strided = if geometry.windows.stride == [1; 3] { 2.0 } else { 3.0 };
        let ways = [
            Candidate { name: "depthwise", cost: strided * work },
            Candidate { name: "dense", cost: 1.1 * block * work },
        ];
        node.choose("convolution", || signature("depthwise_f32", params), &ways) == 0
    }

    /// Row-major: the general kernel, then the residual on its own.
    fn lower_general(
        &self,
        node: &mut LowerNode<'_>,
        geometry: &Geometry,
        x: &Tensor,
        y: &Tensor,
    ) -> Result<(), Reason> {
        let weights = node.input(1)?;
        let bias = node.optional_input(2);
        if self.residual_mode != residual::NONE {
            return Err(Reason::new("a fused residual in a row-major convolution"));
        }
        let params = geometry.general(self.activation);
        node.explain(|| {
            let why = if x.ty.rank() > 4 {
                "more than two spatial axes"
            } else if geometry.packed_groups().is_none() && !geometry.is_depthwise() {
                "groups that do not divide into blocks of 16 channels"
            } else {
                "weights or a bias known only at run time"
            };
            format!("general kernel, not packed: {why}")
        });
        node.call(
            "conv_nd_f32",
            &params,
            &[Some(x.span), Some(weights.span), bias.map(|b| b.span), Some(y.span)],
        );
        Ok(())
    }
}

/// What a convolution computes, for tactics.
fn signature(kernel: &str, params: &call::Conv) -> String {
    Work::of(kernel, bytemuck::bytes_of(params)).shape
}

/// The fields of a blocked call that follow from the geometry and the output.
fn blocked_call(geometry: &Geometry, y: &Tensor) -> call::Conv {
    let w = &geometry.windows;
    call::Conv {
        n: geometry.n as u64,
        groups: geometry.groups as u64,
        in_channels: geometry.in_channels as u64,
        in_block: geometry.in_channels.min(BLOCK) as u64,
        out_channels: geometry.out_channels as u64,
        output_padded: 1,
        out_h: w.output[1] as u64,
        out_w: w.output[2] as u64,
        kernel_h: w.kernel[1] as u64,
        kernel_w: w.kernel[2] as u64,
        stride_h: w.stride[1] as u64,
        stride_w: w.stride[2] as u64,
        dilation_h: w.dilation[1] as u64,
        dilation_w: w.dilation[2] as u64,
        output: y.blocked.map_or_else(View::default, |b| b.view),
        ..call::Conv::default()
    }
}

/// Several small groups as one dense group of 16 channels, or `None` where the groups are packed as they are.
fn merged_groups(weights: &[f32], geometry: &Geometry) -> Option<Vec<f32>> {
    let width = geometry.in_channels;
    let (merged, ..) = geometry.packed_groups().filter(|&(groups, ..)| groups != geometry.groups)?;
    let taps = geometry.windows.kernel[1] * geometry.windows.kernel[2];
    let mut dense = vec![0f32; merged * BLOCK * BLOCK * taps];
    for (o, filters) in weights.chunks_exact(width * taps).enumerate() {
        let first = o % BLOCK / width * width;
        dense[(o * BLOCK + first) * taps..][..width * taps].copy_from_slice(filters);
    }
    Some(dense)
}

/// The elements of a constant f32 input.
fn float_constant<'a>(node: &LowerNode<'a>, index: usize) -> Result<std::borrow::Cow<'a, [f32]>, Reason> {
    let constant = node.constant(index).and_then(|constant| constant.to_f32s());
    constant.ok_or_else(|| Reason::new(format!("input {index} is no constant")))
}

/// The bias, padded to whole blocks as the kernels read it, or `None`.
fn bias(node: &mut LowerNode<'_>, channels: usize) -> Result<Option<Span>, Reason> {
    if node.optional_input(2).is_none() {
        return Ok(None);
    }
    let mut values = float_constant(node, 2)?.into_owned();
    values.resize(channels.next_multiple_of(BLOCK), 0.0);
    Ok(Some(node.data(&values)))
}

impl ConvTranspose {
    fn geometry(&self, node: &NodeTypes<'_>) -> Result<Geometry, Reason> {
        let (n, in_channels, out_channels) = channels(node, self.group, true)?;
        let (x, w) = (node.ty(0)?, node.ty(1)?);
        let rank = x.rank() - 2;
        // Every attribute but the output's extents is checked and defaulted as a convolution's: over a picture that
        // the window fits into.
        let kernel = &w.shape[2..];
        let unpadded = Window { auto_pad: AutoPad::NotSet, ..self.window.clone() };
        let reach: Vec<usize> = kernel
            .iter()
            .enumerate()
            .map(|(axis, &k)| {
                k.saturating_mul(self.window.dilations.get(axis).map_or(1, |&d| d.max(1) as usize))
            })
            .collect();
        let mut windows = unpadded.over(&reach, Some(kernel))?;
        for (name, list) in [("output_padding", &self.output_padding), ("output_shape", &self.output_shape)] {
            if !list.is_empty() && list.len() != rank || list.iter().any(|v| !(0..1 << 31).contains(v)) {
                return Err(Reason::new(format!("{name} {list:?} does not fit {rank} spatial axes")));
            }
        }
        for axis in 3 - rank..3 {
            let i = axis + rank - 3;
            let input = x.shape[2 + i];
            let (kernel, stride) = (windows.kernel[axis], windows.stride[axis]);
            let extra = self.output_padding.get(i).map_or(0, |&v| v as usize);
            let full = input.checked_sub(1).and_then(|steps| steps.checked_mul(stride)).unwrap_or(0)
                + (kernel - 1) * windows.dilation[axis]
                + 1
                + extra;
            let wanted = match (self.output_shape.get(i), self.window.auto_pad) {
                (Some(&extent), _) => Some(extent as usize),
                (None, AutoPad::SameUpper | AutoPad::SameLower) => Some(input * stride),
                (None, AutoPad::Valid) => Some(full),
                (None, AutoPad::NotSet) => None,
            };
            if let Some(wanted) = wanted {
                let total = full.saturating_sub(wanted);
                let (less, more) = (total / 2, total - total / 2);
                let end_has_more = self.window.auto_pad != AutoPad::SameLower;
                (windows.pad_begin[axis], windows.pad_end[axis]) =
                    if end_has_more { (less, more) } else { (more, less) };
            }
            let pads = windows.pad_begin[axis] + windows.pad_end[axis];
            windows.input[axis] = input;
            windows.output[axis] = match wanted {
                Some(wanted) => wanted,
                None => full.checked_sub(pads).filter(|&extent| extent > 0).ok_or_else(|| {
                    Reason::new(format!("padding {pads} leaves nothing of {full} output elements"))
                })?,
            };
        }
        for axis in 0..3 - rank {
            (windows.input[axis], windows.output[axis]) = (1, 1);
        }
        Ok(Geometry { n, groups: self.group, in_channels, out_channels, windows })
    }

    /// The window with all that the types decide.
    #[cfg(feature = "cuda")]
    pub(crate) fn windows(&self, node: &NodeTypes<'_>) -> Result<Windows, Reason> {
        Ok(self.geometry(node)?.windows)
    }
}

/// One phase along one axis: outputs `first + stride·q`, and the taps that reach them.
#[derive(Clone, Copy)]
struct Phase {
    /// Outputs of the phase.
    count: usize,
    /// The kernel element of the first tap; each further one is `stride` before it.
    last_tap: usize,
    /// Number of taps.
    taps: usize,
    /// The input element of the first tap of output 0; negative in the padding.
    start: isize,
}

impl Phase {
    /// output y = in·stride + tap − pad, so tap ≡ y + pad (mod stride), and the largest tap meets the first input.
    fn of(windows: &Windows, axis: usize, residue: usize) -> Phase {
        let (stride, kernel, pad) = (windows.stride[axis], windows.kernel[axis], windows.pad_begin[axis]);
        let smallest = (residue + pad) % stride;
        let taps = kernel.saturating_sub(smallest).div_ceil(stride);
        let last_tap = smallest + taps.saturating_sub(1) * stride;
        let start = ((residue + pad) / stride) as isize - taps.saturating_sub(1) as isize;
        Phase { count: windows.output[axis].saturating_sub(residue).div_ceil(stride), last_tap, taps, start }
    }

    /// How far the phase reads before and after the input.
    fn reach(&self, input: usize) -> (usize, usize) {
        let end = self.start + (self.count + self.taps) as isize - 1 - input as isize;
        ((-self.start).max(0) as usize, end.max(0) as usize)
    }
}

impl Operator for ConvTranspose {
    fn name(&self) -> &'static str {
        "ConvTranspose"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let mut attributes = self.window.attributes();
        attributes.push(("group", (self.group as i64).into()));
        for (name, values) in [("output_padding", &self.output_padding), ("output_shape", &self.output_shape)]
        {
            if !values.is_empty() {
                attributes.push((name, values.clone().into()));
            }
        }
        widened(nodes, "ConvTranspose", &attributes)
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        is_f64(node)
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        compute(node, true, |types| self.geometry(types))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![output_type(node, &self.geometry(node)?)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let geometry = node.with_types(|types| self.geometry(types))?;
        let (x, y) = (node.input(0)?, node.output(0)?);
        let (Some(input), Some(output)) = (x.blocked, y.blocked) else {
            let operands = [
                Some(x.span),
                Some(node.input(1)?.span),
                node.optional_input(2).map(|b| b.span),
                Some(y.span),
            ];
            node.call("conv_transpose_nd_f32", &geometry.general(self.activation), &operands);
            return Ok(());
        };
        let weights = float_constant(node, 1)?;
        let bias = bias(node, geometry.groups * geometry.out_channels)?;
        let w = geometry.windows;
        let taps = w.kernel[1] * w.kernel[2];
        for residue_h in 0..w.stride[1].min(w.output[1]) {
            let rows = Phase::of(&w, 1, residue_h);
            for residue_w in 0..w.stride[2].min(w.output[2]) {
                let columns = Phase::of(&w, 2, residue_w);
                let dense = Dense {
                    values: &weights,
                    offset: rows.last_tap * w.kernel[2] + columns.last_tap,
                    groups: 1,
                    out_channels: geometry.out_channels,
                    in_channels: geometry.in_channels,
                    kernel: [rows.taps, columns.taps],
                    strides: [
                        taps as isize,
                        (geometry.out_channels * taps) as isize,
                        -((w.stride[1] * w.kernel[2]) as isize),
                        -(w.stride[2] as isize),
                    ],
                    scale: 1.0,
                };
                let (packed, suffix) = dense.pack(node);
                let mut params = blocked_call(&geometry, &y);
                params.in_block = input.block.min(geometry.in_channels) as u64;
                (params.out_h, params.out_w) = (rows.count as u64, columns.count as u64);
                (params.kernel_h, params.kernel_w) = (rows.taps as u64, columns.taps as u64);
                (params.stride_h, params.stride_w, params.dilation_h, params.dilation_w) = (1, 1, 1, 1);
                params.input = input.view;
                params.input.offset = params
                    .input
                    .offset
                    .wrapping_add_signed(rows.start as i64 * input.view.stride_h as i64)
                    .wrapping_add_signed(columns.start as i64 * input.view.stride_w as i64);
                params.output = View {
                    offset: output.view.offset
                        + residue_h as u64 * output.view.stride_h
                        + residue_w as u64 * output.view.stride_w,
                    stride_h: output.view.stride_h * w.stride[1] as u64,
                    stride_w: output.view.stride_w * w.stride[2] as u64,
                    ..output.view
                };
                params.activation = self.activation;
                let operands = [Some(x.span), Some(packed), bias, None, Some(y.span)];
                node.call(format!("conv_{suffix}"), &params, &operands);
            }
        }
        Ok(())
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        let Ok(geometry) = self.geometry(node) else { return Blocking::Never };
        let w = &geometry.windows;
        let phases = (1..3).all(|axis| w.dilation[axis] == 1 && w.kernel[axis] >= w.stride[axis]);
        if geometry.groups == 1 && phases { blocking(node, &geometry) } else { Blocking::Never }
    }

    fn halo(&self, node: &NodeTypes<'_>) -> [usize; 4] {
        let Ok(geometry) = self.geometry(node) else { return [0; 4] };
        let w = &geometry.windows;
        let reach = |axis: usize| {
            let phases =
                (0..w.stride[axis].min(w.output[axis])).map(|r| Phase::of(w, axis, r).reach(w.input[axis]));
            phases.fold((0, 0), |all, one| (all.0.max(one.0), all.1.max(one.1)))
        };
        let (rows, columns) = (reach(1), reach(2));
        [rows.0, columns.0, rows.1, columns.1]
    }

    fn flops(&self, node: &NodeTypes<'_>, _outputs: &[&TensorType]) -> u64 {
        self.geometry(node)
            .map_or(0, |g| 2 * g.multiply_adds() * g.windows.input.iter().product::<usize>() as u64)
    }
}
