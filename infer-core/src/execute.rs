//! One node on values: computed by the operator itself, by the nodes it expands to, or by its kernel calls.
//!
//! The compiler folds constants with it, on the reference kernels; programs run with it, on the processor's kernels.

use std::collections::HashMap;
#[cfg(feature = "cuda")]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use infer_kernels::{Args, Call, Isa, Operand, reference};

use crate::calls::{Buffer, BufferKind, Calls, KernelCall, LowerNode, Span, Tensor};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::error::Result as MemoryResult;
use crate::expansion::{self, Expanded};
use crate::node_types::{InputType, NodeTypes};
use crate::node_values::NodeValues;
use crate::ops::{Operator, StringUse};
use crate::plan::AlignedBytes;
#[cfg(feature = "cuda")]
use crate::runtime::cuda::CudaCalls;
use crate::tensor_type::{DataType, MAX_RANK, TensorType};
use crate::value::{Strings, Value};

/// The most memory that the calls of one node may use beside its inputs.
const MAX_BYTES: u64 = 1 << 30;

/// Which kernels compute.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The references, which give the same results on every machine.
    Reference,
    /// Those of the processor.
    Processor {
        /// The instruction set.
        isa: Isa,
        /// The most threads that take part.
        threads: usize,
    },
    /// Those of a GPU for a node that has them all, and work enough to copy its values; else those of the processor.
    #[cfg(feature = "cuda")]
    Gpu {
        /// The GPU.
        gpu: Arc<CudaCalls>,
        /// The instruction set of the processor.
        isa: Isa,
        /// The most threads that take part.
        threads: usize,
        /// How many nodes the processor computed so far.
        on_processor: Arc<AtomicU64>,
    },
}

impl Backend {
    /// The instruction set and the threads of the processor.
    pub(crate) fn processor(&self) -> (Isa, usize) {
        match *self {
            Backend::Reference => (Isa::Scalar, 1),
            Backend::Processor { isa, threads } => (isa, threads),
            #[cfg(feature = "cuda")]
            Backend::Gpu { isa, threads, .. } => (isa, threads),
        }
    }

