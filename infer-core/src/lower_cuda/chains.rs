//! Joins elementwise calls that follow from each other, or stand side by side, to chains: one launch each.
//!
//! Before: calls of `cuda_elementwise*` and `cuda_map_*` over one space of elements, where each thread of one reads what the
//! same thread of another has written. After: one call of `cuda_chain*` at the place of the last, which stores what
//! others read and keeps the rest in registers.
//!
//! Precondition: a buffer is written whole before it is read, as `schedule` proves of the result.
//! Exactness: the same functions in f32, without the rounding to 16 bits in between where f32 is stored so.

use std::collections::{BTreeSet, HashMap};

use half::{bf16, f16};
use infer_kernels::call::Activation;
use infer_kernels::cuda::{
    AXES, CHAIN_INPUTS, CHAIN_OUTPUTS, CHAIN_SLOTS, CHAIN_STEPS, Chain, ElementOp, ElementType, Elementwise,
    Map, MapKind, Step, step,
};

use crate::calls::{BufferKind, Calls, KernelCall, Span};

/// Joins elementwise calls to chains.
pub(super) fn join(calls: &mut Calls) {
    let groups = Groups::of(calls).all;
    let mut left: Vec<Option<KernelCall>> = calls.calls.iter().cloned().map(Some).collect();
    for group in groups.into_iter().flatten() {
        let members = group.members.clone();
        if let (Some(call), Some(&last)) = (group.into_call(&calls.calls), members.last()) {
            members.iter().for_each(|&member| left[member] = None);
            left[last] = Some(call);
        }
    }
    calls.calls = left.into_iter().flatten().collect();
}

/// Which calls read and write each buffer.
struct Uses {
    readers: Vec<Vec<usize>>,
    writers: Vec<Vec<usize>>,
}

impl Uses {
    fn of(calls: &Calls) -> Uses {
        let none = vec![Vec::new(); calls.buffers.len()];
        let mut uses = Uses { readers: none.clone(), writers: none };
        for (position, call) in calls.calls.iter().enumerate() {
            let inputs = call.operands.len() - call.outputs;
            for (operand, span) in call.operands.iter().enumerate() {
                let Some(span) = span else { continue };
                let of = if operand < inputs { &mut uses.readers } else { &mut uses.writers };
                of[span.buffer.0 as usize].push(position);
            }
        }
        uses
    }
}

/// The elements that a call walks of an operand, along the axes of its space.
#[derive(Clone, Debug, PartialEq)]
struct Access {
    span: Span,
    ty: ElementType,
    offset: usize,
    strides: Vec<usize>,
}

impl Access {
    /// The element that stands for all, where it is known.
    fn constant(&self, calls: &Calls) -> Option<f32> {
        let BufferKind::Constant(data) = &calls.buffers[self.span.buffer.0 as usize].kind else {
            return None;
        };
        if self.strides.iter().any(|&stride| stride > 0) {
            return None;
        }
        let size = self.ty.bytes() as usize;
        let start = self.span.offset_bytes as usize + self.offset * size;
        let bytes = data.get(start..start + size)?;
        Some(match self.ty {
            ElementType::F32 => f32::from_le_bytes(bytes.try_into().ok()?),
            ElementType::F16 => f16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            ElementType::Bf16 => bf16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            ElementType::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f32,
            ElementType::I32 => i32::from_le_bytes(bytes.try_into().ok()?) as f32,
            ElementType::Bool => f32::from(u8::from(bytes != [0])),
            _ => return None,
        })
    }

    /// The same elements along `to`, which `from` was split into.
    fn split(&self, from: &[usize], to: &[usize]) -> Access {
        let mut strides = vec![0; to.len()];
        let mut slot = to.len();
        for (&extent, &stride) in from.iter().zip(&self.strides).rev() {
            let mut covered = 1;
            while covered < extent {
                slot -= 1;
                strides[slot] = stride * covered;
                covered *= to[slot];
            }
        }
        Access { strides, ..self.clone() }
    }
}

/// An elementwise call, as what a chain may have as a part.
#[derive(Clone, Debug)]
struct Part {
    /// Greater than one each.
    extents: Vec<usize>,
    reads: Vec<Access>,
    write: Access,
    /// What it computes; how it walks its operands is above.
    function: Elementwise,
    /// Whether what it writes is rounded to tf32.
    rounds: bool,
}

impl Part {
    fn of(call: &KernelCall) -> Option<Part> {
        if call.kernel.starts_with("cuda_elementwise") {
            Part::of_elementwise(call)
        } else {
            Part::of_map(call, call.kernel.strip_prefix("cuda_map_")?)
        }
    }

