//! nginx's `log_format` language: text with variables, taken apart once.

pub(super) mod escape;
pub(super) mod record;
pub(super) mod request_target;
pub(super) mod required_fields;
pub(super) mod time;
pub(super) mod time_zone;
pub(super) mod variables;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use http::HeaderName;
use thiserror::Error;

use escape::LogEscape;
use record::RequestRecord;
use required_fields::RequiredFields;

use variables::{LogVariable, OptionalValue, VARIABLES, ValueAvailability, VariableValue, cookie_value, header_value};

/// nginx's own format, always there.
const COMBINED_FORMAT: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";
const TEXT_FORMAT: &str = "$time_utc $remote_addr \"$request_method $path\" $status $replica model=$model \
                    prompt=$prompt_tokens completion=$completion_tokens ttft=$ttft time=$request_time $outcome \
                    id=$request_id";
const JSON_FORMAT: &str = "{\"time\":$time_utc,\"id\":$request_id,\"client\":$remote_addr,\"method\":$request_method,\
                    \"path\":$path,\"status\":$status,\"upstream\":$replica,\"model\":$model,\
                    \"prompt_tokens\":$prompt_tokens,\"completion_tokens\":$completion_tokens,\"ttft\":$ttft,\
                    \"duration\":$request_time,\"outcome\":$outcome}";

/// The formats that need no definition.
pub const BUILT_IN_FORMATS: [&str; 3] = ["text", "json", "combined"];
/// The beginnings of variables that go on with a name of the user's.
const VARIABLE_PREFIXES: [&str; 5] = ["http_", "sent_http_", "upstream_http_", "arg_", "cookie_"];

/// How a line of the access log is written.
#[derive(Clone)]
pub struct LogFormat {
    source: Arc<str>,
    escape: LogEscape,
    parts: Arc<[FormatPart]>,
    required_fields: Arc<RequiredFields>,
}

/// Why a text is no format, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LogFormatError {
    /// There is no such variable.
    #[error("unknown variable `${name}`")]
    UnknownVariable {
        /// The name.
        name: String,
        /// Where it stands, its `$` included.
        span: Range<usize>,
    },
    /// The variable has no value yet when it is asked for.
    #[error("`${name}` is not known yet {}", availability_text(*.availability))]
    NotYetAvailable {
        /// The name.
        name: String,
        /// When it is asked for.
        availability: ValueAvailability,
        /// Where it stands, its `$` included.
        span: Range<usize>,
    },
    /// A `$` without a name.
    #[error("a `$` needs the name of a variable")]
    MissingName {
        /// Where it stands.
        span: Range<usize>,
    },
    /// A `${` without its `}`.
    #[error("the closing bracket of `${{` is missing")]
    UnclosedBrace {
        /// Where it stands.
        span: Range<usize>,
    },
}

pub(crate) enum FormatPart {
    Text(String),
    Variable(&'static LogVariable),
    RequestHeader(HeaderName),
    ResponseHeader(HeaderName),
    UpstreamHeader(HeaderName),
    Argument(String),
    Cookie(String),
}

impl LogFormat {
    /// Takes a format apart.
    ///
    /// *Errors*: it names a variable that does not exist, or none.
    pub fn new(text: &str, escape: LogEscape) -> Result<Self, LogFormatError> {
        Self::compile(text, escape, ValueAvailability::AtEnd)
    }

    /// Takes the value of a header apart, in which variables stand for themselves.
    ///
    /// *Errors*: as [`LogFormat::new`], or a variable has no value by then.
    pub fn for_header(text: &str, known: ValueAvailability) -> Result<Self, LogFormatError> {
        Self::compile(text, LogEscape::None, known)
    }

