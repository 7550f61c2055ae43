//! Elementwise functions of one tensor.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: each function's own, as far as there are kernels; f16 and bf16 compute in f32, integers of 8 and 16 bits
//! in i32. Relu on integers (opset 14) is a maximum. What f64 has no kernel for is written as other operators.
//! History: inverse and hyperbolic functions 7 and 9, HardSwish 14, Mish 18, Gelu 20, Swish 24; Abs, Neg, Relu and Sign took integers in between; nothing else
//! that a reader of the graph could see.

use infer_kernels::call::{Activation, ActivationKind};

use super::compose;
use super::element_type::{converted, expect_kernel, scalar, with_output};
use super::elementwise_layout;
use crate::calls::{LowerNode, Tensor};
use crate::diagnostic::Reason;
use crate::ops::{Blocking, Expansion, ImportNode, NodeTypes, Operator, Row, Wire};
use crate::tensor_type::{DataType, TensorType};

macro_rules! kinds {
    ($($kind:ident $name:literal $family:literal $([$since:literal])? $doc:literal;)*) => {
        /// Which function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum UnaryKind {
            $(#[doc = $doc] $kind,)*
        }

        /// Each function's name in ONNX and in the kernels.
        const KINDS: &[(UnaryKind, &str, &str)] = &[$((UnaryKind::$kind, $name, $family),)*];

        /// The rows of the operator table.
        pub const OPERATORS: &[Row] = &[$($(Row {
            name: $name,
            domain: "",
            since: $since,
            inputs: 1..=1,
            outputs: 1..=1,
            import,
        },)?)*];
    };
}

kinds! {
    Abs "Abs" "abs" [1] "|x|";
    Acos "Acos" "acos" [7] "arccos x";
    Acosh "Acosh" "acosh" [9] "arcosh x";
    Asin "Asin" "asin" [7] "arcsin x";
    Asinh "Asinh" "asinh" [9] "arsinh x";
    Atan "Atan" "atan" [7] "arctan x";
    Atanh "Atanh" "atanh" [9] "artanh x";
    Ceil "Ceil" "ceil" [1] "⌈x⌉";
    Cos "Cos" "cos" [7] "cos x";
    Cosh "Cosh" "cosh" [9] "cosh x";
    Elu "Elu" "elu" [1] "x if x ≥ 0 else alpha·(eˣ − 1)";
    Erf "Erf" "erf" [9] "erf x";
    Exp "Exp" "exp" [1] "eˣ";
    Floor "Floor" "floor" [1] "⌊x⌋";
    Gelu "Gelu" "gelu" [20] "x/2 · (1 + erf(x/√2))";
    GeluTanh "Gelu" "gelu_tanh" "x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))";
    HardSigmoid "HardSigmoid" "hard_sigmoid" [1] "max(0, min(1, alpha·x + beta))";
    HardSwish "HardSwish" "hard_swish" [14] "x · max(0, min(1, x/6 + 1/2))";
    IsNaN "IsNaN" "is_nan" [9] "whether x is NaN";
    LeakyRelu "LeakyRelu" "leaky_relu" [1] "x if x ≥ 0 else alpha·x";
    Log "Log" "log" [1] "ln x";
    Mish "Mish" "mish" [18] "x · tanh(ln(1 + eˣ))";
    Neg "Neg" "neg" [1] "−x";
    Not "Not" "not" [1] "not x";
    Reciprocal "Reciprocal" "reciprocal" [1] "1 / x";
    Relu "Relu" "relu" [1] "max(x, 0)";
    Round "Round" "round" [11] "the integer nearest to x, the even one of two";
    Selu "Selu" "selu" [1] "beta·(x if x ≥ 0 else alpha·(eˣ − 1))";
    Sigmoid "Sigmoid" "sigmoid" [1] "1 / (1 + e⁻ˣ)";
    Sign "Sign" "sign" [9] "−1, 0 or 1";
    Sin "Sin" "sin" [7] "sin x";
    Sinh "Sinh" "sinh" [9] "sinh x";
    Softplus "Softplus" "softplus" [1] "ln(1 + eˣ)";
    Softsign "Softsign" "softsign" [1] "x / (1 + |x|)";
    Sqrt "Sqrt" "sqrt" [1] "√x";
    Swish "Swish" "silu" [24] "x · sigmoid(alpha·x); SiLU where alpha is 1";
    Tan "Tan" "tan" [7] "tan x";
    Tanh "Tanh" "tanh" [1] "tanh x";
}

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unary {
    /// Which.
    pub kind: UnaryKind,
    /// Its first constant, 0 where it has none.
    pub alpha: f32,
    /// Its second constant, 0 where it has none.
    pub beta: f32,
}

