//! What reductions fold with: each operation on each type of number.

use bytemuck::Pod;

use crate::RunError;

/// A number that can be reduced.
pub(crate) trait Number: Pod + PartialOrd {
    /// The least value, below every other.
    const LEAST: Self;
    /// The greatest value.
    const GREATEST: Self;
    const ZERO: Self;
    const ONE: Self;
    /// Sum; integers wrap.
    fn plus(self, other: Self) -> Self;
    /// Product; integers wrap.
    fn times(self, other: Self) -> Self;
    /// The sum of `count` numbers as their mean; integers round towards zero.
    fn over(self, count: usize) -> Result<Self, RunError>;
    /// Whether it is NaN.
    fn undefined(self) -> bool;
}

macro_rules! float_number {
    ($t:ident) => {
        impl Number for $t {
            const LEAST: Self = $t::NEG_INFINITY;
            const GREATEST: Self = $t::INFINITY;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn over(self, count: usize) -> Result<Self, RunError> {
                Ok(self / count as $t)
            }
            #[inline(always)]
            fn undefined(self) -> bool {
                self.is_nan()
            }
        }
    };
}

macro_rules! integer_number {
    ($t:ident) => {
        impl Number for $t {
            const LEAST: Self = $t::MIN;
            const GREATEST: Self = $t::MAX;
            const ZERO: Self = 0;
            const ONE: Self = 1;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn over(self, count: usize) -> Result<Self, RunError> {
                // A sum that wrapped fits the type, so the quotient does.
                if count == 0 {
                    Err(RunError::DivisionByZero)
                } else {
                    Ok((i128::from(self) / count as i128) as $t)
                }
            }
            #[inline(always)]
            fn undefined(self) -> bool {
                false
            }
        }
    };
}

float_number!(f32);
float_number!(f64);
integer_number!(i32);
integer_number!(i64);
integer_number!(u64);

/// A reduction: a fold and what becomes of its result.
pub(crate) trait Op<T: Number> {
    const IDENTITY: T;
    /// Folds one element in.
    fn step(acc: T, x: T) -> T;
    /// Joins two partial folds.
    fn merge(a: T, b: T) -> T;
    /// The result of folding `count` elements.
    #[inline(always)]
    fn finish(acc: T, count: usize) -> Result<T, RunError> {
        let _ = count;
        Ok(acc)
    }
}

/// The greater of two, or the one that is NaN.
#[inline(always)]
pub(crate) fn greater<T: Number>(a: T, b: T) -> T {
    if b > a || b.undefined() { b } else { a }
}

/// The smaller of two, or the one that is NaN.
#[inline(always)]
fn smaller<T: Number>(a: T, b: T) -> T {
    if b < a || b.undefined() { b } else { a }
}

/// Σ x
pub(crate) struct Sum;

impl<T: Number> Op<T> for Sum {
    const IDENTITY: T = T::ZERO;
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        acc.plus(x)
    }
    #[inline(always)]
    fn merge(a: T, b: T) -> T {
        a.plus(b)
    }
}

/// Σ x / n
pub(crate) struct Mean;

impl<T: Number> Op<T> for Mean {
    const IDENTITY: T = T::ZERO;
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        acc.plus(x)
    }
    #[inline(always)]
    fn merge(a: T, b: T) -> T {
        a.plus(b)
    }
    #[inline(always)]
    fn finish(acc: T, count: usize) -> Result<T, RunError> {
        acc.over(count)
    }
}

/// max x
pub(crate) struct Max;

impl<T: Number> Op<T> for Max {
    const IDENTITY: T = T::LEAST;
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        greater(acc, x)
    }
    #[inline(always)]
    fn merge(a: T, b: T) -> T {
        greater(a, b)
    }
}

/// min x
pub(crate) struct Min;

impl<T: Number> Op<T> for Min {
    const IDENTITY: T = T::GREATEST;
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        smaller(acc, x)
    }
    #[inline(always)]
    fn merge(a: T, b: T) -> T {
        smaller(a, b)
    }
}

/// Π x
pub(crate) struct Prod;

impl<T: Number> Op<T> for Prod {
    const IDENTITY: T = T::ONE;
    #[inline(always)]
    fn step(acc: T, x: T) -> T {
        acc.times(x)
    }
    #[inline(always)]
    fn merge(a: T, b: T) -> T {
        a.times(b)
    }
}

/// Σ |x|
pub(crate) struct L1;

impl Op<f32> for L1 {
    const IDENTITY: f32 = 0.0;
    #[inline(always)]
    fn step(acc: f32, x: f32) -> f32 {
        acc + x.abs()
    }
    #[inline(always)]
    fn merge(a: f32, b: f32) -> f32 {
        a + b
    }
}

/// √Σ x²
pub(crate) struct L2;

impl Op<f32> for L2 {
    const IDENTITY: f32 = 0.0;
    #[inline(always)]
    fn step(acc: f32, x: f32) -> f32 {
        acc + x * x
    }
    #[inline(always)]
    fn merge(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn finish(acc: f32, count: usize) -> Result<f32, RunError> {
        let _ = count;
        Ok(acc.sqrt())
    }
}

/// Σ x²
pub(crate) struct SumSquare;

impl Op<f32> for SumSquare {
    const IDENTITY: f32 = 0.0;
    #[inline(always)]
    fn step(acc: f32, x: f32) -> f32 {
        acc + x * x
    }
    #[inline(always)]
    fn merge(a: f32, b: f32) -> f32 {
        a + b
    }
}

/// ln Σ x
pub(crate) struct LogSum;

impl Op<f32> for LogSum {
    const IDENTITY: f32 = 0.0;
    #[inline(always)]
    fn step(acc: f32, x: f32) -> f32 {
        acc + x
    }
    #[inline(always)]
    fn merge(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn finish(acc: f32, count: usize) -> Result<f32, RunError> {
        let _ = count;
        Ok(libm::logf(acc))
    }
}
