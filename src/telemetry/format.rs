//! nginx's `log_format` language: text with variables, taken apart once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use http::HeaderName;
use thiserror::Error;

use super::escape::Escape;
use super::facts::Facts;
use super::needs::Needs;
use super::target;
use super::variables::{Datum, Known, ROWS, Row, Value, cookie, joined};

/// nginx's own format, always there.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";
const TEXT: &str = "$time_utc $remote_addr \"$request_method $path\" $status $replica model=$model \
                    prompt=$prompt_tokens completion=$completion_tokens ttft=$ttft time=$request_time $outcome \
                    id=$request_id";
const JSON: &str = "{\"time\":$time_utc,\"id\":$request_id,\"client\":$remote_addr,\"method\":$request_method,\
                    \"path\":$path,\"status\":$status,\"upstream\":$replica,\"model\":$model,\
                    \"prompt_tokens\":$prompt_tokens,\"completion_tokens\":$completion_tokens,\"ttft\":$ttft,\
                    \"duration\":$request_time,\"outcome\":$outcome}";

/// The formats that need no definition.
pub const BUILT_IN: [&str; 3] = ["text", "json", "combined"];
/// The beginnings of variables that go on with a name of the user's.
const FAMILIES: [&str; 5] = ["http_", "sent_http_", "upstream_http_", "arg_", "cookie_"];

/// How a line of the access log is written.
#[derive(Clone)]
pub struct Format {
    source: Arc<str>,
    escape: Escape,
    parts: Arc<[Part]>,
    needs: Arc<Needs>,
}

/// Why a text is no format, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadFormat {
    /// There is no such variable.
    #[error("unknown variable `${name}`")]
    Unknown {
        /// The name.
        name: String,
        /// Where it stands, its `$` included.
        at: Range<usize>,
    },
    /// The variable has no value yet when it is asked for.
    #[error("`${name}` is not known yet {}", moment(*.known))]
    Early {
        /// The name.
        name: String,
        /// When it is asked for.
        known: Known,
        /// Where it stands, its `$` included.
        at: Range<usize>,
    },
    /// A `$` without a name.
    #[error("a `$` needs the name of a variable")]
    Bare {
        /// Where it stands.
        at: Range<usize>,
    },
    /// A `${` without its `}`.
    #[error("the closing bracket of `${{` is missing")]
    Unclosed {
        /// Where it stands.
        at: Range<usize>,
    },
}

pub(super) enum Part {
    Text(String),
    Plain(&'static Row),
    Asked(HeaderName),
    Sent(HeaderName),
    Upstream(HeaderName),
    Argument(String),
    Cookie(String),
}

impl Format {
    /// Takes a format apart.
    ///
    /// *Errors*: it names a variable that does not exist, or none.
    pub fn new(text: &str, escape: Escape) -> Result<Self, BadFormat> {
        Self::of(text, escape, Known::Ended)
    }

    /// Takes the value of a header apart, in which variables stand for themselves.
    ///
    /// *Errors*: as [`Format::new`], or a variable has no value by then.
    pub fn header(text: &str, known: Known) -> Result<Self, BadFormat> {
        Self::of(text, Escape::None, known)
    }