    /// Counts a node that the processor computes.
    fn count(&self) {
        #[cfg(feature = "cuda")]
        if let Backend::Gpu { on_processor, .. } = self {
            on_processor.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The outputs of one node, all those it defines; what nobody asks for may be anything.
///
/// # Errors
///
/// Where the operator refuses the types or the values.
pub fn execute(
    op: &dyn Operator,
    inputs: &[Option<Value>],
    asked: &[bool],
    backend: &Backend,
) -> Result<Vec<Value>, Reason> {
    if let Some(values) = op.compute(&NodeValues { inputs, outputs: asked, backend })? {
        if !op.hands_on() && !op.is_view() {
            backend.count();
        }
        return Ok(values);
    }
    let mut pool = StringPool::default();
    let mut tensors = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        tensors.push(match input {
            None => None,
            Some(Value::Tensor(tensor)) => Some(tensor.clone()),
            Some(Value::Strings(strings)) if op.string_use() != StringUse::None => {
                Some(pool.numbers(strings)?)
            }
            Some(other) => {
                return Err(Reason::new(format!(
                    "input {index} is {}, which {} does not take",
                    other.describe(),
                    op.name()
                )));
            }
        });
    }
    let tensors: Vec<Option<&Constant>> = tensors.iter().map(Option::as_ref).collect();
    let outputs = execute_tensors(op, &tensors, asked, backend)?;
    let strings = !pool.strings.is_empty() && op.string_use() == StringUse::Moves;
    outputs
        .into_iter()
        .map(
            |output| {
                if strings { pool.strings(&output).map(Value::Strings) } else { Ok(Value::Tensor(output)) }
            },
        )
        .collect()
}

/// The outputs of a node with known inputs, on the reference kernels.
///
/// # Errors
///
/// As [`execute`].
pub fn fold(
    op: &dyn Operator,
    inputs: &[Option<&Constant>],
    asked: &[bool],
) -> Result<Vec<Constant>, Reason> {
    let values: Vec<Option<Value>> =
        inputs.iter().map(|input| input.map(|c| Value::Tensor(c.clone()))).collect();
    let outputs = execute(op, &values, asked, &Backend::Reference)?;
    outputs
        .into_iter()
        .map(|value| match value {
            Value::Tensor(tensor) => Ok(tensor),
            other => Err(Reason::at_run_time(format!("an output is {}", other.describe()))),
        })
        .collect()
}

fn execute_tensors(
    op: &dyn Operator,
    inputs: &[Option<&Constant>],
    asked: &[bool],
    backend: &Backend,
) -> Result<Vec<Constant>, Reason> {
    let types: Vec<Option<InputType<'_>>> = inputs
        .iter()
        .map(|input| input.map(|constant| InputType { ty: constant.ty(), constant: Some(constant) }))
        .collect();
    let node = NodeTypes { inputs: &types, outputs: asked };
    if let Some(expanded) = expansion::expand(op, &node)? {
        return run_expanded(expanded, inputs, backend);
    }
    if let Some(known) = op.evaluate(&node)? {
        return Ok(known);
    }
    let types = op.infer(&node)?;
    for ty in &types {
        if ty.rank() > MAX_RANK {
            return Err(Reason::new(format!(
                "an output would have {} dimensions, at most {MAX_RANK} are supported",
                ty.rank()
            )));
        }
        if ty.checked_elements().is_none() {
            return Err(Reason::new(format!("an output would be {ty}, which is too large")));
        }
    }
    let wanted = |(index, ty)| (index == 0 || asked.get(index).copied().unwrap_or(false)).then_some(ty);
    let types: Vec<Option<TensorType>> = types.into_iter().enumerate().map(wanted).collect();
    let outputs = evaluate(op, inputs, &types, backend)?;
    let empty = || Constant::of::<u8>(TensorType::new(DataType::U8, [0]), &[]);
    Ok(outputs.into_iter().map(|output| output.unwrap_or_else(empty)).collect())
}

fn run_expanded(
    expanded: Expanded,
    inputs: &[Option<&Constant>],
    backend: &Backend,
) -> Result<Vec<Constant>, Reason> {
    let mut values: Vec<Option<Value>> =
        expanded.values.into_iter().map(|value| value.constant.map(Value::Tensor)).collect();
    for (value, input) in values.iter_mut().zip(inputs) {
        *value = input.map(|input| Value::Tensor(input.clone()));
    }
    let mut is_read = vec![false; values.len()];
    for wire in &expanded.outputs {
        is_read[wire.index()] = true;
    }
    let mut last: Vec<Vec<usize>> = Vec::with_capacity(expanded.nodes.len());
    for node in expanded.nodes.iter().rev() {
        let wires = node.inputs.iter().flatten().chain(&node.outputs).map(|wire| wire.index());
        last.push(wires.filter(|&wire| !std::mem::replace(&mut is_read[wire], true)).collect());
    }
    for (node, last) in expanded.nodes.into_iter().zip(last.into_iter().rev()) {
        if node.outputs.iter().all(|wire| values[wire.index()].is_some()) {
            continue;
        }
        let inputs: Vec<Option<Value>> =
            node.inputs.iter().map(|wire| wire.and_then(|wire| values[wire.index()].clone())).collect();
        let asked = vec![true; node.outputs.len()];
        let results = execute(&*node.op, &inputs, &asked, backend)?;
        for (wire, value) in node.outputs.iter().zip(results) {
            values[wire.index()] = Some(value);
        }
        // What nobody reads afterwards.
        for wire in last {
            values[wire] = None;
        }
    }
    let output = |wire: &expansion::Wire| match values.get(wire.index()).cloned().flatten() {
        Some(Value::Tensor(tensor)) => Ok(tensor),
        _ => Err(Reason::new("an output has no value")),
    };
    expanded.outputs.iter().map(output).collect()
}

/// Strings as numbers, equal ones as equal numbers.
#[derive(Default)]
struct StringPool {
    strings: Vec<String>,
    numbers: HashMap<String, i64>,
}

impl StringPool {
    fn number(&mut self, string: &str) -> i64 {
        if let Some(&number) = self.numbers.get(string) {
            return number;
        }
        let number = self.strings.len() as i64;
        self.strings.push(string.to_owned());
        self.numbers.insert(string.to_owned(), number);
        number
    }

    fn numbers(&mut self, strings: &Strings) -> Result<Constant, Reason> {
        // The empty string is number zero, with which operators fill what no element is moved to.
        self.number("");
        let numbers: Vec<i64> = strings.data().iter().map(|string| self.number(string)).collect();
        let ty = TensorType::new(DataType::I64, strings.shape());
        Constant::checked(ty, &numbers).ok_or_else(|| Reason::new("a tensor of too many strings"))
    }

    fn strings(&self, numbers: &Constant) -> Result<Strings, Reason> {
        let values = numbers.values::<i64>();
        let strings = values.iter().map(|&number| {
            let string = usize::try_from(number).ok().and_then(|number| self.strings.get(number));
            string.cloned().ok_or_else(|| Reason::new("a string that no input has"))
        });
        let wrong = || Reason::new(format!("an output of strings is {}", numbers.ty()));
        Strings::new(numbers.ty().shape.clone(), strings.collect::<Result<_, _>>()?).ok_or_else(wrong)
    }
}

/// The outputs of one node whose inputs are all known, by its kernel calls: `outputs` gives their types, `None` for one
/// nobody asks for.
///
/// # Errors
///
/// Where the operator cannot be lowered, or refuses the values.
pub fn evaluate(
    op: &dyn Operator,
    inputs: &[Option<&Constant>],
    outputs: &[Option<TensorType>],
    backend: &Backend,
) -> Result<Vec<Option<Constant>>, Reason> {
    if outputs.iter().flatten().all(|ty| ty.elements() == 0) {
        let empty =
            |ty: &Option<TensorType>| ty.as_ref().and_then(|ty| Constant::new(ty.clone(), Bytes::new()));
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
        winograd: None,
    })?;

    #[cfg(feature = "cuda")]
    if let Backend::Gpu { gpu, .. } = backend {
        let spans: Vec<Span> = output_tensors.iter().flatten().map(|tensor| tensor.span).collect();
        if let Some(values) = gpu.run(&calls, &spans).map_err(|error| Reason::of(&error))? {
            let mut values = values.into_iter().map(Bytes::from_owner);
            let mut constant = |tensor: Tensor| {
                let data = values.next().unwrap_or_default();
                Constant::new(tensor.ty, data).ok_or_else(|| internal(op, "an output is lost".to_owned()))
            };
            return output_tensors.into_iter().map(|tensor| tensor.map(&mut constant).transpose()).collect();
        }
    }
    if !calls.calls.is_empty() {
        backend.count();
    }
    let mut memory = Memory::of(&calls).map_err(Reason::new)?;
    for call in &calls.calls {
        memory.run(call, backend).map_err(|failure| match failure {
            Failure::Values(what) => Reason::new(what),
            Failure::Call(what) => internal(op, format!("kernel {}: {what}", call.kernel)),
        })?;
    }
    let mut constant = |tensor: Tensor| {
        let data = memory.take(tensor.span).unwrap_or_default();
        Constant::new(tensor.ty, data).ok_or_else(|| internal(op, "an output lost its memory".to_owned()))
    };
    output_tensors.into_iter().map(|tensor| tensor.map(&mut constant).transpose()).collect()
}

fn internal(op: &dyn Operator, what: String) -> Reason {
    Reason::new(format!("cannot be computed: {what}"))
        .help(format!("this is a mistake in the compiler's {}; please report it", op.name()))
}

/// The memory of one buffer.
enum Store {
    /// Values that are known.
    Read(Bytes),
    /// What calls write.
    Write(AlignedBytes),
}

impl Store {
    fn bytes(&self) -> &[u8] {
        match self {
            Store::Read(bytes) => bytes,
            Store::Write(bytes) => bytes.as_slice(),
        }
    }
}

/// The buffers of some calls, each in memory of its own.
struct Memory {
    buffers: Vec<Store>,
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
        /// What every element type is aligned to.
        const ALIGNMENT: usize = 16;
        let store = |buffer: &Buffer| -> MemoryResult<Store> {
            Ok(match &buffer.kind {
                BufferKind::Constant(data) if data.as_ptr().addr().is_multiple_of(ALIGNMENT) => {
                    Store::Read(data.clone())
                }
                BufferKind::Constant(data) => Store::Read(Bytes::from_owner(AlignedBytes::copy_of(data)?)),
                _ => Store::Write(AlignedBytes::zeroed(buffer.bytes as usize)?),
            })
        };
        let buffers = calls.buffers.iter().map(store).collect::<MemoryResult<_>>();
        Ok(Memory { buffers: buffers.map_err(|error| error.to_string())? })
    }

