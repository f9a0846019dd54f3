//! Paths.

use std::borrow::Cow;

/// Returns `path` as nginx's `$uri` has it: escapes decoded, slashes merged, `.` and `..` resolved.
pub fn normalize_path(path: &str) -> Cow<'_, [u8]> {
    let needs_change = |two: &[u8]| two == b"//" || two == b"/.";
    if !path.contains('%') && !path.as_bytes().windows(2).any(needs_change) {
        return Cow::Borrowed(path.as_bytes());
    }
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let decoded = percent_decode(path.as_bytes());
    let mut ends_in_slash = false;
    for segment in decoded.split(|byte| *byte == b'/') {
        ends_in_slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment.to_vec()),
        }
    }
    let mut normal: Vec<u8> = segments.into_iter().flat_map(|segment| [b"/".to_vec(), segment].concat()).collect();
    if ends_in_slash || normal.is_empty() {
        normal.push(b'/');
    }
    Cow::Owned(normal)
}

/// Returns whether nginx resolves `path`; it answers 400 to all others.
///
/// Refused: a `%` without two hexadecimal digits, `%00`, and `..` above the root. A router and a replica that resolve
/// such a path in different ways would disagree on what it is.
pub fn is_resolvable_path(path: &str) -> bool {
    if !path.contains('%') && !path.contains("..") {
        return true;
    }
    let mut escapes = path.split('%').skip(1).map(|rest| rest.as_bytes().get(..2));
    let is_escape =
        |digits: Option<&[u8]>| digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit) && two != b"00");
    if !escapes.all(is_escape) {
        return false;
    }
    let mut depth = 0_usize;
    for segment in percent_decode(path.as_bytes()).split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

/// Returns a path or a form's value with its escapes decoded. A `%` without two hexadecimal digits stays as it is.
pub fn percent_decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(path.len());
    let mut index = 0;
    while let Some(byte) = path.get(index) {
        match (byte, digit(path.get(index + 1)), digit(path.get(index + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                index += 3;
            }
            _ => {
                decoded.push(*byte);
                index += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_that_nginx_refuses_is_not_resolvable() {
        for path in [
            "/%",
            "/a%2",
            "/%zz",
            "/%00",
            "/a%00b",
            "/..",
            "/../",
            "/a/../../b",
            "/%2e%2e/x",
            "//../x",
            "/./..",
            "/a%é",
        ] {
            assert!(!is_resolvable_path(path), "{path}");
        }
        for path in
            ["", "*", "/", "/a/..", "/a/../b", "/a..", "/..a/b", "/%2F%25zz", "/a/b/../..", "/.../x", "//a/../x"]
        {
            assert!(is_resolvable_path(path), "{path}");
        }
    }

    #[test]
    fn path_is_normalized_as_nginx_does() {
        for (path, normal) in [
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
            assert_eq!(String::from_utf8_lossy(&normalize_path(path)), normal, "{path}");
        }
    }
}
