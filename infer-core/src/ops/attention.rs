//! Attention: scaled dot-product attention, with masks, windows, shared heads and a cache of keys and values.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Attention.html>
//! Types: f32 and f64; f16 and bf16 compute in f32 throughout, and round once.
//! History: since opset 23; 24 adds `nonpad_kv_seqlen` and masks shorter than the keys, 25 windows.
//!
//! Query i stands at position i + offset, the offset being the number of keys before the query block: the length of
//! the past, or what is valid of an external cache less the queries.

use super::attention_core::{
    Attend, Mask, Scores, cast, expand, expect_broadcast, extents, merge_heads, positions, reshape, scalar,
    split_heads, transpose, with_heads,
};
use super::flex_attention;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "Attention", domain: "", since: 23, inputs: 3..=7, outputs: 1..=4, import },
    Row {
        name: "FlexAttention",
        domain: "ai.onnx.preview",
        since: 1,
        inputs: 3..=3,
        outputs: 1..=1,
        import: flex_attention::import,
    },
];

/// The most heads.
const MAX_HEADS: usize = 1 << 20;

/// The types of queries, keys and values.
pub(super) const FLOATS: &[DataType] = &[DataType::F32, DataType::F16, DataType::Bf16, DataType::F64];

/// Attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Whether no query attends keys after its own position.
    pub is_causal: bool,
    /// The heads of a query of three dimensions.
    pub q_num_heads: Option<i64>,
    /// The heads of keys and values of three dimensions.
    pub kv_num_heads: Option<i64>,
    /// The factor of the scores; 1/√size by default.
    pub scale: Option<f32>,
    /// Where scores are capped, 0 for not.
    pub softcap: f32,
    /// The type in which softmax computes; by default that of everything else.
    pub softmax_precision: Option<DataType>,
    /// What output 3 is.
    scores: Scores,
    /// How many positions before its own a query attends.
    pub left_window: Option<usize>,
    /// How many positions after its own a query attends.
    pub right_window: Option<usize>,
    /// Whether a mask with one column is that of the first key, not of all.
    pub pads_mask: bool,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    if node.opset < 24 && node.inputs.len() > 6 {
        return Err(Reason::new(format!("`nonpad_kv_seqlen` is no input in opset {}", node.opset)));
    }
    let mut window = |name: &str| match node.attributes.int(name)? {
        None | Some(-1) => Ok(None),
        Some(size) => usize::try_from(size)
            .map(Some)
            .map_err(|_| Reason::new(format!("{name} is {size}, neither −1 nor more"))),
    };
    let (left_window, right_window) = if node.opset >= 25 {
        (window("left_window_size")?, window("right_window_size")?)
    } else {
        (None, None)
    };
    let scores = match node.attributes.int("qk_matmul_output_mode")?.unwrap_or(0) {
        0 => Scores::Raw,
        1 => Scores::Capped,
        2 => Scores::Biased,
        3 => Scores::Probabilities,
        other => return Err(Reason::new(format!("qk_matmul_output_mode is {other}, not 0 to 3"))),
    };
    Ok(Box::new(Attention {
        is_causal: node.attributes.flag("is_causal", false)?,
        q_num_heads: node.attributes.int("q_num_heads")?,
        kv_num_heads: node.attributes.int("kv_num_heads")?,
        scale: node.attributes.float("scale")?,
        softcap: node.attributes.float("softcap")?.unwrap_or(0.0),
        softmax_precision: precision(node)?,
        scores,
        left_window,
        right_window,
        pads_mask: node.opset >= 24,
    }))
}

/// The attribute `softmax_precision`.
pub(super) fn precision(node: &mut ImportNode) -> Result<Option<DataType>, Reason> {
    let Some(code) = node.attributes.int("softmax_precision")? else { return Ok(None) };
    let dtype = i32::try_from(code).ok().and_then(DataType::from_onnx).filter(|dtype| dtype.is_float());
    let wrong = || Reason::new(format!("softmax_precision {code} is not supported"));
    dtype.map(Some).ok_or_else(|| wrong().supported("1 (f32), 10 (f16), 11 (f64), 16 (bf16)"))
}

