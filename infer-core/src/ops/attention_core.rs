//! Scaled dot-product attention and its surroundings as nodes of other operators, for every operator that attends.
//!
//! Y = softmax(softcap(scale · Q · Kᵀ) + bias) · V. The scale goes into Q, so that what remains is the form in which
//! exporters spell attention: product, addition, softmax, product.

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{Expansion, Wire, broadcast};
use crate::tensor_type::{DataType, MAX_ELEMENTS, TensorType};

/// The longest sequence for which positions are written down.
const MAX_POSITIONS: usize = 1 << 24;

/// Which intermediate result is an output too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scores {
    /// scale · Q · Kᵀ
    Raw,
    /// After the soft cap.
    Capped,
    /// After the bias.
    Biased,
    /// After the softmax.
    Probabilities,
}

/// One attention, its tensors of one type in which to compute.
pub(super) struct Attend {
    /// `[B, Hq, S, D]`
    pub query: Wire,
    /// `[B, Hkv, D, T]`, Hkv dividing Hq: query heads share keys and values in groups of neighbours.
    pub key_transposed: Wire,
    /// `[B, Hkv, T, Dv]`
    pub value: Wire,
    /// The factor of the scores.
    pub scale: f64,
    /// Scores are capped as cap · tanh(score / cap); 0 for not.
    pub softcap: f64,
    /// Added to the scores, broadcasting to `[B, Hq, S, T]`.
    pub bias: Option<Wire>,
    /// Rows without any key, as bool broadcasting to `[B, Hq, S, 1]`: their output is zero.
    pub masked: Option<Wire>,
    /// The type in which softmax computes.
    pub softmax: DataType,
    /// A score of one further key that has no value, broadcasting to `[B, Hq, S, 1]`.
    pub sink: Option<Wire>,
    /// Which intermediate result is wanted too.
    pub scores: Option<Scores>,
}

impl Attend {
    /// The nodes: `[B, Hq, S, Dv]`, and the intermediate result `[B, Hq, S, T]` that is wanted.
    pub(super) fn build(self, nodes: &mut Expansion<'_>) -> Result<(Wire, Option<Wire>), Reason> {
        let [batch, heads, rows, size] = extents(nodes, self.query)?;
        let [_, kv_heads, _, total] = extents(nodes, self.key_transposed)?;
        let [.., value_size] = extents(nodes, self.value)?;
        let dtype = nodes.ty(self.query)?.dtype;
        if kv_heads == 0 || heads % kv_heads != 0 {
            return Err(Reason::new(format!("{heads} query heads do not share {kv_heads} key heads")));
        }
        expect_moderate(&TensorType::new(dtype, [batch, heads, rows, total]))?;
        expect_moderate(&TensorType::new(dtype, [batch, heads, rows, value_size]))?;
        // Rows of the heads that share a key are one matrix.
        let shared = [batch, kv_heads, heads / kv_heads * rows];
        let apart = [batch, heads, rows, total];
        let capped = self.softcap > 0.0;
        let raw = self.scores == Some(Scores::Raw);
        let factor = if capped && !raw { self.scale / self.softcap } else { self.scale };
        let mut wanted = None;

        let mut query = reshape(nodes, self.query, &[shared[0], shared[1], shared[2], size])?;
        if factor != 1.0 {
            let factor = scalar(nodes, dtype, factor)?;
            query = nodes.node("Mul", &[query, factor], &[])?;
        }
        let mut scores = nodes.node("MatMul", &[query, self.key_transposed], &[])?;
        if raw {
            wanted = Some(reshape(nodes, scores, &apart)?);
        }
        if capped {
            let cap = scalar(nodes, dtype, self.softcap)?;
            if raw {
                scores = nodes.node("Div", &[scores, cap], &[])?;
            }
            scores = nodes.node("Tanh", &[scores], &[])?;
            scores = nodes.node("Mul", &[scores, cap], &[])?;
        }
        if self.scores == Some(Scores::Capped) {
            wanted = Some(reshape(nodes, scores, &apart)?);
        }
        if let Some(bias) = self.bias {
            // A bias of every head and row alike fits the rows of shared heads as it is.
            let alike = matches!(nodes.shape(bias)?, [] | [_] | [1, _] | [.., 1, 1, _]);
            if !alike {
                scores = reshape(nodes, scores, &apart)?;
            }
            scores = nodes.node("Add", &[scores, bias], &[])?;
        }
        if self.scores == Some(Scores::Biased) {
            wanted = Some(reshape(nodes, scores, &apart)?);
        }

        let mut weights = cast(nodes, scores, self.softmax)?;
        if let Some(sink) = self.sink {
            weights = reshape(nodes, weights, &apart)?;
            let sink = cast(nodes, sink, self.softmax)?;
            let sink = expand(nodes, sink, &[batch, heads, rows, 1])?;
            weights = nodes.node("Concat", &[weights, sink], &[("axis", (-1).into())])?;
        }
        weights = nodes.node("Softmax", &[weights], &[("axis", (-1).into())])?;
        if self.sink.is_some() {
            weights = slice(nodes, weights, 3, 0, total)?;
        }
        weights = cast(nodes, weights, dtype)?;
        let zero = scalar(nodes, dtype, 0.0)?;
        let mut masked = self.masked;
        if self.scores == Some(Scores::Probabilities) {
            weights = reshape(nodes, weights, &apart)?;
            if let Some(masked) = masked.take() {
                weights = nodes.node("Where", &[masked, zero, weights], &[])?;
            }
            wanted = Some(weights);
        }
        weights = reshape(nodes, weights, &[shared[0], shared[1], shared[2], total])?;
        let output = nodes.node("MatMul", &[weights, self.value], &[])?;
        let mut output = reshape(nodes, output, &[batch, heads, rows, value_size])?;
        if let Some(masked) = masked {
            output = nodes.node("Where", &[masked, zero, output], &[])?;
        }
        Ok((output, wanted))
    }
}

