//! One text field of a form (`multipart/form-data`), borrowed from the buffered body.
//!
//! Source: RFC 7578 and RFC 2046, section 5.1.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem::{self, Finder};

use super::{BodyEdit, BodyError};
use crate::http::is_media_type;

/// The longest boundary, by RFC 2046.
const MAX_BOUNDARY_BYTES: usize = 70;

/// The longest header of a part.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// The longest value of the wanted field.
const MAX_VALUE_BYTES: usize = 1024;

/// The most parts of a form.
const MAX_PARTS: usize = 1000;

/// A field's value in a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormField<'a> {
    /// The value.
    pub value: &'a str,
    /// Its position in the body.
    pub range: Range<usize>,
}

/// The place in front of the first part of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormStart {
    offset: usize,
    boundary: String,
}

impl FormStart {
    /// Returns the edit that inserts a text field. Its value is cut before its first line break.
    pub fn insertion(&self, name: &str, value: &str) -> BodyEdit {
        let (boundary, value) = (&self.boundary, first_line(value));
        let part = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        BodyEdit::insert(self.offset, part)
    }
}

/// Returns the place in front of the first part of a form.
///
/// *Errors*: no boundary in the content type, or none in the body.
pub fn find_start(content_type: &str, body: &[u8]) -> Result<FormStart, BodyError> {
    let boundary = parse_boundary(content_type)?.into_owned();
    let opening = format!("--{boundary}");
    let offset = if body.starts_with(opening.as_bytes()) {
        0
    } else {
        memmem::find(body, format!("\r\n{opening}").as_bytes()).ok_or_else(unterminated_error)? + "\r\n".len()
    };
    Ok(FormStart { offset, boundary })
}

fn first_line(text: &str) -> &str {
    text.split(['\r', '\n']).next().unwrap_or_default()
}

impl FormField<'_> {
    /// Returns the edit that replaces this value by `value`, cut before its first line break, which could end the part.
    pub fn replacement(&self, value: &str) -> BodyEdit {
        BodyEdit::replace(self.range.clone(), first_line(value).to_owned())
    }
}

/// Returns the text field `name` of a form; `None` if it has no such field, or only a file of that name.
///
/// *Errors*: no boundary in the content type, a body that does not follow it to the end, more than 1,000 parts, a
/// repeated field, or a value that is longer than 1 KiB or not UTF-8. *Cost*: one search over the body.
pub fn find_field<'a>(
    content_type: &str,
    body: &'a [u8],
    name: &'static str,
) -> Result<Option<FormField<'a>>, BodyError> {
    let boundary = parse_boundary(content_type)?;
    let delimiter = format!("\r\n--{boundary}");
    let delimiter = Finder::new(delimiter.as_bytes());
    // The first delimiter may be at the very start, without a line break before it.
    let opening = delimiter.needle().get(2..).unwrap_or_default();
    let mut at = match body.strip_prefix(opening) {
        Some(rest) => body.len() - rest.len(),
        None => find_delimiter(&delimiter, body, 0).ok_or_else(unterminated_error)?.end,
    };
    let mut found = None;
    for _ in 0..MAX_PARTS {
        let rest = body.get(at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return Ok(found);
        }
        let header =
            find_header(rest).ok_or_else(|| BodyError::invalid_body("the form has a part without a proper header"))?;
        let start = at + header.end;
        let end = find_delimiter(&delimiter, body, start).ok_or_else(unterminated_error)?;
        if is_text_field(rest.get(header).unwrap_or_default(), name) {
            let range = start..end.start;
            let previous = found.replace(FormField { value: decode_value(body, &range, name)?, range });
            if previous.is_some() {
                return Err(BodyError::invalid_member(name, format!("duplicate form field '{name}'")));
            }
        }
        at = end.end;
    }
    Err(BodyError::invalid_body(format!("the form has more than {MAX_PARTS} parts")))
}

/// Returns the next delimiter at or after `from`.
fn find_delimiter(delimiter: &Finder<'_>, body: &[u8], from: usize) -> Option<Range<usize>> {
    let start = from + delimiter.find(body.get(from..)?)?;
    Some(start..start + delimiter.needle().len())
}

