//! Plans on an NVIDIA GPU: an opened plan, and one inference at a time.
//!
//! The kernels of such a plan are those of [`infer_kernels::cuda`]. Weights are uploaded when it is opened; a context
//! has a stream, an arena, memory for inputs and outputs on both sides, and its launches recorded as a graph.

#![allow(unsafe_code)]

#[cfg(feature = "dynamic")]
mod calls;
mod driver;
mod engine;
mod memory;
mod tensor_map;

use std::sync::PoisonError;
use std::time::Instant;

#[cfg(feature = "dynamic")]
pub use self::calls::CudaCalls;
#[cfg(feature = "compiler")]
pub(crate) use self::calls::is_worth;
use self::driver::{DeviceMemory, Event, Graph, HostMemory, Stream};
use self::engine::ResolvedStep;
pub use self::engine::{CudaEngine, CudaInfo, CudaOptions, probe};
use self::memory::Elsewhere;
pub use self::memory::{DeviceInput, DeviceOutput};
use self::tensor_map::{TENSOR_ALIGNMENT, describe};
use super::context::{Output, check_count, check_size};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Location, Operand};
use infer_kernels::cuda::COUNTERS;

/// The library whose types [`DeviceInput`] and [`DeviceOutput`] are made of.
pub use cudarc;

/// What one inference needs beside the engine; reused from one to the next.
#[derive(Debug)]
struct State {
    stream: Stream,
    /// All launches of an inference.
    graph: Graph,
    /// The argument of each step.
    arguments: Vec<Vec<u64>>,
    inputs: Vec<(HostMemory, DeviceMemory)>,
    outputs: Vec<(HostMemory, DeviceMemory)>,
    /// The same launches on memory of the caller.
    elsewhere: Vec<Elsewhere>,
    arena: DeviceMemory,
    counters: DeviceMemory,
    /// A copy of the counter that says that a value cannot be computed with, where kernels may find one.
    failure: Option<HostMemory>,
}

impl State {
    fn new(engine: &CudaEngine) -> Result<Self> {
        let device = &engine.device;
        let staged = |bytes: usize| -> Result<(HostMemory, DeviceMemory)> {
            Ok((HostMemory::zeroed(device, bytes)?, DeviceMemory::filled(device, bytes, 0xFF)?))
        };
        let inputs: Vec<_> =
            engine.inputs.iter().map(|port| staged(port.ty.bytes())).collect::<Result<_>>()?;
        let outputs: Vec<_> =
            engine.outputs.iter().map(|port| staged(port.ty.bytes())).collect::<Result<_>>()?;
        // Bytes of 0xFF are NaN in f16 and f32: what reads memory that was not written shows it.
        let arena = DeviceMemory::filled(device, engine.arena_bytes, 0xFF)?;
        let counters = DeviceMemory::filled(device, (COUNTERS + 1) * size_of::<u32>(), 0)?;

        let addresses = |ports: &[(HostMemory, DeviceMemory)]| -> Vec<u64> {
            ports.iter().map(|(_, memory)| memory.address()).collect()
        };
        let arguments = arguments(engine, &arena, &counters, &addresses(&inputs), &addresses(&outputs))?;

        let stream = Stream::new(device)?;
        let graph = stream.capture(|| {
            for (step, argument) in launched(engine, &arguments) {
                // SAFETY: `CudaEngine::open` had the kernel validate the call; the argument is made of its parameters
                // and of memory of the checked sizes, all of which the state keeps, and drops after the stream is done.
                unsafe { stream.launch(step.function, &step.launch, argument, engine.hopper)? };
            }
            Ok(())
        })?;
        let failure = engine.steps.iter().any(|step| step.kernel.may_fail());
        let failure = failure.then(|| HostMemory::zeroed(device, size_of::<u32>())).transpose()?;
        let elsewhere = Vec::new();
        Ok(State { stream, graph, arguments, inputs, outputs, elsewhere, arena, counters, failure })
    }

    /// Queues a copy of the counter that says that a value cannot be computed with, where kernels may find one.
    fn download_failure(&mut self) -> Result<()> {
        let Some(host) = &mut self.failure else { return Ok(()) };
        // SAFETY: the state owns both sides and is borrowed exclusively by whoever waits for the stream.
        unsafe { self.stream.download_from(&self.counters, FAILURE, host) }
    }

    /// Whether a value could not be computed with, once the stream has been waited for.
    fn failed(&mut self) -> Result<()> {
        match &self.failure {
            Some(copy) => expect_no_failure(copy, &self.counters),
            None => Ok(()),
        }
    }
}

/// Where the counter of failures lies among the counters.
const FAILURE: usize = COUNTERS * size_of::<u32>();

/// An error where that counter is set, of which the host has a copy; it is cleared.
fn expect_no_failure(copy: &HostMemory, counters: &DeviceMemory) -> Result<()> {
    if copy.as_slice().iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    counters.clear(FAILURE)?;
    Err(Error::new(ErrorKind::Input, "an index is out of range, or an integer is divided by zero"))
}

