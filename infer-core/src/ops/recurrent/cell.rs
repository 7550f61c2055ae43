//! Recurrent networks computed on values, with every option.

use super::{
    B, Direction, Extents, FIRST_C, FIRST_H, Function, FunctionKind, Kind, LENGTHS, PEEPHOLES, R, Recurrent,
    W, X,
};
use crate::diagnostic::Reason;
use crate::node_values::NodeValues;
use crate::ops::elements::expect_elements;
use crate::ops::number::{of_f64s, to_f64s};
use crate::tensor_type::TensorType;
use crate::value::Value;

impl Function {
    /// The value at `x`.
    fn at(&self, x: f64) -> f64 {
        let (alpha, beta) = (f64::from(self.alpha), f64::from(self.beta));
        match self.kind {
            FunctionKind::Affine => alpha * x + beta,
            FunctionKind::Elu if x < 0.0 => alpha * libm::expm1(x),
            FunctionKind::HardSigmoid => (alpha * x + beta).clamp(0.0, 1.0),
            FunctionKind::LeakyRelu if x < 0.0 => alpha * x,
            FunctionKind::Relu if x < 0.0 => 0.0,
            FunctionKind::Elu | FunctionKind::LeakyRelu | FunctionKind::Relu => x,
            FunctionKind::ScaledTanh => alpha * libm::tanh(beta * x),
            FunctionKind::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
            FunctionKind::Softplus => x.max(0.0) + libm::log1p(libm::exp(-x.abs())),
            FunctionKind::Softsign => x / (1.0 + x.abs()),
            FunctionKind::Tanh => libm::tanh(x),
            FunctionKind::ThresholdedRelu if x < alpha => 0.0,
            FunctionKind::ThresholdedRelu => x,
        }
    }
}

/// One direction's weights.
struct Cell<'a> {
    op: &'a Recurrent,
    functions: &'a [Function],
    hidden: usize,
    input: usize,
    w: &'a [f64],
    r: &'a [f64],
    /// The biases of the inputs, then those of the states; empty where there are none.
    b: &'a [f64],
    /// The peepholes of i, o and f; empty where there are none.
    p: &'a [f64],
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn rows(matrix: &[f64], row: usize, width: usize) -> &[f64] {
    matrix.get(row * width..(row + 1) * width).unwrap_or_default()
}

impl Cell<'_> {
    /// Element `j` of what the input contributes to gate `gate`, and its bias.
    fn input_part(&self, gate: usize, j: usize, x: &[f64]) -> f64 {
        let row = gate * self.hidden + j;
        dot(rows(self.w, row, self.input), x) + self.b.get(row).copied().unwrap_or(0.0)
    }

    /// Element `j` of what a state contributes to gate `gate`, and its bias.
    fn state_part(&self, gate: usize, j: usize, h: &[f64]) -> f64 {
        let row = gate * self.hidden + j;
        let bias = self.b.get(self.op.kind.gates() * self.hidden + row).copied().unwrap_or(0.0);
        dot(rows(self.r, row, self.hidden), h) + bias
    }

    /// Element `j` of a peephole times that of `c`.
    fn peep(&self, gate: usize, j: usize, c: f64) -> f64 {
        self.p.get(gate * self.hidden + j).map_or(0.0, |p| p * c)
    }

    /// Activation `index` of `x`, which is clipped first where it is a gate's, as ONNX Runtime does, not an LSTM's c.
    fn activate(&self, index: usize, x: f64) -> f64 {
        let clipped = match self.op.clip.filter(|_| index < 2) {
            Some(clip) => x.clamp(-f64::from(clip), f64::from(clip)),
            None => x,
        };
        self.functions.get(index).map_or(clipped, |function| function.at(clipped))
    }

    /// One step: h and c become the next ones.
    fn step(&self, x: &[f64], h: &mut Vec<f64>, c: &mut [f64]) {
        let gate = |gate: usize, j: usize| self.input_part(gate, j, x) + self.state_part(gate, j, h);
        let next: Vec<f64> = match self.op.kind {
            Kind::Rnn => (0..self.hidden).map(|j| self.activate(0, gate(0, j))).collect(),
            Kind::Gru => {
                let update: Vec<f64> = (0..self.hidden).map(|j| self.activate(0, gate(0, j))).collect();
                let reset: Vec<f64> = (0..self.hidden).map(|j| self.activate(0, gate(1, j))).collect();
                let kept: Vec<f64> = reset.iter().zip(&*h).map(|(reset, h)| reset * h).collect();
                (0..self.hidden)
                    .map(|j| {
                        let state = if self.op.linear_before_reset {
                            reset[j] * self.state_part(2, j, h)
                        } else {
                            self.state_part(2, j, &kept)
                        };
                        let new = self.activate(1, self.input_part(2, j, x) + state);
                        (1.0 - update[j]) * new + update[j] * h[j]
                    })
                    .collect()
            }
            Kind::Lstm => c
                .iter_mut()
                .enumerate()
                .map(|(j, c)| {
                    let i = self.activate(0, gate(0, j) + self.peep(0, j, *c));
                    let f = if self.op.input_forget {
                        1.0 - i
                    } else {
                        self.activate(0, gate(2, j) + self.peep(2, j, *c))
                    };
                    *c = f * *c + i * self.activate(1, gate(3, j));
                    let o = self.activate(0, gate(1, j) + self.peep(1, j, *c));
                    o * self.activate(2, *c)
                })
                .collect(),
        };
        *h = next;
    }
}

