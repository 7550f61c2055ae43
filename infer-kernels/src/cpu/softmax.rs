//! Softmax and its logarithm along the middle axis of `[outer, axis, inner]`.
//!
//! out = e^(x − m) / Σ e^(x − m), or (x − m) − ln Σ e^(x − m), with m the greatest x. Rows of contiguous elements are
//! walked in three passes (greatest, sum, result) that find the row in the first-level cache; where elements of a
//! row are `inner` apart, sixteen rows are walked side by side. Chunks share the rows.
//!
//! The search for m passes over NaN, which then reaches every result through the sum. Where m is infinite, x − m
//! is NaN, as IEEE says. A row may be computed in place.

use super::bounds::{product, split};
use super::math::{exp_or_zero, log};
use super::share;
use super::vector::Vector;
use crate::call::{Axis, BLOCK};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Rows of contiguous elements up to this length are walked side by side: they fill no vector of their own.
const SHORT: usize = 12;

/// Element-operations of one element, of which the exponential is most.
const WORK: u64 = 16;

/// The first `count` elements at `from`, −∞ in the other lanes.
///
/// # Safety
///
/// The processor has the instruction set of `V`; so many elements are readable.
#[inline(always)]
unsafe fn load_or_least<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's promises; the block has sixteen elements.
    unsafe {
        if count == BLOCK {
            return V::load(from);
        }
        let mut block = [f32::NEG_INFINITY; BLOCK];
        std::ptr::copy_nonoverlapping(from, block.as_mut_ptr(), count);
        V::load(block.as_ptr())
    }
}

/// The first `count` elements at `from`, 0 in the other lanes; a plain load for whole vectors, which most are.
///
/// # Safety
///
/// As for [`Vector::load_first`].
#[inline(always)]
pub(super) unsafe fn load<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's promises.
    unsafe { if count == BLOCK { V::load(from) } else { V::load_first(from, count) } }
}

/// Writes the first `count` lanes.
///
/// # Safety
///
/// As for [`Vector::store_first`].
#[inline(always)]
pub(super) unsafe fn store<V: Vector>(x: V, to: *mut f32, count: usize) {
    // SAFETY: the caller's promises.
    unsafe { if count == BLOCK { x.store(to) } else { x.store_first(to, count) } }
}

/// One row of `length` contiguous elements.
///
/// # Safety
///
/// The processor has the instruction set of `V`; the row is readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn row<V: Vector, const LOG: bool>(from: *const f32, to: *mut f32, length: usize) {
    // SAFETY: the caller's promises; `count` never exceeds the elements that are left.
    unsafe {
        // Two chains, so that neither the maximum nor the sum waits for itself.
        let mut greatest = [V::splat(f32::NEG_INFINITY); 2];
        for (turn, at) in (0..length).step_by(BLOCK).enumerate() {
            let x = load_or_least::<V>(from.add(at), (length - at).min(BLOCK));
            greatest[turn % 2] = x.max(greatest[turn % 2]);
        }
        let greatest = V::splat(greatest[0].max(greatest[1]).max_lane());
        let mut sums = [V::splat(0.0); 2];
        for (turn, at) in (0..length).step_by(BLOCK).enumerate() {
            let count = (length - at).min(BLOCK);
            let terms = exp_or_zero(load::<V>(from.add(at), count) - greatest);
            if !LOG {
                store(terms, to.add(at), count);
            }
            let terms = if count == BLOCK { terms } else { terms.keep_first(count) };
            sums[turn % 2] = sums[turn % 2] + terms;
        }
        let sum = (sums[0] + sums[1]).sum();
        let (log_sum, inverse) = (V::splat(libm::logf(sum)), V::splat(1.0 / sum));
        for at in (0..length).step_by(BLOCK) {
            let count = (length - at).min(BLOCK);
            let out = if LOG {
                (load::<V>(from.add(at), count) - greatest) - log_sum
            } else {
                load::<V>(to.add(at).cast_const(), count) * inverse
            };
            store(out, to.add(at), count);
        }
    }
}

/// `count` ≤ 16 rows side by side, whose elements are `stride` apart.
///
/// # Safety
///
/// The processor has the instruction set of `V`; the rows are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn lanes<V: Vector, const LOG: bool>(
    from: *const f32,
    to: *mut f32,
    count: usize,
    length: usize,
    stride: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut greatest = V::splat(f32::NEG_INFINITY);
        for k in 0..length {
            greatest = load::<V>(from.add(k * stride), count).max(greatest);
        }
        let mut sum = V::splat(0.0);
        for k in 0..length {
            let terms = exp_or_zero(load::<V>(from.add(k * stride), count) - greatest);
            if !LOG {
                store(terms, to.add(k * stride), count);
            }
            sum = sum + terms;
        }
        let (log_sum, inverse) = (if LOG { log(sum) } else { sum }, V::splat(1.0) / sum);
        for k in 0..length {
            let out = if LOG {
                (load::<V>(from.add(k * stride), count) - greatest) - log_sum
            } else {
                load::<V>(to.add(k * stride).cast_const(), count) * inverse
            };
            store(out, to.add(k * stride), count);
        }
    }
}

