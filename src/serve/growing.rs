//! A body while it comes: in one piece from the first byte on, and never there twice.
//!
//! A buffer that has to grow is copied, and while it is there are two. So where nobody says how long a body will be, and
//! it is not a small one, there is a place for the longest: addresses, to which the system gives memory only as they are
//! written to.

use std::io;

use bytes::{Bytes, BytesMut};
use memmap2::{MmapMut, MmapOptions};

/// Up to this a body of unknown length is in a buffer that grows: copying it costs less than asking for a place.
const SMALL_BYTES: usize = 256 << 10;

/// What has come of a body.
pub(super) struct Growing {
    /// The length that the client gave, else 0. It is not relied on.
    known: usize,
    most: usize,
    held: Held,
}

enum Held {
    /// Nothing, or a frame as it came.
    Frame(Bytes),
    Buffer(BytesMut),
    Place(Place),
}

/// Room for the longest body, and how much of it there is.
struct Place {
    map: MmapMut,
    length: usize,
}

impl Growing {
    /// Nothing of a body of at most `most` bytes has come; `known` is the length it is said to have.
    pub(super) fn new(known: Option<usize>, most: usize) -> Self {
        Self { known: known.unwrap_or(0).min(most), most, held: Held::Frame(Bytes::new()) }
    }

    /// How much has come.
    pub(super) fn len(&self) -> usize {
        match &self.held {
            Held::Frame(bytes) => bytes.len(),
            Held::Buffer(bytes) => bytes.len(),
            Held::Place(place) => place.length,
        }
    }

    /// Takes the next frame, unless the body is too long with it: then `false`.
    ///
    /// *Cost*: a body of one frame is not copied, others once, and once more up to 256 KiB of those of unknown length.
    pub(super) fn push(&mut self, frame: Bytes) -> bool {
        let length = self.len().saturating_add(frame.len());
        if length > self.most {
            return false;
        }
        if let Held::Frame(first) = &self.held {
            if first.is_empty() {
                self.held = Held::Frame(frame);
                return true;
            }
            let mut buffer = BytesMut::with_capacity(self.known.max(length));
            buffer.extend_from_slice(first);
            self.held = Held::Buffer(buffer);
        }
        // Where the system has no place left, the buffer grows.
        if let Held::Buffer(buffer) = &self.held
            && length > SMALL_BYTES.max(self.known)
            && let Ok(mut place) = Place::of(self.most)
            && place.push(buffer)
        {
            self.held = Held::Place(place);
        }
        match &mut self.held {
            Held::Place(place) => return place.push(&frame),
            Held::Buffer(buffer) => buffer.extend_from_slice(&frame),
            Held::Frame(_) => {}
        }
        true
    }

    /// The body, once all of it has come.
    pub(super) fn finish(self) -> Bytes {
        match self.held {
            Held::Frame(bytes) => bytes,
            // A buffer that has grown has room that nobody needs any more.
            Held::Buffer(buffer) if buffer.capacity() - buffer.len() > buffer.len() / 4 => {
                Bytes::copy_from_slice(&buffer)
            }
            Held::Buffer(buffer) => buffer.freeze(),
            Held::Place(place) => Bytes::from_owner(place),
        }
    }
}

impl Place {
    fn of(most: usize) -> io::Result<Self> {
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

impl AsRef<[u8]> for Place {
    fn as_ref(&self) -> &[u8] {
        self.map.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of `length` bytes that came in pieces of `piece`.
    fn grown(length: usize, piece: usize, known: Option<usize>) -> Growing {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut growing = Growing::new(known, 1 << 20);
        assert!(body.chunks(piece).all(|piece| growing.push(Bytes::copy_from_slice(piece))));
        assert_eq!(growing.len(), length);
        growing
    }

    #[test]
    fn a_body_is_whole_however_it_comes() {
        for length in [0, 1, 1_000, SMALL_BYTES, SMALL_BYTES + 1, 1 << 20] {
            for piece in [999, 64 << 10, 1 << 20] {
                for known in [None, Some(length), Some(1), Some(usize::MAX)] {
                    let bytes = grown(length, piece, known).finish();
                    assert!(bytes.len() == length && bytes.iter().enumerate().all(|(at, b)| *b == (at % 251) as u8));
                }
            }
        }
    }

    #[test]
    fn what_is_large_and_of_unknown_length_has_a_place_and_nothing_else_has() {
        let is_placed = |growing: Growing| matches!(growing.held, Held::Place(_));
        assert!(is_placed(grown(SMALL_BYTES + 1, 1_000, None)));
        assert!(is_placed(grown(SMALL_BYTES + 1, 1_000, Some(1_000))), "longer than it was said to be");
        assert!(!is_placed(grown(SMALL_BYTES, 1_000, None)));
        assert!(!is_placed(grown(1 << 20, 1_000, Some(1 << 20))));
    }

    #[test]
    fn what_would_be_too_long_is_not_taken() {
        for piece in [1_000, 1 << 20] {
            let mut growing = grown(1 << 20, piece, None);
            assert!(!growing.push(Bytes::from_static(b"x")));
            assert_eq!(growing.finish().len(), 1 << 20);
        }
    }
}
