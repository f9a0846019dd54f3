//! Query arguments and basic authorization, parsed as by nginx.

/// Returns the first value of a query argument, not decoded. Names are compared in any case.
pub(super) fn query_argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Returns the user in the value of an `Authorization: Basic` header; `None` for other schemes and an empty user.
pub(super) fn basic_auth_user(line: &[u8]) -> Option<Vec<u8>> {
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
    let (mut bits, mut bit_count) = (0u32, 0);
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
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            out.push((bits >> bit_count & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_by_name_in_any_case() {
        assert_eq!(query_argument("a=1&Ab=2&ab=3", "ab"), Some("2"));
        assert_eq!((query_argument("a=", "a"), query_argument("a&b=1", "a")), (Some(""), None));
    }

    #[test]
    fn basic_authorization_gives_its_user() {
        assert_eq!(basic_auth_user(b"Basic YWxpY2U6c2VjcmV0").as_deref(), Some(&b"alice"[..]));
        assert_eq!(basic_auth_user(b"bASIC  YTpi").as_deref(), Some(&b"a"[..]));
        for invalid in ["Bearer sk-1", "Basic", "Basic ", "Basic ?", "Basic YWxpY2U=", "Basic OnNlY3JldA=="] {
            assert_eq!(basic_auth_user(invalid.as_bytes()), None, "{invalid}");
        }
    }
}
