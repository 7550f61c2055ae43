//! What a processor reaches without memory: the measure that the speed of kernels is a share of.

use std::hint::black_box;
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::vector::{self, Vector};
use crate::call::BLOCK;
use crate::{Args, ChunkFn, Isa, PerIsa, RunError, threads};

/// Multiply-adds one after the other in each chain: long enough to time, short enough to repeat often.
const STEPS: usize = 20_000;

/// So many independent chains of sixteen lanes as the registers hold and the latency of a multiply-add wants.
const PORTABLE_CHAINS: usize = 3;
const AVX2_CHAINS: usize = 6;
const AVX512_CHAINS: usize = 12;

/// The f32 operations of a run.
const fn operations(isa: Isa) -> usize {
    match isa {
        Isa::Scalar => 2 * STEPS * PORTABLE_CHAINS * BLOCK,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 2 * STEPS * AVX2_CHAINS * BLOCK,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 2 * STEPS * AVX512_CHAINS * BLOCK,
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::PEAK_OPERATIONS,
    }
}

#[inline(always)]
unsafe fn multiply_adds<V: Vector, const CHAINS: usize>(
    _args: &Args<'_>,
    _chunk: usize,
    _chunks: usize,
) -> Result<(), RunError> {
    // SAFETY: the caller answers for the processor.
    let x = unsafe { V::splat(black_box(0.5)) };
    let mut sums = [x; CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = sum.mul_add(x, x);
        }
    }
    black_box(sums.into_iter().map(|sum| sum.sum()).sum::<f32>());
    Ok(())
}

static MULTIPLY_ADDS: PerIsa = PerIsa {
    #[cfg(target_arch = "x86_64")]
    amx: amx::peak,
    ..per_isa!(
        @ multiply_adds::<vector::Portable, PORTABLE_CHAINS>,
        multiply_adds::<vector::Avx2, AVX2_CHAINS>,
        multiply_adds::<vector::Avx512, AVX512_CHAINS>
    )
};

/// The f32 operations in a second that `threads` threads reach together on multiply-adds in registers (on AMX: on products by
/// thirds of tiles in the first-level cache), measured once, in about a millisecond: half of them multiplications, half
/// additions.
///
/// `None` where this processor lacks `isa`.
pub fn f32_rate(isa: Isa, threads: usize) -> Option<f64> {
    let run: ChunkFn = isa.is_available().then(|| MULTIPLY_ADDS.get(isa))?;
    let task = |chunk: usize| {
        let args = Args { params: &[], operands: &[] };
        // SAFETY: the function reads no operands, and the processor has been found to have the instruction set.
        let _ = unsafe { run(&args, chunk, threads) };
    };
    let start = Instant::now();
    threads::run(threads, threads, &task);
    Some((operations(isa) * threads) as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_has_a_rate() {
        for &isa in Isa::ALL {
            let rate = f32_rate(isa, 1);
            assert_eq!(rate.is_some(), isa.is_available());
            assert!(rate.is_none_or(|rate| rate > 1e6 && rate.is_finite()), "{rate:?}");
        }
        assert!(f32_rate(Isa::Scalar, 2).is_some_and(|rate| rate > 1e6));
    }
}
