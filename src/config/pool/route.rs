//! The requests that a pool is for; the keys that `[[pool]]` has in addition to those of every pool.

use super::draft::PoolDraft;
use crate::config::diagnostics::SpannedValue;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::headers::{EXPECTED_HEADERS, parse_header_rules};
use crate::config::schema::key_spec::{KeySpec, parse_name};
use crate::fleet::PathPolicy;
use crate::log_format::ValueAvailability;
use crate::routes::BlockedPath;

pub(in crate::config) static ROUTE_SCHEMA: &[KeySpec<PoolDraft>] = &[
    KeySpec {
        name: "name",
        expected: "a name",
        default: "",
        doc: "The pool's name in metrics, logs and `fallback`; without it, the first model.",
        set: |d, v| parse_name(v).map(|name| d.name = Some(v.spanned(name))),
    },
    KeySpec {
        name: "host",
        expected: "a host name without scheme, port or wildcard",
        default: "",
        doc: "The pool is for requests to this host only.",
        set: |d, v| parse_host(v).map(|host| d.routing.route.host = Some(host)),
    },
    KeySpec {
        name: "path",
        expected: "the beginning of a path, with `/` in front",
        default: "",
        doc: "The pool is for requests at or below this path only; it is removed if an API path remains, so \
              `/team-a/v1/completions` becomes `/v1/completions`.",
        set: |d, v| parse_path_prefix(v).map(|prefix| d.routing.route.path = prefix),
    },
    KeySpec {
        name: "fallback",
        expected: "another pool's name",
        default: "",
        doc: "The pool for requests that find no replica in this one.",
        set: |d, v| parse_name(v).map(|name| d.routing.fallback = Some(v.spanned(name))),
    },
    KeySpec {
        name: "request_headers",
        expected: EXPECTED_HEADERS,
        default: "",
        doc: "Headers of requests to the replicas, in place of the whole table at the top.",
        set: |d, v| parse_header_rules(v, ValueAvailability::AtRequest).map(|rules| d.headers.request = Some(rules)),
    },
    KeySpec {
        name: "response_headers",
        expected: EXPECTED_HEADERS,
        default: "",
        doc: "Headers of responses, in place of the whole table at the top.",
        set: |d, v| parse_header_rules(v, ValueAvailability::AtResponse).map(|rules| d.headers.response = Some(rules)),
    },
];

/// Reads a host name or address, in lower case and without port.
pub(super) fn parse_host(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?.trim_end_matches('.').to_ascii_lowercase();
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    if !text.is_empty() && (is_name(&text) || is_address) { Ok(text) } else { Err(value.invalid()) }
}

fn parse_path(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let is_path = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b));
    if is_path { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

/// Reads a path without its final slash; `None` for `/`.
fn parse_path_prefix(value: &TomlValue<'_>) -> ReadResult<Option<String>> {
    let path = parse_path(value)?;
    let path = path.trim_end_matches('/');
    Ok((!path.is_empty()).then(|| path.to_owned()))
}

/// Reads `paths`: a list of them, or all.
pub(super) fn parse_paths(value: &TomlValue<'_>) -> ReadResult<PathPolicy> {
    match value.raw.as_str() {
        Some("any") => Ok(PathPolicy::Any),
        Some(text) if !text.starts_with('/') => Err(value.invalid()),
        _ => value.map_list(parse_path).map(PathPolicy::Listed),
    }
}

/// Reads `block_paths`: paths with the status of the response.
pub(super) fn parse_blocked_paths(value: &TomlValue<'_>) -> ReadResult<Vec<BlockedPath>> {
    let mut errors = Vec::new();
    let mut blocked = Vec::new();
    for entry in value.entries()? {
        let SpannedValue { value: written, span } = &entry.key;
        let (exact, path) = written.strip_prefix('=').map_or((false, *written), |path| (true, path.trim_start()));
        if !path.starts_with('/') || path.contains(char::is_control) {
            let diagnostic = span.diagnostic(format!("`{written}` is not a path"));
            errors.push(diagnostic.with_help("write \"/admin\" for a prefix, \"= /admin\" for that path alone"));
        }
        let status = entry.to_value("a status from 400 to 599");
        match status.integer(400).ok().and_then(|n| u16::try_from(n).ok()).filter(|status| *status < 600) {
            Some(status) => blocked.push(BlockedPath { path: path.to_owned(), exact, status }),
            None => errors.extend(status.invalid()),
        }
    }
    if errors.is_empty() { Ok(blocked) } else { Err(errors) }
}
