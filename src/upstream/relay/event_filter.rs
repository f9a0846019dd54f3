//! The filter of a stream's events.
//!
//! Whole events pass once they have been read, except the usage that the router requested, and everything from the event
//! by which the replica aborts its response.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::sse::{BodyObserver, ChunkStats, EventInfo};

/// Most bytes of an unfinished event that are held back; a longer one passes as it is received.
const MAX_HELD_EVENT_BYTES: usize = 16 * 1024;

/// The bytes of a stream, filtered by event.
///
/// *Shape*: complete events pass at once; the beginning of an unfinished event is held, at most 16 KiB. The bytes that
/// pass are those received, except what [`FilterRules`] removes.
#[derive(Debug)]
pub(super) struct EventFilter {
    rules: FilterRules,
    /// The beginning of the unfinished event.
    unfinished_event: BytesMut,
    /// Bytes of the stream so far.
    offset: u64,
    /// Bytes that may pass, in order.
    ready_chunks: VecDeque<Bytes>,
    /// Whether a part of the unfinished event has passed.
    partially_sent: bool,
    /// Events that have passed.
    events_sent: u64,
}

/// The events that do not pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilterRules {
    /// Whether the usage event is removed, because the client did not ask for it. What else it carries passes.
    pub(super) removes_usage: bool,
    /// Whether nothing passes from an event with `finish_reason` "abort".
    pub(super) stops_at_abort: bool,
}

/// What one chunk, or the end, of a stream has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filtered {
    /// The events that ended in it.
    pub(super) stats: ChunkStats,
    /// Whether the replica aborted the response; nothing more passes.
    pub(super) aborted: bool,
    /// Whether usage that only the router asked for passed, because its event carries content too.
    pub(super) usage_mixed_in: bool,
}

impl EventFilter {
    /// Returns the filter of a stream that has not begun.
    pub(super) fn new(rules: FilterRules) -> Self {
        Self {
            rules,
            unfinished_event: BytesMut::new(),
            offset: 0,
            ready_chunks: VecDeque::new(),
            partially_sent: false,
            events_sent: 0,
        }
    }

    /// Shows the next chunk to `observer` and makes ready what may pass. Not to be called after an abort.
    pub(super) fn push(&mut self, chunk: &Bytes, observer: &mut BodyObserver) -> Filtered {
        let chunk_start = self.offset;
        self.offset += chunk.len() as u64;
        let held = self.unfinished_event.split().freeze();
        let window = StreamWindow { held: &held, chunk, chunk_start };
        let mut from = window.held_start();
        let mut filtered = Filtered::default();
        filtered.stats = observer.observe_events(chunk, |event| {
            if filtered.aborted {
                return;
            }
            let is_whole = event.range.start >= from;
            if event.aborted && self.rules.stops_at_abort {
                window.release(from, event.range.start, &mut self.ready_chunks);
                filtered.aborted = true;
                self.partially_sent = !is_whole;
            } else if self.rules.removes_usage && event.usage_only && is_whole {
                window.release(from, event.range.start, &mut self.ready_chunks);
                from = event.range.end;
                if let Some(rest) = event.without_usage {
                    self.ready_chunks.push_back(data_event(&rest));
                    self.events_sent += 1;
                }
            } else {
                filtered.usage_mixed_in |= self.rules.removes_usage && event.has_usage;
                self.events_sent += u64::from(event.is_event);
            }
        });
        if filtered.aborted {
            return filtered;
        }
        let complete = self.offset - observer.pending_bytes();
        window.release(from, complete, &mut self.ready_chunks);
        from = from.max(complete);
        // The unfinished event passes as it is received if its beginning has passed, or if it is too long.
        self.partially_sent = self.partially_sent && complete <= chunk_start && observer.pending_bytes() > 0
            || self.offset - complete > MAX_HELD_EVENT_BYTES as u64;
        if self.partially_sent {
            window.release(from, self.offset, &mut self.ready_chunks);
        } else {
            window.hold_back(from, &mut self.unfinished_event);
        }
        filtered
    }

    /// Shows the end of the stream to `observer` and makes ready what was held, unless it is an event to remove.
    pub(super) fn finish(&mut self, observer: &mut BodyObserver) -> Filtered {
        let FilterRules { removes_usage, stops_at_abort } = self.rules;
        let mut is_removed = false;
        let mut rest = None;
        let mut filtered = Filtered::default();
        filtered.stats = observer.finish_events(|event: EventInfo| {
            filtered.aborted = event.aborted && stops_at_abort;
            is_removed = filtered.aborted || removes_usage && event.usage_only;
            rest = event.without_usage.filter(|_| is_removed && !filtered.aborted);
        });
        let held = self.unfinished_event.split().freeze();
        if !is_removed && !held.is_empty() {
            self.ready_chunks.push_back(held);
        }
        self.ready_chunks.extend(rest.as_deref().map(data_event));
        filtered
    }

