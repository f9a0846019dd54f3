//! Parts of a request's head as nginx takes them apart.

use std::borrow::Cow;

/// The host without its port, in lower case.
pub(crate) fn normalize_host(named: &[u8]) -> Vec<u8> {
    let end = match named.iter().rposition(|b| *b == b':') {
        Some(colon) if !named[colon..].contains(&b']') => colon,
        _ => named.len(),
    };
    named[..end].to_ascii_lowercase()
}

/// A path as nginx's `$uri`: escapes decoded, slashes merged, `.` and `..` taken out.
pub fn normalize_path(path: &str) -> Cow<'_, [u8]> {
    let odd = |b: &[u8]| b == b"//" || b == b"/.";
    if !path.contains('%') && !path.as_bytes().windows(2).any(odd) {
        return Cow::Borrowed(path.as_bytes());
    }
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let decoded = percent_decode(path.as_bytes());
    let mut is_folder = false;
    for piece in decoded.split(|b| *b == b'/') {
        is_folder = matches!(piece, b"" | b"." | b"..");
        match piece {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            piece => kept.push(piece.to_vec()),
        }
    }
    let mut out: Vec<u8> = kept.into_iter().flat_map(|piece| [b"/".to_vec(), piece].concat()).collect();
    if is_folder || out.is_empty() {
        out.push(b'/');
    }
    Cow::Owned(out)
}

/// The value of a query argument as it was written; the first of several.
pub(crate) fn query_argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (this, value) = pair.split_once('=')?;
        this.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// The value of a cookie in a `StickyCookie` line.
pub(crate) fn find_cookie<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.split(|b| *b == b';').find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        let (this, value) = (pair[..at].trim_ascii(), &pair[at + 1..]);
        this.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii_start())
    })
}

/// The user of an `Authorization: Basic` line.
pub(crate) fn basic_auth_user(line: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = line.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let pair = decode_base64(rest.trim_ascii_start())?;
    let colon = pair.iter().position(|b| *b == b':')?;
    Some(pair[..colon].to_vec()).filter(|user| !user.is_empty())
}

fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|b| *b != b'=').map_or(0, |last| last + 1);
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0u32, 0);
    for byte in &text[..end] {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    Some(out)
}

fn percent_decode(path: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| char::from(*b?).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        match (byte, digit(path.get(at + 1)), digit(path.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal_as_nginxs_uri_is() {
        for (path, wanted) in [
            ("/v1/models", "/v1/models"),
            ("//a///b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/../..", "/"),
            ("/a%20b%2fc", "/a b/c"),
            ("/a%zz%4", "/a%zz%4"),
            ("/a/", "/a/"),
            ("/.hidden", "/.hidden"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(&normalize_path(path)), wanted, "{path}");
        }
    }

    #[test]
    fn arguments_and_cookies_are_found_by_name_in_any_case() {
        assert_eq!(query_argument("a=1&Ab=2&ab=3", "ab"), Some("2"));
        assert_eq!((query_argument("a=", "a"), query_argument("a&b=1", "a")), (Some(""), None));
        assert_eq!(find_cookie(b"a=1; Session=x y ;b=2", "session"), Some(&b"x y "[..]));
        assert_eq!(find_cookie(b"a; b=2", "a"), None);
    }

    #[test]
    fn the_user_of_basic_authorization_is_read() {
        assert_eq!(basic_auth_user(b"Basic YWxpY2U6c2VjcmV0").as_deref(), Some(&b"alice"[..]));
        assert_eq!(basic_auth_user(b"bASIC  YTpi").as_deref(), Some(&b"a"[..]));
        for none in ["Bearer sk-1", "Basic", "Basic ", "Basic ?", "Basic YWxpY2U=", "Basic OnNlY3JldA=="] {
            assert_eq!(basic_auth_user(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn hosts_lose_port_and_case() {
        for (named, wanted) in [("A:80", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), (":", "")] {
            assert_eq!(normalize_host(named.as_bytes()), wanted.as_bytes());
        }
    }
}
