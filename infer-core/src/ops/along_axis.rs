//! CumSum, CumProd, ReverseSequence and Trilu: what elements before or behind along an axis decide.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: numbers for CumSum and CumProd (f16 and bf16 compute in f32, integers wrap around), any elements for the
//! others.
//! History: ReverseSequence since opset 10, CumSum since 11, Trilu since 14, CumProd since 26.

use infer_kernels::call::Scan;

use super::element_type::{converted, expect_kernel, with_output, wrapping};
use super::elements::around;
use super::movement::expect_table;
use super::number::NUMBERS;
use super::{
    Attribute, Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, StringUse, Wire, compose,
    expect_dtype, resolve_axis,
};
use crate::calls::{LowerNode, Tensor, sized_kernel};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "CumProd", domain: "", since: 26, inputs: 2..=2, outputs: 1..=1, import: import_cumulative },
    Row { name: "CumSum", domain: "", since: 11, inputs: 2..=2, outputs: 1..=1, import: import_cumulative },
    Row {
        name: "ReverseSequence",
        domain: "",
        since: 10,
        inputs: 2..=2,
        outputs: 1..=1,
        import: import_reverse,
    },
    Row { name: "Trilu", domain: "", since: 14, inputs: 1..=2, outputs: 1..=1, import: import_trilu },
];

/// The most elements of a matrix for which a mask is stored in the plan.
const MAX_MASK: usize = 1 << 24;

/// CumSum or CumProd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cumulative {
    /// Whether it is the product.
    pub product: bool,
    /// Whether an element itself does not count.
    pub exclusive: bool,
    /// Whether it begins at the end.
    pub reverse: bool,
}

/// ReverseSequence: reverses the beginning of each sequence of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReverseSequence {
    /// The axis of the batch.
    pub batch_axis: i64,
    /// The axis that is reversed.
    pub time_axis: i64,
}

/// Trilu: the upper or lower triangle of matrices, zeros elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trilu {
    /// Whether it is the upper one.
    pub upper: bool,
}

fn import_cumulative(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Cumulative {
        product: node.op_type == "CumProd",
        exclusive: node.attributes.flag("exclusive", false)?,
        reverse: node.attributes.flag("reverse", false)?,
    }))
}

fn import_reverse(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(ReverseSequence {
        batch_axis: node.attributes.int("batch_axis")?.unwrap_or(1),
        time_axis: node.attributes.int("time_axis")?.unwrap_or(0),
    }))
}

fn import_trilu(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Trilu { upper: node.attributes.flag("upper", true)? }))
}

/// The axis that a tensor of one element names.
fn one_axis(axis: &[i64], rank: usize) -> Result<usize, Reason> {
    match axis {
        [axis] => resolve_axis(*axis, rank),
        several => Err(Reason::new(format!("input `axis` has {} elements, not one", several.len()))),
    }
}

impl Operator for Cumulative {
    fn name(&self) -> &'static str {
        if self.product { "CumProd" } else { "CumSum" }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        expect_dtype(ty, NUMBERS)?;
        expect_dtype(node.ty(1)?, &[DataType::I64, DataType::I32])?;
        known_axis(node)?;
        Ok(vec![ty.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (wrapping(node.input(0)?), wrapping(node.output(0)?));
        let axis = node.with_types(known_axis)?;
        let family = if self.product { "cum_prod" } else { "cum_sum" };
        let dtype = expect_kernel(family, &input.ty)?;
        let x = converted(node, &input, dtype)?;
        let (outer, length, inner) = around(&input.ty.shape, axis);
        let params = Scan {
            outer: outer as u64,
            axis: length as u64,
            inner: inner as u64,
            exclusive: self.exclusive.into(),
            reverse: self.reverse.into(),
        };
        with_output(node, &output, dtype, |node, out| {
            node.call(format!("{family}_{dtype}"), &params, &[Some(x.span), Some(out.span)]);
            Ok(())
        })
    }
}

/// The axis, where it is known.
fn known_axis(node: &NodeTypes<'_>) -> Result<usize, Reason> {
    let axis = node.known_i64s(1, "axis")?.ok_or_else(|| Reason::new("input `axis` is missing"))?;
    one_axis(&axis, node.ty(0)?.rank())
}

impl ReverseSequence {
    /// The axes of the batch and of time.
    fn axes(&self, shape: &[usize], lengths: &[usize]) -> Result<(usize, usize), Reason> {
        let batch = resolve_axis(self.batch_axis, shape.len())?;
        let time = resolve_axis(self.time_axis, shape.len())?;
        if batch == time || *lengths != shape[batch..batch + 1] {
            return Err(Reason::new(format!(
                "lengths {lengths:?} do not fit {shape:?} with batch axis {batch} and time axis {time}"
            )));
        }
        Ok((batch, time))
    }
}

impl Operator for ReverseSequence {
    fn name(&self) -> &'static str {
        "ReverseSequence"
    }