/// `count` ≤ 16 rows of `length` ≤ [`SHORT`] contiguous elements, walked side by side.
///
/// # Safety
///
/// The processor has the instruction set of `V`; the rows are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn short_rows<V: Vector, const LOG: bool>(
    from: *const f32,
    to: *mut f32,
    count: usize,
    length: usize,
) {
    let mut columns = [0.0_f32; SHORT * BLOCK];
    // SAFETY: the caller's promises; the columns hold `SHORT` rows of sixteen.
    unsafe {
        for row in 0..count {
            for k in 0..length {
                columns[k * BLOCK + row] = *from.add(row * length + k);
            }
        }
        let place = columns.as_mut_ptr();
        lanes::<V, LOG>(place, place, BLOCK, length, BLOCK);
        for row in 0..count {
            for k in 0..length {
                *to.add(row * length + k) = columns[k * BLOCK + row];
            }
        }
    }
}

#[inline(always)]
unsafe fn run<V: Vector, const LOG: bool>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let params = args.params::<Axis>();
    if product(&[params.outer, params.axis, params.inner]).is_none_or(|elements| elements == 0) {
        return Ok(());
    }
    let (outer, axis, inner) = (params.outer as usize, params.axis as usize, params.inner as usize);
    let (input, output) = (args.operands[0].ptr::<f32>().cast_const(), args.operands[1].ptr::<f32>());
    let tiles = inner.div_ceil(BLOCK);
    let items = share(outer * tiles, chunk, chunks);
    if inner == 1 && axis <= SHORT {
        for first in items.clone().step_by(BLOCK) {
            let (at, count) = (first * axis, BLOCK.min(items.end - first));
            // SAFETY: `validate` checked the number of elements; no other chunk has these rows.
            unsafe { short_rows::<V, LOG>(input.add(at), output.add(at), count, axis) };
        }
        return Ok(());
    }
    for item in items {
        let column = item % tiles * BLOCK;
        let base = item / tiles * axis * inner + column;
        // SAFETY: `validate` checked the number of elements; no other chunk has these rows.
        unsafe {
            if inner == 1 {
                row::<V, LOG>(input.add(base), output.add(base), axis);
            } else {
                let count = (inner - column).min(BLOCK);
                lanes::<V, LOG>(input.add(base), output.add(base), count, axis, inner);
            }
        }
    }
    Ok(())
}

#[inline(always)]
unsafe fn softmax<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { run::<V, false>(args, chunk, chunks) }
}

#[inline(always)]
unsafe fn log_softmax<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe { run::<V, true>(args, chunk, chunks) }
}

pub(crate) fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let params = call.params::<Axis>()?;
    call.expect_operands(2)?;
    let elements = product(&[params.outer, params.axis, params.inner]);
    call.expect_elements(0, elements, 4)?;
    call.expect_elements(1, elements, 4)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let params = args.params::<Axis>();
    let items = params.outer.saturating_mul(params.inner.div_ceil(BLOCK as u64));
    let elements = product(&[params.outer, params.axis, params.inner]).unwrap_or(0);
    split(items, elements.saturating_mul(WORK), threads)
}

/// Exponentials as shares of their sum.
pub static SOFTMAX_F32: Kernel = Kernel { name: "softmax_f32", validate, chunks, run: per_isa!(softmax<_>) };

/// The logarithm of softmax.
pub static LOG_SOFTMAX_F32: Kernel =
    Kernel { name: "log_softmax_f32", validate, chunks, run: per_isa!(log_softmax<_>) };

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::Axis;
    use crate::cpu::testing::{Random, attack, bytes, check_f32};

    fn both(outer: usize, axis: usize, inner: usize, x: &[f32]) {
        let params = Axis { outer: outer as u64, axis: axis as u64, inner: inner as u64, select_last: 0 };
        // Each sum is wrong by a rounding for each term and each exponential by a few units of the last place.
        let units = (axis + 12) as f32 * f32::EPSILON;
        check_f32("softmax_f32", &params, &[bytes(x)], &[x.len() * 4], |y| units * y + f32::MIN_POSITIVE);
        check_f32("log_softmax_f32", &params, &[bytes(x)], &[x.len() * 4], |y| units * (1.0 + y.abs()));
    }

    #[test]
    fn agrees_with_the_reference_around_the_vector_width() {
        let mut random = Random::new(1);
        for axis in [0, 1, 2, 12, 13, 15, 16, 17, 31, 33, 100] {
            for (outer, inner) in [(1, 1), (3, 1), (37, 1), (2, 2), (2, 16), (1, 19), (2, 33), (0, 1), (1, 0)]
            {
                let x: Vec<f32> = random.units(outer * axis * inner).iter().map(|x| 20.0 * x).collect();
                both(outer, axis, inner, &x);
            }
        }
    }

    #[test]
    fn infinities_and_nan_end_as_ieee_says() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
            for axis in [1, 5, 16, 40] {
                let mut x = vec![0.5; axis * 3];
                x[axis + axis / 2] = special;
                x[2 * axis..].fill(special);
                both(3, axis, 1, &x);
                both(1, axis, 3, &x);
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let x = Random::new(2).units(2 * 5 * 3);
        for name in ["softmax_f32", "log_softmax_f32"] {
            attack(name, &Axis { outer: 2, axis: 5, inner: 3, select_last: 0 }, &[bytes(&x)], &[x.len() * 4]);
        }
    }
}
