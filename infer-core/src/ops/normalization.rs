//! Normalisation: by stored statistics (BatchNormalization), or by those of the tensor itself.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: f32; f16 and bf16 compute in f32; f64, and statistics as outputs, are written as other operators.
//! History: BatchNormalization lost `spatial` with opset 9, gained `training_mode` with 14 (before, further outputs ask
//! for it), and let its statistics have a type of their own with 15; LayerNormalization came with 17,
//! GroupNormalization with 18, whose scale and bias are by channel, not by group, since 21.

use infer_kernels::call::{
    Activation, BLOCK, GroupNorm, GroupNormBlocked, LayerNorm, Lrn as LrnParams, View,
};

use super::element_type::{converted, expect_kernel, scalar, with_output};
use super::elementwise_layout;
use super::normalization_composed::{BatchStatistics, group, layer, local_response};
use crate::calls::{LowerNode, Span, Tensor, picture};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::{
    Blocking, Expansion, ImportNode, NodeTypes, Operator, Row, Wire, broadcast, expect_dtype, resolve_axis,
};
use crate::tensor_type::{DataType, TensorType};

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "BatchNormalization",
        domain: "",
        since: 1,
        inputs: 5..=5,
        outputs: 1..=5,
        import: import_batch,
    },
    Row {
        name: "GroupNormalization",
        domain: "",
        since: 18,
        inputs: 3..=3,
        outputs: 1..=1,
        import: import_group,
    },
    Row {
        name: "InstanceNormalization",
        domain: "",
        since: 1,
        inputs: 3..=3,
        outputs: 1..=1,
        import: import_group,
    },
    Row {
        name: "LayerNormalization",
        domain: "",
        since: 17,
        inputs: 2..=3,
        outputs: 1..=3,
        import: import_layer,
    },
    Row { name: "LRN", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_lrn },
];

fn epsilon(node: &mut ImportNode) -> Result<f32, Reason> {
    Ok(node.attributes.float("epsilon")?.unwrap_or(1e-5))
}

/// Refuses an input of other than `count` elements in one dimension.
fn expect_vector(node: &NodeTypes<'_>, index: usize, name: &str, count: usize) -> Result<(), Reason> {
    let ty = node.ty(index)?;
    expect_dtype(ty, FLOATS)?;
    if ty.shape == [count] {
        Ok(())
    } else {
        Err(Reason::new(format!("`{name}` is {ty}, not of shape [{count}]")))
    }
}

/// What computes in f32.
const FLOATS: &[DataType] = &[DataType::F32, DataType::F16, DataType::Bf16];

/// The channels of `[N, C, …]`; a tensor of one dimension has one.
fn channels(ty: &TensorType) -> Result<usize, Reason> {
    match *ty.shape.as_slice() {
        [] => Err(Reason::new(format!("{ty} has no channels"))),
        [_] => Ok(1),
        [_, channels, ..] => Ok(channels),
    }
}

/// The number of elements of one channel of one image.
fn inner(ty: &TensorType) -> usize {
    ty.shape.iter().skip(2).product()
}

/// BatchNormalization with stored statistics: scale · (x − mean) / √(variance + epsilon) + bias, by channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormalization {
    /// Added to the variance.
    pub epsilon: f32,
}

fn import_batch(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let momentum = node.attributes.float("momentum")?.unwrap_or(0.9);
    let spatial = node.opset >= 9 || node.attributes.flag("spatial", true)?;
    let asks_for_more = node.outputs.iter().skip(1).any(|&asked| asked);
    let trains =
        if node.opset < 14 { asks_for_more } else { node.attributes.flag("training_mode", false)? };
    if asks_for_more && !trains {
        return Err(Reason::new("running statistics are outputs in training mode alone"));
    }
    if trains || !spatial {
        let outputs = match (trains, node.opset) {
            (false, _) => 1,
            (true, ..14) => node.outputs.len(),
            (true, _) => node.outputs.len().min(3),
        };
        let momentum = trains.then_some(momentum);
        return Ok(Box::new(BatchStatistics { epsilon: epsilon(node)?, momentum, spatial, outputs }));
    }
    Ok(Box::new(BatchNormalization { epsilon: epsilon(node)? }))
}

