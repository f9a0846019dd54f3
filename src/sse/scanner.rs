//! The framing of an event stream, found incrementally and without copying what lies whole in one chunk.
//!
//! Source: WHATWG HTML, "Server-sent events", section 9.2.6 "Interpreting an event stream".

use std::ops::Range;

use memchr::memchr2;

/// Bytes of an event that are kept from its beginning; all of it, unless the event is longer than this.
pub const HEAD_BYTES: usize = 16 * 1024;

/// Bytes that are kept from the end of an event longer than [`HEAD_BYTES`].
pub const TAIL_BYTES: usize = 4 * 1024;

/// A buffer that grew beyond this is given back after the event that made it grow.
const MAX_IDLE_CAPACITY_BYTES: usize = 4 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event of a stream, or a block of comments, or blank lines at the very end.
///
/// *Shape*: the ranges of a stream's frames, with the one that [`Scanner::finish`] gives, tile the stream: blank lines
/// between events belong to the event after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFrame<'a> {
    /// The event's name; empty if it has none.
    pub name: &'a [u8],
    /// The `data` lines joined by `\n`; `None` if there is no such line (comments, a name alone).
    /// Of an event longer than [`HEAD_BYTES`] only what lies in its first [`HEAD_BYTES`].
    pub data: Option<&'a [u8]>,
    /// The last [`TAIL_BYTES`] of an event longer than [`HEAD_BYTES`], line ends and all; empty for shorter ones.
    pub tail: &'a [u8],
    /// Where the frame lies, in bytes from the stream's start, the ending blank line included.
    pub range: Range<u64>,
}

/// Finds the events of a stream that arrives in chunks.
///
/// *Shape*: an event that lies whole in one chunk is borrowed from it. Only an unfinished event is copied, into a
/// buffer that is reused; of an event longer than [`HEAD_BYTES`] the first [`HEAD_BYTES`] and the last [`TAIL_BYTES`]
/// are kept, enough to tell what it is and to find the `usage` at its end.
/// *Cost*: two passes of `memchr` over a chunk.
#[derive(Debug, Default)]
pub struct Scanner {
    state: ScanState,
    /// Bytes scanned so far.
    offset: u64,
    /// Where the last complete event ended.
    last_event_end: u64,
    partial_event: PartialEvent,
    /// Where several data lines are joined.
    joined_data: Vec<u8>,
}

/// Where in an event the last scanned byte stands.
#[derive(Clone, Copy, Debug, Default)]
enum ScanState {
    /// Before the event's first line that is not blank.
    #[default]
    BeforeEvent,
    /// Within a line.
    InLine,
    /// After a line that ended in `\r`; a `\n` may follow that belongs to it.
    AfterCr,
    /// At a line's start, after a line of the event that ended in `\n`.
    LineStart,
    /// After a blank line of `\r`; a `\n` that belongs to it is awaited, for the stream's lines seem to end in `\r\n`.
    AfterBlankCr,
}

