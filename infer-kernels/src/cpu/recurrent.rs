//! Recurrent networks over all their steps; see [`Recurrent`] for the mathematics.
//!
//! Each step computes the next state in blocks of 16 elements: all gates of a block are summed together over the state
//! before, k outermost, and finished at once while their sums are in registers. The state before and the next one take
//! turns in two rows of the memory to work in. A few sequences at a time share each weight that is read. Steps depend on
//! each other, so chunks share directions and sequences.

use super::bounds::{expect_view, product, split};
use super::math::{activate, sigmoid, tanh};
use super::share;
use super::softmax::{load, store};
use super::vector::Vector;
use crate::call::{BLOCK, Recurrent, View};
use crate::{Args, Call, Invalid, Kernel, Operand, RunError};

/// Sequences that are computed together.
const ROWS: usize = 4;

/// Element-operations of one finished gate, beside its sum.
const FINISH: u64 = 32;

/// The sums Σ h[k]·w[k] of `R` states, `between_h` elements apart, over one block of each of `G` gates, whose panels are
/// `between_w` elements apart.
///
/// # Safety
///
/// The processor has the instruction set of `V`; the states have `hidden` elements and the panels as many rows.
#[inline(always)]
unsafe fn sums<V: Vector, const R: usize, const G: usize>(
    h: *const f32,
    between_h: usize,
    w: *const f32,
    between_w: usize,
    hidden: usize,
) -> [[V; G]; R] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[V::splat(0.0); G]; R];
        for k in 0..hidden {
            let mut weights = [V::splat(0.0); G];
            for (g, weight) in weights.iter_mut().enumerate() {
                *weight = V::load(w.add(g * between_w + k * BLOCK));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let h = V::splat(*h.add(r * between_h + k));
                for (sum, &weight) in sums.iter_mut().zip(&weights) {
                    *sum = weight.mul_add(h, *sum);
                }
            }
        }
        sums
    }
}

/// [`sums`], one gate after the other where all would need too many registers.
///
/// # Safety
///
/// As for [`sums`].
#[inline(always)]
unsafe fn gates<V: Vector, const R: usize, const G: usize>(
    h: *const f32,
    between_h: usize,
    w: *const f32,
    between_w: usize,
    hidden: usize,
) -> [[V; G]; R] {
    // SAFETY: the caller's promises.
    unsafe {
        if R == 1 {
            return sums::<V, R, G>(h, between_h, w, between_w, hidden);
        }
        let mut all = [[V::splat(0.0); G]; R];
        for g in 0..G {
            let gate = sums::<V, R, 1>(h, between_h, w.add(g * between_w), between_w, hidden);
            for (all, [sum]) in all.iter_mut().zip(gate) {
                all[g] = sum;
            }
        }
        all
    }
}

/// The sequences of one direction that are computed together, at one step.
#[derive(Clone, Copy)]
struct Step<'a> {
    args: &'a Args<'a>,
    p: &'a Recurrent,
    direction: usize,
    /// The first sequence.
    row: usize,
    /// What the inputs contribute to its gates.
    x: *const f32,
    /// The weights of the direction.
    weights: *const f32,
    /// The state before of the first sequence.
    before: *const f32,
    /// Where its next state goes.
    next: *mut f32,
    /// Where its next state goes among all states; null where nobody asks for them.
    every: *mut f32,
    /// Elements of the memory to work in between sequences.
    between: usize,
}

