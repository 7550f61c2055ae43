//! DFT and STFT: Fourier transforms, of a whole axis and of pieces of it.
//!
//! <https://onnx.ai/onnx/operators/onnx__DFT.html>: since opset 17; the axis is an attribute, 1 where it is left out, and
//! since opset 20 an input, then −2. <https://onnx.ai/onnx/operators/onnx__STFT.html>: since opset 17. Floats of every
//! width: short transforms are products with matrices, in f32 for f16 and bf16, long ones are computed in f64. The last
//! axis holds a real number, or the real and the imaginary part of a complex one.

mod fft;
mod window;

use rayon::prelude::*;

use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::node_values::NodeValues;
use crate::ops::compose;
use crate::ops::element_type::common_float;
use crate::ops::elements::{expect_elements, with_types};
use crate::ops::movement::expect_table;
use crate::ops::number::{of_f64s, to_f64s};
use crate::ops::{Attribute, Expansion, ImportNode, NodeTypes, Operator, Row, Wire, resolve_axis};
use crate::tensor_type::TensorType;
use crate::value::Value;
use fft::{Complex, Fft, Product};

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row {
        name: "BlackmanWindow",
        domain: "",
        since: 17,
        inputs: 1..=1,
        outputs: 1..=1,
        import: window::import,
    },
    Row { name: "DFT", domain: "", since: 17, inputs: 1..=3, outputs: 1..=1, import: import_dft },
    Row {
        name: "HammingWindow",
        domain: "",
        since: 17,
        inputs: 1..=1,
        outputs: 1..=1,
        import: window::import,
    },
    Row { name: "HannWindow", domain: "", since: 17, inputs: 1..=1, outputs: 1..=1, import: window::import },
    Row {
        name: "MelWeightMatrix",
        domain: "",
        since: 17,
        inputs: 5..=5,
        outputs: 1..=1,
        import: window::import_mel,
    },
    Row { name: "STFT", domain: "", since: 17, inputs: 2..=4, outputs: 1..=1, import: import_stft },
];

/// The one integer of input `index`, where it is there; a reason at run time where it is not known yet.
fn known_scalar(node: &NodeTypes<'_>, index: usize, name: &str) -> Result<Option<i64>, Reason> {
    match node.known_i64s(index, name)?.as_deref() {
        None => Ok(None),
        Some([value]) => Ok(Some(*value)),
        Some(values) => Err(Reason::new(format!("input `{name}` has {} elements, not one", values.len()))),
    }
}

/// A length that input `name` gives.
fn length(name: &str, value: i64) -> Result<usize, Reason> {
    match usize::try_from(value) {
        Ok(length) if length > 0 => Ok(length),
        _ => Err(Reason::new(format!("input `{name}` is {value}"))),
    }
}

/// The numbers of a signal whose last axis has `parts` elements.
fn complex(values: &[f64], parts: usize) -> Vec<Complex> {
    match parts {
        2 => values.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect(),
        _ => values.iter().map(|&re| [re, 0.0]).collect(),
    }
}

/// How many parts the numbers of a signal have, its last axis.
fn parts(input: &TensorType) -> Result<usize, Reason> {
    match input.shape.last() {
        Some(&parts) if input.rank() >= 2 && (parts == 1 || parts == 2) => Ok(parts),
        _ => Err(Reason::new(format!("input 0 is {input}, whose last axis is not 1 or 2"))),
    }
}

/// The longest transform that is a product with a matrix. A longer one takes fewer operations on the host, by the fast
/// algorithm, and its matrix would be most of the plan.
const MAX_PRODUCT: usize = 512;

/// `x`, whose last two axes are the numbers taken and their parts, times the matrix of `product`.
fn multiplied(nodes: &mut Expansion<'_>, x: Wire, product: &Product) -> Result<Wire, Reason> {
    let ty = nodes.ty(x)?;
    let (dtype, rows) = (ty.dtype, product.taken * product.parts);
    let signals = ty.elements() / rows;
    let matrix = product.matrix();
    let matrix = of_f64s(TensorType::new(dtype, [rows, matrix.len() / rows]), matrix)?;
    let x = compose::reshape(nodes, x, &[signals, rows])?;
    let matrix = nodes.constant(matrix);
    nodes.node("MatMul", &[x, matrix], &[])
}