    /// Ends an interrupted stream by `ending` instead of the unfinished event, which no client could read.
    pub(super) fn end_with(&mut self, ending: String) {
        self.unfinished_event.clear();
        // On a line of its own, after the part that has passed of an event that stays unfinished.
        let ending = if self.partially_sent { format!("\n\n{ending}") } else { ending };
        self.ready_chunks.push_back(ending.into());
    }

    /// Ends an interrupted stream by the bytes that were held.
    pub(super) fn flush(&mut self) {
        let held = self.unfinished_event.split().freeze();
        if !held.is_empty() {
            self.ready_chunks.push_back(held);
        }
    }

    /// Returns whether the client has received the beginning of an event, and not its end.
    pub(super) const fn is_partially_sent(&self) -> bool {
        self.partially_sent
    }

    /// Returns the number of events that have passed.
    pub(super) const fn events_sent(&self) -> u64 {
        self.events_sent
    }

    /// Removes the next bytes that may pass, never empty; `None` if none are ready.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.ready_chunks.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready_chunks.is_empty()
    }
}

/// Returns an event with this data, which is one line.
fn data_event(data: &str) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// The held bytes and the chunk after them, as one range of the stream.
struct StreamWindow<'a> {
    held: &'a Bytes,
    chunk: &'a Bytes,
    chunk_start: u64,
}

impl StreamWindow<'_> {
    /// Makes the bytes of the stream from `from` to `to` ready, without copying them.
    fn release(&self, from: u64, to: u64, ready_chunks: &mut VecDeque<Bytes>) {
        for piece in self.slices(from, to) {
            if !piece.is_empty() {
                ready_chunks.push_back(piece);
            }
        }
    }

    /// Copies the bytes of the stream from `from` to `unfinished_event`.
    fn hold_back(&self, from: u64, unfinished_event: &mut BytesMut) {
        for piece in self.slices(from, u64::MAX) {
            unfinished_event.extend_from_slice(&piece);
        }
    }

    fn slices(&self, from: u64, to: u64) -> [Bytes; 2] {
        [slice_range(self.held, from, to, self.held_start()), slice_range(self.chunk, from, to, self.chunk_start)]
    }

    fn held_start(&self) -> u64 {
        self.chunk_start - self.held.len() as u64
    }
}

