//! Cast and CastLike: the same values as elements of another type.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Cast.html>, <https://onnx.ai/onnx/operators/onnx__CastLike.html>
//! Types: between all but the complex ones; floats to integers by truncation, numbers to bool by comparison with zero,
//! strings by the number they spell. What has no kernel (strings, floats of 8 and 4 bits, into integers below 8 bits)
//! is computed on the host.
//! History: strings since opset 9; CastLike since 15; 8-bit floats and `saturate` since 19, 4-bit integers 21, f4e2m1 23,
//! f8e8m0 and `round_mode` 24, 2-bit integers 25.

use super::element_type;
use super::elements::checked_elements;
use super::number::{Rules, Scalar, of_scalars, scalars};
use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row};
use crate::small_float::RoundMode;
use crate::tensor_type::{DataType, TensorType};
use crate::value::{ElementType, Strings, Value};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "Cast", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "CastLike", domain: "", since: 15, inputs: 2..=2, outputs: 1..=1, import },
];

/// ONNX's number of the type of strings.
const STRING: i64 = 8;

/// A cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The type cast to; `None` for that of input 1.
    pub to: Option<ElementType>,
    /// What becomes of numbers that 8-bit floats cannot hold.
    pub rules: Rules,
}

/// The element type that ONNX gives `code`.
pub(super) fn element_type(code: i64) -> Result<DataType, Reason> {
    i32::try_from(code).ok().and_then(DataType::from_onnx).ok_or_else(|| {
        Reason::new(format!("element type number {code} is not supported"))
            .supported(DataType::ALL.map(DataType::name).join(", "))
    })
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let saturate = node.attributes.flag("saturate", true)?;
    let round = match node.attributes.string("round_mode")?.as_deref() {
        None | Some("up") => RoundMode::Up,
        Some("down") => RoundMode::Down,
        Some("nearest") => RoundMode::Nearest,
        Some(other) => {
            return Err(
                Reason::new(format!("round_mode {other:?} is not known")).supported("up, down, nearest")
            );
        }
    };
    let rules = Rules { saturate, round };
    if node.op_type == "CastLike" {
        return Ok(Box::new(Cast { to: None, rules }));
    }
    let code = node.attributes.int("to")?.ok_or_else(|| Reason::new("attribute `to` is missing"))?;
    let to = if code == STRING { ElementType::String } else { ElementType::Number(element_type(code)?) };
    Ok(Box::new(Cast { to: Some(to), rules }))
}

impl Operator for Cast {
    fn name(&self) -> &'static str {
        if self.to.is_some() { "Cast" } else { "CastLike" }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let to = match self.to {
            Some(ElementType::Number(to)) => to,
            Some(ElementType::String) => return Err(Reason::at_run_time("its output, a tensor of strings")),
            None => node.ty(1)?.dtype,
        };
        let input = node.ty(0)?;
        let is_complex = |dtype| matches!(dtype, DataType::C64 | DataType::C128);
        if input.dtype != to && (is_complex(input.dtype) || is_complex(to)) {
            return Err(Reason::new(format!("{} cannot be cast to {to}", input.dtype)));
        }
        Ok(vec![TensorType::new(to, input.shape.clone())])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        element_type::cast(node, &input, &output)
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        let Some(input) = node.optional(0) else { return true };
        let to = match self.to {
            Some(ElementType::Number(to)) => Some(to),
            Some(ElementType::String) => None,
            None => node.optional(1).map(|like| like.dtype),
        };
        to.is_none_or(|to| element_type::cast_kernel(input.dtype, to).is_none())
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let to = match (self.to, node.optional(1)) {
            (Some(to), _) => to,
            (None, Some(Value::Tensor(like))) => ElementType::Number(like.ty().dtype),
            (None, Some(Value::Strings(_))) => ElementType::String,
            (None, _) => return Err(Reason::new("input 1 is no tensor, whose element type to take")),
        };
        let output = match (node.value(0)?, to) {
            (Value::Strings(strings), ElementType::String) => Value::Strings(strings.clone()),
            (Value::Strings(strings), ElementType::Number(to)) => parse(strings, to, self.rules)?.into(),
            (Value::Tensor(tensor), ElementType::String) => format_numbers(tensor)?.into(),
            (Value::Tensor(tensor), ElementType::Number(to)) => {
                let from = tensor.ty();
                if element_type::cast_kernel(from.dtype, to).is_some() {
                    return Ok(None);
                }
                let ty = TensorType::new(to, from.shape.clone());
                of_scalars(ty, scalars(tensor)?, self.rules)?.into()
            }
            (other, _) => return Err(Reason::new(format!("input 0 is {}, no tensor", other.describe()))),
        };
        Ok(Some(vec![output]))
    }
}

