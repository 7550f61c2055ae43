//! Cases of the ONNX backend suite through the attribute.
//!
//! Made by `target/venv/bin/python tests/suite/typed_cases.py FOLDER`, with FOLDER as `write_cases.py` wrote it.

mod elementwise {
    use infer_embed::{bf16, f16, model};
    use suite_tests::check;

    #[model("cases/elu_example.onnx")]
    struct EluExample;

    #[test]
    fn elu_example() {
        let x: [f32; 3] = [-1.0, 0.0, 1.0];
        let outputs = EluExample::new().unwrap().infer(&x).unwrap();
        check::<[f32; 3]>("y", &outputs.y, &[-1.2642411, 0.0, 1.0]);
    }

    #[model("cases/pow_types_int32_float32.onnx")]
    struct PowTypesInt32Float32;

    #[test]
    fn pow_types_int32_float32() {
        let x: [i32; 3] = [1, 2, 3];
        let y: [f32; 3] = [4.0, 5.0, 6.0];
        let outputs = PowTypesInt32Float32::new().unwrap().infer(&x, &y).unwrap();
        check::<[i32; 3]>("z", &outputs.z, &[1, 32, 729]);
    }

    #[model("cases/mod_mixed_sign_int8.onnx")]
    struct ModMixedSignInt8;

    #[test]
    fn mod_mixed_sign_int8() {
        let x: [i8; 6] = [-4, 7, 5, 4, -7, 8];
        let y: [i8; 6] = [2, -3, 8, -2, 3, 5];
        let outputs = ModMixedSignInt8::new().unwrap().infer(&x, &y).unwrap();
        check::<[i8; 6]>("z", &outputs.z, &[0, -2, 5, 0, 2, 3]);
    }

    #[model("cases/clip_min_greater_than_max.onnx")]
    struct ClipMinGreaterThanMax;

    #[test]
    fn clip_min_greater_than_max() {
        let x: [f32; 3] = [-2.0, 0.0, 6.0];
        let min: f32 = 2.0;
        let max: f32 = 1.0;
        let outputs = ClipMinGreaterThanMax::new().unwrap().infer(&x, &min, &max).unwrap();
        check::<[f32; 3]>("y", &outputs.y, &[1.0, 1.0, 1.0]);
    }

    #[model("cases/gelu_tanh_1.onnx")]
    struct GeluTanh1;

    #[test]
    fn gelu_tanh_1() {
        let x: [f32; 3] = [-1.0, 0.0, 1.0];
        let outputs = GeluTanh1::new().unwrap().infer(&x).unwrap();
        check::<[f32; 3]>("y", &outputs.y, &[-0.158808, 0.0, 0.841192]);
    }

    #[model("cases/swiglu_float16.onnx")]
    struct SwigluFloat16;

    #[test]
    fn swiglu_float16() {
        let a: [[f16; 4]; 2] =
            [[1.0, -2.0, 3.0, 4.0].map(f16::from_f32), [-1.0, 2.0, -3.0, 0.5].map(f16::from_f32)];
        let b: [[f16; 4]; 2] =
            [[0.5, 1.0, -1.0, 2.0].map(f16::from_f32), [2.0, -1.0, 0.5, 1.0].map(f16::from_f32)];
        let outputs = SwigluFloat16::new().unwrap().infer(&a, &b).unwrap();
        check::<[[f16; 4]; 2]>(
            "y",
            &outputs.y,
            &[
                [0.36547852, -0.23840332, -2.8574219, 7.8554688].map(f16::from_f32),
                [-0.53808594, -1.7617188, -0.07116699, 0.3112793].map(f16::from_f32),
            ],
        );
    }

    #[model("cases/celu_bfloat16.onnx")]
    struct CeluBfloat16;

    #[test]
    fn celu_bfloat16() {
        let x: [bf16; 5] = [-3.0, -0.5, 0.0, 0.5, 3.0].map(bf16::from_f32);
        let outputs = CeluBfloat16::new().unwrap().infer(&x).unwrap();
        check::<[bf16; 5]>("y", &outputs.y, &[-1.5546875, -0.44335938, 0.0, 0.5, 3.0].map(bf16::from_f32));
    }

    #[model("cases/max_uint64.onnx")]
    struct MaxUint64;

    #[test]
    fn max_uint64() {
        let data_0: [u64; 3] = [3, 2, 1];
        let data_1: [u64; 3] = [1, 4, 4];
        let outputs = MaxUint64::new().unwrap().infer(&data_0, &data_1).unwrap();
        check::<[u64; 3]>("result", &outputs.result, &[3, 4, 4]);
    }
}

mod comparison {
    use infer_embed::{f16, model};
    use suite_tests::check;

    #[model("cases/equal_string_broadcast.onnx")]
    struct EqualStringBroadcast;

    #[test]
    fn equal_string_broadcast() {
        let x: [String; 2] = ["string1", "string2"].map(str::to_owned);
        let y: [String; 1] = ["string1"].map(str::to_owned);
        let outputs = EqualStringBroadcast::new().unwrap().infer(&x, &y).unwrap();
        check::<[bool; 2]>("z", &outputs.z, &[true, false]);
    }

    #[model("cases/isnan_float16.onnx")]
    struct IsnanFloat16;

    #[test]
    fn isnan_float16() {
        let x: [f16; 6] = [-1.2001953, f32::NAN, f32::INFINITY, 2.8007812, f32::NEG_INFINITY, f32::INFINITY]
            .map(f16::from_f32);
        let outputs = IsnanFloat16::new().unwrap().infer(&x).unwrap();
        check::<[bool; 6]>("y", &outputs.y, &[false, true, false, false, false, false]);
    }

    #[model("cases/isinf_negative.onnx")]
    struct IsinfNegative;

    #[test]
    fn isinf_negative() {
        let x: [f32; 6] = [-1.7, f32::NAN, f32::INFINITY, -3.6, f32::NEG_INFINITY, f32::INFINITY];
        let outputs = IsinfNegative::new().unwrap().infer(&x).unwrap();
        check::<[bool; 6]>("y", &outputs.y, &[false, false, false, false, true, false]);
    }

    #[model("cases/where_long_example.onnx")]
    struct WhereLongExample;

    #[test]
    fn where_long_example() {
        let condition: [[bool; 2]; 2] = [[true, false], [true, true]];
        let x: [[i64; 2]; 2] = [[1, 2], [3, 4]];
        let y: [[i64; 2]; 2] = [[9, 8], [7, 6]];
        let outputs = WhereLongExample::new().unwrap().infer(&condition, &x, &y).unwrap();
        check::<[[i64; 2]; 2]>("z", &outputs.z, &[[1, 8], [3, 4]]);
    }
}

mod logic {
    use infer_embed::model;
    use suite_tests::check;

    #[model("cases/and2d.onnx")]
    struct And2d;

    #[test]
    fn and2d() {
        let x: [[bool; 4]; 3] =
            [[true, true, true, true], [true, false, true, false], [false, true, true, true]];
        let y: [[bool; 4]; 3] =
            [[true, true, true, true], [true, false, true, false], [false, true, true, false]];
        let outputs = And2d::new().unwrap().infer(&x, &y).unwrap();
        check::<[[bool; 4]; 3]>(
            "and",
            &outputs.and,
            &[[true, true, true, true], [true, false, true, false], [false, true, true, false]],
        );
    }

    #[model("cases/xor2d.onnx")]
    struct Xor2d;

    #[test]
    fn xor2d() {
        let x: [[bool; 4]; 3] =
            [[true, true, true, true], [true, false, true, false], [false, true, true, true]];
        let y: [[bool; 4]; 3] =
            [[true, true, true, true], [true, false, true, false], [false, true, true, false]];
        let outputs = Xor2d::new().unwrap().infer(&x, &y).unwrap();
        check::<[[bool; 4]; 3]>(
            "xor",
            &outputs.xor,
            &[[false, false, false, false], [false, false, false, false], [false, false, false, true]],
        );
    }

    #[model("cases/bitshift_left_int8_overflow.onnx")]
    struct BitshiftLeftInt8Overflow;

    #[test]
    fn bitshift_left_int8_overflow() {
        let x: [i8; 3] = [64, 1, -64];
        let y: [i8; 3] = [1, 7, 1];
        let outputs = BitshiftLeftInt8Overflow::new().unwrap().infer(&x, &y).unwrap();
        check::<[i8; 3]>("z", &outputs.z, &[-128, -128, -128]);
    }

    #[model("cases/bitwise_xor_i32_2d.onnx")]
    struct BitwiseXorI322d;

    #[test]
    fn bitwise_xor_i32_2d() {
        let x: [[i32; 4]; 3] = [
            [-356387803, 2135392491, 946286476, 1857819720],
            [-2146992385, -1597193335, -848975157, 2143362693],
            [-1517171889, -1133489216, -1750892400, -444182399],
        ];
        let y: [[i32; 4]; 3] = [
            [-356387803, 2135392491, 946286476, 1857819720],
            [-2146992385, -1597193335, -848975157, 2143362693],
            [-1517171889, -1133489216, -1750892400, -444182399],
        ];
        let outputs = BitwiseXorI322d::new().unwrap().infer(&x, &y).unwrap();
        check::<[[i32; 4]; 3]>(
            "bitwisexor",
            &outputs.bitwisexor,
            &[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        );
    }

    #[model("cases/bitcast_float64_to_int64.onnx")]
    struct BitcastFloat64ToInt64;

    #[test]
    fn bitcast_float64_to_int64() {
        let x: [f64; 3] = [1.0, -2.5, 3.75];
        let outputs = BitcastFloat64ToInt64::new().unwrap().infer(&x).unwrap();
        check::<[i64; 3]>("y", &outputs.y, &[4607182418800017408, -4610560118520545280, 4615626668101337088]);
    }
}

mod reduction {
    use infer_embed::model;
    use suite_tests::check;

    #[model("cases/reduce_log_sum_exp_keepdims_example.onnx")]
    struct ReduceLogSumExpKeepdimsExample;

    #[test]
    fn reduce_log_sum_exp_keepdims_example() {
        let data: [[[f64; 2]; 2]; 3] =
            [[[5.0, 1.0], [20.0, 2.0]], [[30.0, 1.0], [40.0, 2.0]], [[55.0, 1.0], [60.0, 2.0]]];
        let axes: [i64; 1] = [1];
        let outputs = ReduceLogSumExpKeepdimsExample::new().unwrap().infer(&data, &axes).unwrap();
        check::<[[[f64; 2]; 1]; 3]>(
            "reduced",
            &outputs.reduced,
            &[
                [[20.000000305902272, 2.3132616875182226]],
                [[40.00004539889922, 2.3132616875182226]],
                [[60.00671534848912, 2.3132616875182226]],
            ],
        );
    }

    #[model("cases/reduce_max_empty_set.onnx")]
    struct ReduceMaxEmptySet;

    #[test]
    fn reduce_max_empty_set() {
        let data: [[[f32; 4]; 0]; 2] = [[], []];
        let axes: [i64; 1] = [1];
        let outputs = ReduceMaxEmptySet::new().unwrap().infer(&data, &axes).unwrap();
        check::<[[[f32; 4]; 1]; 2]>(
            "reduced",
            &outputs.reduced,
            &[
                [[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY]],
                [[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY]],
            ],
        );
    }

    #[model("cases/reduce_min_bool_inputs.onnx")]
    struct ReduceMinBoolInputs;

    #[test]
    fn reduce_min_bool_inputs() {
        let data: [[bool; 2]; 4] = [[true, true], [true, false], [false, true], [false, false]];
        let axes: [i64; 1] = [1];
        let outputs = ReduceMinBoolInputs::new().unwrap().infer(&data, &axes).unwrap();
        check::<[[bool; 1]; 4]>("reduced", &outputs.reduced, &[[true], [false], [false], [false]]);
    }

    #[model("cases/reduce_sum_empty_set_non_reduced_axis_zero.onnx")]
    struct ReduceSumEmptySetNonReducedAxisZero;

    #[test]
    fn reduce_sum_empty_set_non_reduced_axis_zero() {
        let data: [[[f32; 4]; 0]; 2] = [[], []];
        let axes: [i64; 1] = [2];
        let outputs = ReduceSumEmptySetNonReducedAxisZero::new().unwrap().infer(&data, &axes).unwrap();
        check::<[[[f32; 1]; 0]; 2]>("reduced", &outputs.reduced, &[[], []]);
    }

    #[model("cases/argmax_default_axis_example_select_last_index.onnx")]
    struct ArgmaxDefaultAxisExampleSelectLastIndex;

    #[test]
    fn argmax_default_axis_example_select_last_index() {
        let data: [[f32; 2]; 2] = [[2.0, 2.0], [3.0, 10.0]];
        let outputs = ArgmaxDefaultAxisExampleSelectLastIndex::new().unwrap().infer(&data).unwrap();
        check::<[[i64; 2]; 1]>("result", &outputs.result, &[[1, 1]]);
    }

    #[model("cases/cumsum_2d_int32.onnx")]
    struct Cumsum2dInt32;

    #[test]
    fn cumsum_2d_int32() {
        let x: [[i32; 3]; 2] = [[1, 2, 3], [4, 5, 6]];
        let axis: i32 = 0;
        let outputs = Cumsum2dInt32::new().unwrap().infer(&x, &axis).unwrap();
        check::<[[i32; 3]; 2]>("y", &outputs.y, &[[1, 2, 3], [5, 7, 9]]);
    }

