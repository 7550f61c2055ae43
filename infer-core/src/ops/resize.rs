//! Resize and Upsample: samples the input at the positions that the output's elements have in it.
//!
//! Each axis is resampled by itself: nearest by a table of indices, linear and cubic by a table of taps (indices and
//! weights), the latter two axes in one call. Positions are computed in f32, as ONNX Runtime does, from the scale that
//! the model gives and not from the ratio of the extents.
//!
//! Types: any for nearest, numbers for the others; f64 is interpolated in f64, the rest in f32 (integers are truncated).
//!
//! Opsets: 10 and Upsample know neither roi nor sizes and sample at x/scale, rounding up when they shrink (ONNX
//! Runtime's reading; their text does not say); 11 adds both and the modes; 18 adds antialias, axes and
//! keep_aspect_ratio_policy; 19 adds half_pixel_symmetric.

mod doubles;
mod taps;
#[cfg(test)]
mod tests;

use std::ops::Range;

use infer_kernels::call::{self, View};

pub use taps::AxisPlan;
use taps::Taps;

use super::element_type::{converted, with_output};
use super::movement::{choice, element_bits, extent, fill, index_map, result_type};
use super::number::NUMBERS;
use super::{Blocking, ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype, resolve_axes};
use crate::calls::{LowerNode, Tensor, picture};
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "Resize", domain: "", since: 10, inputs: 2..=4, outputs: 1..=1, import: import_resize },
    Row { name: "Upsample", domain: "", since: 7, inputs: 1..=2, outputs: 1..=1, import: import_upsample },
];

/// How samples are made from the elements around a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// The nearest element.
    Nearest,
    /// Linear interpolation between two.
    Linear,
    /// Cubic convolution of four.
    Cubic,
}

/// Where an element of the output lies in the input; ONNX's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "ONNX's specification defines them by formulas, which `AxisPlan::position` repeats"
)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
    TfCropAndResize,
}

/// Which element is the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NearestMode {
    /// The lower one of two as near.
    RoundPreferFloor,
    /// The upper one of two as near.
    RoundPreferCeil,
    /// The one below.
    Floor,
    /// The one above.
    Ceil,
    /// Above where the axis shrinks, else below.
    Simple,
}

/// What `sizes` mean where the ratios of the axes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AspectRatio {
    /// Each axis has its size.
    Stretch,
    /// The smallest ratio holds for all.
    NotLarger,
    /// The largest ratio holds for all.
    NotSmaller,
}

/// Resize or Upsample.
#[derive(Debug)]
pub struct Resize {
    /// The name in the model.
    pub name: &'static str,
    /// How samples are made.
    pub mode: ResizeMode,
    /// Where they are taken.
    pub coordinates: Coordinates,
    /// Which element is the nearest.
    pub nearest: NearestMode,
    /// The coefficient of the cubic convolution.
    pub cubic_coeff_a: f32,
    /// Whether elements outside the input weigh nothing, rather than as the border does.
    pub exclude_outside: bool,
    /// Whether filters widen where an axis shrinks.
    pub antialias: bool,
    /// The value of samples outside the input, in mode tf_crop_and_resize.
    pub extrapolation_value: f32,
    /// What `sizes` mean.
    pub aspect_ratio: AspectRatio,
    /// The axes that the inputs speak of; all where left out.
    pub axes: Option<Vec<i64>>,
    /// Where the scales are: an attribute, or the number of an input (of `roi` and `sizes`, the one before and after).
    pub scales: Scales,
}

/// Where the scales are.
#[derive(Clone, Debug)]
pub enum Scales {
    /// An attribute (Upsample before opset 9).
    Attribute(Vec<f32>),
    /// Input 1, alone.
    Alone,
    /// Input 2, beside `roi` and `sizes`.
    BesideSizes,
}

