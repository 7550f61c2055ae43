//! Regions of pictures, pooled: RoiAlign and MaxRoiPool.
//!
//! Chunks share the bins of all regions. A bin is pooled for some channels at a time, which have what is found of its
//! samples in common.

use super::bounds::{product, split};
use super::grid_sample::Sampled;
use super::share;
use crate::call::{MaxRoiPool, RoiAlign};
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Channels that are pooled together.
const TOGETHER: usize = 32;

pub(crate) fn validate_align(call: &Call<'_>, bytes: u64) -> Result<(), Invalid> {
    let p: &RoiAlign = call.params()?;
    call.expect_operands(4)?;
    if p.max > 1 || p.half_pixel > 1 || !matches!(p.index_bytes, 4 | 8) {
        return Err(Invalid("an unknown way to pool regions"));
    }
    call.expect_elements(0, product(&[p.n, p.channels, p.in_h, p.in_w]), bytes)?;
    call.expect_elements(1, product(&[p.regions, 4]), bytes)?;
    call.expect_elements(2, Some(p.regions), p.index_bytes)?;
    call.expect_elements(3, product(&[p.regions, p.channels, p.out_h, p.out_w]), bytes)
}

fn align_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &RoiAlign = args.params();
    let bins = p.regions.saturating_mul(p.out_h).saturating_mul(p.out_w);
    let samples = p.sampling_ratio.clamp(2, 64);
    split(bins, bins.saturating_mul(p.channels).saturating_mul(4 * samples * samples), threads)
}

/// The image of region `region`, which must be one of those that there are.
///
/// # Safety
///
/// The call is valid and has that region.
pub(crate) unsafe fn image(p: &RoiAlign, indices: *const u8, region: usize) -> Result<usize, RunError> {
    // SAFETY: passed on.
    let index = unsafe {
        match p.index_bytes {
            4 => i64::from(*indices.cast::<i32>().add(region)),
            _ => *indices.cast::<i64>().add(region),
        }
    };
    match u64::try_from(index) {
        Ok(image) if image < p.n => Ok(image as usize),
        _ => Err(RunError::IndexOutOfRange { index, length: p.n }),
    }
}

/// One chunk of a pooling of samples.
#[inline(always)]
unsafe fn align<T: Sampled>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &RoiAlign = args.params();
    if product(&[p.regions, p.channels, p.out_h, p.out_w]) == Some(0) {
        return Ok(());
    }
    let (bins, channels) = ((p.out_h * p.out_w) as usize, p.channels as usize);
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[3].ptr::<T>());
    let (width, plane) = (p.in_w as usize, p.in_h.wrapping_mul(p.in_w) as usize);
    let is_wide = size_of::<T>() == 8;
    for item in share(p.regions as usize * bins, chunk, chunks) {
        let (region, bin) = (item / bins, item % bins);
        let (y, x) = (bin as u64 / p.out_w, bin as u64 % p.out_w);
        // SAFETY: there are four edges and an image for each region.
        let (edges, image) = unsafe {
            let edges = args.operands[1].ptr::<T>().add(region * 4);
            let edges: [f64; 4] = std::array::from_fn(|edge| (*edges.add(edge)).wide());
            (edges, image(p, args.operands[2].data, region)?)
        };
        let rows = p.axis([edges[1], edges[3]], p.in_h, p.out_h, is_wide).ok_or(RunError::RegionTooLarge)?;
        let columns =
            p.axis([edges[0], edges[2]], p.in_w, p.out_w, is_wide).ok_or(RunError::RegionTooLarge)?;
        let count = rows.each * columns.each;
        for first in (0..channels).step_by(TOGETHER) {
            let together = TOGETHER.min(channels - first);
            let planes = input.wrapping_add((image * channels + first) * plane);
            let (mut sums, mut most) = ([0.0f64; TOGETHER], [f64::NEG_INFINITY; TOGETHER]);
            let mut inside = 0;
            for row in (0..rows.each).filter_map(|index| rows.sample(y, index)) {
                for column in (0..columns.each).filter_map(|index| columns.sample(x, index)) {
                    inside += 1;
                    let (v, u) = (row.weight, column.weight);
                    let weights = [(1.0 - v) * (1.0 - u), (1.0 - v) * u, v * (1.0 - u), v * u];
                    let places = [
                        (row.low, column.low),
                        (row.low, column.high),
                        (row.high, column.low),
                        (row.high, column.high),
                    ]
                    .map(|(row, column)| row * width + column);
                    for channel in 0..together {
                        // SAFETY: samples lie inside of the image, which is one of those that there are.
                        let corners: [f64; 4] = std::array::from_fn(|corner| unsafe {
                            weights[corner] * (*planes.add(channel * plane + places[corner])).wide()
                        });
                        sums[channel] += corners.iter().sum::<f64>();
                        most[channel] = corners.into_iter().fold(most[channel], f64::max);
                    }
                }
            }
            for channel in 0..together {
                // A sample outside is zero.
                let greatest = if inside < count { most[channel].max(0.0) } else { most[channel] };
                let pooled = match (p.max, count) {
                    (_, 0) => 0.0,
                    (1, _) => greatest,
                    _ => sums[channel] / count as f64,
                };
                // SAFETY: the output has the bin of each region and channel; other chunks have other bins.
                unsafe { *output.add((region * channels + first + channel) * bins + bin) = T::of(pooled) };
            }
        }
    }
    Ok(())
}