impl Step<'_> {
    /// Between the panels of two gates.
    #[inline(always)]
    fn between_gates(&self) -> usize {
        let hidden = self.p.hidden as usize;
        hidden.div_ceil(BLOCK) * hidden * BLOCK
    }

    /// The first panel of gate `gate` for the elements from `j` on.
    ///
    /// # Safety
    ///
    /// There is such a panel.
    #[inline(always)]
    unsafe fn panel(&self, gate: usize, j: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.weights.add(gate * self.between_gates() + j * self.p.hidden as usize) }
    }

    /// What the input of sequence `r` contributes to the elements from `j` on of gate `gate`.
    ///
    /// # Safety
    ///
    /// There are so many gates, sequences and elements.
    #[inline(always)]
    unsafe fn x<V: Vector>(&self, r: usize, gate: usize, j: usize, lanes: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            load(self.x.add(r * self.p.gates.stride_h as usize + gate * self.p.hidden as usize + j), lanes)
        }
    }

    /// Writes the elements from `j` on of the next state of sequence `r`.
    ///
    /// # Safety
    ///
    /// There are so many sequences and elements.
    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, r: usize, j: usize, lanes: usize, h: V) {
        // SAFETY: the caller's promise.
        unsafe {
            store(h, self.next.add(r * self.between + j), lanes);
            if !self.every.is_null() {
                store(h, self.every.add(r * self.p.output.stride_h as usize + j), lanes);
            }
        }
    }
}

/// The element of `view` at a step, direction and sequence. Strides along an extent of 1 may be anything, and are then
/// multiplied by zero.
fn place(view: &View, step: usize, direction: usize, row: usize) -> usize {
    let [n, c, h] = [view.stride_n, view.stride_c, view.stride_h].map(|stride| stride as usize);
    view.offset as usize + step * n + direction * c + row * h
}

/// One kind of network.
trait Cell {
    /// Its gates.
    const GATES: usize;
    /// Memory to work in of one sequence, in states.
    const WORK: usize;
    /// The operand that is its first output.
    const OUTPUT: usize;
    /// Whether it has a c, whose first values are operand 3.
    const HAS_C: bool;

    /// One step of `R` sequences.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set of `V`; the call was validated; there are `R` sequences from the first on.
    unsafe fn step<V: Vector, const R: usize>(step: &Step<'_>);
}

struct Lstm;

impl Cell for Lstm {
    const GATES: usize = 4;
    const WORK: usize = 2;
    const OUTPUT: usize = 4;
    const HAS_C: bool = true;

    #[inline(always)]
    unsafe fn step<V: Vector, const R: usize>(step: &Step<'_>) {
        let hidden = step.p.hidden as usize;
        let (state, between_states) = (&step.p.state, step.p.state.stride_h as usize);
        // SAFETY: the caller's promises; blocks end with the state.
        unsafe {
            let c = step.args.operands[6].ptr::<f32>().add(place(state, 0, step.direction, step.row));
            for j in (0..hidden).step_by(BLOCK) {
                let lanes = (hidden - j).min(BLOCK);
                let sums: [[V; 4]; R] =
                    gates(step.before, step.between, step.panel(0, j), step.between_gates(), hidden);
                for (r, sums) in sums.into_iter().enumerate() {
                    let i = sigmoid(step.x::<V>(r, 0, j, lanes) + sums[0]);
                    let o = sigmoid(step.x::<V>(r, 1, j, lanes) + sums[1]);
                    let f = sigmoid(step.x::<V>(r, 2, j, lanes) + sums[2]);
                    let new = tanh(step.x::<V>(r, 3, j, lanes) + sums[3]);
                    let at = c.add(r * between_states + j);
                    let cell = f.mul_add(load(at.cast_const(), lanes), i * new);
                    store(cell, at, lanes);
                    step.finish(r, j, lanes, o * tanh(cell));
                }
            }
        }
    }
}

struct Gru;

impl Cell for Gru {
    const GATES: usize = 3;
    const WORK: usize = 4;
    const OUTPUT: usize = 4;
    const HAS_C: bool = false;

