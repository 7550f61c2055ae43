//! The transforms of Winograd's convolution, on vectors of sixteen channels.
//!
//! A tile of m × m outputs of a 3×3 convolution is Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A, d being the (m + 2) × (m + 2) inputs
//! that it reads and g the filter: (m + 2)² products instead of 9 m². The matrices follow from m + 2 points at which
//! polynomials are evaluated, of which the last is infinity: A has their powers, G the powers divided by
//! N(p) = Π (p − q) over the other points q, and B the coefficients of Π (x − q).
//!
//! F(4,3) uses 0, ±5/8 and ±3/2: their powers are exact, and nearer to each other than those of 0, ±1 and ±2, which
//! keeps rounding errors several times smaller.

use crate::cpu::vector::Vector;

/// One-dimensional transforms: `IN` inputs, `OUT` = `IN` − 2 outputs.
pub(crate) trait Algorithm<const IN: usize, const OUT: usize> {
    /// Bᵀ x
    fn input<V: Vector>(x: [V; IN]) -> [V; IN];
    /// G g
    fn filter<V: Vector>(g: [V; 3]) -> [V; IN];
    /// Aᵀ y
    fn output<V: Vector>(y: [V; IN]) -> [V; OUT];
}

/// F(4,3)
pub(crate) struct Four;

/// The points are 0, ±`A`, ±`B` and infinity.
const A: f32 = 0.625;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

impl Algorithm<6, 4> for Four {
    #[inline(always)]
    fn input<V: Vector>(x: [V; 6]) -> [V; 6] {
        let (a, a2, b, b2) = (x[0].constant(A), x[0].constant(-A2), x[0].constant(B), x[0].constant(-B2));
        let (sum, product) = (x[0].constant(-(A2 + B2)), x[0].constant(A2 * B2));
        let (even_a, odd_a) = (x[2].mul_add(b2, x[4]), x[1].mul_add(b2, x[3]));
        let (even_b, odd_b) = (x[2].mul_add(a2, x[4]), x[1].mul_add(a2, x[3]));
        let (odd_a, odd_b) = (odd_a * a, odd_b * b);
        [
            x[2].mul_add(sum, x[0].mul_add(product, x[4])),
            even_a + odd_a,
            even_a - odd_a,
            even_b + odd_b,
            even_b - odd_b,
            x[3].mul_add(sum, x[1].mul_add(product, x[5])),
        ]
    }

    #[inline(always)]
    fn filter<V: Vector>(g: [V; 3]) -> [V; 6] {
        const N0: f32 = A2 * B2;
        const NA: f32 = 2.0 * A2 * (A2 - B2);
        const NB: f32 = 2.0 * B2 * (B2 - A2);
        let one = |n: f32| g[0].constant(1.0 / n);
        let (even_a, odd_a) = (g[2].mul_add(g[0].constant(A2), g[0]) * one(NA), g[1] * one(NA / A));
        let (even_b, odd_b) = (g[2].mul_add(g[0].constant(B2), g[0]) * one(NB), g[1] * one(NB / B));
        [g[0] * one(N0), even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g[2]]
    }

    #[inline(always)]
    fn output<V: Vector>(y: [V; 6]) -> [V; 4] {
        let (a, a2, a3) = (y[0].constant(A), y[0].constant(A2), y[0].constant(A2 * A));
        let (b, b2, b3) = (y[0].constant(B), y[0].constant(B2), y[0].constant(B2 * B));
        let (even_a, odd_a) = (y[1] + y[2], y[1] - y[2]);
        let (even_b, odd_b) = (y[3] + y[4], y[3] - y[4]);
        [
            y[0] + even_a + even_b,
            odd_a.mul_add(a, odd_b * b),
            even_a.mul_add(a2, even_b * b2),
            odd_a.mul_add(a3, odd_b.mul_add(b3, y[5])),
        ]
    }
}

