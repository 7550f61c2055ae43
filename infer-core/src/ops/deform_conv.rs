//! DeformConv: convolution whose taps lie where another input puts them.
//!
//! <https://onnx.ai/onnx/operators/onnx__DeformConv.html>: since opset 19, bf16 since 22; 1 to 3 spatial axes.
//!
//! Computed on values: for each block of output places the taps' elements are interpolated into columns, once for all
//! output channels, which are then sums over the columns. Taps outside of the picture are zero.

use rayon::prelude::*;

use crate::diagnostic::Reason;
use crate::node_values::NodeValues;
use crate::ops::element_type::common_float;
use crate::ops::elements::{expect_elements, with_types};
use crate::ops::grid_sample::join_blocks;
use crate::ops::number::{of_f64s, to_f64s};
use crate::ops::{ImportNode, NodeTypes, Operator, Row};
use crate::tensor_type::TensorType;
use crate::value::Value;

/// The table's rows.
pub const OPERATORS: &[Row] =
    &[Row { name: "DeformConv", domain: "", since: 19, inputs: 3..=5, outputs: 1..=1, import }];

/// Output places whose columns are made together.
const BLOCK: usize = 64;

/// A deformable convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeformConv {
    /// The kernel's extents, where the attribute gives them.
    pub kernel: Option<Vec<i64>>,
    /// Between output places; empty for 1.
    pub strides: Vec<i64>,
    /// Between taps; empty for 1.
    pub dilations: Vec<i64>,
    /// Before each axis, then after each; empty for 0.
    pub pads: Vec<i64>,
    /// Groups of channels.
    pub groups: usize,
    /// Groups of channels that share their taps' places.
    pub offset_groups: usize,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    let count = |value: Option<i64>, name: &str| match usize::try_from(value.unwrap_or(1)) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Reason::new(format!("attribute `{name}` is {}", value.unwrap_or(1)))),
    };
    Ok(Box::new(DeformConv {
        kernel: attributes.ints("kernel_shape")?,
        strides: attributes.ints("strides")?.unwrap_or_default(),
        dilations: attributes.ints("dilations")?.unwrap_or_default(),
        pads: attributes.ints("pads")?.unwrap_or_default(),
        groups: count(attributes.int("group")?, "group")?,
        offset_groups: count(attributes.int("offset_group")?, "offset_group")?,
    }))
}

/// One spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    input: usize,
    kernel: usize,
    output: usize,
    stride: i64,
    dilation: i64,
    pad: i64,
    /// Between elements of the input.
    step: usize,
}

impl Axis {
    /// Where tap `tap` of output place `place` lies before it is moved.
    fn position(&self, place: usize, tap: usize) -> i64 {
        place as i64 * self.stride + tap as i64 * self.dilation - self.pad
    }
}

/// The extents of a convolution.
struct Extents {
    images: usize,
    channels: usize,
    outputs: usize,
    axes: Vec<Axis>,
}

impl Extents {
    fn product(&self, extent: impl Fn(&Axis) -> usize) -> usize {
        self.axes.iter().map(extent).fold(1, usize::saturating_mul)
    }
}

/// The bound on positions: sums of a few stay exact in i64 and in f64.
const LIMIT: i64 = 1 << 40;

impl DeformConv {
    /// The attribute's value for axis `axis`, `default` where it is left out.
    fn of(values: &[i64], axis: usize, least: i64, default: i64) -> Result<i64, Reason> {
        let value = values.get(axis).copied().unwrap_or(default);
        if (least..=LIMIT).contains(&value) {
            Ok(value)
        } else {
            Err(Reason::new(format!("strides, dilations or pads {values:?}")))
        }
    }

