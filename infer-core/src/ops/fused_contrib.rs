//! Operators of com.microsoft that stand for several of ai.onnx: FusedConv, FusedGemm, FusedMatMul and
//! TransposeMatMul, Gelu, BiasGelu, FastGelu, QuickGelu, BiasAdd, Trilu; and Inverse.
//!
//! Specification: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>
//! Types: those of the operators they stand for; Inverse of f32 and f64, f16 in f32.
//! History: version 1 alone.

use super::attention_core::{scalar, transpose};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{
    Attribute, Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, Wire, expect_dtype,
};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

const fn row(
    name: &'static str,
    inputs: std::ops::RangeInclusive<usize>,
    import: fn(&mut ImportNode) -> Result<Box<dyn Operator>, Reason>,
) -> Row {
    Row { name, domain: "com.microsoft", since: 1, inputs, outputs: 1..=1, import }
}

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    row("BiasAdd", 3..=3, |_| Ok(Box::new(Sum { name: "BiasAdd", gelu: None }))),
    row("BiasGelu", 2..=2, |_| Ok(Box::new(Sum { name: "BiasGelu", gelu: Some("none") }))),
    row("FastGelu", 1..=2, |_| Ok(Box::new(Sum { name: "FastGelu", gelu: Some("tanh") }))),
    row("FusedConv", 2..=4, import_conv),
    row("FusedGemm", 2..=3, import_gemm),
    row("FusedMatMul", 2..=2, import_mat_mul),
    row("Gelu", 1..=1, |_| Ok(Box::new(Sum { name: "Gelu", gelu: Some("none") }))),
    row("Inverse", 1..=1, |_| Ok(Box::new(Inverse))),
    row("QuickGelu", 1..=1, import_quick_gelu),
    row("TransposeMatMul", 2..=2, import_mat_mul),
    row("Trilu", 1..=2, |node| Ok(Box::new(Trilu { upper: node.attributes.flag("upper", true)? }))),
];

/// The sum of all inputs, and the GELU of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sum {
    name: &'static str,
    /// Which approximation, where a GELU follows.
    gelu: Option<&'static str>,
}

impl Operator for Sum {
    fn name(&self) -> &'static str {
        self.name
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let mut sum = nodes.input(0)?;
        for index in 1..nodes.types.inputs.len() {
            if let Some(addend) = nodes.optional_input(index) {
                sum = nodes.node("Add", &[sum, addend], &[])?;
            }
        }
        if let Some(approximate) = self.gelu {
            sum = nodes.node("Gelu", &[sum], &[("approximate", approximate.into())])?;
        }
        Ok(Some(vec![sum]))
    }
}

/// QuickGelu: x · sigmoid(alpha·x).
#[derive(Clone, Copy, Debug, PartialEq)]
struct QuickGelu {
    alpha: f32,
}

fn import_quick_gelu(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(QuickGelu { alpha: node.attributes.float("alpha")?.unwrap_or(1.702) }))
}

impl Operator for QuickGelu {
    fn name(&self) -> &'static str {
        "QuickGelu"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let x = nodes.input(0)?;
        Ok(Some(vec![nodes.node("Swish", &[x], &[("alpha", self.alpha.into())])?]))
    }
}

/// The triangle of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trilu {
    upper: bool,
}

impl Operator for Trilu {
    fn name(&self) -> &'static str {
        "Trilu"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let inputs = [Some(nodes.input(0)?), nodes.optional_input(1)];
        let inputs = if inputs[1].is_some() { &inputs[..] } else { &inputs[..1] };
        let upper = [("upper", Attribute::Int(self.upper.into()))];
        Ok(Some(nodes.nodes_of("", "Trilu", inputs, &upper, 1)?))
    }
}

/// An activation that follows another operator.
#[derive(Clone, Debug, Default, PartialEq)]
struct Activation {
    /// The operator; empty for none.
    name: String,
    /// Its constants, as far as they are given.
    params: [Option<f32>; 2],
}

impl Activation {
    fn checked(self) -> Result<Self, Reason> {
        const SUPPORTED: &[&str] = &[
            "",
            "Relu",
            "Tanh",
            "Sigmoid",
            "LeakyRelu",
            "Clip",
            "HardSigmoid",
            "HardSwish",
            "Elu",
            "Softplus",
            "Softsign",
            "Selu",
            "Gelu",
        ];
        if SUPPORTED.contains(&self.name.as_str()) {
            return Ok(self);
        }
        Err(Reason::new(format!("activation {:?} is not supported", self.name))
            .supported(SUPPORTED.get(1..).unwrap_or_default().join(", ")))
    }

