//! The CUDA driver: opened at run time, its objects owned, its failures as errors.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{self, CUresult};
use infer_kernels::cuda::{CudaKernel, Launch};

use crate::error::{Error, ErrorKind, Result};

/// The oldest driver interface that the compiled kernels load on: CUDA 13.0, driver 580.
const DRIVER_VERSION: i32 = 13_000;

/// The oldest architecture with the instructions that the kernels use.
const ARCHITECTURE: (i32, i32) = (8, 0);

/// What a call of the driver gave, as an error that says `what` was tried.
pub(super) fn check(result: CUresult, what: &str) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let kind = match result {
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => ErrorKind::NoDevice,
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::Memory,
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_INVALID_PTX => ErrorKind::Architecture,
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            ErrorKind::Driver
        }
        _ => ErrorKind::Device,
    };
    Err(Error::new(kind, format!("{what}: the CUDA driver says {}", name(result))))
}

fn name(result: CUresult) -> String {
    let mut text = ptr::null();
    // SAFETY: `text` is a place for the address of a static string, which the call sets where it succeeds.
    let known = unsafe { sys::cuGetErrorName(result, &raw mut text) } == CUresult::CUDA_SUCCESS;
    if !known || text.is_null() {
        return format!("error {}", result as u32);
    }
    // SAFETY: the driver set it to a string that ends in zero and stays.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Opens the driver, once a process.
fn open() -> Result<()> {
    static OPENED: OnceLock<Result<()>> = OnceLock::new();
    OPENED
        .get_or_init(|| {
            // SAFETY: opens the library and closes it again.
            if !unsafe { sys::is_culib_present() } {
                let what = "there is no CUDA driver: the library libcuda.so.1 is not found";
                return Err(Error::new(ErrorKind::NoDriver, what));
            }
            let mut version = 0;
            // SAFETY: a place for the version; the call needs no initialised driver.
            check(unsafe { sys::cuDriverGetVersion(&raw mut version) }, "asking for the driver's version")?;
            if version < DRIVER_VERSION {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                let what = format!(
                    "the NVIDIA driver supports CUDA {major}.{minor}; CUDA 13.0 is needed, driver 580 or later"
                );
                return Err(Error::new(ErrorKind::Driver, what));
            }
            // SAFETY: takes no memory of ours.
            check(unsafe { sys::cuInit(0) }, "starting the CUDA driver")
        })
        .clone()
}

/// How many GPUs the driver reports.
pub(super) fn device_count() -> Result<usize> {
    open()?;
    let mut count = 0;
    // SAFETY: a place for the number.
    check(unsafe { sys::cuDeviceGetCount(&raw mut count) }, "counting GPUs")?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// A GPU with its primary context.
#[derive(Debug)]
pub(super) struct Device {
    handle: sys::CUdevice,
    context: sys::CUcontext,
    pub name: String,
    pub architecture: (i32, i32),
    pub multiprocessors: i32,
}

// SAFETY: the handles name objects of the driver, which any thread may use.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// GPU `ordinal` as the driver counts them.
    pub fn open(ordinal: usize) -> Result<Arc<Device>> {
        let count = device_count()?;
        if ordinal >= count {
            let what = match count {
                0 => "there is no GPU".to_owned(),
                _ => format!("there is no GPU {ordinal}; there are {count}, counted from 0"),
            };
            return Err(Error::new(ErrorKind::NoDevice, what));
        }
        let mut handle = 0;
        // SAFETY: a place for the handle.
        check(unsafe { sys::cuDeviceGet(&raw mut handle, ordinal as i32) }, "opening the GPU")?;
        let attribute = |attribute| -> Result<i32> {
            let mut value = 0;
            // SAFETY: a place for the value, and a device that is there.
            let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, handle) };
            check(result, "asking for the GPU's properties")?;
            Ok(value)
        };
        use sys::CUdevice_attribute as A;
        let architecture = (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let mut text = [0u8; 256];
        // SAFETY: a place for a string of so many bytes.
        let result = unsafe { sys::cuDeviceGetName(text.as_mut_ptr().cast(), text.len() as i32, handle) };
        check(result, "asking for the GPU's name")?;
        let name = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned();
        if architecture < ARCHITECTURE {
            let (major, minor) = architecture;
            let what =
                format!("GPU {ordinal} ({name}) is of architecture {major}.{minor}; 8.0 is needed at least");
            return Err(Error::new(ErrorKind::Architecture, what));
        }
        let mut context = ptr::null_mut();
        // SAFETY: a place for the handle; `Drop` gives the context back.
        let result = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, handle) };
        check(result, "opening the GPU's context")?;
        Ok(Arc::new(Device { handle, context, name, architecture, multiprocessors }))
    }

    /// The driver's handle of the context.
    pub fn context(&self) -> sys::CUcontext {
        self.context
    }

    /// Makes the context that of the calling thread.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "entering the GPU's context")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained by `open`, once.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
    }
}

