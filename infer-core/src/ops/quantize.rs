//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear, of ai.onnx and of com.microsoft.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html>,
//! <https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html>,
//! <https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html>
//! Types: integers of 2 to 16 bits by kernels, in f32; floats of 8 and 4 bits, and scales of f8e8m0 or i32, on the host.
//! History: since opset 10 by tensor; by axis since 13; 8-bit floats and scales of f16 and bf16 since 19; by block, with
//! `output_dtype`, 16 and 4 bits since 21; `precision` and f4e2m1 since 23; f8e8m0 since 24; 2 bits since 25.

use super::cast::element_type;
use super::compose::{cast as cast_node, scalar as scalar_node};
use super::element_type::{cast, cast_kernel, converted, with_output};
use super::elements::{around, checked_elements};
use super::number::{Rules, Scalar, of_f64s, of_scalars, scalars, to_f64s};
use crate::calls::{LowerNode, Tensor};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{
    Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, Wire, expect_dtype, resolve_axis,
};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

const fn row(name: &'static str, domain: &'static str, since: i64, dequantize: bool) -> Row {
    let import = if dequantize { import_dequantize } else { import_quantize };
    Row { name, domain, since, inputs: 2..=3, outputs: 1..=1, import }
}

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    row("DequantizeLinear", "", 10, true),
    row("DequantizeLinear", "com.microsoft", 1, true),
    row("QuantizeLinear", "", 10, false),
    row("QuantizeLinear", "com.microsoft", 1, false),
    Row {
        name: "DynamicQuantizeLinear",
        domain: "",
        since: 11,
        inputs: 1..=1,
        outputs: 1..=3,
        import: import_dynamic,
    },
];

/// What a scale has one value for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Granularity {
    /// The tensor.
    Tensor,
    /// Each place along an axis.
    Axis(usize),
    /// Each block of so many elements along an axis.
    Block(usize, usize),
}

/// Which axis and blocks the scales are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The axis.
    pub axis: i64,
    /// Elements of a block; 0 where there are no blocks.
    pub block_size: usize,
}

impl Layout {
    fn import(node: &mut ImportNode) -> Result<Layout, Reason> {
        let block = node.attributes.int("block_size")?.unwrap_or(0);
        let wrong = || Reason::new(format!("block_size is {block}, which is no number of elements"));
        let block_size = usize::try_from(block).map_err(|_| wrong())?;
        Ok(Layout { axis: node.attributes.int("axis")?.unwrap_or(1), block_size })
    }

    /// How `param`, a scale or zero point, lies over `x`.
    fn over(&self, x: &TensorType, param: &TensorType) -> Result<Granularity, Reason> {
        if param.elements() == 1 {
            return Ok(Granularity::Tensor);
        }
        let wrong = || Reason::new(format!("a scale or zero point {param} does not fit {x}"));
        // A tensor of one dimension has but one axis, whatever the default says.
        let axis = if x.rank() == 1 { 0 } else { resolve_axis(self.axis, x.rank())? };
        let extent = x.shape.get(axis).copied().ok_or_else(wrong)?;
        if self.block_size == 0 {
            return if param.shape == [extent] { Ok(Granularity::Axis(axis)) } else { Err(wrong()) };
        }
        let mut expected = x.shape.clone();
        expected[axis] = extent.div_ceil(self.block_size);
        // A block longer than the axis holds all of it.
        let size = self.block_size.min(extent.max(1));
        if param.shape == expected { Ok(Granularity::Block(axis, size)) } else { Err(wrong()) }
    }

    /// `param` so that it broadcasts to `x`.
    fn spread(&self, node: &mut LowerNode<'_>, param: &Tensor, x: &TensorType) -> Result<Tensor, Reason> {
        let mut spread = param.clone();
        match self.over(x, &param.ty)? {
            Granularity::Tensor => spread.ty.shape.clear(),
            Granularity::Axis(axis) => spread.ty.shape.resize(x.rank() - axis, 1),
            Granularity::Block(axis, size) => {
                let (outer, extent, inner) = around(&x.shape, axis);
                let blocks = param.ty.shape[axis];
                let dtype = param.ty.dtype;
                let repeated = [outer, blocks, size, inner];
                let full = node.scratch_tensor(TensorType::new(dtype, repeated));
                let strides = [blocks * inner, inner, 0, 1].map(|stride| stride as i64);
                node.copy_strided(param, &strides, 0, &full, &repeated)?;
                spread = full;
                if blocks * size != extent {
                    // The last block is cut.
                    let cut = [outer, extent, inner];
                    let part = node.scratch_tensor(TensorType::new(dtype, cut));
                    let strides = [blocks * size * inner, inner, 1].map(|stride| stride as i64);
                    node.copy_strided(&spread, &strides, 0, &part, &cut)?;
                    spread = part;
                }
                spread.ty.shape.clone_from(&x.shape);
            }
        }
        Ok(spread)
    }

