//! Recurrent networks.

use bytemuck::{Pod, Zeroable};

use super::{Activation, View};

/// `lstm_f32`, `gru_f32`, `rnn_f32`: a recurrent network over all its steps, from products that hold what the inputs
/// contribute.
///
/// With s the recurrent sums hₜ₋₁·Rᵀ of each gate and x what `gates` holds, all in ONNX's order of gates:
/// - `rnn_f32`: h = activation(x + s)
/// - `gru_f32` (z, r, h): z = σ(x + s), r = σ(x + s), n = tanh(x + r·(s + b)) where `linear_before_reset` is 1, else
///   tanh(x + s' + b) with s' the sums of r·hₜ₋₁; h = (1 − z)·n + z·hₜ₋₁
/// - `lstm_f32` (i, o, f, c): c = σ(f)·cₜ₋₁ + σ(i)·tanh(c), h = σ(o)·tanh(c), each gate being x + s
///
/// Operands: gates; weights `[directions][gates][H/16][H][16]`, rows of one gate of R as columns, padded with zeros to
/// whole panels; the first h or absent (zero); for `lstm_f32` the first c or absent, for `gru_f32` b `[directions, H]`
/// or absent; then the outputs: every h or absent; the last h; for `lstm_f32` the last c; and memory to work in,
/// `[directions, batch, 2·H]`, for `gru_f32` `[directions, batch, 4·H]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Recurrent {
    /// Steps in time.
    pub steps: u64,
    /// 1, or 2 of which the second walks from the last step to the first.
    pub directions: u64,
    /// Sequences side by side.
    pub batch: u64,
    /// Elements of a state, H.
    pub hidden: u64,
    /// 1 where the first direction, too, walks from the last step to the first.
    pub reverse: u64,
    /// 1 where the reset gate of a GRU applies after the product.
    pub linear_before_reset: u64,
    /// What the inputs contribute: `stride_n` is between steps, `stride_c` between directions, `stride_h` between
    /// sequences; the gates of one state, H elements each, are contiguous.
    pub gates: View,
    /// Every h, with strides likewise.
    pub output: View,
    /// The first and the last states, with strides likewise.
    pub state: View,
    /// Of `rnn_f32`.
    pub activation: Activation,
}
