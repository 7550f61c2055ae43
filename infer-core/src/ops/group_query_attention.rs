//! GroupQueryAttention of com.microsoft: attention of decoders, with rotary embedding and a cache of keys and values.
//!
//! Specification: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GroupQueryAttention>
//! Types: f32; f16 and bf16 compute in f32. Quantized caches and caches of one window are not supported.
//! History: version 1 alone.
//!
//! `total_sequence_length` decides the shape of the cache, and must therefore be known: as a constant, or once the
//! values are. Where it is the number of queries, this is the first prompt and the cache holds nothing yet. The
//! lengths of the sequences (`seqlens_k`, less one) matter with several of them only, where they say how much of the
//! cache each has filled; of a single one, everything but the queries is past.

use super::attention::{head_count, scale_of};
use super::attention_contrib::{FLOATS, refuse_flag, refuse_input, scale_attribute};
use super::attention_core::{
    Attend, Mask, Scores, cast, expand, expect_broadcast, expect_shape, extents, merge_heads, positions,
    reshape, scalar, slice, split, split_heads, transpose,
};
use super::rotary_embedding::Angles;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Wire, expect_dtype};
use crate::tensor_type::DataType;

/// GroupQueryAttention.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupQueryAttention {
    num_heads: usize,
    kv_num_heads: usize,
    scale: Option<f32>,
    softcap: f32,
    causal: bool,
    do_rotary: bool,
    rotary_interleaved: bool,
    /// How many keys up to its own a query attends; `None` for all.
    local_window: Option<usize>,
    /// Whether softmax has a further key of score 0.
    smooth_softmax: bool,
    /// What output 3 is.
    scores: Option<Scores>,
    qk_norm_epsilon: f32,
}

/// Reads the attributes.
pub(super) fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    refuse_flag(node, "sliding_window_cache")?;
    for name in ["k_quant_type", "v_quant_type"] {
        if let Some(kind) = node.attributes.string(name)?.filter(|kind| kind != "NONE") {
            return Err(Reason::new(format!("{name} {kind:?} is not supported")).supported("\"NONE\""));
        }
    }
    node.attributes.ignore("kv_cache_bit_width");
    refuse_input(node, 12, "k_scale")?;
    refuse_input(node, 13, "v_scale")?;
    let window = node.attributes.int("local_window_size")?.unwrap_or(-1);
    let scores = match node.attributes.int("qk_output")?.unwrap_or(0) {
        0 => None,
        1 => Some(Scores::Biased),
        2 => Some(Scores::Probabilities),
        other => return Err(Reason::new(format!("qk_output is {other}, not 0 to 2"))),
    };
    Ok(Box::new(GroupQueryAttention {
        num_heads: head_count(node.attributes.int("num_heads")?, "num_heads")?,
        kv_num_heads: head_count(node.attributes.int("kv_num_heads")?, "kv_num_heads")?,
        scale: scale_attribute(node)?,
        softcap: node.attributes.float("softcap")?.unwrap_or(0.0),
        causal: node.attributes.flag("causal", true)?,
        do_rotary: node.attributes.flag("do_rotary", false)?,
        rotary_interleaved: node.attributes.flag("rotary_interleaved", false)?,
        local_window: usize::try_from(window).ok().filter(|&window| window > 0),
        smooth_softmax: node.attributes.flag("smooth_softmax", false)?,
        scores,
        qk_norm_epsilon: node.attributes.float("qk_norm_epsilon")?.unwrap_or(1e-6),
    }))
}

/// Where the queries stand.
struct Place {
    batch: usize,
    rows: usize,
    total: usize,
    /// How many keys precede the queries of every sequence, where that is known.
    past: Option<usize>,
    /// The same as i64 of shape `[B, 1]`.
    past_wire: Wire,
}

