//! RoiAlign, MaxRoiPool, MaxUnpool: regions of pictures pooled, and pooled pictures spread again.
//!
//! <https://onnx.ai/onnx/operators/onnx__RoiAlign.html>: since opset 10; `coordinate_transformation_mode` since 16, where
//! its default shifts the regions by half an element. <https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html>: since
//! opset 1. <https://onnx.ai/onnx/operators/onnx__MaxUnpool.html>: since opset 9. Floats of every width; bf16 since 22.
//!
//! All are computed on values, regions side by side.

use rayon::prelude::*;

use crate::diagnostic::{Reason, quote};
use crate::node_values::NodeValues;
use crate::ops::element_type::common_float;
use crate::ops::elements::{expect_elements, with_types};
use crate::ops::number::{Rounding, of_f64s, to_f64s};
use crate::ops::{ImportNode, NodeTypes, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row { name: "MaxRoiPool", domain: "", since: 1, inputs: 2..=2, outputs: 1..=1, import: import_pool },
    Row { name: "MaxUnpool", domain: "", since: 9, inputs: 2..=3, outputs: 1..=1, import: import_unpool },
    Row { name: "RoiAlign", domain: "", since: 10, inputs: 3..=3, outputs: 1..=1, import: import_align },
];

/// The most samples along one axis of a region.
const MAX_SAMPLES: usize = 1 << 20;

/// Regions pooled from samples between elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlign {
    /// Whether the greatest weighted element counts, not the average.
    pub max: bool,
    /// Whether regions are shifted by half an element.
    pub half_pixel: bool,
    /// Rows and columns of the output.
    pub output: [usize; 2],
    /// Samples along each axis of a bin; 0 for one for each element.
    pub sampling_ratio: usize,
    /// What coordinates are multiplied by.
    pub spatial_scale: f32,
}

fn extent(name: &str, value: i64) -> Result<usize, Reason> {
    match usize::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(Reason::new(format!("attribute `{name}` is {value}"))),
    }
}

fn import_align(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    let max = match attributes.string("mode")?.as_deref() {
        None | Some("avg") => false,
        Some("max") => true,
        Some(other) => {
            return Err(
                Reason::new(format!("mode {} is not supported", quote(other))).supported("\"avg\", \"max\"")
            );
        }
    };
    let transformation = attributes.string("coordinate_transformation_mode")?;
    let half_pixel = match (transformation.as_deref(), node.opset) {
        (Some("half_pixel"), _) | (None, 16..) => true,
        (Some("output_half_pixel"), _) | (None, _) => false,
        (Some(other), _) => {
            return Err(Reason::new(format!(
                "coordinate_transformation_mode {} is not supported",
                quote(other)
            ))
            .supported("\"half_pixel\", \"output_half_pixel\""));
        }
    };
    let side = |value: Option<i64>, name: &str| extent(name, value.unwrap_or(1));
    let output = [
        side(attributes.int("output_height")?, "output_height")?,
        side(attributes.int("output_width")?, "output_width")?,
    ];
    let sampling_ratio = attributes.int("sampling_ratio")?.unwrap_or(0).max(0);
    Ok(Box::new(RoiAlign {
        max,
        half_pixel,
        output,
        sampling_ratio: usize::try_from(sampling_ratio).unwrap_or(usize::MAX),
        spatial_scale: attributes.float("spatial_scale")?.unwrap_or(1.0),
    }))
}

/// A sample along one axis: two elements and the weight of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    low: usize,
    high: usize,
    weight: f64,
}

/// The samples of a region along one axis, for each bin those inside of the picture, and how many there are with those
/// outside.
struct Samples {
    bins: Vec<Vec<Sample>>,
    each: usize,
}

