//! From which call to which call each buffer of the arena holds something.

use super::Conflict;
use crate::calls::{BufferKind, Calls};

/// A buffer of the arena, and the calls during which its bytes must not be touched by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// Its position in [`Calls::buffers`].
    pub buffer: usize,
    /// Its size.
    pub bytes: u64,
    /// The first call that names it.
    pub first: usize,
    /// The last call that names it.
    pub last: usize,
}

impl Lifetime {
    /// Whether some call finds both alive.
    pub fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The lifetime of every buffer of the arena that a call names, in the order of their numbers.
///
/// A buffer may be written in parts by several calls, so it lives from the first call that names it, whether that
/// call reads or writes, to the last.
pub(super) fn lifetimes(calls: &Calls) -> Result<Vec<Lifetime>, Conflict> {
    let mut ranges: Vec<Option<(usize, usize)>> = vec![None; calls.buffers.len()];
    for (index, call) in calls.calls.iter().enumerate() {
        for span in call.operands.iter().flatten() {
            let buffer = span.buffer.0 as usize;
            let Some(range) = ranges.get_mut(buffer) else {
                return Err(Conflict(format!(
                    "node `{}` names buffer {buffer}, which is not there",
                    call.node
                )));
            };
            range.get_or_insert((index, index)).1 = index;
        }
    }
    let in_arena = calls.buffers.iter().zip(ranges).enumerate().filter_map(|(buffer, (kind, range))| {
        let (first, last) = range?;
        matches!(kind.kind, BufferKind::Arena).then_some(Lifetime { buffer, bytes: kind.bytes, first, last })
    });
    Ok(in_arena.collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::call;
    use super::*;

    #[test]
    fn a_buffer_lives_from_the_first_call_that_names_it_to_the_last() {
        let mut calls = Calls::default();
        let input = calls.add_buffer(BufferKind::Input(0), 8);
        let a = calls.add_buffer(BufferKind::Arena, 8);
        let _unused = calls.add_buffer(BufferKind::Arena, 8);
        let b = calls.add_buffer(BufferKind::Arena, 16);
        call(&mut calls, "first", &[input], &[a]);
        call(&mut calls, "second", &[input], &[b]);
        call(&mut calls, "third", &[a], &[b]);
        assert_eq!(
            lifetimes(&calls).unwrap(),
            [
                Lifetime { buffer: 1, bytes: 8, first: 0, last: 2 },
                Lifetime { buffer: 3, bytes: 16, first: 1, last: 2 }
            ]
        );
    }

    #[test]
    fn a_buffer_that_is_not_there_is_an_error() {
        let mut calls = Calls::default();
        let a = calls.add_buffer(BufferKind::Arena, 8);
        call(&mut calls, "reader", &[a], &[a]);
        calls.buffers.clear();
        assert!(lifetimes(&calls).unwrap_err().to_string().contains("`reader` names buffer 0"));
    }
}
