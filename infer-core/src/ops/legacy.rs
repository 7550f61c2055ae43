//! What operators meant before opset 7, when every node said whether and where it broadcasts.
//!
//! Specification: the versions 1 and 6 of Add and its like, and 6 of PRelu, Gemm and BatchNormalization, in
//! <https://github.com/onnx/onnx/blob/main/docs/Changelog.md>. Before opset 6 only those operators are read whose meaning has
//! never changed.

use super::{Expansion, ImportNode, Operator, Wire};
use crate::diagnostic::Reason;

/// The first opset that broadcasts by the shapes alone.
const BY_SHAPES: i64 = 7;

/// The first opset all of whose operators are read.
const OLDEST: i64 = 6;

/// What has meant the same since opset 1, up to types and to attributes that change nothing.
const UNCHANGED: [&str; 26] = [
    "Abs",
    "And",
    "AveragePool",
    "Ceil",
    "Conv",
    "Elu",
    "Equal",
    "Exp",
    "Floor",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "Identity",
    "LRN",
    "LeakyRelu",
    "Log",
    "MatMul",
    "MaxPool",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Sqrt",
    "Tanh",
    "Transpose",
];

/// Reads what only old opsets have from a node, and gives the operator that stands for it where its inputs lie
/// otherwise than today's would. `name` is the operator's.
pub(super) fn import(name: &'static str, node: &mut ImportNode) -> Result<Option<Box<dyn Operator>>, Reason> {
    if node.opset >= BY_SHAPES {
        return Ok(None);
    }
    if node.opset < OLDEST && !UNCHANGED.contains(&name) {
        return Err(Reason::new(format!("{name} of opset {} is not supported", node.opset))
            .help("convert the model with onnx.version_converter, or export it again"));
    }
    match name {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "And" | "Or" | "Xor" | "Equal" | "Less" | "Greater" => {
            let broadcasts = node.attributes.flag("broadcast", false)?;
            let axis = node.attributes.int("axis")?.filter(|_| broadcasts);
            Ok(axis.map(|axis| Box::new(Aligned { name, axis }) as Box<dyn Operator>))
        }
        "PRelu" => Ok(Some(Box::new(Aligned { name, axis: 1 }))),
        "Gemm" => {
            // The addend broadcasts wherever its shape lets it.
            node.attributes.ignore("broadcast");
            Ok(None)
        }
        "BatchNormalization" | "Dropout" => {
            node.attributes.ignore("consumed_inputs");
            if node.attributes.flag("is_test", false)? {
                return Ok(None);
            }
            Err(Reason::new("is_test 0 is not supported").help("export the model in evaluation mode"))
        }
        _ => {
            node.attributes.ignore("consumed_inputs");
            Ok(None)
        }
    }
}

/// An operator of two inputs, whose second has the extents of the first from `axis` on.
#[derive(Debug)]
struct Aligned {
    name: &'static str,
    axis: i64,
}

impl Operator for Aligned {
    fn name(&self) -> &'static str {
        self.name
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (a, b) = (nodes.input(0)?, nodes.input(1)?);
        let (rank, mut shape) = (nodes.shape(a)?.len(), nodes.shape(b)?.to_vec());
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        // One slope for all channels is no list of slopes.
        let first =
            if shape.iter().product::<usize>() == 1 { rank.saturating_sub(shape.len()) as i64 } else { axis };
        let end = usize::try_from(first).ok().and_then(|first| first.checked_add(shape.len()));
        let Some(trailing) = end.and_then(|end| rank.checked_sub(end)) else {
            return Err(Reason::new(format!(
                "attribute `axis` is {}, which does not fit {} beside {}",
                self.axis,
                nodes.ty(b)?,
                nodes.ty(a)?
            )));
        };
        shape.resize(shape.len() + trailing, 1);
        let shape: Vec<i64> = shape.into_iter().map(|extent| extent as i64).collect();
        let shape = nodes.i64s(&shape);
        let b = nodes.node("Reshape", &[b, shape], &[])?;
        Ok(Some(vec![nodes.node(self.name, &[a, b], &[])?]))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, import, run};

    #[test]
    fn the_second_input_lies_where_the_attribute_says() {
        let (a, b) = (f32s([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), f32s([2], &[10.0, 20.0]));
        let at = |axis: i64| [("broadcast", Attribute::Int(1)), ("axis", Attribute::Int(axis))];
        let sum = f32s([2, 3], &[11.0, 12.0, 13.0, 24.0, 25.0, 26.0]);
        check(("Add", 6), &at(0), &[&a, &b], &sum);
        check(("Add", 6), &at(-2), &[&a, &b], &sum);
        assert!(run(("Add", 6), &at(1), &[&a, &b]).is_err());
        assert!(run(("Add", 6), &at(7), &[&a, &b]).is_err());
        let slopes = f32s([3], &[0.1, 0.2, 0.3]);
        let x = f32s([1, 3, 1, 2], &[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]);
        check(("PRelu", 6), &[], &[&x, &slopes], &f32s([1, 3, 1, 2], &[-0.1, 1.0, -0.2, 1.0, -0.3, 1.0]));
    }

    #[test]
    fn training_is_refused() {
        assert!(import(("BatchNormalization", 6), &[], 5, 1).is_err());
        assert!(import(("BatchNormalization", 6), &[("is_test", Attribute::Int(1))], 5, 1).is_ok());
    }
}
