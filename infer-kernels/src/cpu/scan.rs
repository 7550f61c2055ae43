//! Running sums and products along the middle axis of `[outer, axis, inner]`.
//!
//! A row is folded from one end to the other, so that a sum has the same digits in every chunk. Where elements of a row
//! are `inner` apart, a tile of rows is walked side by side. Chunks share the rows; a row may be computed in place.

use super::bounds::{product, split};
use super::elementwise::define_kernels;
use super::reduce_ops::Number;
use super::share;
use crate::call::Scan;
use crate::{Args, Call, Invalid, PerIsa, RunError};

/// Rows that are walked side by side.
const TILE: usize = 32;

/// What runs.
trait Running {
    fn first<T: Number>() -> T;
    fn fold<T: Number>(a: T, b: T) -> T;
}

struct Sum;

impl Running for Sum {
    #[inline(always)]
    fn first<T: Number>() -> T {
        T::ZERO
    }
    #[inline(always)]
    fn fold<T: Number>(a: T, b: T) -> T {
        a.plus(b)
    }
}

struct Prod;

impl Running for Prod {
    #[inline(always)]
    fn first<T: Number>() -> T {
        T::ONE
    }
    #[inline(always)]
    fn fold<T: Number>(a: T, b: T) -> T {
        a.times(b)
    }
}

/// `width` rows side by side from `from` and `to` on, whose elements are `inner` apart.
///
/// # Safety
///
/// The rows are readable and writable; `width` is at most `TILE`.
#[inline(always)]
unsafe fn rows<T: Number, R: Running>(p: &Scan, from: *const T, to: *mut T, width: usize) {
    let (axis, inner) = (p.axis as usize, p.inner as usize);
    let mut running = [R::first::<T>(); TILE];
    for step in 0..axis {
        let at = inner * if p.reverse == 1 { axis - 1 - step } else { step };
        for (lane, running) in running[..width].iter_mut().enumerate() {
            // SAFETY: the caller's promises.
            unsafe {
                let next = R::fold(*running, *from.add(at + lane));
                *to.add(at + lane) = if p.exclusive == 1 { *running } else { next };
                *running = next;
            }
        }
    }
}

/// One chunk.
unsafe fn scan<T: Number, R: Running>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p = args.params::<Scan>();
    if p.outer == 0 || p.axis == 0 || p.inner == 0 {
        return Ok(());
    }
    let (axis, inner) = (p.axis as usize, p.inner as usize);
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[1].ptr::<T>());
    let range = share(p.outer as usize * inner, chunk, chunks);
    let mut done = range.start;
    while done < range.end {
        let (outer, column) = (done / inner, done % inner);
        let width = (inner - column).min(range.end - done).min(TILE);
        // SAFETY: the rows lie inside their operands (`validate`); those of a chunk are its own.
        unsafe {
            let first = outer * axis * inner + column;
            let (from, to) = (input.add(first), output.add(first));
            // A width that is known is a loop less.
            match width {
                1 => rows::<T, R>(p, from, to, 1),
                TILE => rows::<T, R>(p, from, to, TILE),
                _ => rows::<T, R>(p, from, to, width),
            }
        }
        done += width;
    }
    Ok(())
}

pub(crate) fn validate<T: Number>(call: &Call<'_>) -> Result<(), Invalid> {
    let p = call.params::<Scan>()?;
    call.expect_operands(2)?;
    if p.exclusive > 1 || p.reverse > 1 {
        return Err(Invalid("a flag is neither 0 nor 1"));
    }
    // Bounded by itself, for an empty axis makes any number of rows fit.
    let rows = product(&[p.outer, p.inner]).ok_or(Invalid("size overflows"))?;
    usize::try_from(rows).map_err(|_| Invalid("size overflows"))?;
    let elements = product(&[p.outer, p.axis, p.inner]);
    call.expect_elements(0, elements, size_of::<T>() as u64)?;
    call.expect_elements(1, elements, size_of::<T>() as u64)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<Scan>();
    let rows = p.outer.saturating_mul(p.inner);
    split(rows, rows.saturating_mul(p.axis), threads)
}

define_kernels! {
    /// Running sums.
    CUM_SUM_F32: validate::<f32>, chunks, PerIsa::portable(scan::<f32, Sum>);
    /// Running sums.
    CUM_SUM_F64: validate::<f64>, chunks, PerIsa::portable(scan::<f64, Sum>);
    /// Running sums.
    CUM_SUM_I32: validate::<i32>, chunks, PerIsa::portable(scan::<i32, Sum>);
    /// Running sums.
    CUM_SUM_I64: validate::<i64>, chunks, PerIsa::portable(scan::<i64, Sum>);
    /// Running products.
    CUM_PROD_F32: validate::<f32>, chunks, PerIsa::portable(scan::<f32, Prod>);
    /// Running products.
    CUM_PROD_F64: validate::<f64>, chunks, PerIsa::portable(scan::<f64, Prod>);
    /// Running products.
    CUM_PROD_I32: validate::<i32>, chunks, PerIsa::portable(scan::<i32, Prod>);
    /// Running products.
    CUM_PROD_I64: validate::<i64>, chunks, PerIsa::portable(scan::<i64, Prod>);
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use bytemuck::Pod;

    use crate::call::Scan;
    use crate::cpu::testing::{Random, attack, bytes, check};

    fn every_way<T: Pod + std::fmt::Debug>(kind: &str, extents: [usize; 3], x: &[T]) {
        let [outer, axis, inner] = extents.map(|extent| extent as u64);
        for name in [format!("cum_sum_{kind}"), format!("cum_prod_{kind}")] {
            for (exclusive, reverse) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let p = Scan { outer, axis, inner, exclusive, reverse };
                // In the same order everywhere, so the same to the last bit.
                check(&name, &p, &[bytes(x)], &[size_of_val(x)], |_, _, _: T, _: T| false);
            }
        }
    }

    #[test]
    fn every_type_agrees_with_the_reference() {
        let mut random = Random::new(30);
        for axis in [0, 1, 2, 17, 100] {
            for (outer, inner) in [(1, 1), (3, 1), (2, 3), (1, 32), (2, 33), (3, 97), (0, 1), (1, 0)] {
                let (extents, count) = ([outer, axis, inner], outer * axis * inner);
                let x = random.units(count);
                every_way("f32", extents, &x);
                every_way("f64", extents, &x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
                let x: Vec<i64> = (0..count).map(|_| (random.next() << 20) as i64).collect();
                every_way("i32", extents, &x.iter().map(|&x| (x >> 20) as i32).collect::<Vec<_>>());
                every_way("i64", extents, &x);
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let x = Random::new(31).whole(60, 9);
        let p = Scan { outer: 3, axis: 5, inner: 4, exclusive: 0, reverse: 1 };
        attack("cum_sum_f32", &p, &[bytes(&x)], &[240]);
        let p = Scan { outer: 3, axis: 5, inner: 2, exclusive: 1, reverse: 0 };
        attack("cum_prod_i64", &p, &[bytes(&x)], &[240]);
    }
}
