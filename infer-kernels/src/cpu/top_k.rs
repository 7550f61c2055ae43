//! The greatest or smallest elements along the middle axis of `[outer, axis, inner]`, in order, and where they are.
//!
//! NaN is the greatest; of equal elements the first comes first. What goes before what is a total order, so that there is one
//! result. Chunks share the rows. The best of a row are kept as a heap in the outputs themselves, the last of them at its
//! root, and sorted there.

use super::bounds::{product, split};
use super::elementwise::define_kernels;
use super::reduce_ops::Number;
use super::share;
use crate::call::TopK;
use crate::{Args, Call, Invalid, PerIsa, RunError};

/// An element and where it is.
type Entry<T> = (T, i64);

/// Whether `a` goes before `b`.
#[inline(always)]
fn precedes<T: Number, const SMALLEST: bool>(a: Entry<T>, b: Entry<T>) -> bool {
    let ((x, at), (y, other)) = (a, b);
    let greater = x > y || x.undefined() && !y.undefined();
    let smaller = x < y || !x.undefined() && y.undefined();
    let (first, second) = if SMALLEST { (smaller, greater) } else { (greater, smaller) };
    first || !second && at < other
}

/// The results of one row.
struct Row<T> {
    values: *mut T,
    indices: *mut i64,
    stride: usize,
}

impl<T: Number> Row<T> {
    /// # Safety
    ///
    /// The row has more than `slot` results, which were written.
    #[inline(always)]
    unsafe fn get(&self, slot: usize) -> Entry<T> {
        // SAFETY: passed on.
        unsafe { (*self.values.add(slot * self.stride), *self.indices.add(slot * self.stride)) }
    }

    /// # Safety
    ///
    /// The row has more than `slot` results.
    #[inline(always)]
    unsafe fn set(&self, slot: usize, entry: Entry<T>) {
        // SAFETY: passed on.
        unsafe {
            *self.values.add(slot * self.stride) = entry.0;
            *self.indices.add(slot * self.stride) = entry.1;
        }
    }

    /// Puts `entry` into the heap of the first `count` results below `slot`, which is free.
    ///
    /// # Safety
    ///
    /// The row has `count` results, which were written, and `slot` is one of them.
    #[inline(always)]
    unsafe fn sink<const SMALLEST: bool>(&self, mut slot: usize, count: usize, entry: Entry<T>) {
        // SAFETY: children are looked at where they are below `count`.
        unsafe {
            loop {
                let mut child = 2 * slot + 1;
                if child >= count {
                    break;
                }
                let mut later = self.get(child);
                if child + 1 < count {
                    let other = self.get(child + 1);
                    if precedes::<T, SMALLEST>(later, other) {
                        (child, later) = (child + 1, other);
                    }
                }
                if !precedes::<T, SMALLEST>(entry, later) {
                    break;
                }
                self.set(slot, later);
                slot = child;
            }
            self.set(slot, entry);
        }
    }
}

unsafe fn select<T: Number>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    // SAFETY: the contract of `ChunkFn` is passed on.
    unsafe {
        match args.params::<TopK>().smallest {
            1 => select_by::<T, true>(args, chunk, chunks),
            _ => select_by::<T, false>(args, chunk, chunks),
        }
    }
}

#[inline(always)]
unsafe fn select_by<T: Number, const SMALLEST: bool>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p: &TopK = args.params();
    if p.outer == 0 || p.inner == 0 || p.k == 0 {
        return Ok(());
    }
    let (axis, inner, k) = (p.axis as usize, p.inner as usize, p.k as usize);
    let input = args.operands[0].ptr::<T>().cast_const();
    for number in share(p.outer as usize * inner, chunk, chunks) {
        let (outer, column) = (number / inner, number % inner);
        // SAFETY: rows of `axis` elements and of `k` results, of which there are no more, lie inside the operands
        // (`validate`); the results of a chunk are its own.
        unsafe {
            let from = input.add(outer * axis * inner + column);
            let first = outer * k * inner + column;
            let row = Row {
                values: args.operands[1].ptr::<T>().add(first),
                indices: args.operands[2].ptr::<i64>().add(first),
                stride: inner,
            };
            for at in 0..k {
                row.set(at, (*from.add(at * inner), at as i64));
            }
            for slot in (0..k / 2).rev() {
                row.sink::<SMALLEST>(slot, k, row.get(slot));
            }
            let mut last = row.get(0);
            for at in k..axis {
                let entry = (*from.add(at * inner), at as i64);
                if precedes::<T, SMALLEST>(entry, last) {
                    row.sink::<SMALLEST>(0, k, entry);
                    last = row.get(0);
                }
            }
            for count in (1..k).rev() {
                let (last, entry) = (row.get(0), row.get(count));
                row.sink::<SMALLEST>(0, count, entry);
                row.set(count, last);
            }
        }
    }
    Ok(())
}