    fn compile(text: &str, escape: LogEscape, known: ValueAvailability) -> Result<Self, LogFormatError> {
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| rest.find('$')) {
            let dollar = at + found;
            if found > 0 {
                parts.push(FormatPart::Text(text[at..dollar].to_owned()));
            }
            let rest = &text[dollar + 1..];
            let braced = rest.starts_with('{');
            let name: &str = &rest[usize::from(braced)..];
            let name = &name[..name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len())];
            at = dollar + 1 + usize::from(braced) + name.len();
            if braced && !text[at..].starts_with('}') {
                return Err(LogFormatError::UnclosedBrace { span: dollar..at });
            }
            at += usize::from(braced);
            if name.is_empty() {
                return Err(LogFormatError::MissingName { span: dollar..at });
            }
            let unknown = || LogFormatError::UnknownVariable { name: name.to_owned(), span: dollar..at };
            let part = parse_variable(&name.to_ascii_lowercase()).ok_or_else(unknown)?;
            if part.availability() > known {
                return Err(LogFormatError::NotYetAvailable {
                    name: name.to_owned(),
                    availability: known,
                    span: dollar..at,
                });
            }
            parts.push(part);
        }
        parts.extend(text.get(at..).filter(|rest| !rest.is_empty()).map(|rest| FormatPart::Text(rest.to_owned())));
        let needs = Arc::new(RequiredFields::from_parts(&parts));
        Ok(Self { source: text.into(), escape, parts: parts.into(), required_fields: needs })
    }

    /// One of [`BUILT_IN_FORMATS`].
    pub fn built_in(name: &str) -> Option<Self> {
        let (text, escape) = match name {
            "text" => (TEXT_FORMAT, LogEscape::Word),
            "json" => (JSON_FORMAT, LogEscape::JsonValue),
            "combined" => (COMBINED_FORMAT, LogEscape::Default),
            _ => return None,
        };
        Self::new(text, escape).ok()
    }

    /// The text it was made from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Tells whether it is nothing but text.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, FormatPart::Text(_)))
    }

    /// What the formats' variables need to be kept.
    pub fn required_fields(&self) -> &RequiredFields {
        &self.required_fields
    }

    /// Writes one line, its newline included.
    pub fn write_line(&self, facts: &RequestRecord<'_>, out: &mut Vec<u8>) {
        self.render(facts, out);
        out.push(b'\n');
    }

    /// Writes one value, without a newline.
    pub fn render(&self, facts: &RequestRecord<'_>, out: &mut Vec<u8>) {
        for part in &*self.parts {
            match part {
                FormatPart::Text(text) => out.extend_from_slice(text.as_bytes()),
                variable => match variable.read_value(facts) {
                    None => self.escape.write_missing(out),
                    Some(VariableValue::Text(text)) => self.escape.write_text(&text, out),
                    Some(VariableValue::Number(number)) => write_formatted(out, format_args!("{number}")),
                    Some(VariableValue::Time(time)) if self.escape == LogEscape::JsonValue => {
                        write_formatted(out, format_args!("{}", time.as_secs_f64()));
                    }
                    Some(VariableValue::Time(time)) => {
                        write_formatted(out, format_args!("{}.{:03}", time.as_secs(), time.subsec_millis()));
                    }
                },
            }
        }
    }
}

impl Default for LogFormat {
    fn default() -> Self {
        Self::new(TEXT_FORMAT, LogEscape::Word).expect("a test compiles it")
    }
}

impl PartialEq for LogFormat {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.escape == other.escape
    }
}

impl Eq for LogFormat {}

impl fmt::Debug for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Format({:?}, {:?})", self.source, self.escape)
    }
}

impl FormatPart {
    fn availability(&self) -> ValueAvailability {
        match self {
            Self::Text(_) | Self::RequestHeader(_) | Self::Argument(_) | Self::Cookie(_) => {
                ValueAvailability::AtRequest
            }
            Self::ResponseHeader(_) | Self::UpstreamHeader(_) => ValueAvailability::AtResponse,
            Self::Variable(row) => row.availability,
        }
    }

    fn read_value<'a>(&self, facts: &RequestRecord<'a>) -> OptionalValue<'a> {
        match self {
            Self::Text(_) => None,
            Self::Variable(row) => (row.read)(facts),
            Self::RequestHeader(name) => header_value(&facts.captured?.request_headers, name),
            Self::ResponseHeader(name) => header_value(&facts.captured?.response_headers, name),
            Self::UpstreamHeader(name) => header_value(&facts.captured?.upstream_headers, name),
            Self::Argument(name) => request_target::query_argument(facts.request_line.uri.query()?, name)
                .map(|value| VariableValue::Text(value.as_bytes().into())),
            Self::Cookie(name) => cookie_value(facts.captured?, name),
        }
    }
}

/// Every variable's name; those that go on with a name of the user's end in `_NAME`.
pub fn variable_names() -> Vec<String> {
    available_variable_names(ValueAvailability::AtEnd)
}

/// The variables that have a value by then, in the manner of [`variable_names`].
pub fn available_variable_names(known: ValueAvailability) -> Vec<String> {
    let rows = VARIABLES.iter().filter(|row| row.availability <= known).map(|row| row.name.to_owned());
    let late =
        |family: &str| matches!(family, "sent_http_" | "upstream_http_") && known < ValueAvailability::AtResponse;
    rows.chain(VARIABLE_PREFIXES.iter().filter(|family| !late(family)).map(|family| format!("{family}NAME"))).collect()
}

const fn availability_text(known: ValueAvailability) -> &'static str {
    match known {
        ValueAvailability::AtRequest => "when a request goes to a replica",
        ValueAvailability::AtResponse => "when an answer begins",
        ValueAvailability::AtEnd => "at the end",
    }
}

fn parse_variable(name: &str) -> Option<FormatPart> {
    if let Some(row) = VARIABLES.iter().find(|row| row.name == name) {
        return Some(FormatPart::Variable(row));
    }
    let (family, rest) = VARIABLE_PREFIXES.iter().find_map(|family| Some((*family, name.strip_prefix(family)?)))?;
    let named = || rest.replace('_', "-").parse::<HeaderName>().ok();
    match family {
        _ if rest.is_empty() => None,
        "http_" => named().map(FormatPart::RequestHeader),
        "sent_http_" => named().map(FormatPart::ResponseHeader),
        "upstream_http_" => named().map(FormatPart::UpstreamHeader),
        "arg_" => Some(FormatPart::Argument(rest.to_owned())),
        _ => Some(FormatPart::Cookie(rest.to_owned())),
    }
}

fn write_formatted(out: &mut Vec<u8>, what: fmt::Arguments<'_>) {
    use std::io::Write as _;
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests;
