//! The buffer of a body that is being read. It keeps the body in one piece and never holds it twice.
//!
//! Growing a buffer copies it, and during the copy both exist. A large body of unknown length therefore gets an address
//! range for the longest body. The system backs it with memory only as it is written.

use std::io;

use bytes::{Bytes, BytesMut};
use memmap2::{MmapMut, MmapOptions};

/// The size up to which a body of unknown length is in a growing buffer: copying costs less than a mapping.
const MAX_GROWING_BYTES: usize = 256 << 10;

/// The part of a body that has arrived.
pub(in crate::server) struct BodyBuffer {
    /// The length that the client declared, at most `max_bytes`; 0 if unknown. The body may be longer or shorter.
    declared_bytes: usize,
    max_bytes: usize,
    storage: BodyStorage,
}

enum BodyStorage {
    /// One frame as it arrived; empty before the first.
    Frame(Bytes),
    Buffer(BytesMut),
    Mapped(MappedBuffer),
}

/// A mapping for the longest body, and the length that is written.
struct MappedBuffer {
    map: MmapMut,
    length: usize,
}

impl BodyBuffer {
    /// Makes an empty buffer for a body of at most `max_bytes`.
    pub(super) fn new(declared: Option<usize>, max_bytes: usize) -> Self {
        Self {
            declared_bytes: declared.unwrap_or(0).min(max_bytes),
            max_bytes,
            storage: BodyStorage::Frame(Bytes::new()),
        }
    }

    /// Returns the number of bytes that have arrived.
    pub(super) fn len(&self) -> usize {
        match &self.storage {
            BodyStorage::Frame(bytes) => bytes.len(),
            BodyStorage::Buffer(bytes) => bytes.len(),
            BodyStorage::Mapped(buffer) => buffer.length,
        }
    }

    /// Appends a frame. Returns `false`, and appends nothing, if the body would be too long.
    ///
    /// *Cost*: a body of one frame is not copied; others are copied once, and those of unknown length up to 256 KiB
    /// twice.
    pub(super) fn push(&mut self, frame: Bytes) -> bool {
        let length = self.len().saturating_add(frame.len());
        if length > self.max_bytes {
            return false;
        }
        if let BodyStorage::Frame(first) = &self.storage {
            if first.is_empty() {
                self.storage = BodyStorage::Frame(frame);
                return true;
            }
            let mut buffer = BytesMut::with_capacity(self.declared_bytes.max(length));
            buffer.extend_from_slice(first);
            self.storage = BodyStorage::Buffer(buffer);
        }
        // If the system refuses the mapping, the buffer grows.
        if let BodyStorage::Buffer(buffer) = &self.storage
            && length > MAX_GROWING_BYTES.max(self.declared_bytes)
            && let Ok(mut mapped) = MappedBuffer::with_capacity(self.max_bytes)
            && mapped.push(buffer)
        {
            self.storage = BodyStorage::Mapped(mapped);
        }
        match &mut self.storage {
            BodyStorage::Mapped(buffer) => return buffer.push(&frame),
            BodyStorage::Buffer(buffer) => buffer.extend_from_slice(&frame),
            BodyStorage::Frame(_) => {}
        }
        true
    }

    /// Returns the whole body.
    pub(super) fn finish(self) -> Bytes {
        match self.storage {
            BodyStorage::Frame(bytes) => bytes,
            // A grown buffer may hold much unused memory.
            BodyStorage::Buffer(buffer) if buffer.capacity() - buffer.len() > buffer.len() / 4 => {
                Bytes::copy_from_slice(&buffer)
            }
            BodyStorage::Buffer(buffer) => buffer.freeze(),
            BodyStorage::Mapped(buffer) => Bytes::from_owner(buffer),
        }
    }
}

impl MappedBuffer {
    fn with_capacity(max_bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(max_bytes).no_reserve_swap().map_anon()?;
        // Memory is backed by pages, not by 2 MiB at once. Kernels without this advice have no such pages.
        #[cfg(target_os = "linux")]
        drop(map.advise(memmap2::Advice::NoHugePage));
        Ok(Self { map, length: 0 })
    }

    fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.length.saturating_add(bytes.len());
        let Some(free) = self.map.get_mut(self.length..end) else { return false };
        free.copy_from_slice(bytes);
        self.length = end;
        true
    }
}

impl AsRef<[u8]> for MappedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.map.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a buffer with `length` bytes that arrived in pieces of `piece`.
    fn filled_buffer(length: usize, piece: usize, declared: Option<usize>) -> BodyBuffer {
        let body: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let mut buffer = BodyBuffer::new(declared, 1 << 20);
        assert!(body.chunks(piece).all(|piece| buffer.push(Bytes::copy_from_slice(piece))));
        assert_eq!(buffer.len(), length);
        buffer
    }

    #[test]
    fn body_is_complete_for_any_piece_size_and_declared_length() {
        for length in [0, 1, 1_000, MAX_GROWING_BYTES, MAX_GROWING_BYTES + 1, 1 << 20] {
            for piece in [999, 64 << 10, 1 << 20] {
                for declared in [None, Some(length), Some(1), Some(usize::MAX)] {
                    let bytes = filled_buffer(length, piece, declared).finish();
                    assert!(
                        bytes.len() == length && bytes.iter().enumerate().all(|(index, b)| *b == (index % 251) as u8)
                    );
                }
            }
        }
    }

    #[test]
    fn only_large_body_of_unknown_length_is_mapped() {
        let is_mapped = |buffer: BodyBuffer| matches!(buffer.storage, BodyStorage::Mapped(_));
        assert!(is_mapped(filled_buffer(MAX_GROWING_BYTES + 1, 1_000, None)));
        assert!(is_mapped(filled_buffer(MAX_GROWING_BYTES + 1, 1_000, Some(1_000))), "longer than declared");
        assert!(!is_mapped(filled_buffer(MAX_GROWING_BYTES, 1_000, None)));
        assert!(!is_mapped(filled_buffer(1 << 20, 1_000, Some(1 << 20))));
    }

    #[test]
    fn frame_beyond_the_limit_is_refused() {
        for piece in [1_000, 1 << 20] {
            let mut buffer = filled_buffer(1 << 20, piece, None);
            assert!(!buffer.push(Bytes::from_static(b"x")));
            assert_eq!(buffer.finish().len(), 1 << 20);
        }
    }
}
