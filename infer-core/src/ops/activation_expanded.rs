//! Activations and tests of elements that are written as other operators: Celu, IsInf, Shrink, SwiGLU, ThresholdedRelu.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: floats; Shrink integers too, IsInf the 8-bit floats.
//! History: Shrink since opset 9; IsInf and ThresholdedRelu since 10; Celu since 12; SwiGLU since 28; IsInf takes f16,
//! bf16 and 8-bit floats since 20; Celu takes types other than f32 since 28.

use super::compose::{cast, scalar, wide, wide_input};
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::DataType;

const FLOATS: &[DataType] = &[DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "Celu", domain: "", since: 12, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "IsInf", domain: "", since: 10, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "Shrink", domain: "", since: 9, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "SwiGLU", domain: "", since: 28, inputs: 2..=2, outputs: 1..=1, import },
    Row { name: "ThresholdedRelu", domain: "", since: 10, inputs: 1..=1, outputs: 1..=1, import },
];

/// An elementwise function written as other operators.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expanded {
    /// max(0, x) + min(0, alpha·(e^(x/alpha) − 1))
    Celu {
        /// The scale.
        alpha: f32,
    },
    /// Whether x is infinite
    IsInf {
        /// Whether −∞ counts.
        negative: bool,
        /// Whether +∞ counts.
        positive: bool,
    },
    /// x + bias below −lambd, x − bias above lambd, else 0
    Shrink {
        /// What x shrinks by.
        bias: f32,
        /// The threshold.
        lambd: f32,
    },
    /// Swish(a) · b
    SwiGlu {
        /// The scale in Swish's sigmoid.
        alpha: f32,
    },
    /// x above alpha, else 0
    ThresholdedRelu {
        /// The threshold.
        alpha: f32,
    },
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    let mut float = |name, default| Ok::<_, Reason>(attributes.float(name)?.unwrap_or(default));
    Ok(Box::new(match node.op_type.as_str() {
        "Celu" => {
            let alpha = float("alpha", 1.0)?;
            if alpha == 0.0 {
                return Err(Reason::new("alpha is 0, by which Celu divides"));
            }
            Expanded::Celu { alpha }
        }
        "IsInf" => Expanded::IsInf {
            negative: node.attributes.flag("detect_negative", true)?,
            positive: node.attributes.flag("detect_positive", true)?,
        },
        "Shrink" => Expanded::Shrink { bias: float("bias", 0.0)?, lambd: float("lambd", 0.5)? },
        "SwiGLU" => Expanded::SwiGlu { alpha: float("alpha", 1.0)? },
        _ => Expanded::ThresholdedRelu { alpha: float("alpha", 1.0)? },
    }))
}

impl Operator for Expanded {
    fn name(&self) -> &'static str {
        match self {
            Expanded::Celu { .. } => "Celu",
            Expanded::IsInf { .. } => "IsInf",
            Expanded::Shrink { .. } => "Shrink",
            Expanded::SwiGlu { .. } => "SwiGLU",
            Expanded::ThresholdedRelu { .. } => "ThresholdedRelu",
        }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let input = nodes.types.ty(0)?.clone();
        let dtype = wide(input.dtype);
        match self {
            Expanded::Shrink { .. } if dtype != DataType::Bool => {}
            Expanded::IsInf { .. } if input.dtype.is_small_float() => {}
            _ => expect_dtype(&input, FLOATS)?,
        }
        let x = wide_input(nodes, 0)?;
        let result = match *self {
            Expanded::Celu { alpha } => celu(nodes, x, f64::from(alpha))?,
            Expanded::IsInf { negative, positive } => {
                let x = if negative && positive { nodes.node("Abs", &[x], &[])? } else { x };
                let limit = match (negative, positive) {
                    (_, true) => f64::INFINITY,
                    (true, false) => f64::NEG_INFINITY,
                    // Nothing is equal to it.
                    (false, false) => f64::NAN,
                };
                let limit = scalar(nodes, dtype, limit)?;
                return Ok(Some(vec![nodes.node("Equal", &[x, limit], &[])?]));
            }
            Expanded::Shrink { bias, lambd } => {
                let (above, below) =
                    (scalar(nodes, dtype, lambd.into())?, scalar(nodes, dtype, (-lambd).into())?);
                let (bias, zero) = (scalar(nodes, dtype, bias.into())?, scalar(nodes, dtype, 0.0)?);
                let lowered = nodes.node("Sub", &[x, bias], &[])?;
                let raised = nodes.node("Add", &[x, bias], &[])?;
                let is_above = nodes.node("Greater", &[x, above], &[])?;
                let inner = nodes.node("Where", &[is_above, lowered, zero], &[])?;
                let is_signed = matches!(dtype, DataType::I8 | DataType::I16 | DataType::I32 | DataType::I64)
                    || dtype.is_float();
                // No unsigned integer lies below −lambd, which wraps.
                if is_signed || lambd < 0.0 {
                    let is_below = nodes.node("Less", &[x, below], &[])?;
                    nodes.node("Where", &[is_below, raised, inner], &[])?
                } else {
                    inner
                }
            }
            Expanded::SwiGlu { alpha } => {
                let other = nodes.types.ty(1)?;
                if *other != input {
                    return Err(Reason::new(format!("the inputs are {input} and {other}, not of one type")));
                }
                let gate = nodes.node("Swish", &[x], &[("alpha", alpha.into())])?;
                let b = wide_input(nodes, 1)?;
                nodes.node("Mul", &[gate, b], &[])?
            }
            Expanded::ThresholdedRelu { alpha } => {
                let (alpha, zero) = (scalar(nodes, dtype, alpha.into())?, scalar(nodes, dtype, 0.0)?);
                let is_above = nodes.node("Greater", &[x, alpha], &[])?;
                nodes.node("Where", &[is_above, x, zero], &[])?
            }
        };
        Ok(Some(vec![cast(nodes, result, input.dtype)?]))
    }
}

