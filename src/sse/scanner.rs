//! Finding the events of a stream, incrementally and without copying an event that lies in one chunk.
//!
//! Source: WHATWG HTML, "Server-sent events", section 9.2.6 "Interpreting an event stream".

use memchr::memchr2;

use super::frame::EventFrame;
use super::partial_event::{PartialEvent, clear_buffer, head_and_tail};

/// Finds the events of a stream that arrives in chunks.
///
/// *Shape*: an event that lies in one chunk is borrowed from it. Only an unfinished event is copied, into a buffer that
/// is reused. Of an event longer than [`HEAD_BYTES`](super::HEAD_BYTES) only the first
/// [`HEAD_BYTES`](super::HEAD_BYTES) and the last [`TAIL_BYTES`](super::TAIL_BYTES) are kept: enough to find its type,
/// and the `usage` at its end. *Cost*: two passes of `memchr` over a chunk.
#[derive(Debug, Default)]
pub struct Scanner {
    state: ScanState,
    /// Bytes scanned so far.
    offset: u64,
    /// The end of the last complete event, in bytes from the stream's start.
    last_event_end: u64,
    partial_event: PartialEvent,
    /// The buffer in which several data lines are joined; empty between events.
    joined_data: Vec<u8>,
}

/// The position of the last scanned byte within an event.
#[derive(Clone, Copy, Debug, Default)]
enum ScanState {
    /// Before the event's first line that is not blank.
    #[default]
    BeforeEvent,
    /// Within a line.
    InLine,
    /// After a line that ended in `\r`; a following `\n` belongs to it.
    AfterCr,
    /// At a line's start, after a line of the event that ended in `\n`.
    LineStart,
    /// After a blank line of `\r`. The lines before ended in `\r\n`, so a `\n` that belongs to it may follow.
    AfterBlankCr,
}

