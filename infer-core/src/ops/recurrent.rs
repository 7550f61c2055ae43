//! LSTM, GRU, RNN: recurrent networks of one layer.
//!
//! <https://onnx.ai/onnx/operators/onnx__LSTM.html>, <https://onnx.ai/onnx/operators/onnx__GRU.html>,
//! <https://onnx.ai/onnx/operators/onnx__RNN.html>: with `layout` since opset 14, bf16 since 22.
//!
//! What exporters write (f32, the activations of the definition, sequences of full length, no clipping and no peepholes)
//! runs on kernels: one matrix product of all steps' inputs, then the recurrence, see
//! [`infer_kernels::call::Recurrent`]. Everything else is computed on values in f64.

mod cell;
mod kernels;

use infer_kernels::call::ActivationKind;

use crate::calls::LowerNode;
use crate::diagnostic::{Reason, quote};
use crate::node_values::NodeValues;
use crate::ops::element_type::common_float;
use crate::ops::elements::with_types;
use crate::ops::{ImportNode, NodeTypes, Operator, Row};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row { name: "GRU", domain: "", since: 7, inputs: 3..=6, outputs: 1..=2, import: import_gru },
    Row { name: "LSTM", domain: "", since: 7, inputs: 3..=8, outputs: 1..=3, import: import_lstm },
    Row { name: "RNN", domain: "", since: 7, inputs: 3..=6, outputs: 1..=2, import: import_rnn },
];

/// Where the inputs are: X, W, R, B, the lengths, the first h, the first c, and the peepholes.
const X: usize = 0;
const W: usize = 1;
const R: usize = 2;
const B: usize = 3;
const LENGTHS: usize = 4;
const FIRST_H: usize = 5;
const FIRST_C: usize = 6;
const PEEPHOLES: usize = 7;

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent units.
    Gru,
    /// One activation.
    Rnn,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Kind::Lstm => 4,
            Kind::Gru => 3,
            Kind::Rnn => 1,
        }
    }

    /// The activations of the definition, of one direction.
    fn functions(self) -> &'static [FunctionKind] {
        match self {
            Kind::Lstm => &[FunctionKind::Sigmoid, FunctionKind::Tanh, FunctionKind::Tanh],
            Kind::Gru => &[FunctionKind::Sigmoid, FunctionKind::Tanh],
            Kind::Rnn => &[FunctionKind::Tanh],
        }
    }
}

/// The functions that `activations` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// alpha·x + beta
    Affine,
    /// x, or alpha·(eˣ − 1) below zero
    Elu,
    /// alpha·x + beta within 0 ..= 1
    HardSigmoid,
    /// x, or alpha·x below zero
    LeakyRelu,
    /// max(x, 0)
    Relu,
    /// alpha·tanh(beta·x)
    ScaledTanh,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// ln(1 + eˣ)
    Softplus,
    /// x / (1 + |x|)
    Softsign,
    /// tanh x
    Tanh,
    /// x where it is at least alpha, else 0
    ThresholdedRelu,
}

/// Each function's name, in lower case as names are compared, and its alpha and beta where it has them.
const FUNCTIONS: &[(&str, FunctionKind, Option<f32>, Option<f32>)] = &[
    ("affine", FunctionKind::Affine, Some(1.0), Some(0.0)),
    ("elu", FunctionKind::Elu, Some(1.0), None),
    ("hardsigmoid", FunctionKind::HardSigmoid, Some(0.2), Some(0.5)),
    ("leakyrelu", FunctionKind::LeakyRelu, Some(0.01), None),
    ("relu", FunctionKind::Relu, None, None),
    ("scaledtanh", FunctionKind::ScaledTanh, Some(1.0), Some(1.0)),
    ("sigmoid", FunctionKind::Sigmoid, None, None),
    ("softplus", FunctionKind::Softplus, None, None),
    ("softsign", FunctionKind::Softsign, None, None),
    ("tanh", FunctionKind::Tanh, None, None),
    ("thresholdedrelu", FunctionKind::ThresholdedRelu, Some(1.0), None),
];

/// A function with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Function {
    /// Which.
    pub kind: FunctionKind,
    /// Its first constant.
    pub alpha: f32,
    /// Its second constant.
    pub beta: f32,
}

/// Which way the directions walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first step to the last.
    Forward,
    /// From the last step to the first.
    Reverse,
    /// One each.
    Bidirectional,
}

/// A recurrent network of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// Which network.
    pub kind: Kind,
    /// Which way it walks.
    pub direction: Direction,
    /// Whether sequences are the outermost axis, not steps.
    pub batch_first: bool,
    /// What `hidden_size` says.
    pub hidden_size: Option<i64>,
    /// What the arguments of the gates' activations are clipped to on both sides.
    pub clip: Option<f32>,
    /// LSTM: whether the forget gate is one less the input gate.
    pub input_forget: bool,
    /// GRU: whether the reset gate applies after the product.
    pub linear_before_reset: bool,
    /// The activations of each direction.
    pub functions: Vec<Function>,
}