    /// For each element of `x` the one of `param` that it has.
    fn indices(&self, x: &TensorType, param: &TensorType) -> Result<impl Fn(usize) -> usize, Reason> {
        let granularity = self.over(x, param)?;
        let axis = match granularity {
            Granularity::Tensor => 0,
            Granularity::Axis(axis) | Granularity::Block(axis, _) => axis,
        };
        let extent = x.shape.get(axis).copied().unwrap_or(1).max(1);
        let inner = x.shape.iter().skip(axis + 1).product::<usize>().max(1);
        Ok(move |index: usize| {
            let at = index / inner % extent;
            match granularity {
                Granularity::Tensor => 0,
                Granularity::Axis(_) => at,
                Granularity::Block(_, size) => {
                    let (outer, blocks) = (index / inner / extent, extent.div_ceil(size));
                    (outer * blocks + at / size) * inner + index % inner
                }
            }
        })
    }
}

/// The least and greatest value of an integer type that tensors are quantised to.
fn range(dtype: DataType) -> Option<(i32, i32)> {
    Some(match dtype {
        DataType::U8 => (0, 255),
        DataType::I8 => (-128, 127),
        DataType::U16 => (0, 65535),
        DataType::I16 => (-32768, 32767),
        DataType::U4 => (0, 15),
        DataType::I4 => (-8, 7),
        DataType::U2 => (0, 3),
        DataType::I2 => (-2, 1),
        _ => return None,
    })
}

/// The types of scales that kernels compute with.
const SCALES: &[DataType] = &[DataType::F32, DataType::F16, DataType::Bf16];

fn expect_scale(ty: &TensorType) -> Result<(), Reason> {
    expect_dtype(ty, &[DataType::F32, DataType::F16, DataType::Bf16, DataType::F8E8M0, DataType::I32])
}

fn optional_type(node: &mut ImportNode, name: &str) -> Result<Option<DataType>, Reason> {
    match node.attributes.int(name)? {
        None | Some(0) => Ok(None),
        Some(code) => element_type(code).map(Some),
    }
}

/// Whether input 2 shifts nothing.
fn shifts(zero_point: Option<&Constant>) -> bool {
    zero_point.is_none_or(|constant| constant.data().iter().any(|&byte| byte != 0))
}

/// QuantizeLinear: x / scale, rounded, plus the zero point, within the type's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantize {
    /// What the scales are for.
    pub layout: Layout,
    /// Whether 8-bit floats have their largest value for what is larger.
    pub saturate: bool,
    /// The output's type, where the zero point does not say.
    pub output_dtype: Option<DataType>,
    /// The type that is divided in, where it is not the scale's.
    pub precision: Option<DataType>,
}

fn import_quantize(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Quantize {
        layout: Layout::import(node)?,
        saturate: node.attributes.flag("saturate", true)?,
        output_dtype: optional_type(node, "output_dtype")?,
        precision: optional_type(node, "precision")?,
    }))
}

impl Quantize {
    /// The output's type; the layout is checked too.
    fn output(&self, inputs: [Option<&TensorType>; 3]) -> Result<TensorType, Reason> {
        let missing = |index| Reason::new(format!("input {index} is missing"));
        let (x, scale) = (inputs[0].ok_or_else(|| missing(0))?, inputs[1].ok_or_else(|| missing(1))?);
        let floats = [DataType::F32, DataType::F16, DataType::Bf16, DataType::F64, DataType::I32];
        expect_dtype(x, &floats)?;
        expect_scale(scale)?;
        self.layout.over(x, scale)?;
        let dtype = match (inputs[2], self.output_dtype) {
            (Some(zero), Some(output)) if zero.dtype != output => {
                return Err(Reason::new(format!("output_dtype is {output}, the zero point {zero}")));
            }
            (Some(zero), _) => {
                self.layout.over(x, zero)?;
                zero.dtype
            }
            (None, output) => output.unwrap_or(DataType::U8),
        };
        if range(dtype).is_none() && (!dtype.is_small_float() || dtype == DataType::F8E8M0) {
            return Err(Reason::new(format!("elements of type {dtype} are not quantised to")));
        }
        let precision = self.precision.unwrap_or(DataType::F32);
        expect_dtype(&TensorType::new(precision, []), &floats[..4])?;
        Ok(TensorType::new(dtype, x.shape.clone()))
    }

