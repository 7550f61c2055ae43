//! Quantised operators of com.microsoft, as its exporter and optimiser leave them in files.
//!
//! Specification: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>
//! Types: u8 and i8, scales of f32 (f16 and bf16 where the operators take them); weights of 2, 4 and 8 bits in
//! MatMulNBits.
//! History: version 1.
//!
//! All are written as others: dequantise, compute in f32, quantise.

use super::compose::{cast, reshape, scalar};
use super::quantized::{Product, centered, with_trailing};
use crate::diagnostic::Reason;
use crate::ops::{Attribute, Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::DataType;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    row("DynamicQuantizeMatMul", 3, 5),
    row("MatMulIntegerToFloat", 4, 7),
    row("QGemm", 6, 9),
    row("QLinearAdd", 7, 8),
    row("QLinearAveragePool", 4, 5),
    row("QLinearConcat", 5, usize::MAX),
    row("QLinearGlobalAveragePool", 5, 5),
    row("QLinearLeakyRelu", 4, 5),
    row("QLinearMul", 7, 8),
    row("QLinearSigmoid", 4, 5),
    row("QLinearSoftmax", 5, 5),
];

const fn row(name: &'static str, least: usize, most: usize) -> Row {
    Row { name, domain: "com.microsoft", since: 1, inputs: least..=most, outputs: 1..=1, import }
}

/// A quantised operator.
#[derive(Clone, Debug)]
pub struct Quantized {
    name: &'static str,
    /// The attributes of the operator of floats in its place.
    attributes: Vec<(&'static str, Attribute)>,
    /// Whether the channels are the last axis.
    channels_last: bool,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let row = OPERATORS.iter().find(|row| row.name == node.op_type);
    let name = row.map(|row| row.name).ok_or_else(|| Reason::new("no quantised operator"))?;
    let (floats, ints, lists): (&[&str], &[&str], &[&str]) = match name {
        "QGemm" => (&["alpha"], &["transA", "transB"], &[]),
        "QLinearAveragePool" => {
            (&[], &["ceil_mode", "count_include_pad"], &["kernel_shape", "strides", "pads", "dilations"])
        }
        "QLinearConcat" | "QLinearSoftmax" => (&[], &["axis"], &[]),
        "QLinearLeakyRelu" => (&["alpha"], &[], &[]),
        _ => (&[], &[], &[]),
    };
    let mut attributes = Vec::new();
    for name in floats.iter().copied() {
        attributes.extend(node.attributes.float(name)?.map(|value| (name, value.into())));
    }
    for name in ints.iter().copied() {
        attributes.extend(node.attributes.int(name)?.map(|value| (name, value.into())));
    }
    for name in lists.iter().copied() {
        attributes.extend(node.attributes.ints(name)?.map(|value| (name, value.into())));
    }
    if name == "QLinearAveragePool"
        && let Some(padding) = node.attributes.string("auto_pad")?
    {
        attributes.push(("auto_pad", Attribute::String(padding)));
    }
    if name == "QLinearSoftmax" {
        // The version of Softmax it stands for: before 13 all axes from `axis` on counted as one.
        let opset = node.attributes.int("opset")?.unwrap_or(13);
        attributes.push(("opset", opset.into()));
    }
    let is_pool = name.ends_with("AveragePool");
    let channels_last = is_pool && node.attributes.flag("channels_last", false)?;
    Ok(Box::new(Quantized { name, attributes, channels_last }))
}

/// Input `first` with its scale and zero point after it, as floats.
fn dequantized(nodes: &mut Expansion<'_>, first: usize) -> Result<Wire, Reason> {
    let inputs = [Some(nodes.input(first)?), Some(nodes.input(first + 1)?), nodes.optional_input(first + 2)];
    one(nodes.nodes_of("", "DequantizeLinear", &inputs, &[], 1)?)
}

/// `y` with the scale that is input `scale` and the zero point after it, of type `dtype` where that is left out.
fn quantized(nodes: &mut Expansion<'_>, y: Wire, scale: usize, dtype: DataType) -> Result<Wire, Reason> {
    let zero = nodes.optional_input(scale + 1);
    let scale = nodes.input(scale)?;
    let attributes = if zero.is_some() { vec![] } else { vec![("output_dtype", (dtype as i64).into())] };
    one(nodes.nodes_of("", "QuantizeLinear", &[Some(y), Some(scale), zero], &attributes, 1)?)
}

fn one(outputs: Vec<Wire>) -> Result<Wire, Reason> {
    outputs.first().copied().ok_or_else(|| Reason::new("a node without output"))
}

impl Quantized {
    fn int(&self, name: &str) -> Option<i64> {
        self.attributes.iter().find_map(|(other, value)| match value {
            Attribute::Int(value) if *other == name => Some(*value),
            _ => None,
        })
    }

