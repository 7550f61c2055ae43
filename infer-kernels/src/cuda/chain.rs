//! Chains of elementwise functions: a short program over every element of a common space, as one launch.

use bytemuck::{Pod, Zeroable};

use super::rows::{axes, count, expect_count, reach};
use super::{AXES, CudaKernel, ElementType, Launch};
use crate::call::ActivationKind;
use crate::{Call, Invalid};

/// The most inputs of a [`Chain`].
pub const CHAIN_INPUTS: usize = 8;

/// The most outputs of a [`Chain`].
pub const CHAIN_OUTPUTS: usize = 4;

/// The most steps of a [`Chain`].
pub const CHAIN_STEPS: usize = 32;

/// The most slots of a [`Chain`], by the shared memory that any launch may have without asking.
pub const CHAIN_SLOTS: usize = 12;

/// Threads of a block.
const THREADS: u32 = 128;

/// What a [`Step`] has beside the operations of [`ElementOp`](super::ElementOp) and the numbers of slots.
pub mod step {
    /// Operation: 1 where a is not zero, else 0.
    pub const TRUTH: u8 = 22;
    /// Operation: a, rounded to tf32.
    pub const ROUND_TF32: u8 = 23;
    /// Operation: writes a to the output that `result` names, and leaves it as what the step made.
    pub const STORE: u8 = 24;
    /// The first of the operations that are activations of a, by their kind.
    pub const ACTIVATIONS: u8 = 64;
    /// Operand: what the step before made.
    pub const LAST: u8 = 253;
    /// Operand: the step's alpha.
    pub const ALPHA: u8 = 254;
    /// Operand: the step's beta.
    pub const BETA: u8 = 255;
    /// Result: in no slot, since the next step alone reads it.
    pub const NOWHERE: u8 = 255;
}

/// One function in a [`Chain`]: of a, b and c.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Step {
    /// An [`ElementOp`](super::ElementOp) or one of [`step`].
    pub operation: u8,
    /// The slot of the result, or one of [`step`].
    pub result: u8,
    /// Slots, or of [`step`].
    pub operands: [u8; 3],
    /// Zero.
    pub reserved: [u8; 3],
    /// A constant of the function, or an operand.
    pub alpha: f32,
    /// Likewise.
    pub beta: f32,
}

impl Step {
    /// An operation of these operands, whose constants are zero and whose result no slot holds.
    pub fn new(operation: u8, operands: &[u8]) -> Step {
        let mut codes = [step::LAST; 3];
        codes.iter_mut().zip(operands).for_each(|(code, &operand)| *code = operand);
        Step { operation, result: step::NOWHERE, operands: codes, ..Step::default() }
    }

    fn validate(&self, chain: &Chain) -> Result<(), Invalid> {
        const ACTIVATIONS: std::ops::RangeInclusive<u8> =
            step::ACTIVATIONS..=step::ACTIVATIONS + ActivationKind::Mish as u8;
        let is_known =
            matches!(self.operation, 0..=step::STORE | 32..=47) || ACTIVATIONS.contains(&self.operation);
        let is_slot = |code: u8| i32::from(code) < chain.slots;
        let fits = match self.operation {
            step::STORE => i32::from(self.result) < chain.output_count,
            _ => self.result == step::NOWHERE || is_slot(self.result),
        };
        if !is_known || !fits || !self.operands.iter().all(|&code| code >= step::LAST || is_slot(code)) {
            return Err(Invalid("a step that is not there, or that names what is not there"));
        }
        Ok(())
    }
}

