//! The text of a JSON string, with its escapes replaced.

/// Escaped characters are joined up to this many bytes before they are passed on.
const TEXT_BUFFER_BYTES: usize = 64;

/// Passes the text of a JSON string to `each`, in one or more pieces.
pub(super) fn unescape(mut string: &str, each: &mut impl FnMut(&str)) {
    let mut buffer = TextBuffer::default();
    while let Some(escape) = memchr::memchr(b'\\', string.as_bytes()) {
        let (text, rest) = string.split_at(escape);
        if !text.is_empty() {
            buffer.flush(each);
            each(text);
        }
        let length = match decode_short_escape(rest) {
            Some(character) => {
                buffer.flush(each);
                each(character);
                2
            }
            None => {
                let (character, length) = decode_unicode_escape(rest);
                buffer.push_char(character, each);
                length
            }
        };
        string = rest.get(length..).unwrap_or_default();
    }
    buffer.flush(each);
    if !string.is_empty() {
        each(string);
    }
}

/// Returns the first character of a JSON string's inner text and the bytes in which it is written; `None` at its end.
pub(super) fn decode_first_char(string: &str) -> Option<(char, usize)> {
    let first = string.chars().next()?;
    if first != '\\' {
        return Some((first, first.len_utf8()));
    }
    let short = decode_short_escape(string).and_then(|text| Some((text.chars().next()?, 2)));
    Some(short.unwrap_or_else(|| decode_unicode_escape(string)))
}

/// Returns the character of the two-character escape at the start of `rest`; `None` for a `\u` escape.
fn decode_short_escape(rest: &str) -> Option<&str> {
    Some(match rest.as_bytes().get(1)? {
        b'n' => "\n",
        b't' => "\t",
        b'r' => "\r",
        b'b' => "\u{8}",
        b'f' => "\u{c}",
        b'u' => return None,
        // A quote, a slash or a backslash stands for itself.
        _ => rest.get(1..2)?,
    })
}

/// Returns the character of the `\u` escape at the start of `rest`, and the escape's length.
fn decode_unicode_escape(rest: &str) -> (char, usize) {
    let unit = |at: usize| rest.get(at..at + 4).and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let high = unit(2).unwrap_or(0xfffd);
    let low = if rest.as_bytes().get(6..8) == Some(b"\\u") { unit(8) } else { None };
    let pair = low.filter(|low| (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(low));
    let Some(low) = pair else { return (char::from_u32(high.into()).unwrap_or('\u{fffd}'), 6) };
    let decoded = char::decode_utf16([high, low]).next().and_then(Result::ok);
    (decoded.unwrap_or('\u{fffd}'), 12)
}

/// Adjacent characters that were written as `\u` escapes.
struct TextBuffer {
    bytes: [u8; TEXT_BUFFER_BYTES],
    used: usize,
}

impl Default for TextBuffer {
    fn default() -> Self {
        Self { bytes: [0; TEXT_BUFFER_BYTES], used: 0 }
    }
}

impl TextBuffer {
    fn push_char(&mut self, character: char, each: &mut impl FnMut(&str)) {
        if self.used + character.len_utf8() > TEXT_BUFFER_BYTES {
            self.flush(each);
        }
        if let Some(room) = self.bytes.get_mut(self.used..) {
            self.used += character.encode_utf8(room).len();
        }
    }

    fn flush(&mut self, each: &mut impl FnMut(&str)) {
        if self.used == 0 {
            return;
        }
        if let Some(text) = self.bytes.get(..self.used).and_then(|bytes| std::str::from_utf8(bytes).ok()) {
            each(text);
        }
        self.used = 0;
    }
}