/// The type in which tensors of these types are computed with.
pub(super) fn compute_type(dtypes: &[DataType]) -> DataType {
    if dtypes.contains(&DataType::F64) { DataType::F64 } else { DataType::F32 }
}

/// The factor of scores of heads of `size`, unless another is given.
pub(super) fn scale_of(given: Option<f32>, size: usize) -> f64 {
    given.map_or_else(|| 1.0 / (size as f64).sqrt(), f64::from)
}

/// The number of heads that attribute `name` gives.
pub(super) fn head_count(given: Option<i64>, name: &str) -> Result<usize, Reason> {
    let given = given.ok_or_else(|| Reason::new(format!("attribute `{name}` is missing")))?;
    let count = usize::try_from(given).ok().filter(|count| (1..=MAX_HEADS).contains(count));
    count.ok_or_else(|| Reason::new(format!("{name} is {given}, not 1 to {MAX_HEADS}")))
}

/// Keys and values, heads apart, and as what attends them takes them.
struct Cache {
    /// `[B, H, T, D]`, where it is wanted.
    key: Option<Wire>,
    key_transposed: Wire,
    value: Wire,
}

impl Attention {
    fn check(&self, nodes: &Expansion<'_>) -> Result<(), Reason> {
        let (query, key, value) = (nodes.types.ty(0)?, nodes.types.ty(1)?, nodes.types.ty(2)?);
        for ty in [query, key, value] {
            expect_dtype(ty, FLOATS)?;
        }
        let rank = query.rank();
        if !matches!(rank, 3 | 4) || key.rank() != rank || value.rank() != rank {
            return Err(Reason::new(format!(
                "Q, K and V are {query}, {key} and {value}, not all of 3 or all of 4 dimensions"
            )));
        }
        let [past_key, past_value, nonpad] = [4, 5, 6].map(|index| nodes.types.optional(index));
        if past_key.is_some() != past_value.is_some() {
            return Err(Reason::new("one of `past_key` and `past_value` is missing"));
        }
        if past_key.is_some() && nonpad.is_some() {
            return Err(Reason::new("`nonpad_kv_seqlen` cannot be combined with `past_key`"));
        }
        Ok(())
    }

    fn cache(&self, nodes: &mut Expansion<'_>, dtype: DataType) -> Result<Cache, Reason> {
        let (key, value) = (nodes.input(1)?, nodes.input(2)?);
        let apart = nodes.shape(key)?.len() == 4;
        let past = nodes.optional_input(4).zip(nodes.optional_input(5));
        if !apart && past.is_none() && !nodes.types.wants(1) {
            let heads = head_count(self.kv_num_heads, "kv_num_heads")?;
            let key = with_heads(nodes, key, heads)?;
            let key_transposed = transpose(nodes, key, &[0, 2, 3, 1])?;
            let key_transposed = cast(nodes, key_transposed, dtype)?;
            return Ok(Cache { key: None, key_transposed, value: split_heads(nodes, value, heads)? });
        }
        let (mut key, mut value) = if apart {
            (key, value)
        } else {
            let heads = head_count(self.kv_num_heads, "kv_num_heads")?;
            (split_heads(nodes, key, heads)?, split_heads(nodes, value, heads)?)
        };
        if let Some((past_key, past_value)) = past {
            key = nodes.node("Concat", &[past_key, key], &[("axis", 2.into())])?;
            value = nodes.node("Concat", &[past_value, value], &[("axis", 2.into())])?;
        }
        let key_transposed = transpose(nodes, key, &[0, 1, 3, 2])?;
        let key_transposed = cast(nodes, key_transposed, dtype)?;
        Ok(Cache { key: Some(key), key_transposed, value })
    }

