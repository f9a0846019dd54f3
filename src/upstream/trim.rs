//! Taking the usage event that the router asked for out of a stream, so that the client gets what it asked for.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::sse::{Judged, Observer, Seen};

/// The most of an unfinished event that is held back; a longer one is no usage event.
const HELD_BYTES: usize = 16 * 1024;

/// A stream's bytes on their way, less its usage event.
///
/// *Shape*: complete events go on at once; of an event whose end has not come the beginning is held, at most 16 KiB,
/// and then trimming is given up. What goes on is what came, byte for byte, but for that one event.
#[derive(Debug, Default)]
pub(super) struct Trim {
    /// The beginning of the unfinished event.
    held: BytesMut,
    /// Bytes of the stream so far.
    offset: u64,
    /// What may go on.
    ready: VecDeque<Bytes>,
    /// Everything goes on from here.
    over: bool,
    /// An event with a piece of the answer carried usage too: it cannot be taken out.
    pub(super) leaked: bool,
}

impl Trim {
    /// Takes the next chunk, which `observer` is shown, and makes ready what may go on.
    pub(super) fn push(&mut self, chunk: &Bytes, observer: &mut Observer) -> Seen {
        let before = self.offset;
        self.offset += chunk.len() as u64;
        if self.over {
            self.ready.push_back(chunk.clone());
            return observer.observe(chunk);
        }
        let held = self.held.split().freeze();
        let pieces = Pieces { held: &held, chunk, before };
        let mut from = pieces.start();
        let Self { ready, leaked, .. } = self;
        let seen = observer.judge(chunk, |event| {
            *leaked |= event.usage && !event.usage_only;
            if event.usage_only {
                pieces.give(from, event.range.start, ready);
                from = event.range.end;
            }
        });
        let complete = self.offset - observer.held();
        pieces.give(from, complete, &mut self.ready);
        if self.offset - complete > HELD_BYTES as u64 {
            self.over = true;
            pieces.give(complete, self.offset, &mut self.ready);
        } else {
            pieces.hold(complete, &mut self.held);
        }
        seen
    }

    /// The stream has ended: what was held may go on unless it is the usage event.
    pub(super) fn finish(&mut self, observer: &mut Observer) {
        let mut usage_only = false;
        observer.finish_judging(|event: Judged| usage_only = event.usage_only);
        let held = self.held.split().freeze();
        if !usage_only && !held.is_empty() {
            self.ready.push_back(held);
        }
    }

    /// The stream broke off: what was held is part of what came.
    pub(super) fn flush(&mut self) {
        let held = self.held.split().freeze();
        if !held.is_empty() {
            self.ready.push_back(held);
        }
    }

    /// The next bytes that may go on; never empty.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }
}

/// What was held and the chunk after it, as one run of the stream that `before` divides.
struct Pieces<'a> {
    held: &'a Bytes,
    chunk: &'a Bytes,
    before: u64,
}

impl Pieces<'_> {
    /// Makes the bytes of the stream from `from` to `to` ready, uncopied where they lie in the chunk alone.
    fn give(&self, from: u64, to: u64, ready: &mut VecDeque<Bytes>) {
        for piece in self.parts(from, to) {
            if !piece.is_empty() {
                ready.push_back(piece);
            }
        }
    }

    fn hold(&self, from: u64, held: &mut BytesMut) {
        for piece in self.parts(from, u64::MAX) {
            held.extend_from_slice(&piece);
        }
    }

    fn parts(&self, from: u64, to: u64) -> [Bytes; 2] {
        [cut(self.held, from, to, self.start()), cut(self.chunk, from, to, self.before)]
    }

    fn start(&self) -> u64 {
        self.before - self.held.len() as u64
    }
}

/// The part from `from` to `to` of the stream that lies in `bytes`, which begin at `start`.
fn cut(bytes: &Bytes, from: u64, to: u64, start: u64) -> Bytes {
    let place = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
    let (from, to) = (place(from), place(to));
    if from < to { bytes.slice(from..to) } else { Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Kind;
    use crate::units::Dialect;

    const CONTENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// What goes on of `stream`, cut into chunks of `size`.
    fn trimmed(stream: &[u8], size: usize) -> Vec<u8> {
        let (mut trim, mut observer) = (Trim::default(), Observer::new(Dialect::Chat, Kind::Stream));
        let mut passed = Vec::new();
        for chunk in stream.chunks(size) {
            trim.push(&Bytes::copy_from_slice(chunk), &mut observer);
            while let Some(bytes) = trim.pop() {
                passed.extend_from_slice(&bytes);
            }
        }
        trim.finish(&mut observer);
        while let Some(bytes) = trim.pop() {
            passed.extend_from_slice(&bytes);
        }
        passed
    }

    #[test]
    fn the_usage_event_is_taken_out_however_the_stream_is_cut() {
        for end in [DONE, "", ": bye", "\r\n\r\n"] {
            let stream = format!("{CONTENT}: ping\n\n{CONTENT}{USAGE}{end}");
            let expected = format!("{CONTENT}: ping\n\n{CONTENT}{end}");
            for size in 1..=stream.len() {
                assert_eq!(String::from_utf8(trimmed(stream.as_bytes(), size)).unwrap(), expected, "{size}");
            }
        }
        let unended = format!("{CONTENT}{}", USAGE.trim_end());
        assert_eq!(trimmed(unended.as_bytes(), 7), CONTENT.as_bytes());
    }

    #[test]
    fn an_event_without_end_is_held_only_so_far() {
        let long = format!("{CONTENT}data: {}", "y".repeat(3 * HELD_BYTES));
        for size in [1, 1000, long.len()] {
            assert_eq!(trimmed(long.as_bytes(), size), long.as_bytes());
        }
        let (mut trim, mut observer) = (Trim::default(), Observer::new(Dialect::Chat, Kind::Stream));
        trim.push(&Bytes::from(vec![b'y'; HELD_BYTES + 1]), &mut observer);
        assert!(!trim.is_empty() && trim.held.is_empty());
    }

    #[test]
    fn whole_events_are_not_copied_or_held() {
        let (mut trim, mut observer) = (Trim::default(), Observer::new(Dialect::Chat, Kind::Stream));
        let chunk = Bytes::from(format!("{CONTENT}{CONTENT}"));
        trim.push(&chunk, &mut observer);
        assert_eq!(trim.pop().map(|bytes| bytes.as_ptr()), Some(chunk.as_ptr()));
    }

    #[test]
    fn usage_beside_an_answers_piece_is_noticed() {
        let (mut trim, mut observer) = (Trim::default(), Observer::new(Dialect::Chat, Kind::Stream));
        let event = CONTENT.replace("]}", "],\"usage\":{\"prompt_tokens\":3}}");
        trim.push(&Bytes::from(event), &mut observer);
        assert!(trim.leaked);
    }
}
