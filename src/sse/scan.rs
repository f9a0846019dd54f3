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
const KEPT_CAPACITY_BYTES: usize = 4 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event of a stream, or a block of comments, or blank lines at the very end.
///
/// *Shape*: the ranges of a stream's frames, with the one that [`Scanner::finish`] gives, tile the stream: blank lines
/// between events belong to the event after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The event's name; empty if it has none.
    pub event: &'a [u8],
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
    place: Place,
    /// Bytes scanned so far.
    offset: u64,
    /// Where the last complete event ended.
    complete_to: u64,
    unfinished: Unfinished,
    /// Where several data lines are joined.
    joined: Vec<u8>,
}

/// Where in an event the last scanned byte stands.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// Before the event's first line that is not blank.
    #[default]
    Before,
    /// Within a line.
    Line,
    /// After a line that ended in `\r`; a `\n` may follow that belongs to it.
    LineCr,
    /// At a line's start, after a line of the event that ended in `\n`.
    Start,
    /// After a blank line of `\r`; a `\n` that belongs to it is awaited, for the stream's lines seem to end in `\r\n`.
    BlankCr,
}

/// What is kept of the event that began in an earlier chunk and has not ended.
#[derive(Debug, Default)]
struct Unfinished {
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
    pub fn scan(&mut self, chunk: &[u8], mut each: impl FnMut(Frame<'_>)) {
        let mut begun = 0;
        let mut at = 0;
        while let Some(end) = self.place.event_end(chunk, at) {
            self.emit(chunk.get(begun..end).unwrap_or_default(), end, &mut each);
            begun = end;
            at = end;
        }
        self.unfinished.keep(chunk.get(begun..).unwrap_or_default());
        self.offset += chunk.len() as u64;
    }

    /// Gives out what is left at the end of the stream: a last event without its blank line, which some servers omit
    /// and which the standard would have discarded, or stray blank lines.
    pub fn finish(&mut self, mut each: impl FnMut(Frame<'_>)) {
        self.place = Place::Before;
        if self.held() > 0 {
            self.emit(&[], 0, &mut each);
        }
    }

    /// Bytes scanned so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes at the end of what was scanned that belong to an event whose end has not come.
    pub fn held(&self) -> u64 {
        self.offset - self.complete_to
    }

    /// Gives out the event that ends `consumed` bytes into the chunk and of which `rest` lies in the chunk.
    fn emit(&mut self, rest: &[u8], consumed: usize, each: &mut impl FnMut(Frame<'_>)) {
        let range = self.complete_to..self.offset + consumed as u64;
        self.complete_to = range.end;
        if self.unfinished.head.is_empty() {
            let (head, tail) = ends(rest);
            each(frame(head, tail, range, &mut self.joined));
        } else {
            self.unfinished.keep(rest);
            let Unfinished { head, tail } = &self.unfinished;
            let tail = tail.get(tail.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
            each(frame(head, tail, range, &mut self.joined));
            self.unfinished.clear();
        }
        empty(&mut self.joined);
    }
}

impl Place {
    /// Moves on over `chunk[at..]` and returns where in the chunk the event ends, if it does.
    fn event_end(&mut self, chunk: &[u8], mut at: usize) -> Option<usize> {
        loop {
            let byte = *chunk.get(at)?;
            match (*self, byte) {
                (Self::Line, _) => {
                    let rest = chunk.get(at..)?;
                    let line = memchr2(b'\n', b'\r', rest)?;
                    *self = if rest.get(line) == Some(&b'\r') { Self::LineCr } else { Self::Start };
                    at += line + 1;
                }
                (Self::Before, b'\n' | b'\r') => at += 1,
                (Self::LineCr, b'\n') => {
                    *self = Self::Start;
                    at += 1;
                }
                // The line before ended in a bare `\r`, so this is a whole blank line. A `\n` after it is no line of
                // its own, but taking it for one does no harm: blank lines before an event mean nothing.
                (Self::LineCr, b'\r') | (Self::Start, b'\n') => {
                    *self = Self::Before;
                    return Some(at + 1);
                }
                (Self::Start, b'\r') => {
                    *self = Self::BlankCr;
                    at += 1;
                }
                (Self::BlankCr, _) => {
                    *self = Self::Before;
                    return Some(if byte == b'\n' { at + 1 } else { at });
                }
                (Self::Before | Self::LineCr | Self::Start, _) => *self = Self::Line,
            }
        }
    }
}

impl Unfinished {
    fn keep(&mut self, bytes: &[u8]) {
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
        empty(&mut self.head);
        empty(&mut self.tail);
    }
}

fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEPT_CAPACITY_BYTES {
        buffer.shrink_to(KEPT_CAPACITY_BYTES);
    }
}

/// What would have been kept of `event` had it come in pieces: the same, so that chunking cannot be seen.
fn ends(event: &[u8]) -> (&[u8], &[u8]) {
    match event.get(..HEAD_BYTES) {
        Some(head) if event.len() > HEAD_BYTES => (head, event.get(event.len() - TAIL_BYTES..).unwrap_or_default()),
        _ => (event, &[]),
    }
}

/// Reads the lines of an event. `joined` is empty, and is used only if there are several data lines.
fn frame<'a>(head: &'a [u8], tail: &'a [u8], range: Range<u64>, joined: &'a mut Vec<u8>) -> Frame<'a> {
    let mut rest = if range.start == 0 { head.strip_prefix(BOM).unwrap_or(head) } else { head };
    let mut event: &[u8] = &[];
    let mut data: Option<&[u8]> = None;
    let mut several = false;
    while !rest.is_empty() {
        let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        if let Some(value) = value_of(b"data", line) {
            if let Some(first) = data.filter(|_| !several) {
                joined.extend_from_slice(first);
                several = true;
            }
            if several {
                joined.push(b'\n');
                joined.extend_from_slice(value);
            }
            data = Some(value);
        } else if let Some(value) = value_of(b"event", line) {
            event = value;
        }
    }
    Frame { event, data: if several { Some(joined) } else { data }, tail, range }
}

/// The value of `line` if it is the field `name`, with or without a colon and one space after it.
fn value_of<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
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

