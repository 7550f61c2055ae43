//! The trigonometric and hyperbolic functions without a kernel, computed on the host in f64.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: f16, bf16, f32, f64.
//! History: Acos, Asin, Atan and Tan since opset 7, the others 9; bf16 and more since 22.

use super::number::{of_f64s, to_f64s};
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

const FLOATS: &[DataType] = &[DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];

type Function = fn(f64) -> f64;

/// Each function's name and definition.
const FUNCTIONS: &[(&str, Function)] = &[
    ("Acos", libm::acos),
    ("Acosh", libm::acosh),
    ("Asin", libm::asin),
    ("Asinh", libm::asinh),
    ("Atan", libm::atan),
    ("Atanh", libm::atanh),
    ("Cosh", libm::cosh),
    ("Sinh", libm::sinh),
    ("Tan", libm::tan),
];

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    row("Acos", 7),
    row("Acosh", 9),
    row("Asin", 7),
    row("Asinh", 9),
    row("Atan", 7),
    row("Atanh", 9),
    row("Cosh", 9),
    row("Sinh", 9),
    row("Tan", 7),
];

const fn row(name: &'static str, since: i64) -> Row {
    Row { name, domain: "", since, inputs: 1..=1, outputs: 1..=1, import }
}

/// A trigonometric or hyperbolic function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigonometric {
    /// Which.
    pub name: &'static str,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let known = FUNCTIONS.iter().find(|(name, _)| *name == node.op_type);
    let missing = || Reason::new(format!("{} is no trigonometric function", node.op_type));
    let &(name, _) = known.ok_or_else(missing)?;
    Ok(Box::new(Trigonometric { name }))
}

impl Operator for Trigonometric {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        expect_dtype(node.ty(0)?, FLOATS)?;
        Ok(vec![node.ty(0)?.clone()])
    }

    fn is_host(&self, _: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let input = node.tensor(0)?;
        expect_dtype(input.ty(), FLOATS)?;
        let missing = || Reason::new(format!("{} is not known", self.name));
        let (_, function) = FUNCTIONS.iter().find(|(name, _)| *name == self.name).ok_or_else(missing)?;
        let values = to_f64s(input)?.into_iter().map(function);
        Ok(Some(vec![of_f64s(input.ty().clone(), values)?.into()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{check, f32s, infer, run, tensor};

    #[test]
    fn functions_compute_what_onnx_says() {
        let cases: &[(&str, f32, f32)] = &[
            ("Acos", 0.5, std::f32::consts::FRAC_PI_3),
            ("Acosh", 2.0, 1.316_958),
            ("Asin", 0.5, std::f32::consts::FRAC_PI_6),
            ("Asinh", 1.0, 0.881_373_6),
            ("Atan", 1.0, std::f32::consts::FRAC_PI_4),
            ("Atanh", 0.5, 0.549_306_15),
            ("Cosh", 1.0, 1.543_080_6),
            ("Sinh", 1.0, 1.175_201_2),
            ("Tan", 1.0, 1.557_407_7),
        ];
        assert_eq!(cases.len(), OPERATORS.len());
        for &(name, x, y) in cases {
            check((name, 22), &[], &[f32s([1], &[x])], &f32s([1], &[y]));
            let exact = run((name, 22), &[], &[tensor(DataType::F64, [1], &[f64::from(x)])]).unwrap();
            assert!((exact.values::<f64>()[0] - f64::from(y)).abs() < 1e-6, "{name}");
        }
        check(("Acos", 7), &[], &[f32s([1], &[2.0])], &f32s([1], &[f32::NAN]));
        assert!(infer(("Tan", 7), &[], &[TensorType::new(DataType::I32, [1])]).is_err());
    }
}
