//! Reductions over any set of axes.
//!
//! out[k] = finish(⊕ᵣ in[k, r]). Where the innermost reduced axis is contiguous, each output folds its rows into
//! [`LANES`] accumulators; where the innermost kept axis is, a tile of outputs folds side by side, in the order of
//! the reduced positions. Chunks share the outputs.

use bytemuck::Pod;

use super::bounds::{Axes, product, split};
use super::math::exp_or_zero;
use super::reduce_ops::{L1, L2, LogSum, Max, Mean, Min, Number, Op, Prod, Sum, SumSquare, greater};
use super::share;
use super::vector::Vector;
use crate::call::{BLOCK, MAX_RANK, Reduce};
use crate::{Args, Call, Invalid, Kernel, PerIsa, RunError};

/// Accumulators of one output: enough for four vectors of AVX2 to hide the latency of an addition.
const LANES: usize = 32;
/// Outputs that fold side by side.
const TILE: usize = 64;

/// The dimensions in use.
fn dims(rank: u64, dims: &[u64; MAX_RANK]) -> &[u64] {
    &dims[..rank as usize]
}

/// The reduced axes of a call: the innermost one, and the others.
struct Reduced {
    outer: Axes,
    positions: usize,
    length: usize,
    stride: usize,
}

/// Folds everything reduced into the output whose first element is at `base`, by `step`, joined by `merge`.
///
/// # Safety
///
/// `base` and all reduced positions after it are readable.
#[inline(always)]
unsafe fn fold_one<T: Number>(
    base: *const T,
    reduced: &Reduced,
    identity: T,
    step: impl Fn(T, T) -> T,
    merge: impl Fn(T, T) -> T,
) -> T {
    let mut result = identity;
    let mut walk = reduced.outer.walk(0);
    if reduced.stride == 1 && reduced.length >= LANES {
        let mut lanes = [identity; LANES];
        for _ in 0..reduced.positions {
            // SAFETY: the row lies inside the input (`validate`).
            let row = unsafe { std::slice::from_raw_parts(base.add(walk.offset), reduced.length) };
            let (whole, rest) = row.as_chunks::<LANES>();
            for block in whole {
                for lane in 0..LANES {
                    lanes[lane] = step(lanes[lane], block[lane]);
                }
            }
            for (lane, &x) in rest.iter().enumerate() {
                lanes[lane] = step(lanes[lane], x);
            }
            walk.step();
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] = merge(lanes[lane], lanes[lane + width]);
            }
            width /= 2;
        }
        result = lanes[0];
    } else {
        for _ in 0..reduced.positions {
            for k in 0..reduced.length {
                // SAFETY: as above.
                result = step(result, unsafe { *base.add(walk.offset + k * reduced.stride) });
            }
            walk.step();
        }
    }
    result
}

/// Folds everything reduced into `acc`, whose first element is at `base` and whose others follow it.
///
/// # Safety
///
/// As many elements as `acc` has are readable at `base` and at all reduced positions after it.
#[inline(always)]
unsafe fn fold_tile<T: Number>(base: *const T, reduced: &Reduced, acc: &mut [T], step: impl Fn(T, T) -> T) {
    let mut walk = reduced.outer.walk(0);
    for _ in 0..reduced.positions {
        for k in 0..reduced.length {
            // SAFETY: the elements lie inside the input (`validate`).
            let row =
                unsafe { std::slice::from_raw_parts(base.add(walk.offset + k * reduced.stride), acc.len()) };
            for (acc, &x) in acc.iter_mut().zip(row) {
                *acc = step(*acc, x);
            }
        }
        walk.step();
    }
}

