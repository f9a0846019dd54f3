//! The format of a response body by its first bytes, for servers that label it wrongly.

use super::observer::BodyFormat;

/// The names of the fields of an event, with their colon.
const FIELDS: [&[u8]; 4] = [b"data:", b"event:", b"retry:", b"id:"];
/// The length of the longest of them.
const MAX_FIELD_BYTES: usize = 6;
const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Finds out the format of a body that arrives in chunks.
///
/// *Cost*: the first seven bytes after white space are read; none after the format is known.
#[derive(Debug, Default)]
pub struct FormatSniffer {
    /// The first bytes after white space.
    start: [u8; MAX_FIELD_BYTES],
    length: usize,
}

/// What the first bytes of a body say about its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SniffedFormat {
    /// There are too few bytes to say.
    Undecided,
    /// The body begins as this format does.
    Known(BodyFormat),
    /// It begins like neither a stream nor a JSON object or array.
    Unknown,
}

impl FormatSniffer {
    /// Reads the next chunk and returns what the body has shown so far.
    ///
    /// No JSON begins as an event does: a field's name would be a string in quotes.
    pub fn sniff(&mut self, chunk: &[u8]) -> SniffedFormat {
        for &byte in chunk {
            if self.length == 0 && (byte.is_ascii_whitespace() || BOM.contains(&byte)) {
                continue;
            }
            let Some(free) = self.start.get_mut(self.length) else { break };
            *free = byte;
            self.length += 1;
        }
        let start = self.start.get(..self.length).unwrap_or_default();
        match start {
            [] => SniffedFormat::Undecided,
            [b'{' | b'[', ..] => SniffedFormat::Known(BodyFormat::Json),
            [b':', ..] => SniffedFormat::Known(BodyFormat::Stream),
            _ if FIELDS.iter().any(|field| start.starts_with(field)) => SniffedFormat::Known(BodyFormat::Stream),
            _ if FIELDS.iter().any(|field| field.starts_with(start)) => SniffedFormat::Undecided,
            _ => SniffedFormat::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_known_from_the_first_bytes_at_any_cut() {
        let (stream, json) = (SniffedFormat::Known(BodyFormat::Stream), SniffedFormat::Known(BodyFormat::Json));
        for (body, wanted) in [
            ("data: {\"a\":1}\n\n", stream),
            ("event: ping\n", stream),
            ("\u{feff}\r\n data:x", stream),
            (": waiting\n\n", stream),
            ("id:1\n", stream),
            ("retry: 5\n", stream),
            ("\n\n  {\"data\": 1}", json),
            ("[1]", json),
            ("database", SniffedFormat::Unknown),
            ("Internal Server Error", SniffedFormat::Unknown),
            ("i", SniffedFormat::Undecided),
            (" \n", SniffedFormat::Undecided),
            ("", SniffedFormat::Undecided),
        ] {
            for size in 1..=body.len().max(1) {
                let mut sniffer = FormatSniffer::default();
                let last = body.as_bytes().chunks(size).map(|chunk| sniffer.sniff(chunk)).last();
                assert_eq!(last.unwrap_or(SniffedFormat::Undecided), wanted, "{body:?} in chunks of {size}");
            }
        }
    }
}
