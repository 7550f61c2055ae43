//! Oracles of copies, fills, gathers and index maps.

use super::Registered;
use super::elementwise::{for_each, read, write};
use crate::call::{Elementwise, Gather, IndexMap};
use crate::{Args, RunError, kernels};

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn copy<T: Copy>(args: &Args<'_>) -> Result<(), RunError> {
    for_each(args.params(), |[input, output]| {
        // SAFETY: the call was validated.
        unsafe { write::<T>(args, 1, output, read(args, 0, input)) };
        Ok(())
    })
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn fill<T: Copy>(args: &Args<'_>) -> Result<(), RunError> {
    let call: &Elementwise = args.params();
    // SAFETY: a value is at least as wide as the element, and little-endian.
    let value: T = unsafe { (&raw const call.value).cast::<T>().read_unaligned() };
    for_each(call, |[output]| {
        // SAFETY: the call was validated.
        unsafe { write(args, 0, output, value) };
        Ok(())
    })
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn gather<T: Copy>(args: &Args<'_>) -> Result<(), RunError> {
    let call: &Gather = args.params();
    for outer in 0..call.outer {
        for position in 0..call.indices {
            for inner in 0..call.inner {
                // SAFETY: the operand holds `indices` indices of that many bytes.
                let index: i64 = unsafe {
                    if call.index_bytes == 4 {
                        read::<i32>(args, 1, position as usize).into()
                    } else {
                        read(args, 1, position as usize)
                    }
                };
                let from_start = i128::from(index) + if index < 0 { i128::from(call.axis) } else { 0 };
                if from_start < 0 || from_start >= i128::from(call.axis) {
                    return Err(RunError::IndexOutOfRange { index, length: call.axis });
                }
                let input = (outer * call.axis + from_start as u64) * call.inner + inner;
                let output = (outer * call.indices + position) * call.inner + inner;
                // SAFETY: the call was validated and the index checked.
                unsafe { write::<T>(args, 2, output as usize, read(args, 0, input as usize)) };
            }
        }
    }
    Ok(())
}

/// # Safety
///
/// As for [`Registered::reference`].
unsafe fn index_map<T: Copy>(args: &Args<'_>) -> Result<(), RunError> {
    let call: &IndexMap = args.params();
    let rank = call.rank as usize;
    let (in_dims, out_dims) = (&call.in_dims[..rank], &call.out_dims[..rank]);
    let total = if out_dims.contains(&0) { 0 } else { out_dims.iter().product() };
    // SAFETY: a value is at least as wide as the element, and little-endian.
    let value: T = unsafe { (&raw const call.value).cast::<T>().read_unaligned() };
    for flat in 0..total {
        let (mut rest, mut input, mut stride) = (flat, Some(0), 1u64);
        let mut table = out_dims.iter().sum::<u64>();
        for axis in (0..rank).rev() {
            table -= out_dims[axis];
            // SAFETY: the tables hold as many entries as the output has extents.
            let index: i64 = unsafe { read(args, 1, (table + rest % out_dims[axis]) as usize) };
            if index < -1 || i128::from(index) >= i128::from(in_dims[axis]) {
                return Err(RunError::IndexOutOfRange { index, length: in_dims[axis] });
            }
            input = input.filter(|_| index >= 0).map(|input| input + index as u64 * stride);
            rest /= out_dims[axis];
            stride *= in_dims[axis];
        }
        // SAFETY: the call was validated and every index checked.
        unsafe {
            let element = input.map_or(value, |input| read(args, 0, input as usize));
            write(args, 2, flat as usize, element);
        }
    }
    Ok(())
}

/// Copies, fills, gathers and index maps.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::COPY_B1, reference: copy::<u8> },
    Registered { kernel: &kernels::COPY_B2, reference: copy::<u16> },
    Registered { kernel: &kernels::COPY_B4, reference: copy::<u32> },
    Registered { kernel: &kernels::COPY_B8, reference: copy::<u64> },
    Registered { kernel: &kernels::COPY_B16, reference: copy::<[u64; 2]> },
    Registered { kernel: &kernels::FILL_B1, reference: fill::<u8> },
    Registered { kernel: &kernels::FILL_B2, reference: fill::<u16> },
    Registered { kernel: &kernels::FILL_B4, reference: fill::<u32> },
    Registered { kernel: &kernels::FILL_B8, reference: fill::<u64> },
    Registered { kernel: &kernels::GATHER_B1, reference: gather::<u8> },
    Registered { kernel: &kernels::GATHER_B2, reference: gather::<u16> },
    Registered { kernel: &kernels::GATHER_B4, reference: gather::<u32> },
    Registered { kernel: &kernels::GATHER_B8, reference: gather::<u64> },
    Registered { kernel: &kernels::INDEX_MAP_B1, reference: index_map::<u8> },
    Registered { kernel: &kernels::INDEX_MAP_B2, reference: index_map::<u16> },
    Registered { kernel: &kernels::INDEX_MAP_B4, reference: index_map::<u32> },
    Registered { kernel: &kernels::INDEX_MAP_B8, reference: index_map::<u64> },
];
