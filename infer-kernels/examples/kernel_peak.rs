//! Prints the speed of convolution kernels as a share of the peak that the core shows in the same moment.
//!
//! `cargo run --release -p infer-kernels --example kernel_peak [THREADS [NAME]]`, of the cases whose name has NAME in it.
//! With `COLD=1`, every call has weights of its own, from memory, as in a model larger than the caches.

use std::time::{Duration, Instant};

use infer_kernels::call::{
    Activation, ActivationKind, Conv, Strassen, StrassenLeft, View, Winograd, WinogradWeights,
};
use infer_kernels::{Args, Isa, Kernel, Operand, kernels, threads};

/// How many bytes of weights calls go through with `COLD`.
const COLD_BYTES: usize = 256 << 20;

/// Multiplications and additions in a second that a loop without memory reaches on one thread.
fn peak(isa: Isa) -> f64 {
    infer_kernels::peak::f32_rate(isa, 1).unwrap_or(f64::NAN)
}

/// [`measure_call`] of a convolution or product.
fn measure(name: &str, kernel: &Kernel, isa: Isa, threads: usize, p: &Conv, lens: [usize; 3]) {
    measure_call(name, kernel, isa, threads, p, bytemuck::bytes_of(p), &[lens[0], lens[1], 0, 0, lens[2]]);
}

/// [`measure_call`] of a 3×3 convolution by Winograd's algorithm, and of the preparation of its weights. `blocks`: the size of
/// tiles, how many of them, and how many pairs of output blocks are worked on together.
fn measure_winograd(name: &str, isa: Isa, threads: usize, p: &Conv, lens: [usize; 3], blocks: [u64; 3]) {
    let [tile, block_tiles, block_pairs] = blocks;
    let w = Winograd { conv: *p, tile, block_tiles, block_pairs };
    let weights =
        WinogradWeights { groups: p.groups, in_channels: p.in_channels, out_channels: p.out_channels, tile };
    let prepared = weights.elements().expect("a size") as usize;
    let slots = 2 * threads * w.slot().expect("a size") as usize;
    let name = format!("{name} F({tile},3)");
    let params = bytemuck::bytes_of(&w);
    let operands = [lens[0], prepared, 0, 0, lens[2], slots];
    measure_call(&name, &kernels::WINOGRAD_F32, isa, threads, p, params, &operands);
    let params = bytemuck::bytes_of(&weights);
    let kernel = &kernels::WINOGRAD_WEIGHTS_F32;
    measure_call("  preparing its weights", kernel, isa, threads, p, params, &[lens[1], prepared]);
}

/// [`measure_call`] of a row-major product by Strassen's algorithm, and of its left side.
fn measure_strassen(name: &str, isa: Isa, threads: usize, p: &Conv, lens: [usize; 3], parts: u64) {
    let s = Strassen { conv: *p, parts, products: 1 };
    let left = StrassenLeft { stride: p.in_channels, ..s.left() };
    let sums = left.elements().expect("a size") as usize;
    let slots = 4 * threads * s.slot().expect("a size") as usize;
    let operands = [sums, lens[1], 0, 0, lens[2], slots];
    let kernel = &kernels::STRASSEN_F32;
    measure_call(&format!("{name} Strassen"), kernel, isa, threads, p, bytemuck::bytes_of(&s), &operands);
    let params = bytemuck::bytes_of(&left);
    measure_call("  its left side", &kernels::STRASSEN_LEFT_F32, isa, threads, p, params, &[lens[0], sums]);
}