/// The numbers that strings spell.
fn parse(strings: &Strings, to: DataType, rules: Rules) -> Result<Constant, Reason> {
    let ty = TensorType::new(to, strings.shape());
    checked_elements(&ty)?;
    let mut numbers = Vec::with_capacity(strings.data().len());
    for string in strings.data() {
        let trimmed = string.trim();
        // Integers first: f64 does not hold all of those of 64 bits.
        let number = match trimmed.parse::<i64>() {
            Ok(integer) => Some(Scalar::Integer(integer.into())),
            Err(_) => match trimmed.parse::<u64>() {
                Ok(integer) => Some(Scalar::Integer(integer.into())),
                Err(_) => trimmed.parse::<f64>().ok().map(Scalar::Float),
            },
        };
        let wrong = || Reason::new(format!("the string {string:?} is no number"));
        numbers.push(number.ok_or_else(wrong)?);
    }
    of_scalars(ty, numbers.into_iter(), rules)
}

/// Numbers as strings, floats with as few digits as tell them from others of their type.
fn format_numbers(tensor: &Constant) -> Result<Strings, Reason> {
    let dtype = tensor.ty().dtype;
    // A string takes more memory than any number.
    checked_elements(&TensorType::new(DataType::C128, tensor.ty().shape.clone()))?;
    let strings = scalars(tensor)?.map(|number| match number {
        Scalar::Integer(x) if dtype == DataType::Bool => (if x != 0 { "True" } else { "False" }).to_owned(),
        Scalar::Integer(x) => x.to_string(),
        Scalar::Float(x) => format_float(x, dtype),
    });
    let wrong = || Reason::new(format!("{} as strings", tensor.ty()));
    Strings::new(tensor.ty().shape.clone(), strings.collect()).ok_or_else(wrong)
}

