//! GridSample and AffineGrid: pictures read at places that a grid names, and such grids.
//!
//! <https://onnx.ai/onnx/operators/onnx__GridSample.html>: of two spatial axes since opset 16, of any number since 20,
//! which also renames the modes `bilinear` and `bicubic`; bf16 since 22. Elements of every type where the mode is
//! nearest, else of real and complex numbers. <https://onnx.ai/onnx/operators/onnx__AffineGrid.html>: since opset 20.
//!
//! Kernels read pictures of floats, f16 and bf16 as f32; those of other elements are read on the host, each place turned
//! into the elements it reads and their weights once for all channels.

use bytemuck::{AnyBitPattern, NoUninit};
use infer_kernels::call;
use rayon::prelude::*;

use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::node_values::NodeValues;
use crate::ops::element_type::{converted, with_output};
use crate::ops::elements::{checked_elements, with_types};
use crate::ops::number::{NUMBERS, Number, no_numbers, tensor_of, to_f64s, with_number};
use crate::ops::{Attribute, Expansion, ImportNode, NodeTypes, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row { name: "AffineGrid", domain: "", since: 20, inputs: 2..=2, outputs: 1..=1, import: import_affine },
    Row { name: "GridSample", domain: "", since: 16, inputs: 2..=2, outputs: 1..=1, import: import_sample },
];

const FLOATS: [DataType; 4] = [DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];

/// The most spatial axes: each place reads up to 4 elements for each.
const MAX_AXES: usize = call::GridSample::MOST_AXES;

/// Places whose elements are found before any channel is read.
const BLOCK: usize = 256;

/// How elements beside a place are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The nearest one, of two the even one.
    Nearest,
    /// Linear between two along each axis.
    Linear,
    /// Cubic convolution of four along each axis.
    Cubic,
}

/// What lies outside of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Zeros.
    Zeros,
    /// The outermost elements.
    Border,
    /// The picture, reflected.
    Reflection,
}

/// A picture read at the places of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSample {
    /// How.
    pub mode: Mode,
    /// What lies outside.
    pub padding: Padding,
    /// Whether −1 and 1 are the centres of the outermost elements, not their outer edges.
    pub align_corners: bool,
}

fn import_sample(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mode = match (node.attributes.string("mode")?.as_deref(), node.opset) {
        (None | Some("linear"), 20..) | (None | Some("bilinear"), ..20) => Mode::Linear,
        // Exporters write the other opset's names too.
        (Some("linear" | "bilinear"), _) => Mode::Linear,
        (Some("cubic" | "bicubic"), _) => Mode::Cubic,
        (Some("nearest"), _) => Mode::Nearest,
        (other, _) => {
            return Err(Reason::new(format!("mode {} is not supported", quote(other.unwrap_or_default())))
                .supported("\"nearest\", \"linear\", \"cubic\""));
        }
    };
    let padding = match node.attributes.string("padding_mode")?.as_deref() {
        None | Some("zeros") => Padding::Zeros,
        Some("border") => Padding::Border,
        Some("reflection") => Padding::Reflection,
        Some(other) => {
            return Err(Reason::new(format!("padding_mode {} is not supported", quote(other)))
                .supported("\"zeros\", \"border\", \"reflection\""));
        }
    };
    let align_corners = node.attributes.flag("align_corners", false)?;
    Ok(Box::new(GridSample { mode, padding, align_corners }))
}

/// The elements of pictures as one tensor: for each block of places, `blocks` of which make an image, there are those of
/// all channels, channel after channel.
pub(super) fn join_blocks<T: Copy>(read: &[Vec<T>], blocks: usize, channels: usize) -> Vec<T> {
    let mut joined = Vec::with_capacity(read.iter().map(Vec::len).sum());
    for image in read.chunks(blocks.max(1)) {
        for channel in 0..channels {
            for block in image {
                let count = block.len() / channels;
                joined
                    .extend_from_slice(block.get(channel * count..(channel + 1) * count).unwrap_or_default());
            }
        }
    }
    joined
}

