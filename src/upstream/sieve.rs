//! What of a stream may go on: whole events that have been judged, less the usage event that the router asked for, up to
//! the event by which the replica gives its answer up.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::sse::{Judged, Observer, Seen};

/// The most of an unfinished event that is held back; a longer one goes on as it comes.
const HELD_BYTES: usize = 16 * 1024;

/// A stream's bytes on their way.
///
/// *Shape*: complete events go on at once; of an event whose end has not come the beginning is held, at most 16 KiB.
/// What goes on is what came, byte for byte, but for the usage event, and for what follows an event of
/// `finish_reason` "abort", which does not go on either.
#[derive(Debug)]
pub(super) struct Sieve {
    /// The beginning of the unfinished event.
    held: BytesMut,
    /// Bytes of the stream so far.
    offset: u64,
    /// What may go on.
    ready: VecDeque<Bytes>,
    /// A part of the unfinished event has gone on.
    split: bool,
    /// Events that have gone on.
    events: u64,
    takes_usage: bool,
    stops: bool,
    /// An event with a piece of the answer carried usage too: it cannot be taken out.
    pub(super) leaked: bool,
    /// The replica gave its answer up; nothing more goes on.
    pub(super) aborted: bool,
}

impl Sieve {
    /// A sieve at the start of a stream. `takes_usage`: the usage event is not for the client. `stops`: nothing goes on
    /// from an abort.
    pub(super) fn new(takes_usage: bool, stops: bool) -> Self {
        let (held, ready) = (BytesMut::new(), VecDeque::new());
        Self { held, offset: 0, ready, split: false, events: 0, takes_usage, stops, leaked: false, aborted: false }
    }

    /// Takes the next chunk, which `observer` is shown, and makes ready what may go on.
    pub(super) fn push(&mut self, chunk: &Bytes, observer: &mut Observer) -> Seen {
        let before = self.offset;
        self.offset += chunk.len() as u64;
        let held = self.held.split().freeze();
        let pieces = Pieces { held: &held, chunk, before };
        let mut from = pieces.start();
        let seen = observer.judge(chunk, |event| {
            if self.aborted {
                return;
            }
            let whole = event.range.start >= from;
            if event.aborted && self.stops {
                pieces.give(from, event.range.start, &mut self.ready);
                (self.aborted, self.split) = (true, !whole);
            } else if self.takes_usage && event.usage_only && whole {
                pieces.give(from, event.range.start, &mut self.ready);
                from = event.range.end;
            } else {
                self.leaked |= self.takes_usage && event.usage;
                self.events += u64::from(event.data);
            }
        });
        if self.aborted {
            return seen;
        }
        let complete = self.offset - observer.held();
        pieces.give(from, complete, &mut self.ready);
        from = from.max(complete);
        // The present event goes on as it comes if its beginning did, or if there is too much of it.
        self.split =
            self.split && complete <= before && observer.held() > 0 || self.offset - complete > HELD_BYTES as u64;
        if self.split {
            pieces.give(from, self.offset, &mut self.ready);
        } else {
            pieces.hold(from, &mut self.held);
        }
        seen
    }

    /// The stream has ended: what was held may go on unless it is the usage event, or an abort.
    pub(super) fn finish(&mut self, observer: &mut Observer) {
        let mut kept = true;
        observer.finish_judging(|event: Judged| {
            self.aborted = event.aborted && self.stops;
            kept = !(self.aborted || self.takes_usage && event.usage_only);
        });
        let held = self.held.split().freeze();
        if kept && !held.is_empty() {
            self.ready.push_back(held);
        }
    }

    /// The stream broke off: instead of the unfinished event, which no client could read, `ending` comes.
    pub(super) fn end_with(&mut self, ending: String) {
        self.held.clear();
        // A line of its own, behind what has gone on of an event that will not be finished.
        let ending = if self.split { format!("\n\n{ending}") } else { ending };
        self.ready.push_back(ending.into());
    }

    /// The stream broke off: what was held is part of what came.
    pub(super) fn flush(&mut self) {
        let held = self.held.split().freeze();
        if !held.is_empty() {
            self.ready.push_back(held);
        }
    }

