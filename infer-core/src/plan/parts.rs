//! The bytes of a model that runs in parts, some on a GPU and some on the processor: a header, a table, and the plans.
//!
//! Values are numbered: the model's inputs first, then what each part writes, in the order of the parts. All numbers are
//! little-endian; the table is 64-bit words, text in it its length and then its bytes, padded by zeros. Plans begin at
//! multiples of 64 bytes, so that they run where they lie. The table is checked by a checksum over it, each plan by its
//! own; [`Parts::read`] finds every number in bounds, or gives an error, and never panics.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

use std::ops::Range;

use super::format::{ALIGNMENT, MAX_PORT_RANK, checksum};
use super::{PlanView, Port};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor_type::{DataType, TensorType};

/// The first bytes.
const MAGIC: [u8; 8] = *b"INFRPART";

/// The version of the format that this crate writes, and the only one it reads.
const VERSION: u64 = 1;

/// Magic, version, checksum and size of the table.
const HEADER_BYTES: usize = 32;

/// What is known of a model in parts, beside the plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The inputs, in the model's order.
    pub inputs: Vec<Port>,
    /// The outputs, in the model's order, each with the value that it is.
    pub outputs: Vec<(Port, usize)>,
    /// The parts, in an order in which they can run.
    pub parts: Vec<Part>,
}

/// What runs a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The processor.
    Processor,
    /// A GPU.
    Gpu,
}

/// A part of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What runs it.
    pub side: Side,
    /// Where its plan lies.
    pub plan: Range<usize>,
    /// The values that its inputs are.
    pub inputs: Vec<usize>,
    /// The values that its outputs are: those that follow what parts before it write.
    pub outputs: Range<usize>,
}

/// Whether `bytes` begin as such a model does.
pub(crate) fn is_parts(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

fn damaged(what: impl Into<String>) -> Error {
    let what = what.into();
    Error::new(ErrorKind::Plan, format!("the plan is damaged: {what}; compile the model again"))
}

#[cfg(feature = "compiler")]
impl Parts {
    /// The model's bytes. Where each part's plan lies is found anew: `plans` are as many as the parts.
    pub(crate) fn write(&self, plans: &[Vec<u8>]) -> Vec<u8> {
        let mut table = Table::default();
        table.number(self.inputs.len());
        self.inputs.iter().for_each(|port| table.port(port));
        table.number(self.outputs.len());
        for (port, value) in &self.outputs {
            table.port(port);
            table.number(*value);
        }
        table.number(self.parts.len());
        for (part, plan) in self.parts.iter().zip(plans) {
            table.number(usize::from(part.side == Side::Gpu));
            table.number(plan.len());
            table.number(part.inputs.len());
            part.inputs.iter().for_each(|&value| table.number(value));
            table.number(part.outputs.len());
        }
        let table = table.0;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 8 * table.len());
        bytes.extend_from_slice(&MAGIC);
        for word in [VERSION, checksum(table.iter().copied()), table.len() as u64].iter().chain(&table) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for plan in plans {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            bytes.extend_from_slice(plan);
        }
        bytes
    }
}

/// A table being written.
#[cfg(feature = "compiler")]
#[derive(Default)]
struct Table(Vec<u64>);

#[cfg(feature = "compiler")]
impl Table {
    fn number(&mut self, number: usize) {
        self.0.push(number as u64);
    }

    fn port(&mut self, port: &Port) {
        self.number(port.name.len());
        for chunk in port.name.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.0.push(u64::from_le_bytes(word));
        }
        self.0.push(port.ty.dtype as u64);
        self.number(port.ty.rank());
        port.ty.shape.iter().for_each(|&extent| self.number(extent));
    }
}