impl GridSample {
    /// The parameters of the kernels, which also say what a place reads.
    fn params(&self, x: &TensorType, grid: &TensorType) -> Result<call::GridSample, Reason> {
        let wrong = || Reason::new(format!("input `X` is {x}, not of 1 to {MAX_AXES} spatial axes"));
        let spatial = x.shape.get(2..).ok_or_else(wrong)?;
        let points = grid.shape.get(1..spatial.len() + 1).ok_or_else(wrong)?;
        let mut params = call::GridSample {
            n: x.shape[0] as u64,
            channels: x.shape[1] as u64,
            rank: spatial.len() as u64,
            points: points.iter().product::<usize>() as u64,
            mode: self.mode as u64,
            padding: self.padding as u64,
            align_corners: self.align_corners.into(),
            grid_bytes: if grid.dtype == DataType::F64 { 8 } else { 4 },
            ..call::GridSample::default()
        };
        for (number, &extent) in spatial.iter().enumerate() {
            *params.dims.get_mut(number).ok_or_else(wrong)? = extent as u64;
        }
        Ok(params)
    }

    /// The type of the elements that the kernels read pictures of `dtype` as.
    fn computed(dtype: DataType) -> Option<DataType> {
        match dtype {
            DataType::F32 | DataType::F64 => Some(dtype),
            DataType::F16 | DataType::Bf16 => Some(DataType::F32),
            _ => None,
        }
    }

    /// Reads a picture of elements `T`, of which `combine` makes one from weighted ones.
    fn sample<T: Copy + Send + Sync + AnyBitPattern + NoUninit>(
        &self,
        x: &Constant,
        grid: &Constant,
        output: TensorType,
        combine: impl Fn(&[T], &[(usize, f64)]) -> T + Sync,
    ) -> Result<Constant, Reason> {
        if output.elements() == 0 {
            return Constant::checked::<T>(output, &[]).ok_or_else(|| Reason::new("no elements"));
        }
        let (params, places) = (self.params(x.ty(), grid.ty())?, to_f64s(grid)?);
        let values = x.values::<T>();
        let channels = params.channels as usize;
        let axes = params.rank as usize;
        let picture: usize = x.ty().shape.get(2..).unwrap_or_default().iter().product();
        let points = params.points as usize;
        let images = x.ty().shape.first().copied().unwrap_or(0);
        let blocks = points.div_ceil(BLOCK);
        let read: Vec<Vec<T>> = (0..images * blocks)
            .into_par_iter()
            .map(|item| {
                let (image, first) = (item / blocks, item % blocks * BLOCK);
                let count = (points - first).min(BLOCK);
                let (mut reads, mut ends) = (Vec::new(), Vec::with_capacity(count));
                let from = (image * points + first) * axes;
                for place in places.get(from..).unwrap_or_default().chunks(axes).take(count) {
                    // A place names the innermost axis first.
                    let mut coordinates = [0.0; MAX_AXES];
                    coordinates.iter_mut().zip(place.iter().rev()).for_each(|(slot, &n)| *slot = n);
                    params.each_read(&coordinates, |at, weight| reads.push((at, weight)));
                    ends.push(reads.len());
                }
                let mut out = Vec::with_capacity(count * channels);
                for channel in 0..channels {
                    let from = (image * channels + channel) * picture;
                    let plane = values.get(from..from + picture).unwrap_or_default();
                    let mut start = 0;
                    for &end in &ends {
                        out.push(combine(plane, reads.get(start..end).unwrap_or_default()));
                        start = end;
                    }
                }
                out
            })
            .collect();
        let result = join_blocks(&read, blocks, channels);
        Constant::checked(output, &result).ok_or_else(|| Reason::new("a grid of another size"))
    }
}

/// The first element, or zero: of the one that is nearest.
fn first<T: Copy + AnyBitPattern>(plane: &[T], reads: &[(usize, f64)]) -> T {
    reads.first().and_then(|&(at, _)| plane.get(at).copied()).unwrap_or_else(T::zeroed)
}

