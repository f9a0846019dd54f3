//! What of a stream may go on: whole events that have been judged, less the usage event that the router asked for, up to
//! the event by which the replica gives its answer up.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::sse::{BodyObserver, ChunkStats, EventInfo};

/// The most of an unfinished event that is held back; a longer one goes on as it comes.
const MAX_HELD_EVENT_BYTES: usize = 16 * 1024;

/// A stream's bytes on their way.
///
/// *Shape*: complete events go on at once; of an event whose end has not come the beginning is held, at most 16 KiB.
/// What goes on is what came, byte for byte, but for the usage event, and for what follows an event of
/// `finish_reason` "abort", which does not go on either.
#[derive(Debug)]
pub(super) struct EventFilter {
    /// The beginning of the unfinished event.
    unfinished_event: BytesMut,
    /// Bytes of the stream so far.
    offset: u64,
    /// What may go on.
    ready_chunks: VecDeque<Bytes>,
    /// A part of the unfinished event has gone on.
    partially_sent: bool,
    /// Events that have gone on.
    events_sent: u64,
    removes_usage: bool,
    stops_at_abort: bool,
    /// An event with a piece of the answer carried usage too: it cannot be taken out.
    pub(super) usage_mixed_in: bool,
    /// The replica gave its answer up; nothing more goes on.
    pub(super) aborted: bool,
}

impl EventFilter {
    /// A sieve at the start of a stream. `takes_usage`: the usage event is not for the client. `stops`: nothing goes on
    /// from an abort.
    pub(super) fn new(takes_usage: bool, stops: bool) -> Self {
        let (held, ready) = (BytesMut::new(), VecDeque::new());
        Self {
            unfinished_event: held,
            offset: 0,
            ready_chunks: ready,
            partially_sent: false,
            events_sent: 0,
            removes_usage: takes_usage,
            stops_at_abort: stops,
            usage_mixed_in: false,
            aborted: false,
        }
    }

    /// Takes the next chunk, which `observer` is shown, and makes ready what may go on.
    pub(super) fn push(&mut self, chunk: &Bytes, observer: &mut BodyObserver) -> ChunkStats {
        let before = self.offset;
        self.offset += chunk.len() as u64;
        let held = self.unfinished_event.split().freeze();
        let pieces = StreamWindow { held: &held, chunk, chunk_start: before };
        let mut from = pieces.held_start();
        let seen = observer.observe_events(chunk, |event| {
            if self.aborted {
                return;
            }
            let whole = event.range.start >= from;
            if event.aborted && self.stops_at_abort {
                pieces.release(from, event.range.start, &mut self.ready_chunks);
                (self.aborted, self.partially_sent) = (true, !whole);
            } else if self.removes_usage && event.usage_only && whole {
                pieces.release(from, event.range.start, &mut self.ready_chunks);
                from = event.range.end;
            } else {
                self.usage_mixed_in |= self.removes_usage && event.has_usage;
                self.events_sent += u64::from(event.is_event);
            }
        });
        if self.aborted {
            return seen;
        }
        let complete = self.offset - observer.pending_bytes();
        pieces.release(from, complete, &mut self.ready_chunks);
        from = from.max(complete);
        // The present event goes on as it comes if its beginning did, or if there is too much of it.
        self.partially_sent = self.partially_sent && complete <= before && observer.pending_bytes() > 0
            || self.offset - complete > MAX_HELD_EVENT_BYTES as u64;
        if self.partially_sent {
            pieces.release(from, self.offset, &mut self.ready_chunks);
        } else {
            pieces.hold_back(from, &mut self.unfinished_event);
        }
        seen
    }

    /// The stream has ended: what was held may go on unless it is the usage event, or an abort.
    pub(super) fn finish(&mut self, observer: &mut BodyObserver) {
        let mut kept = true;
        observer.finish_events(|event: EventInfo| {
            self.aborted = event.aborted && self.stops_at_abort;
            kept = !(self.aborted || self.removes_usage && event.usage_only);
        });
        let held = self.unfinished_event.split().freeze();
        if kept && !held.is_empty() {
            self.ready_chunks.push_back(held);
        }
    }

