//! Changes a convolution or product so that it computes factor · result + shift by channel; what `fold_batch_norm`,
//! `fold_scale` and `fuse_bias` have in common.

use infer_kernels::call::{Activation, residual};

use crate::constant::Constant;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::conv::{Conv, ConvTranspose};
use crate::ops::matmul::MatMul;
use crate::passes::op_mut;
use crate::passes::pattern::add_constant;
use crate::tensor_type::{DataType, TensorType};

/// The elements of `constant` as one for each channel of what `node` computes (for each column of a product), or as the
/// only one.
pub fn by_channel(graph: &Graph, node: &Node, constant: ValueId) -> Option<Vec<f32>> {
    let constant = graph.constant(Some(constant)).filter(|constant| constant.ty().dtype == DataType::F32)?;
    let rank = graph.ty(node.output(0)?).rank();
    let axis = if node.op_as::<MatMul>().is_some() { rank.checked_sub(1)? } else { 1 };
    let lead = rank.checked_sub(constant.ty().rank())?;
    let mut extents = constant.ty().shape.iter().enumerate();
    let fits = extents.all(|(i, &extent)| extent == 1 || lead + i == axis);
    fits.then(|| constant.values::<f32>().into_owned())
}

/// Makes the node at `index` compute `factors` · result + `shifts`, each with one element for each channel, only one,
/// or none to leave it as it is; says whether it could.
///
/// Weights must be constant to be multiplied, and the bias to be changed; neither an activation nor a residual may
/// follow them.
pub fn apply(graph: &mut Graph, index: usize, factors: &[f32], shifts: &[f32]) -> bool {
    let node = &graph.nodes[index];
    let Some(changed) =
        Weights::of(graph, node).and_then(|weights| weights.changed(graph, node, factors, shifts))
    else {
        return false;
    };
    let name = node.name.clone();
    for (input, constant, suffix) in [(1, changed.weights, "weights"), (2, changed.bias, "bias")] {
        let Some(constant) = constant else { continue };
        let id = add_constant(graph, &format!("{name}:{suffix}"), constant);
        let inputs = &mut graph.nodes[index].inputs;
        inputs.resize(inputs.len().max(input + 1), None);
        inputs[input] = Some(id);
    }
    if let Some(product) = op_mut::<MatMul>(&mut graph.nodes[index]) {
        product.alpha *= changed.alpha;
        if changed.beta_is_one {
            product.beta = 1.0;
        }
    }
    true
}

/// How the weights of a node are ordered.
enum Weights {
    /// `[M, C/group, …]`
    Conv { channels: usize },
    /// `[C, M/group, …]`
    Transposed { channels: usize, group: usize },
    /// `[…, K, N]`, or `[…, N, K]`
    Product { columns: usize, transposed: bool, beta: f32 },
}

/// What takes the place of a node's constants; `None` where they stay.
struct Changed {
    weights: Option<Constant>,
    bias: Option<Constant>,
    alpha: f32,
    beta_is_one: bool,
}

impl Weights {
    /// `None` where the node is no such, or does more to its result.
    fn of(graph: &Graph, node: &Node) -> Option<Weights> {
        let output = graph.ty(node.output(0)?);
        if let Some(conv) = node.op_as::<Conv>() {
            let plain = conv.activation == Activation::NONE && conv.residual_mode == residual::NONE;
            return plain.then_some(Weights::Conv { channels: *output.shape.get(1)? });
        }
        if let Some(conv) = node.op_as::<ConvTranspose>() {
            let plain = conv.activation == Activation::NONE;
            return plain
                .then_some(Weights::Transposed { channels: *output.shape.get(1)?, group: conv.group });
        }
        let product = node.op_as::<MatMul>()?;
        let plain = product.activation == Activation::NONE && product.residual_mode == residual::NONE;
        // A product with a vector has no columns.
        if !plain || graph.ty(node.input(1)?).rank() < 2 {
            return None;
        }
        Some(Weights::Product {
            columns: *output.shape.last()?,
            transposed: product.trans_b,
            beta: product.beta,
        })
    }

    fn channels(&self) -> usize {
        match *self {
            Weights::Conv { channels } | Weights::Transposed { channels, .. } => channels,
            Weights::Product { columns, .. } => columns,
        }
    }

    fn changed(&self, graph: &Graph, node: &Node, factors: &[f32], shifts: &[f32]) -> Option<Changed> {
        let fits = |values: &[f32]| values.len() <= 1 || values.len() == self.channels();
        // An infinite factor would make NaN of weights that are zero.
        if !fits(factors) || !fits(shifts) || factors.iter().chain(shifts).any(|value| !value.is_finite()) {
            return None;
        }
        let bias = self.bias(graph, node, factors, shifts)?;
        let by_alpha = matches!(self, Weights::Product { .. }) && factors.len() == 1;
        let weights = match factors {
            [] => None,
            _ if by_alpha => None,
            _ => Some(self.weights(graph.constant(node.input(1))?, factors)?),
        };
        let beta_is_one = bias.is_some() && node.input(2).is_none();
        Some(Changed { weights, bias, alpha: if by_alpha { factors[0] } else { 1.0 }, beta_is_one })
    }

    /// The weights times a factor for each channel.
    fn weights(&self, weights: &Constant, factors: &[f32]) -> Option<Constant> {
        let shape = &weights.ty().shape;
        let inner = |axis: usize| shape[axis..].iter().product::<usize>().max(1);
        let mut values = weights.to_f32s()?.into_owned();
        for (index, value) in values.iter_mut().enumerate() {
            let channel = match *self {
                Weights::Conv { .. } => index / inner(1),
                Weights::Transposed { group, .. } => {
                    let (first, second) = (index / inner(1), index % inner(1) / inner(2));
                    first / (shape[0] / group) * shape[1] + second
                }
                Weights::Product { transposed: true, columns, .. } => {
                    index / inner(shape.len() - 1) % columns
                }
                Weights::Product { transposed: false, columns, .. } => index % columns,
            };
            *value *= factors[channel % factors.len()];
        }
        Some(Constant::of(weights.ty().clone(), &values))
    }

    /// The bias times its factor and with its shift, `Some(None)` where it stays as it is.
    fn bias(&self, graph: &Graph, node: &Node, factors: &[f32], shifts: &[f32]) -> Option<Option<Constant>> {
        let channels = self.channels();
        let (shape, mut values) = match node.input(2) {
            None if shifts.is_empty() => return Some(None),
            None => (vec![channels], vec![0.0; channels]),
            Some(id) => {
                let bias = graph.constant(Some(id))?;
                (bias.ty().shape.clone(), bias.to_f32s()?.into_owned())
            }
        };
        let beta = match *self {
            Weights::Product { beta, .. } if node.input(2).is_some() => beta,
            _ => 1.0,
        };
        // A product's addend may have any shape that broadcasts: by column only where it has the columns.
        let has_channels = shape.last() == Some(&channels);
        if !has_channels && (factors.len() > 1 || !shifts.is_empty()) || beta != 1.0 && !shifts.is_empty() {
            return None;
        }
        let at = |values: &[f32], index: usize, absent: f32| match values {
            [] => absent,
            _ => values[index % channels % values.len()],
        };
        for (index, value) in values.iter_mut().enumerate() {
            *value = *value * at(factors, index, 1.0) + at(shifts, index, 0.0);
        }
        Some(Some(Constant::of(TensorType::new(DataType::F32, shape), &values)))
    }
}
