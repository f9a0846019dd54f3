//! The framing of requests on an HTTP/1 connection, as far as it is needed to find those with two lengths.

/// Bytes kept of a line. What is longer is no length that a request may have.
const MAX_LINE_BYTES: usize = 128;

/// Finds the first request of a connection that gives its length twice: by `Content-Length` and
/// `Transfer-Encoding`, or by two `Content-Length`s.
///
/// hyper removes the second length, so that the head of the request does not show it. The scanner stops at the first
/// such request, and at anything that hyper refuses. It reads heads and chunk sizes, and skips bodies.
/// *Source*: RFC 9112, section 6.3.
#[derive(Debug, Default)]
pub struct FramingScanner {
    state: ScanState,
    /// The beginning of the present line, as far as it was in earlier bytes.
    line: Vec<u8>,
    /// Whether the present line is longer than `line` shows.
    is_line_cut: bool,
    head: HeadFraming,
    /// Whole heads so far.
    head_count: u64,
    ambiguous_request: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ScanState {
    #[default]
    Head,
    /// The bytes left of a body, or of a chunk.
    Body {
        left: u64,
        is_chunk: bool,
    },
    ChunkSize,
    /// The end of the line behind a chunk.
    ChunkEnd,
    Trailers,
    Stopped,
}

/// What a head says of its body.
#[derive(Debug, Default)]
struct HeadFraming {
    has_request_line: bool,
    length: Option<u64>,
    length_lines: u32,
    is_chunked: bool,
}

impl FramingScanner {
    /// Returns the number, from 1, of the first request with two lengths; `None` if there is none so far.
    pub const fn ambiguous_request(&self) -> Option<u64> {
        self.ambiguous_request
    }

    /// Ends the scan: the connection carries no requests of HTTP/1.
    pub fn stop(&mut self) {
        self.state = ScanState::Stopped;
        self.line = Vec::new();
    }

    /// Reads the bytes that follow those of earlier calls. O(bytes) in heads, O(1) in a body or chunk.
    pub fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                ScanState::Stopped => return,
                ScanState::Body { left, is_chunk } => {
                    let skipped = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    bytes = bytes.get(skipped..).unwrap_or_default();
                    self.set_body_left(left - skipped as u64, is_chunk);
                }
                ScanState::Head | ScanState::ChunkSize | ScanState::ChunkEnd | ScanState::Trailers => {
                    bytes = self.scan_line(bytes);
                }
            }
        }
    }

    fn set_body_left(&mut self, left: u64, is_chunk: bool) {
        self.state = match (left, is_chunk) {
            (0, true) => ScanState::ChunkEnd,
            (0, false) => ScanState::Head,
            (left, is_chunk) => ScanState::Body { left, is_chunk },
        };
    }

    /// Reads up to the end of the present line, and returns the bytes behind it.
    fn scan_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes);
        let (part, rest) = end.and_then(|end| bytes.split_at_checked(end + 1)).unwrap_or((bytes, b""));
        if end.is_some() && self.line.is_empty() {
            self.is_line_cut = part.len() > MAX_LINE_BYTES;
            self.end_line(part);
            self.is_line_cut = false;
            return rest;
        }
        let kept = part.len().min(MAX_LINE_BYTES.saturating_sub(self.line.len()));
        self.line.extend(part.iter().take(kept));
        self.is_line_cut |= kept < part.len();
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            self.end_line(&line);
            // Keeps its memory for the next line.
            self.line = line;
            self.line.clear();
            self.is_line_cut = false;
        }
        rest
    }

    /// Reads a line, with its end unless it is cut.
    fn end_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            ScanState::Head if line.is_empty() => self.end_head(),
            ScanState::Head => self.read_field(line),
            ScanState::ChunkSize => match parse_chunk_size(line) {
                Some(0) => self.state = ScanState::Trailers,
                Some(size) => self.state = ScanState::Body { left: size, is_chunk: true },
                None => self.stop(),
            },
            ScanState::ChunkEnd if line.is_empty() => self.state = ScanState::ChunkSize,
            ScanState::ChunkEnd => self.stop(),
            ScanState::Trailers if line.is_empty() => self.state = ScanState::Head,
            ScanState::Trailers | ScanState::Body { .. } | ScanState::Stopped => {}
        }
    }

    /// Reads a request line or a header line.
    fn read_field(&mut self, line: &[u8]) {
        if !self.head.has_request_line {
            self.head.has_request_line = true;
            return;
        }
        if !matches!(line.first(), Some(b'C' | b'c' | b'T' | b't')) {
            return;
        }
        let Some((name, value)) = memchr::memchr(b':', line).and_then(|colon| line.split_at_checked(colon)) else {
            return;
        };
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.head.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.head.length_lines += 1;
            self.head.length = parse_length(value.strip_prefix(b":").unwrap_or(value));
            if self.head.length.is_none() || self.is_line_cut {
                self.stop();
            }
        }
    }

    fn end_head(&mut self) {
        // Empty lines before a request are skipped.
        if !self.head.has_request_line {
            return;
        }
        let HeadFraming { length, length_lines, is_chunked, .. } = std::mem::take(&mut self.head);
        self.head_count += 1;
        if length_lines + u32::from(is_chunked) > 1 {
            self.ambiguous_request = Some(self.head_count);
            self.stop();
        } else if is_chunked {
            self.state = ScanState::ChunkSize;
        } else {
            self.set_body_left(length.unwrap_or(0), false);
        }
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    digits.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(digits).ok()?.parse().ok())?
}

