//! RandomNormal, RandomUniform, RandomNormalLike, RandomUniformLike, Multinomial and Bernoulli: random tensors.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__RandomNormal.html>,
//! <https://onnx.ai/onnx/operators/onnx__RandomUniform.html>,
//! <https://onnx.ai/onnx/operators/onnx__RandomNormalLike.html>,
//! <https://onnx.ai/onnx/operators/onnx__RandomUniformLike.html>,
//! <https://onnx.ai/onnx/operators/onnx__Multinomial.html>, <https://onnx.ai/onnx/operators/onnx__Bernoulli.html>
//! Types: f64, f32, f16, bf16; Multinomial gives i32 and i64, Bernoulli every type of numbers and bool.
//! History: since opset 1, Multinomial 7, Bernoulli 15; 22 adds bf16.
//!
//! With a seed the values are the same at every run on every machine; without one they differ from run to run. The
//! specification names no generator: here it is xoshiro256++ (Blackman and Vigna), its state filled by SplitMix64.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use super::elements::checked_elements;
use super::number::{of_f64s, to_f64s};
use crate::diagnostic::Reason;
use crate::ops::{ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "RandomNormal", domain: "", since: 1, inputs: 0..=0, outputs: 1..=1, import: import_filled },
    Row { name: "RandomUniform", domain: "", since: 1, inputs: 0..=0, outputs: 1..=1, import: import_filled },
    Row {
        name: "RandomNormalLike",
        domain: "",
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_filled,
    },
    Row {
        name: "RandomUniformLike",
        domain: "",
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_filled,
    },
    Row {
        name: "Multinomial",
        domain: "",
        since: 7,
        inputs: 1..=1,
        outputs: 1..=1,
        import: import_multinomial,
    },
    Row { name: "Bernoulli", domain: "", since: 15, inputs: 1..=1, outputs: 1..=1, import: import_bernoulli },
];

const FLOATS: [DataType; 4] = [DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];

/// A source of random numbers.
struct Generator {
    state: [u64; 4],
}

impl Generator {
    /// One whose numbers follow from `seed`, or differ at every run.
    fn new(seed: Option<f32>) -> Self {
        let mut seed = match seed {
            Some(seed) => seed.to_bits().into(),
            None => RandomState::new().build_hasher().finish(),
        };
        Generator { state: [(); 4].map(|()| split_mix(&mut seed)) }
    }

    fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number from 0, below 1.
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Two independent numbers of mean 0 and variance 1, by Box and Muller's method.
    fn normals(&mut self) -> [f64; 2] {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        let angle = 2.0 * std::f64::consts::PI * self.uniform();
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What values are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Distribution {
    Normal { mean: f64, scale: f64 },
    Uniform { low: f64, high: f64 },
}

/// RandomNormal, RandomUniform, RandomNormalLike or RandomUniformLike.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    distribution: Distribution,
    /// The type of the elements; `None` for that of input 0.
    dtype: Option<DataType>,
    /// The extents; `None` for those of input 0.
    shape: Option<Vec<usize>>,
    seed: Option<f32>,
}

/// Multinomial: indices drawn with the probabilities whose logarithms, up to a constant, are the rows of input 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Multinomial {
    dtype: DataType,
    samples: usize,
    seed: Option<f32>,
}

/// Bernoulli: 1 with the probability that input 0 says, else 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Bernoulli {
    /// The type of the elements; `None` for that of input 0.
    dtype: Option<DataType>,
    seed: Option<f32>,
}

/// The element type that attribute `dtype` names, one of `supported`.
fn dtype_attribute(node: &mut ImportNode, supported: &[DataType]) -> Result<Option<DataType>, Reason> {
    let Some(code) = node.attributes.int("dtype")? else { return Ok(None) };
    let dtype = i32::try_from(code).ok().and_then(DataType::from_onnx);
    let unsupported = || Reason::new(format!("element type number {code} is not supported"));
    let dtype = dtype.ok_or_else(unsupported)?;
    expect_dtype(&TensorType::new(dtype, []), supported)?;
    Ok(Some(dtype))
}

fn import_filled(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let mut number = |name, default| Ok(f64::from(node.attributes.float(name)?.unwrap_or(default)));
    let distribution = if node.op_type.starts_with("RandomNormal") {
        Distribution::Normal { mean: number("mean", 0.0)?, scale: number("scale", 1.0)? }
    } else {
        Distribution::Uniform { low: number("low", 0.0)?, high: number("high", 1.0)? }
    };
    let dtype = dtype_attribute(node, &FLOATS)?;
    let seed = node.attributes.float("seed")?;
    if node.op_type.ends_with("Like") {
        return Ok(Box::new(Filled { distribution, dtype, shape: None, seed }));
    }
    let shape = node.attributes.ints("shape")?.ok_or_else(|| Reason::new("attribute `shape` is missing"))?;
    let extents = shape.iter().map(|&extent| usize::try_from(extent)).collect::<Result<Vec<_>, _>>();
    let shape = extents.map_err(|_| Reason::new(format!("shape {shape:?} has negative extents")))?;
    Ok(Box::new(Filled { distribution, dtype: dtype.or(Some(DataType::F32)), shape: Some(shape), seed }))
}

