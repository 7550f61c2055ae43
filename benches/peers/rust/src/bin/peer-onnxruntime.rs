//! ONNX Runtime through its C interface, opened at run time: `ORT_DYLIB_PATH` names the library.

use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use ort_sys::{
    GraphOptimizationLevel, ONNXTensorElementDataType, OrtAllocatorType, OrtApi, OrtApiBase, OrtLoggingLevel,
    OrtMemType, OrtMemoryInfo, OrtSession, OrtStatusPtr, OrtValue,
};
use peers::{Caller, Data, Engine, Result, Task, Tensor};

struct Library {
    api: &'static OrtApi,
    version: String,
}

/// The library, opened once.
fn library() -> Result<&'static Library> {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    if let Some(library) = LIBRARY.get() {
        return Ok(library);
    }
    let path = std::env::var_os("ORT_DYLIB_PATH").ok_or("ORT_DYLIB_PATH names no libonnxruntime.so")?;
    // SAFETY: opening ONNX Runtime runs its initialisers alone.
    let opened = Box::leak(Box::new(unsafe { libloading::Library::new(path)? }));
    // SAFETY: the type is the one that the C header declares, and the library is never closed.
    let (api, version) = unsafe {
        let base = opened.get::<unsafe extern "system" fn() -> *const OrtApiBase>(b"OrtGetApiBase")?;
        let base = &*base();
        ((base.GetApi)(ort_sys::ORT_API_VERSION), CStr::from_ptr((base.GetVersionString)()))
    };
    // SAFETY: null or a table that lives as long as the library.
    let api = unsafe { api.as_ref() }.ok_or("the library is older than its interface")?;
    Ok(LIBRARY.get_or_init(|| Library { api, version: version.to_string_lossy().into_owned() }))
}

fn check(api: &OrtApi, status: OrtStatusPtr) -> Result<()> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is not null holds a message.
    let message = unsafe { CStr::from_ptr((api.GetErrorMessage)(status.0)) };
    Err(message.to_string_lossy().into_owned().into())
}

struct OnnxRuntime {
    api: &'static OrtApi,
    session: *mut OrtSession,
    memory: *mut OrtMemoryInfo,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
}

// SAFETY: a session may be run by any number of threads; names and memory information are only read.
unsafe impl Sync for OnnxRuntime {}

impl Engine for OnnxRuntime {
    fn version() -> Result<String> {
        Ok(library()?.version.clone())
    }

    fn load(task: &Task) -> Result<Self> {
        let api = library()?.api;
        let path = CString::new(task.model.as_os_str().as_bytes())?;
        let (mut env, mut options, mut session) = (null_mut(), null_mut(), null_mut());
        let (mut memory, mut allocator) = (null_mut(), null_mut());
        let threads = i32::try_from(task.threads)?;
        // SAFETY: every pointer is what an earlier call made, or a place for what this one makes.
        unsafe {
            let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR;
            check(api, (api.CreateEnv)(level, c"peers".as_ptr(), &mut env))?;
            check(api, (api.CreateSessionOptions)(&mut options))?;
            check(api, (api.SetIntraOpNumThreads)(options, threads))?;
            check(api, (api.SetInterOpNumThreads)(options, 1))?;
            let level = GraphOptimizationLevel::ORT_ENABLE_ALL;
            check(api, (api.SetSessionGraphOptimizationLevel)(options, level))?;
            check(api, (api.CreateSession)(env, path.as_ptr(), options, &mut session))?;
            let kind = OrtAllocatorType::OrtDeviceAllocator;
            check(api, (api.CreateCpuMemoryInfo)(kind, OrtMemType::OrtMemTypeDefault, &mut memory))?;
            check(api, (api.GetAllocatorWithDefaultOptions)(&mut allocator))?;
            let (mut input_count, mut output_count) = (0, 0);
            check(api, (api.SessionGetInputCount)(session, &mut input_count))?;
            check(api, (api.SessionGetOutputCount)(session, &mut output_count))?;
            if input_count != task.inputs.len() {
                return Err(
                    format!("the model has {input_count} inputs, {} are given", task.inputs.len()).into()
                );
            }
            let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
            for index in 0..input_count {
                let mut name = null_mut();
                check(api, (api.SessionGetInputName)(session, index, allocator, &mut name))?;
                inputs.push(CStr::from_ptr(name).to_owned());
            }
            for index in 0..output_count {
                let mut name = null_mut();
                check(api, (api.SessionGetOutputName)(session, index, allocator, &mut name))?;
                outputs.push(CStr::from_ptr(name).to_owned());
            }
            Ok(OnnxRuntime { api, session, memory, inputs, outputs })
        }
    }

