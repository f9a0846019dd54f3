//! The keys that hold for a route: they may stand at the top of the file, in a `[[host]]` and in a `[[host.route]]`.
//! The nearest wins.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;

use super::access_log::parse_access_logs;
use super::client_address::{EXPECTED_HEADER, EXPECTED_PROXIES, parse_client_address_header, parse_trusted_proxies};
use super::draft::{SCOPED_TIMEOUTS, ScopeDraft, ScopedDraft, TimeoutsDraft};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::headers::{EXPECTED_HEADERS, parse_header_rules};
use crate::config::schema::key_spec::{EXPECTED_BOOLEAN, EXPECTED_SIZE, KeySpec, parse_name, read_table, unknown_key};
use crate::config::schema::settings_draft::SettingsDraft;
use crate::config::schema::timeouts::TIMEOUTS_SCHEMA;
use crate::log_format::ValueAvailability;
use crate::routes::{AddressRule, AddressRuleError, KeyAccess};

/// The number of rows of [`client_rows`].
pub(in crate::config) const CLIENT_ROW_COUNT: usize = 6;
/// The number of rows of [`message_rows`].
pub(in crate::config) const MESSAGE_ROW_COUNT: usize = 4;
/// The number of rows of [`inner_scope_rows`].
pub(in crate::config) const INNER_ROW_COUNT: usize = 3;

/// Returns the keys for who a client is and who may ask.
pub(in crate::config) const fn client_rows<T: ScopedDraft>() -> [KeySpec<T>; CLIENT_ROW_COUNT] {
    [
        KeySpec {
            name: "trusted_proxies",
            expected: EXPECTED_PROXIES,
            default: "[]",
            doc: "Proxies whose `client_address_header` determines the client's address, for logs and policies; `unix:` \
                  stands for all peers at Unix sockets.",
            set: |d, v| parse_trusted_proxies(v).map(|proxies| d.scope_draft().trusted_proxies = Some(proxies)),
        },
        KeySpec {
            name: "client_address_header",
            expected: EXPECTED_HEADER,
            default: "\"X-Forwarded-For\"",
            doc: "The header in which trusted proxies write the client's address.",
            set: |d, v| parse_client_address_header(v).map(|name| d.scope_draft().client_address_header = Some(name)),
        },
        KeySpec {
            name: "client_address_recursive",
            expected: EXPECTED_BOOLEAN,
            default: "true",
            doc: "Whether the client is the last address in that header that is no trusted proxy's; otherwise it is the \
                  last address.",
            set: |d, v| v.boolean().map(|on| d.scope_draft().client_address_recursive = Some(on)),
        },
        KeySpec {
            name: "access",
            expected: "rules such as \"allow 10.0.0.0/8\" and \"deny all\"",
            default: "[]",
            doc: "The addresses that may ask: the first rule that matches a client decides, others get 403; as nginx's \
                  `allow` and `deny`.",
            set: |d, v| v.map_list(parse_address_rule).map(|rules| d.scope_draft().access = Some(rules)),
        },
        KeySpec {
            name: "methods",
            expected: "\"any\", or a list of methods such as [\"GET\", \"POST\"]",
            default: "\"any\"",
            doc: "The methods that clients may use, others get 403; `GET` includes `HEAD`. As nginx's `limit_except`.",
            set: |d, v| parse_methods(v).map(|methods| d.scope_draft().methods = Some(methods)),
        },
        KeySpec {
            name: "keys",
            expected: "\"any\", \"none\", or names of `[[key]]`s",
            default: "\"any\"",
            doc: "The API keys that may ask: `any` of the file's, `none` where no key is needed, or those of these names. \
                  An `answer` needs a key only where names are given.",
            set: |d, v| parse_key_access(v, d.scope_draft()),
        },
    ]
}

/// Returns the keys for what is changed in messages.
pub(in crate::config) const fn message_rows<T: ScopedDraft>() -> [KeySpec<T>; MESSAGE_ROW_COUNT] {
    [
        KeySpec {
            name: "gzip",
            expected: "\"off\", or the size from which JSON answers are compressed, such as \"1KiB\"",
            default: "\"off\"",
            doc: "The size from which JSON responses are compressed for clients that accept gzip; streams never are.",
            set: |d, v| parse_gzip_min_size(v).map(|size| d.scope_draft().gzip = Some(size)),
        },
        KeySpec {
            name: "request_headers",
            expected: EXPECTED_HEADERS,
            default: "{}",
            doc: "Headers of requests to the replicas, in place of the client's; values may have variables of nginx's \
                  `log_format`, and an empty value removes the header.",
            set: |d, v| {
                parse_header_rules(v, ValueAvailability::AtRequest)
                    .map(|rules| d.scope_draft().request_headers = Some(rules))
            },
        },
        KeySpec {
            name: "response_headers",
            expected: EXPECTED_HEADERS,
            default: "{}",
            doc: "Headers added to every response, errors and streams included; an empty value removes the replica's.",
            set: |d, v| {
                parse_header_rules(v, ValueAvailability::AtResponse)
                    .map(|rules| d.scope_draft().response_headers = Some(rules))
            },
        },
        KeySpec {
            name: "success_headers",
            expected: EXPECTED_HEADERS,
            default: "{}",
            doc: "Headers added to responses with the status 200, 201, 204, 206, 301 to 304, 307 or 308, after \
                  `response_headers`: nginx's `add_header` without `always`.",
            set: |d, v| {
                parse_header_rules(v, ValueAvailability::AtResponse)
                    .map(|rules| d.scope_draft().success_headers = Some(rules))
            },
        },
    ]
}