/// Which keys each query may attend, and what is added to their scores.
#[derive(Default)]
pub(super) struct Mask {
    allowed: Option<Wire>,
    added: Option<Wire>,
    /// Whether a row may be left without any key.
    may_be_empty: bool,
}

impl Mask {
    /// Restricts the keys to those where `allowed` (bool) is true. `may_be_empty` says whether it may, with what was
    /// allowed before, leave a row without any.
    pub(super) fn allow(
        &mut self,
        nodes: &mut Expansion<'_>,
        allowed: Wire,
        may_be_empty: bool,
    ) -> Result<(), Reason> {
        self.may_be_empty |= may_be_empty;
        self.allowed = Some(match self.allowed {
            Some(other) => nodes.node("And", &[other, allowed], &[])?,
            None => allowed,
        });
        Ok(())
    }

    /// Adds `bias` to the scores. `may_be_empty` says whether its −∞ may leave a row without any key.
    pub(super) fn add(
        &mut self,
        nodes: &mut Expansion<'_>,
        bias: Wire,
        may_be_empty: bool,
    ) -> Result<(), Reason> {
        self.may_be_empty |= may_be_empty;
        self.added = Some(match self.added {
            Some(other) => nodes.node("Add", &[other, bias], &[])?,
            None => bias,
        });
        Ok(())
    }

    /// The bias of element type `dtype`, −∞ where nothing is allowed, and which rows have no key at all.
    pub(super) fn build(
        self,
        nodes: &mut Expansion<'_>,
        dtype: DataType,
    ) -> Result<(Option<Wire>, Option<Wire>), Reason> {
        let bias = match (self.allowed, self.added) {
            (None, added) => added,
            (Some(allowed), added) => {
                let elsewhere = match added {
                    Some(added) => added,
                    None => scalar(nodes, dtype, 0.0)?,
                };
                let nothing = scalar(nodes, dtype, f64::NEG_INFINITY)?;
                Some(nodes.node("Where", &[allowed, elsewhere, nothing], &[])?)
            }
        };
        let Some(mask) = bias.filter(|_| self.may_be_empty) else { return Ok((bias, None)) };
        if nodes.known(mask).is_some_and(|mask| !has_empty_row(mask)) {
            return Ok((bias, None));
        }
        let last = nodes.i64s(&[-1]);
        let masked = match (self.allowed, self.added) {
            (Some(allowed), None) => {
                let any = nodes.node("ReduceMax", &[allowed, last], &[])?;
                nodes.node("Not", &[any], &[])?
            }
            _ => {
                let greatest = nodes.node("ReduceMax", &[mask, last], &[])?;
                let nothing = scalar(nodes, dtype, f64::NEG_INFINITY)?;
                nodes.node("Equal", &[greatest, nothing], &[])?
            }
        };
        Ok((bias, Some(masked)))
    }
}

