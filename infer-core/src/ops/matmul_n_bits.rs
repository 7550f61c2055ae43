//! MatMulNBits of com.microsoft: a product with weights of 2, 4 or 8 bits in blocks of a scale each.
//!
//! Specification: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits>
//! Types: f32, f16 and bf16; weights known while compiling, or at run time node by node.
//! History: version 1.

use super::compose::{cast, wide_input};
use super::elements::checked_elements;
use super::number::{tensor_of, to_f64s};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] =
    &[Row { name: "MatMulNBits", domain: "com.microsoft", since: 1, inputs: 3..=6, outputs: 1..=1, import }];

/// A · dequantise(B)ᵀ + bias, `B` being `[N, blocks of K, bytes of a block]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMulNBits {
    /// The columns of A.
    pub k: usize,
    /// The columns of the product.
    pub n: usize,
    /// The bits of a weight.
    pub bits: usize,
    /// Weights along K that share a scale.
    pub block_size: usize,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    node.attributes.ignore("accuracy_level");
    let mut size = |name: &str, default: Option<i64>| {
        let value = node.attributes.int(name)?.or(default);
        let value = value.ok_or_else(|| Reason::new(format!("attribute `{name}` is missing")))?;
        let in_range = usize::try_from(value).ok().filter(|size| (1..1 << 28).contains(size));
        in_range.ok_or_else(|| Reason::new(format!("{name} is {value}, which is no extent")))
    };
    let op = MatMulNBits {
        k: size("K", None)?,
        n: size("N", None)?,
        bits: size("bits", Some(4))?,
        block_size: size("block_size", None)?,
    };
    if !matches!(op.bits, 2 | 4 | 8) {
        return Err(Reason::new(format!("weights of {} bits", op.bits)).supported("2, 4, 8"));
    }
    if node.inputs.get(4) == Some(&true) {
        return Err(Reason::new("input `g_idx` is not supported"));
    }
    Ok(Box::new(op))
}

impl MatMulNBits {
    /// The weights as f32 `[K, N]`.
    fn weights(&self, b: &Constant, scales: &Constant, zeros: Option<&Constant>) -> Result<Constant, Reason> {
        let blocks = self.k.div_ceil(self.block_size);
        let block_bytes = (self.block_size * self.bits).div_ceil(8);
        let ty = TensorType::new(DataType::F32, [self.k, self.n]);
        let elements = checked_elements(&ty)?;
        expect_dtype(b.ty(), &[DataType::U8])?;
        let expected = (self.n * blocks).checked_mul(block_bytes);
        if Some(b.ty().elements()) != expected {
            return Err(Reason::new(format!("weights {} for K {} and N {}", b.ty(), self.k, self.n)));
        }
        if scales.ty().elements() != self.n * blocks {
            return Err(Reason::new(format!("scales {} for {} blocks", scales.ty(), self.n * blocks)));
        }
        let scales = to_f64s(scales)?;
        let row_bytes = (blocks * self.bits).div_ceil(8);
        let is_packed = zeros.is_some_and(|zeros| zeros.ty().dtype == DataType::U8);
        if let Some(zeros) = zeros {
            let expected = self.n * if is_packed { row_bytes } else { blocks };
            if zeros.ty().elements() != expected {
                return Err(Reason::new(format!("zero points {}, not {expected}", zeros.ty())));
            }
        }
        let zero_values = zeros.filter(|_| !is_packed).map(to_f64s).transpose()?;
        let mask = ((1u16 << self.bits) - 1) as u8;
        let per_byte = 8 / self.bits;
        let read = |bytes: &[u8], start: usize, index: usize| -> u8 {
            let byte = bytes.get(start + index / per_byte).copied().unwrap_or(0);
            byte >> (index % per_byte * self.bits) & mask
        };
        let mut weights = vec![0f32; elements];
        for column in 0..self.n {
            for row in 0..self.k {
                let (block, inside) = (row / self.block_size, row % self.block_size);
                let number = column * blocks + block;
                let weight = read(b.data(), number * block_bytes, inside);
                let zero = match (&zero_values, zeros) {
                    (Some(values), _) => values.get(number).copied().unwrap_or(0.0),
                    (None, Some(zeros)) => read(zeros.data(), column * row_bytes, block).into(),
                    (None, None) => f64::from(1u32 << (self.bits - 1)),
                };
                let scale = scales.get(number).copied().unwrap_or(0.0);
                if let Some(slot) = weights.get_mut(row * self.n + column) {
                    *slot = ((f64::from(weight) - zero) * scale) as f32;
                }
            }
        }
        tensor_of(ty.dtype, &ty.shape, &weights)
    }
}

impl Operator for MatMulNBits {
    fn name(&self) -> &'static str {
        "MatMulNBits"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let input = nodes.types.ty(0)?.clone();
        expect_dtype(&input, &[DataType::F32, DataType::F16, DataType::Bf16])?;
        let missing = |name: &str| Reason::new(format!("input `{name}` is missing"));
        let b = nodes.types.known(1, "B")?.ok_or_else(|| missing("B"))?;
        let scales = nodes.types.known(2, "scales")?.ok_or_else(|| missing("scales"))?;
        let zeros = nodes.types.known(3, "zero_points")?;
        let weights = self.weights(b, scales, zeros)?;
        let weights = nodes.constant(weights);
        let a = wide_input(nodes, 0)?;
        let mut y = nodes.node("MatMul", &[a, weights], &[])?;
        if nodes.optional_input(5).is_some() {
            let bias = wide_input(nodes, 5)?;
            y = nodes.node("Add", &[y, bias], &[])?;
        }
        Ok(Some(vec![cast(nodes, y, input.dtype)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, import, tensor};

    fn attributes(k: i64, n: i64) -> [(&'static str, Attribute); 4] {
        let int = |name, value| (name, Attribute::Int(value));
        [int("K", k), int("N", n), int("bits", 4), int("block_size", 16)]
    }

    #[test]
    fn nibbles_are_weights() {
        // One column of 18 weights: 8 + row, in two blocks, the second filled up.
        let mut bytes = [0u8; 16];
        for row in 0..18usize {
            bytes[row / 2] |= ((8 + row % 8) as u8) << (row % 2 * 4);
        }
        let b = tensor(DataType::U8, [1, 2, 8], &bytes);
        let scales = f32s([2], &[1.0, 10.0]);
        let a = f32s([1, 18], &[1.0; 18]);
        // Twice 0 + … + 7, and 10·(0 + 1).
        check(
            ("com.microsoft::MatMulNBits", 1),
            &attributes(18, 1),
            &[&a, &b, &scales],
            &f32s([1, 1], &[66.0]),
        );
        // Zero points of 9 and 7, packed: each weight is one less, or one more.
        let zeros = tensor(DataType::U8, [1], &[0x79u8]);
        let inputs = [&a, &b, &scales, &zeros];
        check(("com.microsoft::MatMulNBits", 1), &attributes(18, 1), &inputs, &f32s([1, 1], &[70.0]));
    }

    #[test]
    fn odd_widths_are_refused() {
        let mut odd = attributes(16, 1);
        odd[2].1 = Attribute::Int(3);
        let reason = import(("com.microsoft::MatMulNBits", 1), &odd, 3, 1).unwrap_err();
        assert_eq!(reason.what, "weights of 3 bits");
        odd[2].1 = Attribute::Int(4);
        assert!(import(("com.microsoft::MatMulNBits", 1), &odd, 5, 1).is_err());
    }
}