    fn apply(&self, nodes: &mut Expansion<'_>, x: Wire) -> Result<Wire, Reason> {
        let names: &[&str] = match self.name.as_str() {
            "" => return Ok(x),
            "Clip" => {
                let dtype = nodes.ty(x)?.dtype;
                let mut inputs = vec![Some(x)];
                for bound in self.params {
                    inputs.push(bound.map(|bound| scalar(nodes, dtype, bound.into())).transpose()?);
                }
                let outputs = nodes.nodes_of("", "Clip", &inputs, &[], 1)?;
                return outputs.first().copied().ok_or_else(|| Reason::new("a clip without output"));
            }
            "LeakyRelu" | "Elu" => &["alpha"],
            "HardSigmoid" => &["alpha", "beta"],
            "Selu" => &["alpha", "gamma"],
            _ => &[],
        };
        let given = names.iter().zip(self.params).filter_map(|(name, value)| Some((*name, value?.into())));
        nodes.node(&self.name, &[x], &given.collect::<Vec<(&str, Attribute)>>())
    }
}

/// FusedConv: a convolution, input 3 added, and an activation.
#[derive(Clone, Debug)]
struct FusedConv {
    attributes: Vec<(String, Attribute)>,
    activation: Activation,
}

fn import_conv(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mut attributes = Vec::new();
    for name in ["dilations", "kernel_shape", "pads", "strides"] {
        if let Some(values) = node.attributes.ints(name)? {
            attributes.push((name.to_owned(), Attribute::Ints(values)));
        }
    }
    if let Some(value) = node.attributes.int("group")? {
        attributes.push(("group".to_owned(), Attribute::Int(value)));
    }
    if let Some(value) = node.attributes.string("auto_pad")? {
        attributes.push(("auto_pad".to_owned(), Attribute::String(value)));
    }
    let params = node.attributes.floats("activation_params")?.unwrap_or_default();
    let activation = Activation {
        name: node.attributes.string("activation")?.unwrap_or_default(),
        params: [params.first().copied(), params.get(1).copied()],
    };
    Ok(Box::new(FusedConv { attributes, activation: activation.checked()? }))
}

impl Operator for FusedConv {
    fn name(&self) -> &'static str {
        "FusedConv"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let inputs = [Some(nodes.input(0)?), Some(nodes.input(1)?), nodes.optional_input(2)];
        let inputs = if inputs[2].is_some() { &inputs[..] } else { &inputs[..2] };
        let attributes: Vec<(&str, Attribute)> =
            self.attributes.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let outputs = nodes.nodes_of("", "Conv", inputs, &attributes, 1)?;
        let mut output = *outputs.first().ok_or_else(|| Reason::new("a convolution without output"))?;
        if let Some(residual) = nodes.optional_input(3) {
            output = nodes.node("Add", &[output, residual], &[])?;
        }
        Ok(Some(vec![self.activation.apply(nodes, output)?]))
    }
}

/// FusedGemm: Gemm and an activation.
#[derive(Clone, Debug, PartialEq)]
struct FusedGemm {
    alpha: f32,
    beta: f32,
    trans_a: bool,
    trans_b: bool,
    activation: Activation,
}

fn import_gemm(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let name = node.attributes.string("activation")?.unwrap_or_default();
    let (alpha, beta) =
        (node.attributes.float("activation_alpha")?, node.attributes.float("activation_beta")?);
    let gamma = node.attributes.float("activation_gamma")?;
    let second = if name == "Selu" { gamma } else { beta };
    Ok(Box::new(FusedGemm {
        alpha: node.attributes.float("alpha")?.unwrap_or(1.0),
        beta: node.attributes.float("beta")?.unwrap_or(1.0),
        trans_a: node.attributes.flag("transA", false)?,
        trans_b: node.attributes.flag("transB", false)?,
        activation: Activation { name, params: [alpha, second] }.checked()?,
    }))
}

impl Operator for FusedGemm {
    fn name(&self) -> &'static str {
        "FusedGemm"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let inputs = [Some(nodes.input(0)?), Some(nodes.input(1)?), nodes.optional_input(2)];
        let inputs = if inputs[2].is_some() { &inputs[..] } else { &inputs[..2] };
        let attributes = [
            ("alpha", self.alpha.into()),
            ("beta", self.beta.into()),
            ("transA", Attribute::Int(self.trans_a.into())),
            ("transB", Attribute::Int(self.trans_b.into())),
        ];
        let outputs = nodes.nodes_of("", "Gemm", inputs, &attributes, 1)?;
        let output = *outputs.first().ok_or_else(|| Reason::new("a product without output"))?;
        Ok(Some(vec![self.activation.apply(nodes, output)?]))
    }
}

/// FusedMatMul and TransposeMatMul: alpha · A · B, either transposed before.
#[derive(Clone, Debug, PartialEq)]
struct FusedMatMul {
    name: &'static str,
    alpha: f32,
    /// Whether the last two axes of A, of B, change places.
    transposed: [bool; 2],
    /// Whether the first axis of A, of B, goes before the last.
    batch_last: [bool; 2],
}