impl BatchNormalization {
    /// What it comes to, x · factor + shift by channel, where all of inputs 1 to 4 are known.
    pub fn factor_and_shift(&self, node: &NodeTypes<'_>) -> Option<(Vec<f32>, Vec<f32>)> {
        let [scale, bias, mean, variance] =
            [1, 2, 3, 4].map(|index| node.constant(index).map(Constant::to_f32s));
        let (scale, bias, mean, variance) = (scale??, bias??, mean??, variance??);
        let pairs = scale.iter().zip(&*bias).zip(mean.iter().zip(&*variance));
        let pairs = pairs.map(|((&scale, &bias), (&mean, &variance))| {
            let factor = f64::from(scale) / (f64::from(variance) + f64::from(self.epsilon)).sqrt();
            (factor as f32, (f64::from(bias) - f64::from(mean) * factor) as f32)
        });
        Some(pairs.unzip())
    }

    /// Factor and shift as tensors of `shape`.
    fn coefficients(&self, node: &mut LowerNode<'_>, shape: &[usize]) -> Result<[Tensor; 2], Reason> {
        let ty = TensorType::new(DataType::F32, shape);
        if let Some((factor, shift)) = node.with_types(|types| self.factor_and_shift(types)) {
            return Ok([factor, shift].map(|values| Tensor {
                ty: ty.clone(),
                span: node.data(&values),
                blocked: None,
            }));
        }
        let mut inputs = Vec::new();
        for index in 1..5 {
            let input = node.input(index)?;
            inputs.push(Tensor { ty: ty.clone(), ..converted(node, &input, DataType::F32)? });
        }
        let (factor, shift) = (node.scratch_tensor(ty.clone()), node.scratch_tensor(ty));
        let epsilon = scalar(node, DataType::F32, self.epsilon);
        if let [scale, bias, mean, variance] = inputs.as_slice() {
            node.elementwise("add_f32", &[variance, &epsilon], &factor, |_| ())?;
            node.elementwise("sqrt_f32", &[&factor], &factor, |_| ())?;
            node.elementwise("div_f32", &[scale, &factor], &factor, |_| ())?;
            node.elementwise("mul_f32", &[mean, &factor], &shift, |_| ())?;
            node.elementwise("sub_f32", &[bias, &shift], &shift, |_| ())?;
        }
        Ok([factor, shift])
    }
}

impl Operator for BatchNormalization {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let input = nodes.types.ty(0)?;
        let statistics = (1..5).filter_map(|index| nodes.types.optional(index));
        if input.dtype != DataType::F64 && statistics.clone().all(|ty| ty.dtype != DataType::F64) {
            return Ok(None);
        }
        let composed = BatchStatistics { epsilon: self.epsilon, momentum: None, spatial: true, outputs: 1 };
        composed.expand(nodes)
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_dtype(input, FLOATS)?;
        let channels = channels(input)?;
        for (index, name) in [(1, "scale"), (2, "B"), (3, "mean"), (4, "var")] {
            expect_vector(node, index, name, channels)?;
        }
        Ok(vec![input.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let mut shape = vec![1; input.ty.rank().max(2) - 1];
        shape[0] = channels(&input.ty)?;
        let [factor, shift] = self.coefficients(node, &shape)?;
        let x = converted(node, &input, DataType::F32)?;
        with_output(node, &output, DataType::F32, |node, out| {
            node.elementwise("mul_f32", &[&x, &factor], out, |_| ())?;
            node.elementwise("add_f32", &[out, &shift], out, |_| ())
        })
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        match self.factor_and_shift(node) {
            Some(_) => elementwise_layout::blocking(&NodeTypes { inputs: &node.inputs[..1], ..*node }),
            None => Blocking::Never,
        }
    }
}

/// InstanceNormalization and GroupNormalization: each group of channels of each image to zero mean and unit variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormalization {
    /// The number of groups; `None` where every channel is one, as in InstanceNormalization.
    pub num_groups: Option<usize>,
    /// Whether scale and bias have one value for each group, not for each channel.
    pub scale_by_group: bool,
    /// Added to the variance.
    pub epsilon: f32,
    /// Applied to the result.
    pub activation: Activation,
}

