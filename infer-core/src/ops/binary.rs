//! Elementwise operations on two tensors that broadcast: arithmetic, comparisons, logic, PRelu.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: both inputs have the same, but for Pow; f16 and bf16 compute in f32, integers without a kernel of their own
//! in a wider one. Comparisons and logic give bool. Equal compares strings too.
//! History: numpy's broadcasting since opset 7; LessOrEqual and GreaterOrEqual since 12; Pow's exponent may have
//! another type since 12; types were added in between.

use super::compose::scalar;
use super::element_type::{cast_kernel, converted, expect_kernel, with_output};
use super::elementwise_layout;
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::ops::{Blocking, Expansion, ImportNode, NodeTypes, Operator, Row, StringUse, Wire, broadcast};
use crate::tensor_type::{DataType, TensorType};

macro_rules! kinds {
    ($($kind:ident $family:literal $since:literal $doc:literal;)*) => {
        /// Which operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum BinaryKind {
            $(#[doc = $doc] $kind,)*
        }

        /// Each operation's name in ONNX and in the kernels.
        const KINDS: &[(BinaryKind, &str, &str)] = &[$((BinaryKind::$kind, stringify!($kind), $family),)*];

        /// The rows of the operator table.
        pub const OPERATORS: &[Row] = &[$(Row {
            name: stringify!($kind),
            domain: "",
            since: $since,
            inputs: 2..=2,
            outputs: 1..=1,
            import,
        },)*];
    };
}

kinds! {
    Add "add" 1 "a + b";
    And "and" 1 "a and b";
    Div "div" 1 "a / b, integers truncated";
    Equal "equal" 1 "a = b";
    Greater "greater" 1 "a > b";
    GreaterOrEqual "greater_or_equal" 12 "a ≥ b";
    Less "less" 1 "a < b";
    LessOrEqual "less_or_equal" 12 "a ≤ b";
    Mul "mul" 1 "a · b";
    Or "or" 1 "a or b";
    PRelu "prelu" 1 "a if a ≥ 0 else a · b, in the shape of a";
    Pow "pow" 1 "aᵇ, in the type of a";
    Sub "sub" 1 "a − b";
    Xor "xor" 1 "either a or b";
}

/// An operation on two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Which.
    pub kind: BinaryKind,
}

impl Binary {
    fn names(&self) -> (&'static str, &'static str) {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self.kind)
            .map_or(("", ""), |&(_, name, family)| (name, family))
    }

    /// Whether the result is bool.
    fn decides(&self) -> bool {
        use BinaryKind::{And, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Or, Xor};
        matches!(self.kind, And | Equal | Greater | GreaterOrEqual | Less | LessOrEqual | Or | Xor)
    }

    /// The type that both inputs are converted to.
    fn compute_type(&self, a: &TensorType, b: &TensorType) -> Result<DataType, Reason> {
        let dtype = expect_kernel(self.names().1, a)?;
        if self.kind != BinaryKind::Pow {
            return if a.dtype == b.dtype {
                Ok(dtype)
            } else {
                Err(Reason::new(format!("the inputs are {} and {}, not of one type", a.dtype, b.dtype)))
            };
        }
        if b.dtype == DataType::Bool {
            return Err(Reason::new("the exponent is bool, not a number"));
        }
        if cast_kernel(b.dtype, DataType::F64).is_none() {
            return Err(Reason::new(format!("the exponent is {}, of which there are no powers", b.dtype)));
        }
        // A fractional exponent must not be cut to the base's integers before the power is taken.
        Ok(if b.dtype.is_float() && !a.dtype.is_float() { DataType::F64 } else { dtype })
    }
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let known = KINDS.iter().find(|(_, name, _)| *name == node.op_type);
    let &(kind, ..) =
        known.ok_or_else(|| Reason::new(format!("{} is no operation on two tensors", node.op_type)))?;
    Ok(Box::new(Binary { kind }))
}

