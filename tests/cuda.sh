#!/bin/sh
# Tests on an NVIDIA GPU, in less than ten minutes: `tests/cuda.sh SHARED [BIN]`. SHARED is the folder with models/graphs and
# tools/fill_weights.py; PYTHON must have numpy, onnx and onnxruntime. The programs are built into BIN, target/cuda-tests if
# none is given; `tests/cuda.sh --build BIN` builds them for another machine, where there is no cargo and the checkout lies at
# the same path. ONNX's cases are in target/suite, where they are there. MEMCHECK=1 runs every kernel under compute-sanitizer.
set -eu
cd "$(dirname "$0")/.."
if [ "$1" = --build ]; then shared=; else shared=$1; fi
bin=${2:-target/cuda-tests}
python=${PYTHON:-python3}

if command -v cargo >/dev/null; then
    mkdir -p "$bin"
    # The path of what `cargo test --no-run` has built.
    test_program() {
        name=$1
        shift
        path=$(cargo test --release "$@" --test "$name" --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
        cp "$path" "$bin/$name"
    }
    for name in cuda cuda_chains cuda_plain cuda_parts cuda_borrow cuda_driver; do
        test_program $name -p infer-core --features compiler,cuda
    done
    test_program backends -p infer-embed --features cuda,dynamic
    cargo build --release -p infer-core --features compiler,cuda --example cuda_bench
    cargo build --release -p infer-embed --features cli,cuda --bin infer
    cargo build --release -p digits --features cuda
    cp target/release/examples/cuda_bench target/release/infer target/release/digits "$bin"
fi
[ -n "$shared" ] || exit 0

models=target/cuda-models
mkdir -p "$models"
export INFER_CUDA_REQUIRED=1
failed=0
try() {
    "$@" || { failed=1; echo "FAILED: $*"; }
}

echo "== kernels, plans, errors"
for name in cuda cuda_chains cuda_plain cuda_parts cuda_borrow cuda_driver backends; do
    try "$bin/$name" --test-threads 8 --quiet
done

echo "== the detector"
try "$bin/digits" --out "$models/digits.png"

if [ -d target/suite ]; then
    echo "== ONNX's suite"
    try "$bin/infer" conformance target/suite --backend cuda --expect tests/suite/expected_failures.txt
fi

echo "== models"
for graph in "$shared"/models/graphs/*/model.onnx; do
    basename "$(dirname "$graph")"
done >"$models/names"
export shared models python bin
OMP_NUM_THREADS=2 xargs -P 8 -I{} sh -c \
    '[ -e "$models/{}.case0/output_0.npy" ] ||
     "$python" "$shared/tools/fill_weights.py" "$shared/models/graphs/{}/model.onnx" "$models/{}.onnx" --cases 1 >/dev/null' \
    <"$models/names"
# The tolerance is one of the largest element of each output. What is known to miss it: which boxes of ssdlite320 suppress which
# turns on scores that are nearly equal; mobilenet_v3_small multiplies rounding more than others do (1.1e-2 in tf32).
export misses=" ssdlite320.tf32 ssdlite320.fp16 ssdlite320.bf16 mobilenet_v3_small.tf32 "
for precision in fp32:2e-3 tf32:1e-2 fp16:1e-2 bf16:8e-2; do
    sed "s/\$/ ${precision%:*} ${precision#*:}/" "$models/names"
done | xargs -P 5 -L 1 sh -c \
    'agrees=false missed=false
     "$bin/infer" check "$models/$0.onnx" --case "$models/$0.case0" --backend cuda --precision $1 --of-largest $2 \
        >"$models/$0.$1.txt" 2>&1 && agrees=true
     case "$misses" in *" $0.$1 "*) missed=true ;; esac
     case "$agrees $missed" in
     "true false") echo "$0 $1: agrees" ;;
     "false true") echo "$0 $1: misses $2, as known" ;;
     "true true") echo "FAILED: $0 $1 agrees, though it is listed as a miss"; exit 1 ;;
     *) echo "FAILED: $0 $1: $(tail -n 1 "$models/$0.$1.txt")"; exit 1 ;;
     esac' || failed=1

if [ "${MEMCHECK:-0}" = 1 ]; then
    echo "== memory errors"
    for name in cuda cuda_chains cuda_plain cuda_borrow; do
        "$bin/$name" --list 2>/dev/null | sed -n "s/: test\$/ $name/p"
    done | xargs -P 8 -L 1 sh -c \
        'compute-sanitizer --report-api-errors no "$bin/$1" --exact "$0" --test-threads 1 >"$models/memcheck.$0.txt" 2>&1
         # Some tests launch nothing.
         grep -q "ERROR SUMMARY: 0 errors\|before first instrumented API call" "$models/memcheck.$0.txt" ||
         { echo "FAILED: $0"; exit 1; }' || failed=1
fi
exit $failed
