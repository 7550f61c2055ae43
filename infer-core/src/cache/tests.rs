//! The cache: hits, stale and damaged entries, concurrent writers.

use std::cell::Cell;

use super::*;
use crate::decisions::Decisions;
use crate::tensor_type::{DataType, TensorType};
use crate::value::ValuePort;

/// A folder that is removed with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("infer-core-cache-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, content: &[u8], modified: SystemTime) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
        path
    }

    fn files(&self, extension: &str) -> usize {
        let is_one = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        fs::read_dir(self.0.join("cache")).unwrap().map(|entry| entry.unwrap().path()).filter(is_one).count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What stands for the compiler: a plan that depends on everything a plan may depend on.
struct Compiler {
    runs: Cell<usize>,
    external: Vec<PathBuf>,
}

impl Compiler {
    fn new() -> Self {
        Compiler { runs: Cell::new(0), external: Vec::new() }
    }

    fn compile(&self, options: &Options) -> Result<Compiled, Vec<Diagnostic>> {
        self.runs.set(self.runs.get() + 1);
        let Ok(model) = fs::read(&options.model) else { return Err(vec![Diagnostic::model("no such file")]) };
        let mut plan = model.clone();
        for path in &self.external {
            plan.extend(fs::read(path).unwrap());
        }
        if let Some(tactics) = &options.tactics {
            plan.extend(fs::read(tactics).unwrap());
        }
        plan.extend(format!("{:?} {:?}", options.precision, options.dims).into_bytes());
        let port = ValuePort { name: "x".to_owned(), ty: TensorType::new(DataType::F32, [1]).into() };
        let summary = Summary {
            inputs: vec![port],
            outputs: Vec::new(),
            run_time_nodes: 0,
            run_time_examples: Vec::new(),
            kernels: Vec::new(),
            weight_bytes: 0,
            borrowed_weight_bytes: 0,
            arena_bytes: 0,
            flops: 0,
            parameters: 0,
            model_sha256: hex(&Sha256::digest(&model)),
            opset: 13,
            cuda_modules: Vec::new(),
            cuda_kernels: Vec::new(),
            cuda_parts: Vec::new(),
            notes: Vec::new(),
        };
        let files = [Some(&options.model), options.tactics.as_ref()].into_iter().flatten().cloned();
        let sources = files.chain(self.external.clone()).collect();
        let (timings, decisions) = (Vec::new(), Decisions::default());
        Ok(Compiled { plan, cuda_plan: None, summary, sources, timings, decisions })
    }

    fn plan(&self, cache: &Cache, options: &Options) -> Vec<u8> {
        let stored = cache.compile_with(options, |options| self.compile(options)).unwrap();
        let plan = fs::read(&stored.plan).unwrap();
        assert_eq!((plan.len() as u64, hex(&Sha256::digest(&plan))), (stored.plan_bytes, stored.plan_sha256));
        plan
    }
}

fn long_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(3600)
}

#[test]
fn compiles_once() {
    let folder = Folder::new("once");
    let (cache, compiler) = (Cache::at(folder.0.join("cache")), Compiler::new());
    let options = Options::new(folder.write("x.onnx", b"model", long_ago()));
    let first = compiler.plan(&cache, &options);
    assert_eq!(compiler.plan(&cache, &options), first);
    assert_eq!(compiler.runs.get(), 1);
    // Another time, the same content.
    folder.write("x.onnx", b"model", SystemTime::now());
    assert_eq!(compiler.plan(&cache, &options), first);
    // The same content elsewhere.
    let copy = Options::new(folder.write("copy.onnx", b"model", long_ago()));
    assert_eq!(compiler.plan(&cache, &copy), first);
    assert_eq!(compiler.runs.get(), 1);
}

#[test]
fn what_goes_in_decides() {
    let folder = Folder::new("inputs");
    let (cache, mut compiler) = (Cache::at(folder.0.join("cache")), Compiler::new());
    let mut options = Options::new(folder.write("x.onnx", b"model", long_ago()));
    let first = compiler.plan(&cache, &options);
    options.precision = crate::options::Precision::Fp16;
    assert_ne!(compiler.plan(&cache, &options), first);
    options.dims = vec![("n".to_owned(), 1)];
    compiler.plan(&cache, &options);
    assert_eq!(compiler.runs.get(), 3);
    // The same size at the same time.
    folder.write("x.onnx", b"MODEL", SystemTime::now());
    assert!(compiler.plan(&cache, &options).starts_with(b"MODEL"));
    assert_eq!(compiler.runs.get(), 4);

    // Tactics count, by their content.
    let tactics = folder.write("x.tactics", b"one", long_ago());
    let tuned = Options { tactics: Some(tactics), ..options.clone() };
    let first = compiler.plan(&cache, &tuned);
    assert_eq!(compiler.plan(&cache, &tuned), first);
    assert_eq!(compiler.runs.get(), 5);
    folder.write("x.tactics", b"two", SystemTime::now());
    assert_ne!(compiler.plan(&cache, &tuned), first);
    assert_eq!(compiler.runs.get(), 6);

    compiler.external = vec![folder.write("x.data", b"weights", long_ago())];
    options.model = folder.write("external.onnx", b"model with data", long_ago());
    let with_data = compiler.plan(&cache, &options);
    assert_eq!(compiler.plan(&cache, &options), with_data);
    assert_eq!(compiler.runs.get(), 7);
    folder.write("x.data", b"Weights", SystemTime::now());
    assert_ne!(compiler.plan(&cache, &options), with_data);
    assert_eq!(compiler.runs.get(), 8);
    options.winograd = false;
    compiler.plan(&cache, &options);
    assert_eq!(compiler.runs.get(), 9);
}

