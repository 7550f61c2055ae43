//! A node's inputs as operators see them: types, and elements where they are known while compiling.

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;

/// The inputs of a node as an operator sees them: types, and elements where they are known.
#[derive(Clone, Copy)]
pub struct NodeTypes<'a> {
    /// Each input's type and, where known, elements; `None` for an optional input left out.
    pub inputs: &'a [Option<InputType<'a>>],
    /// For each output whether it is asked for.
    pub outputs: &'a [bool],
}

/// One input of a node.
#[derive(Clone, Copy)]
pub struct InputType<'a> {
    /// The type.
    pub ty: &'a TensorType,
    /// The elements, where they are known.
    pub constant: Option<&'a Constant>,
}

impl<'a> NodeTypes<'a> {
    /// The type of input `index`, which must be there.
    pub fn ty(&self, index: usize) -> Result<&'a TensorType, Reason> {
        self.optional(index).ok_or_else(|| Reason::new(format!("input {index} is missing")))
    }

    /// The type of input `index`, or `None` where it is left out.
    pub fn optional(&self, index: usize) -> Option<&'a TensorType> {
        self.inputs.get(index).and_then(|input| input.as_ref()).map(|input| input.ty)
    }

    /// The elements of input `index`, where it is there and they are known.
    pub fn constant(&self, index: usize) -> Option<&'a Constant> {
        self.inputs.get(index).and_then(|input| input.as_ref()).and_then(|input| input.constant)
    }

    /// The elements of input `index`, called `name` in ONNX, where it is there; an error where they are known only at
    /// run time.
    pub fn known(&self, index: usize, name: &str) -> Result<Option<&'a Constant>, Reason> {
        match (self.optional(index), self.constant(index)) {
            (None, _) => Ok(None),
            (_, Some(constant)) => Ok(Some(constant)),
            (Some(ty), None) => {
                Err(Reason::at_run_time(format!("input `{name}` ({ty}) is known only at run time"))
                    .supported(format!("`{name}` as a constant or computed from shapes"))
                    .help("re-export the model with static shapes, or simplify it"))
            }
        }
    }

    /// The elements of input `index`, called `name` in ONNX, as integers; as [`NodeTypes::known`].
    pub fn known_i64s(&self, index: usize, name: &str) -> Result<Option<Vec<i64>>, Reason> {
        let Some(constant) = self.known(index, name)? else { return Ok(None) };
        match constant.to_i64s() {
            Some(values) => Ok(Some(values)),
            None => Err(Reason::new(format!("input `{name}` is {}, not i64 or i32", constant.ty()))),
        }
    }

    /// Whether output `index` is asked for.
    pub fn wants(&self, index: usize) -> bool {
        self.outputs.get(index).copied().unwrap_or(false)
    }
}
