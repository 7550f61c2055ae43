//! Attention and MultiHeadAttention of com.microsoft: attention with projection, masks of integers, and a cache.
//!
//! Specification: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Attention>,
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention>
//! Types: f32; f16 and bf16 compute in f32. Masks are i32.
//! History: version 1 alone. Buffers shared between past and present are not supported.
//!
//! Masked keys get `mask_filter_value` added to their scores, so that a row without any other key still attends them;
//! keys after a query are excluded altogether.

use super::attention::{head_count, scale_of};
use super::attention_core::{
    Attend, Mask, Scores, cast, expect_broadcast, extents, merge_heads, positions, reshape, scalar, slice,
    split, split_heads, transpose, with_heads,
};
use super::group_query_attention;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::DataType;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "Attention",
        domain: "com.microsoft",
        since: 1,
        inputs: 2..=7,
        outputs: 1..=2,
        import: import_attention,
    },
    Row {
        name: "MultiHeadAttention",
        domain: "com.microsoft",
        since: 1,
        inputs: 1..=10,
        outputs: 1..=4,
        import: import_multi_head,
    },
    Row {
        name: "GroupQueryAttention",
        domain: "com.microsoft",
        since: 1,
        inputs: 7..=16,
        outputs: 1..=4,
        import: group_query_attention::import,
    },
];

/// The types of queries, keys and values.
pub(super) const FLOATS: &[DataType] = &[DataType::F32, DataType::F16, DataType::Bf16];

/// What the two operators share.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Common {
    num_heads: usize,
    scale: Option<f32>,
    unidirectional: bool,
    mask_filter_value: f32,
}

/// Attention: queries, keys and values are one projection of the input.
#[derive(Clone, Debug, PartialEq)]
struct Attention {
    common: Common,
    /// How the projection divides; equally where it is left out.
    qkv_hidden_sizes: Option<Vec<i64>>,
}

/// MultiHeadAttention: queries, keys and values are given.
#[derive(Clone, Copy, Debug, PartialEq)]
struct MultiHeadAttention {
    common: Common,
}

fn common(node: &mut ImportNode) -> Result<Common, Reason> {
    Ok(Common {
        num_heads: head_count(node.attributes.int("num_heads")?, "num_heads")?,
        scale: scale_attribute(node)?,
        unidirectional: node.attributes.flag("unidirectional", false)?,
        mask_filter_value: node.attributes.float("mask_filter_value")?.unwrap_or(-10000.0),
    })
}

/// The attribute `scale`, which 0 leaves to its default.
pub(super) fn scale_attribute(node: &mut ImportNode) -> Result<Option<f32>, Reason> {
    Ok(node.attributes.float("scale")?.filter(|&scale| scale != 0.0))
}

/// Refuses an input that is there.
pub(super) fn refuse_input(node: &ImportNode, index: usize, name: &str) -> Result<(), Reason> {
    match node.inputs.get(index) {
        Some(true) => Err(Reason::new(format!("input `{name}` is not supported"))),
        _ => Ok(()),
    }
}

/// Refuses an attribute that is a switch and on.
pub(super) fn refuse_flag(node: &mut ImportNode, name: &str) -> Result<(), Reason> {
    match node.attributes.flag(name, false)? {
        true => Err(Reason::new(format!("{name} 1 is not supported")).supported(format!("{name} 0"))),
        false => Ok(()),
    }
}

fn import_attention(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    refuse_flag(node, "do_rotary")?;
    refuse_flag(node, "past_present_share_buffer")?;
    node.attributes.ignore("rotary_embedding_dim");
    let qkv_hidden_sizes = node.attributes.ints("qkv_hidden_sizes")?.filter(|sizes| !sizes.is_empty());
    Ok(Box::new(Attention { common: common(node)?, qkv_hidden_sizes }))
}

fn import_multi_head(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    refuse_input(node, 8, "past_sequence_length")?;
    refuse_input(node, 9, "cache_indirection")?;
    Ok(Box::new(MultiHeadAttention { common: common(node)? }))
}

