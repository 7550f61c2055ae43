//! What all compiled models have in common.

use std::fmt;
use std::marker::PhantomData;

use infer_core::Result;
use infer_core::runtime::{Backend, EngineOptions, Output};
use infer_core::tensor_type::DataType;

/// An input or output of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortInfo {
    /// The name in the model.
    pub name: &'static str,
    /// The type.
    pub ty: PortType,
}

/// The type of an input or output. Extents stand outermost first; a scalar has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PortType {
    /// A tensor of numbers whose shape is known: `[[f32; 3]; 2]`.
    Array {
        /// The type of the elements.
        dtype: DataType,
        /// The extents.
        shape: &'static [usize],
    },
    /// A tensor of numbers whose shape only the run knows: `Tensor<f32>`.
    Tensor {
        /// The type of the elements.
        dtype: DataType,
        /// The extents, `None` where only the run knows; `None` where it alone knows how many there are.
        shape: Option<&'static [Option<usize>]>,
    },
    /// A tensor of strings.
    Strings {
        /// As of [`PortType::Tensor`].
        shape: Option<&'static [Option<usize>]>,
    },
    /// A sequence: `Vec<T>`.
    Sequence(&'static PortType),
    /// A value that may be missing: `Option<T>`.
    Optional(&'static PortType),
    /// A map: `BTreeMap<K, V>`.
    Map {
        /// The type of the keys, scalars.
        key: &'static PortType,
        /// The type of the values.
        value: &'static PortType,
    },
}

impl PortInfo {
    /// A port that is an array.
    pub const fn array(name: &'static str, dtype: DataType, shape: &'static [usize]) -> Self {
        PortInfo { name, ty: PortType::Array { dtype, shape } }
    }

    /// The type of the elements; `None` where it is no array.
    pub const fn dtype(&self) -> Option<DataType> {
        match self.ty {
            PortType::Array { dtype, .. } => Some(dtype),
            _ => None,
        }
    }

    /// The extents; `None` where it is no array.
    pub const fn shape(&self) -> Option<&'static [usize]> {
        match self.ty {
            PortType::Array { shape, .. } => Some(shape),
            _ => None,
        }
    }

    /// The number of elements; `None` where it is no array.
    pub const fn elements(&self) -> Option<usize> {
        let Some(shape) = self.shape() else { return None };
        let mut elements = 1;
        let mut axis = 0;
        while axis < shape.len() {
            elements = usize::saturating_mul(elements, shape[axis]);
            axis += 1;
        }
        Some(elements)
    }

    /// The size in bytes; `None` where it is no array.
    pub fn bytes(&self) -> Option<usize> {
        Some(self.elements()? * self.dtype()?.size_bytes())
    }
}

/// A compiled model, for code that is generic over models. The attribute [`model`](macro@crate::model) implements it.
///
/// ```
/// fn describe<M: infer_embed::Model>() -> String {
///     let inputs: Vec<&str> = M::INPUTS.iter().map(|input| input.name).collect();
///     format!("{} parameters, inputs {}", M::PARAMETERS, inputs.join(", "))
/// }
/// ```
pub trait Model: Sized + Send + Sync + 'static {
    /// The outputs as typed arrays.
    type Outputs: Clone + fmt::Debug + PartialEq + Send + Sync + 'static;

    /// The inputs, in the order of `infer`'s parameters.
    const INPUTS: &'static [PortInfo];

    /// The outputs, in the order of the fields.
    const OUTPUTS: &'static [PortInfo];

    /// The size of the weights in the binary.
    const WEIGHT_BYTES: u64;

    /// The memory of one inference beside inputs and outputs.
    const ARENA_BYTES: u64;

    /// Floating-point operations of one inference, a multiply-add counting as two.
    const FLOPS: u64;

    /// The number of the model's parameters.
    const PARAMETERS: u64;

    /// The SHA-256 of the model file, in hexadecimal.
    const MODEL_SHA256: &'static str;

    /// The version of the operator set that the model uses.
    const OPSET: i64;

    /// What is worth knowing about the model but no error.
    const NOTES: &'static [&'static str];

    /// Opens the model.
    ///
    /// # Errors
    ///
    /// If the options, `INFER_ISA` or `INFER_THREADS` ask for what is not there.
    fn open(options: EngineOptions) -> Result<Self>;

    /// What computes it.
    fn backend(&self) -> Backend;

    /// Runs the model on the bytes of its inputs, row-major and little-endian, in the order of [`INPUTS`](Model::INPUTS),
    /// where all inputs and outputs are arrays ([`PortType::Array`]).
    ///
    /// # Errors
    ///
    /// Of kind [`NotArrays`](crate::ErrorKind::NotArrays) if one is no array. If the number of inputs or outputs, or the size or alignment of one, is not the model's; if the model cannot
    /// compute with the values.
    fn run(&self, inputs: &[&[u8]], outputs: &mut [Output<'_>]) -> Result<()>;
}

/// Opens a model with other settings than `new`: `Digits::builder().threads(1).build()?`.
#[derive(Clone, Copy)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<M> {
    options: EngineOptions,
    model: PhantomData<fn() -> M>,
}

impl<M: Model> Builder<M> {
    /// A builder with the settings of `new`.
    pub fn new() -> Self {
        Builder { options: EngineOptions::default(), model: PhantomData }
    }

    /// How many threads of the process's pool take part in an inference at most; 1 stays on the calling thread.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads);
        self
    }

    /// What is to compute. Without it a GPU computes what was compiled for one, and the processor where there is no
    /// driver or the driver reports no GPU; with [`Backend::Cuda`] that is an error, as is a model that was not compiled
    /// for GPUs.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.options.backend = Some(backend);
        self
    }

    /// Which GPU, as the driver counts them from 0; the first one without it.
    pub fn device(mut self, device: usize) -> Self {
        self.options.device = device;
        self
    }

    /// Opens the model.
    ///
    /// # Errors
    ///
    /// If the settings, `INFER_ISA` or `INFER_THREADS` ask for what is not there; on a GPU one of a kind of its own for
    /// no driver, too old a driver, no such GPU, too old an architecture and too little memory.
    pub fn build(self) -> Result<M> {
        M::open(self.options)
    }
}

impl<M: Model> Default for Builder<M> {
    fn default() -> Self {
        Builder::new()
    }
}

impl<M> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish()
    }
}