/// What is kept of the event that began in an earlier chunk and has not ended.
#[derive(Debug, Default)]
struct PartialEvent {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Scanner {
    /// A scanner at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scans the next chunk and gives every event that ends in it to `each`, in order.
    ///
    /// An event ends with the blank line after it. If that blank line is `\r` at the very end of a chunk and the line
    /// before it ended in `\r\n`, the event is given out when the next byte has shown whether it ends there.
    pub fn scan(&mut self, chunk: &[u8], mut each: impl FnMut(EventFrame<'_>)) {
        let mut begun = 0;
        let mut at = 0;
        while let Some(end) = self.state.find_event_end(chunk, at) {
            self.emit_event(chunk.get(begun..end).unwrap_or_default(), end, &mut each);
            begun = end;
            at = end;
        }
        self.partial_event.append(chunk.get(begun..).unwrap_or_default());
        self.offset += chunk.len() as u64;
    }

    /// Gives out what is left at the end of the stream: a last event without its blank line, which some servers omit
    /// and which the standard would have discarded, or stray blank lines.
    pub fn finish(&mut self, mut each: impl FnMut(EventFrame<'_>)) {
        self.state = ScanState::BeforeEvent;
        if self.pending_bytes() > 0 {
            self.emit_event(&[], 0, &mut each);
        }
    }

    /// Bytes scanned so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes at the end of what was scanned that belong to an event whose end has not come.
    pub fn pending_bytes(&self) -> u64 {
        self.offset - self.last_event_end
    }

    /// Gives out the event that ends `consumed` bytes into the chunk and of which `rest` lies in the chunk.
    fn emit_event(&mut self, rest: &[u8], consumed: usize, each: &mut impl FnMut(EventFrame<'_>)) {
        let range = self.last_event_end..self.offset + consumed as u64;
        self.last_event_end = range.end;
        if self.partial_event.head.is_empty() {
            let (head, tail) = head_and_tail(rest);
            each(parse_frame(head, tail, range, &mut self.joined_data));
        } else {
            self.partial_event.append(rest);
            let PartialEvent { head, tail } = &self.partial_event;
            let tail = tail.get(tail.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
            each(parse_frame(head, tail, range, &mut self.joined_data));
            self.partial_event.clear();
        }
        clear_buffer(&mut self.joined_data);
    }
}

impl ScanState {
    /// Moves on over `chunk[at..]` and returns where in the chunk the event ends, if it does.
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
                // The line before ended in a bare `\r`, so this is a whole blank line. A `\n` after it is no line of
                // its own, but taking it for one does no harm: blank lines before an event mean nothing.
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

impl PartialEvent {
    fn append(&mut self, bytes: &[u8]) {
        let room = HEAD_BYTES - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        if rest.is_empty() {
            return;
        }
        if self.tail.is_empty() {
            self.tail.extend_from_slice(self.head.get(HEAD_BYTES - TAIL_BYTES..).unwrap_or_default());
        }
        // Twice the window is held, so that moving it costs a copy of each byte, not of the window for each chunk.
        let rest = rest.get(rest.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        if self.tail.len() + rest.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        }
        self.tail.extend_from_slice(rest);
    }

    fn clear(&mut self) {
        clear_buffer(&mut self.head);
        clear_buffer(&mut self.tail);
    }
}

fn clear_buffer(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > MAX_IDLE_CAPACITY_BYTES {
        buffer.shrink_to(MAX_IDLE_CAPACITY_BYTES);
    }
}

/// What would have been kept of `event` had it come in pieces: the same, so that chunking cannot be seen.
fn head_and_tail(event: &[u8]) -> (&[u8], &[u8]) {
    match event.get(..HEAD_BYTES) {
        Some(head) if event.len() > HEAD_BYTES => (head, event.get(event.len() - TAIL_BYTES..).unwrap_or_default()),
        _ => (event, &[]),
    }
}

/// Reads the lines of an event. `joined` is empty, and is used only if there are several data lines.
fn parse_frame<'a>(head: &'a [u8], tail: &'a [u8], range: Range<u64>, joined: &'a mut Vec<u8>) -> EventFrame<'a> {
    let mut rest = if range.start == 0 { head.strip_prefix(BOM).unwrap_or(head) } else { head };
    let mut event: &[u8] = &[];
    let mut data: Option<&[u8]> = None;
    let mut several = false;
    while !rest.is_empty() {
        let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        if let Some(value) = field_value(b"data", line) {
            if let Some(first) = data.filter(|_| !several) {
                joined.extend_from_slice(first);
                several = true;
            }
            if several {
                joined.push(b'\n');
                joined.extend_from_slice(value);
            }
            data = Some(value);
        } else if let Some(value) = field_value(b"event", line) {
            event = value;
        }
    }
    EventFrame { name: event, data: if several { Some(joined) } else { data }, tail, range }
}

/// The value of `line` if it is the field `name`, with or without a colon and one space after it.
fn field_value<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest.split_first() {
        None => Some(rest),
        Some((b':', value)) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
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
    fn lines_end_in_any_of_three_ways() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("event: a{end}data: 1{end}data:2{end}{end}: note{end}{end}data{end}id: 7{end}{end}");
            let read = scan_frames(&[stream.as_bytes()]);
            let said: Vec<_> = read.iter().map(|(event, data, _)| (event.as_str(), data.as_deref())).collect();
            assert_eq!(said, [("a", Some("1\n2")), ("", None), ("", Some(""))], "{end:?}");
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
    fn unterminated_last_event_is_given_out() {
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
    fn long_event_keeps_its_head_and_its_tail_however_it_is_cut() {
        for filling in [HEAD_BYTES - 9, HEAD_BYTES - 8, HEAD_BYTES, HEAD_BYTES + 3000, 100_000] {
            let stream: Vec<u8> = [b"data: ".to_vec(), vec![b'x'; filling], b"USAGE\n\n".to_vec()].concat();
            let kept = |size: usize| {
                let mut scanner = Scanner::new();
                let mut kept = Vec::new();
                let mut each = |f: EventFrame<'_>| kept.push((f.data.unwrap().to_vec(), f.tail.to_vec(), f.range));
                stream.chunks(size).for_each(|chunk| scanner.scan(chunk, &mut each));
                assert!(scanner.partial_event.head.capacity() <= MAX_IDLE_CAPACITY_BYTES);
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
