//! HannWindow, HammingWindow, BlackmanWindow: weights of the samples of a piece; MelWeightMatrix: weights of
//! frequencies that make bands of equal width to the ear.
//!
//! <https://onnx.ai/onnx/operators/onnx__HannWindow.html> and so on, all since opset 17; outputs of every type of
//! numbers that [`NUMBERS`] has, by the attribute `output_datatype`.

use crate::calls::LowerNode;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::ops::elements::expect_elements;
use crate::ops::number::{NUMBERS, of_f64s, to_f64s};
use crate::ops::shape::lower_evaluated;
use crate::ops::signal::known_scalar;
use crate::ops::{ImportNode, NodeTypes, Operator};
use crate::tensor_type::{DataType, TensorType};

fn output_type(node: &mut ImportNode) -> Result<DataType, Reason> {
    let code = node.attributes.int("output_datatype")?.unwrap_or(DataType::F32 as i64);
    let wrong = || Reason::new(format!("element type number {code} is not supported"));
    let dtype = i32::try_from(code).ok().and_then(DataType::from_onnx).ok_or_else(wrong)?;
    if NUMBERS.contains(&dtype) { Ok(dtype) } else { Err(wrong()) }
}

/// Which window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// ½ − ½·cos t
    Hann,
    /// 25/46 − 21/46·cos t
    Hamming,
    /// 0.42 − ½·cos t + 0.08·cos 2t
    Blackman,
}

/// A window of as many samples as the input says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which.
    pub shape: Shape,
    /// The element type.
    pub dtype: DataType,
    /// Whether one more sample would begin the next period, not end this one.
    pub periodic: bool,
}

/// Imports a window.
pub(super) fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let shape = match node.op_type.as_str() {
        "HannWindow" => Shape::Hann,
        "HammingWindow" => Shape::Hamming,
        _ => Shape::Blackman,
    };
    let periodic = node.attributes.flag("periodic", true)?;
    Ok(Box::new(Window { shape, dtype: output_type(node)?, periodic }))
}

impl Window {
    /// The weight of sample `index` of `size`.
    fn weight(&self, index: usize, size: usize) -> f64 {
        let period = if self.periodic { size } else { size - 1 };
        // A window of one sample is that of its middle.
        let t = match period {
            0 => std::f64::consts::PI,
            period => std::f64::consts::TAU * index as f64 / period as f64,
        };
        let half = libm::sin(t / 2.0);
        match self.shape {
            Shape::Hann => half * half,
            Shape::Hamming => 25.0 / 46.0 - 21.0 / 46.0 * libm::cos(t),
            Shape::Blackman => 0.42 - 0.5 * libm::cos(t) + 0.08 * libm::cos(2.0 * t),
        }
    }
}

impl Operator for Window {
    fn name(&self) -> &'static str {
        match self.shape {
            Shape::Hann => "HannWindow",
            Shape::Hamming => "HammingWindow",
            Shape::Blackman => "BlackmanWindow",
        }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        node.ty(0)?;
        let size = known_scalar(node, 0, "size")?.unwrap_or(0);
        let extent = usize::try_from(size).map_err(|_| Reason::new(format!("input `size` is {size}")))?;
        expect_elements(&[extent], size_of::<f64>())?;
        Ok(vec![TensorType::new(self.dtype, [extent])])
    }

    fn evaluate(&self, node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        let Some(output) = self.infer(node)?.pop() else { return Ok(None) };
        let size = output.elements();
        let values: Vec<f64> = (0..size).map(|index| self.weight(index, size)).collect();
        Ok(Some(vec![of_f64s(output, values)?]))
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        lower_evaluated(self, node)
    }
}

/// The inputs of a MelWeightMatrix.
const NAMES: [&str; 5] =
    ["num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz"];

/// Triangular bands over the frequencies of a spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MelWeightMatrix {
    /// The element type.
    pub dtype: DataType,
}

/// Imports a MelWeightMatrix.
pub(super) fn import_mel(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(MelWeightMatrix { dtype: output_type(node)? }))
}

impl MelWeightMatrix {
    fn extents(&self, node: &NodeTypes<'_>) -> Result<[usize; 2], Reason> {
        let count = |index: usize, name: &str, least: i64| {
            let value = known_scalar(node, index, name)?
                .ok_or_else(|| Reason::new(format!("input `{name}` is missing")))?;
            let count = usize::try_from(value).ok().filter(|_| value >= least);
            count.ok_or_else(|| Reason::new(format!("input `{name}` is {value}")))
        };
        Ok([count(1, NAMES[1], 1)? / 2 + 1, count(0, NAMES[0], 0)?])
    }
}