    /// The type that is divided in.
    fn division(&self, scale: DataType) -> DataType {
        let scale = if SCALES.contains(&scale) { scale } else { DataType::F32 };
        self.precision.unwrap_or(scale)
    }

    fn runs_on_host(&self, x: DataType, scale: DataType, output: DataType) -> bool {
        range(output).is_none()
            || !SCALES.contains(&scale)
            || !SCALES.contains(&self.division(scale))
            || x == DataType::F64
    }
}

/// `value` rounded to type `dtype`.
fn rounded(value: f64, dtype: DataType) -> f64 {
    match dtype {
        DataType::F16 => half::f16::from_f32(value as f32).to_f64(),
        DataType::Bf16 => half::bf16::from_f32(value as f32).to_f64(),
        DataType::F64 => value,
        _ => f64::from(value as f32),
    }
}

impl Operator for Quantize {
    fn name(&self) -> &'static str {
        "QuantizeLinear"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![self.output([node.optional(0), node.optional(1), node.optional(2)])?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, scale, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let division = self.division(scale.ty.dtype);
        // Every type that is divided in is narrower than f32, in which it is done; what it makes of a number is a
        // cast there and back.
        let narrowed = |node: &mut LowerNode<'_>, tensor: &Tensor| {
            let narrow = converted(node, tensor, division)?;
            converted(node, &narrow, DataType::F32)
        };
        let x = narrowed(node, &x)?;
        let scale = narrowed(node, &scale)?;
        let scale = self.layout.spread(node, &scale, &x.ty)?;
        let quotient = node.scratch_tensor(x.ty.clone());
        node.elementwise("div_f32", &[&x, &scale], &quotient, |_| ())?;
        let quotient = narrowed(node, &quotient)?;
        let whole = node.scratch_tensor(x.ty.clone());
        node.elementwise("round_f32", &[&quotient], &whole, |_| ())?;
        if let Some(zero) = node.optional_input(2).filter(|_| shifts(node.constant(2))) {
            let zero = converted(node, &zero, DataType::F32)?;
            let zero = self.layout.spread(node, &zero, &x.ty)?;
            node.elementwise("add_f32", &[&whole, &zero], &whole, |_| ())?;
        }
        // Casts to whole bytes stay in the range by themselves.
        let stored = match output.ty.dtype {
            DataType::U4 | DataType::U2 => DataType::U8,
            DataType::I4 | DataType::I2 => DataType::I8,
            other => other,
        };
        if let (true, Some((least, most))) = (stored != output.ty.dtype, range(output.ty.dtype)) {
            node.elementwise("clip_f32", &[&whole], &whole, |call| {
                (call.alpha, call.beta) = (least as f32, most as f32);
            })?;
        }
        let bytes = Tensor { ty: TensorType::new(stored, output.ty.shape.clone()), ..output };
        cast(node, &whole, &bytes)
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        let (Some(x), Some(scale)) = (node.optional(0), node.optional(1)) else { return false };
        let zero = node.optional(2).map(|zero| zero.dtype);
        let output = zero.or(self.output_dtype).unwrap_or(DataType::U8);
        self.runs_on_host(x.dtype, scale.dtype, output)
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (x, scale, zero) = (node.tensor(0)?, node.tensor(1)?, node.optional_tensor(2)?);
        let output = self.output([Some(x.ty()), Some(scale.ty()), zero.map(Constant::ty)])?;
        if !self.runs_on_host(x.ty().dtype, scale.ty().dtype, output.dtype) {
            return Ok(None);
        }
        checked_elements(&output)?;
        let division = self.division(scale.ty().dtype);
        let at_scale = self.layout.indices(x.ty(), scale.ty())?;
        let scales = to_f64s(scale)?;
        let zeros = zero.map(to_f64s).transpose()?.unwrap_or_else(|| vec![0.0]);
        let at_zero = zero.map(|zero| self.layout.indices(x.ty(), zero.ty())).transpose()?;
        let limits = range(output.dtype).map(|(least, most)| (f64::from(least), f64::from(most)));
        let values = scalars(x)?.enumerate().map(|(index, x)| {
            let scale = scales.get(at_scale(index)).copied().unwrap_or(1.0);
            let zero = at_zero.as_ref().and_then(|at| zeros.get(at(index))).copied().unwrap_or(0.0);
            let quotient = rounded(rounded(x.to_f64(), division) / rounded(scale, division), division);
            Scalar::Float(match limits {
                Some((least, most)) => (libm::rint(quotient) + zero).clamp(least, most),
                None => quotient + zero,
            })
        });
        let rules = Rules { saturate: self.saturate, ..Rules::default() };
        Ok(Some(vec![of_scalars(output.clone(), values, rules)?.into()]))
    }
}