#[inline(always)]
unsafe fn reduce<T: Number, O: Op<T>>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params = args.params::<Reduce>();
    let (kept, reduced) =
        (dims(params.kept_rank, &params.kept_dims), dims(params.reduced_rank, &params.reduced_dims));
    if kept.contains(&0) {
        return Ok(());
    }
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[1].ptr::<T>());
    let kept = Axes::collapse(params.kept_rank, &params.kept_dims, &params.kept_strides);
    let range = share(kept.count(), chunk, chunks);
    if reduced.contains(&0) {
        let empty = O::finish(O::IDENTITY, 0)?;
        // SAFETY: the outputs of this chunk lie inside the output (`validate`), and no other chunk has them.
        unsafe { std::slice::from_raw_parts_mut(output.add(range.start), range.len()) }.fill(empty);
        return Ok(());
    }
    let reduced = Axes::collapse(params.reduced_rank, &params.reduced_dims, &params.reduced_strides);
    let count = reduced.count();
    let (outer, length, stride) = reduced.split_innermost();
    let reduced = Reduced { positions: outer.count(), outer, length, stride };

    let (_, kept_length, kept_stride) = kept.split_innermost();
    let mut walk = kept.walk(range.start);
    let mut done = range.start;
    while done < range.end {
        // SAFETY: `validate` checked the greatest offset of kept and reduced axes together, and the number of
        // outputs; the outputs of a chunk are its own.
        unsafe {
            if kept_stride == 1 && kept_length > 1 && reduced.stride != 1 {
                let width = (kept_length - done % kept_length).min(range.end - done).min(TILE);
                let mut tile = [O::IDENTITY; TILE];
                if width == TILE {
                    fold_tile(input.add(walk.offset), &reduced, &mut tile, O::step);
                } else {
                    fold_tile(input.add(walk.offset), &reduced, &mut tile[..width], O::step);
                }
                for &acc in &tile[..width] {
                    *output.add(done) = O::finish(acc, count)?;
                    done += 1;
                    walk.step();
                }
            } else {
                let acc = fold_one(input.add(walk.offset), &reduced, O::IDENTITY, O::step, O::merge);
                *output.add(done) = O::finish(acc, count)?;
                done += 1;
                walk.step();
            }
        }
    }
    Ok(())
}

/// Σ e^(x − shift) over `length` elements, `stride` apart.
///
/// # Safety
///
/// The processor has the instruction set of `V`; the elements are readable.
#[inline(always)]
unsafe fn sum_exp<V: Vector>(from: *const f32, length: usize, stride: usize, shift: f32) -> f32 {
    // SAFETY: the caller's promises; a block holds at most the elements that are left.
    unsafe {
        let (mut sum, shift) = (V::splat(0.0), V::splat(shift));
        let mut done = 0;
        while done < length {
            let count = (length - done).min(BLOCK);
            let x = if stride == 1 {
                V::load_first(from.add(done), count)
            } else {
                let mut block = [0.0; BLOCK];
                for (lane, slot) in block[..count].iter_mut().enumerate() {
                    *slot = *from.add((done + lane) * stride);
                }
                V::load(block.as_ptr())
            };
            let terms = exp_or_zero(x - shift);
            sum = sum + if count == BLOCK { terms } else { terms.keep_first(count) };
            done += count;
        }
        sum.sum()
    }
}

/// ln Σ eˣ = m + ln Σ e^(x − m), m the greatest x, or 0 where that is infinite.
#[inline(always)]
unsafe fn log_sum_exp<V: Vector>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let params = args.params::<Reduce>();
    let (kept, reduced) =
        (dims(params.kept_rank, &params.kept_dims), dims(params.reduced_rank, &params.reduced_dims));
    if kept.contains(&0) {
        return Ok(());
    }
    let (input, output) = (args.operands[0].ptr::<f32>().cast_const(), args.operands[1].ptr::<f32>());
    let kept = Axes::collapse(params.kept_rank, &params.kept_dims, &params.kept_strides);
    let range = share(kept.count(), chunk, chunks);
    if reduced.contains(&0) {
        // SAFETY: the outputs of this chunk lie inside the output (`validate`), and no other chunk has them.
        unsafe { std::slice::from_raw_parts_mut(output.add(range.start), range.len()) }
            .fill(f32::NEG_INFINITY);
        return Ok(());
    }
    let (outer, length, stride) =
        Axes::collapse(params.reduced_rank, &params.reduced_dims, &params.reduced_strides).split_innermost();
    let reduced = Reduced { positions: outer.count(), outer, length, stride };
    let mut walk = kept.walk(range.start);
    for index in range {
        // SAFETY: `validate` checked the greatest offset of kept and reduced axes together, and the number of
        // outputs; the outputs of a chunk are its own.
        unsafe {
            let base = input.add(walk.offset);
            let greatest = fold_one(base, &reduced, f32::NEG_INFINITY, greater, greater);
            let shift = if greatest.is_infinite() { 0.0 } else { greatest };
            let mut sum = 0.0;
            let mut inner = reduced.outer.walk(0);
            for _ in 0..reduced.positions {
                sum += sum_exp::<V>(base.add(inner.offset), reduced.length, reduced.stride, shift);
                inner.step();
            }
            *output.add(index) = shift + libm::logf(sum);
        }
        walk.step();
    }
    Ok(())
}

