//! Tables of headers: `request_headers` and `response_headers`.

use http::{HeaderName, HeaderValue};

use super::log::diagnose_format;
use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::log_format::LogFormat;
use crate::log_format::ValueAvailability;
use crate::routes::{HeaderRule, HeaderTemplate};

pub(in crate::config) const EXPECTED_HEADERS: &str = "a table of headers such as { X-Real-IP = \"$remote_addr\" }";

const FRAMING_REASON: &str = "the router sets a message's length and framing";
const HOP_BY_HOP_REASON: &str = "it is a hop-by-hop header";
/// Headers that cannot be set, and the reason.
const FORBIDDEN_HEADERS: [(&str, &str); 12] = [
    ("connection", HOP_BY_HOP_REASON),
    ("content-length", FRAMING_REASON),
    ("expect", HOP_BY_HOP_REASON),
    ("http2-settings", HOP_BY_HOP_REASON),
    ("keep-alive", HOP_BY_HOP_REASON),
    ("proxy-authenticate", HOP_BY_HOP_REASON),
    ("proxy-authorization", HOP_BY_HOP_REASON),
    ("proxy-connection", HOP_BY_HOP_REASON),
    ("te", HOP_BY_HOP_REASON),
    ("trailer", FRAMING_REASON),
    ("transfer-encoding", FRAMING_REASON),
    ("upgrade", HOP_BY_HOP_REASON),
];

/// Returns why a header cannot be set; `None` if it can.
pub(crate) fn forbidden_reason(name: &str) -> Option<&'static str> {
    FORBIDDEN_HEADERS.iter().find(|(forbidden, _)| name.eq_ignore_ascii_case(forbidden)).map(|(_, reason)| *reason)
}

/// Returns whether a text has characters that no header can hold.
pub(crate) fn has_control_chars(text: &str) -> bool {
    text.bytes().any(|b| b == 0x7f || b < b' ' && b != b'\t')
}

/// Reads a table of headers whose variables must be available at `availability`.
pub(in crate::config) fn parse_header_rules(
    value: &TomlValue<'_>,
    availability: ValueAvailability,
) -> ReadResult<Vec<HeaderRule>> {
    let mut errors = Vec::new();
    let mut rules: Vec<HeaderRule> = Vec::new();
    for entry in value.entries()? {
        let values = entry.to_value("text such as \"$host\", or a list of such texts");
        let templates = values.map_list(|item| parse_header_template(item, availability));
        match (parse_header_name(&entry.key, &rules), templates) {
            (Ok(name), Ok(values)) if !values.is_empty() => rules.push(HeaderRule { name, values }),
            (Ok(_), Ok(_)) => errors.extend(values.invalid()),
            (name, templates) => {
                errors.extend(name.err());
                errors.extend(templates.err().unwrap_or_default());
            }
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

fn parse_header_name(key: &SpannedValue<&str>, rules: &[HeaderRule]) -> Result<HeaderName, Diagnostic> {
    let SpannedValue { value: text, span } = key;
    let Ok(name) = text.parse::<HeaderName>() else {
        let diagnostic = span.diagnostic(format!("`{text}` is not a header name"));
        return Err(diagnostic.with_help("for example X-Real-IP = \"$remote_addr\""));
    };
    if let Some(reason) = forbidden_reason(name.as_str()) {
        return Err(span.diagnostic(format!("`{text}` cannot be set: {reason}")).with_help("remove it"));
    }
    if rules.iter().any(|rule| rule.name == name) {
        let diagnostic = span.diagnostic(format!("the header `{text}` is set twice"));
        return Err(diagnostic.with_help("write a list for a header with several lines: [\"a\", \"b\"]"));
    }
    Ok(name)
}

fn parse_header_template(value: &TomlValue<'_>, availability: ValueAvailability) -> ReadResult<HeaderTemplate> {
    let text = value.string()?;
    if text.is_empty() {
        return Ok(HeaderTemplate::Empty);
    }
    if has_control_chars(&text) {
        let diagnostic = value.diagnostic(format!("the value of `{}` has control characters", value.key));
        return Err(diagnostic.without_excerpt().with_help("headers cannot hold them").into());
    }
    let format = LogFormat::for_header(&text, availability)
        .map_err(|error| diagnose_format(value, &text, &error, availability))?;
    Ok(match HeaderValue::from_bytes(text.as_bytes()) {
        Ok(constant) if format.is_constant() => HeaderTemplate::Constant(constant),
        _ => HeaderTemplate::Format(format),
    })
}