    fn caller<'e>(&'e self, inputs: &'e [Tensor]) -> Result<impl Caller + 'e> {
        let mut values = Vec::new();
        for tensor in inputs {
            use ONNXTensorElementDataType::{
                ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
            };
            let (data, bytes, element) = match &tensor.data {
                Data::F32(data) => {
                    (data.as_ptr().cast(), size_of_val(&**data), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
                }
                Data::I64(data) => {
                    (data.as_ptr().cast(), size_of_val(&**data), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
                }
            };
            let shape: Vec<i64> = tensor.shape.iter().map(|&extent| extent as i64).collect();
            let mut value = null_mut();
            // SAFETY: the elements outlive the caller, and nobody writes inputs, whatever the type of the pointer.
            let status = unsafe {
                let data: *const u8 = data;
                (self.api.CreateTensorWithDataAsOrtValue)(
                    self.memory,
                    data.cast_mut().cast(),
                    bytes,
                    shape.as_ptr(),
                    shape.len(),
                    element,
                    &mut value,
                )
            };
            check(self.api, status)?;
            values.push(value.cast_const());
        }
        Ok(Call {
            engine: self,
            input_names: self.inputs.iter().map(|name| name.as_ptr()).collect(),
            output_names: self.outputs.iter().map(|name| name.as_ptr()).collect(),
            inputs: values,
            outputs: vec![null_mut(); self.outputs.len()],
        })
    }
}

struct Call<'e> {
    engine: &'e OnnxRuntime,
    input_names: Vec<*const c_char>,
    output_names: Vec<*const c_char>,
    inputs: Vec<*const OrtValue>,
    /// Null before the first call, which makes them; later ones write into them.
    outputs: Vec<*mut OrtValue>,
}

impl Caller for Call<'_> {
    fn call(&mut self) -> Result<()> {
        let api = self.engine.api;
        // SAFETY: as many names as values, all of which live as long as the caller.
        let status = unsafe {
            (api.Run)(
                self.engine.session,
                null(),
                self.input_names.as_ptr(),
                self.inputs.as_ptr(),
                self.inputs.len(),
                self.output_names.as_ptr(),
                self.outputs.len(),
                self.outputs.as_mut_ptr(),
            )
        };
        check(api, status)
    }

    fn outputs(&self) -> Result<Vec<Tensor>> {
        let api = self.engine.api;
        let tensor = |&value: &*mut OrtValue| {
            let (mut info, mut rank, mut data) = (null_mut(), 0, null_mut());
            let mut element = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
            // SAFETY: a call made the value, whose elements are as many as its shape says.
            unsafe {
                check(api, (api.GetTensorTypeAndShape)(value, &mut info))?;
                check(api, (api.GetTensorElementType)(info, &mut element))?;
                check(api, (api.GetDimensionsCount)(info, &mut rank))?;
                let mut shape = vec![0i64; rank];
                check(api, (api.GetDimensions)(info, shape.as_mut_ptr(), rank))?;
                check(api, (api.GetTensorMutableData)(value, &mut data))?;
                if element != ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT {
                    return Err("an output is not f32".into());
                }
                let shape: Vec<usize> = shape.iter().map(|&extent| extent as usize).collect();
                let data = std::slice::from_raw_parts(data.cast::<f32>(), shape.iter().product()).to_vec();
                Ok(Tensor { shape, data: Data::F32(data) })
            }
        };
        self.outputs.iter().map(tensor).collect()
    }
}

fn main() -> Result<()> {
    peers::run::<OnnxRuntime>()
}
