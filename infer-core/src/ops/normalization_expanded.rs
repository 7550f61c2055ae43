//! Normalisations written as other operators: RMSNormalization, SimplifiedLayerNormalization (the same under an older
//! name), LpNormalization, MeanVarianceNormalization.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator; SimplifiedLayerNormalization is ONNX
//! Runtime's, in ai.onnx's own domain, and takes what RMSNormalization takes.
//! Types: f32 and f64; f16 and bf16 compute in f32.
//! History: MeanVarianceNormalization since opset 9, RMSNormalization since 23; types were added in between.

use infer_kernels::call::LayerNorm;

use super::attention::{FLOATS, compute_type};
use super::attention_core::{cast, expect_broadcast, expect_moderate, scalar};
use super::element_type::{converted, with_output};
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{
    Expansion, ImportNode, NodeTypes, Operator, Row, Wire, expect_dtype, resolve_axes, resolve_axis,
};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "LpNormalization", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_lp },
    Row {
        name: "MeanVarianceNormalization",
        domain: "",
        since: 9,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_mean_variance,
    },
    Row {
        name: "RMSNormalization",
        domain: "",
        since: 23,
        inputs: 2..=2,
        outputs: 1..=1,
        import: import_rms,
    },
    Row {
        name: "SimplifiedLayerNormalization",
        domain: "",
        since: 1,
        inputs: 2..=2,
        outputs: 1..=2,
        import: import_rms,
    },
    Row {
        name: "SimplifiedLayerNormalization",
        domain: "com.microsoft",
        since: 1,
        inputs: 2..=2,
        outputs: 1..=2,
        import: import_rms,
    },
];

/// RMSNormalization: everything from `axis` on divided by the root of its mean square, times scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormalization {
    /// Whether it is called SimplifiedLayerNormalization.
    pub simplified: bool,
    /// The first normalised axis.
    pub axis: i64,
    /// Added to the mean square.
    pub epsilon: f32,
}

fn import_rms(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    // The type to compute in: f32 or wider is used for every type.
    match node.attributes.int("stash_type")? {
        None | Some(1 | 10 | 11 | 16) => {}
        Some(other) => return Err(Reason::new(format!("stash_type {other} is not supported"))),
    }
    Ok(Box::new(RmsNormalization {
        simplified: node.op_type != "RMSNormalization",
        axis: node.attributes.int("axis")?.unwrap_or(-1),
        epsilon: node.attributes.float("epsilon")?.unwrap_or(1e-5),
    }))
}

/// `x` divided by the root of its mean square over `axes` and everything after, and the inverse of that root.
pub(super) fn rms_normalized(
    nodes: &mut Expansion<'_>,
    x: Wire,
    axis: usize,
    epsilon: f32,
) -> Result<(Wire, Wire), Reason> {
    let ty = nodes.ty(x)?.clone();
    let axes: Vec<i64> = (axis as i64..ty.rank() as i64).collect();
    let count: usize = ty.shape.iter().skip(axis).product();
    let axes = nodes.i64s(&axes);
    let squares = nodes.node("ReduceSumSquare", &[x, axes], &[])?;
    let share = scalar(nodes, ty.dtype, 1.0 / count.max(1) as f64)?;
    let mean = nodes.node("Mul", &[squares, share], &[])?;
    let epsilon = scalar(nodes, ty.dtype, epsilon.into())?;
    let mean = nodes.node("Add", &[mean, epsilon], &[])?;
    let root = nodes.node("Sqrt", &[mean], &[])?;
    let inverse = nodes.node("Reciprocal", &[root], &[])?;
    Ok((nodes.node("Mul", &[x, inverse], &[])?, inverse))
}

impl Operator for RmsNormalization {
    fn name(&self) -> &'static str {
        if self.simplified { "SimplifiedLayerNormalization" } else { "RMSNormalization" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (x, scale) = (nodes.input(0)?, nodes.input(1)?);
        let (ty, scale_ty) = (nodes.ty(x)?.clone(), nodes.ty(scale)?.clone());
        expect_dtype(&ty, FLOATS)?;
        expect_dtype(&scale_ty, FLOATS)?;
        expect_broadcast("scale", &scale_ty, &ty.shape)?;
        expect_moderate(&ty)?;
        let axis = resolve_axis(self.axis, ty.rank())?;
        if self.has_kernel(&ty, &scale_ty, axis) && !nodes.types.wants(1) {
            return Ok(None);
        }
        let dtype = compute_type(&[ty.dtype]);
        let x = cast(nodes, x, dtype)?;
        let (normal, inverse) = rms_normalized(nodes, x, axis, self.epsilon)?;
        let scale = cast(nodes, scale, dtype)?;
        let output = nodes.node("Mul", &[normal, scale], &[])?;
        // The output has the type of the scale, where that is another one.
        let output = cast(nodes, output, scale_ty.dtype)?;
        Ok(Some(vec![output, inverse]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![TensorType::new(node.ty(1)?.dtype, node.ty(0)?.shape.clone())])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (x, scale, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let axis = resolve_axis(self.axis, x.ty.rank())?;
        let params = LayerNorm {
            outer: x.ty.shape.iter().take(axis).product::<usize>() as u64,
            inner: x.ty.shape.iter().skip(axis).product::<usize>() as u64,
            epsilon: self.epsilon,
            keep_mean: 1,
        };
        let x = converted(node, &x, DataType::F32)?;
        let scale = converted(node, &scale, DataType::F32)?;
        with_output(node, &output, DataType::F32, |node, out| {
            let operands = [Some(x.span), Some(scale.span), None, Some(out.span)];
            node.call("layer_norm_f32", &params, &operands);
            Ok(())
        })
    }
}

impl RmsNormalization {
    /// Whether the kernel takes these: a scale with one value for each normalised element.
    fn has_kernel(&self, ty: &TensorType, scale: &TensorType, axis: usize) -> bool {
        let stripped =
            |shape: &[usize]| shape.iter().copied().skip_while(|&extent| extent == 1).collect::<Vec<_>>();
        let normalized = ty.shape.get(axis..).unwrap_or_default();
        compute_type(&[ty.dtype, scale.dtype]) == DataType::F32
            && stripped(&scale.shape) == stripped(normalized)
    }
}

/// LpNormalization: x divided by its norm along an axis, 0 where that is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LpNormalization {
    /// The axis.
    pub axis: i64,
    /// The order of the norm, 1 or 2.
    pub p: i64,
}

fn import_lp(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let p = node.attributes.int("p")?.unwrap_or(2);
    if !matches!(p, 1 | 2) {
        return Err(Reason::new(format!("p is {p}, not 1 or 2")));
    }
    Ok(Box::new(LpNormalization { axis: node.attributes.int("axis")?.unwrap_or(-1), p }))
}

impl Operator for LpNormalization {
    fn name(&self) -> &'static str {
        "LpNormalization"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let x = nodes.input(0)?;
        let ty = nodes.ty(x)?.clone();
        expect_dtype(&ty, FLOATS)?;
        let dtype = compute_type(&[ty.dtype]);
        let axes = nodes.i64s(&[resolve_axis(self.axis, ty.rank())? as i64]);
        let x = cast(nodes, x, dtype)?;
        let norm = nodes.node(if self.p == 1 { "ReduceL1" } else { "ReduceL2" }, &[x, axes], &[])?;
        let zero = scalar(nodes, dtype, 0.0)?;
        let one = scalar(nodes, dtype, 1.0)?;
        // Where the norm is zero, so is x.
        let is_zero = nodes.node("Equal", &[norm, zero], &[])?;
        let norm = nodes.node("Where", &[is_zero, one, norm], &[])?;
        let output = nodes.node("Div", &[x, norm], &[])?;
        Ok(Some(vec![cast(nodes, output, ty.dtype)?]))
    }
}