/// Checks the outputs' number, and the greatest offset of the input that kept and reduced axes reach together.
///
/// A row-major tensor has each position once, so a call may not visit more of them than the input has elements.
pub(crate) fn validate<T: Pod>(call: &Call<'_>) -> Result<(), Invalid> {
    let params = call.params::<Reduce>()?;
    call.expect_operands(2)?;
    if params.kept_rank > MAX_RANK as u64 || params.reduced_rank > MAX_RANK as u64 {
        return Err(Invalid("too many dimensions"));
    }
    let element_bytes = size_of::<T>() as u64;
    let (kept, reduced) =
        (dims(params.kept_rank, &params.kept_dims), dims(params.reduced_rank, &params.reduced_dims));
    let outputs = product(kept);
    call.expect_elements(1, outputs, element_bytes)?;
    let positions = product(reduced).zip(outputs).and_then(|(a, b)| a.checked_mul(b));
    call.expect_elements(0, positions, element_bytes)?;
    if positions == Some(0) {
        return Ok(());
    }
    let axes = kept.iter().zip(&params.kept_strides).chain(reduced.iter().zip(&params.reduced_strides));
    let mut last = Some(0u64);
    for (&dim, &stride) in axes {
        // Merging axes multiplies each stride with its extent.
        let reach = dim.checked_mul(stride);
        last = last.zip(reach).and_then(|(last, reach)| last.checked_add(reach - stride));
    }
    call.expect_elements(0, last.and_then(|last| last.checked_add(1)), element_bytes)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let params = args.params::<Reduce>();
    let outputs = product(dims(params.kept_rank, &params.kept_dims)).unwrap_or(0);
    let each = product(dims(params.reduced_rank, &params.reduced_dims)).unwrap_or(0).max(1);
    split(outputs, outputs.saturating_mul(each), threads)
}

/// Kernels for f32 are compiled for every instruction set; those of other types, which serve shape arithmetic and the
/// edges of a model, once.
macro_rules! reductions {
    ($($item:ident $name:literal $t:tt, $op:ty, $what:literal;)*) => {$(
        #[doc = $what]
        pub static $item: Kernel =
            Kernel { name: $name, validate: validate::<$t>, chunks, run: reductions!(@ $t, $op) };
    )*};
    (@ f32, $op:ty) => {{
        #[inline(always)]
        unsafe fn body(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { reduce::<f32, $op>(args, chunk, chunks) }
        }
        per_isa!(body)
    }};
    (@ $t:ty, $op:ty) => { PerIsa::portable(reduce::<$t, $op>) };
}

reductions! {
    REDUCE_SUM_F32 "reduce_sum_f32" f32, Sum, "Sums.";
    REDUCE_SUM_F64 "reduce_sum_f64" f64, Sum, "Sums.";
    REDUCE_SUM_I32 "reduce_sum_i32" i32, Sum, "Sums.";
    REDUCE_SUM_I64 "reduce_sum_i64" i64, Sum, "Sums.";
    REDUCE_MEAN_F32 "reduce_mean_f32" f32, Mean, "Means.";
    REDUCE_MEAN_F64 "reduce_mean_f64" f64, Mean, "Means.";
    REDUCE_MEAN_I32 "reduce_mean_i32" i32, Mean, "Means.";
    REDUCE_MEAN_I64 "reduce_mean_i64" i64, Mean, "Means.";
    REDUCE_MAX_F32 "reduce_max_f32" f32, Max, "Greatest elements; NaN where there is one.";
    REDUCE_MAX_F64 "reduce_max_f64" f64, Max, "Greatest elements; NaN where there is one.";
    REDUCE_MAX_I32 "reduce_max_i32" i32, Max, "Greatest elements; NaN where there is one.";
    REDUCE_MAX_I64 "reduce_max_i64" i64, Max, "Greatest elements; NaN where there is one.";
    REDUCE_MIN_F32 "reduce_min_f32" f32, Min, "Smallest elements; NaN where there is one.";
    REDUCE_MIN_F64 "reduce_min_f64" f64, Min, "Smallest elements; NaN where there is one.";
    REDUCE_MIN_I32 "reduce_min_i32" i32, Min, "Smallest elements; NaN where there is one.";
    REDUCE_MIN_I64 "reduce_min_i64" i64, Min, "Smallest elements; NaN where there is one.";
    REDUCE_PROD_F32 "reduce_prod_f32" f32, Prod, "Products.";
    REDUCE_PROD_F64 "reduce_prod_f64" f64, Prod, "Products.";
    REDUCE_PROD_I32 "reduce_prod_i32" i32, Prod, "Products.";
    REDUCE_PROD_I64 "reduce_prod_i64" i64, Prod, "Products.";
    REDUCE_L1_F32 "reduce_l1_f32" f32, L1, "Sums of absolute values.";
    REDUCE_L2_F32 "reduce_l2_f32" f32, L2, "Roots of sums of squares.";
    REDUCE_SUM_SQUARE_F32 "reduce_sum_square_f32" f32, SumSquare, "Sums of squares.";
    REDUCE_LOG_SUM_F32 "reduce_log_sum_f32" f32, LogSum, "Logarithms of sums.";
}

