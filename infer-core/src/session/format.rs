//! The bytes of a model that runs node by node: a header, the program as data, and the plans of its static parts.
//!
//! All numbers are little-endian. Plans begin at multiples of 64 bytes, so that they run where they lie. The program is
//! checked by a checksum over it, each plan by its own; a model is read once, by [`Parts::read`], which never panics.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::plan::ALIGNMENT;
use crate::record::GraphRecord;
use crate::value::ValuePort;

/// The first bytes.
const MAGIC: [u8; 8] = *b"INFRPROG";

/// The version of the format that this crate writes, and the only one it reads.
const VERSION: u32 = 3;

/// Magic, version, four bytes of zero, checksum and size of the program.
const HEADER_BYTES: usize = 32;

/// The operator, of the internal domain, of nodes that run a static part; their attribute `index` says which.
pub(crate) const REGION: &str = "Region";

/// Everything but the plans.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parts {
    /// The inputs, in the model's order.
    pub inputs: Vec<ValuePort>,
    /// The outputs, in the model's order.
    pub outputs: Vec<ValuePort>,
    /// The nodes.
    pub graph: GraphRecord,
    /// The most work of a node that is not worth asking a GPU for; see `Options::least_gpu_work`.
    pub least_gpu_work: u64,
    /// The plans, in order.
    pub plans: Vec<PartPlan>,
}

/// The plan of a static part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartPlan {
    /// What runs it.
    pub runs_on: RunsOn,
    /// Its size.
    pub bytes: u64,
}

/// Where a plan lies, and what runs it.
pub(crate) type PlacedPlan = (RunsOn, Range<usize>);

/// What runs a static part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RunsOn {
    /// The processor.
    Processor,
    /// A GPU.
    Gpu,
    /// A GPU and the processor: the plan is one in parts.
    Both,
}

/// Whether `bytes` begin as such a model does.
pub(crate) fn is_program(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

impl Parts {
    /// The model's bytes.
    #[cfg(feature = "compiler")]
    pub(crate) fn write<'p>(&self, plans: impl Iterator<Item = &'p [u8]>) -> Result<Vec<u8>> {
        let program = postcard::to_allocvec(self).map_err(|error| {
            Error::new(ErrorKind::Plan, format!("the program cannot be written: {error}"))
        })?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + program.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&checksum(&program).to_le_bytes());
        bytes.extend_from_slice(&(program.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&program);
        for plan in plans {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            bytes.extend_from_slice(plan);
        }
        Ok(bytes)
    }

    /// What [`Parts::write`] wrote, and where the plans lie.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Self, Vec<PlacedPlan>)> {
        let damaged = |what: &str| {
            Error::new(ErrorKind::Plan, format!("the plan is damaged: {what}; compile the model again"))
        };
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| damaged("it is too short"))?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
        if *magic != MAGIC {
            return Err(damaged("it begins with other bytes"));
        }
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(Error::new(
                ErrorKind::Plan,
                format!(
                    "the plan is of version {version}, this is version {VERSION}; compile the model again"
                ),
            ));
        }
        let (_, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
        let (sum, rest) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("it is too short"))?;
        let (size, rest) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("it is too short"))?;
        let size = usize::try_from(u64::from_le_bytes(*size)).map_err(|_| damaged("its size"))?;
        let program = rest.get(..size).ok_or_else(|| damaged("it ends early"))?;
        if checksum(program) != u64::from_le_bytes(*sum) {
            return Err(damaged("its checksum is another"));
        }
        let parts: Parts = postcard::from_bytes(program).map_err(|error| damaged(&error.to_string()))?;
        let mut end = HEADER_BYTES + size;
        let mut plans = Vec::with_capacity(parts.plans.len().min(bytes.len()));
        for plan in &parts.plans {
            let start = end.next_multiple_of(ALIGNMENT);
            end = usize::try_from(plan.bytes)
                .ok()
                .and_then(|plan| start.checked_add(plan))
                .filter(|&end| end <= bytes.len())
                .ok_or_else(|| damaged("a part of it ends early"))?;
            plans.push((plan.runs_on, start..end));
        }
        Ok((parts, plans))
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    });
    crate::plan::checksum(words)
}

#[cfg(all(test, feature = "compiler"))]
mod tests {
    use super::*;
    use crate::tensor_type::{DataType, TensorType};

    fn sample() -> (Parts, Vec<Vec<u8>>) {
        let port = |name: &str| ValuePort {
            name: name.to_owned(),
            ty: TensorType::new(DataType::F32, [2, 3]).into(),
        };
        let plans = vec![vec![7; 100], vec![9; 3], Vec::new()];
        let runs_on = [RunsOn::Processor, RunsOn::Gpu, RunsOn::Both];
        let part = |(plan, runs_on): (&Vec<u8>, RunsOn)| PartPlan { runs_on, bytes: plan.len() as u64 };
        let parts = Parts {
            inputs: vec![port("x")],
            outputs: vec![port("y")],
            graph: GraphRecord::default(),
            least_gpu_work: 7,
            plans: plans.iter().zip(runs_on).map(part).collect(),
        };
        (parts, plans)
    }

    #[test]
    fn programs_survive() {
        let (parts, plans) = sample();
        let bytes = parts.write(plans.iter().map(Vec::as_slice)).unwrap();
        assert!(is_program(&bytes));
        let (read, ranges) = Parts::read(&bytes).unwrap();
        assert_eq!((&read.inputs, &read.outputs, &read.plans), (&parts.inputs, &parts.outputs, &parts.plans));
        for (((runs_on, range), part), plan) in ranges.into_iter().zip(&parts.plans).zip(&plans) {
            assert_eq!((runs_on, &bytes[range.clone()]), (part.runs_on, plan.as_slice()));
            assert!(range.start.is_multiple_of(ALIGNMENT));
        }
    }

    #[test]
    fn damage_is_found() {
        let (parts, plans) = sample();
        let bytes = parts.write(plans.iter().map(Vec::as_slice)).unwrap();
        let (_, ranges) = Parts::read(&bytes).unwrap();
        let needed = ranges[2].1.start.min(ranges[1].1.end);
        for length in 0..needed {
            assert_eq!(Parts::read(&bytes[..length]).unwrap_err().kind(), ErrorKind::Plan, "{length}");
        }
        let program = HEADER_BYTES..ranges[0].1.start - ALIGNMENT;
        for index in (0..12).chain(16..32).chain(program) {
            let mut wrong = bytes.clone();
            wrong[index] ^= 0x10;
            assert!(Parts::read(&wrong).is_err(), "byte {index}");
        }
    }
}
