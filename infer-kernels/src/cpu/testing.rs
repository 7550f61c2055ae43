//! Runs kernels on every instruction set against their oracles, for the tests of each family.

use bytemuck::{Pod, Zeroable};

use crate::reference::{self, Registered};
use crate::{Args, Call, Isa, Operand, RunError};

/// What outputs and the bytes around them hold before a run: as floats, a NaN that no arithmetic makes.
const POISON: u8 = 0xFF;
/// Bytes before and after an output that must stay as they are.
const GUARD: usize = 64;

/// Memory for an output, 64-byte aligned, with guards.
struct Guarded {
    memory: Vec<Line>,
    bytes: usize,
}

#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u8; GUARD]);

impl Guarded {
    fn new(bytes: usize) -> Self {
        Guarded { memory: vec![Line([POISON; GUARD]); 2 + bytes.div_ceil(GUARD)], bytes }
    }

    fn of(content: &[u8]) -> Self {
        let mut guarded = Guarded::new(content.len());
        bytemuck::cast_slice_mut::<Line, u8>(&mut guarded.memory)[GUARD..GUARD + content.len()]
            .copy_from_slice(content);
        guarded
    }

    fn operand(&mut self) -> Operand {
        Operand { data: self.memory[1..].as_mut_ptr().cast(), bytes: self.bytes }
    }

    fn content<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice::<u8, T>(&bytemuck::cast_slice(&self.memory)[GUARD..GUARD + self.bytes])
    }

    fn guards_hold(&self) -> bool {
        let all: &[u8] = bytemuck::cast_slice(&self.memory);
        all[..GUARD].iter().chain(&all[GUARD + self.bytes..]).all(|&byte| byte == POISON)
    }
}

/// Bytes of any plain slice.
pub(crate) fn bytes<T: Pod>(slice: &[T]) -> &[u8] {
    bytemuck::cast_slice(slice)
}

/// Pseudo-random numbers, the same in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// Of −1 ..= 1, in steps of 2⁻¹⁰.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() % 2049) as f32 / 1024.0 - 1.0
    }

    pub(crate) fn units(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }

    /// Whole numbers of −`bound` ..= `bound`: sums and products of a few are exact in any order.
    pub(crate) fn whole(&mut self, count: usize, bound: u64) -> Vec<f32> {
        (0..count).map(|_| (self.next() % (2 * bound + 1)) as f32 - bound as f32).collect()
    }
}

fn call_of<'a, P: Pod>(params: &'a P, sizes: &'a [u64]) -> Call<'a> {
    Call { params: bytemuck::bytes_of(params), operand_bytes: sizes }
}

/// How one run of a call ends: the bytes of each output, or an error.
type Outcome = Result<Vec<Vec<u8>>, RunError>;