    fn extents(&self, node: &NodeTypes<'_>) -> Result<Extents, Reason> {
        let (x, w, offset) = (node.ty(0)?, node.ty(1)?, node.ty(2)?);
        let rank = x.rank().saturating_sub(2);
        if rank == 0 || rank > 3 || w.rank() != x.rank() || offset.rank() != x.rank() {
            return Err(Reason::new(format!("picture {x} with weights {w} and offsets {offset}"))
                .supported("1 to 3 spatial axes"));
        }
        let lengths = [&self.strides, &self.dilations].map(Vec::len);
        let given = |length: usize, wanted: usize| length == 0 || length == wanted;
        if !lengths.iter().all(|&length| given(length, rank)) || !given(self.pads.len(), 2 * rank) {
            return Err(Reason::new(format!("strides, dilations or pads for other than {rank} axes")));
        }
        if let Some(kernel) = &self.kernel {
            let same =
                kernel.iter().map(|&k| usize::try_from(k).ok()).eq(w.shape[2..].iter().map(|&k| Some(k)));
            if !same {
                return Err(Reason::new(format!(
                    "attribute `kernel_shape` is {kernel:?}, but input `W` is {w}"
                )));
            }
        }
        let (images, channels, outputs) = (x.shape[0], x.shape[1], w.shape[0]);
        let grouped = channels % self.groups == 0
            && w.shape[1] == channels / self.groups
            && outputs % self.groups == 0
            && channels % self.offset_groups == 0;
        if !grouped {
            return Err(Reason::new(format!(
                "picture {x} with weights {w} in {} groups and {} of offsets",
                self.groups, self.offset_groups
            )));
        }
        let strides = TensorType::new(x.dtype, x.shape[2..].to_vec()).strides();
        let mut axes = Vec::with_capacity(rank);
        for (axis, &step) in strides.iter().enumerate() {
            let (input, kernel) = (x.shape[axis + 2], w.shape[axis + 2]);
            let stride = Self::of(&self.strides, axis, 1, 1)?;
            let dilation = Self::of(&self.dilations, axis, 1, 1)?;
            let pad = Self::of(&self.pads, axis, 0, 0)?;
            let pad_end = Self::of(&self.pads, rank + axis, 0, 0)?;
            let small = |extent: usize| i64::try_from(extent).ok().filter(|&extent| extent <= LIMIT);
            let output = small(input).zip(small(kernel)).and_then(|(input, kernel)| {
                let room = input + pad + pad_end - (kernel - 1).checked_mul(dilation)? - 1;
                usize::try_from(room).ok().filter(|_| kernel > 0).map(|room| room / stride as usize + 1)
            });
            let output = output.filter(|&output| output <= LIMIT as usize).ok_or_else(|| {
                Reason::new(format!("a kernel of {w} does not fit into {x} with pads {:?}", self.pads))
            })?;
            axes.push(Axis { input, kernel, output, stride, dilation, pad, step: step as usize });
        }
        let extents = Extents { images, channels, outputs, axes };
        let taps = extents
            .axes
            .iter()
            .try_fold(self.offset_groups, |taps, axis| taps.checked_mul(axis.kernel))
            .filter(|taps| taps.checked_mul(rank).is_some())
            .ok_or_else(|| Reason::new(format!("input `W` is {w}, which is too large")))?;
        let moved = |per_tap: usize| {
            let mut shape = vec![images, taps * per_tap];
            shape.extend(extents.axes.iter().map(|axis| axis.output));
            shape
        };
        let expected = [("offset", 2, moved(rank)), ("B", 3, vec![outputs]), ("mask", 4, moved(1))];
        for (name, index, shape) in expected {
            if let Some(ty) = node.optional(index).filter(|ty| ty.shape != shape) {
                return Err(Reason::new(format!("input `{name}` is {ty}, not of the extents {shape:?}")));
            }
        }
        Ok(extents)
    }
}

/// What a convolution reads.
struct Tensors {
    x: Vec<f64>,
    w: Vec<f64>,
    offset: Vec<f64>,
    /// Empty where there is none.
    bias: Vec<f64>,
    /// Empty where there is none.
    mask: Vec<f64>,
}

impl DeformConv {
    /// The elements of a channel that a tap reads, and their weights.
    fn corners(axes: &[Axis], position: &[f64], factor: f64, corners: &mut Vec<(usize, f64)>) {
        corners.clear();
        corners.push((0, factor));
        for (axis, &x) in axes.iter().zip(position) {
            let floor = x.floor();
            let mut inside = [None; 2];
            for (side, weight) in [1.0 - (x - floor), x - floor].into_iter().enumerate() {
                let at = floor + side as f64;
                // False also for what is not a number.
                if at >= 0.0 && at < axis.input as f64 {
                    inside[side] = Some((at as usize * axis.step, weight));
                }
            }
            let count = corners.len();
            for side in inside.into_iter().flatten() {
                for index in 0..count {
                    let (at, weight) = corners[index];
                    corners.push((at + side.0, weight * side.1));
                }
            }
            corners.drain(..count);
        }
    }

