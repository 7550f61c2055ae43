//! Times a model on a GPU: `cuda_bench MODEL.onnx fp16|tf32|fp32 [NAME=EXTENT …] [--layers] [--sweep FILE] [--tactics FILE]
//! [--callers N] [--write PLAN] [--write-both PLAN LENDER]`, or `cuda_bench --start PLAN [LENDER]`, or `cuda_bench --context`.
//!
//! Prints the median time of the kernels alone, inputs and outputs on the GPU, by its own clock. `--layers` adds the time
//! of each call; `--sweep` tries every tile and split of every convolution, writes the times to a file, and times the
//! model with the best of each. The output is compared with `MODEL.case0/output_0.npy`, where that is beside the model:
//! that of the first image, whose input is every image's. `--tactics` computes layers as `infer tune` found them fastest;
//! `--callers` counts inferences a second of 1 to N threads, each with a context and a stream of its own, on one plan.
//! `--write` writes the plan, which `--start` opens and runs once, to measure a process from its start; `--write-both` the plans
//! that an application has that runs on either backend: that for GPUs borrows the weights of the processor's, the lender.
//! `--context` opens the GPU and nothing else, to be subtracted.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use infer_core::compile::{compile, read_tactics};
use infer_core::diagnostic::Diagnostic;
use infer_core::lower_cuda::tactics::{self, Tactic};
use infer_core::lower_cuda::{self, Lowered};
use infer_core::options::{Backends, Options, Precision};
use infer_core::plan::Port;
use infer_core::runtime::cuda::cudarc::driver::CudaContext;
use infer_core::runtime::cuda::{CudaEngine, CudaOptions};
use infer_core::runtime::{Output, PlanBytes};
use infer_core::tensor_type::DataType;
use infer_kernels::cuda::{Conv, MODULES};
use memmap2::Mmap;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("no model")?;
    if model == "--start" {
        let plan = arguments.next().ok_or("no plan")?;
        return first_result(plan.as_ref(), arguments.next().as_ref().map(Path::new));
    }
    if model == "--context" {
        CudaContext::new(0)?;
        return Ok(());
    }
    let precision = arguments.next().ok_or("no precision")?;
    let mut options = Options::new(&model);
    options.precision = Precision::from_name(&precision).ok_or("no such precision")?;
    let (mut layers, mut sweep, mut file, mut both, mut callers) = (false, None, None, None, 0);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--layers" => layers = true,
            "--sweep" => sweep = Some(arguments.next().ok_or("no file for the sweep")?),
            "--tactics" => options.tactics = Some(arguments.next().ok_or("no tactics")?.into()),
            "--callers" => callers = arguments.next().ok_or("how many callers?")?.parse()?,
            "--write" => file = arguments.next(),
            "--write-both" => both = arguments.next().zip(arguments.next()),
            dim => {
                let (name, extent) = dim.split_once('=').ok_or("what is that?")?;
                options.dims.push((name.to_owned(), extent.parse()?));
            }
        }
    }
    let start = std::time::Instant::now();
    let mut lowered = lower_cuda::compile(&options).map_err(|errors| joined(&errors))?;
    if let Some(path) = &options.tactics {
        let mut tactics = read_tactics(path).map_err(|error| error.message)?;
        lowered.follow(&mut tactics);
    }
    let compiled = start.elapsed();
    let engine = open(&lowered)?;
    println!(
        "compiled in {:.2} s, opened in {:.2} s",
        compiled.as_secs_f32(),
        (start.elapsed() - compiled).as_secs_f32()
    );
    let case = Path::new(&model).with_extension("case0");
    let title = format!("{model} {precision} {:?}", options.dims);
    let median = run(&engine, &case, &title)?;
    if layers {
        print_layers(&engine, &lowered, median)?;
    }
    if let Some(file) = file {
        std::fs::write(file, lowered.plan()?.as_slice())?;
    }
    if let Some((file, lender)) = both {
        options.backends = Backends::Auto;
        let compiled = compile(&options).map_err(|errors| joined(&errors))?;
        std::fs::write(file, compiled.cuda_plan.ok_or("nothing of it runs on a GPU")?)?;
        std::fs::write(lender, compiled.plan)?;
    }
    for callers in 1..=callers {
        let rate = throughput(&engine, callers)?;
        println!("{title}: {callers} callers, {rate:.1} inferences/s with copies");
    }
    if let Some(file) = sweep {
        let best = tune(&engine, &lowered, &file)?;
        let tuned = lowered.with_tactics(|call, precision| {
            best.get(&key(call)).map_or_else(|| tactics::choose(call, precision), |(_, tactic)| *tactic)
        });
        let engine = open(&tuned)?;
        let median = run(&engine, &case, &format!("{title} with the best of the sweep"))?;
        if layers {
            print_layers(&engine, &tuned, median)?;
        }
    }
    Ok(())
}

