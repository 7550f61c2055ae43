#!/usr/bin/env python3
"""Measures models of single layers by `infer bench --layers`, and writes the table of docs/benchmarks.md.

    python3 benches/peers/layers.py
"""
import json
import os
import subprocess
import sys

# Nothing is written beside the sources.
sys.dont_write_bytecode = True

import prepare
import table

BEGIN = "<!-- layers: written by benches/peers/layers.py -->\n"
END = "<!-- end of layers -->\n"

# Each model of make-models/src/layers.rs: what it is, and the shares of the peak that its kernel should reach with one
# thread and with two, in percent. Winograd's and Strassen's algorithms count the operations of the direct one.
LAYERS = {
    "conv1x1_64_256_56": ("1×1 64→256 at 56²", (90, 87)),
    "conv1x1_256_64_56": ("1×1 256→64 at 56²", (96, 94)),
    "conv1x1_1024_256_14": ("1×1 1024→256 at 14²", (96, 94)),
    "conv3x3_64_56": ("3×3 64 at 56²", (300, 300)),
    "conv3x3_128_256_52": ("3×3 128→256 at 52²", (300, 300)),
    "conv3x3_256_512_26": ("3×3 256→512 at 26²", (240, 240)),
    "conv3x3_512_7": ("3×3 512 at 7²", (98, 96)),
    "conv3x3_stride2_128_56": ("3×3 stride 2, 128 at 56²", (98, 96)),
    "conv7x7_stride2_3_224": ("7×7 stride 2, 3→64 at 224²", None),
    "depthwise3x3_32_112": ("depthwise 3×3, 32 at 112²", (77, 67)),
    "depthwise3x3_576_14": ("depthwise 3×3, 576 at 14²", (77, 67)),
    "depthwise3x3_stride2_96_112": ("depthwise 3×3 stride 2, 96 at 112²", (50, 45)),
    "product_128_768_3072": ("product 128×768×3072", (93, 91)),
    "product_128_3072_768": ("product 128×3072×768", (93, 91)),
}

# A product of one row, which is as fast as its weights come from memory.
MATRIX_VECTOR = "product_1_4096_4096"
MATRIX_VECTOR_GOAL = 90

SECONDS = "1"


def kernel(model, isa, threads):
    """The call of MODEL with the most operations, and how long it takes in seconds."""
    program = prepare.TARGET.parent / "release" / "infer"
    command = [program, "bench", model, "--layers", "--threads", str(threads), "--duration", SECONDS, "--json", "-"]
    answer = subprocess.run(command, env=os.environ | {"INFER_ISA": isa}, capture_output=True, text=True, check=True)
    return max(json.loads(answer.stdout)["layers"]["layers"], key=lambda layer: layer["flops"])


def memory_rate(threads):
    """Bytes a second at which numpy multiplies a matrix, of a quarter of a GiB, by a vector."""
    program = (
        "import numpy, time\n"
        "a, x = numpy.ones((16384, 4096), numpy.float32), numpy.ones(4096, numpy.float32)\n"
        "times = []\n"
        "for _ in range(15):\n"
        "    begin = time.perf_counter(); a @ x; times.append(time.perf_counter() - begin)\n"
        "print(a.nbytes / min(times))\n"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads)}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return float(answer.stdout)


def main():
    prepare.cargo("build", "--release", "--features", "cli", "--bin", "infer")
    folder = prepare.make_models([*LAYERS, MATRIX_VECTOR])
    isas = ["avx512", "avx2"]
    lines = []
    for name, (what, goal) in LAYERS.items():
        cells, kernels = [], []
        for isa in isas:
            found = [kernel(folder / f"{name}.onnx", isa, threads) for threads in (1, 2)]
            cells.append(" / ".join(f"{layer['peak_share'] * 100:.1f}" for layer in found))
            kernels.append(found[0]["kernel"])
        lines.append([what, ", ".join(sorted(set(kernels))), *cells, " / ".join(map(str, goal)) if goal else "–"])
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    cells = []
    for isa in isas:
        shares = []
        for threads in (1, 2):
            layer = kernel(folder / f"{MATRIX_VECTOR}.onnx", isa, threads)
            rate = 4 * 4096 * 4096 / (layer["median_us"] * 1e-6)
            shares.append(f"{rate * 1e-9:.1f} of {memory_rate(threads) * 1e-9:.1f}")
        cells.append(" / ".join(shares))
    lines.append(["product 1×4096×4096, GB/s of numpy's", layer["kernel"], *cells, f"{MATRIX_VECTOR_GOAL} %"])
    text = table.rows(["layer", "kernel", "AVX-512, 1 / 2 threads", "AVX2, 1 / 2 threads", "goal"], lines)
    table.replace(prepare.ROOT / "docs" / "benchmarks.md", BEGIN, END, text)


if __name__ == "__main__":
    prepare.enter_environment()
    main()
