//! Convolutions and pools of the element types without kernels, on the host.
//!
//! The loops are the definitions; what runs here is f64, which deployed models hardly use.

use infer_kernels::call::{ConvNd, PoolNd};

use super::elements::checked_elements;
use super::number::tensor_of;
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// Every position below `extents`, row-major.
fn positions(extents: [u64; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [d, h, w] = extents.map(|extent| extent as usize);
    (0..d).flat_map(move |z| (0..h).flat_map(move |y| (0..w).map(move |x| [z, y, x])))
}

fn count(extents: [u64; 3]) -> usize {
    extents.iter().product::<u64>() as usize
}

/// The element number of a position.
fn flat(position: [usize; 3], extents: [u64; 3]) -> usize {
    (position[0] * extents[1] as usize + position[1]) * extents[2] as usize + position[2]
}

/// first + step · by − pad, if that is below `extent`.
fn reached(first: usize, step: u64, by: usize, dilation: u64, pad: u64, extent: u64) -> Option<usize> {
    let at = (first as u64 * step + by as u64 * dilation).checked_sub(pad)?;
    (at < extent).then_some(at as usize)
}

/// The input position that kernel position `tap` meets at output position `at`.
fn input_position(p: &ConvNd, at: [usize; 3], tap: [usize; 3]) -> Option<[usize; 3]> {
    let mut position = [0; 3];
    for (axis, slot) in position.iter_mut().enumerate() {
        *slot =
            reached(at[axis], p.stride[axis], tap[axis], p.dilation[axis], p.pad_begin[axis], p.input[axis])?;
    }
    Some(position)
}

/// A convolution of f64: `[N, G·C, spatial]` with `[G·O, C, kernel]`; `transposed`, with `[G·C, O, kernel]`.
pub fn conv(
    inputs: [&Constant; 2],
    bias: Option<&Constant>,
    p: &ConvNd,
    transposed: bool,
    output: TensorType,
) -> Result<Constant, Reason> {
    let elements = checked_elements(&output)?;
    let [x, w] = inputs.map(|input| input.values::<f64>());
    let bias = bias.map(|bias| bias.values::<f64>());
    let (images, groups) = (p.n as usize, p.groups as usize);
    let (c, o) = (p.in_channels as usize, p.out_channels as usize);
    let (in_size, out_size, taps) = (count(p.input), count(p.output), count(p.kernel));
    let mut y = vec![0f64; elements];
    for (image, group) in (0..images).flat_map(|image| (0..groups).map(move |group| (image, group))) {
        for (to, from) in (0..o).flat_map(|to| (0..c).map(move |from| (to, from))) {
            let x_at = (image * groups * c + group * c + from) * in_size;
            let y_at = (image * groups * o + group * o + to) * out_size;
            let filter = if transposed { (group * c + from) * o + to } else { (group * o + to) * c + from };
            let w_at = filter * taps;
            // A transposed convolution is the other way round: its input positions are a convolution's outputs.
            let (outer, reverse);
            if transposed {
                outer = p.input;
                reverse = ConvNd { input: p.output, output: p.input, ..*p };
            } else {
                outer = p.output;
                reverse = *p;
            }
            for at in positions(outer) {
                for tap in positions(p.kernel) {
                    let Some(met) = input_position(&reverse, at, tap) else { continue };
                    let (source, target) = if transposed { (at, met) } else { (met, at) };
                    let x = x.get(x_at + flat(source, p.input)).copied().unwrap_or(0.0);
                    let w = w.get(w_at + flat(tap, p.kernel)).copied().unwrap_or(0.0);
                    if let Some(y) = y.get_mut(y_at + flat(target, p.output)) {
                        *y += x * w;
                    }
                }
            }
        }
    }
    if let Some(bias) = bias {
        for (channel, values) in y.chunks_mut(out_size.max(1)).enumerate() {
            let bias = bias.get(channel % (groups * o).max(1)).copied().unwrap_or(0.0);
            values.iter_mut().for_each(|value| *value += bias);
        }
    }
    tensor_of(output.dtype, &output.shape, &y)
}

/// What a pool makes of the elements in its window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The greatest, or NaN.
    Max,
    /// The mean.
    Average,
    /// The p-norm.
    Norm,
}