fn import_mat_mul(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let name = if node.op_type == "FusedMatMul" { "FusedMatMul" } else { "TransposeMatMul" };
    Ok(Box::new(FusedMatMul {
        name,
        alpha: node.attributes.float("alpha")?.unwrap_or(1.0),
        transposed: [node.attributes.flag("transA", false)?, node.attributes.flag("transB", false)?],
        batch_last: [
            node.attributes.flag("transBatchA", false)?,
            node.attributes.flag("transBatchB", false)?,
        ],
    }))
}

impl FusedMatMul {
    /// A side as it is multiplied.
    fn side(&self, nodes: &mut Expansion<'_>, index: usize) -> Result<Wire, Reason> {
        let side = nodes.input(index)?;
        let rank = nodes.shape(side)?.len();
        let mut perm: Vec<usize> = (0..rank).collect();
        if rank >= 2 {
            if self.batch_last[index] {
                perm[..rank - 1].rotate_left(1);
            }
            if self.transposed[index] {
                perm.swap(rank - 2, rank - 1);
            }
        }
        if perm.is_sorted() { Ok(side) } else { transpose(nodes, side, &perm) }
    }
}

impl Operator for FusedMatMul {
    fn name(&self) -> &'static str {
        self.name
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (mut a, b) = (self.side(nodes, 0)?, self.side(nodes, 1)?);
        let dtype = nodes.ty(a)?.dtype;
        let columns = |nodes: &Expansion<'_>, wire: Wire| {
            Ok::<_, Reason>(nodes.shape(wire)?.last().copied().unwrap_or(1))
        };
        // The factor goes to where there are fewer elements.
        let scaled = self.alpha != 1.0;
        let first = columns(nodes, a)? <= columns(nodes, b)?;
        if scaled && first {
            let alpha = scalar(nodes, dtype, self.alpha.into())?;
            a = nodes.node("Mul", &[a, alpha], &[])?;
        }
        let mut product = nodes.node("MatMul", &[a, b], &[])?;
        if scaled && !first {
            let alpha = scalar(nodes, dtype, self.alpha.into())?;
            product = nodes.node("Mul", &[product, alpha], &[])?;
        }
        Ok(Some(vec![product]))
    }
}

/// Inverse: the inverses of square matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inverse;

/// The largest matrix that is inverted.
const MAX_INVERTED: usize = 4096;

impl Operator for Inverse {
    fn name(&self) -> &'static str {
        "Inverse"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        expect_dtype(ty, &[DataType::F32, DataType::F64, DataType::F16])?;
        match *ty.shape.as_slice() {
            [.., rows, columns] if rows == columns && rows <= MAX_INVERTED => Ok(vec![ty.clone()]),
            _ => Err(Reason::new(format!("{ty} is not of square matrices of at most {MAX_INVERTED} rows"))),
        }
    }

    fn is_host(&self, _: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let x = node.tensor(0)?;
        let ty = x.ty().clone();
        let input = [Some(crate::ops::InputType { ty: &ty, constant: Some(x) })];
        self.infer(&NodeTypes { inputs: &input, outputs: node.outputs })?;
        let size = ty.shape.last().copied().unwrap_or(0);
        let mut values: Vec<f64> = match ty.dtype {
            DataType::F64 => x.values::<f64>().into_owned(),
            _ => x.to_f32s().unwrap_or_default().iter().map(|&value| value.into()).collect(),
        };
        for matrix in values.chunks_exact_mut((size * size).max(1)) {
            invert(matrix, size)?;
        }
        let output = match ty.dtype {
            DataType::F64 => Constant::checked(ty, &values),
            DataType::F16 => Constant::checked(
                ty,
                &values.iter().map(|&value| half::f16::from_f64(value)).collect::<Vec<_>>(),
            ),
            _ => Constant::checked(ty, &values.iter().map(|&value| value as f32).collect::<Vec<_>>()),
        };
        let output = output.ok_or_else(|| Reason::new("an output of another size"))?;
        Ok(Some(vec![output.into()]))
    }
}

