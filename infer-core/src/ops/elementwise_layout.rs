//! Which layouts elementwise nodes work on.

use crate::calls::by_channel;
use crate::ops::{Blocking, NodeTypes, broadcast};
use crate::tensor_type::DataType;

/// [`Blocking::Follows`] for an elementwise node whose operands a walk over NCHW16c can serve: all f32; the output
/// `[N, C, H, W]`; inputs of the same rank, but for constants of one element or one for each channel.
pub fn blocking(node: &NodeTypes<'_>) -> Blocking {
    let shapes: Vec<&[usize]> = node.inputs.iter().flatten().map(|input| input.ty.shape.as_slice()).collect();
    let Ok(output) = broadcast(&shapes) else { return Blocking::Never };
    let [_, channels, ..] = *output.as_slice() else { return Blocking::Never };
    let serves = |input: &super::InputType<'_>| {
        input.ty.dtype == DataType::F32
            && match input.constant {
                Some(_) => input.ty.elements() == 1 || by_channel(input.ty, channels),
                None => input.ty.rank() == 4,
            }
    };
    let pictures = node.inputs.iter().flatten().filter(|input| input.constant.is_none()).count();
    match output.len() == 4 && pictures > 0 && node.inputs.iter().flatten().all(serves) {
        true => Blocking::Follows,
        false => Blocking::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constant::Constant;
    use crate::ops::InputType;
    use crate::tensor_type::TensorType;

    #[test]
    fn pictures_follow_and_the_rest_does_not() {
        let check = |inputs: &[(&[usize], bool, DataType)]| {
            let owned: Vec<_> = inputs
                .iter()
                .map(|&(shape, constant, dtype)| {
                    let ty = TensorType::new(dtype, shape);
                    let data = vec![0u8; ty.bytes()];
                    let constant = constant.then(|| Constant::new(ty.clone(), data.into())).flatten();
                    (ty, constant)
                })
                .collect();
            let inputs: Vec<_> = owned
                .iter()
                .map(|(ty, constant)| Some(InputType { ty, constant: constant.as_ref() }))
                .collect();
            blocking(&NodeTypes { inputs: &inputs, outputs: &[true] })
        };
        let picture: (&[usize], bool, DataType) = (&[2, 20, 5, 7], false, DataType::F32);
        assert_eq!(check(&[picture]), Blocking::Follows);
        assert_eq!(check(&[picture, (&[2, 20, 1, 1], false, DataType::F32)]), Blocking::Follows);
        assert_eq!(check(&[picture, (&[20, 1, 1], true, DataType::F32)]), Blocking::Follows);
        assert_eq!(check(&[picture, (&[], true, DataType::F32)]), Blocking::Follows);
        let others: [(&[usize], bool, DataType); 6] = [
            (&[20, 1, 1], false, DataType::F32),
            (&[7], true, DataType::F32),
            (&[], true, DataType::I64),
            (&[2, 20, 5, 7], false, DataType::F16),
            (&[1, 2, 20, 5, 7], false, DataType::F32),
            (&[3], false, DataType::F32),
        ];
        for other in others {
            assert_eq!(check(&[picture, other]), Blocking::Never, "{other:?}");
        }
        assert_eq!(check(&[(&[2, 20, 5, 7], true, DataType::F32)]), Blocking::Never);
    }
}