fn run_on<P: Pod>(
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
    run: impl FnOnce(&Args<'_>) -> Result<(), RunError>,
) -> Outcome {
    let mut memory: Vec<Guarded> = inputs.iter().map(|input| Guarded::of(input)).collect();
    memory.extend(outputs.iter().map(|&bytes| Guarded::new(bytes)));
    let operands: Vec<Operand> = memory.iter_mut().map(Guarded::operand).collect();
    run(&Args { params: bytemuck::bytes_of(params), operands: &operands })?;
    assert!(memory.iter().all(Guarded::guards_hold), "bytes outside an operand were written");
    for (input, after) in inputs.iter().zip(&memory) {
        assert_eq!(*input, after.content::<u8>(), "an input was written");
    }
    Ok(memory[inputs.len()..].iter().map(|output| output.content::<u8>().to_vec()).collect())
}

fn run_chunks<P: Pod>(
    entry: &Registered,
    isa: Isa,
    chunks: usize,
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
) -> Outcome {
    run_on(params, inputs, outputs, |args| {
        let mut result = Ok(());
        for chunk in 0..chunks {
            // SAFETY: the caller validated the call against these sizes, the operands are buffers of those sizes,
            // the instruction set is available and each chunk runs once.
            result = result.and(unsafe { entry.kernel.run.get(isa)(args, chunk, chunks) });
        }
        result
    })
}

/// Runs kernel `name` on every instruction set, in one chunk and in several, and compares each output's elements
/// of type `T`, equal bytes first, then `close(output, element, expected, got)`; elements that the oracle leaves alone
/// must be left alone.
pub(crate) fn check<P: Pod, T: Pod + std::fmt::Debug>(
    name: &str,
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
    close: impl Fn(usize, usize, T, T) -> bool,
) {
    check_beside_scratch(name, params, inputs, outputs, outputs.len(), close);
}

/// [`check`] of the outputs before number `scratch`, which holds memory to work in.
pub(crate) fn check_beside_scratch<P: Pod, T: Pod + std::fmt::Debug>(
    name: &str,
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
    scratch: usize,
    close: impl Fn(usize, usize, T, T) -> bool,
) {
    let entry = find_valid(name, params, inputs, outputs);
    let expected = run_on(params, inputs, outputs, |args| {
        // SAFETY: the call is valid for these sizes, and the operands are buffers of those sizes.
        unsafe { (entry.reference)(args) }
    });
    for isa in isas() {
        for chunks in [1, 3, 64] {
            let got = run_chunks(entry, isa, chunks, params, inputs, outputs);
            let (Ok(expected), Ok(got)) = (&expected, &got) else {
                panic!("{name} on {isa:?}: expected {expected:?}, got {got:?}");
            };
            for (output, (expected, got)) in expected.iter().zip(got).enumerate().take(scratch) {
                let width = size_of::<T>();
                for (element, (a, b)) in expected.chunks(width).zip(got.chunks(width)).enumerate() {
                    let poisoned = |bytes: &[u8]| bytes.iter().all(|&byte| byte == POISON);
                    let (x, y): (T, T) = (bytemuck::pod_read_unaligned(a), bytemuck::pod_read_unaligned(b));
                    assert!(
                        a == b || poisoned(a) == poisoned(b) && close(output, element, x, y),
                        "{name} on {isa:?} in {chunks} chunks: output {output}[{element}] is {y:?}, not {x:?}"
                    );
                }
            }
        }
    }
}

/// The oracle's outputs of a call of kernel `name`, and those of one instruction set in so many chunks: for kernels whose
/// results another one reads.
pub(crate) fn oracle<P: Pod>(name: &str, params: &P, inputs: &[&[u8]], outputs: &[usize]) -> Vec<Vec<u8>> {
    let entry = find_valid(name, params, inputs, outputs);
    // SAFETY: the call is valid for these sizes, and the operands are buffers of those sizes.
    run_on(params, inputs, outputs, |args| unsafe { (entry.reference)(args) })
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// See [`oracle`].
pub(crate) fn run_with<P: Pod>(
    name: &str,
    isa: Isa,
    chunks: usize,
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
) -> Vec<Vec<u8>> {
    let entry = find_valid(name, params, inputs, outputs);
    run_chunks(entry, isa, chunks, params, inputs, outputs)
        .unwrap_or_else(|error| panic!("{name} on {isa:?} in {chunks} chunks: {error}"))
}

/// The kernel `name`, which must accept the call.
fn find_valid<P: Pod>(name: &str, params: &P, inputs: &[&[u8]], outputs: &[usize]) -> &'static Registered {
    let entry = reference::find(name).unwrap_or_else(|| panic!("no kernel {name}"));
    let sizes: Vec<u64> =
        inputs.iter().map(|input| input.len() as u64).chain(outputs.iter().map(|&b| b as u64)).collect();
    (entry.kernel.validate)(&call_of(params, &sizes)).unwrap_or_else(|error| panic!("{name}: {error}"));
    entry
}

/// The instruction sets that this processor has.
pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_available())
}

