//! Kernel calls as they come: those of a node whose shapes or values only the run knows, on a GPU.
//!
//! Each call is run by its twin there. What the calls read goes to the GPU before them, what the node writes comes back
//! after them, in one copy each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use infer_kernels::Call;
use infer_kernels::cuda::plain::{Twin, twin};
use infer_kernels::cuda::{self, COUNTERS, CudaKernel, Module};
use infer_kernels::work::Work;

use super::driver::{Device, DeviceMemory, Function, HostMemory, LoadedModule, Stream};
use super::{FAILURE, expect_no_failure};
use crate::calls::{BufferKind, Calls, KernelCall, Span};
use crate::error::Result;
use crate::plan::{ALIGNMENT, AlignedBytes};

/// Calls have to do as much work again as the least for each so many bytes that they copy.
const COPIED_BYTES: u64 = 512;

/// Whether so much work is worth copying so many bytes to and from a GPU.
pub(crate) fn is_worth(work: u64, copied_bytes: u64, least_work: u64) -> bool {
    let most = u128::from(least_work) * (u128::from(COPIED_BYTES) + u128::from(copied_bytes));
    u128::from(work) > most / u128::from(COPIED_BYTES)
}

/// A GPU that runs calls. Any number of threads may share it.
#[derive(Debug)]
pub struct CudaCalls {
    /// What runs left behind, for the next ones; before what their work uses, so that it is dropped first.
    lanes: Mutex<Vec<Lane>>,
    code: Mutex<Code>,
    /// The modules that the program has.
    linked: Vec<&'static Module>,
    least_work: u64,
    /// How many nodes ran on the GPU.
    nodes: AtomicU64,
    device: Arc<Device>,
}

/// The kernels that calls have asked for, by their names, and the modules that have them.
#[derive(Debug, Default)]
struct Code {
    functions: HashMap<&'static str, Function>,
    modules: HashMap<&'static str, LoadedModule>,
}

/// Memory, and a stream, for the calls of one node at a time.
#[derive(Debug)]
struct Lane {
    stream: Stream,
    host: HostMemory,
    device: DeviceMemory,
    counters: DeviceMemory,
    /// A copy of the counter that says that a value cannot be computed with.
    failure: HostMemory,
}

/// A call's twin, checked.
struct Step {
    kernel: &'static CudaKernel,
    module: &'static Module,
    params: Vec<u64>,
    param_bytes: usize,
}

/// Where the buffers of some calls lie in one block of memory, on both sides alike: first what the calls read and the
/// host knows, then what they write.
struct Layout {
    offsets: Vec<Option<usize>>,
    known_bytes: usize,
    bytes: usize,
}

