//! The lines of one event.

use std::ops::Range;

use memchr::memchr2;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event of a stream, a block of comments, or blank lines at the very end.
///
/// *Shape*: the ranges of a stream's frames tile the stream, if the one from [`finish`](super::Scanner::finish) is
/// included. Blank lines between events belong to the event after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFrame<'a> {
    /// The event's name; empty if it has none.
    pub name: &'a [u8],
    /// The `data` lines joined by `\n`; `None` if there is no such line (comments, a name alone). Of an event longer
    /// than [`HEAD_BYTES`](super::HEAD_BYTES) only the part in its first [`HEAD_BYTES`](super::HEAD_BYTES).
    pub data: Option<&'a [u8]>,
    /// The last [`TAIL_BYTES`](super::TAIL_BYTES), line ends included, of an event longer than
    /// [`HEAD_BYTES`](super::HEAD_BYTES); empty for shorter ones.
    pub tail: &'a [u8],
    /// The position in bytes from the stream's start, the ending blank line included.
    pub range: Range<u64>,
}

impl<'a> EventFrame<'a> {
    /// Parses the lines of `head`. `joined` must be empty; it is written to only if there are several data lines.
    pub(super) fn parse(head: &'a [u8], tail: &'a [u8], range: Range<u64>, joined: &'a mut Vec<u8>) -> Self {
        let mut rest = if range.start == 0 { head.strip_prefix(BOM).unwrap_or(head) } else { head };
        let mut name: &[u8] = &[];
        let mut data: Option<&[u8]> = None;
        let mut is_joined = false;
        while !rest.is_empty() {
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if let Some(value) = field_value(b"data", line) {
                if let Some(first) = data.filter(|_| !is_joined) {
                    joined.extend_from_slice(first);
                    is_joined = true;
                }
                if is_joined {
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                }
                data = Some(value);
            } else if let Some(value) = field_value(b"event", line) {
                name = value;
            }
        }
        Self { name, data: if is_joined { Some(joined) } else { data }, tail, range }
    }
}

/// Returns the value of `line` if it is the field `name`, with or without a colon and one space after it.
fn field_value<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest.split_first() {
        None => Some(rest),
        Some((b':', value)) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        Some(_) => None,
    }
}
