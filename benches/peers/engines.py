"""Engines, each in a process of its own that measures when it is told to.

The programs are those of rust/src/bin; rust/src/lib.rs says what they are told and what they answer.
"""
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import prepare

LABELS = {
    "infer-embed": "infer-embed",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tract": "tract",
    "rten": "rten",
}
OURS = "infer-embed"

# What confines engines to an instruction set, as far as they have settings for it: all of OpenVINO but its products by MLAS.
# What confines them all is a processor that seems to have no more, rust/hide-avx512.
ISA = {
    None: {},
    "avx2": {
        "INFER_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "TRACT_CPU_ISA": "-avx512f",
        "LD_PRELOAD": str(prepare.HIDE_AVX512),
    },
}


class Failed(Exception):
    """An engine did not do what it was asked."""


def environment(isa):
    """The variables of an engine's process."""
    return os.environ | prepare.libraries() | ISA[isa]


def command(engine, name, model, threads, inputs=None):
    """The command that runs MODEL in ENGINE."""
    file = prepare.plan(name, model) if engine == OURS else model
    inputs = inputs or prepare.inputs(name, model)
    return [prepare.program(engine), file, "--threads", str(threads)] + [
        argument for path in inputs for argument in ("--input", path)
    ]


class Worker:
    """A process with a model loaded."""

    def __init__(self, engine, name, model, threads, isa=None, outputs=None):
        self.engine = engine
        arguments = command(engine, name, model, threads)
        if outputs:
            arguments += ["--outputs", outputs]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment(isa),
        )
        self.loaded = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            said = self.log.read().strip().splitlines()
            raise Failed(f"{LABELS[self.engine]}: {' '.join(said)[:300] or 'ended without a word'}")
        return json.loads(line)

    def ask(self, *words):
        """The answer to a command."""
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.answer()

    def end(self):
        """Ends the process and returns the most memory it held, in MiB."""
        self.process.stdin.close()
        try:
            peak = self.answer()["peak_kib"] / 1024
        finally:
            self.process.wait()
            self.log.close()
        return peak


class Quiet:
    """Has what others on the machine disturb measured again.

    Before and after a turn products of matrices, on all processors, must run at SHARE of the highest rate that was seen;
    without a SHARE every turn counts.
    """

    SIZE = 512
    PROBE = 0.02
    PATIENCE = 15

    def __init__(self, share=None):
        self.share = share
        self.best = 0.0
        self.repeated = self.disturbed = 0

    def is_there(self):
        """Whether the machine is quiet."""
        import numpy

        matrix = numpy.ones((self.SIZE, self.SIZE), numpy.float32)
        times = []
        while sum(times) < self.PROBE:
            begin = time.perf_counter()
            numpy.matmul(matrix, matrix)
            times.append(time.perf_counter() - begin)
        rate = 1 / statistics.median(times)
        self.best = max(self.best, rate)
        return rate >= self.share * self.best

    def turn(self, measure):
        """What MEASURE answers between two quiet moments; of a machine that is never quiet for so long, its last answer."""
        if not self.share:
            return measure()
        begin = time.monotonic()
        while True:
            while not self.is_there() and time.monotonic() - begin < self.PATIENCE:
                time.sleep(0.1)
            answer = measure()
            if self.is_there():
                return answer
            if time.monotonic() - begin >= self.PATIENCE:
                self.disturbed += 1
                return answer
            self.repeated += 1


class Workers:
    """Those of several engines that take a model, with what the others said."""

    def __init__(self, engines, name, model, threads, isa=None, outputs=None, quiet=None):
        self.quiet = quiet or Quiet()
        self.workers, self.failures = {}, {}
        for engine in engines:
            try:
                folder = outputs and outputs / engine
                self.workers[engine] = Worker(engine, name, model, threads, isa, folder)
            except Failed as error:
                self.failures[engine] = str(error)
                print(error, file=sys.stderr)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind:
            for worker in self.workers.values():
                worker.process.kill()
                worker.process.wait()

    def rounds(self, count, *words):
        """The answers of every engine to a command, in turn, COUNT times."""
        answers = {engine: [] for engine in self.workers}
        for _ in range(count):
            for engine in list(self.workers):
                try:
                    turn = functools.partial(self.workers[engine].ask, *words)
                    answers[engine].append(self.quiet.turn(turn))
                except Failed as error:
                    self.failures[engine] = str(error)
                    print(error, file=sys.stderr)
                    del self.workers[engine], answers[engine]
        return answers

    def end(self):
        """Ends all processes; the most memory each held."""
        return {engine: worker.end() for engine, worker in self.workers.items()}


class Busy:
    """Processes that do nothing but take processor time."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        code = "while True: pass"
        self.processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(self.count)]
        time.sleep(0.3)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def time_to_output(arguments, threads):
    """From a process's start to the first line it writes, in ms."""
    variables = environment(None) | {"INFER_THREADS": str(threads)}
    begin = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables)
    line = process.stdout.readline()
    elapsed = 1e3 * (time.perf_counter() - begin)
    _, said = process.communicate()
    if not line:
        raise Failed(said.decode(errors="replace")[:300])
    return elapsed


def python(code, isa, *arguments):
    """The JSON that CODE prints, run as engines are."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=environment(isa), capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def sees_avx512(isa):
    """Whether a process finds AVX-512 on this machine."""
    return python("import json, numpy; print(json.dumps(numpy._core._multiarray_umath.__cpu_features__['AVX512F']))", isa)


def openvino_kernels(model, threads, isa):
    """How many layers OpenVINO runs by each kind of kernel. Names end in an instruction set, but for those of MLAS."""
    code = """
import collections, json, sys, openvino
core = openvino.Core()
config = {"INFERENCE_NUM_THREADS": int(sys.argv[2]), "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
model = core.compile_model(sys.argv[1], "CPU", config).get_runtime_model()
kinds = collections.Counter(op.get_rt_info()["primitiveType"].value if hasattr(op.get_rt_info()["primitiveType"], "value")
    else str(op.get_rt_info()["primitiveType"]) for op in model.get_ordered_ops() if "primitiveType" in op.get_rt_info())
print(json.dumps({kind: count for kind, count in kinds.items() if any(part in kind for part in ("avx", "sse", "mlas"))}))
"""
    return python(code, isa, model, threads)