impl CudaCalls {
    /// GPU `device` as the driver counts them, for nodes of more than `least_work` (see `Options::least_gpu_work`), with the
    /// kernels of the modules `linked`, which are loaded when a call needs them.
    ///
    /// # Errors
    ///
    /// If there is no such GPU.
    pub(crate) fn open(device: usize, linked: &[&'static Module], least_work: u64) -> Result<Self> {
        Ok(CudaCalls {
            lanes: Mutex::default(),
            code: Mutex::default(),
            linked: linked.to_vec(),
            least_work,
            nodes: AtomicU64::new(0),
            device: Device::open(device)?,
        })
    }

    /// How many nodes ran on the GPU so far.
    pub(crate) fn nodes(&self) -> u64 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// Runs the calls of a node, and gives the bytes of `outputs`; `None` where one has no kernel, or where all are too
    /// little work.
    ///
    /// # Errors
    ///
    /// If a value cannot be computed with; if there is no memory; if the GPU fails.
    pub(crate) fn run(&self, calls: &Calls, outputs: &[Span]) -> Result<Option<Vec<AlignedBytes>>> {
        let Some(steps) = calls.calls.iter().map(|call| self.step(call)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let Some(layout) = Layout::of(calls) else { return Ok(None) };
        let written: u64 = outputs.iter().map(|span| span.bytes).sum();
        let is_worth = is_worth(work(calls), layout.known_bytes as u64 + written, self.least_work);
        if !calls.prepare.is_empty() || steps.iter().flatten().next().is_none() || !is_worth {
            return Ok(None);
        }

        let functions = self.functions(&steps)?;
        self.device.bind()?;
        let left = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut lane = match left.filter(|lane| lane.device.bytes() >= layout.bytes) {
            Some(lane) => lane,
            None => Lane::new(&self.device, layout.bytes)?,
        };
        let done = lane.run(calls, &steps, &functions, &layout, outputs);
        // Nothing touches the memory any more, whether or not it went well.
        let waited = lane.stream.wait();
        done.and(waited)?;
        let failed = expect_no_failure(&lane.failure, &lane.counters);
        let bytes = outputs.iter().map(|span| {
            let first = layout.offsets[span.buffer.0 as usize].unwrap_or(0) + span.offset_bytes as usize;
            AlignedBytes::copy_of(&lane.host.as_slice()[first..first + span.bytes as usize])
        });
        let bytes = bytes.collect::<Result<_>>()?;
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        failed?;
        self.nodes.fetch_add(1, Ordering::Relaxed);
        Ok(Some(bytes))
    }

    /// The twin of a call: `Some(None)` where there is nothing to compute, `None` where there is no kernel.
    fn step(&self, call: &KernelCall) -> Option<Option<Step>> {
        let (name, params) = match twin(&call.kernel, &call.params)? {
            Twin::Nothing => return Some(None),
            Twin::Call { kernel, params } => (kernel, params),
        };
        let kernel = cuda::find(name)?;
        let module = *self.linked.iter().find(|module| module.name == kernel.module)?;
        let mut words = vec![0u64; params.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..params.len()].copy_from_slice(&params);
        let operand_bytes: Vec<u64> =
            call.operands.iter().map(|span| span.map_or(0, |span| span.bytes)).collect();
        let step = Step { kernel, module, param_bytes: params.len(), params: words };
        let is_valid =
            (kernel.validate)(&Call { params: step.params(), operand_bytes: &operand_bytes }).is_ok();
        (is_valid && !overlaps(call)).then_some(Some(step))
    }

    /// The kernels of the steps, `None` where there is nothing to compute.
    fn functions(&self, steps: &[Option<Step>]) -> Result<Vec<Option<Function>>> {
        let mut code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        let Code { functions, modules } = &mut *code;
        let mut function = |step: &Step| {
            let (kernel, module) = (step.kernel, step.module);
            if let Some(function) = functions.get(kernel.name) {
                return Ok(*function);
            }
            let loaded = match modules.entry(module.name) {
                Entry::Occupied(loaded) => loaded.into_mut(),
                Entry::Vacant(place) => place.insert(LoadedModule::load(&self.device, module)?),
            };
            let function = loaded.function(kernel)?;
            functions.insert(kernel.name, function);
            Ok(function)
        };
        steps.iter().map(|step| step.as_ref().map(&mut function).transpose()).collect()
    }
}

impl Step {
    fn params(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.params)[..self.param_bytes]
    }
}

/// Whether a call reads what it writes.
fn overlaps(call: &KernelCall) -> bool {
    let (inputs, outputs) = call.operands.split_at(call.operands.len().saturating_sub(call.outputs));
    let end = |span: &Span| span.offset_bytes.saturating_add(span.bytes);
    outputs.iter().flatten().any(|output| {
        inputs.iter().flatten().any(|input| {
            input.buffer == output.buffer
                && input.offset_bytes < end(output)
                && output.offset_bytes < end(input)
        })
    })
}

/// Floating-point operations, and elements of four bytes that are read or written.
fn work(calls: &Calls) -> u64 {
    let of = |call: &KernelCall| {
        let bytes: u64 = call.operands.iter().flatten().map(|span| span.bytes).sum();
        Work::of(&call.kernel, &call.params).flops.saturating_add(bytes / 4)
    };
    calls.calls.iter().map(of).fold(0, u64::saturating_add)
}

impl Layout {
    /// `None` where they are too large to count, or a call goes beyond its buffers.
    fn of(calls: &Calls) -> Option<Self> {
        let mut is_used = vec![false; calls.buffers.len()];
        for span in calls.calls.iter().flat_map(|call| call.operands.iter().flatten()) {
            let buffer = calls.buffers.get(span.buffer.0 as usize)?;
            span.offset_bytes.checked_add(span.bytes).filter(|&end| end <= buffer.bytes)?;
            is_used[span.buffer.0 as usize] = true;
        }
        let mut layout = Layout { offsets: vec![None; calls.buffers.len()], known_bytes: 0, bytes: 0 };
        for are_known in [true, false] {
            for (index, buffer) in calls.buffers.iter().enumerate() {
                if matches!(buffer.kind, BufferKind::Constant(_)) == are_known && is_used[index] {
                    layout.offsets[index] = Some(layout.bytes);
                    let end = layout.bytes.checked_add(usize::try_from(buffer.bytes).ok()?)?;
                    layout.bytes = end.checked_next_multiple_of(ALIGNMENT)?;
                }
            }
            if are_known {
                layout.known_bytes = layout.bytes;
            }
        }
        Some(layout)
    }
}

impl Lane {
    /// Memory for so many bytes, and some more for larger nodes that come after.
    fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        let bytes = bytes.checked_next_power_of_two().unwrap_or(bytes);
        Ok(Lane {
            stream: Stream::new(device)?,
            host: HostMemory::zeroed(device, bytes)?,
            device: DeviceMemory::filled(device, bytes, 0xFF)?,
            counters: DeviceMemory::filled(device, (COUNTERS + 1) * size_of::<u32>(), 0)?,
            failure: HostMemory::zeroed(device, size_of::<u32>())?,
        })
    }

