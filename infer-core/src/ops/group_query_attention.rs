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
    Attend, Mask, Scores, cast, expect_broadcast, expect_shape, extents, merge_heads, positions, reshape,
    scalar, slice, split, split_heads, transpose,
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
                parts.push(slice(nodes, past, 2, before + rows, length)?);
            }
            return match *parts.as_slice() {
                [only] => Ok(only),
                _ => nodes.node("Concat", &parts, &[("axis", 2.into())]),
            };
        }
        // Row j of a sequence is row j of what is held, or row j − past of what is new, which lies behind that.
        let rows_held = held + rows;
        let all = nodes.node("Concat", &[past, new], &[("axis", 2.into())])?;
        let all = reshape(nodes, all, &[batch * heads * rows_held, size])?;
        let own = positions(nodes, 0, length, &[1, length])?;
        let end = nodes.i64s(&[rows as i64]);
        let end = nodes.node("Add", &[place.past_wire, end], &[])?;
        let behind = nodes.i64s(&[held as i64]);
        let behind = nodes.node("Sub", &[behind, place.past_wire], &[])?;
        let moved = nodes.node("Add", &[own, behind], &[])?;
        let after = nodes.node("GreaterOrEqual", &[own, place.past_wire], &[])?;
        let before = nodes.node("Less", &[own, end], &[])?;
        let is_new = nodes.node("And", &[after, before], &[])?;
        let within = positions(nodes, 0, length, &[1, length])?;
        let last = nodes.i64s(&[(rows_held as i64 - 1).max(0)]);
        let within = nodes.node("Min", &[within, last], &[])?;
        let row = nodes.node("Where", &[is_new, moved, within], &[])?;
        let row = reshape(nodes, row, &[batch, 1, length])?;
        let firsts: Vec<i64> = (0..batch * heads).map(|matrix| (matrix * rows_held) as i64).collect();
        let firsts = nodes.i64s(&firsts);
        let firsts = reshape(nodes, firsts, &[batch, heads, 1])?;
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
            Some(scores) => cast(nodes, scores, dtype)?,
            None => output,
        };
        Ok(Some(vec![output, present_key, present_value, scores]))
    }
}