    fn of_elementwise(call: &KernelCall) -> Option<Part> {
        let function: Elementwise = bytemuck::pod_read_unaligned(&call.params);
        let count = function.operands as usize;
        let access = |operand: usize, ty: i32, offset: i32, strides: &[i32; AXES]| {
            let ty = ElementType::ALL.get(ty as usize)?.0;
            let walked = strides.iter().zip(function.extents).filter(|&(_, extent)| extent > 1);
            let strides = walked.map(|(&stride, _)| stride as usize).collect();
            Some(Access { span: call.operands[operand]?, ty, offset: offset as usize, strides })
        };
        let reads: Vec<Access> = (0..count)
            .map(|k| access(k, function.types[k], function.offsets[k], &function.strides[k]))
            .collect::<Option<_>>()?;
        let write = access(3, function.out_type, function.out_offset, &function.out_strides)?;
        if function.integer != 0 {
            // f32 is exact for truth values; other integers stay alone.
            use ElementOp::{And, Equal, First, Not, Or, Where, Xor};
            let is_logic =
                [And, Equal, First, Not, Or, Where, Xor].iter().any(|&op| op as i32 == function.operation);
            if !is_logic || reads.iter().chain([&write]).any(|access| access.ty != ElementType::Bool) {
                return None;
            }
        }
        let extents = function.extents.iter().filter(|&&extent| extent > 1);
        let extents = extents.map(|&extent| extent as usize).collect();
        Some(Part { extents, reads, write, function, rounds: false })
    }

    fn of_map(call: &KernelCall, stored: &str) -> Option<Part> {
        let params: Map = bytemuck::pod_read_unaligned(&call.params);
        let rounds = stored == "tf32";
        let stored = if rounds { "f32" } else { stored };
        let &(ty, _) = ElementType::ALL.iter().find(|(_, name)| *name == stored)?;
        let [share, channels] = [params.share, params.channels].map(|extent| extent as usize);
        let extents = [params.pixels as usize / share, share, channels];
        // The right picture has one pixel for all that share it.
        let access = |operand: usize, stride: i32, share: usize| {
            let stride = stride as usize;
            let strides = match share {
                1 => [stride * extents[1], stride, 1],
                _ => [stride, 0, 1],
            };
            let walked = strides.iter().zip(extents).filter(|&(_, extent)| extent > 1);
            let strides = walked.map(|(&stride, _)| stride).collect();
            Some(Access { span: call.operands[operand]?, ty, offset: 0, strides })
        };
        let mut reads = vec![access(0, params.left_stride, 1)?];
        if params.kind != MapKind::Left as i32 {
            reads.push(access(1, params.right_stride, share)?);
        }
        let write = access(2, params.out_stride, 1)?;
        let operation =
            [ElementOp::First, ElementOp::Add, ElementOp::Mul, ElementOp::Sub].get(params.kind as usize)?;
        let function = Elementwise {
            operation: *operation as i32,
            activation: params.activation,
            ..Elementwise::default()
        };
        let extents = extents.into_iter().filter(|&extent| extent > 1).collect();
        Some(Part { extents, reads, write, function, rounds })
    }

    fn elements(&self) -> usize {
        self.extents.iter().product()
    }

    /// Whether it computes 0 or 1 alone.
    fn is_truth(&self) -> bool {
        let operation = self.function.operation;
        let is_logic = (ElementOp::And as i32..ElementOp::Where as i32).contains(&operation)
            || operation == ElementOp::Not as i32
            || operation == ElementOp::IsNan as i32;
        let of_truth = self.reads.iter().all(|read| read.ty == ElementType::Bool);
        self.function.activation == Activation::NONE && (is_logic || of_truth)
    }
}

/// Calls that become one.
struct Group {
    /// In their order.
    members: Vec<usize>,
    chain: Chain,
    operands: Vec<Option<Span>>,
}

/// All groups of the calls.
struct Groups<'a> {
    calls: &'a Calls,
    parts: Vec<Option<Part>>,
    uses: Uses,
    /// The group of each call.
    of: Vec<Option<usize>>,
    /// `None` for one that went into another.
    all: Vec<Option<Group>>,
}

