//! Clip: min(max(x, min), max), NaN staying NaN.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Clip.html>
//! Types: every one with kernels for maximum and minimum; f16 and bf16 compute in f32.
//! History: bounds are attributes before opset 11, inputs since; integers since 12.

use infer_kernels::call::{Activation, ActivationKind};

use super::element_type::{cast, converted, expect_kernel, scalar, with_output};
use super::elementwise_layout;
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{Blocking, ImportNode, NodeTypes, Operator, Row};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] =
    &[Row { name: "Clip", domain: "", since: 1, inputs: 1..=3, outputs: 1..=1, import }];

/// Clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The bounds where they are attributes; `None` where inputs 1 and 2 have them.
    pub bounds: Option<[f32; 2]>,
}

impl Clip {
    /// The activation that a kernel can apply while it writes its output: for f32 and bounds known while compiling.
    pub fn activation(&self, node: &NodeTypes<'_>) -> Option<Activation> {
        (node.optional(0)?.dtype == DataType::F32).then(|| self.as_activation(node)).flatten()
    }

    /// The function as an activation, for elements that compute in f32. It passes NaN on from x alone, so that a
    /// bound that is NaN makes it none.
    fn as_activation(&self, node: &NodeTypes<'_>) -> Option<Activation> {
        let bound = |index, absent| match node.optional(index) {
            None => Some(absent),
            Some(_) => node.constant(index)?.to_scalar_f32(),
        };
        let [min, max] = match self.bounds {
            Some(bounds) => bounds,
            None => [bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?],
        };
        (!min.is_nan() && !max.is_nan()).then(|| Activation::new(ActivationKind::Clip, min, max))
    }
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    if node.opset >= 11 {
        return Ok(Box::new(Clip { bounds: None }));
    }
    if node.inputs.len() > 1 {
        return Err(Reason::new(format!("bounds are attributes in opset {}, not inputs", node.opset)));
    }
    let min = node.attributes.float("min")?.unwrap_or(f32::MIN);
    let max = node.attributes.float("max")?.unwrap_or(f32::MAX);
    Ok(Box::new(Clip { bounds: Some([min, max]) }))
}

impl Operator for Clip {
    fn name(&self) -> &'static str {
        "Clip"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_kernel("max", input)?;
        for (index, name) in [(1, "min"), (2, "max")] {
            match node.optional(index) {
                Some(ty) if ty.dtype != input.dtype || ty.elements() != 1 => {
                    return Err(Reason::new(format!(
                        "`{name}` is {ty}, not a scalar of type {}",
                        input.dtype
                    )));
                }
                _ => {}
            }
        }
        Ok(vec![input.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let dtype = expect_kernel("max", &input.ty)?;
        let x = converted(node, &input, dtype)?;
        let activation = node.with_types(|types| self.as_activation(types));
        if let Some(Activation { alpha, beta, .. }) = activation.filter(|_| dtype == DataType::F32) {
            return with_output(node, &output, dtype, |node, out| {
                node.elementwise("clip_f32", &[&x], out, |call| (call.alpha, call.beta) = (alpha, beta))
            });
        }
        let mut limits = Vec::new();
        for (index, family) in [(1, "max"), (2, "min")] {
            let limit = match (self.bounds, node.optional_input(index)) {
                (Some(bounds), _) => scalar(node, dtype, bounds[index - 1]),
                (None, Some(mut limit)) => {
                    limit.ty.shape.clear();
                    converted(node, &limit, dtype)?
                }
                (None, None) => continue,
            };
            limits.push((format!("{family}_{dtype}"), limit));
        }
        with_output(node, &output, dtype, |node, out| {
            if limits.is_empty() {
                return cast(node, &x, out);
            }
            let mut source = &x;
            for (kernel, limit) in limits {
                node.elementwise(kernel, &[source, &limit], out, |_| ())?;
                source = out;
            }
            Ok(())
        })
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        elementwise_layout::blocking(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{check, f32s, i64s, import, infer, run_all};
    use crate::ops::{Attribute, InputType};

    #[test]
    fn bounds_are_attributes_or_inputs() {
        let x = f32s([5], &[-3.0, 0.5, f32::NAN, 9.0, f32::INFINITY]);
        let expected = f32s([5], &[-1.0, 0.5, f32::NAN, 6.0, 6.0]);
        let attributes = [("min", Attribute::Float(-1.0)), ("max", Attribute::Float(6.0))];
        check(("Clip", 6), &attributes, &[&x], &expected);
        check(("Clip", 13), &[], &[x.clone(), f32s([], &[-1.0]), f32s([1], &[6.0])], &expected);
        let upper = run_all(("Clip", 13), &[], &[Some(x.clone()), None, Some(f32s([], &[6.0]))], 1).unwrap();
        assert_eq!(upper[0].values::<f32>()[0], -3.0);
        assert!(run_all(("Clip", 13), &[], &[Some(x.clone())], 1).unwrap()[0] == x);
        // A bound that is NaN makes everything NaN, as numpy has it.
        check(("Clip", 13), &[], &[x.clone(), f32s([], &[f32::NAN])], &f32s([5], &[f32::NAN; 5]));
        // Where the bounds cross, the upper one wins.
        check(
            ("Clip", 13),
            &[],
            &[x, f32s([], &[2.0]), f32s([], &[1.0])],
            &f32s([5], &[1.0, 1.0, f32::NAN, 1.0, 1.0]),
        );
    }

    #[test]
    fn integers_keep_their_width() {
        let x = i64s([3], &[-(1 << 60), 7, 1 << 60]);
        check(
            ("Clip", 12),
            &[],
            &[x, i64s([], &[0]), i64s([], &[(1 << 60) - 1])],
            &i64s([3], &[0, 7, (1 << 60) - 1]),
        );
    }

    #[test]
    fn known_bounds_make_an_activation() {
        let x = TensorType::new(DataType::F32, [1, 3, 2, 2]);
        let six = f32s([], &[6.0]);
        let inputs = [
            Some(InputType { ty: &x, constant: None }),
            None,
            Some(InputType { ty: six.ty(), constant: Some(&six) }),
        ];
        let clip = Clip { bounds: None };
        let node = NodeTypes { inputs: &inputs, outputs: &[true] };
        assert_eq!(
            clip.activation(&node),
            Some(Activation::new(ActivationKind::Clip, f32::NEG_INFINITY, 6.0))
        );
        assert_eq!(clip.blocking(&node), Blocking::Follows);
        let unknown = [inputs[0], Some(InputType { ty: six.ty(), constant: None })];
        assert_eq!(clip.activation(&NodeTypes { inputs: &unknown, outputs: &[true] }), None);
    }

    #[test]
    fn wrong_bounds_are_refused() {
        let x = TensorType::new(DataType::F32, [4]);
        let reason = infer(("Clip", 13), &[], &[x.clone(), x.clone()]).unwrap_err();
        assert_eq!(reason.what, "`min` is f32[4], not a scalar of type f32");
        assert!(infer(("Clip", 13), &[], &[x, TensorType::new(DataType::I64, [])]).is_err());
        assert!(import(("Clip", 10), &[], 2, 1).is_err());
    }
}
