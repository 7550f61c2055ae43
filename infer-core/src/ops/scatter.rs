//! ScatterElements, Scatter, ScatterND and TensorScatter: a tensor in which some elements are replaced by, or combined
//! with, those of another.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__ScatterElements.html>,
//! <https://onnx.ai/onnx/operators/onnx__ScatterND.html>, <https://onnx.ai/onnx/operators/onnx__TensorScatter.html>
//! Types: elements of any type, strings included, where they are replaced; numbers where they are combined. Indices i64
//! or i32, negative ones counted from the end.
//! History: Scatter since opset 9, ScatterElements and ScatterND since 11; `reduction` since 16, min and max since 18;
//! TensorScatter since 24.

use super::elements::{Elements, around, shape_of};
use super::gather_scatter::{element_positions, expect_indices, slice_starts};
use super::movement::choice;
use super::number::{Number, narrowed, no_numbers, tensor_of, widened, with_number};
use super::{ImportNode, NodeTypes, NodeValues, Operator, Row, StringUse, expect_dtype, resolve_axis};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "Scatter", domain: "", since: 9, inputs: 3..=3, outputs: 1..=1, import: import_elements },
    Row {
        name: "ScatterElements",
        domain: "",
        since: 11,
        inputs: 3..=3,
        outputs: 1..=1,
        import: import_elements,
    },
    Row { name: "ScatterND", domain: "", since: 11, inputs: 3..=3, outputs: 1..=1, import: import_nd },
    Row {
        name: "TensorScatter",
        domain: "",
        since: 24,
        inputs: 2..=3,
        outputs: 1..=1,
        import: import_tensor_scatter,
    },
];

/// How an update meets the element that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// It replaces it.
    None,
    /// The sum.
    Add,
    /// The product.
    Mul,
    /// The greater.
    Max,
    /// The lesser.
    Min,
}

impl Reduction {
    fn import(node: &mut ImportNode) -> Result<Self, Reason> {
        let reductions = [
            ("none", Reduction::None),
            ("add", Reduction::Add),
            ("mul", Reduction::Mul),
            ("max", Reduction::Max),
            ("min", Reduction::Min),
        ];
        choice(node, "reduction", &reductions)
    }

    fn apply<T: Number>(self, old: T, new: T) -> T {
        match self {
            Reduction::None => new,
            Reduction::Add => old.plus(new),
            Reduction::Mul => old.times(new),
            // NaN, whichever it is of the two.
            Reduction::Max if old.is_nan() || old.compare(&new).is_ge() => old,
            Reduction::Min if old.is_nan() || (old.compare(&new).is_le() && !new.is_nan()) => old,
            Reduction::Max | Reduction::Min => new,
        }
    }
}

/// ScatterElements, called Scatter before opset 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScatterElements {
    /// The name in the model.
    pub name: &'static str,
    /// The axis that the indices count along.
    pub axis: i64,
    /// How an update meets the element that is there.
    pub reduction: Reduction,
}

/// ScatterND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScatterNd {
    /// How an update meets the element that is there.
    pub reduction: Reduction,
}

/// TensorScatter: writes into a cache from a position of each sample on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorScatter {
    /// The axis along which it is written.
    pub axis: i64,
    /// Whether it continues at the beginning beyond the end.
    pub circular: bool,
}

fn import_elements(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let (name, reduction) = match node.op_type.as_str() {
        "Scatter" => ("Scatter", Reduction::None),
        _ => ("ScatterElements", Reduction::import(node)?),
    };
    Ok(Box::new(ScatterElements { name, axis: node.attributes.int("axis")?.unwrap_or(0), reduction }))
}

fn import_nd(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(ScatterNd { reduction: Reduction::import(node)? }))
}

fn import_tensor_scatter(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(TensorScatter {
        axis: node.attributes.int("axis")?.unwrap_or(-2),
        circular: choice(node, "mode", &[("linear", false), ("circular", true)])?,
    }))
}

/// Writes slices of `slice` elements of input 2, one after the other, to `starts` in a copy of input 0.
fn scatter(
    node: &NodeValues<'_>,
    starts: &[usize],
    slice: usize,
    reduction: Reduction,
) -> Result<Option<Vec<Value>>, Reason> {
    let (data, updates) = (node.value(0)?, node.value(2)?);
    if reduction == Reduction::None {
        let mut result = Elements::of(data)?;
        for (row, &start) in starts.iter().enumerate() {
            result.copy(start, updates, row * slice, slice)?;
        }
        return Ok(Some(vec![result.into_value(shape_of(node, 0)?.to_vec())?]));
    }
    let (data, updates) = (node.tensor(0)?, node.tensor(2)?);
    if data.ty().dtype != updates.ty().dtype {
        return Err(differ(data.ty(), updates.ty()));
    }
    let (data, updates, dtype) = (widened(data), widened(updates), data.ty().dtype);
    let result = with_number!(
        data.ty().dtype,
        T => combine::<T>(&data, &updates, starts, slice, reduction)?,
        return Err(no_numbers(dtype))
    );
    Ok(Some(vec![narrowed(result, dtype).into()]))
}

