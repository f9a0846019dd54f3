//! Escaping of values, so that a client cannot forge lines or fields of a log.
//!
//! Source of `Default`, `Json` and `None`: nginx `ngx_http_log_module.c`, `escape=`.

use std::borrow::Cow;

/// The escaping of values in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogEscape {
    /// nginx's default: `"`, `\`, and bytes below 0x20 and above 0x7E become `\xHH`; a missing value is `-`.
    #[default]
    Default,
    /// nginx's `json`: escaped as in a JSON string; a missing value is empty. Invalid UTF-8 is replaced. Unlike in
    /// nginx, control characters beyond ASCII are escaped too.
    Json,
    /// nginx's `none`: not escaped; a missing value is empty.
    None,
    /// As `Default`, with spaces escaped and text beyond ASCII kept.
    Word,
    /// Complete JSON values: strings with their quotes, numbers without; a missing value is `null`.
    JsonValue,
}

const HEX_DIGITS: &[u8; 16] = b"0123456789ABCDEF";

impl LogEscape {
    /// Appends a text value.
    pub(super) fn write_text(self, value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Default => write_bytes(value, out, |b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\')),
            Self::None => out.extend_from_slice(value),
            Self::Json => write_json(value, out),
            Self::JsonValue => {
                out.push(b'"');
                write_json(value, out);
                out.push(b'"');
            }
            Self::Word => write_word(value, out),
        }
    }

    /// Appends the mark of a missing value.
    pub(super) fn write_missing(self, out: &mut Vec<u8>) {
        match self {
            Self::Default | Self::Word => out.push(b'-'),
            Self::Json | Self::None => {}
            Self::JsonValue => out.extend_from_slice(b"null"),
        }
    }
}

fn write_hex(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'\\', b'x', HEX_DIGITS[usize::from(byte >> 4)], HEX_DIGITS[usize::from(byte & 15)]]);
}

fn write_bytes(value: &[u8], out: &mut Vec<u8>, is_plain: impl Fn(u8) -> bool) {
    if value.iter().all(|b| is_plain(*b)) {
        return out.extend_from_slice(value);
    }
    for byte in value {
        if is_plain(*byte) { out.push(*byte) } else { write_hex(*byte, out) }
    }
}

fn write_word(value: &[u8], out: &mut Vec<u8>) {
    let is_graphic = |b: u8| matches!(b, 0x21..=0x7e) && !matches!(b, b'"' | b'\\');
    let Ok(text) = std::str::from_utf8(value) else { return write_bytes(value, out, is_graphic) };
    if value.iter().all(|b| is_graphic(*b)) {
        return out.extend_from_slice(value);
    }
    for c in text.chars() {
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        if c.is_control() || c.is_whitespace() || matches!(c, '"' | '\\') {
            bytes.iter().for_each(|b| write_hex(*b, out));
        } else {
            out.extend_from_slice(bytes);
        }
    }
}

fn write_json(value: &[u8], out: &mut Vec<u8>) {
    if value.iter().all(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\')) {
        return out.extend_from_slice(value);
    }
    // Invalid UTF-8 would make the whole line unreadable to a JSON parser.
    let text: Cow<'_, str> = String::from_utf8_lossy(value);
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            // All control characters are below U+0100.
            control if control.is_control() => {
                let byte = control as usize;
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX_DIGITS[byte >> 4 & 15], HEX_DIGITS[byte & 15]]);
            }
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_escaped_as_by_nginx_except_controls_beyond_ascii() {
        let raw = "a b\"\\\n\x1f\x7fé\u{85}";
        for (escape, expected) in [
            (LogEscape::Default, r"a b\x22\x5C\x0A\x1F\x7F\xC3\xA9\xC2\x85"),
            (LogEscape::Json, "a b\\\"\\\\\\n\\u001F\\u007Fé\\u0085"),
            (LogEscape::None, raw),
            (LogEscape::Word, "a\\x20b\\x22\\x5C\\x0A\\x1F\\x7Fé\\xC2\\x85"),
            (LogEscape::JsonValue, "\"a b\\\"\\\\\\n\\u001F\\u007Fé\\u0085\""),
        ] {
            let mut out = Vec::new();
            escape.write_text(raw.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{escape:?}");
        }
    }

    #[test]
    fn invalid_utf8_still_makes_valid_json() {
        let mut out = Vec::new();
        LogEscape::JsonValue.write_text(b"\xff\x00\"", &mut out);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), "\u{fffd}\0\"");
    }
}
