//! One node with known inputs, computed while compiling: its kernel calls run on the reference kernels.

use bytemuck::{Pod, Zeroable};
use infer_kernels::{Args, Call, Operand, reference};

use crate::calls::{BufferKind, Calls, KernelCall, LowerNode, Span, Tensor};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::Operator;
use crate::tensor_type::TensorType;

/// The most memory that the calls of one node may use beside its inputs.
const MAX_BYTES: u64 = 1 << 31;

/// The outputs of one node whose inputs are all known: `outputs` gives their types, `None` for one nobody asks for.
///
/// # Errors
///
/// Where the operator cannot be lowered, or refuses the values.
pub fn evaluate(
    op: &dyn Operator,
    inputs: &[Option<&Constant>],
    outputs: &[Option<TensorType>],
) -> Result<Vec<Option<Constant>>, Reason> {
    if outputs.iter().flatten().all(|ty| ty.elements() == 0) {
        let empty =
            |ty: &Option<TensorType>| ty.as_ref().and_then(|ty| Constant::new(ty.clone(), Vec::new().into()));
        return Ok(outputs.iter().map(empty).collect());
    }
    if let (true, Some(Some(input)), [Some(ty)]) = (op.is_view(), inputs.first(), outputs) {
        let wrong = || internal(op, format!("{} does not become {ty} without computation", input.ty()));
        return Ok(vec![Some(input.reshaped(&ty.shape).filter(|view| view.ty() == ty).ok_or_else(wrong)?)]);
    }

    let mut calls = Calls::default();
    let mut tensor = |kind: BufferKind, ty: &TensorType| {
        let buffer = calls.add_buffer(kind, ty.bytes() as u64);
        Tensor { ty: ty.clone(), span: calls.whole(buffer), blocked: None }
    };
    let input_tensors =
        inputs.iter().map(|c| c.map(|c| tensor(BufferKind::Constant(c.data().clone()), c.ty()))).collect();
    let output_tensors: Vec<Option<Tensor>> =
        outputs.iter().map(|ty| ty.as_ref().map(|ty| tensor(BufferKind::Arena, ty))).collect();
    op.lower(&mut LowerNode {
        calls: &mut calls,
        name: op.name(),
        inputs: input_tensors,
        constants: inputs.to_vec(),
        outputs: output_tensors.clone(),
        half_weights: false,
    })?;

    let mut memory = Memory::of(&calls).map_err(|what| internal(op, what))?;
    for call in &calls.calls {
        memory.run(call).map_err(|failure| match failure {
            Failure::Values(what) => Reason::new(what),
            Failure::Call(what) => internal(op, format!("kernel {}: {what}", call.kernel)),
        })?;
    }
    let constant = |tensor: Tensor| {
        let data = memory.bytes(&tensor.span).unwrap_or_default().to_vec();
        Constant::new(tensor.ty, data.into())
            .ok_or_else(|| internal(op, "an output lost its memory".to_owned()))
    };
    output_tensors.into_iter().map(|tensor| tensor.map(constant).transpose()).collect()
}

fn internal(op: &dyn Operator, what: String) -> Reason {
    Reason::new(format!("cannot be computed while compiling: {what}"))
        .help(format!("this is a mistake in the compiler's {}; please report it", op.name()))
}

/// As much memory as a cache line, aligned like one.
#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u8; 64]);

fn lines(bytes: u64) -> Vec<Line> {
    vec![Line::zeroed(); (bytes as usize).div_ceil(size_of::<Line>())]
}

/// A copy of `data` at the alignment that kernels expect.
fn aligned(data: &[u8]) -> Vec<Line> {
    let mut copy = lines(data.len() as u64);
    bytemuck::cast_slice_mut(&mut copy)[..data.len()].copy_from_slice(data);
    copy
}