impl Common {
    /// Adds what a mask of integers says, of which 0 means masked, or which has lengths.
    fn pad(
        &self,
        nodes: &mut Expansion<'_>,
        mask: &mut Mask,
        given: Wire,
        scores: &[usize; 4],
    ) -> Result<(), Reason> {
        let ty = nodes.ty(given)?.clone();
        let [batch, _, rows, total] = *scores;
        let allowed = match *ty.shape.as_slice() {
            [count] if count == batch || count == 2 * batch => {
                let keys = positions(nodes, 0, total, &[1, 1, 1, total])?;
                let lengths = cast(nodes, given, DataType::I64)?;
                let lengths = reshape(nodes, lengths, &[count / batch.max(1), batch, 1, 1, 1])?;
                let ends = slice(nodes, lengths, 0, 0, 1)?;
                let ends = reshape(nodes, ends, &[batch, 1, 1, 1])?;
                let before = nodes.node("Less", &[keys, ends], &[])?;
                if count == batch {
                    before
                } else {
                    let starts = slice(nodes, lengths, 0, 1, 2)?;
                    let starts = reshape(nodes, starts, &[batch, 1, 1, 1])?;
                    let after = nodes.node("GreaterOrEqual", &[keys, starts], &[])?;
                    nodes.node("And", &[before, after], &[])?
                }
            }
            [b, columns] if b == batch && columns == total => {
                let mask = reshape(nodes, given, &[batch, 1, 1, total])?;
                positive(nodes, mask)?
            }
            [b, r, columns] if b == batch && r == rows && columns == total => {
                let mask = reshape(nodes, given, &[batch, 1, rows, total])?;
                positive(nodes, mask)?
            }
            // A square for the longest sequence, of which the rows after the past are those of the queries.
            [b, 1, most, columns] if b == batch && most == columns && total <= most && rows <= total => {
                let mask = slice(nodes, given, 2, total - rows, total)?;
                let mask = slice(nodes, mask, 3, 0, total)?;
                positive(nodes, mask)?
            }
            _ => return Err(Reason::new(format!("a mask {ty} for scores {scores:?} is not supported"))),
        };
        let zero = scalar(nodes, DataType::F32, 0.0)?;
        let masked = scalar(nodes, DataType::F32, self.mask_filter_value.into())?;
        let added = nodes.node("Where", &[allowed, zero, masked], &[])?;
        mask.add(nodes, added, false)
    }

    /// Queries attending keys and values, heads apart: `[B, S, H·Dv]`, and the scores where they are wanted.
    fn attend(
        &self,
        nodes: &mut Expansion<'_>,
        [query, key_transposed, value]: [Wire; 3],
        padding: Option<Wire>,
        added: Option<Wire>,
        scores: Option<Scores>,
    ) -> Result<(Wire, Option<Wire>), Reason> {
        let [batch, heads, rows, size] = extents(nodes, query)?;
        let [_, _, key_size, total] = extents(nodes, key_transposed)?;
        let [_, _, values, _] = extents(nodes, value)?;
        if key_size != size || values != total {
            return Err(Reason::new(format!(
                "heads of {size} with keys of {key_size}, {total} keys with {values} values"
            )));
        }
        let dtype = nodes.ty(query)?.dtype;
        let apart = [batch, heads, rows, total];
        let mut mask = Mask::default();
        if self.unidirectional && rows > 1 {
            let past = total.checked_sub(rows);
            let past =
                past.ok_or_else(|| Reason::new(format!("{rows} queries, but {total} keys before them")))?;
            let own = positions(nodes, past as i64, rows, &[rows, 1])?;
            let keys = positions(nodes, 0, total, &[1, total])?;
            let before = nodes.node("LessOrEqual", &[keys, own], &[])?;
            mask.allow(nodes, before, false)?;
        }
        if let Some(added) = added {
            expect_broadcast("attention_bias", nodes.ty(added)?, &apart)?;
            let added = cast(nodes, added, DataType::F32)?;
            mask.add(nodes, added, false)?;
        }
        if let Some(padding) = padding {
            self.pad(nodes, &mut mask, padding, &apart)?;
        }
        let (bias, masked) = mask.build(nodes, DataType::F32)?;
        let attend = Attend {
            query: cast(nodes, query, DataType::F32)?,
            key_transposed: cast(nodes, key_transposed, DataType::F32)?,
            value: cast(nodes, value, DataType::F32)?,
            scale: scale_of(self.scale, size),
            softcap: 0.0,
            bias,
            masked,
            softmax: DataType::F32,
            sink: None,
            scores,
        };
        let (output, wanted) = attend.build(nodes)?;
        let output = merge_heads(nodes, output)?;
        Ok((cast(nodes, output, dtype)?, wanted))
    }
}

