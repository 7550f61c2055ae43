//! Products, convolutions and pools of the element types without kernels, on the host.
//!
//! The loops are the definitions; what runs here is f64, which deployed models hardly use, and matrices of integers.

use infer_kernels::call::{ConvNd, PoolNd};

use super::numbers::{self, Number, Rules, broadcast_indices};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

/// Matrices to multiply: the leading axes of each side, those of the product, and M, K, N.
pub struct Matrices<'a> {
    /// The left side's.
    pub lead_a: &'a [usize],
    /// The right side's.
    pub lead_b: &'a [usize],
    /// The product's.
    pub lead: &'a [usize],
    /// M, K, N.
    pub extents: [usize; 3],
}

/// The product of row-major matrices of f64 or integers, which wrap.
pub fn matmul(a: &Constant, b: &Constant, of: &Matrices<'_>, output: TensorType) -> Result<Constant, Reason> {
    numbers::checked_elements(&output)?;
    if output.dtype == DataType::F64 {
        let (a, b) = (numbers::to_f64s(a)?, numbers::to_f64s(b)?);
        let products = multiply(&a, &b, of, 0.0, |sum, a, b| sum + a * b)?;
        return numbers::of_f64s(output, products.into_iter());
    }
    let integers = |tensor: &Constant| -> Result<Vec<i64>, Reason> {
        let values = numbers::numbers(tensor)?.map(|number| match number {
            Number::Integer(x) => x as i64,
            Number::Float(x) => x as i64,
        });
        Ok(values.collect())
    };
    let (a, b) = (integers(a)?, integers(b)?);
    let products = multiply(&a, &b, of, 0, |sum: i64, a, b: i64| sum.wrapping_add(b.wrapping_mul(a)))?;
    let products = products.into_iter().map(|x| Number::Integer(x.into()));
    numbers::tensor(output, products, Rules::default())
}

fn multiply<T: Copy>(
    a: &[T],
    b: &[T],
    of: &Matrices<'_>,
    zero: T,
    add: impl Fn(T, T, T) -> T,
) -> Result<Vec<T>, Reason> {
    let [m, k, n] = of.extents;
    let (left, right) = (broadcast_indices(of.lead_a, of.lead)?, broadcast_indices(of.lead_b, of.lead)?);
    let mut products = Vec::with_capacity(left.len() * m * n);
    for (&left, &right) in left.iter().zip(&right) {
        let wrong = || Reason::new("a matrix lies outside of its tensor");
        let a = a.get(left * m * k..(left + 1) * m * k).ok_or_else(wrong)?;
        let b = b.get(right * k * n..(right + 1) * k * n).ok_or_else(wrong)?;
        for row in 0..m {
            let mut sums = vec![zero; n];
            if n > 0 {
                for (&factor, other) in a[row * k..(row + 1) * k].iter().zip(b.chunks_exact(n)) {
                    for (sum, &value) in sums.iter_mut().zip(other) {
                        *sum = add(*sum, factor, value);
                    }
                }
            }
            products.extend_from_slice(&sums);
        }
    }
    Ok(products)
}

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
    let elements = numbers::checked_elements(&output)?;
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
    numbers::of(output, &y)
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

/// A pool of f64, and the positions of the greatest elements.
pub fn pool(
    x: &Constant,
    p: &PoolNd,
    kind: Pooling,
    output: TensorType,
) -> Result<(Constant, Constant), Reason> {
    let elements = numbers::checked_elements(&output)?;
    let x = x.values::<f64>();
    let size = count(p.input);
    let (mut values, mut indices) = (Vec::with_capacity(elements), Vec::with_capacity(elements));
    let window = ConvNd {
        input: p.input,
        stride: p.stride,
        dilation: p.dilation,
        pad_begin: p.pad_begin,
        ..ConvNd::default()
    };
    for outer in 0..p.outer as usize {
        for at in positions(p.output) {
            let (mut sum, mut greatest, mut found, mut padded) = (0.0, f64::NEG_INFINITY, None, 0u64);
            let mut seen = 0u64;
            for tap in positions(p.kernel) {
                let in_padding = (0..3).all(|axis| {
                    let reach = at[axis] as u64 * p.stride[axis] + tap[axis] as u64 * p.dilation[axis];
                    reach < p.pad_begin[axis] + p.input[axis] + p.pad_end[axis]
                });
                padded += u64::from(in_padding);
                let Some(position) = input_position(&window, at, tap) else { continue };
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
    let places = TensorType::new(DataType::I64, output.shape.clone());
    Ok((numbers::of(output, &values)?, numbers::of(places, &indices)?))
}
