//! A compiled format.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::error::LogFormatError;
use super::escape::LogEscape;
use super::part::FormatPart;
use super::record::RequestRecord;
use super::required_fields::RequiredFields;
use super::value::{ValueAvailability, VariableValue};

/// nginx's predefined format.
const COMBINED_FORMAT: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";
const TEXT_FORMAT: &str = "$time_utc $remote_addr \"$request_method $path\" $status $replica model=$model \
                    prompt=$prompt_tokens completion=$completion_tokens ttft=$ttft time=$request_time $outcome \
                    id=$request_id";
const JSON_FORMAT: &str = "{\"time\":$time_utc,\"id\":$request_id,\"client\":$remote_addr,\"method\":$request_method,\
                    \"path\":$path,\"status\":$status,\"upstream\":$replica,\"model\":$model,\
                    \"prompt_tokens\":$prompt_tokens,\"completion_tokens\":$completion_tokens,\"ttft\":$ttft,\
                    \"duration\":$request_time,\"outcome\":$outcome}";

/// Names of the predefined formats.
pub const BUILT_IN_FORMATS: [&str; 3] = ["text", "json", "combined"];

/// A compiled format of the access log, of a header's value or of a hash key.
#[derive(Clone)]
pub struct LogFormat {
    source: Arc<str>,
    escape: LogEscape,
    parts: Arc<[FormatPart]>,
    required_fields: Arc<RequiredFields>,
}

impl LogFormat {
    /// Compiles the format of a log line.
    ///
    /// *Errors*: a `$` without a name, or the name of no variable.
    pub fn new(text: &str, escape: LogEscape) -> Result<Self, LogFormatError> {
        Self::compile(text, escape, ValueAvailability::AtEnd)
    }

    /// Compiles the value of a header that is set at `availability`. Values of variables are not escaped.
    ///
    /// *Errors*: as [`LogFormat::new`], or a variable has no value by then.
    pub fn for_header(text: &str, availability: ValueAvailability) -> Result<Self, LogFormatError> {
        Self::compile(text, LogEscape::None, availability)
    }

    /// Compiles a hash key, which is rendered before a replica is chosen.
    ///
    /// *Errors*: as [`LogFormat::for_header`].
    pub fn for_hash_key(text: &str) -> Result<Self, LogFormatError> {
        Self::compile(text, LogEscape::None, ValueAvailability::AtChoice)
    }

    fn compile(text: &str, escape: LogEscape, availability: ValueAvailability) -> Result<Self, LogFormatError> {
        let mut parts = Vec::new();
        let mut position = 0;
        while let Some(found) = text.get(position..).and_then(|rest| rest.find('$')) {
            let dollar = position + found;
            if found > 0 {
                parts.push(FormatPart::Text(text[position..dollar].to_owned()));
            }
            let rest = &text[dollar + 1..];
            let braced = rest.starts_with('{');
            let name: &str = &rest[usize::from(braced)..];
            let name = &name[..name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len())];
            position = dollar + 1 + usize::from(braced) + name.len();
            if braced && !text[position..].starts_with('}') {
                return Err(LogFormatError::UnclosedBrace { span: dollar..position });
            }
            position += usize::from(braced);
            let (name, span) = (name.to_owned(), dollar..position);
            if name.is_empty() {
                return Err(LogFormatError::MissingName { span });
            }
            let Some(part) = FormatPart::from_variable(&name.to_ascii_lowercase()) else {
                return Err(LogFormatError::UnknownVariable { name, span });
            };
            if part.availability() > availability {
                return Err(LogFormatError::NotYetAvailable { name, availability, span });
            }
            parts.push(part);
        }
        parts
            .extend(text.get(position..).filter(|rest| !rest.is_empty()).map(|rest| FormatPart::Text(rest.to_owned())));
        let required_fields = Arc::new(RequiredFields::of_parts(&parts));
        Ok(Self { source: text.into(), escape, parts: parts.into(), required_fields })
    }

    /// Returns the predefined format of this name, one of [`BUILT_IN_FORMATS`].
    pub fn built_in(name: &str) -> Option<Self> {
        let (text, escape) = match name {
            "text" => (TEXT_FORMAT, LogEscape::Word),
            "json" => (JSON_FORMAT, LogEscape::JsonValue),
            "combined" => (COMBINED_FORMAT, LogEscape::Default),
            _ => return None,
        };
        Self::new(text, escape).ok()
    }

    /// Returns the text that it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns whether it has no variable.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, FormatPart::Text(_)))
    }

    /// Returns the fields of a request that its variables need.
    pub fn required_fields(&self) -> &RequiredFields {
        &self.required_fields
    }

    /// Appends one line with its newline.
    pub fn write_line(&self, record: &RequestRecord<'_>, out: &mut Vec<u8>) {
        self.render(record, out);
        out.push(b'\n');
    }

    /// Appends the text without a newline.
    pub fn render(&self, record: &RequestRecord<'_>, out: &mut Vec<u8>) {
        for part in &*self.parts {
            match part {
                FormatPart::Text(text) => out.extend_from_slice(text.as_bytes()),
                variable => match variable.read_value(record) {
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
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for LogFormat {}

impl PartialOrd for LogFormat {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LogFormat {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.source, self.escape).cmp(&(&other.source, other.escape))
    }
}

impl fmt::Debug for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogFormat({:?}, {:?})", self.source, self.escape)
    }
}

fn write_formatted(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    use std::io::Write as _;
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(text);
}