/// Whether integers are positive.
fn positive(nodes: &mut Expansion<'_>, mask: Wire) -> Result<Wire, Reason> {
    if nodes.ty(mask)?.dtype == DataType::Bool {
        return Ok(mask);
    }
    let mask = cast(nodes, mask, DataType::I64)?;
    let zero = nodes.i64s(&[0]);
    nodes.node("Greater", &[mask, zero], &[])
}

/// Pieces of a vector, of these sizes.
fn pieces(nodes: &mut Expansion<'_>, vector: Wire, sizes: &[usize]) -> Result<Vec<Wire>, Reason> {
    let ty = nodes.ty(vector)?;
    if ty.shape != [sizes.iter().fold(0usize, |sum, &size| sum.saturating_add(size))] {
        return Err(Reason::new(format!("`bias` is {ty}, not of {sizes:?} elements")));
    }
    split(nodes, vector, 0, sizes)
}

impl Attention {
    /// The sizes of queries, keys and values of a projection to `width`.
    fn sizes(&self, width: usize) -> Result<[usize; 3], Reason> {
        let Some(given) = &self.qkv_hidden_sizes else { return Ok([width / 3; 3]) };
        let fitting = |&size: &i64| usize::try_from(size).ok().filter(|&size| size <= width);
        let sizes: Vec<usize> = given.iter().filter_map(fitting).collect();
        <[usize; 3]>::try_from(sizes)
            .map_err(|_| Reason::new(format!("qkv_hidden_sizes {given:?} are not three sizes in {width}")))
    }
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (input, weights) = (nodes.input(0)?, nodes.input(1)?);
        let dtype = nodes.ty(input)?.dtype;
        expect_dtype(nodes.ty(input)?, FLOATS)?;
        let heads = self.common.num_heads;
        let input = cast(nodes, input, DataType::F32)?;
        let weights = cast(nodes, weights, DataType::F32)?;
        let mut projected = nodes.node("MatMul", &[input, weights], &[])?;
        if let Some(bias) = nodes.optional_input(2) {
            let bias = cast(nodes, bias, DataType::F32)?;
            projected = nodes.node("Add", &[projected, bias], &[])?;
        }
        let ty = nodes.ty(projected)?.clone();
        let &[_, _, width] = ty.shape.as_slice() else {
            return Err(Reason::new(format!("the projection is {ty}, not of 3 dimensions")));
        };
        let sizes = self.sizes(width)?;
        if sizes.iter().sum::<usize>() != width {
            return Err(Reason::new(format!("{width} projected elements do not divide into {sizes:?}")));
        }
        let [query, key, value] = *split(nodes, projected, 2, &sizes)? else {
            return Err(Reason::new("a projection in other than three pieces"));
        };
        let query = split_heads(nodes, query, heads)?;
        let past = nodes.optional_input(4);
        let mut value = split_heads(nodes, value, heads)?;
        let mut present = None;
        let key_transposed;
        if past.is_none() && !nodes.types.wants(1) {
            let key = with_heads(nodes, key, heads)?;
            key_transposed = transpose(nodes, key, &[0, 2, 3, 1])?;
        } else {
            let mut key = split_heads(nodes, key, heads)?;
            if let Some(past) = past {
                let past = cast(nodes, past, DataType::F32)?;
                let past_ty = nodes.ty(past)?.clone();
                let &[2, b, h, length, size] = past_ty.shape.as_slice() else {
                    return Err(Reason::new(format!("`past` is {past_ty}, not [2, B, H, P, D]")));
                };
                let mut halves = split(nodes, past, 0, &[1, 1])?.into_iter();
                for slot in [&mut key, &mut value] {
                    let half = halves.next().ok_or_else(|| Reason::new("`past` has no halves"))?;
                    let half = reshape(nodes, half, &[b, h, length, size])?;
                    *slot = nodes.node("Concat", &[half, *slot], &[("axis", 2.into())])?;
                }
            }
            key_transposed = transpose(nodes, key, &[0, 1, 3, 2])?;
            if nodes.types.wants(1) {
                let [b, h, total, size] = extents(nodes, key)?;
                let key = reshape(nodes, key, &[1, b, h, total, size])?;
                let [.., value_size] = extents(nodes, value)?;
                let value = reshape(nodes, value, &[1, b, h, total, value_size])?;
                let both = nodes.node("Concat", &[key, value], &[("axis", 0.into())])?;
                present = Some(cast(nodes, both, dtype)?);
            }
        }
        let padding = nodes.optional_input(3);
        let added = nodes.optional_input(5);
        let (output, _) = self.common.attend(nodes, [query, key_transposed, value], padding, added, None)?;
        let output = cast(nodes, output, dtype)?;
        Ok(Some(vec![output, present.unwrap_or(output)]))
    }
}