impl RoiAlign {
    /// The samples of a region from `start` to `end` along an axis of `extent` elements, cut into `bins`.
    fn samples(
        &self,
        [start, end]: [f64; 2],
        extent: usize,
        bins: usize,
        rounding: Rounding,
    ) -> Result<Samples, Reason> {
        let round = |value: f64| rounding.round(value);
        let scale = f64::from(self.spatial_scale);
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let [start, end] = [start, end].map(|edge| round(round(edge * scale) - offset));
        let mut length = round(end - start);
        if !self.half_pixel {
            // Regions without extent count as one element.
            length = length.max(1.0);
        }
        let bin = round(length / bins as f64);
        let each = match self.sampling_ratio {
            0 => bin.ceil().max(0.0) as usize,
            ratio => ratio,
        };
        if !bin.is_finite() || each.checked_mul(bins).is_none_or(|samples| samples > MAX_SAMPLES) {
            return Err(Reason::new(format!("a region from {start} to {end} takes too many samples")));
        }
        let sample = |number: usize, index: usize| {
            let within = round(round((index as f64 + 0.5) * bin) / each as f64);
            let x = round(round(start + round(number as f64 * bin)) + within);
            if x < -1.0 || x > extent as f64 || extent == 0 {
                return None;
            }
            let x = x.max(0.0);
            let low = x as usize;
            Some(if low >= extent - 1 {
                Sample { low: extent - 1, high: extent - 1, weight: 0.0 }
            } else {
                Sample { low, high: low + 1, weight: x - low as f64 }
            })
        };
        let bins = (0..bins).map(|bin| (0..each).filter_map(|index| sample(bin, index)).collect()).collect();
        Ok(Samples { bins, each })
    }

    /// One bin of one channel.
    fn pool(&self, plane: &[f64], width: usize, rows: &[Sample], columns: &[Sample], count: usize) -> f64 {
        let at = |row: usize, column: usize| plane.get(row * width + column).copied().unwrap_or(0.0);
        // A sample outside is zero.
        let outside = rows.len() * columns.len() < count;
        let mut greatest = if outside { 0.0 } else { f64::NEG_INFINITY };
        let mut sum = 0.0;
        for row in rows {
            for column in columns {
                let (y, x) = (row.weight, column.weight);
                let corners = [
                    (1.0 - y) * (1.0 - x) * at(row.low, column.low),
                    (1.0 - y) * x * at(row.low, column.high),
                    y * (1.0 - x) * at(row.high, column.low),
                    y * x * at(row.high, column.high),
                ];
                sum += corners.iter().sum::<f64>();
                greatest = corners.into_iter().fold(greatest, f64::max);
            }
        }
        match (self.max, count) {
            (_, 0) => 0.0,
            (true, _) => greatest,
            (false, _) => sum / count as f64,
        }
    }
}

/// The extents of a picture `[N, C, H, W]`.
fn picture(x: &TensorType) -> Result<[usize; 4], Reason> {
    match *x.shape.as_slice() {
        [n, c, h, w] => Ok([n, c, h, w]),
        _ => Err(Reason::new(format!("input `X` is {x}, not of 4 dimensions"))),
    }
}

impl Operator for RoiAlign {
    fn name(&self) -> &'static str {
        "RoiAlign"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let dtype = common_float(node, &[0, 1])?;
        let [_, channels, _, _] = picture(node.ty(0)?)?;
        let (rois, images) = (node.ty(1)?, node.ty(2)?);
        let fits = rois.rank() == 2 && rois.shape[1] == 4 && images.shape == rois.shape[..1];
        if !fits {
            return Err(Reason::new(format!("regions {rois} with images {images}"))
                .supported("`rois` [R, 4] with `batch_indices` [R]"));
        }
        expect_dtype(images, &[DataType::I64, DataType::I32])?;
        let [height, width] = self.output;
        Ok(vec![TensorType::new(dtype, [rois.shape[0], channels, height, width])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let Some(output) = with_types(node, |types| self.infer(types))?.pop() else { return Ok(None) };
        expect_elements(&output.shape, size_of::<f64>())?;
        let [images, channels, height, width] = picture(node.tensor(0)?.ty())?;
        let (x, rois, indices) = (to_f64s(node.tensor(0)?)?, to_f64s(node.tensor(1)?)?, node.i64s(2)?);
        let rounding = Rounding::of(output.dtype);
        let [out_h, out_w] = self.output;
        let mut pooled = vec![0.0; output.elements()];
        let region = channels * out_h * out_w;
        if region == 0 {
            return Ok(Some(vec![Value::Tensor(of_f64s(output, pooled)?)]));
        }
        pooled.par_chunks_mut(region).zip(rois.par_chunks(4)).zip(&indices).try_for_each(
            |((out, roi), &index)| {
                let image = usize::try_from(index).ok().filter(|&image| image < images).ok_or_else(|| {
                    Reason::new(format!("a region of image {index}, of which there are {images}"))
                })?;
                let &[left, top, right, bottom] = roi else { return Ok(()) };
                let rows = self.samples([top, bottom], height, out_h, rounding)?;
                let columns = self.samples([left, right], width, out_w, rounding)?;
                let count = rows.each.saturating_mul(columns.each);
                for (channel, out) in out.chunks_mut(out_h * out_w).enumerate() {
                    let from = (image * channels + channel) * height * width;
                    let plane = x.get(from..from + height * width).unwrap_or_default();
                    for (out, rows) in out.chunks_mut(out_w).zip(&rows.bins) {
                        for (out, columns) in out.iter_mut().zip(&columns.bins) {
                            *out = self.pool(plane, width, rows, columns, count);
                        }
                    }
                }
                Ok(())
            },
        )?;
        Ok(Some(vec![Value::Tensor(of_f64s(output, pooled)?)]))
    }
}

/// The greatest elements of the parts of regions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxRoiPool {
    /// Rows and columns of the output.
    pub output: [usize; 2],
    /// What coordinates are multiplied by.
    pub spatial_scale: f32,
}

