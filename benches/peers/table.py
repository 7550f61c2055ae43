"""Results as tables, and the floors they are held against.

Results are what run.py gathers: an entry for each measurement, model, number of threads and instruction set.
"""
import statistics

import prepare
from engines import LABELS, OURS

BEGIN = "<!-- peers: written by benches/peers/run.py -->\n"
END = "<!-- end of peers -->\n"

PEERS = [engine for engine in LABELS if engine != OURS]

# How much longer a peer must take at least: the lower quartile of the ratios of one run.
FLOORS = {
    "resnet50": {"onnxruntime": 1.15, "openvino": 1.1},
    "yolov3_416": {"onnxruntime": 1.5, "openvino": 1.4},
    "mobilenet_v2": {"onnxruntime": 1.25, "openvino": 1.1},
    "efficientnet_b0": {"onnxruntime": 1.2, "openvino": 1.2},
    "unet": {"onnxruntime": 1.4, "openvino": 1.4},
    "bert_base": {"onnxruntime": 1.15, "openvino": 1.0},
    "minilm": {"onnxruntime": 1.25, "openvino": 1.0},
    "vit_b_16": {"onnxruntime": 1.1, "openvino": 1.0},
    "ultraface_rfb_320": {"onnxruntime": 2.0, "openvino": 1.0},
    "mnist_8": {"onnxruntime": 2.0, "openvino": 4.0},
    "lstm_ctc": {"onnxruntime": 1.0, "openvino": 1.0},
}
OTHER_FLOOR = 1.4

# What a process may hold beside weights, what is transformed of them, and the arena.
OTHER_MEMORY_MIB = 8

# Outputs that differ by more than this share of the largest element are another model's.
TOLERANCE = 1e-3


def ratios(entry, peer):
    """Of each round, how much longer the peer takes; sorted."""
    rounds = entry["rounds"]
    if OURS not in rounds or peer not in rounds:
        return []
    pairs = zip(rounds[OURS], rounds[peer])
    return sorted(theirs["median_ms"] / ours["median_ms"] for ours, theirs in pairs)


