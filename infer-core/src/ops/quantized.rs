//! Products of quantised tensors: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: u8 and i8; scales of f32, f16 or bf16; QLinearMatMul of 8-bit floats too.
//! History: since opset 10; QLinearMatMul's scales have other types than f32 since 21.
//!
//! All are written as products of f32, in which sums of integers are exact as long as they stay below 2²⁴. Integer
//! results are exact for any length: longer sums are taken of the numbers' halves, or in f64.

use super::compose::{cast, reshape, scalar};
use crate::diagnostic::Reason;
use crate::ops::{Attribute, Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::DataType;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "ConvInteger", domain: "", since: 10, inputs: 2..=4, outputs: 1..=1, import: import_conv },
    Row {
        name: "MatMulInteger",
        domain: "",
        since: 10,
        inputs: 2..=4,
        outputs: 1..=1,
        import: import_matmul,
    },
    Row { name: "QLinearConv", domain: "", since: 10, inputs: 8..=9, outputs: 1..=1, import: import_conv },
    Row {
        name: "QLinearMatMul",
        domain: "",
        since: 10,
        inputs: 8..=8,
        outputs: 1..=1,
        import: import_matmul,
    },
];

const BYTES: &[DataType] = &[DataType::U8, DataType::I8];

/// Sums of integers below this are exact in f32.
const EXACT: f64 = (1 << 24) as f64;

/// Conv or MatMul, as it is put in the place of a product of integers.
#[derive(Clone, Debug)]
pub(super) struct Product {
    op_type: &'static str,
    attributes: Vec<(&'static str, Attribute)>,
}

impl Product {
    /// MatMul.
    pub(super) fn matmul() -> Self {
        Product { op_type: "MatMul", attributes: Vec::new() }
    }

    fn of(&self, nodes: &mut Expansion<'_>, a: Wire, b: Wire, bias: Option<Wire>) -> Result<Wire, Reason> {
        let mut inputs = vec![a, b];
        inputs.extend(bias);
        nodes.node(self.op_type, &inputs, &self.attributes)
    }

    /// The length of the sums.
    fn length(&self, nodes: &Expansion<'_>, b: Wire) -> Result<usize, Reason> {
        let shape = nodes.shape(b)?;
        Ok(match (self.op_type, shape) {
            ("Conv", shape) => shape.iter().skip(1).product(),
            (_, [k]) => *k,
            (_, [.., k, _]) => *k,
            (_, []) => 0,
        })
    }

