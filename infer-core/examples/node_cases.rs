//! Runs cases of the ONNX backend suite in this process: a quick look while operators are written.
//!
//! `cargo run -p infer-core --features compiler --example node_cases -- FOLDER [substring of a name]…`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use infer_core::compile::compile;
use infer_core::onnx::read_value;
use infer_core::options::Options;
use infer_core::plan::AlignedBytes;
use infer_core::runtime::EngineOptions;
use infer_core::session::Session;
use infer_core::tensor_type::DataType;
use infer_core::value::Value;

fn main() {
    let mut arguments = env::args().skip(1);
    let suite = PathBuf::from(arguments.next().expect("a folder of cases"));
    let filters: Vec<String> = arguments.collect();
    std::panic::set_hook(Box::new(|_| ()));
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut passed, mut failed) = (0, 0);
    for case in folders(&suite).iter().flat_map(|group| folders(group)) {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let result = std::panic::catch_unwind(|| run(&case)).unwrap_or_else(|_| Err("PANIC".to_owned()));
        match result {
            Ok(()) => passed += 1,
            Err(reason) => {
                failed += 1;
                reasons.entry(reason).or_default().push(name);
            }
        }
    }
    for (reason, names) in reasons {
        println!("{} × {reason}\n    {}", names.len(), names.join(" "));
    }
    println!("{passed} passed, {failed} failed");
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn run(case: &Path) -> Result<(), String> {
    // Cases that the package ships have none; its own runner takes these.
    let tolerance = fs::read_to_string(case.join("tolerance.json"))
        .unwrap_or_else(|_| "{\"rtol\": 1e-3, \"atol\": 1e-7}".to_owned());
    let number = |key: &str| -> f64 {
        let rest = tolerance.split(&format!("\"{key}\":")).nth(1).unwrap_or("0");
        rest.trim().split([',', '}']).next().and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
    };
    let compiled = compile(&Options::new(case.join("model.onnx"))).map_err(|diagnostics| {
        diagnostics.first().map_or(String::new(), |diagnostic| diagnostic.message.replace('\n', " "))
    })?;
    let bytes = AlignedBytes::copy_of(&compiled.plan).map_err(|error| error.to_string())?;
    let session = Session::open(bytes, EngineOptions::default()).map_err(|error| error.to_string())?;
    for data in folders(case) {
        let mut inputs = Vec::new();
        for (index, port) in session.inputs().iter().enumerate() {
            let bytes =
                fs::read(data.join(format!("input_{index}.pb"))).map_err(|error| error.to_string())?;
            inputs.push(read_value(&bytes, &port.ty).map_err(|reason| reason.what)?);
        }
        let outputs = session.run(&inputs).map_err(|error| error.to_string())?;
        for (index, (port, output)) in session.outputs().iter().zip(&outputs).enumerate() {
            let bytes =
                fs::read(data.join(format!("output_{index}.pb"))).map_err(|error| error.to_string())?;
            let expected = read_value(&bytes, &port.ty).map_err(|reason| reason.what)?;
            compare(output, &expected, number("rtol"), number("atol"))
                .map_err(|what| format!("output {index}: {what}"))?;
        }
    }
    Ok(())
}

fn compare(actual: &Value, expected: &Value, rtol: f64, atol: f64) -> Result<(), String> {
    match (actual, expected) {
        (Value::Tensor(a), Value::Tensor(e)) => {
            if a.ty() != e.ty() {
                return Err(format!("{} instead of {}", a.ty(), e.ty()));
            }
            let numbers = |tensor: &infer_core::constant::Constant| -> Option<Vec<f64>> {
                Some(match tensor.ty().dtype {
                    DataType::F32 => tensor.values::<f32>().iter().map(|&v| v.into()).collect(),
                    DataType::F64 => tensor.values::<f64>().into_owned(),
                    DataType::F16 => tensor.values::<half::f16>().iter().map(|v| v.to_f64()).collect(),
                    DataType::Bf16 => tensor.values::<half::bf16>().iter().map(|v| v.to_f64()).collect(),
                    DataType::I64 => tensor.values::<i64>().iter().map(|&v| v as f64).collect(),
                    DataType::I32 => tensor.values::<i32>().iter().map(|&v| v.into()).collect(),
                    DataType::U8 => tensor.data().iter().map(|&v| v.into()).collect(),
                    DataType::I8 => tensor.values::<i8>().iter().map(|&v| v.into()).collect(),
                    _ => return None,
                })
            };
            let (Some(a), Some(e)) = (numbers(a), numbers(e)) else {
                return if a == e { Ok(()) } else { Err("other elements".to_owned()) };
            };
            let close = |(a, e): (&f64, &f64)| {
                a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= atol + rtol * e.abs()
            };
            if a.iter().zip(&e).all(close) { Ok(()) } else { Err("other numbers".to_owned()) }
        }
        (Value::Sequence(a), Value::Sequence(e)) if a.len() == e.len() => {
            a.iter().zip(e).try_for_each(|(a, e)| compare(a, e, rtol, atol))
        }
        (Value::Optional(Some(a)), Value::Optional(Some(e))) => compare(a, e, rtol, atol),
        (a, e) if a == e => Ok(()),
        (a, e) => Err(format!("{} instead of {}", a.describe(), e.describe())),
    }
}
