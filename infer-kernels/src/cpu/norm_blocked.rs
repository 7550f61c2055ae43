//! `group_norm_blocked_f32`: normalisation of groups of channels, on NCHW16c.
//!
//! out = act((x − mean) / √(variance + ε) · scale + bias), mean and variance over the pixels and channels of a group.
//!
//! Blocks that hold whole groups form a cluster, which is walked three times: for the means, for the squares of what
//! differs from them, and for the output. Sums are by lane, those of a group's lanes are added last; each row has partial
//! sums of its own. Chunks share the clusters.

use super::bounds::{expect_view, product, split};
use super::pool::at;
use super::share;
use super::vector::Vector;
use super::{epilogue::MAX_STRIDE, math};
use crate::call::{BLOCK, GroupNormBlocked, View};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Vectors of partial sums.
const CHAINS: usize = 4;

/// Element-operations of one element: three passes.
const WORK: u64 = 4;

const MOST_CHANNELS: usize = GroupNormBlocked::MOST_CHANNELS as usize;

/// Group and instance normalisation of blocked pictures.
pub static GROUP_NORM_BLOCKED_F32: Kernel =
    Kernel { name: "group_norm_blocked_f32", validate, chunks, run: per_isa!(group_norm_blocked<_>) };

fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p = call.params::<GroupNormBlocked>()?;
    call.expect_operands(4)?;
    if p.groups == 0 || !p.channels.is_multiple_of(p.groups) {
        return Err(Invalid("channels are no multiple of the groups"));
    }
    if p.cluster().is_some_and(|blocks| blocks > GroupNormBlocked::MOST_CHANNELS / BLOCK as u64) {
        return Err(Invalid("groups of too many channels"));
    }
    if p.activation.kind().is_none() || p.h > MAX_STRIDE || p.w > MAX_STRIDE {
        return Err(Invalid("an unknown activation, or a picture too large"));
    }
    let blocks = p.channels.div_ceil(BLOCK as u64);
    for (index, view) in [(0, &p.input), (3, &p.output)] {
        expect_view(call, index, view, [p.n, blocks, p.h, p.w, BLOCK as u64], 4)?;
    }
    for index in [1, 2] {
        if call.operand_bytes.get(index).is_some_and(|&bytes| bytes > 0) {
            call.expect_elements(index, Some(p.channels), 4)?;
        }
    }
    Ok(())
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<GroupNormBlocked>();
    let clusters = p.cluster().map_or(0, |cluster| p.channels.div_ceil(BLOCK as u64).div_ceil(cluster));
    let elements = product(&[p.n, p.channels, p.h, p.w]).unwrap_or(u64::MAX);
    split(p.n.saturating_mul(clusters), elements.saturating_mul(WORK), threads)
}

/// One block of channels of one image.
struct Plane {
    first: *const f32,
    h: usize,
    w: usize,
    stride_h: usize,
    stride_w: usize,
}

impl Plane {
    fn new(input: *const f32, view: &View, image: usize, block: usize, p: &GroupNormBlocked) -> Self {
        Plane {
            first: input.wrapping_add(at(view, image, block, 0, 0)),
            h: p.h as usize,
            w: p.w as usize,
            stride_h: view.stride_h as usize,
            stride_w: view.stride_w as usize,
        }
    }

    /// The sum over all pixels of `term`, by lane.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set of `V`; the pixels are readable.
    #[inline(always)]
    unsafe fn sum<V: Vector>(&self, term: impl Fn(V, V) -> V) -> [f32; BLOCK] {
        // SAFETY: the caller's promises.
        unsafe {
            let zero = V::splat(0.0);
            let mut total = zero;
            for y in 0..self.h {
                let row = self.first.add(y * self.stride_h);
                let mut sums = [zero; CHAINS];
                let whole = self.w / CHAINS * CHAINS;
                for x in (0..whole).step_by(CHAINS) {
                    for (chain, sum) in sums.iter_mut().enumerate() {
                        *sum = term(V::load(row.add((x + chain) * self.stride_w)), *sum);
                    }
                }
                for x in whole..self.w {
                    sums[0] = term(V::load(row.add(x * self.stride_w)), sums[0]);
                }
                total = total + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
            }
            total.lanes()
        }
    }
}

/// Puts the sum of each group of `size` elements, divided by `count`, in place of its elements.
fn average_groups(sums: &mut [f32], size: usize, count: f32) {
    for group in sums.chunks_exact_mut(size) {
        let mean = group.iter().sum::<f32>() / count;
        group.fill(mean);
    }
}