fn combine<T: Number>(
    data: &Constant,
    updates: &Constant,
    starts: &[usize],
    slice: usize,
    reduction: Reduction,
) -> Result<Constant, Reason> {
    let mut result = data.values::<T>().into_owned();
    let updates = updates.values::<T>();
    let outside = || Reason::new("an update outside of the tensor");
    for (row, &start) in starts.iter().enumerate() {
        let updates = updates.get(row * slice..(row + 1) * slice).ok_or_else(outside)?;
        let slots = result.get_mut(start..start + slice).ok_or_else(outside)?;
        for (slot, &update) in slots.iter_mut().zip(updates) {
            *slot = reduction.apply(*slot, update);
        }
    }
    tensor_of(data.ty().dtype, &data.ty().shape, &result)
}

fn differ(data: &TensorType, updates: &TensorType) -> Reason {
    Reason::new(format!("`data` and `updates` are {data} and {updates}, not of one type"))
}

fn expect_same_type(node: &NodeTypes<'_>, reduction: Reduction) -> Result<(), Reason> {
    let (data, updates) = (node.ty(0)?, node.ty(2)?);
    expect_dtype(node.ty(1)?, &[DataType::I64, DataType::I32])?;
    if data.dtype != updates.dtype {
        return Err(differ(data, updates));
    }
    if reduction != Reduction::None {
        expect_dtype(data, &[super::number::NUMBERS, &[DataType::Bool]].concat())?;
    }
    Ok(())
}

impl ScatterElements {
    fn axis(&self, data: &[usize], indices: &[usize], updates: &[usize]) -> Result<usize, Reason> {
        let axis = resolve_axis(self.axis, data.len())?;
        expect_indices(data, indices, axis)?;
        if indices != updates {
            return Err(Reason::new(format!("indices {indices:?} and updates {updates:?} differ in shape")));
        }
        Ok(axis)
    }
}

impl Operator for ScatterElements {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        expect_same_type(node, self.reduction)?;
        self.axis(&node.ty(0)?.shape, &node.ty(1)?.shape, &node.ty(2)?.shape)?;
        Ok(vec![node.ty(0)?.clone()])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (data, shape) = (shape_of(node, 0)?, shape_of(node, 1)?);
        let axis = self.axis(data, shape, shape_of(node, 2)?)?;
        let starts = element_positions(data, shape, &node.i64s(1)?, axis)?;
        scatter(node, &starts, 1, self.reduction)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl ScatterNd {
    /// The number of coordinates in each row of the indices.
    fn depth(data: &[usize], indices: &[usize], updates: &[usize]) -> Result<usize, Reason> {
        if let Some((&depth, rows)) = indices.split_last()
            && (1..=data.len()).contains(&depth)
            && *updates == [rows, &data[depth..]].concat()
        {
            return Ok(depth);
        }
        Err(Reason::new(format!("updates {updates:?} do not fit data {data:?} at indices {indices:?}")))
    }
}

impl Operator for ScatterNd {
    fn name(&self) -> &'static str {
        "ScatterND"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        expect_same_type(node, self.reduction)?;
        ScatterNd::depth(&node.ty(0)?.shape, &node.ty(1)?.shape, &node.ty(2)?.shape)?;
        Ok(vec![node.ty(0)?.clone()])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let data = shape_of(node, 0)?;
        let depth = ScatterNd::depth(data, shape_of(node, 1)?, shape_of(node, 2)?)?;
        let starts = slice_starts(data, depth, &node.i64s(1)?)?;
        scatter(node, &starts, data[depth..].iter().product(), self.reduction)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl TensorScatter {
    fn axis(&self, cache: &[usize], update: &[usize]) -> Result<usize, Reason> {
        let axis = resolve_axis(self.axis, cache.len())?;
        let fits = cache.len() == update.len()
            && (0..cache.len()).all(|other| match other == axis {
                true => update[other] <= cache[other],
                false => update[other] == cache[other],
            });
        if fits && axis > 0 {
            return Ok(axis);
        }
        Err(Reason::new(format!("update {update:?} does not fit cache {cache:?} along axis {axis}")))
    }
}

impl Operator for TensorScatter {
    fn name(&self) -> &'static str {
        "TensorScatter"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (cache, update) = (node.ty(0)?, node.ty(1)?);
        if cache.dtype != update.dtype {
            return Err(Reason::new(format!("cache and update are {cache} and {update}, not of one type")));
        }
        self.axis(&cache.shape, &update.shape)?;
        if let Some(indices) = node.optional(2) {
            expect_dtype(indices, &[DataType::I64, DataType::I32])?;
            if indices.shape != cache.shape[..1] {
                return Err(Reason::new(format!("write indices {indices} are not one for each of {cache}")));
            }
        }
        Ok(vec![cache.clone()])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (cache, update) = (shape_of(node, 0)?, shape_of(node, 1)?);
        let axis = self.axis(cache, update)?;
        let (outer, length, inner) = around(cache, axis);
        let written = update[axis];
        let indices = node.optional_i64s(2)?.unwrap_or_else(|| vec![0; cache[0]]);
        if indices.len() != cache[0] {
            return Err(Reason::new(format!("{} write indices for {} samples", indices.len(), cache[0])));
        }
        let mut result = Elements::of(node.value(0)?)?;
        for prefix in 0..outer {
            // `outer` is no multiple of zero samples: there is at least one here.
            let first = indices[prefix / (outer / cache[0])];
            for row in 0..written {
                let at = i128::from(first) + row as i128;
                let at = if self.circular { at.rem_euclid(length as i128) } else { at };
                let at = usize::try_from(at).ok().filter(|&at| at < length).ok_or_else(|| {
                    Reason::new(format!("{written} rows from {first} on do not fit an axis of {length}"))
                })?;
                let from = (prefix * written + row) * inner;
                result.copy((prefix * length + at) * inner, node.value(1)?, from, inner)?;
            }
        }
        Ok(Some(vec![result.into_value(cache.to_vec())?]))
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