/// The outputs, of the types `outputs`; the types of the inputs are checked.
pub(super) fn compute(
    op: &Recurrent,
    node: &NodeValues<'_>,
    extents: &Extents,
    outputs: Vec<TensorType>,
) -> Result<Vec<Value>, Reason> {
    let Extents { steps, batch, input, hidden, directions } = *extents;
    for ty in &outputs {
        expect_elements(&ty.shape, size_of::<f64>())?;
    }
    let optional = |index: usize| match node.optional_tensor(index)? {
        Some(tensor) => to_f64s(tensor),
        None => Ok(Vec::new()),
    };
    let (x, w, r) = (to_f64s(node.tensor(X)?)?, to_f64s(node.tensor(W)?)?, to_f64s(node.tensor(R)?)?);
    let (b, peepholes) = (optional(B)?, optional(PEEPHOLES)?);
    let (first_h, first_c) = (optional(FIRST_H)?, optional(FIRST_C)?);
    let lengths = match node.optional_i64s(LENGTHS)? {
        Some(lengths) => lengths
            .into_iter()
            .map(|length| match usize::try_from(length) {
                Ok(length) if length <= steps => Ok(length),
                _ => Err(Reason::new(format!("a sequence of length {length} among {steps} steps"))),
            })
            .collect::<Result<Vec<usize>, Reason>>()?,
        None => vec![steps; batch],
    };

    let states = directions * batch * hidden;
    let mut every = vec![0.0; steps * states];
    let (mut last_h, mut last_c) = (vec![0.0; states], vec![0.0; states]);
    let lanes = op.kind.gates() * hidden;
    let functions = op.kind.functions().len();
    for direction in 0..directions {
        let cell = Cell {
            op,
            functions: op.functions.get(direction * functions..).unwrap_or_default(),
            hidden,
            input,
            w: rows(&w, direction, lanes * input),
            r: rows(&r, direction, lanes * hidden),
            b: rows(&b, direction, 2 * lanes),
            p: rows(&peepholes, direction, 3 * hidden),
        };
        let backwards = direction == 1 || op.direction == Direction::Reverse;
        for (sequence, &length) in lengths.iter().enumerate() {
            let state =
                if op.batch_first { sequence * directions + direction } else { direction * batch + sequence };
            let first = |values: &[f64]| match values.is_empty() {
                true => vec![0.0; hidden],
                false => rows(values, state, hidden).to_vec(),
            };
            let (mut h, mut c) = (first(&first_h), first(&first_c));
            for number in 0..length {
                let step = if backwards { length - 1 - number } else { number };
                let (row, place) = if op.batch_first {
                    (sequence * steps + step, (sequence * steps + step) * directions + direction)
                } else {
                    (step * batch + sequence, (step * directions + direction) * batch + sequence)
                };
                cell.step(rows(&x, row, input), &mut h, &mut c);
                every[place * hidden..][..hidden].copy_from_slice(&h);
            }
            last_h[state * hidden..][..hidden].copy_from_slice(&h);
            last_c[state * hidden..][..hidden].copy_from_slice(&c);
        }
    }
    let values = [every, last_h, last_c];
    outputs.into_iter().zip(values).map(|(ty, values)| of_f64s(ty, values).map(Value::Tensor)).collect()
}
