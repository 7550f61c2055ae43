//! Recurrent networks as kernel calls.

use infer_kernels::call::{self, Activation, ActivationKind, BLOCK, Elementwise, View};

use super::{B, Direction, Extents, FIRST_C, FIRST_H, Kind, R, Recurrent, W, X};
use crate::calls::{LowerNode, Span, Tensor};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::pack::Dense;
use crate::ops::{self, Attribute, Attributes, ImportNode};
use crate::tensor_type::{DataType, TensorType};

/// Lowers `op`, which is of a form that kernels compute.
pub(super) fn lower(
    op: &Recurrent,
    node: &mut LowerNode<'_>,
    extents: &Extents,
    activation: ActivationKind,
) -> Result<(), Reason> {
    let Extents { steps, batch, hidden, directions, .. } = *extents;
    if directions * batch * hidden == 0 {
        return Ok(());
    }
    let (bias, hidden_bias) = biases(op, node, extents)?;
    let lanes = op.kind.gates() * hidden;
    let gates = products(node, extents, lanes, bias)?;
    let weights = recurrent_weights(op, node, extents)?;

    let bytes = |elements: usize| (elements * size_of::<f32>()) as u64;
    let first_h = node.optional_input(FIRST_H).map(|tensor| tensor.span);
    let mut inputs = vec![Some(gates.span), Some(weights), first_h];
    let mut outputs = vec![node.outputs.first().cloned().flatten().map(|tensor| tensor.span)];
    let states = if op.kind == Kind::Lstm { 2 } else { 1 };
    for index in 1..=states {
        let asked = node.outputs.get(index).cloned().flatten().map(|tensor| tensor.span);
        outputs.push(Some(asked.unwrap_or_else(|| node.scratch(bytes(directions * batch * hidden)))));
    }
    let (kernel, work) = match op.kind {
        Kind::Lstm => {
            inputs.push(node.optional_input(FIRST_C).map(|tensor| tensor.span));
            ("lstm_f32", 2)
        }
        Kind::Gru => {
            inputs.push(hidden_bias);
            ("gru_f32", 4)
        }
        Kind::Rnn => ("rnn_f32", 2),
    };
    outputs.push(Some(node.scratch(bytes(directions * batch * hidden * work))));

    let view = |step: usize, direction: usize, sequence: usize| View {
        offset: 0,
        stride_n: step as u64,
        stride_c: direction as u64,
        stride_h: sequence as u64,
        stride_w: 0,
    };
    let row = directions * lanes;
    let params = call::Recurrent {
        steps: steps as u64,
        directions: directions as u64,
        batch: batch as u64,
        hidden: hidden as u64,
        reverse: u64::from(op.direction == Direction::Reverse),
        linear_before_reset: u64::from(op.linear_before_reset),
        gates: if op.batch_first { view(row, lanes, steps * row) } else { view(batch * row, lanes, row) },
        output: if op.batch_first {
            view(directions * hidden, hidden, steps * directions * hidden)
        } else {
            view(directions * batch * hidden, batch * hidden, hidden)
        },
        state: if op.batch_first {
            view(0, hidden, directions * hidden)
        } else {
            view(0, batch * hidden, hidden)
        },
        activation: Activation::new(activation, 0.0, 0.0),
    };
    let count = outputs.len();
    let operands: Vec<Option<Span>> = inputs.into_iter().chain(outputs).collect();
    node.call_with_outputs(kernel, &params, &operands, count);
    Ok(())
}

/// What the inputs contribute to all gates of both directions: X·Wᵀ plus the biases, a row for each step and sequence.
fn products(
    node: &mut LowerNode<'_>,
    extents: &Extents,
    lanes: usize,
    bias: Option<(Tensor, Option<Constant>)>,
) -> Result<Tensor, Reason> {
    let Extents { steps, batch, input, directions, .. } = *extents;
    let matrix = |rows: usize, columns: usize| TensorType::new(DataType::F32, [rows, columns]);
    let (rows, columns) = (steps * batch, directions * lanes);
    let gates = node.scratch_tensor(matrix(rows, columns));
    if rows == 0 {
        return Ok(gates);
    }
    let x = Tensor { ty: matrix(rows, input), ..node.input(X)? };
    let w = Tensor { ty: matrix(columns, input), ..node.input(W)? };
    let weights = node.constant(W).and_then(|weights| weights.reshaped(&w.ty.shape));
    let (bias, bias_values) = bias.map_or((None, None), |(tensor, values)| (Some(tensor), values));

    let missing = || Reason::new("Gemm does not take part in this build");
    let row = ops::find("", "Gemm").ok_or_else(missing)?;
    let product = ops::import(
        row,
        ImportNode {
            op_type: "Gemm".to_owned(),
            opset: crate::expansion::OPSET,
            attributes: Attributes::new(vec![("transB".to_owned(), Attribute::Int(1))]),
            inputs: vec![true, true, bias.is_some()],
            outputs: vec![true],
        },
    )?;
    product.lower(&mut LowerNode {
        calls: &mut *node.calls,
        name: node.name,
        inputs: vec![Some(x), Some(w), bias],
        constants: vec![None, weights.as_ref(), bias_values.as_ref()],
        outputs: vec![Some(gates.clone())],
        half_weights: node.half_weights,
        winograd: None,
    })?;
    Ok(gates)
}