    /// A pool, of channels first.
    fn pool(&self, nodes: &mut Expansion<'_>, x: Wire) -> Result<Wire, Reason> {
        let op_type = if self.name == "QLinearAveragePool" { "AveragePool" } else { "GlobalAveragePool" };
        let rank = nodes.shape(x)?.len() as i64;
        if !self.channels_last || rank < 3 {
            return nodes.node(op_type, &[x], &self.attributes);
        }
        let first: Vec<i64> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        let last: Vec<i64> = std::iter::once(0).chain(2..rank).chain([1]).collect();
        let x = nodes.node("Transpose", &[x], &[("perm", first.into())])?;
        let y = nodes.node(op_type, &[x], &self.attributes)?;
        nodes.node("Transpose", &[y], &[("perm", last.into())])
    }

    fn softmax(&self, nodes: &mut Expansion<'_>, x: Wire) -> Result<Wire, Reason> {
        let legacy = self.int("opset").unwrap_or(13) < 13;
        let axis = self.int("axis").unwrap_or(if legacy { 1 } else { -1 });
        if !legacy {
            return nodes.node("Softmax", &[x], &[("axis", axis.into())]);
        }
        let shape = nodes.shape(x)?.to_vec();
        let (outer, inner) = shape.split_at(super::resolve_axis(axis, shape.len())?);
        let rows = reshape(nodes, x, &[outer.iter().product(), inner.iter().product()])?;
        let rows = nodes.node("Softmax", &[rows], &[("axis", 1.into())])?;
        reshape(nodes, rows, &shape)
    }

    fn concat(&self, nodes: &mut Expansion<'_>) -> Result<Wire, Reason> {
        let axis = self.int("axis").ok_or_else(|| Reason::new("attribute `axis` is missing"))?;
        let count = nodes.types.inputs.len();
        if !count.saturating_sub(2).is_multiple_of(3) {
            return Err(Reason::new(format!("{count} inputs, not two and three for each tensor")));
        }
        let mut parts = Vec::new();
        for first in (2..count).step_by(3) {
            parts.push(dequantized(nodes, first)?);
        }
        let dtype = nodes.types.ty(2)?.dtype;
        let joined = nodes.node("Concat", &parts, &[("axis", axis.into())])?;
        quantized(nodes, joined, 0, dtype)
    }

    /// alpha · A · B + C, in which C has the scale of the product.
    fn gemm(&self, nodes: &mut Expansion<'_>) -> Result<Wire, Reason> {
        let (a, b) = (nodes.input(0)?, nodes.input(3)?);
        let dtype = nodes.ty(a)?.dtype;
        let (a_scale, b_scale) = (nodes.input(1)?, nodes.input(4)?);
        let (a_zero, b_zero) = (nodes.optional_input(2), nodes.optional_input(5));
        let flag = |name| i64::from(self.int(name).unwrap_or(0) != 0).into();
        let a = centered(nodes, a, a_zero, 0)?;
        // Zero points and scales of B are by column of the product: by row of B where that is transposed.
        let transposed = self.int("transB").unwrap_or(0) != 0;
        let b = centered(nodes, b, b_zero, usize::from(transposed))?;
        let attributes = [("transA", flag("transA")), ("transB", flag("transB"))];
        let mut inputs = vec![a, b];
        if let Some(c) = nodes.optional_input(6) {
            expect_dtype(nodes.ty(c)?, &[DataType::I32])?;
            inputs.push(cast(nodes, c, DataType::F32)?);
        }
        let sum = nodes.node("Gemm", &inputs, &attributes)?;
        let a_scale = reshape(nodes, a_scale, &[])?;
        let b_scale = with_trailing(nodes, b_scale, 0)?;
        let mut factor = nodes.node("Mul", &[a_scale, b_scale], &[])?;
        if let Some((_, Attribute::Float(alpha))) = self.attributes.iter().find(|(name, _)| *name == "alpha")
        {
            let alpha = scalar(nodes, DataType::F32, f64::from(*alpha))?;
            factor = nodes.node("Mul", &[factor, alpha], &[])?;
        }
        let y = nodes.node("Mul", &[sum, factor], &[])?;
        if nodes.optional_input(7).is_some() { quantized(nodes, y, 7, dtype) } else { Ok(y) }
    }