    #[model("cases/cumprod_1d_reverse_exclusive.onnx")]
    struct Cumprod1dReverseExclusive;

    #[test]
    fn cumprod_1d_reverse_exclusive() {
        let x: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];
        let axis: i32 = 0;
        let outputs = Cumprod1dReverseExclusive::new().unwrap().infer(&x, &axis).unwrap();
        check::<[f64; 5]>("y", &outputs.y, &[120.0, 60.0, 20.0, 5.0, 1.0]);
    }
}

mod matrix {
    use infer_embed::{bf16, f16, model};
    use suite_tests::check;

    #[model("cases/einsum_inner_prod.onnx")]
    struct EinsumInnerProd;

    #[test]
    fn einsum_inner_prod() {
        let x: [f64; 5] = [
            1.764052345967664,
            0.4001572083672233,
            0.9787379841057392,
            2.240893199201458,
            1.8675579901499675,
        ];
        let y: [f64; 5] = [
            -0.977277879876411,
            0.9500884175255894,
            -0.1513572082976979,
            -0.10321885179355784,
            0.41059850193837233,
        ];
        let outputs = EinsumInnerProd::new().unwrap().infer(&x, &y).unwrap();
        check::<f64>("z", &outputs.z, &-0.956409566703329);
    }

    #[model("cases/einsum_sum_bfloat16.onnx")]
    struct EinsumSumBfloat16;

    #[test]
    fn einsum_sum_bfloat16() {
        let x: [[bf16; 4]; 3] = [
            [0.0, 1.0, 2.0, 3.0].map(bf16::from_f32),
            [4.0, 5.0, 6.0, 7.0].map(bf16::from_f32),
            [8.0, 9.0, 10.0, 11.0].map(bf16::from_f32),
        ];
        let outputs = EinsumSumBfloat16::new().unwrap().infer(&x).unwrap();
        check::<[bf16; 3]>("y", &outputs.y, &[6.0, 22.0, 38.0].map(bf16::from_f32));
    }

    #[model("cases/gemm_all_attributes.onnx")]
    struct GemmAllAttributes;

    #[test]
    fn gemm_all_attributes() {
        let a: [[f32; 3]; 4] = [
            [0.5488135, 0.71518934, 0.60276335],
            [0.5448832, 0.4236548, 0.6458941],
            [0.4375872, 0.891773, 0.96366274],
            [0.3834415, 0.79172504, 0.5288949],
        ];
        let b: [[f32; 4]; 5] = [
            [0.56804454, 0.92559665, 0.071036056, 0.0871293],
            [0.020218397, 0.83261985, 0.77815676, 0.87001216],
            [0.9786183, 0.7991586, 0.46147937, 0.7805292],
            [0.11827443, 0.639921, 0.14335328, 0.9446689],
            [0.5218483, 0.41466194, 0.2645556, 0.7742337],
        ];
        let c: [[f32; 5]; 1] = [[0.45615032, 0.56843394, 0.0187898, 0.6176355, 0.6120957]];
        let outputs = GemmAllAttributes::new().unwrap().infer(&a, &b, &c).unwrap();
        check::<[[f32; 5]; 3]>(
            "y",
            &outputs.y,
            &[
                [0.37979913, 0.4836736, 0.37501436, 0.42580932, 0.44547832],
                [0.39233345, 0.63644016, 0.52356744, 0.5240351, 0.5636829],
                [0.42334533, 0.63895106, 0.49747032, 0.49676925, 0.5259358],
            ],
        );
    }

    #[model("cases/matmulinteger.onnx")]
    struct Matmulinteger;

    #[test]
    fn matmulinteger() {
        let a: [[u8; 3]; 4] = [[11, 7, 3], [10, 6, 2], [9, 5, 1], [8, 4, 0]];
        let b: [[u8; 2]; 3] = [[1, 4], [2, 5], [3, 6]];
        let a_zero_point: [u8; 1] = [12];
        let b_zero_point: [u8; 1] = [0];
        let outputs = Matmulinteger::new().unwrap().infer(&a, &b, &a_zero_point, &b_zero_point).unwrap();
        check::<[[i32; 2]; 4]>("y", &outputs.y, &[[-38, -83], [-44, -98], [-50, -113], [-56, -128]]);
    }

    #[model("cases/det_2d.onnx")]
    struct Det2d;

    #[test]
    fn det_2d() {
        let x: [[f32; 2]; 2] = [[0.0, 1.0], [2.0, 3.0]];
        let outputs = Det2d::new().unwrap().infer(&x).unwrap();
        check::<f32>("y", &outputs.y, &-2.0);
    }

    #[model("cases/qlinearmatmul_2D_int8_float16.onnx")]
    struct Qlinearmatmul2DInt8Float16;

    #[test]
    fn qlinearmatmul_2d_int8_float16() {
        let a: [[i8; 4]; 2] = [[81, 109, -127, 111], [-124, 87, -128, -98]];
        let a_scale: [f16; 1] = [0.0065994263].map(f16::from_f32);
        let a_zero_point: [i8; 1] = [-14];
        let b: [[i8; 3]; 4] = [[25, -76, 117], [-67, -101, -128], [-127, 0, 119], [0, 127, 120]];
        let b_scale: [f16; 1] = [0.0070495605].map(f16::from_f32);
        let b_zero_point: [i8; 1] = [-13];
        let y_scale: [f16; 1] = [0.010696411].map(f16::from_f32);
        let y_zero_point: [i8; 1] = [-9];
        let outputs = Qlinearmatmul2DInt8Float16::new()
            .unwrap()
            .infer(&a, &a_scale, &a_zero_point, &b, &b_scale, &b_zero_point, &y_scale, &y_zero_point)
            .unwrap();
        check::<[[i8; 3]; 2]>("y", &outputs.y, &[[41, -12, -9], [1, -75, -128]]);
    }
}

mod convolution {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/Conv1d_pad2size1.onnx")]
    struct Conv1dPad2size1;

    #[test]
    fn conv1d_pad2size1() {
        let input_0: [[[f32; 1]; 4]; 1] = [[[-0.7166558], [-0.6134017], [0.37374067], [1.0133213]]];
        let outputs = Conv1dPad2size1::new().unwrap().infer(&input_0).unwrap();
        check::<[[[f32; 1]; 4]; 1]>(
            "_3",
            &outputs.output_3,
            &[[[-0.18891272], [0.35799992], [-0.1878866], [0.054195806]]],
        );
    }

    #[model("cases/basic_conv_with_padding.onnx")]
    struct BasicConvWithPadding;

    #[test]
    fn basic_conv_with_padding() {
        let x: [[[[f32; 5]; 5]; 1]; 1] = [[[
            [0.0, 1.0, 2.0, 3.0, 4.0],
            [5.0, 6.0, 7.0, 8.0, 9.0],
            [10.0, 11.0, 12.0, 13.0, 14.0],
            [15.0, 16.0, 17.0, 18.0, 19.0],
            [20.0, 21.0, 22.0, 23.0, 24.0],
        ]]];
        let w: [[[[f32; 3]; 3]; 1]; 1] = [[[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]];
        let outputs = BasicConvWithPadding::new().unwrap().infer(&x, &w).unwrap();
        check::<[[[[f32; 5]; 5]; 1]; 1]>(
            "y",
            &outputs.y,
            &[[[
                [12.0, 21.0, 27.0, 33.0, 24.0],
                [33.0, 54.0, 63.0, 72.0, 51.0],
                [63.0, 99.0, 108.0, 117.0, 81.0],
                [93.0, 144.0, 153.0, 162.0, 111.0],
                [72.0, 111.0, 117.0, 123.0, 84.0],
            ]]],
        );
    }

    #[model("cases/Conv3d.onnx")]
    struct Conv3d;

    #[test]
    fn conv3d() {
        let input_0 = stored::<[[[[[f32; 5]; 4]; 3]; 3]; 2]>(include_bytes!("../cases/Conv3d.input_0.pb"));
        let outputs = Conv3d::new().unwrap().infer(&input_0).unwrap();
        check::<[[[[[f32; 2]; 2]; 2]; 4]; 2]>(
            "_3",
            &outputs.output_3,
            &*stored(include_bytes!("../cases/Conv3d._3.pb")),
        );
    }

    #[model("cases/convtranspose_1d.onnx")]
    struct Convtranspose1d;

    #[test]
    fn convtranspose_1d() {
        let x: [[[f32; 3]; 1]; 1] = [[[0.0, 1.0, 2.0]]];
        let w: [[[f32; 3]; 2]; 1] = [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]];
        let outputs = Convtranspose1d::new().unwrap().infer(&x, &w).unwrap();
        check::<[[[f32; 5]; 2]; 1]>(
            "y",
            &outputs.y,
            &[[[0.0, 1.0, 3.0, 3.0, 2.0], [0.0, 1.0, 3.0, 3.0, 2.0]]],
        );
    }

    #[model("cases/basic_deform_conv_without_padding.onnx")]
    struct BasicDeformConvWithoutPadding;

    #[test]
    fn basic_deform_conv_without_padding() {
        let x: [[[[f32; 3]; 3]; 1]; 1] = [[[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]]];
        let w: [[[[f32; 2]; 2]; 1]; 1] = [[[[1.0, 1.0], [1.0, 1.0]]]];
        let offset_without_padding: [[[[f32; 2]; 2]; 8]; 1] = [[
            [[0.5, 0.0], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[0.0, -0.1], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 0.0]],
        ]];
        let outputs =
            BasicDeformConvWithoutPadding::new().unwrap().infer(&x, &w, &offset_without_padding).unwrap();
        check::<[[[[f32; 2]; 2]; 1]; 1]>(
            "y_without_padding",
            &outputs.y_without_padding,
            &[[[[9.5, 11.9], [20.0, 24.0]]]],
        );
    }

    #[model("cases/convinteger_without_padding.onnx")]
    struct ConvintegerWithoutPadding;

    #[test]
    fn convinteger_without_padding() {
        let x: [[[[u8; 3]; 3]; 1]; 1] = [[[[2, 3, 4], [5, 6, 7], [8, 9, 10]]]];
        let w: [[[[u8; 2]; 2]; 1]; 1] = [[[[1, 1], [1, 1]]]];
        let x_zero_point: u8 = 1;
        let outputs = ConvintegerWithoutPadding::new().unwrap().infer(&x, &w, &x_zero_point).unwrap();
        check::<[[[[i32; 2]; 2]; 1]; 1]>("y", &outputs.y, &[[[[12, 16], [24, 28]]]]);
    }

    #[model("cases/qlinearconv.onnx")]
    struct Qlinearconv;

    #[test]
    fn qlinearconv() {
        let x = stored::<[[[[u8; 7]; 7]; 1]; 1]>(include_bytes!("../cases/qlinearconv.x.pb"));
        let x_scale: f32 = 0.003692047;
        let x_zero_point: u8 = 132;
        let w: [[[[u8; 1]; 1]; 1]; 1] = [[[[0]]]];
        let w_scale: [f32; 1] = [0.0017279458];
        let w_zero_point: [u8; 1] = [255];
        let y_scale: f32 = 0.0016268126;
        let y_zero_point: u8 = 123;
        let outputs = Qlinearconv::new()
            .unwrap()
            .infer(&x, &x_scale, &x_zero_point, &w, &w_scale, &w_zero_point, &y_scale, &y_zero_point)
            .unwrap();
        check::<[[[[u8; 7]; 7]; 1]; 1]>(
            "y",
            &outputs.y,
            &*stored(include_bytes!("../cases/qlinearconv.y.pb")),
        );
    }

    #[model("cases/causal_conv_with_state_b1_c1_degenerate.onnx")]
    struct CausalConvWithStateB1C1Degenerate;

    #[test]
    fn causal_conv_with_state_b1_c1_degenerate() {
        let input: [[[f32; 6]; 1]; 1] = [[[1.7640524, 0.4001572, 0.978738, 2.2408931, 1.867558, -0.9772779]]];
        let weight: [[[f32; 4]; 1]; 1] = [[[0.95008844, -0.1513572, -0.10321885, 0.41059852]]];
        let outputs = CausalConvWithStateB1C1Degenerate::new().unwrap().infer(&input, &weight).unwrap();
        check::<[[[f32; 6]; 1]; 1]>(
            "output",
            &outputs.output,
            &[[[0.7243173, -0.017779514, 0.09356256, 2.4345222, 0.7675598, -0.0033237396]]],
        );
        check::<[[[f32; 3]; 1]; 1]>(
            "present_state",
            &outputs.present_state,
            &[[[2.2408931, 1.867558, -0.9772779]]],
        );
    }
}

mod pooling {
    use infer_embed::model;
    use suite_tests::check;

    #[model("cases/averagepool_2d_ceil.onnx")]
    struct Averagepool2dCeil;

    #[test]
    fn averagepool_2d_ceil() {
        let x: [[[[f32; 4]; 4]; 1]; 1] = [[[
            [1.0, 2.0, 3.0, 4.0],
            [5.0, 6.0, 7.0, 8.0],
            [9.0, 10.0, 11.0, 12.0],
            [13.0, 14.0, 15.0, 16.0],
        ]]];
        let outputs = Averagepool2dCeil::new().unwrap().infer(&x).unwrap();
        check::<[[[[f32; 2]; 2]; 1]; 1]>("y", &outputs.y, &[[[[6.0, 7.5], [12.0, 13.5]]]]);
    }

