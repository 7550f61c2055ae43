//! What is computed once from a plan's weights, when it is opened, for all inferences to read.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use infer_kernels::{Args, Kernel, Operand};

use super::engine::PlanBytes;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{AlignedBytes, Location, PlanView};

/// What has been prepared of the plans that are part of the program, by their address and length.
type Prepared = HashMap<(usize, usize), Weak<AlignedBytes>>;

static PREPARED: Mutex<Option<Prepared>> = Mutex::new(None);

/// Runs the steps of `view`, the plan `plan`, that prepare; `None` where there are none. A plan that is part of the
/// program is prepared once for all who have it open at the same time.
///
/// # Errors
///
/// If there is no memory, or a step fails.
///
/// # Safety
///
/// `kernels` are those of the plan, each of which has accepted its calls, and `isa` was found on this processor.
pub(super) unsafe fn prepare(
    plan: &PlanBytes,
    view: &PlanView<'_>,
    kernels: &[&'static Kernel],
    isa: infer_kernels::Isa,
    threads: usize,
) -> Result<Option<Arc<AlignedBytes>>> {
    if view.prepared_bytes() == 0 {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let compute = || unsafe { run(view, kernels, isa, threads) }.map(Arc::new);
    let PlanBytes::Static(bytes) = plan else { return compute().map(Some) };
    // Held while preparing, so that who opens the plan at the same time waits for the result.
    let mut known = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = known.get_or_insert_default().entry((bytes.as_ptr().addr(), bytes.len())).or_default();
    if let Some(prepared) = slot.upgrade() {
        return Ok(Some(prepared));
    }
    let prepared = compute()?;
    *slot = Arc::downgrade(&prepared);
    Ok(Some(prepared))
}

/// # Safety
///
/// As for [`prepare`].
unsafe fn run(
    view: &PlanView<'_>,
    kernels: &[&'static Kernel],
    isa: infer_kernels::Isa,
    threads: usize,
) -> Result<AlignedBytes> {
    let mut prepared = AlignedBytes::zeroed(view.prepared_bytes())?;
    let base = prepared.as_mut_ptr();
    let weights = view.weights().as_ptr().cast_mut();
    for step in view.prepare_steps() {
        let operands: Vec<Operand> = step
            .operands()
            .map(|operand| {
                let data = match operand.location {
                    // SAFETY: reading the plan checked that the operand ends inside the prepared memory.
                    Location::Prepared => unsafe { base.add(operand.offset_bytes) },
                    // SAFETY: it checked likewise that the operand ends inside the weights.
                    Location::Weights => unsafe { weights.add(operand.offset_bytes) },
                    _ => return Operand::ABSENT,
                };
                Operand { data, bytes: operand.bytes }
            })
            .collect();
        let kernel = kernels[step.kernel];
        let args = Args { params: step.params, operands: &operands };
        // SAFETY: the caller says that the kernel has validated the call and that the processor has `isa`. Reading the
        // plan found the step to write prepared memory only, which nobody else knows yet, and to read weights only.
        unsafe { kernel.run_chunks(kernel.run.get(isa), &args, threads) }.map_err(|error| {
            Error::new(ErrorKind::Plan, format!("node `{}` (kernel {}): {error}", step.node, kernel.name))
        })?;
    }
    Ok(prepared)
}
