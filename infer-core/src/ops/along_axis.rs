//! CumSum, CumProd, ReverseSequence and Trilu: what elements before or behind along an axis decide.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: numbers for CumSum and CumProd (f16 and bf16 compute in f32, integers wrap around), any elements for the
//! others.
//! History: ReverseSequence since opset 10, CumSum since 11, Trilu since 14, CumProd since 26.

use super::elements::{around, expect_elements, select, shape_of};
use super::number::{NUMBERS, Number, narrowed, no_numbers, tensor_of, widened, with_number};
use super::{ImportNode, NodeTypes, NodeValues, Operator, Row, StringUse, expect_dtype, resolve_axis};
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

impl Cumulative {
    fn accumulate<T: Number>(&self, input: &Constant, axis: usize) -> Result<Constant, Reason> {
        let shape = &input.ty().shape;
        let (outer, length, inner) = around(shape, axis);
        let values = input.values::<T>();
        let mut result = vec![T::ZERO; values.len()];
        for (outer, inner_at) in (0..outer).flat_map(|outer| (0..inner).map(move |inner| (outer, inner))) {
            let mut sum = if self.product { T::ONE } else { T::ZERO };
            for step in 0..length {
                let row = if self.reverse { length - 1 - step } else { step };
                let at = (outer * length + row) * inner + inner_at;
                let next = if self.product { sum.times(values[at]) } else { sum.plus(values[at]) };
                result[at] = if self.exclusive { sum } else { next };
                sum = next;
            }
        }
        tensor_of(input.ty().dtype, shape, &result)
    }
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
        if let Some(axis) = node.constant(1).and_then(Constant::to_i64s) {
            one_axis(&axis, ty.rank())?;
        }
        Ok(vec![ty.clone()])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let input = node.tensor(0)?;
        let dtype = input.ty().dtype;
        let axis = one_axis(&node.i64s(1)?, input.ty().rank())?;
        let input = widened(input);
        let result = with_number!(
            input.ty().dtype,
            T => self.accumulate::<T>(&input, axis)?,
            return Err(no_numbers(dtype))
        );
        Ok(Some(vec![narrowed(result, dtype).into()]))
    }
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

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (ty, lengths) = (node.ty(0)?, node.ty(1)?);
        expect_dtype(lengths, &[DataType::I64, DataType::I32])?;
        self.axes(&ty.shape, &lengths.shape)?;
        Ok(vec![ty.clone()])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let shape = shape_of(node, 0)?;
        let (batch, time) = self.axes(shape, shape_of(node, 1)?)?;
        let (_, batches, batch_inner) = around(shape, batch);
        let (_, steps, time_inner) = around(shape, time);
        let lengths: Vec<usize> = node
            .i64s(1)?
            .into_iter()
            .map(|length| {
                let fits = usize::try_from(length).ok().filter(|&length| length <= steps);
                fits.ok_or_else(|| Reason::new(format!("length {length} of a sequence of {steps} steps")))
            })
            .collect::<Result<_, _>>()?;
        let source = |at: usize| {
            let (sequence, step) = (at / batch_inner % batches, at / time_inner % steps);
            match lengths[sequence] {
                length if step < length => at - step * time_inner + (length - 1 - step) * time_inner,
                _ => at,
            }
        };
        let count = expect_elements(shape, size_of::<usize>())?;
        let positions: Vec<usize> = (0..count).map(source).collect();
        Ok(Some(vec![select(node.value(0)?, shape, &positions)?]))
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