fn import_multinomial(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let samples = node.attributes.int("sample_size")?.unwrap_or(1);
    Ok(Box::new(Multinomial {
        dtype: dtype_attribute(node, &[DataType::I32, DataType::I64])?.unwrap_or(DataType::I32),
        samples: usize::try_from(samples)
            .map_err(|_| Reason::new(format!("sample_size is {samples}, not a number of samples")))?,
        seed: node.attributes.float("seed")?,
    }))
}

fn import_bernoulli(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let complex = [DataType::C64, DataType::C128];
    let numbers =
        |dtype: &DataType| !dtype.is_small_float() && dtype.packed_bits() >= 8 && !complex.contains(dtype);
    let supported: Vec<DataType> = DataType::ALL.into_iter().filter(numbers).collect();
    Ok(Box::new(Bernoulli {
        dtype: dtype_attribute(node, &supported)?,
        seed: node.attributes.float("seed")?,
    }))
}

impl Filled {
    fn ty(&self, input: Option<&TensorType>) -> Result<TensorType, Reason> {
        let missing = || Reason::new("input 0 is missing");
        let shape = match &self.shape {
            Some(shape) => shape.clone(),
            None => input.ok_or_else(missing)?.shape.clone(),
        };
        let dtype = match self.dtype {
            Some(dtype) => dtype,
            None => input.ok_or_else(missing)?.dtype,
        };
        let ty = TensorType::new(dtype, shape);
        expect_dtype(&ty, &FLOATS)?;
        checked_elements(&ty)?;
        Ok(ty)
    }
}

impl Operator for Filled {
    fn name(&self) -> &'static str {
        match (self.distribution, &self.shape) {
            (Distribution::Normal { .. }, Some(_)) => "RandomNormal",
            (Distribution::Normal { .. }, None) => "RandomNormalLike",
            (Distribution::Uniform { .. }, Some(_)) => "RandomUniform",
            (Distribution::Uniform { .. }, None) => "RandomUniformLike",
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![self.ty(node.optional(0))?])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn is_nondeterministic(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let like = match node.optional(0) {
            None => None,
            Some(Value::Tensor(tensor)) => Some(tensor.ty().clone()),
            // Strings say how many values there are, not of which type: where `dtype` is missing, none.
            Some(Value::Strings(strings)) => Some(TensorType::new(DataType::Bool, strings.shape())),
            Some(other) => return Err(Reason::new(format!("input 0 is {}, not a tensor", other.describe()))),
        };
        let ty = self.ty(like.as_ref())?;
        let mut generator = Generator::new(self.seed);
        let mut values = vec![0f64; ty.elements()];
        match self.distribution {
            Distribution::Uniform { low, high } => {
                for value in &mut values {
                    *value = low + (high - low) * generator.uniform();
                }
            }
            Distribution::Normal { mean, scale } => {
                for pair in values.chunks_mut(2) {
                    for (value, normal) in pair.iter_mut().zip(generator.normals()) {
                        *value = mean + scale * normal;
                    }
                }
            }
        }
        Ok(Some(vec![Value::Tensor(of_f64s(ty, values)?)]))
    }
}

impl Multinomial {
    fn ty(&self, input: &TensorType) -> Result<TensorType, Reason> {
        expect_dtype(input, &FLOATS)?;
        let [rows, classes] = input.shape[..] else {
            return Err(Reason::new(format!("input 0 is {input}, not of two dimensions")));
        };
        let ty = TensorType::new(self.dtype, [rows, self.samples]);
        if checked_elements(&ty)? > 0 && classes == 0 {
            return Err(Reason::new(format!("input 0 is {input}: there is no class to draw")));
        }
        Ok(ty)
    }
}

