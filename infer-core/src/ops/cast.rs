//! Cast and CastLike: the same values as elements of another type.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Cast.html>, <https://onnx.ai/onnx/operators/onnx__CastLike.html>
//! Types: between all supported ones; floats to integers by truncation, numbers to bool by comparison with zero.
//! History: CastLike since opset 15; `saturate` (19) and `round_mode` (24) concern 8-bit floats alone.

use super::element_type;
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, Operator, Row};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "Cast", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "CastLike", domain: "", since: 15, inputs: 2..=2, outputs: 1..=1, import },
];

/// A cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The type cast to; `None` for that of input 1.
    pub to: Option<DataType>,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    node.attributes.ignore("saturate");
    node.attributes.ignore("round_mode");
    if node.op_type == "CastLike" {
        return Ok(Box::new(Cast { to: None }));
    }
    let code = node.attributes.int("to")?.ok_or_else(|| Reason::new("attribute `to` is missing"))?;
    let to = i32::try_from(code).ok().and_then(DataType::from_onnx).ok_or_else(|| {
        Reason::new(format!("element type number {code} is not supported"))
            .supported(DataType::ALL.map(DataType::name).join(", "))
    })?;
    Ok(Box::new(Cast { to: Some(to) }))
}

impl Operator for Cast {
    fn name(&self) -> &'static str {
        if self.to.is_some() { "Cast" } else { "CastLike" }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let to = match self.to {
            Some(to) => to,
            None => node.ty(1)?.dtype,
        };
        Ok(vec![TensorType::new(to, node.ty(0)?.shape.clone())])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        element_type::cast(node, &input, &output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, i64s, import, tensor};

    #[test]
    fn values_keep_as_the_type_allows() {
        let to = |dtype: DataType| [("to", Attribute::Int(dtype as i64))];
        let x = f32s([3], &[-1.7, 0.0, 2.5]);
        check(("Cast", 13), &to(DataType::I64), &[&x], &i64s([3], &[-1, 0, 2]));
        check(("Cast", 19), &to(DataType::Bool), &[&x], &bools([3], &[true, false, true]));
        check(("Cast", 13), &to(DataType::F32), &[&x], &x);
        let halves = tensor(DataType::F16, [3], &[-1.7, 0.0, 2.5].map(half::f16::from_f32));
        check(("Cast", 13), &to(DataType::F16), &[&x], &halves);
        check(("CastLike", 19), &[], &[x, i64s([1], &[9])], &i64s([3], &[-1, 0, 2]));
    }

    #[test]
    fn unknown_types_are_refused() {
        let reason = import(("Cast", 19), &[("to", Attribute::Int(17))], 1, 1).unwrap_err();
        assert_eq!(reason.what, "element type number 17 is not supported");
        assert!(import(("Cast", 19), &[], 1, 1).is_err());
    }
}
