#!/usr/bin/env python3
"""Measures infer-embed beside ONNX Runtime, OpenVINO, tract and rten, in turn, and writes the tables of docs/benchmarks.md.

    python3 benches/peers/run.py prepare                      # environment, programs, models, plans
    python3 benches/peers/run.py                              # latency, load, memory, agreement
    python3 benches/peers/run.py start size busy callers      # the other measurements
    python3 benches/peers/run.py write --check                # the tables; what lies below its floor

Results gather in target/peers/results.json: a run replaces those of the models and threads that it measures, so that a
long measurement can be made in pieces. Each engine is a process of its own that loads the model once and waits while
the others are measured. A ratio above 1 means that the peer takes longer.
"""
import argparse
import functools
import itertools
import pathlib
import shutil
import statistics
import subprocess
import sys

# Nothing is written beside the sources.
sys.dont_write_bytecode = True

import engines
import prepare
import table
from engines import LABELS

ACTIONS = ["prepare", "speed", "start", "size", "busy", "callers", "write"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actions", nargs="*", metavar="ACTION", help=f"of {', '.join(ACTIONS)}; speed if none")
    parser.add_argument("--models", nargs="+", choices=list(prepare.MODELS), default=None, metavar="MODEL")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="per inference; default: 1 2")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each engine; default: 7")
    parser.add_argument("--seconds", type=float, default=1, help="of a turn; default: 1")
    parser.add_argument("--engines", nargs="+", choices=list(LABELS), default=list(LABELS), metavar="ENGINE")
    parser.add_argument(
        "--quiet",
        type=float,
        metavar="SHARE",
        help="in `speed` and `start`: measure a turn again if the processors, just before or after it, are slower than this share of their best, such as 0.9",
    )
    parser.add_argument("--models-dir", type=pathlib.Path, help="a folder of models, such as ../shared/models")
    parser.add_argument("--isa", choices=["avx2"], help="confine the engines to an instruction set")
    parser.add_argument("--busy", type=int, default=1, help="processes beside in `busy`; default: 1")
    parser.add_argument("--callers", type=int, default=8, help="threads that call in `callers`; default: 8")
    parser.add_argument("--results", type=pathlib.Path, default=prepare.TARGET / "results.json")
    parser.add_argument("--no-build", action="store_true", help="measure with the programs as `prepare` built them")
    parser.add_argument("--check", action="store_true", help="fail if a lower quartile lies below its floor")
    chosen = parser.parse_args()
    unknown = set(chosen.actions) - set(ACTIONS)
    if unknown:
        parser.error(f"no such action: {', '.join(sorted(unknown))}")
    if not chosen.actions and not chosen.check:
        chosen.actions = ["speed"]
    return chosen


def difference(ours, reference):
    """The largest difference of any output, as a share of the reference's largest element."""
    import numpy

    worst = 0.0
    files = sorted(reference.glob("output_*.npy"))
    for file in files:
        a, b = numpy.load(ours / file.name), numpy.load(file)
        if a.shape != b.shape:
            return float("inf")
        largest = numpy.abs(b).max()
        apart = numpy.abs(a - b).max() / largest if largest else numpy.abs(a).max()
        worst = max(worst, float(apart)) if apart == apart else float("inf")
    return worst if files else float("inf")


def measured(chosen, files, quiet=None):
    """The workers of each model and thread count in turn, with the entry of the results to fill in."""
    for name, model in files.items():
        for threads in chosen.threads:
            folder = prepare.TARGET / "outputs" / name
            shutil.rmtree(folder, ignore_errors=True)
            with engines.Workers(chosen.engines, name, model, threads, chosen.isa, folder, quiet) as workers:
                entry = {
                    "model": name,
                    "threads": threads,
                    "isa": chosen.isa,
                    "count": chosen.rounds,
                    "seconds": chosen.seconds,
                    "quiet": quiet and quiet.share,
                    "loaded": {engine: worker.loaded for engine, worker in workers.workers.items()},
                    "failures": workers.failures,
                }
                yield entry, workers, folder
            again = f", {quiet.repeated} turns again, {quiet.disturbed} disturbed so far" if quiet and quiet.share else ""
            print(f"{name}, {threads} threads: done{again}", file=sys.stderr, flush=True)


def record(chosen, results, kind, entry):
    """Puts an entry into the results."""
    name = f"{entry['model']} {entry['threads']} {entry['isa'] or ''}".strip()
    results.setdefault(kind, {})[name] = entry
    results["machine"] = prepare.machine()
    versions = results.setdefault("versions", {})
    versions |= {engine: loaded["version"] for engine, loaded in entry["loaded"].items() if engine != engines.OURS}
    prepare.save_results(chosen.results, results)


def speed(chosen, results, files):
    quiet = engines.Quiet(chosen.quiet)
    for entry, workers, outputs in measured(chosen, files, quiet):
        if chosen.isa:
            entry["sees_avx512"] = engines.sees_avx512(chosen.isa)
            if "openvino" in workers.workers:
                model = files[entry["model"]]
                entry["openvino_kernels"] = engines.openvino_kernels(model, entry["threads"], chosen.isa)
        entry["rounds"] = workers.rounds(chosen.rounds, "time", chosen.seconds)
        reference = next((peer for peer in table.PEERS if peer in workers.workers), None)
        # At their end they write their outputs.
        entry["peak_mib"] = workers.end()
        entry["reference"] = reference
        entry["differences"] = {
            engine: difference(outputs / engine, outputs / reference) for engine in workers.workers if reference
        }
        record(chosen, results, "speed", entry)


