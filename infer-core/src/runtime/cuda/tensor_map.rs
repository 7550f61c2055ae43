//! Descriptions of tensors, by which the tensor memory accelerator copies boxes of them.

#![allow(unsafe_code)]

use std::ffi::c_void;

use cudarc::driver::sys;
use infer_kernels::cuda::{Boxes, TensorMap};

use super::driver::check;
use crate::error::{Error, ErrorKind, Result};

/// The words of a description of a tensor.
const TENSOR_WORDS: usize = 16;

/// Where one may lie in a kernel's argument, in bytes.
pub(super) const TENSOR_ALIGNMENT: usize = 64;

/// The description of a tensor at this address for the tensor memory accelerator.
pub(super) fn describe(tensor: &TensorMap, address: u64) -> Result<[u64; TENSOR_WORDS]> {
    use sys::CUtensorMapDataType as Type;
    use sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as ZEROS;
    use sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE as PLAIN;
    use sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B as LINES;
    use sys::CUtensorMapSwizzle as Swizzle;
    let TensorMap { extents, strides, boxes, .. } = tensor;
    let ty = match tensor.bf16 {
        true => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        false => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let rank = extents.len();
    let (axes, row) = match boxes {
        Boxes::Whole(extents) => (extents.len(), extents.first().copied().unwrap_or_default()),
        Boxes::Windows { channels, .. } => (4, *channels),
    };
    let swapped = match row * 2 {
        64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        _ => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    if rank != axes || strides.len() + 1 != rank {
        return Err(Error::new(ErrorKind::Plan, format!("{tensor:?} is no tensor that can be copied")));
    }
    let mut map = sys::CUtensorMap { opaque: [0; TENSOR_WORDS] };
    let (to, at, rank) = (&raw mut map, address as *mut c_void, rank as u32);
    let (extents, strides) = (extents.as_ptr(), strides.as_ptr());
    let result = match boxes {
        Boxes::Whole(sizes) => {
            let steps = vec![1u32; axes];
            let (sizes, steps) = (sizes.as_ptr(), steps.as_ptr());
            // SAFETY: a place for the description, and as many numbers of each kind as the tensor has axes; the driver
            // reads no more than these.
            unsafe {
                sys::cuTensorMapEncodeTiled(
                    to, ty, rank, at, extents, strides, sizes, steps, PLAIN, swapped, LINES, ZEROS,
                )
            }
        }
        Boxes::Windows { lower, upper, steps, channels, pixels } => {
            let steps = [1, steps[0], steps[1], 1];
            let (lower, upper, steps) = (lower.as_ptr(), upper.as_ptr(), steps.as_ptr());
            // SAFETY: as above, of four axes, of which columns and rows have corners.
            unsafe {
                sys::cuTensorMapEncodeIm2col(
                    to, ty, rank, at, extents, strides, lower, upper, *channels, *pixels, steps, PLAIN,
                    swapped, LINES, ZEROS,
                )
            }
        }
    };
    check(result, &format!("describing {tensor:?}"))?;
    Ok(map.opaque)
}
