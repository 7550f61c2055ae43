//! ScatterElements, Scatter, ScatterND and TensorScatter: a tensor in which some elements are replaced by, or combined
//! with, those of another.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__ScatterElements.html>,
//! <https://onnx.ai/onnx/operators/onnx__ScatterND.html>, <https://onnx.ai/onnx/operators/onnx__TensorScatter.html>
//! Types: elements of any type, strings included, where they are replaced; numbers where they are combined. Indices i64
//! or i32, negative ones counted from the end.
//! History: Scatter since opset 9, ScatterElements and ScatterND since 11; `reduction` since 16, min and max since 18;
//! TensorScatter since 24.

use bytemuck::Pod;
use infer_kernels::call::{self, MAX_RANK};

use super::element_type::{compute_type, converted, with_output};
use super::elements::{Elements, around, shape_of};
use super::gather_scatter::expect_indices;
use super::movement::choice;
use super::number::{no_numbers, tensor_of};
use super::{
    Attribute, Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, StringUse, Wire, expect_dtype,
    resolve_axis,
};
use crate::calls::{LowerNode, sized_kernel};
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

    /// The type in which elements of type `dtype` are updated, and the kernel of `family` that does it. Of bools the sum is
    /// "or" and the product "and", as of 0 and 1 the greater and the lesser are.
    fn kernel(self, family: &str, dtype: DataType) -> Result<(DataType, String), Reason> {
        let name = match (self, dtype) {
            (Reduction::None, _) => return Ok((dtype, sized_kernel(family, dtype))),
            (Reduction::Add | Reduction::Max, DataType::Bool) | (Reduction::Max, _) => "max",
            (Reduction::Mul | Reduction::Min, DataType::Bool) | (Reduction::Min, _) => "min",
            (Reduction::Add, _) => "add",
            (Reduction::Mul, _) => "mul",
        };
        let name = format!("{family}_{name}");
        let dtype = if dtype == DataType::Bool { DataType::I32 } else { dtype };
        let computed = compute_type(&name, dtype).ok_or_else(|| no_numbers(dtype))?;
        Ok((computed, format!("{name}_{computed}")))
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

/// Calls the kernel of `family` on data, indices, updates and output.
fn scatter<P: Pod>(
    node: &mut LowerNode<'_>,
    family: &str,
    params: &P,
    reduction: Reduction,
) -> Result<(), Reason> {
    let (data, indices, updates, output) = (node.input(0)?, node.input(1)?, node.input(2)?, node.output(0)?);
    let (dtype, kernel) = reduction.kernel(family, data.ty.dtype)?;
    let data = converted(node, &data, dtype)?;
    let updates = converted(node, &updates, dtype)?;
    with_output(node, &output, dtype, |node, output| {
        let operands = [data, indices, updates].map(|tensor| Some(tensor.span));
        node.call(kernel, params, &[operands.as_slice(), &[Some(output.span)]].concat());
        Ok(())
    })
}

/// Refuses indices of axes that have nothing.
fn expect_places(extents: &[usize], indices: &TensorType) -> Result<(), Reason> {
    if extents.contains(&0) && indices.elements() > 0 {
        return Err(Reason::new(format!("indices {indices} of an empty axis")));
    }
    Ok(())
}

/// Strings may be replaced, not computed with.
fn string_use(reduction: Reduction) -> StringUse {
    if reduction == Reduction::None { StringUse::Moves } else { StringUse::None }
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

    /// The parameters of the kernel, of as few axes as say the same.
    fn params(data: &[usize], indices: &TensorType, axis: usize) -> Option<call::ScatterElements> {
        let mut axes: Vec<(u64, u64, bool)> = Vec::new();
        for (number, (&extent, &count)) in data.iter().zip(&indices.shape).enumerate() {
            let (extent, count, is_own) = (extent as u64, count as u64, number == axis);
            match axes.last_mut() {
                _ if (extent, count, is_own) == (1, 1, false) => (),
                Some((outer, outer_count, false)) if !is_own && extent == count => {
                    *outer = outer.checked_mul(extent)?;
                    *outer_count = outer_count.checked_mul(extent)?;
                }
                _ => axes.push((extent, count, is_own)),
            }
        }
        let mut params = call::ScatterElements {
            rank: axes.len() as u64,
            axis: axes.iter().position(|&(_, _, is_own)| is_own)? as u64,
            index_bytes: indices.dtype.size_bytes() as u64,
            ..call::ScatterElements::default()
        };
        for (number, (extent, count, _)) in axes.into_iter().enumerate() {
            *params.dims.get_mut(number)? = extent;
            *params.index_dims.get_mut(number)? = count;
        }
        Some(params)
    }
}

impl Operator for ScatterElements {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        expect_same_type(node, self.reduction)?;
        let data = node.ty(0)?;
        let axis = self.axis(&data.shape, &node.ty(1)?.shape, &node.ty(2)?.shape)?;
        expect_places(&data.shape[axis..=axis], node.ty(1)?)?;
        Ok(vec![data.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (data, indices) = (node.input(0)?.ty, node.input(1)?.ty);
        let axis = resolve_axis(self.axis, data.rank())?;
        let params = ScatterElements::params(&data.shape, &indices, axis)
            .ok_or_else(|| Reason::new(format!("indices {indices} of more than {MAX_RANK} separate axes")))?;
        scatter(node, "scatter_elements", &params, self.reduction)
    }

    fn string_use(&self) -> StringUse {
        string_use(self.reduction)
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
        let data = node.ty(0)?;
        let depth = ScatterNd::depth(&data.shape, &node.ty(1)?.shape, &node.ty(2)?.shape)?;
        expect_places(&data.shape[..depth], node.ty(1)?)?;
        Ok(vec![data.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (data, indices, updates) = (node.input(0)?.ty, node.input(1)?.ty, node.input(2)?.ty);
        let depth = ScatterNd::depth(&data.shape, &indices.shape, &updates.shape)?;
        let mut params = call::ScatterNd {
            depth: depth as u64,
            slice: data.shape[depth..].iter().product::<usize>() as u64,
            rows: indices.shape[..indices.rank() - 1].iter().product::<usize>() as u64,
            index_bytes: indices.dtype.size_bytes() as u64,
            ..call::ScatterNd::default()
        };
        let dims = params.dims.get_mut(..depth).ok_or_else(|| {
            Reason::new(format!("rows of {depth} indices, at most {MAX_RANK} are supported"))
        })?;
        for (slot, &extent) in dims.iter_mut().zip(&data.shape) {
            *slot = extent as u64;
        }
        scatter(node, "scatter_nd", &params, self.reduction)
    }

    fn string_use(&self) -> StringUse {
        string_use(self.reduction)
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

    /// The axis, where all types fit.
    fn expect_types(&self, node: &NodeTypes<'_>) -> Result<usize, Reason> {
        let (cache, update) = (node.ty(0)?, node.ty(1)?);
        if cache.dtype != update.dtype {
            return Err(Reason::new(format!("cache and update are {cache} and {update}, not of one type")));
        }
        let axis = self.axis(&cache.shape, &update.shape)?;
        if let Some(indices) = node.optional(2) {
            expect_dtype(indices, &[DataType::I64, DataType::I32])?;
            if indices.shape != cache.shape[..1] {
                return Err(Reason::new(format!("write indices {indices} are not one for each of {cache}")));
            }
        }
        Ok(axis)
    }
}

impl Operator for TensorScatter {
    fn name(&self) -> &'static str {
        "TensorScatter"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (cache, update) = (nodes.input(0)?, nodes.input(1)?);
        let axis = self.expect_types(&nodes.types)?;
        let (length, written) = (nodes.shape(cache)?[axis] as i64, nodes.shape(update)?[axis]);
        let (samples, shape) = (nodes.shape(cache)?[0], nodes.shape(update)?.to_vec());
        if nodes.ty(update)?.elements() == 0 {
            return Ok(Some(vec![nodes.node("Identity", &[cache], &[])?]));
        }
        let length = nodes.i64s(&[length]);
        let range: Vec<i64> = (0..written as i64).collect();
        let mut around = vec![1; shape.len()];
        around[axis] = written;
        let mut at = nodes.constant(tensor_of(DataType::I64, &around, &range)?);
        if let Some(first) = nodes.optional_input(2) {
            let mut first = nodes.node("Cast", &[first], &[("to", 7.into())])?;
            if self.circular {
                first = nodes.node("Mod", &[first, length], &[])?;
            }
            around[axis] = 1;
            around[0] = samples;
            let around: Vec<i64> = around.iter().map(|&extent| extent as i64).collect();
            let around = nodes.i64s(&around);
            let first = nodes.node("Reshape", &[first, around], &[])?;
            at = nodes.node("Add", &[first, at], &[])?;
            if self.circular {
                at = nodes.node("Mod", &[at, length], &[])?;
            } else {
                // Positions before the beginning do not count from the end.
                let zero = nodes.i64s(&[0]);
                let before = nodes.node("Less", &[at, zero], &[])?;
                at = nodes.node("Where", &[before, length, at], &[])?;
            }
        }
        let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
        let shape = nodes.i64s(&shape);
        let at = nodes.node("Expand", &[at, shape], &[])?;
        let axis = [("axis", Attribute::Int(axis as i64))];
        Ok(Some(vec![nodes.node("ScatterElements", &[cache, at, update], &axis)?]))
    }

    /// Of strings: the nodes of the expansion know numbers.
    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        if node.value(0)?.as_tensor().is_some() {
            return Ok(None);
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;
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
