//! Paths for replicas whose beginning a route replaces, as nginx's `proxy_pass` with a URI.

use super::PathMatch;
use crate::http::normalize_path;

/// Returns the path for a replica: the path in normal form, with `replacement` in place of the part that `matched`
/// names, escaped again where the client has escaped it.
pub fn replace_path(matched: &PathMatch, replacement: &str, path: &str) -> String {
    let normal = normalize_path(path);
    let rest = normal.strip_prefix(matched.prefix().as_bytes()).unwrap_or(&normal);
    let mut replaced = replacement.to_owned();
    push_escaped(&mut replaced, rest, path.contains('%'));
    replaced
}

/// Returns a path in normal form, escaped again, as nginx writes it into a redirect.
pub fn escape_path(path: &str) -> String {
    let mut escaped = String::new();
    push_escaped(&mut escaped, &normalize_path(path), true);
    escaped
}

/// Adds a path in normal form; visible characters are escaped only if the client has escaped any.
fn push_escaped(text: &mut String, normal: &[u8], has_escapes: bool) {
    for byte in normal {
        match byte {
            // What is not ASCII came as an escape or cannot be in a path.
            b'!'..=b'~' if !has_escapes || !must_escape(*byte) => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Returns whether nginx escapes a visible character in a path that it changes (since 1.21.1).
const fn must_escape(byte: u8) -> bool {
    matches!(byte, b'#' | b'%' | b'?' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_replaced_as_by_proxy_pass() {
        for (location, uri, path, wanted) in [
            ("/api/", "/", "/api/v1/models", "/v1/models"),
            ("/api/", "/v1/", "/api/models", "/v1/models"),
            ("/api", "/v1", "/api/models", "/v1/models"),
            ("/api", "/", "/api/models", "//models"),
            ("/api/", "/v1", "/api/models", "/v1models"),
            ("= /health", "/ping", "/health", "/ping"),
            ("/", "/base/", "/a/../b", "/base/b"),
            ("/api/", "/", "//api//a", "/a"),
            ("/api/", "/", "/api/a%20b%3Fc%2Fd", "/a%20b%3Fc/d"),
            ("/api/", "/", "/api/%C3%A4", "/%C3%A4"),
            ("/api/", "/", "/%61pi/%61", "/a"),
        ] {
            assert_eq!(replace_path(&location.parse().unwrap(), uri, path), wanted, "{location} {uri} {path}");
        }
    }
}
