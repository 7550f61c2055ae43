//! Layer normalisations of com.microsoft together with the additions before them: SkipLayerNormalization,
//! SkipSimplifiedLayerNormalization, EmbedLayerNormalization.
//!
//! Specification: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>
//! Types: f32; f16 and bf16 compute in f32.
//! History: version 1 alone.

use super::attention_contrib::FLOATS;
use super::attention_core::{cast, expand, expect_broadcast, expect_shape, reshape, scalar, slice};
use super::normalization_expanded::rms_normalized;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "EmbedLayerNormalization",
        domain: "com.microsoft",
        since: 1,
        inputs: 7..=9,
        outputs: 1..=3,
        import: import_embed,
    },
    Row {
        name: "SkipLayerNormalization",
        domain: "com.microsoft",
        since: 1,
        inputs: 3..=5,
        outputs: 1..=4,
        import: import_skip,
    },
    Row {
        name: "SkipSimplifiedLayerNormalization",
        domain: "com.microsoft",
        since: 1,
        inputs: 3..=4,
        outputs: 1..=4,
        import: import_skip,
    },
];

fn epsilon(node: &mut ImportNode, default: f32) -> Result<f32, Reason> {
    Ok(node.attributes.float("epsilon")?.unwrap_or(default))
}

/// The normalisation of a sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SkipLayerNormalization {
    /// Whether the mean stays.
    pub simplified: bool,
    /// Added to the variance, or to the mean square.
    pub epsilon: f32,
}

fn import_skip(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let simplified = node.op_type == "SkipSimplifiedLayerNormalization";
    Ok(Box::new(SkipLayerNormalization { simplified, epsilon: epsilon(node, 1e-12)? }))
}

/// Mean and inverse standard deviation along the last axis.
fn statistics(nodes: &mut Expansion<'_>, x: Wire, epsilon: f32) -> Result<[Wire; 2], Reason> {
    let axes = nodes.i64s(&[-1]);
    let mean = nodes.node("ReduceMean", &[x, axes], &[])?;
    let centred = nodes.node("Sub", &[x, mean], &[])?;
    let squares = nodes.node("Mul", &[centred, centred], &[])?;
    let variance = nodes.node("ReduceMean", &[squares, axes], &[])?;
    let epsilon = scalar(nodes, DataType::F32, epsilon.into())?;
    let variance = nodes.node("Add", &[variance, epsilon], &[])?;
    let deviation = nodes.node("Sqrt", &[variance], &[])?;
    Ok([mean, nodes.node("Reciprocal", &[deviation], &[])?])
}

/// Layer normalisation over the last axis, in f32.
fn layer_norm(
    nodes: &mut Expansion<'_>,
    x: Wire,
    gamma: Wire,
    beta: Option<Wire>,
    epsilon: f32,
) -> Result<Wire, Reason> {
    let attributes = [("axis", (-1).into()), ("epsilon", epsilon.into())];
    let outputs = nodes.nodes_of("", "LayerNormalization", &[Some(x), Some(gamma), beta], &attributes, 1)?;
    outputs.first().copied().ok_or_else(|| Reason::new("a normalisation without output"))
}

