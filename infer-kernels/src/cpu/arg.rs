//! The position of the greatest or smallest element along the middle axis of `[outer, axis, inner]`.
//!
//! NaN counts as the extreme, as in numpy. A row is searched twice: for the extreme, in lanes, and for where it is.
//! Where elements of a row are `inner` apart, a tile of rows is searched side by side. Chunks share the rows.

use super::bounds::{product, split};
use super::reduce_ops::Number;
use super::share;
use crate::call::Axis;
use crate::{Args, Call, Invalid, Kernel, PerIsa, RunError};

/// Lanes of the search for the extreme.
const LANES: usize = 32;
/// Rows that are searched side by side.
const TILE: usize = 32;

/// Which of two elements is the extreme.
trait Extreme {
    /// Whether `a` goes before `b`, neither being NaN.
    fn before<T: Number>(a: T, b: T) -> bool;
}

struct Greatest;

impl Extreme for Greatest {
    #[inline(always)]
    fn before<T: Number>(a: T, b: T) -> bool {
        a > b
    }
}

struct Smallest;

impl Extreme for Smallest {
    #[inline(always)]
    fn before<T: Number>(a: T, b: T) -> bool {
        a < b
    }
}

/// The extreme of a row that is not empty; NaN where there is one.
#[inline(always)]
fn extreme<T: Number, E: Extreme>(row: &[T]) -> T {
    let pick = |a: T, b: T| if E::before(b, a) || b.undefined() { b } else { a };
    let mut best = row[0];
    let (whole, rest) = row.as_chunks::<LANES>();
    if let Some((first, whole)) = whole.split_first() {
        let mut lanes = *first;
        for block in whole {
            for lane in 0..LANES {
                lanes[lane] = pick(lanes[lane], block[lane]);
            }
        }
        for lane in lanes {
            best = pick(best, lane);
        }
    }
    for &x in rest {
        best = pick(best, x);
    }
    best
}

#[inline(always)]
unsafe fn select<T: Number, E: Extreme>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let params = args.params::<Axis>();
    if params.outer == 0 || params.inner == 0 {
        return Ok(());
    }
    let (axis, inner) = (params.axis as usize, params.inner as usize);
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[1].ptr::<i64>());
    let last = params.select_last == 1;
    let range = share(params.outer as usize * inner, chunk, chunks);
    let mut done = range.start;
    while done < range.end {
        let (outer, column) = (done / inner, done % inner);
        if inner == 1 {
            // SAFETY: rows and outputs lie inside their operands (`validate`); the outputs of a chunk are its own.
            unsafe {
                let row = std::slice::from_raw_parts(input.add(outer * axis), axis);
                let best = extreme::<T, E>(row);
                let found = |x: &T| *x == best || best.undefined() && x.undefined();
                let at = if last { row.iter().rposition(found) } else { row.iter().position(found) };
                *output.add(done) = at.unwrap_or(0) as i64;
            }
            done += 1;
            continue;
        }
        let width = (inner - column).min(range.end - done).min(TILE);
        let (mut best, mut at) = ([T::ZERO; TILE], [0i64; TILE]);
        // SAFETY: as above.
        unsafe {
            let base = input.add(outer * axis * inner + column);
            best[..width].copy_from_slice(std::slice::from_raw_parts(base, width));
            for k in 1..axis {
                let row = std::slice::from_raw_parts(base.add(k * inner), width);
                for ((best, at), &x) in best.iter_mut().zip(&mut at).zip(row) {
                    let equal = last && (x == *best || x.undefined());
                    if E::before(x, *best) || equal || x.undefined() && !best.undefined() {
                        *best = x;
                        *at = k as i64;
                    }
                }
            }
            std::slice::from_raw_parts_mut(output.add(done), width).copy_from_slice(&at[..width]);
        }
        done += width;
    }
    Ok(())
}

pub(crate) fn validate<T: Number>(call: &Call<'_>) -> Result<(), Invalid> {
    let params = call.params::<Axis>()?;
    call.expect_operands(2)?;
    if params.select_last > 1 {
        return Err(Invalid("select_last is neither 0 nor 1"));
    }
    let outputs = product(&[params.outer, params.inner]);
    call.expect_elements(1, outputs, 8)?;
    call.expect_elements(0, product(&[params.outer, params.axis, params.inner]), size_of::<T>() as u64)?;
    if outputs != Some(0) && params.axis == 0 {
        return Err(Invalid("no extreme along an empty axis"));
    }
    Ok(())
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let params = args.params::<Axis>();
    let outputs = params.outer.saturating_mul(params.inner);
    split(outputs, outputs.saturating_mul(params.axis), threads)
}