    #[model("cases/maxpool_with_argmax_2d_precomputed_strides.onnx")]
    struct MaxpoolWithArgmax2dPrecomputedStrides;

    #[test]
    fn maxpool_with_argmax_2d_precomputed_strides() {
        let x: [[[[f32; 5]; 5]; 1]; 1] = [[[
            [1.0, 2.0, 3.0, 4.0, 5.0],
            [6.0, 7.0, 8.0, 9.0, 10.0],
            [11.0, 12.0, 13.0, 14.0, 15.0],
            [16.0, 17.0, 18.0, 19.0, 20.0],
            [21.0, 22.0, 23.0, 24.0, 25.0],
        ]]];
        let outputs = MaxpoolWithArgmax2dPrecomputedStrides::new().unwrap().infer(&x).unwrap();
        check::<[[[[f32; 2]; 2]; 1]; 1]>("y", &outputs.y, &[[[[7.0, 9.0], [17.0, 19.0]]]]);
        check::<[[[[i64; 2]; 2]; 1]; 1]>("z", &outputs.z, &[[[[6, 16], [8, 18]]]]);
    }

    #[model("cases/lppool_2d_dilations.onnx")]
    struct Lppool2dDilations;

    #[test]
    fn lppool_2d_dilations() {
        let x: [[[[f32; 4]; 4]; 1]; 1] = [[[
            [1.0, 2.0, 3.0, 4.0],
            [5.0, 6.0, 7.0, 8.0],
            [9.0, 10.0, 11.0, 12.0],
            [13.0, 14.0, 15.0, 16.0],
        ]]];
        let outputs = Lppool2dDilations::new().unwrap().infer(&x).unwrap();
        check::<[[[[f32; 2]; 2]; 1]; 1]>(
            "y",
            &outputs.y,
            &[[[[14.56022, 16.248077], [21.633308, 23.49468]]]],
        );
    }

    #[model("cases/globalaveragepool_precomputed.onnx")]
    struct GlobalaveragepoolPrecomputed;

    #[test]
    fn globalaveragepool_precomputed() {
        let x: [[[[f32; 3]; 3]; 1]; 1] = [[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]];
        let outputs = GlobalaveragepoolPrecomputed::new().unwrap().infer(&x).unwrap();
        check::<[[[[f32; 1]; 1]; 1]; 1]>("y", &outputs.y, &[[[[5.0]]]]);
    }

    #[model("cases/maxunpool_export_without_output_shape.onnx")]
    struct MaxunpoolExportWithoutOutputShape;

    #[test]
    fn maxunpool_export_without_output_shape() {
        let x_t: [[[[f32; 2]; 2]; 1]; 1] = [[[[1.0, 2.0], [3.0, 4.0]]]];
        let x_i: [[[[i64; 2]; 2]; 1]; 1] = [[[[5, 7], [13, 15]]]];
        let outputs = MaxunpoolExportWithoutOutputShape::new().unwrap().infer(&x_t, &x_i).unwrap();
        check::<[[[[f32; 4]; 4]; 1]; 1]>(
            "y",
            &outputs.y,
            &[[[[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 4.0]]]],
        );
    }
}

mod normalization {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/layer_normalization_2d_axis1.onnx")]
    struct LayerNormalization2dAxis1;

    #[test]
    fn layer_normalization_2d_axis1() {
        let x: [[f32; 4]; 3] = [
            [1.7640524, 0.4001572, 0.978738, 2.2408931],
            [1.867558, -0.9772779, 0.95008844, -0.1513572],
            [-0.10321885, 0.41059852, 0.14404356, 1.4542735],
        ];
        let w: [f32; 4] = [-0.67246044, -0.35955316, -0.8131463, -1.7262826];
        let b: [f32; 4] = [0.17742614, -0.40178093, -1.6301984, 0.46278226];
        let outputs = LayerNormalization2dAxis1::new().unwrap().infer(&x, &w, &b).unwrap();
        check::<[[f32; 4]; 3]>(
            "y",
            &outputs.y,
            &[
                [-0.21967061, 0.07852867, -1.2084484, -1.7192436],
                [-0.7234887, 0.06466687, -2.0280533, 1.3806628],
                [0.83463955, -0.36187503, -1.1744938, -2.3834014],
            ],
        );
        check::<[[f32; 1]; 3]>("mean", &outputs.mean, &[[1.3459601], [0.42225283], [0.47642416]]);
        check::<[[f32; 1]; 3]>(
            "inv_std_dev",
            &outputs.inv_std_dev,
            &[[1.4123993], [0.92695254], [1.6860834]],
        );
    }

    #[model("cases/rms_normalization_2d_axis1.onnx")]
    struct RmsNormalization2dAxis1;

    #[test]
    fn rms_normalization_2d_axis1() {
        let x: [[f32; 4]; 3] = [
            [1.7640524, 0.4001572, 0.978738, 2.2408931],
            [1.867558, -0.9772779, 0.95008844, -0.1513572],
            [-0.10321885, 0.41059852, 0.14404356, 1.4542735],
        ];
        let w: [f32; 4] = [1.2302907, 1.2023798, -0.3873268, -0.30230275];
        let outputs = RmsNormalization2dAxis1::new().unwrap().infer(&x, &w).unwrap();
        check::<[[f32; 4]; 3]>(
            "y",
            &outputs.y,
            &[
                [1.427057, 0.31636938, -0.24926776, -0.44543603],
                [1.9832929, -1.0142962, -0.31764838, 0.039495736],
                [-0.16692692, 0.6489611, -0.07333834, -0.5778935],
            ],
        );
    }

    #[model("cases/group_normalization_example.onnx")]
    struct GroupNormalizationExample;

    #[test]
    fn group_normalization_example() {
        let x =
            stored::<[[[[f32; 2]; 2]; 4]; 3]>(include_bytes!("../cases/group_normalization_example.x.pb"));
        let scale: [f32; 4] = [-1.6138978, -0.21274029, -0.89546657, 0.3869025];
        let bias: [f32; 4] = [-0.51080513, -1.1806322, -0.028182229, 0.42833188];
        let outputs = GroupNormalizationExample::new().unwrap().infer(&x, &scale, &bias).unwrap();
        check::<[[[[f32; 2]; 2]; 4]; 3]>(
            "y",
            &outputs.y,
            &*stored(include_bytes!("../cases/group_normalization_example.y.pb")),
        );
    }

    #[model("cases/instancenorm_example.onnx")]
    struct InstancenormExample;

    #[test]
    fn instancenorm_example() {
        let x: [[[[f32; 3]; 1]; 2]; 1] = [[[[-1.0, 0.0, 1.0]], [[2.0, 3.0, 4.0]]]];
        let s: [f32; 2] = [1.0, 1.5];
        let bias: [f32; 2] = [0.0, 1.0];
        let outputs = InstancenormExample::new().unwrap().infer(&x, &s, &bias).unwrap();
        check::<[[[[f32; 3]; 1]; 2]; 1]>(
            "y",
            &outputs.y,
            &[[[[-1.2247356, 0.0, 1.2247356]], [[-0.8371035, 1.0, 2.8371034]]]],
        );
    }

    #[model("cases/l2normalization_axis_1.onnx")]
    struct L2normalizationAxis1;

    #[test]
    fn l2normalization_axis_1() {
        let x: [[f32; 2]; 2] = [[3.0, 4.0], [6.0, 8.0]];
        let outputs = L2normalizationAxis1::new().unwrap().infer(&x).unwrap();
        check::<[[f32; 2]; 2]>("y", &outputs.y, &[[0.6, 0.8], [0.6, 0.8]]);
    }

    #[model("cases/softmax_large_number.onnx")]
    struct SoftmaxLargeNumber;

    #[test]
    fn softmax_large_number() {
        let x: [[f32; 4]; 2] = [[0.0, 1.0, 2.0, 3.0], [10000.0, 10001.0, 10002.0, 10003.0]];
        let outputs = SoftmaxLargeNumber::new().unwrap().infer(&x).unwrap();
        check::<[[f32; 4]; 2]>(
            "y",
            &outputs.y,
            &[
                [0.032058604, 0.08714432, 0.2368828, 0.6439143],
                [0.032058604, 0.08714432, 0.2368828, 0.6439143],
            ],
        );
    }

    #[model("cases/batchnorm_example.onnx")]
    struct BatchnormExample;

    #[test]
    fn batchnorm_example() {
        let x = stored::<[[[[f32; 5]; 4]; 3]; 2]>(include_bytes!("../cases/batchnorm_example.x.pb"));
        let s: [f32; 3] = [0.37642553, -1.0994008, 0.2982382];
        let bias: [f32; 3] = [1.3263859, -0.69456786, -0.14963454];
        let mean: [f32; 3] = [-0.43515354, 1.8492638, 0.67229474];
        let var: [f32; 3] = [0.9755215, 0.8558034, 0.011714084];
        let outputs = BatchnormExample::new().unwrap().infer(&x, &s, &bias, &mean, &var).unwrap();
        check::<[[[[f32; 5]; 4]; 3]; 2]>(
            "y",
            &outputs.y,
            &*stored(include_bytes!("../cases/batchnorm_example.y.pb")),
        );
    }
}

mod attention {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/attention_bidirectional_window.onnx")]
    struct AttentionBidirectionalWindow;

    #[test]
    fn attention_bidirectional_window() {
        let q: [[[[f32; 1]; 5]; 1]; 1] = [[[[0.0], [0.0], [0.0], [0.0], [0.0]]]];
        let k: [[[[f32; 1]; 5]; 1]; 1] = [[[[0.0], [0.0], [0.0], [0.0], [0.0]]]];
        let v: [[[[f32; 1]; 5]; 1]; 1] = [[[[0.0], [1.0], [2.0], [3.0], [4.0]]]];
        let outputs = AttentionBidirectionalWindow::new().unwrap().infer(&q, &k, &v).unwrap();
        check::<[[[[f32; 1]; 5]; 1]; 1]>("y", &outputs.y, &[[[[1.0], [1.5], [2.5], [3.0], [3.5]]]]);
    }

    #[model("cases/attention_4d_softcap_neginf_mask.onnx")]
    struct Attention4dSoftcapNeginfMask;

    #[test]
    fn attention_4d_softcap_neginf_mask() {
        let q: [[[[f32; 8]; 4]; 1]; 1] = [[[
            [0.37454012, 0.9507143, 0.7319939, 0.5986585, 0.15601864, 0.15599452, 0.058083612, 0.8661761],
            [0.601115, 0.7080726, 0.020584494, 0.96990985, 0.83244264, 0.21233912, 0.18182497, 0.1834045],
            [0.30424225, 0.52475643, 0.43194503, 0.29122913, 0.6118529, 0.13949387, 0.29214466, 0.36636186],
            [0.45606998, 0.785176, 0.19967379, 0.5142344, 0.59241456, 0.046450414, 0.60754484, 0.17052412],
        ]]];
        let k = stored::<[[[[f32; 8]; 6]; 1]; 1]>(include_bytes!(
            "../cases/attention_4d_softcap_neginf_mask.k.pb"
        ));
        let v = stored::<[[[[f32; 8]; 6]; 1]; 1]>(include_bytes!(
            "../cases/attention_4d_softcap_neginf_mask.v.pb"
        ));
        let attn_mask: [[f32; 6]; 4] = [
            [0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY],
            [0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY],
            [0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY],
            [0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY],
        ];
        let outputs = Attention4dSoftcapNeginfMask::new().unwrap().infer(&q, &k, &v, &attn_mask).unwrap();
        check::<[[[[f32; 8]; 4]; 1]; 1]>(
            "y",
            &outputs.y,
            &[[[
                [
                    0.78838235, 0.45163164, 0.21422352, 0.38927948, 0.3312104, 0.4126716, 0.53332627,
                    0.46308208,
                ],
                [
                    0.78970003, 0.4483434, 0.21524335, 0.39699808, 0.33217344, 0.41014245, 0.5304187,
                    0.45870212,
                ],
                [0.78680646, 0.44896337, 0.2157568, 0.38850358, 0.324064, 0.40937266, 0.526823, 0.45974627],
                [
                    0.79025984, 0.44769415, 0.21825878, 0.39508468, 0.3277007, 0.40579274, 0.52780735,
                    0.45722404,
                ],
            ]]],
        );
    }

    #[model("cases/flexattention_score_mod.onnx")]
    struct FlexattentionScoreMod;

