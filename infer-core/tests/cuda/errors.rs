//! What cannot be: errors that say so, after which the engine stays of use.

use infer_core::plan::AlignedBytes;
use infer_core::runtime::Output;
use infer_core::runtime::cuda::CudaOptions;
use infer_kernels::cuda::MODULES;

use super::*;

#[test]
fn what_has_no_kernel_is_named() {
    let mut graph = model(
        "input x 1,65536,32768
         a = LRN(x) size=3
         y = ReduceLogSum(a)
         output y",
    );
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let failures = Lowered::of(&graph, Precision::Fp16, ModelInfo::default()).unwrap_err();
    let message = failures.into_diagnostic("m.onnx").message;
    assert!(message.contains("(LRN): f32[1,65536,32768] on the GPU"), "{message}");
    assert!(message.contains("(ReduceLogSum)"), "{message}");
}

#[test]
fn bad_requests_are_errors_of_their_own_kind() {
    let mut graph = model(
        "input x 1,8,5,7
         y = Relu(x)
         output y",
    );
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let plan = Lowered::of(&graph, Precision::Fp16, ModelInfo::default()).unwrap().plan().unwrap();
    let bytes = plan.as_slice().to_vec();
    let Some(engine) = open(plan) else { return };
    let mut nowhere = CudaOptions::default();
    nowhere.device = 4096;
    let again = AlignedBytes::copy_of(&bytes).unwrap();
    assert_eq!(CudaEngine::open(again, MODULES, nowhere).unwrap_err().kind(), ErrorKind::NoDevice);

    let mut output = vec![0u8; 8 * 5 * 7 * 4];
    let error = engine.run(&[&[0; 4]], &mut [Output::from(output.as_mut_slice())]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(engine.run(&[], &mut []).is_err());
    // The engine stays of use, from several threads at a time.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut output = vec![0xAAu8; 8 * 5 * 7 * 4];
                let input = vec![0u8; output.len()];
                for _ in 0..20 {
                    engine.run(&[&input], &mut [Output::from(output.as_mut_slice())]).unwrap();
                    assert!(output.iter().all(|&byte| byte == 0));
                }
            });
        }
    });
}

#[test]
fn more_memory_than_there_is_is_an_error() {
    // 64 pictures of 2 GiB each that live at the same time.
    let mut text = "input x 1,8,8192,8192\n".to_owned();
    let mut sum = "x".to_owned();
    for index in 0..80 {
        // Of different widths, so that each is computed.
        let (left, right) = (index / 2, index - index / 2);
        text += &format!("a{index} = MaxPool(x) kernel_shape=[1,{}] pads=[0,{left},0,{right}]\n", index + 1);
    }
    for index in 0..80 {
        text += &format!("s{index} = Add({sum}, a{index})\n");
        sum = format!("s{index}");
    }
    text += &format!("output {sum}");
    let mut graph = model(&text);
    passes::simplify(&mut graph, |_, _| {}).unwrap();
    let plan = Lowered::of(&graph, Precision::Fp32, ModelInfo::default()).unwrap().plan().unwrap();
    let Some(engine) = open(plan) else { return };
    let input = AlignedBytes::zeroed(8 * 8192 * 8192 * 4).unwrap();
    let mut output = vec![0u8; 8 * 8192 * 8192 * 4];
    let error = engine.run(&[input.as_slice()], &mut [Output::from(output.as_mut_slice())]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    assert!(error.to_string().contains("are free"), "{error}");
}
