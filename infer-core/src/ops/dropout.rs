//! Dropout: the identity in inference; in training elements are dropped at random, the others scaled up.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Dropout.html>
//! Types: f32, f64, f16 and bf16; in inference any.
//! History: the ratio is an attribute before opset 12, an input since, beside `training_mode`; the mask is bool since 10,
//! of the input's type before.
//!
//! The random numbers are those of numpy's `RandomState`, of seed 0 where the model gives none.

use super::movement::{element_bits, fill};
use super::number::{narrowed, tensor_of, widened};
use super::{Blocking, ImportNode, NodeTypes, NodeValues, Operator, Row, expect_dtype};
use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] =
    &[Row { name: "Dropout", domain: "", since: 1, inputs: 1..=3, outputs: 1..=2, import }];

/// Dropout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropout {
    /// Whether the mask is asked for.
    pub mask: bool,
    /// Whether it may be in training, as an input says.
    pub may_train: bool,
    /// Whether the mask is of the input's type, not bool.
    pub typed_mask: bool,
    /// The seed of the random numbers.
    pub seed: i64,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    // Before opset 12 it counts in training alone, which there is no sign of.
    node.attributes.ignore("ratio");
    Ok(Box::new(Dropout {
        mask: node.outputs.get(1).copied().unwrap_or(false),
        may_train: node.inputs.get(2).copied().unwrap_or(false),
        typed_mask: node.opset < 10,
        seed: node.attributes.int("seed")?.unwrap_or(0),
    }))
}

/// What the inputs say, where they are known.
enum Mode {
    Inference,
    Training { ratio: f32 },
}

impl Mode {
    fn of(ratio: Option<&Constant>, training: Option<&Constant>) -> Result<Mode, Reason> {
        if training.is_none_or(|training| training.data().iter().all(|&byte| byte == 0)) {
            return Ok(Mode::Inference);
        }
        let ratio = ratio.map_or(Some(0.5), |ratio| widened(ratio).to_scalar_f32());
        match ratio {
            Some(0.0) => Ok(Mode::Inference),
            Some(ratio) if (0.0..1.0).contains(&ratio) => Ok(Mode::Training { ratio }),
            _ => Err(Reason::new("input `ratio` is no number from 0 to below 1")),
        }
    }
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "Dropout"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        if node.optional(2).is_some() {
            expect_dtype(node.ty(2)?, &[DataType::Bool])?;
        }
        let mut types = vec![ty.clone()];
        if self.mask {
            let dtype = if self.typed_mask { ty.dtype } else { DataType::Bool };
            types.push(TensorType::new(dtype, ty.shape.clone()));
        }
        Ok(types)
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        if self.is_view() {
            return Ok(());
        }
        if let Ok(output) = node.output(0) {
            let input = node.input(0)?;
            let strides = input.ty.strides();
            node.copy_strided(&input, &strides, 0, &output, &input.ty.shape)?;
        }
        match node.output(1) {
            Ok(mask) => {
                let one = element_bits(mask.ty.dtype, 1.0);
                fill(node, &mask, one)
            }
            Err(_) => Ok(()),
        }
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        let unknown = |index| node.optional(index).is_some() && node.constant(index).is_none();
        match node.constant(2) {
            _ if unknown(2) => true,
            None => false,
            training if unknown(1) => !matches!(Mode::of(None, training), Ok(Mode::Inference)),
            training => !matches!(Mode::of(node.constant(1), training), Ok(Mode::Inference)),
        }
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let Mode::Training { ratio } = Mode::of(node.optional_tensor(1)?, node.optional_tensor(2)?)? else {
            return Ok(None);
        };
        let input = node.tensor(0)?;
        let dtype = input.ty().dtype;
        expect_dtype(input.ty(), &[DataType::F32, DataType::F64, DataType::F16, DataType::Bf16])?;
        let shape = &input.ty().shape;
        let mut random = MersenneTwister::new(self.seed as u32);
        let kept: Vec<bool> =
            (0..input.ty().elements()).map(|_| random.uniform() >= f64::from(ratio)).collect();
        let scale = 1.0 / (1.0 - ratio);
        let output = if dtype == DataType::F64 {
            let values = input.values::<f64>();
            let scaled = values.iter().zip(&kept).map(|(x, &kept)| x * f64::from(kept) * f64::from(scale));
            tensor_of(dtype, shape, &scaled.collect::<Vec<f64>>())?
        } else {
            let wide = widened(input);
            let values = wide.values::<f32>();
            let scaled = values.iter().zip(&kept).map(|(x, &kept)| x * f32::from(kept) * scale);
            narrowed(tensor_of(DataType::F32, shape, &scaled.collect::<Vec<f32>>())?, dtype)
        };
        Ok(Some(vec![output.into(), tensor_of(DataType::Bool, shape, &kept)?.into()]))
    }

    fn is_view(&self) -> bool {
        !self.mask && !self.may_train
    }

    fn blocking(&self, _node: &NodeTypes<'_>) -> Blocking {
        if self.is_view() { Blocking::Follows } else { Blocking::Never }
    }
}