/// Waits for what calls without a stream have begun: they return before it is done, and streams do not wait for it.
fn settle() -> Result<()> {
    // SAFETY: the stream of calls without one.
    check(unsafe { sys::cuStreamSynchronize(ptr::null_mut()) }, "preparing memory of the GPU")
}

/// Memory of a GPU.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    device: Arc<Device>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceMemory {
    /// So many bytes, set to `fill`. The message of a refusal says how much was asked and how much is free.
    pub fn filled(device: &Arc<Device>, bytes: usize, fill: u8) -> Result<Self> {
        device.bind()?;
        let mut address = 0;
        // SAFETY: a place for the address.
        let result = unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes.max(1)) };
        if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let (mut free, mut total) = (0, 0);
            // SAFETY: places for both numbers.
            let _ = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
            let what = format!("{} has no {bytes} bytes of memory: {free} of {total} are free", device.name);
            return Err(Error::new(ErrorKind::Memory, what));
        }
        check(result, "allocating memory of the GPU")?;
        let memory = DeviceMemory { device: device.clone(), address, bytes };
        // SAFETY: the memory was just allocated with at least so many bytes.
        check(unsafe { sys::cuMemsetD8_v2(address, fill, bytes) }, "clearing memory of the GPU")?;
        settle()?;
        Ok(memory)
    }

    /// A copy of `data`.
    pub fn copy_of(device: &Arc<Device>, data: &[u8]) -> Result<Self> {
        let memory = Self::filled(device, data.len(), 0)?;
        // SAFETY: both sides have so many bytes; the call returns when those of the host have been read.
        let result = unsafe { sys::cuMemcpyHtoD_v2(memory.address, data.as_ptr().cast(), data.len()) };
        check(result, "copying to the GPU")?;
        settle()?;
        Ok(memory)
    }

    /// Zeros from `offset` on.
    pub fn clear(&self, offset: usize) -> Result<()> {
        self.device.bind()?;
        let offset = offset.min(self.bytes);
        // SAFETY: inside the memory, which nothing uses: whoever launched work on it has waited for its end.
        let result = unsafe { sys::cuMemsetD8_v2(self.address + offset as u64, 0, self.bytes - offset) };
        check(result, "clearing memory of the GPU")?;
        settle()
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: allocated by `filled`; whoever launched work on it has waited for its end.
            let _ = unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// Memory of the host that the GPU copies from and to at full speed.
#[derive(Debug)]
pub(super) struct HostMemory {
    device: Arc<Device>,
    start: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, as a `Box<[u8]>` does.
unsafe impl Send for HostMemory {}
// SAFETY: through a shared reference its bytes are only read.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// So many zeros.
    pub fn zeroed(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        device.bind()?;
        let mut start = ptr::null_mut();
        // SAFETY: a place for the address.
        let result = unsafe { sys::cuMemAllocHost_v2(&raw mut start, bytes.max(1)) };
        check(result, &format!("allocating {bytes} bytes for copies to the GPU"))?;
        let memory = HostMemory { device: device.clone(), start: start.cast(), bytes };
        // SAFETY: the memory was just allocated with at least so many bytes.
        unsafe { ptr::write_bytes(memory.start, 0, bytes) };
        Ok(memory)
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: so many bytes, initialised; the GPU writes them only while `Stream::wait` has yet to be called by
        // who owns the memory.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: allocated by `zeroed`; copies from and to it have been waited for.
            let _ = unsafe { sys::cuMemFreeHost(self.start.cast()) };
        }
    }
}