#[test]
fn a_recent_change_is_not_trusted_to_its_time() {
    let folder = Folder::new("recent");
    let (cache, compiler) = (Cache::at(folder.0.join("cache")), Compiler::new());
    let now = SystemTime::now();
    let options = Options::new(folder.write("x.onnx", b"one", now));
    assert!(compiler.plan(&cache, &options).starts_with(b"one"));
    folder.write("x.onnx", b"two", now);
    assert!(compiler.plan(&cache, &options).starts_with(b"two"));
}

#[test]
fn damaged_files_are_made_again() {
    let folder = Folder::new("damage");
    let (cache, compiler) = (Cache::at(folder.0.join("cache")), Compiler::new());
    let options = Options::new(folder.write("x.onnx", b"model", long_ago()));
    let plan = compiler.plan(&cache, &options);
    let files = fs::read_dir(&cache.folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let content = fs::read(&file).unwrap();
        let mut flipped = content.clone();
        flipped[content.len() / 2] ^= 1;
        for damage in [&content[..content.len() / 2], &[], &flipped] {
            fs::write(&file, damage).unwrap();
            // No tool gives what it damages the time of a plan.
            File::options().append(true).open(&file).unwrap().set_modified(long_ago()).unwrap();
            assert_eq!(compiler.plan(&cache, &options), plan, "{}", file.display());
            assert_eq!(compiler.plan(&cache, &options), plan, "{}", file.display());
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(compiler.plan(&cache, &options), plan, "{}", file.display());
    }
}

#[test]
fn errors_are_not_kept() {
    let folder = Folder::new("errors");
    let (cache, compiler) = (Cache::at(folder.0.join("cache")), Compiler::new());
    let options = Options::new(folder.0.join("x.onnx"));
    assert!(cache.compile_with(&options, |options| compiler.compile(options)).is_err());
    folder.write("x.onnx", b"model", long_ago());
    assert!(compiler.plan(&cache, &options).starts_with(b"model"));
}

#[test]
fn few_plans_are_kept() {
    let folder = Folder::new("few");
    let (cache, compiler) = (Cache::at(folder.0.join("cache")), Compiler::new());
    let mut options = Options::new(folder.write("x.onnx", b"model", long_ago()));
    for batch in 1..=6 {
        options.dims = vec![("batch".to_owned(), batch)];
        compiler.plan(&cache, &options);
    }
    // A build may use them all.
    assert_eq!((folder.files("plan"), folder.files("entry"), folder.files("seen")), (6, 6, 6));
    for file in fs::read_dir(&cache.folder).unwrap() {
        File::options().append(true).open(file.unwrap().path()).unwrap().set_modified(long_ago()).unwrap();
    }
    options.dims = vec![("batch".to_owned(), 3)];
    compiler.plan(&cache, &options);
    options.dims = vec![("batch".to_owned(), 7)];
    compiler.plan(&cache, &options);
    assert_eq!((folder.files("plan"), folder.files("entry"), folder.files("seen")), (3, 3, 3));
    let runs = compiler.runs.get();
    options.dims = vec![("batch".to_owned(), 3)];
    compiler.plan(&cache, &options);
    assert_eq!(compiler.runs.get(), runs);
}

#[test]
fn builds_may_run_at_the_same_time() {
    let folder = Folder::new("concurrent");
    let cache = Cache::at(folder.0.join("cache"));
    let options = Options::new(folder.write("x.onnx", &vec![7; 1 << 20], long_ago()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..4 {
                    Compiler::new().plan(&cache, &options);
                }
            });
        }
    });
    assert_eq!((folder.files("plan"), folder.files("temporary")), (1, 0));
}

#[test]
fn the_target_directory_is_found_from_below() {
    let folder = Folder::new("near");
    let out = folder.0.join("target/debug/build/x/out");
    assert_eq!(Cache::near(&out).folder, out.join("infer-embed"));
    fs::create_dir_all(folder.0.join("target")).unwrap();
    fs::write(folder.0.join("target/CACHEDIR.TAG"), "").unwrap();
    assert_eq!(Cache::near(&out).folder, folder.0.join("target/infer-embed"));
}