/// Logarithms of sums of exponentials.
pub static REDUCE_LOG_SUM_EXP_F32: Kernel = Kernel {
    name: "reduce_log_sum_exp_f32",
    validate: validate::<f32>,
    chunks,
    run: per_isa!(log_sum_exp<_>),
};

#[cfg(all(test, feature = "reference"))]
mod tests {
    use bytemuck::Pod;

    use crate::RunError;
    use crate::call::Reduce;
    use crate::cpu::testing::{Random, attack, bytes, check, check_error, check_f32};

    /// Over `axes` of a row-major tensor: the call, its elements and its outputs.
    fn over(shape: &[usize], axes: &[usize]) -> (Reduce, usize, usize) {
        let mut p = Reduce::default();
        let mut outputs = 1;
        let stride = |axis: usize| shape[axis..].iter().skip(1).product::<usize>() as u64;
        for (axis, &extent) in shape.iter().enumerate() {
            let (rank, dims, into) = if axes.contains(&axis) {
                (&mut p.reduced_rank, &mut p.reduced_dims, &mut p.reduced_strides)
            } else {
                outputs *= extent;
                (&mut p.kept_rank, &mut p.kept_dims, &mut p.kept_strides)
            };
            dims[*rank as usize] = extent as u64;
            into[*rank as usize] = stride(axis);
            *rank += 1;
        }
        (p, shape.iter().product(), outputs)
    }

    const CASES: [(&[usize], &[usize]); 18] = [
        (&[1], &[0]),
        (&[31], &[0]),
        (&[100], &[0]),
        (&[3, 33], &[1]),
        (&[5, 64], &[0]),
        (&[3, 65], &[0]),
        (&[2, 3, 70], &[1]),
        (&[2, 130, 3], &[1]),
        (&[2, 5, 7, 9], &[2, 3]),
        (&[2, 5, 7, 9], &[0, 2]),
        (&[2, 5, 7, 9], &[1, 3]),
        (&[2, 1, 7, 1, 40], &[0, 1, 4]),
        (&[4, 3], &[]),
        (&[], &[]),
        (&[3, 0], &[1]),
        (&[0, 3], &[1]),
        (&[0], &[0]),
        (&[2, 2, 2, 2, 2, 2, 2, 2], &[0, 2, 4, 6]),
    ];

    fn exact<T: Pod + PartialOrd + std::fmt::Debug>(name: &str, p: &Reduce, x: &[T], outputs: usize) {
        // NaN alone does not compare with itself.
        let equal = |a: T, b: T| a == b || a.partial_cmp(&a).or(b.partial_cmp(&b)).is_none();
        check(name, p, &[bytes(x)], &[outputs * size_of::<T>()], |_, _, a, b| equal(a, b));
    }

    #[test]
    fn exact_operands_give_exact_results() {
        let mut random = Random::new(23);
        for (shape, axes) in CASES {
            let (p, elements, outputs) = over(shape, axes);
            // Sums of whole numbers and products of powers of two are exact in any order.
            let x = random.whole(elements, 8);
            let powers: Vec<f32> = x.iter().map(|x| [1.0, 2.0, 0.5, -1.0][x.abs() as usize % 4]).collect();
            for name in ["sum", "mean", "max", "min", "l1", "sum_square"] {
                exact(&format!("reduce_{name}_f32"), &p, &x, outputs);
            }
            exact("reduce_prod_f32", &p, &powers, outputs);
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            for name in ["sum", "mean", "max", "min", "prod"] {
                let x = if name == "prod" { wide(&powers) } else { wide(&x) };
                exact(&format!("reduce_{name}_f64"), &p, &x, outputs);
                // An integer has no mean of nothing, which is a test of its own.
                if name == "mean" && elements == 0 && outputs > 0 {
                    continue;
                }
                // Integers wrap, so that they are exact whatever they are.
                let x: Vec<i64> = (0..elements).map(|_| (random.next() << 11) as i64).collect();
                exact(&format!("reduce_{name}_i64"), &p, &x, outputs);
                let x: Vec<i32> = x.iter().map(|&x| (x >> 16) as i32).collect();
                exact(&format!("reduce_{name}_i32"), &p, &x, outputs);
            }
        }
    }

