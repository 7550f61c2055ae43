//! Memory for kernel calls: when each buffer lives, and where in the arena it lies.

mod check;
mod liveness;
mod memory;

use std::fmt;

pub use check::check;

use crate::calls::Calls;

/// Buffers begin at multiples of this: a cache line, and the widest vector.
pub const ALIGNMENT: u64 = 64;

/// Where the arena's buffers lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// For each buffer of the calls its offset; `None` for one that lies elsewhere or that no call names.
    pub offsets: Vec<Option<u64>>,
    /// The size of the arena in bytes, a multiple of [`ALIGNMENT`].
    pub arena_bytes: u64,
}

/// Why calls cannot run in the memory that they were given: a mistake of the compiler, not of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict(String);

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Conflict {}

/// Gives every buffer of the arena that a call names a place, so that no two that live at the same time overlap,
/// and has [`check`] prove it.
///
/// # Errors
///
/// If the calls name buffers or ranges that are not there, or read what nothing has written.
pub fn plan_memory(calls: &Calls) -> Result<MemoryPlan, Conflict> {
    let lifetimes = liveness::lifetimes(calls)?;
    let memory = memory::place(&lifetimes, calls.buffers.len())?;
    check(calls, &memory)?;
    Ok(memory)
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::calls::{BufferId, Calls, KernelCall, Span};

    /// A call that reads and writes whole buffers.
    pub fn call(calls: &mut Calls, node: &str, inputs: &[BufferId], outputs: &[BufferId]) {
        let spans = inputs.iter().chain(outputs).map(|&id| calls.whole(id)).collect::<Vec<_>>();
        call_spans(calls, node, &spans, outputs.len());
    }

    /// A call on ranges, the last `outputs` of which it writes.
    pub fn call_spans(calls: &mut Calls, node: &str, spans: &[Span], outputs: usize) {
        calls.calls.push(KernelCall {
            kernel: "copy_b1".into(),
            params: Vec::new(),
            operands: spans.iter().map(|&span| Some(span)).collect(),
            outputs,
            node: node.into(),
        });
    }
}
