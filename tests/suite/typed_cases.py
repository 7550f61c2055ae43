#!/usr/bin/env python3
"""Writes tests/cases.rs and the files of its cases: the cases below, through the attribute.

    target/venv/bin/python tests/suite/typed_cases.py FOLDER

FOLDER is what write_cases.py made. Each case becomes cases/<case>.onnx, a struct and a test; inputs and outputs of more
than INLINE elements become cases/<case>.<port>.pb. The Rust types are those of docs/run-time-shapes.md.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# By family. A case of another group than `node` has the group before it.
CASES = {
    "elementwise": """elu_example pow_types_int32_float32 mod_mixed_sign_int8 clip_min_greater_than_max
        gelu_tanh_1 swiglu_float16 celu_bfloat16 max_uint64""",
    "comparison": "equal_string_broadcast isnan_float16 isinf_negative where_long_example",
    "logic": "and2d xor2d bitshift_left_int8_overflow bitwise_xor_i32_2d bitcast_float64_to_int64",
    "reduction": """reduce_log_sum_exp_keepdims_example reduce_max_empty_set reduce_min_bool_inputs
        reduce_sum_empty_set_non_reduced_axis_zero argmax_default_axis_example_select_last_index
        cumsum_2d_int32 cumprod_1d_reverse_exclusive""",
    "matrix": """einsum_inner_prod einsum_sum_bfloat16 gemm_all_attributes matmulinteger det_2d
        qlinearmatmul_2D_int8_float16""",
    "convolution": """pytorch-converted/Conv1d_pad2size1 basic_conv_with_padding pytorch-converted/Conv3d
        convtranspose_1d basic_deform_conv_without_padding convinteger_without_padding qlinearconv
        causal_conv_with_state_b1_c1_degenerate""",
    "pooling": """averagepool_2d_ceil maxpool_with_argmax_2d_precomputed_strides lppool_2d_dilations
        globalaveragepool_precomputed maxunpool_export_without_output_shape""",
    "normalization": """layer_normalization_2d_axis1 rms_normalization_2d_axis1 group_normalization_example
        instancenorm_example l2normalization_axis_1 softmax_large_number batchnorm_example""",
    "attention": """attention_bidirectional_window attention_4d_softcap_neginf_mask flexattention_score_mod
        rotary_embedding_no_position_ids_rotary_dim linear_attention_linear_t1_no_past""",
    "recurrent": "gru_with_initial_bias lstm_reverse simple_rnn_batchwise",
    "selection": """gathernd_example_int32_batch_dim1 gather_elements_negative_indices
        scatter_elements_with_reduction_max scatternd_max_with_element_indices tensorscatter top_k_uint64
        unique_sorted_with_axis_3d unique_bfloat16_sorted_without_axis nonzero_example compress_default_axis""",
    "shape": """reshape_allowzero_reordered split_zero_size_splits_opset18 tril_out_neg
        constantofshape_int_shape_zero range_float_type_positive_delta onehot_out_of_range_indices
        reversesequence_batch shape_start_greater_than_end simple/expand_shape_model2""",
    "image": """resize_downsample_sizes_nearest_not_larger resize_tf_crop_and_resize_extrapolation_value
        gridsample_bicubic affine_grid_2d roialign_mode_max nonmaxsuppression_two_batches
        image_decoder_decode_png_rgb""",
    "signal": "dft_rfft stft melweightmatrix",
    "text": """string_concat_zero_dimensional string_concat_utf8 string_split_maxsplit string_split_empty_tensor
        regex_full_match_email_domain strnormalizer_export_monday_insensintive_upper_twodim
        simple/strnorm_model_monday_empty_output tfidfvectorizer_tf_batch_uniandbigrams_skip5""",
    "sequence": """sequence_insert_at_front split_to_sequence_2 split_to_sequence_nokeepdims
        sequence_map_add_1_sequence_1_tensor identity_sequence
        simple/sequence_model1 simple/sequence_model6 simple/sequence_model7""",
    "optional": """optional_has_element_empty_optional_input optional_has_element_empty_no_input_optional_input
        optional_get_element_optional_sequence optional_get_element_optional_tensor identity_opt""",
    "control": "if if_seq if_opt loop11 loop13_seq loop16_seq_none scan9_multi_state",
    "training": """nllloss_NCd1_weight_ii sce_mean_weight_ii_log_prob adam_multiple momentum
        simple/gradient_of_add_and_mul training_dropout_zero_ratio_mask""",
    "quantization": """quantizelinear_int4 quantizelinear_e5m2 quantizelinear_uint2 dequantizelinear_float4e2m1
        dequantizelinear_blocked dynamicquantizelinear""",
    "cast": """cast_BFLOAT16_to_FLOAT cast_FLOAT_to_FLOAT16 cast_FLOAT_to_FLOAT8E4M3FN castlike_FLOAT16_to_INT4
        cast_e8m0_FLOAT_to_FLOAT8E8M0 cast_UINT2_to_UINT8""",
    "ml": """ai_onnx_ml_label_encoder_string_int ai_onnx_ml_tree_ensemble_set_membership
        ai_onnx_ml_array_feature_extractor ai_onnx_ml_binarizer""",
}

# Arrays of more elements are stored in a file.
INLINE = 32

RUST = {
    TensorProto.FLOAT: "f32", TensorProto.DOUBLE: "f64", TensorProto.FLOAT16: "f16", TensorProto.BFLOAT16: "bf16",
    TensorProto.BOOL: "bool", TensorProto.STRING: "String",
    TensorProto.INT8: "i8", TensorProto.INT16: "i16", TensorProto.INT32: "i32", TensorProto.INT64: "i64",
    TensorProto.UINT8: "u8", TensorProto.UINT16: "u16", TensorProto.UINT32: "u32", TensorProto.UINT64: "u64",
    TensorProto.INT4: "i8", TensorProto.INT2: "i8", TensorProto.UINT4: "u8", TensorProto.UINT2: "u8",
    TensorProto.FLOAT8E4M3FN: "u8", TensorProto.FLOAT8E4M3FNUZ: "u8", TensorProto.FLOAT8E5M2: "u8",
    TensorProto.FLOAT8E5M2FNUZ: "u8", TensorProto.FLOAT8E8M0: "u8", TensorProto.FLOAT4E2M1: "u8",
}
SIGNED, UNSIGNED = (TensorProto.INT4, TensorProto.INT2), (TensorProto.UINT4, TensorProto.UINT2)
PACKED = (*SIGNED, *UNSIGNED, TensorProto.FLOAT4E2M1)
FLOAT_BITS = {name for name, rust in RUST.items() if rust == "u8" and "FLOAT" in TensorProto.DataType.Name(name)}
KEYWORDS = set("if loop match move ref self type use where while yield in for fn box do".split())


def snake(name, kind):
    """The identifier that the attribute makes of the name of an input or output."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    plain = re.sub(r"[^A-Za-z0-9]+", "_", spaced).strip("_").lower()
    plain = f"{kind}_{plain}" if plain[:1].isdigit() else plain
    return f"{plain}_" if plain in KEYWORDS else plain


