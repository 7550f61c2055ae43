//! The activations, by definition.

use crate::call::{Activation, ActivationKind};

/// The value of `activation` at `x`; a number that stands for no kind leaves `x` as it is.
pub fn activate(activation: &Activation, x: f32) -> f32 {
    let (alpha, beta) = (activation.alpha, activation.beta);
    match activation.kind() {
        None | Some(ActivationKind::None) => x,
        Some(ActivationKind::Relu) => maximum(x, 0.0),
        Some(ActivationKind::LeakyRelu) => {
            if x >= 0.0 {
                x
            } else {
                alpha * x
            }
        }
        Some(ActivationKind::Clip) => minimum(maximum(x, alpha), beta),
        Some(ActivationKind::Sigmoid) => sigmoid(x),
        Some(ActivationKind::HardSigmoid) => maximum(minimum(alpha * x + beta, 1.0), 0.0),
        Some(ActivationKind::HardSwish) => x * maximum(minimum(x / 6.0 + 0.5, 1.0), 0.0),
        Some(ActivationKind::Silu) => x * sigmoid(x),
        Some(ActivationKind::Gelu) => x * 0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
        Some(ActivationKind::GeluTanh) => {
            let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
            x * 0.5 * (1.0 + libm::tanhf(inner))
        }
        Some(ActivationKind::Tanh) => libm::tanhf(x),
        Some(ActivationKind::Softplus) => softplus(x),
        Some(ActivationKind::Mish) => x * libm::tanhf(softplus(x)),
    }
}

/// 1 / (1 + e⁻ˣ)
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

/// ln(1 + eˣ), without the overflow of eˣ.
fn softplus(x: f32) -> f32 {
    maximum(x, 0.0) + libm::log1pf(libm::expf(-x.abs()))
}

/// The greater; `x` where it is NaN.
fn maximum(x: f32, bound: f32) -> f32 {
    if x < bound { bound } else { x }
}

/// The lesser; `x` where it is NaN.
fn minimum(x: f32, bound: f32) -> f32 {
    if x > bound { bound } else { x }
}