    type Owned = (String, Option<String>, Range<u64>);

    fn frames(chunks: &[&[u8]]) -> Vec<Owned> {
        let mut scanner = Scanner::new();
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut each = |f: Frame<'_>| found.push((text(f.event), f.data.map(text), f.range));
        chunks.iter().for_each(|chunk| scanner.scan(chunk, &mut each));
        scanner.finish(&mut each);
        found
    }

    fn datas(stream: &[u8]) -> Vec<Option<String>> {
        frames(&[stream]).into_iter().map(|(_, data, _)| data).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn lines_end_in_any_of_three_ways() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("event: a{end}data: 1{end}data:2{end}{end}: note{end}{end}data{end}id: 7{end}{end}");
            let read = frames(&[stream.as_bytes()]);
            let said: Vec<_> = read.iter().map(|(event, data, _)| (event.as_str(), data.as_deref())).collect();
            assert_eq!(said, [("a", Some("1\n2")), ("", None), ("", Some(""))], "{end:?}");
            assert_eq!(read.last().unwrap().2.end, stream.len() as u64);
        }
    }

    #[test]
    fn one_space_after_the_colon_is_dropped_and_longer_names_are_other_fields() {
        assert_eq!(datas(b"data:  a \n\ndatax: b\n\n data: c\n\n"), [some(" a "), None, None]);
    }

    #[test]
    fn byte_order_mark_is_skipped_at_the_very_start_only() {
        assert_eq!(datas(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"), [some("a"), None]);
        assert_eq!(frames(&[b"\xef", b"\xbb\xbfda", b"ta: a\n", b"\n"])[0].1, some("a"));
    }

    #[test]
    fn unterminated_last_event_is_given_out() {
        assert_eq!(datas(b"data: a\n\ndata: [DONE]"), [some("a"), some("[DONE]")]);
        assert_eq!(datas(b"data: a\r\n\r"), [some("a")]);
        assert_eq!(datas(b""), []);
        assert_eq!(datas(b"\n\n"), [None]);
    }

    #[test]
    fn event_ends_at_once_unless_half_of_a_crlf_is_missing() {
        let ended = |chunk: &[u8]| {
            let mut scanner = Scanner::new();
            let mut n = 0;
            scanner.scan(chunk, |_| n += 1);
            (n, scanner.held())
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
                let mut each = |f: Frame<'_>| kept.push((f.data.unwrap().to_vec(), f.tail.to_vec(), f.range));
                stream.chunks(size).for_each(|chunk| scanner.scan(chunk, &mut each));
                assert!(scanner.unfinished.head.capacity() <= KEPT_CAPACITY_BYTES);
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