def identifiers(names, kind, taken=()):
    taken, unique = set(taken), []
    for name in names:
        plain = candidate = snake(name, kind)
        count = 1
        while candidate in taken:
            count += 1
            candidate = f"{plain}_{count}"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def proto_class(kind):
    return {
        "tensor_type": onnx.TensorProto, "sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto,
    }[kind]


def read(path, kind):
    proto = proto_class(kind)()
    proto.ParseFromString(path.read_bytes())
    return proto


def extents(tensor_type):
    """The declared extents, or None where one is missing."""
    if not tensor_type.HasField("shape"):
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor_type.shape.dim]
    return None if None in dims else dims


def bind(ty, sizes):
    """Gives symbolic dimensions of the type their sizes."""
    kind = ty.WhichOneof("value")
    if kind != "tensor_type":
        return bind(getattr(ty, kind).elem_type, sizes)
    for dim in ty.tensor_type.shape.dim:
        if dim.dim_param in sizes:
            dim.dim_value = sizes[dim.dim_param]


def literal(element, dtype):
    rust = RUST[dtype]
    if rust == "String":
        text = element.decode() if isinstance(element, bytes) else str(element)
        return json.dumps(text, ensure_ascii=False)
    if rust == "bool":
        return "true" if element else "false"
    if rust in ("f16", "bf16"):
        element, rust = np.float32(element), "f32"
    if rust not in ("f32", "f64"):
        return str(int(element))
    if np.isnan(element):
        return f"{rust}::NAN"
    if np.isinf(element):
        return f"{rust}::INFINITY" if element > 0 else f"{rust}::NEG_INFINITY"
    return str(element)


def wrapped(dtype):
    """The function that makes an element of a literal, or None."""
    return {"String": "str::to_owned", "f16": "f16::from_f32", "bf16": "bf16::from_f32"}.get(RUST[dtype])