impl Unary {
    /// The SiLU, x · sigmoid(x).
    pub const SILU: Unary = Unary { kind: UnaryKind::Swish, alpha: 1.0, beta: 0.0 };

    /// A function without constants.
    pub fn plain(kind: UnaryKind) -> Self {
        Unary { kind, alpha: 0.0, beta: 0.0 }
    }

    /// The activation that a kernel can apply while it writes its output, where there is one.
    pub fn activation(&self) -> Option<Activation> {
        let kind = match self.kind {
            UnaryKind::Relu => ActivationKind::Relu,
            UnaryKind::LeakyRelu => ActivationKind::LeakyRelu,
            UnaryKind::Sigmoid => ActivationKind::Sigmoid,
            UnaryKind::HardSigmoid => ActivationKind::HardSigmoid,
            UnaryKind::HardSwish => ActivationKind::HardSwish,
            UnaryKind::Swish if self.alpha == 1.0 => {
                return Some(Activation::new(ActivationKind::Silu, 0.0, 0.0));
            }
            UnaryKind::Gelu => ActivationKind::Gelu,
            UnaryKind::GeluTanh => ActivationKind::GeluTanh,
            UnaryKind::Tanh => ActivationKind::Tanh,
            UnaryKind::Softplus => ActivationKind::Softplus,
            UnaryKind::Mish => ActivationKind::Mish,
            _ => return None,
        };
        Some(Activation::new(kind, self.alpha, self.beta))
    }

    fn names(&self) -> (&'static str, &'static str) {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self.kind)
            .map_or(("", ""), |&(_, name, family)| (name, family))
    }

    /// The family of the kernel for elements of `dtype`.
    fn family(&self, dtype: DataType) -> &'static str {
        match self.kind {
            UnaryKind::Relu if !dtype.is_float() => "max",
            _ => self.names().1,
        }
    }
}

