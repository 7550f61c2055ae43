//! What a kernel is, and what it is called with.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;

use crate::{Isa, threads};

/// Runs chunk `chunk` of `chunks` of one call.
///
/// # Safety
///
/// The call's parameters and operand sizes passed [`Kernel::validate`]; every operand points at that many
/// readable bytes (writable for outputs) which nothing else writes during the call; the processor supports the
/// instruction set that the function was compiled for; each chunk runs once.
pub type ChunkFn = unsafe fn(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError>;

/// One kernel: a name, a bounds check, a work split and an implementation per instruction set.
pub struct Kernel {
    /// The name plans know it by, and, in capitals, its item in [`crate::kernels`].
    pub name: &'static str,
    /// Checks that every range the kernel will touch lies inside its operands. Never panics.
    pub validate: fn(&Call<'_>) -> Result<(), Invalid>,
    /// How many chunks the call splits into for a team of so many threads, at least one. The chunks are
    /// independent of each other and may run at the same time.
    pub chunks: fn(args: &Args<'_>, threads: usize) -> usize,
    /// The implementations.
    pub run: PerIsa,
}

impl Kernel {
    /// Runs all chunks of one call by `run`, one of the kernel's implementations, on at most so many threads.
    ///
    /// # Errors
    ///
    /// That of the first chunk which has one.
    ///
    /// # Safety
    ///
    /// As for [`ChunkFn`].
    pub unsafe fn run_chunks(&self, run: ChunkFn, args: &Args<'_>, threads: usize) -> Result<(), RunError> {
        let chunks = (self.chunks)(args, threads).max(1);
        let failure: Mutex<Option<(usize, RunError)>> = Mutex::new(None);
        let task = |chunk: usize| {
            // SAFETY: the caller answers for the call and the processor; `run_if_awake` runs each chunk once.
            if let Err(error) = unsafe { run(args, chunk, chunks) } {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                // The first chunk's error, so that the message does not depend on timing.
                if failure.is_none_or(|(first, _)| chunk < first) {
                    *failure = Some((chunk, error));
                }
            }
        };
        // A chunk is worth about a microsecond.
        let is_worth_waking = || (self.chunks)(args, threads::WORTH_WAKING) >= threads::WORTH_WAKING;
        threads::run_if_awake(threads, chunks, is_worth_waking, &task);
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").field(&self.name).finish()
    }
}

/// One implementation per instruction set of the target architecture.
#[derive(Clone, Copy)]
pub struct PerIsa {
    /// Portable code, compiled for the target's baseline (NEON on AArch64).
    pub portable: ChunkFn,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    pub avx2: ChunkFn,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    pub avx512: ChunkFn,
    /// AMX with bf16, beside AVX-512.
    #[cfg(target_arch = "x86_64")]
    pub amx: ChunkFn,
}

impl PerIsa {
    /// The same portable function for every instruction set.
    pub const fn portable(function: ChunkFn) -> Self {
        PerIsa {
            portable: function,
            #[cfg(target_arch = "x86_64")]
            avx2: function,
            #[cfg(target_arch = "x86_64")]
            avx512: function,
            #[cfg(target_arch = "x86_64")]
            amx: function,
        }
    }

    /// The implementation for `isa`.
    pub fn get(&self, isa: Isa) -> ChunkFn {
        match isa {
            Isa::Scalar => self.portable,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => self.avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => self.avx512,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => self.amx,
        }
    }
}

/// One operand in memory.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Its first byte. Absent optional operands are dangling and empty.
    pub data: *mut u8,
    /// Its size in bytes.
    pub bytes: usize,
}

impl Operand {
    /// An optional operand that is absent.
    pub const ABSENT: Operand = Operand { data: std::ptr::null_mut(), bytes: 0 };

    /// The operand as a pointer to elements of type `T`.
    pub fn ptr<T>(&self) -> *mut T {
        self.data.cast()
    }
}

// SAFETY: an operand is an address and a size; who dereferences it answers for the access (`ChunkFn`).
unsafe impl Send for Operand {}
// SAFETY: as above.
unsafe impl Sync for Operand {}

/// What a kernel runs on.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// The kernel's parameter structure from [`crate::call`], 8-byte aligned.
    pub params: &'a [u8],
    /// Inputs first, then outputs, in the order that the parameter structure documents.
    pub operands: &'a [Operand],
}

impl<'a> Args<'a> {
    /// The parameters as the structure `P`.
    ///
    /// # Panics
    ///
    /// If the size or alignment is not that of `P`; [`Kernel::validate`] refuses such calls.
    pub fn params<P: Pod>(&self) -> &'a P {
        bytemuck::from_bytes(self.params)
    }
}

/// A call as it stands in a plan, before memory is known.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The kernel's parameter structure.
    pub params: &'a [u8],
    /// The size of each operand in bytes, 0 for an absent one.
    pub operand_bytes: &'a [u64],
}

impl<'a> Call<'a> {
    /// The parameters as the structure `P`, checked.
    pub fn params<P: Pod>(&self) -> Result<&'a P, Invalid> {
        bytemuck::try_from_bytes(self.params).map_err(|_| Invalid("parameters of another size or alignment"))
    }

    /// Checks the number of operands.
    pub fn expect_operands(&self, count: usize) -> Result<(), Invalid> {
        if self.operand_bytes.len() == count { Ok(()) } else { Err(Invalid("wrong number of operands")) }
    }

    /// Checks that operand `index` holds at least `elements` elements of `element_bytes` each.
    pub fn expect_elements(
        &self,
        index: usize,
        elements: Option<u64>,
        element_bytes: u64,
    ) -> Result<(), Invalid> {
        let needed = elements.and_then(|n| n.checked_mul(element_bytes)).ok_or(Invalid("size overflows"))?;
        match self.operand_bytes.get(index) {
            Some(&bytes) if needed <= bytes => Ok(()),
            _ => Err(Invalid("operand out of bounds")),
        }
    }
}

/// Why a call may not run: a plan that was damaged or made for other kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Invalid {}

/// What can go wrong in a valid call, because of the values it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// An index outside the axis it selects from.
    IndexOutOfRange {
        /// The index.
        index: i64,
        /// The length of the axis.
        length: u64,
    },
    /// An integer divided by zero.
    DivisionByZero,
    /// A region of a picture that takes too many samples.
    RegionTooLarge,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::IndexOutOfRange { index, length } => {
                write!(f, "index {index} is out of range for an axis of length {length}")
            }
            RunError::DivisionByZero => f.write_str("integer division by zero"),
            RunError::RegionTooLarge => f.write_str("a region takes too many samples"),
        }
    }
}

impl std::error::Error for RunError {}