    /// All output channels of the `count` places from `first` on of an image, channel after channel.
    fn block(&self, e: &Extents, t: &Tensors, image: usize, first: usize, count: usize) -> Vec<f64> {
        let rank = e.axes.len();
        let (taps, points) = (e.product(|axis| axis.kernel), e.product(|axis| axis.output));
        let plane = e.product(|axis| axis.input);
        let shared = e.channels / self.offset_groups;
        let mut columns = vec![0.0; e.channels * taps * count];
        let (mut corners, mut position) = (Vec::new(), vec![0.0; rank]);
        for group in 0..self.offset_groups {
            for tap in 0..taps {
                let moved = (image * self.offset_groups + group) * taps + tap;
                for place in 0..count {
                    let (mut point, mut rest) = (first + place, tap);
                    for (index, axis) in e.axes.iter().enumerate().rev() {
                        let at = axis.position(point % axis.output, rest % axis.kernel) as f64;
                        let offset = (moved * rank + index) * points + first + place;
                        position[index] = at + t.offset.get(offset).copied().unwrap_or(0.0);
                        point /= axis.output;
                        rest /= axis.kernel;
                    }
                    let factor = t.mask.get(moved * points + first + place).copied().unwrap_or(1.0);
                    Self::corners(&e.axes, &position, factor, &mut corners);
                    for channel in group * shared..(group + 1) * shared {
                        let from = (image * e.channels + channel) * plane;
                        let value = |&(at, weight): &(usize, f64)| {
                            t.x.get(from + at).map_or(0.0, |value| value * weight)
                        };
                        columns[(channel * taps + tap) * count + place] = corners.iter().map(value).sum();
                    }
                }
            }
        }
        let depth = e.channels / self.groups * taps;
        let each = e.outputs / self.groups;
        let mut out = vec![0.0; e.outputs * count];
        for (output, out) in out.chunks_mut(count).enumerate() {
            out.fill(t.bias.get(output).copied().unwrap_or(0.0));
            let weights = t.w.get(output * depth..(output + 1) * depth).unwrap_or_default();
            let from = output / each * depth * count;
            let columns = columns.get(from..).unwrap_or_default().chunks(count);
            for (weight, column) in weights.iter().zip(columns) {
                for (out, value) in out.iter_mut().zip(column) {
                    *out += weight * value;
                }
            }
        }
        out
    }
}