    /// Events that have gone on.
    pub(super) const fn events(&self) -> u64 {
        self.events
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
    const ABORT: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn popped(sieve: &mut Sieve) -> Vec<u8> {
        std::iter::from_fn(|| sieve.pop()).flatten().collect()
    }

    fn observer() -> Observer {
        Observer::new(Dialect::Chat, Kind::Stream)
    }

    /// What goes on of `stream`, cut into chunks of `size`, and whether it was given up.
    fn sifted(stream: &[u8], size: usize, mut sieve: Sieve) -> (String, bool) {
        let mut observer = observer();
        let mut passed = Vec::new();
        for chunk in stream.chunks(size) {
            sieve.push(&Bytes::copy_from_slice(chunk), &mut observer);
            passed.extend(popped(&mut sieve));
            if sieve.aborted {
                sieve.end_with("END".to_owned());
                break;
            }
        }
        if !sieve.aborted {
            sieve.finish(&mut observer);
        }
        passed.extend(popped(&mut sieve));
        (String::from_utf8(passed).unwrap(), sieve.aborted)
    }

    #[test]
    fn the_usage_event_is_taken_out_however_the_stream_is_cut() {
        for end in [DONE, "", ": bye", "\r\n\r\n"] {
            let stream = format!("{CONTENT}: ping\n\n{CONTENT}{USAGE}{end}");
            let expected = format!("{CONTENT}: ping\n\n{CONTENT}{end}");
            for size in 1..=stream.len() {
                assert_eq!(sifted(stream.as_bytes(), size, Sieve::new(true, true)).0, expected, "{size}");
                assert_eq!(sifted(stream.as_bytes(), size, Sieve::new(false, true)).0, stream, "{size}");
            }
        }
        let unended = format!("{CONTENT}{}", USAGE.trim_end());
        assert_eq!(sifted(unended.as_bytes(), 7, Sieve::new(true, true)).0, CONTENT);
    }

    #[test]
    fn nothing_goes_on_from_an_abort_however_the_stream_is_cut() {
        let stream = format!("{CONTENT}: ping\n\n{CONTENT}{ABORT}{USAGE}{DONE}");
        for size in 1..=stream.len() {
            let expected = (format!("{CONTENT}: ping\n\n{CONTENT}END"), true);
            assert_eq!(sifted(stream.as_bytes(), size, Sieve::new(true, true)), expected, "{size}");
            assert_eq!(sifted(stream.as_bytes(), size, Sieve::new(false, false)), (stream.clone(), false), "{size}");
        }
        let unended = format!("{CONTENT}{}", ABORT.trim_end());
        assert_eq!(sifted(unended.as_bytes(), 7, Sieve::new(false, true)), (CONTENT.to_owned(), true));
    }

    #[test]
    fn an_event_without_end_is_held_only_so_far() {
        let long = format!("data: {}", "y".repeat(3 * HELD_BYTES));
        for (stream, wanted) in [
            (format!("{CONTENT}{long}"), format!("{CONTENT}{long}")),
            (format!("{long}\n\n{USAGE}{CONTENT}{DONE}"), format!("{long}\n\n{CONTENT}{DONE}")),
        ] {
            for size in [1, 1000, 20_000, stream.len()] {
                assert!(sifted(stream.as_bytes(), size, Sieve::new(true, true)).0 == wanted, "{size}");
            }
        }
        let mut sieve = Sieve::new(false, true);
        sieve.push(&Bytes::from(vec![b'y'; HELD_BYTES + 1]), &mut observer());
        assert!(!sieve.is_empty() && sieve.held.is_empty());
    }

    #[test]
    fn an_ending_begins_on_a_line_of_its_own() {
        let begun = format!("data: {{\"choices\":[{{\"text\":\"{}", "y".repeat(2 * HELD_BYTES));
        let stream = format!("{begun}\",\"finish_reason\":\"abort\"}}]}}\n\n{DONE}");
        let (passed, aborted) = sifted(stream.as_bytes(), HELD_BYTES + 1, Sieve::new(false, true));
        assert!(aborted && passed.starts_with("data: {") && passed.ends_with("yyy\n\nEND"));
        let (mut sieve, mut observer) = (Sieve::new(false, true), observer());
        sieve.push(&Bytes::from(format!("{CONTENT}data: {{")), &mut observer);
        sieve.end_with("END".to_owned());
        assert_eq!(popped(&mut sieve), format!("{CONTENT}END").as_bytes(), "half an event is of no use to anybody");
    }

    #[test]
    fn whole_events_are_not_copied_or_held() {
        let mut sieve = Sieve::new(true, true);
        let chunk = Bytes::from(format!("{CONTENT}{CONTENT}"));
        sieve.push(&chunk, &mut observer());
        assert_eq!(sieve.pop().map(|bytes| bytes.as_ptr()), Some(chunk.as_ptr()));
        assert_eq!(sieve.events(), 2);
    }

    #[test]
    fn usage_beside_an_answers_piece_is_noticed() {
        let event = CONTENT.replace("]}", "],\"usage\":{\"prompt_tokens\":3}}");
        for takes_usage in [true, false] {
            let mut sieve = Sieve::new(takes_usage, true);
            sieve.push(&Bytes::from(event.clone()), &mut observer());
            assert_eq!(sieve.leaked, takes_usage);
        }
    }
}
