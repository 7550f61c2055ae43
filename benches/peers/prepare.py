"""What a measurement needs: the environment, the programs, models, inputs and plans, all below target/peers.

What is there already is kept, plans and inputs as long as their model and the compiler are the same.
"""
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "peers"
VENV = TARGET / "venv"
HIDE_AVX512 = TARGET / "rust" / "release" / "libhide_avx512.so"
PACKAGES = ["numpy", "onnxruntime", "openvino"]

# Each model, and what other collections call it.
MODELS = {
    "resnet50": [],
    "yolov3_416": ["yolov3_416_dyn"],
    "mobilenet_v2": [],
    "efficientnet_b0": [],
    "unet": [],
    "bert_base": [],
    "minilm": ["minilm_l6"],
    "vit_b_16": ["vit_b_16_dynamo"],
    "ultraface_rfb_320": [],
    "mnist_8": [],
    "lstm_ctc": [],
}

# The models of which the start is measured, each an application of its own.
EMBEDDED = ["resnet50", "mnist_8"]


def enter_environment():
    """Goes on in the virtual environment, which is made where there is none."""
    python = VENV / "bin" / "python"
    if pathlib.Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not (VENV / "complete").exists():
        print(f"making {VENV}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (VENV / "complete").touch()
    os.execv(python, [python, *sys.argv])


@functools.cache
def libraries():
    """Where the engines that are shared libraries lie, for their programs."""
    import onnxruntime
    import openvino

    onnx = next(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    vino = next(pathlib.Path(openvino.__file__).parent.glob("libs/libopenvino_c.so*"))
    return {"ORT_DYLIB_PATH": str(onnx), "OPENVINO_DYLIB_PATH": str(vino)}


def cargo(*arguments, folder=ROOT, target=None, **variables):
    """Runs cargo."""
    environment = os.environ | variables
    if target:
        environment["CARGO_TARGET_DIR"] = str(target)
    subprocess.run(["cargo", *arguments], cwd=folder, env=environment, check=True)


def program(engine):
    """The program that runs ENGINE."""
    return TARGET / "rust" / "release" / f"peer-{engine}"


def build(engines):
    """Builds the programs of ENGINES."""
    names = [argument for engine in engines for argument in ("--bin", f"peer-{engine}")]
    for package in (["peers", "--features", ",".join(engines), *names], ["hide-avx512"]):
        cargo("build", "--release", "-p", *package, folder=HERE / "rust", target=TARGET / "rust")


def build_embedded(name, model, again):
    """Builds the application with MODEL in it, stripped, where there is none or AGAIN."""
    path = TARGET / f"embedded-{name}"
    if path.exists() and not again:
        return
    cargo("build", "--release", "-p", "embedded", folder=HERE / "rust", target=TARGET / "rust", PEERS_MODEL=str(model))
    shutil.copy(TARGET / "rust" / "release" / "embedded", path)
    subprocess.run(["strip", path], check=True)


def make_models(names):
    """Makes the models of this repository that are missing."""
    folder = TARGET / "models"
    missing = [name for name in names if not (folder / f"{name}.onnx").exists()]
    if missing:
        cargo("run", "--release", "-p", "make-models", "--", str(folder), *missing)
    return folder


def find_model(name, folder):
    """The model NAME in FOLDER: as a file, among trained ones, or as a graph whose weights are filled in."""
    for known in [name, *MODELS[name]]:
        for place in (folder / f"{known}.onnx", folder / "real" / f"{known}.onnx"):
            if place.exists():
                return place
        graph, filled = folder / "graphs" / known / "model.onnx", TARGET / "filled" / f"{known}.onnx"
        if graph.exists():
            if not filled.exists():
                subprocess.run([VENV / "bin" / "python", "-m", "pip", "install", "-q", "onnx"], check=True)
                fill = folder.parent / "tools" / "fill_weights.py"
                subprocess.run([sys.executable, fill, graph, filled], check=True)
            return filled
    raise SystemExit(f"there is no model {name} in {folder}")


def models(names, folder):
    """The file of each model in NAMES, in FOLDER or made here."""
    folder = folder or make_models(names)
    return {name: find_model(name, folder) for name in names}


def key(path):
    """What tells versions of a file apart, for what is made from it."""
    status = path.stat()
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def inputs(name, model):
    """Files with the inputs of MODEL: those recorded beside it, or else seeded ones."""
    import numpy
    import onnxruntime

    recorded = model.parent / f"{model.stem}.case0"
    if recorded.exists():
        return sorted(recorded.glob("input_*.npy"))
    folder = TARGET / "inputs" / f"{name}-{key(model)}"
    complete = folder / "complete"
    if complete.exists():
        return sorted(folder.glob("input_*.npy"))
    folder.mkdir(parents=True, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    random = numpy.random.default_rng(1)
    for index, port in enumerate(onnxruntime.InferenceSession(model, options).get_inputs()):
        shape = [extent if isinstance(extent, int) else 1 for extent in port.shape]
        if port.type == "tensor(int64)":
            mask = "mask" in port.name
            value = numpy.ones(shape, numpy.int64) if mask else random.integers(0, 900, shape)
        else:
            value = random.standard_normal(shape).astype(numpy.float32)
        numpy.save(folder / f"input_{index}.npy", value)
    complete.touch()
    return sorted(folder.glob("input_*.npy"))


def plan(name, model):
    """The plan of MODEL, compiled as the attribute does it."""
    compiler = program("infer-embed")
    path = TARGET / "plans" / f"{name}-{key(model)}-{key(compiler)}.plan"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{name}-*"):
            old.unlink()
        temporary = path.with_suffix(".new")
        subprocess.run([compiler, "--compile", model, temporary], check=True)
        temporary.rename(path)
    return path


def machine():
    """What the figures were measured on, and of which commit."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    return {"processor": names[0] if names else "unknown", "cores": os.cpu_count(), "commit": commit}


def load_results(path):
    """What earlier runs wrote."""
    return json.loads(path.read_text()) if path.exists() else {}


def save_results(path, results):
    """Writes results for later runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    temporary.rename(path)
