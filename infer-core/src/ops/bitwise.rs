//! Operations on the bits of elements: BitShift, BitwiseAnd, BitwiseNot, BitwiseOr, BitwiseXor, BitCast.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: integers; BitCast all of one width. Computed on the host, but for BitCast, which moves nothing.
//! History: BitShift since opset 11, signed integers since 28 (to the right the sign moves in); the others since 18,
//! BitCast since 26.

use super::cast::element_type;
use super::elements::{broadcast_indices, checked_elements};
use super::number::{Rules, Scalar, of_scalars, scalars, tensor_of};
use crate::calls::{LowerNode, sized_kernel};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row, broadcast, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "BitCast", domain: "", since: 26, inputs: 1..=1, outputs: 1..=1, import: import_cast },
    Row { name: "BitShift", domain: "", since: 11, inputs: 2..=2, outputs: 1..=1, import },
    Row { name: "BitwiseAnd", domain: "", since: 18, inputs: 2..=2, outputs: 1..=1, import },
    Row { name: "BitwiseNot", domain: "", since: 18, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "BitwiseOr", domain: "", since: 18, inputs: 2..=2, outputs: 1..=1, import },
    Row { name: "BitwiseXor", domain: "", since: 18, inputs: 2..=2, outputs: 1..=1, import },
];

const INTEGERS: &[DataType] = &[
    DataType::U8,
    DataType::U16,
    DataType::U32,
    DataType::U64,
    DataType::I8,
    DataType::I16,
    DataType::I32,
    DataType::I64,
];

/// An operation on the bits of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bitwise {
    /// a and b
    And,
    /// not a
    Not,
    /// a or b
    Or,
    /// a · 2ᵇ, what is beyond the type's width lost
    ShiftLeft,
    /// ⌊a / 2ᵇ⌋
    ShiftRight,
    /// either a or b
    Xor,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(match node.op_type.as_str() {
        "BitwiseAnd" => Bitwise::And,
        "BitwiseNot" => Bitwise::Not,
        "BitwiseOr" => Bitwise::Or,
        "BitwiseXor" => Bitwise::Xor,
        _ => match node.attributes.string("direction")?.as_deref() {
            Some("LEFT") => Bitwise::ShiftLeft,
            Some("RIGHT") => Bitwise::ShiftRight,
            Some(other) => {
                return Err(Reason::new(format!("direction {other:?} is not known")).supported("LEFT, RIGHT"));
            }
            None => return Err(Reason::new("attribute `direction` is missing")),
        },
    }))
}

impl Bitwise {
    fn apply(self, a: i128, b: i128) -> i128 {
        // By more than any type's width everything has left it.
        let by = if (0..64).contains(&b) { b as u32 } else { 64 };
        match self {
            Bitwise::And => a & b,
            Bitwise::Not => !a,
            Bitwise::Or => a | b,
            Bitwise::ShiftLeft if by == 64 => 0,
            Bitwise::ShiftLeft => a << by,
            Bitwise::ShiftRight => a >> by,
            Bitwise::Xor => a ^ b,
        }
    }

    fn output(self, inputs: &[&TensorType]) -> Result<TensorType, Reason> {
        let Some(first) = inputs.first() else { return Err(Reason::new("input 0 is missing")) };
        for ty in inputs {
            expect_dtype(ty, INTEGERS)?;
            if ty.dtype != first.dtype {
                let (a, b) = (first.dtype, ty.dtype);
                return Err(Reason::new(format!("the inputs are {a} and {b}, not of one type")));
            }
        }
        let shapes: Vec<&[usize]> = inputs.iter().map(|ty| ty.shape.as_slice()).collect();
        Ok(TensorType::new(first.dtype, broadcast(&shapes)?))
    }
}

impl Operator for Bitwise {
    fn name(&self) -> &'static str {
        match self {
            Bitwise::And => "BitwiseAnd",
            Bitwise::Not => "BitwiseNot",
            Bitwise::Or => "BitwiseOr",
            Bitwise::Xor => "BitwiseXor",
            Bitwise::ShiftLeft | Bitwise::ShiftRight => "BitShift",
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let first = node.ty(0)?;
        if *self == Bitwise::Not {
            return Ok(vec![self.output(&[first])?]);
        }
        Ok(vec![self.output(&[first, node.ty(1)?])?])
    }

    fn is_host(&self, _: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let a = node.tensor(0)?;
        let b = if *self == Bitwise::Not { a } else { node.tensor(1)? };
        let ty = self.output(&[a.ty(), b.ty()])?;
        // As wide as the numbers that are computed with.
        for shape in [&a.ty().shape, &b.ty().shape, &ty.shape] {
            checked_elements(&TensorType::new(DataType::C128, shape.clone()))?;
        }
        let integers = |tensor: &Constant| -> Result<Vec<i128>, Reason> {
            let all = scalars(tensor)?.map(|number| match number {
                Scalar::Integer(x) => x,
                Scalar::Float(_) => 0,
            });
            Ok(all.collect())
        };
        let (left, right) = (integers(a)?, integers(b)?);
        let places =
            [broadcast_indices(&a.ty().shape, &ty.shape)?, broadcast_indices(&b.ty().shape, &ty.shape)?];
        let pairs =
            places[0].iter().zip(&places[1]).filter_map(|(&i, &j)| Some((left.get(i)?, right.get(j)?)));
        let values = pairs.map(|(&a, &b)| Scalar::Integer(self.apply(a, b)));
        Ok(Some(vec![of_scalars(ty.clone(), values, Rules::default())?.into()]))
    }
}