/// The weighted sum.
fn sum<T: Number>(plane: &[T], reads: &[(usize, f64)]) -> T {
    let term = |&(at, weight): &(usize, f64)| plane.get(at).map_or(0.0, |value| value.to_f64() * weight);
    T::of_f64(reads.iter().map(term).sum())
}

/// The weighted sum of complex numbers.
fn sum_complex<T: Number>(plane: &[[T; 2]], reads: &[(usize, f64)]) -> [T; 2] {
    [0, 1].map(|part: usize| {
        let term =
            |&(at, weight): &(usize, f64)| plane.get(at).map_or(0.0, |value| value[part].to_f64() * weight);
        T::of_f64(reads.iter().map(term).sum())
    })
}

impl Operator for GridSample {
    fn name(&self) -> &'static str {
        "GridSample"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (x, grid) = (node.ty(0)?, node.ty(1)?);
        expect_dtype(grid, &FLOATS)?;
        let complex = matches!(x.dtype, DataType::C64 | DataType::C128);
        if self.mode != Mode::Nearest && !complex && !NUMBERS.contains(&x.dtype) {
            return Err(no_numbers(x.dtype).help("mode \"nearest\" takes every type"));
        }
        let axes = x.rank().saturating_sub(2);
        if axes == 0 || axes > MAX_AXES {
            return Err(Reason::new(format!("input `X` is {x}, not of 1 to {MAX_AXES} spatial axes")));
        }
        let fits = grid.rank() == x.rank()
            && grid.shape.first() == x.shape.first()
            && grid.shape.last() == Some(&axes);
        if !fits {
            return Err(Reason::new(format!("input `grid` is {grid}, which names no places in {x}")));
        }
        let mut shape = x.shape[..2].to_vec();
        shape.extend(&grid.shape[1..grid.rank() - 1]);
        Ok(vec![TensorType::new(x.dtype, shape)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, grid, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let params = self.params(&x.ty, &grid.ty)?;
        let dtype = GridSample::computed(x.ty.dtype)
            .ok_or_else(|| Reason::new(format!("{} has no kernel to be sampled by", x.ty)))?;
        let x = converted(node, &x, dtype)?;
        let coordinates = if grid.ty.dtype == DataType::F64 { DataType::F64 } else { DataType::F32 };
        let grid = converted(node, &grid, coordinates)?;
        with_output(node, &output, dtype, |node, output| {
            let operands = [&x, &grid, output].map(|tensor| Some(tensor.span));
            node.call(format!("grid_sample_{dtype}"), &params, &operands);
            Ok(())
        })
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        node.optional(0).is_some_and(|x| GridSample::computed(x.dtype).is_none())
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        if node.value(0)?.as_tensor().is_some_and(|x| GridSample::computed(x.ty().dtype).is_some()) {
            return Ok(None);
        }
        let (x, grid) = (node.tensor(0)?, node.tensor(1)?);
        let Some(output) = with_types(node, |types| self.infer(types))?.pop() else { return Ok(None) };
        checked_elements(&output)?;
        let tensor = match (self.mode, x.ty().dtype, x.ty().dtype.size_bytes()) {
            (Mode::Nearest, _, 1) => self.sample(x, grid, output, first::<u8>),
            (Mode::Nearest, _, 2) => self.sample(x, grid, output, first::<u16>),
            (Mode::Nearest, _, 4) => self.sample(x, grid, output, first::<u32>),
            (Mode::Nearest, _, 8) => self.sample(x, grid, output, first::<u64>),
            (Mode::Nearest, _, 16) => self.sample(x, grid, output, first::<u128>),
            (_, DataType::C64, _) => self.sample(x, grid, output, sum_complex::<f32>),
            (_, DataType::C128, _) => self.sample(x, grid, output, sum_complex::<f64>),
            (_, dtype, _) => with_number!(
                dtype,
                T => self.sample(x, grid, output, sum::<T>),
                Err(no_numbers(dtype))
            ),
        };
        Ok(Some(vec![Value::Tensor(tensor?)]))
    }
}

/// The places that affine transforms send the elements of a picture to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffineGrid {
    /// Whether −1 and 1 are the centres of the outermost elements, not their outer edges.
    pub align_corners: bool,
}

