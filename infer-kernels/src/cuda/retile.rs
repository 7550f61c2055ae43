//! Weights of a plan for the processor in the order in which the GPU's kernels read them.

use bytemuck::{Pod, Zeroable};

use super::{CudaKernel, LANES, Launch, positive, product};
use crate::call::BLOCK;
use crate::{Call, Invalid};

/// `cuda_retile_*`: weights of a convolution or product, `[outputs][taps][inputs]` with outputs and inputs padded by zeros
/// to multiples of [`LANES`], from the panels of the processor's convolutions (see [`Conv`](crate::call::Conv)); or
/// elements in the order that they have.
///
/// Operands: the weights as they lie; the weights as they are read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Retile {
    /// Output channels.
    pub outputs: i32,
    /// Taps.
    pub taps: i32,
    /// Input channels.
    pub inputs: i32,
    /// 1: from panels; 0: elements stay in their order, and nothing is padded.
    pub panels: i32,
}

/// A way to store weights: the kernel, the sizes of an element before and after, and what is stored of its bits.
#[derive(Debug)]
pub struct Stored {
    /// The kernel.
    pub kernel: &'static str,
    /// The size of an element as it lies.
    pub from_bytes: u64,
    /// The size of an element as it is read.
    pub to_bytes: u64,
    /// An element's bits as it is read.
    pub convert: fn(u32) -> u32,
}

impl Stored {
    /// Elements of 16 bits as they are.
    pub const F16: Stored =
        Stored { kernel: "cuda_retile_f16", from_bytes: 2, to_bytes: 2, convert: |bits| bits };
    /// Elements of 32 bits as they are.
    pub const F32: Stored =
        Stored { kernel: "cuda_retile_f32", from_bytes: 4, to_bytes: 4, convert: |bits| bits };
    /// f32 with ten bits behind the point of its mantissa.
    pub const TF32: Stored = Stored {
        kernel: "cuda_retile_f32_tf32",
        from_bytes: 4,
        to_bytes: 4,
        convert: |bits| round_to_tf32(f32::from_bits(bits)).to_bits(),
    };
    /// f32 as bf16.
    pub const BF16: Stored = Stored {
        kernel: "cuda_retile_f32_bf16",
        from_bytes: 4,
        to_bytes: 2,
        convert: |bits| half::bf16::from_f32(f32::from_bits(bits)).to_bits().into(),
    };
}

/// The nearest number with ten bits behind the point of its mantissa, which is what matrix units read of an f32.
pub fn round_to_tf32(value: f32) -> f32 {
    if !value.is_finite() {
        return value;
    }
    f32::from_bits(value.to_bits().wrapping_add(1 << 12) & !0x1FFF)
}

impl Retile {
    /// So many elements, in the order that they have.
    pub fn in_order(elements: i32) -> Self {
        Retile { outputs: elements, taps: 1, inputs: 1, panels: 0 }
    }

    /// How many elements it reads at most, and how many it writes; `None` for extents that no kernel takes.
    pub fn elements(&self) -> Option<(u64, u64)> {
        let [outputs, taps, inputs] = self.extents().ok()?;
        if self.panels == 0 {
            let count = product(&[outputs, taps, inputs]).ok()?;
            return Some((count, count));
        }
        let (block, lanes) = (BLOCK as u64, LANES as u64);
        let from = product(&[outputs.next_multiple_of(block), taps, inputs]).ok()?;
        let to = product(&[outputs.next_multiple_of(lanes), taps, inputs.next_multiple_of(lanes)]).ok()?;
        Some((from, to))
    }

    fn extents(&self) -> Result<[u64; 3], Invalid> {
        if !(0..=1).contains(&self.panels) {
            return Err(Invalid("an unknown order of weights"));
        }
        Ok([positive(self.outputs)?, positive(self.taps)?, positive(self.inputs)?])
    }

    /// Where the element at `index` of those that it writes lies among those that it reads; `None` in the padding.
    pub fn source(&self, index: usize) -> Option<usize> {
        if self.panels == 0 {
            return Some(index);
        }
        let [outputs, taps, inputs] = [self.outputs, self.taps, self.inputs].map(|extent| extent as usize);
        let width = inputs.next_multiple_of(LANES);
        let (c, tap, o) = (index % width, index / width % taps, index / width / taps);
        if c >= inputs || o >= outputs {
            return None;
        }
        let block = c / BLOCK * BLOCK;
        let row = block * taps + tap * (inputs - block).min(BLOCK) + c % BLOCK;
        Some((o / BLOCK * inputs * taps + row) * BLOCK + o % BLOCK)
    }
}