impl MultiHeadAttention {
    /// Queries, keys and values with heads apart, `[B, H, S, D]`.
    fn inputs(&self, nodes: &mut Expansion<'_>) -> Result<[Wire; 3], Reason> {
        let heads = self.common.num_heads;
        let query = nodes.input(0)?;
        expect_dtype(nodes.ty(query)?, FLOATS)?;
        // Packed: the heads' queries, keys and values beside each other.
        let packed = |nodes: &mut Expansion<'_>, wire: Wire, count: usize| {
            let ty = nodes.ty(wire)?.clone();
            match *ty.shape.as_slice() {
                [batch, rows, h, c, size] if h == heads && c == count => {
                    let wire = transpose(nodes, wire, &[3, 0, 2, 1, 4])?;
                    let parts = split(nodes, wire, 0, &vec![1; count])?;
                    parts
                        .into_iter()
                        .map(|part| reshape(nodes, part, &[batch, heads, rows, size]))
                        .collect::<Result<Vec<Wire>, Reason>>()
                }
                _ => Err(Reason::new(format!("{ty} is not packed as [B, S, {heads}, {count}, D]"))),
            }
        };
        let Some(key) = nodes.optional_input(1) else {
            return match *packed(nodes, query, 3)? {
                [query, key, value] => Ok(self.with_bias(nodes, [query, key, value])?),
                _ => Err(Reason::new("packed inputs of other than three parts")),
            };
        };
        let biased = |nodes: &mut Expansion<'_>, wires: [Wire; 3]| self.with_flat_bias(nodes, wires);
        match (nodes.optional_input(2), nodes.ty(key)?.rank()) {
            (None, _) => {
                let query = split_heads(nodes, query, heads)?;
                match *packed(nodes, key, 2)? {
                    [key, value] => self.with_bias(nodes, [query, key, value]),
                    _ => Err(Reason::new("packed inputs of other than two parts")),
                }
            }
            // Keys and values that were projected before.
            (Some(value), 4) => {
                let mut query = query;
                if let Some(bias) = nodes.optional_input(3) {
                    let width = nodes.shape(query)?.last().copied().unwrap_or(0);
                    let bias = slice(nodes, bias, 0, 0, width)?;
                    query = nodes.node("Add", &[query, bias], &[])?;
                }
                Ok([split_heads(nodes, query, heads)?, key, value])
            }
            (Some(value), _) => {
                let [query, key, value] = biased(nodes, [query, key, value])?;
                Ok([
                    split_heads(nodes, query, heads)?,
                    split_heads(nodes, key, heads)?,
                    split_heads(nodes, value, heads)?,
                ])
            }
        }
    }

    /// Adds the bias to `[B, S, H·D]` each.
    fn with_flat_bias(&self, nodes: &mut Expansion<'_>, wires: [Wire; 3]) -> Result<[Wire; 3], Reason> {
        let Some(bias) = nodes.optional_input(3) else { return Ok(wires) };
        let mut sizes = Vec::with_capacity(3);
        for wire in wires {
            sizes.push(nodes.shape(wire)?.last().copied().unwrap_or(0));
        }
        let mut sums = wires;
        for (slot, bias) in sums.iter_mut().zip(pieces(nodes, bias, &sizes)?) {
            *slot = nodes.node("Add", &[*slot, bias], &[])?;
        }
        Ok(sums)
    }

    /// Adds the bias to `[B, H, S, D]` each.
    fn with_bias(&self, nodes: &mut Expansion<'_>, wires: [Wire; 3]) -> Result<[Wire; 3], Reason> {
        let Some(bias) = nodes.optional_input(3) else { return Ok(wires) };
        let mut sizes = Vec::with_capacity(3);
        for wire in wires {
            let [_, heads, _, size] = extents(nodes, wire)?;
            sizes.push(heads * size);
        }
        let mut sums = wires;
        for (slot, bias) in sums.iter_mut().zip(pieces(nodes, bias, &sizes)?) {
            let [_, heads, _, size] = extents(nodes, *slot)?;
            let bias = reshape(nodes, bias, &[1, heads, 1, size])?;
            *slot = nodes.node("Add", &[*slot, bias], &[])?;
        }
        Ok(sums)
    }
}

