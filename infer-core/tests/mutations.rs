//! Models that were damaged at random: an error or an answer, never a panic, a hang, or an allocation above 1 GiB.
//!
//! The models are those of `tests/data`, and where `INFER_SUITE` names a folder of the ONNX backend suite, its cases with
//! their inputs. `INFER_MUTATIONS` says how many mutations are tried (500 without it), `INFER_SEED` from which on.

#![cfg(feature = "compiler")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs};

use bytes::Bytes;
use infer_core::compile::compile_file;
use infer_core::onnx::proto::{GraphProto, ModelProto, TensorProto, dimension, type_proto};
use infer_core::onnx::{ModelFile, decode, read_value};
use infer_core::options::Options;
use infer_core::plan::AlignedBytes;
use infer_core::runtime::EngineOptions;
use infer_core::session::Session;
use infer_core::value::Value;
use prost::Message;

/// The largest allocation so far.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watching;

// SAFETY: it is the system's allocator, whose results are passed on as they are.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// The largest allocation that is allowed.
const MOST: usize = 1 << 30;

/// The longest that one mutation may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Larger models are not mutated: they say nothing that small ones do not.
const MAX_MODEL_BYTES: u64 = 100_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A number that is likely to be at the edge of something.
    fn number(&mut self) -> i64 {
        const EDGES: [i64; 14] =
            [0, 1, -1, 2, -2, 3, 7, 64, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
        EDGES[self.below(EDGES.len())]
    }

    fn pick<'a, T>(&mut self, items: &'a mut [T]) -> Option<&'a mut T> {
        let index = self.below(items.len());
        items.get_mut(index)
    }
}

struct Case {
    name: String,
    model: Vec<u8>,
    inputs: Vec<Vec<u8>>,
}

fn cases() -> Vec<Case> {
    let mut models: Vec<(PathBuf, Option<PathBuf>)> = Vec::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let files = |folder: &Path| -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        files
    };
    for path in files(&data) {
        if path.extension().is_some_and(|extension| extension == "onnx") {
            models.push((path, None));
        }
    }
    if let Some(suite) = env::var_os("INFER_SUITE") {
        for case in files(Path::new(&suite)).iter().flat_map(|group| files(group)) {
            models.push((case.join("model.onnx"), Some(case.join("test_data_set_0"))));
        }
    }
    // The light models have next to no bytes and are whole networks, which take their time.
    models.retain(|(path, _)| !path.components().any(|part| part.as_os_str() == "light"));
    let small = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MAX_MODEL_BYTES);
    let case = |(path, data): (PathBuf, Option<PathBuf>)| {
        let inputs = (0..).map_while(|index| fs::read(data.as_ref()?.join(format!("input_{index}.pb"))).ok());
        Case { name: path.display().to_string(), model: fs::read(&path).unwrap(), inputs: inputs.collect() }
    };
    models.into_iter().filter(|(path, _)| small(path)).map(case).collect()
}

/// Changes a model somewhere; the bytes may be no model any more.
fn mutate(model: &[u8], random: &mut Random) -> Vec<u8> {
    if random.below(3) == 0 {
        let mut bytes = model.to_vec();
        for _ in 0..=random.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = random.next() as u8,
                _ => {
                    bytes.remove(at);
                }
            }
        }
        return bytes;
    }
    let Ok(mut proto) = ModelProto::decode(model) else { return model.to_vec() };
    for _ in 0..=random.below(2) {
        if random.below(12) == 0 {
            if let Some(opset) = random.pick(&mut proto.opset_import) {
                opset.version = 6 + random.below(23) as i64;
            }
        } else if let Some(graph) = &mut proto.graph {
            mutate_graph(graph, random);
        }
    }
    proto.encode_to_vec()
}

fn mutate_graph(graph: &mut GraphProto, random: &mut Random) {
    match random.below(9) {
        0 => mutate_type(graph, random),
        1 => {
            if let Some(tensor) = random.pick(&mut graph.initializer) {
                mutate_tensor(tensor, random);
            }
        }
        2 => {
            let at = random.below(graph.node.len());
            if at < graph.node.len() {
                graph.node.remove(at);
            }
        }
        3 => {
            // An operator of another node, with these inputs and attributes.
            let from = random.below(graph.node.len());
            if let Some(op_type) = graph.node.get(from).map(|node| node.op_type.clone())
                && let Some(node) = random.pick(&mut graph.node)
            {
                node.op_type = op_type;
            }
        }
        4 => {
            let names: Vec<String> = graph.node.iter().flat_map(|node| node.input.clone()).collect();
            let other = names.get(random.below(names.len())).cloned().unwrap_or_default();
            if let Some(node) = random.pick(&mut graph.node)
                && let Some(input) = random.pick(&mut node.input)
            {
                *input = other;
            }
        }
        5 => {
            if let Some(node) = random.pick(&mut graph.node) {
                let at = random.below(node.input.len());
                match random.below(3) {
                    0 if at < node.input.len() => drop(node.input.remove(at)),
                    1 => node.output.push("extra".to_owned()),
                    _ => node.input.truncate(at),
                }
            }
        }
        _ => {
            if let Some(node) = random.pick(&mut graph.node) {
                if random.below(4) == 0 {
                    let at = random.below(node.attribute.len());
                    if at < node.attribute.len() {
                        node.attribute.remove(at);
                    }
                } else if let Some(attribute) = random.pick(&mut node.attribute) {
                    if let Some(value) = &mut attribute.i {
                        *value = random.number();
                    }
                    if let Some(value) = &mut attribute.f {
                        *value = f32::from_bits(random.next() as u32);
                    }
                    if let Some(value) = random.pick(&mut attribute.ints) {
                        *value = random.number();
                    }
                    if random.below(4) == 0 {
                        attribute.ints.pop();
                    }
                    if let Some(tensor) = &mut attribute.t {
                        mutate_tensor(tensor, random);
                    }
                    if let Some(graph) = &mut attribute.g {
                        mutate_graph(graph, random);
                    }
                }
            }
        }
    }
}