/// Returns the header of the part whose delimiter ended before `rest`, empty line included. Its first line break still
/// belongs to the delimiter's line.
fn find_header(rest: &[u8]) -> Option<Range<usize>> {
    let line = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    let lines = rest.get(line..)?.strip_prefix(b"\r\n").and(rest.get(line..))?;
    let end = memmem::find(lines.get(..MAX_HEADER_BYTES.min(lines.len()))?, b"\r\n\r\n")?;
    Some(line..line + end + 4)
}

/// Returns whether a part with this header is the text field `name`.
fn is_text_field(header: &[u8], name: &str) -> bool {
    let Ok(header) = std::str::from_utf8(header) else { return false };
    header.split("\r\n").filter_map(|line| line.split_once(':')).any(|(key, value)| {
        key.trim().eq_ignore_ascii_case("content-disposition")
            && find_parameter(value, "name").is_some_and(|given| given == name)
            && find_parameter(value, "filename").is_none()
            && find_parameter(value, "filename*").is_none()
    })
}

fn decode_value<'a>(body: &'a [u8], range: &Range<usize>, name: &'static str) -> Result<&'a str, BodyError> {
    let value = body.get(range.clone()).filter(|value| value.len() <= MAX_VALUE_BYTES);
    let value = value.ok_or_else(|| BodyError::invalid_member(name, format!("form field '{name}' is too long")))?;
    std::str::from_utf8(value).map_err(|_| BodyError::invalid_member(name, format!("form field '{name}' is not UTF-8")))
}

fn parse_boundary(content_type: &str) -> Result<Cow<'_, str>, BodyError> {
    let boundary = find_parameter(content_type, "boundary").filter(|b| (1..=MAX_BOUNDARY_BYTES).contains(&b.len()));
    boundary
        .filter(|_| is_media_type(content_type.as_bytes(), "multipart/form-data"))
        .ok_or_else(|| BodyError::invalid_body("the content type must be multipart/form-data with a boundary"))
}

/// Returns the parameter `name` of a header's value, after its first `;`, with or without quotes.
fn find_parameter<'h>(header: &'h str, name: &str) -> Option<Cow<'h, str>> {
    let mut rest = header.split_once(';')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        // Parameters without a value before this one are skipped.
        let key = key.rsplit(';').next().unwrap_or_default().trim();
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => parse_quoted(quoted)?,
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

