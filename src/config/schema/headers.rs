//! Headers that are set on the way: their names and values, taken apart once.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use toml::de::DeValue;

use super::log::diagnose_format;
use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::log_format::{LogFormat, RequiredFields, ValueAvailability};

/// The headers of all pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// For pools that have no table of their own, and for answers that belong to no pool.
    pub(in crate::config) defaults: HeaderRuleSet,
    pools: BTreeMap<Arc<str>, HeaderRuleSet>,
    required_fields: RequiredFields,
    has_request_rules: bool,
    has_response_rules: bool,
}

/// The headers of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRuleSet {
    /// Put in the place of the client's, on requests to the replicas.
    pub request: Vec<HeaderRule>,
    /// Added to the replica's, or to ours, on answers.
    pub response: Vec<HeaderRule>,
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Its name; none that frames a message or concerns one connection.
    pub name: HeaderName,
    /// Its values, a line each; at least one.
    pub values: Vec<HeaderTemplate>,
}

/// What a header is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderTemplate {
    /// Nothing: the header is taken away.
    Empty,
    /// Always the same.
    Constant(HeaderValue),
    /// With variables; where it comes to nothing, or to what no header can hold, there is no such line.
    Format(LogFormat),
}

/// A pool's own tables, as far as they were written.
#[derive(Default)]
pub(in crate::config) struct PoolHeaderRules {
    pub(in crate::config) request: Option<Vec<HeaderRule>>,
    pub(in crate::config) response: Option<Vec<HeaderRule>>,
}

const FRAMING_REASON: &str = "a message's length and framing are set where it is sent";
const HOP_BY_HOP_REASON: &str = "it concerns one connection only";
/// Headers that nobody may set, and why.
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

impl HeaderRules {
    /// The tables for requests to this pool, or for answers that belong to none.
    pub fn for_pool(&self, pool: Option<&str>) -> &HeaderRuleSet {
        pool.and_then(|pool| self.pools.get(pool)).unwrap_or(&self.defaults)
    }

    /// What must be kept of requests for the variables of all tables.
    pub const fn required_fields(&self) -> &RequiredFields {
        &self.required_fields
    }

    /// Tells whether some table sets headers on requests.
    pub const fn has_request_rules(&self) -> bool {
        self.has_request_rules
    }

    /// Tells whether some table sets headers on answers.
    pub const fn has_response_rules(&self) -> bool {
        self.has_response_rules
    }

    /// Tells whether there is anything to set anywhere.
    pub const fn has_rules(&self) -> bool {
        self.has_request_rules || self.has_response_rules
    }

    /// Adds a pool's tables; those it does not have are those of all.
    pub(in crate::config) fn add_pool(&mut self, pool: Arc<str>, own: PoolHeaderRules) {
        if own.request.is_none() && own.response.is_none() {
            return;
        }
        let request = own.request.unwrap_or_else(|| self.defaults.request.clone());
        let response = own.response.unwrap_or_else(|| self.defaults.response.clone());
        self.pools.insert(pool, HeaderRuleSet { request, response });
    }

    /// Sums up what the tables need, once all are there.
    pub(in crate::config) fn collect_requirements(&mut self) {
        for headers in self.pools.values().chain([&self.defaults]) {
            self.has_request_rules |= !headers.request.is_empty();
            self.has_response_rules |= !headers.response.is_empty();
            for text in headers.request.iter().chain(&headers.response).flat_map(|line| &line.values) {
                if let HeaderTemplate::Format(format) = text {
                    self.required_fields.merge(format.required_fields());
                }
            }
        }
    }
}

/// Why a header cannot be set, if it cannot.
pub(crate) fn forbidden_reason(name: &str) -> Option<&'static str> {
    FORBIDDEN_HEADERS.iter().find(|(barred, _)| name.eq_ignore_ascii_case(barred)).map(|(_, why)| *why)
}

/// Tells whether a text has what no header can hold.
pub(crate) fn has_control_chars(text: &str) -> bool {
    text.bytes().any(|b| b == 0x7f || b < b' ' && b != b'\t')
}

/// Reads a table of headers whose values are needed when `known` says.
pub(in crate::config) fn parse_header_rules(
    value: &TomlValue<'_>,
    known: ValueAvailability,
) -> ReadResult<Vec<HeaderRule>> {
    let DeValue::Table(table) = value.raw else { return Err(value.invalid()) };
    let mut issues = Vec::new();
    let mut lines: Vec<HeaderRule> = Vec::new();
    for (key, given) in table {
        let written = SpannedValue::new(key.get_ref().as_ref(), value.span.with_range(key.span()));
        let wants = "text such as \"$host\", or a list of such texts";
        let at = value.span.with_range(given.span());
        let entry =
            TomlValue { key: written.value, expected: wants, raw: given.get_ref(), span: at, unquoted: value.unquoted };
        match (parse_header_name(&written, &lines), entry.map_list(|item| parse_header_template(item, known))) {
            (Ok(name), Ok(values)) if !values.is_empty() => lines.push(HeaderRule { name, values }),
            (Ok(_), Ok(_)) => issues.extend(entry.invalid()),
            (name, values) => {
                issues.extend(name.err());
                issues.extend(values.err().unwrap_or_default());
            }
        }
    }
    if issues.is_empty() { Ok(lines) } else { Err(issues) }
}

fn parse_header_name(written: &SpannedValue<&str>, lines: &[HeaderRule]) -> Result<HeaderName, Diagnostic> {
    let SpannedValue { value: text, span: at } = written;
    let Ok(name) = text.parse::<HeaderName>() else {
        return Err(at
            .diagnostic(format!("`{text}` is no header's name"))
            .with_help("for example X-Real-IP = \"$remote_addr\""));
    };
    if let Some(why) = forbidden_reason(name.as_str()) {
        return Err(at.diagnostic(format!("`{text}` cannot be set: {why}")).with_help("take the line out"));
    }
    if lines.iter().any(|line| line.name == name) {
        let issue = at.diagnostic(format!("the header `{text}` is set twice"));
        return Err(issue.with_help("one header with several lines takes a list: [\"a\", \"b\"]"));
    }
    Ok(name)
}

fn parse_header_template(value: &TomlValue<'_>, known: ValueAvailability) -> ReadResult<HeaderTemplate> {
    let text = value.string()?;
    if text.is_empty() {
        return Ok(HeaderTemplate::Empty);
    }
    if has_control_chars(&text) {
        let issue = value.diagnostic(format!("the value of `{}` has control characters", value.key)).without_excerpt();
        return Err(issue.with_help("no header can hold them").into());
    }
    let format = LogFormat::for_header(&text, known).map_err(|bad| diagnose_format(value, &text, &bad, known))?;
    Ok(match HeaderValue::from_bytes(text.as_bytes()) {
        Ok(same) if format.is_constant() => HeaderTemplate::Constant(same),
        _ => HeaderTemplate::Format(format),
    })
}
