//! The operators: what each computes, one file an operator or a family.
//!
//! An operator is imported from a node ([`Row::import`]), infers its output types, and lowers to kernel calls.
//! Evaluation while compiling needs no code of its own: the calls run on the reference kernels.

pub mod activation_expanded;
pub mod along_axis;
pub mod attention;
pub mod attention_contrib;
mod attention_core;
mod attributes;
pub mod binary;
pub mod bitwise;
pub mod cast;
pub mod clip;
pub mod col2im;
mod compose;
pub mod concat;
pub mod control_flow;
pub mod conv;
pub mod deform_conv;
pub mod depth_to_space;
pub mod dropout;
pub mod einsum;
pub mod element_type;
mod elements;
pub mod elementwise_layout;
pub mod expand;
mod flex_attention;
pub mod fused_attention;
pub mod fused_contrib;
pub mod gather;
pub mod gather_scatter;
pub mod grid_sample;
mod group_query_attention;
mod host_kernels;
pub mod image_decoder;
mod legacy;
pub mod linear_attention;
pub mod loss;
pub mod matmul;
pub mod matmul_n_bits;
pub mod ml;
mod ml_common;
pub mod ml_label;
pub mod ml_linear;
pub mod ml_map;
pub mod ml_svm;
pub mod ml_tree;
pub mod ml_tree_classic;
pub mod modulo;
mod movement;
pub mod non_max_suppression;
pub mod normalization;
pub mod normalization_composed;
pub mod normalization_contrib;
pub mod normalization_expanded;
mod number;
pub mod one_hot;
pub mod optional;
pub mod pack;
pub mod pad;
pub mod pool;
pub mod quantize;
pub mod quantized;
pub mod quantized_contrib;
pub mod random;
pub mod recurrent;
pub mod reduce;
mod regex_syntax;
pub mod region;
pub mod reorder;
pub mod reshape;
pub mod resize;
pub mod rotary_embedding;
mod scan;
pub mod scatter;
pub mod select;
pub mod sequence;
pub mod shape;
pub mod signal;
pub mod slice;
pub mod softmax;
pub mod split;
pub mod string;
#[cfg(test)]
pub(crate) mod test_support;
pub mod tf_idf;
pub mod top_k;
pub mod training;
pub mod transpose;
pub mod unary;
mod value_parts;
pub mod variadic;
pub mod where_op;
pub mod window;

use std::any::Any;
use std::fmt;
use std::ops::RangeInclusive;

pub use attributes::Attributes;

pub use crate::expansion::{Expansion, Wire};
pub use crate::node_types::{InputType, NodeTypes};
pub use crate::node_values::NodeValues;
pub use crate::record::Attribute;

use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::{Reason, quote};
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// What a node computes, its attributes included.
///
/// There are three ways to say what that is, and an operator takes the first that serves:
///
/// - [`expand`](Operator::expand) puts nodes of other operators in its place;
/// - [`infer`](Operator::infer) and [`lower`](Operator::lower) make kernel calls, planned while compiling wherever the
///   types are known then;
/// - [`compute`](Operator::compute) computes values from values at run time, for what has no kernels: strings, sequences,
///   shapes that depend on elements.
///
/// The `Debug` form says everything about the operator: two nodes whose operators print alike and that read the same
/// values are one computation.
pub trait Operator: fmt::Debug + Any + Send + Sync {
    /// The name in ONNX, or of an internal operator.
    fn name(&self) -> &'static str;

    /// The nodes of other operators that compute the same, or `None`: their wires for the outputs.
    fn expand(&self, _nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        Ok(None)
    }

    /// The types of the outputs, all those the operator defines that `node` asks for. A reason
    /// [at run time](Reason::at_run_time) where they depend on elements that are not known.
    fn infer(&self, _node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Err(Reason::at_run_time("the types of its outputs"))
    }

    /// The outputs where they follow from types or constants without any kernel, as `Shape`'s do; `None` leaves
    /// evaluation to the reference kernels (once all inputs are constants).
    fn evaluate(&self, _node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        Ok(None)
    }

    /// Emits the kernel calls that compute the outputs.
    fn lower(&self, _node: &mut LowerNode<'_>) -> Result<(), Reason> {
        Err(Reason::new(format!("{} has no kernels", self.name())))
    }