impl Operator for Binary {
    fn name(&self) -> &'static str {
        self.names().0
    }

    /// PRelu of integers, which has no kernel.
    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (Some(a), Some(b)) = (nodes.types.optional(0), nodes.types.optional(1)) else { return Ok(None) };
        let integers = [DataType::I32, DataType::I64, DataType::U32, DataType::U64];
        if self.kind != BinaryKind::PRelu || !integers.contains(&a.dtype) || a.dtype != b.dtype {
            return Ok(None);
        }
        if !broadcast(&[&a.shape, &b.shape]).is_ok_and(|shape| shape == a.shape) {
            return Err(Reason::new(format!("slope {b} does not broadcast to {a}")));
        }
        let zero = scalar(nodes, a.dtype, 0.0)?;
        let (x, slope) = (nodes.input(0)?, nodes.input(1)?);
        let is_negative = nodes.node("Less", &[x, zero], &[])?;
        let scaled = nodes.node("Mul", &[x, slope], &[])?;
        Ok(Some(vec![nodes.node("Where", &[is_negative, scaled, x], &[])?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let (a, b) = (node.ty(0)?, node.ty(1)?);
        self.compute_type(a, b)?;
        let shape = broadcast(&[&a.shape, &b.shape])?;
        if self.kind == BinaryKind::PRelu && shape != a.shape {
            return Err(Reason::new(format!("slope {b} does not broadcast to {a}")));
        }
        Ok(vec![TensorType::new(if self.decides() { DataType::Bool } else { a.dtype }, shape)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (a, b, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let dtype = self.compute_type(&a.ty, &b.ty)?;
        let squares =
            self.kind == BinaryKind::Pow && node.constant(1).and_then(|b| b.to_scalar_f32()) == Some(2.0);
        let a = converted(node, &a, dtype)?;
        let (family, b) =
            if squares { ("mul", a.clone()) } else { (self.names().1, converted(node, &b, dtype)?) };
        let out_dtype = if self.decides() { DataType::Bool } else { dtype };
        with_output(node, &output, out_dtype, |node, out| {
            node.elementwise(format!("{family}_{dtype}"), &[&a, &b], out, |_| ())
        })
    }

    fn string_use(&self) -> StringUse {
        if self.kind == BinaryKind::Equal { StringUse::Compares } else { StringUse::None }
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        if self.decides() { Blocking::Never } else { elementwise_layout::blocking(node) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::test_support::{bools, check, f32s, i64s, infer, run, run_values, tensor};
    use crate::value::{Strings, Value};

    #[test]
    fn operations_broadcast() {
        let (a, b) = (f32s([2, 1], &[-2.0, 3.0]), f32s([3], &[2.0, -1.0, 3.0]));
        let arithmetic: &[(&str, [f32; 6])] = &[
            ("Add", [0.0, -3.0, 1.0, 5.0, 2.0, 6.0]),
            ("Sub", [-4.0, -1.0, -5.0, 1.0, 4.0, 0.0]),
            ("Mul", [-4.0, 2.0, -6.0, 6.0, -3.0, 9.0]),
            ("Div", [-1.0, 2.0, -0.666_666_7, 1.5, -3.0, 1.0]),
            ("Pow", [4.0, -0.5, -8.0, 9.0, 0.333_333_34, 27.0]),
        ];
        for (name, expected) in arithmetic {
            check((name, 15), &[], &[a.clone(), b.clone()], &f32s([2, 3], expected));
        }
        let decisions: &[(&str, [bool; 6])] = &[
            ("Equal", [false, false, false, false, false, true]),
            ("Less", [true, true, true, false, false, false]),
            ("LessOrEqual", [true, true, true, false, false, true]),
            ("Greater", [false, false, false, true, true, false]),
            ("GreaterOrEqual", [false, false, false, true, true, true]),
        ];
        for (name, expected) in decisions {
            check((name, 16), &[], &[a.clone(), b.clone()], &bools([2, 3], expected));
        }
        let (p, q) = (bools([2, 1], &[false, true]), bools([2], &[false, true]));
        let logic: &[(&str, [bool; 4])] = &[
            ("And", [false, false, false, true]),
            ("Or", [false, true, true, true]),
            ("Xor", [false, true, true, false]),
            ("Equal", [true, false, false, true]),
        ];
        for (name, expected) in logic {
            check((name, 13), &[], &[p.clone(), q.clone()], &bools([2, 2], expected));
        }
        check(
            ("PRelu", 16),
            &[],
            &[f32s([2, 1], &[-2.0, 3.0]), f32s([], &[0.5])],
            &f32s([2, 1], &[-1.0, 3.0]),
        );
    }

    #[test]
    fn strings_are_equal_or_not() {
        let strings = |shape: &[usize], words: &[&str]| {
            let words = words.iter().map(|&word| word.to_owned()).collect();
            Some(Value::Strings(Strings::new(shape, words).unwrap()))
        };
        let inputs = [strings(&[2], &["a", "b"]), strings(&[1], &["b"])];
        let output = run_values(("Equal", 19), &[], &inputs, 1).unwrap().remove(0);
        assert_eq!(output, Value::Tensor(bools([2], &[false, true])));
    }

    #[test]
    fn integers_stay_exact() {
        check(("PRelu", 16), &[], &[i64s([2], &[-3, 5]), i64s([1], &[2])], &i64s([2], &[-6, 5]));
        let big = (1i64 << 60) + 1;
        check(("Add", 14), &[], &[i64s([1], &[big]), i64s([1], &[1])], &i64s([1], &[big + 1]));
        check(("Div", 14), &[], &[i64s([2], &[-7, 7]), i64s([], &[2])], &i64s([2], &[-3, 3]));
        let u8s = |values: [u8; 2]| tensor(DataType::U8, [2], &values);
        check(("Sub", 14), &[], &[u8s([3, 200]), u8s([5, 100])], &u8s([254, 100]));
        assert!(run(("Div", 14), &[], &[i64s([1], &[1]), i64s([1], &[0])]).is_err());
    }

    #[test]
    fn powers_take_exponents_of_other_types() {
        let i32s = |values: [i32; 3]| tensor(DataType::I32, [3], &values);
        let base = f32s([3], &[1.0, 2.0, 3.0]);
        check(("Pow", 15), &[], &[base.clone(), i64s([3], &[4, 5, 6])], &f32s([3], &[1.0, 32.0, 729.0]));
        check(("Pow", 15), &[], &[i32s([1, 4, 9]), f32s([], &[0.5])], &i32s([1, 2, 3]));
        check(("Pow", 15), &[], &[i32s([1, -2, 3]), i64s([], &[3])], &i32s([1, -8, 27]));
        check(
            ("Pow", 15),
            &[],
            &[f32s([3], &[-3.0, 0.5, 1e30]), f32s([1], &[2.0])],
            &f32s([3], &[9.0, 0.25, f32::INFINITY]),
        );
    }

    #[test]
    fn halves_compute_in_f32() {
        let halves =
            |values: [f32; 2]| -> Constant { tensor(DataType::F16, [2], &values.map(half::f16::from_f32)) };
        check(("Mul", 14), &[], &[halves([1.5, -2.0]), halves([2.0, 0.25])], &halves([3.0, -0.5]));
        check(("Less", 13), &[], &[halves([1.5, -2.0]), halves([2.0, -2.0])], &bools([2], &[true, false]));
    }

    #[test]
    fn wrong_inputs_are_refused() {
        let ty = |dtype, shape: &[usize]| TensorType::new(dtype, shape);
        let check = |op, a, b| infer((op, 16), &[], &[a, b]).unwrap_err().what;
        assert_eq!(
            check("Add", ty(DataType::F32, &[2]), ty(DataType::I64, &[2])),
            "the inputs are f32 and i64, not of one type"
        );
        assert!(check("Add", ty(DataType::F32, &[2]), ty(DataType::F32, &[3])).contains("do not broadcast"));
        assert!(
            check("And", ty(DataType::F32, &[2]), ty(DataType::F32, &[2])).contains("f32 is not supported")
        );
        assert!(check("Pow", ty(DataType::F32, &[2]), ty(DataType::Bool, &[2])).contains("bool"));
        assert!(check("PRelu", ty(DataType::F32, &[2]), ty(DataType::F32, &[3, 1])).contains("slope"));
    }
}
