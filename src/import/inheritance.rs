//! nginx's inheritance: the keys in force in a block.
//!
//! A value is the nearest block's. A list is that of the nearest block that has any entry; nothing of outer blocks is added to it.

use super::blocks::{AccessLogTarget, BlockLevel, HeaderDirective, OpenBlocks, TomlHeader};
use super::scoped_keys::{
    ACCESS_LOG, REQUEST_HEADERS, RESPONSE_HEADERS, RankedValue, SCOPED_KEYS, SUCCESS_HEADERS, ScopedKeys,
    TRUSTED_PROXIES,
};
use super::toml_text::{quote_list, quote_toml};

/// The header that names the client's address unless `real_ip_header` does.
const REAL_IP_HEADER: &str = "X-Real-IP";
/// The least size that nginx compresses unless `gzip_min_length` says otherwise.
const GZIP_MIN_LENGTH: &str = "20";

/// Keys of levels that decide together with others.
pub(super) const GZIP: &str = "gzip on";
pub(super) const GZIP_LENGTH: &str = "gzip_min_length";
pub(super) const REAL_IP_NAME: &str = "real_ip_header";
pub(super) const REAL_IP_RECURSIVE: &str = "real_ip_recursive";
pub(super) const DEFAULT_TYPE: &str = "default_type";

/// Returns the keys in force at the end of `levels`, outermost first.
pub(super) fn keys_in_force(levels: &[BlockLevel]) -> ScopedKeys {
    let mut keys = ScopedKeys::default();
    for key in SCOPED_KEYS {
        if let Some(value) = nearest_value(levels, key) {
            keys.set(key, value.toml.clone());
        }
    }
    if let Some(level) = nearest(levels, |level| !level.trusted_proxies.is_empty()) {
        let value = |key: &str, default: &str| {
            nearest_value(levels, key).map_or(default.to_owned(), |value| value.toml.clone())
        };
        keys.set(TRUSTED_PROXIES, quote_list(&level.trusted_proxies));
        keys.set("client_address_header", value(REAL_IP_NAME, &quote_toml(REAL_IP_HEADER)));
        keys.set("client_address_recursive", value(REAL_IP_RECURSIVE, "false"));
    }
    if let Some(level) = nearest(levels, |level| !level.access_rules.is_empty()) {
        keys.set("access", quote_list(&level.access_rules));
    }
    if let Some(level) = nearest(levels, |level| !level.access_logs.is_empty()) {
        keys.set(ACCESS_LOG, format_access_logs(&level.access_logs));
    }
    keys.set("gzip", gzip_in_force(levels).unwrap_or_else(|| quote_toml("off")));
    keys.set(REQUEST_HEADERS, format_headers(&request_headers(levels)));
    keys.set(RESPONSE_HEADERS, format_headers(&response_headers(levels)));
    keys.set(SUCCESS_HEADERS, format_headers(&added_headers(levels, false)));
    keys
}

/// Returns the value of the nearest block that has it.
pub(super) fn nearest_value<'a>(levels: &'a [BlockLevel], key: &str) -> Option<&'a RankedValue> {
    levels.iter().rev().find_map(|level| level.values.get(key))
}

/// Returns the key of `Authorization: Bearer KEY` for replicas, if it is set.
pub(super) fn api_key_in_force(open: &OpenBlocks) -> Option<String> {
    let level = nearest(&open.levels, |level| !level.request_headers.is_empty())?;
    level.request_headers.iter().rev().find_map(bearer_token).map(str::to_owned)
}

fn nearest(levels: &[BlockLevel], has: impl Fn(&BlockLevel) -> bool) -> Option<&BlockLevel> {
    levels.iter().rev().find(|level| has(level))
}

/// Returns the size from which JSON is compressed; nginx compresses text/html only, unless `gzip_types` lists more.
fn gzip_in_force(levels: &[BlockLevel]) -> Option<String> {
    let is_on = nearest_value(levels, GZIP).is_some_and(|value| value.toml == "on");
    let types = nearest(levels, |level| !level.gzip_types.is_empty());
    let lists_json = types.is_some_and(|level| level.gzip_types.iter().any(|kind| lists_json(kind)));
    let length =
        nearest_value(levels, GZIP_LENGTH).map_or_else(|| quote_toml(GZIP_MIN_LENGTH), |value| value.toml.clone());
    (is_on && lists_json).then_some(length)
}

/// Returns whether a type of `gzip_types` includes JSON.
pub(super) fn lists_json(kind: &str) -> bool {
    ["*", "application/json"].contains(&kind)
}

fn request_headers(levels: &[BlockLevel]) -> Vec<TomlHeader> {
    let mut headers = Vec::new();
    if let Some(level) = nearest(levels, |level| !level.request_headers.is_empty()) {
        let lines = level.request_headers.iter().filter(|line| line.must_set && bearer_token(line).is_none());
        lines.for_each(|line| add_header_value(&mut headers, &line.name, &line.value));
    }
    headers
}

fn response_headers(levels: &[BlockLevel]) -> Vec<TomlHeader> {
    let mut headers = Vec::new();
    if let Some(level) = nearest(levels, |level| !level.hidden_headers.is_empty()) {
        level.hidden_headers.iter().for_each(|name| add_header_value(&mut headers, name, ""));
    }
    for (name, values) in added_headers(levels, true) {
        values.iter().for_each(|value| add_header_value(&mut headers, &name, value));
    }
    headers
}

/// Returns the headers of `add_header` with or without `always`.
fn added_headers(levels: &[BlockLevel], is_always: bool) -> Vec<TomlHeader> {
    let mut headers = Vec::new();
    if let Some(level) = nearest(levels, |level| !level.response_headers.is_empty()) {
        let lines = level.response_headers.iter().filter(|line| line.must_set && line.is_always == is_always);
        lines.for_each(|line| add_header_value(&mut headers, &line.name, &line.value));
    }
    headers
}

/// Returns the key of a header `Authorization: Bearer KEY`.
fn bearer_token(line: &HeaderDirective) -> Option<&str> {
    let key = line.value.strip_prefix("Bearer ").filter(|_| line.name.eq_ignore_ascii_case("authorization"))?;
    (!key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b'$')).then_some(key)
}

fn add_header_value(headers: &mut Vec<TomlHeader>, name: &str, value: &str) {
    match headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some((_, values)) => values.push(value.to_owned()),
        None => headers.push((name.to_owned(), vec![value.to_owned()])),
    }
}

/// Returns headers as an inline table.
fn format_headers(headers: &[TomlHeader]) -> String {
    let entry = |(name, values): &TomlHeader| {
        let value = match values.as_slice() {
            [one] => quote_toml(one),
            many => quote_list(many),
        };
        format!("{} = {value}", format_key(name))
    };
    let entries: Vec<String> = headers.iter().map(entry).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

/// Returns a name as a TOML key.
fn format_key(name: &str) -> String {
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { name.to_owned() } else { quote_toml(name) }
}

/// Returns the logs of one block as TOML. In nginx, `off` cancels all of its block.
fn format_access_logs(logs: &[Option<AccessLogTarget>]) -> String {
    let mut targets: Vec<String> = Vec::new();
    for AccessLogTarget { target, format } in logs.iter().flatten() {
        let text = if target == "off" { target.clone() } else { format!("{target} {format}") };
        if !targets.contains(&text) {
            targets.push(text);
        }
    }
    match targets.as_slice() {
        [] => quote_toml("off"),
        all if all.iter().any(|target| target == "off") => quote_toml("off"),
        [one] => quote_toml(one),
        all => quote_list(all),
    }
}