def nested(array, dtype):
    if array.ndim == 0:
        single, function = literal(array[()], dtype), wrapped(dtype)
        return f"{function}({single})" if function else single
    if array.ndim == 1:
        row, function = ", ".join(literal(element, dtype) for element in array), wrapped(dtype)
        return f"[{row}].map({function})" if function and len(array) else f"[{row}]"
    return f"[{', '.join(nested(part, dtype) for part in array)}]"


def to_array(proto):
    """The array, of types without one in numpy as they are stored."""
    array = numpy_helper.to_array(proto)
    if proto.data_type in FLOAT_BITS:
        return array.view(np.uint8)
    if proto.data_type in SIGNED:
        return array.astype(np.int8)
    if proto.data_type in UNSIGNED:
        return array.astype(np.uint8)
    return array


def is_large(proto):
    """Whether the array goes to a file. Types narrower than a byte are packed there, and stay."""
    return np.prod(proto.dims, dtype=int) > INLINE and proto.data_type not in PACKED


def array_type(dtype, shape):
    ty = RUST[dtype]
    for extent in reversed(shape):
        ty = f"[{ty}; {extent}]"
    return ty


def owned(ty, inside):
    """The Rust type of an output, but for the box around an array; or of what is inside of another value."""
    kind = ty.WhichOneof("value")
    if kind == "optional_type":
        return f"Option<{owned(ty.optional_type.elem_type, True)}>"
    if kind == "sequence_type":
        return f"Vec<{owned(ty.sequence_type.elem_type, True)}>"
    dtype, shape = ty.tensor_type.elem_type, extents(ty.tensor_type)
    if shape is None:
        return f"Tensor<{RUST[dtype]}>"
    array = array_type(dtype, shape)
    return f"Box<{array}>" if inside and shape else array