    #[test]
    fn flexattention_score_mod() {
        let q: [[[[f32; 4]; 3]; 2]; 1] = [[
            [
                [0.5488135, 0.71518934, 0.60276335, 0.5448832],
                [0.4236548, 0.6458941, 0.4375872, 0.891773],
                [0.96366274, 0.3834415, 0.79172504, 0.5288949],
            ],
            [
                [0.56804454, 0.92559665, 0.071036056, 0.0871293],
                [0.020218397, 0.83261985, 0.77815676, 0.87001216],
                [0.9786183, 0.7991586, 0.46147937, 0.7805292],
            ],
        ]];
        let k: [[[[f32; 4]; 3]; 2]; 1] = [[
            [
                [0.11827443, 0.639921, 0.14335328, 0.9446689],
                [0.5218483, 0.41466194, 0.2645556, 0.7742337],
                [0.45615032, 0.56843394, 0.0187898, 0.6176355],
            ],
            [
                [0.6120957, 0.616934, 0.94374806, 0.6818203],
                [0.3595079, 0.43703195, 0.6976312, 0.06022547],
                [0.6667667, 0.67063785, 0.21038257, 0.12892629],
            ],
        ]];
        let v: [[[[f32; 4]; 3]; 2]; 1] = [[
            [
                [0.31542835, 0.36371076, 0.57019675, 0.43860152],
                [0.9883738, 0.10204481, 0.20887676, 0.16130951],
                [0.6531083, 0.2532916, 0.46631077, 0.2444256],
            ],
            [
                [0.15896958, 0.11037514, 0.6563296, 0.13818295],
                [0.19658236, 0.36872518, 0.82099324, 0.09710128],
                [0.8379449, 0.09609841, 0.97645944, 0.4686512],
            ],
        ]];
        let outputs = FlexattentionScoreMod::new().unwrap().infer(&q, &k, &v).unwrap();
        check::<[[[[f32; 4]; 3]; 2]; 1]>(
            "y",
            &outputs.y,
            &[[
                [
                    [0.6546124, 0.23846506, 0.41270372, 0.28133616],
                    [0.6480124, 0.24086626, 0.4156352, 0.28449094],
                    [0.6699233, 0.2325249, 0.40453213, 0.2749923],
                ],
                [
                    [0.40872833, 0.18114604, 0.8171921, 0.24232216],
                    [0.35249442, 0.18033125, 0.78954595, 0.21540992],
                    [0.3774823, 0.17376955, 0.79790497, 0.22895528],
                ],
            ]],
        );
    }

    #[model("cases/rotary_embedding_no_position_ids_rotary_dim.onnx")]
    struct RotaryEmbeddingNoPositionIdsRotaryDim;

    #[test]
    fn rotary_embedding_no_position_ids_rotary_dim() {
        let input = stored::<[[[[f32; 8]; 3]; 4]; 2]>(include_bytes!(
            "../cases/rotary_embedding_no_position_ids_rotary_dim.input.pb"
        ));
        let cos_cache: [[[f32; 2]; 3]; 2] = [
            [[0.024678728, 0.06724963], [0.67939276, 0.45369685], [0.5365792, 0.8966713]],
            [[0.9903389, 0.21689698], [0.6630782, 0.26332238], [0.020651, 0.7583786]],
        ];
        let sin_cache: [[[f32; 2]; 3]; 2] = [
            [[0.186193, 0.9443724], [0.73955077, 0.49045882], [0.22741462, 0.25435647]],
            [[0.05802916, 0.43441662], [0.3117959, 0.6963435], [0.37775183, 0.17960368]],
        ];
        let outputs = RotaryEmbeddingNoPositionIdsRotaryDim::new()
            .unwrap()
            .infer(&input, &cos_cache, &sin_cache)
            .unwrap();
        check::<[[[[f32; 8]; 3]; 4]; 2]>(
            "output",
            &outputs.output,
            &*stored(include_bytes!("../cases/rotary_embedding_no_position_ids_rotary_dim.output.pb")),
        );
    }

    #[model("cases/linear_attention_linear_t1_no_past.onnx")]
    struct LinearAttentionLinearT1NoPast;

    #[test]
    fn linear_attention_linear_t1_no_past() {
        let query = stored::<[[[f32; 32]; 1]; 2]>(include_bytes!(
            "../cases/linear_attention_linear_t1_no_past.query.pb"
        ));
        let key = stored::<[[[f32; 32]; 1]; 2]>(include_bytes!(
            "../cases/linear_attention_linear_t1_no_past.key.pb"
        ));
        let value = stored::<[[[f32; 32]; 1]; 2]>(include_bytes!(
            "../cases/linear_attention_linear_t1_no_past.value.pb"
        ));
        let outputs = LinearAttentionLinearT1NoPast::new().unwrap().infer(&query, &key, &value).unwrap();
        check::<[[[f32; 32]; 1]; 2]>(
            "output",
            &outputs.output,
            &*stored(include_bytes!("../cases/linear_attention_linear_t1_no_past.output.pb")),
        );
        check::<[[[[f32; 8]; 8]; 4]; 2]>(
            "present_state",
            &outputs.present_state,
            &*stored(include_bytes!("../cases/linear_attention_linear_t1_no_past.present_state.pb")),
        );
    }
}

mod recurrent {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/gru_with_initial_bias.onnx")]
    struct GruWithInitialBias;

    #[test]
    fn gru_with_initial_bias() {
        let x: [[[f32; 3]; 3]; 1] = [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]];
        let w: [[[f32; 3]; 9]; 1] = [[
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
        ]];
        let r: [[[f32; 3]; 9]; 1] = [[
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1],
        ]];
        let b: [[f32; 18]; 1] =
            [[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]];
        let outputs = GruWithInitialBias::new().unwrap().infer(&x, &w, &r, &b).unwrap();
        check::<[[[f32; 3]; 3]; 1]>(
            "y_h",
            &outputs.y_h,
            &[[
                [0.20053661, 0.20053661, 0.20053661],
                [0.15482338, 0.15482338, 0.15482338],
                [0.07484276, 0.07484276, 0.07484276],
            ]],
        );
    }

    #[model("cases/lstm_reverse.onnx")]
    struct LstmReverse;

    #[test]
    fn lstm_reverse() {
        let x: [[[f32; 2]; 1]; 3] = [[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]];
        let w: [[[f32; 2]; 12]; 1] = [[
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
            [0.1, 0.1],
        ]];
        let r = stored::<[[[f32; 3]; 12]; 1]>(include_bytes!("../cases/lstm_reverse.r.pb"));
        let outputs = LstmReverse::new().unwrap().infer(&x, &w, &r).unwrap();
        check::<[[[f32; 3]; 1]; 1]>("y_h", &outputs.y_h, &[[[0.40412503, 0.40412503, 0.40412503]]]);
        check::<[[[f32; 3]; 1]; 1]>("y_c", &outputs.y_c, &[[[0.7970233, 0.7970233, 0.7970233]]]);
    }

    #[model("cases/simple_rnn_batchwise.onnx")]
    struct SimpleRnnBatchwise;

    #[test]
    fn simple_rnn_batchwise() {
        let x: [[[f32; 2]; 1]; 3] = [[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]];
        let w: [[[f32; 2]; 4]; 1] = [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]];
        let r: [[[f32; 4]; 4]; 1] =
            [[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]];
        let outputs = SimpleRnnBatchwise::new().unwrap().infer(&x, &w, &r).unwrap();
        check::<[[[[f32; 4]; 1]; 1]; 3]>(
            "y",
            &outputs.y,
            &[
                [[[0.9051482, 0.9051482, 0.9051482, 0.9051482]]],
                [[[0.9981779, 0.9981779, 0.9981779, 0.9981779]]],
                [[[0.9999666, 0.9999666, 0.9999666, 0.9999666]]],
            ],
        );
        check::<[[[f32; 4]; 1]; 3]>(
            "y_h",
            &outputs.y_h,
            &[
                [[0.9051482, 0.9051482, 0.9051482, 0.9051482]],
                [[0.9981779, 0.9981779, 0.9981779, 0.9981779]],
                [[0.9999666, 0.9999666, 0.9999666, 0.9999666]],
            ],
        );
    }
}

mod selection {
    use infer_embed::{Tensor, bf16, model};
    use suite_tests::{check, stored};

    #[model("cases/gathernd_example_int32_batch_dim1.onnx")]
    struct GatherndExampleInt32BatchDim1;

    #[test]
    fn gathernd_example_int32_batch_dim1() {
        let data: [[[i32; 2]; 2]; 2] = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]];
        let indices: [[i64; 1]; 2] = [[1], [0]];
        let outputs = GatherndExampleInt32BatchDim1::new().unwrap().infer(&data, &indices).unwrap();
        check::<[[i32; 2]; 2]>("output", &outputs.output, &[[2, 3], [4, 5]]);
    }

    #[model("cases/gather_elements_negative_indices.onnx")]
    struct GatherElementsNegativeIndices;

    #[test]
    fn gather_elements_negative_indices() {
        let data: [[f32; 3]; 3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]];
        let indices: [[i64; 3]; 2] = [[-1, -2, 0], [-2, 0, 0]];
        let outputs = GatherElementsNegativeIndices::new().unwrap().infer(&data, &indices).unwrap();
        check::<[[f32; 3]; 2]>("y", &outputs.y, &[[7.0, 5.0, 3.0], [4.0, 2.0, 3.0]]);
    }

    #[model("cases/scatter_elements_with_reduction_max.onnx")]
    struct ScatterElementsWithReductionMax;

    #[test]
    fn scatter_elements_with_reduction_max() {
        let data: [[f32; 5]; 1] = [[1.0, 2.0, 3.0, 4.0, 5.0]];
        let indices: [[i64; 2]; 1] = [[1, 1]];
        let updates: [[f32; 2]; 1] = [[1.1, 2.1]];
        let outputs =
            ScatterElementsWithReductionMax::new().unwrap().infer(&data, &indices, &updates).unwrap();
        check::<[[f32; 5]; 1]>("y", &outputs.y, &[[1.0, 2.1, 3.0, 4.0, 5.0]]);
    }

    #[model("cases/scatternd_max_with_element_indices.onnx")]
    struct ScatterndMaxWithElementIndices;

    #[test]
    fn scatternd_max_with_element_indices() {
        let data: [[f32; 2]; 2] = [[1.0, 2.0], [3.0, 4.0]];
        let indices: [[i64; 2]; 2] = [[0, 0], [1, 1]];
        let updates: [f32; 2] = [5.0, 1.0];
        let outputs =
            ScatterndMaxWithElementIndices::new().unwrap().infer(&data, &indices, &updates).unwrap();
        check::<[[f32; 2]; 2]>("y", &outputs.y, &[[5.0, 2.0], [3.0, 4.0]]);
    }

    #[model("cases/tensorscatter.onnx")]
    struct Tensorscatter;

    #[test]
    fn tensorscatter() {
        let past_cache =
            stored::<[[[[f32; 5]; 4]; 1]; 2]>(include_bytes!("../cases/tensorscatter.past_cache.pb"));
        let update: [[[[f32; 5]; 1]; 1]; 2] = [[[[5.0, 5.0, 5.0, 5.0, 5.0]]], [[[1.0, 1.0, 1.0, 1.0, 1.0]]]];
        let write_indices: [i64; 2] = [1, 2];
        let outputs = Tensorscatter::new().unwrap().infer(&past_cache, &update, &write_indices).unwrap();
        check::<[[[[f32; 5]; 4]; 1]; 2]>(
            "present_cache",
            &outputs.present_cache,
            &*stored(include_bytes!("../cases/tensorscatter.present_cache.pb")),
        );
    }

    #[model("cases/top_k_uint64.onnx")]
    struct TopKUint64;

    #[test]
    fn top_k_uint64() {
        let x: [[u64; 4]; 3] = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]];
        let k: [i64; 1] = [3];
        let outputs = TopKUint64::new().unwrap().infer(&x, &k).unwrap();
        check::<[[u64; 3]; 3]>("values", &outputs.values, &[[3, 2, 1], [7, 6, 5], [11, 10, 9]]);
        check::<[[i64; 3]; 3]>("indices", &outputs.indices, &[[3, 2, 1], [3, 2, 1], [3, 2, 1]]);
    }

    #[model("cases/unique_sorted_with_axis_3d.onnx")]
    struct UniqueSortedWithAxis3d;

    #[test]
    fn unique_sorted_with_axis_3d() {
        let x: [[[f32; 2]; 4]; 2] = [
            [[1.0, 1.0], [0.0, 1.0], [2.0, 1.0], [0.0, 1.0]],
            [[1.0, 1.0], [0.0, 1.0], [2.0, 1.0], [0.0, 1.0]],
        ];
        let outputs = UniqueSortedWithAxis3d::new().unwrap().infer(&x).unwrap();
        check::<Tensor<f32>>(
            "y",
            &outputs.y,
            &Tensor::new([2, 3, 2], [0.0, 1.0, 1.0, 1.0, 2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 2.0, 1.0]).unwrap(),
        );
        check::<Tensor<i64>>("indices", &outputs.indices, &Tensor::new([3], [1, 0, 2]).unwrap());
        check::<Tensor<i64>>(
            "inverse_indices",
            &outputs.inverse_indices,
            &Tensor::new([4], [1, 0, 2, 0]).unwrap(),
        );
        check::<Tensor<i64>>("counts", &outputs.counts, &Tensor::new([3], [2, 1, 1]).unwrap());
    }

    #[model("cases/unique_bfloat16_sorted_without_axis.onnx")]
    struct UniqueBfloat16SortedWithoutAxis;

    #[test]
    fn unique_bfloat16_sorted_without_axis() {
        let x: [bf16; 6] = [2.0, 1.0, 1.0, 3.0, 4.0, 3.0].map(bf16::from_f32);
        let outputs = UniqueBfloat16SortedWithoutAxis::new().unwrap().infer(&x).unwrap();
        check::<[bf16; 4]>("y", &outputs.y, &[1.0, 2.0, 3.0, 4.0].map(bf16::from_f32));
        check::<[i64; 4]>("indices", &outputs.indices, &[1, 0, 3, 4]);
        check::<[i64; 6]>("inverse_indices", &outputs.inverse_indices, &[1, 0, 0, 2, 3, 2]);
        check::<[i64; 4]>("counts", &outputs.counts, &[2, 1, 2, 1]);
    }

    #[model("cases/nonzero_example.onnx")]
    struct NonzeroExample;

    #[test]
    fn nonzero_example() {
        let condition: [[bool; 2]; 2] = [[true, false], [true, true]];
        let outputs = NonzeroExample::new().unwrap().infer(&condition).unwrap();
        check::<[[i64; 3]; 2]>("result", &outputs.result, &[[0, 1, 1], [0, 0, 1]]);
    }

    #[model("cases/compress_default_axis.onnx")]
    struct CompressDefaultAxis;

    #[test]
    fn compress_default_axis() {
        let input: [[f32; 2]; 3] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let condition: [bool; 5] = [false, true, false, false, true];
        let outputs = CompressDefaultAxis::new().unwrap().infer(&input, &condition).unwrap();
        check::<[f32; 2]>("output", &outputs.output, &[2.0, 5.0]);
    }
}