    fn of(text: &str, escape: Escape, known: Known) -> Result<Self, BadFormat> {
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| rest.find('$')) {
            let dollar = at + found;
            if found > 0 {
                parts.push(Part::Text(text[at..dollar].to_owned()));
            }
            let rest = &text[dollar + 1..];
            let braced = rest.starts_with('{');
            let name: &str = &rest[usize::from(braced)..];
            let name = &name[..name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len())];
            at = dollar + 1 + usize::from(braced) + name.len();
            if braced && !text[at..].starts_with('}') {
                return Err(BadFormat::Unclosed { at: dollar..at });
            }
            at += usize::from(braced);
            if name.is_empty() {
                return Err(BadFormat::Bare { at: dollar..at });
            }
            let unknown = || BadFormat::Unknown { name: name.to_owned(), at: dollar..at };
            let part = part(&name.to_ascii_lowercase()).ok_or_else(unknown)?;
            if part.known() > known {
                return Err(BadFormat::Early { name: name.to_owned(), known, at: dollar..at });
            }
            parts.push(part);
        }
        parts.extend(text.get(at..).filter(|rest| !rest.is_empty()).map(|rest| Part::Text(rest.to_owned())));
        let needs = Arc::new(Needs::of(&parts));
        Ok(Self { source: text.into(), escape, parts: parts.into(), needs })
    }

    /// One of [`BUILT_IN`].
    pub fn built_in(name: &str) -> Option<Self> {
        let (text, escape) = match name {
            "text" => (TEXT, Escape::Word),
            "json" => (JSON, Escape::JsonValue),
            "combined" => (COMBINED, Escape::Default),
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
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// What the formats' variables need to be kept.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Writes one line, its newline included.
    pub fn write(&self, facts: &Facts<'_>, out: &mut Vec<u8>) {
        self.put(facts, out);
        out.push(b'\n');
    }

    /// Writes one value, without a newline.
    pub fn put(&self, facts: &Facts<'_>, out: &mut Vec<u8>) {
        for part in &*self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                variable => match variable.read(facts) {
                    None => self.escape.missing(out),
                    Some(Datum::Text(text)) => self.escape.text(&text, out),
                    Some(Datum::Number(number)) => put(out, format_args!("{number}")),
                    Some(Datum::Time(time)) if self.escape == Escape::JsonValue => {
                        put(out, format_args!("{}", time.as_secs_f64()));
                    }
                    Some(Datum::Time(time)) => put(out, format_args!("{}.{:03}", time.as_secs(), time.subsec_millis())),
                },
            }
        }
    }
}

impl Default for Format {
    fn default() -> Self {
        Self::new(TEXT, Escape::Word).expect("a test compiles it")
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.escape == other.escape
    }
}

impl Eq for Format {}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Format({:?}, {:?})", self.source, self.escape)
    }
}

impl Part {
    fn known(&self) -> Known {
        match self {
            Self::Text(_) | Self::Asked(_) | Self::Argument(_) | Self::Cookie(_) => Known::Asked,
            Self::Sent(_) | Self::Upstream(_) => Known::Answered,
            Self::Plain(row) => row.known,
        }
    }

    fn read<'a>(&self, facts: &Facts<'a>) -> Value<'a> {
        match self {
            Self::Text(_) => None,
            Self::Plain(row) => (row.read)(facts),
            Self::Asked(name) => joined(&facts.kept?.asked, name),
            Self::Sent(name) => joined(&facts.kept?.sent, name),
            Self::Upstream(name) => joined(&facts.kept?.upstream, name),
            Self::Argument(name) => {
                target::argument(facts.request.uri.query()?, name).map(|value| Datum::Text(value.as_bytes().into()))
            }
            Self::Cookie(name) => cookie(facts.kept?, name),
        }
    }
}

/// Every variable's name; those that go on with a name of the user's end in `_NAME`.
pub fn variables() -> Vec<String> {
    known_variables(Known::Ended)
}

/// The variables that have a value by then, in the manner of [`variables`].
pub fn known_variables(known: Known) -> Vec<String> {
    let rows = ROWS.iter().filter(|row| row.known <= known).map(|row| row.name.to_owned());
    let late = |family: &str| matches!(family, "sent_http_" | "upstream_http_") && known < Known::Answered;
    rows.chain(FAMILIES.iter().filter(|family| !late(family)).map(|family| format!("{family}NAME"))).collect()
}

const fn moment(known: Known) -> &'static str {
    match known {
        Known::Asked => "when a request goes to a replica",
        Known::Answered => "when an answer begins",
        Known::Ended => "at the end",
    }
}

fn part(name: &str) -> Option<Part> {
    if let Some(row) = ROWS.iter().find(|row| row.name == name) {
        return Some(Part::Plain(row));
    }
    let (family, rest) = FAMILIES.iter().find_map(|family| Some((*family, name.strip_prefix(family)?)))?;
    let named = || rest.replace('_', "-").parse::<HeaderName>().ok();
    match family {
        _ if rest.is_empty() => None,
        "http_" => named().map(Part::Asked),
        "sent_http_" => named().map(Part::Sent),
        "upstream_http_" => named().map(Part::Upstream),
        "arg_" => Some(Part::Argument(rest.to_owned())),
        _ => Some(Part::Cookie(rest.to_owned())),
    }
}

fn put(out: &mut Vec<u8>, what: fmt::Arguments<'_>) {
    use std::io::Write as _;
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests;