fn validate(call: &Call<'_>, stored: &Stored) -> Result<(), Invalid> {
    let p: &Retile = call.params()?;
    call.expect_operands(2)?;
    p.extents()?;
    let (from, to) = p.elements().ok_or(Invalid("more than 2^31 elements"))?;
    call.expect_elements(0, Some(from), stored.from_bytes)?;
    call.expect_elements(1, Some(to), stored.to_bytes)
}

fn launch(params: &[u8]) -> Launch {
    let p: &Retile = bytemuck::from_bytes(params);
    Launch::flat(p.elements().map_or(0, |(_, to)| to))
}

macro_rules! kernels {
    ($($stored:ident)*) => {
        &[$(CudaKernel {
            name: Stored::$stored.kernel,
            module: "retile",
            validate: |call| validate(call, &Stored::$stored),
            launch,
            most_shared_bytes: 0,
            copies: None,
        }),*]
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! { F16 F32 TF32 BF16 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_found_once_and_inside_of_what_is_read() {
        for (outputs, taps, inputs, panels) in
            [(1, 1, 1, 1), (17, 9, 18, 1), (33, 4, 47, 1), (16, 1, 64, 1), (7, 49, 3, 1), (100, 1, 1, 0)]
        {
            let p = Retile { outputs, taps, inputs, panels };
            let (from, to) = p.elements().unwrap();
            let mut found: Vec<usize> = (0..to as usize).filter_map(|index| p.source(index)).collect();
            assert_eq!(found.len() as i32, outputs * taps * inputs);
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len() as i32, outputs * taps * inputs, "{p:?}");
            assert!(found.iter().all(|&at| at < from as usize), "{p:?}");
        }
    }

    #[test]
    fn operands_are_bounded() {
        let kernel = |name: &str| super::super::find(name).unwrap();
        let check = |name: &str, p: Retile, sizes: &[u64]| {
            (kernel(name).validate)(&Call { params: bytemuck::bytes_of(&p), operand_bytes: sizes })
        };
        let p = Retile { outputs: 17, taps: 9, inputs: 18, panels: 1 };
        let sizes = [32 * 9 * 18 * 2, 24 * 9 * 24 * 2];
        assert!(check("cuda_retile_f16", p, &sizes).is_ok());
        for wrong in [[sizes[0] - 1, sizes[1]], [sizes[0], sizes[1] - 1], [0, sizes[1]]] {
            assert!(check("cuda_retile_f16", p, &wrong).is_err());
        }
        assert!(check("cuda_retile_f16", p, &sizes[..1]).is_err());
        assert!(check("cuda_retile_f32", p, &sizes.map(|size| 2 * size)).is_ok());
        assert!(check("cuda_retile_f32", p, &sizes).is_err());
        assert!(check("cuda_retile_f32_bf16", p, &[2 * sizes[0], sizes[1]]).is_ok());
        assert!(check("cuda_retile_f32_tf32", Retile::in_order(5), &[20, 20]).is_ok());
        assert!(check("cuda_retile_f32_tf32", Retile::in_order(5), &[19, 20]).is_err());
        for wrong in [
            Retile { outputs: 0, ..p },
            Retile { taps: -1, ..p },
            Retile { panels: 2, ..p },
            Retile { outputs: i32::MAX, ..p },
            Retile { inputs: i32::MAX, outputs: i32::MAX, taps: i32::MAX, panels: 0 },
        ] {
            assert!(check("cuda_retile_f16", wrong, &[u64::MAX; 2]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rounding_keeps_what_is_no_number() {
        let bits = |value: f32| value.to_bits();
        assert_eq!((Stored::TF32.convert)(bits(1.0 + 1.0 / 2048.0)), bits(1.0 + 1.0 / 1024.0));
        assert_eq!((Stored::TF32.convert)(bits(f32::INFINITY)), bits(f32::INFINITY));
        assert_eq!((Stored::TF32.convert)(0x7F80_0001), 0x7F80_0001);
        assert_eq!((Stored::BF16.convert)(bits(1.0 + 1.0 / 256.0)), 0x3F80);
        assert_eq!((Stored::BF16.convert)(0x7F80_0001), 0x7FC0);
    }
}
