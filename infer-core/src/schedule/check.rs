//! Proves a memory plan right by replaying the calls over it.
//!
//! The proof shares nothing with how the plan was made: it keeps, for every byte that a call has written, the buffer
//! it was written for. A call may read a byte only for the buffer that owns it; an overlap of two buffers that hold
//! something at the same time therefore shows as a read of foreign bytes. Bytes are kept as ranges, so that the cost
//! depends on the number of calls and not on the size of the arena.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ALIGNMENT, Conflict, MemoryPlan};
use crate::calls::{BufferId, BufferKind, Calls, KernelCall, Span};

/// The memory that calls write: the arena is one, every graph output another, and every prepared buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Arena,
    Output(usize),
    Prepared(BufferId),
}

/// Which buffer owns which bytes: disjoint ranges by their start, as (end, owner).
#[derive(Default)]
struct Owners(BTreeMap<(Space, u64), (u64, BufferId)>);

impl Owners {
    /// Makes `owner` the owner of `range`.
    fn write(&mut self, space: Space, range: Range<u64>, owner: BufferId) {
        if range.is_empty() {
            return;
        }
        let before = self.0.range(..(space, range.start)).next_back();
        if let Some((&(s, start), &(end, other))) = before
            && s == space
            && end > range.start
        {
            self.0.insert((space, start), (range.start, other));
            if end > range.end {
                self.0.insert((space, range.end), (end, other));
            }
        }
        while let Some((&key, &(end, other))) = self.0.range((space, range.start)..(space, range.end)).next()
        {
            self.0.remove(&key);
            if end > range.end {
                self.0.insert((space, range.end), (end, other));
            }
        }
        self.0.insert((space, range.start), (range.end, owner));
    }

    /// The first byte of `range` that `owner` does not own, with the buffer that does.
    fn foreign(&self, space: Space, range: Range<u64>, owner: BufferId) -> Option<(u64, Option<BufferId>)> {
        let mut at = range.start;
        while at < range.end {
            match self.0.range(..=(space, at)).next_back() {
                Some((&(s, _), &(end, known))) if s == space && end > at => {
                    if known != owner {
                        return Some((at, Some(known)));
                    }
                    at = end;
                }
                _ => return Some((at, None)),
            }
        }
        None
    }
}

/// Replays `calls` over `memory` and proves that every call finds in its inputs what was last written to them, that
/// what a call writes overlaps nothing else it works on, and that the graph's outputs are written whole.
///
/// # Errors
///
/// The first call for which that is not so.
pub fn check(calls: &Calls, memory: &MemoryPlan) -> Result<(), Conflict> {
    if memory.offsets.len() != calls.buffers.len() {
        let (offsets, buffers) = (memory.offsets.len(), calls.buffers.len());
        return Err(Conflict(format!("the memory plan has {offsets} offsets for {buffers} buffers")));
    }
    let mut owners = Owners::default();
    for (index, call) in calls.prepare.iter().chain(&calls.calls).enumerate() {
        check_memory(calls, call, index < calls.prepare.len())
            .and_then(|()| check_call(calls, memory, &mut owners, call))
            .map_err(|what| Conflict(format!("node `{}` {what}", call.node)))?;
    }
    for (index, buffer) in calls.buffers.iter().enumerate() {
        if let BufferKind::Output(output) = buffer.kind
            && let Some((at, _)) =
                owners.foreign(Space::Output(output), 0..buffer.bytes, BufferId(index as u32))
        {
            return Err(Conflict(format!("no call writes byte {at} of output {output}")));
        }
    }
    Ok(())
}