    /// The stream broke off: instead of the unfinished event, which no client could read, `ending` comes.
    pub(super) fn end_with(&mut self, ending: String) {
        self.unfinished_event.clear();
        // A line of its own, behind what has gone on of an event that will not be finished.
        let ending = if self.partially_sent { format!("\n\n{ending}") } else { ending };
        self.ready_chunks.push_back(ending.into());
    }

    /// The stream broke off: what was held is part of what came.
    pub(super) fn flush(&mut self) {
        let held = self.unfinished_event.split().freeze();
        if !held.is_empty() {
            self.ready_chunks.push_back(held);
        }
    }

    /// Events that have gone on.
    pub(super) const fn events_sent(&self) -> u64 {
        self.events_sent
    }

    /// The next bytes that may go on; never empty.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.ready_chunks.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready_chunks.is_empty()
    }
}

/// What was held and the chunk after it, as one run of the stream that `before` divides.
struct StreamWindow<'a> {
    held: &'a Bytes,
    chunk: &'a Bytes,
    chunk_start: u64,
}

impl StreamWindow<'_> {
    /// Makes the bytes of the stream from `from` to `to` ready, uncopied where they lie in the chunk alone.
    fn release(&self, from: u64, to: u64, ready: &mut VecDeque<Bytes>) {
        for piece in self.slices(from, to) {
            if !piece.is_empty() {
                ready.push_back(piece);
            }
        }
    }

    fn hold_back(&self, from: u64, held: &mut BytesMut) {
        for piece in self.slices(from, u64::MAX) {
            held.extend_from_slice(&piece);
        }
    }

    fn slices(&self, from: u64, to: u64) -> [Bytes; 2] {
        [slice_range(self.held, from, to, self.held_start()), slice_range(self.chunk, from, to, self.chunk_start)]
    }

    fn held_start(&self) -> u64 {
        self.chunk_start - self.held.len() as u64
    }
}