/// How many words the generator's state has.
const WORDS: usize = 624;

/// The generator MT19937.
struct MersenneTwister {
    state: [u32; WORDS],
    next: usize,
}

impl MersenneTwister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        for at in 1..WORDS {
            let previous = state[at - 1] ^ (state[at - 1] >> 30);
            state[at] = previous.wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        MersenneTwister { state, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for at in 0..WORDS {
                let joined = (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % WORDS] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[at] = self.state[(at + 397) % WORDS] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number from 0 to below 1, of 53 random bits.
    fn uniform(&mut self) -> f64 {
        let (high, low) = (f64::from(self.word() >> 5), f64::from(self.word() >> 6));
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, import, run, run_all};

    #[test]
    fn inference_passes_its_input_and_a_mask_of_ones() {
        let input = f32s([2], &[1.0, 2.0]);
        check(("Dropout", 7), &[("ratio", Attribute::Float(0.3))], std::slice::from_ref(&input), &input);
        let outputs = run_all(("Dropout", 13), &[], &[Some(input.clone())], 2).unwrap();
        assert_eq!(outputs, [input.clone(), bools([2], &[true, true])]);
        let outputs = run_all(("Dropout", 7), &[], &[Some(input.clone())], 2).unwrap();
        assert_eq!(outputs, [input.clone(), f32s([2], &[1.0, 1.0])]);
        let train = |ratio| [input.clone(), f32s([], &[ratio]), bools([], &[true])];
        assert_eq!(run(("Dropout", 13), &[], &train(0.0)), Ok(input.clone()));
        assert!(run(("Dropout", 13), &[], &train(1.0)).is_err());
    }

    #[test]
    fn training_drops_as_numpy_does() {
        let mut random = MersenneTwister::new(0);
        assert_eq!([random.uniform(), random.uniform()], [0.548_813_503_927_324_8, 0.715_189_366_372_419_5]);
        let inputs = [Some(f32s([2], &[1.0, 2.0])), Some(f32s([], &[0.6])), Some(bools([], &[true]))];
        let outputs = run_all(("Dropout", 13), &[("seed", 0.into())], &inputs, 2).unwrap();
        assert_eq!(outputs[1], bools([2], &[false, true]));
        assert_eq!(outputs[0].values::<f32>()[0], 0.0);
        assert!((outputs[0].values::<f32>()[1] - 5.0).abs() < 1e-5);
        let op = import(("Dropout", 13), &[], 3, 1).unwrap();
        let types = [TensorType::new(DataType::F32, [2]), TensorType::new(DataType::Bool, [])];
        let unknown = |ty| Some(super::super::InputType { ty, constant: None });
        let inputs = [unknown(&types[0]), None, unknown(&types[1])];
        assert!(op.is_host(&NodeTypes { inputs: &inputs, outputs: &[true] }));
    }
}
