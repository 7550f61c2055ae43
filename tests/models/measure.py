#!/usr/bin/env python3
"""What YOLOv3-608 costs an application: expansion of the attribute, rustc's own time, the size of the binary.

    target/venv/bin/python tests/models/prepare.py SHARED
    target/venv/bin/python tests/models/measure.py

Builds a small application below target/measure, once with the model compiler optimised (`build-override` at
`opt-level = 3`, as the README recommends) and once without.
"""
import os
import pathlib
import re
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "tests" / "models" / "data" / "yolov3_608.onnx"
APP = ROOT / "target" / "measure"

MANIFEST = """\
[package]
name = "street"
version = "0.1.0"
edition = "2024"

[workspace]

[dependencies]
infer-embed = {{ path = "{root}" }}

[profile.release]
strip = true

[profile.release.build-override]
opt-level = {level}
"""

MAIN = """\
/// YOLOv3, 608x608.
#[infer_embed::model("yolov3_608.onnx")]
struct Yolov3;

fn main() {
    let run = || {
        let net = Yolov3::new().unwrap();
        let out = net.infer(&infer_embed::zeroed()).unwrap();
        println!("{}", Yolov3::WEIGHT_BYTES);
        assert!(out.head5[0][0][0][0].is_finite());
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}
"""


def build(target):
    environment = {**os.environ, "INFER_LOG": "time", "CARGO_TARGET_DIR": str(target)}
    start = time.perf_counter()
    done = subprocess.run(
        ["cargo", "build", "--release"], cwd=APP, env=environment, check=True, capture_output=True, text=True
    )
    wall = time.perf_counter() - start
    line = next(line for line in done.stderr.splitlines() if "infer-embed: yolov3_608" in line)
    return wall, float(re.search(r": ([0-9.]+) s", line)[1]), line


def main():
    (APP / "src").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(MODEL, APP / "yolov3_608.onnx")
    source = APP / "src" / "main.rs"
    print("| build-override | expansion cold, s | expansion cached, s | rustc and linker after an edit, s |")
    print("| --- | --- | --- | --- |")
    for level in (3, 0):
        target = APP / f"target-{level}"
        shutil.rmtree(target, ignore_errors=True)
        (APP / "Cargo.toml").write_text(MANIFEST.format(root=ROOT, level=level))
        source.write_text(MAIN)
        _, cold, _ = build(target)
        source.write_text(MAIN.replace("println!(", "// edited\n        println!("))
        wall, cached, line = build(target)
        assert "cached" in line, line
        print(f"| opt-level = {level} | {cold:.2f} | {cached:.3f} | {wall - cached:.2f} |", flush=True)
    program = APP / "target-3" / "release" / "street"
    weights = int(subprocess.run([program], check=True, capture_output=True, text=True).stdout)
    size = program.stat().st_size
    print(f"\nstripped binary: {size} bytes, {size - weights} beside {weights} bytes of weights")
    print("one inference ran on a thread with 256 KiB of stack")
    if size - weights > 2 << 20:
        raise SystemExit("more than 2 MiB beside the weights")


if __name__ == "__main__":
    main()