fn format_float(x: f64, dtype: DataType) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let shortest = match dtype {
        DataType::F64 => format!("{x:e}"),
        DataType::F32 => format!("{:e}", x as f32),
        // The fewest digits that are read as the same number of the type.
        _ => {
            let is_same = |text: &str| {
                let mut bytes = Vec::new();
                let read = text.parse::<f64>().ok().map(Scalar::Float);
                read.and_then(|read| read.write(dtype, Rules::default(), &mut bytes)).is_some()
                    && Scalar::read(dtype, &bytes) == Some(Scalar::Float(x))
            };
            let candidates = (0..17).map(|digits| format!("{x:.digits$e}"));
            candidates.into_iter().find(|text| is_same(text)).unwrap_or_else(|| format!("{x:e}"))
        }
    };
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    if !(-4..16).contains(&exponent) {
        let point = if digits.len() > 1 { "." } else { "" };
        let (first, rest) = digits.split_at(1);
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}{point}{rest}e{exponent_sign}{:02}", exponent.abs());
    }
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(exponent.unsigned_abs() as usize - 1));
    }
    let whole = exponent as usize + 1;
    let padded = format!("{digits:0<whole$}");
    let (whole, fraction) = padded.split_at(whole);
    format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, i64s, import, run, run_values, tensor};

    fn to(dtype: DataType) -> [(&'static str, Attribute); 1] {
        [("to", Attribute::Int(dtype as i64))]
    }

    #[test]
    fn values_keep_as_the_type_allows() {
        let x = f32s([3], &[-1.7, 0.0, 2.5]);
        check(("Cast", 13), &to(DataType::I64), &[&x], &i64s([3], &[-1, 0, 2]));
        check(("Cast", 19), &to(DataType::Bool), &[&x], &bools([3], &[true, false, true]));
        check(("Cast", 13), &to(DataType::F32), &[&x], &x);
        let halves = tensor(DataType::F16, [3], &[-1.7, 0.0, 2.5].map(half::f16::from_f32));
        check(("Cast", 13), &to(DataType::F16), &[&x], &halves);
        check(("CastLike", 19), &[], &[x, i64s([1], &[9])], &i64s([3], &[-1, 0, 2]));
    }

    #[test]
    fn small_types_have_a_byte_each() {
        let x = f32s([4], &[-9.7, 7.9, 1000.0, 3.0]);
        check(("Cast", 21), &to(DataType::I4), &[&x], &tensor(DataType::I4, [4], &[7i8, 7, -8, 3]));
        check(("Cast", 25), &to(DataType::U2), &[&x], &tensor(DataType::U2, [4], &[3u8, 3, 0, 3]));
        let nibbles = tensor(DataType::I4, [2], &[-8i8, 7]);
        check(("Cast", 21), &to(DataType::F32), &[&nibbles], &f32s([2], &[-8.0, 7.0]));
        check(("Cast", 21), &to(DataType::I8), &[&nibbles], &tensor(DataType::I8, [2], &[-8i8, 7]));
        let eighths = tensor(DataType::F8E4M3FN, [4], &[0xfeu8, 0x4f, 0x7e, 0x44]);
        let values = f32s([4], &[-1e9, 7.5, 448.0, 3.0]);
        check(("Cast", 19), &to(DataType::F8E4M3FN), &[&values], &eighths);
        check(("CastLike", 19), &[], &[&eighths, &x], &f32s([4], &[-448.0, 7.5, 448.0, 3.0]));
        let infinite = [to(DataType::F8E5M2)[0].clone(), ("saturate", Attribute::Int(0))];
        let expected = tensor(DataType::F8E5M2, [1], &[0xfcu8]);
        check(("Cast", 19), &infinite, &[f32s([1], &[-1e9])], &expected);
    }

    #[test]
    fn strings_spell_numbers() {
        let words = ["1.5", " -INF", "NaN", "1e3"].map(str::to_owned).to_vec();
        let strings = Value::Strings(Strings::new([4], words).unwrap());
        let floats = run_values(("Cast", 13), &to(DataType::F32), &[Some(strings)], 1).unwrap().remove(0);
        let values = floats.as_tensor().unwrap().values::<f32>().into_owned();
        assert_eq!((values[0], values[1], values[3]), (1.5, f32::NEG_INFINITY, 1000.0));
        assert!(values[2].is_nan());

        let large = Strings::new([1], vec![u64::MAX.to_string()]).unwrap();
        let exact = run_values(("Cast", 13), &to(DataType::U64), &[Some(large.into())], 1).unwrap();
        assert_eq!(*exact[0].as_tensor().unwrap().values::<u64>(), [u64::MAX]);

        let wrong = Strings::new([1], vec!["hello".to_owned()]).unwrap();
        let reason = run_values(("Cast", 13), &to(DataType::F32), &[Some(wrong.into())], 1).unwrap_err();
        assert_eq!(reason.what, "the string \"hello\" is no number");
    }

    #[test]
    fn numbers_are_spelled() {
        let spelled = |tensor: Constant| {
            let string = [("to", Attribute::Int(STRING))];
            let output = run_values(("Cast", 13), &string, &[Some(tensor.into())], 1).unwrap().remove(0);
            let Value::Strings(strings) = output else { panic!("{}", output.describe()) };
            strings.data().to_vec()
        };
        let floats = [1.0, 0.1, 1e-5, 1e16, 123_456_790.0, -0.000_25, f32::INFINITY];
        let expected = ["1.0", "0.1", "1e-05", "1e+16", "123456790.0", "-0.00025", "inf"];
        assert_eq!(spelled(f32s([7], &floats)), expected);
        assert_eq!(spelled(i64s([2], &[-7, 30])), ["-7", "30"]);
        assert_eq!(spelled(bools([2], &[true, false])), ["True", "False"]);
        let half = half::f16::from_f32(0.1);
        assert_eq!(spelled(tensor(DataType::F16, [1], &[half])), ["0.1"]);
    }

    #[test]
    fn unknown_types_are_refused() {
        let reason = import(("Cast", 19), &[("to", Attribute::Int(99))], 1, 1).unwrap_err();
        assert_eq!(reason.what, "element type number 99 is not supported");
        assert!(import(("Cast", 19), &[], 1, 1).is_err());
        let mode = [to(DataType::F8E8M0)[0].clone(), ("round_mode", "sideways".into())];
        assert!(import(("Cast", 24), &mode, 1, 1).unwrap_err().what.contains("sideways"));
        assert!(run(("Cast", 19), &to(DataType::C64), &[f32s([1], &[1.0])]).is_err());
    }
}
