//! Reads plans where they lie.
//!
//! Everything is validated once, by [`PlanView::read`], in this order: alignment, magic, version, length, checksum,
//! where the sections lie, the sizes of memory, strings, ports, kernels, steps, operands. Afterwards every accessor is total.
//! No bytes whatever make it panic.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytemuck::AnyBitPattern;

use super::format::{
    ALIGNMENT, CHECKSUM_OFFSET, Header, InfoRecord, KernelRecord, MAGIC, MAX_ARENA_BYTES, MAX_PORT_RANK,
    OperandRecord, PortRecord, STEP_PREPARE, STEP_STATIC, Section, SectionId, StepRecord, TABLE_ALIGNMENT,
    Text, VERSION, checksum, location,
};
use super::{Location, ModelInfo, Operand, PlanId, Port};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor_type::{DataType, TensorType};

/// A validated plan.
#[derive(Clone, Debug)]
pub struct PlanView<'a> {
    info: ModelInfo,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    kernels: Vec<&'a str>,
    prepare: &'a [StepRecord],
    steps: &'a [StepRecord],
    operands: &'a [OperandRecord],
    params: &'a [u8],
    strings: &'a str,
    weights: &'a [u8],
    arena_bytes: usize,
    prepared_bytes: usize,
    id: PlanId,
    lender: Option<PlanId>,
}

/// A kernel call of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The position of its kernel in [`PlanView::kernels`].
    pub kernel: usize,
    /// The name of the node it came from.
    pub node: &'a str,
    /// Its parameters, 8-byte aligned.
    pub params: &'a [u8],
    /// How many of its operands, at the end, it writes; at least one.
    pub outputs: usize,
    operands: &'a [OperandRecord],
}

impl<'a> Step<'a> {
    /// Its operands, inputs first.
    pub fn operands(&self) -> impl ExactSizeIterator<Item = Operand> + use<'a> {
        self.operands.iter().map(operand)
    }
}

/// What a record that validation has passed says.
fn operand(record: &OperandRecord) -> Operand {
    let location = match record.location {
        location::ARENA => Location::Arena,
        location::WEIGHTS => Location::Weights,
        location::INPUT => Location::Input(record.port as usize),
        location::OUTPUT => Location::Output(record.port as usize),
        location::PREPARED => Location::Prepared,
        location::BORROWED => Location::Borrowed,
        _ => Location::Absent,
    };
    Operand { location, offset_bytes: record.offset as usize, bytes: record.bytes as usize }
}

fn damaged(what: impl Into<String>) -> Error {
    let what = what.into();
    Error::new(ErrorKind::Plan, format!("the plan is damaged: {what}; compile the model again"))
}