impl Operator for MelWeightMatrix {
    fn name(&self) -> &'static str {
        "MelWeightMatrix"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let output = TensorType::new(self.dtype, self.extents(node)?);
        expect_elements(&output.shape, size_of::<f64>())?;
        for (index, name) in NAMES.iter().enumerate() {
            node.known(index, name)?;
        }
        Ok(vec![output])
    }

    fn evaluate(&self, node: &NodeTypes<'_>) -> Result<Option<Vec<Constant>>, Reason> {
        let Some(output) = self.infer(node)?.pop() else { return Ok(None) };
        let [frequencies, bands] = [output.shape[0], output.shape[1]];
        let missing = |index: usize| Reason::new(format!("input `{}` is missing", NAMES[index]));
        let integer = |index: usize| known_scalar(node, index, NAMES[index])?.ok_or_else(|| missing(index));
        let (dft_length, sample_rate) = (integer(1)?, integer(2)?);
        let hertz = |index: usize| {
            let known = node.known(index, NAMES[index])?.ok_or_else(|| missing(index))?;
            match to_f64s(known)?.as_slice() {
                &[hertz] => Ok(hertz),
                values => Err(Reason::new(format!("input {index} has {} elements, not one", values.len()))),
            }
        };
        let mel = |hertz: f64| 2595.0 * libm::log1p(hertz / 700.0) / std::f64::consts::LN_10;
        let (low, high) = (mel(hertz(3)?), mel(hertz(4)?));
        let edges = bands.checked_add(2).ok_or_else(|| Reason::new(format!("{bands} bands")))?;
        let step = (high - low) / edges as f64;
        let edge = |index: usize| {
            let mel = index as f64 * step + low;
            let hertz = 700.0 * libm::expm1(mel / 2595.0 * std::f64::consts::LN_10);
            let bin = ((dft_length as f64 + 1.0) * hertz / sample_rate as f64).floor();
            // A band may end beyond the last frequency, but not begin there.
            if bin >= 0.0 && bin <= frequencies as f64 {
                Ok(bin as usize)
            } else {
                Err(Reason::new(format!("a band at {hertz} Hz, outside of {frequencies} frequencies")))
            }
        };
        let mut weights = vec![0.0; output.elements()];
        for band in 0..bands {
            let (left, centre, right) = (edge(band)?, edge(band + 1)?, edge(band + 2)?);
            let mut set = |frequency: usize, weight: f64| match weights.get_mut(frequency * bands + band) {
                Some(slot) => {
                    *slot = weight;
                    Ok(())
                }
                None => Err(Reason::new(format!("a band at frequency {frequency} of {frequencies}"))),
            };
            if left == centre {
                set(centre, 1.0)?;
            }
            if centre > left {
                for frequency in left..=centre {
                    set(frequency, (frequency - left) as f64 / (centre - left) as f64)?;
                }
            }
            for frequency in centre..right {
                set(frequency, (right - frequency) as f64 / (right - centre) as f64)?;
            }
        }
        Ok(Some(vec![of_f64s(output, weights)?]))
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        lower_evaluated(self, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, import, infer, run, tensor};

    #[test]
    fn windows_by_hand() {
        let size = [i64s([], &[4])];
        check(("HannWindow", 17), &[], &size, &f32s([4], &[0.0, 0.5, 1.0, 0.5]));
        let symmetric = [("periodic", Attribute::Int(0))];
        check(("HannWindow", 17), &symmetric, &size, &f32s([4], &[0.0, 0.75, 0.75, 0.0]));
        let ends = 25.0 / 46.0 - 21.0 / 46.0;
        check(("HammingWindow", 17), &[], &size, &f32s([4], &[ends, 25.0 / 46.0, 1.0, 25.0 / 46.0]));
        check(("BlackmanWindow", 17), &[], &size, &f32s([4], &[0.0, 0.34, 1.0, 0.34]));
        let halves = [("output_datatype", Attribute::Int(DataType::F16 as i64))];
        let expected = [0.0, 0.5, 1.0, 0.5].map(half::f16::from_f32);
        check(("HannWindow", 17), &halves, &size, &tensor(DataType::F16, [4], &expected));
        check(("HannWindow", 17), &symmetric, &[i64s([], &[1])], &f32s([1], &[1.0]));
        for size in [-1, i64::MAX] {
            assert!(run(("HannWindow", 17), &[], &[i64s([], &[size])]).is_err());
        }
        let later = infer(("HannWindow", 17), &[], &[TensorType::new(DataType::I64, [])]);
        assert!(later.unwrap_err().at_run_time);
        let strings = [("output_datatype", Attribute::Int(8))];
        assert!(import_err(&strings));
    }

    fn import_err(attributes: &[(&str, Attribute)]) -> bool {
        import(("HannWindow", 17), attributes, 1, 1).is_err()
    }

    #[test]
    fn bands_rise_and_fall() {
        let inputs = |rate: i64, high: f32| {
            let scalar = |value: f32| f32s([], &[value]);
            [i64s([], &[2]), i64s([], &[16]), i64s([], &[rate]), scalar(0.0), scalar(high)]
        };
        let y = run(("MelWeightMatrix", 17), &[], &inputs(8000, 4000.0)).unwrap();
        assert_eq!(y.ty().shape, [9, 2]);
        let weights = y.values::<f32>().into_owned();
        for band in 0..2 {
            let column: Vec<f32> = weights.chunks(2).map(|row| row[band]).collect();
            assert!(column.iter().all(|w| (0.0..=1.0).contains(w)) && column.contains(&1.0), "{column:?}");
        }
        for (rate, high) in [(0, 4000.0), (-5, 4000.0), (8000, 1e9), (8000, f32::NAN)] {
            assert!(run(("MelWeightMatrix", 17), &[], &inputs(rate, high)).is_err(), "{rate} {high}");
        }
    }
}
