//! Kernels for the processor: one file a family, each written once and compiled for every instruction set.

/// Compiles `$body`, an `#[inline(always)]` function of [`crate::ChunkFn`]'s signature, once for each instruction set.
///
/// Given as `$body<_>`, the body is generic over a [`vector::Vector`] and gets that of the instruction set. AMX runs what
/// AVX-512 does, or the function given for it.
macro_rules! per_isa {
    ($body:ident) => {
        per_isa!(@ $body, $body, $body)
    };
    ($body:ident <_>) => {
        per_isa!(
            @ $body::<$crate::cpu::vector::Portable>,
            $body::<$crate::cpu::vector::Avx2>,
            $body::<$crate::cpu::vector::Avx512>
        )
    };
    ($body:ident <_>, amx $amx:path) => {
        $crate::PerIsa {
            #[cfg(target_arch = "x86_64")]
            amx: $amx,
            ..per_isa!($body<_>)
        }
    };
    (@ $portable:expr, $avx2:expr, $avx512:expr) => {{
        unsafe fn portable(
            args: &$crate::Args<'_>,
            chunk: usize,
            chunks: usize,
        ) -> Result<(), $crate::RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { $portable(args, chunk, chunks) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(
            args: &$crate::Args<'_>,
            chunk: usize,
            chunks: usize,
        ) -> Result<(), $crate::RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { $avx2(args, chunk, chunks) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        unsafe fn avx512(
            args: &$crate::Args<'_>,
            chunk: usize,
            chunks: usize,
        ) -> Result<(), $crate::RunError> {
            // SAFETY: the contract of `ChunkFn` is passed on.
            unsafe { $avx512(args, chunk, chunks) }
        }
        $crate::PerIsa {
            portable,
            #[cfg(target_arch = "x86_64")]
            avx2,
            #[cfg(target_arch = "x86_64")]
            avx512,
            #[cfg(target_arch = "x86_64")]
            amx: avx512,
        }
    }};
}

/// The part of `0..total` that chunk `chunk` of `chunks` works on. Parts differ by at most one, and so do the halves, thirds
/// and so on that neighbouring parts make up.
pub(crate) fn share(total: usize, chunk: usize, chunks: usize) -> std::ops::Range<usize> {
    let (each, rest) = (total / chunks, total % chunks);
    let start = |chunk: usize| chunk * each + chunk * rest / chunks;
    start(chunk)..start(chunk + 1)
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_product;
#[cfg(target_arch = "x86_64")]
mod amx_right;
pub(crate) mod arg;
pub(crate) mod attention;
mod attention_pack;
mod attention_softmax;
#[cfg(all(test, feature = "reference"))]
mod attention_tests;
pub(crate) mod blocked;
pub(crate) mod bounds;
pub(crate) mod cast;
pub(crate) mod col2im;
pub(crate) mod conv;
#[cfg(target_arch = "x86_64")]
mod conv_amx;
mod conv_depthwise;
pub(crate) mod conv_nd;
#[cfg(all(test, feature = "reference"))]
mod conv_tests;
pub(crate) mod copy;
pub(crate) mod depthwise;
pub(crate) mod elementwise;
pub(crate) mod epilogue;
pub(crate) mod gemm_tile;
pub(crate) mod grid_sample;
pub mod kernels;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod non_max_suppression;
pub(crate) mod norm;
pub(crate) mod norm_blocked;
pub mod peak;
pub(crate) mod pool;
mod pooled_conv;
mod pooled_conv_rows;
pub(crate) mod recurrent;
pub(crate) mod reduce;
pub(crate) mod reduce_ops;
pub(crate) mod region;
pub(crate) mod resize;
pub(crate) mod scan;
pub(crate) mod scatter;
pub(crate) mod softmax;
pub(crate) mod strassen;
#[cfg(target_arch = "x86_64")]
mod strassen_amx;
pub(crate) mod strassen_left;
mod strassen_steps;
#[cfg(all(test, feature = "reference"))]
mod strassen_tests;
#[cfg(all(test, feature = "reference"))]
pub(crate) mod testing;
pub(crate) mod top_k;
pub(crate) mod vector;
pub(crate) mod winograd;
pub(crate) mod winograd_rows;
#[cfg(all(test, feature = "reference"))]
mod winograd_rows_tests;
#[cfg(all(test, feature = "reference"))]
mod winograd_tests;
pub(crate) mod winograd_transform;

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_are_even_and_so_are_neighbours() {
        for (total, chunks) in [(12, 8), (0, 3), (3, 8), (7, 7), (1000, 24), (usize::MAX, 4)] {
            let each = total / chunks;
            let mut end = 0;
            for chunk in 0..chunks {
                let range = share(total, chunk, chunks);
                assert_eq!(range.start, end);
                assert!(range.len() - each <= 1, "{range:?} of {total} in {chunks}");
                end = range.end;
            }
            assert_eq!(end, total);
            if chunks % 2 == 0 {
                let half = share(total, chunks / 2, chunks).start;
                assert!((total - half).abs_diff(half) <= 1, "{half} of {total} in {chunks}");
            }
        }
    }
}