impl<'a> PlanView<'a> {
    /// Reads and validates the plan that `bytes` are.
    ///
    /// # Errors
    ///
    /// If the bytes are not aligned to 64, or are no plan of this version, or anything in them is out of bounds.
    /// It never panics.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut view = PlanView::read_tables(bytes, bytes.len() as u64)?;
        view.weights = Self::header(bytes)
            .and_then(|header| bytes.get(usize::try_from(header.tables_bytes).ok()?..))
            .unwrap_or_default();
        Ok(view)
    }

    fn header(bytes: &'a [u8]) -> Option<&'a Header> {
        bytemuck::try_from_bytes(bytes.get(..size_of::<Header>())?).ok()
    }

    /// Reads what comes before the weights of a plan of `total_bytes`; `bytes` may end there. The view has no weights.
    pub(crate) fn read_tables(bytes: &'a [u8], total_bytes: u64) -> Result<Self> {
        if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            let address = bytes.as_ptr().addr();
            return Err(Error::new(
                ErrorKind::Plan,
                format!("the plan begins at address {address:#x}; align it to {ALIGNMENT} bytes"),
            ));
        }
        let magic = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if magic != MAGIC {
            return Err(Error::new(
                ErrorKind::Plan,
                format!(
                    "this is no plan: it begins with {:?} and not {:?}",
                    magic.escape_ascii().to_string(),
                    "INFRPLAN"
                ),
            ));
        }
        let header = Self::header(bytes)
            .ok_or_else(|| damaged(format!("it ends after {} bytes, within the header", bytes.len())))?;
        if header.version != VERSION {
            return Err(Error::new(
                ErrorKind::Plan,
                format!(
                    "the plan has format version {}, this program reads version {VERSION}; compile the model again with \
                     the same version of infer-embed",
                    header.version
                ),
            ));
        }
        let tables = check_lengths(header, bytes, total_bytes)?;
        let sum = checksum_of(tables);
        if sum != header.checksum {
            return Err(damaged(format!(
                "its checksum is {:#018x}, its tables sum to {sum:#018x}",
                header.checksum
            )));
        }

        let sections = Sections::locate(header, tables)?;
        let arena_bytes = memory_size(header.arena_bytes)
            .ok_or_else(|| damaged(format!("it asks for an arena of {} bytes", header.arena_bytes)))?;
        let prepared_bytes = memory_size(header.prepared_bytes)
            .ok_or_else(|| damaged(format!("it prepares {} bytes", header.prepared_bytes)))?;

        let strings = str::from_utf8(sections.bytes(SectionId::Strings))
            .map_err(|error| damaged(format!("its names are no UTF-8 from byte {}", error.valid_up_to())))?;
        let (inputs, outputs) = read_ports(header, &sections, strings)?;
        let kernels = read_kernels(&sections, strings)?;
        let [info] = sections.records::<InfoRecord>(SectionId::Info)? else {
            return Err(damaged("it has not exactly one info record"));
        };
        let info = ModelInfo { sha256: info.sha256, opset: info.opset, flops: info.flops };

        let steps: &[StepRecord] = sections.records(SectionId::Steps)?;
        let (prepare, steps) =
            steps.split_at(steps.iter().take_while(|step| step.kind == STEP_PREPARE).count());
        let view = PlanView {
            info,
            inputs,
            outputs,
            kernels,
            prepare,
            steps,
            operands: sections.records(SectionId::Operands)?,
            params: sections.bytes(SectionId::Params),
            strings,
            weights: &[],
            arena_bytes,
            prepared_bytes,
            id: PlanId { checksum: header.checksum, weight_bytes: total_bytes - header.tables_bytes },
            lender: lender(header)?,
        };
        view.check_steps()?;
        view.check_operands()?;
        Ok(view)
    }

    fn check_steps(&self) -> Result<()> {
        for (index, step) in self.prepare.iter().chain(self.steps).enumerate() {
            let wrong = |what: String| damaged(format!("step {index} {what}"));
            let prepares = index < self.prepare.len();
            if !prepares && step.kind != STEP_STATIC {
                return Err(wrong(format!("is of kind {}, which this version does not know", step.kind)));
            }
            if step.kernel as usize >= self.kernels.len() {
                return Err(wrong(format!("calls kernel {} of {}", step.kernel, self.kernels.len())));
            }
            if text(self.strings, step.node).is_none() {
                return Err(wrong(format!("has its node's name at {:?}", step.node)));
            }
            if step.params % TABLE_ALIGNMENT != 0 || self.params_of(step).is_none() {
                return Err(wrong(format!(
                    "has {} bytes of parameters at byte {} of {}",
                    step.params_bytes,
                    step.params,
                    self.params.len()
                )));
            }
            let Some(operands) = self.operands_of(step) else {
                return Err(wrong(format!(
                    "has {} operands from position {} of {}",
                    step.operand_count,
                    step.operands,
                    self.operands.len()
                )));
            };
            let inputs = operands.len().checked_sub(step.outputs as usize).filter(|_| step.outputs > 0);
            let Some((read, written)) = inputs.and_then(|inputs| operands.split_at_checked(inputs)) else {
                return Err(wrong(format!("writes {} of its {} operands", step.outputs, step.operand_count)));
            };
            let readable = |operand: &&OperandRecord| match operand.location {
                location::ABSENT | location::WEIGHTS => true,
                location => (location == location::BORROWED) == prepares,
            };
            let writable = |operand: &&OperandRecord| match operand.location {
                location::WEIGHTS | location::BORROWED | location::INPUT => false,
                location => (location == location::PREPARED) == prepares,
            };
            if let Some(foreign) = read.iter().find(|operand| !readable(operand)) {
                return Err(wrong(match prepares {
                    true => format!("prepares from what is no weight: {foreign:?}"),
                    false => format!("reads another plan's weights: {foreign:?}"),
                }));
            }
            if let Some(read_only) = written.iter().find(|operand| !writable(operand)) {
                return Err(wrong(format!("writes to read-only memory: {read_only:?}")));
            }
        }
        Ok(())
    }

    fn check_operands(&self) -> Result<()> {
        for (index, operand) in self.operands.iter().enumerate() {
            let available = match operand.location {
                location::ABSENT => Some(0),
                location::ARENA => Some(self.arena_bytes as u64),
                location::WEIGHTS => Some(self.id.weight_bytes),
                location::BORROWED => Some(self.lender.map_or(0, |lender| lender.weight_bytes)),
                location::PREPARED => Some(self.prepared_bytes as u64),
                location::INPUT => self.inputs.get(operand.port as usize).map(|port| port.ty.bytes() as u64),
                location::OUTPUT => {
                    self.outputs.get(operand.port as usize).map(|port| port.ty.bytes() as u64)
                }
                _ => None,
            };
            let Some(available) = available else {
                return Err(damaged(format!(
                    "operand {index} lies in location {}, port {}, of {} inputs and {} outputs",
                    operand.location,
                    operand.port,
                    self.inputs.len(),
                    self.outputs.len()
                )));
            };
            if operand.offset.checked_add(operand.bytes).is_none_or(|end| end > available) {
                return Err(damaged(format!(
                    "operand {index} takes {} bytes from byte {} of {available}",
                    operand.bytes, operand.offset
                )));
            }
        }
        Ok(())
    }

    fn params_of(&self, step: &StepRecord) -> Option<&'a [u8]> {
        range(self.params, step.params, step.params_bytes.into())
    }

    fn operands_of(&self, step: &StepRecord) -> Option<&'a [OperandRecord]> {
        range(self.operands, step.operands, step.operand_count.into())
    }

    /// The model it was made from.
    pub fn info(&self) -> ModelInfo {
        self.info
    }

    /// The inputs.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The names of the kernels it calls, each once, sorted.
    pub fn kernels(&self) -> &[&'a str] {
        &self.kernels
    }

    /// The kernel calls, in order.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = Step<'a>> + use<'_, 'a> {
        self.steps.iter().map(|step| self.step(step))
    }

    /// The kernel calls that run once, when the plan is opened, in order: they read weights and write prepared memory.
    pub fn prepare_steps(&self) -> impl ExactSizeIterator<Item = Step<'a>> + use<'_, 'a> {
        self.prepare.iter().map(|step| self.step(step))
    }

    fn step(&self, step: &StepRecord) -> Step<'a> {
        Step {
            kernel: step.kernel as usize,
            node: text(self.strings, step.node).unwrap_or_default(),
            params: self.params_of(step).unwrap_or_default(),
            outputs: step.outputs as usize,
            operands: self.operands_of(step).unwrap_or_default(),
        }
    }

    /// What tells it from others.
    pub fn id(&self) -> PlanId {
        self.id
    }

    /// The plan whose weights it borrows, where it borrows any.
    pub fn lender(&self) -> Option<PlanId> {
        self.lender
    }

    /// The weights, aligned to 64 bytes.
    pub fn weights(&self) -> &'a [u8] {
        self.weights
    }

    /// The size of the arena, a multiple of 64.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// The size of what is prepared, a multiple of 64.
    pub fn prepared_bytes(&self) -> usize {
        self.prepared_bytes
    }
}

