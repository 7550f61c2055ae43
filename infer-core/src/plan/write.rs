//! Writes plans.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use bytemuck::{NoUninit, Zeroable, bytes_of, cast_slice};
use bytes::Bytes;

use super::format::{
    ALIGNMENT, CHECKSUM_OFFSET, Header, InfoRecord, KernelRecord, MAGIC, OperandRecord, PortRecord,
    STEP_PREPARE, STEP_STATIC, Section, SectionId, StepRecord, TABLE_ALIGNMENT, Text, VERSION, location,
};
use super::read::{PlanView, checksum_of};
use super::{AlignedBytes, ModelInfo, PlanId, Port};
use crate::calls::{BufferId, BufferKind, Calls, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::schedule::MemoryPlan;

/// A plan ready to be written: its tables, and the weights where the compiler has them.
#[derive(Debug)]
pub struct PlanParts<'a> {
    tables: AlignedBytes,
    weights: Vec<(BufferId, &'a Bytes)>,
    kernels: Vec<&'a str>,
    id: PlanId,
}

impl<'a> PlanParts<'a> {
    /// The plan of these calls in this memory. Equal arguments give equal bytes.
    ///
    /// # Errors
    ///
    /// If the calls name what is not there, or the model exceeds a limit of the format: the tables are validated as
    /// a program that opens the plan will validate them.
    pub fn new(
        calls: &'a Calls,
        memory: &MemoryPlan,
        inputs: &[Port],
        outputs: &[Port],
        info: ModelInfo,
    ) -> Result<Self> {
        let mut builder = Builder::new(calls, memory);
        builder.add_calls()?;
        builder.add_ports(inputs.iter().chain(outputs))?;
        let (weight_bytes, prepared_bytes) = (builder.weight_bytes, builder.prepared_bytes);
        let header = Header {
            arena_bytes: memory.arena_bytes,
            prepared_bytes,
            lender_checksum: calls.lender.map_or(0, |lender| lender.checksum),
            lender_weight_bytes: calls.lender.map_or(0, |lender| lender.weight_bytes),
            inputs: narrow(inputs.len(), "inputs")?,
            outputs: narrow(outputs.len(), "outputs")?,
            ..Header::zeroed()
        };
        let tables = builder.tables(header, info)?;
        let view = PlanView::read_tables(tables.as_slice(), tables.as_slice().len() as u64 + weight_bytes)?;
        let id = view.id();
        Ok(PlanParts { tables, weights: builder.weights, kernels: builder.kernels, id })
    }

    /// The size of the plan.
    pub fn total_bytes(&self) -> u64 {
        self.tables.as_slice().len() as u64 + self.weight_bytes()
    }

    /// The size of its weights.
    pub fn weight_bytes(&self) -> u64 {
        self.id.weight_bytes
    }

    /// What tells the plan from others.
    pub fn id(&self) -> PlanId {
        self.id
    }

    /// The constants, and where each lies among the weights.
    #[cfg(feature = "cuda")]
    pub(crate) fn constants(&self) -> impl Iterator<Item = (BufferId, u64, &'a Bytes)> {
        self.weights.iter().scan(0, |end, &(id, data)| {
            let offset = *end;
            *end += data.len().next_multiple_of(ALIGNMENT) as u64;
            Some((id, offset, data))
        })
    }

    /// The names of its kernels, in the order in which the run time wants them.
    pub fn kernels(&self) -> &[&'a str] {
        &self.kernels
    }

    /// The plan without its weights.
    #[cfg(feature = "cuda")]
    pub(crate) fn into_tables(self) -> AlignedBytes {
        self.tables
    }

    /// Writes the plan, without a second copy of its weights.
    ///
    /// # Errors
    ///
    /// Those of `writer`.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(self.tables.as_slice())?;
        for (_, constant) in &self.weights {
            writer.write_all(constant)?;
            writer.write_all(&[0; ALIGNMENT][..padding(constant.len(), ALIGNMENT)])?;
        }
        Ok(())
    }
}

/// How many bytes bring `length` to a multiple of `alignment`.
fn padding(length: usize, alignment: usize) -> usize {
    length.next_multiple_of(alignment) - length
}

fn narrow(value: usize, what: &str) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| internal(format!("the model has {value} {what}, more than a plan can hold")))
}

fn internal(what: String) -> Error {
    Error::new(ErrorKind::Plan, what)
}