    /// A gather from rows, one for each step of each sequence.
    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let shape = nodes.types.ty(0)?.shape.clone();
        let lengths = nodes.types.ty(1)?;
        expect_dtype(lengths, &[DataType::I64, DataType::I32])?;
        let (batch, time) = self.axes(&shape, &lengths.shape)?;
        let (batches, steps) = (shape[batch], shape[time]);
        let x = nodes.input(0)?;
        if shape.contains(&0) {
            return Ok(Some(vec![x]));
        }
        expect_table(batches.checked_mul(steps))?;

        // Both axes go first, unless they are there.
        let mut order: Vec<usize> = (0..shape.len()).filter(|axis| ![batch, time].contains(axis)).collect();
        order.splice(0..0, [batch.min(time), batch.max(time)]);
        let is_first = order.is_sorted();
        let permute = |nodes: &mut Expansion<'_>, wire, order: &[usize]| {
            let order: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
            nodes.node("Transpose", &[wire], &[("perm", Attribute::Ints(order))])
        };
        let x = if is_first { x } else { permute(nodes, x, &order)? };
        let moved = nodes.shape(x)?.to_vec();

        // Of each row: its step, and the position of the first row of its sequence.
        let (of_batch, of_step, stride) = match batch < time {
            true => ([batches, 1], [1, steps], 1),
            false => ([1, batches], [steps, 1], batches),
        };
        let numbers = |nodes: &mut Expansion<'_>, shape: [usize; 2], by: usize| {
            let numbers: Vec<i64> = (0..shape[0] * shape[1]).map(|index| (index * by) as i64).collect();
            nodes.constant(Constant::of(TensorType::new(DataType::I64, shape), &numbers))
        };
        let (step, first) =
            (numbers(nodes, of_step, 1), numbers(nodes, of_batch, if batch < time { steps } else { 1 }));
        let scalar = |nodes: &mut Expansion<'_>, value: usize| {
            nodes.constant(Constant::of(TensorType::new(DataType::I64, []), &[value as i64]))
        };
        let length = nodes.input(1)?;
        let length = compose::cast(nodes, length, DataType::I64)?;
        let length = compose::reshape(nodes, length, &of_batch)?;
        // A length that does not fit becomes one whose first step lies behind all rows, which the gather refuses.
        let (zero, most) = (scalar(nodes, 0), scalar(nodes, steps));
        let outside = scalar(nodes, batches * steps + steps + 1);
        let (below, above) =
            (nodes.node("Less", &[length, zero], &[])?, nodes.node("Greater", &[length, most], &[])?);
        let wrong = nodes.node("Or", &[below, above], &[])?;
        let length = nodes.node("Where", &[wrong, outside, length], &[])?;

        let one = scalar(nodes, 1);
        let last = nodes.node("Sub", &[length, one], &[])?;
        let mirrored = nodes.node("Sub", &[last, step], &[])?;
        let reversed = nodes.node("Less", &[step, length], &[])?;
        let source = nodes.node("Where", &[reversed, mirrored, step], &[])?;
        let stride = scalar(nodes, stride);
        let source = nodes.node("Mul", &[source, stride], &[])?;
        let source = nodes.node("Add", &[source, first], &[])?;
        let source = compose::reshape(nodes, source, &[batches * steps])?;

        let inner = moved[2..].iter().product();
        let rows = compose::reshape(nodes, x, &[batches * steps, inner])?;
        let rows = nodes.node("Gather", &[rows, source], &[])?;
        let y = compose::reshape(nodes, rows, &moved)?;
        if is_first {
            return Ok(Some(vec![y]));
        }
        let mut back = vec![0; order.len()];
        for (to, &from) in order.iter().enumerate() {
            back[from] = to;
        }
        Ok(Some(vec![permute(nodes, y, &back)?]))
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl Trilu {
    /// How far the diagonal lies above the main one.
    fn k(k: Option<Vec<i64>>) -> Result<i64, Reason> {
        match k.as_deref() {
            None => Ok(0),
            Some(&[k]) => Ok(k),
            Some(several) => Err(Reason::new(format!("input `k` has {} elements, not one", several.len()))),
        }
    }

    /// For each element of the matrix whether it stays.
    fn mask(&self, rows: usize, columns: usize, k: i64) -> impl Iterator<Item = bool> {
        let upper = self.upper;
        (0..rows).flat_map(move |row| {
            let diagonal = i128::from(k) + row as i128;
            (0..columns).map(move |column| match upper {
                true => column as i128 >= diagonal,
                false => column as i128 <= diagonal,
            })
        })
    }

    /// Whether there are no kernels for it.
    fn is_large(ty: &TensorType) -> bool {
        let matrix = ty.shape.iter().rev().take(2).fold(1usize, |n, &extent| n.saturating_mul(extent));
        ty.dtype.size_bytes() > 8 || matrix > MAX_MASK
    }
}