    fn bytes(&self, span: &Span) -> Option<&[u8]> {
        let bytes = self.buffers.get(span.buffer.0 as usize)?.bytes();
        let end = span.offset_bytes.checked_add(span.bytes)?;
        bytes.get(span.offset_bytes as usize..usize::try_from(end).ok()?)
    }

    /// The bytes of `span`, without a copy where they are a whole buffer, which is gone afterwards.
    fn take(&mut self, span: Span) -> Option<Bytes> {
        let whole = self.bytes(&span)?.len() == self.buffers.get(span.buffer.0 as usize)?.bytes().len();
        match self.buffers.get_mut(span.buffer.0 as usize) {
            Some(store @ Store::Write(_)) if whole => {
                match std::mem::replace(store, Store::Read(Bytes::new())) {
                    Store::Write(bytes) => Some(Bytes::from_owner(bytes)),
                    Store::Read(bytes) => Some(bytes),
                }
            }
            _ => self.bytes(&span).map(Bytes::copy_from_slice),
        }
    }

    fn run(&mut self, call: &KernelCall, backend: &Backend) -> Result<(), Failure> {
        let wrong = |what: &str| Failure::Call(what.to_owned());
        let entry = reference::find(&call.kernel).ok_or_else(|| wrong("it does not exist"))?;
        let params = AlignedBytes::copy_of(&call.params).map_err(|error| wrong(&error.to_string()))?;
        let params = params.as_slice();
        let sizes: Vec<u64> = call.operands.iter().map(|span| span.map_or(0, |span| span.bytes)).collect();
        (entry.kernel.validate)(&Call { params, operand_bytes: &sizes }).map_err(|e| wrong(e.0))?;

        let first_output =
            call.operands.len().checked_sub(call.outputs).ok_or_else(|| wrong("too many outputs"))?;
        let (inputs, outputs) = call.operands.split_at(first_output);
        // What a call reads while it writes the same buffer is copied, so that no operand aliases an output.
        let written = |span: &Span| outputs.iter().flatten().any(|output| output.buffer == span.buffer);
        let mut copies: Vec<AlignedBytes> = Vec::new();
        let mut operands: Vec<Operand> = Vec::with_capacity(call.operands.len());
        for span in inputs {
            let Some(span) = span else {
                operands.push(Operand::ABSENT);
                continue;
            };
            let bytes = self.bytes(span).ok_or_else(|| wrong("an input lies outside of its buffer"))?;
            let data = if written(span) {
                copies.push(AlignedBytes::copy_of(bytes).map_err(|error| wrong(&error.to_string()))?);
                copies.last().map_or(std::ptr::null(), |copy| copy.as_slice().as_ptr())
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
            let Some(Store::Write(bytes)) = self.buffers.get_mut(span.buffer.0 as usize) else {
                return Err(wrong("it writes into a constant"));
            };
            // In bounds: `bytes` has just found the span inside of the buffer.
            let data = bytes.as_mut_ptr().wrapping_add(span.offset_bytes as usize);
            operands.push(Operand { data, bytes: span.bytes as usize });
        }
        let args = Args { params, operands: &operands };
        // SAFETY: `validate` accepted the parameters with these operand sizes; each operand was found inside of its
        // buffer, which lives on and is not touched elsewhere during the call; inputs in a buffer that is written
        // are copies, outputs are disjoint and in writable buffers; nobody else uses them.
        let result = unsafe {
            match (backend, backend.processor()) {
                (Backend::Reference, _) => (entry.reference)(&args),
                (_, (isa, threads)) => entry.kernel.run_chunks(entry.kernel.run.get(isa), &args, threads),
            }
        };
        result.map_err(|e| Failure::Values(e.to_string()))
    }
}
