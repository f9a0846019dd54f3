//! Which requests a pool is looked at for, as it is written.

use toml::de::DeValue;

use crate::config::parse::value::{ReadResult, TomlValue};
use crate::fleet::{BlockedPath, PathPolicy};

/// A host name or address, lower case, without port.
pub(in crate::config) fn parse_host(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?.trim_end_matches('.').to_ascii_lowercase();
    let name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = !text.is_empty() && (name(&text) || address.is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok()));
    if fits { Ok(text) } else { Err(value.invalid()) }
}

fn parse_path(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b));
    if fits { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

/// A path without its last slash; nothing is left of `/`.
pub(in crate::config) fn parse_path_prefix(value: &TomlValue<'_>) -> ReadResult<Option<String>> {
    let path = parse_path(value)?;
    let path = path.trim_end_matches('/');
    Ok((!path.is_empty()).then(|| path.to_owned()))
}

/// Paths besides the API's, or all of them.
pub(in crate::config) fn parse_paths(value: &TomlValue<'_>) -> ReadResult<PathPolicy> {
    match value.raw.as_str() {
        Some("any") => Ok(PathPolicy::Any),
        Some(text) if !text.starts_with('/') => Err(value.invalid()),
        _ => value.map_list(parse_path).map(PathPolicy::Listed),
    }
}

/// Paths and the statuses that they are answered with.
pub(in crate::config) fn parse_blocked_paths(value: &TomlValue<'_>) -> ReadResult<Vec<BlockedPath>> {
    let DeValue::Table(table) = value.raw else { return Err(value.invalid()) };
    let mut issues = Vec::new();
    let mut all = Vec::new();
    for (key, given) in table {
        let written = key.get_ref().as_ref();
        let (exact, path) = written.strip_prefix('=').map_or((false, written), |path| (true, path.trim_start()));
        if !path.starts_with('/') || path.contains(char::is_control) {
            let issue = value.span.with_range(key.span()).diagnostic(format!("`{written}` is no path"));
            issues.push(issue.with_help("write \"/admin\" for all that begins so, \"= /admin\" for that path alone"));
        }
        let (at, wants) = (value.span.with_range(given.span()), "a status from 400 to 599");
        let entry =
            TomlValue { key: written, expected: wants, raw: given.get_ref(), span: at, unquoted: value.unquoted };
        match entry.integer(400).ok().and_then(|n| u16::try_from(n).ok()).filter(|status| *status < 600) {
            Some(status) => all.push(BlockedPath { path: path.to_owned(), exact, status }),
            None => issues.extend(entry.invalid()),
        }
    }
    if issues.is_empty() { Ok(all) } else { Err(issues) }
}