fn import_pool(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let shape = node.attributes.ints("pooled_shape")?.unwrap_or_default();
    let &[height, width] = shape.as_slice() else {
        return Err(Reason::new(format!("attribute `pooled_shape` is {shape:?}, not a height and a width")));
    };
    let output = [extent("pooled_shape", height)?, extent("pooled_shape", width)?];
    let spatial_scale = node.attributes.float("spatial_scale")?.unwrap_or(1.0);
    Ok(Box::new(MaxRoiPool { output, spatial_scale }))
}

impl MaxRoiPool {
    /// The elements of each part of a region, of an axis of `extent` elements.
    fn parts(
        &self,
        [start, end]: [f64; 2],
        extent: usize,
        parts: usize,
        rounding: Rounding,
    ) -> Vec<std::ops::Range<usize>> {
        let edge = |edge: f64| rounding.round(edge * f64::from(self.spatial_scale)).round();
        let (start, end) = (edge(start), edge(end));
        let part = rounding.round((end - start + 1.0).max(1.0) / parts as f64);
        let bound = |position: f64| (position + start).clamp(0.0, extent as f64) as usize;
        (0..parts)
            .map(|index| {
                let from = rounding.round(index as f64 * part).floor();
                bound(from)..bound(rounding.round((index + 1) as f64 * part).ceil())
            })
            .collect()
    }
}

impl Operator for MaxRoiPool {
    fn name(&self) -> &'static str {
        "MaxRoiPool"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let dtype = common_float(node, &[0, 1])?;
        let [_, channels, _, _] = picture(node.ty(0)?)?;
        let rois = node.ty(1)?;
        if rois.rank() != 2 || rois.shape[1] != 5 {
            return Err(Reason::new(format!("input `rois` is {rois}, not [R, 5]")));
        }
        let [height, width] = self.output;
        Ok(vec![TensorType::new(dtype, [rois.shape[0], channels, height, width])])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let Some(output) = with_types(node, |types| self.infer(types))?.pop() else { return Ok(None) };
        expect_elements(&output.shape, size_of::<f64>())?;
        let [images, channels, height, width] = picture(node.tensor(0)?.ty())?;
        let (x, rois) = (to_f64s(node.tensor(0)?)?, to_f64s(node.tensor(1)?)?);
        let rounding = Rounding::of(output.dtype);
        let [out_h, out_w] = self.output;
        let mut pooled = vec![0.0; output.elements()];
        let region = channels * out_h * out_w;
        if region == 0 {
            return Ok(Some(vec![Value::Tensor(of_f64s(output, pooled)?)]));
        }
        pooled.par_chunks_mut(region).zip(rois.par_chunks(5)).try_for_each(|(out, roi)| {
            let &[image, left, top, right, bottom] = roi else { return Ok(()) };
            if !(image >= 0.0 && image < images as f64) {
                return Err(Reason::new(format!("a region of image {image}, of which there are {images}")));
            }
            let rows = self.parts([top, bottom], height, out_h, rounding);
            let columns = self.parts([left, right], width, out_w, rounding);
            for (channel, out) in out.chunks_mut(out_h * out_w).enumerate() {
                let from = (image as usize * channels + channel) * height * width;
                let plane = x.get(from..from + height * width).unwrap_or_default();
                for (out, rows) in out.chunks_mut(out_w).zip(&rows) {
                    for (out, columns) in out.iter_mut().zip(&columns) {
                        let greatest = rows
                            .clone()
                            .flat_map(|row| columns.clone().map(move |column| row * width + column))
                            .filter_map(|at| plane.get(at).copied())
                            .reduce(f64::max);
                        *out = greatest.unwrap_or(0.0);
                    }
                }
            }
            Ok(())
        })?;
        Ok(Some(vec![Value::Tensor(of_f64s(output, pooled)?)]))
    }
}