    #[inline(always)]
    unsafe fn step<V: Vector, const R: usize>(step: &Step<'_>) {
        let hidden = step.p.hidden as usize;
        let between_gates = step.between_gates();
        let bias = &step.args.operands[3];
        // SAFETY: the caller's promises; blocks end with the state. Of a sequence's memory to work in, the first two
        // states take turns and the other two are r·h and z.
        unsafe {
            let one = V::splat(1.0);
            let work = work::<Self>(step.args, step.p, step.direction, step.row);
            let (reset, update) = (work.add(2 * hidden), work.add(3 * hidden));
            if step.p.linear_before_reset != 1 {
                for j in (0..hidden).step_by(BLOCK) {
                    let lanes = (hidden - j).min(BLOCK);
                    let sums: [[V; 2]; R] =
                        gates(step.before, step.between, step.panel(0, j), between_gates, hidden);
                    for (r, sums) in sums.into_iter().enumerate() {
                        let z = sigmoid(step.x::<V>(r, 0, j, lanes) + sums[0]);
                        let forget = sigmoid(step.x::<V>(r, 1, j, lanes) + sums[1]);
                        let h: V = load(step.before.add(r * step.between + j), lanes);
                        store(forget * h, reset.add(r * step.between + j), lanes);
                        store(z, update.add(r * step.between + j), lanes);
                    }
                }
            }
            for j in (0..hidden).step_by(BLOCK) {
                let lanes = (hidden - j).min(BLOCK);
                let bias: V = match bias.bytes {
                    0 => V::splat(0.0),
                    _ => load(bias.ptr::<f32>().add(step.direction * hidden + j).cast_const(), lanes),
                };
                if step.p.linear_before_reset == 1 {
                    let sums: [[V; 3]; R] =
                        gates(step.before, step.between, step.panel(0, j), between_gates, hidden);
                    for (r, sums) in sums.into_iter().enumerate() {
                        let z = sigmoid(step.x::<V>(r, 0, j, lanes) + sums[0]);
                        let forget = sigmoid(step.x::<V>(r, 1, j, lanes) + sums[1]);
                        let new = tanh(forget.mul_add(sums[2] + bias, step.x(r, 2, j, lanes)));
                        let h: V = load(step.before.add(r * step.between + j), lanes);
                        step.finish(r, j, lanes, z.mul_add(h, (one - z) * new));
                    }
                } else {
                    let sums: [[V; 1]; R] =
                        gates(reset.cast_const(), step.between, step.panel(2, j), between_gates, hidden);
                    for (r, sums) in sums.into_iter().enumerate() {
                        let z: V = load(update.add(r * step.between + j).cast_const(), lanes);
                        let new = tanh(step.x::<V>(r, 2, j, lanes) + sums[0] + bias);
                        let h: V = load(step.before.add(r * step.between + j), lanes);
                        step.finish(r, j, lanes, z.mul_add(h, (one - z) * new));
                    }
                }
            }
        }
    }
}

struct Rnn;

impl Cell for Rnn {
    const GATES: usize = 1;
    const WORK: usize = 2;
    const OUTPUT: usize = 3;
    const HAS_C: bool = false;

    #[inline(always)]
    unsafe fn step<V: Vector, const R: usize>(step: &Step<'_>) {
        let hidden = step.p.hidden as usize;
        // SAFETY: the caller's promises; blocks end with the state.
        unsafe {
            for j in (0..hidden).step_by(BLOCK) {
                let lanes = (hidden - j).min(BLOCK);
                let sums: [[V; 1]; R] =
                    gates(step.before, step.between, step.panel(0, j), step.between_gates(), hidden);
                for (r, sums) in sums.into_iter().enumerate() {
                    let h = activate(&step.p.activation, step.x::<V>(r, 0, j, lanes) + sums[0]);
                    step.finish(r, j, lanes, h);
                }
            }
        }
    }
}

/// The memory to work in of one sequence.
///
/// # Safety
///
/// The call was validated.
#[inline(always)]
unsafe fn work<C: Cell>(args: &Args<'_>, p: &Recurrent, direction: usize, row: usize) -> *mut f32 {
    let sequence = direction * p.batch as usize + row;
    // SAFETY: the caller's promise.
    unsafe {
        let memory = args.operands[C::OUTPUT + 2 + usize::from(C::HAS_C)].ptr::<f32>();
        memory.add(sequence * C::WORK * p.hidden as usize)
    }
}

/// Copies a state to `to`, or zero where there is none.
///
/// # Safety
///
/// The operand, where it is there, has the state, and there is room for one.
unsafe fn begin(operand: &Operand, at: usize, to: *mut f32, hidden: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if operand.bytes == 0 {
            std::ptr::write_bytes(to, 0, hidden);
        } else {
            std::ptr::copy_nonoverlapping(operand.ptr::<f32>().add(at), to, hidden);
        }
    }
}

