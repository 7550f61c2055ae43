//! The operators: what each computes, one file an operator or a family.
//!
//! An operator is imported from a node ([`Row::import`]), infers its output types, and lowers to kernel calls.
//! Evaluation while compiling needs no code of its own: the calls run on the reference kernels.

mod attributes;
pub mod binary;
pub mod cast;
pub mod clip;
pub mod concat;
pub mod conv;
pub mod depth_to_space;
pub mod element_type;
pub mod elementwise_layout;
pub mod expand;
pub mod gather;
pub mod matmul;
mod movement;
pub mod normalization;
pub mod pack;
pub mod pad;
pub mod pool;
pub mod reduce;
pub mod reorder;
pub mod reshape;
pub mod resize;
pub mod shape;
pub mod slice;
pub mod softmax;
pub mod split;
#[cfg(test)]
pub(crate) mod test_support;
pub mod transpose;
pub mod unary;
pub mod variadic;
pub mod where_op;
pub mod window;

use std::any::Any;
use std::fmt;
use std::ops::RangeInclusive;

pub use attributes::{Attribute, Attributes};

pub use crate::node_types::{InputType, NodeTypes};

use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// What a node computes, its attributes included.
///
/// The `Debug` form says everything about the operator: two nodes whose operators print alike and that read the same
/// values are one computation.
pub trait Operator: fmt::Debug + Any + Send + Sync {
    /// The name in ONNX, or of an internal operator.
    fn name(&self) -> &'static str;

    /// The types of the outputs, all those the operator defines that `node` asks for.
    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason>;

    /// The outputs where they follow from types or constants without any kernel, as `Shape`'s do; `None` leaves
    /// evaluation to the reference kernels (once all inputs are constants).
    fn evaluate(&self, _node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        Ok(None)
    }

    /// Emits the kernel calls that compute the outputs.
    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason>;

    /// Whether output 0 has the bytes of input 0 in the same order, so that it needs no calls.
    fn is_view(&self) -> bool {
        false
    }

    /// Which layouts it works on.
    fn blocking(&self, _node: &NodeTypes<'_>) -> Blocking {
        Blocking::Never
    }

    /// The border of zeros around input 0 that it reads where it runs blocked: rows above, columns left, rows below,
    /// columns right.
    fn halo(&self, _node: &NodeTypes<'_>) -> [usize; 4] {
        [0; 4]
    }

    /// Floating-point operations, a multiply-add counting as two; elementwise work counts nothing.
    fn flops(&self, _node: &NodeTypes<'_>, _outputs: &[&TensorType]) -> u64 {
        0
    }

    /// Whether two nodes alike give different results, as random operators do.
    fn is_nondeterministic(&self) -> bool {
        false
    }
}

/// Which layouts an operator works on. Where it runs blocked, every input that is not a constant and every output is
/// a blocked `[N, C, H, W]` picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// Row-major only.
    Never,
    /// Either, taking what its inputs have.
    Follows,
    /// Blocked, converting its inputs; `input_block` is the number of channels in a block of input 0.
    Preferred {
        /// 16, or the channels themselves where they are fewer and input 0 is a plain picture.
        input_block: usize,
    },
}

/// What an operator's import sees of a node.
pub struct ImportNode {
    /// The operator's name.
    pub op_type: String,
    /// The version of the operator's domain that the model imports.
    pub opset: i64,
    /// The attributes; those left unread after import are an error.
    pub attributes: Attributes,
    /// For each input whether it is there.
    pub inputs: Vec<bool>,
    /// For each output whether it is asked for.
    pub outputs: Vec<bool>,
}

/// One row of the operator table.
pub struct Row {
    /// The name in ONNX.
    pub name: &'static str,
    /// The domain; empty for ai.onnx.
    pub domain: &'static str,
    /// The first opset that has it.
    pub since: i64,
    /// How many inputs it takes.
    pub inputs: RangeInclusive<usize>,
    /// How many outputs it gives.
    pub outputs: RangeInclusive<usize>,
    /// Reads the attributes.
    pub import: fn(&mut ImportNode) -> Result<Box<dyn Operator>, Reason>,
}

/// The operator table: every family's rows.
pub static TABLE: &[&[Row]] = &[
    binary::OPERATORS,
    cast::OPERATORS,
    clip::OPERATORS,
    concat::OPERATORS,
    conv::OPERATORS,
    depth_to_space::OPERATORS,
    expand::OPERATORS,
    gather::OPERATORS,
    matmul::OPERATORS,
    normalization::OPERATORS,
    pad::OPERATORS,
    pool::OPERATORS,
    reduce::OPERATORS,
    reshape::OPERATORS,
    resize::OPERATORS,
    shape::OPERATORS,
    slice::OPERATORS,
    softmax::OPERATORS,
    split::OPERATORS,
    transpose::OPERATORS,
    unary::OPERATORS,
    variadic::OPERATORS,
    where_op::OPERATORS,
];

/// The row of operator `name` in `domain`.
pub fn find(domain: &str, name: &str) -> Option<&'static Row> {
    TABLE.iter().flat_map(|rows| rows.iter()).find(|row| row.name == name && row.domain == domain)
}

/// The axis `axis` of a tensor of `rank` dimensions, negative ones counted from the end.
pub fn resolve_axis(axis: i64, rank: usize) -> Result<usize, Reason> {
    let resolved = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(resolved) {
        Ok(resolved) if resolved < rank => Ok(resolved),
        _ => Err(Reason::new(format!("axis {axis} is outside of a tensor of {rank} dimensions"))),
    }
}

/// [`resolve_axis`] for several, which must differ from each other.
pub fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Reason> {
    let mut resolved = Vec::with_capacity(axes.len());
    for &axis in axes {
        let axis = resolve_axis(axis, rank)?;
        if resolved.contains(&axis) {
            return Err(Reason::new(format!("axis {axis} is named twice in {axes:?}")));
        }
        resolved.push(axis);
    }
    Ok(resolved)
}

/// The shape that `shapes` broadcast to by numpy's rules.
pub fn broadcast(shapes: &[&[usize]]) -> Result<Vec<usize>, Reason> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut result = vec![1usize; rank];
    for shape in shapes {
        for (slot, &extent) in result[rank - shape.len()..].iter_mut().zip(*shape) {
            if *slot == 1 {
                *slot = extent;
            } else if extent != 1 && extent != *slot {
                return Err(Reason::new(format!("shapes {shapes:?} do not broadcast")));
            }
        }
    }
    Ok(result)
}

/// Refuses element types other than those of `supported`.
pub fn expect_dtype(ty: &TensorType, supported: &[DataType]) -> Result<(), Reason> {
    if supported.contains(&ty.dtype) {
        return Ok(());
    }
    let names: Vec<&str> = supported.iter().map(|dtype| dtype.name()).collect();
    Err(Reason::new(format!("element type {} is not supported", ty.dtype)).supported(names.join(", ")))
}