fn joined(errors: &[Diagnostic]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn open(lowered: &Lowered) -> Result<CudaEngine, Error> {
    Ok(CudaEngine::open(lowered.plan()?, MODULES, CudaOptions::default())?)
}

/// The f32 elements of an array in numpy's format.
fn read_npy(path: &Path) -> Option<Vec<f32>> {
    let bytes = std::fs::read(path).ok()?;
    let length = u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?) as usize;
    Some(bytemuck::pod_collect_to_vec(bytes.get(10 + length..)?))
}

/// The bytes of an array in numpy's format.
fn read_bytes(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let length = u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?) as usize;
    Some(bytes.get(10 + length..)?.to_vec())
}

/// Numbers for an input where nobody gives any: between -1 and 1, or small indices.
fn numbers(port: &Port) -> Vec<u8> {
    let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let count = port.ty.elements();
    match port.ty.dtype {
        DataType::I64 => (0..count).flat_map(|i| (i as i64 % 64).to_le_bytes()).collect(),
        DataType::I32 => (0..count).flat_map(|i| (i as i32 % 64).to_le_bytes()).collect(),
        DataType::Bool => vec![1; count],
        _ => (0..count).flat_map(|i| number(i).to_le_bytes()).collect(),
    }
}

/// Runs the model on its case, or on numbers, checks the output and times it.
fn run(engine: &CudaEngine, case: &Path, title: &str) -> Result<f32, Error> {
    let info = engine.info();
    let known = case.join("input_0.npy").exists();
    let inputs: Vec<Vec<u8>> = (0..)
        .zip(info.inputs)
        .map(|(index, port)| {
            let one = read_bytes(&case.join(format!("input_{index}.npy"))).unwrap_or_else(|| numbers(port));
            one.iter().copied().cycle().take(port.ty.bytes()).collect()
        })
        .collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<Vec<f32>> =
        info.outputs.iter().map(|port| vec![f32::NAN; port.ty.elements()]).collect();
    let mut context = engine.context();
    let mut infer = || -> Result<f64, Error> {
        let mut slots: Vec<Output<'_>> =
            outputs.iter_mut().map(|values| Output::from(bytemuck::cast_slice_mut(values))).collect();
        let start = std::time::Instant::now();
        context.run(&inputs, &mut slots)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut walls: Vec<f64> = (0..20).map(|_| infer()).collect::<Result<_, _>>()?;
    walls.sort_by(f64::total_cmp);
    let mut times = context.time(50).and_then(|_| context.time(300))?;
    times.sort_by(f32::total_cmp);
    let median = times[times.len() / 2];
    drop(context);

    let mut error = String::from("not compared");
    if known {
        let mut worst = 0f32;
        for (index, found) in outputs.iter().enumerate() {
            let one = read_npy(&case.join(format!("output_{index}.npy"))).ok_or("an output is missing")?;
            let most = one.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (found, expected) in found.iter().zip(one.iter().cycle()) {
                worst = worst.max((found - expected).abs() / most);
                if found.is_nan() {
                    worst = f32::INFINITY;
                }
            }
        }
        error = format!("error {worst:.1e} of the largest output");
    }
    println!(
        "{title}: {median:.4} ms (least {:.4}), with copies and the host's part {:.3} ms, {} launches, arena {:.1} MB, \
         weights {:.1} MB, {error}, {}",
        times[0],
        walls[walls.len() / 2],
        info.launches,
        info.arena_bytes as f64 / 1e6,
        info.weight_bytes as f64 / 1e6,
        info.device,
    );
    Ok(median)
}

/// Opens a plan, mapped as that of a program is, and runs it once on numbers; prints how long opening took.
fn first_result(plan: &Path, lender: Option<&Path>) -> Result<(), Error> {
    let mapped = |path: &Path| -> Result<PlanBytes, Error> {
        // SAFETY: nobody writes the file meanwhile.
        let map: &'static Mmap = Box::leak(Box::new(unsafe { Mmap::map(&File::open(path)?)? }));
        Ok(PlanBytes::from(&map[..]))
    };
    let (plan, lender) = (mapped(plan)?, lender.map(mapped).transpose()?);
    // The driver's own start is nothing that a plan changes.
    let _context = CudaContext::new(0)?;
    let start = std::time::Instant::now();
    let engine = CudaEngine::open_borrowing(plan, lender.as_ref(), MODULES, CudaOptions::default())?;
    println!("opened in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let inputs: Vec<Vec<u8>> = engine.info().inputs.iter().map(numbers).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<Vec<u8>> =
        engine.info().outputs.iter().map(|port| vec![0; port.ty.bytes()]).collect();
    let mut slots: Vec<Output<'_>> =
        outputs.iter_mut().map(|bytes| Output::from(bytes.as_mut_slice())).collect();
    Ok(engine.run(&inputs, &mut slots)?)
}

/// Inferences a second of so many threads, copies included.
fn throughput(engine: &CudaEngine, callers: usize) -> Result<f64, Error> {
    const SECONDS: f64 = 1.0;
    let barrier = std::sync::Barrier::new(callers);
    let caller = || -> Result<f64, infer_core::Error> {
        let info = engine.info();
        let inputs: Vec<Vec<u8>> = info.inputs.iter().map(numbers).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let mut outputs: Vec<Vec<u8>> = info.outputs.iter().map(|port| vec![0; port.ty.bytes()]).collect();
        let mut slots: Vec<Output<'_>> =
            outputs.iter_mut().map(|bytes| Output::from(bytes.as_mut_slice())).collect();
        let mut context = engine.context();
        for _ in 0..10 {
            context.run(&inputs, &mut slots)?;
        }
        barrier.wait();
        let (start, mut count) = (std::time::Instant::now(), 0.0);
        while start.elapsed().as_secs_f64() < SECONDS {
            context.run(&inputs, &mut slots)?;
            count += 1.0;
        }
        Ok(count / start.elapsed().as_secs_f64())
    };
    let rates: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().map(|caller| caller.join()).collect()
    });
    rates.into_iter().map(|rate| Ok(rate.map_err(|_| "a caller panicked")??)).sum()
}