mod shape {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/reshape_allowzero_reordered.onnx")]
    struct ReshapeAllowzeroReordered;

    #[test]
    fn reshape_allowzero_reordered() {
        let data: [[[f32; 4]; 3]; 0] = [];
        let shape: [i64; 3] = [3, 4, 0];
        let outputs = ReshapeAllowzeroReordered::new().unwrap().infer(&data, &shape).unwrap();
        check::<[[[f32; 0]; 4]; 3]>(
            "reshaped",
            &outputs.reshaped,
            &[[[], [], [], []], [[], [], [], []], [[], [], [], []]],
        );
    }

    #[model("cases/split_zero_size_splits_opset18.onnx")]
    struct SplitZeroSizeSplitsOpset18;

    #[test]
    fn split_zero_size_splits_opset18() {
        let input: [f32; 0] = [];
        let split: [i64; 3] = [0, 0, 0];
        let outputs = SplitZeroSizeSplitsOpset18::new().unwrap().infer(&input, &split).unwrap();
        check::<[f32; 0]>("output_1", &outputs.output_1, &[]);
        check::<[f32; 0]>("output_2", &outputs.output_2, &[]);
        check::<[f32; 0]>("output_3", &outputs.output_3, &[]);
    }

    #[model("cases/tril_out_neg.onnx")]
    struct TrilOutNeg;