    /// Which keys position and cache allow.
    fn allow(&self, nodes: &mut Expansion<'_>, mask: &mut Mask, scores: &[usize; 4]) -> Result<(), Reason> {
        let [batch, _, rows, total] = *scores;
        let nonpad = nodes.optional_input(6);
        // No right window is narrower than the causal one.
        let right = if self.is_causal { Some(0) } else { self.right_window };
        let keys = positions(nodes, 0, total, &[1, total])?;
        if let Some(nonpad) = nonpad {
            let ty = nodes.ty(nonpad)?;
            expect_dtype(ty, &[DataType::I64])?;
            if ty.shape != [batch] {
                return Err(Reason::new(format!("`nonpad_kv_seqlen` is {ty}, not of shape [{batch}]")));
            }
            let nonpad = reshape(nodes, nonpad, &[batch, 1, 1, 1])?;
            let valid = nodes.node("Less", &[keys, nonpad], &[])?;
            mask.allow(nodes, valid, true)?;
            if right.is_none() && self.left_window.is_none() {
                return Ok(());
            }
            let own = positions(nodes, -(rows as i64), rows, &[rows, 1])?;
            let own = nodes.node("Add", &[nonpad, own], &[])?;
            return self.window(nodes, mask, keys, own, right, true);
        }
        if right.is_none() && self.left_window.is_none() {
            return Ok(());
        }
        let past = nodes.types.optional(4).map_or(0, |ty| ty.shape.get(2).copied().unwrap_or(0));
        let own = positions(nodes, past as i64, rows, &[rows, 1])?;
        // The last query's window must still reach the last key.
        let last = (past + rows).saturating_sub(1);
        let empty = total == 0 || self.left_window.is_some_and(|left| last.saturating_sub(left) >= total);
        self.window(nodes, mask, keys, own, right, empty)
    }