impl Unary {
    /// The functions of f64 that have no kernel: all are x times something between 0 and 1.
    fn expand_f64(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let x = nodes.input(0)?;
        let times = |nodes: &mut Expansion<'_>, a, factor| {
            let factor = compose::scalar(nodes, DataType::F64, factor)?;
            nodes.node("Mul", &[a, factor], &[])
        };
        let plus = |nodes: &mut Expansion<'_>, a, addend| {
            let addend = compose::scalar(nodes, DataType::F64, addend)?;
            nodes.node("Add", &[a, addend], &[])
        };
        let gate = match self.kind {
            UnaryKind::Gelu => {
                let scaled = times(nodes, x, std::f64::consts::FRAC_1_SQRT_2)?;
                let erf = nodes.node("Erf", &[scaled], &[])?;
                let sum = plus(nodes, erf, 1.0)?;
                times(nodes, sum, 0.5)?
            }
            UnaryKind::GeluTanh => {
                // (1 + tanh y) / 2 = sigmoid(2y)
                let square = nodes.node("Mul", &[x, x], &[])?;
                let cube = nodes.node("Mul", &[square, x], &[])?;
                let cube = times(nodes, cube, 0.044715)?;
                let sum = nodes.node("Add", &[x, cube], &[])?;
                let y = times(nodes, sum, 2.0 * (2.0 / std::f64::consts::PI).sqrt())?;
                nodes.node("Sigmoid", &[y], &[])?
            }
            UnaryKind::HardSwish => {
                let scaled = times(nodes, x, 1.0 / 6.0)?;
                let sum = plus(nodes, scaled, 0.5)?;
                let (zero, one) = (
                    compose::scalar(nodes, DataType::F64, 0.0)?,
                    compose::scalar(nodes, DataType::F64, 1.0)?,
                );
                nodes.node("Clip", &[sum, zero, one], &[])?
            }
            UnaryKind::Mish => {
                let softplus = nodes.node("Softplus", &[x], &[])?;
                nodes.node("Tanh", &[softplus], &[])?
            }
            UnaryKind::Swish => {
                let scaled = times(nodes, x, f64::from(self.alpha))?;
                nodes.node("Sigmoid", &[scaled], &[])?
            }
            _ => return Ok(None),
        };
        Ok(Some(vec![nodes.node("Mul", &[x, gate], &[])?]))
    }
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let known = KINDS.iter().find(|(_, name, _)| *name == node.op_type);
    let &(kind, ..) =
        known.ok_or_else(|| Reason::new(format!("{} is no function of one tensor", node.op_type)))?;
    let mut constant = |name, default| Ok::<_, Reason>(node.attributes.float(name)?.unwrap_or(default));
    let (alpha, beta) = match kind {
        UnaryKind::LeakyRelu => (constant("alpha", 0.01)?, 0.0),
        UnaryKind::HardSigmoid => (constant("alpha", 0.2)?, constant("beta", 0.5)?),
        UnaryKind::Elu | UnaryKind::Swish => (constant("alpha", 1.0)?, 0.0),
        UnaryKind::Selu => (constant("alpha", 1.673_263_2)?, constant("gamma", 1.050_701)?),
        _ => (0.0, 0.0),
    };
    let kind = match kind {
        UnaryKind::Gelu => match node.attributes.string("approximate")?.as_deref() {
            None | Some("none") => UnaryKind::Gelu,
            Some("tanh") => UnaryKind::GeluTanh,
            Some(other) => {
                return Err(
                    Reason::new(format!("approximate {other:?} is not known")).supported("none, tanh")
                );
            }
        },
        kind => kind,
    };
    Ok(Box::new(Unary { kind, alpha, beta }))
}