/// The elements of a window along one axis. Windows may be far larger than the picture: nothing walks over what lies
/// outside of it.
#[derive(Clone, Copy)]
struct Taps {
    /// The first element of the input.
    first: usize,
    /// How many lie in the input.
    inside: u64,
    /// How many lie in the input or the padding.
    padded: u64,
}

impl Taps {
    fn of(p: &PoolNd, axis: usize, at: usize) -> Taps {
        let (dilation, pad, extent) = (p.dilation[axis].max(1), p.pad_begin[axis], p.input[axis]);
        let start = at as u64 * p.stride[axis];
        // The taps before the first of which the place is at least `place`.
        let before = |place: u64| place.saturating_sub(start).div_ceil(dilation).min(p.kernel[axis]);
        let (skipped, end) = (before(pad), before(pad + extent));
        Taps {
            first: (start + skipped * dilation).saturating_sub(pad) as usize,
            inside: end - skipped,
            padded: before(pad + extent + p.pad_end[axis]),
        }
    }
}

/// A pool of f64, and the positions of the greatest elements.
pub fn pool(
    x: &Constant,
    p: &PoolNd,
    kind: Pooling,
    output: TensorType,
) -> Result<(Constant, Constant), Reason> {
    let elements = checked_elements(&output)?;
    let x = x.values::<f64>();
    let size = count(p.input);
    let (mut values, mut indices) = (Vec::with_capacity(elements), Vec::with_capacity(elements));
    for outer in 0..p.outer as usize {
        for at in positions(p.output) {
            let (mut sum, mut greatest, mut found, mut seen) = (0.0, f64::NEG_INFINITY, None, 0u64);
            let taps: [Taps; 3] = std::array::from_fn(|axis| Taps::of(p, axis, at[axis]));
            for tap in positions(taps.map(|taps| taps.inside)) {
                let position: [usize; 3] =
                    std::array::from_fn(|axis| taps[axis].first + tap[axis] * p.dilation[axis] as usize);
                let value = x.get(outer * size + flat(position, p.input)).copied().unwrap_or(0.0);
                seen += 1;
                match kind {
                    Pooling::Average => sum += value,
                    Pooling::Norm => sum += libm::pow(value.abs(), p.p as f64),
                    Pooling::Max => {
                        let is_new = found.is_none() || value > greatest || value.is_nan();
                        if is_new && !greatest.is_nan() {
                            (greatest, found) = (value, Some(position));
                        }
                    }
                }
            }
            let padded: u64 = taps.iter().map(|taps| taps.padded).product();
            let counted = if p.count_include_pad == 1 { padded } else { seen };
            values.push(match kind {
                Pooling::Max => greatest,
                Pooling::Average => sum / counted.max(1) as f64,
                Pooling::Norm => libm::pow(sum, 1.0 / p.p as f64),
            });
            let [d, h, _] = p.input.map(|extent| extent as usize);
            indices.push(match found {
                None => -1,
                Some([i, j, k]) if p.column_major == 1 => (outer * size + i + d * (j + h * k)) as i64,
                Some(position) => (outer * size + flat(position, p.input)) as i64,
            });
        }
    }
    let (dtype, shape) = (output.dtype, &output.shape);
    Ok((tensor_of(dtype, shape, &values)?, tensor_of(DataType::I64, shape, &indices)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, run, run_all, tensor};

    fn doubled(tensor: &Constant) -> Constant {
        let values: Vec<f64> = tensor.values::<f32>().iter().map(|&value| value.into()).collect();
        Constant::of(TensorType::new(DataType::F64, tensor.ty().shape.clone()), &values)
    }

    fn ramp(shape: &[usize]) -> Constant {
        let ty = TensorType::new(DataType::F32, shape);
        let values: Vec<f32> = (0..ty.elements()).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        Constant::of(ty, &values)
    }

    /// f64 gives what the kernels of f32 give, where both are exact.
    fn same(op: &str, attributes: &[(&str, Attribute)], inputs: &[Constant], outputs: usize) {
        let all = |inputs: Vec<Constant>| {
            let inputs: Vec<_> = inputs.into_iter().map(Some).collect();
            run_all((op, 13), attributes, &inputs, outputs).unwrap()
        };
        let (single, double) = (all(inputs.to_vec()), all(inputs.iter().map(doubled).collect()));
        assert_eq!(double[0].ty().dtype, DataType::F64);
        assert_eq!(double[0].ty().shape, single[0].ty().shape);
        for (a, b) in double[0].values::<f64>().iter().zip(&*single[0].values::<f32>()) {
            assert!((a - f64::from(*b)).abs() < 1e-5, "{op}: {a} is not {b}");
        }
        assert!(double[1..] == single[1..]);
    }

    #[test]
    fn doubles_compute_as_singles_do() {
        let ints = |name, values: &[i64]| (name, Attribute::Ints(values.to_vec()));
        let (x, w) = (ramp(&[2, 4, 5, 6]), ramp(&[6, 2, 3, 2]));
        let attributes = [
            ints("pads", &[1, 0, 2, 1]),
            ints("strides", &[2, 1]),
            ints("dilations", &[1, 2]),
            ("group", Attribute::Int(2)),
        ];
        same("Conv", &attributes, &[x.clone(), w, ramp(&[6])], 1);
        same("ConvTranspose", &attributes, &[x.clone(), ramp(&[4, 3, 3, 2]), ramp(&[6])], 1);
        let window = [
            ints("kernel_shape", &[3, 2]),
            ints("pads", &[1, 1, 2, 0]),
            ints("strides", &[2, 1]),
            ints("dilations", &[2, 1]),
        ];
        same("MaxPool", &window, std::slice::from_ref(&x), 2);
        same("AveragePool", &window[..3], std::slice::from_ref(&x), 1);
        let counted = [window[0].clone(), window[1].clone(), ("count_include_pad", Attribute::Int(1))];
        same("AveragePool", &counted, std::slice::from_ref(&x), 1);
        same("LpPool", &window[..2], std::slice::from_ref(&x), 1);
        same("MatMul", &[], &[ramp(&[2, 3, 4]), ramp(&[4, 5])], 1);
        let gemm = [("transA", Attribute::Int(1)), ("alpha", Attribute::Float(0.5)), ("beta", 2.0.into())];
        same("Gemm", &gemm, &[ramp(&[4, 3]), ramp(&[4, 5]), ramp(&[5])], 1);
    }

    #[test]
    fn integers_multiply_and_wrap() {
        let (a, b) = (i64s([1, 2], &[1 << 62, 3]), i64s([2, 1], &[4, 5]));
        check(("MatMul", 13), &[], &[a, b], &i64s([1, 1], &[15]));
        let unsigned = |shape: [usize; 2], values: &[u32]| tensor(DataType::U32, shape, values);
        let product = unsigned([1, 1], &[u32::MAX]);
        check(("MatMul", 13), &[], &[unsigned([1, 1], &[u32::MAX]), unsigned([1, 1], &[1])], &product);
    }

    #[test]
    fn short_types_compute_in_wider_ones() {
        let bytes = tensor(DataType::U8, [1, 1, 4], &[3u8, 200, 100, 7]);
        let kernel = [("kernel_shape", Attribute::Ints(vec![2]))];
        check(("MaxPool", 12), &kernel, &[bytes], &tensor(DataType::U8, [1, 1, 3], &[200u8, 200, 100]));
        let halves = |shape: [usize; 3], values: &[f32]| {
            let values: Vec<_> = values.iter().map(|&value| half::f16::from_f32(value)).collect();
            tensor(DataType::F16, shape, &values)
        };
        let (x, w) = (halves([1, 1, 3], &[1.0, 2.0, 3.0]), halves([1, 1, 2], &[1.0, -1.0]));
        check(("Conv", 11), &[], &[x.clone(), w.clone()], &halves([1, 1, 2], &[-1.0, -1.0]));
        check(("MatMul", 13), &[], &[x, halves([1, 3, 1], &[1.0; 3])], &halves([1, 1, 1], &[6.0]));
        assert!(run(("MatMul", 13), &[], &[f32s([1, 1], &[1.0]), i64s([1, 1], &[1])]).is_err());
    }

    #[test]
    fn large_windows_take_no_longer() {
        let x = doubled(&ramp(&[1, 1, 2, 2]));
        let huge = (1i64 << 31) - 1;
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![huge, huge])),
            ("pads", Attribute::Ints(vec![huge - 1, huge - 1, 0, 0])),
            ("strides", Attribute::Ints(vec![huge, huge])),
        ];
        let y = run(("MaxPool", 12), &attributes, &[x]).unwrap();
        assert_eq!(*y.values::<f64>(), [-5.0]);
    }
}
