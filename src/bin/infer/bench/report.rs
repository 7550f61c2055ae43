//! What `infer bench` prints.

use std::fmt::Write as _;

use infer_core::compile::Summary;
use infer_core::options::Precision;
use infer_core::runtime::Backend;
use infer_kernels::Isa;
use serde_json::{Map, Value as Json, json};

use super::layers::Layers;
use super::statistics::Statistics;
use crate::inspect::bytes;
use crate::{dims, model};

/// More variation, in per cent, and the numbers are not to be trusted.
const MOST_VARIATION: f64 = 2.5;

/// All that was found.
pub struct Report {
    /// The model's file name.
    pub model: String,
    /// Its symbolic dimensions.
    pub dims: Vec<(String, u64)>,
    /// How its weights are stored.
    pub precision: Precision,
    /// What it is.
    pub summary: Summary,
    /// What it runs on.
    pub backend: Backend,
    /// The instruction set.
    pub isa: Isa,
    /// The most threads that take part.
    pub threads: usize,
    /// How long compiling took.
    pub compile_seconds: f64,
    /// From the plan's bytes in memory to a session that is ready.
    pub load_seconds: f64,
    /// The first inference, which allocates and reads everything for the first time.
    pub first_seconds: f64,
    /// From the begin of the first measured inference to the end of the last.
    pub wall_seconds: f64,
    /// The inferences.
    pub latency: Statistics,
    /// What opening the plan made of its weights, where the whole model is a plan.
    pub prepared_bytes: usize,
    /// The largest size of the process since the plan was opened.
    pub peak_memory_bytes: Option<u64>,
    /// The layers, if they were asked for.
    pub layers: Option<Layers>,
}

impl Report {
    fn throughput(&self) -> f64 {
        self.latency.count() as f64 / self.wall_seconds
    }

    fn warnings(&self) -> Vec<String> {
        let variation = self.latency.variation;
        let noisy = format!(
            "the latency varies by {variation:.1} %, more than {MOST_VARIATION} %: other programs or the processor's \
             clock disturb the measurement; the minimum is what can be trusted"
        );
        (variation > MOST_VARIATION).then_some(noisy).into_iter().collect()
    }

    /// As lines, the tables of layers first.
    pub fn to_text(&self) -> String {
        let mut text = self.layers.as_ref().map_or_else(String::new, Layers::to_text);
        let mut line = |name: &str, what: &str| {
            let _ = writeln!(text, "{name:<12}{what}");
        };
        line("model", &self.model);
        if !self.dims.is_empty() {
            line("dims", &dims::display(&self.dims));
        }
        let s = if self.threads == 1 { "" } else { "s" };
        let (isa, threads, precision) = (self.isa.name(), self.threads, self.precision.name());
        let gpu = match self.backend {
            Backend::Cuda => {
                let (gpu, cpu) = model::placed(&self.summary.cuda_parts);
                format!("a GPU ({gpu} nodes) and ({cpu} nodes) ")
            }
            _ => String::new(),
        };
        line("runs on", &format!("{gpu}cpu, {isa}, {threads} thread{s}, {precision}"));
        line("compiling", &format!("{:.3} s", self.compile_seconds));
        line("loading", &format!("{:.3} ms", self.load_seconds * 1e3));
        line("first", &format!("{:.3} ms", self.first_seconds * 1e3));
        line("latency", &self.latency.to_text());
        let (count, wall) = (self.latency.count(), self.wall_seconds);
        line("throughput", &format!("{:.3} queries/s: {count} in {wall:.3} s", self.throughput()));
        if self.summary.flops > 0 {
            let rate = |seconds: f64| self.summary.flops as f64 / seconds / 1e9;
            let (median, best) = (rate(self.latency.median()), rate(self.latency.min()));
            line("speed", &format!("{median:.1} GFLOP/s by the median, {best:.1} by the minimum"));
        }
        if let Some(peak) = self.peak_memory_bytes {
            let (weights, arena) = (bytes(self.summary.weight_bytes), bytes(self.summary.arena_bytes));
            let prepared = match self.prepared_bytes as u64 {
                0 => String::new(),
                prepared => format!(", transformed weights {}", bytes(prepared)),
            };
            line("memory", &format!("at most {}; weights {weights}{prepared}, arena {arena}", bytes(peak)));
        }
        for warning in self.warnings() {
            line("warning", &warning);
        }
        text
    }

    /// As an object.
    pub fn to_json(&self) -> Json {
        let dims: Map<String, Json> =
            self.dims.iter().map(|(name, size)| (name.clone(), json!(size))).collect();
        let mut json = json!({
            "model": self.model,
            "sha256": self.summary.model_sha256,
            "dims": dims,
            "precision": self.precision.name(),
            "backend": if self.backend == Backend::Cuda { "cuda" } else { "cpu" },
            "isa": self.isa.name(),
            "threads": self.threads,
            "latency_ms": self.latency.to_json(),
            "throughput_qps": self.throughput(),
            "queries": self.latency.count(),
            "walltime_s": self.wall_seconds,
            "compile_ms": self.compile_seconds * 1e3,
            "load_ms": self.load_seconds * 1e3,
            "first_ms": self.first_seconds * 1e3,
            "flops": self.summary.flops,
            "weight_bytes": self.summary.weight_bytes,
            "arena_bytes": self.summary.arena_bytes,
            "prepared_bytes": self.prepared_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "warnings": self.warnings(),
        });
        if let (Some(object), Some(layers)) = (json.as_object_mut(), &self.layers) {
            object.insert("layers".into(), layers.to_json());
        }
        json
    }
}