/// Compiled kernels on a GPU.
#[derive(Debug)]
pub(super) struct LoadedModule {
    device: Arc<Device>,
    handle: sys::CUmodule,
}

/// A kernel on a GPU; its module must outlive it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    handle: sys::CUfunction,
    /// Whether it was compiled for architecture 9.0 or later. That of a GPU does not tell: where there is no machine
    /// code for it, the driver compiles the PTX for 8.0.
    pub hopper: bool,
}

// SAFETY: the handles name objects of the driver, which any thread may use.
unsafe impl Send for LoadedModule {}
// SAFETY: as above.
unsafe impl Sync for LoadedModule {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl LoadedModule {
    /// Loads a file of compiled kernels.
    pub fn load(device: &Arc<Device>, module: &infer_kernels::cuda::Module) -> Result<Self> {
        device.bind()?;
        let mut handle = ptr::null_mut();
        // SAFETY: a place for the handle, and an image as nvcc wrote it, which says itself how long it is.
        let result = unsafe { sys::cuModuleLoadData(&raw mut handle, module.image.as_ptr().cast()) };
        check(result, &format!("loading the kernels `{}` on {}", module.name, device.name))?;
        Ok(LoadedModule { device: device.clone(), handle })
    }

    /// The function of a kernel.
    pub fn function(&self, kernel: &CudaKernel) -> Result<Function> {
        let what = || format!("finding the kernel `{}`", kernel.symbol());
        let symbol = CString::new(kernel.symbol()).map_err(|_| Error::new(ErrorKind::Plan, what()))?;
        let mut function = ptr::null_mut();
        // SAFETY: a place for the handle, a module that is loaded, and a name that ends in zero.
        check(unsafe { sys::cuModuleGetFunction(&raw mut function, self.handle, symbol.as_ptr()) }, &what())?;
        let mut version = 0;
        use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION as VERSION;
        // SAFETY: a place for the number, and a function that was just found.
        check(unsafe { sys::cuFuncGetAttribute(&raw mut version, VERSION, function) }, &what())?;
        let shared_bytes = kernel.most_shared_bytes;
        if shared_bytes > 0 {
            use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
            // SAFETY: a function that was just found.
            let result = unsafe { sys::cuFuncSetAttribute(function, LIMIT, shared_bytes as i32) };
            if result == CUresult::CUDA_ERROR_INVALID_VALUE {
                let what =
                    format!("{} has no {shared_bytes} bytes of shared memory a block", self.device.name);
                return Err(Error::new(ErrorKind::Architecture, what));
            }
            check(result, &what())?;
        }
        Ok(Function { handle: function, hopper: version >= 90 })
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: loaded by `load`; its kernels are done, as their streams have been waited for.
            let _ = unsafe { sys::cuModuleUnload(self.handle) };
        }
    }
}

/// Work that runs in order.
#[derive(Debug)]
pub(super) struct Stream {
    device: Arc<Device>,
    handle: sys::CUstream,
}