    /// The product of integers that are given as f32, exactly, as i32.
    pub(super) fn exact(&self, nodes: &mut Expansion<'_>, a: Wire, b: Wire) -> Result<Wire, Reason> {
        // The difference of two bytes; the upper of two halves is at most 16, the lower 15.
        const WHOLE: f64 = 255.0;
        const HALF: f64 = 16.0;
        let length = self.length(nodes, b)? as f64;
        let of_b = bound(nodes, b).unwrap_or(WHOLE);
        if WHOLE * of_b * length < EXACT {
            let product = self.of(nodes, a, b, None)?;
            return cast(nodes, product, DataType::I32);
        }
        if HALF * HALF * length >= EXACT {
            let (a, b) = (cast(nodes, a, DataType::F64)?, cast(nodes, b, DataType::F64)?);
            let product = self.of(nodes, a, b, None)?;
            // Through i64, from which i32 wraps.
            let product = cast(nodes, product, DataType::I64)?;
            return cast(nodes, product, DataType::I32);
        }
        let (upper, lower) = halves(nodes, a)?;
        let mut result = None;
        for part in [upper, lower] {
            let product = if HALF * of_b * length < EXACT {
                let product = self.of(nodes, part, b, None)?;
                cast(nodes, product, DataType::I32)?
            } else {
                let (b_upper, b_lower) = halves(nodes, b)?;
                let product = self.of(nodes, part, b_upper, None)?;
                let upper = cast(nodes, product, DataType::I32)?;
                let product = self.of(nodes, part, b_lower, None)?;
                let lower = cast(nodes, product, DataType::I32)?;
                joined(nodes, upper, lower)?
            };
            result = Some(match result {
                None => product,
                Some(upper) => joined(nodes, upper, product)?,
            });
        }
        result.ok_or_else(|| Reason::new("a product without parts"))
    }
}

/// The greatest magnitude of a value's elements, where they are known.
fn bound(nodes: &Expansion<'_>, wire: Wire) -> Option<f64> {
    let values = nodes.known(wire)?.to_f32s()?;
    Some(values.iter().fold(0f64, |greatest, &value| greatest.max(f64::from(value).abs())))
}

/// ⌊x / 16⌋ and the rest.
fn halves(nodes: &mut Expansion<'_>, x: Wire) -> Result<(Wire, Wire), Reason> {
    let sixteenth = scalar(nodes, DataType::F32, 1.0 / 16.0)?;
    let sixteen = scalar(nodes, DataType::F32, 16.0)?;
    let upper = nodes.node("Mul", &[x, sixteenth], &[])?;
    let upper = nodes.node("Floor", &[upper], &[])?;
    let whole = nodes.node("Mul", &[upper, sixteen], &[])?;
    let lower = nodes.node("Sub", &[x, whole], &[])?;
    Ok((upper, lower))
}

/// 16 · upper + lower
fn joined(nodes: &mut Expansion<'_>, upper: Wire, lower: Wire) -> Result<Wire, Reason> {
    let sixteen = scalar(nodes, DataType::I32, 16.0)?;
    let upper = nodes.node("Mul", &[upper, sixteen], &[])?;
    nodes.node("Add", &[upper, lower], &[])
}

/// A scale or zero point of one value for each of something, under a shape in which that comes first and `trailing`
/// axes follow; others as they are.
pub(super) fn with_trailing(nodes: &mut Expansion<'_>, param: Wire, trailing: usize) -> Result<Wire, Reason> {
    match *nodes.shape(param)? {
        [1] => reshape(nodes, param, &[]),
        [count] => {
            let mut shape = vec![1; trailing + 1];
            shape[0] = count;
            reshape(nodes, param, &shape)
        }
        _ => Ok(param),
    }
}

/// A tensor of bytes less its zero point, as f32.
pub(super) fn centered(
    nodes: &mut Expansion<'_>,
    x: Wire,
    zero: Option<Wire>,
    trailing: usize,
) -> Result<Wire, Reason> {
    let ty = nodes.ty(x)?.clone();
    expect_dtype(&ty, BYTES)?;
    let wide = cast(nodes, x, DataType::F32)?;
    let Some(zero) = zero else { return Ok(wide) };
    let point = nodes.ty(zero)?;
    if point.dtype != ty.dtype {
        return Err(Reason::new(format!("the zero point of {ty} is {point}")));
    }
    if nodes.known(zero).is_some_and(|zero| zero.data().iter().all(|&byte| byte == 0)) {
        return Ok(wide);
    }
    let zero = cast(nodes, zero, DataType::F32)?;
    let zero = with_trailing(nodes, zero, trailing)?;
    let result = nodes.node("Sub", &[wide, zero], &[])?;
    if nodes.shape(result)? != ty.shape {
        return Err(Reason::new(format!("a zero point does not broadcast to {ty}")));
    }
    Ok(result)
}

/// round(`sum` · `scale`) + `zero`, in the type of `zero`.
fn requantized(nodes: &mut Expansion<'_>, sum: Wire, scale: Wire, zero: Wire) -> Result<Wire, Reason> {
    let ty = nodes.ty(zero)?.clone();
    expect_dtype(&ty, BYTES)?;
    if ty.elements() != 1 {
        return Err(Reason::new(format!("the output's zero point is {ty}, not a scalar")));
    }
    let shape = nodes.shape(sum)?.to_vec();
    let product = nodes.node("Mul", &[sum, scale], &[])?;
    if nodes.shape(product)? != shape {
        return Err(Reason::new(format!("the scales do not broadcast to {shape:?}")));
    }
    let rounded = nodes.node("Round", &[product], &[])?;
    let is_zero = nodes.known(zero).is_some_and(|zero| zero.data().iter().all(|&byte| byte == 0));
    let shifted = if is_zero {
        rounded
    } else {
        let zero = cast(nodes, zero, DataType::F32)?;
        let zero = reshape(nodes, zero, &[])?;
        nodes.node("Add", &[rounded, zero], &[])?
    };
    // The kernel that casts to bytes keeps them in their range.
    cast(nodes, shifted, ty.dtype)
}

/// `a_scale` · `b_scale` / `y_scale`, as f32.
fn factor(nodes: &mut Expansion<'_>, a_scale: Wire, b_scale: Wire, y_scale: Wire) -> Result<Wire, Reason> {
    let product = nodes.node("Mul", &[a_scale, b_scale], &[])?;
    let y_scale = if nodes.ty(y_scale)?.elements() == 1 { reshape(nodes, y_scale, &[])? } else { y_scale };
    let factor = nodes.node("Div", &[product, y_scale], &[])?;
    cast(nodes, factor, DataType::F32)
}

/// MatMulInteger or QLinearMatMul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizedMatMul {
    /// Whether the result is scaled and quantised again.
    pub linear: bool,
}