fn import_lstm(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    import(node, Kind::Lstm)
}

fn import_gru(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    import(node, Kind::Gru)
}

fn import_rnn(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    import(node, Kind::Rnn)
}

fn import(node: &mut ImportNode, kind: Kind) -> Result<Box<dyn Operator>, Reason> {
    let attributes = &mut node.attributes;
    let direction = match attributes.string("direction")?.as_deref() {
        None | Some("forward") => Direction::Forward,
        Some("reverse") => Direction::Reverse,
        Some("bidirectional") => Direction::Bidirectional,
        Some(other) => {
            return Err(Reason::new(format!("direction {} is not supported", quote(other)))
                .supported("\"forward\", \"reverse\", \"bidirectional\""));
        }
    };
    let clip = attributes.float("clip")?;
    if clip.is_some_and(|clip| clip.is_nan() || clip < 0.0) {
        return Err(Reason::new(format!("attribute `clip` is {}", clip.unwrap_or(0.0))));
    }
    let functions = functions(node, kind, if direction == Direction::Bidirectional { 2 } else { 1 })?;
    let attributes = &mut node.attributes;
    Ok(Box::new(Recurrent {
        kind,
        direction,
        batch_first: node.opset >= 14 && attributes.flag("layout", false)?,
        hidden_size: attributes.int("hidden_size")?,
        clip,
        // Given as any number by some exporters; only that it is not zero counts.
        input_forget: kind == Kind::Lstm && attributes.int("input_forget")?.unwrap_or(0) != 0,
        linear_before_reset: kind == Kind::Gru && attributes.int("linear_before_reset")?.unwrap_or(0) != 0,
        functions,
    }))
}

fn functions(node: &mut ImportNode, kind: Kind, directions: usize) -> Result<Vec<Function>, Reason> {
    let attributes = &mut node.attributes;
    let names = attributes.strings("activations")?.filter(|names| !names.is_empty());
    let alphas = attributes.floats("activation_alpha")?.unwrap_or_default();
    let betas = attributes.floats("activation_beta")?.unwrap_or_default();
    let (mut alphas, mut betas) = (alphas.into_iter(), betas.into_iter());
    let Some(names) = names else {
        let one = kind.functions().iter().map(|&kind| Function { kind, alpha: 0.0, beta: 0.0 });
        return Ok(std::iter::repeat_n(one, directions).flatten().collect());
    };
    if names.len() != kind.functions().len() * directions {
        return Err(Reason::new(format!(
            "attribute `activations` names {} functions, not {}",
            names.len(),
            kind.functions().len() * directions
        )));
    }
    // Each function takes the next of the constants that it has; those that have none take none.
    let function = |name: &String| {
        let lower = name.to_ascii_lowercase();
        let &(_, kind, alpha, beta) = FUNCTIONS.iter().find(|entry| entry.0 == lower).ok_or_else(|| {
            let known: Vec<&str> = FUNCTIONS.iter().map(|entry| entry.0).collect();
            Reason::new(format!("activation {} is not supported", quote(name))).supported(known.join(", "))
        })?;
        let alpha = alpha.map_or(0.0, |default| alphas.next().unwrap_or(default));
        let beta = beta.map_or(0.0, |default| betas.next().unwrap_or(default));
        Ok(Function { kind, alpha, beta })
    };
    names.iter().map(function).collect()
}

/// The extents of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extents {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    directions: usize,
}

