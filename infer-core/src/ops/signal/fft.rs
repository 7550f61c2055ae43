//! The discrete Fourier transform of any length, in f64.
//!
//! Lengths that are powers of two by the radix-2 algorithm; others by Bluestein's, a convolution with a chirp, done by
//! transforms of a power of two. Sines and cosines come from `libm`, so that results do not depend on the machine.

use crate::diagnostic::Reason;

/// A complex number.
pub(super) type Complex = [f64; 2];

/// The longest transform by powers of two, beyond which memory would run out.
const MAX_POWER: usize = 1 << 23;

fn times(a: Complex, b: Complex) -> Complex {
    [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
}

/// e^(−2πi·k/n)
fn root(k: usize, n: usize) -> Complex {
    let (sin, cos) = libm::sincos(std::f64::consts::TAU * k as f64 / n as f64);
    [cos, -sin]
}

/// [`root`], exact where it is real or imaginary.
fn exact_root(k: usize, n: usize) -> Complex {
    let k = k % n;
    match (4 * k / n, 4 * k % n) {
        (0, 0) => [1.0, 0.0],
        (1, 0) => [0.0, -1.0],
        (2, 0) => [-1.0, 0.0],
        (3, 0) => [0.0, 1.0],
        _ => root(k, n),
    }
}

/// A transform as a product with a matrix.
pub(super) struct Product {
    /// The numbers of a whole signal or spectrum.
    pub length: usize,
    /// How many numbers of them there are; the others are zero.
    pub taken: usize,
    /// The parts of each.
    pub parts: usize,
    /// How many numbers it gives.
    pub given: usize,
    /// Whether it is the inverse.
    pub inverse: bool,
    /// Whether what it takes is one half of a spectrum whose other half mirrors it: what it gives is real.
    pub half: bool,
}

impl Product {
    /// The matrix, `[taken · parts, given · parts of a result]`.
    pub(super) fn matrix(&self) -> Vec<f64> {
        let out_parts = if self.half { 1 } else { 2 };
        let mut matrix = Vec::with_capacity(self.taken * self.parts * self.given * out_parts);
        for n in 0..self.taken {
            let is_mirrored = self.half && n != 0 && 2 * n != self.length;
            let scale = match (self.inverse, is_mirrored) {
                (false, _) => 1.0,
                (true, false) => 1.0 / self.length as f64,
                (true, true) => 2.0 / self.length as f64,
            };
            for part in 0..self.parts {
                for k in 0..self.given {
                    let [re, im] = exact_root(n * k, self.length).map(|x| x * scale);
                    let im = if self.inverse { -im } else { im };
                    // (re + i·im) · (x + i·y) for what is x and what is y.
                    let [of_re, of_im] = if part == 0 { [re, im] } else { [-im, re] };
                    matrix.push(of_re);
                    if !self.half {
                        matrix.push(of_im);
                    }
                }
            }
        }
        matrix
    }
}

/// What transforms of one length have in common.
pub(super) struct Fft {
    length: usize,
    /// The length of the transforms by powers of two.
    power: usize,
    /// The roots of unity of `power`, half of them.
    roots: Vec<Complex>,
    /// For other lengths the chirp and the transform of its inverse.
    chirp: Option<(Vec<Complex>, Vec<Complex>)>,
}

impl Fft {
    /// Of length `length`.
    pub(super) fn new(length: usize) -> Result<Self, Reason> {
        let direct = length.is_power_of_two();
        let power = if direct {
            Some(length)
        } else {
            length.checked_mul(2).and_then(usize::checked_next_power_of_two)
        };
        let power = power
            .filter(|&power| length > 0 && power <= MAX_POWER)
            .ok_or_else(|| Reason::new(format!("a Fourier transform of length {length}")))?;
        let roots = (0..power / 2).map(|k| root(k, power)).collect();
        let mut fft = Fft { length, power, roots, chirp: None };
        if !direct {
            // e^(−πi·k²/n), of which k² counts modulo 2n.
            let chirp: Vec<Complex> = (0..length)
                .map(|k| root((k as u128 * k as u128 % (2 * length as u128)) as usize, 2 * length))
                .collect();
            let mut inverse = vec![[0.0; 2]; power];
            for (k, &[re, im]) in chirp.iter().enumerate() {
                inverse[k] = [re, -im];
                inverse[(power - k) % power] = [re, -im];
            }
            fft.radix_2(&mut inverse);
            fft.chirp = Some((chirp, inverse));
        }
        Ok(fft)
    }

    /// The transform of `power` numbers in place.
    fn radix_2(&self, data: &mut [Complex]) {
        let bits = self.power.trailing_zeros();
        if bits == 0 {
            return;
        }
        for i in 0..data.len() {
            let j = i.reverse_bits() >> (usize::BITS - bits);
            if i < j {
                data.swap(i, j);
            }
        }
        let mut half = 1;
        while half < data.len() {
            let step = self.power / (2 * half);
            for block in data.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((a, b), &root) in low.iter_mut().zip(high).zip(self.roots.iter().step_by(step)) {
                    let turned = times(*b, root);
                    *b = [a[0] - turned[0], a[1] - turned[1]];
                    *a = [a[0] + turned[0], a[1] + turned[1]];
                }
            }
            half *= 2;
        }
    }

    /// The transform of `data`, which has the length, in place.
    pub(super) fn forward(&self, data: &mut [Complex]) {
        debug_assert_eq!(data.len(), self.length);
        let Some((chirp, inverse)) = &self.chirp else { return self.radix_2(data) };
        let mut work = vec![[0.0; 2]; self.power];
        for ((work, &x), &turn) in work.iter_mut().zip(&*data).zip(chirp) {
            *work = times(x, turn);
        }
        self.radix_2(&mut work);
        // The inverse transform by exchanging parts before and after.
        for (work, &turn) in work.iter_mut().zip(inverse) {
            let [re, im] = times(*work, turn);
            *work = [im, re];
        }
        self.radix_2(&mut work);
        let scale = 1.0 / self.power as f64;
        for ((out, &[im, re]), &turn) in data.iter_mut().zip(&work).zip(chirp) {
            *out = times([re * scale, im * scale], turn);
        }
    }

    /// The inverse transform of `data`, which has the length, in place.
    pub(super) fn inverse(&self, data: &mut [Complex]) {
        data.iter_mut().for_each(|x| x.swap(0, 1));
        self.forward(data);
        let scale = 1.0 / self.length as f64;
        for x in data {
            *x = [x[1] * scale, x[0] * scale];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_agrees_with_the_definition() {
        for length in (1..=20).chain([31, 32, 48, 97]) {
            let signal: Vec<Complex> =
                (0..length).map(|i| [(i * 7 % 11) as f64 - 4.0, (i * 5 % 13) as f64 - 6.0]).collect();
            let fft = Fft::new(length).unwrap();
            let mut data = signal.clone();
            fft.forward(&mut data);
            for (k, x) in data.iter().enumerate() {
                let mut sum = [0.0; 2];
                for (n, &value) in signal.iter().enumerate() {
                    let term = times(value, root(k * n % length, length));
                    sum = [sum[0] + term[0], sum[1] + term[1]];
                }
                assert!((x[0] - sum[0]).abs() < 1e-10 && (x[1] - sum[1]).abs() < 1e-10, "{length} {k}");
            }
            fft.inverse(&mut data);
            let close = |(a, b): (&Complex, &Complex)| (a[0] - b[0]).abs() + (a[1] - b[1]).abs() < 1e-10;
            assert!(data.iter().zip(&signal).all(close), "{length}");
        }
        for (length, inverse) in [(1, false), (5, false), (8, true), (12, true), (97, false)] {
            let signal: Vec<Complex> =
                (0..length).map(|i| [(i * 7 % 11) as f64, (i * 5 % 13) as f64]).collect();
            let product = Product { length, taken: length, parts: 2, given: length, inverse, half: false };
            let matrix = product.matrix();
            let parts: Vec<f64> = signal.iter().flatten().copied().collect();
            let fft = Fft::new(length).unwrap();
            let mut data = signal;
            if inverse {
                fft.inverse(&mut data)
            } else {
                fft.forward(&mut data)
            }
            for (at, &expected) in data.iter().flatten().enumerate() {
                let sum: f64 = parts.iter().enumerate().map(|(i, x)| x * matrix[i * 2 * length + at]).sum();
                assert!((sum - expected).abs() < 1e-10, "{length} {at}");
            }
        }
        assert!(Fft::new(0).is_err() && Fft::new(usize::MAX).is_err() && Fft::new(1 << 23).is_ok());
    }
}
