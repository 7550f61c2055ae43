//! A node's inputs at run time, as operators that compute values from values see them.

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::execute::Backend;
use crate::value::{Strings, Value};

/// The inputs of a node at run time.
#[derive(Clone, Copy)]
pub struct NodeValues<'a> {
    /// Each input; `None` for an optional one left out.
    pub inputs: &'a [Option<Value>],
    /// For each output whether it is asked for.
    pub outputs: &'a [bool],
    /// What runs the nodes inside this one.
    pub backend: &'a Backend,
}

impl<'a> NodeValues<'a> {
    /// Input `index`, or `None` where it is left out.
    pub fn optional(&self, index: usize) -> Option<&'a Value> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// Input `index`, which must be there.
    pub fn value(&self, index: usize) -> Result<&'a Value, Reason> {
        self.optional(index).ok_or_else(|| Reason::new(format!("input {index} is missing")))
    }

    /// Input `index`, which must be a tensor of numbers.
    pub fn tensor(&self, index: usize) -> Result<&'a Constant, Reason> {
        match self.value(index)? {
            Value::Tensor(tensor) => Ok(tensor),
            other => Err(unexpected(index, other, "a tensor of numbers")),
        }
    }

    /// Input `index`, a tensor of numbers where it is there.
    pub fn optional_tensor(&self, index: usize) -> Result<Option<&'a Constant>, Reason> {
        if self.optional(index).is_some() { self.tensor(index).map(Some) } else { Ok(None) }
    }

    /// Input `index`, which must be a tensor of strings.
    pub fn strings(&self, index: usize) -> Result<&'a Strings, Reason> {
        match self.value(index)? {
            Value::Strings(strings) => Ok(strings),
            other => Err(unexpected(index, other, "a tensor of strings")),
        }
    }

    /// Input `index`, which must be a sequence.
    pub fn sequence(&self, index: usize) -> Result<&'a [Value], Reason> {
        match self.value(index)? {
            Value::Sequence(values) => Ok(values),
            other => Err(unexpected(index, other, "a sequence")),
        }
    }

    /// The integers of input `index`, a tensor of i64 or i32, where it is there.
    pub fn optional_i64s(&self, index: usize) -> Result<Option<Vec<i64>>, Reason> {
        let Some(tensor) = self.optional_tensor(index)? else { return Ok(None) };
        let wrong = || Reason::new(format!("input {index} is {}, not i64 or i32", tensor.ty()));
        tensor.to_i64s().map(Some).ok_or_else(wrong)
    }

    /// The integers of input `index`, a tensor of i64 or i32.
    pub fn i64s(&self, index: usize) -> Result<Vec<i64>, Reason> {
        self.optional_i64s(index)?.ok_or_else(|| Reason::new(format!("input {index} is missing")))
    }

    /// The one integer of input `index`, a tensor of i64 or i32.
    pub fn i64(&self, index: usize) -> Result<i64, Reason> {
        match self.i64s(index)?.as_slice() {
            [value] => Ok(*value),
            values => Err(Reason::new(format!("input {index} has {} elements, not one", values.len()))),
        }
    }

    /// Whether output `index` is asked for.
    pub fn wants(&self, index: usize) -> bool {
        self.outputs.get(index).copied().unwrap_or(false)
    }
}

fn unexpected(index: usize, found: &Value, wanted: &str) -> Reason {
    Reason::new(format!("input {index} is {}, not {wanted}", found.describe()))
}
