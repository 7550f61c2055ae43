//! Whole models against ONNX Runtime's outputs: those of the folder `INFER_CUDA_MODELS`, `NAME.onnx`, and beside it
//! `NAME.case0/` with inputs and outputs.

use std::path::Path;

use infer_core::lower_cuda;
use infer_core::options::Options;
use infer_core::tensor_type::{DataType, TensorType};

use super::*;

/// An array of f32 or i64 from numpy's format.
fn read_npy(path: &Path) -> Option<Constant> {
    let bytes = std::fs::read(path).ok()?;
    let length = u16::from_le_bytes(bytes[8..10].try_into().ok()?) as usize;
    let header = std::str::from_utf8(&bytes[10..10 + length]).ok()?;
    assert!(header.contains("'fortran_order': False"), "{header}");
    let dtype = match (header.contains("'<f4'"), header.contains("'<i8'")) {
        (true, _) => DataType::F32,
        (_, true) => DataType::I64,
        _ => panic!("{header}"),
    };
    let shape = header.split_once("'shape': (")?.1.split_once(')')?.0;
    let shape: Vec<usize> = shape.split(',').filter_map(|extent| extent.trim().parse().ok()).collect();
    Constant::new(TensorType::new(dtype, shape), bytes[10 + length..].to_vec().into())
}

#[test]
fn outputs_agree_with_onnx_runtime() {
    let Some(folder) = std::env::var_os("INFER_CUDA_MODELS") else {
        println!("skipped: INFER_CUDA_MODELS names no folder of models");
        return;
    };
    let mut models: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    models.sort();
    for path in models {
        let case = path.with_extension("case0");
        let read = |kind: &str| -> Vec<Constant> {
            (0..).map_while(|index| read_npy(&case.join(format!("{kind}_{index}.npy")))).collect()
        };
        let (inputs, expected) = (read("input"), read("output"));
        assert!(!inputs.is_empty() && !expected.is_empty(), "{}", case.display());
        for (precision, tolerance) in PRECISIONS {
            // Deep models in f32 lose what hundreds of layers round.
            let tolerance = tolerance.max(2e-3);
            let mut options = Options::new(&path);
            options.precision = precision;
            let lowered = lower_cuda::compile(&options).unwrap_or_else(|errors| panic!("{errors:?}"));
            let Some(engine) = open(lowered.plan().unwrap()) else { return };
            let found = outputs(&engine, &inputs).unwrap();
            assert_close(&found, &expected, tolerance, &format!("{} {precision:?}", path.display()));
            for (found, expected) in found.iter().zip(&expected) {
                let (found, expected) = (found.values::<f32>(), expected.values::<f32>());
                let most = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
                let error = found.iter().zip(&*expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                println!("{} {precision:?}: {:.1e} of the largest output", path.display(), error / most);
            }
        }
    }
}