// SAFETY: the handle names an object of the driver, which any thread may use.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        device.bind()?;
        let mut handle = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for the handle.
        check(unsafe { sys::cuStreamCreate(&raw mut handle, flags) }, "making a stream")?;
        Ok(Stream { device: device.clone(), handle })
    }

    /// Waits until everything is done.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: a stream that is there.
        check(unsafe { sys::cuStreamSynchronize(self.handle) }, "computing on the GPU")
    }

    /// Copies all of `from` to the GPU.
    ///
    /// # Safety
    ///
    /// Both live, and nobody writes `from`, until [`Stream::wait`] returns.
    pub unsafe fn upload(&self, from: &HostMemory, to: &DeviceMemory) -> Result<()> {
        // SAFETY: the caller answers for it.
        unsafe { self.upload_first(from, from.bytes, to) }
    }

    /// Copies the first `bytes` of `from` to the GPU.
    ///
    /// # Safety
    ///
    /// As for [`Stream::upload`].
    pub unsafe fn upload_first(&self, from: &HostMemory, bytes: usize, to: &DeviceMemory) -> Result<()> {
        let bytes = bytes.min(from.bytes).min(to.bytes);
        // SAFETY: both sides have so many bytes, and the caller answers for their lives.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address, from.start.cast(), bytes, self.handle) };
        check(result, "copying to the GPU")
    }

    /// Copies `from` to where `to` has it from `offset` on, as far as it has room.
    ///
    /// # Safety
    ///
    /// As for [`Stream::upload`].
    pub unsafe fn upload_to(&self, from: &[u8], to: &DeviceMemory, offset: usize) -> Result<()> {
        let offset = offset.min(to.bytes);
        let (bytes, address) = (from.len().min(to.bytes - offset), to.address + offset as u64);
        // SAFETY: both sides have so many bytes, and the caller answers for their lives.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(address, from.as_ptr().cast(), bytes, self.handle) };
        check(result, "copying to the GPU")
    }

    /// Copies all of `from` to the host.
    ///
    /// # Safety
    ///
    /// Both live, and nobody touches `to`, until [`Stream::wait`] returns.
    pub unsafe fn download(&self, from: &DeviceMemory, to: &mut HostMemory) -> Result<()> {
        // SAFETY: the caller answers for it.
        unsafe { self.download_from(from, 0, to) }
    }

    /// Copies what `from` has from `offset` on, as far as `to` has room.
    ///
    /// # Safety
    ///
    /// As for [`Stream::download`].
    pub unsafe fn download_from(
        &self,
        from: &DeviceMemory,
        offset: usize,
        to: &mut HostMemory,
    ) -> Result<()> {
        let offset = offset.min(from.bytes);
        let bytes = (from.bytes - offset).min(to.bytes);
        let address = from.address + offset as u64;
        // SAFETY: both sides have so many bytes, and the caller answers for their lives.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to.start.cast(), address, bytes, self.handle) };
        check(result, "copying from the GPU")
    }

    /// Copies so many bytes to where they lie in `from`, as far as both have them.
    ///
    /// # Safety
    ///
    /// As for [`Stream::download`].
    #[cfg(feature = "dynamic")]
    pub unsafe fn download_range(
        &self,
        from: &DeviceMemory,
        offset: usize,
        bytes: usize,
        to: &mut HostMemory,
    ) -> Result<()> {
        let offset = offset.min(from.bytes).min(to.bytes);
        let bytes = bytes.min(from.bytes - offset).min(to.bytes - offset);
        let (start, address) = (to.start.wrapping_add(offset), from.address + offset as u64);
        // SAFETY: both sides have so many bytes from there on, and the caller answers for their lives.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(start.cast(), address, bytes, self.handle) };
        check(result, "copying from the GPU")
    }

    /// Launches a kernel with one argument, the structure `argument`. `hopper`: the GPU has clusters, and lets the
    /// kernel begin while the launch before it is still running, for which it waits itself.
    ///
    /// # Safety
    ///
    /// The argument is the kernel's, and the memory it names lives until [`Stream::wait`] returns.
    pub unsafe fn launch(
        &self,
        function: Function,
        launch: &Launch,
        argument: &[u64],
        hopper: bool,
    ) -> Result<()> {
        let attribute = |id| sys::CUlaunchAttribute {
            id,
            pad: [0; 4],
            // SAFETY: a union of integers and structures of integers, for which zeros are a value.
            value: unsafe { std::mem::zeroed() },
        };
        use sys::CUlaunchAttributeID as Id;
        let mut attributes = [
            attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION),
            attribute(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION),
        ];
        attributes[0].value.programmaticStreamSerializationAllowed = 1;
        attributes[1].value.clusterDim.x = 1;
        attributes[1].value.clusterDim.y = launch.cluster;
        attributes[1].value.clusterDim.z = 1;
        let count = match (hopper, launch.cluster) {
            (false, _) => 0,
            (true, ..=1) => 1,
            (true, _) => 2,
        };
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: 1,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.handle,
            attrs: attributes.as_mut_ptr(),
            numAttrs: count,
        };
        let mut arguments = [argument.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the driver copies the argument, as long as the kernel says that it is, before the call returns; the
        // caller answers for what it holds.
        check(
            unsafe {
                sys::cuLaunchKernelEx(
                    &raw const config,
                    function.handle,
                    arguments.as_mut_ptr(),
                    ptr::null_mut(),
                )
            },
            "launching a kernel",
        )
    }

    /// Records what `work` puts on the stream instead of running it.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream that is there.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.handle, mode) }, "recording a graph")?;
        let done = work();
        let mut graph = ptr::null_mut();
        // SAFETY: a place for the handle; recording ends whether or not the work succeeded.
        let ended = unsafe { sys::cuStreamEndCapture(self.handle, &raw mut graph) };
        done?;
        check(ended, "recording a graph")?;
        let mut handle = ptr::null_mut();
        // SAFETY: a place for the handle, and a graph that was just recorded.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut handle, graph, 0) };
        // SAFETY: recorded above; what was instantiated does not need it.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
        check(made, "preparing a graph")?;
        Ok(Graph { device: self.device.clone(), handle })
    }

    /// Runs a graph.
    ///
    /// # Safety
    ///
    /// The memory that it names lives until [`Stream::wait`] returns.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: both are there; the caller answers for the memory.
        check(unsafe { sys::cuGraphLaunch(graph.handle, self.handle) }, "launching a graph")
    }

    /// Has what comes next wait for all that another stream has been given so far, by way of `event`.
    ///
    /// # Safety
    ///
    /// `other` is a stream of the same context.
    pub unsafe fn follow(&self, other: sys::CUstream, event: &Event) -> Result<()> {
        // SAFETY: the event is there, and the caller answers for the stream.
        check(unsafe { sys::cuEventRecord(event.handle, other) }, "recording an event")?;
        // SAFETY: both are there.
        check(unsafe { sys::cuStreamWaitEvent(self.handle, event.handle, 0) }, "waiting for a stream")
    }

    /// Marks the place that the work has come to.
    pub fn record(&self, event: &Event) -> Result<()> {
        // SAFETY: both are there.
        check(unsafe { sys::cuEventRecord(event.handle, self.handle) }, "recording an event")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made by `new`; the driver frees it when its work is done.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
        }
    }
}

/// Recorded launches.
#[derive(Debug)]
pub(super) struct Graph {
    device: Arc<Device>,
    handle: sys::CUgraphExec,
}

// SAFETY: the handle names an object of the driver, which one thread at a time may use: it is used through a context
// that is borrowed exclusively.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made by `capture`; the driver frees it when its work is done.
            let _ = unsafe { sys::cuGraphExecDestroy(self.handle) };
        }
    }
}

/// A point in time of a stream's work.
#[derive(Debug)]
pub(super) struct Event {
    device: Arc<Device>,
    handle: sys::CUevent,
}

impl Event {
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        device.bind()?;
        let mut handle = ptr::null_mut();
        // SAFETY: a place for the handle.
        check(unsafe { sys::cuEventCreate(&raw mut handle, 0) }, "making an event")?;
        Ok(Event { device: device.clone(), handle })
    }

    /// Milliseconds since `start`, both reached.
    pub fn since(&self, start: &Event) -> Result<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: a place for the number, and events that are there.
        let result = unsafe { sys::cuEventElapsedTime_v2(&raw mut milliseconds, start.handle, self.handle) };
        check(result, "reading a time")?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made by `new`.
            let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
        }
    }
}