    /// Whether [`compute`](Operator::compute) computes tensors of these types, not kernels.
    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        false
    }

    /// The outputs, all those that the operator defines (what nobody asks for may be anything), or `None` where kernels
    /// compute them.
    fn compute(&self, _node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        Ok(None)
    }

    /// Whether [`Operator::compute`] hands on values as they are, or has other nodes compute them.
    fn hands_on(&self) -> bool {
        false
    }

    /// What kernels do with tensors of strings, given as a number for each different string.
    fn string_use(&self) -> StringUse {
        StringUse::None
    }

    /// Whether it may be computed while compiling, once its inputs are known: not where that may take forever.
    fn is_foldable(&self) -> bool {
        !self.is_nondeterministic()
    }

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

/// What an operator's kernels do with tensors of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringUse {
    /// They take none.
    None,
    /// They move elements: outputs of the element type of the strings are strings.
    Moves,
    /// They compare elements or look at shapes: no output is of strings.
    Compares,
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
    activation_expanded::OPERATORS,
    along_axis::OPERATORS,
    attention::OPERATORS,
    attention_contrib::OPERATORS,
    binary::OPERATORS,
    bitwise::OPERATORS,
    cast::OPERATORS,
    clip::OPERATORS,
    col2im::OPERATORS,
    concat::OPERATORS,
    control_flow::OPERATORS,
    conv::OPERATORS,
    deform_conv::OPERATORS,
    depth_to_space::OPERATORS,
    dropout::OPERATORS,
    einsum::OPERATORS,
    expand::OPERATORS,
    fused_contrib::OPERATORS,
    gather::OPERATORS,
    gather_scatter::OPERATORS,
    grid_sample::OPERATORS,
    image_decoder::OPERATORS,
    linear_attention::OPERATORS,
    loss::OPERATORS,
    matmul::OPERATORS,
    matmul_n_bits::OPERATORS,
    ml::OPERATORS,
    ml_label::OPERATORS,
    ml_linear::OPERATORS,
    ml_map::OPERATORS,
    ml_svm::OPERATORS,
    ml_tree::OPERATORS,
    ml_tree_classic::OPERATORS,
    modulo::OPERATORS,
    non_max_suppression::OPERATORS,
    normalization::OPERATORS,
    normalization_contrib::OPERATORS,
    normalization_expanded::OPERATORS,
    one_hot::OPERATORS,
    optional::OPERATORS,
    pad::OPERATORS,
    pool::OPERATORS,
    quantize::OPERATORS,
    quantized::OPERATORS,
    quantized_contrib::OPERATORS,
    random::OPERATORS,
    recurrent::OPERATORS,
    reduce::OPERATORS,
    region::OPERATORS,
    reshape::OPERATORS,
    resize::OPERATORS,
    rotary_embedding::OPERATORS,
    scatter::OPERATORS,
    select::OPERATORS,
    sequence::OPERATORS,
    shape::OPERATORS,
    signal::OPERATORS,
    slice::OPERATORS,
    softmax::OPERATORS,
    split::OPERATORS,
    string::OPERATORS,
    tf_idf::OPERATORS,
    top_k::OPERATORS,
    training::OPERATORS,
    transpose::OPERATORS,
    unary::OPERATORS,
    variadic::OPERATORS,
    where_op::OPERATORS,
];

/// The row of operator `name` in `domain`.
pub fn find(domain: &str, name: &str) -> Option<&'static Row> {
    TABLE.iter().flat_map(|rows| rows.iter()).find(|row| row.name == name && row.domain == domain)
}

/// The operator of a node, every attribute read.
///
/// # Errors
///
/// If the row has no such opset, arity or attributes.
pub fn import(row: &Row, mut node: ImportNode) -> Result<Box<dyn Operator>, Reason> {
    if node.opset < row.since {
        return Err(Reason::new(format!(
            "{} exists since version {}, the model imports {}",
            row.name, row.since, node.opset
        )));
    }
    expect_arity("inputs", node.inputs.len(), &row.inputs)?;
    expect_arity("outputs", node.outputs.len(), &row.outputs)?;
    let legacy = if row.domain.is_empty() { legacy::import(row.name, &mut node)? } else { None };
    let op = match legacy {
        Some(op) => op,
        None => (row.import)(&mut node)?,
    };
    let unread: Vec<String> = node.attributes.unread().map(quote).collect();
    match unread.as_slice() {
        [] => Ok(op),
        [one] => Err(Reason::new(format!("attribute {one} is not supported"))),
        several => Err(Reason::new(format!("attributes {} are not supported", several.join(", ")))),
    }
}

fn expect_arity(what: &str, count: usize, allowed: &RangeInclusive<usize>) -> Result<(), Reason> {
    if allowed.contains(&count) {
        return Ok(());
    }
    let allowed = match (*allowed.start(), *allowed.end()) {
        (least, usize::MAX) => format!("at least {least}"),
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    Err(Reason::new(format!("it has {count} {what}, not {allowed}")))
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
