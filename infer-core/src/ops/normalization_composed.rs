//! Normalisation written as other operators: what the kernels of [`normalization`](super::normalization) do not do.
//!
//! Statistics of the batch and what training keeps of them, other outputs than the first, f64.

use super::compose::{cast, reshape, scalar, wide, wide_input};
use crate::diagnostic::Reason;
use crate::ops::{Expansion, Operator, Wire, expect_dtype, resolve_axis};
use crate::tensor_type::DataType;

/// What these compute on.
pub(super) const FLOATS: &[DataType] = &[DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];

/// BatchNormalization where the kernels' way does not serve: scale · (x − mean) / √(variance + epsilon) + bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchStatistics {
    /// Added to the variance.
    pub epsilon: f32,
    /// The part of the running statistics that stays, in training; `None` where the stored statistics normalise.
    pub momentum: Option<f32>,
    /// Whether there is one statistic for each channel; else one for each element of an image.
    pub spatial: bool,
    /// How many outputs there are.
    pub outputs: usize,
}

impl Operator for BatchStatistics {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let input = nodes.types.ty(0)?.clone();
        expect_dtype(&input, FLOATS)?;
        let statistic = nodes.types.ty(3)?.dtype;
        let dtype = wide(input.dtype);
        // Statistics have the channels alone, or all of an image.
        let (own, axes): (&[usize], Vec<i64>) = match (self.spatial, input.shape.as_slice()) {
            (true, [_]) => (&[1], vec![0]),
            (true, [_, _, ..]) => {
                let others = (0..input.rank() as i64).filter(|&axis| axis != 1);
                (&input.shape[1..2], others.collect())
            }
            (false, [_, image @ ..]) => (image, vec![0]),
            (_, []) => return Err(Reason::new(format!("{input} has no channels"))),
        };
        let mut broadcast = own.to_vec();
        if self.spatial {
            broadcast.resize(input.rank().max(2) - 1, 1);
        }
        let x = wide_input(nodes, 0)?;
        let mut given = Vec::new();
        for (index, name) in [(1, "scale"), (2, "B"), (3, "mean"), (4, "var")] {
            let ty = nodes.types.ty(index)?.clone();
            expect_dtype(&ty, FLOATS)?;
            if ty.shape != own {
                return Err(Reason::new(format!("`{name}` is {ty}, not of shape {own:?}")));
            }
            let wire = nodes.input(index)?;
            given.push(cast(nodes, wire, dtype)?);
        }
        let [scale, bias, stored_mean, stored_variance] = given.as_slice() else {
            return Err(Reason::new("an input is missing"));
        };
        let (mean, variance) = if self.momentum.is_some() {
            let axes = nodes.i64s(&axes);
            let flat = [("keepdims", 0.into())];
            let mean = nodes.node("ReduceMean", &[x, axes], &flat)?;
            let by_channel = reshape(nodes, mean, &broadcast)?;
            let centered = nodes.node("Sub", &[x, by_channel], &[])?;
            let square = nodes.node("Mul", &[centered, centered], &[])?;
            (mean, nodes.node("ReduceMean", &[square, axes], &flat)?)
        } else {
            (*stored_mean, *stored_variance)
        };
        let epsilon = scalar(nodes, dtype, self.epsilon.into())?;
        let deviation = nodes.node("Add", &[variance, epsilon], &[])?;
        let deviation = nodes.node("Sqrt", &[deviation], &[])?;
        let factor = nodes.node("Div", &[*scale, deviation], &[])?;
        let [mean_by, factor, bias] = [mean, factor, *bias].map(|wire| reshape(nodes, wire, &broadcast));
        let centered = nodes.node("Sub", &[x, mean_by?], &[])?;
        let y = nodes.node("Mul", &[centered, factor?], &[])?;
        let y = nodes.node("Add", &[y, bias?], &[])?;
        let mut outputs = vec![cast(nodes, y, input.dtype)?];
        if let Some(momentum) = self.momentum {
            let stays = scalar(nodes, dtype, momentum.into())?;
            let comes = scalar(nodes, dtype, 1.0 - f64::from(momentum))?;
            for (stored, new) in [(*stored_mean, mean), (*stored_variance, variance)] {
                let old = nodes.node("Mul", &[stored, stays], &[])?;
                let new = nodes.node("Mul", &[new, comes], &[])?;
                let running = nodes.node("Add", &[old, new], &[])?;
                outputs.push(cast(nodes, running, statistic)?);
            }
            // What opsets before 14 save for the backward pass.
            for saved in [mean, variance] {
                outputs.push(cast(nodes, saved, statistic)?);
            }
        }
        outputs.truncate(self.outputs.max(1));
        Ok(Some(outputs))
    }
}

