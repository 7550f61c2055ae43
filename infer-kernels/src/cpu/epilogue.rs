//! What convolutions share beside their sums: the checks of their fields, and what happens to a finished sum.
//!
//! Bias and a clamp, and a residual before it, are done by the microkernels themselves; everything else to a tile in
//! scratch memory, by one piece of code.

use crate::call::{Activation, ActivationKind, BLOCK, Conv, View, residual};
use crate::cpu::gemm_tile::{MAX_PANELS, MAX_VECTORS};
use crate::cpu::math;
#[cfg(target_arch = "x86_64")]
use crate::cpu::vector::{Avx2, Avx512};
use crate::cpu::vector::{Portable, Vector};
use crate::{Call, Invalid};

/// Bounds within which no product of two fields overflows.
const MAX_EXTENT: u64 = 1 << 31;
const MAX_STEP: u64 = 1 << 20;
pub(crate) const MAX_STRIDE: u64 = 1 << 40;

/// Multiplications that are worth a chunk: a microsecond or so.
const CHUNK_WORK: u64 = 50_000;

/// Multiplications from which a thread's share is cut into several chunks, to even out disturbances.
const LARGE_WORK: u64 = 8_000_000;

/// What both [`Conv`] and depthwise convolution need of their fields.
pub(crate) fn validate_fields(p: &Conv) -> Result<(), Invalid> {
    let extents = [p.n, p.groups, p.in_channels, p.out_channels, p.out_h, p.out_w];
    let steps = [p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w];
    let views = [p.input, p.output, p.residual];
    let strides = views
        .iter()
        .flat_map(|view| [view.offset, view.stride_n, view.stride_c, view.stride_h, view.stride_w]);
    if extents.iter().any(|&extent| extent > MAX_EXTENT)
        || steps.iter().any(|&step| step > MAX_STEP)
        || strides.chain([p.weights_stride_n]).any(|stride| stride > MAX_STRIDE)
    {
        return Err(Invalid("extent or stride too large"));
    }
    if p.output_padded > 1 || p.residual_mode > residual::AFTER_ACTIVATION || p.activation.kind().is_none() {
        return Err(Invalid("unknown mode"));
    }
    Ok(())
}

/// The rows and columns of input that the output reads.
pub(crate) fn input_extent(p: &Conv) -> (u64, u64) {
    let along = |out: u64, stride: u64, kernel: u64, dilation: u64| {
        if out == 0 || kernel == 0 { 0 } else { (out - 1) * stride + (kernel - 1) * dilation + 1 }
    };
    (
        along(p.out_h, p.stride_h, p.kernel_h, p.dilation_h),
        along(p.out_w, p.stride_w, p.kernel_w, p.dilation_w),
    )
}

/// The elements of a picture of `blocks` blocks, whose last has `tail` ≤ `block` channels.
pub(crate) fn picture_end(
    view: &View,
    n: u64,
    blocks: u64,
    [h, w]: [u64; 2],
    [block, tail]: [u64; 2],
) -> Option<u64> {
    if blocks == 0 {
        return Some(0);
    }
    Some(view.end(n, blocks - 1, h, w, block)?.max(view.end(n, blocks, h, w, tail)?))
}

/// Checks the bias, the residual and the output, operands 2 to 4, for `blocks` blocks of output.
pub(crate) fn validate_epilogue(
    call: &Call<'_>,
    p: &Conv,
    blocks: u64,
    tail: u64,
    bias: u64,
) -> Result<(), Invalid> {
    if call.operand_bytes[2] > 0 {
        call.expect_elements(2, Some(bias), 4)?;
    }
    let lanes = if p.output_padded == 1 { BLOCK as u64 } else { tail };
    let end = |view| picture_end(view, p.n, blocks, [p.out_h, p.out_w], [BLOCK as u64, lanes]);
    // Every element of the output is written once, so there cannot be more than the operand has; this bounds the
    // time that a damaged plan can take.
    let written = [p.n, blocks, p.out_h, p.out_w].into_iter().try_fold(1_u64, u64::checked_mul);
    call.expect_elements(4, written.map(|pixels| pixels.saturating_sub(1)), 4)?;
    if p.residual_mode != residual::NONE {
        call.expect_elements(3, end(&p.residual), 4)?;
    }
    call.expect_elements(4, end(&p.output), 4)
}

