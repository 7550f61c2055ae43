//! Recurrent networks, one state after another.

use super::Registered;
use super::activation::activate;
use crate::call::{Activation, ActivationKind, BLOCK, Recurrent, View};
use crate::{Args, RunError, kernels};

const SIGMOID: Activation = Activation { kind: ActivationKind::Sigmoid as u32, ..Activation::NONE };
const TANH: Activation = Activation { kind: ActivationKind::Tanh as u32, ..Activation::NONE };

/// The element of `view` at a step, direction and sequence.
fn place(view: &View, step: usize, direction: usize, row: usize) -> usize {
    (view.offset
        + step as u64 * view.stride_n
        + direction as u64 * view.stride_c
        + row as u64 * view.stride_h) as usize
}

/// What a step of one sequence computes with.
struct Step<'a> {
    hidden: usize,
    /// All gates' contributions of the inputs.
    x: &'a [f32],
    /// All gates' weights.
    weights: &'a [f32],
}

impl Step<'_> {
    /// What the inputs contribute to element `j` of gate `gate`.
    fn x(&self, gate: usize, j: usize) -> f32 {
        self.x[gate * self.hidden + j]
    }

    /// What the state `h` contributes to element `j` of gate `gate`.
    fn sum(&self, gate: usize, j: usize, h: &[f32]) -> f32 {
        let panel = gate * self.hidden.div_ceil(BLOCK) + j / BLOCK;
        (0..self.hidden)
            .fold(0.0, |sum, k| sum + h[k] * self.weights[(panel * self.hidden + k) * BLOCK + j % BLOCK])
    }
}

/// Walks over all directions, sequences and steps. `next(step, direction, c, h)` gives the next h and changes c.
unsafe fn walk(
    args: &Args<'_>,
    gates: usize,
    first_output: usize,
    has_c: bool,
    next: impl Fn(&Step<'_>, usize, &mut [f32], &[f32]) -> Vec<f32>,
) -> Result<(), RunError> {
    let p = args.params::<Recurrent>();
    let (steps, hidden) = (p.steps as usize, p.hidden as usize);
    if p.directions == 0 || p.batch == 0 || hidden == 0 {
        return Ok(());
    }
    let weights = gates * hidden.div_ceil(BLOCK) * hidden * BLOCK;
    let slice = |operand: usize, from: usize, count: usize| {
        // SAFETY: the call was validated; the lists below lie inside its operands.
        unsafe { std::slice::from_raw_parts(args.operands[operand].ptr::<f32>().add(from), count) }
    };
    let store = |operand: usize, at: usize, values: &[f32]| {
        if args.operands[operand].bytes > 0 {
            // SAFETY: as above.
            unsafe {
                let to = args.operands[operand].ptr::<f32>().add(at);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
            }
        }
    };
    let first = |operand: usize, at: usize| match args.operands[operand].bytes {
        0 => vec![0.0; hidden],
        _ => slice(operand, at, hidden).to_vec(),
    };
    for direction in 0..p.directions as usize {
        let backwards = direction == 1 || p.reverse == 1;
        for row in 0..p.batch as usize {
            let at = place(&p.state, 0, direction, row);
            let mut h = first(2, at);
            let mut c = if has_c { first(3, at) } else { Vec::new() };
            for number in 0..steps {
                let step = if backwards { steps - 1 - number } else { number };
                let x = slice(0, place(&p.gates, step, direction, row), gates * hidden);
                let weights = slice(1, direction * weights, weights);
                h = next(&Step { hidden, x, weights }, direction, &mut c, &h);
                store(first_output, place(&p.output, step, direction, row), &h);
            }
            store(first_output + 1, at, &h);
            if has_c {
                store(first_output + 2, at, &c);
            }
        }
    }
    let work = (p.directions * p.batch) as usize * hidden * if gates == 3 { 4 } else { 2 };
    store(first_output + 2 + usize::from(has_c), 0, &vec![0.0; work]);
    Ok(())
}

unsafe fn lstm(args: &Args<'_>) -> Result<(), RunError> {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        walk(args, 4, 4, true, |step, _, c, h| {
            let gate = |gate: usize, j: usize| step.x(gate, j) + step.sum(gate, j, h);
            (0..step.hidden)
                .map(|j| {
                    let (i, o, f) = (gate(0, j), gate(1, j), gate(2, j));
                    c[j] = activate(&SIGMOID, f) * c[j] + activate(&SIGMOID, i) * activate(&TANH, gate(3, j));
                    activate(&SIGMOID, o) * activate(&TANH, c[j])
                })
                .collect()
        })
    }
}

unsafe fn gru(args: &Args<'_>) -> Result<(), RunError> {
    let linear_before_reset = args.params::<Recurrent>().linear_before_reset == 1;
    // SAFETY: the caller's promises are passed on; the bias has an element for each of a direction's.
    unsafe {
        walk(args, 3, 4, false, |step, direction, _, h| {
            let bias = |j: usize| match args.operands[3].bytes {
                0 => 0.0,
                _ => *args.operands[3].ptr::<f32>().add(direction * step.hidden + j),
            };
            let gate = |gate: usize, j: usize| activate(&SIGMOID, step.x(gate, j) + step.sum(gate, j, h));
            let reset: Vec<f32> = (0..step.hidden).map(|j| gate(1, j) * h[j]).collect();
            (0..step.hidden)
                .map(|j| {
                    let new = if linear_before_reset {
                        step.x(2, j) + gate(1, j) * (step.sum(2, j, h) + bias(j))
                    } else {
                        step.x(2, j) + step.sum(2, j, &reset) + bias(j)
                    };
                    (1.0 - gate(0, j)) * activate(&TANH, new) + gate(0, j) * h[j]
                })
                .collect()
        })
    }
}

unsafe fn rnn(args: &Args<'_>) -> Result<(), RunError> {
    let activation = args.params::<Recurrent>().activation;
    // SAFETY: the caller's promises are passed on.
    unsafe {
        walk(args, 1, 3, false, |step, _, _, h| {
            (0..step.hidden).map(|j| activate(&activation, step.x(0, j) + step.sum(0, j, h))).collect()
        })
    }
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::GRU_F32, reference: gru },
    Registered { kernel: &kernels::LSTM_F32, reference: lstm },
    Registered { kernel: &kernels::RNN_F32, reference: rnn },
];