/// A discrete Fourier transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dft {
    /// The axis, unless input 2 gives it.
    pub axis: i64,
    /// Whether it is the inverse.
    pub inverse: bool,
    /// Whether of the spectrum of a real signal there is one half alone.
    pub onesided: bool,
}

fn import_dft(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let axis = if node.opset < 20 { node.attributes.int("axis")?.unwrap_or(1) } else { -2 };
    if node.opset < 20 && node.inputs.len() > 2 {
        return Err(Reason::new(format!("it has {} inputs, not 1 to 2", node.inputs.len())));
    }
    Ok(Box::new(Dft {
        axis,
        inverse: node.attributes.flag("inverse", false)?,
        onesided: node.attributes.flag("onesided", false)?,
    }))
}

/// The extents of a transform.
struct Transform {
    axis: usize,
    /// The numbers transformed.
    length: usize,
    output: TensorType,
}

impl Dft {
    fn transform(&self, node: &NodeTypes<'_>) -> Result<Transform, Reason> {
        let input = node.ty(0)?;
        let dtype = common_float(node, &[0])?;
        parts(input)?;
        let axis = known_scalar(node, 2, "axis")?.unwrap_or(self.axis);
        let resolved = resolve_axis(axis, input.rank())?;
        if resolved == input.rank() - 1 {
            return Err(Reason::new(format!("axis {axis} of {input} holds the parts of complex numbers")));
        }
        let signal = input.shape[resolved];
        let half = self.inverse && self.onesided;
        let length = match known_scalar(node, 1, "dft_length")? {
            Some(given) => length("dft_length", given)?,
            None if half => signal.saturating_sub(1).saturating_mul(2),
            None => signal,
        };
        if length == 0 {
            return Err(Reason::new(format!("axis {axis} of {input} is too short to transform")));
        }
        let mut shape = input.shape.clone();
        shape[resolved] = if self.onesided && !self.inverse { length / 2 + 1 } else { length };
        if let Some(parts) = shape.last_mut() {
            *parts = if half { 1 } else { 2 };
        }
        let output = TensorType::new(dtype, shape);
        expect_elements(&output.shape, size_of::<f64>())?;
        Ok(Transform { axis: resolved, length, output })
    }

    /// The transform as a product, of inputs of type `input`; `None` for those that are transformed on the host.
    fn product(&self, of: &Transform, input: &TensorType) -> Result<Option<Product>, Reason> {
        let half = self.inverse && self.onesided;
        let most = if half { of.length / 2 + 1 } else { of.length };
        let product = Product {
            length: of.length,
            taken: input.shape[of.axis].min(most),
            parts: parts(input)?,
            given: of.output.shape[of.axis],
            inverse: self.inverse,
            half,
        };
        Ok((of.length <= MAX_PRODUCT && input.elements() > 0).then_some(product))
    }

    /// Transforms the numbers `line` and leaves as many as the output has.
    fn line(&self, fft: &Fft, line: &mut Vec<Complex>, length: usize) {
        match (self.inverse, self.onesided) {
            (false, onesided) => {
                line.resize(length, [0.0; 2]);
                fft.forward(line);
                if onesided {
                    line.truncate(length / 2 + 1);
                }
            }
            (true, false) => {
                line.resize(length, [0.0; 2]);
                fft.inverse(line);
            }
            (true, true) => {
                line.resize(length / 2 + 1, [0.0; 2]);
                // What is its own mirror image is real.
                if let Some(first) = line.first_mut() {
                    first[1] = 0.0;
                }
                if length.is_multiple_of(2)
                    && let Some(middle) = line.last_mut()
                {
                    middle[1] = 0.0;
                }
                for k in length / 2 + 1..length {
                    let [re, im] = line[length - k];
                    line.push([re, -im]);
                }
                line.truncate(length);
                fft.inverse(line);
            }
        }
    }
}

