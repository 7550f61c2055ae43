#!/usr/bin/env python3
"""Times models on an NVIDIA GPU beside PyTorch, and prints the table of docs/gpu.md.

    cargo build --release -p infer-core --features compiler,cuda --example cuda_bench
    python3 benches/gpu/run.py SHARED target/release/examples/cuda_bench [--precision fp16] [--no-torch] [--start]

Python needs numpy, onnx, onnxruntime and PyTorch with torchvision and transformers. SHARED has models/graphs and tools. The
kernels of a model are timed by the GPU's clock, inputs and outputs on the GPU, outputs compared with ONNX Runtime's: before
PyTorch and after it; the median of the two counts. PyTorch runs tools/torch_baseline.py: eager, and `torch.compile` with a
CUDA graph. A ratio above 1 means that PyTorch takes longer. `--start` times processes from their start to their first result,
beside one that only opens the GPU.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import onnx

from rebatch import rebatched

HERE = pathlib.Path(__file__).resolve().parent
TACTICS = HERE.parent / "tactics"

# Row, graph, symbolic dimensions or the batch that is written into the graph, PyTorch's name and batch, and what it has to
# beat: the column of the baseline, and the least ratio.
ROWS = [
    ("resnet50", "resnet50", None, "resnet50:1", "compile_fp16", 1.0),
    ("resnet50_b32", "resnet50_dynbatch", "batch=32", "resnet50:32", "compile_fp16", 0.8),
    ("resnet50_b128", "resnet50_dynbatch", "batch=128", "resnet50:128", "compile_fp16", 0.8),
    ("yolov3_608", "yolov3_608", None, "yolov3_608:1", "compile_fp16", 1.0),
    ("yolov3_608_b8", "yolov3_608", 8, "yolov3_608:8", "compile_fp16", 0.8),
    ("mobilenet_v2", "mobilenet_v2", None, "mobilenet_v2:1", "compile_fp16", 1.3),
    ("bert_base", "bert_base", None, "bert_base_seq128:1", "compile_fp16", 1.1),
    ("bert_base_b32", "bert_base", 32, "bert_base_seq128:32", "compile_fp16", 0.7),
    ("resnet50_b32", "resnet50_dynbatch", "batch=32", "resnet50:32", "eager_fp32", 5.1),
]
TF32 = ("resnet50_b32", "resnet50_dynbatch", "batch=32", "resnet50:32", "eager_fp32", 2.0)


def fill(shared, folder, graph):
    """GRAPH with seeded weights and a recorded case, in FOLDER."""
    path = folder / f"{graph}.onnx"
    if not (folder / f"{graph}.case0" / "output_0.npy").exists():
        source = shared / "models" / "graphs" / graph / "model.onnx"
        tool = shared / "tools" / "fill_weights.py"
        command = [sys.executable, tool, source, path, "--cases", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "2"})
    return path


def prepare(shared, folder):
    """The models of all rows."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {graph for _, graph, *_ in ROWS}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda graph: fill(shared, folder, graph), graphs))
    for row, graph, batch, *_ in ROWS:
        path = folder / f"{row}.onnx"
        if isinstance(batch, int) and not path.exists():
            onnx.save(rebatched(onnx.load(folder / f"{graph}.onnx"), batch), path)
            (folder / f"{row}.case0").symlink_to(f"{graph}.case0")


def time_row(bench, folder, row, graph, batch, precision):
    """Milliseconds of the row's kernels, and how far its outputs are from ONNX Runtime's."""
    model = folder / f"{row if isinstance(batch, int) else graph}.onnx"
    command = [bench, model, precision, *([batch] if isinstance(batch, str) else [])]
    if precision == "fp16":
        command += ["--tactics", TACTICS / f"{row}.tactics"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = text.splitlines()[-1]
    print(line, flush=True)
    return float(re.search(r": ([\d.]+) ms \(least", line)[1]), re.search(r"error (\S+)", line)[1]


def print_starts(bench, folder):
    """Medians of nine processes of each kind, in turns."""
    commands = {"the GPU's context alone": [bench, "--context"]}
    for graph, precision in [("mobilenet_v2", "fp16"), ("resnet50", "fp16"), ("resnet50", "fp32"), ("bert_base", "fp16")]:
        plan = folder / f"{graph}.{precision}.plan"
        subprocess.run([bench, folder / f"{graph}.onnx", precision, "--write", plan], check=True, stdout=subprocess.DEVNULL)
        commands[f"{graph}, {precision}"] = [bench, "--start", plan]
    times = {what: [] for what in commands}
    for _ in range(9):
        for what, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True)
            times[what].append((time.perf_counter() - begin) * 1e3)
    medians = {what: statistics.median(found) for what, found in times.items()}
    context = next(iter(medians.values()))
    print("| process | ms | beyond the context |")
    print("| --- | --- | --- |")
    for what, median in medians.items():
        print(f"| {what} | {median:.0f} | {median - context:.0f} |")


def time_torch(shared, folder):
    """The baseline's results by `model:batch`."""
    results = folder / "torch.json"
    only = ",".join(sorted({torch for *_, torch, _, _ in ROWS}))
    variables = {"MODE": "reduce-overhead", "ALL": "1", "ONLY": only}
    command = [sys.executable, shared / "tools" / "torch_baseline.py", results]
    subprocess.run(command, check=True, env=os.environ | variables)
    return {f"{entry['model']}:{entry['batch']}": entry for entry in json.loads(results.read_text()) if "model" in entry}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=pathlib.Path, help="the folder with models/graphs and tools")
    parser.add_argument("bench", type=pathlib.Path, help="the example cuda_bench")
    parser.add_argument("--models", type=pathlib.Path, default=HERE.parent.parent / "target" / "cuda-models")
    parser.add_argument("--precision", choices=["fp16", "bf16"], default="fp16")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--start", action="store_true", help="time starts alone")
    chosen = parser.parse_args()
    chosen.bench = chosen.bench.resolve()
    prepare(chosen.shared, chosen.models)
    if chosen.start:
        print_starts(chosen.bench, chosen.models)
        return

    rows = [(*row, chosen.precision) for row in ROWS] + [(*TF32, "tf32")]

    def turn():
        known = {}
        for row, graph, batch, _, _, _, precision in rows:
            if (row, precision) not in known:
                known[row, precision] = time_row(chosen.bench, chosen.models, row, graph, batch, precision)
        return known

    first = turn()
    torch = {} if chosen.no_torch else time_torch(chosen.shared, chosen.models)
    turns = [first] if chosen.no_torch else [first, turn()]
    print("| model and batch | precision | here, ms | PyTorch, ms | ratio | floor | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row, _, _, name, column, floor, precision in rows:
        ours = statistics.median(turn[row, precision][0] for turn in turns)
        theirs = torch.get(name, {}).get(column)
        ratio = f"{theirs:.3f} ({column}) | {theirs / ours:.2f}" if theirs else "– | –"
        print(f"| {row} | {precision} | {ours:.3f} | {ratio} | {floor} | {turns[0][row, precision][1]} |")


if __name__ == "__main__":
    main()