/// F(2,3), on the points 0, ±1 and infinity.
pub(crate) struct Two;

impl Algorithm<4, 2> for Two {
    #[inline(always)]
    fn input<V: Vector>(x: [V; 4]) -> [V; 4] {
        [x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]]
    }

    #[inline(always)]
    fn filter<V: Vector>(g: [V; 3]) -> [V; 4] {
        let half = g[0].constant(0.5);
        let (even, odd) = ((g[0] + g[2]) * half, g[1] * half);
        [g[0], even + odd, even - odd, g[2]]
    }

    #[inline(always)]
    fn output<V: Vector>(y: [V; 4]) -> [V; 2] {
        [y[0] + y[1] + y[2], y[1] - y[2] - y[3]]
    }
}

/// Bᵀ d B of the inputs from `from` on, row by row into planes at a distance of `plane`. Only the first `extent` rows
/// and columns are read, the others are zero.
///
/// # Safety
///
/// The processor has `V`'s instruction set; the inputs are readable at distances of `steps` (rows, columns), and
/// sixteen elements of each plane writable.
#[inline(always)]
pub(crate) unsafe fn transform_input<V: Vector, T, const IN: usize, const OUT: usize>(
    from: *const f32,
    steps: [usize; 2],
    extent: [usize; 2],
    to: *mut f32,
    plane: usize,
) where
    T: Algorithm<IN, OUT>,
{
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(0.0);
        let mut half = [[zero; IN]; IN];
        if extent == [IN, IN] {
            for (column, half) in half.iter_mut().enumerate() {
                let mut x = [zero; IN];
                for (row, x) in x.iter_mut().enumerate() {
                    *x = V::load(from.add(row * steps[0] + column * steps[1]));
                }
                *half = T::input(x);
            }
        } else {
            for (column, half) in half.iter_mut().enumerate().take(extent[1]) {
                let mut x = [zero; IN];
                for (row, x) in x.iter_mut().enumerate().take(extent[0]) {
                    *x = V::load(from.add(row * steps[0] + column * steps[1]));
                }
                *half = T::input(x);
            }
        }
        for row in 0..IN {
            let mut x = [zero; IN];
            for (x, column) in x.iter_mut().zip(&half) {
                *x = column[row];
            }
            for (column, x) in T::input(x).into_iter().enumerate() {
                x.store(to.add((row * IN + column) * plane));
            }
        }
    }
}

/// G g Gᵀ, row by row.
#[inline(always)]
pub(crate) fn transform_filter<V: Vector, T, const IN: usize, const OUT: usize>(
    filter: [[V; 3]; 3],
) -> [[V; IN]; IN]
where
    T: Algorithm<IN, OUT>,
{
    let mut half = [T::filter(filter[0]); 3];
    for column in 0..3 {
        half[column] = T::filter([filter[0][column], filter[1][column], filter[2][column]]);
    }
    let mut rows = [half[0]; IN];
    for (row, out) in rows.iter_mut().enumerate() {
        *out = T::filter([half[0][row], half[1][row], half[2][row]]);
    }
    rows
}

/// The columns of Aᵀ y, read from planes at a distance of `plane`: row by row what is left to be transformed along it.
///
/// # Safety
///
/// The processor has `V`'s instruction set; sixteen elements of each plane are readable.
#[inline(always)]
pub(crate) unsafe fn transform_output_columns<V: Vector, T, const IN: usize, const OUT: usize>(
    from: *const f32,
    plane: usize,
) -> [[V; IN]; OUT]
where
    T: Algorithm<IN, OUT>,
{
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(0.0);
        let mut half = [[zero; IN]; OUT];
        for column in 0..IN {
            let mut y = [zero; IN];
            for (row, y) in y.iter_mut().enumerate() {
                *y = V::load(from.add((row * IN + column) * plane));
            }
            for (half, y) in half.iter_mut().zip(T::output(y)) {
                half[column] = y;
            }
        }
        half
    }
}