/// All steps of `R` sequences from `row` on.
///
/// # Safety
///
/// As for [`Cell::step`]; no other chunk has these sequences.
#[inline(always)]
unsafe fn sequences<C: Cell, V: Vector, const R: usize>(
    args: &Args<'_>,
    p: &Recurrent,
    direction: usize,
    row: usize,
) {
    let (steps, hidden) = (p.steps as usize, p.hidden as usize);
    let between = C::WORK * hidden;
    let backwards = direction == 1 || p.reverse == 1;
    let [gates, weights] = [0, 1].map(|i: usize| args.operands[i].ptr::<f32>().cast_const());
    let every = &args.operands[C::OUTPUT];
    // SAFETY: `validate` checked every operand for what the places below reach.
    unsafe {
        let states = work::<C>(args, p, direction, row);
        std::ptr::write_bytes(states, 0, R * between);
        for r in 0..R {
            let at = place(&p.state, 0, direction, row + r);
            begin(&args.operands[2], at, states.add(r * between), hidden);
            if C::HAS_C {
                begin(&args.operands[3], at, args.operands[C::OUTPUT + 2].ptr::<f32>().add(at), hidden);
            }
        }
        let panels = C::GATES * hidden.div_ceil(BLOCK) * hidden * BLOCK;
        for number in 0..steps {
            let step = if backwards { steps - 1 - number } else { number };
            C::step::<V, R>(&Step {
                args,
                p,
                direction,
                row,
                x: gates.add(place(&p.gates, step, direction, row)),
                weights: weights.add(direction * panels),
                before: states.add(number % 2 * hidden).cast_const(),
                next: states.add((number + 1) % 2 * hidden),
                every: match every.bytes {
                    0 => std::ptr::null_mut(),
                    _ => every.ptr::<f32>().add(place(&p.output, step, direction, row)),
                },
                between,
            });
        }
        for r in 0..R {
            let last = args.operands[C::OUTPUT + 1].ptr::<f32>().add(place(&p.state, 0, direction, row + r));
            std::ptr::copy_nonoverlapping(states.add(r * between + steps % 2 * hidden), last, hidden);
        }
    }
}

#[inline(always)]
unsafe fn run<C: Cell, V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p = args.params::<Recurrent>();
    if p.directions == 0 || p.batch == 0 || p.hidden == 0 {
        return Ok(());
    }
    let batch = p.batch as usize;
    let tiles = batch.div_ceil(ROWS);
    for item in share(p.directions as usize * tiles, chunk, chunks) {
        let (direction, row) = (item / tiles, item % tiles * ROWS);
        // SAFETY: the contract of `ChunkFn` is passed on; items are different sequences.
        unsafe {
            if batch - row >= ROWS {
                sequences::<C, V, ROWS>(args, p, direction, row);
            } else {
                for row in row..batch {
                    sequences::<C, V, 1>(args, p, direction, row);
                }
            }
        }
    }
    Ok(())
}

#[inline(always)]
unsafe fn lstm<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { run::<Lstm, V>(args, chunk, chunks) }
}

#[inline(always)]
unsafe fn gru<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { run::<Gru, V>(args, chunk, chunks) }
}

#[inline(always)]
unsafe fn rnn<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { run::<Rnn, V>(args, chunk, chunks) }
}