impl Groups<'_> {
    fn of(calls: &Calls) -> Groups<'_> {
        let parts = calls.calls.iter().map(Part::of).collect();
        let of = vec![None; calls.calls.len()];
        let mut groups = Groups { calls, parts, uses: Uses::of(calls), of, all: Vec::new() };
        for position in 0..calls.calls.len() {
            groups.add(position);
        }
        groups
    }

    /// Adds a call to the groups of what it reads, as far as that makes one chain, and to that of the call before it.
    fn add(&mut self, position: usize) {
        let Some(part) = &self.parts[position] else { return };
        let writers = part.reads.iter().flat_map(|read| &self.uses.writers[read.span.buffer.0 as usize]);
        let read: BTreeSet<usize> =
            writers.filter(|&&writer| writer < position).filter_map(|&writer| self.of[writer]).collect();
        let Some(mut joined) = self.joined(vec![position], &[]) else { return };
        let all: Vec<usize> = read.iter().copied().collect();
        let each = all.iter().map(|group| vec![*group]).collect::<Vec<_>>();
        if let Some(more) = [all].iter().chain(&each).find_map(|groups| self.joined(vec![position], groups)) {
            joined = more;
        }
        // Neighbours that nothing connects gain a launch alone: neither is to lose its way of access.
        let before =
            position.checked_sub(1).and_then(|before| self.of[before]).filter(|group| !read.contains(group));
        if let Some((index, beside)) = before.and_then(|index| Some((index, self.all[index].as_ref()?)))
            && let Some(both) = self.joined(joined.members.clone(), &[index])
            && [beside, &joined].iter().all(|group| group.chain.kernel() == both.chain.kernel())
        {
            joined = both;
        }
        for &member in &joined.members {
            if let Some(group) = self.of[member].replace(self.all.len()) {
                self.all[group] = None;
            }
        }
        self.all.push(Some(joined));
    }

    /// These calls and those of `groups` as one, if that is a chain.
    fn joined(&self, mut members: Vec<usize>, groups: &[usize]) -> Option<Group> {
        for &group in groups {
            members.extend(&self.all[group].as_ref()?.members);
        }
        members.sort_unstable();
        if !self.can_wait(&members) {
            return None;
        }
        let parts: Vec<&Part> =
            members.iter().map(|&member| self.parts[member].as_ref()).collect::<Option<_>>()?;
        let is_seen = |part: &&Part| {
            let buffer = part.write.span.buffer.0 as usize;
            !matches!(self.calls.buffers[buffer].kind, BufferKind::Arena)
                || self.uses.readers[buffer].iter().any(|reader| !members.contains(reader))
        };
        let seen: Vec<bool> = parts.iter().map(is_seen).collect();
        let (chain, operands) = Builder::default().chain(self.calls, &parts, &seen)?;
        Some(Group { members, chain, operands })
    }

    /// Whether the calls can all run where the last one is.
    fn can_wait(&self, members: &[usize]) -> bool {
        let Some(&last) = members.last() else { return false };
        members.iter().all(|&member| {
            let is_between = |other: &usize| (member..last).contains(other) && !members.contains(other);
            let touches =
                |access: &Access, of: &[Vec<usize>]| of[access.span.buffer.0 as usize].iter().any(is_between);
            self.parts[member].as_ref().is_some_and(|part| {
                !touches(&part.write, &self.uses.readers)
                    && !touches(&part.write, &self.uses.writers)
                    && !part.reads.iter().any(|read| touches(read, &self.uses.writers))
            })
        })
    }
}

impl Group {
    /// The call in place of those of the group; `None` where the one there is stays.
    fn into_call(self, calls: &[KernelCall]) -> Option<KernelCall> {
        let kernel = self.chain.kernel();
        let last = &calls[*self.members.last()?];
        let node = match self.members.len() {
            // Alone, it gains where eight of its elements can be computed at once and are not.
            1 if last.kernel != "cuda_elementwise" || kernel != "cuda_chain8" => return None,
            1 => last.node.clone(),
            count => format!("{} and {} before it", last.node, count - 1),
        };
        let params = bytemuck::bytes_of(&self.chain).to_vec();
        Some(KernelCall {
            kernel: kernel.to_owned(),
            params,
            operands: self.operands,
            outputs: CHAIN_OUTPUTS,
            node,
        })
    }
}

/// The extents that all parts can be split into.
fn common_extents(parts: &[&Part]) -> Option<Vec<usize>> {
    let elements = parts.first()?.elements();
    if parts.iter().any(|part| part.elements() != elements) {
        return None;
    }
    // How many elements lie inside of each axis.
    let mut inner = BTreeSet::from([1, elements]);
    for part in parts {
        let mut count = 1;
        for extent in part.extents.iter().rev() {
            count *= extent;
            inner.insert(count);
        }
    }
    let inner: Vec<usize> = inner.into_iter().rev().collect();
    let ratios = inner.windows(2).map(|pair| pair[0].is_multiple_of(pair[1]).then(|| pair[0] / pair[1]));
    ratios.collect()
}