/// Returns the keys that hosts and routes have, and the top of the file has in tables.
pub(in crate::config) const fn inner_scope_rows<T: ScopedDraft>() -> [KeySpec<T>; INNER_ROW_COUNT] {
    [
        KeySpec {
            name: "body_bytes",
            expected: EXPECTED_SIZE,
            default: "",
            doc: "The largest request body, as `limits.body_bytes`; no body may be larger than `limits.in_flight_bytes`.",
            set: |d, v| v.byte_size(1).map(|bytes| d.scope_draft().body_bytes = Some(bytes)),
        },
        KeySpec {
            name: "timeouts",
            expected: "a table with keys of `[timeouts]`, such as { first_byte = \"60s\" }",
            default: "",
            doc: "Timeouts in place of those in `[timeouts]`, each on its own. A connection without a request has those at the \
                  top; `client_send` and `keepalive` are then those of its last request.",
            set: |d, v| parse_timeouts(v, &mut d.scope_draft().timeouts),
        },
        KeySpec {
            name: "access_log",
            expected: "\"off\", or \"stdout\", \"stderr\" or a path with a `/`, with the name of a format behind it or not; \
                       or a list of these",
            default: "",
            doc: "The access logs in place of that of `[log]` and of those of the host; without the name of a format, in \
                  that of `[log]`. A request is written to all of its route.",
            set: |d, v| parse_access_logs(v).map(|logs| d.scope_draft().access_log_drafts = Some(logs)),
        },
    ]
}

pub(in crate::config) static TOP_CLIENT_SCHEMA: [KeySpec<SettingsDraft>; CLIENT_ROW_COUNT] = client_rows();
pub(in crate::config) static TOP_MESSAGE_SCHEMA: [KeySpec<SettingsDraft>; MESSAGE_ROW_COUNT] = message_rows();

fn parse_gzip_min_size(value: &TomlValue<'_>) -> ReadResult<Option<usize>> {
    if value.raw.as_str() == Some("off") { Ok(None) } else { value.byte_size(1).map(Some) }
}

fn parse_address_rule(value: &TomlValue<'_>) -> ReadResult<AddressRule> {
    let text = value.string()?;
    text.parse().map_err(|error: AddressRuleError| {
        value.diagnostic(format!("`{text}` is no rule of addresses")).with_help(error.to_string()).into()
    })
}

fn parse_methods(value: &TomlValue<'_>) -> ReadResult<Option<Vec<Method>>> {
    if value.raw.as_str() == Some("any") {
        return Ok(None);
    }
    let methods = value.map_list(|item| {
        let text = item.string()?;
        let is_method = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
        text.parse().ok().filter(|_| is_method).ok_or_else(|| item.invalid())
    })?;
    if methods.is_empty() { Err(value.invalid()) } else { Ok(Some(methods)) }
}

fn parse_key_access(value: &TomlValue<'_>, draft: &mut ScopeDraft) -> ReadResult<()> {
    let access = match value.raw.as_str() {
        Some("any") => KeyAccess::Any,
        Some("none") => KeyAccess::Open,
        _ => {
            draft.key_names = value.map_list(|item| Ok(item.spanned(parse_name(item)?)))?;
            let names: BTreeSet<Arc<str>> = draft.key_names.iter().map(|name| name.value.clone()).collect();
            if names.is_empty() {
                return Err(value.invalid());
            }
            KeyAccess::Named(names)
        }
    };
    draft.keys = Some(access);
    Ok(())
}

/// Reads a table with keys of `[timeouts]`.
fn parse_timeouts(value: &TomlValue<'_>, draft: &mut TimeoutsDraft) -> ReadResult<()> {
    let entries = value.entries()?;
    let mut read = SettingsDraft::default();
    let mut errors =
        read_table(TIMEOUTS_SCHEMA, &entries, &mut read, |key| unknown_key(TIMEOUTS_SCHEMA, "`timeouts`", key));
    draft.values = read.settings.scope.timeouts.clone();
    for key in entries.iter().map(|entry| &entry.key) {
        let is_scoped = SCOPED_TIMEOUTS.iter().any(|(name, _)| *name == key.value);
        if !is_scoped && TIMEOUTS_SCHEMA.iter().any(|row| row.name == key.value) {
            let issue = key.span.diagnostic(format!("`{}` holds for all hosts and routes", key.value));
            errors.push(issue.with_help("write it in `[timeouts]`"));
        }
        draft.given.push(key.value.to_owned());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