    fn reduction(name: &str) -> [(&'static str, Attribute); 1] {
        [("reduction", name.into())]
    }

    #[test]
    fn elements_replace_or_combine() {
        let data = f32s([1, 4], &[1., 2., 3., 4.]);
        let inputs = [data.clone(), i64s([1, 3], &[1, -1, 1]), f32s([1, 3], &[5., 6., 7.])];
        let axis = ("axis", Attribute::Int(1));
        check(("Scatter", 9), std::slice::from_ref(&axis), &inputs, &f32s([1, 4], &[1., 7., 3., 6.]));
        let cases = [("add", [14., 10.]), ("mul", [70., 24.]), ("max", [7., 6.]), ("min", [2., 4.])];
        for (name, [second, last]) in cases {
            let attributes = [axis.clone(), ("reduction", name.into())];
            let expected = f32s([1, 4], &[1., second, 3., last]);
            check(("ScatterElements", 18), &attributes, &inputs, &expected);
        }
        let nan = [f32s([2], &[f32::NAN, 1.0]), i64s([2], &[0, 1]), f32s([2], &[1.0, f32::NAN])];
        for name in ["max", "min"] {
            check(("ScatterElements", 18), &reduction(name), &nan, &f32s([2], &[f32::NAN; 2]));
        }
        let outside = [data, i64s([1, 1], &[4]), f32s([1, 1], &[5.])];
        assert!(run(("ScatterElements", 13), &[axis], &outside).is_err());
    }

    #[test]
    fn slices_replace_or_combine() {
        let bytes = |shape: [usize; 2], values: &[u8]| tensor(DataType::U8, shape, values);
        let data = bytes([3, 2], &[1, 2, 3, 4, 5, 6]);
        let inputs = [data.clone(), i64s([2, 1], &[2, 2]), bytes([2, 2], &[7, 8, 9, 250])];
        check(("ScatterND", 13), &[], &inputs, &bytes([3, 2], &[1, 2, 3, 4, 9, 250]));
        check(("ScatterND", 18), &reduction("add"), &inputs, &bytes([3, 2], &[1, 2, 3, 4, 21, 8]));
        let wrong = [data, i64s([2, 1], &[0, 3]), bytes([2, 2], &[0; 4])];
        assert!(run(("ScatterND", 13), &[], &wrong).is_err());
        let [data, _, updates] = wrong;
        assert!(run(("ScatterND", 13), &[], &[data, i64s([2, 2], &[0; 4]), updates]).is_err());
    }

    #[test]
    fn caches_are_written_from_a_position_on() {
        let cache = f32s([2, 3, 1], &[1., 2., 3., 4., 5., 6.]);
        let update = f32s([2, 2, 1], &[7., 8., 9., 10.]);
        let inputs = [cache.clone(), update.clone(), i64s([2], &[1, 0])];
        check(("TensorScatter", 24), &[], &inputs, &f32s([2, 3, 1], &[1., 7., 8., 9., 10., 6.]));
        let inputs = [cache, update, i64s([2], &[2, 4])];
        assert!(run(("TensorScatter", 24), &[], &inputs).is_err());
        let circular = [("mode", "circular".into())];
        check(("TensorScatter", 24), &circular, &inputs, &f32s([2, 3, 1], &[8., 2., 7., 4., 9., 10.]));
    }
}