/// A number of a program.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Constant(f32),
    Input(usize),
    /// What a step makes.
    Step(usize),
}

/// What a step is before its numbers have their slots.
enum Action {
    Function(Elementwise),
    Activation(Activation),
    Truth,
    RoundTf32,
    /// To the output of this number.
    Store(usize),
}

/// A chain that is being made.
#[derive(Default)]
struct Builder {
    inputs: Vec<Access>,
    outputs: Vec<Access>,
    steps: Vec<(Action, Vec<Number>)>,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Input(usize),
    Step(usize),
}

impl Number {
    fn key(&self) -> Option<Key> {
        match *self {
            Number::Constant(_) => None,
            Number::Input(input) => Some(Key::Input(input)),
            Number::Step(step) => Some(Key::Step(step)),
        }
    }
}

impl Builder {
    /// The chain of these parts, of which `seen` are stored, and its operands.
    fn chain(mut self, calls: &Calls, parts: &[&Part], seen: &[bool]) -> Option<(Chain, Vec<Option<Span>>)> {
        let extents = common_extents(parts)?;
        let mut written: Vec<(Access, Option<Number>)> = Vec::new();
        for (part, &seen) in parts.iter().zip(seen) {
            let number = self.add(calls, part, &extents, &written)?;
            let write = part.write.split(&part.extents, &extents);
            // Whether parts of one buffer are the same elements is not looked at.
            if written.iter().any(|(access, _)| access.span.buffer == write.span.buffer) {
                return None;
            }
            if seen {
                self.steps.push((Action::Store(self.outputs.len()), vec![number]));
                self.outputs.push(write.clone());
            }
            let is_read =
                parts.iter().flat_map(|part| &part.reads).any(|read| read.span.buffer == write.span.buffer);
            let number = match write.ty {
                ElementType::Bool if is_read && !part.is_truth() => {
                    Some(self.step(Action::Truth, vec![number]))
                }
                ElementType::Bool => Some(number),
                // Integers are cut off where they are stored.
                ty => ty.is_common_float().then_some(number),
            };
            written.push((write, number));
        }
        (1..=CHAIN_OUTPUTS).contains(&self.outputs.len()).then(|| self.finish(&extents))?
    }

    /// Adds what a part does, along the axes of the chain; `written` is what the parts before it computed.
    fn add(
        &mut self,
        calls: &Calls,
        part: &Part,
        extents: &[usize],
        written: &[(Access, Option<Number>)],
    ) -> Option<Number> {
        let mut numbers = Vec::with_capacity(part.reads.len());
        for read in &part.reads {
            let read = read.split(&part.extents, extents);
            let known = written.iter().find(|(access, _)| access.span.buffer == read.span.buffer);
            numbers.push(match (known, read.constant(calls)) {
                (Some((access, number)), _) => number.filter(|_| *access == read)?,
                (None, Some(constant)) => Number::Constant(constant),
                (None, None) => Number::Input(self.input(read)?),
            });
        }
        let function = part.function;
        let mut number = numbers[0];
        if function.operation != ElementOp::First as i32 {
            number = self.step(Action::Function(function), numbers);
        }
        if function.activation != Activation::NONE {
            number = self.step(Action::Activation(function.activation), vec![number]);
        }
        if part.rounds {
            number = self.step(Action::RoundTf32, vec![number]);
        }
        Some(number)
    }

    fn input(&mut self, read: Access) -> Option<usize> {
        let known = self.inputs.iter().position(|input| *input == read);
        let index = known.unwrap_or(self.inputs.len());
        if known.is_none() {
            self.inputs.push(read);
        }
        (index < CHAIN_INPUTS).then_some(index)
    }

    fn step(&mut self, action: Action, operands: Vec<Number>) -> Number {
        self.steps.push((action, operands));
        Number::Step(self.steps.len() - 1)
    }