    /// The product of integers `a` and `b`, less their zero points, times their scales, plus a bias.
    fn scaled(
        nodes: &mut Expansion<'_>,
        [a, b]: [Wire; 2],
        scales: [Wire; 2],
        zeros: [Option<Wire>; 2],
        bias: Option<Wire>,
    ) -> Result<Wire, Reason> {
        let dtype = nodes.ty(scales[1])?.dtype;
        let a = centered(nodes, a, zeros[0], 1)?;
        let b = centered(nodes, b, zeros[1], 0)?;
        let sum = Product::matmul().exact(nodes, a, b)?;
        let sum = cast(nodes, sum, DataType::F32)?;
        let [a_scale, b_scale] = [with_trailing(nodes, scales[0], 1)?, with_trailing(nodes, scales[1], 0)?];
        let (a_scale, b_scale) = (cast(nodes, a_scale, DataType::F32)?, cast(nodes, b_scale, DataType::F32)?);
        let factor = nodes.node("Mul", &[a_scale, b_scale], &[])?;
        let mut y = nodes.node("Mul", &[sum, factor], &[])?;
        if let Some(bias) = bias {
            let bias = cast(nodes, bias, DataType::F32)?;
            y = nodes.node("Add", &[y, bias], &[])?;
        }
        cast(nodes, y, dtype)
    }
}

impl Operator for Quantized {
    fn name(&self) -> &'static str {
        self.name
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let dtype = nodes.types.ty(0)?.dtype;
        let y = match self.name {
            "QLinearAdd" | "QLinearMul" => {
                let (a, b) = (dequantized(nodes, 0)?, dequantized(nodes, 3)?);
                let op_type = if self.name == "QLinearAdd" { "Add" } else { "Mul" };
                let y = nodes.node(op_type, &[a, b], &[])?;
                quantized(nodes, y, 6, dtype)?
            }
            "QLinearAveragePool" | "QLinearGlobalAveragePool" => {
                let x = dequantized(nodes, 0)?;
                let y = self.pool(nodes, x)?;
                quantized(nodes, y, 3, dtype)?
            }
            "QLinearSigmoid" | "QLinearLeakyRelu" => {
                let x = dequantized(nodes, 0)?;
                let op_type = if self.name == "QLinearSigmoid" { "Sigmoid" } else { "LeakyRelu" };
                let y = nodes.node(op_type, &[x], &self.attributes)?;
                quantized(nodes, y, 3, dtype)?
            }
            "QLinearSoftmax" => {
                let x = dequantized(nodes, 0)?;
                let y = self.softmax(nodes, x)?;
                quantized(nodes, y, 3, dtype)?
            }
            "QLinearConcat" => self.concat(nodes)?,
            "QGemm" => self.gemm(nodes)?,
            "DynamicQuantizeMatMul" => {
                let (a, b) = (nodes.input(0)?, nodes.input(1)?);
                let parts = nodes.nodes_of("", "DynamicQuantizeLinear", &[Some(a)], &[], 3)?;
                let &[a, a_scale, a_zero] = parts.as_slice() else {
                    return Err(Reason::new("a quantisation without scale"));
                };
                let zeros = [Some(a_zero), nodes.optional_input(3)];
                let scales = [a_scale, nodes.input(2)?];
                let bias = nodes.optional_input(4);
                Quantized::scaled(nodes, [a, b], scales, zeros, bias)?
            }
            "MatMulIntegerToFloat" => {
                let sides = [nodes.input(0)?, nodes.input(1)?];
                let scales = [nodes.input(2)?, nodes.input(3)?];
                let zeros = [nodes.optional_input(4), nodes.optional_input(5)];
                let bias = nodes.optional_input(6);
                Quantized::scaled(nodes, sides, scales, zeros, bias)?
            }
            other => return Err(Reason::new(format!("{other} is no quantised operator"))),
        };
        Ok(Some(vec![y]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::test_support::{check, f32s, run, run_all, tensor};

    fn u8s<const R: usize>(shape: [usize; R], values: &[u8]) -> Constant {
        tensor(DataType::U8, shape, values)
    }

    fn name(name: &'static str) -> (String, i64) {
        (format!("com.microsoft::{name}"), 1)
    }

    fn checked(op: &'static str, attributes: &[(&str, Attribute)], inputs: &[Constant], y: &Constant) {
        let (op, version) = name(op);
        check((op.as_str(), version), attributes, inputs, y);
    }

    fn scale(value: f32) -> Constant {
        f32s([], &[value])
    }

    fn zero(value: u8) -> Constant {
        u8s([], &[value])
    }

    #[test]
    fn elementwise_operators_are_requantised() {
        let (a, b) = (u8s([2], &[10, 20]), u8s([2], &[4, 8]));
        let inputs = [a, scale(0.5), zero(0), b, scale(1.0), zero(2), scale(0.5), zero(1)];
        checked("QLinearAdd", &[], &inputs, &u8s([2], &[15, 33]));
        checked("QLinearMul", &[], &inputs, &u8s([2], &[21, 121]));
        let x = [u8s([2], &[128, 120]), scale(0.25), zero(128), scale(1.0 / 256.0), zero(0)];
        checked("QLinearSigmoid", &[], &x, &u8s([2], &[128, 31]));
        let x = [u8s([2], &[132, 120]), scale(1.0), zero(128), scale(0.5), zero(100)];
        checked("QLinearLeakyRelu", &[("alpha", 0.5.into())], &x, &u8s([2], &[108, 92]));
        let x = [u8s([1, 2], &[7, 7]), scale(1.0), zero(0), scale(1.0 / 256.0), zero(0)];
        checked("QLinearSoftmax", &[("opset", 12.into())], &x, &u8s([1, 2], &[128, 128]));
    }

    #[test]
    fn pools_and_joins_are_requantised() {
        let x = [u8s([1, 2, 2, 1], &[1, 3, 5, 7]), scale(2.0), zero(0), scale(1.0), zero(0)];
        let last = [("channels_last", Attribute::Int(1))];
        checked("QLinearGlobalAveragePool", &last, &x, &u8s([1, 1, 1, 1], &[8]));
        let kernel = [("kernel_shape", Attribute::Ints(vec![1, 2])), last[0].clone()];
        checked("QLinearAveragePool", &kernel, &x, &u8s([1, 2, 1, 1], &[4, 12]));
        let parts =
            [scale(1.0), zero(0), u8s([1], &[3]), scale(2.0), zero(0), u8s([1], &[9]), scale(1.0), zero(1)];
        checked("QLinearConcat", &[("axis", 0.into())], &parts, &u8s([2], &[6, 8]));
    }

    #[test]
    fn products_are_scaled() {
        let (a, b) = (u8s([1, 2], &[3, 5]), u8s([2, 2], &[1, 2, 3, 4]));
        let bias = f32s([2], &[0.5, 0.0]);
        let inputs = [a.clone(), b.clone(), scale(0.5), f32s([2], &[1.0, 2.0])];
        let mut inputs: Vec<Option<Constant>> = inputs.into_iter().map(Some).collect();
        inputs.extend([Some(zero(1)), None, Some(bias)]);
        let (op, version) = name("MatMulIntegerToFloat");
        let y = run_all((op.as_str(), version), &[], &inputs, 1).unwrap();
        // (2·1 + 4·3)·0.5 + 0.5, (2·2 + 4·4)·1
        assert_eq!(*y[0].values::<f32>(), [7.5, 20.0]);
        let c = tensor(DataType::I32, [2], &[2i32, -2]);
        let gemm = [a, scale(0.5), zero(1), b, scale(2.0), zero(0), c];
        checked("QGemm", &[("alpha", 1.0.into())], &gemm, &f32s([1, 2], &[16.0, 18.0]));
        let x = f32s([1, 2], &[0.0, 255.0]);
        let dynamic = [x, u8s([2, 1], &[3, 2]), scale(0.5)];
        checked("DynamicQuantizeMatMul", &[], &dynamic, &f32s([1, 1], &[255.0]));
        let (op, version) = name("QLinearConcat");
        assert!(
            run((op.as_str(), version), &[], &[scale(1.0), zero(0), zero(1), scale(1.0), zero(0)]).is_err()
        );
    }
}