fn import_resize(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    if node.opset < 11 {
        return import_upsample(node);
    }
    let coordinates = [
        ("half_pixel", Coordinates::HalfPixel),
        ("half_pixel_symmetric", Coordinates::HalfPixelSymmetric),
        ("pytorch_half_pixel", Coordinates::PytorchHalfPixel),
        ("align_corners", Coordinates::AlignCorners),
        ("asymmetric", Coordinates::Asymmetric),
        ("tf_half_pixel_for_nn", Coordinates::TfHalfPixelForNn),
        ("tf_crop_and_resize", Coordinates::TfCropAndResize),
    ];
    let nearest = [
        ("round_prefer_floor", NearestMode::RoundPreferFloor),
        ("round_prefer_ceil", NearestMode::RoundPreferCeil),
        ("floor", NearestMode::Floor),
        ("ceil", NearestMode::Ceil),
    ];
    let policies = [
        ("stretch", AspectRatio::Stretch),
        ("not_larger", AspectRatio::NotLarger),
        ("not_smaller", AspectRatio::NotSmaller),
    ];
    let mode = mode(node)?;
    let antialias = node.attributes.flag("antialias", false)?;
    if antialias && mode == ResizeMode::Nearest {
        return Err(Reason::new("mode \"nearest\" with antialias is not supported")
            .help("re-export with antialias=0"));
    }
    Ok(Box::new(Resize {
        name: "Resize",
        mode,
        coordinates: choice(node, "coordinate_transformation_mode", &coordinates)?,
        nearest: choice(node, "nearest_mode", &nearest)?,
        cubic_coeff_a: node.attributes.float("cubic_coeff_a")?.unwrap_or(-0.75),
        exclude_outside: node.attributes.flag("exclude_outside", false)?,
        antialias,
        extrapolation_value: node.attributes.float("extrapolation_value")?.unwrap_or(0.0),
        aspect_ratio: choice(node, "keep_aspect_ratio_policy", &policies)?,
        axes: node.attributes.ints("axes")?,
        scales: Scales::BesideSizes,
    }))
}

fn import_upsample(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mode = mode(node)?;
    if mode == ResizeMode::Cubic {
        return Err(Reason::new("mode \"cubic\" is not supported before opset 11")
            .supported("\"nearest\", \"linear\""));
    }
    Ok(Box::new(Resize {
        name: if node.op_type == "Upsample" { "Upsample" } else { "Resize" },
        mode,
        coordinates: Coordinates::Asymmetric,
        nearest: NearestMode::Simple,
        cubic_coeff_a: -0.75,
        exclude_outside: false,
        antialias: false,
        extrapolation_value: 0.0,
        aspect_ratio: AspectRatio::Stretch,
        axes: None,
        scales: node.attributes.floats("scales")?.map_or(Scales::Alone, Scales::Attribute),
    }))
}

fn mode(node: &mut ImportNode) -> Result<ResizeMode, Reason> {
    let modes =
        [("nearest", ResizeMode::Nearest), ("linear", ResizeMode::Linear), ("cubic", ResizeMode::Cubic)];
    choice(node, "mode", &modes)
}

impl Resize {
    /// How each axis of input 0 is resampled.
    pub fn plan(&self, node: &NodeTypes<'_>) -> Result<Vec<AxisPlan>, Reason> {
        let ty = node.ty(0)?;
        let axes = match &self.axes {
            Some(axes) => resolve_axes(axes, ty.rank())?,
            None => (0..ty.rank()).collect(),
        };
        let mut plan: Vec<AxisPlan> = Vec::with_capacity(ty.rank());
        plan.extend(ty.shape.iter().map(|&n| AxisPlan {
            input: n,
            output: n,
            scale: 1.0,
            length: n as f32,
            roi: [0.0, 1.0],
        }));
        // Opset 11 leaves an input out by giving it no elements.
        let given = |index: usize| node.optional(index).is_some_and(|ty| ty.elements() > 0);
        let floats = |index: usize, name: &str| -> Result<Vec<f32>, Reason> {
            let values = node.known(index, name)?.and_then(|value| value.to_f32s()).map(|v| v.into_owned());
            values.ok_or_else(|| Reason::new(format!("input `{name}` is no tensor of floats")))
        };
        let expect_count = |name: &str, count: usize, wanted: usize| match count == wanted {
            true => Ok(()),
            false => Err(Reason::new(format!("`{name}` has {count} numbers where {ty} needs {wanted}"))),
        };
        let scales = match &self.scales {
            Scales::Attribute(scales) => scales.clone(),
            Scales::Alone => floats(1, "scales")?,
            Scales::BesideSizes if given(2) => floats(2, "scales")?,
            Scales::BesideSizes if given(3) => Vec::new(),
            Scales::BesideSizes => return Err(Reason::new("neither `scales` nor `sizes` is given")),
        };
        if scales.is_empty() {
            let sizes = node.known_i64s(3, "sizes")?.unwrap_or_default();
            expect_count("sizes", sizes.len(), axes.len())?;
            self.apply_sizes(&axes, &sizes, &mut plan)?;
        } else {
            expect_count("scales", scales.len(), axes.len())?;
            for (&axis, scale) in axes.iter().zip(scales) {
                if !(scale > 0.0 && scale.is_finite()) {
                    return Err(Reason::new(format!("scale {scale} of axis {axis} is not positive")));
                }
                let axis = &mut plan[axis];
                axis.scale = scale;
                axis.length = scale * axis.input as f32;
                axis.output = axis.length as usize;
            }
        }
        if self.coordinates == Coordinates::TfCropAndResize {
            let roi = floats(1, "roi")?;
            expect_count("roi", roi.len(), 2 * axes.len())?;
            for (slot, &axis) in axes.iter().enumerate() {
                plan[axis].roi = [roi[slot], roi[axes.len() + slot]];
            }
        }
        if let Some(axis) = plan.iter().position(|axis| axis.input == 0 && axis.output > 0) {
            return Err(Reason::new(format!("axis {axis} of {ty} is empty and cannot be resized")));
        }
        Ok(plan)
    }