/// MeanVarianceNormalization: (x − mean) / (standard deviation + 10⁻⁹) over `axes`.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanVarianceNormalization {
    /// The axes.
    pub axes: Vec<i64>,
}

fn import_mean_variance(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let axes = node.attributes.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    Ok(Box::new(MeanVarianceNormalization { axes }))
}

impl Operator for MeanVarianceNormalization {
    fn name(&self) -> &'static str {
        "MeanVarianceNormalization"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let x = nodes.input(0)?;
        let ty = nodes.ty(x)?.clone();
        expect_dtype(&ty, FLOATS)?;
        resolve_axes(&self.axes, ty.rank())?;
        let dtype = compute_type(&[ty.dtype]);
        let x = cast(nodes, x, dtype)?;
        let axes = nodes.i64s(&self.axes);
        let mean = nodes.node("ReduceMean", &[x, axes], &[])?;
        let centred = nodes.node("Sub", &[x, mean], &[])?;
        let squares = nodes.node("Mul", &[centred, centred], &[])?;
        let variance = nodes.node("ReduceMean", &[squares, axes], &[])?;
        let deviation = nodes.node("Sqrt", &[variance], &[])?;
        let epsilon = scalar(nodes, dtype, 1e-9)?;
        let deviation = nodes.node("Add", &[deviation, epsilon], &[])?;
        let output = nodes.node("Div", &[centred, deviation], &[])?;
        Ok(Some(vec![cast(nodes, output, ty.dtype)?]))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, import, run, run_all};

    #[test]
    fn the_root_mean_square_becomes_one() {
        let x = f32s([1, 2], &[1.0, 7.0]);
        let epsilon = [("epsilon", Attribute::Float(0.0))];
        check(
            ("RMSNormalization", 23),
            &epsilon,
            &[&x, &f32s([2], &[1.0, 10.0])],
            &f32s([1, 2], &[0.2, 14.0]),
        );
        check(("RMSNormalization", 23), &epsilon, &[&x, &f32s([1], &[5.0])], &f32s([1, 2], &[1.0, 7.0]));
        let inputs = [Some(x), Some(f32s([2], &[1.0; 2]))];
        let outputs = run_all(("SimplifiedLayerNormalization", 7), &epsilon, &inputs, 2).unwrap();
        assert!((outputs[1].values::<f32>()[0] - 0.2).abs() < 1e-6);
    }

    #[test]
    fn norms_and_variances_become_one() {
        let x = f32s([2, 2], &[3.0, 0.0, -4.0, 0.0]);
        let attributes = |p: i64| [("axis", Attribute::Int(0)), ("p", Attribute::Int(p))];
        check(("LpNormalization", 22), &attributes(2), &[&x], &f32s([2, 2], &[0.6, 0.0, -0.8, 0.0]));
        check(
            ("LpNormalization", 6),
            &attributes(1),
            &[&x],
            &f32s([2, 2], &[3.0 / 7.0, 0.0, -4.0 / 7.0, 0.0]),
        );
        let picture = f32s([1, 1, 1, 2], &[1.0, 5.0]);
        check(("MeanVarianceNormalization", 9), &[], &[&picture], &f32s([1, 1, 1, 2], &[-1.0, 1.0]));
    }

    #[test]
    fn bad_attributes_and_shapes_are_refused() {
        assert!(import(("LpNormalization", 6), &[("p", Attribute::Int(3))], 1, 1).is_err());
        let x = f32s([2], &[1.0; 2]);
        assert!(run(("MeanVarianceNormalization", 13), &[], &[&x]).is_err());
        assert!(run(("RMSNormalization", 23), &[], &[x, f32s([3], &[1.0; 3])]).is_err());
    }
}
