//! Col2Im: columns of blocks put back into pictures, added where they overlap.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Col2Im.html>
//! Types: numbers; f16 and bf16 add in f32.
//! History: since opset 18.

use infer_kernels::call;

use super::element_type::{converted, expect_kernel, with_output, wrapping};
use super::elements::{expect_elements, strides};
use super::movement::{extent, result_type};
use super::number::{NUMBERS, Number, narrowed, no_numbers, tensor_of, widened, with_number};
use super::{ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Col2Im", domain: "", since: 18, inputs: 3..=3, outputs: 1..=1, import }];

/// Col2Im.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Col2Im {
    /// Between the elements of a block, 1 where left out.
    pub dilations: Option<Vec<i64>>,
    /// Around the picture, before each axis, then after each; 0 where left out.
    pub pads: Option<Vec<i64>>,
    /// Between blocks, 1 where left out.
    pub strides: Option<Vec<i64>>,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Col2Im {
        dilations: node.attributes.ints("dilations")?,
        pads: node.attributes.ints("pads")?,
        strides: node.attributes.ints("strides")?,
    }))
}

/// The most axes of a picture that the kernel knows.
const KERNEL_RANK: usize = 3;

/// One axis of the picture.
struct Axis {
    image: usize,
    block: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
    /// How many blocks lie along it.
    blocks: usize,
}

impl Col2Im {
    /// [`Col2Im::plan`] from the inputs.
    fn known_plan(&self, node: &NodeTypes<'_>) -> Result<(Vec<Axis>, Vec<usize>), Reason> {
        let missing = || Reason::new("`image_shape` or `block_shape` is missing");
        let image = node.known_i64s(1, "image_shape")?.ok_or_else(missing)?;
        let block = node.known_i64s(2, "block_shape")?.ok_or_else(missing)?;
        self.plan(&node.ty(0)?.shape, &image, &block)
    }

    /// The axes of the picture, and the shape of the result.
    fn plan(&self, input: &[usize], image: &[i64], block: &[i64]) -> Result<(Vec<Axis>, Vec<usize>), Reason> {
        let rank = image.len();
        let several = |given: &Option<Vec<i64>>, name: &str, count: usize, default: usize| match given {
            None => Ok(vec![default; count]),
            Some(given) if given.len() == count => given.iter().map(|&v| extent(v, name)).collect(),
            Some(given) => Err(Reason::new(format!("`{name}` {given:?} for {rank} axes"))),
        };
        let extents = |given: &[i64], name: &str| several(&Some(given.to_vec()), name, rank, 0);
        let (image, block) = (extents(image, "image_shape")?, extents(block, "block_shape")?);
        let dilations = several(&self.dilations, "dilations", rank, 1)?;
        let strides = several(&self.strides, "strides", rank, 1)?;
        let pads = several(&self.pads, "pads", 2 * rank, 0)?;
        let mut axes = Vec::with_capacity(rank);
        for axis in 0..rank {
            let (stride, dilation, block) = (strides[axis], dilations[axis], block[axis]);
            let blocks = || {
                let padded = image[axis].checked_add(pads[axis])?.checked_add(pads[rank + axis])?;
                let span = block.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
                padded.checked_sub(span)?.checked_div(stride)?.checked_add(1)
            };
            let blocks = blocks().filter(|_| dilation > 0).ok_or_else(|| {
                Reason::new(format!(
                    "no block of {block} fits axis {axis} of {image:?} with stride {stride} and dilation {dilation}"
                ))
            })?;
            axes.push(Axis { image: image[axis], block, stride, dilation, pad: pads[axis], blocks });
        }
        let product =
            |of: fn(&Axis) -> usize| axes.iter().try_fold(1usize, |n, axis| n.checked_mul(of(axis)));
        let (elements, blocks) = (product(|axis| axis.block), product(|axis| axis.blocks));
        match (input, elements, blocks) {
            (&[n, columns, count], Some(elements), Some(blocks))
                if elements > 0 && columns % elements == 0 && count == blocks =>
            {
                let shape = [&[n, columns / elements][..], &image].concat();
                Ok((axes, shape))
            }
            _ => Err(Reason::new(format!("{input:?} is not [N, C · block elements, blocks] of {image:?}"))),
        }
    }
}

/// Whether a kernel adds the blocks: not those of truths, and not in more dimensions than it has.
fn has_kernel(dtype: DataType, rank: usize) -> bool {
    dtype != DataType::Bool && rank <= KERNEL_RANK
}