    #[test]
    fn tril_out_neg() {
        let x: [[i64; 5]; 4] = [[5, 0, 3, 3, 7], [9, 3, 5, 2, 4], [7, 6, 8, 8, 1], [6, 7, 7, 8, 1]];
        let k: i64 = -7;
        let outputs = TrilOutNeg::new().unwrap().infer(&x, &k).unwrap();
        check::<[[i64; 5]; 4]>(
            "y",
            &outputs.y,
            &[[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
        );
    }

    #[model("cases/constantofshape_int_shape_zero.onnx")]
    struct ConstantofshapeIntShapeZero;

    #[test]
    fn constantofshape_int_shape_zero() {
        let x: [i64; 1] = [0];
        let outputs = ConstantofshapeIntShapeZero::new().unwrap().infer(&x).unwrap();
        check::<[i32; 0]>("y", &outputs.y, &[]);
    }

    #[model("cases/range_float_type_positive_delta.onnx")]
    struct RangeFloatTypePositiveDelta;

    #[test]
    fn range_float_type_positive_delta() {
        let start: f32 = 1.0;
        let limit: f32 = 5.0;
        let delta: f32 = 2.0;
        let outputs = RangeFloatTypePositiveDelta::new().unwrap().infer(&start, &limit, &delta).unwrap();
        check::<[f32; 2]>("output", &outputs.output, &[1.0, 3.0]);
    }

    #[model("cases/onehot_out_of_range_indices.onnx")]
    struct OnehotOutOfRangeIndices;

    #[test]
    fn onehot_out_of_range_indices() {
        let indices: [i64; 3] = [5, -6, -1];
        let depth: f32 = 5.0;
        let values: [f32; 2] = [1.0, 3.0];
        let outputs = OnehotOutOfRangeIndices::new().unwrap().infer(&indices, &depth, &values).unwrap();
        check::<[[f32; 5]; 3]>(
            "y",
            &outputs.y,
            &[[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 3.0]],
        );
    }

    #[model("cases/reversesequence_batch.onnx")]
    struct ReversesequenceBatch;

    #[test]
    fn reversesequence_batch() {
        let x: [[f32; 4]; 4] =
            [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0], [12.0, 13.0, 14.0, 15.0]];
        let sequence_lens: [i64; 4] = [0, 2, 3, 4];
        let outputs = ReversesequenceBatch::new().unwrap().infer(&x, &sequence_lens).unwrap();
        check::<[[f32; 4]; 4]>(
            "y",
            &outputs.y,
            &[[0.0, 1.0, 2.0, 3.0], [5.0, 4.0, 6.0, 7.0], [10.0, 9.0, 8.0, 11.0], [15.0, 14.0, 13.0, 12.0]],
        );
    }

    #[model("cases/shape_start_greater_than_end.onnx")]
    struct ShapeStartGreaterThanEnd;

    #[test]
    fn shape_start_greater_than_end() {
        let x = stored::<[[[f32; 5]; 4]; 3]>(include_bytes!("../cases/shape_start_greater_than_end.x.pb"));
        let outputs = ShapeStartGreaterThanEnd::new().unwrap().infer(&x).unwrap();
        check::<[i64; 0]>("y", &outputs.y, &[]);
    }

    #[model("cases/expand_shape_model2.onnx")]
    struct ExpandShapeModel2;

    #[test]
    fn expand_shape_model2() {
        let x: [[[f32; 1]; 3]; 1] = [[[1.0], [1.0], [1.0]]];
        let shape: [i64; 2] = [1, 3];
        let outputs = ExpandShapeModel2::new().unwrap().infer(&x, &shape).unwrap();
        check::<[[[f32; 3]; 3]; 1]>("y", &outputs.y, &[[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]);
    }
}

mod image {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/resize_downsample_sizes_nearest_not_larger.onnx")]
    struct ResizeDownsampleSizesNearestNotLarger;

    #[test]
    fn resize_downsample_sizes_nearest_not_larger() {
        let x: [[[[f32; 4]; 2]; 1]; 1] = [[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]];
        let sizes: [i64; 2] = [1, 3];
        let outputs = ResizeDownsampleSizesNearestNotLarger::new().unwrap().infer(&x, &sizes).unwrap();
        check::<[[[[f32; 2]; 1]; 1]; 1]>("y", &outputs.y, &[[[[1.0, 3.0]]]]);
    }

    #[model("cases/resize_tf_crop_and_resize_extrapolation_value.onnx")]
    struct ResizeTfCropAndResizeExtrapolationValue;

    #[test]
    fn resize_tf_crop_and_resize_extrapolation_value() {
        let x: [[[[f32; 4]; 4]; 1]; 1] = [[[
            [1.0, 2.0, 3.0, 4.0],
            [5.0, 6.0, 7.0, 8.0],
            [9.0, 10.0, 11.0, 12.0],
            [13.0, 14.0, 15.0, 16.0],
        ]]];
        let roi: [f32; 8] = [0.0, 0.0, 0.4, 0.6, 1.0, 1.0, 1.2, 1.7];
        let sizes: [i64; 4] = [1, 1, 3, 3];
        let outputs =
            ResizeTfCropAndResizeExtrapolationValue::new().unwrap().infer(&x, &roi, &sizes).unwrap();
        check::<[[[[f32; 3]; 3]; 1]; 1]>(
            "y",
            &outputs.y,
            &[[[[7.6000004, 10.0, 10.0], [12.400001, 10.0, 10.0], [10.0, 10.0, 10.0]]]],
        );
    }

    #[model("cases/gridsample_bicubic.onnx")]
    struct GridsampleBicubic;

    #[test]
    fn gridsample_bicubic() {
        let x: [[[[f32; 2]; 3]; 1]; 1] = [[[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]]];
        let grid: [[[[f32; 2]; 4]; 2]; 1] = [[
            [[-1.0, -1.0], [-0.5, -0.5], [-0.2, -0.2], [0.0, 0.0]],
            [[0.0, 0.0], [-0.2, -0.2], [0.5, 0.5], [1.0, 1.0]],
        ]];
        let outputs = GridsampleBicubic::new().unwrap().infer(&x, &grid).unwrap();
        check::<[[[[f32; 4]; 2]; 1]; 1]>(
            "y",
            &outputs.y,
            &[[[[-0.1406, 0.3828, 1.7556, 2.9688], [2.9688, 1.7556, 5.1445, 1.3906]]]],
        );
    }

    #[model("cases/affine_grid_2d.onnx")]
    struct AffineGrid2d;

    #[test]
    fn affine_grid_2d() {
        let theta: [[[f32; 3]; 2]; 2] = [
            [[1.0889444, -3.2880466, 5.0], [2.0223253, 1.0960155, -3.3]],
            [[0.83578837, -0.55442286, 2.5], [0.78762794, 0.8397114, 1.1]],
        ];
        let size: [i64; 4] = [2, 3, 5, 6];
        let outputs = AffineGrid2d::new().unwrap().infer(&theta, &size).unwrap();
        check::<[[[[f32; 2]; 6]; 5]; 2]>(
            "grid",
            &outputs.grid,
            &*stored(include_bytes!("../cases/affine_grid_2d.grid.pb")),
        );
    }

    #[model("cases/roialign_mode_max.onnx")]
    struct RoialignModeMax;

    #[test]
    fn roialign_mode_max() {
        let x = stored::<[[[[f32; 10]; 10]; 1]; 1]>(include_bytes!("../cases/roialign_mode_max.x.pb"));
        let rois: [[f32; 4]; 3] = [[0.0, 0.0, 9.0, 9.0], [0.0, 5.0, 4.0, 9.0], [5.0, 5.0, 9.0, 9.0]];
        let batch_indices: [i64; 3] = [0, 0, 0];
        let outputs = RoialignModeMax::new().unwrap().infer(&x, &rois, &batch_indices).unwrap();
        check::<[[[[f32; 5]; 5]; 1]; 3]>(
            "y",
            &outputs.y,
            &*stored(include_bytes!("../cases/roialign_mode_max.y.pb")),
        );
    }

    #[model("cases/nonmaxsuppression_two_batches.onnx")]
    struct NonmaxsuppressionTwoBatches;

    #[test]
    fn nonmaxsuppression_two_batches() {
        let boxes =
            stored::<[[[f32; 4]; 6]; 2]>(include_bytes!("../cases/nonmaxsuppression_two_batches.boxes.pb"));
        let scores: [[[f32; 6]; 1]; 2] =
            [[[0.9, 0.75, 0.6, 0.95, 0.5, 0.3]], [[0.9, 0.75, 0.6, 0.95, 0.5, 0.3]]];
        let max_output_boxes_per_class: [i64; 1] = [2];
        let iou_threshold: [f32; 1] = [0.5];
        let score_threshold: [f32; 1] = [0.0];
        let outputs = NonmaxsuppressionTwoBatches::new()
            .unwrap()
            .infer(&boxes, &scores, &max_output_boxes_per_class, &iou_threshold, &score_threshold)
            .unwrap();
        check::<[[i64; 3]; 4]>(
            "selected_indices",
            &outputs.selected_indices,
            &[[0, 0, 3], [0, 0, 0], [1, 0, 3], [1, 0, 0]],
        );
    }

    #[model("cases/image_decoder_decode_png_rgb.onnx")]
    struct ImageDecoderDecodePngRgb;

    #[test]
    fn image_decoder_decode_png_rgb() {
        let data = stored::<[u8; 312]>(include_bytes!("../cases/image_decoder_decode_png_rgb.data.pb"));
        let outputs = ImageDecoderDecodePngRgb::new().unwrap().infer(&data).unwrap();
        check::<[[[u8; 3]; 32]; 32]>(
            "output",
            &outputs.output,
            &*stored(include_bytes!("../cases/image_decoder_decode_png_rgb.output.pb")),
        );
    }
}

mod signal {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/dft_rfft.onnx")]
    struct DftRfft;

    #[test]
    fn dft_rfft() {
        let x = stored::<[[[[f32; 1]; 10]; 10]; 1]>(include_bytes!("../cases/dft_rfft.x.pb"));
        let axis: i64 = 1;
        let outputs = DftRfft::new().unwrap().infer(&x, &axis).unwrap();
        check::<[[[[f32; 2]; 10]; 6]; 1]>(
            "y",
            &outputs.y,
            &*stored(include_bytes!("../cases/dft_rfft.y.pb")),
        );
    }

    #[model("cases/stft.onnx")]
    struct Stft;

    #[test]
    fn stft() {
        let signal = stored::<[[[f32; 1]; 128]; 1]>(include_bytes!("../cases/stft.signal.pb"));
        let frame_step: i64 = 8;
        let frame_length: i64 = 16;
        let outputs = Stft::new().unwrap().infer(&signal, &frame_step, &frame_length).unwrap();
        check::<[[[[f32; 2]; 9]; 15]; 1]>(
            "output",
            &outputs.output,
            &*stored(include_bytes!("../cases/stft.output.pb")),
        );
    }

    #[model("cases/melweightmatrix.onnx")]
    struct Melweightmatrix;

    #[test]
    fn melweightmatrix() {
        let num_mel_bins: i32 = 8;
        let dft_length: i32 = 16;
        let sample_rate: i32 = 8192;
        let lower_edge_hertz: f32 = 0.0;
        let upper_edge_hertz: f32 = 4096.0;
        let outputs = Melweightmatrix::new()
            .unwrap()
            .infer(&num_mel_bins, &dft_length, &sample_rate, &lower_edge_hertz, &upper_edge_hertz)
            .unwrap();
        check::<[[f32; 8]; 9]>(
            "output",
            &outputs.output,
            &*stored(include_bytes!("../cases/melweightmatrix.output.pb")),
        );
    }
}

mod text {
    use infer_embed::{Tensor, model};
    use suite_tests::check;

    #[model("cases/string_concat_zero_dimensional.onnx")]
    struct StringConcatZeroDimensional;

    #[test]
    fn string_concat_zero_dimensional() {
        let x: &str = "cat";
        let y: &str = "s";
        let outputs = StringConcatZeroDimensional::new().unwrap().infer(x, y).unwrap();
        check::<String>("result", &outputs.result, &str::to_owned("cats"));
    }

    #[model("cases/string_concat_utf8.onnx")]
    struct StringConcatUtf8;

    #[test]
    fn string_concat_utf8() {
        let x: [String; 2] = ["的", "中"].map(str::to_owned);
        let y: [String; 2] = ["的", "中"].map(str::to_owned);
        let outputs = StringConcatUtf8::new().unwrap().infer(&x, &y).unwrap();
        check::<[String; 2]>("result", &outputs.result, &["的的", "中中"].map(str::to_owned));
    }

    #[model("cases/string_split_maxsplit.onnx")]
    struct StringSplitMaxsplit;

    #[test]
    fn string_split_maxsplit() {
        let x: [[String; 2]; 2] = [
            ["hello world", "def.net"].map(str::to_owned),
            ["o n n x", "the quick brown fox"].map(str::to_owned),
        ];
        let outputs = StringSplitMaxsplit::new().unwrap().infer(&x).unwrap();
        check::<[[[String; 3]; 2]; 2]>(
            "substrings",
            &outputs.substrings,
            &[
                [["hello", "world", ""].map(str::to_owned), ["def.net", "", ""].map(str::to_owned)],
                [["o", "n", "n x"].map(str::to_owned), ["the", "quick", "brown fox"].map(str::to_owned)],
            ],
        );
        check::<[[i64; 2]; 2]>("length", &outputs.length, &[[2, 1], [3, 3]]);
    }

    #[model("cases/string_split_empty_tensor.onnx")]
    struct StringSplitEmptyTensor;

    #[test]
    fn string_split_empty_tensor() {
        let x: [String; 0] = [];
        let outputs = StringSplitEmptyTensor::new().unwrap().infer(&x).unwrap();
        check::<Tensor<String>>("substrings", &outputs.substrings, &Tensor::new([0, 0], []).unwrap());
        check::<[i64; 0]>("length", &outputs.length, &[]);
    }

    #[model("cases/regex_full_match_email_domain.onnx")]
    struct RegexFullMatchEmailDomain;

    #[test]
    fn regex_full_match_email_domain() {
        let x: [[String; 2]; 2] = [
            ["account@gmail.com", "account@hotmail.com"].map(str::to_owned),
            ["not email", "account2@yahoo.com"].map(str::to_owned),
        ];
        let outputs = RegexFullMatchEmailDomain::new().unwrap().infer(&x).unwrap();
        check::<[[bool; 2]; 2]>("y", &outputs.y, &[[true, false], [false, true]]);
    }

    #[model("cases/strnormalizer_export_monday_insensintive_upper_twodim.onnx")]
    struct StrnormalizerExportMondayInsensintiveUpperTwodim;

    #[test]
    fn strnormalizer_export_monday_insensintive_upper_twodim() {
        let x: [[String; 6]; 1] =
            [["Monday", "tuesday", "wednesday", "Monday", "tuesday", "wednesday"].map(str::to_owned)];
        let outputs = StrnormalizerExportMondayInsensintiveUpperTwodim::new().unwrap().infer(&x).unwrap();
        check::<[[String; 4]; 1]>(
            "y",
            &outputs.y,
            &[["TUESDAY", "WEDNESDAY", "TUESDAY", "WEDNESDAY"].map(str::to_owned)],
        );
    }

    #[model("cases/strnorm_model_monday_empty_output.onnx")]
    struct StrnormModelMondayEmptyOutput;

    #[test]
    fn strnorm_model_monday_empty_output() {
        let x: [String; 2] = ["monday", "monday"].map(str::to_owned);
        let outputs = StrnormModelMondayEmptyOutput::new().unwrap().infer(&x).unwrap();
        check::<[String; 1]>("y", &outputs.y, &[""].map(str::to_owned));
    }

    #[model("cases/tfidfvectorizer_tf_batch_uniandbigrams_skip5.onnx")]
    struct TfidfvectorizerTfBatchUniandbigramsSkip5;

    #[test]
    fn tfidfvectorizer_tf_batch_uniandbigrams_skip5() {
        let x: [[i32; 6]; 2] = [[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]];
        let outputs = TfidfvectorizerTfBatchUniandbigramsSkip5::new().unwrap().infer(&x).unwrap();
        check::<[[f32; 7]; 2]>(
            "y",
            &outputs.y,
            &[[0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0]],
        );
    }
}

mod sequence {
    use infer_embed::{Tensor, model};
    use suite_tests::{check, stored};

    #[model("cases/sequence_insert_at_front.onnx")]
    struct SequenceInsertAtFront;

    #[test]
    fn sequence_insert_at_front() {
        let sequence: [Tensor<i64>; 3] = [
            Tensor::new([4], [1, 2, 3, 4]).unwrap(),
            Tensor::new([3], [5, 6, 7]).unwrap(),
            Tensor::new([2], [8, 9]).unwrap(),
        ];
        let tensor: [i64; 3] = [-2, -1, 0];
        let position: [i64; 1] = [0];
        let outputs = SequenceInsertAtFront::new().unwrap().infer(&sequence, &tensor, &position).unwrap();
        check::<Vec<Tensor<i64>>>(
            "output_sequence",
            &outputs.output_sequence,
            &vec![
                Tensor::new([3], [-2, -1, 0]).unwrap(),
                Tensor::new([4], [1, 2, 3, 4]).unwrap(),
                Tensor::new([3], [5, 6, 7]).unwrap(),
                Tensor::new([2], [8, 9]).unwrap(),
            ],
        );
    }

    #[model("cases/split_to_sequence_2.onnx")]
    struct SplitToSequence2;

    #[test]
    fn split_to_sequence_2() {
        let data: [[f32; 6]; 3] = [
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            [6.0, 7.0, 8.0, 9.0, 10.0, 11.0],
            [12.0, 13.0, 14.0, 15.0, 16.0, 17.0],
        ];
        let split: [i64; 2] = [1, 2];
        let outputs = SplitToSequence2::new().unwrap().infer(&data, &split).unwrap();
        check::<Vec<Tensor<f32>>>(
            "seq",
            &outputs.seq,
            &vec![
                Tensor::new([1, 6], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap(),
                Tensor::new([2, 6], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0])
                    .unwrap(),
            ],
        );
    }

    #[model("cases/split_to_sequence_nokeepdims.onnx")]
    struct SplitToSequenceNokeepdims;

    #[test]
    fn split_to_sequence_nokeepdims() {
        let data: [[f32; 6]; 3] = [
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            [6.0, 7.0, 8.0, 9.0, 10.0, 11.0],
            [12.0, 13.0, 14.0, 15.0, 16.0, 17.0],
        ];
        let outputs = SplitToSequenceNokeepdims::new().unwrap().infer(&data).unwrap();
        check::<Vec<Tensor<f32>>>(
            "seq",
            &outputs.seq,
            &vec![
                Tensor::new([3], [0.0, 6.0, 12.0]).unwrap(),
                Tensor::new([3], [1.0, 7.0, 13.0]).unwrap(),
                Tensor::new([3], [2.0, 8.0, 14.0]).unwrap(),
                Tensor::new([3], [3.0, 9.0, 15.0]).unwrap(),
                Tensor::new([3], [4.0, 10.0, 16.0]).unwrap(),
                Tensor::new([3], [5.0, 11.0, 17.0]).unwrap(),
            ],
        );
    }

    #[model("cases/sequence_map_add_1_sequence_1_tensor.onnx", dims(N = 10))]
    struct SequenceMapAdd1Sequence1Tensor;

    #[test]
    fn sequence_map_add_1_sequence_1_tensor() {
        let x0: [Box<[f32; 10]>; 3] = [
            Box::new([
                0.5488135, 0.71518934, 0.60276335, 0.5448832, 0.4236548, 0.6458941, 0.4375872, 0.891773,
                0.96366274, 0.3834415,
            ]),
            Box::new([
                0.79172504,
                0.5288949,
                0.56804454,
                0.92559665,
                0.071036056,
                0.0871293,
                0.020218397,
                0.83261985,
                0.77815676,
                0.87001216,
            ]),
            Box::new([
                0.9786183, 0.7991586, 0.46147937, 0.7805292, 0.11827443, 0.639921, 0.14335328, 0.9446689,
                0.5218483, 0.41466194,
            ]),
        ];
        let x1: [f32; 10] = [
            0.2645556, 0.7742337, 0.45615032, 0.56843394, 0.0187898, 0.6176355, 0.6120957, 0.616934,
            0.94374806, 0.6818203,
        ];
        let outputs = SequenceMapAdd1Sequence1Tensor::new().unwrap().infer(&x0, &x1).unwrap();
        check::<Vec<Box<[f32; 10]>>>(
            "y0",
            &outputs.y0,
            &vec![
                Box::new([
                    0.81336915, 1.489423, 1.0589137, 1.1133171, 0.4424446, 1.2635295, 1.0496829, 1.508707,
                    1.9074109, 1.0652618,
                ]),
                Box::new([
                    1.0562806, 1.3031286, 1.0241948, 1.4940306, 0.08982585, 0.7047648, 0.6323141, 1.4495538,
                    1.7219048, 1.5518324,
                ]),
                Box::new([
                    1.243174, 1.5733923, 0.9176297, 1.3489631, 0.13706423, 1.2575564, 0.755449, 1.5616028,
                    1.4655964, 1.0964823,
                ]),
            ],
        );
    }

    #[model("cases/identity_sequence.onnx")]
    struct IdentitySequence;

    #[test]
    fn identity_sequence() {
        let x: [Tensor<f32>; 2] = [
            Tensor::new([1, 1, 2, 2], [1.0, 2.0, 3.0, 4.0]).unwrap(),
            Tensor::new([1, 1, 2, 2], [2.0, 3.0, 1.0, 5.0]).unwrap(),
        ];
        let outputs = IdentitySequence::new().unwrap().infer(&x).unwrap();
        check::<Vec<Tensor<f32>>>(
            "y",
            &outputs.y,
            &vec![
                Tensor::new([1, 1, 2, 2], [1.0, 2.0, 3.0, 4.0]).unwrap(),
                Tensor::new([1, 1, 2, 2], [2.0, 3.0, 1.0, 5.0]).unwrap(),
            ],
        );
    }

    #[model("cases/sequence_model1.onnx")]
    struct SequenceModel1;

    #[test]
    fn sequence_model1() {
        let x: [[[f32; 4]; 3]; 2] = [
            [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
            [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
        ];
        let y: [[[f32; 4]; 3]; 1] = [[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]];
        let z = stored::<[[[f32; 4]; 3]; 3]>(include_bytes!("../cases/sequence_model1.z.pb"));
        let outputs = SequenceModel1::new().unwrap().infer(&x, &y, &z).unwrap();
        check::<Tensor<f32>>(
            "out",
            &outputs.out,
            &Tensor::new([1, 3, 4], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap(),
        );
    }

    #[model("cases/sequence_model6.onnx")]
    struct SequenceModel6;

    #[test]
    fn sequence_model6() {
        let x: [[[f32; 4]; 3]; 2] = [
            [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
            [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
        ];
        let outputs = SequenceModel6::new().unwrap().infer(&x).unwrap();
        check::<i64>("len", &outputs.len, &4);
    }

    #[model("cases/sequence_model7.onnx")]
    struct SequenceModel7;

    #[test]
    fn sequence_model7() {
        let x: [[[f64; 4]; 3]; 2] = [
            [
                [0.5488135039273248, 0.7151893663724195, 0.6027633760716439, 0.5448831829968969],
                [0.4236547993389047, 0.6458941130666561, 0.4375872112626925, 0.8917730007820798],
                [0.9636627605010293, 0.3834415188257777, 0.7917250380826646, 0.5288949197529045],
            ],
            [
                [0.5680445610939323, 0.925596638292661, 0.07103605819788694, 0.08712929970154071],
                [0.02021839744032572, 0.832619845547938, 0.7781567509498505, 0.8700121482468192],
                [0.978618342232764, 0.7991585642167236, 0.46147936225293185, 0.7805291762864555],
            ],
        ];
        let outputs = SequenceModel7::new().unwrap().infer(&x).unwrap();
        check::<[[f64; 4]; 3]>(
            "out",
            &outputs.out,
            &[
                [0.5680445610939323, 0.925596638292661, 0.07103605819788694, 0.08712929970154071],
                [0.02021839744032572, 0.832619845547938, 0.7781567509498505, 0.8700121482468192],
                [0.978618342232764, 0.7991585642167236, 0.46147936225293185, 0.7805291762864555],
            ],
        );
    }
}

mod optional {
    use infer_embed::{Tensor, model};
    use suite_tests::check;

    #[model("cases/optional_has_element_empty_optional_input.onnx")]
    struct OptionalHasElementEmptyOptionalInput;

    #[test]
    fn optional_has_element_empty_optional_input() {
        let outputs = OptionalHasElementEmptyOptionalInput::new().unwrap().infer(None).unwrap();
        check::<bool>("output", &outputs.output, &false);
    }

    #[model("cases/optional_has_element_empty_no_input_optional_input.onnx")]
    struct OptionalHasElementEmptyNoInputOptionalInput;

    #[test]
    fn optional_has_element_empty_no_input_optional_input() {
        let outputs = OptionalHasElementEmptyNoInputOptionalInput::new().unwrap().infer().unwrap();
        check::<bool>("output", &outputs.output, &false);
    }

    #[model("cases/optional_get_element_optional_sequence.onnx")]
    struct OptionalGetElementOptionalSequence;

    #[test]
    fn optional_get_element_optional_sequence() {
        let optional_input: [Box<[i32; 4]>; 1] = [Box::new([1, 2, 3, 4])];
        let outputs =
            OptionalGetElementOptionalSequence::new().unwrap().infer(Some(&optional_input)).unwrap();
        check::<Vec<Tensor<i32>>>("output", &outputs.output, &vec![Tensor::new([4], [1, 2, 3, 4]).unwrap()]);
    }

    #[model("cases/optional_get_element_optional_tensor.onnx")]
    struct OptionalGetElementOptionalTensor;

    #[test]
    fn optional_get_element_optional_tensor() {
        let optional_input: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
        let outputs = OptionalGetElementOptionalTensor::new().unwrap().infer(Some(&optional_input)).unwrap();
        check::<[f32; 4]>("output", &outputs.output, &[1.0, 2.0, 3.0, 4.0]);
    }

    #[model("cases/identity_opt.onnx")]
    struct IdentityOpt;

    #[test]
    fn identity_opt() {
        let opt_in: [Box<[f32; 5]>; 1] = [Box::new([1.0, 2.0, 3.0, 4.0, 5.0])];
        let outputs = IdentityOpt::new().unwrap().infer(Some(&opt_in)).unwrap();
        check::<Option<Vec<Box<[f32; 5]>>>>(
            "opt_out",
            &outputs.opt_out,
            &Some(vec![Box::new([1.0, 2.0, 3.0, 4.0, 5.0])]),
        );
    }
}

mod control {
    use infer_embed::{Tensor, model};
    use suite_tests::check;

    #[model("cases/if.onnx")]
    struct If;

    #[test]
    fn if_() {
        let cond: bool = true;
        let outputs = If::new().unwrap().infer(&cond).unwrap();
        check::<[f32; 5]>("res", &outputs.res, &[1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[model("cases/if_seq.onnx")]
    struct IfSeq;

    #[test]
    fn if_seq() {
        let cond: bool = true;
        let outputs = IfSeq::new().unwrap().infer(&cond).unwrap();
        check::<Vec<Tensor<f32>>>(
            "res",
            &outputs.res,
            &vec![Tensor::new([5], [1.0, 2.0, 3.0, 4.0, 5.0]).unwrap()],
        );
    }

    #[model("cases/if_opt.onnx")]
    struct IfOpt;

    #[test]
    fn if_opt() {
        let cond: bool = false;
        let outputs = IfOpt::new().unwrap().infer(&cond).unwrap();
        check::<Option<Vec<Box<[f32; 5]>>>>(
            "sequence",
            &outputs.sequence,
            &Some(vec![Box::new([1.0, 2.0, 3.0, 4.0, 5.0])]),
        );
    }

    #[model("cases/loop11.onnx")]
    struct Loop11;

    #[test]
    fn loop11() {
        let trip_count: i64 = 5;
        let cond: bool = true;
        let y: [f32; 1] = [-2.0];
        let outputs = Loop11::new().unwrap().infer(&trip_count, &cond, &y).unwrap();
        check::<[f32; 1]>("res_y", &outputs.res_y, &[13.0]);
        check::<[[f32; 1]; 5]>("res_scan", &outputs.res_scan, &[[-1.0], [1.0], [4.0], [8.0], [13.0]]);
    }

    #[model("cases/loop13_seq.onnx")]
    struct Loop13Seq;

    #[test]
    fn loop13_seq() {
        let trip_count: i64 = 5;
        let cond: bool = true;
        let seq_empty: [f32; 0] = [];
        let outputs = Loop13Seq::new().unwrap().infer(&trip_count, &cond, &seq_empty).unwrap();
        check::<Vec<Tensor<f32>>>(
            "seq_res",
            &outputs.seq_res,
            &vec![
                Tensor::new([1], [1.0]).unwrap(),
                Tensor::new([2], [1.0, 2.0]).unwrap(),
                Tensor::new([3], [1.0, 2.0, 3.0]).unwrap(),
                Tensor::new([4], [1.0, 2.0, 3.0, 4.0]).unwrap(),
                Tensor::new([5], [1.0, 2.0, 3.0, 4.0, 5.0]).unwrap(),
            ],
        );
    }

    #[model("cases/loop16_seq_none.onnx")]
    struct Loop16SeqNone;

    #[test]
    fn loop16_seq_none() {
        let trip_count: i64 = 5;
        let cond: bool = true;
        let opt_seq: [f32; 1] = [0.0];
        let outputs = Loop16SeqNone::new().unwrap().infer(&trip_count, &cond, Some(&opt_seq)).unwrap();
        check::<Vec<Tensor<f32>>>(
            "seq_res",
            &outputs.seq_res,
            &vec![
                Tensor::new([], [0.0]).unwrap(),
                Tensor::new([1], [1.0]).unwrap(),
                Tensor::new([2], [1.0, 2.0]).unwrap(),
                Tensor::new([3], [1.0, 2.0, 3.0]).unwrap(),
                Tensor::new([4], [1.0, 2.0, 3.0, 4.0]).unwrap(),
                Tensor::new([5], [1.0, 2.0, 3.0, 4.0, 5.0]).unwrap(),
            ],
        );
    }

    #[model("cases/scan9_multi_state.onnx")]
    struct Scan9MultiState;

    #[test]
    fn scan9_multi_state() {
        let initial_sum: [f32; 2] = [0.0, 0.0];
        let initial_prod: [f32; 2] = [1.0, 1.0];
        let x: [[f32; 2]; 3] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let outputs = Scan9MultiState::new().unwrap().infer(&initial_sum, &initial_prod, &x).unwrap();
        check::<[f32; 2]>("y_sum", &outputs.y_sum, &[9.0, 12.0]);
        check::<[f32; 2]>("y_prod", &outputs.y_prod, &[15.0, 48.0]);
        check::<[[f32; 2]; 3]>("z", &outputs.z, &[[1.0, 2.0], [4.0, 6.0], [9.0, 12.0]]);
    }
}

mod training {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/nllloss_NCd1_weight_ii.onnx")]
    struct NlllossNCd1WeightIi;

    #[test]
    fn nllloss_ncd1_weight_ii() {
        let input: [[[f32; 2]; 5]; 3] = [
            [
                [0.5488135, 0.71518934],
                [0.60276335, 0.5448832],
                [0.4236548, 0.6458941],
                [0.4375872, 0.891773],
                [0.96366274, 0.3834415],
            ],
            [
                [0.79172504, 0.5288949],
                [0.56804454, 0.92559665],
                [0.071036056, 0.0871293],
                [0.020218397, 0.83261985],
                [0.77815676, 0.87001216],
            ],
            [
                [0.9786183, 0.7991586],
                [0.46147937, 0.7805292],
                [0.11827443, 0.639921],
                [0.14335328, 0.9446689],
                [0.5218483, 0.41466194],
            ],
        ];
        let target: [[i64; 2]; 3] = [[1, 3], [2, 4], [2, 0]];
        let weight: [f32; 5] = [0.0187898, 0.6176355, 0.6120957, 0.616934, 0.94374806];
        let outputs = NlllossNCd1WeightIi::new().unwrap().infer(&input, &target, &weight).unwrap();
        check::<f32>("loss", &outputs.loss, &-0.5357739);
    }

    #[model("cases/sce_mean_weight_ii_log_prob.onnx")]
    struct SceMeanWeightIiLogProb;

    #[test]
    fn sce_mean_weight_ii_log_prob() {
        let x: [[f32; 5]; 3] = [
            [0.5488135, 0.71518934, 0.60276335, 0.5448832, 0.4236548],
            [0.6458941, 0.4375872, 0.891773, 0.96366274, 0.3834415],
            [0.79172504, 0.5288949, 0.56804454, 0.92559665, 0.071036056],
        ];
        let y: [i64; 3] = [0, 4, 3];
        let w: [f32; 5] = [0.9, 0.7, 0.8, 0.9, 0.9];
        let outputs = SceMeanWeightIiLogProb::new().unwrap().infer(&x, &y, &w).unwrap();
        check::<f32>("z", &outputs.z, &1.609188);
        check::<[[f32; 5]; 3]>(
            "log_prob",
            &outputs.log_prob,
            &[
                [-1.6321545, -1.4657786, -1.5782048, -1.6360848, -1.7573133],
                [-1.6551613, -1.863468, -1.4092823, -1.3373927, -1.9176139],
                [-1.4346335, -1.6974638, -1.658314, -1.3007619, -2.1553226],
            ],
        );
    }

    #[model("cases/adam_multiple.onnx")]
    struct AdamMultiple;

    #[test]
    fn adam_multiple() {
        let r: f32 = 0.1;
        let t: i64 = 0;
        let x1: [f32; 1] = [1.0];
        let x2: [f32; 2] = [1.0, 2.0];
        let g1: [f32; 1] = [-1.0];
        let g2: [f32; 2] = [-1.0, -3.0];
        let v1: [f32; 1] = [2.0];
        let v2: [f32; 2] = [4.0, 1.0];
        let h1: [f32; 1] = [0.5];
        let h2: [f32; 2] = [1.0, 10.0];
        let outputs =
            AdamMultiple::new().unwrap().infer(&r, &t, &x1, &x2, &g1, &g2, &v1, &v2, &h1, &h2).unwrap();
        check::<[f32; 1]>("x1_new", &outputs.x1_new, &[0.75913626]);
        check::<[f32; 2]>("x2_new", &outputs.x2_new, &[0.6286528, 1.9745853]);
        check::<[f32; 1]>("v1_new", &outputs.v1_new, &[1.85005]);
        check::<[f32; 2]>("v2_new", &outputs.v2_new, &[3.75005, 0.80009997]);
        check::<[f32; 1]>("h1_new", &outputs.h1_new, &[0.5747002]);
        check::<[f32; 2]>("h2_new", &outputs.h2_new, &[0.9997002, 9.848201]);
    }

    #[model("cases/momentum.onnx")]
    struct Momentum;

    #[test]
    fn momentum() {
        let r: f32 = 0.1;
        let t: i64 = 0;
        let x: [f32; 2] = [1.2, 2.8];
        let g: [f32; 2] = [-0.94, -2.5];
        let v: [f32; 2] = [1.7, 3.6];
        let outputs = Momentum::new().unwrap().infer(&r, &t, &x, &g, &v).unwrap();
        check::<[f32; 2]>("x_new", &outputs.x_new, &[1.13238, 2.70772]);
        check::<[f32; 2]>("v_new", &outputs.v_new, &[0.67620003, 0.9227998]);
    }

    #[model("cases/gradient_of_add_and_mul.onnx")]
    struct GradientOfAddAndMul;

    #[test]
    fn gradient_of_add_and_mul() {
        let a: f32 = 1.0;
        let b: f32 = 2.0;
        let outputs = GradientOfAddAndMul::new().unwrap().infer(&a, &b).unwrap();
        check::<f32>("d", &outputs.d, &3.0);
        check::<f32>("dd_da", &outputs.dd_da, &4.0);
        check::<f32>("dd_db", &outputs.dd_db, &1.0);
    }

    #[model("cases/training_dropout_zero_ratio_mask.onnx")]
    struct TrainingDropoutZeroRatioMask;

    #[test]
    fn training_dropout_zero_ratio_mask() {
        let x =
            stored::<[[[f32; 5]; 4]; 3]>(include_bytes!("../cases/training_dropout_zero_ratio_mask.x.pb"));
        let r: f32 = 0.0;
        let t: bool = true;
        let outputs = TrainingDropoutZeroRatioMask::new().unwrap().infer(&x, &r, &t).unwrap();
        check::<[[[f32; 5]; 4]; 3]>(
            "y",
            &outputs.y,
            &*stored(include_bytes!("../cases/training_dropout_zero_ratio_mask.y.pb")),
        );
        check::<[[[bool; 5]; 4]; 3]>(
            "z",
            &outputs.z,
            &*stored(include_bytes!("../cases/training_dropout_zero_ratio_mask.z.pb")),
        );
    }
}

mod quantization {
    use infer_embed::model;
    use suite_tests::check;

    #[model("cases/quantizelinear_int4.onnx")]
    struct QuantizelinearInt4;

    #[test]
    fn quantizelinear_int4() {
        let x: [[f32; 4]; 3] = [[0.0, 2.5, 4.8, 8.6], [-30.0, -20.0, 6.0, 9.0], [12.0, 15.0, 16.0, 40.0]];
        let y_scale: [f32; 3] = [2.0, 3.0, 4.0];
        let y_zero_point: [i8; 3] = [1, 1, 1];
        let outputs = QuantizelinearInt4::new().unwrap().infer(&x, &y_scale, &y_zero_point).unwrap();
        check::<[[i8; 4]; 3]>("y", &outputs.y, &[[1, 2, 3, 5], [-8, -6, 3, 4], [4, 5, 5, 7]]);
    }

    #[model("cases/quantizelinear_e5m2.onnx")]
    struct QuantizelinearE5m2;

    #[test]
    fn quantizelinear_e5m2() {
        let x: [f32; 5] = [0.0, 1.0, 2.0, 100000.0, 200.0];
        let y_scale: f32 = 2.0;
        let y_zero_point: [u8; 1] = [0];
        let outputs = QuantizelinearE5m2::new().unwrap().infer(&x, &y_scale, &y_zero_point).unwrap();
        check::<[u8; 5]>("y", &outputs.y, &[0, 56, 60, 122, 86]);
    }

    #[model("cases/quantizelinear_uint2.onnx")]
    struct QuantizelinearUint2;

    #[test]
    fn quantizelinear_uint2() {
        let x: [[f32; 4]; 3] = [[0.0, 2.5, 4.8, 8.6], [-2.0, -1.0, 1.0, 3.0], [4.0, 5.0, 6.0, 7.0]];
        let y_scale: [f32; 3] = [2.0, 3.0, 4.0];
        let y_zero_point: [u8; 3] = [0, 0, 0];
        let outputs = QuantizelinearUint2::new().unwrap().infer(&x, &y_scale, &y_zero_point).unwrap();
        check::<[[u8; 4]; 3]>("y", &outputs.y, &[[0, 1, 2, 3], [0, 0, 0, 1], [1, 1, 2, 2]]);
    }

    #[model("cases/dequantizelinear_float4e2m1.onnx")]
    struct DequantizelinearFloat4e2m1;

    #[test]
    fn dequantizelinear_float4e2m1() {
        let x: [u8; 5] = [0, 2, 10, 3, 14];
        let x_scale: f32 = 2.0;
        let x_zero_point: [u8; 1] = [0];
        let outputs = DequantizelinearFloat4e2m1::new().unwrap().infer(&x, &x_scale, &x_zero_point).unwrap();
        check::<[f32; 5]>("y", &outputs.y, &[0.0, 2.0, -2.0, 3.0, -8.0]);
    }

    #[model("cases/dequantizelinear_blocked.onnx")]
    struct DequantizelinearBlocked;

    #[test]
    fn dequantizelinear_blocked() {
        let x: [[[[u8; 2]; 3]; 4]; 1] = [[
            [[3, 89], [34, 200], [74, 59]],
            [[5, 24], [24, 87], [32, 13]],
            [[5, 12], [12, 33], [65, 42]],
            [[245, 99], [4, 142], [121, 102]],
        ]];
        let x_scale: [[[[f32; 2]; 3]; 2]; 1] =
            [[[[3.0, 2.0], [4.0, 1.0], [2.0, 2.0]], [[5.0, 2.0], [4.0, 3.0], [5.0, 2.0]]]];
        let x_zero_point: [[[[u8; 2]; 3]; 2]; 1] = [[[[1, 0], [0, 1], [2, 20]], [[3, 2], [4, 3], [15, 2]]]];
        let outputs = DequantizelinearBlocked::new().unwrap().infer(&x, &x_scale, &x_zero_point).unwrap();
        check::<[[[[f32; 2]; 3]; 4]; 1]>(
            "y",
            &outputs.y,
            &[[
                [[6.0, 178.0], [136.0, 199.0], [144.0, 78.0]],
                [[12.0, 48.0], [96.0, 86.0], [60.0, -14.0]],
                [[10.0, 20.0], [32.0, 90.0], [250.0, 80.0]],
                [[1210.0, 194.0], [0.0, 417.0], [530.0, 200.0]],
            ]],
        );
    }

    #[model("cases/dynamicquantizelinear.onnx")]
    struct Dynamicquantizelinear;

    #[test]
    fn dynamicquantizelinear() {
        let x: [f32; 6] = [0.0, 2.0, -3.0, -2.5, 1.34, 0.5];
        let outputs = Dynamicquantizelinear::new().unwrap().infer(&x).unwrap();
        check::<[u8; 6]>("y", &outputs.y, &[153, 255, 0, 26, 221, 179]);
        check::<f32>("y_scale", &outputs.y_scale, &0.019607844);
        check::<u8>("y_zero_point", &outputs.y_zero_point, &153);
    }
}

mod cast {
    use infer_embed::{bf16, f16, model};
    use suite_tests::check;

    #[model("cases/cast_BFLOAT16_to_FLOAT.onnx")]
    struct CastBFLOAT16ToFLOAT;

    #[test]
    fn cast_bfloat16_to_float() {
        let input: [[bf16; 4]; 3] = [
            [0.47851562, 0.48046875, 0.5, 0.8203125].map(bf16::from_f32),
            [0.47070312, 0.81640625, 0.2109375, 0.72265625].map(bf16::from_f32),
            [f32::NAN, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY].map(bf16::from_f32),
        ];
        let outputs = CastBFLOAT16ToFLOAT::new().unwrap().infer(&input).unwrap();
        check::<[[f32; 4]; 3]>(
            "output",
            &outputs.output,
            &[
                [0.47851562, 0.48046875, 0.5, 0.8203125],
                [0.47070312, 0.81640625, 0.2109375, 0.72265625],
                [f32::NAN, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY],
            ],
        );
    }

    #[model("cases/cast_FLOAT_to_FLOAT16.onnx")]
    struct CastFLOATToFLOAT16;

    #[test]
    fn cast_float_to_float16() {
        let input: [[f32; 4]; 3] = [
            [0.47892547, 0.48033667, 0.49968487, 0.81910545],
            [0.47031248, 0.816468, 0.21087195, 0.7229038],
            [f32::NAN, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY],
        ];
        let outputs = CastFLOATToFLOAT16::new().unwrap().infer(&input).unwrap();
        check::<[[f16; 4]; 3]>(
            "output",
            &outputs.output,
            &[
                [0.4790039, 0.4802246, 0.49975586, 0.81933594].map(f16::from_f32),
                [0.47021484, 0.81640625, 0.21081543, 0.72314453].map(f16::from_f32),
                [f32::NAN, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY].map(f16::from_f32),
            ],
        );
    }

    #[model("cases/cast_FLOAT_to_FLOAT8E4M3FN.onnx")]
    struct CastFLOATToFLOAT8E4M3FN;

    #[test]
    fn cast_float_to_float8e4m3fn() {
        let input: [[f32; 5]; 3] = [
            [0.47892547, 0.48033667, 0.49968487, 0.81910545, 0.47031248],
            [0.7229038, 1e+06, 1e-07, f32::NAN, f32::INFINITY],
            [f32::INFINITY, f32::NEG_INFINITY, -1e-07, 1e-07, -1e+06],
        ];
        let outputs = CastFLOATToFLOAT8E4M3FN::new().unwrap().infer(&input).unwrap();
        check::<[[u8; 5]; 3]>(
            "output",
            &outputs.output,
            &[[47, 47, 48, 53, 47], [52, 126, 0, 127, 126], [126, 254, 128, 0, 254]],
        );
    }

    #[model("cases/castlike_FLOAT16_to_INT4.onnx")]
    struct CastlikeFLOAT16ToINT4;

    #[test]
    fn castlike_float16_to_int4() {
        let input: [[f16; 5]; 5] = [
            [-9.0, -8.0, -7.0, -6.0, -5.0].map(f16::from_f32),
            [-4.0, -3.0, -2.0, -1.0, 0.0].map(f16::from_f32),
            [1.0, 2.0, 3.0, 4.0, 5.0].map(f16::from_f32),
            [6.0, 7.0, 8.0, 9.0, 10.0].map(f16::from_f32),
            [11.0, 12.0, 13.0, 14.0, 15.0].map(f16::from_f32),
        ];
        let like: [i8; 0] = [];
        let outputs = CastlikeFLOAT16ToINT4::new().unwrap().infer(&input, &like).unwrap();
        check::<[[i8; 5]; 5]>(
            "output",
            &outputs.output,
            &[
                [7, -8, -7, -6, -5],
                [-4, -3, -2, -1, 0],
                [1, 2, 3, 4, 5],
                [6, 7, -8, -7, -6],
                [-5, -4, -3, -2, -1],
            ],
        );
    }

    #[model("cases/cast_e8m0_FLOAT_to_FLOAT8E8M0.onnx")]
    struct CastE8m0FLOATToFLOAT8E8M0;

    #[test]
    fn cast_e8m0_float_to_float8e8m0() {
        let input: [[f32; 4]; 2] = [[0.0, 0.124, 0.25, 0.5], [1.1, 2.0, 4.0, 8.0]];
        let outputs = CastE8m0FLOATToFLOAT8E8M0::new().unwrap().infer(&input).unwrap();
        check::<[[u8; 4]; 2]>("output", &outputs.output, &[[0, 124, 125, 126], [128, 128, 129, 130]]);
    }

    #[model("cases/cast_UINT2_to_UINT8.onnx")]
    struct CastUINT2ToUINT8;

    #[test]
    fn cast_uint2_to_uint8() {
        let input: [[u8; 1]; 7] = [[1], [2], [3], [0], [1], [2], [3]];
        let outputs = CastUINT2ToUINT8::new().unwrap().infer(&input).unwrap();
        check::<[[u8; 1]; 7]>("output", &outputs.output, &[[1], [2], [3], [0], [1], [2], [3]]);
    }
}

mod ml {
    use infer_embed::model;
    use suite_tests::{check, stored};

    #[model("cases/ai_onnx_ml_label_encoder_string_int.onnx")]
    struct AiOnnxMlLabelEncoderStringInt;

    #[test]
    fn ai_onnx_ml_label_encoder_string_int() {
        let x: [String; 5] = ["a", "b", "d", "c", "g"].map(str::to_owned);
        let outputs = AiOnnxMlLabelEncoderStringInt::new().unwrap().infer(&x).unwrap();
        check::<[i64; 5]>("y", &outputs.y, &[0, 1, 42, 2, 42]);
    }

    #[model("cases/ai_onnx_ml_tree_ensemble_set_membership.onnx")]
    struct AiOnnxMlTreeEnsembleSetMembership;

    #[test]
    fn ai_onnx_ml_tree_ensemble_set_membership() {
        let x: [[f32; 1]; 6] = [[1.2], [3.4], [-0.12], [f32::NAN], [12.0], [7.0]];
        let outputs = AiOnnxMlTreeEnsembleSetMembership::new().unwrap().infer(&x).unwrap();
        check::<[[f32; 4]; 6]>(
            "y",
            &outputs.y,
            &[
                [1.0, 0.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 100.0],
                [0.0, 0.0, 0.0, 100.0],
                [0.0, 0.0, 1000.0, 0.0],
                [0.0, 0.0, 1000.0, 0.0],
                [0.0, 10.0, 0.0, 0.0],
            ],
        );
    }

    #[model("cases/ai_onnx_ml_array_feature_extractor.onnx")]
    struct AiOnnxMlArrayFeatureExtractor;

    #[test]
    fn ai_onnx_ml_array_feature_extractor() {
        let x: [[f32; 4]; 3] = [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]];
        let y: [i64; 2] = [0, 1];
        let outputs = AiOnnxMlArrayFeatureExtractor::new().unwrap().infer(&x, &y).unwrap();
        check::<[[f32; 2]; 3]>("z", &outputs.z, &[[0.0, 1.0], [4.0, 5.0], [8.0, 9.0]]);
    }

    #[model("cases/ai_onnx_ml_binarizer.onnx")]
    struct AiOnnxMlBinarizer;

    #[test]
    fn ai_onnx_ml_binarizer() {
        let x = stored::<[[[f32; 5]; 4]; 3]>(include_bytes!("../cases/ai_onnx_ml_binarizer.x.pb"));
        let outputs = AiOnnxMlBinarizer::new().unwrap().infer(&x).unwrap();
        check::<[[[f32; 5]; 4]; 3]>(
            "y",
            &outputs.y,
            &*stored(include_bytes!("../cases/ai_onnx_ml_binarizer.y.pb")),
        );
    }
}
