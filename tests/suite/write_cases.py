#!/usr/bin/env python3
"""Writes the backend test suite of the installed onnx package, for `infer conformance`.

    python3 -m venv target/venv && target/venv/bin/pip install onnx==1.23.2 ml_dtypes
    target/venv/bin/python tests/suite/write_cases.py FOLDER

A case becomes FOLDER/<group>/<case>/model.onnx with test_data_set_<i>/{input,output}_<j>.pb beside it, and tolerance.json
where the package states one. Cases of the package's Python code are made afresh (group node and others); those that it
ships as files are copied.
"""
import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend import test as backend_test
from onnx.backend.test.case.model import collect_testcases as collect_models
from onnx.backend.test.case.node import collect_testcases as collect_nodes
from onnx.backend.test.runner import Runner


def message(value, info):
    """The protobuf message of a value that the graph declares as `info`."""
    if isinstance(value, onnx.TensorProto):
        return value
    convert = {
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
        "map_type": numpy_helper.from_dict,
    }.get(info.type.WhichOneof("value"))
    return convert(value, info.name) if convert else numpy_helper.from_array(np.asarray(value), info.name)


def fed(graph):
    """The inputs that a run has to feed: those without an initializer."""
    known = {tensor.name for tensor in graph.initializer}
    return [info for info in graph.input if info.name not in known]


def write(folder, case):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    (folder / "tolerance.json").write_text(json.dumps({"rtol": case.rtol, "atol": case.atol}))
    graph = case.model.graph
    for number, data_set in enumerate(case.data_sets):
        data = folder / f"test_data_set_{number}"
        data.mkdir(exist_ok=True)
        for kind, values, infos in zip(("input", "output"), data_set, (fed(graph) or graph.input, graph.output)):
            for position, value in enumerate(values):
                proto = message(value, infos[min(position, len(infos) - 1)])
                (data / f"{kind}_{position}.pb").write_bytes(proto.SerializeToString())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    for case in [*collect_nodes(None), *collect_models()]:
        if case.model is not None and case.data_sets is not None:
            write(out / case.kind / case.name, case)
    shipped = pathlib.Path(backend_test.__file__).parent / "data"
    for group in ("simple", "pytorch-converted", "pytorch-operator"):
        for folder in sorted((shipped / group).iterdir()):
            if not (out / group / folder.name).exists():
                shutil.copytree(folder, out / group / folder.name)
    for model in sorted((shipped / "light").glob("*.onnx")):
        folder = out / "light" / model.stem
        data = folder / "test_data_set_0"
        data.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, folder / "model.onnx")
        shutil.copy(model.with_name(f"{model.stem}_output_0.pb"), data / "output_0.pb")
        for position, info in enumerate(fed(onnx.load(model).graph)):
            # What the shipped output belongs to.
            value = Runner.generate_dummy_data(info, seed=0, name=model.stem, random=False)
            (data / f"input_{position}.pb").write_bytes(numpy_helper.from_array(value, info.name).SerializeToString())
    print(len(list(out.glob("*/*/model.onnx"))), "cases in", out)


if __name__ == "__main__":
    main()
