//! Times one model: `bench MODEL THREADS SECONDS` prints the median of its inference times in milliseconds, then the
//! times themselves, on one line.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use infer_embed::{EngineOptions, Model, Output};
use model_tests::*;

fn time<M: Model>(threads: usize, span: Duration) -> Result<Vec<f64>, infer_embed::Error> {
    let mut options = EngineOptions::default();
    options.threads = Some(threads);
    let net = M::open(options)?;
    // Values without structure: neither zeros nor denormals, which some machines treat apart.
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / u32::MAX as f32 - 0.5
    };
    let inputs: Vec<Vec<f32>> =
        M::INPUTS.iter().map(|port| (0..port.elements().unwrap()).map(|_| next()).collect()).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(|values| bytemuck::cast_slice(values)).collect();
    let mut outputs: Vec<Vec<f32>> =
        M::OUTPUTS.iter().map(|port| vec![0.0; port.elements().unwrap()]).collect();
    let mut times = Vec::new();
    let mut begin = Instant::now();
    let mut warm = false;
    while !warm || begin.elapsed() < span || times.len() < 5 {
        let mut raw: Vec<Output<'_>> =
            outputs.iter_mut().map(|output| Output::from(bytemuck::cast_slice_mut(output))).collect();
        let start = Instant::now();
        net.run(&inputs, &mut raw)?;
        if warm {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        } else if begin.elapsed() > Duration::from_millis(200) {
            (warm, begin) = (true, Instant::now());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, threads, seconds] = arguments.as_slice() else {
        eprintln!("usage: bench MODEL THREADS SECONDS");
        return ExitCode::FAILURE;
    };
    let (Ok(threads), Ok(seconds)) = (threads.parse(), seconds.parse::<f64>()) else {
        eprintln!("bench: THREADS and SECONDS are numbers");
        return ExitCode::FAILURE;
    };
    let span = Duration::from_secs_f64(seconds.clamp(0.0, 600.0));
    let times = match model.as_str() {
        "resnet50" => time::<Resnet50>(threads, span),
        "mobilenet_v2" => time::<MobilenetV2>(threads, span),
        "yolov3_416_dyn" => time::<Yolov3Small>(threads, span),
        "yolov3_608" => time::<Yolov3>(threads, span),
        "ultraface_rfb_320" => time::<Ultraface>(threads, span),
        _ => {
            eprintln!("bench: no model {model:?} in this program");
            return ExitCode::FAILURE;
        }
    };
    match times {
        Ok(times) => {
            print!("{:.4}", times[times.len() / 2]);
            times.iter().for_each(|time| print!(" {time:.4}"));
            println!();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
