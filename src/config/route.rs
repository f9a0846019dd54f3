//! Which requests a pool is looked at for, as it is written.

use toml::de::DeValue;

use super::value::{Read, Value};
use crate::fleet::{Paths, Refused};

/// A host name or address, lower case, without port.
pub(super) fn host(value: &Value<'_>) -> Read<String> {
    let text = value.text()?.trim_end_matches('.').to_ascii_lowercase();
    let name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = !text.is_empty() && (name(&text) || address.is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok()));
    if fits { Ok(text) } else { Err(value.wrong()) }
}

fn path(value: &Value<'_>) -> Read<String> {
    let text = value.text()?;
    let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b));
    if fits { Ok(text.into_owned()) } else { Err(value.wrong()) }
}

/// A path without its last slash; nothing is left of `/`.
pub(super) fn prefix(value: &Value<'_>) -> Read<Option<String>> {
    let path = path(value)?;
    let path = path.trim_end_matches('/');
    Ok((!path.is_empty()).then(|| path.to_owned()))
}

/// Paths besides the API's, or all of them.
pub(super) fn paths(value: &Value<'_>) -> Read<Paths> {
    match value.given.as_str() {
        Some("any") => Ok(Paths::Any),
        Some(text) if !text.starts_with('/') => Err(value.wrong()),
        _ => value.each(path).map(Paths::Listed),
    }
}

/// Paths and the statuses that they are answered with.
pub(super) fn refused(value: &Value<'_>) -> Read<Vec<Refused>> {
    let DeValue::Table(table) = value.given else { return Err(value.wrong()) };
    let mut issues = Vec::new();
    let mut all = Vec::new();
    for (key, given) in table {
        let written = key.get_ref().as_ref();
        let (exact, path) = written.strip_prefix('=').map_or((false, written), |path| (true, path.trim_start()));
        if !path.starts_with('/') || path.contains(char::is_control) {
            let issue = value.at.at(key.span()).issue(format!("`{written}` is no path"));
            issues.push(issue.help("write \"/admin\" for all that begins so, \"= /admin\" for that path alone"));
        }
        let (at, wants) = (value.at.at(given.span()), "a status from 400 to 599");
        let entry = Value { key: written, wants, given: given.get_ref(), at, unquoted: value.unquoted };
        match entry.count(400).ok().and_then(|n| u16::try_from(n).ok()).filter(|status| *status < 600) {
            Some(status) => all.push(Refused { path: path.to_owned(), exact, status }),
            None => issues.extend(entry.wrong()),
        }
    }
    if issues.is_empty() { Ok(all) } else { Err(issues) }
}