/// Calls that prepare work from constants into prepared buffers, which no other call writes.
fn check_memory(calls: &Calls, call: &KernelCall, prepares: bool) -> Result<(), String> {
    let inputs = call.operands.len().saturating_sub(call.outputs);
    for (position, span) in call.operands.iter().enumerate() {
        let Some(span) = span else { continue };
        let Some(buffer) = calls.buffers.get(span.buffer.0 as usize) else { continue };
        let is_prepared = matches!(buffer.kind, BufferKind::Prepared);
        let is_borrowed = matches!(buffer.kind, BufferKind::Borrowed(_));
        if prepares && position < inputs && !is_borrowed && !matches!(buffer.kind, BufferKind::Constant(_)) {
            return Err(format!("prepares from operand {position}, which is no constant"));
        }
        if !prepares && is_borrowed {
            return Err(format!("names operand {position}, which is another plan's"));
        }
        if position >= inputs && is_prepared != prepares {
            return Err(format!(
                "writes operand {position}, which is {}prepared",
                if prepares { "not " } else { "" }
            ));
        }
    }
    Ok(())
}

fn check_call(
    calls: &Calls,
    memory: &MemoryPlan,
    owners: &mut Owners,
    call: &KernelCall,
) -> Result<(), String> {
    let inputs =
        call.operands.len().checked_sub(call.outputs).ok_or_else(|| {
            format!("has {} operands, of which {} outputs", call.operands.len(), call.outputs)
        })?;

    // Where each operand that lies in writable memory is.
    let mut ranges: Vec<(usize, Span, Space, Range<u64>)> = Vec::with_capacity(call.operands.len());
    for (position, span) in call.operands.iter().enumerate() {
        let Some(span) = span else { continue };
        match locate(calls, memory, span).map_err(|what| format!("has an operand {position} that {what}"))? {
            Some((space, range)) => ranges.push((position, *span, space, range)),
            None if position >= inputs => {
                return Err(format!("writes operand {position}, which is read-only"));
            }
            None => {}
        }
    }

    for (position, span, space, range) in ranges.iter().filter(|(position, ..)| *position < inputs) {
        match owners.foreign(*space, range.clone(), span.buffer) {
            None => {}
            Some((at, None)) => {
                return Err(format!(
                    "reads byte {at} of {space:?} as operand {position}, which no call has written"
                ));
            }
            Some((at, Some(other))) => {
                return Err(format!(
                    "reads byte {at} of {space:?} for buffer {}, which buffer {} has overwritten",
                    span.buffer.0, other.0
                ));
            }
        }
    }

    for (position, span, space, range) in ranges.iter().filter(|(position, ..)| *position >= inputs) {
        for (other_position, other, other_space, other_range) in &ranges {
            // Parts of one buffer may interleave, as channels of several images do: their bounds say nothing.
            if other.buffer != span.buffer
                && other_space == space
                && other_range.start.max(range.start) < other_range.end.min(range.end)
            {
                return Err(format!(
                    "writes operand {position} (buffer {}) over operand {other_position} (buffer {}) in {space:?}",
                    span.buffer.0, other.buffer.0
                ));
            }
        }
        owners.write(*space, range.clone(), span.buffer);
    }
    Ok(())
}

