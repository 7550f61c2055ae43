#!/usr/bin/env python3
"""What rounding a model's weights to f16 does to its outputs, by ONNX Runtime in f32.

    target/venv/bin/python tests/models/rounding.py target/cuda-models/ssdlite320.onnx

Beside the model stands a recorded case (`NAME.case0`, as tools/fill_weights.py writes it). For each output: the largest
difference between the model and the same with rounded weights, of the largest element; in how many rows of its last axis but
one, such as boxes, the two differ by more than 1e-2 of that; and how many of these rows are there again in another place.
A model for which this is more than a tolerance cannot meet it in fp16, whoever runs it.
"""
import pathlib
import sys

import numpy
import onnx
import onnxruntime
from onnx import numpy_helper

TOLERANCE = 1e-2


def rounded(model):
    """MODEL with weights of f32 as f16 has them."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(numpy.float16).astype(numpy.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def outputs(model, case):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {value.name: numpy.load(case / f"input_{i}.npy") for i, value in enumerate(session.get_inputs())}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def main():
    path = pathlib.Path(sys.argv[1])
    model, case = onnx.load(path), path.with_suffix(".case0")
    exact = outputs(model, case)
    for name, after in outputs(rounded(model), case).items():
        before = exact[name]
        if before.shape != after.shape:
            print(f"{name}: {before.shape} becomes {after.shape}")
            continue
        largest = float(numpy.abs(before).max()) or 1.0
        rows = [values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1) / largest for values in (before, after)]
        apart = numpy.abs(rows[0] - rows[1]).max(axis=1)
        moved = numpy.flatnonzero(apart > TOLERANCE)
        again = sum(bool((numpy.abs(rows[0] - rows[1][row]).max(axis=1) <= TOLERANCE).any()) for row in moved)
        print(f"{name}: {apart.max():.1e} of the largest; {len(moved)} of {len(apart)} rows differ, {again} of them found elsewhere")


if __name__ == "__main__":
    main()
