//! LinearAttention and CausalConvWithState: what stands for attention in recurrent decoders.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__LinearAttention.html>,
//! <https://onnx.ai/onnx/operators/onnx__CausalConvWithState.html>
//! Types: f32; f16 and bf16 compute in f32.
//! History: since opset 27.
//!
//! LinearAttention keeps a matrix S for each head. For each token S ← exp(g)·S (gated rules), v ← β·(v − Sᵀk) (delta
//! rules), S ← S + k·vᵀ, and the output is scale · Sᵀq. A few tokens are written out as nodes, one after the other;
//! many run in a loop.

use super::attention::{head_count, scale_of};
use super::attention_core::{cast, expand, expect_moderate, expect_shape, reshape, scalar, slice, transpose};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "CausalConvWithState",
        domain: "",
        since: 27,
        inputs: 2..=4,
        outputs: 1..=2,
        import: import_conv,
    },
    Row { name: "LinearAttention", domain: "", since: 27, inputs: 3..=6, outputs: 1..=2, import },
];

const FLOATS: &[DataType] = &[DataType::F32, DataType::F16, DataType::Bf16];

/// So many tokens are written out as nodes.
const MAX_WRITTEN_OUT: usize = 16;

/// The most f32 values in all that a loop over tokens works on.
const MAX_VALUES: usize = 1 << 28;

/// LinearAttention.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearAttention {
    q_num_heads: usize,
    kv_num_heads: usize,
    scale: Option<f32>,
    /// Whether the state decays.
    gated: bool,
    /// Whether what the state already gives is taken from what is added to it.
    delta: bool,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    node.attributes.ignore("chunk_size");
    let rule = node.attributes.string("update_rule")?.unwrap_or_else(|| "gated_delta".to_owned());
    let (gated, delta) = match rule.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        _ => {
            return Err(Reason::new(format!("update_rule {rule:?} is not supported"))
                .supported("\"linear\", \"gated\", \"delta\", \"gated_delta\""));
        }
    };
    for (index, name, wanted) in [(4, "decay", gated), (5, "beta", delta)] {
        if node.inputs.get(index).copied().unwrap_or(false) != wanted {
            let what = if wanted { "needs" } else { "has no" };
            return Err(Reason::new(format!("update_rule {rule:?} {what} input `{name}`")));
        }
    }
    let q_num_heads = head_count(node.attributes.int("q_num_heads")?, "q_num_heads")?;
    let kv_num_heads = head_count(node.attributes.int("kv_num_heads")?, "kv_num_heads")?;
    if q_num_heads % kv_num_heads != 0 {
        return Err(Reason::new(format!("{q_num_heads} query heads do not share {kv_num_heads} key heads")));
    }
    let scale = node.attributes.float("scale")?.filter(|&scale| scale != 0.0);
    Ok(Box::new(LinearAttention { q_num_heads, kv_num_heads, scale, gated, delta }))
}

/// The extents of a LinearAttention.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    tokens: usize,
    /// Key heads, and query heads to each.
    heads: usize,
    shared: usize,
    key: usize,
    value: usize,
    /// How many decays each head has: 1 or as many as a key has elements.
    decay: usize,
    /// How many heads have a beta of their own: all or 1.
    beta: usize,
    state: DataType,
}

