//! Inputs where nobody gives any: seeded, the same on every machine.

use anyhow::{Context, bail};
use infer_core::constant::Constant;
use infer_core::tensor_type::{DataType, TensorType};
use infer_core::value::{ElementType, Strings, Value, ValueType};

use crate::elements;

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
pub struct Random(u64);

/// The most bytes of one random value.
const LARGEST: usize = 1 << 30;

impl Random {
    /// The generator with this seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A value of type `ty`: floats from 0 up to 1, integers and flags 0 or 1 (a mask, or an index into anything),
    /// letters; what only the run knows has two elements.
    pub fn value(&mut self, ty: &ValueType) -> anyhow::Result<Value> {
        Ok(match ty {
            ValueType::Tensor { element, shape } => {
                let shape: Vec<usize> = shape.iter().flatten().map(|extent| extent.unwrap_or(2)).collect();
                self.tensor(*element, shape)?
            }
            ValueType::Sequence(ty) => Value::Sequence(vec![self.value(ty)?, self.value(ty)?]),
            ValueType::Optional(ty) => Value::Optional(Some(Box::new(self.value(ty)?))),
            ValueType::Map { .. } => bail!("there are no random maps; give --inputs"),
        })
    }

    fn tensor(&mut self, element: ElementType, shape: Vec<usize>) -> anyhow::Result<Value> {
        let dtype = match element {
            ElementType::Number(dtype) => dtype,
            ElementType::String => DataType::U8,
        };
        let ty = TensorType::new(dtype, shape);
        let bytes = ty.checked_elements().and_then(|elements| elements.checked_mul(dtype.size_bytes()));
        if bytes.is_none_or(|bytes| bytes > LARGEST) {
            bail!("{ty} is too large for random values; give --inputs");
        }
        if element == ElementType::String {
            let letters = (0..ty.elements()).map(|_| char::from(b'a' + (self.next() % 26) as u8).to_string());
            let strings = Strings::new(ty.shape.clone(), letters.collect());
            return strings.map(Value::Strings).context("a tensor of strings of another size");
        }
        let mut data = Vec::with_capacity(ty.bytes());
        for _ in 0..ty.elements() {
            // 24 bits: exact in f32.
            let unit = (self.next() >> 40) as f64 / (1u64 << 24) as f64;
            elements::push(dtype, unit, &mut data);
        }
        Constant::checked(ty, &data).map(Value::Tensor).context("a tensor of another size")
    }
}