fn import_affine(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(AffineGrid { align_corners: node.attributes.flag("align_corners", false)? }))
}

impl AffineGrid {
    /// Where element `index` of `extent` lies between −1 and 1.
    fn position(&self, index: usize, extent: usize) -> f64 {
        match (self.align_corners, extent) {
            (true, 1) => -1.0,
            (true, _) => 2.0 * index as f64 / (extent as f64 - 1.0) - 1.0,
            (false, _) => (2.0 * index as f64 + 1.0) / extent as f64 - 1.0,
        }
    }

    /// The type of the grid.
    fn output(&self, node: &NodeTypes<'_>) -> Result<TensorType, Reason> {
        let theta = node.ty(0)?;
        expect_dtype(theta, &FLOATS)?;
        let size = node.known_i64s(1, "size")?.unwrap_or_default();
        let axes = size.len().saturating_sub(2);
        let extents: Option<Vec<usize>> = size.iter().map(|&extent| usize::try_from(extent).ok()).collect();
        let Some(extents) = extents.filter(|_| axes == 2 || axes == 3) else {
            return Err(Reason::new(format!("input `size` is {size:?}"))
                .supported("[N, C, H, W] and [N, C, D, H, W]"));
        };
        if theta.shape != [extents[0], axes, axes + 1] {
            return Err(Reason::new(format!("input `theta` is {theta}, but input `size` is {size:?}")));
        }
        let mut shape = vec![extents[0]];
        shape.extend(&extents[2..]);
        shape.push(axes);
        let output = TensorType::new(theta.dtype, shape);
        checked_elements(&output)?;
        Ok(output)
    }
}