pub(crate) fn validate_pool(call: &Call<'_>, bytes: u64) -> Result<(), Invalid> {
    let p: &MaxRoiPool = call.params()?;
    call.expect_operands(3)?;
    call.expect_elements(0, product(&[p.n, p.channels, p.in_h, p.in_w]), bytes)?;
    call.expect_elements(1, product(&[p.regions, 5]), bytes)?;
    call.expect_elements(2, product(&[p.regions, p.channels, p.out_h, p.out_w]), bytes)
}

fn pool_chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &MaxRoiPool = args.params();
    let bins = p.regions.saturating_mul(p.out_h).saturating_mul(p.out_w);
    split(bins, bins.saturating_mul(p.channels).saturating_mul(16), threads)
}

/// The image that a region names by a number, which must be one of those that there are.
pub(crate) fn named_image(p: &MaxRoiPool, name: f64) -> Result<usize, RunError> {
    if name >= 0.0 && name < p.n as f64 {
        return Ok(name as usize);
    }
    Err(RunError::IndexOutOfRange { index: name as i64, length: p.n })
}

/// One chunk of a pooling of parts.
#[inline(always)]
unsafe fn pool<T: Sampled>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p: &MaxRoiPool = args.params();
    if product(&[p.regions, p.channels, p.out_h, p.out_w]) == Some(0) {
        return Ok(());
    }
    let (bins, channels) = ((p.out_h * p.out_w) as usize, p.channels as usize);
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[2].ptr::<T>());
    let (width, plane) = (p.in_w as usize, p.in_h.wrapping_mul(p.in_w) as usize);
    let is_wide = size_of::<T>() == 8;
    for item in share(p.regions as usize * bins, chunk, chunks) {
        let (region, bin) = (item / bins, item % bins);
        // SAFETY: there are five numbers for each region.
        let [image, left, top, right, bottom] = std::array::from_fn(|number| unsafe {
            (*args.operands[1].ptr::<T>().add(region * 5 + number)).wide()
        });
        let image = named_image(p, image)?;
        let rows = p.part([top, bottom], p.in_h, bin as u64 / p.out_w, p.out_h, is_wide);
        let columns = p.part([left, right], p.in_w, bin as u64 % p.out_w, p.out_w, is_wide);
        for channel in 0..channels {
            let from = input.wrapping_add((image * channels + channel) * plane);
            let mut greatest: Option<f64> = None;
            for row in rows.clone() {
                for column in columns.clone() {
                    // SAFETY: parts lie inside of the image, which is one of those that there are.
                    let x = unsafe { *from.add(row * width + column) }.wide();
                    greatest = Some(greatest.map_or(x, |greatest| greatest.max(x)));
                }
            }
            // SAFETY: the output has the part of each region and channel; other chunks have other parts.
            unsafe {
                *output.add((region * channels + channel) * bins + bin) = T::of(greatest.unwrap_or(0.0))
            };
        }
    }
    Ok(())
}

macro_rules! regions {
    ($($item:ident $name:literal $t:ident $body:ident $run:ident $validate:ident $chunks:ident $what:literal;)*) => {$(
        #[inline(always)]
        unsafe fn $body(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { $run::<$t>(args, chunk, chunks) }
        }

        #[doc = $what]
        pub static $item: Kernel = Kernel {
            name: $name,
            validate: |call| $validate(call, size_of::<$t>() as u64),
            chunks: $chunks,
            run: per_isa!($body),
        };
    )*};
}