/// `x` less its mean over `axes`, that mean, and the reciprocal of its deviation; the axes stay.
fn standardized(
    nodes: &mut Expansion<'_>,
    x: Wire,
    axes: &[i64],
    epsilon: f32,
) -> Result<(Wire, Wire, Wire), Reason> {
    let dtype = nodes.ty(x)?.dtype;
    let axes = nodes.i64s(axes);
    let mean = nodes.node("ReduceMean", &[x, axes], &[])?;
    let centered = nodes.node("Sub", &[x, mean], &[])?;
    let square = nodes.node("Mul", &[centered, centered], &[])?;
    let variance = nodes.node("ReduceMean", &[square, axes], &[])?;
    let epsilon = scalar(nodes, dtype, epsilon.into())?;
    let sum = nodes.node("Add", &[variance, epsilon], &[])?;
    let deviation = nodes.node("Sqrt", &[sum], &[])?;
    let inverse = nodes.node("Reciprocal", &[deviation], &[])?;
    Ok((centered, mean, inverse))
}

/// LayerNormalization with the mean and the reciprocal of the deviation as further outputs.
pub(super) fn layer(nodes: &mut Expansion<'_>, axis: i64, epsilon: f32) -> Result<Vec<Wire>, Reason> {
    let input = nodes.types.ty(0)?.clone();
    expect_dtype(&input, FLOATS)?;
    let axes: Vec<i64> = (resolve_axis(axis, input.rank())?..input.rank()).map(|axis| axis as i64).collect();
    let x = wide_input(nodes, 0)?;
    let dtype = nodes.ty(x)?.dtype;
    let (centered, mean, inverse) = standardized(nodes, x, &axes, epsilon)?;
    let mut y = nodes.node("Mul", &[centered, inverse], &[])?;
    for (index, op_type) in [(1, "Mul"), (2, "Add")] {
        let Some(param) = nodes.optional_input(index) else { continue };
        let param = cast(nodes, param, dtype)?;
        y = nodes.node(op_type, &[y, param], &[])?;
    }
    if nodes.shape(y)? != input.shape {
        return Err(Reason::new(format!("scale and bias do not broadcast to {input}")));
    }
    // Statistics are of f32, the only type that is stashed.
    let (mean, inverse) = (cast(nodes, mean, DataType::F32)?, cast(nodes, inverse, DataType::F32)?);
    Ok(vec![cast(nodes, y, input.dtype)?, mean, inverse])
}

/// GroupNormalization of `groups` groups, scale and bias being by group or by channel.
pub(super) fn group(
    nodes: &mut Expansion<'_>,
    groups: usize,
    by_group: bool,
    epsilon: f32,
) -> Result<Wire, Reason> {
    let input = nodes.types.ty(0)?.clone();
    let (&[n, channels, ..], true) = (input.shape.as_slice(), groups > 0) else {
        return Err(Reason::new(format!("{input} in {groups} groups")));
    };
    if channels % groups != 0 {
        return Err(Reason::new(format!("{channels} channels do not divide into {groups} groups")));
    }
    let inner = input.shape.iter().skip(2).product();
    let x = wide_input(nodes, 0)?;
    let x = reshape(nodes, x, &[n, groups, channels / groups, inner])?;
    let (centered, _, inverse) = standardized(nodes, x, &[2, 3], epsilon)?;
    let mut y = nodes.node("Mul", &[centered, inverse], &[])?;
    let shape = if by_group { [groups, 1, 1] } else { [groups, channels / groups, 1] };
    for (index, op_type) in [(1, "Mul"), (2, "Add")] {
        let param = wide_input(nodes, index)?;
        let param = reshape(nodes, param, &shape)?;
        y = nodes.node(op_type, &[y, param], &[])?;
    }
    let y = reshape(nodes, y, &input.shape)?;
    cast(nodes, y, input.dtype)
}