/// The plan whose weights a plan borrows.
fn lender(header: &Header) -> Result<Option<PlanId>> {
    let Header { lender_checksum: checksum, lender_weight_bytes: weight_bytes, .. } = *header;
    match weight_bytes {
        0 if checksum == 0 => Ok(None),
        1..=MAX_ARENA_BYTES => Ok(Some(PlanId { checksum, weight_bytes })),
        _ => Err(damaged(format!("it borrows from weights of {weight_bytes} bytes"))),
    }
}

/// A size of memory that a system may grant, a multiple of [`ALIGNMENT`].
fn memory_size(bytes: u64) -> Option<usize> {
    let size = usize::try_from(bytes).ok()?;
    (isize::try_from(size).is_ok() && bytes <= MAX_ARENA_BYTES && size.is_multiple_of(ALIGNMENT))
        .then_some(size)
}

/// Checks the sizes in the header; returns the bytes before the weights.
fn check_lengths<'a>(header: &Header, bytes: &'a [u8], total_bytes: u64) -> Result<&'a [u8]> {
    if header.header_bytes as usize != size_of::<Header>() {
        return Err(damaged(format!(
            "its header says that it has {} bytes, not {}",
            header.header_bytes,
            size_of::<Header>()
        )));
    }
    if header.total_bytes != total_bytes {
        return Err(damaged(format!("it should have {} bytes and has {total_bytes}", header.total_bytes)));
    }
    usize::try_from(header.tables_bytes)
        .ok()
        .filter(|&tables| {
            tables % ALIGNMENT == 0 && tables >= size_of::<Header>() && tables as u64 <= total_bytes
        })
        .and_then(|tables| bytes.get(..tables))
        .ok_or_else(|| damaged(format!("its tables have {} of {total_bytes} bytes", header.tables_bytes)))
}

/// The checksum of a plan's tables, a whole number of words.
pub(super) fn checksum_of(tables: &[u8]) -> u64 {
    let (words, _) = tables.as_chunks::<8>();
    checksum(words.iter().enumerate().map(|(index, word)| {
        if index * size_of::<u64>() == CHECKSUM_OFFSET { 0 } else { u64::from_le_bytes(*word) }
    }))
}

/// The bytes of each section.
struct Sections<'a>([&'a [u8]; SectionId::ALL.len()]);

