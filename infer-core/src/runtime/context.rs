//! One inference at a time: memory, and the loop over the steps.

#![allow(unsafe_code)]

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use infer_kernels::{Args, Operand};

use super::engine::{Engine, ResolvedStep};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{AlignedBytes, Location, Port};
use crate::tensor_type::DataType;

/// The place for one output of a model: bytes, or a typed array by [`Element::as_output`](super::Element::as_output).
#[derive(Debug)]
pub struct Output<'a> {
    bytes: &'a mut [u8],
    /// What the memory is borrowed as; `None` for bytes, which may hold anything.
    dtype: Option<DataType>,
}

impl<'a> Output<'a> {
    /// Memory that is a row of values of type `dtype`.
    pub(super) fn typed(bytes: &'a mut [u8], dtype: DataType) -> Self {
        Output { bytes, dtype: Some(dtype) }
    }

    /// Whether the memory is of the type and size of the output `port`.
    pub(crate) fn check(&self, port: &Port) -> Result<()> {
        if let Some(dtype) = self.dtype
            && dtype != port.ty.dtype.storage()
        {
            return Err(Error::new(
                ErrorKind::Input,
                format!("output `{}` is {}; an array of {dtype} was given for it", port.name, port.ty),
            ));
        }
        check_size("output", port, self.bytes)
    }

    /// The memory, for what [`Output::check`] lets in.
    #[cfg(feature = "cuda")]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Makes every byte 0 or 1 where the output `port` is of `bool`.
    fn normalize_bools(&mut self, port: &Port) {
        if port.ty.dtype == DataType::Bool {
            for byte in &mut *self.bytes {
                *byte = u8::from(*byte != 0);
            }
        }
    }

    /// Writes the output `port`, where [`Output::check`] lets it; a `bool` becomes 0 or 1.
    #[cfg(any(feature = "cuda", feature = "dynamic"))]
    pub(crate) fn write(&mut self, port: &Port, data: &[u8]) -> Result<()> {
        self.check(port)?;
        check_size("output", port, data)?;
        self.bytes.copy_from_slice(data);
        self.normalize_bools(port);
        Ok(())
    }
}

impl<'a> From<&'a mut [u8]> for Output<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Output { bytes, dtype: None }
    }
}

/// What one inference needs beside the plan; reused from one to the next.
#[derive(Debug)]
pub(super) struct State {
    /// Reached through `operands` alone, once they are made.
    _arena: AlignedBytes,
    /// The operands of all steps. Those in the arena and the weights stay; those of the caller are set for each run.
    operands: Vec<Operand>,
}

impl State {
    fn new(engine: &Engine) -> Result<Self> {
        let mut arena = AlignedBytes::zeroed(engine.arena_bytes)?;
        let base = arena.as_mut_ptr();
        let weights = engine.weights().as_ptr().cast_mut();
        let operands = engine
            .operands
            .iter()
            .map(|operand| {
                let data = match operand.location {
                    // SAFETY: reading the plan checked that the operand ends inside the arena, which has
                    // `arena_bytes` bytes.
                    Location::Arena => unsafe { base.add(operand.offset_bytes) },
                    // SAFETY: it checked likewise that the operand ends inside the weights.
                    Location::Weights => unsafe { weights.add(operand.offset_bytes) },
                    Location::Prepared => {
                        let prepared = engine.prepared.as_ref().map_or(&[][..], |p| p.as_slice());
                        // SAFETY: likewise inside of what is prepared, which `Engine::open` made of that size.
                        unsafe { prepared.as_ptr().cast_mut().add(operand.offset_bytes) }
                    }
                    // No step of an inference reads what is borrowed.
                    Location::Absent | Location::Borrowed | Location::Input(_) | Location::Output(_) => {
                        return Operand::ABSENT;
                    }
                };
                Operand { data, bytes: operand.bytes }
            })
            .collect();
        Ok(State { _arena: arena, operands })
    }
}

/// The memory of one inference at a time, taken from the engine's pool and given back when dropped.
///
/// The first [`Context::run`] of a fresh context allocates its memory; further ones allocate nothing.
#[derive(Debug)]
pub struct Context<'e> {
    engine: &'e Engine,
    state: Option<State>,
}