/// A table being read, front to back.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn word(&mut self) -> Result<u64> {
        let (word, rest) = self.0.split_first_chunk::<8>().ok_or_else(|| damaged("its table ends early"))?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*word))
    }

    fn number(&mut self) -> Result<usize> {
        let word = self.word()?;
        usize::try_from(word).map_err(|_| damaged(format!("{word} is beyond this machine")))
    }

    /// A number of things, each of which takes a word at least.
    fn count(&mut self) -> Result<usize> {
        let (count, most) = (self.number()?, self.0.len() / 8);
        if count > most {
            return Err(damaged(format!("its table has {most} words for {count} things")));
        }
        Ok(count)
    }

    /// One of `below` values.
    fn value(&mut self, below: usize) -> Result<usize> {
        match self.number()? {
            value if value < below => Ok(value),
            value => Err(damaged(format!("value {value} is read, of {below} that are there"))),
        }
    }

    fn port(&mut self) -> Result<Port> {
        let length = self.number()?;
        let padded = length.checked_next_multiple_of(8);
        let (name, rest) = padded
            .and_then(|padded| self.0.split_at_checked(padded))
            .ok_or_else(|| damaged("its table ends in a name"))?;
        self.0 = rest;
        let name = name.get(..length).and_then(|name| str::from_utf8(name).ok());
        let name = name.ok_or_else(|| damaged("a name is no UTF-8"))?.to_owned();
        let code = self.word()?;
        let dtype = i32::try_from(code).ok().and_then(DataType::from_onnx);
        let dtype = dtype.ok_or_else(|| damaged(format!("`{name}` is of the unknown type {code}")))?;
        let rank = self.count()?;
        if rank > MAX_PORT_RANK as usize {
            return Err(damaged(format!("`{name}` has {rank} dimensions")));
        }
        let shape: Vec<usize> = (0..rank).map(|_| self.number()).collect::<Result<_>>()?;
        let ty = TensorType::new(dtype, shape);
        let elements = ty.checked_elements().and_then(|elements| elements.checked_mul(dtype.size_bytes()));
        if elements.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(damaged(format!("`{name}` has the impossible shape {:?}", ty.shape)));
        }
        Ok(Port { name, ty })
    }
}

impl Parts {
    /// What the compiler wrote: the parts, and where they lie.
    ///
    /// # Errors
    ///
    /// If the bytes are none of this version, or anything in them is out of bounds.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or_else(|| damaged("it begins with other bytes"))?;
        let mut header = Reader(rest);
        let version = header.word()?;
        if version != VERSION {
            let what = format!(
                "the plan is of version {version}, this is version {VERSION}; compile the model again with the same version \
                 of infer-embed"
            );
            return Err(Error::new(ErrorKind::Plan, what));
        }
        let (sum, words) = (header.word()?, header.number()?);
        let table = words.checked_mul(8).and_then(|length| header.0.get(..length));
        let table = table.ok_or_else(|| damaged("it ends early"))?;
        let (chunks, _) = table.as_chunks::<8>();
        if checksum(chunks.iter().map(|word| u64::from_le_bytes(*word))) != sum {
            return Err(damaged("its checksum is another"));
        }

        let mut reader = Reader(table);
        let inputs = (0..reader.count()?).map(|_| reader.port()).collect::<Result<Vec<_>>>()?;
        let outputs = (0..reader.count()?).map(|_| Ok((reader.port()?, reader.number()?)));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        let mut values = inputs.len();
        let mut end = HEADER_BYTES + table.len();
        let mut parts = Vec::new();
        for _ in 0..reader.count()? {
            let side = match reader.word()? {
                0 => Side::Processor,
                1 => Side::Gpu,
                other => return Err(damaged(format!("a part runs on the unknown side {other}"))),
            };
            let length = reader.number()?;
            let start = end.next_multiple_of(ALIGNMENT);
            end = start
                .checked_add(length)
                .filter(|&end| end <= bytes.len())
                .ok_or_else(|| damaged("a part of it ends early"))?;
            let read = (0..reader.count()?).map(|_| reader.value(values)).collect::<Result<_>>()?;
            let first = values;
            values = first
                .checked_add(reader.number()?)
                .filter(|&values| values <= bytes.len())
                .ok_or_else(|| damaged("a part writes too many values"))?;
            parts.push(Part { side, plan: start..end, inputs: read, outputs: first..values });
        }
        if let Some((port, value)) = outputs.iter().find(|(_, value)| *value >= values) {
            return Err(damaged(format!("output `{}` is value {value} of {values}", port.name)));
        }
        Ok(Parts { inputs, outputs, parts })
    }

    /// The type of each value, where the plans of the parts, `views` in their order, take and give just these.
    ///
    /// # Errors
    ///
    /// If a plan has other inputs or outputs than its part.
    pub fn types(&self, views: &[PlanView<'_>]) -> Result<Vec<TensorType>> {
        let mut types: Vec<TensorType> = self.inputs.iter().map(|port| port.ty.clone()).collect();
        if views.len() != self.parts.len() {
            return Err(damaged("it has other parts than plans"));
        }
        for (index, (part, view)) in self.parts.iter().zip(views).enumerate() {
            let given = part.inputs.iter().map(|&value| types.get(value));
            let fits = view.inputs().len() == part.inputs.len()
                && view.outputs().len() == part.outputs.len()
                && given.zip(view.inputs()).all(|(ty, port)| ty == Some(&port.ty));
            if !fits {
                return Err(damaged(format!("the plan of part {index} takes or gives other values")));
            }
            types.extend(view.outputs().iter().map(|port| port.ty.clone()));
        }
        match self.outputs.iter().find(|(port, value)| types.get(*value) != Some(&port.ty)) {
            Some((port, _)) => Err(damaged(format!("output `{}` is of another type", port.name))),
            None => Ok(types),
        }
    }
}

