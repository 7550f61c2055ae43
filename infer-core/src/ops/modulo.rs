//! Mod: the remainder of a division.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Mod.html>
//! Types: floats by kernels, f16 and bf16 in f32, which loses nothing; integers by division and multiplication.
//! History: since opset 10; bf16 since 13.

use super::element_type::{converted, expect_kernel, with_output};
use crate::calls::{LowerNode, Tensor, sized_kernel};
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, Operator, Row, broadcast, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] =
    &[Row { name: "Mod", domain: "", since: 10, inputs: 2..=2, outputs: 1..=1, import }];

const SIGNED: &[DataType] = &[DataType::I8, DataType::I16, DataType::I32, DataType::I64];

const NUMBERS: &[DataType] = &[
    DataType::F32,
    DataType::F64,
    DataType::F16,
    DataType::Bf16,
    DataType::U8,
    DataType::U16,
    DataType::U32,
    DataType::U64,
    DataType::I8,
    DataType::I16,
    DataType::I32,
    DataType::I64,
];

/// The remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mod {
    /// Whether it has the sign of the dividend, as in C; else that of the divisor, as in Python.
    pub fmod: bool,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Mod { fmod: node.attributes.flag("fmod", false)? }))
}

fn output(a: &TensorType, b: &TensorType) -> Result<TensorType, Reason> {
    expect_dtype(a, NUMBERS)?;
    if a.dtype != b.dtype {
        return Err(Reason::new(format!("the inputs are {} and {}, not of one type", a.dtype, b.dtype)));
    }
    Ok(TensorType::new(a.dtype, broadcast(&[&a.shape, &b.shape])?))
}

impl Operator for Mod {
    fn name(&self) -> &'static str {
        "Mod"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![output(node.ty(0)?, node.ty(1)?)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (a, b, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let dtype = output.ty.dtype;
        if dtype.is_float() {
            let family = if self.fmod { "fmod" } else { "mod" };
            let dtype = expect_kernel(family, &output.ty)?;
            let (a, b) = (converted(node, &a, dtype)?, converted(node, &b, dtype)?);
            return with_output(node, &output, dtype, |node, out| {
                node.elementwise(format!("{family}_{dtype}"), &[&a, &b], out, |_| ())
            });
        }
        let adjusts = !self.fmod && SIGNED.contains(&dtype);
        let rest = if adjusts { node.scratch_tensor(output.ty.clone()) } else { output.clone() };
        node.elementwise(format!("div_{dtype}"), &[&a, &b], &rest, |_| ())?;
        node.elementwise(format!("mul_{dtype}"), &[&rest, &b], &rest, |_| ())?;
        node.elementwise(format!("sub_{dtype}"), &[&a, &rest], &rest, |_| ())?;
        if !adjusts {
            return Ok(());
        }
        // A rest on the other side of zero than the divisor is moved to its side.
        let zero = node.data(&vec![0u8; dtype.size_bytes()]);
        let zero = Tensor { ty: TensorType::new(dtype, []), span: zero, blocked: None };
        let mut truth = |shape: &[usize]| node.scratch_tensor(TensorType::new(DataType::Bool, shape));
        let (down, below, above) = (truth(&b.ty.shape), truth(&output.ty.shape), truth(&output.ty.shape));
        let less = format!("less_{dtype}");
        node.elementwise(&less, &[&b, &zero], &down, |_| ())?;
        node.elementwise(&less, &[&rest, &zero], &below, |_| ())?;
        node.elementwise(&less, &[&zero, &rest], &above, |_| ())?;
        node.elementwise("where_b1", &[&down, &above, &below], &below, |_| ())?;
        node.elementwise(format!("add_{dtype}"), &[&rest, &b], &output, |_| ())?;
        node.elementwise(sized_kernel("where", dtype), &[&below, &output, &rest], &output, |_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, infer, run, tensor};

    #[test]
    fn the_sign_is_the_divisors_or_the_dividends() {
        let c = [("fmod", Attribute::Int(1))];
        let (a, b) = (i64s([6], &[-4, 7, 5, 4, -7, 8]), i64s([6], &[2, -3, 8, -2, 3, 5]));
        check(("Mod", 13), &[], &[&a, &b], &i64s([6], &[0, -2, 5, 0, 2, 3]));
        check(("Mod", 13), &c, &[&a, &b], &i64s([6], &[0, 1, 5, 0, -1, 3]));
        let bytes = |value: i8| tensor(DataType::I8, [1], &[value]);
        check(("Mod", 13), &[], &[bytes(126), bytes(127)], &bytes(126));
        check(("Mod", 13), &[], &[bytes(-128), bytes(-1)], &bytes(0));
        let unsigned = |value: u8| tensor(DataType::U8, [1], &[value]);
        check(("Mod", 13), &[], &[unsigned(250), unsigned(7)], &unsigned(5));
        check(("Mod", 13), &[], &[i64s([2, 1], &[7, -7]), i64s([1], &[4])], &i64s([2, 1], &[3, 1]));
    }

    #[test]
    fn floats_are_exact() {
        let c = [("fmod", Attribute::Int(1))];
        let (a, b) = (f32s([3], &[-4.3, 1e20, f32::INFINITY]), f32s([3], &[2.1, 3.0, 2.0]));
        check(("Mod", 13), &c, &[&a, &b], &f32s([3], &[-0.1, 2.0, f32::NAN]));
        check(("Mod", 13), &[], &[f32s([1], &[-4.5]), f32s([1], &[2.0])], &f32s([1], &[1.5]));
        let doubles = |values: &[f64; 2]| tensor(DataType::F64, [2], values);
        check(("Mod", 13), &[], &[doubles(&[-4.5, 4.5]), doubles(&[2.0, -2.0])], &doubles(&[1.5, -1.5]));
        let halves = |values: [f32; 2]| tensor(DataType::F16, [2], &values.map(half::f16::from_f32));
        check(("Mod", 13), &c, &[halves([-4.5, 9.0]), halves([2.0, 4.0])], &halves([-0.5, 1.0]));
        let zero = run(("Mod", 13), &[], &[f32s([1], &[4.0]), f32s([1], &[-2.0])]).unwrap();
        assert!(zero.values::<f32>()[0].is_sign_negative());
    }

    #[test]
    fn wrong_inputs_are_refused() {
        assert!(run(("Mod", 13), &[], &[i64s([1], &[1]), i64s([1], &[0])]).is_err());
        let ty = |dtype| TensorType::new(dtype, [2]);
        assert!(infer(("Mod", 13), &[], &[ty(DataType::I64), ty(DataType::I32)]).is_err());
    }
}