    fn apply_sizes(&self, axes: &[usize], sizes: &[i64], plan: &mut [AxisPlan]) -> Result<(), Reason> {
        let mut ratios = Vec::with_capacity(axes.len());
        for (&axis, &size) in axes.iter().zip(sizes) {
            let axis = &mut plan[axis];
            axis.output = extent(size, "sizes")?;
            axis.length = axis.output as f32;
            axis.scale = if axis.output == axis.input { 1.0 } else { axis.output as f32 / axis.input as f32 };
            ratios.push(axis.output as f64 / axis.input as f64);
        }
        let ratio = match self.aspect_ratio {
            AspectRatio::Stretch => return Ok(()),
            AspectRatio::NotLarger => ratios.into_iter().reduce(f64::min),
            AspectRatio::NotSmaller => ratios.into_iter().reduce(f64::max),
        };
        let Some(ratio) = ratio.filter(|ratio| ratio.is_finite()) else {
            return Err(Reason::new("an empty axis has no aspect ratio"));
        };
        for &axis in axes {
            let axis = &mut plan[axis];
            axis.scale = ratio as f32;
            axis.output = (ratio * axis.input as f64 + 0.5).floor() as usize;
            axis.length = axis.output as f32;
        }
        Ok(())
    }

    /// Linear and cubic on plain tensors: two axes in one call, what lies between them
    /// being blocks and what lies inside them lanes.
    fn lower_taps(
        &self,
        node: &mut LowerNode<'_>,
        axes: &[AxisPlan],
        input: Tensor,
        output: &Tensor,
    ) -> Result<(), Reason> {
        let taps: Vec<Taps> = axes.iter().map(|axis| self.taps(axis)).collect::<Result<_, _>>()?;
        let inside: Vec<Range<usize>> = taps.iter().map(|taps| taps.inside.clone()).collect();
        let extrapolated =
            inside.iter().zip(&output.ty.shape).any(|(inside, &extent)| inside.len() != extent);
        if extrapolated {
            fill(node, output, element_bits(DataType::F32, self.extrapolation_value))?;
            if inside.iter().any(|inside| inside.is_empty()) {
                return Ok(());
            }
        }

        let mut left: Vec<usize> = (0..axes.len()).filter(|&axis| !axes[axis].is_identity()).collect();
        let mut current = input;
        while let Some(columns) = left.pop() {
            let rows = left.pop();
            let mut ty = current.ty.clone();
            for axis in [Some(columns), rows].into_iter().flatten() {
                ty.shape[axis] = inside[axis].len();
            }
            let target =
                if left.is_empty() && !extrapolated { output.clone() } else { node.scratch_tensor(ty) };
            let column_taps = &taps[columns];
            let identity = Taps { each: 1, indices: vec![0], weights: vec![1.0], inside: 0..1 };
            let row_taps = rows.map_or(&identity, |rows| &taps[rows]);
            let picture = |ty: &TensorType| {
                let product = |extents: &[usize]| extents.iter().product::<usize>();
                let (first, w) = (rows.unwrap_or(columns), ty.shape[columns]);
                let blocks = rows.map_or(1, |rows| product(&ty.shape[rows + 1..columns]));
                let lanes = product(&ty.shape[columns + 1..]);
                Picture {
                    n: product(&ty.shape[..first]),
                    blocks,
                    h: rows.map_or(1, |rows| ty.shape[rows]),
                    w,
                    lanes,
                    view: View {
                        offset: 0,
                        stride_n: product(&ty.shape[first..]) as u64,
                        stride_c: (w * lanes) as u64,
                        stride_h: (blocks * w * lanes) as u64,
                        stride_w: lanes as u64,
                    },
                }
            };
            let (from, to) = (picture(&current.ty), picture(&target.ty));
            call_resize(node, (&current, from), (&target, to), row_taps, column_taps);
            current = target;
        }
        if !extrapolated {
            return if axes.iter().all(AxisPlan::is_identity) {
                copy(node, &current, output)
            } else {
                Ok(())
            };
        }
        let (from, to) = (current.ty.strides(), output.ty.strides());
        let offset =
            inside.iter().zip(&to).map(|(inside, stride)| inside.start as u64 * *stride as u64).sum();
        node.copy_between(&current, (&from, 0), output, (&to, offset), &current.ty.shape)
    }