impl Operator for Multinomial {
    fn name(&self) -> &'static str {
        "Multinomial"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![self.ty(node.ty(0)?)?])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn is_nondeterministic(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let input = node.tensor(0)?;
        let ty = self.ty(input.ty())?;
        let logarithms = to_f64s(input)?;
        let mut generator = Generator::new(self.seed);
        let mut drawn = Vec::with_capacity(ty.elements());
        let classes = input.ty().shape.get(1).copied().unwrap_or(0).max(1);
        for row in logarithms.chunks(classes) {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut sum = 0.0;
            let mut sums = Vec::with_capacity(row.len());
            for &logarithm in row {
                // Where all are equal and infinite, all are equally likely.
                let weight = if logarithm == largest { 1.0 } else { libm::exp(logarithm - largest) };
                sum += if weight.is_nan() { 0.0 } else { weight };
                sums.push(sum);
            }
            for _ in 0..self.samples {
                let point = generator.uniform() * sum;
                let class = sums.partition_point(|&sum| sum <= point);
                drawn.push(class.min(row.len() - 1) as f64);
            }
        }
        Ok(Some(vec![Value::Tensor(of_f64s(ty, drawn)?)]))
    }
}

impl Operator for Bernoulli {
    fn name(&self) -> &'static str {
        "Bernoulli"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_dtype(input, &FLOATS)?;
        Ok(vec![TensorType::new(self.dtype.unwrap_or(input.dtype), input.shape.clone())])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn is_nondeterministic(&self) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let input = node.tensor(0)?;
        expect_dtype(input.ty(), &FLOATS)?;
        let ty = TensorType::new(self.dtype.unwrap_or(input.ty().dtype), input.ty().shape.clone());
        let mut generator = Generator::new(self.seed);
        let mut values = to_f64s(input)?;
        for value in &mut values {
            *value = if generator.uniform() < *value { 1.0 } else { 0.0 };
        }
        Ok(Some(vec![Value::Tensor(of_f64s(ty, values)?)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, i64s, import, infer, run, run_all};

    #[test]
    fn the_generator_is_the_published_one() {
        // The first numbers of the authors' code for the state 1, 2, 3, 4.
        let mut generator = Generator { state: [1, 2, 3, 4] };
        assert_eq!([(); 3].map(|()| generator.bits()), [41943041, 58720359, 3588806011781223]);
        let mut seed = 0;
        assert_eq!(split_mix(&mut seed), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn seeds_repeat_and_moments_fit() {
        let seeded = |seed: f32| {
            let attributes: [(&str, Attribute); 4] = [
                ("shape", vec![100i64, 100].into()),
                ("seed", seed.into()),
                ("mean", 3.0.into()),
                ("scale", 2.0.into()),
            ];
            run_all(("RandomNormal", 22), &attributes, &[], 1).unwrap().swap_remove(0)
        };
        let first = seeded(1.0);
        assert_eq!(first, seeded(1.0));
        assert_ne!(first, seeded(2.0));
        let values = to_f64s(&first).unwrap();
        let mean = values.iter().sum::<f64>() / 1e4;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 1e4;
        assert!((mean - 3.0).abs() < 0.1 && (variance - 4.0).abs() < 0.3, "{mean} {variance}");
        let unseeded = || run(("RandomUniformLike", 22), &[], &[&first]).unwrap();
        assert_ne!(unseeded(), unseeded());
    }

    #[test]
    fn probabilities_are_kept() {
        let drawn =
            |op, attributes: &[(&str, Attribute)], input: Constant| run(op, attributes, &[input]).unwrap();
        let certain = f32s([4], &[0.0, 1.0, 1.0, 0.0]);
        let attributes = [("dtype", Attribute::Int(DataType::I64 as i64))];
        assert_eq!(drawn(("Bernoulli", 15), &attributes, certain.clone()), i64s([4], &[0, 1, 1, 0]));
        assert_eq!(drawn(("Bernoulli", 22), &[], certain.clone()), certain);
        let attributes = [("sample_size", 1000.into()), ("seed", 0.5.into())];
        let logarithms = f32s([2, 3], &[f32::NEG_INFINITY, 700.0, 700.0, 1.0, -900.0, -900.0]);
        let samples = drawn(("Multinomial", 22), &attributes, logarithms);
        assert_eq!(samples.ty(), &TensorType::new(DataType::I32, [2, 1000]));
        let samples = samples.values::<i32>();
        let ones = samples[..1000].iter().filter(|&&class| class == 1).count();
        assert!(!samples[..1000].contains(&0) && (400..600).contains(&ones), "{ones}");
        assert!(samples[1000..].iter().all(|&class| class == 0));
    }

    #[test]
    fn wrong_requests_are_refused() {
        assert!(import(("RandomUniform", 1), &[], 0, 1).is_err());
        assert!(import(("RandomUniform", 1), &[("shape", vec![-1i64].into())], 0, 1).is_err());
        let huge = [("shape", Attribute::Ints(vec![1 << 40]))];
        assert!(run_all(("RandomUniform", 1), &huge, &[], 1).is_err());
        assert!(infer(("RandomNormalLike", 1), &[], &[TensorType::new(DataType::I64, [2])]).is_err());
        assert!(infer(("Multinomial", 7), &[], &[TensorType::new(DataType::F32, [2])]).is_err());
    }
}
