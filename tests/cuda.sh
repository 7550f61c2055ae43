#!/bin/sh
# Tests and times on an NVIDIA GPU: tests/cuda.sh SHARED, the folder with models/graphs and tools/fill_weights.py.
# PYTHON must have numpy, onnx and onnxruntime.
set -eu
cd "$(dirname "$0")/.."
shared=$1
python=${PYTHON:-python3}
models=${INFER_CUDA_MODELS:-target/cuda-models}
mkdir -p "$models"
names="resnet50 mobilenet_v2 yolov3_608 bert_base minilm_l6"
for name in $names; do
    [ -e "$models/$name.case0/output_0.npy" ] ||
        "$python" "$shared/tools/fill_weights.py" "$shared/models/graphs/$name/model.onnx" "$models/$name.onnx" --cases 1
done
[ -z "${INFER_SUITE:-}" ] || export INFER_CUDA_CASES="$INFER_SUITE/node"
export INFER_CUDA_MODELS="$(cd "$models" && pwd)" INFER_CUDA_REQUIRED=1
cargo test --release -p infer-kernels --features cuda --test cuda_prebuilt
cargo test --release -p infer-core --features compiler,cuda --test cuda -- --nocapture --test-threads 4
cargo test --release -p infer-core --features compiler,cuda --test cuda_plain -- --nocapture
cargo test --release -p infer-core --features compiler,cuda --test cuda_driver
cargo test --release -p infer-core --features compiler,cuda --test cuda_parts -- --nocapture
cargo test --release -p infer-embed --features cuda,dynamic --test backends -- --nocapture
cargo run --release -p digits --features cuda -- --out "$models/digits.png"
if [ -d target/suite ]; then
    cargo run --release -p infer-embed --features cli,cuda --bin infer -- conformance target/suite --backend cuda \
        --expect tests/suite/expected_failures.txt
fi
# Memory errors: every kernel once more, where the tool is there. The largest tests take minutes.
if command -v compute-sanitizer >/dev/null; then
    for test in cuda cuda_plain; do
        binary=$(cargo test --release -p infer-core --features compiler,cuda --test $test --no-run 2>&1 |
            sed -n 's/.*(\(.*\)).*/\1/p')
        (unset INFER_CUDA_CASES INFER_CUDA_MODELS && compute-sanitizer --error-exitcode 1 "$binary" --test-threads 1)
    done
fi
for name in $names; do
    cargo run --release -p infer-embed --features cli,cuda --bin infer -- tune "$INFER_CUDA_MODELS/$name.onnx" \
        --backend cuda --precision fp16
done
cargo run --release -p infer-core --features compiler,cuda --example cuda_bench -- \
    "$INFER_CUDA_MODELS/resnet50.onnx" fp16 --callers 3
for name in $names; do
    for precision in fp16 tf32 fp32; do
        cargo run --release -p infer-core --features compiler,cuda --example cuda_bench -- \
            "$INFER_CUDA_MODELS/$name.onnx" $precision
    done
done
