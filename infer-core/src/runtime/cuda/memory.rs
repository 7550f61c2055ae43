//! Inputs and outputs in the caller's own memory on the GPU, of cudarc's types.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use super::driver::{Device, Graph};
use super::{CudaEngine, arguments, launched};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Port;
use crate::runtime::Element;
use crate::tensor_type::DataType;

/// Inputs and outputs begin at multiples of this, as kernels expect it. Whole allocations do.
const ALIGNMENT: u64 = 64;

/// Memory of the caller.
struct Slice<'a> {
    address: u64,
    bytes: usize,
    dtype: DataType,
    stream: &'a Arc<CudaStream>,
    /// Tells cudarc, once dropped, that the memory was used.
    _used: SyncOnDrop<'a>,
}

impl Slice<'_> {
    fn check(&self, kind: &str, port: &Port, device: &Device) -> Result<()> {
        let wrong = |what: String| {
            Err(Error::new(ErrorKind::Configuration, format!("{kind} `{}`: {what}", port.name)))
        };
        if self.stream.context().cu_ctx() != device.context() {
            return wrong(format!("the memory is not on the GPU of the model, {}", device.name));
        }
        let needed = port.ty.dtype.storage();
        if self.dtype != needed {
            return wrong(format!("elements of {}, the model has {}", self.dtype, port.ty.dtype));
        }
        if self.bytes != port.ty.bytes() {
            let what = format!("{} bytes, the model has {} of {}", self.bytes, port.ty.bytes(), port.ty);
            return wrong(what);
        }
        if !self.address.is_multiple_of(ALIGNMENT) {
            return wrong(format!("the memory begins at no multiple of {ALIGNMENT} bytes"));
        }
        Ok(())
    }
}

impl fmt::Debug for Slice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slice { address, bytes, dtype, .. } = self;
        write!(f, "{bytes} bytes of {dtype} at {address:#x}")
    }
}

/// An input that lies on the GPU: a `CudaSlice`, or a view of one.
#[derive(Debug)]
pub struct DeviceInput<'a>(Slice<'a>);

impl<'a> DeviceInput<'a> {
    /// The elements of `slice`, row-major, once what is queued for it has been done.
    pub fn new<T: Element, S: DevicePtr<T>>(slice: &'a S) -> Self {
        let stream = slice.stream();
        let bytes = slice.num_bytes();
        let (address, used) = slice.device_ptr(stream);
        DeviceInput(Slice { address, bytes, dtype: T::DTYPE, stream, _used: used })
    }
}

/// A place on the GPU for an output: a `CudaSlice`, or a view of one.
#[derive(Debug)]
pub struct DeviceOutput<'a>(Slice<'a>);

impl<'a> DeviceOutput<'a> {
    /// The place `slice`, on whose stream `stream` it is used.
    pub fn new<T: Element, S: DevicePtrMut<T>>(slice: &'a mut S, stream: &'a Arc<CudaStream>) -> Self {
        let bytes = slice.num_bytes();
        let (address, used) = slice.device_ptr_mut(stream);
        DeviceOutput(Slice { address, bytes, dtype: T::DTYPE, stream, _used: used })
    }
}

/// All launches of an inference on memory of the caller.
#[derive(Debug)]
pub(super) struct Elsewhere {
    /// The addresses of the inputs, then of the outputs.
    pub addresses: Vec<u64>,
    pub graph: Graph,
}

/// So many of them are kept, those that were used last.
pub(super) const KEPT: usize = 8;

/// Checks inputs and outputs; gives their addresses and the streams on which they are used.
pub(super) fn checked<'a>(
    engine: &CudaEngine,
    inputs: &'a [DeviceInput<'_>],
    outputs: &'a [DeviceOutput<'_>],
) -> Result<(Vec<u64>, Vec<&'a Arc<CudaStream>>)> {
    let inputs = inputs.iter().map(|DeviceInput(slice)| ("input", slice));
    let outputs = outputs.iter().map(|DeviceOutput(slice)| ("output", slice));
    let (mut addresses, mut streams): (Vec<u64>, Vec<&Arc<CudaStream>>) = (Vec::new(), Vec::new());
    for ((kind, slice), port) in inputs.chain(outputs).zip(engine.inputs.iter().chain(&engine.outputs)) {
        slice.check(kind, port, &engine.device)?;
        addresses.push(slice.address);
        if !streams.iter().any(|known| known.cu_stream() == slice.stream.cu_stream()) {
            streams.push(slice.stream);
        }
    }
    Ok((addresses, streams))
}

impl super::State {
    /// The launches on inputs and outputs at these addresses, recorded where they are not yet known: afterwards the last.
    ///
    /// The addresses were checked against the engine's inputs and outputs.
    pub(super) fn record_elsewhere(&mut self, engine: &CudaEngine, addresses: Vec<u64>) -> Result<()> {
        if let Some(index) = self.elsewhere.iter().position(|known| known.addresses == addresses) {
            let known = self.elsewhere.remove(index);
            self.elsewhere.push(known);
            return Ok(());
        }
        let (inputs, outputs) = addresses.split_at(engine.inputs.len());
        let arguments = arguments(engine, &self.arena, &self.counters, inputs, outputs)?;
        let graph = self.stream.capture(|| {
            for (step, argument) in launched(engine, &arguments) {
                // SAFETY: as in `State::new`; of inputs and outputs the caller answers for, while the graph runs.
                unsafe { self.stream.launch(step.function, &step.launch, argument, engine.hopper)? };
            }
            Ok(())
        })?;
        if self.elsewhere.len() >= KEPT {
            self.elsewhere.remove(0);
        }
        self.elsewhere.push(Elsewhere { addresses, graph });
        Ok(())
    }
}