regions! {
    ROI_ALIGN_F32 "roi_align_f32" f32 align_f32 align validate_align align_chunks
        "Regions pooled from samples between elements, of f32.";
    ROI_ALIGN_F64 "roi_align_f64" f64 align_f64 align validate_align align_chunks
        "Regions pooled from samples between elements, of f64.";
    MAX_ROI_POOL_F32 "max_roi_pool_f32" f32 pool_f32 pool validate_pool pool_chunks
        "The greatest elements of the parts of regions, of f32.";
    MAX_ROI_POOL_F64 "max_roi_pool_f64" f64 pool_f64 pool validate_pool pool_chunks
        "The greatest elements of the parts of regions, of f64.";
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, attack, bytes, check, check_error};

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| f64::from(x)).collect()
    }

    fn aligned() -> RoiAlign {
        RoiAlign {
            n: 2,
            channels: 35,
            in_h: 9,
            in_w: 7,
            regions: 5,
            out_h: 3,
            out_w: 2,
            index_bytes: 8,
            spatial_scale: 0.7,
            ..RoiAlign::default()
        }
    }

    #[test]
    fn samples_agree_with_the_oracle() {
        let mut random = Random::new(61);
        let x = random.units(2 * 35 * 9 * 7);
        let mut regions: Vec<f32> = random.units(20).iter().map(|x| 8.0 * x + 2.0).collect();
        regions[4..8].copy_from_slice(&[1.0, 2.0, 9.0, 11.0]);
        let (images, narrow): ([i64; 5], [i32; 5]) = ([0, 1, 1, 0, 1], [0, 1, 1, 0, 1]);
        for number in 0..12u64 {
            let p = RoiAlign {
                max: number % 2,
                half_pixel: number / 2 % 2,
                sampling_ratio: number / 4,
                index_bytes: if number < 6 { 8 } else { 4 },
                ..aligned()
            };
            let images = if number < 6 { bytes(&images) } else { bytes(&narrow) };
            let outputs = 5 * 35 * 6;
            let same = |_: usize, _: usize, a: f32, b: f32| a == b;
            check("roi_align_f32", &p, &[bytes(&x), bytes(&regions), images], &[outputs * 4], same);
            let (x, regions) = (wide(&x), wide(&regions));
            let same = |_: usize, _: usize, a: f64, b: f64| a == b;
            check("roi_align_f64", &p, &[bytes(&x), bytes(&regions), images], &[outputs * 8], same);
        }
    }

    #[test]
    fn wrong_regions_are_errors() {
        let (x, mut regions) = (vec![0.0f32; 2 * 35 * 63], vec![1.0f32; 20]);
        for index in [2, -1, i64::MAX] {
            let images = [0, 1, 1, index, 0];
            let error = RunError::IndexOutOfRange { index, length: 2 };
            let inputs = [bytes(&x), bytes(&regions), bytes(&images)];
            check_error("roi_align_f32", &aligned(), &inputs, &[5 * 35 * 6 * 4], error);
        }
        regions[6] = 1e30;
        let inputs = [bytes(&x), bytes(&regions), bytes(&[0i64; 5])];
        check_error("roi_align_f32", &aligned(), &inputs, &[5 * 35 * 6 * 4], RunError::RegionTooLarge);
        let p =
            MaxRoiPool { n: 1, channels: 1, in_h: 2, in_w: 2, regions: 1, out_h: 1, out_w: 1, ..pooled() };
        let error = RunError::IndexOutOfRange { index: 1, length: 1 };
        check_error("max_roi_pool_f32", &p, &[bytes(&x[..4]), bytes(&[1.0f32; 5])], &[4], error);
    }

    fn pooled() -> MaxRoiPool {
        MaxRoiPool {
            n: 2,
            channels: 5,
            in_h: 9,
            in_w: 7,
            regions: 4,
            out_h: 3,
            out_w: 2,
            spatial_scale: 0.7,
            reserved: 0,
        }
    }

    #[test]
    fn parts_agree_with_the_oracle() {
        let mut random = Random::new(62);
        let x = random.units(2 * 5 * 9 * 7);
        let mut regions: Vec<f32> = random.units(20).iter().map(|x| 8.0 * x + 2.0).collect();
        regions.iter_mut().step_by(5).zip([0.0, 1.0, 1.9, 0.5]).for_each(|(slot, image)| *slot = image);
        regions[6] = f32::NAN;
        regions[13] = f32::INFINITY;
        let outputs = 4 * 5 * 6;
        let same = |_: usize, _: usize, a: f32, b: f32| a == b;
        check("max_roi_pool_f32", &pooled(), &[bytes(&x), bytes(&regions)], &[outputs * 4], same);
        let (x, regions) = (wide(&x), wide(&regions));
        let same = |_: usize, _: usize, a: f64, b: f64| a == b;
        check("max_roi_pool_f64", &pooled(), &[bytes(&x), bytes(&regions)], &[outputs * 8], same);
    }

    #[test]
    fn hostile_parameters_stay_inside() {
        let mut random = Random::new(63);
        let (x, images) = (random.units(2 * 35 * 63), [0i64, 1, 1, 0, 1]);
        let regions: Vec<f32> = random.units(20).iter().map(|x| 3.0 * x + 2.0).collect();
        let p = RoiAlign { sampling_ratio: 1, ..aligned() };
        attack("roi_align_f32", &p, &[bytes(&x), bytes(&regions), bytes(&images)], &[5 * 35 * 6 * 4]);
        let regions: Vec<f32> = random.units(20).iter().map(|x| x.abs() * 1.5).collect();
        attack("max_roi_pool_f32", &pooled(), &[bytes(&x[..630]), bytes(&regions)], &[4 * 5 * 6 * 4]);
    }
}