/// The best of alternating measurements of the call and of the peak, as a share of what `p` nominally takes.
fn measure_call(
    name: &str,
    kernel: &Kernel,
    isa: Isa,
    threads: usize,
    p: &Conv,
    params: &[u8],
    lens: &[usize],
) {
    if std::env::args().nth(2).is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let filled = |len: usize| -> Vec<f32> { (0..len + 16).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect() };
    let mut memory: Vec<Vec<f32>> = lens.iter().map(|&len| filled(len)).collect();
    let operand = |m: &mut Vec<f32>| {
        let skip = m.as_ptr().align_offset(64);
        let bytes = (m.len() - 16) * 4;
        Operand { data: m[skip..].as_mut_ptr().cast(), bytes }
    };
    let operands: Vec<Operand> = memory.iter_mut().map(operand).collect();
    let copies = if std::env::var_os("COLD").is_some() { COLD_BYTES.div_ceil(operands[1].bytes) } else { 0 };
    let mut cold: Vec<Vec<f32>> = (0..copies).map(|_| filled(lens[1])).collect();
    let mut variants: Vec<Vec<Operand>> = cold
        .iter_mut()
        .map(|weights| {
            let mut operands = operands.clone();
            operands[1] = operand(weights);
            operands
        })
        .collect();
    variants.push(operands.clone());
    let sizes: Vec<u64> = operands.iter().map(|o| o.bytes as u64).collect();
    (kernel.validate)(&infer_kernels::Call { params, operand_bytes: &sizes }).expect("a valid call");
    let run = kernel.run.get(isa);
    let chunks = (kernel.chunks)(&Args { params, operands: &operands }, threads);
    let work = 2 * [p.n, p.groups, p.in_channels, p.out_channels, p.kernel_h, p.kernel_w, p.out_h, p.out_w]
        .into_iter()
        .product::<u64>();
    let mut calls = variants.iter().cycle();
    let mut once = || {
        let args = Args { params, operands: calls.next().expect("at least one variant") };
        threads::run(threads, chunks, &|chunk| {
            // SAFETY: the call was validated, and `main` asks only for what the processor has.
            unsafe { run(&args, chunk, chunks) }.expect("kernels of this example cannot fail");
        })
    };
    once();
    let (mut best, mut rate) = (f64::INFINITY, 0.0_f64);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(400) {
        rate = rate.max(peak(isa));
        let repeat = 1 + 20_000_000 / work.max(1);
        let start = Instant::now();
        (0..repeat).for_each(|_| once());
        best = best.min(start.elapsed().as_secs_f64() / repeat as f64);
    }
    let share = work as f64 / best / (rate * threads as f64) * 100.0;
    println!(
        "{:8} {threads} {name:28} {:8.1} us {:7.1} GFLOP/s {share:5.1} %",
        isa.name(),
        best * 1e6,
        work as f64 / best * 1e-9
    );
}

/// A convolution on blocked pictures, or a depthwise one.
fn picture(depthwise: bool, channels: [u64; 2], kernel: u64, size: u64, stride: u64) -> (Conv, [usize; 3]) {
    let [input, output] = channels;
    let (h, w) = ((size - 1) * stride + kernel, (size - 1) * stride + kernel);
    let view = |blocks: u64, h: u64, w: u64| View {
        offset: 0,
        stride_n: blocks * h * w * 16,
        stride_c: h * w * 16,
        stride_h: w * 16,
        stride_w: 16,
    };
    let p = Conv {
        n: 1,
        groups: if depthwise { input } else { 1 },
        in_channels: if depthwise { 1 } else { input },
        in_block: 16,
        out_channels: if depthwise { 1 } else { output },
        output_padded: 1,
        out_h: size,
        out_w: size,
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: stride,
        stride_w: stride,
        dilation_h: 1,
        dilation_w: 1,
        input: view(input / 16, h, w),
        output: view(output / 16, size, size),
        activation: Activation::new(ActivationKind::Relu, 0.0, 0.0),
        ..Conv::default()
    };
    let weights = kernel * kernel * if depthwise { input } else { input * output };
    (p, [input * h * w, weights, output * size * size].map(|len| len as usize))
}