def busy(chosen, results, files):
    for entry, workers, _ in measured(chosen, files):
        entry["busy"] = chosen.busy
        medians = {"alone": {}, "beside": {}}
        for _ in range(chosen.rounds):
            for when, count in (("alone", 0), ("beside", chosen.busy)):
                with engines.Busy(count):
                    for engine, [answer] in workers.rounds(1, "time", chosen.seconds).items():
                        medians[when].setdefault(engine, []).append(answer["median_ms"])
        workers.end()
        record(chosen, results, "busy", entry | medians)


def callers(chosen, results, files):
    for entry, workers, _ in measured(chosen, files):
        rates = {"one": {}, "many": {}}
        for _ in range(chosen.rounds):
            for when, count in (("one", 1), ("many", chosen.callers)):
                for engine, [answer] in workers.rounds(1, "calls", count, chosen.seconds).items():
                    rates[when].setdefault(engine, []).append(answer["calls_per_second"])
        workers.end()
        record(chosen, results, "callers", entry | rates | {"callers": chosen.callers})


def start(chosen, results, files):
    names = [name for name in prepare.EMBEDDED if name in files]
    quiet = engines.Quiet(chosen.quiet)
    for name, threads in itertools.product(names, chosen.threads):
        commands = {
            engine: [*engines.command(engine, name, files[name], threads), "--once"]
            for engine in chosen.engines
            if engine != engines.OURS
        }
        if engines.OURS in chosen.engines:
            commands = {engines.OURS: [prepare.TARGET / f"embedded-{name}"]} | commands
        times = {engine: [] for engine in commands}
        # The first round brings files into the page cache.
        for number in range(21):
            for engine, command in list(commands.items()):
                try:
                    elapsed = quiet.turn(functools.partial(engines.time_to_output, command, threads))
                except engines.Failed as error:
                    print(f"{LABELS[engine]}: {error}", file=sys.stderr)
                    del commands[engine], times[engine]
                    continue
                if number:
                    times[engine].append(elapsed)
        medians = {engine: statistics.median(found) for engine, found in times.items()}
        entry = {"model": name, "threads": threads, "medians": medians}
        results.setdefault("start", {})[f"{name} {threads}"] = entry
    prepare.save_results(chosen.results, results)


def size(chosen, results, files):
    found = {}
    for name in (name for name in prepare.EMBEDDED if name in files):
        program, plan = prepare.TARGET / f"embedded-{name}", prepare.plan(name, files[name])
        found[f"infer-embed: application with {name}"] = program.stat().st_size
        found[f"infer-embed: the same less its plan of {name}"] = program.stat().st_size - plan.stat().st_size
    for engine in ("tract", "rten"):
        stripped = prepare.TARGET / f"stripped-{engine}"
        subprocess.run(["strip", "-o", stripped, prepare.program(engine)], check=True)
        found[f"{LABELS[engine]}: program without a model"] = stripped.stat().st_size
    libraries = {name: pathlib.Path(path) for name, path in prepare.libraries().items()}
    found["ONNX Runtime: libonnxruntime"] = libraries["ORT_DYLIB_PATH"].stat().st_size
    folder = libraries["OPENVINO_DYLIB_PATH"].parent
    needed = ["libopenvino.so*", "libopenvino_c.so*", "libopenvino_intel_cpu_plugin.so", "libopenvino_onnx_frontend.so*", "libtbb.so*"]
    found["OpenVINO: core, C interface, CPU plugin, ONNX reader, TBB"] = sum(
        path.stat().st_size for pattern in needed for path in folder.glob(pattern) if not path.is_symlink()
    )
    results["size"] = found
    prepare.save_results(chosen.results, results)


def main():
    chosen = arguments()
    if chosen.isa == "avx2" and chosen.actions != ["speed"]:
        raise SystemExit("--isa goes with speed alone")
    results = prepare.load_results(chosen.results)
    measures = [action for action in chosen.actions if action != "write"]
    if measures:
        if not chosen.no_build:
            prepare.build(chosen.engines)
        files = prepare.models(chosen.models or list(prepare.MODELS), chosen.models_dir)
        for name, model in files.items():
            prepare.inputs(name, model)
            if engines.OURS in chosen.engines:
                prepare.plan(name, model)
            if name in prepare.EMBEDDED and set(measures) & {"prepare", "start", "size"}:
                prepare.build_embedded(name, model, again="prepare" in measures)
    for action in measures:
        if action != "prepare":
            {"speed": speed, "start": start, "size": size, "busy": busy, "callers": callers}[action](chosen, results, files)
    if "write" in chosen.actions:
        table.write(results, prepare.ROOT / "docs" / "benchmarks.md")
    elif measures != ["prepare"]:
        print(table.document(results))
    if chosen.check:
        missed = list(table.misses(results))
        print("\n".join(missed) or "no ratio lies below its floor")
        sys.exit(bool(missed))


if __name__ == "__main__":
    prepare.enter_environment()
    main()