    /// Any mode on blocked pictures, nearest being one tap of weight 1.
    fn lower_blocked(&self, node: &mut LowerNode<'_>, axes: &[AxisPlan]) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let (Some(from), Some(to)) = (input.blocked, output.blocked) else {
            return Err(Reason::new("one side is blocked and the other is not"));
        };
        let [.., rows, columns] = axes else {
            return Err(Reason::new(format!("{} is no picture", input.ty)));
        };
        let (rows, columns) = (self.taps(rows)?, self.taps(columns)?);
        let view = |ty: &TensorType, block: usize, view: View| {
            let [n, c, h, w] = picture(ty);
            Picture { n, blocks: c.div_ceil(block), h, w, lanes: block, view }
        };
        let source = view(&input.ty, from.block, from.view);
        let target = view(&output.ty, to.block, to.view);
        call_resize(node, (&input, source), (&output, target), &rows, &columns);
        Ok(())
    }
}

/// A tensor as `resize_f32` walks it.
struct Picture {
    n: usize,
    blocks: usize,
    h: usize,
    w: usize,
    lanes: usize,
    view: View,
}

fn call_resize(
    node: &mut LowerNode<'_>,
    (input, from): (&Tensor, Picture),
    (output, to): (&Tensor, Picture),
    rows: &Taps,
    columns: &Taps,
) {
    let params = call::Resize {
        n: to.n as u64,
        blocks: to.blocks as u64,
        lanes: to.lanes as u64,
        in_h: from.h as u64,
        in_w: from.w as u64,
        out_h: to.h as u64,
        out_w: to.w as u64,
        taps_h: rows.each as u64,
        taps_w: columns.each as u64,
        input: from.view,
        output: to.view,
    };
    let indices = node.data(&[rows.indices.as_slice(), &columns.indices].concat());
    let weights = node.data(&[rows.weights.as_slice(), &columns.weights].concat());
    node.call("resize_f32", &params, &[Some(input.span), Some(indices), Some(weights), Some(output.span)]);
}

fn copy(node: &mut LowerNode<'_>, input: &Tensor, output: &Tensor) -> Result<(), Reason> {
    node.copy_strided(input, &input.ty.strides(), 0, output, &output.ty.shape)
}

impl Operator for Resize {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        if self.mode != ResizeMode::Nearest {
            expect_dtype(ty, NUMBERS)?;
        }
        let shape = self.plan(node)?.iter().map(|axis| axis.output).collect();
        Ok(vec![result_type(ty.dtype, shape)?])
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        node.ty(0).is_ok_and(|ty| self.is_of_doubles(ty))
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        match node.optional(0) {
            Some(Value::Tensor(input)) if self.is_of_doubles(input.ty()) => {
                Ok(Some(vec![self.resize_doubles(node, input)?.into()]))
            }
            _ => Ok(None),
        }
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        if output.ty.elements() == 0 {
            return Ok(());
        }
        let axes = node.with_types(|types| self.plan(types))?;
        if input.blocked.is_some() || output.blocked.is_some() {
            return self.lower_blocked(node, &axes);
        }
        if self.mode != ResizeMode::Nearest {
            let wide = converted(node, &input, DataType::F32)?;
            return with_output(node, &output, DataType::F32, |node, output| {
                self.lower_taps(node, &axes, wide, output)
            });
        }
        if axes.iter().all(AxisPlan::is_identity) {
            return copy(node, &input, &output);
        }
        let tables: Vec<Vec<i64>> =
            axes.iter().map(|axis| self.nearest_table(axis)).collect::<Result<_, _>>()?;
        let value = element_bits(output.ty.dtype, self.extrapolation_value);
        index_map(node, &input, &output, &tables, value)
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        let picture = node.ty(0).is_ok_and(|ty| ty.rank() == 4 && ty.dtype == DataType::F32);
        match self.plan(node) {
            Ok(axes)
                if picture
                    && self.coordinates != Coordinates::TfCropAndResize
                    && axes[..2].iter().all(AxisPlan::is_identity) =>
            {
                Blocking::Follows
            }
            _ => Blocking::Never,
        }
    }
}