/// A row-major product, or one whose left matrix and result are blocked.
fn matrix(m: u64, k: u64, n: u64, blocked: bool) -> (Conv, [usize; 3]) {
    let view = |pitch: u64| View {
        offset: 0,
        stride_n: 0,
        stride_c: if blocked { m * 16 } else { 16 },
        stride_h: 0,
        stride_w: if blocked { 16 } else { pitch },
    };
    let p = Conv {
        n: 1,
        groups: 1,
        in_channels: k,
        in_block: 16,
        out_channels: n,
        out_h: 1,
        out_w: m,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        input: view(k),
        output: view(n),
        ..Conv::default()
    };
    (p, [m * k, k * n, m * n].map(|len| len as usize))
}

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |count| count.parse().expect("a number of threads"));
    let conv = [
        ("1x1 64-256 @56", picture(false, [64, 256], 1, 56, 1)),
        ("1x1 256-64 @56", picture(false, [256, 64], 1, 56, 1)),
        ("1x1 1024-256 @14", picture(false, [1024, 256], 1, 14, 1)),
        ("3x3 64 @56", picture(false, [64, 64], 3, 56, 1)),
        ("3x3 128/2 @28", picture(false, [128, 128], 3, 28, 2)),
        ("3x3 256 @14", picture(false, [256, 256], 3, 14, 1)),
        ("3x3 512 @7", picture(false, [512, 512], 3, 7, 1)),
        ("gemm 128x768x3072 rows", matrix(128, 768, 3072, false)),
        ("gemm 128x3072x768 rows", matrix(128, 3072, 768, false)),
        ("gemm 128x768x3072 blocked", matrix(128, 768, 3072, true)),
        ("gemm 1x2048x1024", matrix(1, 2048, 1024, false)),
    ];
    let strassen = [
        ("128x768x3072", matrix(128, 768, 3072, false), 1),
        ("128x768x768", matrix(128, 768, 768, false), 1),
        ("128x3072x768", matrix(128, 3072, 768, false), 4),
        ("128x384x1536", matrix(128, 384, 1536, false), 1),
        ("128x1536x384", matrix(128, 1536, 384, false), 2),
        ("197x768x3072", matrix(197, 768, 3072, false), 1),
        ("197x768x768", matrix(197, 768, 768, false), 1),
    ];
    let winograd = [
        ("3x3 64 @56", picture(false, [64, 64], 3, 56, 1), [4, 49, 1]),
        ("3x3 128-256 @52", picture(false, [128, 256], 3, 52, 1), [4, 25, 1]),
        ("3x3 128 @28", picture(false, [128, 128], 3, 28, 1), [4, 25, 1]),
        ("3x3 256-512 @26", picture(false, [256, 512], 3, 26, 1), [4, 49, 8]),
        ("3x3 256 @14", picture(false, [256, 256], 3, 14, 1), [4, 16, 4]),
        ("3x3 256 @14", picture(false, [256, 256], 3, 14, 1), [2, 25, 1]),
        ("3x3 512-1024 @13", picture(false, [512, 1024], 3, 13, 1), [4, 16, 4]),
        ("3x3 512-1024 @13", picture(false, [512, 1024], 3, 13, 1), [2, 49, 4]),
        ("3x3 512 @7", picture(false, [512, 512], 3, 7, 1), [2, 16, 1]),
    ];
    let depthwise = [
        ("depthwise 3x3 32 @112", picture(true, [32, 32], 3, 112, 1)),
        ("depthwise 3x3/2 96 @56", picture(true, [96, 96], 3, 56, 2)),
        ("depthwise 3x3 32 @56", picture(true, [32, 32], 3, 56, 1)),
        ("depthwise 3x3 576 @14", picture(true, [576, 576], 3, 14, 1)),
        ("depthwise 5x5 480 @14", picture(true, [480, 480], 5, 14, 1)),
        ("depthwise 5x5/2 144 @28", picture(true, [144, 144], 5, 28, 2)),
        ("depthwise 3x3 64 @40", picture(true, [64, 64], 3, 40, 1)),
    ];
    for isa in Isa::ALL.iter().rev().copied().filter(|isa| isa.is_available()) {
        for (name, (p, lens)) in &conv {
            measure(name, &kernels::CONV_F32, isa, threads, p, *lens);
        }
        for (name, (p, lens), parts) in &strassen {
            measure_strassen(name, isa, threads, p, *lens, *parts);
        }
        for (name, (p, lens), blocks) in &winograd {
            measure_winograd(name, isa, threads, p, *lens, *blocks);
        }
        for (name, (p, lens)) in &depthwise {
            measure(name, &kernels::DEPTHWISE_F32, isa, threads, p, *lens);
        }
    }
}