impl<'e> Context<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        let state = engine.pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Context { engine, state }
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Computes the outputs from the inputs, both in the model's order, row-major and little-endian. After an error
    /// the outputs hold valid but meaningless values.
    ///
    /// # Errors
    ///
    /// If there are more or fewer inputs or outputs than the model has, or one has another size or element type or
    /// is not aligned for its element type; if a value cannot be computed with; if there is no memory.
    pub fn run(&mut self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        self.run_with(inputs, outputs, |_, step| step())
    }

    /// [`Context::run`], of which `each` learns how long every step took: its position in the plan, and the time.
    ///
    /// # Errors
    ///
    /// Those of [`Context::run`].
    pub fn run_timed(
        &mut self,
        inputs: &[&[u8]],
        outputs: &mut [Output<'_>],
        each: &mut dyn FnMut(usize, Duration),
    ) -> Result<()> {
        self.run_with(inputs, outputs, |index, step| {
            let start = Instant::now();
            let result = step();
            each(index, start.elapsed());
            result
        })
    }

    /// The run, whose steps `each` runs.
    #[inline(always)]
    fn run_with(
        &mut self,
        inputs: &[&[u8]],
        outputs: &mut [Output<'_>],
        mut each: impl FnMut(usize, &dyn Fn() -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let engine = self.engine;
        check_inputs(engine, inputs)?;
        check_outputs(engine, outputs)?;
        let state = match &mut self.state {
            Some(state) => state,
            none => none.insert(State::new(engine)?),
        };

        for &index in &engine.bindings {
            let operand = &engine.operands[index];
            let base = match operand.location {
                Location::Input(port) => inputs[port].as_ptr().cast_mut(),
                Location::Output(port) => outputs[port].bytes.as_mut_ptr(),
                _ => continue,
            };
            // SAFETY: reading the plan checked that the operand ends inside its port, and the caller's slice has just
            // been found to have the port's size.
            let data = unsafe { base.add(operand.offset_bytes) };
            state.operands[index] = Operand { data, bytes: operand.bytes };
        }

        // Dropped last, and also where a kernel panics: `bool`s of the caller must never stay anything but 0 or 1.
        let _outputs = NormalizeBools { ports: &engine.outputs, outputs };
        for (index, step) in engine.steps.iter().enumerate() {
            // SAFETY: `Engine::open` had the kernel validate the call with its parameters and operand sizes. Each
            // operand points at so many bytes: of the arena, the weights and what was prepared of them (`State::new`),
            // or of the caller's slices (above), which are borrowed throughout this function. Written operands, which
            // reading the plan found at the end and never in weights, prepared memory or inputs, lie in the arena, which only this context reaches and which
            // is borrowed exclusively with it, or in the caller's outputs, borrowed exclusively too; no reference to
            // either exists meanwhile, and steps run one after the other.
            each(index, &|| unsafe { run_step(engine, step, &state.operands[step.operands.clone()]) })?;
        }
        Ok(())
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // After a panic in a kernel the memory is as good as before: every run writes what it reads.
        if let Some(state) = self.state.take() {
            self.engine.pool.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        }
    }
}

/// Runs all chunks of one step.
///
/// # Safety
///
/// `operands` are those of `step`, valid as [`infer_kernels::ChunkFn`] demands but for the processor.
unsafe fn run_step(engine: &Engine, step: &ResolvedStep, operands: &[Operand]) -> Result<()> {
    let args = Args { params: &engine.plan.as_slice()[step.params.clone()], operands };
    // SAFETY: the caller answers for the operands; `step.run` was chosen for an instruction set that `Isa::selected`
    // found on this processor.
    unsafe { step.kernel.run_chunks(step.run, &args, engine.threads) }.map_err(|error| {
        let (node, kernel) = (engine.node(step), step.kernel.name);
        Error::new(ErrorKind::Input, format!("node `{node}` (kernel {kernel}): {error}"))
    })
}

fn check_inputs(engine: &Engine, inputs: &[&[u8]]) -> Result<()> {
    check_count("input", inputs.len(), engine.inputs.len())?;
    for (port, bytes) in engine.inputs.iter().zip(inputs) {
        check_memory("input", port, bytes)?;
    }
    Ok(())
}

fn check_outputs(engine: &Engine, outputs: &[Output<'_>]) -> Result<()> {
    check_count("output", outputs.len(), engine.outputs.len())?;
    for (port, output) in engine.outputs.iter().zip(outputs) {
        output.check(port)?;
        check_memory("output", port, output.bytes)?;
    }
    Ok(())
}

pub(crate) fn check_count(what: &str, given: usize, wanted: usize) -> Result<()> {
    if given == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Input, format!("the model has {wanted} {what}s; {given} were given")))
}

fn check_memory(what: &str, port: &Port, bytes: &[u8]) -> Result<()> {
    check_size(what, port, bytes)?;
    let Port { name, ty } = port;
    let alignment = match ty.dtype.size_bytes() {
        1 => 1,
        2 => align_of::<u16>(),
        4 => align_of::<u32>(),
        _ => align_of::<u64>(),
    };
    if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(alignment) {
        return Err(Error::new(
            ErrorKind::Input,
            format!("{what} `{name}` is {ty}, which must begin at a multiple of {alignment} bytes in memory"),
        ));
    }
    Ok(())
}

/// Whether as many bytes were given as the port takes.
pub(crate) fn check_size(what: &str, port: &Port, bytes: &[u8]) -> Result<()> {
    let Port { name, ty } = port;
    if bytes.len() == ty.bytes() {
        return Ok(());
    }
    let (wanted, given) = (ty.bytes(), bytes.len());
    Err(Error::new(
        ErrorKind::Input,
        format!("{what} `{name}` is {ty}, which takes {wanted} bytes; {given} were given"),
    ))
}

/// Makes every byte of the `bool` outputs 0 or 1 when dropped.
struct NormalizeBools<'a, 'o> {
    ports: &'a [Port],
    outputs: &'a mut [Output<'o>],
}

impl Drop for NormalizeBools<'_, '_> {
    fn drop(&mut self) {
        for (port, output) in self.ports.iter().zip(&mut *self.outputs) {
            output.normalize_bools(port);
        }
    }
}