fn conv_of(lowered: &Lowered, step: usize) -> Option<Conv> {
    tactics::convolution(&lowered.calls.calls[step])
}

fn print_layers(engine: &CudaEngine, lowered: &Lowered, median: f32) -> Result<(), Error> {
    let times = engine.context().time_steps(20)?;
    let mut sum = 0.0;
    for (index, ((kernel, node), time)) in engine.info().steps.iter().zip(&times).enumerate() {
        sum += time;
        let mut line = format!("{:8.2} µs  {kernel:32} ", time * 1e3);
        if let Some(c) = conv_of(lowered, index) {
            let work =
                f64::from(c.pixels) * f64::from(c.out_channels) * f64::from(c.taps) * f64::from(c.channels);
            let rate = 2.0 * work / f64::from(*time) / 1e9;
            write!(
                line,
                "{:6}x{:4}x{:5} ({} taps) / {:2}  {rate:6.1} TFLOP/s  ",
                c.pixels,
                c.out_channels,
                c.taps * c.channels,
                c.taps,
                c.splits
            )?;
        }
        println!("{line}{node}");
    }
    println!("sum of the calls alone {sum:.4} ms, of the graph {median:.4} ms");
    Ok(())
}

type Key = [i32; 9];

/// What tactics depend on.
fn key(c: &Conv) -> Key {
    [c.pixels, c.out_channels, c.channels, c.taps, c.in_h, c.in_w, c.stride_h, c.residual_mode, c.pad_h]
}

/// Times every tile and split; gives the best for each kind of convolution.
fn tune(engine: &CudaEngine, lowered: &Lowered, file: &str) -> Result<HashMap<Key, (f32, Tactic)>, Error> {
    let mut best: HashMap<Key, (f32, Tactic)> = HashMap::new();
    let mut rows = String::from("pixels,out_channels,channels,taps,in_h,stride,residual,tile,splits,us\n");
    for tile in tactics::tiles(lowered.precision) {
        let mut tried: HashMap<Key, Vec<u32>> = HashMap::new();
        for splits in tactics::SPLITS {
            let tuned = lowered.with_tactics(|call, precision| match tile.takes(call) {
                true => Tactic::fitted(tile, splits, call),
                false => tactics::choose(call, precision),
            });
            let engine = engine.retuned(&tuned.tables()?)?;
            let mut context = engine.context();
            let times = context.time_steps(10)?;
            for (index, time) in times.iter().enumerate() {
                let Some(c) = conv_of(&tuned, index).filter(|call| tile.takes(call)) else { continue };
                let seen = tried.entry(key(&c)).or_default();
                if seen.contains(&(c.splits as u32)) && splits > c.splits as u32 {
                    continue;
                }
                seen.push(c.splits as u32);
                let (p, o, i, t, h) = (c.pixels, c.out_channels, c.channels, c.taps, c.in_h);
                let (s, r, us) = (c.stride_h, c.residual_mode, time * 1e3);
                writeln!(rows, "{p},{o},{i},{t},{h},{s},{r},{},{},{us:.3}", tile.name, c.splits)?;
                let entry = best.entry(key(&c)).or_insert((f32::INFINITY, Tactic { tile, splits: 1 }));
                if *time < entry.0 {
                    *entry = (*time, Tactic { tile, splits: c.splits as u32 });
                }
            }
        }
    }
    std::fs::write(file, rows)?;
    Ok(best)
}