/// DequantizeLinear: (x − zero point) · scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dequantize {
    /// What the scales are for.
    pub layout: Layout,
    /// The output's type, where it is not the scale's.
    pub output_dtype: Option<DataType>,
}

fn import_dequantize(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Dequantize {
        layout: Layout::import(node)?,
        output_dtype: optional_type(node, "output_dtype")?,
    }))
}

impl Dequantize {
    fn output(&self, inputs: [Option<&TensorType>; 3]) -> Result<TensorType, Reason> {
        let missing = |index| Reason::new(format!("input {index} is missing"));
        let (x, scale) = (inputs[0].ok_or_else(|| missing(0))?, inputs[1].ok_or_else(|| missing(1))?);
        if range(x.dtype).is_none() && x.dtype != DataType::I32 && !x.dtype.is_small_float() {
            return Err(Reason::new(format!("elements of type {} are not dequantised", x.dtype)));
        }
        expect_scale(scale)?;
        self.layout.over(x, scale)?;
        if let Some(zero) = inputs[2] {
            if zero.dtype != x.dtype {
                return Err(Reason::new(format!("the zero point is {zero}, the input {x}")));
            }
            self.layout.over(x, zero)?;
        }
        let by_scale = if SCALES.contains(&scale.dtype) { scale.dtype } else { DataType::F32 };
        let dtype = self.output_dtype.unwrap_or(by_scale);
        expect_dtype(&TensorType::new(dtype, []), SCALES)?;
        Ok(TensorType::new(dtype, x.shape.clone()))
    }
}

/// Whether elements and scales of these types are dequantised on the host.
fn dequantizes_on_host(x: DataType, scale: DataType) -> bool {
    cast_kernel(x, DataType::F32).is_none() || !SCALES.contains(&scale)
}

impl Operator for Dequantize {
    fn name(&self) -> &'static str {
        "DequantizeLinear"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![self.output([node.optional(0), node.optional(1), node.optional(2)])?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, scale, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let scale = converted(node, &scale, DataType::F32)?;
        let scale = self.layout.spread(node, &scale, &x.ty)?;
        let mut zero = None;
        if let Some(point) = node.optional_input(2).filter(|_| shifts(node.constant(2))) {
            let point = converted(node, &point, DataType::F32)?;
            zero = Some(self.layout.spread(node, &point, &x.ty)?);
        }
        with_output(node, &output, DataType::F32, |node, out| {
            cast(node, &x, out)?;
            if let Some(zero) = zero {
                node.elementwise("sub_f32", &[out, &zero], out, |_| ())?;
            }
            node.elementwise("mul_f32", &[out, &scale], out, |_| ())
        })
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        let (Some(x), Some(scale)) = (node.optional(0), node.optional(1)) else { return false };
        dequantizes_on_host(x.dtype, scale.dtype)
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (x, scale, zero) = (node.tensor(0)?, node.tensor(1)?, node.optional_tensor(2)?);
        if !dequantizes_on_host(x.ty().dtype, scale.ty().dtype) {
            return Ok(None);
        }
        let output = self.output([Some(x.ty()), Some(scale.ty()), zero.map(Constant::ty)])?;
        checked_elements(&output)?;
        let at_scale = self.layout.indices(x.ty(), scale.ty())?;
        let scales = to_f64s(scale)?;
        let zeros = zero.map(to_f64s).transpose()?.unwrap_or_default();
        let at_zero = zero.map(|zero| self.layout.indices(x.ty(), zero.ty())).transpose()?;
        let values = to_f64s(x)?.into_iter().enumerate().map(|(index, x)| {
            let scale = scales.get(at_scale(index)).copied().unwrap_or(1.0);
            let zero = at_zero.as_ref().and_then(|at| zeros.get(at(index))).copied().unwrap_or(0.0);
            (x - zero) * scale
        });
        Ok(Some(vec![of_f64s(output.clone(), values)?.into()]))
    }
}

