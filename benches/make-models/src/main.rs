//! Writes the models of the benchmarks: `make-models FOLDER [MODEL …]`, all but those of single layers if none is named.

use std::path::PathBuf;
use std::process::ExitCode;

use make_models::{LAYERS, MODELS, Model};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next().filter(|argument| !argument.starts_with('-')).map(PathBuf::from)
    else {
        let names = |models: &[Model]| models.iter().map(|model| model.name).collect::<Vec<_>>().join(", ");
        let (models, layers) = (names(&MODELS), names(LAYERS));
        eprintln!("usage: make-models FOLDER [MODEL …]\nmodels: {models}\nsingle layers: {layers}");
        return ExitCode::FAILURE;
    };
    let wanted: Vec<String> = arguments.collect();
    let known = || MODELS.iter().chain(LAYERS);
    if let Some(unknown) = wanted.iter().find(|name| known().all(|model| model.name != **name)) {
        eprintln!("make-models: there is no model {unknown:?}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = std::fs::create_dir_all(&folder) {
        eprintln!("make-models: {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    let all = wanted.is_empty();
    let named = known().filter(|model| wanted.iter().any(|name| name == model.name));
    let models: Vec<&Model> = if all { MODELS.iter().collect() } else { named.collect() };
    for model in models {
        let path = folder.join(format!("{}.onnx", model.name));
        // Under another name first, so that a file of this name is whole.
        let partial = folder.join(format!("{}.part", model.name));
        let bytes = model.bytes();
        if let Err(error) = std::fs::write(&partial, &bytes).and_then(|()| std::fs::rename(&partial, &path)) {
            eprintln!("make-models: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{}: {:.1} MB", path.display(), bytes.len() as f64 / 1e6);
    }
    ExitCode::SUCCESS
}