fn celu(nodes: &mut Expansion<'_>, x: Wire, alpha: f64) -> Result<Wire, Reason> {
    let dtype = nodes.ty(x)?.dtype;
    let (scale, zero) = (scalar(nodes, dtype, alpha)?, scalar(nodes, dtype, 0.0)?);
    let ratio = nodes.node("Div", &[x, scale], &[])?;
    // eˣ − 1 of the ratios that count is what Elu gives of negative ones, without cancellation near zero.
    let grown = if alpha > 0.0 {
        nodes.node("Elu", &[ratio], &[])?
    } else {
        let one = scalar(nodes, dtype, 1.0)?;
        let power = nodes.node("Exp", &[ratio], &[])?;
        nodes.node("Sub", &[power, one], &[])?
    };
    let grown = nodes.node("Mul", &[grown, scale], &[])?;
    let negative = nodes.node("Min", &[grown, zero], &[])?;
    let positive = nodes.node("Relu", &[x], &[])?;
    nodes.node("Add", &[positive, negative], &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, i64s, import, run, tensor};

    fn float(name: &'static str, value: f32) -> (&'static str, Attribute) {
        (name, Attribute::Float(value))
    }

    #[test]
    fn functions_compute_what_onnx_says() {
        let x = f32s([4], &[-3.0, -1.0, 0.0, 3.0]);
        let celu = f32s([4], &[-1.553_739_7, -0.786_938_67, 0.0, 3.0]);
        check(("Celu", 12), &[float("alpha", 2.0)], &[&x], &celu);
        let shrink = [float("lambd", 1.5), float("bias", 1.0)];
        check(("Shrink", 9), &shrink, &[&x], &f32s([4], &[-2.0, 0.0, 0.0, 2.0]));
        let integers = i64s([3], &[-2, 1, 5]);
        check(("Shrink", 9), &shrink, &[integers], &i64s([3], &[-1, 0, 4]));
        let bytes = tensor(DataType::U8, [3], &[0u8, 1, 9]);
        check(("Shrink", 9), &shrink, &[bytes], &tensor(DataType::U8, [3], &[0u8, 0, 8]));
        let thresholded = f32s([4], &[0.0, 0.0, 0.0, 3.0]);
        check(("ThresholdedRelu", 10), &[float("alpha", 2.0)], &[&x], &thresholded);
        let glu = f32s([4], &[0.426_832_8, 0.268_941_43, 0.0, 8.573_167]);
        check(("SwiGLU", 28), &[], &[&x, &x], &glu);
    }

    #[test]
    fn infinities_are_told_by_sign() {
        let x = f32s([4], &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0]);
        let cases = [(1, 1, [true, true]), (0, 1, [true, false]), (1, 0, [false, true]), (0, 0, [false; 2])];
        for (negative, positive, [first, second]) in cases {
            let attributes = [
                ("detect_negative", Attribute::Int(negative)),
                ("detect_positive", Attribute::Int(positive)),
            ];
            check(("IsInf", 20), &attributes, &[&x], &bools([4], &[first, second, false, false]));
        }
        let eighths = tensor(DataType::F8E5M2, [2], &[0xfcu8, 0x3c]);
        check(("IsInf", 20), &[], &[eighths], &bools([2], &[true, false]));
    }

    #[test]
    fn wrong_inputs_are_refused() {
        assert!(import(("Celu", 12), &[float("alpha", 0.0)], 1, 1).is_err());
        assert!(run(("Celu", 12), &[], &[i64s([1], &[1])]).is_err());
        assert!(run(("SwiGLU", 28), &[], &[f32s([1], &[1.0]), f32s([2], &[1.0; 2])]).is_err());
    }
}