    /// Allows the keys at most `right` after `own` position and at most the left window before it.
    fn window(
        &self,
        nodes: &mut Expansion<'_>,
        mask: &mut Mask,
        keys: Wire,
        own: Wire,
        right: Option<usize>,
        may_be_empty: bool,
    ) -> Result<(), Reason> {
        let shifted = |nodes: &mut Expansion<'_>, by: i64| match by {
            0 => Ok(own),
            by => {
                let by = nodes.i64s(&[by]);
                nodes.node("Add", &[own, by], &[])
            }
        };
        // Farther than any sequence is long changes nothing, and must not overflow.
        let distance = |size: usize| size.min(1 << 40) as i64;
        if let Some(right) = right {
            let last = shifted(nodes, distance(right))?;
            let before = nodes.node("LessOrEqual", &[keys, last], &[])?;
            mask.allow(nodes, before, may_be_empty)?;
        }
        if let Some(left) = self.left_window {
            let first = shifted(nodes, -distance(left))?;
            let after = nodes.node("GreaterOrEqual", &[keys, first], &[])?;
            mask.allow(nodes, after, may_be_empty)?;
        }
        Ok(())
    }

    /// Adds input `attn_mask`.
    fn mask(
        &self,
        nodes: &mut Expansion<'_>,
        mask: &mut Mask,
        scores: &[usize; 4],
        dtype: DataType,
    ) -> Result<(), Reason> {
        let Some(mut given) = nodes.optional_input(3) else { return Ok(()) };
        let decides = nodes.ty(given)?.dtype == DataType::Bool;
        if !decides {
            given = cast(nodes, given, dtype)?;
        }
        let total = scores[3];
        let columns = nodes.shape(given)?.last().copied();
        if let Some(columns) = columns.filter(|&columns| columns < total && (self.pads_mask || columns != 1))
        {
            let mut shape = nodes.shape(given)?.to_vec();
            if let Some(last) = shape.last_mut() {
                *last = total - columns;
            }
            let nothing = if decides {
                nodes.constant(crate::constant::Constant::of(TensorType::new(DataType::Bool, []), &[0u8]))
            } else {
                scalar(nodes, dtype, f64::NEG_INFINITY)?
            };
            let nothing = expand(nodes, nothing, &shape)?;
            given = nodes.node("Concat", &[given, nothing], &[("axis", (-1).into())])?;
        }
        if columns.is_none() {
            given = reshape(nodes, given, &[1])?;
        }
        expect_broadcast("attn_mask", nodes.ty(given)?, scores)?;
        if decides { mask.allow(nodes, given, true) } else { mask.add(nodes, given, true) }
    }
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        self.check(nodes)?;
        let inputs = [nodes.types.ty(0)?, nodes.types.ty(1)?, nodes.types.ty(2)?].map(|ty| ty.dtype);
        let (apart, dtype) = (nodes.types.ty(0)?.rank() == 4, compute_type(&inputs));
        let mut query = nodes.input(0)?;
        if !apart {
            query = split_heads(nodes, query, head_count(self.q_num_heads, "q_num_heads")?)?;
        }
        let cache = self.cache(nodes, dtype)?;
        let [batch, heads, rows, size] = extents(nodes, query)?;
        let [key_batch, kv_heads, key_size, total] = extents(nodes, cache.key_transposed)?;
        let [value_batch, value_heads, value_total, _] = extents(nodes, cache.value)?;
        if [key_batch, key_size] != [batch, size]
            || [value_batch, value_heads, value_total] != [batch, kv_heads, total]
        {
            return Err(Reason::new(format!(
                "Q {} does not fit K {} and V {}",
                nodes.types.ty(0)?,
                nodes.types.ty(1)?,
                nodes.types.ty(2)?
            )));
        }
        let scores = [batch, heads, rows, total];
        let mut mask = Mask::default();
        self.allow(nodes, &mut mask, &scores)?;
        self.mask(nodes, &mut mask, &scores, dtype)?;
        let (bias, masked) = mask.build(nodes, dtype)?;
        let query = cast(nodes, query, dtype)?;
        let value = cast(nodes, cache.value, dtype)?;
        let attend = Attend {
            query,
            key_transposed: cache.key_transposed,
            value,
            scale: scale_of(self.scale, size),
            softcap: f64::from(self.softcap),
            bias,
            masked,
            softmax: self.softmax_precision.unwrap_or(dtype),
            sink: None,
            scores: nodes.types.wants(3).then_some(self.scores),
        };
        let (mut output, wanted) = attend.build(nodes)?;
        if !apart {
            output = merge_heads(nodes, output)?;
        }
        let output = cast(nodes, output, inputs[0])?;
        let wanted = match wanted {
            Some(wanted) => cast(nodes, wanted, inputs[0])?,
            None => output,
        };
        Ok(Some(vec![output, cache.key.unwrap_or(output), cache.value, wanted]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, f32s, i64s, import, run, run_all, tensor};

    /// Two keys, of which the second matches positive queries more; values 1 and 3.
    fn inputs(query: &[f32]) -> [Constant; 3] {
        let query = tensor(DataType::F32, [1, 1, query.len(), 1], query);
        [query, f32s([1, 1, 2, 1], &[0.0, 1.0]), f32s([1, 1, 2, 1], &[1.0, 3.0])]
    }

    fn with(query: &[f32], further: &[(usize, Constant)]) -> Vec<Option<Constant>> {
        let mut all: Vec<Option<Constant>> = inputs(query).into_iter().map(Some).collect();
        for (index, input) in further {
            all.resize(all.len().max(index + 1), None);
            all[*index] = Some(input.clone());
        }
        all
    }

    #[test]
    fn values_are_averaged_by_the_softmax_of_scores() {
        let three = 3f32.ln();
        check(("Attention", 23), &[], &inputs(&[0.0, three]), &f32s([1, 1, 2, 1], &[2.0, 2.5]));
        let causal = [("is_causal", Attribute::Int(1))];
        check(("Attention", 23), &causal, &inputs(&[three, three]), &f32s([1, 1, 2, 1], &[1.0, 2.5]));
        let scale = [("scale", Attribute::Float(2.0))];
        check(("Attention", 23), &scale, &inputs(&[three]), &f32s([1, 1, 1, 1], &[2.8]));
        let own = [("left_window_size", Attribute::Int(0)), ("right_window_size", Attribute::Int(0))];
        check(("Attention", 25), &own, &inputs(&[three, three]), &f32s([1, 1, 2, 1], &[1.0, 3.0]));
    }

    #[test]
    fn masks_forbid_or_add_and_rows_without_keys_are_zero() {
        let output = |opset, query: &[f32], further: &[(usize, Constant)]| {
            let outputs = run_all(("Attention", opset), &[], &with(query, further), 1).unwrap();
            outputs[0].values::<f32>().into_owned()
        };
        let mask = bools([2, 2], &[false, false, true, false]);
        assert_eq!(output(23, &[1.0, 1.0], &[(3, mask)]), [0.0, 1.0]);
        let nothing = f32s([1, 2], &[f32::NEG_INFINITY; 2]);
        assert_eq!(output(23, &[1.0], &[(3, nothing)]), [0.0]);
        assert_eq!(output(24, &[1.0], &[(3, bools([1, 1], &[true]))]), [1.0]);
        assert_eq!(output(24, &[0.0], &[(6, i64s([1], &[1]))]), [1.0]);
        assert_eq!(output(24, &[0.0], &[(6, i64s([1], &[0]))]), [0.0]);
    }

    #[test]
    fn heads_share_keys_and_the_past_comes_first() {
        let heads = [("q_num_heads", Attribute::Int(2)), ("kv_num_heads", Attribute::Int(1))];
        let flat =
            [f32s([1, 1, 2], &[0.0, 3f32.ln()]), f32s([1, 2, 1], &[0.0, 1.0]), f32s([1, 2, 1], &[1.0, 3.0])];
        check(("Attention", 23), &heads, &flat, &f32s([1, 1, 2], &[2.0, 2.5]));

        let past = [(4, f32s([1, 1, 1, 1], &[0.0])), (5, f32s([1, 1, 1, 1], &[8.0]))];
        let outputs = run_all(("Attention", 23), &[], &with(&[0.0], &past), 3).unwrap();
        assert_eq!(*outputs[0].values::<f32>(), [4.0]);
        assert_eq!(*outputs[1].values::<f32>(), [0.0, 0.0, 1.0]);
        assert_eq!(*outputs[2].values::<f32>(), [8.0, 1.0, 3.0]);
    }

    #[test]
    fn scores_are_an_output_at_every_stage() {
        let stage = |mode: i64| {
            let attributes = [("softcap", Attribute::Float(0.5)), ("qk_matmul_output_mode", mode.into())];
            let added = [(3, f32s([1, 2], &[0.25, 0.0]))];
            let outputs = run_all(("Attention", 23), &attributes, &with(&[2.0], &added), 4).unwrap();
            outputs[3].values::<f32>()[1]
        };
        let capped = 0.5 * 4f32.tanh();
        assert_eq!(stage(0), 2.0);
        assert!((stage(1) - capped).abs() < 1e-6 && (stage(2) - capped).abs() < 1e-6);
        assert!((stage(3) - 1.0 / (1.0 + (0.25 - capped).exp())).abs() < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |further: &[(usize, Constant)]| {
            run_all(("Attention", 24), &[], &with(&[1.0], further), 1).unwrap_err().what
        };
        assert!(refused(&[(4, f32s([1, 1, 1, 1], &[0.0]))]).contains("past_value"));
        assert!(refused(&[(3, f32s([3, 1, 2], &[0.0; 6]))]).contains("attn_mask"));
        assert!(refused(&[(6, i64s([2], &[0, 1]))]).contains("nonpad_kv_seqlen"));
        let flat = [f32s([1, 1, 3], &[0.0; 3]), f32s([1, 1, 2], &[0.0; 2]), f32s([1, 1, 2], &[0.0; 2])];
        assert!(run(("Attention", 23), &[], &flat).is_err());
        let heads = [("q_num_heads", Attribute::Int(3)), ("kv_num_heads", Attribute::Int(2))];
        assert!(run(("Attention", 23), &heads, &flat).is_err());
        assert!(import(("Attention", 23), &[], 7, 1).is_err());
        assert!(import(("Attention", 23), &[("softmax_precision", Attribute::Int(6))], 3, 1).is_err());
    }
}
