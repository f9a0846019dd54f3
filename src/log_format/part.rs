//! One part of a format: text or a variable.

use http::HeaderName;

use super::record::RequestRecord;
use super::request_target;
use super::value::{OptionalValue, ValueAvailability, VariableValue, cookie_value, header_value};
use super::variables::{LogVariable, VARIABLES};

/// Prefixes of variables whose names end in the name of a header, an argument or a cookie.
const VARIABLE_PREFIXES: [&str; 5] = ["http_", "sent_http_", "upstream_http_", "arg_", "cookie_"];

pub(super) enum FormatPart {
    Text(String),
    Variable(&'static LogVariable),
    RequestHeader(HeaderName),
    ResponseHeader(HeaderName),
    UpstreamHeader(HeaderName),
    Argument(String),
    Cookie(String),
}

impl FormatPart {
    /// Returns the variable with this name in lower case; `None` if there is none.
    pub(super) fn from_variable(name: &str) -> Option<Self> {
        if let Some(row) = VARIABLES.iter().find(|row| row.name == name) {
            return Some(Self::Variable(row));
        }
        let (prefix, rest) = VARIABLE_PREFIXES.iter().find_map(|prefix| Some((*prefix, name.strip_prefix(prefix)?)))?;
        let header = || rest.replace('_', "-").parse::<HeaderName>().ok();
        match prefix {
            _ if rest.is_empty() => None,
            "http_" => header().map(Self::RequestHeader),
            "sent_http_" => header().map(Self::ResponseHeader),
            "upstream_http_" => header().map(Self::UpstreamHeader),
            "arg_" => Some(Self::Argument(rest.to_owned())),
            _ => Some(Self::Cookie(rest.to_owned())),
        }
    }

    /// Returns the time from which the part has its value.
    pub(super) fn availability(&self) -> ValueAvailability {
        match self {
            Self::Text(_) | Self::RequestHeader(_) | Self::Argument(_) | Self::Cookie(_) => ValueAvailability::AtChoice,
            Self::ResponseHeader(_) | Self::UpstreamHeader(_) => ValueAvailability::AtResponse,
            Self::Variable(row) => row.availability,
        }
    }

    /// Returns a variable's value; `None` for text.
    pub(super) fn read_value<'a>(&self, record: &RequestRecord<'a>) -> OptionalValue<'a> {
        match self {
            Self::Text(_) => None,
            Self::Variable(row) => (row.read)(record),
            Self::RequestHeader(name) => header_value(&record.captured?.request_headers, name),
            Self::ResponseHeader(name) => header_value(&record.captured?.response_headers, name),
            Self::UpstreamHeader(name) => header_value(&record.captured?.upstream_headers, name),
            Self::Argument(name) => request_target::query_argument(record.request_line.uri.query()?, name)
                .map(|value| VariableValue::Text(value.as_bytes().into())),
            Self::Cookie(name) => cookie_value(record.captured?, name),
        }
    }
}

/// Returns the names of the variables that have a value at `availability`. Families end in `_NAME`, as `http_NAME`.
pub fn available_variable_names(availability: ValueAvailability) -> Vec<String> {
    let rows = VARIABLES.iter().filter(|row| row.availability <= availability).map(|row| row.name.to_owned());
    let needs_response = |prefix: &str| matches!(prefix, "sent_http_" | "upstream_http_");
    let families = VARIABLE_PREFIXES
        .iter()
        .filter(|prefix| availability >= ValueAvailability::AtResponse || !needs_response(prefix))
        .map(|prefix| format!("{prefix}NAME"));
    rows.chain(families).collect()
}