def lower_quartile(values):
    return values[len(values) // 4]


def figure(value):
    """A time in ms with three digits that say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def median(entry, engine):
    return statistics.median(answer["median_ms"] for answer in entry["rounds"][engine])


def order(entries):
    """Entries of the results, in the order of the models, with their names."""
    names = list(prepare.MODELS)
    known = [entry for entry in entries.values() if entry["model"] in names]
    return sorted(known, key=lambda entry: (entry.get("isa") or "", names.index(entry["model"]), entry["threads"]))


def rows(head, lines):
    """A table."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *lines])


def speed(entries):
    """Times and ratios."""
    lines = []
    for entry in entries:
        cells = [entry["model"], str(entry["threads"])]
        cells.append(figure(median(entry, OURS)) if OURS in entry["rounds"] else "–")
        for peer in PEERS:
            if peer not in entry["rounds"]:
                cells.append("–")
                continue
            cell = figure(median(entry, peer))
            if found := ratios(entry, peer):
                cell += f": {lower_quartile(found):.2f}, {statistics.median(found):.2f}"
            difference = entry["differences"].get(peer)
            cells.append(cell + (" †" if difference is None or difference > TOLERANCE else ""))
        lines.append(cells)
    return rows(["model", "threads", "infer-embed", *(LABELS[peer] for peer in PEERS)], lines)


def loads(entries):
    """Loading, the first inference and memory, with one thread."""
    lines = []
    for entry in entries:
        if entry["threads"] != 1:
            continue
        cells = [entry["model"]]
        for engine in LABELS:
            loaded = entry["loaded"].get(engine)
            peak = entry["peak_mib"].get(engine)
            if loaded is None or peak is None:
                cells.append("–")
            else:
                cells.append(f"{figure(loaded['load_ms'])} + {figure(loaded['first_ms'])}, {peak:.0f}")
        lines.append(cells)
    return rows(["model", *LABELS.values()], lines)


def memory(entries):
    """The most memory that infer-embed holds with one thread, and what it consists of, in MiB."""
    lines = []
    for entry in entries:
        parts = entry["loaded"].get(OURS, {}).get("memory")
        if entry["threads"] != 1 or not parts:
            continue
        names = ("weight_bytes", "arena_bytes", "prepared_bytes", "port_bytes")
        known = [parts.get(name, 0) / 2**20 for name in names]
        held, limit = entry["peak_mib"][OURS], sum(known) + OTHER_MEMORY_MIB
        lines.append([entry["model"], *(f"{value:.1f}" for value in (*known, held, limit))])
    return rows(["model", "weights", "arena", "transformed weights", "inputs, outputs", "most held", "at most"], lines)


def busy(entries):
    """Beside busy processes."""
    lines = []
    for entry in entries:
        cells = [entry["model"], str(entry["threads"]), str(entry["busy"])]
        for engine in LABELS:
            if engine not in entry["loaded"]:
                cells.append("–")
                continue
            alone, beside = (statistics.median(entry[when][engine]) for when in ("alone", "beside"))
            cells.append(f"{figure(alone)} → {figure(beside)}: {beside / alone:.2f}")
        lines.append(cells)
    return rows(["model", "threads", "busy processes", *LABELS.values()], lines)


def callers(entries):
    """Many threads that call one model."""
    lines = []
    for entry in entries:
        cells = [entry["model"], str(entry["threads"]), str(entry["callers"])]
        for engine in LABELS:
            if engine not in entry["loaded"]:
                cells.append("–")
                continue
            one, many = (statistics.median(entry[when][engine]) for when in ("one", "many"))
            cells.append(f"{one:.4g} → {many:.4g}: {many / one:.2f}")
        lines.append(cells)
    return rows(["model", "threads", "callers", *LABELS.values()], lines)


def start(entries):
    """From a process's start to its first output."""
    lines = []
    for entry in entries:
        found = entry["medians"]
        times = (figure(found[engine]) if engine in found else "–" for engine in LABELS)
        lines.append([entry["model"], str(entry["threads"]), *times])
    return rows(["model", "threads", *LABELS.values()], lines)


def sizes(entry):
    """What each engine adds to an application."""
    return rows(["", "bytes"], [[what, f"{size:,}"] for what, size in entry.items()])


def document(results):
    """All that docs/benchmarks.md says of the results."""
    text = ""
    machine = results.get("machine")
    if machine:
        versions = "; ".join(f"{LABELS[engine]} {version}" for engine, version in results["versions"].items())
        text += f"Machine: {machine['cores']} cores of {machine['processor']}. {versions}.\n\n"
    entries = order(results.get("speed", {}))
    for isa in sorted({entry.get("isa") or "" for entry in entries}):
        part = [entry for entry in entries if (entry.get("isa") or "") == isa]
        rounds, seconds = part[0]["count"], part[0]["seconds"]
        text += f"**Speed**{f', --isa {isa}' if isa else ''}: median latency in ms of {rounds} rounds of {seconds} s; after "
        text += "the colon how many times as long a peer takes as infer-embed, lower quartile and median of the rounds.\n\n"
        if all(entry.get("quiet") for entry in part):
            text += "Turns were measured again where others disturbed the machine, as `--quiet` says.\n\n"
        text += speed(part) + "\n"
        if any(cells.endswith("† |") or "† |" in cells for cells in speed(part).splitlines()):
            text += f"† Its output differs from the reference by more than {TOLERANCE:g} of the largest element.\n\n"
        for engine, reason in sorted({pair for entry in part for pair in entry["failures"].items()}):
            text += f"{LABELS[engine]} does not run all: {reason}\n\n"
        if isa:
            kinds = ", ".join(sorted({kind for entry in part for kind in entry.get("openvino_kernels", {})}))
            if any(entry.get("sees_avx512", True) for entry in part):
                text += "By settings alone: ONNX Runtime, rten and the products of OpenVINO by MLAS take what the processor has. "
            else:
                text += "No process finds AVX-512, which CPUID does not report to them. "
            text += f"Kernels of OpenVINO: {kinds}.\n\n"
        else:
            text += "**Load + first inference, ms; most memory held, MiB**, one thread. infer-embed opens a compiled plan, which "
            text += "in an application is a part of the program; the others read and prepare the model.\n\n"
            text += loads(part) + "\n"
            text += "**Memory** of infer-embed, MiB, one thread: as stored in the plan; for one inference; what opening the plan makes of "
            text += "weights for Winograd's algorithm; what the caller gives and gets; the most that the process held, and what it should hold: these and "
            text += f"{OTHER_MEMORY_MIB} MiB.\n\n" + memory(part) + "\n"
    if found := order(results.get("start", {})):
        text += "**Start to first result**: from the start of a process to its first output, ms, files in the page cache, "
        text += "median of 20 rounds.\n\n" + start(found) + "\n"
    if found := order(results.get("busy", {})):
        text += "**Beside busy processes**: median latency in ms alone → beside them: how many times as long.\n\n"
        text += busy(found) + "\n"
    if found := order(results.get("callers", {})):
        text += "**Many callers of one model**: inferences a second of one caller → of many at once: how many times as many.\n\n"
        text += callers(found) + "\n"
    if found := results.get("size"):
        text += "**Size** of stripped programs, and of the libraries that the others open.\n\n" + sizes(found) + "\n"
    return text


def replace(path, begin, end, text):
    """Puts TEXT between two marks in the document at PATH."""
    before, rest = path.read_text().split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def write(results, path):
    """Writes the tables between their marks in the document at PATH."""
    replace(path, BEGIN, END, document(results).rstrip("\n") + "\n")


def misses(results):
    """What lies below its floor."""
    entries = [entry for entry in order(results.get("speed", {})) if not entry.get("isa")]
    measured = {entry["model"] for entry in entries if OURS in entry["rounds"]}
    yield from (f"{name}: not measured" for name in prepare.MODELS if name not in measured)
    for entry in entries:
        for peer in PEERS:
            floor = FLOORS[entry["model"]].get(peer, OTHER_FLOOR)
            found = ratios(entry, peer)
            if found and lower_quartile(found) < floor:
                yield (
                    f"{entry['model']}, {entry['threads']} threads, {LABELS[peer]}: {lower_quartile(found):.2f}, floor {floor:g}"
                )
        differences = entry["differences"].items()
        for engine, difference in differences:
            if engine == OURS and not difference <= TOLERANCE:
                yield f"{entry['model']}: the output differs from the reference by {difference:.1e}"