/// What a max pooling left, each element where it came from, among zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxUnpool {
    /// The extents of the windows.
    pub kernel: Vec<i64>,
    /// Between windows.
    pub strides: Vec<i64>,
    /// Before each axis, then after each.
    pub pads: Vec<i64>,
}

fn import_unpool(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let kernel = node.attributes.ints("kernel_shape")?.unwrap_or_default();
    let strides = node.attributes.ints("strides")?.unwrap_or_else(|| vec![1; kernel.len()]);
    let pads = node.attributes.ints("pads")?.unwrap_or_else(|| vec![0; 2 * kernel.len()]);
    if kernel.is_empty() || strides.len() != kernel.len() || pads.len() != 2 * kernel.len() {
        return Err(Reason::new(format!("windows {kernel:?} with strides {strides:?} and pads {pads:?}")));
    }
    Ok(Box::new(MaxUnpool { kernel, strides, pads }))
}

impl MaxUnpool {
    /// The extents of what was pooled, in which indices count.
    fn pooled(&self, x: &TensorType) -> Result<Vec<usize>, Reason> {
        let wrong = || Reason::new(format!("input `X` is {x} with windows {:?}", self.kernel));
        if x.rank() != self.kernel.len() + 2 {
            return Err(wrong());
        }
        let mut shape = x.shape[..2].to_vec();
        for (axis, &extent) in x.shape[2..].iter().enumerate() {
            let pads = self.pads[axis].checked_add(self.pads[self.kernel.len() + axis]);
            let before = i64::try_from(extent).ok().and_then(|extent| {
                (extent - 1)
                    .checked_mul(self.strides[axis])?
                    .checked_sub(pads?)?
                    .checked_add(self.kernel[axis])
            });
            shape.push(before.and_then(|before| usize::try_from(before).ok()).ok_or_else(wrong)?);
        }
        Ok(shape)
    }
}

