//! One text field of a form (`multipart/form-data`), found in the gathered body and borrowed from it.
//!
//! Source: RFC 7578 and RFC 2046, section 5.1.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem::{self, Finder};

use super::{BadBody, Edit};

/// The longest boundary, by RFC 2046.
const BOUNDARY_BYTES: usize = 70;

/// The longest header of a part.
const HEADER_BYTES: usize = 8 * 1024;

/// The longest value of the field looked for.
const VALUE_BYTES: usize = 1024;

/// The most parts a form may have.
const PARTS: usize = 1000;

/// A field's value in a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The value.
    pub value: &'a str,
    /// Where it lies in the body.
    pub range: Range<usize>,
}

impl Field<'_> {
    /// The edit that puts `value` in this value's place. A line break in it could end the part: such a value is cut
    /// before it.
    pub fn replace(&self, value: &str) -> Edit {
        let line = value.split(['\r', '\n']).next().unwrap_or_default();
        Edit::replace(self.range.clone(), line.to_owned())
    }
}

/// Finds the text field `name` in a form; `None` if it has no such field, or only a file of that name.
///
/// *Errors*: no boundary in the content type, a body that does not follow it to the end, more than 1,000 parts, the
/// field twice, or a value that is longer than 1 KiB or no UTF-8. *Cost*: one search over the body.
pub fn field<'a>(content_type: &str, body: &'a [u8], name: &'static str) -> Result<Option<Field<'a>>, BadBody> {
    let boundary = boundary(content_type)?;
    let delimiter = format!("\r\n--{boundary}");
    let delimiter = Finder::new(delimiter.as_bytes());
    // The first delimiter may stand at the very start, without a line break before it.
    let opening = delimiter.needle().get(2..).unwrap_or_default();
    let mut at = match body.strip_prefix(opening) {
        Some(rest) => body.len() - rest.len(),
        None => after(&delimiter, body, 0).ok_or_else(unfinished)?.end,
    };
    let mut found = None;
    for _ in 0..PARTS {
        let rest = body.get(at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return Ok(found);
        }
        let header = header(rest).ok_or_else(|| BadBody::whole("the form has a part without a proper header"))?;
        let start = at + header.end;
        let end = after(&delimiter, body, start).ok_or_else(unfinished)?;
        if is_field(rest.get(header).unwrap_or_default(), name) {
            let range = start..end.start;
            let twice = found.replace(Field { value: text(body, &range, name)?, range });
            if twice.is_some() {
                return Err(BadBody::member(name, format!("duplicate form field '{name}'")));
            }
        }
        at = end.end;
    }
    Err(BadBody::whole(format!("the form has more than {PARTS} parts")))
}

/// The next delimiter at or after `from`.
fn after(delimiter: &Finder<'_>, body: &[u8], from: usize) -> Option<Range<usize>> {
    let start = from + delimiter.find(body.get(from..)?)?;
    Some(start..start + delimiter.needle().len())
}

/// The header of the part whose delimiter ended before `rest`, empty line included; its first line break is the rest of
/// the delimiter's line.
fn header(rest: &[u8]) -> Option<Range<usize>> {
    let line = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    let lines = rest.get(line..)?.strip_prefix(b"\r\n").and(rest.get(line..))?;
    let end = memmem::find(lines.get(..HEADER_BYTES.min(lines.len()))?, b"\r\n\r\n")?;
    Some(line..line + end + 4)
}

/// Whether a part with this header is the text field `name`.
fn is_field(header: &[u8], name: &str) -> bool {
    let Ok(header) = std::str::from_utf8(header) else { return false };
    header.split("\r\n").filter_map(|line| line.split_once(':')).any(|(key, value)| {
        key.trim().eq_ignore_ascii_case("content-disposition")
            && parameter(value, "name").is_some_and(|given| given == name)
            && parameter(value, "filename").is_none()
            && parameter(value, "filename*").is_none()
    })
}

fn text<'a>(body: &'a [u8], range: &Range<usize>, name: &'static str) -> Result<&'a str, BadBody> {
    let value = body.get(range.clone()).filter(|value| value.len() <= VALUE_BYTES);
    let value = value.ok_or_else(|| BadBody::member(name, format!("form field '{name}' is too long")))?;
    std::str::from_utf8(value).map_err(|_| BadBody::member(name, format!("form field '{name}' is not UTF-8")))
}

fn boundary(content_type: &str) -> Result<Cow<'_, str>, BadBody> {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let boundary = parameter(content_type, "boundary").filter(|b| (1..=BOUNDARY_BYTES).contains(&b.len()));
    boundary
        .filter(|_| media.eq_ignore_ascii_case("multipart/form-data"))
        .ok_or_else(|| BadBody::whole("the content type must be multipart/form-data with a boundary"))
}

/// The parameter `name` of a header's value, after its first `;`, with or without quotes.
fn parameter<'h>(header: &'h str, name: &str) -> Option<Cow<'h, str>> {
    let mut rest = header.split_once(';')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        // Parameters without a value before this one.
        let key = key.rsplit(';').next().unwrap_or_default().trim();
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, after) = after.split_once(';').unwrap_or((after, ""));
                (Cow::Borrowed(value.trim()), after)
            }
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = after;
    }
}