/// DynamicQuantizeLinear: to u8, by the range of the tensor and zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicQuantize;

fn import_dynamic(_: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(DynamicQuantize))
}

impl Operator for DynamicQuantize {
    fn name(&self) -> &'static str {
        "DynamicQuantizeLinear"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        expect_dtype(nodes.types.ty(0)?, &[DataType::F32])?;
        let x = nodes.input(0)?;
        let mut number = |value| scalar_node(nodes, DataType::F32, value);
        let (zero, one, most) = (number(0.0)?, number(1.0)?, number(255.0)?);
        let whole = [("keepdims", 0.into())];
        let greatest = nodes.node("ReduceMax", &[x], &whole)?;
        let greatest = nodes.node("Max", &[greatest, zero], &[])?;
        let least = nodes.node("ReduceMin", &[x], &whole)?;
        let least = nodes.node("Min", &[least, zero], &[])?;
        let width = nodes.node("Sub", &[greatest, least], &[])?;
        let is_flat = nodes.node("Equal", &[width, zero], &[])?;
        let width = nodes.node("Where", &[is_flat, one, width], &[])?;
        let scale = nodes.node("Div", &[width, most], &[])?;
        let point = nodes.node("Div", &[least, scale], &[])?;
        let point = nodes.node("Sub", &[zero, point], &[])?;
        let point = nodes.node("Clip", &[point, zero, most], &[])?;
        let point = nodes.node("Round", &[point], &[])?;
        let point = cast_node(nodes, point, DataType::U8)?;
        let y = nodes.node("QuantizeLinear", &[x, scale, point], &[])?;
        Ok(Some(vec![y, scale, point]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, infer, run, run_all, tensor};

    fn u8s<const R: usize>(shape: [usize; R], values: &[u8]) -> Constant {
        tensor(DataType::U8, shape, values)
    }

    #[test]
    fn tensors_quantize_and_back() {
        let x = f32s([6], &[0.0, 2.0, 3.0, 1000.0, -254.0, -1000.0]);
        let (scale, zero) = (f32s([], &[2.0]), u8s([], &[128]));
        let y = u8s([6], &[128, 129, 130, 255, 1, 0]);
        check(("QuantizeLinear", 10), &[], &[&x, &scale, &zero], &y);
        // 3 / 2 rounds to even.
        check(("QuantizeLinear", 21), &[], &[&x, &scale], &u8s([6], &[0, 1, 2, 255, 0, 0]));
        let back = f32s([6], &[0.0, 2.0, 4.0, 254.0, -254.0, -256.0]);
        check(("DequantizeLinear", 10), &[], &[&y, &scale, &zero], &back);
        check(("com.microsoft::DequantizeLinear", 1), &[], &[&y, &scale, &zero], &back);
    }

    #[test]
    fn axes_and_blocks_have_scales_of_their_own() {
        let x = f32s([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let axis = |axis| ("axis", Attribute::Int(axis));
        let zero = tensor(DataType::I8, [2], &[0i8, -1]);
        let y = tensor(DataType::I8, [2, 3], &[1i8, 2, 3, 1, 1, 2]);
        check(("QuantizeLinear", 13), &[axis(0)], &[&x, &f32s([2], &[1.0, 2.0]), &zero], &y);
        let back = f32s([2, 3], &[1.0, 2.0, 3.0, 4.0, 4.0, 6.0]);
        check(("DequantizeLinear", 13), &[axis(-2)], &[&y, &f32s([2], &[1.0, 2.0]), &zero], &back);

        let blocks = [axis(1), ("block_size", Attribute::Int(2))];
        let scale = f32s([2, 2], &[1.0, 3.0, 2.0, 0.5]);
        check(("QuantizeLinear", 21), &blocks, &[&x, &scale], &u8s([2, 3], &[1, 2, 1, 2, 2, 12]));
        let y = u8s([2, 3], &[1, 2, 1, 2, 3, 12]);
        let back = f32s([2, 3], &[1.0, 2.0, 3.0, 4.0, 6.0, 6.0]);
        check(("DequantizeLinear", 21), &blocks, &[&y, &scale], &back);
        // The host has the same layout.
        let eighths = tensor(DataType::F8E4M3FN, [2, 3], &[0x38u8; 6]);
        let spread = f32s([2, 3], &[1.0, 1.0, 3.0, 2.0, 2.0, 0.5]);
        check(("DequantizeLinear", 21), &blocks, &[&eighths, &scale], &spread);
    }

    #[test]
    fn small_types_stay_in_their_range() {
        let x = f32s([4], &[-30.0, 30.0, 1.0, -2.0]);
        let scale = f32s([], &[1.0]);
        let cases: [(DataType, [i8; 4]); 4] = [
            (DataType::I4, [-8, 7, 1, -2]),
            (DataType::U4, [0, 15, 1, 0]),
            (DataType::I2, [-2, 1, 1, -2]),
            (DataType::U2, [0, 3, 1, 0]),
        ];
        for (dtype, expected) in cases {
            let output = [("output_dtype", Attribute::Int(dtype as i64))];
            check(("QuantizeLinear", 25), &output, &[&x, &scale], &tensor(dtype, [4], &expected));
        }
        let output = [("output_dtype", Attribute::Int(DataType::F8E4M3FN as i64))];
        let expected = tensor(DataType::F8E4M3FN, [2], &[0x7eu8, 0x30]);
        check(("QuantizeLinear", 21), &output, &[&f32s([2], &[1e5, 1.0]), &f32s([], &[2.0])], &expected);
        let quarters = tensor(DataType::F4E2M1, [2], &[0x7u8, 0x9]);
        check(("DequantizeLinear", 23), &[], &[&quarters, &f32s([], &[2.0])], &f32s([2], &[12.0, -1.0]));
    }

    #[test]
    fn halves_divide_in_their_own_precision() {
        let halves = |values: &[f32]| {
            let values: Vec<_> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
            tensor(DataType::F16, [2], &values)
        };
        let scale = tensor(DataType::F16, [], &[half::f16::from_f32(3.0)]);
        let y = run(("QuantizeLinear", 21), &[], &[halves(&[10.0, 4.0]), scale.clone()]).unwrap();
        assert_eq!(*y.data(), [3, 1].as_slice());
        check(("DequantizeLinear", 19), &[], &[u8s([2], &[2, 1]), scale], &halves(&[6.0, 3.0]));
    }

    #[test]
    fn ranges_are_found() {
        let x = f32s([6], &[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
        let outputs = run_all(("DynamicQuantizeLinear", 11), &[], &[Some(x)], 3).unwrap();
        assert_eq!(*outputs[0].data(), [153, 255, 0, 26, 221, 179].as_slice());
        assert!((outputs[1].values::<f32>()[0] - 0.019_607_844).abs() < 1e-9);
        assert_eq!(*outputs[2].data(), [153].as_slice());
        let flat = run_all(("DynamicQuantizeLinear", 11), &[], &[Some(f32s([2], &[0.0; 2]))], 3).unwrap();
        assert_eq!(*flat[0].data(), [0, 0].as_slice());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ty = |dtype, shape: &[usize]| TensorType::new(dtype, shape);
        let x = ty(DataType::F32, &[2, 3]);
        let refused = infer(("QuantizeLinear", 13), &[], &[x.clone(), ty(DataType::F32, &[2])]);
        assert_eq!(refused.unwrap_err().what, "a scale or zero point f32[2] does not fit f32[2,3]");
        let typed = [x, ty(DataType::F32, &[]), ty(DataType::I64, &[])];
        assert!(infer(("QuantizeLinear", 13), &[], &typed).is_err());
        let mixed = [ty(DataType::U8, &[2]), ty(DataType::F32, &[]), ty(DataType::I8, &[])];
        assert!(infer(("DequantizeLinear", 13), &[], &mixed).is_err());
    }
}
