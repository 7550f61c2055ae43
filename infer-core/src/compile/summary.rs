//! What is known of a compiled model.

use crate::value::ValuePort;

/// What the generated code and the tools need to know of a compiled model, beside the plan itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The inputs, in the model's order.
    pub inputs: Vec<ValuePort>,
    /// The outputs, in the model's order.
    pub outputs: Vec<ValuePort>,
    /// The kernels of the plan, in the order of its table; none where the plan is a program.
    pub kernels: Vec<String>,
    /// How many nodes run with shapes or values that only the run knows, or have no kernels: where there are any, the
    /// plan is a program, for a [`Session`](crate::session::Session) to run.
    pub run_time_nodes: u64,
    /// Some of these nodes with their operators, for messages.
    pub run_time_examples: Vec<String>,
    /// The size of the packed weights in the plans.
    pub weight_bytes: u64,
    /// The size of those that the plan for GPUs has besides, made of weights of the processor's plan when it is opened.
    pub borrowed_weight_bytes: u64,
    /// The size of the arena a context needs.
    pub arena_bytes: u64,
    /// Floating-point operations of one inference, a multiply-add counting as two.
    pub flops: u64,
    /// Elements of the model's initializers.
    pub parameters: u64,
    /// SHA-256 of the model file, in hexadecimal.
    pub model_sha256: String,
    /// The version of ai.onnx that the model imports.
    pub opset: i64,
    /// The modules that hold the kernels of the plan for GPUs; none where there is no such plan.
    pub cuda_modules: Vec<String>,
    /// The processor's kernels in the plan for GPUs.
    pub cuda_kernels: Vec<String>,
    /// The parts of the plan for GPUs, in order; none where there is no such plan.
    pub cuda_parts: Vec<Placed>,
    /// What is worth knowing but no error.
    pub notes: Vec<String>,
}

/// Where nodes run of a model that is compiled for GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a GPU.
    Gpu,
    /// On the processor.
    Processor,
    /// Where the run decides, which alone knows their shapes or values.
    AtRunTime,
}

/// Nodes that run at a time where a model is compiled for GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What runs them.
    pub place: Place,
    /// How many they are, once the model is simplified.
    pub count: u64,
    /// Those that no GPU runs for sure, with their operators, for messages.
    pub nodes: Vec<String>,
}
