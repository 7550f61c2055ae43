//! tract, its matrix products on as many threads as asked.

use std::sync::Arc;

use peers::{Caller, Data, Engine, Result, Task, Tensor};
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude as tract;
use tract_onnx::prelude::{Datum, Framework, InferenceModelExt, IntoRunnable, IntoTValue};

struct Tract(Arc<tract::TypedSimplePlan>);

impl Engine for Tract {
    fn version() -> Result<String> {
        Ok("0.23.9".to_owned())
    }

    fn load(task: &Task) -> Result<Self> {
        if task.threads > 1 {
            set_default_executor(Executor::multithread(task.threads));
        }
        let mut model = tract_onnx::onnx().model_for_path(&task.model)?;
        for (index, input) in task.inputs.iter().enumerate() {
            let dtype = match input.data {
                Data::F32(_) => f32::datum_type(),
                Data::I64(_) => i64::datum_type(),
            };
            model = model.with_input_fact(index, tract::InferenceFact::dt_shape(dtype, &input.shape))?;
        }
        Ok(Tract(model.into_optimized()?.into_runnable()?))
    }

    fn caller<'e>(&'e self, inputs: &'e [Tensor]) -> Result<impl Caller + 'e> {
        let value = |input: &Tensor| -> Result<tract::TValue> {
            Ok(match &input.data {
                Data::F32(data) => tract::Tensor::from_shape(&input.shape, data)?.into_tvalue(),
                Data::I64(data) => tract::Tensor::from_shape(&input.shape, data)?.into_tvalue(),
            })
        };
        let inputs = inputs.iter().map(value).collect::<Result<_>>()?;
        Ok(Call { plan: &self.0, inputs, outputs: tract::tvec!() })
    }
}

struct Call<'e> {
    plan: &'e Arc<tract::TypedSimplePlan>,
    inputs: tract::TVec<tract::TValue>,
    outputs: tract::TVec<tract::TValue>,
}

impl Caller for Call<'_> {
    fn call(&mut self) -> Result<()> {
        self.outputs = self.plan.run(self.inputs.clone())?;
        Ok(())
    }

    fn outputs(&self) -> Result<Vec<Tensor>> {
        self.outputs
            .iter()
            .map(|output| {
                let view = output.to_plain_array_view::<f32>()?;
                Ok(Tensor { shape: output.shape().to_vec(), data: Data::F32(view.iter().copied().collect()) })
            })
            .collect()
    }
}

fn main() -> Result<()> {
    peers::run::<Tract>()
}
