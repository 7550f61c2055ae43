#!/usr/bin/env python3
"""Times models here and in ONNX Runtime, in turn, and prints the medians and the ratios of each round.

    target/venv/bin/python tests/models/prepare.py SHARED
    cargo build --release -p model-tests
    target/venv/bin/python tests/models/bench.py [--rounds 7] [--seconds 2] [MODEL ...]

A ratio above 1 means that ONNX Runtime takes longer.
"""
import argparse
import pathlib
import statistics
import subprocess
import time

import numpy as np
import onnxruntime

HERE = pathlib.Path(__file__).resolve().parent


def ours(model, threads, seconds):
    program = HERE.parent.parent / "target" / "release" / "bench"
    line = subprocess.run([program, model, str(threads), str(seconds)], check=True, capture_output=True, text=True)
    return float(line.stdout.split()[0])


def session(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(HERE / "data" / f"{model}.onnx", options, providers=["CPUExecutionProvider"])


def theirs(run, seconds):
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet50", "yolov3_416_dyn"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    print("| model | threads | infer-embed, ms | ONNX Runtime, ms | ratio: lower quartile | median |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in arguments.models:
        image = np.load(HERE / "data" / f"{model}.case0" / "input_0.npy")
        for threads in (1, 2):
            peer = session(model, threads)
            feed = {peer.get_inputs()[0].name: image}
            a, b = [], []
            for _ in range(arguments.rounds):
                a.append(ours(model, threads, arguments.seconds))
                # The peer's own threads rest while ours run: it is called from here only now.
                b.append(theirs(lambda: peer.run(None, feed), arguments.seconds))
            ratios = sorted(y / x for x, y in zip(a, b))
            print(
                f"| {model} | {threads} | {statistics.median(a):.2f} | {statistics.median(b):.2f}"
                f" | {ratios[len(ratios) // 4]:.2f} | {statistics.median(ratios):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