fn import_matmul(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(QuantizedMatMul { linear: node.op_type == "QLinearMatMul" }))
}

impl Operator for QuantizedMatMul {
    fn name(&self) -> &'static str {
        if self.linear { "QLinearMatMul" } else { "MatMulInteger" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let a = nodes.input(0)?;
        if !self.linear {
            let b = nodes.input(1)?;
            let (a_zero, b_zero) = (nodes.optional_input(2), nodes.optional_input(3));
            // One zero point for each row of the left matrix, for each column of the right one.
            let a = centered(nodes, a, a_zero, 1)?;
            let b = centered(nodes, b, b_zero, 0)?;
            return Ok(Some(vec![Product::matmul().exact(nodes, a, b)?]));
        }
        let (b, y_scale, y_zero) = (nodes.input(3)?, nodes.input(6)?, nodes.input(7)?);
        let (a_scale, a_zero, b_scale, b_zero) =
            (nodes.input(1)?, nodes.input(2)?, nodes.input(4)?, nodes.input(5)?);
        if nodes.ty(a)?.dtype.is_small_float() {
            let a = nodes.node("DequantizeLinear", &[a, a_scale, a_zero], &[("axis", (-2).into())])?;
            let b = nodes.node("DequantizeLinear", &[b, b_scale, b_zero], &[("axis", (-1).into())])?;
            let product = nodes.node("MatMul", &[a, b], &[])?;
            return Ok(Some(vec![nodes.node("QuantizeLinear", &[product, y_scale, y_zero], &[])?]));
        }
        let a = centered(nodes, a, Some(a_zero), 1)?;
        let b = centered(nodes, b, Some(b_zero), 0)?;
        let sum = nodes.node("MatMul", &[a, b], &[])?;
        let a_scale = with_trailing(nodes, a_scale, 1)?;
        let b_scale = with_trailing(nodes, b_scale, 0)?;
        let factor = factor(nodes, a_scale, b_scale, y_scale)?;
        Ok(Some(vec![requantized(nodes, sum, factor, y_zero)?]))
    }
}

/// ConvInteger or QLinearConv.
#[derive(Clone, Debug)]
pub struct QuantizedConv {
    /// Whether the result is scaled and quantised again.
    pub linear: bool,
    product: Product,
}

fn import_conv(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mut attributes = Vec::new();
    for name in ["kernel_shape", "strides", "dilations", "pads"] {
        if let Some(values) = node.attributes.ints(name)? {
            attributes.push((name, Attribute::Ints(values)));
        }
    }
    if let Some(group) = node.attributes.int("group")? {
        attributes.push(("group", Attribute::Int(group)));
    }
    if let Some(padding) = node.attributes.string("auto_pad")? {
        attributes.push(("auto_pad", Attribute::String(padding)));
    }
    let product = Product { op_type: "Conv", attributes };
    Ok(Box::new(QuantizedConv { linear: node.op_type == "QLinearConv", product }))
}