impl GroupQueryAttention {
    /// Queries, keys and values with heads apart.
    fn inputs(&self, nodes: &mut Expansion<'_>) -> Result<[Wire; 3], Reason> {
        let query = nodes.input(0)?;
        expect_dtype(nodes.ty(query)?, FLOATS)?;
        let (heads, kv_heads) = (self.num_heads, self.kv_num_heads);
        let flat = match (nodes.optional_input(1), nodes.optional_input(2)) {
            (Some(key), Some(value)) => [query, key, value],
            (None, None) => {
                let width = nodes.shape(query)?.last().copied().unwrap_or(0);
                let size = width / (heads + 2 * kv_heads);
                match *split(nodes, query, -1, &[heads * size, kv_heads * size, kv_heads * size])? {
                    [query, key, value] => [query, key, value],
                    _ => return Err(Reason::new("packed inputs of other than three parts")),
                }
            }
            _ => return Err(Reason::new("one of `key` and `value` is missing")),
        };
        let mut apart = flat;
        for (slot, heads) in apart.iter_mut().zip([heads, kv_heads, kv_heads]) {
            *slot = split_heads(nodes, *slot, heads)?;
        }
        Ok(apart)
    }

    fn place(&self, nodes: &mut Expansion<'_>, query: Wire) -> Result<Place, Reason> {
        let [batch, _, rows, _] = extents(nodes, query)?;
        let wrong = |total: &[i64]| {
            Reason::new(format!("total_sequence_length is {total:?}, not one number of at least {rows}"))
        };
        let total = nodes.types.known_i64s(6, "total_sequence_length")?.unwrap_or_default();
        let total = match *total.as_slice() {
            [total] => usize::try_from(total).ok().filter(|&total| total >= rows),
            _ => None,
        }
        .ok_or_else(|| wrong(&total))?;
        let lengths = nodes.input(5)?;
        if nodes.ty(lengths)?.elements() != batch {
            return Err(Reason::new(format!(
                "`seqlens_k` is {}, not of shape [{batch}]",
                nodes.ty(lengths)?
            )));
        }
        let past = match total - rows {
            0 => Some(0),
            past if batch == 1 => Some(past),
            _ => None,
        };
        let past_wire = match past {
            Some(past) => positions(nodes, past as i64, 1, &[1, 1])?,
            None => {
                let lengths = reshape(nodes, lengths, &[batch, 1])?;
                let lengths = cast(nodes, lengths, DataType::I64)?;
                let less = nodes.i64s(&[1 - rows as i64]);
                nodes.node("Add", &[lengths, less], &[])?
            }
        };
        Ok(Place { batch, rows, total, past, past_wire })
    }

    /// Queries or keys normalised and turned.
    fn prepare(
        &self,
        nodes: &mut Expansion<'_>,
        x: Wire,
        norm: usize,
        angles: Option<Angles>,
    ) -> Result<Wire, Reason> {
        let mut x = cast(nodes, x, DataType::F32)?;
        if let Some(weight) = nodes.optional_input(norm) {
            let weight = cast(nodes, weight, DataType::F32)?;
            let epsilon = ("epsilon", self.qk_norm_epsilon.into());
            x = nodes.node("RMSNormalization", &[x, weight], &[("axis", (-1).into()), epsilon])?;
        }
        match angles {
            Some(angles) => angles.turn(nodes, x, true, self.rotary_interleaved),
            None => Ok(x),
        }
    }

    fn angles(&self, nodes: &mut Expansion<'_>, place: &Place) -> Result<Option<Angles>, Reason> {
        if !self.do_rotary {
            return Ok(None);
        }
        let (cos, sin) = (nodes.input(7)?, nodes.input(8)?);
        let (cos, sin) = (cast(nodes, cos, DataType::F32)?, cast(nodes, sin, DataType::F32)?);
        let at = match nodes.optional_input(9) {
            Some(given) => {
                expect_shape("position_ids", nodes.ty(given)?, &[place.batch, place.rows])?;
                given
            }
            None => {
                let own = positions(nodes, 0, place.rows, &[1, place.rows])?;
                nodes.node("Add", &[place.past_wire, own], &[])?
            }
        };
        Ok(Some(Angles::select(nodes, cos, sin, at)?))
    }

