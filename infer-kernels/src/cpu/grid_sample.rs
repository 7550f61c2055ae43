//! Pictures read at the places of a grid.
//!
//! out[n, c, point] = Σ weight · in[n, c, at]
//!
//! Chunks share blocks of points. For the points of a block it is found once what they read; then one channel after the
//! other is read.

use bytemuck::Pod;

use super::bounds::{product, split};
use super::share;
use crate::call::GridSample;
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Points of a block, and the most elements that they read together.
const BLOCK: usize = 256;
const READS: usize = 2048;

/// An element of a picture.
pub(crate) trait Sampled: Pod {
    /// As f64.
    fn wide(self) -> f64;
    /// The nearest one.
    fn of(sum: f64) -> Self;
}

impl Sampled for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self.into()
    }
    #[inline(always)]
    fn of(sum: f64) -> f32 {
        sum as f32
    }
}

impl Sampled for f64 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
    #[inline(always)]
    fn of(sum: f64) -> f64 {
        sum
    }
}

/// Place `point` of the grid, outermost axis first.
///
/// # Safety
///
/// The operand has so many places.
#[inline(always)]
pub(crate) unsafe fn place(p: &GridSample, grid: *const u8, point: usize) -> [f64; GridSample::MOST_AXES] {
    let rank = p.rank as usize;
    std::array::from_fn(|axis| {
        if axis >= rank {
            return 0.0;
        }
        let at = point * rank + rank - 1 - axis;
        // SAFETY: passed on.
        unsafe {
            match p.grid_bytes {
                4 => f64::from(*grid.cast::<f32>().add(at)),
                _ => *grid.cast::<f64>().add(at),
            }
        }
    })
}

fn picture(p: &GridSample) -> Option<&[u64]> {
    p.dims.get(..usize::try_from(p.rank).ok()?)
}

pub(crate) fn validate(call: &Call<'_>, bytes: u64) -> Result<(), Invalid> {
    let p: &GridSample = call.params()?;
    call.expect_operands(3)?;
    let dims = picture(p).filter(|dims| !dims.is_empty()).ok_or(Invalid("no or too many spatial axes"))?;
    if p.mode > 2 || p.padding > 2 || p.align_corners > 1 || !matches!(p.grid_bytes, 4 | 8) {
        return Err(Invalid("an unknown way to sample"));
    }
    let planes = product(&[p.n, p.channels]);
    let all = |extent: Option<u64>| product(&[planes?, extent?]);
    call.expect_elements(0, all(product(dims)), bytes)?;
    call.expect_elements(1, product(&[p.n, p.points, p.rank]), p.grid_bytes)?;
    call.expect_elements(2, all(Some(p.points)), bytes)
}

fn reads(p: &GridSample) -> usize {
    p.taps().pow(p.rank as u32)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &GridSample = args.params();
    let points = p.n.saturating_mul(p.points);
    let each = p.channels.saturating_add(8).saturating_mul(reads(p) as u64);
    split(points.div_ceil(BLOCK as u64), points.saturating_mul(each), threads)
}

#[inline(always)]
unsafe fn sample<T: Sampled>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &GridSample = args.params();
    let (points, channels) = (p.points as usize, p.channels as usize);
    if p.n == 0 || channels == 0 || points == 0 {
        return Ok(());
    }
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[2].ptr::<T>());
    let elements = picture(p).and_then(product).unwrap_or(0) as usize;
    let block = (READS / reads(p)).min(BLOCK);
    let blocks = points.div_ceil(block);
    let (mut found, mut ends) = ([(0usize, 0.0f64); READS], [0usize; BLOCK]);
    for item in share(p.n as usize * blocks, chunk, chunks) {
        let (image, first) = (item / blocks, item % blocks * block);
        let ends = &mut ends[..block.min(points - first)];
        let mut count = 0;
        for (point, end) in ends.iter_mut().enumerate() {
            // SAFETY: the grid has `points` places for each image.
            let place = unsafe { place(p, args.operands[1].data, image * points + first + point) };
            p.each_read(&place, |at, weight| {
                if let Some(slot) = found.get_mut(count) {
                    *slot = (at, weight);
                    count += 1;
                }
            });
            *end = count;
        }
        for channel in 0..channels {
            let plane = image * channels + channel;
            let mut start = 0;
            for (point, &end) in ends.iter().enumerate() {
                // Adding to −0 keeps the sign of zeros.
                let mut sum = if start == end { 0.0 } else { -0.0 };
                for &(at, weight) in found.get(start..end).unwrap_or_default() {
                    // SAFETY: what a place reads is inside of its picture.
                    sum += unsafe { *input.add(plane * elements + at) }.wide() * weight;
                }
                // SAFETY: the output has `points` elements in each plane; other chunks have other blocks.
                unsafe { *output.add(plane * points + first + point) = T::of(sum) };
                start = end;
            }
        }
    }
    Ok(())
}

