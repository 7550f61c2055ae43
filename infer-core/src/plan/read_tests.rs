//! Reading plans: whole ones, and damaged ones of every kind.

#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::format::CHECKSUM_OFFSET;
use super::super::testing::sample;
use super::*;
use crate::plan::AlignedBytes;

/// Makes the checksum right again, so that what is checked behind it is reached.
fn fix_checksum(bytes: &mut AlignedBytes) {
    let bytes = bytes.as_mut_slice();
    let tables_at = std::mem::offset_of!(Header, tables_bytes);
    let tables =
        bytes.get(tables_at..tables_at + 8).map(|field| u64::from_le_bytes(field.try_into().unwrap()));
    let tables = tables.and_then(|tables| bytes.get(..usize::try_from(tables).ok()?));
    if let Some(sum) = tables.map(checksum_of)
        && let Some(field) = bytes.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8)
    {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Reads a plan, and everything that can be asked of it.
fn read_all(bytes: &AlignedBytes) -> Result<usize> {
    let view = PlanView::read(bytes.as_slice())?;
    let mut seen = view.weights().len();
    for port in view.inputs().iter().chain(view.outputs()) {
        seen += port.ty.bytes();
    }
    for step in view.prepare_steps().chain(view.steps()) {
        assert!(step.kernel < view.kernels().len());
        for operand in step.operands() {
            let available = match operand.location {
                Location::Absent => 0,
                Location::Arena => view.arena_bytes(),
                Location::Weights => view.weights().len(),
                Location::Prepared => view.prepared_bytes(),
                Location::Borrowed => view.lender().map_or(0, |lender| lender.weight_bytes as usize),
                Location::Input(port) => view.inputs()[port].ty.bytes(),
                Location::Output(port) => view.outputs()[port].ty.bytes(),
            };
            assert!(operand.offset_bytes + operand.bytes <= available);
        }
        seen ^= step.params.len() + step.node.len();
    }
    Ok(seen)
}

/// The error after the bytes at `offset` of `section` (`None`: the header) are replaced.
fn error_after(section: Option<SectionId>, offset: usize, new: &[u8]) -> String {
    let mut bytes = sample();
    let base = section.map_or(0, |id| {
        let header = PlanView::header(bytes.as_slice()).unwrap();
        header.sections[id as usize].offset as usize
    });
    bytes.as_mut_slice()[base + offset..][..new.len()].copy_from_slice(new);
    fix_checksum(&mut bytes);
    read_all(&bytes).unwrap_err().to_string()
}

#[track_caller]
fn assert_error(section: Option<SectionId>, offset: usize, new: &[u8], what: &str) {
    let error = error_after(section, offset, new);
    assert!(error.contains(what), "{error}");
}

#[test]
fn the_sample_is_read() {
    assert!(read_all(&sample()).is_ok());
}

#[test]
fn misaligned_foreign_short_and_long_bytes_are_refused() {
    let bytes = sample();
    let plan = bytes.as_slice();
    let mut longer = plan.to_vec();
    longer.insert(0, 0);
    let longer = AlignedBytes::copy_of(&longer).unwrap();
    assert!(
        PlanView::read(&longer.as_slice()[1..]).unwrap_err().to_string().contains("align it to 64 bytes")
    );
    let of = |slice: &[u8]| read_all(&AlignedBytes::copy_of(slice).unwrap()).unwrap_err().to_string();
    assert!(of(b"\x7fELF").contains(r"begins with "));
    assert!(of(&[]).contains("no plan"));
    assert!(of(&plan[..100]).contains("ends after 100 bytes"));
    assert!(of(&plan[..plan.len() - 1]).contains(&format!(
        "should have {} bytes and has {}",
        plan.len(),
        plan.len() - 1
    )));
}

#[test]
fn a_changed_byte_of_the_tables_breaks_the_checksum() {
    let mut bytes = sample();
    let at = bytes.as_slice().len() / 3;
    bytes.as_mut_slice()[at] ^= 1;
    assert!(read_all(&bytes).unwrap_err().to_string().contains("its checksum is 0x"));
}

#[test]
fn each_field_of_the_header_is_checked() {
    assert_error(None, 8, &1u32.to_le_bytes(), "format version 1, this program reads version 3");
    assert_error(None, 12, &200u32.to_le_bytes(), "says that it has 200 bytes");
    assert_error(None, 24, &u64::MAX.to_le_bytes(), "its tables have 18446744073709551615");
    assert_error(None, 40, &u64::MAX.to_le_bytes(), "an arena of 18446744073709551615 bytes");
    assert_error(None, 40, &(1u64 << 50).to_le_bytes(), "an arena of");
    assert_error(None, 40, &0u64.to_le_bytes(), "takes 24 bytes from byte 0 of 0");
    assert_error(None, 184, &(1u64 << 50).to_le_bytes(), "prepares 1125899906842624 bytes");
    assert_error(None, 184, &72u64.to_le_bytes(), "prepares 72 bytes");
    assert_error(None, 192, &1u64.to_le_bytes(), "borrows from weights of 0 bytes");
    assert_error(None, 200, &u64::MAX.to_le_bytes(), "borrows from weights of 18446744073709551615 bytes");
    assert_error(None, 48, &u32::MAX.to_le_bytes(), "4 ports for 4294967295 inputs and 2 outputs");
    // The second input becomes the first output, of five bytes.
    assert_error(None, 48, &[1, 0, 0, 0, 3, 0, 0, 0], "operand 6 takes 24 bytes from byte 0 of 5");
    assert_error(None, 56, &0u64.to_le_bytes(), "section `info` has 48 bytes from byte 0");
    assert_error(None, 64, &u64::MAX.to_le_bytes(), "section `info` has 18446744073709551615 bytes");
}

#[test]
fn each_field_of_the_tables_is_checked() {
    use SectionId::*;
    let many = &u64::MAX.to_le_bytes();
    assert_error(Some(Strings), 0, &[0xFF], "no UTF-8 from byte 0");
    assert_error(Some(Ports), 0, many, "port 0 has its name at");
    assert_error(Some(Ports), 8, &99u32.to_le_bytes(), "port 0 has element type 99");
    assert_error(Some(Ports), 12, &65u32.to_le_bytes(), "port 0 has 65 extents");
    assert_error(Some(Ports), 16, many, "port 0 has 2 extents from position 18446744073709551615");
    assert_error(Some(Dims), 0, many, "port 0 has the impossible shape");
    assert_error(Some(Kernels), 0, many, "kernel 0 has its name at");
    assert_error(Some(Kernels), 8, &[0; 8], "kernel 1, ``, is not in order");
    assert_error(Some(Steps), 0, &7u32.to_le_bytes(), "step 0 is of kind 7");
    assert_error(Some(Steps), 4, &3u32.to_le_bytes(), "step 0 calls kernel 3 of 3");
    assert_error(Some(Steps), 8, many, "step 0 has its node's name at");
    assert_error(Some(Steps), 16, &4u64.to_le_bytes(), "step 0 has 8 bytes of parameters at byte 4");
    assert_error(Some(Steps), 16, many, "step 0 has 8 bytes of parameters");
    assert_error(Some(Steps), 28, &0u32.to_le_bytes(), "step 0 writes 0 of its 3");
    assert_error(Some(Steps), 28, &4u32.to_le_bytes(), "step 0 writes 4 of its 3");
    assert_error(Some(Steps), 28, &2u32.to_le_bytes(), "step 0 writes to read-only memory");
    assert_error(Some(Steps), 32, many, "step 0 has 3 operands from position 18446744073709551615");
    assert_error(Some(Operands), 0, &9u32.to_le_bytes(), "operand 0 lies in location 9");
    assert_error(Some(Operands), 4, &2u32.to_le_bytes(), "port 2, of 2 inputs");
    assert_error(Some(Operands), 8, many, "operand 0 takes 24 bytes from byte 18446744073709551615");
    assert_error(Some(Operands), 16, &25u64.to_le_bytes(), "operand 0 takes 25 bytes from byte 0 of 24");
}

/// The error after the sample's first step, which has operands `first` .. `first` + 3, became one that prepares and these
/// operands got these locations.
fn prepare_error(locations: [u32; 3], prepared_bytes: u64) -> String {
    prepare_error_with_lender(locations, prepared_bytes, 0)
}

/// The same in a plan that borrows from one of so many bytes of weights.
fn prepare_error_with_lender(locations: [u32; 3], prepared_bytes: u64, lender_bytes: u64) -> String {
    let mut bytes = sample();
    let header = *PlanView::header(bytes.as_slice()).unwrap();
    let at = |id: SectionId| header.sections[id as usize].offset as usize;
    let memory = bytes.as_mut_slice();
    memory[184..192].copy_from_slice(&prepared_bytes.to_le_bytes());
    memory[200..208].copy_from_slice(&lender_bytes.to_le_bytes());
    memory[at(SectionId::Steps)..][..4].copy_from_slice(&STEP_PREPARE.to_le_bytes());
    for (index, location) in locations.into_iter().enumerate() {
        let operand = &mut memory[at(SectionId::Operands) + index * size_of::<OperandRecord>()..];
        operand[..8].copy_from_slice(&u64::from(location).to_le_bytes());
        operand[8..16].copy_from_slice(&0u64.to_le_bytes());
    }
    fix_checksum(&mut bytes);
    match read_all(&bytes) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn steps_that_prepare_read_weights_and_write_prepared_memory() {
    use location::{ABSENT, ARENA, INPUT, OUTPUT, PREPARED, WEIGHTS};
    assert_eq!(prepare_error([WEIGHTS, WEIGHTS, PREPARED], 64), "");
    for read in [ARENA, INPUT, OUTPUT, PREPARED] {
        let error = prepare_error([WEIGHTS, read, PREPARED], 64);
        assert!(error.contains("step 0 prepares from what is no weight"), "{error}");
    }
    for written in [ABSENT, ARENA, WEIGHTS, INPUT, OUTPUT] {
        let error = prepare_error([WEIGHTS, WEIGHTS, written], 64);
        assert!(error.contains("step 0 writes to read-only memory"), "{error}");
    }
    let error = prepare_error([WEIGHTS, WEIGHTS, PREPARED], 0);
    assert!(error.contains("operand 2 takes 24 bytes from byte 0 of 0"), "{error}");
    // A step of an inference writes no prepared memory, and none of those that prepare comes later.
    assert_error(Some(SectionId::Operands), 48, &PREPARED.to_le_bytes(), "step 0 writes to read-only memory");
    assert_error(Some(SectionId::Steps), 48, &STEP_PREPARE.to_le_bytes(), "step 1 is of kind 1");
}

#[test]
fn steps_that_prepare_alone_read_what_is_borrowed() {
    use location::{BORROWED, PREPARED, WEIGHTS};
    assert_eq!(prepare_error_with_lender([BORROWED, WEIGHTS, PREPARED], 64, 24), "");
    let error = prepare_error_with_lender([WEIGHTS, BORROWED, PREPARED], 64, 23);
    assert!(error.contains("operand 1 takes 24 bytes from byte 0 of 23"), "{error}");
    let error = prepare_error([BORROWED, WEIGHTS, PREPARED], 64);
    assert!(error.contains("operand 0 takes 24 bytes from byte 0 of 0"), "{error}");
    let error = prepare_error_with_lender([WEIGHTS, WEIGHTS, BORROWED], 64, 24);
    assert!(error.contains("step 0 writes to read-only memory"), "{error}");
    assert_error(
        Some(SectionId::Operands),
        0,
        &BORROWED.to_le_bytes(),
        "step 0 reads another plan's weights",
    );
}

#[test]
fn a_shape_with_a_zero_cannot_hide_an_overflow() {
    let mut dims = [0u8; 16];
    dims[8..].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = error_after(Some(SectionId::Dims), 0, &dims);
    assert!(error.contains("operand") || error.contains("shape"), "{error}");
}

proptest! {
    #[test]
    fn no_change_of_bytes_makes_reading_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        fix in prop::bool::weighted(0.9),
    ) {
        let mut bytes = sample();
        // Weights are not validated, so changes there would prove nothing.
        let tables = PlanView::header(bytes.as_slice()).unwrap().tables_bytes as usize;
        for (at, value) in changes {
            bytes.as_mut_slice()[at.index(tables)] ^= value;
        }
        if let Some(length) = length {
            let whole = bytes.as_slice();
            bytes = AlignedBytes::copy_of(&whole[..length.index(whole.len())]).unwrap();
        }
        if fix {
            fix_checksum(&mut bytes);
        }
        let _ = read_all(&bytes);
    }

    /// Changes of whole fields to values near the edges reach further than random bytes.
    #[test]
    fn no_change_of_fields_makes_reading_panic(
        changes in prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                prop::sample::select(vec![0, 1, 2, 3, 5, 6, 7, 8, 24, 25, 63, 64, 65, u64::MAX, u64::MAX - 7, 1 << 32, 1 << 63]),
                any::<bool>(),
            ),
            1..4,
        ),
    ) {
        let mut bytes = sample();
        let tables = PlanView::header(bytes.as_slice()).unwrap().tables_bytes as usize;
        for (at, value, wide) in changes {
            let value: u64 = value;
            let width = if wide { 8 } else { 4 };
            // Behind magic and version, which would end it at once.
            let at = 12 + at.index((tables - 20) / width) * width;
            bytes.as_mut_slice()[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        fix_checksum(&mut bytes);
        let _ = read_all(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let mut bytes = AlignedBytes::copy_of(&bytes).unwrap();
        if magic && let Some(start) = bytes.as_mut_slice().get_mut(..8) {
            start.copy_from_slice(&MAGIC);
        }
        prop_assert!(PlanView::read(bytes.as_slice()).is_err());
    }
}