impl Scanner {
    /// Returns a scanner at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scans the next chunk and passes every event that ends in it to `each`, in order.
    ///
    /// An event ends with the blank line after it. If that blank line is `\r` at the end of a chunk and the line before
    /// it ended in `\r\n`, the event is passed on with the next chunk, whose first byte may be the missing `\n`.
    pub fn scan(&mut self, chunk: &[u8], mut each: impl FnMut(EventFrame<'_>)) {
        let mut start = 0;
        while let Some(end) = self.state.find_event_end(chunk, start) {
            self.emit_event(chunk.get(start..end).unwrap_or_default(), end, &mut each);
            start = end;
        }
        self.partial_event.append(chunk.get(start..).unwrap_or_default());
        self.offset += chunk.len() as u64;
    }

    /// Passes what is left at the end of the stream to `each`: blank lines, or a last event without its blank line.
    /// Some servers omit that line; the standard would discard the event.
    pub fn finish(&mut self, mut each: impl FnMut(EventFrame<'_>)) {
        self.state = ScanState::BeforeEvent;
        if self.pending_bytes() > 0 {
            self.emit_event(&[], 0, &mut each);
        }
    }

    /// Returns the number of bytes scanned so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the number of scanned bytes that belong to an unfinished event.
    pub fn pending_bytes(&self) -> u64 {
        self.offset - self.last_event_end
    }

    /// Passes on the event that ends `consumed` bytes into the chunk; `rest` is its part in the chunk.
    fn emit_event(&mut self, rest: &[u8], consumed: usize, each: &mut impl FnMut(EventFrame<'_>)) {
        let range = self.last_event_end..self.offset + consumed as u64;
        self.last_event_end = range.end;
        if self.partial_event.is_empty() {
            let (head, tail) = head_and_tail(rest);
            each(EventFrame::parse(head, tail, range, &mut self.joined_data));
        } else {
            self.partial_event.append(rest);
            let (head, tail) = self.partial_event.head_and_tail();
            each(EventFrame::parse(head, tail, range, &mut self.joined_data));
            self.partial_event.clear();
        }
        clear_buffer(&mut self.joined_data);
    }
}

impl ScanState {
    /// Scans `chunk[at..]` and returns the end of the event; `None` if it does not end in the chunk.
    fn find_event_end(&mut self, chunk: &[u8], mut at: usize) -> Option<usize> {
        loop {
            let byte = *chunk.get(at)?;
            match (*self, byte) {
                (Self::InLine, _) => {
                    let rest = chunk.get(at..)?;
                    let line = memchr2(b'\n', b'\r', rest)?;
                    *self = if rest.get(line) == Some(&b'\r') { Self::AfterCr } else { Self::LineStart };
                    at += line + 1;
                }
                (Self::BeforeEvent, b'\n' | b'\r') => at += 1,
                (Self::AfterCr, b'\n') => {
                    *self = Self::LineStart;
                    at += 1;
                }
                // The line before ended in a bare `\r`, so this is a complete blank line. A `\n` after it belongs to
                // it; reading that as a further blank line does no harm, since those before an event mean nothing.
                (Self::AfterCr, b'\r') | (Self::LineStart, b'\n') => {
                    *self = Self::BeforeEvent;
                    return Some(at + 1);
                }
                (Self::LineStart, b'\r') => {
                    *self = Self::AfterBlankCr;
                    at += 1;
                }
                (Self::AfterBlankCr, _) => {
                    *self = Self::BeforeEvent;
                    return Some(if byte == b'\n' { at + 1 } else { at });
                }
                (Self::BeforeEvent | Self::AfterCr | Self::LineStart, _) => *self = Self::InLine,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::partial_event::{HEAD_BYTES, MAX_IDLE_CAPACITY_BYTES, TAIL_BYTES};
    use super::*;

    type OwnedFrame = (String, Option<String>, Range<u64>);

    fn scan_frames(chunks: &[&[u8]]) -> Vec<OwnedFrame> {
        let mut scanner = Scanner::new();
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut each = |f: EventFrame<'_>| found.push((text(f.name), f.data.map(text), f.range));
        chunks.iter().for_each(|chunk| scanner.scan(chunk, &mut each));
        scanner.finish(&mut each);
        found
    }

    fn scan_data(stream: &[u8]) -> Vec<Option<String>> {
        scan_frames(&[stream]).into_iter().map(|(_, data, _)| data).collect()
    }

    fn some_string(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn lines_end_in_lf_crlf_or_cr() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("event: a{end}data: 1{end}data:2{end}{end}: note{end}{end}data{end}id: 7{end}{end}");
            let read = scan_frames(&[stream.as_bytes()]);
            let fields: Vec<_> = read.iter().map(|(event, data, _)| (event.as_str(), data.as_deref())).collect();
            assert_eq!(fields, [("a", Some("1\n2")), ("", None), ("", Some(""))], "{end:?}");
            assert_eq!(read.last().unwrap().2.end, stream.len() as u64);
        }
    }

    #[test]
    fn one_space_after_the_colon_is_dropped_and_longer_names_are_other_fields() {
        assert_eq!(scan_data(b"data:  a \n\ndatax: b\n\n data: c\n\n"), [some_string(" a "), None, None]);
    }

    #[test]
    fn byte_order_mark_is_skipped_at_the_very_start_only() {
        assert_eq!(scan_data(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"), [some_string("a"), None]);
        assert_eq!(scan_frames(&[b"\xef", b"\xbb\xbfda", b"ta: a\n", b"\n"])[0].1, some_string("a"));
    }

    #[test]
    fn unterminated_last_event_is_passed_on_at_the_end() {
        assert_eq!(scan_data(b"data: a\n\ndata: [DONE]"), [some_string("a"), some_string("[DONE]")]);
        assert_eq!(scan_data(b"data: a\r\n\r"), [some_string("a")]);
        assert_eq!(scan_data(b""), []);
        assert_eq!(scan_data(b"\n\n"), [None]);
    }

    #[test]
    fn event_ends_at_once_unless_half_of_a_crlf_is_missing() {
        let ended = |chunk: &[u8]| {
            let mut scanner = Scanner::new();
            let mut n = 0;
            scanner.scan(chunk, |_| n += 1);
            (n, scanner.pending_bytes())
        };
        assert_eq!(ended(b"data: a\n\n"), (1, 0));
        assert_eq!(ended(b"data: a\r\n\r\n"), (1, 0));
        assert_eq!(ended(b"data: a\r\r"), (1, 0));
        assert_eq!(ended(b"data: a\r\n\r"), (0, 10));
        assert_eq!(ended(b"data: a\n\ndata"), (1, 4));
    }

    #[test]
    fn whole_event_is_borrowed_from_the_chunk() {
        let chunk = b"data: abc\n\n".as_slice();
        let within = chunk.as_ptr_range();
        Scanner::new().scan(chunk, |frame| assert!(within.contains(&frame.data.unwrap().as_ptr())));
    }

    #[test]
    fn long_event_keeps_its_head_and_tail_for_any_chunk_size() {
        for filling in [HEAD_BYTES - 9, HEAD_BYTES - 8, HEAD_BYTES, HEAD_BYTES + 3000, 100_000] {
            let stream: Vec<u8> = [b"data: ".to_vec(), vec![b'x'; filling], b"USAGE\n\n".to_vec()].concat();
            let kept = |size: usize| {
                let mut scanner = Scanner::new();
                let mut kept = Vec::new();
                let mut each = |f: EventFrame<'_>| kept.push((f.data.unwrap().to_vec(), f.tail.to_vec(), f.range));
                stream.chunks(size).for_each(|chunk| scanner.scan(chunk, &mut each));
                assert!(scanner.partial_event.head_capacity() <= MAX_IDLE_CAPACITY_BYTES);
                kept
            };
            let whole = kept(stream.len());
            assert_eq!(whole.len(), 1);
            let long = stream.len() > HEAD_BYTES;
            assert_eq!(whole[0].1, if long { &stream[stream.len() - TAIL_BYTES..] } else { &[] });
            for size in [1, 7, 1000, 4096, 5000, 16_384, 20_000] {
                assert_eq!(kept(size), whole, "filling {filling}, chunks of {size}");
            }
        }
    }
}