pub(crate) fn validate(call: &Call<'_>, bytes: u64) -> Result<(), Invalid> {
    let p: &TopK = call.params()?;
    call.expect_operands(3)?;
    if p.k > p.axis || p.smallest > 1 {
        return Err(Invalid("more results than elements, or an unknown order"));
    }
    call.expect_elements(0, product(&[p.outer, p.axis, p.inner]), bytes)?;
    let results = product(&[p.outer, p.k, p.inner]);
    call.expect_elements(1, results, bytes)?;
    call.expect_elements(2, results, 8)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &TopK = args.params();
    let rows = p.outer.saturating_mul(p.inner);
    let steps = p.axis.saturating_add(p.k.saturating_mul(8));
    split(rows, rows.saturating_mul(steps), threads)
}

define_kernels! {
    /// The greatest or smallest elements of f32.
    TOP_K_F32: |call| validate(call, 4), chunks, PerIsa::portable(select::<f32>);
    /// The greatest or smallest elements of f64.
    TOP_K_F64: |call| validate(call, 8), chunks, PerIsa::portable(select::<f64>);
    /// The greatest or smallest elements of i32.
    TOP_K_I32: |call| validate(call, 4), chunks, PerIsa::portable(select::<i32>);
    /// The greatest or smallest elements of i64.
    TOP_K_I64: |call| validate(call, 8), chunks, PerIsa::portable(select::<i64>);
    /// The greatest or smallest elements of u64.
    TOP_K_U64: |call| validate(call, 8), chunks, PerIsa::portable(select::<u64>);
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use bytemuck::Pod;

    use super::*;
    use crate::cpu::testing::{Random, attack, bytes, check};

    fn every_way<T: Pod>(ty: &str, mut p: TopK, x: &[T]) {
        let results = (p.outer * p.k * p.inner) as usize;
        for smallest in [0, 1] {
            p.smallest = smallest;
            let outputs = [results * size_of::<T>(), results * 8];
            check(&format!("top_k_{ty}"), &p, &[bytes(x)], &outputs, |_, _, _: u8, _: u8| false);
        }
    }

    #[test]
    fn every_type_agrees_with_the_oracle() {
        let mut random = Random::new(51);
        for (outer, axis, inner) in [(1, 1, 1), (3, 33, 1), (2, 20, 3), (1, 100, 1), (0, 4, 1), (1, 4, 0)] {
            for k in [0, 1, 2, 5, axis - 1, axis] {
                let p = TopK { outer, axis, inner, k: k.min(axis), smallest: 0 };
                // A narrow range makes equals frequent.
                let mut x = random.whole((outer * axis * inner) as usize, 9);
                every_way("i32", p, &x.iter().map(|&x| x as i32).collect::<Vec<_>>());
                every_way("i64", p, &x.iter().map(|&x| x as i64).collect::<Vec<_>>());
                every_way("u64", p, &x.iter().map(|&x| x as i64 as u64).collect::<Vec<_>>());
                x.iter_mut().step_by(7).for_each(|x| *x = f32::NAN);
                x.iter_mut().skip(1).step_by(11).for_each(|x| *x = f32::NEG_INFINITY);
                x.iter_mut().skip(2).step_by(5).for_each(|x| *x *= 0.0);
                every_way("f32", p, &x);
                every_way("f64", p, &x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let x = Random::new(52).whole(60, 9);
        let p = TopK { outer: 3, axis: 5, inner: 4, k: 2, smallest: 0 };
        attack("top_k_f32", &p, &[bytes(&x)], &[96, 192]);
    }
}