/// Whether a row of the last axis is −∞ throughout.
fn has_empty_row(mask: &Constant) -> bool {
    let Some(values) = mask.to_f32s() else { return true };
    let row = mask.ty().shape.last().copied().unwrap_or(1).max(1);
    values.chunks(row).any(|row| row.iter().all(|&value| value == f32::NEG_INFINITY))
}

/// The extents of a value of four dimensions.
pub(super) fn extents(nodes: &Expansion<'_>, wire: Wire) -> Result<[usize; 4], Reason> {
    let ty = nodes.ty(wire)?;
    expect_moderate(ty)?;
    ty.shape.as_slice().try_into().map_err(|_| Reason::new(format!("{ty} has not 4 dimensions")))
}

/// Refuses extents whose products with each other could overflow, as those of a tensor without elements may.
pub(super) fn expect_moderate(ty: &TensorType) -> Result<(), Reason> {
    let product = ty.shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent.max(1)));
    match product {
        Some(product) if product <= MAX_ELEMENTS => Ok(()),
        _ => Err(Reason::new(format!("{ty} is too large"))),
    }
}

/// A scalar constant of a floating-point type.
pub(super) fn scalar(nodes: &mut Expansion<'_>, dtype: DataType, value: f64) -> Result<Wire, Reason> {
    let ty = TensorType::new(dtype, []);
    let constant = match dtype {
        DataType::F32 => Constant::of(ty, &[value as f32]),
        DataType::F64 => Constant::of(ty, &[value]),
        DataType::F16 => Constant::of(ty, &[half::f16::from_f64(value)]),
        DataType::Bf16 => Constant::of(ty, &[half::bf16::from_f64(value)]),
        _ => return Err(Reason::new(format!("element type {dtype} is not floating-point"))),
    };
    Ok(nodes.constant(constant))
}

/// 0, 1, …, `count` − 1 as i64, each plus `first`, in a tensor of `shape`.
pub(super) fn positions(
    nodes: &mut Expansion<'_>,
    first: i64,
    count: usize,
    shape: &[usize],
) -> Result<Wire, Reason> {
    if count > MAX_POSITIONS {
        return Err(Reason::new(format!("a sequence of {count} positions is longer than {MAX_POSITIONS}")));
    }
    let values: Vec<i64> = (0..count as i64).map(|index| index.saturating_add(first)).collect();
    let constant = Constant::checked(TensorType::new(DataType::I64, shape), &values);
    Ok(nodes.constant(constant.ok_or_else(|| Reason::new(format!("{count} positions for {shape:?}")))?))
}

/// `wire` with elements of type `dtype`.
pub(super) fn cast(nodes: &mut Expansion<'_>, wire: Wire, dtype: DataType) -> Result<Wire, Reason> {
    if nodes.ty(wire)?.dtype == dtype {
        return Ok(wire);
    }
    nodes.node("Cast", &[wire], &[("to", (dtype as i64).into())])
}

/// `wire` as a tensor of `shape`.
pub(super) fn reshape(nodes: &mut Expansion<'_>, wire: Wire, shape: &[usize]) -> Result<Wire, Reason> {
    if nodes.shape(wire)? == shape {
        return Ok(wire);
    }
    let shape = extents_wire(nodes, shape);
    nodes.node("Reshape", &[wire, shape], &[("allowzero", 1.into())])
}

/// `wire` broadcast to `shape`.
pub(super) fn expand(nodes: &mut Expansion<'_>, wire: Wire, shape: &[usize]) -> Result<Wire, Reason> {
    if nodes.shape(wire)? == shape {
        return Ok(wire);
    }
    let shape = extents_wire(nodes, shape);
    nodes.node("Expand", &[wire, shape], &[])
}