impl LinearAttention {
    fn extents(&self, node: &NodeTypes<'_>) -> Result<Extents, Reason> {
        let (query, key, value) = (node.ty(0)?, node.ty(1)?, node.ty(2)?);
        let of = |ty: &TensorType, heads: usize| match *ty.shape.as_slice() {
            [batch, tokens, width] if width % heads == 0 => Ok([batch, tokens, width / heads]),
            _ => Err(Reason::new(format!("{ty} is not [B, T, H·D] of {heads} heads"))),
        };
        for index in 0..6 {
            if let Some(ty) = node.optional(index) {
                expect_dtype(ty, FLOATS)?;
                expect_moderate(ty)?;
            }
        }
        let [batch, tokens, size] = of(query, self.q_num_heads)?;
        let ([b, t, key_size], [c, u, value_size]) =
            (of(key, self.kv_num_heads)?, of(value, self.kv_num_heads)?);
        if [b, t, key_size] != [batch, tokens, size] || [c, u] != [batch, tokens] {
            return Err(Reason::new(format!("query {query} does not fit key {key} and value {value}")));
        }
        let heads = self.kv_num_heads;
        expect_moderate(&TensorType::new(query.dtype, [batch, heads, size, value_size]))?;
        expect_moderate(&TensorType::new(query.dtype, [batch, tokens, self.q_num_heads, value_size]))?;
        let mut state = query.dtype;
        if let Some(past) = node.optional(3) {
            expect_shape("past_state", past, &[batch, heads, size, value_size])?;
            state = past.dtype;
        }
        let per_token = |index: usize, name: &str, widths: [usize; 2]| match node.optional(index) {
            None => Ok(1),
            Some(ty) => match *ty.shape.as_slice() {
                [b, t, width] if b == batch && t == tokens && widths.contains(&width) => Ok(width),
                _ => Err(Reason::new(format!("`{name}` {ty} does not fit query {query}"))),
            },
        };
        let decay = per_token(4, "decay", [heads, heads * size])? / heads;
        let beta = per_token(5, "beta", [1, heads])?;
        Ok(Extents {
            batch,
            tokens,
            heads,
            shared: self.q_num_heads / heads,
            key: size,
            value: value_size,
            decay: decay.max(1),
            beta,
            state,
        })
    }

    /// Input `index`, `[B, T, …]`, as a value of `shape` for each token.
    fn by_token(
        &self,
        nodes: &mut Expansion<'_>,
        index: usize,
        shape: &[usize; 4],
        e: Extents,
    ) -> Result<Wire, Reason> {
        let input = nodes.input(index)?;
        let input = cast(nodes, input, DataType::F32)?;
        let input = reshape(nodes, input, &[e.batch, e.tokens, shape[1], shape[2], shape[3]])?;
        transpose(nodes, input, &[1, 0, 2, 3, 4])
    }
}

/// The values of a tensor of floating-point numbers.
fn floats(tensor: &Constant) -> Vec<f32> {
    match tensor.ty().dtype {
        DataType::Bf16 => tensor.values::<half::bf16>().iter().map(|value| value.to_f32()).collect(),
        _ => tensor.to_f32s().map(|values| values.into_owned()).unwrap_or_default(),
    }
}

/// A tensor of these values.
fn tensor(dtype: DataType, shape: Vec<usize>, values: &[f32]) -> Result<Value, Reason> {
    let ty = TensorType::new(dtype, shape);
    let constant = match dtype {
        DataType::F16 => {
            Constant::checked(ty, &values.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>())
        }
        DataType::Bf16 => {
            Constant::checked(ty, &values.iter().map(|&v| half::bf16::from_f32(v)).collect::<Vec<_>>())
        }
        _ => Constant::checked(ty, values),
    };
    constant.map(Value::Tensor).ok_or_else(|| Reason::new("an output of another size"))
}

