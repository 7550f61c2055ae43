//! Resize and Upsample against values of ONNX's reference.

use super::*;
use crate::calls::{Blocked, BufferKind, Calls};
use crate::constant::Constant;
use crate::ops::Attribute;
use crate::ops::InputType;
use crate::ops::test_support::{check, f32s, import, run, tensor};

fn strings(values: &[(&'static str, &str)]) -> Vec<(&'static str, Attribute)> {
    values.iter().map(|&(name, value)| (name, Attribute::String(value.into()))).collect()
}

fn ramp<const R: usize>(shape: [usize; R]) -> Constant {
    let values: Vec<f32> = (1..=shape.iter().product()).map(|v: usize| v as f32).collect();
    f32s(shape, &values)
}

fn squares<const R: usize>(shape: [usize; R]) -> Constant {
    let values: Vec<f32> = (0..shape.iter().product()).map(|v: usize| (v * v) as f32).collect();
    f32s(shape, &values)
}

fn by_scales(data: Constant, scales: &[f32]) -> [Constant; 3] {
    [data, f32s([0], &[]), tensor(DataType::F32, [scales.len()], scales)]
}

fn by_sizes(data: Constant, roi: &[f32], sizes: &[i64]) -> [Constant; 4] {
    [data, tensor(DataType::F32, [roi.len()], roi), f32s([0], &[]), Constant::of_i64(sizes)]
}

#[test]
fn nearest_follows_each_mode_of_rounding_and_coordinates() {
    // What each output column takes of a row 1 2 3 4 stretched to seven.
    let cases: [(&str, &str, [f32; 7]); 5] = [
        ("ceil", "half_pixel", [1., 2., 2., 3., 4., 4., 4.]),
        ("round_prefer_ceil", "asymmetric", [1., 2., 2., 3., 3., 4., 4.]),
        ("floor", "align_corners", [1., 1., 2., 2., 3., 3., 4.]),
        ("round_prefer_floor", "asymmetric", [1., 2., 2., 3., 3., 4., 4.]),
        ("round_prefer_floor", "half_pixel_symmetric", [1., 1., 2., 2., 3., 4., 4.]),
    ];
    for (nearest, coordinates, expected) in cases {
        let attributes =
            strings(&[("nearest_mode", nearest), ("coordinate_transformation_mode", coordinates)]);
        check(("Resize", 19), &attributes, &by_sizes(ramp([1, 4]), &[], &[1, 7]), &f32s([1, 7], &expected));
    }
    let attributes =
        strings(&[("nearest_mode", "floor"), ("coordinate_transformation_mode", "tf_half_pixel_for_nn")]);
    let expected = f32s([3, 2], &[2., 4., 10., 12., 14., 16.]);
    check(("Resize", 12), &attributes, &by_sizes(ramp([4, 4]), &[], &[3, 2]), &expected);
    let shrunk = f32s([1, 1, 1, 2], &[1.0, 3.0]);
    check(("Resize", 13), &[], &by_scales(ramp([1, 1, 2, 4]), &[1.0, 1.0, 0.6, 0.6]), &shrunk);
    let bytes = [tensor(DataType::U8, [2], &[3u8, 4]), f32s([0], &[]), f32s([1], &[1.5])];
    check(("Resize", 13), &[], &bytes, &tensor(DataType::U8, [3], &[3u8, 3, 4]));
}

#[test]
fn old_opsets_sample_asymmetrically() {
    let shrunk = f32s([1, 2], &[1.0, 3.0]);
    check(("Resize", 10), &[], &[ramp([2, 4]), f32s([2], &[0.6, 0.6])], &shrunk);
    let expected = f32s([4, 4], &[1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.]);
    check(("Upsample", 9), &[], &[ramp([2, 2]), f32s([2], &[2.0, 2.0])], &expected);
    let attributes =
        [("mode", Attribute::String("linear".into())), ("scales", Attribute::Floats(vec![1.0, 2.0]))];
    let expected = f32s([2, 4], &[1., 1.5, 2., 2., 3., 3.5, 4., 4.]);
    check(("Upsample", 7), &attributes, &[ramp([2, 2])], &expected);
}

#[test]
fn linear_agrees_with_onnx() {
    let linear =
        |coordinates| strings(&[("mode", "linear"), ("coordinate_transformation_mode", coordinates)]);
    let up = by_scales(ramp([1, 1, 2, 2]), &[1.0, 1.0, 2.0, 2.0]);
    let expected = [1., 1.25, 1.75, 2., 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3., 3.25, 3.75, 4.];
    check(("Resize", 11), &linear("half_pixel"), &up, &f32s([1, 1, 4, 4], &expected));
    let thirds = [3., 4., 5., 6., 5., 6., 7., 8., 7., 8., 9., 10., 9., 10., 11., 12.].map(|v: f32| v / 3.0);
    check(("Resize", 11), &linear("align_corners"), &up, &f32s([1, 1, 4, 4], &thirds));
    // The scale's own extent, 2.4, decides where the corner lies.
    let down = by_scales(ramp([1, 1, 2, 4]), &[1.0, 1.0, 0.6, 0.6]);
    check(("Resize", 13), &linear("align_corners"), &down, &f32s([1, 1, 1, 2], &[1.0, 3.142857]));
    check(("Resize", 13), &linear("half_pixel"), &down, &f32s([1, 1, 1, 2], &[2.6666667, 4.3333335]));
    let row = by_scales(ramp([1, 4]), &[1.0, 0.6]);
    check(("Resize", 19), &linear("half_pixel_symmetric"), &row, &f32s([1, 2], &[1.6666667, 3.3333333]));
    let column = by_sizes(ramp([4, 4]), &[], &[3, 1]);
    let expected = f32s([3, 1], &[1.6666667, 7.0, 12.333333]);
    check(("Resize", 13), &linear("pytorch_half_pixel"), &column, &expected);
    let mut antialias = linear("half_pixel");
    antialias.push(("antialias", Attribute::Int(1)));
    let down = by_scales(ramp([4, 4]), &[0.6, 0.6]);
    check(("Resize", 19), &antialias, &down, &f32s([2, 2], &[2.875, 4.5, 9.375, 11.0]));
}

#[test]
fn cubic_agrees_with_onnx() {
    let cubic = |more: &[(&'static str, Attribute)]| [&strings(&[("mode", "cubic")]), more].concat();
    let expected = [1.471191, 2.78125, 4.08252, 6.711426, 8.021484, 9.322754, 11.9165, 13.22656, 14.52783];
    check(("Resize", 19), &cubic(&[]), &by_scales(ramp([4, 4]), &[0.8, 0.8]), &f32s([3, 3], &expected));
    let asymmetric = ("coordinate_transformation_mode", Attribute::String("asymmetric".into()));
    let expected = [1., 1.40625, 2., 2.5, 3., 3.59375, 4., 4.09375];
    check(("Resize", 11), &cubic(&[asymmetric]), &by_scales(ramp([4]), &[2.0]), &f32s([8], &expected));
    let exclude = ("exclude_outside", Attribute::Int(1));
    let half = ("cubic_coeff_a", Attribute::Float(-0.5));
    let column = by_scales(ramp([4, 4]), &[1.5, 1.0]);
    let firsts = [14.0 / 19.0, 45.0 / 17.0, 17.0 / 3.0, 25.0 / 3.0, 193.0 / 17.0, 252.0 / 19.0];
    let expected: Vec<f32> = firsts.iter().flat_map(|v| [0., 1., 2., 3.].map(|column| v + column)).collect();
    check(("Resize", 19), &cubic(&[exclude.clone(), half]), &column, &f32s([6, 4], &expected));
    let antialias = ("antialias", Attribute::Int(1));
    let down = by_scales(ramp([4, 4]), &[0.6, 0.6]);
    let expected = f32s([2, 2], &[2.518072, 4.285886, 9.589328, 11.357142]);
    check(("Resize", 19), &cubic(std::slice::from_ref(&antialias)), &down, &expected);
    let expected = f32s([2, 2], &[2.607143, 4.390977, 9.742481, 11.526315]);
    check(("Resize", 19), &cubic(&[antialias, exclude]), &down, &expected);
}

#[test]
fn crops_extrapolate_outside() {
    let crop = |mode| {
        let mut attributes =
            strings(&[("mode", mode), ("coordinate_transformation_mode", "tf_crop_and_resize")]);
        attributes.push(("extrapolation_value", Attribute::Float(10.0)));
        attributes
    };
    let inside = by_sizes(ramp([4, 4]), &[0.4, 0.6, 0.6, 0.8], &[3, 3]);
    let expected = f32s([3, 3], &[7.6, 7.9, 8.2, 8.8, 9.1, 9.4, 10.0, 10.3, 10.6]);
    check(("Resize", 19), &crop("linear"), &inside, &expected);
    let outside = by_sizes(ramp([4, 4]), &[0.4, 0.6, 1.2, 1.7], &[3, 3]);
    let expected = f32s([3, 3], &[7.6, 10.0, 10.0, 12.4, 10.0, 10.0, 10.0, 10.0, 10.0]);
    check(("Resize", 19), &crop("linear"), &outside, &expected);
    let expected = f32s([3, 3], &[7.0, 10.0, 10.0, 11.0, 10.0, 10.0, 10.0, 10.0, 10.0]);
    check(("Resize", 19), &crop("nearest"), &outside, &expected);
    let nowhere = by_sizes(ramp([4, 4]), &[2.0, 0.0, 3.0, 1.0], &[2, 2]);
    check(("Resize", 19), &crop("linear"), &nowhere, &f32s([2, 2], &[10.0; 4]));
}

#[test]
fn any_axes_are_resampled() {
    let linear = strings(&[("mode", "linear")]);
    let expected = [
        0., 0.25, 0.75, 1., 2., 2.75, 4.25, 5., 4., 5.25, 7.75, 9., 8., 9.25, 11.75, 13., 14., 15.75, 19.25,
        21., 20., 22.25, 26.75, 29., 16., 18.25, 22.75, 25., 26., 28.75, 34.25, 37., 36., 39.25, 45.75, 49.,
    ];
    let volume = by_scales(squares([1, 1, 2, 2, 2]), &[1.0, 1.0, 1.5, 1.5, 2.0]);
    check(("Resize", 19), &linear, &volume, &f32s([1, 1, 3, 3, 4], &expected));
    let expected = [
        0., 1., 4., 2.25, 4.75, 9.25, 6.75, 12.25, 19.75, 9., 16., 25., 18., 25., 34., 24.75, 33.25, 43.75,
        38.25, 49.75, 63.25, 45., 58., 73., 36., 49., 64., 47.25, 61.75, 78.25, 69.75, 87.25, 106.75, 81.,
        100., 121.,
    ];
    let channels_last = by_scales(squares([1, 2, 2, 3]), &[1.0, 1.5, 2.0, 1.0]);
    check(("Resize", 19), &linear, &channels_last, &f32s([1, 3, 4, 3], &expected));
    let expected = [
        0., 0.5, 1.5, 3.5, 9., 12.5, 17.5, 23.5, 18., 21.5, 26.5, 32.5, 45., 51.5, 60.5, 70.5, 36., 42.5,
        51.5, 61.5, 81., 90.5, 103.5, 117.5,
    ];
    let apart = by_scales(squares([2, 2, 3]), &[1.5, 1.0, 1.5]);
    check(("Resize", 19), &linear, &apart, &f32s([3, 2, 4], &expected));
    let same = by_scales(ramp([2, 2]), &[1.0, 1.0]);
    check(("Resize", 19), &linear, &same, &ramp([2, 2]));
}

#[test]
fn sizes_may_keep_the_aspect_ratio() {
    let policy = |policy| {
        let axes = ("axes", Attribute::Ints(vec![1, -1]));
        [&strings(&[("keep_aspect_ratio_policy", policy)]), &[axes][..]].concat()
    };
    let expected = f32s([1, 2, 3], &[1., 2., 4., 5., 6., 8.]);
    check(("Resize", 18), &policy("not_smaller"), &by_sizes(ramp([1, 2, 4]), &[], &[1, 3]), &expected);
    let grown = run(("Resize", 18), &policy("not_larger"), &by_sizes(ramp([1, 2, 4]), &[], &[7, 8])).unwrap();
    assert_eq!(grown.ty().shape, [1, 4, 8]);
}

#[test]
fn blocked_pictures_are_resampled_where_they_lie() {
    let op = import(("Resize", 13), &[], 3, 1).unwrap();
    let ty = TensorType::new(DataType::F32, [1, 20, 2, 3]);
    let scales = f32s([4], &[1.0, 1.0, 2.0, 1.0]);
    let input = |ty, constant| Some(InputType { ty, constant });
    let inputs = [input(&ty, None), None, input(scales.ty(), Some(&scales))];
    assert_eq!(op.blocking(&NodeTypes { inputs: &inputs, outputs: &[true] }), Blocking::Follows);

    let mut calls = Calls::default();
    let mut tensor = |h: usize| {
        let row = 48;
        let (ty, block) = (TensorType::new(DataType::F32, [1, 20, h, 3]), h as u64 * row);
        let buffer = calls.add_buffer(BufferKind::Arena, 2 * block * 4);
        let view = View { offset: 0, stride_n: 2 * block, stride_c: block, stride_h: row, stride_w: 16 };
        Tensor { ty, span: calls.whole(buffer), blocked: Some(Blocked { block: 16, view, halo: [0; 4] }) }
    };
    let (small, large) = (tensor(2), tensor(4));
    let scales_buffer = calls.add_constant(scales.data().clone());
    let scales_tensor = Tensor { ty: scales.ty().clone(), span: calls.whole(scales_buffer), blocked: None };
    op.lower(&mut LowerNode {
        calls: &mut calls,
        name: "resize",
        inputs: vec![Some(small), None, Some(scales_tensor)],
        constants: vec![None, None, Some(&scales)],
        outputs: vec![Some(large)],
        half_weights: false,
        winograd: None,
    })
    .unwrap();
    let [call] = calls.calls.as_slice() else { panic!("{:?}", calls.calls) };
    let params: call::Resize = bytemuck::pod_read_unaligned(&call.params);
    assert_eq!((call.kernel.as_str(), params.lanes, params.blocks), ("resize_f32", 16, 2));
    assert_eq!((params.in_h, params.out_h, params.taps_h, params.taps_w), (2, 4, 1, 1));
    let indices = call.operands[1].map(|span| calls.buffers[span.buffer.0 as usize].kind.clone());
    let Some(BufferKind::Constant(indices)) = indices else { panic!("indices are data") };
    assert_eq!(indices[..], *bytemuck::cast_slice::<i64, u8>(&[0, 0, 1, 1, 0, 1, 2]));
}

#[test]
fn other_types_are_interpolated_too() {
    let linear = strings(&[("mode", "linear"), ("coordinate_transformation_mode", "asymmetric")]);
    let doubled = |data| [data, f32s([0], &[]), f32s([1], &[2.0])];
    let doubles = doubled(tensor(DataType::F64, [2], &[1e300f64, 2e300]));
    check(("Resize", 13), &linear, &doubles, &tensor(DataType::F64, [4], &[1e300f64, 1.5e300, 2e300, 2e300]));
    let bytes = doubled(tensor(DataType::U8, [2], &[1u8, 2]));
    check(("Resize", 13), &linear, &bytes, &tensor(DataType::U8, [4], &[1u8, 1, 2, 2]));
    let halves = |values: &[f32]| values.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>();
    let half = doubled(tensor(DataType::F16, [2], &halves(&[1.0, 2.0])));
    check(("Resize", 13), &linear, &half, &tensor(DataType::F16, [4], &halves(&[1.0, 1.5, 2.0, 2.0])));
}

#[test]
fn what_cannot_be_resized_is_refused() {
    let data = ramp([2, 2]);
    for wrong in [[0.0, 1.0], [-1.0, 1.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0], [1e30, 1e30]] {
        assert!(run(("Resize", 13), &[], &by_scales(data.clone(), &wrong)).is_err());
    }
    assert!(run(("Resize", 13), &[], &by_scales(data.clone(), &[2.0])).is_err());
    assert!(run(("Resize", 13), &[], &by_sizes(data.clone(), &[], &[2, -2])).is_err());
    assert!(run(("Resize", 13), &[], &by_sizes(data.clone(), &[], &[])).is_err());
    assert!(run(("Resize", 13), &[], &by_sizes(f32s([0, 2], &[]), &[], &[2, 2])).is_err());
    let huge = by_sizes(ramp([1]), &[], &[1 << 32]);
    assert!(run(("Resize", 13), &[], &huge).is_err());
    let truths = [tensor(DataType::Bool, [1], &[1u8]), f32s([0], &[]), f32s([1], &[2.0])];
    assert!(run(("Resize", 13), &strings(&[("mode", "linear")]), &truths).is_err());
    let crop = strings(&[("coordinate_transformation_mode", "tf_crop_and_resize")]);
    assert!(run(("Resize", 13), &crop, &by_scales(data, &[1.0, 1.0])).is_err());
    assert!(import(("Resize", 18), &[("antialias", Attribute::Int(1))], 3, 1).is_err());
    assert!(import(("Resize", 10), &strings(&[("mode", "cubic")]), 2, 1).is_err());
    let empty = [f32s([1, 0], &[]), f32s([0], &[]), f32s([2], &[2.0, 2.0])];
    check(("Resize", 13), &[], &empty, &f32s([2, 0], &[]));
}
