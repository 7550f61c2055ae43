//! Blocks put back into pictures, element by element.

use super::Registered;
use crate::call::Col2Im;
use crate::{Args, RunError, kernels};

/// The position along each axis that a number counts, row-major.
fn position(number: u64, extents: [u64; 3]) -> [u64; 3] {
    let [_, h, w] = extents;
    [number / w / h, number / w % h, number % w]
}

unsafe fn col2im<T: Copy>(args: &Args<'_>, zero: T, plus: impl Fn(T, T) -> T) -> Result<(), RunError> {
    let p = args.params::<Col2Im>();
    let count = |extents: [u64; 3]| if extents.contains(&0) { 0 } else { extents.iter().product::<u64>() };
    let (input, output) = (args.operands[0].ptr::<T>(), args.operands[1].ptr::<T>());
    let (image, block, blocks) = (count(p.image), count(p.block), count(p.blocks));
    if image == 0 {
        return Ok(());
    }
    for outer in 0..p.outer {
        for at in 0..image {
            // SAFETY: the call was validated.
            unsafe { *output.add((outer * image + at) as usize) = zero };
        }
        for element in 0..block {
            for number in 0..blocks {
                let (in_block, of_block) = (position(element, p.block), position(number, p.blocks));
                let place = (0..3).try_fold(0, |at, axis| {
                    let along = of_block[axis] * p.stride[axis] + in_block[axis] * p.dilation[axis];
                    let along = along.checked_sub(p.pad_begin[axis])?;
                    (along < p.image[axis]).then_some(at * p.image[axis] + along)
                });
                let Some(place) = place else { continue };
                // SAFETY: the call was validated, and the place lies inside the picture.
                unsafe {
                    let value = *input.add(((outer * block + element) * blocks + number) as usize);
                    let slot = output.add((outer * image + place) as usize);
                    *slot = plus(*slot, value);
                }
            }
        }
    }
    Ok(())
}

macro_rules! sums {
    ($($name:ident $t:ident $zero:literal $plus:expr;)*) => {$(
        unsafe fn $name(args: &Args<'_>) -> Result<(), RunError> {
            // SAFETY: the caller's promises are passed on.
            unsafe { col2im::<$t>(args, $zero, $plus) }
        }
    )*};
}

sums! {
    of_f32 f32 0.0 |a, b| a + b;
    of_f64 f64 0.0 |a, b| a + b;
    of_i32 i32 0 i32::wrapping_add;
    of_i64 i64 0 i64::wrapping_add;
}

/// The family's kernels.
pub(super) const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::COL2IM_F32, reference: of_f32 },
    Registered { kernel: &kernels::COL2IM_F64, reference: of_f64 },
    Registered { kernel: &kernels::COL2IM_I32, reference: of_i32 },
    Registered { kernel: &kernels::COL2IM_I64, reference: of_i64 },
];
