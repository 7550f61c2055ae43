//! Memory that begins where plans and arenas must begin.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io::{self, Read};
use std::ptr::NonNull;

use super::ALIGNMENT;
use crate::error::{Error, ErrorKind, Result};

/// Bytes on the heap that begin at a multiple of 64.
pub struct AlignedBytes {
    /// The first aligned byte; `length` bytes from here are inside the allocation and initialised.
    start: NonNull<u8>,
    length: usize,
    /// What the allocator gave, with its layout; `None` where there are no bytes.
    allocation: Option<(NonNull<u8>, Layout)>,
}

// SAFETY: it owns its memory, as a `Box<[u8]>` does.
unsafe impl Send for AlignedBytes {}
// SAFETY: through a shared reference its bytes are only read.
unsafe impl Sync for AlignedBytes {}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

#[repr(align(64))]
struct Aligned;

impl AlignedBytes {
    /// `length` zeros.
    ///
    /// # Errors
    ///
    /// If the system does not grant so much.
    pub fn zeroed(length: usize) -> Result<Self> {
        const { assert!(align_of::<Aligned>() == ALIGNMENT) };
        if length == 0 {
            return Ok(AlignedBytes {
                start: NonNull::<Aligned>::dangling().cast(),
                length,
                allocation: None,
            });
        }
        let refused =
            || Error::new(ErrorKind::Memory, format!("the system does not grant {length} bytes of memory"));
        // Asking for little alignment lets the allocator hand out fresh zero pages instead of clearing memory.
        let size = length.checked_add(ALIGNMENT - 1).ok_or_else(refused)?;
        let layout = Layout::from_size_align(size, 1).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        let skip = memory.as_ptr().addr().next_multiple_of(ALIGNMENT) - memory.as_ptr().addr();
        // SAFETY: `skip` is at most `ALIGNMENT - 1`, which the allocation exceeds by `length`.
        let start = unsafe { memory.add(skip) };
        Ok(AlignedBytes { start, length, allocation: Some((memory, layout)) })
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    ///
    /// If the system does not grant so much.
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut copy = AlignedBytes::zeroed(bytes.len())?;
        copy.as_mut_slice().copy_from_slice(bytes);
        Ok(copy)
    }

    /// The next `length` bytes of `reader`.
    ///
    /// # Errors
    ///
    /// Those of `reader`, and if the system does not grant so much.
    pub fn read_from(reader: &mut impl Read, length: usize) -> io::Result<Self> {
        let mut bytes = AlignedBytes::zeroed(length)
            .map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))?;
        reader.read_exact(bytes.as_mut_slice())?;
        Ok(bytes)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `length` bytes from `start` are ours and initialised (see the fields); the result borrows `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the exclusive borrow of `self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// The first byte. The pointer stays valid when `self` moves, until a slice is asked for again.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if let Some((memory, layout)) = self.allocation {
            // SAFETY: `memory` came from `alloc_zeroed` with this layout and is freed once.
            unsafe { dealloc(memory.as_ptr(), layout) };
        }
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({})", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_zero_aligned_and_kept() {
        for length in [0, 1, 63, 64, 65, 10_000] {
            let mut bytes = AlignedBytes::zeroed(length).unwrap();
            assert_eq!(bytes.as_mut_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(bytes.as_slice(), vec![0; length]);
            bytes.as_mut_slice().fill(3);
            let moved = bytes;
            assert_eq!(moved.as_slice(), vec![3; length]);
        }
        assert_eq!(AlignedBytes::copy_of(&[1, 2, 3]).unwrap().as_slice(), [1, 2, 3]);
        let mut reader = &[1, 2, 3][..];
        assert_eq!(AlignedBytes::read_from(&mut reader, 2).unwrap().as_slice(), [1, 2]);
        assert!(AlignedBytes::read_from(&mut reader, 2).is_err());
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert_eq!(AlignedBytes::zeroed(usize::MAX).unwrap_err().kind(), ErrorKind::Memory);
        assert_eq!(AlignedBytes::zeroed(isize::MAX as usize - 10).unwrap_err().kind(), ErrorKind::Memory);
    }
}