impl Recurrent {
    fn extents(&self, node: &NodeTypes<'_>) -> Result<Extents, Reason> {
        let (x, r) = (node.ty(X)?, node.ty(R)?);
        node.ty(W)?;
        let &[outer, middle, input] = x.shape.as_slice() else {
            return Err(Reason::new(format!("input `X` is {x}, not of 3 dimensions")));
        };
        let (steps, batch) = if self.batch_first { (middle, outer) } else { (outer, middle) };
        let directions = if self.direction == Direction::Bidirectional { 2 } else { 1 };
        let hidden = match *r.shape.as_slice() {
            [_, _, hidden] => hidden,
            _ => return Err(Reason::new(format!("input `R` is {r}, not of 3 dimensions"))),
        };
        if self.hidden_size.is_some_and(|size| usize::try_from(size) != Ok(hidden)) {
            return Err(Reason::new(format!(
                "attribute `hidden_size` is {}, but input `R` is {r}",
                self.hidden_size.unwrap_or(0)
            )));
        }
        let too_large = || Reason::new(format!("input `R` is {r}, which is too large"));
        let lanes = self.kind.gates().checked_mul(hidden).ok_or_else(too_large)?;
        lanes.checked_mul(2 * directions).ok_or_else(too_large)?;
        let state = if self.batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
        let expected: [(&str, usize, &[usize]); 7] = [
            ("W", W, &[directions, lanes, input]),
            ("R", R, &[directions, lanes, hidden]),
            ("B", B, &[directions, 2 * lanes]),
            ("sequence_lens", LENGTHS, &[batch]),
            ("initial_h", FIRST_H, &state),
            ("initial_c", FIRST_C, &state),
            ("P", PEEPHOLES, &[directions, 3 * hidden]),
        ];
        for (name, index, shape) in expected {
            if let Some(ty) = node.optional(index).filter(|ty| ty.shape != shape) {
                return Err(Reason::new(format!("input `{name}` is {ty}, not of the extents {shape:?}")));
            }
        }
        if let Some(lengths) = node.optional(LENGTHS).filter(|ty| ty.dtype != DataType::I32) {
            return Err(Reason::new(format!("input `sequence_lens` is {lengths}, not of i32")));
        }
        Ok(Extents { steps, batch, input, hidden, directions })
    }

    /// Whether kernels compute it, and for an RNN its activation.
    fn kernel(&self, node: &NodeTypes<'_>, extents: &Extents) -> Option<ActivationKind> {
        let full = match (node.optional(LENGTHS), node.constant(LENGTHS)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(lengths)) => {
                let steps = extents.steps as i64;
                lengths.to_i64s().is_some_and(|lengths| lengths.iter().all(|&length| length == steps))
            }
        };
        let plain = self.clip.is_none() && !self.input_forget && node.optional(PEEPHOLES).is_none();
        if !full || !plain || node.ty(X).ok()?.dtype != DataType::F32 {
            return None;
        }
        if self.kind == Kind::Rnn {
            let first = self.functions.first()?;
            let kind = match first.kind {
                FunctionKind::Tanh => ActivationKind::Tanh,
                FunctionKind::Relu => ActivationKind::Relu,
                FunctionKind::Sigmoid => ActivationKind::Sigmoid,
                _ => return None,
            };
            return self.functions.iter().all(|function| function == first).then_some(kind);
        }
        let wanted = self.kind.functions().iter().cycle();
        let default = self.functions.iter().zip(wanted).all(|(function, &kind)| function.kind == kind);
        default.then_some(ActivationKind::None)
    }

    fn outputs(&self, dtype: DataType, extents: &Extents) -> Vec<TensorType> {
        let Extents { steps, batch, hidden, directions, .. } = *extents;
        let (every, last) = if self.batch_first {
            (vec![batch, steps, directions, hidden], vec![batch, directions, hidden])
        } else {
            (vec![steps, directions, batch, hidden], vec![directions, batch, hidden])
        };
        let last = TensorType::new(dtype, last);
        let mut outputs = vec![TensorType::new(dtype, every), last.clone()];
        if self.kind == Kind::Lstm {
            outputs.push(last);
        }
        outputs
    }
}

impl Operator for Recurrent {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Lstm => "LSTM",
            Kind::Gru => "GRU",
            Kind::Rnn => "RNN",
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let dtype = common_float(node, &[X, W, R, B, FIRST_H, FIRST_C, PEEPHOLES])?;
        Ok(self.outputs(dtype, &self.extents(node)?))
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (extents, kernel) = node.with_types(|types| {
            let extents = self.extents(types)?;
            Ok((extents, self.kernel(types, &extents)))
        })?;
        let kernel = kernel.ok_or_else(|| Reason::new(format!("this {} has no kernels", self.name())))?;
        kernels::lower(self, node, &extents, kernel)
    }

    fn is_host(&self, node: &NodeTypes<'_>) -> bool {
        self.extents(node).is_ok_and(|extents| self.kernel(node, &extents).is_none())
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let (outputs, extents, kernel) = with_types(node, |types| {
            let (outputs, extents) = (self.infer(types)?, self.extents(types)?);
            let kernel = self.kernel(types, &extents);
            Ok((outputs, extents, kernel))
        })?;
        if kernel.is_some() {
            return Ok(None);
        }
        cell::compute(self, node, &extents, outputs).map(Some)
    }

    fn flops(&self, node: &NodeTypes<'_>, _outputs: &[&TensorType]) -> u64 {
        self.extents(node).map_or(0, |e| {
            let factors = [2, e.steps, e.batch, e.directions, self.kind.gates(), e.hidden];
            let lanes =
                factors.into_iter().fold(1u64, |product, factor| product.saturating_mul(factor as u64));
            lanes.saturating_mul((e.input as u64).saturating_add(e.hidden as u64))
        })
    }
}

#[cfg(test)]
mod tests;