/// `cuda_chain`, `cuda_chain8`: the steps of a program for each element of a space, in f32. Input number k is in slot
/// number k before the first step.
///
/// Operands: [`CHAIN_INPUTS`] inputs, of which those beyond `input_count` are absent, and [`CHAIN_OUTPUTS`] outputs likewise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Chain {
    /// The extents that are walked; 1 where there are fewer axes.
    pub extents: [i32; AXES],
    /// Between elements of each input, along each axis.
    pub strides: [[i32; AXES]; CHAIN_INPUTS],
    /// Between elements of each output.
    pub out_strides: [[i32; AXES]; CHAIN_OUTPUTS],
    /// The first element of each input.
    pub offsets: [i32; CHAIN_INPUTS],
    /// The first element of each output.
    pub out_offsets: [i32; CHAIN_OUTPUTS],
    /// The [`ElementType`] of each input.
    pub types: [i32; CHAIN_INPUTS],
    /// That of each output.
    pub out_types: [i32; CHAIN_OUTPUTS],
    /// The product of the extents.
    pub elements: i32,
    /// How many inputs there are.
    pub input_count: i32,
    /// How many outputs there are.
    pub output_count: i32,
    /// How many steps there are.
    pub step_count: i32,
    /// How many slots there are, those of the inputs among them.
    pub slots: i32,
    /// Zero.
    pub reserved: i32,
    /// The program.
    pub steps: [Step; CHAIN_STEPS],
}

impl Chain {
    /// The kernel for the call: one that computes eight elements at once, where they lie so.
    pub fn kernel(&self) -> &'static str {
        if self.is_in_eights() { "cuda_chain8" } else { "cuda_chain" }
    }

    /// Whether eight neighbours along the last axis can be read and written at once.
    fn is_in_eights(&self) -> bool {
        const LAST: usize = AXES - 1;
        let in_eights = |offset: i32, strides: &[i32; AXES]| {
            offset % 8 == 0 && strides[..LAST].iter().all(|stride| stride % 8 == 0) && strides[LAST] == 1
        };
        let inputs = self.offsets.iter().zip(&self.strides).zip(self.types).take(self.input_count as usize);
        let outputs = self.out_offsets.iter().zip(&self.out_strides).take(self.output_count as usize);
        self.extents[LAST] % 8 == 0
            && inputs.into_iter().all(|((&offset, strides), ty)| {
                // Elements of 8 bytes are more than the kernel has room for.
                ty != ElementType::I64 as i32 && (strides[LAST] == 0 || in_eights(offset, strides))
            })
            && outputs.into_iter().all(|(&offset, strides)| in_eights(offset, strides))
    }
}

fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &Chain = call.params()?;
    call.expect_operands(CHAIN_INPUTS + CHAIN_OUTPUTS)?;
    expect_count(p.elements, count(&p.extents)?)?;
    let fits = (0..=CHAIN_INPUTS as i32).contains(&p.input_count)
        && (1..=CHAIN_OUTPUTS as i32).contains(&p.output_count)
        && (1..=CHAIN_STEPS as i32).contains(&p.step_count)
        && (p.input_count..=CHAIN_SLOTS as i32).contains(&p.slots);
    if !fits {
        return Err(Invalid("a chain that is too long or too wide"));
    }
    let expect = |operand, offset, strides, ty| {
        let ty = ElementType::from_number(ty)?;
        call.expect_elements(operand, Some(reach(offset, axes(p.extents, strides))?), ty.bytes())
    };
    for k in 0..p.input_count as usize {
        expect(k, p.offsets[k], p.strides[k], p.types[k])?;
    }
    for k in 0..p.output_count as usize {
        expect(CHAIN_INPUTS + k, p.out_offsets[k], p.out_strides[k], p.out_types[k])?;
    }
    p.steps[..p.step_count as usize].iter().try_for_each(|step| step.validate(p))
}

fn validate8(call: &Call<'_>) -> Result<(), Invalid> {
    validate(call)?;
    let p: &Chain = call.params()?;
    if p.is_in_eights() { Ok(()) } else { Err(Invalid("elements that do not lie in groups of eight")) }
}

/// So many elements a thread.
fn launch(params: &[u8], each: u32) -> Launch {
    let p: &Chain = bytemuck::from_bytes(params);
    Launch {
        grid: [(p.elements as u32).div_ceil(THREADS * each), 1],
        cluster: 1,
        threads: THREADS,
        shared_bytes: p.slots as u32 * THREADS * each * 4,
    }
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = &[
    CudaKernel {
        name: "cuda_chain",
        module: "chain",
        validate,
        launch: |params| launch(params, 4),
        // No more than any launch may have without asking.
        most_shared_bytes: 0,
        copies: None,
    },
    CudaKernel {
        name: "cuda_chain8",
        module: "chain",
        validate: validate8,
        launch: |params| launch(params, 8),
        most_shared_bytes: 0,
        copies: None,
    },
];