#[inline(always)]
unsafe fn group_norm_blocked<V: Vector>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p = args.params::<GroupNormBlocked>();
    let Some(cluster) = p.cluster().map(|blocks| blocks as usize) else { return Ok(()) };
    if p.n == 0 || p.h == 0 || p.w == 0 {
        return Ok(());
    }
    let channels = p.channels as usize;
    let (size, blocks) = (channels / p.groups as usize, channels.div_ceil(BLOCK));
    let clusters = blocks.div_ceil(cluster);
    let count = (size * p.h as usize * p.w as usize) as f32;
    let [input, scale, bias, output] = [0, 1, 2, 3].map(|index| args.operands[index].ptr::<f32>());
    let [has_scale, has_bias] = [1, 2].map(|index| args.operands[index].bytes > 0);
    let mut means = [0.0_f32; MOST_CHANNELS];
    let mut squares = [0.0_f32; MOST_CHANNELS];
    for item in share(p.n as usize * clusters, chunk, chunks) {
        let (image, first) = (item / clusters, item % clusters * cluster);
        let last = (first + cluster).min(blocks);
        let own = channels.min(last * BLOCK) - first * BLOCK;
        let plane = |block| Plane::new(input, &p.input, image, block, p);
        // SAFETY: `validate` checked the views for whole blocks of all pixels, scale and bias for all channels, and that
        // a cluster has no more channels than there are statistics; the clusters of a chunk are its own.
        unsafe {
            for (block, means) in (first..last).zip(means.as_chunks_mut::<BLOCK>().0) {
                *means = plane(block).sum::<V>(|x, sum| sum + x);
            }
            average_groups(&mut means[..own], size, count);
            for (index, block) in (first..last).enumerate() {
                let centre = V::load(means.as_ptr().add(index * BLOCK));
                let sums = plane(block).sum::<V>(|x, sum| {
                    let d = x - centre;
                    d.mul_add(d, sum)
                });
                squares[index * BLOCK..][..BLOCK].copy_from_slice(&sums);
            }
            average_groups(&mut squares[..own], size, count);
            let one = V::splat(1.0);
            for (index, block) in (first..last).enumerate() {
                let lanes = (channels - block * BLOCK).min(BLOCK);
                let centre = V::load(means.as_ptr().add(index * BLOCK));
                let variance = V::load(squares.as_ptr().add(index * BLOCK));
                let mut factor = one / (variance + V::splat(p.epsilon)).sqrt();
                let mut shift = V::splat(0.0);
                if has_scale {
                    factor = factor * V::load_first(scale.add(block * BLOCK), lanes);
                }
                if has_bias {
                    shift = V::load_first(bias.add(block * BLOCK), lanes);
                }
                let from = plane(block);
                let to = output.add(at(&p.output, image, block, 0, 0));
                for y in 0..from.h {
                    for x in 0..from.w {
                        let value = V::load(from.first.add(y * from.stride_h + x * from.stride_w)) - centre;
                        let value = math::activate(&p.activation, value.mul_add(factor, shift));
                        let to = to.add(y * p.output.stride_h as usize + x * p.output.stride_w as usize);
                        if lanes == BLOCK { value.store(to) } else { value.store_first(to, lanes) }
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::{Activation, ActivationKind, GroupNormBlocked, View};
    use crate::cpu::testing::{Random, attack, bytes, check_f32};

    fn call(n: u64, groups: u64, channels: u64, [h, w]: [u64; 2]) -> GroupNormBlocked {
        let blocks = channels.div_ceil(16);
        let view = |h: u64, w: u64, halo: u64| View {
            offset: halo * (w + 1) * 16,
            stride_n: blocks * h * w * 16,
            stride_c: h * w * 16,
            stride_h: w * 16,
            stride_w: 16,
        };
        GroupNormBlocked {
            n,
            groups,
            channels,
            h,
            w,
            input: view(h + 1, w + 2, 0),
            output: view(h + 2, w + 2, 1),
            epsilon: 1e-3,
            reserved: 0,
            activation: Activation::NONE,
        }
    }

    fn sizes(p: &GroupNormBlocked) -> [usize; 2] {
        let end = |view: &View| view.end(p.n, p.channels.div_ceil(16), p.h, p.w, 16).unwrap() as usize;
        [end(&p.input), end(&p.output)]
    }

    #[test]
    fn it_agrees_with_the_reference() {
        let mut random = Random::new(8);
        for (n, groups, channels, extents) in [
            (1, 1, 1, [1, 1]),
            (2, 4, 16, [3, 5]),
            (1, 32, 32, [4, 9]),
            (1, 3, 72, [2, 7]),
            (2, 2, 10, [5, 4]),
            (1, 5, 35, [3, 3]),
            (1, 2, 64, [8, 6]),
            (0, 1, 16, [2, 2]),
        ] {
            for activation in [Activation::NONE, Activation::new(ActivationKind::Silu, 0.0, 0.0)] {
                let p = GroupNormBlocked { activation, ..call(n, groups, channels, extents) };
                let [input, output] = sizes(&p);
                let x = random.units(input);
                let (scale, bias) = (random.units(channels as usize), random.units(channels as usize));
                let count = (channels / groups * extents[0] * extents[1]) as f32;
                // As for the row-major kernel: the mean and the variance are wrong by a rounding a term.
                let units = 4.0 * (count + 8.0) * f32::EPSILON;
                for (scale, bias) in [(&scale[..], &bias[..]), (&[], &bias), (&scale, &[])] {
                    let inputs = [bytes(&x), bytes(scale), bytes(bias)];
                    check_f32("group_norm_blocked_f32", &p, &inputs, &[output * 4], |y| {
                        units * (1.0 + y.abs())
                    });
                }
            }
        }
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let p = call(2, 3, 24, [3, 4]);
        let [input, output] = sizes(&p);
        let mut random = Random::new(9);
        let (x, scale) = (random.units(input), random.units(24));
        attack("group_norm_blocked_f32", &p, &[bytes(&x), bytes(&scale), bytes(&scale)], &[output * 4]);
    }
}