class Case:
    def __init__(self, suite, name):
        group, _, bare = name.rpartition("/")
        self.source = suite / (group or "node") / f"test_{bare}"
        self.name = bare
        self.function = snake(bare, "case")
        self.struct = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", bare))
        self.stored = []

    def large(self, proto, port, shape=None):
        """The stored array as an expression."""
        file = f"{self.name}.{port}.pb"
        assert proto.HasField("raw_data") and RUST[proto.data_type] != "String", file
        self.stored.append((file, proto.SerializeToString()))
        ty = array_type(proto.data_type, proto.dims if shape is None else shape)
        return f'stored::<{ty}>(include_bytes!("../cases/{file}"))'

    def value(self, ty, proto, port, place):
        """The value as an expression. `place` is `in` a parameter, an output `field`, or `inside` of another."""
        kind = ty.WhichOneof("value")
        if kind == "optional_type":
            inner = ty.optional_type.elem_type
            if isinstance(proto, onnx.OptionalProto):
                field = "tensor_value" if inner.WhichOneof("value") == "tensor_type" else "sequence_value"
                if not proto.HasField(field):
                    return "None"
                proto = getattr(proto, field)
            return f"Some({self.value(inner, proto, port, 'inside' if place == 'field' else place)})"
        if kind == "sequence_type":
            inner = ty.sequence_type.elem_type
            parts = [self.value(inner, part, port, "inside") for part in proto.tensor_values]
            return f"{'' if place == 'in' else 'vec!'}[{', '.join(parts)}]"
        tensor, array = ty.tensor_type, to_array(proto)
        assert tensor.elem_type == proto.data_type, (self.name, port)
        shape = extents(tensor)
        if shape is None:
            shape, flat = list(array.shape), array.reshape(-1)
            if is_large(proto):
                data = f"*{self.large(proto, port, [array.size])}"
            elif array.size > 12 and array.ndim > 1:
                data = f"{nested(array.reshape(-1, array.shape[-1]), proto.data_type)}.concat()"
            else:
                data = nested(flat, proto.data_type)
            return f"Tensor::new({shape}, {data}).unwrap()"
        assert shape == list(array.shape), (self.name, port)
        if is_large(proto):
            return self.large(proto, port)
        if RUST[proto.data_type] == "String" and not shape and place == "in":
            return literal(array[()], proto.data_type)
        text = nested(array, proto.data_type)
        return f"Box::new({text})" if place == "inside" and shape else text

    def argument(self, ty, proto, name):
        """The statement that defines an input, or nothing, and what is passed to `infer`."""
        text, pattern = self.value(ty, proto, name, "in"), "&{}"
        if text == "None":
            return "", text
        if ty.WhichOneof("value") == "optional_type":
            ty, text, pattern = ty.optional_type.elem_type, text.removeprefix("Some(")[:-1], "Some(&{})"
        spelled = owned(ty, False)
        if ty.WhichOneof("value") == "sequence_type":
            proto = getattr(proto, "sequence_value", proto)
            spelled = f"[{owned(ty.sequence_type.elem_type, True)}; {len(proto.tensor_values)}]"
        if text.startswith('"'):
            spelled, pattern = "&str", pattern.replace("&", "")
        if text.startswith("stored"):
            return f"let {name} = {text};", pattern.format(name)
        return f"let {name}: {spelled} = {text};", pattern.format(name)

    def code(self):
        model = onnx.load(self.source / "model.onnx")
        graph = model.graph
        known = {tensor.name for tensor in graph.initializer}
        inputs = [info for info in graph.input if info.name not in known]
        data = self.source / "test_data_set_0"
        tolerance = json.loads((self.source / "tolerance.json").read_text()) if (
            self.source / "tolerance.json").exists() else {"rtol": 1e-3, "atol": 1e-7}
        within = (tolerance["rtol"], tolerance["atol"])

        protos = [read(data / f"input_{i}.pb", info.type.WhichOneof("value")) for i, info in enumerate(inputs)]
        sizes = {
            dim.dim_param: size
            for info, proto in zip(inputs, protos) if info.type.HasField("tensor_type")
            for dim, size in zip(info.type.tensor_type.shape.dim, proto.dims) if dim.dim_param
        }
        for info in [*inputs, *graph.output]:
            bind(info.type, sizes)

        lines, arguments = [], []
        names = identifiers([info.name for info in inputs], "input", ["outputs"])
        for info, proto, name in zip(inputs, protos, names):
            # A name of digits alone is a parameter's, but hardly a variable's.
            name = f"input{name}" if name.startswith("_") else name
            line, argument = self.argument(info.type, proto, name)
            lines.append(line)
            arguments.append(argument)
        lines.append(f"let outputs = {self.struct}::new().unwrap().infer({', '.join(arguments)}).unwrap();")
        fields = identifiers([info.name for info in graph.output], "output")
        for i, (info, name) in enumerate(zip(graph.output, fields)):
            proto = read(data / f"output_{i}.pb", info.type.WhichOneof("value"))
            expected = self.value(info.type, proto, name, "field")
            if expected.startswith("stored"):
                expected = "*stored" + expected[expected.index("("):]
            ty, values = owned(info.type, False), f'"{name}", &outputs.{name}, &{expected}'
            default = within == (1e-3, 1e-7)
            lines.append(f"check::<{ty}>({values});" if default else f"check_within::<{ty}>({within}, {values});")
        body = "\n".join(line for line in lines if line)
        dims = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        dims = f", dims({dims})" if dims else ""
        return (
            f'#[model("cases/{self.name}.onnx"{dims})]\nstruct {self.struct};\n\n'
            f"#[test]\nfn {self.function}() {{\n{body}\n}}\n"
        )


HEAD = """//! Cases of the ONNX backend suite through the attribute.
//!
//! Made by `target/venv/bin/python tests/suite/typed_cases.py FOLDER`, with FOLDER as `write_cases.py` wrote it.
"""


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    suite, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
    cases = here / "cases"
    shutil.rmtree(cases, ignore_errors=True)
    cases.mkdir()
    modules, count = [HEAD], 0
    for family, names in CASES.items():
        codes = []
        for case in (Case(suite, name) for name in names.split()):
            codes.append(case.code())
            shutil.copy(case.source / "model.onnx", cases / f"{case.name}.onnx")
            for file, data in case.stored:
                (cases / file).write_bytes(data)
            count += 1
        text = "\n".join(codes)
        used = [name for name in ("Tensor", "bf16", "f16") if re.search(rf"\b{name}\b", text)]
        helpers = [name for name in ("check", "check_within", "stored") if re.search(rf"\b{name}\b[(:]", text)]
        modules.append(
            f"mod {family} {{\nuse infer_embed::{{{', '.join([*used, 'model'])}}};\n"
            f"use suite_tests::{{{', '.join(helpers)}}};\n\n{text}}}\n"
        )
    path = here / "tests" / "cases.rs"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(modules))
    subprocess.run(["rustfmt", "--edition", "2024", path], check=True)
    size = sum(file.stat().st_size for file in cases.iterdir())
    print(f"{count} cases of {len(CASES)} families, {size} bytes, {len(path.read_text().splitlines())} lines")


if __name__ == "__main__":
    main()