/// BitCast: the same bytes as elements of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitCast {
    /// The type.
    pub to: DataType,
}

fn import_cast(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let code = node.attributes.int("to")?.ok_or_else(|| Reason::new("attribute `to` is missing"))?;
    Ok(Box::new(BitCast { to: element_type(code)? }))
}

impl Operator for BitCast {
    fn name(&self) -> &'static str {
        "BitCast"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (input, to) = (node.ty(0)?, self.to);
        if input.dtype.packed_bits() != to.packed_bits() {
            let (from, bits, other) = (input.dtype, input.dtype.packed_bits(), to.packed_bits());
            return Err(Reason::new(format!("{from} has {bits} bits, {to} has {other}")));
        }
        Ok(vec![TensorType::new(to, input.shape.clone())])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        node.elementwise(sized_kernel("copy", output.ty.dtype), &[&input], &output, |_| ())
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        node.optional(0).is_none_or(|input| extends_sign(input.dtype) || extends_sign(self.to))
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let input = node.tensor(0)?;
        let from = input.ty().dtype;
        let bits = self.to.packed_bits();
        if !(extends_sign(from) || extends_sign(self.to)) || from.packed_bits() != bits || bits > 8 {
            return Ok(None);
        }
        let ty = TensorType::new(self.to, input.ty().shape.clone());
        let unused = 8 - bits as u32;
        let bytes: Vec<u8> = match extends_sign(self.to) {
            true => input.data().iter().map(|&byte| ((byte << unused) as i8 >> unused) as u8).collect(),
            false => input.data().iter().map(|&byte| byte << unused >> unused).collect(),
        };
        Ok(Some(vec![tensor_of(ty.dtype, &ty.shape, &bytes)?.into()]))
    }
}

/// Whether an element's bits above its own repeat the sign.
fn extends_sign(dtype: DataType) -> bool {
    matches!(dtype, DataType::I4 | DataType::I2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, import, infer, run, tensor};

    #[test]
    fn bits_combine() {
        let bytes = |values: &[u8; 2]| tensor(DataType::U8, [2], values);
        let (a, b) = (bytes(&[0b1100, 0xff]), tensor(DataType::U8, [1], &[0b1010u8]));
        check(("BitwiseAnd", 18), &[], &[&a, &b], &bytes(&[0b1000, 0b1010]));
        check(("BitwiseOr", 18), &[], &[&a, &b], &bytes(&[0b1110, 0xff]));
        check(("BitwiseXor", 18), &[], &[&a, &b], &bytes(&[0b0110, 0xf5]));
        check(("BitwiseNot", 18), &[], &[&a], &bytes(&[0xf3, 0]));
        let longs = |values: &[u64; 1]| tensor(DataType::U64, [1], values);
        check(("BitwiseNot", 18), &[], &[longs(&[1])], &longs(&[u64::MAX - 1]));
    }

    #[test]
    fn bits_shift_by_any_number() {
        let way = |direction: &str| [("direction", Attribute::String(direction.into()))];
        let words = |values: [i16; 3]| tensor(DataType::I16, [3], &values);
        let (a, b) = (words([-16, 3, -1]), words([2, 15, 20]));
        check(("BitShift", 28), &way("RIGHT"), &[&a, &b], &words([-4, 0, -1]));
        check(("BitShift", 28), &way("LEFT"), &[&a, &b], &words([-64, i16::MIN, 0]));
        check(("BitShift", 28), &way("LEFT"), &[&a, &words([-1, 0, 0])], &words([0, 3, -1]));
        let long = |value: u64| tensor(DataType::U64, [1], &[value]);
        check(("BitShift", 11), &way("RIGHT"), &[long(u64::MAX), long(63)], &long(1));
        assert!(import(("BitShift", 11), &way("UP"), 2, 1).is_err());
    }

    #[test]
    fn bits_stay_under_another_type() {
        let to = |dtype: DataType| [("to", Attribute::Int(dtype as i64))];
        let one = tensor(DataType::U32, [1], &[0x3f80_0000u32]);
        check(("BitCast", 26), &to(DataType::U32), &[f32s([1], &[1.0])], &one);
        let nibbles = tensor(DataType::I4, [2], &[-1i8, 7]);
        let unsigned = tensor(DataType::U4, [2], &[15u8, 7]);
        check(("BitCast", 26), &to(DataType::U4), &[&nibbles], &unsigned);
        check(("BitCast", 26), &to(DataType::I4), &[&unsigned], &nibbles);
        let reason = run(("BitCast", 26), &to(DataType::U8), &[f32s([1], &[1.0])]).unwrap_err();
        assert_eq!(reason.what, "f32 has 32 bits, u8 has 8");
    }

    #[test]
    fn floats_have_no_bits() {
        let ty = |dtype| TensorType::new(dtype, [2]);
        assert!(infer(("BitwiseAnd", 18), &[], &[ty(DataType::F32), ty(DataType::F32)]).is_err());
        assert!(infer(("BitwiseAnd", 18), &[], &[ty(DataType::U8), ty(DataType::I8)]).is_err());
    }
}