macro_rules! samplers {
    ($($item:ident $name:literal $t:ident $body:ident;)*) => {$(
        #[inline(always)]
        unsafe fn $body(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { sample::<$t>(args, chunk, chunks) }
        }

        #[doc = concat!("Pictures of `", stringify!($t), "` read at places between their elements.")]
        pub static $item: Kernel = Kernel {
            name: $name,
            validate: |call| validate(call, size_of::<$t>() as u64),
            chunks,
            run: per_isa!($body),
        };
    )*};
}

samplers! {
    GRID_SAMPLE_F32 "grid_sample_f32" f32 sample_f32;
    GRID_SAMPLE_F64 "grid_sample_f64" f64 sample_f64;
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, attack, bytes, check};

    fn params(dims: &[u64], points: u64) -> GridSample {
        let mut p = GridSample {
            n: 2,
            channels: 3,
            rank: dims.len() as u64,
            points,
            grid_bytes: 4,
            ..GridSample::default()
        };
        p.dims[..dims.len()].copy_from_slice(dims);
        p
    }

    fn every_way(mut p: GridSample) {
        let mut random = Random::new(41);
        let elements = p.dims[..p.rank as usize].iter().product::<u64>() as usize;
        let x = random.units(6 * elements);
        let mut grid: Vec<f32> =
            random.units((2 * p.points * p.rank) as usize).iter().map(|x| x * 1.6).collect();
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -3e38, 1.0, -1.0];
        grid.iter_mut().step_by(13).zip(special.iter().cycle()).for_each(|(slot, &x)| *slot = x);
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (x64, grid64) = (wide(&x), wide(&grid));
        for (mode, padding, align_corners) in (0..18).map(|number| (number % 3, number / 3 % 3, number / 9)) {
            (p.mode, p.padding, p.align_corners) = (mode, padding, align_corners);
            for (grid_bytes, grid) in [(4, bytes(&grid)), (8, bytes(&grid64))] {
                p.grid_bytes = grid_bytes;
                let outputs = (6 * p.points) as usize;
                let same = |_: usize, _: usize, a: f32, b: f32| a == b;
                check("grid_sample_f32", &p, &[bytes(&x), grid], &[outputs * 4], same);
                let same = |_: usize, _: usize, a: f64, b: f64| a == b;
                check("grid_sample_f64", &p, &[bytes(&x64), grid], &[outputs * 8], same);
            }
        }
    }

    #[test]
    fn places_agree_with_the_oracle() {
        every_way(params(&[7], 11));
        every_way(params(&[5, 6], 300));
        every_way(params(&[1, 1], 5));
        every_way(params(&[3, 4, 5], 70));
        every_way(params(&[2, 1, 3, 2, 2], 5));
        every_way(params(&[4, 0], 9));
        every_way(params(&[4, 3], 0));
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let mut random = Random::new(42);
        let (x, grid) = (random.units(6 * 20), random.units(2 * 9 * 2));
        for mode in 0..3 {
            let p = GridSample { mode, padding: 1, ..params(&[4, 5], 9) };
            attack("grid_sample_f32", &p, &[bytes(&x), bytes(&grid)], &[6 * 9 * 4]);
        }
    }
}