impl Operator for Dft {
    fn name(&self) -> &'static str {
        "DFT"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let transform = self.transform(&nodes.types)?;
        let input = nodes.types.ty(0)?.clone();
        let Some(product) = self.product(&transform, &input)? else { return Ok(None) };
        let (axis, output) = (transform.axis, transform.output);
        let mut x = compose::wide_input(nodes, 0)?;
        if product.taken < input.shape[axis] {
            let [from, to, along] = [0, product.taken, axis].map(|index| nodes.i64s(&[index as i64]));
            x = nodes.node("Slice", &[x, from, to, along], &[])?;
        }
        // The axis goes beside the parts of its numbers.
        let rank = input.rank();
        let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
        order.insert(rank - 2, axis);
        let permute = |nodes: &mut Expansion<'_>, wire, order: &[usize]| {
            if order.is_sorted() {
                return Ok(wire);
            }
            let order: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
            nodes.node("Transpose", &[wire], &[("perm", Attribute::Ints(order))])
        };
        x = permute(nodes, x, &order)?;
        let y = multiplied(nodes, x, &product)?;
        let moved: Vec<usize> = order.iter().map(|&axis| output.shape[axis]).collect();
        let y = compose::reshape(nodes, y, &moved)?;
        let mut back = vec![0; rank];
        for (to, &from) in order.iter().enumerate() {
            back[from] = to;
        }
        let y = permute(nodes, y, &back)?;
        Ok(Some(vec![compose::cast(nodes, y, output.dtype)?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![self.transform(node)?.output])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let transform = with_types(node, |types| self.transform(types))?;
        let input = node.tensor(0)?;
        if self.product(&transform, input.ty())?.is_some() {
            return Ok(None);
        }
        let Transform { axis, length, output } = transform;
        let shape = &input.ty().shape;
        let inner: usize = shape[axis + 1..shape.len() - 1].iter().product();
        let (extent, out_extent) = (shape[axis], output.shape[axis]);
        let out_parts = if self.inverse && self.onesided { 1 } else { 2 };
        let mut values = vec![0.0; output.elements()];
        if !values.is_empty() {
            let signal = complex(&to_f64s(input)?, parts(input.ty())?);
            let fft = Fft::new(length)?;
            let taken = extent.min(if self.inverse && self.onesided { length / 2 + 1 } else { length });
            values.par_chunks_mut(out_extent * inner * out_parts).enumerate().for_each(|(outer, out)| {
                let mut line = Vec::with_capacity(length);
                for column in 0..inner {
                    let from = |index: usize| (outer * extent + index) * inner + column;
                    line.clear();
                    line.extend((0..taken).map(|index| signal.get(from(index)).copied().unwrap_or_default()));
                    self.line(&fft, &mut line, length);
                    for (index, number) in line.iter().enumerate() {
                        let at = (index * inner + column) * out_parts;
                        out[at..at + out_parts].copy_from_slice(&number[..out_parts]);
                    }
                }
            });
        }
        Ok(Some(vec![Value::Tensor(of_f64s(output, values)?)]))
    }
}

/// Fourier transforms of pieces of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stft {
    /// Whether there is one half of each spectrum alone.
    pub onesided: bool,
}

fn import_stft(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Stft { onesided: node.attributes.flag("onesided", true)? }))
}

/// The extents of the pieces.
struct Frames {
    step: usize,
    length: usize,
    output: TensorType,
}

impl Stft {
    fn frames(&self, node: &NodeTypes<'_>) -> Result<Frames, Reason> {
        let signal = node.ty(0)?;
        let dtype = common_float(node, &[0, 2])?;
        parts(signal)?;
        let &[batch, samples, _] = signal.shape.as_slice() else {
            return Err(Reason::new(format!("input `signal` is {signal}, not of 3 dimensions")));
        };
        let step = known_scalar(node, 1, "frame_step")?;
        let step = length("frame_step", step.ok_or_else(|| Reason::new("input `frame_step` is missing"))?)?;
        let given = match known_scalar(node, 3, "frame_length")? {
            Some(given) => Some(length("frame_length", given)?),
            None => None,
        };
        let window = match node.optional(2) {
            Some(window) if window.rank() != 1 => {
                return Err(Reason::new(format!("input `window` is {window}, not of one dimension")));
            }
            window => window.map(|window| window.shape[0]),
        };
        let length = given.or(window).unwrap_or(samples);
        if window.is_some_and(|window| window != length) || length == 0 || length > samples {
            return Err(Reason::new(format!(
                "frames of {length} samples from a signal of {samples}, with a window of {}",
                window.unwrap_or(length)
            )));
        }
        let bins = if self.onesided { length / 2 + 1 } else { length };
        let output = TensorType::new(dtype, [batch, (samples - length) / step + 1, bins, 2]);
        expect_elements(&output.shape, size_of::<f64>())?;
        Ok(Frames { step, length, output })
    }