/// The tables while they grow.
struct Builder<'a, 'm> {
    calls: &'a Calls,
    memory: &'m MemoryPlan,
    kernels: Vec<&'a str>,
    kernel_records: Vec<KernelRecord>,
    steps: Vec<StepRecord>,
    operands: Vec<OperandRecord>,
    params: Vec<u8>,
    ports: Vec<PortRecord>,
    dims: Vec<u64>,
    strings: String,
    /// Each string once; only looked up, so that its order does not matter.
    known_strings: HashMap<String, Text>,
    weights: Vec<(BufferId, &'a Bytes)>,
    /// Where each constant lies among the weights: as steps first read them, those of one step as they were made.
    weight_offsets: HashMap<BufferId, u64>,
    weight_bytes: u64,
    /// Where each prepared buffer lies, in the order in which steps write them.
    prepared_offsets: HashMap<BufferId, u64>,
    prepared_bytes: u64,
}

impl<'a, 'm> Builder<'a, 'm> {
    fn new(calls: &'a Calls, memory: &'m MemoryPlan) -> Self {
        Builder {
            calls,
            memory,
            kernels: Vec::new(),
            kernel_records: Vec::new(),
            steps: Vec::new(),
            operands: Vec::new(),
            params: Vec::new(),
            ports: Vec::new(),
            dims: Vec::new(),
            strings: String::new(),
            known_strings: HashMap::new(),
            weights: Vec::new(),
            weight_offsets: HashMap::new(),
            weight_bytes: 0,
            prepared_offsets: HashMap::new(),
            prepared_bytes: 0,
        }
    }

    fn text(&mut self, string: &str) -> Result<Text> {
        if let Some(&text) = self.known_strings.get(string) {
            return Ok(text);
        }
        let text = Text {
            offset: narrow(self.strings.len(), "bytes of names")?,
            bytes: narrow(string.len(), "bytes in a name")?,
        };
        self.strings.push_str(string);
        self.known_strings.insert(string.to_owned(), text);
        Ok(text)
    }

    fn add_calls(&mut self) -> Result<()> {
        let calls = self.calls;
        let all = || calls.prepare.iter().chain(&calls.calls);
        let mut positions: BTreeMap<&str, u32> = all().map(|call| (call.kernel.as_str(), 0)).collect();
        for (position, (&name, slot)) in positions.iter_mut().enumerate() {
            *slot = narrow(position, "kernels")?;
            self.kernels.push(name);
            let name = self.text(name)?;
            self.kernel_records.push(KernelRecord { name });
        }
        for (index, call) in all().enumerate() {
            let step = StepRecord {
                kind: if index < calls.prepare.len() { STEP_PREPARE } else { STEP_STATIC },
                kernel: positions.get(call.kernel.as_str()).copied().unwrap_or_default(),
                node: self.text(&call.node)?,
                params: self.params.len() as u64,
                params_bytes: narrow(call.params.len(), "bytes of parameters in one call")?,
                outputs: narrow(call.outputs, "outputs in one call")?,
                operands: self.operands.len() as u64,
                operand_count: narrow(call.operands.len(), "operands in one call")?,
                reserved: 0,
            };
            self.steps.push(step);
            self.params.extend(&call.params);
            self.params.resize(self.params.len().next_multiple_of(TABLE_ALIGNMENT as usize), 0);
            // The constants of a call lie in the order in which they were made, whichever operands they are: calls that compute the
            // same from other operands find the same weights.
            let mut spans: Vec<&Span> = call.operands.iter().flatten().collect();
            spans.sort_by_key(|span| span.buffer);
            for span in spans {
                self.operand(span).map_err(|what| internal(format!("node `{}` {what}", call.node)))?;
            }
            for span in &call.operands {
                let operand = span.as_ref().map_or(Ok(OperandRecord::zeroed()), |span| self.operand(span));
                let operand = operand.map_err(|what| internal(format!("node `{}` {what}", call.node)))?;
                self.operands.push(operand);
            }
        }
        Ok(())
    }

    fn operand(&mut self, span: &Span) -> Result<OperandRecord, String> {
        let index = span.buffer.0 as usize;
        let buffer = self
            .calls
            .buffers
            .get(index)
            .ok_or_else(|| format!("names buffer {index}, which is not there"))?;
        let (location, port, base) = match &buffer.kind {
            BufferKind::Input(port) => (location::INPUT, *port, 0),
            BufferKind::Output(port) => (location::OUTPUT, *port, 0),
            BufferKind::Constant(data) => (location::WEIGHTS, 0, self.weight_offset(span.buffer, data)),
            BufferKind::Borrowed(offset) => (location::BORROWED, 0, *offset),
            BufferKind::Prepared => (location::PREPARED, 0, self.prepared_offset(span.buffer, buffer.bytes)),
            BufferKind::Arena => {
                let offset = self.memory.offsets.get(index).copied().flatten();
                (
                    location::ARENA,
                    0,
                    offset.ok_or_else(|| format!("names buffer {index}, which has no place"))?,
                )
            }
        };
        let port = u32::try_from(port).map_err(|_| format!("names port {port}"))?;
        Ok(OperandRecord {
            location,
            port,
            offset: base.saturating_add(span.offset_bytes),
            bytes: span.bytes,
        })
    }

    fn weight_offset(&mut self, id: BufferId, data: &'a Bytes) -> u64 {
        *self.weight_offsets.entry(id).or_insert_with(|| {
            let offset = self.weight_bytes;
            self.weights.push((id, data));
            self.weight_bytes += data.len().next_multiple_of(ALIGNMENT) as u64;
            offset
        })
    }