    /// What the cache holds afterwards: `new` after the past of each sequence in what input `past` holds.
    fn present(
        &self,
        nodes: &mut Expansion<'_>,
        place: &Place,
        past: Option<Wire>,
        new: Wire,
    ) -> Result<Wire, Reason> {
        let [batch, heads, rows, size] = extents(nodes, new)?;
        let dtype = nodes.ty(new)?.dtype;
        let Some(past) = past else {
            return if place.past == Some(0) {
                Ok(new)
            } else {
                Err(Reason::new(format!("{} keys in total, but no past", place.total)))
            };
        };
        let [b, h, held, s] = extents(nodes, past)?;
        if [b, h, s] != [batch, heads, size] {
            return Err(Reason::new(format!("a past {} beside {}", nodes.ty(past)?, nodes.ty(new)?)));
        }
        let length = held.max(place.total);
        if let Some(before) = place.past {
            if before > held {
                return Err(Reason::new(format!("{before} keys are past, of which {held} are given")));
            }
            let mut parts = Vec::with_capacity(3);
            if before > 0 {
                parts.push(slice(nodes, past, 2, 0, before)?);
            }
            parts.push(new);
            if before + rows < length {
                let zero = scalar(nodes, dtype, 0.0)?;
                parts.push(expand(nodes, zero, &[batch, heads, length - before - rows, size])?);
            }
            return match *parts.as_slice() {
                [only] => Ok(only),
                _ => nodes.node("Concat", &parts, &[("axis", 2.into())]),
            };
        }
        // Row j of a sequence is row j of what is held, or row j − past of what is new, which lies behind that; or,
        // where there is neither, the row of zeros behind both.
        let rows_held = held + rows + 1;
        let zero = scalar(nodes, dtype, 0.0)?;
        let zeros = expand(nodes, zero, &[batch, heads, 1, size])?;
        let all = nodes.node("Concat", &[past, new, zeros], &[("axis", 2.into())])?;
        let all = reshape(nodes, all, &[batch * heads * rows_held, size])?;
        let own = positions(nodes, 0, length, &[1, length])?;
        let end = nodes.i64s(&[rows as i64]);
        let end = nodes.node("Add", &[place.past_wire, end], &[])?;
        let behind = nodes.i64s(&[held as i64]);
        let behind = nodes.node("Sub", &[behind, place.past_wire], &[])?;
        let moved = nodes.node("Add", &[own, behind], &[])?;
        let is_held = nodes.node("Less", &[own, place.past_wire], &[])?;
        let is_any = nodes.node("Less", &[own, end], &[])?;
        let last = nodes.i64s(&[rows_held as i64 - 1]);
        let row = nodes.node("Where", &[is_held, own, moved], &[])?;
        let row = nodes.node("Where", &[is_any, row, last], &[])?;
        // Lengths that do not fit what is held must not reach into other sequences.
        let first = nodes.i64s(&[0]);
        let row = nodes.node("Clip", &[row, first, last], &[])?;
        let row = reshape(nodes, row, &[batch, 1, length])?;
        let matrices = positions(nodes, 0, batch * heads, &[batch, heads, 1])?;
        let stride = nodes.i64s(&[rows_held as i64]);
        let firsts = nodes.node("Mul", &[matrices, stride], &[])?;
        let row = nodes.node("Add", &[firsts, row], &[])?;
        nodes.node("Gather", &[all, row], &[("axis", 0.into())])
    }