/// The steps that are launched, each with its argument.
fn launched<'a>(
    engine: &'a CudaEngine,
    arguments: &'a [Vec<u64>],
) -> impl Iterator<Item = (&'a ResolvedStep, &'a Vec<u64>)> {
    engine.steps.iter().zip(arguments).filter(|(step, _)| step.is_launched)
}

/// The argument of each step, with inputs and outputs at these addresses.
fn arguments(
    engine: &CudaEngine,
    arena: &DeviceMemory,
    counters: &DeviceMemory,
    inputs: &[u64],
    outputs: &[u64],
) -> Result<Vec<Vec<u64>>> {
    let argument = |step: &ResolvedStep| {
        let address = |operand: &Operand| {
            let base = match operand.location {
                // No step of an inference reads what is borrowed.
                Location::Absent | Location::Borrowed => return 0,
                Location::Arena => arena.address(),
                Location::Weights => engine.weights.address(),
                Location::Prepared => engine.prepared.address(),
                Location::Input(port) => inputs[port],
                Location::Output(port) => outputs[port],
            };
            base + operand.offset_bytes as u64
        };
        let operands = &engine.operands[step.operands.clone()];
        let mut argument = Vec::new();
        for tensor in &step.tensors {
            argument.extend(describe(tensor, operands.get(tensor.operand).map_or(0, address))?);
        }
        argument.extend(operands.iter().map(address).chain([counters.address()]));
        argument.extend(&step.params);
        // The structure ends where the next could begin.
        if !step.tensors.is_empty() {
            argument.resize(argument.len().next_multiple_of(TENSOR_ALIGNMENT / size_of::<u64>()), 0);
        }
        Ok(argument)
    };
    engine.steps.iter().map(argument).collect()
}

/// The parts of one inference, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaQuery {
    /// The host's time until all of it is queued.
    pub enqueue: f64,
    /// Copying the inputs to the GPU, by its clock.
    pub upload: f64,
    /// All kernels.
    pub compute: f64,
    /// Copying the outputs from the GPU.
    pub download: f64,
}

/// The memory of one inference at a time, taken from the engine's pool and given back when dropped.
#[derive(Debug)]
pub struct CudaContext<'e> {
    engine: &'e CudaEngine,
    state: Option<State>,
}

impl<'e> CudaContext<'e> {
    fn new(engine: &'e CudaEngine) -> Self {
        let state = engine.pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
        CudaContext { engine, state }
    }

    fn state(&mut self) -> Result<&mut State> {
        self.engine.device.bind()?;
        Ok(match &mut self.state {
            Some(state) => state,
            none => none.insert(State::new(self.engine)?),
        })
    }