impl Operator for Trilu {
    fn name(&self) -> &'static str {
        "Trilu"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        if ty.rank() < 2 {
            return Err(Reason::new(format!("{ty} holds no matrices")));
        }
        if let Some(k) = node.optional(1) {
            expect_dtype(k, &[DataType::I64, DataType::I32])?;
        }
        Trilu::k(node.constant(1).and_then(Constant::to_i64s))?;
        Ok(vec![ty.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let k = Trilu::k(node.with_types(|types| types.known_i64s(1, "k"))?)?;
        let [.., rows, columns] = *input.ty.shape.as_slice() else {
            return Err(Reason::new(format!("{} holds no matrices", input.ty)));
        };
        let mask: Vec<bool> = self.mask(rows, columns, k).collect();
        let mask_span = node.data(&mask);
        let mask = TensorType::new(DataType::Bool, [rows, columns]);
        let mask = Tensor { ty: mask, span: mask_span, blocked: None };
        let zero_span = node.data(&vec![0u8; input.ty.dtype.size_bytes()]);
        let zero = Tensor { ty: TensorType::new(input.ty.dtype, []), span: zero_span, blocked: None };
        node.elementwise(sized_kernel("where", input.ty.dtype), &[&mask, &input, &zero], &output, |_| ())
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        let unknown = node.optional(1).is_some() && node.constant(1).is_none();
        unknown || node.ty(0).is_ok_and(Trilu::is_large)
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let Value::Tensor(input) = node.value(0)? else { return Ok(None) };
        if !Trilu::is_large(input.ty()) {
            return Ok(None);
        }
        let [.., rows, columns] = *input.ty().shape.as_slice() else {
            return Err(Reason::new(format!("{} holds no matrices", input.ty())));
        };
        if input.data().is_empty() {
            return Ok(Some(vec![node.value(0)?.clone()]));
        }
        let k = Trilu::k(node.optional_i64s(1)?)?;
        let width = input.ty().dtype.size_bytes();
        let mut data = input.data().to_vec();
        for matrix in data.chunks_exact_mut(rows * columns * width) {
            for (element, stays) in matrix.chunks_exact_mut(width).zip(self.mask(rows, columns, k)) {
                if !stays {
                    element.fill(0);
                }
            }
        }
        Ok(Constant::new(input.ty().clone(), data.into()).map(|result| vec![result.into()]))
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, run, tensor};

    #[test]
    fn sums_and_products_accumulate() {
        let input = f32s([2, 3], &[1., 2., 3., 4., 5., 6.]);
        let axis = |axis| i64s([], &[axis]);
        let flags = |exclusive: i64, reverse: i64| {
            [("exclusive", Attribute::Int(exclusive)), ("reverse", Attribute::Int(reverse))]
        };
        let sum = |exclusive, reverse, along, expected: [f32; 6]| {
            let inputs = [input.clone(), axis(along)];
            check(("CumSum", 14), &flags(exclusive, reverse), &inputs, &f32s([2, 3], &expected));
        };
        sum(0, 0, -1, [1., 3., 6., 4., 9., 15.]);
        sum(0, 0, 0, [1., 2., 3., 5., 7., 9.]);
        sum(1, 0, 1, [0., 1., 3., 0., 4., 9.]);
        sum(0, 1, 1, [6., 5., 3., 15., 11., 6.]);
        sum(1, 1, 1, [5., 3., 0., 11., 6., 0.]);
        let row = tensor(DataType::U32, [3], &[1u32 << 31, 3, 2]);
        let product = tensor(DataType::U32, [3], &[6u32, 2, 1]);
        check(("CumProd", 26), &flags(1, 1), &[row, axis(0)], &product);
        assert!(run(("CumSum", 11), &[], &[input.clone(), axis(2)]).is_err());
        assert!(run(("CumSum", 11), &[], &[input, i64s([2], &[0, 1])]).is_err());
    }

    #[test]
    fn sequences_are_reversed() {
        let input = f32s([3, 2], &[1., 2., 3., 4., 5., 6.]);
        let inputs = [input.clone(), i64s([2], &[3, 2])];
        check(("ReverseSequence", 10), &[], &inputs, &f32s([3, 2], &[5., 4., 3., 2., 1., 6.]));
        let batch = [("batch_axis", Attribute::Int(0)), ("time_axis", Attribute::Int(1))];
        let lengths = |third: i64| [input.clone(), i64s([3], &[2, 1, third])];
        check(("ReverseSequence", 10), &batch, &lengths(0), &f32s([3, 2], &[2., 1., 3., 4., 5., 6.]));
        assert!(run(("ReverseSequence", 10), &batch, &lengths(3)).is_err());
        assert!(run(("ReverseSequence", 10), &batch, &lengths(-1)).is_err());
        assert!(run(("ReverseSequence", 10), &[("batch_axis", 0.into())], &lengths(1)).is_err());
    }

    #[test]
    fn triangles_stay() {
        let input = i64s([1, 2, 3], &[1, 2, 3, 4, 5, 6]);
        let triangle = |upper: i64, k: i64, expected: [i64; 6]| {
            let inputs = [input.clone(), i64s([], &[k])];
            check(("Trilu", 14), &[("upper", upper.into())], &inputs, &i64s([1, 2, 3], &expected));
        };
        triangle(1, 0, [1, 2, 3, 0, 5, 6]);
        triangle(1, 1, [0, 2, 3, 0, 0, 6]);
        triangle(0, 0, [1, 0, 0, 4, 5, 0]);
        triangle(0, -1, [0, 0, 0, 4, 0, 0]);
        triangle(1, i64::MAX, [0; 6]);
        triangle(0, i64::MAX, [1, 2, 3, 4, 5, 6]);
        let complex = tensor(DataType::C128, [1, 2], &[1.0f64, 2.0, 3.0, 4.0].map(f64::to_bits));
        let upper = tensor(DataType::C128, [1, 2], &[0.0f64, 0.0, 3.0, 4.0].map(f64::to_bits));
        check(("Trilu", 14), &[], &[complex, i64s([], &[1])], &upper);
        assert!(run(("Trilu", 14), &[], &[f32s([2], &[0.; 2])]).is_err());
    }
}