/// LRN, the sum over neighbouring channels being an average pool of the squares.
pub(super) fn local_response(
    nodes: &mut Expansion<'_>,
    size: u64,
    [alpha, beta, bias]: [f32; 3],
) -> Result<Wire, Reason> {
    let input = nodes.types.ty(0)?.clone();
    let &[n, channels, ..] = input.shape.as_slice() else {
        return Err(Reason::new(format!("{input} has no dimension for channels")));
    };
    let inner = input.shape.iter().skip(2).product();
    let x = nodes.input(0)?;
    let square = nodes.node("Mul", &[x, x], &[])?;
    let picture = reshape(nodes, square, &[n, 1, channels, inner])?;
    // Beyond all channels on both sides there is nothing to sum.
    let width = size.min(2 * channels as u64 + 1) as i64;
    let pads = vec![(width - 1) / 2, 0, width / 2, 0];
    let attributes =
        [("kernel_shape", vec![width, 1].into()), ("pads", pads.into()), ("count_include_pad", 1.into())];
    let mean = nodes.node("AveragePool", &[picture], &attributes)?;
    let mean = reshape(nodes, mean, &input.shape)?;
    let factor = scalar(nodes, input.dtype, f64::from(alpha) * width as f64 / size as f64)?;
    let (bias, beta) = (scalar(nodes, input.dtype, bias.into())?, scalar(nodes, input.dtype, beta.into())?);
    let sum = nodes.node("Mul", &[mean, factor], &[])?;
    let sum = nodes.node("Add", &[sum, bias], &[])?;
    let power = nodes.node("Pow", &[sum, beta], &[])?;
    nodes.node("Div", &[x, power], &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{f32s, run, run_all, tensor};

    fn close(actual: &Constant, expected: &[f64]) {
        let actual: Vec<f64> = match actual.ty().dtype {
            DataType::F64 => actual.values::<f64>().into_owned(),
            _ => actual.values::<f32>().iter().map(|&v| v.into()).collect(),
        };
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-5, "{actual} is not {expected}");
        }
    }

    fn float(name: &'static str, value: f32) -> (&'static str, Attribute) {
        (name, Attribute::Float(value))
    }

    #[test]
    fn training_keeps_running_statistics() {
        let x = f32s([2, 1, 2], &[1.0, 3.0, 5.0, 7.0]);
        let one = |value| Some(f32s([1], &[value]));
        let inputs = [Some(x), one(2.0), one(1.0), one(10.0), one(20.0)];
        let training = [float("epsilon", 0.0), float("momentum", 0.5), ("training_mode", Attribute::Int(1))];
        let outputs = run_all(("BatchNormalization", 15), &training, &inputs, 3).unwrap();
        let deviation = 5f64.sqrt();
        close(&outputs[0], &[-3.0, -1.0, 1.0, 3.0].map(|v| 2.0 * v / deviation + 1.0));
        close(&outputs[1], &[7.0]);
        close(&outputs[2], &[12.5]);
        let saved = run_all(("BatchNormalization", 9), &training[..2], &inputs, 5).unwrap();
        close(&saved[3], &[4.0]);
        close(&saved[4], &[5.0]);
    }

    #[test]
    fn statistics_may_be_of_every_element() {
        let x = f32s([1, 1, 2], &[1.0, 3.0]);
        let pair = |values: [f32; 2]| f32s([1, 2], &values);
        let inputs = [x, pair([1.0, 2.0]), pair([0.0, 1.0]), pair([0.0, 1.0]), pair([1.0, 4.0])];
        let attributes = [float("epsilon", 0.0), ("spatial", Attribute::Int(0))];
        let inputs: Vec<&Constant> = inputs.iter().collect();
        close(&run(("BatchNormalization", 7), &attributes, &inputs).unwrap(), &[1.0, 3.0]);
    }

    #[test]
    fn layers_give_their_statistics() {
        let x = f32s([2, 2], &[0.0, 2.0, 5.0, 1.0]);
        let inputs = [Some(x), Some(f32s([2], &[1.0, 2.0]))];
        let outputs = run_all(("LayerNormalization", 17), &[float("epsilon", 0.0)], &inputs, 3).unwrap();
        close(&outputs[0], &[-1.0, 2.0, 1.0, -2.0]);
        close(&outputs[1], &[1.0, 3.0]);
        close(&outputs[2], &[1.0, 0.5]);
    }

    #[test]
    fn doubles_are_normalised() {
        let doubles = |shape: &[usize], values: &[f64]| {
            Constant::of(crate::tensor_type::TensorType::new(DataType::F64, shape), values)
        };
        let x = doubles(&[1, 4, 1], &[0.0, 2.0, 2.0, 0.0]);
        let two = [float("epsilon", 0.0), ("num_groups", Attribute::Int(2))];
        let (scale, bias) = (doubles(&[4], &[1.0, 2.0, 3.0, 4.0]), doubles(&[4], &[0.0, 0.0, 1.0, 1.0]));
        let y = run(("GroupNormalization", 21), &two, &[&x, &scale, &bias]).unwrap();
        close(&y, &[-1.0, 2.0, 4.0, -3.0]);
        let x = tensor(DataType::F64, [1, 3, 1, 1], &[1f64, 2.0, 3.0]);
        let attributes =
            [("size", Attribute::Int(3)), float("alpha", 3.0), float("beta", 0.5), float("bias", 2.0)];
        let y = run(("LRN", 13), &attributes, &[x]).unwrap();
        close(&y, &[1.0 / 7f64.sqrt(), 2.0 / 16f64.sqrt(), 3.0 / 15f64.sqrt()]);
    }
}