impl Operator for LinearAttention {
    fn name(&self) -> &'static str {
        "LinearAttention"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let e = self.extents(&nodes.types)?;
        if e.tokens > MAX_WRITTEN_OUT || e.tokens == 0 {
            return Ok(None);
        }
        let dtype = nodes.types.ty(0)?.dtype;
        let (b, h) = (e.batch, e.heads);
        let query = self.by_token(nodes, 0, &[b, h, e.shared, e.key], e)?;
        let scale = scalar(nodes, DataType::F32, scale_of(self.scale, e.key))?;
        let query = nodes.node("Mul", &[query, scale], &[])?;
        let key = self.by_token(nodes, 1, &[b, h, 1, e.key], e)?;
        let value = self.by_token(nodes, 2, &[b, h, 1, e.value], e)?;
        let mut decay = None;
        if self.gated {
            let gate = self.by_token(nodes, 4, &[b, h, e.decay, 1], e)?;
            decay = Some(nodes.node("Exp", &[gate], &[])?);
        }
        let beta = if self.delta { Some(self.by_token(nodes, 5, &[b, e.beta, 1, 1], e)?) } else { None };
        let state_shape = [b, h, e.key, e.value];
        let mut state = match nodes.optional_input(3) {
            Some(past) => Some(cast(nodes, past, DataType::F32)?),
            None => None,
        };
        let mut outputs = Vec::with_capacity(e.tokens);
        for token in 0..e.tokens {
            let at = |nodes: &mut Expansion<'_>, wire: Wire, shape: &[usize; 4]| {
                let wire = slice(nodes, wire, 0, token, token + 1)?;
                reshape(nodes, wire, shape)
            };
            let key_row = at(nodes, key, &[b, h, 1, e.key])?;
            let mut value = at(nodes, value, &[b, h, 1, e.value])?;
            if let (Some(decay), Some(before)) = (decay, state) {
                let decay = at(nodes, decay, &[b, h, e.decay, 1])?;
                state = Some(nodes.node("Mul", &[before, decay], &[])?);
            }
            if let Some(beta) = beta {
                if let Some(state) = state {
                    let retrieved = nodes.node("MatMul", &[key_row, state], &[])?;
                    value = nodes.node("Sub", &[value, retrieved], &[])?;
                }
                let beta = at(nodes, beta, &[b, e.beta, 1, 1])?;
                value = nodes.node("Mul", &[value, beta], &[])?;
            }
            let key_column = reshape(nodes, key_row, &[b, h, e.key, 1])?;
            let update = nodes.node("Mul", &[key_column, value], &[])?;
            let after = match state {
                Some(state) => nodes.node("Add", &[state, update], &[])?,
                None => update,
            };
            state = Some(after);
            let query = at(nodes, query, &[b, h, e.shared, e.key])?;
            let output = nodes.node("MatMul", &[query, after], &[])?;
            outputs.push(reshape(nodes, output, &[b, 1, h * e.shared * e.value])?);
        }
        let output = match *outputs.as_slice() {
            [only] => only,
            _ => nodes.node("Concat", &outputs, &[("axis", 1.into())])?,
        };
        let output = cast(nodes, output, dtype)?;
        let state = state.ok_or_else(|| Reason::new("a state without tokens"))?;
        let state = expand(nodes, state, &state_shape)?;
        Ok(Some(vec![output, cast(nodes, state, e.state)?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let e = self.extents(node)?;
        Ok(vec![
            TensorType::new(node.ty(0)?.dtype, [e.batch, e.tokens, e.heads * e.shared * e.value]),
            TensorType::new(e.state, [e.batch, e.heads, e.key, e.value]),
        ])
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        self.extents(node).is_ok_and(|e| e.tokens > MAX_WRITTEN_OUT || e.tokens == 0)
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let mut inputs: [Option<&Constant>; 6] = [None; 6];
        for (index, slot) in inputs.iter_mut().enumerate() {
            *slot = node.optional_tensor(index)?;
        }
        let types = inputs
            .map(|input| input.map(|input| crate::ops::InputType { ty: input.ty(), constant: Some(input) }));
        let e = self.extents(&NodeTypes { inputs: &types, outputs: node.outputs })?;
        if e.tokens <= MAX_WRITTEN_OUT && e.tokens > 0 {
            return Ok(None);
        }
        let state_size = e.key * e.value;
        let output_len = [e.batch, e.tokens, e.heads * e.shared, e.value].iter().product::<usize>();
        if output_len.max(e.batch * e.heads * state_size) > MAX_VALUES {
            return Err(Reason::new(format!("more than {MAX_VALUES} values are not supported")));
        }
        let [query, key, value, past, decay, beta] = inputs.map(|input| input.map(floats));
        let missing = || Reason::new("one of inputs 0 to 2 is missing");
        let (query, key, value) =
            (query.ok_or_else(missing)?, key.ok_or_else(missing)?, value.ok_or_else(missing)?);
        let scale = scale_of(self.scale, e.key) as f32;
        let mut output = vec![0.0; output_len];
        let mut state = past.unwrap_or_else(|| vec![0.0; e.batch * e.heads * state_size]);
        let mut addend = vec![0.0; e.value];
        for lane in 0..if state_size == 0 { 0 } else { e.batch * e.heads } {
            let (batch, head) = (lane / e.heads, lane % e.heads);
            let state = &mut state[lane * state_size..][..state_size];
            for token in 0..e.tokens {
                let at = batch * e.tokens + token;
                let key = &key[(at * e.heads + head) * e.key..][..e.key];
                if let Some(decay) = &decay {
                    let decay = &decay[(at * e.heads + head) * e.decay..][..e.decay];
                    for (row, factors) in state.chunks_exact_mut(e.value).enumerate() {
                        let factor = libm::expf(decay[row % e.decay]);
                        factors.iter_mut().for_each(|value| *value *= factor);
                    }
                }
                addend.copy_from_slice(&value[(at * e.heads + head) * e.value..][..e.value]);
                if let Some(beta) = &beta {
                    for (row, &key) in state.chunks_exact(e.value).zip(key) {
                        addend.iter_mut().zip(row).for_each(|(addend, state)| *addend -= state * key);
                    }
                    let beta = beta[at * e.beta + head % e.beta];
                    addend.iter_mut().for_each(|addend| *addend *= beta);
                }
                for (row, &key) in state.chunks_exact_mut(e.value).zip(key) {
                    row.iter_mut().zip(&addend).for_each(|(state, addend)| *state += key * addend);
                }
                for shared in 0..e.shared {
                    let index = (at * e.heads + head) * e.shared + shared;
                    let output = &mut output[index * e.value..][..e.value];
                    for (row, &query) in state.chunks_exact(e.value).zip(&query[index * e.key..][..e.key]) {
                        output.iter_mut().zip(row).for_each(|(out, state)| *out += state * query);
                    }
                    output.iter_mut().for_each(|out| *out *= scale);
                }
            }
        }
        let dtype = inputs[0].map_or(DataType::F32, |input| input.ty().dtype);
        Ok(Some(vec![
            tensor(dtype, vec![e.batch, e.tokens, e.heads * e.shared * e.value], &output)?,
            tensor(e.state, vec![e.batch, e.heads, e.key, e.value], &state)?,
        ]))
    }
}

/// CausalConvWithState: each channel convolved with a kernel of its own over what came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CausalConvWithState {
    /// Whether SiLU follows.
    pub silu: bool,
}

