//! The plan: what the compiler writes, and the run time executes where it lies.
//!
//! `docs/plan-format.md` describes the bytes; [`PlanView`] reads them, `PlanParts` (feature `compiler`) makes them.

mod bytes;
mod format;
#[cfg(feature = "cuda")]
pub mod parts;
mod read;
#[cfg(feature = "compiler")]
mod write;

pub use bytes::AlignedBytes;
#[cfg(feature = "dynamic")]
pub(crate) use format::checksum;
pub use format::{ALIGNMENT, VERSION};
pub use read::{PlanView, Step};
#[cfg(feature = "compiler")]
pub use write::PlanParts;

use crate::tensor_type::TensorType;

/// An input or output of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the model.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
}

/// What a plan says about the model it was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// The SHA-256 of the model file.
    pub sha256: [u8; 32],
    /// The version of the default operator set.
    pub opset: u32,
    /// Floating-point operations of one inference, a multiplication and an addition counted apart.
    pub flops: u64,
}

/// What tells a plan from others: for plans that borrow its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanId {
    /// The checksum of everything before its weights.
    pub checksum: u64,
    /// The size of its weights.
    pub weight_bytes: u64,
}

/// What memory an operand lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// An optional operand that is not there.
    Absent,
    /// The context's arena.
    Arena,
    /// The plan's weights.
    Weights,
    /// The weights of the plan that this one borrows from; only steps that prepare read them.
    Borrowed,
    /// What was prepared from the weights when the plan was opened.
    Prepared,
    /// The input at this position, as the caller hands it in.
    Input(usize),
    /// The output at this position, as the caller hands it in.
    Output(usize),
}

/// An operand of a step: a range of some memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The memory.
    pub location: Location,
    /// Where the range begins.
    pub offset_bytes: usize,
    /// How long it is.
    pub bytes: usize,
}

impl Operand {
    /// Whether it lies in memory that the caller hands in.
    pub fn is_bound(&self) -> bool {
        matches!(self.location, Location::Input(_) | Location::Output(_))
    }
}

#[cfg(all(test, feature = "compiler"))]
pub(crate) mod testing {

    use super::*;
    use crate::calls::{BufferKind, Calls, KernelCall, Span};
    use crate::schedule::plan_memory;
    use crate::tensor_type::DataType;

    pub fn port(name: &str, dtype: DataType, shape: &[usize]) -> Port {
        Port { name: name.into(), ty: TensorType::new(dtype, shape) }
    }

    /// Two inputs `x` and `mask`, two outputs `y` and `flags`, weights, scratch memory and an absent operand.
    pub fn sample_calls() -> (Calls, Vec<Port>, Vec<Port>) {
        let inputs = vec![port("x", DataType::F32, &[2, 3]), port("mask", DataType::Bool, &[5])];
        let outputs = vec![port("y", DataType::F32, &[3, 2]), port("flags", DataType::Bool, &[5])];
        let mut calls = Calls::default();
        let x = calls.add_buffer(BufferKind::Input(0), 24);
        let mask = calls.add_buffer(BufferKind::Input(1), 5);
        let weights = calls.add_constant(vec![7; 24].into());
        let bias = calls.add_constant(vec![1; 100].into());
        let scratch = calls.add_buffer(BufferKind::Arena, 24);
        let y = calls.add_buffer(BufferKind::Output(0), 24);
        let flags = calls.add_buffer(BufferKind::Output(1), 5);
        let mut call = |kernel: &str, params: &[u8], operands: Vec<Option<Span>>, node: &str| {
            calls.calls.push(KernelCall {
                kernel: kernel.into(),
                params: params.to_vec(),
                operands,
                outputs: 1,
                node: node.into(),
            });
        };
        let whole = |buffer, bytes| Some(Span { buffer, offset_bytes: 0, bytes });
        call(
            "test_add",
            &[1, 2, 3, 4, 5, 6, 7, 8],
            vec![whole(x, 24), whole(weights, 24), whole(scratch, 24)],
            "größe",
        );
        call("test_scale", &[9; 16], vec![whole(scratch, 24), whole(bias, 100), None, whole(y, 24)], "scale");
        call("test_not", &[], vec![whole(mask, 5), whole(flags, 5)], "scale");
        (calls, inputs, outputs)
    }

    pub fn written(calls: &Calls, inputs: &[Port], outputs: &[Port]) -> AlignedBytes {
        let memory = plan_memory(calls).unwrap();
        let info = ModelInfo { sha256: [0xAB; 32], opset: 17, flops: 1234 };
        let parts = PlanParts::new(calls, &memory, inputs, outputs, info).unwrap();
        let mut bytes = Vec::new();
        parts.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, parts.total_bytes());
        AlignedBytes::copy_of(&bytes).unwrap()
    }

    pub fn sample() -> AlignedBytes {
        let (calls, inputs, outputs) = sample_calls();
        written(&calls, &inputs, &outputs)
    }
}