impl Operator for AffineGrid {
    fn name(&self) -> &'static str {
        "AffineGrid"
    }

    /// In f64, however few digits the grid has: for each axis of the picture, the innermost first, the transform's column times
    /// the positions along it, and the last column.
    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let output = self.output(&nodes.types)?;
        let theta = nodes.input(0)?;
        let (axes, to) = (output.rank() - 2, |dtype: i64| [("to", Attribute::Int(dtype))]);
        let theta = nodes.node("Cast", &[theta], &to(11))?;
        let columns = nodes.node("Transpose", &[theta], &[("perm", vec![2, 0, 1].into())])?;
        let mut shape = vec![1; output.rank()];
        (shape[0], shape[axes + 1]) = (output.shape[0] as i64, axes as i64);
        let shape = nodes.i64s(&shape);
        let column = |nodes: &mut Expansion<'_>, number: usize| {
            let number = nodes.constant(tensor_of(DataType::I64, &[], &[number as i64])?);
            let column = nodes.node("Gather", &[columns, number], &[])?;
            nodes.node("Reshape", &[column, shape], &[])
        };
        let mut places = None;
        for number in 0..axes {
            let (axis, extent) = (axes - number, output.shape[axes - number]);
            let positions: Vec<f64> = (0..extent).map(|index| self.position(index, extent)).collect();
            let mut around = vec![1; output.rank()];
            around[axis] = extent;
            let positions = nodes.constant(tensor_of(DataType::F64, &around, &positions)?);
            let column = column(nodes, number)?;
            let product = nodes.node("Mul", &[column, positions], &[])?;
            places = Some(match places {
                None => product,
                Some(sum) => nodes.node("Add", &[sum, product], &[])?,
            });
        }
        let last = column(nodes, axes)?;
        let places = places.ok_or_else(|| Reason::new("a picture without axes"))?;
        let places = nodes.node("Add", &[places, last], &[])?;
        let code = match output.dtype {
            DataType::F64 => 11,
            DataType::F16 => 10,
            DataType::Bf16 => 16,
            _ => 1,
        };
        Ok(Some(vec![nodes.node("Cast", &[places], &to(code))?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, import, infer, tensor};

    fn sample(attributes: &[(&str, Attribute)], x: &Constant, grid: &[f32], expected: &Constant) {
        let grid = f32s([1, 1, grid.len() / 2, 2], grid);
        check(("GridSample", 22), attributes, &[x.clone(), grid], expected);
    }

    #[test]
    fn places_between_elements_are_weighted() {
        let x = f32s([1, 2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]);
        let corners = [("align_corners", Attribute::Int(1))];
        let grid = [-1.0, -1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 1.0];
        sample(&corners, &x, &grid, &f32s([1, 2, 1, 4], &[1.0, 2.5, 2.0, 3.5, 10.0, 25.0, 20.0, 35.0]));
        // The outermost elements' outer edges are half outside.
        sample(&[], &x, &[-1.0, -1.0, -0.5, -0.5], &f32s([1, 2, 1, 2], &[0.25, 1.0, 2.5, 10.0]));
        let border = [("padding_mode", Attribute::from("border"))];
        sample(&border, &x, &[-9.0, -1.0, 9.0, 9.0], &f32s([1, 2, 1, 2], &[1.0, 4.0, 10.0, 40.0]));
    }

    #[test]
    fn outside_is_zero_or_reflected() {
        let x = f32s([1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
        let mode = |mode: &str, padding: &str| {
            [("mode", Attribute::from(mode)), ("padding_mode", Attribute::from(padding))]
        };
        // Positions −1, 4 and 6.
        let grid = [-1.25, 0.0, 1.25, 0.0, 2.25, 0.0];
        sample(&mode("nearest", "zeros"), &x, &grid, &f32s([1, 1, 1, 3], &[0.0, 0.0, 0.0]));
        sample(&mode("nearest", "reflection"), &x, &grid, &f32s([1, 1, 1, 3], &[1.0, 4.0, 2.0]));
        sample(&mode("cubic", "border"), &x, &[-0.25, 0.0], &f32s([1, 1, 1, 1], &[2.0]));
        for padding in ["zeros", "border", "reflection"] {
            for kind in ["nearest", "linear", "cubic"] {
                let grid = f32s([1, 1, 3, 2], &[f32::NAN, 0.0, f32::INFINITY, 0.0, f32::MAX, f32::MIN]);
                let inputs = [x.clone(), grid];
                let y = crate::ops::test_support::run(("GridSample", 20), &mode(kind, padding), &inputs);
                assert!(y.unwrap().values::<f32>().iter().all(|v| v.is_finite()), "{kind} {padding}");
            }
        }
    }

    #[test]
    fn types_that_are_only_moved_stay_exact() {
        let x = tensor(DataType::I64, [1, 1, 1, 2], &[i64::MAX - 1, i64::MIN]);
        let nearest = [("mode", Attribute::from("nearest"))];
        sample(&nearest, &x, &[-0.5, 0.0, 0.5, 0.0], &x);
        let bools = TensorType::new(DataType::Bool, [1, 1, 2, 2]);
        let grid = TensorType::new(DataType::F32, [1, 3, 3, 2]);
        assert!(infer(("GridSample", 16), &nearest, &[bools.clone(), grid.clone()]).is_ok());
        assert!(infer(("GridSample", 16), &[], &[bools.clone(), grid]).is_err());
        let other = TensorType::new(DataType::F32, [1, 3, 3, 3]);
        assert!(infer(("GridSample", 16), &nearest, &[bools, other]).is_err());
        assert!(import(("GridSample", 16), &[("mode", "area".into())], 2, 1).is_err());
    }

    #[test]
    fn grids_are_transformed_positions() {
        let theta = f32s([1, 2, 3], &[1.0, 0.0, 0.5, 0.0, 2.0, 0.0]);
        let expected = [0.0, -1.0, 1.0, -1.0, 0.0, 1.0, 1.0, 1.0];
        let size = i64s([4], &[1, 3, 2, 2]);
        check(("AffineGrid", 20), &[], &[theta.clone(), size], &f32s([1, 2, 2, 2], &expected));
        let huge = i64s([4], &[1, 1, i64::MAX, i64::MAX]);
        assert!(crate::ops::test_support::run(("AffineGrid", 20), &[], &[theta, huge]).is_err());
    }
}