/// Kernels for f32 are compiled for every instruction set, those of other types once.
macro_rules! selections {
    ($($item:ident $name:literal $t:tt, $extreme:ty, $what:literal;)*) => {$(
        #[doc = $what]
        pub static $item: Kernel =
            Kernel { name: $name, validate: validate::<$t>, chunks, run: selections!(@ $t, $extreme) };
    )*};
    (@ f32, $extreme:ty) => {{
        #[inline(always)]
        unsafe fn body(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { select::<f32, $extreme>(args, chunk, chunks) }
        }
        per_isa!(body)
    }};
    (@ $t:ty, $extreme:ty) => { PerIsa::portable(select::<$t, $extreme>) };
}

selections! {
    ARG_MAX_F32 "arg_max_f32" f32, Greatest, "Positions of the greatest elements.";
    ARG_MAX_F64 "arg_max_f64" f64, Greatest, "Positions of the greatest elements.";
    ARG_MAX_I32 "arg_max_i32" i32, Greatest, "Positions of the greatest elements.";
    ARG_MAX_I64 "arg_max_i64" i64, Greatest, "Positions of the greatest elements.";
    ARG_MIN_F32 "arg_min_f32" f32, Smallest, "Positions of the smallest elements.";
    ARG_MIN_F64 "arg_min_f64" f64, Smallest, "Positions of the smallest elements.";
    ARG_MIN_I32 "arg_min_i32" i32, Smallest, "Positions of the smallest elements.";
    ARG_MIN_I64 "arg_min_i64" i64, Smallest, "Positions of the smallest elements.";
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use bytemuck::Pod;

    use crate::call::Axis;
    use crate::cpu::testing::{Random, attack, bytes, check};

    fn every_way<T: Pod>(kind: &str, outer: usize, axis: usize, inner: usize, x: &[T]) {
        for name in [format!("arg_max_{kind}"), format!("arg_min_{kind}")] {
            for select_last in [0, 1] {
                let p = Axis { outer: outer as u64, axis: axis as u64, inner: inner as u64, select_last };
                check(&name, &p, &[bytes(x)], &[outer * inner * 8], |_, _, a: i64, b: i64| a == b);
            }
        }
    }

    #[test]
    fn every_type_agrees_with_the_reference() {
        let mut random = Random::new(20);
        for axis in [1, 2, 31, 32, 33, 100] {
            for (outer, inner) in [(1, 1), (3, 1), (2, 3), (1, 32), (2, 33), (0, 1), (1, 0)] {
                // A narrow range makes equals frequent.
                let x = random.whole(outer * axis * inner, 9);
                every_way("f32", outer, axis, inner, &x);
                every_way("f64", outer, axis, inner, &x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
                every_way("i32", outer, axis, inner, &x.iter().map(|&x| x as i32).collect::<Vec<_>>());
                every_way("i64", outer, axis, inner, &x.iter().map(|&x| x as i64).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn nan_is_the_extreme() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for axis in [3, 40, 70] {
                for every in [1, 2, 13, 100] {
                    let mut x = Random::new(21).whole(axis * 2, 9);
                    x.iter_mut().skip(1).step_by(every).for_each(|x| *x = special);
                    every_way("f32", 2, axis, 1, &x);
                    every_way("f32", 1, axis, 2, &x);
                    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                    every_way("f64", 2, axis, 1, &wide);
                }
            }
        }
        let x = [1.0, f32::NAN, 3.0, f32::NAN];
        for (select_last, position) in [(0, 1), (1, 3)] {
            let p = Axis { outer: 1, axis: 4, inner: 1, select_last };
            check("arg_max_f32", &p, &[bytes(&x)], &[8], |_, _, a: i64, b: i64| a == b && a == position);
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let x = Random::new(22).whole(60, 9);
        attack("arg_max_f32", &Axis { outer: 3, axis: 5, inner: 4, select_last: 0 }, &[bytes(&x)], &[96]);
        attack("arg_min_i64", &Axis { outer: 3, axis: 5, inner: 2, select_last: 0 }, &[bytes(&x)], &[48]);
    }
}