    /// The transform of a piece as a product, of signals of type `signal`; `None` for those that are transformed on the
    /// host.
    fn product(of: &Frames, signal: &TensorType) -> Result<Option<Product>, Reason> {
        let product = Product {
            length: of.length,
            taken: of.length,
            parts: parts(signal)?,
            given: of.output.shape[2],
            inverse: false,
            half: false,
        };
        let is_product = of.length <= MAX_PRODUCT && signal.elements() > 0;
        Ok((is_product && expect_table(Some(of.rows().len())).is_ok()).then_some(product))
    }
}

impl Frames {
    /// How many samples steps and pieces are multiples of.
    fn grain(&self) -> usize {
        let (mut a, mut b) = (self.step, self.length);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    /// Where the pieces lie in a signal, a number for each grain of each of them.
    fn rows(&self) -> impl ExactSizeIterator<Item = usize> + use<> {
        let grain = self.grain();
        let (step, each) = (self.step / grain, self.length / grain);
        (0..self.output.shape[1] * each).map(move |row| row / each * step + row % each)
    }
}

impl Operator for Stft {
    fn name(&self) -> &'static str {
        "STFT"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let frames = self.frames(&nodes.types)?;
        let input = nodes.types.ty(0)?.clone();
        let Some(product) = Self::product(&frames, &input)? else { return Ok(None) };
        let (batch, count) = (input.shape[0], frames.output.shape[1]);
        let used = (count - 1) * frames.step + frames.length;
        let mut x = compose::wide_input(nodes, 0)?;
        if used < input.shape[1] {
            let [from, to, along] = [0, used, 1].map(|index| nodes.i64s(&[index as i64]));
            x = nodes.node("Slice", &[x, from, to, along], &[])?;
        }
        let grain = frames.grain();
        let x = compose::reshape(nodes, x, &[batch, used / grain, grain * product.parts])?;
        let rows: Vec<i64> = frames.rows().map(|row| row as i64).collect();
        let rows = nodes.i64s(&rows);
        let pieces = nodes.node("Gather", &[x, rows], &[("axis", 1.into())])?;
        let mut pieces = compose::reshape(nodes, pieces, &[batch * count, frames.length, product.parts])?;
        if nodes.optional_input(2).is_some() {
            let window = compose::wide_input(nodes, 2)?;
            let window = compose::reshape(nodes, window, &[frames.length, 1])?;
            pieces = nodes.node("Mul", &[pieces, window], &[])?;
        }
        let y = multiplied(nodes, pieces, &product)?;
        let y = compose::reshape(nodes, y, &frames.output.shape)?;
        Ok(Some(vec![compose::cast(nodes, y, frames.output.dtype)?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![self.frames(node)?.output])
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let frames = with_types(node, |types| self.frames(types))?;
        let input: &Constant = node.tensor(0)?;
        if Self::product(&frames, input.ty())?.is_some() {
            return Ok(None);
        }
        let Frames { step, length, output } = frames;
        let samples = input.ty().shape[1];
        let (count, bins) = (output.shape[1], output.shape[2]);
        let window = match node.optional_tensor(2)? {
            Some(window) => to_f64s(window)?,
            None => vec![1.0; length],
        };
        let mut values = vec![0.0; output.elements()];
        if !values.is_empty() {
            let signal = complex(&to_f64s(input)?, parts(input.ty())?);
            let fft = Fft::new(length)?;
            values.par_chunks_mut(2 * bins).enumerate().for_each(|(item, out)| {
                let from = item / count * samples + item % count * step;
                let frame = signal.get(from..from + length).unwrap_or_default();
                let mut frame: Vec<Complex> =
                    frame.iter().zip(&window).map(|([re, im], weight)| [re * weight, im * weight]).collect();
                frame.resize(length, [0.0; 2]);
                fft.forward(&mut frame);
                for (out, number) in out.chunks_exact_mut(2).zip(&frame) {
                    out.copy_from_slice(number);
                }
            });
        }
        Ok(Some(vec![Value::Tensor(of_f64s(output, values)?)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, infer, run, run_all, tensor};
    use crate::tensor_type::DataType;

    #[test]
    fn spectra_by_hand_and_back() {
        let signal = [f32s([1, 4, 1], &[1.0, 2.0, 3.0, 4.0])];
        let x = &signal[0];
        let spectrum = f32s([1, 4, 2], &[10.0, 0.0, -2.0, 2.0, -2.0, 0.0, -2.0, -2.0]);
        check(("DFT", 17), &[], &signal, &spectrum);
        check(("DFT", 20), &[], &signal, &spectrum);
        let half = f32s([1, 3, 2], &[10.0, 0.0, -2.0, 2.0, -2.0, 0.0]);
        let both = [("onesided", Attribute::Int(1)), ("inverse", Attribute::Int(1))];
        check(("DFT", 20), &both[..1], &signal, &half);
        let back = run(("DFT", 20), &both[1..], &[spectrum]).unwrap();
        let parts = back.values::<f32>().into_owned();
        assert!(parts.chunks(2).zip(1..).all(|(x, n)| (x[0] - n as f32).abs() < 1e-6 && x[1].abs() < 1e-6));
        check(("DFT", 20), &both, &[half], x);
        // A signal is cut or filled with zeros to the length asked for.
        let cut = run(("DFT", 17), &[], &[x.clone(), tensor(DataType::I32, [], &[2])]).unwrap();
        assert_eq!(*cut.values::<f32>(), [3.0, 0.0, -1.0, 0.0]);
        let outer = run_all(("DFT", 20), &[], &[Some(x.clone()), None, Some(i64s([], &[0]))], 1).unwrap();
        assert_eq!(outer[0].ty().shape, [1, 4, 2]);
    }

    #[test]
    fn pieces_are_transformed_apart() {
        let signal = f32s([1, 5, 1], &[1.0, 2.0, 3.0, 4.0, 9.0]);
        let inputs = [Some(signal), Some(i64s([], &[2])), Some(f32s([2], &[1.0, 0.5])), None];
        let y = run_all(("STFT", 17), &[], &inputs, 1).unwrap();
        assert_eq!(y[0].ty().shape, [1, 2, 2, 2]);
        assert_eq!(*y[0].values::<f32>(), [2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 1.0, 0.0]);
        let full = run_all(("STFT", 17), &[("onesided", 0.into())], &inputs[..2], 1).unwrap();
        assert_eq!(full[0].ty().shape, [1, 1, 5, 2]);
    }

    #[test]
    fn wrong_lengths_and_axes_are_refused() {
        let signal = f32s([1, 4, 1], &[0.0; 4]);
        let ty = |shape: &[usize]| TensorType::new(DataType::F32, shape);
        assert!(infer(("DFT", 17), &[("axis", 2.into())], &[ty(&[1, 4, 1])]).is_err());
        assert!(infer(("DFT", 20), &[], &[ty(&[1, 4, 3])]).is_err());
        assert!(infer(("DFT", 20), &[], &[TensorType::new(DataType::I32, [1, 4, 1])]).is_err());
        let later = [ty(&[1, 4, 1]), TensorType::new(DataType::I64, [])];
        assert!(infer(("DFT", 20), &[], &later).unwrap_err().at_run_time);
        for length in [0, -1, i64::MAX, 1 << 26] {
            assert!(run(("DFT", 20), &[], &[signal.clone(), i64s([], &[length])]).is_err(), "{length}");
        }
        for step in [0, -1] {
            assert!(run(("STFT", 17), &[], &[signal.clone(), i64s([], &[step])]).is_err());
        }
        let window = [signal, i64s([], &[1]), f32s([5], &[0.0; 5])];
        assert!(run(("STFT", 17), &[], &window).is_err());
    }
}