/// The part from `from` to `to` of the stream that lies in `bytes`, which begin at `start`.
fn slice_range(bytes: &Bytes, from: u64, to: u64, start: u64) -> Bytes {
    let place = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
    let (from, to) = (place(from), place(to));
    if from < to { bytes.slice(from..to) } else { Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::sse::BodyFormat;

    const CONTENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
    const ABORT: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn pop_all(sieve: &mut EventFilter) -> Vec<u8> {
        std::iter::from_fn(|| sieve.pop()).flatten().collect()
    }

    fn chat_observer() -> BodyObserver {
        BodyObserver::new(Dialect::Chat, BodyFormat::Stream)
    }

    /// What goes on of `stream`, cut into chunks of `size`, and whether it was given up.
    fn filter_stream(stream: &[u8], size: usize, mut sieve: EventFilter) -> (String, bool) {
        let mut observer = chat_observer();
        let mut passed = Vec::new();
        for chunk in stream.chunks(size) {
            sieve.push(&Bytes::copy_from_slice(chunk), &mut observer);
            passed.extend(pop_all(&mut sieve));
            if sieve.aborted {
                sieve.end_with("END".to_owned());
                break;
            }
        }
        if !sieve.aborted {
            sieve.finish(&mut observer);
        }
        passed.extend(pop_all(&mut sieve));
        (String::from_utf8(passed).unwrap(), sieve.aborted)
    }

    #[test]
    fn the_usage_event_is_taken_out_however_the_stream_is_cut() {
        for end in [DONE, "", ": bye", "\r\n\r\n"] {
            let stream = format!("{CONTENT}: ping\n\n{CONTENT}{USAGE}{end}");
            let expected = format!("{CONTENT}: ping\n\n{CONTENT}{end}");
            for size in 1..=stream.len() {
                assert_eq!(filter_stream(stream.as_bytes(), size, EventFilter::new(true, true)).0, expected, "{size}");
                assert_eq!(filter_stream(stream.as_bytes(), size, EventFilter::new(false, true)).0, stream, "{size}");
            }
        }
        let unended = format!("{CONTENT}{}", USAGE.trim_end());
        assert_eq!(filter_stream(unended.as_bytes(), 7, EventFilter::new(true, true)).0, CONTENT);
    }

    #[test]
    fn nothing_goes_on_from_an_abort_however_the_stream_is_cut() {
        let stream = format!("{CONTENT}: ping\n\n{CONTENT}{ABORT}{USAGE}{DONE}");
        for size in 1..=stream.len() {
            let expected = (format!("{CONTENT}: ping\n\n{CONTENT}END"), true);
            assert_eq!(filter_stream(stream.as_bytes(), size, EventFilter::new(true, true)), expected, "{size}");
            assert_eq!(
                filter_stream(stream.as_bytes(), size, EventFilter::new(false, false)),
                (stream.clone(), false),
                "{size}"
            );
        }
        let unended = format!("{CONTENT}{}", ABORT.trim_end());
        assert_eq!(filter_stream(unended.as_bytes(), 7, EventFilter::new(false, true)), (CONTENT.to_owned(), true));
    }

    #[test]
    fn an_event_without_end_is_held_only_so_far() {
        let long = format!("data: {}", "y".repeat(3 * MAX_HELD_EVENT_BYTES));
        for (stream, wanted) in [
            (format!("{CONTENT}{long}"), format!("{CONTENT}{long}")),
            (format!("{long}\n\n{USAGE}{CONTENT}{DONE}"), format!("{long}\n\n{CONTENT}{DONE}")),
        ] {
            for size in [1, 1000, 20_000, stream.len()] {
                assert!(filter_stream(stream.as_bytes(), size, EventFilter::new(true, true)).0 == wanted, "{size}");
            }
        }
        let mut sieve = EventFilter::new(false, true);
        sieve.push(&Bytes::from(vec![b'y'; MAX_HELD_EVENT_BYTES + 1]), &mut chat_observer());
        assert!(!sieve.is_empty() && sieve.unfinished_event.is_empty());
    }

    #[test]
    fn an_ending_begins_on_a_line_of_its_own() {
        let begun = format!("data: {{\"choices\":[{{\"text\":\"{}", "y".repeat(2 * MAX_HELD_EVENT_BYTES));
        let stream = format!("{begun}\",\"finish_reason\":\"abort\"}}]}}\n\n{DONE}");
        let (passed, aborted) =
            filter_stream(stream.as_bytes(), MAX_HELD_EVENT_BYTES + 1, EventFilter::new(false, true));
        assert!(aborted && passed.starts_with("data: {") && passed.ends_with("yyy\n\nEND"));
        let (mut sieve, mut observer) = (EventFilter::new(false, true), chat_observer());
        sieve.push(&Bytes::from(format!("{CONTENT}data: {{")), &mut observer);
        sieve.end_with("END".to_owned());
        assert_eq!(pop_all(&mut sieve), format!("{CONTENT}END").as_bytes(), "half an event is of no use to anybody");
    }

    #[test]
    fn whole_events_are_not_copied_or_held() {
        let mut sieve = EventFilter::new(true, true);
        let chunk = Bytes::from(format!("{CONTENT}{CONTENT}"));
        sieve.push(&chunk, &mut chat_observer());
        assert_eq!(sieve.pop().map(|bytes| bytes.as_ptr()), Some(chunk.as_ptr()));
        assert_eq!(sieve.events_sent(), 2);
    }

    #[test]
    fn usage_beside_an_answers_piece_is_noticed() {
        let event = CONTENT.replace("]}", "],\"usage\":{\"prompt_tokens\":3}}");
        for takes_usage in [true, false] {
            let mut sieve = EventFilter::new(takes_usage, true);
            sieve.push(&Bytes::from(event.clone()), &mut chat_observer());
            assert_eq!(sieve.usage_mixed_in, takes_usage);
        }
    }
}