/// Parses the size in front of a chunk, which extensions may follow.
fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at_checked(end)?;
    let is_size = matches!(rest, [] | [b';' | b' ' | b'\t', ..]);
    u64::from_str_radix(str::from_utf8(digits).ok().filter(|_| is_size)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result, which is the same at every cut.
    fn scan_at_every_cut(bytes: &[u8]) -> Option<u64> {
        let mut whole = FramingScanner::default();
        whole.scan(bytes);
        for cut in 0..bytes.len() {
            let mut parts = FramingScanner::default();
            parts.scan(&bytes[..cut]);
            parts.scan(&bytes[cut..]);
            assert_eq!(parts.ambiguous_request(), whole.ambiguous_request(), "cut at {cut}");
        }
        let mut bytewise = FramingScanner::default();
        bytes.chunks(1).for_each(|byte| bytewise.scan(byte));
        assert_eq!(bytewise.ambiguous_request(), whole.ambiguous_request());
        whole.ambiguous_request()
    }

    fn scan_head(headers: &str) -> Option<u64> {
        scan_at_every_cut(format!("POST /x HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n").as_bytes())
    }

    #[test]
    fn request_with_two_lengths_is_found() {
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "transfer-encoding: chunked\r\nX: y\r\ncontent-length: 5",
            "Transfer-Encoding: chunked\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
        ] {
            assert_eq!(scan_head(headers), Some(1), "{headers}");
        }
        for headers in [
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "X-Content-Length: 5\r\nContent-Length: 5",
            "TE: chunked",
        ] {
            assert_eq!(scan_head(headers), None, "{headers}");
        }
    }

    #[test]
    fn bodies_are_skipped() {
        let both = "POST /x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = both.len();
        for earlier in [
            format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{both}"),
            format!("\r\nPOST / HTTP/1.1\nTransfer-Encoding: chunked\n\n{length:x};a=b\r\n{both}\r\n0\r\nX: y\r\n\r\n"),
            "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ] {
            assert_eq!(scan_at_every_cut(earlier.as_bytes()), None, "{earlier}");
            assert_eq!(scan_at_every_cut(format!("{earlier}{both}").as_bytes()), Some(2), "{earlier}");
        }
    }

    #[test]
    fn scan_stops_where_hyper_refuses() {
        let both = "POST /x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        for refused in [
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n".to_owned(),
            format!("POST / HTTP/1.1\r\nContent-Length: {}1\r\n\r\n", "0".repeat(200)),
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n".to_owned(),
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(),
        ] {
            assert_eq!(scan_at_every_cut(format!("{refused}{both}").as_bytes()), None, "{refused}");
        }
        let mut scanner = FramingScanner::default();
        scanner.stop();
        scanner.scan(both.as_bytes());
        assert_eq!(scanner.ambiguous_request(), None);
    }

    #[test]
    fn long_lines_take_no_memory() {
        let mut scanner = FramingScanner::default();
        scanner.scan(b"GET /");
        (0..1_000).for_each(|_| scanner.scan(&[b'x'; 1_000]));
        assert!(scanner.line.capacity() <= 2 * MAX_LINE_BYTES);
    }
}