fn validate<C: Cell>(call: &Call<'_>) -> Result<(), Invalid> {
    let p = call.params::<Recurrent>()?;
    let work = C::OUTPUT + 2 + usize::from(C::HAS_C);
    call.expect_operands(work + 1)?;
    if p.directions > 2 {
        return Err(Invalid("more than two directions"));
    }
    if p.activation.kind().is_none() {
        return Err(Invalid("unknown activation"));
    }
    let gates = C::GATES as u64;
    let lanes = p.hidden.checked_mul(gates).ok_or(Invalid("size overflows"))?;
    expect_view(call, 0, &p.gates, [p.steps, p.directions, p.batch, 1, lanes], 4)?;
    let panels = p.hidden.div_ceil(BLOCK as u64);
    call.expect_elements(1, product(&[p.directions, gates, panels, p.hidden, BLOCK as u64]), 4)?;
    let states = [1, p.directions, p.batch, 1, p.hidden];
    let given = |operand: usize| call.operand_bytes[operand] > 0;
    if given(2) {
        expect_view(call, 2, &p.state, states, 4)?;
    }
    if given(3) && C::HAS_C {
        expect_view(call, 3, &p.state, states, 4)?;
    } else if given(3) && C::OUTPUT == 4 {
        call.expect_elements(3, product(&[p.directions, p.hidden]), 4)?;
    }
    if given(C::OUTPUT) {
        expect_view(call, C::OUTPUT, &p.output, [p.steps, p.directions, p.batch, 1, p.hidden], 4)?;
    }
    for output in C::OUTPUT + 1..work {
        expect_view(call, output, &p.state, states, 4)?;
    }
    call.expect_elements(work, product(&[p.directions, p.batch, C::WORK as u64, p.hidden]), 4)
}

/// [`validate`] of [`LSTM_F32`].
#[cfg(feature = "cuda")]
pub(crate) fn validate_lstm(call: &Call<'_>) -> Result<(), Invalid> {
    validate::<Lstm>(call)
}

/// [`validate`] of [`GRU_F32`].
#[cfg(feature = "cuda")]
pub(crate) fn validate_gru(call: &Call<'_>) -> Result<(), Invalid> {
    validate::<Gru>(call)
}

/// [`validate`] of [`RNN_F32`].
#[cfg(feature = "cuda")]
pub(crate) fn validate_rnn(call: &Call<'_>) -> Result<(), Invalid> {
    validate::<Rnn>(call)
}

fn chunks<C: Cell>(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<Recurrent>();
    let items = p.directions.saturating_mul(p.batch.div_ceil(ROWS as u64));
    let each = p.hidden.saturating_add(FINISH).saturating_mul(C::GATES as u64);
    let work = [p.steps, p.directions, p.batch, p.hidden, each].into_iter().fold(1, u64::saturating_mul);
    split(items, work, threads)
}

/// Long short-term memory.
pub static LSTM_F32: Kernel =
    Kernel { name: "lstm_f32", validate: validate::<Lstm>, chunks: chunks::<Lstm>, run: per_isa!(lstm<_>) };

/// Gated recurrent units.
pub static GRU_F32: Kernel =
    Kernel { name: "gru_f32", validate: validate::<Gru>, chunks: chunks::<Gru>, run: per_isa!(gru<_>) };

