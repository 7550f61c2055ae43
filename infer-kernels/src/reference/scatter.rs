//! Oracles of elements put among those of a tensor: a copy, then one update after the other.

use super::Registered;
use super::elementwise::{read, write};
use crate::call::{ScatterElements, ScatterNd};
use crate::cpu::scatter::{Add, Max, Min, Mul, Replace, Update, scatter_kernels};
use crate::{Args, RunError, kernels};

/// Index `at`, counted from the beginning of an axis of `length`.
///
/// # Safety
///
/// It lies inside the operand.
unsafe fn resolved(args: &Args<'_>, bytes: u64, at: u64, length: u64) -> Result<u64, RunError> {
    // SAFETY: passed on.
    let index: i64 = unsafe {
        if bytes == 4 { read::<i32>(args, 1, at as usize).into() } else { read(args, 1, at as usize) }
    };
    let from_start = i128::from(index) + if index < 0 { i128::from(length) } else { 0 };
    if from_start < 0 || from_start >= i128::from(length) {
        return Err(RunError::IndexOutOfRange { index, length });
    }
    Ok(from_start as u64)
}

/// # Safety
///
/// Output and data hold `total` elements.
unsafe fn copy<T: Copy>(args: &Args<'_>, total: u64) {
    for at in 0..total as usize {
        // SAFETY: passed on.
        unsafe { write::<T>(args, 3, at, read(args, 0, at)) };
    }
}

/// # Safety
///
/// Both elements lie inside their operands.
unsafe fn update<T: Copy, U: Update<T>>(args: &Args<'_>, slot: u64, number: u64) {
    // SAFETY: passed on.
    unsafe {
        let new = U::combine(read(args, 3, slot as usize), read::<T>(args, 2, number as usize));
        write(args, 3, slot as usize, new);
    }
}

fn product(extents: &[u64]) -> u64 {
    if extents.contains(&0) { 0 } else { extents.iter().product() }
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn elements<T: Copy, U: Update<T>>(args: &Args<'_>) -> Result<(), RunError> {
    let p: &ScatterElements = args.params();
    let rank = p.rank as usize;
    let (dims, index_dims) = (&p.dims[..rank], &p.index_dims[..rank]);
    // SAFETY: the call was validated.
    unsafe { copy::<T>(args, product(dims)) };
    if product(dims) == 0 {
        return Ok(());
    }
    for number in 0..product(index_dims) {
        let (mut rest, mut slot, mut stride) = (number, 0, 1);
        for axis in (0..rank).rev() {
            let at = if axis as u64 == p.axis {
                // SAFETY: there are as many indices as their extents say.
                unsafe { resolved(args, p.index_bytes, number, dims[axis])? }
            } else {
                rest % index_dims[axis]
            };
            rest /= index_dims[axis];
            slot += at * stride;
            stride *= dims[axis];
        }
        // SAFETY: every coordinate is below its extent.
        unsafe { update::<T, U>(args, slot, number) };
    }
    Ok(())
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn nd<T: Copy, U: Update<T>>(args: &Args<'_>) -> Result<(), RunError> {
    let p: &ScatterNd = args.params();
    let dims = &p.dims[..p.depth as usize];
    let total = product(&[product(dims), p.slice]);
    // SAFETY: the call was validated.
    unsafe { copy::<T>(args, total) };
    if total == 0 {
        return Ok(());
    }
    for row in 0..p.rows {
        let mut slot = 0;
        for (number, &extent) in dims.iter().enumerate() {
            // SAFETY: there are `depth` indices in a row.
            let at = unsafe { resolved(args, p.index_bytes, row * p.depth + number as u64, extent)? };
            slot = slot * extent + at;
        }
        for element in 0..p.slice {
            // SAFETY: every coordinate is below its extent.
            unsafe { update::<T, U>(args, slot * p.slice + element, row * p.slice + element) };
        }
    }
    Ok(())
}

macro_rules! registered {
    ($($elements:ident $nd:ident { $ty:ty } $update:ident;)*) => {
        &[$(
            Registered { kernel: &kernels::$elements, reference: elements::<$ty, $update> },
            Registered { kernel: &kernels::$nd, reference: nd::<$ty, $update> },
        )*]
    };
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = scatter_kernels!(registered);
