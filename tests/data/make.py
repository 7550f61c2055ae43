"""Writes the models of this folder, and ONNX Runtime's outputs for them.

    python make.py        (needs onnx, onnxruntime and numpy)

`NAME.onnx` is a model, `CASE/input_0.bin`, `CASE/output_0.bin`, … are inputs and what ONNX Runtime computes from them, in the
model's order: bare elements, row-major and little-endian. Weights and inputs come from seeded generators.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent


class Graph:
    """A model under construction: each method adds a node and gives the name of its output."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.initializers = [], []

    def constant(self, values, dtype=None):
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def ints(self, *values):
        return self.constant(values, np.int64)

    def weight(self, *shape, fan_in=1, offset=0.0):
        return self.constant(self.random.normal(offset, fan_in**-0.5, shape), np.float32)

    def __call__(self, op_type, *inputs, outputs=None, name=None, **attributes):
        names = outputs or [name or f"{op_type.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"{op_type}_{len(self.nodes)}", **attributes))
        return names if outputs else names[0]

    def save(self, name, opset, inputs, outputs, ir_version=9):
        """A port is a name, an element type and a shape, or a name and a type."""
        def port(name, *ty):
            return helper.make_tensor_value_info(name, *ty) if len(ty) == 2 else helper.make_value_info(name, *ty)

        ports = [[port(*one) for one in ports] for ports in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, name, *ports, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, HERE / f"{name}.onnx")


def record(model, case, inputs):
    """Runs the model unoptimised, so that the outputs are those of its own operators."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(HERE / f"{model}.onnx", options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {port.name: values for port, values in zip(session.get_inputs(), inputs, strict=True)})
    folder = HERE / case
    folder.mkdir(exist_ok=True)
    for kind, arrays in (("input", inputs), ("output", outputs)):
        for index, array in enumerate(arrays):
            array = np.ascontiguousarray(array)
            (folder / f"{kind}_{index}.bin").write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())


def convnet():
    g = Graph(1)

    def conv(x, channels_in, channels_out, kernel=(3, 3), group=1, bias=True, **attributes):
        per_group = channels_in // group
        weight = g.weight(channels_out, per_group, *kernel, fan_in=per_group * kernel[0] * kernel[1])
        biases = [g.weight(channels_out, fan_in=25)] if bias else []
        return g("Conv", x, weight, *biases, kernel_shape=kernel, group=group, **attributes)

    def batch_norm(x, channels):
        scale, bias = g.weight(channels, fan_in=100, offset=1.0), g.weight(channels, fan_in=25)
        mean = g.weight(channels, fan_in=25)
        variance = g.constant(g.random.uniform(0.5, 1.5, channels), np.float32)
        return g("BatchNormalization", x, scale, bias, mean, variance, epsilon=1e-3)

    stem = conv("input.1", 3, 16, strides=[2, 2], pads=[1, 1, 1, 1])
    stem = g("HardSwish", stem)
    # An inverted residual without expansion.
    x = conv(stem, 16, 16, group=16, bias=False, pads=[1, 1, 1, 1])
    x = g("LeakyRelu", batch_norm(x, 16), alpha=0.1)
    x = batch_norm(conv(x, 16, 16, (1, 1), bias=False), 16)
    x = g("Relu", g("Add", x, stem))
    # Squeeze and excite.
    squeezed = g("Relu", conv(g("GlobalAveragePool", x), 16, 4, (1, 1)))
    gate = g("HardSigmoid", conv(squeezed, 4, 16, (1, 1)), alpha=1 / 6, beta=0.5)
    x = g("Mul", x, gate)
    # An output that is read again: four channels a group, then a dilated convolution to 20 channels.
    features = g("Add", conv(x, 16, 16, group=4, pads=[1, 1, 1, 1]), x, name="features/out")
    wide = conv(features, 16, 20, dilations=[2, 2], pads=[2, 2, 2, 2])
    wide = g("Mul", wide, g("Sigmoid", wide))
    # Channels joined and parted at block edges and between them.
    joined = g("Concat", features, wide, axis=1)
    first, second = g("Split", joined, g.ints(20, 16), outputs=["first", "second"], axis=1)
    thirty_two = conv(g("Concat", second, x, axis=1), 32, 32, group=2, auto_pad="SAME_UPPER", strides=[2, 2])
    lower, upper = g("Split", thirty_two, g.ints(16, 16), outputs=["lower", "upper"], axis=1)
    pooled = g("MaxPool", first, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    averaged = g("AveragePool", g("Tanh", lower), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    strided = conv(g("Softplus", x), 16, 16, (5, 5), group=16, strides=[2, 2], pads=[2, 2, 2, 2])
    deep = g("Concat", pooled, averaged, g("Add", upper, strided), axis=1)
    deep = g("Clip", conv(deep, 52, 24, (1, 1)), g.constant(-3, np.float32), g.constant(3, np.float32))
    nearest = g("Resize", deep, "", g.constant([1, 1, 2, 2], np.float32),
                mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    linear = g("Resize", averaged, "", "", g.ints(1, 16, 20, 18), mode="linear")
    x = g("Concat", nearest, linear, features, axis=1)
    x = g("PRelu", conv(x, 56, 16, (1, 1)), g.weight(16, 1, 1))
    x = g("ConvTranspose", x, g.weight(16, 6, 2, 2, fan_in=16), g.weight(6, fan_in=25), strides=[2, 2])
    g("Conv", g("Sigmoid", x), g.weight(2, 6, 3, 1, fan_in=18), pads=[1, 0, 1, 0], name="match")
    g.save("convnet", 17, [("input.1", TensorProto.FLOAT, [1, 3, 40, 36])],
           [("match", TensorProto.FLOAT, [1, 2, 40, 36]), ("features/out", TensorProto.FLOAT, [1, 16, 20, 18])])
    record("convnet", "convnet", [np.random.default_rng(11).normal(size=(1, 3, 40, 36)).astype(np.float32)])


def transformer():
    g = Graph(2)
    vocabulary, width, heads, hidden, longest, classes = 40, 32, 4, 64, 24, 10

    def layer_norm(x):
        centred = g("Sub", x, g("ReduceMean", x, axes=[-1]))
        variance = g("ReduceMean", g("Pow", centred, g.constant(2, np.float32)), axes=[-1])
        normal = g("Div", centred, g("Sqrt", g("Add", variance, g.constant(1e-5, np.float32))))
        scaled = g("Mul", normal, g.weight(width, fan_in=100, offset=1.0))
        return g("Add", scaled, g.weight(width, fan_in=25))

    def linear(x, channels_in, channels_out):
        product = g("MatMul", x, g.weight(channels_in, channels_out, fan_in=channels_in))
        return g("Add", g.weight(channels_out, fan_in=25), product)

    def extent(axis):
        return g("Gather", g("Shape", "input_ids"), g.constant(axis, np.int64))

    def shape(*extents):
        return g("Concat", *[g("Unsqueeze", extent, g.ints(0)) for extent in extents], axis=0)

    batch, sequence = extent(0), extent(1)
    positions = g("Slice", g.weight(longest, width), g.ints(0), g("Unsqueeze", sequence, g.ints(0)), g.ints(0))
    x = g("Add", g("Gather", g.weight(vocabulary, width), "input_ids"), positions)
    x = layer_norm(x)
    # Positions to look at: 1 in the mask, shared by all heads and queries.
    mask = g("Cast", "attention_mask", to=TensorProto.BOOL)
    mask = g("Unsqueeze", mask, g.ints(1, 2))

    split = shape(batch, sequence, g.constant(heads, np.int64), g.constant(width // heads, np.int64))
    query, key, value = (g("Reshape", linear(x, width, width), split) for _ in range(3))
    query = g("Transpose", query, perm=[0, 2, 1, 3])
    key = g("Transpose", key, perm=[0, 2, 3, 1])
    value = g("Transpose", value, perm=[0, 2, 1, 3])
    scores = g("Div", g("MatMul", query, key), g.constant((width // heads) ** 0.5, np.float32))
    scores = g("Where", mask, scores, g.constant(-1e9, np.float32))
    attended = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
    attended = g("Reshape", attended, shape(batch, sequence, g.constant(width, np.int64)))
    x = layer_norm(g("Add", x, linear(attended, width, width)))

    y = linear(x, width, hidden)
    erf = g("Erf", g("Div", y, g.constant(2**0.5, np.float32)))
    y = g("Mul", g("Mul", y, g("Add", erf, g.constant(1, np.float32))), g.constant(0.5, np.float32))
    layer_norm_out = g("Add", x, linear(y, hidden, width))
    g("Identity", layer_norm(layer_norm_out), name="last_hidden_state")
    first = g("Gather", "last_hidden_state", g.constant(0, np.int64), axis=1)
    weight = g.weight(classes, width, fan_in=width)
    g("Gemm", g("Tanh", first), weight, g.weight(classes, fan_in=25), name="logits", transB=1, alpha=0.5)
    tokens = ["batch", "seq"]
    g.save("transformer", 13,
           [("input_ids", TensorProto.INT64, tokens), ("attention_mask", TensorProto.INT64, tokens)],
           [("logits", TensorProto.FLOAT, ["batch", classes]),
            ("last_hidden_state", TensorProto.FLOAT, ["batch", "seq", width])])
    for batch in (1, 2):
        random = np.random.default_rng(20 + batch)
        ids = random.integers(0, vocabulary, (batch, 16))
        lengths = random.integers(8, 16, (batch, 1))
        record("transformer", f"transformer_{batch}", [ids, (np.arange(16) < lengths).astype(np.int64)])


def shapes():
    g = Graph(3)
    outputs = []

    def out(name, dtype, shape, value):
        g("Identity", value, name=name)
        outputs.append((name, dtype, shape))

    f16, f32, f64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE
    i32, i64, boolean = TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL
    least = np.iinfo(np.int64).min

    positive = g("Greater", "x", g.constant(0, np.float32))
    out("both", boolean, [3, 4, 5], g("And", positive, "flags"))
    close = g("LessOrEqual", g("Abs", "x"), g("Cast", "scale", to=f32))
    out("differ", boolean, [3, 4, 5], g("Xor", g("Not", positive), close))
    out("chosen", f32, [3, 4, 5], g("Where", "flags", "x", g("Neg", "x")))
    out("best", i64, [3, 5], g("ArgMax", "x", axis=1, keepdims=0))
    out("worst", i64, [3, 4, 1], g("ArgMin", "x", axis=-1, keepdims=1))
    # Axis 2 from the last element down to the first in steps of two, axis 1 from the third down to the second.
    backwards = g("Slice", "x", g.ints(-1, 2), g.ints(least, 0), g.ints(2, 1), g.ints(-2, -1))
    out("backwards", f32, [3, 2, 3], backwards)
    pads = g.ints(0, 1, 2, 0, 2, 1)
    out("reflected", f32, [3, 7, 8], g("Pad", "x", pads, mode="reflect"))
    out("extended", f32, [3, 7, 8], g("Pad", "x", pads, mode="edge"))
    out("framed", i64, [5, 5], g("Pad", "ids", g.ints(1, -1, 0, 1), g.constant(-7, np.int64)))
    out("tiled", i64, [8, 10], g("Tile", "ids", g.ints(2, 2)))
    out("expanded", f64, [4, 2, 3], g("Expand", "doubles", g.ints(4, 1, 3)))
    # Indices of either sign into axis 1 of `x`.
    indices = g("Div", "ids", g.ints(13))
    out("gathered", f32, [3, 4, 5, 5], g("Gather", "x", indices, axis=1))
    tenths = g("Cast", g("Mul", "x", g.constant(10, np.float32)), to=i32)
    doubled = g("Mul", g("Cast", tenths, to=f64), g.constant(0.125, np.float64))
    out("tenths", i32, [3, 4, 5], tenths)
    out("eighths", f16, [3, 4, 5], g("Cast", doubled, to=f16))
    widened = g("Cast", "halves", to=f32)
    out("nonzero", boolean, [6, 3], g("Cast", g("Cast", widened, to=i64), to=boolean))
    out("turned", f16, [3, 9], g("Concat", g("Transpose", "halves"), g.constant(np.eye(3), np.float16), axis=1))
    out("quotients", i64, [4, 5], g("Div", g("Mul", "ids", g.ints(-3)), g.ints(2)))
    out("sums", i64, [5], g("ReduceSum", "ids", g.ints(0), keepdims=0))
    out("means", f64, [1, 3], g("ReduceMean", g("Sqrt", g("Abs", "doubles")), axes=[0]))
    out("peaks", f32, [4], g("ReduceMax", "x", axes=[0, 2], keepdims=0))
    out("norms", f32, [3, 1, 5], g("ReduceL2", "x", axes=[1]))
    scaled = g("Mul", "x", "scale")
    out("total", f32, [], g("ReduceSum", scaled, keepdims=0))
    g.save("shapes", 17,
           [("x", f32, [3, 4, 5]), ("flags", boolean, [3, 1, 5]), ("ids", i64, [4, 5]), ("doubles", f64, [2, 3]),
            ("halves", f16, [6, 3]), ("scale", f32, [])], outputs)
    random = np.random.default_rng(31)
    record("shapes", "shapes", [
        random.normal(size=(3, 4, 5)).astype(np.float32),
        random.random((3, 1, 5)) < 0.5,
        random.integers(-50, 50, (4, 5)),
        random.normal(size=(2, 3)),
        (random.integers(-4, 5, (6, 3)) / 2).astype(np.float16),
        np.array(0.75, np.float32),
    ])


def run_time():
    """Models with types or shapes that only the run knows; their tests compute what they expect."""
    f32, i64, boolean, string = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING

    g = Graph(41)
    g("NonZero", g("Relu", "x", name="y"), name="positions")
    g.save("nonzero", 17, [("x", f32, [3, 4])], [("y", f32, [3, 4]), ("positions", i64, [2, "count"])])

    g = Graph(42)
    g("Reshape", g("Neg", "x"), "shape", name="y")
    g.save("reshape", 17, [("x", f32, [6]), ("shape", i64, [2])], [("y", f32, [2, 3])])

    g = Graph(43)
    g("Concat", "names", g("Unsqueeze", "word", g.ints(0)), name="joined", axis=0)
    g("Gather", "names", "index", name="chosen", axis=0)
    g("Equal", "names", "chosen", name="same")
    g("Compress", "names", g("Not", "same"), name="kept", axis=0)
    g.save("strings", 20, [("names", string, [3]), ("word", string, []), ("index", i64, [])],
           [("joined", string, [4]), ("chosen", string, []), ("same", boolean, [3]), ("kept", string, ["kept"])])

    floats = helper.make_tensor_type_proto(f32, ["n"])
    g = Graph(44)
    g("SplitToSequence", "x", g.constant(2, np.int64), name="pieces")
    g("ConcatFromSequence", "parts", name="joined", axis=0)
    g.save("sequences", 17, [("x", f32, [5]), ("parts", helper.make_sequence_type_proto(floats))],
           [("pieces", helper.make_sequence_type_proto(floats)), ("joined", f32, ["n"])])

    pair = helper.make_optional_type_proto(helper.make_tensor_type_proto(f32, [2]))
    result = [helper.make_tensor_value_info("result", f32, [2])]
    there = helper.make_graph([helper.make_node("OptionalGetElement", ["x"], ["result"])], "there", [], result)
    zeros = numpy_helper.from_array(np.zeros(2, np.float32), "zeros")
    missing = helper.make_graph([helper.make_node("Identity", ["zeros"], ["result"])], "missing", [], result, [zeros])
    g = Graph(45)
    g("If", g("OptionalHasElement", "x", name="given"), name="y", then_branch=there, else_branch=missing)
    g("Identity", "x", name="same")
    g.save("optionals", 18, [("x", pair)], [("y", f32, [2]), ("given", boolean, []), ("same", pair)])

    result = [helper.make_tensor_value_info("result", f32, ["n"])]
    whole = helper.make_graph([helper.make_node("Neg", ["x"], ["result"])], "whole", [], result)
    first = numpy_helper.from_array(np.array([0], np.int64), "first")
    part = helper.make_graph([helper.make_node("Gather", ["x", "first"], ["result"])], "part", [], result, [first])
    g = Graph(46)
    g("If", "all", name="y", then_branch=whole, else_branch=part)
    g.save("branches", 17, [("all", boolean, []), ("x", f32, [3])], [("y", f32, ["n"])])

    scores = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(f32, []))
    g = Graph(47)
    scores = ("scores", helper.make_sequence_type_proto(scores))
    g("Neg", "x", name="y")
    g.save("maps", 17, [scores, ("x", f32, [2])], [scores, ("y", f32, [2])])

    g = Graph(48)
    g("Transpose", "floats", name="turned")
    g("Transpose", "nibbles", name="nibbles_turned")
    f8, i4 = TensorProto.FLOAT8E4M3FN, TensorProto.INT4
    g.save("small_types", 21, [("floats", f8, [2, 3]), ("nibbles", i4, [2, 3])],
           [("turned", f8, [3, 2]), ("nibbles_turned", i4, [3, 2])], ir_version=10)


def parts():
    """Models with work for a GPU around what runs on the processor."""
    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    g = Graph(51)
    x = g("Relu", g("Conv", "x", g.weight(32, 3, 3, 3, fan_in=27), pads=[1, 1, 1, 1]))
    x = g("Relu", g("Conv", x, g.weight(32, 32, 3, 3, fan_in=144), pads=[1, 1, 1, 1]))
    scale = g.constant(1 / 64, np.float32)
    x = g("QuantizeLinear", x, scale, name="levels", output_dtype=TensorProto.FLOAT8E4M3FN)
    x = g("DequantizeLinear", x, scale)
    x = g("Relu", g("Conv", x, g.weight(48, 32, 3, 3, fan_in=288), pads=[1, 1, 1, 1]))
    g("Conv", x, g.weight(8, 48, 3, 3, fan_in=432), pads=[1, 1, 1, 1], name="y")
    g.save("parts", 21, [("x", f32, [1, 3, 16, 16])], [("y", f32, [1, 8, 16, 16])], ir_version=10)
    record("parts", "parts", [np.random.default_rng(52).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)])

    g = Graph(53)
    x = g("Relu", g("Conv", "x", g.weight(32, 3, 3, 3, fan_in=27), pads=[1, 1, 1, 1]))
    g("Relu", g("Conv", x, g.weight(32, 32, 3, 3, fan_in=288), pads=[1, 1, 1, 1]), name="y")
    g("NonZero", "y", name="positions")
    g.save("found", 17, [("x", f32, [1, 3, 16, 16])],
           [("y", f32, [1, 32, 16, 16]), ("positions", i64, [4, "count"])])


run_time()
parts()
convnet()
transformer()
shapes()