    /// The chain over a space of these extents, and its operands.
    fn finish(self, extents: &[usize]) -> Option<(Chain, Vec<Option<Span>>)> {
        let mut chain = Chain {
            extents: [1; AXES],
            elements: extents.iter().product::<usize>() as i32,
            input_count: self.inputs.len() as i32,
            output_count: self.outputs.len() as i32,
            step_count: self.steps.len() as i32,
            ..Chain::default()
        };
        if self.steps.len() > CHAIN_STEPS {
            return None;
        }
        (chain.steps, chain.slots) = self.program()?;
        // Neighbouring axes that every operand walks as one are one.
        let mut axes: Vec<(usize, Vec<usize>)> = Vec::new();
        for (axis, &extent) in extents.iter().enumerate() {
            let strides = self
                .inputs
                .iter()
                .chain(&self.outputs)
                .map(|access| access.strides[axis])
                .collect::<Vec<_>>();
            match axes.last_mut() {
                Some((outer, last)) if last.iter().zip(&strides).all(|(last, s)| *last == s * extent) => {
                    *outer *= extent;
                    *last = strides;
                }
                _ => axes.push((extent, strides)),
            }
        }
        for (slot, (extent, strides)) in (AXES.checked_sub(axes.len())?..).zip(&axes) {
            chain.extents[slot] = *extent as i32;
            let (of_inputs, of_outputs) = strides.split_at(self.inputs.len());
            for (to, &stride) in chain.strides.iter_mut().zip(of_inputs) {
                to[slot] = stride as i32;
            }
            for (to, &stride) in chain.out_strides.iter_mut().zip(of_outputs) {
                to[slot] = stride as i32;
            }
        }
        let mut operands = vec![None; CHAIN_INPUTS + CHAIN_OUTPUTS];
        for (k, input) in self.inputs.iter().enumerate() {
            (chain.types[k], chain.offsets[k]) = (input.ty as i32, input.offset as i32);
            operands[k] = Some(input.span);
        }
        for (k, output) in self.outputs.iter().enumerate() {
            (chain.out_types[k], chain.out_offsets[k]) = (output.ty as i32, output.offset as i32);
            operands[CHAIN_INPUTS + k] = Some(output.span);
        }
        Some((chain, operands))
    }

    /// The steps, each value that more than the next step reads in a slot, and how many slots there are.
    fn program(&self) -> Option<([Step; CHAIN_STEPS], i32)> {
        // What the step before a step made, and the last step that reads a number from a slot.
        let mut before = Vec::with_capacity(self.steps.len());
        let mut last_use: HashMap<Key, usize> = HashMap::new();
        let mut last = None;
        for (index, (action, operands)) in self.steps.iter().enumerate() {
            before.push(last);
            for key in operands.iter().filter_map(Number::key).filter(|&key| Some(key) != last) {
                last_use.insert(key, index);
            }
            last = match action {
                Action::Store(_) => operands[0].key(),
                _ => Some(Key::Step(index)),
            };
        }
        let mut slots = [None; CHAIN_SLOTS];
        let inputs = (0..self.inputs.len()).map(|input| Some(Key::Input(input)));
        slots.iter_mut().zip(inputs).for_each(|(slot, input)| *slot = input);
        let mut count = self.inputs.len();
        let mut steps = [Step::default(); CHAIN_STEPS];
        for (index, ((action, operands), made)) in self.steps.iter().zip(&mut steps).enumerate() {
            let mut constants: Vec<f32> = Vec::new();
            let mut sources = Vec::with_capacity(operands.len());
            for operand in operands {
                sources.push(match (operand, operand.key()) {
                    (Number::Constant(value), _) => {
                        let known = constants.iter().position(|known| known.to_bits() == value.to_bits());
                        constants.extend(known.is_none().then_some(value));
                        *[step::ALPHA, step::BETA].get(known.unwrap_or(constants.len() - 1))?
                    }
                    (_, key) if key == before[index] => step::LAST,
                    (_, key) => slots.iter().position(|slot| *slot == key)? as u8,
                });
            }
            let (operation, own) = match action {
                Action::Function(function) => {
                    let own = [function.alpha, function.beta];
                    let has_own = function.operation >= ElementOp::Ceil as i32;
                    (function.operation as u8, has_own.then_some(own))
                }
                Action::Activation(of) => (step::ACTIVATIONS + of.kind as u8, Some([of.alpha, of.beta])),
                Action::Truth => (step::TRUTH, None),
                Action::RoundTf32 => (step::ROUND_TF32, None),
                Action::Store(_) => (step::STORE, None),
            };
            // There is room for constants of one kind.
            if own.is_some() && !constants.is_empty() {
                return None;
            }
            constants.resize(2, 0.0);
            let [alpha, beta] = own.unwrap_or([constants[0], constants[1]]);
            *made = Step { alpha, beta, ..Step::new(operation, &sources) };
            if let Action::Store(output) = *action {
                made.result = output as u8;
            }
            for slot in &mut slots {
                slot.take_if(|key| last_use.get(key).is_none_or(|&last| last <= index));
            }
            if last_use.contains_key(&Key::Step(index)) {
                let free = slots.iter().position(Option::is_none)?;
                slots[free] = Some(Key::Step(index));
                count = count.max(free + 1);
                made.result = free as u8;
            }
        }
        Some((steps, count as i32))
    }
}