/// The buffers of some calls, each in memory of its own.
struct Memory {
    buffers: Vec<(Vec<Line>, u64, Access)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

enum Failure {
    /// The values cannot be computed with.
    Values(String),
    /// The call is wrong.
    Call(String),
}

impl Memory {
    fn of(calls: &Calls) -> Result<Self, String> {
        let arena = calls.buffers.iter().filter(|buffer| !matches!(buffer.kind, BufferKind::Constant(_)));
        let needed = arena.fold(0u64, |sum, buffer| sum.saturating_add(buffer.bytes));
        if needed > MAX_BYTES {
            return Err(format!("{needed} bytes of memory are needed, at most {MAX_BYTES} are used"));
        }
        let buffers = calls.buffers.iter().map(|buffer| match &buffer.kind {
            BufferKind::Constant(data) => (aligned(data), data.len() as u64, Access::Read),
            _ => (lines(buffer.bytes), buffer.bytes, Access::Write),
        });
        Ok(Memory { buffers: buffers.collect() })
    }

    fn bytes(&self, span: &Span) -> Option<&[u8]> {
        let (memory, bytes, _) = self.buffers.get(span.buffer.0 as usize)?;
        let end = span.offset_bytes.checked_add(span.bytes).filter(|end| end <= bytes)?;
        bytemuck::cast_slice::<Line, u8>(memory).get(span.offset_bytes as usize..end as usize)
    }

    fn run(&mut self, call: &KernelCall) -> Result<(), Failure> {
        let wrong = |what: &str| Failure::Call(what.to_owned());
        let entry = reference::find(&call.kernel).ok_or_else(|| wrong("it does not exist"))?;
        let params = aligned(&call.params);
        let params = &bytemuck::cast_slice::<Line, u8>(&params)[..call.params.len()];
        let sizes: Vec<u64> = call.operands.iter().map(|span| span.map_or(0, |span| span.bytes)).collect();
        (entry.kernel.validate)(&Call { params, operand_bytes: &sizes }).map_err(|e| wrong(e.0))?;

        let first_output =
            call.operands.len().checked_sub(call.outputs).ok_or_else(|| wrong("too many outputs"))?;
        let (inputs, outputs) = call.operands.split_at(first_output);
        // What a call reads while it writes the same buffer is copied, so that no operand aliases an output.
        let written = |span: &Span| outputs.iter().flatten().any(|output| output.buffer == span.buffer);
        let mut copies: Vec<Vec<Line>> = Vec::new();
        let mut operands: Vec<Operand> = Vec::with_capacity(call.operands.len());
        for span in inputs {
            let Some(span) = span else {
                operands.push(Operand::ABSENT);
                continue;
            };
            let bytes = self.bytes(span).ok_or_else(|| wrong("an input lies outside of its buffer"))?;
            let data = if written(span) {
                copies.push(aligned(bytes));
                copies.last().map_or(std::ptr::null(), |copy| copy.as_ptr().cast::<u8>())
            } else {
                bytes.as_ptr()
            };
            operands.push(Operand { data: data.cast_mut(), bytes: bytes.len() });
        }
        for (index, span) in outputs.iter().enumerate() {
            let Some(span) = span else {
                operands.push(Operand::ABSENT);
                continue;
            };
            let overlaps = |other: &Span| {
                other.buffer == span.buffer
                    && other.offset_bytes < span.offset_bytes.saturating_add(span.bytes)
                    && span.offset_bytes < other.offset_bytes.saturating_add(other.bytes)
            };
            if outputs.iter().take(index).flatten().any(overlaps) {
                return Err(wrong("two outputs overlap"));
            }
            self.bytes(span).ok_or_else(|| wrong("an output lies outside of its buffer"))?;
            let (memory, _, access) = &mut self.buffers[span.buffer.0 as usize];
            if *access == Access::Read {
                return Err(wrong("it writes into a constant"));
            }
            // In bounds: `bytes` has just found the span inside of the buffer.
            let data = memory.as_mut_ptr().cast::<u8>().wrapping_add(span.offset_bytes as usize);
            operands.push(Operand { data, bytes: span.bytes as usize });
        }
        let args = Args { params, operands: &operands };
        // SAFETY: `validate` accepted the parameters with these operand sizes; each operand was found inside of its
        // buffer, which lives on and is not touched elsewhere during the call; inputs in a buffer that is written
        // are copies, outputs are disjoint and in writable buffers; this is the only thread that uses them.
        let result = unsafe { (entry.reference)(&args) };
        result.map_err(|e| Failure::Values(e.to_string()))
    }
}