impl<'a> Sections<'a> {
    /// Sections must follow one another, so that no two overlap and nothing hides between them.
    fn locate(header: &Header, tables: &'a [u8]) -> Result<Self> {
        let mut sections: [&[u8]; SectionId::ALL.len()] = Default::default();
        let mut expected = size_of::<Header>() as u64;
        for ((slot, id), &Section { offset, bytes }) in
            sections.iter_mut().zip(SectionId::ALL).zip(&header.sections)
        {
            let wrong = || {
                damaged(format!(
                    "its section `{}` has {bytes} bytes from byte {offset} of {}",
                    id.name(),
                    tables.len()
                ))
            };
            if offset != expected {
                return Err(wrong());
            }
            *slot = range(tables, offset, bytes).ok_or_else(wrong)?;
            expected = (offset + bytes).next_multiple_of(TABLE_ALIGNMENT);
        }
        if expected.next_multiple_of(ALIGNMENT as u64) != tables.len() as u64 {
            return Err(damaged(format!("its sections end at byte {expected} of {}", tables.len())));
        }
        Ok(Sections(sections))
    }

    fn bytes(&self, id: SectionId) -> &'a [u8] {
        self.0.get(id as usize).copied().unwrap_or_default()
    }

    fn records<R: AnyBitPattern>(&self, id: SectionId) -> Result<&'a [R]> {
        let bytes = self.bytes(id);
        bytemuck::try_cast_slice(bytes).map_err(|_| {
            let (name, record) = (id.name(), size_of::<R>());
            damaged(format!(
                "its section `{name}` of {} bytes does not divide into records of {record}",
                bytes.len()
            ))
        })
    }
}

fn read_ports(header: &Header, sections: &Sections<'_>, strings: &str) -> Result<(Vec<Port>, Vec<Port>)> {
    let records: &[PortRecord] = sections.records(SectionId::Ports)?;
    let dims: &[u64] = sections.records(SectionId::Dims)?;
    let (inputs, outputs) = (u64::from(header.inputs), u64::from(header.outputs));
    if inputs + outputs != records.len() as u64 {
        return Err(damaged(format!(
            "it has {} ports for {inputs} inputs and {outputs} outputs",
            records.len()
        )));
    }
    let mut ports = records
        .iter()
        .enumerate()
        .map(|(index, record)| {
            read_port(record, dims, strings).map_err(|what| damaged(format!("port {index} {what}")))
        })
        .collect::<Result<Vec<Port>>>()?;
    let outputs = ports.split_off((header.inputs as usize).min(ports.len()));
    Ok((ports, outputs))
}

fn read_port(record: &PortRecord, dims: &[u64], strings: &str) -> Result<Port, String> {
    let name = text(strings, record.name).ok_or_else(|| format!("has its name at {:?}", record.name))?;
    let dtype = i32::try_from(record.dtype)
        .ok()
        .and_then(DataType::from_onnx)
        .ok_or_else(|| format!("has element type {}", record.dtype))?;
    let extents =
        range(dims, record.dims, record.rank.into()).filter(|_| record.rank <= MAX_PORT_RANK).ok_or_else(
            || format!("has {} extents from position {} of {}", record.rank, record.dims, dims.len()),
        )?;
    let shape: Option<Vec<usize>> = extents.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let ty = shape
        .map(|shape| TensorType::new(dtype, shape))
        .filter(|ty| {
            // Only of a shape without overflow may the size be asked.
            !ty.shape.contains(&0) || ty.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some()
        })
        .filter(|ty| {
            let bytes = ty.checked_elements().and_then(|elements| elements.checked_mul(dtype.size_bytes()));
            bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok())
        })
        .ok_or_else(|| format!("has the impossible shape {extents:?}"))?;
    Ok(Port { name: name.to_owned(), ty })
}

fn read_kernels<'a>(sections: &Sections<'a>, strings: &'a str) -> Result<Vec<&'a str>> {
    let records: &[KernelRecord] = sections.records(SectionId::Kernels)?;
    let mut kernels: Vec<&str> = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        let name = text(strings, record.name)
            .ok_or_else(|| damaged(format!("kernel {index} has its name at {:?}", record.name)))?;
        if kernels.last().is_some_and(|&last| last >= name) {
            return Err(damaged(format!("kernel {index}, `{name}`, is not in order")));
        }
        kernels.push(name);
    }
    Ok(kernels)
}

/// `count` items from position `start`.
fn range<T>(items: &[T], start: u64, count: u64) -> Option<&[T]> {
    let start = usize::try_from(start).ok()?;
    items.get(start..start.checked_add(usize::try_from(count).ok()?)?)
}

fn text(strings: &str, text: Text) -> Option<&str> {
    let start = text.offset as usize;
    strings.get(start..start.checked_add(text.bytes as usize)?)
}

#[cfg(all(test, feature = "compiler"))]
#[path = "read_tests.rs"]
mod tests;