/// Runs kernel `name` as [`check`] does and shows the outputs of every run, that of the oracle first, to `look`: for
/// kernels that use an output to work in, or are compared with other kernels.
pub(crate) fn run_everywhere<P: Pod>(
    name: &str,
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
    mut look: impl FnMut(&str, &[Vec<u8>]),
) {
    let entry = find_valid(name, params, inputs, outputs);
    let expected = run_on(params, inputs, outputs, |args| {
        // SAFETY: the call is valid for these sizes, and the operands are buffers of those sizes.
        unsafe { (entry.reference)(args) }
    });
    look("the oracle", &expected.unwrap_or_else(|error| panic!("{name}: {error}")));
    for isa in isas() {
        for chunks in [1, 3, 64] {
            let what = format!("{isa:?} in {chunks} chunks");
            let got = run_chunks(entry, isa, chunks, params, inputs, outputs);
            look(&what, &got.unwrap_or_else(|error| panic!("{name} on {what}: {error}")));
        }
    }
}

/// Runs kernel `name` as [`check`] does: the oracle and every implementation must end with `error`.
pub(crate) fn check_error<P: Pod>(
    name: &str,
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
    error: RunError,
) {
    let entry = reference::find(name).unwrap_or_else(|| panic!("no kernel {name}"));
    let sizes: Vec<u64> =
        inputs.iter().map(|input| input.len() as u64).chain(outputs.iter().map(|&b| b as u64)).collect();
    assert_eq!((entry.kernel.validate)(&call_of(params, &sizes)), Ok(()), "{name}");
    // SAFETY: the call is valid for these sizes, and the operands are buffers of those sizes.
    let expected = run_on(params, inputs, outputs, |args| unsafe { (entry.reference)(args) });
    assert_eq!(expected, Err(error), "{name}");
    for isa in isas() {
        for chunks in [1, 3] {
            let got = run_chunks(entry, isa, chunks, params, inputs, outputs);
            assert_eq!(got, Err(error), "{name} on {isa:?} in {chunks} chunks");
        }
    }
}

/// [`check`] for f32 outputs, NaN being equal to NaN, otherwise `tolerance(expected)` apart at most.
pub(crate) fn check_f32<P: Pod>(
    name: &str,
    params: &P,
    inputs: &[&[u8]],
    outputs: &[usize],
    tolerance: impl Fn(f32) -> f32,
) {
    check(name, params, inputs, outputs, |_, _, x: f32, y: f32| {
        x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= tolerance(x)
    });
}

/// Replaces each 64-bit word of valid parameters by hostile values: validation must refuse the call, or running it
/// must stay within its operands and end.
pub(crate) fn attack<P: Pod>(name: &str, params: &P, inputs: &[&[u8]], outputs: &[usize]) {
    let entry = reference::find(name).unwrap_or_else(|| panic!("no kernel {name}"));
    let sizes: Vec<u64> =
        inputs.iter().map(|input| input.len() as u64).chain(outputs.iter().map(|&b| b as u64)).collect();
    let validate = entry.kernel.validate;
    assert_eq!(validate(&call_of(params, &sizes)), Ok(()), "{name}");
    assert!(validate(&Call { params: &[0; 3], operand_bytes: &sizes }).is_err(), "{name}: short parameters");
    assert!(validate(&call_of(params, &sizes[1..])).is_err(), "{name}: missing operand");
    for output in inputs.len()..sizes.len() {
        let mut short = sizes.clone();
        if short[output] > 0 {
            short[output] -= 1;
            assert!(validate(&call_of(params, &short)).is_err(), "{name}: short output {output}");
        }
    }
    assert_eq!(size_of::<P>() % 8, 0);
    for word in 0..size_of::<P>() / 8 {
        for value in [0, 1, 2, 3, 17, 1 << 32, 1 << 40, 1 << 61, 1 << 63, u64::MAX - 1, u64::MAX] {
            let mut hostile = *params;
            bytemuck::bytes_of_mut(&mut hostile)[word * 8..word * 8 + 8]
                .copy_from_slice(&u64::to_le_bytes(value));
            if validate(&call_of(&hostile, &sizes)).is_err() {
                continue;
            }
            for isa in isas() {
                // The guards are what is tested; errors and values are as they may be.
                let _ = run_chunks(entry, isa, 2, &hostile, inputs, outputs);
            }
        }
    }
}