/// The string up to the closing quote, its backslashes taken away, and what follows it.
fn unquoted(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(value), chars.as_str())),
            '\\' => value.extend(chars.next()),
            _ => value.push(c),
        }
    }
    None
}

fn unfinished() -> BadBody {
    BadBody::whole("the form does not follow the boundary of its content type to the end")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::prompt::splice;

    const TYPE: &str = "multipart/form-data; boundary=XX";
    const FORM: &str = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a;name=model.wav\"\r\n\
        Content-Type: audio/wav\r\n\r\nRIFF\r\n--X\r\nname=\"model\"\r\n--XX\r\n\
        content-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--XX--\r\n";

    fn model(content_type: &str, body: &str) -> Result<Option<String>, BadBody> {
        field(content_type, body.as_bytes(), "model").map(|found| found.map(|field| field.value.to_owned()))
    }

    fn part(header: &str, value: &str) -> String {
        format!("--XX\r\n{header}\r\n\r\n{value}\r\n")
    }

    #[test]
    fn field_is_found_among_files() {
        for content_type in [
            TYPE,
            "multipart/form-data; boundary=\"XX\"",
            "Multipart/Form-Data;charset=utf-8 ; BOUNDARY=XX; x=y",
            "multipart/form-data; x=\"; boundary=no\"; boundary=\"X\\X\"",
        ] {
            assert_eq!(model(content_type, FORM).unwrap().as_deref(), Some("whisper"), "{content_type}");
        }
        assert_eq!(model(TYPE, &format!("preamble\r\n{FORM}epilogue")).unwrap().as_deref(), Some("whisper"));
        assert_eq!(
            model(TYPE, &FORM.replace("\"model\"\r\n\r\n", "model\r\n\r\n")).unwrap().as_deref(),
            Some("whisper")
        );
    }

    #[test]
    fn absent_field_is_none() {
        assert_eq!(model(TYPE, "--XX--\r\n").unwrap(), None);
        let named = |name: &str| part(&format!("Content-Disposition: form-data; {name}"), "x") + "--XX--";
        for other in ["name=\"models\"", "name=\"Model\"", "x=model", "name=\"model\"; filename=\"a\"", "name"] {
            assert_eq!(model(TYPE, &named(other)).unwrap(), None, "{other}");
        }
        assert_eq!(model(TYPE, &named("name=model")).unwrap().as_deref(), Some("x"));
        assert_eq!(model(TYPE, &(part("X: name=model", "x") + "--XX--")).unwrap(), None);
    }

    #[test]
    fn empty_values_and_empty_headers_are_parts_too() {
        let empty = part("Content-Disposition: form-data; name=model", "");
        assert_eq!(model(TYPE, &format!("--XX\r\n\r\nx\r\n{empty}--XX--")).unwrap().as_deref(), Some(""));
    }

    #[test]
    fn improper_forms_are_refused() {
        let twice = part("Content-Disposition: form-data; name=model", "a").repeat(2) + "--XX--";
        let long = part("Content-Disposition: form-data; name=model", &"a".repeat(VALUE_BYTES + 1)) + "--XX--";
        for (content_type, body, param) in [
            ("multipart/form-data", FORM, None),
            ("multipart/form-data; boundary=", FORM, None),
            ("multipart/form-data; boundary=\"XX", FORM, None),
            ("application/json; boundary=XX", FORM, None),
            (TYPE, "", None),
            (TYPE, "--XX", None),
            (TYPE, "--XXY\r\n\r\n\r\n--XX--", None),
            (TYPE, "--XX\r\nno end of header\r\n", None),
            (TYPE, &FORM[..FORM.len() - 8], None),
            (TYPE, &twice, Some("model")),
            (TYPE, &long, Some("model")),
            (TYPE, &(part("", "x").repeat(PARTS + 1) + "--XX--"), None),
        ] {
            assert_eq!(model(content_type, body).unwrap_err().param, param, "{content_type} {body:.60}");
        }
        let binary = [FORM.split("whisper").next().unwrap().as_bytes(), b"\xff\r\n--XX--"].concat();
        assert!(field(TYPE, &binary, "model").unwrap_err().message.contains("not UTF-8"));
    }

    #[test]
    fn value_is_replaced_in_place() {
        let found = field(TYPE, FORM.as_bytes(), "model").unwrap().unwrap();
        let pieces = splice(&Bytes::from_static(FORM.as_bytes()), vec![found.replace("big\r\n--XX--")]).unwrap();
        let joined: Vec<u8> = pieces.into_iter().flatten().collect();
        assert_eq!(String::from_utf8(joined).unwrap(), FORM.replace("whisper", "big"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            words in prop::collection::vec(prop::sample::select(vec![
                "--XX", "--", "\r\n", "\r\n\r\n", "XX", "Content-Disposition: form-data; name=model", "x", ";", "=", "\"",
                "\\", "name", "boundary", "multipart/form-data;",
            ]), 0..30),
            content_type in "(multipart/form-data)?;? ?(boundary)?=?\"?[X;\\\\=\"]{0,4}",
        ) {
            let body = words.concat();
            for content_type in [TYPE, &content_type, &body] {
                if let Ok(Some(found)) = field(content_type, body.as_bytes(), "model") {
                    prop_assert_eq!(&body[found.range], found.value);
                }
            }
        }
    }
}