fn add_blocks<T: Number>(input: &Constant, axes: &[Axis], shape: &[usize]) -> Result<Constant, Reason> {
    let values = input.values::<T>();
    let mut result = vec![T::ZERO; expect_elements(shape, size_of::<T>())?];
    let extents = |of: fn(&Axis) -> usize| axes.iter().map(of).collect::<Vec<usize>>();
    let (block_strides, blocks_strides) =
        (strides(&extents(|axis| axis.block)), strides(&extents(|axis| axis.blocks)));
    let (elements, blocks): (usize, usize) =
        (axes.iter().map(|axis| axis.block).product(), axes.iter().map(|axis| axis.blocks).product());
    let picture: usize = axes.iter().map(|axis| axis.image).product();
    // Where an element of a block falls, if it is inside of the picture.
    let place = |element: usize, block: usize| {
        axes.iter().enumerate().try_fold(0usize, |at, (index, axis)| {
            let (element, block) =
                (element / block_strides[index] % axis.block, block / blocks_strides[index] % axis.blocks);
            let along = (block * axis.stride + element * axis.dilation).checked_sub(axis.pad)?;
            (along < axis.image).then(|| at * axis.image + along)
        })
    };
    for (row, columns) in values.chunks_exact(blocks.max(1)).enumerate() {
        let (channel, element) = (row / elements, row % elements);
        for (block, &value) in columns.iter().enumerate() {
            if let Some(at) = place(element, block) {
                let slot = &mut result[channel * picture + at];
                *slot = slot.plus(value);
            }
        }
    }
    tensor_of(input.ty().dtype, shape, &result)
}

impl Operator for Col2Im {
    fn name(&self) -> &'static str {
        "Col2Im"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        expect_dtype(ty, &[NUMBERS, &[DataType::Bool]].concat())?;
        Ok(vec![result_type(ty.dtype, self.known_plan(node)?.1)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (wrapping(node.input(0)?), wrapping(node.output(0)?));
        let axes = node.with_types(|types| self.known_plan(types))?.0;
        let dtype = expect_kernel("col2im", &input.ty)?;
        let x = converted(node, &input, dtype)?;
        let extents = |of: fn(&Axis) -> usize| {
            let mut extents = [1; KERNEL_RANK];
            for (extent, axis) in extents.iter_mut().rev().zip(axes.iter().rev()) {
                *extent = of(axis) as u64;
            }
            extents
        };
        let mut pad_begin = extents(|axis| axis.pad);
        pad_begin[..KERNEL_RANK - axes.len()].fill(0);
        let params = call::Col2Im {
            outer: output.ty.shape[..2].iter().product::<usize>() as u64,
            image: extents(|axis| axis.image),
            block: extents(|axis| axis.block),
            blocks: extents(|axis| axis.blocks),
            stride: extents(|axis| axis.stride),
            dilation: extents(|axis| axis.dilation),
            pad_begin,
        };
        with_output(node, &output, dtype, |node, out| {
            node.call(format!("col2im_{dtype}"), &params, &[Some(x.span), Some(out.span)]);
            Ok(())
        })
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        let image = node.optional(1).map_or(0, TensorType::elements);
        node.optional(0).is_some_and(|ty| !has_kernel(ty.dtype, image))
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let input = node.tensor(0)?;
        let dtype = input.ty().dtype;
        let (axes, shape) = self.plan(&input.ty().shape, &node.i64s(1)?, &node.i64s(2)?)?;
        if has_kernel(dtype, axes.len()) {
            return Ok(None);
        }
        let input = widened(input);
        let result = with_number!(
            input.ty().dtype,
            T => add_blocks::<T>(&input, &axes, &shape)?,
            return Err(no_numbers(dtype))
        );
        Ok(Some(vec![narrowed(result, dtype).into()]))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, run};

    #[test]
    fn blocks_overlap_and_reach_into_the_border() {
        // Blocks of two along a row of three: [1, 3], [2, 4].
        let columns = f32s([1, 2, 2], &[1., 2., 3., 4.]);
        let inputs = [columns.clone(), i64s([1], &[3]), i64s([1], &[2])];
        check(("Col2Im", 18), &[], &inputs, &f32s([1, 1, 3], &[1., 5., 4.]));
        let attributes = [("pads", Attribute::Ints(vec![1, 0])), ("strides", Attribute::Ints(vec![2]))];
        check(("Col2Im", 18), &attributes, &inputs, &f32s([1, 1, 3], &[3., 2., 4.]));
        for (image, block) in [(4, 2), (3, 0), (3, -1), (3, 4), (i64::MAX, 2)] {
            let inputs = [columns.clone(), i64s([1], &[image]), i64s([1], &[block])];
            assert!(run(("Col2Im", 18), &[], &inputs).is_err());
        }
        for (name, value) in [("strides", 0), ("dilations", 0), ("pads", 1)] {
            assert!(run(("Col2Im", 18), &[(name, Attribute::Ints(vec![value]))], &inputs).is_err());
        }
    }
}