/// Inverts a matrix in its place: Gauss and Jordan's elimination, the largest element of each column as pivot.
fn invert(matrix: &mut [f64], size: usize) -> Result<(), Reason> {
    let mut swaps = Vec::with_capacity(size);
    for column in 0..size {
        let at = |row: usize| matrix[row * size + column].abs();
        let pivot = (column..size).max_by(|&a, &b| at(a).total_cmp(&at(b))).unwrap_or(column);
        if at(pivot) == 0.0 {
            return Err(Reason::new("a matrix has no inverse"));
        }
        swaps.push(pivot);
        if pivot != column {
            for index in 0..size {
                matrix.swap(pivot * size + index, column * size + index);
            }
        }
        let factor = 1.0 / matrix[column * size + column];
        matrix[column * size + column] = 1.0;
        matrix[column * size..][..size].iter_mut().for_each(|value| *value *= factor);
        for row in (0..size).filter(|&row| row != column) {
            let factor = std::mem::replace(&mut matrix[row * size + column], 0.0);
            for index in 0..size {
                matrix[row * size + index] -= factor * matrix[column * size + index];
            }
        }
    }
    // Rows that changed places are columns of the inverse.
    for (column, &pivot) in swaps.iter().enumerate().rev() {
        for row in (0..size).filter(|_| pivot != column) {
            matrix.swap(row * size + column, row * size + pivot);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{f32s, import, run};

    fn close(
        op: &str,
        attributes: &[(&str, Attribute)],
        inputs: &[Constant],
        shape: &[usize],
        expected: &[f32],
    ) {
        let op = format!("com.microsoft::{op}");
        let output = run((&op, 1), attributes, inputs).unwrap();
        assert_eq!(output.ty().shape, shape, "{op}");
        for (a, e) in output.values::<f32>().iter().zip(expected) {
            assert!((a - e).abs() < 1e-5, "{op} gives {a}, not {e}");
        }
    }

    #[test]
    fn convolutions_and_products_are_activated() {
        let (x, w) = (f32s([1, 1, 1, 2], &[1.0, -2.0]), f32s([1, 1, 1, 1], &[2.0]));
        let (bias, residual) = (f32s([1], &[0.5]), f32s([1, 1, 1, 2], &[1.0, 1.0]));
        let relu = [("activation", Attribute::from("Relu"))];
        let shape = &[1, 1, 1, 2];
        close("FusedConv", &relu, &[x.clone(), w.clone(), bias.clone(), residual], shape, &[3.5, 0.0]);
        let clip = [("activation", "Clip".into()), ("activation_params", Attribute::Floats(vec![-1.0, 2.0]))];
        close("FusedConv", &clip, &[x, w, bias], shape, &[2.0, -1.0]);
        let leaky =
            [("activation", "LeakyRelu".into()), ("activation_alpha", 0.5.into()), ("alpha", 2.0.into())];
        close("FusedGemm", &leaky, &[f32s([1, 1], &[-1.0]), f32s([1, 1], &[3.0])], &[1, 1], &[-3.0]);
        assert!(import(("com.microsoft::FusedConv", 1), &[("activation", "Swim".into())], 3, 1).is_err());
    }

    #[test]
    fn sides_are_transposed_and_scaled() {
        let a = f32s([2, 1], &[1.0, 2.0]);
        let b = f32s([2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let attributes = [("transA", 1.into()), ("transB", 1.into()), ("alpha", 0.5.into())];
        close("FusedMatMul", &attributes, &[a.clone(), b.clone()], &[1, 2], &[2.5, 5.5]);
        close("TransposeMatMul", &attributes[..1], &[a, b], &[1, 2], &[7.0, 10.0]);
        let batch = f32s([2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let attributes = [("transBatchA", Attribute::Int(1))];
        close("FusedMatMul", &attributes, &[batch, f32s([1, 2, 1], &[1.0, 10.0])], &[1, 2, 1], &[21.0, 43.0]);
    }

    #[test]
    fn sums_and_gates() {
        let x = f32s([2], &[0.5, -1.0]);
        let half = f32s([2], &[0.5, 0.0]);
        close("Gelu", &[], std::slice::from_ref(&x), &[2], &[0.345_731, -0.158_655]);
        close("BiasGelu", &[], &[x.clone(), half.clone()], &[2], &[0.841_345, -0.158_655]);
        close("FastGelu", &[], &[x.clone(), half.clone()], &[2], &[0.841_192, -0.158_808]);
        close("QuickGelu", &[("alpha", 1.0.into())], std::slice::from_ref(&x), &[2], &[0.311_23, -0.268_941]);
        close("BiasAdd", &[], &[x.clone(), half, x], &[2], &[1.5, -2.0]);
    }

    #[test]
    fn inverses_undo_and_singular_matrices_are_refused() {
        let x = f32s([1, 2, 2], &[0.0, 2.0, 4.0, 6.0]);
        close("Inverse", &[], &[x], &[1, 2, 2], &[-0.75, 0.25, 0.5, 0.0]);
        let inverse = |x: Constant| run(("com.microsoft::Inverse", 1), &[], &[x]);
        assert!(inverse(f32s([2, 2], &[1.0, 2.0, 2.0, 4.0])).is_err());
        assert!(inverse(f32s([1, 2], &[1.0, 2.0])).is_err());
    }
}
