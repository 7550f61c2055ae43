//! Layouts, by definition.

use super::Registered;
use crate::call::{BLOCK, FillHalo, PackB, Reorder, View};
use crate::{Args, RunError, kernels};

/// The kernels of this family.
pub const REGISTRY: &[Registered] = &[
    Registered { kernel: &kernels::TO_BLOCKED_F32, reference: to_blocked },
    Registered { kernel: &kernels::FROM_BLOCKED_F32, reference: from_blocked },
    Registered { kernel: &kernels::FILL_HALO_F32, reference: fill_halo },
    Registered { kernel: &kernels::PACK_B_F32, reference: pack_b },
];

/// Calls `body` with every index below `extents`.
fn each(extents: [u64; 5], mut body: impl FnMut([u64; 5])) {
    let total: u64 = extents.iter().product();
    for mut number in 0..total {
        let mut index = [0; 5];
        for axis in (0..5).rev() {
            index[axis] = number % extents[axis];
            number /= extents[axis];
        }
        body(index);
    }
}

fn element(view: &View, [n, c, y, x, lane]: [u64; 5]) -> usize {
    (view.offset + n * view.stride_n + c * view.stride_c + y * view.stride_h + x * view.stride_w + lane)
        as usize
}

/// `to_blocked_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn to_blocked(args: &Args<'_>) -> Result<(), RunError> {
    let p: &Reorder = args.params();
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    each([p.n, p.channels.div_ceil(p.block), p.h, p.w, p.block], |[n, block, y, x, lane]| {
        let channel = block * p.block + lane;
        // SAFETY: the call was validated.
        unsafe {
            *output.add(element(&p.blocked, [n, block, y, x, lane])) =
                if channel < p.channels { *input.add(element(&p.plain, [n, channel, y, x, 0])) } else { 0.0 };
        }
    });
    Ok(())
}

/// `from_blocked_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn from_blocked(args: &Args<'_>) -> Result<(), RunError> {
    let p: &Reorder = args.params();
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    each([p.n, p.channels, p.h, p.w, 1], |[n, channel, y, x, _]| {
        let blocked = [n, channel / p.block, y, x, channel % p.block];
        // SAFETY: the call was validated.
        unsafe {
            *output.add(element(&p.plain, [n, channel, y, x, 0])) = *input.add(element(&p.blocked, blocked));
        }
    });
    Ok(())
}

/// `fill_halo_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn fill_halo(args: &Args<'_>) -> Result<(), RunError> {
    let p: &FillHalo = args.params();
    let output = args.operands[0].ptr::<f32>();
    let [top, left, bottom, right] = p.halo;
    let before = top * p.view.stride_h + left * p.view.stride_w;
    each([p.n, p.blocks, top + p.h + bottom, left + p.w + right, p.block], |index| {
        let [_, _, y, x, _] = index;
        if !((top..top + p.h).contains(&y) && (left..left + p.w).contains(&x)) {
            // SAFETY: the call was validated.
            unsafe { *output.add(element(&p.view, index) - before as usize) = p.value };
        }
    });
    Ok(())
}

/// `pack_b_f32`.
///
/// # Safety
///
/// As for [`Registered::reference`].
pub unsafe fn pack_b(args: &Args<'_>) -> Result<(), RunError> {
    let p: &PackB = args.params();
    let (input, output) = (args.operands[0].ptr::<f32>(), args.operands[1].ptr::<f32>());
    let mut to = 0;
    each([p.batch, p.n.div_ceil(BLOCK as u64), p.k, BLOCK as u64, 1], |[batch, panel, k, lane, _]| {
        let column = panel * BLOCK as u64 + lane;
        let from = batch * p.stride_batch + k * p.stride_k + column * p.stride_n;
        // SAFETY: the call was validated; the output is walked in its own order.
        unsafe { *output.add(to) = if column < p.n { *input.add(from as usize) } else { 0.0 } };
        to += 1;
    });
    Ok(())
}