impl Operator for MultiHeadAttention {
    fn name(&self) -> &'static str {
        "MultiHeadAttention"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let dtype = nodes.types.ty(0)?.dtype;
        let [query, mut key, mut value] = self.inputs(nodes)?;
        for (slot, past) in [(&mut key, 6), (&mut value, 7)] {
            if let Some(past) = nodes.optional_input(past) {
                *slot = nodes.node("Concat", &[past, *slot], &[("axis", 2.into())])?;
            }
        }
        let key_transposed = transpose(nodes, key, &[0, 1, 3, 2])?;
        let (padding, added) = (nodes.optional_input(4), nodes.optional_input(5));
        let scores = nodes.types.wants(3).then_some(Scores::Biased);
        let (output, scores) =
            self.common.attend(nodes, [query, key_transposed, value], padding, added, scores)?;
        let scores = match scores {
            Some(scores) => cast(nodes, scores, dtype)?,
            None => output,
        };
        Ok(Some(vec![output, key, value, scores]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, import, run_all, tensor};

    const ATTENTION: (&str, i64) = ("com.microsoft::Attention", 1);
    const MULTI_HEAD: (&str, i64) = ("com.microsoft::MultiHeadAttention", 1);

    /// Attention over the values 1 and 3, every score being 0 before masks.
    fn projected(
        further: &[Option<Constant>],
        attributes: &[(&str, Attribute)],
        outputs: usize,
    ) -> Vec<Constant> {
        let mut inputs = vec![Some(f32s([1, 2, 1], &[1.0, 3.0])), Some(f32s([1, 3], &[0.0, 0.0, 1.0]))];
        inputs.extend_from_slice(further);
        let attributes = [&[("num_heads", Attribute::Int(1))], attributes].concat();
        run_all(ATTENTION, &attributes, &inputs, outputs).unwrap()
    }

    fn masked(shape: &[usize], values: &[i32]) -> [f32; 2] {
        let mask = Constant::checked(crate::tensor_type::TensorType::new(DataType::I32, shape), values);
        let output = projected(&[None, mask], &[], 1);
        [output[0].values::<f32>()[0], output[0].values::<f32>()[1]]
    }

    #[test]
    fn masks_come_in_every_form() {
        assert_eq!(masked(&[1, 2], &[1, 0]), [1.0, 1.0]);
        assert_eq!(masked(&[1], &[1]), [1.0, 1.0]);
        assert_eq!(masked(&[2], &[2, 1]), [3.0, 3.0]);
        assert_eq!(masked(&[1, 2, 2], &[1, 1, 0, 1]), [2.0, 3.0]);
        assert_eq!(masked(&[1, 1, 3, 3], &[0, 1, 0, 1, 0, 0, 0, 0, 0]), [3.0, 1.0]);
        let causal = projected(&[], &[("unidirectional", Attribute::Int(1))], 1);
        assert_eq!(*causal[0].values::<f32>(), [1.0, 2.0]);
    }

    #[test]
    fn the_past_precedes_and_the_present_has_both() {
        let past = Some(f32s([2, 1, 1, 1, 1], &[0.0, 8.0]));
        let outputs = projected(&[Some(f32s([3], &[0.0; 3])), None, past], &[], 2);
        assert_eq!(*outputs[0].values::<f32>(), [4.0, 4.0]);
        assert_eq!(outputs[1].ty().shape, [2, 1, 1, 3, 1]);
        assert_eq!(*outputs[1].values::<f32>(), [0.0, 0.0, 0.0, 8.0, 1.0, 3.0]);
    }

    #[test]
    fn queries_keys_and_values_may_be_packed() {
        let heads = [("num_heads", Attribute::Int(2))];
        let three = 3f32.ln();
        // Two heads of size 1: of each token q, k and v.
        let packed = f32s([1, 2, 2, 3, 1], &[three, 0.0, 1.0, 0.0, 0.0, 2.0, three, 1.0, 3.0, 0.0, 0.0, 4.0]);
        let flat = |values: [f32; 4]| Some(f32s([1, 2, 2], &values));
        let apart = [flat([three, 0.0, three, 0.0]), flat([0.0, 0.0, 1.0, 0.0]), flat([1.0, 2.0, 3.0, 4.0])];
        let bias = Some(f32s([6], &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        let of = |inputs: &[Option<Constant>]| run_all(MULTI_HEAD, &heads, inputs, 1).unwrap().swap_remove(0);
        let check = |inputs: &[Option<Constant>], expected: [f32; 4]| {
            for (actual, expected) in of(inputs).values::<f32>().iter().zip(expected) {
                assert!((actual - expected).abs() < 1e-5, "{actual}, not {expected}");
            }
        };
        check(&[Some(packed.clone())], [2.5, 3.0, 2.5, 3.0]);
        check(&apart, [2.5, 3.0, 2.5, 3.0]);
        let [query, key, value] = apart;
        check(&[Some(packed), None, None, bias.clone()], [3.5, 3.0, 3.5, 3.0]);
        check(&[query, key, value, bias], [3.5, 3.0, 3.5, 3.0]);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let heads = ("num_heads", Attribute::Int(1));
        assert!(import(ATTENTION, &[heads.clone(), ("do_rotary", Attribute::Int(1))], 2, 1).is_err());
        assert!(import(MULTI_HEAD, std::slice::from_ref(&heads), 10, 1).is_err());
        assert!(import(ATTENTION, &[], 2, 1).is_err());
        let x = || Some(f32s([1, 2, 1], &[1.0, 3.0]));
        let mask = Some(tensor(DataType::I32, [3], &[1i32; 3]));
        let inputs = [x(), x(), x(), None, mask];
        assert!(run_all(MULTI_HEAD, &[heads], &inputs, 1).unwrap_err().what.contains("mask"));
    }
}