/// The memory of an operand; `None` where it is read-only.
fn locate(calls: &Calls, memory: &MemoryPlan, span: &Span) -> Result<Option<(Space, Range<u64>)>, String> {
    let index = span.buffer.0 as usize;
    let buffer =
        calls.buffers.get(index).ok_or_else(|| format!("names buffer {index}, which is not there"))?;
    let end = span.offset_bytes.checked_add(span.bytes).filter(|&end| end <= buffer.bytes);
    let Some(end) = end else {
        return Err(format!(
            "takes {} bytes from byte {} of a buffer of {} bytes",
            span.bytes, span.offset_bytes, buffer.bytes
        ));
    };
    let space = match buffer.kind {
        BufferKind::Input(_) | BufferKind::Constant(_) | BufferKind::Borrowed(_) => return Ok(None),
        BufferKind::Output(output) => return Ok(Some((Space::Output(output), span.offset_bytes..end))),
        BufferKind::Prepared => return Ok(Some((Space::Prepared(span.buffer), span.offset_bytes..end))),
        BufferKind::Arena => Space::Arena,
    };
    let base = memory.offsets.get(index).copied().flatten().ok_or("has no place in the arena")?;
    if base % ALIGNMENT != 0 {
        return Err(format!("begins at byte {base} of the arena, which is not aligned to {ALIGNMENT}"));
    }
    if base.checked_add(buffer.bytes).is_none_or(|end| end > memory.arena_bytes) {
        return Err(format!(
            "takes {} bytes from byte {base} of an arena of {} bytes",
            buffer.bytes, memory.arena_bytes
        ));
    }
    Ok(Some((space, base + span.offset_bytes..base + end)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plan_memory;
    use super::super::testing::{call, call_spans};
    use super::*;

    /// input → a → b → output, with a read again at the end.
    fn chain() -> (Calls, [BufferId; 2]) {
        let mut calls = Calls::default();
        let input = calls.add_buffer(BufferKind::Input(0), 100);
        let a = calls.add_buffer(BufferKind::Arena, 100);
        let b = calls.add_buffer(BufferKind::Arena, 100);
        let output = calls.add_buffer(BufferKind::Output(0), 100);
        call(&mut calls, "one", &[input], &[a]);
        call(&mut calls, "two", &[a], &[b]);
        call(&mut calls, "three", &[a, b], &[output]);
        (calls, [a, b])
    }

    #[track_caller]
    fn refused(calls: &Calls, memory: &MemoryPlan, what: &str) {
        let error = check(calls, memory).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }

    #[test]
    fn a_right_plan_passes() {
        let (calls, _) = chain();
        let memory = plan_memory(&calls).unwrap();
        assert_eq!(memory.arena_bytes, 256);
    }

    #[test]
    fn an_output_over_an_input_of_the_same_call_is_found() {
        let (calls, [a, b]) = chain();
        let mut memory = plan_memory(&calls).unwrap();
        memory.offsets[b.0 as usize] = memory.offsets[a.0 as usize];
        refused(&calls, &memory, "node `two` writes operand 1 (buffer 2) over operand 0 (buffer 1)");
    }

    #[test]
    fn a_value_overwritten_before_its_last_reader_is_found() {
        let mut calls = Calls::default();
        let input = calls.add_buffer(BufferKind::Input(0), 64);
        let [a, b] = [(); 2].map(|()| calls.add_buffer(BufferKind::Arena, 64));
        let output = calls.add_buffer(BufferKind::Output(0), 64);
        call(&mut calls, "one", &[input], &[a]);
        call(&mut calls, "two", &[input], &[b]);
        call(&mut calls, "three", &[a], &[output]);
        let memory = MemoryPlan { offsets: vec![None, Some(0), Some(0), None], arena_bytes: 64 };
        refused(
            &calls,
            &memory,
            "node `three` reads byte 0 of Arena for buffer 1, which buffer 2 has overwritten",
        );
        let memory = MemoryPlan { offsets: vec![None, Some(0), Some(64), None], arena_bytes: 128 };
        assert_eq!(check(&calls, &memory), Ok(()));
    }

    #[test]
    fn offsets_outside_the_arena_or_unaligned_are_found() {
        let (calls, [a, _]) = chain();
        let memory = plan_memory(&calls).unwrap();
        for (offset, what) in
            [(Some(256), "of an arena of 256 bytes"), (Some(8), "aligned"), (None, "no place")]
        {
            let mut moved = memory.clone();
            moved.offsets[a.0 as usize] = offset;
            refused(&calls, &moved, what);
        }
        let (mut longer, _) = chain();
        longer.calls[1].operands[0] = Some(Span { buffer: a, offset_bytes: 60, bytes: 41 });
        refused(&longer, &memory, "takes 41 bytes from byte 60 of a buffer of 100 bytes");
    }

    #[test]
    fn what_nothing_has_written_is_not_read() {
        let (mut calls, [a, _]) = chain();
        let memory = plan_memory(&calls).unwrap();
        calls.calls[0].operands[1] = Some(Span { buffer: a, offset_bytes: 0, bytes: 99 });
        refused(&calls, &memory, "node `two` reads byte 99 of Arena as operand 0, which no call has written");
        calls.calls.truncate(1);
        refused(&calls, &memory, "no call writes byte 0 of output 0");
    }

    #[test]
    fn read_only_buffers_are_not_written() {
        let mut calls = Calls::default();
        let input = calls.add_buffer(BufferKind::Input(0), 4);
        let weights = calls.add_constant(vec![1, 2, 3, 4].into());
        call(&mut calls, "bad", &[input], &[weights]);
        assert!(
            plan_memory(&calls)
                .unwrap_err()
                .to_string()
                .contains("`bad` writes operand 1, which is read-only")
        );
    }

    #[test]
    fn prepared_buffers_are_written_once_from_constants() {
        let mut calls = Calls::default();
        let weights = calls.add_constant(vec![1; 64].into());
        let input = calls.add_buffer(BufferKind::Input(0), 64);
        let output = calls.add_buffer(BufferKind::Output(0), 64);
        let call_of = |operands: Vec<Option<Span>>, outputs| KernelCall {
            kernel: "copy_b1".into(),
            params: Vec::new(),
            operands,
            outputs,
            node: "conv".into(),
        };
        let from = calls.whole(weights);
        let prepared = calls.add_prepared(call_of(vec![Some(from)], 0), 128);
        assert_eq!(calls.add_prepared(call_of(vec![Some(from)], 0), 128), prepared);
        assert_eq!(calls.prepare.len(), 1);
        let (input, output) = (calls.whole(input), calls.whole(output));
        call_spans(&mut calls, "conv", &[input, prepared, output], 1);
        let memory = plan_memory(&calls).unwrap();
        assert_eq!(memory.arena_bytes, 0);

        let mut unwritten = calls.clone();
        unwritten.prepare.clear();
        refused(
            &unwritten,
            &memory,
            "`conv` reads byte 0 of Prepared(BufferId(3)) as operand 1, which no call",
        );
        let mut overwritten = calls.clone();
        call_spans(&mut overwritten, "bad", &[input, prepared], 1);
        refused(&overwritten, &memory, "node `bad` writes operand 1, which is prepared");
        let mut elsewhere = calls.clone();
        elsewhere.prepare[0].operands[1] = Some(output);
        refused(&elsewhere, &memory, "node `conv` writes operand 1, which is not prepared");
        let mut borrowed = calls.clone();
        let lent = borrowed.add_buffer(BufferKind::Borrowed(0), 64);
        let lent = borrowed.whole(lent);
        borrowed.prepare[0].operands[0] = Some(lent);
        let memory_too = plan_memory(&borrowed).unwrap();
        call_spans(&mut borrowed, "bad", &[lent, output], 1);
        refused(&borrowed, &memory_too, "node `bad` names operand 0, which is another plan's");
        calls.prepare[0].operands[0] = Some(input);
        refused(&calls, &memory, "node `conv` prepares from operand 0, which is no constant");
    }

    #[test]
    fn parts_of_one_buffer_may_be_written_and_read_apart() {
        let mut calls = Calls::default();
        let input = calls.add_buffer(BufferKind::Input(0), 64);
        let both = calls.add_buffer(BufferKind::Arena, 128);
        let output = calls.add_buffer(BufferKind::Output(0), 128);
        let part = |offset_bytes| Span { buffer: both, offset_bytes, bytes: 64 };
        let input = calls.whole(input);
        call_spans(&mut calls, "left", &[input, part(0)], 1);
        call_spans(&mut calls, "right", &[part(0), part(64)], 1);
        call(&mut calls, "join", &[both], &[output]);
        assert_eq!(plan_memory(&calls).unwrap().arena_bytes, 128);
    }

    #[test]
    fn owners_split_and_merge_ranges() {
        let (mut owners, [a, b]) = (Owners::default(), [BufferId(0), BufferId(1)]);
        owners.write(Space::Arena, 0..100, a);
        owners.write(Space::Arena, 40..60, b);
        assert_eq!(owners.foreign(Space::Arena, 0..40, a), None);
        assert_eq!(owners.foreign(Space::Arena, 0..41, a), Some((40, Some(b))));
        assert_eq!(owners.foreign(Space::Arena, 60..101, a), Some((100, None)));
        owners.write(Space::Arena, 30..70, a);
        assert_eq!(owners.foreign(Space::Arena, 0..100, a), None);
        assert_eq!(owners.foreign(Space::Output(0), 0..1, a), Some((0, None)));
    }

    /// A graph in which node i reads some of what nodes before it have written, and one buffer in parts.
    fn random_calls(nodes: &[(u64, Vec<prop::sample::Index>)]) -> Calls {
        let mut calls = Calls::default();
        let mut written = vec![calls.add_buffer(BufferKind::Input(0), 500)];
        for (index, (bytes, reads)) in nodes.iter().enumerate() {
            let inputs: Vec<BufferId> = reads.iter().map(|read| *read.get(&written)).collect();
            let output = calls.add_buffer(BufferKind::Arena, *bytes);
            let name = format!("node_{index}");
            if bytes % 3 == 0 {
                let middle = bytes / 2;
                let first = Span { buffer: output, offset_bytes: 0, bytes: middle };
                let second = Span { buffer: output, offset_bytes: middle, bytes: bytes - middle };
                call_spans(&mut calls, &name, &[first], 1);
                call(&mut calls, &name, &inputs, &[]);
                call_spans(&mut calls, &name, &[second], 1);
            } else {
                call(&mut calls, &name, &inputs, &[output]);
            }
            written.push(output);
        }
        let last = *written.last().unwrap();
        let bytes = calls.buffers[last.0 as usize].bytes;
        let output = calls.add_buffer(BufferKind::Output(0), bytes);
        call(&mut calls, "end", &[last], &[output]);
        calls
    }

    proptest! {
        #[test]
        fn plans_of_random_graphs_hold_and_reuse_memory(
            nodes in prop::collection::vec(
                (0u64..5000, prop::collection::vec(any::<prop::sample::Index>(), 1..4)),
                1..60,
            ),
        ) {
            let calls = random_calls(&nodes);
            let memory = plan_memory(&calls).unwrap();
            let sum: u64 = nodes.iter().map(|(bytes, _)| bytes.next_multiple_of(ALIGNMENT)).sum();
            prop_assert!(memory.arena_bytes <= sum);
            prop_assert_eq!(&memory, &plan_memory(&calls).unwrap());
        }

        /// Ranges against a map of single bytes.
        #[test]
        fn owners_agree_with_a_byte_map(
            writes in prop::collection::vec((0u64..60, 0u64..20, 0u32..4), 0..40),
            reads in prop::collection::vec((0u64..60, 0u64..20, 0u32..4), 1..20),
        ) {
            let mut owners = Owners::default();
            let mut bytes = [None; 80];
            for (start, length, owner) in writes {
                owners.write(Space::Arena, start..start + length, BufferId(owner));
                bytes[start as usize..(start + length) as usize].fill(Some(BufferId(owner)));
            }
            for (start, length, owner) in reads {
                let wanted = (start..start + length)
                    .find(|&at| bytes[at as usize] != Some(BufferId(owner)))
                    .map(|at| (at, bytes[at as usize]));
                prop_assert_eq!(owners.foreign(Space::Arena, start..start + length, BufferId(owner)), wanted);
            }
        }
    }

    #[test]
    fn a_large_graph_is_planned_quickly() {
        let nodes: u32 = 3500;
        let mut calls = Calls::default();
        let mut previous = calls.add_buffer(BufferKind::Input(0), 1 << 20);
        for index in 0..nodes {
            let next = calls.add_buffer(BufferKind::Arena, (u64::from(index % 97) + 1) << 18);
            call(&mut calls, "node", &[previous], &[next]);
            previous = next;
        }
        let started = std::time::Instant::now();
        let memory = plan_memory(&calls).unwrap();
        // Neighbours are all that ever live together.
        assert_eq!(memory.arena_bytes, (97 + 96) << 18);
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}