fn mutate_type(graph: &mut GraphProto, random: &mut Random) {
    let ports = if random.below(3) == 0 { &mut graph.output } else { &mut graph.input };
    let Some(port) = random.pick(ports) else { return };
    let Some(type_proto::Value::TensorType(tensor)) = port.r#type.as_mut().and_then(|ty| ty.value.as_mut())
    else {
        port.r#type = None;
        return;
    };
    match random.below(4) {
        0 => tensor.elem_type = random.below(28) as i32,
        1 => tensor.shape = None,
        _ => {
            if let Some(shape) = &mut tensor.shape {
                if random.below(4) == 0 {
                    shape.dim.pop();
                } else if let Some(dim) = random.pick(&mut shape.dim) {
                    let extent = if random.below(3) == 0 { random.number() } else { random.below(6) as i64 };
                    dim.value = Some(dimension::Value::DimValue(extent));
                }
            }
        }
    }
}

fn mutate_tensor(tensor: &mut TensorProto, random: &mut Random) {
    match random.below(5) {
        0 => tensor.data_type = random.below(28) as i32,
        1 => {
            if let Some(dim) = random.pick(&mut tensor.dims) {
                *dim = random.number();
            }
        }
        2 => {
            if let Some(value) = random.pick(&mut tensor.int64_data) {
                *value = random.number();
            }
        }
        3 => {
            // Shapes, axes and counts are mostly raw integers of 64 bits.
            if let Some(raw) = &tensor.raw_data
                && raw.len() >= 8
            {
                let mut bytes = raw.to_vec();
                let at = 8 * random.below(bytes.len() / 8);
                bytes[at..at + 8].copy_from_slice(&random.number().to_le_bytes());
                tensor.raw_data = Some(bytes.into());
            }
        }
        _ => drop(tensor.dims.pop()),
    }
}

/// Compiles and runs; whatever comes of it is right as long as it comes.
fn try_model(bytes: Vec<u8>, inputs: &[Vec<u8>], random: &mut Random) {
    let bytes = Bytes::from(bytes);
    let Ok(proto) = decode("m.onnx", bytes.clone()) else { return };
    let file = ModelFile { name: "m.onnx".to_owned(), bytes, proto, sources: Vec::new() };
    let Ok(compiled) = compile_file(file, &Options::new("m.onnx"), Instant::now()) else { return };
    let plan = AlignedBytes::copy_of(&compiled.plan).unwrap();
    let mut options = EngineOptions::default();
    options.threads = Some(1);
    let Ok(session) = Session::open(plan, options) else { return };
    let mut values: Vec<Value> = Vec::new();
    for (index, port) in session.inputs().iter().enumerate() {
        // An input now and then takes the place of another, which must be noticed.
        let index = if random.below(16) == 0 { random.below(inputs.len()) } else { index };
        match inputs.get(index).map(|bytes| read_value(bytes, &port.ty)) {
            Some(Ok(value)) => values.push(value),
            _ => return,
        }
    }
    let _ = session.run(&values);
}

#[test]
fn damaged_models_are_errors_at_most() {
    let number = |name: &str, default: u64| {
        env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (first, count) = (number("INFER_SEED", 1), number("INFER_MUTATIONS", 500));
    let cases = cases();
    assert!(!cases.is_empty());
    let (send, receive) = mpsc::channel::<(u64, String)>();
    let worker = std::thread::Builder::new().stack_size(4 << 20).spawn(move || {
        for seed in first..first + count {
            let mut random = Random(seed);
            let case = &cases[random.below(cases.len())];
            // Before the mutation is tried, so that whoever waits knows which one hangs.
            send.send((seed, case.name.clone())).unwrap();
            let model = mutate(&case.model, &mut random);
            try_model(model, &case.inputs, &mut random);
        }
    });
    let worker = worker.unwrap();
    let mut last = (0, String::new());
    loop {
        match receive.recv_timeout(LIMIT) {
            Ok(next) => {
                let largest = LARGEST.swap(0, Ordering::Relaxed);
                assert!(largest <= MOST, "seed {} of {}: an allocation of {largest} bytes", last.0, last.1);
                last = next;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {} of {} hangs", last.0, last.1),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(worker.join().is_ok(), "seed {} of {} panics", last.0, last.1);
}