    fn bias(&self, nodes: &mut Expansion<'_>, place: &Place, heads: usize) -> Result<Option<Wire>, Reason> {
        let Place { batch, rows, total, .. } = *place;
        let mut mask = Mask::default();
        let window = self.local_window.filter(|&window| window < total);
        // A single query attends everything before it.
        let all = place.past.is_some() && rows == 1;
        if (self.causal && !all) || window.is_some() {
            let own = positions(nodes, 0, rows, &[1, rows])?;
            let own = nodes.node("Add", &[place.past_wire, own], &[])?;
            let shape = match nodes.shape(own)? {
                [1, _] => vec![rows, 1],
                _ => vec![batch, 1, rows, 1],
            };
            let own = reshape(nodes, own, &shape)?;
            let keys = positions(nodes, 0, total, &[1, total])?;
            if self.causal {
                let before = nodes.node("LessOrEqual", &[keys, own], &[])?;
                mask.allow(nodes, before, false)?;
            }
            if let Some(window) = window {
                let size = nodes.i64s(&[window as i64]);
                let first = nodes.node("Sub", &[own, size], &[])?;
                let near = nodes.node("Greater", &[keys, first], &[])?;
                mask.allow(nodes, near, false)?;
            }
        }
        if !self.causal && place.past.is_none() {
            let keys = positions(nodes, 0, total, &[1, 1, 1, total])?;
            let end = reshape(nodes, place.past_wire, &[batch, 1, 1, 1])?;
            let more = nodes.i64s(&[rows as i64]);
            let end = nodes.node("Add", &[end, more], &[])?;
            let valid = nodes.node("Less", &[keys, end], &[])?;
            mask.allow(nodes, valid, false)?;
        }
        if let Some(added) = nodes.optional_input(10) {
            expect_broadcast("attention_bias", nodes.ty(added)?, &[batch, heads, rows, total])?;
            let added = cast(nodes, added, DataType::F32)?;
            mask.add(nodes, added, false)?;
        }
        Ok(mask.build(nodes, DataType::F32)?.0)
    }

    fn sink(&self, nodes: &mut Expansion<'_>, heads: usize) -> Result<Option<Wire>, Reason> {
        if let Some(sink) = nodes.optional_input(11) {
            expect_shape("head_sink", nodes.ty(sink)?, &[heads])?;
            return reshape(nodes, sink, &[1, heads, 1, 1]).map(Some);
        }
        if self.smooth_softmax { scalar(nodes, DataType::F32, 0.0).map(Some) } else { Ok(None) }
    }
}

impl Operator for GroupQueryAttention {
    fn name(&self) -> &'static str {
        "GroupQueryAttention"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let dtype = nodes.types.ty(0)?.dtype;
        let [query, key, value] = self.inputs(nodes)?;
        let place = self.place(nodes, query)?;
        let angles = self.angles(nodes, &place)?;
        let query = self.prepare(nodes, query, 14, angles)?;
        let key = self.prepare(nodes, key, 15, angles)?;
        let key = cast(nodes, key, dtype)?;
        let (past_key, past_value) = (nodes.optional_input(3), nodes.optional_input(4));
        for past in [past_key, past_value].into_iter().flatten() {
            expect_dtype(nodes.ty(past)?, &[dtype])?;
        }
        let present_key = self.present(nodes, &place, past_key, key)?;
        let present_value = self.present(nodes, &place, past_value, value)?;
        let [_, heads, _, size] = extents(nodes, query)?;