impl Operator for Unary {
    fn name(&self) -> &'static str {
        self.names().0
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        match nodes.types.optional(0).map(|input| input.dtype) {
            Some(DataType::F64) => self.expand_f64(nodes),
            Some(small) if small.is_small_float() && self.kind == UnaryKind::IsNaN => {
                let x = compose::wide_input(nodes, 0)?;
                Ok(Some(vec![nodes.node("IsNaN", &[x], &[])?]))
            }
            Some(DataType::U8 | DataType::U16 | DataType::U32 | DataType::U64)
                if self.kind == UnaryKind::Abs =>
            {
                Ok(Some(vec![nodes.input(0)?]))
            }
            _ => Ok(None),
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_kernel(self.family(input.dtype), input)?;
        let dtype = if self.kind == UnaryKind::IsNaN { DataType::Bool } else { input.dtype };
        Ok(vec![TensorType::new(dtype, input.shape.clone())])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let family = self.family(input.ty.dtype);
        let dtype = expect_kernel(family, &input.ty)?;
        let x = converted(node, &input, dtype)?;
        let out_dtype = if self.kind == UnaryKind::IsNaN { DataType::Bool } else { dtype };
        with_output(node, &output, out_dtype, |node, out| match self.kind {
            UnaryKind::Relu if family == "max" => {
                let span = node.data(&vec![0u8; dtype.size_bytes()]);
                let zero = Tensor { ty: TensorType::new(dtype, []), span, blocked: None };
                node.elementwise(format!("max_{dtype}"), &[&x, &zero], out, |_| ())
            }
            UnaryKind::Swish if self.alpha != 1.0 => {
                let alpha = scalar(node, dtype, self.alpha);
                node.elementwise(format!("mul_{dtype}"), &[&x, &alpha], out, |_| ())?;
                node.elementwise(format!("sigmoid_{dtype}"), &[out], out, |_| ())?;
                node.elementwise(format!("mul_{dtype}"), &[&x, out], out, |_| ())
            }
            _ => node.elementwise(format!("{family}_{dtype}"), &[&x], out, |call| {
                (call.alpha, call.beta) = (self.alpha, self.beta);
            }),
        })
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        match self.kind {
            UnaryKind::IsNaN => Blocking::Never,
            _ => elementwise_layout::blocking(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, i64s, import, infer, run, tensor};

    const X: [f32; 4] = [-2.0, -0.5, 0.0, 1.5];

    #[test]
    fn functions_compute_what_onnx_says() {
        let cases: &[(&str, [f32; 4])] = &[
            ("Abs", [2.0, 0.5, 0.0, 1.5]),
            ("Acos", [f32::NAN, 2.094_395_2, std::f32::consts::FRAC_PI_2, f32::NAN]),
            ("Acosh", [f32::NAN, f32::NAN, f32::NAN, 0.962_423_6]),
            ("Asin", [f32::NAN, -std::f32::consts::FRAC_PI_6, 0.0, f32::NAN]),
            ("Asinh", [-1.443_635_5, -0.481_211_84, 0.0, 1.194_763_2]),
            ("Atan", [-1.107_148_7, -0.463_647_6, 0.0, 0.982_793_75]),
            ("Atanh", [f32::NAN, -0.549_306_15, 0.0, f32::NAN]),
            ("Ceil", [-2.0, 0.0, 0.0, 2.0]),
            ("Cos", [-0.416_146_84, 0.877_582_55, 1.0, 0.070_737_2]),
            ("Cosh", [3.762_195_6, 1.127_626, 1.0, 2.352_409_6]),
            ("Elu", [-0.864_664_7, -0.393_469_33, 0.0, 1.5]),
            ("Erf", [-0.995_322_3, -0.520_499_9, 0.0, 0.966_105_16]),
            ("Exp", [0.135_335_28, 0.606_530_66, 1.0, 4.481_689]),
            ("Floor", [-2.0, -1.0, 0.0, 1.0]),
            ("Gelu", [-0.045_500_264, -0.154_268_77, 0.0, 1.399_789_2]),
            ("HardSigmoid", [0.1, 0.4, 0.5, 0.8]),
            ("HardSwish", [-0.333_333_34, -0.208_333_33, 0.0, 1.125]),
            ("LeakyRelu", [-0.02, -0.005, 0.0, 1.5]),
            ("Log", [f32::NAN, f32::NAN, f32::NEG_INFINITY, 0.405_465_1]),
            ("Mish", [-0.252_501_46, -0.220_743_78, 0.0, 1.403_378_2]),
            ("Neg", [2.0, 0.5, 0.0, -1.5]),
            ("Reciprocal", [-0.5, -2.0, f32::INFINITY, 0.666_666_7]),
            ("Relu", [0.0, 0.0, 0.0, 1.5]),
            ("Round", [-2.0, 0.0, 0.0, 2.0]),
            ("Selu", [-1.520_166_5, -0.691_758_2, 0.0, 1.576_051_5]),
            ("Sigmoid", [0.119_202_92, 0.377_540_68, 0.5, 0.817_574_5]),
            ("Sign", [-1.0, -1.0, 0.0, 1.0]),
            ("Sin", [-0.909_297_4, -0.479_425_55, 0.0, 0.997_495]),
            ("Sinh", [-3.626_860_4, -0.521_095_3, 0.0, 2.129_279_5]),
            ("Softplus", [0.126_928_01, 0.474_077, std::f32::consts::LN_2, 1.701_413_3]),
            ("Softsign", [-0.666_666_7, -0.333_333_34, 0.0, 0.6]),
            ("Sqrt", [f32::NAN, f32::NAN, 0.0, 1.224_744_9]),
            ("Swish", [-0.238_405_84, -0.188_770_34, 0.0, 1.226_361_8]),
            ("Tan", [2.185_04, -0.546_302_5, 0.0, 14.101_42]),
            ("Tanh", [-0.964_027_6, -0.462_117_16, 0.0, 0.905_148_27]),
        ];
        for (name, expected) in cases {
            check((name, 24), &[], &[f32s([2, 2], &X)], &f32s([2, 2], expected));
        }
        for (name, expected) in cases {
            let x = tensor(DataType::F64, [4], &X.map(f64::from));
            let y = run((name, 24), &[], &[x]).unwrap();
            for (y, &expected) in y.values::<f64>().iter().zip(expected) {
                let expected = f64::from(expected);
                let close =
                    *y == expected || (y.is_nan() && expected.is_nan()) || (y - expected).abs() < 1e-6;
                assert!(close, "{name} of f64 gives {y}, not {expected}");
            }
        }
        // Every row but the two that give or take bool stands above.
        assert_eq!(cases.len() + 2, OPERATORS.len());
        check(("IsNaN", 20), &[], &[f32s([2], &[f32::NAN, 1.0])], &bools([2], &[true, false]));
        let eighths = tensor(DataType::F8E4M3FN, [2], &[0x7fu8, 0]);
        check(("IsNaN", 20), &[], &[eighths], &bools([2], &[true, false]));
        check(("Not", 20), &[], &[bools([2], &[true, false])], &bools([2], &[false, true]));
    }

    #[test]
    fn constants_are_read() {
        let one = [f32s([1], &[-1.0])];
        let float = |name, value| (name, Attribute::Float(value));
        check(("LeakyRelu", 16), &[float("alpha", 0.5)], &one, &f32s([1], &[-0.5]));
        check(("HardSigmoid", 16), &[float("alpha", 0.25), float("beta", 0.75)], &one, &f32s([1], &[0.5]));
        check(("Selu", 16), &[float("alpha", 2.0), float("gamma", 3.0)], &one, &f32s([1], &[-3.792_723_4]));
        check(("Swish", 24), &[float("alpha", 2.0)], &one, &f32s([1], &[-0.119_202_92]));
        let tanh = [("approximate", Attribute::String("tanh".into()))];
        check(("Gelu", 20), &tanh, &one, &f32s([1], &[-0.158_808_01]));
        let cubic = [("approximate", Attribute::String("cubic".into()))];
        assert_eq!(import(("Gelu", 20), &cubic, 1, 1).unwrap_err().supported.as_deref(), Some("none, tanh"));
    }

    #[test]
    fn other_types_compute_in_their_own_or_a_wider_one() {
        check(("Relu", 14), &[], &[i64s([3], &[-5, 0, i64::MAX])], &i64s([3], &[0, 0, i64::MAX]));
        let large = tensor(DataType::U64, [1], &[u64::MAX]);
        check(("Abs", 13), &[], &[&large], &large);
        check(("Abs", 13), &[], &[i64s([2], &[-5, 1 << 60])], &i64s([2], &[5, 1 << 60]));
        check(
            ("Neg", 13),
            &[],
            &[tensor(DataType::I8, [3], &[-128i8, 0, 127])],
            &tensor(DataType::I8, [3], &[-128i8, 0, -127]),
        );
        let halves = [0.5f32, -1.25].map(half::f16::from_f32);
        let expected = [0.0f32, -2.0].map(half::f16::from_f32);
        check(
            ("Floor", 13),
            &[],
            &[tensor(DataType::F16, [2], &halves)],
            &tensor(DataType::F16, [2], &expected),
        );
        let refused = infer(("Exp", 13), &[], &[TensorType::new(DataType::I32, [2])]).unwrap_err();
        assert!(refused.supported.is_some_and(|types| types.starts_with("f32")), "{}", refused.what);
        assert!(infer(("Tan", 7), &[], &[TensorType::new(DataType::I32, [1])]).is_err());
    }

    #[test]
    fn activations_carry_their_constants() {
        let leaky = Unary { kind: UnaryKind::LeakyRelu, alpha: 0.1, beta: 0.0 };
        assert_eq!(leaky.activation(), Some(Activation::new(ActivationKind::LeakyRelu, 0.1, 0.0)));
        assert_eq!(Unary::SILU.activation(), Some(Activation::new(ActivationKind::Silu, 0.0, 0.0)));
        assert_eq!(Unary { alpha: 2.0, ..Unary::SILU }.activation(), None);
        assert_eq!(Unary::plain(UnaryKind::Exp).activation(), None);
    }
}
