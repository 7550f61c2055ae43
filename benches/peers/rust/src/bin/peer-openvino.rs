//! OpenVINO through its C interface, opened at run time: `OPENVINO_DYLIB_PATH` names `libopenvino_c.so`.

use std::path::PathBuf;
use std::sync::Mutex;

use openvino::{
    CompiledModel, Core, DeviceType, Dimension, ElementType, InferRequest, PartialShape, RwPropertyKey, Shape,
};
use peers::{Caller, Data, Engine, Result, Task, Tensor};

struct OpenVino {
    model: Mutex<CompiledModel>,
    outputs: usize,
    // Dropped last.
    _core: Mutex<Core>,
}

fn core() -> Result<Core> {
    let path =
        std::env::var_os("OPENVINO_DYLIB_PATH").ok_or("OPENVINO_DYLIB_PATH names no libopenvino_c.so")?;
    openvino_sys::library::load_from(PathBuf::from(path))?;
    Ok(Core::new()?)
}

impl Engine for OpenVino {
    fn version() -> Result<String> {
        core()?;
        Ok(openvino::version().build_number.to_string())
    }

    fn load(task: &Task) -> Result<Self> {
        let mut core = core()?;
        let threads = task.threads.to_string();
        core.set_properties(
            &DeviceType::CPU,
            [
                (RwPropertyKey::InferenceNumThreads, threads.as_str()),
                (RwPropertyKey::HintInferencePrecision, "f32"),
                (RwPropertyKey::HintPerformanceMode, "LATENCY"),
                (RwPropertyKey::NumStreams, "1"),
            ],
        )?;
        let path = task.model.to_str().ok_or("the path is no UTF-8")?;
        let mut model = core.read_model_from_file(path, "")?;
        if model.is_dynamic() {
            let shapes: Vec<PartialShape> = task
                .inputs
                .iter()
                .map(|tensor| {
                    let dimensions: Vec<Dimension> = tensor
                        .shape
                        .iter()
                        .map(|&extent| Dimension::new(extent as i64, extent as i64))
                        .collect();
                    PartialShape::new(dimensions.len() as i64, &dimensions)
                })
                .collect::<Result<_, _>>()?;
            let indexed: Vec<(usize, &PartialShape)> = shapes.iter().enumerate().collect();
            model.reshape_by_port_indexes(&indexed)?;
        }
        let compiled = core.compile_model(&model, DeviceType::CPU)?;
        Ok(OpenVino {
            outputs: compiled.get_output_size()?,
            model: Mutex::new(compiled),
            _core: Mutex::new(core),
        })
    }

    fn caller<'e>(&'e self, inputs: &'e [Tensor]) -> Result<impl Caller + 'e> {
        let mut request = self.model.lock().map_err(|_| "another caller panicked")?.create_infer_request()?;
        for (index, tensor) in inputs.iter().enumerate() {
            let shape: Vec<i64> = tensor.shape.iter().map(|&extent| extent as i64).collect();
            let shape = Shape::new(&shape)?;
            let input = match &tensor.data {
                Data::F32(data) => {
                    let mut input = openvino::Tensor::new(ElementType::F32, &shape)?;
                    input.get_data_mut::<f32>()?.copy_from_slice(data);
                    input
                }
                Data::I64(data) => {
                    let mut input = openvino::Tensor::new(ElementType::I64, &shape)?;
                    input.get_data_mut::<i64>()?.copy_from_slice(data);
                    input
                }
            };
            request.set_input_tensor_by_index(index, &input)?;
        }
        Ok(Call { request, outputs: self.outputs })
    }
}

struct Call {
    request: InferRequest,
    outputs: usize,
}

impl Caller for Call {
    fn call(&mut self) -> Result<()> {
        Ok(self.request.infer()?)
    }

    fn outputs(&self) -> Result<Vec<Tensor>> {
        (0..self.outputs)
            .map(|index| {
                let output = self.request.get_output_tensor_by_index(index)?;
                let shape =
                    output.get_shape()?.get_dimensions().iter().map(|&extent| extent as usize).collect();
                Ok(Tensor { shape, data: Data::F32(output.get_data::<f32>()?.to_vec()) })
            })
            .collect()
    }
}

fn main() -> Result<()> {
    peers::run::<OpenVino>()
}