        let key = slice(nodes, present_key, 2, 0, place.total)?;
        let key = cast(nodes, key, DataType::F32)?;
        let value = slice(nodes, present_value, 2, 0, place.total)?;
        let attend = Attend {
            query,
            key_transposed: transpose(nodes, key, &[0, 1, 3, 2])?,
            value: cast(nodes, value, DataType::F32)?,
            scale: scale_of(self.scale, size),
            softcap: self.softcap.into(),
            bias: self.bias(nodes, &place, heads)?,
            masked: None,
            softmax: DataType::F32,
            sink: self.sink(nodes, heads)?,
            scores: self.scores.filter(|_| nodes.types.wants(3)),
        };
        let (output, scores) = attend.build(nodes)?;
        let output = merge_heads(nodes, output)?;
        let output = cast(nodes, output, dtype)?;
        let scores = match scores {
            Some(scores) => {
                // Keys that are not attended score 0.
                let nothing = scalar(nodes, DataType::F32, f64::NEG_INFINITY)?;
                let zero = scalar(nodes, DataType::F32, 0.0)?;
                let excluded = nodes.node("Equal", &[scores, nothing], &[])?;
                let scores = nodes.node("Where", &[excluded, zero, scores], &[])?;
                cast(nodes, scores, dtype)?
            }
            None => output,
        };
        Ok(Some(vec![output, present_key, present_value, scores]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{import, run_all, tensor};
    use crate::tensor_type::TensorType;

    const NAME: (&str, i64) = ("com.microsoft::GroupQueryAttention", 1);

    fn attributes() -> Vec<(&'static str, Attribute)> {
        vec![("num_heads", 2.into()), ("kv_num_heads", 1.into()), ("do_rotary", 1.into())]
    }

    /// Pseudo-random `[batch, tokens, width]`, the tokens of sequence b those from `first[b]` on.
    fn rows(seed: usize, first: &[usize], tokens: usize, width: usize) -> Option<Constant> {
        let mut values = Vec::new();
        for (batch, first) in first.iter().enumerate() {
            let range = first * width..(first + tokens) * width;
            values.extend(range.map(|index| ((index * 37 + seed * 7 + batch * 11) % 19) as f32 / 19.0 - 0.5));
        }
        Constant::checked(TensorType::new(DataType::F32, [first.len(), tokens, width]), &values)
    }

    fn run(first: &[usize], tokens: usize, total: usize, past: Option<[Constant; 2]>) -> Vec<Constant> {
        let [past_key, past_value] = past.map_or([None, None], |past| past.map(Some));
        let lengths: Vec<i32> = first.iter().map(|first| (first + tokens) as i32 - 1).collect();
        let lengths = Constant::checked(TensorType::new(DataType::I32, [first.len()]), &lengths);
        let table = |function: fn(f32) -> f32| {
            Some(tensor(DataType::F32, [8, 1], &[0, 1, 2, 3, 4, 5, 6, 7].map(|at| function(at as f32))))
        };
        let inputs = [
            rows(1, first, tokens, 4),
            rows(2, first, tokens, 2),
            rows(3, first, tokens, 2),
            past_key,
            past_value,
            lengths,
            Some(tensor(DataType::I32, [1], &[total as i32])),
            table(libm::cosf),
            table(libm::sinf),
        ];
        run_all(NAME, &attributes(), &inputs, 3).unwrap()
    }

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }

    #[test]
    fn a_token_after_a_prompt_is_the_last_of_a_longer_prompt() {
        let whole = run(&[0], 4, 4, None);
        let prompt = run(&[0], 3, 3, None);
        let next = run(&[3], 1, 4, Some([prompt[1].clone(), prompt[2].clone()]));
        close(&next[0].values::<f32>(), &whole[0].values::<f32>()[12..]);
        close(&next[1].values::<f32>(), &whole[1].values::<f32>());
        assert_eq!(next[1].ty().shape, [1, 1, 4, 2]);
    }

    #[test]
    fn sequences_of_different_lengths_each_go_on_after_their_own() {
        // Prompts of three tokens, of which the second sequence counts two alone.
        let prompt = run(&[0, 0], 3, 3, None);
        let next = run(&[3, 2], 1, 4, Some([prompt[1].clone(), prompt[2].clone()]));
        let whole = run(&[0, 0], 4, 4, None);
        let (next_rows, whole_rows) = (next[0].values::<f32>(), whole[0].values::<f32>());
        close(&next_rows[..4], &whole_rows[12..16]);
        close(&next_rows[4..], &whole_rows[16 + 8..16 + 12]);
        let held = next[1].values::<f32>();
        close(&held[8..14], &whole[1].values::<f32>()[8..14]);
        assert_eq!(held[14..], [0.0, 0.0]);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let with = |name: &'static str, value: Attribute| [attributes(), vec![(name, value)]].concat();
        assert!(import(NAME, &with("sliding_window_cache", 1.into()), 7, 1).is_err());
        assert!(import(NAME, &with("k_quant_type", "PER_TENSOR".into()), 7, 1).is_err());
        assert!(import(NAME, &[("num_heads", 0.into()), ("kv_num_heads", 1.into())], 7, 1).is_err());
        let one = || Some(tensor(DataType::I32, [1], &[0i32]));
        let inputs =
            [rows(1, &[0], 2, 4), rows(2, &[0], 2, 2), rows(3, &[0], 2, 2), None, None, one(), one()];
        let refused = run_all(NAME, &attributes(), &inputs, 1).unwrap_err();
        assert!(refused.what.contains("total_sequence_length"), "{refused:?}");
    }
}
