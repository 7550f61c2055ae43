//! What a missing driver, one that is too old, one without a GPU and too old a GPU come to: errors of their own kinds, after
//! which the processor's engines still work.
//!
//! A library that answers as such drivers do stands in for `libcuda.so.1`, in a process of its own each: `rustc` makes it.
#![cfg(all(feature = "compiler", feature = "cuda", target_os = "linux"))]

extern crate infer_core;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use infer_core::compile::compile_file;
use infer_core::lower_cuda::Lowered;
use infer_core::onnx::ModelFile;
use infer_core::options::{Backends, Options, Precision};
use infer_core::passes;
use infer_core::plan::{AlignedBytes, ModelInfo};
use infer_core::runtime::cuda::{CudaEngine, CudaOptions, probe};
use infer_core::runtime::{Backend, CudaPlan, EngineOptions, Plans};
use infer_core::session::Session;
use infer_kernels::cuda::MODULES;
use prost::Message;
use support::{inputs, model, proto, reference};

#[allow(dead_code, reason = "shared with the tests of the processor")]
mod support;

/// The environment variables say what the driver is like.
const DRIVER: &str = r#"
use std::ffi::{c_char, c_int, c_uint};

fn number(name: &str) -> c_int {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(0)
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    unsafe { *version = number("FAKE_VERSION") };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: c_uint) -> c_int {
    number("FAKE_INIT")
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    unsafe { *count = number("FAKE_COUNT") };
    0
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, _: c_int) -> c_int {
    unsafe { *device = 0 };
    0
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _: c_int) -> c_int {
    unsafe { *value = if attribute == 75 { number("FAKE_ARCHITECTURE") } else { 5 } };
    0
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, _: c_int, _: c_int) -> c_int {
    for (index, &byte) in b"Old\0".iter().enumerate() {
        unsafe { *name.add(index) = byte as c_char };
    }
    0
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_: c_int, name: *mut *const c_char) -> c_int {
    unsafe { *name = c"CUDA_ERROR_OF_A_TEST".as_ptr() };
    0
}
"#;

/// Floats of 8 bits have no kernels on GPUs.
const PARTS: &str = "input x 1,8,5,7
                     floats scale [] 0.5
                     a = Relu(x)
                     q = QuantizeLinear(a, scale) output_dtype=17
                     d = DequantizeLinear(q, scale)
                     y = Exp(d)
                     output y";

const TEXT: &str = "input x 1,8,5,7
                    y = Relu(x)
                    output y";

/// In a process of its own: prints the kinds of the errors.
#[test]
#[ignore = "the other tests of this file start it"]
fn child() {
    let mut graph = model(TEXT);
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let plan = Lowered::of(&graph, Precision::Fp16, ModelInfo::default()).unwrap().plan().unwrap();
    let found = probe().map_or_else(|error| format!("{:?}", error.kind()), |()| "there".to_owned());
    let error = CudaEngine::open(plan, MODULES, CudaOptions::default()).unwrap_err();
    println!("probed {found}, opened {:?}: {error}", error.kind());
    // A model of which only parts are for GPUs: on one it fails alike; where nobody asks for one and there is none, the
    // processor runs all of it.
    let parts = |backend| {
        let proto = proto(PARTS);
        let bytes = proto.encode_to_vec().into();
        let file = ModelFile { name: "test.onnx".to_owned(), bytes, proto, sources: Vec::new() };
        let mut options = Options::new("test.onnx");
        (options.backends, options.least_gpu_work) = (Backends::Auto, 0);
        let compiled = compile_file(file, &options, Instant::now()).unwrap();
        let cuda = compiled.cuda_plan.unwrap();
        let plan = AlignedBytes::copy_of(&cuda).unwrap().into();
        let cpu = Some((AlignedBytes::copy_of(&compiled.plan).unwrap().into(), &[][..]));
        let plans = Plans { cpu, cuda: Some(CudaPlan { plan, modules: MODULES, kernels: &[] }) };
        let mut options = EngineOptions::default();
        options.backend = backend;
        let opened = Session::open_any(plans, options);
        opened
            .map_or_else(|error| format!("{:?}", error.kind()), |session| format!("{:?}", session.backend()))
    };
    println!("in parts {}, anywhere {}", parts(Some(Backend::Cuda)), parts(None));
    // The processor's engines are not concerned.
    let graph = model(TEXT);
    let given = inputs(&graph);
    support::check(TEXT);
    assert_eq!(reference(&graph, &given).len(), 1);
}

/// What the child prints with such a driver; `None` where there is nothing to make one with.
fn with_driver(name: &str, environment: &[(&str, &str)]) -> Option<String> {
    let folder: PathBuf =
        std::env::temp_dir().join(format!("infer-fake-driver-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("driver.rs");
    std::fs::write(&source, DRIVER).unwrap();
    let made = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2024", "--crate-type=cdylib", "-o"])
        .args([folder.join("libcuda.so.1"), source])
        .output();
    let text = match made {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--ignored", "--nocapture"])
                .env("LD_LIBRARY_PATH", &folder)
                .envs(environment.iter().copied())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            Some(text)
        }
        Err(error) => {
            println!("skipped: rustc does not start: {error}");
            None
        }
    };
    std::fs::remove_dir_all(&folder).unwrap();
    text
}

fn expect(name: &str, environment: &[(&str, &str)], parts: &[&str]) {
    let Some(text) = with_driver(name, environment) else { return };
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
}

#[test]
fn a_driver_too_old_is_an_error_of_its_kind() {
    expect(
        "old",
        &[("FAKE_VERSION", "12040")],
        &["probed Driver, opened Driver", "CUDA 12.4", "580", "in parts Driver, anywhere Driver"],
    );
}

#[test]
fn a_driver_without_a_gpu_is_an_absence() {
    expect(
        "none",
        &[("FAKE_VERSION", "13000")],
        &["probed NoDevice, opened NoDevice", "in parts NoDevice, anywhere Cpu"],
    );
    // CUDA_ERROR_NO_DEVICE
    let environment = [("FAKE_VERSION", "13000"), ("FAKE_INIT", "100")];
    expect("refused", &environment, &["probed NoDevice, opened NoDevice"]);
}

#[test]
fn a_driver_that_fails_is_no_absence() {
    let environment = [("FAKE_VERSION", "13000"), ("FAKE_INIT", "999")];
    let expected =
        ["probed Device, opened Device", "CUDA_ERROR_OF_A_TEST", "in parts Device, anywhere Device"];
    expect("failing", &environment, &expected);
}

#[test]
fn a_gpu_too_old_is_an_error_of_its_kind() {
    let environment = [("FAKE_VERSION", "13000"), ("FAKE_COUNT", "1"), ("FAKE_ARCHITECTURE", "7")];
    expect(
        "architecture",
        &environment,
        &["probed there, opened Architecture", "7.5", "8.0", "in parts Architecture"],
    );
}

#[test]
fn no_driver_is_an_absence() {
    match probe() {
        Ok(()) => println!("skipped: there is a driver"),
        Err(error) => {
            let kind = format!("{:?}", error.kind());
            assert!(["NoDriver", "NoDevice"].contains(&kind.as_str()), "{error}");
        }
    }
}
