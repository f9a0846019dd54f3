//! Headers that are set on the way: their names and values, taken apart once.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use toml::de::DeValue;

use super::log::explain;
use super::report::{At, Issue};
use super::value::{Read, Value};
use crate::telemetry::{Format, Known, Needs};

/// The headers of all pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderTables {
    /// For pools that have no table of their own, and for answers that belong to no pool.
    pub(super) every: Headers,
    pools: BTreeMap<Arc<str>, Headers>,
    needs: Needs,
    on_requests: bool,
    on_answers: bool,
}

/// The headers of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Put in the place of the client's, on requests to the replicas.
    pub request: Vec<HeaderLine>,
    /// Added to the replica's, or to ours, on answers.
    pub response: Vec<HeaderLine>,
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLine {
    /// Its name; none that frames a message or concerns one connection.
    pub name: HeaderName,
    /// Its values, a line each; at least one.
    pub values: Vec<HeaderText>,
}

/// What a header is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderText {
    /// Nothing: the header is taken away.
    Nothing,
    /// Always the same.
    Same(HeaderValue),
    /// With variables; where it comes to nothing, or to what no header can hold, there is no such line.
    Made(Format),
}

/// A pool's own tables, as far as they were written.
#[derive(Default)]
pub(super) struct OwnHeaders {
    pub(super) request: Option<Vec<HeaderLine>>,
    pub(super) response: Option<Vec<HeaderLine>>,
}

const FRAMING: &str = "a message's length and framing are set where it is sent";
const HOP: &str = "it concerns one connection only";
/// Headers that nobody may set, and why.
const BARRED: [(&str, &str); 12] = [
    ("connection", HOP),
    ("content-length", FRAMING),
    ("expect", HOP),
    ("http2-settings", HOP),
    ("keep-alive", HOP),
    ("proxy-authenticate", HOP),
    ("proxy-authorization", HOP),
    ("proxy-connection", HOP),
    ("te", HOP),
    ("trailer", FRAMING),
    ("transfer-encoding", FRAMING),
    ("upgrade", HOP),
];

impl HeaderTables {
    /// The tables for requests to this pool, or for answers that belong to none.
    pub fn of(&self, pool: Option<&str>) -> &Headers {
        pool.and_then(|pool| self.pools.get(pool)).unwrap_or(&self.every)
    }

    /// What must be kept of requests for the variables of all tables.
    pub const fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Tells whether some table sets headers on requests.
    pub const fn on_requests(&self) -> bool {
        self.on_requests
    }

    /// Tells whether some table sets headers on answers.
    pub const fn on_answers(&self) -> bool {
        self.on_answers
    }

    /// Tells whether there is anything to set anywhere.
    pub const fn any(&self) -> bool {
        self.on_requests || self.on_answers
    }

    /// Adds a pool's tables; those it does not have are those of all.
    pub(super) fn add(&mut self, pool: Arc<str>, own: OwnHeaders) {
        if own.request.is_none() && own.response.is_none() {
            return;
        }
        let request = own.request.unwrap_or_else(|| self.every.request.clone());
        let response = own.response.unwrap_or_else(|| self.every.response.clone());
        self.pools.insert(pool, Headers { request, response });
    }

    /// Sums up what the tables need, once all are there.
    pub(super) fn close(&mut self) {
        for headers in self.pools.values().chain([&self.every]) {
            self.on_requests |= !headers.request.is_empty();
            self.on_answers |= !headers.response.is_empty();
            for text in headers.request.iter().chain(&headers.response).flat_map(|line| &line.values) {
                if let HeaderText::Made(format) = text {
                    self.needs.join(format.needs());
                }
            }
        }
    }
}

/// Why a header cannot be set, if it cannot.
pub(crate) fn barred(name: &str) -> Option<&'static str> {
    BARRED.iter().find(|(barred, _)| name.eq_ignore_ascii_case(barred)).map(|(_, why)| *why)
}

/// Tells whether a text has what no header can hold.
pub(crate) fn has_controls(text: &str) -> bool {
    text.bytes().any(|b| b == 0x7f || b < b' ' && b != b'\t')
}

/// Reads a table of headers whose values are needed when `known` says.
pub(super) fn table(value: &Value<'_>, known: Known) -> Read<Vec<HeaderLine>> {
    let DeValue::Table(table) = value.given else { return Err(value.wrong()) };
    let mut issues = Vec::new();
    let mut lines: Vec<HeaderLine> = Vec::new();
    for (key, given) in table {
        let written = At::new(key.get_ref().as_ref(), value.at.at(key.span()));
        let wants = "text such as \"$host\", or a list of such texts";
        let at = value.at.at(given.span());
        let entry = Value { key: written.value, wants, given: given.get_ref(), at, unquoted: value.unquoted };
        match (name(&written, &lines), entry.each(|item| text(item, known))) {
            (Ok(name), Ok(values)) if !values.is_empty() => lines.push(HeaderLine { name, values }),
            (Ok(_), Ok(_)) => issues.extend(entry.wrong()),
            (name, values) => {
                issues.extend(name.err());
                issues.extend(values.err().unwrap_or_default());
            }
        }
    }
    if issues.is_empty() { Ok(lines) } else { Err(issues) }
}

fn name(written: &At<&str>, lines: &[HeaderLine]) -> Result<HeaderName, Issue> {
    let At { value: text, at } = written;
    let Ok(name) = text.parse::<HeaderName>() else {
        return Err(at.issue(format!("`{text}` is no header's name")).help("for example X-Real-IP = \"$remote_addr\""));
    };
    if let Some(why) = barred(name.as_str()) {
        return Err(at.issue(format!("`{text}` cannot be set: {why}")).help("take the line out"));
    }
    if lines.iter().any(|line| line.name == name) {
        let issue = at.issue(format!("the header `{text}` is set twice"));
        return Err(issue.help("one header with several lines takes a list: [\"a\", \"b\"]"));
    }
    Ok(name)
}

fn text(value: &Value<'_>, known: Known) -> Read<HeaderText> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(HeaderText::Nothing);
    }
    if has_controls(&text) {
        let issue = value.issue(format!("the value of `{}` has control characters", value.key)).bare();
        return Err(issue.help("no header can hold them").into());
    }
    let format = Format::header(&text, known).map_err(|bad| explain(value, &text, &bad, known))?;
    Ok(match HeaderValue::from_bytes(text.as_bytes()) {
        Ok(same) if format.is_constant() => HeaderText::Same(same),
        _ => HeaderText::Made(format),
    })
}