    /// Queues copies and launches; the caller waits.
    fn run(
        &mut self,
        calls: &Calls,
        steps: &[Option<Step>],
        functions: &[Option<Function>],
        layout: &Layout,
        outputs: &[Span],
    ) -> Result<()> {
        for (buffer, offset) in calls.buffers.iter().zip(&layout.offsets) {
            if let (BufferKind::Constant(data), Some(first)) = (&buffer.kind, *offset) {
                self.host.as_mut_slice()[first..first + data.len()].copy_from_slice(data);
            }
        }
        // SAFETY: the lane owns both sides, which nobody else touches until the caller has waited.
        unsafe { self.stream.upload_first(&self.host, layout.known_bytes, &self.device)? };
        for ((call, step), function) in calls.calls.iter().zip(steps).zip(functions) {
            let (Some(step), Some(function)) = (step, *function) else { continue };
            let addresses = call.operands.iter().map(|span| {
                let place = |span: &Span| {
                    let first = layout.offsets[span.buffer.0 as usize].unwrap_or(0);
                    self.device.address() + first as u64 + span.offset_bytes
                };
                span.as_ref().map_or(0, place)
            });
            let argument: Vec<u64> =
                addresses.chain([self.counters.address()]).chain(step.params.iter().copied()).collect();
            let launch = (step.kernel.launch)(step.params());
            // SAFETY: `CudaCalls::step` had the kernel validate the call with the sizes of its operands, each of which lies
            // in a buffer of its own in the lane's memory; the caller waits before anybody else uses it.
            unsafe { self.stream.launch(function, &launch, &argument, false)? };
        }
        for span in outputs {
            let first = layout.offsets[span.buffer.0 as usize].unwrap_or(0) + span.offset_bytes as usize;
            // SAFETY: as for the copy to the GPU.
            unsafe { self.stream.download_range(&self.device, first, span.bytes as usize, &mut self.host)? };
        }
        // SAFETY: as above.
        unsafe { self.stream.download_from(&self.counters, FAILURE, &mut self.failure) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use infer_kernels::call::Elementwise;

    use super::*;

    /// `sum = data + data`, of so many elements.
    fn addition(elements: usize) -> Calls {
        let mut calls = Calls::default();
        let bytes = elements as u64 * 4;
        let data = calls.add_buffer(BufferKind::Constant(Bytes::from(vec![0; bytes as usize])), bytes);
        calls.add_buffer(BufferKind::Constant(Bytes::from_static(b"unused")), 6);
        let sum = calls.add_buffer(BufferKind::Arena, bytes);
        let strides: [(&[i64], u64); 3] = [(&[1], 0), (&[1], 0), (&[1], 0)];
        let params = Elementwise::new(&[elements], &strides).unwrap();
        calls.calls.push(KernelCall {
            kernel: "add_f32".to_owned(),
            params: bytemuck::bytes_of(&params).to_vec(),
            operands: [data, data, sum].map(|buffer| Some(calls.whole(buffer))).to_vec(),
            outputs: 1,
            node: "sum".to_owned(),
        });
        calls
    }

    #[test]
    fn what_the_host_knows_comes_first() {
        let layout = Layout::of(&addition(20)).unwrap();
        assert_eq!(layout.offsets, [Some(0), None, Some(128)]);
        assert_eq!((layout.known_bytes, layout.bytes), (128, 256));
        let mut beyond = addition(20);
        beyond.calls[0].operands[0].as_mut().unwrap().offset_bytes = 4;
        assert!(Layout::of(&beyond).is_none());
    }

    #[test]
    fn copies_are_weighed_against_work() {
        assert_eq!(work(&addition(100)), 300);
        assert!(is_worth(1, 1 << 40, 0) && !is_worth(0, 0, 0));
        assert!(is_worth(1001, 0, 1000) && !is_worth(1000, 0, 1000) && !is_worth(2000, COPIED_BYTES, 1000));
    }

    #[test]
    fn calls_in_place_are_refused() {
        let mut calls = addition(20);
        assert!(!overlaps(&calls.calls[0]));
        calls.calls[0].operands[2] = calls.calls[0].operands[1];
        assert!(overlaps(&calls.calls[0]));
    }
}