impl Operator for DeformConv {
    fn name(&self) -> &'static str {
        "DeformConv"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let dtype = common_float(node, &[0, 1, 2, 3, 4])?;
        let extents = self.extents(node)?;
        let mut shape = vec![extents.images, extents.outputs];
        shape.extend(extents.axes.iter().map(|axis| axis.output));
        Ok(vec![TensorType::new(dtype, shape)])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (outputs, extents) = with_types(node, |types| Ok((self.infer(types)?, self.extents(types)?)))?;
        let Some(output) = outputs.into_iter().next() else { return Ok(None) };
        expect_elements(&output.shape, size_of::<f64>())?;
        if output.elements() == 0 {
            return Ok(Some(vec![Value::Tensor(of_f64s(output, [])?)]));
        }
        let optional = |index: usize| match node.optional_tensor(index)? {
            Some(tensor) => to_f64s(tensor),
            None => Ok(Vec::new()),
        };
        let tensors = Tensors {
            x: to_f64s(node.tensor(0)?)?,
            w: to_f64s(node.tensor(1)?)?,
            offset: to_f64s(node.tensor(2)?)?,
            bias: optional(3)?,
            mask: optional(4)?,
        };
        let points = extents.product(|axis| axis.output);
        let blocks = points.div_ceil(BLOCK);
        let computed: Vec<Vec<f64>> = (0..extents.images * blocks)
            .into_par_iter()
            .map(|item| {
                let first = item % blocks * BLOCK;
                self.block(&extents, &tensors, item / blocks, first, (points - first).min(BLOCK))
            })
            .collect();
        let values = join_blocks(&computed, blocks, extents.outputs);
        Ok(Some(vec![Value::Tensor(of_f64s(output, values)?)]))
    }

    fn flops(&self, node: &NodeTypes<'_>, outputs: &[&TensorType]) -> u64 {
        let each = node.ty(1).map_or(0, |w| w.shape.iter().skip(1).product::<usize>() as u64);
        outputs.first().map_or(0, |output| (output.elements() as u64).saturating_mul(each).saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, import, infer, run, run_all};
    use crate::tensor_type::DataType;

    fn picture() -> Constant {
        f32s([1, 1, 3, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    }

    #[test]
    fn taps_are_moved_weighted_and_masked() {
        let w = f32s([1, 1, 2, 2], &[1.0, 1.0, 1.0, 1.0]);
        let mut offset = [0.0; 32];
        // The first tap of the first place half a row down; of the last place, the last tap out of the picture.
        offset[0] = 0.5;
        offset[31] = 5.0;
        let inputs = [picture(), w.clone(), f32s([1, 8, 2, 2], &offset)];
        let y = f32s([1, 1, 2, 2], &[9.5, 12.0, 20.0, 16.0]);
        check(("DeformConv", 19), &[], &inputs, &y);
        let mut mask = [1.0; 16];
        mask[0] = 2.0;
        let more = [inputs.to_vec(), vec![f32s([1], &[100.0]), f32s([1, 4, 2, 2], &mask)]].concat();
        check(("DeformConv", 22), &[], &more, &f32s([1, 1, 2, 2], &[111.0, 112.0, 120.0, 116.0]));
        let nan = [picture(), w, f32s([1, 8, 2, 2], &[f32::NAN; 32])];
        check(("DeformConv", 19), &[], &nan, &f32s([1, 1, 2, 2], &[0.0; 4]));
    }

    #[test]
    fn groups_have_their_own_channels_and_places() {
        let x = f32s([1, 2, 2], &[1.0, 2.0, 10.0, 20.0]);
        let w = f32s([2, 1, 1], &[1.0, 3.0]);
        // The second group of offsets reads one element further.
        let offset = f32s([1, 2, 2], &[0.0, 0.0, 1.0, 1.0]);
        let groups = [("group", Attribute::Int(2)), ("offset_group", Attribute::Int(2))];
        check(("DeformConv", 19), &groups, &[x, w, offset], &f32s([1, 2, 2], &[1.0, 2.0, 60.0, 0.0]));
    }

    #[test]
    fn without_offsets_it_is_a_convolution() {
        let values: Vec<f32> = (0..2 * 4 * 7 * 9).map(|v| (v * 37 % 23) as f32).collect();
        let x = f32s([2, 4, 7, 9], &values);
        let w = f32s([6, 2, 3, 2], &values[..72]);
        let attributes = [
            ("group", Attribute::Int(2)),
            ("pads", Attribute::Ints(vec![1, 0, 2, 1])),
            ("strides", Attribute::Ints(vec![2, 1])),
            ("dilations", Attribute::Ints(vec![1, 2])),
        ];
        let expected = run(("Conv", 11), &attributes, &[x.clone(), w.clone()]).unwrap();
        let shape = [2, 12, expected.ty().shape[2], expected.ty().shape[3]];
        let offset = f32s(shape, &vec![0.0; shape.iter().product()]);
        let actual = run_all(("DeformConv", 22), &attributes, &[Some(x), Some(w), Some(offset)], 1).unwrap();
        assert!(actual[0] == expected);
    }

    #[test]
    fn wrong_extents_are_refused() {
        let ty = |shape: &[usize]| TensorType::new(DataType::F32, shape);
        let good = [ty(&[1, 2, 4, 4]), ty(&[2, 2, 3, 3]), ty(&[1, 18, 2, 2])];
        assert!(infer(("DeformConv", 19), &[], &good).is_ok());
        let offset = infer(("DeformConv", 19), &[("offset_group", 2.into())], &good).unwrap_err();
        assert_eq!(offset.what, "input `offset` is f32[1,18,2,2], not of the extents [1, 36, 2, 2]");
        for (name, values) in
            [("strides", vec![0, 1]), ("pads", vec![-1, 0, 0, 0]), ("dilations", vec![i64::MAX, 1])]
        {
            assert!(infer(("DeformConv", 19), &[(name, Attribute::Ints(values))], &good).is_err(), "{name}");
        }
        assert!(import(("DeformConv", 19), &[("group", 0.into())], 3, 1).is_err());
    }
}