fn import_conv(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let silu = match node.attributes.string("activation")?.as_deref() {
        None | Some("none") => false,
        Some("silu" | "swish") => true,
        Some(other) => {
            return Err(Reason::new(format!("activation {other:?} is not supported"))
                .supported("\"none\", \"silu\", \"swish\""));
        }
    };
    Ok(Box::new(CausalConvWithState { silu }))
}

impl Operator for CausalConvWithState {
    fn name(&self) -> &'static str {
        "CausalConvWithState"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let (input, weight) = (nodes.input(0)?, nodes.input(1)?);
        let (ty, weight_ty) = (nodes.ty(input)?.clone(), nodes.ty(weight)?.clone());
        expect_dtype(&ty, FLOATS)?;
        let (&[batch, channels, length], &[_, 1, kernel]) = (ty.shape.as_slice(), weight_ty.shape.as_slice())
        else {
            return Err(Reason::new(format!(
                "input {ty} and weight {weight_ty} are not [B, C, L] and [C, 1, k]"
            )));
        };
        if kernel == 0 {
            return Err(Reason::new("a kernel of no elements"));
        }
        let before = kernel - 1;
        let mut padded = input;
        let past = nodes.optional_input(3);
        if let Some(past) = past {
            expect_shape("past_state", nodes.ty(past)?, &[batch, channels, before])?;
            padded = nodes.node("Concat", &[past, input], &[("axis", 2.into())])?;
        }
        let pad = if past.is_some() { 0 } else { before };
        let x = cast(nodes, padded, DataType::F32)?;
        let weight = cast(nodes, weight, DataType::F32)?;
        let bias = match nodes.optional_input(2) {
            Some(bias) => Some(cast(nodes, bias, DataType::F32)?),
            None => None,
        };
        let attributes = [("group", (channels as i64).into()), ("pads", vec![pad as i64, 0].into())];
        let output = nodes.nodes_of("", "Conv", &[Some(x), Some(weight), bias], &attributes, 1)?;
        let mut output = *output.first().ok_or_else(|| Reason::new("a convolution without output"))?;
        if self.silu {
            output = nodes.node("Swish", &[output], &[])?;
        }
        let output = cast(nodes, output, ty.dtype)?;
        let mut state = padded;
        if past.is_none() && length < before {
            let zero = scalar(nodes, ty.dtype, 0.0)?;
            let zeros = expand(nodes, zero, &[batch, channels, before - length])?;
            state = nodes.node("Concat", &[zeros, input], &[("axis", 2.into())])?;
        }
        let all = nodes.shape(state)?.get(2).copied().unwrap_or(0);
        let state = slice(nodes, state, 2, all - before, all)?;
        Ok(Some(vec![output, state]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, import, run_all};

    fn attributes(rule: &str) -> [(&'static str, Attribute); 3] {
        [
            ("q_num_heads", Attribute::Int(2)),
            ("kv_num_heads", Attribute::Int(1)),
            ("update_rule", rule.into()),
        ]
    }

    /// Pseudo-random `[1, tokens, width]`, of which rows from `first` on are taken.
    fn rows(seed: usize, first: usize, tokens: usize, width: usize) -> Option<Constant> {
        let value = |index: usize| ((index * 37 + seed * 101) % 19) as f32 / 19.0 - 0.5;
        let values: Vec<f32> = (first * width..(first + tokens) * width).map(value).collect();
        Constant::checked(TensorType::new(DataType::F32, [1, tokens, width]), &values)
    }

    #[test]
    fn the_state_gathers_products_of_keys_and_values() {
        let flat = |values: &[f32; 2]| Some(f32s([1, 2, 1], values));
        let query = Some(f32s([1, 2, 2], &[1.0, 2.0, 1.0, 2.0]));
        let inputs = [query, flat(&[2.0, 3.0]), flat(&[5.0, 7.0])];
        let outputs = run_all(("LinearAttention", 27), &attributes("linear"), &inputs, 2).unwrap();
        assert_eq!(*outputs[0].values::<f32>(), [10.0, 20.0, 31.0, 62.0]);
        assert_eq!(*outputs[1].values::<f32>(), [31.0]);
    }

    #[test]
    fn a_loop_over_many_tokens_is_what_a_few_at_a_time_are() {
        let run = |first: usize, tokens: usize, past: Option<Constant>| {
            let decay = rows(4, first, tokens, 3);
            let beta = rows(5, first, tokens, 1);
            let inputs = [
                rows(1, first, tokens, 6),
                rows(2, first, tokens, 3),
                rows(3, first, tokens, 2),
                past,
                decay,
                beta,
            ];
            run_all(("LinearAttention", 27), &attributes("gated_delta"), &inputs, 2).unwrap()
        };
        let whole = run(0, 20, None);
        let first = run(0, 10, None);
        let second = run(10, 10, Some(first[1].clone()));
        let parts = [first[0].values::<f32>(), second[0].values::<f32>()].concat();
        for (a, b) in whole[0].values::<f32>().iter().zip(&parts) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        assert_eq!(whole[1].ty(), second[1].ty());
    }

    #[test]
    fn rules_take_the_inputs_they_need() {
        assert!(import(("LinearAttention", 27), &attributes("linear"), 6, 1).is_err());
        assert!(import(("LinearAttention", 27), &attributes("gated"), 3, 1).is_err());
        assert!(import(("LinearAttention", 27), &attributes("other"), 3, 1).is_err());
        let inputs = [rows(1, 0, 2, 6), rows(2, 0, 2, 2), rows(3, 0, 2, 2)];
        assert!(run_all(("LinearAttention", 27), &attributes("linear"), &inputs, 2).is_err());
    }

    #[test]
    fn convolutions_see_the_past_alone() {
        let (x, weight) = (f32s([1, 1, 3], &[1.0, 2.0, 3.0]), f32s([1, 1, 2], &[1.0, 10.0]));
        let run = |past: Option<Constant>| {
            let inputs = [Some(x.clone()), Some(weight.clone()), None, past];
            let outputs = run_all(("CausalConvWithState", 27), &[], &inputs, 2).unwrap();
            (outputs[0].values::<f32>().to_vec(), outputs[1].values::<f32>().to_vec())
        };
        assert_eq!(run(None), (vec![10.0, 21.0, 32.0], vec![3.0]));
        assert_eq!(run(Some(f32s([1, 1, 1], &[5.0]))), (vec![15.0, 21.0, 32.0], vec![3.0]));
        let long = [Some(x), Some(f32s([1, 1, 5], &[1.0; 5])), None, None];
        let outputs = run_all(("CausalConvWithState", 27), &[], &long, 2).unwrap();
        assert_eq!(*outputs[1].values::<f32>(), [0.0, 1.0, 2.0, 3.0]);
        let wrong = [Some(f32s([3], &[1.0; 3])), Some(f32s([1, 1, 2], &[1.0; 2]))];
        assert!(run_all(("CausalConvWithState", 27), &[], &wrong, 2).is_err());
    }
}