    /// Computes the outputs from the inputs, both in the model's order, row-major and little-endian.
    ///
    /// # Errors
    ///
    /// If there are more or fewer inputs or outputs than the model has, or one has another size or element type; if
    /// there is no memory; if the GPU fails.
    pub fn run(&mut self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()> {
        let engine = self.engine;
        check_count("input", inputs.len(), engine.inputs.len())?;
        for (port, bytes) in engine.inputs.iter().zip(inputs) {
            check_size("input", port, bytes)?;
        }
        check_count("output", outputs.len(), engine.outputs.len())?;
        for (port, output) in engine.outputs.iter().zip(&*outputs) {
            output.check(port)?;
        }
        let state = self.state()?;
        for ((host, device), bytes) in state.inputs.iter_mut().zip(inputs) {
            host.as_mut_slice().copy_from_slice(bytes);
            // SAFETY: the state owns both sides and is borrowed exclusively until the wait below; where an error comes
            // before it, `finish` waits.
            if let Err(error) = unsafe { state.stream.upload(host, device) } {
                return finish(state, Err(error));
            }
        }
        // SAFETY: as above; the graph names memory of the state and the engine's weights.
        let mut done = unsafe { state.stream.replay(&state.graph) };
        for (host, device) in &mut state.outputs {
            // SAFETY: as above.
            done = done.and_then(|()| unsafe { state.stream.download(device, host) });
        }
        done = done.and_then(|()| state.download_failure());
        finish(state, done)?;
        state.failed()?;
        for (output, (host, _)) in outputs.iter_mut().zip(&state.outputs) {
            output.bytes_mut().copy_from_slice(host.as_slice());
        }
        Ok(())
    }

    /// Computes the outputs from the inputs, both in memory of the caller on the GPU that the model runs on: nothing is
    /// copied. What was queued on their streams before is waited for on the GPU; when the call returns, the outputs are
    /// there.
    ///
    /// The launches are recorded for the addresses, the last few of which a context remembers: calls are fast with memory
    /// that is used again.
    ///
    /// # Errors
    ///
    /// If there are more or fewer inputs or outputs than the model has, or one has another size or element type, is on
    /// another GPU or does not begin at a multiple of 64 bytes; if there is no memory; if the GPU fails.
    pub fn run_device(&mut self, inputs: &[DeviceInput<'_>], outputs: &mut [DeviceOutput<'_>]) -> Result<()> {
        let engine = self.engine;
        check_count("input", inputs.len(), engine.inputs.len())?;
        check_count("output", outputs.len(), engine.outputs.len())?;
        let (addresses, streams) = memory::checked(engine, inputs, outputs)?;
        let device = engine.device.clone();
        let state = self.state()?;
        state.record_elsewhere(engine, addresses)?;
        let event = Event::new(&device)?;
        for stream in streams {
            // SAFETY: `stream` borrows a stream that is there.
            unsafe { state.stream.follow(stream.cu_stream(), &event)? };
        }
        let Some(Elsewhere { graph, .. }) = state.elsewhere.last() else { return Ok(()) };
        // SAFETY: the graph names memory of the state, the engine's weights, and the inputs and outputs, which are of the
        // sizes that the plan has and borrowed until the wait below.
        let mut done = unsafe { state.stream.replay(graph) };
        done = done.and_then(|()| state.download_failure());
        finish(state, done)?;
        state.failed()
    }

    /// The time of each of so many runs of the kernels alone on the inputs of the last [`CudaContext::run`], in
    /// milliseconds by the GPU's clock.
    ///
    /// # Errors
    ///
    /// If there is no memory; if the GPU fails.
    pub fn time(&mut self, runs: usize) -> Result<Vec<f32>> {
        let device = self.engine.device.clone();
        let state = self.state()?;
        let (start, end) = (Event::new(&device)?, Event::new(&device)?);
        (0..runs)
            .map(|_| {
                state.stream.record(&start)?;
                // SAFETY: as in `run`; the wait follows in any case.
                let done =
                    unsafe { state.stream.replay(&state.graph) }.and_then(|()| state.stream.record(&end));
                finish(state, done)?;
                end.since(&start)
            })
            .collect()
    }

    /// What one inference takes, on the inputs of the last [`CudaContext::run`].
    ///
    /// # Errors
    ///
    /// If there is no memory; if the GPU fails.
    pub fn time_query(&mut self) -> Result<CudaQuery> {
        let device = self.engine.device.clone();
        let state = self.state()?;
        let events = [Event::new(&device)?, Event::new(&device)?, Event::new(&device)?, Event::new(&device)?];
        let start = Instant::now();
        let mut done = state.stream.record(&events[0]);
        for (host, device) in &state.inputs {
            // SAFETY: as in `run`; the wait follows in any case.
            done = done.and_then(|()| unsafe { state.stream.upload(host, device) });
        }
        done = done.and_then(|()| state.stream.record(&events[1]));
        // SAFETY: as above.
        done = done.and_then(|()| unsafe { state.stream.replay(&state.graph) });
        done = done.and_then(|()| state.stream.record(&events[2]));
        for (host, device) in &mut state.outputs {
            // SAFETY: as above.
            done = done.and_then(|()| unsafe { state.stream.download(device, host) });
        }
        done = done.and_then(|()| state.stream.record(&events[3]));
        let enqueue = start.elapsed().as_secs_f64();
        finish(state, done)?;
        let since = |index: usize| events[index + 1].since(&events[index]).map(|ms| f64::from(ms) / 1e3);
        Ok(CudaQuery { enqueue, upload: since(0)?, compute: since(1)?, download: since(2)? })
    }

    /// The time of each step in milliseconds: the mean over so many launches of the step in a row, the middle one of
    /// several such rows; zero for a step that is not launched.
    ///
    /// # Errors
    ///
    /// If there is no memory; if the GPU fails.
    pub fn time_steps(&mut self, launches: usize) -> Result<Vec<f32>> {
        let all: Vec<usize> = (0..self.engine.steps.len()).collect();
        self.time_some_steps(&all, launches)
    }

    /// [`CudaContext::time_steps`] of the steps at these positions; there is none for a position without a step.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn time_some_steps(&mut self, steps: &[usize], launches: usize) -> Result<Vec<f32>> {
        const ROWS: usize = 5;
        let engine = self.engine;
        let state = self.state()?;
        let (start, end) = (Event::new(&engine.device)?, Event::new(&engine.device)?);
        let steps = steps.iter().filter_map(|&index| engine.steps.get(index).zip(state.arguments.get(index)));
        steps
            .map(|(step, argument)| {
                if !step.is_launched {
                    return Ok(0.0);
                }
                let graph = state.stream.capture(|| {
                    for _ in 0..launches {
                        // SAFETY: as in `State::new`.
                        unsafe { state.stream.launch(step.function, &step.launch, argument, engine.hopper)? };
                    }
                    Ok(())
                })?;
                let mut times = Vec::with_capacity(ROWS);
                for _ in 0..ROWS {
                    state.stream.record(&start)?;
                    // SAFETY: as in `run`; the wait follows in any case.
                    let done =
                        unsafe { state.stream.replay(&graph) }.and_then(|()| state.stream.record(&end));
                    finish(state, done)?;
                    times.push(end.since(&start)? / launches as f32);
                }
                times.sort_by(f32::total_cmp);
                Ok(times[ROWS / 2])
            })
            .collect()
    }
}

/// Waits for the stream, so that nothing touches the state's memory any more, and gives the first error.
fn finish(state: &State, done: Result<()>) -> Result<()> {
    let waited = state.stream.wait();
    done.and(waited)
}

impl Drop for CudaContext<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            self.engine.pool.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        }
    }
}
