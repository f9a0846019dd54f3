//! `Cookie` and `Set-Cookie`.

use http::HeaderMap;
use http::header::{COOKIE, SET_COOKIE};

/// Returns the value of the request's cookie `name`, without blanks around it; `None` if there is none.
///
/// The first cookie of that very name wins; without one, the first whose name differs in case only.
/// Source: RFC 6265 compares names exactly; nginx's `$cookie_NAME` ignores case.
pub fn find_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    find_named(|| headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(is_semicolon)), name)
}

/// Returns the value of nginx's variable `$cookie_NAME`: the first cookie of that name in any case, without blanks in
/// front. `None` if there is none.
///
/// A `,` ends a cookie of another name, and not the value. Source: nginx 1.22, `ngx_http_parse_multi_header_lines`.
pub fn find_cookie_variable<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(COOKIE).iter().find_map(|line| {
        let mut rest = trim_start(line.as_bytes());
        loop {
            if let Some(value) = strip_name(rest, name.as_bytes()) {
                return value.split(is_semicolon).next();
            }
            let separator = rest.iter().position(|byte| matches!(byte, b';' | b','))?;
            rest = trim_start(rest.get(separator + 1..)?);
        }
    })
}

/// Returns what follows `name=`.
fn strip_name<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = text.split_at_checked(name.len())?;
    let value = trim_start(rest).strip_prefix(b"=")?;
    found.eq_ignore_ascii_case(name).then(|| trim_start(value))
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| **byte == b' ').count();
    text.get(blanks..).unwrap_or_default()
}

/// Returns the value of the cookie `name` that a response sets; names are compared as in [`find_cookie`].
pub fn find_set_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    find_named(|| headers.get_all(SET_COOKIE).iter().filter_map(|l| l.as_bytes().split(is_semicolon).next()), name)
}

fn find_named<'a, I: Iterator<Item = &'a [u8]>>(pairs: impl Fn() -> I, name: &str) -> Option<&'a [u8]> {
    let name = name.as_bytes();
    let find = |is_same: fn(&[u8], &[u8]) -> bool| {
        pairs().filter_map(split_pair).find(|(found, _)| is_same(found, name)).map(|(_, value)| value)
    };
    find(|a, b| a == b).or_else(|| find(<[u8]>::eq_ignore_ascii_case))
}

fn split_pair(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
}

const fn is_semicolon(byte: &u8) -> bool {
    *byte == b';'
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn request(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn cookie_is_found_in_any_line() {
        let headers = request(&["a=1; xroute=no;route=yes", "b=2; empty=; c=x y ;d=e=f"]);
        assert_eq!(find_cookie(&headers, "route"), Some(&b"yes"[..]));
        assert_eq!(find_cookie(&headers, "b"), Some(&b"2"[..]));
        assert_eq!(find_cookie(&headers, "empty"), Some(&b""[..]));
        assert_eq!((find_cookie(&headers, "c"), find_cookie(&headers, "d")), (Some(&b"x y"[..]), Some(&b"e=f"[..])));
        assert_eq!(find_cookie(&headers, "rout"), None);
        assert_eq!(find_cookie(&request(&["a; b=2"]), "a"), None);
    }

    #[test]
    fn exact_name_wins_over_other_case() {
        let headers = request(&["SID=other; sid=exact", "Session=x"]);
        assert_eq!(
            (find_cookie(&headers, "sid"), find_cookie(&headers, "SID")),
            (Some(&b"exact"[..]), Some(&b"other"[..]))
        );
        assert_eq!(find_cookie(&headers, "Sid"), Some(&b"other"[..]));
        assert_eq!(find_cookie(&headers, "session"), Some(&b"x"[..]));
    }

    /// The values are those of nginx 1.22.
    #[test]
    fn cookie_variable_is_that_of_nginx() {
        for (line, value) in [
            ("SID=other; sid=exact", Some("other")),
            ("a=1,sid=2", Some("2")),
            ("sid=1,a=2", Some("1,a=2")),
            ("sid = x y ;a=b", Some("x y ")),
            ("sidx=1; xsid=2", None),
            ("a; sid=", Some("")),
            ("sid; a=1", None),
            ("a=sid=1", None),
        ] {
            let headers = request(&[line]);
            assert_eq!(find_cookie_variable(&headers, "sid"), value.map(str::as_bytes), "{line}");
        }
        assert_eq!(find_cookie_variable(&request(&["a=1", "sid=2"]), "sid"), Some(&b"2"[..]));
    }

    #[test]
    fn attributes_of_set_cookie_are_no_cookies() {
        let lines = ["sid=abc; Path=/; x=1", "other=2"];
        let headers: HeaderMap = lines.iter().map(|line| (SET_COOKIE, HeaderValue::from_static(line))).collect();
        assert_eq!((find_set_cookie(&headers, "sid"), find_set_cookie(&headers, "x")), (Some(&b"abc"[..]), None));
        assert_eq!(find_set_cookie(&headers, "other"), Some(&b"2"[..]));
    }
}