    fn prepared_offset(&mut self, id: BufferId, bytes: u64) -> u64 {
        *self.prepared_offsets.entry(id).or_insert_with(|| {
            let offset = self.prepared_bytes;
            self.prepared_bytes += bytes.next_multiple_of(ALIGNMENT as u64);
            offset
        })
    }

    fn add_ports<'p>(&mut self, ports: impl Iterator<Item = &'p Port>) -> Result<()> {
        for port in ports {
            let record = PortRecord {
                name: self.text(&port.name)?,
                dtype: port.ty.dtype as u32,
                rank: narrow(port.ty.rank(), "dimensions in a port")?,
                dims: self.dims.len() as u64,
            };
            self.ports.push(record);
            self.dims.extend(port.ty.shape.iter().map(|&extent| extent as u64));
        }
        Ok(())
    }

    /// Header and sections, padded to where the weights begin.
    fn tables(&self, mut header: Header, info: ModelInfo) -> Result<AlignedBytes> {
        let info = InfoRecord { sha256: info.sha256, flops: info.flops, opset: info.opset, reserved: 0 };
        let mut bytes = vec![0; size_of::<Header>()];
        for (id, section) in SectionId::ALL.into_iter().zip(&mut header.sections) {
            let content: &[u8] = match id {
                SectionId::Info => bytes_of(&info),
                SectionId::Ports => records(&self.ports),
                SectionId::Dims => records(&self.dims),
                SectionId::Kernels => records(&self.kernel_records),
                SectionId::Steps => records(&self.steps),
                SectionId::Operands => records(&self.operands),
                SectionId::Params => &self.params,
                SectionId::Strings => self.strings.as_bytes(),
            };
            *section = Section { offset: bytes.len() as u64, bytes: content.len() as u64 };
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(TABLE_ALIGNMENT as usize), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);

        header.magic = MAGIC;
        header.version = VERSION;
        header.header_bytes = size_of::<Header>() as u32;
        header.tables_bytes = bytes.len() as u64;
        header.total_bytes = bytes.len() as u64 + self.weight_bytes;
        bytes[..size_of::<Header>()].copy_from_slice(bytes_of(&header));
        let checksum = checksum_of(&bytes);
        bytes[CHECKSUM_OFFSET..][..size_of::<u64>()].copy_from_slice(&checksum.to_le_bytes());
        AlignedBytes::copy_of(&bytes)
    }
}

fn records<R: NoUninit>(records: &[R]) -> &[u8] {
    cast_slice(records)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{sample, sample_calls};
    use super::*;
    use crate::plan::Location;
    use crate::schedule::plan_memory;

    #[test]
    fn equal_calls_give_equal_bytes() {
        assert_eq!(sample().as_slice(), sample().as_slice());
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let view = PlanView::read(bytes.as_slice()).unwrap();
        assert_eq!(view.info(), ModelInfo { sha256: [0xAB; 32], opset: 17, flops: 1234 });
        let (_, inputs, outputs) = sample_calls();
        assert_eq!((view.inputs(), view.outputs()), (&*inputs, &*outputs));
        assert_eq!(view.kernels(), ["test_add", "test_not", "test_scale"]);
        assert_eq!(view.arena_bytes(), 64);
        assert_eq!(view.weights().len(), 64 + 128);
        assert_eq!((&view.weights()[..24], &view.weights()[64..164]), (&[7; 24][..], &[1; 100][..]));

        let steps: Vec<_> = view.steps().collect();
        assert_eq!(steps.iter().map(|step| step.node).collect::<Vec<_>>(), ["größe", "scale", "scale"]);
        assert_eq!(steps.iter().map(|step| step.kernel).collect::<Vec<_>>(), [0, 2, 1]);
        assert_eq!(
            (steps[0].params, steps[1].params, steps[2].params),
            (&[1, 2, 3, 4, 5, 6, 7, 8][..], &[9; 16][..], &[][..])
        );
        let operands: Vec<_> = steps[1].operands().map(|o| (o.location, o.offset_bytes, o.bytes)).collect();
        assert_eq!(
            operands,
            [
                (Location::Arena, 0, 24),
                (Location::Weights, 64, 100),
                (Location::Absent, 0, 0),
                (Location::Output(0), 0, 24)
            ]
        );
    }

    #[test]
    fn calls_without_a_place_are_errors() {
        let (mut calls, inputs, outputs) = sample_calls();
        let mut memory = plan_memory(&calls).unwrap();
        memory.offsets.fill(None);
        let error = PlanParts::new(&calls, &memory, &inputs, &outputs, ModelInfo::default()).unwrap_err();
        assert!(error.to_string().contains("node `größe` names buffer 4"), "{error}");
        memory.offsets.fill(Some(0));
        let error =
            PlanParts::new(&calls, &memory, &inputs[..1], &outputs, ModelInfo::default()).unwrap_err();
        assert!(error.to_string().contains("port 1, of 1 inputs"), "{error}");
        calls.buffers.clear();
        let error = PlanParts::new(&calls, &memory, &inputs, &outputs, ModelInfo::default()).unwrap_err();
        assert!(error.to_string().contains("not there"), "{error}");
    }
}