/// Plain recurrent networks.
pub static RNN_F32: Kernel =
    Kernel { name: "rnn_f32", validate: validate::<Rnn>, chunks: chunks::<Rnn>, run: per_isa!(rnn<_>) };

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::{Activation, ActivationKind, BLOCK, Recurrent, View};
    use crate::cpu::testing::{Random, attack, bytes, check};

    const KERNELS: [(&str, usize); 3] = [("lstm_f32", 4), ("gru_f32", 3), ("rnn_f32", 1)];

    /// A call and its operands: inputs, and the sizes of the outputs.
    struct Case {
        params: Recurrent,
        inputs: Vec<Vec<f32>>,
        outputs: Vec<usize>,
    }

    impl Case {
        /// States that are given, or zero, and every h or only the last.
        fn new(kernel: (&str, usize), [steps, directions, batch, hidden]: [usize; 4], full: bool) -> Case {
            let (name, gates) = kernel;
            let mut random = Random::new((steps + 10 * hidden + 100 * batch) as u64);
            let (states, lanes) = (directions * batch * hidden, gates * hidden);
            let scale = 1.0 / hidden.max(1) as f32;
            let panels = directions * gates * hidden.div_ceil(BLOCK);
            // As a packed matrix: no weights beyond the last column.
            let mut weights: Vec<f32> =
                random.units(panels * hidden * BLOCK).iter().map(|w| w * scale).collect();
            for (panel, block) in weights.chunks_mut((hidden * BLOCK).max(1)).enumerate() {
                let first = panel % hidden.div_ceil(BLOCK) * BLOCK;
                for row in block.chunks_mut(BLOCK) {
                    row[(hidden - first).min(BLOCK)..].fill(0.0);
                }
            }
            let x = random.units(steps * directions * batch * lanes).iter().map(|x| 3.0 * x).collect();
            let mut inputs = vec![x, weights, random.units(if full { states } else { 0 })];
            match name {
                "lstm_f32" => inputs.push(random.units(if full { states } else { 0 })),
                "gru_f32" => inputs.push(random.units(if full { directions * hidden } else { 0 })),
                _ => (),
            }
            let mut outputs = vec![if full { steps * states } else { 0 }, states];
            if name == "lstm_f32" {
                outputs.push(states);
            }
            outputs.push(states * if name == "gru_f32" { 4 } else { 2 });
            let view = |stride_n: usize, stride_c: usize, stride_h: usize| View {
                offset: 0,
                stride_n: stride_n as u64,
                stride_c: stride_c as u64,
                stride_h: stride_h as u64,
                stride_w: 0,
            };
            let params = Recurrent {
                steps: steps as u64,
                directions: directions as u64,
                batch: batch as u64,
                hidden: hidden as u64,
                reverse: u64::from(batch % 2 == 0),
                linear_before_reset: u64::from(full),
                gates: view(batch * directions * lanes, lanes, directions * lanes),
                output: view(states, batch * hidden, hidden),
                state: view(0, batch * hidden, hidden),
                activation: Activation::new(ActivationKind::Tanh, 0.0, 0.0),
            };
            Case { params, inputs, outputs: outputs.iter().map(|elements| elements * 4).collect() }
        }

        fn check(&self, name: &str) {
            let inputs: Vec<&[u8]> = self.inputs.iter().map(|input| bytes(input)).collect();
            let work = self.outputs.len() - 1;
            // A sum over the state is wrong by a rounding for each term, its parts together being at most 1, and each
            // function by a few units. What is wrong before a step is wrong by no more than twice as much in its sums
            // together with its state, of which c grows by one each step at most.
            let steps = self.params.steps as f32;
            let units = (self.params.hidden + 16) as f32 * f32::EPSILON * (steps + 1.0) * (steps + 1.0);
            check(name, &self.params, &inputs, &self.outputs, |output, _, x: f32, y: f32| {
                output == work || x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= units
            });
        }
    }

    #[test]
    fn agrees_with_the_reference_around_blocks_and_tiles() {
        for kernel in KERNELS {
            for hidden in [0, 1, 15, 16, 17, 33, 40] {
                for (steps, directions, batch) in [(0, 1, 1), (1, 1, 1), (3, 2, 2), (4, 1, 4), (2, 2, 9)] {
                    for full in [false, true] {
                        Case::new(kernel, [steps, directions, batch, hidden], full).check(kernel.0);
                    }
                }
            }
        }
    }

    #[test]
    fn special_values_stay_with_their_sequence() {
        for kernel in KERNELS {
            for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
                let mut case = Case::new(kernel, [2, 1, 5, 18], true);
                case.inputs[0][7] = special;
                case.check(kernel.0);
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        for kernel in KERNELS {
            for full in [false, true] {
                let case = Case::new(kernel, [3, 2, 5, 17], full);
                let inputs: Vec<&[u8]> = case.inputs.iter().map(|input| bytes(input)).collect();
                attack(kernel.0, &case.params, &inputs, &case.outputs);
            }
        }
    }
}
