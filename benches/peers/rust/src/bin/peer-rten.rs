//! rten with its weights packed ahead, on a pool of as many threads as asked.

use std::sync::Arc;

use peers::{Caller, Data, Engine, Result, Task, Tensor};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::Layout;

struct Rten {
    model: Model,
    pool: Arc<ThreadPool>,
}

impl Engine for Rten {
    fn version() -> Result<String> {
        Ok("0.27.0".to_owned())
    }

    fn load(task: &Task) -> Result<Self> {
        let mut options = ModelOptions::with_all_ops();
        options.prepack_weights(true);
        Ok(Rten {
            model: options.load_file(&task.model)?,
            pool: Arc::new(ThreadPool::with_num_threads(task.threads)),
        })
    }

    fn caller<'e>(&'e self, inputs: &'e [Tensor]) -> Result<impl Caller + 'e> {
        let ids = self.model.input_ids();
        if ids.len() != inputs.len() {
            return Err(format!("the model has {} inputs, {} are given", ids.len(), inputs.len()).into());
        }
        // It takes integers as i32 alone.
        let value = |tensor: &Tensor| -> Result<Value> {
            Ok(match &tensor.data {
                Data::F32(data) => Value::from_shape(&tensor.shape, data.clone())?,
                Data::I64(data) => Value::from_shape(
                    &tensor.shape,
                    data.iter().map(|&value| i32::try_from(value)).collect::<Result<Vec<i32>, _>>()?,
                )?,
            })
        };
        let inputs = ids.iter().zip(inputs).map(|(&id, tensor)| Ok((id, value(tensor)?)));
        Ok(Call { engine: self, inputs: inputs.collect::<Result<_>>()?, outputs: Vec::new() })
    }
}

struct Call<'e> {
    engine: &'e Rten,
    inputs: Vec<(NodeId, Value)>,
    outputs: Vec<Value>,
}

impl Caller for Call<'_> {
    fn call(&mut self) -> Result<()> {
        let inputs =
            self.inputs.iter().map(|(id, value)| (*id, ValueOrView::View(value.as_view()))).collect();
        let mut options = RunOptions::default();
        options.thread_pool = Some(self.engine.pool.clone());
        self.outputs = self.engine.model.run(inputs, self.engine.model.output_ids(), Some(options))?;
        Ok(())
    }

    fn outputs(&self) -> Result<Vec<Tensor>> {
        self.outputs
            .iter()
            .map(|output| match output.as_view() {
                ValueView::FloatTensor(view) => Ok(Tensor {
                    shape: view.shape().to_vec(),
                    data: Data::F32(view.iter().copied().collect()),
                }),
                _ => Err("an output is not f32".into()),
            })
            .collect()
    }
}

fn main() -> Result<()> {
    peers::run::<Rten>()
}