/// How many chunks a call of `work` multiplications is worth.
pub(crate) fn chunks_for(work: u64, threads: usize) -> usize {
    let worthwhile = usize::try_from(work / CHUNK_WORK).unwrap_or(usize::MAX).max(1);
    let each = (work / threads.max(1) as u64 / LARGE_WORK).clamp(1, 4) as usize;
    threads.saturating_mul(each).min(worthwhile).max(1)
}

/// The activations that are a clamp of the sum.
#[derive(Clone, Copy)]
pub(crate) struct Clamp {
    low: f32,
    high: f32,
}

impl Clamp {
    pub(crate) const NONE: Clamp = Clamp { low: f32::NEG_INFINITY, high: f32::INFINITY };

    /// The clamp that does all that `p` wants done to a sum with bias, except for a residual before it.
    pub(crate) fn new(p: &Conv) -> Option<Self> {
        if p.residual_mode == residual::AFTER_ACTIVATION {
            return None;
        }
        match p.activation.kind() {
            Some(ActivationKind::None) => Some(Clamp::NONE),
            Some(ActivationKind::Relu) => Some(Clamp { low: 0.0, ..Clamp::NONE }),
            Some(ActivationKind::Clip) => Some(Clamp { low: p.activation.alpha, high: p.activation.beta }),
            _ => None,
        }
    }

    pub(crate) fn bounds(self) -> (f32, f32) {
        (self.low, self.high)
    }
}

/// Writes the bias of `lanes` channels from `channel` on, and zeros beyond.
///
/// # Safety
///
/// Where `present`, so many elements are readable.
#[inline(always)]
pub(crate) unsafe fn load_start(
    start: &mut [f32; MAX_PANELS * BLOCK],
    bias: *const f32,
    present: bool,
    channel: usize,
    lanes: usize,
) {
    *start = [0.0; MAX_PANELS * BLOCK];
    if present {
        // SAFETY: the caller's promise; `lanes` is at most the array's length.
        unsafe { std::ptr::copy_nonoverlapping(bias.add(channel), start.as_mut_ptr(), lanes) };
    }
}

/// What remains to be done to a tile in scratch memory: residual, activation, and storing the lanes that exist.
/// Shapes and steps are those of panels, rows and pixels.
pub(crate) struct Finish {
    pub(crate) shape: [usize; 3],
    /// Channels that exist in all panels together.
    pub(crate) lanes: usize,
    pub(crate) padded: bool,
    pub(crate) residual_mode: u64,
    pub(crate) activation: Activation,
    pub(crate) residual: *const f32,
    pub(crate) residual_steps: [usize; 3],
    pub(crate) out: *mut f32,
    pub(crate) out_steps: [usize; 3],
}

impl Finish {
    /// What [`Finishing::finish`] compiles for each instruction set.
    ///
    /// # Safety
    ///
    /// The processor has `V`'s instruction set; residual and output hold the tile.
    #[inline(always)]
    unsafe fn run<V: Finishing>(&self, scratch: &mut [f32; MAX_VECTORS * BLOCK]) {
        let tile = scratch.as_mut_ptr();
        // SAFETY: the caller's promise; the tile was written to the scratch, vector after vector.
        unsafe {
            if self.residual_mode == residual::BEFORE_ACTIVATION {
                self.each(
                    #[inline(always)]
                    |vector, lanes, residual, _| {
                        let at = tile.add(vector * BLOCK);
                        (V::load(at) + V::load_first(residual, lanes)).store(at);
                    },
                );
            }
            let width = self.shape.iter().product();
            let activation = &self.activation;
            V::activate(&InPlace { activation, rows: 1, width, out: tile, steps: [BLOCK, 0] });
            self.each(
                #[inline(always)]
                |vector, lanes, residual, out| {
                    let mut value = V::load(tile.add(vector * BLOCK));
                    if self.residual_mode == residual::AFTER_ACTIVATION {
                        value = value + V::load_first(residual, lanes);
                    }
                    if lanes == BLOCK {
                        value.store(out);
                    } else if self.padded {
                        value.keep_first(lanes).store(out);
                    } else {
                        value.store_first(out, lanes);
                    }
                },
            );
        }
    }