/// Returns the string up to the closing quote, without its backslashes, and the text after it.
fn parse_quoted(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
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

fn unterminated_error() -> BodyError {
    BodyError::invalid_body("the form does not follow the boundary of its content type to the end")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::splice;
    use super::*;

    const CONTENT_TYPE: &str = "multipart/form-data; boundary=XX";
    const FORM: &str = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a;name=model.wav\"\r\n\
        Content-Type: audio/wav\r\n\r\nRIFF\r\n--X\r\nname=\"model\"\r\n--XX\r\n\
        content-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--XX--\r\n";

    fn find_model(content_type: &str, body: &str) -> Result<Option<String>, BodyError> {
        find_field(content_type, body.as_bytes(), "model").map(|found| found.map(|field| field.value.to_owned()))
    }

    fn form_part(header: &str, value: &str) -> String {
        format!("--XX\r\n{header}\r\n\r\n{value}\r\n")
    }

    #[test]
    fn field_is_found_among_files() {
        for content_type in [
            CONTENT_TYPE,
            "multipart/form-data; boundary=\"XX\"",
            "Multipart/Form-Data;charset=utf-8 ; BOUNDARY=XX; x=y",
            "multipart/form-data; x=\"; boundary=no\"; boundary=\"X\\X\"",
        ] {
            assert_eq!(find_model(content_type, FORM).unwrap().as_deref(), Some("whisper"), "{content_type}");
        }
        assert_eq!(
            find_model(CONTENT_TYPE, &format!("preamble\r\n{FORM}epilogue")).unwrap().as_deref(),
            Some("whisper")
        );
        assert_eq!(
            find_model(CONTENT_TYPE, &FORM.replace("\"model\"\r\n\r\n", "model\r\n\r\n")).unwrap().as_deref(),
            Some("whisper")
        );
    }

    #[test]
    fn absent_field_is_none() {
        assert_eq!(find_model(CONTENT_TYPE, "--XX--\r\n").unwrap(), None);
        let named = |name: &str| form_part(&format!("Content-Disposition: form-data; {name}"), "x") + "--XX--";
        for other in ["name=\"models\"", "name=\"Model\"", "x=model", "name=\"model\"; filename=\"a\"", "name"] {
            assert_eq!(find_model(CONTENT_TYPE, &named(other)).unwrap(), None, "{other}");
        }
        assert_eq!(find_model(CONTENT_TYPE, &named("name=model")).unwrap().as_deref(), Some("x"));
        assert_eq!(find_model(CONTENT_TYPE, &(form_part("X: name=model", "x") + "--XX--")).unwrap(), None);
    }

    #[test]
    fn parts_with_empty_values_or_headers_are_accepted() {
        let empty = form_part("Content-Disposition: form-data; name=model", "");
        assert_eq!(find_model(CONTENT_TYPE, &format!("--XX\r\n\r\nx\r\n{empty}--XX--")).unwrap().as_deref(), Some(""));
    }

    #[test]
    fn malformed_forms_are_refused() {
        let twice = form_part("Content-Disposition: form-data; name=model", "a").repeat(2) + "--XX--";
        let long = form_part("Content-Disposition: form-data; name=model", &"a".repeat(MAX_VALUE_BYTES + 1)) + "--XX--";
        for (content_type, body, param) in [
            ("multipart/form-data", FORM, None),
            ("multipart/form-data; boundary=", FORM, None),
            ("multipart/form-data; boundary=\"XX", FORM, None),
            ("application/json; boundary=XX", FORM, None),
            (CONTENT_TYPE, "", None),
            (CONTENT_TYPE, "--XX", None),
            (CONTENT_TYPE, "--XXY\r\n\r\n\r\n--XX--", None),
            (CONTENT_TYPE, "--XX\r\nno end of header\r\n", None),
            (CONTENT_TYPE, &FORM[..FORM.len() - 8], None),
            (CONTENT_TYPE, &twice, Some("model")),
            (CONTENT_TYPE, &long, Some("model")),
            (CONTENT_TYPE, &(form_part("", "x").repeat(MAX_PARTS + 1) + "--XX--"), None),
        ] {
            assert_eq!(find_model(content_type, body).unwrap_err().param, param, "{content_type} {body:.60}");
        }
        let binary = [FORM.split("whisper").next().unwrap().as_bytes(), b"\xff\r\n--XX--"].concat();
        assert!(find_field(CONTENT_TYPE, &binary, "model").unwrap_err().message.contains("not UTF-8"));
    }

    #[test]
    fn value_is_replaced_in_place() {
        let found = find_field(CONTENT_TYPE, FORM.as_bytes(), "model").unwrap().unwrap();
        let pieces = splice(&Bytes::from_static(FORM.as_bytes()), vec![found.replacement("big\r\n--XX--")]).unwrap();
        let joined: Vec<u8> = pieces.into_iter().flatten().collect();
        assert_eq!(String::from_utf8(joined).unwrap(), FORM.replace("whisper", "big"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(
            words in prop::collection::vec(prop::sample::select(vec![
                "--XX", "--", "\r\n", "\r\n\r\n", "XX", "Content-Disposition: form-data; name=model", "x", ";", "=", "\"",
                "\\", "name", "boundary", "multipart/form-data;",
            ]), 0..30),
            content_type in "(multipart/form-data)?;? ?(boundary)?=?\"?[X;\\\\=\"]{0,4}",
        ) {
            let body = words.concat();
            for content_type in [CONTENT_TYPE, &content_type, &body] {
                if let Ok(Some(found)) = find_field(content_type, body.as_bytes(), "model") {
                    prop_assert_eq!(&body[found.range], found.value);
                }
            }
        }
    }
}
