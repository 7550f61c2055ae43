//! RoiAlign, MaxRoiPool, MaxUnpool: regions of pictures pooled, and pooled pictures spread again.
//!
//! <https://onnx.ai/onnx/operators/onnx__RoiAlign.html>: since opset 10; `coordinate_transformation_mode` since 16, where
//! its default shifts the regions by half an element. <https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html>: since
//! opset 1. <https://onnx.ai/onnx/operators/onnx__MaxUnpool.html>: since opset 9. Floats of every width; bf16 since 22.
//!
//! Regions are pooled by kernels of f32 and f64, f16 and bf16 as f32; what is spread is scattered among zeros.

use infer_kernels::call;

use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::ops::element_type::{common_float, converted, with_output};
use crate::ops::elements::expect_elements;
use crate::ops::{Attribute, Expansion, ImportNode, NodeTypes, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// Extents of 0 as they are, not those of the input.
const ALLOW_ZERO: [(&str, Attribute); 1] = [("allowzero", Attribute::Int(1))];

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row { name: "MaxRoiPool", domain: "", since: 1, inputs: 2..=2, outputs: 1..=1, import: import_pool },
    Row { name: "MaxUnpool", domain: "", since: 9, inputs: 2..=3, outputs: 1..=1, import: import_unpool },
    Row { name: "RoiAlign", domain: "", since: 10, inputs: 3..=3, outputs: 1..=1, import: import_align },
];

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

/// In which type elements of type `dtype` are pooled.
fn computed(dtype: DataType) -> DataType {
    if dtype == DataType::F64 { DataType::F64 } else { DataType::F32 }
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

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, rois, images, output) = (node.input(0)?, node.input(1)?, node.input(2)?, node.output(0)?);
        let [n, channels, in_h, in_w] = picture(&x.ty)?.map(|extent| extent as u64);
        let [out_h, out_w] = self.output.map(|extent| extent as u64);
        let params = call::RoiAlign {
            n,
            channels,
            in_h,
            in_w,
            regions: rois.ty.shape[0] as u64,
            out_h,
            out_w,
            sampling_ratio: self.sampling_ratio as u64,
            max: self.max.into(),
            half_pixel: self.half_pixel.into(),
            index_bytes: images.ty.dtype.size_bytes() as u64,
            spatial_scale: self.spatial_scale,
            reserved: 0,
        };
        let dtype = computed(x.ty.dtype);
        let (x, rois) = (converted(node, &x, dtype)?, converted(node, &rois, dtype)?);
        with_output(node, &output, dtype, |node, output| {
            let operands = [&x, &rois, &images, output].map(|tensor| Some(tensor.span));
            node.call(format!("roi_align_{dtype}"), &params, &operands);
            Ok(())
        })
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

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, rois, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let [n, channels, in_h, in_w] = picture(&x.ty)?.map(|extent| extent as u64);
        let [out_h, out_w] = self.output.map(|extent| extent as u64);
        let regions = rois.ty.shape[0] as u64;
        let spatial_scale = self.spatial_scale;
        let params =
            call::MaxRoiPool { n, channels, in_h, in_w, regions, out_h, out_w, spatial_scale, reserved: 0 };
        let dtype = computed(x.ty.dtype);
        let (x, rois) = (converted(node, &x, dtype)?, converted(node, &rois, dtype)?);
        with_output(node, &output, dtype, |node, output| {
            let operands = [&x, &rois, output].map(|tensor| Some(tensor.span));
            node.call(format!("max_roi_pool_{dtype}"), &params, &operands);
            Ok(())
        })
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
        expect_elements(&shape, size_of::<f64>())?;
        Ok(shape)
    }

    /// The extents of the output, which holds what was pooled.
    fn output(&self, node: &NodeTypes<'_>, pooled: &[usize]) -> Result<Vec<usize>, Reason> {
        let (x, indices) = (node.ty(0)?, node.ty(1)?);
        common_float(node, &[0])?;
        expect_dtype(indices, &[DataType::I64])?;
        if indices.shape != x.shape {
            return Err(Reason::new(format!("input `I` is {indices} beside {x}")));
        }
        let Some(given) = node.known_i64s(2, "output_shape")? else { return Ok(pooled.to_vec()) };
        let wrong = || Reason::new(format!("output_shape {given:?} does not hold {pooled:?}"));
        let shape: Option<Vec<usize>> = given.iter().map(|&extent| usize::try_from(extent).ok()).collect();
        let holds =
            |shape: &Vec<usize>| shape.len() == pooled.len() && shape.iter().zip(pooled).all(|(a, b)| a >= b);
        let shape = shape.filter(holds).ok_or_else(wrong)?;
        expect_elements(&shape, size_of::<f64>())?;
        Ok(shape)
    }
}

impl Operator for MaxUnpool {
    fn name(&self) -> &'static str {
        "MaxUnpool"
    }

    /// A scatter among zeros, which are padded where the output is to be larger than what was pooled.
    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (x, indices) = (nodes.input(0)?, nodes.input(1)?);
        let pooled = self.pooled(nodes.ty(x)?)?;
        let output = self.output(&nodes.types, &pooled)?;
        let elements = pooled.iter().product::<usize>() as i64;
        let wide = |shape: &[usize]| shape.iter().map(|&extent| extent as i64).collect::<Vec<_>>();
        let row = nodes.i64s(&[-1]);
        let (values, places) = match nodes.ty(x)?.elements() {
            0 => {
                let none = nodes.i64s(&[0]);
                (
                    nodes.node("Reshape", &[x, none], &ALLOW_ZERO)?,
                    nodes.node("Reshape", &[indices, none], &ALLOW_ZERO)?,
                )
            }
            _ => (nodes.node("Reshape", &[x, row], &[])?, nodes.node("Reshape", &[indices, row], &[])?),
        };
        // Negative places do not count from the end.
        let (zero, beyond) = (nodes.i64s(&[0]), nodes.i64s(&[elements]));
        let before = nodes.node("Less", &[places, zero], &[])?;
        let places = nodes.node("Where", &[before, beyond, places], &[])?;
        let dtype = nodes.ty(x)?.dtype;
        let nothing = Constant::new(TensorType::new(dtype, [1]), vec![0; dtype.size_bytes()].into());
        let nothing = nodes.constant(nothing.ok_or_else(|| Reason::new("no zero"))?);
        let zeros = nodes.node("Expand", &[nothing, beyond], &[])?;
        let spread = nodes.node("ScatterElements", &[zeros, places, values], &[])?;
        let shape = nodes.i64s(&wide(&pooled));
        let mut spread = nodes.node("Reshape", &[spread, shape], &ALLOW_ZERO)?;
        if output != pooled {
            let mut pads = vec![0; 2 * pooled.len()];
            for (axis, (to, from)) in output.iter().zip(&pooled).enumerate() {
                pads[pooled.len() + axis] = (to - from) as i64;
            }
            let pads = nodes.i64s(&pads);
            spread = nodes.node("Pad", &[spread, pads], &[])?;
        }
        Ok(Some(vec![spread]))
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