fn extents_wire(nodes: &mut Expansion<'_>, shape: &[usize]) -> Wire {
    let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    nodes.i64s(&shape)
}

/// `wire` with its axes in the order `perm`.
pub(super) fn transpose(nodes: &mut Expansion<'_>, wire: Wire, perm: &[usize]) -> Result<Wire, Reason> {
    let shape = nodes.shape(wire)?;
    let moves = |axis: &&usize| shape.get(**axis).is_some_and(|&extent| extent != 1);
    // Axes of extent 1 move without their elements doing so.
    if perm.iter().filter(moves).is_sorted() {
        let shape: Vec<usize> = perm.iter().filter_map(|&axis| shape.get(axis).copied()).collect();
        return reshape(nodes, wire, &shape);
    }
    let perm: Vec<i64> = perm.iter().map(|&axis| axis as i64).collect();
    nodes.node("Transpose", &[wire], &[("perm", perm.into())])
}

/// Elements `start` to before `end` of `wire` along `axis`.
pub(super) fn slice(
    nodes: &mut Expansion<'_>,
    wire: Wire,
    axis: usize,
    start: usize,
    end: usize,
) -> Result<Wire, Reason> {
    if start == 0 && nodes.shape(wire)?.get(axis) == Some(&end) {
        return Ok(wire);
    }
    let [start, end, axis] = [start, end, axis].map(|value| nodes.i64s(&[value as i64]));
    nodes.node("Slice", &[wire, start, end, axis], &[])
}

/// `wire` cut along `axis` into pieces of these extents.
pub(super) fn split(
    nodes: &mut Expansion<'_>,
    wire: Wire,
    axis: i64,
    sizes: &[usize],
) -> Result<Vec<Wire>, Reason> {
    let count = sizes.len();
    let sizes = extents_wire(nodes, sizes);
    nodes.nodes_of("", "Split", &[Some(wire), Some(sizes)], &[("axis", axis.into())], count)
}

/// `[B, S, H·D]` as `[B, S, H, D]`.
pub(super) fn with_heads(nodes: &mut Expansion<'_>, wire: Wire, heads: usize) -> Result<Wire, Reason> {
    let ty = nodes.ty(wire)?;
    expect_moderate(ty)?;
    match *ty.shape.as_slice() {
        [batch, rows, hidden] if heads > 0 && hidden % heads == 0 => {
            reshape(nodes, wire, &[batch, rows, heads, hidden / heads])
        }
        _ => Err(Reason::new(format!("{ty} does not divide into {heads} heads"))),
    }
}

/// `[B, S, H·D]` as `[B, H, S, D]`.
pub(super) fn split_heads(nodes: &mut Expansion<'_>, wire: Wire, heads: usize) -> Result<Wire, Reason> {
    let wire = with_heads(nodes, wire, heads)?;
    transpose(nodes, wire, &[0, 2, 1, 3])
}

/// `[B, H, S, D]` as `[B, S, H·D]`.
pub(super) fn merge_heads(nodes: &mut Expansion<'_>, wire: Wire) -> Result<Wire, Reason> {
    let [batch, heads, rows, size] = extents(nodes, wire)?;
    let wire = transpose(nodes, wire, &[0, 2, 1, 3])?;
    reshape(nodes, wire, &[batch, rows, heads * size])
}

/// Refuses a bias or mask that does not broadcast to the scores.
pub(super) fn expect_broadcast(name: &str, ty: &TensorType, scores: &[usize]) -> Result<(), Reason> {
    if broadcast(&[&ty.shape, scores]).is_ok_and(|shape| shape == scores) {
        return Ok(());
    }
    Err(Reason::new(format!("`{name}` ({ty}) does not broadcast to the scores {scores:?}")))
}

/// Refuses two tensors that are not of one shape.
pub(super) fn expect_shape(name: &str, ty: &TensorType, shape: &[usize]) -> Result<(), Reason> {
    if ty.shape == shape {
        return Ok(());
    }
    Err(Reason::new(format!("`{name}` is {ty}, not of shape {shape:?}")))
}