/// Returns the part of `bytes`, which begin at `start`, that lies between `from` and `to` of the stream.
fn slice_range(bytes: &Bytes, from: u64, to: u64, start: u64) -> Bytes {
    let index = |offset: u64| usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
    let (from, to) = (index(from), index(to));
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
    const REMOVE_USAGE: FilterRules = FilterRules { removes_usage: true, stops_at_abort: true };
    const KEEP_USAGE: FilterRules = FilterRules { removes_usage: false, stops_at_abort: true };
    const KEEP_ALL: FilterRules = FilterRules { removes_usage: false, stops_at_abort: false };

    fn pop_all(filter: &mut EventFilter) -> Vec<u8> {
        std::iter::from_fn(|| filter.pop()).flatten().collect()
    }

    fn chat_observer() -> BodyObserver {
        BodyObserver::new(Dialect::Chat, BodyFormat::Stream)
    }

    /// Returns what passes of `stream`, cut into chunks of `size`, and whether it was aborted.
    fn filter_stream(stream: &[u8], size: usize, mut filter: EventFilter) -> (String, bool) {
        let mut observer = chat_observer();
        let mut passed = Vec::new();
        let mut aborted = false;
        for chunk in stream.chunks(size) {
            aborted = filter.push(&Bytes::copy_from_slice(chunk), &mut observer).aborted;
            passed.extend(pop_all(&mut filter));
            if aborted {
                filter.end_with("END".to_owned());
                break;
            }
        }
        aborted = aborted || filter.finish(&mut observer).aborted;
        passed.extend(pop_all(&mut filter));
        (String::from_utf8(passed).unwrap(), aborted)
    }

    #[test]
    fn usage_event_is_removed_at_any_cut() {
        for end in [DONE, "", ": bye", "\r\n\r\n"] {
            let stream = format!("{CONTENT}: ping\n\n{CONTENT}{USAGE}{end}");
            let expected = format!("{CONTENT}: ping\n\n{CONTENT}{end}");
            for size in 1..=stream.len() {
                assert_eq!(
                    filter_stream(stream.as_bytes(), size, EventFilter::new(REMOVE_USAGE)).0,
                    expected,
                    "{size}"
                );
                assert_eq!(filter_stream(stream.as_bytes(), size, EventFilter::new(KEEP_USAGE)).0, stream, "{size}");
            }
        }
        let unended = format!("{CONTENT}{}", USAGE.trim_end());
        assert_eq!(filter_stream(unended.as_bytes(), 7, EventFilter::new(REMOVE_USAGE)).0, CONTENT);
    }

    #[test]
    fn nothing_passes_after_an_abort_at_any_cut() {
        let stream = format!("{CONTENT}: ping\n\n{CONTENT}{ABORT}{USAGE}{DONE}");
        for size in 1..=stream.len() {
            let expected = (format!("{CONTENT}: ping\n\n{CONTENT}END"), true);
            assert_eq!(filter_stream(stream.as_bytes(), size, EventFilter::new(REMOVE_USAGE)), expected, "{size}");
            assert_eq!(
                filter_stream(stream.as_bytes(), size, EventFilter::new(KEEP_ALL)),
                (stream.clone(), false),
                "{size}"
            );
        }
        let unended = format!("{CONTENT}{}", ABORT.trim_end());
        assert_eq!(filter_stream(unended.as_bytes(), 7, EventFilter::new(KEEP_USAGE)), (CONTENT.to_owned(), true));
    }

    #[test]
    fn unfinished_event_is_held_up_to_the_limit() {
        let long = format!("data: {}", "y".repeat(3 * MAX_HELD_EVENT_BYTES));
        for (stream, wanted) in [
            (format!("{CONTENT}{long}"), format!("{CONTENT}{long}")),
            (format!("{long}\n\n{USAGE}{CONTENT}{DONE}"), format!("{long}\n\n{CONTENT}{DONE}")),
        ] {
            for size in [1, 1000, 20_000, stream.len()] {
                assert!(filter_stream(stream.as_bytes(), size, EventFilter::new(REMOVE_USAGE)).0 == wanted, "{size}");
            }
        }
        let mut filter = EventFilter::new(KEEP_USAGE);
        filter.push(&Bytes::from(vec![b'y'; MAX_HELD_EVENT_BYTES + 1]), &mut chat_observer());
        assert!(!filter.is_empty() && filter.unfinished_event.is_empty());
    }

    #[test]
    fn ending_begins_on_its_own_line() {
        let begun = format!("data: {{\"choices\":[{{\"text\":\"{}", "y".repeat(2 * MAX_HELD_EVENT_BYTES));
        let stream = format!("{begun}\",\"finish_reason\":\"abort\"}}]}}\n\n{DONE}");
        let (passed, aborted) =
            filter_stream(stream.as_bytes(), MAX_HELD_EVENT_BYTES + 1, EventFilter::new(KEEP_USAGE));
        assert!(aborted && passed.starts_with("data: {") && passed.ends_with("yyy\n\nEND"));
        let (mut filter, mut observer) = (EventFilter::new(KEEP_USAGE), chat_observer());
        filter.push(&Bytes::from(format!("{CONTENT}data: {{")), &mut observer);
        filter.end_with("END".to_owned());
        assert_eq!(pop_all(&mut filter), format!("{CONTENT}END").as_bytes(), "an unfinished event is dropped");
    }

    #[test]
    fn whole_events_are_not_copied_or_held() {
        let mut filter = EventFilter::new(REMOVE_USAGE);
        let chunk = Bytes::from(format!("{CONTENT}{CONTENT}"));
        filter.push(&chunk, &mut chat_observer());
        assert_eq!(filter.pop().map(|bytes| bytes.as_ptr()), Some(chunk.as_ptr()));
        assert_eq!(filter.events_sent(), 2);
    }

    #[test]
    fn usage_in_a_content_event_is_reported() {
        let event = CONTENT.replace("]}", "],\"usage\":{\"prompt_tokens\":3}}");
        for rules in [REMOVE_USAGE, KEEP_USAGE] {
            let mut filter = EventFilter::new(rules);
            let filtered = filter.push(&Bytes::from(event.clone()), &mut chat_observer());
            assert_eq!(filtered.usage_mixed_in, rules.removes_usage);
        }
    }
}