fn import_group(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let epsilon = epsilon(node)?;
    if node.op_type == "InstanceNormalization" {
        return Ok(Box::new(GroupNormalization {
            num_groups: None,
            scale_by_group: false,
            epsilon,
            activation: Activation::NONE,
        }));
    }
    let groups = node.attributes.int("num_groups")?;
    let groups = groups.ok_or_else(|| Reason::new("attribute `num_groups` is missing"))?;
    let num_groups = usize::try_from(groups).ok().filter(|&groups| groups > 0);
    let num_groups =
        num_groups.ok_or_else(|| Reason::new(format!("num_groups is {groups}, not positive")))?;
    if node.opset >= 21 {
        expect_f32_stash(node)?;
    }
    Ok(Box::new(GroupNormalization {
        num_groups: Some(num_groups),
        scale_by_group: node.opset < 21,
        epsilon,
        activation: Activation::NONE,
    }))
}

fn expect_f32_stash(node: &mut ImportNode) -> Result<(), Reason> {
    match node.attributes.int("stash_type")? {
        None | Some(1) => Ok(()),
        Some(other) => Err(Reason::new(format!("stash_type {other} is not supported")).supported("1 (f32)")),
    }
}

impl Operator for GroupNormalization {
    fn name(&self) -> &'static str {
        if self.num_groups.is_some() { "GroupNormalization" } else { "InstanceNormalization" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let input = nodes.types.ty(0)?;
        if input.dtype != DataType::F64 {
            return Ok(None);
        }
        let groups = self.num_groups.unwrap_or(channels(input)?);
        Ok(Some(vec![group(nodes, groups, self.scale_by_group, self.epsilon)?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_kernel("group_norm", input)?;
        if input.rank() < 2 {
            return Err(Reason::new(format!("{input} has no dimension for channels")));
        }
        let channels = channels(input)?;
        let groups = self.num_groups.unwrap_or(channels);
        if groups != 0 && channels % groups != 0 {
            return Err(Reason::new(format!("{channels} channels do not divide into {groups} groups")));
        }
        for (index, name) in [(1, "scale"), (2, "bias")] {
            expect_vector(node, index, name, if self.scale_by_group { groups } else { channels })?;
        }
        Ok(vec![input.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let mut operands = vec![Some(converted(node, &input, DataType::F32)?.span)];
        for index in [1, 2] {
            operands.push(Some(self.by_channel(node, index, channels(&input.ty)?)?));
        }
        if let (Some(from), Some(to)) = (input.blocked, output.blocked) {
            let call = self.blocked(&input.ty, from.view, to.view)?;
            operands.push(Some(output.span));
            node.call("group_norm_blocked_f32", &call, &operands);
            return Ok(());
        }
        let channels = channels(&input.ty)?;
        let params = GroupNorm {
            n: input.ty.shape[0] as u64,
            groups: self.num_groups.unwrap_or(channels) as u64,
            channels: channels as u64,
            inner: inner(&input.ty) as u64,
            epsilon: self.epsilon,
            reserved: 0,
            activation: self.activation,
        };
        with_output(node, &output, DataType::F32, |node, out| {
            operands.push(Some(out.span));
            node.call("group_norm_f32", &params, &operands);
            Ok(())
        })
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        let picture = node.ty(0).is_ok_and(|x| x.dtype == DataType::F32 && x.rank() == 4);
        let constant = node.constant(1).is_some() && node.constant(2).is_some();
        let most = GroupNormBlocked::MOST_CHANNELS / BLOCK as u64;
        let fits = || {
            let call = self.blocked(node.ty(0)?, View::default(), View::default())?;
            Ok::<bool, Reason>(call.cluster().is_some_and(|blocks| blocks <= most))
        };
        if picture && constant && fits().unwrap_or(false) { Blocking::Follows } else { Blocking::Never }
    }
}

impl GroupNormalization {
    /// Input `index`, scale or bias, with an element for each channel.
    fn by_channel(&self, node: &mut LowerNode<'_>, index: usize, channels: usize) -> Result<Span, Reason> {
        let param = node.input(index)?;
        let param = converted(node, &param, DataType::F32)?;
        if !self.scale_by_group {
            return Ok(param.span);
        }
        let groups = self.num_groups.unwrap_or(channels);
        let wide = node.scratch_tensor(TensorType::new(DataType::F32, [channels]));
        node.copy_strided(&param, &[1, 0], 0, &wide, &[groups, channels / groups])?;
        Ok(wide.span)
    }

    /// The call on blocked pictures of type `ty`.
    fn blocked(&self, ty: &TensorType, input: View, output: View) -> Result<GroupNormBlocked, Reason> {
        let channels = channels(ty)?;
        let [n, _, h, w] = picture(ty);
        Ok(GroupNormBlocked {
            n: n as u64,
            groups: self.num_groups.unwrap_or(channels) as u64,
            channels: channels as u64,
            h: h as u64,
            w: w as u64,
            input,
            output,
            epsilon: self.epsilon,
            reserved: 0,
            activation: self.activation,
        })
    }
}

/// LayerNormalization: everything from `axis` on to zero mean and unit variance, times scale, plus bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormalization {
    /// The first normalised axis.
    pub axis: i64,
    /// Added to the variance.
    pub epsilon: f32,
}

fn import_layer(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    expect_f32_stash(node)?;
    let axis = node.attributes.int("axis")?.unwrap_or(-1);
    Ok(Box::new(LayerNormalization { axis, epsilon: epsilon(node)? }))
}

/// `shape` without leading extents of 1.
fn stripped(shape: &[usize]) -> &[usize] {
    &shape[shape.iter().take_while(|&&extent| extent == 1).count()..]
}

impl Operator for LayerNormalization {
    fn name(&self) -> &'static str {
        "LayerNormalization"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let statistics = nodes.types.wants(1) || nodes.types.wants(2);
        if !statistics && nodes.types.ty(0)?.dtype != DataType::F64 {
            return Ok(None);
        }
        Ok(Some(layer(nodes, self.axis, self.epsilon)?))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_kernel("layer_norm", input)?;
        resolve_axis(self.axis, input.rank())?;
        for (index, name) in [(1, "Scale"), (2, "B")] {
            let Some(ty) = node.optional(index) else { continue };
            expect_dtype(ty, FLOATS)?;
            if !broadcast(&[&input.shape, &ty.shape]).is_ok_and(|shape| shape == input.shape) {
                return Err(Reason::new(format!("`{name}` ({ty}) does not broadcast to {input}")));
            }
        }
        Ok(vec![input.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let normalized = &input.ty.shape[resolve_axis(self.axis, input.ty.rank())?..];
        let inner: usize = normalized.iter().product();
        let outer: usize = input.ty.shape[..input.ty.rank() - normalized.len()].iter().product();
        let x = converted(node, &input, DataType::F32)?;
        let mut params = [None, None];
        for (slot, index) in params.iter_mut().zip([1, 2]) {
            if let Some(param) = node.optional_input(index) {
                *slot = Some(converted(node, &param, DataType::F32)?);
            }
        }
        // The kernel applies a scale and a bias with one value for each normalised element; others follow it.
        let fits = |param: &Option<Tensor>| {
            param.as_ref().is_none_or(|param| stripped(&param.ty.shape) == stripped(normalized))
        };
        let [inside, after] =
            if params.iter().all(fits) { [params, [None, None]] } else { [[None, None], params] };
        with_output(node, &output, DataType::F32, |node, out| {
            let [scale, bias] = inside.map(|param| param.map(|param| param.span));
            let call =
                LayerNorm { outer: outer as u64, inner: inner as u64, epsilon: self.epsilon, keep_mean: 0 };
            node.call("layer_norm_f32", &call, &[Some(x.span), scale, bias, Some(out.span)]);
            for (kernel, param) in ["mul_f32", "add_f32"].into_iter().zip(after) {
                if let Some(param) = param {
                    node.elementwise(kernel, &[out, &param], out, |_| ())?;
                }
            }
            Ok(())
        })
    }
}

/// LRN: x / (bias + alpha/size · Σ x²)^beta, the sum over `size` neighbouring channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lrn {
    /// Channels in the sum.
    pub size: u64,
    /// The scale of the sum.
    pub alpha: f32,
    /// The exponent.
    pub beta: f32,
    /// The constant.
    pub bias: f32,
}

fn import_lrn(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let size = node.attributes.int("size")?.ok_or_else(|| Reason::new("attribute `size` is missing"))?;
    Ok(Box::new(Lrn {
        size: u64::try_from(size)
            .ok()
            .filter(|&size| size > 0)
            .ok_or_else(|| Reason::new(format!("size is {size}, not positive")))?,
        alpha: node.attributes.float("alpha")?.unwrap_or(1e-4),
        beta: node.attributes.float("beta")?.unwrap_or(0.75),
        bias: node.attributes.float("bias")?.unwrap_or(1.0),
    }))
}

impl Operator for Lrn {
    fn name(&self) -> &'static str {
        "LRN"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        if nodes.types.ty(0)?.dtype != DataType::F64 {
            return Ok(None);
        }
        Ok(Some(vec![local_response(nodes, self.size, [self.alpha, self.beta, self.bias])?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_kernel("lrn", input)?;
        if input.rank() < 2 {
            return Err(Reason::new(format!("{input} has no dimension for channels")));
        }
        Ok(vec![input.clone()])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let x = converted(node, &input, DataType::F32)?;
        let params = LrnParams {
            n: input.ty.shape[0] as u64,
            channels: channels(&input.ty)? as u64,
            inner: inner(&input.ty) as u64,
            size: self.size,
            alpha: self.alpha,
            beta: self.beta,
            bias: self.bias,
            reserved: 0,
        };
        with_output(node, &output, DataType::F32, |node, out| {
            node.call("lrn_f32", &params, &[Some(x.span), Some(out.span)]);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, import, infer, run, tensor};

    fn epsilon(value: f32) -> (&'static str, Attribute) {
        ("epsilon", Attribute::Float(value))
    }

    #[test]
    fn batch_normalization_takes_stored_statistics() {
        let x = f32s([1, 2, 2], &[1.0, 3.0, 2.0, -2.0]);
        let params = [[2.0f32, 0.5], [1.0, -1.0], [3.0, 0.0], [3.0, 15.0]].map(|values| f32s([2], &values));
        let expected = f32s([1, 2, 2], &[-1.0, 1.0, -0.75, -1.25]);
        let mut inputs = vec![x];
        inputs.extend(params);
        check(("BatchNormalization", 15), &[epsilon(1.0)], &inputs, &expected);
        check(("BatchNormalization", 7), &[epsilon(1.0), ("spatial", Attribute::Int(1))], &inputs, &expected);
        // Coefficients of a type that is not known while compiling are computed by calls.
        let bf16s = |c: &Constant| {
            let values: Vec<_> = c.values::<f32>().iter().map(|&v| half::bf16::from_f32(v)).collect();
            Constant::of(TensorType::new(DataType::Bf16, c.ty().shape.clone()), &values)
        };
        let inputs: Vec<_> = inputs.iter().map(bf16s).collect();
        let actual = run(("BatchNormalization", 15), &[epsilon(1.0)], &inputs).unwrap();
        assert!(actual == bf16s(&expected));
    }

    #[test]
    fn groups_of_channels_normalize() {
        // Mean 1 and variance 1 in each pair.
        let x = f32s([1, 4, 1], &[0.0, 2.0, 2.0, 0.0]);
        let two = [epsilon(0.0), ("num_groups", Attribute::Int(2))];
        let by_channel = [f32s([4], &[1.0, 2.0, 3.0, 4.0]), f32s([4], &[0.0, 0.0, 1.0, 1.0])];
        let expected = f32s([1, 4, 1], &[-1.0, 2.0, 4.0, -3.0]);
        check(("GroupNormalization", 21), &two, &[&x, &by_channel[0], &by_channel[1]], &expected);
        let by_group = [f32s([2], &[1.0, 2.0]), f32s([2], &[0.0, 1.0])];
        let expected = f32s([1, 4, 1], &[-1.0, 1.0, 3.0, -1.0]);
        check(("GroupNormalization", 18), &two, &[&x, &by_group[0], &by_group[1]], &expected);
        let rows = [f32s([1, 2, 2], &[0.0, 2.0, 5.0, 1.0]), f32s([2], &[1.0, 2.0]), f32s([2], &[0.5, 0.0])];
        let expected = f32s([1, 2, 2], &[-0.5, 1.5, 2.0, -2.0]);
        check(("InstanceNormalization", 6), &[epsilon(0.0)], &rows, &expected);
    }

    #[test]
    fn layers_normalize_from_an_axis_on() {
        let x = f32s([2, 2], &[0.0, 2.0, 5.0, 1.0]);
        let op = ("LayerNormalization", 17);
        let inputs = [x.clone(), f32s([2], &[1.0, 2.0]), f32s([2], &[0.5, 0.0])];
        check(op, &[epsilon(0.0)], &inputs, &f32s([2, 2], &[-0.5, 2.0, 1.5, -2.0]));
        // A scale by row cannot be applied inside.
        check(
            op,
            &[epsilon(0.0)],
            &[x.clone(), f32s([2, 1], &[1.0, 3.0])],
            &f32s([2, 2], &[-1.0, 1.0, 3.0, -3.0]),
        );
        // Mean 2 and variance 3.5 over everything, and epsilon.
        let all = [epsilon(0.5), ("axis", Attribute::Int(-2))];
        check(op, &all, &[x, f32s([1], &[2.0])], &f32s([2, 2], &[-2.0, 0.0, 3.0, -1.0]));
    }

    #[test]
    fn neighbouring_channels_normalize() {
        let x = f32s([1, 3, 1, 1], &[1.0, 2.0, 3.0]);
        let float = |name, value| (name, Attribute::Float(value));
        let attributes =
            [("size", Attribute::Int(3)), float("alpha", 3.0), float("beta", 0.5), float("bias", 2.0)];
        // Σ x² is 5, 14, 13.
        let expected = [1.0 / 7f32.sqrt(), 2.0 / 16f32.sqrt(), 3.0 / 15f32.sqrt()];
        check(("LRN", 13), &attributes, &[x], &f32s([1, 3, 1, 1], &expected));
    }

    #[test]
    fn halves_compute_in_f32() {
        let halves =
            |values: &[f32]| -> Vec<half::f16> { values.iter().map(|&v| half::f16::from_f32(v)).collect() };
        let x = tensor(DataType::F16, [1, 2], &halves(&[0.0, 2.0]));
        let scale = tensor(DataType::F16, [2], &halves(&[1.0, 2.0]));
        let expected = tensor(DataType::F16, [1, 2], &halves(&[-1.0, 2.0]));
        check(("LayerNormalization", 17), &[epsilon(0.0)], &[x, scale], &expected);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        assert!(import(("BatchNormalization", 15), &[], 5, 3).unwrap_err().what.contains("training"));
        assert!(import(("LayerNormalization", 17), &[("stash_type", Attribute::Int(11))], 2, 1).is_err());
        assert!(import(("LRN", 13), &[("size", Attribute::Int(0))], 1, 1).is_err());
        assert!(import(("GroupNormalization", 21), &[("num_groups", Attribute::Int(-1))], 3, 1).is_err());
        let ty = |shape: &[usize]| TensorType::new(DataType::F32, shape);
        let group = [("num_groups", Attribute::Int(3))];
        let uneven = infer(("GroupNormalization", 21), &group, &[ty(&[1, 4]), ty(&[4]), ty(&[4])]);
        assert_eq!(uneven.unwrap_err().what, "4 channels do not divide into 3 groups");
        let short = infer(("InstanceNormalization", 6), &[], &[ty(&[1, 4, 2]), ty(&[3]), ty(&[4])]);
        assert_eq!(short.unwrap_err().what, "`scale` is f32[3], not of shape [4]");
        assert!(infer(("LayerNormalization", 17), &[], &[ty(&[2, 4]), ty(&[3])]).is_err());
    }

    #[test]
    fn batch_normalization_follows_the_layout_where_its_statistics_are_known() {
        let x = TensorType::new(DataType::F32, [1, 2, 3, 3]);
        let one = f32s([2], &[1.0, 1.0]);
        let known = Some(crate::ops::InputType { ty: one.ty(), constant: Some(&one) });
        let mut inputs = [Some(crate::ops::InputType { ty: &x, constant: None }), known, known, known, known];
        let op = BatchNormalization { epsilon: 0.0 };
        assert_eq!(op.blocking(&NodeTypes { inputs: &inputs, outputs: &[true] }), Blocking::Follows);
        inputs[3] = Some(crate::ops::InputType { ty: one.ty(), constant: None });
        assert_eq!(op.blocking(&NodeTypes { inputs: &inputs, outputs: &[true] }), Blocking::Never);
    }
}