impl Operator for SkipLayerNormalization {
    fn name(&self) -> &'static str {
        if self.simplified { "SkipSimplifiedLayerNormalization" } else { "SkipLayerNormalization" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let ty = nodes.types.ty(0)?.clone();
        expect_dtype(&ty, FLOATS)?;
        let size = *ty.shape.last().ok_or_else(|| Reason::new("`input` has no dimensions"))?;
        let f32_input = |nodes: &mut Expansion<'_>, index: usize| match nodes.optional_input(index) {
            Some(wire) => cast(nodes, wire, DataType::F32).map(Some),
            None => Ok(None),
        };
        expect_broadcast("skip", nodes.types.ty(1)?, &ty.shape)?;
        let (bias_index, beta_index) = if self.simplified { (3, None) } else { (4, Some(3)) };
        for (index, name) in [(Some(2), "gamma"), (beta_index, "beta"), (Some(bias_index), "bias")] {
            if let Some(vector) = index.and_then(|index| nodes.types.optional(index)) {
                expect_shape(name, vector, &[size])?;
            }
        }
        let missing = || Reason::new("one of inputs 0 to 2 is missing");
        let x = f32_input(nodes, 0)?.ok_or_else(missing)?;
        let skip = f32_input(nodes, 1)?.ok_or_else(missing)?;
        let gamma = f32_input(nodes, 2)?.ok_or_else(missing)?;
        let mut sum = nodes.node("Add", &[x, skip], &[])?;
        if let Some(bias) = f32_input(nodes, bias_index)? {
            sum = nodes.node("Add", &[sum, bias], &[])?;
        }
        let (output, mut saved) = if self.simplified {
            let attributes = [("axis", (-1).into()), ("epsilon", self.epsilon.into())];
            let output = nodes.node("RMSNormalization", &[sum, gamma], &attributes)?;
            (output, [output, output])
        } else {
            let beta = match beta_index {
                Some(index) => f32_input(nodes, index)?,
                None => None,
            };
            let output = layer_norm(nodes, sum, gamma, beta, self.epsilon)?;
            (output, [output, output])
        };
        if nodes.types.wants(1) || nodes.types.wants(2) {
            saved = if self.simplified {
                [rms_normalized(nodes, sum, ty.rank() - 1, self.epsilon)?.1; 2]
            } else {
                statistics(nodes, sum, self.epsilon)?
            };
        }
        let output = cast(nodes, output, ty.dtype)?;
        let sum = cast(nodes, sum, ty.dtype)?;
        Ok(Some(vec![output, saved[0], saved[1], sum]))
    }
}

/// EmbedLayerNormalization: the embeddings of words, positions and segments, added and normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbedLayerNormalization {
    /// Added to the variance.
    pub epsilon: f32,
}

fn import_embed(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    // It says whether the mask index is computed, which is asked for or not.
    node.attributes.ignore("mask_index_type");
    Ok(Box::new(EmbedLayerNormalization { epsilon: epsilon(node, 1e-12)? }))
}