    /// Calls `visit` with each vector's position in the tile, its lanes that exist, its residual and its output.
    #[inline(always)]
    fn each(&self, mut visit: impl FnMut(usize, usize, *const f32, *mut f32)) {
        let [panels, rows, width] = self.shape;
        for panel in 0..panels {
            let lanes = (self.lanes - panel * BLOCK).min(BLOCK);
            for row in 0..rows {
                let offset = |steps: [usize; 3]| panel * steps[0] + row * steps[1];
                let mut out = self.out.wrapping_add(offset(self.out_steps));
                let mut residual = self.residual.wrapping_add(offset(self.residual_steps));
                let first = (panel * rows + row) * width;
                for vector in first..first + width {
                    visit(vector, lanes, residual, out);
                    out = out.wrapping_add(self.out_steps[2]);
                    residual = residual.wrapping_add(self.residual_steps[2]);
                }
            }
        }
    }
}

/// An activation of whole vectors where they lie.
pub(crate) struct InPlace<'a> {
    pub(crate) activation: &'a Activation,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) out: *mut f32,
    /// Between pixels and rows.
    pub(crate) steps: [usize; 2],
}

impl InPlace<'_> {
    /// What [`Finishing::activate`] compiles for each instruction set.
    ///
    /// # Safety
    ///
    /// The processor has `V`'s instruction set; the vectors are readable and writable.
    #[inline(always)]
    unsafe fn run<V: Finishing>(&self) {
        // The activations of mobile networks and transformers have loops of their own, which decide nothing for each
        // vector.
        // SAFETY: the caller's promise.
        unsafe {
            match self.activation.kind() {
                Some(ActivationKind::None) => {}
                Some(ActivationKind::Silu) => V::each(
                    self,
                    #[inline(always)]
                    |x| math::silu(x),
                ),
                Some(ActivationKind::HardSwish) => V::each(
                    self,
                    #[inline(always)]
                    |x| math::hard_swish(x),
                ),
                Some(ActivationKind::Gelu) => V::each(
                    self,
                    #[inline(always)]
                    |x| math::gelu(x),
                ),
                _ => V::each(
                    self,
                    #[inline(always)]
                    |x| math::activate(self.activation, x),
                ),
            }
        }
    }

    /// [`InPlace::run`] with the activation as a function.
    ///
    /// # Safety
    ///
    /// As for [`InPlace::run`].
    #[inline(always)]
    unsafe fn apply<V: Vector>(&self, activate: impl Fn(V) -> V) {
        for row in 0..self.rows {
            let mut at = self.out.wrapping_add(row * self.steps[1]);
            for _ in 0..self.width {
                // SAFETY: the caller's promise.
                unsafe { activate(V::load(at)).store(at) };
                at = at.wrapping_add(self.steps[0]);
            }
        }
    }
}

/// An instruction set that [`Finish`] is compiled for, in functions of their own: in an unoptimised program their
/// variables take too much of a thread's stack to lie in the frames of their callers.
pub(crate) trait Finishing: Vector {
    /// [`Finish::run`].
    ///
    /// # Safety
    ///
    /// Its own.
    unsafe fn finish(finish: &Finish, scratch: &mut [f32; MAX_VECTORS * BLOCK]);

    /// [`InPlace::run`].
    ///
    /// # Safety
    ///
    /// Its own.
    unsafe fn activate(vectors: &InPlace<'_>);

    /// [`InPlace::apply`].
    ///
    /// # Safety
    ///
    /// Its own.
    unsafe fn each(vectors: &InPlace<'_>, activate: impl Fn(Self) -> Self);
}

macro_rules! finishing {
    ($vector:ident $([$features:literal])?) => {
        impl Finishing for $vector {
            $(#[target_feature(enable = $features)])?
            unsafe fn finish(finish: &Finish, scratch: &mut [f32; MAX_VECTORS * BLOCK]) {
                // SAFETY: the contract is passed on.
                unsafe { finish.run::<$vector>(scratch) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn activate(vectors: &InPlace<'_>) {
                // SAFETY: the contract is passed on.
                unsafe { vectors.run::<$vector>() }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn each(vectors: &InPlace<'_>, activate: impl Fn(Self) -> Self) {
                // SAFETY: the contract is passed on.
                unsafe { vectors.apply::<$vector>(activate) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
finishing!(Avx512["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"]);
#[cfg(target_arch = "x86_64")]
finishing!(Avx2["avx2,fma,f16c"]);
finishing!(Portable);
