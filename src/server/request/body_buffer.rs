//! A body while it comes: in one piece from the first byte on, and never there twice.
//!
//! A buffer that has to grow is copied, and while it is there are two. So where nobody says how long a body will be, and
//! it is not a small one, there is a place for the longest: addresses, to which the system gives memory only as they are
//! written to.

use std::io;

use bytes::{Bytes, BytesMut};
use memmap2::{MmapMut, MmapOptions};

/// Up to this a body of unknown length is in a buffer that grows: copying it costs less than asking for a place.
const MAX_GROWING_BYTES: usize = 256 << 10;

/// What has come of a body.
pub(in crate::server) struct BodyBuffer {
    /// The length that the client gave, else 0. It is not relied on.
    declared_bytes: usize,
    max_bytes: usize,
    storage: BodyStorage,
}

enum BodyStorage {
    /// Nothing, or a frame as it came.
    Frame(Bytes),
    Buffer(BytesMut),
    Mapped(MappedBuffer),
}

/// Room for the longest body, and how much of it there is.
struct MappedBuffer {
    map: MmapMut,
    length: usize,
}

impl BodyBuffer {
    /// Nothing of a body of at most `most` bytes has come; `known` is the length it is said to have.
    pub(in crate::server) fn new(known: Option<usize>, most: usize) -> Self {
        Self {
            declared_bytes: known.unwrap_or(0).min(most),
            max_bytes: most,
            storage: BodyStorage::Frame(Bytes::new()),
        }
    }

    /// How much has come.
    pub(in crate::server) fn len(&self) -> usize {
        match &self.storage {
            BodyStorage::Frame(bytes) => bytes.len(),
            BodyStorage::Buffer(bytes) => bytes.len(),
            BodyStorage::Mapped(place) => place.length,
        }
    }

    /// Takes the next frame, unless the body is too long with it: then `false`.
    ///
    /// *Cost*: a body of one frame is not copied, others once, and once more up to 256 KiB of those of unknown length.
    pub(in crate::server) fn push(&mut self, frame: Bytes) -> bool {
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
        // Where the system has no place left, the buffer grows.
        if let BodyStorage::Buffer(buffer) = &self.storage
            && length > MAX_GROWING_BYTES.max(self.declared_bytes)
            && let Ok(mut place) = MappedBuffer::with_capacity(self.max_bytes)
            && place.push(buffer)
        {
            self.storage = BodyStorage::Mapped(place);
        }
        match &mut self.storage {
            BodyStorage::Mapped(place) => return place.push(&frame),
            BodyStorage::Buffer(buffer) => buffer.extend_from_slice(&frame),
            BodyStorage::Frame(_) => {}
        }
        true
    }

    /// The body, once all of it has come.
    pub(in crate::server) fn finish(self) -> Bytes {
        match self.storage {
            BodyStorage::Frame(bytes) => bytes,
            // A buffer that has grown has room that nobody needs any more.
            BodyStorage::Buffer(buffer) if buffer.capacity() - buffer.len() > buffer.len() / 4 => {
                Bytes::copy_from_slice(&buffer)
            }
            BodyStorage::Buffer(buffer) => buffer.freeze(),
            BodyStorage::Mapped(place) => Bytes::from_owner(place),
        }
    }
}

impl MappedBuffer {
    fn with_capacity(most: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(most).no_reserve_swap().map_anon()?;
        // Memory comes by the page, not by 2 MiB at once. Kernels that do not know the word have no such pages.
        #[cfg(target_os = "linux")]
        drop(map.advise(memmap2::Advice::NoHugePage));
        Ok(Self { map, length: 0 })
    }

    fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.length.saturating_add(bytes.len());
        let Some(room) = self.map.get_mut(self.length..end) else { return false };
        room.copy_from_slice(bytes);
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

    /// A body of `length` bytes that came in pieces of `piece`.
    fn filled_buffer(length: usize, piece: usize, known: Option<usize>) -> BodyBuffer {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut growing = BodyBuffer::new(known, 1 << 20);
        assert!(body.chunks(piece).all(|piece| growing.push(Bytes::copy_from_slice(piece))));
        assert_eq!(growing.len(), length);
        growing
    }

    #[test]
    fn a_body_is_whole_however_it_comes() {
        for length in [0, 1, 1_000, MAX_GROWING_BYTES, MAX_GROWING_BYTES + 1, 1 << 20] {
            for piece in [999, 64 << 10, 1 << 20] {
                for known in [None, Some(length), Some(1), Some(usize::MAX)] {
                    let bytes = filled_buffer(length, piece, known).finish();
                    assert!(bytes.len() == length && bytes.iter().enumerate().all(|(at, b)| *b == (at % 251) as u8));
                }
            }
        }
    }

    #[test]
    fn what_is_large_and_of_unknown_length_has_a_place_and_nothing_else_has() {
        let is_placed = |growing: BodyBuffer| matches!(growing.storage, BodyStorage::Mapped(_));
        assert!(is_placed(filled_buffer(MAX_GROWING_BYTES + 1, 1_000, None)));
        assert!(is_placed(filled_buffer(MAX_GROWING_BYTES + 1, 1_000, Some(1_000))), "longer than it was said to be");
        assert!(!is_placed(filled_buffer(MAX_GROWING_BYTES, 1_000, None)));
        assert!(!is_placed(filled_buffer(1 << 20, 1_000, Some(1 << 20))));
    }

    #[test]
    fn what_would_be_too_long_is_not_taken() {
        for piece in [1_000, 1 << 20] {
            let mut growing = filled_buffer(1 << 20, piece, None);
            assert!(!growing.push(Bytes::from_static(b"x")));
            assert_eq!(growing.finish().len(), 1 << 20);
        }
    }
}