impl Operator for MaxUnpool {
    fn name(&self) -> &'static str {
        "MaxUnpool"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (x, indices) = (node.ty(0)?, node.ty(1)?);
        common_float(node, &[0])?;
        expect_dtype(indices, &[DataType::I64])?;
        if indices.shape != x.shape {
            return Err(Reason::new(format!("input `I` is {indices} beside {x}")));
        }
        let pooled = self.pooled(x)?;
        let shape = match node.known_i64s(2, "output_shape")? {
            None => pooled,
            Some(given) => {
                let wrong = || Reason::new(format!("output_shape {given:?} does not hold {pooled:?}"));
                let shape: Option<Vec<usize>> =
                    given.iter().map(|&extent| usize::try_from(extent).ok()).collect();
                let holds = |shape: &Vec<usize>| {
                    shape.len() == pooled.len() && shape.iter().zip(&pooled).all(|(a, b)| a >= b)
                };
                shape.filter(holds).ok_or_else(wrong)?
            }
        };
        let output = TensorType::new(x.dtype, shape);
        expect_elements(&output.shape, size_of::<f64>())?;
        Ok(vec![output])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let Some(output) = with_types(node, |types| self.infer(types))?.pop() else { return Ok(None) };
        let pooled = TensorType::new(output.dtype, self.pooled(node.tensor(0)?.ty())?);
        let (strides, out_strides) = (pooled.strides(), output.strides());
        let elements = pooled.elements();
        let mut spread = vec![0.0; output.elements()];
        for (value, index) in to_f64s(node.tensor(0)?)?.into_iter().zip(node.i64s(1)?) {
            let place = usize::try_from(index)
                .ok()
                .filter(|&place| place < elements)
                .ok_or_else(|| Reason::new(format!("index {index} among {elements} elements")))?;
            // The same place in the output, which may be larger.
            let mut rest = place;
            let mut at = 0;
            for (stride, out_stride) in strides.iter().zip(&out_strides) {
                at += rest / *stride as usize * *out_stride as usize;
                rest %= *stride as usize;
            }
            if let Some(slot) = spread.get_mut(at) {
                *slot = value;
            }
        }
        Ok(Some(vec![Value::Tensor(of_f64s(output, spread)?)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, import, run, tensor};

    #[test]
    fn regions_are_sampled_between_elements() {
        let x = f32s([1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let rois = f32s([1, 4], &[0.0, 0.0, 2.0, 2.0]);
        let inputs = [x.clone(), rois.clone(), i64s([1], &[0])];
        let ratio = [("sampling_ratio", Attribute::Int(1))];
        check(("RoiAlign", 16), &ratio, &inputs, &f32s([1, 1, 1, 1], &[2.5]));
        // Without the shift the one sample is the last element.
        check(("RoiAlign", 10), &ratio, &inputs, &f32s([1, 1, 1, 1], &[4.0]));
        let outside = [x.clone(), rois.clone(), i64s([1], &[1])];
        assert!(run(("RoiAlign", 16), &[], &outside).is_err());
        let huge = [x, f32s([1, 4], &[0.0, 0.0, 1e30, f32::INFINITY]), i64s([1], &[0])];
        assert!(run(("RoiAlign", 16), &[], &huge).is_err());
        assert!(import(("RoiAlign", 16), &[("output_height", 0.into())], 3, 1).is_err());
    }

    #[test]
    fn parts_of_regions_have_their_greatest_element() {
        let values: Vec<f32> = (0..16).map(|v| v as f32).collect();
        let x = f32s([1, 1, 4, 4], &values);
        let rois = f32s([2, 5], &[0.0, 0.0, 0.0, 3.0, 3.0, 0.0, 9.0, 9.0, 9.0, 9.0]);
        let shape = [("pooled_shape", Attribute::Ints(vec![2, 2]))];
        let expected = [5.0, 7.0, 13.0, 15.0, 0.0, 0.0, 0.0, 0.0];
        check(("MaxRoiPool", 7), &shape, &[x.clone(), rois], &f32s([2, 1, 2, 2], &expected));
        let nowhere = f32s([1, 5], &[f32::NAN, 0.0, 0.0, 1.0, 1.0]);
        assert!(run(("MaxRoiPool", 7), &shape, &[x, nowhere]).is_err());
    }

    #[test]
    fn pooled_elements_return_to_their_places() {
        let x = f32s([1, 1, 1, 2], &[5.0, 6.0]);
        let indices = i64s([1, 1, 1, 2], &[1, 2]);
        let windows =
            [("kernel_shape", Attribute::Ints(vec![1, 2])), ("strides", Attribute::Ints(vec![1, 2]))];
        let expected = f32s([1, 1, 1, 4], &[0.0, 5.0, 6.0, 0.0]);
        check(("MaxUnpool", 11), &windows, &[x.clone(), indices.clone()], &expected);
        let wider = [x.clone(), indices.clone(), i64s([4], &[1, 1, 2, 5])];
        let expected = f32s([1, 1, 2, 5], &[0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        check(("MaxUnpool", 11), &windows, &wider, &expected);
        let beyond = [x.clone(), i64s([1, 1, 1, 2], &[1, 4])];
        assert!(run(("MaxUnpool", 11), &windows, &beyond).is_err());
        let smaller = [x, indices, i64s([4], &[1, 1, 1, 3])];
        assert!(run(("MaxUnpool", 11), &windows, &smaller).is_err());
        let halves = tensor(DataType::F16, [1, 1, 1], &[half::f16::ONE]);
        let one = [("kernel_shape", Attribute::Ints(vec![1]))];
        check(("MaxUnpool", 9), &one, &[halves.clone(), i64s([1, 1, 1], &[0])], &halves);
    }
}