    #[test]
    fn rounding_stays_within_a_unit_a_term() {
        let mut random = Random::new(24);
        for (shape, axes) in CASES {
            let (p, elements, outputs) = over(shape, axes);
            let count = elements.checked_div(outputs).unwrap_or(1);
            // Positive terms: either order is wrong by half a unit a term of the sum, at most.
            let x: Vec<f32> = random.units(elements).iter().map(|x| x.abs() + 0.1).collect();
            let units = (count + 4) as f32 * f32::EPSILON;
            for name in ["sum", "mean", "l1", "l2", "sum_square"] {
                let name = format!("reduce_{name}_f32");
                check_f32(&name, &p, &[bytes(&x)], &[outputs * 4], |y| units * y.abs());
            }
            // A logarithm turns the relative error of its argument into an absolute one.
            check_f32("reduce_log_sum_f32", &p, &[bytes(&x)], &[outputs * 4], |y| units * (1.0 + y.abs()));
            let x: Vec<f32> = x.iter().map(|x| 80.0 * x).collect();
            check_f32("reduce_log_sum_exp_f32", &p, &[bytes(&x)], &[outputs * 4], |y| {
                units * (2.0 + y.abs())
            });
        }
    }

    #[test]
    fn nan_and_infinities_reach_their_result_alone() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (shape, axes) in
                [(&[3, 70][..], &[1][..]), (&[70, 3], &[0]), (&[3, 20], &[1]), (&[3, 1], &[1])]
            {
                let (p, elements, outputs) = over(shape, axes);
                for at in [0, elements / 2, elements - 1] {
                    for all in [false, true] {
                        let mut x = vec![1.0; elements];
                        x[at] = special;
                        if all {
                            x.fill(special);
                        }
                        let names =
                            ["sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum"];
                        for name in names {
                            let name = format!("reduce_{name}_f32");
                            check_f32(&name, &p, &[bytes(&x)], &[outputs * 4], |y| {
                                4.0 * f32::EPSILON * y.abs()
                            });
                        }
                        let units = 80.0 * f32::EPSILON;
                        let close = |y: f32| units * (1.0 + y.abs());
                        check_f32("reduce_log_sum_exp_f32", &p, &[bytes(&x)], &[outputs * 4], close);
                    }
                }
            }
        }
    }

    #[test]
    fn empty_reductions_give_identities() {
        let (p, ..) = over(&[2, 0], &[1]);
        for (name, identity) in [
            ("sum", 0.0),
            ("mean", f32::NAN),
            ("max", f32::NEG_INFINITY),
            ("min", f32::INFINITY),
            ("prod", 1.0),
            ("log_sum", f32::NEG_INFINITY),
            ("log_sum_exp", f32::NEG_INFINITY),
        ] {
            let same = |_, _, a: f32, b: f32| {
                [a, b].iter().all(|x| *x == identity || x.is_nan() && identity.is_nan())
            };
            check(&format!("reduce_{name}_f32"), &p, &[&[]], &[8], same);
        }
        check("reduce_max_i32", &p, &[&[]], &[8], |_, _, a: i32, b: i32| a == b && a == i32::MIN);
        check_error("reduce_mean_i64", &p, &[&[]], &[16], RunError::DivisionByZero);
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let (p, elements, outputs) = over(&[2, 3, 4, 5], &[1, 3]);
        let x = Random::new(25).whole(elements * 2, 8);
        for name in ["reduce_sum_f32", "reduce_log_sum_exp_f32", "reduce_max_i32"] {
            attack(name, &p, &[bytes(&x[..elements])], &[outputs * 4]);
        }
        attack("reduce_mean_i64", &p, &[bytes(&x)], &[outputs * 8]);
    }
}