#[cfg(all(test, feature = "compiler"))]
mod tests {
    use super::*;
    use crate::plan::testing::port;

    fn sample() -> (Parts, Vec<Vec<u8>>) {
        let parts = Parts {
            inputs: vec![port("größe", DataType::F32, &[2, 3]), port("mask", DataType::Bool, &[])],
            outputs: vec![(port("y", DataType::I64, &[4]), 3), (port("mask", DataType::Bool, &[]), 1)],
            parts: vec![
                Part { side: Side::Gpu, plan: 0..0, inputs: vec![0], outputs: 2..3 },
                Part { side: Side::Processor, plan: 0..0, inputs: vec![2, 1], outputs: 3..4 },
            ],
        };
        (parts, vec![vec![7; 100], vec![9; 3]])
    }

    #[test]
    fn parts_survive() {
        let (mut parts, plans) = sample();
        let bytes = parts.write(&plans);
        assert!(is_parts(&bytes) && !is_parts(&bytes[1..]));
        let read = Parts::read(&bytes).unwrap();
        for ((part, read), plan) in parts.parts.iter_mut().zip(&read.parts).zip(&plans) {
            assert_eq!(bytes[read.plan.clone()], plan[..]);
            assert!(read.plan.start.is_multiple_of(ALIGNMENT));
            part.plan = read.plan.clone();
        }
        assert_eq!(read, parts);
    }

    #[test]
    fn damage_is_found() {
        let (parts, plans) = sample();
        let bytes = parts.write(&plans);
        let end = Parts::read(&bytes).unwrap().parts[0].plan.start - ALIGNMENT;
        for length in 0..bytes.len() {
            assert_eq!(Parts::read(&bytes[..length]).unwrap_err().kind(), ErrorKind::Plan, "{length}");
        }
        for index in 0..end {
            for bit in [1, 0x80] {
                let mut wrong = bytes.clone();
                wrong[index] ^= bit;
                assert!(Parts::read(&wrong).is_err(), "byte {index}");
            }
        }
    }

    /// Numbers out of bounds, with a checksum that fits them.
    #[test]
    fn no_table_is_trusted() {
        let (parts, plans) = sample();
        let bytes = parts.write(&plans);
        let words = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
        for index in 0..words {
            for value in [1, 2, 3, 17, 1 << 32, 1 << 60, u64::MAX] {
                let mut wrong = bytes.clone();
                wrong[HEADER_BYTES + 8 * index..][..8].copy_from_slice(&value.to_le_bytes());
                let table = wrong[HEADER_BYTES..][..8 * words].as_chunks::<8>().0;
                let sum = checksum(table.iter().map(|word| u64::from_le_bytes(*word)));
                wrong[16..24].copy_from_slice(&sum.to_le_bytes());
                if let Ok(read) = Parts::read(&wrong) {
                    let inside = |part: &Part| part.plan.end <= wrong.len() && part.inputs.len() < words;
                    assert!(read.parts.iter().all(inside), "word {index} = {value}");
                }
            }
        }
    }
}
