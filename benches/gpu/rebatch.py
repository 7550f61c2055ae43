"""The same graph for another batch, which stands in its shapes.

    rebatch.py IN OUT BATCH
"""
import sys

import onnx
from onnx import numpy_helper


def rebatched(model, batch):
    """MODEL with inputs, outputs and the constants of reshapes for BATCH."""
    del model.graph.value_info[:]
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    for node in model.graph.node:
        if node.op_type != "Constant":
            continue
        tensor = node.attribute[0].t
        elements = numpy_helper.to_array(tensor)
        is_shape = elements.dtype.name == "int64" and elements.ndim == 1 and elements.size >= 3
        if is_shape and elements[0] == 1:
            elements = elements.copy()
            elements[0] = batch
            tensor.CopyFrom(numpy_helper.from_array(elements, tensor.name))
    return model


if __name__ == "__main__":
    source, target, batch = sys.argv[1:]
    onnx.save(rebatched(onnx.load(source), int(batch)), target)
