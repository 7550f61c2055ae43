//! Functions that kernels apply to what they have finished.

use bytemuck::{Pod, Zeroable};

/// The function applied to a finished value; see [`Activation`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActivationKind {
    /// x
    #[default]
    None = 0,
    /// max(x, 0)
    Relu = 1,
    /// x if x ≥ 0 else alpha·x
    LeakyRelu = 2,
    /// min(max(x, alpha), beta)
    Clip = 3,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid = 4,
    /// max(0, min(1, alpha·x + beta))
    HardSigmoid = 5,
    /// x · max(0, min(1, x/6 + 1/2))
    HardSwish = 6,
    /// x · sigmoid(x)
    Silu = 7,
    /// x/2 · (1 + erf(x/√2))
    Gelu = 8,
    /// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))
    GeluTanh = 9,
    /// tanh x
    Tanh = 10,
    /// ln(1 + eˣ)
    Softplus = 11,
    /// x · tanh(ln(1 + eˣ))
    Mish = 12,
}

impl ActivationKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [ActivationKind; 13] = [
        ActivationKind::None,
        ActivationKind::Relu,
        ActivationKind::LeakyRelu,
        ActivationKind::Clip,
        ActivationKind::Sigmoid,
        ActivationKind::HardSigmoid,
        ActivationKind::HardSwish,
        ActivationKind::Silu,
        ActivationKind::Gelu,
        ActivationKind::GeluTanh,
        ActivationKind::Tanh,
        ActivationKind::Softplus,
        ActivationKind::Mish,
    ];
}

/// An activation with its constants, as stored in a plan. NaN stays NaN.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Activation {
    /// An [`ActivationKind`] as a number.
    pub kind: u32,
    /// The first constant.
    pub alpha: f32,
    /// The second constant.
    pub beta: f32,
    /// Zero.
    pub reserved: u32,
}

impl Activation {
    /// No activation.
    pub const NONE: Activation = Activation { kind: 0, alpha: 0.0, beta: 0.0, reserved: 0 };

    /// The activation `kind` with its constants.
    pub fn new(kind: ActivationKind, alpha: f32, beta: f32) -> Self {
        Activation { kind: kind as u32, alpha, beta, reserved: 0 }
    }

    /// The kind, or `None` for a number that stands for none.
    pub fn kind(&self) -> Option<ActivationKind> {
        ActivationKind::ALL.get(self.kind as usize).copied()
    }
}
