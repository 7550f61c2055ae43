//! The operators on optionals: values that may be missing.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Optional.html>,
//! <https://onnx.ai/onnx/operators/onnx__OptionalHasElement.html>,
//! <https://onnx.ai/onnx/operators/onnx__OptionalGetElement.html>
//! Types: tensors and sequences of every element type.
//! History: since opset 15; since 18 the latter two take tensors and sequences as well, and OptionalHasElement no input.

use super::{Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, Wire};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "Optional", domain: "", since: 15, inputs: 0..=1, outputs: 1..=1, import },
    Row { name: "OptionalHasElement", domain: "", since: 15, inputs: 0..=1, outputs: 1..=1, import },
    Row { name: "OptionalGetElement", domain: "", since: 15, inputs: 1..=1, outputs: 1..=1, import },
];

/// An operator on optionals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional {
    /// Optional.
    Make,
    /// OptionalHasElement.
    Has,
    /// OptionalGetElement.
    Get,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(match node.op_type.as_str() {
        "Optional" => {
            let ty = node.attributes.value_type("type")?;
            if ty.is_none() && !node.inputs.contains(&true) {
                return Err(Reason::new("it has neither an input nor attribute `type`"));
            }
            Optional::Make
        }
        "OptionalHasElement" => Optional::Has,
        _ => Optional::Get,
    }))
}

impl Operator for Optional {
    fn name(&self) -> &'static str {
        match self {
            Optional::Make => "Optional",
            Optional::Has => "OptionalHasElement",
            Optional::Get => "OptionalGetElement",
        }
    }

    /// A tensor is its own element.
    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        match self {
            Optional::Get => {
                let input = nodes.input(0)?;
                Ok(Some(vec![nodes.node("Identity", &[input], &[])?]))
            }
            _ => Ok(None),
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        match self {
            Optional::Make => Err(Reason::at_run_time("the types of its outputs")),
            Optional::Has => Ok(vec![TensorType::new(DataType::Bool, [])]),
            Optional::Get => Ok(vec![node.ty(0)?.clone()]),
        }
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn is_foldable(&self) -> bool {
        false
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let output = match self {
            Optional::Make => match node.optional(0) {
                None => Value::Optional(None),
                // No deeper, so that no loop makes what is too deep to walk.
                Some(value @ (Value::Optional(_) | Value::Map { .. })) => {
                    return Err(Reason::new(format!(
                        "input 0 is {}, not a tensor or a sequence",
                        value.describe()
                    )));
                }
                Some(value) => Value::Optional(Some(Box::new(value.clone()))),
            },
            Optional::Has => {
                let has = !matches!(node.optional(0), None | Some(Value::Optional(None)));
                Constant::of(TensorType::new(DataType::Bool, []), &[u8::from(has)]).into()
            }
            Optional::Get => match node.value(0)? {
                Value::Optional(None) => return Err(Reason::new("the optional is empty")),
                Value::Optional(Some(value)) => (**value).clone(),
                value => value.clone(),
            },
        };
        Ok(Some(vec![output]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, i64s, import, run_values};
    use crate::value::{ElementType, ValueType};

    fn run(name: &str, input: Option<Value>) -> Result<Value, Reason> {
        Ok(run_values((name, 18), &[], &[input], 1)?.swap_remove(0))
    }

    #[test]
    fn optionals_hold_and_give_back() {
        let tensor: Value = i64s([2], &[1, 2]).into();
        for element in [tensor.clone(), Value::Sequence(vec![tensor.clone()])] {
            let full = run("Optional", Some(element.clone())).unwrap();
            assert_eq!(full, Value::Optional(Some(Box::new(element.clone()))));
            assert!(run("Optional", Some(full.clone())).is_err());
            assert_eq!(run("OptionalGetElement", Some(full.clone())).unwrap(), element);
            assert_eq!(run("OptionalGetElement", Some(element.clone())).unwrap(), element);
            for has in [full, element] {
                assert_eq!(run("OptionalHasElement", Some(has)).unwrap(), bools([], &[true]).into());
            }
        }
        assert_eq!(run("OptionalHasElement", None).unwrap(), bools([], &[false]).into());
        let empty = Value::Optional(None);
        assert_eq!(run("OptionalHasElement", Some(empty.clone())).unwrap(), bools([], &[false]).into());
        assert!(run("OptionalGetElement", Some(empty.clone())).is_err());
        assert!(import(("Optional", 15), &[], 0, 1).is_err());
        let ty = ValueType::Tensor { element: ElementType::String, shape: None };
        let made = run_values(("Optional", 15), &[("type", Attribute::Type(ty))], &[], 1).unwrap();
        assert_eq!(made, [empty]);
    }
}
