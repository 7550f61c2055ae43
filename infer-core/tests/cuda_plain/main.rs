//! What the fast paths of the GPU refuse and runs there all the same, by families, against the reference kernels.
//!
//! Without a GPU each test says why it is skipped; `INFER_CUDA_REQUIRED=1` makes that a failure.
#![cfg(all(feature = "compiler", feature = "cuda"))]

extern crate infer_core;

use infer_core::lower_cuda::Lowered;
use infer_core::passes;
use infer_core::plan::ModelInfo;
use support::gpu::{PRECISIONS, assert_valid, open, outputs};
use support::{assert_close, inputs, model, reference};

mod elements;
mod recurrent;
mod rows;
#[allow(dead_code, reason = "shared with the tests of the processor")]
#[path = "../support/mod.rs"]
mod support;
mod windows;

/// Compares a graph in every precision with the reference. `plain`: a kernel that must be among its calls.
fn check_by(plain: &str, text: &str) {
    let mut graph = model(text);
    let inputs = inputs(&graph);
    let expected = reference(&graph, &inputs);
    passes::simplify(&mut graph, |_, _| {}).unwrap_or_else(|error| panic!("{}\n{text}", error.0));
    for (precision, tolerance) in PRECISIONS {
        let lowered = Lowered::of(&graph, precision, ModelInfo::default())
            .unwrap_or_else(|failures| panic!("{}\n{text}", failures.into_diagnostic("test")));
        let kernels: Vec<&str> = lowered.calls.calls.iter().map(|call| call.kernel.as_str()).collect();
        let named = |kernel: &&str| kernel.strip_prefix("cuda_plain_") == Some(plain);
        assert!(plain.is_empty() || kernels.iter().any(named), "{kernels:?} in\n{text}");
        let what = format!("{precision:?}\n{text}\n{}", graph.to_text());
        assert_valid(&lowered, &what);
        let Some(engine) = open(lowered.plan().unwrap()) else { continue };
        let found = outputs(&engine, &inputs).unwrap_or_else(|error| panic!("{error} in\n{what}"));
        assert_close(&found, &expected, tolerance, &what);
    }
}

/// The failures of a test's checks, told when all have run.
#[derive(Default)]
struct Checks(Vec<String>);

impl Checks {
    fn by(&mut self, plain: &str, text: &str) {
        if let Err(panic) = std::panic::catch_unwind(|| check_by(plain, text)) {
            let message = panic.downcast_ref::<String>().cloned();
            self.0.push(message.unwrap_or_else(|| format!("a panic in\n{text}")));
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        let failures = std::mem::take(&mut self.0);
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    }
}