impl Operator for EmbedLayerNormalization {
    fn name(&self) -> &'static str {
        "EmbedLayerNormalization"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (ids, word_table, position_table) = (nodes.input(0)?, nodes.input(2)?, nodes.input(3)?);
        let ty = nodes.ty(ids)?.clone();
        let &[batch, rows] = ty.shape.as_slice() else {
            return Err(Reason::new(format!("`input_ids` is {ty}, not of 2 dimensions")));
        };
        let dtype = nodes.ty(word_table)?.dtype;
        expect_dtype(nodes.ty(word_table)?, FLOATS)?;
        for table in [Some(word_table), Some(position_table), nodes.optional_input(4)].into_iter().flatten() {
            if nodes.ty(table)?.rank() != 2 {
                return Err(Reason::new(format!("an embedding is {}, not a matrix", nodes.ty(table)?)));
            }
        }
        let axis = [("axis", 0.into())];
        let words = nodes.node("Gather", &[word_table, ids], &axis)?;
        let places = match nodes.optional_input(8) {
            Some(given) => nodes.node("Gather", &[position_table, given], &axis)?,
            None => {
                let table = nodes.ty(position_table)?.clone();
                if table.shape.first().is_none_or(|&most| most < rows) {
                    return Err(Reason::new(format!("{rows} positions of a table {table}")));
                }
                slice(nodes, position_table, 0, 0, rows)?
            }
        };
        let mut sum = nodes.node("Add", &[words, places], &[])?;
        if let (Some(segments), Some(table)) = (nodes.optional_input(1), nodes.optional_input(4)) {
            let segments = nodes.node("Gather", &[table, segments], &axis)?;
            sum = nodes.node("Add", &[sum, segments], &[])?;
        }
        let size = nodes.shape(word_table)?.last().copied().unwrap_or(0);
        expect_shape("embedding_sum", nodes.ty(sum)?, &[batch, rows, size])?;
        let (gamma, beta) = (nodes.input(5)?, nodes.input(6)?);
        let x = cast(nodes, sum, DataType::F32)?;
        let (gamma, beta) = (cast(nodes, gamma, DataType::F32)?, cast(nodes, beta, DataType::F32)?);
        let output = layer_norm(nodes, x, gamma, Some(beta), self.epsilon)?;
        let output = cast(nodes, output, dtype)?;
        let lengths = match nodes.optional_input(7).filter(|_| nodes.types.wants(1)) {
            Some(mask) => {
                let one = nodes.constant(Constant::of(TensorType::new(DataType::I32, []), &[1i32]));
                let mask = cast(nodes, mask, DataType::I32)?;
                let is_one = nodes.node("Equal", &[mask, one], &[])?;
                let ones = cast(nodes, is_one, DataType::I32)?;
                let last = nodes.i64s(&[-1]);
                nodes.node("ReduceSum", &[ones, last], &[("keepdims", 0.into())])?
            }
            None => {
                let zero = nodes.constant(Constant::of(TensorType::new(DataType::I32, [1]), &[0i32]));
                expand(nodes, zero, &[batch])?
            }
        };
        let lengths = reshape(nodes, lengths, &[batch])?;
        let lengths = cast(nodes, lengths, ty.dtype)?;
        Ok(Some(vec![output, lengths, sum]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{f32s, run_all, tensor};

    fn close(actual: &Constant, expected: &[f32]) {
        let actual = actual.values::<f32>();
        assert_eq!(actual.len(), expected.len());
        assert!(actual.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-5), "{actual:?} {expected:?}");
    }

    #[test]
    fn sums_are_normalised_and_given() {
        let vector = |values: [f32; 2]| Some(f32s([2], &values));
        let (x, skip) = (Some(f32s([1, 1, 2], &[1.0, 2.0])), Some(f32s([1, 2], &[1.0, 4.0])));
        let inputs = [x.clone(), skip.clone(), vector([1.0, 2.0]), vector([0.0, 1.0]), vector([1.0, 1.0])];
        let outputs = run_all(("com.microsoft::SkipLayerNormalization", 1), &[], &inputs, 4).unwrap();
        close(&outputs[0], &[-1.0, 3.0]);
        close(&outputs[1], &[5.0]);
        close(&outputs[2], &[0.5]);
        close(&outputs[3], &[3.0, 7.0]);
        let inputs = [x, skip, vector([1.0, 1.0]), vector([-1.0, 1.0])];
        let outputs =
            run_all(("com.microsoft::SkipSimplifiedLayerNormalization", 1), &[], &inputs, 4).unwrap();
        close(&outputs[0], &[1.0 / 5.0, 7.0 / 5.0]);
        close(&outputs[3], &[1.0, 7.0]);
    }

    #[test]
    fn embeddings_are_added() {
        let ids = Some(tensor(DataType::I32, [1, 2], &[1i32, 0]));
        let mask = Some(tensor(DataType::I32, [1, 2], &[1i32, 0]));
        let words = Some(f32s([2, 2], &[0.0, 0.0, 1.0, 5.0]));
        let places = Some(f32s([3, 2], &[0.0, 0.0, 1.0, -1.0, 9.0, 9.0]));
        let (gamma, beta) = (Some(f32s([2], &[1.0; 2])), Some(f32s([2], &[0.0; 2])));
        let inputs = [ids, None, words, places, None, gamma, beta, mask];
        let outputs = run_all(("com.microsoft::EmbedLayerNormalization", 1), &[], &inputs, 3).unwrap();
        close(&outputs[0], &[-1.0, 1.0, 1.0, -1.0]);
        assert_eq!(*outputs[1].values::<i32>(), [1]);
        close(&outputs[2], &[1.0, 5.0, 1.0, -1.0]);
    }

    #[test]
    fn vectors_of_another_size_are_refused() {
        let x = || Some(f32s([1, 1, 2], &[1.0, 2.0]));
        let inputs = [x(), x(), Some(f32s([3], &[1.0; 3]))];
        assert!(run_all(("com.microsoft::SkipLayerNormalization", 1), &[], &inputs, 1).is_err());
    }
}