/// The rows of each gate of R as panels of columns: packed now where they are constant, else by a call.
fn recurrent_weights(op: &Recurrent, node: &mut LowerNode<'_>, extents: &Extents) -> Result<Span, Reason> {
    let Extents { hidden, directions, .. } = *extents;
    let matrices = directions * op.kind.gates();
    if let Some(values) = node.constant(R).and_then(Constant::to_f32s) {
        let dense = Dense {
            values: &values,
            offset: 0,
            groups: matrices,
            out_channels: hidden,
            in_channels: hidden,
            kernel: [1, 1],
            strides: [hidden as isize, 1, 0, 0],
            scale: 1.0,
        };
        let panels = dense.panels();
        return Ok(node.data(&panels));
    }
    let bytes = matrices * hidden.next_multiple_of(BLOCK) * hidden * size_of::<f32>();
    let packed = node.scratch(bytes as u64);
    let params = call::PackB {
        batch: matrices as u64,
        k: hidden as u64,
        n: hidden as u64,
        stride_batch: (hidden * hidden) as u64,
        stride_k: 1,
        stride_n: hidden as u64,
    };
    let weights = node.input(R)?;
    node.call("pack_b_f32", &params, &[Some(weights.span), Some(packed)]);
    Ok(packed)
}

/// A row of what is added to all gates, known where B is, and of a GRU whose reset gate applies after the product what
/// is added before that.
type Biases = (Option<(Tensor, Option<Constant>)>, Option<Span>);

/// B has for each direction the biases of the inputs, then those of the states, which meet in one sum, except that a
/// GRU's reset gate multiplies the last of the states'.
fn biases(op: &Recurrent, node: &mut LowerNode<'_>, extents: &Extents) -> Result<Biases, Reason> {
    let Some(b) = node.optional_input(B) else { return Ok((None, None)) };
    let Extents { hidden, directions, .. } = *extents;
    let lanes = op.kind.gates() * hidden;
    let apart = op.kind == Kind::Gru && op.linear_before_reset;
    let summed = if apart { lanes - hidden } else { lanes };
    let ty = TensorType::new(DataType::F32, [directions * lanes]);
    if let Some(values) = node.constant(B).and_then(Constant::to_f32s) {
        let (mut row, mut late) = (Vec::<f32>::new(), Vec::<f32>::new());
        for direction in values.chunks_exact(2 * lanes) {
            let (inputs, states) = direction.split_at(lanes);
            row.extend(inputs.iter().zip(states).take(summed).map(|(input, state)| input + state));
            row.extend(&inputs[summed..]);
            late.extend(&states[summed..]);
        }
        let span = node.data(&row);
        let late = apart.then(|| node.data(&late));
        let constant = Constant::checked(ty.clone(), &row);
        return Ok((Some((Tensor { ty, span, blocked: None }, constant)), late));
    }
    let row = node.scratch_tensor(ty);
    let walk = |node: &mut LowerNode<'_>, kernel: &str, width: usize, places: &[(Span, i64, usize)]| {
        let strides: Vec<([i64; 2], u64)> =
            places.iter().map(|&(_, stride, offset)| ([stride, 1], offset as u64)).collect();
        let walks: Vec<(&[i64], u64)> = strides.iter().map(|(s, offset)| (s.as_slice(), *offset)).collect();
        let call = Elementwise::new(&[directions, width], &walks)
            .ok_or_else(|| Reason::new("a bias of too many dimensions"))?;
        let spans: Vec<Option<Span>> = places.iter().map(|&(span, ..)| Some(span)).collect();
        node.call(kernel, &call, &spans);
        Ok::<(), Reason>(())
    };
    let (from, to) = (2 * lanes as i64, lanes as i64);
    walk(node, "add_f32", summed, &[(b.span, from, 0), (b.span, from, lanes), (row.span, to, 0)])?;
    let mut late = None;
    if apart {
        walk(node, "copy_b4", hidden, &[(b.span, from, summed), (row.span, to, summed)])?;
        let span = node.scratch((directions * hidden * size_of::<f32>()) as u64);
        walk(node, "copy_b4", hidden, &[(b.span, from, lanes + summed), (span, hidden as i64, 0)])?;
        late = Some(span);
    }
    Ok((Some((row, None)), late))
}