impl Operator for QuantizedConv {
    fn name(&self) -> &'static str {
        if self.linear { "QLinearConv" } else { "ConvInteger" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let x = nodes.input(0)?;
        let spatial = nodes.shape(x)?.len().saturating_sub(2);
        if !self.linear {
            let w = nodes.input(1)?;
            let (x_zero, w_zero) = (nodes.optional_input(2), nodes.optional_input(3));
            let x = centered(nodes, x, x_zero, 0)?;
            let w = centered(nodes, w, w_zero, spatial + 1)?;
            return Ok(Some(vec![self.product.exact(nodes, x, w)?]));
        }
        let (w, y_scale, y_zero) = (nodes.input(3)?, nodes.input(6)?, nodes.input(7)?);
        let (x_scale, x_zero, w_scale, w_zero) =
            (nodes.input(1)?, nodes.input(2)?, nodes.input(4)?, nodes.input(5)?);
        let x = centered(nodes, x, Some(x_zero), 0)?;
        let w = centered(nodes, w, Some(w_zero), spatial + 1)?;
        let bias = nodes.optional_input(8);
        if let Some(bias) = bias {
            expect_dtype(nodes.ty(bias)?, &[DataType::I32])?;
        }
        let bias = bias.map(|bias| cast(nodes, bias, DataType::F32)).transpose()?;
        let sum = self.product.of(nodes, x, w, bias)?;
        let x_scale = reshape(nodes, x_scale, &[])?;
        let w_scale = with_trailing(nodes, w_scale, spatial)?;
        let factor = factor(nodes, x_scale, w_scale, y_scale)?;
        Ok(Some(vec![requantized(nodes, sum, factor, y_zero)?]))
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

    fn i32s<const R: usize>(shape: [usize; R], values: &[i32]) -> Constant {
        tensor(DataType::I32, shape, values)
    }

    #[test]
    fn integer_products_are_exact_for_any_length() {
        let (a, b) = (u8s([2, 2], &[1, 2, 3, 4]), tensor(DataType::I8, [2, 1], &[-1i8, 5]));
        check(("MatMulInteger", 10), &[], &[&a, &b], &i32s([2, 1], &[9, 17]));
        let points = [a, b, u8s([2], &[1, 2]), tensor(DataType::I8, [1], &[1i8])];
        check(("MatMulInteger", 10), &[], &points, &i32s([2, 1], &[4, 6]));
        // Short enough for f32, for halves of one side, of both sides, and too long for either.
        for length in [200, 1000, 20_000, 70_000] {
            let values: Vec<u8> = (0..length).map(|i: usize| (255 - i % 3) as u8).collect();
            let sum: i64 = values.iter().map(|&v| i64::from(v) * i64::from(v)).sum();
            let (row, column) = (u8s([1, length], &values), u8s([length, 1], &values));
            check(("MatMulInteger", 10), &[], &[row, column], &i32s([1, 1], &[sum as i32]));
        }
    }

    #[test]
    fn integer_convolutions_pad_with_the_zero_point() {
        let x = u8s([1, 1, 3, 3], &[2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let w = u8s([1, 1, 2, 2], &[1; 4]);
        let y = i32s([1, 1, 2, 2], &[12, 16, 24, 28]);
        check(("ConvInteger", 10), &[], &[&x, &w, &u8s([], &[1])], &y);
        let pads = [("pads", Attribute::Ints(vec![1, 1, 1, 1]))];
        let y = run(("ConvInteger", 10), &pads, &[&x, &w, &u8s([], &[1])]).unwrap();
        assert_eq!(y.values::<i32>()[..5], [1, 3, 5, 3, 5]);
    }

    #[test]
    fn scaled_products_are_quantised_again() {
        let (a, b) = (u8s([1, 2], &[138, 148]), u8s([2, 1], &[4, 6]));
        let inputs = [
            a,
            f32s([1], &[0.5]),
            u8s([1], &[128]),
            b,
            f32s([1], &[0.1]),
            u8s([1], &[2]),
            f32s([1], &[1.0]),
            u8s([1], &[100]),
        ];
        // (10·2 + 20·4)·0.05 = 5
        check(("QLinearMatMul", 10), &[], &inputs, &u8s([1, 1], &[105]));

        let inputs = [
            u8s([1, 1, 1, 2], &[3, 5]),
            f32s([], &[0.5]),
            u8s([], &[1]),
            tensor(DataType::I8, [2, 1, 1, 1], &[2i8, -3]),
            f32s([2], &[1.0, 2.0]),
            tensor(DataType::I8, [2], &[0i8, 0]),
            f32s([], &[1.0]),
            u8s([], &[20]),
            i32s([2], &[2, 4]),
        ];
        // (2·2 + 2)·0.5, (4·2 + 2)·0.5; (−6 + 4)·1, (−12 + 4)·1
        check(("QLinearConv", 10), &[], &inputs, &u8s([1, 2, 1, 2], &[23, 25, 18, 12]));
    }

    #[test]
    fn wrong_types_are_refused() {
        let floats = f32s([1, 1], &[1.0]);
        assert!(run(("MatMulInteger", 10), &[], &[&floats, &floats]).is_err());
        let mixed = [Some(u8s([1, 1], &[1])), Some(u8s([1, 1], &[1])), Some(f32s([], &[1.0]))];
        assert!(run_all(("MatMulInteger", 10), &[], &mixed, 1).is_err());
    }
}
