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

    #[test]
    fn attributes_of_set_cookie_are_no_cookies() {
        let lines = ["sid=abc; Path=/; x=1", "other=2"];
        let headers: HeaderMap = lines.iter().map(|line| (SET_COOKIE, HeaderValue::from_static(line))).collect();
        assert_eq!((find_set_cookie(&headers, "sid"), find_set_cookie(&headers, "x")), (Some(&b"abc"[..]), None));
        assert_eq!(find_set_cookie(&headers, "other"), Some(&b"2"[..]));
    }
}
