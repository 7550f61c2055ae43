//! How long each layer takes: every kernel call by itself, beside what the processor reaches in the same moments.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use infer_core::session::Session;
use infer_kernels::peak;
use infer_kernels::work::Work;
use serde_json::{Value as Json, json};

use super::statistics::Statistics;
use super::target::Target;
use crate::progress::Timer;
use crate::table::{shortened, table};

/// Enough for the middle of so many not to move.
const MOST_RUNS: usize = 10_000;

/// The measured layers of a model.
pub struct Layers {
    layers: Vec<Layer>,
    /// f32 operations in a second that the threads reach together: the median.
    peak: f64,
    runs: usize,
}

/// One kernel call.
struct Layer {
    node: String,
    kernel: String,
    work: Work,
    bytes: u64,
    times: Statistics,
}

impl Layers {
    /// Measures for `duration`, at least ten times, each time with the peak beside.
    pub fn measure(session: &Session, target: &mut Target<'_>, duration: Duration) -> anyhow::Result<Self> {
        let steps = session.steps();
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); steps.len()];
        let mut peaks = Vec::new();
        let mut timer = Timer::new("measuring layers", duration);
        let start = Instant::now();
        for run in 1.. {
            target.run_steps(&mut |step, time| {
                if let Some(times) = times.get_mut(step) {
                    times.push(time.as_secs_f64());
                }
            })?;
            peaks.extend(peak::f32_rate(session.isa(), session.threads()));
            if run >= super::LEAST_QUERIES && (start.elapsed() >= duration || run >= MOST_RUNS) {
                break;
            }
            timer.show(start.elapsed());
        }
        timer.finish();
        let layers = steps.iter().zip(times).map(|(step, times)| Layer {
            node: step.node.to_owned(),
            kernel: step.kernel.to_owned(),
            work: Work::of(step.kernel, step.params),
            // It writes the border alone.
            bytes: if step.kernel == "fill_halo_f32" { 0 } else { step.operand_bytes },
            times: Statistics::of(times),
        });
        Ok(Layers { layers: layers.collect(), runs: peaks.len(), peak: Statistics::of(peaks).median() })
    }

    /// The sum of the medians, in seconds.
    fn total(&self) -> f64 {
        self.layers.iter().map(|layer| layer.times.median()).sum()
    }

    /// The kernels with their calls, the slowest first.
    fn kernels(&self) -> Vec<Total<'_>> {
        let mut kernels: Vec<Total<'_>> = Vec::new();
        for layer in &self.layers {
            let at = kernels.iter().position(|total| total.kernel == layer.kernel).unwrap_or_else(|| {
                kernels.push(Total { kernel: &layer.kernel, calls: 0, seconds: 0.0, flops: 0, bytes: 0 });
                kernels.len() - 1
            });
            let total = &mut kernels[at];
            total.calls += 1;
            total.seconds += layer.times.median();
            total.flops = total.flops.saturating_add(layer.work.flops);
            total.bytes = total.bytes.saturating_add(layer.bytes);
        }
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        kernels
    }

    /// The tables.
    pub fn to_text(&self) -> String {
        let total = self.total();
        let speed = |seconds: f64, flops: u64, bytes: u64| {
            let rate = flops as f64 / seconds;
            let [gflops, share] = match flops {
                0 => [String::new(), String::new()],
                _ => [format!("{:.1}", rate / 1e9), percent(rate, self.peak)],
            };
            let memory =
                if bytes > 0 { format!("{:.1}", bytes as f64 / seconds / 1e9) } else { String::new() };
            [percent(seconds, total), gflops, share, memory]
        };
        let mut rows = vec![
            ["layer", "kernel", "shape", "median µs", "min µs", "share %", "GFLOP/s", "peak %", "GB/s"]
                .map(str::to_owned),
        ];
        for layer in &self.layers {
            let median = layer.times.median();
            let [share, gflops, peak, memory] = speed(median, layer.work.flops, layer.bytes);
            rows.push([
                shortened(&layer.node),
                layer.kernel.clone(),
                layer.work.shape.clone(),
                micros(median),
                micros(layer.times.min()),
                share,
                gflops,
                peak,
                memory,
            ]);
        }
        let mut text = table(&rows, 3);
        let mut rows =
            vec![["kernel", "calls", "median µs", "share %", "GFLOP/s", "peak %", "GB/s"].map(str::to_owned)];
        for kernel in self.kernels() {
            let [share, gflops, peak, memory] = speed(kernel.seconds, kernel.flops, kernel.bytes);
            let calls = kernel.calls.to_string();
            rows.push([kernel.kernel.to_owned(), calls, micros(kernel.seconds), share, gflops, peak, memory]);
        }
        let _ = write!(text, "\n{}\n", table(&rows, 1));
        let (ms, peak, runs) = (total * 1e3, self.peak / 1e9, self.runs);
        let _ = writeln!(text, "layers      {ms:.3} ms in all, by the medians of {runs} runs");
        let _ = writeln!(
            text,
            "peak        {peak:.1} GFLOP/s: f32 multiply-adds in registers, measured between the runs"
        );
        text
    }

    /// The tables as an object.
    pub fn to_json(&self) -> Json {
        let layers = self.layers.iter().map(|layer| {
            let rate = layer.work.flops as f64 / layer.times.median();
            json!({
                "node": layer.node,
                "kernel": layer.kernel,
                "shape": layer.work.shape,
                "median_us": layer.times.median() * 1e6,
                "min_us": layer.times.min() * 1e6,
                "share": layer.times.median() / self.total(),
                "flops": layer.work.flops,
                "bytes": layer.bytes,
                "peak_share": (layer.work.flops > 0).then_some(rate / self.peak),
            })
        });
        let kernels = self.kernels().into_iter().map(|kernel| {
            let rate = kernel.flops as f64 / kernel.seconds;
            json!({
                "kernel": kernel.kernel,
                "calls": kernel.calls,
                "median_us": kernel.seconds * 1e6,
                "share": kernel.seconds / self.total(),
                "flops": kernel.flops,
                "bytes": kernel.bytes,
                "peak_share": (kernel.flops > 0).then_some(rate / self.peak),
            })
        });
        json!({
            "runs": self.runs,
            "peak_gflops": self.peak / 1e9,
            "total_ms": self.total() * 1e3,
            "layers": layers.collect::<Vec<_>>(),
            "kernels": kernels.collect::<Vec<_>>(),
        })
    }
}

/// All calls of one kernel.
struct Total<'a> {
    kernel: &'a str,
    calls: usize,
    seconds: f64,
    flops: u64,
    bytes: u64,
}

fn micros(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e6)
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1}", part / whole * 100.0) } else { String::new() }
}
